"""Windows of any shape, compiled for the CPU.

The innermost axis of every array holds 32 training images ("lanes"), so that vector additions sum
the pixels of a mask for 32 images at once, whatever the shape of the mask. The masks are rows of a
sparse matrix. The first of two passes updates a maximum and normaliser per window. For each pair of
a noisy and a training image it records the largest excess of a logit over the maximum. The second
pass composes the posterior mean from pairs whose excess is not negligible.

A run of equal precisions, in consecutive pixels, is a sum of few partial sums, over 1, 2, 3, 5 or 8
pixels from any pixel on. Windows share the partial sums, and all are sums of non-negative numbers,
so that nothing cancels.
"""

import sys
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array

from .._threads import ThreadPool
from ..support.training_set import steps_per_unit
from ._masks_kernels import (
    GROUP,
    LANES,
    LENGTHS,
    PADDING,
    Answers,
    Matrix,
    Normalised,
    Plan,
    Queries,
    Running,
    Sources,
    first_pass,
    second_pass,
    single_pass,
)
from ._math_numba import LOWEST

_BLOCK = 32 * LANES  # training images with one common state; independent of the number of threads
_SKIPPED_MASS = 1e-8  # largest fraction of a window's mass that is skipped


def state_bytes(n_images, n_windows, n_values):
    """Return the bytes that the two passes need per noisy image."""
    n_blocks = -(-n_images // _BLOCK)
    return 4 * (4 * n_windows * n_blocks + n_images + n_values * n_blocks)


class Windows(NamedTuple):
    """Windows of any shape, as `compiled_windows` prepares them."""

    query: csr_array  # (K, H W) or (K, C H W) float64, precisions
    share: csr_array | None  # (H W, K) float32, share of each window in each pixel
    precision: Matrix
    response: Matrix | None


class State(NamedTuple):
    """State of a batch of noisy images between the passes over one training set."""

    queries: Queries
    excess: np.ndarray  # (B, M) float32, see `Running`
    nearest: np.ndarray  # (B, K) float64, largest logit in the training set
    total: np.ndarray  # (B, K) float64, sum of exp(logit - nearest)


def compiled_windows(query, response):
    """Return `Windows`.

    Parameters
    ----------
    query : scipy CSR matrix (K, H W), float32
        Precisions of each window; (C H W, C H W) without ``response``.
    response : scipy CSR matrix (H W, K), float32, or None
        Share of each window in each pixel; rows sum to one. None: window k denoises coordinate k
        alone.
    """
    in_pixels = None if response is None else _matrix(response)
    return Windows(query.astype(np.float64), response, _matrix(-query), in_pixels)


def compiled_masked_sums(z, x, windows, sigma, *, moments, n_threads=1, **options):
    """Return the sums of the weights of windows of any shape, and a state.

    Parameters
    ----------
    z : float32 array (B, C, H, W)
        Noisy images.
    x : uint8 or float32 array (N, C, H, W)
        Training images.
    windows : Windows
    sigma : float64 array (B,)
        Noise levels, > 0; inf is allowed.
    moments : tuple
        See `TrainingSet.example_moments`, of the training set of which x is a shard: shards with
        equal moments have comparable sums.
    n_threads : int
        Number of threads; results do not depend on it, to the last bit.
    data_range : tuple of (low, high)
        Values of the uint8 pixels 0 and 255.
    log_weight : array (N,) or None
        Log weights of the training images, finite; (2 N,) with ``flip``.
    flip : bool
        Also use the left-right mirror images of all training images, after the images.

    Returns
    -------
    nearest, top, total, squares : float64 arrays (B, K)
        See `skpspc.posterior.softmax.Softmax`.
    state : State, or float64 array (B, C, H, W)
        Without a response, the means over the training set x alone.
    """
    sources, unit, middle = _sources(x, **options)
    root = np.sqrt(0.5) / np.asarray(sigma, dtype=np.float64)
    queries = _queries((z - middle) * unit, root / unit, sources, windows.query.shape[1], moments)
    with ThreadPool(n_threads) as pool:
        if windows.response is None:
            sums, mean = _coordinates(sources, queries, windows.precision, _cut(sources), pool)
            state = (mean / unit + middle).reshape(z.shape)
        else:
            m, s, q, excess = _running_softmax(sources, queries, _plan(sources, windows), pool)
            sums, _ = _merged(m, s, q)
            state = State(queries, excess, sums[0], sums[1])
    nearest, total, squares = sums
    return nearest, -_left_out(queries, windows), total, squares, state


def compiled_masked_means(z, x, windows, softmax, state, *, n_threads=1, **options):
    """Return the summand of a training set in the composite of all windows with a response.

    Parameters
    ----------
    z, x, windows, n_threads, options : see `compiled_masked_sums`
    softmax : tuple of float64 arrays (B, K)
        ``nearest``, ``top`` and ``total`` over all shards of the training set.
    state : State
        Result of `compiled_masked_sums`.

    Returns
    -------
    float64 array (B, C, H, W)
    """
    sources, unit, middle = _sources(x, **options)
    plan = _plan(sources, windows)
    nearest, top, total = softmax
    total = total * np.exp(top + _left_out(state.queries, windows))
    share = np.exp(state.nearest - nearest) * (state.total / total)
    with np.errstate(divide="ignore"):
        excess = state.excess + np.log(share.max(1, keepdims=True)).astype(np.float32)
    weights = Normalised(nearest.astype(np.float32), (1 / total).astype(np.float32))
    with ThreadPool(n_threads) as pool:
        sums = _composite(sources, state.queries, plan, weights, excess > plan.cut, pool)
    mean = (sums / unit).reshape(z.shape)
    if middle:
        in_pixels = (share @ windows.share.T) / (np.ones_like(share) @ windows.share.T)
        mean += middle * in_pixels.reshape(len(z), 1, *z.shape[2:])
    return mean


def _sources(x, *, data_range, log_weight, flip):
    """Return the `Sources`, the stored steps per unit, and the value of a centred pixel of 0."""
    x = np.asarray(x).view()
    x.flags.writeable = False  # numba compiles for writable and read-only arrays separately
    n_images = len(x) * (2 if flip else 1)
    # Pixels are centred at the middle of their range.
    unit, offset, middle = np.float32(1.0), np.float32(0.0), 0.0
    if x.dtype == np.uint8:
        unit, offset = np.float32(steps_per_unit(data_range)), np.float32(127.5)
        middle = sum(data_range) / 2
    if log_weight is None:
        log_weight = np.zeros(n_images)
    log_weight = log_weight.astype(np.float32)
    return Sources(x, _words(x), np.arange(n_images), log_weight, offset), unit, middle


def _cut(sources):
    """Return the limit below the largest logit at which logits are negligible."""
    return np.float32(np.log(_SKIPPED_MASS / len(sources.rows)))


def _plan(sources, windows):
    return Plan(windows.precision, windows.response, _cut(sources))


def _left_out(queries, windows):
    """Return the term (B, K) that the level of the queries removes from all logits."""
    return queries.level @ windows.query.T


def _queries(z, root, sources, n_compared, moments):
    """Return the `Queries` of images z (B, C, H, W) in the units of the centred pixels.

    The level, a Wiener estimate, removes the term that the noise adds to all squared differences.
    """
    n_values = z[0].size
    centre, spread = moments
    centre = centre.ravel() - sources.offset
    shrink = 1 / (1 + 2 * spread * root**2)
    z = z.reshape(len(z), -1).astype(np.float64) * root[:, None]
    limit = np.sqrt(1e36 / n_values)  # squares stay finite in float32
    z = np.clip(z, -limit, limit)
    estimate = (z - centre * root[:, None]) * shrink[:, None]
    level = np.square(estimate).reshape(len(z), -1, n_compared).sum(1)
    return Queries(*(array.astype(np.float32) for array in (z, level, root)))


def _coordinates(sources, queries, precision, cut, pool):
    """Return sums, see `_merged`, and means (B, C H W) of windows of coordinates."""
    n_queries, n_values = queries.z.shape
    z, level = (np.pad(array, ((0, 0), (0, -n_values % 4))) for array in (queries.z, queries.level))
    queries = queries._replace(z=z, level=level)
    blocks = _blocks(sources)
    m = np.full((len(blocks), n_queries, n_values), LOWEST)
    s, q, values = (np.zeros_like(m) for _ in range(3))

    def add(k):
        answers = Answers(m[k], s[k], q[k], values[k])
        single_pass(sources, queries, precision, cut, blocks[k], answers)

    list(pool.map(add, range(len(blocks))))
    sums, shrink = _merged(m, s, q)
    return sums, (values * shrink).sum(axis=0) / sums[1]


def _merged(m, s, q):
    """Return (m, s, q) over all blocks, float64, and the factors of the blocks."""
    top = m.max(axis=0).astype(np.float64)
    shrink = np.exp(m - top)
    return (top, (s * shrink).sum(axis=0), (q * shrink**2).sum(axis=0)), shrink


def _blocks(sources):
    """Return the blocks [begin, end) of sources."""
    n = len(sources.rows)
    return [(i, min(i + _BLOCK, n)) for i in range(0, n, _BLOCK)]


def _running_softmax(sources, queries, plan, pool):
    """Return the `Running` softmax of every block, with stacked m, s and q, (blocks, B, K)."""
    n_queries, n_images = len(queries.z), len(sources.rows)
    blocks = _blocks(sources)
    m = np.full((len(blocks), n_queries, len(plan.precision.indptr) - 1), LOWEST)
    s, q = np.zeros_like(m), np.zeros_like(m)
    excess = np.empty((n_queries, n_images), np.float32)

    def first(k):
        running = Running(m[k], s[k], q[k], excess)
        first_pass(sources, queries, plan, blocks[k], running)

    list(pool.map(first, range(len(blocks))))
    return Running(m, s, q, excess)


def _composite(sources, queries, plan, softmax, matters, pool):
    """Return the weighted sum of the sources that matter (B, M), as (B, C H W) float64."""
    tasks = []
    for b, row in enumerate(matters):
        images = np.flatnonzero(row)
        tasks += [(b, images[i : i + _BLOCK]) for i in range(0, len(images), _BLOCK)]
    composites = np.zeros((len(tasks), queries.z.shape[1]), np.float32)

    def second(k):
        b, rows = tasks[k]
        block = sources._replace(rows=rows, log_weight=sources.log_weight[rows])
        second_pass(block, queries, b, plan, softmax, composites[k])

    list(pool.map(second, range(len(tasks))))
    total = np.zeros(queries.z.shape)
    for (b, _), composite in zip(tasks, composites, strict=True):
        total[b] += composite
    return total


def _words(x):
    """Return uint8 images as uint32, (N, C H W / 4); an empty array if that is impossible."""
    flat = x.reshape(len(x), -1)
    is_whole = x.dtype == np.uint8 and flat.shape[1] % 4 == 0 and sys.byteorder == "little"
    words = flat.view(np.uint32) if is_whole else np.empty((0, 1), np.uint32)
    words.flags.writeable = False
    return words


def _matrix(matrix):
    """Return a scipy CSR matrix as `Matrix`, with partial sums if these have fewer entries."""
    partial_sums = _with_tables(matrix)
    matrix = partial_sums if 4 * partial_sums.nnz < 3 * matrix.nnz else matrix
    length = np.diff(matrix.indptr)
    padded = -(-length // GROUP) * GROUP  # entries of value 0 fill the last group
    indptr = np.append(0, np.cumsum(padded))
    at = np.arange(matrix.nnz) + np.repeat(indptr[:-1] - matrix.indptr[:-1], length)
    indices, data = np.zeros(indptr[-1], np.uint64), np.zeros(indptr[-1], np.float32)
    indices[at], data[at] = LANES * matrix.indices.astype(np.int64), matrix.data
    return Matrix(indptr.astype(np.uint64), indices, data, matrix.shape[1])


def _with_tables(matrix):
    """Return a CSR matrix for entries and their partial sums, equal to a matrix of entries alone.

    See `_add_tables` for the columns.
    """
    n_rows, n_columns = matrix.shape
    size = n_columns + PADDING
    row, begin, end, value = _runs(matrix)
    index, columns = [], []
    for table, length in reversed(list(enumerate(LENGTHS))):
        n_sums = (end - begin) // length
        run, number = _ranges(np.zeros_like(n_sums), n_sums)
        index.append(run)
        columns.append(table * size + begin[run] + length * number)
        begin = begin + length * n_sums
    runs = np.concatenate(index)
    entries = value[runs], (row[runs], np.concatenate(columns))
    result = coo_array(entries, shape=(n_rows, len(LENGTHS) * size)).tocsr()
    result.sort_indices()
    return result


def _runs(matrix):
    """Return row, begin, end and value of the runs of equal, consecutive entries."""
    matrix.sort_indices()
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    column, value = matrix.indices.astype(np.int64), matrix.data
    starts = np.ones(len(row), dtype=bool)
    starts[1:] = (np.diff(row) != 0) | (np.diff(column) != 1) | (value[1:] != value[:-1])
    begin = np.flatnonzero(starts)
    length = np.diff(np.append(begin, len(row)))
    return row[begin], column[begin], column[begin] + length, value[begin]


def _ranges(begin, end):
    """Return the numbers of all ranges [begin, end), each after the index of its range."""
    length = np.maximum(end - begin, 0)
    index = np.repeat(np.arange(len(begin)), length)
    offset = np.arange(len(index)) - np.repeat(np.cumsum(length) - length, length)
    return index, begin[index] + offset
