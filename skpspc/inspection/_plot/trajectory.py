"""What a sampler believes on its way from noise to an image."""

import numpy as np

from ..._repr import short_repr
from ..._units import sampler_ends
from ...sampling import edm_sigmas
from ._cells import GREY, as_pictures, box_size, canvas, check_columns, draw, limits, words

_PAD = 0.08  # between boxes, in their sides
_TEXT = 0.25  # for the labels above, in inches
_MARGIN = 0.35  # for the sigma before them, in inches


class TrajectoryDisplay:
    r"""The denoised estimates :math:`D(z_\sigma; \sigma)` along a sampler's steps.

    A row for each sample, a column for each noise level shown. Make one with
    :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    estimates : ndarray of shape (n_steps, n, C, H, W)
        In the order of the walk.
    sigmas : array of float of shape (n_steps,)
        Noise levels at which they were made; at 0 they are the samples.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

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
        """Draw samples from a fitted denoiser, and show what it believed on the way.

        Parameters
        ----------
        estimator : denoiser
            Fitted.
        n : int, default 4
            Samples.
        y, guidance, n_steps, sigma_min, sigma_max, sampler
            As in `EmpiricalDenoiser.sample`.
        random_state : int, RandomState, Generator or None, default 0
        n_columns : int, default 8
            How many of the n_steps + 1 states to show: the first, the last, and some in
            between, evenly.
        ax, data_range
            As in :meth:`plot`.

        Returns
        -------
        TrajectoryDisplay

        Raises
        ------
        ValueError
            If n_columns is none, or as `EmpiricalDenoiser.sample`.
        """
        n_columns = check_columns(n_columns)
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
        """Show estimates that have been made.

        Parameters
        ----------
        estimates : array or Tensor of shape (n_steps, n, C, H, W) or (n_steps, n, d)
            Flat ones are signals.
        sigmas : array of float of shape (n_steps,)
        ax, data_range
            As in :meth:`plot`.

        Returns
        -------
        TrajectoryDisplay

        Raises
        ------
        ValueError
            If there is not one noise level for each step, or no step.
        """
        if len(estimates) == 0:
            raise ValueError("estimates must hold at least one step, got none of them.")
        sigmas = np.asarray(sigmas, dtype=np.float64)
        if sigmas.shape != (len(estimates),):
            raise ValueError(
                f"sigmas must hold one noise level for each of the {len(estimates)} steps, got "
                f"shape {sigmas.shape}."
            )
        pictures = np.stack([as_pictures(X) for X in estimates])
        return cls(pictures, sigmas).plot(ax, data_range=data_range)

    def plot(self, ax=None, *, data_range=None):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Where to draw, after emptying it; boxes are as large as it allows. None makes a
            figure.
        data_range : tuple of (low, high), default None
            Values that are black and white. None: (-1, 1) for images that live there, else the
            smallest and the largest of what is shown.

        Returns
        -------
        self
        """
        n_steps, n = self.estimates.shape[:2]
        width, height = box_size(self.estimates.shape[2:])
        step, row = width + _PAD, height + _PAD
        self.ax_, side = canvas(
            ax,
            (n_steps * step, n * row),
            (_MARGIN, _TEXT),
            r"denoised estimate $D(z;\sigma)$ along the sampler's steps",
        )
        self.figure_ = self.ax_.figure
        data_range = limits(*self.estimates) if data_range is None else data_range
        style = {"color": GREY, **words(side)}
        self.ax_.text(_MARGIN - 0.06, _TEXT / 2, r"$\sigma$ =", ha="right", **style)
        for j, sigma in enumerate(self.sigmas):
            left = _MARGIN + j * side * step
            label = f"{sigma:.3g}" if sigma > 0 else "sample"
            self.ax_.text(left + side * width / 2, _TEXT / 2, label, ha="center", **style)
            for i, image in enumerate(self.estimates[j]):
                draw(self.ax_, image, left, _TEXT + i * side * row, side, data_range)
        return self
