"""Patch sizes and bandwidths of least error on held-out training images."""

import math
import numbers
from dataclasses import replace

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from ..sampling import BandwidthSchedule, PatchSchedule, edm_sigmas, noise_seed
from ..sampling.choice import least_total, patch_sizes
from ..support import squares_of_side
from ..support.held_out import held_out_errors, noisy_blocks
from ..support.holdout import different
from ..support.memory import rows_that_fit

BANDWIDTH_CONSTRAINT = [
    Interval(numbers.Real, 0, 1, closed="both"),
    callable,
    StrOptions({"calibrated"}),
]

# Images held out, and images fitted.
_HELD_OUT = 16
_FITTED = 1000
# Noise levels that are tried, in standard deviations of a pixel. Sizes: at the first the smallest
# patches serve, at the last all sizes give nearly the mean image.
_SIZE_LEVELS = tuple(edm_sigmas(9, 0.05, 32.0)[::-1].tolist())
_BANDWIDTH_LEVELS = tuple(edm_sigmas(7, 0.05, 8.0).tolist())
_BANDWIDTHS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
_NO_SPREAD = 1e-13  # beside the size of the data: nothing but rounding


def trial_split(training_set, seed):
    """Return different training images, two of TrainingSet: held-out images, and images to fit.

    Of a single image there are none to fit.
    """
    rng = np.random.default_rng(seed)
    drawn = different(training_set, _HELD_OUT + _FITTED, rng)
    n_held = min(_HELD_OUT, math.ceil(len(drawn) / 10))
    return drawn.subset(slice(n_held)), drawn.subset(slice(n_held, None))


def calibrated_sizes(denoiser, training_set):
    """Return the patch sizes of least error on held-out training images, never falling with sigma.

    Parameters
    ----------
    denoiser : PSPCDenoiser
    training_set : TrainingSet

    Returns
    -------
    PatchSchedule
        The paper's, if there are too few images to hold any out, or all are equal.
    """
    seed = noise_seed(denoiser.random_state)
    held, rest = trial_split(training_set, seed)
    spread = _pixel_variance(rest) ** 0.5 if len(rest) else 0.0
    if spread <= _NO_SPREAD * training_set.abs_max:
        return denoiser._paper_schedule(training_set.image_shape)
    # a bandwidth that is calibrated too is calibrated afterwards, with these sizes
    bandwidth = 0.0 if isinstance(denoiser.bandwidth, str) else denoiser.bandwidth
    trial = denoiser._make_prior(rest, bandwidth)
    sizes = patch_sizes(held.image_shape)
    sigmas = [spread * level for level in _SIZE_LEVELS]
    means = (replace(trial, windows=squares_of_side(size, held.image_shape)).mean for size in sizes)
    errors = held_out_errors(means, held, sigmas, seed)
    chosen = least_total(errors @ _shares(held))
    return PatchSchedule(sigmas, [sizes[k] for k in chosen])


def with_bandwidth(denoiser, training_set):
    """Return the prior that a denoiser makes of a training set, with its parameter ``bandwidth``.

    Parameters
    ----------
    denoiser : EmpiricalDenoiser, PatchDenoiser or PSPCDenoiser
        Its ``_make_prior(training_set, bandwidth)`` gives a prior of a bandwidth that is known.
    training_set : TrainingSet

    Returns
    -------
    Prior or CropPriors
    """
    bandwidth = denoiser.bandwidth
    if not isinstance(bandwidth, str):
        return denoiser._make_prior(training_set, bandwidth)
    prior = denoiser._make_prior(training_set, 1.0)
    return prior.with_bandwidth(calibrated_bandwidth(denoiser, prior, training_set))


def bandwidth_attribute(denoiser, bandwidth):
    """Return the public attribute of a calibrated bandwidth, a dict; empty if it was given."""
    return {"bandwidth_schedule_": bandwidth} if isinstance(denoiser.bandwidth, str) else {}


def calibrated_bandwidth(denoiser, prior, training_set):
    """Return the bandwidths of least error on held-out training images at each noise level.

    Parameters
    ----------
    denoiser : EmpiricalDenoiser, PatchDenoiser or PSPCDenoiser
    prior : Prior or CropPriors
        Of all training images, with their Gaussian, whose variance sets the noise levels.
    training_set : TrainingSet

    Returns
    -------
    BandwidthSchedule
    """
    seed = noise_seed(denoiser.random_state)
    held, rest = trial_split(training_set, seed)
    spread = prior.pixel_variance**0.5
    if len(rest) == 0 or spread <= _NO_SPREAD * training_set.abs_max:
        return BandwidthSchedule([1.0], [0.0])
    trial = denoiser._make_prior(rest, 1.0)
    sigmas = [spread * level for level in _BANDWIDTH_LEVELS]
    chosen = [_best_bandwidth(trial, held, sigma, seed) for sigma in sigmas]
    return BandwidthSchedule(sigmas, chosen)


def _best_bandwidth(prior, held, sigma, seed):
    """Return the bandwidth of least squared error; past the first valley two more are tried."""
    ((_, clean, noisy, _),) = noisy_blocks(held, [sigma], seed)
    target = prior.answered(clean).double()
    least, best, n_worse = math.inf, 0.0, 0
    with torch.no_grad():
        means = prior.means_by_bandwidth(noisy, sigma, _BANDWIDTHS)
        for bandwidth, mean in zip(_BANDWIDTHS, means, strict=False):
            error = (mean - target).square().flatten(1).mean(1).cpu().numpy() @ _shares(held)
            n_worse += 1
            if error < least:
                least, best, n_worse = error, bandwidth, 0
            if n_worse == 2:
                break
    return best


def _shares(training_set):
    """Return sample weights with a sum of one, an array (n,)."""
    weight = training_set.sample_weight.cpu().numpy()
    return weight / weight.sum()


def _pixel_variance(training_set):
    """Return the mean variance of a pixel."""
    weight = training_set.sample_weight / training_set.sample_weight.sum()
    row_bytes = 2 * 8 * training_set.n_values
    n_rows = rows_that_fit(row_bytes, len(training_set), what="One training image")
    mean, variance = 0.0, 0.0
    for rows in training_set.slices(n_rows):
        mean = mean + weight[rows] @ training_set.take(rows, torch.float64).flatten(1)
    for rows in training_set.slices(n_rows):
        images = training_set.take(rows, torch.float64).flatten(1)
        variance += float(weight[rows] @ (images - mean).square().mean(1))
    return variance
