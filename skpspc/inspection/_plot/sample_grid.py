"""Samples beside the training images that are nearest to them."""

import numpy as np

from ..._repr import short_repr
from ...support.training_set import DEFAULT_RANGE
from .._images import as_images
from .._training import shared_training_set
from ..memorisation import memorised_fraction, nearest_training_images
from ._cells import (
    GREY,
    WARNING,
    as_pictures,
    box_size,
    canvas,
    check_columns,
    draw,
    limits,
    side_of_boxes,
    words,
)

_PAD = 0.12  # between boxes, in their sides
_MARGIN = 0.85  # for the names of rows, in inches
_TEXT = 0.34  # for a distance and its name of two lines, in inches


class SampleGridDisplay:
    """Samples, under each the nearest training image, and how far it is.

    Framed pairs are copies, by the rule of `memorised_fraction`. Make one with
    :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    samples, nearest : ndarray of shape (n, C, H, W)
        Drawn as pictures, or as lines where they are one pixel high or wide; numbers of
        channels other than 3 as their mean.
    distances : ndarray of shape (n,)
        Root mean square over pixels, as `nearest_training_images` gives them.
    memorised : ndarray of shape (n,), bool
        Which samples are copies.
    n_train : int
        Training images.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

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
        """Draw samples from a fitted denoiser, and show them.

        Parameters
        ----------
        estimator : denoiser
            Fitted.
        X_train : array or Tensor of shape (N, C, H, W) or (N, d), default None
            Training images, two or more. None: those that the denoiser keeps.
        n : int, default 8
            Samples.
        ax, n_columns, data_range
            As in :meth:`plot`.
        **parameters
            Of `EmpiricalDenoiser.sample`: ``n_steps``, ``sampler`` and others; ``random_state``
            is 0 unless it is given.

        Returns
        -------
        SampleGridDisplay

        Raises
        ------
        ValueError
            If ``X_train`` is None, and the denoiser keeps no training images.
        """
        shape = estimator.image_shape_
        known = shared_training_set([estimator]) if X_train is None else None
        if X_train is None and known is None:
            raise ValueError(
                f"{type(estimator).__name__} keeps no training images of the shape of its samples; "
                "pass X_train, the images it was fitted on."
            )
        samples = estimator.sample(n, **{"random_state": 0, **parameters})
        if known is not None:
            samples, X_train = samples.reshape(len(samples), *shape), known.images
        own = getattr(estimator, "data_range_", None)
        display = cls._measured(samples, X_train, shape, own or DEFAULT_RANGE)
        shown = getattr(estimator, "data_range", None) if data_range is None else data_range
        return display.plot(ax, n_columns=n_columns, data_range=shown)

    @classmethod
    def from_predictions(cls, samples, X_train, *, ax=None, n_columns=None, data_range=None):
        """Show samples that have been drawn.

        Parameters
        ----------
        samples : array or Tensor of shape (n, C, H, W) or (n, d)
        X_train : array or Tensor of shape (N, C, H, W) or (N, d)
            Training images, two or more.
        ax, n_columns, data_range
            As in :meth:`plot`. Where samples and X_train are flat they are signals.

        Returns
        -------
        SampleGridDisplay
        """
        return cls._measured(samples, X_train, None).plot(
            ax, n_columns=n_columns, data_range=data_range
        )

    @classmethod
    def _measured(cls, samples, X_train, image_shape, data_range=DEFAULT_RANGE):
        samples, train = as_images(samples, "samples"), as_images(X_train, "X_train")
        # the range is only recorded; here it is that of the training images
        is_uint8 = train.dtype == np.uint8
        low, high = data_range if is_uint8 else (train.min(), train.max())
        span = {"data_range": (low, high)} if low < high else {}
        distances, indices = nearest_training_images(samples, train, **span)
        memorised = memorised_fraction(samples, train, **span).values > 0
        nearest = as_pictures(train[indices[:, 0]], image_shape, data_range)
        samples = as_pictures(samples, image_shape, data_range)
        return cls(samples, nearest, distances[:, 0], memorised, len(train))

    def plot(self, ax=None, *, n_columns=None, data_range=None):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Where to draw, after emptying it; boxes are as large as it allows. None makes a
            figure.
        n_columns : int, default None
            Pairs in a row; None: 8, or as many as make pairs largest in the axes given.
        data_range : tuple of (low, high), default None
            Values that are black and white. None: (-1, 1) for images that live there, else the
            smallest and the largest of what is shown.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If n_columns is none.
        """
        n = len(self.samples)
        if n_columns is None:
            n_columns = 8 if ax is None else self._roomiest(ax)
        n_columns = min(n, check_columns(n_columns))
        title = f"{n} samples, nearest of {self.n_train} training images"
        title = f"{title}; {self.memorised.sum()} copied (framed)"
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
        """Width and height of two boxes with what is between, in their sides."""
        width, height = box_size(self.samples.shape[1:])
        return width + _PAD, 2 * height + 1.5 * _PAD

    def _size(self, n_columns):
        """What boxes take, in their sides, and what words take, in inches."""
        n_bands = -(-len(self.samples) // n_columns)
        cell, band = self._pair_size()
        return (n_columns * cell, n_bands * band), (_MARGIN, n_bands * _TEXT)

    def _roomiest(self, ax):
        """The number of columns that makes boxes largest."""
        columns = range(1, len(self.samples) + 1)
        return max(columns, key=lambda n: side_of_boxes(ax, *self._size(n)))

    def _pair(self, i, left, top, side, data_range):
        """One sample, its neighbour, and their distance."""
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
        """What the rows of a band are."""
        height = side * box_size(self.samples.shape[1:])[1]
        rows = {
            "sample": top + height / 2,
            "nearest in\ntraining": top + 1.5 * height + side * _PAD / 2,
            "distance\n(RMS)": top + 2 * height + side * _PAD / 2 + _TEXT / 2,
        }
        for name, middle in rows.items():
            self.ax_.text(_MARGIN - 0.08, middle, name, ha="right", color=GREY, **words(side))
