"""The ideal score machines of convolutional networks."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from sklearn.utils._param_validation import Interval, StrOptions

from .._typing import ArrayLike, BySigma, DataRange, Devices, ImageShape, RandomState
from ..posterior import CellSearch, Prior
from ..support import Centred, Inpainting, MeasuredTrainingSet, Operator, checked_operator
from ..support.cells import CellsByWindow
from .base import Denoiser
from .training_set_denoiser import DEVICES, TrainingSetDenoiser


@dataclass(frozen=True)
class CentredBySigma:
    """Centred windows whose side depends on the noise level.

    ``schedule`` maps a float sigma to the side, an odd int; `Centred` lists values of ``boundary``
    and defines ``observed``. ``image_shape`` is the shape of a measurement.
    """

    schedule: Callable
    boundary: str | None
    image_shape: tuple[int, int, int]
    observed: torch.Tensor | None = None

    def __call__(self, sigma):
        """Return the windows at a noise level, `Centred`."""
        size = self.schedule(sigma)
        check_size(size, self.boundary, self.image_shape, f" at sigma = {sigma}")
        return Centred(int(size), self.boundary, self.observed)


def check_size(size, boundary, image_shape, where=""):
    """Raise for window sizes without a centre, or larger than every inner patch."""
    if not isinstance(size, numbers.Integral) or size < 1:
        raise ValueError(
            f"patch_size must be an odd int of at least 1 at every sigma, got {size!r}{where}."
        )
    if size % 2 == 0:
        raise ValueError(
            "patch_size must be odd, so that a window has a central pixel, got "
            f"{size}{where}; pass {size - 1} or {size + 1}."
        )
    shortest = min([side for side in image_shape[1:] if side > 1], default=int(size))
    if boundary in ("zero", "circular") and int(size) > shortest:
        raise ValueError(
            f"patch_size={size}{where} is larger than the image {image_shape}, but "
            f"boundary={boundary!r} needs patches inside the training images; pass at most "
            f"{shortest - 1 + shortest % 2}, or boundary='broken'."
        )


class LocalScoreDenoiser(TrainingSetDenoiser):
    r"""Posterior mean of every pixel, from the square window around it.

    .. math::

        D(z; \sigma)_p &= \sum_{(i, q)} w_{iq}^p\, x_{iq}, \\
        w^p &= \operatorname{softmax}_{(i, q)}\bigl(-\|z_{P(p)} - x_{i P(q)}\|^2 / 2 \sigma^2
        + \log v_i\bigr)

    with :math:`P(p)` the square around pixel p, in all channels, and :math:`v_i` the sample
    weights. The sum runs over the training images i and over pixels q:

    - the local score machine (LS, ``equivariant=False``): q = p. Both images are padded with
      zeros, so that pixels outside the image do not count.
    - the equivariant local score machine (ELS, ``equivariant=True``): every q whose window lies
      inside the image.
    - the boundary-broken ELS (``boundary="broken"``): where the window of p overhangs an edge,
      every q at equal distance from that edge, with the padding of LS; elsewhere every q whose
      window lies inside the image. In a corner only q = p.

    Each pixel has its own mixture of training images. The result is a mosaic of patches, like the
    images of convolutional networks. At :math:`\sigma = 0` every pixel is the centre of the nearest
    patch (the mean of ties), at :math:`\sigma = \infty` the mean of all.

    With ``operator=A``, noisy images are measurements :math:`y = A(x) + \sigma \epsilon`, and the
    result estimates x:

    .. math::

        D(y; \sigma)_p &= \sum_{(i, q)} w_{iq}^p\, x_{iq}, \\
        w^p &= \operatorname{softmax}_{(i, q)}\bigl(-\|y_{P(p)} - (A x_i)_{P(q)}\|^2 / 2 \sigma^2
        + \log v_i\bigr)

    With ``equivariant=True`` this is the local-equivariant MMSE estimator of Nguyen et al.

    ELS denoises and samples images of any height and width (see Notes).

    Parameters
    ----------
    patch_size : int, PatchSchedule or callable, default 3
        Odd side of the windows. A `PatchSchedule` or another callable maps a float sigma to it;
        `skpspc.sampling.local_score_schedule` has the published sides. Windows do not extend along
        an axis of length 1.
    equivariant : bool, default False
        True: compare a window with all locations in the training images. False: compare a window
        with its own location.
    boundary : {"zero", "circular", "broken"}, default "zero"
        Padding of the noisy image. ``equivariant=False`` requires "zero". In ELS, "zero" pads with
        the middle of ``data_range``, and with zeros without it. "zero" and "circular" pad the noisy
        image only, and compare all coordinates of a window, padding included, with inner patches of
        the training images. The published ELS code is "circular". "broken" pads both images; with
        windows at least as large as the image it equals LS.
    operator : callable or array, default None
        Measurement A. A callable, linear or not, maps images, float tensors (m, C, H, W), to
        measurements, float tensors (m, c, h, w) without noise. h must divide H, and w divide W: a
        pixel of the measurement then answers for a block of H / h x W / w pixels. An array of shape
        (H, W) or (C, H, W) is a mask, True or 1 at observed pixels: windows are compared at
        observed pixels only. None: noisy images.
    tol : float, default None
        With ``equivariant=True``: largest estimated ``error_bound`` of the posterior. A window is
        then compared with similar patches only, from an index built at the first call for each
        window size. The result is exact where few patches do not suffice (at large sigma), and
        without compiled code. None: all patches are compared.
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
    device : str, torch.device or list of them, default None
        Device of the training set and of the computation. Each device of a list holds a part of the
        training set. None: the device of X.
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

    See Also
    --------
    PSPCDenoiser : Windows that answer for all of their pixels.

    Notes
    -----
    ``effective_sample_size`` counts patches in ELS and may exceed the number of images. In
    ``log_evidence`` a window counts its coordinates inside the image (LS, "broken"), or all
    coordinates, padding included (ELS, "zero" and "circular").

    In ELS, noisy images may be larger or smaller than the training images. An axis of length 1
    keeps its length. With "broken", a side that differs from the training images must be at least
    as long as ``patch_size`` in both: a window that overhangs an edge is compared with the patches
    that overhang this edge equally. ``sample(image_shape=(C, H, W))`` sets the size of samples.

    ELS compares each of H * W windows with up to N * H * W patches. One image of 32 x 32 takes
    thousands of times the work of LS, whose distances are box sums, like the distances of
    `PSPCDenoiser`. ``tol`` reduces the work of ELS many times where few of millions of patches have
    weight. The ``error_bound`` of ``tol`` assumes that the patches of a cell have a Gaussian
    distribution. It is an estimate (``bound_is_proved`` is False), far above most errors and below
    a few errors of single pixels. The index keeps 4 bytes for each patch.

    With an ``operator``, :meth:`denoise` takes measurements (n, c, h, w), and returns images (n, C,
    H, W). ``patch_size`` counts pixels of the measurement. With a mask, values at missing pixels
    are ignored, but must be finite. The mask of a window applies to every patch that the window is
    compared with, wherever the patch lies: in ELS, the estimate depends on the measurement and on
    the mask in the window. With the callable ``lambda x: x * mask``, for a tensor ``mask``, all
    values count, and a training patch has zeros at the missing pixels of its own location. LS gives
    equal estimates for both.

    ``fit`` calls a callable operator on all training images, and keeps their measurements in
    float32 (float64 for images of float64). The callable must not add noise: of a deepinv physics,
    pass the method ``A``. :meth:`score` measures clean images before it adds noise, and
    :meth:`score_samples` returns log p(y). Derivatives are by the measurement. :meth:`sample` and
    :meth:`log_likelihood` raise, since a sampler needs a denoiser of images. ``fit`` raises for
    ``tol`` with a callable.

    References
    ----------
    Kamb & Ganguli, "An analytic theory of creativity in convolutional diffusion models",
    ICML 2025, arXiv:2412.20292.

    Nguyen, Do, Pauwels & Weiss, "An analytic theory of convolutional neural network inverse
    problems solvers", 2026, arXiv:2601.10334, the estimator LE-MMSE without a pre-inverse.

    Examples
    --------
    Root mean square errors on 20 held-out digits: noisy images, LS, and boundary-broken ELS, which
    also finds patches at other locations of 100 training images.

    >>> import numpy as np
    >>> from skpspc import LocalScoreDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images / 127.5 - 1
    >>> train, test = X[100:200], X[:20]
    >>> Z = test + 0.5 * np.random.default_rng(0).standard_normal(test.shape)
    >>> def error(images):
    ...     return round(float(np.sqrt(np.mean((images - test) ** 2))), 2)
    >>> ls = LocalScoreDenoiser(5).fit(train)
    >>> els = LocalScoreDenoiser(5, equivariant=True, boundary="broken")
    >>> images = els.fit(train).denoise(Z, sigma=0.5)
    >>> error(Z), error(ls.denoise(Z, sigma=0.5)), error(images)
    (0.49, 0.34, 0.3)

    Root mean square errors with two of eight rows missing: filled with zeros, and inpainted by LS.

    >>> mask = np.ones((8, 8), dtype=bool)
    >>> mask[3:5] = False
    >>> Y = mask * (test + 0.1 * np.random.default_rng(0).standard_normal(test.shape))
    >>> model = LocalScoreDenoiser(3, operator=mask).fit(train)
    >>> error(Y), error(model.denoise(Y, sigma=0.1))
    (0.43, 0.31)
    """

    # Measurement of the noisy images, of a learner.
    _operator: Inpainting | Operator | None = None

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "device": DEVICES,
        "patch_size": [Interval(numbers.Integral, 1, None, closed="left"), callable],
        "equivariant": ["boolean"],
        "boundary": [StrOptions({"zero", "circular", "broken"})],
        "operator": ["array-like", callable, None],
        "tol": [Interval(numbers.Real, 0, None, closed="neither"), None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        patch_size: int | BySigma = 3,
        *,
        equivariant: bool = False,
        boundary: Literal["zero", "circular", "broken"] = "zero",
        operator: Callable[[torch.Tensor], torch.Tensor] | ArrayLike | None = None,
        tol: float | None = None,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Devices | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.patch_size = patch_size
        self.equivariant = equivariant
        self.boundary = boundary
        self.operator = operator
        self.tol = tol
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def _check(self, training_set):
        if not self.equivariant and self.boundary != "zero":
            raise ValueError(
                f"boundary={self.boundary!r} is for windows that are compared with all locations; "
                "pass equivariant=True too, or boundary='zero'."
            )
        if not self.equivariant and self.tol is not None:
            raise ValueError(
                f"tol={self.tol} is for windows that are compared with all locations; pass "
                "equivariant=True too, or tol=None."
            )
        if callable(self.operator) and self.tol is not None:
            raise ValueError(
                f"tol={self.tol} needs an index of the training images, and a callable operator "
                "measures them; pass tol=None, or a mask of observed pixels as operator."
            )
        self._operator = checked_operator(self.operator, training_set)
        is_schedule = callable(self.patch_size)
        sizes = getattr(self.patch_size, "sizes", []) if is_schedule else [self.patch_size]
        for size in sizes:
            check_size(size, self._padding, self._measured_shape(training_set))

    def _measured_shape(self, training_set):
        """Return the shape of a measurement, or of an image without an operator."""
        operator = self._operator
        return training_set.image_shape if operator is None else operator.measured_shape

    @property
    def _any_size(self):  # type: ignore[override]
        """True for windows that are compared with all locations, without an operator."""
        return self._learner.equivariant and self._learner.operator is None

    @property
    def _padding(self):
        """Boundary of `Centred` windows."""
        return self.boundary if self.equivariant else None

    def _learn(self, training_set):
        windows: CentredBySigma | Centred
        observed = None if self._operator is None else self._operator.observed
        if callable(self.patch_size):
            shape = self._measured_shape(training_set)
            windows = CentredBySigma(self.patch_size, self._padding, shape, observed)
        else:
            windows = Centred(int(self.patch_size), self._padding, observed)
        search = None if self.tol is None else CellSearch(CellsByWindow(), self.tol)
        source = self._source(training_set)
        return Prior(source, windows, search=search, operator=self._operator)

    def _source(self, training_set, present=None):
        """Return the training images to compare; ``present`` holds the first of them."""
        if isinstance(self._operator, Operator):
            return MeasuredTrainingSet(self._operator, training_set, present)
        return training_set

    def _grown(self, prior, training_set, added):
        self._operator = prior.operator
        whole = training_set.extended(added.images, added.sample_weight)
        source = self._source(whole, prior.source)
        search = None if prior.search is None else prior.search.extended()
        return replace(prior, source=source, search=search), whole

    def _input_shapes(self):
        operator = self._prior.operator
        return [self.image_shape_ if operator is None else operator.measured_shape]

    @property
    def _answer_shape(self):
        return self.image_shape_

    def _noisy_limits(self):
        if isinstance(self._prior.operator, Operator):
            low, high = self._prior.source.extremes
            return float(low.min()), float(high.max())
        return super()._noisy_limits()

    def _checked(self, Z, sigma):
        z, sigma, layout = super()._checked(Z, sigma)
        if isinstance(self._prior.operator, Inpainting):  # missing pixels may have any value
            z = z.where(self._prior.operator.observed, self.training_set_.centre)
        return z, sigma, layout

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
