"""The compiled loops of the box filter posterior; `_box_numba` drives them and tells the method.

Maps are flat, row-major arrays. Offsets into them are unsigned: numba tests a signed index for
Python's negative indexing, and that keeps loops from being vectorised. All slots of a scratch
area live in one array, because handing out views costs more than the sums they hold.

All of it is one file, because numba's cache looks for changes in the file of the function that
is called, and not in those of the functions that it calls.
"""

import numpy as np

from ._jit import jit

CHUNK = 32  # windows that are tested, and skipped, together
LOWEST = np.float32(-1e37)  # finite stand-ins for infinity: their difference is defined
HUGE = np.float32(1e38)

DEEP = np.float32(-512.0)  # below this, rounding of a float32 logit shows in the weights
_ABYSS = -(2.0**22)
_U1 = np.uint64(1)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_LOG2E = np.float32(1.4426950408889634)
_LN2 = np.float32(0.6931471805599453)
_ROUND = np.float32(12582912.0 + 127.0)  # 1.5 * 2^23 rounds to an integer; 127 biases the exponent
_TINY = np.float32(1e-16)  # weights too small for their rounding to show
_MANTISSA = np.int32(23)
_EXP_MIN = np.float32(-43.0)
_E1 = np.float32(0.999999707010714)  # minimax for (exp(f) - 1) / f, |f| <= log(2) / 2
_E2 = np.float32(0.49999149185631947)
_E3 = np.float32(0.1666763658825285)
_E4 = np.float32(0.0418979763169499)
_E5 = np.float32(0.008290306123274329)


@jit
def _exp(v):
    """Return exp of a float32 <= 0, never below exp(-43): its square is then no slow subnormal."""
    v = v if v > _EXP_MIN else _EXP_MIN
    t = np.float32(v * _LOG2E + _ROUND)
    f = v - (t - _ROUND) * _LN2
    p = _E4 + f * _E5
    p = _E3 + f * p
    p = _E2 + f * p
    p = _E1 + f * p
    p = _ONE + f * p
    bits = t.view(np.int32)
    return p * np.int32(bits << _MANTISSA).view(np.float32)


@jit
def _padded(n):
    """Round n up to whole cache lines."""
    return (n + 15) // 16 * 16


@jit
def _load(x, row, mirrored, tile, slot):
    """Put one training image into a slot of the tile."""
    image = x[row].reshape(-1)
    width = np.uint64(x.shape[3] if mirrored else image.size)
    last = width - _U1
    at = np.uint64(slot * image.size)
    for start in range(np.uint64(0), np.uint64(image.size), width):
        if mirrored:
            for j in range(width):
                tile[at + start + j] = image[start + last - j]
        else:
            for j in range(width):
                tile[at + start + j] = image[start + j]


@jit
def _squares(x, xo, z, zo, level, lo, out, count, n, n_channels):
    """out[i] = level[i] - sum_c (z[c, i] - x[c, i])^2 for i < count; n: stride of channels.

    uint8 is converted here: it travels through the caches at a quarter of the size.
    """
    end = np.uint64(count)
    un = np.uint64(n)
    x0 = np.uint64(xo)
    z0 = np.uint64(zo)
    k0 = np.uint64(lo)
    if n_channels >= 3:
        x1 = x0 + un
        x2 = x1 + un
        z1 = z0 + un
        z2 = z1 + un
        for i in range(end):
            d0 = z[z0 + i] - np.float32(x[x0 + i])
            d1 = z[z1 + i] - np.float32(x[x1 + i])
            d2 = z[z2 + i] - np.float32(x[x2 + i])
            out[i] = level[k0 + i] - d0 * d0 - d1 * d1 - d2 * d2
        done = 3
    else:
        for i in range(end):
            d0 = z[z0 + i] - np.float32(x[x0 + i])
            out[i] = level[k0 + i] - d0 * d0
        done = 1
    for c in range(done, n_channels):
        xc = x0 + np.uint64(c) * un
        zc = z0 + np.uint64(c) * un
        for i in range(end):
            d0 = z[zc + i] - np.float32(x[xc + i])
            out[i] -= d0 * d0


@jit
def _stage(work, part, source, out, n, q, k, r):
    """work[out + i] = sum_{j<k} work[part + i + j q] + (work[source + i + k q] if r), i < n.

    So do sums of q become sums of k q + r.
    """
    o = np.uint64(out)
    a = np.uint64(part)
    b = a + np.uint64(q)
    c = b + np.uint64(q)
    d = c + np.uint64(q)
    e = d + np.uint64(q)
    x = np.uint64(source + k * q)
    un = np.uint64(n)
    if k == 2 and r == 0:
        for i in range(un):
            work[o + i] = work[a + i] + work[b + i]
    elif k == 2:
        for i in range(un):
            work[o + i] = (work[a + i] + work[b + i]) + work[x + i]
    elif k == 3 and r == 0:
        for i in range(un):
            work[o + i] = (work[a + i] + work[b + i]) + work[c + i]
    elif k == 3:
        for i in range(un):
            work[o + i] = (work[a + i] + work[b + i]) + (work[c + i] + work[x + i])
    elif k == 4 and r == 0:
        for i in range(un):
            work[o + i] = (work[a + i] + work[b + i]) + (work[c + i] + work[d + i])
    elif k == 4:
        for i in range(un):
            half = work[c + i] + work[d + i]
            work[o + i] = (work[a + i] + work[b + i]) + (half + work[x + i])
    elif r == 0:
        for i in range(un):
            half = work[c + i] + work[d + i]
            work[o + i] = (work[a + i] + work[b + i]) + (half + work[e + i])
    else:
        for i in range(un):
            half = work[c + i] + work[d + i]
            work[o + i] = (work[a + i] + work[b + i]) + (half + (work[e + i] + work[x + i]))


@jit
def _box(work, slot, plans, n_h, n, width):
    """Box sums of the map at work[0:], at its first n positions; where in work they are.

    work: three slots, the map in the first. plans: stages (k, r, rest) of `_stage`, the first
    n_h of them down the columns; rest: how far all later ones along that axis will reach.
    """
    source = 0
    part = 0
    out = slot
    size = 1
    reach = n
    for stage in range(n_h, len(plans)):
        size = size * plans[stage, 0] + plans[stage, 1]
    reach += size - 1
    size = 1
    for stage in range(len(plans)):
        k, r, rest = plans[stage, 0], plans[stage, 1], plans[stage, 2]
        if stage == n_h:  # along the rows, from the sums down the columns
            source = part
            out = slot if source == 0 else 3 * slot - source
            size = 1
        if stage < n_h:
            _stage(work, part, source, out, reach + rest * width, size * width, k, r)
        else:
            _stage(work, part, source, out, n + rest, size, k, r)
        size = size * k + r
        part = out
        out = 3 * slot - source - part
    return part


@jit
def _spread(work, slot, margin, plans, n_h, n_rows, width):
    """At every pixel, the sum over the windows that cover it; where in work these sums are.

    The transpose of `_box`: work has three slots, each with a margin of zeros before it, and in
    the first n_rows rows of windows. Sums look back into the margin. They go along the rows
    first: there are fewer rows of windows than of pixels.
    """
    second = slot + margin
    all_three = 3 * second
    source = margin
    part = margin
    out = second
    size = 1
    n = n_rows * width
    for stage in range(n_h, len(plans)):
        k, r = plans[stage, 0], plans[stage, 1]
        _stage(work, part - (k - 1) * size, source - 2 * k * size, out, n, size, k, r)
        size = size * k + r
        part = out
        out = all_three - source - part
    source = part  # down the columns, from the sums along the rows
    out = second if source == margin else margin
    q = width
    for stage in range(n_h):
        k, r = plans[stage, 0], plans[stage, 1]
        more = (k - 1) * q + r * width
        for i in range(np.uint64(part + n), np.uint64(part + n + more)):
            work[i] = _ZERO  # no window reaches down here yet
        n += more
        _stage(work, part - (k - 1) * q, source - 2 * k * q, out, n, q, k, r)
        q = q * k + r * width
        part = out
        out = all_three - source - part
    return part


@jit
def _refine(tile, xo, z, zo, level, lo, n, shape, box, begin, columns):
    """columns[j] = box sums in float64 at flat positions begin + j, j < CHUNK."""
    n_channels, _, width = shape
    h, w = box
    reach = np.uint64(min(CHUNK + w - 1, n - (h - 1) * width - begin))
    columns[:] = 0.0
    for y in range(h):
        a = np.uint64(lo + begin + y * width)
        for j in range(reach):
            columns[j] += level[a + j]
        for c in range(n_channels):
            a = np.uint64(zo + c * n + begin + y * width)
            b = np.uint64(xo + c * n + begin + y * width)
            for j in range(reach):
                d = np.float64(z[a + j] - np.float32(tile[b + j]))
                columns[j] -= d * d
    for j in range(np.uint64(CHUNK)):
        total = columns[j]
        for i in range(_U1, np.uint64(w)):
            total += columns[j + i]
        columns[j] = total


@jit
def _scan(work, at, scale, log_weight, m, s, q, mo, start, bands, cut):
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
            deep |= np.int32((v + log_weight) - m[o + j] > cut) & np.int32(v < DEEP)
        if deep != 0:
            return mask, k
        if leads == 0:
            for j in range(np.uint64(CHUNK)):
                e = _exp((work[a + j] * scale + log_weight) - m[o + j])
                s[o + j] += e
                q[o + j] += e * e
        else:
            for j in range(np.uint64(CHUNK)):
                v = work[a + j] * scale + log_weight
                v = v if v > LOWEST else LOWEST
                top = v if v > m[o + j] else m[o + j]
                e = _exp(v - top)
                f = _exp(m[o + j] - top)
                m[o + j] = top
                s[o + j] = s[o + j] * f + e
                q[o + j] = q[o + j] * (f * f) + e * e
    return mask, len(bands)


@jit
def _logit(rough, fine, scale, log_weight):
    """Logit from a box sum in float32 and in float64. The rough one alone decides which is used.

    So both passes use the same, and the weights of a window add up to one.
    """
    v = fine * scale + log_weight
    # Further down, float64 would exceed the float32 maximum by more than exp may be given.
    if rough * scale < DEEP and v > _ABYSS:
        return v
    return np.float64(rough * scale + log_weight)


@jit
def _add_refined(work, a, columns, scale, log_weight, m, s, q, o):
    """As in `_scan`, for one chunk of refined logits; m is rounded, the rest goes into s."""
    for j in range(CHUNK):
        v = max(_logit(work[a + j], columns[j], scale, log_weight), np.float64(LOWEST))
        i = o + j
        top = max(m[i], np.float32(v))
        e = _exp(np.float32(v - top))
        f = _exp(m[i] - top)
        m[i] = top
        s[i] = s[i] * f + e
        q[i] = q[i] * (f * f) + e * e


@jit
def first_pass(data, queries, box, plans, n_h, begin, end, bands, cut, m, s, q, hits):
    """Running maximum m, normaliser s, sum of squares q over the sources begin <= i < end.

    m, s, q: (queries, windows). hits[i, b]: the bands of rows of windows that mattered, as bits.
    """
    x, rows, log_weight, n_flips, n_tile = data
    z, level, scales = queries
    shape = x.shape[1:]
    n_channels, height, width = shape
    n = height * width
    depth = n_channels * n
    n_queries, length = m.shape
    slot = _padded(n + length + width)
    work = np.zeros(3 * slot, np.float32)
    columns = np.zeros(CHUNK + box[1], np.float64)
    tile = np.empty(n_tile * depth, x.dtype)
    z, level = z.reshape(-1), level.reshape(-1)
    m, s, q = m.reshape(-1), s.reshape(-1), q.reshape(-1)
    for start in range(begin, end, n_tile):
        count = min(n_tile, end - start)
        for t in range(count):
            i = start + t
            _load(x, rows[i // n_flips], i % n_flips == 1, tile, t)
        for b in range(n_queries):
            scale = scales[b]
            for t in range(count):
                i = start + t
                weight = log_weight[i // n_flips]
                _squares(tile, t * depth, z, b * depth, level, b * n, work, n, n, n_channels)
                at = _box(work, slot, plans, n_h, length, width)
                mask, k = _scan(work, at, scale, weight, m, s, q, b * length, 0, bands, cut)
                while k < len(bands):
                    first = k * CHUNK
                    _refine(
                        tile, t * depth, z, b * depth, level, b * n, n, shape, box, first, columns
                    )
                    _add_refined(
                        work, at + first, columns, scale, weight, m, s, q, b * length + first
                    )
                    more, k = _scan(work, at, scale, weight, m, s, q, b * length, k + 1, bands, cut)
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
        out[o + i] = _exp((work[a + i] * scale + log_weight) - m[b + i]) * r[b + i]


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
def second_pass(data, queries, box, plans, n_h, begin, end, band, deep, m, r, hits, total):
    """Add to total (queries, C, H, W) x_i times the transposed box filter of exp(l - m) * r."""
    x, rows, log_weight, n_flips, n_tile = data
    z, level, scales = queries
    shape = x.shape[1:]
    n_channels, height, width = shape
    n = height * width
    depth = n_channels * n
    n_queries, length = m.shape
    tall = box[0] - 1
    n_rows = height - tall
    slot = _padded(n + length + width)
    work = np.zeros(3 * slot, np.float32)
    margin = _padded(max(tall * width, box[1] - 1))
    share_slot = margin + _padded(n)
    shares = np.zeros(3 * share_slot, np.float32)
    columns = np.zeros(CHUNK + box[1], np.float64)
    tile = np.empty(n_tile * depth, x.dtype)
    z, level, total = z.reshape(-1), level.reshape(-1), total.reshape(-1)
    m, r = m.reshape(-1), r.reshape(-1)
    for start in range(begin, end, n_tile):
        count = min(n_tile, end - start)
        for t in range(count):
            i = start + t
            wanted = False
            for b in range(n_queries):
                wanted = wanted or hits[i, b] != 0
            if wanted:
                _load(x, rows[i // n_flips], i % n_flips == 1, tile, t)
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
                    _squares(tile, xo, z, zo, level, lo, work, full, n, n_channels)
                    at = _box(work, slot, plans, n_h, size, width)
                    _weights(work, at, scale, weight, m, r, mo, shares, margin, size)
                    if deep[b]:
                        _refine_weights(
                            tile, t * depth, z, b * depth, level, b * n, n, shape, box, lead,
                            columns, work, at, scale, weight, m, r, mo, shares, margin, size,
                        )  # fmt: skip
                    at = _spread(shares, share_slot, margin, plans, n_h, bottom - top, width)
                    _accumulate(total, zo, tile, xo, shares, at, full, n, n_channels)


@jit
def _refine_weights(
    tile, xo, z, zo, level, lo, n, shape, box, lead, columns,
    work, at, scale, log_weight, m, r, mo, out, margin, size,
):  # fmt: skip
    """Weights once more, from refined box sums, where rounding would show in them."""
    for begin in range(0, size, CHUNK):
        end = min(begin + CHUNK, size)
        wanted = False
        for j in range(begin, end):
            wanted = wanted or (out[margin + j] > _TINY and work[at + j] * scale < DEEP)
        if wanted:
            _refine(tile, xo, z, zo, level, lo, n, shape, box, lead + begin, columns)
            for j in range(begin, end):
                v = _logit(work[at + j], columns[j - begin], scale, log_weight)
                out[margin + j] = _exp(np.float32(v - m[mo + j])) * r[mo + j]


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
            f = np.float64(_exp(m[b, i] - top[i]))
            s[b, i] *= f
            q[b, i] *= f * f
        for k in range(n_blocks):
            for i in range(length):
                f = np.float64(_exp(blocks_m[k, b, i] - top[i]))
                s[b, i] += blocks_s[k, b, i] * f
                q[b, i] += blocks_q[k, b, i] * (f * f)
        for i in range(length):
            m[b, i] = np.float32(top[i] + np.log(s[b, i]))
            f = np.exp(np.float64(top[i]) - np.float64(m[b, i]))
            s[b, i] *= f
            q[b, i] *= f * f
