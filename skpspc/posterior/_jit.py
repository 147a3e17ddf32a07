"""Compilation of functions by numba."""

import contextlib
import os
from pathlib import Path

from .._optional import load

numba = load("numba")

# A fork waits until no thread compiles: the child would wait for the compiling thread for ever.
if hasattr(os, "register_at_fork"):
    _compiling = load("numba.core.compiler_lock").global_compiler_lock
    os.register_at_fork(
        before=_compiling.acquire,
        after_in_parent=_compiling.release,
        after_in_child=_compiling.release,
    )

# No reassociation, for loops whose result depends on the order of additions or on rounding.
STRICT = {"nnan", "nsz", "contract"}


def jit(function, fastmath=STRICT):
    """Compile a function without the GIL, cached on disk if a cache folder can be written.

    A change to any file _*.py in the folder of the function invalidates the cache, as a function
    may call functions in any of these files.
    """
    options: dict = {"nogil": True, "fastmath": fastmath}
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no cache folder can be written
        return numba.njit(**options)(function)
    # numba itself checks the file of the function only
    index = compiled._cache._cache_file
    index._source_stamp = index._source_stamp, _stamp(function)
    load_overload, save_overload = compiled._cache.load_overload, compiled._cache.save_overload

    def load_if_readable(*args):
        try:
            return load_overload(*args)
        except (AttributeError, ImportError):  # another version's cache names classes that are gone
            with contextlib.suppress(OSError):
                index.flush()
            return None

    def save_if_possible(*args):
        with contextlib.suppress(OSError):  # the disk may be full at the first call
            save_overload(*args)

    compiled._cache.load_overload = load_if_readable
    compiled._cache.save_overload = save_if_possible
    return compiled


def fast(function):
    """Compile a function whose sums may be computed in any order."""
    return jit(function, fastmath={"nnan", "nsz", "contract", "reassoc", "arcp"})


def _stamp(function):
    """Return name, time and size of every file _*.py in the folder of a function."""
    files = sorted(Path(function.__code__.co_filename).parent.glob("_*.py"))
    return [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
