"""The two compiled passes of the box filter posterior.

`_box_numba` drives them and tells the method; maps and offsets are as in `_box_maps`.
"""

import numpy as np

from ._box_maps import (
    CHUNK,
    load_image,
    padded,
    refine,
    spread_windows,
    squared_map,
    sum_windows,
)
from ._jit import jit
from ._math_numba import LOWEST, exp_negative

_ABYSS = -(2.0**22)
_ZERO = np.float32(0.0)
_TINY = np.float32(1e-16)  # weights too small for their rounding to show


@jit
def _scan(work, at, scale, log_weight, m, s, q, mo, start, bands, cut, deepest):
    """Add one image's logits to the running softmax, from the start-th chunk on.

    Returns the bands of rows that mattered, as bits, and the chunk that wants to be refined
    first, where it stopped (len(bands): none).
    """
    mask = np.uint32(0)
    for k in range(start, len(bands)):
        a = np.uint64(at + k * CHUNK)
        o = np.uint64(mo + k * CHUNK)
        # Flags, not a maximum: a float reduction would not vectorise.
        matters = np.int32(0)
        leads = np.int32(0)
        for j in range(np.uint64(CHUNK)):
            d = (work[a + j] * scale + log_weight) - m[o + j]
            matters |= np.int32(d > cut)
            leads |= np.int32(d > _ZERO)
        if matters == 0:
            continue
        mask |= bands[k]
        deep = np.int32(0)
        for j in range(np.uint64(CHUNK)):
            v = work[a + j] * scale
            deep |= np.int32((v + log_weight) - m[o + j] > cut) & np.int32(v < deepest)
        if deep != 0:
            return mask, k
        if leads == 0:
            for j in range(np.uint64(CHUNK)):
                e = exp_negative((work[a + j] * scale + log_weight) - m[o + j])
                s[o + j] += e
                q[o + j] += e * e
        else:
            for j in range(np.uint64(CHUNK)):
                v = work[a + j] * scale + log_weight
                v = v if v > LOWEST else LOWEST
                top = v if v > m[o + j] else m[o + j]
                e = exp_negative(v - top)
                f = exp_negative(m[o + j] - top)
                m[o + j] = top
                s[o + j] = s[o + j] * f + e
                q[o + j] = q[o + j] * (f * f) + e * e
    return mask, len(bands)


@jit
def _logit(rough, fine, scale, log_weight, deepest):
    """Logit from a box sum in float32 and in float64. The rough one alone decides which is used.

    So both passes use the same, and the weights of a window add up to one.
    """
    v = fine * scale + log_weight
    # Further down, float64 would exceed the float32 maximum by more than exp may be given.
    if rough * scale < deepest and v > _ABYSS:
        return v
    return np.float64(rough * scale + log_weight)


@jit
def _add_refined(work, a, columns, scale, log_weight, m, s, q, o, deepest):
    """As in `_scan`, for one chunk of refined logits; m is rounded, the rest goes into s."""
    for j in range(CHUNK):
        v = _logit(work[a + j], columns[j], scale, log_weight, deepest)
        v = max(v, np.float64(LOWEST))
        i = o + j
        top = max(m[i], np.float32(v))
        e = exp_negative(np.float32(v - top))
        f = exp_negative(m[i] - top)
        m[i] = top
        s[i] = s[i] * f + e
        q[i] = q[i] * (f * f) + e * e


@jit
def first_pass(data, queries, box, plans, n_h, begin, end, bands, cuts, m, s, q, hits):
    """Running maximum m, normaliser s, sum of squares q over the sources begin <= i < end.

    cuts: below the first beside the maximum a logit is hopeless, below the second it is refined.
    m, s, q: (queries, windows). hits[i, b]: the bands of rows of windows that mattered, as bits.
    """
    x, rows, log_weight, n_flips, n_tile = data
    z, low, level, scales = queries
    cut, deepest = cuts
    shape = x.shape[1:]
    n_channels, height, width = shape
    n = height * width
    depth = n_channels * n
    n_queries, length = m.shape
    slot = padded(n + length + width)
    work = np.zeros(3 * slot, np.float32)
    columns = np.zeros(CHUNK + box[1], np.float64)
    tile = np.empty(n_tile * depth, x.dtype)
    z, low, level = z.reshape(-1), low.reshape(-1), level.reshape(-1)
    m, s, q = m.reshape(-1), s.reshape(-1), q.reshape(-1)
    for start in range(begin, end, n_tile):
        count = min(n_tile, end - start)
        for t in range(count):
            i = start + t
            load_image(x, rows[i // n_flips], i % n_flips == 1, tile, t)
        for b in range(n_queries):
            scale = scales[b]
            for t in range(count):
                i = start + t
                weight = log_weight[i // n_flips]
                squared_map(tile, t * depth, z, b * depth, level, b * n, work, n, n, n_channels)
                at = sum_windows(work, slot, plans, n_h, length, width)
                mask, k = _scan(
                    work, at, scale, weight, m, s, q, b * length, 0, bands, cut, deepest
                )
                while k < len(bands):
                    first = k * CHUNK
                    refine(
                        tile, t * depth, z, low, b * depth, level, b * n, n, shape, box, first,
                        columns,
                    )  # fmt: skip
                    _add_refined(
                        work, at + first, columns, scale, weight, m, s, q, b * length + first,
                        deepest,
                    )  # fmt: skip
                    more, k = _scan(
                        work, at, scale, weight, m, s, q, b * length, k + 1, bands, cut, deepest
                    )
                    mask |= more
                hits[i, b] = mask


@jit
def _next_run(mask, start, band, gap, n_rows):
    """[top, bottom): the next rows at or below ``start`` whose band is set, over short gaps."""
    bit = (start + band - 1) // band  # start may be n_rows, inside the last band
    rest = np.int64(mask) >> bit
    if rest == 0:
        return n_rows, n_rows
    while rest & 1 == 0:
        rest >>= 1
        bit += 1
    top = bit * band
    end = bit
    while rest != 0 and (bit - end) * band <= gap:
        if rest & 1:
            end = bit + 1
        rest >>= 1
        bit += 1
    return top, min(end * band, n_rows)


@jit
def _weights(work, at, scale, log_weight, m, r, mo, out, to, n):
    """out[to + i] = exp(logit_i - m_i) * r_i for i < n."""
    a = np.uint64(at)
    b = np.uint64(mo)
    o = np.uint64(to)
    for i in range(np.uint64(n)):
        out[o + i] = exp_negative((work[a + i] * scale + log_weight) - m[b + i]) * r[b + i]


@jit
def _accumulate(total, to, x, xo, share, so, count, n, n_channels):
    """total[c, i] += x[c, i] * share[i] for i < count; n: stride of channels."""
    end = np.uint64(count)
    un = np.uint64(n)
    a0 = np.uint64(to)
    b0 = np.uint64(xo)
    o = np.uint64(so)
    done = 0
    if n_channels >= 3:
        a1 = a0 + un
        a2 = a1 + un
        b1 = b0 + un
        b2 = b1 + un
        for i in range(end):
            w = share[o + i]
            total[a0 + i] += np.float32(x[b0 + i]) * w
            total[a1 + i] += np.float32(x[b1 + i]) * w
            total[a2 + i] += np.float32(x[b2 + i]) * w
        done = 3
    for c in range(done, n_channels):
        ac = a0 + np.uint64(c) * un
        bc = b0 + np.uint64(c) * un
        for i in range(end):
            total[ac + i] += np.float32(x[bc + i]) * share[o + i]


@jit
def second_pass(data, queries, box, plans, n_h, begin, end, band, deep, deepest, m, r, hits, total):
    """Add to total (queries, C, H, W) x_i times the transposed box filter of exp(l - m) * r."""
    x, rows, log_weight, n_flips, n_tile = data
    z, low, level, scales = queries
    shape = x.shape[1:]
    n_channels, height, width = shape
    n = height * width
    depth = n_channels * n
    n_queries, length = m.shape
    tall = box[0] - 1
    n_rows = height - tall
    slot = padded(n + length + width)
    work = np.zeros(3 * slot, np.float32)
    margin = padded(max(tall * width, box[1] - 1))
    share_slot = margin + padded(n)
    shares = np.zeros(3 * share_slot, np.float32)
    columns = np.zeros(CHUNK + box[1], np.float64)
    tile = np.empty(n_tile * depth, x.dtype)
    z, low, level, total = z.reshape(-1), low.reshape(-1), level.reshape(-1), total.reshape(-1)
    m, r = m.reshape(-1), r.reshape(-1)
    for start in range(begin, end, n_tile):
        count = min(n_tile, end - start)
        for t in range(count):
            i = start + t
            wanted = False
            for b in range(n_queries):
                wanted = wanted or hits[i, b] != 0
            if wanted:
                load_image(x, rows[i // n_flips], i % n_flips == 1, tile, t)
        for b in range(n_queries):
            for t in range(count):
                i = start + t
                weight = log_weight[i // n_flips]
                scale = scales[b]
                bottom = 0
                while hits[i, b] != 0:
                    top, bottom = _next_run(hits[i, b], bottom, band, tall, n_rows)
                    if top == bottom:
                        break
                    # from the pixels that these rows of windows cover, to the same pixels
                    lead = top * width
                    size = (bottom - top) * width
                    full = size + tall * width
                    xo = t * depth + lead
                    zo = b * depth + lead
                    lo = b * n + lead
                    mo = b * length + lead
                    squared_map(tile, xo, z, zo, level, lo, work, full, n, n_channels)
                    at = sum_windows(work, slot, plans, n_h, size, width)
                    _weights(work, at, scale, weight, m, r, mo, shares, margin, size)
                    if deep[b]:
                        _refine_weights(
                            tile, t * depth, z, low, b * depth, level, b * n, n, shape, box, lead,
                            columns, work, at, scale, weight, m, r, mo, shares, margin, size,
                            deepest,
                        )  # fmt: skip
                    at = spread_windows(shares, share_slot, margin, plans, n_h, bottom - top, width)
                    _accumulate(total, zo, tile, xo, shares, at, full, n, n_channels)


@jit
def _refine_weights(
    tile, xo, z, low, zo, level, lo, n, shape, box, lead, columns,
    work, at, scale, log_weight, m, r, mo, out, margin, size, deepest,
):  # fmt: skip
    """Weights once more, from refined box sums, where rounding would show in them."""
    for begin in range(0, size, CHUNK):
        end = min(begin + CHUNK, size)
        wanted = False
        for j in range(begin, end):
            wanted = wanted or (out[margin + j] > _TINY and work[at + j] * scale < deepest)
        if wanted:
            refine(tile, xo, z, low, zo, level, lo, n, shape, box, lead + begin, columns)
            for j in range(begin, end):
                v = _logit(work[at + j], columns[j - begin], scale, log_weight, deepest)
                out[margin + j] = exp_negative(np.float32(v - m[mo + j])) * r[mo + j]


@jit
def merge(m, s, q, blocks_m, blocks_s, blocks_q):
    """Merge the states of blocks into the running state, in order; s and q are float64.

    m becomes the log of the mass so far, so that what is hopeless is so against all of it.
    """
    n_blocks, n_queries, length = blocks_m.shape
    top = np.empty(length, np.float32)
    for b in range(n_queries):
        top[:] = m[b]
        for k in range(n_blocks):
            for i in range(length):
                v = blocks_m[k, b, i]
                top[i] = v if v > top[i] else top[i]
        for i in range(length):
            f = np.float64(exp_negative(m[b, i] - top[i]))
            s[b, i] *= f
            q[b, i] *= f * f
        for k in range(n_blocks):
            for i in range(length):
                f = np.float64(exp_negative(blocks_m[k, b, i] - top[i]))
                s[b, i] += blocks_s[k, b, i] * f
                q[b, i] += blocks_q[k, b, i] * (f * f)
        for i in range(length):
            m[b, i] = np.float32(top[i] + np.log(s[b, i]))
            f = np.exp(np.float64(top[i]) - np.float64(m[b, i]))
            s[b, i] *= f
            q[b, i] *= f * f
