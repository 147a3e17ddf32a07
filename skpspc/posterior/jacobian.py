r"""Jacobians of posterior means.

For one window with precisions pi and weights w, the derivative of the posterior mean of coordinate
p by coordinate q is

.. math::

    \frac{\partial}{\partial z_q} \sum_i w_i x_{ip}
        = \frac{\pi_q}{\sigma^2} \operatorname{Cov}_w(x_p, x_q).

The derivative of the denoised image is the mean over windows, weighted by their shares. One
covariance serves all pixels of a window. Rows of other windows are products with unit vectors.
"""

import math

import torch

from .._progress import progress
from ..support import Centred, Masks, Squares, SquaresAnywhere, TranslatedTrainingSet
from ..support.memory import fits, rows_that_fit
from ..support.sharded import ShardedTrainingSet
from . import derivative
from .blur import filtered_bytes
from .weights import window_weights

_CHUNK_ROWS = 4096  # training images in a chunk
_ROWS = 64  # of Jacobians, computed by one call as products with unit vectors


def jacobian(z, sigma, source, windows, pixels, blur=None, operator=None):
    """Return rows of the Jacobian dD/dz of the posterior means of noisy images.

    The covariance of each window is computed once for all pixels that the window denoises.

    Parameters
    ----------
    z, sigma, source, windows : see `select.compare`
        With a blur, all noise levels are equal.
    pixels : Tensor of shape (m,), int64
        Flat indices y * W + x of pixels of the denoised image.
    blur : Blur, default None
        Blur of the training images along their covariance.
    operator : Inpainting or Operator, default None
        Measurement of which z is a noisy copy.

    Returns
    -------
    Tensor of shape (n, m, C, c, h, w)
        C is the channel of the denoised image, and (c, h, w) a coordinate of z.
    """
    in_parts = blur is not None and not fits(filtered_bytes(source, z.dtype))
    if in_parts or _has_no_covariance(source, windows, blur):
        return _jacobian_by_products(z, sigma, source, windows, pixels, blur, operator)
    masks = windows.masks(z.shape[1:], z.device)
    if blur is None:
        answers = _answer_coordinates(source.answers.image_shape, operator, pixels)
        return _masks_jacobian(z, sigma, source, masks, answers)
    return _blurred_jacobian(z, sigma, source, masks, pixels, blur)


def _has_no_covariance(source, windows, blur):
    """Return True if no covariance of coordinates of training images serves many pixels at once.

    This is so for windows that are compared with patches at other positions or with moved images,
    that average the means of batches, or that have blurs of their own; and for images in shards.
    """
    if isinstance(source, (ShardedTrainingSet, TranslatedTrainingSet)):
        return True
    if isinstance(windows, SquaresAnywhere):
        return True
    if isinstance(windows, Centred):
        return windows.boundary is not None
    if isinstance(windows, Squares):
        return blur is not None and blur.by_window
    return isinstance(windows, Masks) and windows.batch_size is not None


def _jacobian_by_products(z, sigma, source, windows, pixels, blur, operator):
    """Return the Jacobian by vector-Jacobian products, one for every row."""
    n, rows = len(z), []
    answer_shape = source.answers.image_shape[0], *z.shape[2:]
    coordinates = _answer_coordinates(answer_shape, operator, pixels).T.flatten()
    blocks = coordinates.split(max(1, _ROWS // n))
    for block in progress(blocks, "blocks of rows of the Jacobian"):
        unit = z.new_zeros(len(block), n, *answer_shape)
        unit.flatten(2)[torch.arange(len(block)), :, block] = 1
        levels = sigma.repeat(len(block))
        noisy = z.repeat(len(block), 1, 1, 1), levels, source, windows, blur
        of_z, _ = derivative.vjp(*noisy, unit.flatten(0, 1), torch.zeros_like(levels))
        rows.append(of_z.view(len(block), n, *z.shape[1:]))
    return torch.cat(rows).transpose(0, 1).unflatten(1, (len(pixels), -1))


def _answer_coordinates(shape, operator, pixels):
    """Return flat indices (C, m) of pixels y * W + x in all channels of answers of a shape."""
    number = torch.arange(math.prod(shape), device=pixels.device).view(1, *shape)
    placed = number if operator is None else operator.placed(number)
    return placed[0].flatten(1)[:, pixels]


def _masks_jacobian(z, sigma, source, masks, answers):
    """Return the Jacobian for windows that are `Masks`; see `_answer_coordinates`."""
    n, n_channels = len(z), len(answers)
    answers = answers.flatten()
    out = z.new_zeros(n, len(answers), z[0].numel())
    answering = list(_answering(masks, answers, z.shape[1]))
    for number, rows, share in progress(answering, "windows"):
        precision = masks.query[number].expand(z.shape[1:]).flatten().double()
        columns = precision.nonzero().squeeze(1)
        weight = window_weights(z, sigma, source, columns, precision[columns])
        covariance = _covariances(weight, source, answers[rows], columns, z.dtype)
        slope = (precision[columns] / sigma.square()[:, None]).to(z)  # (n, q)
        covariance *= share.to(z)[:, None] * slope[:, None]
        out[:, rows[:, None], columns] += covariance
    return out.view(n, n_channels, -1, *z.shape[1:]).transpose(1, 2)


def _blurred_jacobian(z, sigma, source, masks, pixels, blur):
    r"""Return the Jacobian for a blur of whole images along their covariance, by one filter F.

    .. math::

        \frac{\partial D}{\partial z} = A + F \, J_C(F (z - \mu)) \, F

    with A the linear part, and J_C the Jacobian through the windows in filtered images.
    """
    n, channels, height, width = z.shape
    filtering = blur.filter(float(sigma[0]))
    filtered, query = filtering.training_set(source, z.dtype), filtering.query(z)
    every = torch.arange(height * width, device=z.device)
    every = _answer_coordinates(filtered.image_shape, None, every)
    inner = _masks_jacobian(query, sigma, filtered, masks, every)
    inner = inner.transpose(1, 2).reshape(n, z[0].numel(), -1)  # (n, D, D)
    first = height * width * torch.arange(channels, device=z.device)
    answers = (first[:, None] + pixels).flatten()
    one = torch.zeros(len(answers), z[0].numel(), dtype=z.dtype, device=z.device)
    one[torch.arange(len(answers), device=z.device), answers] = 1
    rows = filtering.linear(one) + filtering.apply(filtering.apply(one) @ inner)
    return rows.view(n, channels, len(pixels), *z.shape[1:]).transpose(1, 2)


def _answering(masks, answers, channels):
    """Yield the windows that denoise coordinates: index, rows of the coordinates, shares (r,)."""
    shares = masks.shares()
    if shares is None:  # one window for each pixel or coordinate, which it denoises alone
        own = answers % len(masks.query)
        for number in own.unique().tolist():
            rows = (own == number).nonzero().squeeze(1)
            yield number, rows, torch.ones_like(rows, dtype=torch.float64)
        return
    for number, share in enumerate(shares):
        share = share.expand(channels, *share.shape[1:]).flatten()[answers]
        rows = share.nonzero().squeeze(1)
        if len(rows):
            yield number, rows, share[rows]


def _covariances(weight, training_set, rows, columns, dtype):
    """Return covariances (n, r, q) of answers ``rows`` and of ``columns``, under weights (n, N).

    Deviations are from the image of the largest weight, so that nothing cancels if that image has
    nearly all the weight.
    """
    n, n_used = len(weight), len(rows) + len(columns)
    sources = (training_set.answers, rows), (training_set, columns)

    def values(images):
        """Return the answers and the compared values of training images, (m, r + q)."""
        both = [
            source.to_compute(source.stored(images).flatten(1)[:, used], dtype)
            for source, used in sources
        ]
        return torch.cat(both, 1)

    centre = values(weight.argmax(1))
    first = centre.new_zeros(n, n_used)
    second = centre.new_zeros(n, len(rows), len(columns))
    row_bytes = training_set.n_values + 3 * centre.element_size() * n_used
    n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
    # Weights are skipped if all of them together are below the rounding error of the other weights.
    # The largest weight is not compared: its image is the centre, without deviation.
    rounding = torch.finfo(torch.float64).eps / weight.shape[1]
    others = weight.scatter(1, weight.argmax(1, keepdim=True), 0.0)
    matters = weight > rounding * others.amax(1, keepdim=True)
    for chunk in training_set.slices(n_rows):
        if not matters[:, chunk].any():
            continue
        x = values(chunk)
        for i in range(n):
            rest = matters[i, chunk].nonzero().squeeze(1)
            if not len(rest):
                continue
            deviation = x[rest] - centre[i]
            weighted = weight[i, chunk][rest].to(dtype)[:, None] * deviation
            first[i] += weighted.sum(0)
            second[i] += weighted[:, : len(rows)].T @ deviation[:, len(rows) :]
    here, there = first[:, : len(rows)], first[:, len(rows) :]
    return second - here[:, :, None] * there[:, None]
