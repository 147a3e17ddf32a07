"""Information that windows of noisy images hold about the training image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .._progress import progress, showing
from .._repr import described, short_repr
from .._threads import torch_threads
from .._typing import ArrayLike, DataRange, ImageShape, NoiseLevel, RandomState
from .._units import checked_range, half_width
from .._warnings import warn
from ..denoisers.base import Denoiser
from ..denoisers.training_set_denoiser import TrainingSetDenoiser
from ..posterior.information import information, own_logits, pixel_map
from ..sampling import noise_seed
from ..sampling.schedules import check_grid
from ..support import squares_of_side
from ..support.covariance import pixel_variance
from ..support.held_out import noisy_blocks
from ..support.holdout import hold_out, log_n_distinct, n_shared
from ._errors import standard_error
from ._images import check_count, check_sizes
from ._training import checked_training_set

if TYPE_CHECKING:
    from ._plot.information import EntropyMapDisplay, InformationCurveDisplay

# On images in [-1, 1].
_SIGMAS = tuple(np.geomspace(0.05, 20.0, 10).tolist())
# Beside the seed.
_INFORMATION = 6


@dataclass(frozen=True, eq=False)
class EntropyMap:
    """Entropy of the posterior over training images, by pixel or by window.

    All numbers are in nats.

    Attributes
    ----------
    information : ndarray of shape (n, H, W), or (n, K) by window
        Relative entropy of the posterior and the sample weights, non-negative: information of a
        window about which training image it shows. With equal weights it is at most ``log_n``. A
        pixel has the mean over the windows that answer for it.
    log_n : ndarray of shape (n,)
        Entropy of the sample weights: log N for N training images with equal weights.

    Examples
    --------
    The posterior of a corner, which is blank in most digits, has more entropy:

    >>> import numpy as np
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import posterior_entropy
    >>> X = load_digits_images().images
    >>> Z = X[:1] / 127.5 - 1 + 0.5 * np.random.default_rng(0).standard_normal((1, 1, 8, 8))
    >>> found = posterior_entropy(PSPCDenoiser(3).fit(X[1:]), Z, sigma=0.5)
    >>> found.entropy[0, [0, 4], [0, 4]].round(1), found.log_n.round(1)
    (array([6.4, 4.5]), array([7.5]))
    """

    information: np.ndarray
    log_n: np.ndarray

    __repr__ = short_repr

    @property
    def entropy(self) -> np.ndarray:
        """``log_n - information``, at least 0, shaped as ``information``.

        With equal sample weights this is the entropy of the posterior, 0 where it has identified
        one training image. With unequal weights it is not: there, use ``information``.
        """
        log_n = self.log_n.reshape(-1, *[1] * (self.information.ndim - 1))
        return np.maximum(log_n - self.information, 0.0)

    def plot(
        self, ax: Any = None, *, images: ArrayLike | None = None, colorbar: bool = True
    ) -> "EntropyMapDisplay":
        """Draw the map of the entropy of each noisy image.

        Parameters
        ----------
        ax : array of n matplotlib Axes, or 2 n with ``images``, default None
            Axes of the panels. None: a new figure.
        images : array of shape (n, C, H, W), default None
            Images to draw above the maps, such as the denoised images.
        colorbar : bool, default True
            Draw the scale of the colours.

        Returns
        -------
        EntropyMapDisplay
            The drawn display, with ``figure_`` and ``axes_``.

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        ValueError
            For entropies by window, or another number of axes or images.
        """
        from ._plot.information import EntropyMapDisplay

        return EntropyMapDisplay.from_predictions(self, ax=ax, images=images, colorbar=colorbar)


def posterior_entropy(
    denoiser: Any,
    Z: ArrayLike,
    sigma: NoiseLevel,
    y: ArrayLike | None = None,
    *,
    by: Literal["pixel", "window"] = "pixel",
) -> EntropyMap:
    r"""Return the entropy of the posterior over training images, pixel by pixel or by window.

    .. math::

        H^k(z) = - \sum_i w_i^k \log w_i^k = \log N - \sum_i w_i^k \log \frac{w_i^k}{1 / N}

    in nats, with the posterior weights w of window k over N training images. Entropy 0 means that
    the window has identified one training image and copies it: the denoiser memorises there. The
    exponential of the entropy is about how many images the window averages. The last term is the
    information of the window about which training image it shows.

    Parameters
    ----------
    denoiser : estimator
        Fitted denoiser whose windows are compared with training images at equal positions, such as
        `skpspc.PSPCDenoiser` and `skpspc.EmpiricalDenoiser`.
    Z : array or Tensor of shape (n, C, H, W) or (n, d)
        Noisy images.
    sigma : float or array of shape (n,)
        Noise level, positive, in the units of the images.
    y : label or array of shape (n,), default None
        Class whose training images count; None: all training images.
    by : {"pixel", "window"}, default "pixel"
        "pixel": mean over the windows that answer for each pixel. "window": every window, in
        row-major order.

    Returns
    -------
    EntropyMap
        Information and entropy; its method ``plot`` draws the entropy.

    Raises
    ------
    TypeError
        For an object that is not a skpspc denoiser.
    ValueError
        For a noise level of 0, for windows that are compared with patches at all positions, with
        moved images (``max_shift``) or in batches, and if the answers are not means of training
        images; with ``by="window"``, if noise levels have different numbers of windows.

    See Also
    --------
    EntropyMapDisplay : Picture of the entropies.
    information_curve : Information against patch size and noise level.

    Notes
    -----
    The posterior is exact, also where the denoiser uses few images (``tol``, ``n_neighbors``).
    With sample weights v, the information is the relative entropy of w and v, and log N is the
    entropy of v. Copies of a training image count as different images: they share their weight,
    and the posterior of copies alone has the entropy of their shares.

    References
    ----------
    Hunt, Kamb and Ganguli, 2026, arXiv:2607.08041: memorisation by the information of a window.

    Examples
    --------
    The whole noisy digit identifies a training image, and patches of it do not:

    >>> import numpy as np
    >>> from skpspc import EmpiricalDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import posterior_entropy
    >>> X = load_digits_images().images
    >>> Z = X[:4] / 127.5 - 1 + 0.5 * np.random.default_rng(0).standard_normal((4, 1, 8, 8))
    >>> for model in EmpiricalDenoiser(), PSPCDenoiser(3):
    ...     print(posterior_entropy(model.fit(X), Z, sigma=0.5).entropy.mean().round(2))
    0.27
    4.75
    """
    if by not in ("pixel", "window"):
        raise ValueError(f"by must be 'pixel' or 'window', got {by!r}.")
    check_weights(denoiser)
    now = denoiser._now()
    z, levels, _ = now._checked(Z, sigma)
    if (levels == 0).any():
        raise ValueError("sigma must be positive, got 0; pass a positive noise level.")
    gained, order, log_n = [], [], np.empty(len(z))
    with torch.no_grad(), torch_threads(), showing(now.verbose):
        for rows, prior, _ in now._by_class_and_level(levels, y):
            windows, found = prior.information(z[rows], levels[rows])
            values = found.gained
            if by == "pixel":
                values = pixel_map(values, windows, prior.answered(z[rows]))
            gained.append(values.cpu().numpy())
            log_n[rows] = found.log_n
            order += rows
    if len({values.shape[1:] for values in gained}) > 1:
        raise ValueError(
            "noise levels have different numbers of windows; pass noise levels one by one, or "
            "by='pixel'."
        )
    return EntropyMap(np.concatenate(gained)[np.argsort(order)], log_n)


def check_weights(denoiser):
    """Raise unless a denoiser learns from training images, whose weights it has."""
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"denoiser must be a fitted denoiser of this library, got {described(denoiser)}; pass "
            "one whose answers are means of training images, such as PSPCDenoiser."
        )
    check_is_fitted(denoiser)
    if not isinstance(denoiser, TrainingSetDenoiser):
        raise ValueError(denoiser._prior_of().no_attribution)


@dataclass(frozen=True, eq=False)
class InformationCurve:
    r"""Information of windows of noisy held-out images, by noise level and patch size.

    Numbers are in nats, and means over all windows of a size in an image.

    Attributes
    ----------
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    patch_sizes : ndarray of shape (S,)
        Sides of the windows, increasing.
    image_shape : tuple of (C, H, W)
        Shape of an image.
    image_information : ndarray of shape (L, S, n)
        Information of the windows about their clean image, for each noisy image.
    image_entropies : ndarray of shape (L, S, n)
        Entropy of the posterior over training images, for each noisy image.
    image_coverages : ndarray of shape (L, S, n)
        Posterior weight, from 0 to 1, that the training images would keep if the clean image were
        one of them, for each noisy image.
    log_n : float
        Entropy of the weights of distinct training images: log N for N of equal weight.
    pixel_variance : float
        Mean variance of a value of the training images.
    weight : ndarray of shape (n,)
        Weights of the noisy images, which sum to one.

    Examples
    --------
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import information_curve
    >>> X = load_digits_images().images
    >>> curve = information_curve(X, [0.2, 0.5, 1.0], [2, 4, 8])
    >>> curve.information.round(1)  # rows: noise levels, columns: patch sizes
    array([[ 2.9, 13.9, 61.7],
           [ 1.3,  4.9, 13.4],
           [ 0.5,  2.2,  5.4]])

    It exceeds log N = 7.5, which singles out one of N images, in windows of more than 3.0 and 5.4
    pixels at the first two noise levels:

    >>> curve.critical_sizes.round(1)
    array([3. , 5.4, inf])
    """

    sigmas: np.ndarray
    patch_sizes: np.ndarray
    image_shape: tuple[int, ...]
    image_information: np.ndarray
    image_entropies: np.ndarray
    image_coverages: np.ndarray
    log_n: float
    pixel_variance: float
    weight: np.ndarray

    __repr__ = short_repr

    def plot(self, ax: Any = None) -> "InformationCurveDisplay":
        """Draw the information against the patch size, a curve for each noise level.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in; None: a new figure.

        Returns
        -------
        InformationCurveDisplay
            The drawn display, with ``figure_`` and ``ax_``.

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        from ._plot.information import InformationCurveDisplay

        return InformationCurveDisplay.from_predictions(self, ax=ax)

    @property
    def n(self) -> int:
        """Number of noisy images at each noise level."""
        return len(self.weight)

    @property
    def information(self) -> np.ndarray:
        """Weighted mean of ``image_information`` over noisy images, (L, S)."""
        return self.image_information @ self.weight

    @property
    def information_standard_error(self) -> np.ndarray:
        """Standard error of ``information`` over noisy images, (L, S); NaN for one image."""
        return standard_error(self.image_information, self.weight)

    @property
    def entropy(self) -> np.ndarray:
        """Weighted mean of ``image_entropies`` over noisy images, (L, S)."""
        return self.image_entropies @ self.weight

    @property
    def coverage(self) -> np.ndarray:
        """Weighted mean of ``image_coverages`` over noisy images, (L, S)."""
        return self.image_coverages @ self.weight

    @property
    def critical_sizes(self) -> np.ndarray:
        r"""Side at which the information reaches ``log_n``, (L,); inf: none within the image.

        The square root of the information is interpolated linearly between patch sizes, from 0 for
        a window without pixels; the information of independent pixels grows with the area.
        """
        sides = np.append(0, self.patch_sizes)
        roots = np.sqrt(np.maximum(self.information, 0.0))
        return np.array([_crossing(sides, np.append(0, root), self.log_n**0.5) for root in roots])

    @property
    def edge_sizes(self) -> np.ndarray:
        """Largest of ``patch_sizes`` up to which no information exceeds ``log_n``, (L,) int.

        The smallest patch size where its information is already larger.
        """
        last = (self.information > self.log_n).cumsum(1).astype(bool).argmax(1)
        last[(self.information <= self.log_n).all(1)] = len(self.patch_sizes)
        return self.patch_sizes[np.maximum(last - 1, 0)]

    @property
    def predicted_sizes(self) -> np.ndarray:
        r"""Critical side by :math:`\sigma \sqrt{2 \ln N / (C s^2)}`, (L,), without a limit.

        C is the number of channels, :math:`s^2` is ``pixel_variance``. Images of correlated pixels
        have larger critical sides at small noise levels; see the notes of `information_curve`.
        """
        values = self.image_shape[0] * self.pixel_variance
        with np.errstate(divide="ignore"):
            return self.sigmas * np.sqrt(2 * self.log_n / values)


def information_curve(
    X: ArrayLike,
    sigmas: ArrayLike | None = None,
    patch_sizes: Sequence[int] | None = None,
    *,
    n_images: int = 64,
    held_out: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    image_shape: ImageShape | None = None,
    data_range: DataRange | None = None,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> InformationCurve:
    r"""Measure how much information windows of noisy images hold, against patch size and noise.

    .. math::

        I_P(\sigma) = \operatorname{E}_{x, z} \log \frac{p(z_P \mid x_P)}{p_N(z_P)}, \qquad
        p_N(z_P) = \frac1N \sum_{i=1}^N \mathcal N(z_P; x_{iP}, \sigma^2 I)

    in nats, with held-out clean images x, noisy images :math:`z = x + \sigma \epsilon`, and windows
    P of one size. A posterior over N images memorises where the information exceeds log N, the
    information that singles out one of N images; the critical side of a window is where they are
    equal. Below it, the entropy of the posterior is about :math:`\log N - I_P`, above it about 0.

    Parameters
    ----------
    X : array, Tensor or dask array of shape (N, C, H, W) or (N, d)
        Training images.
    sigmas : sequence of float, default None
        Noise levels, finite, positive and distinct, in any order, in the units of the images.
        None: 10 from 0.05 to 20 for images on [-1, 1], scaled to ``data_range``.
    patch_sizes : sequence of int, default None
        Sides of the windows, at least 1 and at most the longer side of the image. None: up to 15
        sizes from 1 to the longer side, evenly spaced in their logarithm.
    n_images : int, default 64
        Number of different images of X to hold out, with all their copies. The posterior is over
        the other images.
    held_out : array or Tensor of shape (m, C, H, W) or (m, d), default None
        Clean images to use instead; the posterior is then over all of X. A warning counts images
        that are in X, whose information is too small.
    sample_weight : array of shape (N,), default None
        Weights of the images of X; None: equal weights.
    image_shape : tuple of (C, H, W), default None
        Shape of one image if X is flat.
    data_range : tuple of (low, high), default None
        Range of the images, which is the unit of noise levels: the uint8 pixels 0 and 255 stand
        for low and high, and floats must lie between them. None: uint8 images are read on [-1, 1],
        float images are used unscaled.
    random_state : int, RandomState, Generator or None, default 0
        Seed or generator of the held-out images and of their noise. All noise levels and sizes
        share images and noise.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    InformationCurve
        Information, entropies and coverages, with the critical sides; its method ``plot`` draws
        the information.

    Raises
    ------
    ValueError
        For invalid noise levels or sizes, float images outside ``data_range``, or too few images to
        hold out ``n_images``.

    See Also
    --------
    suggest_patch_size : Patch size at the edge of memorisation, with ``criterion="edge"``.
    InformationCurveDisplay : Picture of the information.
    posterior_entropy : Map of the entropy for single noisy images.

    Notes
    -----
    The density :math:`p_N` stands for the density of all images, which is not available. The mean
    is therefore an upper estimate of the mutual information of x and z: by the relative entropy of
    the two densities, which is small below the critical side and large above it. Held-out images
    matter: for a training image, the logarithm is at most log N.

    The mutual information is at most half the variance of the window over :math:`\sigma^2`. If all
    pixels have the variance :math:`s^2`, in C channels, this bound is log N at the side
    :math:`\sigma \sqrt{2 \log N / (C s^2)}`, which grows as :math:`\sigma \sqrt{\log N}`. With the
    mean variance of a pixel it is the attribute ``predicted_sizes``, a rough lower estimate of the
    critical side. Correlated pixels repeat one another's information: at small noise levels the
    critical side is several times larger, and grows less with :math:`\sigma`. Pixels in the middle,
    which more windows cover, may vary more than the mean pixel and make it smaller.

    The coverage of a window is the posterior weight :math:`1 / (1 + e^{I} / N)`, with the
    information I of the single window, that the training images would keep if the clean image were
    one of them. Where it is near 1, training windows cover new images at this noise level.

    Copies of an image count as one image in log N.

    References
    ----------
    - Hunt, Kamb and Ganguli, 2026, arXiv:2607.08041: memorisation where the information exceeds
      log N, and the scaling of the critical side. The estimate on held-out images is ours.
    - Merger and Goldt, "Local Coverage Governs Memorization in Diffusion Models", 2026,
      arXiv:2606.14390: memorisation where few training images are near.

    Examples
    --------
    Windows of more than 5 x 5 pixels single out one of 1,733 digits at noise level 0.5:

    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import information_curve
    >>> curve = information_curve(load_digits_images().images, [0.5], [3, 4, 5, 6])
    >>> curve.information.round(1), round(curve.log_n, 1)
    (array([[2.9, 4.9, 7.2, 9.7]]), 7.5)
    """
    data_range = None if data_range is None else checked_range(data_range, "data_range")
    usual = half_width(data_range) * np.array(_SIGMAS)
    grid = np.sort(check_grid(usual if sigmas is None else sigmas))
    if grid[0] == 0:
        raise ValueError("sigmas must be positive, got 0: there the information is infinite.")
    shared = dict(image_shape=image_shape, data_range=data_range)
    training_set = checked_training_set(X, sample_weight, **shared)
    shape = training_set.image_shape
    sizes = check_sizes(patch_sizes, shape, "patch_sizes")
    rng = np.random.default_rng([noise_seed(random_state), _INFORMATION])
    if held_out is None:
        check_count(n_images, "n_images")
        training_set, held = hold_out(training_set, n_images, rng)
    else:
        shared["image_shape"] = shape
        held = checked_training_set(held_out, **shared).together()
        n = n_shared(training_set, held)
        if n:
            warn(
                f"{n} of {len(held)} held-out images are training images, whose information never "
                "exceeds log N; pass images that are not in X."
            )
    log_n = log_n_distinct(training_set)
    with torch.no_grad(), torch_threads(), showing(verbose):
        measured = _measured(held, training_set, grid, sizes, noise_seed(rng), log_n)
    weight = held.sample_weight
    weight = np.ones(len(held)) if weight is None else weight.cpu().numpy()
    return InformationCurve(
        grid,
        sizes,
        shape,
        image_information=measured[0],
        image_entropies=measured[1],
        image_coverages=measured[2],
        log_n=log_n,
        pixel_variance=pixel_variance(training_set),
        weight=weight / weight.sum(),
    )


def _measured(held, training_set, sigmas, sizes, seed, log_n):
    """Return information, entropies and coverages, (3, L, S, n)."""
    shape = training_set.image_shape
    out = np.empty((3, len(sigmas), len(sizes), len(held)))
    for rows, _, z, levels in noisy_blocks(held, sigmas, seed):
        exact = held.take(rows, torch.float64).repeat(len(sigmas), 1, 1, 1)
        for k, size in enumerate(progress(sizes.tolist(), "patch sizes")):
            windows = squares_of_side(size, shape)
            found = information(z, levels, training_set, windows)
            excess = own_logits(z, exact, levels, windows) - found.log_norm
            numbers = excess, log_n - found.gained, torch.sigmoid(log_n - excess)
            for array, values in zip(out, numbers, strict=True):
                array[:, k, rows] = values.mean(1).view(len(sigmas), -1).cpu().numpy()
    return out


def _crossing(sides, values, level):
    """Return the first side at which values, interpolated linearly, reach a level; or inf."""
    above = np.flatnonzero(values >= level)
    if not len(above):
        return np.inf
    last = above[0]
    if last == 0:
        return 0.0
    fraction = (level - values[last - 1]) / (values[last] - values[last - 1])
    return sides[last - 1] + fraction * (sides[last] - sides[last - 1])
