"""What every denoiser shares: how it is fitted, asked, sampled from and scored."""

import math
import numbers

import numpy as np
import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin, _fit_context
from sklearn.utils import gen_batches
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from .._threads import torch_threads
from .._units import (
    check_data_range,
    check_inside,
    half_width,
    middle,
    sampler_ends,
    warn_if_far,
    warn_if_small,
    warn_if_unusual,
    warn_once,
)
from .._validation import (
    check_device,
    check_finite,
    check_labels,
    check_noise_range,
    check_noisy_images,
    check_sigma,
    check_training_images,
    check_weights,
)
from ..posterior import Posterior
from ..sampling import SAMPLERS, SamplingInterrupted, draw_noise, edm_sigmas, noise_seed
from ..support import TrainingSet
from ..support.memory import rows_that_fit
from ..support.training_set import DEFAULT_RANGE
from ._links import LinkedEstimator
from ._names import named_denoiser
from .differentiable import Differentiable

# Where the choice of a patch size matters on images in [-1, 1].
_SCORE_SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


@named_denoiser
class BaseDenoiser(Differentiable, OneToOneFeatureMixin, TransformerMixin, LinkedEstimator):
    """Base of all denoisers.

    A subclass gives ``_posterior(z, sigma)``: tensors (n, *shape) and (n,) in, a `Posterior`
    of tensors out; and ``_resolve()``, if its parameters have to be checked against the
    images.
    """

    _parameter_constraints = {
        "sigma": [Interval(numbers.Real, 0, None, closed="left")],
        "image_shape": ["array-like", None],
        "data_range": ["array-like", None],
        "device": [str, torch.device, None],
        "random_state": ["random_state", np.random.Generator],
    }

    def __init__(
        self, *, sigma=0.5, image_shape=None, data_range=None, device=None, random_state=0
    ):
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Keep the training images.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            uint8 images are read on ``data_range``, [-1, 1] by default. Float images, float64
            included, are used unscaled. Integers of other types are refused as images unless
            ``data_range`` says what their range is. Not copied: do not write to X afterwards.
        y : array of shape (n,), default None
            Labels of any type that sorts, for :meth:`denoise` and :meth:`sample` of a class;
            without a class all images count. A y of several columns, as regressors take, holds
            no labels; a one-hot y is refused.
        sample_weight : array of shape (n,), default None
            Non-negative; the prior probability of each image, up to a factor.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For NaN, infinity, masked values, no images, or shapes, labels and weights that do not
            fit; for labels that are missing (NaN, None) or one-hot; for floats whose largest
            magnitude is out of range (float32: 1e-16 to 1e16, float64: 1e-60 to 1e60).

        Notes
        -----
        A class whose images lie together in X is a view of them. Where they lie apart they are
        copied, once, when that class is first asked for: sort X by class to save the memory.
        """
        images, self._layout = check_training_images(self, X, reset=True)
        self.image_shape_ = tuple(images.shape[1:])
        self._take_units(images)
        device = check_device(self.device, images)
        weight = check_weights(sample_weight, images, device)
        self._know(check_labels(y, len(images), weight), y)
        with torch_threads():
            self._keep(self._training_set(images.to(device), weight))
            self._resolve()
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Add training images to those fitted before.

        Parameters and errors are those of :meth:`fit`; X must have the image shape and dtype
        of the first call. Labels come in every call or in none; new classes may.

        Returns
        -------
        self
        """
        if not hasattr(self, "image_shape_"):
            return self.fit(X, y, sample_weight)
        images, _ = check_training_images(self, X, reset=False)
        if images.dtype != self._image_dtype:
            raise ValueError(
                f"X has dtype {images.dtype}, the training set {self._image_dtype}; convert X "
                "first."
            )
        check_inside(images, self.data_range_)
        self._widen_limits(images)
        weight = check_weights(sample_weight, images, self._device)
        self._know_more(check_labels(y, len(images), weight), y)
        with torch_threads():
            self._add(images.to(self._device), weight)
            self._extend()
        return self

    def _take_units(self, images):
        """Keep the data range and the limits of training images; nothing has been warned of."""
        self.data_range_ = check_data_range(self.data_range, images.dtype)
        check_inside(images, self.data_range_)
        self._limits = _limits(images, self.data_range_)
        self._warned: set[str] = set()

    def _widen_limits(self, images):
        """Let the limits of training images hold more of them."""
        low, high = _limits(images, self.data_range_)
        self._limits = min(low, self._limits[0]), max(high, self._limits[1])

    def _training_set(self, images, weight):
        """Return images and weights as a training set on the data range."""
        return TrainingSet(images, weight, self.data_range_ or DEFAULT_RANGE)

    def _keep(self, training_set):
        """Learn from a training set, forgetting what was known."""
        self.training_set_ = training_set

    def _add(self, images, weight):
        """Learn from more images, beside those known."""
        self._keep(self.training_set_.extended(images, weight))

    @property
    def _device(self):
        """Where the work is done."""
        return self.training_set_.device

    @property
    def _image_dtype(self):
        """Of the training images."""
        return self.training_set_.images.dtype

    def _resolve(self):
        """Check parameters against the images; called at the end of `fit`."""

    def _extend(self):
        """The same at the end of `partial_fit`: the training set begins with the one before."""
        self._resolve()

    def _shapes(self):
        """Shapes that one noisy image may have; the last is that of the answer."""
        return [self.image_shape_]

    def _respond(self, images):
        """The part of (n, C, H, W) images that the denoiser answers for."""
        return images

    def _posterior_by_window(self, z, sigma):
        """The posterior where ``_window`` says which windows serve a sigma.

        A subclass gives ``_window(sigma)``, which can be compared and hashed, and
        ``_windowed_posterior(z, sigma, window)`` for noisy images that share one.
        """
        return Posterior.by_group(
            [self._window(level) for level in sigma.tolist()],
            lambda rows, window: self._windowed_posterior(z[rows], sigma[rows], window),
        )

    def posterior(self, Z, sigma, y=None):
        """The posterior over training images of each noisy image.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images ``x0 + sigma * noise``. float64 is computed in float64, everything
            else in float32 (how exactly: :ref:`accuracy`). Gradients are not tracked.
        sigma : float or array of shape (n,), (n, 1) or (n, 1, 1, 1)
            Noise level, in the units of the images; 0 and inf are allowed.
        y : label or array of shape (n,), default None
            The class of all noisy images, or of each: the posterior is then over the training
            images of that class. None: over all of them.

        Returns
        -------
        Posterior
            Its mean in the container, layout and float dtype of Z (float32 for uint8 and
            half precision); of a class, its evidence is log p(z | y).

        Warns
        -----
        UserWarning
            Once after each fit, if ``error_bound`` is an estimate for a noisy image, which
            ``bound_is_proved`` says of each.

        Raises
        ------
        ValueError
            For NaN, values that exceed 1e16 in float32 or 1e60 in float64, shapes other than those
            fitted, a negative sigma, or a class that was not fitted or whose images all have weight
            zero; if the posterior mean is not finite.
        """
        check_is_fitted(self)
        z, layout = check_noisy_images(self, Z, self._shapes(), self._device)
        with torch.no_grad(), torch_threads():
            levels = check_sigma(sigma, len(z)).to(z.device)
            warn_if_far(self, z, levels)
            result = self._posterior_of(z, levels, y)
        check_finite(result.mean, z.dtype, "the posterior mean")
        self._warn_of_estimates(result.bound_is_proved)
        return result.map(lambda t: layout.restore(t, images=t is result.mean))

    @property
    def _proved_by(self):
        """How to have bounds that are proved, for a warning."""
        return "use denoisers inside that keep the bound true, or all training images"

    def _warn_of_estimates(self, proved):
        """Warn, once after each fit, of error bounds (n,) that are not proved."""
        n_estimates = len(proved) - int(proved.sum())
        if n_estimates:
            warn_once(
                self,
                "estimates",
                f"{type(self).__name__}: error_bound is an estimate for {n_estimates} of "
                f"{len(proved)} noisy images, which single pixels may exceed (bound_is_proved is "
                f"False there); {self._proved_by}.",
            )

    def transform(self, X):
        """Denoise at the constructor's ``sigma``, so that a Pipeline works.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.

        Returns
        -------
        array or Tensor
            See :meth:`denoise`. ``set_output`` needs flat input: a data frame has two axes.
        """
        check_is_fitted(self)
        return self.denoise(X, self.sigma)

    def score_samples(self, Z, sigma=None, y=None):
        """Log evidence log p(z; sigma) of noisy images.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
        sigma : float or array of shape (n,), default None
            None: the constructor's.
        y : label or array of shape (n,), default None
            log p(z | y; sigma), from the training images of the class alone.

        Returns
        -------
        array or Tensor of shape (n,)
            For the empirical denoiser, what ``KernelDensity(bandwidth=sigma)`` gives; see
            `Posterior` for denoisers with many windows.
        """
        check_is_fitted(self)
        return self.posterior(Z, self.sigma if sigma is None else sigma, y).log_evidence

    def score(self, X, y=None, *, sigmas=None):
        """Minus the mean squared denoising error on clean images: higher is better.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            Clean images, best held out from training.
        y : ignored
            All training images count, whatever the class: searches pass labels here.
        sigmas : array of float, default None
            Noise levels to average over, in the units of the images. None: 0.1, 0.2, 0.4, 0.8,
            1.6, 3.2 for images on [-1, 1], scaled to ``data_range``.

        Returns
        -------
        float
            The noise of image i depends on ``random_state`` and i only, so that scores of
            different denoisers can be compared.
        """
        check_is_fitted(self)
        images, _ = check_noisy_images(self, X, [self.image_shape_], self._device)
        if sigmas is None:
            warn_if_unusual(self, "the noise levels of score")
            sigmas = half_width(self.data_range_) * np.array(_SCORE_SIGMAS)
        sigmas = np.atleast_1d(sigmas)
        if len(sigmas) == 0 or sigmas.dtype.kind not in "iuf" or not np.isfinite(sigmas).all():
            raise ValueError(f"sigmas must be finite and at least one, got {sigmas!r}.")
        check_sigma(sigmas, len(sigmas))
        check_noise_range(images.dtype, sigmas=float(sigmas.max()))
        shape = (len(sigmas), *self.image_shape_)
        seed = noise_seed(self.random_state)
        n_rows = rows_that_fit(16 * math.prod(shape), len(images), what="The noise of one image")
        total = 0.0
        for rows in gen_batches(len(images), n_rows):
            clean = images[rows]
            target = self._respond(clean)
            noise = draw_noise(shape, len(clean), seed, start=rows.start).to(clean)
            for j, sigma in enumerate(sigmas):
                level = check_sigma(sigma, len(clean)).to(clean.device)
                with torch.no_grad(), torch_threads():
                    mean = self._posterior(clean + float(sigma) * noise[:, j], level).mean
                error = (mean - target).square().mean(dtype=torch.float64)
                total += float(error) * len(clean)
        return -total / (len(images) * len(sigmas))

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
        """Draw images by walking the probability-flow ODE from noise.

        Parameters
        ----------
        n : int, default 1
            How many. An array y or ``initial`` tells it too.
        y : label or array of shape (n,), default None
            The class of all samples, or of each. None: any.
        guidance : float, default 1.0
            Weight of the class, see :meth:`denoise`.
        random_state : int, RandomState, Generator or None, default None
            Sample i depends on it, on i and on its class only, not on n.
        sampler : {"euler", "heun"} or callable, default "heun"
            A callable ``sampler(denoise, z, sigmas)`` that yields the state after each of
            ``len(sigmas)`` steps, the last at sigma = 0.
        n_steps : int, default 18
        sigma_min, sigma_max : float, default None
            Ends of the grid `edm_sigmas`, in the units of the images. None: 0.002 and 80 for
            images on [-1, 1], scaled to ``data_range``.
        initial : array or Tensor of shape (n, C, H, W) or (n, d), default None
            Noisy images at ``sigma_max`` to start from instead of drawing noise.
        return_trajectory : bool, default False
            Also return the states after 0, 1, ..., n_steps steps.
        callback : callable, default None
            Called as ``callback(step, sigma, z)`` after each step, with the step's number
            from 1, the noise level reached and the state, a tensor (n, C, H, W).
        verbose : int, default 0
            Above zero, show a progress bar.

        Returns
        -------
        samples : array or Tensor
            In the container and layout of the X that was fitted; float64 if X was, else
            float32.
        trajectory : array or Tensor of shape (n_steps + 1, n, ...)
            If ``return_trajectory``.

        Raises
        ------
        ValueError
            For an unknown sampler or class, or parameters out of range.
        SamplingInterrupted
            On Ctrl-C; it holds the state reached.
        """
        check_is_fitted(self)
        if not (callback is None or callable(callback)):
            raise ValueError(f"callback must be a callable or None, got {callback!r}.")
        steps = self._sampler(sampler)
        sigma_min, sigma_max = sampler_ends(self.data_range_, sigma_min, sigma_max)
        if initial is None:
            warn_if_small(self, sigma_max)
        sigmas = [*edm_sigmas(n_steps, sigma_min, sigma_max).tolist(), 0.0]
        check_noise_range(self._layout.dtype, sigma_min=sigma_min, sigma_max=sigma_max)
        if initial is None and n == 1 and np.ndim(y):
            n = len(y)
        z = self._initial(n, initial, random_state, sigma_max)
        states, done = [z], 0
        try:
            with torch.no_grad(), torch_threads():
                denoise = self._conditional_walker(y, guidance, len(z))
                walk = steps(denoise, z, sigmas[:-1])
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
                f"sampler {sampler!r} must yield once for each of the {n_steps} steps, but "
                f"yielded {'more' if done > n_steps else done}."
            )
        if guidance != 1:
            name = f"a sample with guidance={guidance:g}"
            check_finite(z, z.dtype, name, "pass a smaller guidance")
        samples = self._layout.restore(check_finite(z, z.dtype, "a sample"))
        return (samples, self._stacked(states)) if return_trajectory else samples

    def _stacked(self, states):
        """States as one array, (len(states), n, ...)."""
        restored = [self._layout.restore(state) for state in states]
        return torch.stack(restored) if self._layout.is_torch else np.stack(restored)

    def _sampler(self, sampler):
        """The sampler's function from its name."""
        if callable(sampler):
            return sampler
        if not isinstance(sampler, str) or sampler not in SAMPLERS:
            known = ", ".join(map(repr, sorted(SAMPLERS)))
            raise ValueError(f"sampler must be one of {known} or a callable, got {sampler!r}.")
        return SAMPLERS[sampler]

    def _initial(self, n, initial, random_state, sigma_max):
        """The state to start from: the given one, or noise."""
        shape = self._shapes()[-1]
        if initial is not None:
            z, _ = check_noisy_images(self, initial, [shape], self._device)
            if n not in (1, len(z)):
                raise ValueError(f"n is {n}, but initial holds {len(z)} images; leave n out.")
            return z.to(self._layout.dtype, copy=True)  # a sampler of the caller's may write to it
        if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
            raise ValueError(f"n must be an int of at least 1, got {n!r}.")
        # samples on a data range are scaled samples on [-1, 1], and so is the noise they start from
        noise = sigma_max * draw_noise(shape, n, random_state)
        noise += middle(self.data_range_)
        return noise.to(device=self._device, dtype=self._layout.dtype)

    def _walker(self):
        """What a sampler calls on one walk: ``denoise(z, sigma)``, a tensor and one float."""
        return self._denoise_at

    def _denoise_at(self, z, sigma, **remembered):
        level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
        return self._posterior(z, level, **remembered).mean


def _limits(images, data_range):
    """Smallest and largest value of training images; of uint8 images, of any that they may hold."""
    if images.dtype == torch.uint8:
        return data_range
    low, high = images.aminmax()
    return float(low), float(high)
