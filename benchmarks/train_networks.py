"""Train one of the networks of `networks.py` on the images of a zip.

    python benchmarks/train_networks.py unet path/to/cifar10.zip --held-out path/to/a-test.zip
    python benchmarks/train_networks.py faces path/to/faces-64x64.zip

Without ``--held-out``, every sixteenth image is held out. Training took 32 to 41 minutes of one
core (see the logs). The script writes the averaged weights in half precision,
``benchmarks/weights/NAME.safetensors``, and the log, ``NAME.csv``: images seen, seconds of CPU, and
mean squared errors on [-1, 1] to 256 clean held-out images at LEVELS.

Denoising score matching with the preconditioning and the weighting of Karras et al., 2022: the
loss is the squared error of F. No image is mirrored or shifted, so that the best possible
answer is the posterior mean over the training images themselves.
"""

import argparse
import copy
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch
from networks import ARCHITECTURES, LARGE, WEIGHTS
from safetensors.torch import save_file

from skpspc import NetworkDenoiser
from skpspc.datasets import load_edm_zip

LEVELS = (0.1, 0.3, 0.6, 1.1, 1.9, 3.3, 10.0)
SIGMA_DATA = 0.5
# The logarithm of sigma is normal; wider and noisier than in the paper, as sigma = 10 counts here.
LOG_MEAN, LOG_SPREAD = -0.3, 1.6
# Batches, and the largest learning rate: with twice as much the transformer learns faster.
RUNS = {"unet": (3400, 1.5e-3), "transformer": (3600, 3e-3), "mixer": (2800, 1.5e-3)}
RUNS |= dict.fromkeys(LARGE, (3400, 1.5e-3))
N_LOGGED = 256  # held-out images for the errors in the log


def divided(images):
    """Return training images, and every sixteenth image, held out.

    Images of a zip are often sorted by class, so that a slice would hold out whole classes.
    """
    is_held_out = np.arange(len(images)) % 16 == 0
    return images[~is_held_out], images[is_held_out]


def loss_of(network, x0, generator):
    """Return the mean squared error of F for images (n, C, H, W), at a random noise level each."""
    drawn = {"generator": generator, "device": x0.device}
    sigma = (LOG_MEAN + LOG_SPREAD * torch.randn(len(x0), **drawn)).exp()
    total = (sigma.square() + SIGMA_DATA**2).sqrt()
    skip, out = (SIGMA_DATA / total).square(), sigma * SIGMA_DATA / total
    skip, out, total, level = (v[:, None, None, None] for v in (skip, out, total, sigma))
    z = x0 + level * torch.randn(x0.shape, **drawn)
    answer = network(z / total, sigma.log() / 4)
    return (answer - (x0 - skip * z) / out).square().mean()


def errors_of(network, images):
    """Return the mean squared error to clean uint8 images at each of LEVELS, with fixed noise."""
    denoiser = NetworkDenoiser(network, "edm", sigma_data=SIGMA_DATA, batch_size=64)
    x0 = images / np.float32(127.5) - 1
    noise = np.random.RandomState(0).standard_normal(x0.shape).astype(np.float32)
    denoiser.fit(x0)
    return [
        float(np.square(denoiser.denoise(x0 + level * noise, level) - x0).mean())
        for level in LEVELS
    ]


def train(name, images, held_out, folder, *, n_steps, rate, batch_size=64, seed=0, device="cpu"):
    """Train, keeping a log, and write the averaged weights."""
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    network = {**ARCHITECTURES, **LARGE}[name]().to(device)
    images = torch.from_numpy(images).to(device)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), rate, (0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=n_steps, pct_start=0.05
    )
    started, running, rows = time.process_time(), 0.0, []
    for step in range(1, n_steps + 1):
        picks = torch.randint(len(images), (batch_size,), generator=generator, device=device)
        x0 = images[picks].float() / 127.5 - 1
        loss = loss_of(network, x0, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running += loss.detach()
        blend(average, network, min(0.999, step / (step + 10)))
        if step % (n_steps // 20) == 0 or step == n_steps:
            seen, seconds = step * batch_size, time.process_time() - started
            last = float(running) / (n_steps // 20)
            rows.append([seen, round(seconds), round(last, 5)])
            rows[-1] += [round(error, 5) for error in errors_of(average, held_out)]
            print(rows[-1], flush=True)
            running = 0.0
            write(folder, name, average, rows)


def blend(average, network, decay):
    """Move the averaged parameters towards the network's."""
    with torch.no_grad():
        for kept, new in zip(average.parameters(), network.parameters(), strict=True):
            kept.lerp_(new, 1 - decay)


def write(folder, name, network, rows):
    """Write the weights, with a record of their training, and the log."""
    folder.mkdir(exist_ok=True)
    trained = {"images_seen": rows[-1][0], "cpu_seconds": rows[-1][1], "sigma_data": SIGMA_DATA}
    weights = {key: value.half().cpu().contiguous() for key, value in network.state_dict().items()}
    save_file(weights, folder / f"{name}.safetensors", {"training": json.dumps(trained)})
    with open(folder / f"{name}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["images_seen", "cpu_seconds", "loss", *(f"mse_{s}" for s in LEVELS)])
        writer.writerows(rows)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=sorted(RUNS))
    parser.add_argument("images", type=Path, help="zip in EDM layout")
    parser.add_argument("--held-out", type=Path, help="another, for the log")
    parser.add_argument("--steps", type=int, help="batches of 64 images")
    parser.add_argument("--device", default="cpu", help="elsewhere, seconds are those of the host")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    n_steps, rate = RUNS[given.network]
    images = load_edm_zip(given.images).images
    if given.held_out:
        held_out = load_edm_zip(given.held_out).images
    else:
        images, held_out = divided(images)
        held_out = held_out[:: max(1, len(held_out) // N_LOGGED)]
    train(
        given.network,
        images,
        held_out[:N_LOGGED],
        given.out,
        n_steps=given.steps or n_steps,
        rate=rate,
        device=given.device,
    )


if __name__ == "__main__":
    main()
