"""Where a patch looks and where it answers.

A square window of size ``s`` is every ``s x s`` crop that fits the image, named by its top
left corner. Along an axis shorter than ``s`` it spans the whole axis, so that an image of
shape (C, 1, W) is a signal with windows of ``s`` samples.
"""

import numpy as np


def clip_size(size, image_shape):
    """Height and width of a square window of side ``size`` in an image (C, H, W)."""
    _, height, width = image_shape
    return min(size, height), min(size, width)


def square_corners(window, image_shape):
    """Top left corners of all windows that fit, in row-major order.

    Parameters
    ----------
    window : tuple of (h, w)
    image_shape : tuple of (C, H, W)

    Returns
    -------
    list of (top, left)
    """
    (h, w), (_, height, width) = window, image_shape
    return [(top, left) for top in range(height - h + 1) for left in range(width - w + 1)]


def overlap_counts(window, image_shape):
    """How many windows of shape (h, w) cover each pixel.

    Returns
    -------
    ndarray of shape (H, W), float64
    """

    def along(side, length):
        at = np.arange(length)
        return np.minimum.reduce(
            [at + 1, length - at, np.full(length, side), np.full(length, length - side + 1)]
        )

    (h, w), (_, height, width) = window, image_shape
    return np.outer(along(h, height), along(w, width)).astype(np.float64)


def centred_counts(size, image_shape):
    """How many pixels of the image lie in the odd square of side ``size`` around each pixel.

    Returns
    -------
    ndarray of shape (H, W), float64
    """

    def along(length):
        at = np.arange(length)
        return np.minimum(at + size // 2, length - 1) - np.maximum(at - size // 2, 0) + 1

    _, height, width = image_shape
    return np.outer(along(height), along(width)).astype(np.float64)
