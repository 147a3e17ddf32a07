r"""Posterior weights of individual training images, for attributions and derivatives.

For a window with flat coordinates P and precisions pi, and training images of sample weights v,

.. math::

    w_i(z) = \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2}
            \sum_{j \in P} \pi_j (z_j - x_{ij})^2 + \log v_i\Bigr)
"""

import math

import torch

from ..support.memory import rows_that_fit
from .softmax import RunningSoftmax, exact_scale, floored_sigma, precision_root

# Training images in a chunk, which stay in the cache.
_CHUNK_ROWS = 512
# Fraction of a window's mass that the second pass may leave out.
_SKIPPED_MASS = {torch.float32: 1e-8, torch.float64: 1e-17}


class Weights:
    """Posterior weights of one noisy image in K windows, in chunks of training images.

    The constructor computes the normalisers in one pass over the training set. `chunks` makes a
    second pass, over images whose weights are not negligible. A subclass defines ``_logits``.

    Parameters
    ----------
    source : TrainingSet
    sums : Tensor of shape (K,)
        Zeros in the dtype of the logits.
    n_rows : int
        Number of images in a chunk.
    rounding : float, default 0.0
        Relative rounding error of the logits. Logits that differ less from the largest count as
        equal to it, so that copies of an image share its weight at any noise level. (The order of
        the additions in a matrix product depends on the position of a row.)
    n_positions : int, default 1
        Number of compared patches of each image.
    without : Tensor of shape (N,), bool, default None
        Training images to leave out.
    state : tuple of (Softmax, Tensor of shape (N,)), default None
        ``sums`` and ``closest`` of an earlier object, in place of the first pass. The sums may be
        of a larger training set, of which the source is a shard.

    Attributes
    ----------
    sums : Softmax
        Of one noisy image.
    closest : Tensor of shape (N,)
        Upper bound of the log weight of each image in any window.
    """

    def __init__(self, source, sums, n_rows, rounding=0.0, n_positions=1, without=None, state=None):
        self.n_images, self.n_windows, self.n_positions = len(source), len(sums), n_positions
        self._source, self._n_rows = source, n_rows
        if without is None:
            self._chunks = list(source.slices(n_rows))
        else:
            self._chunks = _chunks_of(~without, n_rows)
        if state is None:
            self._softmax = RunningSoftmax(sums[None], rounding=rounding)
            self.closest = sums.new_full((len(source),), -torch.inf)
            self._first_pass()
        else:
            whole, self.closest = state
            self._softmax = RunningSoftmax.resumed(whole, sums[None])
        self._least = math.log(_SKIPPED_MASS[sums.dtype] / (len(source) * n_positions))

    def _first_pass(self):
        """Add all images to the softmax."""
        for rows in self._chunks:
            logit, _ = self._logits(rows)
            (relative,), _, _ = self._softmax.add(logit[None], self._prior(rows))
            self.closest[rows] = relative.amax(1).view(-1, self.n_positions).amax(1)

    @property
    def sums(self):
        """Sums of the weights, a `Softmax` of one noisy image."""
        return self._softmax.sums

    def _logits(self, rows):
        """Return logits (m, K) without sample weights, and the values (m, C, ...) to average.

        ``rows``, a slice or a Tensor of int64, are the indices of m / n_positions images.
        """
        raise NotImplementedError

    def zeros(self, *shape):
        """Return zeros in float64, on the device of the weights."""
        return torch.zeros(shape, dtype=torch.float64, device=self.closest.device)

    def chunks(self):
        """Yield numbers (m,), weights (m, K) and values (m, C, ...) of patches that have weight.

        Number j is position ``j % n_positions`` in the image ``j // n_positions``.
        """
        every = torch.arange(self.n_images, device=self.closest.device)
        positions = torch.arange(self.n_positions, device=every.device)
        for rows in self._relevant():
            logit, answers = self._logits(rows)
            (relative,) = self._softmax.relative(logit[None], self._prior(rows))
            weight = relative.exp_().div_(self._softmax.total)
            yield (every[rows][:, None] * self.n_positions + positions).flatten(), weight, answers

    def of_groups(self, groups):
        """Return the weight (G, K) of each group (G, N) of training images in every window."""
        of_groups = self.zeros(len(groups), self.n_windows)
        for numbers, weight, _ in self.chunks():
            of_groups += groups[:, numbers // self.n_positions].double() @ weight.double()
        return of_groups

    def _relevant(self):
        """Return chunks of images that contain all images with a weight that is not negligible."""
        relevant = self.closest > self._least
        if self.closest.dtype == torch.float64:
            return _chunks_of(relevant, self._n_rows)
        # chunks of the first pass, so that float32 products round equally in both passes
        return [rows for rows in self._chunks if relevant[rows].any()]

    def _prior(self, rows):
        """Return the log sample weight of every compared patch of the images ``rows``, or None."""
        prior = self._source.prior(rows)
        return None if prior is None else prior.repeat_interleave(self.n_positions)


def _chunks_of(mask, n_rows):
    """Return a list of chunks of the indices of images that a mask (N,) marks."""
    return [rows for rows in mask.nonzero().squeeze(1).split(n_rows) if len(rows)]


def window_weights(z, sigma, training_set, columns, precision=None):
    """Return the posterior weights of the training images in one window.

    Distances are computed by subtraction, which is exact at small noise levels. A few hundred
    training images are converted at a time, at the coordinates of the window only.

    Parameters
    ----------
    z, sigma, training_set : see `select.compare`
        z may also be flat, (n, D). At sigma = 0 the nearest image has all the weight, and ties
        share it by sample weight. At inf the result is the sample weights.
    columns : Tensor of shape (m,), int64
        Flat indices (c * H + y) * W + x of the compared coordinates.
    precision : Tensor of shape (m,), default None
        Non-negative factor of each squared difference; None: 1.

    Returns
    -------
    Tensor of shape (n, N), float64
        Rows sum to one.
    """
    scale, factor = exact_scale(precision_root(floored_sigma(sigma, z, training_set)))
    scale = scale.to(z.dtype)
    scaled = z.flatten(1)[:, columns] * scale[:, None]  # (n, m)
    precision = None if precision is None else precision.to(z.dtype)
    weight = z.new_empty(len(z), len(training_set), dtype=torch.float64)
    # memory for the compared coordinates of an image and their scaled differences
    row_bytes = training_set.n_values + 3 * z.element_size() * len(columns)
    n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
    for rows in training_set.slices(n_rows):
        x = training_set.to_compute(training_set.stored(rows).flatten(1)[:, columns], z.dtype)
        for i in range(len(z)):
            squared = (scaled[i] - scale[i] * x).square_()
            if precision is not None:
                squared *= precision
            # not a matrix product, which rounds copies of an image differently
            weight[i, rows] = squared.sum(1, dtype=torch.float64)
    weight.mul_(-factor[:, None])
    weight -= weight.amax(1, keepdim=True)
    if training_set.log_weight is not None:
        # added last, as the large logits of a small sigma would absorb it
        weight += training_set.log_weight
        weight -= weight.amax(1, keepdim=True)
    weight.exp_()
    return weight.div_(weight.sum(1, keepdim=True))
