"""Tapered patches and moved training images of PSPC, against the slow formula."""

import numpy as np
import pytest
import torch

import oracle
from helpers import fit_quietly
from skpspc import EmpiricalDenoiser, FlexibleWindows, PosteriorMeanCollection, PSPCDenoiser
from skpspc.posterior.box import window_spread, window_sum
from skpspc.support import Squares, TrainingSet, TranslatedTrainingSet, squares_of_side

AXES = {
    "soft queries": {"query_taper": 1.0},
    "soft responses, mirrored": {"response_taper": 0.5, "flip": True},
    "moved": {"max_shift": 1},
    "moved farther, mirrored": {"max_shift": 2, "flip": True},
    "all": {"query_taper": 0.5, "response_taper": 1.0, "flip": True, "max_shift": 1},
}


def data(shape, dtype, n=20, seed=0):
    """Training images (n, C, H, W), and weights."""
    rng = np.random.default_rng([seed, *shape])
    images = rng.integers(0, 256, (n, *shape)).astype(np.uint8)
    if dtype != np.uint8:
        images = (images / 127.5 - 1).astype(dtype)
    return images, rng.uniform(0.5, 2, n)


def noisy(X, sigma, dtype, n=2, seed=1):
    """Noisy training images."""
    clean = oracle.as_float(X[:n]).reshape(n, *X.shape[1:])
    return (clean + sigma * np.random.default_rng(seed).normal(size=clean.shape)).astype(dtype)


def slow(
    Z, X, sigma, size, query_taper=0.0, response_taper=0.0, flip=False, max_shift=0, weight=None
):
    """Mean, evidence and sample size, by plain loops over windows."""
    if flip:
        X = np.concatenate([X, X[..., ::-1]])
        weight = None if weight is None else np.tile(weight, 2)
    tapers = query_taper, response_taper
    windows = [oracle.tapered_squares(size, X.shape[1:], taper) for taper in tapers]
    return oracle.soft_collection(Z, oracle.moved_copies(X, max_shift), sigma, *windows, weight)


def assert_close(posterior, expected, exact):
    mean, evidence, ess = expected
    found = posterior.mean.reshape(mean.shape)
    np.testing.assert_allclose(found, mean, rtol=0, atol=1e-9 if exact else 1e-5)
    np.testing.assert_allclose(posterior.log_evidence, evidence, rtol=1e-9 if exact else 1e-5)
    rtol = 1e-7 if exact else 1e-3
    np.testing.assert_allclose(posterior.effective_sample_size, ess, rtol=rtol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("stored", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(3, 8, 9), (1, 1, 17), (2, 12, 5)])
@pytest.mark.parametrize("name", AXES)
def test_slow_formula(name, shape, stored, dtype):
    X, weight = data(shape, stored)
    for size, sigma in [(2, 0.5), (5, 0.1), (5, 1.0), (6, 2.0), (20, 0.8)]:
        Z = noisy(X, sigma, dtype)
        model = fit_quietly(PSPCDenoiser(size, **AXES[name]), X, weight)
        expected = slow(Z, X, sigma, size, weight=weight, **AXES[name])
        assert_close(model.posterior(Z, sigma), expected, dtype == np.float64)


@pytest.mark.parametrize("name", AXES)
def test_many_images_at_small_noise(name, engine):
    """Blocks of moved images, and logits that are refined in float64."""
    X, weight = data((3, 8, 8), np.uint8, n=150)
    for sigma in (0.02, 0.1):
        Z = noisy(X, sigma, np.float32, n=3)
        model = PSPCDenoiser(4, engine=engine, **AXES[name]).fit(X, sample_weight=weight)
        expected = slow(Z, X, sigma, 4, weight=weight, **AXES[name])
        np.testing.assert_allclose(
            model.denoise(Z, sigma).reshape(3, -1), expected[0], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", AXES)
def test_weights_of_very_different_sizes(name):
    X, _ = data((1, 7, 7), np.float32, n=40)
    weight = 10.0 ** np.random.default_rng(0).uniform(-6, 6, 40)
    Z = noisy(X, 0.3, np.float32)
    model = PSPCDenoiser(3, **AXES[name]).fit(X, sample_weight=weight)
    assert_close(model.posterior(Z, 0.3), slow(Z, X, 0.3, 3, weight=weight, **AXES[name]), False)


@pytest.mark.parametrize("sigma", [0.0, np.inf])
@pytest.mark.parametrize("name", AXES)
def test_ends_of_the_noise(name, sigma):
    """At 0, patches of a training image come back; at inf, the mean of what covers each window."""
    X, _ = data((1, 6, 6), np.float32)
    model = PSPCDenoiser(3, **AXES[name]).fit(X)
    if sigma == 0:
        np.testing.assert_allclose(model.denoise(X[:3], 0.0), X[:3], atol=1e-6)
    else:
        expected, _, _ = slow(X[:1], X, 1e9, 3, **AXES[name])
        found = model.denoise(X[:1], np.inf).reshape(1, -1)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_moved_training_image_is_denoised_from_its_original():
    X, _ = data((1, 10, 10), np.float32)
    Z = np.roll(X[:2], (1, -1), axis=(2, 3))
    moved = PSPCDenoiser(4, max_shift=1).fit(X).denoise(Z, 0.05)
    plain = PSPCDenoiser(4).fit(X).denoise(Z, 0.05)
    inner = np.s_[..., 4:-4, 4:-4]
    np.testing.assert_allclose(moved[inner], Z[inner], atol=1e-6)
    assert abs(plain - Z)[inner].max() > 0.1


@pytest.mark.parametrize("name", AXES)
def test_a_patch_as_large_as_the_image_is_the_empirical_denoiser(name):
    X, _ = data((2, 5, 6), np.float64)
    Z = noisy(X, 0.5, np.float64)
    flip = AXES[name].get("flip", False)
    images = np.concatenate([X, X[..., ::-1]]) if flip else X
    whole, empirical = PSPCDenoiser(lambda s: 9, **AXES[name]).fit(X), EmpiricalDenoiser()
    empirical.fit(images)
    for found, expected in zip(
        (whole.denoise(Z, 0.5), whole.score_samples(Z, 0.5), whole.jacobian(Z, 0.5)),
        (empirical.denoise(Z, 0.5), empirical.score_samples(Z, 0.5), empirical.jacobian(Z, 0.5)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    shares = (model.attribute(Z, 0.5, top=3).share for model in (whole, empirical))
    np.testing.assert_allclose(*shares, rtol=1e-9)


def test_the_collection_of_the_same_windows():
    """`PosteriorMeanCollection` computes tapered windows and moved images by matrix products."""
    X, weight = data((2, 8, 7), np.float64)
    Z = noisy(X, 0.6, np.float64)
    windows = [np.stack(oracle.tapered_squares(5, (2, 8, 7), taper)) for taper in (0.5, 1.0)]
    collection = PosteriorMeanCollection(*windows, source="translates", max_shift=2)
    model = PSPCDenoiser(5, query_taper=0.5, response_taper=1.0, max_shift=2)
    model.fit(X, sample_weight=weight)
    collection.fit(X, sample_weight=weight)
    expected, found = collection.posterior(Z, 0.6), model.posterior(Z, 0.6)
    for field in ("mean", "log_evidence", "effective_sample_size"):
        np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-9)
    np.testing.assert_allclose(model.jacobian(Z, 0.6), collection.jacobian(Z, 0.6), atol=1e-10)


# Derivatives


@pytest.mark.parametrize("stored", [np.uint8, np.float32])
@pytest.mark.parametrize("name", AXES)
def test_products_with_the_jacobian(name, stored):
    """The Jacobian equals central differences of the slow formula; products equal it in float32."""
    X, weight = data((2, 6, 5), stored, n=12)
    sigma, step = 0.7, 1e-5
    Z = noisy(X, sigma, np.float64, n=1)
    model = PSPCDenoiser(3, **AXES[name]).fit(X, sample_weight=weight)
    steps = step * np.eye(60).reshape(60, 2, 6, 5)
    above, rise, _ = slow(Z + steps, X, sigma, 3, weight=weight, **AXES[name])
    below, fall, _ = slow(Z - steps, X, sigma, 3, weight=weight, **AXES[name])
    expected = ((above - below) / (2 * step)).T
    jacobian = np.moveaxis(model.jacobian(Z, sigma)[0], 0, 1)  # (C, pixels, C, H, W)
    np.testing.assert_allclose(jacobian.reshape(60, 60), expected, atol=1e-7)
    rng = np.random.default_rng(5)
    v = rng.normal(size=Z.shape)
    for dtype, tol in ((np.float64, 1e-6), (np.float32, 1e-4)):
        z, along = Z.astype(dtype), v.astype(dtype)
        np.testing.assert_allclose(
            model.jvp(z, sigma, along).reshape(-1), expected @ v.ravel(), atol=tol
        )
        np.testing.assert_allclose(
            model.vjp(z, sigma, along).reshape(-1), expected.T @ v.ravel(), atol=tol
        )
    z = torch.tensor(Z, requires_grad=True)
    model.posterior(z, sigma).log_evidence.sum().backward()
    np.testing.assert_allclose(z.grad.ravel(), (rise - fall) / (2 * step), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tapers", [(0.5, 0.0), (0.0, 1.0), (1.0, 0.5)])
def test_attributions_sum_to_the_mean(tapers):
    """The shares of all images give back the denoised image."""
    X, weight = data((1, 6, 6), np.float64, n=8)
    Z = noisy(X, 0.6, np.float64)
    options = dict(zip(("query_taper", "response_taper"), tapers, strict=True))
    model = PSPCDenoiser(4, **options).fit(X, sample_weight=weight)
    shares = model.attribute(Z, 0.6, top=8)  # (n, 1, H, W, 8)
    values = X.reshape(8, 36)[shares.index[:, 0], np.arange(36).reshape(6, 6, 1)]
    mean = (shares.share[:, 0] * values).sum(-1)
    np.testing.assert_allclose(mean, model.denoise(Z, 0.6)[:, 0], atol=1e-10)
    without = model.denoise_without(Z, 0.6, [[0]])
    alone = PSPCDenoiser(4, **options).fit(X[1:], sample_weight=weight[1:])
    np.testing.assert_allclose(without[0], alone.denoise(Z, 0.6), atol=1e-10)


@pytest.mark.parametrize("method", ["attribute", "denoise_without"])
def test_moved_images_have_no_attribution(method):
    X, _ = data((1, 6, 6), np.float64)
    model = PSPCDenoiser(3, max_shift=1).fit(X)
    arguments = ([[0]],) if method == "denoise_without" else ()
    with pytest.raises(ValueError, match=r"moved training images.*use max_shift=0"):
        getattr(model, method)(X[:1], 0.5, *arguments)


# Other parameters


def test_classes_shards_and_further_images():
    X, weight = data((1, 7, 7), np.float32, n=30)
    Z = noisy(X, 0.5, np.float32)
    y = np.arange(30) % 2
    for options in AXES.values():
        model = PSPCDenoiser(lambda s: 4, **options).fit(X, y, sample_weight=weight)
        alone = PSPCDenoiser(4, **options).fit(X[y == 1], sample_weight=weight[y == 1])
        np.testing.assert_allclose(model.denoise(Z, 0.5, y=1), alone.denoise(Z, 0.5), atol=1e-6)
        plain = PSPCDenoiser(4, **options).fit(X, sample_weight=weight)
        grown = PSPCDenoiser(4, **options).fit(X[:20], sample_weight=weight[:20])
        grown.partial_fit(X[20:], sample_weight=weight[20:])
        np.testing.assert_allclose(grown.denoise(Z, 0.5), plain.denoise(Z, 0.5), atol=1e-6)
        if "max_shift" not in options:
            shards = PSPCDenoiser(4, device=["cpu", "cpu"], **options)
            shards.fit(X, sample_weight=weight)
            np.testing.assert_allclose(shards.denoise(Z, 0.5), plain.denoise(Z, 0.5), atol=1e-6)
            np.testing.assert_allclose(shards.vjp(Z, 0.5, Z), plain.vjp(Z, 0.5, Z), atol=1e-5)


def test_global_bandwidth_compares_tapered_patches_of_filtered_images():
    X, _ = data((1, 6, 6), np.float64, n=30)
    Z = noisy(X, 0.5, np.float64)
    options = dict(bandwidth=0.5, smoothing="global")
    hard, soft = (PSPCDenoiser(3, query_taper=t, **options).fit(X) for t in (0.0, 1.0))
    assert abs(hard.denoise(Z, 0.5) - soft.denoise(Z, 0.5)).max() > 1e-3
    ends = np.stack([soft.denoise(Z + s * 1e-5 * np.ones_like(Z), 0.5) for s in (1, -1)])
    slope = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(soft.jvp(Z, 0.5, np.ones_like(Z)), slope, atol=1e-6)


def test_calibrated_sizes_are_for_tapered_patches(digits):
    hard, soft = (
        PSPCDenoiser("calibrated", query_taper=taper).fit(digits[:300]) for taper in (0.0, 1.0)
    )
    assert np.mean(soft.patch_schedule_.sizes) > np.mean(hard.patch_schedule_.sizes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(query_taper=0.5, windows=FlexibleWindows("data", 0.9, [0.5])), "leave query_taper"),
        (
            dict(response_taper=0.5, bandwidth=0.5),
            "smoothing='global' or 'stationary', or response_taper=0",
        ),
        (dict(response_taper=0.5, tol=0.1), "response_taper=0.5 is given; leave tol at None"),
        (dict(max_shift=1, windows=FlexibleWindows("data", 0.9, [0.5])), "source='translates'"),
        (dict(max_shift=1, bandwidth=0.5), "lack pixels at their edges"),
        (dict(max_shift=1, bandwidth="calibrated", smoothing="global"), "lack pixels"),
        (dict(max_shift=1, algorithm="kd_tree"), "max_shift=1 is given; leave tol at None"),
        (dict(max_shift=1, device=["cpu", "cpu"]), "in one place.*fit on one device"),
        (dict(query_taper=1.5), "The 'query_taper' parameter of PSPCDenoiser"),
        (dict(max_shift=-1), "The 'max_shift' parameter of PSPCDenoiser"),
    ],
)
def test_parameters_that_contradict_each_other(options, message):
    X, _ = data((1, 6, 6), np.float32)
    with pytest.raises(ValueError, match=message):
        PSPCDenoiser(**options).fit(X)


# Windows


@pytest.mark.parametrize("side", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("tapers", [(0.0, 0.0), (0.3, 1.0), (1.0, 0.5)])
def test_windows_are_the_masks_of_their_numbers(side, tapers):
    shape = 2, 9, 8
    windows = squares_of_side(side, shape, *tapers)
    query, response = (np.stack(oracle.tapered_squares(side, shape, taper)) for taper in tapers)
    masks = windows.masks(shape)
    for found, expected in ((masks.query, query), (masks.response, response)):
        found = found.double().expand(-1, *shape).flatten(1)
        np.testing.assert_allclose(found, expected, atol=1e-15)
    assert windows.n_values(shape) == pytest.approx(query[0].sum())
    np.testing.assert_allclose(windows.counts(shape).ravel(), response.sum(0)[:72], atol=1e-12)
    maps = torch.rand(3, 9, 8, dtype=torch.float64)
    for ramp, numbers in ((windows.query_ramp, query), (windows.response_ramp, response)):
        by_pixel = torch.from_numpy(numbers[:, :72])
        sums = window_sum(maps, windows, ramp)
        np.testing.assert_allclose(sums.flatten(1), maps.flatten(1) @ by_pixel.T, rtol=1e-12)
        weight = torch.rand_like(sums)
        spread = window_spread(weight, windows, ramp)
        np.testing.assert_allclose(spread.flatten(1), weight.flatten(1) @ by_pixel, rtol=1e-12)


def test_squares_of_equal_ramps_are_equal():
    assert squares_of_side(3, (1, 9, 9), 0.0) == squares_of_side(3, (1, 9, 9), 0.4) == Squares(3, 3)
    assert squares_of_side(5, (1, 9, 9), 1.0) == Squares(5, 5, (3, 3))
    assert squares_of_side(9, (1, 9, 20), 0.0, 1.0) == Squares(9, 9, (1, 1), (1, 5))


def test_covered_squares():
    """A move covers the windows that lie within the moved image."""
    plain = TrainingSet(torch.rand(2, 1, 4, 5))
    for source in (plain, plain.mirrored()):
        moved = TranslatedTrainingSet(source, 3)
        windows = Squares(2, 3)
        expected = moved.covers(windows.masks((1, 4, 5)))
        assert (moved.covers(windows).flatten(1) == expected).all()
        assert len(moved) == 49 * len(source)
        assert moved.unmoved is source
        rows = torch.tensor([0, len(source) * 7 + 1, len(moved) - 1])
        assert torch.equal(moved.stored(rows)[0], source.stored(slice(0, 1))[0])
        log = windows.masks((1, 4, 5)), windows
        np.testing.assert_allclose(*(moved.log_covered(each) for each in log))
