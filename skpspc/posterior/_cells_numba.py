"""Visits of query patches to cells of training patches, compiled for the CPU."""

import numpy as np

from ._jit import jit
from ._math_numba import LOWEST, exp_negative

_ZERO = np.float32(0.0)
_BINS = 256  # of log masses, from the largest down to their mean


def fast(function):
    """Compile with sums in any order."""
    return jit(function, fastmath={"nnan", "nsz", "contract", "reassoc", "arcp"})


@fast
def choose(log_mass, sizes, goals, limit, chosen, ends, in_round):
    """Share out the cells of most mass among the rounds in which each query is to visit them.

    Rounds end where their goals are met, but for steps of the log mass: a round may be empty.

    Parameters
    ----------
    log_mass : float32 array (Q, K)
        Estimated log sums of weights.
    sizes : int64 array (K,)
        Patches of each cell.
    goals : int64 array (R,)
        How many patches a query shall have seen after each round, increasing.
    limit : int
        Cells are left out that would take it beyond that.
    chosen : int32 array (n,)
        Result: numbers of cells, query by query and round by round.
    ends : int64 array (Q, R + 1)
        Result: where the rounds of each query begin, and where the last one ends.
    in_round : float64 array (Q, R + 1)
        Result: logs of the estimated mass of all cells of each round, and of those left for none.
    """
    count, n_patches = np.empty(_BINS, np.int64), np.empty(_BINS, np.int64)
    when, at = np.empty(_BINS, np.int64), np.empty(len(goals) + 1, np.int64)
    mass = np.empty(len(goals) + 1)
    n = 0
    for q in range(len(log_mass)):
        line = log_mass[q]
        top, total, n_known = LOWEST, 0.0, 0
        for k in range(len(line)):
            if line[k] > LOWEST:
                top = max(top, line[k])
                total += line[k]
                n_known += 1
        width = np.float32(max(top - total / max(n_known, 1), 1e-6) / _BINS)
        count[:] = 0
        n_patches[:] = 0
        for k in range(len(line)):
            i = np.int64((top - line[k]) / width) if line[k] > top - _BINS * width else _BINS
            if i < _BINS:
                count[i] += 1
                n_patches[i] += sizes[k]
        mass[:] = 0.0
        mass[len(goals)] = (n_known - count.sum()) * np.exp(-np.float64(_BINS * width))
        at[:] = 0
        turn, seen = 0, 0
        for i in range(_BINS):
            seen += n_patches[i]
            if seen > limit:
                turn = len(goals)
            when[i] = turn
            mass[turn] += count[i] * np.exp(-(i + 0.5) * width)
            if turn < len(goals):
                at[turn + 1] += count[i]
            while turn < len(goals) and seen >= goals[turn]:
                turn += 1
        in_round[q] = top + np.log(np.maximum(mass, 1e-300))
        at[0] = n
        for turn in range(len(goals)):
            at[turn + 1] += at[turn]
        ends[q] = at
        n = at[len(goals)]
        for k in range(len(line)):
            i = np.int64((top - line[k]) / width) if line[k] > top - _BINS * width else _BINS
            if i < _BINS and when[i] < len(goals):
                chosen[at[when[i]]] = k
                at[when[i]] += 1


@jit
def by_cell(chosen, begins, ends, first, visitors):
    """Turn cells by query, from ``begins`` to ``ends``, into queries by cell.

    ``first`` (K + 1,) and ``visitors`` are written.
    """
    first[:] = 0
    for q in range(len(ends)):
        for i in range(begins[q], ends[q]):
            first[chosen[i] + 1] += 1
    for k in range(1, len(first)):
        first[k] += first[k - 1]
    at = first.copy()
    for q in range(len(ends)):
        for i in range(begins[q], ends[q]):
            visitors[at[chosen[i]]] = q
            at[chosen[i]] += 1


@fast
def _square(line):
    total = line[0] * line[0]
    for d in range(1, len(line)):
        total += line[d] * line[d]
    return total


@fast
def _load(x, shape, window, grid, centre, ids, raw, tile):
    """Write the patches of some numbers, less the centre, as (m, C h w); x is flat.

    They are copied, and then converted all at once, since their lines are short. Offsets are
    unsigned: numba tests signed ones for Python's negative indexing.
    """
    n_lines, n_columns = grid
    n_channels, height, width = shape
    tall, wide = np.uint64(window[0]), np.uint64(window[1])
    at = np.uint64(0)
    for j in range(len(ids)):
        number = np.int64(ids[j])
        image = number // (n_lines * n_columns)
        top = number // n_columns % n_lines
        left = number % n_columns
        for c in range(n_channels):
            start = np.uint64(((image * n_channels + c) * height + top) * width + left)
            for _ in range(tall):
                for column in range(wide):
                    raw[at + column] = x[start + column]
                at += wide
                start += np.uint64(width)
    flat = tile.reshape(-1)
    for i in range(at):
        flat[i] = raw[i] - centre


@fast
def visit(
    x, window, grid, centre, middle, order, ends, cells, visitors, first, queries, squares, scale,
    prior, cut, state,
):  # fmt: skip
    """Add the patches of some cells to the sums of the queries that visit them.

    Parameters
    ----------
    x : array (N, C, H, W), uint8 or float32
    window, grid : tuple of two int
        Shape of the patches, and how many there are down and across an image.
    centre : float
        What is taken off pixels, and has been taken off the queries.
    middle : int
        Which of the h w pixels of a patch is its value.
    order, ends : arrays (M,) and (K + 1,)
        Numbers of patches, cell by cell.
    cells : tuple of two int
        From which cell to which.
    visitors, first : arrays (p,) and (K + 1,)
        Numbers of queries, cell by cell.
    queries : array (Q, d), in the unit of x
        float32 or float64: what distances are computed in.
    squares : array (Q,) of that dtype
        Their squared norms.
    scale : array (Q,) of that dtype
        1 / (2 sigma^2), in the unit of x.
    prior : array (N,) or of length 0, of that dtype
        Log weights of the images.
    cut : float
        Weights below its exponential, beside the largest, do not count.
    state : float64 array (Q, 3 + C)
        Largest logit, sums of weights and of their squares, and sums of weighted values.
    """
    n_channels = x.shape[1]
    area = window[0] * window[1]
    n_places = grid[0] * grid[1]
    shape, x = x.shape[1:], x.reshape(-1)
    n_values = queries.shape[1]
    for cell in range(cells[0], cells[1]):
        n_queries = first[cell + 1] - first[cell]
        if n_queries == 0:
            continue
        ids = order[ends[cell] : ends[cell + 1]]
        n = len(ids)
        tile = np.empty((n, n_values), queries.dtype)
        _load(x, shape, window, grid, centre, ids, np.empty(n * n_values, x.dtype), tile)
        norm = np.empty(n, queries.dtype)
        for j in range(n):
            norm[j] = _square(tile[j])
        some = np.empty((n_queries, n_values), queries.dtype)
        for i in range(n_queries):
            q = visitors[first[cell] + i]
            for d in range(n_values):
                some[i, d] = queries[q, d]
        product = np.dot(some, tile.T)
        values = np.empty((n_channels, n), np.float32)
        for c in range(n_channels):
            for j in range(n):
                values[c, j] = tile[j, c * area + middle]
        for i in range(n_queries):
            q = visitors[first[cell] + i]
            line = product[i]
            factor = scale[q]
            square = squares[q]
            peak = line[0] * _ZERO + LOWEST  # of the dtype of the line
            for j in range(n):
                v = factor * (line[j] + line[j] - norm[j] - square)
                line[j] = v
                peak = v if v > peak else peak
            if len(prior):
                peak = peak * _ZERO + LOWEST
                for j in range(n):
                    line[j] += prior[ids[j] // n_places]
                    peak = max(peak, line[j])
            top = state[q, 0]
            if peak < top + cut:
                continue
            if peak > top:
                shrink = exp_negative(np.float32(top - peak))
                top = peak
                state[q, 0] = peak
                state[q, 1] *= shrink
                state[q, 2] *= shrink * shrink
                for c in range(n_channels):
                    state[q, 3 + c] *= shrink
            total = _ZERO
            concentration = _ZERO
            for j in range(n):
                weight = exp_negative(np.float32(line[j] - top))
                line[j] = weight
                total += weight
                concentration += weight * weight
            state[q, 1] += total
            state[q, 2] += concentration
            for c in range(n_channels):
                value = _ZERO
                for j in range(n):
                    value += line[j] * values[c, j]
                state[q, 3 + c] += value
