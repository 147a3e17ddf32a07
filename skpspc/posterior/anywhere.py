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
    height, width = z.shape[2:]
    window = windows.h, windows.w
    if height < window[0] or width < window[1]:
        raise ValueError(
            f"noisy images of shape {tuple(z.shape[1:])} are smaller than the windows of "
            f"{window[0]} x {window[1]} pixels; pass larger images, or a smaller patch_size."
        )
    dictionaries = [
        PatchDictionary(level, window, None, number) for number, level in enumerate(source.levels)
    ]
    starts = [torch.tensor(along, device=z.device) for along in windows.starts(z.shape[1:])]
    corners = torch.cartesian_prod(torch.arange(len(z), device=z.device), *starts)  # (n K, 3)
    view = sliding_patches(z, window)
    pixels = torch.arange(z.numel(), device=z.device).view(z.shape)
    offsets = pixels[0, :, : window[0], : window[1]].flatten()
    sums = torch.zeros(z.numel(), dtype=torch.float64, device=z.device)
    numbers = []
    for block in corners.split(_WINDOWS):
        image, row, column = block.unbind(1)
        queries = view[image, row, column].flatten(1)
        result = _over_scales(queries, sigma[image], dictionaries, search)
        first = pixels[image, 0, row, column]
        sums.index_add_(0, (first[:, None] + offsets).flatten(), result.mean.double().flatten())
        numbers.append(result[1:])
    mean = sums.view(z.shape) / _n_windows(starts, window, (height, width))
    log_norm, ess, bound, error, proved = (
        torch.cat(column).view(len(z), -1) for column in zip(*numbers, strict=True)
    )
    return PerWindow(mean.to(z.dtype), log_norm, ess, bound.amax(1), error.amax(1), proved.all(1))


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
