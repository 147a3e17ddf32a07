"""Time per pair of images of every denoiser that compares with training images, against PSPC.

    python benchmarks/denoisers.py --data path/to/cifar10-32x32.zip --test path/to/a-test.zip

writes ``denoisers.csv``. Its columns are the time per pair of a noisy held-out image and a training
image, and that time divided by the time of ``PSPCDenoiser(patch_size)`` at the same sigma. All
denoisers of one sigma and patch size take turns on the same noisy images, and the shortest time
counts. A first call, which is not timed, loads compiled code and prepares windows and covariances.

Equivariant local scores compare all positions; ``index.py --only equivariant`` times them.
"""

import argparse
import math
import time
from functools import partial
from pathlib import Path

import _results
import numpy as np
import torch
from index import noisy

from skpspc import (
    AutoDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    LocalScoreDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    tapered_windows,
)
from skpspc.datasets import load_edm_zip

N_TRAIN = 5000
N_NOISY = 8
FRACTION = 0.4  # of the heat within a flexible window
SPREAD = 4.0  # of the Gaussian heat maps, in pixels: the windows hold about 50 pixels
PSPC = "PSPC-Square"
# By name: a denoiser of the patch size, sigma and image shape.
DENOISERS = {
    PSPC: lambda size, *_: PSPCDenoiser(size),
    "Empirical": lambda *_: EmpiricalDenoiser(),
    "Local score (LS)": lambda size, *_: LocalScoreDenoiser(size),
    "PSPC-Square, global bandwidth": lambda size, *_: PSPCDenoiser(
        size, bandwidth=0.5, smoothing="global"
    ),
    "PSPC-Square, stationary bandwidth": lambda size, *_: PSPCDenoiser(
        size, bandwidth=0.5, smoothing="stationary"
    ),
    "PSPC-Square, bandwidth by window": lambda size, *_: PSPCDenoiser(size, bandwidth=0.5),
    "PSPC-Flex from data": lambda size, sigma, shape: PSPCDenoiser(
        windows=FlexibleWindows("data", FRACTION, [sigma])
    ),
    "PSPC-Flex, Gaussian heat maps": lambda size, sigma, shape: PSPCDenoiser(
        windows=FlexibleWindows(gaussian_heat_maps(shape), FRACTION, [sigma])
    ),
    "Collection, tapered squares": lambda size, sigma, shape: PosteriorMeanCollection(
        tapered_windows(shape, size)
    ),
    "PCA locality": lambda *_: PCALocalityDenoiser(),
    "AutoDenoiser": lambda *_: AutoDenoiser(),
}
FEW = (PSPC, "Empirical", "Local score (LS)")
# Patch size, sigma and names of the denoisers that take turns.
CASES = ((3, 0.1, FEW), (7, 0.5, tuple(DENOISERS)), (7, 1.0, FEW), (15, 3.0, FEW))


def gaussian_heat_maps(shape):
    """Return a Gaussian around every pixel, (1, H, W, H, W)."""
    _, height, width = shape
    row, column = np.divmod(np.arange(height * width), width)
    square = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    return np.exp(-square / (2 * SPREAD**2)).reshape(1, height, width, height, width)


def shortest_times(functions, repeats):
    """Return the shortest time of each function, of so many turns, after a first call of each."""
    for function in functions:
        function()
    times = [math.inf] * len(functions)
    for _ in range(repeats):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            times[i] = min(times[i], time.perf_counter() - start)
    return times


def measure(train, clean, repeats):
    """Yield the time per pair of every denoiser, and its ratio to that of PSPC."""
    n_pairs = len(train) * len(clean)
    for size, sigma, names in CASES:
        models = [DENOISERS[name](size, sigma, train.shape[1:]).fit(train) for name in names]
        calls = [partial(model.denoise, noisy(clean, sigma), sigma) for model in models]
        taken = dict(zip(names, shortest_times(calls, repeats), strict=True))
        for name, seconds in taken.items():
            yield {
                "denoiser": name,
                "patch_size": size,
                "sigma": sigma,
                "n_train": len(train),
                "n_noisy": len(clean),
                "us_per_pair": 1e6 * seconds / n_pairs,
                "over_pspc": seconds / taken[PSPC],
            }


def load(options, n_noisy=N_NOISY):
    """Return training images and clean held-out images."""
    images, clean = (load_edm_zip(path).images for path in (options.data, options.test))
    # archives are sorted by class
    images = images[np.random.default_rng(0).permutation(len(images))[: options.n_train]]
    return images, clean[np.random.default_rng(1).permutation(len(clean))[:n_noisy]]


def main(arguments=None, images=None):
    """Parse the command line, measure, print and write; images stand in for those of archives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/cifar10-32x32.zip")
    parser.add_argument("--test", type=Path, default="../shared/data/cifar10-32x32-test.zip")
    parser.add_argument("--n-train", type=int, default=N_TRAIN)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each denoiser")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    train, clean = load(options) if images is None else images
    rows = _results.printed("denoisers", measure(train, clean, options.repeats))
    _results.write(options.out, "denoisers", rows, repeats=options.repeats)


if __name__ == "__main__":
    main()
