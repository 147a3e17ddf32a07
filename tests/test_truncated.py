"""Posteriors from a few training images: what they leave out, and that they say so."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from joblib import Parallel, delayed
from sklearn.exceptions import NotFittedError

import generators
import oracle
from skpspc import EmpiricalDenoiser, PatchDenoiser
from skpspc.posterior import truncated
from skpspc.sampling import draw_noise
from skpspc.support import TrainingSet

CLOSE = 1e-10  # rounding of float64, beyond which bounds hold


def largest_error(mean, other):
    return np.abs(mean - other).reshape(len(mean), -1).max(1)


@given(generators.cases(low=0.02), st.integers(1, 9))
def test_bound_of_the_nearest(case, k):
    k = min(k, len(case.X))
    model = EmpiricalDenoiser(n_neighbors=k).fit(case.X)
    posterior = model.posterior(case.Z, case.sigma)
    exact = EmpiricalDenoiser().fit(case.X).posterior(case.Z, case.sigma)
    error = largest_error(posterior.mean, exact.mean)
    assert (error <= posterior.error_bound + CLOSE).all()
    if k == len(case.X):
        np.testing.assert_allclose(posterior.log_evidence, exact.log_evidence, rtol=1e-9)
        assert (error <= CLOSE).all()


@given(
    generators.cases(low=0.02), st.integers(1, 9), st.integers(0, 9), st.sampled_from([0, np.inf])
)
def test_bound_of_the_nearest_at_the_limits(case, k, n_remainder, sigma):
    """At sigma = 0 the nearest decide, and at inf all count alike."""
    k = min(k, len(case.X))
    model = EmpiricalDenoiser(n_neighbors=k, n_remainder=n_remainder).fit(case.X)
    posterior = model.posterior(case.Z, sigma)
    exact = EmpiricalDenoiser().fit(case.X).denoise(case.Z, sigma)
    assert (largest_error(posterior.mean, exact) <= posterior.error_bound + CLOSE).all()
    assert (posterior.effective_sample_size >= 1 - CLOSE).all()
    assert np.isfinite(posterior.standard_error).all()
    if k == len(case.X):
        assert (posterior.error_bound <= CLOSE).all()
        assert (posterior.standard_error == 0).all()


@pytest.mark.parametrize("k", [1, 3, 30])
@pytest.mark.parametrize("sigma", [0.02, 0.2, 0.5, 2.0])
def test_bound_in_float32(digits, sigma, k):
    """Against float64, with what float32 rounds beside it."""
    noise = np.random.default_rng(0).standard_normal((97, 1, 8, 8))
    Z = (digits[1700:] / 127.5 - 1 + sigma * noise).astype(np.float32)
    posterior = EmpiricalDenoiser(n_neighbors=k).fit(digits[:1700]).posterior(Z, sigma)
    exact = EmpiricalDenoiser().fit(digits[:1700]).denoise(Z.astype(np.float64), sigma)
    assert (largest_error(posterior.mean, exact) <= posterior.error_bound + 1e-5).all()


@given(generators.cases(low=0.02), st.integers(1, 9))
def test_nearest_are_the_nearest(case, k):
    """As the formula over the k nearest training images."""
    k = min(k, len(case.X))
    mean = EmpiricalDenoiser(n_neighbors=k).fit(case.X).denoise(case.Z, case.sigma)
    x, z = oracle.as_float(case.X), oracle.as_float(case.Z)
    for row in range(len(z)):
        distance = ((z[row] - x) ** 2).sum(1)
        order = distance.argsort(kind="stable")
        if k < len(x) and np.isclose(distance[order[k - 1]], distance[order[k]], rtol=1e-9):
            continue  # a tie
        answer = oracle.collection(
            case.Z[row : row + 1],
            case.X[order[:k]],
            case.sigma[row],
            oracle.whole_mask(case.shape),
        )
        np.testing.assert_allclose(mean[row].ravel(), answer.mean[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("index", ["Flat", "IVF16,Flat", "PCA8,IVF16,SQ8"])
@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6])
@pytest.mark.usefixtures("always_from_the_index")
def test_tolerance(digits, index, tol):
    if index != "Flat":
        pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    train, test = digits[:1500], digits[1500:1520]
    sigma = np.repeat([0.05, 0.3, 1.0, 5.0], 5)
    noise = np.random.default_rng(0).standard_normal(test.shape)
    Z = test / 127.5 - 1 + sigma[:, None, None, None] * noise
    weight = np.random.default_rng(1).uniform(0.1, 3, len(train))
    model = EmpiricalDenoiser(tol=tol, index=index).fit(train, sample_weight=weight)
    posterior = model.posterior(Z, sigma)
    exact = EmpiricalDenoiser().fit(train, sample_weight=weight).posterior(Z, sigma)
    assert (posterior.error_bound <= tol).all()
    assert (posterior.error_bound > 0).any()
    error = largest_error(posterior.mean, exact.mean)
    assert (error <= posterior.error_bound + CLOSE).all()
    np.testing.assert_allclose(posterior.log_evidence, exact.log_evidence, atol=tol)


@pytest.mark.parametrize("kind", ["near", "far"])
@pytest.mark.parametrize("sigma", [0.0, 1e-6, 1e-3, 2e-3, 5e-3, 0.02])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("always_from_the_index")
def test_tolerance_at_small_sigma(digits, dtype, sigma, kind):
    """There the rounding of a squared distance is as large as what decides."""
    train, test = digits[:1500], digits[1500:1550]
    noise = np.random.default_rng(0).standard_normal(test.shape)
    Z = (test / 127.5 - 1 + sigma * noise if kind == "near" else 5 * noise).astype(dtype)
    model = EmpiricalDenoiser(tol=1e-3).fit(train)
    posterior = model.posterior(Z, sigma)
    exact = EmpiricalDenoiser().fit(train).denoise(Z.astype(np.float64), sigma)
    assert (posterior.error_bound <= 1e-3).all()
    assert (largest_error(posterior.mean, exact) <= posterior.error_bound + 1e-6).all()


@pytest.mark.parametrize("index", ["HNSW32", "IMI2x3,Flat", "IVF8_HNSW8,Flat"])
@pytest.mark.parametrize("n_images", [1, 3, 20, 600, 1700])
def test_indexes_without_guarantee(digits, index, n_images):
    """What they return says whether they found all that there is; elsewhere all images are used."""
    pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    if n_images < 64 and index != "HNSW32":
        pytest.skip("there are more cells than images")
    train, test = digits[:n_images], digits[1700:1710]
    few = EmpiricalDenoiser(n_neighbors=min(n_images, 5), index=index).fit(train)
    tolerant = EmpiricalDenoiser(tol=1e-3, index=index).fit(train)
    for sigma in (0.3, 2.0, 5.0, 20.0):
        noise = np.random.default_rng(0).standard_normal(test.shape)
        Z = test / 127.5 - 1 + sigma * noise
        exact = EmpiricalDenoiser().fit(train).posterior(Z, sigma)
        for posterior in few.posterior(Z, sigma), tolerant.posterior(Z, sigma):
            error = largest_error(posterior.mean, exact.mean)
            assert (error <= posterior.error_bound + CLOSE).all()
            assert np.isfinite(posterior.log_evidence).all()
            assert (posterior.effective_sample_size >= 1 - CLOSE).all()
        assert (posterior.error_bound <= 1e-3).all()
        np.testing.assert_allclose(posterior.log_evidence, exact.log_evidence, atol=1e-3)


@pytest.mark.parametrize("index", ["PQ4x4fs", "IVF16,PQ4x4,RFlat", "RQ4x4", "NSG8"])
@pytest.mark.parametrize("parameters", [{"n_neighbors": 5}, {"tol": 1e-3}], ids=str)
def test_codes_without_guarantee(digits, index, parameters):
    """Their bounds are estimates, but no noisy image is left without an answer."""
    pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    model = EmpiricalDenoiser(index=index, **parameters).fit(digits[:600])
    noise = np.random.default_rng(0).standard_normal((5, 1, 8, 8))
    for sigma in (0.05, 0.3, 20.0):
        posterior = model.posterior(digits[:5] / 127.5 - 1 + sigma * noise, sigma)
        assert (posterior.effective_sample_size >= 1 - CLOSE).all()
        assert np.isfinite(posterior.log_evidence).all()
        if sigma == 0.05:
            np.testing.assert_allclose(posterior.mean, digits[:5] / 127.5 - 1, atol=1e-3)


def test_a_class_smaller_than_what_a_graph_finds(digits):
    pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    Z = digits[:3] / 127.5 - 1 + 5 * np.random.default_rng(0).standard_normal((3, 1, 8, 8))
    y = np.arange(400) // 20
    few = EmpiricalDenoiser(n_neighbors=5, index="HNSW32").fit(digits[:400], y)
    same = EmpiricalDenoiser(n_neighbors=5).fit(digits[60:80])
    np.testing.assert_allclose(few.denoise(Z, 5.0, y=3), same.denoise(Z, 5.0), atol=CLOSE)


@pytest.mark.usefixtures("always_from_the_index")
def test_samples_recall_their_neighbours(digits, monkeypatch):
    """The steps of a sampler use what was found before, and give what a search gives."""
    used = []
    recalled = truncated._recalled
    monkeypatch.setattr(
        truncated, "_recalled", lambda *args: used.append(recalled(*args)) or used[-1]
    )
    samples = EmpiricalDenoiser(tol=1e-6).fit(digits).sample(4, random_state=0)
    assert any(posterior is not None for posterior in used)
    exact = EmpiricalDenoiser().fit(digits).sample(4, random_state=0)
    np.testing.assert_allclose(samples, exact, rtol=0, atol=1e-3)


def test_remainder(digits):
    """At a large sigma a drawn remainder mends what the nearest alone get wrong."""
    noise = np.random.default_rng(0).standard_normal((8, 1, 8, 8))
    Z = digits[:8] / 127.5 - 1 + 10 * noise
    exact = EmpiricalDenoiser().fit(digits).denoise(Z, 10.0)
    few = EmpiricalDenoiser(n_neighbors=10).fit(digits).posterior(Z, 10.0)
    model = EmpiricalDenoiser(n_neighbors=10, n_remainder=500).fit(digits)
    more = model.posterior(Z, 10.0)
    assert (largest_error(more.mean, exact) <= more.error_bound + CLOSE).all()
    rmse = np.sqrt(((more.mean - exact) ** 2).mean((1, 2, 3)))
    assert np.sqrt(((few.mean - exact) ** 2).mean()) > 5 * rmse.max()
    assert 0.3 < np.median(rmse / more.standard_error) < 3
    assert (few.standard_error == 0).all()
    np.testing.assert_array_equal(more.mean, model.denoise(Z, 10.0))
    whole = model.set_params(n_remainder=len(digits)).fit(digits).denoise(Z, 10.0)
    np.testing.assert_allclose(whole, exact, rtol=0, atol=1e-9)
    nothing_left = model.set_params(n_neighbors=len(digits), n_remainder=5).fit(digits)
    assert (nothing_left.posterior(Z, 10.0).standard_error == 0).all()


def test_partial_fit_adds_to_the_index(digits):
    Z = digits[1700:1710] / 127.5 - 1
    model = EmpiricalDenoiser(n_neighbors=1).fit(digits[:1000])
    assert np.abs(model.denoise(Z, 0.1) - Z).max() > 0.1
    model.partial_fit(digits[1000:])
    np.testing.assert_allclose(model.denoise(Z, 0.1), Z, atol=1e-12)


@pytest.mark.parametrize("index", ["Flat", "IVF16,Flat"])
def test_pickles_and_workers(digits, index):
    if index != "Flat":
        pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    Z = (digits[:4] / 127.5 - 1).astype(np.float32)
    model = EmpiricalDenoiser(n_neighbors=5, index=index).fit(digits)
    expected = model.denoise(Z, 0.5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).denoise(Z, 0.5), expected)
    for prefer in ("threads", "processes"):
        for mean in Parallel(2, prefer=prefer)(delayed(model.denoise)(Z, 0.5) for _ in range(2)):
            np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-6)


def test_patches(digits):
    Z = digits[:5] / 127.5 - 1 + 0.3
    exact = PatchDenoiser(4, location="all").fit(digits).posterior(Z, 0.2)
    few = PatchDenoiser(4, location="all", n_neighbors=20).fit(digits).posterior(Z, 0.2)
    assert (few.error_bound > 0).any()
    assert (largest_error(few.mean, exact.mean) <= few.error_bound + CLOSE).all()


def test_crops_are_gathered_once(digits, monkeypatch):
    """Not at every call: that takes longer than to answer from all of them."""
    crop, cropped = TrainingSet.crop, []
    monkeypatch.setattr(TrainingSet, "crop", lambda *args: cropped.append(args) or crop(*args))
    Z = (digits[:3] / 127.5 - 1 + 0.1).astype(np.float32)
    model = PatchDenoiser(4, tol=1e-3).fit(digits[:1000])
    first = model.denoise(Z, 0.1)
    n_cropped = len(cropped)
    assert model._searches()[0].neighbours.training_set.images.is_contiguous()
    np.testing.assert_array_equal(model.denoise(Z, 0.1), first)
    assert len(cropped) == n_cropped
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.denoise(Z, 0.1), first)
    more = again.partial_fit(digits[1000:]).posterior(Z, 0.5)
    exact = PatchDenoiser(4).fit(digits).denoise(Z, 0.5)
    assert (largest_error(more.mean, exact) <= more.error_bound + 1e-6).all()


def test_neighbours_by_sigma(digits):
    Z = digits[:2] / 127.5 - 1
    model = EmpiricalDenoiser(n_neighbors=lambda sigma: 1 if sigma < 1 else 1797).fit(digits)
    posterior = model.posterior(Z, [0.5, 2.0])
    assert posterior.error_bound[1] == 0 < posterior.error_bound[0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"n_neighbors": 41}, "between 1 and 40, the number"),
        ({"tol": 0.0}, "tol"),
        ({"algorithm": "exact", "tol": 0.1}, "leave n_neighbors and tol at None"),
        ({"n_remainder": 5}, "pass n_neighbors too"),
        ({"algorithm": "faiss", "index": "IVF64,Flat"}, "64 cells, but there are 40"),
        ({"algorithm": "faiss", "index": "nonsense"}, "a factory string of faiss"),
        ({"tol": 0.1, "index": "L2norm,Flat"}, "does not compare points by Euclidean distances"),
        ({"tol": 0.1, "index": "PCAW8,Flat"}, "does not compare points by Euclidean distances"),
        ({"tol": 0.1, "index": "LSH"}, "does not compare points by Euclidean distances"),
        ({"tol": 0.1, "index": "ITQ8,LSH"}, "does not compare points by Euclidean distances"),
        ({"tol": 0.1, "index": "IDMap,Flat"}, "does not number points by itself"),
    ],
)
def test_bad_parameters(digits, parameters, message):
    if "index" in parameters:
        pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    with pytest.raises(ValueError, match=message):
        EmpiricalDenoiser(**parameters).fit(digits[:40])


def test_bad_callable(digits):
    model = EmpiricalDenoiser(n_neighbors=lambda sigma: 0).fit(digits[:40])
    with pytest.raises(ValueError, match="n_neighbors must be between 1"):
        model.denoise(digits[:1], 1.0)


def test_duplicates():
    X = np.repeat(np.array([[[[0.0, 1.0]]], [[[1.0, 0.0]]]]), 30, axis=0)
    Z = torch.tensor([[[[0.1, 0.8]]]], dtype=torch.float64)
    posterior = EmpiricalDenoiser(n_neighbors=10).fit(X).posterior(Z, 0.3)
    exact = EmpiricalDenoiser().fit(X).denoise(Z, 0.3)
    assert (posterior.mean - exact).abs().max() <= posterior.error_bound[0] + CLOSE


# ------------------------------------------------------------------------------- recall


@pytest.mark.parametrize("index", ["Flat", "HNSW2", "HNSW32", "IVF8,Flat"])
def test_recall_is_the_share_of_the_nearest_that_are_found(digits, index):
    """By hand, over the images themselves: for digits the coordinates keep all distances."""
    if index != "Flat":
        pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    X, k, sigma = digits[:600], 7, 0.4
    model = EmpiricalDenoiser(n_neighbors=k, index=index, random_state=5, sigma=sigma).fit(X)
    recall = model.index_recall(k, n_images=30)
    clean = X[np.linspace(0, 599, 30).astype(int)] / 127.5 - 1
    Z = (clean + sigma * draw_noise((1, 8, 8), 30, 5).numpy()).astype(np.float32)
    true = np.square(oracle.as_float(Z)[:, None] - oracle.as_float(X)).sum(2).argsort(1)[:, :k]
    found = model._searches()[0].neighbours.search(torch.from_numpy(Z), k).ids.numpy()
    shares = [len(set(a) & set(b)) / k for a, b in zip(true.tolist(), found.tolist(), strict=True)]
    assert recall == pytest.approx(np.mean(shares), abs=1e-6)
    if index == "HNSW2":
        assert 0 < recall < 0.95
    elif index != "IVF8,Flat":
        assert recall > 0.95
    if index == "Flat":
        assert recall == 1
    assert model.index_recall(k, sigma=sigma, n_images=30) == recall
    assert model.index_recall(600, n_images=10**6) == pytest.approx(1) or "HNSW" in index


def test_recall_of_many_places_and_of_copies(digits):
    twice = np.concatenate([digits[:200], digits[:200]])
    assert EmpiricalDenoiser(tol=1e-3).fit(twice).index_recall(1) == 1  # either copy will do
    patches = PatchDenoiser(5, location="all", tol=1e-3).fit(digits[:200])
    assert patches.index_recall() == 1
    assert len(patches._searches()) == 16


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"k": 0}, "k must be an int between 1 and 40, got 0"),
        ({"k": 41}, "k must be an int between 1 and 40, got 41"),
        ({"k": 1.5}, "k must be an int between 1 and 40, got 1.5"),
        ({"n_images": 0}, "n_images must be an int of at least 1, got 0"),
        ({"sigma": np.inf}, "sigma must be finite and non-negative, got inf"),
        ({"sigma": -1.0}, "sigma must be finite and non-negative, got -1.0"),
    ],
)
def test_bad_recalls(digits, parameters, message):
    with pytest.raises(ValueError, match=message):
        EmpiricalDenoiser(tol=1e-3).fit(digits[:40]).index_recall(**parameters)
    with pytest.raises(ValueError, match="so there is no index; pass tol, n_neighbors or"):
        EmpiricalDenoiser().fit(digits[:40]).index_recall(**parameters)
    with pytest.raises(NotFittedError):
        EmpiricalDenoiser(tol=1e-3).index_recall(**parameters)
