r"""Information of windows about the training image, in nats.

A window k of a noisy image has posterior weights w over the training images, whose sample weights v
sum to one. Its logits l are :math:`-|z_k - x_{ik}|^2 / 2 \sigma^2`. The window gains the
information

.. math::

    \sum_i w_i^k \log \frac{w_i^k}{v_i} = \sum_i w_i^k l_i^k - \log \sum_i v_i \exp l_i^k ,

the relative entropy of posterior and sample weights. With equal weights it is log N minus the
entropy of the posterior. The mean logit is a tilt of the products of the derivative by the noise
level (see `products`), and the log normaliser comes from the same pass over the training set.
"""

from typing import NamedTuple

import torch

from .._progress import progress
from ..support import Centred, Masks, Squares, SquaresAnywhere, TranslatedTrainingSet, Whole
from ..support.sharded import ShardedTrainingSet
from .batches import batches
from .box import BOX_PRODUCT, compiled_information
from .direction import Direction, Tilts
from .engines import compiled_serves
from .framed import frame_maps, frame_of
from .posterior import gathered_tensors
from .products import kernel_for, n_windows
from .softmax import Softmax, float32_serves, floored_sigma

_STATE_BYTES = 24  # for a pair of a noisy and a training image


class Information(NamedTuple):
    """Information and log normaliser of K windows of n noisy images.

    Attributes
    ----------
    gained : Tensor of shape (n, K), float64
        Relative entropy of posterior and sample weights, in nats, non-negative.
    log_norm : Tensor of shape (n, K), float64
        Log of ``sum_i v_i exp(l_i)``, with sample weights v that sum to one.
    log_n : float
        Entropy of the sample weights: log N for N equal weights.
    """

    gained: torch.Tensor
    log_norm: torch.Tensor
    log_n: float


def information(z, sigma, source, windows):
    """Return the `Information` of all windows.

    Parameters
    ----------
    z, sigma, source, windows : see `select.compare`
        The windows are not compared with patches at other positions.

    Raises
    ------
    ValueError
        If windows are compared with moved images, with patches at all positions or in batches.
    """
    _check(source, windows)
    sigma = floored_sigma(sigma, z, source)
    tilts = _over_shards if isinstance(source, ShardedTrainingSet) else _tilts
    softmax, mean = tilts(source, (z, sigma), windows)
    log_norm = (softmax.log_norm + source.log_uniform).to(z.device)
    return Information((mean.to(z.device) - log_norm).clamp_min_(0.0), log_norm, _log_n(source))


def _log_n(source):
    """Return the entropy of the sample weights, log N for N equal weights."""
    log_weight = source.log_weight
    return -source.log_uniform if log_weight is None else -float(log_weight.exp() @ log_weight)


def _check(source, windows):
    """Raise if windows have no posterior over the training images at equal positions."""
    if isinstance(windows, Masks) and windows.batch_size is not None:
        raise ValueError(
            "softmax='batchwise' averages posteriors of batches, which have no common entropy; use "
            "softmax='exact'."
        )
    if isinstance(source, TranslatedTrainingSet):
        raise ValueError(
            "windows are compared with moved training images, and not all of them cover a window; "
            "use max_shift=0, or source='images' or 'flips' of a PosteriorMeanCollection."
        )
    anywhere = isinstance(windows, Centred) and windows.boundary is not None
    if anywhere or isinstance(windows, SquaresAnywhere):
        raise ValueError(
            "windows are compared with the patches at all positions of the training images, and "
            "their posterior is over patches; pass a denoiser that compares equal positions, such "
            "as PSPCDenoiser or LocalScoreDenoiser(equivariant=False)."
        )


def own_logits(z, x, sigma, windows):
    """Return the logits (n, K), float64, of clean images x (n, C, H, W) given noisy images z."""
    scaled = (z.double() - x.double()) / sigma.view(-1, 1, 1, 1)
    squares = scaled.square_().mul_(-0.5)
    if isinstance(windows, Whole):
        return squares.flatten(1).sum(1, keepdim=True)
    observed = getattr(windows, "observed", None)
    if observed is not None:
        squares = squares * observed
    frame = frame_of(windows, z)
    return frame.compare(frame_maps(frame, squares[:, None])).flatten(1)


def pixel_map(values, windows, like):
    """Return means over the windows that answer for each pixel, (n, H, W), of values (n, K)."""
    if isinstance(windows, Whole):
        return values[:, :, None].expand(len(values), *like.shape[2:])
    frame = frame_of(windows, like)
    maps = frame.spread_answer(values.view(-1, 1, *frame.grid))[:, 0]
    return maps.mean(1) if frame.by_channel else maps


def _over_shards(source, noisy, windows):
    """Return the `Tilts` of the logits over the training images of all shards."""
    windows = source.executor.kept(windows)
    results = []
    for images, levels in batches(source, _STATE_BYTES, *noisy):
        with source.executor.step() as step:
            own = step.map(_tilts, step.give((images, levels)), windows)
            (tilts,) = step.values([step.merged(Tilts.merged, own)])
        results.append(tilts)
    return _joined(results)


def _tilts(training_set, noisy, windows):
    """Return the `Tilts` of the logits over the training images of a shard, or of all."""
    z, sigma = (tensor.to(training_set.device) for tensor in noisy)
    compiled = _compiled_serves(z, sigma, training_set, windows)
    results = []
    for mask, of_block in ((compiled, _compiled_tilts), (~compiled, _kernel_tilts)):
        if not mask.any():
            continue
        of_code, levels = z[mask], sigma[mask]
        n_images = _n_images(of_block, of_code, levels, training_set, windows)
        blocks = list(zip(of_code.split(n_images), levels.split(n_images), strict=True))
        tilts = [
            of_block(images, levels, training_set, windows)
            for images, levels in progress(blocks, "blocks of noisy images")
        ]
        joined = _joined(tilts)
        results.append((mask, (*joined.softmax, joined.mean)))
    *softmax, mean = gathered_tensors(results, len(z))
    return Tilts(Softmax(*softmax), mean)


def _compiled_serves(z, sigma, training_set, windows):
    """Return a mask (n,), True where compiled code computes the information of the windows."""
    is_plain = compiled_serves(z) and training_set.images.dtype in (torch.uint8, torch.float32)
    if not (is_plain and isinstance(windows, Squares)):
        return torch.zeros_like(sigma, dtype=torch.bool)
    return float32_serves(sigma, training_set)


def _n_images(of_block, z, sigma, training_set, windows):
    """Return the number of noisy images of one block."""
    if of_block is _compiled_tilts:
        return BOX_PRODUCT.n_images(z, training_set, windows)
    kernel = kernel_for(z, sigma, training_set, windows, _by_logit(z, sigma, windows))
    return kernel.n_images(z, training_set, windows)


def _compiled_tilts(z, sigma, training_set, windows):
    """Return the `Tilts` of the logits of square windows, by compiled code."""
    softmax, gained = compiled_information(z, sigma, training_set, windows)
    return Tilts(softmax, gained.flatten(1) + softmax.log_norm)


def _kernel_tilts(z, sigma, training_set, windows):
    """Return the `Tilts` of the logits, by the kernel of products."""
    direction = _by_logit(z, sigma, windows)
    kernel = kernel_for(z, sigma, training_set, windows, direction)
    return kernel.tilts(z, sigma, training_set, windows, direction)[0]


def _by_logit(z, sigma, windows):
    """Return the `Direction` whose tilts are the logits."""
    shift = sigma.new_zeros(len(z), n_windows(windows, z.shape[1:]))
    return Direction(torch.zeros_like(z), torch.ones_like(sigma), shift, False)


def _joined(blocks):
    """Return the `Tilts` of blocks of noisy images, a list of `Tilts`, together."""
    softmax, means = zip(*blocks, strict=True)
    return Tilts(Softmax(*map(torch.cat, zip(*softmax, strict=True))), torch.cat(means))
