"""PCA locality against the slow formula: masks from the Wiener matrix, one posterior a pixel."""

import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import config_context

import generators
import oracle
from skpspc import EmpiricalDenoiser, GaussianDenoiser, PCALocalityDenoiser
from skpspc.denoisers.pca_locality import Neighbourhoods
from skpspc.posterior.select import posterior
from skpspc.support import Masks, TrainingSet


def neighbour_oracle(X, sigma, threshold):
    """B[n, m], entry by entry."""
    x = oracle.as_float(X)
    cov = np.cov(x.T, ddof=0).reshape(x.shape[1], -1)
    W = cov @ np.linalg.inv(cov + sigma**2 * np.eye(len(cov)))
    M = np.zeros_like(W)
    for n in range(len(W)):
        if W[n, n] > 1e-8 * W.diagonal().max():
            M[n] = np.abs(W[n] / W[n, n])
    return M, (threshold * M.max() <= M) & (M > 0)


def windows(B):
    """Queries and responses of the collection: column m looks, pixel m answers."""
    size = len(B)
    return [B[:, m] for m in range(size)], [np.arange(size) == m for m in range(size)]


def batches(Z, X, sigma, B, size):
    """Softmax within every batch, and the mean of the batches."""
    parts = [
        oracle.collection(Z, X[i : i + size], sigma, *windows(B)).mean
        for i in range(0, len(X), size)
    ]
    return np.mean(parts, axis=0)


@given(
    generators.cases(low=0.02, high=50, min_images=2, kinds=("uint8", "normal")),
    st.sampled_from([0.02, 0.3, 1.0]),
)
def test_float64_oracle(device, case, threshold):
    assume(np.ptp(case.x, axis=0).any())  # else the mask here is made of rounding errors
    sigma = float(case.sigma[0])
    M, B = neighbour_oracle(case.X, sigma, threshold)
    assume(threshold == 1 or not np.isclose(M, threshold * M.max(), rtol=1e-9, atol=0).any())
    model = PCALocalityDenoiser(threshold, device=device).fit(case.X)
    if threshold < 1:
        np.testing.assert_array_equal(model.neighbours(sigma), B)
    B = model.neighbours(sigma)
    posterior = model.posterior(case.Z, sigma)
    expected = oracle.collection(case.Z, case.X, sigma, *windows(B))
    n, size = len(case.Z), len(B)
    np.testing.assert_allclose(posterior.mean.reshape(n, size), expected.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        posterior.effective_sample_size, expected.effective_sample_size.mean(1), rtol=1e-8
    )
    counts = B.sum(0)
    per_number = np.where(counts > 0, expected.log_evidence / np.maximum(counts, 1), 0)
    np.testing.assert_allclose(
        posterior.log_evidence, size * per_number.mean(1), rtol=1e-10, atol=1e-8
    )


def test_photographs(photos, device):
    """Colour, more images than values and fewer, one sigma an image."""
    for X in (photos[:100, :, :6, :6], photos[:320, :, :6, :6]):
        Z = photos[:3, :, :6, :6] / 127.5 - 1
        Z = Z + 0.5 * np.random.default_rng(0).standard_normal(Z.shape)
        levels = [0.3, 1.0, 0.3]
        mean = PCALocalityDenoiser(device=device).fit(X).denoise(Z, levels)
        single = PCALocalityDenoiser(device=device).fit(X).denoise(Z.astype(np.float32), levels)
        for i, sigma in enumerate(levels):
            _, B = neighbour_oracle(X, sigma, 0.05)
            expected = oracle.collection(Z[[i]], X, sigma, *windows(B)).mean
            np.testing.assert_allclose(mean[[i]].reshape(1, -1), expected, atol=1e-10)
            np.testing.assert_allclose(single[[i]].reshape(1, -1), expected, atol=2e-5)


@pytest.mark.parametrize("size", [1, 7, 50, 400])
def test_batchwise_softmax(photos, size):
    X, sigma = photos[:120, :, :4, :4], 0.4
    Z = photos[:2, :, :4, :4] / 127.5 - 1 + 0.2
    model = PCALocalityDenoiser(softmax="batchwise", batch_size=size).fit(X)
    expected = batches(Z, X, sigma, model.neighbours(sigma), size)
    posterior = model.posterior(Z, sigma)
    np.testing.assert_allclose(posterior.mean.reshape(2, -1), expected, atol=1e-10)
    exact = PCALocalityDenoiser().fit(X).posterior(Z, sigma)
    np.testing.assert_allclose(posterior.log_evidence, exact.log_evidence, rtol=1e-10)
    if size > 120:
        np.testing.assert_allclose(posterior.mean, exact.mean, atol=1e-12)
    if size == 1:
        np.testing.assert_allclose(posterior.mean[0], oracle.as_float(X).mean(0).reshape(3, 4, 4))
        np.testing.assert_allclose(posterior.effective_sample_size, 120)


def test_memory_changes_nothing(photos):
    X, Z = photos[:60, :, :8, :8], photos[:2, :, :8, :8] / 127.5 - 1
    model = PCALocalityDenoiser().fit(X)
    expected = model.denoise(Z, 0.5)
    with config_context(working_memory=0.05):
        np.testing.assert_allclose(model.denoise(Z, 0.5), expected, atol=1e-12)


def test_neighbourhoods_grow_with_sigma(photos):
    X = photos[:, :1]
    model = PCALocalityDenoiser().fit(X)
    sizes = [model.neighbours(sigma).sum(0).mean() for sigma in (0.05, 0.3, 1.0, 5.0)]
    assert (np.diff(sizes) > 0).all()
    assert isinstance(PCALocalityDenoiser().fit(torch.tensor(X)).neighbours(1.0), torch.Tensor)
    for wrong, sentence in (
        (-2, "non-negative, got -2"),
        (None, "got None"),
        ([1.0, 2.0], "one float"),
    ):
        with pytest.raises(ValueError, match=f"sigma must be .*{sentence}"):
            model.neighbours(wrong)


def test_a_constant_pixel_disturbs_nothing(digits):
    """The corners of the digits are black in all images."""
    X = digits[:300]
    model = PCALocalityDenoiser(0.02).fit(X)
    B = model.neighbours(0.5)
    constant = (np.ptp(X, axis=0) == 0).ravel()
    assert constant.any()
    assert not B[constant].any()
    assert not B[:, constant].any()
    Z = X[:3] / 127.5 - 1 + np.random.default_rng(0).standard_normal((3, 1, 8, 8))
    mean = model.denoise(Z, 0.5).reshape(3, 64)
    np.testing.assert_allclose(mean[:, constant], -1, atol=1e-12)


def test_both_ends_of_sigma(photos):
    X = photos[:20, :1, :4, :4]
    Z = X[:2] / 127.5 - 1 + 0.1 * np.random.default_rng(0).standard_normal((2, 1, 4, 4))
    model = PCALocalityDenoiser().fit(X)
    np.testing.assert_allclose(
        model.denoise(Z, np.inf), np.repeat(oracle.as_float(X).mean(0).reshape(1, 1, 4, 4), 2, 0)
    )
    small = model.denoise(Z, 0.0)
    queries, responses = windows(model.neighbours(0.0))
    expected = oracle.collection(Z, X, 0, queries, responses).mean
    np.testing.assert_allclose(small.reshape(2, 16), expected, atol=1e-9)
    one = model.fit(X[:1]).denoise(Z, 0.4)
    np.testing.assert_allclose(one, np.repeat(X[:1] / 127.5 - 1, 2, 0), atol=1e-12)


def test_answers_of_correlated_data(rng):
    """Coordinates that all hang together see the whole image; independent ones only themselves."""
    common = rng.standard_normal((50, 1)) * np.ones(4)
    together = common + 1e-3 * rng.standard_normal((50, 4))
    Z = rng.standard_normal((3, 4))
    np.testing.assert_allclose(
        PCALocalityDenoiser().fit(together).denoise(Z, 0.5),
        EmpiricalDenoiser().fit(together).denoise(Z, 0.5),
        atol=1e-10,
    )
    corners = np.array([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    np.testing.assert_allclose(
        PCALocalityDenoiser().fit(corners).denoise(Z[:, :2], 0.7), np.tanh(Z[:, :2] / 0.49)
    )


def test_masks_are_those_of_the_gaussian_denoiser(photos):
    X = photos[:80, :, :5, :5]
    W = GaussianDenoiser().fit(X).wiener(0.6)
    M = np.abs(W / W.diagonal()[:, None])
    np.testing.assert_array_equal(
        PCALocalityDenoiser(0.1).fit(X).neighbours(0.6), M / M.max() >= 0.1
    )


@pytest.mark.parametrize("n_kept", [0, 2])
def test_windows_of_the_newest_noise_levels_are_kept(digits, monkeypatch, n_kept):
    """At least one level is kept, even if its windows exceed a chunk of memory."""
    module = sys.modules[Neighbourhoods.__module__]
    monkeypatch.setattr(module, "working_bytes", lambda: n_kept * 64**2)
    windows = PCALocalityDenoiser().fit(digits)._prior.windows
    first, second = windows(0.5), windows(1.0)
    assert windows(1.0) is second
    assert (windows(0.5) is first) == (n_kept == 2)
    assert not pickle.loads(pickle.dumps(windows))._kept


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"threshold": 0.0}, "'threshold' parameter"),
        ({"threshold": 1.5}, "'threshold' parameter"),
        ({"threshold": -0.1}, "'threshold' parameter"),
        ({"softmax": "batch"}, "'softmax' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
    ],
)
def test_bad_parameters(digits, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        PCALocalityDenoiser(**parameters).fit(digits)


def test_too_large(digits, monkeypatch):
    from skpspc.support import covariance

    monkeypatch.setattr(covariance, "LARGEST_PROBLEM", 50)
    with pytest.raises(ValueError, match="pass fewer or smaller images"):
        PCALocalityDenoiser().fit(digits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [0.0, 1e-6])
def test_weights_of_tied_images(dtype, sigma, device):
    """Beside logits of 1e11 a log weight of one would be lost, were it added first."""
    X = torch.tensor([0.25, -0.25], device=device).view(2, 1, 1, 1).expand(2, 2, 3, 4)
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64, device=device)
    z = torch.zeros(1, 2, 3, 4, dtype=dtype, device=device)
    level = torch.tensor([sigma], dtype=torch.float64, device=device)
    windows = Masks("test", torch.ones(24, 2, 3, 4, device=device), None)
    got = posterior(z, level, TrainingSet(X, weight), windows, engine="torch")
    np.testing.assert_allclose(got.mean.cpu(), -0.125, rtol=1e-6)
    np.testing.assert_allclose(got.effective_sample_size.cpu(), 1 / (1 / 16 + 9 / 16), rtol=1e-6)
