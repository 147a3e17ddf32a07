"""Sizes and thresholds chosen on held-out images, against choices and errors found slowly."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

import oracle
from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PatchSchedule,
    PSPCDenoiser,
)
from skpspc.denoisers import calibration
from skpspc.inspection import calibrate_patch_size, calibrate_thresholds
from skpspc.sampling import draw_noise, edm_sigmas, noise_seed, paper_schedule
from skpspc.sampling.choice import least_total, patch_sizes
from skpspc.support import TrainingSet
from skpspc.support.holdout import different, hold_out

SIGMAS, SIZES = [2.0, 0.1, 0.5], [8, 1, 3]


def network(x, c):
    return x / (1 + torch.as_tensor(c).reshape(-1, 1, 1, 1) ** 2)


def split(X, n_images, random_state=0, sample_weight=None):
    """Kept and held-out images and the seed of the noise, as a calibration takes them."""
    weight = None if sample_weight is None else torch.from_numpy(np.asarray(sample_weight, float))
    rng = np.random.default_rng([random_state, 3])
    kept, held = hold_out(TrainingSet(torch.from_numpy(X.copy()), weight), n_images, rng)
    return kept, held, noise_seed(rng)


def as_images(train):
    return oracle.as_float(train).reshape(train.shape)


def slow_errors(train, clean, noise, sigmas, sizes, target=None, sample_weight=None):
    """Mean squared error per pixel of every image, (L, S, n), by the slow formula."""
    errors = np.empty((len(sigmas), len(sizes), len(clean)))
    for j, k in np.ndindex(errors.shape[:2]):
        z = clean + sigmas[j] * noise
        masks = oracle.square_masks(sizes[k], clean.shape[1:])
        mean = oracle.collection(z, train, sigmas[j], masks, sample_weight=sample_weight).mean
        wanted = clean if target is None else target(z, sigmas[j])
        errors[j, k] = ((mean - wanted.reshape(len(z), -1)) ** 2).mean(1)
    return errors


def best_monotone(errors):
    """The non-decreasing choice of the least total, by trying them all."""
    choices = itertools.combinations_with_replacement(range(errors.shape[1]), len(errors))
    return min(choices, key=lambda choice: errors[range(len(errors)), choice].sum())


# ------------------------------------------------------------------------------ the choice


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_the_choice_of_least_total_against_trying_all(n_levels, n_values, data):
    numbers = st.lists(st.integers(0, 6), min_size=n_values, max_size=n_values)
    errors = np.array([data.draw(numbers) for _ in range(n_levels)], dtype=float)
    chosen = least_total(errors)
    assert (np.diff(chosen) >= 0).all()
    total = errors[np.arange(n_levels), chosen].sum()
    best = best_monotone(errors)
    assert total == sum(errors[j, k] for j, k in enumerate(best))
    if (np.diff(errors.argmin(1)) >= 0).all():  # nothing to smooth
        np.testing.assert_array_equal(errors[np.arange(n_levels), chosen], errors.min(1))


def test_isotonic_regression_is_another_choice():
    """What a change costs matters: the best sizes 3, 1, 1 have isotonic sizes 5/3 throughout."""
    errors = np.array([[1.0, 1.0, 0.9], [0.1, 5.0, 9.0], [0.1, 5.0, 9.0]])
    np.testing.assert_array_equal(least_total(errors), [0, 0, 0])
    np.testing.assert_array_equal(least_total(errors[::-1]), [0, 0, 2])


@given(st.integers(1, 300), st.integers(1, 300))
def test_sizes_from_a_pixel_to_the_image(height, width):
    sizes = patch_sizes((3, height, width))
    assert sizes[0] == 1
    assert sizes[-1] == max(height, width)
    assert 1 <= len(sizes) <= 15
    assert (np.diff(sizes) > 0).all()
    assert all(isinstance(size, int) for size in sizes)


# -------------------------------------------------------------------------------- patch size


@pytest.mark.parametrize("monotone", [True, False])
def test_sizes_and_errors_against_the_slow_formula(digits, monotone):
    X = digits[:40]
    schedule, table = calibrate_patch_size(
        PSPCDenoiser(), X, SIGMAS, sizes=SIZES, n_images=6, monotone=monotone, random_state=3
    )
    kept, held, seed = split(X, 6, 3)
    clean, noise = as_images(held.images.numpy()), draw_noise((1, 8, 8), 6, seed).numpy()
    expected = slow_errors(kept.images.numpy(), clean, noise, [0.1, 0.5, 2.0], [1, 3, 8])
    np.testing.assert_array_equal(table.sigmas, [0.1, 0.5, 2.0])
    np.testing.assert_array_equal(table.values, [1, 3, 8])
    np.testing.assert_allclose(table.image_errors, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(table.errors, expected.mean(2), rtol=1e-4)
    standard_errors = expected.std(2, ddof=1) / np.sqrt(6)
    np.testing.assert_allclose(table.standard_errors, standard_errors, rtol=1e-3)
    assert table.n == 6
    chosen = best_monotone(expected.mean(2)) if monotone else expected.mean(2).argmin(1)
    np.testing.assert_array_equal(table.chosen, np.array([1, 3, 8])[list(chosen)])
    assert isinstance(schedule, PatchSchedule)
    assert schedule == PatchSchedule([0.1, 0.5, 2.0], table.chosen.tolist())
    # it serves, and can be written down
    assert PSPCDenoiser(schedule).fit(X).denoise(X[:1], 0.5).shape == (1, 1, 8, 8)
    assert all(type(size) is int for size in schedule.sizes)


def test_a_choice_that_would_fall(digits):
    """At a level that wants smaller patches than the one before, both get what costs least."""
    X, options = digits[:60], {"sizes": [1, 2, 4, 8], "n_images": 3}
    for seed in range(20):
        levels = np.geomspace(0.05, 20, 12)
        free, table = calibrate_patch_size(
            PSPCDenoiser(), X, levels, monotone=False, random_state=seed, **options
        )
        if (np.diff(free.sizes) < 0).any():
            break
    else:
        pytest.fail("no draw wants sizes that fall: choose another seed")
    kept, _ = calibrate_patch_size(PSPCDenoiser(), X, levels, random_state=seed, **options)
    assert (np.diff(kept.sizes) >= 0).all()
    at = [table.values.tolist().index(size) for size in kept.sizes]
    rows = np.arange(12)
    assert table.errors[rows, at].sum() == pytest.approx(
        sum(row[k] for row, k in zip(table.errors, best_monotone(table.errors), strict=True))
    )


def test_nearest_to_another_denoiser(digits):
    X, held = digits[:50] / 127.5 - 1, digits[50:54] / 127.5 - 1
    reference = NetworkDenoiser(network, image_shape=(1, 8, 8), dtype="float64")
    asked = []

    class Watched:
        def denoise(self, z, sigma):
            asked.append(z.dtype)
            return reference.denoise(z, sigma)

    options = {"sizes": SIZES, "held_out": held, "random_state": 5}
    _, table = calibrate_patch_size(PSPCDenoiser(), X, SIGMAS, against=Watched(), **options)
    assert asked == [torch.float64]  # one question, in the precision of the images
    noise = draw_noise((1, 8, 8), 4, noise_seed(np.random.default_rng([5, 3]))).numpy()
    expected = slow_errors(X, held, noise, [0.1, 0.5, 2.0], [1, 3, 8], lambda z, s: z / (1 + s**2))
    np.testing.assert_allclose(table.image_errors, expected, rtol=1e-9, atol=1e-12)
    # the noise of an image does not depend on how many there are
    options["held_out"] = held[:2]
    _, fewer = calibrate_patch_size(PSPCDenoiser(), X, SIGMAS, against=reference, **options)
    np.testing.assert_allclose(fewer.image_errors, expected[..., :2], rtol=1e-9, atol=1e-12)


def test_weights_are_copies(digits):
    X, count = digits[:40], np.arange(40) % 3 + 1
    options = {"sigmas": SIGMAS, "sizes": SIZES, "n_images": 6}
    _, weighted = calibrate_patch_size(PSPCDenoiser(), X, sample_weight=count, **options)
    copies = np.repeat(X, count, axis=0)[::-1].copy()
    _, repeated = calibrate_patch_size(PSPCDenoiser(), copies, **options)
    assert weighted.n == repeated.n == 6
    np.testing.assert_allclose(weighted.weight, repeated.weight)
    np.testing.assert_allclose(weighted.errors, repeated.errors, rtol=1e-4)
    np.testing.assert_allclose(weighted.standard_errors, repeated.standard_errors, rtol=1e-3)
    kept, held, seed = split(X, 6, sample_weight=count)
    clean, noise = as_images(held.images.numpy()), draw_noise((1, 8, 8), 6, seed).numpy()
    expected = slow_errors(
        kept.images.numpy(), clean, noise, [0.5], [3], sample_weight=kept.sample_weight.numpy()
    )[0, 0]
    weight = held.sample_weight.numpy()
    assert weighted.errors[1, 1] == pytest.approx(np.average(expected, weights=weight), rel=1e-4)


def test_containers_flat_images_and_other_denoisers(digits):
    X = digits[:40]
    options = {"sigmas": SIGMAS, "sizes": [1, 3], "n_images": 6}
    schedule, table = calibrate_patch_size(PSPCDenoiser(), X, **options)
    flat = PSPCDenoiser(image_shape=(1, 8, 8))
    for denoiser, images in (
        (PSPCDenoiser(), torch.from_numpy(X.copy())),
        (flat, X.reshape(40, 64)),
        (PSPCDenoiser(windows=None, engine="torch"), X),
    ):
        again, other = calibrate_patch_size(denoiser, images, **options)
        assert again == schedule
        np.testing.assert_allclose(other.errors, table.errors, rtol=1e-4)
    assert not hasattr(flat, "image_shape_")  # a clone was fitted
    local, _ = calibrate_patch_size(LocalScoreDenoiser(), X, **options)
    assert set(local.sizes) <= {1, 3}
    _, blurred = calibrate_patch_size(PSPCDenoiser(bandwidth=0.9), X, **options)
    assert np.abs(blurred.errors / table.errors - 1).max() > 0.01


def test_the_choice_serves_other_images(digits):
    """On images seen neither by the denoiser nor by the choice: no worse than the paper's."""
    order = np.random.default_rng(0).permutation(len(digits))
    X, test = digits[order[:1000]], digits[order[1000:1400]]
    sigmas = [0.1, 0.3, 1.0, 3.0]
    schedule, _ = calibrate_patch_size(PSPCDenoiser(), X, sigmas, sizes=range(1, 9), n_images=100)
    calibrated, paper = PSPCDenoiser(schedule).fit(X), PSPCDenoiser().fit(X)
    for sigma in sigmas:
        score, other = (m.score(test, sigmas=[sigma]) for m in (calibrated, paper))
        assert score >= 1.01 * other, (sigma, schedule)
    assert calibrated.score(test, sigmas=sigmas) > paper.score(test, sigmas=sigmas)


# -------------------------------------------------------------------------------- thresholds


def test_thresholds_against_fitting_each(digits):
    X, levels = digits[:60], [2.0, 0.2]
    windows = FlexibleWindows("data", 0.5, levels)
    model = PSPCDenoiser(windows=windows)
    found, table = calibrate_thresholds(
        model, X, thresholds=[0.9, 0.4, 0.7], n_images=8, monotone=False, random_state=2
    )
    kept, held, seed = split(X, 8, 2)
    clean = as_images(held.images.numpy())
    noise = draw_noise((1, 8, 8), 8, seed).numpy()
    np.testing.assert_array_equal(table.sigmas, [0.2, 2.0])
    np.testing.assert_array_equal(table.values, [0.4, 0.7, 0.9])
    for k, threshold in enumerate(table.values):
        one = PSPCDenoiser(windows=FlexibleWindows("data", threshold, levels))
        one.fit(kept.images.numpy())
        for j, sigma in enumerate(table.sigmas):
            z = (clean + sigma * noise).astype(np.float32)
            error = ((one.denoise(z, sigma) - clean) ** 2).mean((1, 2, 3))
            np.testing.assert_allclose(table.image_errors[j, k], error, rtol=1e-4)
    best = table.values[table.errors.argmin(1)]
    assert found == best[::-1].tolist()  # in the order of the levels
    assert windows.thresholds == 0.5
    assert PSPCDenoiser(windows=FlexibleWindows("data", found, levels)).fit(X).windows_
    kept_up, _ = calibrate_thresholds(model, X, thresholds=[0.9, 0.4, 0.7], n_images=8)
    assert kept_up[0] >= kept_up[1]


def test_thresholds_of_heat_maps(digits):
    heat = np.abs(np.random.default_rng(0).standard_normal((2, 8, 8, 8, 8))) + 0.1
    for heatmaps in (heat, GaussianDenoiser().fit(digits)):
        model = PSPCDenoiser(windows=FlexibleWindows(heatmaps, 1.0, [0.2, 1.0], soft=True))
        found, table = calibrate_thresholds(model, digits[:50], thresholds=[0.6, 1.0], n_images=4)
        assert len(found) == 2
        assert table.errors.shape == (2, 2)
        assert np.isfinite(table.errors).all()


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sigmas": []}, "sigmas must be a sequence of at least one noise level"),
        ({"sigmas": "small"}, "sigmas must be a sequence of at least one noise level, got 'small'"),
        ({"sigmas": ["a", "b"]}, "sigmas must be a sequence of at least one noise level"),
        ({"sigmas": 0.5}, "sigmas must be a sequence of at least one noise level, got 0.5"),
        ({"sigmas": [0.5, -1.0]}, "sigmas must be finite and non-negative"),
        ({"sigmas": [0.5, np.inf]}, "sigmas must be finite and non-negative"),
        ({"sigmas": [0.5, 0.5]}, "sigmas must be distinct"),
        ({"sizes": []}, "sizes must be ints between 1 and 8.* at least one; got"),
        ({"sizes": [3, 9]}, r"between 1 and 8, the longer side of images of shape \(1, 8, 8\)"),
        ({"sizes": [0]}, "sizes must be ints between 1 and 8"),
        ({"sizes": [2.5]}, "sizes must be ints between 1 and 8"),
        ({"sizes": "all"}, "sizes must be ints between 1 and 8.* got 'all'"),
        ({"n_images": 30}, "n_samples=30 distinct training images are too few to hold out"),
        ({"n_images": 0}, "n_images must be an int of at least 1, got 0"),
        ({"n_images": "few"}, "n_images must be an int of at least 1, got 'few'"),
        ({"held_out": np.zeros((2, 1, 4, 4))}, r"images of shape \(1, 4, 4\)"),
        ({"held_out": np.full((2, 1, 8, 8), np.nan)}, "NaN"),
        ({"against": "noise"}, "against must be 'clean' or a fitted denoiser, got 'noise'"),
        ({"against": network}, "against must be .* wrap a network in NetworkDenoiser"),
        ({"against": None}, "against must be 'clean' or a fitted denoiser, got None"),
        (
            {"against": NetworkDenoiser(lambda x, c: x / 0, image_shape=(1, 8, 8))},
            "NaN or infinity",
        ),
        ({"random_state": "now"}, "random_state must be None"),
        ({"sample_weight": [1.0]}, "sample_weight"),
    ],
)
def test_bad_input_gets_a_sentence(digits, options, sentence):
    options = {"n_images": 4, "sigmas": [0.5], "sizes": [2], **options}
    with pytest.raises(ValueError, match=sentence):
        calibrate_patch_size(PSPCDenoiser(), digits[:30], **options)


def test_denoisers_that_cannot_be_calibrated(digits):
    X = digits[:30]
    for model in (EmpiricalDenoiser(), network, "pspc"):
        with pytest.raises(ValueError, match="denoiser must have a parameter patch_size"):
            calibrate_patch_size(model, X, [0.5], n_images=4)
    patches = PatchDenoiser(2).fit(X)
    with pytest.raises(ValueError, match=r"denoiser answers .* images of shape \(4, 1, 8, 8\)"):
        calibrate_patch_size(PatchDenoiser(), X, [0.5], sizes=[2], n_images=4)
    with pytest.raises(ValueError, match=r"against answers .*pass a denoiser of whole images"):
        calibrate_patch_size(PSPCDenoiser(), X, [0.5], against=patches, n_images=4)
    with pytest.raises(NotFittedError):
        calibrate_patch_size(PSPCDenoiser(), X, [0.5], against=PSPCDenoiser(), n_images=4)
    with pytest.raises(ValueError, match="patch_size must be odd"):
        calibrate_patch_size(LocalScoreDenoiser(), X, [0.5], sizes=[2], n_images=4)
    with pytest.raises(ValueError, match="add the channel axis of gray images"):
        calibrate_patch_size(PSPCDenoiser(), X[:, 0], [0.5], n_images=4)
    for model in (PSPCDenoiser(), EmpiricalDenoiser()):
        with pytest.raises(ValueError, match="denoiser must have flexible windows"):
            calibrate_thresholds(model, X)


@pytest.mark.parametrize("thresholds", [[], [0.0], [0.5, 1.1], "high", [np.nan], None])
def test_bad_thresholds(digits, thresholds):
    model = PSPCDenoiser(windows=FlexibleWindows("data", 0.5, [0.5]))
    with pytest.raises(ValueError, match=r"thresholds must be in \(0, 1\] and at least one"):
        calibrate_thresholds(model, digits[:30], thresholds=thresholds, n_images=4)


def test_one_held_out_image_has_no_standard_error(digits):
    _, table = calibrate_patch_size(PSPCDenoiser(), digits[:30], [0.5], sizes=[2, 3], n_images=1)
    assert np.isfinite(table.errors).all()
    assert np.isnan(table.standard_errors).all()


# ----------------------------------------------------------------------- while fitting


@pytest.mark.parametrize("flip", [False, True])
def test_calibrated_sizes_are_the_best_on_held_out_images(digits, monkeypatch, flip):
    """By hand: of images drawn by what they show, the first are held out, the rest is fitted."""
    monkeypatch.setattr(calibration, "_FITTED", 60)
    weight = np.arange(len(digits)) % 3 + 1.0
    model = PSPCDenoiser("calibrated", flip=flip, random_state=3).fit(digits, sample_weight=weight)
    schedule = model.patch_schedule_
    everything = TrainingSet(torch.from_numpy(digits.copy()), torch.from_numpy(weight))
    drawn = different(everything, 76, np.random.default_rng(3))
    images, weights = drawn.images.numpy(), drawn.sample_weight.numpy()
    clean, rest, prior = as_images(images[:8]), images[8:], weights[8:]
    x = oracle.as_float(rest)
    mean = np.average(x, axis=0, weights=prior)
    spread = np.average(((x - mean) ** 2).mean(1), weights=prior) ** 0.5
    np.testing.assert_allclose(schedule.sigmas, spread * edm_sigmas(9, 0.05, 32.0)[::-1], rtol=1e-9)
    sigmas, sizes = schedule.sigmas, list(range(1, 9))
    known = np.concatenate([rest, rest[..., ::-1]]) if flip else rest
    errors = slow_errors(
        known,
        clean,
        draw_noise((1, 8, 8), 8, 3).numpy(),
        sigmas,
        sizes,
        sample_weight=np.tile(prior, 1 + flip),
    )
    expected = best_monotone(errors @ weights[:8])
    assert schedule.sizes == [sizes[k] for k in expected]
    assert len(set(schedule.sizes)) > 2
    # it serves as the parameter too, and every image is used for answers
    Z = clean + 0.5
    fixed = PSPCDenoiser(schedule, flip=flip).fit(digits, sample_weight=weight)
    np.testing.assert_array_equal(fixed.denoise(Z, 1.0), model.denoise(Z, 1.0))
    assert not hasattr(fixed, "patch_schedule_")
    assert not hasattr(model.set_params(patch_size=3).fit(digits), "patch_schedule_")


def test_calibration_takes_copies_for_weights(digits):
    X, count = digits[:150], np.arange(150) % 4
    model = PSPCDenoiser("calibrated")
    weighted = model.fit(X, sample_weight=count).patch_schedule_
    copies = np.repeat(X, count, axis=0)[::-1].copy()
    repeated = model.fit(copies).patch_schedule_
    assert repeated.sizes == weighted.sizes
    np.testing.assert_allclose(repeated.sigmas, weighted.sigmas, rtol=1e-12)


def test_few_images_and_images_that_are_alike(rng):
    for n in (1, 2, 3, 11):
        X = rng.standard_normal((n, 1, 3, 4))
        model = PSPCDenoiser("calibrated").fit(X, sample_weight=np.arange(n) + 1.0)
        assert np.isfinite(model.denoise(X, 0.5)).all()
    one = PSPCDenoiser("calibrated").fit(np.repeat(X[:1], 5, axis=0))
    assert one.patch_schedule_ == paper_schedule((1, 3, 4))
    np.testing.assert_allclose(one.denoise(X, 0.5), np.repeat(X[:1], 11, axis=0), atol=1e-12)


def test_the_manners_of_the_parameter(digits):
    X, y = digits[:120], np.arange(120) % 2
    model = PSPCDenoiser("calibrated", random_state=1).fit(X)
    again = pickle.loads(pickle.dumps(model))
    assert again.patch_schedule_ == model.patch_schedule_
    np.testing.assert_array_equal(again.denoise(X[:2], 0.5), model.denoise(X[:2], 0.5))
    assert clone(model).fit(X).patch_schedule_ == model.patch_schedule_
    # more images, another calibration: that of all of them
    parts = PSPCDenoiser("calibrated", random_state=1).partial_fit(X[:50]).partial_fit(X[50:])
    assert parts.patch_schedule_ == model.patch_schedule_
    first = PSPCDenoiser("calibrated", random_state=1).fit(X[:50]).patch_schedule_
    assert first.sigmas != model.patch_schedule_.sigmas
    # a class is calibrated on its own images
    classes = PSPCDenoiser("calibrated", random_state=1).fit(X, y)
    alone = PSPCDenoiser("calibrated", random_state=1).fit(X[y == 1])
    np.testing.assert_allclose(
        classes.denoise(X[:2], 0.5, y=1), alone.denoise(X[:2], 0.5), rtol=0, atol=1e-6
    )
    assert classes.patch_schedule_ == model.patch_schedule_
    search = GridSearchCV(PSPCDenoiser(), {"patch_size": [8, "calibrated"]}, cv=2).fit(X)
    assert search.best_params_ == {"patch_size": "calibrated"}
    assert search.best_estimator_.patch_schedule_.sizes


@pytest.mark.parametrize("random_state", [None, np.random.default_rng(0)])
def test_any_random_state(digits, random_state):
    model = PSPCDenoiser("calibrated", random_state=random_state).fit(digits[:60])
    assert len(model.patch_schedule_.sizes) == 9


def test_sizes_and_bandwidths_calibrated_together(digits):
    X = digits[:150]
    both = PSPCDenoiser("calibrated", bandwidth="calibrated", smoothing="global").fit(X)
    assert both.patch_schedule_ == PSPCDenoiser("calibrated").fit(X).patch_schedule_
    later = PSPCDenoiser(both.patch_schedule_, bandwidth="calibrated", smoothing="global").fit(X)
    assert later.bandwidth_schedule_ == both.bandwidth_schedule_
    # at a bandwidth that is given, the sizes are those that suit it
    smooth = PSPCDenoiser("calibrated", bandwidth=0.9, smoothing="global").fit(X)
    assert smooth.patch_schedule_ != both.patch_schedule_
    assert not hasattr(smooth, "bandwidth_schedule_")


def test_windows_have_no_size_to_calibrate(digits):
    model = PSPCDenoiser("calibrated", windows=FlexibleWindows("data", 0.5, [0.5]))
    with pytest.raises(ValueError, match="windows replace square patches"):
        model.fit(digits[:30])
    with pytest.raises(ValueError, match="'patch_size' parameter of PSPCDenoiser"):
        PSPCDenoiser("auto").fit(digits[:30])
