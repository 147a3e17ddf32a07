"""Sizes of heat maps, and heat maps of all pixels estimated from the maps of a few."""

import numbers

import numpy as np

from .._typing import ArrayLike
from .._validation import check_pixels


def locality_radius(
    heatmaps: ArrayLike, fraction: float = 0.5, *, pixels: ArrayLike | None = None
) -> np.ndarray:
    """Return the side of the smallest square around a pixel that holds a fraction of its heat.

    Squares have odd sides and are centred on the pixel. They may extend beyond the edges of the
    image, where there is no heat: the square of a corner pixel may be nearly twice as wide as the
    image.

    Parameters
    ----------
    heatmaps : array of shape (..., m, H, W), or (..., H, W, H, W) without ``pixels``
        Heat maps, non-negative. A `numpy.memmap` is read pixel by pixel.
    fraction : float, default 0.5
        Fraction of the heat that the square holds, in (0, 1].
    pixels : array of int, shape (m, 2), default None
        (row, column) of the pixels of the m maps; None: ``heatmaps`` has a map for every pixel.

    Returns
    -------
    ndarray of shape (..., m) or (..., H, W), int
        Sides 1, 3, 5, ... in pixels; 0 for a map that is zero everywhere.

    Raises
    ------
    ValueError
        If the fraction is out of range, heat is negative or not finite, or shapes do not fit.

    Examples
    --------
    With 70 % of the heat in the pixel itself, squares of 1, 3 and 5 pixels hold 50, 80 and 100 %:

    >>> import numpy as np
    >>> from skpspc.inspection import locality_radius
    >>> heat = np.zeros((1, 5, 5))
    >>> heat[0, 2, 2], heat[0, 2, 3], heat[0, 2, 4] = 0.7, 0.2, 0.1
    >>> for fraction in (0.5, 0.8, 1.0):
    ...     print(locality_radius(heat, fraction, pixels=[(2, 2)]))
    [1]
    [3]
    [5]
    """
    if not (isinstance(fraction, numbers.Real) and 0 < float(fraction) <= 1):
        raise ValueError(f"fraction must be in (0, 1], got {fraction!r}; 1 holds all of the heat.")
    heatmaps = heatmaps if hasattr(heatmaps, "ndim") else np.asarray(heatmaps)
    maps, pixels, shape = _maps_of_pixels(heatmaps, pixels)
    height, width = maps.shape[-2:]
    sides = np.empty((*maps.shape[:-3], len(pixels)), dtype=np.int64)
    for k, (row, column) in enumerate(pixels):
        heat = _checked_map(maps, k, row, column)
        away = np.maximum.outer(abs(np.arange(height) - row), abs(np.arange(width) - column))
        order = away.ravel().argsort(kind="stable")
        starts = np.searchsorted(away.ravel()[order], np.arange(away.max() + 1))
        rings = np.add.reduceat(heat.reshape(*heat.shape[:-2], -1)[..., order], starts, axis=-1)
        held = rings.cumsum(-1)
        total = held[..., -1:]
        # rounding must not add a ring
        short = held < float(fraction) * total * (1 - 1e-12)
        sides[..., k] = np.where(total[..., 0] > 0, 2 * short.sum(-1) + 1, 0)
    return sides.reshape(shape)


def spread_heat_maps(heatmaps: ArrayLike, pixels: ArrayLike) -> np.ndarray:
    """Estimate the heat maps of all pixels from the maps of a few, by translation.

    The heat between two pixels becomes the mean heat over all given pairs of equal displacement.
    The maps of 50 pixels of a 32 x 32 image give `skpspc.FlexibleWindows` all windows, with a
    twentieth of the work of `save_heat_maps`, and with less noise. Differences between positions,
    as at edges or between tokens of a transformer, are lost.

    Parameters
    ----------
    heatmaps : array of shape (..., m, H, W)
        Heat maps of m pixels, non-negative, returned by `heat_maps`.
    pixels : array of int, shape (m, 2)
        (row, column) of the pixels of the m maps. Choose pixels all over the image, and near its
        corners, which have the largest displacements.

    Returns
    -------
    ndarray of shape (..., H, W, H, W), float64
        Heat maps of all pixels, (H W)^2 numbers per noise level. Displacements that no given pixel
        has within the image have no heat. A pixel's own heat is raised to the largest of its map
        (or to 1, if the map is zero), so that every window contains its own pixel.

    Raises
    ------
    ValueError
        For heat that is negative or not finite, pixels outside the image, or shapes that do not
        fit.

    See Also
    --------
    save_heat_maps : Measured heat maps of all pixels, in a file.

    Examples
    --------
    The maps of 4 of 64 pixels give windows of 9 pixels on average, which hold 60 % of the heat:

    >>> from skpspc import FlexibleWindows, GaussianDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import heat_maps, spread_heat_maps
    >>> X = load_digits_images().images
    >>> pixels = [(1, 1), (1, 6), (6, 1), (6, 6)]
    >>> gauss = GaussianDenoiser().fit(X)
    >>> heat = heat_maps(gauss, X, [0.5], pixels=pixels, n_images=2)
    >>> spread = spread_heat_maps(heat, pixels)
    >>> windows = FlexibleWindows(spread, thresholds=0.6, sigmas=[0.5])
    >>> model = PSPCDenoiser(windows=windows).fit(X)
    >>> round(float(model.windows_.at(0).sum((1, 2), dtype=float).mean()), 1)
    9.1
    """
    if pixels is None:
        raise ValueError("pixels must be the (row, column) of every heat map, got None.")
    maps, locations, shape = _maps_of_pixels(np.asarray(heatmaps), pixels)
    height, width = maps.shape[-2:]
    total = np.zeros((*shape[:-1], 2 * height - 1, 2 * width - 1))
    count = np.zeros(total.shape[-2:])
    for k, pixel in enumerate(locations):
        down, across = _displacements(pixel, height, width)
        total[..., down, across] += _checked_map(maps, k, *pixel)
        count[down, across] += 1
    mean = total / np.maximum(count, 1)
    largest = mean.max((-2, -1))
    mean[..., height - 1, width - 1] = np.where(largest > 0, largest, 1.0)
    out = np.empty((*shape[:-1], height, width, height, width))
    for row, column in np.ndindex(height, width):
        down, across = _displacements((row, column), height, width)
        out[..., row, column, :, :] = mean[..., down, across]
    return out


def _checked_map(maps, k, row, column):
    """Return the checked k-th map, of the pixel (row, column), (..., H, W) float64."""
    heat = np.asarray(maps[..., k, :, :])
    if heat.dtype.kind not in "biuf":
        raise ValueError(f"heat maps must be real numbers, got dtype {heat.dtype}.")
    if not (np.isfinite(heat).all() and (heat >= 0).all()):
        raise ValueError(
            f"the heat map of the pixel (row {row}, column {column}) is negative or not finite."
        )
    return heat.astype(np.float64)


def _displacements(pixel, height, width):
    """Return the slices of an image among the 2 H - 1 by 2 W - 1 displacements from its pixel."""
    (row, column), (top, left) = pixel, (height - 1, width - 1)
    return slice(top - row, top - row + height), slice(left - column, left - column + width)


def _maps_of_pixels(heatmaps, pixels):
    """Return maps (..., m, H, W), their pixels (m, 2), and the shape of one number per map."""
    shape = tuple(heatmaps.shape)
    if pixels is None:
        if len(shape) < 4 or shape[-4:-2] != shape[-2:]:
            raise ValueError(
                f"heatmaps must have shape (..., H, W, H, W), got {shape}; pass pixels for maps "
                "of some pixels only."
            )
        pixels = np.argwhere(np.ones(shape[-2:]))
        maps = heatmaps.reshape(*shape[:-4], len(pixels), *shape[-2:])
        return maps, pixels, shape[:-2]
    if len(shape) < 3:
        raise ValueError(f"heatmaps must have shape (..., m, H, W), got {shape}.")
    pixels = np.stack(np.divmod(check_pixels(pixels, shape[-2:]).numpy(), shape[-1]), 1)
    if len(pixels) != shape[-3]:
        raise ValueError(
            "pixels must be (row, column) pairs, one for each of the maps (..., m, H, W); got "
            f"{len(pixels)} for heatmaps of shape {shape}."
        )
    return heatmaps, pixels, shape[:-2]
