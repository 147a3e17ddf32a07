"""The choice between compiled code and torch."""

from functools import cache

import torch

from .._optional import available, load
from .._warnings import warn

ENGINES = ("auto", "numba", "torch")


def compiled_serves(z):
    """Return whether there is compiled code for images like z; warn once if numba is missing."""
    return _is_plain(z) and _has_numba()


def engine_for(z, engine):
    """Return the engine that computes windows of the images z: "numba" or "torch".

    With ``engine="numba"`` raise an ImportError if numba is missing, and a ValueError if the images
    are not float32 on the CPU.
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

    Compiled code skips the pixels of precision 0; where most pixels count, "auto" takes matrix
    products, which are as fast.
    """
    has_kernel = windows.response is not None and windows.query.shape[1] == 1
    if engine == "exact" or not has_kernel:
        return "exact" if engine == "exact" else "torch"
    is_dense = 2 * int(windows.query.count_nonzero()) > windows.query.numel()
    return "torch" if engine == "auto" and is_dense else engine_for(z, engine)


def _is_plain(z):
    """Return whether compiled code takes the images z."""
    return z.dtype == torch.float32 and z.device.type == "cpu"


@cache
def _has_numba():
    """Return whether numba is installed; warn once if it is not."""
    installed = available("numba")
    if not installed:
        warn(
            "numba is not installed, so torch computes in place of compiled code: equal numbers, "
            'slower. pip install "skpspc[cpu]", or pass engine="torch" where there is an engine.'
        )
    return installed
