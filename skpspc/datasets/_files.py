"""Readers of the images in a zip, a folder or an npz."""

import io
import zipfile
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from .._input import (
    MAX_BYTES,
    ArrayArchive,
    check_max_bytes,
    check_size,
    image_limit,
    parse_json,
    read_file,
    read_member,
    reading,
    text_limit,
    where,
)
from .._output import check_output, replacing
from .._progress import showing
from .._repr import ShortBunch
from .._typing import Path as PathLike
from ._decode import check_channels, check_count, fill, hidden, image_names
from ._embedded import load_digits_images, load_photo_patches
from ._labels import check_class_names, class_index, class_indices, class_names

_KNOWN_SPECS = (
    "'digits', 'photos', a .zip of images in EDM layout, a folder of images, or an .npz file"
)
# Names of image arrays in an npz, each with the usual name of its labels.
_PAIRS = {
    "images": "labels",
    "arr_0": "arr_1",
    "x": "y",
    "X": "y",
    "x_train": "y_train",
    "X_train": "y_train",
    "train_images": "train_labels",
    "x_test": "y_test",
    "X_test": "y_test",
    "test_images": "test_labels",
    "x_val": "y_val",
    "X_val": "y_val",
    "val_images": "val_labels",
}
_IMAGE_KEYS = ("images", "arr_0", "x", "X", "x_train", "X_train", "train_images")
_LABEL_KEYS = ("labels", "y", "target")


def load_edm_zip(
    path: PathLike,
    *,
    size: int | None = None,
    channels: str | int = "auto",
    max_images: int | None = None,
    max_bytes: int = MAX_BYTES,
    out: PathLike | None = None,
    verbose: int = 0,
) -> Bunch:
    """Return the images of a zip archive in the layout of the EDM code.

    The archive holds image files, usually named ``NNNNN/imgNNNNNNNN.png``. Labels are in a file
    ``dataset.json``: ``{"labels": [[file, class], ...]}`` (or a mapping from file to class, or
    null), optionally with ``"classes": [name, ...]``. A class is an integer, an integral float or a
    one-hot list. ``dataset.json`` may be in a folder, with names of files relative to that folder.
    Files without the suffix of an image (``README.txt``) and hidden files (``__MACOSX/``) are
    skipped.

    Parameters
    ----------
    path : str or path
        The archive.
    size : int or None, default None
        Crop each image to its centre square and resize it to (size, size) by Lanczos
        resampling. None: keep the images, which must have equal sizes.
    channels : {"auto", 1, 3}, default "auto"
        Convert all images to gray (1, by their luma) or to colour (3). "auto": keep the images,
        which must be all gray or all in colour.
    max_images : int or None, default None
        Number of images to read, evenly spaced over the sorted names. (The first images of an
        archive are often all of one class.) None: read all images.
    max_bytes : int, default 2**33
        Largest memory for the images in bytes, by default 8 GiB. One image may take 1/32 of it
        (256 MiB), encoded and decoded, and ``dataset.json`` 1/128 (64 MiB).
    out : str or path, default None
        File ``.npy`` to which the images are written one by one, in place of memory; ``images`` is
        then a read-only map of the file. Decode once, and pass the file to ``fit`` afterwards. An
        existing file is replaced when all images are written. ``max_bytes`` limits single images
        only.
    verbose : int, default 0
        Above 0, show a progress bar.

    Returns
    -------
    Bunch
        ``images`` (n, C, H, W) uint8 in the order of the sorted file names, with C = 1 for gray
        and 3 for colour; ``target`` (n,) int64, or None without labels; ``classes``, a list of
        names or None; ``n_skipped``, the number of skipped files; ``DESCR``, a description.

    Warns
    -----
    UserWarning
        If files are skipped, or images have transparent pixels.

    Raises
    ------
    OSError
        If there is no such file, the file system fails, or ``out`` cannot be written or does not
        fit on its disk.
    ValueError
        If the archive is damaged or holds no image, if images are unreadable or differ in size or
        channels (the message lists them), if a label is missing, is not a class index or has no
        class name, or if ``max_bytes`` is too small.

    Notes
    -----
    The formats are PNG, JPEG, BMP, GIF, PPM, TGA, TIFF and WebP, with at most 8 bits per channel
    and one frame or page. Palettes and CMYK become RGB, without colour profiles; 1-bit images
    become gray, 0 and 255. An orientation in EXIF is applied. Transparency is dropped.

    Examples
    --------
    Ten digits as an archive, with their labels:

    >>> import io, json, zipfile
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from skpspc.datasets import load_digits_images, load_edm_zip
    >>> digits = load_digits_images()
    >>> target = digits.target[:10].tolist()
    >>> with TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(f"{folder}/digits.zip", "w") as archive:
    ...         for i, image in enumerate(digits.images[:10]):
    ...             png = io.BytesIO()
    ...             Image.fromarray(image[0]).save(png, "png")
    ...             archive.writestr(f"{i}.png", png.getvalue())
    ...         labels = [[f"{i}.png", label] for i, label in enumerate(target)]
    ...         table = json.dumps({"labels": labels})
    ...         archive.writestr("dataset.json", table)
    ...     data = load_edm_zip(f"{folder}/digits.zip")
    >>> data.DESCR, data.target.tolist()
    ('10 images from digits.zip.', [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    _check_options(max_images, size, channels, max_bytes)
    path = Path(path)
    with reading(path, "is not a zip archive or is damaged", "get it again"):
        archive = zipfile.ZipFile(path)
    with archive:
        members = {m.filename: m for m in archive.infolist() if not m.filename.endswith("/")}

        def read(name, limit):
            return read_member(archive, members[name], limit, max_bytes)

        def opened(name):
            return io.BytesIO(read(name, image_limit(max_bytes)))

        contents = _contents(members, read, path, max_bytes)
        source = f"from {path.name}"
        with showing(verbose):
            return _decoded(
                contents, opened, path, source, max_images, size, channels, max_bytes, out
            )


def load_image_folder(
    path: PathLike,
    *,
    size: int | None = None,
    channels: str | int = "auto",
    max_images: int | None = None,
    max_bytes: int = MAX_BYTES,
    out: PathLike | None = None,
    verbose: int = 0,
) -> Bunch:
    """Return the images in a folder and its subfolders.

    Images are in the order of their sorted relative paths. Hidden files and files without the
    suffix of an image are skipped. If every image lies in a subfolder, the names of the first-level
    subfolders are the classes. A file ``dataset.json`` (as in an unpacked archive of
    :func:`load_edm_zip`) takes precedence over the subfolders.

    Parameters
    ----------
    path : str or path
        The folder.
    size : int or None, default None
        Crop each image to its centre square and resize it to (size, size) by Lanczos
        resampling. None: keep the images, which must have equal sizes.
    channels : {"auto", 1, 3}, default "auto"
        Convert all images to gray (1, by their luma) or to colour (3). "auto": keep the images,
        which must be all gray or all in colour.
    max_images : int or None, default None
        Number of images to read, evenly spaced over the sorted paths. None: read all images.
    max_bytes : int, default 2**33
        Largest memory for the images in bytes, by default 8 GiB. One image may take 1/32 of it
        (256 MiB), encoded and decoded, and ``dataset.json`` 1/128 (64 MiB).
    out : str or path, default None
        File ``.npy`` to which the images are written one by one, in place of memory; ``images`` is
        then a read-only map of the file. Decode once, and pass the file to ``fit`` afterwards. An
        existing file is replaced when all images are written. ``max_bytes`` limits single images
        only.
    verbose : int, default 0
        Above 0, show a progress bar.

    Returns
    -------
    Bunch
        ``images`` (n, C, H, W) uint8 in the order of the sorted paths, with C = 1 for gray and 3
        for colour; ``target`` (n,) int64, or None without labels; ``classes``, a list of names or
        None; ``n_skipped``, the number of skipped files; ``DESCR``, a description.

    Warns
    -----
    UserWarning
        If files are skipped, or images have transparent pixels.

    Raises
    ------
    OSError
        If there is no such folder, the file system fails, or ``out`` cannot be written or does not
        fit on its disk.
    ValueError
        If the folder holds no image, if images are unreadable or differ in size or channels (the
        message lists them), if a label is missing, is not a class index or has no class name, or if
        ``max_bytes`` is too small.

    See Also
    --------
    load_edm_zip : Lists the image formats, and what happens to palettes and transparency.

    Examples
    --------
    Photographs in one subfolder per class, cropped and resized to 32 x 32:

    >>> import os
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from sklearn.datasets import load_sample_images
    >>> from skpspc.datasets import load_image_folder
    >>> photos = load_sample_images().images
    >>> with TemporaryDirectory() as folder:
    ...     for name, photo in zip(["temple", "flower"], photos):
    ...         os.mkdir(f"{folder}/{name}")
    ...         Image.fromarray(photo).save(f"{folder}/{name}/1.png")
    ...     data = load_image_folder(folder, size=32)
    >>> data.classes, data.target.tolist()
    (['flower', 'temple'], [0, 1])

    The mean red, green and blue of the two images:

    >>> data.images.mean((2, 3)).round().astype(int).tolist()
    [[81, 79, 56], [146, 145, 141]]
    """
    _check_options(max_images, size, channels, max_bytes)
    path = Path(path)
    if not path.is_dir():
        error = NotADirectoryError if path.exists() else FileNotFoundError
        raise error(f"'{path}' is not a folder; give the folder that holds the images.")
    files = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]

    def opened(name):
        limit = image_limit(max_bytes)
        check_size((path / name).stat().st_size, limit, where(path, name), max_bytes)
        return path / name

    def read(name, limit):
        return read_file(path / name, limit, max_bytes)

    names, labels, classes, n_skipped = _contents(files, read, path, max_bytes)
    if labels is None and all("/" in name for name in names):
        classes = sorted({name.split("/")[0] for name in names})
        indices = {name: i for i, name in enumerate(classes)}
        labels = {name: indices[name.split("/")[0]] for name in names}
    contents = names, labels, classes, n_skipped
    source = f"from the folder {path.name}"
    with showing(verbose):
        return _decoded(contents, opened, path, source, max_images, size, channels, max_bytes, out)


def _check_options(max_images, size, channels, max_bytes):
    check_count("max_images", max_images)
    check_count("size", size)
    check_channels(channels)
    check_max_bytes(max_bytes)


def _decoded(contents, opened, path, source, max_images, size, channels, max_bytes, out):
    """Return the Bunch of an archive or folder; ``opened(name)`` returns a path or binary file.

    ``out`` is the path of a .npy file for the images, or None.
    """
    out = None if out is None else check_output(out, (".npy",))
    names, labels, classes, n_skipped = contents
    names = [names[i] for i in _spread(len(names), max_images)]
    target = _labels_of(names, labels, classes, path)
    sources = [(name, lambda name=name: opened(name)) for name in names]
    options = {"size": size, "channels": channels, "max_bytes": max_bytes}
    if out is None:
        images = fill(sources, path, **options)
    else:
        with replacing(out) as file:
            fill(sources, path, file=file, **options)
        images = np.load(out, mmap_mode="r")
    return ShortBunch(
        images=images,
        target=target,
        classes=classes,
        n_skipped=n_skipped,
        DESCR=f"{len(images)} images {source}.",
    )


def _contents(files, read, path, max_bytes):
    """Return names of images, labels by name or None, class names or None, and n_skipped.

    ``files`` are the names in an archive or folder. ``read(name, limit)`` returns the bytes of a
    file, at most ``limit``.
    """
    tables = [n for n in files if n.split("/")[-1] == "dataset.json" and not hidden(n)]
    table = "dataset.json" if "dataset.json" in tables else next(iter(tables), None)
    if table != "dataset.json" and len(tables) > 1:
        raise ValueError(
            f"'{path}' holds several files dataset.json ({', '.join(map(repr, sorted(tables)))}); "
            "put one with all labels at the top."
        )
    names, n_skipped = image_names([name for name in files if name != table], path)
    if table is None:
        return names, None, None, n_skipped
    expected = 'write {"labels": [[member, class], ...]}'
    with reading(path, "cannot be read", expected, member=table):
        content = parse_json(read(table, text_limit(max_bytes)))
        labels = dict(content.get("labels") or {})
        classes = class_names(content.get("classes"))
        folder = table.removesuffix("dataset.json")
        if folder:
            labels |= {folder + name: label for name, label in labels.items()}
    return names, labels, classes, n_skipped


def _labels_of(names, labels, classes, path):
    """Return the labels of images by their names, (n,) int64, or None without labels."""
    if not labels:
        return None
    target = np.empty(len(names), dtype=np.int64)
    for i, name in enumerate(names):
        if name not in labels:
            raise ValueError(
                f"dataset.json in '{path}' has no label for {name!r}; add it, or set "
                f'"labels" to null.'
            )
        try:
            target[i] = class_index(labels[name])
        except ValueError as error:
            raise ValueError(
                f"the label of {name!r} in '{path}' {error}; correct dataset.json, or set "
                f'"labels" to null.'
            ) from error
    check_class_names(target, classes, path)
    return target


def load_npz(
    path: PathLike,
    *,
    key: str | None = None,
    max_images: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> Bunch:
    """Return the images of a NumPy ``.npz`` file.

    Parameters
    ----------
    path : str or path
        The file, read without pickle.
    key : str or None, default None
        Name of the array of images. None: the first of "images", "arr_0", "x", "X", "x_train",
        "X_train", "train_images" in the file, or else the only array with four axes.
    max_images : int or None, default None
        Number of images to keep, evenly spaced over the file. None: keep all images.
    max_bytes : int, default 2**33
        Largest size of an array in bytes, by default 8 GiB.

    Returns
    -------
    Bunch
        ``images`` (n, C, H, W) uint8; ``target`` (n,) int64, or None without labels; ``classes``,
        the array "classes" as a list of names, or None; ``DESCR``, a description.

    Raises
    ------
    OSError
        If there is no such file, or the file system fails.
    ValueError
        If the file is damaged or has no such uint8 array, if labels do not fit the images or the
        class names, or if ``max_bytes`` is too small.

    Notes
    -----
    Images are uint8, of shape (n, C, H, W), (n, H, W) for gray images, or (n, H, W, C). The last
    layout is assumed if the last axis is 1 or 3 and the second axis is neither. Float images are
    refused, as their range is unknown; pass them to ``fit``.

    Labels are integers, integral floats or one-hot rows. They are read from the array that
    customarily accompanies the images ("y_train" with "x_train", "test_labels" with "test_images",
    "arr_1" with "arr_0" if it has one or two axes), or else from "labels", "y" or "target".

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from skpspc.datasets import load_digits_images, load_npz
    >>> digits = load_digits_images()
    >>> arrays = {"images": digits.images, "labels": digits.target}
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/digits.npz", **arrays)
    ...     data = load_npz(f"{folder}/digits.npz", max_images=100)
    >>> data.DESCR
    '100 images from digits.npz.'
    >>> np.bincount(data.target)  # images of each digit
    array([11, 10,  5, 10, 12,  7,  7, 14, 11, 13])
    """
    check_count("max_images", max_images)
    check_max_bytes(max_bytes)
    path = Path(path)
    remedy = "write it with numpy.savez"
    with (
        reading(path, "cannot be read as an npz of images", remedy),
        ArrayArchive(path, max_bytes) as archive,
    ):
        key = _image_key(archive) if key is None else key
        if key not in list(archive):
            raise ValueError(f"no array {key!r} among {list(archive)}")
        images = archive[key]
        label_key = _label_key(archive, key)
        target = None if label_key is None else archive[label_key]
        classes = class_names(archive["classes"] if "classes" in list(archive) else None)

    if images.dtype != np.uint8:
        raise ValueError(
            f"{key!r} in '{path}' must be uint8 (0 to 255), got {images.dtype}; convert it, or "
            f"pass floats in [-1, 1] to fit."
        )
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{key!r} in '{path}' must have shape (n, C, H, W), (n, H, W) or (n, H, W, C) and at "
            f"least one value, got {images.shape}."
        )
    if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if target is not None:
        try:
            target = class_indices(target, len(images))
        except ValueError as error:
            raise ValueError(
                f"the labels {label_key!r} in '{path}' {error}; correct or remove the labels."
            ) from None
        check_class_names(target, classes, path)
    rows = _spread(len(images), max_images)
    return ShortBunch(
        images=np.ascontiguousarray(images if len(rows) == len(images) else images[rows]),
        target=None if target is None else target[rows],
        classes=classes,
        DESCR=f"{len(rows)} images from {path.name}.",
    )


def _image_key(archive):
    """Return the name of the array of images: a customary name, or the only 4-D array."""
    for key in _IMAGE_KEYS:
        if key in list(archive):
            return key
    candidates = [key for key in archive if len(archive.shape(key)) == 4]
    if len(candidates) != 1:
        raise ValueError(
            f"its arrays {list(archive)} include no customary name of images and not exactly one "
            'array of four axes; name one array "images" or pass key='
        )
    return candidates[0]


def _label_key(archive, key):
    """Return the name of the array of labels of the images ``key``, or None."""
    for label_key in (_PAIRS.get(key), *_LABEL_KEYS):
        # the second of two unnamed arrays may hold images as well
        if label_key in list(archive) and (label_key != "arr_1" or len(archive.shape("arr_1")) < 3):
            return label_key
    return None


def load_images(spec, *, max_images=None, size=None, channels="auto", max_bytes=MAX_BYTES):
    """Return the Bunch of the option ``--data`` of the command line.

    Parameters
    ----------
    spec : str
        "digits", "photos", a .zip in EDM layout, a folder, or an .npz.
    max_images, size, channels, max_bytes
        See :func:`load_edm_zip`; ``size`` and ``channels`` serve a folder or a zip only.
    """
    check_count("max_images", max_images)
    path = Path(spec)
    limits = {"max_images": max_images, "max_bytes": max_bytes}
    if spec not in ("digits", "photos") and path.is_dir():
        return load_image_folder(path, size=size, channels=channels, **limits)
    if path.suffix.lower() == ".zip":
        return load_edm_zip(path, size=size, channels=channels, **limits)
    if size is not None or channels != "auto":
        raise ValueError(
            f"an image size or a number of channels serves a folder or a zip only, and {spec!r} is "
            "neither; leave out --image-size and --channels."
        )
    if path.suffix.lower() == ".npz":
        return load_npz(path, **limits)
    if spec not in ("digits", "photos"):
        raise ValueError(f"data must be {_KNOWN_SPECS}; {spec!r} is none of these.")
    data = load_digits_images() if spec == "digits" else load_photo_patches()
    rows = _spread(len(data.images), max_images)
    data.update(images=data.images[rows], target=data.target[rows])
    return data


def _spread(n, max_images):
    """Return the indices of at most ``max_images`` of n images, evenly spaced."""
    n_kept = min(n, max_images or n)
    return [i * n // n_kept for i in range(n_kept)]
