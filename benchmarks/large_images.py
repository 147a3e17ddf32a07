"""Time of samples of 64 x 64 and of 128 x 128 pixels.

    python benchmarks/large_images.py --tiny-imagenet path/to/tiny-imagenet-64x64.zip \
        --faces path/to/faces-64x64.zip

draws samples with ``PSPCDenoiser()`` in Euler steps and writes ``large-images.csv``. Training
images of 128 x 128 pixels are images of 64 x 64 pixels with doubled rows and columns. The row with
1,300 training images stands for a class of ImageNet, which has up to 1,300 images. Times exclude
reading and fitting, and loading compiled code.
"""

import argparse
import time
from pathlib import Path

import _results
import torch

from skpspc import PSPCDenoiser
from skpspc.datasets import load_edm_zip

TINY_IMAGENET, FACES = "Tiny ImageNet", "faces"
# Images, number of training images (None is all), repetitions of rows and columns, and samples.
CASES = (
    (TINY_IMAGENET, None, 1, 16),
    (TINY_IMAGENET, 1300, 1, 16),
    (TINY_IMAGENET, 5000, 2, 4),
    (FACES, 5000, 2, 4),
)


def enlarged(images, factor):
    """Return images whose rows and columns are repeated."""
    return images.repeat(factor, axis=2).repeat(factor, axis=3)


def seconds(images, n_samples, n_steps):
    """Return the time of drawing samples, after a short run that loads compiled code."""
    options = {"sampler": "euler", "random_state": 0}
    PSPCDenoiser().fit(images[:100]).sample(1, n_steps=2, **options)
    model = PSPCDenoiser().fit(images)
    start = time.perf_counter()
    model.sample(n_samples, n_steps=n_steps, **options)
    return time.perf_counter() - start


def measure(archives, n_train, n_steps):
    """Yield the time of samples of every case, with at most n_train training images."""
    for name, most, factor, n_samples in CASES:
        images = enlarged(archives[name][:most][:n_train], factor)
        taken = seconds(images, n_samples, n_steps)
        n, channels, height, width = images.shape
        yield {
            "images": name,
            "channels": channels,
            "height": height,
            "width": width,
            "n_train": n,
            "n_samples": n_samples,
            "n_steps": n_steps,
            "seconds": taken,
            "s_per_sample": taken / n_samples,
            "ms_per_image_and_step": 1e3 * taken / (n_samples * n_steps),
        }


def main(arguments=None, archives=None):
    """Parse the command line, measure, print and write; arrays may stand in for archives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = Path("../shared/data")
    parser.add_argument("--tiny-imagenet", type=Path, default=data / "tiny-imagenet-64x64.zip")
    parser.add_argument("--faces", type=Path, default=data / "faces-64x64.zip")
    parser.add_argument("--n-train", type=int, help="at most so many training images")
    parser.add_argument("--n-steps", type=int, default=18)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if archives is None:
        paths = {TINY_IMAGENET: options.tiny_imagenet, FACES: options.faces}
        archives = {name: load_edm_zip(path).images for name, path in paths.items()}
    rows = measure(archives, options.n_train, options.n_steps)
    _results.write(options.out, "large-images", _results.printed("large images", rows))


if __name__ == "__main__":
    main()
