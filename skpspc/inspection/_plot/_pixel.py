"""Training patches whose weighted mean is one pixel."""

from dataclasses import dataclass

import numpy as np

from ... import _optional
from ...support import Centred
from ._cells import WARNING, box_size, draw, is_signal

_DOMINATES = 0.5  # the weight of one image that is more than the weight of all others together


@dataclass(frozen=True)
class Patch:
    """A rectangle of pixels that the windows over one pixel compare.

    Attributes
    ----------
    row, column : int
        Position of the pixel.
    top, left, bottom, right : int
        First row and column of the rectangle, and the row and column after the last.
    """

    row: int
    column: int
    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def around(cls, pixel, reach, sides):
        """Return the square that reaches ``reach`` pixels to each side, cut at the edges."""
        (row, column), (height, width) = pixel, sides
        top, left = max(row - reach, 0), max(column - reach, 0)
        return cls(
            row, column, top, left, min(row + reach + 1, height), min(column + reach + 1, width)
        )

    @classmethod
    def of_windows(cls, windows, pixel, image_shape):
        """Return the smallest rectangle that holds all windows that answer for a pixel."""
        row, column = pixel
        if isinstance(windows, Centred):
            return cls.around(pixel, windows.size // 2, image_shape[1:])
        masks = windows.masks(image_shape)
        if masks.response is None:
            n_pixels = image_shape[1] * image_shape[2]
            over = masks.query[row * image_shape[2] + column :: n_pixels]
        else:
            over = masks.query[(masks.response[:, :, row, column] > 0).any(1)]
        compared = (over > 0).flatten(0, 1).any(0)
        rows, columns = compared.any(1).nonzero(), compared.any(0).nonzero()
        top, left = min(row, int(rows.min())), min(column, int(columns.min()))
        bottom, right = max(row, int(rows.max())) + 1, max(column, int(columns.max())) + 1
        return cls(row, column, top, left, bottom, right)

    def covers(self, sides):
        """Return whether the rectangle is the whole image (height, width)."""
        return (self.top, self.left, self.bottom, self.right) == (0, 0, *sides)

    @property
    def size(self):
        """Height and width in pixels, a str."""
        return f"{self.bottom - self.top} × {self.right - self.left}"

    def moved(self, row, column, mirrored=False):
        """Return the rectangle around another pixel, left and right exchanged if mirrored."""
        before, after = self.column - self.left, self.right - self.column
        before, after = (after - 1, before + 1) if mirrored else (before, after)
        top, bottom = row - self.row + self.top, row - self.row + self.bottom
        return Patch(row, column, top, column - before, bottom, column + after)

    def crop(self, image):
        """Return the rectangle of an image (C, H, W), with zeros beyond the edges."""
        _, height, width = image.shape
        beyond = (
            (0, 0),
            (max(-self.top, 0), max(self.bottom - height, 0)),
            (max(-self.left, 0), max(self.right - width, 0)),
        )
        padded = np.pad(image, beyond)
        top, left = self.top + beyond[1][0], self.left + beyond[2][0]
        height, width = self.bottom - self.top, self.right - self.left
        return padded[:, top : top + height, left : left + width]

    def draw(self, ax, image, left, top, side, data_range, *, mirrored=False, **frame):
        """Draw the rectangle of an image, with a frame around the pixel."""
        pixels = self.crop(image)
        row, column = self.row - self.top, self.column - self.left
        if mirrored:
            pixels, column = pixels[..., ::-1], pixels.shape[2] - 1 - column
        shape = pixels.shape
        if is_signal(shape) and not is_signal(image.shape):
            pixels = pixels.repeat(2, 1).repeat(2, 2)  # a row of pixels is not drawn as a line
        draw(ax, pixels, left, top, side, data_range, **frame)
        _frame(ax, (row, column, row + 1, column + 1), shape, left, top, side)

    def frame(self, ax, image_shape, left, top, side):
        """Draw a frame around the rectangle of an image that is drawn, cut at the edges."""
        _, height, width = image_shape
        inside = (
            max(self.top, 0),
            max(self.left, 0),
            min(self.bottom, height),
            min(self.right, width),
        )
        _frame(ax, inside, image_shape, left, top, side)


def dominance(weights, number):
    """Return a sentence that says whether one training image dominates an answer.

    ``weights`` are the weights of training images, ``number`` is the image of the largest weight.
    """
    largest = float(max(weights))
    if largest >= _DOMINATES:
        return f"image no. {number} dominates; its weight is {in_percent(largest)}"
    return f"no image dominates; the largest weight is {in_percent(largest)}"


def in_percent(weight):
    """Return a weight in per cent, a str without exponents."""
    percent = 100 * weight
    if percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %"


def _frame(ax, corners, image_shape, left, top, side):
    """Draw a frame around the rectangle (top, left, bottom, right) of a drawn image."""
    width, height = side * np.array(box_size(image_shape))
    scale = height / image_shape[1], width / image_shape[2]
    first = corners[0] * scale[0], corners[1] * scale[1]
    size = (corners[3] - corners[1]) * scale[1], (corners[2] - corners[0]) * scale[0]
    effects = _optional.load("matplotlib.patheffects")
    rectangle = _optional.load("matplotlib.patches").Rectangle(
        (left + first[1], top + first[0]),
        *size,
        fill=False,
        edgecolor=WARNING,
        linewidth=1.5,
        path_effects=[effects.withStroke(linewidth=3.0, foreground="white")],
    )
    ax.add_patch(rectangle)
