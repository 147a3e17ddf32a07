"""Heat maps of the Jacobian of a denoiser, in memory or in a file."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .._input import load_arrays, map_array, reading
from .._output import check_output, write_output
from .._progress import progress, showing
from .._typing import ArrayLike, Path, RandomState
from ..sampling import draw_noise, noise_seed
from ..sampling.schedules import check_grid
from ..support import with_own_heat
from ..support.training_set import DEFAULT_RANGE
from ._images import as_clean, as_images, check_count, check_fits

# Answers of one denoiser differ by less than this by rounding, relative to the largest.
_SAME_ANSWERS = 1e-4


def heat_maps(
    denoiser: Any,
    X: ArrayLike,
    sigmas: ArrayLike,
    *,
    pixels: ArrayLike | None = None,
    n_images: int | None = None,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> np.ndarray:
    r"""Return how strongly each input pixel changes pixels of the answer, at each noise level.

    .. math::

        G_\sigma(y, x)[i, j] = \frac{1}{n} \sum_{b=1}^n \sum_{c, d}
        \Bigl|\frac{\partial D(z_b; \sigma)_{c,y,x}}{\partial z_{b,d,i,j}}\Bigr|, \qquad
        z_b = x_b + \sigma \epsilon_b

    The sum is over channels c of the answer and d of the noisy image. Denoisers that are posterior
    means or linear have a Jacobian in closed form. Networks are differentiated automatically.

    Parameters
    ----------
    denoiser : denoiser
        Fitted denoiser; wrap a network in `skpspc.NetworkDenoiser`.
    X : array or Tensor of shape (N, C, H, W) or (N, d)
        Clean images; uint8 images are read on the ``data_range`` of the denoiser. Training
        images and held-out images may give different maps.
    sigmas : sequence of L floats
        Noise levels, distinct, finite and non-negative, in the order of the maps.
    pixels : array of int, shape (m, 2), default None
        (row, column) of pixels of the answer; None: all pixels, (H W)^2 numbers per level.
    n_images : int, default None
        Number of images to draw from X at random; None: all images of X.
    random_state : int, RandomState, Generator or None, default 0
        Seed or generator of the drawn images and of their noise. All noise levels share the noise
        of an image, up to its scale.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    ndarray of shape (L, m, H, W) or, without ``pixels``, (L, H, W, H, W), float64
        Mean absolute derivatives of the answer at the pixel, by pixel of the noisy image.

    Raises
    ------
    ValueError
        For no or repeated noise levels, pixels outside the image, ``n_images`` above the number
        of images of X, or a denoiser without a ``jacobian``.

    See Also
    --------
    save_heat_maps : Heat maps of all pixels, in a file.
    spread_heat_maps : Heat maps of all pixels, estimated from the maps of a few.
    locality_radius : Size of heat maps.
    SensitivityDisplay : Picture of heat maps.

    References
    ----------
    Niedoba et al., ICML 2025, arXiv:2411.19339; Mohan et al., "Robust and Interpretable Blind Image
    Denoising via Bias-Free Convolutional Neural Networks", ICLR 2020, arXiv:1906.05478 (rows of
    a network's Jacobian as filters).

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import heat_maps, locality_radius
    >>> X = load_digits_images().images
    >>> model = PSPCDenoiser(patch_size=3).fit(X)
    >>> heat = heat_maps(model, X, [0.2, 1.0], pixels=[(4, 4)], n_images=4)

    All heat lies within 5 x 5 pixels, which hold all patches of 3 x 3 over the pixel:

    >>> locality_radius(heat, fraction=1.0, pixels=[(4, 4)])
    array([[5],
           [5]])
    """
    images = _Noisy.of(denoiser, X, n_images, random_state)
    levels = check_grid(sigmas).tolist()
    with showing(verbose):
        heat = np.stack(
            [
                denoiser.sensitivity(images.at(s), s, pixels).numpy()
                for s in progress(levels, "noise levels")
            ]
        )
    if pixels is not None:
        return heat
    return _by_pixel(heat, heat.shape[2:])


def save_heat_maps(
    path: Path,
    denoiser: Any,
    X: ArrayLike,
    sigmas: ArrayLike,
    *,
    n_images: int | None = None,
    random_state: int = 0,
    verbose: int = 0,
) -> np.memmap:
    """Write the heat maps of all pixels to a file that `skpspc.FlexibleWindows` reads.

    The file is written row by row of the image. A second file, ``maps.run.npz`` for ``maps.npy``,
    records the arguments and the progress of the run. Repeat the call to continue an interrupted
    run, or to open the file of a finished run. On one machine, with equal settings, an interrupted
    and an uninterrupted run write the same bits.

    Parameters
    ----------
    path : str or path
        File of the maps, ending in ``.npy``.
    denoiser : denoiser
        Fitted denoiser; wrap a network in `skpspc.NetworkDenoiser`.
    X : array or Tensor of shape (N, C, H, W) or (N, d)
        Clean images; uint8 images are read on the ``data_range`` of the denoiser.
    sigmas : sequence of L floats
        Noise levels, distinct, finite and non-negative, in the order of the maps.
    n_images : int, default None
        Number of images to draw from X at random; None: all images of X.
    random_state : int, default 0
        Seed of the drawn images and of their noise.
    verbose : int, default 0
        Above zero, show a progress bar.

    Returns
    -------
    numpy.memmap of shape (L, H, W, H, W), float32
        The file, read-only. A pixel's own heat is raised to the largest of its map (or to 1, if
        the map is zero), so that every window contains its own pixel.

    Raises
    ------
    ValueError
        For invalid noise levels, ``n_images`` above the number of images of X, or a denoiser
        without a ``jacobian``. Also if the file belongs to a run with other noise levels, images,
        random_state or answers of the denoiser, or if no run has written the file.
    OSError
        If the folder is missing or read-only.

    Examples
    --------
    Windows that hold 90 % of the heat of a denoiser of 5 x 5 patches have 8 pixels on average:

    >>> import tempfile, pathlib
    >>> from skpspc import FlexibleWindows, LocalScoreDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import save_heat_maps
    >>> X = load_digits_images().images[:200]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "maps.npy"
    ...     model = LocalScoreDenoiser(patch_size=5).fit(X)
    ...     heat = save_heat_maps(path, model, X, sigmas=[0.5], n_images=2)
    ...     windows = FlexibleWindows(path, thresholds=0.9, sigmas=[0.5])
    ...     masks = PSPCDenoiser(windows=windows).fit(X).windows_.at(0)
    ...     round(float(masks.sum((1, 2), dtype=float).mean()), 1)
    8.3
    """
    file = check_output(path)
    if file.suffix.lower() != ".npy":
        raise ValueError(f"heat maps are written to a .npy file, got '{file}'; change its suffix.")
    if not isinstance(random_state, Integral):
        raise ValueError(
            f"random_state must be an int, so that an interrupted run can continue, got "
            f"{random_state!r}."
        )
    images = _Noisy.of(denoiser, X, n_images, random_state)
    run = _Run(file, denoiser, images, check_grid(sigmas))
    maps = run.opened()
    height, width = maps.shape[1:3]
    todo = range(run.done, len(maps) * height)
    for block in tqdm(todo, "heat maps", disable=verbose <= 0):
        level, row = divmod(block, height)
        sigma = float(run.grid[level])
        pixels = [(row, column) for column in range(width)]
        heat = denoiser.sensitivity(images.at(sigma), sigma, pixels)
        own = row * width + torch.arange(width)
        maps[level, row] = with_own_heat(heat.flatten(1), own).view(heat.shape).numpy()
        maps.flush()
        run.note(block + 1)
    return np.load(file, mmap_mode="r")


def _by_pixel(heat, sides):
    """Return maps (L, H W, H, W) as (L, H, W, H, W)."""
    if heat.shape[1] != sides[0] * sides[1]:
        raise ValueError(
            f"the denoiser answers for {heat.shape[1]} pixels of an image of {sides[0]} x "
            f"{sides[1]}; pass pixels, a list of (row, column)."
        )
    return heat.reshape(len(heat), *sides, *sides)


@dataclass(frozen=True)
class _Noisy:
    """Clean images, and noise to add at every level, two of (n, ...)."""

    clean: torch.Tensor
    noise: torch.Tensor
    seed: int

    @classmethod
    def of(cls, denoiser, X, n_images, random_state):
        """Return drawn images of X with their noise."""
        if not hasattr(denoiser, "sensitivity"):
            raise ValueError(
                f"{type(denoiser).__name__} has no sensitivity; wrap a network in NetworkDenoiser."
            )
        X = X if isinstance(X, (np.ndarray, torch.Tensor)) else as_images(X, "X")
        seed = noise_seed(random_state)
        rows = _chosen(X, n_images, np.random.default_rng(seed))
        images = as_images(X[rows], "X")
        check_fits(images, denoiser, "X")
        clean = as_clean(images, denoiser.data_range_ or DEFAULT_RANGE)
        noise = draw_noise(clean.shape[1:], len(clean), seed).to(clean)
        return cls(clean, noise, seed)

    def at(self, sigma):
        """Return the noisy images at a noise level."""
        return self.clean + sigma * self.noise

    @cached_property
    def digest(self):
        """Hash of the clean images."""
        return hashlib.sha256(self.clean.numpy().tobytes()).hexdigest()


def _chosen(X, n_images, rng):
    """Return increasing rows of X: all, or ``n_images`` at random."""
    n = len(X)
    if n_images is None:
        return slice(None)
    check_count(n_images, "n_images")
    if int(n_images) > n:
        raise ValueError(f"n_images={n_images} is more than the {n} images of X; pass at most {n}.")
    return np.sort(rng.choice(n, int(n_images), replace=False))


class _Run:
    """A file of heat maps in progress, and its record; ``done`` rows are in the file."""

    def __init__(self, path, denoiser, images, grid):
        self.path, self.grid = path, grid
        self.record = path.with_suffix(".run.npz")
        answers = [denoiser.denoise(images.at(s)[:1], s).numpy() for s in grid.tolist()]
        self._identity: dict[str, Any] = {
            "sigmas": grid,
            "random_state": str(images.seed),
            "images": images.digest,
            "answers": np.stack(answers),
        }
        sides = tuple(denoiser.image_shape_[1:])
        if answers[0][0].size != images.clean[0].numel():
            raise ValueError(
                f"{type(denoiser).__name__} answers for patches, and FlexibleWindows needs heat "
                "maps of all pixels; pass a denoiser of whole images."
            )
        self._shape = (len(grid), *sides, *sides)
        self.done = 0

    def opened(self):
        """Return the writable maps so far; raise if they belong to another run."""
        if not self.path.exists():
            self.note(0)
            return np.lib.format.open_memmap(self.path, "w+", np.float32, self._shape)
        if not self.record.is_file():
            raise ValueError(
                f"'{self.path}' exists, and there is no '{self.record.name}' beside it that "
                "records its run; choose another name."
            )
        remedy = f"delete it and '{self.path}', or choose another name"
        record = load_arrays(self.record, "is not a record of heat maps", remedy)
        other = [k for k, value in self._identity.items() if not _alike(record.get(k), value)]
        if other or not self._is_whole():
            what = f"of another run, with other {', '.join(other)}" if other else "damaged"
            raise ValueError(
                f"'{self.path}' is {what}; choose another name, or delete it and "
                f"'{self.record.name}'."
            )
        with reading(self.record, "is not a record of heat maps", remedy):
            self.done = int(record["done"])
        return np.lib.format.open_memmap(self.path, "r+")

    def _is_whole(self):
        """Return whether the file is complete and has the expected shape and dtype."""
        try:  # mapping a short file for writing would lengthen it
            maps = map_array(self.path, "is damaged", "delete it")
        except (ValueError, OSError):
            return False
        return maps.shape == self._shape and maps.dtype == np.float32

    def note(self, done):
        """Record that ``done`` rows of the image are in the file."""
        write_output(self.record, None, {**self._identity, "done": done})


def _alike(recorded, value):
    """Return whether a recorded value is equal, or an answer equal up to rounding."""
    if recorded is None or np.shape(recorded) != np.shape(value):
        return False
    if np.asarray(value).dtype.kind != "f" or np.ndim(value) == 1:
        return bool(np.array_equal(recorded, value))
    return bool(np.abs(recorded - value).max() <= _SAME_ANSWERS * np.abs(value).max())
