"""Import of optional packages; no other module imports them."""

from importlib import import_module
from types import ModuleType

from ._threads import undisturbed

_EXTRAS = {  # extra of pip that installs each module
    "numba": "cpu",
    "faiss": "cpu",
    "matplotlib": "plot",
    "pandas": "metrics",
    "skimage": "metrics",
}


def load(name: str) -> ModuleType:
    """Import a module of an optional package, such as "numba".

    Raises ImportError with the extra to install if the module cannot be imported.
    """
    try:
        return undisturbed(import_module, name)
    except ImportError as error:
        extra = _EXTRAS[name.partition(".")[0]]
        raise ImportError(
            f"{name} is needed here and cannot be imported ({error}); install it with "
            f'pip install "skpspc[{extra}]".'
        ) from error


def available(name: str) -> bool:
    """Return True if an optional package can be imported."""
    try:
        load(name)
    except ImportError:
        return False
    return True
