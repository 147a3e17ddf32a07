"""The optional packages: the only place that imports them."""

from importlib import import_module
from types import ModuleType

from ._threads import undisturbed

# Which extra brings which module.
_EXTRAS = {
    "numba": "cpu",
    "faiss": "cpu",
    "matplotlib": "plot",
    "pandas": "metrics",
    "skimage": "metrics",
}


def load(name: str) -> ModuleType:
    """Import an optional package.

    Parameters
    ----------
    name : str
        A module, such as "numba".

    Raises
    ------
    ImportError
        If it cannot be imported; the message names the extra that brings it.
    """
    try:
        return undisturbed(import_module, name)
    except ImportError as error:
        extra = _EXTRAS[name.partition(".")[0]]
        raise ImportError(
            f"{name} is needed here and cannot be imported ({error}); "
            f'pip install "skpspc[{extra}]".'
        ) from error


def available(name: str) -> bool:
    """Whether an optional package can be imported."""
    try:
        load(name)
    except ImportError:
        return False
    return True
