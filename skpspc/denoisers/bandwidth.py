"""What denoisers share that may blur their training images along the data's covariance."""

import copy
import math
import numbers
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils._param_validation import Interval, StrOptions

from ..posterior import Gaussian, Posterior, shared_levels
from ..posterior.jacobian import smoothed_jacobian
from ..sampling import BandwidthSchedule, draw_noise, edm_sigmas, noise_seed
from ..support.holdout import different
from ._names import named_denoiser
from .base import BaseDenoiser

# Calibration: images held out, images fitted, and what is tried.
_HELD_OUT = 16
_FITTED = 1000
_SPREADS = tuple(edm_sigmas(7, 0.05, 8.0).tolist())  # noise levels, in standard deviations
_BANDWIDTHS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
NO_SPREAD = 1e-13  # beside the size of the data: nothing but rounding


@named_denoiser
class BandwidthDenoiser(BaseDenoiser):
    """Base of denoisers with a parameter ``bandwidth``.

    The training set may be seen from several places, each with a covariance of its own.
    """

    bandwidth: Any
    bandwidth_schedule_: BandwidthSchedule

    _parameter_constraints = {
        **BaseDenoiser._parameter_constraints,
        "bandwidth": [
            Interval(numbers.Real, 0, 1, closed="both"),
            callable,
            StrOptions({"calibrated"}),
        ],
    }

    @property
    def _places(self):
        """Where the training set is seen from."""
        return [None]

    def _seen_from(self, place):
        """The training set seen from a place: the whole of it."""
        return self.training_set_

    @property
    def _smooths(self):
        """Whether the bandwidth may be other than zero."""
        return not (isinstance(self.bandwidth, numbers.Real) and self.bandwidth == 0)

    @property
    def _calibrated_before(self):
        """Parameters with what was calibrated before the bandwidth in their place."""
        return {}

    def _learn_bandwidth(self):
        """Learn what smoothing takes from the training set; at the end of a fit."""
        self._gaussians = {}
        if hasattr(self, "bandwidth_schedule_"):
            del self.bandwidth_schedule_
        if self._smooths:
            for place in self._places:
                self._gaussian(place)
        if isinstance(self.bandwidth, str):
            self.bandwidth_schedule_ = calibrated_schedule(self)

    def _gaussian(self, place=None):
        """Mean and covariance of what is seen from a place."""
        if place not in self._gaussians:
            self._gaussians[place] = Gaussian.of(self._seen_from(place))
        return self._gaussians[place]

    def _bandwidth_at(self, sigma):
        """The bandwidth at a sigma, a float."""
        bandwidth = self.bandwidth
        if isinstance(bandwidth, str):
            if not hasattr(self, "bandwidth_schedule_"):
                raise ValueError("bandwidth='calibrated' was set after the fit; fit again.")
            bandwidth = self.bandwidth_schedule_
        if callable(bandwidth):
            bandwidth = bandwidth(sigma)
        if not (isinstance(bandwidth, numbers.Real) and 0 <= float(bandwidth) <= 1):
            raise ValueError(
                f"bandwidth must give a number between 0 and 1 at every sigma, got {bandwidth!r} "
                f"at sigma = {sigma}."
            )
        return float(bandwidth)

    def _check_plain(self, sigma):
        """Refuse a bandwidth above zero: the answer is then no mean of training images."""
        if self._smooths and self._bandwidth_at(sigma):
            raise self._without_windows(
                f"with a bandwidth of {self._bandwidth_at(sigma):g}, as at sigma = {sigma:g}, "
                "{name} blurs training images and does not answer with means of them; use "
                "bandwidth=0."
            )

    def _differentiated(self, sigma):
        bandwidth = self._bandwidth_at(sigma) if self._smooths else 0.0
        if bandwidth == 0 or not self._blurs_whole(sigma):
            return super()._differentiated(sigma)
        plain = copy.copy(self)
        plain.bandwidth = 0.0
        (place,) = self._places
        known = dict(gaussian=self._gaussian(place), bandwidth=bandwidth)
        return plain._windows(sigma), partial(smoothed_jacobian, **known)

    def _blurs_whole(self, sigma):
        """Whether one filter, of all that is seen, does the smoothing."""
        return len(self._places) == 1

    def _by_bandwidth(self, z, sigma, plain, smoothed, place=None):
        """The posterior of noisy images, each at the bandwidth of its noise level.

        Parameters
        ----------
        z : Tensor of shape (n, C, H, W)
        sigma : Tensor of shape (n,)
        plain : callable
            ``plain(z, sigma)`` gives the posterior where the bandwidth is zero.
        smoothed : callable
            ``smoothed(z, level, bandwidth)`` that of images of one noise level, a float.
        place : object, default None
            Where they are seen from.
        """
        if not self._smooths:
            return plain(z, sigma)
        bandwidths = [self._bandwidth_at(level) for level in sigma.tolist()]
        levels = shared_levels(z, sigma, self._gaussian(place)).tolist()
        keys = [(h, level if h else 0.0) for h, level in zip(bandwidths, levels, strict=True)]

        def of_one_kind(rows, key):
            bandwidth, level = key
            if bandwidth == 0:
                return plain(z[rows], sigma[rows])
            return smoothed(z[rows], level, bandwidth)

        return Posterior.by_group(keys, of_one_kind)

    def _means(self, z, sigma, bandwidths):
        """Posterior means at one noise level, a float, with the bandwidths they are of."""
        level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
        for bandwidth in bandwidths:
            self.bandwidth = bandwidth
            with torch.no_grad():
                yield bandwidth, self._posterior(z, level).mean


def calibrated_schedule(denoiser):
    """The bandwidths of least error on held-out training images.

    Parameters
    ----------
    denoiser : BandwidthDenoiser
        Its training set is known.

    Returns
    -------
    BandwidthSchedule
    """
    spread = pixel_spread(denoiser)
    seed = noise_seed(denoiser.random_state)
    held, rest = held_and_fitted(denoiser, seed)
    if len(rest) == 0 or spread <= NO_SPREAD * denoiser.training_set_.abs_max:
        return BandwidthSchedule([1.0], [0.0])
    model = refitted(denoiser, rest, bandwidth=1.0, **denoiser._calibrated_before)
    noise = draw_noise(held.image_shape, len(held), seed).to(held.device)
    sigmas = [spread * level for level in _SPREADS]
    return BandwidthSchedule(sigmas, [best_bandwidth(model, held, noise, s) for s in sigmas])


def held_and_fitted(denoiser, seed):
    """Some different training images, two of TrainingSet: those held out, and those fitted.

    With one image there are none to fit.
    """
    rng = np.random.default_rng(seed)
    drawn = different(denoiser.training_set_, _HELD_OUT + _FITTED, rng)
    n_held = min(_HELD_OUT, math.ceil(len(drawn) / 10))
    return drawn.subset(slice(n_held)), drawn.subset(slice(n_held, None))


def refitted(denoiser, training_set, **parameters):
    """A clone with other parameters, fitted on other images of the same shape."""
    model = clone(denoiser).set_params(random_state=0, **parameters)
    model.set_params(image_shape=training_set.image_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said before, of the denoiser itself
        model.fit(training_set.images, sample_weight=training_set.sample_weight)
    return model


def best_bandwidth(model, held, noise, sigma):
    """The bandwidth of least squared error; past the first valley only two more are tried.

    Parameters
    ----------
    model : BandwidthDenoiser
        Fitted on other images.
    held : TrainingSet
        Clean images.
    noise : Tensor of shape (n, C, H, W)
    sigma : float

    Returns
    -------
    float
    """
    dtype = torch.float64 if held.images.dtype == torch.float64 else torch.float32
    clean = held.take(slice(0, len(held)), dtype)
    target, share = model._respond(clean).double(), held.sample_weight / held.sample_weight.sum()
    least, best, n_worse = math.inf, 0.0, 0
    for bandwidth, mean in model._means(clean + sigma * noise.to(dtype), sigma, _BANDWIDTHS):
        error = float(share @ (mean - target).square().flatten(1).mean(1))
        n_worse += 1
        if error < least:
            least, best, n_worse = error, bandwidth, 0
        if n_worse == 2:
            break
    return best


def pixel_spread(denoiser):
    """Root of the mean variance of a pixel, over all that is seen."""
    gaussians = [denoiser._gaussian(place) for place in denoiser._places]
    return float(np.mean([float(g.eigenvalues.sum()) / len(g.mean) for g in gaussians])) ** 0.5
