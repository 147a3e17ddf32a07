"""Schedules of other libraries as the noise-level input of a network."""

import math

import numpy as np
import torch

from .._optional import load
from ..sampling.convert import NearestStep

_AZULA = ("VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule", "DecaySchedule")
_N_STEPS = 1000
_N_BISECTIONS = 64  # halve an interval of times until float64 cannot


def resolved(time):
    """Return two functions of noise levels (n,): the input c, and the scale of the noisy images.

    Both are None if the parametrization determines them.

    Parameters
    ----------
    time : callable, schedule, str or None
        See `NetworkDenoiser`.

    Raises
    ------
    ValueError
        If ``time`` is none of these.
    """
    if isinstance(time, str):
        time = _named(time)
    if time is None:
        return None, None
    if getattr(time, "alphas_cumprod", None) is not None:
        return NearestStep(_with_signal(time.alphas_cumprod)), _vp_scale
    if any(base.__module__ == "azula.noise" for base in type(time).__mro__):
        of_azula = _OfAzula(time)
        return of_azula, of_azula.signal
    if hasattr(time, "sigma_to_t"):
        return _OfKDiffusion(time), None
    if callable(time):
        return time, None
    raise ValueError(_message(time))


def _named(name):
    """Return the schedule of a name."""
    if name == "linear":
        return _Betas(np.linspace(1e-4, 0.02, _N_STEPS))
    if name == "squaredcos_cap_v2":
        return _Betas(_cosine_betas())
    if name == "VDenoiser":
        return _arc
    if name in _AZULA:
        return getattr(load("azula.noise"), name)()
    raise ValueError(_message(name))


def _message(time):
    names = ", ".join(map(repr, ("linear", "squaredcos_cap_v2", "VDenoiser", *_AZULA)))
    return (
        "The 'time' parameter of NetworkDenoiser must be a callable, a schedule of diffusers, "
        f"azula or k-diffusion, None, or one of {names}. Got {time!r} instead."
    )


class _Betas:
    """A variance preserving schedule of discrete steps."""

    def __init__(self, betas):
        self.alphas_cumprod = np.cumprod(1 - betas)


def _cosine_betas():
    """Return the betas of Nichol and Dhariwal (2021), Eq. 17, at most 0.999."""
    ends = np.arange(_N_STEPS + 1) / _N_STEPS
    alpha_bar = np.cos((ends + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def _with_signal(alpha_bar):
    """Return the steps of a schedule that have signal, float64: a last step may have none."""
    if isinstance(alpha_bar, torch.Tensor):
        alpha_bar = alpha_bar.detach().cpu()
    values = np.asarray(alpha_bar, dtype=np.float64)
    return values[: len(values) - np.argmax(values[::-1] > 0)] if values.ndim == 1 else values


def _vp_scale(sigma):
    return (1 + sigma.square()).rsqrt()


def _arc(sigma):
    """Return t of v-diffusion, where the noisy image is cos(t pi / 2) x0 + sin(t pi / 2) eps."""
    return sigma.atan() * (2 / math.pi)


class _OfKDiffusion:
    """``sigma_to_t`` of an object of k-diffusion, on the device of the noise levels."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, sigma):
        place = getattr(self.schedule, "sigmas", sigma)
        return self.schedule.sigma_to_t(sigma.to(place.device, place.dtype)).to(sigma.device)


class _OfAzula:
    """The time of a schedule of azula at noise levels, by bisection."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, sigma):
        low, high = torch.zeros_like(sigma), torch.ones_like(sigma)
        for _ in range(_N_BISECTIONS):
            middle = (low + high) / 2
            signal, noise = self.schedule(middle)
            is_less = noise < sigma * signal
            low, high = torch.where(is_less, middle, low), torch.where(is_less, high, middle)
        return (low + high) / 2

    def signal(self, sigma):
        """Return the scale alpha of the clean images at noise levels."""
        return self.schedule(self(sigma))[0]
