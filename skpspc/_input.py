"""Readers of user files, which may be damaged or hostile.

Readers raise errors of many types: :func:`reading` turns each into one `ValueError` that names the
file. All other functions limit the number of bytes, and compare the sizes that a file declares with
the limit before they allocate memory.
"""

import contextlib
import errno
import json
import math
import os
import zipfile
from numbers import Integral

import numpy as np
from sklearn.utils import check_scalar

MAX_BYTES = 2**33  # default of ``max_bytes``: 8 GiB of memory for the contents of one file
_DEFLATE_RATIO = 1032  # largest compression ratio of deflate
_NPY_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 2**16  # more than the longest npy header that numpy reads
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# A seek to a position from a damaged file raises these errors: the file system is not at fault.
_DAMAGE = {errno.EINVAL, errno.EOVERFLOW}


class UnreadableFileError(ValueError):
    """A file cannot be read; the message is a sentence that names the file."""


@contextlib.contextmanager
def reading(path, failure, remedy, *, member=None):
    """Turn every exception of a reader into one `ValueError` that names the file.

    ``failure`` is the predicate of the sentence, such as "cannot be read as an image"; ``member``
    names a member of the file. An `OSError` of the file system (no such file, no permission, an
    error of the disk) stays an `OSError`.
    """
    try:
        yield
    except UnreadableFileError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, *_DAMAGE):
            if error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise UnreadableFileError(
            f"{where(path, member)} {failure} ({reason(error)}); {remedy}."
        ) from error


def where(path, member=None):
    """Return the name of a file, or of its member, for an error message."""
    return f"'{path}'" if member is None else f"{member!r} in '{path}'"


def reason(error):
    """Return the message of an exception as one short line."""
    try:
        message = " ".join(str(error).split()).rstrip(".")
    except Exception:  # the error names a half-read object, which has no representation
        message = ""
    if isinstance(error, MemoryError):
        message = "it needs more memory than is available"
    elif isinstance(error, KeyError) and message:
        message = f"there is no {message}"
    return (message[:240] or type(error).__name__).encode(errors="backslashreplace").decode()


def check_max_bytes(max_bytes):
    """Raise if ``max_bytes`` is not a positive integer."""
    check_scalar(max_bytes, "max_bytes", Integral, min_val=1)


def image_limit(max_bytes):
    """Return the largest number of bytes of one image, encoded or decoded: 256 MiB by default."""
    return max_bytes // 32


def text_limit(max_bytes):
    """Return the largest number of bytes of a JSON text: 64 MiB by default.

    The parsed text takes about 20 times as much memory.
    """
    return max_bytes // 128


def check_size(n_bytes, limit, name, max_bytes, remedy=""):
    """Raise if ``name`` takes more bytes than ``limit``: ``max_bytes`` or a fraction of it.

    The error advises a larger ``max_bytes``; ``remedy``, ending in ", or ", precedes the advice.
    """
    n_bytes = int(n_bytes)
    if n_bytes > limit:
        raise UnreadableFileError(
            f"{name} takes {_size_text(n_bytes)}, more than the {_size_text(limit)} that "
            f"max_bytes={max_bytes} allows; {remedy}pass a larger max_bytes if the size is "
            "right."
        )


def _size_text(n_bytes):
    power = min(max(n_bytes.bit_length() - 1, 0) // 10, 4)
    return f"{n_bytes / 1024**power:.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def read_file(path, limit, max_bytes):
    """Return the bytes of a file, at most ``limit``."""
    check_size(os.path.getsize(path), limit, where(path), max_bytes)
    with open(path, "rb") as file:
        return file.read(limit)


def parse_json(content):
    """Parse a JSON text in UTF-8, with or without a byte order mark."""
    return json.loads(content.decode("utf-8-sig"))


def check_member(archive, info, limit, max_bytes):
    """Raise if the declared sizes of an archive member are too large or cannot be true.

    Other compression than deflate is refused, as the size of its output cannot be limited.
    """
    check_size(info.file_size, limit, where(archive.filename, info.filename), max_bytes)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("its compression is not deflate, zip it with deflate or uncompressed")
    ratio = 1 if info.compress_type == zipfile.ZIP_STORED else _DEFLATE_RATIO
    if info.compress_size > archive.start_dir or info.file_size > ratio * info.compress_size:
        raise ValueError(
            f"its {info.compress_size} compressed bytes cannot become the {info.file_size} bytes "
            "that the archive declares"
        )


def read_member(archive, info, limit, max_bytes):
    """Return the bytes of an archive member, at most ``limit``."""
    check_member(archive, info, limit, max_bytes)
    with archive.open(info) as stream:
        # without a number of bytes, zipfile inflates everything before it cuts the result
        return stream.read(info.file_size)


def read_array_header(stream):
    """Return the shape and dtype in the header of an npy file, from its start."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise ValueError(f"version {version} of the npy format holds no plain numbers")
    shape, _, dtype = _HEADER_READERS[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and pickles are not read")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape {shape} has a negative length")
    return shape, dtype


class ArrayArchive:
    """Arrays of an npz, read one by one without pickle, each of at most ``max_bytes``."""

    def __init__(self, path, max_bytes):
        with open(path, "rb") as file:
            if file.read(6) == _NPY_MAGIC:
                raise ValueError("it is a single array, write it with numpy.savez")
        self._archive = zipfile.ZipFile(path)
        self._members = {
            info.filename.removesuffix(".npy"): info
            for info in self._archive.infolist()
            if info.filename.endswith(".npy")
        }
        self._max_bytes = max_bytes

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._archive.close()

    def __iter__(self):
        return iter(self._members)

    @contextlib.contextmanager
    def _opened(self, info):
        path, remedy = self._archive.filename, "write the file again with numpy.savez"
        with reading(path, "cannot be read as an array", remedy, member=info.filename):
            check_member(self._archive, info, self._max_bytes + _HEADER_BYTES, self._max_bytes)
            with self._archive.open(info) as stream:
                yield stream

    def shape(self, key):
        """Return the shape of an array, read from its header."""
        info = self._members[key]
        with self._opened(info) as stream:
            shape, dtype = read_array_header(stream)
            n_bytes, n_left = math.prod(shape) * dtype.itemsize, info.file_size - stream.tell()
            name = where(self._archive.filename, info.filename)
            check_size(n_bytes, self._max_bytes, name, self._max_bytes)
            if n_bytes != n_left:
                raise ValueError(f"its header declares {n_bytes} bytes and {n_left} follow")
        return shape

    def __getitem__(self, key):
        """Return an array."""
        self.shape(key)
        with self._opened(self._members[key]) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def load_arrays(path, failure, remedy, *, max_bytes=MAX_BYTES):
    """Return all arrays of an npz as a dict; raise the errors of :func:`reading`."""
    with reading(path, failure, remedy), ArrayArchive(path, max_bytes) as archive:
        return {key: archive[key] for key in archive}


def map_array(path, failure, remedy):
    """Return the array of an npy file as a memory map; raise the errors of :func:`reading`.

    Mapping raises at once for a file that is shorter than its header declares.
    """
    with reading(path, failure, remedy):
        with open(path, "rb") as file:
            if file.read(6) != _NPY_MAGIC:
                raise ValueError("it is not a .npy file")
            file.seek(0)
            _, dtype = read_array_header(file)
        if dtype.itemsize == 0:  # numpy would divide by zero, which ends the process
            raise ValueError(f"its dtype {dtype} holds no values")
        return np.lib.format.open_memmap(path, mode="r")
