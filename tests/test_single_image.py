"""All patches of a photograph: against plain loops, and other denoisers in the limits."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import generators
import oracle
from helpers import fit_quietly
from skpspc import (
    EmpiricalDenoiser,
    LocalScoreDenoiser,
    PatchSchedule,
    PSPCDenoiser,
    SingleImageDenoiser,
)
from skpspc.posterior import patches

# -------------------------------------------------------------------------- slow formulas


def patches_of(image, h, w):
    """All patches of one image (C, H, W), row by row: (m, C * h * w)."""
    _, height, width = image.shape
    corners = itertools.product(range(height - h + 1), range(width - w + 1))
    return np.array([image[:, i : i + h, j : j + w].ravel() for i, j in corners])


def reduced(image, factor):
    """Means of squares of pixels of one image; an axis of length 1 stays."""
    along = [1 if side == 1 else factor for side in image.shape[1:]]
    height, width = (side // f for side, f in zip(image.shape[1:], along, strict=True))
    out = np.empty((len(image), height, width))
    for i, j in itertools.product(range(height), range(width)):
        rows, columns = (slice(k * f, (k + 1) * f) for k, f in zip((i, j), along, strict=True))
        out[:, i, j] = image[:, rows, columns].mean((1, 2))
    return out


def slow(size, Z, X, sigma, sample_weight=None, stride=1, scales=(1,)):
    """Mean (n, C, H, W), log evidence and effective sample size (n,), window by window."""
    x, z = oracle.as_float(X).reshape(X.shape), oracle.as_float(Z).reshape(Z.shape)
    weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, float)
    levels = [[image if s == 1 else reduced(image, s) for image in x] for s in scales]
    h, w = (min(size, *(level[0].shape[axis] for level in levels)) for axis in (1, 2))
    source, prior = [], []
    for level in levels:
        for image, v in zip(level, weight, strict=True):
            own = patches_of(image, h, w)
            source.append(own)
            prior.append(np.full(len(own), v))
    source, prior = np.concatenate(source), np.concatenate(prior)
    prior = prior / prior.sum()
    _, channels, height, width = z.shape
    down, across = min(stride, h), min(stride, w)
    places = [
        (i, j)
        for i in range(height - h + 1)
        for j in range(width - w + 1)
        if (i % down == 0 or i == height - h) and (j % across == 0 or j == width - w)
    ]
    mean, evidence, ess = np.zeros(z.shape), np.zeros(len(z)), np.zeros(len(z))
    for k, level in enumerate(np.broadcast_to(sigma, len(z))):
        count = np.zeros((height, width))
        for i, j in places:
            query = z[k, :, i : i + h, j : j + w].ravel()
            everything = np.ones(len(query), bool)
            weights, log_p = oracle.window_weights(query, source, level, everything, prior)
            mean[k, :, i : i + h, j : j + w] += (weights @ source).reshape(channels, h, w)
            count[i : i + h, j : j + w] += 1
            evidence[k] += z[k].size * log_p / len(query) / len(places)
            ess[k] += 1 / (weights**2).sum() / len(places)
        mean[k] /= count
    return mean, evidence, ess


@pytest.mark.parametrize(
    ("shape", "other", "size", "options"),
    [
        ((2, 6, 5), (6, 5), 3, {}),
        ((2, 6, 5), (9, 4), 3, {"stride": 2}),
        ((1, 7, 6), (8, 9), 4, {"stride": 4}),
        ((3, 8, 9), (5, 7), 2, {"scales": (1, 2, 3)}),
        ((1, 9, 7), (5, 7), 3, {"scales": [2], "stride": 3}),
        ((1, 1, 9), (1, 14), 3, {"scales": (1, 2)}),
        ((2, 3, 3), (3, 3), 1, {}),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_slow_formula(shape, other, size, options, weighted, device, rng):
    X = rng.uniform(-1, 1, (3, *shape))
    sigma = np.array([0.05, 0.3, 2.0])
    Z = rng.uniform(-1, 1, (3, shape[0], *other))
    weight = [1, 3, 0.01] if weighted else None
    model = SingleImageDenoiser(size, device=device, **options).fit(X, sample_weight=weight)
    mean, evidence, ess = slow(size, Z, X, sigma, weight, **options)
    got = model.posterior(Z, sigma)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-9)
    np.testing.assert_allclose(got.effective_sample_size, ess, rtol=1e-8)
    assert (got.error_bound == 0).all() and got.bound_is_proved.all()
    single = Z.astype(np.float32)
    mean, evidence, _ = slow(size, single, X, sigma, weight, **options)
    got = model.posterior(torch.from_numpy(single), sigma)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-4)


@given(generators.cases(low=0.02), st.integers(1, 3))
def test_any_images(case, stride):
    size = max(case.size, stride)
    model = fit_quietly(SingleImageDenoiser(size, stride=stride), case.X)
    got = model.posterior(case.Z, case.sigma)
    mean, _, ess = slow(size, case.Z, case.X, case.sigma, stride=stride)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(got.effective_sample_size, ess, rtol=1e-6)
    low, high = case.x.min(), case.x.max()
    assert (got.mean >= low - 1e-9).all() and (got.mean <= high + 1e-9).all()


def test_uint8_scales_are_rounded(rng):
    X = rng.integers(0, 256, (2, 3, 9, 9), dtype=np.uint8)
    Z = rng.uniform(-1, 1, (1, 3, 6, 6))
    half = np.stack([np.round(reduced(image.astype(float), 2)) for image in X]).astype(np.uint8)
    got = SingleImageDenoiser(3, scales=(2,)).fit(X).denoise(Z, 0.3)
    np.testing.assert_allclose(
        got, SingleImageDenoiser(3).fit(half).denoise(Z, 0.3), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("sigma", [0.02, 0.2, 1.0])
def test_float32_on_photographs(sigma, photos, device, rng):
    X, clean = photos[:4], photos[100:101] / 127.5 - 1
    Z = (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)
    mean, evidence, _ = slow(5, Z, X, sigma)
    got = SingleImageDenoiser(5, device=device).fit(X).posterior(Z, sigma)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-4)


# ------------------------------------------------------------------- limits and relations


def test_sigma_zero_is_the_nearest_patch_ties_averaged(rng):
    X = rng.integers(-2, 3, (3, 1, 5, 5)) / 2.0
    Z = X[:2] + rng.integers(-1, 2, (2, 1, 5, 5)) / 4.0
    model = SingleImageDenoiser(2).fit(X)
    np.testing.assert_allclose(model.denoise(Z, 0.0), slow(2, Z, X, 0.0)[0], rtol=0, atol=1e-10)


def test_the_photograph_is_a_fixed_point(photos):
    X = photos[:1]
    got = SingleImageDenoiser(7, stride=3).fit(X).denoise(X, 1e-3)
    np.testing.assert_allclose(got, X / 127.5 - 1, rtol=0, atol=1e-5)


def test_one_window_is_the_empirical_denoiser(rng):
    X, Z = rng.standard_normal((6, 2, 5, 4)), rng.standard_normal((3, 2, 5, 4))
    model = fit_quietly(SingleImageDenoiser(5), X)
    expected = EmpiricalDenoiser().fit(X).posterior(Z, 0.7)
    got = model.posterior(Z, 0.7)
    np.testing.assert_allclose(got.mean, expected.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.log_evidence, expected.log_evidence, rtol=1e-10)
    np.testing.assert_allclose(got.effective_sample_size, expected.effective_sample_size)


def test_single_pixels_are_local_scores_of_single_pixels(rng):
    X, Z = rng.standard_normal((2, 3, 6, 5)), rng.standard_normal((2, 3, 8, 8))
    expected = LocalScoreDenoiser(1, equivariant=True).fit(X).denoise(Z, 0.4)
    got = SingleImageDenoiser(1).fit(X).denoise(Z, 0.4)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_constant_along_the_image_it_is_the_composite_at_one_position(rng):
    # every position of an image that repeats every pixel offers the patches of one position
    X = np.tile(rng.standard_normal((5, 2, 1, 1)), (1, 1, 6, 6))
    Z = rng.standard_normal((2, 2, 6, 6))
    expected = PSPCDenoiser(3).fit(X).denoise(Z, 0.6)
    got = SingleImageDenoiser(3).fit(X).denoise(Z, 0.6)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_a_shifted_noisy_image(rng):
    X, Z = rng.standard_normal((1, 1, 9, 9)), rng.standard_normal((1, 1, 12, 12))
    model = SingleImageDenoiser(3).fit(X)
    whole, crop = model.denoise(Z, 0.5), model.denoise(Z[..., 2:, 3:], 0.5)
    np.testing.assert_allclose(crop[..., 2:, 2:], whole[..., 4:, 5:], rtol=0, atol=1e-12)


def test_chunks_do_not_show(photos, monkeypatch, rng):
    from skpspc.posterior import anywhere

    X, sigma = photos[:3], np.array([0.05, 0.4])
    Z = photos[50:52] / 127.5 - 1
    Z = Z + sigma[:, None, None, None] * rng.standard_normal(Z.shape)
    expected = SingleImageDenoiser(5).fit(X).posterior(Z, sigma)
    monkeypatch.setattr(anywhere, "_WINDOWS", 37)
    monkeypatch.setattr(patches, "_CHUNK_ROWS", {"cpu": 10})
    monkeypatch.setattr(patches, "_QUERY_ROWS", 30)
    got = SingleImageDenoiser(5).fit(X).posterior(Z, sigma)
    np.testing.assert_allclose(got.mean, expected.mean, rtol=0, atol=1e-11)
    np.testing.assert_allclose(got.log_evidence, expected.log_evidence, rtol=1e-10)


def test_sizes_by_sigma(rng):
    X, Z = rng.standard_normal((1, 1, 9, 9)), rng.standard_normal((2, 1, 8, 8))
    schedule = PatchSchedule([0.1, 1.0], [2, 5])
    got = SingleImageDenoiser(schedule).fit(X).denoise(Z, [0.1, 1.0])
    for i, (size, sigma) in enumerate([(2, 0.1), (5, 1.0)]):
        expected = SingleImageDenoiser(size).fit(X).denoise(Z[[i]], sigma)
        np.testing.assert_allclose(got[[i]], expected, rtol=0, atol=1e-12)


def test_classes_growth_and_pickles(rng):
    X, Z = rng.standard_normal((4, 1, 6, 6)), rng.standard_normal((2, 1, 8, 7))
    y = [0, 1, 0, 1]
    model = SingleImageDenoiser(3, scales=(1, 2)).fit(X, y)
    alone = SingleImageDenoiser(3, scales=(1, 2)).fit(X[1::2])
    np.testing.assert_allclose(model.denoise(Z, 0.5, y=1), alone.denoise(Z, 0.5), atol=1e-12)
    grown = SingleImageDenoiser(3, scales=(1, 2)).fit(X[:2]).partial_fit(X[2:])
    np.testing.assert_array_equal(grown.denoise(Z, 0.5), model.denoise(Z, 0.5))
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.denoise(Z, 0.5), model.denoise(Z, 0.5))


def test_samples_of_any_size_mix_patches(photos):
    model = SingleImageDenoiser(5, stride=2).fit(photos[:1])
    sample = model.sample(2, image_shape=(3, 12, 20), random_state=0, n_steps=8)
    assert sample.shape == (2, 3, 12, 20)
    assert np.abs(sample).max() < 1.05
    np.testing.assert_allclose(
        sample[:1],
        model.sample(image_shape=(3, 12, 20), random_state=0, n_steps=8),
        rtol=0,
        atol=1e-4,
    )


# ---------------------------------------------------------------------------------- cells


@pytest.mark.parametrize("scales", [(1,), (1, 2)])
@pytest.mark.parametrize("sigma", [0.1, 0.2])
def test_errors_of_cells_are_as_estimated(scales, sigma, photos, cells_of_few_patches, rng):
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    X, clean = photos[:200], photos[300:302] / 127.5 - 1
    Z = (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)
    exact = SingleImageDenoiser(3, scales=scales).fit(X).posterior(Z, sigma)
    with pytest.warns(UserWarning, match="error_bound is an estimate"):
        got = SingleImageDenoiser(3, scales=scales, tol=1e-2).fit(X).posterior(Z, sigma)
    assert (got.error_bound > 0).all() and (got.error_bound <= 1e-2).all()
    assert not got.bound_is_proved.any()
    error = np.abs(got.mean - exact.mean)
    assert (error <= got.error_bound[:, None, None, None] + 1e-5).mean() > 0.995
    np.testing.assert_allclose(got.log_evidence, exact.log_evidence, rtol=1e-2)


def test_cells_with_sample_weights(photos, cells_of_few_patches, rng):
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    X, clean = photos[:120], photos[300:301] / 127.5 - 1
    Z = (clean + 0.15 * rng.standard_normal(clean.shape)).astype(np.float32)
    weight = np.arange(120) % 5 + 0.1
    exact = SingleImageDenoiser(3).fit(X, sample_weight=weight).denoise(Z, 0.15)
    model = SingleImageDenoiser(3, tol=1e-2).fit(X, sample_weight=weight)
    with pytest.warns(UserWarning, match="error_bound is an estimate"):
        assert np.mean(np.abs(model.denoise(Z, 0.15) - exact) <= 1e-2) > 0.995


# --------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("scales", [(), (0,), (1.5,), "ab", (-1, 1)])
def test_scales_that_are_no_factors(scales, rng):
    with pytest.raises(ValueError, match="scales"):
        SingleImageDenoiser(3, scales=scales).fit(rng.standard_normal((1, 1, 6, 6)))


def test_scales_that_leave_nothing(rng):
    with pytest.raises(ValueError, match="pass smaller scales"):
        SingleImageDenoiser(3, scales=(1, 7)).fit(rng.standard_normal((1, 1, 6, 6)))


def test_strides_that_skip_pixels(rng):
    X = rng.standard_normal((1, 1, 9, 9))
    for size in (3, PatchSchedule([0.1, 1.0], [3, 5])):
        with pytest.raises(ValueError, match="stride of at most patch_size"):
            SingleImageDenoiser(size, stride=4).fit(X)
    with pytest.raises(ValueError, match="at least stride=4"):
        SingleImageDenoiser(lambda sigma: 3, stride=4).fit(X).denoise(X, 0.5)


def test_images_smaller_than_a_window(rng):
    model = SingleImageDenoiser(4).fit(rng.standard_normal((1, 1, 6, 6)))
    with pytest.raises(ValueError, match="smaller patch_size"):
        model.denoise(rng.standard_normal((1, 1, 3, 9)), 0.5)


def test_jacobian_in_an_image_of_another_size(rng):
    """Rows equal central differences; a pixel depends on the windows that cover it."""
    model = SingleImageDenoiser(3, stride=2, scales=(1, 2)).fit(rng.standard_normal((2, 2, 7, 6)))
    z, pixels, step = rng.standard_normal((1, 2, 5, 8)), [(0, 0), (2, 4)], 1e-5
    got = model.jacobian(z, 0.8, pixels)
    assert got.shape == (1, 2, 2, 2, 5, 8)
    assert (got[0, 0, :, :, 3:] == 0).all() and (got[0, 0, :, :, :, 3:] == 0).all()
    for at in np.ndindex(z.shape[1:]):
        moved = np.zeros_like(z)
        moved[(0, *at)] = step
        slope = (model.denoise(z + moved, 0.8) - model.denoise(z - moved, 0.8)) / (2 * step)
        expected = np.stack([slope[:, :, i, j] for i, j in pixels], 1)
        np.testing.assert_allclose(got[(..., *at)], expected, rtol=0, atol=1e-8)


def test_it_has_no_attribution(rng):
    X = rng.standard_normal((2, 1, 6, 6))
    with pytest.raises(ValueError, match="use PSPCDenoiser"):
        SingleImageDenoiser(3).fit(X).attribute(X, 0.5)
