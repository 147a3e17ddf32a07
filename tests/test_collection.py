"""The general formula: against plain loops, and equal to every denoiser that is a case of it."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import config_context

import generators
import oracle
from skpspc import (
    EmpiricalDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    tapered_windows,
)
from skpspc.posterior.select import posterior
from skpspc.support import Masks, TrainingSet

SHAPE = (2, 5, 4)
SOURCES = ["images", "flips", "translates"]


# ------------------------------------------------------------------------ the slow formula


def copies(x, source, max_shift):
    """The copies of one image (C, H, W), with NaN beyond its edges."""
    if source == "images":
        return [x]
    if source == "flips":
        return [x, x[:, :, ::-1]]
    _, height, width = x.shape
    out = []
    # moves that leave pixels: an empty window, which every copy covers, counts no others
    rows, columns = (min(max_shift, side - 1) for side in (height, width))
    for down in range(-rows, rows + 1):
        for right in range(-columns, columns + 1):
            copy = np.full(x.shape, np.nan)
            for i in range(height):
                for j in range(width):
                    if 0 <= i + down < height and 0 <= j + right < width:
                        copy[:, i, j] = x[:, i + down, j + right]
            out.append(copy)
    return out


def slow(Z, X, sigma, query, response, source="images", max_shift=1, sample_weight=None):
    """Mean (n, D), log evidence (n,) and effective sample size (n,), window by window."""
    x = oracle.as_float(X).reshape(X.shape)
    z = oracle.as_float(Z)
    n_values = z.shape[1]
    query, response = query.reshape(-1, n_values), response.reshape(-1, n_values)
    prior = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, float)
    rows = [
        (copy.ravel(), p)
        for one, p in zip(x, prior, strict=True)
        for copy in copies(one, source, max_shift)
    ]
    mean, evidence, ess = np.zeros(z.shape), np.zeros(len(z)), np.zeros(len(z))
    for n, level in enumerate(np.broadcast_to(sigma, len(z))):
        for pi, r in zip(query, response, strict=True):
            used = (pi > 0) | (r > 0)
            seen = [(row, p) for row, p in rows if p > 0 and not np.isnan(row[used]).any()]
            p = np.array([p for _, p in seen]) / sum(p for _, p in seen)
            images = np.array([np.nan_to_num(row) for row, _ in seen])
            distance = ((z[n] - images) ** 2 * pi).sum(1)
            logit = -distance / (2 * level**2) + np.log(p)
            weight = np.exp(logit - logit.max())
            log_p = logit.max() + np.log(weight.sum())
            log_p -= pi.sum() / 2 * np.log(2 * np.pi * level**2)
            weight = weight / weight.sum()
            mean[n] += r * (weight @ images) / response.sum(0)
            evidence[n] += n_values * (log_p / pi.sum() if pi.any() else 0) / len(query)
            ess[n] += 1 / (weight**2).sum() / len(query)
    return mean, evidence, ess


def check(model, Z, X, sigma, query, response, atol=1e-10, sample_weight=None, **source):
    posterior = model.fit(X, sample_weight=sample_weight).posterior(Z, sigma)
    mean, evidence, ess = slow(Z, X, sigma, query, response, sample_weight=sample_weight, **source)
    np.testing.assert_allclose(posterior.mean.reshape(mean.shape), mean, rtol=0, atol=atol)
    np.testing.assert_allclose(posterior.log_evidence, evidence, rtol=1e4 * atol, atol=1e-7)
    np.testing.assert_allclose(posterior.effective_sample_size, ess, rtol=1e5 * atol)


@pytest.fixture
def X(rng):
    return rng.integers(0, 256, (9, *SHAPE), dtype=np.uint8)


@pytest.fixture
def Z(X, rng):
    return X[:3] / 127.5 - 1 + 0.5 * rng.standard_normal((3, *SHAPE))


@pytest.fixture
def windows(rng):
    """Six windows, soft, with zeros: query and response."""
    query, response = rng.random((2, 6, *SHAPE))
    query[query < 0.5] = 0
    response[response < 0.3] = 0
    response[0] += 0.01
    return query, response


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("weighted", [False, True])
def test_slow_formula(X, Z, windows, source, weighted, device, rng):
    weight = rng.integers(0, 4, len(X)) if weighted else None
    model = PosteriorMeanCollection(*windows, source=source, device=device)
    levels = [0.05, 0.7, 3.0]
    check(model, Z, X, levels, *windows, sample_weight=weight, source=source)
    small = windows[0] * (np.arange(5) < 2)[:, None], np.ones_like(windows[1])
    small[1][1:] = small[0][1:] > 0
    model.set_params(query=small[0], response=small[1])
    check(model, Z, X, levels, *small, sample_weight=weight, source=source)


@given(generators.cases(), st.sampled_from(SOURCES), st.integers(0, 3), generators.seeds)
def test_any_case(device, case, source, max_shift, seed):
    rng = np.random.default_rng(seed)
    query, response = rng.random((2, 4, *case.shape))
    for array in (query, response):
        array[rng.random(array.shape) < 0.6] = 0
    response[0] += 0.1
    model = PosteriorMeanCollection(
        query, response, source=source, max_shift=max_shift, device=device
    )
    args = {"source": source, "max_shift": max_shift}
    check(model, case.Z, case.X, case.sigma, query, response, atol=1e-9, **args)


def test_single_precision(photos, device):
    X = photos[:200, :, :6, :6]
    Z = photos[200:203, :, :6, :6] / 127.5 - 1
    Z = Z + 0.3 * np.random.default_rng(0).standard_normal(Z.shape)
    query = np.broadcast_to(tapered_windows((3, 6, 6), 3)[:, None], (16, 3, 6, 6))
    for sigma in (0.02, 0.3, 2.0, np.inf):
        for source in SOURCES:
            model = PosteriorMeanCollection(query, source=source, device=device).fit(X)
            mean, *_ = slow(Z, X, sigma, query, query, source=source)
            single = model.denoise(Z.astype(np.float32), sigma)
            np.testing.assert_allclose(single.reshape(3, -1), mean, rtol=0, atol=1e-5)


def test_shapes_of_windows(X, Z, windows):
    query, response = windows
    expected = PosteriorMeanCollection(query, response).fit(X).denoise(Z, 0.5)
    flat = query.reshape(6, -1), response.reshape(6, -1).tolist()
    tensors = torch.from_numpy(query), torch.from_numpy(response)
    functions = (lambda sigma, shape: query.reshape(6, *shape)), lambda sigma, shape: response
    for other in (flat, tensors, functions, (query, functions[1])):
        again = PosteriorMeanCollection(*other).fit(X).denoise(Z, 0.5)
        np.testing.assert_array_equal(again, expected)
    shared = query[:, 0] + 0.1
    every = np.stack([shared, shared], 1)
    np.testing.assert_allclose(
        PosteriorMeanCollection(shared).fit(X).denoise(Z, 0.5),
        PosteriorMeanCollection(every, 2 * every).fit(X).denoise(Z, 0.5),
        atol=1e-14,
    )


def test_windows_that_depend_on_sigma(X, Z):
    def squares(sigma, image_shape):
        return tapered_windows(image_shape, 2 if sigma < 1 else 4)

    model = PosteriorMeanCollection(squares).fit(X)
    mean = model.denoise(Z, [0.3, 2.0, 0.3])
    for i, (sigma, size) in enumerate(((0.3, 2), (2.0, 4), (0.3, 2))):
        fixed = PosteriorMeanCollection(tapered_windows(SHAPE, size)).fit(X)
        np.testing.assert_allclose(mean[[i]], fixed.denoise(Z[[i]], sigma), atol=1e-12)


def test_memory_changes_nothing(photos):
    X, Z = photos[:60, :, :8, :8], photos[:2, :, :8, :8] / 127.5 - 1
    model = PosteriorMeanCollection(tapered_windows((3, 8, 8), 5), source="translates").fit(X)
    expected = model.denoise(Z, 0.5)
    with config_context(working_memory=0.05):
        np.testing.assert_allclose(model.denoise(Z, 0.5), expected, atol=1e-12)


# ------------------------------------------------------------------- equal to special cases


def pixels(shape):
    """A window for every coordinate, (D, C, H, W)."""
    size = int(np.prod(shape))
    return np.eye(size).reshape(size, *shape)


def assert_equal_posteriors(one, other):
    for name in ("mean", "log_evidence", "effective_sample_size"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.5, 4.0, np.inf])
class TestSpecialCases:
    def test_empirical(self, X, Z, sigma):
        one = PosteriorMeanCollection().fit(X).posterior(Z, sigma)
        assert_equal_posteriors(one, EmpiricalDenoiser().fit(X).posterior(Z, sigma))

    def test_patch(self, X, Z, sigma):
        """The crop of the collection is the patch; the rest is answered by another window."""
        window = oracle.patch_mask(1, 0, 3, 3, SHAPE).reshape(SHAPE)
        query = np.stack([window, ~window])
        mean = PosteriorMeanCollection(query).fit(X).denoise(Z, sigma)
        patch = PatchDenoiser(3, location=(1, 0)).fit(X).denoise(Z, sigma)
        np.testing.assert_allclose(mean[..., 1:4, :3], patch, atol=1e-10)

    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    @pytest.mark.filterwarnings("ignore:patch_size=5 is larger than the image")
    def test_pspc(self, X, Z, sigma, size):
        squares = tapered_windows(SHAPE, size, np.inf)
        assert_equal_posteriors(
            PosteriorMeanCollection(squares).fit(X).posterior(Z, sigma),
            PSPCDenoiser(size).fit(X).posterior(Z, sigma),
        )

    def test_masks(self, X, Z, sigma, rng):
        """One mask for every pixel, as in PSPC-Flex."""
        masks = (rng.random((20, 5, 4)) < 0.4) | np.eye(20, dtype=bool).reshape(20, 5, 4)
        one = PosteriorMeanCollection(masks).fit(X).posterior(Z, sigma)
        masks = torch.from_numpy(masks)
        levels = torch.full((3,), sigma, dtype=torch.float64)
        training_set = TrainingSet(torch.from_numpy(X))
        windows = Masks("test", masks[:, None], masks[:, None])
        assert_equal_posteriors(one, posterior(torch.from_numpy(Z), levels, training_set, windows))

    @pytest.mark.parametrize("size", [1, 3, 7])
    def test_local_score(self, X, Z, sigma, size):
        i, j = np.indices((5, 4)).reshape(2, -1)
        near = (abs(i[:, None] - i) <= size // 2) & (abs(j[:, None] - j) <= size // 2)
        query, response = near.reshape(20, 5, 4), np.eye(20).reshape(20, 5, 4)
        assert_equal_posteriors(
            PosteriorMeanCollection(query, response).fit(X).posterior(Z, sigma),
            LocalScoreDenoiser(size).fit(X).posterior(Z, sigma),
        )

    @pytest.mark.parametrize("threshold", [0.05, 0.4])
    def test_pca_locality(self, photos, sigma, threshold):
        X = photos[:40, :, :4, :4]
        Z = X[:3] / 127.5 - 1 + 0.3 * np.random.default_rng(0).standard_normal((3, 3, 4, 4))
        model = PCALocalityDenoiser(threshold).fit(X)

        def neighbours(sigma, image_shape):
            return model.neighbours(sigma).T

        collection = PosteriorMeanCollection(neighbours, pixels((3, 4, 4))).fit(X)
        assert_equal_posteriors(collection.posterior(Z, sigma), model.posterior(Z, sigma))

    def test_equivariant_local_score(self, X, Z, sigma):
        """Where the window lies inside the image, translates are all its inner patches."""
        inner = [(row, column) for row in range(1, 4) for column in range(1, 3)]
        masks = [oracle.patch_mask(i - 1, j - 1, 3, 3, SHAPE).reshape(SHAPE) for i, j in inner]
        response = np.zeros((len(inner) + 1, *SHAPE))
        for k, (i, j) in enumerate(inner):
            response[k, :, i, j] = 1
        response[-1] = response.sum(0) == 0
        query = np.concatenate([masks, response[-1:]])
        model = PosteriorMeanCollection(query, response, source="translates", max_shift=5)
        expected = LocalScoreDenoiser(3, equivariant=True).fit(X).denoise(Z, sigma)
        area = ..., slice(1, 4), slice(1, 3)
        np.testing.assert_allclose(model.fit(X).denoise(Z, sigma)[area], expected[area], atol=1e-10)


def test_flips_are_mirror_images_in_the_training_set(X, Z, windows):
    both = np.concatenate([X, X[..., ::-1]])
    one = PosteriorMeanCollection(*windows, source="flips").fit(X).posterior(Z, 0.6)
    assert_equal_posteriors(one, PosteriorMeanCollection(*windows).fit(both).posterior(Z, 0.6))


def test_flips_make_symmetric_windows_equivariant(X, Z):
    model = PosteriorMeanCollection(tapered_windows(SHAPE, 3), source="flips").fit(X)
    mirrored = model.denoise(Z[..., ::-1].copy(), 0.6)
    np.testing.assert_allclose(mirrored[..., ::-1], model.denoise(Z, 0.6), atol=1e-12)
    plain = PosteriorMeanCollection(tapered_windows(SHAPE, 3)).fit(X)
    assert np.abs(plain.denoise(Z[..., ::-1].copy(), 0.6) - mirrored).max() > 1e-3


def test_a_window_over_the_whole_image_cannot_move(X, Z):
    model = PosteriorMeanCollection(source="translates", max_shift=2).fit(X)
    assert_equal_posteriors(model.posterior(Z, 0.6), EmpiricalDenoiser().fit(X).posterior(Z, 0.6))


def test_a_moved_image_is_recognised(rng):
    """The noisy image is a training image, moved: windows that may move find it."""
    X = rng.standard_normal((20, 1, 8, 8))
    Z = np.zeros((1, 1, 8, 8))
    Z[..., :7] = X[:1, ..., 1:]
    squares = tapered_windows((1, 8, 8), 3)
    moving = PosteriorMeanCollection(squares, source="translates").fit(X).denoise(Z, 0.05)
    still = PosteriorMeanCollection(squares).fit(X).denoise(Z, 0.05)
    inside = ..., slice(3, 5), slice(3, 4)  # every window here looks at the columns that moved
    np.testing.assert_allclose(moving[inside], Z[inside], atol=1e-9)
    assert np.abs(still - Z)[inside].max() > 0.1


# ---------------------------------------------------------------------- the ends, and ties


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0.0, 1e-30, 1e-6])
@pytest.mark.parametrize("places", [[0, 2, 4], [7, 511, 512], [0, 3, 599]])
@pytest.mark.parametrize("n_windows", [1, 3])
def test_tied_images_keep_their_weights(dtype, sigma, places, n_windows, rng, device):
    """Copies of the nearest image anywhere in the training set, weighted alike and not."""
    n = places[-1] + 1
    X = rng.standard_normal((n, 2, 6, 7)).astype(dtype)
    X[places] = X[places[0]]
    query = rng.random((n_windows, 2, 6, 7)) + 0.1
    query[:, 0, 0, 0] = 0
    X[places, 0, 0, 0] = [-1, 0, 5]  # where no window looks
    Z = X[places[:1]] + dtype(0.1) * rng.standard_normal((1, 2, 6, 7)).astype(dtype)
    model = PosteriorMeanCollection(query, np.ones_like(query), device=device)
    weight = np.ones(n)
    weight[places] = [1, 6, 2]
    mean = model.fit(X).denoise(Z, sigma)[0, 0, 0, 0]
    assert mean == pytest.approx(4 / 3, abs=1e-6)
    mean = model.fit(X, sample_weight=weight).denoise(Z, sigma)[0, 0, 0, 0]
    assert mean == pytest.approx(1, abs=1e-6)


def test_mirror_images_of_a_symmetric_image_tie(rng):
    X = rng.standard_normal((5, 1, 3, 4))
    X[..., 2:] = X[..., 1::-1]
    Z = X[:2] + 1e-3 * rng.standard_normal((2, 1, 3, 4))
    posterior = PosteriorMeanCollection(source="flips").fit(X).posterior(Z, 0.0)
    np.testing.assert_allclose(posterior.mean, X[:2], atol=1e-12)


def test_precisions_scale_as_the_noise(X, Z, windows):
    query, response = windows
    one = PosteriorMeanCollection(4 * query, response).fit(X).denoise(Z, 1.0)
    other = PosteriorMeanCollection(query, 7 * response).fit(X).denoise(Z, 0.5)
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_window_that_looks_nowhere_answers_with_the_mean(X, Z):
    query = np.zeros((1, *SHAPE))
    model = PosteriorMeanCollection(query, np.ones_like(query)).fit(X)
    posterior = model.posterior(Z, 0.5)
    mean = (X / 127.5 - 1).mean(0)
    np.testing.assert_allclose(posterior.mean, np.stack([mean] * 3), atol=1e-12)
    np.testing.assert_array_equal(posterior.log_evidence, 0)
    np.testing.assert_allclose(posterior.effective_sample_size, 9)


# ----------------------------------------------------------------------------- soft squares


def test_tapered_windows_are_gaussians_on_squares():
    windows = tapered_windows((2, 5, 6), 3, 1.5)
    assert windows.shape == (12, 5, 6)
    for k, (top, left) in enumerate((i, j) for i in range(3) for j in range(4)):
        for i in range(5):
            for j in range(6):
                inside = top <= i < top + 3 and left <= j < left + 3
                square = (i - top - 1) ** 2 + (j - left - 1) ** 2
                expected = np.exp(-square / (2 * 1.5**2)) if inside else 0
                assert windows[k, i, j] == pytest.approx(expected)
    np.testing.assert_allclose(tapered_windows((2, 5, 6), 3), tapered_windows((2, 5, 6), 3, 0.75))
    even = tapered_windows((1, 4, 4), 4)
    np.testing.assert_allclose(even, even[:, ::-1, ::-1])
    assert tapered_windows((3, 1, 7), 3).shape == (5, 1, 7)
    assert tapered_windows((3, 2, 2), 9).shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((0,), "patch_size must be an int of at least 1, got 0"),
        ((2.5,), "patch_size must be an int of at least 1, got 2.5"),
        ((3, 0), "width must be a positive number of pixels, got 0; pass inf for equal weights"),
        ((3, np.nan), "width must be a positive number"),
        ((3, "a"), "width must be a positive number of pixels, got 'a'"),
    ],
)
def test_bad_tapers(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        tapered_windows(SHAPE, *arguments)
    for shape in ((8, 8), None, (1, 0, 8)):
        sentence = re.escape(f"image_shape must be (C, H, W), positive, got {shape}; gray images")
        with pytest.raises(ValueError, match=sentence):
            tapered_windows(shape, 3)


# ------------------------------------------------------------------------------- bad input


def hole():
    response = np.ones((2, *SHAPE))
    response[:, 1, 2, 3] = 0
    return response


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"query": np.ones((3, 4, 5))}, r"query must have shape \(K, 2, 5, 4\), \(K, 5, 4\) or "),
        ({"query": np.ones((3, 39))}, r"\(K, 40\) for images of shape \(2, 5, 4\), got \(3, 39\)"),
        ({"query": np.ones((0, 40))}, r"got \(0, 40\)"),
        ({"query": np.ones(40)}, r"got \(40,\)"),
        ({"response": np.ones((1, 1, 5, 4))}, "response must have shape"),
        ({"query": -np.ones((1, 40))}, "query must be finite and non-negative, got -1.0"),
        ({"query": np.full((1, 40), np.nan)}, "got nan; 0 leaves a coordinate out"),
        ({"response": np.full((1, 40), np.inf)}, "response must be finite .* got inf"),
        ({"query": [["a"] * 40]}, "query must be an array of numbers, got list"),
        ({"query": [[1.0] * 40, [1.0]]}, "query must be an array of numbers, got list"),
        (
            {"query": np.ones((3, 40)), "response": np.ones((2, 40))},
            "3 windows, but response has 2",
        ),
        ({"response": np.ones((2, 40))}, "query has 1 windows, but response has 2"),
        ({"query": hole()}, "for 1 coordinates, first for channel 1, row 2, column 3"),
        ({"source": "crops"}, "'source' parameter"),
        ({"max_shift": -1}, "'max_shift' parameter"),
        ({"query": "whole"}, "'query' parameter"),
    ],
)
def test_bad_parameters(X, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        PosteriorMeanCollection(**parameters).fit(X)


def test_bad_answers_of_callables(X, Z):
    for function, sentence in (
        (lambda sigma, shape: np.ones((2, 7)), r"got \(2, 7\) at sigma = 0.5"),
        (lambda sigma, shape: -hole(), "got -1.0 at sigma = 0.5"),
        (lambda sigma, shape: hole(), "for 1 coordinates at sigma = 0.5, first for channel"),
    ):
        model = PosteriorMeanCollection(function).fit(X)
        with pytest.raises(ValueError, match=sentence):
            model.denoise(Z, 0.5)
