"""What denoisers share that may blur their training images along the data's covariance."""

import numbers
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils._param_validation import Interval, StrOptions

from ..posterior import Gaussian, Posterior
from ..sampling import BandwidthSchedule, edm_sigmas, noise_seed
from .base import BaseDenoiser

# Calibration: images held out, images fitted, and what is tried.
_HELD_OUT = 16
_FITTED = 2000
_SPREADS = tuple(edm_sigmas(7, 0.05, 8.0).tolist())  # noise levels, in standard deviations
_BANDWIDTHS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)


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
            bandwidth = self.bandwidth_schedule_
        if callable(bandwidth):
            bandwidth = bandwidth(sigma)
        if not (isinstance(bandwidth, numbers.Real) and 0 <= float(bandwidth) <= 1):
            raise ValueError(
                f"bandwidth must give a number between 0 and 1 at every sigma, got {bandwidth!r} "
                f"at sigma = {sigma}."
            )
        return float(bandwidth)

    def _by_bandwidth(self, z, sigma, plain, smoothed):
        """The posterior of noisy images, each at the bandwidth of its noise level.

        Parameters
        ----------
        z : Tensor of shape (n, C, H, W)
        sigma : Tensor of shape (n,)
        plain : callable
            ``plain(z, sigma)`` gives the posterior where the bandwidth is zero.
        smoothed : callable
            ``smoothed(z, level, bandwidth)`` that of images of one noise level, a float.
        """
        if not self._smooths:
            return plain(z, sigma)
        levels = sigma.tolist()
        bandwidths = [self._bandwidth_at(level) for level in levels]
        keys = [(h, level if h else 0.0) for h, level in zip(bandwidths, levels, strict=True)]

        def of_one_kind(rows, key):
            bandwidth, level = key
            if bandwidth == 0:
                return plain(z[rows], sigma[rows])
            return smoothed(z[rows], level, bandwidth)

        return Posterior.by_group(keys, of_one_kind)


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
    known = denoiser.training_set_
    spread = pixel_spread(denoiser)
    n_held = min(_HELD_OUT, -(-len(known) // 10))
    if len(known) == n_held or spread == 0:
        return BandwidthSchedule([1.0], [0.0])
    seed = noise_seed(denoiser.random_state)
    order = np.random.default_rng(seed).permutation(len(known))[: n_held + _FITTED]
    held, rest = torch.from_numpy(order).to(known.device).tensor_split([n_held])
    weight = known.sample_weight
    model = clone(denoiser).set_params(bandwidth=1.0, random_state=seed)
    model.set_params(image_shape=known.image_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said before, of the denoiser itself
        model.fit(known.images[rest], sample_weight=None if weight is None else weight[rest])
    clean = known.images[held]
    sigmas = [spread * level for level in _SPREADS]
    return BandwidthSchedule(sigmas, [best_bandwidth(model, clean, sigma) for sigma in sigmas])


def best_bandwidth(model, clean, sigma):
    """The bandwidth of highest score; past the first peak only the next two are tried."""
    scores = {}
    for bandwidth in _BANDWIDTHS:
        scores[bandwidth] = model.set_params(bandwidth=bandwidth).score(clean, sigmas=[sigma])
        best = max(scores, key=scores.__getitem__)
        if _BANDWIDTHS.index(bandwidth) >= _BANDWIDTHS.index(best) + 2:
            break
    return best


def pixel_spread(denoiser):
    """Root of the mean variance of a pixel, over all that is seen."""
    gaussians = [denoiser._gaussian(place) for place in denoiser._places]
    return float(np.mean([float(g.eigenvalues.sum()) / len(g.mean) for g in gaussians])) ** 0.5
