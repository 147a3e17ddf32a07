"""Differences between denoisers as heat maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._optional import load
from ..._repr import short_repr
from ..._typing import ArrayLike, Denoisers, Numbers
from ..tables import ComparisonTable
from ._cells import broken, wrapped

_COLUMNS = 3  # panels per row of a new figure
_MOST_DENOISERS_IN_FULL_ROWS = 4  # more denoisers: one panel fewer per row
_MOST_DENOISERS_WITH_NUMBERS = 6  # numbers fit the cells of so many denoisers
_DARK = 0.55  # of the scale, below which numbers are white
_NAME_WIDTH = 0.9  # inches
_BESIDE_PANELS = 2.2  # width of the names and of the colour scale, in inches
_WIDTH = 8.0  # of a new figure with a full row, in inches


class ComparisonDisplay:
    """Root mean square differences between denoisers, a heat map for each noise level.

    All heat maps share one colour scale. Create one with :meth:`from_predictions`,
    :meth:`from_estimator` or the ``plot`` method of a `ComparisonTable`.

    Parameters
    ----------
    table : ComparisonTable
        Differences to draw, returned by `compare`.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes, shape (n_sigmas,)
        Axes of the heat maps, by increasing noise level.
    figure_ : matplotlib Figure
        Figure of the axes.

    Examples
    --------
    >>> from skpspc import EmpiricalDenoiser, GaussianDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import ComparisonDisplay
    >>> X = load_digits_images().images[:500]
    >>> models = {
    ...     "optimal": EmpiricalDenoiser().fit(X),
    ...     "PSPC, 4": PSPCDenoiser(4).fit(X),
    ...     "Gaussian": GaussianDenoiser().fit(X),
    ... }
    >>> display = ComparisonDisplay.from_estimator(models, X, [0.2, 1.0], n=16)

    Difference of the optimal and the Gaussian denoiser at the first noise level:

    >>> display.axes_[0].texts[2].get_text()
    '0.14'
    """

    __repr__ = short_repr

    def __init__(self, table: ComparisonTable) -> None:
        self.table = table

    @classmethod
    def from_estimator(
        cls,
        denoisers: Denoisers,
        X: ArrayLike | None,
        sigmas: Numbers,
        *,
        ax: Any = None,
        **parameters: Any,
    ) -> ComparisonDisplay:
        """Return a drawn display of the differences between fitted denoisers.

        Parameters
        ----------
        denoisers : dict of str to denoiser, or list of denoisers
            Fitted denoisers; unnamed denoisers are named after their classes.
        X : array or Tensor of shape (N, C, H, W) or (N, d)
            Clean images, to which noise is added.
        sigmas : array of float of shape (n_sigmas,)
            Noise levels, in the units of the images.
        ax : array of n_sigmas matplotlib Axes, default None
            Axes of the heat maps; None: a new figure.
        **parameters
            Further parameters of `compare`, such as ``n`` and ``process``.

        Returns
        -------
        ComparisonDisplay
        """
        from ..curves import compare

        return cls.from_predictions(compare(denoisers, X, sigmas, **parameters), ax=ax)

    @classmethod
    def from_predictions(cls, table: ComparisonTable, *, ax: Any = None) -> ComparisonDisplay:
        """Return a drawn display of a table.

        Parameters
        ----------
        table : ComparisonTable
            Returned by `compare`; anything else raises ValueError.
        ax : array of n_sigmas matplotlib Axes, default None
            Axes of the heat maps; None: a new figure.

        Returns
        -------
        ComparisonDisplay
        """
        if not isinstance(table, ComparisonTable):
            raise ValueError(
                f"table must be a ComparisonTable, got {type(table).__name__}; call compare."
            )
        return cls(table).plot(ax)

    def plot(self, ax: Any = None, *, cmap: Any = "cividis") -> ComparisonDisplay:
        """Draw the heat maps, and return self.

        Parameters
        ----------
        ax : array of n_sigmas matplotlib Axes, default None
            Axes of the heat maps, by increasing noise level; another number raises ValueError.
            None: a new figure.
        cmap : str or Colormap, default "cividis"
            Colours of the differences.

        Returns
        -------
        ComparisonDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        table = self.table
        differences = table.differences
        largest = differences.max() or 1.0
        self.axes_ = self._axes(ax)
        self.figure_ = self.axes_[0].figure
        for j, (panel, values) in enumerate(zip(self.axes_, differences, strict=True)):
            image = panel.imshow(values, vmin=0, vmax=largest, cmap=cmap, interpolation="nearest")
            self._label_axes(panel, ax is not None or j % self._n_columns == 0)
            panel.set_title(f"σ = {table.sigmas[j]:.3g}", fontsize="medium")
            if len(values) <= _MOST_DENOISERS_WITH_NUMBERS:
                _write(panel, values, largest)
        if ax is None:
            title = "Root mean square differences between denoisers, for each σ; "
            title = broken(f"{title}{table.n} {table.source}", 12 * self.figure_.get_figwidth())
            self.figure_.suptitle(title, fontsize="medium")
        bar = self.figure_.colorbar(image, ax=self.axes_.tolist(), shrink=0.8)
        bar.locator = load("matplotlib.ticker").MaxNLocator(5)
        bar.update_ticks()
        bar.set_label("root mean square difference\n(units of the images)")
        return self

    @property
    def _n_columns(self):
        has_small_panels = len(self.table.names) <= _MOST_DENOISERS_IN_FULL_ROWS
        most = _COLUMNS if has_small_panels else _COLUMNS - 1
        return min(most, len(self.table.sigmas))

    def _axes(self, ax):
        """Return axes (n_sigmas,), given or of a new figure."""
        n = len(self.table.sigmas)
        if ax is not None:
            axes = np.array(ax, dtype=object).ravel()
            if len(axes) != n:
                raise ValueError(
                    f"ax must hold {n} axes, one for each noise level, got {len(axes)}."
                )
            return axes
        n_rows = math.ceil(n / self._n_columns)
        side = (_WIDTH - _BESIDE_PANELS) / max(self._n_columns, 2)
        size = side * self._n_columns + _BESIDE_PANELS, (side + 0.9) * n_rows + 0.5
        figure = load("matplotlib.pyplot").figure(figsize=size, layout="constrained")
        axes = figure.subplots(n_rows, self._n_columns, squeeze=False).ravel()
        for unused in axes[n:]:
            unused.remove()
        return axes[:n]

    def _label_axes(self, panel, is_first):
        """Write the denoisers' names along both axes; only the first panel of a row names rows."""
        at, names = np.arange(len(self.table.names)), self.table.names
        style = {"fontsize": 9}
        panel.set_xticks(at, names, rotation=40, ha="right", rotation_mode="anchor", **style)
        rows = [wrapped(name, _NAME_WIDTH) for name in names] if is_first else [""] * len(names)
        panel.set_yticks(at, rows, **style)
        panel.tick_params(length=0)


def _write(panel, values, largest):
    """Write the differences into the cells of a heat map."""
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value < _DARK * largest else "black"
        label = "0" if value == 0 else f"{value:#.2g}"
        panel.text(column, row, label, ha="center", va="center", color=colour, fontsize=8.5)
