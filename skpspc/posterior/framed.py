"""Products of the derivative of the posterior, for windows that compare equal coordinates.

See `products`. Maps of products of noisy and training images are summed over windows, and spread
from the windows; a `Frame` does both for one kind of windows.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from ..support import Centred, Masks, Squares, TranslatedTrainingSet
from ..support.memory import rows_that_fit
from .box import box_sum, window_spread, window_sum
from .direction import ProductKernel, Tilts
from .softmax import RunningSoftmax, difference_dtype, exact_scale, precision_root

# Number of noisy images that share one pass over the training set.
_NOISY_IMAGES = 8


class Frame(NamedTuple):
    """Sums of maps over windows, by precisions and by shares, and their transposes.

    Maps are (b, m, H, W), or (b, m, C, H, W) with ``by_channel``; numbers of windows are
    (b, m, *grid).
    """

    windows: Squares | Masks | Centred
    by_channel: bool
    grid: tuple[int, ...]
    compare: Callable
    spread_compare: Callable
    answer: Callable
    spread_answer: Callable


def frame_of(windows, z):
    """Return the `Frame` of Squares, of Masks, or of Centred windows at the same position."""
    image_shape = tuple(z.shape[1:])
    match windows:
        case Squares():
            return _squares_frame(windows, image_shape, z.device)
        case Centred():
            return _centred_frame(windows, image_shape)
    return _masks_frame(windows, image_shape)


def _squares_frame(windows, image_shape, device):
    count = torch.as_tensor(windows.counts(image_shape)).to(device)
    return Frame(
        windows,
        False,
        _grid((windows.h, windows.w), image_shape),
        partial(window_sum, windows=windows, ramp=windows.query_ramp),
        partial(window_spread, windows=windows, ramp=windows.query_ramp),
        lambda maps: window_sum(maps / count, windows, windows.response_ramp),
        lambda numbers: window_spread(numbers, windows, windows.response_ramp) / count,
    )


def _grid(window, image_shape):
    """Return the number of rows and of columns of windows (h, w) in an image (C, H, W)."""
    return tuple(side - length + 1 for side, length in zip(image_shape[1:], window, strict=True))


def _centred_frame(windows, image_shape):
    reach = [min(windows.size // 2, side - 1) for side in image_shape[1:]]
    window = [2 * r + 1 for r in reach]
    padding = [reach[1], reach[1], reach[0], reach[0]]

    def around(maps):
        return box_sum(torch.nn.functional.pad(maps, padding), window)

    # its own transpose: two pixels are either both in the square around the other, or neither
    return Frame(windows, False, image_shape[1:], around, around, _unchanged, _unchanged)


def _unchanged(maps):
    return maps


def _masks_frame(windows, image_shape):
    shares = windows.shares()
    by_channel = windows.query.shape[1] > 1 or (shares is not None and shares.shape[1] > 1)
    shape = image_shape if by_channel else (1, *image_shape[1:])
    query = windows.query.double().expand(-1, *shape).flatten(1)  # (K, Q)
    n_axes = 3 if by_channel else 2

    def flat(maps):
        return maps.flatten(-n_axes)

    def whole(maps):
        return maps.unflatten(-1, shape[-n_axes:])

    if shares is None:
        answer, spread = flat, whole
    else:
        shares = shares.expand(-1, *shape).flatten(1)
        answer, spread = lambda maps: flat(maps) @ shares.T, lambda numbers: whole(numbers @ shares)
    return Frame(
        windows,
        by_channel,
        (len(query),),
        lambda maps: flat(maps) @ query.T,
        lambda numbers: whole(numbers @ query),
        answer,
        spread,
    )


def _n_images(z, training_set, windows):
    pair_bytes = _pair_bytes(z, frame_of(windows, z))
    return rows_that_fit(pair_bytes, _NOISY_IMAGES, what="One pair of images")


def _pair_bytes(z, frame):
    """Return the bytes for one pair of a noisy and a training image."""
    _, channels, height, width = z.shape
    return 8 * (height * width * (4 * channels + 6) + 8 * math.prod(frame.grid))


def _tilts(z, sigma, training_set, windows, direction):
    comparison = _Comparison(z, sigma, training_set, windows, direction)
    mean = sigma.new_zeros(len(z), *comparison.grid)
    softmax = RunningSoftmax(mean)
    for rows, logit, tilt, *_ in comparison.chunks():
        _, weight, shrink = softmax.add(logit, training_set.prior(rows))
        mean = mean * shrink + (weight * tilt).sum(1)
    mean /= softmax.total
    return Tilts(softmax.sums, mean.flatten(1)), None


def _values(z, sigma, training_set, windows, direction, tilts, state):
    comparison = _Comparison(z, sigma, training_set, windows, direction)
    frame, shape = comparison.frame, z.shape[1:]
    if not direction.backward:
        shape = training_set.answers.image_shape[0], *z.shape[2:]
    values, level = z.new_zeros(len(z), *shape), torch.zeros_like(sigma)
    mean = (tilts.mean - direction.shift).view(-1, 1, *frame.grid)
    softmax = RunningSoftmax.resumed(tilts.softmax, mean[:, 0])
    for rows, logit, tilt, compared, answers in comparison.chunks():
        own = logit.clone()
        weight = softmax.relative(logit, training_set.prior(rows))
        weight = weight.exp_().div_(softmax.total[:, None]) * (tilt - mean)
        level += (weight * own.masked_fill_(weight == 0, 0.0)).flatten(1).sum(1)
        maps = comparison.spread(weight).to(z)
        maps = maps if frame.by_channel else maps[:, :, None]
        values += (maps * (compared if direction.backward else answers)).sum(1)
    return values, level


FRAMED = ProductKernel(_n_images, _tilts, _values)


def frame_maps(frame, values):
    """Return the maps of values (b, m, C, H, W) that a frame sums."""
    return values if frame.by_channel else values.sum(2)


class _Comparison:
    """Differences, logits and tilts of a few noisy images and chunks of training images.

    Differences at coordinates that are not compared are zero. See `products.product` for the
    parameters.
    """

    def __init__(self, z, sigma, source, windows, direction):
        self._z, self._source, self._windows, self._direction = z, source, windows, direction
        self.frame = frame = frame_of(windows, z)
        a = precision_root(sigma)
        self._dtype = difference_dtype(z, a, source, z[0].numel())
        scale, factor = exact_scale(a)
        self._scale = scale.to(self._dtype).view(-1, 1, 1, 1, 1)
        ones = [1] * len(frame.grid)
        self._factor = factor.view(-1, 1, *ones)
        self._level = direction.level.view(-1, 1, *ones)
        self._gather = frame.answer if direction.backward else frame.compare
        self.spread = frame.spread_compare if direction.backward else frame.spread_answer
        self._observed = getattr(windows, "observed", None)
        self._covers = None
        if isinstance(source, TranslatedTrainingSet):
            self._covers = source.covers(windows)

    @property
    def grid(self):
        """Shape of the numbers of the windows of a pair of images."""
        return self.frame.grid

    def chunks(self):
        """Yield chunks of training images: rows, logits, tilts, differences and answers.

        Logits and tilts are (b, m, *grid), float64; logits have no sample weights, and are -inf
        where a moved image does not cover the window. Differences x - z and answers are
        (b, m, C, H, W). Answers are up to a constant the images of which posteriors are means.
        """
        pair_bytes = _pair_bytes(self._z, self.frame) * len(self._z)
        n_rows = rows_that_fit(pair_bytes, len(self._source), what="A block of noisy images")
        vector = self._direction.vector[:, None]
        for rows in self._source.slices(n_rows):
            compared, answers, logit = self._pairs(rows)
            factor = answers if self._direction.backward else compared
            tilt = self._gather(frame_maps(self.frame, vector * factor).double())
            tilt += self._level * logit
            yield rows, self._covered(logit, rows), tilt, compared, answers

    def _pairs(self, rows):
        """Return the differences, the answers and the logits of training images."""
        offset = self._source.take(rows, self._dtype) - self._z[:, None].to(self._dtype)
        answers = offset.to(self._z.dtype)
        if self._source.answers is not self._source:
            answers = self._source.answers.take(rows, self._z.dtype)[None]
        if self._observed is not None:
            offset = offset * self._observed
        squared = (self._scale * offset).square_()
        logit = self.frame.compare(frame_maps(self.frame, squared).double()).mul_(-self._factor)
        return offset.to(self._z.dtype), answers, logit

    def _covered(self, logit, rows):
        """Return logits that are -inf where a moved image does not cover the window."""
        if self._covers is None:
            return logit
        return logit.masked_fill(~self._covers[self._source.moves_of(rows)], -torch.inf)
