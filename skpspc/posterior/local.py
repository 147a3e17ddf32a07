"""One window around every pixel, which answers for that pixel alone.

The window is an odd square centred on its pixel. Where it overhangs the image both the noisy
and the training image count as zero, so that only the coordinates in the image remain.
"""

import math

import torch

from ..support.memory import rows_that_fit
from ..support.windows import centred_counts
from .box import box_sum
from .patches import PatchDictionary, patch_posterior, sliding_patches
from .posterior import (
    Posterior,
    RunningSoftmax,
    difference_dtype,
    exact_scale,
    floored_sigma,
    log_gauss_constant,
    precision_root,
)

# Noisy images, and windows of them, that share one pass over the training set.
_NOISY_IMAGES = 8
_WINDOWS = 8192


def local_posterior(z, sigma, training_set, size):
    """Posterior of every pixel from the window around it, at the same place in every image.

    The distances of all windows are box sums of one squared difference map, padded by zeros:
    the work does not grow with the window.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
        Noisy images.
    sigma : Tensor of shape (n,), float64
        Noise level of each, in the units of the images; 0 and inf are allowed.
    training_set : TrainingSet
    size : int
        Side of the windows, odd; it may exceed the image.

    Returns
    -------
    Posterior
        mean (n, C, H, W); log_evidence and effective_sample_size (n, H, W).
    """
    sigma = floored_sigma(sigma, z, training_set)
    a = precision_root(sigma)
    _, channels, height, width = z.shape
    reach = [min(size // 2, side - 1) for side in (height, width)]
    # the difference and its square, the padded map and its sums, and the weights
    padded = (height + 2 * reach[0]) * (width + 2 * reach[1])
    pair_bytes = 8 * (height * width * 2 * (channels + 1) + 3 * padded)
    block = rows_that_fit(pair_bytes, _NOISY_IMAGES, what="One pair of images")
    parts = [
        _local_block(z[i : i + block], a[i : i + block], training_set, reach, pair_bytes)
        for i in range(0, len(z), block)
    ]
    mean, log_norm, ess = (torch.cat(part) for part in zip(*parts, strict=True))
    n_values = channels * torch.as_tensor(centred_counts(size, z.shape[1:]), device=z.device)
    constant = log_gauss_constant(n_values, sigma[:, None, None])
    log_evidence = (log_norm + training_set.log_uniform + constant).to(z.dtype)
    return Posterior(mean, log_evidence, ess, torch.zeros_like(log_evidence[:, 0, 0]))


def _local_block(z, a, training_set, reach, pair_bytes):
    """Mean, log normaliser (float64) and effective sample size for a few noisy images."""
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
    values = torch.zeros_like(z, dtype=torch.float64)
    n_rows = rows_that_fit(pair_bytes * len(z), len(training_set), what="A block of noisy images")
    for rows in training_set.slices(n_rows):
        x = training_set.take(rows, dtype)
        squared = (scaled - scale * x).square_().sum(2)  # (b, m, H, W)
        # float32 sums over a wide window would be the largest error of the logits
        padded = torch.nn.functional.pad(squared.double(), padding)
        logit = box_sum(padded, window).mul_(-factor)
        _, weight, shrink = softmax.add(logit, training_set.prior(rows))
        values *= shrink[:, None]
        for channel in range(channels):
            values[:, channel] += (weight * x[None, :, channel]).sum(1)
    mean = (values / softmax.total[:, None]).to(z.dtype)
    return mean, softmax.log_norm, softmax.effective_sample_size.to(z.dtype)


def equivariant_posterior(z, sigma, training_set, size, boundary, answer=patch_posterior):
    """Posterior of every pixel from the window around it, at all places in every image.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
        Noisy images.
    sigma : Tensor of shape (n,), float64
        Noise level of each, in the units of the images; 0 and inf are allowed.
    training_set : TrainingSet
    size : int
        Side of the windows, odd. An axis of length 1 is no axis: windows do not extend
        along it.
    boundary : {"circular", "zero", "broken"}
        "circular", "zero": the noisy image is padded, and compared with every patch that lies
        inside a training image; along no axis may the window exceed the image. "broken":
        where a window overhangs an edge, it is cut, and compared with patches cut alike.
    answer : callable, default `patch_posterior`
        ``answer(queries, sigma, dictionary)`` gives the posterior of windows that do not
        overhang.

    Returns
    -------
    Posterior
        mean (n, C, H, W); log_evidence and effective_sample_size (in patches) (n, H, W).
    """
    if boundary == "broken":
        return _broken_posterior(z, sigma, training_set, size, answer)
    padded, dictionary = padded_comparison(z, training_set, size, boundary)
    return _sliding_posterior(padded, sigma, dictionary, answer)


def padded_comparison(z, training_set, size, boundary):
    """Padded noisy images, and the dictionary that all windows of them are compared with."""
    h, w = (1 if side == 1 else size for side in z.shape[2:])
    sides = (w // 2, w // 2, h // 2, h // 2)
    if boundary == "circular":
        padded = torch.nn.functional.pad(z, sides, mode="circular")
    else:  # the middle of the data range, which is zero on [-1, 1]
        padded = torch.nn.functional.pad(z, sides, value=sum(training_set.data_range) / 2)
    return padded, PatchDictionary(training_set, (h, w), (h // 2, w // 2))


def _sliding_posterior(z, sigma, dictionary, answer):
    """Posterior of every window that fits z, (n, C, H-h+1, W-w+1) its mean."""
    view = sliding_patches(z, dictionary.window)
    n_lines, n_columns = view.shape[1:3]
    n_places = n_lines * n_columns
    image_bytes = n_places * dictionary.n_values * z.element_size()
    n_images = max(1, _WINDOWS // n_places)
    n_images = rows_that_fit(image_bytes, n_images, what="The patches of a noisy image")
    parts = []
    for i in range(0, len(z), n_images):
        queries = view[i : i + n_images].reshape(-1, dictionary.n_values)
        level = sigma[i : i + n_images].repeat_interleave(n_places)
        parts.append(answer(queries, level, dictionary))
    places = (len(z), n_lines, n_columns)
    return Posterior(
        torch.cat([part.mean for part in parts]).view(*places, -1).permute(0, 3, 1, 2),
        torch.cat([part.log_evidence for part in parts]).view(places),
        torch.cat([part.effective_sample_size for part in parts]).view(places),
        torch.cat([part.error_bound for part in parts]).view(places).amax((1, 2)),
        bound_is_proved=torch.cat([part.bound_is_proved for part in parts]).view(len(z), -1).all(1),
    )


def _broken_posterior(z, sigma, training_set, size, answer):
    """The posterior whose equivariance ends at the borders, class of pixels by class."""
    _, _, height, width = z.shape
    every = local_posterior(z, sigma, training_set, size)  # right where a pixel is alone
    for top, bottom in bands(height, size):
        for left, right in bands(width, size):
            if (bottom - top) * (right - left) == 1:
                continue
            around = cut_comparison(training_set, size, (top, bottom), (left, right))
            rows, columns, dictionary = around
            # an axis of length 1 has no edge
            inside = (bottom - top > 1 or height == 1) and (right - left > 1 or width == 1)
            part = _sliding_posterior(
                z[:, :, rows, columns], sigma, dictionary, answer if inside else patch_posterior
            )
            pixels = ..., slice(top, bottom), slice(left, right)
            every.mean[pixels] = part.mean
            every.log_evidence[pixels] = part.log_evidence
            every.effective_sample_size[pixels] = part.effective_sample_size
            every.error_bound.copy_(torch.maximum(every.error_bound, part.error_bound))
            every.bound_is_proved.logical_and_(part.bound_is_proved)
    return every


def cut_comparison(training_set, size, band, other):
    """What the windows around some rows and columns cover, and their dictionary.

    Parameters
    ----------
    training_set : TrainingSet
    size : int
    band, other : tuple of (start, stop)
        Rows and columns of the pixels, of a class each.

    Returns
    -------
    rows, columns : slice
        That part of the images.
    dictionary : PatchDictionary
        Of it in the training images.
    """
    _, height, width = training_set.image_shape
    rows, first_row, h = _area(band[0], band[1], size, height)
    columns, first_column, w = _area(other[0], other[1], size, width)
    crop = training_set.crop(
        rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
    )
    return rows, columns, PatchDictionary(crop, (h, w), (first_row, first_column))


def bands(side, size):
    """Classes of positions along an axis, as (start, stop): one inside, the rest alone."""
    reach = size // 2
    if side <= 2 * reach + 1:
        return [(at, at + 1) for at in range(side)]
    alone = [*range(reach), *range(side - reach, side)]
    return [(reach, side - reach), *((at, at + 1) for at in alone)]


def _area(start, stop, size, side):
    """What the windows around some positions cover, where the first centre is, their length."""
    reach = size // 2
    area = slice(max(start - reach, 0), min(stop + reach, side))
    return area, start - area.start, area.stop - area.start - (stop - start - 1)
