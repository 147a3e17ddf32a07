"""Information of windows about the training image, against the slow formula and known answers."""

import numpy as np
import pytest
import torch

import oracle
from skpspc.posterior.information import information, own_logits, pixel_map
from skpspc.support import Centred, Masks, Squares, TrainingSet, Whole
from skpspc.support.windows import overlap_counts

SIGMAS = (0.02, 0.3, 1.0, 5.0)


def slow_information(Z, X, sigma, masks, sample_weight=None):
    """Relative entropy of posterior and sample weights, and the log normaliser, both (n, K)."""
    prior = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
    prior = prior / prior.sum()
    answer = oracle.collection(Z, X, sigma, masks, sample_weight=prior)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = answer.weights * np.log(answer.weights / prior)
    sizes = np.array([mask.sum() for mask in masks])
    log_norm = answer.log_evidence + sizes / 2 * np.log(2 * np.pi * sigma**2)
    return np.nan_to_num(terms).sum(2), log_norm


def masks_of(windows, shape):
    if isinstance(windows, Whole):
        return oracle.whole_mask(shape)
    if isinstance(windows, Squares):
        return oracle.square_masks(windows.h, shape)
    return list((windows.masks(shape).query > 0).expand(-1, *shape).flatten(1).numpy())


def noisy_digits(digits, sigma, n=3):
    noise = np.random.default_rng(0).standard_normal((n, 1, 8, 8))
    return oracle.as_float(digits[-n:]).reshape(noise.shape) + sigma * noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("windows", [Whole(), Squares(3, 3), Squares(8, 8), Centred(5)])
@pytest.mark.parametrize("weighted", [False, True])
def test_information_is_the_one_of_the_slow_formula(digits, windows, weighted, dtype):
    X = digits[:200]
    weight = np.arange(200) % 3 + 1.0 if weighted else None
    training_set = TrainingSet(
        torch.from_numpy(X.copy()), None if weight is None else torch.from_numpy(weight)
    )
    for sigma in SIGMAS:
        Z = noisy_digits(digits, sigma)
        expected, log_norm = slow_information(Z, X, sigma, masks_of(windows, (1, 8, 8)), weight)
        levels = torch.full((len(Z),), sigma, dtype=torch.float64)
        found = information(torch.from_numpy(Z).to(dtype), levels, training_set, windows)
        tol = 2e-5 if dtype == torch.float32 else 1e-8
        np.testing.assert_allclose(found.gained, expected, rtol=tol, atol=tol)
        np.testing.assert_allclose(found.log_norm, log_norm, rtol=tol, atol=tol)
