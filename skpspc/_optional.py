"""Import of optional packages; no other module imports them."""

import re
from importlib import import_module, metadata
from types import ModuleType

from ._threads import undisturbed

_EXTRAS = {  # extra of pip that installs each module
    "cloudpickle": "dask",
    "dask": "dask",
    "distributed": "dask",
    "numba": "cpu",
    "llvmlite": "cpu",
    "faiss": "cpu",
    "matplotlib": "plot",
    "pandas": "metrics",
    "skimage": "metrics",
    "azula": "interop",
    "deepinv": "interop",
    "diffusers": "interop",
    "smalldiffusion": "interop",
}
_OLDEST = {  # version of each package with which the tests of its adapter pass
    "azula": "0.7.0",
    "deepinv": "0.4.0",
    "diffusers": "0.31.0",
    "smalldiffusion": "0.4.0",
}


def load(name: str) -> ModuleType:
    """Import a module of an optional package, such as "numba".

    Raises ImportError with the extra to install if the module cannot be imported, or with the
    oldest version that works if the package is older.
    """
    package = name.partition(".")[0]
    extra = _EXTRAS[package]
    oldest = _OLDEST.get(package)
    if oldest is not None:
        _check_version(package, oldest)
    try:
        return undisturbed(import_module, name)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        needed = f"{package} {oldest} or later" if oldest else name
        raise ImportError(
            f"{needed} is needed here and cannot be imported ({error}); install it with "
            f'pip install "skpspc[{extra}]".'
        ) from error


def available(name: str) -> bool:
    """Return True if an optional package can be imported."""
    try:
        load(name)
    except ImportError:
        return False
    return True


def _check_version(package, oldest):
    """Raise ImportError if a package is installed in a version before ``oldest``."""
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        return  # the import fails, with its own reason
    if _release(installed) < _release(oldest):
        raise ImportError(
            f"{package} {oldest} or later is needed here, but {installed} is installed; install "
            f'it with pip install "{package}>={oldest}".'
        )


def _release(version):
    """Return the release numbers of a version, such as (0, 11, 1), for a comparison."""
    return tuple(map(int, re.findall(r"\d+", re.split(r"[a-z+]", version)[0])))
