"""Samplers of k-diffusion with a denoiser as their model."""

import copy
import pickle

import pytest
import torch

from helpers import real
from skpspc import EmpiricalDenoiser, edm_sigmas
from skpspc.adapters import as_kdiffusion

K = real("k_diffusion.sampling")

DETERMINISTIC = ["sample_euler", "sample_heun", "sample_dpm_2", "sample_lms", "sample_dpmpp_2m"]
STOCHASTIC = [
    "sample_euler_ancestral",
    "sample_dpm_2_ancestral",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_sde",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_3m_sde",
]


def repeatable(x):
    """A noise sampler that draws the same noise in every run."""
    source = torch.Generator().manual_seed(2)
    return lambda sigma, target: torch.randn(x.shape, dtype=x.dtype, generator=source)


@pytest.mark.parametrize("name", DETERMINISTIC + STOCHASTIC)
@pytest.mark.parametrize("of_class", [False, True])
def test_every_sampler(model, oracle, noise, name, of_class):
    """From the same noise, samples equal those of the formula."""
    wrapped = as_kdiffusion(model)
    classes = torch.tensor([3, 3, 0, 9]) if of_class else None
    sigmas = wrapped.get_sigmas(18).double()
    options = {} if name in DETERMINISTIC else {"noise_sampler": repeatable(noise)}
    expected = getattr(K, name)(
        lambda x, sigma: oracle(x, sigma, classes), 80 * noise, sigmas, disable=True, **options
    )
    if options:
        options["noise_sampler"] = repeatable(noise)
    got = getattr(K, name)(
        wrapped,
        80 * noise,
        sigmas,
        extra_args={"class_cond": classes} if of_class else None,
        disable=True,
        **options,
    )
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_adaptive_and_fast_samplers(model, oracle, noise):
    for name, options in (("sample_dpm_fast", {"n": 18}), ("sample_dpm_adaptive", {})):
        got, expected = (
            getattr(K, name)(denoise, 80 * noise, 0.002, 80.0, disable=True, **options)
            for denoise in (as_kdiffusion(model), oracle)
        )
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_samplers_are_ours(model, noise):
    """Euler and Heun steps of both libraries."""
    wrapped = as_kdiffusion(model)
    sigmas = torch.tensor([*edm_sigmas(18), 0.0], dtype=torch.float64)
    for name in ("euler", "heun"):
        got = getattr(K, f"sample_{name}")(wrapped, 80 * noise, sigmas, disable=True)
        ours = model.sample(initial=80 * noise, sampler=name, n_steps=18)
        torch.testing.assert_close(got, ours, rtol=0, atol=1e-10)


def test_classes_and_guidance(model, oracle, noise):
    wrapped = as_kdiffusion(model)
    of_class, of_any = oracle(noise, 0.9, [3]), oracle(noise, 0.9)
    got = wrapped(noise, torch.full((4,), 0.9), class_cond=torch.tensor([3]), guidance=2.0)
    torch.testing.assert_close(got, 2 * of_class - of_any)
    mixed = wrapped(noise, torch.full((4,), 0.9), class_cond=torch.tensor([10, 3, 10, 3]))
    torch.testing.assert_close(mixed[[1, 3]], of_class[[1, 3]])
    torch.testing.assert_close(mixed[[0, 2]], of_any[[0, 2]])
    for again in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        torch.testing.assert_close(again(noise, 0.9), of_any)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ([11], "between 0 and 9, positions in classes_, or be 10 for any class; got 11"),
        ([-1], "got -1"),
        ([3, 3], "pass one class index, or 4, one for each image; got 2"),
        ([3.0], r"class indices must be ints, got torch\.float32"),
    ],
)
def test_indices_of_no_class(model, images, noise, classes, sentence):
    with pytest.raises(ValueError, match=sentence):
        as_kdiffusion(model)(noise, 0.5, class_cond=torch.tensor(classes))
    without = as_kdiffusion(EmpiricalDenoiser().fit(images))
    with pytest.raises(ValueError, match="this EmpiricalDenoiser has no classes; fit it with lab"):
        without(noise, 0.5, class_cond=torch.tensor([3]))
