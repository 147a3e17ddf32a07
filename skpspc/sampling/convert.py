r"""Conversions between three notations of noisy images and five outputs of networks.

Denoisers of this library take variance exploding (VE) images, ``z = x0 + sigma * eps``, and return
x0. Two other notations scale z:

- variance preserving (VP, DDPM): ``x_t = sqrt(abar) x0 + sqrt(1 - abar) eps``, which is
  ``z / sqrt(1 + sigma^2)`` with ``abar = 1 / (1 + sigma^2)``;
- flow matching: ``x_t = t x0 + (1 - t) eps``, which is ``z / (1 + sigma)`` with
  ``t = 1 / (1 + sigma)``; t = 1 is the clean image.

A network predicts the clean image x0, or

- eps, the noise ``(z - x0) / sigma`` (Ho et al. 2020);
- score, the gradient of log p(z): ``(x0 - z) / sigma^2`` (Song et al. 2021);
- v, ``sqrt(abar) eps - sqrt(1 - abar) x0 = (eps - sigma x0) / sqrt(1 + sigma^2)`` (Salimans
  and Ho 2022);
- velocity, ``d x_t / d t = x0 - eps`` of flow matching (Lipman et al. 2023).

Functions of noisy images take arrays or tensors (n, ...) and return the shape, container and float
dtype of the noisy images; ints become floats. If t is the time from the clean image (t = 0) to the
noise, pass ``1 - t`` and ``-velocity``.

Examples
--------
A denoiser in place of a network in a sampler of flow matching, which needs the velocity at time t
of an image x_t:

>>> import numpy as np
>>> from skpspc import EmpiricalDenoiser
>>> from skpspc.sampling import convert
>>> X = np.array([[0.0, 1.0], [1.0, 0.0]])
>>> denoiser = EmpiricalDenoiser().fit(X)
>>> t, x_t = 0.75, np.array([[0.2, 0.6]])
>>> sigma = convert.sigma_from_flow_time(t)
>>> z = convert.ve_from_flow(x_t, sigma)
>>> x0 = denoiser.denoise(z, sigma)
>>> convert.velocity_from_x0(x0, z, sigma).round(2)
array([[-0.77,  1.57]])
"""

from collections.abc import Sequence

import numpy as np
import torch

from .._state import NumpyState
from .._typing import Array, ArrayLike, Container, NoiseLevel
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


def vp_from_ve(z: Container, sigma: NoiseLevel) -> Container:
    """Return the VP image ``z / sqrt(1 + sigma^2)``.

    Parameters
    ----------
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Noisy images, VP.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.

    Examples
    --------
    A noisy image of variance ``1 + sigma^2`` becomes an image of variance 1:

    >>> import numpy as np
    >>> from skpspc.sampling.convert import vp_from_ve
    >>> vp_from_ve(np.array([[10.0, -5.0]]), sigma=7.0).round(3)
    array([[ 1.414, -0.707]])
    """
    return z / _vp_scale(along(sigma, z))


def ve_from_vp(x_t: Container, sigma: NoiseLevel) -> Container:
    """Return the VE image of a VP image, ``x_t * sqrt(1 + sigma^2)``.

    Parameters
    ----------
    x_t : array or Tensor of shape (n, ...)
        Noisy images, VP.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Noisy images, VE.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return x_t * _vp_scale(along(sigma, x_t))


def flow_from_ve(z: Container, sigma: NoiseLevel) -> Container:
    """Return the image of flow matching, ``z / (1 + sigma)``.

    Parameters
    ----------
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Noisy images of flow matching.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return z / (1 + along(sigma, z))


def ve_from_flow(x_t: Container, sigma: NoiseLevel) -> Container:
    """Return the VE image of an image of flow matching, ``x_t * (1 + sigma)``.

    Parameters
    ----------
    x_t : array or Tensor of shape (n, ...)
        Noisy images of flow matching.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Noisy images, VE.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return x_t * (1 + along(sigma, x_t))


def eps_from_x0(x0: Container, z: Container, sigma: NoiseLevel) -> Container:
    """Return the noise ``(z - x0) / sigma``.

    Parameters
    ----------
    x0 : array or Tensor of shape (n, ...)
        Clean images, such as the output of a denoiser.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and positive.

    Returns
    -------
    array or Tensor of shape (n, ...)
        The noise, of standard deviation 1.

    Raises
    ------
    ValueError
        If sigma is zero, negative, infinite or NaN, or neither one number nor one for each image.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc.sampling.convert import eps_from_x0
    >>> clean, noisy = np.array([[0.5, -0.5]]), np.array([[1.5, -0.1]])
    >>> eps_from_x0(clean, noisy, sigma=0.5)
    array([[2. , 0.8]])
    """
    return (z - x0) / _divisor(sigma, z)


def x0_from_eps(eps: Container, z: Container, sigma: NoiseLevel) -> Container:
    """Return the clean image ``z - sigma * eps``.

    Parameters
    ----------
    eps : array or Tensor of shape (n, ...)
        The noise, of standard deviation 1.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Clean images.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    return z - along(sigma, z) * eps


def score_from_x0(x0: Container, z: Container, sigma: NoiseLevel) -> Container:
    """Return the score ``(x0 - z) / sigma^2`` (Tweedie's formula).

    Parameters
    ----------
    x0 : array or Tensor of shape (n, ...)
        Clean images, such as the output of a denoiser.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and positive.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Gradients of log p(z).

    Raises
    ------
    ValueError
        If sigma is zero, negative, infinite or NaN, or neither one number nor one for each image.
    """
    level = _divisor(sigma, z)
    return (x0 - z) / level / level


def x0_from_score(score: Container, z: Container, sigma: NoiseLevel) -> Container:
    """Return the clean image ``z + sigma^2 * score``.

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
        Clean images.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    level = along(sigma, z)
    return z + level * (level * score)


def v_from_x0(x0: Container, z: Container, sigma: NoiseLevel) -> Container:
    """Return the v of progressive distillation, ``(eps - sigma * x0) / sqrt(1 + sigma^2)``.

    Parameters
    ----------
    x0 : array or Tensor of shape (n, ...)
        Clean images, such as the output of a denoiser.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and positive.

    Returns
    -------
    array or Tensor of shape (n, ...)
        The v of progressive distillation.

    Raises
    ------
    ValueError
        If sigma is zero, negative, infinite or NaN, or neither one number nor one for each image.
    """
    level = _divisor(sigma, z)
    return ((z - x0) / level - level * x0) / _vp_scale(level)


def x0_from_v(v: Container, z: Container, sigma: NoiseLevel) -> Container:
    """Return the clean image ``(z / sqrt(1 + sigma^2) - sigma * v) / sqrt(1 + sigma^2)``.

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
        Clean images.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    level = along(sigma, z)
    scale = _vp_scale(level)
    return (z / scale - level * v) / scale


def velocity_from_x0(x0: Container, z: Container, sigma: NoiseLevel) -> Container:
    """Return the velocity of flow matching, ``x0 - (z - x0) / sigma``; t = 1 is the clean image.

    Parameters
    ----------
    x0 : array or Tensor of shape (n, ...)
        Clean images, such as the output of a denoiser.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and positive.

    Returns
    -------
    array or Tensor of shape (n, ...)
        The velocity of flow matching.

    Raises
    ------
    ValueError
        If sigma is zero, negative, infinite or NaN, or neither one number nor one for each image.
    """
    return x0 - (z - x0) / _divisor(sigma, z)


def x0_from_velocity(velocity: Container, z: Container, sigma: NoiseLevel) -> Container:
    """Return the clean image ``(z + sigma * velocity) / (1 + sigma)``.

    Parameters
    ----------
    velocity : array or Tensor of shape (n, ...)
        The velocity of flow matching; t = 1 is the clean image.
    z : array or Tensor of shape (n, ...)
        Noisy images, VE.
    sigma : float, or array or Tensor of shape (n,)
        Noise level, in the units of the clean images; finite and non-negative.

    Returns
    -------
    array or Tensor of shape (n, ...)
        Clean images.

    Raises
    ------
    ValueError
        If sigma is negative, infinite or NaN, or neither one number nor one for each image.
    """
    level = along(sigma, z)
    return (z + level * velocity) / (1 + level)


def sigma_from_alpha_bar(alpha_bar: ArrayLike) -> Array:
    """Return the noise level of a VP image, ``sqrt((1 - abar) / abar)``.

    Parameters
    ----------
    alpha_bar : float, array or Tensor
        Fraction of the variance that is signal, in (0, 1]; ``alphas_cumprod`` of a DDPM.

    Returns
    -------
    float, array or Tensor
        Noise level, non-negative.

    Raises
    ------
    ValueError
        If a value is outside (0, 1].

    Examples
    --------
    >>> from skpspc.sampling.convert import sigma_from_alpha_bar
    >>> sigma_from_alpha_bar([0.99, 0.5, 0.01]).round(2)
    array([0.1 , 1.  , 9.95])
    """
    signal = _in_unit_interval(alpha_bar, "alpha_bar")
    return ((1 - signal) / signal) ** 0.5


def alpha_bar_from_sigma(sigma: ArrayLike) -> Array:
    """Return the fraction of a VP image's variance that is signal, ``1 / (1 + sigma^2)``.

    Parameters
    ----------
    sigma : float, array or Tensor
        Noise level, non-negative; inf is allowed.

    Returns
    -------
    float, array or Tensor
        In [0, 1].

    Raises
    ------
    ValueError
        If a value is negative or NaN.

    Examples
    --------
    >>> from skpspc.sampling.convert import alpha_bar_from_sigma
    >>> alpha_bar_from_sigma([0.1, 1.0, 10.0]).round(4)
    array([0.9901, 0.5   , 0.0099])
    """
    return 1 / (1 + _non_negative(sigma) ** 2)


def sigma_from_flow_time(t: ArrayLike) -> Array:
    """Return the noise level at time t of flow matching, ``(1 - t) / t``; t = 1 is the clean image.

    Parameters
    ----------
    t : float, array or Tensor
        Time, in (0, 1].

    Returns
    -------
    float, array or Tensor
        Noise level, non-negative.

    Raises
    ------
    ValueError
        If a value is outside (0, 1].

    Examples
    --------
    >>> from skpspc.sampling.convert import sigma_from_flow_time
    >>> sigma_from_flow_time([0.1, 0.5, 0.9]).round(2)
    array([9.  , 1.  , 0.11])
    """
    time = _in_unit_interval(t, "t")
    return (1 - time) / time


def flow_time_from_sigma(sigma: ArrayLike) -> Array:
    """Return the time of flow matching, ``1 / (1 + sigma)``; t = 1 is the clean image.

    Parameters
    ----------
    sigma : float, array or Tensor
        Noise level, non-negative; inf is allowed.

    Returns
    -------
    float, array or Tensor
        In [0, 1].

    Raises
    ------
    ValueError
        If a value is negative or NaN.

    Examples
    --------
    >>> from skpspc.sampling.convert import flow_time_from_sigma
    >>> flow_time_from_sigma([0.0, 1.0, 9.0])
    array([1. , 0.5, 0.1])
    """
    return 1 / (1 + _non_negative(sigma))


class NearestStep(NumpyState):
    """The step of a discrete VP schedule whose noise level is nearest to sigma.

    Parameters
    ----------
    alpha_bar : sequence of float
        Cumulative products of a DDPM, by step (``alphas_cumprod``); each in (0, 1].

    Raises
    ------
    ValueError
        If ``alpha_bar`` is empty or a value is outside (0, 1].

    Examples
    --------
    The three steps have the noise levels 0.1, 1 and 3:

    >>> import torch
    >>> from skpspc.sampling.convert import NearestStep
    >>> NearestStep([0.99, 0.5, 0.1])(torch.tensor([0.9, 100.0]))
    tensor([1, 2])
    """

    def __init__(self, alpha_bar: Sequence[float] | np.ndarray | torch.Tensor) -> None:
        self.alpha_bar = alpha_bar
        if np.ndim(alpha_bar) != 1 or len(alpha_bar) == 0:
            raise ValueError(
                f"alpha_bar must hold one number for each step, got shape {np.shape(alpha_bar)}; "
                "pass alphas_cumprod of the scheduler."
            )
        sigma_from_alpha_bar(alpha_bar)

    def __call__(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the index of the nearest step for each noise level (n,), int64."""
        grid = torch.as_tensor(np.asarray(self.alpha_bar, dtype=np.float64))
        levels = sigma_from_alpha_bar(grid).to(sigma.device)
        inside = sigma.to(torch.float64).clamp(levels.min(), levels.max())
        return (inside[:, None] - levels).abs().argmin(1)

    def __repr__(self):
        return f"NearestStep(<{len(self.alpha_bar)} steps>)"


def along(sigma: NoiseLevel, images: np.ndarray | torch.Tensor) -> Array:
    """Return sigma, or any number per image, in a shape that multiplies images.

    Parameters
    ----------
    sigma : float, or array or Tensor of shape (n,)
        One number for all images or one for each; finite and non-negative.
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
        raise ValueError("sigma must be finite, got inf; pass a finite noise level.")
    given: Array = sigma
    if np.ndim(given) == 0:
        return given if isinstance(given, torch.Tensor) else float(given)
    if isinstance(images, torch.Tensor):
        dtype = images.dtype if images.is_floating_point() else torch.get_default_dtype()
        given = given if isinstance(given, torch.Tensor) else torch.as_tensor(np.asarray(given))
        given = given.to(images.device, dtype)
    else:
        images = np.asarray(images)
        kept = images.dtype if images.dtype.kind == "f" else np.float64
        given = np.asarray(given, dtype=kept)
    return given.reshape(-1, *(1,) * (images.ndim - 1))


def _divisor(sigma: NoiseLevel, images: np.ndarray | torch.Tensor) -> Array:
    """Return `along` for a sigma that must be positive, as a divisor."""
    if not (check_sigma(sigma, len(images)) > 0).all():
        raise ValueError(
            "sigma must be positive here, got 0, which would be a divisor; use x0 at sigma = 0."
        )
    return along(sigma, images)


def _vp_scale(sigma: Array) -> Array:
    return (1 + sigma**2) ** 0.5


def _values(numbers: ArrayLike) -> Array:
    """Return lists and tuples as an array, other numbers unchanged."""
    return np.asarray(numbers, dtype=np.float64) if isinstance(numbers, (list, tuple)) else numbers


def _non_negative(sigma: ArrayLike) -> Array:
    levels = _values(sigma)
    if not torch.as_tensor(levels >= 0).all():
        raise ValueError(
            f"sigma must be non-negative, got {levels!r}; pass standard deviations of the noise."
        )
    return levels


def _in_unit_interval(numbers: ArrayLike, name: str) -> Array:
    values = _values(numbers)
    if not torch.as_tensor((values > 0) & (values <= 1)).all():
        raise ValueError(
            f"{name} must be in (0, 1], got {values!r}; at 0 no signal is left and sigma is "
            "infinite, so leave such steps out."
        )
    return values
