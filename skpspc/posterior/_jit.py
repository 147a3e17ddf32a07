"""How loops are compiled."""

from .._optional import load

numba = load("numba")

# Reassociation stays off: where the order of additions is part of the answer, or rounding is.
STRICT = {"nnan", "nsz", "contract"}


def jit(function, fastmath=STRICT):
    """Compile without the GIL, cached on disk where a cache folder can be had."""
    options: dict = {"nogil": True, "fastmath": fastmath}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no cache folder can be written
        return numba.njit(**options)(function)
