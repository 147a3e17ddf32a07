"""Chunk sizes that fit scikit-learn's ``working_memory``, and the memory that is available."""

from pathlib import Path

from sklearn import get_config

# Larger chunks are not faster, and only raise the peak of memory.
_LARGEST_CHUNK = 128 * 2**20


def rows_that_fit(row_bytes, max_rows, *, what):
    """Return the number of rows to compute at once.

    Parameters
    ----------
    row_bytes : int
        Bytes of memory for one row.
    max_rows : int
        Upper limit of the result.
    what : str
        Name of one row, the subject of the error message.

    Returns
    -------
    int
        Between 1 and ``max_rows``.

    Raises
    ------
    MemoryError
        If one row exceeds ``sklearn.get_config()["working_memory"]`` (MiB).
    """
    if not fits(row_bytes):
        allowed = get_config()["working_memory"] * 2**20
        raise MemoryError(
            f"{what} needs {row_bytes / 2**20:.3g} MiB of working memory and "
            f"{allowed / 2**20:.3g} MiB are allowed; raise it with "
            f"sklearn.set_config(working_memory={int(row_bytes / 2**20) + 1})."
        )
    return int(max(1, min(max_rows, working_bytes() // max(1, row_bytes))))


def fits(n_bytes):
    """Return True if ``n_bytes`` fit ``working_memory``."""
    return n_bytes <= get_config()["working_memory"] * 2**20


def available_bytes():
    """Return the bytes of memory that can be allocated without swapping, or None if unknown.

    It is the least of the limits of the machine and of the control group, as of a container.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines)
        free = 1024 * int(sizes["MemAvailable"].split()[0])
    except (OSError, KeyError):  # not Linux
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(parts["inactive_file"]))  # caches of files are freed
    except (OSError, ValueError, KeyError):  # no control group, or "max"
        return free


def working_bytes():
    """Return the bytes of a chunk: ``working_memory``, but at most ``_LARGEST_CHUNK``."""
    return min(get_config()["working_memory"] * 2**20, _LARGEST_CHUNK)
