"""Errors of denoisers against the noise level, as lines."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from ..._repr import short_repr
from ..._typing import ArrayLike, Denoisers, Numbers
from ..curves import error_curve
from ..tables import ErrorTable
from ._cells import SIGMA, broken, line_axes

# Okabe and Ito, without yellow, which is too light for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_STYLES = ("-", "--", ":")
_LABEL = 34  # letters in a line of the label of the axis of errors
_DECADES = 6  # of the axis, below the largest error; smaller errors are mostly rounding
_BELOW = {"linestyle": "", "marker": "v", "markersize": 6, "markerfacecolor": "white"}
_STACK = 0.035  # between the marks of errors below the axis, in heights of the axes


class ErrorCurveDisplay:
    """Mean squared error of denoisers against the noise level, on logarithmic axes.

    Create one with :meth:`from_estimator`, :meth:`from_predictions` or the ``plot`` method of an
    `ErrorTable`.

    Parameters
    ----------
    table : ErrorTable
        Errors to draw, returned by `error_curve`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the lines.
    figure_ : matplotlib Figure
        Figure of the axes.
    lines_ : list of matplotlib Line2D
        Line of each denoiser.

    Examples
    --------
    >>> from skpspc import GaussianDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import ErrorCurveDisplay
    >>> X = load_digits_images().images
    >>> models = {"Gaussian": GaussianDenoiser().fit(X)}
    >>> show = ErrorCurveDisplay.from_estimator
    >>> display = show(models, X, [0.1, 1.0, 10.0], n=4, X_train=X)
    >>> display.table.errors[:, 0].round(4)  # the points of the line
    array([0.0075, 0.0551, 0.0001])
    """

    __repr__ = short_repr

    def __init__(self, table: ErrorTable) -> None:
        self.table = table

    @classmethod
    def from_estimator(
        cls,
        denoisers: Denoisers,
        X: ArrayLike | None,
        sigmas: Numbers,
        *,
        ax: Any = None,
        line_kw: dict[str, Any] | None = None,
        **parameters: Any,
    ) -> ErrorCurveDisplay:
        """Return a drawn display of the errors of fitted denoisers.

        Parameters
        ----------
        denoisers : dict of str to denoiser, list of denoisers, or denoiser
            Fitted denoisers; unnamed denoisers are named after their classes.
        X : array or Tensor of shape (N, C, H, W) or (N, d)
            Clean images, to which noise is added.
        sigmas : array of float of shape (n_sigmas,)
            Noise levels, in the units of the images.
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.
        line_kw : dict, default None
            Parameters of ``Axes.plot`` for all lines.
        **parameters
            Further parameters of `error_curve`, such as ``against``, ``process`` and ``n``.

        Returns
        -------
        ErrorCurveDisplay
        """
        table = error_curve(denoisers, X, sigmas, **parameters)
        return cls.from_predictions(table, ax=ax, line_kw=line_kw)

    @classmethod
    def from_predictions(
        cls, table: ErrorTable, *, ax: Any = None, line_kw: dict[str, Any] | None = None
    ) -> ErrorCurveDisplay:
        """Return a drawn display of a table.

        Parameters
        ----------
        table : ErrorTable
            Returned by `error_curve`; anything else raises ValueError.
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.
        line_kw : dict, default None
            Parameters of ``Axes.plot`` for all lines.

        Returns
        -------
        ErrorCurveDisplay
        """
        if not isinstance(table, ErrorTable):
            raise ValueError(
                f"table must be an ErrorTable, got {type(table).__name__}; call error_curve, with "
                "against=denoiser for the differences from one denoiser."
            )
        return cls(table).plot(ax, line_kw=line_kw)

    def plot(self, ax: Any = None, *, line_kw: dict[str, Any] | None = None) -> ErrorCurveDisplay:
        """Draw lines with a marker per noise level and a band of one standard error; return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.
        line_kw : dict, default None
            Parameters of ``Axes.plot`` for all lines.

        Returns
        -------
        ErrorCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.

        Notes
        -----
        The axes are logarithmic, so a noise level of zero is left out. The axis of errors ends
        six decades below the largest error; empty triangles at its foot mark smaller errors.
        """
        ax, legend = line_axes(ax, (8.0, 4.4))
        table = self.table
        self.ax_, self.figure_, self.lines_ = ax, ax.figure, []
        ax.set(xscale="log", yscale="log")
        for m, name in enumerate(table.names):
            self.lines_.append(self._line(m, name, line_kw or {}))
        label = textwrap.fill(f"measured from {table.against}", _LABEL)
        ax.set(xlabel=SIGMA, ylabel=f"mean squared error (squared units),\n{label}")
        title = f"Mean squared error against σ; {table.n} {table.source}"
        ax.set_title(broken(title, 10 * ax.figure.get_figwidth()), fontsize="medium")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        handles = self.lines_ + self._mark_below(self._foot())
        names = [textwrap.fill(str(handle.get_label()), 22) for handle in handles]
        ax.legend(handles, names, **legend)
        return self

    def _line(self, m, name, line_kw):
        """Draw the line of one denoiser."""
        table, turn = self.table, m // len(_COLOURS)
        style = {
            "color": _COLOURS[m % len(_COLOURS)],
            "marker": _MARKERS[m % len(_MARKERS)],
            "linestyle": _STYLES[turn % len(_STYLES)],
            "markersize": 5,
            "label": name,
        }
        shown = (table.errors[:, m] > 0) & (table.sigmas > 0)
        sigmas, errors = table.sigmas[shown], table.errors[shown, m]
        (line,) = self.ax_.plot(sigmas, errors, **{**style, **line_kw})
        spread = np.nan_to_num(table.standard_errors[shown, m])
        lower = np.maximum(errors - spread, errors / 10)  # a logarithmic axis has no zero
        self.ax_.fill_between(
            sigmas, lower, errors + spread, color=line.get_color(), alpha=0.15, linewidth=0
        )
        return line

    def _foot(self):
        """Set the lower end of the axis of errors, and return it."""
        largest = self.table.errors.max()
        if largest == 0:  # nothing but marks
            self.ax_.set_ylim(10.0**-_DECADES, 1.0)
            return 10.0**-_DECADES
        self.ax_.autoscale(axis="y")
        lowest = largest / 10**_DECADES
        if self.ax_.get_ylim()[0] < lowest:
            self.ax_.set_ylim(lowest, 2 * self.ax_.dataLim.y1)  # room as of a shorter axis
        return self.ax_.get_ylim()[0]

    def _mark_below(self, foot):
        """Mark errors below the axis, line above line; return the handle of the legend, if any.

        Heights are in fractions of the axis, as its values end above these errors.
        """
        table = self.table
        below = (table.errors < foot) & (table.sigmas > 0)[:, None]
        for height, m in enumerate(np.flatnonzero(below.any(0))):
            at = table.sigmas[below[:, m]]
            heights = np.full(len(at), _STACK * (height + 0.7))
            across = {"transform": self.ax_.get_xaxis_transform()}
            self.ax_.plot(at, heights, color=self.lines_[m].get_color(), **_BELOW, **across)
        if not below.any():
            return []
        return self.ax_.plot([], [], color="0.3", label="below axis, or zero", **_BELOW)
