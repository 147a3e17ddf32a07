"""Denoised estimates along the steps of a sampler."""

import numpy as np

from ..._repr import short_repr
from ..._units import sampler_ends
from ...sampling import edm_sigmas
from .._images import check_count
from ._cells import GREY, as_pictures, box_size, canvas, draw, limits, words

_PAD = 0.08  # between boxes, in their sides
_TEXT = 0.25  # height of the labels above, in inches
_MARGIN = 0.35  # width of the sigma before them, in inches


class TrajectoryDisplay:
    r"""The denoised estimates :math:`D(z_\sigma; \sigma)` along a sampler's steps.

    A row for each sample, a column for each noise level. Create one with :meth:`from_estimator`
    or :meth:`from_predictions`.

    Parameters
    ----------
    estimates : ndarray of shape (n_steps, n, C, H, W)
        In the order of the steps.
    sigmas : array of float of shape (n_steps,)
        Noise levels of the estimates; the estimates at 0 are the samples.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure

    Examples
    --------
    >>> from skpspc import GaussianDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import TrajectoryDisplay
    >>> model = GaussianDenoiser().fit(load_digits_images().images)
    >>> TrajectoryDisplay.from_estimator(model, n=2, n_columns=5).estimates.shape
    (5, 2, 1, 8, 8)
    """

    __repr__ = short_repr

    def __init__(self, estimates, sigmas):
        self.estimates = estimates
        self.sigmas = sigmas

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        n=4,
        y=None,
        guidance=1.0,
        n_steps=18,
        sigma_min=None,
        sigma_max=None,
        sampler="heun",
        random_state=0,
        n_columns=8,
        ax=None,
        data_range=None,
    ):
        """Return a drawn display of the estimates along sampling runs of a fitted denoiser.

        Parameters
        ----------
        estimator : denoiser
            Fitted.
        n : int, default 4
            Number of samples.
        y, guidance, n_steps, sigma_min, sigma_max, sampler
            As in `EmpiricalDenoiser.sample`, with its errors.
        random_state : int, RandomState, Generator or None, default 0
        n_columns : int, default 8
            States to show, at least 1, evenly spaced among n_steps + 1, with both ends.
        ax, data_range
            As in :meth:`plot`.
        """
        check_count(n_columns, "n_columns")
        _, states = estimator.sample(
            n,
            y=y,
            guidance=guidance,
            n_steps=n_steps,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            sampler=sampler,
            random_state=random_state,
            return_trajectory=True,
        )
        ends = sampler_ends(estimator.data_range_, sigma_min, sigma_max)
        sigmas = [*edm_sigmas(n_steps, *ends).tolist(), 0.0]
        shown = np.unique(np.linspace(0, n_steps, n_columns).round().astype(int))
        estimates = [
            estimator.denoise(states[j], sigmas[j], y, guidance) if sigmas[j] else states[j]
            for j in shown
        ]
        pictures = np.stack([as_pictures(X, estimator.image_shape_) for X in estimates])
        shown_range = estimator.data_range if data_range is None else data_range
        return cls(pictures, np.array(sigmas)[shown]).plot(ax, data_range=shown_range)

    @classmethod
    def from_predictions(cls, estimates, sigmas, *, ax=None, data_range=None):
        """Return a drawn display of given estimates.

        Parameters
        ----------
        estimates : array or Tensor of shape (n_steps, n, C, H, W) or (n_steps, n, d)
            Flat estimates are signals.
        sigmas : array of float of shape (n_steps,)
        ax, data_range
            As in :meth:`plot`.

        Raises
        ------
        ValueError
            For another number of noise levels than steps, or no step.
        """
        if len(estimates) == 0:
            raise ValueError("estimates must hold at least one step, got none.")
        sigmas = np.asarray(sigmas, dtype=np.float64)
        if sigmas.shape != (len(estimates),):
            raise ValueError(
                f"sigmas must hold one noise level for each of the {len(estimates)} steps, got "
                f"shape {sigmas.shape}."
            )
        pictures = np.stack([as_pictures(X) for X in estimates])
        return cls(pictures, sigmas).plot(ax, data_range=data_range)

    def plot(self, ax=None, *, data_range=None):
        """Draw, and return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Emptied, and filled with boxes as large as it allows. None: a new figure.
        data_range : tuple of (low, high), default None
            Values of black and white. None: (-1, 1) for images on that range, otherwise the
            smallest and the largest value shown.
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
