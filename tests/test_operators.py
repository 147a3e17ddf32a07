"""Local scores of measurements, against loops in float64 and the limits of the formula."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

import oracle
import skpspc
from skpspc import BlendedDenoiser, EmpiricalDenoiser, LocalScoreDenoiser, SmoothedDenoiser
from test_local_score import KINDS, sources, window

SHAPE = 2, 6, 6


def circular_blur(x):
    """Weigh a pixel and its right and lower neighbours; linear, not symmetric."""
    return 0.5 * x + 0.3 * x.roll(-1, 3) + 0.2 * x.roll(-1, 2)


def coarse(x):
    """Average blocks of 2 x 3 pixels and both channels, weighted."""
    blocks = torch.nn.functional.avg_pool2d(x, (2, 3))
    return blocks[:, :1] - 0.5 * blocks[:, 1:]


def saturated(x):
    """An operator that is not linear."""
    return x.clamp(-0.3, 0.4)


OPERATORS = {"blur": circular_blur, "coarse": coarse, "saturated": saturated, "plain": torch.clone}


def observed_pixels(rng):
    """A mask (C, H, W) in which a whole corner and single coordinates are missing."""
    mask = rng.random(SHAPE) < 0.6
    mask[:, :4, :4] = False
    return mask


# ------------------------------------------------------------------------ the slow formula


def slow(kind, size, Y, X, measured, sigma, mask=None, sample_weight=None):
    """Mean (n, C, H, W) and log p(y) (n,) over training images X with measurements ``measured``.

    The windows, like the patches they are compared with, are squares of measurements; the value of
    a patch is the block of X behind its central pixel. ``mask`` marks the coordinates of Y to
    compare.
    """
    height, width = measured.shape[2:]
    block = X.shape[2] // height, X.shape[3] // width
    prior = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
    seen = np.ones(measured.shape[1:]) if mask is None else mask.astype(float)
    n_values = seen.sum()
    reach = [
        size // 2 if side > 1 or kind in ("local", "broken") else 0 for side in (height, width)
    ]
    mean, evidence = np.empty((len(Y), *X.shape[1:])), np.zeros(len(Y))
    for row, column in itertools.product(range(height), range(width)):
        down, across = (
            sources(kind, at, side, r)
            for at, side, r in zip((row, column), (height, width), reach, strict=True)
        )
        places = list(itertools.product(down, across))
        plain = kind if kind in ("local", "broken") else "inside"
        patches = np.concatenate([window(measured, *place, reach, plain) for place in places])
        patches = patches.reshape(len(patches), -1)
        values = np.concatenate([X[at_block(place, block)] for place in places])
        priors = np.tile(prior, len(places)) / (prior.sum() * len(places))
        counts = window(seen, row, column, reach, kind).ravel()
        if kind == "zero":  # padding counts
            inside = window(np.ones_like(seen), row, column, reach, kind).ravel()
            counts = np.where(inside == 0, 1, counts)
        for k, level in enumerate(np.broadcast_to(sigma, len(Y))):
            query = window(Y[k], row, column, reach, kind).ravel()
            compared = np.nan_to_num(counts) == 1
            weight, log_p = oracle.window_weights(query, patches, level, compared, priors)
            here = at_block((row, column), block)[1:]
            mean[(k, *here)] = np.tensordot(weight, values, 1)
            if compared.any():
                evidence[k] += n_values * log_p / compared.sum() / (height * width)
    return mean, evidence


def at_block(place, block):
    """Index of the pixels (n, C, h, w) behind one pixel of the measurement."""
    rows, columns = (slice(p * b, (p + 1) * b) for p, b in zip(place, block, strict=True))
    return slice(None), slice(None), rows, columns


def numpy_of(operator, X):
    return operator(torch.from_numpy(X).clone()).numpy()


def data(rng, n=6, shape=SHAPE):
    return rng.uniform(-1, 1, (n, *shape))


def noisy(rng, measured, sigma):
    sigma = np.asarray(sigma)
    noise = rng.standard_normal(measured[: len(sigma)].shape)
    return measured[: len(sigma)] + sigma[:, None, None, None] * noise


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def fitted(kind, size, X, operator, sample_weight=None, **options):
    model = LocalScoreDenoiser(size, **KINDS[kind], operator=operator, **options)
    return model.fit(X, sample_weight=sample_weight)


SIGMAS = [0.02, 0.3, 1.0, 20.0]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("weighted", [False, True])
def test_slow_formula(kind, name, weighted, device, rng):
    X, operator = data(rng), OPERATORS[name]
    measured = numpy_of(operator, X)
    size = 1 if name == "coarse" and kind in ("zero", "circular") else 3
    Y = noisy(rng, measured, SIGMAS)
    weight = [1, 3, 0.01, 0, 2, 1] if weighted else None
    model = fitted(kind, size, X, operator, weight, device=device)
    mean, evidence = slow(kind, size, Y, X, measured, SIGMAS, sample_weight=weight)
    got = model.posterior(Y, SIGMAS)
    assert got.mean.shape == (4, *SHAPE)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_mask_slow_formula(kind, size, weighted, device, rng):
    X, mask = data(rng), observed_pixels(rng)
    Y = np.where(mask, noisy(rng, X, SIGMAS), 1e3)
    weight = [1, 3, 0.01, 0, 2, 1] if weighted else None
    model = fitted(kind, size, X, mask, weight, device=device)
    mean, evidence = slow(kind, size, Y, X, X, SIGMAS, mask, weight)
    got = model.posterior(Y, SIGMAS)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-9)


@pytest.mark.parametrize("sigma", [0.02, 0.5])
@pytest.mark.parametrize("name", ["blur", "mask"])
def test_float32_on_photographs(kind, name, sigma, photos, rng):
    size = {0.02: 3, 0.5: 5}[sigma]
    X = photos[:8, :, :12, :12]
    mask = rng.random(X.shape[2:]) < 0.5 if name == "mask" else None
    operator = mask if name == "mask" else circular_blur
    clean = X / 127.5 - 1
    measured = clean if name == "mask" else numpy_of(circular_blur, clean)
    Y = noisy(rng, measured, [sigma]).astype(np.float32)
    full = None if mask is None else np.broadcast_to(mask, X.shape[1:])
    mean, _ = slow(kind, size, Y.astype(float), clean, measured, sigma, full)
    got = fitted(kind, size, X, operator).denoise(Y, sigma)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, mean, rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------- limits


def test_identity_is_the_denoiser_bit_for_bit(kind, rng):
    X = data(rng)
    Z = noisy(rng, X, SIGMAS)
    plain = LocalScoreDenoiser(3, **KINDS[kind]).fit(X).posterior(Z, SIGMAS)
    for operator in (lambda x: x, np.ones(SHAPE[1:], bool), np.ones(SHAPE)):
        got = fitted(kind, 3, X, operator).posterior(Z, SIGMAS)
        for name in ("mean", "log_evidence", "effective_sample_size"):
            np.testing.assert_array_equal(getattr(got, name), getattr(plain, name))


@pytest.mark.parametrize("kind", ["local", "broken"])
@pytest.mark.parametrize("name", [*OPERATORS, "mask"])
def test_window_as_large_as_the_image_is_the_exact_posterior(kind, name, rng):
    X = data(rng)
    is_mask = name == "mask"
    operator = observed_pixels(rng) if is_mask else OPERATORS[name]
    measured = X * operator if is_mask else numpy_of(operator, X)
    Y = noisy(rng, measured, SIGMAS)
    flat_measured = (X[:, operator] if is_mask else measured).reshape(len(X), -1)
    flat = (Y[:, operator] if is_mask else Y).reshape(len(Y), -1)
    # the posterior of the whole image is a softmax over the training images' measurements
    weights = [
        oracle.window_weights(y, flat_measured, s, np.ones(len(y), bool), np.full(6, 1 / 6))[0]
        for y, s in zip(flat, SIGMAS, strict=True)
    ]
    expected = np.tensordot(np.array(weights), X, 1)
    got = fitted(kind, 13, X, operator).denoise(Y, SIGMAS)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_noise_free_measurement_of_a_training_image_returns_it(rng):
    X = data(rng)
    Y = numpy_of(coarse, X)
    got = LocalScoreDenoiser(3, operator=coarse).fit(X).denoise(Y, 0.0)
    np.testing.assert_allclose(got, X, rtol=0, atol=1e-12)


def test_local_mask_equals_a_callable_that_sets_missing_pixels_to_zero(rng):
    X, mask = data(rng), observed_pixels(rng)
    Y = np.where(mask, noisy(rng, X, SIGMAS), 0.0)
    tensor = torch.from_numpy(mask)
    by_mask = fitted("local", 3, X, mask).denoise(Y, SIGMAS)
    by_callable = fitted("local", 3, X, lambda x: x * tensor).denoise(Y, SIGMAS)
    np.testing.assert_allclose(by_mask, by_callable, rtol=0, atol=1e-12)


def test_missing_pixels_do_not_matter(kind, rng):
    X, mask = data(rng), observed_pixels(rng)
    Y = noisy(rng, X, SIGMAS)
    model = fitted(kind, 3, X, mask)
    other = np.where(mask, Y, 1e6)
    np.testing.assert_array_equal(model.denoise(Y, SIGMAS), model.denoise(other, SIGMAS))


def test_nothing_observed_is_the_mean(rng):
    X = data(rng)
    model = fitted("local", 3, X, np.zeros(SHAPE, bool))
    np.testing.assert_allclose(model.denoise(X[:2], 0.1), [X.mean(0)] * 2, rtol=0, atol=1e-12)
    assert (model.score_samples(X[:2], 0.1) == 0).all()


def test_circular_shift_equivariance(rng):
    """A shifted measurement of a circular blur has a shifted estimate."""
    X = data(rng, shape=(1, 8, 8))
    Y = noisy(rng, numpy_of(circular_blur, X), SIGMAS)
    model = fitted("circular", 3, X, circular_blur)
    shifted = model.denoise(np.roll(Y, (2, 3), (2, 3)), SIGMAS)
    expected = np.roll(model.denoise(Y, SIGMAS), (2, 3), (2, 3))
    np.testing.assert_allclose(shifted, expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("name", [*OPERATORS, "mask"])
def test_jacobian_against_differences(kind, name, rng):
    X = data(rng)
    operator = observed_pixels(rng) if name == "mask" else OPERATORS[name]
    Y = X[:2] if name == "mask" else numpy_of(operator, X)[:2]
    model = fitted(kind, 1 if name == "coarse" else 3, X, operator)
    pixels = [(0, 0), (3, 2), (5, 5)]
    got = model.jacobian(Y, 0.7, pixels)
    assert got.shape == (2, 3, SHAPE[0], *Y.shape[1:])
    step = 1e-5
    for at in itertools.product(*map(range, Y.shape[1:])):
        moved = np.zeros(Y.shape[1:])
        moved[at] = step
        slope = (model.denoise(Y + moved, 0.7) - model.denoise(Y - moved, 0.7)) / (2 * step)
        expected = np.stack([slope[:, :, i, j] for i, j in pixels], 1)
        np.testing.assert_allclose(got[(..., *at)], expected, rtol=0, atol=1e-8)


def test_sensitivity_has_the_size_of_measurements(rng):
    X = data(rng)
    heat = fitted("local", 3, X, coarse).sensitivity(numpy_of(coarse, X), 0.5, [(0, 0)])
    assert heat.shape == (1, 3, 2)
    assert (heat[0, 2] == 0).all() and (heat[0, :2] > 0).all()  # the window of pixel (0, 0)


def test_measurements_have_no_likelihood_under_the_flow(rng):
    X = data(rng)
    with pytest.raises(ValueError, match="fit with operator=None"):
        fitted("local", 3, X, circular_blur).log_likelihood(X[:1])


# ----------------------------------------------------------------------------- attribution


@pytest.mark.parametrize("name", ["blur", "coarse", "mask"])
def test_attribution_composes_the_estimate(kind, name, rng):
    X = data(rng)
    operator = observed_pixels(rng) if name == "mask" else OPERATORS[name]
    measured = X if name == "mask" else numpy_of(operator, X)
    Y = noisy(rng, measured, [0.3, 0.3])
    size = 1 if name == "coarse" else 3
    model = fitted(kind, size, X, operator)
    top = 6 * 36  # every patch of every image
    got = model.attribute(Y, 0.3, top=top)
    taken = X.transpose(0, 2, 3, 1)[got.index, got.row, got.column]  # (n, 1, H, W, top, C)
    mean = (got.share[..., None] * taken).sum(4)[:, 0].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(mean, model.denoise(Y, 0.3), rtol=0, atol=1e-9)
    np.testing.assert_allclose(got.image_share.sum(1), 1, rtol=0, atol=1e-9)
    by_window = model.attribute(Y, 0.3, top=1, by="window")
    assert by_window.index.shape == (2, measured[0, 0].size, 1)


@pytest.mark.parametrize("name", ["blur", "coarse", "mask"])
def test_denoise_without_equals_a_fit_without(kind, name, rng):
    X = data(rng)
    operator = observed_pixels(rng) if name == "mask" else OPERATORS[name]
    measured = X if name == "mask" else numpy_of(operator, X)
    Y = noisy(rng, measured, [0.3, 0.3])
    size = 1 if name == "coarse" else 3
    got = fitted(kind, size, X, operator).denoise_without(Y, 0.3, [[0, 2]])[0]
    expected = fitted(kind, size, X[[1, 3, 4, 5]], operator).denoise(Y, 0.3)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


# ------------------------------------------------------------------------- the estimator


def test_score_measures_clean_images(rng):
    """The score of noise-free levels is the error of estimates from measurements."""
    X = data(rng)
    model = LocalScoreDenoiser(3, operator=coarse).fit(X)
    got = model.score(X[:3], sigmas=[1e-9])
    estimates = model.denoise(numpy_of(coarse, X[:3]), 1e-9)
    assert got == pytest.approx(-np.mean((estimates - X[:3]) ** 2), abs=1e-12)
    uninformed = model.score(X[:3], sigmas=[1e9])
    assert uninformed == pytest.approx(-np.mean((X.mean(0) - X[:3]) ** 2), rel=1e-6)


def test_classes(rng):
    X, y = data(rng), np.array([0, 1, 0, 1, 0, 1])
    Y = noisy(rng, numpy_of(coarse, X), [0.3, 0.3])
    got = LocalScoreDenoiser(3, operator=coarse).fit(X, y).denoise(Y, 0.3, y=1)
    expected = LocalScoreDenoiser(3, operator=coarse).fit(X[1::2]).denoise(Y, 0.3)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["coarse", "mask"])
def test_partial_fit_equals_fit(kind, name, rng):
    X = data(rng)
    operator = observed_pixels(rng) if name == "mask" else coarse
    measured = X if name == "mask" else numpy_of(coarse, X)
    Y = noisy(rng, measured, [0.3, 0.3])
    parts = fitted(kind, 1, X[:2], operator)
    for part in (X[2:3], X[3:]):
        parts.partial_fit(part)
    expected = fitted(kind, 1, X, operator).denoise(Y, 0.3)
    np.testing.assert_array_equal(parts.denoise(Y, 0.3), expected)


def test_partial_fit_measures_new_images_only(rng):
    X, seen = data(rng), []

    def operator(x):
        seen.append(len(x))
        return x.mean(1, keepdim=True)

    model = LocalScoreDenoiser(3, operator=operator).fit(X[:4])
    seen.clear()
    model.partial_fit(X[4:])
    assert seen == [2]


def test_pickle_measures_again(rng):
    X = data(rng)
    Y = numpy_of(coarse, X)[:2]
    model = LocalScoreDenoiser(3, operator=coarse).fit(X)
    plain = LocalScoreDenoiser(3).fit(X)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.denoise(Y, 0.3), model.denoise(Y, 0.3))
    assert len(pickle.dumps(model)) < len(pickle.dumps(plain)) + 2000
    assert clone(model).operator is coarse


def test_save_and_load_a_mask(kind, tmp_path, rng):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    X, mask = data(rng), observed_pixels(rng)
    model = fitted(kind, 3, X, mask)
    model.save(tmp_path / "mask.safetensors")
    loaded = skpspc.load(tmp_path / "mask.safetensors")
    np.testing.assert_array_equal(loaded.denoise(X[:2], 0.3), model.denoise(X[:2], 0.3))


def test_a_callable_cannot_be_saved(tmp_path, rng):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    model = LocalScoreDenoiser(3, operator=coarse).fit(data(rng))
    with pytest.raises(ValueError, match=r"operator is of type function.*mask of observed pixels"):
        model.save(tmp_path / "callable.safetensors")


def test_flat_images(rng):
    X = data(rng)
    Y = numpy_of(coarse, X)[:2]
    options = dict(operator=coarse, image_shape=SHAPE)
    flat = LocalScoreDenoiser(3, **options).fit(X.reshape(6, -1)).denoise(Y.reshape(2, -1), 0.3)
    square = LocalScoreDenoiser(3, **options).fit(X).denoise(Y, 0.3)
    np.testing.assert_array_equal(flat, square.reshape(2, -1))


def test_operator_cannot_change_training_images(rng):
    X = data(rng).astype(np.float32)
    kept = X.copy()
    LocalScoreDenoiser(3, operator=lambda x: x.mul_(0)).fit(X)
    np.testing.assert_array_equal(X, kept)


@pytest.mark.usefixtures("cells_of_few_patches")
def test_tol_with_a_mask_is_exact_to_the_tolerance(photos, rng):
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    X = photos[:100]
    mask = np.ones(X.shape[2:], bool)
    mask[10:16, 10:16] = False
    Y = noisy(rng, photos[300:308] / 127.5 - 1, [0.1] * 8).astype(np.float32)
    options = dict(equivariant=True, boundary="broken", operator=mask)
    exact = LocalScoreDenoiser(3, **options).fit(X).posterior(Y, 0.1)
    with pytest.warns(UserWarning, match="estimate"):
        quick = LocalScoreDenoiser(3, tol=0.01, **options).fit(X).posterior(Y, 0.1)
    assert (quick.error_bound > 0).all() and (quick.error_bound <= 0.01).all()
    assert (np.abs(quick.mean - exact.mean) <= 0.01).mean() > 0.99  # an estimate, as without mask


@pytest.mark.parametrize("name", ["coarse", "mask"])
def test_sample_says_what_to_do(name, rng):
    X = data(rng)
    model = fitted("local", 3, X, np.eye(6, dtype=bool) if name == "mask" else coarse)
    smoothed = SmoothedDenoiser(LocalScoreDenoiser(3, operator=model.operator)).fit(X)
    for denoiser in (model, smoothed):
        with pytest.raises(ValueError, match="fit with operator=None"):
            denoiser.sample(2)


def test_smoothed_measurements(rng):
    X = data(rng)
    Y = numpy_of(coarse, X)[:2]
    inner = LocalScoreDenoiser(3, operator=coarse)
    got = SmoothedDenoiser(inner, tau=0.0).fit(X)
    np.testing.assert_allclose(got.denoise(Y, 0.3), inner.fit(X).denoise(Y, 0.3), atol=1e-12)
    assert got.score(X, sigmas=[1e-9]) == pytest.approx(inner.score(X, sigmas=[1e-9]), abs=1e-12)


def test_blend_says_what_to_do(rng):
    members = [("measured", LocalScoreDenoiser(operator=coarse)), ("all", EmpiricalDenoiser())]
    with pytest.raises(ValueError, match="blend denoisers with operator=None"):
        BlendedDenoiser(members).fit(data(rng))


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (np.ones((5, 5)), r"has shape \(5, 5\)"),
        (np.full((6, 6), 0.5), "True .1. at observed"),
        (np.full((6, 6), "a"), "True .1. at observed"),
        (lambda x: x[:, :, :5], "h a divisor of 6"),
        (lambda x: x[:, :, 0], "pad or crop"),
        (lambda x: x[:1].expand(2, -1, -1, -1), "operator must map"),
        (lambda x: x.numpy(), "operator must map"),
        (lambda x: x > 0, "bool array"),
        (lambda x: x / 0, "NaN or infinity"),
        (lambda x: x + torch.rand(x.shape), "without noise"),
    ],
)
def test_bad_operators(operator, message, rng):
    with pytest.raises(ValueError, match=message):
        LocalScoreDenoiser(3, operator=operator).fit(data(rng))


def test_windows_must_fit_the_measurement(rng):
    options = dict(equivariant=True, boundary="circular", operator=coarse)
    with pytest.raises(ValueError, match="patch_size=3 is larger than the image"):
        LocalScoreDenoiser(3, **options).fit(data(rng))
    with pytest.raises(ValueError, match="tol=None, or a mask"):
        LocalScoreDenoiser(1, equivariant=True, tol=0.01, operator=coarse).fit(data(rng))


def test_image_in_place_of_a_measurement(rng):
    X = data(rng)
    with pytest.raises(ValueError, match=r"takes \(1, 3, 2\)"):
        LocalScoreDenoiser(3, operator=coarse).fit(X).denoise(X, 0.3)
