"""Tables of errors of denoisers, and of differences between denoisers."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _optional
from .._repr import three_digits

if TYPE_CHECKING:
    from ._plot.comparison import ComparisonDisplay
    from ._plot.error_curve import ErrorCurveDisplay


class Table(ABC):
    """A table as text, HTML, reStructuredText and a data frame."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Title of the table, one line."""

    @abstractmethod
    def _cells(self):
        """Return header and rows, lists of str."""

    def __repr__(self):
        header, rows = self._cells()
        widths = _widths(header, rows)
        lines = ["  ".join(map(str.rjust, row, widths)).rstrip() for row in [header, *rows]]
        return "\n".join([self.title, *lines])

    def _repr_html_(self):
        header, rows = self._cells()

        def line(cells, tag):
            return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
        return (
            f"<table><caption>{html.escape(self.title)}</caption>"
            f"<thead><tr>{line(header, 'th')}</tr></thead><tbody>{body}</tbody></table>"
        )

    def to_rst(self) -> str:
        """Return the table in reStructuredText."""
        header, rows = self._cells()
        widths = _widths(header, rows)
        rule = "  ".join("=" * width for width in widths)
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [header, *rows]]
        return "\n".join([rule, lines[0], rule, *lines[1:], rule, ""])


@dataclass(frozen=True, eq=False, repr=False)
class ErrorTable(Table):
    """Mean squared errors of denoisers at noise levels, returned by `error_curve`.

    Attributes
    ----------
    sigmas : ndarray of shape (n_sigmas,)
        Noise levels, increasing.
    names : list of str
        Names of the denoisers.
    errors : ndarray of shape (n_sigmas, n_denoisers)
        Mean squared errors, over images and pixels, in squared units of the images.
    standard_errors : ndarray of shape (n_sigmas, n_denoisers)
        Standard errors of the mean over images; NaN for one image.
    n : int
        Number of noisy images at each noise level.
    process : {"forward", "reverse"}
        Process that made the noisy images.
    against : str
        Reference of the errors, in words, with the training set of an optimal denoiser.
    source : str
        Source of the noisy images, in words.

    Examples
    --------
    >>> from skpspc import EmpiricalDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import error_curve
    >>> X = load_digits_images().images
    >>> models = {"optimal": EmpiricalDenoiser(), "PSPC": PSPCDenoiser(4)}
    >>> models = {name: model.fit(X[100:]) for name, model in models.items()}
    >>> table = error_curve(models, X[:100], [0.2, 1.0], against="clean")
    >>> table
    Mean squared error against the clean images, 64 noisy images (forward process)
    sigma  optimal    PSPC
      0.2   0.0870  0.0238
        1    0.123   0.134
    >>> display = table.plot()
    """

    sigmas: np.ndarray
    names: list[str]
    errors: np.ndarray
    standard_errors: np.ndarray
    n: int
    process: str
    against: str
    source: str

    @property
    def title(self) -> str:
        """Title of the table, one line."""
        return f"Mean squared error against {self.against}, {self.n} {self.source}"

    def _cells(self):
        rows = [
            [f"{sigma:.4g}", *map(three_digits, row)]
            for sigma, row in zip(self.sigmas, self.errors, strict=True)
        ]
        return ["sigma", *self.names], rows

    def plot(self, ax: Any = None, *, line_kw: dict[str, Any] | None = None) -> ErrorCurveDisplay:
        """Draw error against noise level, a line for each denoiser.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in; None: a new figure.
        line_kw : dict, default None
            Parameters of ``Axes.plot`` for all lines.

        Returns
        -------
        ErrorCurveDisplay
            The drawn display, with ``figure_`` and ``ax_``.

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        from ._plot.error_curve import ErrorCurveDisplay

        return ErrorCurveDisplay.from_predictions(self, ax=ax, line_kw=line_kw)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with a row for each noise level.

        pandas is installed by the extra ``metrics``.
        """
        pandas = _optional.load("pandas")
        index = pandas.Index(self.sigmas, name="sigma")
        return pandas.DataFrame(self.errors, index=index, columns=self.names)


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonTable(Table):
    """Root mean square differences between any two denoisers, returned by `compare`.

    The printed table, the data frame and the heat maps of :meth:`plot` show ``differences``, in the
    units of the images.

    Attributes
    ----------
    sigmas : ndarray of shape (n_sigmas,)
        Noise levels, increasing.
    names : list of str
        Names of the denoisers.
    errors : ndarray of shape (n_sigmas, n_denoisers, n_denoisers)
        Mean squared differences, over images and pixels, in squared units of the images; symmetric,
        with zeros on the diagonal.
    standard_errors : ndarray of shape (n_sigmas, n_denoisers, n_denoisers)
        Standard errors of ``errors``, means over images; NaN for one image.
    differences : ndarray of shape (n_sigmas, n_denoisers, n_denoisers)
        Root mean square differences, the square roots of ``errors``, in the units of the images.
    n : int
        Number of noisy images at each noise level.
    process : {"forward", "reverse"}
        Process that made the noisy images.
    source : str
        Source of the noisy images, in words.

    Examples
    --------
    >>> from skpspc import EmpiricalDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import compare
    >>> X = load_digits_images().images
    >>> models = {"optimal": EmpiricalDenoiser(), "PSPC": PSPCDenoiser(4)}
    >>> models = {name: model.fit(X[100:]) for name, model in models.items()}
    >>> table = compare(models, X[:100], [0.2, 1.0])
    >>> table
    Root mean square differences, 64 noisy images (forward process)
    sigma  denoiser  optimal   PSPC
      0.2   optimal        0  0.246
      0.2      PSPC    0.246      0
        1   optimal        0  0.218
        1      PSPC    0.218      0
    >>> display = table.plot()
    """

    sigmas: np.ndarray
    names: list[str]
    errors: np.ndarray
    standard_errors: np.ndarray
    n: int
    process: str
    source: str

    @property
    def title(self) -> str:
        """Title of the table, one line."""
        return f"Root mean square differences, {self.n} {self.source}"

    @property
    def differences(self) -> np.ndarray:
        """Root mean square differences, (n_sigmas, n_denoisers, n_denoisers)."""
        return np.sqrt(self.errors)

    def _cells(self):
        rows = [
            [f"{sigma:.4g}", name, *map(three_digits, row)]
            for sigma, matrix in zip(self.sigmas, self.differences, strict=True)
            for name, row in zip(self.names, matrix, strict=True)
        ]
        return ["sigma", "denoiser", *self.names], rows

    def plot(self, ax: Any = None) -> ComparisonDisplay:
        """Draw the root mean square differences, a heat map for each noise level.

        Parameters
        ----------
        ax : array of n_sigmas matplotlib Axes, default None
            Axes of the heat maps; None: a new figure.

        Returns
        -------
        ComparisonDisplay
            The drawn display, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        from ._plot.comparison import ComparisonDisplay

        return ComparisonDisplay.from_predictions(self, ax=ax)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with a row for each noise level and denoiser.

        pandas is installed by the extra ``metrics``.
        """
        pandas = _optional.load("pandas")
        index = pandas.MultiIndex.from_product(
            [self.sigmas, self.names], names=["sigma", "denoiser"]
        )
        values = self.differences.reshape(-1, len(self.names))
        return pandas.DataFrame(values, index=index, columns=self.names)


def _widths(header, rows):
    return [max(map(len, column)) for column in zip(header, *rows, strict=True)]
