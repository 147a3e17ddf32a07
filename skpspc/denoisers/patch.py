"""The posterior mean of single patches."""

import math
import numbers
from dataclasses import dataclass, replace

import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils._param_validation import Interval, StrOptions

from .._validation import warn_if_clipped
from ..posterior import BasePrior, Gaussian, NeighbourSearch, Posterior, Prior
from ..support import TrainingSet, Whole, clip_size, square_corners
from . import indexed
from .base import Denoiser
from .calibration import BANDWIDTH_CONSTRAINT, bandwidth_attribute, with_bandwidth
from .training_set_denoiser import TrainingSetDenoiser


@dataclass(frozen=True, eq=False)
class CropPriors(BasePrior):
    """A prior for each of some crops of the training images.

    Attributes
    ----------
    training_set : TrainingSet
    corners : list of (top, left)
    window : tuple of (h, w)
        Shape of the crops.
    priors : list of Prior
        One for each corner.
    stacked : bool
        Answers have an axis of crops, (n, K, C, h, w). False: of one crop, (n, C, h, w).
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
        """Return the crops of images (n, C, H, W); images that are crops stay themselves."""
        if tuple(images.shape[1:]) == self.answer_shape:
            return images
        h, w = self.window
        crops = [images[..., top : top + h, left : left + w] for top, left in self.corners]
        return torch.stack(crops, 1) if self.stacked else crops[0]

    def posterior(self, z, sigma):
        """Return the `Posterior` of the crops of noisy images (or of noisy crops)."""
        z = self.answered(z)
        crops = z.unbind(1) if self.stacked else [z]
        parts = [
            prior.posterior(crop, sigma) for prior, crop in zip(self.priors, crops, strict=True)
        ]
        if not self.stacked:
            return parts[0]

        def stacked(name):
            return torch.stack([getattr(part, name) for part in parts], -1)

        # the composite log-likelihood of `Posterior`, for windows of one size
        n_values = parts[0].mean[0].numel() / self.training_set.n_values
        return Posterior(
            torch.stack([part.mean for part in parts], 1),
            stacked("log_evidence").mean(1) / n_values,
            stacked("effective_sample_size").mean(1),
            stacked("error_bound").amax(1),
            stacked("standard_error").square().mean(1).sqrt(),
            stacked("bound_is_proved").all(1),
        )

    def jacobian(self, z, sigma, pixels):
        """Return the Jacobian of the crop, by the pixels of whole images if z are whole."""
        (prior,) = self._single("no Jacobian in closed form: ")
        (top, left), (h, w) = self.corners[0], self.window
        crops = self.answered(z)
        part = prior.jacobian(crops, sigma, pixels)
        if crops.shape == z.shape:
            return part
        out = part.new_zeros(*part.shape[:4], *z.shape[2:])
        out[..., top : top + h, left : left + w] = part
        return out

    def attribution(self, z, sigma, top, by_window=False):
        """Return the `Attribution` of the crop, in rows and columns of whole images."""
        (prior,) = self._single()
        part = prior.attribution(self.answered(z), sigma, top, by_window)
        row, column = self.corners[0]
        return replace(part, row=part.row + row, column=part.column + column)

    def means_without(self, z, sigma, groups):
        """Return means of the crop (G, n, C, h, w) without groups (G, N) of images."""
        (prior,) = self._single()
        return prior.means_without(self.answered(z), sigma, groups)

    def _single(self, refused=""):
        """Return the priors, if there is one crop."""
        if self.stacked:
            raise ValueError(
                f"{refused}PatchDenoiser(location='all') answers with many patches; give the "
                "location of one."
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
        """Root mean square of it is the mean standard deviation of a pixel over the crops."""
        spreads = [prior.pixel_variance**0.5 for prior in self.priors]
        return (sum(spreads) / len(spreads)) ** 2

    def means_by_bandwidth(self, z, sigma, bandwidths):
        """Yield the posterior means at a positive noise level for each bandwidth."""
        level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
        for bandwidth in bandwidths:
            yield self.with_bandwidth(bandwidth).posterior(z, level).mean

    def __getstate__(self):
        # a pickle of the crops would hold the images once more for each of them
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
    r"""Posterior mean of the patch at one place, from the same place in every training image.

    .. math::

        D_P(z; \sigma) = \sum_i w_i^P x_{iP}, \qquad
        w^P = \operatorname{softmax}_i\bigl(-\|z_P - x_{iP}\|^2 / 2 \sigma^2 + \log v_i\bigr)

    with P the patch's coordinates. It is the optimal denoiser of the crops; it answers for
    the patch alone.

    Parameters
    ----------
    patch_size : int, default 8
        Side of the square patch, at least 1; clipped to the image, with a warning.
    location : {"center", "all"} or tuple of (top, left), default "center"
        Where the patch lies. "all": every place where it fits, in row-major order, each with
        a posterior of its own; the training set is read once for each. If an index is asked for,
        one is kept for each, and a copy of the crops.
    algorithm, n_neighbors, tol, index, n_remainder
        Exact, or from the patches that an index finds; as in `EmpiricalDenoiser`.
    bandwidth : float, callable or "calibrated", default 0.0
        Between the patches' posterior and that of a Gaussian with their mean and covariance;
        as in `EmpiricalDenoiser`. With ``location="all"``, a covariance is kept for each place.
    verbose : int, default 0
        Above zero, show a progress bar while an index is built.
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
        Fixes the noise of :meth:`score` and the draw of ``n_remainder``.

    Attributes
    ----------
    corners_ : list of (top, left)
    window_ : tuple of (h, w)
        Shape of the patch.
    image_shape_, n_features_in_, training_set_, bandwidth_schedule_
        As in `EmpiricalDenoiser`.

    Notes
    -----
    :meth:`denoise` takes whole noisy images and returns patches, (n, C, h, w), or
    (n, K, C, h, w) for K places; it takes such patches as well, so that :meth:`sample`
    draws patches. :meth:`score` is that of the patch, so the scores of different patch sizes
    are about different pixels; choose a size by `PSPCDenoiser`.

    References
    ----------
    Niedoba et al., ICML 2025, arXiv:2411.19339, Eq. 8.

    Examples
    --------
    >>> from skpspc import PatchDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> PatchDenoiser(patch_size=4).fit(X).denoise(X[:2], sigma=0.5).shape
    (2, 1, 4, 4)
    """

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        **indexed.CONSTRAINTS,
        "bandwidth": BANDWIDTH_CONSTRAINT,
        "patch_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "location": [StrOptions({"center", "all"}), tuple, list],
    }

    def __init__(
        self,
        patch_size=8,
        *,
        location="center",
        algorithm="auto",
        n_neighbors=None,
        tol=None,
        index="Flat",
        n_remainder=0,
        bandwidth=0.0,
        verbose=0,
        sigma=0.5,
        image_shape=None,
        data_range=None,
        device=None,
        random_state=0,
    ):
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
                f"for a {window} patch in an image {image_shape}, got "
                f"{self.location!r}."
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
