"""Hypothesis strategies: small training sets, noisy images and noise levels."""

from dataclasses import dataclass

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

import oracle

# Gray and colour, square and not, signals, and single pixels.
SHAPES = [(1, 4, 4), (3, 4, 4), (1, 3, 6), (2, 5, 3), (1, 1, 7), (3, 1, 5), (1, 6, 1), (3, 1, 1)]

seeds = st.integers(0, 2**32 - 1)


@dataclass
class Case:
    """Training images as given, noisy images, one noise level each, and a patch size."""

    X: np.ndarray  # (N, C, H, W), uint8 or float64
    Z: np.ndarray  # (n, C, H, W), float64
    sigma: np.ndarray  # (n,)
    size: int

    @property
    def shape(self):
        return self.X.shape[1:]

    @property
    def x(self):
        """The training images as float64, (N, C, H, W)."""
        return oracle.as_float(self.X).reshape(self.X.shape)


def sigmas(low=1e-3, high=1e3):
    """Noise levels, uniform in their logarithm."""
    return st.floats(np.log(low), np.log(high)).map(lambda value: float(np.exp(value)))


@st.composite
def training_sets(draw, min_images=1, max_images=9, kinds=("uint8", "grid", "normal")):
    """Images (N, C, H, W): uint8; floats on a coarse grid, exact and often tied; normal floats."""
    n = draw(st.integers(min_images, max_images))
    shape = (n, *draw(st.sampled_from(SHAPES)))
    kind = draw(st.sampled_from(kinds))
    if kind == "uint8":
        return draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 255)))
    if kind == "grid":
        return draw(hnp.arrays(np.int8, shape, elements=st.integers(-4, 4))) / 4.0
    return np.random.default_rng(draw(seeds)).standard_normal(shape)


@st.composite
def cases(draw, low=1e-3, high=1e3, **options):
    """A training set, and training images with noise at levels between low and high."""
    X = draw(training_sets(**options))
    x = oracle.as_float(X).reshape(X.shape)
    n = draw(st.integers(1, 3))
    sigma = np.array([draw(sigmas(low, high)) for _ in range(n)])
    rng = np.random.default_rng(draw(seeds))
    noise = rng.standard_normal((n, *X.shape[1:]))
    Z = x[rng.integers(len(x), size=n)] + sigma[:, None, None, None] * noise
    return Case(X, Z, sigma, draw(st.integers(1, max(X.shape[2:]))))


@st.composite
def known_posteriors(draw):
    """X, Z, sigma and the posterior weights (N,) of the one noisy image, known in closed form."""
    shape = draw(st.sampled_from(SHAPES))
    sigma = draw(sigmas(0.05, 50))
    direction = np.random.default_rng(draw(seeds)).standard_normal(shape)
    direction /= np.linalg.norm(direction)
    kind = draw(st.sampled_from(["one", "two", "ring"]))
    if kind == "one":
        return direction[None], direction[None] * draw(st.floats(-3, 3)), sigma, np.ones(1)
    if kind == "two":
        # +u and -u, and z = t u: the log-odds are 2 t / sigma^2
        t = draw(st.floats(-1, 1))
        odds = 1 / (1 + np.exp(-2 * t / sigma**2))
        return (
            np.stack([direction, -direction]),
            t * direction[None],
            sigma,
            np.array([odds, 1 - odds]),
        )
    # +-e_j, all as far from zero
    eye = np.eye(int(np.prod(shape)))
    X = np.concatenate([eye, -eye]).reshape(-1, *shape)
    return X, np.zeros((1, *shape)), sigma, np.full(len(X), 1 / len(X))
