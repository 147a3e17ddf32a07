"""Squared distances of chosen pairs of images, compiled for the CPU."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from ._jit import jit

_PAIRS = 2048  # pairs that one thread computes at a time


@partial(jit, fastmath=True)  # sums in any order: they can be vectorised then
def _squares(z, x, query, ids, out):
    """out[p] = |z[query[p]] - x[ids[p]]|^2, rows of float32 and of any type."""
    for p in range(len(out)):
        a = z[query[p]]
        b = x[ids[p]]
        total = np.float32(0.0)
        for j in range(len(a)):
            d = a[j] - np.float32(b[j])
            total += d * d
        out[p] = total


def compiled_pair_squares(z, x, query, ids, n_threads=1):
    """Squared distances of pairs.

    Parameters
    ----------
    z : float32 array (n, D)
    x : uint8 or float32 array (N, D)
        Compared as they are: uint8 as 0 .. 255.
    query, ids : int64 array (p,)
        Rows of z and of x.
    n_threads : int

    Returns
    -------
    float32 array (p,)
    """
    x = x.view()
    x.flags.writeable = False  # compiled once for writable and read-only arrays
    out = np.empty(len(ids), np.float32)

    def some(start):
        part = slice(start, start + _PAIRS)
        _squares(z, x, query[part], ids[part], out[part])

    # compiled code is loaded outside the main thread, where Ctrl-C cannot meet it
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(some, range(0, len(ids), _PAIRS)))
    return out
