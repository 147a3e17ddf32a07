"""Windows of any shape, one for each pixel, chosen by heat maps."""

import copy
import numbers
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from .._input import map_array
from .._repr import listed
from .._state import NumpyState
from .._typing import ArrayLike, Path, RandomState
from ..posterior import Gaussian
from ..sampling import draw_noise, noise_seed
from ..sampling.schedules import check_grid, nearest_level
from ..support import Masks, TrainingSet, Whole, with_own_heat
from ..support.holdout import different
from ..support.memory import rows_that_fit
from .base import Denoiser
from .gaussian import GaussianDenoiser

# Relative to the largest variance: a pixel of less variance is constant.
_NO_VARIANCE = 1e-16
_NOT_FITTED = (
    "heatmaps is a %(name)s that is not fitted; fit it first, or pass 'data' for the Wiener filter "
    "of the training images."
)


class FlexibleWindows(NumpyState, BaseEstimator):
    r"""Windows of any shape for `PSPCDenoiser`, one around every pixel.

    A heat map :math:`G_k` measures how much each pixel matters for pixel k. The window of pixel k
    holds the largest entries, whose sum is a fraction :math:`\lambda` of the map,

    .. math::

        M_k = \Bigl\{p : \sum_{q : G_{kq} \le G_{kp}} G_{kq} \ge (1 - \lambda) \sum_q G_{kq}
        \Bigr\}.

    Equal entries are kept or dropped together: a symmetric map has a symmetric window.

    Parameters
    ----------
    heatmaps : array, path, denoiser or "data"
        Source of the heat maps.

        - Non-negative array of shape (L, H, W, H, W): ``heatmaps[l, y, x]`` is the map of pixel
          (y, x) at the l-th sigma, or at every sigma if L = 1. From a ``numpy.memmap`` a few maps
          at a time are read.
        - Path of a ``.npy`` file of such an array, read a few maps at a time.
          `skpspc.inspection.save_heat_maps` writes such files.
        - Fitted denoiser, in the published PSPC-Flex a `NetworkDenoiser`: its sensitivity, the mean
          of :math:`|\partial D / \partial z|` over noisy training images, summed over channels
          (:meth:`NetworkDenoiser.sensitivity`). For a `GaussianDenoiser`: :math:`|W(\sigma)|`.
        - "data": :math:`|W(\sigma)|` of the training images of `PSPCDenoiser`, with their weights,
          and with their mirror images if ``flip=True``.
    thresholds : float or sequence of L floats
        :math:`\lambda` at each sigma, in (0, 1]. 1 keeps the whole image: all hard windows are then
        equal, and `PSPCDenoiser` equals the `EmpiricalDenoiser`.
    sigmas : sequence of L floats
        Distinct noise levels in any order, in the units of the images. A noise level in between
        uses the windows of the nearest level.
    soft : bool, default False
        Weight the pixels of a window by their heat relative to the largest of the map: precisions
        :math:`\pi_{kp} = G_{kp} / \max_q G_{kq}`, which also weight the average over windows. The
        largest precision is one, so that sigma keeps its meaning; dividing by the sum would
        effectively enlarge sigma. With a threshold of 1 the whole map counts.
    n_images : int, default 16
        For a denoiser: number of different training images over which its sensitivity is averaged
        (all, if there are fewer). Copies and sample weights count in the mean.
    random_state : int, RandomState, Generator or None, default 0
        For a denoiser: seed of the choice of images and of their noise, which is scaled to every
        level. None: new draws at each fit.

    See Also
    --------
    PSPCDenoiser : ``PSPCDenoiser(windows=FlexibleWindows(...))``.
    skpspc.inspection.spread_heat_maps : Heat maps of all pixels from the maps of a few.

    Notes
    -----
    Parameters are checked when `PSPCDenoiser` is fitted. Hard windows of every level are kept,
    (H W)^2 bytes per level. Soft windows are eight times as large, and kept for one level at a
    time. In the heat map of a denoiser, the own heat of a pixel is raised to the largest of its
    map, so that every window holds its own pixel, even one that varies little. A pixel on which no
    noisy pixel has an effect is a window of its own.

    The sensitivity of a denoiser is computed at the first use of a level, and for one pixel at fit,
    which fails for denoisers that cannot be differentiated. A network takes a backward pass for
    every pixel and channel of ``n_images`` images; for several fits, write the heat maps to a file.
    For soft windows the heat maps are kept, 4 (H W)^2 bytes per level.

    Clones share the heat maps. A pickle holds the heat maps, unless a path gives them.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Sec. 5 (PSPC-Flex). Soft windows: "Filtered Posterior Mean
    Collections", arXiv:2605.24192.

    Examples
    --------
    Windows that hold half of the heat of the Wiener filter of digits. At sigma = 1, the window of
    the pixel in row 4 and column 4:

    >>> from skpspc import FlexibleWindows, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> windows = FlexibleWindows("data", [0.5, 0.5], sigmas=[0.1, 1.0])
    >>> model = PSPCDenoiser(windows=windows).fit(X)
    >>> for row in model.windows_(1.0).query[8 * 4 + 4, 0].int().tolist():
    ...     print(*row)
    0 0 0 0 0 0 0 0
    0 0 0 0 0 0 0 0
    0 0 0 0 0 0 0 0
    0 0 0 0 1 0 0 0
    0 0 0 1 1 0 0 0
    0 0 0 1 1 0 0 0
    0 0 1 0 0 0 0 0
    0 0 0 0 0 0 0 0
    """

    _doc_link_module = Denoiser._doc_link_module
    _doc_link_template = Denoiser._doc_link_template

    _parameter_constraints = {
        "heatmaps": "no_validation",
        "thresholds": "no_validation",
        "sigmas": "no_validation",
        "soft": ["boolean"],
        "n_images": [Interval(numbers.Integral, 1, None, closed="left")],
        "random_state": ["random_state", np.random.Generator],
    }

    def __init__(
        self,
        heatmaps: ArrayLike | Path | Denoiser,
        thresholds: npt.ArrayLike,
        sigmas: npt.ArrayLike,
        soft: bool = False,
        *,
        n_images: int = 16,
        random_state: RandomState | None = 0,
    ) -> None:
        self.heatmaps = heatmaps
        self.thresholds = thresholds
        self.sigmas = sigmas
        self.soft = soft
        self.n_images = n_images
        self.random_state = random_state

    def __sklearn_clone__(self):
        # copied heat maps might not fit the memory; a cloned denoiser would lose its fit
        given = self.get_params(deep=False)
        return type(self)(**{**given, "random_state": copy.deepcopy(self.random_state)})

    def resolve(self, training_set: TrainingSet) -> "ResolvedWindows":
        """Return the `ResolvedWindows` for a `TrainingSet`.

        Parameters
        ----------
        training_set : TrainingSet
            Images for which windows are computed.

        Returns
        -------
        ResolvedWindows
            A function of the noise level that returns windows.

        Raises
        ------
        ValueError
            If a parameter is out of range; if heat maps do not match the images, are negative or
            not finite; if a map is zero; if no window covers a pixel; if a denoiser cannot be
            differentiated.
        """
        self._validate_params()
        grid = check_grid(self.sigmas)
        thresholds = self._checked_thresholds(grid)
        heat = self._heat(training_set, len(grid))
        windows = ResolvedWindows(heat, grid, thresholds, self.soft, training_set)
        if isinstance(heat, StoredHeat):  # computed maps are valid by construction, and expensive
            for level in range(len(grid)):
                windows.at(level)
        if isinstance(heat, MeasuredHeat):  # one pixel suffices to test for a Jacobian
            for sigma in grid.tolist():
                heat.measured(sigma, slice(0, 1))
        return windows

    def _checked_thresholds(self, grid):
        try:
            thresholds = np.asarray(self.thresholds, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"thresholds must be one float or one per sigma, got {self.thresholds!r}."
            ) from error
        if thresholds.shape not in ((), grid.shape):
            raise ValueError(
                f"thresholds must be one float or one per sigma, shape {grid.shape}; got shape "
                f"{thresholds.shape}."
            )
        if not ((thresholds > 0) & (thresholds <= 1)).all():
            raise ValueError(
                f"thresholds must be in (0, 1], got {self.thresholds!r}; 1 keeps the whole image."
            )
        return np.broadcast_to(thresholds, grid.shape)

    def _heat(self, training_set, n_levels):
        """Return the source of the heat maps."""
        heatmaps = self.heatmaps
        if isinstance(heatmaps, str) and heatmaps == "data":
            gaussian = Gaussian.of(training_set)
            return WienerHeat(gaussian, training_set.image_shape)
        if isinstance(heatmaps, Denoiser):
            check_is_fitted(heatmaps, msg=_NOT_FITTED)
        if isinstance(heatmaps, GaussianDenoiser):
            if heatmaps.image_shape_[1:] != training_set.image_shape[1:]:
                raise ValueError(
                    f"heatmaps is a denoiser of images of shape {heatmaps.image_shape_}, but X "
                    f"holds images of shape {training_set.image_shape}; heatmaps and X must have "
                    "equal heights and equal widths."
                )
            return WienerHeat(heatmaps._prior.gaussian, heatmaps.image_shape_)
        if isinstance(heatmaps, Denoiser):
            return self._measured(heatmaps, training_set)
        if hasattr(heatmaps, "denoise") or callable(heatmaps):
            raise ValueError(
                f"heatmaps is a {type(heatmaps).__name__}, not a denoiser of skpspc; wrap a "
                "network in NetworkDenoiser, or pass an array (L, H, W, H, W) of the mean of "
                "|dD / dz| over noisy images."
            )
        return StoredHeat(heatmaps, n_levels, training_set.image_shape)

    def _measured(self, denoiser, training_set):
        """Return the heat of a denoiser at ``n_images`` training images."""
        shape = training_set.image_shape
        answer_shape = denoiser._answer_shape
        if answer_shape != shape:
            raise ValueError(
                f"heatmaps is a denoiser that returns shape {answer_shape}, but X holds images "
                f"of shape {shape}; both shapes must agree."
            )
        seed = noise_seed(self.random_state)
        chosen = different(training_set, self.n_images, np.random.default_rng(seed))
        dtype = chosen.float_dtype
        noise = draw_noise(shape, len(chosen), seed).to(chosen.device, dtype)
        clean = chosen.take(slice(0, len(chosen)), dtype)
        return MeasuredHeat(denoiser, clean, noise, chosen.sample_weight, self.soft)


class ResolvedWindows(NumpyState):
    """Windows of every level for one training set.

    ``heat.rows(level, sigma, windows)`` returns the heat maps (m, H W), float64, of a slice of the
    windows; ``grid`` and ``thresholds`` are float64 arrays (L,).
    """

    def __init__(self, heat, grid, thresholds, soft, training_set):
        self.heat = heat
        self.grid = grid
        self.thresholds = thresholds
        self.soft = soft
        self._shape = training_set.image_shape[1:]
        self._n_values = training_set.n_values
        self._device = training_set.device
        self._kept = {}

    def __repr__(self):
        about = {
            "image_shape": self._shape,
            "sigmas": self.grid.tolist(),
            "thresholds": self.thresholds.tolist(),
            "soft": self.soft,
        }
        return listed("ResolvedWindows", about)

    def __call__(self, sigma):
        """Return the windows at a noise level: `Masks`, or `Whole` if all precisions are 1."""
        level = self.level(sigma)
        precision = self.at(level)
        if bool((precision == 1).all()):
            return Whole()
        return Masks(level, precision[:, None], precision[:, None])

    def level(self, sigma):
        """Return the index of the nearest noise level."""
        return nearest_level(self.grid, sigma)

    def at(self, level):
        """Return precisions (H * W, H, W) of the windows of a level: bool, float64 if soft."""
        precision = self._kept.get(level)
        if precision is None:
            precision = self._precision(level)
            # soft precisions of all levels might not fit the memory
            self._kept = {level: precision} if self.soft else {**self._kept, level: precision}
        return precision

    def _precision(self, level):
        """Return precisions (H * W, H, W) of the windows of a level, from their heat maps."""
        height, width = self._shape
        n_pixels = height * width
        dtype = torch.float64 if self.soft else torch.bool
        out = torch.empty(n_pixels, n_pixels, dtype=dtype, device=self._device)
        n_rows = rows_that_fit(16 * self._n_values + 40 * n_pixels, n_pixels, what="One heat map")
        threshold = float(self.thresholds[level])
        for start in range(0, n_pixels, n_rows):
            windows = slice(start, min(start + n_rows, n_pixels))
            heat = self.heat.rows(level, float(self.grid[level]), windows).to(self._device)
            kept = _largest(heat, threshold)
            out[windows] = heat / heat.amax(1, keepdim=True) * kept if self.soft else kept
        uncovered = (out.sum(0) == 0).nonzero().flatten().tolist()
        if uncovered:
            row, column = divmod(uncovered[0], width)
            raise ValueError(
                f"no window covers the pixel (row {row}, column {column}) at "
                f"sigma = {self.grid[level]:g}; raise the threshold of this sigma, "
                f"{threshold:g}, or give the pixel a positive heat in its own map."
            )
        return out.view(n_pixels, height, width)


def _largest(heat, threshold):
    """Return a mask of the largest entries of each map (m, p) that sum to a fraction of it."""
    ascending = heat.sort(1).values
    fraction = ascending.cumsum(1)
    fraction /= fraction[:, -1:].clone()
    first = (fraction < 1 - threshold).sum(1, keepdim=True).clamp_(max=heat.shape[1] - 1)
    return heat >= ascending.gather(1, first)


class StoredHeat(NumpyState):
    """Heat maps (L, H, W, H, W) in an array or a file, read in slices."""

    def __init__(self, heatmaps, n_levels, image_shape):
        # keep the path of a file: every process opens the file itself
        self._is_file = isinstance(heatmaps, (str, os.PathLike))
        self._heatmaps: Any = heatmaps
        if not (self._is_file or isinstance(heatmaps, (np.ndarray, torch.Tensor))):
            try:
                self._heatmaps = np.asarray(heatmaps)
            except ValueError as error:
                raise ValueError("heatmaps is not an array: its rows differ in length.") from error
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
                f"of shape {image_shape}, or {(1, *maps)} for all sigmas; got {shape}."
            )
        is_tensor = isinstance(opened, torch.Tensor)
        if opened.is_complex() if is_tensor else opened.dtype.kind not in "biuf":
            raise ValueError(f"heatmaps must be real numbers, got {opened.dtype}.")

    def _opened(self):
        """Return the array, memory-mapped if it is a file."""
        if not self._is_file:
            return self._heatmaps
        return map_array(
            self._heatmaps,
            "given as heatmaps is not a file of one array",
            "pass the path of a file that np.save wrote",
        )

    def rows(self, level, sigma, windows):
        """Return maps (m, H W) of a slice of the windows, checked."""
        maps = self._opened()
        maps = maps[level if len(maps) > 1 else 0]
        heat = maps.reshape(len(maps) * self._width, -1)[windows]
        if not isinstance(heat, torch.Tensor):
            heat = torch.from_numpy(np.array(heat, dtype=np.float64))
        heat = heat.to(torch.float64)
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


class MeasuredHeat(NumpyState):
    """Heat maps of a fitted denoiser at noisy images.

    ``clean`` and ``noise`` are tensors (n, C, H, W), ``weight`` (n,) the weights of the mean;
    ``keeps`` caches the maps.
    """

    def __init__(self, denoiser, clean, noise, weight, keeps):
        self._denoiser = denoiser
        self._clean = clean
        self._noise = noise
        self._weight = weight
        self._kept: dict[int, torch.Tensor] | None = {} if keeps else None

    def rows(self, level, sigma, windows):
        """Return maps (m, H W) of a slice of the windows."""
        if self._kept is None:
            return self.measured(sigma, windows)
        if level not in self._kept:
            self._kept[level] = self.measured(sigma, slice(None)).float()
        return self._kept[level][windows].double()

    def measured(self, sigma, windows):
        """Return maps (m, H W) of a slice of the windows, without the cache."""
        height, width = self._clean.shape[2:]
        indices = torch.arange(height * width)[windows]
        pixels = torch.stack([indices // width, indices % width], 1)
        noisy = self._clean + sigma * self._noise
        heat = self._denoiser.sensitivity(noisy, sigma, pixels, self._weight)
        return with_own_heat(heat.flatten(1), indices)


class WienerHeat(NumpyState):
    """Heat maps from the rows of a Wiener filter, summed over channels."""

    def __init__(self, gaussian, image_shape):
        self._gaussian = gaussian
        self._shape = image_shape
        variance = gaussian.eigenvalues @ gaussian.components.square() + gaussian.residual
        variance = variance.view(image_shape[0], -1).sum(0)
        self._varies = variance > _NO_VARIANCE * variance.amax()

    def rows(self, level, sigma, windows):
        """Return maps (m, H W) of a slice of the windows."""
        channels, height, width = self._shape
        n_pixels = height * width
        pixels = torch.arange(n_pixels, device=self._varies.device)[windows]
        heat = 0.0
        for channel in range(channels):
            rows = self._gaussian.wiener(sigma, channel * n_pixels + pixels)
            heat += rows.abs_().view(-1, channels, n_pixels).sum(1)
        heat *= self._varies[windows, None]  # rows of constant pixels are rounding error
        return with_own_heat(heat, pixels)
