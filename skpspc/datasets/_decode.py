"""One encoded image file to uint8 pixels, with errors that name the file."""

import struct
import zipfile
import zlib
from numbers import Integral

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.utils import check_scalar

# What zipfile and Pillow raise when bytes are not what their name promises: a failed
# checksum, an unknown compression, a password, a broken chunk, an absurd size.
_UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)
_GRAY_MODES = {"1", "L", "LA", "La"}


def hidden(name):
    """Whether a file was put there by an operating system rather than by its owner."""
    return "/." in f"/{name}" or "__MACOSX/" in name or name.endswith("Thumbs.db")


def check_count(name, value):
    """Refuse anything but None or a positive integer."""
    if value is not None:
        check_scalar(value, name, Integral, min_val=1)


def read_image(stream, where, *, size=None):
    """Decode one image.

    Parameters
    ----------
    stream : path or binary file
    where : str
        What to call the image in an error.
    size : int or None
        Crop to the centre square and resize to (size, size); None leaves it as it is.

    Returns
    -------
    ndarray of shape (H, W, C)
        uint8, C = 1 (gray) or 3 (RGB; transparency dropped, palettes expanded).
    """
    try:
        with Image.open(stream) as image:
            mode = image.mode
            if mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a channel, convert it to 8")
            if "exif" in image.info:
                image = ImageOps.exif_transpose(image)
            wanted = "L" if mode in _GRAY_MODES else "RGB"
            if image.mode != wanted:
                image = image.convert(wanted)
            if size is not None:
                image = _central_square(image).resize((size, size), Image.Resampling.LANCZOS)
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is none that Pillow knows" if unknown else str(error).rstrip(".")
        raise ValueError(
            f"{where} cannot be read as an image ({reason}); repair it or take it out."
        ) from error
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _central_square(image):
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def fill(sources, container, *, size=None):
    """Decode images of one shape into one array.

    Parameters
    ----------
    sources : list of (name, open) pairs
        ``open()`` returns a path or a binary file.
    container : str
        The archive or folder, for errors.
    size : int or None
        See :func:`read_image`.

    Returns
    -------
    ndarray of shape (n, C, H, W), uint8
    """
    images = None
    for i, (name, open_) in enumerate(sources):
        where = f"'{name}' in '{container}'"
        try:
            stream = open_()
        except FileNotFoundError:
            raise
        except _UNREADABLE as error:
            raise ValueError(
                f"{where} cannot be read ({error}); repair it or take it out."
            ) from error
        pixels = read_image(stream, where, size=size).transpose(2, 0, 1)
        if images is None:
            # The only large allocation: every image is decoded into its place.
            images = np.empty((len(sources), *pixels.shape), dtype=np.uint8)
            first = name
        if pixels.shape != images.shape[1:]:
            raise ValueError(_odd_one(where, pixels.shape, first, images.shape[1:]))
        images[i] = pixels
    return images


def _odd_one(where, shape, first, expected):
    kinds = {1: "gray", 3: "colour"}
    if shape[0] != expected[0]:
        return (
            f"{where} is {kinds[shape[0]]} and the first image, '{first}', is "
            f"{kinds[expected[0]]}; convert them to one kind."
        )
    return (
        f"{where} is {shape[1]} x {shape[2]} (height x width) and the first image, '{first}', "
        f"is {expected[1]} x {expected[2]}; bring them to one size (load_image_folder does with "
        f"size=, the command line with --image-size)."
    )
