"""The notations against closed forms and one another."""

import numpy as np
import pytest
import torch

from skpspc import EmpiricalDenoiser
from skpspc.sampling import convert

PAIRS = {
    "eps": (convert.eps_from_x0, convert.x0_from_eps),
    "score": (convert.score_from_x0, convert.x0_from_score),
    "v": (convert.v_from_x0, convert.x0_from_v),
    "velocity": (convert.velocity_from_x0, convert.x0_from_velocity),
}
SIGMAS = [0.01, 1.0, 80.0, np.array([0.05, 0.7, 3.0, 40.0])]


@pytest.fixture
def images(rng):
    return rng.standard_normal((4, 2, 3, 3)), rng.standard_normal((4, 2, 3, 3))


def along(sigma):
    return sigma if np.ndim(sigma) == 0 else sigma[:, None, None, None]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_closed_forms(images, sigma):
    x0, eps = images
    s = along(sigma)
    z = x0 + s * eps
    alpha_bar, t = 1 / (1 + s**2), 1 / (1 + s)
    np.testing.assert_allclose(convert.eps_from_x0(x0, z, sigma), eps, atol=1e-11)
    np.testing.assert_allclose(convert.score_from_x0(x0, z, sigma), -eps / s, rtol=1e-9, atol=1e-9)
    v = np.sqrt(alpha_bar) * eps - np.sqrt(1 - alpha_bar) * x0
    np.testing.assert_allclose(convert.v_from_x0(x0, z, sigma), v, atol=1e-11)
    np.testing.assert_allclose(convert.velocity_from_x0(x0, z, sigma), x0 - eps, atol=1e-11)
    vp = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps
    np.testing.assert_allclose(convert.vp_from_ve(z, sigma), vp, atol=1e-12)
    np.testing.assert_allclose(convert.flow_from_ve(z, sigma), t * x0 + (1 - t) * eps, atol=1e-12)
    np.testing.assert_allclose(convert.ve_from_vp(vp, sigma), z, rtol=1e-12)
    np.testing.assert_allclose(convert.ve_from_flow(t * x0 + (1 - t) * eps, sigma), z, rtol=1e-12)


def test_velocity_is_the_derivative_of_the_path(images):
    x0, eps = images
    t, step = 0.3, 1e-6
    path = [s * x0 + (1 - s) * eps for s in (t - step, t, t + step)]
    sigma = convert.sigma_from_flow_time(t)
    velocity = convert.velocity_from_x0(x0, convert.ve_from_flow(path[1], sigma), sigma)
    np.testing.assert_allclose(velocity, (path[2] - path[0]) / (2 * step), atol=1e-8)
    # and (D - x_t) / (1 - t)
    np.testing.assert_allclose(velocity, (x0 - path[1]) / (1 - t), atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trips_in_both_containers(images, name, sigma, dtype):
    there, back = PAIRS[name]
    x0, eps = (part.astype(dtype) for part in images)
    z = (x0 + along(sigma) * eps).astype(dtype)
    answer = there(x0, z, sigma)
    assert isinstance(answer, np.ndarray)
    assert answer.dtype == dtype
    # what is lost in (z - x0) / sigma comes back multiplied by sigma
    tolerance = 50 * np.finfo(dtype).eps * np.max(sigma)
    np.testing.assert_allclose(
        back(answer, z, sigma), x0, atol=tolerance + 1e-6 * (dtype != np.float64)
    )
    given = torch.as_tensor(sigma) if np.ndim(sigma) else sigma
    tensor = there(torch.from_numpy(x0), torch.from_numpy(z), given)
    assert tensor.dtype == torch.from_numpy(x0).dtype
    np.testing.assert_allclose(tensor, answer, rtol=1e-5, atol=1e-6)
    as_list = sigma.tolist() if np.ndim(sigma) else sigma
    np.testing.assert_array_equal(there(x0, z, as_list), answer)


EVERY = [
    convert.vp_from_ve,
    convert.ve_from_vp,
    convert.flow_from_ve,
    convert.ve_from_flow,
    *(lambda z, sigma, f=function: f(z, z, sigma) for pair in PAIRS.values() for function in pair),
]
DIVIDE = EVERY[4::2]


@pytest.mark.parametrize("function", EVERY)
def test_images_of_ints(function, rng):
    z, sigma = rng.integers(-5, 6, (3, 1, 2, 2)), np.array([0.5, 1.5, 2.5])
    expected = function(z.astype(float), sigma)
    np.testing.assert_allclose(function(z, sigma), expected, atol=1e-14)
    for given in (sigma, torch.from_numpy(sigma)):
        got = function(torch.from_numpy(z), given)
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", EVERY)
def test_levels_that_are_none(images, function):
    for z in (images[0], torch.from_numpy(images[0])):
        for wrong in (np.ones(3), torch.ones(3), [1.0, 2.0], np.ones((1, 4))):
            with pytest.raises(ValueError, match=r"sigma must be one float or one per image"):
                function(z, wrong)
        for wrong in (-0.1, [0.1, 0.2, -0.3, 0.4], float("nan"), torch.tensor(-1.0)):
            with pytest.raises(ValueError, match=r"sigma must be non-negative"):
                function(z, wrong)
        with pytest.raises(ValueError, match="sigma must be finite"):
            function(z, [0.1, 0.2, np.inf, 0.4])
        for zero in (0.0, [0.1, 0.2, 0.0, 0.4]):
            if function in DIVIDE:
                with pytest.raises(ValueError, match="sigma must be positive here, got 0"):
                    function(z, zero)
            else:
                assert np.isfinite(np.asarray(function(z, zero))).all()


def test_levels():
    for sigma in (0.0, 0.3, 7.0, np.array([0.0, 1.0]), torch.tensor([0.2, 5.0]), [1.0, 2.0]):
        there = convert.alpha_bar_from_sigma(sigma)
        np.testing.assert_allclose(convert.sigma_from_alpha_bar(there), sigma, rtol=1e-6)
        there = convert.flow_time_from_sigma(sigma)
        np.testing.assert_allclose(convert.sigma_from_flow_time(there), sigma, rtol=1e-6)
    for function, name in (
        (convert.sigma_from_alpha_bar, "alpha_bar"),
        (convert.sigma_from_flow_time, "t"),
    ):
        for bad in (0.0, -0.1, 1.5, float("nan"), [0.5, 0.0], torch.tensor([2.0])):
            with pytest.raises(ValueError, match=rf"{name} must be in \(0, 1\]"):
                function(bad)

    for function in (convert.alpha_bar_from_sigma, convert.flow_time_from_sigma):
        assert function(np.inf) == 0
        for bad in (-0.1, float("nan"), [0.5, -1.0], torch.tensor([-2.0])):
            with pytest.raises(ValueError, match="sigma must be non-negative"):
                function(bad)


def test_score_of_a_denoiser_is_the_gradient(rng):
    """The empirical denoiser: by finite differences of log p."""
    X, z, sigma = rng.standard_normal((9, 5)), rng.standard_normal(5), 0.6
    model = EmpiricalDenoiser().fit(X)
    score = convert.score_from_x0(model.denoise(z[None], sigma), z[None], sigma)[0]
    shifts = 1e-5 * np.eye(5)
    slope = model.score_samples(z + shifts, sigma) - model.score_samples(z - shifts, sigma)
    np.testing.assert_allclose(score, slope / 2e-5, atol=1e-7)


def test_nearest_step():
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    steps = convert.NearestStep(alpha_bar)
    levels = convert.sigma_from_alpha_bar(alpha_bar)
    assert steps(torch.from_numpy(levels)).tolist() == list(range(1000))
    assert steps(torch.tensor([0.0, 1e9])).tolist() == [0, 999]
    assert len(repr(steps)) < 60
    with pytest.raises(ValueError, match="one number for each step"):
        convert.NearestStep([])
    with pytest.raises(ValueError, match=r"alpha_bar must be in \(0, 1\]"):
        convert.NearestStep([0.5, 0.0])
