"""Noisy images of other sizes than the training images: against loops over pixels."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import generators
import oracle
from skpspc import (
    EmpiricalDenoiser,
    LocalScoreDenoiser,
    PatchSchedule,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SmoothedDenoiser,
    tapered_windows,
)
from test_local_score import window

BOUNDARIES = ("zero", "circular", "broken")


# ------------------------------------------------------------------------ the slow formulas


def sources(boundary, at, side, source_side, reach):
    """Positions of a training axis with which the window around ``at`` of a noisy axis compares."""

    def cut(position, length):
        return min(reach, position), min(reach, length - 1 - position)

    inside = reach, reach
    wanted = cut(at, side) if boundary == "broken" else inside
    return [q for q in range(source_side) if cut(q, source_side) == wanted]


def slow_score(boundary, size, Z, X, sigma, sample_weight=None):
    """Mean (n, C, H, W), log evidence and effective sample size (n,), pixel by pixel."""
    x, z = oracle.as_float(X).reshape(X.shape), oracle.as_float(Z).reshape(Z.shape)
    prior = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, float)
    reach = [size // 2 if side > 1 else 0 for side in x.shape[2:]]
    height, width = z.shape[2:]
    mean, evidence, ess = np.empty(z.shape), np.zeros(len(z)), np.zeros(len(z))
    for row, column in itertools.product(range(height), range(width)):
        along = [
            sources(boundary, at, side, source_side, r)
            for at, side, source_side, r in zip(
                (row, column), z.shape[2:], x.shape[2:], reach, strict=True
            )
        ]
        places = list(itertools.product(*along))
        plain = "broken" if boundary == "broken" else "inside"
        dictionary = np.concatenate([window(x, *place, reach, plain) for place in places])
        dictionary = dictionary.reshape(len(dictionary), -1)
        values = np.concatenate([x[:, :, i, j] for i, j in places])
        priors = np.tile(prior, len(places)) / (prior.sum() * len(places))
        for k, level in enumerate(np.broadcast_to(sigma, len(z))):
            query = window(z[k], row, column, reach, boundary).ravel()
            mask = ~np.isnan(query)
            weight, log_p = oracle.window_weights(query, dictionary, level, mask, priors)
            mean[k, :, row, column] = weight @ values
            evidence[k] += z[k].size * log_p / mask.sum() / (height * width)
            ess[k] += 1 / (weight**2).sum() / (height * width)
    return mean, evidence, ess


def slow_translates(query, max_shift, Z, X, sigma):
    """Mean of a collection of moved images, window by window; also its log evidence."""
    means, evidence = [], []
    for z in Z:
        total, count, log_p = np.zeros(z.shape), np.zeros(z.shape[1:]), []
        for precision in query:
            rows, columns = np.nonzero(precision)
            distances, crops = [], []
            shifts = range(-max_shift, max_shift + 1)
            for x, down, right in itertools.product(X, shifts, shifts):
                # pixel (i, j) of the moved image is pixel (i - down, j - right) of the image
                i, j = rows - down, columns - right
                if min(i.min(), j.min()) < 0 or i.max() >= x.shape[1] or j.max() >= x.shape[2]:
                    continue
                crops.append(x[:, i, j])
                squares = (z[:, rows, columns] - crops[-1]) ** 2
                distances.append((precision[rows, columns] * squares).sum())
            logit = -np.array(distances) / (2 * sigma**2)
            weight = np.exp(logit - logit.max())
            n_values = z.shape[0] * precision.sum()
            log_norm = logit.max() + np.log(weight.mean())
            constant = n_values / 2 * np.log(2 * np.pi * sigma**2)
            log_p.append((log_norm - constant) / n_values)
            mean = np.tensordot(weight / weight.sum(), np.array(crops), 1)
            total[:, rows, columns] += precision[rows, columns] * mean
            count += precision
        means.append(total / count)
        evidence.append(z.size * np.mean(log_p))
    return np.array(means), np.array(evidence)


# ----------------------------------------------------------------- local scores of any size


def fitted(boundary, size, X, sample_weight=None, **options):
    model = LocalScoreDenoiser(size, equivariant=True, boundary=boundary, **options)
    return model.fit(X, sample_weight=sample_weight)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(
    ("shape", "other", "size"),
    [
        ((2, 6, 5), (9, 11), 1),
        ((2, 6, 5), (9, 11), 3),
        ((1, 7, 6), (5, 14), 5),
        ((3, 8, 9), (5, 5), 5),
        ((1, 1, 9), (1, 14), 3),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_local_score_of_other_sizes(boundary, shape, other, size, weighted, device, rng):
    X = rng.integers(0, 256, (6, *shape), dtype=np.uint8)
    sigma = np.array([0.05, 0.3, 1.0])
    Z = rng.uniform(-1, 1, (3, shape[0], *other))
    weight = [1, 3, 0.01, 0, 2, 1] if weighted else None
    mean, evidence, ess = slow_score(boundary, size, Z, X, sigma, weight)
    model = fitted(boundary, size, X, weight, device=device)
    got = model.posterior(Z, sigma)
    assert got.mean.shape == Z.shape
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-9)
    np.testing.assert_allclose(got.effective_sample_size, ess, rtol=1e-8)
    single = Z.astype(np.float32)
    mean, evidence, _ = slow_score(boundary, size, single, X, sigma, weight)
    got = model.posterior(torch.from_numpy(single), sigma)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-4)


@given(generators.cases(low=0.02), st.sampled_from(BOUNDARIES), st.tuples(*2 * [st.integers(1, 9)]))
def test_any_images_of_any_size(case, boundary, sides):
    side = min([side for side in case.shape[1:] if side > 1], default=1)
    size = min(case.size, side) - 1 + min(case.size, side) % 2
    other = [
        1 if own == 1 else max(size, 2, new) for own, new in zip(case.shape[1:], sides, strict=True)
    ]
    noise = np.random.default_rng(0).standard_normal((len(case.sigma), case.shape[0], *other))
    Z = np.resize(case.x[0], noise.shape) + case.sigma[:, None, None, None] * noise
    got = fitted(boundary, size, case.X).posterior(Z, case.sigma)
    mean, _, ess = slow_score(boundary, size, Z, case.X, case.sigma)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(got.effective_sample_size, ess, rtol=1e-6)


def test_windows_wider_than_a_small_noisy_image(rng):
    X, Z = rng.standard_normal((4, 1, 9, 9)), rng.standard_normal((2, 1, 3, 2))
    for boundary in ("zero", "circular"):
        expected = slow_score(boundary, 7, Z, X, 0.5)[0]
        got = fitted(boundary, 7, X).denoise(Z, 0.5)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def test_a_crop_of_a_large_image_is_denoised_like_the_crop(rng):
    X, Z = rng.standard_normal((8, 2, 7, 6)), rng.standard_normal((2, 2, 16, 15))
    for boundary in BOUNDARIES:
        model = fitted(boundary, 3, X)
        whole = model.denoise(Z, 0.5)
        crop = model.denoise(Z[..., 4:11, 3:9], 0.5)  # as large as a training image
        np.testing.assert_allclose(crop[..., 1:-1, 1:-1], whole[..., 5:10, 4:8], rtol=0, atol=1e-12)


def test_cells_serve_other_sizes(photos, cells_of_few_patches, rng):
    X = photos[:24]
    Z = np.concatenate([photos[100:101], photos[101:102]], 3) / 127.5 - 1
    Z = (Z + 0.1 * rng.standard_normal(Z.shape)).astype(np.float32)
    exact = fitted("zero", 3, X).denoise(Z, 0.1)
    with pytest.warns(UserWarning, match="error_bound is an estimate"):
        got = fitted("zero", 3, X, tol=1e-2).posterior(Z, 0.1)
    assert np.abs(got.mean - exact).max() < 1e-2
    assert not got.bound_is_proved.all()


def test_sizes_by_sigma_on_a_large_image(rng):
    X, Z = rng.standard_normal((4, 1, 6, 6)), rng.standard_normal((2, 1, 8, 9))
    schedule = PatchSchedule([0.1, 1.0], [1, 5])
    got = fitted("broken", schedule, X).denoise(Z, [0.1, 1.0])
    for i, (size, sigma) in enumerate([(1, 0.1), (5, 1.0)]):
        expected = fitted("broken", size, X).denoise(Z[[i]], sigma)
        np.testing.assert_allclose(got[[i]], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_attribution_on_a_large_image(boundary, rng):
    X, Z = rng.standard_normal((5, 1, 6, 5)), rng.standard_normal((2, 1, 9, 8))
    model = fitted(boundary, 3, X)
    n_patches = 5 * 6 * 5
    shares = model.attribute(Z, 0.7, top=n_patches)
    image = X[np.maximum(shares.index, 0), 0, shares.row, shares.column]
    mean = (shares.share * image * (shares.index >= 0)).sum(-1)
    np.testing.assert_allclose(mean, model.denoise(Z, 0.7), rtol=0, atol=1e-10)
    without = model.denoise_without(Z, 0.7, [0, [1, 2]])
    np.testing.assert_allclose(
        without[1], fitted(boundary, 3, X[[0, 3, 4]]).denoise(Z, 0.7), rtol=0, atol=1e-10
    )


def test_classes_and_guidance_on_a_large_image(rng):
    X, Z = rng.standard_normal((8, 1, 6, 6)), rng.standard_normal((2, 1, 9, 7))
    y = np.arange(8) % 2
    model = LocalScoreDenoiser(3, equivariant=True).fit(X, y)
    of_class = fitted("zero", 3, X[y == 1]).denoise(Z, 0.5)
    np.testing.assert_allclose(model.denoise(Z, 0.5, y=1), of_class, rtol=0, atol=1e-12)
    everything = model.denoise(Z, 0.5)
    np.testing.assert_allclose(
        model.denoise(Z, 0.5, y=1, guidance=3.0),
        everything + 3 * (of_class - everything),
        rtol=0,
        atol=1e-12,
    )


def test_score_of_larger_images(rng):
    X, clean = rng.standard_normal((6, 1, 6, 6)), rng.standard_normal((3, 1, 9, 8))
    model = fitted("circular", 3, X)
    small, large = (model.score(clean, sigmas=[sigma]) for sigma in (1e-3, 1e9))
    nearest = model.denoise(clean, 0.0)
    assert small == pytest.approx(-np.mean((nearest - clean) ** 2), rel=1e-2)
    inner = X[:, :, 1:-1, 1:-1].mean()
    assert large == pytest.approx(-np.mean((inner - clean) ** 2), rel=1e-6)


def test_a_mean_over_draws_takes_the_sizes_of_its_denoiser(rng):
    X, Z = rng.standard_normal((6, 1, 6, 6)), rng.standard_normal((2, 1, 9, 8))
    inner = LocalScoreDenoiser(3, equivariant=True)
    assert SmoothedDenoiser(inner, n_draws=2).fit(X).denoise(Z, 0.5).shape == Z.shape
    np.testing.assert_allclose(
        SmoothedDenoiser(inner, tau=0.0).fit(X).denoise(Z, 0.5), inner.fit(X).denoise(Z, 0.5)
    )


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_gradients_on_a_large_image(boundary, rng):
    X, Z = rng.standard_normal((3, 1, 6, 5)), rng.standard_normal((1, 1, 8, 9))
    model, step = fitted(boundary, 3, X), 1e-6
    tracked = torch.from_numpy(Z).requires_grad_()
    model.denoise(tracked, 0.7).square().sum().backward()
    for row, column in [(0, 0), (0, 4), (7, 8), (4, 4)]:
        high, low = (Z.copy() for _ in range(2))
        high[..., row, column] += step
        low[..., row, column] -= step
        change = [float((model.denoise(z, 0.7) ** 2).sum()) for z in (high, low)]
        slope = (change[0] - change[1]) / (2 * step)
        np.testing.assert_allclose(tracked.grad[0, 0, row, column], slope, rtol=1e-5, atol=1e-7)
    jacobian = model.jacobian(Z, 0.7, pixels=[(7, 8)])
    assert jacobian.shape == (1, 1, 1, 1, 8, 9)


def test_gradients_of_translates_on_a_large_image(rng):
    X, Z = rng.standard_normal((3, 1, 5, 5)), rng.standard_normal((1, 1, 6, 7))
    model = PosteriorMeanCollection(squares(3), source="translates", max_shift=3).fit(X)
    tracked = torch.from_numpy(Z).requires_grad_()
    model.denoise(tracked, 0.7).square().sum().backward()
    high, low = Z.copy(), Z.copy()
    high[0, 0, 5, 6] += 1e-6
    low[0, 0, 5, 6] -= 1e-6
    slope = ((model.denoise(high, 0.7) ** 2).sum() - (model.denoise(low, 0.7) ** 2).sum()) / 2e-6
    np.testing.assert_allclose(tracked.grad[0, 0, 5, 6], slope, rtol=1e-5)


# ------------------------------------------------------------------------------- sampling


def test_samples_of_another_size(rng):
    X = rng.uniform(-1, 1, (6, 1, 6, 6))
    model = fitted("zero", 3, X)
    two = model.sample(2, image_shape=(1, 9, 12), random_state=0, n_steps=6)
    assert two.shape == (2, 1, 9, 12)
    one = model.sample(1, image_shape=(1, 9, 12), random_state=0, n_steps=6)
    np.testing.assert_allclose(two[:1], one, rtol=0, atol=1e-12)
    own = model.sample(2, image_shape=(1, 6, 6), random_state=0, n_steps=6)
    np.testing.assert_array_equal(own, model.sample(2, random_state=0, n_steps=6))
    start = 80 * rng.standard_normal((2, 1, 9, 12))
    assert model.sample(initial=start, n_steps=6).shape == (2, 1, 9, 12)
    with pytest.raises(ValueError, match="omit image_shape"):
        model.sample(initial=start, image_shape=(1, 6, 6))


def test_samples_whose_shape_is_wrong(rng):
    X = rng.uniform(-1, 1, (6, 1, 6, 6))
    model = fitted("zero", 3, X)
    for shape in ((9, 12), (3, 9, 12), (1, 0, 12), (1, 1, 12), "large", (1, 9.5, 12)):
        with pytest.raises(ValueError, match="image_shape"):
            model.sample(image_shape=shape)
    with pytest.raises(ValueError, match="equivariant=True"):
        PSPCDenoiser(3).fit(X).sample(image_shape=(1, 9, 12))


# ------------------------------------------------------------------------------ translates


def squares(side):
    """Return windows for any image: all squares of one side."""

    def query(sigma, image_shape):
        return (tapered_windows(image_shape, side, width=np.inf) > 0).astype(float)

    return query


@pytest.mark.parametrize("sides", [(7, 6), (4, 4), (5, 3), (9, 5)])
def test_translates_of_any_size(sides, rng):
    X, Z = rng.standard_normal((3, 2, 5, 4)), rng.standard_normal((2, 2, *sides))
    model = PosteriorMeanCollection(squares(3), source="translates", max_shift=6).fit(X)
    got = model.posterior(Z, 0.8)
    query = squares(3)(0.8, Z.shape[1:])
    mean, evidence = slow_translates(query, 6, Z, X, 0.8)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-9)


def test_soft_translates_of_any_size(rng):
    X, Z = rng.standard_normal((3, 1, 5, 5)), rng.standard_normal((2, 1, 6, 7))

    def query(sigma, image_shape):
        return tapered_windows(image_shape, 3)

    model = PosteriorMeanCollection(query, source="translates", max_shift=2).fit(X)
    mean, _ = slow_translates(query(0.5, (1, 6, 7)), 2, Z, X, 0.5)
    np.testing.assert_allclose(model.denoise(Z, 0.5), mean, rtol=0, atol=1e-10)


def test_translates_that_reach_too_little(rng):
    X, Z = rng.standard_normal((3, 1, 5, 5)), rng.standard_normal((2, 1, 9, 9))
    model = PosteriorMeanCollection(squares(3), source="translates", max_shift=2).fit(X)
    with pytest.raises(ValueError, match="no moved training image covers 24 of 49 windows"):
        model.denoise(Z, 0.5)
    wide = PosteriorMeanCollection(squares(6), source="translates", max_shift=9)
    with pytest.raises(ValueError, match=r"max_shift, or smaller windows"):
        wide.fit(X).denoise(Z, 0.5)


def test_windows_given_as_arrays_have_one_size(rng):
    X, Z = rng.standard_normal((3, 1, 5, 5)), rng.standard_normal((2, 1, 6, 6))
    model = PosteriorMeanCollection(squares(3)(1, (1, 5, 5)), source="translates").fit(X)
    with pytest.raises(ValueError, match=r"callable query\(sigma, image_shape\)"):
        model.denoise(Z, 0.5)


# --------------------------------------------------------------------------------- errors


def test_broken_windows_cut_at_both_edges(rng):
    X = rng.standard_normal((3, 1, 6, 6))
    with pytest.raises(ValueError, match=re.escape("(1, 4, 8)") + ".*patch_size=5.*'zero'"):
        fitted("broken", 5, X).denoise(rng.standard_normal((2, 1, 4, 8)), 0.5)
    with pytest.raises(ValueError, match=re.escape("(1, 6, 6)") + ".*patch_size=7.*'zero'"):
        fitted("broken", 7, X).denoise(rng.standard_normal((2, 1, 9, 9)), 0.5)


@pytest.mark.parametrize("sides", [(9, 9), (4, 4), (9, 4)])
def test_other_denoisers_name_the_remedies(sides, rng):
    X = rng.standard_normal((3, 1, 6, 6))
    models = [
        EmpiricalDenoiser(),
        PSPCDenoiser(3),
        LocalScoreDenoiser(3),
        PosteriorMeanCollection(squares(3)),
    ]
    for model in models:
        with pytest.raises(ValueError, match="equivariant=True") as caught:
            model.fit(X).denoise(rng.standard_normal((2, 1, *sides)), 0.5)
        assert ("denoise_tiled" in str(caught.value)) == (sides == (9, 9))


@pytest.mark.parametrize("shape", [(2, 9, 9), (1, 1, 9), (9, 9), (1, 1, 9, 9)])
def test_shapes_that_no_size_explains(shape, rng):
    model = fitted("zero", 3, rng.standard_normal((3, 1, 6, 6)))
    with pytest.raises(ValueError, match="shape"):
        model.denoise(rng.standard_normal((2, *shape)), 0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_first_chunks_of_moves_need_not_cover_every_window(dtype, rng, monkeypatch):
    """Moves far from the middle of a large image come in later chunks."""
    X = rng.standard_normal((6, 1, 5, 5)).astype(dtype)
    Z = rng.standard_normal((2, 1, 9, 9)).astype(dtype)
    model = PosteriorMeanCollection(squares(3), source="translates", max_shift=6)
    model.fit(X, sample_weight=np.arange(1.0, 7.0))
    whole = model.denoise(Z, 0.8), model.vjp(Z, 0.8, Z)
    monkeypatch.setattr("skpspc.posterior.masks._CHUNK_ROWS", 8)
    monkeypatch.setattr("skpspc.posterior.framed.rows_that_fit", lambda *_, **__: 1)
    chunked = model.denoise(Z, 0.8), model.vjp(Z, 0.8, Z)
    for one, other in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-11)
