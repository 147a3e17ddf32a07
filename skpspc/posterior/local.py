"""One window around every pixel, which denoises that pixel alone.

The window is an odd square centred on its pixel. Beyond the edges, noisy and training image count
as zero, so that only coordinates in the image are compared.
"""

import math

import torch

from ..support.memory import rows_that_fit
from .box import box_sum, compiled_sums, n_compiled
from .kernel import Kernel, scaled
from .softmax import RunningSoftmax, difference_dtype, exact_scale, precision_root

# Number of noisy images that share one pass over the training set.
_NOISY_IMAGES = 8


def local(z, sigma, training_set, windows, engine="torch"):
    """Compare the window around every pixel with the crop at its position in every training image.

    The distances of all windows are box sums of one map of squared differences, padded by zeros.
    The work does not depend on the window size, which may exceed the image. See `select.compare`
    for the parameters; ``engine`` is "torch" or "numba".
    """
    return LOCAL.compare(z, sigma, training_set, windows, served(engine, training_set, windows))


def served(engine, training_set, windows):
    """Return the engine that serves the windows: compiled code compares complete images."""
    is_plain = windows.observed is None and training_set.answers is training_set
    return engine if is_plain else "torch"


def _reach(windows, z):
    """Return the rows and the columns of a window on each side of its pixel."""
    return [min(windows.size // 2, side - 1) for side in z.shape[2:]]


def _window(windows, z):
    """Return height and width of the windows, clipped to reach all pixels of an image."""
    return tuple(2 * reach + 1 for reach in _reach(windows, z))


def _n_images(z, training_set, windows, engine):
    if engine == "numba":
        return n_compiled(z, training_set, _window(windows, z), centred=True)
    pair_bytes = _pair_bytes(z, training_set, windows)
    return rows_that_fit(pair_bytes, _NOISY_IMAGES, what="One pair of images")


def _pair_bytes(z, training_set, windows):
    """Return the bytes for one pair of images."""
    _, channels, height, width = z.shape
    reach = _reach(windows, z)
    # memory for the difference and its square, the padded map and its sums, and the weights
    padded = (height + 2 * reach[0]) * (width + 2 * reach[1])
    n_channels = channels + training_set.answers.image_shape[0]
    return 8 * (height * width * (n_channels + 2) + 3 * padded)


def _sums(z, sigma, training_set, windows, engine):
    if engine == "numba":
        window = _window(windows, z)
        softmax, mean = compiled_sums(z, sigma, training_set, window, centred=True)
        mean = torch.from_numpy(mean)
    else:
        softmax, mean = _local_block(z, sigma, training_set, windows)
    return softmax, (softmax, mean)


def _means(z, sigma, training_set, windows, engine, softmax, state):
    own, mean = state
    return scaled(mean, own, softmax)


LOCAL = Kernel(_n_images, _sums, _means)


def _local_block(z, sigma, training_set, windows):
    """Return the `Softmax` and the means over the training set of a few noisy images."""
    a, observed, reach = precision_root(sigma), windows.observed, _reach(windows, z)
    pair_bytes = _pair_bytes(z, training_set, windows)
    _, channels, height, width = z.shape
    window = [2 * r + 1 for r in reach]
    padding = [reach[1], reach[1], reach[0], reach[0]]
    n_values = channels * math.prod(map(min, window, (height, width)))
    dtype = difference_dtype(z, a, training_set, n_values)
    scale, factor = exact_scale(a)
    scale = scale.to(dtype).view(-1, 1, 1, 1, 1)
    factor = factor.view(-1, 1, 1, 1)
    scaled = z[:, None] * scale  # (b, 1, C, H, W)
    sums = scaled.new_zeros(len(z), height, width, dtype=torch.float64)
    softmax = RunningSoftmax(sums, z.dtype)
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
    return softmax.sums, (values / softmax.total[:, None]).to(z.dtype)
