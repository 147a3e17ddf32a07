"""The base of all denoisers."""

import math
import numbers
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from .._state import packed, unpacked
from .._threads import torch_threads
from .._typing import (
    Array,
    ArrayLike,
    DataRange,
    Device,
    ImageShape,
    NoiseLevel,
    Path,
    RandomState,
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
    check_finite,
    check_noise_range,
    check_noisy_images,
    check_pixels,
    check_sigma,
    check_weights,
)
from ..posterior import Attribution, Posterior
from ..posterior.posterior import converted, gathered
from ..sampling import SAMPLERS, SamplingInterrupted, draw_noise, edm_sigmas, noise_seed
from ..support import TrainingSet
from ..support.held_out import held_out_errors
from ..support.training_set import DEFAULT_RANGE

# On images in [-1, 1]: noise levels at which patch sizes differ.
_SCORE_SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)

Method = TypeVar("Method", bound=Callable)


def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[Method], Method]:
    """Return scikit-learn's decorator of ``fit``, which validates parameters, with a type."""
    return _fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)


class Denoiser(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Base of all denoisers: methods that apply a prior to noisy images.

    A fit learns a prior, a `skpspc.posterior.BasePrior`. Subclasses define ``fit`` and `_prior_of`.
    """

    _doc_link_module = "skpspc"

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
        device: Device | None = None,
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
        """Return the shapes that one noisy image may have; the last is the shape of an answer."""
        return [self.image_shape_]

    def posterior(self, Z: ArrayLike, sigma: NoiseLevel, y: ArrayLike | None = None) -> Posterior:
        """Return the posterior over training images of each noisy image.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images ``x0 + sigma * noise``. float64 images and integers wider than uint8 are
            computed in float64, every other dtype in float32 (:ref:`accuracy` lists the errors).
            Gradients are not tracked.
        sigma : float or array of shape (n,), (n, 1) or (n, 1, 1, 1)
            Noise level, in the units of the images. 0 and inf are allowed.
        y : label or array of shape (n,), default None
            Class of all noisy images, or one class for each. The posterior then covers the
            training images of the class. None: all training images.

        Returns
        -------
        Posterior
            The mean has the container, layout and float dtype of Z (float32 for uint8 and half
            precision). With y, the evidence is log p(z | y).

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
        self = self._now()
        z, levels, layout = self._checked(Z, sigma)
        with torch.no_grad(), torch_threads():
            warn_if_far(self, z, levels)
            if y is None:
                result = self._prior_of().posterior(z, levels)
            else:
                result = self._posterior_by_class(z, levels, self._codes(y, len(z)))
        check_finite(result.mean, z.dtype, "the posterior mean")
        self._warn_of_estimates(result)
        restored = converted(result, lambda t: layout.restore(t, images=t is result.mean))
        return replace(restored, data_range=self.data_range_)

    def _posterior_by_class(self, z, sigma, codes):
        """Return the posterior of each noisy image over the training images of its class."""
        groups = []
        for code in sorted(set(codes)):
            rows = torch.tensor([row for row, other in enumerate(codes) if other == code])
            rows = rows.to(z.device)
            groups.append((rows, self._prior_of(code).posterior(z[rows], sigma[rows])))
        return gathered(groups, len(z))

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
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images ``x0 + sigma * noise``.
        sigma : float or array of shape (n,), (n, 1) or (n, 1, 1, 1)
            Noise level, in the units of the images. 0 and inf are allowed.
        y : label or array of shape (n,), default None
            Class of all noisy images, or one class for each. None: any class.
        guidance : float, default 1.0
            Weight w. 1: the class alone. 0: all images. Above 1 the class is exaggerated, and the
            result may leave the convex hull of the images. The paper's weight is w - 1.

        Returns
        -------
        array or Tensor
            Estimates of x0, in the container, layout and float dtype of Z (float32 for uint8 and
            half precision).

        Raises
        ------
        ValueError
            For the reasons that :meth:`posterior` lists; if guidance is not finite, or differs
            from 1 without y.

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
        self = self._now()
        guidance = check_guidance(guidance, y)
        mean = self.posterior(Z, sigma, y).mean
        if guidance == 1:
            return mean
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, in words
            answer = _guided(self.posterior(Z, sigma).mean, mean, guidance)
        tensor = torch.as_tensor(answer)
        name = f"the denoised image with guidance={guidance:g}"
        check_finite(tensor, tensor.dtype, name, "pass a smaller guidance")
        return answer

    @overload
    def transform(self, X: torch.Tensor) -> torch.Tensor: ...
    @overload
    def transform(self, X: npt.ArrayLike) -> np.ndarray: ...
    def transform(self, X):
        """Denoise at the noise level of the parameter ``sigma``, for pipelines.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.

        Returns
        -------
        array or Tensor
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
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,), default None
            Noise level. None: the parameter ``sigma``.
        y : label or array of shape (n,), default None
            Class of all noisy images, or one class for each: return log p(z | y; sigma), from the
            training images of the class.

        Returns
        -------
        array or Tensor of shape (n,)
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
        with torch_threads():
            errors = held_out_errors(
                prior.mean,
                held_out,
                sigmas,
                noise_seed(self.random_state),
                target=lambda clean, z, sigma: prior.answered(clean),
                noise_per_level=True,
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
        sampler: Literal["euler", "heun"] | Callable[..., Iterable[torch.Tensor]] = "heun",
        n_steps: int = 18,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        initial: ArrayLike | None = None,
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
        sampler: Literal["euler", "heun"] | Callable[..., Iterable[torch.Tensor]] = "heun",
        n_steps: int = 18,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        initial: ArrayLike | None = None,
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
        sampler: Literal["euler", "heun"] | Callable[..., Iterable[torch.Tensor]] = "heun",
        n_steps: int = 18,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        initial: ArrayLike | None = None,
        return_trajectory: bool,
        callback: Callable[[int, float, torch.Tensor], object] | None = None,
        verbose: int = 0,
    ) -> Array | tuple[Array, Array]: ...
    def sample(
        self,
        n=1,
        *,
        y=None,
        guidance=1.0,
        random_state=None,
        sampler="heun",
        n_steps=18,
        sigma_min=None,
        sigma_max=None,
        initial=None,
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
        sampler : {"euler", "heun"} or callable, default "heun"
            Solver of the ODE. A callable ``sampler(denoise, z, sigmas)`` yields the state after
            each of ``len(sigmas)`` steps, the last at sigma = 0.
        n_steps : int, default 18
            Number of steps.
        sigma_min, sigma_max : float, default None
            Smallest and largest noise level of the grid `edm_sigmas`. None: 0.002 and 80 for
            images on [-1, 1], scaled to ``data_range``.
        initial : array or Tensor of shape (n, C, H, W) or (n, d), default None
            Noisy images at ``sigma_max``, the start of the ODE. None: draw noise.
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
            If the sampler or a class is unknown, or a parameter is out of range.
        SamplingInterrupted
            On Ctrl-C. The exception holds the last state.
        """
        self = self._now()
        check_is_fitted(self)
        if not (callback is None or callable(callback)):
            raise ValueError(f"callback must be a callable or None, got {callback!r}.")
        steps = _sampler(sampler)
        sigma_min, sigma_max = sampler_ends(self.data_range_, sigma_min, sigma_max)
        if initial is None:
            warn_if_small(self, sigma_max)
        sigmas = [*edm_sigmas(n_steps, sigma_min, sigma_max).tolist(), 0.0]
        check_noise_range(self._layout.dtype, sigma_min=sigma_min, sigma_max=sigma_max)
        labels: Any = y
        if initial is None and n == 1 and np.ndim(labels):
            n = len(labels)
        z = self._initial(n, initial, random_state, sigma_max)
        states, done = [z], 0
        try:
            with torch.no_grad(), torch_threads():
                walk = steps(self._sampling_run(y, guidance, len(z)), z, sigmas[:-1])
                for z in tqdm(walk, "sampling", n_steps, disable=verbose <= 0):
                    done += 1
                    if done > n_steps:
                        break
                    if return_trajectory:
                        states.append(z)
                    if callback is not None:
                        callback(done, sigmas[done], z)
        except KeyboardInterrupt:
            raise SamplingInterrupted(
                self._layout.restore(z),
                sigmas[done],
                n_steps - done,
                self._stacked(states) if return_trajectory else None,
            ) from None
        if done != n_steps:
            raise ValueError(
                f"sampler {sampler!r} must yield one state for each of the {n_steps} steps, but "
                f"yielded {'more' if done > n_steps else done}."
            )
        if guidance != 1:
            name = f"a sample with guidance={guidance:g}"
            check_finite(z, z.dtype, name, "pass a smaller guidance")
        samples = self._layout.restore(check_finite(z, z.dtype, "a sample"))
        return (samples, self._stacked(states)) if return_trajectory else samples

    def _sampling_run(self, y, guidance, n):
        """Return ``denoise(z, sigma)``, of a tensor and a float, for one sampling run."""
        guidance = check_guidance(guidance, y)
        everything = self._prior_of().for_sampling()
        if y is None:
            return lambda z, sigma: _mean(everything, z, sigma)
        codes = torch.tensor(self._codes(y, n), device=self._device)
        classes = [
            ((codes == code).nonzero().squeeze(1), self._prior_of(code).for_sampling())
            for code in codes.unique().tolist()
        ]

        def denoise(z, sigma):
            x0 = torch.empty_like(z)
            for rows, prior in classes:
                x0[rows] = _mean(prior, z[rows], sigma)
            return x0 if guidance == 1 else _guided(_mean(everything, z, sigma), x0, guidance)

        return denoise

    def _stacked(self, states):
        """Return states as one array (len(states), n, ...)."""
        restored = [self._layout.restore(state) for state in states]
        return torch.stack(restored) if self._layout.is_torch else np.stack(restored)

    def _initial(self, n, initial, random_state, sigma_max):
        """Return the initial state: a copy of ``initial``, or noise."""
        shape = self._input_shapes()[-1]
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

    @overload
    def jacobian(
        self, Z: torch.Tensor, sigma: NoiseLevel, pixels: ArrayLike | None = None
    ) -> torch.Tensor: ...
    @overload
    def jacobian(
        self, Z: npt.ArrayLike, sigma: NoiseLevel, pixels: ArrayLike | None = None
    ) -> np.ndarray: ...
    def jacobian(self, Z, sigma, pixels=None):
        r"""Return rows of the Jacobian: derivatives of the denoised image by the noisy image.

        .. math::

            J_{pq} = \frac{\partial D(z; \sigma)_p}{\partial z_q}
            = \frac{\sum_k r_{kp}\, \pi_{kq} \operatorname{Cov}_{w^k}(x_p, x_q)}
            {\sigma^2 \sum_k r_{kp}}

        This closed form holds for posterior means through windows k, with query precisions
        :math:`\pi_k`, response weights :math:`r_k` and posterior weights :math:`w^k`. The Jacobian
        of a `GaussianDenoiser` is its Wiener filter. A mean of denoisers has the mean of their
        Jacobians. A `NetworkDenoiser` differentiates its network.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            Noise level, positive.
        pixels : array of int, shape (m, 2), default None
            (row, column) of the pixels of the denoised image. None: all pixels in row-major order,
            (C * H * W)^2 numbers for each image.

        Returns
        -------
        array or Tensor of shape (n, m, C, C, H, W)
            ``J[b, a, c, d, i, j]`` is the derivative of channel c of the a-th pixel by channel
            d of pixel (i, j) of the b-th noisy image. In the container and float dtype of Z.

        Raises
        ------
        ValueError
            If pixels lie outside the denoised image; at sigma = 0, where a posterior mean jumps
            between images; if the denoiser has no Jacobian in closed form; if torch cannot
            differentiate the network.

        Notes
        -----
        With ``n_neighbors`` or ``tol``, the result is the Jacobian of the exact denoiser.

        Examples
        --------
        Both pixels of the denoised image depend equally on both noisy pixels:

        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser().fit([[-1.0, -1.0], [1.0, 1.0]])
        >>> model.jacobian([[0.0, 0.0]], sigma=2.0).reshape(2, 2)
        array([[0.25, 0.25],
               [0.25, 0.25]])
        """
        self = self._now()
        z, sigma, layout = self._checked(Z, sigma)
        pixels = self._checked_pixels(pixels)
        with torch.no_grad(), torch_threads():
            jacobian = self._prior_of().jacobian(z, sigma, pixels)
            check_finite(jacobian, z.dtype, "the Jacobian")
            return layout.restore(jacobian, images=False)

    @overload
    def sensitivity(
        self,
        Z: torch.Tensor,
        sigma: NoiseLevel,
        pixels: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> torch.Tensor: ...
    @overload
    def sensitivity(
        self,
        Z: npt.ArrayLike,
        sigma: NoiseLevel,
        pixels: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> np.ndarray: ...
    def sensitivity(self, Z, sigma, pixels=None, sample_weight=None):
        r"""Return heat maps: the mean absolute Jacobian of pixels of the denoised image.

        .. math::

            G_{p}(i, j) = \sum_b v_b \sum_{c, d}
            \Bigl|\frac{\partial D(z_b; \sigma)_{c,p}}{\partial z_{b,d,i,j}}\Bigr|

        with c and d the channels of the denoised and of the noisy image, and :math:`v_b` the sample
        weights, which sum to one. `FlexibleWindows` takes its windows from such heat maps.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            Noise level, positive.
        pixels : array of int, shape (m, 2), default None
            (row, column) of the pixels of the denoised image. None: all pixels in row-major order.
        sample_weight : array of shape (n,), default None
            Weights of the noisy images, non-negative. None: equal.

        Returns
        -------
        array or Tensor of shape (m, H, W), float64
            One heat map for each pixel, in the container of Z.

        Raises
        ------
        ValueError
            For the reasons that :meth:`jacobian` lists.

        Notes
        -----
        Rows of the Jacobian are held for as many pixels at a time as fit scikit-learn's
        ``working_memory``.

        References
        ----------
        Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
        ICML 2025, arXiv:2411.19339.

        Examples
        --------
        >>> from skpspc import PSPCDenoiser
        >>> from skpspc.datasets import load_digits_images
        >>> X = load_digits_images().images
        >>> model = PSPCDenoiser(patch_size=3).fit(X)
        >>> heat = model.sensitivity(X[:2], 0.5, pixels=[(4, 4)])

        Pixel (4, 4) depends on the 5 x 5 square that its 3 x 3 patches cover:

        >>> (heat[0] > 0).astype(int)
        array([[0, 0, 0, 0, 0, 0, 0, 0],
               [0, 0, 0, 0, 0, 0, 0, 0],
               [0, 0, 1, 1, 1, 1, 1, 0],
               [0, 0, 1, 1, 1, 1, 1, 0],
               [0, 0, 1, 1, 1, 1, 1, 0],
               [0, 0, 1, 1, 1, 1, 1, 0],
               [0, 0, 1, 1, 1, 1, 1, 0],
               [0, 0, 0, 0, 0, 0, 0, 0]])
        """
        self = self._now()
        z, sigma, layout = self._checked(Z, sigma)
        pixels = self._checked_pixels(pixels)
        weight = check_weights(sample_weight, z, z.device)
        weight = torch.ones(len(z), dtype=torch.float64).to(z.device) if weight is None else weight
        weight = weight / weight.sum()
        heat = torch.zeros(len(pixels), z[0, 0].numel(), dtype=torch.float64, device=z.device)
        prior = self._prior_of()
        n_rows, n_pixels = prior.jacobian_block(z, len(pixels))
        with torch.no_grad(), torch_threads():
            for start in range(0, len(pixels), n_pixels):
                block = slice(start, start + n_pixels)
                for rows in torch.arange(len(z), device=z.device).split(n_rows):
                    jacobian = prior.jacobian(z[rows], sigma[rows], pixels[block])
                    moved = jacobian.abs().sum((2, 3)).flatten(2).double()
                    heat[block] += torch.einsum("b,bmp->mp", weight[rows], moved)
        check_finite(heat, z.dtype, "the sensitivity")
        heat = heat.view(len(pixels), *z.shape[2:]).to(layout.device)
        return heat if layout.is_torch else heat.numpy()

    def _checked(self, Z, sigma):
        """Return noisy images and noise levels as tensors, and the layout of Z."""
        check_is_fitted(self)
        z, layout = check_noisy_images(self, Z, self._input_shapes(), self._device)
        return z, check_sigma(sigma, len(z)).to(z.device), layout

    def _checked_pixels(self, pixels):
        """Return the indices of pixels of the answer, a tensor."""
        return check_pixels(pixels, self._input_shapes()[-1][-2:]).to(self._device)

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


def check_guidance(guidance, y):
    """Return ``guidance`` as a float; raise if it is not finite, or other than 1 without y."""
    is_number = isinstance(guidance, numbers.Real) and not isinstance(guidance, bool)
    if not is_number or not math.isfinite(guidance):
        raise ValueError(
            f"guidance must be a finite number, got {guidance!r}; 1 is the class alone, 0 is all "
            "images."
        )
    if y is None and guidance != 1:
        raise ValueError(
            f"guidance={guidance!r} weighs a class against all images; pass y, or omit guidance."
        )
    return float(guidance)


def _guided(unconditional, conditional, guidance):
    return unconditional + guidance * (conditional - unconditional)


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
