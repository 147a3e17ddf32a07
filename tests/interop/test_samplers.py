"""Samplers and grids agree with diffusers and k-diffusion on equal noise levels and equal noise."""

from functools import partial

import numpy as np
import pytest
import torch

from helpers import real
from skpspc import GaussianDenoiser, PSPCDenoiser, edm_sigmas
from skpspc.sampling import (
    convert,
    ddim,
    dpmpp_2m,
    edm,
    euler,
    exponential_sigmas,
    flow_sigmas,
    heun,
    vp_sigmas,
)

N_STEPS = 12


@pytest.fixture
def diffusers():
    return real("diffusers")


@pytest.fixture
def k_diffusion():
    return real("k_diffusion.sampling")


@pytest.fixture(scope="module", params=[GaussianDenoiser(), PSPCDenoiser(3)], ids=repr)
def denoise(request):
    """A fitted denoiser on float64 digits as a function of a tensor and a float."""
    from skpspc.datasets import load_digits_images

    images = load_digits_images().images[:200] / 127.5 - 1
    model = request.param.fit(torch.from_numpy(images))
    return lambda z, sigma: model.denoise(z, float(sigma))


def noise(scale):
    return scale * torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def last(states):
    *_, samples = states
    return samples


# ---------------------------------------------------------------------------- k-diffusion


def through_k_diffusion(sample, denoise, sigmas, **options):
    """Samples of k-diffusion; the noise is that of torch with seed 1."""

    def model(z, sigma):
        return denoise(z, sigma[0])

    torch.manual_seed(1)
    levels = torch.tensor([*sigmas, 0.0], dtype=torch.float64)
    return sample(model, noise(sigmas[0]), levels, disable=True, **options)


@pytest.mark.parametrize(
    ("sampler", "name", "options"),
    [
        (euler, "sample_euler", {}),
        (heun, "sample_heun", {}),
        (dpmpp_2m, "sample_dpmpp_2m", {}),
        (partial(ddim, eta=1.0), "sample_euler_ancestral", {}),
        (partial(ddim, eta=0.4), "sample_euler_ancestral", {"eta": 0.4}),
        (edm, "sample_heun", {"s_churn": 40.0}),
        (
            partial(edm, s_churn=2.0, s_noise=1.007),
            "sample_heun",
            {"s_churn": 2.0, "s_noise": 1.007},
        ),
    ],
)
@pytest.mark.parametrize("grid", [edm_sigmas, exponential_sigmas])
def test_samplers_of_k_diffusion(k_diffusion, denoise, sampler, name, options, grid):
    sigmas = grid(N_STEPS).tolist()
    theirs = through_k_diffusion(getattr(k_diffusion, name), denoise, sigmas, **options)
    torch.manual_seed(1)
    ours = last(sampler(denoise, noise(sigmas[0]), sigmas))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_grids_of_k_diffusion(k_diffusion):
    karras = k_diffusion.get_sigmas_karras(N_STEPS, 0.01, 50.0, rho=5.0)
    np.testing.assert_allclose([*edm_sigmas(N_STEPS, 0.01, 50, rho=5.0), 0], karras, rtol=1e-5)
    exponential = k_diffusion.get_sigmas_exponential(N_STEPS, 0.01, 50.0)
    np.testing.assert_allclose([*exponential_sigmas(N_STEPS, 0.01, 50), 0], exponential, rtol=1e-5)


# ------------------------------------------------------------------------------ diffusers


def levels_of(alpha_bar):
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def test_euler_of_diffusers(diffusers, denoise):
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="sample")
    sigmas = edm_sigmas(N_STEPS, 0.05, 14.0)
    scheduler.set_timesteps(sigmas=[*sigmas.tolist(), 0.0])
    np.testing.assert_allclose(scheduler.sigmas, [*sigmas, 0.0], rtol=1e-6)
    scheduler.sigmas = levels = scheduler.sigmas.double()
    scheduler.is_scale_input_called = True
    z = start = noise(float(levels[0]))
    for t, sigma in zip(scheduler.timesteps, levels[:-1], strict=True):
        z = scheduler.step(denoise(z, sigma), t, z).prev_sample
    torch.testing.assert_close(last(euler(denoise, start, levels)), z, rtol=0, atol=1e-5)


def test_heun_of_diffusers(diffusers, denoise):
    scheduler = diffusers.HeunDiscreteScheduler(prediction_type="sample", use_karras_sigmas=True)
    scheduler.set_timesteps(N_STEPS)
    scheduler.sigmas = called = scheduler.sigmas.double()  # inner levels twice, one for each call
    levels = torch.cat([called[:1], called[1::2]])
    own = edm_sigmas(N_STEPS, float(levels[-2]), float(levels[0]))
    np.testing.assert_allclose(levels, [*own, 0.0], rtol=1e-5)
    z = start = noise(float(levels[0]))
    for t, sigma in zip(scheduler.timesteps, called[:-1], strict=True):
        z = scheduler.step(denoise(z, sigma), t, z).prev_sample
    torch.testing.assert_close(last(heun(denoise, start, levels)), z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_steps", [N_STEPS, 20])
def test_dpm_solver_of_diffusers(diffusers, denoise, n_steps):
    """Noisy images are variance preserving here."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        use_karras_sigmas=True,
        lower_order_final=False,  # an Euler step before the last, if there are few steps
    )
    scheduler.set_timesteps(n_steps)
    scheduler.sigmas = levels = scheduler.sigmas.double()
    start = noise(float(levels[0]))
    x_t = convert.vp_from_ve(start, levels[0])
    for t, sigma in zip(scheduler.timesteps, levels[:-1], strict=True):
        x0 = denoise(convert.ve_from_vp(x_t, sigma), sigma)
        x_t = scheduler.step(x0, t, x_t).prev_sample
    torch.testing.assert_close(last(dpmpp_2m(denoise, start, levels)), x_t, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_of_diffusers(diffusers, denoise, eta):
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="sample",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(10)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    levels = levels_of(scheduler.alphas_cumprod[scheduler.timesteps])
    draws = torch.randn(10, 3, 1, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    start = noise(float(levels[0]))
    x_t = convert.vp_from_ve(start, levels[0])
    for t, sigma, e in zip(scheduler.timesteps, levels, draws, strict=True):
        x0 = denoise(convert.ve_from_vp(x_t, sigma), sigma)
        x_t = scheduler.step(x0, t, x_t, eta=eta, variance_noise=e).prev_sample
    given = iter(draws)
    ours = last(ddim(denoise, start, levels, eta=eta, noise=lambda z: next(given)))
    torch.testing.assert_close(ours, x_t, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("linear", {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
        ("cosine", {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_vp_levels_of_diffusers(diffusers, schedule, options):
    scheduler = diffusers.DDIMScheduler(timestep_spacing="linspace", **options)
    scheduler.set_timesteps(N_STEPS)
    # float32 products of 1,000 betas
    theirs = levels_of(scheduler.alphas_cumprod[scheduler.timesteps])
    np.testing.assert_allclose(vp_sigmas(N_STEPS, schedule), theirs, rtol=1e-3)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_levels_of_diffusers(diffusers, shift):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    fractions = np.linspace(0.98, 0.02, N_STEPS)
    scheduler.set_timesteps(sigmas=fractions.tolist())
    shifted = scheduler.sigmas[:-1].double().numpy()
    theirs = shifted / (1 - shifted)
    ours = flow_sigmas(N_STEPS, sigma_min=theirs[-1], sigma_max=theirs[0], shift=shift)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
