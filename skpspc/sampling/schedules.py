"""Noise levels of samplers, and patch sizes and bandwidths as functions of the noise level."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Literal

import numpy as np

from .._repr import numbers
from .._typing import DataRange, ImageShape
from .convert import sigma_from_alpha_bar

_DDPM_STEPS = 1000

# Niedoba et al. (2025), CIFAR-10, on the 18-step grid of `edm_sigmas`, from large to small sigma.
_PAPER_SIDE = 32
_PAPER_SIZES = (32, 32, 32, 32, 32, 32, 32, 23, 15, 11, 7, 5, 3, 3, 3, 3, 3, 3)

# Kamb & Ganguli (2025), calibrated against trained networks, from small to large sigma.
_LOCAL_SCORE_SIZES = {
    "cifar10-unet": (3, 3, 3, 3, 5, 5, 5, 5, 7, 7, 7, 7, 9, 9, 11, 13, 13, 15, 17, 25),
    "cifar10-resnet": (3, 3, 3, 3, 5, 5, 5, 7, 7, 7, 7, 9, 9, 11, 11, 13, 15, 17, 17, 17),
    "mnist-unet": (3, 3, 3, 5, 5, 7, 7, 7, 9, 9, 9, 11, 13, 15, 17, 21, 23, 23, 25, 27),
    "fashion-mnist-unet": (3, 3, 5, 5, 7, 7, 7, 9, 11, 11, 11, 13, 15, 15, 21, 23, 25, 25, 25, 25),
}


def edm_sigmas(
    n_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """Return the noise levels of the EDM sampler, evenly spaced in ``sigma ** (1 / rho)``.

    The last levels of a grid are an EDM grid of fewer steps, so an interrupted trajectory continues
    exactly.

    Parameters
    ----------
    n_steps : int
        Number of noise levels, at least 1.
    sigma_min, sigma_max : float, default 0.002 and 80
        Last and first noise level, in the units of the images, ``0 < sigma_min <= sigma_max``.
    rho : float, default 7
        Exponent, positive; larger values put more steps at small sigma.

    Returns
    -------
    ndarray of shape (n_steps,), float64
        Decreasing noise levels; samplers append the step from the last level to 0.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    NeurIPS 2022, Eq. 5.

    Examples
    --------
    >>> from skpspc import edm_sigmas
    >>> [round(sigma, 3) for sigma in edm_sigmas(8).tolist()]
    [80.0, 34.992, 13.699, 4.637, 1.287, 0.267, 0.035, 0.002]
    >>> edm_sigmas(3, sigma_min=1, sigma_max=4, rho=1)
    array([4. , 2.5, 1. ])
    """
    _check_ends(n_steps, sigma_min, sigma_max)
    if not rho > 0:
        raise ValueError(f"rho must be positive, got {rho!r}.")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        first, last = np.array([sigma_max, sigma_min], dtype=np.float64) ** (1 / rho)
        sigmas = np.linspace(first, last, n_steps) ** rho
    if not (np.isfinite(sigmas) & (sigmas > 0)).all():
        raise ValueError(
            f"rho={rho!r} makes sigma_min={sigma_min!r} or sigma_max={sigma_max!r} exceed the "
            "range of float64; pass a rho between 1 and 100."
        )
    return _without_rounding(sigmas, sigma_min, sigma_max)


def exponential_sigmas(
    n_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> np.ndarray:
    """Return noise levels that are evenly spaced in log sigma.

    They are the limit of :func:`edm_sigmas` for large rho.

    Parameters
    ----------
    n_steps : int
        Number of noise levels, at least 1.
    sigma_min, sigma_max : float, default 0.002 and 80
        Last and first noise level, in the units of the images, ``0 < sigma_min <= sigma_max``.

    Returns
    -------
    ndarray of shape (n_steps,), float64
        Decreasing noise levels; samplers append the step from the last level to 0.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> from skpspc.sampling import exponential_sigmas
    >>> exponential_sigmas(4, sigma_min=0.01, sigma_max=10)
    array([10.  ,  1.  ,  0.1 ,  0.01])
    """
    _check_ends(n_steps, sigma_min, sigma_max)
    sigmas = np.geomspace(sigma_max, sigma_min, n_steps)
    return _without_rounding(sigmas, sigma_min, sigma_max)


def _without_rounding(sigmas, sigma_min, sigma_max):
    """Return noise levels with exact ends that do not increase, whatever was rounded."""
    sigmas[-1] = sigma_min
    sigmas[0] = sigma_max
    return np.minimum.accumulate(sigmas).clip(sigma_min)


def vp_sigmas(n_steps: int, schedule: Literal["linear", "cosine"] = "linear") -> np.ndarray:
    r"""Return noise levels of the 1,000 steps of DDPM, for images in [-1, 1].

    The noise level of step t is :math:`\sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}` with
    :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)`. The steps are evenly spaced from the last
    to the first, rounded to integers.

    Parameters
    ----------
    n_steps : int
        Number of noise levels, from 1 to 1,000.
    schedule : {"linear", "cosine"}, default "linear"
        "linear": beta grows linearly from 0.0001 to 0.02 (DDPM). Noise levels are between 0.01 and
        157. "cosine": the square of a cosine for alpha bar, with s = 0.008 and beta at most 0.999
        (iDDPM). Noise levels are between 0.0064 and 20,291.

    Returns
    -------
    ndarray of shape (n_steps,), float64
        Decreasing noise levels; samplers append the step from the last level to 0. For images of
        another range, multiply by half the width of the range.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
    Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021,
    arXiv:2102.09672, Eq. 17.

    Examples
    --------
    >>> from skpspc.sampling import vp_sigmas
    >>> [round(sigma, 2) for sigma in vp_sigmas(5).tolist()]
    [157.41, 17.25, 3.44, 0.96, 0.01]
    """
    if schedule not in ("linear", "cosine"):
        raise ValueError(f"schedule must be 'linear' or 'cosine', got {schedule!r}.")
    if not _is_count(n_steps) or int(n_steps) > _DDPM_STEPS:
        raise ValueError(f"n_steps must be an int from 1 to {_DDPM_STEPS}, got {n_steps!r}.")
    if schedule == "linear":
        beta = np.linspace(1e-4, 0.02, _DDPM_STEPS)
    else:
        alpha_bar = np.cos((np.linspace(0, 1, _DDPM_STEPS + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    chosen = np.linspace(_DDPM_STEPS - 1, 0, n_steps).round().astype(int)
    return sigma_from_alpha_bar(np.cumprod(1 - beta))[chosen]


def flow_sigmas(
    n_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, shift: float = 1.0
) -> np.ndarray:
    r"""Return noise levels that are evenly spaced in the time of flow matching.

    Flow matching with :math:`x_t = t\,x_0 + (1 - t)\,\epsilon` has the noise level
    :math:`\sigma = (1 - t) / t`. A shift of the times multiplies all noise levels:
    :math:`\sigma = \mathrm{shift} \cdot (1 - t) / t`.

    Parameters
    ----------
    n_steps : int
        Number of noise levels, at least 1.
    sigma_min, sigma_max : float, default 0.002 and 80
        Last and first noise level, in the units of the images, ``0 < sigma_min <= sigma_max``.
        Time 0 is sigma = inf, so it is no noise level of a sampler.
    shift : float, default 1.0
        Positive; larger values put more steps at large sigma. Stable Diffusion 3 uses 3.

    Returns
    -------
    ndarray of shape (n_steps,), float64
        Decreasing noise levels; samplers append the step from the last level to 0.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
    ICML 2024, arXiv:2403.03206, Eq. 23.

    Examples
    --------
    >>> from skpspc.sampling import flow_sigmas
    >>> flow_sigmas(5, sigma_min=0.25, sigma_max=4).round(2)
    array([4.  , 1.86, 1.  , 0.54, 0.25])
    >>> flow_sigmas(5, sigma_min=0.25, sigma_max=4, shift=3).round(2)
    array([4.  , 2.43, 1.44, 0.75, 0.25])
    """
    _check_ends(n_steps, sigma_min, sigma_max)
    if not (isinstance(shift, Real) and 0 < float(shift) < np.inf):
        raise ValueError(f"shift must be positive and finite, got {shift!r}.")
    ends = np.array([sigma_max, sigma_min], dtype=np.float64)
    time = np.linspace(*shift / (shift + ends), n_steps)
    noise = np.linspace(*ends / (shift + ends), n_steps)  # 1 - time, exact at small sigma too
    return shift * noise / time


def _is_count(n_steps):
    return isinstance(n_steps, Integral) and int(n_steps) >= 1


def _check_ends(n_steps, sigma_min, sigma_max):
    """Raise ValueError if there is no grid of n_steps between two noise levels."""
    if not _is_count(n_steps):
        raise ValueError(f"n_steps must be an int of at least 1, got {n_steps!r}.")
    if not 0 < sigma_min <= sigma_max < np.inf:
        raise ValueError(
            "sigmas must satisfy 0 < sigma_min <= sigma_max < inf, got "
            f"sigma_min={sigma_min!r} and sigma_max={sigma_max!r}; samplers append the step to 0."
        )


def check_decreasing(sigmas):
    """Return the noise levels of a sampler as a list of float, without a last 0.

    Parameters
    ----------
    sigmas : sequence of float
        Strictly decreasing, positive and finite noise levels; the last may be 0.

    Raises
    ------
    ValueError
        If a level is negative, infinite or NaN, if the levels do not decrease, or if none is
        positive.
    """
    try:
        infinite = bool(np.isposinf(np.asarray(sigmas, dtype=np.float64)).any())
    except (TypeError, ValueError):
        infinite = False
    if infinite:
        raise ValueError(
            "sigmas must be finite, got inf, which is pure noise: time 0 of flow matching, and "
            "alpha_bar = 0. Begin with a large finite noise level, such as 80 for images on "
            "[-1, 1]."
        )
    grid = check_grid(sigmas)
    if (np.diff(grid) >= 0).any():
        raise ValueError(f"sigmas must decrease, got {sigmas!r}; sort them from large to small.")
    levels = grid.tolist()
    if levels[-1] == 0:
        levels.pop()
    if not levels:
        raise ValueError("sigmas must hold a positive noise level, got only 0.")
    return levels


def check_grid(sigmas):
    """Return noise levels as an array; raise if they do not make a grid.

    Parameters
    ----------
    sigmas : sequence of float

    Returns
    -------
    ndarray of shape (L,), float64

    Raises
    ------
    ValueError
        If there is no noise level, or one is negative, infinite, NaN or repeated.
    """
    try:
        grid = np.asarray(sigmas, dtype=np.float64)
    except (TypeError, ValueError):
        grid = np.empty(0)
    if grid.ndim != 1 or len(grid) == 0:
        raise ValueError(
            f"sigmas must be a sequence of at least one noise level, got {sigmas!r}; pass floats, "
            "such as [0.1, 1.0]."
        )
    if not (np.isfinite(grid).all() and (grid >= 0).all()):
        raise ValueError(
            f"sigmas must be finite and non-negative, got {sigmas!r}; remove all other values."
        )
    if len(np.unique(grid)) < len(grid):
        raise ValueError(f"sigmas must be distinct, got {sigmas!r}; give each level once.")
    return grid


def nearest_level(grid, sigma):
    """Return the index of the noise level in ``grid`` that is nearest to a float ``sigma``."""
    grid = np.asarray(grid, dtype=np.float64)
    return int(np.abs(grid - np.clip(sigma, grid.min(), grid.max())).argmin())


class _Schedule:
    """A step function of sigma: the value of the nearest noise level of a grid."""

    sigmas: Sequence[float] | np.ndarray
    _values: str  # name of the second parameter

    def _check(self):
        """Raise if the grid is invalid or its length differs from that of the values."""
        grid, values = check_grid(self.sigmas), getattr(self, self._values)
        if grid.shape != np.shape(values):
            raise ValueError(
                f"sigmas and {self._values} must be sequences of the same length; got shapes "
                f"{grid.shape} and {np.shape(values)}; give one value for each noise level."
            )

    def _at(self, sigma):
        """Return the value of the grid's noise level nearest to ``sigma``."""
        return getattr(self, self._values)[nearest_level(self.sigmas, sigma)]

    def __repr__(self):
        values = getattr(self, self._values)
        return (
            f"{type(self).__name__}(sigmas={numbers(self.sigmas)}, "
            f"{self._values}={numbers(values)})"
        )

    def __eq__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        names = ("sigmas", self._values)
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]


class PatchSchedule(_Schedule):
    """Patch size as a function of sigma: the size at the nearest noise level of a grid.

    Pass a schedule as ``patch_size`` of `PSPCDenoiser`, to use small patches at small noise levels
    and large patches at large noise levels.

    Parameters
    ----------
    sigmas : sequence of float
        Noise levels of the grid, non-negative and distinct, in any order; in the units of the
        images.
    sizes : sequence of int
        Side of the square patches in pixels at each noise level, at least 1.

    Raises
    ------
    ValueError
        If ``sigmas`` and ``sizes`` differ in length, are empty, or hold values out of range.

    Examples
    --------
    >>> from skpspc import PatchSchedule
    >>> schedule = PatchSchedule([0.1, 1.0, 10.0], [3, 7, 32])
    >>> for sigma in (0.02, 0.5, 0.6, 4.0, 80.0):
    ...     print(f"sigma {sigma:5.2f}: patch size {schedule(sigma)}")
    sigma  0.02: patch size 3
    sigma  0.50: patch size 3
    sigma  0.60: patch size 7
    sigma  4.00: patch size 7
    sigma 80.00: patch size 32
    """

    _values = "sizes"

    def __init__(
        self, sigmas: Sequence[float] | np.ndarray, sizes: Sequence[int] | np.ndarray
    ) -> None:
        self.sigmas = sigmas
        self.sizes = sizes
        self._check()
        for size in sizes:
            if not isinstance(size, Integral) or size < 1:
                raise ValueError(f"sizes must be ints of at least 1, got {size!r}.")

    def __call__(self, sigma: float) -> int:
        """Return the patch size at ``sigma``; beyond the grid, the size at its nearer end."""
        return int(self._at(sigma))


class BandwidthSchedule(_Schedule):
    """Bandwidth as a function of sigma: the bandwidth at the nearest noise level of a grid.

    Pass a schedule as ``bandwidth`` of a denoiser.

    Parameters
    ----------
    sigmas : sequence of float
        Noise levels of the grid, non-negative and distinct, in any order; in the units of the
        images.
    bandwidths : sequence of float
        Bandwidth at each noise level, between 0 and 1.

    Raises
    ------
    ValueError
        If ``sigmas`` and ``bandwidths`` differ in length, are empty, or hold values out of range.

    Examples
    --------
    >>> from skpspc import BandwidthSchedule
    >>> schedule = BandwidthSchedule([0.1, 1.0, 10.0], [0.0, 0.5, 0.9])
    >>> for sigma in (0.05, 0.7, 80.0):
    ...     print(f"sigma {sigma:5.2f}: bandwidth {schedule(sigma)}")
    sigma  0.05: bandwidth 0.0
    sigma  0.70: bandwidth 0.5
    sigma 80.00: bandwidth 0.9
    """

    _values = "bandwidths"

    def __init__(
        self, sigmas: Sequence[float] | np.ndarray, bandwidths: Sequence[float] | np.ndarray
    ) -> None:
        self.sigmas = sigmas
        self.bandwidths = bandwidths
        self._check()
        for bandwidth in bandwidths:
            if not (isinstance(bandwidth, Real) and 0 <= float(bandwidth) <= 1):
                raise ValueError(f"bandwidths must be between 0 and 1, got {bandwidth!r}.")

    def __call__(self, sigma: float) -> float:
        """Return the bandwidth at ``sigma``; beyond the grid, the bandwidth at its nearer end."""
        return float(self._at(sigma))


def paper_schedule(image_shape: ImageShape, data_range: DataRange = (-1, 1)) -> PatchSchedule:
    """Return the patch sizes of Niedoba et al. for CIFAR-10, scaled to the image.

    Parameters
    ----------
    image_shape : tuple of (C, H, W)
        Shape of one image. The published sizes, for 32 x 32 images, are multiplied by
        ``max(H, W) / 32`` and rounded, to at least 1.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the images; noise levels are multiplied by half its width.

    Returns
    -------
    PatchSchedule

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization", ICML
    2025, arXiv:2411.19339.

    Examples
    --------
    >>> from skpspc.sampling import paper_schedule
    >>> schedule = paper_schedule((3, 32, 32))
    >>> {sigma: schedule(sigma) for sigma in (0.1, 0.5, 1.0, 2.0, 5.0)}
    {0.1: 3, 0.5: 5, 1.0: 7, 2.0: 11, 5.0: 23}
    """
    scale = max(image_shape[1:]) / _PAPER_SIDE
    sizes = [max(1, round(size * scale)) for size in _PAPER_SIZES]
    sigmas = edm_sigmas(len(sizes)) * ((data_range[1] - data_range[0]) / 2)
    return PatchSchedule(sigmas.tolist(), sizes)


def local_score_schedule(network: str, data_range: DataRange = (-1, 1)) -> PatchSchedule:
    """Return the window sizes that Kamb & Ganguli calibrated against a convolutional network.

    Parameters
    ----------
    network : {"cifar10-unet", "cifar10-resnet", "mnist-unet", "fashion-mnist-unet"}
        Data set and network. The sizes suit images of the data set: 32 x 32 for CIFAR-10, 28 x 28
        for MNIST and Fashion-MNIST.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the images; noise levels are multiplied by half its width.

    Returns
    -------
    PatchSchedule
        Odd sizes at the noise levels of the 20 published steps: ``sqrt(beta / (1 - beta))`` with
        ``beta = 1 - cos(pi t / 2.016)^2`` at t = 0, 0.05, ..., 0.95.

    Raises
    ------
    ValueError
        If ``network`` is none of these names.

    References
    ----------
    Kamb & Ganguli, "An analytic theory of creativity in convolutional diffusion models",
    ICML 2025, arXiv:2412.20292.

    Examples
    --------
    >>> from skpspc.sampling import local_score_schedule
    >>> schedule = local_score_schedule("cifar10-unet")
    >>> {sigma: schedule(sigma) for sigma in (0.1, 1.0, 3.0, 80.0)}
    {0.1: 3, 1.0: 7, 3.0: 13, 80.0: 25}
    """
    if network not in _LOCAL_SCORE_SIZES:
        networks = ", ".join(map(repr, _LOCAL_SCORE_SIZES))
        raise ValueError(f"network must be one of {networks}, got {network!r}.")
    sizes = _LOCAL_SCORE_SIZES[network]
    time = np.arange(len(sizes)) / len(sizes)
    sigmas = np.tan(np.pi * time / 2.016) * ((data_range[1] - data_range[0]) / 2)
    return PatchSchedule(sigmas.tolist(), list(sizes))
