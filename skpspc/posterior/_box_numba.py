"""All square windows of one size, by box filters, compiled for the CPU.

For a noisy image z and a training image x, one map holds ``-(z - x)^2`` summed over channels. The
logit of every window is a box sum of that map, and the composite needs only the transposed box
filter of the weights::

    logit_i^k = 1 / (2 sigma^2) * sum_{p in k} map_i(p) + log_weight_i
    mean(p)   = 1 / count(p) * sum_i x_i(p) * sum_{k contains p} softmax_i(logit^k)_i

The softmax of each window has its own normaliser, which requires two streaming passes over the
training set. The first pass updates a maximum, normaliser and sum of squares per window, and skips
logits that are negligible against the maximum so far. For each pair of images it records the rows
of windows with weight. The second pass computes weights and composite for these rows only. Windows
that denoise their central pixel alone need no second pass: the first one also sums these pixels.

Box sums are built by additions alone (sums of q, then of k q + r, ...), as subtractions would
cancel at small sigma. Two measures make float32 exact enough. The map of a Wiener estimate of z is
subtracted from every map, which removes the term that the noise adds to all logits. Logits that are
still large are summed again in float64 if they have weight, which is rare.

Tapered windows weigh their pixels by a trapezoid along each axis, which is a box sum of box sums:
their plans have the stages of two boxes along each axis. Maps are then summed by multiples of the
precisions, and the scale of the logits is divided by the largest multiple.

Training images may be moved by whole pixels. Windows that a moved image does not cover get logits
below all others in the first pass, and zero weight in the second.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .._progress import progress
from .._threads import ThreadPool
from ..support.training_set import steps_per_unit
from ._box_kernels import (
    CHUNK,
    Centres,
    Cuts,
    Hits,
    Normalised,
    Plan,
    Queries,
    Running,
    Sources,
    Tilting,
    first_pass,
    merge,
    second_pass,
)
from ._math_numba import HUGE, LOWEST

_TILE_BYTES = 96 * 1024  # bytes of training images in a tile, which stays in the L2 cache
_STATE_FRACTION = 0.4  # fraction of the memory for all unmerged blocks
_HITS_FRACTION = 0.6  # fraction of the memory for the bands with weight, four bytes per pair
_SKIPPED_MASS = 1e-8  # largest fraction of a window's mass that is skipped
# Rounding of float32 logits below these limits shows in the weights. Images of equal sample weight
# that matter in a window are mostly close to z; an image of larger weight may be farther away.
_DEEP, _DEEP_UNEQUAL = np.float32(-512.0), np.float32(-16.0)
_UNEQUAL = 7.0  # difference of the largest and smallest log weight from which _DEEP_UNEQUAL serves
_SIGMA_MAX = 1e10  # beyond this sigma, only z / sigma counts


@lru_cache(maxsize=256)
def _cheapest(size):
    """Return cost, in loads and stores, and stages of the cheapest sums of ``size`` values."""
    if size == 1:
        return 0, ()
    options = []
    for k in (2, 3, 4, 5):
        for r in (0, 1):
            if (size - r) % k == 0 and size - r >= k:
                cost, stages = _cheapest((size - r) // k)
                options.append((cost + k + r + 1, (*stages, (k, r))))
    return min(options)


def _stages(*sizes):
    """Return the stages (k, r, rest, first) to sums over boxes of several sizes along an axis.

    Each box is summed from the sums of the box before. A stage maps sums of q values to sums of
    k q + r; ``first`` is 1 if it is the first of its box.
    """
    stages, rest = [], sum(size - 1 for size in sizes)
    for size in sizes:
        reached = 1
        for k, r in _cheapest(size)[1]:
            first, before = int(reached == 1), reached
            reached = k * reached + r
            rest -= reached - before
            stages.append((k, r, rest, first))
    return stages


_UNMOVED = ((0, 0),)
_HARD = ((1, 1),) * 3


def compiled_box_sums(z, x, sigma, size, *, centred=False, n_threads=1, **options):
    """Return the sums of the weights of all windows of one size, for one batch of noisy images.

    Parameters
    ----------
    z : float32 array (B, C, H, W)
        Noisy images; at most `queries_at_once`.
    x : uint8 or float32 array (N, C, H, W)
        Training images, converted tile by tile.
    sigma : float64 array (B,)
        Noise levels, > 0; inf is allowed.
    size : (h, w)
        Height and width of the windows, 1 <= h <= H and 1 <= w <= W; with ``centred``, odd numbers
        that may be larger.
    centred : bool
        Use the windows around all pixels, which denoise their central pixel alone. Noisy and
        training images count as equal outside of the image. There are then H x W windows.
    n_threads : int
        Number of threads; results do not depend on it, to the last bit.
    data_range : tuple of (low, high)
        Values of the uint8 pixels 0 and 255.
    log_weight : float32 array (N,) or None
        Finite log weights of the training images.
    flip : bool
        Also use the left-right mirror image of every training image.
    ramps : tuple of three (h, w)
        Rows and columns over which the numbers of a window rise from its edges, see `Squares`: the
        precisions of its logits, the factors of its tilts, and the factors by which its mean is
        spread. Without ``centred``.
    moves : sequence of (down, right)
        Rows and columns by which all training images are moved, with (0, 0) first; each move
        counts as further images. Windows are compared with the moved images that cover them.
        Without ``centred``.
    memory : int
        Bytes for the state between the passes; at least the state of one noisy image.
    moments, log_weight_range
        See `TrainingSet.example_moments` and `TrainingSet.log_weight_range`, of the training set of
        which x is a shard. Shards with equal moments have comparable sums.

    Returns
    -------
    nearest, top, total, squares : float64 arrays (B, H - h + 1, W - w + 1)
        See `skpspc.posterior.softmax.Softmax`.
    state : State, or float64 array (B, C, H, W)
        With ``centred``, the means over the training set x alone.
    """
    job = _Job.of(x, size, centred, **options)
    with ThreadPool(n_threads) as pool:
        return job.sums(z, sigma, pool)


def compiled_box_means(z, x, sigma, size, *, softmax, state, n_threads=1, **options):
    """Return the summand of a training set in the composite of all windows of one size.

    Parameters
    ----------
    z, x, sigma, size, n_threads, options
        See `compiled_box_sums`.
    softmax : tuple of float64 arrays (B, H - h + 1, W - w + 1)
        ``nearest``, ``top`` and ``total`` over all shards of the training set.
    state : State
        Result of `compiled_box_sums`, without ``centred``.

    Returns
    -------
    float64 array (B, C, H, W)
    """
    with ThreadPool(n_threads) as pool:
        return _Job.of(x, size, False, **options).composite(softmax, state, pool)


def compiled_box_tilts(z, x, sigma, size, vector, *, n_threads=1, **options):
    """Return sums of the weights of all windows of one size, and mean tilts, for one batch.

    With a window k, the tilts are the numbers ``t_i = sum_{p in k} vector_p x_ip``.

    Parameters
    ----------
    z, x, sigma, size : see `compiled_box_sums`
    vector : float32 array (B, C, H, W)
    n_threads, options : see `compiled_box_sums`

    Returns
    -------
    nearest, top, total, squares, state
        See `compiled_box_sums`.
    mean : float64 array (B, H - h + 1, W - w + 1)
        Means of t, with uint8 images shifted so that the pixel 0 is 0.
    """
    job = _Job.of(x, size, False, **options)
    with ThreadPool(n_threads) as pool:
        *sums, state = job.sums(z, sigma, pool)
        return *sums, state, job.mean_tilts(state, vector, pool)


def compiled_box_tilted(z, x, sigma, size, vector, mean, *, softmax, state, n_threads=1, **options):
    """Return sums over the tilted weights of all windows of one size, for one batch.

    The tilted weights are ``W_i = w_i (t_i - mean)``, see `compiled_box_tilts`.

    Parameters
    ----------
    z, x, sigma, size, vector : see `compiled_box_tilts`
    mean : float64 array (B, H - h + 1, W - w + 1)
    softmax, state : see `compiled_box_means`
    n_threads, options : see `compiled_box_sums`

    Returns
    -------
    composite : float64 array (B, C, H, W)
        ``sum_k sum_i W_i^k x_i`` at every pixel, over the windows that cover it.
    levels : float64 array (B, H - h + 1, W - w + 1)
        ``sum_i W_i^k l_i^k``, with the logits l, of which ``state.left_out`` is left out.
    """
    job = _Job.of(x, size, False, **options)
    with ThreadPool(n_threads) as pool:
        return job.tilted(vector, mean, softmax, state, pool)


def compiled_box_information(z, x, sigma, size, *, n_threads=1, **options):
    """Return sums of the weights of all windows of one size, and their information, for one batch.

    Parameters
    ----------
    z, x, sigma, size, n_threads, options : see `compiled_box_sums`

    Returns
    -------
    nearest, top, total, squares
        See `compiled_box_sums`.
    information : float64 array (B, H - h + 1, W - w + 1)
        ``sum_i w_i log(w_i / v_i)`` with the weights w, which sum to one, and the sample weights v,
        all 1 without ``log_weight``.
    """
    job = _Job.of(x, size, False, **options)
    with ThreadPool(n_threads) as pool:
        *sums, state = job.sums(z, sigma, pool)
        return *sums, job.information(state, pool)


def _sources(x, log_weight, flip, moves, pad):
    """Return the `Sources` of a training set, in tiles that stay in the cache."""
    x = np.asarray(x).view()
    x.flags.writeable = False  # numba compiles for writable and read-only arrays separately
    if log_weight is None:
        log_weight = np.zeros(len(x))
    n_values = x.shape[1] * math.prod(np.add(x.shape[2:], 2 * np.array(pad)).tolist())
    n_tile = int(np.clip(_TILE_BYTES // (x.itemsize * n_values), 1, 16))
    moves = np.array(moves, dtype=np.int64).reshape(-1, 2)
    return Sources(x, log_weight.astype(np.float32), 2 if flip else 1, moves, n_tile, pad)


class State(NamedTuple):
    """State of a batch of noisy images between the passes over one training set.

    Attributes
    ----------
    queries : Queries
    left_out : float64 array (B, H - h + 1, W - w + 1)
        Term that is left out of all logits of a window.
    bits : uint32 array (B, M)
        Bands of windows in which each source has weight.
    nearest, total : float64 arrays (B, H - h + 1, W - w + 1)
        Softmax of the training set alone.
    """

    queries: Queries
    left_out: np.ndarray
    bits: np.ndarray
    nearest: np.ndarray
    total: np.ndarray


def _sizes(image_shape, size, centred):
    """Return the length of a flat map of windows, and the floats in the state of a noisy image."""
    channels, *sides = image_shape
    if centred:
        sides = [side + 2 * (length // 2) for side, length in zip(sides, size, strict=True)]
    n_rows = sides[0] - size[0] + 1
    length = -(-n_rows * sides[1] // CHUNK) * CHUNK
    return length, (3 + (channels if centred else 0)) * length


def queries_at_once(n_images, n_sources, image_shape, size, memory, centred=False):
    """Return the number of noisy images (C, H, W) whose states and hits fit in memory."""
    _, floats = _sizes(image_shape, size, centred)
    return _n_images(min(n_images, 64), n_sources, floats, memory)


def _n_images(most, n_sources, floats, memory):
    """Return the number of states of ``floats`` floats, and of their hits, that fit in memory."""
    hits = _HITS_FRACTION * memory // (4 * n_sources)
    return int(np.clip(min(hits, _STATE_FRACTION * memory // (4 * floats)), 1, most))


class Taper:
    """Numbers of the pixels of windows that rise from the edges over a ramp, as integer multiples.

    They are the box sum of a box: boxes of the sizes ``flat`` and ``ramp``.
    """

    def __init__(self, size, ramp):
        self.ramp = tuple(map(int, ramp))
        self.flat = tuple(side - rise + 1 for side, rise in zip(size, self.ramp, strict=True))
        self.peak = math.prod(map(min, self.flat, self.ramp))  # the largest multiple

    def profiles(self):
        """Return the multiples down a column and along a row, float64 arrays."""
        boxes = zip(self.flat, self.ramp, strict=True)
        return [np.convolve(np.ones(flat), np.ones(rise)) for flat, rise in boxes]

    def stages(self):
        """Return the stages of the sums, (S, 4) int64, and how many are down the columns."""
        down, along = (_stages(*sides) for sides in zip(self.flat, self.ramp, strict=True))
        return np.array(down + along, dtype=np.int64).reshape(-1, 4), len(down)

    def sums(self, maps):
        """Return the sums over every window of (B, H, W) non-negative float64 maps."""
        return _box_sums(_box_sums(maps, self.flat), self.ramp)


class _Job:
    """Tiles, blocks and the two passes for one training set and windows of one size.

    uint8 images keep the values 0 to 255, and all other values are in their unit.
    """

    @classmethod
    def of(cls, x, size, centred, log_weight, flip, moves=_UNMOVED, **options):
        """Return the job of a training set; see `compiled_box_sums` for the parameters."""
        pad = tuple(side // 2 for side in size) if centred else (0, 0)
        sources, size = _sources(x, log_weight, flip, moves, pad), tuple(map(int, size))
        return cls(sources, size, centred, **options)

    def __init__(
        self, sources, size, centred, data_range, memory, moments, log_weight_range, ramps=_HARD
    ):
        self.memory, self.sources = memory, sources
        x = sources.x
        above, beside = self.pad = sources.pad
        height, width = self.sides = x.shape[2] + 2 * above, x.shape[3] + 2 * beside
        self.centred = centred
        self.first_centre = above * width + beside
        self.unit, self.zero = 1.0, 0.0
        if x.dtype == np.uint8:
            self.unit, self.zero = steps_per_unit(data_range), -data_range[0]
        self.n_sources = len(x) * sources.n_flips * len(sources.moves)
        self.centre, self.spread = moments

        # Windows that wrap around the right edge of a flat map are masked.
        n_rows = height - size[0] + 1
        self.length, self.floats = _sizes(x.shape[1:], size, self.centred)
        self.n_centres = x.shape[1] if self.centred else 0  # channels of the central pixels
        position = np.arange(self.length)
        self.wrapped = (position % width > width - size[1]) | (position >= n_rows * width)
        # 32 bits per pair mark the bands of rows of windows with weight.
        band = -(-n_rows // 32)
        ends = position.reshape(-1, CHUNK)[:, [0, -1]] // width // band
        last = (n_rows - 1) // band
        bits = [sum(1 << v for v in range(a, min(b, last) + 1)) for a, b in ends]
        self.compared, self.tilted_by, self.spread_by = tapers = [Taper(size, r) for r in ramps]
        (stages, n_down), tilt, spread = (taper.stages() for taper in tapers)
        self.plan = Plan(
            box=size,
            profiles=tuple(self.compared.profiles()),
            stages=stages,
            n_down=n_down,
            tilt=tilt,
            spread=spread,
            band=band,
            cuts=Cuts(
                bands=np.array(bits, dtype=np.uint32),
                cut=np.float32(np.log(_SKIPPED_MASS) - np.log(self.n_sources)),
                deepest=_DEEP if log_weight_range < _UNEQUAL else _DEEP_UNEQUAL,
            ),
        )

    def queries_at_once(self, n_images):
        """Return the number of noisy images whose states and hits fit in memory."""
        n_images = min(n_images, 64)
        return _n_images(n_images, self.n_sources, self.floats, self.memory)

    def queries(self, z, sigma):
        """Return the `Queries`, and the term that their level removes from all logits."""
        far = np.maximum(sigma, _SIGMA_MAX)  # at sigma = inf, z does not count
        z = (z.astype(np.float64) + self.zero) * (_SIGMA_MAX / far * self.unit)[:, None, None, None]
        sigma = np.minimum(sigma, _SIGMA_MAX) * self.unit
        scale = 0.5 / sigma**2 / self.compared.peak
        # The limit keeps squares finite in float32 for any z.
        largest = np.sqrt(1e36 / (z[0].size * scale))
        limit = np.minimum(1e15, largest)[:, None, None, None]
        limit = limit / math.sqrt(self.compared.peak)
        exact = np.clip(z, -limit, limit)
        z = exact.astype(np.float32)
        low = exact - z
        shrink = sigma**2 / (self.spread + sigma**2)
        estimate = (z - self.centre) * shrink[:, None, None, None]
        level = np.square(estimate).sum(1).astype(np.float32)
        z, low, level = (self.padded(array) for array in (z, low, level))
        left_out = self.compared.sums(level.astype(np.float64)) * scale[:, None, None]
        queries = Queries(_aligned(z), _aligned(low), _aligned(level), scale.astype(np.float32))
        return queries, left_out

    def padded(self, array):
        """Return an array (..., H, W) with the zeros around an image."""
        above, beside = self.pad
        around = [(0, 0)] * (array.ndim - 2) + [(above, above), (beside, beside)]
        return np.pad(array, around) if above or beside else array

    def sums(self, z, sigma, pool):
        """Return nearest, top, total, squares and a state; see `compiled_box_sums`."""
        queries, left_out = self.queries(z, sigma)
        m, s, q, values, bits = self.softmax(queries, pool)
        nearest, total, squares = (self.grid(array).astype(np.float64) for array in (m, s, q))
        sums = nearest, -left_out, total, squares
        if not self.centred:
            return *sums, State(queries, left_out, bits, nearest, total)
        mean = self.grid((values / s[:, None]).reshape(-1, self.length)).reshape(z.shape)
        return *sums, mean / self.unit - self.zero

    def composite(self, softmax, state, pool):
        """Return the summand of the training set in the composite of the means of all windows.

        ``softmax`` is (nearest, top, total) of all shards; the result (B, C, H, W) is float64.
        """
        queries = state.queries
        share, softmax, hits = self.shared(softmax, state)
        shape = queries.z.shape
        sums = np.zeros(shape)
        groups = _groups(len(sums))
        waves = list(self.waves(len(sums), math.prod(shape[1:])))
        for wave in progress(waves, "training images, second pass"):
            composites = _aligned(np.broadcast_to(0, (len(wave), *shape)))

            def second(k, g, wave=wave, composites=composites):
                second_pass(
                    self.sources, _rows(queries, g), self.plan, wave[k], _rows(softmax, g),
                    _rows(hits, g), composites[k, g], None,
                )  # fmt: skip

            _each(pool, second, len(wave), groups)
            for composite in composites:
                sums += composite
        mean = sums / (self.counts() * self.unit)
        if self.zero:
            around = [(0, 0), *((side - 1, side - 1) for side in self.plan.box)]
            share = self.spread_by.sums(np.pad(share, around))
            mean -= self.zero * (share / self.counts())[:, None]
        return mean

    def shared(self, softmax, state):
        """Return the share of the training set in the weights of all shards, and what follows.

        The share is (B, H - h + 1, W - w + 1). `Normalised` and `Hits` follow from the softmax.
        """
        nearest, top, total = softmax
        total = total * np.exp(top + state.left_out)  # relative to logits that leave the term out
        share = np.exp(state.nearest - nearest) * (state.total / total)
        bits = self.with_share(state.bits, share)
        m, s = self.flat(nearest, HUGE), self.flat(total, 1.0)
        softmax = Normalised(_aligned(m), _aligned(np.where(self.wrapped, 0, 1 / s)))
        return share, softmax, Hits(bits, m.min(axis=1) < self.plan.cuts.deepest / 2)

    def with_share(self, bits, share):
        """Return bits without the bands in which the training set has a negligible share."""
        if share.min() >= _SKIPPED_MASS:
            return bits
        n_bands = -(-share.shape[1] // self.plan.band)
        rows = np.pad(share.max(2), ((0, 0), (0, n_bands * self.plan.band - share.shape[1])))
        matters = rows.reshape(len(share), n_bands, -1).max(2) > _SKIPPED_MASS / self.n_sources
        mask = (matters * (1 << np.arange(n_bands))).sum(1).astype(np.uint32)
        return bits & mask[:, None]

    def mean_tilts(self, state, vector, pool):
        """Return the mean tilts (B, H - h + 1, W - w + 1) over the training set alone."""
        own = state.nearest, -state.left_out, state.total
        unmoved = np.zeros((len(vector), self.length))
        mass, total, _ = self.over_sources(own, state, vector, unmoved, False, pool)
        return self.grid(total / np.where(mass > 0, mass, 1))

    def information(self, state, pool):
        """Return the information (B, H - h + 1, W - w + 1); see `compiled_box_information`."""
        own = state.nearest, -state.left_out, state.total
        without = np.zeros((len(state.total), 0), np.float32)
        unmoved = np.zeros((len(without), self.length))
        _, total, _ = self.over_sources(own, state, without, unmoved, False, pool)
        return self.grid(total)

    def tilted(self, vector, mean, softmax, state, pool):
        """Return composite and levels of tilted weights; see `compiled_box_tilted`."""
        mean = self.flat(mean, 0.0)
        _, levels, composite = self.over_sources(softmax, state, vector, mean, True, pool)
        return composite / (self.unit * self.spread_by.peak), self.grid(levels)

    def over_sources(self, softmax, state, vector, mean, composes, pool):
        """Return mass and total (B, windows), and composite, summed over all sources.

        See `second_pass` for them; ``vector`` (B, 0) adds information. ``softmax`` is (nearest,
        top, total) of all shards.
        """
        queries = state.queries
        _, softmax, hits = self.shared(softmax, state)
        vector = _aligned(vector / (self.unit * self.tilted_by.peak))
        count, shape = len(vector), vector.shape if composes else (len(vector), 0, 0, 0)
        sums = np.zeros((2, count, self.length))
        composite = np.zeros(shape)
        floats = 4 * self.length + (vector[0].size if composes else 0)
        for wave in self.waves(count, floats):
            by_block = np.zeros((len(wave), 2, count, self.length))
            composites = np.zeros((len(wave), *shape), np.float32)

            def third(k, g, wave=wave, by_block=by_block, composites=composites):
                tilting = Tilting(vector[g], mean[g], by_block[k, 0, g], by_block[k, 1, g])
                second_pass(
                    self.sources, _rows(queries, g), self.plan, wave[k], _rows(softmax, g),
                    _rows(hits, g), composites[k, g], tilting,
                )  # fmt: skip

            _each(pool, third, len(wave), _groups(count))
            for k in range(len(wave)):
                sums += by_block[k]
                composite += composites[k]
        return *sums, composite

    def softmax(self, queries, pool):
        """Return m, s and q of every window, sums of central pixels, and the bands with weight."""
        count = len(queries.scale)
        groups = _groups(count)
        bits = np.empty((count, self.n_sources), np.uint32)
        m = np.repeat(np.where(self.wrapped, HUGE, LOWEST)[None], count, axis=0)
        s = np.repeat(self.wrapped[None].astype(np.float64), count, axis=0)
        q = s.copy()
        values = np.zeros((count, self.n_centres, self.length))
        waves = list(self.waves(count, self.floats, ends=(64, 512, 4096)))
        for wave in progress(waves, "training images, first pass"):
            shapes = [(len(wave), *array.shape) for array in (m, s, q, values)]
            states = [_aligned(np.broadcast_to(m, shapes[0]))]
            states += [_aligned(np.broadcast_to(0, shape)) for shape in shapes[1:]]

            def first(k, g, wave=wave, states=states):
                *running, sums = (state[k, g] for state in states)
                centres = Centres(sums.reshape(-1), self.first_centre) if self.centred else None
                first_pass(
                    self.sources, _rows(queries, g), self.plan, wave[k], Running(*running),
                    bits[g], centres,
                )  # fmt: skip

            _each(pool, first, len(wave), groups)
            pool.submit(merge, (m, s, q, values), tuple(states)).result()
        return m, s, q, values, bits

    def counts(self):
        """Return the sum over windows of the factors by which they are spread, (H, W)."""
        pairs = zip(self.sides, self.spread_by.profiles(), strict=True)
        return np.outer(*(np.convolve(np.ones(side - len(rise) + 1), rise) for side, rise in pairs))

    def grid(self, array):
        """Return the view (B, H - h + 1, W - w + 1) of the windows in an array (B, length)."""
        (height, width), (h, w) = self.sides, self.plan.box
        rows = array[:, : (height - h + 1) * width].reshape(len(array), -1, width)
        return rows[:, :, : width - w + 1]

    def flat(self, windows, rest):
        """Return an array (B, length) of windows (B, H - h + 1, W - w + 1), and of the rest."""
        array = np.full((len(windows), self.length), rest)
        self.grid(array)[...] = windows
        return array

    def waves(self, count, floats, ends=()):
        """Yield lists of blocks [begin, end) whose states, ``floats`` per query, fit in memory.

        A list (a wave) ends at one of ``ends`` at the latest: maxima of short first waves let later
        waves skip more. Waves and blocks do not depend on the number of threads, and neither does
        the order of additions.
        """
        most = int(np.clip(_STATE_FRACTION * self.memory // (4 * floats * count), 1, 32))
        begin = 0
        while begin < self.n_sources:
            limit = min([e for e in ends if e > begin], default=self.n_sources)
            limit = min(limit, self.n_sources)
            block = int(np.clip((limit - begin) // 16, 16, 512))
            end = min(limit, begin + most * block)
            yield [(b, min(b + block, end)) for b in range(begin, end, block)]
            begin = end


def _groups(count):
    """Return slices of at most 8 noisy images."""
    return [slice(b, min(b + 8, count)) for b in range(0, count, 8)]


def _rows(record, group):
    """Return a record of arrays, reduced to a group of their rows."""
    return type(record)(*(array[group] for array in record))


def _aligned(array):
    """Return a float32 copy aligned to a cache line, as loads across two lines are slow."""
    size = array.size
    room = np.empty(size + 16, np.float32)
    start = -(room.ctypes.data // 4) % 16
    copy = room[start : start + size].reshape(array.shape)
    copy[...] = array
    return copy


def _box_sums(maps, size):
    """Return the sums over every box (h, w) of (B, H, W) non-negative float64 maps."""
    for axis, side in zip((1, 2), size, strict=True):
        sums = np.cumsum(maps, axis=axis)
        sums = np.insert(sums, 0, 0.0, axis=axis)
        n = sums.shape[axis] - side
        maps = np.take(sums, np.arange(side, side + n), axis) - np.take(sums, np.arange(n), axis)
    return maps


def _each(pool, function, n_blocks, groups):
    """Run function(block, group) for all blocks and groups in the pool."""
    for future in [pool.submit(function, k, g) for k in range(n_blocks) for g in groups]:
        future.result()
