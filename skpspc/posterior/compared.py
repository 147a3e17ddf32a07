"""The windows of noisy images in groups, each with the weights of the patches that it compares.

Attributions and means without some images need the weights of single training images. Windows that
compare equal coordinates are one group for each noisy image. Windows that are compared with patches
at all positions are one group for each region of a noisy image, see `sliding`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from ..support import Centred, MirroredTrainingSet
from ..support.memory import rows_that_fit
from .masks import WindowWeights
from .sliding import regions
from .softmax import exact_scale
from .weights import Weights

_CHUNK_ROWS = 64  # training images whose patches are compared together


class Compared(NamedTuple):
    """Windows of one noisy image that are compared with the same patches of training images.

    Attributes
    ----------
    image : int
        Number of the noisy image.
    pixels : slice or Tensor of int64
        Pixels that the windows denoise, of a flat image.
    weigh : callable
        ``weigh(without=None, state=None)`` returns the `Weights`.
    shares : Tensor of shape (K, P) or None
        Shares of the K windows in the values of a denoised image, which are equal in all channels
        or differ. None: each window denoises one pixel, or is itself the answer.
    locate : callable
        ``locate(numbers, by_window)`` returns image, row, column and mirrored, four Tensors of the
        shape (P, top) of ``numbers``, of the source of each pixel or window. See `Weights.chunks`
        for numbers.
    """

    image: int
    pixels: Any
    weigh: Callable
    shares: Any
    locate: Callable


def compared(z, roots, source, windows):
    """Yield every `Compared` group of windows; each group reads the training set on its own.

    Parameters
    ----------
    z, source, windows : see `select.compare`
    roots : Tensor of shape (n,), float64
        ``1 / (sigma sqrt(2))``.
    """
    if is_sliding(windows):
        yield from _by_region(z, roots, source, windows)
        return
    masks = windows.masks(z.shape[1:], z.device)
    shares, query = masks.shares(), masks.query.flatten(1).double().T.contiguous()
    shares = None if shares is None else shares.flatten(1).to(z.dtype)
    locate = partial(_located, source, masks)
    for i, (image, a) in enumerate(zip(z, roots, strict=True)):
        yield Compared(
            i, slice(None), partial(WindowWeights, image, a, source, query), shares, locate
        )


def is_sliding(windows):
    """Return True for windows that are compared with patches at all positions."""
    return isinstance(windows, Centred) and windows.boundary is not None


def _located(source, masks, numbers, by_window):
    """Return image, row, column and mirrored, see `Compared`, for windows that are `Masks`."""
    row, column, opposite = _corners(masks) if by_window else _pixels(masks)
    mirrored = torch.zeros_like(numbers, dtype=torch.bool)
    if isinstance(source, MirroredTrainingSet):
        n_images = len(source) // 2
        mirrored = numbers >= n_images
        numbers = numbers - n_images * mirrored
    column = torch.where(mirrored, opposite[:, None], column[:, None])
    return numbers, row[:, None].expand(numbers.shape), column, mirrored


def _pixels(masks):
    """Return row, column, and column in the mirror image, of every coordinate with own windows."""
    channels, height, width = masks.answer_shape
    at = torch.arange(channels * height * width, device=masks.query.device)
    row, column = at // width % height, at % width
    return row, column, width - 1 - column


def _corners(masks):
    """Return row, column, and column in the mirror image, of every window's top left corner."""
    used = (masks.query > 0).any(1)  # (K, H, W)
    lines, columns = used.any(2).byte(), used.any(1).byte()
    return lines.argmax(1), columns.argmax(1), columns.flip(1).argmax(1)


def _by_region(z, roots, source, windows):
    """Yield the `Compared` groups of windows that are compared with patches at all positions."""
    for region in regions(z, source, windows):
        dictionary, pixels, seen = region.dictionary, region.pixels.flatten(), region.observed
        if seen is not None:
            seen = None if seen.all() else seen.reshape(-1, dictionary.n_values)
        locate = partial(_located_patch, region)
        for i, a in enumerate(roots):
            queries = region.queries[i].reshape(-1, dictionary.n_values)
            weigh = partial(_PatchWeights, queries, a, dictionary, seen)
            yield Compared(i, pixels, weigh, None, locate)


def _located_patch(region, numbers, by_window):
    """Return image, row, column and mirrored, see `Compared`, for patches of a region."""
    dictionary = region.dictionary
    n_columns = dictionary.grid[1]
    first = (0, 0) if by_window else dictionary.centre
    n_positions = math.prod(dictionary.grid)
    position = numbers % n_positions
    row = position // n_columns + region.corner[0] + first[0]
    column = position % n_columns + region.corner[1] + first[1]
    image = numbers.div(n_positions, rounding_mode="floor")
    return image, row, column, torch.zeros_like(numbers, dtype=torch.bool)


class _PatchWeights(Weights):
    """Weights of all patches of a dictionary in the posteriors of query patches (q, d).

    a is ``1 / (sigma sqrt(2))``; ``observed`` (q, d) marks the coordinates that are compared, None:
    all. For ``without`` and ``state`` see `Weights`.
    """

    def __init__(self, queries, a, dictionary, observed=None, without=None, state=None):
        self._scale, self._factor = exact_scale(a)
        self._scaled = queries.double() * self._scale
        self._dictionary, self._observed = dictionary, observed
        n_positions = math.prod(dictionary.grid)
        self._positions = torch.arange(n_positions, device=queries.device)
        image_bytes = 8 * n_positions * (2 * dictionary.n_values + 4 * len(queries))
        n_rows = rows_that_fit(image_bytes, _CHUNK_ROWS, what="The patches of a training image")
        sums = torch.zeros(len(queries), dtype=torch.float64, device=queries.device)
        super().__init__(dictionary.training_set, sums, n_rows, 0.0, n_positions, without, state)

    def _logits(self, rows):
        source = self._dictionary.training_set
        images = torch.arange(len(source), device=self._positions.device)[rows]
        numbers = images[:, None] * self.n_positions + self._positions
        chunk = self._dictionary.take(numbers.flatten())
        patches = source.to_compute(chunk.patches, torch.float64) * self._scale
        values = source.answers.to_compute(chunk.values, torch.float64)
        return self._squares(patches).mul_(-self._factor), values[..., None]

    def _squares(self, patches):
        """Return the squared distances (m, q) of patches (m, d)."""
        if self._observed is None:
            # differences are taken directly: a product would cancel at small sigma
            mode = "donot_use_mm_for_euclid_dist"
            return torch.cdist(patches, self._scaled, compute_mode=mode).square_()
        pairs = zip(self._scaled, self._observed, strict=True)
        distances = [((patches - query) * seen).square_().sum(1) for query, seen in pairs]
        return torch.stack(distances, 1)
