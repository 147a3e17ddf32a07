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
the shares s, which are never in memory for all pixels and images at once. Training images in shards
are compared where they are: the normalisers are merged between the passes, and the largest shares
and the sums after the second pass. A training set on one device is one shard.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .._progress import progress
from .._repr import short_repr
from .._typing import ArrayLike
from ..support import Masks, TranslatedTrainingSet
from ..support.devices import Each, added
from .batches import batches
from .compared import compared, is_sliding
from .softmax import Softmax, floored_sigma, precision_root

if TYPE_CHECKING:
    from ..inspection._plot.attribution import AttributionDisplay

_STATE_BYTES = 16  # between the passes, for a pair of a noisy and a training image
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
    shape = _answer_shape(z, windows, by_window)
    options = top, by_window, math.prod(shape)
    blocks, kept = _blocks(z, sigma, source, windows)
    results = [_attribution(noisy, source, kept, *options) for noisy in blocks]
    index, share, row, column, mirrored, squares, image_share = (
        torch.cat(values) for values in zip(*results, strict=True)
    )
    rest, ess = (1 - share.sum(2)).clamp_(min=0), 1 / squares
    by_answer = index, share, row, column, mirrored, rest, ess
    fields = [array.reshape(len(z), *shape, *array.shape[2:]) for array in by_answer]
    fields.append(image_share)
    return Attribution(*(field.to(z) if field.is_floating_point() else field for field in fields))


def means_without(z, sigma, source, windows, groups):
    """Return the posterior means (G, n, C, H, W) without each of G groups of training images.

    ``groups`` (G, N), bool, marks the images of each group, which may not be all images. See
    `attribution` for all other parameters.
    """
    blocks, kept = _blocks(z, sigma, source, windows)
    return torch.cat([_means_without(noisy, source, kept, groups) for noisy in blocks], 1)


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


def _check_attributable(source, windows):
    """Raise if the denoised image is not a mean of training images."""
    if isinstance(windows, Masks) and windows.batch_size is not None:
        raise ValueError(
            "softmax='batchwise' averages the means of batches, for which there is no attribution; "
            "use softmax='exact'."
        )
    if isinstance(source, TranslatedTrainingSet):
        raise ValueError(
            "windows are compared with moved training images, for which there is no attribution; "
            "use max_shift=0, or source='images' or 'flips' of a PosteriorMeanCollection."
        )


def _blocks(z, sigma, source, windows):
    """Return an iterable of blocks of noisy images, and a handle of the windows.

    Noisy images are pairs of z and ``1 / (sigma sqrt(2))``.
    """
    _check_attributable(source, windows)
    roots = precision_root(floored_sigma(sigma, z, source))
    blocks = batches(source, _STATE_BYTES, z, roots)
    return progress(blocks, "blocks of noisy images"), source.executor.kept(windows)


def _answer_shape(z, windows, by_window):
    """Return the shape (c, H, W) of the values that have shares of their own, or (K,)."""
    if is_sliding(windows):
        return (z[0, 0].numel(),) if by_window else (1, *z.shape[2:])
    masks = windows.masks(z.shape[1:], z.device)
    return (len(masks.query),) if by_window else masks.answer_shape


def _first_pass(shard, noisy, windows, without=None):
    """Return the sums and the state of every `Compared` group of windows, see `Weights`.

    ``without`` (N,), bool, marks images to leave out.
    """
    if without is not None:
        without = _rows_of(without[None], shard)[0]
    states = []
    for group in _compared(shard, noisy, windows):
        weights = group.weigh(without=without)
        states.append((weights.sums, weights.closest))
    return states


def _compared(shard, noisy, windows):
    """Return the `Compared` groups of windows of noisy images (z, roots)."""
    z, roots = (tensor.to(shard.device) for tensor in noisy)
    return compared(z, roots, shard, windows)


def _weights(shard, noisy, windows, softmax, states):
    """Yield every `Compared` group of windows, and its `Weights` arguments all shards."""
    groups = _compared(shard, noisy, windows)
    for group, whole, (_, closest) in zip(groups, softmax, states, strict=True):
        yield group, group.weigh(state=(whole.to(shard.device), closest))


def _merged(parts):
    """Merge the `Softmax` of every group of windows, or results of `_first_pass`."""
    parts = [[one if isinstance(one, Softmax) else one[0] for one in part] for part in parts]
    return [Softmax.merged(group) for group in zip(*parts, strict=True)]


class _Shares(NamedTuple):
    """Largest shares of training images in P pixels or windows of n noisy images.

    Attributes
    ----------
    index, share, row, column, mirrored : Tensor of shape (n, P, top)
        See `Attribution`.
    squares : Tensor of shape (n, P), float64
        Sum of the squared shares.
    by_shard : dict
        From the number of the first image of a shard, int, to the shares (n, N), float64, of its
        images in whole denoised images.
    """

    index: Any
    share: Any
    row: Any
    column: Any
    mirrored: Any
    squares: Any
    by_shard: dict


def _attribution(noisy, source, windows, top, by_window, n_answers):
    """Return the Tensors of `_Shares` of a block of noisy images, with (n, N) shares last."""
    starts = Each(source.first_images)
    with source.executor.step() as step:
        noisy = step.give(noisy)
        states = step.map(_first_pass, noisy, windows)
        softmax = step.merged(_merged, states)
        arguments = noisy, windows, softmax, states
        lists = step.map(_largest, *arguments, starts, top, by_window, n_answers)
        (merged,) = step.values([step.merged(_largest_of_all, lists)])
    *by_answer, by_shard = merged
    return [*by_answer, torch.cat([by_shard[start] for start in starts], 1)]


def _largest(shard, noisy, windows, softmax, states, start, top, by_window, n_answers):
    """Return the `_Shares` of a shard, whose first image has the number ``start``."""
    n, device, n_images = len(noisy[0]), shard.device, shard.sizes[0]
    options = dict(dtype=torch.float64, device=device)
    index, row, column = torch.zeros(3, n, n_answers, top, dtype=torch.int64, device=device)
    share, mirrored = torch.zeros_like(index, **options), torch.zeros_like(index, dtype=torch.bool)
    squares, of_images = torch.zeros(n, n_answers, **options), torch.zeros(n, n_images, **options)
    for group, weights in _weights(shard, noisy, windows, softmax, states):
        shares = None if by_window else group.shares
        numbers, best, square, of_rows = _largest_weights(weights, shares, top)
        at = group.image, group.pixels
        share[at], squares[at] = best, square
        index[at], row[at], column[at], mirrored[at] = group.locate(numbers, by_window)
        of_images[group.image] += of_rows.view(-1, n_images).sum(0) * (len(best) / n_answers)
    index = torch.where(share > 0, index + start, -1)
    return _Shares(index, share, row, column, mirrored, squares, {start: of_images})


def _largest_of_all(parts):
    """Merge the `_Shares` of shards."""
    device, top = parts[0].share.device, parts[0].share.shape[2]
    *fields, _, _ = zip(*parts, strict=True)
    lists = [torch.cat([part.to(device) for part in field], 2) for field in fields]
    order = lists[1].topk(top, dim=2).indices
    index, share, row, column, mirrored = (field.gather(2, order) for field in lists)
    squares = sum(part.squares.to(device) for part in parts)
    by_shard = {start: of.to(device) for part in parts for start, of in part.by_shard.items()}
    return _Shares(index, share, row, column, mirrored, squares, by_shard)


def _in_answers(weight, shares):
    """Return the weights (m, P) of training images in pixels, from weights (m, K) in windows."""
    return weight if shares is None else weight.to(shares.dtype) @ shares


def _largest_weights(weights, shares, top):
    """Return the largest weights of training images in the P pixels of one noisy image.

    ``shares`` (K, P) are the shares of the windows in the pixels; None: one window per pixel.

    Returns
    -------
    index : Tensor of shape (P, top), int64
        Numbers of images and positions, see `Weights.chunks`; -1 if fewer have weight.
    best : Tensor of shape (P, top), float64
    squares : Tensor of shape (P,), float64
        Sums of all squared weights.
    image_share : Tensor of shape (N,), float64
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
    return index.masked_fill_(best == 0, -1), best, squares, image_share


def _means_without(noisy, source, windows, groups):
    """Return the means (G, n, C, H, W) of a block of noisy images; see `means_without`."""
    z, roots = noisy
    with source.executor.step() as step:
        noisy = step.give(noisy)
        states = step.map(_first_pass, noisy, windows)
        of_shards = _by_shard(groups, source)
        arguments = noisy, windows, step.merged(_merged, states), states, of_shards
        lost = step.merged(added, step.map(_lost, *arguments))
        summands = step.merged(added, step.map(_summands, *arguments, lost))
        lost, (means,) = step.values([lost, summands])
    # the groups of windows of one region follow each other in the order of the noisy images
    left = 1 - torch.stack([weight.amax(1) for weight in lost]).view(-1, len(z), len(groups))
    is_small = (left < _LEAST_LEFT).any(0)  # (n, G)
    for number in is_small.any(0).nonzero().squeeze(1).tolist():
        rows = is_small[:, number]
        others = _means_of_others(z[rows], roots[rows], source, windows, groups[number])
        means[number, rows] = others.to(means)
    return means.to(z)


def _means_of_others(z, roots, source, windows, group):
    """Return the means (n, C, H, W), float64, over all images but a group (N,)."""
    with source.executor.step() as step:
        noisy = step.give((z, roots))
        of_shards = Each(part[0] for part in _by_shard(group[None], source))
        states = step.map(_first_pass, noisy, windows, of_shards)
        arguments = noisy, windows, step.merged(_merged, states), states
        summands = step.map(_summands_of_all, *arguments)
        ((means,),) = step.values([step.merged(added, summands)])
    return means[0]


def _by_shard(groups, source):
    """Return the columns of groups (G, N) of images in each shard."""
    return Each(part.clone() for part in groups.split(source.sizes, 1))


def _rows_of(groups, shard):
    """Return groups (G, n) of the images of a shard as groups of its rows."""
    return groups.to(shard.device).repeat(1, len(shard) // groups.shape[1])  # with mirror images


def _lost(shard, noisy, windows, softmax, states, groups):
    """Return a list of the weights (G, K) of groups of training images in groups of windows."""
    rows = _rows_of(groups, shard)
    pairs = _weights(shard, noisy, windows, softmax, states)
    return [weights.of_groups(rows) for _, weights in pairs]


def _summands(shard, noisy, windows, softmax, states, groups, lost):
    """Return the summand (G, n, C, H, W), in a list, of a shard in the means without groups."""
    z, rows = noisy[0], _rows_of(groups, shard)
    channels, (height, width) = shard.answers.image_shape[0], z.shape[2:]
    shape = len(groups), len(z), channels, height * width
    means = torch.zeros(shape, dtype=torch.float64, device=shard.device)
    pairs = _weights(shard, noisy, windows, softmax, states)
    for (group, weights), of_groups in zip(pairs, lost, strict=True):
        left = 1 - of_groups.to(shard.device)  # (G, K)
        sums = torch.zeros_like(means[:, group.image, :, group.pixels])
        for numbers, weight, x in weights.chunks():
            out = rows[:, numbers // weights.n_positions, None]  # (G, m, 1)
            x = x.flatten(2)
            for total, chosen, rest in zip(sums, out, left, strict=True):
                others = _in_answers((weight / rest).masked_fill_(chosen, 0.0), group.shares)
                total += (others.view(len(x), -1, total.shape[1]) * x).sum(0)
        means[:, group.image, :, group.pixels] += sums
    return [means.unflatten(3, (height, width))]


def _summands_of_all(shard, noisy, windows, softmax, states):
    """Return the summand (1, n, C, H, W), in a list, of a shard in the means over all images."""
    nothing_left_out = torch.zeros(1, shard.sizes[0], dtype=torch.bool)
    lost = [torch.zeros(1, whole.total.shape[1]) for whole in softmax]
    return _summands(shard, noisy, windows, softmax, states, nothing_left_out, lost)
