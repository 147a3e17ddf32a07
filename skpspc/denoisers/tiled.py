"""Denoise large images tile by tile."""

import math
import numbers
from itertools import product
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .._typing import Array, ArrayLike, NoiseLevel
from .._validation import as_container, as_tensor, check_sigma


def denoise_tiled(
    model: Any,
    Z: ArrayLike,
    sigma: NoiseLevel,
    y: ArrayLike | None = None,
    guidance: float = 1.0,
    *,
    overlap: int | None = None,
    batch_size: int = 64,
) -> Array:
    r"""Denoise images that are larger than the training images, tile by tile.

    .. math::

        D(z; \sigma)_p = \sum_t s_{tp}\, D_t(z_t; \sigma)_p, \qquad \sum_t s_{tp} = 1

    with tiles :math:`z_t` as large as the training images, on a grid that covers the image, and
    shares :math:`s_{tp}` that fall linearly to the edges of a tile where tiles overlap.

    Tiles are denoised independently: an object that spans two tiles is denoised in two parts.
    Denoisers of whole images and of patches at one position, such as `PSPCDenoiser`, make each tile
    look like a training image. Tiles therefore suit textures and low noise levels.
    ``LocalScoreDenoiser(equivariant=True)`` and `SingleImageDenoiser` need no tiles.

    Parameters
    ----------
    model : Denoiser
        Fitted denoiser of whole images.
    Z : array or Tensor of shape (n, C, H, W)
        Noisy images, at least as high and as wide as the training images.
    sigma : float or array of shape (n,), (n, 1) or (n, 1, 1, 1)
        Noise level, in the units of the images.
    y : label or array of shape (n,), default None
        Class of all noisy images, or one class for each.
    guidance : float, default 1.0
        Weight of the class, see :meth:`Denoiser.denoise`.
    overlap : int, default None
        Least number of pixels that adjacent tiles share, from 0 to the shorter side of a tile
        minus 1. None: half of the shorter side.
    batch_size : int, default 64
        Number of tiles that share one pass over the training set. Memory beyond Z and the result
        is that of ``model.denoise`` for this number of training-size images.

    Returns
    -------
    array or Tensor of shape (n, C, H, W)
        Estimates of the clean images, in the container and float dtype of Z. An image as large as
        the training images equals ``model.denoise``.

    Raises
    ------
    ValueError
        If Z has another number of axes or channels, or is smaller than a tile; if ``overlap`` or
        ``batch_size`` is out of range; if the denoiser answers for patches only.

    Examples
    --------
    Digits of 8 x 8 pixels denoise a picture of four digits. Root mean square errors:

    >>> import numpy as np
    >>> from skpspc import PSPCDenoiser, denoise_tiled
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images / 127.5 - 1
    >>> model = PSPCDenoiser(patch_size=4).fit(X[100:])
    >>> picture = np.block([[X[0], X[1]], [X[2], X[3]]])[None]
    >>> Z = picture + 0.5 * np.random.default_rng(0).standard_normal(picture.shape)
    >>> def error(images):
    ...     return round(float(np.sqrt(np.mean((images - picture) ** 2))), 2)
    >>> error(Z), error(denoise_tiled(model, Z, sigma=0.5, overlap=0))
    (0.51, 0.23)
    """
    check_is_fitted(model)
    tile = tuple(model.image_shape_)
    z = _checked_images(Z, tile)
    starts, shares = zip(
        *(
            _cover(side, length, _checked_overlap(overlap, tile))
            for side, length in zip(z.shape[2:], tile[1:], strict=True)
        ),
        strict=True,
    )
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(f"batch_size must be an int of at least 1, got {batch_size!r}.")
    levels = check_sigma(sigma, len(z))
    if isinstance(sigma, torch.Tensor) and sigma.requires_grad:
        levels = sigma.reshape(-1).expand(len(z))
    labels: Any = y
    of_image = np.ndim(labels) > 0  # one label for each image
    places = list(product(range(len(z)), *(range(len(along)) for along in starts)))
    out = None
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        images = [i for i, *_ in batch]
        corners = [(starts[0][row], starts[1][column]) for _, row, column in batch]
        tiles = torch.stack(
            [
                z[i, :, top : top + tile[1], left : left + tile[2]]
                for i, (top, left) in zip(images, corners, strict=True)
            ]
        )
        of_tiles = np.asarray(labels)[images] if of_image else labels
        answers = model.denoise(tiles, levels[images], of_tiles, guidance)
        if tuple(answers.shape[1:]) != tile:
            raise ValueError(
                f"{type(model).__name__} answers for patches of shape {tuple(answers.shape[1:])} "
                f"of images of shape {tile}; pass a denoiser of whole images."
            )
        out = answers.new_zeros(z.shape) if out is None else out
        for (i, row, column), (top, left), answer in zip(batch, corners, answers, strict=True):
            share = shares[0][row][:, None] * shares[1][column]
            area = i, slice(None), slice(top, top + tile[1]), slice(left, left + tile[2])
            out[area] += torch.from_numpy(share).to(answer) * answer
    return out if isinstance(Z, torch.Tensor) else out.numpy()


def _checked_images(Z, tile):
    """Return noisy images as a tensor (n, C, H, W); raise if a tile does not fit."""
    z = as_container(Z, "Z")
    shape = tuple(getattr(z, "shape", ()))
    if len(shape) != 4 or len(z) == 0:
        raise ValueError(
            f"Z must have shape (n, C, H, W), got {shape}; reshape flat images, or add the axes."
        )
    if shape[1] != tile[0] or any(
        side < length for side, length in zip(shape[2:], tile[1:], strict=True)
    ):
        raise ValueError(
            f"Z holds images of shape {shape[1:]}, but tiles have the shape {tile} of the training "
            f"images; pass images of {tile[0]} channels, at least {tile[1]} x {tile[2]} pixels."
        )
    return z if isinstance(z, torch.Tensor) else as_tensor(z)


def _checked_overlap(overlap, tile):
    """Return the least number of pixels that adjacent tiles share."""
    most = min(side for side in tile[1:] if side > 1 or max(tile[1:]) == 1) - 1
    if overlap is None:
        return (most + 1) // 2
    if not isinstance(overlap, numbers.Integral) or not 0 <= int(overlap) <= most:
        raise ValueError(
            f"overlap must be an int from 0 to {most} for tiles of {tile[1]} x {tile[2]} pixels, "
            f"got {overlap!r}."
        )
    return int(overlap)


def _cover(side, length, overlap):
    """Return the starts of the tiles along an axis, and their shares (n_tiles, length).

    The starts are evenly spaced from 0 to ``side - length``. The shares of all tiles sum to one at
    every position.
    """
    step = max(length - overlap, 1)
    n_tiles = 1 + math.ceil((side - length) / step)
    starts = np.linspace(0, side - length, n_tiles).round().astype(int)
    from_edge = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1))
    ramp = np.minimum(from_edge / (overlap + 1), 1.0)
    total = np.zeros(side)
    for start in starts:
        total[start : start + length] += ramp
    shares = np.stack([ramp / total[start : start + length] for start in starts])
    return starts.tolist(), shares
