"""Approximate answers from a few training images: time, error and bound, against exact answers.

    python benchmarks/index.py --data path/to/cifar10-32x32.zip --test path/to/a-test.zip

Exact and approximate answers take turns on batches of noisy held-out images, and the median of a
batch counts. Times include the search and exclude building the index. Errors are largest absolute
differences of a pixel to the exact answer.

Each part writes a file: ``index-tolerance.csv`` (``tol`` at every sigma), ``index-neighbours.csv``
(``n_neighbors``), ``index-growth.csv`` (time against N), ``index-equivariant.csv`` (ELS).
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import _results
import numpy as np
import torch

from skpspc import EmpiricalDenoiser, LocalScoreDenoiser
from skpspc.datasets import load_edm_zip

TOL = 1e-3
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0)
N_QUERIES = 1000
BATCH = 64


def noisy(clean, sigma, seed=0):
    """Return noisy images of uint8 ones."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return torch.from_numpy(clean) / 127.5 - 1 + sigma * noise


def in_turn(functions, batches):
    """Return what each function returns for each batch, and its median time per batch."""
    results, times = ([[] for _ in functions] for _ in range(2))
    for function in functions:
        function(batches[0])
    for batch in batches:
        for function, own, taken in zip(functions, results, times, strict=True):
            start = time.perf_counter()
            own.append(function(batch))
            taken.append(time.perf_counter() - start)
    return results, list(map(statistics.median, times))


def against_exact(exact, fast, z, sigma):
    """Return speed-up, errors (n,) and bounds (n,) of the answers of a fast denoiser."""
    asked = (partial(exact.denoise, sigma=sigma), partial(fast.posterior, sigma=sigma))
    (truth, posteriors), (slow, quick) = in_turn(asked, z.split(BATCH))
    mean = torch.cat([posterior.mean for posterior in posteriors])
    error = (mean - torch.cat(truth)).abs().flatten(1).amax(1)
    return slow / quick, error, torch.cat([posterior.error_bound for posterior in posteriors])


def rounding(sigma):
    """Return the difference that two exact answers in float32 may have."""
    return max(1e-5, 1e-6 / sigma)


def summary(sigma, speedup, error, bound):
    """Return a row: speed-up, largest error and bound, and the number of errors above bounds."""
    return {
        "sigma": sigma,
        "speedup": speedup,
        "max_error": float(error.max()),
        "max_bound": float(bound.max()),
        "n_above_bound": int((error > bound + rounding(sigma)).sum()),
    }


def tolerance(train, clean):
    """Measure ``tol`` on every image at every sigma; yield rows."""
    exact, fast = EmpiricalDenoiser().fit(train), EmpiricalDenoiser(tol=TOL).fit(train)
    for sigma in SIGMAS:
        speedup, error, bound = against_exact(exact, fast, noisy(clean, sigma), sigma)
        row = summary(sigma, speedup, error, bound)
        yield {**row, "n_exact": int((bound == 0).sum()), "n": len(clean), "n_train": len(train)}


def neighbours(train, clean):
    """Measure ``n_neighbors``: how far bounds are above errors that are more than rounding."""
    exact = EmpiricalDenoiser().fit(train)
    for k in (1, 4, 16, 64):
        fast = EmpiricalDenoiser(n_neighbors=k).fit(train)
        for sigma in (0.1, 0.2, 0.3, 0.5):
            speedup, error, bound = against_exact(exact, fast, noisy(clean, sigma), sigma)
            off = error > 1e-5
            yield {
                "n_neighbors": k,
                **summary(sigma, speedup, error, bound),
                "bound_over_error": float((bound / error)[off].median()) if off.any() else "",
                "n_with_error": int(off.sum()),
                "n": len(clean),
                "n_train": len(train),
            }


def growth(images, clean, sigma=0.3):
    """Measure the time at fixed tolerance, with flips and shifts as further training images."""
    shifted = np.roll(images, 3, axis=3)
    more = np.concatenate([images, images[..., ::-1], shifted, shifted[..., ::-1]])
    more = more[np.random.default_rng(0).permutation(len(more))]
    batches = [noisy(clean, sigma, seed) for seed in range(7)]
    for n in (12_500, 50_000, 200_000):
        train = images[:n] if n <= len(images) else more[:n]
        models = EmpiricalDenoiser().fit(train), EmpiricalDenoiser(tol=TOL).fit(train)
        _, (slow, quick) = in_turn([partial(m.denoise, sigma=sigma) for m in models], batches)
        yield {
            "n_train": n,
            "sigma": sigma,
            "exact_ms_per_image": slow / len(clean) * 1e3,
            "tol_ms_per_image": quick / len(clean) * 1e3,
        }


def equivariant(train, clean, sigma=0.3, n_exact=2):
    """Measure ``tol`` of ELS, whose exact kernel compares a patch with every patch."""
    settings = {"patch_size": 5, "equivariant": True, "boundary": "circular"}
    exact = LocalScoreDenoiser(**settings).fit(train)
    z = noisy(clean, sigma)
    start = time.perf_counter()
    truth = exact.denoise(z[:n_exact], sigma)
    slow = (time.perf_counter() - start) / n_exact
    for tol in (1e-3, 1e-2, 3e-2, 1e-1):
        fast = LocalScoreDenoiser(**settings, tol=tol).fit(train)
        start = time.perf_counter()
        fast.denoise(z[:1], sigma)
        build = time.perf_counter() - start
        start = time.perf_counter()
        posterior = fast.posterior(z, sigma)
        quick = (time.perf_counter() - start) / len(z)
        error = (posterior.mean[:n_exact] - truth).abs()
        yield {
            "tol": tol,
            "speedup": slow / quick,
            "rms_error": float(error.square().mean().sqrt()),
            "max_error": float(error.max()),
            "estimated_error": float(posterior.error_bound.max()),
            "build_over_exact_image": build / slow,
            "n": len(z),
            "n_train": len(train),
            "sigma": sigma,
        }


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/cifar10-32x32.zip")
    parser.add_argument("--test", type=Path, default="../shared/data/cifar10-32x32-test.zip")
    parser.add_argument("--only", choices=["tolerance", "neighbours", "growth", "equivariant"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    _results.add_argument(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = load_edm_zip(options.data).images
    images = images[np.random.default_rng(0).permutation(len(images))]  # it is sorted by class
    clean = load_edm_zip(options.test).images
    clean = clean[np.random.default_rng(1).permutation(len(clean))]
    parts = {
        "tolerance": lambda: tolerance(images, clean[:N_QUERIES]),
        "neighbours": lambda: neighbours(images, clean[:128]),
        "growth": lambda: growth(images, clean[:BATCH]),
        "equivariant": lambda: equivariant(images[:5000], clean[:8]),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            _results.write(options.out, f"index-{name}", _results.printed(name, part()))


if __name__ == "__main__":
    main()
