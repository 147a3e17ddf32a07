"""All square windows of one size at once, by box filters.

The squared difference of a noisy and a training image, summed over channels, is one H x W map. Its
box sums are the distances of all h x w windows, and the composite of the means of all windows is

    D(z)_p = (1 / count_p) sum_i x_ip B^T[w_i]_p

where B^T is the transposed box filter, applied to the map of the weights of image i. No patch is
copied, and the work does not depend on the window size. A tapered window is a box sum of box sums.
"""

import math

import torch

from .._threads import n_threads
from ..support import MirroredTrainingSet, TranslatedTrainingSet
from ..support.memory import rows_that_fit, working_bytes
from .direction import ProductKernel, Tilts
from .kernel import Kernel
from .softmax import RunningSoftmax, Softmax, difference_dtype, exact_scale, precision_root

# Number of noisy images that share one pass over the training set.
_NOISY_IMAGES = 8


def box(z, sigma, training_set, windows, engine="torch"):
    """Compare all square windows of one shape, and compose their means to whole images.

    See `select.compare` for the parameters; ``engine`` is "torch" or "numba".
    """
    return BOX.compare(z, sigma, training_set, windows, engine)


def _n_images(z, training_set, windows, engine):
    if engine == "numba":
        return n_compiled(z, training_set, (windows.h, windows.w))
    return rows_that_fit(_pair_bytes(z), _NOISY_IMAGES, what="One pair of images")


def n_compiled(z, training_set, window, **options):
    """Return the number of noisy images that compiled code compares at once."""
    _check_memory(z, training_set)
    from . import _box_numba

    sizes = len(z), len(training_set), tuple(z.shape[1:]), window
    return _box_numba.queries_at_once(*sizes, working_bytes(), **options)


def _check_memory(z, training_set):
    """Raise MemoryError if the state of one noisy image does not fit."""
    # twice the state of one noisy image: the state of its pixels and of the training images
    rows_that_fit(2 * (24 * z[0].numel() + 8 * len(training_set)), 1, what="One noisy image")


def _sums(z, sigma, training_set, windows, engine):
    if engine == "numba":
        options = _options(training_set, windows)
        return compiled_sums(z, sigma, training_set, (windows.h, windows.w), **options)
    pairs = _Pairs(z, sigma, training_set, windows)
    softmax = RunningSoftmax(pairs.by_window(), z.dtype)
    for rows, x in pairs.chunks():
        softmax.add(pairs.logits(rows, x), training_set.prior(rows))
    return softmax.sums, None


def _means(z, sigma, training_set, windows, engine, softmax, state):
    if engine == "numba":
        return _compiled_means(z, sigma, training_set, windows, softmax, state)
    pairs = _Pairs(z, sigma, training_set, windows)
    softmax = RunningSoftmax.resumed(softmax, pairs.by_window(), z.dtype)
    total = softmax.total.to(z.dtype)[:, None]
    mean = torch.zeros_like(z)
    for rows, x in pairs.chunks():
        # not exp(logit - log_norm), a difference of large numbers at small sigma
        relative = softmax.relative(pairs.logits(rows, x), training_set.prior(rows))
        weight = relative.exp_().div_(total)  # (b, m, h', w')
        spread = window_spread(weight, windows, windows.response_ramp)
        mean += torch.einsum("bmhw,mchw->bchw", spread, x.to(z.dtype))
    mean /= torch.as_tensor(windows.counts(z.shape[1:])).to(mean)
    return mean


BOX = Kernel(_n_images, _sums, _means)


def compiled_sums(z, sigma, training_set, window, **options):
    """Return the `Softmax` and a state, by compiled code; see `_box_numba.compiled_box_sums`."""
    *sums, state = _compiled("sums", z, sigma, training_set, window, **options)
    return Softmax.of(*map(torch.from_numpy, sums)), state


def _compiled_means(z, sigma, training_set, windows, softmax, state):
    """Return the summand of the training set in the posterior means, by compiled code."""
    options = dict(softmax=_numpy_softmax(softmax, state), state=state)
    options |= _options(training_set, windows)
    window = windows.h, windows.w
    return torch.from_numpy(_compiled("means", z, sigma, training_set, window, **options))


def compiled_information(z, sigma, training_set, windows):
    """Return the `Softmax` and the information (n, h', w'), by compiled code."""
    window, options = (windows.h, windows.w), _options(training_set, windows)
    *sums, information = _compiled("information", z, sigma, training_set, window, **options)
    return Softmax.of(*map(torch.from_numpy, sums)), torch.from_numpy(information)


def _options(training_set, windows, backward=False):
    """Return the ramps of windows and the moves of images, for compiled code."""
    query, response = windows.query_ramp, windows.response_ramp
    options = {"ramps": (query, response, query) if backward else (query, query, response)}
    if not isinstance(training_set, TranslatedTrainingSet):
        return options
    covering = training_set.covers(windows).flatten(1).any(1).tolist()
    moves = [move for move, covers in zip(training_set.moves, covering, strict=True) if covers]
    return {**options, "moves": moves}


def _n_products(z, training_set, windows):
    return n_compiled(z, training_set, (windows.h, windows.w))


def _tilts(z, sigma, training_set, windows, direction):
    vector = _spread_vector(direction, windows)
    options = _options(training_set, windows, direction.backward)
    arrays = (windows.h, windows.w), vector.numpy()
    *sums, state, mean = _compiled("tilts", z, sigma, training_set, *arrays, **options)
    ramp = _tilt_ramp(windows, direction)
    mean = torch.from_numpy(mean) - _tilts_of_z(z, vector, training_set, windows, ramp)
    tilts = Tilts(Softmax.of(*map(torch.from_numpy, sums)), mean.flatten(1))
    return tilts, (tilts, state)


def _values(z, sigma, training_set, windows, direction, tilts, state):
    own, state = state
    grid = state.left_out.shape
    mean, softmax, shift = tilts.mean, tilts.softmax, direction.shift
    # the sum of the tilted weights of every window
    share = 1.0 if tilts is own else own.softmax.share(softmax)
    weight = (share * (own.mean - mean + shift)).view(grid)
    vector = _spread_vector(direction, windows)
    ramp = _tilt_ramp(windows, direction)
    mean = (mean - shift).view(grid) + _tilts_of_z(z, vector, training_set, windows, ramp)
    options = dict(softmax=_numpy_softmax(softmax, state), state=state)
    options |= _options(training_set, windows, direction.backward)
    arrays = (windows.h, windows.w), vector.numpy(), mean.numpy()
    composite, levels = map(
        torch.from_numpy, _compiled("tilted", z, sigma, training_set, *arrays, **options)
    )
    levels = levels - weight * torch.from_numpy(state.left_out)
    if direction.backward:
        spread = window_spread(weight, windows, windows.query_ramp)
        composite += spread[:, None] * (training_set.zero - z.double())
    else:  # the tilted weights of all shards sum to zero: so does what a constant adds
        composite /= torch.as_tensor(windows.counts(z.shape[1:]))
    return composite, levels.sum((1, 2))


# by compiled code, for directions without levels
BOX_PRODUCT = ProductKernel(_n_products, _tilts, _values)


def _spread_vector(direction, windows):
    """Return the factor of the training images in the tilts of windows."""
    vector = direction.vector
    if not direction.backward:
        return vector
    return vector / torch.as_tensor(windows.counts(vector.shape[1:])).to(vector)


def _tilt_ramp(windows, direction):
    """Return the ramp of the factors of pixels in the tilts of windows."""
    return windows.response_ramp if direction.backward else windows.query_ramp


def _tilts_of_z(z, vector, training_set, windows, ramp):
    """Return the tilts of noisy images in place of training images, (n, h', w') float64."""
    return window_sum((vector * (z.double() - training_set.zero)).sum(1), windows, ramp)


def _numpy_softmax(softmax, state):
    """Return nearest, top and total on the grid of the windows."""
    return [tensor.view(state.left_out.shape).numpy() for tensor in softmax[:3]]


def _compiled(name, z, sigma, training_set, window, *arrays, **options):
    """Return the results of a compiled function of `_box_numba`."""
    from . import _box_numba

    weight = training_set.log_weight
    return getattr(_box_numba, f"compiled_box_{name}")(
        z.numpy(),
        training_set.images.numpy(),
        sigma.numpy(),
        window,
        *arrays,
        data_range=training_set.data_range,
        log_weight=None if weight is None else weight.numpy(),
        log_weight_range=training_set.log_weight_range,
        flip=isinstance(training_set.unmoved, MirroredTrainingSet),
        moments=training_set.example_moments,
        n_threads=n_threads(),
        memory=working_bytes(),
        **options,
    )


def _pair_bytes(z):
    """Return the bytes for one pair of images: difference, square and a few maps, in float64."""
    _, channels, height, width = z.shape
    return 8 * height * width * (2 * channels + 7)


class _Pairs:
    """Pairs of a few noisy images and all training images, whose squares are summed over windows.

    See `select.compare` for the parameters.
    """

    def __init__(self, z, sigma, training_set, windows):
        self._z, self._training_set, self._windows = z, training_set, windows
        a = precision_root(sigma)
        n_values = windows.n_values(z.shape[1:])
        self._dtype = difference_dtype(z, a, training_set, n_values)
        scale, factor = exact_scale(a)
        self._scale = scale.to(self._dtype).view(-1, 1, 1, 1, 1)
        self._factor = factor.view(-1, 1, 1, 1)
        self._scaled = z[:, None] * self._scale  # (b, 1, C, H, W)
        moved = isinstance(training_set, TranslatedTrainingSet)
        self._covers = training_set.covers(windows) if moved else None

    def by_window(self):
        """Return zeros for each noisy image and window, (b, h', w') float64."""
        sides = zip(self._z.shape[2:], (self._windows.h, self._windows.w), strict=True)
        grid = [side - length + 1 for side, length in sides]
        return self._z.new_zeros(len(self._z), *grid, dtype=torch.float64)

    def chunks(self):
        """Yield slices of the training images, and their images (m, C, H, W)."""
        pair_bytes = _pair_bytes(self._z) * len(self._z)
        n_rows = rows_that_fit(pair_bytes, len(self._training_set), what="A block of noisy images")
        for rows in self._training_set.slices(n_rows):
            yield rows, self._training_set.take(rows, self._dtype)

    def logits(self, rows, x):
        """Return the logits of all windows, without sample weights, (b, m, h', w') float64.

        They are -inf where a moved image does not cover the window.
        """
        difference = self._scaled - self._scale * x  # (b, m, C, H, W)
        # float32 sums over a wide window would be the largest error of the logits
        squares = difference.square_().sum(2).double()
        windows = self._windows
        logits = window_sum(squares, windows, windows.query_ramp).mul_(-self._factor)
        if self._covers is None:
            return logits
        return logits.masked_fill_(~self._covers[self._training_set.moves_of(rows)], -torch.inf)


def window_sum(maps, windows, ramp):
    """Return the sums over every window of `Squares`, by numbers that rise over a ramp.

    The sums map (..., H, W) to (..., H - h + 1, W - w + 1).
    """
    sums = box_sum(maps, windows.flat(ramp))
    return sums if ramp == (1, 1) else box_sum(sums, ramp) / math.prod(ramp)


def window_spread(weight, windows, ramp):
    """Add the value of each window to its pixels: the transpose of `window_sum`."""
    if ramp != (1, 1):
        weight = box_spread(weight, ramp) / math.prod(ramp)
    return box_spread(weight, windows.flat(ramp))


def box_sum(maps, window):
    """Return the sum over every h x w window: (..., H, W) -> (..., H - h + 1, W - w + 1).

    Sums of 1, 2, 4, ... entries are combined by the binary digits of the side. Only non-negative
    numbers are added, so that nothing cancels; differences of cumulative sums would cancel.
    """
    for axis, side in zip((-2, -1), window, strict=True):
        maps = _sum_along(maps, axis, side)
    return maps


def _sum_along(maps, axis, side):
    """Return the sums of ``side`` consecutive entries along an axis."""
    n_out = maps.shape[axis] - side + 1
    out, offset, length = None, 0, 1
    while True:
        if side & length:
            sums = maps.narrow(axis, offset, n_out)
            out = sums if out is None else out + sums
            offset += length
        length *= 2
        if length > side:
            return out
        half = length // 2
        n_left = maps.shape[axis] - half
        maps = maps.narrow(axis, 0, n_left) + maps.narrow(axis, half, n_left)


def box_spread(weight, window):
    """Add the value of each window to all pixels of the window: the transpose of `box_sum`."""
    h, w = window
    padded = torch.nn.functional.pad(weight, (w - 1, w - 1, h - 1, h - 1))
    return box_sum(padded, window)
