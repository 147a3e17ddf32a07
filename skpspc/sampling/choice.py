"""The choice of a candidate, such as a patch size, at each noise level."""

import numpy as np

from .._typing import ImageShape


def least_total(errors: np.ndarray) -> np.ndarray:
    """Return the non-decreasing choice of one candidate per noise level with the least total error.

    Dynamic programming finds the best of all non-decreasing choices. Isotonic regression of the
    best candidates does not: it averages candidates, and ignores the sizes of the errors.

    Parameters
    ----------
    errors : ndarray of shape (L, S)
        Errors of S increasing candidates at L increasing noise levels.

    Returns
    -------
    ndarray of shape (L,), int
        Index of the candidate at each noise level; among equal totals, a choice whose last index
        is lowest.

    Examples
    --------
    >>> import numpy as np
    >>> errors = [[3.0, 2.0, 9.0], [1.0, 5.0, 9.0], [9.0, 5.0, 4.0]]
    >>> least_total(np.array(errors))
    array([0, 0, 2])
    """
    total, came_from = np.zeros(errors.shape[1]), []
    for row in errors:
        is_lower = np.append(True, total[1:] < np.minimum.accumulate(total)[:-1])
        came_from.append(np.maximum.accumulate(np.where(is_lower, np.arange(len(total)), 0)))
        total = total[came_from[-1]] + row
    chosen, column = [], int(total.argmin())
    for before in reversed(came_from):
        chosen.append(column)
        column = int(before[column])
    return np.array(chosen[::-1])


def patch_sizes(image_shape: ImageShape, n_sizes: int = 15) -> list[int]:
    """Return patch sizes from 1 to the longer side of the image, evenly spaced in their logarithm.

    The list is increasing and has at most ``n_sizes`` ints, as equal ints are merged.

    Examples
    --------
    >>> patch_sizes((3, 32, 32))
    [1, 2, 3, 4, 6, 7, 9, 12, 15, 20, 25, 32]
    """
    return np.unique(np.rint(np.geomspace(1, max(image_shape[1:]), n_sizes)).astype(int)).tolist()
