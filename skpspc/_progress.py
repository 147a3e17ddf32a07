"""Progress bars, shown within a call whose ``verbose`` is above 0.

The function that the user calls knows ``verbose``, and a loop deep below it knows what there is to
count. A context variable joins them, so that no function between passes ``verbose`` on.
"""

from contextlib import contextmanager
from contextvars import ContextVar

from tqdm.auto import tqdm

_SHOWN = ContextVar("_SHOWN", default=False)


@contextmanager
def showing(verbose):
    """Show the progress bars of the block if ``verbose`` is above 0, or if a caller shows them."""
    token = _SHOWN.set(_SHOWN.get() or verbose > 0)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def is_shown():
    """Return True within a block of :func:`showing` that shows progress bars."""
    return _SHOWN.get()


def progress(items, description, total=None):
    """Return an iterable over ``items`` that shows their number, elapsed and remaining time.

    A bar within another bar is removed when it is complete. A single item has no bar.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total
    if total == 1 or not _SHOWN.get():
        return items
    return tqdm(items, description, total, leave=None)
