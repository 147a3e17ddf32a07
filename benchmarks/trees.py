"""PSPC by k-d trees of patches, against all patches, and against the nearest whole images.

    python benchmarks/trees.py --data path/to/cifar10-32x32.zip --test path/to/a-test.zip

Each part writes a file. ``trees.csv``: time and error of ``PSPCDenoiser(3, algorithm="kd_tree")``
at every sigma, N = 50,000. ``trees-growth.csv``: its time against N, for the training images, their
mirror images, and both shifted by a pixel to the right. ``trees-bounds.csv``: error bounds of 1,000
calls with random noise levels and tolerances, N = 12,500. ``nearest-images.csv``: another
approximation with the patch sizes of the paper. The rule of GoldDiff keeps, for each noisy image,
the N / 10 or N / 20 training images that are nearest in a 16 x 16 version. PSPC then compares the
kept images alone, by plain torch and by skpspc. The same number of random images is kept once for
all noisy images.

The denoisers of a row take turns on the same noisy held-out images, and the shortest time counts.
Times include the search and exclude ``fit`` and the trees, whose time has a column of its own.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import _results
import numpy as np
import torch
from denoisers import load, shortest_times
from index import noisy
from torch.nn import functional as F

from skpspc import PSPCDenoiser
from skpspc.sampling import paper_schedule

TOL = 2e-3
SIGMAS = (0.03, 0.06, 0.1, 0.14, 0.2, 0.3, 0.45)
GROWTH_SIGMAS = (0.06, 0.14, 0.3)
RULE_SIGMAS = (0.03, 0.06, 0.14, 0.3, 0.6, 1.1, 3.3, 10.0)
N_CALLS, N_BOUNDS = 1000, 12_500
PARTS = ("trees", "growth", "bounds", "nearest-images")


def timed(exact, fast, z, sigma, repeats):
    """Return times of an image in ms, and errors of a fast denoiser, as columns."""
    calls = [partial(model.posterior, z, sigma) for model in (exact, fast)]
    slow, quick = (1e3 * seconds / len(z) for seconds in shortest_times(calls, repeats))
    truth, found = (call() for call in calls)
    error = found.mean - truth.mean
    return {
        "sigma": sigma,
        "n_noisy": len(z),
        "exact_ms": slow,
        "tree_ms": quick,
        "speed_up": slow / quick,
        "rms_error": float(error.square().mean().sqrt()),
        "largest_error": float(error.abs().max()),
        "error_bound": float(found.error_bound.max()),
    }


def trees(train, clean, repeats):
    """Yield time and error at every noise level, for few and many noisy images."""
    exact = PSPCDenoiser(3).fit(train)
    fast = PSPCDenoiser(3, algorithm="kd_tree", tol=TOL).fit(train)
    for n_noisy in (8, len(clean)):
        for sigma in SIGMAS:
            z = noisy(clean[:n_noisy], sigma)
            yield {"n_train": len(train), **timed(exact, fast, z, sigma, repeats)}


def with_copies(train):
    """Return images, then their mirror images, then both moved by a pixel to the right."""
    both = np.concatenate([train, train[..., ::-1]])
    moved = np.roll(both, 1, axis=3)
    moved[..., 0] = moved[..., 1]
    return np.concatenate([both, moved])


def growth(train, clean, repeats):
    """Yield time against N, and the time to build the trees."""
    images = with_copies(train)
    for part in (16, 8, 4, 2, 1):
        subset = images[: len(images) // part]
        exact = PSPCDenoiser(3).fit(subset)
        fast = PSPCDenoiser(3, algorithm="kd_tree", tol=TOL).fit(subset)
        start = time.perf_counter()
        fast.denoise(noisy(clean[:1], 0.1), 0.1)
        build = time.perf_counter() - start
        for sigma in GROWTH_SIGMAS:
            row = timed(exact, fast, noisy(clean[:8], sigma), sigma, repeats)
            yield {"n_train": len(subset), "build_s": build, **row}


def bounds(train, clean, _repeats):
    """Yield how many calls have errors above the bound, and the largest excess."""
    rng = np.random.default_rng(0)
    train = train[:N_BOUNDS]
    exact = PSPCDenoiser(3).fit(train)
    fast = PSPCDenoiser(3, algorithm="kd_tree", tol=TOL).fit(train)
    limits, errors = [], []
    for call in range(N_CALLS):
        sigma = float(np.exp(rng.uniform(*np.log((SIGMAS[0], SIGMAS[-1])))))
        if call % 50 == 0:
            tol = float(10 ** rng.uniform(-4, 0))
            fast.set_params(tol=tol).fit(train)
        z = noisy(clean[call % len(clean)][None], sigma, seed=call)
        found = fast.posterior(z, sigma)
        limits.append(float(found.error_bound.max()))
        errors.append(float((found.mean - exact.denoise(z, sigma)).abs().max()))
    above = np.array(errors) - np.array(limits)
    yield {
        "n_train": len(train),
        "n_calls": N_CALLS,
        "n_above_bound": int((above > 1e-5).sum()),
        "largest_excess": float(above.max()),
        "median_error_over_bound": float(np.median(np.divide(errors, limits))),
    }


def coarse(images):
    """Return 16 x 16 versions of images, flat."""
    return F.adaptive_avg_pool2d(images, 16).flatten(1)


def plain_composite(z, sigma, size, x):
    """Return the PSPC of one noisy image (C, H, W) from training images x (k, C, H, W)."""
    square = (z - x).square().sum(1, keepdim=True)
    distance = size**2 * F.avg_pool2d(square, size, 1)  # (k, 1, h', w')
    weight = torch.softmax(-distance / (2 * sigma**2), 0)
    ones = torch.ones(1, 1, size, size)
    cover = F.conv_transpose2d(weight, ones)
    count = F.conv_transpose2d(torch.ones_like(weight[:1]), ones)[0]
    return (cover * x).sum(0) / count


class NearestImages:
    """PSPC from the training images that are nearest in a 16 x 16 version, by plain torch."""

    def __init__(self, train, fraction):
        self.train, self.k = torch.from_numpy(train), max(1, round(len(train) * fraction))
        chunks = self.train.split(1000)
        self.coarse = torch.cat([coarse(chunk / 127.5 - 1) for chunk in chunks])
        self.squares = self.coarse.square().sum(1)

    def denoise(self, z, sigma, size):
        """Return the denoised images (n, C, H, W)."""
        distance = self.squares - 2 * coarse(z) @ self.coarse.T
        near = distance.topk(self.k, largest=False).indices
        return torch.stack(
            [
                self.composite(image, sigma, size, self.train[rows])
                for image, rows in zip(z, near, strict=True)
            ]
        )

    def composite(self, z, sigma, size, x):
        """Return the PSPC of one noisy image from its nearest images."""
        return plain_composite(z, sigma, size, x / 127.5 - 1)


class NearestImagesCompiled(NearestImages):
    """PSPC from the images that are nearest in a 16 x 16 version, by the compiled kernel."""

    def composite(self, z, sigma, size, x):
        """Return the PSPC of one noisy image from its nearest images."""
        return PSPCDenoiser(size).fit(x).denoise(z[None], sigma)[0]


def nearest_images(train, clean, repeats):
    """Yield time and error of PSPC from the nearest whole images, and of ours."""
    exact = PSPCDenoiser().fit(train)
    schedule = paper_schedule(train.shape[1:])
    ours = {
        f"random, N / {part}": PSPCDenoiser().fit(train[: len(train) // part]) for part in (10, 20)
    }
    ours |= {f"PSPCDenoiser(tol={TOL})": PSPCDenoiser(tol=TOL).fit(train), "PSPCDenoiser()": exact}
    rules = {
        f"{name}, N / {part}": kind(train, 1 / part)
        for name, kind in (("plain", NearestImages), ("compiled", NearestImagesCompiled))
        for part in (10, 20)
    }
    for sigma in RULE_SIGMAS:
        z, size = noisy(clean[:8], sigma), schedule(sigma)
        calls = {name: partial(rule.denoise, z, sigma, size) for name, rule in rules.items()}
        calls |= {name: partial(model.denoise, z, sigma) for name, model in ours.items()}
        times = shortest_times(list(calls.values()), repeats)
        truth = exact.denoise(z, sigma)
        for (name, call), seconds in zip(calls.items(), times, strict=True):
            yield {
                "n_train": len(train),
                "sigma": sigma,
                "patch_size": size,
                "denoiser": name,
                "ms_per_image": 1e3 * seconds / len(z),
                "rms_error": float((call() - truth).square().mean().sqrt()),
            }


def main(arguments=None, images=None):
    """Parse the command line, measure, print and write; images stand in for those of archives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/cifar10-32x32.zip")
    parser.add_argument("--test", type=Path, default="../shared/data/cifar10-32x32-test.zip")
    parser.add_argument("--n-train", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each denoiser")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    train, clean = load(options, 64) if images is None else images
    functions = dict(zip(PARTS, (trees, growth, bounds, nearest_images), strict=True))
    for part in options.only:
        name = f"trees-{part}" if part in ("growth", "bounds") else part
        rows = _results.printed(name, functions[part](train, clean, options.repeats))
        _results.write(options.out, name, rows, repeats=options.repeats)


if __name__ == "__main__":
    main()
