"""One window around every pixel, which denoises that pixel alone.

The window is an odd square centred on its pixel. Beyond the edges, noisy and training image count
as zero, so that only coordinates in the image are compared.
"""

import math

import torch

from ..support.memory import rows_that_fit
from .box import box_sum, by_precision, compiled_posterior
from .posterior import PerWindow, by_blocks
from .softmax import RunningSoftmax, difference_dtype, exact_scale, precision_root

# Number of noisy images that share one pass over the training set.
_NOISY_IMAGES = 8


def local(z, sigma, training_set, windows, engine="torch"):
    """Compare the window around every pixel with the crop at its position in every training image.

    The distances of all windows are box sums of one map of squared differences, padded by zeros.
    The work does not depend on the window size, which may exceed the image. See `select.compare`
    for the parameters; ``engine`` is "torch" or "numba".
    """
    is_plain = windows.observed is None and training_set.answers is training_set
    kernels = _by_numba if engine == "numba" and is_plain else None, _by_torch
    return by_precision(kernels, z, sigma, training_set, windows)


def _reach(windows, z):
    """Return the rows and the columns of a window on each side of its pixel."""
    return [min(windows.size // 2, side - 1) for side in z.shape[2:]]


def _by_numba(z, sigma, training_set, windows):
    """Compare by compiled code."""
    size = tuple(2 * reach + 1 for reach in _reach(windows, z))
    return compiled_posterior(z, sigma, training_set, size, centred=True)


def _by_torch(z, sigma, training_set, windows):
    """Compare by torch, on any device."""
    arrays = z, precision_root(sigma)
    _, channels, height, width = z.shape
    reach = _reach(windows, z)
    # memory for the difference and its square, the padded map and its sums, and the weights
    padded = (height + 2 * reach[0]) * (width + 2 * reach[1])
    n_channels = channels + training_set.answers.image_shape[0]
    pair_bytes = 8 * (height * width * (n_channels + 2) + 3 * padded)
    block = rows_that_fit(pair_bytes, _NOISY_IMAGES, what="One pair of images")
    rest = training_set, windows.observed, reach, pair_bytes
    mean, log_norm, ess = by_blocks(_local_block, block, arrays, *rest)
    return PerWindow(mean, log_norm.flatten(1) + training_set.log_uniform, ess.flatten(1))


def _local_block(z, a, training_set, observed, reach, pair_bytes):
    """Return mean, log normaliser (float64) and effective sample size for a few noisy images.

    ``observed`` (C, H, W) marks the coordinates to compare; None: all.
    """
    _, channels, height, width = z.shape
    window = [2 * r + 1 for r in reach]
    padding = [reach[1], reach[1], reach[0], reach[0]]
    n_values = channels * math.prod(map(min, window, (height, width)))
    dtype = difference_dtype(z, a, training_set, n_values)
    scale, factor = exact_scale(a)
    scale = scale.to(dtype).view(-1, 1, 1, 1, 1)
    factor = factor.view(-1, 1, 1, 1)
    scaled = z[:, None] * scale  # (b, 1, C, H, W)
    softmax = RunningSoftmax(
        scaled.new_zeros(len(z), height, width, dtype=torch.float64), 1, z.dtype
    )
    answers = training_set.answers
    n_answers = answers.image_shape[0]
    values = z.new_zeros(len(z), n_answers, height, width, dtype=torch.float64)
    n_rows = rows_that_fit(pair_bytes * len(z), len(training_set), what="A block of noisy images")
    for rows in training_set.slices(n_rows):
        x = training_set.take(rows, dtype)
        squared = (scaled - scale * x).square_()
        if observed is not None:
            squared *= observed
        squared = squared.sum(2)  # (b, m, H, W)
        # float32 sums over a wide window would be the largest error of the logits
        padded = torch.nn.functional.pad(squared.double(), padding)
        logit = box_sum(padded, window).mul_(-factor)
        _, weight, shrink = softmax.add(logit, training_set.prior(rows))
        values *= shrink[:, None]
        x = x if answers is training_set else answers.take(rows, dtype)
        for channel in range(n_answers):
            values[:, channel] += (weight * x[None, :, channel]).sum(1)
    mean = (values / softmax.total[:, None]).to(z.dtype)
    return mean, softmax.log_norm, softmax.effective_sample_size.to(z.dtype)
