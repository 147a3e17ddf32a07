"""Output files: checked before the computation, and written completely or not at all."""

import contextlib
import hashlib
import io
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".png", ".npy", ".npz")
_KINDS = {
    ".png": "a picture",
    ".npy": "the array",
    ".npz": "the arrays with their settings",
    ".json": "a schedule",
    ".safetensors": "a denoiser",
    ".csv": "a table",
}


@dataclass(frozen=True)
class StandardOutput:
    """Standard output, in place of a path; ``suffix`` is the suffix of a file of this format."""

    suffix: str

    def __str__(self):
        return "standard output"


def check_output(path, suffixes=SUFFIXES):
    """Return ``path`` as a `Path`; raise if no file can be written there.

    Raises ValueError if the suffix is not one of ``suffixes`` or the path is not an ordinary file,
    and OSError if the folder is missing or cannot be written to.
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
        path.stat()  # raises for names that are too long
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
    """Write a picture (.png), the first array (.npy) or all arrays (.npz) to ``path``.

    ``path`` comes from :func:`check_output` or is `StandardOutput`. A file is replaced in one step
    after writing. ``picture`` is a function that returns the picture, (height, width) or (height,
    width, 3) uint8; ``arrays`` is a dict.
    """
    import numpy as np
    from PIL import Image

    suffix = path.suffix.lower()
    with writing(path) as file:
        if suffix == ".png":
            Image.fromarray(picture()).save(file, format="PNG")
        elif suffix == ".npy":
            np.save(file, next(iter(arrays.values())), allow_pickle=False)
        else:
            np.savez(file, **arrays)


def writing(path):
    """Return a context that yields a binary file, written to ``path`` when the block ends."""
    return _to_standard_output() if isinstance(path, StandardOutput) else replacing(path)


@contextlib.contextmanager
def _to_standard_output():
    """Yield a file in memory, for formats that seek; its bytes go to standard output."""
    file = io.BytesIO()
    yield file
    try:
        sys.stdout.buffer.write(file.getbuffer())
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


@contextlib.contextmanager
def replacing(path):
    """Yield a file for writing; on success it replaces ``path``, on failure it is removed.

    The bytes are on the disk before the file is renamed. A symbolic link stays a link; its target
    is replaced.
    """
    path = path.resolve()
    unfinished = _unfinished(path)
    with open(unfinished, "xb") as file:  # fails if another run writes to this path
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
    """Remove the unfinished file of a run that was killed while it wrote ``path``."""
    _unfinished(path.resolve()).unlink(missing_ok=True)


def _unfinished(path):
    """Return the path of the unfinished file, fixed for each ``path``, to find leftovers."""
    return path.with_name(f".skpspc-{hashlib.sha256(path.name.encode()).hexdigest()[:12]}")


def _sync_folder(folder):
    """Write the names in a folder to the disk, if the operating system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
