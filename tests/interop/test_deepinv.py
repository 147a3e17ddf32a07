"""Inverse problems of deepinv with a denoiser."""

import copy
import pickle
import re

import pytest
import torch

from helpers import ROOT, real
from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.adapters import as_deepinv
from skpspc.datasets import load_digits_images

deepinv = real("deepinv")


@pytest.fixture(scope="module")
def problem():
    """Held-out digits on [0, 1], the physics of 50 % inpainting, and measurements."""
    X = torch.from_numpy(load_digits_images().images[300:304] / 255.0).float()
    mask = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    physics = deepinv.physics.Inpainting(
        img_size=(1, 8, 8), mask=mask, noise_model=deepinv.physics.GaussianNoise(0.02)
    )
    torch.manual_seed(0)
    return X, physics, physics(X)


@pytest.fixture(scope="module")
def denoiser():
    """PSPC of 5 x 5 patches, fitted on other digits."""
    X = load_digits_images().images
    return as_deepinv(PSPCDenoiser(5).fit(X[400:]))


def psnr(a, b):
    return float(-10 * (a - b).square().mean().log10())


@pytest.mark.parametrize("data_range", [(-1, 1), (0, 1), (0.0, 255.0)])
def test_sigma_doubles(images, oracle, noise, data_range):
    """deepinv's images lie on [0, 1], half the width of [-1, 1]."""
    low, high = data_range
    model = EmpiricalDenoiser(data_range=data_range).fit(low + (high - low) * (images + 1) / 2)
    x = images[:4] / 2 + 0.5 + 0.1 * noise
    expected = (oracle(2 * x - 1, 0.2) + 1) / 2
    for sigma in (0.1, torch.tensor(0.1), torch.full((4,), 0.1), torch.full((4, 1, 1, 1), 0.1)):
        torch.testing.assert_close(as_deepinv(model)(x, sigma), expected, rtol=0, atol=1e-6)
    wrapped = as_deepinv(model)
    assert isinstance(wrapped, deepinv.models.Denoiser)
    for again in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        torch.testing.assert_close(again(x, 0.1), expected)


def test_classes_and_guidance(model, oracle, noise):
    x = noise / 2 + 0.5
    got = as_deepinv(model)(x, 0.5, y=list("ddaj"), guidance=2.0)
    expected = 2 * oracle(noise, 1.0, [3, 3, 0, 9]) - oracle(noise, 1.0)
    torch.testing.assert_close(got, (expected + 1) / 2)


def test_floats_on_another_range_need_a_declared_range(images):
    with pytest.warns(UserWarning, match=r"the units of the adapter suit images on \[-1, 1\]"):
        as_deepinv(EmpiricalDenoiser().fit((images + 1) / 2))


def diffpir(denoiser):
    likelihood = deepinv.optim.data_fidelity.L2()
    return deepinv.sampling.DiffPIR(denoiser, likelihood, sigma=0.02, max_iter=30)


def plug_and_play(denoiser):
    return deepinv.optim.optim_builder(
        iteration="HQS",
        prior=deepinv.optim.prior.PnP(denoiser=denoiser),
        data_fidelity=deepinv.optim.data_fidelity.L2(),
        max_iter=20,
        params_algo={"stepsize": 1.0, "g_param": torch.logspace(-0.3, -1.5, 20).tolist()},
    )


def dps(denoiser):
    return deepinv.sampling.DPS(denoiser, num_steps=100, weight=20.0)


@pytest.mark.parametrize("restorer", [diffpir, plug_and_play, dps], ids=lambda f: f.__name__)
def test_missing_pixels_are_restored(problem, denoiser, restorer):
    """The page states these numbers; DPS takes the gradient of the denoiser."""
    X, physics, measured = problem
    torch.manual_seed(1)
    restored = restorer(denoiser)(measured, physics)
    stated = re.search(rf"``{NAMES[restorer]}``\n +- ([\d.]+)", PAGE).group(1)
    assert psnr(measured, X) == pytest.approx(7.9, abs=0.1)
    assert psnr(restored, X) == pytest.approx(float(stated), abs=0.5)
    assert psnr(restored, X) > psnr(measured, X) + 3


NAMES = {diffpir: "DiffPIR", plug_and_play: "HQS", dps: "DPS"}
PAGE = (ROOT / "docs" / "user_guide" / "interop.rst").read_text()
