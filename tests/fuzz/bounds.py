"""Compare many noisy images with the slow formula: proved bounds hold, and estimates at their rate.

From the root of the repository::

    python -m tests.fuzz.bounds --count 1000000 --seconds 3600 --seed 0

draws problems until every proved kind has its share of so many noisy images, or for at most so many
seconds. Exits with status 1 if

- a pixel is farther from the float64 formula than its proved ``error_bound`` and rounding,
- a bound exceeds ``tol``,
- fewer pixels than ``PIXELS`` keep an estimated bound,
- or the mean square error of a random remainder is not its squared ``standard_error``, by
  ``SQUARES``.

Problem i of a kind and seed is always the same.
"""

import argparse
import sys
import time
import warnings
from dataclasses import dataclass
from unittest import mock

import numpy as np
from sklearn.datasets import load_digits

from skpspc import EmpiricalDenoiser, LocalScoreDenoiser, PatchDenoiser, PSPCDenoiser
from skpspc.posterior import cells, truncated
from tests.oracle import square_masks
from tests.rounding import ADMITTED, OPERATIONS, n_operations

PIXELS = 0.99
"""Smallest fraction of pixels that keep an estimated bound."""
SQUARES = 0.8, 1.25
"""Squared errors of random remainders over squared standard errors, both in units of the span."""
_DIFFERENCES = 2**22  # differences of values in memory


@dataclass
class Problem:
    """Training images (N, C, H, W), noisy images of two dtypes, one sigma, and sample weights."""

    X: np.ndarray
    Z: np.ndarray
    sigma: float
    weight: np.ndarray | None
    rng: np.random.Generator

    @property
    def x(self):
        x = self.X.reshape(len(self.X), -1)
        return x / 127.5 - 1 if x.dtype == np.uint8 else x.astype(np.float64)


def images(rng, n, shape):
    """Return training images of a random kind."""
    kind = rng.integers(6)
    if kind == 0:
        digits = load_digits().images[rng.integers(1797, size=n)]
        digits = digits[:, None, : shape[1], : shape[2]].repeat(shape[0], 1)
        return (digits * 15.9375).astype(np.uint8)
    if kind == 1:
        return rng.integers(0, 256, (n, *shape)).astype(np.uint8)
    if kind == 2:  # ties
        return rng.integers(-2, 3, (n, *shape)) / 2.0
    if kind == 3:  # clusters
        centres = rng.uniform(-1, 1, (5, *shape))[rng.integers(5, size=n)]
        return centres + 0.05 * rng.standard_normal(centres.shape)
    if kind == 4:  # few directions
        basis = rng.standard_normal((2, np.prod(shape)))
        return (rng.standard_normal((n, 2)) @ basis).reshape(n, *shape)
    return rng.standard_normal((n, *shape))


def problem(rng, n, n_noisy, shape, dtype):
    """Draw a problem with about n training images."""
    X = images(rng, int(np.exp(rng.uniform(np.log(2), np.log(n)))), shape)
    if X.dtype != np.uint8 and rng.random() < 0.5:
        X = X.astype(np.float32)
    weight = 10.0 ** rng.uniform(-6, 0, len(X)) if rng.random() < 0.3 else None
    one = Problem(X, X, 0.0, weight, rng)
    x = one.x
    one.sigma = float(max(x.std(), 1e-3) * 10 ** rng.uniform(-2, 1))
    clean = x[rng.integers(len(x), size=n_noisy)]
    if rng.random() < 0.3:
        clean = rng.uniform(x.min(), x.max() + 1e-3, clean.shape)
    noisy = clean + one.sigma * rng.standard_normal(clean.shape)
    one.Z = noisy.reshape(n_noisy, *shape).astype(dtype)
    return one


def formula(one, masks):
    """Return composite means (n, D) in float64, and bounds (n,) of rounding errors.

    See `rounding.Bounded`; deviations from the mean of a window are at most the span, and at most
    twice the span times the weight of all images but the leader.
    """
    z, x = one.Z.reshape(len(one.Z), -1).astype(np.float64), one.x
    prior = np.ones(len(x)) if one.weight is None else one.weight
    log_prior = np.log(prior / prior.sum())
    eps, size = np.finfo(one.Z.dtype).eps, max(np.abs(x).max(), np.abs(z).max(), 1.0)
    admitted = ADMITTED[one.Z.dtype.type]
    span = np.ptp(x, axis=0).max()
    means, errors = [], []
    block = max(1, _DIFFERENCES // (len(x) * max(x.shape[1], len(masks))))
    for start in range(0, len(z), block):
        scaled = np.abs(z[start : start + block, None] - x) / one.sigma  # (b, N, D)
        condition = size / one.sigma * (scaled @ masks.T) + 1 - log_prior[:, None]
        deviation = np.minimum(admitted + OPERATIONS * eps * condition, 50.0)  # (b, N, K)
        logit = -0.5 * np.square(scaled, out=scaled) @ masks.T + log_prior[:, None]
        weight = np.exp(logit - logit.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        means.append((weight @ masks * x).sum(1) / masks.sum(0))
        leader = weight == weight.max(1, keepdims=True)
        top = np.take_along_axis(deviation, leader.argmax(1)[:, None], 1)
        moved = (weight * np.expm1(deviation) * ~leader).sum(1) + (
            weight.max(1) * np.expm1(top[:, 0]) * np.minimum(1, 2 * (1 - weight.max(1)))
        )
        lost = (weight * np.exp(-deviation)).sum(1)
        error = span * np.minimum(1, moved / lost).max(1)
        errors.append(error + eps * size * n_operations(len(x)))
    return np.concatenate(means), np.concatenate(errors)


# Kinds: the posterior of a problem, and its windows


SMALL = [(1, 4, 4), (3, 3, 3), (1, 1, 7), (2, 5, 2), (1, 8, 8)]


def empirical(index=None, *, float32=0.3, tol=False, few=False, remainder=False, n=1000):
    """Return a kind of the empirical denoiser; ``index`` needs 64 images."""

    def draw(rng):
        dtype = np.float32 if rng.random() < float32 else np.float64
        one = problem(rng, n, 400, SMALL[rng.integers(len(SMALL))], dtype)
        options = {}
        if index is not None and len(one.X) >= 64 and len(np.unique(one.X)) > 8:
            options["index"] = index
        if few:
            options["n_neighbors"] = int(rng.integers(1, min(len(one.X), 64) + 1))
        if tol:
            options["tol"] = float(np.ptp(one.x, axis=0).max() + 1e-6) * 10.0 ** rng.uniform(-5, 0)
        if remainder:
            options |= dict(
                n_remainder=int(rng.integers(2, 200)), random_state=int(rng.integers(99))
            )
        model = EmpiricalDenoiser(**options).fit(one.X, sample_weight=one.weight)
        return one, model, np.ones((1, one.x.shape[1]))

    return draw


def patch(rng):
    """A kind: single patches, of few training images."""
    one = problem(rng, 1000, 400, SMALL[rng.integers(len(SMALL))], np.float64)
    k = int(rng.integers(1, min(len(one.X), 64) + 1))
    model = PatchDenoiser(2, location=(0, 0), n_neighbors=k)
    model.fit(one.X, sample_weight=one.weight)
    height, width = (min(2, side) for side in one.X.shape[2:])
    one.X, one.Z = (a[..., :height, :width].copy() for a in (one.X, one.Z))
    whole = np.ones((1, one.x.shape[1]))
    return one, _OfCrops(model, height, width), whole


@dataclass
class _OfCrops:
    """A denoiser of patches, asked with crops at the top left."""

    model: PatchDenoiser
    height: int
    width: int

    def posterior(self, Z, sigma):
        padded = np.zeros((len(Z), *self.model.image_shape_))
        padded[..., : self.height, : self.width] = Z
        return self.model.posterior(padded, sigma)

    tol = None


def trees(rng):
    """A kind: squares of few training patches."""
    shape = SMALL[rng.integers(len(SMALL))]
    one = problem(rng, 1500, 100, shape, np.float32)
    tol = float(np.ptp(one.x, axis=0).max() + 1e-6) * 10.0 ** rng.uniform(-5, 0)
    size = int(rng.integers(1, 4))
    model = PSPCDenoiser(size, algorithm="kd_tree", tol=tol, flip=False)
    model.fit(one.X, sample_weight=one.weight)
    return one, model, np.array(square_masks(size, shape), float)


def cells_of_patches(rng):
    """A kind: local scores of few patches at all positions, with estimated bounds."""
    n, shape = int(rng.integers(20, 60)), (1, 8, 8)
    digits = (load_digits().images[rng.permutation(1797)[: n + 20], None] * 15.9375).astype(
        np.uint8
    )
    sigma = float(rng.choice([0.1, 0.2, 0.4]))
    Z = digits[n:] / 127.5 - 1 + sigma * rng.standard_normal((20, *shape))
    one = Problem(digits[:n], Z.astype(np.float32), sigma, None, rng)
    model = LocalScoreDenoiser(3, equivariant=True, boundary="circular", tol=1e-3).fit(one.X)
    return one, model, None


PROVED = {
    "neighbours": (empirical(few=True), 0.2),
    "neighbours, IVF": (empirical("IVF8,Flat", few=True), 0.1),
    "neighbours, codes": (empirical("PCA4,IVF8,SQ8", few=True), 0.1),
    "neighbours, remainder": (empirical(few=True, remainder=True), 0.1),
    "tolerance": (empirical(tol=True), 0.2),
    "tolerance, IVF": (empirical("IVF8,Flat", tol=True), 0.1),
    "tolerance, neighbours": (empirical(tol=True, few=True), 0.05),
    "patches": (patch, 0.05),
    "trees": (trees, 0.1),
}
ESTIMATES = {"graph": empirical("HNSW32", few=True), "cells": cells_of_patches}


@dataclass
class Count:
    """Noisy images of a kind, and how many of them break a bound."""

    n: int = 0
    positive: int = 0  # with a bound above the rounding error
    violations: int = 0
    pixels: int = 0  # of estimated bounds
    kept: int = 0
    closest: float = 0.0  # largest error over bound
    square: float = 0.0  # of errors of random remainders, in units of the span
    stated: float = 0.0  # the same of their standard errors
    drawn: int = 0

    def add(self, posterior, mean, rounding, tol, span):
        """Count noisy images; return the faults."""
        error = np.abs(posterior.mean.reshape(mean.shape) - mean)
        bound = posterior.error_bound.astype(np.float64)
        proved = np.asarray(posterior.bound_is_proved)
        allowed = bound * (1 + 1e-5) + rounding
        broken = proved & (error.max(1) > allowed)
        if tol is not None:
            broken |= bound > tol * (1 + 1e-5)
        binds = bound > 10 * rounding
        self.n += len(mean)
        self.positive += int(binds.sum())
        self.violations += int(broken.sum())
        self.pixels += error[~proved].size
        self.kept += int((error <= allowed[:, None])[~proved].sum())
        if binds.any():
            excess = (error.max(1) - rounding)[binds] / bound[binds]
            self.closest = max(self.closest, float(excess.max()))
        drawn = posterior.standard_error > 0
        self.drawn += int(drawn.sum())
        self.square += float(np.square(error[drawn] / span).mean(1).sum())
        self.stated += float(np.square(posterior.standard_error[drawn] / span).sum())
        return np.flatnonzero(broken)


def checked(kind, draw, seed, i, count):
    """Count the noisy images of problem i; return a line for each fault."""
    rng = np.random.default_rng([seed, sum(map(ord, kind)), i])
    one, model, masks = draw(rng)
    always = mock.patch.object(truncated, "_LARGEST_FRACTION", 1 if i % 2 else 0.5)
    with always, mock.patch.object(cells, "_WORTH_IT", 0):
        posterior = model.posterior(one.Z, one.sigma)
    if masks is None:
        exact = LocalScoreDenoiser(**{**model.get_params(), "tol": None}).fit(one.X)
        mean = exact.denoise(one.Z.astype(np.float64), one.sigma).reshape(len(one.Z), -1)
        rounding = np.full(len(mean), 1e-5)
    else:
        mean, rounding = formula(one, masks)
    broken = count.add(posterior, mean, rounding, model.tol, np.ptp(one.x, axis=0).max() or 1.0)
    return [f"{kind} {i}: noisy image {row}" for row in broken]


def run(n, seconds, seed, kinds=None):
    """Return the `Count` of each kind, and faults."""
    end = time.monotonic() + seconds
    shares = {**{k: s for k, (_, s) in PROVED.items()}, "graph": 0.02, "cells": 0.0004}
    draws = {**{k: d for k, (d, _) in PROVED.items()}, **ESTIMATES}
    counts = {kind: Count() for kind in draws if kinds is None or kind in kinds}
    faults, i = [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while time.monotonic() < end:
            open_kinds = [kind for kind in counts if counts[kind].n < shares[kind] * n]
            if not open_kinds:
                break
            for kind in open_kinds:
                faults += checked(kind, draws[kind], seed, i, counts[kind])
            i += 1
    for kind in ESTIMATES:
        count = counts.get(kind)
        if count is not None and count.pixels and count.kept < PIXELS * count.pixels:
            faults.append(f"{kind}: {count.kept} of {count.pixels} pixels keep the estimated bound")
    remainder = counts.get("neighbours, remainder")
    if remainder is not None and remainder.drawn > 10_000:
        ratio = remainder.square / remainder.stated
        if not SQUARES[0] <= ratio <= SQUARES[1]:
            faults.append(f"squared errors are {ratio:.2f} of the squared standard errors")
    return counts, faults


def table(counts):
    """Return the counts as lines."""
    lines = [f"{'kind':22s} {'queries':>9s} {'binding':>9s} {'broken':>7s} {'error/bound':>12s}"]
    for kind, count in counts.items():
        line = f"{kind:22s} {count.n:9d} {count.positive:9d} {count.violations:7d} "
        line += f"{count.closest:12.4f}"
        if count.pixels:
            line += f"   estimated: {count.kept / count.pixels:.4%} of {count.pixels} pixels kept"
        if count.drawn:
            line += (
                f"   squared errors / squared standard errors: {count.square / count.stated:.3f}"
            )
        lines.append(line)
    proved = [counts[kind] for kind in counts if kind in PROVED]
    n, broken = (sum(getattr(c, a) for c in proved) for a in ("n", "violations"))
    return "\n".join([*lines, f"{'all proved bounds':22s} {n:9d} {'':9s} {broken:7d}"])


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="noisy images of proved bounds")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for at most so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", help="of these kinds only")
    given = parser.parse_args()
    counts, faults = run(given.count, given.seconds, given.seed, given.kind)
    print(table(counts))
    print("\n".join(faults[:50]))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
