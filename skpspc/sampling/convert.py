r"""One noisy image in three notations, one answer in five.

Variance exploding (VE, this library's): ``z = x0 + sigma * eps``. The others are z scaled:

- variance preserving (VP, DDPM): ``x_t = sqrt(abar) x0 + sqrt(1 - abar) eps``, which is
  ``z / sqrt(1 + sigma^2)`` with ``abar = 1 / (1 + sigma^2)``;
- flow matching: ``x_t = t x0 + (1 - t) eps``, which is ``z / (1 + sigma)`` with
  ``t = 1 / (1 + sigma)``; t = 1 is the clean image.

A network answers with the clean image x0, or with

- eps, the noise ``(z - x0) / sigma`` (Ho et al. 2020);
- score, the gradient of log p(z): ``(x0 - z) / sigma^2`` (Song et al. 2021);
- v, ``sqrt(abar) eps - sqrt(1 - abar) x0 = (eps - sigma x0) / sqrt(1 + sigma^2)`` (Salimans
  and Ho 2022);
- velocity, ``d x_t / d t = x0 - eps`` of flow matching (Lipman et al. 2023).

Every function takes arrays or tensors and returns the like; ``sigma`` is a float or one number
for each image, (n,), and positive where it divides. Some authors run t from the image to the
noise, with the opposite velocity: pass ``1 - t`` and ``-velocity``.
"""

import numpy as np
import torch


def sigma_from_alpha_bar(alpha_bar):
    """Noise level of a VP image: ``sqrt((1 - abar) / abar)``.

    Parameters
    ----------
    alpha_bar : float or array
        In (0, 1].

    Returns
    -------
    float or array

    Raises
    ------
    ValueError
        If a value is out of range.

    Examples
    --------
    >>> float(sigma_from_alpha_bar(0.5))
    1.0
    """
    alpha_bar = _in_unit_interval(alpha_bar, "alpha_bar")
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def alpha_bar_from_sigma(sigma):
    """Share of the signal's variance in a VP image: ``1 / (1 + sigma^2)``.

    Parameters
    ----------
    sigma : float or array

    Returns
    -------
    float or array
    """
    sigma = _values(sigma)
    return 1 / (1 + sigma**2)


def sigma_from_flow_time(t):
    """Noise level at a time of flow matching, t = 1 the clean image: ``(1 - t) / t``.

    Parameters
    ----------
    t : float or array
        In (0, 1].

    Returns
    -------
    float or array

    Raises
    ------
    ValueError
        If a value is out of range.
    """
    t = _in_unit_interval(t, "t")
    return (1 - t) / t


def flow_time_from_sigma(sigma):
    """Time of flow matching, t = 1 the clean image: ``1 / (1 + sigma)``.

    Parameters
    ----------
    sigma : float or array

    Returns
    -------
    float or array
    """
    return 1 / (1 + _values(sigma))


def vp_from_ve(z, sigma):
    """The VP image ``z / sqrt(1 + sigma^2)``."""
    return z / _vp_scale(along(sigma, z))


def ve_from_vp(x_t, sigma):
    """The VE image of a VP one: ``x_t * sqrt(1 + sigma^2)``."""
    return x_t * _vp_scale(along(sigma, x_t))


def flow_from_ve(z, sigma):
    """The image of flow matching, ``z / (1 + sigma)``."""
    return z / (1 + along(sigma, z))


def ve_from_flow(x_t, sigma):
    """The VE image of one of flow matching: ``x_t * (1 + sigma)``."""
    return x_t * (1 + along(sigma, x_t))


def eps_from_x0(x0, z, sigma):
    """The noise ``(z - x0) / sigma``."""
    return (z - x0) / along(sigma, z)


def x0_from_eps(eps, z, sigma):
    """The clean image ``z - sigma * eps``."""
    return z - along(sigma, z) * eps


def score_from_x0(x0, z, sigma):
    """The score ``(x0 - z) / sigma^2`` (Tweedie's formula)."""
    sigma = along(sigma, z)
    return (x0 - z) / sigma / sigma


def x0_from_score(score, z, sigma):
    """The clean image ``z + sigma^2 * score``."""
    sigma = along(sigma, z)
    return z + sigma * (sigma * score)


def v_from_x0(x0, z, sigma):
    """The v of progressive distillation, ``(eps - sigma * x0) / sqrt(1 + sigma^2)``."""
    sigma = along(sigma, z)
    return ((z - x0) / sigma - sigma * x0) / _vp_scale(sigma)


def x0_from_v(v, z, sigma):
    """The clean image ``(z / sqrt(1 + sigma^2) - sigma * v) / sqrt(1 + sigma^2)``."""
    sigma = along(sigma, z)
    scale = _vp_scale(sigma)
    return (z / scale - sigma * v) / scale


def velocity_from_x0(x0, z, sigma):
    """The velocity of flow matching, ``x0 - (z - x0) / sigma``."""
    return x0 - (z - x0) / along(sigma, z)


def x0_from_velocity(velocity, z, sigma):
    """The clean image ``(z + sigma * velocity) / (1 + sigma)``."""
    sigma = along(sigma, z)
    return (z + sigma * velocity) / (1 + sigma)


class NearestStep:
    """Step of a discrete VP schedule whose noise level is nearest to a sigma.

    Parameters
    ----------
    alpha_bar : sequence of float
        Cumulative products of a DDPM, by step (``alphas_cumprod``); each in (0, 1].

    Raises
    ------
    ValueError
        If a value is out of range, or there is none.

    Examples
    --------
    >>> import torch
    >>> NearestStep([0.99, 0.5, 0.1])(torch.tensor([0.9, 100.0]))
    tensor([1, 2])
    """

    def __init__(self, alpha_bar):
        self.alpha_bar = alpha_bar
        if np.ndim(alpha_bar) != 1 or len(alpha_bar) == 0:
            raise ValueError(
                f"alpha_bar must hold one number for each step, got shape {np.shape(alpha_bar)}."
            )
        sigma_from_alpha_bar(alpha_bar)

    def __call__(self, sigma):
        """Indices of the nearest steps, a tensor (n,) of int64."""
        grid = torch.as_tensor(np.asarray(self.alpha_bar, dtype=np.float64))
        levels = sigma_from_alpha_bar(grid).to(sigma.device)
        inside = sigma.to(torch.float64).clamp(levels.min(), levels.max())
        return (inside[:, None] - levels).abs().argmin(1)

    def __repr__(self):
        return f"NearestStep(<{len(self.alpha_bar)} steps>)"


def _vp_scale(sigma):
    return (1 + sigma**2) ** 0.5


def _values(numbers):
    """Numbers as they are, sequences as an array."""
    return np.asarray(numbers, dtype=np.float64) if isinstance(numbers, (list, tuple)) else numbers


def _in_unit_interval(numbers, name):
    numbers = _values(numbers)
    inside = (numbers > 0) & (numbers <= 1)
    if not (inside if isinstance(inside, bool) else inside.all()):
        raise ValueError(
            f"{name} must be in (0, 1], got {numbers!r}; where nothing of the image is left "
            "(0) there is no finite sigma."
        )
    return numbers


def along(sigma, images):
    """Sigma, or another number an image, such that it multiplies images.

    Parameters
    ----------
    sigma : float, or array or Tensor of shape (n,)
    images : array or Tensor of shape (n, ...)

    Returns
    -------
    float, or array or Tensor of shape (n, 1, ...)
        In the container and dtype of the images.
    """
    if np.ndim(sigma) == 0:
        return sigma if isinstance(sigma, torch.Tensor) else float(sigma)
    if isinstance(images, torch.Tensor):
        sigma = torch.as_tensor(sigma).to(images)
    else:
        images = np.asarray(images)
        kept = images.dtype if images.dtype.kind == "f" else np.float64
        sigma = np.asarray(sigma, dtype=kept)
    return sigma.reshape(sigma.shape + (1,) * (images.ndim - sigma.ndim))
