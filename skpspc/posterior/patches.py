r"""Compare query patches with the patches at all positions of the training images.

For a query patch q and a dictionary of patches y_1, ..., y_M with values v_j, their centre pixels
or whole patches,

.. math::

    w_j = \operatorname{softmax}_j\bigl(-\|q - y_j\|^2 / 2 \sigma^2 + \log v_{i(j)}\bigr),
    \qquad
    D(q) = \sum_j w_j v_j

The dictionary is a view of the training images; a few hundred patches are copied at a time. One
pass over the patches updates the softmax of every query: its maximum, normaliser and sums. The
logits of a chunk are one matrix product,

    -a^2 |q - y|^2 = [2 a^2 q, -a^2, 1, -a^2 |q|^2] . [y, |y|^2, log v, 1],    a^2 = 1 / 2 sigma^2

relative to the largest logit so far. The product cancels at small sigma, where it is computed in
float64. If float64 does not suffice, the product only *finds* the decisive patches, whose distances
are computed again by subtraction.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from ..support.memory import rows_that_fit
from .posterior import PerWindow, by_blocks
from .softmax import exact_scale, precision_root

# Number of patches in a chunk, and of queries that share one pass: their logits stay in the cache
# of a CPU, and occupy a GPU.
_CHUNK_ROWS = {"cpu": 1024}
_CHUNK_ROWS_GPU = 8192
_QUERY_ROWS = 2048
# Admissible rounding errors of logits, bounded for the largest possible patch. The measured error
# of posterior means of photographs is at most a tenth of the bound.
_TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-12}
# The reference ``top`` moves once the log of the largest weight exceeds this value.
_SLACK = 20.0
# A matrix product with few columns is slower than with a full register of columns.
_COLUMNS = 16


class PatchChunk(NamedTuple):
    """A chunk of m patches of a dictionary.

    Attributes
    ----------
    patches : Tensor of shape (m, d)
        In the dtype of the training set.
    values : Tensor of shape (m, a)
        Centre pixels, a = C, or whole patches, a = d, in the dtype of the training set.
    log_weight : Tensor of shape (m,), float64, or None
        Log sample weight of the image of each patch; None: all weights are equal.
    """

    patches: torch.Tensor
    values: torch.Tensor
    log_weight: torch.Tensor | None


def sliding_patches(images, window):
    """Return all h x w patches of images (n, C, H, W), a view (n, H-h+1, W-w+1, C, h, w)."""
    h, w = window
    return images.unfold(2, h, 1).unfold(3, w, 1).permute(0, 2, 3, 1, 4, 5)


class PatchDictionary:
    """All patches of shape ``window`` (h, w) in a training set, read in chunks.

    Patches are numbered by image, then by row and by column of the top left corner. The value of a
    patch is the pixel of the training set's answers at ``centre`` (row, column) of the patch, or
    the whole patch if ``centre`` is None. ``level`` distinguishes dictionaries that share a
    `CellSearch`.
    """

    def __init__(self, training_set, window, centre, level=0):
        self.training_set = training_set
        self.window = window
        self.centre = centre
        self.level = level
        self._view = sliding_patches(training_set.images, window)
        if centre is None:
            return
        rows, columns = (slice(at, at + n) for at, n in zip(centre, self.grid, strict=True))
        self._values = training_set.answers.images[:, :, rows, columns].permute(0, 2, 3, 1)

    def __len__(self):
        return math.prod(self._view.shape[:3])

    def first(self, n):
        """Return the dictionary of the images of the first n patches; None: of all images."""
        if n is None or n >= len(self):
            return self
        images = self.training_set.subset(slice(n // math.prod(self.grid)))
        return PatchDictionary(images, self.window, self.centre, self.level)

    @property
    def grid(self):
        """Number of patches in an image, as (rows, columns)."""
        return tuple(self._view.shape[1:3])

    @property
    def n_values(self):
        """Number of values in a patch, d = C * h * w."""
        return math.prod(self._view.shape[3:])

    @property
    def n_answers(self):
        """Number of numbers in the value of a patch: C, or d for whole patches."""
        return self.n_values if self.centre is None else self._values.shape[3]

    @property
    def log_uniform(self):
        """Term to add to a log normaliser that is a sum over patches with `log_weight`."""
        return self.training_set.log_uniform - math.log(math.prod(self.grid))

    def chunks(self, n_rows):
        """Yield all patches in order, in `PatchChunk`s of about ``n_rows`` patches.

        A chunk holds complete rows of patches; a row of more than ``n_rows`` patches is one chunk.
        """
        height, width = self.grid
        n_images = max(1, n_rows // (height * width))
        n_parts = math.ceil(height / max(1, n_rows // width))
        length = math.ceil(height / n_parts)
        for images in self.training_set.slices(n_images):
            for row in range(0, height, length):
                chunk = images, slice(row, row + length)
                repeats = math.prod(self._view[chunk].shape[1:3])
                yield self._chunk(chunk, images, repeats)

    def weights(self, index):
        """Return the sample weights (m,), float64, of patches by their numbers (array of int)."""
        weight = self.training_set.log_weight
        if weight is None:
            return np.ones(len(index))
        return weight.exp().cpu().numpy()[index // math.prod(self.grid)]

    def take(self, index):
        """Return patches by their numbers (Tensor of int64), as a `PatchChunk`."""
        height, width = self.grid
        image = index.div(height * width, rounding_mode="floor")
        row = index.div(width, rounding_mode="floor") % height
        return self._chunk((image, row, index % width), image, 1)

    def _chunk(self, at, images, repeats):
        """Return the chunk of the patches ``[at]``, ``repeats`` of each of the images."""
        patches = self._view[at].reshape(-1, self.n_values)
        values = patches
        if self.centre is not None:
            values = self._values[at].reshape(-1, self.n_answers)
        log_weight = self.training_set.log_weight
        if log_weight is not None:
            log_weight = log_weight[images].repeat_interleave(repeats)
        return PatchChunk(patches, values, log_weight)


def patch_posterior(queries, sigma, dictionary, observed=None):
    """Compare noisy patches (Q, d), float32 or float64, with all patches of a dictionary.

    Noise levels (Q,), float64, are positive; inf is allowed. ``observed`` (Q, d), bool, marks the
    coordinates of each noisy patch to compare; None: all. The `PerWindow` has means of the values
    (Q, a), log normalisers and effective sample sizes, in patches, (Q,).
    """
    mean, nearest, top, total, squares = patch_sums(queries, sigma, dictionary, observed)
    log_norm = nearest + (top + total.log()) + dictionary.log_uniform
    return PerWindow(mean, log_norm, (total.square() / squares).to(mean))


def patch_sums(queries, sigma, dictionary, observed=None):
    """Return means (Q, a), and nearest, top, total and squares, (Q,) float64, as of a `Softmax`.

    See `patch_posterior` for the parameters.
    """
    n_columns = dictionary.n_values * (1 if observed is None else 2)
    size = queries.element_size()
    patch_bytes, query_bytes = 3 * size * (n_columns + 3), size * n_columns
    query_bytes += 2 * 8 * dictionary.n_values
    n_rows, block = block_sizes(queries.device, patch_bytes, query_bytes, 2 * size)
    arrays = [queries, precision_root(sigma)]
    if observed is not None:
        arrays.append(observed)

    def kernel(*block):
        return _patch_block(dictionary, n_rows, *block)

    return by_blocks(kernel, block, arrays)


def block_sizes(device, patch_bytes, query_bytes, logit_bytes):
    """Return the numbers of training patches and of queries that are compared at once.

    A query needs ``query_bytes``, and ``logit_bytes`` for every training patch.
    """
    n_rows = _CHUNK_ROWS.get(device.type, _CHUNK_ROWS_GPU)
    n_rows = rows_that_fit(patch_bytes, n_rows, what="A training patch")
    row_bytes = query_bytes + logit_bytes * n_rows
    return n_rows, rows_that_fit(row_bytes, _QUERY_ROWS, what="A query patch")


def _patch_block(dictionary, n_rows, queries, a, observed=None):
    """Return the results of a `PatchStream` over the whole dictionary."""
    stream = PatchStream(queries, a, dictionary, observed)
    for chunk in dictionary.chunks(n_rows):
        stream.update(chunk)
    return stream.result()


class PatchStream:
    """The posterior of query patches over the chunks of a dictionary so far.

    Weights are ``exp(logit - nearest + log v - top)``, where ``nearest`` is the largest exact logit
    so far and ``top`` the excess of the largest exponent. log v is added last, as the large logits
    of a small sigma would absorb it.

    ``a`` (Q,) is ``1 / (sigma sqrt(2))``, float64 and finite. The dictionary is the source of the
    chunks; the constructor reads only its first patch. ``observed`` (Q, d), bool, marks the
    coordinates that count, which adds the squares of all values to the matrix product:

        -a^2 |m (q - y)|^2 = [2 a^2 m q, -a^2 m, 1, -a^2 |m q|^2] . [y, y^2, log v, 1]
    """

    def __init__(self, queries, a, dictionary, observed=None):
        training_set = self._training_set = dictionary.training_set
        self._answers, self._observed = training_set.answers, observed
        self._unit, self._centre = training_set.unit, training_set.centre
        self._dtype = queries.dtype
        self._exact_queries = queries.double()
        self._scale, self._factor = exact_scale(a)
        offset = (self._exact_queries - self._centre) * a[:, None]  # (Q, d)
        if observed is not None:
            offset *= observed
        self._square = offset.square().sum(1)
        root = a / self._unit
        n_queries, n_values = queries.shape
        # rounding errors of a matrix product behave like a random walk: about one unit in the last
        # place of a^2 |q| |y|, not d of them
        reach = a * (training_set.abs_max + abs(self._centre)) * math.sqrt(n_values)
        size = reach * (2 * self._square.sqrt() + reach)
        eps, tolerance = torch.finfo(self._dtype).eps, _TOLERANCE[self._dtype]
        fits = eps * float(size.max()) <= tolerance
        product_dtype = self._dtype if fits else torch.float64
        self._rounding = torch.finfo(product_dtype).eps * size
        self._needs_exact = float(self._rounding.max()) > tolerance
        # all skipped patches together have less weight than rounding errors
        self._negligible = math.log(eps / len(dictionary))
        self._margin = (self._rounding / eps).clamp_(min=1.0).log_()
        precision = -root.square()[:, None]
        if observed is not None:
            precision = precision * observed  # (Q, d)
        n_columns = n_values + precision.shape[1]
        self._left = a.new_ones((n_queries, n_columns + 2), dtype=product_dtype)
        self._left[:, :n_values] = offset.mul_(2 * root[:, None])
        self._left[:, n_values:n_columns] = precision
        # any patch serves as the first reference
        first = dictionary.take(torch.zeros(1, dtype=torch.int64, device=queries.device))
        every = torch.arange(n_queries, device=queries.device)
        self._nearest = self._exact_logits(every, first.patches)
        self._top = torch.zeros_like(a)
        self._total, self._squares = torch.zeros_like(a), torch.zeros_like(a)
        self._values = a.new_zeros(n_queries, dictionary.n_answers)

    def update(self, chunk):
        """Add the patches of a chunk to the posterior."""
        self._left[:, -1] = -(self._square + self._nearest + self._top)
        logit = self._left @ self._right(chunk).T  # (Q, m)
        peak = logit.amax(1)
        move = self._recompute_decisive(logit, peak, chunk)
        rise = self._rise(peak, move)
        self._top += rise
        shrink = (move - rise).exp_()
        self._total *= shrink
        self._squares *= shrink.square()
        self._values *= shrink[:, None]
        if rise.any():
            logit -= rise.to(logit)[:, None]
        least = self._total.log() + self._negligible
        queries = ((peak - rise) > least).nonzero().squeeze(1)
        if 2 * len(queries) < len(logit):
            logit = logit[queries]
        else:
            queries = slice(None)
        self._add(logit.to(self._dtype), chunk.values, queries)

    def result(self):
        """Return mean (Q, a), and nearest, top, total and squares, (Q,) float64."""
        answers = self._answers
        mean = self._values / (answers.unit * self._total[:, None]) + answers.centre
        return mean.to(self._dtype), self._nearest, self._top, self._total, self._squares

    def _right(self, chunk):
        """Return patches, their squared norms or squares, log weights and ones, (m, columns)."""
        n_rows, n_values = chunk.patches.shape
        n_columns = self._left.shape[1]
        right = self._left.new_ones(n_rows, n_columns)
        patches = self._training_set.write_centred(chunk.patches, right[:, :n_values])
        if self._observed is None:
            right[:, n_values] = patches.square().sum(1)
        else:
            torch.square(patches, out=right[:, n_values : 2 * n_values])
        right[:, n_columns - 2] = 0.0 if chunk.log_weight is None else chunk.log_weight
        return right

    def _recompute_decisive(self, logit, peak, chunk):
        """Replace decisive logits by exact ones; return the change of the reference, (Q,).

        The reference ``nearest`` rises to the largest logit, so that the change of all logits
        relative to it is negative or zero.
        """
        move = torch.zeros_like(self._nearest)
        if not self._needs_exact:
            return move
        # a pair is decisive if its weight times the rounding error of its logit is not negligible
        least = torch.maximum(self._total.log(), peak - self._rounding)
        least = (least - 2 * self._rounding - self._margin).to(logit)
        rows = (peak >= least).nonzero().squeeze(1)
        if len(rows) == 0:
            return move
        decisive = logit[rows]
        row, column = (decisive >= least[rows, None]).nonzero().unbind(1)
        query = rows[row]
        exact = self._exact_logits(query, chunk.patches, column)
        nearest = self._nearest.scatter_reduce(0, query, exact, "amax")
        move = self._nearest - nearest
        self._nearest = nearest
        exact -= nearest[query]
        if chunk.log_weight is not None:
            exact += chunk.log_weight[column]
        decisive += move[rows, None].to(decisive)
        decisive[row, column] = (exact - self._top[query]).to(decisive)
        logit[rows] = decisive
        peak[rows] = decisive.amax(1)
        return move

    def _exact_logits(self, query, patches, column=None):
        """Return the logits of pairs by subtraction, without weights, (p,) float64.

        Pair i is query ``query[i]`` and patch ``column[i]``; None: ``patches`` is a single patch.
        """
        n_rows = rows_that_fit(3 * 8 * patches.shape[1], len(query), what="A training patch")
        logits = []
        for start in range(0, len(query), n_rows):
            rows = query[start : start + n_rows]
            raw = patches if column is None else patches[column[start : start + n_rows]]
            difference = self._exact_queries[rows] - self._training_set.to_compute(
                raw, torch.float64
            )
            difference *= self._scale[rows, None]
            if self._observed is not None:
                difference *= self._observed[rows]
            logits.append(difference.square_().sum(1).mul_(-self._factor[rows]))
        return torch.cat(logits)

    def _rise(self, peak, move):
        """Return the rise of ``top``, (Q,), that keeps weights from overflow and underflow."""
        started = self._total > 0
        least = torch.where(started, move, -torch.inf)
        needed = ~started | (move < 0) | (peak > _SLACK)
        return torch.where(needed, torch.maximum(least, peak.double()), 0.0)

    def _add(self, logit, values, rows):
        """Add the weights ``exp(logit)`` of the queries ``rows`` to their sums."""
        n_answers = values.shape[1]
        n_columns = _COLUMNS * math.ceil((n_answers + 1) / _COLUMNS)
        wide = logit.new_zeros(len(values), n_columns)
        self._answers.write_centred(values, wide[:, :n_answers])
        wide[:, n_answers] = 1.0
        # smaller weights are negligible, and subnormal numbers are slow
        lowest = 0.5 * math.log(torch.finfo(logit.dtype).tiny) + 3.0
        weight = logit.clamp_(min=lowest).exp_()
        sums = (weight @ wide).double()
        self._values[rows] += sums[:, :n_answers]
        self._total[rows] += sums[:, n_answers]
        self._squares[rows] += torch.linalg.vector_norm(weight, dim=1).double().square_()
