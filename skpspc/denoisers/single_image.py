"""Posterior means of patches over all patches of one photograph, or of a few."""

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils._param_validation import Interval

from .._typing import BySigma, DataRange, Device, ImageShape, RandomState
from .._validation import warn_if_clipped
from ..posterior import CellSearch, Prior
from ..support import Pyramid, SquaresAnywhere, clip_size
from ..support.cells import CellsByWindow
from .base import Denoiser
from .training_set_denoiser import TrainingSetDenoiser


@dataclass(frozen=True)
class SquaresAnywhereBySigma:
    """Square windows whose side depends on the noise level.

    ``schedule`` maps a float sigma to the side, an int of at least 1, clipped to ``smallest``, the
    shape of the smallest training images.
    """

    schedule: Callable
    stride: int
    smallest: tuple[int, int, int]

    def __call__(self, sigma):
        """Return the windows at a noise level, `SquaresAnywhere`."""
        size = self.schedule(sigma)
        if not isinstance(size, numbers.Integral) or size < self.stride:
            raise ValueError(
                f"patch_size must return an int of at least stride={self.stride} at every sigma, "
                f"got {size!r} at sigma = {sigma}."
            )
        return squares_anywhere(int(size), self.stride, self.smallest)


def squares_anywhere(size, stride, image_shape):
    """Return windows of side ``size``, clipped to images (C, H, W), at every ``stride``-th row."""
    h, w = clip_size(size, image_shape)
    return SquaresAnywhere(h, w, stride)


class SingleImageDenoiser(TrainingSetDenoiser):
    r"""Average of the posterior means of overlapping patches, over all patches of a photograph.

    .. math::

        D(z; \sigma)_p &= \frac{1}{|\{k : p \in P_k\}|}
        \sum_{k : p \in P_k} \sum_j w_j^k\, y_{j, p - k}, \\
        w^k &= \operatorname{softmax}_j\bigl(-\|z_{P_k} - y_j\|^2 / 2 \sigma^2
        + \log v_{i(j)}\bigr)

    with :math:`P_k` the square windows of the noisy image z, k the top left corner of window
    :math:`P_k`, and :math:`y_j` all patches of the training images, at all positions and all
    ``scales``. :math:`v_{i(j)}` is the sample weight of the image of patch j. A patch has all
    channels. One photograph suffices as the training set, ``fit(photograph[None])``.

    Noisy images and samples may have any height and width. The denoiser is the `PSPCDenoiser` whose
    windows are compared with patches at all positions. ``LocalScoreDenoiser(equivariant=True)``
    compares the same patches, but keeps the central pixel of each posterior mean only.

    Parameters
    ----------
    patch_size : int, PatchSchedule or callable, default 7
        Side of the windows, clipped to the training images at the coarsest scale, with a warning.
        A `PatchSchedule` or another callable maps a float sigma to the side. Windows do not extend
        along an axis of length 1.
    stride : int, default 1
        Distance of adjacent windows in the noisy image, from 1 to ``patch_size``. Time falls with
        the square of the stride. The patches of the training images have stride 1.
    scales : sequence of int, default (1,)
        Factors by which the training images are reduced (means of squares of pixels). (1, 2)
        compares windows with the patches of the photograph and of the photograph at half its size.
        (2,) denoises a noisy photograph by itself: averages of 2 x 2 pixels have half the noise,
        and no patch is compared with itself.
    tol : float, default None
        Largest estimated ``error_bound`` of the posterior. A window is then compared with similar
        patches only, from an index built at the first call for each window size. The result is
        exact where few patches do not suffice (at large sigma), and without compiled code. None:
        all patches are compared.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time: of :meth:`fit`, of an
        index (built at the first call that needs it), and of calls with many noisy images.
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`, in the units of the images.
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat, (n, d). None: a flat row is a 1 x d image.
    data_range : tuple of (low, high), default None
        Range of the images, and unit of noise levels. uint8 pixels 0 to 255 stand for low to high,
        and floats must lie between low and high. None: uint8 images are read on [-1, 1], and float
        images are used unscaled.
    device : str or torch.device, default None
        Device of the training set and of the computation. None: the device of X.
    random_state : int, RandomState, Generator or None, default 0
        Seed of the noise of :meth:`score`. None: new noise at each call.

    Attributes
    ----------
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
        While fitting: if ``scales`` are not positive ints, or reduce the images to nothing; if
        ``stride`` exceeds ``patch_size``.

    See Also
    --------
    LocalScoreDenoiser : Central pixels of the same posterior means; with attribution.
    PSPCDenoiser : Windows that are compared with patches at their own position.
    denoise_tiled : Large images by denoisers of small images.

    Notes
    -----
    The number of compared pairs is the number of windows of the noisy image times the number of
    patches of the training images: 65 billion for a photograph of 512 x 512 pixels and its own
    patches at stride 1, and 7 billion at stride 3. ``tol`` compares a window with as few as 0.2% of
    the patches. Its ``error_bound`` assumes that the patches of a cell have a Gaussian distribution
    and is an estimate (``bound_is_proved`` is False). The index keeps 4 bytes for each patch.

    ``effective_sample_size`` counts patches and may exceed the number of images. ``log_evidence``
    is the composite of `Posterior` over the windows. There is no attribution:
    ``LocalScoreDenoiser(equivariant=True)`` has one.

    References
    ----------
    Qiu, Kutulakos & Lindell, "Efficient and Training-Free Single-Image Diffusion Models",
    CVPR 2026, arXiv:2606.04299; Niedoba et al., "Towards a Mechanistic Explanation of Diffusion
    Model Generalization", ICML 2025, arXiv:2411.19339 (composites of patches).

    Examples
    --------
    The left half of a photograph denoises a crop of the right half. Root mean square errors of the
    noisy crop, of central pixels, and of averages of overlapping patches:

    >>> import numpy as np
    >>> from skpspc import LocalScoreDenoiser, SingleImageDenoiser
    >>> from skpspc.datasets import load_photo_patches
    >>> photo = load_photo_patches(size=96, n_images=1, photos="china").images / 127.5 - 1
    >>> train, clean = photo[..., :48], photo[..., 48:80]
    >>> Z = clean + 0.2 * np.random.default_rng(0).standard_normal(clean.shape)
    >>> def error(images):
    ...     return round(float(np.sqrt(np.mean((images - clean) ** 2))), 3)
    >>> centres = LocalScoreDenoiser(5, equivariant=True).fit(train).denoise(Z, sigma=0.2)
    >>> patches = SingleImageDenoiser(patch_size=5).fit(train).denoise(Z, sigma=0.2)
    >>> error(Z), error(centres), error(patches)
    (0.2, 0.11, 0.068)
    """

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "patch_size": [Interval(numbers.Integral, 1, None, closed="left"), callable],
        "stride": [Interval(numbers.Integral, 1, None, closed="left")],
        "scales": [tuple, list, np.ndarray],
        "tol": [Interval(numbers.Real, 0, None, closed="neither"), None],
        "verbose": ["verbose"],
    }

    _any_size = True

    def __init__(
        self,
        patch_size: int | BySigma = 7,
        *,
        stride: int = 1,
        scales: Sequence[int] = (1,),
        tol: float | None = None,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Device | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.patch_size = patch_size
        self.stride = stride
        self.scales = scales
        self.tol = tol
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def _check(self, training_set):
        smallest = self._smallest(training_set)
        is_schedule = callable(self.patch_size)
        sizes: Any = getattr(self.patch_size, "sizes", []) if is_schedule else [self.patch_size]
        for size in sizes:
            if size < self.stride:
                raise ValueError(
                    f"stride={self.stride} skips pixels between windows of patch_size={size}; "
                    "pass a stride of at most patch_size."
                )
        if isinstance(self.patch_size, numbers.Integral):
            warn_if_clipped(self.patch_size, smallest)

    def _scales(self):
        """Return the scales as a list of int."""
        scales = list(self.scales)
        if not scales or not all(isinstance(s, numbers.Integral) and int(s) >= 1 for s in scales):
            raise ValueError(
                f"scales must be ints of at least 1, by which images are reduced, got "
                f"{self.scales!r}; (1,) uses the images themselves."
            )
        return [int(scale) for scale in scales]

    def _smallest(self, training_set):
        """Return the shape of the training images at the coarsest scale."""
        coarsest = max(self._scales())
        channels, *sides = training_set.image_shape
        shape = channels, *(side if side == 1 else side // coarsest for side in sides)
        if min(shape) < 1:
            raise ValueError(
                f"scales={self.scales!r} reduce images of shape {training_set.image_shape} to "
                f"{shape}; pass smaller scales."
            )
        return shape

    def _learn(self, training_set):
        smallest = self._smallest(training_set)
        windows: SquaresAnywhere | SquaresAnywhereBySigma
        if callable(self.patch_size):
            windows = SquaresAnywhereBySigma(self.patch_size, int(self.stride), smallest)
        else:
            windows = squares_anywhere(int(self.patch_size), int(self.stride), smallest)
        search = None if self.tol is None else CellSearch(CellsByWindow(), self.tol)
        return Prior(Pyramid(training_set, self._scales()), windows, search=search)

    def _prior_of(self, code=None):
        prior = super()._prior_of(code)
        if prior.search is None:
            return prior
        return replace(prior, search=replace(prior.search, verbose=self.verbose))

    @property
    def _proved_by(self):
        return (
            f"tol={self._learner.tol!r} assumes that the patches of a cell have a Gaussian "
            "distribution; pass a smaller tol for smaller errors, or tol=None to use all patches"
        )
