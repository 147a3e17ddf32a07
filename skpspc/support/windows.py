"""Windows: the coordinates in which images are compared, and the coordinates that are denoised.

There are five kinds of windows: `Whole`, `Squares`, `Masks`, `Centred` and `SquaresAnywhere`. Each
is a frozen value; noisy images with equal windows share one call of a kernel.

Square windows of side ``s`` are all ``s x s`` crops that fit the image, in row-major order of the
top left corners. Along an axis shorter than ``s`` a window spans the whole axis, so that an image
of shape (C, 1, W) is a signal with windows of ``s`` samples.
"""

import math
import numbers
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from .._repr import short_repr
from .._state import NumpyState
from .._typing import ImageShape


@dataclass(frozen=True)
class Whole:
    """One window: the whole image is compared and denoised."""

    def n_values(self, image_shape):
        """Return the number of compared values of an image (C, H, W)."""
        return math.prod(image_shape)

    def masks(self, image_shape, device="cpu"):
        """Return the window as `Masks` for images of shape (C, H, W)."""
        ones = torch.ones(1, 1, *image_shape[1:], dtype=torch.bool, device=device)
        return Masks(self, ones, ones)


@dataclass(frozen=True)
class Squares:
    """All windows of h x w pixels that fit the image; each denoises its own pixels.

    Attributes
    ----------
    h, w : int
        Height and width of the windows.
    query_ramp : tuple of (int, int), default (1, 1)
        Rows and columns over which the precision rises from each edge of a window: by equal steps,
        from ``1 / ramp`` to 1. At most half of the side, rounded up. (1, 1): all pixels of a window
        are compared equally.
    response_ramp : tuple of (int, int), default (1, 1)
        Rows and columns over which the weight of the window's mean rises, in the same way.
    """

    h: int
    w: int
    query_ramp: tuple[int, int] = (1, 1)
    response_ramp: tuple[int, int] = (1, 1)

    def flat(self, ramp):
        """Return height and width of the box whose box sums over a ramp are the tapered window."""
        return self.h - ramp[0] + 1, self.w - ramp[1] + 1

    def profiles(self, ramp):
        """Return the numbers that rise over a ramp, along height and width, two float64 arrays."""
        boxes = zip(self.flat(ramp), ramp, strict=True)
        return [np.convolve(np.ones(flat), np.ones(rise)) / rise for flat, rise in boxes]

    def n_values(self, image_shape):
        """Return the number of values of an image (C, H, W) that each window compares.

        A tapered window counts the sum of its precisions, which is an int as well.
        """
        return image_shape[0] * math.prod(self.flat(self.query_ramp))

    def counts(self, image_shape):
        """Return the sum of the responses of all windows at each pixel, (H, W) float64."""
        sides = zip(self.profiles(self.response_ramp), image_shape[1:], strict=True)
        return np.outer(
            *(np.convolve(profile, np.ones(side - len(profile) + 1)) for profile, side in sides)
        )

    def masks(self, image_shape, device="cpu"):
        """Return the windows as `Masks` for images of shape (C, H, W)."""
        ramps = self.query_ramp, self.response_ramp
        query, response = (self._squares(ramp, image_shape, device) for ramp in ramps)
        return Masks(self, query, response)

    def _squares(self, ramp, image_shape, device):
        """Return the windows (K, 1, H, W) with numbers that rise over a ramp."""
        corners = square_corners((self.h, self.w), image_shape)
        dtype = torch.bool if ramp == (1, 1) else torch.float64
        squares = torch.zeros(len(corners), 1, *image_shape[1:], dtype=dtype, device=device)
        numbers = torch.from_numpy(np.outer(*self.profiles(ramp))).to(squares)
        for square, (top, left) in zip(squares, corners, strict=True):
            square[..., top : top + self.h, left : left + self.w] = numbers
        return squares


@dataclass(frozen=True)
class Masks(NumpyState):
    """K windows of any shape.

    Attributes
    ----------
    level : hashable
        Name of the windows, such as their noise level: Masks of equal levels compare equal.
    query : Tensor of shape (K, c, H, W), bool or float
        Precisions: factors of the squared differences in the distance of each window. c = 1 if
        they are equal in all channels, else c = C.
    response : Tensor of shape (K, c, H, W), bool or float, or None
        Weight of each window's mean at each coordinate; the sum over windows is positive. None:
        window k denoises pixel k (c = 1) or coordinate k (c = C) alone.
    batch_size : int, default None
        Number of training images in a batch. Weights are normalised within each batch, and the
        means of all batches are averaged. Requires ``response=None``. None: one batch.
    """

    level: object
    query: torch.Tensor = field(compare=False)
    response: torch.Tensor | None = field(compare=False)
    batch_size: int | None = None

    __repr__ = short_repr
    _not_kept = ("_n_compared", "derived")

    def n_values(self, image_shape):
        """Return the number of values that each window compares, (K,) float64.

        Images have shape (C, H, W). A soft window counts the sum of its precisions.
        """
        return image_shape[0] // self.query.shape[1] * self._n_compared

    @cached_property
    def _n_compared(self):
        """Sums of the precisions of each window, (K,) float64."""
        return self.query.flatten(1).sum(1, dtype=torch.float64)

    @cached_property
    def derived(self):
        """Dict in which a kernel keeps what it computes from the windows alone."""
        return {}

    def masks(self, image_shape, device="cpu"):
        """Return the windows themselves."""
        return self

    def shares(self):
        """Return responses divided by their sum over windows, (K, c, H, W) float64, or None."""
        if self.response is None:
            return None
        response = self.response.double()
        return response / response.sum(0)

    @property
    def answer_shape(self):
        """Shape (c, H, W) of the coordinates with different windows; c = 1: equal in channels."""
        height, width = self.query.shape[2:]
        if self.response is None:
            return len(self.query) // (height * width), height, width
        return tuple(self.response.shape[1:])


@dataclass(frozen=True)
class Centred:
    """One odd square around each pixel, which denoises that pixel alone.

    Attributes
    ----------
    size : int
        Side of the squares, odd.
    boundary : {"zero", "circular", "broken"}, default None
        Compare each window with the patches at all positions of the training images, with this
        padding of the noisy image; see `LocalScoreDenoiser`. None: compare each window with the
        patches at its own position, cut at the edges of the image.
    observed : Tensor of shape (C, H, W), bool, default None
        Compare only the coordinates that are True in the noisy image. None: compare all.
    """

    size: int
    boundary: str | None = None
    observed: torch.Tensor | None = field(default=None, compare=False)

    __repr__ = short_repr

    def n_values(self, image_shape):
        """Return the number of values that each window compares, an int or a Tensor (H*W,)."""
        channels, *sides = image_shape
        if self.observed is not None:
            return torch.from_numpy(observed_counts(self)).flatten()
        if self.boundary in ("zero", "circular"):
            return channels * math.prod(self.size for side in sides if side > 1)
        return channels * torch.as_tensor(centred_counts(self.size, image_shape)).flatten()

    def masks(self, image_shape, device="cpu"):
        """Return the windows as `Masks` for images of shape (C, H, W).

        Raises ValueError if the windows are compared with patches at all positions.
        """
        if self.boundary is not None:
            raise ValueError(
                "equivariant=True compares windows with patches at other positions; use "
                "equivariant=False."
            )
        around = torch.from_numpy(centred_windows(image_shape, self.size)).to(device)[:, None]
        return Masks(self, around if self.observed is None else around & self.observed, None)


@dataclass(frozen=True)
class SquaresAnywhere:
    """Windows of h x w pixels, compared with the patches at all positions of the training images.

    Each window denoises its own pixels. The top left corners lie on every ``stride``-th row and
    column, and on the last; the stride is at most the window along each axis.
    """

    h: int
    w: int
    stride: int = 1

    def n_values(self, image_shape):
        """Return the number of values of an image (C, H, W) that each window compares."""
        return image_shape[0] * self.h * self.w

    def starts(self, image_shape):
        """Return the first rows and the first columns of the windows in images (C, H, W)."""
        return tuple(
            sorted({*range(0, side - length, min(self.stride, length)), side - length})
            for side, length in zip(image_shape[1:], (self.h, self.w), strict=True)
        )

    def masks(self, image_shape, device="cpu"):
        """Raise ValueError: the windows are compared with patches at other positions."""
        raise ValueError(
            "SingleImageDenoiser compares windows with patches at other positions; use "
            "PSPCDenoiser, or LocalScoreDenoiser(equivariant=True) for attribution."
        )


Windows = Whole | Squares | Masks | Centred | SquaresAnywhere


def squares_of_side(size, image_shape, query_taper=0.0, response_taper=0.0):
    """Return the square windows of side ``size`` in images (C, H, W), as `Squares` or `Whole`.

    The tapers in [0, 1] are the lengths of the ramps, relative to the longest ones. Windows that
    span an axis of the image have no ramps along the axis.
    """
    sides = clip_size(size, image_shape)
    if sides == image_shape[1:]:
        return Whole()
    axes = zip(sides, image_shape[1:], strict=True)
    longest = [0 if side == whole else (side - 1) // 2 for side, whole in axes]

    def ramp(taper):
        down, along = (1 + math.floor(taper * length + 0.5) for length in longest)
        return down, along

    h, w = sides
    return Squares(h, w, ramp(query_taper), ramp(response_taper))


def clip_size(size, image_shape):
    """Return height and width of a square window of side ``size`` in an image (C, H, W)."""
    _, height, width = image_shape
    return min(size, height), min(size, width)


def square_corners(window, image_shape):
    """Return a list of the corners (top, left) of all h x w windows in images (C, H, W)."""
    (h, w), (_, height, width) = window, image_shape
    return [(top, left) for top in range(height - h + 1) for left in range(width - w + 1)]


def overlap_counts(window, image_shape):
    """Return the number of h x w windows that cover each pixel, (H, W) float64."""
    h, w = window
    return Squares(h, w).counts(image_shape)


def centred_counts(size, image_shape):
    """Return the number of image pixels in the odd square around each pixel, (H, W) float64."""

    def along(length):
        at = np.arange(length)
        return np.minimum(at + size // 2, length - 1) - np.maximum(at - size // 2, 0) + 1

    _, height, width = image_shape
    return np.outer(along(height), along(width)).astype(np.float64)


def n_compared(windows, image_shape):
    """Return the number of values of an image (C, H, W) that count: all, or the observed ones."""
    observed = getattr(windows, "observed", None)
    return math.prod(image_shape) if observed is None else int(observed.sum())


def observed_counts(windows):
    """Return the number of observed values in each `Centred` window, (H, W) float64.

    Padding counts as observed with boundary "zero".
    """
    observed = windows.observed.cpu().numpy().astype(np.float64)
    reach = [min(windows.size // 2, side - 1) for side in observed.shape[1:]]
    padding = [(0, 0), *((r, r) for r in reach)]
    if windows.boundary == "circular":
        padded = np.pad(observed, padding, mode="wrap")
    else:
        padded = np.pad(observed, padding, constant_values=float(windows.boundary == "zero"))
    around = sliding_window_view(padded, [2 * r + 1 for r in reach], axis=(1, 2))
    return around.sum((0, 3, 4))


def tapered_windows(
    image_shape: ImageShape, patch_size: int, width: float | None = None
) -> np.ndarray:
    r"""Return all square windows inside an image, with precisions that fall off from the centre.

    .. math::

        \pi_{kj} = \exp\bigl(-|j - c_k|^2 / 2 w^2\bigr) \text{ for } j \in P_k,
        \text{ else } 0

    with :math:`c_k` the centre of square :math:`P_k`. Pixels near the edge of a window count less
    than pixels in its middle. Pass the windows to `PosteriorMeanCollection` as ``query``,
    ``response`` or both.

    Parameters
    ----------
    image_shape : tuple of (C, H, W)
        Shape of one image.
    patch_size : int
        Side of the squares, at least 1; clipped to the image along each axis.
    width : float, default None
        w, the standard deviation of the taper, in pixels, positive. None: ``patch_size / 4``.
        inf: squares of precision 1, the windows of `PSPCDenoiser`.

    Returns
    -------
    ndarray of shape (K, H, W), float64
        Precisions of K windows, in row-major order of their corners. All channels share them.

    Raises
    ------
    ValueError
        If ``image_shape``, ``patch_size`` or ``width`` is out of range.

    References
    ----------
    "Filtered Posterior Mean Collections", 2026, arXiv:2605.24192, on soft windows.

    Examples
    --------
    The two windows of 3 pixels in a row of 4:

    >>> from skpspc import tapered_windows
    >>> tapered_windows((1, 1, 4), patch_size=3, width=1.0).round(2)
    array([[[0.61, 1.  , 0.61, 0.  ]],
    <BLANKLINE>
           [[0.  , 0.61, 1.  , 0.61]]])

    The first of nine windows in an image of 5 x 5 pixels, in percent:

    >>> windows = tapered_windows((1, 5, 5), patch_size=3)
    >>> (100 * windows[0]).round().astype(int)
    array([[ 17,  41,  17,   0,   0],
           [ 41, 100,  41,   0,   0],
           [ 17,  41,  17,   0,   0],
           [  0,   0,   0,   0,   0],
           [  0,   0,   0,   0,   0]])
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
            f"width must be a positive number of pixels, got {width!r}; pass inf for equal weights."
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
    """Return masks of the odd square around each pixel, cut at the edges, (H * W, H, W) bool."""

    def along(length):
        at = np.arange(length)
        return np.abs(at[:, None] - at) <= size // 2

    _, height, width = image_shape
    near = along(height)[:, None, :, None] & along(width)[None, :, None]  # (H, W, H, W)
    return near.reshape(-1, height, width)


def with_own_heat(heat, pixels):
    """Set each heat map at its own pixel to the map's largest value, or to 1 if that is zero.

    A window of the largest entries of a map then contains the map's own pixel, even if the map was
    zero everywhere. ``heat`` (m, H * W) is changed in place and returned; ``pixels`` (m,) int64 are
    the flat indices y * W + x of the maps' own pixels.
    """
    largest = heat.amax(1)
    largest[largest == 0] = 1.0
    heat[torch.arange(len(heat), device=heat.device), pixels.to(heat.device)] = largest
    return heat
