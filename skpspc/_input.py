"""Files of users: the one place where they are opened.

A reader of a damaged or hostile file may raise anything. :func:`reading` turns all of it into
one `ValueError` that names the file. The other functions read no more bytes than a limit, which
they compare with the sizes that the file declares before they allocate memory.
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

MAX_BYTES = 2**33  # default of ``max_bytes``: memory for the contents of one file, 8 GiB
_IMAGE_SHARE = 32  # one image, encoded or decoded: 256 MiB by default
_TEXT_SHARE = 128  # JSON: 64 MiB by default, and some 20 times as much once parsed
_DEFLATE_RATIO = 1032  # the largest that deflate reaches
_HEADER_BYTES = 2**16  # more than the longest header of an npy file that numpy reads
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What a seek to a position that a damaged file names raises; no fault of the file system.
_DAMAGE = {errno.EINVAL, errno.EOVERFLOW}


class UnreadableFileError(ValueError):
    """A file that cannot be read, in a sentence that names it."""


@contextlib.contextmanager
def reading(path, failure, remedy, *, member=None):
    """Turn every exception of a reader into one `ValueError` that names the file.

    Parameters
    ----------
    path : str or path
    failure : str
        Predicate of the sentence, such as "cannot be read as an image".
    remedy : str
    member : str or None, default None
        The part of the file that is read.

    Raises
    ------
    OSError
        If the file system fails: no such file, no permission, an error of the disk.
    ValueError
        For every other `Exception`, which is chained.
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
    """Name of a file, or of a member of it, in an error."""
    return f"'{path}'" if member is None else f"{member!r} in '{path}'"


def reason(error):
    """Return the message of an exception, in one short line."""
    said = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, MemoryError):
        said = "it needs more memory than there is"
    elif isinstance(error, KeyError):
        said = f"there is no {said}"
    return (said[:240] or type(error).__name__).encode(errors="backslashreplace").decode()


def check_max_bytes(max_bytes):
    """Refuse a limit that is no positive integer."""
    check_scalar(max_bytes, "max_bytes", Integral, min_val=1)


def image_limit(max_bytes):
    """Most bytes of one image, encoded or decoded."""
    return max_bytes // _IMAGE_SHARE


def text_limit(max_bytes):
    """Most bytes of a JSON text."""
    return max_bytes // _TEXT_SHARE


def check_size(n_bytes, limit, name, max_bytes, remedy=""):
    """Refuse more bytes than a limit.

    Parameters
    ----------
    n_bytes : int
    limit : int
        ``max_bytes`` or a share of it.
    name : str
        Name of the large thing, for the error.
    max_bytes : int
        The parameter, for the error.
    remedy : str
        Another remedy than a larger ``max_bytes``, ending in ", or ".
    """
    n_bytes = int(n_bytes)
    if n_bytes > limit:
        raise UnreadableFileError(
            f"{name} takes {_written(n_bytes)}, more than the {_written(limit)} that "
            f"max_bytes={max_bytes} allows it; {remedy}pass a larger max_bytes if the size is "
            "right."
        )


def _written(n_bytes):
    power = min(max(n_bytes.bit_length() - 1, 0) // 10, 4)
    return f"{n_bytes / 1024**power:.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def file_size(path):
    """Size of a file in bytes."""
    return os.stat(path).st_size


def read_file(path, limit, max_bytes):
    """Bytes of a file, at most ``limit``."""
    check_size(file_size(path), limit, where(path), max_bytes)
    with open(path, "rb") as file:
        return file.read(limit)


def parse_json(content):
    """Content of a JSON text in UTF-8, with or without a byte order mark."""
    return json.loads(content.decode("utf-8-sig"))


def check_member(archive, info, limit, max_bytes):
    """Refuse a zip member by what the archive says of it, before it is read.

    Raises
    ------
    ValueError
        If it is larger than ``limit``, larger than its compressed bytes can become, or compressed
        by anything but deflate, whose output cannot be bounded while it is read.
    """
    check_size(info.file_size, limit, where(archive.filename, info.filename), max_bytes)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is neither stored nor deflated, zip it with one of these methods")
    ratio = 1 if info.compress_type == zipfile.ZIP_STORED else _DEFLATE_RATIO
    if info.compress_size > archive.start_dir or info.file_size > ratio * info.compress_size:
        raise ValueError(
            f"its {info.compress_size} compressed bytes cannot become the {info.file_size} bytes "
            "that the archive declares"
        )


def read_member(archive, info, limit, max_bytes):
    """Bytes of a zip member, at most ``limit``."""
    check_member(archive, info, limit, max_bytes)
    with archive.open(info) as stream:
        # without a number of bytes, zipfile inflates all there is before it cuts it
        return stream.read(info.file_size)


def read_array_header(stream):
    """Shape and dtype of an array of plain values, from the start of an npy file."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise ValueError(f"version {version} of the npy format holds no plain numbers")
    shape, _, dtype = _HEADER_READERS[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and pickles are not read")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape {shape} is negative")
    return shape, dtype


class ArrayArchive:
    """Arrays of an npz, read one by one, without pickle, within a limit.

    Parameters
    ----------
    path : path
    max_bytes : int
        Of one array.
    """

    def __init__(self, path, max_bytes):
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
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

    def shape(self, key):
        """Shape of an array, from its header."""
        info = self._members[key]
        with self._reading(info):
            check_member(self._archive, info, self._max_bytes + _HEADER_BYTES, self._max_bytes)
            with self._archive.open(info) as stream:
                return self._read_header(stream, info)

    def __getitem__(self, key):
        """The array."""
        info = self._members[key]
        self.shape(key)
        with self._reading(info), self._archive.open(info) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def _reading(self, info):
        return reading(
            self._archive.filename,
            "cannot be read as an array",
            "write the file again with numpy.savez",
            member=info.filename,
        )

    def _read_header(self, stream, info):
        shape, dtype = read_array_header(stream)
        n_bytes = math.prod(shape) * dtype.itemsize
        name = where(self._archive.filename, info.filename)
        check_size(n_bytes, self._max_bytes, name, self._max_bytes)
        if n_bytes != info.file_size - stream.tell():
            raise ValueError(
                f"its header declares {n_bytes} bytes, and {info.file_size - stream.tell()} follow"
            )
        return shape


def load_arrays(path, failure, remedy, *, max_bytes=MAX_BYTES):
    """All arrays of an npz, as a dict.

    Raises
    ------
    OSError, ValueError
        As :func:`reading`.
    """
    with reading(path, failure, remedy), ArrayArchive(path, max_bytes) as archive:
        return {key: archive[key] for key in archive}


def map_array(path, failure, remedy):
    """The array of an npy file, mapped into memory, so that a false size is found at once.

    Raises
    ------
    OSError, ValueError
        As :func:`reading`.
    """
    with reading(path, failure, remedy):
        with open(path, "rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ValueError("it is not a .npy file")
            file.seek(0)
            _, dtype = read_array_header(file)
        if dtype.itemsize == 0:  # numpy divides by it while it maps, which ends the process
            raise ValueError(f"its dtype {dtype} holds nothing")
        return np.lib.format.open_memmap(path, mode="r")
