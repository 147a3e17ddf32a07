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

import numpy as np
import torch
from scipy.sparse import csr_array

from .._threads import n_threads
from ..support import MirroredTrainingSet, TranslatedTrainingSet
from ..support.memory import rows_that_fit
from .posterior import PerWindow
from .softmax import RunningSoftmax, exact_scale, float32_serves, precision_root
from .weights import Weights

# Training images in a chunk: enough for fast matrix products.
_CHUNK_ROWS = 512
# Rounding error of a sum of n numbers, in units in the last place over the root of n.
_ROUNDING = 2.0


def masked(z, sigma, training_set, windows, engine="torch"):
    """Compare windows of any shape, and compose their means to whole images.

    See `select.compare` for the parameters. The engine "numba" serves windows of `has_kernel`;
    "torch" computes products in the dtype of z, "exact" in float64.
    """
    shares = windows.shares()
    shares = None if shares is None else shares.flatten(1).to(z)  # (K, P)
    serves = float32_serves(sigma, training_set) & (engine == "numba")
    groups = []
    if serves.any():
        result = _by_numba(z[serves], sigma[serves], training_set, windows, shares)
        groups.append((serves.nonzero()[:, 0], result))
    if not serves.all():
        query = windows.query.flatten(1).to(z)  # (K, Q)
        query = query.double() if engine == "exact" else query
        query = query.T.contiguous()
        roots = precision_root(sigma)
        covers = None
        if isinstance(training_set, TranslatedTrainingSet):
            covers = training_set.covers(windows)
            _check_covered(covers, z.shape[1:])
            repeats = z[0].numel() // len(query)  # a single pass needs windows of coordinates
            query = query.repeat(repeats, 1)
            shares = windows.shares().flatten(1).to(z).repeat(1, repeats)
        arguments = training_set, query, shares
        results = [
            _two_passes(*image, *arguments)
            if shares is not None and len(query) < z[0].numel()
            else _one_pass(*image, *arguments, covers, windows.batch_size)
            for image in zip(z[~serves], roots[~serves], strict=True)
        ]
        mean, log_norm, ess = (torch.stack(column) for column in zip(*results, strict=True))
        log_norm = log_norm.double() + training_set.log_uniform
        if covers is not None:  # a window counts only moves that cover it
            log_norm -= covers.double().mean(0).log()
        groups.append(((~serves).nonzero()[:, 0], PerWindow(mean, log_norm, ess.to(z.dtype))))
    return PerWindow.gathered(groups, len(z))


def _check_covered(covers, image_shape):
    """Raise if no moved image covers a window; see `TranslatedTrainingSet.covers`."""
    n_missing = int((~covers.any(0)).sum())
    if n_missing:
        raise ValueError(
            f"no moved training image covers {n_missing} of {covers.shape[1]} windows of noisy "
            f"images of shape {tuple(image_shape)}; pass a larger max_shift, or smaller windows "
            "than the training images."
        )


def _by_numba(z, sigma, training_set, windows, shares):
    """Compare by compiled code."""
    from . import _masks_numba

    weight = training_set.log_weight
    rest = dict(
        query=windows.sparse_query,
        response=None if shares is None else csr_array(shares.T.numpy()),
        data_range=training_set.data_range,
        log_weight=None if weight is None else weight.numpy(),
        flip=isinstance(training_set, MirroredTrainingSet),
        n_threads=n_threads(),
    )
    image_bytes = _masks_numba.state_bytes(len(training_set), len(windows.query), z[0].numel())
    block = rows_that_fit(image_bytes, len(z), what="One noisy image")
    x = training_set.images.numpy()
    blocks = [
        _masks_numba.compiled_masked_posterior(images.numpy(), x, levels.numpy(), **rest)
        for images, levels in zip(z.split(block), sigma.split(block), strict=True)
    ]
    arrays = (torch.from_numpy(np.concatenate(column)) for column in zip(*blocks, strict=True))
    mean, log_norm, ess = arrays
    return PerWindow(mean, log_norm.double() + training_set.log_uniform, ess)


def _two_passes(z, a, training_set, query, shares):
    """Return mean (C, H, W), log normaliser (K,) and effective sample size (K,) of one image."""
    weights = WindowWeights(z, a, training_set, query)
    mean = torch.zeros_like(z).flatten(1)  # (C, H W)
    for _, weight, x in weights.chunks():
        mean += torch.einsum("mp,mcp->cp", weight.to(z.dtype) @ shares, x.flatten(2))
    return mean.view(z.shape), weights.softmax.log_norm, weights.softmax.effective_sample_size


def _one_pass(z, a, training_set, query, shares, covers, batch_size):
    """Return the results of `_two_passes`.

    Weights are normalised within each batch of training images, and the means of the batches are
    averaged.
    """
    n = len(training_set)
    starts = range(0, n, batch_size or n)
    mean = torch.zeros_like(z)
    log_norm = query.new_full((query.shape[1],), -torch.inf)
    concentration = torch.zeros_like(log_norm)
    for start in starts:
        rows = slice(start, min(start + starts.step, n))
        batch_mean, norm, ess = _batch(z, a, training_set, query, shares, covers, rows)
        mean += batch_mean / len(starts)
        log_norm = torch.logaddexp(log_norm, norm)
        concentration += 1 / ess
    return mean, log_norm, len(starts) ** 2 / concentration


def _batch(z, a, training_set, query, shares, covers, batch):
    """Return the results of `_two_passes` for a slice of the training images."""
    softmax = RunningSoftmax(torch.zeros_like(query[0]), rounding=_rounding(z, query))
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
        _, weight, shrink = softmax.add(logit, training_set.prior(rows))
        weight = weight.to(z.dtype)
        sums *= shrink.view(by_window).to(z.dtype)
        sums += (weight.view(len(x), *by_window) * x).sum(0) if own else weight.T @ x.flatten(1)
    means = sums / softmax.total.view(by_window).to(z.dtype)
    mean = means if own else (means * shares).sum(0).view(z.shape)
    return mean, softmax.log_norm, softmax.effective_sample_size


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

    def __init__(self, z, a, source, query, without=None):
        self._z, self._a, self._query = z, a, query
        row_bytes = 3 * z.element_size() * z.numel() + 8 * len(query) + 4 * 8 * query.shape[1]
        n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
        rounding = _rounding(z, query)
        super().__init__(source, torch.zeros_like(query[0]), n_rows, rounding, without=without)

    def _logits(self, rows):
        x = self._source.take(rows, self._z.dtype)
        answers = self._source.answers
        values = x if answers is self._source else answers.take(rows, self._z.dtype)
        return window_logits(self._z, self._a, x, self._query), values
