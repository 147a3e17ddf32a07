"""Grids of images and signals, in boxes that fit any pair of axes.

Positions are in inches: boxes grow with the axes, text does not.
"""

import textwrap

import numpy as np
import torch

from ... import _optional
from ...support.training_set import DEFAULT_RANGE
from .._images import as_floats

GREY = "0.35"
WARNING = "#D55E00"  # vermilion of Okabe and Ito: distinct from gray to all eyes
SIGMA = "noise level σ (units of the images)"
_POINTS = 8.5  # of letters
_SMALLEST = 0.1  # side of a box, in inches
_LETTERS = 12  # of a title to the inch
_LABEL_LETTERS = 14  # of a label to the inch
# A new figure, in inches: at 640 pixels for 8 inches, text of 8.5 points is 9.4 pixels high.
_WIDEST = 8.0
_USUAL = 4.0  # width that a few boxes fill
_LARGEST = 2.0  # side of a box
LABEL_LINE = 0.16  # height of a line of a label, in inches


def as_array(values):
    """Return numbers, arrays and tensors on any device as an array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def as_pictures(X, image_shape=None, data_range=DEFAULT_RANGE):
    """Return images as float64 (n, C, H, W); uint8 pixels are read on ``data_range``.

    Flat images get ``image_shape``, or are signals.
    """
    X = as_floats(as_array(X), data_range)
    if X.ndim == 2:
        X = X.reshape(len(X), *((1, 1, X.shape[1]) if image_shape is None else image_shape))
    if X.ndim != 4:
        raise ValueError(f"images must be (n, C, H, W) or (n, d), got shape {X.shape}.")
    return X


def is_signal(image_shape):
    """Return whether an image (C, H, W) is one pixel high or wide, and drawn as a line."""
    return min(image_shape[1:]) == 1


def box_size(image_shape):
    """Return width and height of the box of an image (C, H, W), the longer one 1."""
    if is_signal(image_shape):
        return 1.0, 0.6
    _, height, width = image_shape
    return width / max(height, width), height / max(height, width)


def limits(*images):
    """Return the values of black and white, or of bottom and top.

    (-1, 1) for images on that range, with tolerance for the estimates of networks; otherwise the
    smallest and the largest value.
    """
    low = min(float(part.min()) for part in images)
    high = max(float(part.max()) for part in images)
    if low < 0 and max(-low, high) <= 1.5 and not is_signal(images[0].shape[1:]):
        return -1.0, 1.0
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def side_of_boxes(ax, boxes, text):
    """Return the largest side of boxes in axes, or their side in a new figure, in inches.

    See `canvas`. A box of a new figure is 1 inch wide, larger among few boxes, smaller among many.
    """
    if ax is None:
        few = min(_LARGEST, (_USUAL - text[0]) / boxes[0])
        return max(min(max(1.0, few), (_WIDEST - text[0]) / boxes[0]), _SMALLEST)
    box = ax.get_position(original=True).transformed(ax.figure.transSubfigure)
    inches = np.array(box.size) / ax.figure.dpi
    return max(float(((inches - text) / boxes).min()), _SMALLEST)


def canvas(ax, boxes, text, title=""):
    """Return empty axes without frame, y downwards, and the side of a box in inches.

    ``ax`` are emptied, or None for a new figure. ``boxes`` is the size (width, height) of all boxes
    with their gaps, in sides of a box, ``text`` the size of the text beside them, in inches. A
    title wider than the axes is broken, after semicolons first.
    """
    side = side_of_boxes(ax, boxes, text)
    width, height = side * np.array(boxes) + text
    title = broken(title, _LETTERS * width)
    if ax is None:
        plt = _optional.load("matplotlib.pyplot")
        size = width, height + (0.1 + 0.17 * len(title.splitlines()))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    else:
        ax.clear()
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_title(title, fontsize="medium")
    ax.axis("off")
    return ax, side


def broken(title, width):
    """Return a title in lines of ``width`` letters, broken after semicolons first."""
    parts = title.replace("; ", ";\n") if len(title) > width else title
    if max(map(len, title.split("; "))) > width:
        return textwrap.fill(title, max(int(width), 12))
    return parts


def wrapped(label, width):
    """Return the lines of a label that fit a box ``width`` inches wide; line breaks stay."""
    letters = max(int(_LABEL_LETTERS * width), 4)
    lines = str(label).splitlines()
    return "\n".join(textwrap.fill(line, letters, break_long_words=False) for line in lines)


def roomiest(ax, n, size):
    """Return the number of columns, up to n, for which boxes in axes are largest.

    ``size(n_columns)`` returns the sizes ``boxes`` and ``text`` of `canvas`.
    """
    return max(range(1, n + 1), key=lambda n_columns: side_of_boxes(ax, *size(n_columns)))


def line_axes(ax, figsize):
    """Return axes for lines, and parameters of their legend, which is beside new axes (None)."""
    legend = {"framealpha": 0.6, "fontsize": "small"}
    if ax is not None:
        return ax, {**legend, "loc": "best", "frameon": True}
    _, ax = _optional.load("matplotlib.pyplot").subplots(figsize=figsize, layout="constrained")
    return ax, {**legend, "loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}


def words(side, need=0.42):
    """Return the style of text beside boxes, smaller where a side is below ``need`` inches."""
    return {"va": "center", "fontsize": min(1.0, side / need) * _POINTS}


def draw(ax, image, left, top, side, data_range, label="", *, edge="0.8", linewidth=0.6, **style):
    """Draw an image (C, H, W) in the box whose upper left corner is (left, top).

    ``label`` is written below the box, in ``style``.
    """
    width, height = side * np.array(box_size(image.shape))
    if label:
        middle = top + height + LABEL_LINE * (len(label.splitlines()) / 2 + 0.5)
        ax.text(left + width / 2, middle, label, ha="center", **{**words(side), **style})
    low, high = data_range
    scaled = np.clip((image - low) / (high - low), 0, 1)
    frame = {"edge": edge, "linewidth": linewidth}
    if is_signal(image.shape):
        view = ax.axis()
        x = left + width * np.linspace(0.02, 0.98, scaled[0].size)
        for n, channel in enumerate(scaled):
            ax.plot(
                x,
                top + height * (0.95 - 0.9 * channel.ravel()),
                color=("black", "#D55E00", "#0072B2")[n % 3],
                linewidth=1.0,
            )
        ax.axis(view)  # `plot` changes it
        _frame(ax, left, top, width, height, **frame)
    else:
        picture = scaled.transpose(1, 2, 0) if len(scaled) == 3 else scaled.mean(0)
        gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
        paint(ax, picture, left, top, (width, height), **frame, **gray)


def paint(ax, picture, left, top, size, *, edge="0.8", linewidth=0.6, **parameters):
    """Draw an argument of `imshow` into a box of a size, (width, height) in inches."""
    view = ax.axis()
    width, height = size
    extent = (left, left + width, top + height, top)
    shown = ax.imshow(picture, extent=extent, interpolation="nearest", **parameters)
    ax.axis(view)  # `imshow` changes it
    _frame(ax, left, top, width, height, edge, linewidth)
    return shown


def _frame(ax, left, top, width, height, edge, linewidth):
    frame = _optional.load("matplotlib.patches").Rectangle(
        (left, top), width, height, fill=False, edgecolor=edge, linewidth=linewidth
    )
    ax.add_patch(frame)
