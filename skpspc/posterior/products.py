r"""Products of the derivative of the posterior with vectors, in two passes over the training set.

A window k with precisions pi, shares s of the denoised image, logits l_i and weights w_i has the
mean m_k and the log normaliser n_k. Both depend on the noisy image and on the noise level through
the logits alone. For a number t_i of every training image, the tilt, let

.. math::

    W_i^k = w_i^k \Bigl(t_i^k - \sum_j w_j^k t_j^k + h^k\Bigr).

Cotangents g of the denoised image and h of the log normalisers have the product

.. math::

    t_i^k = \sum_p s_{kp}\, g_p\, x_{ip}, \qquad
    \bar z_q = \frac{1}{\sigma^2} \sum_k \pi_{kq} \sum_i W_i^k (x_{iq} - z_q), \qquad
    \bar\sigma = -\frac{2}{\sigma} \sum_{k, i} W_i^k\, l_i^k

and tangents of z and sigma, with h = 0, the product

.. math::

    t_i^k = \frac{1}{\sigma^2} \sum_q \pi_{kq}\, \dot z_q\, (x_{iq} - z_q)
            - \frac{2 \dot\sigma}{\sigma}\, l_i^k, \qquad
    \dot D_p = \sum_k s_{kp} \sum_i W_i^k x_{ip}, \qquad
    \dot n_k = \sum_i w_i^k t_i^k.

The two products are one function: the first pass computes normalisers and mean tilts, the second
pass computes W and sums it over the training images. The Jacobian is never formed.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from ..support import Centred, Masks, Squares, SquaresAnywhere, TranslatedTrainingSet, Whole
from ..support.memory import rows_that_fit
from ..support.windows import overlap_counts
from .anywhere import anywhere_product
from .box import box_spread, box_sum, compiled_product
from .dense import dense_product
from .direction import Direction, Product
from .engines import compiled_serves
from .patches import patch_product
from .posterior import by_blocks
from .sliding import regions
from .softmax import (
    RunningSoftmax,
    difference_dtype,
    exact_scale,
    float32_serves,
    precision_root,
)

# Number of noisy images that share one pass over the training set.
_NOISY_IMAGES = 8


def vjp(z, sigma, source, windows, mean, log_norm):
    """Return the cotangents of noisy images and noise levels.

    Parameters
    ----------
    z, sigma, source, windows : see `select.compare`
    mean : Tensor of shape (n, C, H, W)
        Cotangents of the composite means.
    log_norm : Tensor of shape (n, K), float64
        Cotangents of the log normalisers.

    Returns
    -------
    tuple of Tensor
        Cotangents of z, (n, C, H, W), and of sigma, (n,) float64.
    """
    direction = Direction(mean, torch.zeros_like(sigma), log_norm, True)
    result = product(z, sigma, source, windows, direction)
    return result.values * _inverse_square(sigma, z), -2 / sigma * result.level


def jvp(z, sigma, source, windows, dz, dsigma):
    """Return the tangents of the composite means and of the log normalisers.

    Parameters
    ----------
    z, sigma, source, windows : see `select.compare`
    dz : Tensor of shape (n, C, H, W)
        Tangents of the noisy images.
    dsigma : Tensor of shape (n,), float64
        Tangents of the noise levels.

    Returns
    -------
    tuple of Tensor
        Tangents of the means, (n, C, H, W), and of the log normalisers, (n, K) float64.
    """
    shift = sigma.new_zeros(len(z), n_windows(windows, z.shape[1:]))
    direction = Direction(dz * _inverse_square(sigma, z), -2 / sigma * dsigma, shift, False)
    result = product(z, sigma, source, windows, direction)
    return result.values, result.tilt


def n_windows(windows, image_shape):
    """Return the number of windows, an int, in an image of a shape (C, H, W)."""
    _, height, width = image_shape
    match windows:
        case Whole():
            return 1
        case Squares(h, w):
            return (height - h + 1) * (width - w + 1)
        case Masks():
            return len(windows.query)
        case SquaresAnywhere():
            return math.prod(map(len, windows.starts(image_shape)))
    return height * width


def _inverse_square(sigma, like):
    return sigma.square().reciprocal().to(like).view(-1, 1, 1, 1)


def product(z, sigma, source, windows, direction):
    """Return the `Product` of the derivative at noisy images with a `Direction`.

    The first parameters are those of `select.compare`.
    """
    match windows:
        case Whole():
            return dense_product(z, sigma, source, direction)
        case SquaresAnywhere():
            return anywhere_product(z, sigma, source, windows, direction)
        case Centred(boundary=str()):
            return _sliding(z, sigma, source, windows, direction)
        case Masks(batch_size=int()):
            return _batchwise(z, sigma, source, windows, direction)
        case Squares() if _is_compiled(z, sigma, source, direction):
            return _compiled(z, sigma, source, windows, direction)
    return _framed(z, sigma, source, frame_of(windows, z), direction)


def _is_compiled(z, sigma, source, direction):
    """Return True if compiled code computes the product for squares."""
    is_plain = compiled_serves(z) and source.images.dtype in (torch.uint8, torch.float32)
    return is_plain and bool(float32_serves(sigma, source).all()) and not direction.level.any()


def _compiled(z, sigma, source, windows, direction):
    """Return the product for squares by compiled code."""
    window = windows.h, windows.w
    count = torch.as_tensor(overlap_counts(window, z.shape[1:]))
    vector = direction.vector / count.to(z) if direction.backward else direction.vector
    composite, tilt, level = compiled_product(z, sigma, source, windows, vector, direction.shift)
    if direction.backward:
        grid = _grid(window, z.shape[1:])
        shift = direction.shift.view(-1, *grid)
        composite += box_spread(shift, window)[:, None] * (source.zero - z.double())
    else:
        composite /= count
    return Product(composite.to(z), tilt, level)


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
    window = windows.h, windows.w
    count = torch.as_tensor(overlap_counts(window, image_shape)).to(device)
    return Frame(
        windows,
        False,
        _grid(window, image_shape),
        partial(box_sum, window=window),
        partial(box_spread, window=window),
        lambda maps: box_sum(maps / count, window),
        lambda numbers: box_spread(numbers, window) / count,
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


def _batchwise(z, sigma, source, windows, direction):
    """Return the product for the mean of the means of batches, each with weights of its own.

    The log normaliser is the one of all training images together.
    """
    n, size = len(source), windows.batch_size
    frame = frame_of(windows, z)
    everything = Direction(
        torch.zeros_like(direction.vector) if direction.backward else direction.vector,
        direction.level,
        direction.shift,
        direction.backward,
    )
    together = _framed(z, sigma, source, frame, everything)
    values = together.values if direction.backward else torch.zeros_like(z)
    level = together.level.clone()
    apart = direction._replace(shift=torch.zeros_like(direction.shift))
    starts = range(0, n, size)
    for start in starts:
        batch = source.subset(slice(start, min(start + size, n)))
        part = _framed(z, sigma, batch, frame, apart)
        values = values + part.values / len(starts)
        level += part.level / len(starts)
    return Product(values, together.tilt, level)


def _sliding(z, sigma, source, windows, direction):
    """Return the product for windows that are compared with patches at all positions."""
    z = z.detach().requires_grad_()
    with torch.enable_grad():  # of the views of z, which are linear
        areas = list(regions(z, source, windows))
    if not direction.backward:  # the views of the tangents, without the constant padding
        still = regions(torch.zeros_like(direction.vector), source, windows)
        moved = regions(direction.vector, source, windows)
        views = [one.queries - other.queries for one, other in zip(moved, still, strict=True)]
    result = _own_position(z.detach(), sigma, source, windows, direction)
    for number, region in enumerate(areas):
        if _is_alone(region, z, source, windows):
            continue
        pixels, n_values = region.pixels.flatten(), region.dictionary.n_values
        if direction.backward:
            vector = direction.vector.flatten(2)[:, :, pixels].transpose(1, 2).flatten(0, 1)
        else:
            vector = views[number].reshape(-1, n_values)
        observed = region.observed
        if observed is not None:
            observed = observed.reshape(len(pixels), -1).repeat(len(z), 1)
        values, tilt, level = patch_product(
            region.queries.detach().reshape(-1, n_values),
            sigma.repeat_interleave(len(pixels)),
            [region.dictionary],
            direction._replace(
                vector=vector,
                level=direction.level.repeat_interleave(len(pixels)),
                shift=direction.shift[:, pixels].flatten(),
            ),
            observed,
        )
        if direction.backward:
            (spread,) = torch.autograd.grad(region.queries, z, values.view(region.queries.shape))
            result.values.add_(spread)
        else:
            result.values.flatten(2)[:, :, pixels] = values.view(len(z), len(pixels), -1).mT
        result.tilt[:, pixels] = tilt.view(len(z), -1)
        result.level.add_(level.view(len(z), -1).sum(1))
    return result


def _is_alone(region, z, source, windows):
    """Return True if the window of a pixel is compared at its own position only."""
    by_position = windows.boundary == "broken" and z.shape[1:] == source.image_shape
    return by_position and region.pixels.numel() == 1


def _own_position(z, sigma, source, windows, direction):
    """Return the product for the pixels that are alone, see `_is_alone`, and zeros elsewhere."""
    n, n_pixels = len(z), z[0, 0].numel()
    zeros = sigma.new_zeros(n, n_pixels)
    if windows.boundary != "broken" or z.shape[1:] != source.image_shape:
        n_channels = (source if direction.backward else source.answers).image_shape[0]
        return Product(z.new_zeros(n, n_channels, *z.shape[2:]), zeros, torch.zeros_like(sigma))
    alone = torch.zeros(n_pixels, dtype=torch.bool, device=z.device)
    for region in regions(z, source, windows):
        if _is_alone(region, z, source, windows):
            alone[region.pixels.flatten()] = True
    image = alone.view(z.shape[2:])
    if direction.backward:
        direction = direction._replace(
            vector=direction.vector * image, shift=direction.shift * alone
        )
    values, tilt, level = _framed(z, sigma, source, frame_of(windows, z), direction)
    return Product(values if direction.backward else values * image, tilt * alone, level)


def _framed(z, sigma, source, frame, direction):
    """Return the product for windows with a `Frame`."""
    _, channels, height, width = z.shape
    n_numbers = math.prod(frame.grid)
    pair_bytes = 8 * (height * width * (4 * channels + 6) + 8 * n_numbers)
    n_rows = rows_that_fit(pair_bytes, _NOISY_IMAGES, what="One pair of images")
    arrays = z, precision_root(sigma), direction.vector, direction.level, direction.shift
    return Product(
        *by_blocks(_framed_block, n_rows, arrays, source, frame, direction.backward, pair_bytes)
    )


def _framed_block(z, a, vector, level, shift, source, frame, backward, pair_bytes):
    """Return the fields of the `Product` of a few noisy images."""
    comparison = _Comparison(z, a, source, frame)
    gather = frame.answer if backward else frame.compare
    spread = frame.spread_compare if backward else frame.spread_answer
    shift = shift.view(-1, 1, *frame.grid)
    level = level.view(-1, 1, *[1] * len(frame.grid))

    def tilts(factor, logit):
        return gather(frame_maps(frame, vector[:, None] * factor).double()) + level * logit

    n_rows = rows_that_fit(pair_bytes * len(z), len(source), what="A block of noisy images")
    softmax = RunningSoftmax(a.new_zeros(len(z), *frame.grid))
    mean = a.new_zeros(len(z), *frame.grid)
    for rows in source.slices(n_rows):
        compared, answers, logit = comparison.of(rows)
        _, weight, shrink = softmax.add(comparison.covered(logit, rows), source.prior(rows))
        mean = mean * shrink + (weight * tilts(answers if backward else compared, logit)).sum(1)
    mean /= softmax.total
    shape = z.shape[1:] if backward else (source.answers.image_shape[0], *z.shape[2:])
    values, of_level = z.new_zeros(len(z), *shape), torch.zeros_like(a)
    for rows in source.slices(n_rows):
        compared, answers, logit = comparison.of(rows)
        relative = softmax.relative(comparison.covered(logit, rows), source.prior(rows))
        weight = relative.exp_().div_(softmax.total[:, None])
        weight *= tilts(answers if backward else compared, logit) - mean[:, None] + shift
        of_level += (weight * logit).flatten(1).sum(1)
        maps = spread(weight).to(z)
        maps = maps if frame.by_channel else maps[:, :, None]
        values += (maps * (compared if backward else answers)).sum(1)
    return values, mean.flatten(1), of_level


def frame_maps(frame, values):
    """Return the maps of values (b, m, C, H, W) that a frame sums."""
    return values if frame.by_channel else values.sum(2)


class _Comparison:
    """Differences and logits of a few noisy images and chunks of training images.

    Differences at coordinates that are not compared are zero.
    """

    def __init__(self, z, a, source, frame):
        self._z, self._source, self._frame = z, source, frame
        self._dtype = difference_dtype(z, a, source, z[0].numel())
        scale, factor = exact_scale(a)
        self._scale = scale.to(self._dtype).view(-1, 1, 1, 1, 1)
        self._factor = factor.view(-1, 1, *[1] * len(frame.grid))
        self._observed = getattr(frame.windows, "observed", None)
        self._covers = None
        if isinstance(source, TranslatedTrainingSet):
            self._covers = source.covers(frame.windows)

    def of(self, rows):
        """Return the differences, the answers and the logits of training images.

        Differences x - z are (b, m, C, H, W), as are the answers, which are up to a constant the
        images of which posteriors are means. Logits (b, m, *grid), float64, have no sample weights.
        """
        offset = self._source.take(rows, self._dtype) - self._z[:, None].to(self._dtype)
        answers = offset.to(self._z.dtype)
        if self._source.answers is not self._source:
            answers = self._source.answers.take(rows, self._z.dtype)[None]
        if self._observed is not None:
            offset = offset * self._observed
        squared = (self._scale * offset).square_()
        logit = self._frame.compare(frame_maps(self._frame, squared).double()).mul_(-self._factor)
        return offset.to(self._z.dtype), answers, logit

    def covered(self, logit, rows):
        """Return a copy of logits that is -inf where a moved image does not cover the window."""
        if self._covers is None:
            return logit.clone()
        return logit.masked_fill(~self._covers[self._source.moves_of(rows)], -torch.inf)
