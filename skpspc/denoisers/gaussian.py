"""The optimal linear denoiser: a Gaussian with the mean and covariance of the training set."""

import copy
import numbers
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy.typing as npt
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .._typing import Array, DataRange, Devices, ImageShape, RandomState
from .._validation import check_sigma
from ..posterior import (
    BasePrior,
    Gaussian,
    gaussian_jacobian,
    gaussian_jvp,
    gaussian_posterior,
    gaussian_trace,
    gaussian_vjp,
)
from ..support import covariance
from .base import Denoiser
from .training_set_denoiser import DEVICES, TrainingSetDenoiser


@dataclass(frozen=True, eq=False)
class GaussianPrior(BasePrior):
    """A normal distribution of images, decomposed at its first use.

    Either ``training_set`` or ``moments``, the sums over the images, is None.
    """

    training_set: Any
    moments: Any
    rank: int | None
    shrinkage: float | str

    no_attribution = (
        "GaussianDenoiser weighs all training images, possibly negatively, so it has no "
        "attribution; use a denoiser that compares images, such as EmpiricalDenoiser."
    )

    @classmethod
    def of(cls, training_set, rank, shrinkage):
        """Return the prior of a training set; keep sums where they are smaller than the images."""
        n_values = training_set.n_values
        if len(training_set) < n_values or n_values > covariance.LARGEST_PROBLEM:
            return cls(training_set, None, rank, shrinkage)
        return cls(None, covariance.Moments(training_set), rank, shrinkage)

    @property
    def device(self):
        """Device of the training images."""
        return (self.training_set if self.moments is None else self.moments).device

    @cached_property
    def gaussian(self):
        """Mean and covariance, shrunk and truncated; raises if the decomposition is too large."""
        spectrum, s = self._spectrum, self.shrinkage_used
        n_values = len(spectrum.mean)
        level = spectrum.trace / n_values
        keeps_all = self.rank is None or self.rank >= n_values
        kept = slice(None if keeps_all else self.rank)
        sampled = spectrum.eigenvalues[kept]
        return Gaussian(
            spectrum.mean,
            spectrum.components[kept],
            (1 - s) * sampled + s * level,
            s * level if keeps_all else 0.0,
            sampled,
            spectrum.n_effective,
        )

    @cached_property
    def shrinkage_used(self):
        """Coefficient of shrinkage, a float."""
        return _shrinkage(self.shrinkage, self._spectrum)

    @cached_property
    def _spectrum(self):
        """Mean and principal directions of the training images."""
        if self.moments is not None:
            return self.moments.spectrum()
        self.training_set.check_unchanged()
        n_values = self.training_set.n_values
        if min(len(self.training_set), n_values) <= covariance.LARGEST_PROBLEM:
            return covariance.spectrum_of_rows(self.training_set)
        if self.rank is None:
            limit = covariance.LARGEST_PROBLEM
            raise ValueError(
                f"rank=None keeps every direction, which needs at most {limit} images or at most "
                f"{limit} values in an image, but X has {len(self.training_set)} images of "
                f"{n_values} values; pass a rank, such as 512, for a randomised decomposition."
            )
        rank = min(self.rank, n_values, len(self.training_set))
        return covariance.spectrum_by_iteration(self.training_set, rank)

    def __getstate__(self):
        state = vars(self).copy()
        if "gaussian" in state and "shrinkage_used" in state:
            state.pop("_spectrum", None)
        return state

    def posterior(self, z, sigma):
        """Return the `Posterior` of noisy images (n, C, H, W) at noise levels (n,), float64."""
        return gaussian_posterior(z, sigma, self.gaussian)

    def jacobian(self, z, sigma, pixels):
        """Return rows (n, m, C, C, H, W) of the Wiener filter."""
        return gaussian_jacobian(z, sigma, self.gaussian, pixels)

    def vjp(self, z, sigma, mean, evidence):
        """Return the cotangents of z and sigma; see `BasePrior.vjp`."""
        return gaussian_vjp(z, sigma, self.gaussian, mean, evidence)

    def trace(self, z, sigma):
        """Return the sums of the gains, (n,) float64."""
        return gaussian_trace(z, sigma, self.gaussian)

    def jvp(self, z, sigma, dz, dsigma):
        """Return the tangents of mean and log evidence; see `BasePrior.jvp`."""
        return gaussian_jvp(z, sigma, self.gaussian, dz, dsigma)


class GaussianDenoiser(TrainingSetDenoiser):
    r"""Posterior mean under a Gaussian with the mean and covariance of the training images.

    .. math::

        D(z; \sigma) &= \mu + W (z - \mu), \qquad
        W = U \operatorname{diag}\Bigl(\frac{S_k}{S_k + \sigma^2}\Bigr) U^T, \\
        \Sigma &= \sum_i v_i (x_i - \mu)(x_i - \mu)^T = U \operatorname{diag}(S) U^T

    with :math:`x_i` the training images, :math:`v_i` their sample weights, which sum to one, and
    :math:`\mu, \Sigma` their mean and population covariance. W is the Wiener filter: D is the
    linear denoiser of least mean squared error on the training set. The rows of W (:meth:`wiener`)
    are local, which explains the locality of trained networks.

    Parameters
    ----------
    rank : int, default None
        Number of directions of largest variance to keep. The denoised image is constant along the
        other directions. None, or at least C * H * W: all directions.
    shrinkage : float in [0, 1] or {"ledoit_wolf", "oas"}, default 0.0
        s of the shrunk covariance :math:`(1 - s) \Sigma + s \operatorname{tr}(\Sigma) / D`, from
        which ``rank`` then drops directions. The strings name estimates of s
        (`sklearn.covariance.ledoit_wolf`, `sklearn.covariance.oas`), for which a sample weight of 2
        counts an image twice.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.
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
        Fitting is deterministic.

    Attributes
    ----------
    mean_ : array of shape (C * H * W,)
        Mean image, flat, float64.
    components_ : array of shape (r, C * H * W)
        Orthonormal directions kept, float64, of decreasing and numerically positive variance.
    eigenvalues_ : array of shape (r,)
        Variances along the components, after shrinkage, float64.
    residual_variance_ : float
        Variance along every other direction: 0 without shrinkage or with a rank.
    shrinkage_ : float
        Coefficient s, given or estimated.
    training_set_ : TrainingSet
        Training images of positive weight. Kept only with fewer images than values in an image,
        more than 12,288 values in an image, or labels; otherwise sums replace the images.
    training_rows_ : ndarray of shape (N,), int
        Rows of X with positive weight.
    classes_ : ndarray of shape (n_classes,)
        Distinct labels, sorted. Only if fitted with labels.
    image_shape_ : tuple of (C, H, W)
        Shape of one training image.
    n_features_in_ : int
        Number of values in one image, C * H * W.
    feature_names_in_ : ndarray of shape (C * H * W,)
        Column names of X. Only if X is a data frame.
    data_range_ : tuple of (low, high) or None
        Range of the images: ``data_range`` or, for uint8 images without it, (-1, 1). None for float
        images without it.

    Raises
    ------
    ValueError
        While fitting more than 12,288 images of more than 12,288 values each, with ``rank=None`` or
        an estimated shrinkage.

    See Also
    --------
    EmpiricalDenoiser : The optimal denoiser of the training set, nonlinear.

    Notes
    -----
    The smaller of the D x D and the N x N eigenproblem is solved exactly, in float64. Where both N
    and D exceed 12,288, six randomised subspace iterations, each a pass over the images, compute
    ``rank`` directions without either matrix. They are accurate where the spectrum falls.

    :meth:`partial_fit` adds images to exact sums (of integers, for uint8) and postpones the
    decomposition, so fitting in batches equals one fit.

    ``log_evidence`` is the log density of the normal distribution of mean :math:`\mu` and
    covariance :math:`\Sigma + \sigma^2 I`, with :math:`\Sigma` shrunk and truncated, so that
    Tweedie's formula holds. The denoised image is a combination of the training images with weights
    :math:`v_i (1 + (x_i - \mu)^T (\Sigma + \sigma^2)^{-1} (z - \mu))`, which sum to one and
    may be negative. ``effective_sample_size`` is one over the sum of the squared weights, and can
    fall below one. Sample weights count there by their own effective sample size.

    References
    ----------
    Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", 1949;
    Lukoianov et al., "Locality in Image Diffusion Models Emerges from Data Statistics", 2025,
    arXiv:2509.09672; Ledoit and Wolf, "A Well-Conditioned Estimator for Large-Dimensional
    Covariance Matrices", 2004; Chen et al., "Shrinkage Algorithms for MMSE Covariance
    Estimation", 2010, Eq. 23; Halko et al., SIAM Review 2011, Alg. 4.4.

    Examples
    --------
    The training images vary along the first axis only, with variance 1. At sigma = 1 the filter
    halves the first value and removes the second, which can only be noise:

    >>> import numpy as np
    >>> from skpspc import GaussianDenoiser
    >>> X = np.array([[-1.0, 0.0], [1.0, 0.0]])
    >>> GaussianDenoiser().fit(X).denoise([[0.8, 0.3]], sigma=1.0)
    array([[0.4, 0. ]])
    """

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "device": DEVICES,
        "rank": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "shrinkage": [
            Interval(numbers.Real, 0, 1, closed="both"),
            StrOptions({"ledoit_wolf", "oas"}),
        ],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        rank: int | None = None,
        *,
        shrinkage: float | Literal["ledoit_wolf", "oas"] = 0.0,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Devices | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.rank = rank
        self.shrinkage = shrinkage
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def _learn(self, training_set):
        prior = GaussianPrior.of(training_set, self.rank, self.shrinkage)
        _ = prior.gaussian  # raises at fit if the decomposition is too large
        return prior

    def _grown(self, prior, training_set, added):
        whole = training_set
        if training_set is not None:
            whole = training_set.extended(added.images, added.sample_weight)
        if prior.moments is None:
            return GaussianPrior.of(whole, self.rank, self.shrinkage), whole
        moments = copy.deepcopy(prior.moments)
        moments.add(added)
        return GaussianPrior(None, moments, self.rank, self.shrinkage), whole

    def _hold(self, learner, prior, training_set):
        super()._hold(learner, prior, training_set)
        if prior.moments is not None and self._labels is None:
            del self.training_set_

    @property
    def mean_(self) -> Array:
        """Mean image, flat."""
        return self._of_gaussian("mean")

    @property
    def components_(self) -> Array:
        """Principal directions, in rows."""
        return self._of_gaussian("components")

    @property
    def eigenvalues_(self) -> Array:
        """Variances along the components."""
        return self._of_gaussian("eigenvalues")

    @property
    def residual_variance_(self) -> float:
        """Variance along every direction but the components."""
        check_is_fitted(self)
        return self._prior.gaussian.residual

    @property
    def shrinkage_(self) -> float:
        """Coefficient of shrinkage."""
        check_is_fitted(self)
        return self._prior.shrinkage_used

    def _of_gaussian(self, name):
        """Return an attribute of the Gaussian in the container of the training images."""
        self = self._now()
        check_is_fitted(self)
        return self._given(getattr(self._prior.gaussian, name))

    def _given(self, tensor):
        """Return a float64 result in the container of the training images."""
        return tensor if self._layout.is_torch else tensor.cpu().numpy()

    def wiener(self, sigma: float, rows: npt.ArrayLike | None = None) -> Array:
        r"""Return rows of the filter :math:`W = U \operatorname{diag}(S / (S + \sigma^2)) U^T`.

        W is the Jacobian of :meth:`denoise`: row p is the gradient of denoised pixel p.

        Parameters
        ----------
        sigma : float
            Noise level; 0 and inf are allowed.
        rows : array of int, default None
            Coordinates p of flat images, (c * H + y) * W + x. None: all D, a D x D matrix.

        Returns
        -------
        array or Tensor of shape (m, C * H * W), float64
            In the container of the training images.

        Raises
        ------
        ValueError
            If sigma is not a non-negative number, or rows lie outside the image.
        """
        self = self._now()
        check_is_fitted(self)
        gaussian, n_values = self._prior.gaussian, self.n_features_in_
        level = float(check_sigma(sigma, 1))
        at = torch.as_tensor(range(n_values) if rows is None else rows, device=self._device)
        are_ints = not (at.is_floating_point() or at.dtype == torch.bool)
        if not (are_ints and ((at >= 0) & (at < n_values)).all()):
            raise ValueError(f"rows must be ints from 0 to {n_values - 1}, got {rows!r}.")
        return self._given(gaussian.wiener(level, at.reshape(-1).long()))


def _shrinkage(shrinkage, spectrum):
    """Return the coefficient of shrinkage, given or estimated."""
    if not isinstance(shrinkage, str):
        return float(shrinkage)
    if spectrum.squares != spectrum.squares:  # NaN: unknown
        raise ValueError(
            f"shrinkage={shrinkage!r} needs the whole covariance matrix, but the number of images "
            f"and the number of values in an image both exceed {covariance.LARGEST_PROBLEM}; pass "
            "a float."
        )
    n, n_values = spectrum.n_images, len(spectrum.mean)
    level = spectrum.trace / n_values
    if shrinkage == "ledoit_wolf":
        noise = (spectrum.fourth - spectrum.squares) / (n_values * n)
        distance = spectrum.squares / n_values - level**2
        noise = min(noise, distance)
        return noise / distance if noise > 0 else 0.0
    mean_square = spectrum.squares / n_values**2
    distance = (n + 1) * (mean_square - level**2 / n_values)
    return min((mean_square + level**2) / distance, 1.0) if distance > 0 else 1.0
