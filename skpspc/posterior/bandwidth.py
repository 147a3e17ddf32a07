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

from ..support import TrainingSet, overlap_counts, square_corners
from ..support.memory import rows_that_fit
from .gaussian import Gaussian
from .posterior import Posterior
from .select import square_posterior


def smoothed_posterior(z, sigma, training_set, gaussian, bandwidth, window, engine="auto"):
    """Posterior of noisy images of one noise level, through one filter of the whole image.

    Holds one filtered copy of the training set, N * D numbers of the dtype of z.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
    sigma : float
        0 and inf are allowed.
    training_set : TrainingSet
    gaussian : Gaussian
        Mean and covariance of the training set.
    bandwidth : float
        h, in [0, 1].
    window : tuple of (h, w)
        Windows to see the filtered images through; (H, W) is none.
    engine : {"auto", "numba", "torch"}, default "auto"
        As in `square_posterior`.

    Returns
    -------
    Posterior
        mean (n, C, H, W); log_evidence and effective_sample_size (n, ...), of every window.

    Raises
    ------
    MemoryError
        If the filtered copy does not fit the working memory.
    """
    smoothing = Smoothing.at(z, sigma, gaussian, bandwidth)
    source = smoothing.filtered(training_set, z.dtype)
    offset = (z.flatten(1).double() - gaussian.mean).to(z.dtype)
    query = smoothing.filter(offset).view(z.shape)
    level = torch.full((len(z),), smoothing.sigma, dtype=torch.float64, device=z.device)
    part = square_posterior(query, level, source, window, engine)
    change = smoothing.linear(offset) + smoothing.filter(part.mean.flatten(1))
    mean = (gaussian.mean + change).to(z.dtype)
    # the change of variables, shared out among the numbers of the image
    share = window[0] * window[1] / (z.shape[2] * z.shape[3])
    evidence = part.log_evidence + share * smoothing.log_det
    return Posterior(mean.view(z.shape), evidence, part.effective_sample_size, part.error_bound)


def smoothed_windows_posterior(z, sigma, training_set, gaussian, bandwidth, window):
    """The same through every window of one shape, each with the filter of its own covariance.

    Parameters
    ----------
    z, sigma, training_set, gaussian, bandwidth
        As in `smoothed_posterior`.
    window : tuple of (h, w)

    Returns
    -------
    Posterior
        mean (n, C, H, W); log_evidence and effective_sample_size (n, K).
    """
    if window == z.shape[2:]:
        return smoothed_posterior(z, sigma, training_set, gaussian, bandwidth, window)
    total, parts = torch.zeros_like(z), []
    number = torch.arange(gaussian.mean.numel(), device=z.device).view(z.shape[1:])
    for top, left in square_corners(window, z.shape[1:]):
        area = ..., slice(top, top + window[0]), slice(left, left + window[1])
        crop = training_set.crop(top, left, *window)
        marginal = gaussian.marginal(number[area].flatten())
        part = smoothed_posterior(z[area], sigma, crop, marginal, bandwidth, window)
        total[area] += part.mean
        parts.append(part)
    return Posterior(
        total / torch.as_tensor(overlap_counts(window, z.shape[1:])).to(total),
        torch.cat([part.log_evidence for part in parts], 1),
        torch.cat([part.effective_sample_size for part in parts], 1),
        parts[0].error_bound,
    )


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

    @classmethod
    def at(cls, z, sigma, gaussian, bandwidth):
        """For noisy images z; as in `floored_sigma`, zero becomes 1e-15 of the largest value."""
        scale = max(float(z.abs().max()), gaussian.abs_max, 1e-15)
        return cls(gaussian, bandwidth, max(sigma, 1e-15 * scale))

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
