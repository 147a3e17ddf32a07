"""Results to a file: checked before the work, and whole or absent after it."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

SUFFIXES = (".png", ".npy", ".npz")
_KINDS = {
    ".png": "a picture",
    ".npy": "the array",
    ".npz": "the arrays with their settings",
    ".json": "a schedule",
}


def check_output(path, suffixes=SUFFIXES):
    """Return ``path`` as a `Path`, if a file can be written there.

    Raises ValueError if its suffix is not one of ``suffixes`` or something other than a file has
    this name, OSError if the folder is missing or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        kinds = ", ".join(_KINDS[suffix] for suffix in suffixes)
        raise ValueError(f"the suffix of '{path}' must be one of {', '.join(suffixes)} ({kinds}).")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder '{folder}'; make it first.")
    remove_unfinished(path)
    try:
        path.stat()  # also finds names that are too long
    except FileNotFoundError:
        pass
    else:
        if not path.is_file():
            raise ValueError(f"'{path}' is not an ordinary file; choose another name.")
        if not os.access(path, os.W_OK):
            raise PermissionError(f"'{path}' is write-protected; choose another name.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"the folder '{folder}' cannot be written to ({error.strerror}); choose another."
        ) from error
    return path


def write_output(path, picture, arrays):
    """Write a picture (.png), the first of the arrays (.npy) or all of them (.npz) to ``path``.

    ``path`` comes from :func:`check_output`, and is replaced in one step once all is written.
    ``picture`` is a function that returns the picture, (height, width, 3) uint8; ``arrays`` is a
    dict.
    """
    import numpy as np
    from PIL import Image

    suffix = path.suffix.lower()
    with replacing(path) as file:
        if suffix == ".png":
            Image.fromarray(picture()).save(file, format="PNG")
        elif suffix == ".npy":
            np.save(file, next(iter(arrays.values())), allow_pickle=False)
        else:
            np.savez(file, **arrays)


@contextlib.contextmanager
def replacing(path):
    """Yield a file to write to, which replaces ``path`` once its bytes are on the disk.

    A symbolic link stays a link; its target is replaced.
    """
    path = path.resolve()
    unfinished = _unfinished(path)
    with open(unfinished, "xb") as file:  # fails if another run is writing there
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            file.close()
            unfinished.unlink()
            raise
    os.replace(unfinished, path)
    _sync_folder(path.parent)


def remove_unfinished(path):
    """Remove the file of a run that was killed while it wrote ``path``."""
    _unfinished(path.resolve()).unlink(missing_ok=True)


def _unfinished(path):
    """Return the path to write to first, one for each ``path``, so that leftovers are found."""
    return path.with_name(f".skpspc-{hashlib.sha256(path.name.encode()).hexdigest()[:12]}")


def _sync_folder(folder):
    """Bring the names of a folder's files to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
