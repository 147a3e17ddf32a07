"""Labels of the training images and their classes."""

from functools import cached_property

import numpy as np

from .._repr import described
from .._state import NumpyState

_SHOWN = 10  # classes that an error lists
_REMEDY = "make them all numbers or all strings"


class Labels(NumpyState):
    """The class of each training image.

    Parameters
    ----------
    values : array of shape (n,)
        One label per image, of any sortable type.
    used : array of shape (n,), bool, default None
        True for images with a positive weight, which make the training set. None: all images.

    Attributes
    ----------
    classes : array of shape (n_classes,)
        The sorted distinct labels, including those of images of weight zero.
    codes : array of shape (N,), int64
        Index in ``classes`` of the label of each image of the training set.

    Raises
    ------
    ValueError
        If labels are missing (NaN, None, NA) or cannot be sorted.
    """

    _not_kept = ("_code_of",)

    def __init__(self, values, used=None):
        if values.dtype.kind in "fcmMO" and any(map(_is_missing, values.tolist())):
            raise ValueError(
                "y holds labels that are missing (NaN, None or NA); give these images another "
                "label, such as 'unknown'."
            )
        try:
            self.classes, codes = np.unique(values, return_inverse=True)
        except TypeError as error:
            raise ValueError(f"the labels in y cannot be sorted ({error}); {_REMEDY}.") from error
        self.codes = codes if used is None else codes[used]

    def __repr__(self):
        return f"Labels(n={len(self.codes)}, classes={described(self.classes.tolist())})"

    def joined(self, other):
        """Return these labels with others appended."""
        kinds = self.classes.dtype, other.classes.dtype
        if len({kind.kind in "biuf" for kind in kinds}) > 1:  # numpy would convert all to strings
            raise ValueError(
                f"the new labels have dtype {kinds[1]}, but the present labels have dtype "
                f"{kinds[0]}; {_REMEDY}."
            )
        both = Labels(_concatenated(self.classes, other.classes))
        ours, theirs = np.split(both.codes, [len(self.classes)])
        both.codes = np.concatenate([ours[self.codes], theirs[other.codes]])
        return both

    @cached_property
    def _code_of(self):
        return {label: code for code, label in enumerate(self.classes.tolist())}

    def find(self, y):
        """Return the class codes of labels y (n,), as a list of int.

        Raises
        ------
        ValueError
            If a label is not in ``classes``.
        """
        codes = [self._code_of.get(label) for label in y.tolist()]
        if None in codes:
            classes = self.classes.tolist()
            listed = ", ".join(map(repr, classes[:_SHOWN]))
            if len(classes) > _SHOWN:
                listed += f", ... ({len(classes)} in all)"
            raise ValueError(
                f"y holds {y.tolist()[codes.index(None)]!r}, which is the label of no training "
                f"image; the classes are {listed}."
            )
        return codes

    def rows(self, code):
        """Return the indices of the images of a class, as a slice or an array (m,).

        Raises
        ------
        ValueError
            If the class has no images in the training set.
        """
        rows = np.flatnonzero(self.codes == code)
        if not len(rows):
            raise ValueError(
                f"the class {self.classes.tolist()[code]!r} has no images of positive "
                "sample_weight; give at least one of its images a positive weight."
            )
        if rows[-1] - rows[0] + 1 == len(rows):
            return slice(int(rows[0]), int(rows[-1]) + 1)
        return rows


def _is_missing(label):
    """Return True if a label is None, NaN, NaT or pandas.NA."""
    try:
        return label is None or bool(label != label)
    except TypeError:  # NA is neither equal nor unequal to anything
        return True


def _concatenated(labels, others):
    """Concatenate two arrays of labels; integers of different dtypes stay integers."""
    both = labels, others
    if np.result_type(*both).kind == "f" and all(array.dtype.kind in "iu" for array in both):
        return np.array([label for array in both for label in array.tolist()], dtype=object)
    return np.concatenate(both)
