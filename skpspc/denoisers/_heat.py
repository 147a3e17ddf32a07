"""Heat maps for `FlexibleWindows`: stored, of a denoiser, or of a Gaussian."""

import os
from typing import Any

import numpy as np
import torch

from .._input import map_array
from ..support import with_own_heat

# A pixel that varies by this share of the largest variance, or less, does not vary.
_NO_VARIANCE = 1e-16


class StoredHeat:
    """Heat maps in an array or a file, read as they are wanted.

    Parameters
    ----------
    heatmaps : array of shape (L, H, W, H, W), or path
    n_levels : int
    image_shape : tuple of (C, H, W)
    """

    def __init__(self, heatmaps, n_levels, image_shape):
        # a file stays a name: it is opened again in every process
        self._is_file = isinstance(heatmaps, (str, os.PathLike))
        self._heatmaps: Any = heatmaps
        if not (self._is_file or isinstance(heatmaps, (np.ndarray, torch.Tensor))):
            try:
                self._heatmaps = np.asarray(heatmaps)
            except ValueError as error:
                raise ValueError(
                    "heatmaps is no array: its rows are of several lengths."
                ) from error
        _, height, self._width = image_shape
        if self._is_file and not os.path.isfile(heatmaps):
            raise ValueError(
                f"heatmaps={heatmaps!r} is neither 'data' nor a file; pass the path of a .npy file."
            )
        opened = self._opened()
        shape = tuple(opened.shape)
        maps = height, self._width, height, self._width
        if shape not in ((1, *maps), (n_levels, *maps)):
            raise ValueError(
                f"heatmaps must have shape {(n_levels, *maps)} for {n_levels} sigmas and images "
                f"of shape {image_shape}, or {(1, *maps)} to serve all sigmas; got {shape}."
            )
        is_tensor = isinstance(opened, torch.Tensor)
        if opened.is_complex() if is_tensor else opened.dtype.kind not in "biuf":
            raise ValueError(f"heatmaps must be real numbers, got {opened.dtype}.")

    def _opened(self):
        """The array, of which nothing is read yet."""
        if not self._is_file:
            return self._heatmaps
        return map_array(
            self._heatmaps,
            "given as heatmaps is no file of one array",
            "pass the path of a file that np.save wrote",
        )

    def rows(self, level, sigma, windows):
        """Maps (m, H W) of some windows, checked."""
        maps = self._opened()
        maps = maps[level if len(maps) > 1 else 0]
        some = maps.reshape(len(maps) * self._width, -1)[windows]
        if not isinstance(some, torch.Tensor):
            some = torch.from_numpy(np.array(some, dtype=np.float64))
        heat = some.to(torch.float64)
        wrong = {
            "is negative or not finite": ~((heat >= 0) & heat.isfinite()).all(1),
            "is zero everywhere": heat.sum(1) == 0,
        }
        for what, rows in wrong.items():
            if rows.any():
                row, column = divmod(windows.start + int(rows.nonzero()[0]), self._width)
                raise ValueError(
                    f"the heat map of the pixel (row {row}, column {column}) at sigma = {sigma:g} "
                    f"{what}; heat must be non-negative, with a positive sum."
                )
        return heat


class MeasuredHeat:
    """Heat maps of a denoiser at noisy images.

    Parameters
    ----------
    denoiser : BaseDenoiser
        Fitted.
    clean, noise : Tensor of shape (n, C, H, W)
    weight : Tensor of shape (n,)
        Of each image in the mean.
    keeps : bool
        Whether maps are asked for again and again.
    """

    def __init__(self, denoiser, clean, noise, weight, keeps):
        self._denoiser = denoiser
        self._clean = clean
        self._noise = noise
        self._weight = weight
        self._kept: dict[int, torch.Tensor] | None = {} if keeps else None

    def rows(self, level, sigma, windows):
        """Maps (m, H W) of some windows."""
        if self._kept is None:
            return self.found(sigma, windows)
        if level not in self._kept:
            self._kept[level] = self.found(sigma, slice(None)).float()
        return self._kept[level][windows].double()

    def found(self, sigma, windows):
        """The same, which nothing keeps."""
        sides = self._clean.shape[2:]
        numbers = torch.arange(sides[0] * sides[1])[windows]
        pixels = torch.stack([numbers // sides[1], numbers % sides[1]], 1)
        noisy = self._clean + sigma * self._noise
        heat = self._denoiser.sensitivity(noisy, sigma, pixels, self._weight)
        return with_own_heat(heat.flatten(1), numbers)


class WienerHeat:
    """Heat maps from the rows of a Wiener filter, summed over channels.

    Parameters
    ----------
    gaussian : Gaussian
    image_shape : tuple of (C, H, W)
        Of its images.
    """

    def __init__(self, gaussian, image_shape):
        self._gaussian = gaussian
        self._shape = image_shape
        variance = gaussian.eigenvalues @ gaussian.components.square() + gaussian.residual
        variance = variance.view(image_shape[0], -1).sum(0)
        self._varies = variance > _NO_VARIANCE * variance.amax()

    def rows(self, level, sigma, windows):
        """Maps (m, H W) of some windows."""
        channels, height, width = self._shape
        n_pixels = height * width
        pixels = torch.arange(n_pixels, device=self._varies.device)[windows]
        heat = 0.0
        for channel in range(channels):
            rows = self._gaussian.wiener(sigma, channel * n_pixels + pixels)
            heat += rows.abs_().view(-1, channels, n_pixels).sum(1)
        heat *= self._varies[windows, None]  # where nothing varies there is only rounding
        return with_own_heat(heat, pixels)
