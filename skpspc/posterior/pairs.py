"""Squared distances of pairs of a noisy and a training image."""

import torch

from .._threads import n_threads
from .engines import compiled_serves

_PAIRS = 256  # pairs of images that are compared together: they stay in the cache


def pair_squares(z, training_set, query, ids, dtype=None):
    """Return squared distances (p,), float64, of pairs, by subtraction in ``dtype``.

    A pair is the index of a row of z (n, D), ``query`` (p,), and of a training image, ``ids`` (p,).
    ``dtype`` is torch.float32 or torch.float64; None: the dtype of z.
    """
    if not len(ids):
        return z.new_empty(0, dtype=torch.float64)
    is_compiled = compiled_serves(z) and _is_stored(training_set)
    z = z if dtype is None else z.to(dtype)
    if is_compiled:
        return _by_numba(z, training_set, query, ids)
    squares = torch.empty(len(ids), dtype=torch.float64, device=z.device)
    for start in range(0, len(ids), _PAIRS):
        pairs = slice(start, start + _PAIRS)
        x = training_set.take(ids[pairs], z.dtype).flatten(1)
        difference = x - z.index_select(0, query[pairs])
        squares[pairs] = difference.square_().sum(1)
    return squares


def _is_stored(training_set):
    """Return True if compiled code can read every training image where it is stored."""
    images = training_set.images
    every = len(images) == len(training_set) and images.is_contiguous()
    return every and images.dtype in (torch.uint8, torch.float32)


def _by_numba(z, training_set, query, ids):
    """Return squared distances of pairs by compiled code."""
    from . import _pairs_numba

    unit = training_set.unit
    raw = (z - training_set.zero) * unit if training_set.is_uint8 else z
    x = training_set.images.flatten(1)
    squares = _pairs_numba.compiled_pair_squares(
        raw.numpy(), x.numpy(), query.numpy(), ids.numpy(), n_threads=n_threads()
    )
    return torch.from_numpy(squares).double() / unit**2
