"""How loops are compiled."""

import contextlib
import os
from pathlib import Path

from .._optional import load

numba = load("numba")

# A fork waits until no thread compiles: its child would wait for that thread for ever.
if hasattr(os, "register_at_fork"):
    _compiling = load("numba.core.compiler_lock").global_compiler_lock
    os.register_at_fork(
        before=_compiling.acquire,
        after_in_parent=_compiling.release,
        after_in_child=_compiling.release,
    )

# Reassociation stays off: where the order of additions is part of the answer, or rounding is.
STRICT = {"nnan", "nsz", "contract"}


def jit(function, fastmath=STRICT):
    """Compile without the GIL, cached on disk where a cache folder can be had.

    The functions that it calls, and that are compiled into it, may lie in other files of the
    same folder, if their names begin with an underscore: what is cached is that of all of these.
    """
    options: dict = {"nogil": True, "fastmath": fastmath}
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no cache folder can be written
        return numba.njit(**options)(function)
    # numba itself looks for changes in the function's own file only
    index = compiled._cache._cache_file
    index._source_stamp = index._source_stamp, _stamp(function)
    save = compiled._cache.save_overload

    def save_if_possible(*args):
        with contextlib.suppress(OSError):  # the disk may be full by the time of the first call
            save(*args)

    compiled._cache.save_overload = save_if_possible
    return compiled


def _stamp(function):
    """What changes with the code that is compiled in the folder of a function."""
    files = sorted(Path(function.__code__.co_filename).parent.glob("_*.py"))
    return [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
