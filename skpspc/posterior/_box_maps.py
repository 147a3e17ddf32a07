"""Compiled sums over windows, and back: what both passes of the box filter posterior do to a map.

Maps are flat, row-major arrays. Offsets into them are unsigned: numba tests a signed index for
Python's negative indexing, and that keeps loops from being vectorised. All slots of a scratch
area live in one array, because handing out views costs more than the sums they hold.
"""

import numpy as np

from ._jit import jit

CHUNK = 32  # windows that are tested, and skipped, together

_U1 = np.uint64(1)
_ZERO = np.float32(0.0)


@jit
def padded(n):
    """Round n up to whole cache lines."""
    return (n + 15) // 16 * 16


@jit
def load_image(x, row, mirrored, tile, slot):
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
def squared_map(x, xo, z, zo, level, lo, out, count, n, n_channels):
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
def sum_windows(work, slot, plans, n_h, n, width):
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
def spread_windows(work, slot, margin, plans, n_h, n_rows, width):
    """At every pixel, the sum over the windows that cover it; where in work these sums are.

    The transpose of `sum_windows`: work has three slots, each with a margin of zeros before it,
    and in the first n_rows rows of windows. Sums look back into the margin. They go along the
    rows first: there are fewer rows of windows than of pixels.
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
def refine(tile, xo, z, low, zo, level, lo, n, shape, box, begin, columns):
    """columns[j] = box sums in float64 at flat positions begin + j, j < CHUNK.

    low: what rounding z to float32 has left over.
    """
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
                d = (np.float64(z[a + j]) - np.float64(tile[b + j])) + np.float64(low[a + j])
                columns[j] -= d * d
    for j in range(np.uint64(CHUNK)):
        total = columns[j]
        for i in range(_U1, np.uint64(w)):
            total += columns[j + i]
        columns[j] = total
