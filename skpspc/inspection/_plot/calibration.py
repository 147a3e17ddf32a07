"""Errors of patch sizes and thresholds on held-out images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._optional import load
from ..._repr import short_repr
from ..calibration import CalibrationTable
from ._cells import broken, line_axes

_MARKERS = "osD^v<>pX"
_TICKS = 12  # on the axis of candidates
_AXES = {
    "patch size": "patch size (pixels)",
    "threshold": "threshold (fraction of the heat in the window)",
}


class CalibrationCurveDisplay:
    """Mean squared error against patch size or threshold, a curve for each noise level.

    A star marks the candidate that the calibration chose. Bands are one standard error wide on each
    side. Create one with :meth:`from_predictions` or the ``plot`` method of a `CalibrationTable`.

    Parameters
    ----------
    table : CalibrationTable
        Errors to draw, returned by `calibrate_patch_size` or `calibrate_thresholds`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the curves.
    figure_ : matplotlib Figure
        Figure of the axes.
    lines_ : list of matplotlib Line2D
        Curves, by increasing noise level.
    chosen_ : matplotlib Line2D
        Stars at the chosen candidates.

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import CalibrationCurveDisplay, calibrate_patch_size
    >>> X = load_digits_images().images[:500]
    >>> sigmas, sizes = [0.1, 1.0], [1, 2, 4, 8]
    >>> _, table = calibrate_patch_size(PSPCDenoiser(), X, sigmas, sizes=sizes)
    >>> display = CalibrationCurveDisplay.from_predictions(table)
    >>> display.table.chosen
    array([1, 8])
    """

    __repr__ = short_repr

    def __init__(self, table: CalibrationTable) -> None:
        self.table = table

    @classmethod
    def from_predictions(
        cls, table: CalibrationTable, *, ax: Any = None
    ) -> CalibrationCurveDisplay:
        """Return a drawn display of a table.

        Parameters
        ----------
        table : CalibrationTable
            Returned by a calibration; anything else raises ValueError.
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.

        Returns
        -------
        CalibrationCurveDisplay
        """
        if not isinstance(table, CalibrationTable):
            raise ValueError(
                f"table must be a CalibrationTable, got {type(table).__name__}; call "
                "calibrate_patch_size or calibrate_thresholds."
            )
        return cls(table).plot(ax)

    def plot(self, ax: Any = None) -> CalibrationCurveDisplay:
        """Draw the curves, and return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.

        Returns
        -------
        CalibrationCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.

        Notes
        -----
        The axis of errors is logarithmic, and so is the axis of patch sizes.
        """
        plt, table = load("matplotlib.pyplot"), self.table
        ax, legend = line_axes(ax, (8.0, 4.4))
        self.ax_, self.figure_ = ax, ax.figure
        ax.set_yscale("log")
        # dark to light as noise grows: an order visible without hues
        colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.88, len(table.sigmas)))
        errors, spread = table.errors, np.nan_to_num(table.standard_errors)
        self.lines_ = []
        for j, (sigma, colour) in enumerate(zip(table.sigmas, colours, strict=True)):
            style = {"color": colour, "marker": _MARKERS[j % len(_MARKERS)], "ms": 4.5}
            self.lines_ += ax.plot(table.values, errors[j], label=f"{sigma:.3g}", **style)
            low = np.maximum(errors[j] - spread[j], errors[j] / 10)  # a logarithmic axis has no 0
            ax.fill_between(
                table.values, low, errors[j] + spread[j], color=colour, alpha=0.2, linewidth=0
            )
        self.chosen_ = self._mark_chosen(errors)
        self._label(ax)
        handles = [*self.lines_[::-1], self.chosen_]  # the largest error and noise on top
        ax.legend(handles=handles, title="noise level σ\n(units of images)", **legend)
        return self

    def _mark_chosen(self, errors):
        """Mark the chosen candidates."""
        table = self.table
        at = np.searchsorted(table.values, table.chosen)
        (stars,) = self.ax_.plot(
            table.chosen,
            errors[np.arange(len(at)), at],
            linestyle="",
            marker="*",
            markersize=13,
            color="#E69F00",
            markeredgecolor="black",
            label="chosen",
            zorder=3,
        )
        return stars

    def _label(self, ax):
        """Write the title and the axes of candidates and errors."""
        table = self.table
        title = f"Mean squared error against {table.parameter}; {table.n} held-out images"
        ax.set_title(broken(title, 10 * ax.figure.get_figwidth()), fontsize="medium")
        reference = broken(f"measured from {table.against}", 34)
        ax.set_ylabel(f"mean squared error (squared units),\n{reference}")
        ax.set_xlabel(_AXES.get(table.parameter, table.parameter))
        if table.parameter == "patch size":
            ax.set_xscale("log")
        every = math.ceil(len(table.values) / _TICKS)
        ax.set_xticks(table.values[::every], labels=[f"{v:g}" for v in table.values[::every]])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, axis="y", which="major", color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
