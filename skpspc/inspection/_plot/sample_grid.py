"""Samples with their nearest training images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..._repr import short_repr
from ..._typing import ArrayLike, DataRange
from ...support.training_set import DEFAULT_RANGE
from .._images import as_images, check_count
from .._training import shared_training_set, training_images
from ..memorisation import memorised_fraction, nearest_training_images
from ._cells import (
    GREY,
    WARNING,
    as_pictures,
    box_size,
    canvas,
    draw,
    limits,
    roomiest,
    words,
)

_PAD = 0.12  # between boxes, in their sides
_MARGIN = 0.85  # width of the names of rows, in inches
_TEXT = 0.34  # height of a distance and its name of two lines, in inches


class SampleGridDisplay:
    """Samples, each above its nearest training image and the distance between the two.

    Frames mark copies, by the rule of `memorised_fraction`. Images of 3 channels are drawn in
    colour, the mean over channels of other images in gray, and signals, one pixel high or wide, as
    lines. Create one with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    samples : ndarray of shape (n, C, H, W)
        Samples as floats.
    nearest : ndarray of shape (n, C, H, W)
        Nearest training image of each sample, as floats.
    distances : ndarray of shape (n,)
        Distance of each pair by `nearest_training_images`, a root mean square over pixels.
    memorised : ndarray of shape (n,), bool
        True for copies.
    n_train : int
        Number of training images.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that hold all images.
    figure_ : matplotlib Figure
        Figure of the axes.

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import SampleGridDisplay
    >>> X = load_digits_images().images[:200]
    >>> model = PSPCDenoiser(patch_size=4).fit(X)
    >>> display = SampleGridDisplay.from_estimator(model, n=4, n_steps=8)
    >>> display.distances.round(2)  # root mean squares on [-1, 1]
    array([0.47, 0.22, 0.28, 0.28])
    """

    __repr__ = short_repr

    def __init__(
        self,
        samples: np.ndarray,
        nearest: np.ndarray,
        distances: np.ndarray,
        memorised: np.ndarray,
        n_train: int,
    ) -> None:
        self.samples = samples
        self.nearest = nearest
        self.distances = distances
        self.memorised = memorised
        self.n_train = n_train

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X_train: ArrayLike | None = None,
        *,
        n: int = 8,
        ax: Any = None,
        n_columns: int | None = None,
        data_range: DataRange | None = None,
        **parameters: Any,
    ) -> SampleGridDisplay:
        """Return a drawn display of samples from a fitted denoiser.

        Parameters
        ----------
        estimator : denoiser
            Fitted denoiser.
        X_train : array or Tensor of shape (N, C, H, W) or (N, d), default None
            Training images, at least two. None: the training set of the denoiser.
        n : int, default 8
            Number of samples.
        ax : matplotlib Axes, default None
            Emptied, and filled with images as large as possible. None: a new figure.
        n_columns : int, default None
            Samples per row, at least 1. None: 8 in a new figure, or the number with the largest
            images in ``ax``.
        data_range : tuple of (low, high), default None
            Values drawn black and white. None: the declared ``data_range`` of the denoiser;
            without one, (-1, 1) for images on that range, otherwise the smallest and the largest
            value shown.
        **parameters
            Parameters of the method ``sample`` of the denoiser, such as ``n_steps`` and
            ``sampler``; ``random_state`` defaults to 0.

        Returns
        -------
        SampleGridDisplay

        Raises
        ------
        ValueError
            If the denoiser keeps no training images, or for images of another shape.
        """
        shape = estimator.image_shape_
        training_set = shared_training_set([estimator]) if X_train is None else None
        if X_train is None and training_set is None:
            raise ValueError(
                f"{type(estimator).__name__} keeps no training images of the shape of its samples; "
                "pass X_train, the images it was fitted on."
            )
        samples = estimator.sample(n, **{"random_state": 0, **parameters})
        if training_set is not None:
            samples, X_train = samples.reshape(len(samples), *shape), training_set.images
        own = getattr(estimator, "data_range_", None)
        display = cls._measured(samples, X_train, shape, own or DEFAULT_RANGE)
        shown = getattr(estimator, "data_range", None) if data_range is None else data_range
        return display.plot(ax, n_columns=n_columns, data_range=shown)

    @classmethod
    def from_predictions(
        cls,
        samples: ArrayLike,
        X_train: ArrayLike,
        *,
        ax: Any = None,
        n_columns: int | None = None,
        data_range: DataRange | None = None,
    ) -> SampleGridDisplay:
        """Return a drawn display of given samples.

        Parameters
        ----------
        samples : array or Tensor of shape (n, C, H, W) or (n, d)
            Samples; flat samples are signals, drawn as lines.
        X_train : array or Tensor of shape (N, C, H, W) or (N, d)
            Training images, at least two.
        ax : matplotlib Axes, default None
            Emptied, and filled with images as large as possible. None: a new figure.
        n_columns : int, default None
            Samples per row, at least 1. None: 8 in a new figure, or the number with the largest
            images in ``ax``.
        data_range : tuple of (low, high), default None
            Values drawn black and white. None: (-1, 1) for images on that range, otherwise the
            smallest and the largest value shown.

        Returns
        -------
        SampleGridDisplay

        Raises
        ------
        ValueError
            For no images, NaN, infinity, images of two shapes, or fewer than two training images.
        """
        return cls._measured(samples, X_train, None).plot(
            ax, n_columns=n_columns, data_range=data_range
        )

    @classmethod
    def _measured(cls, samples, X_train, image_shape, data_range=DEFAULT_RANGE):
        samples, train = as_images(samples, "samples"), training_images(X_train, "X_train")
        # the range is only recorded: the range of the training images
        is_uint8 = train.dtype in (np.uint8, torch.uint8)
        low, high = data_range if is_uint8 else (train.min(), train.max())
        span = (low, high) if low < high else DEFAULT_RANGE
        distances, indices = nearest_training_images(samples, train, data_range=span)
        memorised = memorised_fraction(samples, train, data_range=span).values > 0
        nearest = as_images(train[indices[:, 0]], "X_train")
        nearest = as_pictures(nearest, image_shape, data_range)
        samples = as_pictures(samples, image_shape, data_range)
        return cls(samples, nearest, distances[:, 0], memorised, len(train))

    def plot(
        self,
        ax: Any = None,
        *,
        n_columns: int | None = None,
        data_range: DataRange | None = None,
    ) -> SampleGridDisplay:
        """Draw samples, nearest training images and distances, and return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Emptied, and filled with images as large as possible. None: a new figure.
        n_columns : int, default None
            Samples per row, at least 1. None: 8 in a new figure, or the number with the largest
            images in ``ax``.
        data_range : tuple of (low, high), default None
            Values drawn black and white. None: (-1, 1) for images on that range, otherwise the
            smallest and the largest value shown.

        Returns
        -------
        SampleGridDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        n = len(self.samples)
        if n_columns is None:
            n_columns = 8 if ax is None else roomiest(ax, n, self._size)
        check_count(n_columns, "n_columns")
        n_columns = min(n, int(n_columns))
        copied = self.memorised.sum()
        title = f"{n} samples above their nearest of {self.n_train} training images"
        title = f"{title}; {copied} {'copy' if copied == 1 else 'copies'} (framed)"
        boxes, text = self._size(n_columns)
        self.ax_, side = canvas(ax, boxes, text, title)
        self.figure_ = self.ax_.figure
        data_range = limits(self.nearest, self.samples) if data_range is None else data_range
        cell, band = self._pair_size()
        for i in range(n):
            row, column = divmod(i, n_columns)
            top = row * (side * band + _TEXT)
            self._pair(i, _MARGIN + column * side * cell, top, side, data_range)
            if column == 0:
                self._row_names(top, side)
        return self

    def _pair_size(self):
        """Return width and height of a pair of boxes with its gaps, in sides of a box."""
        width, height = box_size(self.samples.shape[1:])
        return width + _PAD, 2 * height + 1.5 * _PAD

    def _size(self, n_columns):
        """Return the size of all boxes, in sides of a box, and of the text, in inches."""
        n_bands = -(-len(self.samples) // n_columns)
        cell, band = self._pair_size()
        return (n_columns * cell, n_bands * band), (_MARGIN, n_bands * _TEXT)

    def _pair(self, i, left, top, side, data_range):
        """Draw a sample, its nearest training image, and their distance."""
        copied = bool(self.memorised[i])
        frame = {"edge": WARNING, "linewidth": 2.0} if copied else {}
        box, height = side * np.array(box_size(self.samples.shape[1:]))
        below = top + height + side * _PAD / 2
        draw(self.ax_, self.samples[i], left, top, side, data_range, **frame)
        draw(self.ax_, self.nearest[i], left, below, side, data_range, **frame)
        self.ax_.text(
            left + box / 2,
            below + height + _TEXT / 2,
            f"{self.distances[i]:.3f}",
            ha="center",
            color=WARNING if copied else "black",
            fontweight="bold" if copied else "normal",
            **words(side),
        )

    def _row_names(self, top, side):
        """Write the names of the three rows of a band."""
        height = side * box_size(self.samples.shape[1:])[1]
        rows = {
            "sample": top + height / 2,
            "nearest in\ntraining": top + 1.5 * height + side * _PAD / 2,
            "distance\n(RMS)": top + 2 * height + side * _PAD / 2 + _TEXT / 2,
        }
        for name, middle in rows.items():
            self.ax_.text(_MARGIN - 0.08, middle, name, ha="right", color=GREY, **words(side))
