"""Samplers of smalldiffusion with a denoiser as their model."""

import copy
import pickle

import numpy as np
import torch

from helpers import real
from skpspc import EmpiricalDenoiser
from skpspc.adapters import as_smalldiffusion

small = real("smalldiffusion")


def drawn(model, sigmas, start, **options):
    """The last of the sampler's images."""
    torch.manual_seed(0)
    *_, last = small.samples(model, sigmas, xt=start, **options)
    return last


def test_samples_equal_those_of_the_ideal_denoiser(model, images, noise):
    """smalldiffusion has the empirical denoiser too, in float32 and all at once."""
    ideal, wrapped = small.IdealDenoiser(images), as_smalldiffusion(model)
    sigmas = small.ScheduleLogLinear(N=200, sigma_min=0.01, sigma_max=35).sample_sigmas(20)
    start = wrapped.rand_input(4).double() * sigmas[0]
    assert start.shape == (4, 1, 8, 8)
    for options in ({}, {"gam": 1.6}, {"gam": 1.0, "mu": 0.5}):
        got = drawn(wrapped, sigmas, start, **options)
        assert got.dtype == torch.float64
        expected = drawn(ideal, sigmas, start, **options)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_the_noise_by_the_formula(model, oracle, noise):
    wrapped = as_smalldiffusion(model)
    got = wrapped(noise, torch.tensor(0.5))
    torch.testing.assert_close(got, (noise - oracle(noise, 0.5)) / 0.5)
    sigma = torch.tensor([0.2, 0.5, 1.0, 4.0], dtype=torch.float64).reshape(4, 1, 1, 1)
    eps = wrapped.predict_eps(noise, sigma, cond=torch.tensor([3, 10, 0, 10]))
    x0 = oracle(noise, sigma)
    x0[[0, 2]] = oracle(noise[[0, 2]], sigma[[0, 2]], [3, 0])
    torch.testing.assert_close(eps, (noise - x0) / sigma)
    for again in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        torch.testing.assert_close(again(noise, torch.tensor(0.5)), got)


def test_guidance(model, oracle, noise):
    """``cfg_scale`` s is our guidance 1 + s."""
    cond = torch.tensor([3, 3, 0, 9])
    eps = as_smalldiffusion(model).predict_eps_cfg(noise, torch.tensor(1.0), cond, 1.5)
    x0 = noise - eps
    expected = 2.5 * oracle(noise, 1.0, cond) - 1.5 * oracle(noise, 1.0)
    torch.testing.assert_close(x0, expected)


def test_points_of_the_plane():
    """smalldiffusion's toy data are rows of two numbers."""
    X = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    wrapped = as_smalldiffusion(EmpiricalDenoiser().fit(X))
    sigmas = small.ScheduleLogLinear(N=200, sigma_min=0.001, sigma_max=10).sample_sigmas(20)
    points = drawn(wrapped, sigmas, wrapped.rand_input(3) * sigmas[0])
    assert points.shape == (3, 2)
    nearest = (points[:, None] - torch.from_numpy(X)).norm(dim=2).amin(1)
    assert nearest.max() < 0.01
