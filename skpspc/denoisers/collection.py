"""Posterior means through any windows, the general formula of the other denoisers."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from .._state import NumpyState
from .._typing import ArrayLike, DataRange, Devices, ImageShape, RandomState
from ..posterior import Prior
from ..support import Masks, TranslatedTrainingSet
from .base import Denoiser
from .training_set_denoiser import DEVICES, TrainingSetDenoiser


@dataclass(frozen=True, eq=False)
class GivenWindows(NumpyState):
    """Windows from the parameters ``query`` and ``response`` of `PosteriorMeanCollection`."""

    query: Any
    response: Any
    image_shape: tuple[int, int, int]
    device: torch.device

    @property
    def depends_on_sigma(self):
        """True if a callable gives the windows."""
        return callable(self.query) or callable(self.response)

    def resized(self, image_shape):
        """Return the windows for images of another shape; raise if one of them is an array."""
        for name in ("query", "response"):
            value = getattr(self, name)
            if not (value is None or callable(value)):
                raise ValueError(
                    f"{name} is an array for images of shape {self.image_shape}, but noisy images "
                    f"have shape {image_shape}; pass a callable {name}(sigma, image_shape)."
                )
        return replace(self, image_shape=image_shape)

    def __call__(self, sigma):
        """Return the windows at a float noise level as `Masks`; sigma may be None for arrays."""
        where = f" at sigma = {sigma}" if self.depends_on_sigma else ""
        arrays = []
        for name in ("query", "response"):
            value = getattr(self, name)
            value = value(sigma, self.image_shape) if callable(value) else value
            arrays.append(self._checked(value, name, where))
        query, response = arrays
        if query is None:
            query = torch.ones(1, *self.image_shape, dtype=torch.float64, device=self.device)
        response = query if response is None else response
        if len(response) != len(query):
            raise ValueError(
                f"query has {len(query)} windows, but response has {len(response)}{where}; pass "
                "one row per window in both."
            )
        uncovered = (response.sum(0) == 0).nonzero().tolist()
        if uncovered:
            channel, row, column = uncovered[0]
            raise ValueError(
                f"no window answers for {len(uncovered)} coordinates{where}, first for channel "
                f"{channel}, row {row}, column {column}; give each coordinate a positive response "
                "in at least one window."
            )
        return Masks(sigma, query, response)

    def _checked(self, value, name, where):
        """Return an array of windows as a float64 tensor (K, C, H, W), or None."""
        if value is None:
            return None
        shape = self.image_shape
        n_values = math.prod(shape)
        windows = _as_float64(value, name, where)
        shapes = {2: (n_values,), 3: shape[1:], 4: shape}
        if shapes.get(windows.ndim) != tuple(windows.shape[1:]) or len(windows) == 0:
            raise ValueError(
                f"{name} must have shape (K, {', '.join(map(str, shape))}), (K, {shape[1]}, "
                f"{shape[2]}) or (K, {n_values}) for images of shape {shape}, got "
                f"{tuple(windows.shape)}{where}."
            )
        bad = windows[~(windows.isfinite() & (windows >= 0))]
        if len(bad):
            raise ValueError(
                f"{name} must be finite and non-negative, got {float(bad[0])}{where}; 0 leaves a "
                "coordinate out."
            )
        if windows.ndim == 3:
            windows = windows[:, None].expand(-1, *shape)
        return windows.reshape(-1, *shape).to(self.device)


class PosteriorMeanCollection(TrainingSetDenoiser):
    r"""Average of posterior means through windows of any shape, softness and number.

    .. math::

        D(z; \sigma)_p &= \frac{\sum_k r_{kp} \sum_i w_i^k x_{ip}}{\sum_k r_{kp}}, \\
        w^k &= \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2}
        \sum_j \pi_{kj} (z_j - x_{ij})^2 + \log v_i\Bigr)

    with :math:`\pi_k \ge 0` the query precisions of window k (the coordinates that it compares),
    :math:`r_k \ge 0` its response weights (the coordinates for which it answers), and :math:`v_i`
    the sample weights of the training images :math:`x_i`. This is the general formula. The other
    denoisers that compare training images are special cases, computed faster.

    Parameters
    ----------
    query : array of shape (K, C, H, W), (K, H, W) or (K, C * H * W), or callable, default None
        Precisions of K windows. All channels share precisions (K, H, W). None: one window, the
        whole image. A callable ``query(sigma, image_shape)`` returns the array for a float sigma
        and images of shape (C, H, W); K may depend on sigma.
    response : array or callable, default None
        Response weights of the K windows, in the shapes of ``query``. Only their ratios count.
        None: the query.
    source : {"images", "flips", "translates"}, default "images"
        Images with which windows are compared. "images": the training images. "flips": also their
        left-right mirror images. "translates": the training images moved by up to ``max_shift``
        rows and columns. Moved images are not padded: a window is compared with a moved image if
        every coordinate of query and response falls on a pixel. A window at an edge therefore has
        fewer moved images, and a window as large as the image has none. Copies are never stored.
        All copies of an image share its weight evenly. With windows from callables, "translates"
        denoises images of any height and width: every window must be covered by at least one moved
        image (see Notes).
    max_shift : int, default 1
        Largest shift of "translates", in pixels: (2 * max_shift + 1)^2 copies of each image.
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
        While fitting (for callables, while denoising): for arrays of another shape, for negative or
        non-finite values, for different numbers of queries and responses, or for a coordinate
        without a positive response.

    See Also
    --------
    tapered_windows : Soft squares, for ``query`` and ``response``.
    PSPCDenoiser : Square windows, hard or tapered, and moved images; much faster.
    LocalScoreDenoiser, PCALocalityDenoiser : Special cases, much faster.

    Notes
    -----
    One noisy image costs about 2 N K D operations, with D = C * H * W, times the number of copies,
    and holds a K x D array.

    "translates" places the moved training images on an image of the size of the noisy image, with
    equal top left corners at shift (0, 0). A larger noisy image therefore needs a larger
    ``max_shift``. At the longest side of the noisy or training image, every window is compared with
    all patches of the training images.

    A window compares as many numbers as the sum of its precisions. ``log_evidence`` is the
    composite of `Posterior`: D times the mean over windows of the log-likelihood per number
    compared (0 for a window that compares none). ``effective_sample_size`` counts each mirrored or
    moved copy.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339; "Filtered Posterior Mean Collections", 2026, arXiv:2605.24192
    (soft windows and augmented sources).

    Examples
    --------
    Root mean square errors on 20 held-out digits: noisy images, soft windows on 200 training
    images, and soft windows on these images and their shifts by one pixel.

    >>> import numpy as np
    >>> from skpspc import PosteriorMeanCollection, tapered_windows
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images / 127.5 - 1
    >>> train, test = X[100:300], X[:20]
    >>> Z = test + 0.5 * np.random.default_rng(0).standard_normal(test.shape)
    >>> def error(images):
    ...     return round(float(np.sqrt(np.mean((images - test) ** 2))), 2)
    >>> windows = tapered_windows((1, 8, 8), 5)
    >>> soft = PosteriorMeanCollection(windows).fit(train)
    >>> shifted = PosteriorMeanCollection(windows, source="translates")
    >>> images = shifted.fit(train).denoise(Z, sigma=0.5)
    >>> error(Z), error(soft.denoise(Z, sigma=0.5)), error(images)
    (0.49, 0.28, 0.26)

    Windows that grow with the noise:

    >>> def squares(sigma, image_shape):
    ...     return tapered_windows(image_shape, 3 if sigma < 1 else 7)
    >>> growing = PosteriorMeanCollection(squares).fit(train)
    >>> error(growing.denoise(Z, sigma=0.5))
    0.27
    """

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "device": DEVICES,
        "verbose": ["verbose"],
        "query": ["array-like", callable, None],
        "response": ["array-like", callable, None],
        "source": [StrOptions({"images", "flips", "translates"})],
        "max_shift": [Interval(numbers.Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        query: ArrayLike | Callable[[float, tuple[int, int, int]], ArrayLike] | None = None,
        response: ArrayLike | Callable[[float, tuple[int, int, int]], ArrayLike] | None = None,
        *,
        source: Literal["images", "flips", "translates"] = "images",
        max_shift: int = 1,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Devices | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.query = query
        self.response = response
        self.source = source
        self.max_shift = max_shift
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    @property
    def _any_size(self):  # type: ignore[override]
        """True for windows that are compared with moved images, by the fit."""
        return self._learner.source == "translates"

    def _check(self, training_set):
        windows = self._windows(training_set)
        if not windows.depends_on_sigma:
            windows(None)

    def _learn(self, training_set):
        windows, source = self._windows(training_set), training_set
        if self.source == "flips":
            source = training_set.mirrored()
        elif self.source == "translates":
            source = TranslatedTrainingSet(training_set, self.max_shift)
        windows = windows if windows.depends_on_sigma else windows(None)
        return Prior(source, windows, engine="exact")

    def _windows(self, training_set):
        """Return the `GivenWindows` for the images of a training set."""
        shape, device = training_set.image_shape, training_set.device
        return GivenWindows(self.query, self.response, shape, device)


def _as_float64(value, name, where):
    """Return an array-like as a float64 tensor."""
    try:
        if isinstance(value, torch.Tensor):
            return value.detach().to(torch.float64)
        # at an address of torch: rounding errors of matrix products depend on the alignment
        return torch.tensor(np.array(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be an array of numbers, got {type(value).__name__}{where}; each row is "
            "one window."
        ) from None
