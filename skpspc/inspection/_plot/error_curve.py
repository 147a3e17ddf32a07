"""Error against noise level, as lines."""

import numpy as np
from sklearn.isotonic import isotonic_regression

from ... import _optional
from ..curves import error_curve

# Okabe and Ito, without the yellow, which is too light for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_STYLES = ("-", "--", ":")
_GAP = 0.06  # between labels, of the height of the axes


class ErrorCurveDisplay:
    """Mean squared error of denoisers against the noise level, on logarithmic axes.

    Make one with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    table : ErrorTable
        What `error_curve` gives.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One for each denoiser.

    Examples
    --------
    >>> from skpspc import GaussianDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import ErrorCurveDisplay
    >>> X = load_digits_images().images
    >>> display = ErrorCurveDisplay.from_estimator(
    ...     {"Gaussian": GaussianDenoiser().fit(X)}, X, [0.1, 1.0, 10.0], n=4
    ... )
    >>> len(display.lines_)
    1
    """

    def __init__(self, table):
        self.table = table

    @classmethod
    def from_estimator(cls, denoisers, X, sigmas, *, ax=None, line_kw=None, **parameters):
        """Measure the errors of fitted denoisers, and draw them.

        Parameters
        ----------
        denoisers, X, sigmas
            See `error_curve`.
        ax : matplotlib Axes, default None
            Where to draw; None makes a figure.
        line_kw : dict, default None
            For ``Axes.plot``.
        **parameters
            Of `error_curve`: ``against``, ``process``, ``n`` and others.

        Returns
        -------
        ErrorCurveDisplay
        """
        table = error_curve(denoisers, X, sigmas, **parameters)
        return cls.from_predictions(table, ax=ax, line_kw=line_kw)

    @classmethod
    def from_predictions(cls, table, *, ax=None, line_kw=None):
        """Draw errors that have been measured.

        Parameters
        ----------
        table : ErrorTable
        ax, line_kw
            As in :meth:`from_estimator`.

        Returns
        -------
        ErrorCurveDisplay
        """
        return cls(table).plot(ax, line_kw=line_kw)

    def plot(self, ax=None, *, line_kw=None):
        """Draw: a line with a marker at each noise level, a band of one standard error, a label.

        Parameters
        ----------
        ax, line_kw
            As in :meth:`from_estimator`.

        Returns
        -------
        self

        Notes
        -----
        Logarithmic axes have no zero: errors of zero, and a noise level of zero, are left out.
        """
        plt = _optional.load("matplotlib.pyplot")
        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        table = self.table
        self.ax_, self.figure_, self.lines_ = ax, ax.figure, []
        ax.set(xscale="log", yscale="log")
        for m, name in enumerate(table.names):
            self.lines_.append(self._line(m, name, line_kw or {}))
        ax.set(xlabel=r"noise level $\sigma$", ylabel=f"MSE against {table.against}")
        ax.set_title(f"{table.n} {table.source}", fontsize="medium")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        self._label_lines()
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

    def _label_lines(self):
        """Names at the right ends of the lines, moved apart."""
        lines = [line for line in self.lines_ if len(line.get_xdata())]
        to_axes = self.ax_.transData + self.ax_.transAxes.inverted()
        self.ax_.autoscale_view()
        ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in lines]
        heights = [to_axes.transform(end)[1] for end in ends]
        for line, end, height in zip(lines, ends, spread_out(heights, _GAP), strict=True):
            self.ax_.annotate(
                line.get_label(),
                xy=end,
                xytext=(1.04, height),
                textcoords="axes fraction",
                va="center",
                color=line.get_color(),
                arrowprops={
                    "arrowstyle": "-",
                    "color": line.get_color(),
                    "linewidth": 0.7,
                    "relpos": (0, 0.5),  # to where the words begin
                },
                annotation_clip=False,
            )


def spread_out(heights, gap):
    """Numbers moved apart by at least ``gap``, in their order, with the same mean where possible.

    Isotonic regression: the nearest heights (least squares) with ``gap`` between neighbours.
    """
    heights = np.asarray(heights, dtype=float)
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    out = np.empty_like(heights)
    if len(heights):
        out[order] = isotonic_regression(heights[order] - steps) + steps
    return out
