"""Trained networks as denoisers."""

import copy
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from .._state import NumpyState
from .._typing import ArrayLike, DataRange, Device, ImageShape, NoiseLevel, RandomState
from .._units import check_data_range, check_inside, checked_range, value_limits
from .._validation import Layout, check_device, check_training_images, check_weights, declared_shape
from ..posterior import BasePrior, Posterior, jvp_by_torch, vjp_by_torch
from ..sampling import convert
from ..support.memory import rows_that_fit
from ..support.training_set import DEFAULT_RANGE
from .base import Denoiser, fit_context
from .network_time import resolved
from .wrapped import evaluating, unwrapped

_DTYPES = ("bfloat16", "float16", "float32", "float64")

Self = TypeVar("Self", bound="NetworkDenoiser")
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class NetworkPrior(NumpyState, BasePrior):
    """A network's estimates of clean images.

    Attributes beyond the parameters of `NetworkDenoiser`: ``time`` and ``scale``, functions of
    noise levels or None, see `resolved`; ``device`` and ``dtype`` of the network's input;
    ``factor`` and ``offset``, which map pixels of images to pixels of the network.
    """

    network: Any
    network_kwargs: dict[str, Any]
    parametrization: str
    time: Any
    scale: Any
    sigma_data: float
    condition: str
    batch_size: int | None
    device: torch.device
    dtype: torch.dtype
    factor: float
    offset: float

    no_attribution = "NetworkDenoiser does not use training images: it has no attribution."

    def posterior(self, z, sigma):
        """Return the `Posterior` of noisy images (n, C, H, W) at noise levels (n,), float64."""
        if sigma.isinf().any():
            raise ValueError(
                "sigma must be finite for a network, got inf; pass the largest noise level that "
                "the network was trained on."
            )
        mean = z.clone()
        noisy = (sigma > 0).nonzero().squeeze(1)
        n_rows = self.batch_size or max(1, len(noisy))
        for rows in noisy.split(n_rows) if len(noisy) else ():
            own = self._of_images(rows, len(z))
            mean[rows] = own._clean(z[rows], sigma[rows])
        unknown = torch.full_like(z[:, 0, 0, 0], torch.nan)
        return Posterior(mean, unknown, unknown, unknown, torch.zeros_like(unknown))

    def _of_images(self, rows, n):
        """Return the prior with the keyword arguments of some of n noisy images.

        A tensor of n rows has one row for each noisy image.
        """
        kwargs = {
            name: value[rows.to(value.device)] if _has_rows(value, n) else value
            for name, value in self.network_kwargs.items()
        }
        return replace(self, network_kwargs=kwargs)

    def _clean(self, z, sigma):
        """Return the network's estimate of x0 at positive noise levels."""
        z, sigma = self.offset + self.factor * z, self.factor * sigma
        x, c, clean = _PARAMETRIZATIONS[self.parametrization](z, sigma, self.sigma_data)
        if self.time is not None:
            c = _checked_time(self.time(sigma), sigma)
        if self.scale is not None:
            x = convert.along(self.scale(sigma), z) * z
        answer = self._ask(x, c, sigma).to(z)
        return (clean(answer, z, sigma) - self.offset) / self.factor

    def _ask(self, x, c, sigma):
        """Return the network's answer to scaled images."""
        dtype = self.dtype
        x = x.to(dtype)
        wants_gradient = torch.is_grad_enabled() and x.requires_grad
        network = partial(self.network, **self.network_kwargs)
        with torch.set_grad_enabled(wants_gradient), evaluating(self.network):
            if self.condition == "tensor":
                c = c.to(device=x.device, dtype=dtype if c.is_floating_point() else None)
                return called(network, x, c, sigma)
            answer = torch.empty_like(x)
            for level in sigma.unique():
                rows = (sigma == level).nonzero().squeeze(1)
                own = self._of_images(rows, len(x)).network_kwargs
                network = partial(self.network, **own)
                answer[rows] = called(network, x[rows], c[rows[0]].item(), level[None])
            return answer

    def vjp(self, z, sigma, mean, evidence):
        """Return the cotangents of z and sigma, by a backward pass."""
        return vjp_by_torch(self, z, sigma, mean, evidence)

    def jvp(self, z, sigma, dz, dsigma):
        """Return the tangents of the mean, in forward mode; NaN for the log evidence."""
        return jvp_by_torch(self, z, sigma, dz, dsigma)

    def jacobian_block(self, z, n_pixels):
        """Return the numbers of noisy images and of pixels for one call of `jacobian`."""
        # a backward pass serves all images, which share one forward pass
        row_bytes = 3 * z.element_size() * z.shape[1] * z[0].numel()
        n_rows = rows_that_fit(row_bytes, self.batch_size or len(z), what="A row of the Jacobian")
        return n_rows, rows_that_fit(row_bytes * n_rows, n_pixels, what="Rows of the Jacobian")

    def jacobian(self, z, sigma, pixels):
        """Return rows (n, m, C, C, H, W) of the Jacobian, by backward passes."""
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            answer = self.posterior(z, sigma).mean.flatten(2).sum(0)  # (C, H * W)
            values = answer[:, pixels].T.flatten().unbind()
        rows = [torch.autograd.grad(value, z, retain_graph=True)[0] for value in values]
        return torch.stack(rows, 1).view(len(z), len(pixels), z.shape[1], *z.shape[1:])


class _Declared(Generic[Value]):
    """Fitted attribute with a default before `fit`, if ``image_shape`` is given.

    Without a ``__set__``, the attribute of a fitted instance takes precedence.
    """

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: Any = None) -> "_Declared[Value]": ...
    @overload
    def __get__(self, instance: Any, owner: Any = None) -> Value: ...
    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        if instance.image_shape is None:
            raise AttributeError(
                f"{type(instance).__name__!r} object has no attribute "
                f"{self._function.__name__!r}; fit it, or give it image_shape"
            )
        return self._function(instance)


class NetworkDenoiser(Denoiser):
    r"""Denoiser of a trained network.

    .. math::

        D(z; \sigma) = \hat x_0\bigl(f(s\, z, c(\sigma)), z, \sigma\bigr)

    with f the network, s the scale of its noisy images, c its noise-level input, and
    :math:`\hat x_0` the clean image computed from its output; ``parametrization`` lists them.
    Nothing is trained: :meth:`fit` only learns the shape of the images.

    Parameters
    ----------
    network : torch.nn.Module or callable
        ``network(x, c)`` maps a tensor x (n, C, H, W) and a tensor c (n,), or a float c
        (``condition="float"``), to a tensor of the shape of x. An output with a tensor ``sample``
        (diffusers) or ``mean`` (azula), or a tuple whose first entry is the tensor, is unwrapped.
        Modules are in evaluation mode during the call, also modules that a function, a lambda, a
        `functools.partial` or a bound method uses. Gradients reach Z, sigma and the
        network's weights if Z or sigma requires one.
    parametrization : {"x0", "eps", "v", "flow", "edm"}, default "x0"
        Inputs and output of the network, with s the noise level in the network's pixels:

        ======  ============================  ================  =============================
        name    x                             c                 output
        ======  ============================  ================  =============================
        x0      z                             s                 the clean image
        eps     z / sqrt(1 + s^2)             s                 the noise
        v       z / sqrt(1 + s^2)             s                 sqrt(abar) eps
                                                                - sqrt(1 - abar) x0
        flow    z / (1 + s)                   t = 1 / (1 + s)   the velocity x0 - eps
        edm     z / sqrt(s^2 + sigma_data^2)  log(s) / 4        F of Karras et al., Eq. 7
        ======  ============================  ================  =============================

        "edm" is the bare network. A preconditioned network, such as ``EDMPrecond`` of the published
        checkpoints, is "x0".
    time : callable, schedule or str, default None
        Source of c instead of the table. Float c are cast to the network's dtype; integer c are
        not.

        - A callable maps noise levels s, a float64 tensor (n,), to c, a tensor (n,).
        - A scheduler of diffusers, or another object with ``alphas_cumprod``: c is the nearest
          step, and x is z / sqrt(1 + s^2), also for "x0".
        - A schedule of azula: c is the time t with sigma_t / alpha_t = s, and x is alpha_t z.
        - An object of k-diffusion with ``sigma_to_t``: c is ``sigma_to_t(s)``.
        - A name: "linear" or "squaredcos_cap_v2", the ``beta_schedule`` of diffusers with 1000
          steps and its default betas; "VDenoiser" of k-diffusion; "VESchedule", "VPSchedule",
          "CosineSchedule", "RectifiedSchedule" or "DecaySchedule" of azula, with its default
          parameters.
    network_range : tuple of (low, high), default (-1, 1)
        Range of the network's training images, for example (0, 1) or (-0.5, 0.5). Images are mapped
        from ``data_range`` ([-1, 1] where it is None) to this range and back. Noise levels are
        multiplied by the ratio of the widths.
    sigma_data : float, default 0.5
        Standard deviation of the data for "edm", in the network's pixels.
    condition : {"tensor", "float"}, default "tensor"
        "tensor": the network takes a tensor c. "float": the network takes one Python number, and
        images are grouped by noise level.
    network_kwargs : dict, default None
        Keyword arguments of every call of the network, such as ``{"class_labels": labels}``. A
        tensor with one row for each noisy image is divided with the images.
    batch_size : int, default None
        Number of images in one call of the network. None: all.
    dtype : {"float32", "float64", "float16", "bfloat16"}, default None
        Dtype of x. None: the dtype of the module's parameters, or float32 for other callables.
    sigma : float, default 0.5
        Noise level of :meth:`transform`, in the units of the images.
    image_shape : tuple of (C, H, W), default None
        Shape of one image; :meth:`fit` is then optional. None: the shape of X at fit.
    data_range : tuple of (low, high), default None
        Range of the images, and unit of noise levels. uint8 pixels 0 to 255 stand for low to high,
        and floats must lie between low and high. None: uint8 images are read on [-1, 1], and float
        images are used unscaled.
    device : str or torch.device, default None
        Device of the network. None: the device of the module's parameters, or the CPU for other
        callables. A module is not moved.
    random_state : int, RandomState, Generator or None, default 0
        Seed of the noise of :meth:`score`. None: new noise at each call.

    Attributes
    ----------
    image_shape_ : tuple of (C, H, W)
        Shape of one image.
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
        While denoising: at an infinite noise level; if the network returns another shape, NaN or
        infinity, or is on another device or of another dtype than its input; if ``time`` does not
        return one number for each image; if noisy images require a gradient that the network does
        not have.
    ImportError
        If ``time`` is the name of a schedule of azula, and azula is not installed or too old.

    See Also
    --------
    load_network : Load a network from a file.

    Notes
    -----
    At sigma = 0 the result is the noisy image, and the network is not called. A network has no
    log p(z) and no error bound: ``log_evidence``, ``effective_sample_size`` and ``error_bound`` of
    its posterior are NaN, and there is no ``score_samples``. Without :meth:`fit`, samples are
    float32 arrays (n, C, H, W).

    References
    ----------
    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    NeurIPS 2022, Eq. 7 and Table 1; Ho et al., NeurIPS 2020 (eps); Salimans and Ho, ICLR 2022
    (v); Lipman et al., ICLR 2023 (flow).

    Examples
    --------
    The optimal denoiser of standard normal pixels in place of a network: it shrinks pixels by
    1 / (1 + sigma^2), to a half at sigma = 1.

    >>> from skpspc import NetworkDenoiser
    >>> def network(x, c):
    ...     return x / (1 + c[:, None, None, None] ** 2)
    >>> model = NetworkDenoiser(network, image_shape=(1, 2, 2))
    >>> model.denoise([[[[2.0, 1.0], [0.0, -1.0]]]], sigma=1.0)
    array([[[[ 1. ,  0.5],
             [ 0. , -0.5]]]])
    """

    _is_torch = True

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "network": [callable],
        "parametrization": [StrOptions({"x0", "eps", "v", "flow", "edm"})],
        "time": [object],  # checked in `resolved`
        "network_range": [tuple, list],
        "sigma_data": [Interval(numbers.Real, 0, None, closed="neither")],
        "condition": [StrOptions({"tensor", "float"})],
        "network_kwargs": [dict, None],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "dtype": [StrOptions(set(_DTYPES)), None],
    }

    def __init__(
        self,
        network: Callable[..., Any],
        parametrization: Literal["x0", "eps", "v", "flow", "edm"] = "x0",
        *,
        time: Any = None,
        network_range: DataRange = (-1, 1),
        sigma_data: float = 0.5,
        condition: Literal["tensor", "float"] = "tensor",
        network_kwargs: dict[str, Any] | None = None,
        batch_size: int | None = None,
        dtype: Literal["float32", "float64", "float16", "bfloat16"] | None = None,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Device | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.network = network
        self.parametrization = parametrization
        self.time = time
        self.network_range = network_range
        self.sigma_data = sigma_data
        self.condition = condition
        self.network_kwargs = network_kwargs
        self.batch_size = batch_size
        self.dtype = dtype
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device: Device | None = device
        self.random_state = random_state

    @_Declared
    def image_shape_(self) -> tuple[int, int, int]:
        """Shape of one image, (C, H, W)."""
        return declared_shape(self, None)

    @_Declared
    def n_features_in_(self) -> int:
        """Number of values in one image, C * H * W."""
        return math.prod(self.image_shape_)

    @_Declared
    def data_range_(self) -> tuple[float, float] | None:
        """Range of the images, or None for floats of no declared range."""
        return check_data_range(self.data_range, torch.float32)

    @_Declared
    def _layout(self):
        """Container of samples."""
        return Layout(False, False, torch.float32, torch.device("cpu"))

    @_Declared
    def _warned(self):
        """Topics of warnings issued, a new set at each access before a fit."""
        return set()

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self: Self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn the shape of the images; their pixels are only checked.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            Images of the shape of the network's images.
        y : ignored
            Accepted for pipelines and searches.
        sample_weight : array of shape (n,), default None
            Checked, without effect.

        Returns
        -------
        self
            The denoiser with the shape of the images.

        Raises
        ------
        ValueError
            If X holds NaN, infinity or no images; if shapes or parameters do not match.
        """
        new = copy.copy(self)
        images, new._layout = check_training_images(new, X, reset=True)
        new.image_shape_ = tuple(images.shape[1:])
        check_weights(sample_weight, images, images.device)
        if self.device is not None:
            check_device(self.device, images)
        new.data_range_ = check_data_range(self.data_range, images.dtype)
        check_inside(images, new.data_range_)
        new._limits = value_limits(images, new.data_range_)
        new._warned = set()
        new._prior = new._make_prior()
        self.__dict__ = new.__dict__
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self: Self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Check that X has the shape of the fitted images; without a fit, fit X.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            Images of the shape of the network's images.
        y : ignored
            Accepted for pipelines and searches.
        sample_weight : array of shape (n,), default None
            Checked, without effect.

        Returns
        -------
        self
            The denoiser with the shape of the images.

        Raises
        ------
        ValueError
            If X holds NaN, infinity or no images, or images of another shape.
        """
        if "image_shape_" not in vars(self):
            return self.fit(X, y, sample_weight)
        images, _ = check_training_images(self, X, reset=False)
        check_weights(sample_weight, images, images.device)
        return self

    def __sklearn_is_fitted__(self):
        """Return whether the shape of the images is fitted or declared."""
        return "image_shape_" in vars(self) or self.image_shape is not None

    def posterior(self, Z: ArrayLike, sigma: NoiseLevel, y: ArrayLike | None = None) -> Posterior:
        """Return the denoised images as the mean of a `Posterior`; a network has no weights.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images ``x0 + sigma * noise``.
        sigma : float or array of shape (n,), (n, 1) or (n, 1, 1, 1)
            Noise level, non-negative and finite, in the units of the images.
        y : None
            A network is called without a class; other values raise ValueError.

        Returns
        -------
        Posterior
            ``mean`` has the network's estimates, see :meth:`denoise`. ``log_evidence``,
            ``effective_sample_size`` and ``error_bound`` are NaN, because the error of a network
            has no bound. ``bound_is_proved`` is False, and ``standard_error`` is 0.

        Raises
        ------
        ValueError
            For the reasons that :meth:`denoise` lists.
        """
        return super().posterior(Z, sigma, y)

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
        """Return the network's estimates of the clean images.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images ``x0 + sigma * noise``.
        sigma : float or array of shape (n,), (n, 1) or (n, 1, 1, 1)
            Noise level, non-negative and finite, in the units of the images. The network is not
            called at 0, where the result is the noisy image.
        y : None
            A network is called without a class; other values raise ValueError. To condition a
            network, bind the class to ``network`` by ``functools.partial``.
        guidance : float, default 1.0
            Accepted because all denoisers have it; other values than 1 raise ValueError.

        Returns
        -------
        array or Tensor
            Estimates of x0, in the container, layout and float dtype of Z (float32 for uint8 and
            half precision). The network itself computes in ``dtype``.

        Raises
        ------
        ValueError
            If Z holds NaN or images of another shape; if sigma is negative or infinite; for y or
            ``guidance``; for the reasons in the description of the class.
        """
        return super().denoise(Z, sigma, y, guidance)

    @property
    def score_samples(self):
        """Absent: a network has no log p(z)."""
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute 'score_samples': a network has no "
            "log p(z)"
        )

    @property
    def classes_(self):
        """Absent: a network is called without a class."""
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute 'classes_': a network is called "
            "without a class"
        )

    def _codes(self, y, n):
        raise ValueError(
            "NetworkDenoiser has no classes: its network is called with the image and the noise "
            "level alone; omit y, and pass a class by network_kwargs."
        )

    def _checked(self, Z, sigma):
        """Return noisy images and noise levels, which keep their gradients, and the layout of Z."""
        z, levels, layout = super()._checked(Z, sigma)
        if isinstance(Z, torch.Tensor) and Z.requires_grad:
            z = Z.to(z).reshape(z.shape)
        if isinstance(sigma, torch.Tensor) and sigma.requires_grad:
            levels = sigma.to(levels).reshape(-1).expand(len(z))
        return z, levels, layout

    def _prior_of(self, code=None):
        if "_prior" in vars(self):
            return self._prior
        self._validate_params()  # which `fit` would have done
        return self._make_prior()

    def _prior_on(self, training_set):
        """Return the prior, independent of training images."""
        return self._prior_of()

    def _make_prior(self):
        """Return the prior of the current parameters."""
        network = self.network
        first = next(network.parameters(), None) if isinstance(network, torch.nn.Module) else None
        dtype = torch.float32 if first is None else first.dtype
        low, high = checked_range(self.network_range, "network_range")
        own_low, own_high = self.data_range_ or DEFAULT_RANGE
        factor = (high - low) / (own_high - own_low)
        time, scale = resolved(self.time)
        return NetworkPrior(
            network,
            self.network_kwargs or {},
            self.parametrization,
            time,
            scale,
            self.sigma_data,
            self.condition,
            self.batch_size,
            torch.device(self.device or "cpu") if first is None else first.device,
            dtype if self.dtype is None else getattr(torch, self.dtype),
            factor,
            low - factor * own_low,
        )


def _has_rows(value, n):
    """Return True for a tensor with one row for each of n noisy images."""
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == n > 1


def _checked_time(c, sigma):
    """Return ``c``, the answer of ``time``; raise unless it has one number per noise level."""
    if not isinstance(c, torch.Tensor) or c.shape != sigma.shape:
        got = f"shape {tuple(c.shape)}" if isinstance(c, torch.Tensor) else f"a {type(c).__name__}"
        raise ValueError(
            f"time must map a tensor of noise levels, shape {tuple(sigma.shape)}, to a tensor of "
            f"that shape, but returned {got}; return one number for each image."
        )
    return c


def _direct(z, sigma, sigma_data):
    return z, sigma, lambda answer, z, sigma: answer


def _variance_preserving(back, z, sigma, sigma_data):
    return convert.vp_from_ve(z, sigma), sigma, back


def _flow(z, sigma, sigma_data):
    time = convert.flow_time_from_sigma(sigma)
    return convert.flow_from_ve(z, sigma), time, convert.x0_from_velocity


def _edm(z, sigma, sigma_data):
    """Karras et al., Eq. 7 and Table 1: c_in, c_noise, and c_skip z + c_out F."""
    total = torch.hypot(sigma, torch.full_like(sigma, sigma_data))

    def clean(answer, z, sigma):
        skip, out = (sigma_data / total).square(), sigma * sigma_data / total
        return convert.along(skip, z) * z + convert.along(out, z) * answer

    return z / convert.along(total, z), sigma.log() / 4, clean


# Functions from (z, sigma, sigma_data) to the inputs x and c, and the function from answer to x0.
_PARAMETRIZATIONS: dict[str, Callable] = {
    "x0": _direct,
    "eps": partial(_variance_preserving, convert.x0_from_eps),
    "v": partial(_variance_preserving, convert.x0_from_v),
    "flow": _flow,
    "edm": _edm,
}


def called(network, x, c, sigma):
    """Return the tensor of ``network(x, c)``, checked; errors name the noise levels ``sigma``.

    Raises
    ------
    ValueError
        If the network is on another device or of another dtype than x, or answers with another
        shape, no floats, NaN, infinity, or no gradient where x requires one.
    """
    try:
        answer = unwrapped(network(x, c))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if _mixes(network, x, c):
            raise _misplaced(x, str(error).strip().partition("\n")[0]) from error
        raise
    if not isinstance(answer, torch.Tensor) or answer.shape != x.shape:
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise ValueError(
            f"the network must return a tensor of the shape of its input, {tuple(x.shape)}, but "
            f"returned {got}; wrap it in a function that returns the estimate alone."
        )
    if not answer.is_floating_point():
        raise ValueError(f"the network must return floats, got {answer.dtype}.")
    if answer.device != x.device:
        raise _misplaced(x, f"its output is on {answer.device}")
    if not answer.isfinite().all():
        levels = sorted({round(level, 6) for level in sigma.tolist()})
        raise ValueError(
            f"the network returned NaN or infinity at sigma = {levels[:5]} (in its own pixels); "
            "check parametrization and network_range, or stay within the noise levels that the "
            "network was trained on."
        )
    if torch.is_grad_enabled() and x.requires_grad and not answer.requires_grad:
        raise ValueError(
            "the network's output has no gradient, so there is no Jacobian: the network runs under "
            "torch.no_grad, outside torch, or without the image; pass the bare network, or detach "
            "the noisy images."
        )
    return answer


class _LastOperation(TorchFunctionMode):
    """Record the devices and float dtypes of the last operation's tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        self.devices = {t.device for t in tensors}
        self.dtypes = {t.dtype for t in tensors if t.is_floating_point()}
        return func(*args, **(kwargs or {}))


def _mixes(network, x, c):
    """Return whether a network fails in an operation on tensors of several devices or dtypes."""
    last = _LastOperation()
    try:
        with last:
            network(x, c)
    except RuntimeError:
        return max(len(getattr(last, "devices", ())), len(getattr(last, "dtypes", ()))) > 1
    return False


def _misplaced(x, reason):
    """Return the error for a network whose weights have another device or dtype than x."""
    return ValueError(
        f"the network fails on a tensor of {x.dtype} on {x.device} ({reason}); pass the device and "
        "dtype of its weights to NetworkDenoiser, or pass a module, which has both."
    )
