"""Several denoisers in one: the mixture that errs least at each noise level."""

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import check_is_fitted

from .._units import half_width, warn_if_unusual
from .._warnings import warn
from ..posterior import BasePrior, Posterior
from ..sampling import noise_seed
from ..support.held_out import noisy_blocks
from ..support.holdout import hold_out, n_different
from ..support.training_set import DEFAULT_RANGE
from .base import Denoiser
from .training_set_denoiser import TrainingSetDenoiser

# On images in [-1, 1]: from where images are hardly noisy to where they are hardly seen.
_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
# Beside the seed: what is drawn here must not be the noise that `score` and `sample` draw.
_CALIBRATION = 2
_SHOWN = 10  # classes that a warning lists


@dataclass(frozen=True, eq=False)
class Blend(BasePrior):
    """Convex combination of priors, with weights that depend on the noise level.

    Attributes
    ----------
    members : list of BasePrior
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    weights : ndarray of shape (L, M)
        Weights at the noise levels; interpolated in between, linearly in log sigma.
    errors : ndarray of shape (L, M + 1)
        Mean squared errors of members and blend on held-out images.
    device : torch.device
    """

    members: list[BasePrior]
    sigmas: np.ndarray
    weights: np.ndarray
    errors: np.ndarray
    device: Any

    no_attribution = "BlendedDenoiser mixes the answers of its members; ask one of its denoisers_."

    def weights_at(self, sigma):
        """Return weights (n, M), float64, at noise levels (n,)."""
        with np.errstate(divide="ignore"):
            at = np.log(sigma.cpu().numpy())
        grid = np.log(self.sigmas)
        columns = [np.interp(at, grid, weight) for weight in self.weights.T]
        return torch.from_numpy(np.column_stack(columns)).to(sigma.device)

    def posterior(self, z, sigma):
        """Return the weighted mean of the members' posteriors."""
        terms = (
            (rows, weight, _posterior_of(member, z[rows], sigma[rows]))
            for member, rows, weight in self._weighted_members(sigma)
        )
        return Posterior.weighted(terms, len(z))

    def jacobian(self, z, sigma, pixels):
        """Return the weighted mean of the members' Jacobians."""
        out = z.new_zeros(len(z), len(pixels), z.shape[1], *z.shape[1:])
        for member, rows, weight in self._weighted_members(sigma):
            arguments = (tensor.to(member.device) for tensor in (z[rows], sigma[rows], pixels))
            part = member.jacobian(*arguments).to(z)
            out[rows] += weight.to(z).view(-1, 1, 1, 1, 1, 1) * part
        return out

    def _weighted_members(self, sigma):
        """Yield members, the images at which they have weight, and the weights."""
        for member, weight in zip(self.members, self.weights_at(sigma).T, strict=True):
            rows = weight.nonzero().squeeze(1)
            if len(rows):
                yield member, rows, weight[rows]


class BlendedDenoiser(TrainingSetDenoiser, _BaseComposition):
    r"""Convex combination of denoisers, with the best weights at each noise level.

    .. math::

        D(z; \sigma) = \sum_m w_m(\sigma) D_m(z; \sigma), \qquad
        w(\sigma) = \operatorname*{argmin}_{w \ge 0,\, \sum_m w_m = 1}
        \operatorname{E} \Bigl\| \sum_m w_m D_m(x + \sigma \epsilon; \sigma) - y \Bigr\|^2

    over images x that the :math:`D_m` were not fitted on and standard normal noise, with y
    = x, or what another denoiser, such as a trained network, makes of :math:`x + \sigma
    \epsilon`. It is stacking, with one regression for each noise level.

    Parameters
    ----------
    denoisers : list of (str, Denoiser)
        The members :math:`D_m` with their names; clones of them are fitted. One that is not to
        be cloned or fitted, a large network for example, may be wrapped in
        `sklearn.frozen.FrozenEstimator`.
    against : "clean" or denoiser, default "clean"
        What the blend is to be near to. "clean": the held-out images. A denoiser, a fitted
        `NetworkDenoiser` for example: its answers, asked for once for each held-out image and
        noise level. It is used as it is if it is fitted; if not, as `sklearn.base.clone` leaves
        it, a clone is fitted beside the members. `sklearn.frozen.FrozenEstimator` keeps one
        fitted.
    sigmas : array of float, default None
        Noise levels at which weights are found, positive; in between they are interpolated,
        linearly in log sigma, and beyond the ends they stay. None: 0.05, 0.1, 0.2, ..., 6.4
        for images on [-1, 1], scaled to ``data_range``. Against a network, stay within
        the noise levels that it was trained on.
    n_images : int, default 128
        How many different images of X are held out, at least 2. The weights are fitted on one
        half of them (the larger one) and ``errors_`` measured on the other.
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`, in the units of the
        images (uint8 images live on [-1, 1]).
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat; None: a flat row is a 1 x d image. Members are
        given whole images, and need none.
    data_range : tuple of (low, high), default None
        Range of the images, in whose units noise levels are: uint8 pixels 0 to 255 stand for
        low to high, and floats must lie between them. None: uint8 images are read on [-1, 1],
        float images are used unscaled.
    device : str or torch.device, default None
        Where to work; None: where X is.
    random_state : int, RandomState, Generator or None, default 0
        Decides which images are held out and their noise, at fit, and fixes the noise of
        :meth:`score`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_sigmas, n_denoisers)
        Non-negative, each row with a sum of one.
    sigmas_ : ndarray of shape (n_sigmas,)
        The noise levels, increasing.
    errors_ : ndarray of shape (n_sigmas, n_denoisers + 1)
        Mean squared error per pixel of each member and, in the last column, of the blend, on
        the half of the held-out images on which no weight was fitted.
    denoisers_ : list of Denoiser
        The members, fitted on all of X.
    image_shape_, n_features_in_, training_set_
        As in `EmpiricalDenoiser`.

    Raises
    ------
    ValueError
        While fitting: without members, for names that are not unique, a member that answers
        with less than whole images, too few images to hold some out, or a network that
        answers with NaN.
        While denoising, for a class of ``n_images`` different images or fewer.

    Notes
    -----
    Fitting takes two rounds, as in scikit-learn's searches: the members are fitted on what is
    not held out, asked for the held-out images, and then fitted again, on all of X.
    ``errors_`` are those of the first round. Images that occur more than once in X are held
    out together, so that no member has seen a held-out image, and count as often in the
    mean, as sample weights do. :meth:`partial_fit` does it all again on all images.

    With labels, the denoiser of a class is a blend of its own: when it is first asked for, the
    members are fitted, weighed and fitted again on the images of that class alone, which takes as
    long as a fit of them. Every class that is asked for needs more than ``n_images`` different
    images; pass an ``n_images`` below the size of the smallest.

    With :math:`A_{mn}` the mean product of the errors of members m and n, the weights minimise
    :math:`w^T A w`, which non-negative least squares solve exactly.

    ``log_evidence`` and ``effective_sample_size`` are the members' weighted means;
    ``error_bound`` and ``standard_error`` too, which by the triangle inequality are bounds for
    the blend. ``bound_is_proved`` is True where it is for every member that has weight. A member
    without weight is not asked, and one that does not know a quantity, as networks do not know
    log p(z), makes it NaN where it has weight.

    References
    ----------
    Breiman, "Stacked Regressions", Machine Learning 24, 1996; Lawson and Hanson, "Solving Least
    Squares Problems", 1974, ch. 23.

    Examples
    --------
    >>> from skpspc import BlendedDenoiser, GaussianDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> members = [("gaussian", GaussianDenoiser()), ("pspc", PSPCDenoiser(4))]
    >>> model = BlendedDenoiser(members, sigmas=[0.2, 1.0]).fit(X)
    >>> model.weights_.round(1)
    array([[..., ...],
           [..., ...]])
    >>> bool((model.errors_[:, 2] < model.errors_[:, :2].min(axis=1)).all())
    True
    """

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "denoisers": [list, tuple],
        "against": [StrOptions({"clean"}), HasMethods(["denoise"])],
        "sigmas": ["array-like", None],
        "n_images": [Interval(numbers.Integral, 2, None, closed="left")],
    }

    def __init__(
        self,
        denoisers,
        against="clean",
        *,
        sigmas=None,
        n_images=128,
        sigma=0.5,
        image_shape=None,
        data_range=None,
        device=None,
        random_state=0,
    ):
        self.denoisers = denoisers
        self.against = against
        self.sigmas = sigmas
        self.n_images = n_images
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def get_params(self, deep=True):
        """Parameters, and with ``deep`` the members by name and their parameters.

        Parameters
        ----------
        deep : bool, default True

        Returns
        -------
        dict
        """
        return self._get_params("denoisers", deep=deep)

    def set_params(self, **params):
        """Set parameters; ``name`` replaces a member and ``name__parameter`` sets one of its.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self
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
        kept, held = hold_out(training_set, self.n_images, rng)
        trials = [_prior_on(member, kept) for member in self._fitted_members]
        products = self._error_products(trials, self._reference(kept), held, noise_seed(rng))
        fitting, reporting = products
        weights = np.stack([_simplex_weights(product) for product in fitting])
        blend = np.einsum("sm,smn,sn->s", weights, reporting, weights)
        errors = np.column_stack([np.diagonal(reporting, axis1=1, axis2=2), blend])
        members = [
            _prior_on(member, training_set if self._learns_parts else None)
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
        """Warn of classes of which ``n_images`` cannot be held out."""
        if self._labels is None:
            return
        counts = n_different(training_set, self._labels.codes, len(self.classes_))
        small = np.flatnonzero(counts <= self.n_images)
        if len(small):
            names = ", ".join(repr(self.classes_.tolist()[code]) for code in small[:_SHOWN])
            more = f", ... ({len(small)} in all)" if len(small) > _SHOWN else ""
            which = "no class" if len(small) == len(counts) else "not every class"
            warn(
                f"{which} can be asked for: with n_images={self.n_images}, a class needs more "
                f"than {self.n_images} different images, and these have no more: {names}{more}; "
                "pass a smaller n_images."
            )

    def _check_members(self):
        """Refuse what is no list of at least one (name, denoiser)."""
        for member in self.denoisers:
            if not (isinstance(member, tuple) and len(member) == 2 and isinstance(member[0], str)):
                raise ValueError(
                    f"denoisers must be a list of (name, denoiser) pairs, got {member!r} in it."
                )
            is_denoiser = isinstance(getattr(member[1], "estimator", member[1]), Denoiser)
            if not is_denoiser or isinstance(member[1], type):
                raise ValueError(
                    f"the member {member[0]!r} must be a denoiser, no class of them, got "
                    f"{member[1]!r}; wrap a network in NetworkDenoiser."
                )
        if len(self.denoisers) == 0:
            raise ValueError(
                "denoisers must hold at least one (name, denoiser) pair, got none of them."
            )
        self._validate_names([name for name, _ in self.denoisers])

    def _grid(self):
        """The noise levels of the calibration, increasing."""
        if self.sigmas is None:
            warn_if_unusual(self, "the noise levels of BlendedDenoiser")
        given = (
            half_width(self.data_range_) * np.array(_SIGMAS) if self.sigmas is None else self.sigmas
        )
        try:
            sigmas = np.unique(np.asarray(given, dtype=np.float64))
        except (TypeError, ValueError):
            sigmas = np.empty(0)
        if len(sigmas) == 0 or not (np.isfinite(sigmas) & (sigmas > 0)).all():
            raise ValueError(
                f"sigmas must be positive, finite and at least one, got {self.sigmas!r}."
            )
        return sigmas

    def _fitted(self, denoiser, training_set):
        """Return a clone of a denoiser, fitted on images with the data range of the blend."""
        model = clone(denoiser)
        if not isinstance(model, FrozenEstimator):
            model.set_params(**dict.fromkeys(_range_parameters(model), self.data_range))
        # its parameters are not those that have been checked so far
        with config_context(skip_parameter_validation=False):
            model.fit(training_set.images, None, sample_weight=training_set.sample_weight)
        own = getattr(model, "data_range_", None) or DEFAULT_RANGE
        if own != training_set.data_range:
            raise ValueError(
                f"{denoiser!r} was fitted with data_range={own}, and BlendedDenoiser has "
                f"data_range={self.data_range}; give both the same."
            )
        return model

    def _reference(self, kept):
        """Return the denoiser whose answers are to be met, or None for clean images."""
        if isinstance(self.against, str):
            return None
        if hasattr(self.against, "fit"):
            try:
                check_is_fitted(self.against)
            except NotFittedError:
                return self._fitted(self.against, kept)
        return self.against

    def _error_products(self, members, reference, held, seed):
        """Return mean products of the members' errors on both halves, (2, n_sigmas, M, M)."""
        half, sigmas = (len(held) + 1) // 2, self._sigma_grid
        weight = torch.zeros(2, len(held), dtype=torch.float64, device=held.device)
        for of_half, rows in zip(weight, (slice(half), slice(half, None)), strict=True):
            of_half[rows] = held.sample_weight[rows] / held.sample_weight[rows].sum()
        products = np.zeros((2, len(sigmas), len(members), len(members)))
        for rows, clean, noisy, levels in noisy_blocks(held, sigmas, seed, noise_per_level=True):
            blocks = zip(noisy.split(len(clean)), levels.split(len(clean)), strict=True)
            for j, (z, level) in enumerate(blocks):
                target = clean if reference is None else self._target(reference, z, sigmas[j])
                errors = self._errors(members, z, level, target)
                product = torch.einsum("mid,nid,hi->hmn", errors, errors, weight[:, rows])
                products[:, j] += product.cpu().numpy() / held.n_values
        return products

    def _target(self, reference, z, sigma):
        """Return the answers of the reference to noisy images."""
        answer = reference.denoise(z, float(sigma))
        if not isinstance(answer, torch.Tensor) or answer.shape != z.shape:
            got = tuple(getattr(answer, "shape", ())) or type(answer).__name__
            raise ValueError(
                f"against must answer with a tensor of shape {tuple(z.shape)} where it is given "
                f"one, got {got}; pass a denoiser of whole images."
            )
        if not answer.isfinite().all():
            raise ValueError(
                f"against answered with NaN or infinity at sigma = {sigma}; choose sigmas at "
                "which it is at home."
            )
        return answer

    def _errors(self, members, z, sigma, target):
        """Return errors of the members' answers, (M, n, D) float64."""
        errors = []
        with torch.no_grad():
            for (name, _), member in zip(self.denoisers, members, strict=True):
                mean = _posterior_of(member, z, sigma).mean
                if mean.shape != z.shape:
                    raise ValueError(
                        f"the member {name!r} answers with {tuple(mean.shape[1:])} for an image "
                        f"of shape {tuple(z.shape[1:])}; only denoisers of whole images can be "
                        "blended."
                    )
                errors.append((mean.double() - target.double()).flatten(1))
        return torch.stack(errors)


def _range_parameters(denoiser):
    """Return the names of the parameters that hold the data range of a denoiser."""
    names = denoiser.get_params(deep=False)
    return ["data_range"] if "data_range" in names else ["denoiser__data_range"]


def _prior_on(member, training_set):
    """Return the prior of a fitted member, or the one that it makes of other images."""
    if isinstance(member, FrozenEstimator):
        return member.estimator._prior_of()
    return member._prior_of() if training_set is None else member._prior_on(training_set)


def _posterior_of(member, z, sigma):
    """Return the posterior of a member that may live on another device."""
    part = member.posterior(z.to(member.device), sigma.to(member.device))
    return part.map(lambda tensor: tensor.to(z.device))


def _simplex_weights(product):
    r"""Return the non-negative w with sum one that minimises w^T A w.

    With u = t w, :math:`u^T A u + (\sum u - 1)^2` is least over t at :math:`q / (1 + q)` with
    q = w^T A w, which grows with q: least squares over u >= 0 find w, whatever the scale of A.

    Parameters
    ----------
    product : ndarray of shape (M, M)
        A, symmetric, with no negative eigenvalue.

    Returns
    -------
    ndarray of shape (M,)
    """
    values, vectors = np.linalg.eigh(product / (product.trace() or 1.0))
    root = np.sqrt(values.clip(0))[:, None] * vectors.T
    rows = np.vstack([root, np.ones(len(root))])
    u, _ = scipy.optimize.nnls(rows, np.eye(len(rows))[-1])
    return u / u.sum()
