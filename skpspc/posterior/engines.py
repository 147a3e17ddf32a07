"""The choice between compiled code and torch."""

from functools import cache

import torch

from .._optional import load
from .._warnings import warn

ENGINES = ("auto", "numba", "torch")


def compiled_serves(z):
    """Return True if compiled code serves images like z; warn once if numba is missing."""
    return _is_plain(z) and _has_numba()


def engine_for(z, engine):
    """Return the engine that computes windows of the images z: "numba" or "torch".

    For ``engine="numba"``, raises ImportError if numba is missing, and ValueError if the images are
    not float32 on the CPU.
    """
    if engine == "auto":
        return "numba" if compiled_serves(z) else "torch"
    if engine == "numba":
        if not _is_plain(z):
            raise ValueError(
                f"engine='numba' computes in float32 on the CPU, got {z.dtype} on {z.device}; "
                "pass float32 images, or use engine='auto'."
            )
        load("numba")
    return engine


def engine_for_masks(z, engine, windows):
    """Return the engine that computes `Masks` of the images z: "numba", "torch" or "exact".

    Compiled code skips pixels of precision 0. If most pixels count by different precisions, "auto"
    uses matrix products, which are as fast.
    """
    if engine == "exact" or not has_kernel(windows):
        return "exact" if engine == "exact" else "torch"
    query = windows.query
    is_dense = query.is_floating_point() and 2 * int(query.count_nonzero()) > query.numel()
    return "torch" if engine == "auto" and is_dense else engine_for(z, engine)


def has_kernel(windows):
    """Return True if compiled code serves `Masks`: of pixels, or one for each coordinate."""
    query = windows.query
    if windows.response is None:
        return windows.batch_size is None and len(query) == query[0].numel()
    return query.shape[1] == 1


def _is_plain(z):
    """Return True if compiled code accepts the images z."""
    return z.dtype == torch.float32 and z.device.type == "cpu"


@cache
def _has_numba():
    """Return True if numba can be imported; warn once with the reason if it cannot."""
    try:
        load("numba")
    except ImportError as error:
        warn(
            f"torch computes in place of compiled code, with equal results but slower: {error} "
            'Or pass engine="torch" if the denoiser has this parameter.'
        )
        return False
    return True
