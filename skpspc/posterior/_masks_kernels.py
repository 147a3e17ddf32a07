"""Compiled passes of windows of any shape; `_masks_numba` explains the method and drives them.

Loops over the lanes of short bodies are unrolled and not vectorised. Loop bodies therefore compute
several pixels at once.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from ._jit import jit
from ._math_numba import HUGE, LOWEST, exp_negative

LANES = 32
_STEP = np.uint64(LANES)
RUN = 8  # entries in a block of partial sums, see `_add_tables`
_U1, _U2, _U3 = np.uint64(1), np.uint64(2), np.uint64(3)
GROUP = np.uint64(4)  # entries of a row that are added together
_ZERO = np.float32(0.0)


_reduction = partial(jit, fastmath=True)  # sums over lanes in any order, to vectorise them


class Sources(NamedTuple):
    """Training images, followed by all mirror images."""

    x: np.ndarray  # (N, C, H, W), uint8 or float32
    words: np.ndarray  # (N, C H W / 4) uint32, four pixels of x each; empty if there are none
    rows: np.ndarray  # (M,) int64, indices of the images to use, of mirror images from N on
    log_weight: np.ndarray  # (M,) float32
    offset: np.float32  # subtracted from the pixels of x


class Queries(NamedTuple):
    """Noisy images, multiplied by 1 / (sigma sqrt(2))."""

    z: np.ndarray  # (B, C H W) float32
    level: np.ndarray  # (B, H W) or (B, C H W) float32, subtracted from the squared differences
    scale: np.ndarray  # (B,) float32, factor of the training images


class Matrix(NamedTuple):
    """A sparse matrix, by rows. Its columns are entries, or entries and their partial sums."""

    indptr: np.ndarray  # (rows + 1,) uint64, multiples of GROUP
    indices: np.ndarray  # uint64, columns times lanes
    data: np.ndarray  # float32
    size: int  # number of columns


class Plan(NamedTuple):
    """Windows."""

    precision: Matrix  # (K, H W)
    response: Matrix  # (H W, K)
    cut: np.float32  # logits this far below the maximum are negligible


class Running(NamedTuple):
    """Softmax of every window over the sources added so far."""

    m: np.ndarray  # (B, K) float32, largest logit
    s: np.ndarray  # (B, K) float32, sum of exp(logit - m)
    q: np.ndarray  # (B, K) float32, sum of exp(logit - m)^2
    excess: np.ndarray  # (B, M) float32, largest excess of a source's logit over m at its addition


class Answers(NamedTuple):
    """Softmax of every window over the sources added so far, and its answer at one coordinate."""

    m: np.ndarray  # (B, K) float32, largest logit
    s: np.ndarray  # (B, K) float32, sum of exp(logit - m)
    q: np.ndarray  # (B, K) float32, sum of exp(logit - m)^2
    values: np.ndarray  # (B, K) float32, sum of exp(logit - m) x


class Normalised(NamedTuple):
    """Softmax of every window over all sources."""

    m: np.ndarray  # (B, K) float32, largest logit
    r: np.ndarray  # (B, K) float32, 1 / sum of exp(logit - m)


@jit
def _load(sources, start, count, tile):
    """Write ``count`` sources as (C H W, lanes); unused lanes repeat the last source."""
    x, rows, offset = sources.x, sources.rows, sources.offset
    flat = x.reshape(len(x), -1)
    if sources.words.size > 0 and rows[start : start + count].max() < len(x):
        _load_words(sources, start, count, tile)
        return
    width = x.shape[3]
    for left in range(0, flat.shape[1], width):  # row by row, which stay in the cache
        for j in range(LANES):
            row = rows[start + min(j, count - 1)]
            image = flat[row % len(x)]
            o = np.uint64(left * LANES + j)
            if row < len(x):
                a = np.uint64(left)
                for p in range(np.uint64(width)):
                    tile[o + p * _STEP] = np.float32(image[a + p]) - offset
            else:
                a = np.uint64(left + width - 1)
                for p in range(np.uint64(width)):
                    tile[o + p * _STEP] = np.float32(image[a - p]) - offset


@jit
def _load_words(sources, start, count, tile):
    """Write sources as `_load` does, four pixels of 32 images at a time."""
    words, rows, offset = sources.words.reshape(-1), sources.rows, sources.offset
    n_words = sources.words.shape[1]
    first = np.empty(LANES, np.uint64)
    lane_words = np.empty(LANES, np.uint32)  # loops that also gather are not vectorised
    for j in range(LANES):
        first[j] = np.uint64(rows[start + min(j, count - 1)] * n_words)
    byte = np.uint32(255)
    for i in range(np.uint64(n_words)):
        a = i * np.uint64(4 * LANES)
        b = a + _STEP
        c = b + _STEP
        d = c + _STEP
        for j in range(np.uint64(LANES)):
            lane_words[j] = words[first[j] + i]
        for j in range(np.uint64(LANES)):
            word = lane_words[j]
            tile[a + j] = np.float32(np.int32(word & byte)) - offset
            tile[b + j] = np.float32(np.int32((word >> np.uint32(8)) & byte)) - offset
            tile[c + j] = np.float32(np.int32((word >> np.uint32(16)) & byte)) - offset
            tile[d + j] = np.float32(np.int32(word >> np.uint32(24))) - offset


@jit
def _maps(z, level, scale, tile, maps):
    """Write maps[p, j] = sum_c (z[c, p] - scale * tile[c, p, j])^2 - level[p] for a scaled z."""
    n_pixels = len(level)
    n_channels = len(z) // n_pixels
    step = np.uint64(n_pixels * LANES)
    for p in range(n_pixels):
        o = np.uint64(p * LANES)
        if n_channels >= 3:
            a = z[p]
            b = z[n_pixels + p]
            c = z[2 * n_pixels + p]
            for j in range(np.uint64(LANES)):
                u = a - scale * tile[o + j]
                v = b - scale * tile[o + step + j]
                w = c - scale * tile[o + step + step + j]
                maps[o + j] = (u * u - level[p]) + (v * v + w * w)
        else:
            a = z[p]
            for j in range(np.uint64(LANES)):
                u = a - scale * tile[o + j]
                maps[o + j] = u * u - level[p]
        for channel in range(3 if n_channels >= 3 else 1, n_channels):
            a = z[channel * n_pixels + p]
            i = o + np.uint64(channel) * step
            for j in range(np.uint64(LANES)):
                u = a - scale * tile[i + j]
                maps[o + j] += u * u


@jit
def _squares(z, level, scale, tile, maps):
    """Write maps[p, j] = (z[p] - scale * tile[p, j])^2 - level[p] for a scaled z, in blocks."""
    for p in range(0, len(z), 4):
        t = z[p]
        u = z[p + 1]
        v = z[p + 2]
        w = z[p + 3]
        k = level[p]
        m = level[p + 1]
        n = level[p + 2]
        o = level[p + 3]
        a = np.uint64(p * LANES)
        b = a + _STEP
        c = b + _STEP
        d = c + _STEP
        for j in range(np.uint64(LANES)):
            e = t - scale * tile[a + j]
            f = u - scale * tile[b + j]
            g = v - scale * tile[c + j]
            h = w - scale * tile[d + j]
            maps[a + j] = e * e - k
            maps[b + j] = f * f - m
            maps[c + j] = g * g - n
            maps[d + j] = h * h - o


@jit
def _add_tables(maps):
    """Write partial sums of the first n rows of maps (3 n, lanes), in blocks of eight rows.

    Row n + p is the sum from the start of the block to row p, and row 2 n + p the sum from row p to
    the end of the block.
    """
    size = np.uint64(len(maps) // 3)
    for begin in range(0, len(maps) // 3, RUN * LANES):
        a = np.uint64(begin)
        b = a + _STEP
        c = b + _STEP
        d = c + _STEP
        e = d + _STEP
        f = e + _STEP
        g = f + _STEP
        h = g + _STEP
        for j in range(np.uint64(LANES)):
            t = maps[a + j]
            maps[size + a + j] = t
            t += maps[b + j]
            maps[size + b + j] = t
            t += maps[c + j]
            maps[size + c + j] = t
            t += maps[d + j]
            maps[size + d + j] = t
            t += maps[e + j]
            maps[size + e + j] = t
            t += maps[f + j]
            maps[size + f + j] = t
            t += maps[g + j]
            maps[size + g + j] = t
            maps[size + h + j] = t + maps[h + j]
        o = size + size
        for j in range(np.uint64(LANES)):
            t = maps[h + j]
            maps[o + h + j] = t
            t += maps[g + j]
            maps[o + g + j] = t
            t += maps[f + j]
            maps[o + f + j] = t
            t += maps[e + j]
            maps[o + e + j] = t
            t += maps[d + j]
            maps[o + d + j] = t
            t += maps[c + j]
            maps[o + c + j] = t
            t += maps[b + j]
            maps[o + b + j] = t
            maps[o + a + j] = t + maps[a + j]


@_reduction
def _to_logits(square, lane_weight):
    """Replace squared distances by logits, and return the largest."""
    peak = -HUGE
    for j in range(np.uint64(LANES)):
        v = lane_weight[j] - square[j]
        square[j] = v
        peak = v if v > peak else peak
    return peak


@_reduction
def _dots(tile, at, lane):
    """Return the sums of tile[at + j] * lane[j] for three offsets ``at``."""
    a = np.uint64(at[0])
    b = np.uint64(at[1])
    c = np.uint64(at[2])
    s = _ZERO
    t = _ZERO
    u = _ZERO
    for j in range(np.uint64(LANES)):
        s += tile[a + j] * lane[j]
        t += tile[b + j] * lane[j]
        u += tile[c + j] * lane[j]
    return s, t, u


@_reduction
def _total(logit, top):
    """Return the sums of exp(logit - top) and of its square over the lanes."""
    s = _ZERO
    q = _ZERO
    for j in range(np.uint64(LANES)):
        e = exp_negative(logit[j] - top) if logit[j] > LOWEST else _ZERO
        s += e
        q += e * e
    return s, q


@jit
def _row_sum(matrix, row, maps, out):
    """Write out[j] = sum of data * maps[index + j] over one row of a sparse matrix."""
    indptr, indices, data = matrix.indptr, matrix.indices, matrix.data
    begin = indptr[np.uint64(row)]
    end = indptr[np.uint64(row + 1)]
    at = begin
    while at < end:
        a = indices[at]
        b = indices[at + _U1]
        c = indices[at + _U2]
        d = indices[at + _U3]
        t = data[at]
        u = data[at + _U1]
        v = data[at + _U2]
        w = data[at + _U3]
        if at == begin:
            for j in range(np.uint64(LANES)):
                half = t * maps[a + j] + u * maps[b + j]
                out[j] = half + (v * maps[c + j] + w * maps[d + j])
        else:
            for j in range(np.uint64(LANES)):
                half = t * maps[a + j] + u * maps[b + j]
                out[j] += half + (v * maps[c + j] + w * maps[d + j])
        at += GROUP


@jit
def _lanes(n):
    """Return zeros (n, lanes), flat, aligned to a cache line."""
    room = np.zeros(n * LANES + 16, np.float32)
    start = -(room.ctypes.data // 4) % 16
    return room[start : start + n * LANES]


@jit
def first_pass(sources, queries, plan, block, running):
    """Write the softmax of every window over the sources of one block (begin, end)."""
    begin, end = block
    log_weight, precision, cut = sources.log_weight, plan.precision, plan.cut
    z, level, scale = queries.z, queries.level, queries.scale
    m, s, q, excess = running.m, running.s, running.q, running.excess
    n_queries, n_values = z.shape
    n_windows = m.shape[1]
    n_pixels = sources.x.shape[2] * sources.x.shape[3]
    tile = _lanes(n_values)
    maps = _lanes(precision.size)
    logit = _lanes(1)
    lane_weight = _lanes(1)
    largest = _lanes(1)
    for start in range(begin, end, LANES):
        count = min(LANES, end - start)
        _load(sources, start, count, tile)
        for j in range(LANES):
            lane_weight[j] = log_weight[start + j] if j < count else -HUGE
        for b in range(n_queries):
            _maps(z[b], level[b], scale[b], tile, maps)
            if precision.size > n_pixels:
                _add_tables(maps)
            largest[:] = LOWEST
            for k in range(n_windows):
                _row_sum(precision, k, maps, logit)
                peak = _to_logits(logit, lane_weight)
                top = m[b, k]
                if peak - top <= cut:
                    continue
                for j in range(np.uint64(LANES)):
                    d = logit[j] - top
                    largest[j] = d if d > largest[j] else largest[j]
                if peak > top:
                    top = peak
                    f = exp_negative(m[b, k] - top)
                    m[b, k] = top
                    s[b, k] *= f
                    q[b, k] *= f * f
                total, squares = _total(logit, top)
                s[b, k] += total
                q[b, k] += squares
            excess[b, start : start + count] = largest[:count]


@jit
def second_pass(sources, queries, b, plan, softmax, total):
    """Add the composite of all sources for noisy image b to total (C H W)."""
    log_weight, precision, response = sources.log_weight, plan.precision, plan.response
    z, level, scale = queries.z[b], queries.level[b], queries.scale[b]
    m, r = softmax.m[b], softmax.r[b]
    n_values = len(z)
    n_pixels = sources.x.shape[2] * sources.x.shape[3]
    n_windows = len(m)
    tile = _lanes(n_values)
    maps = _lanes(precision.size)
    weight = _lanes(response.size)
    lane = _lanes(1)
    lane_weight = _lanes(1)
    for start in range(0, len(log_weight), LANES):
        count = min(LANES, len(log_weight) - start)
        _load(sources, start, count, tile)
        for j in range(LANES):
            lane_weight[j] = log_weight[start + j] if j < count else -HUGE
        _maps(z, level, scale, tile, maps)
        if precision.size > n_pixels:
            _add_tables(maps)
        for k in range(n_windows):
            _row_sum(precision, k, maps, lane)
            o = np.uint64(k * LANES)
            for j in range(np.uint64(LANES)):
                v = lane_weight[j] - lane[j]
                weight[o + j] = exp_negative(v - m[k]) * r[k] if v > LOWEST else _ZERO
        if response.size > n_windows:
            _add_tables(weight)
        for p in range(n_pixels):
            _row_sum(response, p, weight, lane)
            for i in range(p, n_values, 3 * n_pixels):  # three channels at a time
                k = min(i + n_pixels, n_values - 1)
                o = min(i + 2 * n_pixels, n_values - 1)
                sums = _dots(tile, (i * LANES, k * LANES, o * LANES), lane)
                total[i] += sums[0]
                if i + n_pixels < n_values:
                    total[k] += sums[1]
                if i + 2 * n_pixels < n_values:
                    total[o] += sums[2]


@_reduction
def _total_and_product(logit, top, tile, at):
    """Return the sums of exp(logit - top), of its square, and of its product with tile[at + j]."""
    s = _ZERO
    q = _ZERO
    v = _ZERO
    for j in range(np.uint64(LANES)):
        e = exp_negative(logit[j] - top) if logit[j] > LOWEST else _ZERO
        s += e
        q += e * e
        v += e * tile[at + j]
    return s, q, v


@jit
def single_pass(sources, queries, precision, cut, block, answers):
    """Write the softmax of every window, and its sum of values, over one block of sources.

    Window k denoises coordinate k alone.
    """
    begin, end = block
    log_weight = sources.log_weight
    z, level, scale = queries.z, queries.level, queries.scale
    m, s, q, values = answers.m, answers.s, answers.q, answers.values
    n_queries, n_windows = m.shape
    n_values = z.shape[1]  # whole blocks
    tile = _lanes(n_values)
    maps = _lanes(max(precision.size, n_values))
    logit = _lanes(1)
    lane_weight = _lanes(1)
    for start in range(begin, end, LANES):
        count = min(LANES, end - start)
        _load(sources, start, count, tile)
        for j in range(LANES):
            lane_weight[j] = log_weight[start + j] if j < count else -HUGE
        for b in range(n_queries):
            _squares(z[b], level[b], scale[b], tile, maps)
            if precision.size > n_windows:
                _add_tables(maps)
            for k in range(n_windows):
                _row_sum(precision, k, maps, logit)
                peak = _to_logits(logit, lane_weight)
                top = m[b, k]
                if peak - top <= cut:
                    continue
                if peak > top:
                    top = peak
                    f = exp_negative(m[b, k] - top)
                    m[b, k] = top
                    s[b, k] *= f
                    q[b, k] *= f * f
                    values[b, k] *= f
                total = _total_and_product(logit, top, tile, np.uint64(k * LANES))
                s[b, k] += total[0]
                q[b, k] += total[1]
                values[b, k] += total[2]
