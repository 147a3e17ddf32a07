"""Patch Set Posterior Composites."""

import copy
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sklearn.utils._param_validation import Interval, StrOptions

from .._optional import load
from .._typing import BySigma, DataRange, Devices, ImageShape, RandomState
from .._units import warn_if_unusual
from .._validation import warn_if_clipped
from ..posterior import ENGINES, Gaussian, Prior, StationaryGaussian, TreeCache, TreeSearch
from ..posterior.tree import check_size
from ..sampling import BandwidthSchedule, PatchSchedule, paper_schedule
from ..support import TranslatedTrainingSet, squares_of_side
from ..support.sharded import ShardedTrainingSet
from ..support.training_set import DEFAULT_RANGE
from .base import Denoiser
from .calibration import (
    BANDWIDTH_CONSTRAINT,
    bandwidth_attribute,
    calibrated_sizes,
    with_bandwidth,
)
from .flexible import FlexibleWindows, ResolvedWindows
from .training_set_denoiser import DEVICES, TrainingSetDenoiser

_TOL = 2e-3  # default of algorithm="kd_tree"


@dataclass(frozen=True)
class SquaresBySigma:
    """Square windows whose side depends on the noise level.

    ``schedule`` maps a float sigma to the side, an int of at least 1, clipped to the image. For
    the tapers see `PSPCDenoiser`.
    """

    schedule: Callable
    image_shape: tuple[int, int, int]
    query_taper: float = 0.0
    response_taper: float = 0.0

    def __call__(self, sigma):
        """Return the windows at a noise level, `Squares` or `Whole`."""
        size = self.schedule(sigma)
        if not isinstance(size, numbers.Integral) or size < 1:
            raise ValueError(
                f"patch_size must return an int of at least 1 at every sigma, got {size!r} at "
                f"sigma = {sigma}."
            )
        tapers = self.query_taper, self.response_taper
        return squares_of_side(int(size), self.image_shape, *tapers)


class PSPCDenoiser(TrainingSetDenoiser):
    r"""Patch Set Posterior Composite (PSPC): the average of the posterior means of patches.

    .. math::

        D(z; \sigma)_p &= \frac{1}{|\{k : p \in P_k\}|}
        \sum_{k : p \in P_k} \sum_i w_i^k x_{ip}, \\
        w^k &= \operatorname{softmax}_i\bigl(-\|z_{P_k} - x_{i P_k}\|^2 / 2 \sigma^2
        + \log v_i\bigr)

    over all square patches :math:`P_k` in the image, or over windows of any shape, one for each
    pixel. A patch has all channels, and is compared with the patches of the training images
    :math:`x_i` at its own location; :math:`v_i` are the sample weights. The denoiser generalises:
    patches with different nearest images average to an image outside the training set.

    Parameters
    ----------
    patch_size : int, PatchSchedule, callable, "paper" or "calibrated", default "paper"
        Side of the patches. An int serves every sigma and is clipped to the image, with a
        warning. A `PatchSchedule` or another callable maps a float sigma to an int of at least 1,
        clipped to the image. "paper": the CIFAR-10 schedule of the paper, scaled by the longer side
        of the image over 32. "calibrated": :meth:`fit` chooses the sizes of least error on held-out
        training images at 9 noise levels (see Notes).
    windows : FlexibleWindows, default None
        Windows of any shape, one for each pixel (PSPC-Flex), instead of ``patch_size``.
    query_taper : float, default 0.0
        Softness of the edges of patches in the comparison, in [0, 1]. 0: the squared differences of
        all pixels count equally. 1: their factors (query precisions) fall off from 1 in the middle
        of a patch to its edges, as a triangle along each axis. Between: a trapezoid (see Notes).
        An edge falls off over whole pixels, so patches of 1 or 2 pixels are not tapered, nor are
        patches as large as the image.
    response_taper : float, default 0.0
        Softness of the edges of patches in the average, in [0, 1]: the weights (responses) of a
        patch at its pixels fall off in the same way. Pixels near the middle of a patch, whose
        surroundings it compares, then count more. Costs little.
    flip : bool, default False
        Add the left-right mirror image of every training image, with its weight, without copies.
        Doubles the work.
    max_shift : int, default 0
        Add the copies of every training image that are moved by up to ``max_shift`` rows and
        columns, without storing them. A moved copy has no pixels beyond the edges of the original,
        and is compared with the patches that it covers: patches at an edge of the image have fewer
        copies, and a patch as large as the image has one. The copies that cover a patch share the
        weight of the image evenly. Multiplies the work by up to (2 * max_shift + 1)^2. Shifts that
        leave no pixel of the image are left out.
    engine : {"auto", "numba", "torch"}, default "auto"
        "numba": compiled code for float32 on the CPU (the extra ``cpu``). "torch": every dtype and
        device. "auto": the faster one available. :ref:`accuracy` lists the errors of both. Torch
        always computes patches as large as the image, and noise levels where float32 logits
        overflow (sigma infinite, or under 1e-4 times the size of the data).
    bandwidth : float, callable or "calibrated", default 0.0
        h in [0, 1] interpolates between PSPC (0) and Gaussian denoisers (1): the training images
        are blurred along their covariance (see Notes). A callable, such as a `BandwidthSchedule`,
        maps a float sigma to h. "calibrated": :meth:`fit` chooses the h of least error on held-out
        images at each of 7 noise levels. With ``flip``, mean and covariance include the mirror
        images.
    smoothing : {"window", "global", "stationary"}, default "window"
        Blur of ``bandwidth``. "window": by the covariance of each window, which costs a product of
        its matrix with all training images. "global": by the covariance of whole images, so that
        windows compare filtered images. "stationary": like "global", without the correlations
        between different spatial frequencies (see Notes), which is by far the fastest. With
        ``windows`` and with tapers it must be "global" or "stationary".
    algorithm : {"auto", "exact", "kd_tree"}, default "auto"
        "exact": compare every patch with the patches of all training images. "kd_tree": compare it
        only with nearby training patches, which k-d trees find, for square patches and float32 on
        the CPU (the extra ``cpu``). "auto": without ``tol``, "exact"; with ``tol``, "kd_tree" for
        noisy images for which "kd_tree" is faster, from 10,000 training images on. The first call
        builds the trees: in 15 s for 3 x 3 patches of 50,000 CIFAR-10 images (see Notes).
    tol : float, default None
        Largest ``error_bound`` of the posterior, in the units of the images. None: 0.002 with
        ``algorithm="kd_tree"``, else compare all patches. Needs float32 on the CPU.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time of long calls.
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`, in the units of the images.
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat, (n, d). None: a flat row is a 1 x d image.
    data_range : tuple of (low, high), default None
        Range of the images, and unit of noise levels. uint8 pixels 0 to 255 stand for low to high,
        and floats must lie between low and high. None: uint8 images are read on [-1, 1], and float
        images are used unscaled.
    device : str, torch.device or list of them, default None
        Device of the training set and of the computation. Each device of a list holds a part of the
        training set. None: the device of X.
    random_state : int, RandomState, Generator or None, default 0
        Seed of the noise of :meth:`score` and of the draws of calibration. None: new draws at each
        call.

    Attributes
    ----------
    windows_ : ResolvedWindows or None
        Flexible windows for the training images. None: square patches.
    patch_schedule_ : PatchSchedule
        Calibrated patch sizes. Only if ``patch_size="calibrated"``.
    bandwidth_schedule_ : BandwidthSchedule
        Calibrated bandwidths. Only if ``bandwidth="calibrated"``.
    image_shape_ : tuple of (C, H, W)
        Shape of one training image.
    n_features_in_ : int
        Number of values in one image, C * H * W.
    feature_names_in_ : ndarray of shape (C * H * W,)
        Column names of X. Only if X is a data frame.
    data_range_ : tuple of (low, high) or None
        Range of the images: ``data_range`` or, for uint8 images without it, (-1, 1). None for float
        images without it.
    training_set_ : TrainingSet
        Training images of positive weight, in the dtype of X. X is not copied.
    training_rows_ : ndarray of shape (N,), int
        Rows of X with positive weight.
    classes_ : ndarray of shape (n_classes,)
        Distinct labels, sorted. Only if fitted with labels.

    Raises
    ------
    ValueError
        While fitting: if ``windows`` is combined with ``patch_size``, a taper or ``max_shift``, or
        with a bandwidth and ``smoothing="window"``; if a taper is combined with a bandwidth and
        ``smoothing="window"``; if ``max_shift`` is combined with a bandwidth, or with training
        images on several devices or workers; if a parameter of `FlexibleWindows` is invalid; if
        ``tol`` is combined with ``algorithm="exact"``; if ``tol`` or ``algorithm="kd_tree"`` is
        combined with ``windows``, a taper, ``max_shift``, a bandwidth or ``engine="torch"``, or
        ``algorithm="kd_tree"`` with images on a GPU. In :meth:`attribute` and
        :meth:`denoise_without`: with ``max_shift``, for patches smaller than the image.
    ImportError
        While fitting with ``algorithm="kd_tree"``: if numba is missing.
    MemoryError
        With ``algorithm="kd_tree"``, on Linux: if the trees of a patch size are larger than the
        available memory. Nothing is built then. (With "auto", a warning, and all patches are
        compared.)

    See Also
    --------
    EmpiricalDenoiser : One patch as large as the image.
    PatchDenoiser : Patches before averaging.

    Notes
    -----
    *Tapered patches.* Along an axis of the image, pixel j = 0, ..., s - 1 of a patch of side s has
    the factor

    .. math::

        \min\bigl(1, \tfrac{j + 1}{r}, \tfrac{s - j}{r}\bigr), \qquad
        r = 1 + \bigl\lfloor t \lfloor (s - 1) / 2 \rfloor + \tfrac12 \bigr\rfloor

    with t the taper; the factor of a pixel in a patch is the product over both axes. With
    ``query_taper`` it multiplies the squared difference in the distance, and with
    ``response_taper`` it weighs the posterior mean of the patch in the average over patches. An
    axis that the patch spans entirely has the factor 1.

    With ``smoothing="window"``, the patches are the patches of `PatchDenoiser` with this bandwidth,
    Gaussian denoisers at h = 1. With ``smoothing="global"``,

    .. math::

        D &= \mu + A (z - \mu) + F \, C(F (z - \mu)), \qquad F = (I - A)^{1/2}, \\
        A &= h^2 \Sigma (h^2 \Sigma + \sigma^2)^{-1}, \qquad
        y_i = \sqrt{1 - h^2} (x_i - \mu)

    with :math:`\mu, \Sigma` the mean and covariance of the training set, and C the composite above
    of the images :math:`F y_i` at sigma. D is globally linear and locally nonlinear. At h = 1 it is
    the `GaussianDenoiser`. With windows as large as the image, "window" and "global" equal the
    `EmpiricalDenoiser` of this bandwidth. One filtered copy of the training set, or of its crops to
    a few windows, is computed for each sigma of a call. If the copy of the training set does not
    fit scikit-learn's working memory, a warning says so, and parts of it are filtered anew in every
    pass: three times for each sigma, and twice more for each further batch of noisy images.

    ``smoothing="stationary"`` replaces :math:`\Sigma` by the matrix without covariances between
    different coefficients of the cosine transform (DCT-II) of rows and columns. Channels remain
    correlated. Every coefficient keeps its mean and its variance, but a pixel that never varies
    gets the variance of its neighbourhood. A product with this matrix needs 2 (H + W + C)
    multiplications per value instead of C H W.

    ``patch_size="calibrated"`` draws 1,016 different training images with ``random_state``, holds
    out 16 images and fits the others (see `EmpiricalDenoiser`). At nine noise levels, 0.05 to 32
    standard deviations of a pixel, it compares sizes from 1 to the longer side of the image, evenly
    spaced in their logarithm, on equal noise. It chooses the sizes of least total error among the
    schedules whose size never falls as sigma grows. The fitted denoiser then uses all images. Fewer
    images favour smaller patches, so the sizes are too small for training sets of many more than
    1,000 images: for 10,000 CIFAR-10 images the size was 9 at sigma = 3.3, with an error on 64 test
    images of 0.108, compared with 0.103 for size 15. `skpspc.inspection.calibrate_patch_size` takes
    any number of images, any sizes and noise levels and a network as the target, and returns the
    errors. Every ``partial_fit`` calibrates again on all images, and every class on its own images.
    A calibrated bandwidth is chosen after the sizes, which are best for bandwidth 0.

    *k-d trees.* At each location, a tree sorts a copy of the patches of all training images into
    cells of 32 similar patches, each with a bounding box in the leading principal coordinates. The
    distance of a noisy patch to a box bounds the weight of all patches in its cell. The cells of
    largest bounds are compared, until all others together have at most a fraction of
    ``min(tol / span, 0.01)`` of the posterior mass, with ``span`` the largest difference between
    two training images at any pixel. So ``error_bound`` is proved, up to rounding. The mass that is
    left out is missing from ``log_evidence`` too. Trees are built at the first use of each patch
    size, and are not saved. Trees of 3 x 3 patches of 50,000 CIFAR-10 images take 1.3 GB, nine
    times the memory of the images; trees of 5 x 5 patches take twenty times. The trees of all sizes
    that were used are kept, and each class that is used has its own.

    Trees pay off for small patches at small sigma. With ``algorithm="auto"``, a search at four
    locations measures for each noisy image the fraction of patches that it compares. If the
    fraction is larger than 0.45, or 0.45 * (27 / d) ** 1.5 for patches of d > 27 values, all
    patches are compared. With any algorithm, all patches are compared in these cases: patches of
    more than 100 values; noise levels below 0.01 times the largest absolute value of the training
    images; noisy images that are much farther from all training images than noise explains; ``tol``
    below 1e-6 times the span; float64 and GPUs; derivatives, :meth:`attribute`,
    :meth:`denoise_without` and calibration.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Sec. 5 (PSPC-Square, PSPC-Flex). Niedoba et al., "Filtered
    Posterior Mean Collections", 2026, arXiv:2605.24192 (soft windows, augmented sources).

    Examples
    --------
    Root mean square errors on 100 held-out digits: of noisy images, of images denoised through
    patches of 4 x 4 pixels, and of images denoised through whole training images.

    >>> import numpy as np
    >>> from skpspc import EmpiricalDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images / 127.5 - 1
    >>> train, test = X[100:], X[:100]
    >>> Z = test + 0.3 * np.random.default_rng(0).standard_normal(test.shape)
    >>> def error(images):
    ...     return round(float(np.sqrt(np.mean((images - test) ** 2))), 2)
    >>> patches = PSPCDenoiser(patch_size=4).fit(train).denoise(Z, sigma=0.3)
    >>> whole = EmpiricalDenoiser().fit(train).denoise(Z, sigma=0.3)
    >>> error(Z), error(patches), error(whole)
    (0.3, 0.18, 0.29)

    A new digit, drawn from noise in gray levels 0 to 9:

    >>> sample = PSPCDenoiser(patch_size=6).fit(train).sample(random_state=0)
    >>> for row in (4.5 * sample[0, 0] + 4.5).round().astype(int):
    ...     print(*row)
    0 0 0 1 5 7 8 1
    0 0 1 8 3 1 8 4
    0 0 7 6 2 4 8 1
    0 3 9 9 9 9 5 0
    0 2 7 6 7 8 1 0
    0 0 0 0 6 5 0 0
    0 0 0 3 9 1 0 0
    0 0 0 7 6 0 0 0
    """

    windows_: ResolvedWindows | None
    patch_schedule_: PatchSchedule
    bandwidth_schedule_: BandwidthSchedule

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "device": DEVICES,
        "verbose": ["verbose"],
        "patch_size": [
            Interval(numbers.Integral, 1, None, closed="left"),
            StrOptions({"paper", "calibrated"}),
            callable,
        ],
        "windows": [FlexibleWindows, None],
        "query_taper": [Interval(numbers.Real, 0, 1, closed="both")],
        "response_taper": [Interval(numbers.Real, 0, 1, closed="both")],
        "flip": ["boolean"],
        "max_shift": [Interval(numbers.Integral, 0, None, closed="left")],
        "engine": [StrOptions(set(ENGINES))],
        "bandwidth": BANDWIDTH_CONSTRAINT,
        "smoothing": [StrOptions({"window", "global", "stationary"})],
        "algorithm": [StrOptions({"auto", "exact", "kd_tree"})],
        "tol": [Interval(numbers.Real, 0, None, closed="neither"), None],
    }

    def __init__(
        self,
        patch_size: int | BySigma | Literal["paper", "calibrated"] = "paper",
        *,
        windows: FlexibleWindows | None = None,
        query_taper: float = 0.0,
        response_taper: float = 0.0,
        flip: bool = False,
        max_shift: int = 0,
        engine: Literal["auto", "numba", "torch"] = "auto",
        bandwidth: float | BySigma | Literal["calibrated"] = 0.0,
        smoothing: Literal["window", "global", "stationary"] = "window",
        algorithm: Literal["auto", "exact", "kd_tree"] = "auto",
        tol: float | None = None,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Devices | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.patch_size = patch_size
        self.windows = windows
        self.query_taper = query_taper
        self.response_taper = response_taper
        self.flip = flip
        self.max_shift = max_shift
        self.engine = engine
        self.bandwidth = bandwidth
        self.smoothing = smoothing
        self.algorithm = algorithm
        self.tol = tol
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def _check(self, training_set):
        if self.windows is not None:
            if self.patch_size != "paper":
                raise ValueError(
                    f"windows replace square patches, but patch_size={self.patch_size!r} is "
                    "given too; leave patch_size at 'paper', or windows at None."
                )
            if self.bandwidth != 0 and self.smoothing == "window":
                raise ValueError(
                    "smoothing='window' needs square windows, but windows of other shapes are "
                    "given; pass smoothing='global' or 'stationary', or bandwidth=0."
                )
        elif self.patch_size == "paper":
            warn_if_unusual(self, "the patch sizes of the paper")
        if isinstance(self.patch_size, numbers.Integral):
            warn_if_clipped(self.patch_size, training_set.image_shape)
        self._check_taper()
        self._check_moves(training_set)
        self._check_search(training_set)

    def _check_taper(self):
        """Raise if tapered patches contradict other parameters."""
        for name in ("query_taper", "response_taper"):
            taper = getattr(self, name)
            if taper == 0:
                continue
            if self.windows is not None:
                raise ValueError(
                    f"{name}={taper!r} softens square patches, but windows of other shapes are "
                    f"given; leave {name} at 0, and pass FlexibleWindows(soft=True)."
                )
            if self.bandwidth != 0 and self.smoothing == "window":
                raise ValueError(
                    f"{name}={taper!r} is given with a bandwidth, and smoothing='window' blurs "
                    "patches whose pixels count equally; pass smoothing='global' or 'stationary', "
                    f"or {name}=0."
                )

    def _check_moves(self, training_set):
        """Raise if moved training images contradict other parameters or the training set."""
        if self.max_shift == 0:
            return
        if self.windows is not None:
            raise ValueError(
                f"max_shift={self.max_shift!r} moves training images behind square patches, but "
                "windows of other shapes are given; leave max_shift at 0, or use a "
                "PosteriorMeanCollection with source='translates'."
            )
        if self.bandwidth != 0:
            raise ValueError(
                f"bandwidth={self.bandwidth!r} blurs whole images along their covariance, but "
                f"images moved by max_shift={self.max_shift!r} lack pixels at their edges; leave "
                "max_shift at 0, or bandwidth at 0."
            )
        if isinstance(training_set, ShardedTrainingSet):
            raise ValueError(
                f"max_shift={self.max_shift!r} needs all training images in one place, and they "
                "are in shards on several devices or workers; leave max_shift at 0, or fit on one "
                "device (a dask array: pass X.compute())."
            )

    def _check_search(self, training_set):
        """Raise if a search contradicts other parameters or the training set."""
        if self.algorithm == "exact" and self.tol is not None:
            raise ValueError(
                "algorithm='exact' compares all patches; leave tol at None, or use "
                "algorithm='auto'."
            )
        if self._is_exact:
            return
        given = f"tol={self.tol!r}" if self.algorithm == "auto" else "algorithm='kd_tree'"
        if self.windows is not None:
            raise ValueError(
                f"{given} searches square patches, but windows of other shapes are given; leave "
                "tol at None and algorithm at 'auto', or windows at None."
            )
        for name in ("query_taper", "response_taper", "max_shift"):
            if getattr(self, name) != 0:
                raise ValueError(
                    f"{given} searches training patches whose pixels count equally at their own "
                    f"positions, but {name}={getattr(self, name)!r} is given; leave tol at None "
                    f"and algorithm at 'auto', or {name} at 0."
                )
        if self.bandwidth != 0:
            raise ValueError(
                f"bandwidth={self.bandwidth!r} blurs all training images, but {given} compares a "
                "few; leave tol at None and algorithm at 'auto', or bandwidth at 0."
            )
        if self.engine == "torch":
            raise ValueError(
                f"{given} needs compiled code, but engine='torch' is given; leave tol at None and "
                "algorithm at 'auto', or engine at 'auto'."
            )
        if self.algorithm == "kd_tree":
            if training_set.device.type != "cpu":
                raise ValueError(
                    "algorithm='kd_tree' is compiled for the CPU, but the training images are on "
                    f"{training_set.device}; use algorithm='auto', or device='cpu'."
                )
            load("numba")
            if isinstance(self.patch_size, numbers.Integral):
                windows = squares_of_side(int(self.patch_size), training_set.image_shape)
                check_size(self._source(training_set), windows)

    @property
    def _is_exact(self):
        """True if all patches are always compared."""
        return self.algorithm == "exact" or (self.algorithm == "auto" and self.tol is None)

    def _source(self, training_set):
        """Return the training images to compare."""
        source = training_set.mirrored() if self.flip else training_set
        return TranslatedTrainingSet(source, self.max_shift) if self.max_shift else source

    def _learn(self, training_set):
        if self.windows is None and self.patch_size == "calibrated":
            sized = copy.copy(self)
            sized.patch_size = calibrated_sizes(self, training_set)
            return with_bandwidth(sized, training_set)
        return with_bandwidth(self, training_set)

    def _make_prior(self, training_set, bandwidth):
        """Return the prior of a training set at a bandwidth, a number or a callable."""
        source = self._source(training_set)
        tol = _TOL if self.tol is None else float(self.tol)
        distribution = StationaryGaussian if self.smoothing == "stationary" else Gaussian
        always = self.algorithm == "kd_tree"
        return Prior(
            source,
            self._windows(source),
            bandwidth,
            None if bandwidth == 0 else distribution.of(source),
            by_window=self.smoothing == "window",
            search=None if self._is_exact else TreeSearch(TreeCache(), tol, always),
            engine=self.engine,
        )

    def _windows(self, source):
        """Return the windows, or the callable that gives them at a noise level."""
        shape, size = source.image_shape, self.patch_size
        if self.windows is not None:
            return self.windows.resolve(source)
        if isinstance(size, str):  # `_learn` replaces "calibrated" by a schedule
            size = self._paper_schedule(shape)
        tapers = self.query_taper, self.response_taper
        if callable(size):
            return SquaresBySigma(size, shape, *tapers)
        return squares_of_side(size, shape, *tapers)

    def _paper_schedule(self, image_shape):
        """Return the patch sizes of the paper, for the image shape and the data range."""
        return paper_schedule(image_shape, self.data_range_ or DEFAULT_RANGE)

    def _attributes(self, prior):
        attributes = bandwidth_attribute(self, prior.bandwidth)
        attributes["windows_"] = prior.windows if self.windows is not None else None
        if self.patch_size == "calibrated":
            attributes["patch_schedule_"] = prior.windows.schedule
        return attributes
