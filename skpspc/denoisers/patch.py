"""The posterior mean of single patches."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils._param_validation import Interval, StrOptions

from .._typing import BySigma, DataRange, Devices, ImageShape, RandomState
from .._validation import warn_if_clipped
from ..posterior import BasePrior, Gaussian, NeighbourSearch, Posterior, Prior
from ..sampling import BandwidthSchedule
from ..support import TrainingSet, Whole, clip_size, square_corners
from . import indexed
from .base import Denoiser
from .calibration import BANDWIDTH_CONSTRAINT, bandwidth_attribute, with_bandwidth
from .training_set_denoiser import DEVICES, TrainingSetDenoiser


@dataclass(frozen=True, eq=False)
class CropPriors(BasePrior):
    """Priors of crops of the training images, one for each location.

    Attributes
    ----------
    training_set : TrainingSet
    corners : list of (top, left)
    window : tuple of (h, w)
        Shape of the crops.
    priors : list of Prior
        One for each corner.
    stacked : bool
        Answers have shape (n, K, C, h, w). False: (n, C, h, w), with one corner.
    """

    training_set: TrainingSet
    corners: list[tuple[int, int]]
    window: tuple[int, int]
    priors: list[Prior]
    stacked: bool

    @property
    def device(self):
        """Device of the training images."""
        return self.training_set.device

    @property
    def answer_shape(self):
        """Shape of one answer, (C, h, w) or (K, C, h, w)."""
        patch = (self.training_set.image_shape[0], *self.window)
        return (len(self.corners), *patch) if self.stacked else patch

    def answered(self, images):
        """Return the crops of images (n, C, H, W); return crops unchanged."""
        if tuple(images.shape[1:]) == self.answer_shape:
            return images
        h, w = self.window
        crops = [images[..., top : top + h, left : left + w] for top, left in self.corners]
        return torch.stack(crops, 1) if self.stacked else crops[0]

    def posterior(self, z, sigma):
        """Return the `Posterior` of noisy images or noisy crops."""
        pairs = zip(self.priors, self._crops_of(z), strict=True)
        posteriors = [prior.posterior(crop, sigma) for prior, crop in pairs]
        if not self.stacked:
            return posteriors[0]

        def stacked(name):
            return torch.stack([getattr(posterior, name) for posterior in posteriors], -1)

        return Posterior(
            torch.stack([posterior.mean for posterior in posteriors], 1),
            # the composite log-likelihood of `Posterior`, for windows of one size
            stacked("log_evidence").mean(1) * self._evidence_factor,
            stacked("effective_sample_size").mean(1),
            stacked("error_bound").amax(1),
            stacked("standard_error").square().mean(1).sqrt(),
            stacked("bound_is_proved").all(1),
        )

    def jacobian(self, z, sigma, pixels):
        """Return the Jacobian of the crop by the pixels of z, whole images or crops."""
        (prior,) = self._single("no Jacobian: ")
        (top, left), (h, w) = self.corners[0], self.window
        crops = self.answered(z)
        by_crop = prior.jacobian(crops, sigma, pixels)
        if crops.shape == z.shape:
            return by_crop
        by_image = by_crop.new_zeros(*by_crop.shape[:4], *z.shape[2:])
        by_image[..., top : top + h, left : left + w] = by_crop
        return by_image

    def vjp(self, z, sigma, mean, evidence):
        """Return the cotangents of z, whole images or crops, and of sigma."""
        crops = self._crops_of(z)
        means = mean.unbind(1) if self.stacked else [mean]
        evidence = evidence * self._evidence_factor / len(crops)
        groups = [
            prior.vjp(crop, sigma, of_mean, evidence)
            for prior, crop, of_mean in zip(self.priors, crops, means, strict=True)
        ]
        of_crops, of_sigma = zip(*groups, strict=True)
        return self._spread(of_crops, z), sum(of_sigma)

    def jvp(self, z, sigma, dz, dsigma):
        """Return the tangents of the crops' means and of the log evidence."""
        groups = [
            prior.jvp(crop, sigma, moved, dsigma)
            for prior, crop, moved in zip(
                self.priors, self._crops_of(z), self._crops_of(dz), strict=True
            )
        ]
        means, evidences = zip(*groups, strict=True)
        evidence = sum(evidences) * self._evidence_factor / len(evidences)
        return torch.stack(means, 1) if self.stacked else means[0], evidence

    @property
    def _evidence_factor(self):
        """Factor of the mean log evidence of the crops in the composite log-likelihood."""
        if not self.stacked:
            return 1.0
        return self.training_set.n_values / math.prod(self.answer_shape[1:])

    def _crops_of(self, z):
        """Return the list of the noisy crops of whole images, or of crops."""
        z = self.answered(z)
        return z.unbind(1) if self.stacked else [z]

    def _spread(self, crops, z):
        """Add values of crops to their pixels in images of the shape of z, whole or crops."""
        if tuple(z.shape[1:]) == self.answer_shape:
            return torch.stack(crops, 1) if self.stacked else crops[0]
        out, (h, w) = torch.zeros_like(z), self.window
        for crop, (top, left) in zip(crops, self.corners, strict=True):
            out[..., top : top + h, left : left + w] += crop
        return out

    def attribution(self, z, sigma, top, by_window=False):
        """Return the `Attribution` of the crop, with rows and columns of whole images."""
        (prior,) = self._single()
        of_crop = prior.attribution(self.answered(z), sigma, top, by_window)
        top_row, left = self.corners[0]
        return replace(of_crop, row=of_crop.row + top_row, column=of_crop.column + left)

    def information(self, z, sigma):
        """Return windows and `Information` of the crop."""
        (prior,) = self._single()
        return prior.information(self.answered(z), sigma)

    def means_without(self, z, sigma, groups):
        """Return means (G, n, C, h, w) of the crop without groups (G, N) of training images."""
        (prior,) = self._single()
        return prior.means_without(self.answered(z), sigma, groups)

    def _single(self, failure=""):
        """Return the list of the only prior; raise if there are priors for many locations."""
        if self.stacked:
            raise ValueError(
                f"{failure}PatchDenoiser(location='all') returns many patches; pass the location "
                "of one."
            )
        return self.priors

    def for_sampling(self):
        """Return the priors for one run of a sampler."""
        return replace(self, priors=[prior.for_sampling() for prior in self.priors])

    def with_bandwidth(self, bandwidth):
        """Return the priors with another bandwidth, a number or a callable."""
        return replace(self, priors=[prior.with_bandwidth(bandwidth) for prior in self.priors])

    @property
    def pixel_variance(self):
        """Square of the mean, over the crops, of the standard deviation of a pixel."""
        spreads = [prior.pixel_variance**0.5 for prior in self.priors]
        return (sum(spreads) / len(spreads)) ** 2

    def means_by_bandwidth(self, z, sigma, bandwidths):
        """Yield the posterior means at a positive noise level for each bandwidth."""
        level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
        for bandwidth in bandwidths:
            yield self.with_bandwidth(bandwidth).mean(z, level)

    def __getstate__(self):
        # a pickle of every crop would hold the images many times
        priors = [replace(prior, source=None) for prior in self.priors]
        return {**vars(self), "priors": priors}

    def __setstate__(self, state):
        vars(self).update(state)
        h, w = self.window
        crops = [self.training_set.crop(top, left, h, w) for top, left in self.corners]
        priors = []
        for prior, crop in zip(self.priors, crops, strict=True):
            if isinstance(prior.search, NeighbourSearch):
                prior.search.neighbours.training_set = crop
            priors.append(replace(prior, source=crop))
        vars(self)["priors"] = priors


class PatchDenoiser(ClassNamePrefixFeaturesOutMixin, TrainingSetDenoiser):
    r"""Posterior mean of one patch, over the training images' patches at its location.

    .. math::

        D_P(z; \sigma) &= \sum_i w_i^P x_{iP}, \\
        w^P &= \operatorname{softmax}_i\bigl(-\|z_P - x_{iP}\|^2 / 2 \sigma^2 + \log v_i\bigr)

    with P the coordinates of the patch, :math:`x_i` the training images and :math:`v_i` their
    sample weights. It is the optimal denoiser of the crops.

    Parameters
    ----------
    patch_size : int, default 8
        Side of the square patch, at least 1; clipped to the image, with a warning.
    location : {"center", "all"} or tuple of (top, left), default "center"
        Location of the patch. "all": every location in row-major order, each with its own
        posterior and one pass over the training set. With an index, each location keeps an index
        and a copy of its crops.
    algorithm : {"auto", "exact", "faiss"}, default "auto"
        "exact": use all training crops. "auto": use all, unless ``n_neighbors`` or ``tol``
        allow fewer; with ``tol``, use all for noisy images for which that is faster. "faiss": like
        "auto", with ``tol=1e-3`` if neither is given.
    n_neighbors : int, callable or None, default None
        Number of nearest training crops to use. A callable maps a float sigma to an int.
    tol : float, default None
        Largest ``error_bound`` of the posterior: use as many training crops as this bound needs.
        With ``n_neighbors``: use more than ``n_neighbors`` where the bound exceeds ``tol``.
    index : str, default "Flat"
        FAISS factory string with Euclidean distances, such as "Flat" (torch on the CPU),
        "IVF256,Flat", "PCA32,IVF256,SQ8", "SQ8" or "HNSW32". ``error_bound`` is proved for indexes
        made of "Flat", "IVF...", "SQ...", "PQ...", "PCA...", "OPQ..." and "RR" alone. For other
        indexes, such as graphs ("HNSW32"), ``error_bound`` is an estimate, which assumes that the
        index misses no neighbour unnoticed: ``bound_is_proved`` is False, a warning is issued once,
        and :meth:`index_recall` measures the misses. Ignored, and not checked, where all training
        crops are used.
    n_remainder : int, default 0
        With ``n_neighbors``: number of further training crops, drawn with ``random_state``, that
        represent all others. Useful where the posterior is flat, at large sigma. ``standard_error``
        of the posterior estimates the effect of the draw; it is too small where few of the drawn
        crops have most of the weight.
    bandwidth : float, callable or "calibrated", default 0.0
        h in [0, 1] interpolates between the posterior mean over crops (0) and the Gaussian denoiser
        of the crops (1): the crops are blurred along their covariance (see `EmpiricalDenoiser`). A
        callable, such as a `BandwidthSchedule`, maps a float sigma to h. "calibrated": :meth:`fit`
        chooses the h of least error on held-out images at each of 7 noise levels. With
        ``location="all"``, each location keeps a covariance.
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
    corners_ : list of (top, left)
        Locations of the patches.
    window_ : tuple of (h, w)
        Shape of the patch.
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

    See Also
    --------
    PSPCDenoiser : Average of the patches at all locations, an image.

    Notes
    -----
    :meth:`denoise` takes whole noisy images or noisy patches, and returns patches (n, C, h, w), or
    (n, K, C, h, w) for K locations. :meth:`sample` draws patches. :meth:`score` is the score of the
    patch. Scores of different patch sizes cover different pixels, so choose a patch size by the
    score of `PSPCDenoiser`.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Eq. 8.

    Examples
    --------
    The middle of a noisy digit, gray levels 0 to 255: the clean patch and the denoised patch.

    >>> import numpy as np
    >>> from skpspc import PatchDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images.astype(float)
    >>> Z = X[:1] + 40 * np.random.default_rng(0).standard_normal((1, 1, 8, 8))
    >>> patch = PatchDenoiser(patch_size=4).fit(X[100:]).denoise(Z, sigma=40)
    >>> X[0, 0, 2:6, 2:6].round().astype(int)
    array([[239,  32,   0, 175],
           [191,   0,   0, 128],
           [128,   0,   0, 143],
           [175,   0,  16, 191]])
    >>> patch[0, 0].round().astype(int)
    array([[247,  52,  16, 209],
           [172,   1,   0, 146],
           [160,   0,   0, 120],
           [224,  10,   5, 177]])
    """

    corners_: list[tuple[int, int]]
    window_: tuple[int, int]
    bandwidth_schedule_: BandwidthSchedule

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "device": DEVICES,
        **indexed.CONSTRAINTS,
        "bandwidth": BANDWIDTH_CONSTRAINT,
        "patch_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "location": [StrOptions({"center", "all"}), tuple, list],
    }

    def __init__(
        self,
        patch_size: int = 8,
        *,
        location: Literal["center", "all"] | Sequence[int] = "center",
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
        self.patch_size = patch_size
        self.location = location
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
        warn_if_clipped(self.patch_size, training_set.image_shape)
        window = clip_size(self.patch_size, training_set.image_shape)
        (top, left), *_ = self._corners(window, training_set.image_shape)
        indexed.check_search(self, training_set.crop(top, left, *window))

    def _learn(self, training_set):
        return with_bandwidth(self, training_set)

    def _make_prior(self, training_set, bandwidth):
        """Return the priors of the crops at a bandwidth, a number or a callable."""
        window = clip_size(self.patch_size, training_set.image_shape)
        corners = self._corners(window, training_set.image_shape)
        priors = []
        for corner in corners:
            crop = training_set.crop(*corner, *window)
            gaussian = None if bandwidth == 0 else Gaussian.of(crop)
            search = indexed.search_of(self, crop)
            priors.append(Prior(crop, Whole(), bandwidth, gaussian, search=search))
        return CropPriors(training_set, corners, window, priors, self.location == "all")

    def _grown(self, prior, training_set, added):
        if prior.priors[0].search is None:
            return super()._grown(prior, training_set, added)
        whole = training_set.extended(added.images, added.sample_weight)
        self._check(whole)
        priors = []
        for corner, of_crop in zip(prior.corners, prior.priors, strict=True):
            crop = whole.crop(*corner, *prior.window)
            priors.append(replace(of_crop, source=crop, search=of_crop.search.extended(crop)))
        return replace(prior, training_set=whole, priors=priors), whole

    def _corners(self, window, image_shape):
        """Return the top left corners of the patches."""
        every = square_corners(window, image_shape)
        if self.location == "all":
            return every
        if self.location == "center":
            (h, w), (_, height, width) = window, image_shape
            return [((height - h) // 2, (width - w) // 2)]
        corner = tuple(self.location)
        if corner not in every:
            raise ValueError(
                f"location must be 'center', 'all' or (top, left) between (0, 0) and {every[-1]} "
                f"for a {window} patch in an image {image_shape}, got {self.location!r}."
            )
        return [corner]

    def _attributes(self, prior):
        return {
            "window_": prior.window,
            "corners_": prior.corners,
            **bandwidth_attribute(self, prior.priors[0].bandwidth),
        }

    def _prior_of(self, code=None):
        prior = super()._prior_of(code)
        priors = [indexed.with_live_parameters(of_crop, self) for of_crop in prior.priors]
        return replace(prior, priors=priors)

    def _searches(self):
        """Return the searches of all indexes."""
        return [prior.search for prior in self._prior.priors if prior.search is not None]

    @property
    def _proved_by(self):
        return indexed.proved_by(self._learner)

    @property
    def _n_features_out(self):
        """Number of values in the answer for one image."""
        return math.prod(self._prior.answer_shape)

    def _input_shapes(self):
        return [self.image_shape_, self._prior.answer_shape]
