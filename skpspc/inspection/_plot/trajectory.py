"""Denoised estimates along the steps of a sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._repr import short_repr
from ..._typing import ArrayLike, DataRange, RandomState, Sampler
from ..._units import sampler_ends
from .._images import check_count
from ._cells import GREY, as_pictures, box_size, canvas, draw, limits, words

_PAD = 0.08  # between boxes, in their sides
_TEXT = 0.25  # height of the labels above, in inches
_MARGIN = 0.35  # width of the sigma before them, in inches


class TrajectoryDisplay:
    r"""Denoised estimates :math:`D(z_\sigma; \sigma)` at the steps of a sampler.

    Each sampling run has a row, each noise level a column. Create one with :meth:`from_estimator`
    or :meth:`from_predictions`.

    Parameters
    ----------
    estimates : ndarray of shape (n_steps, n, C, H, W)
        Denoised images, in the order of the steps.
    sigmas : array of float of shape (n_steps,)
        Noise levels of the estimates; the estimates at 0 are the samples.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that hold all images.
    figure_ : matplotlib Figure
        Figure of the axes.

    Examples
    --------
    >>> from skpspc import GaussianDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import TrajectoryDisplay
    >>> model = GaussianDenoiser().fit(load_digits_images().images)
    >>> display = TrajectoryDisplay.from_estimator(model, n=2, n_columns=5)
    >>> [f"{sigma:.3g}" for sigma in display.sigmas]  # noise levels of the columns
    ['80', '19.4', '1.92', '0.0599', '0']
    """

    __repr__ = short_repr

    def __init__(self, estimates: np.ndarray, sigmas: np.ndarray) -> None:
        self.estimates = estimates
        self.sigmas = sigmas

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        n: int = 4,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
        n_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
        sigmas: npt.ArrayLike | None = None,
        sampler: Sampler = "dpmpp_2m",
        random_state: RandomState | None = 0,
        n_columns: int = 8,
        ax: Any = None,
        data_range: DataRange | None = None,
    ) -> TrajectoryDisplay:
        """Return a drawn display of the estimates along sampling runs of a fitted denoiser.

        Parameters
        ----------
        estimator : denoiser
            Fitted denoiser.
        n : int, default 4
            Number of sampling runs.
        y : label or array of shape (n,), default None
            Class to sample; None: all training images.
        guidance : float, default 1.0
            Weight of the class against all training images; 1 is the class alone.
        n_steps : int, default None
            Number of sampler steps. None: 18, or one for each of ``sigmas``.
        sigma_min : float, default None
            Smallest noise level above zero. None: 0.002 for images on [-1, 1], scaled to the
            ``data_range`` of the denoiser.
        sigma_max : float, default None
            Largest noise level. None: 80 for images on [-1, 1], scaled likewise.
        rho : float, default None
            Exponent of the noise levels `edm_sigmas`. None: 7.
        sigmas : array of float of shape (L,), default None
            Noise levels as for the method ``sample``, instead of ``n_steps``, ``sigma_min``,
            ``sigma_max`` and ``rho``.
        sampler : str or callable, default "dpmpp_2m"
            Sampler, as for the method ``sample`` of the denoiser.
        random_state : int, RandomState, Generator or None, default 0
            Seed or generator of the initial noise.
        n_columns : int, default 8
            Number of states to draw, at least 1: evenly spaced among the n_steps + 1 states, with
            the first and the last.
        ax : matplotlib Axes, default None
            Emptied, and filled with images as large as possible. None: a new figure.
        data_range : tuple of (low, high), default None
            Values drawn black and white. None: the declared ``data_range`` of the denoiser;
            without one, (-1, 1) for images on that range, otherwise the smallest and the largest
            value shown.

        Returns
        -------
        TrajectoryDisplay
        """
        check_count(n_columns, "n_columns")
        reached = []
        _, states = estimator.sample(
            n,
            y=y,
            guidance=guidance,
            n_steps=n_steps,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            rho=rho,
            sigmas=sigmas,
            sampler=sampler,
            random_state=random_state,
            return_trajectory=True,
            callback=lambda _step, sigma, _z: reached.append(sigma),
        )
        _, first = sampler_ends(estimator.data_range_, sigma_max=sigma_max)
        levels = [first if sigmas is None else float(np.asarray(sigmas)[0]), *reached]
        shown = np.unique(np.linspace(0, len(levels) - 1, n_columns).round().astype(int))
        estimates = [
            estimator.denoise(states[j], levels[j], y, guidance) if levels[j] else states[j]
            for j in shown
        ]
        pictures = np.stack([as_pictures(X, estimator.image_shape_) for X in estimates])
        shown_range = estimator.data_range if data_range is None else data_range
        return cls(pictures, np.array(levels)[shown]).plot(ax, data_range=shown_range)

    @classmethod
    def from_predictions(
        cls,
        estimates: ArrayLike,
        sigmas: ArrayLike,
        *,
        ax: Any = None,
        data_range: DataRange | None = None,
    ) -> TrajectoryDisplay:
        """Return a drawn display of given estimates.

        Parameters
        ----------
        estimates : array or Tensor of shape (n_steps, n, C, H, W) or (n_steps, n, d)
            Denoised images, in the order of the steps; flat estimates are signals.
        sigmas : array of float of shape (n_steps,)
            Noise levels of the estimates; the estimates at 0 are the samples.
        ax : matplotlib Axes, default None
            Emptied, and filled with images as large as possible. None: a new figure.
        data_range : tuple of (low, high), default None
            Values drawn black and white. None: (-1, 1) for images on that range, otherwise the
            smallest and the largest value shown.

        Returns
        -------
        TrajectoryDisplay

        Raises
        ------
        ValueError
            For another number of noise levels than steps, or no step.
        """
        steps: list[Any] = list(estimates)  # type: ignore[arg-type]
        if not steps:
            raise ValueError("estimates must hold at least one step, got none.")
        levels = np.asarray(sigmas, dtype=np.float64)
        if levels.shape != (len(steps),):
            raise ValueError(
                f"sigmas must hold one noise level for each of the {len(steps)} steps, got "
                f"shape {levels.shape}."
            )
        pictures = np.stack([as_pictures(X) for X in steps])
        return cls(pictures, levels).plot(ax, data_range=data_range)

    def plot(self, ax: Any = None, *, data_range: DataRange | None = None) -> TrajectoryDisplay:
        """Draw the estimates, and return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Emptied, and filled with images as large as possible. None: a new figure.
        data_range : tuple of (low, high), default None
            Values drawn black and white. None: (-1, 1) for images on that range, otherwise the
            smallest and the largest value shown.

        Returns
        -------
        TrajectoryDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        n_steps, n = self.estimates.shape[:2]
        width, height = box_size(self.estimates.shape[2:])
        step, row = width + _PAD, height + _PAD
        samples = "sampling run" if n == 1 else "sampling runs"
        self.ax_, side = canvas(
            ax,
            (n_steps * step, n * row),
            (_MARGIN, _TEXT),
            f"Denoised estimates against noise level σ; {n} {samples}, one per row",
        )
        self.figure_ = self.ax_.figure
        data_range = limits(*self.estimates) if data_range is None else data_range
        style = {"color": GREY, **words(side)}
        self.ax_.text(_MARGIN - 0.06, _TEXT / 2, "σ =", ha="right", **style)
        for j, sigma in enumerate(self.sigmas):
            left = _MARGIN + j * side * step
            label = f"{sigma:.3g}" if sigma > 0 else "sample"
            self.ax_.text(left + side * width / 2, _TEXT / 2, label, ha="center", **style)
            for i, image in enumerate(self.estimates[j]):
                draw(self.ax_, image, left, _TEXT + i * side * row, side, data_range)
        return self
