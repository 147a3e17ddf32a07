"""Compiled passes of windows of any shape; `_masks_numba` explains the method and drives them.

Loops over the lanes of short bodies are unrolled and not vectorised. Loop bodies therefore compute
several pixels at once.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from .._optional import load
from ._jit import jit
from ._math_numba import HUGE, LOWEST, exp_negative

cgutils, types = load("numba.core.cgutils"), load("numba.core.types")
intrinsic = load("numba.extending").intrinsic
ir = load("llvmlite.ir")

LANES = 32
_STEP = np.uint64(LANES)
# Entries in the sums of each table, see `_add_tables`. A length is the sum of the two before it.
LENGTHS = (1, 2, 3, 5, 8)
PADDING = 16  # unused rows of a table: tables with a distance of 2^n bytes compete for cache lines
GROUP = 2  # entries of a row that are added together
_CHUNK = 32  # rows of a table at a time, which stay in the cache
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

    precision: Matrix  # (K, H W), negative
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
    """Write sums of consecutive rows of maps, whose first table is given.

    Row p of table t is the sum of LENGTHS[t] rows of the first table, from row p on. Rows near the
    end of a table, where a sum is cut off, are arbitrary.
    """
    size = len(maps) // len(LENGTHS)
    for start in range(size - LANES * PADDING, 0, -LANES * _CHUNK):
        begin = max(start - LANES * _CHUNK, 0)
        for t in range(1, len(LENGTHS)):
            out = np.uint64(t * size)
            first = np.uint64((t - 1) * size)
            second = np.uint64(max(t - 2, 0) * size + LENGTHS[t - 1] * LANES)
            for i in range(np.uint64(begin), np.uint64(start)):
                maps[out + i] = maps[first + i] + maps[second + i]


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


@intrinsic
def _add_rows(_, begin, end, indices, data, maps, start, out):
    """Write out[j] = start[j] + sum of data[i] * maps[indices[i] + j] over i in [begin, end).

    Return the largest out[j]. Two sums stay in vector registers, of even and of odd i. A compiled
    loop over lanes would check at every entry that ``out`` and ``maps`` do not overlap, and would
    load and store ``out``.
    """
    lanes = ir.VectorType(ir.FloatType(), LANES)

    def generate(context, builder, signature, arguments):
        arrays = zip(signature.args[2:], arguments[2:], strict=True)
        indices, data, maps, start, out = (
            context.make_array(kind)(context, builder, array).data for kind, array in arrays
        )
        start, out = (builder.bitcast(pointer, lanes.as_pointer()) for pointer in (start, out))
        first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        zeros = ir.Constant(lanes, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(GROUP)]
        begin, end = arguments[:2]
        with cgutils.for_range_slice(builder, begin, end, begin.type(GROUP), begin.type) as (i, _):
            for offset, total in enumerate(sums):
                at = builder.add(i, i.type(offset))
                row = builder.gep(maps, [builder.load(builder.gep(indices, [at]))])
                row = builder.load(builder.bitcast(row, lanes.as_pointer()), align=4)
                factor = builder.load(builder.gep(data, [at]))
                factor = builder.insert_element(zeros, factor, first.type.element(0))
                factor = builder.shuffle_vector(factor, factor, first)
                product = builder.fmul(factor, row, flags=["contract"])
                added = builder.fadd(builder.load(total), product, flags=["contract"])
                builder.store(added, total)
        even, odd = map(builder.load, sums)
        total = builder.fadd(builder.load(start, align=4), builder.fadd(even, odd))
        builder.store(total, out, align=4)
        name = f"llvm.vector.reduce.fmax.v{LANES}f32"
        kind = ir.FunctionType(lanes.element, [lanes])
        largest = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(largest, [total], fastmath=["nnan"])

    return types.float32(begin, end, indices, data, maps, start, out), generate


@jit
def _row_sum(matrix, row, maps, start, out):
    """Write out[j] = start[j] + sum of data * maps[index + j] over one row of a sparse matrix.

    Return the largest out[j].
    """
    begin, end = matrix.indptr[np.uint64(row)], matrix.indptr[np.uint64(row + 1)]
    return _add_rows(begin, end, matrix.indices, matrix.data, maps, start, out)


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
                peak = _row_sum(precision, k, maps, lane_weight, logit)
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
    zeros = _lanes(1)
    for start in range(0, len(log_weight), LANES):
        count = min(LANES, len(log_weight) - start)
        _load(sources, start, count, tile)
        for j in range(LANES):
            lane_weight[j] = log_weight[start + j] if j < count else -HUGE
        _maps(z, level, scale, tile, maps)
        if precision.size > n_pixels:
            _add_tables(maps)
        for k in range(n_windows):
            _row_sum(precision, k, maps, lane_weight, lane)
            o = np.uint64(k * LANES)
            for j in range(np.uint64(LANES)):
                v = lane[j]
                weight[o + j] = exp_negative(v - m[k]) * r[k] if v > LOWEST else _ZERO
        if response.size > n_windows:
            _add_tables(weight)
        for p in range(n_pixels):
            _row_sum(response, p, weight, zeros, lane)
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
    n_values = z.shape[1]
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
                peak = _row_sum(precision, k, maps, lane_weight, logit)
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
