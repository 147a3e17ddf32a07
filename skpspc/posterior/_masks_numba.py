"""Windows of any shape, compiled for the CPU.

The innermost axis of every array holds 32 training images ("lanes"), so that vector additions sum
the pixels of a mask for 32 images at once, whatever the shape of the mask. The masks are rows of a
sparse matrix. The first of two passes updates a maximum and normaliser per window. For each pair of
a noisy and a training image it records the largest excess of a logit over the maximum. The second
pass composes the posterior mean from pairs whose excess is not negligible.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ..support.training_set import DEFAULT_RANGE, steps_per_unit
from ._jit import jit
from ._math_numba import HUGE, LOWEST, exp_negative

LANES = 32
_BLOCK = 32 * LANES  # training images with one common state; independent of the number of threads
_SKIPPED_MASS = 1e-8  # largest fraction of a window's mass that is skipped
_ZERO = np.float32(0.0)


class Sources(NamedTuple):
    """Training images, followed by all mirror images."""

    x: np.ndarray  # (N, C, H, W), uint8 or float32
    rows: np.ndarray  # (M,) int64, indices of the images to use, of mirror images from N on
    log_weight: np.ndarray  # (M,) float32
    offset: np.float32  # subtracted from the pixels of x


class Queries(NamedTuple):
    """Noisy images, multiplied by 1 / (sigma sqrt(2))."""

    z: np.ndarray  # (B, C H W) float32
    scale: np.ndarray  # (B,) float32, factor of the training images


class Plan(NamedTuple):
    """Windows as CSR matrices: (indptr int64, indices int64, data float32)."""

    precision: tuple  # (K, H W)
    response: tuple  # (H W, K)
    cut: np.float32  # logits this far below the maximum are negligible


class Running(NamedTuple):
    """Softmax of every window over the sources added so far."""

    m: np.ndarray  # (B, K) float32, largest logit
    s: np.ndarray  # (B, K) float32, sum of exp(logit - m)
    q: np.ndarray  # (B, K) float32, sum of exp(logit - m)^2
    excess: np.ndarray  # (B, M) float32, largest excess of a source's logit over m at its addition


class Normalised(NamedTuple):
    """Softmax of every window over all sources."""

    m: np.ndarray  # (B, K) float32, largest logit
    r: np.ndarray  # (B, K) float32, 1 / sum of exp(logit - m)


@jit
def _load(sources, start, count, tile):
    """Write ``count`` sources as (C H W, lanes); unused lanes repeat the last source."""
    x, rows, offset = sources.x, sources.rows, sources.offset
    flat = x.reshape(len(x), -1)
    width = x.shape[3]
    for j in range(LANES):
        row = rows[start + min(j, count - 1)]
        image = flat[row % len(x)]
        if row < len(x):
            for p in range(flat.shape[1]):
                tile[p * LANES + j] = np.float32(image[p]) - offset
        else:
            for left in range(0, flat.shape[1], width):
                for p in range(width):
                    tile[(left + p) * LANES + j] = np.float32(image[left + width - 1 - p]) - offset


@jit
def _maps(z, scale, tile, maps):
    """Write maps[p, j] = sum_c (z[c, p] - scale * tile[c, p, j])^2 for a scaled z."""
    n_pixels = len(maps) // LANES
    for p in range(n_pixels):
        o = np.uint64(p * LANES)
        for j in range(np.uint64(LANES)):
            maps[o + j] = _ZERO
        for c in range(len(z) // n_pixels):
            a = z[c * n_pixels + p]
            i = np.uint64((c * n_pixels + p) * LANES)
            for j in range(np.uint64(LANES)):
                d = a - scale * tile[i + j]
                maps[o + j] += d * d


@jit
def _row_sum(matrix, row, maps, out):
    """Write out[j] = sum of data * maps[index, j] over one row of a sparse matrix."""
    indptr, indices, data = matrix
    for j in range(np.uint64(LANES)):
        out[j] = _ZERO
    at = indptr[row]
    while at + 1 < indptr[row + 1]:
        a = np.uint64(indices[at] * LANES)
        b = np.uint64(indices[at + 1] * LANES)
        u = data[at]
        v = data[at + 1]
        for j in range(np.uint64(LANES)):
            out[j] += u * maps[a + j] + v * maps[b + j]
        at += 2
    if at < indptr[row + 1]:
        a = np.uint64(indices[at] * LANES)
        u = data[at]
        for j in range(np.uint64(LANES)):
            out[j] += u * maps[a + j]


@jit
def first_pass(sources, queries, plan, block, running):
    """Write the softmax of every window over the sources of one block (begin, end)."""
    begin, end = block
    log_weight, precision, cut = sources.log_weight, plan.precision, plan.cut
    z, scale = queries.z, queries.scale
    m, s, q, excess = running.m, running.s, running.q, running.excess
    n_queries, n_values = z.shape
    n_windows = m.shape[1]
    n_pixels = sources.x.shape[2] * sources.x.shape[3]
    tile = np.empty(n_values * LANES, np.float32)
    maps = np.empty(n_pixels * LANES, np.float32)
    logit = np.empty(LANES, np.float32)
    lane_weight = np.empty(LANES, np.float32)
    largest = np.empty(LANES, np.float32)
    sums = np.zeros((n_queries, n_windows * LANES), np.float32)
    squares = np.zeros((n_queries, n_windows * LANES), np.float32)
    for start in range(begin, end, LANES):
        count = min(LANES, end - start)
        _load(sources, start, count, tile)
        for j in range(LANES):
            lane_weight[j] = log_weight[start + j] if j < count else -HUGE
        for b in range(n_queries):
            _maps(z[b], scale[b], tile, maps)
            largest[:] = LOWEST
            for k in range(n_windows):
                _row_sum(precision, k, maps, logit)
                matters = np.int32(0)
                leads = np.int32(0)
                top = m[b, k]
                for j in range(np.uint64(LANES)):
                    v = lane_weight[j] - logit[j]
                    logit[j] = v
                    d = v - top
                    largest[j] = d if d > largest[j] else largest[j]
                    matters |= np.int32(d > cut)
                    leads |= np.int32(d > _ZERO)
                if matters == 0:
                    continue
                o = np.uint64(k * LANES)
                if leads != 0:
                    top = max(top, logit.max())
                    f = exp_negative(m[b, k] - top)
                    m[b, k] = top
                    for j in range(np.uint64(LANES)):
                        sums[b, o + j] *= f
                        squares[b, o + j] *= f * f
                for j in range(np.uint64(LANES)):
                    e = exp_negative(logit[j] - top) if logit[j] > LOWEST else _ZERO
                    sums[b, o + j] += e
                    squares[b, o + j] += e * e
            excess[b, start : start + count] = largest[:count]
    for b in range(n_queries):
        for k in range(n_windows):
            s[b, k] = sums[b, k * LANES : (k + 1) * LANES].sum()
            q[b, k] = squares[b, k * LANES : (k + 1) * LANES].sum()


@jit
def second_pass(sources, queries, b, plan, softmax, total):
    """Add the composite of all sources for noisy image b to total (C H W)."""
    log_weight, precision, response = sources.log_weight, plan.precision, plan.response
    z, scale, m, r = queries.z[b], queries.scale[b], softmax.m[b], softmax.r[b]
    n_channels, height, width = sources.x.shape[1:]
    n_values = len(z)
    n_pixels = height * width
    n_windows = len(m)
    tile = np.empty(n_values * LANES, np.float32)
    maps = np.empty(n_pixels * LANES, np.float32)
    weight = np.empty(n_windows * LANES, np.float32)
    lane = np.empty(LANES, np.float32)
    partial = np.zeros(n_values * 8, np.float32)
    for start in range(0, len(log_weight), LANES):
        count = min(LANES, len(log_weight) - start)
        _load(sources, start, count, tile)
        _maps(z, scale, tile, maps)
        for k in range(n_windows):
            _row_sum(precision, k, maps, lane)
            o = np.uint64(k * LANES)
            for j in range(np.uint64(LANES)):
                weight[o + j] = exp_negative(-lane[j] - m[k])
            for j in range(LANES):
                if j >= count:
                    weight[k * LANES + j] = _ZERO
                elif log_weight[start + j] != _ZERO:
                    v = log_weight[start + j] - lane[j] - m[k]
                    weight[k * LANES + j] = exp_negative(v)
            for j in range(np.uint64(LANES)):
                weight[o + j] *= r[k]
        for p in range(n_pixels):
            _row_sum(response, p, weight, lane)
            for c in range(n_channels):
                i = np.uint64((c * n_pixels + p) * LANES)
                o = np.uint64((c * n_pixels + p) * 8)
                for j in range(np.uint64(8)):
                    j1 = j + np.uint64(8)
                    j2 = j + np.uint64(16)
                    j3 = j + np.uint64(24)
                    u = tile[i + j] * lane[j] + tile[i + j1] * lane[j1]
                    v = tile[i + j2] * lane[j2] + tile[i + j3] * lane[j3]
                    partial[o + j] += u + v
    for i in range(n_values):
        total[i] += partial[i * 8 : (i + 1) * 8].sum()


def state_bytes(n_images, n_windows, n_values, n_threads):
    """Return the bytes that `compiled_masked_posterior` needs per noisy image."""
    n_blocks = -(-n_images // _BLOCK)
    windows = n_windows * (3 * n_blocks + 2 * LANES * n_threads)
    return 4 * (windows + n_images + n_values * n_blocks)


def compiled_masked_posterior(
    z,
    x,
    sigma,
    query,
    response,
    *,
    data_range=DEFAULT_RANGE,
    log_weight=None,
    flip=False,
    n_threads=1,
):
    """Return the composite of all windows, with normalisers and effective sample sizes.

    Parameters
    ----------
    z : float32 array (B, C, H, W)
        Noisy images.
    x : uint8 or float32 array (N, C, H, W)
        Training images.
    sigma : float64 array (B,)
        Noise levels, > 0; inf is allowed.
    query : scipy CSR matrix (K, H W), float32
        Precisions of each window.
    response : scipy CSR matrix (H W, K), float32
        Share of each window in each pixel; rows sum to one.
    data_range : tuple of (low, high), default (-1, 1)
        Values of the uint8 pixels 0 and 255.
    log_weight : array (N,), optional
        Log weights of the training images, finite; (2 N,) with ``flip``.
    flip : bool
        Also use the left-right mirror images of all training images, after the images.
    n_threads : int
        Number of threads; results do not depend on it, to the last bit.

    Returns
    -------
    mean : float32 array (B, C, H, W)
    log_norm : float32 array (B, K)
    ess : float32 array (B, K)
    """
    x = np.asarray(x).view()
    x.flags.writeable = False  # numba compiles for writable and read-only arrays separately
    n_images = len(x) * (2 if flip else 1)
    # Pixels are centred at the middle of their range.
    unit, offset, middle = np.float32(1.0), _ZERO, 0.0
    if x.dtype == np.uint8:
        unit, offset = np.float32(steps_per_unit(data_range)), np.float32(127.5)
        middle = sum(data_range) / 2
    root = np.sqrt(0.5) / np.asarray(sigma, dtype=np.float64)
    scaled = ((z.reshape(len(z), -1) - middle) * root[:, None]).astype(np.float32)
    if log_weight is None:
        log_weight = np.zeros(n_images)
    sources = Sources(x, np.arange(n_images), log_weight.astype(np.float32), offset)
    queries = Queries(scaled, (root / unit).astype(np.float32))
    cut = np.float32(np.log(_SKIPPED_MASS / n_images))
    plan = Plan(_arrays(query), _arrays(response), cut)

    with ThreadPoolExecutor(n_threads) as pool:
        m, s, q, excess = _running_softmax(sources, queries, plan, pool)
        top = m.max(axis=0)
        shrink = np.exp(m.astype(np.float64) - top)
        norm = (s * shrink).sum(axis=0)
        ess = norm**2 / (q * shrink**2).sum(axis=0)
        softmax = Normalised(top, (1 / norm).astype(np.float32))
        total = _composite(sources, queries, plan, softmax, excess > cut, pool)
    mean = (total / unit + middle).astype(np.float32).reshape(z.shape)
    return mean, (top + np.log(norm)).astype(np.float32), ess.astype(np.float32)


def _running_softmax(sources, queries, plan, pool):
    """Return the `Running` softmax of every block, with stacked m, s and q, (blocks, B, K)."""
    n_queries, n_images = len(queries.z), len(sources.rows)
    blocks = [(i, min(i + _BLOCK, n_images)) for i in range(0, n_images, _BLOCK)]
    m = np.full((len(blocks), n_queries, len(plan.precision[0]) - 1), LOWEST)
    s, q = np.empty_like(m), np.empty_like(m)
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


def _arrays(matrix):
    """Return (indptr, indices, data) of a scipy CSR matrix."""
    indptr, indices = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    return indptr, indices, matrix.data.astype(np.float32)
