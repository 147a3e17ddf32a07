"""Windows that are compared with the patches at all positions of the training images.

The noisy image is divided into regions, and all windows of a region are compared with the same
dictionary of patches. A padded image is one region. If windows are cut at the edges, the regions
are the interior of the image, and the rows, columns and pixels near the edges, by how their windows
are cut.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from ..support.memory import rows_that_fit
from .cells import visiting_posterior
from .engines import engine_for
from .kernel import Kernel, scaled
from .local import LOCAL, local, served
from .patches import PatchDictionary, patch_posterior, patch_sums, sliding_patches
from .posterior import PerWindow, gathered_tensors
from .softmax import Softmax

# Number of windows of noisy images that share one pass over the training set.
_WINDOWS = 8192


class Region(NamedTuple):
    """Pixels whose windows are compared with one dictionary of patches.

    Attributes
    ----------
    pixels : Tensor of shape (h, w), int64
        Flat indices y * W + x of the pixels.
    queries : Tensor of shape (n, h, w, C, size, size)
        Windows around the pixels of the noisy images, a view.
    dictionary : PatchDictionary
    corner : tuple of (top, left)
        Position in the training images of the crops from which the dictionary is made.
    is_inner : bool
        True if no window is cut.
    observed : Tensor of shape (h, w, C, size, size), bool, default None
        Coordinates of each window that are compared; None: all.
    """

    pixels: torch.Tensor
    queries: torch.Tensor
    dictionary: PatchDictionary
    corner: tuple[int, int]
    is_inner: bool
    observed: torch.Tensor | None = None


def sliding(z, sigma, training_set, windows, search=None):
    """Compare the window around every pixel with the patches at all positions of training images.

    With boundary "circular" or "zero", the noisy image is padded, and windows are compared with
    every patch inside a training image; the window may not exceed the training image. With
    "broken", a window that overhangs an edge is cut, and compared with patches that are cut
    equally. Windows have length 1 along an axis of length 1.

    Noisy images may have other sides than the training images, but the same axes of length 1. With
    "broken", a side that differs must be at least as long as the window in both.

    See `select.compare` for the parameters; ``search``, a CellSearch or None for all patches,
    serves windows that are not cut. Effective sample sizes count patches.
    """
    if search is None:
        return SLIDING.compare(z, sigma, training_set, windows)
    if _by_position(z, training_set, windows):
        result = local(z, sigma, training_set, windows, engine_for(z, "auto")).with_bounds()
    else:
        mean, by_window = _empty(z, training_set)
        result = PerWindow(mean, by_window, torch.zeros_like(by_window)).with_bounds()

    for region in _compared_regions(z, training_set, windows):
        kernel = partial(_searched, search=search if region.is_inner else None)
        answer = _by_images(kernel, region, sigma)
        _place(result[:3], answer[:3], region)
        *_, bound, _, proved = answer
        *_, largest, _, all_proved = result
        largest.copy_(torch.maximum(largest, bound.amax(1)))
        all_proved.logical_and_(proved.all(1))
    return result


def _n_images(z, training_set, windows, engine):
    return len(z)


def _sums(z, sigma, training_set, windows, engine):
    if _by_position(z, training_set, windows):
        engine = served(engine_for(z, "auto"), training_set, windows)
        arguments = z, sigma, training_set, windows, engine
        softmax, states = LOCAL.accumulate(*arguments)
        mean = LOCAL.compose(*arguments, softmax, states).to(z.dtype)
    else:
        mean, by_window = _empty(z, training_set)
        softmax = Softmax.of(*(by_window.clone() for _ in range(4)))
    for region in _compared_regions(z, training_set, windows):
        of_region, nearest, top, total, squares = _by_images(patch_sums, region, sigma)
        top = top - math.log(math.prod(region.dictionary.grid))
        _place((mean, *softmax[:4]), (of_region, nearest, top, total, squares), region)
    return softmax, (softmax, mean)


def _means(z, sigma, training_set, windows, engine, softmax, state):
    own, mean = state
    return scaled(mean, own, softmax)


SLIDING = Kernel(_n_images, _sums, _means)


def _by_position(z, training_set, windows):
    """Return True if `local` compares the windows of regions of one pixel."""
    return windows.boundary == "broken" and z.shape[1:] == training_set.image_shape


def _empty(z, training_set):
    """Return zeros for the means (n, C, H, W), and for a number of each window (n, H * W)."""
    n, _, height, width = z.shape
    mean = z.new_zeros(n, training_set.answers.image_shape[0], height, width)
    return mean, z.new_zeros(n, height * width, dtype=torch.float64)


def _compared_regions(z, training_set, windows):
    """Return an iterable of the `Region`s that are not compared by position."""
    every = regions(z, training_set, windows)
    if not _by_position(z, training_set, windows):
        return every
    return (region for region in every if region.pixels.numel() > 1)


def _place(results, answers, region):
    """Write answers at the pixels of a region: means (n, h * w, C), and numbers (n, h * w).

    ``results`` are means (n, C, H, W), and numbers (n, H * W).
    """
    pixels = region.pixels.flatten()
    results[0].flatten(2)[:, :, pixels] = answers[0].transpose(1, 2)
    for numbers, of_region in zip(results[1:], answers[1:], strict=True):
        numbers[:, pixels] = of_region.to(numbers)


def _by_images(kernel, region, sigma):
    """Return the results of a kernel for the windows of a region, tensors (n, h * w, ...).

    ``kernel(queries, sigma, dictionary, observed)`` returns tensors (Q, ...).
    """
    n, n_windows, dictionary = len(region.queries), region.pixels.numel(), region.dictionary
    image_bytes = n_windows * dictionary.n_values * region.queries.element_size()
    n_images = max(1, _WINDOWS // n_windows)
    n_images = rows_that_fit(image_bytes, n_images, what="The patches of a noisy image")
    observed = None if region.observed is None else region.observed.reshape(n_windows, -1)
    results = []
    for views, levels in zip(region.queries.split(n_images), sigma.split(n_images), strict=True):
        queries = views.reshape(-1, dictionary.n_values)
        masks = None if observed is None else observed.repeat(len(views), 1)
        levels = levels.repeat_interleave(n_windows)
        results.append(_by_mask(kernel, queries, levels, dictionary, masks))
    columns = zip(*results, strict=True)
    return [torch.cat(column).unflatten(0, (n, n_windows)) for column in columns]


def _by_mask(kernel, queries, sigma, dictionary, observed):
    """Return the results of a kernel for windows (Q, d), of which ``observed`` (Q, d) counts.

    Windows without missing pixels are compared without masks, which is faster.
    """
    if observed is not None:
        is_whole = observed.all(1)
        if is_whole.any() and not is_whole.all():
            groups = [rows.nonzero().squeeze(1) for rows in (is_whole, ~is_whole)]
            results = [
                (rows, _by_mask(kernel, queries[rows], sigma[rows], dictionary, observed[rows]))
                for rows in groups
            ]
            return gathered_tensors(results, len(queries))
        observed = None if is_whole.all() else observed
    return kernel(queries, sigma, dictionary, observed)


def _searched(queries, sigma, dictionary, observed, search):
    """Return the posterior, with bounds, of windows (Q, d), by cells.

    Cells hold complete patches: windows with missing pixels are compared with all patches.
    """
    if search is None or observed is not None:
        return patch_posterior(queries, sigma, dictionary, observed).with_bounds()
    return visiting_posterior(queries, sigma, dictionary, search).with_bounds()


def regions(z, training_set, windows):
    """Yield every `Region` of noisy images; see `sliding` for the parameters."""
    _, _, height, width = z.shape
    number = torch.arange(height * width, device=z.device).view(height, width)
    size, observed = windows.size, windows.observed
    if windows.boundary != "broken":
        padded, dictionary = _padded(z, training_set, windows)
        queries = sliding_patches(padded, dictionary.window)
        if observed is not None:  # padding with a constant counts as observed
            padded, _ = _padded(observed[None], training_set, windows, 1)
            observed = sliding_patches(padded, dictionary.window)[0]
        yield Region(number, queries, dictionary, (0, 0), True, observed)
        return
    _check_cuts(z.shape[1:], training_set.image_shape, size)
    _, source_height, source_width = training_set.image_shape
    for down in _bands(height, source_height, size):
        for across in _bands(width, source_width, size):
            (top, bottom), (left, right) = down.noisy, across.noisy
            rows, _, _ = _area(down.noisy, size, height)
            columns, _, _ = _area(across.noisy, size, width)
            source_rows, first_row, h = _area(down.source, size, source_height)
            source_columns, first_column, w = _area(across.source, size, source_width)
            corner = source_rows.start, source_columns.start
            crop = training_set.crop(
                *corner, source_rows.stop - corner[0], source_columns.stop - corner[1]
            )
            dictionary = PatchDictionary(crop, (h, w), (first_row, first_column))
            queries = sliding_patches(z[:, :, rows, columns], (h, w))
            pixels = number[top:bottom, left:right]
            seen = None
            if observed is not None:
                seen = sliding_patches(observed[None, :, rows, columns], (h, w))[0]
            is_inner = down.is_inner and across.is_inner
            yield Region(pixels, queries, dictionary, corner, is_inner, seen)


def _padded(z, training_set, windows, value=None):
    """Return padded noisy images, and the dictionary of patches for all windows.

    The padding of boundary "zero" has the ``value``; None: the middle of the data range.
    """
    h, w = (1 if side == 1 else windows.size for side in z.shape[2:])
    sides = (w // 2, w // 2, h // 2, h // 2)
    if windows.boundary == "circular":  # torch pads circularly by at most one length of the image
        rows, columns = (
            torch.from_numpy(np.arange(-(length // 2), side + length // 2) % side).to(z.device)
            for length, side in zip((h, w), z.shape[2:], strict=True)
        )
        padded = z[:, :, rows[:, None], columns]
    else:
        if value is None:  # zero on [-1, 1]
            value = sum(training_set.data_range) / 2
        padded = torch.nn.functional.pad(z, sides, value=value)
    return padded, PatchDictionary(training_set, (h, w), (h // 2, w // 2))


class Band(NamedTuple):
    """Positions along an axis whose windows are cut equally, as ranges (start, stop).

    Attributes
    ----------
    noisy, source : tuple of (start, stop)
        Centres of the windows in the noisy images, and of patches in the training images.
    is_inner : bool
        True if the windows are not cut, or the axis has length 1 and no edge.
    """

    noisy: tuple[int, int]
    source: tuple[int, int]
    is_inner: bool


def _bands(side, source_side, size):
    """Return the `Band` of the interior of an axis, and one for each position near an edge."""
    reach = size // 2
    if side == source_side and side <= 2 * reach + 1:  # windows may be cut at both edges
        return [Band((at, at + 1), (at, at + 1), side == 1) for at in range(side)]
    inner = Band((reach, side - reach), (reach, source_side - reach), True)
    firsts = [Band((at, at + 1), (at, at + 1), False) for at in range(reach)]
    ends = ((side - at, source_side - at) for at in range(reach, 0, -1))
    lasts = [Band((at, at + 1), (source, source + 1), False) for at, source in ends]
    return [inner, *firsts, *lasts]


def _check_cuts(image_shape, source_shape, size):
    """Raise if windows in images of different sizes may be cut at two opposite edges."""
    for side, source_side in zip(image_shape[1:], source_shape[1:], strict=True):
        if side != source_side and min(side, source_side) < size:
            small = image_shape if side < size else source_shape
            raise ValueError(
                f"boundary='broken' compares windows that are cut equally, but in an image of "
                f"shape {tuple(small)} windows of patch_size={size} are cut at opposite edges; "
                "pass noisy images as large as the training images, a smaller patch_size, or "
                "boundary='zero'."
            )


def _area(centres, size, side):
    """Return the part of an axis that windows centred on a range (start, stop) cover, as a slice.

    The second result is the position of the first centre in the slice, the third the length of a
    window.
    """
    (start, stop), reach = centres, size // 2
    area = slice(max(start - reach, 0), min(stop + reach, side))
    return area, start - area.start, area.stop - area.start - (stop - start - 1)
