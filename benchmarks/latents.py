"""Denoisers of the latents of an autoencoder, beside denoisers of pixels.

    python benchmarks/latents.py --train path/to/cifar10.zip --test path/to/cifar10-test.zip

trains a small autoencoder and writes the latents of the training images to ``latents.npz`` in the
folder ``--work``, with a picture of samples. Latents have 8 channels of 8 x 8 positions, 512 values
for the 3,072 of an image, and mean 0 and standard deviation 1 in each channel.

``latents.csv`` has mean squared errors of denoised latents, and of their images, which are on
[-1, 1]. In the rows "pixels", pixels are denoised instead. Noise levels are in standard deviations
of a latent or of a pixel, and ``error`` is in their squares. ``latents-samples.csv`` compares
samples with images: the Fréchet distance of features of the UNet of `networks.py` from those of the
test images; the distance from the nearest training image; and the fraction of memorised samples.
Training images of latents are decoded latents there. ``latents-mirror.csv`` has errors with mirror
images of latents, and with latents of mirror images, and their mean squared difference.

Patch sizes are chosen on 64 images of the training archive that are not fitted; errors are of ``n``
test images, without the images on which denoisers were designed (`held_out.py`). The autoencoder is
trained on the whole archive.
"""

import argparse
import math
import time
from pathlib import Path

import _results
import networks
import numpy as np
import torch
from held_out import N_SEEN
from torch import nn

from skpspc import AutoDenoiser, EmpiricalDenoiser, GaussianDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.inspection import (
    calibrate_patch_size,
    fid,
    memorised_fraction,
    nearest_training_distance,
    show_images,
)
from skpspc.sampling import draw_noise

SIGMAS = (0.1, 0.3, 1.0, 3.0)  # in standard deviations of a latent
N_CHANNELS = 8


class Autoencoder(nn.Module):
    """Convolutions that halve 32 x 32 images twice, and a decoder that doubles them twice."""

    def __init__(self, width=48):
        super().__init__()

        def block(n_in, n_out, kernel=3, stride=1):
            return nn.Sequential(
                nn.Conv2d(n_in, n_out, kernel, stride, padding=1), nn.GroupNorm(8, n_out), nn.SiLU()
            )

        def twice(n_in, n_out):
            return nn.Sequential(nn.Upsample(scale_factor=2), block(n_in, n_out))

        self.encode = nn.Sequential(
            block(3, width, 4, 2),
            block(width, 2 * width, 4, 2),
            block(2 * width, 2 * width),
            nn.Conv2d(2 * width, N_CHANNELS, 1),
            # trained with latents of unit variance, so that the noise below has a scale
            nn.BatchNorm2d(N_CHANNELS, affine=False),
        )
        self.decode = nn.Sequential(
            block(N_CHANNELS, 2 * width),
            block(2 * width, 2 * width),
            twice(2 * width, width),
            twice(width, width),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def forward(self, x):
        latents = self.encode(x)
        return self.decode(latents + 0.1 * torch.randn_like(latents))


def train(images, n_steps, batch_size=64, rate=2e-3):
    """Return an autoencoder, trained on the squared error of its images."""
    torch.manual_seed(0)
    model, rng = Autoencoder(), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=n_steps)
    for step in range(n_steps):
        x = scaled(images[rng.integers(len(images), size=batch_size)])
        loss = (model(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % (n_steps // 10) == 0:
            print(f"step {step}, loss {loss:.4f}", flush=True)
    return model.eval().requires_grad_(False)


def scaled(images):
    """Return uint8 images on [-1, 1]."""
    return torch.tensor(images).float() / 127.5 - 1


class Codec:
    """An autoencoder of uint8 images, with latents standardised by channel."""

    def __init__(self, model, images):
        self.model, self.mean, self.scale = model, 0.0, 1.0
        latents = self.encode(scaled(images))
        self.mean = latents.mean((0, 2, 3), keepdims=True)
        self.scale = latents.std((0, 2, 3), keepdims=True)

    def encode(self, x):
        """Return latents, (n, 8, 8, 8) float32, of images on [-1, 1]."""
        parts = [self.model.encode(part) for part in torch.as_tensor(x).split(256)]
        return ((torch.cat(parts).numpy() - self.mean) / self.scale).astype(np.float32)

    def decode(self, latents):
        """Return images on [-1, 1]."""
        raw = torch.as_tensor(latents * self.scale + self.mean, dtype=torch.float32)
        return torch.cat([self.model.decode(part) for part in raw.split(256)]).numpy().clip(-1, 1)


def denoisers(X, held_out, sigmas):
    """Return fitted denoisers by name. Sizes are chosen on the held-out training images."""
    sizes, _ = calibrate_patch_size(PSPCDenoiser(), X, sigmas, held_out=held_out)
    members = {
        "Empirical": EmpiricalDenoiser(),
        "Gaussian": GaussianDenoiser(),
        "PSPC, paper's sizes": PSPCDenoiser(),
        "PSPC, chosen sizes": PSPCDenoiser(sizes),
        "AutoDenoiser": AutoDenoiser(),
    }
    return {name: model.fit(X) for name, model in members.items()}


def errors(models, space, clean, images, decode, sigmas, scale=1.0):
    """Yield mean squared errors of denoised ``clean``, latents or pixels, and of their images."""
    noise = draw_noise(clean.shape[1:], len(clean), random_state=0).numpy().astype(np.float32)
    x0, gaussian = scaled(images).numpy(), {}
    for name, model in {"Gaussian": models["Gaussian"], **models}.items():
        for sigma in sigmas:
            answer = model.denoise(clean + scale * sigma * noise, scale * sigma)
            error = float(np.square((answer - clean) / scale).mean())
            yield {
                "space": space,
                "denoiser": name,
                "sigma": sigma,
                "error": error,
                "ratio": error / gaussian.setdefault(sigma, error),
                "image_error": float(np.square(decode(answer) - x0).mean()),
            }


def features():
    """Return a function from images on [-1, 1] to features (n, 96), of the UNet's lowest scale."""
    unet, trained = networks.load("unet")
    sigma, of_data = 0.1, trained["sigma_data"]

    def feature(x):
        kept = []
        hook = unet.middle.register_forward_hook(lambda *call: kept.append(call[-1].mean((2, 3))))
        level = torch.full((len(x),), math.log(sigma) / 4)
        unet(x.clamp(-1, 1) / math.hypot(sigma, of_data), level)
        hook.remove()
        return kept[0]

    return feature


def samples(spaces, test_images, n):
    """Return samples as images, by name, and their rows.

    ``spaces`` are denoisers, a decoder, decoded training images, and the standard deviation of a
    value, by name. Before the samples of a space come n of its training images.
    """
    feature, drawn, rows = features(), {}, []
    for space, (members, decode, nearest, unit) in spaces.items():
        for name, model in {"Training images": None, **members}.items():
            if model is None:
                x, seconds = nearest[:n], 0.0
            else:
                started = time.perf_counter()
                z = model.sample(n, random_state=0, sigma_min=0.004 * unit, sigma_max=160 * unit)
                x, seconds = decode(np.asarray(z, np.float32)), time.perf_counter() - started
                drawn[f"{name}, {space}"] = x
            rows.append(
                {
                    "space": space,
                    "denoiser": name,
                    "frechet": float(fid(test_images, x, feature)),
                    "distance": float(nearest_training_distance(x, nearest)),
                    "memorised": float(memorised_fraction(x, nearest)),
                    "seconds": seconds,
                }
            )
    return drawn, rows


def mirrored(codec, images, X, held_out, clean, sigmas):
    """Yield errors of ``clean`` with mirror images of latents, and with latents of mirror images.

    Sizes are chosen on ``held_out`` for each of them.
    """
    flipped = codec.encode(scaled(images[..., ::-1].copy()))
    off = np.square(X[..., ::-1] - flipped).mean()
    noise = draw_noise(clean.shape[1:], len(clean), random_state=0).numpy()
    both = np.concatenate([X, flipped])
    for name, flip, fitted in (
        ("none", False, X),
        ("of latents", True, X),
        ("of images", False, both),
    ):
        model = PSPCDenoiser(flip=flip)
        sizes, _ = calibrate_patch_size(model, fitted, sigmas, held_out=held_out)
        model.set_params(patch_size=sizes).fit(fitted)
        for sigma in sigmas:
            z = (clean + sigma * noise).astype(np.float32)
            error = float(np.square(model.denoise(z, sigma) - clean).mean())
            yield {"mirrors": name, "sigma": sigma, "error": error, "difference": float(off)}


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", required=True, help="CIFAR-10 as a zip in the layout of EDM")
    parser.add_argument("--test", required=True, help="test images in the same layout")
    parser.add_argument("--work", type=Path, default=Path("latents"), help="folder of latents.npz")
    parser.add_argument("--n-steps", type=int, default=1000, help="of training, 64 images each")
    parser.add_argument("--n-train", type=int, default=20_000, help="images of the denoisers")
    parser.add_argument("--n", type=int, default=256, help="held-out images, and samples")
    parser.add_argument("--threads", type=int, default=1)
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    archive, test = (load_edm_zip(path).images for path in (options.train, options.test))
    archive = archive[np.random.default_rng(0).permutation(len(archive))]
    test = test[np.random.default_rng(0).permutation(len(test))[N_SEEN:]]
    codec = Codec(train(archive, options.n_steps), archive)

    images, chosen = archive[: options.n_train], archive[options.n_train :][:64]
    X, held_out = codec.encode(scaled(images)), codec.encode(scaled(chosen))
    np.savez(options.work / "latents.npz", latents=X, mean=codec.mean, scale=codec.scale)
    reported, write = test[: options.n], _results.write
    decoded = codec.decode(codec.encode(scaled(reported)))
    facts = {
        "n_train": len(X),
        "n": options.n,
        "decoding_error": float(np.square(decoded - scaled(reported).numpy()).mean()),
    }
    latents, scale = codec.encode(scaled(reported)), float(scaled(images).std())
    spaces = {
        "latents": (denoisers(X, held_out, SIGMAS), codec.decode, codec.decode(X), 1.0),
        "pixels": (
            denoisers(images, chosen, [scale * sigma for sigma in SIGMAS]),
            lambda x: np.asarray(x).clip(-1, 1),
            images,
            scale,
        ),
    }
    rows = []
    for space, clean in (("latents", latents), ("pixels", scaled(reported).numpy())):
        models, decode, _, unit = spaces[space]
        measured = errors(models, space, clean, reported, decode, SIGMAS, unit)
        rows += _results.printed(space, measured)
    write(options.out, "latents", rows, **facts)
    measured = mirrored(codec, images, X, held_out, latents, SIGMAS)
    rows = _results.printed("Mirror images", measured)
    write(options.out, "latents-mirror", rows, **facts)
    drawn, rows = samples(spaces, test, options.n)
    write(options.out, "latents-samples", _results.printed("Samples", rows), **facts)
    shown = np.concatenate([decoded[:8], *(x[:8] for x in drawn.values())])
    show_images(shown, n_columns=8).figure_.savefig(options.work / "latents.png", dpi=150)


if __name__ == "__main__":
    main()
