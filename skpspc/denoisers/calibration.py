"""Calibrate patch sizes and bandwidths on held-out training images."""

import math
import numbers
from dataclasses import replace

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from .._progress import progress
from ..sampling import BandwidthSchedule, PatchSchedule, edm_sigmas, noise_seed
from ..sampling.choice import least_total, patch_sizes
from ..support import squares_of_side
from ..support.covariance import pixel_variance
from ..support.held_out import held_out_errors, noisy_blocks
from ..support.holdout import different, without_mirrors

BANDWIDTH_CONSTRAINT = [
    Interval(numbers.Real, 0, 1, closed="both"),
    callable,
    StrOptions({"calibrated"}),
]

# Numbers of images.
_HELD_OUT = 16
_FITTED = 1000
# In standard deviations of a pixel. The smallest patches are best at the first level; at the last,
# all sizes give nearly the mean image.
_SIZE_LEVELS = tuple(edm_sigmas(9, 0.05, 32.0)[::-1].tolist())
_BANDWIDTH_LEVELS = tuple(edm_sigmas(7, 0.05, 8.0).tolist())
_BANDWIDTHS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
_NO_SPREAD = 1e-13  # relative to the largest value: rounding error


def trial_split(training_set, seed):
    """Return two training sets of different images: held-out images, and images to fit.

    A training set of one image leaves none to fit.
    """
    rng = np.random.default_rng(seed)
    drawn = different(training_set, _HELD_OUT + _FITTED, rng)
    n_held_out = min(_HELD_OUT, math.ceil(len(drawn) / 10))
    held_out = drawn.subset(slice(n_held_out))
    fitted = drawn.subset(slice(n_held_out, None))
    return held_out, without_mirrors(fitted, held_out) if len(fitted) else fitted


def calibrated_sizes(denoiser, training_set):
    """Return the `PatchSchedule` of least held-out error whose sizes never fall with sigma.

    It is the paper's if there are too few images to hold any out, or all images are equal.
    """
    seed = noise_seed(denoiser.random_state)
    held_out, fitted = trial_split(training_set, seed)
    spread = pixel_variance(fitted) ** 0.5 if len(fitted) else 0.0
    if spread <= _NO_SPREAD * training_set.abs_max:
        return denoiser._paper_schedule(training_set.image_shape)
    # `with_bandwidth` calibrates the bandwidth afterwards, with these sizes
    bandwidth = 0.0 if isinstance(denoiser.bandwidth, str) else denoiser.bandwidth
    trial = denoiser._make_prior(fitted, bandwidth)
    shape = held_out.image_shape
    sizes = patch_sizes(shape)
    sigmas = [spread * level for level in _SIZE_LEVELS]
    tried = progress(sizes, "patch sizes")
    exact = replace(trial, search=None)
    tapers = denoiser.query_taper, denoiser.response_taper
    squares = (squares_of_side(size, shape, *tapers) for size in tried)
    means = (replace(exact, windows=windows).mean for windows in squares)
    errors = held_out_errors(means, held_out, sigmas, seed)
    chosen = least_total(errors @ relative_weights(held_out))
    return PatchSchedule(sigmas, [sizes[k] for k in chosen])


def with_bandwidth(denoiser, training_set):
    """Return the prior of a training set with a denoiser's ``bandwidth``, given or calibrated.

    The denoiser has a method ``_make_prior(training_set, bandwidth)``.
    """
    bandwidth = denoiser.bandwidth
    if not isinstance(bandwidth, str):
        return denoiser._make_prior(training_set, bandwidth)
    prior = denoiser._make_prior(training_set, 1.0)
    return prior.with_bandwidth(calibrated_bandwidth(denoiser, prior, training_set))


def bandwidth_attribute(denoiser, bandwidth):
    """Return the public attribute of a calibrated bandwidth, a dict; empty for other bandwidths."""
    return {"bandwidth_schedule_": bandwidth} if isinstance(denoiser.bandwidth, str) else {}


def calibrated_bandwidth(denoiser, prior, training_set):
    """Return the `BandwidthSchedule` of least held-out error at each noise level.

    The variance of ``prior``, the prior of all training images, sets the noise levels.
    """
    seed = noise_seed(denoiser.random_state)
    held_out, fitted = trial_split(training_set, seed)
    spread = prior.pixel_variance**0.5
    if len(fitted) == 0 or spread <= _NO_SPREAD * training_set.abs_max:
        return BandwidthSchedule([1.0], [0.0])
    trial = denoiser._make_prior(fitted, 1.0)
    sigmas = [spread * level for level in _BANDWIDTH_LEVELS]
    chosen = [
        _best_bandwidth(trial, held_out, sigma, seed)
        for sigma in progress(sigmas, "noise levels of the bandwidth")
    ]
    return BandwidthSchedule(sigmas, chosen)


def _best_bandwidth(prior, held_out, sigma, seed):
    """Return the bandwidth of least squared error; stop after two in a row without improvement."""
    blocks = list(noisy_blocks(held_out, [sigma], seed))
    weights = relative_weights(held_out)
    least, best, n_worse = math.inf, 0.0, 0
    with torch.no_grad():
        means = [prior.means_by_bandwidth(noisy, sigma, _BANDWIDTHS) for _, _, noisy, _ in blocks]
        for bandwidth, of_blocks in zip(_BANDWIDTHS, zip(*means, strict=True), strict=False):
            error = 0.0
            for (rows, clean, _, _), mean in zip(blocks, of_blocks, strict=True):
                squares = (mean - prior.answered(clean).double()).square().flatten(1).mean(1)
                error += squares.cpu().numpy() @ weights[rows]
            n_worse += 1
            if error < least:
                least, best, n_worse = error, bandwidth, 0
            if n_worse == 2:
                break
    return best


def relative_weights(training_set):
    """Return sample weights with a sum of one, an array (n,)."""
    weight = training_set.sample_weight.cpu().numpy()
    return weight / weight.sum()
