"""How many rows of a computation fit scikit-learn's ``working_memory``."""

from sklearn import get_config

# Beyond this a larger chunk buys no speed; it only raises the peak.
_LARGEST_CHUNK = 128 * 2**20


def rows_that_fit(row_bytes, max_rows, *, what):
    """Number of rows of ``row_bytes`` bytes each that may be held at once.

    Parameters
    ----------
    row_bytes : int
        Bytes that one row of the computation needs.
    max_rows : int
        Upper limit of the answer.
    what : str
        What a row is, for the error message.

    Returns
    -------
    int
        Between 1 and ``max_rows``.

    Raises
    ------
    MemoryError
        If a single row does not fit ``sklearn.get_config()["working_memory"]`` (MiB).
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
    """Whether ``working_memory`` holds so many bytes."""
    return n_bytes <= get_config()["working_memory"] * 2**20


def working_bytes():
    """Bytes that a chunk may take: ``working_memory``, or less where more buys no speed."""
    return min(get_config()["working_memory"] * 2**20, _LARGEST_CHUNK)
