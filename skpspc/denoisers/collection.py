"""Posterior means through any windows: the general formula of the other denoisers."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from .._typing import ArrayLike, DataRange, Device, ImageShape, RandomState
from ..posterior import Prior
from ..support import Masks, MirroredTrainingSet, TranslatedTrainingSet
from .base import Denoiser
from .training_set_denoiser import TrainingSetDenoiser


@dataclass(frozen=True, eq=False)
class GivenWindows:
    """Windows from the parameters ``query`` and ``response`` of `PosteriorMeanCollection`."""

    query: Any
    response: Any
    image_shape: tuple[int, int, int]
    device: torch.device

    @property
    def depends_on_sigma(self):
        """True if a callable gives the windows."""
        return callable(self.query) or callable(self.response)

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
                f"query has {len(query)} windows and response {len(response)}{where}; give each "
                "window a row in both."
            )
        uncovered = (response.sum(0) == 0).nonzero().tolist()
        if uncovered:
            channel, row, column = uncovered[0]
            raise ValueError(
                f"no window answers for {len(uncovered)} coordinates{where}, the first of which "
                f"is channel {channel}, row {row}, column {column}; give it a positive response "
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
    r"""Posterior means through windows of any shape, softness and number, put together.

    .. math::

        D(z; \sigma)_p = \frac{\sum_k r_{kp} \sum_i w_i^k x_{ip}}{\sum_k r_{kp}}, \qquad
        w^k = \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2}
        \sum_j \pi_{kj} (z_j - x_{ij})^2 + \log v_i\Bigr)

    with :math:`\pi_k \ge 0` the query precisions of window k (coordinates that it compares),
    :math:`r_k \ge 0` its response weights (coordinates that it answers for), and :math:`v_i` the
    sample weights. It is the general formula; the other denoisers that compare training images are
    special cases, computed faster.

    Parameters
    ----------
    query : array of shape (K, C, H, W), (K, H, W) or (K, C * H * W), or callable, default None
        Precisions of K windows; all channels share precisions (K, H, W). None: one window, the
        whole image. A callable ``query(sigma, image_shape)`` returns the array at a noise level, a
        float, for images of shape (C, H, W); K may depend on sigma.
    response : array or callable, as ``query``, default None
        Response weights of the K windows; only their ratios count. None: the query.
    source : {"images", "flips", "translates"}, default "images"
        Images that windows are compared with. "images": the training images. "flips": also their
        left-right mirror images. "translates": the training images moved by up to ``max_shift``
        rows and columns. A moved image is not padded: a window is compared with it if every
        coordinate of query and response falls on a pixel, so that a window at an edge has fewer
        moved images, and a window as large as the image only the images themselves. Copies are
        never stored, and share the weight of their image evenly.
    max_shift : int, default 1
        For "translates", (2 * max_shift + 1)^2 copies of each image.
    sigma, image_shape, data_range, device, random_state
        As in `EmpiricalDenoiser`.

    Attributes
    ----------
    image_shape_, n_features_in_, training_set_
        As in `EmpiricalDenoiser`.

    Raises
    ------
    ValueError
        While fitting (for callables, while denoising): for arrays of another shape, negative or not
        finite values, different numbers of queries and responses, or a coordinate without a
        positive response.

    See Also
    --------
    tapered_windows : Soft squares, for ``query`` and ``response``.
    PSPCDenoiser, LocalScoreDenoiser, PCALocalityDenoiser : Special cases, much faster.

    Notes
    -----
    One noisy image costs about 2 N K D operations, D = C * H * W, times the number of copies, and
    holds a K x D array.

    A window compares as many numbers as the sum of its precisions. ``log_evidence`` is the
    composite of `Posterior`, D times the mean over windows of the log-likelihood per number
    compared (0 for a window that compares none). ``effective_sample_size`` counts each mirrored or
    moved copy.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339; "Filtered Posterior Mean Collections", 2026, arXiv:2605.24192
    (soft windows and augmented sources).

    Examples
    --------
    >>> from skpspc import PosteriorMeanCollection, tapered_windows
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> model = PosteriorMeanCollection(tapered_windows((1, 8, 8), 5), source="flips").fit(X)
    >>> model.denoise(X[:2], sigma=0.5).shape
    (2, 1, 8, 8)

    Windows that grow with the noise:

    >>> def squares(sigma, image_shape):
    ...     return tapered_windows(image_shape, 3 if sigma < 1 else 7)
    >>> PosteriorMeanCollection(squares).fit(X).sample(random_state=0, n_steps=4).shape
    (1, 1, 8, 8)
    """

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
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
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Device | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.query = query
        self.response = response
        self.source = source
        self.max_shift = max_shift
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def _check(self, training_set):
        windows = self._windows(training_set)
        if not windows.depends_on_sigma:
            windows(None)

    def _learn(self, training_set):
        windows, source = self._windows(training_set), training_set
        if self.source == "flips":
            source = MirroredTrainingSet(training_set)
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
        return torch.from_numpy(np.array(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be an array of numbers, got {type(value).__name__}{where}; each row is "
            "one window."
        ) from None
