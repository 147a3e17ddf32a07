"""One window, the whole image, by matrix products.

    |z - x|^2 = |z|^2 - 2 z.x + |x|^2

needs one matrix product for all pairs. But the difference of large numbers cancels, which shows at
small sigma. The product therefore only *finds* the images that matter; their distances are computed
again by subtraction in float64.
"""

import math
from typing import NamedTuple

import torch

from ..support import Whole
from ..support.memory import rows_that_fit, working_bytes
from .direction import ProductKernel, Tilts
from .kernel import Kernel, scaled
from .pairs import pair_squares
from .posterior import by_blocks
from .softmax import Softmax, exact_scale, float32_serves, floored_sigma, precision_root

# Rounding errors of a matrix product, in units of the last place of |z||x|. If all terms are
# positive, as for nearly equal images, errors grow like a random walk with the number of terms.
_ROUNDING = 4.0
_WALK = 1 / 64
# Training images converted at a time: they stay in the cache.
_CHUNK_ROWS = 256
_EXACT_ROWS = 32  # compared at a time in float64
_DECISIVE_BYTES = 48  # for indices and exact logits of one pair of images


def dense(z, sigma, training_set):
    """Compare whole images or crops with all training images; see `select.compare`."""
    return DENSE.compare(z, sigma, training_set, Whole())


def _n_images(z, training_set, windows, engine):
    row_bytes = 3 * len(training_set) * z.element_size()
    return rows_that_fit(row_bytes, len(z), what="One row of posterior weights")


def _sums(z, sigma, training_set, windows, engine):
    rows = z.flatten(1)
    weight, nearest, top = _relative_weights(rows, precision_root(sigma), training_set)
    total = weight.sum(1)
    softmax = Softmax.of(nearest, top, total, weight.square().sum(1))
    mean = torch.zeros_like(rows)
    for images, x in _chunks(training_set, rows, used=weight.amax(0) > 0):
        mean += weight[:, images] @ x  # addmm_ would round a growing total N times
    mean /= training_set.unit * total[:, None]
    return softmax, (softmax, mean.add_(training_set.centre).view(z.shape))


def _means(z, sigma, training_set, windows, engine, softmax, state):
    own, mean = state
    return scaled(mean, own, softmax)


DENSE = Kernel(_n_images, _sums, _means)


def dense_weights(z, sigma, training_set):
    """Return the posterior weights (n, N) of the training images, in the dtype of z.

    Rows sum to one, and negligible weights are zero. See `select.compare` for the parameters;
    sigma = 0 is allowed as well.
    """
    weight, *_ = _all_weights(z, sigma, training_set)
    return weight.div_(weight.sum(1, keepdim=True))


def dense_shard_weights(z, sigma, training_set):
    """Return the posterior weights (n, N) of the images of a shard, and their `Softmax`.

    Rows sum to one; see `Softmax.share`. See `dense_weights` for the parameters.
    """
    weight, nearest, top = _all_weights(z, sigma, training_set)
    total = weight.sum(1)
    softmax = Softmax.of(nearest, top, total, weight.square().sum(1))
    return weight.div_(total[:, None]), softmax


def _all_weights(z, sigma, training_set):
    """Return the results of `_relative_weights`; raise MemoryError if they do not fit."""
    a = precision_root(floored_sigma(sigma, z, training_set))
    row_bytes = 3 * len(training_set) * z.element_size()
    rows_that_fit(row_bytes * len(z), 1, what="The posterior weights")
    return _relative_weights(z.flatten(1), a, training_set)


def posterior_variance(z, sigma, training_set):
    """Return ``sum_i w_i |x_i - mean|^2`` of each noisy image, (n,) float64."""
    with training_set.executor.step() as step:
        moments = step.map(_moments, step.give((z, sigma)))
        (moments,) = step.values([step.merged(_merged_moments, moments)])
    return moments.variance[:, 0].to(sigma)


class _Moments(NamedTuple):
    """Sums of the weights of n noisy images, means (n, D) and variances (n, 1), float64."""

    softmax: Softmax
    mean: torch.Tensor
    variance: torch.Tensor


def _moments(shard, noisy):
    """Return the `_Moments` of noisy images over the training images of a shard."""
    z, sigma = (tensor.to(shard.device) for tensor in noisy)
    arrays = z.flatten(1), precision_root(sigma)
    row_bytes = 24 * len(shard) + 16 * shard.n_values
    block = rows_that_fit(row_bytes, len(z), what="One row of posterior weights")
    *sums, mean, variance = by_blocks(_moments_block, block, arrays, shard)
    return _Moments(Softmax.of(*sums), mean, variance[:, None])


def _merged_moments(parts):
    """Merge the `_Moments` of shards: variances are within and between the shards."""
    softmax = Softmax.merged([part.softmax for part in parts])
    device, shares = softmax.total.device, [part.softmax.share(softmax) for part in parts]
    parts = [_Moments(part.softmax, *(t.to(device) for t in part[1:])) for part in parts]
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    variance = torch.zeros_like(softmax.total)
    for share, part in zip(shares, parts, strict=True):
        between = (part.mean - mean).square().sum(1, keepdim=True)
        variance += share * (part.variance + between)
    return _Moments(softmax, mean, variance)


def _moments_block(z, a, training_set):
    """Return nearest, top, total and squares, see `Softmax`, mean and variance of a block."""
    weight, nearest, top = _relative_weights(z, a, training_set)
    total, squares = weight.sum(1), weight.square().sum(1)
    used = weight.amax(0) > 0
    weight = weight.double()
    weight /= weight.sum(1, keepdim=True)
    # relative to the image of the largest weight, of which others differ little at small sigma
    leaders = training_set.take(weight.argmax(1), torch.float64).flatten(1)
    mean, square = torch.zeros_like(leaders), torch.zeros_like(a)
    for rows in training_set.slices(_CHUNK_ROWS):
        if not used[rows].any():
            continue
        x = training_set.take(rows, torch.float64).flatten(1)
        norms = x.square().sum(1) + leaders.square().sum(1, keepdim=True) - 2 * leaders @ x.T
        square += (weight[:, rows] * norms.clamp_min_(0)).sum(1)
        mean.addmm_(weight[:, rows], x)
    variance = (square - (mean - leaders).square().sum(1)).clamp_min_(0)
    return nearest, top, total, squares, mean, variance


def _n_products(z, training_set, windows):
    row_bytes = 5 * len(training_set) * z.element_size()
    return rows_that_fit(row_bytes, len(z), what="One row of posterior weights")


def _tilts(z, sigma, training_set, windows, direction):
    z, a = z.flatten(1), precision_root(sigma)
    weight, nearest, top = _relative_weights(z, a, training_set)
    softmax = Softmax.of(nearest, top, weight.sum(1), weight.square().sum(1))
    used = weight.amax(0) > 0
    logit = weight.log().double() + (nearest + top)[:, None]
    if training_set.log_weight is not None:
        logit -= training_set.log_weight
    logit.masked_fill_(weight == 0, 0.0)
    weight = weight.double()
    weight /= weight.sum(1, keepdim=True)
    tilt = direction.level[:, None] * logit
    vector = direction.vector.flatten(1)
    for rows, x in _chunks(training_set, z, used=used):
        # tilts differ from their mean by less than float32 resolves if one image has nearly all
        # the weight; rounded tilts are a linear function that is nearly the given one
        tilt[:, rows] += (x @ vector.T).T.double() / training_set.unit
    offset = (vector.double() * (training_set.centre - z.double())).sum(1, keepdim=True)
    mean = (weight * tilt).sum(1, keepdim=True) + offset
    return Tilts(softmax, mean), (softmax, weight, logit, tilt, offset, used)


def _values(z, sigma, training_set, windows, direction, tilts, state):
    own, weight, logit, tilt, offset, used = state
    if tilts.softmax is not own:
        weight = weight * own.share(tilts.softmax)
    weight = weight * (tilt - (tilts.mean - offset - direction.shift))
    level = (weight * logit).sum(1)
    total = weight.sum(1, keepdim=True).to(z.dtype)
    weight = weight.to(z.dtype)
    values = torch.zeros_like(z).flatten(1)
    for rows, x in _chunks(training_set, z.flatten(1), used=used):
        values += weight[:, rows] @ x
    values = values.div_(training_set.unit).view(z.shape)
    return values + total[:, :, None, None] * (training_set.centre - z), level


DENSE_PRODUCT = ProductKernel(_n_products, _tilts, _values)


def _chunks(training_set, z, used=None):
    """Yield rows, a slice or indices, and the centred images (m, D) that are used; None: all."""
    row_bytes = training_set.n_values * z.element_size()
    n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
    buffer = z.new_empty((n_rows, *training_set.image_shape))
    is_all = used is None or bool(used.all())
    chunks = training_set.slices(n_rows) if is_all else used.nonzero()[:, 0].split(n_rows)
    for rows in chunks:
        yield rows, training_set.centred(rows, buffer).flatten(1)


def _relative_weights(z, a, training_set):
    """Return weights (b, N), whose largest is about 1, and the logits of weight 1.

    The logit of weight 1 is the sum of two terms, (b,) float64; see `_recompute_decisive`.
    """
    unit, norms = training_set.unit, training_set.centred_norms.to(z.dtype)
    offset = (z.double() - training_set.centre) * a[:, None]  # (b, D)
    scaled = offset.to(z.dtype)
    root = (a / unit).to(z.dtype)[:, None]
    logit = z.new_empty(len(z), len(training_set))
    for rows, x in _chunks(training_set, z):
        logit[:, rows] = scaled @ x.T
    logit.mul_(2 * root).sub_((root * norms).square_())
    if training_set.log_weight is not None:
        logit += training_set.log_weight.to(logit)
    reach = root * norms.max()
    n_units = _ROUNDING + _WALK * z.shape[1] ** 0.5
    rounding = n_units * torch.finfo(z.dtype).eps * reach
    rounding *= 2 * scaled.norm(dim=1, keepdim=True) + reach
    peak = _recompute_decisive(logit, rounding.squeeze(1), z, a, offset, training_set)
    weight = _exp_(logit)
    negligible = 1e-3 * torch.finfo(z.dtype).eps / len(training_set)
    return torch.nn.functional.threshold(weight, negligible, 0.0, inplace=True), *peak


def _recompute_decisive(logit, rounding, z, a, offset, training_set):
    """Compute decisive logits exactly, subtract the largest from all logits, and return it.

    A logit is decisive if its weight times its rounding error is not negligible. The largest logit
    is returned as the sum of the logit of the nearest image and the rest, log weights, which the
    large logits of a small sigma would absorb; both are (b,) float64.
    """
    margin = (rounding / torch.finfo(logit.dtype).eps).clamp_min_(1e-30).log_()
    least = _log_total(logit) - 2 * rounding - margin
    square = offset.square().sum(1)  # not in the products: equal for every training image
    nearest_logits, tops = torch.empty_like(square), torch.zeros_like(square)
    decisive_images = _decisive(logit, least, z, a, training_set)
    for row, (decisive, exact) in enumerate(decisive_images):
        relative = logit[row]
        if not len(decisive):
            peak = relative.max()
            relative -= peak
            nearest_logits[row] = peak.double() - square[row]
            continue
        leader = exact.argmax()
        nearest = exact[leader].clone()
        exact -= nearest
        # other logits stay relative to the leader's product: all contain a large square, in which
        # their differences would be lost
        base = relative[decisive[leader]].clone()
        if training_set.log_weight is not None:  # added last, or large logits would absorb it
            prior = training_set.log_weight[decisive]
            exact += prior
            base -= prior[leader].to(base)
        relative[decisive] = -torch.inf
        top = torch.maximum(exact.max(), (relative.max() - base).double())
        nearest_logits[row], tops[row] = nearest, top
        relative -= (base.double() + top).to(relative)
        relative[decisive] = (exact - top).to(relative)
    return nearest_logits, tops


def _decisive(logit, least, z, a, training_set):
    """Yield the indices and exact logits of the decisive images of each noisy image."""
    n_rows = max(1, int(working_bytes()) // (_DECISIVE_BYTES * len(training_set)))
    for images, levels, least_logits, logits in zip(
        *(array.split(n_rows) for array in (z, a, least, logit)), strict=True
    ):
        query, ids = (logits >= least_logits[:, None]).nonzero().unbind(1)
        counts = query.bincount(minlength=len(images)).tolist()
        exact = _exact_logits(images, levels, training_set, query, ids)
        yield from zip(ids.split(counts), exact.split(counts), strict=True)


def _log_total(logit):
    """Return the log of the sum of exponentiated logits of each row, (b,)."""
    peak = logit.amax(1, keepdim=True)
    return _exp_(logit - peak).sum(1).log_() + peak[:, 0]


def _exp_(logit):
    """Replace logits by their exponentials, at least exp(-80): results near 0 are slow."""
    return logit.clamp_min_(-80.0).exp_()


def _exact_logits(z, a, training_set, query, ids):
    """Return the logits of pairs of a noisy and a training image, without weights, (p,) float64.

    Differences are squared in float64. See `pair_squares` for ``query`` and ``ids``.
    """
    sigma = math.sqrt(0.5) / a
    if float32_serves(sigma, training_set).all():  # squares in any unit neither over- nor underflow
        return -pair_squares(z, training_set, query, ids, torch.float64) * a[query].square()
    z = z.double()
    scale, factor = exact_scale(a)
    n_rows = rows_that_fit(3 * z[0].nbytes, _EXACT_ROWS, what="One training image")
    logits = [a.new_empty(0)]
    for chunk, images in zip(query.split(n_rows), ids.split(n_rows), strict=True):
        difference = training_set.take(images, torch.float64).flatten(1) - z[chunk]
        squares = difference.mul_(scale[chunk, None]).square_().sum(1)
        logits.append(squares.mul_(-factor[chunk]))
    return torch.cat(logits)
