"""Derivatives of posterior means and log evidences by the noisy image and the noise level.

`products` computes the derivatives of the composite means and log normalisers of windows. This
module adds the log evidence, which is their weighted sum, and the blur of the training images.
"""

import torch

from ..support import Squares
from ..support.windows import n_compared, overlap_counts
from . import products
from .blur import blurred_squares_product
from .softmax import floored_sigma


def vjp(z, sigma, source, windows, blur, mean, evidence):
    """Return the cotangents of noisy images and noise levels.

    Parameters
    ----------
    z, sigma, source, windows, blur : see `select.posterior`
        ``sigma`` is positive.
    mean : Tensor of shape (n, C, H, W)
        Cotangents of the posterior means, in the layout of ``source.answers``.
    evidence : Tensor of shape (n,)
        Cotangents of the log evidences.

    Returns
    -------
    tuple of Tensor
        Cotangents of z, (n, C, H, W), and of sigma, (n,) float64, which are NaN with a blur: they
        have no closed form.
    """
    rate, compared = _evidence_rates(windows, z)
    log_norm = evidence.double()[:, None] * rate
    if blur is None:
        sigma = floored_sigma(sigma, z, source)
        of_z, of_sigma = products.vjp(z, sigma, source, windows, mean, log_norm)
        return of_z, of_sigma - compared * evidence.double() / sigma
    if _has_own_filters(windows, blur):
        mean = mean / _overlaps(windows, z)
        of_z, _ = blurred_squares_product(z, sigma, source, windows, blur, mean, log_norm)
        return of_z, torch.full_like(sigma, torch.nan)
    query, level, filtered, filtering = _filtered(z, sigma, source, blur)
    mean = mean.flatten(1)
    inner = filtering.apply(mean).view(z.shape)
    of_query, _ = products.vjp(query, level, filtered, windows, inner, log_norm)
    of_z = filtering.linear(mean) + filtering.apply(of_query.flatten(1))
    return of_z.view(z.shape), torch.full_like(sigma, torch.nan)


def jvp(z, sigma, source, windows, blur, dz, dsigma):
    """Return the tangents of posterior means and log evidences.

    Parameters
    ----------
    z, sigma, source, windows, blur : see `select.posterior`
        ``sigma`` is positive.
    dz : Tensor of shape (n, C, H, W)
        Tangents of the noisy images.
    dsigma : Tensor of shape (n,), float64
        Tangents of the noise levels.

    Returns
    -------
    tuple of Tensor
        Tangents of the means, (n, C, H, W), and of the log evidences, (n,) float64. Along sigma,
        both are NaN with a blur.
    """
    rate, compared = _evidence_rates(windows, z)
    if blur is None:
        sigma = floored_sigma(sigma, z, source)
        mean, log_norm = products.jvp(z, sigma, source, windows, dz, dsigma)
        return mean, (log_norm * rate).sum(1) - compared * dsigma / sigma
    # zero, or NaN where the noise level changes
    unknown = torch.where(dsigma == 0, 0.0, torch.nan)
    if _has_own_filters(windows, blur):
        no_shift = sigma.new_zeros(len(z), products.n_windows(windows, z.shape[1:]))
        mean, log_norm = blurred_squares_product(z, sigma, source, windows, blur, dz, no_shift)
        mean = mean / _overlaps(windows, z)
        return mean + unknown.to(z).view(-1, 1, 1, 1), (log_norm * rate).sum(1) + unknown
    query, level, filtered, filtering = _filtered(z, sigma, source, blur)
    dz = dz.flatten(1)
    moved = filtering.apply(dz).view(z.shape)
    inner, log_norm = products.jvp(query, level, filtered, windows, moved, torch.zeros_like(sigma))
    mean = (filtering.linear(dz) + filtering.apply(inner.flatten(1))).view(z.shape)
    return mean + unknown.to(z).view(-1, 1, 1, 1), (log_norm * rate).sum(1) + unknown


def _evidence_rates(windows, z):
    """Return derivatives of the log evidence: by every log normaliser, and by ``-log sigma``.

    The first is (K,) float64. The second, a float, is of the normalising constant alone.
    """
    counts = torch.as_tensor(windows.n_values(z.shape[1:]), dtype=torch.float64, device=z.device)
    n_windows = products.n_windows(windows, z.shape[1:])
    counts = counts.view(-1).expand(n_windows)
    n_total = n_compared(windows, z.shape[1:])
    rate = torch.where(counts > 0, n_total / n_windows / counts, 0.0)
    return rate, n_total * float((counts > 0).double().mean())


def _has_own_filters(windows, blur):
    """Return True if every window is blurred along its own covariance."""
    return blur.by_window and isinstance(windows, Squares)


def _overlaps(windows, z):
    return torch.as_tensor(overlap_counts((windows.h, windows.w), z.shape[1:])).to(z)


def _filtered(z, sigma, source, blur):
    """Return filtered noisy images, their noise levels, filtered training images and the filter."""
    filtering = blur.filter(float(sigma[0]))
    filtered = filtering.training_set(source, z.dtype)
    query = filtering.query(z)
    return query, floored_sigma(sigma, query, filtered), filtered, filtering


def vjp_by_torch(prior, z, sigma, mean, evidence):
    """Return the results of `BasePrior.vjp` for a prior that torch can differentiate."""
    with torch.enable_grad():
        inputs = z.detach().requires_grad_(), sigma.detach().requires_grad_()
        posterior = prior.posterior(*inputs)
    pairs = ((posterior.mean, mean), (posterior.log_evidence, evidence))
    outputs, cotangents = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
    found = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
    return tuple(
        torch.zeros_like(of) if grad is None else grad
        for of, grad in zip(inputs, found, strict=True)
    )


def jvp_by_torch(prior, z, sigma, dz, dsigma):
    """Return the results of `BasePrior.jvp` for a prior that torch can differentiate."""

    def function(z, sigma):
        posterior = prior.posterior(z, sigma)
        return posterior.mean, posterior.log_evidence.double()

    return torch.func.jvp(function, (z, sigma), (dz, dsigma))[1]
