"""The choice of patch sizes, mirror images and weights on held-out training images.

The errors of two trials, with a quarter of the images and with all of them, say how errors fall
with the number of images, and so what is best for a larger training set.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from .._progress import progress
from ..posterior import Prior
from ..sampling import noise_seed
from ..sampling.choice import least_total, patch_sizes
from ..support import squares_of_side
from ..support.covariance import pixel_variance
from ..support.held_out import held_out_errors, noisy_blocks
from ..support.holdout import different, hold_out, n_distinct
from ..support.memory import rows_that_fit
from .blend import simplex_weights
from .calibration import relative_weights

# In standard deviations of a pixel. Below the first, all denoisers return about the noisy image; at
# the last, about the mean image.
_LEVELS = 0.05 * 2.0 ** np.arange(9)
TAPER = 0.5  # of responses: from 0.1 % more to 2 % less error (benchmarks/held_out.py)
_QUARTER = 4
_BELOW, _ABOVE = 2, 3  # candidates around the best size of the first trial
_EQUAL = 1e-9  # relative differences of errors that are rounding


@dataclass(frozen=True)
class Choice:
    """Sizes and weights of a blend.

    Attributes
    ----------
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    sizes : ndarray of shape (S,), int
        Patch sizes that have weight at a noise level, increasing.
    weights : ndarray of shape (L, S + 1)
        Weights of the Gaussian, and of the sizes.
    flip : bool
        True if mirror images are training images, too.
    """

    sigmas: np.ndarray
    sizes: np.ndarray
    weights: np.ndarray
    flip: bool


def choose(training_set, gaussian_of, n_sizes, n_images, n_fitted, rng):
    """Return the `Choice` of least held-out error for a training set.

    Without two distinct images, the Gaussian has all weight.

    Parameters
    ----------
    training_set : TrainingSet
    gaussian_of : callable
        Maps a training set to the prior of the Gaussian denoiser.
    n_sizes, n_images, n_fitted : see `AutoDenoiser`
    rng : numpy Generator
    """
    n = n_distinct(training_set)
    if n < 2:
        return Choice(_LEVELS, np.empty(0, int), np.ones((len(_LEVELS), 1)), False)
    kept, held_out = hold_out(training_set, min(n_images, math.ceil(n / 10)), rng)
    fitted = different(kept, n_fitted, rng)
    quarter = fitted.subset(slice(math.ceil(len(fitted) / _QUARTER)))
    sigmas, seed = pixel_variance(training_set) ** 0.5 * _LEVELS, noise_seed(rng)
    growth = max(1.0, (n - len(held_out)) / len(fitted)) if len(fitted) == n_fitted else 1.0
    gaussian, trials = gaussian_of(kept), []
    for flip in (False, True):
        parts = [part.mirrored() if flip else part for part in (quarter, fitted)]
        trials.append(_trial(parts, growth, gaussian, held_out, sigmas, n_sizes, seed))
    flip = _total(trials[True]) < _total(trials[False])
    sizes, weights = _united([(sizes, of_level) for sizes, of_level, _ in trials[flip]])
    return Choice(sigmas, sizes, weights, flip)


def _trial(parts, growth, gaussian, held_out, sigmas, n_sizes, seed):
    """Return sizes, weights and continued error of the best blend at each noise level.

    ``parts`` are training sets, a quarter and the whole of the images to fit; the training set of
    the fit is ``growth`` times as large as the latter.
    """
    sizes = patch_sizes(held_out.image_shape)
    best = _best_sizes(parts[0], held_out, sizes, sigmas, seed)
    steps = math.log(growth) / math.log(len(parts[1]) / len(parts[0])) if growth > 1 else 0.0
    blends = []
    for j, sigma in enumerate(progress(sigmas.tolist(), "noise levels")):
        first = max(0, min(best[j] - _BELOW, len(sizes) - n_sizes))
        tried = sizes[first : max(best[j] + _ABOVE + 1, first + n_sizes)]
        quarter, whole = (
            _error_products([gaussian, *squares(part, tried)], held_out, sigma, seed + 1 + j)
            for part in parts
        )
        members, weights, error = _best_members(_continued(quarter, whole, steps), n_sizes)
        blends.append(([tried[m - 1] for m in members], weights, error))
    return blends


def _total(blends):
    """Return the sum over noise levels of the logarithm of the error of the best blend."""
    return sum(math.log(max(error, np.finfo(np.float64).tiny)) for _, _, error in blends)


def _united(blends):
    """Return the sizes of all noise levels, (S,), and the weights (L, S + 1)."""
    used = {size for sizes, w in blends for size, each in zip(sizes, w[1:], strict=True) if each}
    column = {size: k for k, size in enumerate(sorted(used), 1)}
    weights = np.zeros((len(blends), len(used) + 1))
    for row, (sizes, of_level) in zip(weights, blends, strict=True):
        row[0] = of_level[0]
        for size, weight in zip(sizes, of_level[1:], strict=True):
            if weight:
                row[column[size]] = weight
    return np.array(sorted(used), int), weights


def _best_sizes(training_set, held_out, sizes, sigmas, seed):
    """Return the index of the size of least error at each noise level."""
    means = [prior.mean for prior in squares(training_set, sizes)]
    errors = held_out_errors(means, held_out, sigmas, seed) @ relative_weights(held_out)
    errors = np.maximum(errors, np.finfo(np.float64).tiny)
    return least_total(errors / errors.min(1, keepdims=True))


def squares(training_set, sizes):
    """Return priors of a training set, one for tapered square patches of each size."""
    shape = training_set.image_shape
    return [
        Prior(training_set, squares_of_side(size, shape, response_taper=TAPER)) for size in sizes
    ]


def _error_products(priors, held_out, sigma, seed):
    """Return the mean products per pixel of the errors of priors on noisy images, (M, M)."""
    weight = torch.from_numpy(relative_weights(held_out)).to(held_out.device)
    product = np.zeros((len(priors), len(priors)))
    row_bytes = 3 * 8 * held_out.n_values * len(priors)
    for rows, clean, z, levels in noisy_blocks(held_out, [sigma], seed):
        n_rows = rows_that_fit(row_bytes, len(z), what="One noisy image in all denoisers")
        blocks = (tensor.split(n_rows) for tensor in (clean, z, levels, weight[rows]))
        for x, noisy, level, share in zip(*blocks, strict=True):
            with torch.no_grad():
                means = torch.stack([prior.posterior(noisy, level).mean for prior in priors])
            errors = (means - x).double().flatten(2)
            product += torch.einsum("mid,nid,i->mn", errors, errors, share).cpu().numpy()
    return product / held_out.n_values


def _continued(quarter, whole, steps):
    """Return error products (M, M) of larger training sets, by a power law.

    A step multiplies the number of images as from the quarter to the whole, and every mean squared
    error by the same ratio, which is at most 1. Correlations of errors stay.
    """
    before, after = quarter.diagonal(), whole.diagonal()
    ratio = np.divide(after, before, out=np.ones_like(after), where=before > 0)
    scale = np.minimum(ratio, 1) ** (steps / 2)
    return whole * np.outer(scale, scale)


def _best_members(product, n_sizes):
    """Return the members besides member 0 of the blend of least error, its weights and error.

    Parameters
    ----------
    product : ndarray of shape (M, M)
        Mean products of errors.
    n_sizes : int
        Number of members besides member 0.

    Returns
    -------
    members : tuple of int, from 1 to M - 1
    weights : ndarray of shape (n_sizes + 1,)
    error : float
    """
    tried = []
    for members in combinations(range(1, len(product)), min(n_sizes, len(product) - 1)):
        part = product[np.ix_((0, *members), (0, *members))]
        weights = simplex_weights(part)
        tried.append((members, weights, weights @ part @ weights))
    # the first of equals: they differ by rounding alone
    least = min(error for _, _, error in tried)
    return next(blend for blend in tried if blend[2] <= least + _EQUAL * abs(least))
