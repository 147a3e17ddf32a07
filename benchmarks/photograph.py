"""Denoise a photograph by patches of photographs, against BM3D.

    python benchmarks/photograph.py [--size 512] [--pictures]

The photograph is scikit-image's astronaut, with noise of standard deviation 25 on pixels 0 to 255.
Needs scikit-image, and bm3d for the last row. ``photograph.csv`` has peak signal-to-noise ratios of
values clipped to the range, processor time in seconds, and error bounds on [-1, 1].
``--pictures`` also writes the images to ``docs/_static/photograph.jpg``.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import _results
import numpy as np
from PIL import Image

from skpspc import SingleImageDenoiser

STATIC = Path(__file__).resolve().parents[1] / "docs" / "_static"
SIGMA = 2 * 25 / 255
PATCHES = {"patch_size": 7, "stride": 3, "tol": 0.05}


def photographs(size):
    """Return the photograph, and a crop of half its side of another; (C, H, W) uint8."""
    from skimage import data

    astronaut, coffee = (image.transpose(2, 0, 1) for image in (data.astronaut(), data.coffee()))
    half = size // 2
    return astronaut[:, :size, :size], coffee[:, 100 : 100 + half, 170 : 170 + half]


def denoisers(noisy, other):
    """Yield the name of each denoiser and a function that returns its answer and error bound."""

    def by_patches(photo, sigma, **options):
        posterior = SingleImageDenoiser(**PATCHES, **options).fit(photo[None])
        posterior = posterior.posterior(noisy[None], sigma)
        return posterior.mean[0], float(posterior.error_bound[0])

    def by_bm3d():
        from bm3d import bm3d_rgb

        image = bm3d_rgb((noisy.transpose(1, 2, 0) + 1.0) / 2, SIGMA / 2)
        return 2 * image.transpose(2, 0, 1) - 1, 0.0

    yield "noisy", lambda: (noisy, 0.0)
    own = {"sigma": SIGMA * np.sqrt(1 + 1 / 4), "scales": [2]}
    yield "its own patches, at half size", lambda: by_patches(noisy, **own)
    yield "patches of another photograph", lambda: by_patches(other, SIGMA)
    if importlib.util.find_spec("bm3d"):
        yield "BM3D", by_bm3d


def main(arguments=None):
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="side of the photograph")
    parser.add_argument("--pictures", action="store_true")
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    photo, other = photographs(options.size)
    clean = photo / 127.5 - 1
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    noisy = (clean + SIGMA * noise).astype(np.float32)
    images = []

    def measured():
        for name, denoise in denoisers(noisy, other):
            start = time.process_time()
            image, bound = denoise()
            seconds = time.process_time() - start
            images.append(image.clip(-1, 1))
            psnr = 10 * np.log10(4 / np.square(images[-1] - clean).mean())
            yield {
                "denoised by": name,
                "PSNR_dB": float(psnr),
                "processor_s": float(seconds),
                "error_bound": bound,
            }

    rows = _results.printed("photograph", measured())
    _results.write(options.out, "photograph", rows, size=options.size, **PATCHES)
    if options.pictures:
        strip = np.concatenate([*images, clean], axis=2).transpose(1, 2, 0)
        pixels = np.rint(127.5 * strip + 127.5).astype(np.uint8)
        Image.fromarray(pixels).save(STATIC / "photograph.jpg", quality=85)


if __name__ == "__main__":
    main()
