r"""Windows of any shape, by matrix products: the general formula.

.. math::

    w_i^k = \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2} \sum_j \pi_{kj} (z_j - x_{ij})^2
            + \log v_i\Bigr),
    \qquad
    D(z)_p = \frac{\sum_k r_{kp} \sum_i w_i^k x_{ip}}{\sum_k r_{kp}}

The squared differences of a noisy and a training image make one row. The product of the row and the
matrix of query precisions gives the distances of all K windows. If windows are equal in all
channels, a second pass over the training set spreads their weights by the matrix of responses.
Otherwise a single pass sums K weighted images, or one weighted image if every window denoises its
own coordinate alone. Only non-negative numbers are added, so that nothing cancels.
"""

import math

import torch
from scipy.sparse import csr_array

from .._threads import n_threads
from ..support import MirroredTrainingSet, TranslatedTrainingSet
from ..support.memory import rows_that_fit
from .kernel import Kernel, scaled
from .posterior import PerWindow
from .softmax import RunningSoftmax, Softmax, exact_scale, precision_root
from .weights import Weights

# Training images in a chunk: enough for fast matrix products.
_CHUNK_ROWS = 512
# Noisy images whose states are in memory together; each makes its own passes.
_NOISY_IMAGES = 16
# Rounding error of a sum of n numbers, in units in the last place over the root of n.
_ROUNDING = 2.0


def masked(z, sigma, training_set, windows, engine="torch"):
    """Compare windows of any shape, and compose their means to whole images.

    See `select.compare` for the parameters. The engine "numba" serves windows of `has_kernel`;
    "torch" computes products in the dtype of z, "exact" in float64.
    """
    # a single pass sums an image per window
    together = windows.response is not None and windows.query[0].numel() == z[0].numel()
    if in_one_batch(training_set, windows) and not (together and engine != "numba"):
        return MASKS.compare(z, sigma, training_set, windows, engine)
    query, covers = _query(z, windows, engine), None
    shares = None if windows.response is None else windows.shares().flatten(1).to(z)
    if isinstance(training_set, TranslatedTrainingSet):
        covers = training_set.covers(windows)
        _check_covered(covers, z.shape[1:])
        repeats = z[0].numel() // len(query)  # a single pass needs windows of coordinates
        query, shares = query.repeat(repeats, 1), windows.shares().flatten(1).to(z)
        shares = shares.repeat(1, repeats)
    arguments = training_set, query, shares, covers, windows.batch_size
    results = [
        _one_pass(*image, *arguments) for image in zip(z, precision_root(sigma), strict=True)
    ]
    mean, log_norm, ess = (torch.stack(column) for column in zip(*results, strict=True))
    log_norm = log_norm.double() + training_set.log_uniform
    log_norm -= training_set.log_covered(windows)
    return PerWindow(mean, log_norm, ess.to(z.dtype))


def in_one_batch(training_set, windows):
    """Return True if the windows have a kernel in two steps: one batch, and images of one size."""
    return windows.batch_size is None and not isinstance(training_set, TranslatedTrainingSet)


def _query(z, windows, engine):
    """Return the precisions (Q, K) of windows, in the dtype of logits."""
    query = windows.query.flatten(1).to(z)
    query = query.double() if engine == "exact" else query
    return query.T.contiguous()


def _n_images(z, training_set, windows, engine):
    if engine != "numba":
        return rows_that_fit(8 * len(training_set), _NOISY_IMAGES, what="One noisy image")
    from . import _masks_numba

    image_bytes = _masks_numba.state_bytes(len(training_set), len(windows.query), z[0].numel())
    return rows_that_fit(image_bytes, len(z), what="One noisy image")


def _sums(z, sigma, training_set, windows, engine):
    if engine == "numba":
        moments = training_set.example_moments
        *sums, state = _compiled("sums", z, training_set, windows, sigma.numpy(), moments=moments)
        softmax = Softmax.of(*map(torch.from_numpy, sums))
        return softmax, (softmax, torch.from_numpy(state)) if windows.response is None else state
    query = _query(z, windows, engine)
    whole = slice(0, len(training_set))
    by_image, states = [], []
    for image, a in zip(z, precision_root(sigma), strict=True):
        if windows.response is None:
            sums, state = _batch(image, a, training_set, query, None, None, whole)
        else:
            weights = WindowWeights(image, a, training_set, query)
            sums, state = weights.sums, weights.closest
        by_image.append(sums)
        states.append(state)
    softmax = Softmax(*map(torch.cat, zip(*by_image, strict=True)))
    return softmax, (softmax, torch.stack(states))


def _means(z, sigma, training_set, windows, engine, softmax, state):
    if windows.response is None:
        own, mean = state
        return scaled(mean, own, softmax)
    if engine == "numba":
        sums = [tensor.numpy() for tensor in softmax[:3]]
        return torch.from_numpy(_compiled("means", z, training_set, windows, sums, state))
    own, closest = state
    query, shares = _query(z, windows, engine), windows.shares().flatten(1).to(z)
    if softmax is not own:  # images count by their weight among the images of all shards
        closest = closest + own.share(softmax).amax(1, keepdim=True).log().to(closest)
    means = []
    for i, (image, a) in enumerate(zip(z, precision_root(sigma), strict=True)):
        state = softmax.rows(slice(i, i + 1)), closest[i]
        weights = WindowWeights(image, a, training_set, query, state=state)
        means.append(_composite(image, weights, shares))
    return torch.stack(means)


MASKS = Kernel(_n_images, _sums, _means)


def _composite(z, weights, shares):
    """Return the sum (C, H, W) of weighted images that windows add to one image z."""
    mean = torch.zeros_like(z).flatten(1)  # (C, H W)
    in_channels = len(z) * shares.shape[1] > z.numel()  # shares differ between channels
    for _, weight, x in weights.chunks():
        spread = weight.to(z.dtype) @ shares
        if in_channels:
            mean += (spread.view(len(x), *mean.shape) * x.flatten(2)).sum(0)
        else:
            mean += torch.einsum("mp,mcp->cp", spread, x.flatten(2))
    return mean.view(z.shape)


def _check_covered(covers, image_shape):
    """Raise if no moved image covers a window; see `TranslatedTrainingSet.covers`."""
    n_missing = int((~covers.any(0)).sum())
    if n_missing:
        raise ValueError(
            f"no moved training image covers {n_missing} of {covers.shape[1]} windows of noisy "
            f"images of shape {tuple(image_shape)}; pass a larger max_shift, or smaller windows "
            "than the training images."
        )


def _compiled(name, z, training_set, windows, *arrays, **options):
    """Return the results of a compiled function of `_masks_numba`."""
    from . import _masks_numba

    if "compiled" not in windows.derived:
        query, shares = csr_array(windows.query.flatten(1).float().numpy()), windows.shares()
        response = None if shares is None else csr_array(shares.flatten(1).float().T.numpy())
        windows.derived["compiled"] = _masks_numba.compiled_windows(query, response)
    weight = training_set.log_weight
    return getattr(_masks_numba, f"compiled_masked_{name}")(
        z.numpy(),
        training_set.images.numpy(),
        windows.derived["compiled"],
        *arrays,
        data_range=training_set.data_range,
        log_weight=None if weight is None else weight.numpy(),
        flip=isinstance(training_set, MirroredTrainingSet),
        n_threads=n_threads(),
        **options,
    )


def _one_pass(z, a, training_set, query, shares, covers, batch_size):
    """Return mean (C, H, W), log normaliser (K,) and effective sample size (K,) of one image.

    Weights are normalised within each batch of training images, and the means of the batches are
    averaged.
    """
    n = len(training_set)
    starts = range(0, n, batch_size or n)
    mean = torch.zeros_like(z)
    log_norm = torch.full_like(query[0], -torch.inf, dtype=torch.float64)
    concentration = torch.zeros_like(log_norm)
    for start in starts:
        rows = slice(start, min(start + starts.step, n))
        softmax, batch_mean = _batch(z, a, training_set, query, shares, covers, rows)
        mean += batch_mean / len(starts)
        log_norm = torch.logaddexp(log_norm, softmax.log_norm[0])
        concentration += 1 / softmax.effective_sample_size[0]
    return mean, log_norm, len(starts) ** 2 / concentration


def _batch(z, a, training_set, query, shares, covers, batch):
    """Return the `Softmax` and the mean (C, H, W) of one image and a slice of training images."""
    softmax = RunningSoftmax(torch.zeros_like(query[:1]), rounding=_rounding(z, query))
    n_windows, own = query.shape[1], shares is None
    sums = torch.zeros_like(z) if own else z.new_zeros(n_windows, z.numel())
    by_window = (-1, *z.shape[1:]) if own else (-1, 1)  # own: windows of pixels, or of coordinates
    row_bytes = z.element_size() * 3 * z.numel() + 8 * (len(query) + 5 * n_windows)
    n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
    for start in range(batch.start, batch.stop, n_rows):
        rows = slice(start, min(start + n_rows, batch.stop))
        x = training_set.take(rows, z.dtype)
        logit = window_logits(z, a, x, query)
        if covers is not None:
            logit.masked_fill_(~covers[training_set.moves_of(rows)], -torch.inf)
        _, (weight,), shrink = softmax.add(logit[None], training_set.prior(rows))
        weight = weight.to(z.dtype)
        sums *= shrink.view(by_window).to(z.dtype)
        sums += (weight.view(len(x), *by_window) * x).sum(0) if own else weight.T @ x.flatten(1)
    means = sums / softmax.total.view(by_window).to(z.dtype)
    return softmax.sums, means if own else (means * shares).sum(0).view(z.shape)


def _rounding(z, query):
    """Return the relative rounding error of float64 logits; 0 for float32: ties may differ."""
    if query.dtype != torch.float64:
        return 0.0
    return _ROUNDING * math.sqrt(z.numel()) * torch.finfo(torch.float64).eps


def window_logits(z, a, x, query):
    """Return the logits (m, K) of training images x (m, C, H, W) in windows, without weights.

    z (C, H, W) is one noisy image, and a is ``1 / (sigma sqrt(2))``, float64. ``query`` (Q, K) has
    precisions of pixels, equal in all channels, or of coordinates; products have its dtype.
    """
    # scale differences instead of images, so that equal distances stay equal
    scale, factor = exact_scale(a)
    scale = scale.to(z.dtype)
    squared = (z * scale - scale * x).square_()
    if len(query) < z.numel():
        squared = squared.sum(1, dtype=query.dtype)
    # float32 sums over many coordinates would be the largest error of the logits
    return (squared.flatten(1).to(query.dtype) @ query).mul_(-factor.to(query.dtype))


class WindowWeights(Weights):
    """Weights in windows that compare equal coordinates of noisy and training images.

    See `window_logits` and `Weights` for the parameters.
    """

    def __init__(self, z, a, source, query, without=None, state=None):
        self._z, self._a, self._query = z, a, query
        row_bytes = 3 * z.element_size() * z.numel() + 8 * len(query) + 4 * 8 * query.shape[1]
        n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
        rounding = _rounding(z, query)
        sums = torch.zeros_like(query[0])
        super().__init__(source, sums, n_rows, rounding, without=without, state=state)

    def _logits(self, rows):
        x = self._source.take(rows, self._z.dtype)
        answers = self._source.answers
        values = x if answers is self._source else answers.take(rows, self._z.dtype)
        return window_logits(self._z, self._a, x, self._query), values
