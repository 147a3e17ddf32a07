r"""The posterior from a few training images, and how wrong that can be.

With the training images of a set S of known logits and all others at least a distance
:math:`\rho` away,

.. math::

    \text{missed mass} \; f \le \frac{R}{R + \sum_{i \in S} v_i e^{l_i}}, \qquad
    R = \Bigl(\sum_{i \notin S} v_i\Bigr) e^{-\rho^2 / 2 \sigma^2},

and as the exact mean is ``(1 - f) * approximate + f * (something between the darkest and the
lightest training value)``, pixel by pixel,

.. math::

    |D_p - \hat D_p| \le f \max(\max_i x_{ip} - \hat D_p,\; \hat D_p - \min_i x_{ip}).

The images are found by an index in coordinates that never lengthen a distance (`Coordinates`), so
its floor is a valid :math:`\rho`.
"""

import math

import torch

from ..support.memory import rows_that_fit
from ..support.segments import segment_logsumexp, segment_max, segment_rank, segment_sum
from .dense import dense_posterior
from .pairs import pair_squares
from .posterior import Posterior, floored_sigma, log_gauss_constant

_LARGEST_SHARE = 1 / 2  # of the training set; beyond, the exact kernel is faster
_PROBES = 4  # noisy images that are tried before all of them are
_RECALLED = 64  # pairs a noisy image, on average, up to which those of the last step are tried
_BLOCK = 256  # images that are summed together: they stay in the cache
_NEGLIGIBLE = 40.0  # nats below the largest: lost in the rounding of float64
_TAIL = 1e-3  # share of the missed mass that may be images of unknown distance, roughly


def tolerant_posterior(z, sigma, training_set, neighbours, tol, recall=None):
    """Posterior of whole images from as few training images as a tolerance allows.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
    sigma : Tensor of shape (n,), float64
    training_set : TrainingSet
    neighbours : Neighbours
        Of the same training set.
    tol : float
        Largest admissible error bound, positive. Where it would take many training images, the
        exact kernel takes them all.
    recall : Recall, default None
        Of the step before, if z is that of a sampler: used where it serves, and kept up.

    Returns
    -------
    Posterior
        ``error_bound`` (n,) is that of ``mean``, beyond rounding. Where ``neighbours`` is not
        rigorous and images are left out, it is an estimate, as if the index had missed nothing.
    """
    sigma = floored_sigma(sigma, z, training_set)
    posterior = _from_few(z, sigma, training_set, neighbours, tol, recall)
    # where float32 hardly tells distances apart, a radius may be too small for what it is to bound
    off = (posterior.error_bound > tol).nonzero().squeeze(1)
    if not len(off):
        return posterior
    return posterior.updated(off, dense_posterior(z[off], sigma[off], training_set))


def _from_few(z, sigma, training_set, neighbours, tol, recall):
    """The same where distances are exact."""
    # All others may weigh one together, and the nearest as little as the lightest. Twice as small
    # as needed, for the rounding of logits.
    weight = training_set.log_weight
    lightest = -math.log(len(training_set)) if weight is None else float(weight.min())
    margin = 2 * sigma.square() * (math.log(2 * max(training_set.span / tol, 1)) - lightest)
    if recall is not None:
        posterior = _recalled(z, sigma, training_set, neighbours, margin, recall)
        if posterior is not None:
            return posterior
    few = _few_enough(z, training_set, neighbours, margin)
    if len(z) > 2 * _PROBES:
        probes = torch.linspace(0, len(z) - 1, _PROBES).long().to(z.device)
        if len(few(probes)[1]) < _PROBES / 2:
            return dense_posterior(z, sigma, training_set)
    n_rows = rows_that_fit(
        64 * len(training_set), len(z), what="Finding the candidates of one image"
    )
    parts = []
    for rows in torch.arange(len(z), device=z.device).split(n_rows):
        found, done = few(rows)
        if recall is not None and len(done) == len(z):
            recall.remember(neighbours.coordinates(z), found)
        if len(done):
            parts.append((rows[done], _from_found(z, sigma, neighbours, found, rows, done)))
        left = rows[found.radius == 0]
        if len(left):
            parts.append((left, dense_posterior(z[left], sigma[left], training_set)))
    return Posterior.gathered(parts, len(z))


def _recalled(z, sigma, training_set, neighbours, margin, recall):
    """The posterior from what was found a step ago, or None where that does not reach."""
    found = recall.within(neighbours.coordinates(z))
    if found is None or len(found.ids) > _RECALLED * len(z):
        return None
    pairs = _Pairs(z, sigma, training_set, found.query, found.ids, neighbours.rigorous)
    nearest = -segment_max(-pairs.squares, found.query, len(z))
    if not (found.radius > _radius(nearest, margin, z.dtype)).all():
        return None
    return pairs.posterior(found.radius)


def _few_enough(z, training_set, neighbours, margin):
    """A function of some rows: what is within the radius that they need, and which have few."""
    most = int(len(training_set) * _LARGEST_SHARE)

    def few(rows):
        flat = z[rows].flatten(1)

        def radius_of(part, ids):
            query = torch.arange(len(rows), device=z.device)[part]
            query = query.repeat_interleave(ids.shape[1])
            # any image will do where a graph gives fewer
            squares = pair_squares(flat, training_set, query, ids.flatten().clamp_min(0))
            return _radius(squares.view(ids.shape).amin(1), margin[rows[part]], z.dtype)

        found = neighbours.within(z[rows], radius_of, most)
        return found, (found.radius > 0).nonzero().squeeze(1)

    return few


def _radius(nearest, margin, dtype):
    """Beyond what distance all others weigh too little, from the square of that to the nearest."""
    return (nearest + _rounding(nearest, dtype) + margin).sqrt()


def _rounding(squares, dtype):
    """How far squared distances of that size, computed in ``dtype``, may be off."""
    return 64 * torch.finfo(dtype).eps * squares


def _from_found(z, sigma, neighbours, found, rows, done):
    """Posterior of the rows of z that are done."""
    number = torch.full_like(found.radius, -1, dtype=torch.int64)
    number[done] = torch.arange(len(done), device=z.device)
    rows = rows[done]
    training_set, rigorous = neighbours.training_set, neighbours.rigorous
    pairs = _Pairs(z[rows], sigma[rows], training_set, number[found.query], found.ids, rigorous)
    return pairs.posterior(found.radius[done])


def nearest_posterior(
    z, sigma, training_set, neighbours, n_neighbors, *, n_remainder=0, random_state=None
):
    """Posterior of whole images from exactly the nearest training images, and a few others.

    Parameters
    ----------
    z, sigma, training_set, neighbours
        See `tolerant_posterior`.
    n_neighbors : int
        Between 1 and the number of training images.
    n_remainder : int, default 0
        How many of all other training images stand for them, drawn with equal probability and
        weighted accordingly (self-normalised importance sampling).
    random_state : numpy Generator, default None
        Draws them.

    Returns
    -------
    Posterior
    """
    sigma = floored_sigma(sigma, z, training_set)
    n_images = len(training_set)
    others = None
    if n_remainder:
        drawn = random_state.choice(n_images, min(n_remainder, n_images), replace=False)
        others = torch.from_numpy(drawn).to(z.device).sort().values
    n_rows = rows_that_fit(64 * n_images, len(z), what="Finding the candidates of one image")
    parts = []
    for rows in torch.arange(len(z), device=z.device).split(n_rows):
        pairs, radius = _candidates(z[rows], sigma[rows], training_set, neighbours, n_neighbors)
        near = pairs.nearest(n_neighbors)
        parts.append((rows, pairs.posterior(radius, near, others)))
    return Posterior.gathered(parts, len(z))


def _candidates(z, sigma, training_set, neighbours, k):
    """Pairs among which the k nearest are, and the distance within which they are complete.

    All of them, where an index without guarantees finds fewer than k.
    """
    ids = neighbours.search(z, k).ids
    query = torch.arange(len(z), device=z.device).repeat_interleave(ids.shape[1])
    known = ids.flatten() >= 0
    squares = pair_squares(z.flatten(1), training_set, query[known], ids.flatten()[known])
    farthest = segment_max(squares, query[known], len(z)) * (1 + 1e-5)
    tail = 2 * sigma.square() * math.log(len(training_set) / _TAIL)
    complete = torch.bincount(query[known], minlength=len(z)) == ids.shape[1]
    radius = (farthest + tail).sqrt().masked_fill(~complete, torch.inf)
    found = neighbours.within(z, lambda rows, ids: radius[rows], len(training_set))
    short = torch.bincount(found.query, minlength=len(z)) < k
    lost, kept = short.nonzero().squeeze(1), ~short[found.query]
    everything = torch.arange(len(training_set), device=z.device)
    query = torch.cat([found.query[kept], lost.repeat_interleave(len(everything))])
    ids = torch.cat([found.ids[kept], everything.repeat(len(lost))])
    pairs = _Pairs(z, sigma, training_set, query, ids, neighbours.rigorous)
    return pairs, radius.masked_fill(short, torch.inf)


class _Pairs:
    """Pairs of a noisy image and a training image near it.

    Float32 distances find the pairs that matter, float64 ones decide. Where ``rigorous`` is
    False, the radius within which pairs are complete is an estimate.
    """

    def __init__(self, z, sigma, training_set, query, ids, rigorous):
        self.z, self.training_set = z, training_set
        self.query, self.ids, self._rigorous = query, ids, rigorous
        self.sigma, self.precision = sigma, 0.5 / sigma.square()
        self.squares = pair_squares(z.flatten(1), training_set, query, ids)
        self._exact_z = z.flatten(1).double()

    def log_prior(self, ids):
        """Log of the prior probability of training images, (m,)."""
        weight = self.training_set.log_weight
        if weight is None:
            return torch.full_like(self.squares[:1], -math.log(len(self.training_set)))
        return weight[ids]

    def nearest(self, k):
        """Which pairs are those of the k nearest training images, (p,) bool."""
        n, squares, query = len(self.z), self.squares, self.query
        kth = squares.masked_fill(segment_rank(squares, query, n) >= k, -torch.inf)
        kth = segment_max(kth, query, n)[query]
        slack = _rounding(kth, self.z.dtype)
        near = squares < kth - slack
        open_places = k - segment_sum(near.long(), query, n)
        unsure = ((squares - kth).abs() <= slack).nonzero().squeeze(1)
        rank = segment_rank(self._exact_squares(unsure), query[unsure], n)
        near[unsure] = rank < open_places[query[unsure]]
        return near

    def posterior(self, radius, near=None, others=None):
        """The posterior over them.

        Parameters
        ----------
        radius : Tensor of shape (n,)
            No training image without a pair is nearer.
        near : Tensor of shape (p,), bool, default None
            Which pairs to use; the others are left out knowingly. None: all.
        others : Tensor of shape (m,), int64, default None
            Training images drawn at random, to stand for all that are not used.
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
        log_evidence = scale + total.log() + log_gauss_constant(self._exact_z.shape[1], self.sigma)
        proved = self._complete() | self._rigorous
        return Posterior(
            mean,
            log_evidence[:, None].to(mean),
            (total.square() / concentration)[:, None].to(mean),
            bound.to(mean),
            error.to(mean),
            proved,
        )

    def _complete(self):
        """Which noisy images have a pair with every training image, (n,) bool."""
        return torch.bincount(self.query, minlength=len(self.z)) == len(self.training_set)

    def _exact_squares(self, rows):
        """Squared distances of some pairs, in float64 from the start."""
        return pair_squares(self._exact_z, self.training_set, self.query[rows], self.ids[rows])

    def _weights(self, near):
        """Pairs that matter among the near ones, their weights, and the log of weight one (n,)."""
        n = len(self.z)
        logit = -self.precision[self.query] * self.squares + self.log_prior(self.ids)
        logit = logit.masked_fill(~near, -torch.inf)
        least = segment_max(logit, self.query, n)[self.query] - _NEGLIGIBLE
        slack = self.precision[self.query] * _rounding(self.squares, self.z.dtype)
        rows = (logit > least - slack).nonzero().squeeze(1)
        query, ids = self.query[rows], self.ids[rows]
        logit = -self.precision[query] * self._exact_squares(rows)
        nearest = segment_max(logit, query, n)
        # the prior last: beside large logits it would be lost
        logit = logit - nearest[query] + self.log_prior(ids)
        top = segment_max(logit, query, n)
        return query, ids, (logit - top[query]).exp_(), nearest + top

    def _mean(self, query, ids, weight):
        """Weighted sums of training images, (n, C, H, W)."""
        out = torch.zeros_like(self.z).flatten(1)
        for start in range(0, len(ids), _BLOCK):
            some = slice(start, start + _BLOCK)
            x = self.training_set.take(ids[some], self.z.dtype).flatten(1)
            out.index_add_(0, query[some], x * weight[some, None].to(x))
        return out.view(self.z.shape)

    def _log_left_out(self, near, radius):
        """Log of the largest possible mass of all training images that are not used, (n,)."""
        n, query = len(self.z), self.query
        least = self.squares - _rounding(self.squares, self.z.dtype)
        logit = -self.precision[query] * least + self.log_prior(self.ids)
        logit = logit.masked_fill(near, -torch.inf)
        known = segment_logsumexp(logit, query, n)
        prior = self.log_prior(self.ids).exp().expand(len(query))
        unknown = 1 - segment_sum(prior, query, n)
        unknown[self._complete()] = 0
        # at sigma = inf all count alike, however far
        away = (self.precision * radius.square()).masked_fill(self.precision == 0, 0)
        unknown = unknown.clamp_min(0).log() - away
        return torch.logaddexp(known, unknown)

    def _sampled(self, near, others, scale):
        """Pairs with the others, and their weights beside those of log weight ``scale``."""
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
    """Training images drawn at random, which stand for ``left`` of them each time."""

    def __init__(self, training_set, query, ids, weight, drawn, left):
        self.training_set, self.query, self.ids = training_set, query, ids
        self.weight, self.drawn, self.left = weight, drawn, left
        n = len(drawn)
        self.total = segment_sum(weight, query, n)
        one = (drawn / left)[query]
        self.concentration = segment_sum(weight.square() * one, query, n)

    def standard_error(self, mean, total):
        """Of the self-normalised mean, as a root mean square over its pixels, (n,)."""
        flat = mean.flatten(1)
        squares = pair_squares(flat, self.training_set, self.query, self.ids)
        variance = segment_sum(self.weight.square() * squares, self.query, len(flat))
        finite = (1 - self.drawn / self.left.clamp_min(1)).clamp_min(0)
        return (variance * finite / flat.shape[1]).sqrt() / total
