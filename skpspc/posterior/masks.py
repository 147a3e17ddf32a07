"""Windows of any shape, one mask each, by matrix products.

The squared difference of a noisy and a training image is one map over the pixels (summed over
channels). The distances of all K windows are its product with the K x (H W) matrix of query
precisions, and the composite spreads the windows' weights by the matrix of responses. Only
non-negative numbers are added, so nothing cancels.
"""

import math

import numpy as np
import torch
from scipy.sparse import csr_array

from .._threads import n_threads
from ..support import MirroredTrainingSet
from ..support.memory import rows_that_fit
from .posterior import (
    Posterior,
    RunningSoftmax,
    floored_sigma,
    in_range,
    log_gauss_constant,
    precision_root,
)

# Share of a window's mass that may be left out in the second pass.
_SKIPPED_MASS = 1e-8
# Pairs of images that are worked on together: their maps stay in the cache.
_PAIRS = 1024


def masked_posterior(z, sigma, training_set, query, response, repeats=None, engine="torch"):
    """Posterior through K windows, composed into whole images.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
        Noisy images.
    sigma : Tensor of shape (n,), float64
        Noise level of each, in the units of the images; 0 and inf are allowed.
    training_set : TrainingSet
    query : Tensor of shape (K, H, W)
        Non-negative precisions: how much each pixel counts in the distance.
    response : Tensor of shape (K, H, W)
        Non-negative weights: how much each window has to say at each pixel; every pixel
        must have a positive sum.
    repeats : Tensor of shape (K,), default None
        How many windows each row stands for; None means one.
    engine : {"torch", "numba"}, default "torch"
        "numba" is compiled, for float32 on the CPU.

    Returns
    -------
    Posterior
        mean (n, C, H, W); log_evidence and effective_sample_size (n, K).
    """
    sigma = floored_sigma(sigma, z, training_set)
    query = query.flatten(1).to(z)  # (K, H W)
    response = response.flatten(1).to(z)
    if repeats is not None:
        response = response * repeats.to(z)[:, None]
    response = response / response.sum(0)
    args = z, sigma, training_set, query, response
    compiled = engine == "numba"
    mean, log_norm, ess = in_range(_by_numba, _by_torch, *args) if compiled else _by_torch(*args)
    # A soft window counts as many numbers as its precisions add up to.
    n_values = z.shape[1] * query.sum(1).double()
    constant = log_gauss_constant(n_values, sigma[:, None])
    log_evidence = log_norm + training_set.log_uniform + constant.to(log_norm)
    return Posterior(mean, log_evidence, ess, torch.zeros_like(log_evidence[:, 0]))


def _by_numba(z, sigma, training_set, query, response):
    """Mean, log normaliser and effective sample size, by the compiled kernel."""
    from . import _masks_numba

    weight = training_set.log_weight
    rest = dict(
        query=csr_array(query.numpy()),
        response=csr_array(response.T.numpy()),
        data_range=training_set.data_range,
        log_weight=None if weight is None else weight.numpy(),
        flip=isinstance(training_set, MirroredTrainingSet),
        n_threads=n_threads(),
    )
    image_bytes = _masks_numba.state_bytes(len(training_set), len(query), z[0].numel(), n_threads())
    block = rows_that_fit(image_bytes, len(z), what="One noisy image")
    x = training_set.images.numpy()
    parts = [
        _masks_numba.compiled_masked_posterior(some.numpy(), x, level.numpy(), **rest)
        for some, level in zip(z.split(block), sigma.split(block), strict=True)
    ]
    return tuple(torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))


def _by_torch(z, sigma, training_set, query, response):
    """The same, by torch on any device."""
    a = precision_root(sigma)
    query = query.T.contiguous()  # (H W, K)
    parts = [_one_posterior(*one, training_set, query, response) for one in zip(z, a, strict=True)]
    return tuple(torch.stack(part) for part in zip(*parts, strict=True))


def _one_posterior(z, a, training_set, query, response):
    """Mean (C, H, W), log normaliser (K,) and effective sample size (K,) of one image."""
    a = a.to(z.dtype)
    softmax = RunningSoftmax(z.new_empty(query.shape[1]))
    closest = z.new_empty(len(training_set))  # how near each image comes to leading a window
    row_bytes = z.element_size() * (2 * z.numel() + 3 * query.shape[1])
    n_rows = rows_that_fit(row_bytes, _PAIRS, what="One pair of images")
    for rows in training_set.slices(n_rows):
        logit, _ = _logits(z, a, training_set, rows, query)
        relative, _, _ = softmax.add(logit, training_set.prior(rows))
        closest[rows] = relative.amax(1)
    mean = torch.zeros_like(z).flatten(1)  # (C, H W)
    hopeful = closest > math.log(_SKIPPED_MASS / len(training_set))
    for rows in training_set.slices(n_rows):
        if hopeful[rows].any():
            # the same products as above, so that they round alike
            logit, x = _logits(z, a, training_set, rows, query)
            weight = softmax.relative(logit, training_set.prior(rows)).exp_()
            share = weight.div_(softmax.total) @ response  # (m, H W)
            mean += torch.einsum("mp,mcp->cp", share, x.flatten(2))
    return mean.view(z.shape), softmax.log_norm, softmax.effective_sample_size


def _logits(z, a, training_set, rows, query):
    """Logits (m, K) of some training images, without weights, and those images (m, C, H, W)."""
    x = training_set.take(rows, z.dtype)
    # differences are scaled, not the images: equal distances stay equal
    logit = ((z - x) * a).square_().sum(1).flatten(1) @ query
    return logit.neg_(), x
