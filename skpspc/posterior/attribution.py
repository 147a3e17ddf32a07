r"""Which training images a posterior mean is made of, and what it would be without some of them.

A posterior mean is a convex combination of training images at each of its pixels,

.. math::

    D(z)_p = \sum_i s_{ip} x_{ip}, \qquad
    s_{ip} = \frac{\sum_k r_{kp} w_i^k}{\sum_k r_{kp}},

and without the images S the weights of the others grow by one factor a window,

.. math::

    D_{-S}(z)_p = \frac{\sum_k r_{kp} \sum_{i \notin S} w_i^k x_{ip} / (1 - W_S^k)}
    {\sum_k r_{kp}}, \qquad W_S^k = \sum_{i \in S} w_i^k.

The training set is read in two passes, one for the normalisers of the windows and one for the
shares, which are never held for all pixels and images at once.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .._repr import short_repr
from ..support import MirroredTrainingSet
from ..support.memory import rows_that_fit
from .posterior import RunningSoftmax, exact_scale, floored_sigma, precision_root

# Training images that are worked on together: enough for the matrix products.
_CHUNK_ROWS = 512
# Share of a window's mass that may be left out in the second pass.
_SKIPPED_MASS = 1e-12
# Where less of a window's weight is left over, it is summed anew: a difference would cancel.
_LEAST_LEFT = 1e-3
# The rounding error of a sum of n numbers, in units in the last place over the root of n.
_ROUNDING = 2.0


@dataclass(frozen=True)
class Attribution:
    """The training images that n answers are made of, and where in them.

    Arrays have one entry for each pixel, (n, c, H, W), with c = 1 where all channels have the
    same, else C; of patches, H and W are those of the patch. By window they are (n, K).

    Attributes
    ----------
    index : int array of shape (n, c, H, W, top)
        Numbers of the training images with the largest shares, largest first: rows of
        ``training_set_.images``, which are those of X (without images of weight zero). -1
        where no other image has a share above zero.
    share : float array of shape (n, c, H, W, top)
        Their parts in the pixel, or their weights in the window.
    row, column : int array of shape (n, c, H, W, top)
        Where the pixel comes from: ``X[index, :, row, column]``. Of a window, the top left
        corner of what it is compared with.
    mirrored : bool array of shape (n, c, H, W, top)
        Whether it comes from the left-right mirror image of the training image.
    rest : float array of shape (n, c, H, W)
        The part of all other training images together: ``share.sum(-1) + rest`` is one.
    effective_sample_size : float array of shape (n, c, H, W)
        ``1 / sum_i share_i^2`` over all training images, between 1 and N: how many of them
        share the pixel. Mirror images, and patches at other places, count one by one.
    image_share : float array of shape (n, N)
        The part of each training image in the whole answer: the mean over pixels (or windows).
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

    @staticmethod
    def of(each, shape, image_share):
        """From arrays (n, P, ...) of all but the last attribute, for answers of a shape."""
        in_place = [values.reshape(*shape, *values.shape[2:]) for values in each]
        return Attribution(*[*in_place, image_share])


def attribution(z, sigma, windows, top, by_window=False):
    """What the posterior means of noisy images of one noise level are made of.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
    sigma : Tensor of shape (n,), float64
        0 and inf are allowed.
    windows : Windows
    top : int
        How many training images to list.
    by_window : bool, default False
        List them for every window, instead of for every pixel.

    Returns
    -------
    Attribution
    """
    source = windows.source
    share = None if by_window or windows.share is None else windows.share.flatten(1).to(z)
    query = _columns(windows)
    parts = []
    for image, a in zip(z, _roots(z, sigma, source), strict=True):
        parts.append(shares(_WindowWeights(image, a, source, query), share, top, z.dtype))
    index, best, ess, image_share = (torch.stack(part) for part in zip(*parts, strict=True))
    row, column, opposite = _corners(windows) if by_window else _pixels(windows)
    mirrored = torch.zeros_like(index, dtype=torch.bool)
    if isinstance(source, MirroredTrainingSet):
        n_images = len(source) // 2
        mirrored = index >= n_images
        index = index - n_images * mirrored
        image_share = image_share.view(len(z), 2, n_images).sum(1)
    column = torch.where(mirrored, opposite[:, None], column[:, None])
    row = row[:, None].expand(index.shape)
    rest = (1 - best.sum(2)).clamp_(min=0)
    shape = index.shape[:2] if by_window else (len(z), *windows.answer_shape)
    each = index, best, row, column, mirrored, rest, ess
    return Attribution.of(each, shape, image_share)


def means_without(z, sigma, windows, groups):
    """Posterior means of noisy images of one noise level, without some training images.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
    sigma : Tensor of shape (n,), float64
    windows : Windows
    groups : Tensor of shape (G, N), bool
        Which training images to leave out, in turn; never all of them.

    Returns
    -------
    Tensor of shape (G, n, C, H, W)
    """
    source = windows.source
    if isinstance(source, MirroredTrainingSet):
        groups = torch.cat([groups, groups], 1)
    share = None if windows.share is None else windows.share.flatten(1).to(z)
    query = _columns(windows)
    parts = []
    for image, a in zip(z, _roots(z, sigma, source), strict=True):
        weigh = partial(_WindowWeights, image, a, source, query)
        parts.append(means_of_groups(weigh, share, groups, image.shape, z.dtype))
    return torch.stack(parts, 1)


def _columns(windows):
    """Precisions (Q, K), float64, of pixels if the channels share them, else of coordinates."""
    return windows.query.flatten(1).double().T.contiguous()


def _roots(z, sigma, source):
    """``1 / (sigma sqrt(2))`` of every noisy image."""
    return precision_root(floored_sigma(sigma, z, source))


def _pixels(windows):
    """Row, column, and column in the mirror image, of every coordinate of the answer, (P,)."""
    channels, height, width = windows.answer_shape
    at = torch.arange(channels * height * width, device=windows.query.device)
    row, column = at // width % height, at % width
    top, left = windows.corner
    return row + top, column + left, width - 1 - column + left


def _corners(windows):
    """The same of the top left corner of every window, (K,)."""
    seen = (windows.query > 0).any(1)  # (K, H, W)
    lines, columns = seen.any(2).byte(), seen.any(1).byte()
    top, left = windows.corner
    return lines.argmax(1) + top, columns.argmax(1) + left, columns.flip(1).argmax(1) + left


class Weights:
    """Posterior weights of one noisy image in K windows, some training images at a time.

    A subclass gives ``_logits(images)``: for m / places images, tensor of int64, the logits
    (m, K), float64, without sample weights, and what the windows would answer (m, C, ...).

    A matrix product adds up a row in an order that depends on where the row stands. Logits that
    differ by no more than that are equal: copies of an image share its weight at any sigma.

    Parameters
    ----------
    source : TrainingSet
    like : Tensor of shape (K,)
        Gives the number of windows and the device.
    n_rows : int
        Images at a time.
    rounding : float
        Relative rounding error of the logits.
    places : int, default 1
        How many times each image counts, at as many places.
    without : Tensor of shape (N,), bool, default None
        Training images that do not count.
    """

    def __init__(self, source, like, n_rows, rounding, places=1, without=None):
        self.n_images, self.n_windows, self.places = len(source), len(like), places
        self._source, self._n_rows, self._rounding = source, n_rows, rounding
        self._device = like.device
        self._softmax = RunningSoftmax(self.zeros(len(like)))
        closest = self.zeros(len(source)).fill_(-torch.inf)
        counts = torch.arange(len(source), device=like.device)
        counts = counts if without is None else counts[~without]
        for images in counts.split(n_rows):
            logit, _ = self._tied_logits(images)
            relative, _, _ = self._softmax.add(logit, self._prior(images))
            closest[images] = relative.amax(1).view(-1, places).amax(1)
        least = math.log(_SKIPPED_MASS / (len(source) * places))
        self._hopeful = (closest > least).nonzero().squeeze(1)

    def _logits(self, images):
        raise NotImplementedError

    def zeros(self, *shape):
        """Where sums start, float64."""
        return torch.zeros(shape, dtype=torch.float64, device=self._device)

    def chunks(self):
        """Yield nearly all: numbers (m,), weights (m, K) float64, answers (m, C, ...).

        Number j is place ``j % places`` in the image ``j // places``.
        """
        every = torch.arange(self.places, device=self._hopeful.device)
        for images in self._hopeful.split(self._n_rows):
            logit, answers = self._tied_logits(images)
            relative = self._softmax.relative(logit, self._prior(images))
            weight = relative.exp_().div_(self._softmax.total)
            yield (images[:, None] * self.places + every).flatten(), weight, answers

    def left_without(self, groups):
        """The weight (G, K) that is left in every window without some images, (G, N) bool."""
        left = self.zeros(len(groups), self.n_windows).fill_(1.0)
        for numbers, weight, _ in self.chunks():
            left -= groups[:, numbers // self.places].double() @ weight
        return left

    def _prior(self, images):
        prior = self._source.prior(images)
        return None if prior is None else prior.repeat_interleave(self.places)

    def _tied_logits(self, images):
        """Logits (m, K) in which the nearest are equal where only rounding tells them apart."""
        logit, answers = self._logits(images)
        nearest, peak = self._softmax.nearest, logit.amax(0)
        slack = -self._rounding * peak
        nearest = torch.where(peak > nearest + slack, peak, nearest)
        return torch.where(logit >= nearest - slack, nearest, logit), answers


class _WindowWeights(Weights):
    """Weights in windows that see the same place of every training image.

    Parameters
    ----------
    z : Tensor of shape (C, H, W)
    a : Tensor of shape ()
        ``1 / (sigma sqrt(2))``.
    source : TrainingSet
    query : Tensor of shape (Q, K), float64
    without : Tensor of shape (N,), bool, default None
    """

    def __init__(self, z, a, source, query, without=None):
        scale, self._factor = exact_scale(a)
        self._scale = scale.to(z.dtype)
        self._scaled = z * self._scale
        self._query = query
        self._by_pixel = len(query) < z.numel()
        row_bytes = 3 * z.element_size() * z.numel() + 8 * len(query) + 4 * 8 * query.shape[1]
        n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
        rounding = _ROUNDING * math.sqrt(z.numel()) * torch.finfo(torch.float64).eps
        super().__init__(source, query[0], n_rows, rounding, without=without)

    def _logits(self, images):
        x = self._source.take(images, self._scaled.dtype)
        squared = (self._scaled - self._scale * x).square_()
        if self._by_pixel:
            squared = squared.sum(1, dtype=torch.float64)
        # float32 sums over many coordinates would be the largest error of the logits
        return (squared.flatten(1).double() @ self._query).mul_(-self._factor), x


def _parts(weight, share):
    """Parts (m, P) of training images in the answer, from their weights (m, K) in the windows."""
    return weight if share is None else weight.to(share.dtype) @ share


def shares(weights, share, top, dtype):
    """What is listed of one noisy image.

    Parameters
    ----------
    weights : Weights
    share : Tensor of shape (K, P) or None
        The windows' parts in P answers; None: each window is an answer.
    top : int
    dtype : torch.dtype

    Returns
    -------
    index : Tensor of shape (P, top), int64
        Numbers of images and places, as `Weights.chunks` has them; -1 where there are no more.
    share : Tensor of shape (P, top)
    effective_sample_size : Tensor of shape (P,)
    image_share : Tensor of shape (N,)
    """
    n_answers = weights.n_windows if share is None else share.shape[1]
    best = weights.zeros(n_answers, top)
    index = torch.full_like(best, -1, dtype=torch.int64)
    squares, image_share = weights.zeros(n_answers), weights.zeros(weights.n_images)
    for numbers, weight, _ in weights.chunks():
        part = _parts(weight, share).double().T  # (P, m)
        squares += part.square().sum(1)
        image_share.index_add_(0, numbers // weights.places, part.mean(0))
        candidates = torch.cat([index, numbers.expand(n_answers, -1)], 1)
        best, order = torch.cat([best, part], 1).topk(top, dim=1)
        index = candidates.gather(1, order)
    index.masked_fill_(best == 0, -1)
    return index, best.to(dtype), (1 / squares).to(dtype), image_share.to(dtype)


def means_of_groups(weigh, share, groups, shape, dtype):
    """Means of one noisy image without each group of training images.

    Parameters
    ----------
    weigh : callable
        ``weigh(without)`` gives the `Weights` without some images, (N,) bool or None.
    share : Tensor of shape (K, P) or None
        As in `shares`.
    groups : Tensor of shape (G, N), bool
    shape : tuple
        Of an answer, (C, ...).
    dtype : torch.dtype

    Returns
    -------
    Tensor of shape (G, *shape)
    """
    weights = weigh(None)
    left = weights.left_without(groups)  # (G, K)
    means = _means(weights, share, groups, left, shape)
    for group in (left < _LEAST_LEFT).any(1).nonzero().squeeze(1).tolist():
        others, some = weigh(groups[group]), groups[group, None]
        means[group] = _means(others, share, some, torch.ones_like(left[:1]), shape)[0]
    return means.to(dtype)


def _means(weights, share, groups, left, shape):
    """The same, float64, where so much weight (G, K) is left."""
    means = weights.zeros(len(groups), *shape)
    for numbers, weight, x in weights.chunks():
        out = groups[:, numbers // weights.places, None]  # (G, m, 1)
        for mean, group, rest in zip(means, out, left, strict=True):
            part = _parts((weight / rest).masked_fill_(group, 0.0), share)
            mean += (part.view(len(x), -1, *shape[1:]) * x).sum(0)
    return means
