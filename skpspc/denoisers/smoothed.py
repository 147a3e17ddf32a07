"""Mean of a denoiser over displaced noisy images."""

import copy
import numbers
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from .._typing import ArrayLike, RandomState
from ..posterior import BasePrior
from ..posterior.posterior import weighted
from ..sampling import draw_noise, noise_seed
from .base import Denoiser, fit_context

# Added to the seed, so that displacements differ from the noise of `score` and `sample`.
_DISPLACEMENTS = 1
# Attributes of the inner denoiser that describe its images.
_IMAGE_ATTRIBUTES = (
    "image_shape_",
    "n_features_in_",
    "feature_names_in_",
    "data_range_",
    "_layout",
    "_limits",
)

Self = TypeVar("Self", bound="SmoothedDenoiser")


@dataclass(frozen=True, eq=False)
class SmoothedPrior(BasePrior):
    """Mean of a prior over displaced copies of the noisy image, drawn with ``seed``."""

    prior: BasePrior
    tau: float
    n_draws: int
    seed: int

    no_attribution = (
        "SmoothedDenoiser averages over displaced noisy images; call the method of its denoiser_ "
        "on each."
    )

    @property
    def device(self):
        """Device of the computation."""
        return self.prior.device

    def displacements(self, z):
        """Return the displacements of every noisy image, (n_draws, *shape)."""
        return self.tau * draw_noise(z.shape[1:], self.n_draws, self.seed).to(z)

    def posterior(self, z, sigma):
        """Return the mean of the posteriors of displaced noisy images."""
        rows = torch.arange(len(z), device=z.device)
        weight = torch.full((len(z),), 1 / self.n_draws, dtype=torch.float64, device=z.device)
        return weighted(
            ((rows, weight, self.prior.posterior(z + d, sigma)) for d in self.displacements(z)),
            len(z),
        )

    def jacobian(self, z, sigma, pixels):
        """Return the mean of the Jacobians at displaced noisy images."""
        moved = (z + displacement for displacement in self.displacements(z))
        return sum(self.prior.jacobian(at, sigma, pixels) for at in moved) / self.n_draws

    def vjp(self, z, sigma, mean, evidence):
        """Return the mean of the cotangents at displaced noisy images."""
        moved = (z + displacement for displacement in self.displacements(z))
        return self._mean(self.prior.vjp(at, sigma, mean, evidence) for at in moved)

    def jvp(self, z, sigma, dz, dsigma):
        """Return the mean of the tangents at displaced noisy images."""
        moved = (z + displacement for displacement in self.displacements(z))
        return self._mean(self.prior.jvp(at, sigma, dz, dsigma) for at in moved)

    def _mean(self, pairs):
        """Return the mean of pairs of tensors, one pair for each displacement."""
        first, second = next(pairs)
        for one, other in pairs:
            first, second = first + one, second + other
        return first / self.n_draws, second / self.n_draws

    def jacobian_block(self, z, n_pixels):
        """Return the numbers of noisy images and of pixels for one call of `jacobian`."""
        return self.prior.jacobian_block(z, n_pixels)

    def answered(self, images):
        """Return the pixels of images that the prior estimates."""
        return self.prior.answered(images)

    def measured(self, images):
        """Return the values of which noisy images show a noisy copy."""
        return self.prior.measured(images)

    def for_sampling(self):
        """Return the prior for one run of a sampler; raise if noisy images are measurements."""
        self.prior.for_sampling()
        return self


class SmoothedDenoiser(Denoiser):
    r"""Mean of a denoiser's results for displaced copies of the noisy image.

    .. math::

        D(z; \sigma) = \frac{1}{M} \sum_{m=1}^M D_0(z + \tau e_m; \sigma), \qquad
        e_m \sim \mathcal N(0, I)

    with :math:`D_0` the parameter ``denoiser``. Smoothing rounds the edges between the basins of
    the training images. With the empirical denoiser it is the closed-form diffusion model of
    Scarvelis et al., whose samples are barycentres of training images.

    Parameters
    ----------
    denoiser : Denoiser or FrozenEstimator
        D_0; a clone is fitted. A denoiser inside a ``FrozenEstimator`` is used without cloning and
        fitting, and X is ignored.
    tau : float, default 0.1
        Standard deviation of the displacements, in the units of the images, not scaled to
        ``data_range``. 0: D_0 itself.
    n_draws : int, default 8
        M, the number of displaced copies. Each copy costs one call of D_0.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time of long calls.
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`, in the units of the images.
    random_state : int, RandomState, Generator or None, default 0
        Seed of the displacements, at fit, and of the noise of :meth:`score`. All images and noise
        levels share the displacements, so that D is a function as smooth as D_0. None: new draws.

    Attributes
    ----------
    denoiser_ : Denoiser or FrozenEstimator
        Fitted clone, or the frozen denoiser.
    classes_ : ndarray of shape (n_classes,)
        Distinct labels, sorted. Only if ``denoiser_`` was fitted with labels.
    image_shape_ : tuple of (C, H, W)
        Shape of one training image.
    n_features_in_ : int
        Number of values in one image, C * H * W.
    feature_names_in_ : ndarray of shape (C * H * W,)
        Column names of X. Only if X is a data frame.
    data_range_ : tuple of (low, high) or None
        Range of the images of ``denoiser_``. None for float images of no declared range.

    Notes
    -----
    ``image_shape``, ``data_range`` and ``device`` are parameters of the inner denoiser:
    ``set_params(denoiser__device=...)``. ``log_evidence``, ``effective_sample_size`` and
    ``error_bound`` are means over the displacements; the gradient of ``log_evidence`` is the mean
    of the scores. ``bound_is_proved`` is True where it is True for every displacement.

    References
    ----------
    Scarvelis, Borde and Solomon, "Closed-Form Diffusion Models", arXiv:2310.12395.

    Examples
    --------
    Near the boundary between two training images, -1 and 1, the empirical denoiser jumps from one
    to the other. The smoothed denoiser moves gradually:

    >>> import numpy as np
    >>> from skpspc import EmpiricalDenoiser, SmoothedDenoiser
    >>> X = np.array([[-1.0], [1.0]])
    >>> Z = [[-0.2], [0.0], [0.2]]
    >>> EmpiricalDenoiser().fit(X).denoise(Z, sigma=0.1).ravel().round(2)
    array([-1.,  0.,  1.])
    >>> model = SmoothedDenoiser(EmpiricalDenoiser(), tau=0.5, n_draws=100)
    >>> model.fit(X).denoise(Z, sigma=0.1).ravel().round(2)
    array([-0.22,  0.05,  0.37])
    """

    denoiser_: Any
    image_shape_: tuple[int, int, int]
    n_features_in_: int
    data_range_: tuple[float, float] | None

    _parameter_constraints = {
        "denoiser": [Denoiser, FrozenEstimator],
        "tau": [Interval(numbers.Real, 0, None, closed="left")],
        "n_draws": [Interval(numbers.Integral, 1, None, closed="left")],
        "sigma": Denoiser._parameter_constraints["sigma"],
        "verbose": ["verbose"],
        "random_state": Denoiser._parameter_constraints["random_state"],
    }

    def __init__(
        self,
        denoiser: Denoiser | FrozenEstimator,
        tau: float = 0.1,
        *,
        n_draws: int = 8,
        verbose: int = 0,
        sigma: float = 0.5,
        random_state: RandomState | None = 0,
    ) -> None:
        self.denoiser = denoiser
        self.tau = tau
        self.n_draws = n_draws
        self.verbose = verbose
        self.sigma = sigma
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=False)
    def fit(
        self: Self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Fit a clone of the denoiser, and draw the displacements.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            Training images.
        y : array of shape (n,), default None
            Labels, passed to the ``fit`` of the inner denoiser.
        sample_weight : array of shape (n,), default None
            Weights of the images, passed to the ``fit`` of the inner denoiser.

        Returns
        -------
        self
            The fitted denoiser.

        Raises
        ------
        ValueError
            If the ``fit`` of the inner denoiser raises; if a ``FrozenEstimator`` holds no denoiser.
        """
        inner = clone(self.denoiser)
        if not isinstance(getattr(inner, "estimator", inner), Denoiser):
            raise ValueError(f"a FrozenEstimator must hold a denoiser, got {self.denoiser!r}.")
        new = copy.copy(self)
        new.denoiser_ = inner.fit(X, y, sample_weight=sample_weight)
        seeds = np.random.SeedSequence([noise_seed(self.random_state), _DISPLACEMENTS])
        seed = int.from_bytes(seeds.generate_state(4).tobytes(), "little")
        new._displaced = {"tau": self.tau, "n_draws": self.n_draws, "seed": seed}
        new._warned = set()
        new._adopt()
        self.__dict__ = new.__dict__
        return self

    @fit_context(prefer_skip_nested_validation=False)
    def partial_fit(
        self: Self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Add training images; a frozen denoiser does not change.

        The current parameters of the inner denoiser, ``tau`` and ``n_draws`` apply. The seed of the
        displacements does not change.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            New training images.
        y : array of shape (n,), default None
            Labels of the new images.
        sample_weight : array of shape (n,), default None
            Weights of the new images.

        Returns
        -------
        self
            The fitted denoiser.

        Raises
        ------
        ValueError
            If the ``partial_fit`` of the inner denoiser raises.
        """
        if not hasattr(self, "denoiser_"):
            return self.fit(X, y, sample_weight)
        if isinstance(self.denoiser_, FrozenEstimator):  # it delegates `partial_fit`
            return self
        new = copy.copy(self)
        new.denoiser_ = copy.copy(self.denoiser_)
        new.denoiser_.set_params(**self.denoiser.get_params(deep=False))
        new.denoiser_.partial_fit(X, y, sample_weight=sample_weight)
        new._displaced = {**self._displaced, "tau": self.tau, "n_draws": self.n_draws}
        new._adopt()
        self.__dict__ = new.__dict__
        return self

    def _adopt(self):
        """Copy the attributes that describe images from the inner denoiser."""
        for name in _IMAGE_ATTRIBUTES:
            if hasattr(self.denoiser_, name):
                setattr(self, name, getattr(self.denoiser_, name))
            elif hasattr(self, name):
                delattr(self, name)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the inner denoiser's names of output columns.

        Parameters
        ----------
        input_features : array of str, default None
            Names of input columns.

        Returns
        -------
        ndarray of str
            Names of output columns.
        """
        check_is_fitted(self)
        return self.denoiser_.get_feature_names_out(input_features)

    @property
    def classes_(self) -> np.ndarray:
        """Distinct labels of the inner denoiser, sorted."""
        return self.denoiser_.classes_

    @property
    def data_range(self):  # type: ignore[override]
        """Parameter ``data_range`` of the inner denoiser."""
        return self.denoiser_.data_range

    def _prior_of(self, code=None):
        return SmoothedPrior(self.denoiser_._prior_of(code), **self._displaced)

    def _prior_on(self, training_set):
        """Return the prior of another training set, with the parameters of the fit."""
        return SmoothedPrior(self.denoiser_._prior_on(training_set), **self._displaced)

    def _codes(self, y, n):
        return self.denoiser_._codes(y, n)

    @property
    def _any_size(self):  # type: ignore[override]
        return self.denoiser_._any_size

    def _input_shapes(self):
        return self.denoiser_._input_shapes()

    @property
    def _answer_shape(self):
        return self.denoiser_._answer_shape

    @property
    def _proved_by(self):
        return self.denoiser_._proved_by
