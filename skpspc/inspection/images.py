"""Pictures of images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .._typing import ArrayLike, DataRange, ImageShape

if TYPE_CHECKING:
    from ._plot.image_grid import ImageGridDisplay


def show_images(
    X: ArrayLike,
    *,
    titles: Iterable[Any] | None = None,
    n_columns: int | None = None,
    image_shape: ImageShape | None = None,
    data_range: DataRange | None = None,
    ax: Any = None,
) -> ImageGridDisplay:
    """Draw images in rows and columns, with a title below each.

    Images of 3 channels are drawn in colour, the mean over channels of other images in gray, and
    signals, one pixel high or wide, as lines. Pixels are not smoothed.

    Parameters
    ----------
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Images, of uint8 or floats.
    titles : sequence of length n, default None
        Text below each image; None: no text.
    n_columns : int, default None
        Images per row, at least 1. None: up to 8 in a new figure, or the number with the largest
        images in ``ax``.
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat; None: flat images are signals, drawn as lines.
    data_range : tuple of (low, high), default None
        Values drawn black and white. None: 0 and 255 for uint8 images, -1 and 1 for float images,
        the smallest and the largest value for signals.
    ax : matplotlib Axes, default None
        Emptied, and filled with images as large as possible. None: a new figure.

    Returns
    -------
    ImageGridDisplay
        The drawn display, with ``figure_`` and ``ax_``.

    Raises
    ------
    ImportError
        If matplotlib is missing; the extra ``plot`` installs it.
    ValueError
        For no images, NaN, infinity, another number of titles than images, or an ``image_shape``
        that does not fit.

    Warns
    -----
    UserWarning
        For float images without a negative value, unless ``data_range`` is given.

    See Also
    --------
    SampleGridDisplay : Samples above their nearest training images.

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import show_images
    >>> model = PSPCDenoiser(patch_size=4).fit(load_digits_images().images)
    >>> display = show_images(model.sample(n=16, random_state=0))
    >>> display.figure_.savefig("samples.png")  # doctest: +SKIP
    """
    from ._plot.image_grid import ImageGridDisplay

    return ImageGridDisplay.from_predictions(
        X,
        titles=titles,
        n_columns=n_columns,
        image_shape=image_shape,
        data_range=data_range,
        ax=ax,
    )
