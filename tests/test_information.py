"""Information of windows about the training image, against the slow formula and known answers."""

import numpy as np
import pytest
import torch

import oracle
from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PSPCDenoiser,
)
from skpspc.datasets import load_digits_images
from skpspc.inspection import information_curve, posterior_entropy, suggest_patch_size
from skpspc.posterior.information import information, own_logits, pixel_map
from skpspc.sampling import draw_noise, noise_seed
from skpspc.support import Centred, Squares, TrainingSet, Whole

SIGMAS = (0.02, 0.3, 1.0, 5.0)


def slow_information(Z, X, sigma, masks, sample_weight=None):
    """Relative entropy of posterior and sample weights, and the log normaliser, both (n, K)."""
    prior = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
    prior = prior / prior.sum()
    answer = oracle.collection(Z, X, sigma, masks, sample_weight=prior)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = answer.weights * np.log(answer.weights / prior)
    sizes = np.array([mask.sum() for mask in masks])
    log_norm = answer.log_evidence + sizes / 2 * np.log(2 * np.pi * sigma**2)
    return np.nan_to_num(terms).sum(2), log_norm


def masks_of(windows, shape):
    if isinstance(windows, Whole):
        return oracle.whole_mask(shape)
    if isinstance(windows, Squares):
        return oracle.square_masks(windows.h, shape)
    return list((windows.masks(shape).query > 0).expand(-1, *shape).flatten(1).numpy())


def noisy_digits(digits, sigma, n=3):
    noise = np.random.default_rng(0).standard_normal((n, 1, 8, 8))
    return oracle.as_float(digits[-n:]).reshape(noise.shape) + sigma * noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("windows", [Whole(), Squares(3, 3), Squares(8, 8), Centred(5)])
@pytest.mark.parametrize("weighted", [False, True])
def test_information_is_the_one_of_the_slow_formula(digits, windows, weighted, dtype):
    X = digits[:200]
    weight = np.arange(200) % 3 + 1.0 if weighted else None
    training_set = TrainingSet(
        torch.from_numpy(X.copy()), None if weight is None else torch.from_numpy(weight)
    )
    for sigma in SIGMAS:
        Z = noisy_digits(digits, sigma)
        expected, log_norm = slow_information(Z, X, sigma, masks_of(windows, (1, 8, 8)), weight)
        levels = torch.full((len(Z),), sigma, dtype=torch.float64)
        found = information(torch.from_numpy(Z).to(dtype), levels, training_set, windows)
        tol = 2e-5 if dtype == torch.float32 else 1e-8
        np.testing.assert_allclose(found.gained, expected, rtol=tol, atol=tol)
        np.testing.assert_allclose(found.log_norm, log_norm, rtol=tol, atol=tol)


def test_levels_too_small_for_compiled_code_are_exact_too(digits):
    X, sigmas = digits[:100], [1e-5, 0.3, 1e-5, 2.0]
    Z = oracle.as_float(digits[:4]).reshape(4, 1, 8, 8)
    Z = Z + 0.3 * np.random.default_rng(0).standard_normal(Z.shape)
    Z = Z.astype(np.float32).astype(np.float64)
    training_set = TrainingSet(torch.from_numpy(X.copy()))
    found = information(
        torch.from_numpy(Z).float(),
        torch.tensor(sigmas, dtype=torch.float64),
        training_set,
        Squares(3, 3),
    )
    for row, sigma in enumerate(sigmas):
        masks = oracle.square_masks(3, (1, 8, 8))
        expected, _ = slow_information(Z[row : row + 1], X, sigma, masks)
        np.testing.assert_allclose(found.gained[row], expected[0], atol=1e-4)


@pytest.mark.parametrize("windows", [Squares(3, 3), Whole(), Centred(3)])
def test_own_logits_and_maps_are_those_of_the_windows(digits, windows):
    x, sigma = oracle.as_float(digits[:2]).reshape(2, 1, 8, 8), 0.4
    Z = x + sigma * np.random.default_rng(0).standard_normal(x.shape)
    masks, levels = masks_of(windows, (1, 8, 8)), torch.full((2,), sigma, dtype=torch.float64)
    squares = ((Z - x) ** 2).reshape(2, -1)
    expected = np.stack([-squares[:, mask].sum(1) / (2 * sigma**2) for mask in masks], 1)
    found = own_logits(torch.from_numpy(Z), torch.from_numpy(x), levels, windows)
    np.testing.assert_allclose(found, expected)
    if isinstance(windows, Centred):  # each answers for its own pixel
        spread = expected.reshape(2, 8, 8)
    else:
        covers = np.array(masks, dtype=float)
        spread = (expected @ covers / covers.sum(0)).reshape(2, 8, 8)
    np.testing.assert_allclose(pixel_map(found, windows, torch.from_numpy(Z)), spread)


@pytest.mark.parametrize(
    "name", ["squares", "mirrored", "whole", "flexible", "pca", "local", "patch"]
)
def test_entropies_are_those_of_the_weights(digits, name):
    X, sigma = digits[:150], 0.5
    Z = noisy_digits(digits, sigma)
    models = {
        "squares": PSPCDenoiser(3),
        "mirrored": PSPCDenoiser(4, flip=True),
        "whole": EmpiricalDenoiser(),
        "flexible": PSPCDenoiser(windows=FlexibleWindows("data", 0.7, [0.5])),
        "pca": PCALocalityDenoiser(),
        "local": LocalScoreDenoiser(5),
        "patch": PatchDenoiser(3, location=(2, 1)),
    }
    model = models[name].fit(X)
    found = posterior_entropy(model, Z, sigma, by="window")
    share = model.attribute(Z, sigma, top=len(X) * (1 + (name == "mirrored")), by="window").share
    terms = np.where(share > 0, share * np.log(np.where(share > 0, share, 1.0)), 0.0)
    expected = -terms.sum(-1).reshape(len(Z), -1)
    np.testing.assert_allclose(found.entropy, expected, atol=2e-4)
    assert found.log_n == pytest.approx([np.log(len(X) * (1 + (name == "mirrored")))] * 3)
    by_pixel = posterior_entropy(model, Z, sigma)
    side = 3 if name == "patch" else 8
    assert by_pixel.information.shape == (3, side, side)
    if name in ("whole", "patch"):
        expected = np.broadcast_to(expected[:, :, None], (3, side, side))
        np.testing.assert_allclose(by_pixel.entropy, expected, atol=2e-4)


def test_equal_images_have_the_entropy_log_n_and_no_information(rng):
    X = np.repeat(rng.standard_normal((1, 1, 6, 6)), 20, axis=0)
    Z = rng.standard_normal((2, 1, 6, 6))
    for model in EmpiricalDenoiser(), PSPCDenoiser(3):
        found = posterior_entropy(model.fit(X), Z, [0.01, 1.0])
        np.testing.assert_allclose(found.information, 0, atol=1e-8)
        np.testing.assert_allclose(found.entropy, np.log(20), atol=1e-8)


def test_entropy_is_zero_at_small_noise_and_log_n_at_large_noise(digits):
    X = digits[:100]
    model = EmpiricalDenoiser().fit(X)
    Z = oracle.as_float(X[:4]).reshape(4, 1, 8, 8)
    found = posterior_entropy(model, np.concatenate([Z, 1e4 + Z]), [0.01] * 4 + [1e5] * 4)
    np.testing.assert_allclose(found.entropy[:4], 0, atol=1e-6)
    np.testing.assert_allclose(found.entropy[4:], np.log(100), rtol=1e-3)


def test_classes_have_entropies_of_their_own(digits):
    X, y = digits[:300], load_digits_images().target[:300]
    Z = noisy_digits(X, 0.5)
    model = PSPCDenoiser(4).fit(X, y)
    found = posterior_entropy(model, Z, 0.5, y=[3, 1, 3])
    for row, label in enumerate([3, 1, 3]):
        alone = posterior_entropy(PSPCDenoiser(4).fit(X[y == label]), Z[row : row + 1], 0.5)
        np.testing.assert_allclose(found.information[row], alone.information[0], atol=1e-5)
        assert found.log_n[row] == pytest.approx(np.log((y == label).sum()))


# Curves


def test_a_curve_is_the_one_of_the_slow_formula(digits):
    X, held, weight = digits[:120], digits[200:205], np.arange(120) % 3 + 1.0
    curve = information_curve(X, [1.0, 0.2], [5, 2, 8], held_out=held, sample_weight=weight)
    np.testing.assert_array_equal(curve.sigmas, [0.2, 1.0])
    np.testing.assert_array_equal(curve.patch_sizes, [2, 5, 8])
    prior = weight / weight.sum()
    assert curve.log_n == pytest.approx(-(prior * np.log(prior)).sum())
    variance = prior @ (oracle.as_float(X) - prior @ oracle.as_float(X)) ** 2
    assert curve.pixel_variance == pytest.approx(variance.mean())
    clean = oracle.as_float(held).reshape(5, 1, 8, 8)
    rng = np.random.default_rng([0, 6])
    noise = draw_noise((1, 8, 8), 5, noise_seed(rng)).numpy()
    for j, sigma in enumerate(curve.sigmas):
        Z = clean + sigma * noise
        for k, size in enumerate(curve.patch_sizes):
            masks = oracle.square_masks(size, (1, 8, 8))
            gained, log_norm = slow_information(Z, X, sigma, masks, weight)
            own = -0.5 * np.stack([(noise.reshape(5, -1)[:, m] ** 2).sum(1) for m in masks], 1)
            excess = own - log_norm
            close = dict(rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(curve.image_information[j, k], excess.mean(1), **close)
            entropy = (curve.log_n - gained).mean(1)
            np.testing.assert_allclose(curve.image_entropies[j, k], entropy, **close)
            coverage = 1 / (1 + np.exp(excess - curve.log_n))
            np.testing.assert_allclose(curve.image_coverages[j, k], coverage.mean(1), **close)
    np.testing.assert_allclose(curve.information, curve.image_information.mean(2))
    np.testing.assert_allclose(curve.entropy, curve.image_entropies.mean(2))
    np.testing.assert_allclose(curve.coverage, curve.image_coverages.mean(2))


def normal_images(rng, n, side):
    return rng.standard_normal((n, 1, side, side)).astype(np.float32)


def test_normal_pixels_have_the_information_of_the_formula(rng):
    """``d / 2 log(1 + s^2 / sigma^2)`` of d independent normal pixels, while it is below log N."""
    X, held = normal_images(rng, 3000, 5), normal_images(rng, 200, 5)
    sigmas = [2.0, 4.0, 8.0]
    curve = information_curve(X, sigmas, [1, 2, 3, 4, 5], held_out=held)
    expected = curve.patch_sizes**2 / 2 * np.log1p(1 / np.square(sigmas))[:, None]
    assert expected.max() < 0.4 * np.log(3000)
    error = 4 * curve.information_standard_error + 0.02
    assert (abs(curve.information - expected) < error).all()
    # the relation of the paper below the critical side
    np.testing.assert_allclose(curve.entropy, curve.log_n - expected, atol=0.15)
    assert (curve.coverage > 0.9).all()
    assert (curve.critical_sizes == np.inf).all()
    assert curve.edge_sizes.tolist() == [5, 5, 5]


def test_critical_sides_grow_with_the_noise_and_the_root_of_log_n(rng):
    X, held = normal_images(rng, 1000, 14), normal_images(rng, 24, 14)
    sigmas = [1.5, 3.0]
    options = dict(patch_sizes=range(2, 14), held_out=held)
    curve = information_curve(X, sigmas, **options)
    exact = np.sqrt(2 * np.log(1000) / np.log1p(1 / np.square(sigmas)))
    np.testing.assert_allclose(curve.critical_sizes, exact, rtol=0.1)
    np.testing.assert_allclose(curve.predicted_sizes, exact, rtol=0.15)
    np.testing.assert_array_equal(curve.edge_sizes, np.floor(curve.critical_sizes))
    few = information_curve(X[:30], sigmas, **options)
    ratio = np.sqrt(np.log(1000) / np.log(30))
    np.testing.assert_allclose(curve.critical_sizes / few.critical_sizes, ratio, rtol=0.1)


def test_copies_and_weights_give_one_curve(digits):
    X, count = digits[:90], np.arange(90) % 3 + 1
    weighted = information_curve(X, [0.5], [2, 4], n_images=8, sample_weight=count)
    copied = information_curve(np.repeat(X, count, axis=0), [0.5], [2, 4], n_images=8)
    assert weighted.log_n == pytest.approx(copied.log_n)
    np.testing.assert_allclose(weighted.information, copied.information, atol=1e-4)
    np.testing.assert_allclose(weighted.entropy, copied.entropy, atol=1e-4)


def test_noise_levels_are_in_the_units_of_the_range(digits):
    X = digits[:100]
    right = information_curve(X, [0.2, 1.0], [2, 8], n_images=8)
    other = information_curve(X, [25.5, 127.5], [2, 8], n_images=8, data_range=(0, 255))
    np.testing.assert_allclose(other.information, right.information, rtol=1e-4)
    np.testing.assert_allclose(other.predicted_sizes, right.predicted_sizes)
    assert other.pixel_variance == pytest.approx(right.pixel_variance * 127.5**2)
    usual = [
        information_curve(X[:9], None, [2], n_images=2, data_range=r).sigmas for r in (None, (0, 1))
    ]
    np.testing.assert_allclose(usual[1], usual[0] / 2)


def test_the_edge_is_the_largest_size_below_log_n(digits):
    X = digits[:300]
    for sigma in (0.1, 0.5, 1.0):
        size, curve = suggest_patch_size(X, sigma, criterion="edge")
        below = curve.information[0] <= curve.log_n
        assert size == curve.edge_sizes[0] == max(curve.patch_sizes[below])
        assert size <= curve.critical_sizes[0]
    size, curve = suggest_patch_size(X, 0.01, criterion="edge", patch_sizes=[4, 8])
    assert size == 4 and curve.information[0, 0] > curve.log_n
    assert suggest_patch_size(X, 100.0, criterion="edge")[0] == 8
    for options, message in (
        (dict(criterion="border"), "criterion must be"),
        (dict(criterion="edge", tol=0.1), "omit it"),
    ):
        with pytest.raises(ValueError, match=message):
            suggest_patch_size(X, 0.5, **options)


def test_equal_images_and_no_held_out_variety(rng):
    """Training images that are equal hold no information, at any size."""
    X = np.repeat(rng.standard_normal((1, 1, 6, 6)), 20, axis=0)
    curve = information_curve(X, [0.5], [1, 6], held_out=X[:1])
    np.testing.assert_allclose(curve.information, 0, atol=1e-8)
    np.testing.assert_allclose(curve.coverage, 0.5)  # it would be one of two equal images
    assert curve.log_n == pytest.approx(0, abs=1e-12)


def test_bad_input_gets_a_remedy(digits):
    X = digits[:100]
    Z = noisy_digits(digits, 0.5)
    model = PSPCDenoiser(patch_size=lambda sigma: 2 if sigma < 1 else 3).fit(X)
    for call, message in [
        (lambda: information_curve(X, [0.0, 1.0]), "sigmas must be positive"),
        (lambda: information_curve(X, [1.0], [9]), "patch_sizes must be ints between 1 and 8"),
        (lambda: information_curve(X, [1.0], n_images=100), "too few to hold out"),
        (lambda: posterior_entropy(model, Z, 0.0), "sigma must be positive"),
        (lambda: posterior_entropy(model, Z, 1.0, by="image"), "by must be"),
        (lambda: posterior_entropy(model, Z, [0.5, 0.5, 2], by="window"), "numbers of windows"),
        (lambda: posterior_entropy(GaussianDenoiser().fit(X), Z, 1.0), "no attribution"),
        (
            lambda: posterior_entropy(LocalScoreDenoiser(3, equivariant=True).fit(X), Z, 1.0),
            "patches at all positions",
        ),
        (
            lambda: posterior_entropy(PCALocalityDenoiser(softmax="batchwise").fit(X), Z, 1.0),
            "softmax='exact'",
        ),
        (
            lambda: posterior_entropy(PatchDenoiser(3, location="all").fit(X), Z, 1.0),
            "location",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="must be a fitted denoiser"):
        posterior_entropy(np.mean, Z, 1.0)


def test_held_out_images_that_are_training_images(digits):
    with pytest.warns(UserWarning, match="3 of 5 held-out images are training images"):
        information_curve(digits[:100], [0.5], [2], held_out=digits[97:102])
