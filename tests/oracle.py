"""The slow formula: posterior mean collections in float64, window by window.

    w_i^k(z) = softmax_i( -|z_k - x_ik|^2 / 2 sigma^2 + log v_i )
    D(z)_p   = sum_k r_kp sum_i w_i^k x_ip / sum_k r_kp

Windows are boolean masks over the D coordinates. Plain loops over noisy images and windows,
direct differences, and none of the library's code.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft


@dataclass
class Answer:
    """mean (n, D); log_evidence, effective_sample_size (n, K); weights (n, K, N)."""

    mean: np.ndarray
    log_evidence: np.ndarray
    effective_sample_size: np.ndarray
    weights: np.ndarray


def as_float(images):
    """Images as float64 rows (n, D): uint8 u means u / 127.5 - 1."""
    images = np.asarray(images)
    values = images / 127.5 - 1 if images.dtype == np.uint8 else images.astype(np.float64)
    return values.reshape(len(values), -1)


def whole_mask(shape):
    """The one window of the empirical denoiser."""
    return [np.ones(int(np.prod(shape)), dtype=bool)]


def patch_mask(top, left, height, width, shape):
    """One rectangle, all channels, as a mask over the D coordinates."""
    mask = np.zeros(shape, dtype=bool)
    mask[:, top : top + height, left : left + width] = True
    return mask.ravel()


def square_masks(size, shape):
    """Every square that fits the image, in row-major order, clipped along short axes."""
    _, height, width = shape
    h, w = min(size, height), min(size, width)
    return [
        patch_mask(top, left, h, w, shape)
        for top in range(height - h + 1)
        for left in range(width - w + 1)
    ]


def stationary(cov, shape):
    """A covariance (D, D) of images without its covariances of different cosine frequencies."""
    images = np.eye(len(cov)).reshape(-1, *shape)
    transform = scipy.fft.dctn(images, axes=(2, 3), norm="ortho").reshape(cov.shape).T
    frequency = np.tile(np.arange(shape[1] * shape[2]), shape[0])
    kept = (transform @ cov @ transform.T) * (frequency == frequency[:, None])
    return transform.T @ kept @ transform


def window_weights(z, x, sigma, mask, prior):
    """Posterior weights (N,), and the log evidence of the window's numbers, for one image."""
    distance = ((z[mask] - x[:, mask]) ** 2).sum(1)
    if sigma == 0:
        weight = np.where(distance == distance[prior > 0].min(), prior, 0.0)
        return weight / weight.sum(), np.nan
    if np.isinf(sigma):
        return prior, -np.inf
    with np.errstate(divide="ignore"):
        logit = -distance / (2 * sigma**2) + np.log(prior)
    peak = logit.max()
    weight = np.exp(logit - peak)
    constant = mask.sum() / 2 * np.log(2 * np.pi * sigma**2)
    return weight / weight.sum(), peak + np.log(weight.sum()) - constant


def collection(Z, X, sigma, queries, responses=None, sample_weight=None):
    """Posterior mean collection of noisy images.

    Parameters
    ----------
    Z, X : ndarray of shape (n, D) and (N, D), or of images
    sigma : float or ndarray of shape (n,)
    queries, responses : list of ndarray of shape (D,), bool
        Where a window looks, and where it answers (default: the same).
    sample_weight : ndarray of shape (N,)
    """
    z, x = as_float(Z), as_float(X)
    prior = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, float)
    prior = prior / prior.sum()
    responses = queries if responses is None else responses
    levels = np.broadcast_to(sigma, len(z))
    mean, evidence, ess, weights = [], [], [], []
    for row, level in zip(z, levels, strict=True):
        total, count, per_window = np.zeros(x.shape[1]), np.zeros(x.shape[1]), []
        for query, response in zip(queries, responses, strict=True):
            weight, log_evidence = window_weights(row, x, level, query, prior)
            total[response] += weight @ x[:, response]
            count[response] += 1
            per_window.append((weight, log_evidence, 1 / (weight**2).sum()))
        mean.append(total / np.where(count == 0, np.nan, count))
        w, e, s = zip(*per_window, strict=True)
        weights.append(w)
        evidence.append(e)
        ess.append(s)
    return Answer(np.array(mean), np.array(evidence), np.array(ess), np.array(weights))


def composite_evidence(answer, queries):
    """Log-likelihood of the image from those of its windows: D * mean_k(log p_k / d_k)."""
    sizes = np.array([query.sum() for query in queries])
    return len(queries[0]) * (answer.log_evidence / sizes).mean(1)


def tapered_squares(size, shape, taper):
    """Precisions of every square that fits the image, which fall off linearly towards its edges."""
    _, height, width = shape
    h, w = min(size, height), min(size, width)

    def along(side, whole):
        rise = 1 if side == whole else 1 + int(np.floor(taper * ((side - 1) // 2) + 0.5))
        return [min(1, (j + 1) / rise, (side - j) / rise) for j in range(side)]

    windows = []
    for top in range(height - h + 1):
        for left in range(width - w + 1):
            window = np.zeros(shape)
            window[:, top : top + h, left : left + w] = np.outer(along(h, height), along(w, width))
            windows.append(window.ravel())
    return windows


def moved_copies(images, max_shift):
    """Images (N, C, H, W) moved by up to max_shift pixels, NaN where they have none: (M, N, D)."""
    x = as_float(images).reshape(np.shape(images))
    r, (height, width) = max_shift, x.shape[2:]
    frame = np.pad(x, ((0, 0), (0, 0), (r, r), (r, r)), constant_values=np.nan)
    shifts = range(2 * r + 1)
    return np.stack(
        [
            frame[..., a : a + height, b : b + width].reshape(len(x), -1)
            for a in shifts
            for b in shifts
        ]
    )


def soft_collection(Z, copies, sigma, precisions, responses, sample_weight=None):
    """Collection of soft windows, each compared with the copies (M, N, D) that cover it.

    Returns mean (n, D), the composite evidence (n,) and the mean effective sample size (n,).
    """
    _, n_images, n_values = copies.shape
    prior = np.ones(n_images) if sample_weight is None else np.asarray(sample_weight, float)
    mean, evidence, sizes = [], [], []
    for z in as_float(Z):
        total, count, per_number, ess = np.zeros(n_values), np.zeros(n_values), [], []
        for precision, response in zip(precisions, responses, strict=True):
            seen = precision > 0
            x = np.concatenate([copy for copy in copies[:, :, seen] if not np.isnan(copy).any()])
            v = np.tile(prior, len(x) // n_images)
            squares = precision[seen] * (z[seen] - x) ** 2
            logit = -squares.sum(1) / (2 * sigma**2) + np.log(v / v.sum())
            peak = logit.max()
            weight = np.exp(logit - peak)
            log_density = peak + np.log(weight.sum())
            log_density -= precision.sum() / 2 * np.log(2 * np.pi * sigma**2)
            per_number.append(log_density / precision.sum())
            weight /= weight.sum()
            ess.append(1 / (weight**2).sum())
            total[seen] += response[seen] * (weight @ x)
            count += response
        mean.append(total / count)
        evidence.append(n_values * np.mean(per_number))
        sizes.append(np.mean(ess))
    return np.array(mean), np.array(evidence), np.array(sizes)
