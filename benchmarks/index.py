"""Answers from a few training images: speed, errors and bounds, as ratios measured in one run.

    python benchmarks/index.py --data path/to/cifar10-32x32.zip --test path/to/a-test.zip

Exact and approximate answers are timed in turn, on batches of noisy held-out images; the median of
a batch counts. Searching is included, building the index is not. Errors are largest absolute
differences of a pixel to the exact answer.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from skpspc import EmpiricalDenoiser, LocalScoreDenoiser
from skpspc.datasets import load_edm_zip

TOL = 1e-3
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0)
N_QUERIES = 1000
BATCH = 64
HEAD = "{:>6}{:>11}{:>13}{:>13}{:>7}{:>6}"


def noisy(clean, sigma, seed=0):
    """Noisy images from uint8 ones."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return torch.from_numpy(clean) / 127.5 - 1 + sigma * noise


def in_turn(exact, fast, batches):
    """What two functions answer to batches, and their median times for one."""
    answers, times = ([], []), ([], [])
    for function in (exact, fast):
        function(batches[0])
    for batch in batches:
        for function, answer, taken in zip((exact, fast), answers, times, strict=True):
            start = time.perf_counter()
            answer.append(function(batch))
            taken.append(time.perf_counter() - start)
    return *answers, *map(statistics.median, times)


def tolerance(train, clean):
    """`tol`: every query at every sigma, its error and its bound, and the speed."""
    exact, fast = EmpiricalDenoiser().fit(train), EmpiricalDenoiser(tol=TOL).fit(train)
    print(f"EmpiricalDenoiser(tol={TOL}), N = {len(train)}, {len(clean)} images at each sigma")
    print(HEAD.format("sigma", "exact/tol", "worst error", "worst bound", "fails", "all"))
    for sigma in SIGMAS:
        truth, ours, slow, quick = in_turn(
            partial(exact.denoise, sigma=sigma),
            partial(fast.posterior, sigma=sigma),
            noisy(clean, sigma).split(BATCH),
        )
        error, bound = errors_and_bounds(truth, ours)
        fails = int((error > bound + rounding(sigma)).sum())
        print(
            HEAD.format(
                f"{sigma:g}",
                f"{slow / quick:.1f}",
                f"{error.max():.1e}",
                f"{bound.max():.1e}",
                fails,
                int((bound == 0).sum()),
            ),
            flush=True,
        )
    print("(fails: errors above bound and rounding; all: images that took the exact kernel)\n")


def rounding(sigma):
    """What float32 answers may differ by, both being exact."""
    return max(1e-5, 1e-6 / sigma)


def errors_and_bounds(truth, ours):
    """Largest error of every image, and its bound, (n,) each."""
    mean = torch.cat([part.mean for part in ours])
    error = (mean - torch.cat(truth)).abs().flatten(1).amax(1)
    return error, torch.cat([part.error_bound for part in ours])


def neighbours(train, clean):
    """`n_neighbors`: how far the bound is above the true error where that is not rounding."""
    exact = EmpiricalDenoiser().fit(train)
    print(f"EmpiricalDenoiser(n_neighbors=k), N = {len(train)}, {len(clean)} images each")
    print(HEAD.format("sigma", "exact/k", "worst error", "worst bound", "fails", "k"), end="")
    print("   median bound / error (of so many images with an error)")
    for k in (1, 4, 16, 64):
        fast = EmpiricalDenoiser(n_neighbors=k).fit(train)
        for sigma in (0.1, 0.2, 0.3, 0.5):
            truth, ours, slow, quick = in_turn(
                partial(exact.denoise, sigma=sigma),
                partial(fast.posterior, sigma=sigma),
                noisy(clean, sigma).split(BATCH),
            )
            error, bound = errors_and_bounds(truth, ours)
            off = error > 1e-5
            fails = int((error > bound + rounding(sigma)).sum())
            print(
                HEAD.format(
                    f"{sigma:g}",
                    f"{slow / quick:.1f}",
                    f"{error.max():.1e}",
                    f"{bound.max():.1e}",
                    fails,
                    k,
                ),
                f"  {(bound / error)[off].median():.1f} ({int(off.sum())})" if off.any() else "",
                flush=True,
            )
    print()


def growth(images, clean, sigma=0.3):
    """Time at fixed tolerance, while flips and crops make more and more images."""
    print(f"EmpiricalDenoiser(tol={TOL}) at sigma {sigma}, {len(clean)} images at a time")
    print(f"{'N':>8}{'exact':>10}{'tol':>9}   (milliseconds an image)")
    sizes, slows, quicks = (12_500, 50_000, 200_000), [], []
    shifted = np.roll(images, 3, axis=3)
    more = np.concatenate([images, images[..., ::-1], shifted, shifted[..., ::-1]])
    more = more[np.random.default_rng(0).permutation(len(more))]
    batches = [noisy(clean, sigma, seed) for seed in range(7)]
    for n in sizes:
        train = images[:n] if n <= len(images) else more[:n]
        exact, fast = EmpiricalDenoiser().fit(train), EmpiricalDenoiser(tol=TOL).fit(train)
        *_, slow, quick = in_turn(
            partial(exact.denoise, sigma=sigma), partial(fast.denoise, sigma=sigma), batches
        )
        slows.append(slow)
        quicks.append(quick)
        print(
            f"{n:8d}{slow / len(clean) * 1e3:10.2f}{quick / len(clean) * 1e3:9.2f}",
            flush=True,
        )
    for name, times in (("exact", slows), ("tol", quicks)):
        exponent = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        print(f"time of {name} grows as N^{exponent:.2f}")
    print()


def equivariant(train, clean, sigma=0.3, n_exact=2):
    """Windows that look at all places: the index against looking at every patch."""
    settings = {"patch_size": 5, "equivariant": True, "boundary": "circular"}
    exact = LocalScoreDenoiser(**settings).fit(train)
    z = noisy(clean, sigma)
    start = time.perf_counter()
    truth = exact.denoise(z[:n_exact], sigma)
    slow = (time.perf_counter() - start) / n_exact
    print(f"LocalScoreDenoiser(5, equivariant=True), {len(train)} training images, sigma {sigma}")
    for tol in (1e-3, 1e-2, 3e-2, 1e-1):
        fast = LocalScoreDenoiser(**settings, tol=tol).fit(train)
        start = time.perf_counter()
        fast.denoise(z[:1], sigma)
        build = time.perf_counter() - start
        start = time.perf_counter()
        ours = fast.posterior(z, sigma)
        quick = (time.perf_counter() - start) / len(z)
        error = (ours.mean[:n_exact] - truth).abs()
        print(
            f"tol {tol:g}: {slow / quick:.1f}x the exact kernel, root mean square error "
            f"{error.square().mean().sqrt():.1e}, largest {error.max():.1e}, as estimated "
            f"{ours.error_bound.max():.1e}; building the index takes as long as "
            f"{build / slow:.1f} exact images",
            flush=True,
        )


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/cifar10-32x32.zip")
    parser.add_argument("--test", type=Path, default="../shared/data/cifar10-32x32-test.zip")
    parser.add_argument("--only", choices=["tolerance", "neighbours", "growth", "equivariant"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = load_edm_zip(options.data).images
    images = images[np.random.default_rng(0).permutation(len(images))]  # it is sorted by class
    clean = load_edm_zip(options.test).images
    clean = clean[np.random.default_rng(1).permutation(len(clean))]
    print(f"{torch.get_num_threads()} threads\n")
    runs = {
        "tolerance": lambda: tolerance(images, clean[:N_QUERIES]),
        "neighbours": lambda: neighbours(images, clean[:128]),
        "growth": lambda: growth(images, clean[:BATCH]),
        "equivariant": lambda: equivariant(images[:5000], clean[:8]),
    }
    for name, run in runs.items():
        if options.only in (None, name):
            run()


if __name__ == "__main__":
    main()
