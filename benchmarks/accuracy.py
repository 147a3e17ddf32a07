"""Errors of float32 answers against the formula in float64, on images in [-1, 1].

    python benchmarks/accuracy.py

writes ``accuracy.csv``. Training images are crops of photographs. "Held-out" noisy images are
x + sigma e with x a crop that was not fitted. "Unrelated" images hold no such noise:
pixels drawn evenly from [-1, 1], and means of two training images. They are far from every training
image, and small differences of distances that are large beside sigma decide.

Each seed draws other noisy images of the same training set, and has a row of its own for each
denoiser. The formula is that of tests/oracle.py. ``median_error`` is the median, over two noisy
images at each noise level, of the largest error in an image. ``max_error`` is the largest of all
errors, at noise level ``sigma``. To find it, denoisers answer for 64 images at each level in
float32 and in float64, and the formula gives the error of the two images whose answers differ most.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

import _results
import joblib
import numpy as np

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PCALocalityDenoiser,
    PSPCDenoiser,
)
from skpspc.datasets import load_photo_patches

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import oracle

SIGMAS = (0.02, 0.03, 0.05, 0.1, 0.3, 1.0, 5.0, 20.0)
SIZE = 12  # side of the images
PHOTOS = ("china", "flower")
USUAL = 2  # noisy images at each level of which the median is taken
LAST = np.longdouble


def noisy(kind, X, sigma, n, dtype, seed=0):
    """Return n noisy images, (n, C, H, W)."""
    rng = np.random.default_rng(seed)
    if kind == "unrelated":
        evenly = rng.uniform(-1, 1, (n // 2, *X.shape[1:]))
        pairs = rng.integers(len(X), size=(n - n // 2, 2))
        means = oracle.as_float(X)[pairs].mean(1).reshape(-1, *X.shape[1:])
        return rng.permutation(np.concatenate([evenly, means])).astype(dtype)
    clean = oracle.as_float(X[:n]).reshape(n, *X.shape[1:])
    return (clean + sigma * rng.standard_normal(clean.shape)).astype(dtype)


def pixels(shape):
    """Return a mask for each pixel, all channels, row by row."""
    _, height, width = shape
    places = np.ndindex(height, width)
    return [oracle.patch_mask(row, column, 1, 1, shape) for row, column in places]


def around(size, shape):
    """Return a mask for the square around each pixel, cut at the edges."""
    _, height, width = shape
    reach = size // 2
    return [
        oracle.patch_mask(
            max(row - reach, 0),
            max(column - reach, 0),
            min(row + reach + 1, height) - max(row - reach, 0),
            min(column + reach + 1, width) - max(column - reach, 0),
            shape,
        )
        for row, column in np.ndindex(height, width)
    ]


def flexible(model, shape):
    """Return the windows of PSPC-Flex as masks."""
    masks = model.windows_.at(0).numpy() > 0
    return [np.broadcast_to(mask, shape).ravel() for mask in masks]


def neighbours(X, sigma, threshold):
    """Return masks of PCA locality: the values compared for each value, and the value itself."""
    covariance = np.cov(oracle.as_float(X).T, ddof=0)
    wiener = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(len(covariance)))
    weight = np.abs(wiener / wiener.diagonal()[:, None])
    compared = weight >= threshold * weight.max()
    return list(compared.T), list(np.eye(len(compared), dtype=bool))


def wiener(Z, X, sigma):
    """Return the answers of the Gaussian denoiser, by its formula."""
    z, x = oracle.as_float(Z), oracle.as_float(X)
    mean, covariance = x.mean(0), np.cov(x.T, ddof=0)
    precision = np.linalg.solve(covariance + sigma**2 * np.eye(len(mean)), (z - mean).T)
    return mean + (covariance @ precision).T


def families(X):
    """Return denoisers by name, and the formula of each: noisy images and sigma to (n, D)."""
    shape = X.shape[1:]
    flex = PSPCDenoiser(windows=FlexibleWindows("data", 0.8, [0.3])).fit(X)

    def windows(queries, responses=None):
        return lambda Z, sigma: oracle.collection(Z, X, sigma, queries, responses).mean

    def locality(Z, sigma):
        return oracle.collection(Z, X, sigma, *neighbours(X, sigma, 0.05)).mean

    squares = {size: windows(oracle.square_masks(size, shape)) for size in (3, 7)}
    return {
        "whole images": (EmpiricalDenoiser().fit(X), windows(oracle.whole_mask(shape))),
        "squares of 3, compiled": (PSPCDenoiser(3, engine="auto").fit(X), squares[3]),
        "squares of 3, torch": (PSPCDenoiser(3, engine="torch").fit(X), squares[3]),
        "squares of 7, compiled": (PSPCDenoiser(7, engine="auto").fit(X), squares[7]),
        "squares of 7, torch": (PSPCDenoiser(7, engine="torch").fit(X), squares[7]),
        "masks (PSPC-Flex)": (flex, windows(flexible(flex, shape))),
        "local score, 5": (
            LocalScoreDenoiser(patch_size=5).fit(X),
            windows(around(5, shape), pixels(shape)),
        ),
        "PCA locality": (PCALocalityDenoiser().fit(X), locality),
        "Gaussian": (GaussianDenoiser().fit(X), lambda Z, sigma: wiener(Z, X, sigma)),
    }


def errors(model, formula, kind, images, n, seed=0):
    """Return median and largest error, and the noise level of the largest."""
    usual, suspects = [], []
    for sigma in SIGMAS:
        Z = noisy(kind, images, sigma, n, np.float32, seed)
        answer = model.denoise(Z, sigma)
        apart = np.abs(answer - model.denoise(Z.astype(np.float64), sigma))
        apart = apart.reshape(n, -1).max(1)
        usual += error_of(answer[:USUAL], formula(Z[:USUAL], sigma))
        suspects.append((apart.max(), sigma, Z[[apart.argmax()]], answer[[apart.argmax()]]))
    suspects = sorted(suspects, key=lambda suspect: -suspect[0])[:2]
    largest = [(error_of(answer, formula(Z, s))[0], s) for _, s, Z, answer in suspects]
    return np.median(usual), *max(largest)


def error_of(answer, exact):
    """Return the largest error of each image, a list."""
    return np.abs(answer.reshape(len(answer), -1) - exact).max(1).tolist()


def rounding_of_float64(X, n):
    """Return the largest error of whole images in float64, and the largest over eps x logit."""
    x = oracle.as_float(X)
    model, prior = EmpiricalDenoiser().fit(X), np.full(len(X), 1 / LAST(len(X)))
    whole, found = np.ones(x.shape[1], dtype=bool), []
    for sigma in SIGMAS:
        Z = noisy("unrelated", X, sigma, n, np.float64)
        for z, answer in zip(oracle.as_float(Z), model.denoise(Z, sigma), strict=True):
            weight, _ = oracle.window_weights(z.astype(LAST), x.astype(LAST), sigma, whole, prior)
            off = float(np.abs(answer.ravel() - weight @ x.astype(LAST)).max())
            logit = ((z - x) ** 2).sum(1).min() / (2 * sigma**2)
            found.append((off, off / (np.finfo(float).eps * max(logit, 1))))
    return np.max(found, axis=0)


def measure(X, held_out, n, seeds, jobs):
    """Yield a row for each seed, denoiser and kind of noisy images."""
    kinds = ("held-out", held_out), ("unrelated", X)
    tasks = product(seeds, families(X).items(), kinds)
    return joblib.Parallel(jobs, return_as="generator", pre_dispatch="all")(
        joblib.delayed(row)(seed, name, *family, kind, images, n)
        for seed, (name, family), (kind, images) in tasks
    )


def row(seed, name, model, formula, kind, images, n):
    """Return the row of a seed, a denoiser and a kind of noisy images."""
    median, largest, sigma = errors(model, formula, kind, images, n, seed)
    labels = {"seed": seed, "denoiser": name, "noisy": kind}
    return {**labels, "median_error": float(median), "max_error": largest, "sigma": sigma}


def main(arguments=None):
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n-train", type=int, default=500)
    parser.add_argument("--n", type=int, default=64, help="noisy images at each noise level")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of noisy images")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    n_images = options.n_train + options.n
    images = load_photo_patches(size=SIZE, n_images=n_images, photos=PHOTOS).images
    X, held_out = images[: options.n_train], images[options.n_train :]
    rows = _results.printed(
        "accuracy", measure(X, held_out, options.n, options.seeds, options.jobs)
    )
    error, times_eps = rounding_of_float64(X, options.n)
    in_float64 = {
        "float64_max_error": f"{error:.1e}",
        "float64_over_eps_times_logit": f"{times_eps:.2g}",
    }
    print(in_float64)
    _results.write(options.out, "accuracy", rows, n_train=len(X), n=options.n, **in_float64)


if __name__ == "__main__":
    main()
