"""Gradients pass through every adapter, for other libraries' guidance and likelihoods."""

import pytest
import torch

from helpers import real
from skpspc import EmpiricalDenoiser, NetworkDenoiser, adapters

SIGMA = 0.6


@pytest.fixture
def small():
    """The empirical denoiser of ten 3 x 3 images."""
    X = torch.rand(10, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return EmpiricalDenoiser().fit(2 * X - 1)


@pytest.fixture
def network():
    """A network in torch."""

    def network(x, c):
        return torch.sin(x) / (1 + c[:, None, None, None] ** 2)

    return NetworkDenoiser(network, image_shape=(1, 3, 3), dtype="float64")


def edm(model):
    net = adapters.as_edm(model)
    return lambda x: net(x, torch.tensor(SIGMA))


def kdiffusion(model):
    wrapped = adapters.as_kdiffusion(model)
    return lambda x: wrapped(x, torch.full((len(x),), SIGMA))


def azula(model):
    real("azula.denoise")
    denoiser = adapters.as_azula(model)
    return lambda x: denoiser(x, torch.tensor(0.55, dtype=torch.float64)).mean


def diffusers(model):
    scheduler = real("diffusers").DDIMScheduler(prediction_type="v_prediction")
    unet = adapters.as_diffusers_unet(model, scheduler)
    return lambda x: unet(x, 300).sample


def smalldiffusion(model):
    real("smalldiffusion")
    wrapped = adapters.as_smalldiffusion(model)
    return lambda x: wrapped(x, torch.tensor(SIGMA))


def deepinv(model):
    real("deepinv")
    denoiser = adapters.as_deepinv(model)
    return lambda x: denoiser(x, SIGMA)


@pytest.mark.parametrize("kind", ["small", "network"])
@pytest.mark.parametrize(
    "adapter",
    [edm, kdiffusion, azula, diffusers, smalldiffusion, deepinv],
    ids=lambda adapter: adapter.__name__,
)
def test_gradients_are_those_of_finite_differences(request, adapter, kind):
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    function = adapter(request.getfixturevalue(kind))
    assert torch.autograd.gradcheck(function, x.requires_grad_(), fast_mode=True)
