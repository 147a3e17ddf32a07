"""Pixels of encoded image files, with errors that name the files."""

import errno
import math
import os
import shutil
import warnings
from numbers import Integral
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from sklearn.utils import check_scalar

from .._input import UnreadableFileError, check_size, image_limit, reading, where
from .._progress import progress

# Other formats of Pillow call other programs (EPS), are stubs, or reduce deeper pixels to 8 bits
# without a trace (JPEG 2000, AVIF).
_FORMATS = ("BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_GRAY_MODES = {"1", "L", "LA", "La"}
_ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
_BITS_PER_SAMPLE = 258  # a tag of TIFF
_KINDS = {1: "gray", 3: "colour"}
_LISTED = 10
_FAILURE = "cannot be read as an image"


def hidden(name):
    """Return True for a file that an operating system wrote, and not its owner."""
    parts = name.split("/")  # "./a.png" is not hidden
    return (
        parts[-1] == "Thumbs.db"
        or "__MACOSX" in parts
        or any(part.startswith(".") and part.strip(".") for part in parts)
    )


def image_names(names, container):
    """Return the sorted names of image files, and the number of skipped files.

    Warns if files are skipped, and raises ValueError if there is no image. Names are relative to
    the container, an archive or folder, with forward slashes.
    """
    Image.init()
    suffixes = {s for s, name in Image.registered_extensions().items() if name in _FORMATS}
    names = sorted(names)
    images = [
        name
        for name in names
        if PurePosixPath(name).suffix.lower() in suffixes and not hidden(name)
    ]
    skipped = sorted(set(names) - set(images))
    if not images:
        others = f" but {_listed(map(repr, skipped))}" if skipped else ""
        raise ValueError(
            f"'{container}' holds no images{others}; give images named *.png, *.jpg, *.bmp, "
            "*.gif, *.ppm, *.tga, *.tif or *.webp."
        )
    if skipped:
        warnings.warn(
            f"{len(skipped)} of the {len(names)} files in '{container}' have no suffix of an image "
            f"and were skipped: {_listed(map(repr, skipped))}.",
            UserWarning,
            stacklevel=4,
        )
    return images, len(skipped)


def check_count(name, value):
    """Raise if ``value`` is neither None nor a positive integer; ``name`` is for the error."""
    if value is not None:
        check_scalar(value, name, Integral, min_val=1)


def check_channels(channels):
    """Raise if ``channels`` is not "auto", 1 or 3."""
    if isinstance(channels, bool) or channels not in ("auto", 1, 3):
        raise ValueError(f'channels must be "auto", 1 (gray) or 3 (colour), got {channels!r}.')


def _listed(items):
    """Return a text that lists the first items and counts all others."""
    items = list(items)
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more


def decode(stream, name, *, size, channels, max_bytes):
    """Return the pixels of an image file.

    Parameters
    ----------
    stream : path or binary file
    name : str
        Name of the image, for errors.
    size : int or None
        Side of the square to which the image is cropped and resized; None keeps the image.
    channels : {"auto", 1, 3}
        Convert the image to gray (1) or colour (3); "auto" keeps it.
    max_bytes : int
        Memory for all images; one image may take 1/32 of it.

    Returns
    -------
    pixels : ndarray of shape (C, H, W), uint8
    transparent : bool
        True if a pixel of the file is not opaque.
    """
    formats = [name for name in _FORMATS if name in Image.OPEN]  # Pillow may lack WebP
    try:
        file = Image.open(stream, formats=formats)
    except UnidentifiedImageError:
        raise ValueError("its format is unknown, use PNG or JPEG") from None
    with file:
        limit = image_limit(max_bytes)
        check_size(3 * file.width * file.height, limit, f"{name} decoded", max_bytes)
        _check_kind(file)
        gray = channels == 1 or (channels == "auto" and file.mode in _GRAY_MODES)
        if size is not None:
            check_size((1 if gray else 3) * size**2, limit, f"{name} at size={size}", max_bytes)
        picture = ImageOps.exif_transpose(file) if "exif" in file.info else file
        transparent = picture.mode in _ALPHA_MODES or "transparency" in picture.info
        if transparent:
            picture = picture.convert("RGBA")
            transparent = picture.getchannel("A").getextrema() != (255, 255)
        picture = picture.convert("L" if gray else "RGB")
        if size is not None:
            picture = _central_square(picture).resize((size, size), Image.Resampling.LANCZOS)
        pixels = np.asarray(picture)
    return (pixels[None] if gray else pixels.transpose(2, 0, 1)), transparent


def _check_kind(image):
    """Raise for animations, and for pixels of more than 8 bits, which Pillow reduces silently."""
    deep = image.mode.startswith(("I", "F"))
    if image.format == "PNG":
        deep |= str(image.tile[0][3]).endswith(";16B")
    elif image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        deep |= max(bits if isinstance(bits, tuple) else (bits,)) > 8
    elif image.format == "PPM" and isinstance(image.tile[0][3], tuple):
        deep |= image.tile[0][3][-1] > 255
    if deep:
        raise ValueError("it has more than 8 bits per channel, convert it to 8")
    # an MPO of a camera is one photograph with previews
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"it holds {frames} frames or pages, save one of them as an image")


def _central_square(image):
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


class _NpyFile:
    """Images that are written to a .npy file, in order; assign images[0], images[1], ..."""

    def __init__(self, file, shape):
        n_bytes, free = math.prod(shape), shutil.disk_usage(os.path.dirname(file.name)).free
        if n_bytes > free:
            raise OSError(
                errno.ENOSPC,
                f"{n_bytes} bytes of images do not fit in the {free} free bytes of the disk; take "
                "fewer images (max_images=) or another disk",
                file.name,
            )
        self._file, self.shape = file, shape
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

    def __setitem__(self, i, pixels):
        self._file.write(np.ascontiguousarray(pixels))


def fill(sources, container, *, size, channels, max_bytes, file=None):
    """Return the pixels of all images in one array; raise if their shapes differ.

    Parameters
    ----------
    sources : list of (name, open) pairs
        ``open()`` returns a path or a binary file.
    container : path
        The archive or folder, for errors. One error lists all unreadable and differing images.
    size : int or None
        Side of the square to which each image is cropped and resized; None keeps the images.
    channels : {"auto", 1, 3}
        Convert all images to gray (1) or colour (3); "auto" keeps them.
    max_bytes : int
        Memory for all images; one image may take 1/32 of it.
    file : binary file or None
        Open file to which the images are written as a .npy file, in place of memory.

    Returns
    -------
    ndarray of shape (n, C, H, W), uint8; no array if the images are written to a file
    """
    images: Any = None
    shapes: dict[tuple, list] = {}
    unreadable, transparent = [], []
    for i, (name, open_) in enumerate(progress(sources, "reading images")):
        try:
            with reading(container, _FAILURE, "repair it or take it out", member=name):
                pixels, is_transparent = decode(
                    open_(),
                    where(container, name),
                    size=size,
                    channels=channels,
                    max_bytes=max_bytes,
                )
        except UnreadableFileError as error:
            unreadable.append((name, error))
            continue
        shapes.setdefault(pixels.shape, []).append(name)
        if is_transparent:
            transparent.append(name)
        if images is None:
            shape = (len(sources), *pixels.shape)
            images = (
                _in_memory(shape, container, max_bytes) if file is None else _NpyFile(file, shape)
            )
        if pixels.shape == images.shape[1:]:
            images[i] = pixels
    _check_complete(unreadable, shapes, len(sources), container)
    if transparent:
        warnings.warn(
            f"{len(transparent)} of {len(sources)} images in '{container}' have transparent "
            f"pixels, whose stored colours are used: {_listed(map(repr, transparent))}. Flatten "
            "the images onto a background to choose other colours.",
            UserWarning,
            stacklevel=4,
        )
    return images


def _in_memory(shape, container, max_bytes):
    """Return an empty array for all images, the only large allocation; raise if it is too large."""
    array = f"an array of shape {shape} for '{container}'"
    fewer = "write them to a file (out=) or take fewer images (max_images=), or "
    check_size(math.prod(shape), max_bytes, array, max_bytes, fewer)
    return np.empty(shape, dtype=np.uint8)


def _check_complete(unreadable, shapes, n, container):
    """Raise one error for all images that are unreadable or differ in size or channels."""
    faults = []
    if len(unreadable) == 1:
        faults.append(str(unreadable[0][1]))
    elif unreadable:
        errors = _listed(str(error).removesuffix(".") for _, error in unreadable)
        faults.append(f"{len(unreadable)} of {n} images are unreadable: {errors}.")
    kinds = _grouped(shapes, lambda shape: shape[:1])
    if len(kinds) > 1:
        (usual,), (odd,) = sorted(kinds, key=lambda kind: len(kinds[kind]), reverse=True)
        names = _listed(map(repr, kinds[odd,]))
        faults.append(
            f"{len(kinds[odd,])} of {n} images in '{container}' are {_KINDS[odd]} and all others "
            f"{_KINDS[usual]}: {names}; pass channels=3 (all colour) or channels=1 "
            "(all gray; --channels on the command line)."
        )
    sizes = _grouped(shapes, lambda shape: shape[1:])
    if len(sizes) > 1:
        usual = max(sizes, key=lambda size: len(sizes[size]))
        odd = [
            f"{name!r} {size[0]} x {size[1]}"
            for size in sizes
            for name in sizes[size]
            if size != usual
        ]
        faults.append(
            f"{len(odd)} of {n} images in '{container}' are not {usual[0]} x {usual[1]} (height x "
            f"width), the most common size: {_listed(odd)}; pass size=, which crops and resizes "
            "(--image-size on the command line)."
        )
    if faults:
        raise ValueError(" ".join(faults)) from (unreadable[0][1] if unreadable else None)


def _grouped(shapes, key):
    """Return names grouped by a key of their shapes, a dict of lists."""
    groups: dict[tuple, list] = {}
    for shape, names in shapes.items():
        groups.setdefault(key(shape), []).extend(names)
    return groups
