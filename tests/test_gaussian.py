"""The Gaussian denoiser against the slow formula, scipy, scikit-learn and calculus."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn import config_context
from sklearn.covariance import ledoit_wolf, oas, shrunk_covariance
from sklearn.exceptions import NotFittedError

import generators
import oracle
from helpers import finite_difference_gradient
from skpspc import EmpiricalDenoiser, GaussianDenoiser
from skpspc.support import covariance


def moments(X, sample_weight=None, shrinkage=0.0, rank=None):
    """Mean and covariance by the textbook, in float64."""
    x = oracle.as_float(X)
    mean = np.average(x, axis=0, weights=sample_weight)
    cov = np.cov(x.T, aweights=sample_weight, ddof=0).reshape(x.shape[1], x.shape[1])
    cov = shrunk_covariance(cov, shrinkage) if shrinkage else cov
    if rank is not None:
        values, vectors = np.linalg.eigh(cov)
        values[: max(0, len(values) - rank)] = 0
        cov = (vectors * values) @ vectors.T
    return mean, cov


def wiener_oracle(Z, sigma, mean, cov):
    """mu + Sigma (Sigma + sigma^2)^-1 (z - mu), image by image."""
    z = oracle.as_float(Z)
    out = []
    for row, level in zip(z, np.broadcast_to(sigma, len(z)), strict=True):
        out.append(mean + cov @ np.linalg.solve(cov + level**2 * np.eye(len(mean)), row - mean))
    return np.array(out).reshape(np.shape(Z))


@given(generators.cases(low=0.02), st.sampled_from([0.0, 0.3, 1.0]), st.booleans())
def test_float64_oracle(device, case, shrinkage, weighted):
    weight = np.arange(len(case.X)) + 1.0 if weighted else None
    model = GaussianDenoiser(shrinkage=shrinkage, device=device)
    posterior = model.fit(case.X, sample_weight=weight).posterior(case.Z, case.sigma)
    mean, cov = moments(case.X, weight, shrinkage)
    expected = wiener_oracle(case.Z, case.sigma, mean, cov)
    np.testing.assert_allclose(posterior.mean, expected, rtol=0, atol=1e-9)
    for z, sigma, evidence in zip(case.Z, case.sigma, posterior.log_evidence, strict=True):
        normal = multivariate_normal(mean, cov + sigma**2 * np.eye(len(mean)))
        assert evidence == pytest.approx(normal.logpdf(z.ravel()), rel=1e-8, abs=1e-7)


def test_rank_keeps_the_directions_of_largest_variance(digits, device):
    X, Z = digits[:200], digits[200:204] / 127.5 - 1 + 0.3
    for rank in (1, 10, 64, 1000):
        model = GaussianDenoiser(rank, device=device).fit(X)
        mean, cov = moments(X, rank=rank)
        np.testing.assert_allclose(
            model.denoise(Z, 0.4), wiener_oracle(Z, 0.4, mean, cov), atol=1e-10
        )
        assert len(model.components_) == min(rank, np.linalg.matrix_rank(moments(X)[1]))
    # dropped after shrinkage, and nothing is left across
    model = GaussianDenoiser(5, shrinkage=0.2).fit(X)
    mean, cov = moments(X, shrinkage=0.2, rank=5)
    np.testing.assert_allclose(model.denoise(Z, 0.4), wiener_oracle(Z, 0.4, mean, cov), atol=1e-10)
    assert model.residual_variance_ == 0


def test_attributes(digits):
    model = GaussianDenoiser(shrinkage=0.1).fit(digits)
    mean, cov = moments(digits, shrinkage=0.1)
    np.testing.assert_allclose(model.mean_, mean, atol=1e-13)
    gram = model.components_ @ model.components_.T
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-12)
    across = np.eye(64) - model.components_.T @ model.components_
    rebuilt = (model.components_.T * model.eigenvalues_) @ model.components_
    np.testing.assert_allclose(rebuilt + model.residual_variance_ * across, cov, atol=1e-12)
    assert (np.diff(model.eigenvalues_) <= 0).all()
    assert model.shrinkage_ == 0.1
    assert isinstance(GaussianDenoiser().fit(torch.from_numpy(digits)).mean_, torch.Tensor)
    for name in ("mean_", "components_", "eigenvalues_", "residual_variance_", "shrinkage_"):
        with pytest.raises(NotFittedError):
            getattr(GaussianDenoiser(), name)


@pytest.mark.parametrize("n", [30, 500])  # fewer and more images than values
@pytest.mark.parametrize(("name", "function"), [("ledoit_wolf", ledoit_wolf), ("oas", oas)])
def test_estimated_shrinkage_is_that_of_scikit_learn(digits, name, function, n):
    for X in (digits[:n], digits[:n] / 16.0):
        cov, coefficient = function(oracle.as_float(X))
        model = GaussianDenoiser(shrinkage=name).fit(X)
        assert model.shrinkage_ == pytest.approx(coefficient, rel=1e-9)
        W = cov @ np.linalg.inv(cov + 0.25 * np.eye(64))
        np.testing.assert_allclose(model.wiener(0.5), W, atol=1e-9)
    # weights count images
    weight = np.arange(n) % 3
    repeated = GaussianDenoiser(shrinkage=name).fit(np.repeat(digits[:n], weight, axis=0))
    weighted = GaussianDenoiser(shrinkage=name).fit(digits[:n], sample_weight=weight)
    assert weighted.shrinkage_ == pytest.approx(repeated.shrinkage_, rel=1e-9)


def test_tweedie(digits, rng):
    """D = z + sigma^2 grad log p, rank and shrinkage included."""
    z = rng.standard_normal(64)
    for model in (
        GaussianDenoiser(),
        GaussianDenoiser(9),
        GaussianDenoiser(shrinkage=0.3),
        GaussianDenoiser(9, shrinkage=0.3),
    ):
        model.fit(digits[:100].reshape(100, -1))
        for sigma in (0.1, 1.0, 10.0):
            slope = finite_difference_gradient(
                lambda rows, s=sigma, m=model: m.score_samples(rows, s), z, 1e-4
            )
            expected = z + sigma**2 * slope
            np.testing.assert_allclose(model.denoise(z[None], sigma)[0], expected, atol=1e-5)


def test_wiener_is_the_jacobian(digits):
    model = GaussianDenoiser(20, shrinkage=0.1).fit(digits.reshape(-1, 64) / 127.5 - 1)
    for sigma in (0.0, 0.3, 5.0, np.inf):
        W = model.wiener(sigma)
        shifts = model.denoise(model.mean_ + np.eye(64), sigma) - model.mean_
        np.testing.assert_allclose(W, shifts.T, atol=1e-12)
        np.testing.assert_allclose(model.wiener(sigma, [5, 63]), W[[5, 63]], atol=1e-14)
    assert isinstance(GaussianDenoiser().fit(torch.from_numpy(digits)).wiener(1.0), torch.Tensor)
    for wrong, sentence in (
        (-1.0, "non-negative, got -1"),
        (None, "got None"),
        ([1, 2], "one float"),
    ):
        with pytest.raises(ValueError, match=f"sigma must be .*{sentence}"):
            model.wiener(wrong)
    for rows in ([1.7], [64], [0, -1], [True], torch.tensor([0.0])):
        with pytest.raises(ValueError, match="rows must be ints from 0 to 63, got"):
            model.wiener(1.0, rows)
    np.testing.assert_array_equal(model.wiener(1.0, np.array([3], np.uint8)), model.wiener(1.0, 3))


def test_both_ends_of_sigma(rng):
    X = rng.standard_normal((4, 1, 3, 3))  # three directions in nine dimensions
    Z = rng.standard_normal((2, 1, 3, 3))
    model = GaussianDenoiser().fit(X)
    basis = np.linalg.svd((X - X.mean(0)).reshape(4, 9))[2][:3]
    onto = X.mean(0) + ((Z - X.mean(0)).reshape(2, 9) @ basis.T @ basis).reshape(Z.shape)
    np.testing.assert_allclose(model.denoise(Z, 0.0), onto, atol=1e-12)
    np.testing.assert_allclose(model.denoise(Z, 1e-9), onto, atol=1e-12)
    np.testing.assert_allclose(model.denoise(Z, np.inf), np.broadcast_to(X.mean(0), Z.shape))
    np.testing.assert_allclose(model.denoise(Z, 1e300), np.broadcast_to(X.mean(0), Z.shape))
    # with variance in every direction nothing is removed where there is no noise
    whole = GaussianDenoiser(shrinkage=0.1).fit(X)
    np.testing.assert_allclose(whole.denoise(Z, 0.0), Z, atol=1e-12)
    # one image has no variance
    one = GaussianDenoiser().fit(X[:1]).posterior(Z, [0.0, 3.0])
    np.testing.assert_array_equal(one.mean, np.repeat(X[:1], 2, 0))
    np.testing.assert_array_equal(one.effective_sample_size, [1, 1])


@given(
    generators.cases(),
    st.sampled_from([0.0, 1e-300, 1e-38, 1e-8, 1.0, 1e12, 1e300, np.inf]),
    st.sampled_from([0.0, 1000.0]),
    st.sampled_from([np.float32, np.float64]),
)
def test_no_nan_leaves(case, sigma, offset, dtype):
    X, Z = (case.x + offset).astype(dtype), (case.Z + offset).astype(dtype)
    for model in (GaussianDenoiser(), GaussianDenoiser(2), GaussianDenoiser(shrinkage=0.2)):
        posterior = model.fit(X).posterior(Z, sigma)
        assert np.isfinite(posterior.mean).all()
        assert not np.isnan(posterior.log_evidence).any()
        assert np.isfinite(posterior.effective_sample_size).all()
        assert posterior.mean.dtype == dtype


@pytest.mark.parametrize("scale", [1e-12, 1e15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_unit_is_too_small_or_too_large(rng, scale, dtype):
    X, Z = rng.standard_normal((6, 1, 4, 4)), rng.standard_normal((2, 1, 4, 4))
    model = GaussianDenoiser()
    plain = model.fit(X.astype(dtype)).denoise(Z.astype(dtype), 0.5)
    scaled = model.fit((scale * X).astype(dtype)).denoise((scale * Z).astype(dtype), 0.5 * scale)
    np.testing.assert_allclose(scaled / scale, plain, rtol=0, atol=1e-5)


def test_effective_sample_size_is_that_of_the_weights_of_the_images(rng):
    X, Z = rng.standard_normal((50, 1, 1, 4)), rng.standard_normal((3, 1, 1, 4))
    posterior = GaussianDenoiser().fit(X).posterior(Z, 0.7)
    x, z = X.reshape(50, 4), Z.reshape(3, 4)
    mean, cov = moments(X)
    weights = (1 + (z - mean) @ np.linalg.inv(cov + 0.49 * np.eye(4)) @ (x - mean).T) / 50
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights @ x, posterior.mean.reshape(3, 4), atol=1e-12)
    np.testing.assert_allclose(posterior.effective_sample_size, 1 / (weights**2).sum(1), rtol=1e-10)


def test_the_empirical_denoiser_of_gaussian_data_tends_to_it(rng):
    root = 0.6 * rng.standard_normal((3, 3))
    X, Z = rng.standard_normal((30_000, 3)) @ root.T, rng.standard_normal((40, 3))
    gaussian, empirical = GaussianDenoiser().fit(X), EmpiricalDenoiser().fit(X)
    gap = np.abs(gaussian.denoise(Z, 0.8) - empirical.denoise(Z, 0.8)).max()
    assert gap < 0.1


# --------------------------------------------------------------------------- partial_fit


@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("shrinkage", [0.0, "ledoit_wolf", "oas"])
def test_fitting_in_parts_is_fitting_the_whole(digits, kind, shrinkage):
    """Whether a part is fewer or more images than there are values, and out of order."""
    X = digits[:300] if kind == "uint8" else digits[:300] / 16.0 + 100
    whole = GaussianDenoiser(shrinkage=shrinkage).fit(X)
    parts = GaussianDenoiser(shrinkage=shrinkage)
    for part in (slice(250, 300), slice(40, 250), slice(0, 40)):
        parts.partial_fit(X[part])
    assert not hasattr(parts, "training_set_")
    np.testing.assert_allclose(parts.mean_, whole.mean_, rtol=1e-13)
    np.testing.assert_allclose(parts.wiener(0.3), whole.wiener(0.3), atol=1e-9)
    assert parts.shrinkage_ == pytest.approx(whole.shrinkage_, rel=1e-7, abs=1e-12)
    if kind == "uint8" and not shrinkage:
        np.testing.assert_array_equal(parts.wiener(0.3), whole.wiener(0.3))
    again = pickle.loads(pickle.dumps(parts)).partial_fit(X[:10])
    assert np.abs(again.mean_ - whole.mean_).max() > 1e-6
    with pytest.raises(ValueError, match=r"X has dtype torch\.float32, but the training set"):
        parts.partial_fit(X.astype(np.float32))


def test_the_two_problems_have_one_answer(rng):
    """As many images as values go by D x D, one fewer by N x N; one image has no weight."""
    for X in (
        rng.integers(0, 256, (12, 1, 3, 4), dtype=np.uint8),
        rng.standard_normal((12, 1, 3, 4)) * 10.0 ** -np.arange(12).reshape(3, 4),
    ):
        large, small = GaussianDenoiser().fit(X), GaussianDenoiser().fit(X[:11])
        assert not hasattr(large, "training_set_")
        assert hasattr(small, "training_set_")
        weight = np.ones(12)
        weight[11] = 0
        dropped = GaussianDenoiser().fit(X, sample_weight=weight)
        np.testing.assert_array_equal(dropped.wiener(0.1), small.wiener(0.1))
        cov = moments(X[:11])[1]
        W = cov @ np.linalg.inv(cov + 0.01 * np.eye(12))
        np.testing.assert_allclose(small.wiener(0.1), W, atol=1e-12)
        # by the other way, the twelfth being one of the eleven at a weight that changes nothing
        twelve = np.concatenate([X[:11], X[:1]])
        weight = np.ones(12)
        weight[[0, 11]] = 0.5
        other = GaussianDenoiser().fit(twelve, sample_weight=weight)
        assert not hasattr(other, "training_set_")
        np.testing.assert_allclose(other.wiener(0.1), W, atol=1e-10)


# ---------------------------------------------------------------------------- large images


def test_large_images_by_randomised_iteration(digits, monkeypatch):
    exact = GaussianDenoiser(10).fit(digits)
    monkeypatch.setattr(covariance, "LARGEST_PROBLEM", 50)
    model = GaussianDenoiser(10).fit(digits)
    Z = digits[:5] / 127.5 - 1 + 0.2
    np.testing.assert_allclose(model.denoise(Z, 0.5), exact.denoise(Z, 0.5), atol=1e-4)
    np.testing.assert_allclose(model.eigenvalues_, exact.eigenvalues_, rtol=1e-5)
    np.testing.assert_allclose(model.mean_, exact.mean_, atol=1e-12)
    parts = GaussianDenoiser(10).partial_fit(digits[:1000]).partial_fit(digits[1000:])
    np.testing.assert_array_equal(parts.denoise(Z, 0.5), model.denoise(Z, 0.5))
    shrunk = GaussianDenoiser(10, shrinkage=0.5).fit(digits)
    level = np.trace(moments(digits)[1]) / 64
    np.testing.assert_allclose(
        shrunk.eigenvalues_, 0.5 * exact.eigenvalues_ + 0.5 * level, rtol=1e-5
    )
    with pytest.raises(ValueError, match="pass a rank, such as 512"):
        GaussianDenoiser().fit(digits)
    with pytest.raises(ValueError, match=r"needs the whole covariance matrix.*pass a float"):
        GaussianDenoiser(5, shrinkage="oas").fit(digits)
    # few large images are an exact N x N problem
    few = GaussianDenoiser().fit(digits[:40])
    monkeypatch.undo()
    np.testing.assert_array_equal(few.wiener(0.2), GaussianDenoiser().fit(digits[:40]).wiener(0.2))


def test_many_uint8_images_are_kept_as_sums(rng):
    """20,000 images of 256 values: 5 MB as they are, 41 MB in float64."""
    X = rng.integers(0, 256, (20_000, 1, 16, 16), dtype=np.uint8)
    with config_context(working_memory=4):
        model = GaussianDenoiser().fit(X)
    np.testing.assert_allclose(model.mean_, oracle.as_float(X).mean(0), atol=1e-12)
    assert len(pickle.dumps(model)) < 3 * 256 * 256 * 8  # no images


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"rank": 0}, "'rank' parameter"),
        ({"rank": 1.5}, "'rank' parameter"),
        ({"shrinkage": 1.1}, "'shrinkage' parameter"),
        ({"shrinkage": "lw"}, "'shrinkage' parameter"),
    ],
)
def test_bad_parameters(digits, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        GaussianDenoiser(**parameters).fit(digits)
