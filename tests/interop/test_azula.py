"""Samplers of azula with a denoiser as their denoiser."""

import copy
import pickle

import pytest
import torch

from helpers import real
from skpspc.adapters import as_azula

noise_schedules = real("azula.noise")
azula = real("azula.sample")

SCHEDULES = [
    noise_schedules.VESchedule(0.002, 80.0),
    noise_schedules.VPSchedule(),
    noise_schedules.CosineSchedule(),
    noise_schedules.RectifiedSchedule(),
    noise_schedules.DecaySchedule(),
]
DETERMINISTIC = ["EulerSampler", "HeunSampler", "zABSampler", "xEABSampler", "DDIMSampler"]


class Oracle:
    """A denoiser of azula around the formula."""

    def __init__(self, denoise, schedule):
        self.denoise, self.schedule = denoise, schedule

    def __call__(self, x_t, t, y=None):
        alpha, sigma = self.schedule(t)
        oracle = self.denoise(x_t / alpha, sigma / alpha, y)
        return type("Posterior", (), {"mean": oracle})


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", [*DETERMINISTIC, "DDPMSampler"])
@pytest.mark.parametrize("of_class", [False, True])
def test_every_sampler(model, oracle, noise, schedule, name, of_class):
    """From the same noise, samples equal those of the formula."""
    wrapped, by_formula = as_azula(model, schedule), Oracle(oracle, schedule)
    results = []
    for denoiser, y in ((wrapped, list("ddaj")), (by_formula, [3, 3, 0, 9])):
        sampler = getattr(azula, name)(denoiser, steps=16, silent=True, dtype=torch.float64)
        start = schedule(torch.ones((), dtype=torch.float64))[1] * noise
        torch.manual_seed(0)
        results.append(sampler(start, **({"y": y} if of_class else {})))
    assert results[0].dtype == torch.float64
    torch.testing.assert_close(*results, rtol=0, atol=1e-9)


def test_the_default_schedule_and_times(model, oracle, noise):
    wrapped = as_azula(model)
    alpha, sigma = wrapped.schedule(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(sigma, torch.tensor([0.002, 80.0]))
    times = torch.tensor([0.5, 0.6, 0.7, 0.8], dtype=torch.float64)
    alpha, sigma = wrapped.schedule(times)
    torch.testing.assert_close(wrapped(noise, times).mean, oracle(noise, sigma / alpha))
    guided = wrapped(noise, torch.tensor(0.7, dtype=torch.float64), y="d", guidance=2.0).mean
    sigma = wrapped.schedule(torch.tensor(0.7, dtype=torch.float64))[1]
    torch.testing.assert_close(guided, 2 * oracle(noise, sigma, [3]) - oracle(noise, sigma))
    for again in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        torch.testing.assert_close(again(noise, times).mean, wrapped(noise, times).mean)
