"""Denoisers of the latents of an autoencoder, beside denoisers of pixels.

    python benchmarks/latents.py --train path/to/cifar10.zip --test path/to/cifar10-test.zip

trains a small autoencoder (six minutes of one core), writes the latents of the training images
to ``latents.npz`` in the folder ``--work``, and fits denoisers to them. Latents have 8 channels of
8 x 8 positions, 512 values for the 3,072 of an image, and mean 0 and standard deviation 1 in
each channel.

``latents.csv`` has mean squared errors on held-out latents, and of the decoded images from the
clean ones, on [-1, 1]. In the rows "pixels", pixels are denoised instead; their noise level is the
standard deviation of a pixel times that of the latents. ``latents-samples.csv`` compares decoded
samples with images: the Fréchet distance of features, means of the latents over blocks of 4 x 4
positions, from the held-out images; the distance from the nearest training image; and the fraction
of memorised samples. Training images of latents are decoded latents there. ``latents-mirror.csv``
has errors with mirror images of latents, and with latents of mirror images, and their mean squared
difference. The folder ``--work`` also gets a picture of samples.
"""

import argparse
import time
from pathlib import Path

import _results
import numpy as np
import torch
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
    """Convolutions that halve 32 x 32 images twice, and their mirror image."""

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
    """Return an autoencoder of least squared error."""
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
        "PSPC, chosen sizes": PSPCDenoiser(sizes),
        "AutoDenoiser": AutoDenoiser(),
    }
    return {name: model.fit(X) for name, model in members.items()}


def errors(models, space, clean, images, decode, sigmas, scale=1.0):
    """Yield errors of denoised latents or pixels, ``clean``, and of their images."""
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


def samples(models, pixel_models, codec, X, images, test_images, scale, n):
    """Return samples as images, by name, and their rows."""

    def feature(x):
        latents = torch.from_numpy(codec.encode(x.clamp(-1, 1)))
        return nn.functional.adaptive_avg_pool2d(latents, 2).flatten(1)

    drawn, rows = {}, []
    for space, members, decode, nearest, unit in (
        ("latents", models, codec.decode, codec.decode(X), 1.0),
        ("pixels", pixel_models, lambda x: x.clip(-1, 1), images, scale),
    ):
        for name, model in members.items():
            started = time.perf_counter()
            x = model.sample(n, random_state=0, sigma_min=0.004 * unit, sigma_max=160 * unit)
            seconds = time.perf_counter() - started
            x = drawn[f"{name}, {space}"] = decode(np.asarray(x, np.float32))
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


def mirrored(codec, images, X, held_out, sigmas):
    """Yield errors with mirror images of latents, and with latents of mirror images."""
    flipped = codec.encode(scaled(images[..., ::-1].copy()))
    off = np.square(X[..., ::-1] - flipped).mean()
    sizes, _ = calibrate_patch_size(PSPCDenoiser(), X, sigmas, held_out=held_out)
    noise = draw_noise(held_out.shape[1:], len(held_out), random_state=0).numpy()
    fitted = {
        "none": PSPCDenoiser(sizes).fit(X),
        "of latents": PSPCDenoiser(sizes, flip=True).fit(X),
        "of images": PSPCDenoiser(sizes).fit(np.concatenate([X, flipped])),
    }
    for name, model in fitted.items():
        for sigma in sigmas:
            z = (held_out + sigma * noise).astype(np.float32)
            error = float(np.square(model.denoise(z, sigma) - held_out).mean())
            yield {"mirrors": name, "sigma": sigma, "error": error, "difference": float(off)}


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", required=True, help="CIFAR-10 as a zip in the layout of EDM")
    parser.add_argument("--test", required=True, help="test images in the same layout")
    parser.add_argument("--work", type=Path, required=True, help="folder for latents and pictures")
    parser.add_argument("--n-steps", type=int, default=3000, help="of training, 64 images each")
    parser.add_argument("--n-train", type=int, default=20_000, help="images of the denoisers")
    parser.add_argument("--n", type=int, default=256, help="held-out images, and samples")
    parser.add_argument("--threads", type=int, default=1)
    _results.add_argument(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    archive, test = (load_edm_zip(path).images for path in (options.train, options.test))
    archive = archive[np.random.default_rng(0).permutation(len(archive))]
    test = test[np.random.default_rng(0).permutation(len(test))]
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
    models = denoisers(X, held_out, SIGMAS)
    latents = codec.encode(scaled(reported))
    rows = _results.printed(
        "Latents", errors(models, "latents", latents, reported, codec.decode, SIGMAS)
    )
    scale = float(scaled(images).std())
    pixel_sigmas = [scale * sigma for sigma in SIGMAS]
    pixel_models = denoisers(images, chosen, pixel_sigmas)
    pixels = scaled(reported).numpy()
    rows += _results.printed(
        "Pixels",
        errors(pixel_models, "pixels", pixels, reported, lambda x: np.asarray(x), SIGMAS, scale),
    )
    write(options.out, "latents", rows, **facts)
    rows = _results.printed("Mirror images", mirrored(codec, images, X, held_out, SIGMAS))
    write(options.out, "latents-mirror", rows, **facts)
    drawn, rows = samples(models, pixel_models, codec, X, images, test, scale, options.n)
    write(options.out, "latents-samples", _results.printed("Samples", rows), **facts)
    shown = np.concatenate([decoded[:8], *(x[:8] for x in drawn.values())])
    show_images(shown, n_columns=8).figure_.savefig(options.work / "latents.png", dpi=150)


if __name__ == "__main__":
    main()
