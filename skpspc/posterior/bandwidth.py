r"""The posterior under training images that are smoothed along the data's own covariance.

Every training image is drawn towards the mean and blurred, so that mean mu and covariance
Sigma of the whole stay what they are whatever the bandwidth h in [0, 1] (a smoothed
bootstrap):

.. math::

    y_i = \mu + \sqrt{1 - h^2} (x_i - \mu), \qquad
    p(x) = \sum_i v_i \, \mathcal{N}(x; y_i, h^2 \Sigma)

With the filter F, the symmetric root of what the linear part A leaves over,

.. math::

    A = h^2 \Sigma (h^2 \Sigma + \sigma^2)^{-1}, \qquad F = (I - A)^{1/2},

.. math::

    w_i = \operatorname{softmax}_i\bigl(-|F (z - y_i)|^2 / 2 \sigma^2 + \log v_i\bigr), \qquad
    D(z; \sigma) = \mu + A (z - \mu) + F \sum_i w_i F (y_i - \mu):

filtered images are compared at the noise level sigma, as images are at h = 0, and what comes
out is filtered again. At h = 0, F = I: the empirical denoiser. At h = 1 all y_i are mu: the
Gaussian one. There are two ways to see less than the whole image:

- *inside windows*: each has the filter of its own covariance, and the means are averaged;
- *globally*: one filter of the whole image, and the sum over i is the composite of windows in
  the filtered images, ``D = mu + A (z - mu) + F composite(F (y - mu); F (z - mu))``. Composing
  the y_i themselves, as their posterior means, ``(I - A) composite(y - mu)``, is another
  denoiser between the same two; on natural images it is farther from networks.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from .._repr import short_repr
from ..support import TrainingSet, overlap_counts, square_corners
from ..support.memory import fits, rows_that_fit
from .dense import dense_posterior
from .gaussian import Gaussian
from .posterior import Posterior, floored_sigma, log_gauss_constant

# Admissible rounding of a logit in products.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
_EPS64 = torch.finfo(torch.float64).eps
# At noise so many times the data the weights are those of the prior.
_FLAT = 1e12


def shared_levels(z, sigma, gaussian):
    """Noise levels above zero, that many images share.

    As in `floored_sigma`, 1e-15 of the largest value at hand stands for zero. It is that of each
    image, so that no answer depends on the other images; and it is rounded up to a power of two, so
    that few filtered copies of the training set serve all of them.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W)
    sigma : Tensor of shape (n,), float64
    gaussian : Gaussian

    Returns
    -------
    Tensor of shape (n,), float64
    """
    _, exponent = torch.frexp(floored_sigma(torch.zeros_like(sigma), z, gaussian))
    return torch.maximum(sigma, torch.ldexp(torch.ones_like(sigma), exponent))


def smoothed_posterior(
    z, sigma, training_set, gaussian, bandwidth, compare=dense_posterior, share=1.0
):
    """Posterior of noisy images of one noise level, through one filter of the whole image.

    Holds one filtered copy of the training set, N * D numbers of the dtype of z.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
    sigma : float
        As `shared_levels` gives it: positive; inf is allowed.
    training_set : TrainingSet
    gaussian : Gaussian
        Mean and covariance of the training set.
    bandwidth : float
        h, in [0, 1].
    compare : callable, default dense_posterior
        ``compare(z, sigma, training_set)`` gives the posterior of filtered images, through
        windows or whole.
    share : float or Tensor of shape (K,), default 1.0
        The share of an image's values that is in each window.

    Returns
    -------
    Posterior
        mean (n, C, H, W); log_evidence and effective_sample_size (n, ...), of every window.

    Raises
    ------
    MemoryError
        If the filtered copy does not fit the working memory.
    """
    smoothing = Smoothing(gaussian, bandwidth, sigma)
    source = smoothing.filtered(training_set, z.dtype)
    offset = (z.flatten(1).double() - gaussian.mean).to(z.dtype)
    query = smoothing.filter(offset).view(z.shape)
    level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
    part = compare(query, level, training_set=source)
    change = smoothing.linear(offset) + smoothing.filter(part.mean.flatten(1))
    mean = (gaussian.mean + change).to(z.dtype)
    # the change of variables, shared out among the numbers of the image
    evidence = part.log_evidence + share * smoothing.log_det
    return Posterior(
        mean.view(z.shape),
        evidence,
        part.effective_sample_size,
        part.error_bound,
        bound_is_proved=part.bound_is_proved,
    )


def smoothed_windows_posteriors(z, sigma, training_set, gaussian, bandwidths, window):
    """The same through every window of one shape, each with the filter of its own covariance.

    Most of the work, the eigenbases of the windows and the training images in them, serves all
    bandwidths.

    Parameters
    ----------
    z, sigma, training_set, gaussian
        As in `smoothed_posterior`.
    bandwidths : sequence of float
    window : tuple of (h, w)

    Returns
    -------
    list of Posterior
        One for each bandwidth: mean (n, C, H, W); log_evidence and effective_sample_size (n, K).
    """
    known = training_set, gaussian
    if window == z.shape[2:]:
        return [smoothed_posterior(z, sigma, *known, bandwidth) for bandwidth in bandwidths]
    corners = square_corners(window, z.shape[1:])
    n_values = z.shape[1] * window[0] * window[1]
    window_bytes = 8 * n_values * (2 * len(training_set) + len(gaussian.eigenvalues))
    together = fits(window_bytes)
    block = rows_that_fit(window_bytes, len(corners), what="A window") if together else 1
    totals = [torch.zeros_like(z) for _ in bandwidths]
    evidence: list[list[torch.Tensor]] = [[] for _ in bandwidths]
    ess: list[list[torch.Tensor]] = [[] for _ in bandwidths]
    for start in range(0, len(corners), block):
        windows = _Windows(corners[start : start + block], window, *known, z.shape[1:])
        for i, bandwidth in enumerate(bandwidths):
            ask = windows.posterior if together else windows.one_by_one
            part = ask(z, sigma, bandwidth)
            windows.add_to(totals[i], part.mean)
            evidence[i].append(part.log_evidence)
            ess[i].append(part.effective_sample_size)
    count = torch.as_tensor(overlap_counts(window, z.shape[1:])).to(z)
    return [
        Posterior(totals[i] / count, torch.cat(evidence[i], 1), torch.cat(ess[i], 1), _no_error(z))
        for i in range(len(bandwidths))
    ]


class _Windows:
    """Some windows of one shape, worked on together: k of them, with d numbers each.

    Logits are products ``q.p - |p|^2 / 2`` in the windows' eigenbases, where the filter is
    diagonal, of deviations from the mean: they cancel less than those of images.
    """

    def __init__(self, corners, shape, training_set, gaussian, image_shape):
        self._corners = corners
        self._shape = shape
        self._training_set = training_set
        self._gaussian = gaussian
        number = torch.arange(gaussian.mean.numel(), device=gaussian.mean.device)
        self._index = self._crops(number.view(1, *image_shape)).flatten(1)  # (k, d)
        self._mean = gaussian.mean[self._index][:, None]  # (k, 1, d)
        root = gaussian.eigenvalues.sqrt()[:, None] * gaussian.components
        root = root[:, self._index].transpose(0, 1)  # (k, r, d)
        variances, self._vectors = torch.linalg.eigh(root.mT @ root)  # (k, d), (k, d, d)
        # beside the largest of a window, or its mean, the rest is rounding
        least = variances.amax(1, keepdim=True) * (variances.shape[1] * _EPS64)
        least = torch.maximum(least, (1e-14 * self._mean.abs().amax(2)).square())
        self._variances = variances.where(variances > least, torch.zeros_like(variances))
        # an image of little weight may deviate where the variance is next to nothing: it is
        # compared there, too, though no blur is added
        self._varies = (variances > least) | (training_set.log_weight is not None)
        self._projected: dict[torch.dtype, torch.Tensor] = {}  # of one dtype at a time

    def posterior(self, z, sigma, bandwidth):
        """Mean (n, k, d); log_evidence and effective_sample_size (n, k)."""
        training_set = self._training_set
        shrink = math.sqrt((1 - bandwidth) * (1 + bandwidth))
        ratio = bandwidth * self._variances.sqrt() / sigma
        remainder = 1 / torch.hypot(ratio, torch.ones_like(ratio))[:, None]  # (k, 1, d)
        offset = (self._crops(z).double() - self._mean) @ self._vectors  # (k, n, d)
        query = offset * (remainder / sigma)
        # where the weights are those of the prior, the points' mean is zero
        unit = sigma if sigma < _FLAT * self._gaussian.abs_max else math.inf
        points = self._exact_points(query, shrink * remainder / unit, z.dtype)
        if points is None:
            return self.one_by_one(z, sigma, bandwidth)
        dtype = points.dtype
        mean, log_norm, ess = _product_posterior(query.to(dtype), points, training_set)
        mean = mean.double() * (unit if math.isfinite(unit) else 0.0)
        gain = (ratio[:, None] * remainder).square()
        answer = self._mean + (gain * offset + remainder * mean) @ self._vectors.mT
        evidence = log_norm - query.square().sum(2) / 2 + remainder.log().sum(2)
        evidence += training_set.log_uniform
        level = torch.tensor([sigma], dtype=torch.float64, device=z.device)
        evidence += log_gauss_constant(self._index.shape[1], level)
        return Posterior(
            answer.transpose(0, 1).to(z.dtype),
            evidence.T.to(z.dtype),
            ess.T.to(z.dtype),
            _no_error(z),
        )

    def add_to(self, total, mean):
        """Add means (n, k, d) in their places to images (n, C, H, W)."""
        h, w = self._shape
        for k, (top, left) in enumerate(self._corners):
            area = total[..., top : top + h, left : left + w]
            area += mean[:, k].view(area.shape)

    def _exact_points(self, query, scale, dtype):
        """Scaled points (k, N, d) in a dtype whose products keep the last digits of logits.

        That of z, or else float64; None where neither does.
        """
        length = (query * self._varies[:, None]).norm(dim=2).amax(1)  # (k,)
        # the variances tell cheaply where images of equal weights are
        spread = 2 * (scale[:, 0].square() * self._variances).sum(1).sqrt()
        for candidate in (dtype, torch.float64):
            tolerance = _TOLERANCE[dtype] / torch.finfo(candidate).eps
            if float((spread * (2 * length + spread)).max()) > tolerance:
                continue
            points = self._points(candidate) * scale.to(candidate)
            if self._training_set.log_weight is None:
                return points
            reach = torch.linalg.vector_norm(points, dim=2).amax(1).double()
            if float((reach * (2 * length + reach)).max()) <= tolerance:
                return points
        return None

    def _points(self, dtype):
        """Deviations of the training images from their mean in the eigenbases, (k, N, d)."""
        if dtype not in self._projected:
            crops = (self._training_set.crop(*corner, *self._shape) for corner in self._corners)
            x = torch.stack([crop.to_compute(crop.images.flatten(1), dtype) for crop in crops])
            basis = (self._vectors * self._varies[:, None]).to(dtype)
            self._projected = {dtype: x.sub_(self._mean.to(dtype)) @ basis}
        return self._projected[dtype]

    def _crops(self, images):
        """What every window sees of images (m, C, H, W): (k, m, d), or (k, d) of one."""
        h, w = self._shape
        return torch.stack(
            [images[..., top : top + h, left : left + w].flatten(1) for top, left in self._corners]
        )

    def one_by_one(self, z, sigma, bandwidth):
        """The same by the kernel that compares near ties again by subtraction."""
        parts, (h, w) = [], self._shape
        for (top, left), some in zip(self._corners, self._index, strict=True):
            crop = self._training_set.crop(top, left, h, w)
            seen = z[..., top : top + h, left : left + w]
            marginal = self._gaussian.marginal(some)
            parts.append(smoothed_posterior(seen, sigma, crop, marginal, bandwidth))
        return Posterior(
            torch.stack([part.mean.flatten(1) for part in parts], 1),
            torch.cat([part.log_evidence for part in parts], 1),
            torch.cat([part.effective_sample_size for part in parts], 1),
            _no_error(z),
        )


def _no_error(z):
    """The error bound of noisy images (n, C, H, W) where all training images were used."""
    return torch.zeros_like(z[:, 0, 0, 0])


def _product_posterior(query, points, training_set):
    """Mean (k, n, d), log normaliser (k, n) float64 and effective sample size (k, n).

    Of noise of standard deviation one; what all logits of a query share is left out.
    """
    row_bytes = 3 * points[..., 0].nbytes
    n_rows = rows_that_fit(row_bytes, query.shape[1], what="One row of posterior weights")
    parts = [_block_posterior(some, points, training_set) for some in query.split(n_rows, 1)]
    return tuple(torch.cat(part, 1) for part in zip(*parts, strict=True))


def _block_posterior(query, points, training_set):
    """The same of few noisy images."""
    logit = query @ points.mT  # (k, n, N)
    logit -= torch.linalg.vector_norm(points, dim=2).square()[:, None] / 2
    if training_set.log_weight is not None:
        logit += training_set.log_weight.to(logit)
    peak = logit.amax(2, keepdim=True)
    weight = logit.sub_(peak).exp_()
    total = weight.sum(2, keepdim=True)
    ess = (total / torch.linalg.vector_norm(weight, dim=2, keepdim=True)).square()
    log_norm = peak.double() + total.double().log()
    return weight @ points / total, log_norm[..., 0], ess[..., 0]


@dataclass(frozen=True, eq=False)
class Smoothing:
    """The linear maps of one bandwidth and noise level.

    Attributes
    ----------
    gaussian : Gaussian
    bandwidth : float
    sigma : float
        Positive; inf is allowed.
    """

    gaussian: Gaussian
    bandwidth: float
    sigma: float

    __repr__ = short_repr

    @cached_property
    def _ratio(self):
        """Standard deviation of a component over that of the noise, by direction, (r,)."""
        return self.bandwidth * self.gaussian.eigenvalues.sqrt() / self.sigma

    @cached_property
    def _remainder(self):
        """F along the components; it is one along every other direction."""
        return 1 / torch.hypot(self._ratio, torch.ones_like(self._ratio))

    @property
    def log_det(self):
        """Log of the determinant of F."""
        return float(self._remainder.log().sum())

    def filter(self, rows):
        """F applied to rows (m, D)."""
        basis = self.gaussian.basis(rows.dtype)
        return rows + ((rows @ basis.T) * (self._remainder - 1).to(rows)) @ basis

    def linear(self, rows):
        """A applied to rows (m, D)."""
        basis = self.gaussian.basis(rows.dtype)
        gain = (self._ratio * self._remainder).square()
        return ((rows @ basis.T) * gain.to(rows)) @ basis

    def filtered(self, training_set, dtype):
        """F (y_i - mu) of all training images, as a `TrainingSet` of floats."""
        n, n_values = len(training_set), training_set.n_values
        image_bytes = n_values * dtype.itemsize
        rows_that_fit(n * image_bytes, 1, what="The filtered training set")
        out = torch.empty(n, n_values, dtype=dtype, device=training_set.device)
        shrink = math.sqrt((1 - self.bandwidth) * (1 + self.bandwidth))
        n_rows = rows_that_fit(16 * n_values + 2 * image_bytes, n, what="One training image")
        for rows in training_set.slices(n_rows):
            x = training_set.take(rows, torch.float64).flatten(1)
            out[rows] = self.filter(((x - self.gaussian.mean) * shrink).to(dtype))
        return TrainingSet(out.view(n, *training_set.image_shape), training_set.sample_weight)
