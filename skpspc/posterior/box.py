"""All square windows of one size at once, by box filters.

The squared difference of a noisy and a training image, summed over channels, is one H x W map. Its
box sums are the distances of all h x w windows, and the composite of the means of all windows is

    D(z)_p = (1 / count_p) sum_i x_ip B^T[w_i]_p

where B^T is the transposed box filter, applied to the map of the weights of image i. No patch is
copied, and the work does not depend on the window size.
"""

import math
from functools import partial

import torch

from .._threads import n_threads
from ..support import MirroredTrainingSet
from ..support.memory import rows_that_fit, working_bytes
from ..support.windows import overlap_counts
from .posterior import PerWindow, by_blocks
from .softmax import RunningSoftmax, difference_dtype, exact_scale, float32_serves, precision_root

# Number of noisy images that share one pass over the training set.
_NOISY_IMAGES = 8


def box(z, sigma, training_set, windows, engine="torch"):
    """Compare all square windows of one shape, and compose their means to whole images.

    See `select.compare` for the parameters; ``engine`` is "torch" or "numba".
    """
    kernels = compiled_posterior if engine == "numba" else None, _by_torch
    return by_precision(kernels, z, sigma, training_set, (windows.h, windows.w))


def by_precision(kernels, z, sigma, training_set, windows):
    """Compare by compiled code where float32 is exact enough, and elsewhere by torch.

    ``kernels`` are the two functions; None in place of compiled code: compare all by torch.
    """
    compiled, by_torch = kernels
    serves = float32_serves(sigma, training_set) & (compiled is not None)
    groups = []
    for kernel, rows in ((compiled, serves.nonzero()), (by_torch, (~serves).nonzero())):
        if len(rows):
            rows = rows.squeeze(1)
            groups.append((rows, kernel(z[rows], sigma[rows], training_set, windows)))
    return PerWindow.gathered(groups, len(z))


def compiled_posterior(z, sigma, training_set, window, **options):
    """Compare by compiled code; see `_box_numba.compiled_box_posterior` for the options."""
    mean, log_norm, ess = _compiled("posterior", z, sigma, training_set, window, **options)
    log_norm = log_norm.flatten(1).double() + training_set.log_uniform
    return PerWindow(mean, log_norm, ess.flatten(1))


def compiled_product(z, sigma, training_set, windows, vector, shift):
    """Return composite, mean tilts (n, K) and sums of logits, by compiled code.

    See `_box_numba.compiled_box_product`. Mean tilts are of the differences of training and noisy
    images.
    """
    window = windows.h, windows.w
    grid = [side - length + 1 for side, length in zip(z.shape[2:], window, strict=True)]
    arrays = vector.numpy(), shift.view(-1, *grid).numpy()
    composite, mean, level = _compiled("product", z, sigma, training_set, window, *arrays)
    offset = z.double() - training_set.zero
    mean = mean - box_sum((vector * offset).sum(1), window)
    return composite, mean.flatten(1), level


def _compiled(name, z, sigma, training_set, window, *arrays, **options):
    """Return the results of a compiled function of `_box_numba` as tensors."""
    # twice the state of one noisy image: the state of its pixels and of the training images
    rows_that_fit(2 * (24 * z[0].numel() + 8 * len(training_set)), 1, what="One noisy image")
    from . import _box_numba

    weight = training_set.log_weight
    results = getattr(_box_numba, f"compiled_box_{name}")(
        z.numpy(),
        training_set.images.numpy(),
        sigma.numpy(),
        window,
        *arrays,
        data_range=training_set.data_range,
        log_weight=None if weight is None else weight.numpy(),
        flip=isinstance(training_set, MirroredTrainingSet),
        n_threads=n_threads(),
        memory=working_bytes(),
        **options,
    )
    return tuple(map(torch.from_numpy, results))


def _by_torch(z, sigma, training_set, window):
    """Compare by torch, on any device."""
    arrays = z, precision_root(sigma)
    block = rows_that_fit(_pair_bytes(z), _NOISY_IMAGES, what="One pair of images")
    mean, log_norm, ess = by_blocks(_box_block, block, arrays, training_set, window)
    log_norm = log_norm.flatten(1).double() + training_set.log_uniform
    return PerWindow(mean, log_norm, ess.flatten(1))


def _pair_bytes(z):
    """Return the bytes for one pair of images: difference, square and a few maps, in float64."""
    _, channels, height, width = z.shape
    return 8 * height * width * (2 * channels + 7)


def _box_block(z, a, training_set, window):
    """Return mean, log normaliser and effective sample size of a few noisy images."""
    dtype = difference_dtype(z, a, training_set, z.shape[1] * math.prod(window))
    scale, factor = exact_scale(a)
    scale = scale.to(dtype).view(-1, 1, 1, 1, 1)
    factor = factor.view(-1, 1, 1, 1)
    scaled = z[:, None] * scale  # (b, 1, C, H, W)
    n_rows = rows_that_fit(
        _pair_bytes(z) * len(z), len(training_set), what="A block of noisy images"
    )
    logits = partial(_logits, scaled, scale, factor, window=window)
    grid = [side - length + 1 for side, length in zip(z.shape[2:], window, strict=True)]
    softmax = RunningSoftmax(scaled.new_zeros(len(z), *grid, dtype=torch.float64), 1, z.dtype)
    for rows in training_set.slices(n_rows):
        softmax.add(logits(training_set.take(rows, dtype)), training_set.prior(rows))
    total = softmax.total.to(z.dtype)[:, None]
    mean = torch.zeros_like(z)
    for rows in training_set.slices(n_rows):
        x = training_set.take(rows, dtype)
        # not exp(logit - log_norm), a difference of large numbers at small sigma
        relative = softmax.relative(logits(x), training_set.prior(rows))
        weight = relative.exp_().div_(total)  # (b, m, h', w')
        mean += torch.einsum("bmhw,mchw->bchw", box_spread(weight, window), x.to(z.dtype))
    mean /= torch.as_tensor(overlap_counts(window, z.shape[1:])).to(mean)
    return mean, softmax.log_norm, softmax.effective_sample_size.to(z.dtype)


def _logits(scaled, scale, factor, x, *, window):
    """Return the logits of all windows, without sample weights, (b, m, h', w') float64."""
    difference = scaled - scale * x  # (b, m, C, H, W)
    # float32 sums over a wide window would be the largest error of the logits
    return box_sum(difference.square_().sum(2).double(), window).mul_(-factor)


def box_sum(maps, window):
    """Return the sum over every h x w window: (..., H, W) -> (..., H - h + 1, W - w + 1).

    Sums of 1, 2, 4, ... entries are combined by the binary digits of the side. Only non-negative
    numbers are added, so that nothing cancels; differences of cumulative sums would cancel.
    """
    for axis, side in zip((-2, -1), window, strict=True):
        maps = _sum_along(maps, axis, side)
    return maps


def _sum_along(maps, axis, side):
    """Return the sums of ``side`` consecutive entries along an axis."""
    n_out = maps.shape[axis] - side + 1
    out, offset, length = None, 0, 1
    while True:
        if side & length:
            sums = maps.narrow(axis, offset, n_out)
            out = sums if out is None else out + sums
            offset += length
        length *= 2
        if length > side:
            return out
        half = length // 2
        n_left = maps.shape[axis] - half
        maps = maps.narrow(axis, 0, n_left) + maps.narrow(axis, half, n_left)


def box_spread(weight, window):
    """Add the value of each window to all pixels of the window: the transpose of `box_sum`."""
    h, w = window
    padded = torch.nn.functional.pad(weight, (w - 1, w - 1, h - 1, h - 1))
    return box_sum(padded, window)
