r"""Any windows at all: the general formula, as it is written.

.. math::

    w_i^k = \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2} \sum_j \pi_{kj} (z_j - x_{ij})^2
            + \log v_i\Bigr),
    \qquad
    D(z)_p = \frac{\sum_k r_{kp} \sum_i w_i^k x_{ip}}{\sum_k r_{kp}}

The training images may be joined by mirrored and by moved copies, which are read as views, one
after another. All other kernels are faster ways to special cases.
"""

import math

import torch

from ..support.memory import rows_that_fit
from .posterior import Posterior, RunningSoftmax, exact_scale, floored_sigma, precision_root
from .precision import per_number

# Training images that are worked on together: enough for the matrix products.
_CHUNK_ROWS = 512

# The rounding error of a sum of n numbers, in units in the last place over the root of n.
_ROUNDING = 2.0

# A training image as it is: not mirrored, and moved by no rows and columns.
AS_IT_IS = (False, 0, 0)


def collection_posterior(z, sigma, training_set, query, response, moves=(AS_IT_IS,)):
    """Posterior through any windows, composed into whole images.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
        Noisy images.
    sigma : Tensor of shape (n,), float64
        Noise level of each, in the units of the images; 0 and inf are allowed.
    training_set : TrainingSet
    query : Tensor of shape (K, C, H, W), float64
        Precisions >= 0: how much each coordinate counts in the distance.
    response : Tensor of shape (K, C, H, W), float64
        Weights >= 0: how much each window has to say at each coordinate; every coordinate
        must have a positive sum.
    moves : sequence of (mirrored, down, right)
        Copies of each training image that count as training images: mirrored left to right
        or not, and then seen from so many pixels further down and right. A window takes part
        in a move if all of it then sees pixels of the image; `AS_IT_IS` must be among them.

    Returns
    -------
    Posterior
        mean (n, C, H, W); log_evidence, in nats per number compared, and
        effective_sample_size (n, K).
    """
    sigma = floored_sigma(sigma, z, training_set)
    moves = sorted(moves, key=lambda move: move != AS_IT_IS)  # first: all take part in it
    counts = query.flatten(1).sum(1)
    share = (response / response.sum(0)).to(z)
    takes_part = _moves_of_windows((query > 0) | (response > 0), moves)
    parts = [
        _one_posterior(row, level, training_set, query, share, moves, takes_part)
        for row, level in zip(z, precision_root(sigma), strict=True)
    ]
    mean, log_norm, ess = (torch.stack(part) for part in zip(*parts, strict=True))
    log_norm += training_set.log_uniform - takes_part.sum(0).double().log()
    log_evidence = per_number(log_norm, sigma, counts).to(z.dtype)
    return Posterior(mean, log_evidence, ess.to(z.dtype), torch.zeros_like(log_evidence[:, 0]))


def _moves_of_windows(support, moves):
    """Which windows take part in which move, (n_moves, K), of bool (K, C, H, W)."""
    seen = support.any(1)  # (K, H, W)
    return torch.stack([~_outside(seen, down, right).flatten(1).any(1) for _, down, right in moves])


def _outside(seen, down, right):
    """What of (K, H, W) would be seen beyond an image that is moved."""
    outside = seen.clone()
    outside[_areas(down, right, seen.shape[1:])[0]] = False
    return outside


def _areas(down, right, sides):
    """Indices of what is compared of the noisy image (..., H, W), and of the training image."""

    def along(shift, side):
        return slice(max(0, -shift), min(side, side - shift))

    shifts = list(zip((down, right), sides, strict=True))
    here = [along(shift, side) for shift, side in shifts]
    there = [along(-shift, side) for shift, side in shifts]
    return (..., *here), (..., *there)


def _one_posterior(z, a, training_set, query, share, moves, takes_part):
    """Mean (C, H, W), log normaliser (K,) and effective sample size (K,) of one noisy image."""
    scale, factor = exact_scale(a)
    scale = scale.to(z.dtype)
    # A matrix product adds up a row in an order that depends on where the row stands: logits that
    # differ by no more than that are equal, so that copies share their weight at any sigma.
    rounding = _ROUNDING * math.sqrt(z.numel()) * torch.finfo(torch.float64).eps
    softmax = RunningSoftmax(z.new_empty(len(query), dtype=torch.float64), rounding=rounding)
    sums = torch.zeros_like(share)
    row_bytes = z.element_size() * (3 * z.numel() + len(query)) + 8 * (z.numel() + 5 * len(query))
    n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
    for (mirrored, down, right), some in zip(moves, takes_part, strict=True):
        if not some.any():
            continue
        if some.all():
            some = slice(None)  # a view where it can be
        here, there = _areas(down, right, z.shape[1:])
        scaled = z[here] * scale
        precision = (query[some][here].flatten(1) * factor).T
        for rows in training_set.slices(n_rows):
            x = training_set.take(rows, z.dtype)
            x = (x.flip(-1) if mirrored else x)[there]  # (m, C, h, w)
            squared = (scaled - scale * x).square_().flatten(1)
            # float32 sums over many coordinates would be the largest error of the logits
            logit = softmax.nearest.new_full((len(x), len(query)), -torch.inf)  # (m, K)
            logit[:, some] = (squared.double() @ precision).neg_()
            _, weight, shrink = softmax.add(logit, training_set.prior(rows))
            sums *= shrink.to(sums).view(-1, 1, 1, 1)
            part = weight[:, some].to(x.dtype).T @ x.flatten(1)
            covered = (some, *here)
            sums[covered] += part.view(-1, *x.shape[1:])
    mean = (sums / softmax.total.to(sums).view(-1, 1, 1, 1)).mul_(share).sum(0)
    return mean, softmax.log_norm, softmax.effective_sample_size
