"""Images and signals in boxes of one pair of axes, so that a grid of them fits any axes.

Places are in inches: boxes grow with the axes, and what is written beside them does not.
"""

import numbers

import numpy as np

from ... import _optional
from ...support.training_set import DEFAULT_RANGE
from .._images import as_floats

GREY = "0.35"
WARNING = "#D55E00"  # vermilion of Okabe and Ito: distinct from gray to all eyes
_POINTS = 8.3  # of letters
_SMALLEST = 0.1  # inches
_LETTERS = 12  # of a title to the inch


def as_pictures(X, image_shape=None, data_range=DEFAULT_RANGE):
    """Images as float64 arrays (n, C, H, W); flat ones by ``image_shape``, else as signals.

    uint8 pixels are read on ``data_range``.
    """
    X = as_floats(np.asarray(X.detach().cpu() if hasattr(X, "detach") else X), data_range)
    if X.ndim == 2:
        X = X.reshape(len(X), *((1, 1, X.shape[1]) if image_shape is None else image_shape))
    if X.ndim != 4:
        raise ValueError(f"images must be (n, C, H, W) or (n, d), got shape {X.shape}.")
    return X


def is_signal(image_shape):
    """Whether an image (C, H, W) is one pixel high or wide, and drawn as a line."""
    return min(image_shape[1:]) == 1


def box_size(image_shape):
    """Width and height of the box of an image (C, H, W), the longer one 1."""
    if is_signal(image_shape):
        return 1.0, 0.6
    _, height, width = image_shape
    return width / max(height, width), height / max(height, width)


def limits(*images):
    """Values that are black and white, or bottom and top.

    (-1, 1) for images that live there, as uint8 ones do, even if a network's estimates go a
    little beyond; else the smallest and the largest.
    """
    low = min(float(part.min()) for part in images)
    high = max(float(part.max()) for part in images)
    if low < 0 and max(-low, high) <= 1.5 and not is_signal(images[0].shape[1:]):
        return -1.0, 1.0
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def check_columns(n_columns):
    """An int of at least 1, or ValueError."""
    if not isinstance(n_columns, numbers.Integral) or n_columns < 1:
        raise ValueError(f"n_columns must be an int of at least 1, got {n_columns!r}.")
    return int(n_columns)


def side_of_boxes(ax, boxes, text):
    """How large boxes can be, in inches; see `canvas`. An inch in a figure of their own."""
    if ax is None:
        return 1.0
    place = ax.get_position(original=True).transformed(ax.figure.transSubfigure)
    inches = np.array(place.size) / ax.figure.dpi
    return max(float(((inches - text) / boxes).min()), _SMALLEST)


def canvas(ax, boxes, text, title=""):
    """Empty axes without frame, y downwards, and the side of a box in them.

    Parameters
    ----------
    ax : matplotlib Axes or None
        Emptied; None: those of a new figure.
    boxes : tuple of (width, height)
        What boxes and the gaps between them take, in sides.
    text : tuple of (width, height)
        What is beside them takes, in inches.
    title : str
        Broken after semicolons where it is wider than the axes.

    Returns
    -------
    ax : matplotlib Axes
    side : float
        In inches, as the data of the axes are.
    """
    side = side_of_boxes(ax, boxes, text)
    width, height = side * np.array(boxes) + text
    title = title.replace("; ", ";\n") if len(title) > _LETTERS * width else title
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


def words(side, need=0.42):
    """Style of words beside boxes, which shrink where a side is less than they need (inches)."""
    return {"va": "center", "fontsize": min(1.0, side / need) * _POINTS}


def draw(ax, image, left, top, side, data_range, *, edge="0.8", linewidth=0.6):
    """Draw an image (C, H, W) in the box whose upper left corner is (left, top)."""
    width, height = side * np.array(box_size(image.shape))
    low, high = data_range
    scaled = np.clip((image - low) / (high - low), 0, 1)
    frame = {"edge": edge, "linewidth": linewidth}
    if is_signal(image.shape):
        view = ax.axis()
        place = left + width * np.linspace(0.02, 0.98, scaled[0].size)
        for n, channel in enumerate(scaled):
            ax.plot(
                place,
                top + height * (0.95 - 0.9 * channel.ravel()),
                color=("black", "#D55E00", "#0072B2")[n % 3],
                linewidth=1.0,
            )
        ax.axis(view)  # `plot` moves it
        _frame(ax, left, top, width, height, **frame)
    else:
        picture = scaled.transpose(1, 2, 0) if len(scaled) == 3 else scaled.mean(0)
        gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
        paint(ax, picture, left, top, (width, height), **frame, **gray)


def paint(ax, picture, left, top, size, *, edge="0.8", linewidth=0.6, **parameters):
    """Draw what `imshow` takes into a box of a size, (width, height) in inches."""
    view = ax.axis()
    width, height = size
    extent = (left, left + width, top + height, top)
    shown = ax.imshow(picture, extent=extent, interpolation="nearest", **parameters)
    ax.axis(view)  # `imshow` moves it
    _frame(ax, left, top, width, height, edge, linewidth)
    return shown


def _frame(ax, left, top, width, height, edge, linewidth):
    frame = _optional.load("matplotlib.patches").Rectangle(
        (left, top), width, height, fill=False, edgecolor=edge, linewidth=linewidth
    )
    ax.add_patch(frame)
