r"""The posterior over a few training images, with a bound of its error.

If logits are exact for a set S of training images, and all other images are at least a distance
:math:`\rho` away, then

.. math::

    \text{missed mass} \; f \le \frac{R}{R + \sum_{i \in S} v_i e^{l_i}}, \qquad
    R = \Bigl(\sum_{i \notin S} v_i\Bigr) e^{-\rho^2 / 2 \sigma^2}.

At every pixel the exact mean is ``(1 - f) * approximate + f * v``, where v is between the smallest
and the largest training value. Hence

.. math::

    |D_p - \hat D_p| \le f \max(\max_i x_{ip} - \hat D_p,\; \hat D_p - \min_i x_{ip}).

An index finds the images by search coordinates, whose distances never exceed those of the images
(`Coordinates`), so that its floor is a valid :math:`\rho`.
"""

import math
import numbers
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..support import Neighbours, Recall
from ..support.memory import rows_that_fit
from ..support.segments import segment_logsumexp, segment_max, segment_rank, segment_sum
from .dense import dense
from .pairs import pair_squares
from .posterior import PerWindow

_LARGEST_FRACTION = 1 / 2  # of the training set; beyond it, the exact kernel is faster
_PROBES = 4  # noisy images that are searched first: if most need many candidates, all use `dense`
_RECALLED = 64  # neighbours of the last step are reused up to this mean number per noisy image
_BLOCK = 256  # images that are summed together: they stay in the cache
_NEGLIGIBLE = 40.0  # nats below the largest logit: below the rounding error of float64
_TAIL = 1e-3  # approximate mass of images beyond the search radius, relative to the nearest image


@dataclass(frozen=True, eq=False)
class NeighbourSearch:
    """Search for the training images that matter for a noisy image.

    Attributes
    ----------
    neighbours : Neighbours
        Search of the training set; its index is built at the first search.
    n_neighbors : int or callable, default None
        Number of training images to use, between 1 and N, or a callable that maps sigma, a float,
        to this number. None: as many as ``tol`` needs.
    tol : float, default None
        Largest admissible error bound, positive. With ``n_neighbors``, noisy images with a larger
        bound use more training images.
    n_remainder : int, default 0
        With ``n_neighbors``: number of random training images that represent all unused images,
        drawn with equal probability (self-normalised importance sampling).
    seed : int, default 0
        Seed of the random images.
    recall : Recall, default None
        Neighbours of the previous sampler step, if the noisy images come from a sampler.
    verbose : int, default 0
        Above 0, show a progress bar while the index is built.
    """

    neighbours: Neighbours
    n_neighbors: Any = None
    tol: float | None = None
    n_remainder: int = 0
    seed: int = 0
    recall: Recall | None = None
    verbose: int = 0

    def recalling(self):
        """Return the search for one run of a sampler, which reuses neighbours of the last step."""
        return replace(self, recall=Recall())

    def extended(self, training_set):
        """Return the search of a training set that begins with the present images."""
        return replace(self, neighbours=self.neighbours.extended(training_set))

    def counts(self, sigma):
        """Return the number of neighbours at each noise level (n,), as a list of int.

        Raises ValueError if a callable returns anything but an int of at least 1.
        """
        n_images = len(self.neighbours.training_set)
        counts = [
            self.n_neighbors(level) if callable(self.n_neighbors) else self.n_neighbors
            for level in sigma.tolist()
        ]
        for k in counts:
            if not isinstance(k, numbers.Integral) or k < 1:
                raise ValueError(
                    f"n_neighbors must be between 1 and the number of training images, {n_images}, "
                    f"or a callable that returns such an int for every sigma; got {k!r}."
                )
        return [min(int(k), n_images) for k in counts]


def truncated(z, sigma, training_set, search):
    """Compare whole images with as few training images as a search allows.

    See `select.compare` for the parameters. The error bound excludes rounding errors. If the index
    is not rigorous and images are left out, the bound is an estimate, which assumes that the index
    found all near images.
    """
    neighbours = search.neighbours
    neighbours.build(search.verbose)
    if search.n_neighbors is None:
        return _tolerant(z, sigma, training_set, neighbours, search.tol, search.recall)
    result = _nearest(z, sigma, search)
    if search.tol is None:
        return result
    off = (result.error_bound > search.tol).nonzero().squeeze(1)
    if len(off):
        better = _tolerant(z[off], sigma[off], training_set, neighbours, search.tol)
        result = result.updated(off, better)
    return result


def _tolerant(z, sigma, training_set, neighbours, tol, recall=None):
    """Compare with as few training images as a tolerance allows, or with all images."""
    result = _from_few(z, sigma, training_set, neighbours, tol, recall)
    # if float32 hardly distinguishes distances, a radius may be too small for the tolerance
    off = (result.error_bound > tol).nonzero().squeeze(1)
    return result.updated(off, dense(z[off], sigma[off], training_set)) if len(off) else result


def _from_few(z, sigma, training_set, neighbours, tol, recall):
    """Compare noisy images with their candidates, or with all training images."""
    # At worst, all other images together have weight one and the nearest image has the smallest
    # sample weight. The factor 2 allows for rounding errors of logits.
    weight = training_set.log_weight
    lightest = -math.log(len(training_set)) if weight is None else float(weight.min())
    margin = 2 * sigma.square() * (math.log(2 * max(training_set.span / tol, 1)) - lightest)
    if recall is not None:
        result = _recalled(z, sigma, neighbours, margin, recall)
        if result is not None:
            return result
    if len(z) > 2 * _PROBES:
        probes = torch.linspace(0, len(z) - 1, _PROBES).long().to(z.device)
        candidates = _few_candidates(z[probes], margin[probes], neighbours)
        if int((candidates.radius > 0).sum()) < _PROBES / 2:
            return dense(z, sigma, training_set).with_bounds()
    n_rows = rows_that_fit(
        64 * len(training_set), len(z), what="Finding the candidates of one image"
    )
    groups = []
    for rows in torch.arange(len(z), device=z.device).split(n_rows):
        candidates = _few_candidates(z[rows], margin[rows], neighbours)
        has_few = candidates.radius > 0
        few, many = rows[has_few], rows[~has_few]
        if recall is not None and len(few) == len(z):
            recall.remember(neighbours.coordinates(z), candidates)
        if len(few):
            query = (has_few.cumsum(0) - 1)[candidates.query]
            pairs = _Pairs(z[few], sigma[few], neighbours, query, candidates.ids)
            groups.append((few, pairs.posterior(candidates.radius[has_few])))
        if len(many):
            groups.append((many, dense(z[many], sigma[many], training_set)))
    return PerWindow.gathered(groups, len(z))


def _recalled(z, sigma, neighbours, margin, recall):
    """Compare with the neighbours of the previous step; return None if these are too few."""
    candidates = recall.within(neighbours.coordinates(z))
    if candidates is None or len(candidates.ids) > _RECALLED * len(z):
        return None
    pairs = _Pairs(z, sigma, neighbours, candidates.query, candidates.ids)
    nearest = -segment_max(-pairs.squares, candidates.query, len(z))
    if not (candidates.radius > _radius(nearest, margin, z.dtype)).all():
        return None
    return pairs.posterior(candidates.radius)


def _few_candidates(z, margin, neighbours):
    """Return the training images that a tolerance needs as a `Within`; radius 0 marks too many."""
    training_set, flat = neighbours.training_set, z.flatten(1)

    def radius_of(rows, ids):
        query = torch.arange(len(z), device=z.device)[rows].repeat_interleave(ids.shape[1])
        # a graph may return fewer ids, filled by -1; any image serves in their place
        squares = pair_squares(flat, training_set, query, ids.flatten().clamp_min(0))
        return _radius(squares.view(ids.shape).amin(1), margin[rows], z.dtype)

    return neighbours.within(z, radius_of, int(len(training_set) * _LARGEST_FRACTION))


def _radius(nearest, margin, dtype):
    """Return the distance beyond which weights are negligible, from the nearest square (n,)."""
    return (nearest + _rounding(nearest, dtype) + margin).sqrt()


def _rounding(squares, dtype):
    """Return the largest rounding error of squared distances that are computed in ``dtype``."""
    return 64 * torch.finfo(dtype).eps * squares


def _nearest(z, sigma, search):
    """Compare with the nearest training images, and with random images for all unused images."""
    neighbours, n_images = search.neighbours, len(search.neighbours.training_set)
    others = None
    if search.n_remainder:
        rng = np.random.default_rng(search.seed)
        drawn = rng.choice(n_images, min(search.n_remainder, n_images), replace=False)
        others = torch.from_numpy(drawn).to(z.device).sort().values
    n_rows = rows_that_fit(64 * n_images, len(z), what="Finding the candidates of one image")
    counts = torch.tensor(search.counts(sigma), device=z.device)
    groups = []
    for k in counts.unique().tolist():
        for rows in (counts == k).nonzero().squeeze(1).split(n_rows):
            pairs, radius = _candidates(z[rows], sigma[rows], neighbours, k)
            groups.append((rows, pairs.posterior(radius, pairs.nearest(k), others)))
    return PerWindow.gathered(groups, len(z))


def _candidates(z, sigma, neighbours, k):
    """Return pairs that contain the k nearest images, and the radius in which pairs are complete.

    If an index without guarantees finds fewer than k images, all pairs of the noisy image are
    returned.
    """
    training_set = neighbours.training_set
    ids = neighbours.search(z, k).ids
    query = torch.arange(len(z), device=z.device).repeat_interleave(ids.shape[1])
    exists = ids.flatten() >= 0
    squares = pair_squares(z.flatten(1), training_set, query[exists], ids.flatten()[exists])
    farthest = segment_max(squares, query[exists], len(z)) * (1 + 1e-5)
    tail = 2 * sigma.square() * math.log(len(training_set) / _TAIL)
    complete = torch.bincount(query[exists], minlength=len(z)) == ids.shape[1]
    radius = (farthest + tail).sqrt().masked_fill(~complete, torch.inf)
    candidates = neighbours.within(z, lambda rows, ids: radius[rows], len(training_set))
    too_few = torch.bincount(candidates.query, minlength=len(z)) < k
    incomplete, kept = too_few.nonzero().squeeze(1), ~too_few[candidates.query]
    all_ids = torch.arange(len(training_set), device=z.device)
    query = torch.cat([candidates.query[kept], incomplete.repeat_interleave(len(all_ids))])
    ids = torch.cat([candidates.ids[kept], all_ids.repeat(len(incomplete))])
    pairs = _Pairs(z, sigma, neighbours, query, ids)
    return pairs, radius.masked_fill(too_few, torch.inf)


class _Pairs:
    """Pairs of a noisy image and one of its candidates among the training images.

    Distances in the dtype of z find the pairs that matter; weights are computed from float64
    distances. If ``neighbours`` is not rigorous, the radius in which pairs are complete is an
    estimate.
    """

    def __init__(self, z, sigma, neighbours, query, ids):
        self.z, self.training_set = z, neighbours.training_set
        self.query, self.ids, self._rigorous = query, ids, neighbours.rigorous
        self.precision = 0.5 / sigma.square()
        self.squares = pair_squares(z.flatten(1), self.training_set, query, ids)
        self._exact_z = z.flatten(1).double()

    def log_prior(self, ids):
        """Return the log prior probability of training images, (m,), or one value, (1,)."""
        weight = self.training_set.log_weight
        if weight is None:
            return torch.full_like(self.squares[:1], -math.log(len(self.training_set)))
        return weight[ids]

    def nearest(self, k):
        """Return a mask (p,) of the pairs with the k nearest training images."""
        n, squares, query = len(self.z), self.squares, self.query
        kth = squares.masked_fill(segment_rank(squares, query, n) >= k, -torch.inf)
        kth = segment_max(kth, query, n)[query]
        slack = _rounding(kth, self.z.dtype)
        near = squares < kth - slack
        n_missing = k - segment_sum(near.long(), query, n)
        ties = ((squares - kth).abs() <= slack).nonzero().squeeze(1)
        rank = segment_rank(self._exact_squares(ties), query[ties], n)
        near[ties] = rank < n_missing[query[ties]]
        return near

    def posterior(self, radius, near=None, others=None):
        """Return the posterior over the pairs as a `PerWindow`.

        Parameters
        ----------
        radius : Tensor of shape (n,)
            Lower bound of the distances of training images without a pair.
        near : Tensor of shape (p,), bool, default None
            Pairs to use; None: all pairs.
        others : Tensor of shape (m,), int64, default None
            Random training images that represent all unused training images.
        """
        near = torch.ones_like(self.query, dtype=torch.bool) if near is None else near
        query, ids, weight, scale = self._weights(near)
        total = segment_sum(weight, query, len(self.z))
        mean = self._mean(query, ids, weight / total[query])
        missed = torch.sigmoid(self._log_left_out(near, radius) - scale - total.log())
        low, high = self.training_set.extremes
        deviation = torch.maximum(high - mean, mean - low).flatten(1).amax(1)
        bound = missed * deviation.clamp_min(0)
        concentration = segment_sum(weight.square(), query, len(self.z))
        error = torch.zeros_like(total)
        if others is not None:
            extra = self._sampled(near, others, scale)
            certain, total = total, total + extra.total
            truncated = mean
            sampled = self._mean(extra.query, extra.ids, extra.weight / total[extra.query])
            mean = mean * (certain / total).to(mean).view(-1, 1, 1, 1) + sampled
            bound = bound + (mean - truncated).abs().flatten(1).amax(1)
            concentration = concentration + extra.concentration
            error = extra.standard_error(mean, total)
        proved = self._complete() | self._rigorous
        return PerWindow(
            mean,
            (scale + total.log())[:, None],
            (total.square() / concentration)[:, None].to(mean),
            bound.to(mean),
            error.to(mean),
            proved,
        )

    def _complete(self):
        """Return a mask (n,) of the noisy images that have a pair with every training image."""
        return torch.bincount(self.query, minlength=len(self.z)) == len(self.training_set)

    def _exact_squares(self, rows):
        """Return squared distances of the pairs ``rows``, computed in float64."""
        return pair_squares(self._exact_z, self.training_set, self.query[rows], self.ids[rows])

    def _weights(self, near):
        """Return query, ids and weights of near pairs that matter, and the logit of weight 1."""
        n = len(self.z)
        logit = -self.precision[self.query] * self.squares + self.log_prior(self.ids)
        logit = logit.masked_fill(~near, -torch.inf)
        least = segment_max(logit, self.query, n)[self.query] - _NEGLIGIBLE
        slack = self.precision[self.query] * _rounding(self.squares, self.z.dtype)
        rows = (logit > least - slack).nonzero().squeeze(1)
        query, ids = self.query[rows], self.ids[rows]
        logit = -self.precision[query] * self._exact_squares(rows)
        nearest = segment_max(logit, query, n)
        # the prior is added last, as large logits would absorb it
        logit = logit - nearest[query] + self.log_prior(ids)
        top = segment_max(logit, query, n)
        return query, ids, (logit - top[query]).exp_(), nearest + top

    def _mean(self, query, ids, weight):
        """Return the sums of weighted training images, (n, C, H, W)."""
        out = torch.zeros_like(self.z).flatten(1)
        for start in range(0, len(ids), _BLOCK):
            block = slice(start, start + _BLOCK)
            x = self.training_set.take(ids[block], self.z.dtype).flatten(1)
            out.index_add_(0, query[block], x * weight[block, None].to(x))
        return out.view(self.z.shape)

    def _log_left_out(self, near, radius):
        """Return the log of the largest possible mass of all unused training images, (n,)."""
        n, query = len(self.z), self.query
        least = self.squares - _rounding(self.squares, self.z.dtype)
        logit = -self.precision[query] * least + self.log_prior(self.ids)
        logit = logit.masked_fill(near, -torch.inf)
        paired = segment_logsumexp(logit, query, n)
        prior = self.log_prior(self.ids).exp().expand(len(query))
        unpaired = 1 - segment_sum(prior, query, n)
        unpaired[self._complete()] = 0
        # at sigma = inf weights do not depend on the distance
        away = (self.precision * radius.square()).masked_fill(self.precision == 0, 0)
        unpaired = unpaired.clamp_min(0).log() - away
        return torch.logaddexp(paired, unpaired)

    def _sampled(self, near, others, scale):
        """Return the `_Sampled` pairs, with weights relative to ``exp(scale)``."""
        n, n_images = len(self.z), len(self.training_set)
        query = torch.arange(n, device=self.z.device).repeat_interleave(len(others))
        ids = others.repeat(n)
        used = self.query[near] * n_images + self.ids[near]
        fresh = ~torch.isin(query * n_images + ids, used)
        query, ids = query[fresh], ids[fresh]
        drawn = torch.bincount(query, minlength=n).double()
        left = n_images - segment_sum(near.double(), self.query, n)
        squares = pair_squares(self.z.flatten(1), self.training_set, query, ids)
        logit = -self.precision[query] * squares + self.log_prior(ids) - scale[query]
        weight = logit.exp() * (left / drawn)[query]
        return _Sampled(self.training_set, query, ids, weight, drawn, left)


class _Sampled:
    """Pairs with random training images: ``drawn`` (n,) images represent ``left`` (n,) images."""

    def __init__(self, training_set, query, ids, weight, drawn, left):
        self.training_set, self.query, self.ids = training_set, query, ids
        self.weight, self.drawn, self.left = weight, drawn, left
        n = len(drawn)
        self.total = segment_sum(weight, query, n)
        one = (drawn / left)[query]
        self.concentration = segment_sum(weight.square() * one, query, n)

    def standard_error(self, mean, total):
        """Return the standard error of the mean, as a root mean square over pixels, (n,)."""
        flat = mean.flatten(1)
        squares = pair_squares(flat, self.training_set, self.query, self.ids)
        variance = segment_sum(self.weight.square() * squares, self.query, len(flat))
        finite = (1 - self.drawn / self.left.clamp_min(1)).clamp_min(0)
        return (variance * finite / flat.shape[1]).sqrt() / total
