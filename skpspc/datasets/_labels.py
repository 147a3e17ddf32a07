"""Class indices from the labels in files."""

from contextlib import suppress
from numbers import Real

import numpy as np

from .._validation import is_one_hot


def class_index(value):
    """Return a class index from an integer, an integral float or a one-hot list.

    The message of a ValueError is a predicate, to be appended to the name of the image.
    """
    with suppress(ValueError):
        if isinstance(value, (int, float)) or (isinstance(value, list) and len(value) > 1):
            return int(class_indices(np.array([value]), 1)[0])
    said = repr(value)
    said = said if len(said) < 60 else said[:57] + "..."
    raise ValueError(f"must be an integer or a one-hot list, got {said}")


def class_indices(array, n):
    """Return class indices (n,), int64, from integers, integral floats or one-hot rows.

    The message of a ValueError is a predicate, to be appended to the name of the array.
    """
    if array.ndim == 2 and array.shape[1] > 1:
        if is_one_hot(array) and len(array) == n:
            return array.argmax(1).astype(np.int64)
    elif array.size == n and array.dtype.kind in "iuf":
        flat = array.ravel()
        whole = flat.dtype.kind != "f" or bool((np.isfinite(flat) & (flat == np.rint(flat))).all())
        # 2**63 can be a float, and the largest int64 cannot
        if whole and not (flat.size and (flat.max() >= 2**63 or flat.min() < -(2**63))):
            return flat.astype(np.int64)
    raise ValueError(
        f"must be {n} integers or one-hot rows, one per image; got shape {array.shape} of dtype "
        f"{array.dtype}"
    )


def check_class_names(target, classes, path):
    """Raise if ``classes`` names some classes of ``target`` (n,) and not all of them."""
    if target is None or classes is None or not len(target):
        return
    if target.min() < 0 or target.max() >= len(classes):
        raise ValueError(
            f"'{path}' names {len(classes)} classes, and its labels range from {target.min()} to "
            f"{target.max()}; name every class, or remove the names."
        )


def class_names(names):
    """Return the names of classes as a list of str, or None.

    The message of a ValueError is a sentence without the name of the file.
    """
    if names is None:
        return None
    if isinstance(names, np.ndarray):
        names = names.tolist()
    if not isinstance(names, list) or not all(isinstance(n, (str, bytes, Real)) for n in names):
        raise ValueError("its class names must be a list of names")
    return [n.decode() if isinstance(n, bytes) else str(n) for n in names]
