"""Where a patch looks and where it answers.

A square window of size ``s`` is every ``s x s`` crop that fits the image, named by its top
left corner. Along an axis shorter than ``s`` it spans the whole axis, so that an image of
shape (C, 1, W) is a signal with windows of ``s`` samples.
"""

import numbers
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from .._repr import short_repr
from .training_set import TrainingSet


def clip_size(size, image_shape):
    """Height and width of a square window of side ``size`` in an image (C, H, W)."""
    _, height, width = image_shape
    return min(size, height), min(size, width)


def square_corners(window, image_shape):
    """Top left corners of all windows that fit, in row-major order.

    Parameters
    ----------
    window : tuple of (h, w)
    image_shape : tuple of (C, H, W)

    Returns
    -------
    list of (top, left)
    """
    (h, w), (_, height, width) = window, image_shape
    return [(top, left) for top in range(height - h + 1) for left in range(width - w + 1)]


def overlap_counts(window, image_shape):
    """How many windows of shape (h, w) cover each pixel.

    Returns
    -------
    ndarray of shape (H, W), float64
    """

    def along(side, length):
        at = np.arange(length)
        return np.minimum.reduce(
            [at + 1, length - at, np.full(length, side), np.full(length, length - side + 1)]
        )

    (h, w), (_, height, width) = window, image_shape
    return np.outer(along(h, height), along(w, width)).astype(np.float64)


def centred_counts(size, image_shape):
    """How many pixels of the image lie in the odd square of side ``size`` around each pixel.

    Returns
    -------
    ndarray of shape (H, W), float64
    """

    def along(length):
        at = np.arange(length)
        return np.minimum(at + size // 2, length - 1) - np.maximum(at - size // 2, 0) + 1

    _, height, width = image_shape
    return np.outer(along(height), along(width)).astype(np.float64)


def tapered_windows(image_shape, patch_size, width=None):
    r"""Every square window that fits, with precisions that fall off from its centre.

    .. math::

        \pi_{kj} = \exp\bigl(-|j - c_k|^2 / 2 w^2\bigr) \text{ for } j \in P_k,
        \text{ else } 0

    with :math:`c_k` the centre of square :math:`P_k`: what is near the edge of a window counts
    less than what is in its middle, and no pixel jumps in or out as a window moves. They are a
    ``query``, a ``response`` or both for `PosteriorMeanCollection`.

    Parameters
    ----------
    image_shape : tuple of (C, H, W)
    patch_size : int
        Side of the squares, at least 1; clipped to the image along each axis.
    width : float, default None
        w, the standard deviation of the taper, in pixels, positive. None: ``patch_size / 4``.
        inf: plain squares, those of `PSPCDenoiser`.

    Returns
    -------
    ndarray of shape (K, H, W), float64
        One window a row, in row-major order of their corners; channels share it.

    Raises
    ------
    ValueError
        If the size or the width is out of range.

    References
    ----------
    "Filtered Posterior Mean Collections", 2026, arXiv:2605.24192, on soft windows.

    Examples
    --------
    >>> from skpspc import tapered_windows
    >>> tapered_windows((1, 1, 4), patch_size=3, width=1.0).round(2)
    array([[[0.61, 1.  , 0.61, 0.  ]],
    <BLANKLINE>
           [[0.  , 0.61, 1.  , 0.61]]])
    """
    if np.shape(image_shape) != (3,) or min(image_shape) < 1:
        raise ValueError(
            f"image_shape must be (C, H, W), positive, got {image_shape!r}; gray images have C = 1."
        )
    if not isinstance(patch_size, numbers.Integral) or patch_size < 1:
        raise ValueError(f"patch_size must be an int of at least 1, got {patch_size!r}.")
    width = patch_size / 4 if width is None else width
    if not (isinstance(width, (int, float, np.number)) and width > 0):
        raise ValueError(
            f"width must be a positive number of pixels, got {width!r}; inf gives plain squares."
        )
    h, w = clip_size(int(patch_size), image_shape)
    column, row = (
        np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / width) ** 2) for side in (h, w)
    )
    taper = np.outer(column, row)
    corners = square_corners((h, w), image_shape)
    windows = np.zeros((len(corners), *image_shape[1:]))
    for window, (top, left) in zip(windows, corners, strict=True):
        window[top : top + h, left : left + w] = taper
    return windows


def centred_windows(image_shape, size):
    """The odd square of side ``size`` around each pixel, cut at the edges.

    Returns
    -------
    ndarray of shape (H * W, H, W), bool
        One window a row, in row-major order of their pixels.
    """

    def along(length):
        at = np.arange(length)
        return np.abs(at[:, None] - at) <= size // 2

    _, height, width = image_shape
    near = along(height)[:, None, :, None] & along(width)[None, :, None]  # (H, W, H, W)
    return near.reshape(-1, height, width)


def with_own_heat(heat, pixels):
    """Heat maps in which none is hotter than the pixel that the map is of.

    So every window that holds the largest entries of its map holds its own pixel, also where
    nothing moves it and the map was zero.

    Parameters
    ----------
    heat : Tensor of shape (m, H * W)
        Written to.
    pixels : Tensor of shape (m,), int64
        Numbers y * W + x.

    Returns
    -------
    Tensor of shape (m, H * W)
    """
    largest = heat.amax(1)
    largest[largest == 0] = 1.0
    heat[torch.arange(len(heat), device=heat.device), pixels.to(heat.device)] = largest
    return heat


class Window(NamedTuple):
    """One window, as one pixel of the answer knows it.

    Attributes
    ----------
    columns : Tensor of shape (m,), int64
        The coordinates (c * H + y) * W + x of an image that it compares.
    precision : Tensor of shape (m,), float64
        How much each of them counts.
    share : Tensor of shape (C,), float64
        Its part in every channel of the pixel; those of all windows add up to one.
    """

    columns: torch.Tensor
    precision: torch.Tensor
    share: torch.Tensor

    def __repr__(self):
        return short_repr(self)


@dataclass(frozen=True)
class Windows:
    """The windows of a noise level, in the terms of the one formula behind the denoisers.

    Attributes
    ----------
    query : Tensor of shape (K, c, H, W), bool or float
        How much each coordinate counts in the distance; c = 1 where the channels share it,
        else c = C.
    response : Tensor of the same shape, bool or float, or None
        How much each window has to say at each coordinate. None: there are as many windows as
        pixels, or as coordinates, and each answers for its own.
    source : TrainingSet
        The images that are seen through them, each at the same place as the noisy one.
    corner : tuple of (top, left), default (0, 0)
        Where these lie in the images that were fitted, if they are crops.
    """

    query: torch.Tensor
    response: torch.Tensor | None
    source: TrainingSet
    corner: tuple[int, int] = (0, 0)

    __repr__ = short_repr

    @cached_property
    def share(self):
        """Responses with a sum of one at each coordinate, (K, c, H, W) float64, or None."""
        if self.response is None:
            return None
        response = self.response.double()
        return response / response.sum(0)

    @property
    def answer_shape(self):
        """(c, H, W) of the answers that have windows of their own; c = 1 is all channels."""
        height, width = self.query.shape[2:]
        if self.response is None:
            return len(self.query) // (height * width), height, width
        return tuple(self.response.shape[1:])

    def at(self, row, column):
        """The windows that answer for a pixel, a list of `Window`."""
        channels, n_answers = self.source.image_shape[0], self.answer_shape[0]
        _, height, width = self.answer_shape
        if self.share is None:
            numbers = [c * height * width + row * width + column for c in range(n_answers)]
            own = torch.eye(n_answers, dtype=torch.float64, device=self.query.device)
            shares = own.expand(-1, channels)
        else:
            every = self.share[:, :, row, column].expand(-1, channels)  # (K, C)
            numbers = every.any(1).nonzero().squeeze(1).tolist()
            shares = every[numbers]
        found = []
        for number, share in zip(numbers, shares, strict=True):
            precision = self.query[number].expand(self.source.image_shape).flatten()
            columns = precision.nonzero().squeeze(1)
            found.append(Window(columns, precision[columns].double(), share))
        return found
