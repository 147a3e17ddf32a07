"""Files of a JSON text and named arrays: safetensors with a format, a version and a checksum."""

import hashlib
import json
import re

import numpy as np
from safetensors import safe_open

from .. import __version__
from .._input import (
    UnreadableFileError,
    check_size,
    parse_json,
    reading,
    text_limit,
    where,
)
from .._output import replacing

SUFFIX = ".safetensors"
FORMAT, FORMAT_VERSION = "skpspc-denoiser", 1
_MAX_TEXT = 2**26  # bytes of the JSON text; safetensors reads headers of up to 100 MB
_FAILURE = "is not a denoiser that save wrote, or is damaged"
_REMEDY = "get the file again, or save the denoiser again"
_NAMES = {  # of the dtypes in a file
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int8): "I8",
    np.dtype(np.int16): "I16",
    np.dtype(np.int32): "I32",
    np.dtype(np.int64): "I64",
    np.dtype(np.float16): "F16",
    np.dtype(np.float32): "F32",
    np.dtype(np.float64): "F64",
}


def can_store(dtype):
    """Return True if arrays of a NumPy dtype can be written."""
    return dtype in _NAMES


def array_bytes(array):
    """Return the values of an array in C order, (n_bytes,) uint8; a view if they are contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def write_file(path, tree, arrays):
    """Write a JSON tree and a dict of arrays; the file is replaced in one step, or not at all.

    Arrays are written one by one: safetensors would first copy all of them.
    """
    text = json.dumps(tree)
    if len(text) > _MAX_TEXT:
        raise ValueError(
            f"the labels, names and settings of the denoiser take {len(text)} bytes, and a file "
            f"holds {_MAX_TEXT}; fit with integer labels, or save by joblib.dump."
        )
    # values of 8 bytes come first, so that all values are aligned in a mapped file
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))
    header, start = {}, 0
    for name, array in arrays.items():
        end = start + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": array.shape,
            "data_offsets": (start, end),
        }
        start = end
    header["__metadata__"] = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "skpspc_version": __version__,
        "state": text,
        "sha256": _checksum(__version__, text, arrays.items()),
    }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with replacing(path) as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for array in arrays.values():
            file.write(array_bytes(array))


def read_file(path, max_bytes):
    """Return the JSON tree and the dict of tensors of a file; raise the errors of `reading`.

    Tensors are mapped to the file: the system reads their values when they are used.
    """
    with reading(path, _FAILURE, _REMEDY):
        with open(path, "rb") as file:  # `safe_open` raises errors without the name of the file
            check_size(file.seek(0, 2), max_bytes, where(path), max_bytes)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            _check_version(path, metadata)
            text = metadata["state"]
            check_size(len(text), text_limit(max_bytes), f"the text in '{path}'", max_bytes)
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        arrays = ((name, tensor.numpy()) for name, tensor in tensors.items())
        if metadata["sha256"] != _checksum(metadata["skpspc_version"], text, arrays):
            raise ValueError("its checksum is wrong")
        return parse_json(text.encode()), tensors


def _check_version(path, metadata):
    """Raise if a file has another format, or comes from a newer version of the library."""
    if metadata.get("format") != FORMAT:
        raise ValueError("it has no denoiser's format in its metadata")
    version, saved_by = int(metadata["format_version"]), metadata["skpspc_version"]
    if version > FORMAT_VERSION or _numbers(saved_by) > _numbers(__version__):
        raise UnreadableFileError(
            f"'{path}' was saved by skpspc {saved_by} in format {version}, and skpspc "
            f"{__version__} reads format {FORMAT_VERSION} of its own and earlier versions; update "
            "skpspc."
        )
    if version != FORMAT_VERSION:
        raise ValueError(f"there is no format {version}")


def _numbers(version):
    """Return the release of a version, such as (0, 1, 0), for comparisons."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def _checksum(version, text, arrays):
    """Return the SHA-256 of texts and of (name, array) pairs, in the order of the names."""
    digest = hashlib.sha256(f"{version}\n{text}".encode())
    for name, array in sorted(arrays, key=lambda item: item[0]):
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array_bytes(array))
    return digest.hexdigest()
