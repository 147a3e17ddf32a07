"""Memorisation risk of training images against the noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._repr import short_repr
from ..._typing import Numbers, RandomState
from ..risk import MemorisationRisk, memorisation_risk
from ._cells import SIGMA, broken, line_axes

_COLOUR = "#0072B2"
_TAIL = 10  # per cent of the images on each side of the band


class MemorisationRiskDisplay:
    """Memorisation risk of training images against the noise level: median, band and extremes.

    The band holds the middle 80 % of the images. Dotted lines are the images of the largest and of
    the smallest mean risk.

    Create one with :meth:`from_estimator`, :meth:`from_predictions` or the ``plot`` method of a
    `MemorisationRisk`.

    Parameters
    ----------
    risks : MemorisationRisk
        Risk to draw, returned by `memorisation_risk`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the lines.
    figure_ : matplotlib Figure
        Figure of the axes.
    line_ : matplotlib Line2D
        Median over images.
    extreme_lines_ : list of two matplotlib Line2D
        Images of the largest and of the smallest mean risk.

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import MemorisationRiskDisplay
    >>> model = PSPCDenoiser(3).fit(load_digits_images().images)
    >>> display = MemorisationRiskDisplay.from_estimator(model, [0.05, 0.2, 1.0])
    >>> display.line_.get_ydata().round(2)  # the medians
    array([0.85, 0.31, 0.  ])
    """

    __repr__ = short_repr

    def __init__(self, risks: MemorisationRisk) -> None:
        self.risks = risks

    @classmethod
    def from_estimator(
        cls,
        denoiser: Any,
        sigmas: Numbers,
        images: Sequence[int] | None = None,
        *,
        n_images: int = 64,
        n_noise: int = 1,
        random_state: RandomState | None = 0,
        ax: Any = None,
    ) -> MemorisationRiskDisplay:
        """Return a drawn display of the risk of the training images of a denoiser.

        Parameters
        ----------
        denoiser : estimator
            Fitted denoiser whose windows are compared with training images at equal positions.
        sigmas : array of shape (L,)
            Noise levels, positive, in the units of the images.
        images : sequence of int, default None
            Training images, as rows of the X of ``fit``. None: ``n_images`` drawn at random.
        n_images : int, default 64
            Number of training images to draw if ``images`` is None.
        n_noise : int, default 1
            Draws of noise for each image.
        random_state : int, RandomState, Generator or None, default 0
            Seed or generator of the drawn images and of the noise.
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.

        Returns
        -------
        MemorisationRiskDisplay
        """
        risks = memorisation_risk(
            denoiser,
            sigmas,
            images,
            n_images=n_images,
            n_noise=n_noise,
            random_state=random_state,
        )
        return cls.from_predictions(risks, ax=ax)

    @classmethod
    def from_predictions(
        cls, risks: MemorisationRisk, *, ax: Any = None
    ) -> MemorisationRiskDisplay:
        """Return a drawn display of a result of `memorisation_risk`.

        Parameters
        ----------
        risks : MemorisationRisk
            Returned by `memorisation_risk`; anything else raises ValueError.
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.

        Returns
        -------
        MemorisationRiskDisplay
        """
        if not isinstance(risks, MemorisationRisk):
            raise ValueError(
                f"risks must be a MemorisationRisk, got {type(risks).__name__}; call "
                "memorisation_risk."
            )
        return cls(risks).plot(ax)

    def plot(self, ax: Any = None) -> MemorisationRiskDisplay:
        """Draw the risk against the noise level, and return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.

        Returns
        -------
        MemorisationRiskDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        ax, legend = line_axes(ax, (8.0, 4.0))
        risk, at = self.risks.risk, self.risks.sigmas
        low, middle, high = np.percentile(risk, [_TAIL, 50, 100 - _TAIL], axis=1)
        style = {"color": _COLOUR, "marker": "o", "ms": 5, "lw": 2, "label": "median"}
        (self.line_,) = ax.plot(at, middle, **style)
        ax.fill_between(at, low, high, color=_COLOUR, alpha=0.2, lw=0, label="middle 80 %")
        order = risk.mean(0).argsort()
        self.extreme_lines_ = []
        for row, shade in ((order[-1], "0.2"), (order[0], "0.6")):
            label = f"image no. {self.risks.images[row]}"
            self.extreme_lines_ += ax.plot(at, risk[:, row], ls=":", color=shade, label=label)
        ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel=SIGMA)
        ax.set_ylabel("memorisation risk\n(weight of the image itself)")
        title = f"Memorisation risk against σ; {risk.shape[1]} training images"
        ax.set_title(broken(title, 10 * ax.figure.get_figwidth()), fontsize="medium")
        ax.legend(labelspacing=0.3, **legend)
        self.ax_, self.figure_ = ax, ax.figure
        return self
