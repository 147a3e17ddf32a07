"""A grid of images in one picture."""

import math

import numpy as np

_WHITE = 255


def image_grid(images, n_columns=None, *, gap=2, min_tile=64):
    """Return a grid of images (n, C, H, W) as one picture (height, width, 3), uint8.

    Images are uint8, or floats, which are clipped to [-1, 1]; C is 1 (gray) or 3 (RGB). Without
    ``n_columns`` the picture is as square as full rows allow. ``gap`` is the width of the white
    lines in pixels. Images whose longer side is below ``min_tile`` are enlarged by an integer
    factor.
    """
    images = _pixels(images)
    n, _, height, width = images.shape
    scale = math.ceil(min_tile / max(height, width))
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = height * scale + gap, width * scale + gap  # of a cell
    if n_columns is None:
        n_columns = min(n, math.ceil(math.sqrt(n * height / width)))
    n_rows = math.ceil(n / n_columns)

    grid = np.full((n_rows * height + gap, n_columns * width + gap, 3), _WHITE, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // n_columns * height + gap, i % n_columns * width + gap
        grid[top : top + height - gap, left : left + width - gap] = image.transpose(1, 2, 0)
    return grid


def one_picture(images):
    """Return one image (1, C, H, W) as a picture of its size, (H, W) for gray, uint8."""
    (image,) = _pixels(images)
    return image[0] if len(image) == 1 else image.transpose(1, 2, 0)


def _pixels(images):
    """Return images (n, 1 or 3, H, W) as uint8; floats are clipped to [-1, 1]."""
    images = np.asarray(images)
    check_picturable(images.shape)
    if images.dtype == np.uint8:
        return images
    return np.rint((np.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def check_picturable(shape):
    """Raise for shapes other than (n, 1 or 3, H, W)."""
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise ValueError(
            f"a picture shows images of shape (n, 1 or 3, H, W), got {tuple(shape)}; write "
            ".npy or .npz instead."
        )
