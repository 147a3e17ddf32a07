"""The page on other libraries: its snippets run, and its table states differences that hold."""

import re
import textwrap
from itertools import pairwise

import pytest
import torch
from test_edm import edm_sampler

from helpers import ROOT, real
from skpspc import EmpiricalDenoiser, NetworkDenoiser, adapters, edm_sigmas
from skpspc.datasets import load_digits_images
from skpspc.sampling import convert, euler, heun

PAGE = (ROOT / "docs" / "user_guide" / "interop.rst").read_text()
MODULES = {
    "EDM": "torch",
    "k-diffusion": "k_diffusion",
    "azula": "azula.sample",
    "diffusers": "diffusers",
    "smalldiffusion": "smalldiffusion",
    "deepinv": "deepinv",
    "Networks of other libraries": "diffusers",
}
N_STEPS = 18


def sections():
    """Return the code blocks of each section, a dict of lists of programs."""
    parts = re.split(r"^(.+)\n[-=]+\n", PAGE, flags=re.MULTILINE)
    return {
        title: [
            textwrap.dedent(block)
            for block in re.findall(r"(?:::|\.\. code-block:: python)\n\n((?:   .*\n|\n)+)", text)
        ]
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_section_of_a_library_has_a_snippet():
    assert {title for title, programs in sections().items() if programs} == {"Units", *MODULES}


@pytest.fixture
def names():
    """What the snippets share."""
    torch.manual_seed(0)
    names: dict = {"edm_sampler": edm_sampler}
    for program in sections()["Units"]:
        exec(program, names)
    return names


@pytest.mark.parametrize("title", MODULES)
def test_snippets_run(title, names):
    real(MODULES[title])
    if MODULES[title] == "diffusers":
        for program in sections()["diffusers"]:
            exec(program, names)
        assert len(names["pictures"]) == 4
    X, samples = names["X"], None
    for program in sections()[title]:
        names.pop("samples", None)
        exec(program, names)
        samples = names.get("samples", samples)
    if samples is not None:  # samples of the empirical denoiser are training images
        assert (samples[:, None] - X).square().mean((2, 3, 4)).amin(1).max() < 1e-3
    if title in ("EDM", "azula", "k-diffusion"):
        threes = X[names["digits"].target == 3]
        assert (names["threes"][:, None] - threes).square().mean((2, 3, 4)).amin(1).max() < 0.1
    if title == "deepinv":
        error = names["restored"] - (X[:4] / 2 + 0.5)
        assert error.square().mean() < (names["measured"] - (X[:4] / 2 + 0.5)).square().mean() / 2


# ------------------------------------------------------------------------------- the table


@pytest.fixture(scope="module")
def all_digits():
    digits = load_digits_images()
    return EmpiricalDenoiser().fit(torch.from_numpy(digits.images / 127.5 - 1), digits.target)


def ours(sampler, model, z, sigmas):
    """The last images of our sampler."""
    *_, last = sampler(model.denoise, z, [float(sigma) for sigma in sigmas])
    return last


def to_the_end(model, z, sigmas):
    """Euler steps to the last of the noise levels, which is not 0."""
    for sigma, target in pairwise(sigmas):
        x0 = model.denoise(z, sigma)
        z = x0 + target / sigma * (z - x0)
    return z


def edm(model, noise):
    got = edm_sampler(adapters.as_edm(model), noise)
    return got, ours(heun, model, 80 * noise, edm_sigmas(N_STEPS))


def k_diffusion(model, noise):
    wrapped = adapters.as_kdiffusion(model)
    sigmas = wrapped.get_sigmas(N_STEPS).double()
    got = real("k_diffusion.sampling").sample_heun(wrapped, 80 * noise, sigmas, disable=True)
    return got, ours(heun, model, 80 * noise, sigmas[:-1])


def azula(model, noise):
    wrapped = adapters.as_azula(model)
    options = {"steps": N_STEPS, "silent": True, "dtype": torch.float64}
    got = real("azula.sample").EulerSampler(wrapped, **options)(80 * noise)
    sigmas = wrapped.schedule(torch.linspace(1, 0, N_STEPS + 1, dtype=torch.float64))[1].tolist()
    return got, to_the_end(model, 80 * noise, sigmas)


def diffusers(model, noise):
    scheduler = real("diffusers").DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    scheduler.set_timesteps(20)
    unet, x = adapters.as_diffusers_unet(model, scheduler), noise
    for step in scheduler.timesteps:
        x = scheduler.step(unet(x, step).sample, step, x).prev_sample
    sigmas = convert.sigma_from_alpha_bar(scheduler.alphas_cumprod[scheduler.timesteps].double())
    return x, ours(euler, model, convert.ve_from_vp(noise, float(sigmas[0])), sigmas)


def smalldiffusion(model, noise):
    small = real("smalldiffusion")
    sigmas = small.ScheduleDDPM().sample_sigmas(N_STEPS).double()
    start = sigmas[0] * noise
    *_, got = small.samples(adapters.as_smalldiffusion(model), sigmas, xt=start)
    return got, to_the_end(model, start, sigmas.tolist())


def deepinv(model, noise):
    x = noise / 2 + 0.5
    return 2 * adapters.as_deepinv(model)(x, 0.25) - 1, model.denoise(noise, 0.5)


@pytest.mark.parametrize(
    "compared",
    [edm, k_diffusion, azula, diffusers, smalldiffusion, deepinv],
    ids=lambda function: function.__name__,
)
def test_differences_of_the_table(compared, all_digits, noise):
    name = compared.__name__.replace("_", "-").replace("edm", "EDM")
    real(MODULES[name])
    row = re.search(rf"\* - `{name} <.*?(?=\n   \* -|\n\n)", PAGE, re.DOTALL).group()
    stated = float(row.rpartition("below ")[2])
    got, expected = compared(all_digits, noise)
    assert float((got - expected).abs().max()) <= stated


# ------------------------------------------------------------------- networks of libraries


def test_networks_of_the_table(all_digits, noise):
    """A denoiser of deepinv, and a preconditioned network of EDM; test_networks has the others."""
    z = all_digits.denoise(noise, 3.0) + 0.3 * noise
    options = {"image_shape": (1, 8, 8), "dtype": "float64"}
    expected = all_digits.denoise(z, 0.3)
    got = NetworkDenoiser(adapters.as_edm(all_digits), **options).denoise(z, 0.3)
    torch.testing.assert_close(got, expected)
    real("deepinv")
    denoiser = adapters.as_deepinv(all_digits)
    got = NetworkDenoiser(denoiser, network_range=(0, 1), **options).denoise(z, 0.3)
    torch.testing.assert_close(got, expected)
