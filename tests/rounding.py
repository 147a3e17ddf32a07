"""The slow formula with a bound of rounding errors, from the dtype and the condition of the data.

Let rounding change the logit of image i by at most d_i. The posterior mean m then changes by

    |dm_p| <= sum_i w_i (e^d_i - 1) |x_ip - m_p| / sum_i w_i e^-d_i,

which vanishes if one image has all the weight, and grows close to a tie. A relative change eps of
all values, of size S, changes a logit by up to eps times its condition number

    sum_j pi_j S |z_j - x_ij| / sigma^2.

So nothing here is measured: the constants count the operations of a kernel.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import logsumexp

# Roundings of the values (three of each, of half a unit), and of the sums over a window (up to 18).
OPERATIONS = 12
# Rounding errors of logits that the matrix products of patches admit, see `posterior/patches.py`.
ADMITTED = {np.float32: 3e-5, np.float64: 1e-12}
# The same of windows with filters of their own, see `posterior/blur.py`.
ADMITTED_BLURRED = {np.float32: 2e-4, np.float64: 1e-10}
_NEGLIGIBLE = 46.0  # nats: a relative weight of 1e-20
# Operations of a mean besides the sum over images.
_FEW = 12
_BLOCK = 256  # images of one matrix product, whose terms may round alike


def n_operations(n_images):
    """Return the roundings, of one unit, of a mean of images by products of `_BLOCK` images."""
    return _FEW + (min(n_images, _BLOCK) + n_images / _BLOCK) / 2


@dataclass
class Bounded:
    """Sums over windows for n noisy images, with bounds of the errors of a kernel.

    Parameters
    ----------
    z : ndarray of shape (n, D)
        Noisy images, of which windows see any function.
    sigma : ndarray of shape (n,)
    dtype : {np.float32, np.float64}
        In which the kernel computes.
    size : float
        Largest magnitude of the values that windows compare.
    """

    z: np.ndarray
    sigma: np.ndarray
    dtype: type
    size: float
    windows: int = 0
    total: np.ndarray = field(init=False)

    def __post_init__(self):
        n, n_values = self.z.shape
        self.eps = float(np.finfo(self.dtype).eps)
        self.total, self.error = np.zeros((2, n, n_values))
        self.count = np.zeros(n_values)
        self.log_p, self.log_p_error, self.fewest, self.most = np.zeros((4, n))

    def add(self, z, x, precision, prior, values=None, at=slice(None), response=1.0):
        """Add a window: z (n, d), x (m, d), precision (d,), prior (m,); values (m, r) at (r,)."""
        values = x if values is None else values
        every = len(x)
        kept = prior > 0
        x, values, log_prior = x[kept], values[kept], np.log(prior[kept] / prior.sum())
        self.windows += 1
        self.count[at] += response
        n_counted = precision.sum()
        for k, sigma in enumerate(self.sigma):
            scaled = (z[k] - x) / sigma
            logit = -0.5 * np.square(scaled) @ precision + log_prior
            condition = self.size / sigma * (np.abs(scaled) @ precision) + np.abs(log_prior) + 1
            self._posterior(k, logit, self._deviation(condition), values, at, response, every)
            self._evidence(k, n_counted, 0.0)

    def _deviation(self, condition, admitted=ADMITTED):
        return admitted[self.dtype] + OPERATIONS * self.eps * condition

    def _posterior(self, k, logit, deviation, values, at, response, every):
        relative = logit - logit.max()  # first, as large logits would round the sum
        relative -= logsumexp(relative)
        self._log_norm = logsumexp(logit)
        low, high = (logsumexp(relative + s * deviation) for s in (-1, 1))
        self._spread = max(high, -low)
        lows, highs = (logsumexp(2 * (relative + s * deviation)) for s in (-1, 1))
        slack = self.eps * n_operations(every)
        self.fewest[k] += max(1, np.exp(np.clip(2 * low - highs, 0, 99))) * (1 - slack)
        self.most[k] += min(every, np.exp(np.clip(2 * high - lows, 0, 99))) * (1 + slack)
        weight, nearest = np.exp(relative), values[relative.argmax()]
        mean = nearest + weight @ (values - nearest) / weight.sum()  # equal values have no error
        plausible = relative + deviation >= (relative - deviation).max() - _NEGLIGIBLE
        apart = np.abs(values[plausible] - mean)
        error = apart.max(0)
        if deviation[plausible].max() < 1:
            deviation, weight = deviation[plausible], weight[plausible]
            moved = (weight * np.expm1(deviation)) @ apart / (weight @ np.exp(-deviation))
            error = np.minimum(error, moved)
        self.total[k, at] += response * mean
        self.error[k, at] += response * (error + slack * self.size)

    def _evidence(self, k, n_counted, log_det):
        """Add the log density of a window, by the number of its values."""
        if n_counted == 0:
            return
        constant = n_counted / 2 * np.log(2 * np.pi * self.sigma[k] ** 2) + log_det
        error = self._spread + OPERATIONS * self.eps * (abs(constant) + abs(self._log_norm))
        self.log_p[k] += (self._log_norm - constant) / n_counted
        self.log_p_error[k] += error / n_counted

    @property
    def mean(self):
        """Composite posterior means, (n, D)."""
        return self.total / self.count

    @property
    def mean_error(self):
        """Bound of the rounding errors of `mean`, (n, D)."""
        return self.error / self.count

    def evidence(self, n_total):
        """Composite log evidence (n,) and the bound of its rounding errors."""
        scale = n_total / self.windows
        own = self.windows * np.finfo(np.float64).eps / 2  # of the sum over windows, here
        error = self.log_p_error + (OPERATIONS * self.eps + own) * np.abs(self.log_p)
        return scale * self.log_p, scale * error

    @property
    def sample_sizes(self):
        """Bounds of the mean effective sample size, two (n,)."""
        return self.fewest / self.windows, self.most / self.windows


class Blurred(Bounded):
    """Windows that compare noisy images with Gaussians along the covariance of the window.

    The condition of the logit of a Gaussian of precision P, mean y and covariance h^2 Sigma is

        S |P (z - y)|_1 + h^2 |Sigma| |P (z - y)|^2,

    the second term for the roundings of Sigma. A window of the whole image compares images filtered
    by F = (1 + h^2 Sigma / sigma^2)^(-1/2), whose roundings do not shrink with F: a third term,

        |z - y| |F (z - y)| / sigma^2.
    """

    def add_blurred(self, z, x, prior, bandwidth, at=slice(None)):
        """Add a window, which answers for its values ``at`` the noisy image; see `add`."""
        x, prior = x[prior > 0], prior[prior > 0] / prior.sum()
        mean = prior @ x
        cov = (x - mean).T @ (prior[:, None] * (x - mean))
        values, vectors = np.linalg.eigh(bandwidth**2 * cov)
        values = values.clip(0)
        y = mean + np.sqrt(1 - bandwidth**2) * (x - mean)
        n_values = z.shape[1]
        self.windows += 1
        self.count[at] += 1
        for k, sigma in enumerate(self.sigma):
            precision = 1 / (values + sigma**2)
            white = (z[k] - y) @ vectors
            pulled = white * precision
            distance = (white * pulled).sum(1) / 2
            force = np.abs(pulled @ vectors.T).sum(1)
            condition = self.size * force + n_values * values[-1] * np.square(pulled).sum(1) + 1
            condition += np.abs(np.log(prior))
            admitted = ADMITTED_BLURRED
            if n_values == self.z.shape[1]:
                distances = np.linalg.norm(z[k] - y, axis=1)
                condition += distances * np.linalg.norm(white * np.sqrt(precision), axis=1) / sigma
                admitted = ADMITTED
            before = self.total[k, at].copy(), self.error[k, at].copy()
            logit = np.log(prior) - distance
            deviation = self._deviation(condition, admitted)
            self._posterior(k, logit, deviation, y, at, 1.0, len(x))
            centre = self.total[k, at] - before[0]
            error = np.linalg.norm(self.error[k, at] - before[1])
            gain = vectors * (values * precision)
            self.total[k, at] += gain @ (vectors.T @ (z[k] - centre))
            pull = np.linalg.norm((z[k] - centre) @ vectors * precision)
            error += OPERATIONS * n_values * self.eps * (self.size + values[-1] * pull)
            self.error[k, at] = before[1] + error
            log_det = -np.log(sigma**2 * precision).sum() / 2
            self._evidence(k, n_values, log_det)
            condition = OPERATIONS * self.eps * values[-1] * precision.sum()
            self.log_p_error[k] += condition / n_values
