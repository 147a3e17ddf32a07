"""Noise levels of the notations of `convert`, by the schedules of their networks."""

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
        Non-negative; inf is allowed.

    Returns
    -------
    float or array

    Raises
    ------
    ValueError
        If a value is negative or NaN.
    """
    return 1 / (1 + _non_negative(sigma) ** 2)


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
        Non-negative; inf is allowed.

    Returns
    -------
    float or array

    Raises
    ------
    ValueError
        If a value is negative or NaN.
    """
    return 1 / (1 + _non_negative(sigma))


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


def _values(numbers):
    """Numbers as they are, sequences as an array."""
    return np.asarray(numbers, dtype=np.float64) if isinstance(numbers, (list, tuple)) else numbers


def _non_negative(sigma):
    sigma = _values(sigma)
    if not _all(sigma >= 0):
        raise ValueError(f"sigma must be non-negative, got {sigma!r}; it is a noise level.")
    return sigma


def _in_unit_interval(numbers, name):
    numbers = _values(numbers)
    if not _all((numbers > 0) & (numbers <= 1)):
        raise ValueError(
            f"{name} must be in (0, 1], got {numbers!r}; where nothing of the image is left "
            "(0) there is no finite sigma."
        )
    return numbers


def _all(true):
    return true if isinstance(true, bool) else true.all()
