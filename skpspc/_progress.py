"""Progress bars."""

from tqdm.auto import tqdm


def progress(iterable, total, verbose, *, what="sampling"):
    """The iterable, with a bar on stderr if ``verbose`` is above zero."""
    return tqdm(iterable, total=total, desc=what, disable=verbose <= 0)
