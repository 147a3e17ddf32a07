"""The choice of patch sizes, mirror images and weights on held-out training images.

The errors of two trials, with few and with more images, say how errors fall with the number of
images, and so what is best for all of them.
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
from ..support.held_out import held_out_errors, noisy_blocks
from ..support.holdout import different, hold_out, n_distinct
from .blend import simplex_weights
from .calibration import pixel_variance, relative_weights

# In standard deviations of a pixel. Below the first, all denoisers return about the noisy image; at
# the last, about the mean image.
_LEVELS = 0.05 * 2.0 ** np.arange(9)
_GROWTH = 4  # images of the second trial for each one of the first
_EQUAL = 1e-9  # relative differences of errors that are rounding
_BELOW, _ABOVE = 2, 3  # candidates around the best size of the first trial


@dataclass(frozen=True)
class Choice:
    """Noise levels (L,), patch sizes (L, K) and weights (L, K + 1), of the Gaussian first."""

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
        return Choice(_LEVELS, np.empty((len(_LEVELS), 0), int), np.ones((len(_LEVELS), 1)), False)
    kept, held_out = hold_out(training_set, min(n_images, math.ceil(n / 10)), rng)
    fitted = different(kept, n_fitted, rng)
    few = fitted.subset(slice(math.ceil(len(fitted) / _GROWTH)))
    spread = pixel_variance(different(training_set, n_fitted, rng)) ** 0.5
    sigmas, seed = spread * _LEVELS, noise_seed(rng)
    sizes = patch_sizes(training_set.image_shape)
    flip, best = _first_trial(few, held_out, sizes, sigmas, seed)
    gaussian = gaussian_of(kept)
    sets = [part.mirrored() if flip else part for part in (few, fitted)]
    n_growths = math.log((n - len(held_out)) / len(fitted)) / math.log(_GROWTH)
    chosen, weights = [], []
    for j, sigma in enumerate(progress(sigmas.tolist(), "noise levels")):
        first = max(0, min(best[j] - _BELOW, len(sizes) - n_sizes))
        tried = sizes[first : max(best[j] + _ABOVE + 1, first + n_sizes)]
        before, after = (
            _error_products([gaussian, *_squares(part, tried)], held_out, sigma, seed + 1 + j)
            for part in sets
        )
        members, of_level = _best_members(_continued(before, after, n_growths), n_sizes)
        chosen.append([tried[m] for m in members])
        weights.append(of_level)
    return Choice(sigmas, np.array(chosen), np.array(weights), flip)


def _first_trial(few, held_out, sizes, sigmas, seed):
    """Return whether to use mirror images, and the index of the best size at each noise level."""
    weight = relative_weights(held_out)
    tiny = np.finfo(np.float64).tiny  # errors are divided and taken to their logarithm
    errors = [
        np.maximum(held_out_errors(_answers(part, sizes), held_out, sigmas, seed) @ weight, tiny)
        for part in (few, few.mirrored())
    ]
    least = [np.log(of_part.min(1)).mean() for of_part in errors]
    flip = bool(least[1] < least[0])
    of_levels = errors[flip]
    return flip, least_total(of_levels / of_levels.min(1, keepdims=True))


def _answers(training_set, sizes):
    """Return functions from noisy images and noise levels to posterior means."""
    return [prior.mean for prior in _squares(training_set, sizes)]


def _squares(training_set, sizes):
    """Return priors of a training set, one for square patches of each size."""
    shape = training_set.image_shape
    return [Prior(training_set, squares_of_side(size, shape)) for size in sizes]


def _error_products(priors, held_out, sigma, seed):
    """Return the mean products per pixel of the errors of priors on noisy images, (M, M)."""
    weight = torch.from_numpy(relative_weights(held_out)).to(held_out.device)
    product = np.zeros((len(priors), len(priors)))
    for rows, clean, z, levels in noisy_blocks(held_out, [sigma], seed):
        with torch.no_grad():
            means = torch.stack([prior.posterior(z, levels).mean for prior in priors])
        errors = (means - clean).double().flatten(2)
        scaled = errors * weight[rows, None]
        product += torch.einsum("mid,nid->mn", scaled, errors).cpu().numpy()
    return product / held_out.n_values


def _continued(few, more, n_growths):
    """Return error products (M, M) for training sets that are ``_GROWTH ** n_growths`` as large.

    Errors are powers of the number of images, and correlations of errors are constant.
    """
    before, after = few.diagonal(), more.diagonal()
    ratio = np.divide(after, before, out=np.ones_like(after), where=before > 0)
    scale = np.minimum(ratio, 1) ** (n_growths / 2)
    return more * np.outer(scale, scale)


def _best_members(product, n_sizes):
    """Return the sizes of the blend of least error, and weights (n_sizes + 1,).

    Member 0 always takes part; the others are numbered from 0.
    """
    n_sizes = min(n_sizes, len(product) - 1)
    tried = []
    for members in combinations(range(1, len(product)), n_sizes):
        part = product[np.ix_((0, *members), (0, *members))]
        weights = simplex_weights(part)
        tried.append((weights @ part @ weights, members, weights))
    # the first of equals: a size without weight here may have weight at another noise level
    least = min(error for error, _, _ in tried) * (1 + _EQUAL)
    members, weights = next((m, w) for error, m, w in tried if error <= least)
    return [m - 1 for m in members], weights
