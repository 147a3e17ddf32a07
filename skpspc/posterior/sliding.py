"""Windows that are compared with the patches at all positions of the training images.

The noisy image is divided into regions, and all windows of a region are compared with the same
dictionary of patches. A padded image is one region. If windows are cut at the edges, the regions
are the interior of the image, and the rows, columns and pixels near the edges, by how their windows
are cut.
"""

from typing import NamedTuple

import torch

from ..support.memory import rows_that_fit
from .cells import visiting_posterior
from .local import local
from .patches import PatchDictionary, patch_posterior, sliding_patches
from .posterior import PerWindow

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
    every patch inside a training image; the window may not exceed the image. With "broken", a
    window that overhangs an edge is cut, and compared with patches that are cut equally. Windows
    have length 1 along an axis of length 1.

    See `select.compare` for the parameters; ``search``, a CellSearch or None for all patches,
    serves windows that are not cut. Effective sample sizes count patches.
    """
    if windows.boundary == "broken":  # final for regions of one pixel; other regions follow below
        result = local(z, sigma, training_set, windows).with_bounds()
    else:
        n, _, height, width = z.shape
        by_window = z.new_zeros(n, height * width, dtype=torch.float64)
        mean = z.new_zeros(n, *training_set.answers.image_shape)
        empty = PerWindow(mean, by_window, torch.zeros_like(by_window))
        result = empty.with_bounds()
    mean = result.mean.flatten(2)
    for region in regions(z, training_set, windows):
        if windows.boundary == "broken" and region.pixels.numel() == 1:
            continue
        answer = _region_posterior(region, sigma, search if region.is_inner else None)
        pixels = region.pixels.flatten()
        mean[:, :, pixels] = answer.mean.transpose(1, 2)
        for numbers, of_region in (
            (result.log_norm, answer.log_norm),
            (result.effective_sample_size, answer.effective_sample_size),
        ):
            numbers[:, pixels] = of_region.to(numbers)
        bound, proved = answer.error_bound.amax(1), answer.bound_is_proved.all(1)
        result.error_bound.copy_(torch.maximum(result.error_bound, bound))
        result.bound_is_proved.logical_and_(proved)
    return result


def _region_posterior(region, sigma, search):
    """Return the posterior of the windows of a region: mean (n, h * w, C), others (n, h * w)."""
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
        results.append(_queries_posterior(queries, levels, dictionary, masks, search))
    columns = zip(*results, strict=True)
    return PerWindow(*(torch.cat(column).unflatten(0, (n, n_windows)) for column in columns))


def _queries_posterior(queries, sigma, dictionary, observed, search):
    """Return the posterior, with bounds, of windows (Q, d), of which ``observed`` (Q, d) counts.

    Cells hold complete patches: windows with missing pixels are compared with all patches.
    """
    if observed is not None:
        is_whole = observed.all(1)
        if is_whole.any() and not is_whole.all():
            groups = [rows.nonzero().squeeze(1) for rows in (is_whole, ~is_whole)]
            results = [
                _queries_posterior(queries[rows], sigma[rows], dictionary, observed[rows], search)
                for rows in groups
            ]
            return PerWindow.gathered(zip(groups, results, strict=True), len(queries))
        observed = None if is_whole.all() else observed
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
    for top, bottom in _bands(height, size):
        for left, right in _bands(width, size):
            rows, first_row, h = _area(top, bottom, size, height)
            columns, first_column, w = _area(left, right, size, width)
            crop = training_set.crop(
                rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
            )
            dictionary = PatchDictionary(crop, (h, w), (first_row, first_column))
            queries = sliding_patches(z[:, :, rows, columns], (h, w))
            # an axis of length 1 has no edge
            is_inner = (bottom - top > 1 or height == 1) and (right - left > 1 or width == 1)
            corner = rows.start, columns.start
            pixels = number[top:bottom, left:right]
            seen = None
            if observed is not None:
                seen = sliding_patches(observed[None, :, rows, columns], (h, w))[0]
            yield Region(pixels, queries, dictionary, corner, is_inner, seen)


def _padded(z, training_set, windows, value=None):
    """Return padded noisy images, and the dictionary of patches for all windows.

    The padding of boundary "zero" has the ``value``; None: the middle of the data range.
    """
    h, w = (1 if side == 1 else windows.size for side in z.shape[2:])
    sides = (w // 2, w // 2, h // 2, h // 2)
    if windows.boundary == "circular":
        padded = torch.nn.functional.pad(z, sides, mode="circular")
    else:
        if value is None:  # zero on [-1, 1]
            value = sum(training_set.data_range) / 2
        padded = torch.nn.functional.pad(z, sides, value=value)
    return padded, PatchDictionary(training_set, (h, w), (h // 2, w // 2))


def _bands(side, size):
    """Return ranges (start, stop) along an axis: the interior, and each position near an edge."""
    reach = size // 2
    if side <= 2 * reach + 1:
        return [(at, at + 1) for at in range(side)]
    edges = [*range(reach), *range(side - reach, side)]
    return [(reach, side - reach), *((at, at + 1) for at in edges)]


def _area(start, stop, size, side):
    """Return the part of an axis that windows centred on start to stop cover, as a slice.

    The second result is the position of the first centre in the slice, the third the length of a
    window.
    """
    reach = size // 2
    area = slice(max(start - reach, 0), min(stop + reach, side))
    return area, start - area.start, area.stop - area.start - (stop - start - 1)
