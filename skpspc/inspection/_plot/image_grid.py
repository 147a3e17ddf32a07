"""Images in rows and columns, with a title below each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..._repr import number, short_repr
from ..._typing import ArrayLike, DataRange, ImageShape
from ..._warnings import warn
from ...support.training_set import DEFAULT_RANGE
from .._images import as_images, check_count
from ..metrics import check_range
from ._cells import (
    LABEL_LINE,
    as_pictures,
    box_size,
    canvas,
    draw,
    is_signal,
    limits,
    roomiest,
    side_of_boxes,
    wrapped,
)

_PAD = 0.08  # between boxes, in their sides
_MOST_COLUMNS = 8  # of a new figure
_MOST_POSTERIOR_MEANS = 8  # of `show_posterior`
_MARGIN = 0.05  # beside the boxes, in inches


class ImageGridDisplay:
    """Images in rows and columns, with a title below each.

    Images of 3 channels are drawn in colour, the mean over channels of other images in gray.
    Signals, one pixel high or wide, are drawn as lines. Create one with :meth:`from_predictions` or
    `show_images`.

    Parameters
    ----------
    images : ndarray of shape (n, C, H, W)
        Images as floats.
    titles : list of str of length n, default None
        Text below each image; None: no text.
    heading : str, default ""
        Title above all images.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that hold all images.
    figure_ : matplotlib Figure
        Figure of the axes.

    Examples
    --------
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import ImageGridDisplay
    >>> digits = load_digits_images()
    >>> images, titles = digits.images[:10], digits.target[:10]
    >>> display = ImageGridDisplay.from_predictions(images, titles=titles)
    >>> display.titles[:3]
    ['0', '1', '2']
    """

    __repr__ = short_repr

    def __init__(
        self, images: np.ndarray, titles: list[str] | None = None, heading: str = ""
    ) -> None:
        self.images = images
        self.titles = titles
        self.heading = heading

    @classmethod
    def from_predictions(
        cls,
        X: ArrayLike,
        *,
        titles: Iterable[Any] | None = None,
        heading: str = "",
        n_columns: int | None = None,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        ax: Any = None,
    ) -> ImageGridDisplay:
        """Return a drawn display of images.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            Images, of uint8 or floats.
        titles : sequence of length n, default None
            Text below each image; None: no text.
        heading : str, default ""
            Title above all images.
        n_columns : int, default None
            Images per row, at least 1. None: up to 8 in a new figure, or the number with the
            largest images in ``ax``.
        image_shape : tuple of (C, H, W), default None
            Shape of one image where X is flat; None: flat images are signals, drawn as lines.
        data_range : tuple of (low, high), default None
            Values drawn black and white. None: 0 and 255 for uint8 images, -1 and 1 for float
            images, the smallest and the largest value for signals.
        ax : matplotlib Axes, default None
            Emptied, and filled with images as large as possible. None: a new figure.

        Returns
        -------
        ImageGridDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        ValueError
            For no images, NaN, infinity, another number of titles than images, or an
            ``image_shape`` that does not fit.

        Warns
        -----
        UserWarning
            For float images without a negative value, unless ``data_range`` is given.
        """
        images = _checked(X, image_shape, data_range)
        words = None if titles is None else [str(title) for title in titles]
        if words is not None and len(words) != len(images):
            raise ValueError(
                f"titles must hold one title for each of the {len(images)} images, got "
                f"{len(words)}."
            )
        display = cls(images, words, heading)
        return display.plot(ax, n_columns=n_columns, data_range=data_range)

    def plot(
        self,
        ax: Any = None,
        *,
        n_columns: int | None = None,
        data_range: DataRange | None = None,
    ) -> ImageGridDisplay:
        """Draw the images, and return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Emptied, and filled with images as large as possible. None: a new figure.
        n_columns : int, default None
            Images per row, at least 1. None: up to 8 in a new figure, or the number with the
            largest images in ``ax``.
        data_range : tuple of (low, high), default None
            Values drawn black and white. None: -1 and 1, for signals the smallest and the largest
            value.

        Returns
        -------
        ImageGridDisplay
        """
        n = len(self.images)
        if n_columns is None:
            n_columns = _columns_of_full_rows(n) if ax is None else roomiest(ax, n, self._size)
        check_count(n_columns, "n_columns")
        n_columns = min(n, int(n_columns))
        boxes, text = self._size(n_columns)
        labels = self._labels(side_of_boxes(ax, boxes, text))
        n_lines = max((len(label.splitlines()) for label in labels), default=0)
        below = LABEL_LINE * (n_lines + 0.5) if n_lines else 0.0
        text = text[0], math.ceil(n / n_columns) * below
        self.ax_, side = canvas(ax, boxes, text, self.heading)
        self.figure_ = self.ax_.figure
        if data_range is None:
            data_range = limits(self.images) if self._are_signals else DEFAULT_RANGE
        step, row = self._steps()
        for i, (image, label) in enumerate(zip(self.images, labels, strict=True)):
            down, across = divmod(i, n_columns)
            left, top = _MARGIN + across * side * step, down * (side * row + below)
            draw(self.ax_, image, left, top, side, data_range, label)
        return self

    @property
    def _are_signals(self):
        return is_signal(self.images.shape[1:])

    def _labels(self, side):
        """Return the titles, broken into lines as wide as a box."""
        width = side * box_size(self.images.shape[1:])[0]
        titles = [""] * len(self.images) if self.titles is None else self.titles
        return [wrapped(title, width) for title in titles]

    def _steps(self):
        """Return width and height of a box with its gap, in sides of a box."""
        width, height = box_size(self.images.shape[1:])
        return width + _PAD, height + _PAD

    def _size(self, n_columns):
        """Return the size of all boxes, in sides of a box, and of unbroken text, in inches."""
        n_rows = math.ceil(len(self.images) / n_columns)
        step, row = self._steps()
        lines = [len(title.splitlines()) + 0.5 for title in self.titles or []]
        text = LABEL_LINE * max(lines, default=0.0)
        return (n_columns * step, n_rows * row), (2 * _MARGIN, n_rows * text)


def show_posterior(posterior, **options):
    """Return a drawn display of the first means of a `Posterior`; see `Posterior.plot`."""
    n = len(posterior.mean)
    n_shown = min(n, _MOST_POSTERIOR_MEANS)
    shown = f"first {n_shown} of {n}" if n_shown < n else f"{n}"
    heading = f"Posterior mean{'s' * (n > 1)} of {shown} noisy image{'s' * (n > 1)}"
    titles = None
    if not any(math.isnan(size) for size in posterior.effective_sample_size):
        heading = f"{heading}; below: effective sample size (ESS)"
        titles = [_posterior_title(posterior, i) for i in range(n_shown)]
    return ImageGridDisplay.from_predictions(
        posterior.mean[:n_shown], titles=titles, heading=heading, **options
    )


def _posterior_title(posterior, i):
    """Return the effective sample size of noisy image i, and its error bound unless zero."""
    title = f"ESS {number(float(posterior.effective_sample_size[i]))}"
    bound = float(posterior.error_bound[i])
    if bound == 0:
        return title
    return f"{title}\nerror {'≤' if posterior.bound_is_proved[i] else '~'} {bound:.2g}"


def _columns_of_full_rows(n):
    """Return the number of columns for n images in as few rows as possible, equally long."""
    n_rows = math.ceil(n / _MOST_COLUMNS)
    return math.ceil(n / n_rows)


def _checked(X, image_shape, data_range):
    """Return images as float64 (n, C, H, W); warn if floats seem to be on another range."""
    images = as_images(X, "X")
    if images.ndim == 2 and image_shape is not None and images[0].size != np.prod(image_shape):
        raise ValueError(
            f"image_shape must have {images[0].size} values, as each row of X has, got "
            f"{tuple(image_shape)}."
        )
    read_on = DEFAULT_RANGE if data_range is None else check_range(data_range)
    pictures = as_pictures(images, image_shape, read_on)
    if data_range is None and images.dtype != np.uint8 and not is_signal(pictures.shape[1:]):
        low, high = float(pictures.min()), float(pictures.max())
        if 0 <= low < high:
            warn(
                f"X has values from {low:.4g} to {high:.4g}, and {images.dtype} images are drawn "
                f"on [-1, 1]; pass data_range=(0, {max(1.0, high):.4g}), the range of the images."
            )
    return pictures
