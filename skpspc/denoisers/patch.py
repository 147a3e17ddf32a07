"""The posterior mean of single patches."""

import math
import numbers

import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils._param_validation import Interval, StrOptions

from .._validation import warn_if_clipped
from ..posterior import Posterior
from ..support import clip_size, square_corners
from .indexed import IndexedDenoiser


class PatchDenoiser(ClassNamePrefixFeaturesOutMixin, IndexedDenoiser):
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
        **IndexedDenoiser._parameter_constraints,
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
        super().__init__(
            algorithm=algorithm,
            n_neighbors=n_neighbors,
            tol=tol,
            index=index,
            n_remainder=n_remainder,
            bandwidth=bandwidth,
            verbose=verbose,
            sigma=sigma,
            image_shape=image_shape,
            data_range=data_range,
            device=device,
            random_state=random_state,
        )
        self.patch_size = patch_size
        self.location = location

    def _resolve(self):
        warn_if_clipped(self.patch_size, self.image_shape_)
        self._place()
        super()._resolve()

    def _place(self):
        """Find where the patches lie."""
        self.window_ = clip_size(self.patch_size, self.image_shape_)
        self.corners_ = self._corners()

    @property
    def _places(self):
        return self.corners_

    def _seen_from(self, place):
        return self.training_set_.crop(*place, *self.window_)

    def _extend(self):
        before = self.window_, self.corners_
        self._place()
        if before == (self.window_, self.corners_):
            super()._extend()
        else:  # no index of another place serves
            super()._resolve()

    def _corners(self):
        every = square_corners(self.window_, self.image_shape_)
        if self.location == "all":
            return every
        if self.location == "center":
            (h, w), (_, height, width) = self.window_, self.image_shape_
            return [((height - h) // 2, (width - w) // 2)]
        corner = tuple(self.location)
        if corner not in every:
            raise ValueError(
                f"location must be 'center', 'all' or (top, left) between (0, 0) and {every[-1]} "
                f"for a {self.window_} patch in an image {self.image_shape_}, got "
                f"{self.location!r}."
            )
        return [corner]

    @property
    def _n_features_out(self):
        """Number of values in the answer for one image."""
        return math.prod(self._shapes()[-1])

    def _shapes(self):
        patch = (self.image_shape_[0], *self.window_)
        return [
            self.image_shape_,
            (len(self.corners_), *patch) if self.location == "all" else patch,
        ]

    def _respond(self, images):
        if images.shape[1:] == self._shapes()[-1]:
            return images
        (h, w), corners = self.window_, self.corners_
        patches = [images[..., top : top + h, left : left + w] for top, left in corners]
        return torch.stack(patches, 1) if self.location == "all" else patches[0]

    def _windows(self, sigma):
        if self.location == "all":
            raise self._without_windows(
                "{name}(location='all') answers with many patches; give the location of one."
            )
        (corner,) = self.corners_
        return self._whole(sigma, corner, corner)

    def _posterior(self, z, sigma, recalls=None):
        z = self._respond(z)
        n_values = self.image_shape_[0] * math.prod(self.window_)
        patches = z.unbind(1) if self.location == "all" else [z]
        parts = [
            self._posterior_at(patch, sigma, corner, recalls)
            for patch, corner in zip(patches, self.corners_, strict=True)
        ]
        if self.location != "all":
            return parts[0].pooled(n_values, n_values)
        several = Posterior(
            torch.stack([part.mean for part in parts], 1),
            torch.cat([part.log_evidence for part in parts], 1),
            torch.cat([part.effective_sample_size for part in parts], 1),
            torch.stack([part.error_bound for part in parts]).amax(0),
            torch.stack([part.standard_error for part in parts]).square().mean(0).sqrt(),
            torch.stack([part.bound_is_proved for part in parts]).all(0),
        )
        return several.pooled(self.n_features_in_, n_values)
