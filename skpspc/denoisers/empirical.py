"""The optimal denoiser of the training set."""

from dataclasses import replace
from typing import Literal

from .._typing import BySigma, DataRange, Devices, ImageShape, RandomState
from ..posterior import Gaussian, Prior
from ..sampling import BandwidthSchedule
from ..support import Whole
from . import indexed
from .base import Denoiser
from .calibration import BANDWIDTH_CONSTRAINT, bandwidth_attribute, with_bandwidth
from .training_set_denoiser import DEVICES, TrainingSetDenoiser


class EmpiricalDenoiser(TrainingSetDenoiser):
    r"""Posterior mean over whole training images: the optimal denoiser of the training set.

    .. math::

        D(z; \sigma) = \sum_i w_i x_i, \qquad
        w = \operatorname{softmax}_i\bigl(-\|z - x_i\|^2 / 2 \sigma^2 + \log v_i\bigr)

    with :math:`x_i` the training images and :math:`v_i` their sample weights. At
    :math:`\sigma = 0` the denoiser returns the nearest training image (the mean of ties), at
    :math:`\sigma = \infty` the mean of the training set. The denoiser memorises: its samples are
    training images.

    Parameters
    ----------
    algorithm : {"auto", "exact", "faiss"}, default "auto"
        "exact": use all training images. "auto": use all, unless ``n_neighbors`` or ``tol``
        allow fewer; with ``tol``, use all for noisy images for which that is faster. "faiss": like
        "auto", with ``tol=1e-3`` if neither is given.
    n_neighbors : int, callable or None, default None
        Number of nearest training images to use. A callable maps a float sigma to an int.
    tol : float, default None
        Largest ``error_bound`` of the posterior: use as many training images as this bound needs.
        With ``n_neighbors``: use more than ``n_neighbors`` where the bound exceeds ``tol``.
    index : str, default "Flat"
        FAISS factory string with Euclidean distances, such as "Flat" (torch on the CPU),
        "IVF256,Flat", "PCA32,IVF256,SQ8", "SQ8" or "HNSW32". ``error_bound`` is proved for indexes
        made of "Flat", "IVF...", "SQ...", "PQ...", "PCA...", "OPQ..." and "RR" alone. For other
        indexes, such as graphs ("HNSW32"), ``error_bound`` is an estimate, which assumes that the
        index misses no neighbour unnoticed: ``bound_is_proved`` is False, a warning is issued once,
        and :meth:`index_recall` measures the misses. Ignored, and not checked, where all training
        images are used.
    n_remainder : int, default 0
        With ``n_neighbors``: number of further training images, drawn with ``random_state``, that
        represent all others. Useful where the posterior is flat, at large sigma. ``standard_error``
        of the posterior estimates the effect of the draw; it is too small where few of the drawn
        images have most of the weight.
    bandwidth : float, callable or "calibrated", default 0.0
        h in [0, 1] interpolates between the empirical denoiser (0) and the `GaussianDenoiser` (1).
        The training images shrink towards their mean by sqrt(1 - h^2) and are blurred by h^2 times
        their covariance, which preserves the mean and covariance of the distribution. A callable,
        such as a `BandwidthSchedule`, maps a float sigma to h. "calibrated": :meth:`fit` chooses
        the h of least error on held-out images at each of 7 noise levels (see Notes).
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
        Seed of the noise of :meth:`score`, of the draws of ``n_remainder`` and of calibration.
        None: new draws at each call.

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
    bandwidth_schedule_ : BandwidthSchedule
        Calibrated bandwidths. Only if ``bandwidth="calibrated"``.

    Raises
    ------
    ValueError
        While fitting with a bandwidth: if an index is used too; for more than 12,288 images of more
        than 12,288 values each.

    See Also
    --------
    PSPCDenoiser : Posterior means over patches, which generalises.

    Notes
    -----
    With labels and an index, every class that is used builds an index of its own images. If every
    class is used, the memory of the indexes doubles.

    With a bandwidth h > 0, and :math:`\mu, \Sigma` the mean and covariance of the training set,

    .. math::

        D &= \mu + A (z - \mu) + (I - A) \sum_i w_i y_i, \\
        A &= h^2 \Sigma (h^2 \Sigma + \sigma^2)^{-1}, \qquad
        y_i = \sqrt{1 - h^2} (x_i - \mu), \\
        w &= \operatorname{softmax}_i\bigl(-\tfrac12 (z - \mu - y_i)^T
        (h^2 \Sigma + \sigma^2)^{-1} (z - \mu - y_i) + \log v_i\bigr).

    D and ``log_evidence`` are the posterior mean and the evidence of a mixture of Gaussians. One
    filtered copy of the training set, in the float dtype of Z, is computed for each sigma of a
    call. If it does not fit scikit-learn's working memory, a warning says so, and parts of it are
    filtered anew in every pass: three times for each sigma, and twice more for each further batch
    of noisy images.

    "calibrated" draws 1,016 different training images with ``random_state`` (all, if there are
    fewer). It holds out 16 images (a tenth, of fewer than 160) and fits the others. An integer
    sample weight equals copies. At each of seven noise levels, 0.05 to 8 standard deviations of a
    pixel, it tries the bandwidths 0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85 and 1 in this order, on
    equal noise, until two in a row are worse than the best. The fitted denoiser then uses all
    images. Fewer images favour more blur, so the bandwidth is too large for training sets of many
    more than 1,000 images. Calibration minimises the denoising error, not the distance to a
    network.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Eq. 4.

    Examples
    --------
    Noise of three levels on one handwritten digit. The root mean square error of the denoised
    image, and the number of training images that it averages:

    >>> import numpy as np
    >>> from skpspc import EmpiricalDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images / 127.5 - 1
    >>> model = EmpiricalDenoiser().fit(X[100:])
    >>> noise = np.random.default_rng(0).standard_normal((1, 1, 8, 8))
    >>> for sigma in [0.3, 1.0, 3.0]:
    ...     posterior = model.posterior(X[:1] + sigma * noise, sigma)
    ...     error = np.sqrt(np.mean((posterior.mean - X[:1]) ** 2))
    ...     n_images = posterior.effective_sample_size.item()
    ...     print(f"sigma {sigma}: error {error:.2f}, {n_images:.1f} images")
    sigma 0.3: error 0.16, 1.2 images
    sigma 1.0: error 0.18, 10.8 images
    sigma 3.0: error 0.35, 391.9 images
    """

    bandwidth_schedule_: BandwidthSchedule

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "device": DEVICES,
        **indexed.CONSTRAINTS,
        "bandwidth": BANDWIDTH_CONSTRAINT,
    }

    def __init__(
        self,
        *,
        algorithm: Literal["auto", "exact", "faiss"] = "auto",
        n_neighbors: int | BySigma | None = None,
        tol: float | None = None,
        index: str = "Flat",
        n_remainder: int = 0,
        bandwidth: float | BySigma | Literal["calibrated"] = 0.0,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Devices | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.algorithm = algorithm
        self.n_neighbors = n_neighbors
        self.tol = tol
        self.index = index
        self.n_remainder = n_remainder
        self.bandwidth = bandwidth
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    index_recall = indexed.index_recall

    def _check(self, training_set):
        indexed.check_search(self, training_set)

    def _learn(self, training_set):
        return with_bandwidth(self, training_set)

    def _make_prior(self, training_set, bandwidth):
        """Return the prior of a training set at a bandwidth, a number or a callable."""
        gaussian = None if bandwidth == 0 else Gaussian.of(training_set)
        search = indexed.search_of(self, training_set)
        return Prior(training_set, Whole(), bandwidth, gaussian, search=search)

    def _grown(self, prior, training_set, added):
        if prior.search is None:
            return super()._grown(prior, training_set, added)
        whole = training_set.extended(added.images, added.sample_weight)
        self._check(whole)
        return replace(prior, source=whole, search=prior.search.extended(whole)), whole

    def _attributes(self, prior):
        return bandwidth_attribute(self, prior.bandwidth)

    def _prior_of(self, code=None):
        return indexed.with_live_parameters(super()._prior_of(code), self)

    def _searches(self):
        """Return the list of searches, with at most one."""
        return [] if self._prior.search is None else [self._prior.search]

    @property
    def _proved_by(self):
        return indexed.proved_by(self._learner)
