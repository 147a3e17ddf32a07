"""Schedules, samplers, and what sampling gives."""

import numpy as np
import pytest
import torch

import oracle
from skpspc import EmpiricalDenoiser, PatchSchedule, PSPCDenoiser, edm_sigmas
from skpspc.sampling import SAMPLERS, draw_noise, euler, heun

# Niedoba et al. 2025, rounded as printed
TABLE = [80, 57.6, 40.8, 28.4, 19.4, 12.9, 8.40, 5.32, 3.26, 1.92, 1.09, 0.585, 0.296, 0.140]
TABLE += [0.060, 0.023, 0.0075, 0.002]
SIZES = [32, 32, 32, 32, 32, 32, 32, 23, 15, 11, 7, 5, 3, 3, 3, 3, 3, 3]


# ---------------------------------------------------------------------------- schedules


def test_edm_sigmas_are_those_of_the_table():
    sigmas = edm_sigmas(18)
    assert sigmas.dtype == np.float64
    np.testing.assert_allclose(sigmas, TABLE, rtol=0.02)  # as few digits as were printed
    i = np.arange(18)
    formula = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigmas, formula, rtol=1e-12)


@pytest.mark.parametrize("start", range(1, 18))
def test_a_tail_of_the_grid_is_a_grid(start):
    sigmas = edm_sigmas(18)
    tail = edm_sigmas(18 - start, sigma_max=sigmas[start])
    np.testing.assert_allclose(tail, sigmas[start:], rtol=1e-12)


def test_the_ends_of_the_grid_are_exact_and_it_falls():
    for n_steps, low, high, rho in ((2, 0.002, 80, 7), (40, 0.01, 3, 2), (5, 1, 1.5, 0.5)):
        sigmas = edm_sigmas(n_steps, low, high, rho)
        assert sigmas.shape == (n_steps,)
        np.testing.assert_allclose(sigmas[[0, -1]], [high, low], rtol=1e-14)
        assert (np.diff(sigmas) < 0).all()
    np.testing.assert_allclose(edm_sigmas(1), [80])


def test_a_patch_schedule_takes_the_nearest_sigma():
    schedule = PatchSchedule(TABLE, SIZES)
    for sigma, size in zip(TABLE, SIZES, strict=True):
        assert schedule(sigma) == schedule(1.01 * sigma) == schedule(0.99 * sigma) == size
    assert schedule(0.0) == 3
    assert schedule(np.inf) == schedule(1e9) == 32
    assert schedule(7.0) == 32  # 8.40 is nearer than 5.32
    assert schedule(6.8) == 23
    assert isinstance(schedule(np.float32(1.0)), int)
    shuffled = PatchSchedule(TABLE[::-1], SIZES[::-1])
    assert [shuffled(s) for s in TABLE] == SIZES


def test_a_patch_schedule_is_a_value():
    a, b = PatchSchedule([1, 2], [3, 4]), PatchSchedule((1.0, 2.0), np.array([3, 4]))
    assert a == b
    assert a != PatchSchedule([1, 2], [3, 5])
    assert a != PatchSchedule([1, 2.5], [3, 4])
    assert a != "paper"
    assert eval(repr(a)) == a


@pytest.mark.parametrize(
    ("sigmas", "sizes", "message"),
    [
        ([1, 2], [3], "same length"),
        ([], [], "at least one"),
        ([[1, 2]], [[3, 4]], "a sequence"),
        ([1, -2], [3, 4], "non-negative"),
        ([1, np.nan], [3, 4], "finite"),
        ([1, 1], [3, 4], "distinct"),
        ([1, 2], [3, 0], "at least 1, got 0"),
        ([1, 2], [3, 4.5], "ints"),
    ],
)
def test_bad_patch_schedules(sigmas, sizes, message):
    with pytest.raises(ValueError, match=message):
        PatchSchedule(sigmas, sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 0}, "n_steps must be an int of at least 1, got 0"),
        ({"n_steps": 2.5}, "n_steps must be an int"),
        ({"n_steps": 3, "sigma_min": 2, "sigma_max": 1}, "sigma_min <= sigma_max"),
        ({"n_steps": 3, "sigma_min": 0}, "0 < sigma_min"),
        ({"n_steps": 3, "sigma_min": np.nan}, "0 < sigma_min"),
        ({"n_steps": 3, "sigma_max": np.inf}, "< inf"),
        ({"n_steps": 3, "rho": 0}, "rho must be positive"),
    ],
)
def test_bad_grids(arguments, message):
    with pytest.raises(ValueError, match=message):
        edm_sigmas(**arguments)


# -------------------------------------------------------------------------------- noise


def test_noise_of_a_sample_depends_on_seed_and_number_only():
    noise = draw_noise((2, 3), 5, 7)
    assert noise.dtype == torch.float64
    assert noise.shape == (5, 2, 3)
    assert torch.equal(draw_noise((2, 3), 2, 7), noise[:2])
    assert not torch.equal(draw_noise((2, 3), 5, 8), noise)
    assert len({tuple(row.flatten().tolist()) for row in noise}) == 5
    generator = np.random.default_rng(0)
    assert not torch.equal(draw_noise((2,), 2, generator), draw_noise((2,), 2, generator))
    assert not torch.equal(draw_noise((2,), 2, None), draw_noise((2,), 2, None))
    same = (draw_noise((2,), 2, np.random.RandomState(0)) for _ in range(2))
    assert torch.equal(*same)


def test_noise_is_standard_normal():
    noise = draw_noise((1000,), 100, 0).numpy()
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert abs(np.corrcoef(noise[:2])[0, 1]) < 0.1


# ----------------------------------------------------------------------------- samplers


def gaussian_denoiser(s):
    """Optimal for data N(0, s^2): the trajectories are z(sigma) ~ sqrt(s^2 + sigma^2)."""
    return lambda z, sigma: s**2 / (s**2 + sigma**2) * z


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2)])
def test_order_of_convergence_on_a_gaussian(sampler, order):
    s, low, high = 0.5, 0.05, 20.0
    z = high * torch.tensor([1.0, -0.3, 2.0], dtype=torch.float64)
    exact = z * np.sqrt((s**2 + low**2) / (s**2 + high**2))
    steps = np.array([20, 40, 80, 160])
    error = []
    for n_steps in steps:
        sigmas = edm_sigmas(n_steps, low, high).tolist()
        *_, at_sigma_min, _ = sampler(gaussian_denoiser(s), z, sigmas)
        error.append(float((at_sigma_min - exact).abs().max()))
    # n_steps sigmas are n_steps - 1 intervals
    slope = -np.polyfit(np.log(steps[1:] - 1), np.log(error[1:]), 1)[0]
    assert abs(slope - order) < 0.15
    assert error[-1] < (0.02 if order == 1 else 3e-4)


@pytest.mark.parametrize("sampler", [euler, heun])
def test_a_sampler_yields_every_state_and_ends_with_a_denoised_image(sampler):
    calls = []

    def denoise(z, sigma):
        calls.append(sigma)
        return 0.25 * z + 1

    z = torch.ones(2, 3)
    states = list(sampler(denoise, z, [4.0, 2.0, 1.0]))
    assert len(states) == 3
    expected = [4, 2, 1] if sampler is euler else [4, 2, 2, 1, 1]
    assert calls == expected
    assert torch.allclose(states[-1], 0.25 * states[-2] + 1)
    assert torch.equal(z, torch.ones(2, 3))
    # one Euler step by hand: (z - x0) shrinks by the ratio of the sigmas
    if sampler is euler:
        assert torch.allclose(states[0], 1.25 + 0.5 * (z - 1.25))


def test_one_image_is_reached_from_anywhere():
    X = np.full((1, 1, 2, 2), 0.3)
    for sampler in SAMPLERS:
        samples = EmpiricalDenoiser().fit(X).sample(3, sampler=sampler, n_steps=4, random_state=1)
        np.testing.assert_allclose(samples, 0.3, atol=1e-12)


def test_many_gaussian_training_images_give_the_gaussian_trajectories():
    """Through the estimator: z(sigma) - mu ~ sqrt(s^2 + sigma^2) ends at the data's spread."""
    rng = np.random.default_rng(0)
    mean, s = 0.4, 0.5
    X = mean + s * rng.standard_normal((2000, 1))
    samples, trajectory = (
        EmpiricalDenoiser().fit(X).sample(20, random_state=0, n_steps=30, return_trajectory=True)
    )
    expected = mean + (trajectory[0] - mean) * s / np.sqrt(s**2 + 80**2)
    # 2,000 draws know the distribution to a few percent, and 30 steps the trajectory
    np.testing.assert_allclose(samples, expected, rtol=0, atol=0.1)
    assert samples.std() > 0.3


# --------------------------------------------------------------- what the denoisers draw


def nearest_distance(samples, X):
    """Largest pixel difference to the training image nearest by it."""
    x = oracle.as_float(X)
    return np.abs(samples.reshape(len(samples), 1, -1) - x).max(-1).min(1)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_empirical_samples_are_training_images(digits, sampler):
    """The memorisation limit: the optimal denoiser returns what it was given."""
    X = digits[:500]
    samples = EmpiricalDenoiser().fit(X).sample(16, random_state=0, sampler=sampler)
    assert samples.shape == (16, 1, 8, 8)
    assert nearest_distance(samples, X).max() < 1e-4
    distances = np.abs(samples[:, None] - samples).reshape(16, 16, -1).max(-1)
    assert (distances[np.triu_indices(16, 1)] > 0.1).mean() > 0.9  # and not one of them always


def test_pspc_samples_are_not_training_images(digits):
    X = digits[:500]
    samples = PSPCDenoiser(4).fit(X).sample(16, random_state=0)
    assert nearest_distance(samples, X).min() > 0.1
    assert samples.min() >= -1 - 1e-5
    assert samples.max() <= 1 + 1e-5


def test_a_callable_sampler():
    seen = []

    def jump(denoise, z, sigmas):
        seen.extend(sigmas)
        z = denoise(z, sigmas[0])
        for _ in sigmas:
            yield z

    X = np.linspace(-1, 1, 24).reshape(6, 1, 2, 2)
    model = EmpiricalDenoiser().fit(X)
    samples, trajectory = model.sample(
        2, sampler=jump, random_state=0, n_steps=3, return_trajectory=True
    )
    np.testing.assert_allclose(seen, edm_sigmas(3))
    np.testing.assert_array_equal(samples, model.denoise(trajectory[0], 80.0))
    plain = model.sample(2, sampler=euler, random_state=0)
    np.testing.assert_array_equal(plain, model.sample(2, sampler="euler", random_state=0))


def test_the_start_is_noise_at_sigma_max():
    X = np.zeros((2, 1, 8, 8))
    model = EmpiricalDenoiser().fit(X)
    _, trajectory = model.sample(
        50, sigma_max=7.0, random_state=3, return_trajectory=True, n_steps=2
    )
    assert abs(trajectory[0].std() / 7 - 1) < 0.05
    np.testing.assert_array_equal(trajectory[0], 7.0 * draw_noise((1, 8, 8), 50, 3).numpy())
