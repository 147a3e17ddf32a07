"""Convex combinations of denoisers with the least error at each noise level."""

import numbers
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import check_is_fitted

from .._progress import progress
from .._typing import DataRange, Devices, ImageShape, RandomState
from .._units import half_width, warn_if_unusual
from .._warnings import warn
from ..sampling import noise_seed
from ..support.held_out import noisy_blocks
from ..support.holdout import hold_out, n_different
from ..support.training_set import DEFAULT_RANGE
from .base import Denoiser
from .blend import Blend, posterior_of, simplex_weights
from .training_set_denoiser import DEVICES, TrainingSetDenoiser

# On images in [-1, 1].
_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
# Added to the seed, so that the draws differ from the noise of `score` and `sample`.
_CALIBRATION = 2
_SHOWN = 10  # classes that a warning lists

Self = TypeVar("Self", bound="BlendedDenoiser")


class BlendedDenoiser(TrainingSetDenoiser, _BaseComposition):
    r"""Convex combination of denoisers, with the best weights at each noise level.

    .. math::

        D(z; \sigma) &= \sum_m w_m(\sigma) D_m(z; \sigma), \\
        w(\sigma) &= \operatorname*{argmin}_{w \ge 0,\, \sum_m w_m = 1}
        \operatorname{E} \Bigl\| \sum_m w_m D_m(x + \sigma \epsilon; \sigma) - y \Bigr\|^2

    over held-out images x and standard normal noise :math:`\epsilon`. The target y is x, or the
    result of another denoiser, such as a trained network, for :math:`x + \sigma \epsilon`. The
    method is stacking, with one regression for each noise level.

    Parameters
    ----------
    denoisers : list of (str, Denoiser)
        Names and members :math:`D_m`; clones of the members are fitted. Wrap a member in
        `sklearn.frozen.FrozenEstimator` to use it without cloning and fitting, for example a large
        network.
    against : "clean" or denoiser, default "clean"
        Target of the blend. "clean": the held-out images. A denoiser, for example a fitted
        `NetworkDenoiser`: its results for the noisy held-out images. A fitted denoiser is used
        directly. Of an unfitted denoiser, such as `sklearn.base.clone` returns, a clone is fitted
        beside the members. A `sklearn.frozen.FrozenEstimator` stays fitted in clones.
    sigmas : array of float, default None
        Positive noise levels at which weights are fitted. Weights are interpolated linearly in log
        sigma, and constant beyond the ends. None: 0.05, 0.1, 0.2, ..., 6.4 for images on [-1, 1],
        scaled to ``data_range``. Against a network, use only noise levels that it was trained on.
    n_images : int, default 128
        Number of different images of X held out, at least 2. The larger half fits the weights, and
        the other half measures ``errors_``.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`, in the units of the images.
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat, (n, d). None: a flat row is a 1 x d image.
        Members receive whole images and need no ``image_shape``.
    data_range : tuple of (low, high), default None
        Range of the images, and unit of noise levels. uint8 pixels 0 to 255 stand for low to high,
        and floats must lie between low and high. None: uint8 images are read on [-1, 1], and float
        images are used unscaled.
    device : str, torch.device or list of them, default None
        Device of the training set and of the computation. Each device of a list holds a part of the
        training set. None: the device of X.
    random_state : int, RandomState, Generator or None, default 0
        Seed of the held-out images and their noise, at fit, and of the noise of :meth:`score`.
        None: new draws.

    Attributes
    ----------
    weights_ : ndarray of shape (n_sigmas, n_denoisers)
        Weights, non-negative; each row sums to one.
    sigmas_ : ndarray of shape (n_sigmas,)
        Noise levels, increasing.
    errors_ : ndarray of shape (n_sigmas, n_denoisers + 1)
        Mean squared error per pixel of each member and, in the last column, of the blend, on the
        half of the held-out images that did not fit the weights.
    denoisers_ : list of Denoiser
        Members, fitted on all of X.
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
        While fitting: without members; for duplicate names; for a member that does not return
        whole images; for too few images to hold out; for a network that returns NaN. While
        denoising: for a class of ``n_images`` different images or fewer.

    Notes
    -----
    Members are fitted twice, like estimators in scikit-learn's searches: without the held-out
    images, to measure ``errors_``, and then on all of X. Copies of an image are held out together,
    so that no member is fitted on a held-out image. Copies count in the mean, and so do sample
    weights. :meth:`partial_fit` repeats the fit on all images.

    With labels, each class has its own blend, fitted on the images of the class at its first use,
    in the time of a fit. A class needs more than ``n_images`` different images: pass an
    ``n_images`` below the size of the smallest class.

    With :math:`A_{mn}` the mean product of the errors of members m and n, the weights minimise
    :math:`w^T A w`, which non-negative least squares solve exactly.

    ``log_evidence``, ``effective_sample_size``, ``error_bound`` and ``standard_error`` are the
    weighted means of the members' values. By the triangle inequality, the last two are bounds for
    the blend. ``bound_is_proved`` is True where it is True for every member with weight. Members
    without weight are not computed. A quantity that a member with weight lacks, such as log p(z)
    of a network, is NaN.

    References
    ----------
    Breiman, "Stacked Regressions", Machine Learning 24, 1996; Lawson and Hanson, "Solving Least
    Squares Problems", 1974, ch. 23.

    Examples
    --------
    Weights of two members, and mean squared errors of the members and, in the last column, of the
    blend. PSPC gains weight as the noise grows, and the blend has the least error.

    >>> from skpspc import BlendedDenoiser, GaussianDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> members = [("gaussian", GaussianDenoiser()), ("pspc", PSPCDenoiser(4))]
    >>> model = BlendedDenoiser(members, sigmas=[0.2, 1.0]).fit(X)
    >>> model.weights_.round(1)
    array([[0.5, 0.5],
           [0.2, 0.8]])
    >>> model.errors_.round(3)
    array([[0.023, 0.021, 0.017],
           [0.149, 0.133, 0.132]])
    """

    weights_: np.ndarray
    sigmas_: np.ndarray
    errors_: np.ndarray
    denoisers_: list[Denoiser]

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "device": DEVICES,
        "denoisers": [list, tuple],
        "against": [StrOptions({"clean"}), HasMethods(["denoise"])],
        "sigmas": ["array-like", None],
        "n_images": [Interval(numbers.Integral, 2, None, closed="left")],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        denoisers: Sequence[tuple[str, Denoiser | FrozenEstimator]],
        against: Denoiser | FrozenEstimator | Literal["clean"] = "clean",
        *,
        sigmas: npt.ArrayLike | None = None,
        n_images: int = 128,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Devices | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.denoisers = denoisers
        self.against = against
        self.sigmas = sigmas
        self.n_images = n_images
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return parameters; with ``deep``, also the members by name and their parameters.

        Parameters
        ----------
        deep : bool, default True
            Include the members and their parameters.

        Returns
        -------
        dict
            Parameters by name.
        """
        return self._get_params("denoisers", deep=deep)

    def set_params(self: Self, **params: Any) -> Self:
        """Set parameters; ``name`` replaces a member, ``name__parameter`` sets its parameter.

        Parameters
        ----------
        **params : dict
            New values by name.

        Returns
        -------
        self
            The denoiser, not yet fitted with the new values.
        """
        return self._set_params("denoisers", **params)

    def _check(self, training_set):
        self._check_members()
        self._sigma_grid = self._grid()
        self._warn_of_small_classes(training_set)
        self._fitted_members = [
            self._fitted(denoiser, training_set) for _, denoiser in self.denoisers
        ]

    def _learn(self, training_set):
        rng = np.random.default_rng([noise_seed(self.random_state), _CALIBRATION])
        fitted, held_out = hold_out(training_set, self.n_images, rng)
        trials = [_prior_on(member, fitted) for member in self._fitted_members]
        reference = self._reference(fitted)
        fitting, reporting = self._error_products(trials, reference, held_out, noise_seed(rng))
        weights = np.stack([simplex_weights(product) for product in fitting])
        blend = np.einsum("sm,smn,sn->s", weights, reporting, weights)
        errors = np.column_stack([np.diagonal(reporting, axis1=1, axis2=2), blend])
        members = [
            _prior_on(member, training_set if self._learns_subsets else None)
            for member in self._fitted_members
        ]
        return Blend(members, self._sigma_grid, weights, errors, training_set.device)

    def _attributes(self, prior):
        return {
            "weights_": prior.weights,
            "sigmas_": prior.sigmas,
            "errors_": prior.errors,
            "denoisers_": self._fitted_members,
        }

    def _warn_of_small_classes(self, training_set):
        """Warn of classes with too few different images to hold out ``n_images``."""
        if self._labels is None:
            return
        counts = n_different(training_set, self._labels.codes, len(self.classes_))
        small = np.flatnonzero(counts <= self.n_images)
        if len(small):
            names = ", ".join(repr(self.classes_.tolist()[code]) for code in small[:_SHOWN])
            more = f", ... ({len(small)} in all)" if len(small) > _SHOWN else ""
            warn(
                f"{len(small)} of {len(counts)} classes cannot be denoised or sampled, because "
                f"they have no more than n_images={self.n_images} different images: {names}{more}; "
                "pass a smaller n_images."
            )

    def _check_members(self):
        """Raise unless ``denoisers`` is a list of at least one (name, denoiser)."""
        for member in self.denoisers:
            if not (isinstance(member, tuple) and len(member) == 2 and isinstance(member[0], str)):
                raise ValueError(
                    f"denoisers must be a list of (name, denoiser) pairs, but contains {member!r}."
                )
            is_denoiser = isinstance(getattr(member[1], "estimator", member[1]), Denoiser)
            if not is_denoiser or isinstance(member[1], type):
                raise ValueError(
                    f"the member {member[0]!r} must be a denoiser, not a class, got {member[1]!r}; "
                    "wrap a network in NetworkDenoiser."
                )
            if getattr(getattr(member[1], "estimator", member[1]), "operator", None) is not None:
                raise ValueError(
                    f"the member {member[0]!r} has an operator and maps measurements to images; "
                    "blend denoisers with operator=None."
                )
        if len(self.denoisers) == 0:
            raise ValueError(
                "denoisers must hold at least one (name, denoiser) pair, got an empty list."
            )
        self._validate_names([name for name, _ in self.denoisers])

    def _grid(self):
        """Return the noise levels of the calibration, increasing."""
        sigmas = self.sigmas
        if sigmas is None:
            warn_if_unusual(self, "the noise levels of BlendedDenoiser")
            sigmas = half_width(self.data_range_) * np.array(_SIGMAS)
        try:
            sigmas = np.unique(np.asarray(sigmas, dtype=np.float64))
        except (TypeError, ValueError):
            sigmas = np.empty(0)
        if len(sigmas) == 0 or not (np.isfinite(sigmas) & (sigmas > 0)).all():
            raise ValueError(
                f"sigmas must be one or more positive, finite numbers, got {self.sigmas!r}."
            )
        return sigmas

    def _fitted(self, denoiser, training_set):
        """Return a clone of a denoiser, fitted on images with the data range of the blend."""
        model = clone(denoiser)
        range_parameter = _range_parameter(model)
        if range_parameter is not None:
            model.set_params(**{range_parameter: self.data_range})
        # the member's parameters have not been validated yet
        with config_context(skip_parameter_validation=False):
            model.fit(training_set.images, None, sample_weight=training_set.sample_weight)
        own = getattr(model, "data_range_", None) or DEFAULT_RANGE
        if own != training_set.data_range:
            raise ValueError(
                f"{denoiser!r} was fitted with data_range={own}, but BlendedDenoiser has "
                f"data_range={self.data_range}; give both an equal data_range."
            )
        return model

    def _reference(self, training_set):
        """Return the denoiser whose answers are the target, or None for clean images."""
        if isinstance(self.against, str):
            return None
        if hasattr(self.against, "fit"):
            try:
                check_is_fitted(self.against)
            except NotFittedError:
                return self._fitted(self.against, training_set)
        return self.against

    def _error_products(self, members, reference, held_out, seed):
        """Return mean products of the members' errors on both halves, (2, n_sigmas, M, M)."""
        half, sigmas = (len(held_out) + 1) // 2, self._sigma_grid
        weight = torch.zeros(2, len(held_out), dtype=torch.float64, device=held_out.device)
        for of_half, rows in zip(weight, (slice(half), slice(half, None)), strict=True):
            of_half[rows] = held_out.sample_weight[rows] / held_out.sample_weight[rows].sum()
        products = np.zeros((2, len(sigmas), len(members), len(members)))
        noisy_images = noisy_blocks(held_out, sigmas, seed, noise_per_level=True)
        for rows, clean, noisy, levels in noisy_images:
            blocks = zip(noisy.split(len(clean)), levels.split(len(clean)), strict=True)
            for j, (z, level) in enumerate(progress(blocks, "noise levels", len(sigmas))):
                target = clean if reference is None else self._target(reference, z, sigmas[j])
                errors = self._errors(members, z, level, target)
                product = torch.einsum("mid,nid,hi->hmn", errors, errors, weight[:, rows])
                products[:, j] += product.cpu().numpy() / held_out.n_values
        return products

    def _target(self, reference, z, sigma):
        """Return the answers of the reference to noisy images."""
        answer = reference.denoise(z, float(sigma))
        if not isinstance(answer, torch.Tensor) or answer.shape != z.shape:
            got = tuple(getattr(answer, "shape", ())) or type(answer).__name__
            raise ValueError(
                f"against must map a tensor of shape {tuple(z.shape)} to a tensor of that shape, "
                f"got {got}; pass a denoiser of whole images."
            )
        if not answer.isfinite().all():
            raise ValueError(
                f"against returned NaN or infinity at sigma = {sigma}; choose sigmas that it was "
                "trained on."
            )
        return answer

    def _errors(self, members, z, sigma, target):
        """Return errors of the members' answers, (M, n, D) float64."""
        errors = []
        with torch.no_grad():
            for (name, _), member in zip(self.denoisers, members, strict=True):
                mean = posterior_of(member, z, sigma).mean
                if mean.shape != z.shape:
                    raise ValueError(
                        f"the member {name!r} returns shape {tuple(mean.shape[1:])} for an image "
                        f"of shape {tuple(z.shape[1:])}; blend only denoisers of whole images."
                    )
                errors.append((mean.double() - target.double()).flatten(1))
        return torch.stack(errors)


def _range_parameter(denoiser):
    """Return the name of the parameter that holds the data range; None if it is frozen."""
    prefix = ""
    while not isinstance(denoiser, FrozenEstimator):
        if "data_range" in denoiser.get_params(deep=False):
            return f"{prefix}data_range"
        denoiser, prefix = denoiser.denoiser, f"{prefix}denoiser__"
    return None


def _prior_on(member, training_set):
    """Return the prior of a fitted member, or the one that it makes of other images."""
    if isinstance(member, FrozenEstimator):
        return member.estimator._prior_of()
    return member._prior_of() if training_set is None else member._prior_on(training_set)
