"""Noisy images of the user: a file, a folder, or standard input."""

import io
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .._input import (
    check_size,
    image_limit,
    map_array,
    read_array_header,
    read_file,
    reading,
    where,
)
from ..datasets import load_image_folder
from ..datasets._decode import decode
from ..support.training_set import to_compute

_PIECE = 2**20  # bytes
_NPY_MAGIC = b"\x93NUMPY"
_STANDARD_INPUT = "standard input"
_NPY_FAILURE = "cannot be read as a .npy array", "write it with numpy.save"
_REMEDY = "give an image such as a .png, a folder of images, a .npy file, or -"


def read_noisy(source, channels, max_bytes):
    """Return the noisy images (n, C, H, W) of the option ``--z``, floats on [-1, 1].

    Parameters
    ----------
    source : str
        An image file, a folder of images, a .npy, or "-" for standard input.
    channels : {"auto", 1, 3}
        Convert images to gray (1) or colour (3).
    max_bytes : int
        Memory for all images; one encoded or decoded image may take 1/32 of it.
    """
    if source == "-":
        name, z = _STANDARD_INPUT, _from_standard_input(channels, max_bytes)
    elif Path(source).is_dir():
        name = f"'{source}'"
        z = load_image_folder(source, channels=channels, max_bytes=max_bytes).images
    elif source.lower().endswith(".npy"):
        name = f"'{source}'"
        mapped = map_array(source, *_NPY_FAILURE)
        check_size(mapped.nbytes, max_bytes, name, max_bytes)
        z = np.array(mapped)
    else:
        name = f"'{source}'"
        content = read_file(source, image_limit(max_bytes), max_bytes)
        z = _decoded(content, source, channels, max_bytes)
    return _checked(z, name)


def _from_standard_input(channels, max_bytes):
    """Return the images of a .npy file or an image file on standard input."""
    if sys.stdin.isatty():
        raise ValueError("--z - reads standard input, which is a terminal; pipe an image into it.")
    content = _bytes_of(sys.stdin.buffer, max_bytes)
    if content.startswith(_NPY_MAGIC):
        check_size(len(content), max_bytes, _STANDARD_INPUT, max_bytes)
        with reading(_STANDARD_INPUT, *_NPY_FAILURE):
            shape, dtype = read_array_header(stream := io.BytesIO(content))
            if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
                raise ValueError(f"its header declares other bytes than the {len(content)} it has")
            return np.load(io.BytesIO(content), allow_pickle=False)
    check_size(len(content), image_limit(max_bytes), _STANDARD_INPUT, max_bytes)
    return _decoded(content, _STANDARD_INPUT, channels, max_bytes)


def _bytes_of(stream, limit):
    """Return all bytes of a stream, or a few more than ``limit``, without a buffer of that size."""
    content = bytearray()
    while len(content) <= limit and (piece := stream.read(_PIECE)):
        content += piece
    return bytes(content)


def _decoded(content, source, channels, max_bytes):
    """Return the image (1, C, H, W) in the bytes of an image file."""
    if not content:
        raise ValueError(f"{where(source)} is empty; {_REMEDY}.")
    Image.init()  # registers the formats
    with reading(source, "cannot be read as an image", _REMEDY):
        pixels, transparent = decode(
            io.BytesIO(content), where(source), size=None, channels=channels, max_bytes=max_bytes
        )
    if transparent:
        warnings.warn(
            f"{where(source)} has transparent pixels, whose stored colours are used. Flatten the "
            "image onto a background to choose other colours.",
            UserWarning,
            stacklevel=2,
        )
    return pixels[None].copy()  # Pillow's array is read-only


def _checked(z, name):
    """Return noisy images as floats; raise for other shapes, dtypes, NaN and infinity."""
    if z.ndim != 4 or 0 in z.shape:
        raise ValueError(
            f"{name} must hold at least one image, a .npy of shape (n, C, H, W), got shape "
            f"{z.shape}."
        )
    if z.dtype == np.uint8:
        return to_compute(torch.from_numpy(z), torch.float32).numpy()
    if z.dtype.kind != "f":
        raise ValueError(
            f"{name} must be uint8 (0 to 255) or floats on [-1, 1], got {z.dtype}; convert it."
        )
    if not np.isfinite(z).all():
        raise ValueError(f"{name} holds NaN or infinite values; replace them.")
    return z
