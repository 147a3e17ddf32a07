"""Patch Set Posterior Composites."""

import copy
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sklearn.utils._param_validation import Interval, StrOptions

from .._typing import BySigma, DataRange, Device, ImageShape, RandomState
from .._units import warn_if_unusual
from .._validation import warn_if_clipped
from ..posterior import ENGINES, Gaussian, Prior
from ..sampling import BandwidthSchedule, PatchSchedule, paper_schedule
from ..support import MirroredTrainingSet, squares_of_side
from ..support.training_set import DEFAULT_RANGE
from .base import Denoiser
from .calibration import (
    BANDWIDTH_CONSTRAINT,
    bandwidth_attribute,
    calibrated_sizes,
    with_bandwidth,
)
from .flexible import FlexibleWindows, ResolvedWindows
from .training_set_denoiser import TrainingSetDenoiser


@dataclass(frozen=True)
class SquaresBySigma:
    """Square windows whose side depends on the noise level.

    ``schedule`` maps a float sigma to the side, an int of at least 1, clipped to the image.
    """

    schedule: Callable
    image_shape: tuple[int, int, int]

    def __call__(self, sigma):
        """Return the windows at a noise level, `Squares` or `Whole`."""
        size = self.schedule(sigma)
        if not isinstance(size, numbers.Integral) or size < 1:
            raise ValueError(
                f"patch_size must give an int of at least 1 at every sigma, got {size!r} at "
                f"sigma = {sigma}."
            )
        return squares_of_side(int(size), self.image_shape)


class PSPCDenoiser(TrainingSetDenoiser):
    r"""Patch Set Posterior Composite: the posterior means of overlapping patches, averaged.

    .. math::

        D(z; \sigma)_p = \frac{1}{|\{k : p \in P_k\}|} \sum_{k : p \in P_k} \sum_i w_i^k x_{ip},
        \qquad
        w^k = \operatorname{softmax}_i\bigl(-\|z_{P_k} - x_{i P_k}\|^2 / 2 \sigma^2
        + \log v_i\bigr)

    over all square patches :math:`P_k` in the image, or over windows of any shape, one for each
    pixel. A patch has all channels and is compared with its location in every training image.
    Patches with different nearest images average to an image outside the training set: it
    generalises.

    Parameters
    ----------
    patch_size : int, PatchSchedule, callable, "paper" or "calibrated", default "paper"
        Side of the patches. An int serves every sigma and is clipped to the image, with a
        warning. A `PatchSchedule` or another callable maps a float sigma to an int of at least 1,
        clipped. "paper" is the CIFAR-10 schedule of the paper, scaled by the longer side of the
        image over 32. "calibrated": sizes of least error on held-out training images at 9 noise
        levels, chosen by :meth:`fit` (see Notes).
    windows : FlexibleWindows, default None
        Windows of any shape, one for each pixel (PSPC-Flex), instead of ``patch_size``.
    flip : bool, default False
        Add the left-right mirror image of every training image, with its weight, without copies.
        Doubles the work.
    engine : {"auto", "numba", "torch"}, default "auto"
        "numba" is compiled code for float32 on the CPU (the extra ``cpu``), "torch" serves every
        dtype and device, "auto" takes the faster one available. Errors of both: :ref:`accuracy`.
        Torch always computes where float32 logits overflow (sigma under 1e-4 of the data's size,
        or infinite), and for patches as large as the image.
    bandwidth : float, callable or "calibrated", default 0.0
        As in `EmpiricalDenoiser`: 0 is this denoiser, 1 is Gaussian. With ``flip``, mean and
        covariance include the mirror images.
    smoothing : {"window", "global"}, default "window"
        Blur of ``bandwidth``. "window": by the covariance of each window, which costs a product of
        its matrix with all training images. "global": by the covariance of whole images; windows
        then compare filtered images. Faster (see Notes), and required with ``windows``.
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`.
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat; None: a flat row is a 1 x d image.
    data_range : tuple of (low, high), default None
        Range of the images, in whose units noise levels are: uint8 pixels 0 to 255 stand for
        low to high, and floats must lie between them. None: uint8 images are read on [-1, 1],
        float images are used unscaled.
    device : str or torch.device, default None
        Where to work; None: where X is.
    random_state : int, RandomState, Generator or None, default 0
        Fixes the noise of :meth:`score` and the draw of calibration.

    Attributes
    ----------
    image_shape_, n_features_in_, training_set_, bandwidth_schedule_
        As in `EmpiricalDenoiser`.
    patch_schedule_ : PatchSchedule
        Only if ``patch_size="calibrated"``.
    windows_ : ResolvedWindows or None
        The flexible windows for X; None for squares.

    Raises
    ------
    ValueError
        While fitting, if ``windows`` is combined with ``patch_size``, or with a bandwidth and
        ``smoothing="window"``; if a parameter of `FlexibleWindows` is invalid.

    See Also
    --------
    EmpiricalDenoiser : One patch as large as the image.
    PatchDenoiser : Patches before averaging.

    Notes
    -----
    With ``smoothing="window"``, the patches are the answers of `PatchDenoiser` with this
    bandwidth, Gaussian denoisers at h = 1. With ``smoothing="global"``, and :math:`\mu`, A and
    y as in `EmpiricalDenoiser`,

    .. math::

        D = \mu + A (z - \mu) + F \, C(F (z - \mu)), \qquad F = (I - A)^{1/2},

    where C is the composite above of the images :math:`F y_i` at sigma: globally linear, locally
    nonlinear. At h = 1 it is the `GaussianDenoiser`. With windows as large as the image, both are
    the `EmpiricalDenoiser` of this bandwidth. One filtered copy of the training set, or of its
    crops to a few windows, is held for one sigma at a time.

    ``patch_size="calibrated"`` splits the training images as ``bandwidth="calibrated"`` does (see
    `EmpiricalDenoiser`: up to 1,000 fitted, 16 held out). At nine noise levels, 0.05 to 32 standard
    deviations of a pixel, it compares sizes from 1 to the longer side of the image, evenly spaced
    in their logarithm, on the same noise. It takes the sizes of least total error that never fall
    as sigma grows. All images are used for answers. Few images favour small patches, so the sizes
    are too small for training sets of many more than 1,000 images: for 10,000 CIFAR-10 images the
    size was 9 at sigma = 3.3, with an error on 64 test images of 0.108; size 15 gives 0.103.
    `skpspc.inspection.calibrate_patch_size` takes any number of images, a network as the target,
    and any sizes and noise levels, and returns the errors. Every ``partial_fit`` calibrates again
    on all images, and every class on its own images. A calibrated bandwidth is chosen afterwards,
    with these sizes, which are best for bandwidth 0.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Sec. 5 (PSPC-Square, PSPC-Flex).

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> PSPCDenoiser(patch_size=4).fit(X).sample(n=2, random_state=0).shape
    (2, 1, 8, 8)
    """

    windows_: ResolvedWindows | None
    patch_schedule_: PatchSchedule
    bandwidth_schedule_: BandwidthSchedule

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "patch_size": [
            Interval(numbers.Integral, 1, None, closed="left"),
            StrOptions({"paper", "calibrated"}),
            callable,
        ],
        "windows": [FlexibleWindows, None],
        "flip": ["boolean"],
        "engine": [StrOptions(set(ENGINES))],
        "bandwidth": BANDWIDTH_CONSTRAINT,
        "smoothing": [StrOptions({"window", "global"})],
    }

    def __init__(
        self,
        patch_size: int | BySigma | Literal["paper", "calibrated"] = "paper",
        *,
        windows: FlexibleWindows | None = None,
        flip: bool = False,
        engine: Literal["auto", "numba", "torch"] = "auto",
        bandwidth: float | BySigma | Literal["calibrated"] = 0.0,
        smoothing: Literal["window", "global"] = "window",
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Device | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.patch_size = patch_size
        self.windows = windows
        self.flip = flip
        self.engine = engine
        self.bandwidth = bandwidth
        self.smoothing = smoothing
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def _check(self, training_set):
        if self.windows is not None:
            if self.patch_size != "paper":
                raise ValueError(
                    f"windows replace squares, but patch_size={self.patch_size!r} is "
                    "given too; leave patch_size at 'paper', or windows at None."
                )
            if self.bandwidth != 0 and self.smoothing == "window":
                raise ValueError(
                    "smoothing='window' keeps a covariance for every square window, and windows "
                    "of other shapes are given; pass smoothing='global', or bandwidth=0."
                )
        elif self.patch_size == "paper":
            warn_if_unusual(self, "the patch sizes of the paper")
        if isinstance(self.patch_size, numbers.Integral):
            warn_if_clipped(self.patch_size, training_set.image_shape)

    def _learn(self, training_set):
        if self.windows is None and self.patch_size == "calibrated":
            sized = copy.copy(self)
            sized.patch_size = calibrated_sizes(self, training_set)
            return with_bandwidth(sized, training_set)
        return with_bandwidth(self, training_set)

    def _make_prior(self, training_set, bandwidth):
        """Return the prior of a training set at a bandwidth, a number or a callable."""
        source = MirroredTrainingSet(training_set) if self.flip else training_set
        return Prior(
            source,
            self._windows(source),
            bandwidth,
            None if bandwidth == 0 else Gaussian.of(source),
            by_window=self.smoothing == "window",
            engine=self.engine,
        )

    def _windows(self, source):
        """Return the windows, or the callable that gives them at a noise level."""
        shape, size = source.image_shape, self.patch_size
        if self.windows is not None:
            return self.windows.resolve(source)
        if isinstance(size, str):  # `_learn` replaces "calibrated" by a schedule
            size = self._paper_schedule(shape)
        return SquaresBySigma(size, shape) if callable(size) else squares_of_side(size, shape)

    def _paper_schedule(self, image_shape):
        """Return the patch sizes of the paper, for the image shape and the data range."""
        return paper_schedule(image_shape, self.data_range_ or DEFAULT_RANGE)

    def _attributes(self, prior):
        attributes = bandwidth_attribute(self, prior.bandwidth)
        attributes["windows_"] = prior.windows if self.windows is not None else None
        if self.patch_size == "calibrated":
            attributes["patch_schedule_"] = prior.windows.schedule
        return attributes
