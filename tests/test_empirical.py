"""The empirical denoiser against the slow formula, KernelDensity and calculus."""

import numpy as np
import pytest
from hypothesis import given
from scipy.special import logsumexp, softmax
from sklearn.neighbors import KernelDensity

import generators
import oracle
from helpers import finite_difference_gradient
from skpspc import EmpiricalDenoiser


@given(generators.cases())
def test_float64_oracle(device, case):
    expected = oracle.collection(case.Z, case.X, case.sigma, oracle.whole_mask(case.shape))
    posterior = EmpiricalDenoiser(device=device).fit(case.X).posterior(case.Z, case.sigma)
    np.testing.assert_allclose(
        posterior.mean.reshape(len(case.Z), -1), expected.mean, rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        posterior.log_evidence, expected.log_evidence[:, 0], rtol=1e-12, atol=1e-9
    )
    np.testing.assert_allclose(
        posterior.effective_sample_size, expected.effective_sample_size[:, 0], rtol=1e-8
    )
    assert (posterior.error_bound == 0).all()


@given(generators.known_posteriors())
def test_closed_form(known):
    X, Z, sigma, weight = known
    posterior = EmpiricalDenoiser().fit(X).posterior(Z, sigma)
    np.testing.assert_allclose(posterior.mean[0], np.tensordot(weight, X, 1), atol=1e-12)
    np.testing.assert_allclose(posterior.effective_sample_size[0], 1 / (weight**2).sum())


@pytest.mark.parametrize("source", ["training", "held out"])
@pytest.mark.parametrize("sigma", [1e-3, 5e-3, 0.02, 0.1, 0.5, 2.0, 10.0, 80.0])
def test_float32_oracle(device, photos, rng, source, sigma):
    X = photos[:300]
    clean = oracle.as_float(X[:4] if source == "training" else photos[300:304])
    Z = (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)
    expected = oracle.collection(Z, X, sigma, oracle.whole_mask(X.shape[1:]))
    model = EmpiricalDenoiser(device=device).fit(X)
    posterior = model.posterior(Z.reshape(4, *X.shape[1:]), sigma)
    error = np.abs(posterior.mean.reshape(4, -1) - expected.mean).max()
    assert posterior.mean.dtype == np.float32
    assert error < 1e-5
    np.testing.assert_allclose(posterior.log_evidence, expected.log_evidence[:, 0], rtol=1e-5)


def test_float32_of_many_equal_images(device, rng):
    """Rounding errors of equal terms have one sign, and do not average out."""
    X = rng.uniform(-1, 1, (3, 1, 7, 4)).astype(np.float32)[rng.integers(3, size=5000)]
    model = EmpiricalDenoiser(device=device).fit(X)
    mean, exact = (model.denoise(X[:1].astype(dtype), 1.0) for dtype in (np.float32, np.float64))
    assert np.abs(mean - exact).max() < 5e-6
    ones = np.ones_like(X[:1])
    product, exact = (model.vjp(X[:1].astype(d), 1.0, ones.astype(d)) for d in ("f4", "f8"))
    assert np.abs(product - exact).max() < 5e-6


@pytest.mark.parametrize("sigma", [1e-3, 5e-3, 0.02, 0.1])
def test_float32_with_near_ties_among_large_distances(sigma):
    # Halfway between two images, far from both: |z|^2 + |x|^2 - 2 z.x would be all rounding
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (50, 3072)).astype(np.float32)
    X[1] = X[0]
    X[1, :40] += 5 * sigma**2 * rng.standard_normal(40).astype(np.float32)
    Z = (X[:2] + 0.05 * rng.standard_normal((2, 3072))).astype(np.float32)
    expected = oracle.collection(Z, X, sigma, oracle.whole_mask((3072,)))
    assert ((expected.weights > 0.01) & (expected.weights < 0.99)).any()
    posterior = EmpiricalDenoiser().fit(X).posterior(Z, sigma)
    np.testing.assert_allclose(posterior.mean, expected.mean, rtol=0, atol=2e-7)
    np.testing.assert_allclose(
        posterior.effective_sample_size, expected.effective_sample_size[:, 0], rtol=1e-5
    )


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_log_evidence_is_kernel_density(rng, sigma):
    X = rng.standard_normal((40, 6))
    Z = X[:15] + sigma * rng.standard_normal((15, 6))
    weight = rng.uniform(0, 2, 40)
    ours = EmpiricalDenoiser(sigma=sigma).fit(X, sample_weight=weight).score_samples(Z)
    density = KernelDensity(bandwidth=sigma, rtol=0, atol=0).fit(X, sample_weight=weight)
    np.testing.assert_allclose(ours, density.score_samples(Z), rtol=1e-9)
    uniform = KernelDensity(bandwidth=sigma, rtol=0, atol=0).fit(X).score_samples(Z)
    np.testing.assert_allclose(
        EmpiricalDenoiser().fit(X).score_samples(Z, sigma), uniform, rtol=1e-9
    )


def test_log_evidence_integrates_to_one():
    X = np.array([[-0.7], [0.1], [0.2]])
    grid = np.linspace(-8, 8, 4001)[:, None]
    log_p = EmpiricalDenoiser().fit(X, sample_weight=[1, 2, 5]).score_samples(grid, 0.3)
    np.testing.assert_allclose(logsumexp(log_p) + np.log(grid[1, 0] - grid[0, 0]), 0, atol=1e-9)


@given(generators.cases(low=0.1, high=10))
def test_tweedie(case):
    """D = z + sigma^2 grad log p."""
    model = EmpiricalDenoiser(image_shape=case.shape).fit(case.X.reshape(len(case.X), -1))
    z, sigma = case.Z[0].ravel(), case.sigma[0]
    gradient = finite_difference_gradient(
        lambda rows: model.score_samples(rows, sigma), z, step=1e-4 * sigma
    )
    np.testing.assert_allclose(
        model.denoise(z[None], sigma)[0], z + sigma**2 * gradient, atol=1e-5 * max(1, sigma)
    )


def test_weights_enter_the_prior(rng):
    X, Z = rng.standard_normal((12, 5)), rng.standard_normal((4, 5))
    weight = rng.uniform(0, 3, 12) * (rng.random(12) < 0.7)
    expected = oracle.collection(Z, X, 0.8, oracle.whole_mask((5,)), sample_weight=weight)
    posterior = EmpiricalDenoiser().fit(X, sample_weight=weight).posterior(Z, 0.8)
    np.testing.assert_allclose(posterior.mean, expected.mean, atol=1e-12)
    np.testing.assert_allclose(posterior.log_evidence, expected.log_evidence[:, 0])
    np.testing.assert_allclose(
        posterior.effective_sample_size, expected.effective_sample_size[:, 0]
    )


@pytest.mark.parametrize(("side", "sigma"), [(128, 0.02), (256, 0.005), (32, 0.001)])
def test_images_nearly_alike(side, sigma):
    """All terms of the products have one sign here, and their rounding errors add up."""
    rng = np.random.default_rng(side)
    base = rng.integers(2, 254, (1, 3, side, side))
    changed = rng.random((30, 3, side, side)) < 0.004
    X = (base + changed * rng.choice([-1, 1], changed.shape)).astype(np.uint8)
    Z = (base / 127.5 - 1 + sigma * rng.standard_normal(base.shape)).astype(np.float32)
    posterior = EmpiricalDenoiser().fit(X).posterior(Z, sigma)
    squares = np.square(Z.astype(np.float64) - (X / 127.5 - 1)).sum((1, 2, 3))
    weight = softmax(-squares / (2 * sigma**2))
    np.testing.assert_allclose(
        posterior.mean[0], np.tensordot(weight, X / 127.5 - 1, 1), rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        posterior.effective_sample_size, 1 / np.square(weight).sum(), rtol=1e-3
    )


def test_no_noise_far_from_images_that_hardly_differ(rng):
    """The squared distance, 1e30 in units of the noise, leaves no digit for the differences."""
    for _ in range(50):
        X, Z = 1e-14 * rng.standard_normal((9, 3)).round(1), rng.standard_normal((5, 3))
        mean = EmpiricalDenoiser().fit(X).denoise(Z, 0.0)
        assert np.abs(mean).max() <= (1 + 1e-12) * np.abs(X).max()
