r"""Attribution: shares of training images in a posterior mean, and the mean without some of them.

Each pixel of a posterior mean is a convex combination of pixels of the training images,

.. math::

    D(z)_p = \sum_i s_{ip} x_{ip}, \qquad
    s_{ip} = \frac{\sum_k r_{kp} w_i^k}{\sum_k r_{kp}},

and without the images S, the weights of all other images grow by one factor per window,

.. math::

    D_{-S}(z)_p = \frac{\sum_k r_{kp} \sum_{i \notin S} w_i^k x_{ip} / (1 - W_S^k)}
    {\sum_k r_{kp}}, \qquad W_S^k = \sum_{i \in S} w_i^k.

The first of two passes over the training set computes the normalisers of the windows, the second
the shares s, which are never in memory for all pixels and images at once.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .._repr import short_repr
from .._typing import ArrayLike
from ..support import Centred, Masks, MirroredTrainingSet, TranslatedTrainingSet
from ..support.memory import rows_that_fit
from .masks import WindowWeights
from .sliding import regions
from .softmax import exact_scale, floored_sigma, precision_root
from .weights import Weights

if TYPE_CHECKING:
    from ..inspection._plot.attribution import AttributionDisplay

_CHUNK_ROWS = 64  # training images whose patches are compared together
# If less of a window's weight is left, it is summed again: a difference would cancel.
_LEAST_LEFT = 1e-3


@dataclass(frozen=True)
class Attribution:
    """Training images that contribute most to n denoised images, pixel by pixel or by window.

    Arrays have one entry per pixel, (n, c, H, W), with c = 1 if the entries are equal in all
    channels, else C. H and W are the sides of the denoised image or patch. By window, the leading
    shape is (n, K) instead.

    Attributes
    ----------
    index : int array of shape (n, c, H, W, top)
        Training images with the largest shares, largest first, as row numbers of the fitted X
        (images of weight zero included). -1 if fewer than ``top`` images have a positive share.
    share : float array of shape (n, c, H, W, top)
        Shares of the listed images in the pixel, or their weights in the window.
    row, column : int array of shape (n, c, H, W, top)
        Position of the source pixel: ``X[index, :, row, column]``. By window, the top left corner
        of the patch that is compared with the window.
    mirrored : bool array of shape (n, c, H, W, top)
        True if the pixel comes from the left-right mirror image of the training image.
    rest : float array of shape (n, c, H, W)
        Total share of all training images that are not listed: ``share.sum(-1) + rest`` is one.
    effective_sample_size : float array of shape (n, c, H, W)
        ``1 / sum_i share_i^2`` over all training images, between 1 and N: about how many images
        the pixel averages. Mirror images, and patches at other positions, count
        separately.
    image_share : float array of shape (n, N)
        Share of each of the N rows of X in the whole denoised image: the mean over pixels (or
        windows).
    """

    index: Any
    share: Any
    row: Any
    column: Any
    mirrored: Any
    rest: Any
    effective_sample_size: Any
    image_share: Any

    __repr__ = short_repr

    def plot(
        self,
        noisy: ArrayLike,
        answer: ArrayLike,
        images: Any,
        *,
        ax: Any = None,
        **options: Any,
    ) -> "AttributionDisplay":
        """Draw the answers with the training images that make up each answer.

        Parameters
        ----------
        noisy : array or Tensor of shape (n, C, H, W)
            Noisy images.
        answer : array or Tensor of shape (n, C, h, w)
            Denoised images or patches.
        images : array or Tensor of shape (N, C, H, W)
            Training images.
        ax : matplotlib Axes, default None
            Emptied; legible from four inches. None: a new figure.
        **options
            ``sigma``, ``pixel``, ``patch_size``, ``n_images`` and ``data_range`` of
            `inspection.AttributionDisplay.from_predictions`.

        Returns
        -------
        AttributionDisplay
            The drawn display, with ``figure_`` and ``ax_``.

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        ValueError
            If the shares belong to other answers.
        """
        from ..inspection._plot.attribution import AttributionDisplay

        return AttributionDisplay.from_predictions(noisy, answer, self, images, ax=ax, **options)

    @staticmethod
    def of(by_answer, shape, image_share):
        """Return an `Attribution` of arrays (n, P, ...), whose first two axes become ``shape``."""
        arrays = (values.reshape(*shape, *values.shape[2:]) for values in by_answer)
        return Attribution(*[*arrays, image_share])


def attribution(z, sigma, source, windows, top, by_window=False):
    """Return the shares of the training images in the posterior means of noisy images.

    Parameters
    ----------
    z, sigma, source, windows : see `select.compare`
        sigma = 0 is allowed as well.
    top : int
        Number of training images to list per pixel or window.
    by_window : bool, default False
        True: list training images for every window. False: for every pixel.

    Returns
    -------
    Attribution
        ``index`` counts the images of the source. If windows are compared with patches at all
        positions, the effective sample size counts patches.
    """
    _check_attributable(source, windows)
    roots = precision_root(floored_sigma(sigma, z, source))
    if isinstance(windows, Centred) and windows.boundary is not None:
        return _sliding_attribution(z, roots, source, windows, top, by_window)
    masks = windows.masks(z.shape[1:], z.device)
    shares, query = _shares(masks, z.dtype, by_window), _columns(masks)
    lists = [
        _largest(WindowWeights(image, a, source, query), shares, top, z.dtype)
        for image, a in zip(z, roots, strict=True)
    ]
    index, best, ess, image_share = (torch.stack(values) for values in zip(*lists, strict=True))
    row, column, opposite = _corners(masks) if by_window else _pixels(masks)
    mirrored = torch.zeros_like(index, dtype=torch.bool)
    if isinstance(source, MirroredTrainingSet):
        n_images = len(source) // 2
        mirrored = index >= n_images
        index = index - n_images * mirrored
        image_share = image_share.view(len(z), 2, n_images).sum(1)
    column = torch.where(mirrored, opposite[:, None], column[:, None])
    row = row[:, None].expand(index.shape)
    rest = (1 - best.sum(2)).clamp_(min=0)
    shape = index.shape[:2] if by_window else (len(z), *masks.answer_shape)
    by_answer = index, best, row, column, mirrored, rest, ess
    return Attribution.of(by_answer, shape, image_share)


def in_pixels(attribution, block, by_window):
    """Return an attribution of blocks of pixels as an attribution of the pixels.

    ``block`` is (rows, columns); all pixels of a block have the shares of the block. By window,
    only the positions change, from blocks to pixels.
    """
    if by_window:
        row, column = attribution.row * block[0], attribution.column * block[1]
        return replace(attribution, row=row, column=column)

    def spread(values):
        return values.repeat_interleave(block[0], 2).repeat_interleave(block[1], 3)

    names = "index", "share", "mirrored", "rest", "effective_sample_size"
    of_pixels = {name: spread(getattr(attribution, name)) for name in names}
    row, column = spread(attribution.row * block[0]), spread(attribution.column * block[1])
    row += torch.arange(row.shape[2], device=row.device).view(-1, 1, 1) % block[0]
    column += torch.arange(row.shape[3], device=row.device).view(-1, 1) % block[1]
    return replace(attribution, row=row, column=column, **of_pixels)


def means_without(z, sigma, source, windows, groups):
    """Return the posterior means (G, n, C, H, W) without each of G groups of training images.

    ``groups`` (G, N), bool, marks the images of each group, which may not be all images. See
    `attribution` for all other parameters.
    """
    _check_attributable(source, windows)
    roots = precision_root(floored_sigma(sigma, z, source))
    if isinstance(windows, Centred) and windows.boundary is not None:
        return _sliding_means_without(z, roots, source, windows, groups)
    if isinstance(source, MirroredTrainingSet):
        groups = torch.cat([groups, groups], 1)
    masks = windows.masks(z.shape[1:], z.device)
    shares, query = _shares(masks, z.dtype), _columns(masks)
    answer_shape = source.answers.image_shape
    means = []
    for image, a in zip(z, roots, strict=True):
        weigh = partial(WindowWeights, image, a, source, query)
        means.append(_means_of_groups(weigh, shares, groups, answer_shape, z.dtype))
    return torch.stack(means, 1)


def _check_attributable(source, windows):
    """Raise if the denoised image is not a mean of training images."""
    if isinstance(windows, Masks) and windows.batch_size is not None:
        raise ValueError(
            "softmax='batchwise' averages the means of batches, for which there is no attribution; "
            "use softmax='exact'."
        )
    if isinstance(source, TranslatedTrainingSet):
        raise ValueError(
            "source='translates' compares windows with moved training images, for which there is "
            "no attribution; use source='images' or 'flips'."
        )


def _columns(masks):
    """Return precisions (Q, K), float64, of pixels (equal in all channels) or of coordinates."""
    return masks.query.flatten(1).double().T.contiguous()


def _shares(masks, dtype, by_window=False):
    """Return the shares of K windows in P pixels, (K, P), or None for one window per pixel."""
    shares = None if by_window else masks.shares()
    return None if shares is None else shares.flatten(1).to(dtype)


def _pixels(masks):
    """Return row, column, and column in the mirror image, of every coordinate with own windows."""
    channels, height, width = masks.answer_shape
    at = torch.arange(channels * height * width, device=masks.query.device)
    row, column = at // width % height, at % width
    return row, column, width - 1 - column


def _corners(masks):
    """Return row, column, and column in the mirror image, of every window's top left corner."""
    used = (masks.query > 0).any(1)  # (K, H, W)
    lines, columns = used.any(2).byte(), used.any(1).byte()
    return lines.argmax(1), columns.argmax(1), columns.flip(1).argmax(1)


def _in_answers(weight, shares):
    """Return the weights (m, P) of training images in pixels, from weights (m, K) in windows."""
    return weight if shares is None else weight.to(shares.dtype) @ shares


def _largest(weights, shares, top, dtype):
    """Return the largest weights of training images in the P pixels of one noisy image.

    ``shares`` (K, P) are the shares of the windows in the pixels; None: one window per pixel.

    Returns
    -------
    index : Tensor of shape (P, top), int64
        Numbers of images and positions, see `Weights.chunks`; -1 if fewer have weight.
    best : Tensor of shape (P, top)
    effective_sample_size : Tensor of shape (P,)
    image_share : Tensor of shape (N,)
    """
    n_answers = weights.n_windows if shares is None else shares.shape[1]
    best = weights.zeros(n_answers, top)
    index = torch.full_like(best, -1, dtype=torch.int64)
    squares, image_share = weights.zeros(n_answers), weights.zeros(weights.n_images)
    for numbers, weight, _ in weights.chunks():
        weight = _in_answers(weight, shares).double().T  # (P, m)
        squares += weight.square().sum(1)
        image_share.index_add_(0, numbers // weights.n_positions, weight.mean(0))
        candidates = torch.cat([index, numbers.expand(n_answers, -1)], 1)
        best, order = torch.cat([best, weight], 1).topk(top, dim=1)
        index = candidates.gather(1, order)
    index.masked_fill_(best == 0, -1)
    return index, best.to(dtype), (1 / squares).to(dtype), image_share.to(dtype)


def _means_of_groups(weigh, shares, groups, shape, dtype):
    """Return the means (G, *shape) of one noisy image without each group (G, N) of training images.

    ``weigh(without=None)`` returns the `Weights` of all images except ``without``, (N,) bool. See
    `_largest` for ``shares``; ``shape`` is the shape (C, ...) of a mean.
    """
    weights = weigh()
    left = weights.left_without(groups)  # (G, K)
    means = _means(weights, shares, groups, left, shape)
    for group in (left < _LEAST_LEFT).any(1).nonzero().squeeze(1).tolist():
        others, alone = weigh(without=groups[group]), groups[group, None]
        means[group] = _means(others, shares, alone, torch.ones_like(left[:1]), shape)[0]
    return means.to(dtype)


def _means(weights, shares, groups, left, shape):
    """Return means (G, *shape), float64, without groups of images; ``left`` (G, K) normalises."""
    means = weights.zeros(len(groups), *shape)
    for numbers, weight, x in weights.chunks():
        out = groups[:, numbers // weights.n_positions, None]  # (G, m, 1)
        for mean, group, rest in zip(means, out, left, strict=True):
            others = _in_answers((weight / rest).masked_fill_(group, 0.0), shares)
            mean += (others.view(len(x), -1, *shape[1:]) * x).sum(0)
    return means


def _sliding_attribution(z, roots, source, windows, top, by_window):
    """Return the attribution for windows that are compared with patches at all positions."""
    n, _, height, width = z.shape
    lists = n, height * width, top
    index, row, column = torch.empty(3, *lists, dtype=torch.int64, device=z.device)
    share, ess = z.new_empty(lists), z.new_empty(lists[:2])
    image_share = z.new_zeros(n, len(source))
    for region in regions(z, source, windows):
        dictionary, pixels = region.dictionary, region.pixels.flatten()
        first = (0, 0) if by_window else dictionary.centre
        n_columns = dictionary.grid[1]
        for i in range(n):
            weights = _PatchWeights(_queries(region, i), roots[i], dictionary, _observed(region))
            number, best, size, of_images = _largest(weights, None, top, z.dtype)
            position = number % weights.n_positions
            share[i, pixels], ess[i, pixels] = best, size
            index[i, pixels] = number.div(weights.n_positions, rounding_mode="floor")
            row[i, pixels] = position // n_columns + region.corner[0] + first[0]
            column[i, pixels] = position % n_columns + region.corner[1] + first[1]
            image_share[i] += of_images * (len(pixels) / lists[1])
    rest = (1 - share.sum(2)).clamp_(min=0)
    shape = lists[:2] if by_window else (n, 1, height, width)
    mirrored = torch.zeros_like(index, dtype=torch.bool)
    return Attribution.of((index, share, row, column, mirrored, rest, ess), shape, image_share)


def _sliding_means_without(z, roots, source, windows, groups):
    """Return means without groups of images for windows compared with patches at all positions."""
    answer_shape = source.answers.image_shape[0], *z.shape[2:]
    means = z.new_empty(len(groups), len(z), *answer_shape).flatten(3)  # (G, n, C, H W)
    for region in regions(z, source, windows):
        pixels = region.pixels.flatten()
        shape = answer_shape[0], len(pixels)
        for i in range(len(z)):
            compared = _queries(region, i), roots[i], region.dictionary, _observed(region)
            weigh = partial(_PatchWeights, *compared)
            means[:, i, :, pixels] = _means_of_groups(weigh, None, groups, shape, z.dtype)
    return means.unflatten(3, answer_shape[1:])


def _queries(region, i):
    """Return the windows of a region in the i-th noisy image, (q, d)."""
    return region.queries[i].reshape(-1, region.dictionary.n_values)


def _observed(region):
    """Return the compared coordinates of the windows of a region, (q, d) bool, or None for all."""
    seen = region.observed
    if seen is None or seen.all():
        return None
    return seen.reshape(-1, region.dictionary.n_values)


class _PatchWeights(Weights):
    """Weights of all patches of a dictionary in the posteriors of query patches (q, d).

    a is ``1 / (sigma sqrt(2))``; ``observed`` (q, d) marks the coordinates that are compared, None:
    all. For ``without`` see `Weights`.
    """

    def __init__(self, queries, a, dictionary, observed=None, without=None):
        self._scale, self._factor = exact_scale(a)
        self._scaled = queries.double() * self._scale
        self._dictionary, self._observed = dictionary, observed
        n_positions = math.prod(dictionary.grid)
        self._positions = torch.arange(n_positions, device=queries.device)
        image_bytes = 8 * n_positions * (2 * dictionary.n_values + 4 * len(queries))
        n_rows = rows_that_fit(image_bytes, _CHUNK_ROWS, what="The patches of a training image")
        sums = torch.zeros(len(queries), dtype=torch.float64, device=queries.device)
        super().__init__(dictionary.training_set, sums, n_rows, 0.0, n_positions, without)

    def _logits(self, rows):
        source = self._dictionary.training_set
        images = torch.arange(len(source), device=self._positions.device)[rows]
        numbers = images[:, None] * self.n_positions + self._positions
        chunk = self._dictionary.take(numbers.flatten())
        patches = source.to_compute(chunk.patches, torch.float64) * self._scale
        values = source.answers.to_compute(chunk.values, torch.float64)
        return self._squares(patches).mul_(-self._factor), values[..., None]

    def _squares(self, patches):
        """Return the squared distances (m, q) of patches (m, d)."""
        if self._observed is None:
            # differences are taken directly: a product would cancel at small sigma
            mode = "donot_use_mm_for_euclid_dist"
            return torch.cdist(patches, self._scaled, compute_mode=mode).square_()
        pairs = zip(self._scaled, self._observed, strict=True)
        distances = [((patches - query) * seen).square_().sum(1) for query, seen in pairs]
        return torch.stack(distances, 1)
