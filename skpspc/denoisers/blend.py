"""A convex combination of priors, whose weights depend on the noise level."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch

from .._state import NumpyState
from ..posterior import BasePrior
from ..posterior.posterior import converted, weighted


@dataclass(frozen=True, eq=False)
class Blend(NumpyState, BasePrior):
    """Convex combination of priors, with weights that depend on the noise level.

    Attributes
    ----------
    members : list of BasePrior
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    weights : ndarray of shape (L, M)
        Weights at the noise levels; interpolated in between, linearly in log sigma.
    errors : ndarray of shape (L, M + 1), or None
        Mean squared errors of members and blend on held-out images, if they were measured.
    device : torch.device
    """

    members: list[BasePrior]
    sigmas: np.ndarray
    weights: np.ndarray
    errors: np.ndarray | None
    device: Any

    no_attribution = "BlendedDenoiser mixes its members; call the method of one of its denoisers_."

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
            (rows, weight, posterior_of(member, z[rows], sigma[rows]))
            for member, rows, weight in self._weighted_members(sigma)
        )
        return weighted(terms, len(z))

    def jacobian(self, z, sigma, pixels):
        """Return the weighted mean of the members' Jacobians."""
        out = z.new_zeros(len(z), len(pixels), z.shape[1], *z.shape[1:])
        for member, rows, weight in self._weighted_members(sigma):
            arguments = (tensor.to(member.device) for tensor in (z[rows], sigma[rows], pixels))
            jacobian = member.jacobian(*arguments).to(z)
            out[rows] += weight.to(z).view(-1, 1, 1, 1, 1, 1) * jacobian
        return out

    def vjp(self, z, sigma, mean, evidence):
        """Return the weighted mean of the members' cotangents; NaN for sigma."""
        of_z = torch.zeros_like(z)
        for member, rows, weight in self._weighted_members(sigma):
            scaled = mean[rows] * weight.to(z).view(-1, 1, 1, 1), evidence[rows] * weight.to(z)
            arguments = (t.to(member.device) for t in (z[rows], sigma[rows], *scaled))
            of_z[rows] += member.vjp(*arguments)[0].to(z)
        return of_z, torch.full_like(sigma, torch.nan)

    def jvp(self, z, sigma, dz, dsigma):
        """Return the weighted mean of the members' tangents; NaN along sigma."""
        mean, evidence = torch.zeros_like(z), torch.where(dsigma == 0, 0.0, torch.nan)
        for member, rows, weight in self._weighted_members(sigma):
            arguments = (
                t.to(member.device) for t in (z[rows], sigma[rows], dz[rows], dsigma[rows])
            )
            of_mean, of_evidence = member.jvp(*arguments)
            mean[rows] += weight.to(z).view(-1, 1, 1, 1) * of_mean.to(z)
            evidence[rows] += weight * of_evidence.to(weight)
        return mean + torch.where(dsigma == 0, 0.0, torch.nan).to(z).view(-1, 1, 1, 1), evidence

    def _weighted_members(self, sigma):
        """Yield each member, the rows of noisy images where it has weight, and its weights."""
        for member, weight in zip(self.members, self.weights_at(sigma).T, strict=True):
            rows = weight.nonzero().squeeze(1)
            if len(rows):
                yield member, rows, weight[rows]


def posterior_of(member, z, sigma):
    """Return the posterior of a member, computed on its device, on the device of z."""
    posterior = member.posterior(z.to(member.device), sigma.to(member.device))
    return converted(posterior, lambda tensor: tensor.to(z.device))


def simplex_weights(product):
    r"""Return the non-negative w with sum one that minimises w^T A w.

    With u = t w, :math:`u^T A u + (\sum u - 1)^2` has the minimum :math:`q / (1 + q)` over t, with
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
