"""Derivatives of denoisers: Jacobians and their products, divergence, likelihood."""

import math
import numbers
from itertools import count
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import solve_ivp

from .._compile import eager
from .._progress import progress, showing
from .._threads import torch_threads
from .._typing import ArrayLike, NoiseLevel, RandomState
from .._units import middle, sampler_ends
from .._validation import (
    as_container,
    check_finite,
    check_noise_range,
    check_pixels,
    check_weights,
)
from ..sampling import draw_noise, edm_sigmas
from .gradients import Call, check_guidance

_MOST_CALLS = 2000  # of the denoiser, for the flow of one image


class DifferentiableDenoiser:
    """Methods of denoisers that differentiate the denoised image by the noisy image."""

    # of `Denoiser`
    _now: Any
    _prior_of: Any
    _checked: Any
    verbose: int
    _answer_shape_of: Any
    _device: Any

    @overload
    def jacobian(
        self, Z: torch.Tensor, sigma: NoiseLevel, pixels: ArrayLike | None = None
    ) -> torch.Tensor: ...
    @overload
    def jacobian(
        self, Z: npt.ArrayLike, sigma: NoiseLevel, pixels: ArrayLike | None = None
    ) -> np.ndarray: ...
    @eager
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
            between images; if torch cannot differentiate the network.

        Notes
        -----
        With ``n_neighbors`` or ``tol``, the result is the Jacobian of the exact denoiser. For
        training images in shards, each row is a product with a unit vector, in two passes over the
        images; list only the ``pixels`` that you need.

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
        pixels = self._checked_pixels(pixels, z)
        with torch.no_grad(), torch_threads(), showing(self.verbose):
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
    @eager
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
        pixels = self._checked_pixels(pixels, z)
        weight = check_weights(sample_weight, z, z.device)
        weight = torch.ones(len(z), dtype=torch.float64).to(z.device) if weight is None else weight
        weight = weight / weight.sum()
        heat = torch.zeros(len(pixels), z[0, 0].numel(), dtype=torch.float64, device=z.device)
        prior = self._prior_of()
        n_rows, n_pixels = prior.jacobian_block(z, len(pixels))
        blocks = [
            (slice(start, start + n_pixels), rows)
            for start in range(0, len(pixels), n_pixels)
            for rows in torch.arange(len(z), device=z.device).split(n_rows)
        ]
        with torch.no_grad(), torch_threads(), showing(self.verbose):
            for block, rows in progress(blocks, "blocks of pixels and images"):
                jacobian = prior.jacobian(z[rows], sigma[rows], pixels[block])
                moved = jacobian.abs().sum((2, 3)).flatten(2).double()
                heat[block] += torch.einsum("b,bmp->mp", weight[rows], moved)
        check_finite(heat, z.dtype, "the sensitivity")
        heat = heat.view(len(pixels), *z.shape[2:]).to(layout.device)
        return heat if layout.is_torch else heat.numpy()

    def _checked_pixels(self, pixels, z):
        """Return the indices of pixels of the answers to noisy images z, a tensor."""
        return check_pixels(pixels, self._answer_shape_of(z)[-2:]).to(self._device)

    @overload
    def vjp(
        self,
        Z: torch.Tensor,
        sigma: NoiseLevel,
        vectors: ArrayLike,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor: ...
    @overload
    def vjp(
        self,
        Z: npt.ArrayLike,
        sigma: NoiseLevel,
        vectors: ArrayLike,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
    ) -> np.ndarray: ...
    @eager
    def vjp(self, Z, sigma, vectors, y=None, guidance=1.0):
        r"""Return vector-Jacobian products, the gradients of ``vectors`` times the denoised images.

        .. math::

            (J^T v)_q = \frac{1}{\sigma^2} \sum_k \pi_{kq}
            \operatorname{Cov}_{w^k}\Bigl(\sum_p s_{kp} v_p x_p,\; x_q\Bigr)

        for posterior means through windows k, with the query precisions :math:`\pi_k`, the shares
        :math:`s_k` of the denoised image and the posterior weights :math:`w^k`. Two passes over
        the training set compute the product; the Jacobian is not formed.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            Noise level, positive.
        vectors : array or Tensor of the shape of ``denoise(Z, sigma)``
            One vector for each noisy image.
        y : label or array of shape (n,), default None
            Classes, see :meth:`denoise`.
        guidance : float, default 1.0
            Weight of the classes, see :meth:`denoise`.

        Returns
        -------
        array or Tensor of the shape of Z
            In the container and float dtype of Z.

        Raises
        ------
        ValueError
            For the reasons that :meth:`denoise` lists; at sigma = 0; if ``vectors`` has another
            shape than the denoised images.

        See Also
        --------
        denoise : Its result for a tensor that requires a gradient has this backward pass.
        jacobian : Rows of the Jacobian.

        Examples
        --------
        A row of the Jacobian is the product with a unit vector:

        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser().fit([[-1.0, -1.0], [1.0, 1.0]])
        >>> model.vjp([[0.0, 0.0]], sigma=2.0, vectors=[[1.0, 0.0]])
        array([[0.25, 0.25]])
        """
        self = self._now()
        call, z, levels, layout = self._called(Z, sigma, y, guidance)
        mean = _vectors(vectors, z, self._answer_shape_of(z))
        with torch.no_grad(), torch_threads():
            of_z, _ = call.prior(len(z)).vjp(z, levels, mean, torch.zeros_like(levels).to(z))
        return layout.restore(check_finite(of_z, z.dtype, "the product"))

    @overload
    def jvp(
        self,
        Z: torch.Tensor,
        sigma: NoiseLevel,
        vectors: ArrayLike,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor: ...
    @overload
    def jvp(
        self,
        Z: npt.ArrayLike,
        sigma: NoiseLevel,
        vectors: ArrayLike,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
    ) -> np.ndarray: ...
    @eager
    def jvp(self, Z, sigma, vectors, y=None, guidance=1.0):
        r"""Return Jacobian-vector products: derivatives of ``denoise(Z, sigma)`` along ``vectors``.

        .. math::

            (J v)_p = \frac{1}{\sigma^2} \sum_k s_{kp}
            \operatorname{Cov}_{w^k}\Bigl(x_p,\; \sum_q \pi_{kq} v_q x_q\Bigr)

        with the notation of :meth:`vjp`.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            Noise level, positive.
        vectors : array or Tensor of the shape of Z
            One direction for each noisy image.
        y : label or array of shape (n,), default None
            Classes, see :meth:`denoise`.
        guidance : float, default 1.0
            Weight of the classes, see :meth:`denoise`.

        Returns
        -------
        array or Tensor of the shape of ``denoise(Z, sigma)``
            In the container and float dtype of Z.

        Raises
        ------
        ValueError
            For the reasons that :meth:`denoise` lists; at sigma = 0; if ``vectors`` has another
            shape than Z.

        Examples
        --------
        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser().fit([[-1.0, -1.0], [1.0, 1.0]])
        >>> model.jvp([[0.0, 0.0]], sigma=2.0, vectors=[[1.0, 0.0]])
        array([[0.25, 0.25]])
        """
        self = self._now()
        call, z, levels, layout = self._called(Z, sigma, y, guidance)
        dz = _vectors(vectors, z, tuple(z.shape[1:]))
        with torch.no_grad(), torch_threads():
            mean, _ = call.prior(len(z)).jvp(z, levels, dz, torch.zeros_like(levels))
        return layout.restore(check_finite(mean, z.dtype, "the product"))

    @eager
    def divergence(
        self,
        Z: ArrayLike,
        sigma: NoiseLevel,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
        *,
        n_probes: int | None = 16,
        random_state: RandomState | None = 0,
    ) -> "Divergence":
        r"""Return the divergence of the denoised image: the trace of its Jacobian.

        For `EmpiricalDenoiser` it is the posterior variance divided by the noise variance,

        .. math::

            \operatorname{tr} J = \frac{1}{\sigma^2} \sum_i w_i \, |x_i - D(z; \sigma)|^2,

        and for `GaussianDenoiser` the sum of its gains; both are exact. For all other denoisers it
        is estimated by ``n_probes`` products with random signs :math:`\epsilon`, as the mean of
        :math:`\epsilon^T J \epsilon` (Hutchinson).

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            Noise level, positive.
        y : label or array of shape (n,), default None
            Classes, see :meth:`denoise`.
        guidance : float, default 1.0
            Weight of the classes, see :meth:`denoise`.
        n_probes : int or None, default 16
            Number of random vectors for each noisy image, at least 2. None: the exact trace, from
            one product for each of the C * H * W values of an image.
        random_state : int, RandomState, Generator or None, default 0
            Seed of the random signs. The signs of image i depend on the seed and i only.

        Returns
        -------
        Divergence
            ``value`` and ``standard_error`` (n,), the latter 0 where the value is exact.

        Raises
        ------
        ValueError
            For the reasons that :meth:`denoise` lists; at sigma = 0; if the denoised images are
            not of the shape of Z; if ``n_probes`` is out of range.

        References
        ----------
        Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian
        smoothing splines", 1990. Stein's unbiased risk estimate (Stein 1981) uses the divergence.

        Examples
        --------
        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser().fit([[-1.0, -1.0], [1.0, 1.0]])
        >>> model.divergence([[0.0, 0.0]], sigma=2.0)
        Divergence(value=array([0.5]), standard_error=array([0.]))
        """
        self = self._now()
        call, z, levels, layout = self._called(Z, sigma, y, guidance)
        probes = self._probes(z, n_probes, random_state)
        with torch.no_grad(), torch_threads():
            found = _divergence(call.prior(len(z)), z, levels, probes)
        return Divergence(*(layout.restore(numbers, images=False) for numbers in found))

    @eager
    def log_likelihood(
        self,
        Z: ArrayLike,
        y: ArrayLike | None = None,
        guidance: float = 1.0,
        *,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        n_probes: int | None = 16,
        random_state: RandomState | None = 0,
        rtol: float = 1e-4,
    ) -> "LogLikelihood":
        r"""Return the log density of images under the probability flow that `sample` follows.

        The flow leads from Z, at ``sigma_min``, to noise at ``sigma_max``. Along it,

        .. math::

            \log p(z) = \log \mathcal N(z_T; c, \sigma_T^2)
            + d \log \frac{\sigma_T}{\sigma_0}
            - \int_{\sigma_0}^{\sigma_T} \operatorname{tr} J(z_\sigma; \sigma)
            \, \frac{\mathrm d\sigma}{\sigma},

        with :math:`\sigma_0` and :math:`\sigma_T` the two noise levels, d the number of values, c
        the middle of the data range and J the Jacobian of the denoiser. `scipy.integrate.solve_ivp`
        integrates (method "DOP853", with adaptive steps for each image).

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Images at noise level ``sigma_min``.
        y : label or array of shape (n,), default None
            Classes, see :meth:`denoise`.
        guidance : float, default 1.0
            Weight of the classes, see :meth:`denoise`.
        sigma_min, sigma_max : float, default None
            Noise levels of the ends. None: 0.002 and 80 for images on [-1, 1], scaled to
            ``data_range``.
        n_probes : int or None, default 16
            Number of random vectors for the trace, see :meth:`divergence`.
        random_state : int, RandomState, Generator or None, default 0
            Seed of the random vectors, which all steps share.
        rtol : float, default 1e-4
            Relative tolerance of a step, between 1e-10 and 0.1.

        Returns
        -------
        LogLikelihood
            ``value``, ``standard_error`` (of the random vectors) and ``step_error`` (an estimate of
            the error of the integration: the change to a tolerance of ``10 * rtol``), (n,), in
            nats.

        Raises
        ------
        ValueError
            For the reasons that :meth:`denoise` lists; if a parameter is out of range; if the flow
            of an image needs more than 2,000 calls of the denoiser, as near a boundary between
            training images at a small ``sigma_min``.

        See Also
        --------
        score_samples : The log density in closed form, without a flow.

        Notes
        -----
        For `EmpiricalDenoiser` the result is near ``score_samples(Z, sigma_min)``. The two differ
        because `sample` starts from noise alone, while noisy images at ``sigma_max`` still hold the
        mean of the training images: by about ``|E[x] - c| / sigma_max``.

        References
        ----------
        Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
        ICLR 2021, Eq. 39.

        Examples
        --------
        A standard normal density is the Gaussian denoiser of two points with variance 1:

        >>> from skpspc import GaussianDenoiser
        >>> model = GaussianDenoiser().fit([[-1.0], [1.0]])
        >>> model.log_likelihood([[0.5]], sigma_min=0.1).value.round(3)
        array([-1.048])
        >>> model.score_samples([[0.5]], 0.1).round(3)
        array([-1.048])
        """
        if not (isinstance(rtol, numbers.Real) and 1e-10 <= rtol <= 0.1):
            raise ValueError(f"rtol must be a float between 1e-10 and 0.1, got {rtol!r}.")
        self = self._now()
        ends = sampler_ends(self.data_range_, sigma_min, sigma_max)
        edm_sigmas(2, *ends)  # raises unless the ends are in order
        call, z, _, layout = self._called(Z, ends[0], y, guidance)
        check_noise_range(z.dtype, sigma_min=ends[0], sigma_max=ends[1])
        probes = self._probes(z, n_probes, random_state)
        results = []
        with torch.no_grad(), torch_threads():
            for i, prior in enumerate(call.priors(len(z))):
                own = None if probes is None else probes[:, i : i + 1]
                options = z[i : i + 1], ends, own, middle(self.data_range_)
                flow = prior.for_sampling()
                value, error = _flow_likelihood(flow, *options, rtol)
                rough, _ = _flow_likelihood(flow, *options, 10 * rtol)
                results.append((value, error, abs(value - rough)))
        columns = torch.tensor(results, dtype=torch.float64).T
        return LogLikelihood(*(layout.restore(column, images=False) for column in columns))

    def _called(self, Z, sigma, y, guidance):
        """Return a `Call`, and noisy images, positive noise levels and layout."""
        call = Call(self, y, check_guidance(guidance, y))
        with torch.no_grad():
            return (call, *call.checked(Z, sigma))

    def _probes(self, z, n_probes, random_state):
        """Return random signs (n_probes, n, C, H, W), or None for the exact trace."""
        if tuple(z.shape[1:]) != self._answer_shape_of(z):
            raise ValueError(
                f"{type(self).__name__} returns images of another shape than Z: there is no "
                "divergence; use jacobian."
            )
        if n_probes is None:
            return None
        if not isinstance(n_probes, numbers.Integral) or n_probes < 2:
            raise ValueError(f"n_probes must be an int of at least 2, or None, got {n_probes!r}.")
        signs = draw_noise((int(n_probes), *z.shape[1:]), len(z), random_state)
        return signs.transpose(0, 1).sign().to(z)


class Divergence(NamedTuple):
    """Divergences of denoised images.

    Attributes
    ----------
    value : array of shape (n,)
        Trace of the Jacobian of each denoised image.
    standard_error : array of shape (n,)
        Standard error from the random vectors; 0 where the trace is exact.
    """

    value: Any
    standard_error: Any


class LogLikelihood(NamedTuple):
    """Log densities of images under a probability flow, in nats.

    Attributes
    ----------
    value : array of shape (n,)
        Log density of each image.
    standard_error : array of shape (n,)
        Standard error from the random vectors of the trace; 0 where the trace is exact.
    step_error : array of shape (n,)
        Change of the value to ten times the tolerance, an estimate of the integration's error.
    """

    value: Any
    standard_error: Any
    step_error: Any


def _vectors(vectors, z, shape):
    """Return vectors as a tensor (n, *shape) in the dtype and on the device of z."""
    given = as_container(vectors, "vectors")
    tensor = torch.as_tensor(np.asarray(given) if not isinstance(given, torch.Tensor) else given)
    if tuple(tensor.shape) not in ((len(z), *shape), (len(z), math.prod(shape))):
        raise ValueError(
            f"vectors must have one vector of shape {shape} for each of {len(z)} noisy images, got "
            f"shape {tuple(tensor.shape)}."
        )
    if not tensor.isfinite().all():
        raise ValueError("vectors must be finite, got NaN or infinity.")
    return tensor.detach().to(z).reshape(len(z), *shape)


def _divergence(prior, z, sigma, probes):
    """Return traces of the Jacobian (n,) float64 and their standard errors; None: no probes."""
    trace = prior.trace(z, sigma)
    if trace is not None:
        return trace, torch.zeros_like(trace)
    still = torch.zeros_like(sigma)

    def product(vector):
        return (vector * prior.jvp(z, sigma, vector, still)[0]).flatten(1).double().sum(1)

    if probes is None:
        units = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device)
        return sum(product(unit.view(z.shape[1:]).expand_as(z)) for unit in units), still
    products = torch.stack([product(probe) for probe in probes])
    return products.mean(0), products.std(0) / len(probes) ** 0.5


def _flow_likelihood(prior, z, ends, probes, centre, rtol):
    """Return the log density of one image (1, C, H, W), and its standard error, as floats.

    ``ends`` are the noise levels of z and of the end of the flow. The state of the ODE, over log
    sigma, has the image, the integral of the trace and the integral of its standard error: all
    steps share the random vectors.
    """
    shape, n_values, n_calls = z.shape, z[0].numel(), count()

    def slope(time, state):
        if next(n_calls) >= _MOST_CALLS:
            raise ValueError(
                f"the probability flow is too steep at sigma = {math.exp(time):.3g}: after "
                f"{_MOST_CALLS} calls of the denoiser it has not reached {ends[1]:g}. Pass a "
                f"sigma_min above {ends[0]:g}, near the distance of the images to their nearest "
                "training images, or a larger rtol."
            )
        level = torch.tensor([math.exp(time)], dtype=torch.float64, device=z.device)
        at = torch.from_numpy(state[:n_values]).to(z).view(shape)
        away = (at - prior.mean(at, level)).flatten().double().cpu().numpy()
        return np.concatenate(
            [away, *(t.cpu().numpy() for t in _divergence(prior, at, level, probes))]
        )

    start = np.append(z.flatten().double().cpu().numpy(), [0.0, 0.0])
    smallest = np.append(np.full(n_values, rtol * ends[0]), [rtol, rtol])
    times = np.log(ends)
    flow = solve_ivp(slope, times, start, method="DOP853", rtol=rtol, atol=smallest)
    if not flow.success:
        raise ValueError(f"the probability flow was not solved: {flow.message} Pass a larger rtol.")
    *last, integral, error = flow.y[:, -1]
    square = np.square(np.array(last) - centre).sum()
    # the log density of noise, and the change of volume of d log(sigma_T / sigma_0)
    normal = -square / (2 * ends[1] ** 2) - n_values / 2 * math.log(2 * math.pi)
    return normal - n_values * math.log(ends[0]) - integral, error
