"""Visits of query patches to cells of training patches, compiled for the CPU."""

from typing import NamedTuple

import numpy as np

from ._jit import fast, jit
from ._math_numba import LOWEST, exp_negative

_ZERO = np.float32(0.0)
_BINS = 256  # bins of log masses, from the largest down to the mean


class Patches(NamedTuple):
    """Patches of the training images, sorted by cell."""

    x: np.ndarray  # (N, C, H, W), uint8 or float32
    window: tuple  # height h and width w of a patch
    grid: tuple  # patches down and across an image
    centre: float  # subtracted from pixels
    middle: int  # index of the pixel, of h w, that is the value of a patch; -1: the whole patch
    order: np.ndarray  # (M,) indices of the patches, cell by cell
    ends: np.ndarray  # (K + 1,) borders of the cells in `order`
    log_weight: np.ndarray  # (N,), or (0,) for equal weights, in the dtype of the queries


class Queries(NamedTuple):
    """Noisy patches in the unit of x, minus the centre; their dtype is that of the distances."""

    patches: np.ndarray  # (Q, C h w) float32 or float64
    squares: np.ndarray  # (Q,) squared norms
    scale: np.ndarray  # (Q,) 1 / (2 sigma^2)


class Visits(NamedTuple):
    """Queries that visit each cell."""

    visitors: np.ndarray  # (p,) indices of queries, cell by cell
    first: np.ndarray  # (K + 1,) borders of the cells in `visitors`


@fast
def choose(log_mass, sizes, goals, limit, chosen, ends, in_round):
    """Assign the cells of largest mass to rounds of visits, for every query.

    A round ends once its goal is met, up to the width of a bin of log masses. It may be empty.

    Parameters
    ----------
    log_mass : float32 array (Q, K)
        Estimated log sums of weights.
    sizes : int64 array (K,)
        Number of patches in each cell.
    goals : int64 array (R,)
        Number of patches that a query has compared after each round, increasing.
    limit : int
        Largest number of patches of a query; cells beyond it are left out.
    chosen : int32 array (n,)
        Output: indices of cells, query by query and round by round.
    ends : int64 array (Q, R + 1)
        Output: borders of the rounds of each query in ``chosen``.
    in_round : float64 array (Q, R + 1)
        Output: log of the estimated mass of each round, and of the cells left out.
    """
    count, n_patches = np.empty(_BINS, np.int64), np.empty(_BINS, np.int64)
    round_of, at = np.empty(_BINS, np.int64), np.empty(len(goals) + 1, np.int64)
    mass = np.empty(len(goals) + 1)
    n = 0
    for q in range(len(log_mass)):
        row = log_mass[q]
        top, total, n_finite = LOWEST, 0.0, 0
        for k in range(len(row)):
            if row[k] > LOWEST:
                top = max(top, row[k])
                total += row[k]
                n_finite += 1
        width = np.float32(max(top - total / max(n_finite, 1), 1e-6) / _BINS)
        count[:] = 0
        n_patches[:] = 0
        for k in range(len(row)):
            i = np.int64((top - row[k]) / width) if row[k] > top - _BINS * width else _BINS
            if i < _BINS:
                count[i] += 1
                n_patches[i] += sizes[k]
        mass[:] = 0.0
        mass[len(goals)] = (n_finite - count.sum()) * np.exp(-np.float64(_BINS * width))
        at[:] = 0
        turn, n_seen = 0, 0
        for i in range(_BINS):
            n_seen += n_patches[i]
            if n_seen > limit:
                turn = len(goals)
            round_of[i] = turn
            mass[turn] += count[i] * np.exp(-(i + 0.5) * width)
            if turn < len(goals):
                at[turn + 1] += count[i]
            while turn < len(goals) and n_seen >= goals[turn]:
                turn += 1
        in_round[q] = top + np.log(np.maximum(mass, 1e-300))
        at[0] = n
        for turn in range(len(goals)):
            at[turn + 1] += at[turn]
        ends[q] = at
        n = at[len(goals)]
        for k in range(len(row)):
            i = np.int64((top - row[k]) / width) if row[k] > top - _BINS * width else _BINS
            if i < _BINS and round_of[i] < len(goals):
                chosen[at[round_of[i]]] = k
                at[round_of[i]] += 1


@jit
def by_cell(chosen, begins, ends, first, visitors):
    """Write the queries that visit each cell to ``visitors``, and borders to ``first`` (K + 1,).

    Query q visits the cells chosen[begins[q] : ends[q]].
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
def _square(row):
    """Return the squared norm of a row."""
    total = row[0] * row[0]
    for d in range(1, len(row)):
        total += row[d] * row[d]
    return total


@fast
def _load(patches, ids, raw, tile):
    """Write the patches with the indices ``ids``, minus the centre, as (m, C h w).

    Pixels are copied first and then converted all at once, as the rows of a patch are short.
    Offsets are unsigned: for signed offsets numba would test for negative indices.
    """
    n_down, n_across = patches.grid
    n_channels, height, width = patches.x.shape[1:]
    x, centre = patches.x.reshape(-1), patches.centre
    tall, wide = np.uint64(patches.window[0]), np.uint64(patches.window[1])
    at = np.uint64(0)
    for j in range(len(ids)):
        index = np.int64(ids[j])
        image = index // (n_down * n_across)
        top = index // n_across % n_down
        left = index % n_across
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
def visit(patches, queries, visits, cells, cut, state):
    """Add the patches of a range of cells to the sums of the queries that visit them.

    Parameters
    ----------
    patches : Patches
    queries : Queries
    visits : Visits
    cells : tuple of two int
        First cell, and the cell after the last.
    cut : float
        Weights below exp(cut) times the largest are skipped.
    state : float64 array (Q, 3 + a)
        Largest logit, sum of weights, sum of squared weights, and weighted sums of values; updated
        in place.
    """
    x, window, grid, middle = patches.x, patches.window, patches.grid, patches.middle
    order, ends, log_weight = patches.order, patches.ends, patches.log_weight
    noisy, squares, scale = queries.patches, queries.squares, queries.scale
    visitors, first = visits.visitors, visits.first
    area = window[0] * window[1]
    whole = middle < 0
    n_values = noisy.shape[1]
    n_channels = 0 if whole else x.shape[1]
    n_answers = n_values if whole else n_channels
    per_image = grid[0] * grid[1]
    dtype = noisy.dtype
    for cell in range(cells[0], cells[1]):
        n_queries = first[cell + 1] - first[cell]
        if n_queries == 0:
            continue
        ids = order[ends[cell] : ends[cell + 1]]
        n = len(ids)
        tile = np.empty((n, n_values), dtype)
        _load(patches, ids, np.empty(n * n_values, x.dtype), tile)
        norm = np.empty(n, dtype)
        for j in range(n):
            norm[j] = _square(tile[j])
        query = np.empty((n_queries, n_values), dtype)
        for i in range(n_queries):
            q = visitors[first[cell] + i]
            for d in range(n_values):
                query[i, d] = noisy[q, d]
        product = np.dot(query, tile.T)
        values = np.empty((n_channels, n), np.float32)
        for c in range(n_channels):
            for j in range(n):
                values[c, j] = tile[j, c * area + middle]
        for i in range(n_queries):
            q = visitors[first[cell] + i]
            logit = product[i]
            factor = scale[q]
            square = squares[q]
            peak = logit[0] * _ZERO + LOWEST  # of the dtype of the logits
            for j in range(n):
                v = factor * (logit[j] + logit[j] - norm[j] - square)
                logit[j] = v
                peak = v if v > peak else peak
            if len(log_weight):
                peak = peak * _ZERO + LOWEST
                for j in range(n):
                    logit[j] += log_weight[ids[j] // per_image]
                    peak = max(peak, logit[j])
            top = state[q, 0]
            if peak < top + cut:
                logit[:] = _ZERO
                continue
            if peak > top:
                shrink = exp_negative(np.float32(top - peak))
                top = peak
                state[q, 0] = peak
                state[q, 1] *= shrink
                state[q, 2] *= shrink * shrink
                for c in range(n_answers):
                    state[q, 3 + c] *= shrink
            total = _ZERO
            concentration = _ZERO
            for j in range(n):
                weight = exp_negative(np.float32(logit[j] - top))
                logit[j] = weight
                total += weight
                concentration += weight * weight
            state[q, 1] += total
            state[q, 2] += concentration
            for c in range(n_channels):
                value = _ZERO
                for j in range(n):
                    value += logit[j] * values[c, j]
                state[q, 3 + c] += value
        if whole:
            sums = np.dot(product, tile)
            for i in range(n_queries):
                q = visitors[first[cell] + i]
                for d in range(n_values):
                    state[q, 3 + d] += sums[i, d]
