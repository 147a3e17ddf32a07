"""Attribution where windows look at all places: whose patch it is, and where it lies."""

import math
from functools import partial

import torch

from ..support.memory import rows_that_fit
from .attribution import Attribution, Weights, means_of_groups, shares
from .local import bands, cut_comparison, padded_comparison
from .patches import sliding_patches
from .posterior import exact_scale, floored_sigma, precision_root

# Training images that are worked on together.
_CHUNK_ROWS = 64


def sliding_attribution(z, sigma, training_set, size, boundary, top, by_window=False):
    """What the equivariant posterior means of noisy images of one noise level are made of.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
    sigma : Tensor of shape (n,), float64
        0 and inf are allowed.
    training_set : TrainingSet
    size : int
    boundary : {"circular", "zero", "broken"}
        As in `equivariant_posterior`.
    top : int
        How many patches to list.
    by_window : bool, default False
        Give the corners of the patches instead of their centres, and (n, K) windows.

    Returns
    -------
    Attribution
        The effective sample size counts patches.
    """
    n, _, height, width = z.shape
    lists = n, height * width, top
    index, row, column = torch.empty(3, *lists, dtype=torch.int64, device=z.device)
    share, ess = z.new_empty(lists), z.new_empty(lists[:2])
    image_share = z.new_zeros(n, len(training_set))
    a = precision_root(floored_sigma(sigma, z, training_set))
    for pixels, queries, dictionary, corner in _parts(z, training_set, size, boundary):
        first = (0, 0) if by_window else dictionary.centre
        n_columns = dictionary.grid[1]
        for i in range(n):
            weights = _PatchWeights(queries[i], a[i], dictionary)
            number, share[i, pixels], ess[i, pixels], images = shares(weights, None, top, z.dtype)
            place = number % weights.places
            index[i, pixels] = number.div(weights.places, rounding_mode="floor")
            row[i, pixels] = place // n_columns + corner[0] + first[0]
            column[i, pixels] = place % n_columns + corner[1] + first[1]
            image_share[i] += images * (len(pixels) / lists[1])
    rest = (1 - share.sum(2)).clamp_(min=0)
    shape = lists[:2] if by_window else (n, 1, height, width)
    each = index, share, row, column, torch.zeros_like(index, dtype=torch.bool), rest, ess
    return Attribution.of(each, shape, image_share)


def sliding_means_without(z, sigma, training_set, size, boundary, groups):
    """Equivariant posterior means of noisy images, without some training images.

    Parameters
    ----------
    z, sigma, training_set, size, boundary
        As in `sliding_attribution`.
    groups : Tensor of shape (G, N), bool
        Which training images to leave out, in turn; never all of them.

    Returns
    -------
    Tensor of shape (G, n, C, H, W)
    """
    means = z.new_empty(len(groups), *z.shape).flatten(3)  # (G, n, C, H W)
    a = precision_root(floored_sigma(sigma, z, training_set))
    for pixels, queries, dictionary, _ in _parts(z, training_set, size, boundary):
        shape = z.shape[1], len(pixels)
        for i in range(len(z)):
            weigh = partial(_PatchWeights, queries[i], a[i], dictionary)
            means[:, i, :, pixels] = means_of_groups(weigh, None, groups, shape, z.dtype)
    return means.view(len(groups), *z.shape)


def _parts(z, training_set, size, boundary):
    """Windows that are compared with the same patches.

    Yields
    ------
    pixels : Tensor of shape (q,), int64
        The pixels that they answer for, y * W + x.
    queries : Tensor of shape (n, q, d)
    dictionary : PatchDictionary
    corner : tuple of (top, left)
        Of its images, which may be crops, in the training images.
    """
    _, _, height, width = z.shape
    number = torch.arange(height * width, device=z.device).view(height, width)
    if boundary != "broken":
        padded, dictionary = padded_comparison(z, training_set, size, boundary)
        yield number.flatten(), _queries(padded, dictionary), dictionary, (0, 0)
        return
    for top, bottom in bands(height, size):
        for left, right in bands(width, size):
            around = cut_comparison(training_set, size, (top, bottom), (left, right))
            rows, columns, dictionary = around
            queries = _queries(z[..., rows, columns], dictionary)
            pixels = number[top:bottom, left:right].flatten()
            yield pixels, queries, dictionary, (rows.start, columns.start)


def _queries(z, dictionary):
    """Every window of noisy images, (n, q, d)."""
    return sliding_patches(z, dictionary.window).flatten(3).flatten(1, 2)


class _PatchWeights(Weights):
    """Weights of all patches of a dictionary in the posteriors of some windows.

    Parameters
    ----------
    queries : Tensor of shape (q, d)
    a : Tensor of shape ()
        ``1 / (sigma sqrt(2))``.
    dictionary : PatchDictionary
    without : Tensor of shape (N,), bool, default None
    """

    def __init__(self, queries, a, dictionary, without=None):
        self._scale, self._factor = exact_scale(a)
        self._scaled = queries.double() * self._scale
        self._dictionary = dictionary
        n_places = math.prod(dictionary.grid)
        self._every = torch.arange(n_places, device=queries.device)
        image_bytes = 8 * n_places * (2 * dictionary.n_values + 4 * len(queries))
        n_rows = rows_that_fit(image_bytes, _CHUNK_ROWS, what="The patches of a training image")
        known = dictionary.training_set
        super().__init__(known, queries[:, 0], n_rows, 0.0, places=n_places, without=without)

    def _logits(self, images):
        numbers = (images[:, None] * self.places + self._every).flatten()
        chunk = self._dictionary.take(numbers)
        known = self._dictionary.training_set
        patches = known.to_compute(chunk.patches, torch.float64) * self._scale
        # differences are taken directly: a product would cancel at small sigma
        mode = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(patches, self._scaled, compute_mode=mode)
        values = known.to_compute(chunk.values, torch.float64)
        return distance.square_().mul_(-self._factor), values[..., None]
