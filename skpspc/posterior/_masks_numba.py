"""Windows of any shape, compiled for the CPU.

Thirty-two training images lie side by side in the innermost axis of every array ("lanes"), so that
a mask's pixels, wherever they are, are summed for all of them by vector additions. The masks are
rows of a sparse matrix. Two passes: the first keeps a running maximum and normaliser per window and
remembers, per pair of images, how near it came to mattering anywhere; the second composes the
answer from the pairs that did.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..support.training_set import DEFAULT_RANGE, steps_per_unit
from ._jit import jit
from ._math_numba import HUGE, LOWEST, exp_negative

LANES = 32
_BLOCK = 32 * LANES  # training images whose state is merged at once; independent of the threads
_SKIPPED_MASS = 1e-8  # at most this share of a window's mass is left out
_ZERO = np.float32(0.0)


@jit
def _load(x, rows, start, count, offset, tile):
    """Write ``count`` images, minus an offset, as (C H W, lanes); spare lanes repeat the last.

    Rows beyond the images are their mirror images.
    """
    flat = x.reshape(len(x), -1)
    width = x.shape[3]
    for j in range(LANES):
        row = rows[start + min(j, count - 1)]
        line = flat[row % len(x)]
        if row < len(x):
            for p in range(flat.shape[1]):
                tile[p * LANES + j] = np.float32(line[p]) - offset
        else:
            for left in range(0, flat.shape[1], width):
                for p in range(width):
                    tile[(left + p) * LANES + j] = np.float32(line[left + width - 1 - p]) - offset


@jit
def _maps(z, tile, scale, n_channels, n_pixels, maps):
    """maps[p, j] = sum_c (z[c, p] - scale * tile[c, p, j])^2; z is scaled already."""
    for p in range(n_pixels):
        o = np.uint64(p * LANES)
        for j in range(np.uint64(LANES)):
            maps[o + j] = _ZERO
        for c in range(n_channels):
            q = z[c * n_pixels + p]
            i = np.uint64((c * n_pixels + p) * LANES)
            for j in range(np.uint64(LANES)):
                d = q - scale * tile[i + j]
                maps[o + j] += d * d


@jit
def _row_sum(matrix, row, maps, out):
    """out[j] = sum of data * maps[index, j] over one row of a sparse matrix."""
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
def first_pass(z, scale, x, rows, offset, log_weight, begin, end, query, cut, m, s, q, closest):
    """Running maximum m, normaliser s and sum of squares q of one block, for several queries.

    z (B, C H W), m, s, q (B, K), closest (B, N): the largest logit above its window's maximum
    so far.
    """
    n_queries, n_values = z.shape
    n_windows = m.shape[1]
    n_pixels = x.shape[2] * x.shape[3]
    tile = np.empty(n_values * LANES, np.float32)
    maps = np.empty(n_pixels * LANES, np.float32)
    logit = np.empty(LANES, np.float32)
    prior = np.empty(LANES, np.float32)
    near = np.empty(LANES, np.float32)
    sums = np.zeros((n_queries, n_windows * LANES), np.float32)
    squares = np.zeros((n_queries, n_windows * LANES), np.float32)
    for start in range(begin, end, LANES):
        count = min(LANES, end - start)
        _load(x, rows, start, count, offset, tile)
        for j in range(LANES):
            prior[j] = log_weight[start + j] if j < count else -HUGE
        for b in range(n_queries):
            _maps(z[b], tile, scale[b], x.shape[1], n_pixels, maps)
            near[:] = LOWEST
            for k in range(n_windows):
                _row_sum(query, k, maps, logit)
                matters = np.int32(0)
                leads = np.int32(0)
                top = m[b, k]
                for j in range(np.uint64(LANES)):
                    v = prior[j] - logit[j]
                    logit[j] = v
                    d = v - top
                    near[j] = d if d > near[j] else near[j]
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
            closest[b, start : start + count] = near[:count]
    for b in range(n_queries):
        for k in range(n_windows):
            s[b, k] = sums[b, k * LANES : (k + 1) * LANES].sum()
            q[b, k] = squares[b, k * LANES : (k + 1) * LANES].sum()


@jit
def second_pass(z, scale, x, rows, offset, log_weight, query, response, m, r, total):
    """Add to total (C H W) the composite of some training images, for one query.

    m, r (K,): maximum and one over the normaliser; response: pixels by windows.
    """
    n_values = len(z)
    n_pixels = x.shape[2] * x.shape[3]
    n_windows = len(m)
    tile = np.empty(n_values * LANES, np.float32)
    maps = np.empty(n_pixels * LANES, np.float32)
    weight = np.empty(n_windows * LANES, np.float32)
    lane = np.empty(LANES, np.float32)
    partial = np.zeros(n_values * 8, np.float32)
    for start in range(0, len(rows), LANES):
        count = min(LANES, len(rows) - start)
        _load(x, rows, start, count, offset, tile)
        _maps(z, tile, scale, x.shape[1], n_pixels, maps)
        for k in range(n_windows):
            _row_sum(query, k, maps, lane)
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
            for c in range(x.shape[1]):
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
    """Memory that `compiled_masked_posterior` takes for each noisy image."""
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
    """Posterior mean of every window, composed, with evidence and sample size.

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
        How much each window has to say at each pixel; rows sum to one.
    data_range : tuple of (low, high), default (-1, 1)
        Values that uint8 pixels 0 and 255 stand for.
    log_weight : array (N,), optional
        Log weights of the training images, finite; (2 N,) with ``flip``.
    flip : bool
        Use the mirror image (left-right) of every training image too, after them.
    n_threads : int
        Threads. The answer does not depend on it, to the last bit.

    Returns
    -------
    mean : float32 array (B, C, H, W)
    log_norm : float32 array (B, K)
    ess : float32 array (B, K)
    """
    x = np.asarray(x).view()
    x.flags.writeable = False  # compiled once for writable and read-only arrays
    n_images, n_noisy, n_windows = len(x) * (2 if flip else 1), len(z), query.shape[0]
    # images are read about the middle of their range
    unit, offset, middle = np.float32(1.0), _ZERO, 0.0
    if x.dtype == np.uint8:
        unit, offset = np.float32(steps_per_unit(data_range)), np.float32(127.5)
        middle = sum(data_range) / 2
    root = np.sqrt(0.5) / np.asarray(sigma, dtype=np.float64)
    scaled = ((z.reshape(n_noisy, -1) - middle) * root[:, None]).astype(np.float32)
    scale = (root / unit).astype(np.float32)
    prior = np.zeros(n_images, np.float32) if log_weight is None else log_weight.astype(np.float32)
    rows = np.arange(n_images)
    query, response = (_arrays(matrix) for matrix in (query, response))
    cut = np.float32(np.log(_SKIPPED_MASS / n_images))

    blocks = [(i, min(i + _BLOCK, n_images)) for i in range(0, n_images, _BLOCK)]
    m = np.full((len(blocks), n_noisy, n_windows), LOWEST)
    s, q = np.empty_like(m), np.empty_like(m)
    closest = np.empty((n_noisy, n_images), np.float32)

    def first(block):
        first_pass(
            scaled, scale, x, rows, offset, prior, *blocks[block], query, cut,
            m[block], s[block], q[block], closest,
        )  # fmt: skip

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(first, range(len(blocks))))
        top = m.max(axis=0)
        shrink = np.exp(m.astype(np.float64) - top)
        norm = (s * shrink).sum(axis=0)
        ess = norm**2 / (q * shrink**2).sum(axis=0)
        inverse = (1 / norm).astype(np.float32)
        tasks = [
            (b, some)
            for b in range(n_noisy)
            for some in _split(np.flatnonzero(closest[b] > cut), _BLOCK)
        ]
        parts = np.zeros((len(tasks), scaled.shape[1]), np.float32)

        def second(task):
            b, some = tasks[task]
            second_pass(
                scaled[b], scale[b], x, some, offset, prior[some], query, response,
                top[b], inverse[b], parts[task],
            )  # fmt: skip

        list(pool.map(second, range(len(tasks))))
    total = np.zeros(scaled.shape)
    for (b, _), part in zip(tasks, parts, strict=True):
        total[b] += part
    mean = (total / unit + middle).astype(np.float32).reshape(z.shape)
    return mean, (top + np.log(norm)).astype(np.float32), ess.astype(np.float32)


def _split(rows, length):
    return [rows[i : i + length] for i in range(0, len(rows), length)]


def _arrays(matrix):
    """What the kernels take of a scipy CSR matrix."""
    return (
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int64),
        matrix.data.astype(np.float32),
    )
