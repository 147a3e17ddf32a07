"""Tables of error curves and comparisons."""

import html
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from .. import _optional


class _Table(ABC):
    """A table as text, HTML, reStructuredText and a data frame."""

    @property
    @abstractmethod
    def title(self):
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

    def to_rst(self):
        """Return a simple table of reStructuredText, a str."""
        header, rows = self._cells()
        widths = _widths(header, rows)
        rule = "  ".join("=" * width for width in widths)
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [header, *rows]]
        return "\n".join([rule, lines[0], rule, *lines[1:], rule, ""])


@dataclass(frozen=True, eq=False, repr=False)
class ErrorTable(_Table):
    """Mean squared errors of denoisers at noise levels, returned by `error_curve`.

    Attributes
    ----------
    sigmas : ndarray of shape (n_sigmas,)
        Increasing.
    names : list of str
        Names of the denoisers.
    errors : ndarray of shape (n_sigmas, n_denoisers)
        Mean over images of the mean squared error of their pixels.
    standard_errors : ndarray of shape (n_sigmas, n_denoisers)
        Standard error of the mean over images; NaN for one image.
    n : int
        Number of images.
    process : {"forward", "reverse"}
    against : str
        Reference of the errors, in words; for the optimal denoiser, with its training set.
    source : str
        Source of the noisy images, in words.
    """

    sigmas: np.ndarray
    names: list
    errors: np.ndarray
    standard_errors: np.ndarray
    n: int
    process: str
    against: str
    source: str

    @property
    def title(self):
        """Title of the table, one line."""
        return f"Mean squared error against {self.against}, {self.n} {self.source}"

    def _cells(self):
        rows = [
            [f"{sigma:.4g}", *map(_number, row)]
            for sigma, row in zip(self.sigmas, self.errors, strict=True)
        ]
        return ["sigma", *self.names], rows

    def plot(self, ax=None, *, line_kw=None):
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

    def to_frame(self):
        """Return a pandas DataFrame (extra ``metrics``), a row for each noise level."""
        pandas = _optional.load("pandas")
        index = pandas.Index(self.sigmas, name="sigma")
        return pandas.DataFrame(self.errors, index=index, columns=self.names)


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonTable(_Table):
    """Mean squared differences of denoisers from one another, returned by `compare`.

    Attributes
    ----------
    sigmas, names, n, process, source
        As in `ErrorTable`.
    errors, standard_errors : ndarray of shape (n_sigmas, n_denoisers, n_denoisers)
        As in `ErrorTable`; symmetric, with zeros on the diagonal.
    """

    sigmas: np.ndarray
    names: list
    errors: np.ndarray
    standard_errors: np.ndarray
    n: int
    process: str
    source: str

    @property
    def title(self):
        """Title of the table, one line."""
        return f"Mean squared differences, {self.n} {self.source}"

    def _cells(self):
        rows = [
            [f"{sigma:.4g}", name, *map(_number, row)]
            for sigma, matrix in zip(self.sigmas, self.errors, strict=True)
            for name, row in zip(self.names, matrix, strict=True)
        ]
        return ["sigma", "denoiser", *self.names], rows

    def plot(self, ax=None):
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

    def to_frame(self):
        """Return a pandas DataFrame (extra ``metrics``), a row for each level and denoiser."""
        pandas = _optional.load("pandas")
        index = pandas.MultiIndex.from_product(
            [self.sigmas, self.names], names=["sigma", "denoiser"]
        )
        values = self.errors.reshape(-1, len(self.names))
        return pandas.DataFrame(values, index=index, columns=self.names)


def _number(value):
    """Return a number with three significant digits, a str."""
    return f"{value:#.3g}" if value else "0"


def _widths(header, rows):
    return [max(map(len, column)) for column in zip(header, *rows, strict=True)]
