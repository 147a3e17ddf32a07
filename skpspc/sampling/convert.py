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

Every function takes arrays or tensors and returns the like, floats for ints; ``sigma`` is a float
or one number for each image, (n,), and positive where it divides. Some authors run t from the image
to the noise, with the opposite velocity: pass ``1 - t`` and ``-velocity``.
"""

import numpy as np
import torch

from .._validation import check_sigma
from ._levels import (
    NearestStep,
    alpha_bar_from_sigma,
    flow_time_from_sigma,
    sigma_from_alpha_bar,
    sigma_from_flow_time,
)

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
    """The VP image ``z / sqrt(1 + sigma^2)``.

    Parameters
    ----------
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        VP images, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return z / _vp_scale(along(sigma, z))


def ve_from_vp(x_t, sigma):
    """The VE image of a VP one: ``x_t * sqrt(1 + sigma^2)``.

    Parameters
    ----------
    x_t : array or Tensor of shape (n, ...)
        Noisy images, VP.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        VE images, in the container and float dtype of x_t.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return x_t * _vp_scale(along(sigma, x_t))


def flow_from_ve(z, sigma):
    """The image of flow matching, ``z / (1 + sigma)``.

    Parameters
    ----------
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Images of flow matching, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return z / (1 + along(sigma, z))


def ve_from_flow(x_t, sigma):
    """The VE image of one of flow matching: ``x_t * (1 + sigma)``.

    Parameters
    ----------
    x_t : array or Tensor of shape (n, ...)
        Noisy images, of flow matching.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        VE images, in the container and float dtype of x_t.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return x_t * (1 + along(sigma, x_t))


def eps_from_x0(x0, z, sigma):
    """The noise ``(z - x0) / sigma``.

    Parameters
    ----------
    x0 : array or Tensor of shape (n, ...)
        Clean images.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and positive.

    Returns
    -------
    array or Tensor of shape (n, ...)
        The noise, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is zero, negative, infinite or NaN, or neither one number nor one for each image.
    """
    return (z - x0) / _divisor(sigma, z)


def x0_from_eps(eps, z, sigma):
    """The clean image ``z - sigma * eps``.

    Parameters
    ----------
    eps : array or Tensor of shape (n, ...)
        The noise.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Clean images, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return z - along(sigma, z) * eps


def score_from_x0(x0, z, sigma):
    """The score ``(x0 - z) / sigma^2`` (Tweedie's formula).

    Parameters
    ----------
    x0 : array or Tensor of shape (n, ...)
        Clean images.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and positive.

    Returns
    -------
    array or Tensor of shape (n, ...)
        The score, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is zero, negative, infinite or NaN, or neither one number nor one for each image.
    """
    sigma = _divisor(sigma, z)
    return (x0 - z) / sigma / sigma


def x0_from_score(score, z, sigma):
    """The clean image ``z + sigma^2 * score``.

    Parameters
    ----------
    score : array or Tensor of shape (n, ...)
        Gradients of log p(z).
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Clean images, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    sigma = along(sigma, z)
    return z + sigma * (sigma * score)


def v_from_x0(x0, z, sigma):
    """The v of progressive distillation, ``(eps - sigma * x0) / sqrt(1 + sigma^2)``.

    Parameters
    ----------
    x0 : array or Tensor of shape (n, ...)
        Clean images.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and positive.

    Returns
    -------
    array or Tensor of shape (n, ...)
        v, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is zero, negative, infinite or NaN, or neither one number nor one for each image.
    """
    sigma = _divisor(sigma, z)
    return ((z - x0) / sigma - sigma * x0) / _vp_scale(sigma)


def x0_from_v(v, z, sigma):
    """The clean image ``(z / sqrt(1 + sigma^2) - sigma * v) / sqrt(1 + sigma^2)``.

    Parameters
    ----------
    v : array or Tensor of shape (n, ...)
        The v of progressive distillation.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Clean images, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    sigma = along(sigma, z)
    scale = _vp_scale(sigma)
    return (z / scale - sigma * v) / scale


def velocity_from_x0(x0, z, sigma):
    """The velocity of flow matching, ``x0 - (z - x0) / sigma``.

    Parameters
    ----------
    x0 : array or Tensor of shape (n, ...)
        Clean images.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and positive.

    Returns
    -------
    array or Tensor of shape (n, ...)
        The velocity, t = 1 the clean image, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is zero, negative, infinite or NaN, or neither one number nor one for each image.
    """
    return x0 - (z - x0) / _divisor(sigma, z)


def x0_from_velocity(velocity, z, sigma):
    """The clean image ``(z + sigma * velocity) / (1 + sigma)``.

    Parameters
    ----------
    velocity : array or Tensor of shape (n, ...)
        The velocity of flow matching, t = 1 the clean image.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Clean images, in the container and float dtype of z.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    sigma = along(sigma, z)
    return (z + sigma * velocity) / (1 + sigma)


def along(sigma, images):
    """Sigma, or another number an image, such that it multiplies images.

    Parameters
    ----------
    sigma : float, or array or Tensor of shape (n,)
        Finite and non-negative.
    images : array or Tensor of shape (n, ...)

    Returns
    -------
    float, or array or Tensor of shape (n, 1, ...)
        In the container and dtype of the images; of ints, in that which they become where a
        float multiplies them.

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
    """The same where it divides."""
    if not (check_sigma(sigma, len(images)) > 0).all():
        raise ValueError(
            "sigma must be positive here, got 0: without noise z is x0, and tells no direction."
        )
    return along(sigma, images)


def _vp_scale(sigma):
    return (1 + sigma**2) ** 0.5
