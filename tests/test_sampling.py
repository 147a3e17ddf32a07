"""Schedules, samplers, and what sampling gives."""

import math
import pickle
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

import oracle
from skpspc import (
    EmpiricalDenoiser,
    GaussianDenoiser,
    PatchSchedule,
    PSPCDenoiser,
    SamplingInterrupted,
    edm_sigmas,
)
from skpspc.sampling import (
    SAMPLERS,
    convert,
    ddim,
    dpmpp_2m,
    draw_noise,
    edm,
    euler,
    exponential_sigmas,
    flow_sigmas,
    heun,
    vp_sigmas,
)

# Niedoba et al. 2025, rounded as printed
TABLE = [80, 57.6, 40.8, 28.4, 19.4, 12.9, 8.40, 5.32, 3.26, 1.92, 1.09, 0.585, 0.296, 0.140]
TABLE += [0.060, 0.023, 0.0075, 0.002]
SIZES = [32, 32, 32, 32, 32, 32, 32, 23, 15, 11, 7, 5, 3, 3, 3, 3, 3, 3]


# ---------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("schedule", [edm_sigmas, exponential_sigmas])
def test_rounded_levels_do_not_increase(schedule):
    """Levels between ends that are equal, or differ in the last digits, are rounded."""
    for low in (10.0, np.nextafter(10.0, 0), 0.1, 3.7):
        sigmas = schedule(9, sigma_min=low, sigma_max=max(low, 10.0 if low > 9 else low))
        assert (np.diff(sigmas) <= 0).all() and sigmas[-1] == low


def test_second_order_steps_between_equal_levels():
    """Without a slope between equal levels, a step is of first order."""

    def denoise(z, sigma):
        return z / (1 + sigma**2)

    z, levels = torch.tensor([[2.0]]), [2.0, 2.0, 1.0]
    torch.testing.assert_close(
        torch.stack(list(dpmpp_2m(denoise, z, levels)))[1:2],
        torch.stack(list(dpmpp_2m(denoise, z, levels[1:])))[:1],
    )


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


def alpha_bars(betas):
    """Products of 1 - beta, one factor at a time."""
    product, products = 1.0, []
    for beta in betas:
        product *= 1 - beta
        products.append(product)
    return products


def test_linear_vp_levels_are_those_of_ddpm():
    """Ho et al. 2020, Section 4: T = 1000, beta from 1e-4 to 0.02."""
    betas = [1e-4 + (0.02 - 1e-4) * t / 999 for t in range(1000)]
    expected = [math.sqrt((1 - bar) / bar) for bar in alpha_bars(betas)][::-1]
    np.testing.assert_allclose(vp_sigmas(1000), expected, rtol=1e-10)
    np.testing.assert_allclose(vp_sigmas(4), [expected[i] for i in (0, 333, 666, 999)], rtol=1e-10)
    np.testing.assert_allclose(vp_sigmas(1), expected[:1], rtol=1e-10)


def test_cosine_vp_levels_are_those_of_iddpm():
    """Nichol and Dhariwal 2021, Eq. 17: s = 0.008, betas clipped to 0.999."""

    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - f(t) / f(t - 1), 0.999) for t in range(1, 1001)]
    expected = [math.sqrt((1 - bar) / bar) for bar in alpha_bars(betas)][::-1]
    np.testing.assert_allclose(vp_sigmas(1000, "cosine"), expected, rtol=1e-8)
    # without the clip, the levels are a tangent
    inner = [math.sqrt(f(0) / f(t) - 1) for t in range(1, 999)]
    np.testing.assert_allclose(vp_sigmas(1000, "cosine")[:1:-1], inner, rtol=1e-8)


def test_flow_levels_are_evenly_spaced_in_time():
    sigmas = flow_sigmas(18)
    times = convert.flow_time_from_sigma(sigmas)
    np.testing.assert_allclose(np.diff(times), np.full(17, np.diff(times).mean()), rtol=1e-9)
    np.testing.assert_allclose(sigmas[[0, -1]], [80, 0.002], rtol=1e-12)
    np.testing.assert_allclose(flow_sigmas(1), [80], rtol=1e-12)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_shift_moves_the_times_as_in_stable_diffusion_3(shift):
    """Esser et al. 2024, Eq. 23: a noise fraction s becomes shift s / (1 + (shift - 1) s)."""
    fractions = np.linspace(0.98, 0.01, 9)
    shifted = shift * fractions / (1 + (shift - 1) * fractions)
    expected = shifted / (1 - shifted)
    ours = flow_sigmas(9, sigma_min=expected[-1], sigma_max=expected[0], shift=shift)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    np.testing.assert_allclose(expected, shift * fractions / (1 - fractions), rtol=1e-12)


def test_exponential_levels_have_equal_ratios():
    sigmas = exponential_sigmas(7, 0.01, 50)
    np.testing.assert_allclose(sigmas[[0, -1]], [50, 0.01], rtol=1e-12)
    ratios = sigmas[1:] / sigmas[:-1]
    np.testing.assert_allclose(ratios, np.full(6, (0.01 / 50) ** (1 / 6)), rtol=1e-12)
    np.testing.assert_allclose(sigmas, edm_sigmas(7, 0.01, 50, rho=1e6), rtol=1e-4)


@pytest.mark.parametrize(
    ("grid", "arguments", "message"),
    [
        (exponential_sigmas, {"n_steps": 0}, "n_steps must be an int of at least 1, got 0"),
        (exponential_sigmas, {"n_steps": 3, "sigma_min": 0}, "0 < sigma_min.*the step to 0"),
        (flow_sigmas, {"n_steps": 3, "sigma_max": np.inf}, "< inf"),
        (flow_sigmas, {"n_steps": 3, "shift": 0.0}, "shift must be positive"),
        (flow_sigmas, {"n_steps": 3, "shift": np.inf}, "shift must be positive and finite"),
        (flow_sigmas, {"n_steps": 3, "shift": "3"}, "shift must be positive"),
        (vp_sigmas, {"n_steps": 1001}, "n_steps must be an int from 1 to 1000, got 1001"),
        (vp_sigmas, {"n_steps": 2.0}, "n_steps must be an int"),
        (vp_sigmas, {"n_steps": 5, "schedule": "sine"}, "'linear' or 'cosine', got 'sine'"),
    ],
)
def test_bad_parameters_of_grids(grid, arguments, message):
    with pytest.raises(ValueError, match=message):
        grid(**arguments)


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


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(euler, 1), (ddim, 1), (heun, 2), (partial(edm, s_churn=0), 2), (dpmpp_2m, 2)],
)
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


@pytest.mark.parametrize("sampler", [euler, heun, ddim, partial(edm, s_churn=0), dpmpp_2m])
def test_a_sampler_yields_every_state_and_ends_with_a_denoised_image(sampler):
    calls = []

    def denoise(z, sigma):
        calls.append(sigma)
        return 0.25 * z + 1

    z = torch.ones(2, 3)
    states = list(sampler(denoise, z, [4.0, 2.0, 1.0]))
    assert len(states) == 3
    one_call = sampler in (euler, ddim, dpmpp_2m)
    assert calls == [4, 2, 1] if one_call else [4, 2, 2, 1, 1]
    assert torch.allclose(states[-1], 0.25 * states[-2] + 1)
    assert torch.equal(z, torch.ones(2, 3))
    # one Euler step by hand: (z - x0) shrinks by the ratio of the sigmas
    if one_call:
        assert torch.allclose(states[0], 1.25 + 0.5 * (z - 1.25))


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_a_last_zero_and_no_level_at_all(sampler):
    z = torch.full((2, 3), 4.0)
    options = {} if sampler not in (ddim, edm) else {"noise": torch.ones_like}
    plain = list(sampler(gaussian_denoiser(0.5), z, [4.0, 2.0, 1.0], **options))
    with_zero = list(sampler(gaussian_denoiser(0.5), z, np.array([4.0, 2, 1, 0]), **options))
    assert torch.equal(torch.stack(plain), torch.stack(with_zero))
    assert list(sampler(gaussian_denoiser(0.5), z, [])) == []


def test_dpmpp_2m_by_the_paper():
    """Lu et al. 2022, Alg. 2, in their notation: alpha, sigma, lambda, h and r of VP images."""
    levels = [9.0, 4.0, 1.5, 0.7, 0.2]

    def denoise(z, sigma):
        return torch.tanh(z / (1 + sigma))

    alpha = [1 / math.sqrt(1 + s**2) for s in levels]
    sigma = [s / math.sqrt(1 + s**2) for s in levels]
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]

    def x_theta(x, i):
        return denoise(x / alpha[i], levels[i])

    x = torch.tensor([9.0, -3.0, 0.5], dtype=torch.float64) * alpha[0]
    buffer, expected = x_theta(x, 0), []
    h = lam[1] - lam[0]
    x = sigma[1] / sigma[0] * x - alpha[1] * math.expm1(-h) * buffer
    expected.append(x / alpha[1])
    for i in range(2, 5):
        newer = x_theta(x, i - 1)
        h_before, h = h, lam[i] - lam[i - 1]
        r = h_before / h
        d = (1 + 1 / (2 * r)) * newer - 1 / (2 * r) * buffer
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * math.expm1(-h) * d
        buffer = newer
        expected.append(x / alpha[i])
    expected.append(denoise(expected[-1], levels[-1]))
    states = dpmpp_2m(denoise, torch.tensor([9.0, -3.0, 0.5], dtype=torch.float64), levels)
    for state, other in zip(states, expected, strict=True):
        torch.testing.assert_close(state, other, rtol=0, atol=1e-12)


def test_ancestral_steps_are_the_posterior_of_ddpm():
    """Ho et al. 2020, Eq. 7: mean and variance of q(x_{t-1} | x_t, x_0), in VP notation."""
    levels, x0 = [3.0, 1.2, 0.4], torch.tensor([0.3, -0.8], dtype=torch.float64)
    draws = iter(torch.tensor([[0.7, -1.1], [-0.2, 0.4]], dtype=torch.float64))
    z = start = torch.tensor([2.0, -4.0], dtype=torch.float64)
    states = ddim(lambda z, sigma: x0, start, levels, eta=1.0, noise=lambda z: next(draws))
    eps = torch.tensor([[0.7, -1.1], [-0.2, 0.4]], dtype=torch.float64)
    for (sigma, target), e in zip(pairwise(levels), eps, strict=True):
        bar, bar_next = 1 / (1 + sigma**2), 1 / (1 + target**2)  # of x_t and x_{t-1}
        alpha = bar / bar_next
        x_t = math.sqrt(bar) * z
        mean = math.sqrt(bar_next) * (1 - alpha) / (1 - bar) * x0
        mean = mean + math.sqrt(alpha) * (1 - bar_next) / (1 - bar) * x_t
        variance = (1 - bar_next) / (1 - bar) * (1 - alpha)
        z = (mean + math.sqrt(variance) * e) / math.sqrt(bar_next)
        torch.testing.assert_close(next(states), z, rtol=0, atol=1e-12)
    torch.testing.assert_close(next(states), x0)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_added_noise_keeps_the_noise_level(eta):
    """Images x0 + sigma eps stay of this kind: their noise has the level's standard deviation."""
    torch.manual_seed(0)
    n, x0 = 100_000, 0.25
    levels = [5.0, 2.0, 0.5]
    z = x0 + 5 * torch.randn(n, dtype=torch.float64)
    states = ddim(lambda z, sigma: torch.full_like(z, x0), z, levels, eta=eta)
    for state, level in zip(states, [2.0, 0.5, 0.0], strict=True):
        assert abs(state.mean() - x0) < 0.02
        assert abs(state.std() - level) < 0.01 * level + 1e-12


def test_edm_by_the_paper():
    """Karras et al. 2022, Alg. 2, line by line."""
    levels, s_churn, s_tmin, s_tmax, s_noise = [20.0, 6.0, 2.0, 0.6, 0.1], 1.5, 0.3, 10.0, 1.007
    n = len(levels)
    generator = torch.Generator().manual_seed(0)
    eps = [torch.randn(3, generator=generator, dtype=torch.float64) for _ in levels]

    def denoise(z, sigma):
        return torch.tanh(z / (1 + sigma))

    x = torch.tensor([20.0, -9.0, 1.0], dtype=torch.float64)
    expected = []
    t = [*levels, 0.0]
    draws = iter(eps)
    for i in range(n):
        gamma = min(s_churn / n, math.sqrt(2) - 1) if s_tmin <= t[i] <= s_tmax else 0
        t_hat = t[i] + gamma * t[i]
        if gamma:
            x = x + math.sqrt(t_hat**2 - t[i] ** 2) * s_noise * next(draws)
        d = (x - denoise(x, t_hat)) / t_hat
        x_next = x + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_prime = (x_next - denoise(x_next, t[i + 1])) / t[i + 1]
            x_next = x + (t[i + 1] - t_hat) * (d / 2 + d_prime / 2)
        x = x_next
        expected.append(x)
    draws = iter(eps)
    states = edm(
        denoise,
        torch.tensor([20.0, -9.0, 1.0], dtype=torch.float64),
        levels,
        s_churn=s_churn,
        s_min=s_tmin,
        s_max=s_tmax,
        s_noise=s_noise,
        noise=lambda z: next(draws),
    )
    for state, other in zip(states, expected, strict=True):
        torch.testing.assert_close(state, other, rtol=0, atol=1e-12)


def final_variance(sampler, s, sigmas):
    """Variance of samples of data N(0, s^2): each step is a linear map of z and of the noise."""
    variance = s**2 + sigmas[0] ** 2
    for sigma, target in pairwise([*sigmas, 0.0]):
        one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        options = {"n_steps": len(sigmas)} if sampler is edm else {}
        step = partial(sampler, gaussian_denoiser(s), sigmas=[sigma, target], **options)
        of_z = float(next(step(z=one, noise=torch.zeros_like)))
        of_noise = float(next(step(z=none, noise=torch.ones_like)))
        variance = of_z**2 * variance + of_noise**2
    return variance


@pytest.mark.parametrize(("sampler", "order"), [(partial(ddim, eta=1.0), 1), (edm, 2)])
def test_order_of_convergence_of_the_distribution(sampler, order):
    """Without randomness: the variance of samples of Gaussian data tends to that of the data."""
    steps = np.array([200, 400, 800])
    errors = []
    for n_steps in steps:
        sigmas = edm_sigmas(n_steps, 1e-4, 20.0).tolist()
        errors.append(abs(final_variance(sampler, 0.5, sigmas) - 0.25))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.15
    assert errors[-1] < (0.01 if order == 1 else 3e-4)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_bad_eta(eta):
    with pytest.raises(ValueError, match="eta must be between 0"):
        next(ddim(gaussian_denoiser(1), torch.ones(1), [1.0], eta=eta))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"s_noise": math.nan}, "s_noise must be non-negative"),
        ({"s_noise": -1.0}, "s_noise must be non-negative"),
        ({"s_min": 5.0, "s_max": 1.0}, "must be a range of noise levels, got 5.0 and 1.0"),
        ({"s_min": math.nan}, "must be a range of noise levels"),
    ],
)
def test_bad_noise_of_edm(options, match):
    with pytest.raises(ValueError, match=match):
        next(edm(gaussian_denoiser(1), torch.ones(1), [1.0], **options))


@pytest.mark.parametrize("s_churn", [-0.1, math.inf, math.nan])
def test_bad_churn(s_churn):
    with pytest.raises(ValueError, match="s_churn must be non-negative"):
        next(edm(gaussian_denoiser(1), torch.ones(1), [1.0], s_churn=s_churn))


# ------------------------------------------------------------- samplers within denoisers

STOCHASTIC = [partial(ddim, eta=1.0), "edm"]


@pytest.fixture(scope="module")
def model(digits):
    return PSPCDenoiser(3).fit(digits[:60] / 127.5 - 1)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_noise_of_the_steps_depends_on_seed_and_number_only(model, sampler):
    before = torch.get_rng_state()
    options = {"sampler": sampler, "n_steps": 6}
    four = model.sample(4, random_state=3, **options)
    np.testing.assert_array_equal(model.sample(4, random_state=3, **options), four)
    few = model.sample(2, random_state=3, **options)
    np.testing.assert_allclose(few, four[:2], rtol=0, atol=1e-9)
    assert np.abs(model.sample(4, random_state=4, **options) - four).max() > 0.1
    start = np.ones((2, 1, 8, 8))
    alike = model.sample(initial=start, random_state=0, **options)
    assert np.abs(alike[0] - alike[1]).max() > 0.1  # each sample has noise of its own
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_of_the_steps_is_standard_normal_and_never_drawn_twice(model):
    drawn = []

    def sampler(denoise, z, sigmas, *, noise):
        for _ in sigmas:
            drawn.extend([noise(z), noise(z)])
            yield denoise(z, 1.0)

    model.sample(200, random_state=0, n_steps=3, sampler=sampler)
    noise = torch.stack([*drawn, draw_noise((1, 8, 8), 200, 0)]).flatten(1)
    assert noise.dtype == torch.float64
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    correlations = np.corrcoef(noise)[np.triu_indices(7, 1)]
    assert np.abs(correlations).max() < 0.04


def test_noise_that_a_partial_sets_is_kept(model):
    sampler = partial(ddim, eta=1.0, noise=torch.zeros_like)
    seeds = [
        model.sample(2, initial=np.ones((2, 1, 8, 8)), sampler=sampler, random_state=s)
        for s in (0, 1)
    ]
    np.testing.assert_array_equal(*seeds)


@pytest.mark.parametrize("sampler", [*SAMPLERS, partial(ddim, eta=0.7)])
@pytest.mark.parametrize("stop_after", range(1, 6))
def test_an_interrupted_run_continues_to_equal_samples(model, sampler, stop_after):
    options = {"sampler": sampler}
    sigmas = [20.0, 7.0, 2.0, 0.5, 0.1]
    whole, states = model.sample(
        3, random_state=5, sigmas=sigmas, return_trajectory=True, **options
    )

    def interrupt(step, sigma, z):
        if step == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(SamplingInterrupted) as caught:
        model.sample(3, random_state=5, sigmas=sigmas, callback=interrupt, **options)
    stop = pickle.loads(pickle.dumps(caught.value))
    assert stop.n_steps == 5 - stop_after
    assert stop.sigmas == tuple(sigmas[stop_after:])
    np.testing.assert_array_equal(stop.z, states[stop_after])
    rest, later = model.sample(initial=stop, return_trajectory=True, **options)
    np.testing.assert_array_equal(rest, whole)
    np.testing.assert_array_equal(later, states[stop_after:])


def test_an_interrupt_within_a_step_of_a_multistep_sampler(model):
    whole = model.sample(2, random_state=0, n_steps=6, sampler="dpmpp_2m")
    for call in range(1, 7):
        calls = []

        def interrupted(denoise, z, sigmas, *, previous=None, calls=calls, call=call):
            def counting(z, sigma):
                calls.append(sigma)
                x0 = denoise(z, sigma)
                if len(calls) == call:
                    raise KeyboardInterrupt
                return x0

            return dpmpp_2m(counting, z, sigmas, previous=previous)

        with pytest.raises(SamplingInterrupted) as caught:
            model.sample(2, random_state=0, n_steps=6, sampler=interrupted)
        assert caught.value.n_steps == 7 - call
        rest = model.sample(initial=caught.value, sampler="dpmpp_2m")
        np.testing.assert_array_equal(rest, whole)


def test_a_callback_that_raises_keeps_the_trajectory(model):
    _, states = model.sample(2, random_state=0, n_steps=6, return_trajectory=True)

    class Enough(Exception):
        pass

    def stop(step, sigma, z):
        if step == 4:
            raise Enough("the samples are good enough")

    with pytest.raises(Enough, match="good enough") as caught:
        model.sample(2, random_state=0, n_steps=6, return_trajectory=True, callback=stop)
    kept = caught.value.sampling
    np.testing.assert_array_equal(kept.trajectory, states[:5])
    np.testing.assert_array_equal(kept.z, states[4])
    np.testing.assert_array_equal(model.sample(initial=kept), states[-1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_is_the_denoised_image(sampler):
    model = GaussianDenoiser().fit(np.linspace(-1, 1, 24).reshape(6, 1, 2, 2))
    noise = 7.0 * draw_noise((1, 2, 2), 2, 0).numpy()
    options = {
        "random_state": 0,
        "sampler": sampler if sampler != "edm" else partial(edm, s_churn=0),
    }
    samples = model.sample(2, sigmas=[7.0], **options)
    np.testing.assert_array_equal(samples, model.denoise(noise, 7.0))
    np.testing.assert_array_equal(model.sample(2, n_steps=1, sigma_max=7, **options), samples)


def test_a_grid_of_noise_levels(model):
    plain = model.sample(2, random_state=0, n_steps=9)
    for sigmas in (edm_sigmas(9), [*edm_sigmas(9), 0.0], torch.tensor(edm_sigmas(9))):
        np.testing.assert_array_equal(model.sample(2, random_state=0, sigmas=sigmas), plain)
    reached = []
    model.sample(
        2, sigmas=[50.0, 1.0, 0.0], random_state=0, callback=lambda *each: reached.append(each[:2])
    )
    assert reached == [(1, 1.0), (2, 0.0)]
    by_rho = model.sample(2, random_state=0, n_steps=9, rho=3.0)
    expected = model.sample(2, random_state=0, sigmas=edm_sigmas(9, rho=3.0))
    np.testing.assert_array_equal(by_rho, expected)
    assert np.abs(by_rho - plain).max() > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigmas": [1.0, 2.0]}, "sigmas must decrease, got .*; sort them from large to small"),
        ({"sigmas": [2.0, 1.0, 1.0]}, "sigmas must be distinct"),
        ({"sigmas": [2.0, 0.0, 1.0]}, "sigmas must decrease"),
        ({"sigmas": [np.inf, 1.0]}, "must be finite, got inf.*time 0 of flow matching"),
        ({"sigmas": [2.0, np.nan]}, "sigmas must be finite"),
        ({"sigmas": [2.0, -1.0]}, "non-negative"),
        ({"sigmas": [0.0]}, "positive noise level, got only 0"),
        ({"sigmas": []}, "at least one noise level"),
        ({"sigmas": 3.0}, "a sequence of at least one"),
        ({"sigmas": "edm"}, "a sequence of at least one"),
        ({"sigmas": [1e300, 1.0]}, "a noise level of sigmas must be between"),
        ({"sigmas": [2.0, 1.0], "n_steps": 3}, "n_steps is 3, but sigmas has 2 noise levels"),
        ({"sigmas": [2.0, 1.0], "n_steps": 18}, "n_steps is 18, but sigmas has 2 noise levels"),
        ({"sigmas": [2.0, 1.0], "rho": 7.0}, "omit sigma_min, sigma_max and rho"),
        ({"sigmas": [2.0, 1.0], "sigma_max": 3.0}, "omit sigma_min, sigma_max and rho"),
        ({"sigmas": [2.0, 1.0], "rho": 3.0}, "omit sigma_min, sigma_max and rho"),
        ({"rho": 0.0}, "rho must be positive"),
        ({"sigma_min": 0.0}, "0 < sigma_min.*samplers append the step to 0"),
    ],
)
def test_bad_noise_levels_of_a_run(digits, arguments, message):
    model = GaussianDenoiser().fit((digits[:60] / 127.5 - 1).astype(np.float32))
    with pytest.raises(ValueError, match=message):
        model.sample(2, **arguments)


def test_an_interrupted_run_has_its_own_noise_levels(model):
    stop = SamplingInterrupted(np.ones((2, 1, 8, 8)), [2.0, 1.0], random_state=0)
    for arguments in ({"sigma_max": 3.0}, {"n_steps": 9}, {"sigmas": [2.0, 1.0]}, {"rho": 3.0}):
        with pytest.raises(ValueError, match=r"initial, an interrupted run,.*omit"):
            model.sample(initial=stop, **arguments)
    assert model.sample(initial=stop, n_steps=2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_neighbours_of_the_step_before_serve_under_added_noise(digits, sampler):
    """With a tolerance, neighbours of the step before are looked at first."""
    X = digits[:300] / 127.5 - 1
    exact, near = (EmpiricalDenoiser(tol=tol).fit(X) for tol in (None, 1e-6))
    options = {"n": 4, "random_state": 0, "sampler": sampler}
    np.testing.assert_allclose(near.sample(**options), exact.sample(**options), rtol=0, atol=1e-4)


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
