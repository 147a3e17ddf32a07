"""Posterior means through neighbourhoods of the covariance of the training images."""

import numbers
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .._state import NumpyState
from .._typing import Array, DataRange, Devices, ImageShape, RandomState
from .._validation import check_sigma
from ..posterior import Gaussian, Prior
from ..support import Masks
from ..support.memory import working_bytes
from .base import Denoiser
from .training_set_denoiser import DEVICES, TrainingSetDenoiser

# Relative to the largest W_nn: below it, W is rounding error.
_NO_WEIGHT = 1e-8


@dataclass(frozen=True, eq=False)
class Neighbourhoods(NumpyState):
    """Windows of the largest entries in each row of the Wiener filter.

    ``threshold`` is relative to the largest entry; `Masks` describes ``batch_size``.
    """

    _not_kept = ("_kept",)

    gaussian: Gaussian
    image_shape: tuple[int, int, int]
    threshold: float
    batch_size: int | None

    @cached_property
    def _kept(self):
        """Windows by noise level, the newest level last."""
        return {}

    def __call__(self, sigma):
        """Return the windows at a noise level, `Masks`: one for each coordinate.

        A Wiener filter can take longer than the comparison with all training images. The windows of
        the newest level are therefore kept, and of more levels if they fit a chunk of memory.
        """
        kept = self._kept
        if sigma not in kept:
            query = self.matrix(sigma).T.reshape(-1, *self.image_shape).contiguous()
            kept[sigma] = Masks(sigma, query, None, self.batch_size)
            for oldest in list(kept)[: -max(1, working_bytes() // query.nbytes)]:
                kept.pop(oldest, None)
        return kept[sigma]

    def matrix(self, sigma):
        """Return the matrix B (D, D), bool: column m holds the neighbours of coordinate m."""
        # at larger sigma W is only scaled, and at infinity it would vanish
        sigma = min(sigma, 1e6 * max(self.gaussian.abs_max, 1e-15))
        rows = torch.arange(len(self.gaussian.mean), device=self.gaussian.mean.device)
        matrix = self.gaussian.wiener(sigma, rows)
        own = matrix.diagonal().clone()
        varies = own > _NO_WEIGHT * own.amax()
        matrix /= own.where(varies, torch.ones_like(own))[:, None]
        matrix[~varies] = 0
        size = matrix.abs_()
        return (size >= self.threshold * size.amax()) & (size > 0)


class PCALocalityDenoiser(TrainingSetDenoiser):
    r"""Posterior mean of every coordinate, through its row of the Wiener filter.

    .. math::

        D(z; \sigma)_m &= \sum_i w_i^m x_{im}, \\
        w^m &= \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2}
        \sum_n B_{nm} (z_n - x_{in})^2 + \log v_i\Bigr), \\
        B_{nm} &= \bigl[\,|M_{nm}| \ge \theta \max |M|\,\bigr], \qquad
        M_{nm} = W_{nm} / W_{nn}, \\
        W &= \Sigma (\Sigma + \sigma^2)^{-1}

    with :math:`x_i` the training images, :math:`v_i` their sample weights and :math:`\Sigma` their
    population covariance. Each coordinate is compared through the few coordinates that have large
    weights in W, the linear denoiser of least error. Colour channels are separate coordinates.

    Parameters
    ----------
    threshold : float, default 0.05
        theta, in (0, 1], relative to the largest entry. Published: 0.005 for MNIST, 0.05 for
        CIFAR-10, 0.02 for faces.
    softmax : {"exact", "batchwise"}, default "exact"
        "exact": normalise the weights over all training images. "batchwise": normalise them within
        each batch of training images, in their order, and average the batches with equal weights,
        the last one too. The published code is "batchwise"; its results depend on ``batch_size``.
    batch_size : int, default 512
        Training images in a batch. Ignored with ``softmax="exact"``.
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
        While fitting more than 12,288 images of more than 12,288 values each.

    See Also
    --------
    GaussianDenoiser : The Wiener filter itself.
    PSPCDenoiser : Square windows, of one size at every pixel.

    Notes
    -----
    With numba, float32 images on the CPU cost a few operations for each run of compared
    coordinates. Other images, and ``softmax="batchwise"``, cost N * D^2 operations, with
    D = C * H * W. The precisions of a new noise level cost D^3 operations and hold D^2 float64
    numbers. The masks of the newest level are kept, D^2 bytes, and of more levels up to 128 MiB.
    Every :meth:`partial_fit` decomposes the covariance.

    A constant coordinate (W_nn below 1e-8 of the largest) has a zero row in M. A nearly constant
    coordinate has a large row, so that few others reach the threshold. The estimate of a coordinate
    without neighbours is the mean; :meth:`neighbours` shows such coordinates.

    ``log_evidence`` is the composite of `Posterior` over the neighbourhoods: D times the mean
    over the coordinates of the log-likelihood per number compared.

    References
    ----------
    Lukoianov et al., "Locality in Image Diffusion Models Emerges from Data Statistics", 2025,
    arXiv:2509.09672.

    Examples
    --------
    The mean number of pixels through which a pixel of a digit is compared grows with the noise:

    >>> from skpspc import PCALocalityDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> model = PCALocalityDenoiser().fit(X)
    >>> for sigma in [0.1, 1.0, 10.0]:
    ...     n_pixels = model.neighbours(sigma).sum(axis=0).mean()
    ...     print(f"sigma {sigma}: {n_pixels:.1f} of 64 pixels")
    sigma 0.1: 2.5 of 64 pixels
    sigma 1.0: 4.4 of 64 pixels
    sigma 10.0: 6.9 of 64 pixels
    """

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "device": DEVICES,
        "verbose": ["verbose"],
        "threshold": [Interval(numbers.Real, 0, 1, closed="right")],
        "softmax": [StrOptions({"exact", "batchwise"})],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        threshold: float = 0.05,
        *,
        softmax: Literal["exact", "batchwise"] = "exact",
        batch_size: int = 512,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Devices | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.threshold = threshold
        self.softmax = softmax
        self.batch_size = batch_size
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def _learn(self, training_set):
        gaussian, shape = Gaussian.of(training_set), training_set.image_shape
        batch_size = self.batch_size if self.softmax == "batchwise" else None
        windows = Neighbourhoods(gaussian, shape, self.threshold, batch_size)
        return Prior(training_set, windows)

    def neighbours(self, sigma: float) -> Array:
        """Return the matrix B of the coordinates compared for each coordinate.

        Parameters
        ----------
        sigma : float
            Noise level; 0 and inf are allowed.

        Returns
        -------
        array or Tensor of shape (C * H * W, C * H * W), bool
            Column m marks the coordinates that the posterior of coordinate m compares. In the
            container of the training images.

        Raises
        ------
        ValueError
            If sigma is not a non-negative number.
        """
        self = self._now()
        check_is_fitted(self)
        mask = self._prior.windows.matrix(float(check_sigma(sigma, 1)))
        return mask if self._layout.is_torch else mask.cpu().numpy()
