"""Denoisers of digits for the tests with other libraries."""

import numpy as np
import pytest
import torch

from skpspc import EmpiricalDenoiser
from skpspc.datasets import load_digits_images

LABELS = np.array(list("abcdefghij"))


@pytest.fixture(scope="session")
def images():
    """The first 200 digits as float64 on [-1, 1], a tensor (200, 1, 8, 8)."""
    return torch.from_numpy(load_digits_images().images[:200] / 127.5 - 1)


@pytest.fixture(scope="session")
def codes():
    """Classes of the images as ints, a tensor (200,)."""
    return torch.from_numpy(load_digits_images().target[:200]).long()


@pytest.fixture(scope="session")
def model(images, codes):
    """The empirical denoiser of the images, in float64, with labels "a" to "j"."""
    return EmpiricalDenoiser().fit(images, LABELS[codes.numpy()])


@pytest.fixture(scope="session")
def oracle(images, codes):
    """The posterior mean by its formula, of all images or of the images of one class each."""

    def denoise(z, sigma, y=None):
        sigma = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1)
        distances = (z[:, None] - images.to(z)).flatten(2).square().sum(2)  # (n, N)
        logits = -distances / (2 * sigma.square())
        if y is not None:
            logits = logits.masked_fill(codes != torch.as_tensor(y).reshape(-1, 1), -torch.inf)
        weights = logits.softmax(1)
        return torch.einsum("nk,kchw->nchw", weights, images.to(z))

    return denoise


@pytest.fixture
def noise():
    """Standard normal noise, float64, a tensor (4, 1, 8, 8)."""
    return torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
