"""Distance between the posterior given a patch and the posterior given the whole image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch

from .._progress import progress, showing
from .._repr import short_repr
from .._typing import ArrayLike, DataRange, ImageShape, RandomState
from .._units import checked_range, half_width
from ..posterior import dense_shard_weights, dense_weights
from ..posterior.softmax import Softmax
from ..sampling import draw_noise, noise_seed
from ..sampling.schedules import check_grid
from ..support import clip_size
from ..support.devices import added
from ..support.holdout import different
from ..support.memory import rows_that_fit
from ._errors import standard_error
from ._images import check_count, check_sizes
from ._training import checked_training_set
from .information import InformationCurve, information_curve

if TYPE_CHECKING:
    from ._plot.equivalence import LocalEquivalenceDisplay

# On images in [-1, 1]: at both ends every patch agrees with the whole image.
_SIGMAS = tuple(np.geomspace(0.01, 100.0, 17).tolist())
# Beside the seed.
_EQUIVALENCE = 4


@dataclass(frozen=True, eq=False)
class LocalEquivalence:
    """Distances between patch and global posterior, by noise level and patch size.

    All distances are root mean squares over the values of the patch, in the units of the images.

    Attributes
    ----------
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    patch_sizes : ndarray of shape (S,)
        Sides of the patch, increasing.
    image_shape : tuple of (C, H, W)
        Shape of an image.
    image_gaps : ndarray of shape (L, S, n)
        Distance between the two posterior means on the patch, for each noisy image.
    image_variations : ndarray of shape (L, S, n)
        Total variation between the two posteriors, from 0 to 1, for each noisy image.
    diameters : ndarray of shape (S,)
        Upper bounds of the distance between two training patches.
    weight : ndarray of shape (n,)
        Weights of the noisy images, which sum to one.

    Examples
    --------
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import local_equivalence
    >>> X = load_digits_images().images[:300]
    >>> equivalence = local_equivalence(X, [0.05, 1.0, 100.0], [2, 4])
    >>> equivalence.gap.round(2)  # rows: noise levels, columns: patch sizes
    array([[0.01, 0.  ],
           [0.39, 0.32],
           [0.01, 0.01]])
    >>> display = equivalence.plot()
    """

    sigmas: np.ndarray
    patch_sizes: np.ndarray
    image_shape: tuple[int, ...]
    image_gaps: np.ndarray
    image_variations: np.ndarray
    diameters: np.ndarray
    weight: np.ndarray

    __repr__ = short_repr

    def plot(self, ax: Any = None, *, bound: bool = True) -> "LocalEquivalenceDisplay":
        """Draw gap and bound against the noise level, a curve for each patch size.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in; None: a new figure.
        bound : bool, default True
            Draw the bounds too.

        Returns
        -------
        LocalEquivalenceDisplay
            The drawn display, with ``figure_`` and ``ax_``.

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        from ._plot.equivalence import LocalEquivalenceDisplay

        return LocalEquivalenceDisplay.from_predictions(self, ax=ax, bound=bound)

    @property
    def n(self) -> int:
        """Number of noisy images at each noise level."""
        return len(self.weight)

    @property
    def gap(self) -> np.ndarray:
        """Weighted mean of ``image_gaps`` over noisy images, (L, S)."""
        return self.image_gaps @ self.weight

    @property
    def total_variation(self) -> np.ndarray:
        """Weighted mean of ``image_variations`` over noisy images, (L, S)."""
        return self.image_variations @ self.weight

    @property
    def bound(self) -> np.ndarray:
        """Upper bound of the gap, ``total_variation * diameters``, (L, S)."""
        return self.total_variation * self.diameters

    @property
    def gap_standard_error(self) -> np.ndarray:
        """Standard error of ``gap`` over noisy images, (L, S); NaN for one image."""
        return standard_error(self.image_gaps, self.weight)

    @property
    def bound_standard_error(self) -> np.ndarray:
        """Standard error of ``bound`` over noisy images, (L, S); NaN for one image."""
        return standard_error(self.image_variations, self.weight) * self.diameters


def local_equivalence(
    X: ArrayLike,
    sigmas: ArrayLike | None = None,
    patch_sizes: Sequence[int] | None = None,
    *,
    n_images: int = 64,
    sample_weight: ArrayLike | None = None,
    image_shape: ImageShape | None = None,
    data_range: DataRange | None = None,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> LocalEquivalence:
    r"""Measure the distance between patch and global posterior mean, and bound it.

    .. math::

        \| D_P(z; \sigma) - D(z; \sigma)_P \| \le
        \tfrac12 \sum_i | w_i^P - w_i | \cdot \max_{ij} \| x_{iP} - x_{jP} \|

    :math:`w^P` is the posterior over the training images given the patch :math:`z_P` alone,
    :math:`w` the posterior given the whole noisy image z, and :math:`D_P, D` are their means. The
    distance of the means is at most the total variation of the two posteriors times the diameter of
    the training patches. P is the patch in the middle of the image, and z a noisy training image.

    Parameters
    ----------
    X : array, Tensor or dask array of shape (N, C, H, W) or (N, d)
        Training images.
    sigmas : sequence of float, default None
        Noise levels, finite, non-negative and distinct, in any order, in the units of the
        images. None: 17 from 0.01 to 100 for images on [-1, 1], scaled to ``data_range``.
    patch_sizes : sequence of int, default None
        Sides of the patch, at least 1 and at most the longer side of the image. None: up to 15
        sizes from 1 to the longer side, evenly spaced in their logarithm.
    n_images : int, default 64
        Number of different training images to which noise is added; all if there are fewer. All
        noise levels and sizes share images and noise.
    sample_weight : array of shape (N,), default None
        Weights of the training images; None: equal weights.
    image_shape : tuple of (C, H, W), default None
        Shape of one image if X is flat.
    data_range : tuple of (low, high), default None
        Range of the images, which is the unit of noise levels and distances: the uint8 pixels 0
        and 255 stand for low and high, and floats must lie between them. None: uint8 images are
        read on [-1, 1], float images are used unscaled.
    random_state : int, RandomState, Generator or None, default 0
        Seed or generator of the drawn images and of their noise. The noise of image i depends on
        ``random_state`` and i only.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    LocalEquivalence
        Distances and bounds; its method ``plot`` draws them.

    Raises
    ------
    ValueError
        For invalid noise levels or sizes, or float images outside ``data_range``.

    See Also
    --------
    suggest_patch_size : Smallest patch size with a small bound.
    LocalEquivalenceDisplay : Picture of the distances.

    Notes
    -----
    As :math:`\sigma \to \infty` both posteriors tend to the sample weights. As :math:`\sigma \to
    0`, on a noisy training image, both tend to that image. If other images equal it on the patch,
    they share :math:`w^P`; the total variation then stays positive, but the means agree. The gap
    therefore vanishes at both ends (*local equivalence*). At medium noise levels a patch carries
    less information than the image.

    An upper bound replaces the diameter: twice the largest distance of a training patch to the
    middle of the range of each value. The function computes one posterior over patches for each
    noisy image, noise level and size.

    Against the noise level, ``gap`` is the curve of the locality gap: what a denoiser loses by
    seeing a patch alone. The mean of ``image_gaps ** 2`` over all training images and noise equals
    the difference of the mean squared errors of the two denoisers on the patch: the error of the
    posterior mean given the image is orthogonal to every function of the noisy image.

    References
    ----------
    - Niedoba et al., ICML 2025, arXiv:2411.19339.
    - arXiv:2605.04830: the locality gap. The definition here follows from the two posteriors.

    Examples
    --------
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import local_equivalence
    >>> X = load_digits_images().images[:300]
    >>> equivalence = local_equivalence(X, [0.05, 1.0, 100.0], [4])

    The two means agree at a small and at a large noise level, and differ at a medium one:

    >>> equivalence.gap.round(2).tolist()
    [[0.0], [0.32], [0.01]]
    """
    data_range = None if data_range is None else checked_range(data_range, "data_range")
    usual = half_width(data_range) * np.array(_SIGMAS)
    grid = np.sort(check_grid(usual if sigmas is None else sigmas))
    check_count(n_images, "n_images")
    training_set = checked_training_set(
        X, sample_weight, image_shape=image_shape, data_range=data_range
    )
    shape = training_set.image_shape
    sizes = check_sizes(patch_sizes, shape, "patch_sizes")
    rng = np.random.default_rng([noise_seed(random_state), _EQUIVALENCE])
    drawn = different(training_set, n_images, rng)
    dtype = drawn.float_dtype
    clean = drawn.take(slice(0, len(drawn)), dtype)
    noise = draw_noise(shape, len(drawn), noise_seed(rng)).to(clean)
    areas = [_central(shape, size) for size in sizes.tolist()]
    crops = training_set.executor.derived(_with_crops, areas)
    with showing(verbose):
        levels = progress(grid.tolist(), "noise levels")
        distances = np.array([_distances(crops, areas, clean + s * noise, s) for s in levels])
    gaps, variations = np.moveaxis(distances, 2, 0)
    diameters = np.array([_diameter(training_set.crop(*area)) for area in areas])
    weight = drawn.sample_weight.cpu().numpy()
    weight = weight / weight.sum()
    return LocalEquivalence(grid, sizes, shape, gaps, variations, diameters, weight)


@overload
def suggest_patch_size(
    X: ArrayLike,
    sigma: float,
    *,
    criterion: Literal["equivalence"] = "equivalence",
    tol: float | None = None,
    patch_sizes: Sequence[int] | None = None,
    n_images: int = 64,
    sample_weight: ArrayLike | None = None,
    image_shape: ImageShape | None = None,
    data_range: DataRange | None = None,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> tuple[int, LocalEquivalence]: ...
@overload
def suggest_patch_size(
    X: ArrayLike,
    sigma: float,
    *,
    criterion: Literal["edge"],
    tol: float | None = None,
    patch_sizes: Sequence[int] | None = None,
    n_images: int = 64,
    sample_weight: ArrayLike | None = None,
    image_shape: ImageShape | None = None,
    data_range: DataRange | None = None,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> tuple[int, InformationCurve]: ...
def suggest_patch_size(
    X,
    sigma,
    *,
    criterion="equivalence",
    tol=None,
    patch_sizes=None,
    n_images=64,
    sample_weight=None,
    image_shape=None,
    data_range=None,
    random_state=0,
    verbose=0,
):
    r"""Return the patch size that acts as the whole image, or the one at the edge of memorisation.

    ``criterion="equivalence"`` returns the smallest patch whose posterior mean must equal that of
    the whole image. A patch denoiser of this size or larger equals, on its patch, the optimal
    denoiser of the training set, up to ``tol``. The returned size is the smallest for which it and
    all larger ones of ``patch_sizes`` satisfy

    .. math::

        \operatorname{E}_z\, \tfrac12 \sum_i | w_i^P - w_i | \cdot
        \max_{ij} \| x_{iP} - x_{jP} \| \le \mathrm{tol},

    The left side bounds the mean distance of the two posterior means on the patch (see Notes).
    Smaller patches may agree with the image as well, but only smaller patches can generalise at
    this noise level, and not repeat training images.

    ``criterion="edge"`` returns the largest patch that does not memorise: the returned size is the
    largest for which it and all smaller ones of ``patch_sizes`` satisfy

    .. math::

        I_P(\sigma) = \operatorname{E}_{x, z} \Bigl[ \log p(z_P \mid x_P)
        - \log \frac1N \sum_{i=1}^N p(z_P \mid x_{iP}) \Bigr] \le \log N ,

    with held-out images x. A window with more information than log N singles out one of the N
    training images, and copies it. The sizes that denoise held-out images best are close to this
    edge; :func:`calibrate_patch_size` measures them.

    Parameters
    ----------
    X : array, Tensor or dask array of shape (N, C, H, W) or (N, d)
        Training images.
    sigma : float
        Noise level, finite and non-negative, in the units of the images; positive for "edge".
    criterion : {"equivalence", "edge"}, default "equivalence"
        "equivalence": the smallest patch with the posterior mean of the whole image. "edge": the
        largest patch that does not memorise.
    tol : float, default None
        Admissible distance of ``criterion="equivalence"``, positive: a root mean square over the
        values of the patch, in the units of the images. None: 0.1.
    patch_sizes : sequence of int, default None
        Candidates, at least 1 and at most the longer side of the image. None: up to 15 sizes
        from 1 to the longer side, evenly spaced in their logarithm.
    n_images : int, default 64
        Number of different training images to which noise is added; all if there are fewer. For
        "edge", number of different images to hold out, fewer than there are.
    sample_weight : array of shape (N,), default None
        Weights of the training images; None: equal weights.
    image_shape : tuple of (C, H, W), default None
        Shape of one image if X is flat.
    data_range : tuple of (low, high), default None
        Range of the images, which is the unit of ``sigma`` and ``tol``: the uint8 pixels 0 and
        255 stand for low and high, and floats must lie between them. None: uint8 images are read
        on [-1, 1], float images are used unscaled.
    random_state : int, RandomState, Generator or None, default 0
        Seed or generator of the drawn images and of their noise.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    size : int
        Side of the patch. For "equivalence", the longer side of the image if the bound of every
        smaller size exceeds ``tol``. For "edge", the smallest candidate if no candidate satisfies
        the inequality.
    estimates : LocalEquivalence or InformationCurve
        Measurements of all sizes at this one noise level: total variation, bound and distance, or
        information, entropy and coverage.

    Raises
    ------
    ValueError
        For an invalid noise level, criterion, ``tol`` or size, ``tol`` with "edge", float images
        outside ``data_range``, or, with "edge", too few images to hold out ``n_images``.

    See Also
    --------
    information_curve : Information of windows, with the edge at many noise levels.

    Notes
    -----
    Proof of the bound. Let t be the total variation: the positive and the negative part of
    :math:`w^P - w` both sum to t. Let p and q be the two parts divided by t. Then
    :math:`D_P - D = t (\sum_i p_i x_{iP} - \sum_i q_i x_{iP})`, which is t times the difference of
    two points in the convex hull of the training patches. The diameter of the hull is the diameter
    of the patches.

    With "equivalence" the suggestion rises and falls with sigma. As :math:`\sigma \to \infty` a
    single pixel is enough; as :math:`\sigma \to 0`, any patch in which no two training images are
    equal is enough. With "edge" it grows with sigma, as does the size that denoises best.

    References
    ----------
    - Niedoba et al., ICML 2025, arXiv:2411.19339.
    - Hunt, Kamb and Ganguli, 2026, arXiv:2607.08041: the edge, where the information is log N.

    Examples
    --------
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import suggest_patch_size
    >>> X = load_digits_images().images[:300]
    >>> {sigma: suggest_patch_size(X, sigma)[0] for sigma in (0.1, 1.0, 100.0)}
    {0.1: 3, 1.0: 8, 100.0: 1}

    The largest patches that do not memorise:

    >>> sigmas = (0.1, 1.0, 100.0)
    >>> {sigma: suggest_patch_size(X, sigma, criterion="edge")[0] for sigma in sigmas}
    {0.1: 2, 1.0: 7, 100.0: 8}
    """
    if criterion not in ("equivalence", "edge"):
        raise ValueError(f"criterion must be 'equivalence' or 'edge', got {criterion!r}.")
    if criterion == "edge" and tol is not None:
        raise ValueError("tol belongs to criterion='equivalence'; omit it with criterion='edge'.")
    tol = 0.1 if tol is None else tol
    if not (np.ndim(tol) == 0 and not isinstance(tol, str) and tol > 0):
        raise ValueError(f"tol must be a positive float, got {tol!r}.")
    try:
        check_grid([sigma])
    except ValueError:
        raise ValueError(
            "sigma must be one noise level, a float, finite and non-negative, got "
            f"{sigma!r}; call the function once for each noise level."
        ) from None
    parameters = dict(
        n_images=n_images,
        sample_weight=sample_weight,
        image_shape=image_shape,
        data_range=data_range,
        random_state=random_state,
        verbose=verbose,
    )
    if criterion == "edge":
        curve = information_curve(X, [sigma], patch_sizes, **parameters)
        return int(curve.edge_sizes[0]), curve
    estimates = local_equivalence(X, [sigma], patch_sizes, **parameters)
    too_large = np.flatnonzero(estimates.bound[0] > tol)
    first = too_large[-1] + 1 if len(too_large) else 0
    sizes = estimates.patch_sizes.tolist()
    return (sizes[first] if first < len(sizes) else max(estimates.image_shape[1:])), estimates


def _central(image_shape, size):
    """Return top, left, height and width of the crop in the middle of an image."""
    window = clip_size(size, image_shape)
    sides = zip(image_shape[1:], window, strict=True)
    return *((whole - part) // 2 for whole, part in sides), *window


def _with_crops(training_set, areas):
    """Return a list of a training set and its crops."""
    return [training_set, *(training_set.crop(*area) for area in areas)]


def _distances(crops, areas, z, sigma):
    """Return gaps and total variations of every patch, (S, 2, n).

    ``crops`` is an executor of lists of images and crops, see `_with_crops`.
    """
    level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
    with crops.step() as step:
        noisy, normalisers = step.give((z, level, areas)), None
        if len(crops) > 1:
            normalisers = step.reduced(_normalisers, _merged, noisy)
        sums = step.reduced(_differences, added, noisy, normalisers)
        (sums,) = step.values([sums])
    distances = []
    for shift, variation in sums:
        gap = shift.double().square().mean(1).sqrt()
        distances.append(torch.stack([gap, variation / 2]).cpu().numpy())
    return np.stack(distances)


def _cropped(shard, noisy):
    """Yield noisy images and training images: whole images, and then all crops."""
    z, level, areas = noisy
    z, level = z.to(shard[0].device), level.to(shard[0].device)
    yield z, level, shard[0]
    for (top, left, height, width), patch in zip(areas, shard[1:], strict=True):
        yield z[..., top : top + height, left : left + width], level, patch


def _normalisers(shard, noisy):
    """Return the `Softmax` of noisy images and of every crop of them, for a shard."""
    return [dense_shard_weights(*pair)[1] for pair in _cropped(shard, noisy)]


def _merged(parts):
    """Merge lists of `Softmax`, which may be on several devices."""
    return [Softmax.merged(shards) for shards in zip(*parts, strict=True)]


def _differences(shard, noisy, normalisers):
    """Return differences of a patch's mean and absolute differences of weights, by patch.

    Differences are between the posterior of whole images and of patches: a list of tensors (n, d)
    and (n,). Without ``normalisers``, all images are in the shard.
    """
    weights = []
    for i, pair in enumerate(_cropped(shard, noisy)):
        if normalisers is None:
            weights.append(dense_weights(*pair))
            continue
        weight, softmax = dense_shard_weights(*pair)
        whole = normalisers[i].to(weight.device)
        weights.append(weight.mul_(softmax.share(whole).to(weight)))
    whole, *of_patches = weights
    sums = []
    for patch, weight in zip(shard[1:], of_patches, strict=True):
        difference = weight.sub_(whole)
        shift = whole.new_zeros(len(whole), patch.n_values)
        n_rows = rows_that_fit(whole.element_size() * patch.n_values, len(patch), what="One patch")
        for rows in patch.slices(n_rows):
            shift = shift + difference[:, rows] @ patch.take(rows, whole.dtype).flatten(1)
        sums.append((shift, difference.double().abs_().sum(1)))
    return sums


def _diameter(patches):
    """Return an upper bound of the root mean square between two training patches."""
    low, high = patches.extremes
    return 2 * patches.reduced(_largest_square, max, (low + high) / 2) ** 0.5


def _largest_square(patch, middle):
    """Return the largest mean squared difference of a patch from ``middle`` (C, h, w)."""
    middle, largest = middle.to(patch.device), 0.0
    n_rows = rows_that_fit(2 * 8 * patch.n_values, len(patch), what="One patch")
    for rows in patch.slices(n_rows):
        square = (patch.take(rows, torch.float64) - middle).square().flatten(1).mean(1)
        largest = max(largest, float(square.max()))
    return largest
