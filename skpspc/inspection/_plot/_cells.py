"""Images and signals in boxes of one pair of axes, so that a grid of them fits any axes."""

import numpy as np

from ... import _optional

GREY = "0.35"
WARNING = "#D55E00"  # vermilion of Okabe and Ito: distinct from gray to all eyes


def as_pictures(X, image_shape=None):
    """Images as float arrays (n, C, H, W); flat ones by ``image_shape``, else as signals."""
    X = np.asarray(X.detach().cpu() if hasattr(X, "detach") else X)
    X = X / 127.5 - 1.0 if X.dtype == np.uint8 else X.astype(np.float64)
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


def canvas(ax, width, height, unit=1.0):
    """Axes without frame that show boxes between (0, 0) and (width, height), y downwards."""
    if ax is None:
        plt = _optional.load("matplotlib.pyplot")
        _, ax = plt.subplots(figsize=(unit * width, unit * height), layout="constrained")
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.axis("off")
    return ax


def draw(ax, image, left, top, data_range, *, edge="0.8", linewidth=0.6):
    """Draw an image (C, H, W) in the box whose upper left corner is (left, top)."""
    view = ax.axis()
    width, height = box_size(image.shape)
    low, high = data_range
    scaled = (image - low) / (high - low)
    if is_signal(image.shape):
        place = left + width * np.linspace(0.02, 0.98, scaled[0].size)
        for n, channel in enumerate(scaled):
            ax.plot(
                place,
                top + height * (0.95 - 0.9 * channel.ravel()),
                color=("black", "#D55E00", "#0072B2")[n % 3],
                linewidth=1.0,
            )
    else:
        colour = len(scaled) == 3
        picture = scaled.transpose(1, 2, 0).clip(0, 1) if colour else scaled.mean(0)
        extent = (left, left + width, top + height, top)
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    frame = _optional.load("matplotlib.patches").Rectangle(
        (left, top), width, height, fill=False, edgecolor=edge, linewidth=linewidth
    )
    ax.add_patch(frame)
    ax.axis(view)  # `imshow` and `plot` move it
