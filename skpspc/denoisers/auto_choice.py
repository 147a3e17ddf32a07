"""The choice of patch sizes, bandwidths, mirror images and weights on held-out training images.

The errors of two trials, with a quarter of the images and with all of them, say how errors fall
with the number of images, and so what is best for a larger training set.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from sklearn import get_config

from .._progress import progress
from .._warnings import warn
from ..posterior import Prior, StationaryGaussian, filtered_bytes, filtered_images_kept
from ..sampling import noise_seed
from ..sampling.choice import least_total, patch_sizes
from ..support import squares_of_side
from ..support.covariance import pixel_variance
from ..support.held_out import held_out_errors, noisy_blocks
from ..support.holdout import different, hold_out, n_distinct
from ..support.memory import fits, rows_that_fit
from ..support.sharded import ShardedTrainingSet
from .blend import simplex_weights
from .calibration import relative_weights

# In standard deviations of a pixel. Below the first, all denoisers return about the noisy image; at
# the last, about the mean image.
_LEVELS = 0.05 * 2.0 ** np.arange(9)
TAPER = 0.5  # of responses: from 0.1 % more to 2 % less error (benchmarks/held_out.py)
# Bandwidth of blurred members. Of 0.3, 0.5, 0.7 and 0.85 it had the least error on 64 held-out
# CIFAR-10 images (N = 10,000) at five of six noise levels from 0.1 to 3.2; at 0.8, the error of 0.3
# was 0.5 % smaller.
BANDWIDTH = 0.5
_QUARTER = 4
_BELOW, _ABOVE = 2, 3  # candidates around the best size of the first trial
_BLURRED = 3  # blurred candidates, from the best size of the first trial upwards
_EQUAL = 1e-9  # relative differences of errors that are rounding


@dataclass(frozen=True)
class Choice:
    """Patch sizes, bandwidths and weights of a blend.

    Attributes
    ----------
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    settings : list of (int, float)
        S pairs of a patch size and a bandwidth that have weight at a noise level, sorted.
    weights : ndarray of shape (L, S + 1)
        Weights of the Gaussian and of the pairs.
    flip : bool
        True if mirror images are training images, too.
    """

    sigmas: np.ndarray
    settings: list
    weights: np.ndarray
    flip: bool


class PatchPriors:
    """Priors of one training set, for tapered square patches of any size and bandwidth."""

    def __init__(self, training_set):
        self._training_set = training_set

    @cached_property
    def _gaussian(self):
        return StationaryGaussian.of(self._training_set)

    def priors(self, settings):
        """Return a prior for each pair of a patch size and a bandwidth."""
        shape = self._training_set.image_shape
        return [
            Prior(
                self._training_set,
                squares_of_side(size, shape, response_taper=TAPER),
                bandwidth,
                self._gaussian if bandwidth else None,
            )
            for size, bandwidth in settings
        ]


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
        return Choice(_LEVELS, [], np.ones((len(_LEVELS), 1)), False)
    kept, held_out = hold_out(training_set, min(n_images, math.ceil(n / 10)), rng)
    fitted = different(kept, n_fitted, rng)
    quarter = fitted.subset(slice(math.ceil(len(fitted) / _QUARTER)))
    sigmas, seed = pixel_variance(training_set) ** 0.5 * _LEVELS, noise_seed(rng)
    levels = _levels(quarter, held_out, sigmas, seed)
    n_blurred = _BLURRED if _can_be_blurred(training_set) else 0
    flip = _is_better_mirrored(fitted, held_out, levels)
    growth = max(1.0, (n - len(held_out)) / len(fitted)) if len(fitted) == n_fitted else 1.0
    steps = math.log(growth) / math.log(len(fitted) / len(quarter)) if growth > 1 else 0.0
    parts = [PatchPriors(part.mirrored() if flip else part) for part in (quarter, fitted)]
    gaussian, blends = gaussian_of(kept), []
    for level in progress(levels, "noise levels"):
        settings = level.settings(n_sizes, n_blurred)
        before, after = (
            _error_products([gaussian, *part.priors(settings)], held_out, level.sigma, level.seed)
            for part in parts
        )
        members, weights = _best_members(_continued(before, after, steps), n_sizes)
        blends.append(([settings[m - 1] for m in members], weights))
    settings, weights = _united(blends)
    return Choice(sigmas, settings, weights, flip)


def _can_be_blurred(training_set):
    """Return True if the training images can be filtered; warn if they cannot."""
    needed = filtered_bytes(training_set, training_set.float_dtype)
    if not isinstance(training_set, ShardedTrainingSet) or fits(needed):
        return True
    warn(
        "AutoDenoiser leaves out blurred training images: the filtered images of the largest shard "
        f"need {needed / 2**20:.3g} MiB, and {get_config()['working_memory']} MiB are allowed. Fit "
        f"with sklearn.set_config(working_memory={int(needed / 2**20) + 1}) to use them."
    )
    return False


@dataclass(frozen=True)
class _Level:
    """A noise level, the seed of its noise, and the index of the best of ``sizes``."""

    sigma: float
    seed: int
    sizes: list
    best: int

    def settings(self, n_sizes, n_blurred):
        """Return candidates around the best size: pairs of a size and a bandwidth."""
        first = max(0, min(self.best - _BELOW, len(self.sizes) - n_sizes))
        plain = self.sizes[first : max(self.best + _ABOVE + 1, first + n_sizes)]
        blurred = self.sizes[self.best : self.best + n_blurred]
        return [*((size, 0.0) for size in plain), *((size, BANDWIDTH) for size in blurred)]


def _levels(training_set, held_out, sigmas, seed):
    """Return a `_Level` for each noise level, from the errors of all sizes."""
    sizes = patch_sizes(held_out.image_shape)
    means = [prior.mean for prior in PatchPriors(training_set).priors([(s, 0.0) for s in sizes])]
    errors = held_out_errors(means, held_out, sigmas, seed) @ relative_weights(held_out)
    errors = np.maximum(errors, np.finfo(np.float64).tiny)
    best = least_total(errors / errors.min(1, keepdims=True))
    numbered = enumerate(zip(sigmas.tolist(), best, strict=True), start=seed + 1)
    return [_Level(sigma, own_seed, sizes, index) for own_seed, (sigma, index) in numbered]


def _is_better_mirrored(training_set, held_out, levels):
    """Return True if mirror images lower the geometric mean over noise levels of the error."""
    plain, mirrored = PatchPriors(training_set), PatchPriors(training_set.mirrored())
    total = 0.0
    for level in levels:
        setting = [(level.sizes[level.best], 0.0)]
        priors = [*plain.priors(setting), *mirrored.priors(setting)]
        errors = _error_products(priors, held_out, level.sigma, level.seed).diagonal()
        of_plain, of_mirrored = np.log(np.maximum(errors, np.finfo(np.float64).tiny))
        total += of_mirrored - of_plain
    return bool(total < 0)


def _united(blends):
    """Return the settings of all noise levels, S of them, and the weights (L, S + 1)."""
    pairs = [zip(settings, weights[1:], strict=True) for settings, weights in blends]
    by_level = [{setting: weight for setting, weight in level if weight} for level in pairs]
    settings = sorted(set().union(*by_level))
    weights = np.zeros((len(blends), len(settings) + 1))
    weights[:, 0] = [of_level[0] for _, of_level in blends]
    for row, level in zip(weights, by_level, strict=True):
        row[1:] = [level.get(setting, 0.0) for setting in settings]
    return settings, weights


def _error_products(priors, held_out, sigma, seed):
    """Return the mean products per pixel of the errors of priors on noisy images, (M, M)."""
    weight = torch.from_numpy(relative_weights(held_out)).to(held_out.device)
    product = np.zeros((len(priors), len(priors)))
    row_bytes = 3 * 8 * held_out.n_values * len(priors)
    for rows, clean, z, levels in noisy_blocks(held_out, [sigma], seed):
        n_rows = rows_that_fit(row_bytes, len(z), what="One noisy image in all denoisers")
        blocks = (tensor.split(n_rows) for tensor in (clean, z, levels, weight[rows]))
        for x, noisy, level, share in zip(*blocks, strict=True):
            with torch.no_grad(), filtered_images_kept():
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
    """Return the members besides member 0 of the blend of least error, and its weights.

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
    """
    tried = []
    for members in combinations(range(1, len(product)), min(n_sizes, len(product) - 1)):
        part = product[np.ix_((0, *members), (0, *members))]
        weights = simplex_weights(part)
        tried.append((members, weights, weights @ part @ weights))
    # the first of equals: they differ by rounding alone
    least = min(error for _, _, error in tried)
    return next(blend[:2] for blend in tried if blend[2] <= least + _EQUAL * abs(least))
