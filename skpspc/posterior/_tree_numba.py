"""Trees of patches, and visits of noisy patches to their cells, compiled for the CPU.

The innermost axis of most arrays has 32 entries ("lanes"), the patches of a cell or the cells of a
group, so that vector instructions compare a noisy patch with 32 patches or boxes at once.
"""

from typing import NamedTuple

import numpy as np

from ._jit import fast, jit
from ._math_numba import LOWEST, exp_negative
from ._tree_sizes import LANES

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_LANES = np.uint64(LANES)
_INFINITE = np.float32(np.inf)
# Rounding: coordinates of boxes and residual norms are off by less than these fractions of the
# largest coordinate, and of the norm of the patch.
_SLACK = np.float32(1e-5)
_NORM_SLACK = np.float32(1e-3)
_FIRST = np.float32(0.5)  # bounds this far below the largest one belong to the first comparison
_ABOVE = np.float32(14.0)  # limit of the log mass of a box, relative to the largest logit
_DROPPED = np.float32(0.25)  # fraction of the tolerance for compared cells left out of the mean
# Rounding of float32 logits below this limit shows in the weights.
_DEEP = np.float32(-512.0)
# Expected ratio of the tolerance to the first limit of the remaining bounds, so that their sum
# meets the tolerance without a second pass.
_CAUTIOUS = np.float32(0.125)


@jit
def _coordinates(patch, centre, basis, y):
    """Write the principal coordinates of a flat patch; return its norm and its residual norm."""
    r = basis.shape[1]
    square, leading = 0.0, 0.0
    y[:r] = _ZERO
    for p in range(len(patch)):
        v = np.float32(patch[p]) - centre[p]
        square += np.float64(v) * v
        for j in range(r):
            y[j] += v * basis[p, j]
    for j in range(r):
        leading += np.float64(y[j]) * y[j]
    return np.float32(np.sqrt(square)), np.float32(np.sqrt(max(square - leading, 0.0)))


@jit
def _flatten(images, corner, shape, out):
    """Write the window of a size (h, w) at a corner of an image (C, H, W)."""
    i = 0
    for c in range(images.shape[0]):
        for k in range(corner[0], corner[0] + shape[0]):
            for m in range(corner[1], corner[1] + shape[1]):
                out[i] = images[c, k, m]
                i += 1


@jit
def _project(area, centre, basis, y):
    """Write principal coordinates and residual norms of patches (n, C, h, w)."""
    patch = np.empty(len(centre), np.float32)
    shape = area.shape[2], area.shape[3]
    for i in range(len(area)):
        _flatten(area[i], (0, 0), shape, patch)
        y[i, -1] = _coordinates(patch, centre, basis, y[i])[1]


@jit
def _widest(y, rows):
    """Return the principal coordinate of largest variance of some rows."""
    r = y.shape[1] - 1
    s, q = np.zeros(r, np.float64), np.zeros(r, np.float64)
    for i in rows:
        for j in range(r):
            v = np.float64(y[i, j])
            s[j] += v
            q[j] += v * v
    return (q - s * s / len(rows)).argmax()


@jit
def _sorted_by_cell(y):
    """Return the rows of y, cell by cell: leaves of a k-d tree, groups of cells kept together."""
    n = len(y)
    order = np.arange(n)
    values = np.empty(n, np.float32)
    starts, stops = np.empty(128, np.int64), np.empty(128, np.int64)
    starts[0], stops[0] = 0, n
    depth = 1
    while depth > 0:
        depth -= 1
        start, stop = starts[depth], stops[depth]
        size = stop - start
        if size <= LANES:
            continue
        unit = LANES * LANES if size > LANES * LANES else LANES
        left = -(-size // unit) // 2 * unit
        rows = order[start:stop]
        axis = _widest(y, rows)
        for i in range(size):
            values[i] = y[rows[i], axis]
        rows[:] = rows[np.argpartition(values[:size], left - 1)]
        starts[depth], stops[depth] = start, start + left
        starts[depth + 1], stops[depth + 1] = start + left, stop
        depth += 2
    return order


@jit
def _write_boxes(y, order, weight, size, boxes):
    """Write the boxes of each group of ``size`` consecutive patches."""
    r = y.shape[1] - 1
    largest, norm = _ZERO, _ZERO
    for i in range(len(y)):
        square = y[i, r] * y[i, r]
        for j in range(r):
            largest = max(largest, abs(y[i, j]))
            square += y[i, j] * y[i, j]
        norm = max(norm, np.sqrt(square))
    low, high = np.empty(r + 1, np.float32), np.empty(r + 1, np.float32)
    slack = np.full(r + 1, _SLACK * largest, np.float32)
    slack[r] = _NORM_SLACK * norm
    boxes[:] = _ZERO
    boxes[:, 2 * r + 2] = -_INFINITE
    for number in range(-(-len(order) // size)):
        rows = order[number * size : (number + 1) * size]
        low[:], high[:], top = _INFINITE, -_INFINITE, -_INFINITE
        for i in rows:
            for j in range(r + 1):
                low[j] = min(low[j], y[i, j])
                high[j] = max(high[j], y[i, j])
            top = max(top, weight[i] if len(weight) else _ZERO)
        total = 0.0
        for i in rows:
            total += np.exp(np.float64(weight[i] - top)) if len(weight) else 1.0
        box = boxes[number // LANES, :, number % LANES]
        for j in range(r):
            box[j], box[r + j] = low[j] - slack[j], high[j] + slack[j]
        box[2 * r], box[2 * r + 1] = low[r] - slack[r], high[r] + slack[r]
        box[2 * r + 2] = top + np.log(total)


@jit
def build(area, weight, basis, centre, patches, boxes, tops, log_weight):
    """Write the arrays of `LocationTrees` for one location from its patches (n, C, h, w)."""
    n = len(area)
    y = np.empty((n, basis.shape[1] + 1), np.float32)
    _project(area, centre, basis, y)
    order = _sorted_by_cell(y)
    _write_boxes(y, order, weight, LANES, boxes)
    _write_boxes(y, order, weight, LANES * LANES, tops)
    patch, shape = np.empty(len(centre), patches.dtype), (area.shape[2], area.shape[3])
    for i in range(len(patches) * LANES):
        row = order[min(i, n - 1)]
        _flatten(area[row], (0, 0), shape, patch)
        patches[i // LANES, :, i % LANES] = patch
        if len(weight):
            log_weight[i // LANES, i % LANES] = weight[row] if i < n else -_INFINITE


class Trees(NamedTuple):
    """The arrays of `LocationTrees`."""

    patches: np.ndarray
    boxes: np.ndarray
    tops: np.ndarray
    basis: np.ndarray
    centre: np.ndarray
    log_weight: np.ndarray
    corners: np.ndarray
    n: int


class Queries(NamedTuple):
    """Noisy images in the units of the stored pixels."""

    z: np.ndarray  # (B, C, H, W) float32
    scale: np.ndarray  # (B,) float32, 1 / (2 sigma^2)


class Visited(NamedTuple):
    """Posteriors of the windows at all locations, float32 where nothing is said."""

    mean: np.ndarray  # (P, B, d) posterior means, in the units of the stored pixels
    log_norm: np.ndarray  # (P, B) float64, log normalisers of the compared patches
    peak: np.ndarray  # (P, B) largest logits
    ess: np.ndarray  # (P, B) effective sample sizes
    missed: np.ndarray  # (P, B) largest possible fraction of the mass that was not compared
    compared: np.ndarray  # (P, B) fraction of the cells that were compared


class _Scratch(NamedTuple):
    """Arrays that all windows of a task use in turn."""

    z: np.ndarray  # (d,) noisy patch
    y: np.ndarray  # (r,) its principal coordinates
    group_bound: np.ndarray  # log of the largest possible mass of every group; LOWEST if opened
    cell_bound: np.ndarray  # log of the largest possible mass of every cell of the opened groups
    opened: np.ndarray  # opened groups
    cells: np.ndarray  # compared cells
    logits: np.ndarray  # 32 logits of every compared cell, and 32 zeros
    offsets: np.ndarray  # logits of the cells of most mass
    total: np.ndarray  # (d * 32,) sums of weighted patches, lane by lane


@jit
def _bound(boxes, at, y, residual, scale, out, o):
    """Write the logs of the largest possible masses of the 32 boxes from ``at`` on.

    ``residual`` has the lower and upper limit of the residual norm of the noisy patch.
    """
    r = np.uint64(len(y))
    a, b = np.uint64(at), np.uint64(o)
    low = a + np.uint64(2) * r * _LANES
    high = low + _LANES
    weight = high + _LANES
    least, most = residual
    for j in range(_LANES):
        v = max(max(boxes[low + j] - most, least - boxes[high + j]), _ZERO)
        out[b + j] = v * v
    for i in range(r):
        low = a + i * _LANES
        high = low + r * _LANES
        q = y[i]
        for j in range(_LANES):
            v = max(max(boxes[low + j] - q, q - boxes[high + j]), _ZERO)
            out[b + j] += v * v
    for j in range(_LANES):
        v = boxes[weight + j] - scale * out[b + j]
        out[b + j] = v if v > LOWEST else LOWEST


@fast
def _largest(values, start, n):
    """Return the largest of n values, at least LOWEST."""
    top = LOWEST
    a = np.uint64(start)
    for i in range(np.uint64(n)):
        top = max(top, values[a + i])
    return top


@fast
def _mass(values, start, n, peak):
    """Return the sum of exp(value - peak) over values above LOWEST.

    Values above the peak count as equal to it.
    """
    s = _ZERO
    a = np.uint64(start)
    for i in range(np.uint64(n)):
        e = exp_negative(min(values[a + i] - peak, _ZERO))
        s += e if values[a + i] > LOWEST else _ZERO
    return s


@jit
def _compare(patches, at, z, scale, out, o):
    """Write the logits of the 32 patches from ``at`` on, without sample weights."""
    a, b = np.uint64(at), np.uint64(o)
    for j in range(_LANES):
        out[b + j] = _ZERO
    whole = len(z) // 3 * 3
    for p in range(0, whole, 3):
        z0, z1, z2 = z[p], z[p + 1], z[p + 2]
        x0 = a + np.uint64(p) * _LANES
        x1 = x0 + _LANES
        x2 = x1 + _LANES
        for j in range(_LANES):
            d0 = z0 - np.float32(patches[x0 + j])
            d1 = z1 - np.float32(patches[x1 + j])
            d2 = z2 - np.float32(patches[x2 + j])
            out[b + j] += d0 * d0 + d1 * d1 + d2 * d2
    for p in range(whole, len(z)):
        z0 = z[p]
        x0 = a + np.uint64(p) * _LANES
        for j in range(_LANES):
            d0 = z0 - np.float32(patches[x0 + j])
            out[b + j] += d0 * d0
    for j in range(_LANES):
        out[b + j] *= -scale


@fast
def _exponentiate(logits, at, peak):
    """Replace the 32 logits of one cell by weights; return their sum and sum of squares."""
    s, q = _ZERO, _ZERO
    b = np.uint64(at)
    for j in range(_LANES):
        e = exp_negative(logits[b + j] - peak)
        logits[b + j] = e
        s += e
        q += e * e
    return s, q


@jit
def _add_four(patches, cells, weights, total):
    """Add the weighted patches of four cells, given by their offsets in patches and weights."""
    (a0, b0), (a1, b1), (a2, b2), (a3, b3) = cells
    for p in range(len(total) // LANES):
        t = np.uint64(p) * _LANES
        for j in range(_LANES):
            total[t + j] += (
                weights[b0 + j] * np.float32(patches[a0 + t + j])
                + weights[b1 + j] * np.float32(patches[a1 + t + j])
                + weights[b2 + j] * np.float32(patches[a2 + t + j])
                + weights[b3 + j] * np.float32(patches[a3 + t + j])
            )


@fast
def _lane_sum(total, at):
    """Return the sum of 32 lanes."""
    s = _ZERO
    a = np.uint64(at)
    for j in range(_LANES):
        s += total[a + j]
    return s


@jit
def _open_groups(trees, location, residual, scale, limit, scratch, n_opened):
    """Write the bounds of the cells of groups whose bounds reach a limit; return their number."""
    n_groups, n_numbers = trees.boxes.shape[1], trees.boxes.shape[2]
    boxes, bound = trees.boxes.reshape(-1), scratch.group_bound
    for g in range(n_groups):
        if bound[g] > LOWEST and bound[g] >= limit:
            at = (location * n_groups + g) * n_numbers * LANES
            _bound(boxes, at, scratch.y, residual, scale, scratch.cell_bound, g * LANES)
            scratch.opened[n_opened] = g
            n_opened += 1
            bound[g] = LOWEST
    return n_opened


@jit
def _largest_left(scratch, n_opened):
    """Return the largest bound of the cells that were not compared, and of unopened groups."""
    groups = _largest(scratch.group_bound, 0, len(scratch.group_bound))
    cells = LOWEST
    for i in range(n_opened):
        cells = max(cells, _largest(scratch.cell_bound, scratch.opened[i] * LANES, LANES))
    return cells, groups


@jit
def _choose(scratch, n_opened, n, limit):
    """Append the cells of the opened groups whose bounds reach a limit; return their number."""
    bound, cells = scratch.cell_bound, scratch.cells
    for i in range(n_opened):
        first = scratch.opened[i] * LANES
        for c in range(first, first + LANES):
            if bound[c] > LOWEST and bound[c] >= limit:
                cells[n] = c
                n += 1
                bound[c] = LOWEST
    return n


@jit
def _compare_cells(trees, location, scale, scratch, start, n):
    """Write the logits of the cells ``start`` to ``n - 1`` that were chosen."""
    n_cells, d = trees.patches.shape[1], trees.patches.shape[2]
    patches, weights = trees.patches.reshape(-1), trees.log_weight.reshape(-1)
    logits = scratch.logits
    for i in range(start, n):
        number, o = location * n_cells + scratch.cells[i], i * LANES
        _compare(patches, number * d * LANES, scratch.z, scale, logits, o)
        if len(weights):  # -inf for padding
            for j in range(LANES):
                v = logits[o + j] + weights[number * LANES + j]
                logits[o + j] = v if v > LOWEST else LOWEST
        elif scratch.cells[i] == n_cells - 1:
            for j in range(trees.n - (n_cells - 1) * LANES, LANES):
                logits[o + j] = LOWEST


@jit
def _missed(scratch, n_opened, peak):
    """Return the largest possible mass of all groups and cells that were not compared.

    Masses are relative to exp(peak). Those above exp(_ABOVE) count as exp(_ABOVE), which is more
    than may be missed of the mass of less than 10^8 patches.
    """
    mass = _mass(scratch.group_bound, 0, len(scratch.group_bound), peak + _ABOVE)
    for i in range(n_opened):
        mass += _mass(scratch.cell_bound, scratch.opened[i] * LANES, LANES, peak + _ABOVE)
    return mass * np.exp(_ABOVE)


@jit
def _search(trees, location, residual, scale, max_missed, scratch):
    """Compare cells until the others have at most a fraction ``max_missed`` of the mass.

    Returns number of cells, largest logit, mass relative to it, and bound of the other mass.
    """
    n_cells, n_tops, n_numbers = trees.patches.shape[1], trees.tops.shape[1], trees.tops.shape[2]
    tops, bound = trees.tops.reshape(-1), scratch.group_bound
    for t in range(n_tops):
        at = (location * n_tops + t) * n_numbers * LANES
        _bound(tops, at, scratch.y, residual, scale, bound, t * LANES)
    limit = _largest(bound, 0, len(bound)) - _FIRST
    n_opened = _open_groups(trees, location, residual, scale, limit, scratch, 0)
    limit = _largest_left(scratch, n_opened)[0] - _FIRST
    n, peak, mass, missed = 0, LOWEST, _ZERO, _ZERO
    while n < n_cells:
        start = n
        n = _choose(scratch, n_opened, n, limit)
        _compare_cells(trees, location, scale, scratch, start, n)
        top = _largest(scratch.logits, start * LANES, (n - start) * LANES)
        if top > peak:
            mass *= exp_negative(max(peak - top, LOWEST))
            peak = top
        mass += _mass(scratch.logits, start * LANES, (n - start) * LANES, peak)
        missed = _missed(scratch, n_opened, peak)
        if missed <= max_missed * mass:
            break
        if start == 0:
            limit = peak + np.log(mass * max_missed * _CAUTIOUS)
        else:
            limit += np.log(max_missed * mass / missed) - _FIRST
        # at least one more group or cell: rounding may absorb the step of a large limit
        limit = min(limit, max(*_largest_left(scratch, n_opened)))
        n_opened = _open_groups(trees, location, residual, scale, limit, scratch, n_opened)
    return n, peak, mass, missed


@jit
def _sum_again(trees, location, scale, scratch, n):
    """Write the logits of the n compared cells relative to the largest, from sums in float64.

    Returns the largest logit.
    """
    n_cells, weights = trees.patches.shape[1], trees.log_weight
    relative = np.empty((n, LANES), np.float64)
    top = np.float64(LOWEST)
    for i in range(n):
        cell = scratch.cells[i]
        patches = trees.patches[location, cell]
        used = LANES if cell < n_cells - 1 else trees.n - (n_cells - 1) * LANES
        square = relative[i]
        square[:] = 0.0
        for p in range(len(patches)):
            z = np.float64(scratch.z[p])
            for j in range(LANES):
                v = z - patches[p, j]
                square[j] += v * v
        for j in range(LANES):
            v = -np.float64(scale) * square[j]
            if weights.shape[1]:
                v += weights[location, cell, j]
            relative[i, j] = v if j < used else np.float64(LOWEST)
            top = max(top, relative[i, j])
    for i in range(n):
        for j in range(LANES):
            v = np.float32(relative[i, j] - top)
            scratch.logits[i * LANES + j] = v if v > LOWEST else LOWEST
    return top


@jit
def _average(trees, location, n, peak, least, scratch, out):
    """Write the mean of the n compared cells; return mass, sum of squares, and mass left out.

    Cells whose mass is at most ``least`` are left out of the mean.
    """
    n_cells, d = trees.patches.shape[1], trees.patches.shape[2]
    patches = trees.patches.reshape(-1)
    logits, cells, offsets, total = scratch.logits, scratch.cells, scratch.offsets, scratch.total
    s, q, dropped, heavy = _ZERO, _ZERO, _ZERO, 0
    for i in range(n):
        cell_mass, squares = _exponentiate(logits, i * LANES, peak)
        s += cell_mass
        q += squares
        if cell_mass > least:
            cells[heavy], offsets[heavy] = (location * n_cells + cells[i]) * d * LANES, i * LANES
            heavy += 1
        else:
            dropped += cell_mass
    for i in range(heavy, heavy + 3):
        cells[i], offsets[i] = cells[0], n_cells * LANES  # the zeros
    total[:] = _ZERO
    for i in range(0, heavy, 4):
        four = (
            (np.uint64(cells[i]), np.uint64(offsets[i])),
            (np.uint64(cells[i + 1]), np.uint64(offsets[i + 1])),
            (np.uint64(cells[i + 2]), np.uint64(offsets[i + 2])),
            (np.uint64(cells[i + 3]), np.uint64(offsets[i + 3])),
        )
        _add_four(patches, four, logits, total)
    factor = _ONE / (s - dropped)
    for p in range(d):
        out[p] = _lane_sum(total, p * LANES) * factor
    return s, q, dropped


@jit
def visit(trees, queries, locations, shape, max_missed, visited):
    """Compare the windows (h, w) of all noisy images at ``locations[0]`` to ``locations[1] - 1``.

    Results are written to ``visited``. Patches that are not compared have at most the fraction
    ``max_missed`` of the mass of a window.
    """
    n_cells, d = trees.patches.shape[1], trees.patches.shape[2]
    n_groups, n_tops = trees.boxes.shape[1], trees.tops.shape[1]
    scratch = _Scratch(
        np.empty(d, np.float32),
        np.empty(trees.basis.shape[2], np.float32),
        np.empty(n_tops * LANES, np.float32),
        np.empty(n_groups * LANES, np.float32),
        np.empty(n_groups, np.int64),
        np.empty(n_cells + 3, np.int64),
        np.zeros((n_cells + 1) * LANES, np.float32),
        np.empty(n_cells + 3, np.int64),
        np.empty(d * LANES, np.float32),
    )
    for location in range(locations[0], locations[1]):
        corner = trees.corners[location, 0], trees.corners[location, 1]
        basis, centre = trees.basis[location], trees.centre[location]
        for b in range(len(queries.z)):
            _flatten(queries.z[b], corner, shape, scratch.z)
            norm, rest = _coordinates(scratch.z, centre, basis, scratch.y)
            residual = rest - _NORM_SLACK * norm, rest + _NORM_SLACK * norm
            scale, limit = queries.scale[b], max_missed * (_ONE - _DROPPED)
            n, peak, mass, missed = _search(trees, location, residual, scale, limit, scratch)
            log_peak = np.float64(peak)
            if peak < _DEEP or trees.log_weight.shape[1]:  # weight may make far patches matter
                log_peak, peak = _sum_again(trees, location, scale, scratch, n), _ZERO
            least = max_missed * _DROPPED * mass / np.float32(n)
            mean = visited.mean[location, b]
            s, q, dropped = _average(trees, location, n, peak, least, scratch, mean)
            visited.log_norm[location, b] = log_peak + np.log(np.float64(s))
            visited.peak[location, b] = log_peak
            visited.ess[location, b] = s * s / q
            visited.missed[location, b] = (missed + dropped) / (missed + s)
            visited.compared[location, b] = np.float32(n) / np.float32(n_cells)
