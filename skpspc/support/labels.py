"""Which class each training image is of."""

from functools import cached_property

import numpy as np

from .._repr import described

_SHOWN = 10  # classes that an error lists
_ALIKE = "make them all numbers or all strings"


class Labels:
    """The classes of the training images.

    Parameters
    ----------
    values : array of shape (n,)
        One label for each image, of any type that sorts.
    used : array of shape (n,), bool, default None
        Which of the images are kept in the training set: those of positive weight. None: all.

    Attributes
    ----------
    classes : array of shape (n_classes,)
        The labels, each once, sorted; those of images that are not kept too.
    codes : array of shape (N,), int64
        The class of each image that is kept, as a position in ``classes``.

    Raises
    ------
    ValueError
        If the labels cannot be sorted, or there is NaN among them.
    """

    def __init__(self, values, used=None):
        if values.dtype.kind in "fcmMO" and any(map(_is_missing, values.tolist())):
            raise ValueError(
                "y holds labels that are missing (NaN, None or NA); give those images a label of "
                "their own."
            )
        try:
            self.classes, codes = np.unique(values, return_inverse=True)
        except TypeError as error:
            raise ValueError(f"the labels in y cannot be sorted ({error}); {_ALIKE}.") from error
        self.codes = codes if used is None else codes[used]

    def __repr__(self):
        return f"Labels(n={len(self.codes)}, classes={described(self.classes.tolist())})"

    def joined(self, other):
        """These labels with others after them."""
        kinds = self.classes.dtype, other.classes.dtype
        if len({kind.kind in "biuf" for kind in kinds}) > 1:  # numpy would make strings of both
            raise ValueError(
                f"the labels so far are of dtype {kinds[0]}, these of {kinds[1]}; {_ALIKE}."
            )
        both = Labels(_concatenated(self.classes, other.classes))
        ours, theirs = np.split(both.codes, [len(self.classes)])
        both.codes = np.concatenate([ours[self.codes], theirs[other.codes]])
        return both

    @cached_property
    def _code_of(self):
        return {label: code for code, label in enumerate(self.classes.tolist())}

    def find(self, y):
        """The codes of labels (n,), a list of int.

        Raises
        ------
        ValueError
            If a label is none of the classes.
        """
        codes = [self._code_of.get(label) for label in y.tolist()]
        if None in codes:
            known = self.classes.tolist()
            listed = ", ".join(map(repr, known[:_SHOWN]))
            if len(known) > _SHOWN:
                listed += f", ... ({len(known)} in all)"
            raise ValueError(
                f"y holds {y.tolist()[codes.index(None)]!r}, and no training image has that label; "
                f"the classes are {listed}."
            )
        return codes

    def rows(self, code):
        """The images of a class: a slice if they lie together, else their numbers (m,).

        Raises
        ------
        ValueError
            If there are none.
        """
        rows = np.flatnonzero(self.codes == code)
        if not len(rows):
            raise ValueError(
                f"{self.classes.tolist()[code]!r} is a class with no images: the sample weights of "
                "all of its images are zero; give some a positive weight."
            )
        if rows[-1] - rows[0] + 1 == len(rows):
            return slice(int(rows[0]), int(rows[-1]) + 1)
        return rows


def _is_missing(label):
    """Whether a label is None, NaN, NaT or pandas.NA."""
    try:
        return label is None or bool(label != label)
    except TypeError:  # NA is neither equal nor unequal to anything
        return True


def _concatenated(labels, others):
    """Two arrays of labels as one; ints of two types stay ints."""
    both = labels, others
    if np.result_type(*both).kind == "f" and all(part.dtype.kind in "iu" for part in both):
        return np.array([label for part in both for label in part.tolist()], dtype=object)
    return np.concatenate(both)
