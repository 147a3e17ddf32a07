r"""Conversions between three notations of noisy images and five outputs of networks.

Variance exploding (VE, this library's): ``z = x0 + sigma * eps``. The other notations scale z:

- variance preserving (VP, DDPM): ``x_t = sqrt(abar) x0 + sqrt(1 - abar) eps``, which is
  ``z / sqrt(1 + sigma^2)`` with ``abar = 1 / (1 + sigma^2)``;
- flow matching: ``x_t = t x0 + (1 - t) eps``, which is ``z / (1 + sigma)`` with
  ``t = 1 / (1 + sigma)``; t = 1 is the clean image.

A network returns the clean image x0, or

- eps, the noise ``(z - x0) / sigma`` (Ho et al. 2020);
- score, the gradient of log p(z): ``(x0 - z) / sigma^2`` (Song et al. 2021);
- v, ``sqrt(abar) eps - sqrt(1 - abar) x0 = (eps - sigma x0) / sqrt(1 + sigma^2)`` (Salimans
  and Ho 2022);
- velocity, ``d x_t / d t = x0 - eps`` of flow matching (Lipman et al. 2023).

Functions of noisy images take arrays or tensors (n, ...) and return the shape, container and float
dtype of the noisy images; ints become floats. Authors whose t runs from the image to the noise have
the opposite velocity: pass ``1 - t`` and ``-velocity``.
"""

import numpy as np
import torch

from .._validation import check_sigma

__all__ = [
    "NearestStep",
    "along",
    "alpha_bar_from_sigma",
    "eps_from_x0",
    "flow_from_ve",
    "flow_time_from_sigma",
    "score_from_x0",
    "sigma_from_alpha_bar",
    "sigma_from_flow_time",
    "v_from_x0",
    "ve_from_flow",
    "ve_from_vp",
    "velocity_from_x0",
    "vp_from_ve",
    "x0_from_eps",
    "x0_from_score",
    "x0_from_v",
    "x0_from_velocity",
]


def vp_from_ve(z, sigma):
    """Return the VP image ``z / sqrt(1 + sigma^2)``.

    Parameters
    ----------
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return z / _vp_scale(along(sigma, z))


def ve_from_vp(x_t, sigma):
    """Return the VE image of a VP image, ``x_t * sqrt(1 + sigma^2)``.

    Parameters
    ----------
    x_t : array or Tensor of shape (n, ...)
        Noisy images, VP.
    sigma
        As in :func:`vp_from_ve`, with its errors.
    """
    return x_t * _vp_scale(along(sigma, x_t))


def flow_from_ve(z, sigma):
    """Return the image of flow matching, ``z / (1 + sigma)``.

    Parameters
    ----------
    z, sigma
        As in :func:`vp_from_ve`, with its errors.
    """
    return z / (1 + along(sigma, z))


def ve_from_flow(x_t, sigma):
    """Return the VE image of an image of flow matching, ``x_t * (1 + sigma)``.

    Parameters
    ----------
    x_t : array or Tensor of shape (n, ...)
        Noisy images, of flow matching.
    sigma
        As in :func:`vp_from_ve`, with its errors.
    """
    return x_t * (1 + along(sigma, x_t))


def eps_from_x0(x0, z, sigma):
    """Return the noise ``(z - x0) / sigma``.

    Parameters
    ----------
    x0 : array or Tensor of shape (n, ...)
        Clean images.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and positive.

    Raises
    ------
    ValueError
        If sigma is zero, negative, infinite or NaN, or neither one number nor one for each image.
    """
    return (z - x0) / _divisor(sigma, z)


def x0_from_eps(eps, z, sigma):
    """Return the clean image ``z - sigma * eps``.

    Parameters
    ----------
    eps : array or Tensor of shape (n, ...)
        The noise.
    z, sigma
        As in :func:`vp_from_ve`, with its errors.
    """
    return z - along(sigma, z) * eps


def score_from_x0(x0, z, sigma):
    """Return the score ``(x0 - z) / sigma^2`` (Tweedie's formula).

    Parameters
    ----------
    x0, z, sigma
        As in :func:`eps_from_x0`, with its errors.
    """
    sigma = _divisor(sigma, z)
    return (x0 - z) / sigma / sigma


def x0_from_score(score, z, sigma):
    """Return the clean image ``z + sigma^2 * score``.

    Parameters
    ----------
    score : array or Tensor of shape (n, ...)
        Gradients of log p(z).
    z, sigma
        As in :func:`vp_from_ve`, with its errors.
    """
    sigma = along(sigma, z)
    return z + sigma * (sigma * score)


def v_from_x0(x0, z, sigma):
    """Return the v of progressive distillation, ``(eps - sigma * x0) / sqrt(1 + sigma^2)``.

    Parameters
    ----------
    x0, z, sigma
        As in :func:`eps_from_x0`, with its errors.
    """
    sigma = _divisor(sigma, z)
    return ((z - x0) / sigma - sigma * x0) / _vp_scale(sigma)


def x0_from_v(v, z, sigma):
    """Return the clean image ``(z / sqrt(1 + sigma^2) - sigma * v) / sqrt(1 + sigma^2)``.

    Parameters
    ----------
    v : array or Tensor of shape (n, ...)
        The v of progressive distillation.
    z, sigma
        As in :func:`vp_from_ve`, with its errors.
    """
    sigma = along(sigma, z)
    scale = _vp_scale(sigma)
    return (z / scale - sigma * v) / scale


def velocity_from_x0(x0, z, sigma):
    """Return the velocity of flow matching, ``x0 - (z - x0) / sigma``; t = 1 is the clean image.

    Parameters
    ----------
    x0, z, sigma
        As in :func:`eps_from_x0`, with its errors.
    """
    return x0 - (z - x0) / _divisor(sigma, z)


def x0_from_velocity(velocity, z, sigma):
    """Return the clean image ``(z + sigma * velocity) / (1 + sigma)``.

    Parameters
    ----------
    velocity : array or Tensor of shape (n, ...)
        The velocity of flow matching, t = 1 the clean image.
    z, sigma
        As in :func:`vp_from_ve`, with its errors.
    """
    sigma = along(sigma, z)
    return (z + sigma * velocity) / (1 + sigma)


def sigma_from_alpha_bar(alpha_bar):
    """Return the noise level of a VP image, ``sqrt((1 - abar) / abar)``.

    Parameters
    ----------
    alpha_bar : float or array
        In (0, 1]; anything else raises ValueError.

    Returns
    -------
    float or array

    Examples
    --------
    >>> float(sigma_from_alpha_bar(0.5))
    1.0
    """
    alpha_bar = _in_unit_interval(alpha_bar, "alpha_bar")
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def alpha_bar_from_sigma(sigma):
    """Return the fraction of a VP image's variance that is signal, ``1 / (1 + sigma^2)``.

    Parameters
    ----------
    sigma : float or array
        Non-negative, inf included; anything else raises ValueError.

    Returns
    -------
    float or array
    """
    return 1 / (1 + _non_negative(sigma) ** 2)


def sigma_from_flow_time(t):
    """Return the noise level at time t of flow matching, ``(1 - t) / t``; t = 1 is the clean image.

    Parameters
    ----------
    t : float or array
        In (0, 1]; anything else raises ValueError.

    Returns
    -------
    float or array
    """
    t = _in_unit_interval(t, "t")
    return (1 - t) / t


def flow_time_from_sigma(sigma):
    """Return the time of flow matching, ``1 / (1 + sigma)``; t = 1 is the clean image.

    Parameters
    ----------
    sigma : float or array
        Non-negative, inf included; anything else raises ValueError.

    Returns
    -------
    float or array
    """
    return 1 / (1 + _non_negative(sigma))


class NearestStep:
    """The step of a discrete VP schedule with the noise level nearest to a sigma.

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
        """Return the indices of the nearest steps, a tensor (n,) of int64."""
        grid = torch.as_tensor(np.asarray(self.alpha_bar, dtype=np.float64))
        levels = sigma_from_alpha_bar(grid).to(sigma.device)
        inside = sigma.to(torch.float64).clamp(levels.min(), levels.max())
        return (inside[:, None] - levels).abs().argmin(1)

    def __repr__(self):
        return f"NearestStep(<{len(self.alpha_bar)} steps>)"


def along(sigma, images):
    """Return sigma, or another number for each image, in a shape that multiplies images.

    Parameters
    ----------
    sigma : float, or array or Tensor of shape (n,)
        Finite and non-negative.
    images : array or Tensor of shape (n, ...)

    Returns
    -------
    float, or array or Tensor of shape (n, 1, ...)
        In the container and float dtype of the images; for images of ints, in the default float
        dtype of their library.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    levels = check_sigma(sigma, len(images))
    if levels.isinf().any():
        raise ValueError("sigma must be finite, got inf; there is no image with such noise.")
    if np.ndim(sigma) == 0:
        return sigma if isinstance(sigma, torch.Tensor) else float(sigma)
    if isinstance(images, torch.Tensor):
        dtype = images.dtype if images.is_floating_point() else torch.get_default_dtype()
        sigma = sigma if isinstance(sigma, torch.Tensor) else torch.as_tensor(np.asarray(sigma))
        sigma = sigma.to(images.device, dtype)
    else:
        images = np.asarray(images)
        kept = images.dtype if images.dtype.kind == "f" else np.float64
        sigma = np.asarray(sigma, dtype=kept)
    return sigma.reshape(-1, *(1,) * (images.ndim - 1))


def _divisor(sigma, images):
    """Return `along` of a positive sigma, which divides."""
    if not (check_sigma(sigma, len(images)) > 0).all():
        raise ValueError(
            "sigma must be positive here, got 0: without noise z equals x0 and has no direction."
        )
    return along(sigma, images)


def _vp_scale(sigma):
    return (1 + sigma**2) ** 0.5


def _values(numbers):
    """Return lists and tuples as an array, other numbers unchanged."""
    return np.asarray(numbers, dtype=np.float64) if isinstance(numbers, (list, tuple)) else numbers


def _non_negative(sigma):
    sigma = _values(sigma)
    if not torch.as_tensor(sigma >= 0).all():
        raise ValueError(f"sigma must be non-negative, got {sigma!r}; it is a noise level.")
    return sigma


def _in_unit_interval(numbers, name):
    numbers = _values(numbers)
    if not torch.as_tensor((numbers > 0) & (numbers <= 1)).all():
        raise ValueError(
            f"{name} must be in (0, 1], got {numbers!r}; at 0 nothing of the image is "
            "left, and sigma is infinite."
        )
    return numbers
