"""Samples with their nearest training images."""

import numpy as np

from ..._repr import short_repr
from ...support.training_set import DEFAULT_RANGE
from .._images import as_images, check_count
from .._training import shared_training_set
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
    """Samples, each above its nearest training image and the distance of the two.

    Framed pairs are copies, by the rule of `memorised_fraction`. Create one with
    :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    samples, nearest : ndarray of shape (n, C, H, W)
        Drawn as pictures, or as lines if one pixel high or wide; unless there are 3 channels,
        their mean is drawn.
    distances : ndarray of shape (n,)
        Root mean square over pixels, by `nearest_training_images`.
    memorised : ndarray of shape (n,), bool
        True for copies.
    n_train : int
        Number of training images.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import SampleGridDisplay
    >>> X = load_digits_images().images[:200]
    >>> model = PSPCDenoiser(patch_size=4).fit(X)
    >>> display = SampleGridDisplay.from_estimator(model, n=4, n_steps=8)
    >>> bool((display.distances > 0.05).all())
    True
    """

    __repr__ = short_repr

    def __init__(self, samples, nearest, distances, memorised, n_train):
        self.samples = samples
        self.nearest = nearest
        self.distances = distances
        self.memorised = memorised
        self.n_train = n_train

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X_train=None,
        *,
        n=8,
        ax=None,
        n_columns=None,
        data_range=None,
        **parameters,
    ):
        """Return a drawn display of samples from a fitted denoiser.

        Parameters
        ----------
        estimator : denoiser
            Fitted.
        X_train : array or Tensor of shape (N, C, H, W) or (N, d), default None
            Training images, two or more. None: the training set of the denoiser; without one,
            ValueError.
        n : int, default 8
            Number of samples.
        ax, n_columns, data_range
            As in :meth:`plot`.
        **parameters
            Of `EmpiricalDenoiser.sample`: ``n_steps``, ``sampler`` and others; ``random_state``
            defaults to 0.
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
    def from_predictions(cls, samples, X_train, *, ax=None, n_columns=None, data_range=None):
        """Return a drawn display of given samples.

        Parameters
        ----------
        samples : array or Tensor of shape (n, C, H, W) or (n, d)
        X_train : array or Tensor of shape (N, C, H, W) or (N, d)
            Training images, two or more.
        ax, n_columns, data_range
            As in :meth:`plot`. Flat samples and X_train are signals.
        """
        return cls._measured(samples, X_train, None).plot(
            ax, n_columns=n_columns, data_range=data_range
        )

    @classmethod
    def _measured(cls, samples, X_train, image_shape, data_range=DEFAULT_RANGE):
        samples, train = as_images(samples, "samples"), as_images(X_train, "X_train")
        # the range is only recorded: the range of the training images
        is_uint8 = train.dtype == np.uint8
        low, high = data_range if is_uint8 else (train.min(), train.max())
        span = {"data_range": (low, high)} if low < high else {}
        distances, indices = nearest_training_images(samples, train, **span)
        memorised = memorised_fraction(samples, train, **span).values > 0
        nearest = as_pictures(train[indices[:, 0]], image_shape, data_range)
        samples = as_pictures(samples, image_shape, data_range)
        return cls(samples, nearest, distances[:, 0], memorised, len(train))

    def plot(self, ax=None, *, n_columns=None, data_range=None):
        """Draw, and return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            As in :meth:`TrajectoryDisplay.plot`.
        n_columns : int, default None
            Pairs in a row, at least 1. None: 8 in a new figure, or the number with the largest
            boxes in ``ax``.
        data_range : tuple of (low, high), default None
            As in :meth:`TrajectoryDisplay.plot`.
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
