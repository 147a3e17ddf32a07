"""Products of the derivative of the posterior, for windows that are compared at all positions.

See `products`, and `sliding` for the regions of an image. The window of a pixel that is a region of
its own is compared at its own position only, by `framed`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from .direction import Direction, ProductKernel, Tilts
from .framed import FRAMED
from .patch_products import patch_tilts, patch_values
from .sliding import regions
from .softmax import Softmax


def _n_images(z, training_set, windows):
    return len(z)


def _tilts(z, sigma, training_set, windows, direction):
    if _compares_own_position(z, training_set, windows):
        alone = _alone(z, training_set, windows)
        tilts, states = FRAMED.accumulate(z, sigma, training_set, windows, _at(alone, direction))
    else:
        zeros = sigma.new_zeros(len(z), z[0, 0].numel())
        tilts, states = Tilts(Softmax.of(*(zeros.clone() for _ in range(4))), zeros), []
    for part in _parts(z, sigma, training_set, windows, direction):
        of_part = patch_tilts(*part[:5])
        for numbers, own in zip(_fields(tilts), _fields(of_part), strict=True):
            numbers[:, part.pixels] = own.view(len(z), -1)
    return tilts, states


def _fields(tilts):
    """Return nearest, top, total, squares and mean of `Tilts`."""
    return *tilts.softmax[:4], tilts.mean


def _values(z, sigma, training_set, windows, direction, tilts, state):
    n_channels = (training_set if direction.backward else training_set.answers).image_shape[0]
    values = z.new_zeros(len(z), n_channels, *z.shape[2:], dtype=torch.float64)
    level = torch.zeros_like(sigma)
    if _compares_own_position(z, training_set, windows):
        alone = _alone(z, training_set, windows)
        own = Tilts(
            # other windows get no weight
            tilts.softmax._replace(nearest=tilts.softmax.nearest.masked_fill(~alone, torch.inf)),
            tilts.mean.masked_fill(~alone, 0.0),
        )
        arguments = z, sigma, training_set, windows, _at(alone, direction), own
        values, level = FRAMED.compose(*arguments, state)
    for part in _parts(z, sigma, training_set, windows, direction):
        own = Tilts(
            Softmax.of(*(sums[:, part.pixels].flatten() for sums in tilts.softmax[:4])),
            tilts.mean[:, part.pixels].reshape(-1, 1),
        )
        of_part, levels = patch_values(*part[:5], tilts=own)
        if direction.backward:
            values += part.spread(of_part)
        else:
            values.flatten(2)[:, :, part.pixels] = of_part.view(len(z), -1, n_channels).mT
        level += levels.view(len(z), -1).sum(1)
    return values, level


SLIDING_PRODUCT = ProductKernel(_n_images, _tilts, _values)


def _compares_own_position(z, training_set, windows):
    """Return True if windows of some pixels may be compared at their own position only."""
    return windows.boundary == "broken" and z.shape[1:] == training_set.image_shape


def _alone(z, training_set, windows):
    """Return a mask (H * W,) of the pixels whose windows are compared at their own position."""
    alone = torch.zeros(z[0, 0].numel(), dtype=torch.bool, device=z.device)
    for region in regions(z, training_set, windows):
        if region.pixels.numel() == 1:
            alone[region.pixels.flatten()] = True
    return alone


def _at(pixels, direction):
    """Return a direction that is zero but for the answers and windows at a mask of pixels."""
    if not direction.backward:
        return direction
    vector = direction.vector * pixels.view(direction.vector.shape[2:])
    return direction._replace(vector=vector, shift=direction.shift * pixels)


class _Part(NamedTuple):
    """Windows of n noisy images that are compared with one dictionary of patches.

    Attributes
    ----------
    queries, sigma, dictionaries, direction, observed : see `patch_tilts`
    pixels : Tensor of int64
        Flat indices of the pixels of the windows.
    spread : callable
        Adds numbers (Q, d) of the coordinates of queries at the pixels of images (n, C, H, W).
    """

    queries: Any
    sigma: Any
    dictionaries: list
    direction: Direction
    observed: Any
    pixels: Any
    spread: Callable


def _parts(z, sigma, training_set, windows, direction):
    """Yield the `_Part` of every region that is not compared at its own position only."""
    z = z.detach().requires_grad_()
    with torch.enable_grad():  # of the views of z, which are linear
        areas = list(regions(z, training_set, windows))
    vector = direction.vector
    if not direction.backward:  # the views of the tangents, without the constant padding
        still = regions(torch.zeros_like(vector), training_set, windows)
        moved = regions(vector, training_set, windows)
        views = [one.queries - other.queries for one, other in zip(moved, still, strict=True)]
    for number, region in enumerate(areas):
        pixels, n_values = region.pixels.flatten(), region.dictionary.n_values
        if _compares_own_position(z, training_set, windows) and len(pixels) == 1:
            continue
        if direction.backward:
            of_queries = vector.flatten(2)[:, :, pixels].transpose(1, 2).flatten(0, 1)
        else:
            of_queries = views[number].reshape(-1, n_values)
        level = direction.level.repeat_interleave(len(pixels))
        tilting = Direction(
            of_queries, level, direction.shift[:, pixels].flatten(), direction.backward
        )
        queries = region.queries.detach().reshape(-1, n_values)
        levels = sigma.repeat_interleave(len(pixels))
        observed = region.observed
        if observed is not None:
            observed = observed.reshape(len(pixels), -1).repeat(len(z), 1)
        spread = partial(_spread, region.queries, z)
        yield _Part(queries, levels, [region.dictionary], tilting, observed, pixels, spread)


def _spread(queries, z, numbers):
    """Return images with the sums of the numbers (Q, d) that belong to the pixels of queries."""
    (spread,) = torch.autograd.grad(queries, z, numbers.to(z).view(queries.shape))
    return spread
