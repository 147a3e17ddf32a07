"""How far a patch's posterior is from the whole image's, against the slow formula."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.frozen import FrozenEstimator

import generators
import oracle
from skpspc import (
    EmpiricalDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from skpspc.inspection import LocalEquivalenceDisplay, local_equivalence, suggest_patch_size
from skpspc.posterior import dense_weights
from skpspc.sampling import draw_noise, noise_seed
from skpspc.support import TrainingSet
from skpspc.support.holdout import different


def drawn(X, n_images, random_state=0, sample_weight=None):
    """The images that noise is added to, their weights, and the noise."""
    weight = None if sample_weight is None else torch.from_numpy(np.asarray(sample_weight, float))
    rng = np.random.default_rng([random_state, 4])
    some = different(TrainingSet(torch.from_numpy(X.copy()), weight), n_images, rng)
    noise = draw_noise(X.shape[1:], len(some), noise_seed(rng)).numpy()
    clean = oracle.as_float(some.images.numpy()).reshape(noise.shape)
    return clean, some.sample_weight.numpy(), noise


def central_mask(size, shape):
    _, height, width = shape
    h, w = min(size, height), min(size, width)
    return oracle.patch_mask((height - h) // 2, (width - w) // 2, h, w, shape)


@given(generators.cases(low=0.05, high=20), st.booleans())
def test_weights_are_those_of_the_slow_formula(case, weighted):
    prior = np.arange(len(case.X)) + 1.0 if weighted else None
    known = TrainingSet(torch.tensor(case.X), None if prior is None else torch.from_numpy(prior))
    found = dense_weights(torch.tensor(case.Z), torch.tensor(case.sigma), known)
    answer = oracle.collection(
        case.Z, case.X, case.sigma, oracle.whole_mask(case.shape), sample_weight=prior
    )
    np.testing.assert_allclose(found, answer.weights[:, 0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.sum(1), 1)


def test_gap_variation_and_bound_against_the_slow_formula(digits):
    X, count = digits[:60], np.arange(60) % 3 + 1.0
    found = local_equivalence(
        X, [5.0, 0.1, 0.8], [8, 2, 5], n_images=7, sample_weight=count, random_state=3
    )
    clean, weight, noise = drawn(X, 7, 3, count)
    np.testing.assert_array_equal(found.sigmas, [0.1, 0.8, 5.0])
    np.testing.assert_array_equal(found.patch_sizes, [2, 5, 8])
    assert found.n == 7
    weight = weight / weight.sum()
    x = oracle.as_float(X)
    for j, sigma in enumerate(found.sigmas):
        z = clean + sigma * noise
        whole = oracle.collection(z, X, sigma, oracle.whole_mask((1, 8, 8)), sample_weight=count)
        for k, size in enumerate(found.patch_sizes):
            mask = central_mask(size, (1, 8, 8))
            patch = oracle.collection(z, X, sigma, [mask], sample_weight=count)
            gap = np.sqrt(((patch.mean - whole.mean)[:, mask] ** 2).mean(1))
            variation = np.abs(patch.weights - whole.weights)[:, 0].sum(1) / 2
            np.testing.assert_allclose(found.image_gaps[j, k], gap, atol=2e-5)
            np.testing.assert_allclose(found.image_variations[j, k], variation, atol=2e-5)
            assert found.gap[j, k] == pytest.approx(weight @ gap, abs=2e-5)
            error = np.sqrt(7 / 6 * weight**2 @ (gap - weight @ gap) ** 2)
            assert found.gap_standard_error[j, k] == pytest.approx(error, abs=1e-5)
            pairs = np.sqrt(((x[:, None, mask] - x[:, mask]) ** 2).mean(2))
            assert pairs.max() <= found.diameters[k] * (1 + 1e-12) <= 2 * pairs.max()
    assert (found.image_gaps <= found.image_variations * found.diameters[:, None] + 1e-5).all()
    # the whole image is no other than itself
    assert (found.bound[:, 2] == 0).all()
    assert (found.gap[:, 2] == 0).all()


@given(generators.cases(min_images=2, low=0.01, high=100))
def test_the_bound_holds_for_any_images(case):
    found = local_equivalence(case.X, case.sigma[:1], [case.size], n_images=5)
    gaps, bounds = found.image_gaps, found.image_variations * found.diameters[:, None]
    assert (gaps <= bounds + 1e-5).all()
    assert (found.image_variations <= 1 + 1e-6).all()


def test_the_gap_is_that_of_the_denoisers(digits):
    X = digits[:100] / 127.5 - 1
    found = local_equivalence(X, [0.7], [3], n_images=6)
    clean, _, noise = drawn(X, 6)
    z = clean + 0.7 * noise
    patch = PatchDenoiser(3).fit(X).denoise(z, 0.7)
    whole = EmpiricalDenoiser().fit(X).denoise(z, 0.7)[..., 2:5, 2:5]
    gap = np.sqrt(((patch - whole) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(found.image_gaps[0, 0], gap, rtol=1e-9)


def test_colour_flat_images_and_more_than_there_are(photos):
    X = photos[:20]
    found = local_equivalence(X, [0.5], [4, 16], n_images=1000)
    assert found.n == 20
    flat = local_equivalence(
        torch.from_numpy(X.reshape(20, -1).copy()), [0.5], [4, 16], image_shape=(3, 16, 16)
    )
    np.testing.assert_array_equal(flat.gap, found.gap)
    one = local_equivalence(X, [0.5], [4], n_images=1)
    assert np.isnan(one.gap_standard_error).all()
    # of images on other units all is in those
    small = local_equivalence(X / 255.0, [0.25], [4])
    large = local_equivalence(X / 127.5, [0.5], [4])
    np.testing.assert_allclose(2 * small.gap, large.gap, rtol=1e-9)
    np.testing.assert_allclose(2 * small.bound, large.bound, rtol=1e-9)


# ------------------------------------------------------------------------------ suggestion


def test_the_smallest_size_whose_bound_is_met(digits):
    X = digits[:200]
    for sigma in (0.1, 0.5, 2.0, 10.0, 100.0):
        size, found = suggest_patch_size(X, sigma, tol=0.2, random_state=1)
        meets = dict(zip(found.patch_sizes.tolist(), (found.bound[0] <= 0.2).tolist(), strict=True))
        assert all(meets[s] for s in meets if s >= size)
        assert size == 1 or not meets[size - 1]
        assert found.sigmas.tolist() == [sigma]
        _, again = suggest_patch_size(X, sigma, random_state=1)
        np.testing.assert_array_equal(again.bound, found.bound)
        # what it promises
        assert found.gap[0, found.patch_sizes.tolist().index(size)] <= 0.2
    assert suggest_patch_size(X, 2.0, tol=1e-9, patch_sizes=[1, 3])[0] == 8
    assert suggest_patch_size(X, 2.0, tol=10.0)[0] == 1


def test_suggestions_rise_and_fall(photos):
    """At both ends a small patch is as good as all, in between only the image is."""
    sizes = [suggest_patch_size(photos, sigma)[0] for sigma in (0.02, 2.0, 1000.0)]
    assert sizes[0] < sizes[1] == 16
    assert sizes[2] == 1


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sigmas": []}, "sigmas must be a sequence of at least one noise level"),
        ({"sigmas": "large"}, "sigmas must be a sequence of at least one noise level"),
        ({"sigmas": [-1.0]}, "sigmas must be finite and non-negative"),
        ({"patch_sizes": []}, "patch_sizes must be ints between 1 and 8"),
        ({"patch_sizes": [9]}, "patch_sizes must be ints between 1 and 8, .* got"),
        ({"patch_sizes": "paper"}, "patch_sizes must be ints .* got 'paper'"),
        ({"n_images": 0}, "n_images must be an int of at least 1"),
        ({"n_images": 2.5}, "n_images must be an int of at least 1"),
        ({"image_shape": (1, 4, 4)}, "image"),
        ({"random_state": -1}, "random_state must be None"),
    ],
)
def test_bad_input_gets_a_sentence(digits, options, sentence):
    options = {"sigmas": [0.5], "patch_sizes": [2], **options}
    with pytest.raises(ValueError, match=sentence):
        local_equivalence(digits[:30], **options)


@pytest.mark.parametrize(
    ("sigma", "options", "sentence"),
    [
        (
            [0.5, 1.0],
            {},
            r"sigma must be one noise level, .* got \[0.5, 1.0\]; call the function once",
        ),
        (-0.5, {}, r"sigma must be .* finite and non-negative, got -0\.5"),
        (np.inf, {}, "sigma must be one noise level, .* got inf"),
        ("high", {}, "sigma must be one noise level, a float, .* got 'high'"),
        (None, {}, "sigma must be one noise level, a float, .* got None"),
        (0.5, {"tol": 0}, "tol must be a positive float, got 0"),
        (0.5, {"tol": "tight"}, "tol must be a positive float, got 'tight'"),
        (0.5, {"tol": np.nan}, "tol must be a positive float"),
        (0.5, {"patch_sizes": [0]}, "patch_sizes must be ints"),
    ],
)
def test_bad_input_of_suggestions(digits, sigma, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        suggest_patch_size(digits[:30], sigma, **options)


# --------------------------------------------------------------------------------- display


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (plot)")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_display(digits, plt):
    model = PSPCDenoiser().fit(digits[:100])
    display = LocalEquivalenceDisplay.from_estimator(model, [10.0, 0.1, 1.0], n_images=8)
    found = local_equivalence(digits[:100], [0.1, 1.0, 10.0], [1, 2, 4, 6], n_images=8)
    assert len(display.lines_) == len(display.bound_lines_) == 4
    for k, (line, dotted) in enumerate(zip(display.lines_, display.bound_lines_, strict=True)):
        np.testing.assert_allclose(line.get_xdata(), found.sigmas)
        np.testing.assert_allclose(line.get_ydata(), found.gap[:, k])
        np.testing.assert_allclose(dotted.get_ydata(), found.bound[:, k])
    for k, band in enumerate(display.ax_.collections):
        for j, sigma in enumerate(found.sigmas):
            x, y = band.get_paths()[0].vertices.T
            gap, error = found.gap[j, k], found.gap_standard_error[j, k]
            edges = [y[x == sigma].min(), y[x == sigma].max()]
            np.testing.assert_allclose(edges, [gap - error, gap + error])
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "log"
    foot, top = display.ax_.get_ylim()
    assert foot == pytest.approx(found.gap.max() / 1000)
    assert found.bound.max() < top < 3 * found.bound.max()
    assert display.figure_ is display.ax_.figure
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[:4] == ["1 × 1", "2 × 2", "4 × 4", "6 × 6"]
    assert len(labels) == 5
    display.figure_.canvas.draw()


def test_display_from_predictions_on_given_axes(digits, plt):
    found = local_equivalence(digits[:50], [0.1, 1.0], [2], n_images=1)
    _, ax = plt.subplots()
    display = LocalEquivalenceDisplay.from_predictions(found, ax=ax, bound=False)
    assert display.ax_ is ax
    assert display.bound_lines_ == []
    assert len(ax.get_legend().get_texts()) == 1
    again = display.plot()
    assert again is display
    assert display.ax_ is not ax
    display.figure_.canvas.draw()


def test_the_legend_is_in_the_axes_that_are_given(digits, plt):
    found = local_equivalence(digits[:50], [0.1, 1.0], [2, 4], n_images=4)
    figure, (ax, _) = plt.subplots(1, 2)
    LocalEquivalenceDisplay.from_predictions(found, ax=ax)
    figure.canvas.draw()
    legend, room = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert room.x0 < legend.x0 < legend.x1 < room.x1
    assert room.y0 < legend.y0 < legend.y1 < room.y1


def test_gaps_of_zero_can_be_drawn(digits, plt):
    found = local_equivalence(digits[:50], [0.1, 1.0], [8], n_images=2)
    assert (found.gap == 0).all()
    display = LocalEquivalenceDisplay.from_predictions(found)
    display.figure_.canvas.draw()
    assert display.ax_.get_ylim() == (1e-3, 2.0)


def test_display_of_a_wrapped_denoiser(digits, plt):
    """What a frozen denoiser was fitted on, and not what its wrapper was given."""
    frozen = FrozenEstimator(PSPCDenoiser(3).fit(digits[:100]))
    model = SmoothedDenoiser(frozen).fit(digits[100:150])
    display = LocalEquivalenceDisplay.from_estimator(model, [0.5], [3], n_images=8)
    found = local_equivalence(digits[:100], [0.5], [3], n_images=8)
    np.testing.assert_array_equal(display.equivalence.gap, found.gap)


def test_display_refuses(digits, plt):
    with pytest.raises(ValueError, match="equivalence must be a LocalEquivalence, got list"):
        LocalEquivalenceDisplay.from_predictions([1, 2])
    network = NetworkDenoiser(lambda x, c: x, image_shape=(1, 8, 8)).fit(digits[:3])
    with pytest.raises(ValueError, match="NetworkDenoiser holds no training images"):
        LocalEquivalenceDisplay.from_estimator(network)
    with pytest.raises(ValueError, match="not fitted yet"):
        LocalEquivalenceDisplay.from_estimator(EmpiricalDenoiser())
