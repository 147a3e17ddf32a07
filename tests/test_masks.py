"""Windows of any shape, against the slow formula."""

import numpy as np
import pytest
import torch

import oracle
from skpspc.posterior.box import box
from skpspc.posterior.masks import masked
from skpspc.posterior.softmax import floored_sigma
from skpspc.support import Masks, Squares, TrainingSet, TranslatedTrainingSet
from skpspc.support.training_set import example_moments

SHAPES = [(1, 4, 4), (3, 5, 6), (2, 1, 9), (5, 3, 3)]


def masks(rng, shape, n_windows=7):
    """Random masks, together over every pixel."""
    drawn = rng.random((n_windows, *shape[1:])) < 0.4
    drawn[0] |= ~drawn.any(0)
    return drawn[drawn.any((1, 2))]


def kernel(Z, X, sigma, query, response, engine, device="cpu", **options):
    """Return the result of the kernel for each window, of arrays: `PerWindow`."""
    tensors = (torch.from_numpy(np.asarray(a)).to(device) for a in (Z, sigma, query, response))
    z, level, query, response = tensors
    weight = options.pop("sample_weight", None)
    if weight is not None:
        weight = torch.from_numpy(weight).to(device)
    training_set = TrainingSet(torch.from_numpy(X).to(device), weight)
    level = floored_sigma(level.double().expand(len(z)), z, training_set)
    windows = Masks("test", query[:, None], response[:, None])
    return masked(z, level, training_set, windows, engine)


def log_evidence(result, sigma, query, n_channels):
    """Return the log evidence of every window."""
    counts = n_channels * np.asarray(query, float).reshape(len(query), -1).sum(1)
    constant = counts / 2 * np.log(2 * np.pi * np.reshape(sigma, (-1, 1)) ** 2)
    return result.log_norm.cpu().numpy() - constant


def case(shape, dtype, n_images=75, seed=0):
    rng = np.random.default_rng([*shape, seed])
    X = rng.integers(0, 256, (n_images, *shape), dtype=np.uint8)
    if dtype != np.uint8:
        X = (X / 127.5 - 1).astype(dtype)
    sigma = np.array([0.1, 0.7, 3.0])
    clean = oracle.as_float(np.resize(X, (3, *shape))).reshape(3, *shape)
    Z = clean + sigma[:, None, None, None] * rng.normal(size=clean.shape)
    return rng, X, Z.astype(np.float32), sigma


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_masks_against_the_slow_formula(shape, dtype, engine, device):
    rng, X, Z, sigma = case(shape, dtype)
    query, response = masks(rng, shape), masks(rng, shape)[:1] | True
    response = np.repeat(response, len(query), 0)
    for answers in (query, response):
        got = kernel(Z, X, sigma, query, answers, engine, device)
        coordinates = [
            [np.broadcast_to(mask, shape).ravel() for mask in several]
            for several in (query, answers)
        ]
        exact = oracle.collection(Z, X, sigma, *coordinates)
        np.testing.assert_allclose(got.mean.cpu().reshape(3, -1), exact.mean, rtol=0, atol=1e-5)
        evidence = log_evidence(got, sigma, query, shape[0])
        np.testing.assert_allclose(evidence, exact.log_evidence, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(
            got.effective_sample_size.cpu(), exact.effective_sample_size, rtol=1e-3
        )


def test_float64_is_exact(device):
    rng, X, Z, sigma = case((3, 5, 6), np.uint8)
    query = masks(rng, (3, 5, 6))
    got = kernel(Z.astype(np.float64), X, sigma, query, query, "torch", device)
    coordinates = [np.broadcast_to(mask, (3, 5, 6)).ravel() for mask in query]
    exact = oracle.collection(Z.astype(np.float64), X, sigma, coordinates)
    np.testing.assert_allclose(got.mean.cpu().reshape(3, -1), exact.mean, rtol=0, atol=1e-10)


def test_soft_precisions_and_responses(engine, device):
    rng, X, Z, sigma = case((2, 3, 4), np.float32)
    query, response = rng.random((2, 6, 3, 4))
    got = kernel(Z, X, sigma, query, response, engine, device)
    x, z = X.astype(np.float64), Z.astype(np.float64)
    logit = -np.einsum("kp,bicp->bki", query.reshape(6, -1), _squares(z, x))
    logit /= 2 * sigma[:, None, None] ** 2
    weight = np.exp(logit - logit.max(2, keepdims=True))
    weight /= weight.sum(2, keepdims=True)
    share = response.reshape(6, -1) / response.reshape(6, -1).sum(0)
    exact = np.einsum("kp,bki,icp->bcp", share, weight, x.reshape(len(x), 2, -1))
    np.testing.assert_allclose(got.mean.cpu().reshape(3, 2, -1), exact, rtol=0, atol=1e-5)


def _squares(z, x):
    """(b, i, c, p)."""
    difference = z.reshape(len(z), 1, *z.shape[1:]) - x
    return np.square(difference).reshape(*difference.shape[:3], -1)


def test_squares_as_masks_are_squares(engine, device):
    _, X, Z, sigma = case((3, 5, 6), np.uint8)
    one_channel = oracle.square_masks(3, (1, 5, 6))
    query = np.array(one_channel).reshape(-1, 5, 6)
    got = kernel(Z, X, sigma, query, query, engine, device)
    training_set = TrainingSet(torch.from_numpy(X))
    squares = box(torch.from_numpy(Z), torch.from_numpy(sigma), training_set, Squares(3, 3))
    np.testing.assert_allclose(got.mean.cpu(), squares.mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.log_norm.cpu(), squares.log_norm, rtol=1e-5, atol=1e-3)


def test_repeated_masks_count_as_often(engine, device):
    rng, X, Z, sigma = case((1, 4, 4), np.uint8)
    query = masks(rng, (1, 4, 4))
    repeats = rng.integers(1, 4, len(query))
    longer = np.repeat(query, repeats, 0)
    response = query * repeats[:, None, None]
    grouped = kernel(Z, X, sigma, query, response, engine, device)
    plain = kernel(Z, X, sigma, longer, longer, engine, device)
    np.testing.assert_allclose(grouped.mean.cpu(), plain.mean.cpu(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("n_images", [1, 31, 32, 33, 1024, 1100])
def test_any_number_of_images_and_weights(n_images, engine, device):
    rng, X, Z, sigma = case((1, 3, 3), np.uint8, n_images=n_images)
    weight = rng.random(n_images) + 0.01
    query = masks(rng, (1, 3, 3))
    got = kernel(Z, X, sigma, query, query, engine, device, sample_weight=weight)
    exact = oracle.collection(Z, X, sigma, [mask.ravel() for mask in query], sample_weight=weight)
    np.testing.assert_allclose(got.mean.cpu().reshape(3, -1), exact.mean, rtol=0, atol=1e-5)
    evidence = log_evidence(got, sigma, query, 1)
    np.testing.assert_allclose(evidence, exact.log_evidence, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0.0, 1e-6])
def test_weights_of_tied_images(dtype, sigma, device):
    """Beside logits of 1e11 a log weight of one would be lost, were it added first."""
    X = np.array([0.25, -0.25]).reshape(2, 1, 1, 1) * np.ones((2, 2, 3, 4))
    Z = np.zeros((1, 2, 3, 4), dtype)
    query = np.ones((2, 3, 4), bool)
    got = kernel(Z, X, sigma, query, query, "torch", device, sample_weight=np.array([1.0, 3.0]))
    np.testing.assert_allclose(got.mean.cpu(), -0.125, rtol=1e-6)
    np.testing.assert_allclose(got.effective_sample_size.cpu(), 1 / (1 / 16 + 9 / 16), rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, np.inf])
def test_the_ends_of_sigma(sigma, engine, device):
    rng, X, Z, _ = case((1, 4, 4), np.uint8)
    query = masks(rng, (1, 4, 4))
    got = kernel(Z, X, np.array([sigma]), query, query, engine, device)
    exact = oracle.collection(Z, X, sigma, [mask.ravel() for mask in query])
    np.testing.assert_allclose(got.mean.cpu().reshape(3, -1), exact.mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("of_coordinates", [False, True])
def test_the_answer_does_not_depend_on_the_number_of_threads(of_coordinates):
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    from scipy.sparse import csr_array

    from skpspc.posterior import _masks_numba
    from skpspc.posterior._masks_numba import compiled_masked_means, compiled_masked_sums

    rng, X, Z, sigma = case((3, 5, 6), np.uint8, n_images=3000)
    query = masks(rng, (3, 5, 6)).reshape(-1, 30).astype(np.float32)
    matrices = csr_array(query), csr_array(np.ascontiguousarray((query / query.sum(0)).T))
    if of_coordinates:
        matrices = csr_array((rng.random((90, 90)) < 0.4).astype(np.float32)), None
    windows, options = _masks_numba.compiled_windows(*matrices), {"log_weight": None, "flip": False}
    options["data_range"], moments = (-1, 1), example_moments(torch.from_numpy(X))

    def answer(n_threads):
        results = compiled_masked_sums(
            Z, X, windows, sigma, moments=moments, n_threads=n_threads, **options
        )
        if of_coordinates:
            return results
        *softmax, _, state = results
        means = compiled_masked_means(Z, X, windows, softmax, state, n_threads=n_threads, **options)
        return *softmax, means

    for a, b in zip(answer(1), answer(3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_windows_of_all_channels_compare_the_moves_that_cover_them():
    """Windows of all channels give the means of equal windows of single channels."""
    rng = np.random.default_rng(0)
    z, x = (torch.from_numpy(rng.random((n, 3, 6, 6))) for n in (2, 9))
    training_set = TranslatedTrainingSet(TrainingSet(x), 1)
    sigma = torch.full((2,), 0.5, dtype=torch.float64)
    shared = Squares(3, 3).masks((3, 6, 6))
    single = Masks("single", *(m.expand(-1, 3, -1, -1) for m in (shared.query, shared.response)))
    means = [masked(z, sigma, training_set, w, "exact").mean for w in (shared, single)]
    torch.testing.assert_close(*means, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
def test_windows_of_coordinates_against_the_slow_formula(shape, dtype, weighted, engine, device):
    rng, X, Z, sigma = case(shape, dtype, n_images=1100)
    size = int(np.prod(shape))
    query = rng.random((size, *shape)) < 0.3
    query[0] = False  # compares nothing: the mean
    weight = rng.random(len(X)) + 0.1 if weighted else None
    tensors = (torch.from_numpy(a).to(device) for a in (Z, sigma, X, query))
    z, level, x, mask = tensors
    training_set = TrainingSet(x, None if weight is None else torch.from_numpy(weight).to(device))
    got = masked(z, level, training_set, Masks("test", mask, None), engine)
    own = [np.arange(size) == k for k in range(size)]
    exact = oracle.collection(Z, X, sigma, query.reshape(size, -1), own, weight)
    np.testing.assert_allclose(got.mean.cpu().reshape(3, -1), exact.mean, rtol=0, atol=1e-5)
    constant = query.reshape(size, -1).sum(1) / 2 * np.log(2 * np.pi * sigma[:, None] ** 2)
    np.testing.assert_allclose(
        got.log_norm.cpu().numpy() - constant, exact.log_evidence, rtol=1e-5, atol=1e-3
    )
    ess = exact.effective_sample_size
    np.testing.assert_allclose(got.effective_sample_size.cpu(), ess, rtol=1e-3)


@pytest.mark.parametrize("sigma", [0.02, 0.5, 10.0])
def test_large_windows_in_float32(sigma, engine, device, photos):
    """Errors do not grow with the number of pixels, nor with the noise that all logits share."""
    X = photos[:300]
    size = X[0].size
    Z = X[:2] / 127.5 - 1 + sigma * np.random.default_rng(0).standard_normal((2, *X.shape[1:]))
    z = torch.from_numpy(Z.astype(np.float32)).to(device)
    level = torch.full((2,), sigma, dtype=torch.float64, device=device)
    half = torch.arange(size, device=device).view(1, *X.shape[1:]) % 50 < 30
    query = half.expand(size, -1, -1, -1)
    training_set = TrainingSet(torch.from_numpy(X).to(device))
    windows = Masks("test", query, None)
    exact = masked(z.double(), level, training_set, windows, "torch")
    got = masked(z, level, training_set, windows, engine)
    torch.testing.assert_close(got.mean.double(), exact.mean, rtol=0, atol=1e-5)


def test_partial_sums_equal_the_entries():
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    from scipy.sparse import csr_array

    from skpspc.posterior._masks_kernels import _add_tables
    from skpspc.posterior._masks_numba import LANES, LENGTHS, PADDING, _with_tables

    rng = np.random.default_rng(0)
    matrix = np.repeat(rng.integers(0, 3, (9, 33)), 3, axis=1)[:, :97].astype(np.float32)
    maps = np.zeros((len(LENGTHS), 97 + PADDING, LANES), np.float32)
    maps[0, :97] = rng.random((97, LANES))
    tables = maps.ravel()
    _add_tables(tables)
    partial_sums = _with_tables(csr_array(matrix))
    assert partial_sums.nnz < np.count_nonzero(matrix)
    np.testing.assert_allclose(
        partial_sums @ tables.reshape(-1, LANES), matrix @ maps[0, :97], rtol=1e-6
    )
