"""Compiled passes of the box filter posterior; `_box_numba` explains the method and drives them.

Maps are flat, row-major arrays. Offsets into them are unsigned: numba tests a signed index for
Python's negative indexing, and that keeps loops from being vectorised. All slots of a scratch
area live in one array, because handing out views costs more than the sums they hold. Arrays are
read from records at the head of a function that calls no other, or outside the loop over pairs:
numba counts references to an array that is read before a call, which costs time for every pair.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit
from ._math_numba import LOWEST, exp_negative

CHUNK = 32  # windows that are tested, and skipped, together

# A literal integer is a type of its own: functions that take it would be compiled once more.
_I0, _I1 = np.int64(0), np.int64(1)
_CHUNK = np.uint64(CHUNK)
_U1 = np.uint64(1)
_ONE = np.float32(1.0)
_ABYSS = -(2.0**22)
_ZERO = np.float32(0.0)
_TINY = np.float32(1e-16)  # weights too small for their rounding to show
_HIDDEN = np.float32(-2e37)  # logits of windows that a moved image does not cover, below `LOWEST`


class Sources(NamedTuple):
    """Training images; each may be followed by its mirror image, and all by moved copies of all."""

    x: np.ndarray  # (N, C, H, W), uint8 or float32
    log_weight: np.ndarray  # (N,) float32
    n_flips: int  # 2 with mirror images, else 1
    moves: np.ndarray  # (M, 2) int64, rows and columns by which images are moved, down and right
    n_tile: int  # sources that are converted and compared together
    pad: tuple  # rows of zeros above and below each image, and columns at its sides


class Queries(NamedTuple):
    """Noisy images in the units of the training images."""

    z: np.ndarray  # (B, C, H, W) float32
    low: np.ndarray  # (B, C, H, W) float32, remainder of rounding z to float32
    level: np.ndarray  # (B, H, W) float32, map to add to -|z - x|^2
    scale: np.ndarray  # (B,) float32, 1 / (2 sigma^2)


class Cuts(NamedTuple):
    """Limits of logits for chunks of windows."""

    bands: np.ndarray  # (chunks,) uint32, bits of the bands that each chunk of windows overlaps
    cut: np.float32  # logits this far below the maximum are negligible
    deepest: np.float32  # logits below it are summed again in float64


class Plan(NamedTuple):
    """Windows of one size, and the stages of additions that sum a map over each window."""

    box: tuple  # height and width of a window
    profiles: tuple  # multiples of each row and of each column of a window in its sums, float64
    stages: np.ndarray  # (S, 4) int64: k, r of `_add_stage`, rest, and 1 if the stage begins a box
    n_down: int  # stages down the columns
    tilt: tuple  # stages and n_down of the sums of tilts
    spread: tuple  # stages and n_down of the transposed sums
    band: int  # number of rows of windows per bit of `hits`
    cuts: Cuts


class Running(NamedTuple):
    """Softmax of every window over the sources added so far."""

    m: np.ndarray  # (B, windows) float32, largest logit
    s: np.ndarray  # (B, windows) float32, sum of exp(logit - m)
    q: np.ndarray  # (B, windows) float32, sum of exp(logit - m)^2


class Centres(NamedTuple):
    """The central pixels of all windows, for windows that denoise these pixels alone."""

    values: np.ndarray  # (B * C * windows,) float32, sums of exp(logit - m) times the pixel
    first: int  # position of the centre of the first window in a flat image


class Normalised(NamedTuple):
    """Softmax of every window over all sources."""

    m: np.ndarray  # (B, windows) float32, largest logit
    r: np.ndarray  # (B, windows) float32, 1 / sum of exp(logit - m)


class Hits(NamedTuple):
    """Bands and logits without weight, which the second pass skips."""

    bits: np.ndarray  # (B, sources) uint32, bits of the bands in which a source has weight
    deep: np.ndarray  # (B,) bool, False if no logit of weight needs float64


class Tilting(NamedTuple):
    """Tilts, a linear function of the sources for every window, and sums over the sources."""

    vector: np.ndarray  # (B, C, H, W) float32, factors of the pixels; empty: no tilts
    mean: np.ndarray  # (B, windows) float64, to subtract from the tilts
    mass: np.ndarray  # (B, windows) float64, sums of the weights
    total: np.ndarray  # (B, windows) float64, sums of weighted tilts, or of tilted logits


class Images(NamedTuple):
    """Flat images of one pass."""

    tile: np.ndarray  # training images, in the dtype of x
    z: np.ndarray
    low: np.ndarray
    level: np.ndarray
    shape: tuple  # (C, H, W)


class Scratch(NamedTuple):
    """Memory that one pass overwrites for every pair."""

    work: np.ndarray  # three slots for box sums
    weights: np.ndarray  # three slots, each after a margin of zeros, for transposed box sums;
    # before them, in the first pass, two factors of each window of a chunk
    columns: np.ndarray  # float64 sums of one chunk
    margin: int


class Pair(NamedTuple):
    """A training image in a slot of the tile, and the noisy image to compare it with."""

    slot: int
    query: int
    scale: np.float32
    log_weight: np.float32


@jit
def _padded(n):
    """Round n up to whole cache lines."""
    return (n + 15) // 16 * 16


@jit
def _areas(sources, queries, plan):
    """Return the flat images and the scratch memory of one pass."""
    n_channels = sources.x.shape[1]
    height = sources.x.shape[2] + 2 * sources.pad[0]
    width = sources.x.shape[3] + 2 * sources.pad[1]
    shape = n_channels, height, width
    n = height * width
    slot = _padded(n + len(plan.cuts.bands) * CHUNK + width)
    margin = _padded(max((plan.box[0] - 1) * width, plan.box[1] - 1))
    images = Images(
        np.zeros(sources.n_tile * n_channels * n + CHUNK, sources.x.dtype),
        queries.z.reshape(-1),
        queries.low.reshape(-1),
        queries.level.reshape(-1),
        shape,
    )
    scratch = Scratch(
        np.zeros(3 * slot, np.float32),
        np.zeros(3 * max(margin + _padded(n), CHUNK), np.float32),
        np.zeros(CHUNK + plan.box[1], np.float64),
        margin,
    )
    return images, scratch


@jit
def _image_of(sources, i):
    """Return the number of the image of which the i-th source is a copy."""
    return i % (len(sources.x) * sources.n_flips) // sources.n_flips


@jit
def _move_of(sources, i):
    """Return rows and columns by which the i-th source is moved."""
    k = i // (len(sources.x) * sources.n_flips)
    return sources.moves[k, 0], sources.moves[k, 1]


@jit
def _fill_uncovered(array, at, rows, sides, box, move, value):
    """Overwrite the windows in range(*rows) that a moved image does not cover.

    ``array`` has the first of these rows at position ``at``; ``sides`` are of the image.
    """
    down, right = move
    if down == 0 and right == 0:
        return
    height, width = sides
    top, bottom = rows
    first, last = max(_I0, down), height + min(_I0, down) - box[0]
    left, stop = max(_I0, right), width + min(_I0, right) - box[1] + 1
    for y in range(top, bottom):
        start = at + (y - top) * width
        covered = first <= y <= last and left < stop
        for j in range(start, start + (left if covered else width)):
            array[j] = value
        if covered:
            for j in range(start + stop, start + width):
                array[j] = value


@jit
def _hidden(scale):
    """Return the box sum of windows that a moved image does not cover."""
    return _HIDDEN / max(scale, _ONE)


@jit
def _load_source(sources, i, tile, slot):
    """Copy the i-th source into a slot of the tile, whose padding stays zero.

    Pixels that a moved image lacks keep the values of an earlier source.
    """
    x = sources.x
    n_channels, n_rows, length = x.shape[1:]
    image = x[_image_of(sources, i)].reshape(-1)
    mirrored = i % sources.n_flips == 1
    down, right = _move_of(sources, i)
    above, beside = sources.pad
    if not mirrored and above + beside == 0 and down == 0 and right == 0:  # all at once
        n_channels, n_rows, length = 1, 1, image.size
    width = length + 2 * beside
    height = n_rows + 2 * above
    count = np.uint64(length - abs(right))
    left = max(_I0, right)  # of the moved image; its original begins at left - right
    start = length - 1 - (left - right) if mirrored else left - right
    for c in range(n_channels):
        for y in range(max(_I0, down), n_rows + min(_I0, down)):
            a = np.uint64(((slot * n_channels + c) * height + above + y) * width + beside + left)
            b = np.uint64((c * n_rows + y - down) * length + start)
            if mirrored:
                for j in range(count):
                    tile[a + j] = image[b - j]
            else:
                for j in range(count):
                    tile[a + j] = image[b + j]


@jit
def _squared_map(images, out, pair, lead, count):
    """Write out[i] = level[lead + i] - sum_c (z[c, lead + i] - x[c, lead + i])^2 for i < count.

    uint8 is converted here, so that caches hold a quarter of the bytes.
    """
    x, z, level = images.tile, images.z, images.level
    n_channels, height, width = images.shape
    n = height * width
    end = np.uint64(count)
    un = np.uint64(n)
    x0 = np.uint64(pair.slot * n_channels * n + lead)
    z0 = np.uint64(pair.query * n_channels * n + lead)
    k0 = np.uint64(pair.query * n + lead)
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
def _add_stage(work, offsets, n, step, k, r):
    """Write sums of k q + r values from sums of q values that are a step of q values apart.

    work[out + i] = sum_{j<k} work[sums + i + j step] + (work[source + i + k step] if r), i < n,
    where offsets are (sums, source, out).
    """
    a = np.uint64(offsets[0])
    b = a + np.uint64(step)
    c = b + np.uint64(step)
    d = c + np.uint64(step)
    e = d + np.uint64(step)
    x = np.uint64(offsets[1] + k * step)
    o = np.uint64(offsets[2])
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
def _sum_windows(work, stages, n_down, n, width):
    """Write the box sums of a map at its first n positions; return their offset in work.

    ``work`` has three slots, with the map in the first. ``rest`` of a stage is the number of values
    that later stages along its axis add. Stages sum over one box after the other: boxes down the
    columns, then boxes along the rows.
    """
    slot = len(work) // 3
    source = sums = _I0
    out = slot
    size = _I1
    reach = n
    if n_down < len(stages):
        reach += stages[n_down, 0] + stages[n_down, 1] + stages[n_down, 2] - 1
    for stage in range(len(stages)):
        k, r, rest = stages[stage, 0], stages[stage, 1], stages[stage, 2]
        if stages[stage, 3] == 1:  # a box is summed from the sums of the box before
            source = sums
            out = slot if source == 0 else 3 * slot - source
            size = _I1
        if stage < n_down:
            _add_stage(work, (sums, source, out), reach + rest * width, size * width, k, r)
        else:
            _add_stage(work, (sums, source, out), n + rest, size, k, r)
        size = size * k + r
        sums = out
        out = 3 * slot - source - sums
    return sums


@jit
def _spread_windows(work, stages, n_down, margin, n_rows, width):
    """Write the sum over all windows that cover each pixel; return the offset of the sums in work.

    This is the transpose of `_sum_windows`. ``work`` has three slots, each after a margin of zeros;
    the first holds n_rows rows of windows. Sums read from the margin. Rows are summed before
    columns, as there are fewer rows of windows than of pixels.
    """
    second = len(work) // 3 + margin
    all_three = 3 * second
    source = margin
    sums = margin
    out = second
    size = _I1
    n = n_rows * width
    for stage in range(n_down, len(stages)):
        k, r = stages[stage, 0], stages[stage, 1]
        if stages[stage, 3] == 1:
            source = sums
            out = second if source == margin else margin
            size = _I1
        offsets = sums - (k - 1) * size, source - 2 * k * size, out
        _add_stage(work, offsets, n, size, k, r)
        size = size * k + r
        sums = out
        out = all_three - source - sums
    step = width
    for stage in range(n_down):
        k, r = stages[stage, 0], stages[stage, 1]
        if stages[stage, 3] == 1:
            source = sums
            out = second if source == margin else margin
            step = width
        more = (k - 1) * step + r * width
        for i in range(np.uint64(sums + n), np.uint64(sums + n + more)):
            work[i] = _ZERO  # windows of this stage do not reach these rows
        n += more
        offsets = sums - (k - 1) * step, source - 2 * k * step, out
        _add_stage(work, offsets, n, step, k, r)
        step = step * k + r * width
        sums = out
        out = all_three - source - sums
    return sums


@jit
def _refine(images, columns, pair, plan, begin):
    """Write columns[j] = box sums in float64 at positions begin + j, j < CHUNK."""
    tile, z, low, level = images.tile, images.z, images.low, images.level
    n_channels, height, width = images.shape
    n = height * width
    h, w = plan.box
    down, along = plan.profiles
    reach = np.uint64(min(CHUNK + w - 1, n - (h - 1) * width - begin))
    columns[:] = 0.0
    for y in range(h):
        at = begin + y * width
        a = np.uint64(pair.query * n + at)
        factor = down[y]
        for j in range(reach):
            columns[j] += factor * level[a + j]
        for c in range(n_channels):
            a = np.uint64((pair.query * n_channels + c) * n + at)
            b = np.uint64((pair.slot * n_channels + c) * n + at)
            for j in range(reach):
                d = (np.float64(z[a + j]) - np.float64(tile[b + j])) + np.float64(low[a + j])
                columns[j] -= factor * (d * d)
    for j in range(np.uint64(CHUNK)):
        total = along[0] * columns[j]
        for i in range(_U1, np.uint64(w)):
            total += along[i] * columns[j + i]
        columns[j] = total


@jit
def _scan(scratch, at, pair, cuts, running, start, centres, images):
    """Add the logits of one source to the running softmax, beginning with chunk ``start``.

    With `Centres` (not None), weighted central pixels are added as well. Returns the bits of the
    bands in which the source has weight, and the first chunk whose logits must be refined, at which
    the scan stops (the number of chunks if there is none).
    """
    work, spare = scratch.work, scratch.weights
    m, s, q = running.m, running.s, running.q
    bands, cut, deepest = cuts.bands, cuts.cut, cuts.deepest
    scale, log_weight = pair.scale, pair.log_weight
    if centres is not None:
        x, values, (n_channels, height, width) = images.tile, centres.values, images.shape
        source = pair.slot * n_channels * height * width + centres.first
        query = pair.query * n_channels * len(bands) * CHUNK
    mo = pair.query * len(bands) * CHUNK
    mask = np.uint32(0)
    for k in range(start, len(bands)):
        a = np.uint64(at + k * CHUNK)
        o = np.uint64(mo + k * CHUNK)
        # Flags instead of a maximum, as a float reduction would not vectorise.
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
                if centres is not None:
                    spare[j] = e
                    spare[j + _CHUNK] = _ONE
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
                if centres is not None:
                    spare[j] = e
                    spare[j + _CHUNK] = f
        if centres is not None:
            done = 0
            step = len(bands) * CHUNK
            if n_channels >= 3:  # the loop over one channel would be unrolled and not vectorised
                x0 = np.uint64(source + k * CHUNK)
                x1 = x0 + np.uint64(height * width)
                x2 = x1 + np.uint64(height * width)
                t0 = np.uint64(query + k * CHUNK)
                t1 = t0 + np.uint64(step)
                t2 = t1 + np.uint64(step)
                for j in range(_CHUNK):
                    e, f = spare[j], spare[j + _CHUNK]
                    values[t0 + j] = values[t0 + j] * f + e * np.float32(x[x0 + j])
                    values[t1 + j] = values[t1 + j] * f + e * np.float32(x[x1 + j])
                    values[t2 + j] = values[t2 + j] * f + e * np.float32(x[x2 + j])
                done = 3
            for c in range(done, n_channels):
                xc = np.uint64(source + c * height * width + k * CHUNK)
                tc = np.uint64(query + c * step + k * CHUNK)
                for j in range(_CHUNK):
                    added = spare[j] * np.float32(x[xc + j])
                    values[tc + j] = values[tc + j] * spare[j + _CHUNK] + added
    return mask, len(bands)


@jit
def _logit(rough, fine, pair, deepest):
    """Return the logit from a box sum in float32 (rough) or in float64 (fine).

    The rough sum alone decides between the two, so that both passes use equal logits and the
    weights of a window add up to one.
    """
    v = fine * pair.scale + pair.log_weight
    # Below _ABYSS, float64 may exceed the float32 maximum by more than the range of exp.
    covered = rough > _hidden(pair.scale) / 2
    if rough * pair.scale < deepest and v > _ABYSS and covered:
        return v
    # Rounded once, as by the fused multiply-add of the loops over windows.
    return np.float64(np.float32(np.float64(rough) * pair.scale + pair.log_weight))


@jit
def _add_refined(scratch, at, pair, cuts, running, k, centres, images):
    """Add the logits of the k-th chunk, refined into `columns`, to the running softmax.

    m is rounded to float32, and s absorbs the remainder. See `_scan` for `Centres`.
    """
    work, columns, deepest = scratch.work, scratch.columns, cuts.deepest
    m, s, q = running.m, running.s, running.q
    a = at + k * CHUNK
    o = (pair.query * len(cuts.bands) + k) * CHUNK
    for j in range(CHUNK):
        v = _logit(work[a + j], columns[j], pair, deepest)
        v = max(v, np.float64(LOWEST))
        i = o + j
        top = max(m[i], np.float32(v))
        e = exp_negative(np.float32(v - top))
        f = exp_negative(m[i] - top)
        m[i] = top
        s[i] = s[i] * f + e
        q[i] = q[i] * (f * f) + e * e
        if centres is not None:
            n_channels, height, width = images.shape
            for c in range(n_channels):
                pixel = (pair.slot * n_channels + c) * height * width + centres.first
                d = ((pair.query * n_channels + c) * len(cuts.bands) + k) * CHUNK + j
                x = np.float32(images.tile[pixel + k * CHUNK + j])
                centres.values[d] = centres.values[d] * f + e * x


@jit
def first_pass(sources, queries, plan, block, running, bits, centres):
    """Add the sources of a block (begin, end) to the running softmax of every window.

    Writes to ``bits`` (B, sources) the bands of windows in which a source has weight. With
    `Centres` (not None), the means of the central pixels are complete after this pass.
    """
    begin, end = block
    log_weight, n_tile = sources.log_weight, sources.n_tile
    scale, cuts = queries.scale, plan.cuts
    stages, n_down, n_chunks = plan.stages, plan.n_down, len(cuts.bands)
    running = Running(running.m.reshape(-1), running.s.reshape(-1), running.q.reshape(-1))
    images, scratch = _areas(sources, queries, plan)
    tile, work, columns = images.tile, scratch.work, scratch.columns
    height, width = images.shape[1:]
    rows = _I0, height - plan.box[0] + 1
    for start in range(begin, end, n_tile):
        count = min(n_tile, end - start)
        for t in range(count):
            _load_source(sources, start + t, tile, t)
        for b in range(len(scale)):
            for t in range(count):
                i = start + t
                pair = Pair(t, b, scale[b], log_weight[_image_of(sources, i)])
                move = _move_of(sources, i)
                _squared_map(images, work, pair, _I0, height * width)
                at = _sum_windows(work, stages, n_down, n_chunks * CHUNK, width)
                hidden = _hidden(scale[b])
                _fill_uncovered(work, at, rows, images.shape[1:], plan.box, move, hidden)
                mask, k = _scan(scratch, at, pair, cuts, running, _I0, centres, images)
                while k < n_chunks:
                    _refine(images, columns, pair, plan, k * CHUNK)
                    _add_refined(scratch, at, pair, cuts, running, k, centres, images)
                    more, k = _scan(scratch, at, pair, cuts, running, k + 1, centres, images)
                    mask |= more
                bits[b, i] = mask


@jit
def _next_run(mask, start, band, gap, n_rows):
    """Return [top, bottom), the next rows from ``start`` whose band is set, across short gaps."""
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
def _write_weights(scratch, at, pair, softmax, first, size):
    """Write exp(logit - m) * r of ``size`` windows into the first slot of `weights`."""
    work, out, m, r = scratch.work, scratch.weights, softmax.m, softmax.r
    scale, log_weight = pair.scale, pair.log_weight
    a = np.uint64(at)
    b = np.uint64(first)
    o = np.uint64(scratch.margin)
    for i in range(np.uint64(size)):
        out[o + i] = exp_negative((work[a + i] * scale + log_weight) - m[b + i]) * r[b + i]


@jit
def _rounding_shows(scratch, at, scale, deepest, windows):
    """Return True if a window in range(*windows) has weight and a logit too deep for float32."""
    work, weights, margin = scratch.work, scratch.weights, scratch.margin
    for j in range(windows[0], windows[1]):
        if weights[margin + j] > _TINY and work[at + j] * scale < deepest:
            return True
    return False


@jit
def _rewrite_weights(scratch, at, pair, deepest, softmax, first, windows):
    """Overwrite the weights of the windows in range(*windows), computed from `columns`."""
    work, columns, out = scratch.work, scratch.columns, scratch.weights
    m, r = softmax.m, softmax.r
    begin, end = windows
    for j in range(begin, end):
        v = _logit(work[at + j], columns[j - begin], pair, deepest)
        out[scratch.margin + j] = exp_negative(np.float32(v - m[first + j])) * r[first + j]


@jit
def _accumulate(total, images, weights, pair, at, lead, count):
    """Add x[c, lead + i] * weights[at + i] to total[c, lead + i] for i < count, in the image."""
    x = images.tile
    n_channels, height, width = images.shape
    n = height * width
    end = np.uint64(min(count, n - lead))
    un = np.uint64(n)
    a0 = np.uint64(pair.query * n_channels * n + lead)
    b0 = np.uint64(pair.slot * n_channels * n + lead)
    o = np.uint64(at)
    done = 0
    if n_channels >= 3:
        a1 = a0 + un
        a2 = a1 + un
        b1 = b0 + un
        b2 = b1 + un
        for i in range(end):
            w = weights[o + i]
            total[a0 + i] += np.float32(x[b0 + i]) * w
            total[a1 + i] += np.float32(x[b1 + i]) * w
            total[a2 + i] += np.float32(x[b2 + i]) * w
        done = 3
    for c in range(done, n_channels):
        ac = a0 + np.uint64(c) * un
        bc = b0 + np.uint64(c) * un
        for i in range(end):
            total[ac + i] += np.float32(x[bc + i]) * weights[o + i]


@jit
def _tilt_map(images, vector, out, pair, lead, count):
    """Write out[i] = sum_c vector[c, lead + i] * x[c, lead + i] for i < count."""
    x = images.tile
    n_channels, height, width = images.shape
    n = height * width
    end = np.uint64(count)
    for c in range(n_channels):
        a = np.uint64((pair.query * n_channels + c) * n + lead)
        b = np.uint64((pair.slot * n_channels + c) * n + lead)
        if c == 0:
            for i in range(end):
                out[i] = vector[a + i] * np.float32(x[b + i])
        else:
            for i in range(end):
                out[i] += vector[a + i] * np.float32(x[b + i])


@jit
def _add_tilts(sums, scratch, tilts, below, first, size):
    """Add weights and weighted tilts of ``size`` windows to the sums (mass, total)."""
    weights = scratch.weights
    mass, total = sums
    a = np.uint64(below)
    b = np.uint64(first)
    o = np.uint64(scratch.margin)
    for i in range(np.uint64(size)):
        weight = np.float64(weights[o + i])
        mass[b + i] += weight
        total[b + i] += weight * np.float64(tilts[a + i])


@jit
def _tilt_weights(scratch, tilts, below, mean, first, size):
    """Multiply the weights of ``size`` windows by the tilts minus their means."""
    weights = scratch.weights
    a = np.uint64(below)
    b = np.uint64(first)
    o = np.uint64(scratch.margin)
    for i in range(np.uint64(size)):
        weights[o + i] *= np.float32(np.float64(tilts[a + i]) - mean[b + i])


@jit
def _add_levels(levels, scratch, at, scale, first, size):
    """Add the products of tilted weights and logits of ``size`` windows to levels."""
    work, weights = scratch.work, scratch.weights
    a = np.uint64(at)
    b = np.uint64(first)
    o = np.uint64(scratch.margin)
    for i in range(np.uint64(size)):
        levels[b + i] += np.float64(weights[o + i]) * np.float64(work[a + i] * scale)


@jit
def _add_information(total, scratch, log_weight, first, size):
    """Add ``w log(w / v)`` of ``size`` windows to the sums."""
    weights = scratch.weights
    b = np.uint64(first)
    o = np.uint64(scratch.margin)
    for i in range(np.uint64(size)):
        weight = weights[o + i]
        if weight > _ZERO:
            total[b + i] += np.float64(weight * (np.log(weight) - log_weight))


@jit
def second_pass(sources, queries, plan, block, softmax, hits, composite, tilting):
    """Add the sources of a block to their composite (B, C, H, W).

    Each source is multiplied by the transposed box filter of its softmax weights. With a `Tilting`
    (not None), the weights are multiplied by tilts minus their means, and their products with the
    logits are added to ``total``. A tilting without a composite (an empty array) adds weights and
    weighted tilts to ``mass`` and ``total``, from which the means follow. Without a vector as well,
    it adds ``w log(w / v)`` to ``total``, with weights w and v.
    """
    begin, end = block
    log_weight, n_tile = sources.log_weight, sources.n_tile
    scale, bits, deep = queries.scale, hits.bits, hits.deep
    stages, n_down, deepest = plan.stages, plan.n_down, plan.cuts.deepest
    spread, n_spread_down = plan.spread
    tilt, n_tilt_down = plan.tilt
    softmax = Normalised(softmax.m.reshape(-1), softmax.r.reshape(-1))
    composes = composite.size > 0
    composite = composite.reshape(-1)
    images, scratch = _areas(sources, queries, plan)
    tile, work, weights, columns = images.tile, scratch.work, scratch.weights, scratch.columns
    margin = scratch.margin
    if tilting is not None:  # numba compiles one function without tilts, and one with tilts
        tilts = np.zeros_like(work)
        vector, mean = tilting.vector.reshape(-1), tilting.mean.reshape(-1)
        mass, total = tilting.mass.reshape(-1), tilting.total.reshape(-1)
    height, width = images.shape[1:]
    length = len(plan.cuts.bands) * CHUNK
    tall = plan.box[0] - 1
    n_rows = height - tall
    for start in range(begin, end, n_tile):
        count = min(n_tile, end - start)
        for t in range(count):
            wanted = False
            for b in range(len(scale)):
                wanted = wanted or bits[b, start + t] != 0
            if wanted:
                _load_source(sources, start + t, tile, t)
        for b in range(len(scale)):
            for t in range(count):
                i = start + t
                pair = Pair(t, b, scale[b], log_weight[_image_of(sources, i)])
                move = _move_of(sources, i)
                bottom = _I0
                while bits[b, i] != 0:
                    top, bottom = _next_run(bits[b, i], bottom, plan.band, tall, n_rows)
                    if top == bottom:
                        break
                    # from the pixels that these rows of windows cover, to the same pixels
                    lead = top * width
                    size = (bottom - top) * width
                    full = size + tall * width
                    first = b * length + lead
                    _squared_map(images, work, pair, lead, full)
                    at = _sum_windows(work, stages, n_down, size, width)
                    rows, sides = (top, bottom), (height, width)
                    hidden = _hidden(scale[b])
                    _fill_uncovered(work, at, rows, sides, plan.box, move, hidden)
                    _write_weights(scratch, at, pair, softmax, first, size)
                    for j in range(0, size if deep[b] else 0, CHUNK):
                        chunk = j, min(j + CHUNK, size)
                        if _rounding_shows(scratch, at, scale[b], deepest, chunk):
                            _refine(images, columns, pair, plan, lead + j)
                            _rewrite_weights(scratch, at, pair, deepest, softmax, first, chunk)
                    # exp_negative of a hidden logit is not zero
                    _fill_uncovered(weights, margin, rows, sides, plan.box, move, _ZERO)
                    if tilting is not None:
                        if vector.size == 0:
                            _add_information(total, scratch, pair.log_weight, first, size)
                            continue
                        _tilt_map(images, vector, tilts, pair, lead, full)
                        below = _sum_windows(tilts, tilt, n_tilt_down, size, width)
                        if not composes:
                            _add_tilts((mass, total), scratch, tilts, below, first, size)
                            continue
                        _tilt_weights(scratch, tilts, below, mean, first, size)
                        _add_levels(total, scratch, at, scale[b], first, size)
                    n_rows_hit = bottom - top
                    at = _spread_windows(weights, spread, n_spread_down, margin, n_rows_hit, width)
                    _accumulate(composite, images, weights, pair, at, lead, full)


@jit
def merge(state, blocks):
    """Merge the softmaxes of blocks into the running one, in order; only its m is float32.

    m becomes the log of the total mass so far, against which later sources may be negligible. Sums
    of central pixels (B, C, windows) have no channels if windows denoise all of their pixels.
    """
    m, s, q, values = state
    blocks_m, blocks_s, blocks_q, blocks_values = blocks
    n_channels = values.shape[1]
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
            for c in range(n_channels):
                values[b, c, i] *= f
        for k in range(n_blocks):
            for i in range(length):
                f = np.float64(exp_negative(blocks_m[k, b, i] - top[i]))
                s[b, i] += blocks_s[k, b, i] * f
                q[b, i] += blocks_q[k, b, i] * (f * f)
                for c in range(n_channels):
                    values[b, c, i] += blocks_values[k, b, c, i] * f
        for i in range(length):
            m[b, i] = np.float32(top[i] + np.log(s[b, i]))
            f = np.exp(np.float64(top[i]) - np.float64(m[b, i]))
            s[b, i] *= f
            q[b, i] *= f * f
            for c in range(n_channels):
                values[b, c, i] *= f
