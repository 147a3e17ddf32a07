"""How loops are compiled."""

import contextlib

from .._optional import load

numba = load("numba")

# Reassociation stays off: where the order of additions is part of the answer, or rounding is.
STRICT = {"nnan", "nsz", "contract"}


def jit(function, fastmath=STRICT):
    """Compile without the GIL, cached on disk where a cache folder can be had."""
    options: dict = {"nogil": True, "fastmath": fastmath}
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no cache folder can be written
        return numba.njit(**options)(function)
    save = compiled._cache.save_overload

    def save_if_possible(*args):
        with contextlib.suppress(OSError):  # the disk may be full by the time of the first call
            save(*args)

    compiled._cache.save_overload = save_if_possible
    return compiled
