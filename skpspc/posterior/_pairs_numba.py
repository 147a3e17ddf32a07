"""Squared distances of pairs of images, compiled for the CPU."""

from functools import partial

import numpy as np

from .._threads import ThreadPool
from ._jit import jit

_PAIRS = 2048  # pairs that one thread computes at a time


@partial(jit, fastmath=True)  # sums in any order, to vectorise them
def _squares(z, x, query, ids, out):
    """Write out[p] = |z[query[p]] - x[ids[p]]|^2, computed in the dtype of z."""
    for p in range(len(out)):
        a = z[query[p]]
        b = x[ids[p]]
        total = z.dtype.type(0.0)
        for j in range(len(a)):
            d = a[j] - z.dtype.type(b[j])
            total += d * d
        out[p] = total


def compiled_pair_squares(z, x, query, ids, n_threads=1):
    """Return the squared distances of pairs of a noisy and a training image.

    Parameters
    ----------
    z : float32 or float64 array (n, D)
    x : uint8 or float32 array (N, D)
        Training images; for uint8, z has the units 0 to 255.
    query, ids : int64 array (p,)
        Row indices of z and of x.
    n_threads : int
        Number of threads.

    Returns
    -------
    array (p,), in the dtype of z
    """
    x = x.view()
    x.flags.writeable = False  # numba compiles for writable and read-only arrays separately
    out = np.empty(len(ids), z.dtype)

    def write(start):
        pairs = slice(start, start + _PAIRS)
        _squares(z, x, query[pairs], ids[pairs], out[pairs])

    with ThreadPool(n_threads) as pool:
        list(pool.map(write, range(0, len(ids), _PAIRS)))
    return out
