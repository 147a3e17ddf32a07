"""Pictures of images, and ``plot`` of results: what is drawn, and what is written beside it."""

import pickle

import numpy as np
import pytest
import torch

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    NetworkDenoiser,
    PSPCDenoiser,
    _optional,
)
from skpspc.inspection import (
    CalibrationCurveDisplay,
    CalibrationTable,
    ComparisonDisplay,
    EntropyMapDisplay,
    ErrorCurveDisplay,
    ImageGridDisplay,
    InformationCurveDisplay,
    LocalEquivalenceDisplay,
    MemorisationRiskDisplay,
    attribute,
    calibrate_patch_size,
    calibrate_thresholds,
    compare,
    error_curve,
    information_curve,
    local_equivalence,
    memorisation_risk,
    posterior_entropy,
    show_images,
)
from skpspc.posterior.posterior import converted

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


def drawn(display):
    return [np.asarray(image.get_array()) for image in display.ax_.images]


def texts(display):
    return [text.get_text() for text in display.ax_.texts]


# Images


def test_uint8_images_are_drawn_as_they_come(photos, digits):
    for shown, image in zip(drawn(show_images(photos[:9])), photos, strict=False):
        np.testing.assert_allclose(shown, image.transpose(1, 2, 0) / 255, atol=1e-12)
    for shown, image in zip(drawn(show_images(digits[:2])), digits, strict=False):
        np.testing.assert_allclose(shown, image[0] / 255, atol=1e-12)


@pytest.mark.parametrize("convert", [np.float32, np.float16, torch.tensor, lambda X: X.tolist()])
def test_floats_are_drawn_on_the_usual_range(convert):
    X = np.linspace(-1.5, 1.5, 32).reshape(2, 1, 4, 4)
    expected = np.clip((X[:, 0] + 1) / 2, 0, 1)
    for shown, image in zip(drawn(show_images(convert(X))), expected, strict=True):
        np.testing.assert_allclose(shown, image, atol=1e-3)


def test_the_range_can_be_given(digits):
    X = digits[:2] / 255
    for shown, image in zip(drawn(show_images(X, data_range=(0, 1))), X, strict=True):
        np.testing.assert_allclose(shown, image[0])
    for shown, image in zip(drawn(show_images(digits[:2], data_range=(0, 1))), X, strict=True):
        np.testing.assert_allclose(shown, image[0])


@pytest.mark.parametrize(("scale", "most"), [(1 / 255, "1"), (1, "255")])
def test_images_that_seem_to_be_on_another_range_warn(scale, most, digits):
    with pytest.warns(UserWarning, match=rf"pass data_range=\(0, {most}\)"):
        show_images(digits[:2] * np.float64(scale))


def test_pixels_are_not_smoothed(digits):
    assert show_images(digits[:1]).ax_.images[0].get_interpolation() == "nearest"


def test_titles_are_below_their_images(digits):
    display = show_images(digits[:3], titles=["one", 2, "three words\nin two lines"], n_columns=2)
    assert [" ".join(text.split()) for text in texts(display)] == [
        "one",
        "2",
        "three words in two lines",
    ]
    for image, text in zip(display.ax_.images, display.ax_.texts, strict=True):
        left, right, bottom, _ = image.get_extent()
        x, y = text.get_position()
        assert x == pytest.approx((left + right) / 2)
        assert y > bottom


@pytest.mark.parametrize("n", [1, 3, 8, 20])
@pytest.mark.parametrize("given", [False, True])
def test_titles_overlap_neither_each_other_nor_images(n, given, digits):
    ax = pyplot.subplots(figsize=(8, 6))[1] if given else None
    display = show_images(digits[:n], titles=[f"ESS {i}\nerror 0.01" for i in range(n)], ax=ax)
    display.figure_.canvas.draw()
    boxes = [text.get_window_extent() for text in display.ax_.texts]
    boxes += [image.get_window_extent() for image in display.ax_.images]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_columns(digits):
    def columns(**options):
        display = show_images(digits[:10], **options)
        return len({image.get_extent()[0] for image in display.ax_.images})

    assert columns() == 5
    assert columns(n_columns=4) == 4
    assert columns(n_columns=40) == 10
    figure, ax = pyplot.subplots(figsize=(2, 12))
    display = show_images(digits[:10], ax=ax)
    assert display.ax_ is ax and display.figure_ is figure
    assert columns(ax=ax) == 1


def test_flat_images_are_signals_or_get_a_shape(digits):
    flat = digits[:3].reshape(3, 64)
    assert drawn(show_images(flat, image_shape=(1, 8, 8)))[0].shape == (8, 8)
    display = show_images(flat)
    assert len(display.ax_.lines) == 3 and not display.ax_.images


def test_no_figure_is_wider_than_eight_inches(digits):
    assert show_images(digits[:64]).figure_.get_figwidth() <= 8.01
    assert 2 <= show_images(digits[:1]).figure_.get_figwidth() <= 4


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (np.zeros((2, 4, 4)), {}, "add the channel axis"),
        (np.full((2, 1, 4, 4), np.nan), {}, "NaN"),
        (np.zeros((0, 1, 4, 4)), {}, "holds no images"),
        (np.zeros((2, 1, 4, 4)), {"titles": ["one"]}, "one title for each of the 2 images, got 1"),
        (np.zeros((2, 1, 4, 4)), {"n_columns": 0}, "n_columns must be an int of at least 1"),
        (np.zeros((2, 1, 4, 4)), {"data_range": (1, 0)}, "data_range must be"),
        (np.zeros((2, 16)), {"image_shape": (1, 3, 3)}, "image_shape"),
    ],
)
def test_images_that_cannot_be_shown(X, options, message):
    with pytest.raises(ValueError, match=message):
        show_images(X, **options)


# Results


def test_posteriors_show_means_and_effective_sizes(digits):
    posterior = PSPCDenoiser(4).fit(digits[20:]).posterior(digits[:10], 0.5)
    display = posterior.plot()
    assert isinstance(display, ImageGridDisplay)
    assert len(display.ax_.images) == 8
    for shown, mean in zip(drawn(display), posterior.mean, strict=False):
        np.testing.assert_allclose(shown, np.clip((mean[0] + 1) / 2, 0, 1), atol=1e-6)
    assert texts(display) == [f"ESS {size:.3g}" for size in posterior.effective_sample_size[:8]]
    title = " ".join(display.ax_.get_title().split())
    assert (
        title == "Posterior means of first 8 of 10 noisy images; below: effective sample size (ESS)"
    )


@pytest.mark.filterwarnings("error")
def test_posteriors_are_drawn_on_the_range_of_the_denoiser(digits):
    model = PSPCDenoiser(4, data_range=(0, 1)).fit(digits[20:])
    posterior = pickle.loads(pickle.dumps(model.posterior(digits[:2], 0.25)))
    assert posterior.data_range == (0, 1)
    assert converted(posterior, np.copy).data_range == (0, 1)
    ax = pyplot.subplots()[1]
    display = posterior.plot(ax)
    assert display.ax_ is ax
    for shown, mean in zip(drawn(display), posterior.mean, strict=True):
        np.testing.assert_allclose(shown, np.clip(mean[0], 0, 1), atol=1e-6)
    halved = drawn(posterior.plot(data_range=(0, 2)))
    np.testing.assert_allclose(halved[0], np.clip(posterior.mean[0, 0], 0, 2) / 2, atol=1e-6)


def test_posteriors_show_error_bounds(digits):
    model = EmpiricalDenoiser(n_neighbors=20, index="Flat").fit(digits[20:])
    posterior = model.posterior(torch.from_numpy(digits[:2] / 127.5 - 1), 5.0)
    assert (posterior.error_bound > 0).all()
    display = posterior.plot()
    for text, bound in zip(texts(display), posterior.error_bound, strict=True):
        assert text.endswith(f"error ≤ {float(bound):.2g}")


def test_posteriors_of_flat_images(digits):
    flat = digits[:30].reshape(30, 64)
    model = EmpiricalDenoiser(image_shape=(1, 8, 8)).fit(flat)
    posterior = model.posterior(flat[:2], 0.5)
    assert drawn(posterior.plot(image_shape=(1, 8, 8)))[0].shape == (8, 8)


@pytest.fixture
def models(digits):
    models = {"gauss": GaussianDenoiser(), "pspc": PSPCDenoiser(4), "optimal": EmpiricalDenoiser()}
    return {name: model.fit(digits[:100]) for name, model in models.items()}


def test_error_tables_are_lines(models, digits):
    table = error_curve(models, digits[100:], [0.1, 1.0], n=4, X_train=digits[:100])
    ax = pyplot.subplots()[1]
    display = table.plot(ax, line_kw={"color": "red"})
    assert isinstance(display, ErrorCurveDisplay) and display.ax_ is ax
    assert display.lines_[0].get_color() == "red"


def test_comparison_tables_are_heat_maps(models, digits):
    table = compare(models, digits[100:], [0.1, 1.0], n=4)
    display = table.plot()
    assert isinstance(display, ComparisonDisplay)
    assert len(display.axes_) == 2
    for panel, errors, sigma in zip(display.axes_, table.errors, table.sigmas, strict=True):
        (image,) = panel.images
        np.testing.assert_allclose(image.get_array(), np.sqrt(errors))
        assert image.get_clim() == pytest.approx((0, np.sqrt(table.errors.max())))
        assert panel.get_title() == f"σ = {sigma:g}"
        assert [label.get_text() for label in panel.get_xticklabels()] == table.names
        written = [text.get_text() for text in panel.texts]
        assert written[0] == "0"
        assert float(written[1]) == pytest.approx(np.sqrt(errors[0, 1]), rel=0.06)
    rows = [label.get_text() for label in display.axes_[0].get_yticklabels()]
    assert rows == table.names
    title = " ".join(display.figure_.get_suptitle().split())
    assert title.endswith("for each σ; 4 noisy images (forward process)")
    ComparisonDisplay.from_estimator(models, digits[100:], [0.1, 1.0], n=4)
    with pytest.raises(ValueError, match="must be a ComparisonTable, got int"):
        ComparisonDisplay.from_predictions(3)


@pytest.mark.parametrize("n_levels", [1, 2, 5])
@pytest.mark.parametrize("n_names", [2, 5, 8])
def test_all_of_a_comparison_is_inside_its_figure(n_levels, n_names, rng):
    from skpspc.inspection import ComparisonTable

    errors = rng.random((n_levels, n_names, n_names)) * 0.1
    names = [f"denoiser {m}" for m in range(n_names)]
    levels = np.arange(1.0, n_levels + 1)
    table = ComparisonTable(levels, names, errors, errors, 9, "forward", "noisy images")
    display = table.plot()
    display.figure_.canvas.draw()
    room = display.figure_.bbox
    for ax in display.figure_.axes:
        box = ax.get_tightbbox()
        assert room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1


def test_comparisons_in_given_axes(models, digits):
    table = compare(models, digits[100:], [0.1, 1.0], n=4)
    _, axes = pyplot.subplots(1, 2)
    assert table.plot(axes).axes_.tolist() == axes.tolist()
    with pytest.raises(ValueError, match="ax must hold 2 axes"):
        table.plot(axes[0])


def test_calibrations_of_sizes_are_curves_with_the_chosen_marked(digits):
    _, table = calibrate_patch_size(
        PSPCDenoiser(), digits[:200], [0.1, 1.0], sizes=[1, 2, 4, 8], n_images=16
    )
    display = table.plot()
    assert isinstance(display, CalibrationCurveDisplay)
    assert display.ax_.get_yscale() == "log"
    for line, errors in zip(display.lines_, table.errors, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), table.values)
        np.testing.assert_allclose(line.get_ydata(), errors)
    np.testing.assert_array_equal(display.chosen_.get_xdata(), table.chosen)
    for j, (size, error) in enumerate(display.chosen_.get_xydata()):
        assert error == table.errors[j, table.values.tolist().index(size)]
    assert display.ax_.get_title() == "Mean squared error against patch size; 16 held-out images"
    assert display.ax_.get_xlabel() == "patch size (pixels)"
    assert "the clean images" in " ".join(display.ax_.get_ylabel().split())
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["1", "2", "4", "8"]


def test_calibrations_against_a_denoiser_name_it(digits):
    network = GaussianDenoiser().fit(digits[:200])
    _, table = calibrate_patch_size(
        PSPCDenoiser(), digits[:200], [1.0], sizes=[1, 8], n_images=1, against=network
    )
    assert table.against == "the answers of GaussianDenoiser"
    display = table.plot(pyplot.subplots()[1])
    assert "GaussianDenoiser" in display.ax_.get_ylabel()
    display.figure_.canvas.draw()


def test_calibrations_of_thresholds(digits):
    denoiser = PSPCDenoiser(windows=FlexibleWindows("data", 0.5, [2.0, 0.2]))
    _, table = calibrate_thresholds(denoiser, digits[:200], thresholds=[0.5, 0.9], n_images=8)
    assert table.parameter == "threshold"
    display = table.plot()
    assert display.ax_.get_title() == "Mean squared error against threshold; 8 held-out images"
    assert display.ax_.get_xscale() == "linear"
    with pytest.raises(ValueError, match="must be a CalibrationTable, got int"):
        CalibrationCurveDisplay.from_predictions(3)


def test_posteriors_without_a_sample_size_have_no_titles(digits):
    model = NetworkDenoiser(lambda z, sigma: 0.9 * z, "x0").fit(digits[:10])
    display = model.posterior(digits[:3] / 127.5 - 1, 0.5).plot()
    assert display.titles is None
    assert display.heading == "Posterior means of 3 noisy images"


def test_tables_made_by_hand_have_the_usual_words():
    table = CalibrationTable(
        np.array([0.1]), np.array([1, 2]), np.ones((1, 2, 3)), np.full(3, 1 / 3), np.array([1])
    )
    assert (table.parameter, table.against) == ("patch size", "the clean images")
    assert repr(table).splitlines() == [
        "Mean squared error per patch size, 3 held-out images; * is chosen",
        "sigma      1     2",
        "  0.1  1.00*  1.00",
    ]
    assert table.to_frame().loc[0.1].tolist() == [1, 1]


def test_local_equivalences_are_curves(digits):
    equivalence = local_equivalence(digits[:100], [0.1, 1.0, 10.0], [2, 4], n_images=8)
    display = equivalence.plot(bound=False)
    assert isinstance(display, LocalEquivalenceDisplay)
    assert not display.bound_lines_
    title = " ".join(display.ax_.get_title().split())
    assert title.endswith("against σ; 8 noisy training images")


def test_entropies_are_maps_below_their_images(models, digits):
    Z = digits[:3] / 127.5 - 1
    found = posterior_entropy(models["pspc"], Z, 0.5)
    display = found.plot(images=Z)
    assert isinstance(display, EntropyMapDisplay)
    assert display.axes_.shape == (2, 3)
    for panel, entropy in zip(display.axes_[1], found.entropy, strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), entropy)
        assert panel.images[0].get_clim() == (0, pytest.approx(found.log_n[0]))
    title = " ".join(display.figure_.get_suptitle().split())
    assert (
        title == f"Entropy of the posterior over training images; log N = {found.log_n[0]:.3g} nats"
    )
    _, axes = pyplot.subplots(1, 3)
    given = EntropyMapDisplay.from_estimator(models["pspc"], Z, 0.5, ax=axes, colorbar=False)
    assert given.axes_.tolist() == [axes.tolist()]
    with pytest.raises(ValueError, match="ax must hold 2 x 3 axes"):
        found.plot(axes, images=Z)
    with pytest.raises(ValueError, match="one image for each of 3 maps"):
        found.plot(images=Z[:2])
    by_window = posterior_entropy(models["pspc"], Z, 0.5, by="window")
    for wrong, message in ((by_window, "must be by pixel"), (Z, "must be an EntropyMap")):
        with pytest.raises(ValueError, match=message):
            EntropyMapDisplay.from_predictions(wrong)


def test_entropies_of_signals_are_lines(rng):
    X = rng.standard_normal((20, 12))
    model = PSPCDenoiser(4, image_shape=(1, 1, 12)).fit(X)
    display = EntropyMapDisplay.from_estimator(model, X[:2], 0.5, images=X[:2])
    found = posterior_entropy(model, X[:2], 0.5).entropy
    for panel, entropy in zip(display.axes_[1], found, strict=True):
        np.testing.assert_array_equal(panel.lines[0].get_ydata(), entropy.ravel())


def test_information_is_a_curve_for_each_noise_level(digits):
    curve = information_curve(digits[:100], [0.1, 1.0], [1, 2, 4, 8], n_images=8)
    display = curve.plot()
    assert isinstance(display, InformationCurveDisplay)
    for line, values in zip(display.lines_, curve.information, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 4, 8])
        np.testing.assert_array_equal(line.get_ydata(), values)
    np.testing.assert_allclose(display.log_n_line_.get_ydata(), curve.log_n)
    assert display.ax_.get_title().endswith("8 held-out images")
    model = PSPCDenoiser().fit(digits[:100])
    options = dict(patch_sizes=[1, 2, 4, 8], n_images=8)
    other = InformationCurveDisplay.from_estimator(model, [0.1, 1.0], **options)
    np.testing.assert_array_equal(other.curve.information, curve.information)
    with pytest.raises(ValueError, match="must be an InformationCurve"):
        InformationCurveDisplay.from_predictions(digits)


def test_risk_is_a_median_with_a_band(models):
    risks = memorisation_risk(models["pspc"], [0.1, 0.5, 2.0], n_images=20)
    display = risks.plot()
    assert isinstance(display, MemorisationRiskDisplay)
    np.testing.assert_allclose(display.line_.get_ydata(), np.median(risks.risk, axis=1))
    mean = risks.risk.mean(0)
    for line, row in zip(display.extreme_lines_, (mean.argmax(), mean.argmin()), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), risks.risk[:, row])
        assert line.get_label() == f"image no. {risks.images[row]}"


@pytest.mark.parametrize("name", ["posterior", "error", "compare", "attribution", "show", "sizes"])
def test_the_extra_is_named_without_matplotlib(name, models, digits, monkeypatch):
    train, Z = digits[:100], digits[:2] / 127.5 - 1
    model = models["pspc"]
    makers = {
        "posterior": lambda: model.posterior(Z, 0.5).plot,
        "error": lambda: error_curve(model, digits, [1.0], n=2).plot,
        "compare": lambda: compare(models, digits, [1.0], n=2).plot,
        "attribution": lambda: lambda: attribute(model, Z, 0.5).plot(Z, Z, train),
        "show": lambda: lambda: show_images(digits[:2]),
        "sizes": lambda: (
            calibrate_patch_size(PSPCDenoiser(), train, [1.0], sizes=[1, 2], n_images=2)[1].plot
        ),
    }
    plot = makers[name]()

    def missing(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(_optional, "import_module", missing)
    with pytest.raises(ImportError, match=r"skpspc\[plot\]"):
        plot()
