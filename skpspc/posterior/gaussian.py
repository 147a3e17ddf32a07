r"""The posterior under a Gaussian: the optimal linear denoiser.

.. math::

    D(z; \sigma) = \mu + W (z - \mu), \qquad
    W = \Sigma (\Sigma + \sigma^2)^{-1} = U \operatorname{diag}\frac{S}{S + \sigma^2} U^T

All formulas use the standard deviation ``h = hypot(sqrt(S), sigma)`` of noisy images along a
direction, so that no square overflows, and sigma = 0 and inf need no special code.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from .._repr import short_repr
from .._state import NumpyState
from ..support.covariance import exact_spectrum, leading, rounding_variance
from ..support.memory import rows_that_fit, working_bytes
from .posterior import Posterior, by_blocks, log_gauss_constant
from .softmax import floored_sigma


@dataclass(frozen=True, eq=False)
class Gaussian(NumpyState):
    """A normal distribution of images, stored by its principal directions.

    Attributes
    ----------
    mean : Tensor of shape (D,), float64
    components : Tensor of shape (r, D), float64
        Orthonormal rows.
    eigenvalues : Tensor of shape (r,), float64
        Variances along the components.
    residual : float
        Variance along every other direction.
    sampled : Tensor of shape (r,), float64
        Variances of the training images along the components, before any shrinkage.
    n_images : float
        Equivalent number of equally weighted training images.
    """

    mean: torch.Tensor
    components: torch.Tensor
    eigenvalues: torch.Tensor
    residual: float
    sampled: torch.Tensor
    n_images: float

    __repr__ = short_repr
    _not_kept = ("_single", "_eigenbases", "_newest")

    @cached_property
    def abs_max(self):
        """Largest absolute value of the mean and of the standard deviations."""
        largest = max(self.residual, float(self.eigenvalues.max()) if len(self.eigenvalues) else 0)
        return max(float(self.mean.abs().max()), largest**0.5)

    @cached_property
    def _single(self):
        """The components in float32."""
        return self.components.to(torch.float32)

    def basis(self, dtype):
        """Return the components in a float dtype, (r, D)."""
        return self.components if dtype == torch.float64 else self._single

    def along(self, rows):
        """Return the coordinates (..., r) of rows (..., D) along the components."""
        return rows @ self.basis(rows.dtype).T

    def combined(self, along):
        """Return the rows (..., D) with coordinates ``along`` (..., r)."""
        return along @ self.basis(along.dtype)

    @classmethod
    def of(cls, training_set):
        """Return the Gaussian with the mean and covariance of a training set.

        Raises ValueError if both the D x D and the N x N eigenproblem are too large.
        """
        s = exact_spectrum(training_set)
        return cls._sampled(s.mean, s.components, s.eigenvalues, s.n_effective)

    @classmethod
    def _sampled(cls, mean, components, eigenvalues, n_images):
        """Return a Gaussian without the directions whose variance is a rounding error."""
        kept = eigenvalues > rounding_variance(mean)
        eigenvalues = eigenvalues[kept]
        return cls(mean, components[kept], eigenvalues, 0.0, eigenvalues, n_images)

    def to(self, device):
        """Return the Gaussian on a device."""
        if self.mean.device == device:
            return self
        names = "mean", "components", "eigenvalues", "sampled"
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def marginal(self, index):
        """Return the marginal `Gaussian` of coordinates (d,); the residual variance must be 0."""
        root = self.eigenvalues.sqrt()[:, None] * self.components[:, index]  # (r, d)
        if len(root) < len(index):
            _, spread, components = torch.linalg.svd(root, full_matrices=False)
            eigenvalues = spread.square()
        else:
            eigenvalues, vectors = leading(root.T @ root, len(index))
            components = vectors.T.contiguous()
        return self._sampled(self.mean[index], components, eigenvalues, self.n_images)

    @cached_property
    def _eigenbases(self):
        """Results of `eigenbases` for windows of one shape, by their keys."""
        return {}

    @cached_property
    def _newest(self):
        """The newest result of `eigenbases` by its key, for all shards of a worker."""
        return {}

    def eigenbases(self, index, key):
        """Return variances (k, d) and eigenvectors (k, d, d) of k marginals, increasing.

        Results are kept as long as they fit the working memory, and windows have the same shape.
        The newest result is always kept.

        Parameters
        ----------
        index : Tensor of shape (k, d), int64
            Coordinates of the marginals.
        key : tuple
            Names of the marginals; the first is the shape of the windows.
        """
        kept = self._eigenbases
        found = kept.get(key, self._newest.get(key))
        if found is not None:
            return found
        root = self.eigenvalues.sqrt()[:, None] * self.components
        root = root[:, index].transpose(0, 1)  # (k, r, d)
        found = torch.linalg.eigh(root.mT @ root)
        if any(other[0] != key[0] for other in list(kept)):
            kept.clear()
        n_bytes = sum(vectors.nbytes for _, vectors in [found, *kept.values()])
        if n_bytes <= working_bytes():
            kept[key] = found
        else:
            vars(self)["_newest"] = {key: found}
        return found

    def gains(self, sigma):
        """Return standard deviations and gains for positive noise levels (n,), float64.

        The first two results are along the components: the standard deviation (n, r) of noisy
        images, and the gain (n, r), S / (S + sigma^2). The last two are the standard deviation and
        gain, (n, 1), along every other direction.
        """
        root = self.eigenvalues.sqrt()
        rest = root.new_tensor([[self.residual]]).sqrt()
        spread = torch.hypot(root, sigma[:, None])
        rest_spread = torch.hypot(rest, sigma[:, None])
        return spread, (root / spread).square(), rest_spread, (rest / rest_spread).square()

    def wiener(self, sigma, rows):
        """Return rows (m, D) of W, float64, for output coordinates (m,) at a noise level."""
        level = torch.tensor([sigma], dtype=torch.float64, device=self.mean.device)
        _, gain, _, rest = self.gains(floored_sigma(level, self.mean[None], self))
        matrix = (self.components[:, rows].T * (gain - rest)) @ self.components
        matrix[torch.arange(len(rows), device=rows.device), rows] += rest[0, 0]
        return matrix


def gaussian_posterior(z, sigma, gaussian):
    """Return the `Posterior` of noisy images whose clean images are normally distributed.

    Parameters
    ----------
    z, sigma : see `select.compare`
        sigma = 0 is allowed as well.
    gaussian : Gaussian
    """
    sigma = floored_sigma(sigma, z, gaussian)
    n_rows = rows_that_fit(40 * z[0].numel(), len(z), what="One noisy image")
    arrays = z.flatten(1), sigma
    mean, log_evidence, ess = by_blocks(_gaussian_block, n_rows, arrays, gaussian)
    log_evidence = log_evidence.to(z.dtype)
    bound = torch.zeros_like(log_evidence)
    return Posterior(mean.view(z.shape), log_evidence, ess.to(z.dtype), bound)


def _gaussian_block(z, sigma, gaussian):
    """Return mean (b, D), log evidence (b,) float64 and effective sample size (b,) float64."""
    basis = gaussian.basis(z.dtype)
    offset = (z.double() - gaussian.mean).to(z.dtype)  # (b, D)
    along = offset @ basis.T  # (b, r)
    spread, gain, rest_spread, rest_gain = gaussian.gains(sigma)
    change = ((gain - rest_gain) * along).to(z.dtype) @ basis + rest_gain.to(z.dtype) * offset
    mean = (gaussian.mean + change).to(z.dtype)
    standard = along.double() / spread
    square = standard.square().sum(1)
    log_evidence = log_gauss_constant(basis.shape[0], torch.ones_like(sigma)) - spread.log().sum(1)
    n_rest = basis.shape[1] - basis.shape[0]
    if n_rest:
        across = (offset - along @ basis).double() / rest_spread
        square = square + across.square().sum(1)
        log_evidence += log_gauss_constant(n_rest, rest_spread[:, 0])
    influence = (gaussian.sampled.sqrt() / spread * standard).square().sum(1)
    return mean, log_evidence - square / 2, gaussian.n_images / (1 + influence)


def gaussian_vjp(z, sigma, gaussian, mean, evidence):
    """Return the cotangents of z and sigma, from cotangents of the mean and log evidence.

    See `gaussian_posterior` for the first parameters.
    """
    maps = _Maps(z, sigma, gaussian)
    mean, evidence = mean.flatten(1), evidence.double()
    of_z = maps.apply(maps.gains, mean) - evidence[:, None] * maps.score_terms
    of_sigma = (mean * maps.apply(maps.slopes, maps.offset)).sum(1) + evidence * maps.slope
    return of_z.to(z.dtype).view(z.shape), of_sigma


def gaussian_jvp(z, sigma, gaussian, dz, dsigma):
    """Return the tangents of mean and log evidence (n,), from tangents of z and sigma.

    See `gaussian_posterior` for the first parameters.
    """
    maps = _Maps(z, sigma, gaussian)
    dz = dz.flatten(1)
    along_sigma = dsigma[:, None] * maps.apply(maps.slopes, maps.offset)
    mean = maps.apply(maps.gains, dz) + along_sigma
    evidence = dsigma * maps.slope - (dz * maps.score_terms).sum(1)
    return mean.to(z.dtype).view(z.shape), evidence


def gaussian_trace(z, sigma, gaussian):
    """Return the traces of the Jacobians, (n,) float64; see `gaussian_posterior`."""
    _, gain, _, rest = gaussian.gains(floored_sigma(sigma, z, gaussian))
    return gain.sum(1) + (len(gaussian.mean) - gain.shape[1]) * rest[:, 0]


class _Maps:
    """Linear maps with a gain along each component, and one gain in all other directions.

    Products with the components are in the dtype of z; gains and results are float64.
    """

    def __init__(self, z, sigma, gaussian):
        sigma = floored_sigma(sigma, z, gaussian)
        self.basis = gaussian.basis(z.dtype)
        self.offset = (z.flatten(1).double() - gaussian.mean).to(z.dtype)
        spread, gain, rest_spread, rest_gain = gaussian.gains(sigma)
        self.gains = gain, rest_gain
        level = sigma[:, None]
        # derivatives of S / (S + sigma^2)
        self.slopes = tuple(-2 * part * (1 - part) / level for part in self.gains)
        precisions = spread.square().reciprocal(), rest_spread.square().reciprocal()
        n_rest = self.basis.shape[1] - self.basis.shape[0]
        # the offset divided by the variances of noisy images: minus the score
        self.score_terms = self.apply(precisions, self.offset)
        trace = precisions[0].sum(1) + n_rest * precisions[1][:, 0]
        # of the log evidence, by sigma
        finite = sigma.where(sigma.isfinite(), 0.0)  # at sigma = inf the slope is 0
        self.slope = finite * (self.score_terms.square().sum(1) - trace)

    def apply(self, gains, rows):
        """Return rows (n, D) multiplied by gains (n, r) along components, and (n, 1) elsewhere."""
        along, rest = gains
        change = ((along - rest) * (rows @ self.basis.T)).to(rows.dtype)
        return (change @ self.basis).double() + rest * rows


def gaussian_jacobian(z, sigma, gaussian, pixels):
    """Return rows (n, m, C, C, H, W) of the Jacobian, which are rows of the Wiener filter.

    ``pixels`` (m,) are int64 flat indices y * W + x; see `gaussian_posterior` for the other
    parameters.
    """
    _, channels, height, width = z.shape
    first = height * width * torch.arange(channels, device=z.device)
    rows = (first[:, None] + pixels).flatten()
    out = z.new_empty(len(z), channels, len(pixels), *z.shape[1:])
    for level in sigma.unique():
        filter_rows = gaussian.wiener(float(level), rows)
        out[sigma == level] = filter_rows.to(z.dtype).view(out.shape[1:])
    return out.transpose(1, 2)
