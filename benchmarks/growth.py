"""Time against the number of training images, and error against time of approximate answers.

    python benchmarks/growth.py --data path/to/cifar10-32x32.zip --test path/to/a-test.zip

writes two files. ``growth.csv`` has the time per noisy image for 1,000 to 50,000 training images.
``error-time.csv`` has the errors of approximate answers to the exact answer, and their time divided
by that of the exact answer. All denoisers of one comparison take turns on the same batches of noisy
held-out images, and the median over batches counts. Times exclude building an index.
"""

import argparse
from functools import partial
from pathlib import Path

import _results
import numpy as np
import torch
from index import in_turn, noisy

from skpspc import EmpiricalDenoiser, GaussianDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip

SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
SIGMA = 0.3
SIGMAS = (0.1, 0.3, 1.0)
N_BATCHES = 5
FAMILIES = {
    "EmpiricalDenoiser()": (EmpiricalDenoiser, 32),
    "EmpiricalDenoiser(tol=1e-3)": (partial(EmpiricalDenoiser, tol=1e-3), 32),
    "PSPCDenoiser(8)": (partial(PSPCDenoiser, 8), 8),
    "GaussianDenoiser()": (GaussianDenoiser, 32),
}
# Settings of EmpiricalDenoiser, by the name of the line that joins them.
APPROXIMATIONS = {
    "n_neighbors": [{"n_neighbors": k} for k in (1, 3, 10, 100, 1000)],
    "n_neighbors, IVF256": [
        {"n_neighbors": k, "index": "IVF256,Flat"} for k in (1, 3, 10, 100, 1000)
    ],
    "tol": [{"tol": tol} for tol in (1e-1, 1e-2, 1e-3, 1e-4)],
}


def growth(images, clean):
    """Yield the time per noisy image of every denoiser at every number of training images."""
    cases = [(name, n_train) for n_train in SIZES for name in FAMILIES]
    calls = []
    for name, n_train in cases:
        build, n_noisy = FAMILIES[name]
        model = build().fit(images[:n_train])
        calls.append(lambda z, model=model, n=n_noisy: model.denoise(z[:n], SIGMA))
    _, times = in_turn(calls, batches(clean, SIGMA, 32))
    for (name, n_train), taken in zip(cases, times, strict=True):
        n_noisy = FAMILIES[name][1]
        row = {"denoiser": name, "n_train": n_train, "sigma": SIGMA, "n_noisy": n_noisy}
        yield {**row, "ms_per_image": 1e3 * taken / n_noisy}


def batches(clean, sigma, size):
    """Return batches of different noisy images."""
    return noisy(clean[: N_BATCHES * size], sigma).split(size)


def approximations(images, clean):
    """Yield error and relative time of the approximations of `EmpiricalDenoiser`."""
    settings = [(family, each) for family, several in APPROXIMATIONS.items() for each in several]
    models = [
        EmpiricalDenoiser(**setting).fit(images) for setting in ({}, *(s for _, s in settings))
    ]
    for sigma in SIGMAS:
        calls = [partial(model.denoise, sigma=sigma) for model in models]
        (exact, *answers), (slow, *times) = in_turn(calls, batches(clean, sigma, 32))
        for (family, setting), answer, taken in zip(settings, answers, times, strict=True):
            labels = {"denoiser": "EmpiricalDenoiser", "family": family, "setting": _text(setting)}
            row = {**labels, "sigma": sigma, "n_train": len(images), "time": taken / slow}
            yield {**row, **errors(torch.cat(answer), torch.cat(exact))}


def errors(answer, exact):
    """Return the root mean square error over pixels and images, and the largest error."""
    off = (answer - exact).abs()
    return {"rms_error": float(off.square().mean().sqrt()), "max_error": float(off.max())}


def _text(setting):
    return ", ".join(f"{name}={value}" for name, value in setting.items())


def main():
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/cifar10-32x32.zip")
    parser.add_argument("--test", type=Path, default="../shared/data/cifar10-32x32-test.zip")
    parser.add_argument("--only", choices=["growth", "error-time"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    _results.add_argument(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = load_edm_zip(options.data).images
    images = images[np.random.default_rng(0).permutation(len(images))]  # it is sorted by class
    clean = load_edm_zip(options.test).images
    clean = clean[np.random.default_rng(1).permutation(len(clean))]
    if options.only != "error-time":
        rows = _results.printed("growth", growth(images, clean))
        _results.write(options.out, "growth", rows)
    if options.only != "growth":
        rows = _results.printed("approximations", approximations(images, clean))
        _results.write(options.out, "error-time", rows)


if __name__ == "__main__":
    main()
