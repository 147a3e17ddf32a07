r"""Square windows that are compared with the patches at all positions of the training images.

.. math::

    D(z)_p = \frac{1}{|\{k : p \in P_k\}|} \sum_{k : p \in P_k} \sum_j w_j^k\, y_{j, p - k},
    \qquad
    w^k = \operatorname{softmax}_j\bigl(-\|z_{P_k} - y_j\|^2 / 2 \sigma^2 + \log v_{i(j)}\bigr)

with :math:`y_j` the patches of all training images, at all scales of a `Pyramid`. Each scale is one
dictionary of patches; the posteriors of the scales are merged by their normalisers.
"""

import math

import torch

from .cells import visiting_posterior
from .direction import Product
from .patch_products import patch_tilts, patch_values
from .patches import PatchDictionary, patch_posterior, sliding_patches
from .posterior import PerWindow

# Number of windows of noisy images that share one pass over the patches.
_WINDOWS = 8192


def anywhere(z, sigma, source, windows, search=None):
    """Compare square windows with the patches at all positions, and average overlapping means.

    See `select.compare` for the parameters; ``source`` is a `Pyramid`. Noisy images may be larger
    or smaller than the training images, but not smaller than a window. Effective sample sizes count
    patches.
    """
    positions = _Positions(z, windows)
    dictionaries = _dictionaries(source, windows)
    sums = torch.zeros_like(z, dtype=torch.float64)
    numbers = []
    for block in positions.corners.split(_WINDOWS):
        result = _over_scales(positions.patches(z, block), sigma[block[:, 0]], dictionaries, search)
        positions.add(sums, result.mean, block)
        numbers.append(result[1:])
    log_norm, ess, bound, error, proved = (
        torch.cat(column).view(len(z), -1) for column in zip(*numbers, strict=True)
    )
    mean = (sums / positions.count).to(z.dtype)
    return PerWindow(mean, log_norm, ess, bound.amax(1), error.amax(1), proved.all(1))


def anywhere_product(z, sigma, source, windows, direction):
    """Return the `Product` of the derivative with a `Direction`; see `products.product`."""
    positions = _Positions(z, windows)
    dictionaries = _dictionaries(source, windows)
    vector = direction.vector
    vector = vector / positions.count if direction.backward else vector
    sums = torch.zeros_like(z, dtype=torch.float64)
    numbers = []
    shifts = direction.shift.flatten().split(_WINDOWS)
    for block, shift in zip(positions.corners.split(_WINDOWS), shifts, strict=True):
        image = block[:, 0]
        part = direction._replace(
            vector=positions.patches(vector, block), level=direction.level[image], shift=shift
        )
        queries = positions.patches(z, block)
        tilts = patch_tilts(queries, sigma[image], dictionaries, part)
        values, level = patch_values(queries, sigma[image], dictionaries, part, tilts=tilts)
        positions.add(sums, values, block)
        numbers.append((tilts.mean, level))
    tilt, level = (torch.cat(column).view(len(z), -1) for column in zip(*numbers, strict=True))
    sums = sums if direction.backward else sums / positions.count
    return Product(sums.to(z.dtype), tilt, level.sum(1))


def _dictionaries(source, windows):
    """Return the dictionary of each scale of a `Pyramid`."""
    window = windows.h, windows.w
    return [
        PatchDictionary(level, window, None, number) for number, level in enumerate(source.levels)
    ]


class _Positions:
    """Positions of square windows in noisy images (n, C, H, W).

    Attributes
    ----------
    corners : Tensor of shape (n * K, 3), int64
        Number of the noisy image, row and column of the top left corner of each window.
    count : Tensor of shape (H, W), float64
        Number of windows that cover each pixel.
    """

    def __init__(self, z, windows):
        self._window = window = windows.h, windows.w
        sides = z.shape[2:]
        if sides[0] < window[0] or sides[1] < window[1]:
            raise ValueError(
                f"noisy images of shape {tuple(z.shape[1:])} are smaller than the windows of "
                f"{window[0]} x {window[1]} pixels; pass larger images, or a smaller patch_size."
            )
        starts = [torch.tensor(along, device=z.device) for along in windows.starts(z.shape[1:])]
        self.corners = torch.cartesian_prod(torch.arange(len(z), device=z.device), *starts)
        self.count = _n_windows(starts, window, sides)
        self._pixels = torch.arange(z.numel(), device=z.device).view(z.shape)
        self._offsets = self._pixels[0, :, : window[0], : window[1]].flatten()

    def patches(self, images, corners):
        """Return the patches (Q, d) of images at corners (Q, 3)."""
        image, row, column = corners.unbind(1)
        return sliding_patches(images, self._window)[image, row, column].flatten(1)

    def add(self, images, patches, corners):
        """Add patches (Q, d) to images at corners (Q, 3)."""
        image, row, column = corners.unbind(1)
        first = self._pixels[image, 0, row, column]
        pixels = (first[:, None] + self._offsets).flatten()
        images.view(-1).index_add_(0, pixels, patches.to(images.dtype).flatten())


def _n_windows(starts, window, sides):
    """Return the number of windows that cover each pixel, (H, W) float64."""
    along = []
    for first, length, side in zip(starts, window, sides, strict=True):
        covered = torch.zeros(side, dtype=torch.float64, device=first.device)
        for offset in range(length):
            covered[first + offset] += 1
        along.append(covered)
    return torch.outer(*along)


def _over_scales(queries, sigma, dictionaries, search):
    """Return the posterior of query patches (Q, d) over the patches of several dictionaries."""
    results = []
    for dictionary in dictionaries:
        if search is None:
            result = patch_posterior(queries, sigma, dictionary)
        else:
            result = visiting_posterior(queries, sigma, dictionary, search)
        results.append(result.with_bounds())
    if len(results) == 1:
        return results[0]
    n_patches = sigma.new_tensor([math.prod(dictionary.grid) for dictionary in dictionaries])
    log_fraction = (n_patches / n_patches.sum()).log()
    mean, log_norm, ess, bound, error, proved = map(torch.stack, zip(*results, strict=True))
    log_norm += log_fraction[:, None]
    total = log_norm.logsumexp(0)
    share = (log_norm - total).exp()  # (scales, Q)
    return PerWindow(
        (share[:, :, None] * mean).sum(0).to(queries.dtype),
        total,
        1 / (share.square() / ess).sum(0),
        (share * bound).sum(0),
        (share * error).sum(0),
        proved.all(0),
    )
