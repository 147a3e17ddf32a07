"""Images from a zip, a folder or an npz."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from ._decode import check_count, fill, hidden
from ._embedded import load_digits_images, load_photo_patches

_KNOWN_SPECS = (
    "'digits', 'photos', a .zip of images in EDM layout, a folder of images, or an .npz file"
)
_IMAGE_KEYS = ("images", "arr_0", "x", "X")
_LABEL_KEYS = ("labels", "y", "target")


def load_edm_zip(path, *, max_images=None):
    """Images from a zip in the layout of the EDM code and its users.

    The archive holds image members, by custom ``NNNNN/imgNNNNNNNN.png``, and, if there
    are labels, ``dataset.json`` with ``{"labels": [[member, class], ...]}`` (or a mapping
    from member to class, or null) and optionally ``"classes": [name, ...]``.

    Parameters
    ----------
    path : str or path
        The archive.
    max_images : int or None, default=None
        Read the first ``max_images`` only. Archives are often sorted by class, and then
        the first images are all of one class.

    Returns
    -------
    Bunch
        ``images`` (n, C, H, W) uint8 in the order of the sorted member names, C = 1 for
        gray and 3 for colour; ``target`` (n,) int64, or None without labels; ``classes``,
        a list of names or None; ``DESCR``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the archive is damaged or holds no image, if a member is not an image or differs
        from the first one in size or kind, or if a label is missing or not an integer.
    """
    return _load_edm_zip(path, _first(max_images))


def _load_edm_zip(path, choose):
    path = Path(path)
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"'{path}' is not a zip archive or is damaged ({error}); get it again."
        ) from error
    with archive:
        members = {m.filename: m for m in archive.infolist() if not m.is_dir()}
        names = sorted(n for n in members if n != "dataset.json" and not hidden(n))
        if not names:
            raise ValueError(f"'{path}' holds no images; expected members like 00000/img0.png.")
        labels, classes = {}, None
        if "dataset.json" in members:
            labels, classes = _read_labels(archive.read, path)
        names = [names[i] for i in choose(len(names))]
        sources = [(n, lambda m=members[n]: io.BytesIO(archive.read(m))) for n in names]
        images = fill(sources, path)
    return Bunch(
        images=images,
        target=_labels_of(names, labels, path),
        classes=classes,
        DESCR=f"{len(images)} images from {path.name}.",
    )


def load_image_folder(path, *, size=None, max_images=None):
    """Images from the files in a folder and in its subfolders.

    Files are taken in the order of their sorted relative paths; hidden ones are skipped.
    If every image lies in a subfolder, the names of the first-level subfolders are the
    classes. A ``dataset.json`` as in :func:`load_edm_zip` (an unpacked archive) takes
    precedence.

    Parameters
    ----------
    path : str or path
        The folder.
    size : int or None, default=None
        Crop each image to its centre square and resize that to (size, size) by Lanczos
        resampling. None leaves images as they are; they must share a size then.
    max_images : int or None, default=None
        Read the first ``max_images`` only.

    Returns
    -------
    Bunch
        ``images`` (n, C, H, W) uint8, C = 1 for gray and 3 for colour (transparency is
        dropped); ``target`` (n,) int64 or None; ``classes``, a list of names or None;
        ``DESCR``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.
    ValueError
        If the folder holds no image, if a file is not an 8-bit image, or if it differs
        from the first one in size or kind; the message names it.
    """
    return _load_image_folder(path, _first(max_images), size)


def _load_image_folder(path, choose, size=None):
    check_count("size", size)
    path = Path(path)
    if not path.is_dir():
        error = NotADirectoryError if path.exists() else FileNotFoundError
        raise error(f"'{path}' is not a folder.")
    found = (p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
    names = sorted(n for n in found if n != "dataset.json" and not hidden(n))
    if not names:
        raise ValueError(f"'{path}' holds no images.")
    labels, classes = {}, None
    if (path / "dataset.json").is_file():
        labels, classes = _read_labels(lambda name: (path / name).read_bytes(), path)
    elif all("/" in n for n in names):
        classes = sorted({n.split("/")[0] for n in names})
        labels = {n: classes.index(n.split("/")[0]) for n in names}
    names = [names[i] for i in choose(len(names))]
    images = fill([(n, lambda n=n: path / n) for n in names], path, size=size)
    return Bunch(
        images=images,
        target=_labels_of(names, labels, path),
        classes=classes,
        DESCR=f"{len(images)} images from the folder {path.name}.",
    )


def _read_labels(read, path):
    """``dataset.json`` as ({member: class}, class names or None)."""
    where = f"dataset.json in '{path}'"
    try:
        content = json.loads(read("dataset.json"))
        labels = content.get("labels") or {}
        labels = dict(labels)
        classes = content.get("classes")
    except (ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f'{where} cannot be read ({error}); expected {{"labels": [[member, class], ...]}}.'
        ) from error
    return labels, classes if classes is None else [str(name) for name in classes]


def _labels_of(names, labels, path):
    """Labels of the named members, (n,) int64, or None if there are none."""
    if not labels:
        return None
    target = np.empty(len(names), dtype=np.int64)
    for i, name in enumerate(names):
        if name not in labels:
            raise ValueError(
                f"dataset.json in '{path}' has no label for '{name}'; add it, or set "
                f'"labels" to null.'
            )
        if type(labels[name]) is not int:
            raise ValueError(
                f"the label of '{name}' in '{path}' must be an integer, got {labels[name]!r}."
            )
        target[i] = labels[name]
    return target


def load_npz(path, *, key=None, max_images=None):
    """Images from a NumPy ``.npz`` file.

    Parameters
    ----------
    path : str or path
        The file. It is read without pickle.
    key : str or None, default=None
        Name of the array. None takes the first there is of "images", "arr_0", "x", "X",
        or else the only array with four axes.
    max_images : int or None, default=None
        Keep the first ``max_images`` only.

    Returns
    -------
    Bunch
        ``images`` (n, C, H, W) uint8; ``target`` (n,) int64 from "labels", "y" or
        "target", or None; ``classes``, from "classes", or None; ``DESCR``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or holds no uint8 array of such a shape.

    Notes
    -----
    The array is uint8, of shape (n, C, H, W), or (n, H, W) for one channel, or
    (n, H, W, C): the last is assumed when the last axis is 1 or 3 and the second is not.
    Floats are refused because their range is unknown; pass them to ``fit`` as they are.
    """
    return _load_npz(path, _first(max_images), key)


def _load_npz(path, choose, key=None):
    path = Path(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single array, write it with numpy.savez")
        with archive:
            key = _image_key(archive) if key is None else key
            if key not in archive:
                raise ValueError(f"no array {key!r} among {list(archive)}")
            images = archive[key]
            target = next((archive[k] for k in _LABEL_KEYS if k in archive), None)
            classes = archive["classes"].tolist() if "classes" in archive else None
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        raise ValueError(f"'{path}' cannot be read as an npz of images: {error}.") from error

    if images.dtype != np.uint8:
        raise ValueError(
            f"{key!r} in '{path}' must be uint8 (0 to 255), got {images.dtype}; convert it, or "
            f"pass floats in [-1, 1] to fit."
        )
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{key!r} in '{path}' must have shape (n, C, H, W), (n, H, W) or (n, H, W, C) and "
            f"hold something, got {images.shape}."
        )
    if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if target is not None:
        target = target.ravel()
        if len(target) != len(images) or target.dtype.kind not in "iu":
            raise ValueError(
                f"the labels in '{path}' must be {len(images)} integers, one an image; got "
                f"{len(target)} of dtype {target.dtype}."
            )
    rows = choose(len(images))
    return Bunch(
        images=np.ascontiguousarray(images if len(rows) == len(images) else images[rows]),
        target=None if target is None else target[rows].astype(np.int64),
        classes=classes,
        DESCR=f"{len(rows)} images from {path.name}.",
    )


def _image_key(archive):
    for key in _IMAGE_KEYS:
        if key in archive:
            return key
    candidates = [key for key in archive if archive[key].ndim == 4]
    if len(candidates) != 1:
        raise ValueError(
            f"which of its arrays {list(archive)} are the images is not clear; "
            f'name one "images" or pass key='
        )
    return candidates[0]


def load_images(spec, *, max_images=None, size=None):
    """Load what the command line's ``--data`` names.

    Unlike the public loaders, ``max_images`` takes images evenly spaced over the data, so
    that a file sorted by class gives all its classes.

    Parameters
    ----------
    spec : str
        "digits", "photos", a .zip in EDM layout, a folder, or an .npz.
    max_images : int or None
    size : int or None
        For a folder, see :func:`load_image_folder`.
    """
    check_count("max_images", max_images)
    choose = _spread(max_images)
    path = Path(spec)
    if spec not in ("digits", "photos") and path.is_dir():
        return _load_image_folder(path, choose, size)
    if size is not None:
        raise ValueError(f"an image size can be asked of a folder only, and {spec!r} is none.")
    if path.suffix.lower() == ".zip":
        return _load_edm_zip(path, choose)
    if path.suffix.lower() == ".npz":
        return _load_npz(path, choose)
    if spec not in ("digits", "photos"):
        raise ValueError(f"data must be {_KNOWN_SPECS}; {spec!r} is none of these.")
    data = load_digits_images() if spec == "digits" else load_photo_patches()
    rows = choose(len(data.images))
    data.update(images=data.images[rows], target=data.target[rows])
    return data


def _first(max_images):
    """Return a function from the number of images to the rows to keep: the first ones."""
    check_count("max_images", max_images)
    return lambda n: range(n)[:max_images]


def _spread(max_images):
    """As :func:`_first`, evenly spaced."""
    return lambda n: [i * n // m for m in [min(n, max_images or n)] for i in range(m)]
