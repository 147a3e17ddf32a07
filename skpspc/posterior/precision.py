r"""One posterior for every coordinate, each with precisions of its own.

.. math::

    w_i^m = \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2} \sum_n P_{nm} (z_n - x_{in})^2
            + \log v_i\Bigr),
    \qquad
    D(z)_m = \sum_i w_i^m x_{im}

A window answers for one coordinate only, so that one pass over the training images does.
"""

import math

import torch

from ..support.memory import rows_that_fit
from .posterior import Posterior, RunningSoftmax, floored_sigma, precision_root

# Training images that are worked on together: enough for the matrix product.
_CHUNK_ROWS = 512


def precision_posterior(z, sigma, training_set, precision, batch_size=None):
    """Posterior of every coordinate of images that share their precisions.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
    sigma : Tensor of shape (n,), float64
        Noise level of each; 0 and inf are allowed.
    training_set : TrainingSet
    precision : Tensor of shape (D, D)
        ``P[n, m]`` >= 0: how much coordinate n counts in the posterior of coordinate m.
    batch_size : int, default None
        Normalise the weights within each stretch of so many training images, and average
        the stretches; None: normalise over all.

    Returns
    -------
    Posterior
        mean (n, C, H, W); log_evidence, in nats per number compared, and
        effective_sample_size (n, D).
    """
    sigma = floored_sigma(sigma, z, training_set)
    counts = precision.sum(0)  # (D,)
    n = len(training_set)
    stretch = n if batch_size is None else batch_size
    stretches = [slice(i, min(i + stretch, n)) for i in range(0, n, stretch)]
    precision = precision.to(z)
    parts = [
        _one_posterior(row, level, training_set, precision, stretches)
        for row, level in zip(z.flatten(1), precision_root(sigma), strict=True)
    ]
    mean, log_norm, ess = (torch.stack(part) for part in zip(*parts, strict=True))
    log_evidence = per_number(log_norm.double() + training_set.log_uniform, sigma, counts)
    return Posterior(
        mean.view(z.shape), log_evidence.to(z.dtype), ess, torch.zeros_like(mean[:, 0])
    )


def per_number(log_norm, sigma, counts):
    """Log evidence over the sum of precisions, and zero where nothing was compared."""
    constant = -0.5 * (math.log(2 * math.pi) + 2 * sigma.log())
    compared = counts > 0
    ratio = log_norm / counts.where(compared, torch.ones_like(counts)) + constant[:, None]
    return ratio.where(compared, torch.zeros_like(ratio))


def _one_posterior(z, a, training_set, precision, stretches):
    """Mean, log normaliser and effective sample size of each coordinate, all (D,)."""
    mean = torch.zeros_like(z)
    log_norm = torch.full_like(z, -torch.inf)
    concentration = torch.zeros_like(z)
    for rows in stretches:
        part, norm, ess = _stretch_posterior(z, a, training_set, precision, rows)
        mean += part / len(stretches)
        log_norm = torch.logaddexp(log_norm, norm)
        concentration += 1 / ess
    return mean, log_norm, len(stretches) ** 2 / concentration


def _stretch_posterior(z, a, training_set, precision, stretch):
    """The same within some training images, in one pass."""
    softmax, mean = RunningSoftmax(z), torch.zeros_like(z)
    n_rows = rows_that_fit(4 * z.numel() * z.element_size(), _CHUNK_ROWS, what="One training image")
    for start in range(stretch.start, stretch.stop, n_rows):
        rows = slice(start, min(start + n_rows, stretch.stop))
        x = training_set.take(rows, z.dtype).flatten(1)  # (m, D)
        logit = ((x - z) * a.to(z.dtype)).square_() @ precision
        _, weight, shrink = softmax.add(logit.neg_(), training_set.prior(rows))
        mean = mean * shrink + (weight * x).sum(0)
    return mean / softmax.total, softmax.log_norm, softmax.effective_sample_size
