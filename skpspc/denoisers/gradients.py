"""Posteriors as functions of torch tensors: backward passes and forward mode.

The backward pass of a posterior is one product of its derivative with a vector, which a prior
computes in one pass over the training set (``vjp``); forward mode is the other product (``jvp``).
Neither forms the Jacobian or stores posterior weights.

Data-dependent code cannot run under `torch.func.vmap`. The rules of the functions here fold the
mapped axis into the axis of the images instead.
"""

import math
import numbers
from dataclasses import dataclass, replace
from typing import Any

import torch

from .._threads import torch_threads
from .._validation import as_labels


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a denoiser, for noisy images that are given later.

    Attributes
    ----------
    denoiser : Denoiser
        Its state does not change.
    y : label, array of shape (n,), or None
        Classes of the noisy images.
    guidance : float, default 1.0
    n_copies : int, default 1
        Number of times that the noisy images are repeated; ``y`` is given once.
    """

    denoiser: Any
    y: Any = None
    guidance: float = 1.0
    n_copies: int = 1

    def repeated(self, n_times):
        """Return the call for repeated noisy images."""
        return replace(self, n_copies=n_times * self.n_copies)

    def prior(self, n):
        """Return the prior of n noisy images."""
        return self.denoiser._conditional(self.y, n, self.guidance, self.n_copies)

    def priors(self, n):
        """Yield the prior of each of n noisy images alone."""
        labels = None if self.y is None else as_labels(self.y)
        for i in range(n):
            own = labels if labels is None or labels.ndim == 0 else labels.reshape(n)[i : i + 1]
            yield replace(self, y=own).prior(1)

    def vjp(self, Z, sigma, mean, evidence):
        """Return the cotangents of Z, in its shape and dtype, and of the noise levels (n,)."""
        z, levels, _ = self.checked(Z, sigma)
        mean = mean.to(z).view(len(z), *self.denoiser._answer_shape_of(z))
        with torch.no_grad(), torch_threads():
            of_z, of_levels = self.prior(len(z)).vjp(z, levels, mean, evidence.to(z))
        return of_z.to(Z).view(Z.shape), of_levels.to(Z.device)

    def jvp(self, Z, sigma, dZ, dsigma):
        """Return the tangents of the mean and of the log evidence."""
        z, levels, layout = self.checked(Z, sigma)
        dz = dZ.to(z).view(z.shape)
        with torch.no_grad(), torch_threads():
            mean, evidence = self.prior(len(z)).jvp(z, levels, dz, dsigma.to(levels))
        return layout.restore(mean), layout.restore(evidence, images=False)

    def checked(self, Z, sigma):
        """Return noisy images, noise levels and layout; raise at sigma = 0."""
        z, levels, layout = self.denoiser._checked(Z, sigma)
        if (levels == 0).any():
            raise ValueError(
                "sigma must be positive for a derivative, got 0: there the denoised image is a "
                "step function of z; pass a positive sigma."
            )
        return z, levels, layout


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


def posterior_arrays(Z, sigma, call):
    """Return the arrays of a `Posterior`; the mean and log evidence of tensors have gradients."""
    if not isinstance(Z, torch.Tensor):
        with torch.no_grad():
            return call.denoiser._arrays(Z, sigma, call)
    if call.denoiser._is_torch and not _is_transformed(Z):
        needs = any(isinstance(t, torch.Tensor) and t.requires_grad for t in (Z, sigma))
        with torch.set_grad_enabled(needs and torch.is_grad_enabled()):
            return call.denoiser._arrays(Z, sigma, call)
    return _Posterior.apply(Z, _levels(sigma, Z), call)


def _is_transformed(Z):
    """Return True for a tensor within `torch.func`, whose values cannot be read."""
    return torch._C._functorch.is_functorch_wrapped_tensor(Z)  # there is no public function


def _levels(sigma, Z):
    """Return a tensor sigma as one noise level for each image; return all else unchanged."""
    if not (isinstance(sigma, torch.Tensor) and sigma.is_floating_point() and Z.ndim):
        return sigma
    fits = sigma.numel() == 1 or (sigma.ndim and sigma.numel() == len(sigma) == len(Z))
    return sigma.reshape(-1).expand(len(Z)) if fits else sigma


class _Posterior(torch.autograd.Function):
    """Arrays of the posterior of noisy images Z at noise levels, a tensor (n,) or a float."""

    @staticmethod
    def forward(Z, sigma, call):
        return call.denoiser._arrays(Z, sigma, call)

    @staticmethod
    def setup_context(ctx, inputs, output):
        Z, sigma, ctx.call = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.sigma = sigma
        saved = (Z, sigma) if isinstance(sigma, torch.Tensor) else (Z,)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx, mean, evidence, *_others):
        Z, *rest = ctx.saved_tensors
        sigma = rest[0] if rest else ctx.sigma
        of_z, of_sigma = _Vjp.apply(Z, sigma, mean, evidence, ctx.call, ctx.needs_input_grad[1])
        return of_z, of_sigma.to(sigma) if rest else None, None

    @staticmethod
    def jvp(ctx, dZ, dsigma, _call):
        Z, *rest = ctx.saved_tensors
        sigma = rest[0] if rest else ctx.sigma
        dZ = torch.zeros_like(Z) if dZ is None else dZ
        return (*_Jvp.apply(Z, sigma, dZ, dsigma, ctx.call), *[None] * 4)

    @staticmethod
    def vmap(info, in_dims, Z, sigma, call):
        n_times = info.batch_size
        Z, sigma = _folded((Z, sigma), in_dims, n_times)
        return _unfolded(_Posterior.apply(Z, sigma, call.repeated(n_times)), n_times)


class _FirstDerivative(torch.autograd.Function):
    """A function without derivatives of its own."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *cotangents):
        raise NotImplementedError(
            "denoisers have first derivatives only; call backward() without create_graph=True, or "
            "use finite differences of gradients."
        )

    jvp = backward


class _Vjp(_FirstDerivative):
    """Cotangents of Z and of the noise levels, from cotangents of the mean and log evidence."""

    @staticmethod
    def forward(Z, sigma, mean, evidence, call, needs_sigma):
        of_z, of_levels = call.vjp(Z, sigma, mean, evidence)
        if needs_sigma:
            _check_closed_form(of_levels, call)
        return of_z, of_levels

    @staticmethod
    def vmap(info, in_dims, Z, sigma, mean, evidence, call, needs_sigma):
        n_times = info.batch_size
        arrays = _folded((Z, sigma, mean, evidence), in_dims, n_times)
        return _unfolded(_Vjp.apply(*arrays, call.repeated(n_times), needs_sigma), n_times)


class _Jvp(_FirstDerivative):
    """Tangents of the mean and log evidence, from tangents of Z and of the noise levels."""

    @staticmethod
    def forward(Z, sigma, dZ, dsigma, call):
        dsigma = torch.zeros(len(Z), dtype=torch.float64) if dsigma is None else dsigma
        mean, evidence = call.jvp(Z, sigma, dZ, dsigma)
        if dsigma.any():
            _check_closed_form(mean, call)
        return mean, evidence

    @staticmethod
    def vmap(info, in_dims, Z, sigma, dZ, dsigma, call):
        n_times = info.batch_size
        arrays = _folded((Z, sigma, dZ, dsigma), in_dims, n_times)
        return _unfolded(_Jvp.apply(*arrays, call.repeated(n_times)), n_times)


def _check_closed_form(derivative, call):
    """Raise if a derivative by sigma is NaN."""
    if derivative.isnan().any():
        raise ValueError(
            f"{type(call.denoiser).__name__} has no derivative by sigma in closed form here: "
            "bandwidths above 0 and blends of denoisers have none; pass sigma without "
            "requires_grad."
        )


def _folded(arrays, in_dims, n_times):
    """Return arrays whose mapped axis is folded into the first axis; others are repeated."""
    folded = []
    for array, axis in zip(arrays, in_dims, strict=False):
        if not isinstance(array, torch.Tensor):
            folded.append(array)
            continue
        wide = array.expand(n_times, *array.shape) if axis is None else array.movedim(axis, 0)
        folded.append(wide.reshape(-1, *wide.shape[2:]))
    return folded


def _unfolded(outputs, n_times):
    """Return outputs with the mapped axis, and the position of the axis in each."""
    wide = tuple(output.view(n_times, -1, *output.shape[1:]) for output in outputs)
    return wide, (0,) * len(wide)
