"""Labels of images as they are written to files, as class indices."""

from numbers import Real

import numpy as np

from .._validation import is_one_hot

_LARGEST = np.iinfo(np.int64).max


def class_index(value):
    """Index of a class from an integer, an integral float or a one-hot list.

    Raises
    ------
    ValueError
        For anything else; the message is a predicate, to stand after the image's name.
    """
    if isinstance(value, list):
        ones = [i for i, entry in enumerate(value) if entry == 1]
        if len(value) > 1 and len(ones) == 1 and value.count(0) == len(value) - 1:
            return ones[0]
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and _is_int64(value):
        return int(value)
    said = repr(value)
    raise ValueError(
        f"must be an integer or a one-hot list, got {said if len(said) < 60 else said[:57] + '...'}"
    )


def _is_int64(value):
    if isinstance(value, float) and not value.is_integer():  # NaN and infinity are none either
        return False
    return abs(int(value)) <= _LARGEST


def class_indices(array, n):
    """Indices of classes, (n,) int64, from an array of integers, integral floats or one-hot rows.

    Raises
    ------
    ValueError
        For anything else; the message is a predicate.
    """
    if array.ndim == 2 and array.shape[1] > 1:
        if is_one_hot(array) and len(array) == n:
            return array.argmax(1).astype(np.int64)
    elif array.size == n and array.dtype.kind in "iuf":
        flat = array.ravel()
        whole = flat.dtype.kind != "f" or bool((np.isfinite(flat) & (flat == np.rint(flat))).all())
        # 2**63 is a float, the largest int64 is not
        if whole and not (flat.size and (flat.max() >= 2**63 or flat.min() < -(2**63))):
            return flat.astype(np.int64)
    raise ValueError(
        f"must be {n} integers or one-hot rows, one an image; got shape {array.shape} of dtype "
        f"{array.dtype}"
    )


def check_class_names(target, classes, path):
    """Refuse labels that have no name where classes have names.

    Parameters
    ----------
    target : ndarray of shape (n,) or None
    classes : list of str or None
    path : path
    """
    if target is None or classes is None or not len(target):
        return
    if target.min() < 0 or target.max() >= len(classes):
        raise ValueError(
            f"'{path}' names {len(classes)} classes, and its labels go from {target.min()} to "
            f"{target.max()}; name every class, or take the names out."
        )


def class_names(names):
    """Names of classes as a list of str, or None.

    Raises
    ------
    ValueError
        If they are no list of strings or numbers; the message is a predicate.
    """
    if names is None:
        return None
    if isinstance(names, np.ndarray):
        names = names.tolist()
    if not isinstance(names, list) or not all(isinstance(n, (str, bytes, Real)) for n in names):
        raise ValueError("its class names must be a list of names")
    return [n.decode() if isinstance(n, bytes) else str(n) for n in names]
