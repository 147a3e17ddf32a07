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
pass computes W and sums it over the training images. The Jacobian is never formed. Training images
in shards are compared where they are: normalisers and mean tilts are merged between the passes.
"""

import math

import torch

from ..support import Centred, Masks, Squares, SquaresAnywhere, Whole
from ..support.devices import added
from ..support.sharded import ShardedTrainingSet
from .anywhere import anywhere_product
from .batches import batches, check_served_in_shards
from .box import BOX_PRODUCT
from .dense import DENSE_PRODUCT
from .direction import Direction, Product, Tilts
from .engines import compiled_serves
from .framed import FRAMED
from .sliding_products import SLIDING_PRODUCT
from .softmax import float32_serves

_STATE_BYTES = 24  # between the passes, for a pair of a noisy and a training image


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
    if isinstance(source, ShardedTrainingSet):
        return _over_shards(z, sigma, source, windows, direction)
    match windows:
        case SquaresAnywhere():
            return anywhere_product(z, sigma, source, windows, direction)
        case Masks(batch_size=int()):
            return _batchwise(z, sigma, source, windows, direction)
    kernel = kernel_for(z, sigma, source, windows, direction)
    return kernel.product(z, sigma, source, windows, direction)


def _over_shards(z, sigma, source, windows, direction):
    """Return the `Product` for a `ShardedTrainingSet`."""
    check_served_in_shards(windows)
    windows = source.executor.kept(windows)
    results = []
    tensors = z, sigma, direction.vector, direction.level, direction.shift
    for images, levels, vector, level, shift in batches(source, _STATE_BYTES, *tensors):
        noisy = images, levels, Direction(vector, level, shift, direction.backward)
        with source.executor.step() as step:
            noisy = step.give(noisy)
            own = step.map(_accumulate, noisy, windows)
            tilts = step.merged(_merged, own)
            summands = step.merged(added, step.map(_compose, noisy, windows, tilts, own))
            tilts, (values, level) = step.values([tilts, summands])
        results.append((values.to(z), tilts.mean.to(sigma), level.to(sigma)))
    return Product(*map(torch.cat, zip(*results, strict=True)))


def _accumulate(shard, noisy, windows):
    """Return the `Tilts` of noisy images in a shard, and a state."""
    noisy = [array.to(shard.device) for array in noisy]
    z, sigma, direction = noisy
    kernel = kernel_for(z, sigma, shard, windows, direction)
    return kernel.accumulate(z, sigma, shard, windows, direction)


def _merged(parts):
    """Merge `Tilts`, or results of `_accumulate`."""
    return Tilts.merged([part if isinstance(part, Tilts) else part[0] for part in parts])


def _compose(shard, noisy, windows, tilts, accumulated):
    """Return the summands of a shard in the values and levels of the product."""
    z, sigma, direction = (array.to(shard.device) for array in noisy)
    kernel = kernel_for(z, sigma, shard, windows, direction)
    tilts = tilts.to(shard.device)
    return kernel.compose(z, sigma, shard, windows, direction, tilts, accumulated[1])


def kernel_for(z, sigma, source, windows, direction):
    """Return the `ProductKernel` for windows; the parameters are those of `product`."""
    match windows:
        case Whole():
            return DENSE_PRODUCT
        case Centred(boundary=str()):
            return SLIDING_PRODUCT
        case Squares() if _is_compiled(z, sigma, source, direction):
            return BOX_PRODUCT
    return FRAMED


def _is_compiled(z, sigma, source, direction):
    """Return True if compiled code computes the product for squares."""
    is_plain = compiled_serves(z) and source.images.dtype in (torch.uint8, torch.float32)
    return is_plain and bool(float32_serves(sigma, source).all()) and not direction.level.any()


def _batchwise(z, sigma, source, windows, direction):
    """Return the product for the mean of the means of batches, each with weights of its own.

    The log normaliser is the one of all training images together.
    """
    n, size = len(source), windows.batch_size
    everything = Direction(
        torch.zeros_like(direction.vector) if direction.backward else direction.vector,
        direction.level,
        direction.shift,
        direction.backward,
    )
    together = FRAMED.product(z, sigma, source, windows, everything)
    values = together.values if direction.backward else torch.zeros_like(z)
    level = together.level.clone()
    apart = direction._replace(shift=torch.zeros_like(direction.shift))
    starts = range(0, n, size)
    for start in starts:
        batch = source.subset(slice(start, min(start + size, n)))
        part = FRAMED.product(z, sigma, batch, windows, apart)
        values = values + part.values / len(starts)
        level += part.level / len(starts)
    return Product(values, together.tilt, level)
