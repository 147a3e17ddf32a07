"""Which of several candidates serves at each noise level, given what each of them errs."""

import numpy as np


def least_total(errors):
    """The choice of one candidate a noise level, never falling, of the least total error.

    By dynamic programming: the least total of a choice for the first levels that ends at a
    candidate is the error there, added to the least total that ends at it or before it one
    level earlier. That is exact among all non-decreasing choices. Isotonic regression of the
    best candidates is not: it would answer with means of candidates, and take a level where
    all of them serve for one where a single one does.

    Parameters
    ----------
    errors : ndarray of shape (L, S)
        Of S candidates, in their order, at L noise levels, increasing.

    Returns
    -------
    ndarray of shape (L,), int
        Column for every row; of several, one that ends lowest.

    Examples
    --------
    >>> import numpy as np
    >>> least_total(np.array([[3.0, 2.0, 9.0], [1.0, 5.0, 9.0], [9.0, 5.0, 4.0]]))
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


def patch_sizes(image_shape, n_sizes=15):
    """Patch sizes from a pixel to the image, evenly spaced in their logarithm.

    Parameters
    ----------
    image_shape : tuple of (C, H, W)
    n_sizes : int, default 15
        How many, at most: sizes that round to the same are one.

    Returns
    -------
    list of int
        Increasing.

    Examples
    --------
    >>> patch_sizes((3, 32, 32))
    [1, 2, 3, 4, 6, 7, 9, 12, 15, 20, 25, 32]
    """
    return np.unique(np.rint(np.geomspace(1, max(image_shape[1:]), n_sizes)).astype(int)).tolist()
