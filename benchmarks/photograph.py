"""Denoise a photograph by patches of photographs, against BM3D.

    python benchmarks/photograph.py --pictures
    python benchmarks/photograph.py --photo retina --size 1024 --stride 5

The photograph is one of scikit-image's, with noise of standard deviation 25 on pixels 0 to 255.
Needs scikit-image, and bm3d for the last row. ``photograph-PHOTO.csv`` has peak signal-to-noise
ratios of values clipped to the range, seconds and processor seconds, and error bounds on [-1, 1].
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
PATCHES = {"patch_size": 7, "tol": 0.05}


def photographs(name, size):
    """Return a photograph, and a crop of up to 256 x 256 pixels of another; (C, H, W) uint8."""
    from skimage import data

    photo, coffee = (image.transpose(2, 0, 1) for image in (getattr(data, name)(), data.coffee()))
    half = min(size // 2, 256)
    return photo[:, :size, :size], coffee[:, 100 : 100 + half, 170 : 170 + half]


def denoisers(noisy, other, stride):
    """Yield the name of each denoiser and a function that returns its answer and error bound."""

    def by_patches(photo, sigma, **options):
        model = SingleImageDenoiser(**PATCHES, stride=stride, **options).fit(photo[None])
        posterior = model.posterior(noisy[None], sigma)
        return posterior.mean[0], float(posterior.error_bound[0])

    def by_bm3d():
        from bm3d import bm3d_rgb

        image = bm3d_rgb((noisy.transpose(1, 2, 0) + 1.0) / 2, SIGMA / 2)
        return 2 * image.transpose(2, 0, 1) - 1, 0.0

    yield "not denoised", lambda: (noisy, 0.0)
    own = {"sigma": SIGMA * np.sqrt(1 + 1 / 4), "scales": [2]}
    yield "its own patches, at half size", lambda: by_patches(noisy, **own)
    yield "patches of another photograph", lambda: by_patches(other, SIGMA)
    if importlib.util.find_spec("bm3d"):
        yield "BM3D", by_bm3d


def main(arguments=None):
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photo", default="astronaut", choices=["astronaut", "retina"])
    parser.add_argument("--size", type=int, default=512, help="side of the photograph")
    parser.add_argument("--stride", type=int, default=3, help="distance of the windows")
    parser.add_argument("--pictures", action="store_true")
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    photo, other = photographs(options.photo, options.size)
    clean = photo / 127.5 - 1
    noise = np.random.default_rng(0).standard_normal(clean.shape)
    noisy = (clean + SIGMA * noise).astype(np.float32)
    images = []

    def measured():
        for name, denoise in denoisers(noisy, other, options.stride):
            start = time.perf_counter(), time.process_time()
            image, bound = denoise()
            end = time.perf_counter(), time.process_time()
            images.append(image.clip(-1, 1))
            psnr = 10 * np.log10(4 / np.square(images[-1] - clean).mean())
            yield {
                "denoised by": name,
                "PSNR_dB": float(psnr),
                "seconds": end[0] - start[0],
                "processor_s": end[1] - start[1],
                "error_bound": bound,
            }

    name = f"photograph-{options.photo}"
    rows = _results.printed(name, measured())
    settings = {"size": options.size, "stride": options.stride, **PATCHES}
    _results.write(options.out, name, rows, **settings)
    if options.pictures:
        strip = np.concatenate([*images, clean], axis=2).transpose(1, 2, 0)
        pixels = np.rint(127.5 * strip + 127.5).astype(np.uint8)
        Image.fromarray(pixels).save(STATIC / "photograph.jpg", quality=85)


if __name__ == "__main__":
    main()
