"""The base of all denoisers."""

import copy
import numbers
import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from .._compile import eager
from .._progress import showing
from .._state import packed, unpacked
from .._threads import torch_threads
from .._typing import (
    Array,
    ArrayLike,
    DataRange,
    Devices,
    ImageShape,
    NoiseLevel,
    Path,
    RandomState,
    Sampler,
)
from .._units import (
    half_width,
    middle,
    sampler_ends,
    warn_if_far,
    warn_if_small,
    warn_if_unusual,
    warn_once,
)
from .._validation import (
    as_container,
    check_finite,
    check_noise_range,
    check_noisy_images,
    check_sample_shape,
    check_sigma,
)
from ..distributed.blocks import is_dask
from ..distributed.lazy import lazy_posterior
from ..posterior import Attribution, Posterior
from ..posterior.posterior import ARRAYS, converted
from ..sampling import SAMPLERS, SamplingInterrupted, draw_noise, edm_sigmas, noise_seed
from ..sampling.run import Run
from ..sampling.schedules import check_decreasing
from ..support import TrainingSet
from ..support.held_out import held_out_errors
from ..support.training_set import DEFAULT_RANGE
from .conditional import ByClass, Guided
from .derivatives import DifferentiableDenoiser
from .gradients import Call, check_guidance, posterior_arrays

# On images in [-1, 1]: noise levels at which patch sizes differ.
_SCORE_SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)

Method = TypeVar("Method", bound=Callable)


def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[Method], Method]:
    """Return scikit-learn's decorator of ``fit``, which validates parameters, with a type."""
    return _fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)


class Denoiser(DifferentiableDenoiser, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of all denoisers: methods that apply a prior to noisy images.

    A fit learns a prior, a `skpspc.posterior.BasePrior`. Subclasses define ``fit`` and `_prior_of`.
    """

    _doc_link_module = "skpspc"
    # True if torch differentiates the prior itself, and not by its vector-Jacobian products
    _is_torch = False

    verbose = 0  # a parameter of all denoisers but networks

    # True if noisy images may have other heights and widths than the training images.
    _any_size = False

    _parameter_constraints = {
        "sigma": [Interval(numbers.Real, 0, None, closed="left")],
        "image_shape": ["array-like", None],
        "data_range": ["array-like", None],
        "device": [str, torch.device, None],
        "random_state": ["random_state", np.random.Generator],
    }

    def __init__(
        self,
        *,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Devices | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def __getstate__(self):
        return packed(super().__getstate__())

    def __setstate__(self, state):
        super().__setstate__(unpacked(state))

    @property
    def _doc_link_template(self):
        """Address of the estimators' pages; empty, for no link, without SKPSPC_DOCS_URL."""
        root = os.environ.get("SKPSPC_DOCS_URL", "").rstrip("/")
        return root and f"{root}/api/generated/skpspc.{{estimator_name}}.html"

    def _now(self):
        """Return an estimator that keeps the current state while another thread fits this one.

        A fit replaces the dict of attributes and leaves the old one unchanged.
        """
        now = object.__new__(type(self))
        object.__setattr__(now, "__dict__", self.__dict__)
        return now

    def _prior_of(self, code=None):
        """Return the prior of a class, an int, or of all training images (None)."""
        raise NotImplementedError

    def _codes(self, y, n):
        """Return the classes of n noisy images, a list of int, from one label or n labels."""
        raise ValueError(
            f"{type(self).__name__} has no classes; omit y, or use a denoiser that was fitted "
            "with labels."
        )

    @property
    def _device(self):
        """Device of the computation."""
        return self._prior_of().device

    def _input_shapes(self):
        """Return the shapes that one noisy image may have."""
        return [self.image_shape_]

    @property
    def _answer_shape(self):
        """Shape of a denoised image, and of a sample."""
        return self._input_shapes()[-1]

    def _noisy_limits(self):
        """Return the least and largest value of clean images, or None if they are unknown."""
        return getattr(self, "_limits", None)

    def _answer_shape_of(self, z):
        """Return the shape of the answer to noisy images z (n, C, H, W)."""
        return tuple(z.shape[1:]) if self._any_size else tuple(self._answer_shape)

    @eager
    def posterior(self, Z: ArrayLike, sigma: NoiseLevel, y: ArrayLike | None = None) -> Posterior:
        """Return the posterior over training images of each noisy image.

        Parameters
        ----------
        Z : array, Tensor or dask array of shape (n, C, H, W) or (n, d)
            Noisy images ``x0 + sigma * noise``. float64 images and integers wider than uint8 are
            computed in float64, every other dtype in float32 (:ref:`accuracy` lists the errors).
            A tensor that requires a gradient gets one: see Notes of :meth:`denoise`.
        sigma : float, or array or dask array of shape (n,), (n, 1) or (n, 1, 1, 1)
            Noise level, in the units of the images. 0 and inf are allowed.
        y : label or array of shape (n,), default None
            Class of all noisy images, or one class for each. The posterior then covers the
            training images of the class. None: all training images.

        Returns
        -------
        Posterior
            The mean has the container, layout and float dtype of Z (float32 for uint8 and half
            precision). With y, the evidence is log p(z | y). For a dask array, all fields are dask
            arrays, which ``dask.compute(posterior)`` computes together.

        Warns
        -----
        UserWarning
            Once after each fit, if ``error_bound`` is an estimate for at least one noisy image
            (``bound_is_proved`` is False).

        Raises
        ------
        ValueError
            If Z holds NaN, values over 1e16 (float32) or 1e60 (float64), or images of another
            shape than the fitted images; if sigma is negative; if a class was not fitted, or has
            only images of weight zero; if the posterior mean is not finite.
        """
        return self._now()._posterior(Z, sigma, y)

    def _posterior(self, Z, sigma, y=None, guidance=1.0):
        """Return the posterior of noisy images; with a guidance, its mean is blended."""
        if is_dask(Z):
            # a copy, which later calls of set_params leave unchanged
            return lazy_posterior(copy.copy(self), Z, sigma, y, guidance)
        if isinstance(Z, (list, tuple)):  # of tensors, which may have gradients
            Z = as_container(Z, "Z")
        call = Call(self, y, guidance)
        arrays: dict[str, Any] = dict(zip(ARRAYS, posterior_arrays(Z, sigma, call), strict=True))
        return Posterior(**arrays, data_range=self.data_range_)

    def _arrays(self, Z, sigma, call):
        """Return the arrays of the posterior of noisy images, in the layout of Z."""
        z, levels, layout = self._checked(Z, sigma)
        with torch_threads(), showing(self.verbose):
            warn_if_far(self, z, levels)
            result = call.prior(len(z)).posterior(z, levels)
        if call.guidance == 1:
            check_finite(result.mean, z.dtype, "the posterior mean")
        else:
            name = f"the denoised image with guidance={call.guidance:g}"
            check_finite(result.mean, z.dtype, name, "pass a smaller guidance")
        self._warn_of_estimates(result)
        restored = converted(result, lambda t: layout.restore(t, images=t is result.mean))
        return tuple(getattr(restored, name) for name in ARRAYS)

    def _conditional(self, y, n, guidance=1.0, n_copies=1):
        """Return the prior of n noisy images of classes y, each image repeated ``n_copies`` times.

        A guidance other than 1 blends the priors of the classes and of all images.
        """
        if y is None:
            return self._prior_of()
        codes = self._codes(y, n // n_copies) * n_copies
        priors = {code: self._prior_of(code) for code in sorted(set(codes))}
        of_class = ByClass(priors, torch.tensor(codes, device=self._device))
        return of_class if guidance == 1 else Guided(self._prior_of(), of_class, guidance)

    @property
    def _proved_by(self):
        """Remedy for error bounds that are estimates."""
        return "for a proved bound, let the inner denoisers use all training images"

    def _warn_of_estimates(self, posterior):
        """Warn, once after each fit, if an error bound of a posterior is an estimate."""
        estimated = ~posterior.bound_is_proved & ~posterior.error_bound.isnan()
        n_estimates = int(estimated.sum())
        if n_estimates:
            warn_once(
                self,
                "estimates",
                f"{type(self).__name__}: error_bound is an estimate for {n_estimates} of "
                f"{len(estimated)} noisy images (bound_is_proved is False), and single pixels may "
                f"exceed it; {self._proved_by}.",
            )

    @overload
    def denoise(
        self,
        Z: torch.Tensor,
        sigma: NoiseLevel,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor: ...
    @overload
    def denoise(
        self,
        Z: npt.ArrayLike,
        sigma: NoiseLevel,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
    ) -> np.ndarray: ...
    @eager
    def denoise(self, Z, sigma, y=None, guidance=1.0):
        r"""Return the posterior mean D(z; sigma), an estimate of the clean images.

        With labels y and guidance w, the result blends the denoiser of the class and the denoiser
        of all images,

        .. math::

            D_w(z; \sigma) = D(z; \sigma) + w\,\bigl(D(z; \sigma, y) - D(z; \sigma)\bigr).

        Its score at noise level sigma is the score of :math:`p(z)^{1 - w} p(z \mid y)^w`, which
        is :math:`p(z)\, p(y \mid z)^w` up to a factor.

        Parameters
        ----------
        Z : array, Tensor or dask array of shape (n, C, H, W) or (n, d)
            Noisy images ``x0 + sigma * noise``.
        sigma : float, or array or dask array of shape (n,), (n, 1) or (n, 1, 1, 1)
            Noise level, in the units of the images. 0 and inf are allowed.
        y : label or array of shape (n,), default None
            Class of all noisy images, or one class for each. None: any class.
        guidance : float, default 1.0
            Weight w. 1: the class alone. 0: all images. Above 1 the class is exaggerated, and the
            result may leave the convex hull of the images. The paper's weight is w - 1.

        Returns
        -------
        array, Tensor or dask array
            Estimates of x0, in the container, layout and float dtype of Z (float32 for uint8 and
            half precision). A dask array has the blocks of Z; call ``compute()`` on it. Values of
            Z are checked when their block is computed.

        Raises
        ------
        ValueError
            For the reasons that :meth:`posterior` lists; if guidance is not finite, or differs
            from 1 without y.

        Notes
        -----
        The result for a tensor Z that requires a gradient is differentiable by Z, and by a tensor
        sigma. The backward pass is one :meth:`vjp`, which needs two passes over the training set
        and no more memory than the forward pass. It also serves `torch.func` (``grad``, ``vjp``,
        ``jvp``, ``jacrev``, ``jacfwd`` and ``vmap``). Functions of `torch.compile` call denoisers
        outside their graphs. Second derivatives are not available, nor derivatives by sigma with a
        bandwidth or in a blend. With ``n_neighbors`` or ``tol``, the gradient is of the exact
        denoiser, which compares all training images.

        References
        ----------
        Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598, Eq. 6.

        Examples
        --------
        Three images of one pixel, two of them of class "b":

        >>> from skpspc import EmpiricalDenoiser
        >>> X, y = [[-1.0], [0.0], [1.0]], ["a", "b", "b"]
        >>> model = EmpiricalDenoiser().fit(X, y)
        >>> model.denoise([[0.5]], sigma=1.0, y="b")
        array([[0.5]])
        >>> model.denoise([[0.5]], sigma=1.0, y=["b"], guidance=2.0).round(3)
        array([[0.733]])
        """
        guidance = check_guidance(guidance, y)
        return self._now()._posterior(Z, sigma, y, guidance).mean

    @overload
    def transform(self, X: torch.Tensor) -> torch.Tensor: ...
    @overload
    def transform(self, X: npt.ArrayLike) -> np.ndarray: ...
    def transform(self, X):
        """Denoise at the noise level of the parameter ``sigma``, for pipelines.

        Parameters
        ----------
        X : array, Tensor or dask array of shape (n, C, H, W) or (n, d)
            Noisy images.

        Returns
        -------
        array, Tensor or dask array
            Estimates of the clean images, see :meth:`denoise`. ``set_output`` needs flat images,
            because a data frame has two axes.
        """
        check_is_fitted(self)
        return self.denoise(X, self.sigma)

    @overload
    def score_samples(
        self, Z: torch.Tensor, sigma: NoiseLevel | None = None, y: ArrayLike | None = None
    ) -> torch.Tensor: ...
    @overload
    def score_samples(
        self, Z: npt.ArrayLike, sigma: NoiseLevel | None = None, y: ArrayLike | None = None
    ) -> np.ndarray: ...
    def score_samples(self, Z, sigma=None, y=None):
        """Return the log evidence log p(z; sigma) of noisy images.

        Parameters
        ----------
        Z : array, Tensor or dask array of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,), default None
            Noise level. None: the parameter ``sigma``.
        y : label or array of shape (n,), default None
            Class of all noisy images, or one class for each: return log p(z | y; sigma), from the
            training images of the class.

        Returns
        -------
        array, Tensor or dask array of shape (n,)
            For `EmpiricalDenoiser`, ``score_samples`` of scikit-learn's
            ``KernelDensity(bandwidth=sigma)``. `Posterior` defines the log evidence of denoisers
            with many windows.
        """
        check_is_fitted(self)
        return self.posterior(Z, self.sigma if sigma is None else sigma, y).log_evidence

    def score(self, X: ArrayLike, y: Any = None, *, sigmas: npt.ArrayLike | None = None) -> float:
        """Return minus the mean squared denoising error on clean images; higher is better.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            Clean images, preferably held out from training.
        y : ignored
            Accepted because scikit-learn's searches pass labels. The denoiser of all training
            images is scored.
        sigmas : array of float, default None
            Noise levels to average over. None: 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 for images on
            [-1, 1], scaled to ``data_range``.

        Returns
        -------
        float
            Minus the mean over images, pixels and noise levels. The noise of image i depends only
            on ``random_state`` and i, so scores of different denoisers are comparable.
        """
        self = self._now()
        check_is_fitted(self)
        images, _ = check_noisy_images(self, X, [self.image_shape_], self._device)
        if sigmas is None:
            warn_if_unusual(self, "the noise levels of score")
            sigmas = half_width(self.data_range_) * np.array(_SCORE_SIGMAS)
        sigmas = np.atleast_1d(sigmas)
        if len(sigmas) == 0 or sigmas.dtype.kind not in "iuf" or not np.isfinite(sigmas).all():
            raise ValueError(f"sigmas must be one or more finite numbers, got {sigmas!r}.")
        check_sigma(sigmas, len(sigmas))
        check_noise_range(images.dtype, sigmas=float(sigmas.max()))
        prior = self._prior_of()
        held_out = TrainingSet(images, None, self.data_range_ or DEFAULT_RANGE)
        with torch_threads(), showing(self.verbose):
            errors = held_out_errors(
                prior.mean,
                held_out,
                sigmas,
                noise_seed(self.random_state),
                target=lambda clean, z, sigma: prior.answered(clean),
                noise_per_level=True,
                measure=prior.measured,
            )
        return -float(errors.mean())

    @overload
    def sample(
        self,
        n: int = 1,
        *,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
        random_state: RandomState | None = None,
        sampler: Sampler = "dpmpp_2m",
        n_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
        sigmas: npt.ArrayLike | None = None,
        initial: ArrayLike | SamplingInterrupted | None = None,
        image_shape: ImageShape | None = None,
        return_trajectory: Literal[False] = False,
        callback: Callable[[int, float, torch.Tensor], object] | None = None,
        verbose: int = 0,
    ) -> Array: ...
    @overload
    def sample(
        self,
        n: int = 1,
        *,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
        random_state: RandomState | None = None,
        sampler: Sampler = "dpmpp_2m",
        n_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
        sigmas: npt.ArrayLike | None = None,
        initial: ArrayLike | SamplingInterrupted | None = None,
        image_shape: ImageShape | None = None,
        return_trajectory: Literal[True],
        callback: Callable[[int, float, torch.Tensor], object] | None = None,
        verbose: int = 0,
    ) -> tuple[Array, Array]: ...
    @overload
    def sample(
        self,
        n: int = 1,
        *,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
        random_state: RandomState | None = None,
        sampler: Sampler = "dpmpp_2m",
        n_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
        sigmas: npt.ArrayLike | None = None,
        initial: ArrayLike | SamplingInterrupted | None = None,
        image_shape: ImageShape | None = None,
        return_trajectory: bool,
        callback: Callable[[int, float, torch.Tensor], object] | None = None,
        verbose: int = 0,
    ) -> Array | tuple[Array, Array]: ...
    @eager
    def sample(
        self,
        n=1,
        *,
        y=None,
        guidance=1.0,
        random_state=None,
        sampler="dpmpp_2m",
        n_steps=None,
        sigma_min=None,
        sigma_max=None,
        rho=None,
        sigmas=None,
        initial=None,
        image_shape=None,
        return_trajectory=False,
        callback=None,
        verbose=0,
    ):
        """Draw images: solve the probability-flow ODE from noise to noise level 0.

        Parameters
        ----------
        n : int, default 1
            Number of samples. An array y or ``initial`` also sets it.
        y : label or array of shape (n,), default None
            Class of all samples, or one class for each. None: any class.
        guidance : float, default 1.0
            Weight of the class, see :meth:`denoise`.
        random_state : int, RandomState, Generator or None, default None
            Seed of the noise. Sample i depends on ``random_state``, i and its class, not on n.
        sampler : {"ddim", "dpmpp_2m", "edm", "euler", "heun"} or callable, \
                default "dpmpp_2m"
            Solver of the ODE; "edm" also adds noise at each step. ``functools.partial`` sets
            options: ``partial(ddim, eta=1.0)``. A callable ``sampler(denoise, z, sigmas)`` yields
            the state after each of ``len(sigmas)`` steps, the last at sigma = 0. If it takes a
            keyword ``noise``, it gets a function: ``noise(z)`` returns standard normal noise in
            the shape of z.
        n_steps : int, default None
            Number of steps. None: 18, or one for each of ``sigmas``.
        sigma_min, sigma_max : float, default None
            Smallest and largest noise level of the grid `edm_sigmas`. None: 0.002 and 80 for
            images on [-1, 1], scaled to ``data_range``.
        rho : float, default None
            Exponent of the grid `edm_sigmas`; larger values put more steps at small sigma. None: 7.
        sigmas : array of float of shape (L,), default None
            Decreasing noise levels in the units of the images, instead of `edm_sigmas`. A last
            level 0 is optional, because the last step always leads to 0. They replace ``n_steps``,
            ``sigma_min``, ``sigma_max`` and ``rho``.
        initial : array or Tensor of shape (n, C, H, W) or (n, d), or SamplingInterrupted, \
                default None
            Noisy images at the first noise level, the start of the ODE, or an interrupted run to
            continue, with the sampler and classes of the run. None: draw noise.
        image_shape : tuple of (C, H, W), default None
            Shape of a sample, for denoisers of images of any size. None: the shape of the training
            images, or of ``initial``.
        return_trajectory : bool, default False
            Also return the states after 0, 1, ..., n_steps steps.
        callback : callable, default None
            Called as ``callback(step, sigma, z)`` after each step 1, 2, ..., with the reached
            noise level and the state, a tensor (n, C, H, W).
        verbose : int, default 0
            Above zero, show a progress bar.

        Returns
        -------
        samples : array or Tensor
            Images in the container and layout of the training images: float64 for float64
            training images, otherwise float32.
        trajectory : array or Tensor of shape (n_steps + 1, n, ...)
            States, only with ``return_trajectory=True``.

        Raises
        ------
        ValueError
            If the sampler or a class is unknown, a parameter is out of range, or ``sigmas`` do
            not decrease.
        SamplingInterrupted
            On Ctrl-C. The exception holds the last state. Every other exception of a run, such as
            one that ``callback`` raises, has the state in its attribute ``sampling``.
        """
        self = self._now()
        check_is_fitted(self)
        if not (callback is None or callable(callback)):
            raise ValueError(f"callback must be a callable or None, got {callback!r}.")
        steps = _sampler(sampler)
        resumed = initial if isinstance(initial, SamplingInterrupted) else None
        if resumed is not None:
            initial, random_state = resumed.z, resumed.random_state
        levels = self._levels(resumed, sigmas, n_steps, sigma_min, sigma_max, rho)
        if initial is None:
            warn_if_small(self, levels[0])
        labels: Any = y
        if initial is None and n == 1 and np.ndim(labels):
            n = len(labels)
        shape = check_sample_shape(self, image_shape, self._answer_shape)
        seed = noise_seed(random_state)
        z = self._initial(n, initial, seed, levels[0] if levels else 0.0, shape)
        if image_shape is not None and tuple(z.shape[1:]) != shape:
            raise ValueError(
                f"image_shape is {shape}, but initial holds images of shape {tuple(z.shape[1:])}; "
                "omit image_shape."
            )
        denoise = self._sampling_run(y, guidance, len(z))
        done = 0 if resumed is None else resumed.done
        run = Run(denoise, z, levels, seed, self._previous(resumed), done)
        states = [z]
        try:
            with torch.no_grad(), torch_threads():
                for step, sigma, z in tqdm(
                    run.steps(steps), "sampling", len(levels), disable=verbose <= 0
                ):
                    if return_trajectory:
                        states.append(z)
                    if callback is not None:
                        callback(step, sigma, z)
        except BaseException as error:
            kept = self._stacked(states) if return_trajectory else None
            stop = run.stopped(self._layout.restore, kept)
            if isinstance(error, KeyboardInterrupt):
                raise stop from None
            error.sampling = stop  # type: ignore[attr-defined]
            raise
        z = run.z
        if guidance != 1:
            name = f"a sample with guidance={guidance:g}"
            check_finite(z, z.dtype, name, "pass a smaller guidance")
        samples = self._layout.restore(check_finite(z, z.dtype, "a sample"))
        return (samples, self._stacked(states)) if return_trajectory else samples

    def _levels(self, resumed, sigmas, n_steps, sigma_min, sigma_max, rho):
        """Return the positive noise levels of a sampling run, a list of float."""
        if resumed is None and sigmas is None:
            sigma_min, sigma_max = sampler_ends(self.data_range_, sigma_min, sigma_max)
            n_steps, rho = 18 if n_steps is None else n_steps, 7.0 if rho is None else rho
            levels = edm_sigmas(n_steps, sigma_min, sigma_max, rho).tolist()
            check_noise_range(self._layout.dtype, sigma_min=sigma_min, sigma_max=sigma_max)
            return levels
        given = "sigmas" if resumed is None else "initial, an interrupted run,"
        if (sigma_min, sigma_max, rho) != (None, None, None):
            raise ValueError(f"{given} sets the noise levels; omit sigma_min, sigma_max and rho.")
        if resumed is not None and sigmas is not None:
            raise ValueError(f"{given} sets the noise levels; omit sigmas.")
        levels = list(resumed.sigmas) if sigmas is None else check_decreasing(sigmas)
        if n_steps not in (None, len(levels)):
            raise ValueError(
                f"n_steps is {n_steps}, but {given} has {len(levels)} noise levels above 0; omit "
                "n_steps."
            )
        for level in levels:
            check_noise_range(self._layout.dtype, **{"a noise level of sigmas": level})
        return levels

    def _previous(self, resumed):
        """Return the last call of the denoiser in an interrupted run, (sigma, tensor), or None."""
        if resumed is None or resumed.previous is None:
            return None
        sigma, x0 = resumed.previous
        return sigma, self._initial(len(x0), x0, None, sigma, self._answer_shape)

    def _sampling_run(self, y, guidance, n):
        """Return ``denoise(z, sigma)``, of a tensor and a float, for one sampling run."""
        prior = self._conditional(y, n, check_guidance(guidance, y)).for_sampling()
        return lambda z, sigma: _mean(prior, z, sigma)

    def _stacked(self, states):
        """Return states as one array (len(states), n, ...)."""
        restored = [self._layout.restore(state) for state in states]
        return torch.stack(restored) if self._layout.is_torch else np.stack(restored)

    def _initial(self, n, initial, random_state, sigma_max, shape):
        """Return the initial state: a copy of ``initial``, or noise of a shape (C, H, W)."""
        if initial is not None:
            z, _ = check_noisy_images(self, initial, [shape], self._device)
            if n not in (1, len(z)):
                raise ValueError(f"n is {n}, but initial holds {len(z)} images; omit n.")
            return z.to(self._layout.dtype, copy=True)  # a callable sampler may write to it
        if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n must be an int of at least 1, got {n!r}.")
        # noise has the middle of the data range, so that samples scale with the range
        noise = sigma_max * draw_noise(shape, int(n), random_state)
        noise += middle(self.data_range_)
        return noise.to(device=self._device, dtype=self._layout.dtype)

    def save(self, path: Path, *, include_data: bool = True) -> None:
        """Save the denoiser to a file without pickle, for `skpspc.load`.

        The file is in the format safetensors. It holds the parameters and everything that a fit
        learnt, a version and a checksum. It is written in one step: an interrupted run leaves the
        old file, or none.

        Parameters
        ----------
        path : str or Path
            File to write; its name ends in ``.safetensors``. An existing file is replaced.
        include_data : bool, default True
            False: leave the training images out, and write a fingerprint of them. `skpspc.load`
            then needs the images again. Means, covariances and windows, which were computed from
            the images, stay in the file.

        Raises
        ------
        ValueError
            If a parameter is a function, a network or another object that only pickle can save; if
            ``include_data=False`` cannot leave all training images out; if the name of the file has
            another ending. Nothing is written then.
        OSError
            If the folder is missing or cannot be written to.

        See Also
        --------
        skpspc.load : Load the denoiser.

        Notes
        -----
        :doc:`/user_guide/saving` compares ``save`` with pickle, joblib and skops.
        """
        from ..saving.denoisers import save  # imports all denoisers

        save(self._now(), path, include_data)

    def _checked(self, Z, sigma):
        """Return noisy images and noise levels as tensors, and the layout of Z."""
        check_is_fitted(self)
        z, layout = check_noisy_images(self, Z, self._input_shapes(), self._device)
        return z, check_sigma(sigma, len(z)).to(z.device), layout

    def attribute(
        self,
        Z: ArrayLike,
        sigma: NoiseLevel,
        y: ArrayLike | None = None,
        *,
        top: int = 10,
        by: Literal["pixel", "window"] = "pixel",
    ) -> Attribution:
        """Raise ValueError: the denoised image is not a mean of training images."""
        check_is_fitted(self)
        raise ValueError(self._prior_of().no_attribution)

    def denoise_without(
        self,
        Z: ArrayLike,
        sigma: NoiseLevel,
        images: Iterable[npt.ArrayLike],
        y: ArrayLike | None = None,
    ) -> Array:
        """Raise ValueError: the denoised image is not a mean of training images."""
        check_is_fitted(self)
        raise ValueError(self._prior_of().no_attribution)


def _mean(prior, z, sigma):
    """Return the posterior means of noisy images at one noise level, a float."""
    level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
    return prior.mean(z, level)


def _sampler(sampler):
    """Return a sampler, given by name or as a callable."""
    if callable(sampler):
        return sampler
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        names = ", ".join(map(repr, sorted(SAMPLERS)))
        raise ValueError(f"sampler must be one of {names} or a callable, got {sampler!r}.")
    return SAMPLERS[sampler]
