"""Products of the derivative of the posterior of query patches with vectors, see `products`.

The queries are compared with the patches at all positions of the training images, see `patches`.
"""

from itertools import chain
from typing import NamedTuple

import torch

from .._progress import progress
from .direction import Direction, Tilts
from .patches import block_sizes
from .softmax import RunningSoftmax, Softmax, precision_root


def patch_tilts(queries, sigma, dictionaries, direction, observed=None):
    """Return the `Tilts` of query patches (Q, d), with one window each.

    Parameters
    ----------
    queries, sigma, observed : see `patch_posterior`
    dictionaries : list of PatchDictionary
        Dictionaries of equal windows, whose training sets have one dtype and one range. The queries
        are compared with the patches of all of them.
    direction : Direction
        The vector is (Q, a) backward, for the values of patches, and (Q, d) forward; level and
        shift are (Q,).
    """
    comparisons = _in_blocks(queries, sigma, dictionaries, direction, observed)
    results = [_tilts(comparison) for _, comparison in comparisons]
    *sums, mean = (torch.cat(column) for column in zip(*results, strict=True))
    return Tilts(Softmax.of(*sums), mean[:, None])


def patch_values(queries, sigma, dictionaries, direction, observed=None, *, tilts):
    """Return values and levels of the `Product` of query patches (Q, d).

    Parameters
    ----------
    queries, sigma, dictionaries, direction, observed : see `patch_tilts`
    tilts : Tilts
        Of the queries, and the patches of all shards.

    Returns
    -------
    values : Tensor of shape (Q, d) backward and (Q, a) forward, float64
    level : Tensor of shape (Q,), float64
        Everything is computed in float64, and logits by a matrix product, whose rounding shows at
        sigma below 1e-6 of the data.
    """
    comparisons = _in_blocks(queries, sigma, dictionaries, direction, observed)
    results = [_values(comparison, tilts.rows(rows)) for rows, comparison in comparisons]
    return [torch.cat(column) for column in zip(*results, strict=True)]


def _in_blocks(queries, sigma, dictionaries, direction, observed):
    """Return an iterable of the rows of blocks of queries, and their `_Comparison`s."""
    n_values = dictionaries[0].n_values
    patch_bytes, query_bytes = 3 * 8 * (n_values + 3), 8 * 4 * n_values
    n_rows, n_queries = block_sizes(queries.device, patch_bytes, query_bytes, 8 * 5)
    blocks = []
    for start in range(0, len(queries), n_queries):
        rows = slice(start, start + n_queries)
        noisy = queries[rows].double(), precision_root(sigma[rows]), direction.rows(rows)
        seen = torch.ones_like(noisy[0]) if observed is None else observed[rows].double()
        comparison = _Comparison(*noisy, seen, observed is None, dictionaries, n_rows)
        blocks.append((rows, comparison))
    return progress(blocks, "blocks of noisy images")


class _Comparison(NamedTuple):
    """A block of query patches and the dictionaries that they are compared with, in float64.

    ``seen`` (Q, d) is 1 for the coordinates that are compared, and 0 for the others.
    """

    queries: torch.Tensor
    a: torch.Tensor
    direction: Direction
    seen: torch.Tensor
    sees_all: bool
    dictionaries: list
    n_rows: int

    @property
    def centred(self):
        """Compared coordinates of the queries, relative to the centre of the training images."""
        return (self.queries - self.dictionaries[0].training_set.centre) * self.seen

    @property
    def offset(self):
        """Number (Q,) to add to a tilt of `chunks` for the tilt that all shards have in common.

        The centre of the training images may differ between shards.
        """
        if self.direction.backward:
            return self.vector.sum(1) * self.dictionaries[0].training_set.answers.centre
        return -(self.vector * self.centred).sum(1)

    @property
    def vector(self):
        """Factor of the values of patches backward, and of patches forward."""
        vector = self.direction.vector.double()
        return vector if self.direction.backward else vector * self.seen

    def chunks(self):
        """Yield log weights, centred patches and values, logits and tilts."""
        training_set = self.dictionaries[0].training_set
        answers, centred, vector = training_set.answers, self.centred, self.vector
        square = centred.square().sum(1, keepdim=True)
        factor, level = self.a.square()[:, None], self.direction.level[:, None]
        chunks = (dictionary.chunks(self.n_rows) for dictionary in self.dictionaries)
        for chunk in chain.from_iterable(chunks):
            patches = training_set.to_compute(chunk.patches, torch.float64) - training_set.centre
            values = answers.to_compute(chunk.values, torch.float64) - answers.centre
            norms = patches.square()
            norms = norms.sum(1) if self.sees_all else self.seen @ norms.T
            logit = -factor * (square - 2 * centred @ patches.T + norms)
            tilt = vector @ (values if self.direction.backward else patches).T + level * logit
            yield chunk.log_weight, patches, values, logit, tilt


def _tilts(comparison):
    """Return the sums of the weights, and the mean tilts, of a block of queries."""
    mean = torch.zeros_like(comparison.a)
    softmax = RunningSoftmax(mean)
    for prior, _, _, logit, tilt in comparison.chunks():
        _, weight, shrink = softmax.add(logit, prior)
        mean = mean * shrink + (weight * tilt).sum(1)
    mean = mean / softmax.total + comparison.offset
    return softmax.nearest, softmax.top, softmax.total, softmax.squares, mean


def _values(comparison, tilts):
    """Return values and levels of the product for a block of queries."""
    centred, direction = comparison.centred, comparison.direction
    dictionary = comparison.dictionaries[0]
    softmax = RunningSoftmax.resumed(tilts.softmax, comparison.a)
    mean = tilts.mean[:, 0] - direction.shift.double() - comparison.offset
    level = torch.zeros_like(comparison.a)
    n_sums = dictionary.n_values if direction.backward else dictionary.n_answers
    sums, total = centred.new_zeros(len(centred), n_sums), torch.zeros_like(level)
    for prior, patches, values, logit, tilt in comparison.chunks():
        weight = softmax.relative(logit.clone(), prior).exp_().div_(softmax.total[:, None])
        weight *= tilt - mean[:, None]
        level += (weight * logit).sum(1)
        total += weight.sum(1)
        sums += weight @ (patches if direction.backward else values)
    if direction.backward:
        sums = sums * comparison.seen - total[:, None] * centred
    else:
        sums += total[:, None] * dictionary.training_set.answers.centre
    return sums, level
