"""Displays of curves, samples and trajectories: what is drawn is what was measured."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from skpspc import (
    EmpiricalDenoiser,
    GaussianDenoiser,
    NetworkDenoiser,
    PSPCDenoiser,
    edm_sigmas,
)
from skpspc.inspection import (
    ErrorCurveDisplay,
    ErrorTable,
    SampleGridDisplay,
    SensitivityDisplay,
    TrajectoryDisplay,
    compare,
    error_curve,
    heat_maps,
    nearest_training_images,
)

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
matplotlib.use("Agg")
pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed (extra plot)")


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


@pytest.fixture
def plt():
    from matplotlib import pyplot

    return pyplot


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def corners(band):
    """The corners of the polygon that is filled."""
    return band.get_paths()[0].vertices


def table_of(errors, sigmas=None, names=None):
    errors = np.asarray(errors, dtype=float)
    sigmas = 10.0 ** np.arange(len(errors)) if sigmas is None else np.asarray(sigmas)
    names = [f"denoiser {m}" for m in range(errors.shape[1])] if names is None else names
    return ErrorTable(
        sigmas, names, errors, errors / 10, 5, "forward", "the optimal denoiser", "noisy images"
    )


# Error curves


def test_error_curve_shows_the_table(digits):
    models = {"gauss": GaussianDenoiser().fit(digits), "pspc": PSPCDenoiser(4).fit(digits)}
    display = ErrorCurveDisplay.from_estimator(models, digits, [2.0, 0.1, 0.5], n=4, X_train=digits)
    table = error_curve(models, digits, [0.1, 0.5, 2.0], n=4, X_train=digits)
    assert display.ax_.get_xscale() == display.ax_.get_yscale() == "log"
    assert display.figure_ is display.ax_.figure
    for m, line in enumerate(display.lines_):
        np.testing.assert_allclose(line.get_xdata(), table.sigmas)
        np.testing.assert_allclose(line.get_ydata(), table.errors[:, m], rtol=1e-6)
    assert legend_of(display.ax_) == ["gauss", "pspc"]
    label = " ".join(display.ax_.get_ylabel().split())
    assert label == (
        "mean squared error (squared units), measured from the optimal denoiser of X_train "
        "(1797 images)"
    )
    title = display.ax_.get_title()
    assert title == "Mean squared error against σ; 4 noisy images (forward process)"
    assert display.ax_.get_xlabel() == "noise level σ (units of the images)"


def test_lines_differ_by_colour_marker_and_style():
    display = ErrorCurveDisplay.from_predictions(table_of(np.ones((3, 14))))
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in display.lines_]
    assert len(set(looks)) == 14
    assert len({color for color, _, _ in looks[:7]}) == len({m for _, m, _ in looks[:7]}) == 7


def test_bands_are_one_standard_error_wide():
    table = table_of([[1.0, 2.0], [0.5, 3.0], [4.0, 8.0]])
    table.standard_errors[1, 1] = 2.9  # more than nine tenths: cut off, for there is no zero
    display = ErrorCurveDisplay.from_predictions(table)
    for m, band in enumerate(display.ax_.collections):
        for j, sigma in enumerate(table.sigmas):
            x, y = corners(band).T
            error, spread = table.errors[j, m], table.standard_errors[j, m]
            low = 0.3 if (j, m) == (1, 1) else error - spread
            np.testing.assert_allclose(
                [y[x == sigma].min(), y[x == sigma].max()], [low, error + spread]
            )


def test_names_leave_room_for_the_lines():
    names = ["PSPC", "PSPC-Flex, from data (N = 10,000), and even longer than that"]
    display = ErrorCurveDisplay.from_predictions(table_of(np.ones((3, 2)), names=names))
    display.figure_.canvas.draw()
    figure, ax = display.figure_.bbox, display.ax_.get_window_extent()
    legend = display.ax_.get_legend().get_window_extent()
    assert ax.width > 0.6 * figure.width
    assert ax.x1 < legend.x0 < legend.x1 <= figure.x1
    assert " ".join(legend_of(display.ax_)[1].split()) == names[1]


def test_errors_of_rounding_are_below_the_axis():
    table = table_of([[1e-15, 0.0], [1e-3, 0.0], [1.0, 1e-5]])
    display = ErrorCurveDisplay.from_predictions(table)
    assert display.ax_.get_ylim()[0] == pytest.approx(1e-6)
    assert 1.1 < display.ax_.get_ylim()[1] < 3  # the band's upper end, and some room
    first, second = display.ax_.lines[2:4]  # marks
    assert first.get_xdata().tolist() == [1.0]
    assert second.get_xdata().tolist() == [1.0, 10.0]
    assert 0 < first.get_ydata()[0] < second.get_ydata()[0] < 0.1
    assert [mark.get_color() for mark in (first, second)] == [
        line.get_color() for line in display.lines_
    ]
    assert legend_of(display.ax_) == ["denoiser 0", "denoiser 1", "below axis, or zero"]


def test_errors_of_zero_alone():
    display = ErrorCurveDisplay.from_predictions(table_of(np.zeros((2, 1))))
    assert display.ax_.get_ylim() == (1e-6, 1.0)
    assert display.ax_.lines[1].get_xdata().tolist() == [1.0, 10.0]
    display.figure_.canvas.draw()


def test_zeros_are_left_out_of_logarithmic_axes():
    table = table_of([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]], sigmas=[0.0, 1.0, 2.0])
    display = ErrorCurveDisplay.from_predictions(table)
    assert display.lines_[0].get_xdata().tolist() == [1.0]
    assert len(display.lines_[1].get_xdata()) == 0
    assert [mark.get_xdata().tolist() for mark in display.ax_.lines[2:4]] == [[2.0], [1.0, 2.0]]


def test_error_curve_in_given_axes(plt):
    figure, axes = plt.subplots(1, 2)
    display = ErrorCurveDisplay(table_of([[1.0], [2.0]])).plot(axes[1], line_kw={"color": "red"})
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert display.lines_[0].get_color() == "red"
    assert not axes[0].lines


def test_the_legend_is_in_the_axes_that_are_given(plt):
    figure, axes = plt.subplots(1, 2)
    ErrorCurveDisplay.from_predictions(table_of([[1.0, 2.0], [2.0, 1.0]]), ax=axes[0])
    figure.canvas.draw()
    legend, room = axes[0].get_legend().get_window_extent(), axes[0].get_window_extent()
    assert room.x0 < legend.x0 < legend.x1 < room.x1
    assert room.y0 < legend.y0 < legend.y1 < room.y1


def test_bad_tables(digits):
    models = [GaussianDenoiser().fit(digits[:20]), EmpiricalDenoiser().fit(digits[:20])]
    with pytest.raises(ValueError, match="must be an ErrorTable, got ComparisonTable"):
        ErrorCurveDisplay.from_predictions(compare(models, digits[:20], [0.5], n=2))
    with pytest.raises(ValueError, match="must be an ErrorTable, got ndarray"):
        ErrorCurveDisplay.from_predictions(np.ones((3, 2)))


# Samples


def test_sample_grid_shows_pairs_and_distances(digits):
    train = digits[:200]
    display = SampleGridDisplay.from_estimator(PSPCDenoiser(4).fit(train), train, n=5, n_columns=3)
    samples = PSPCDenoiser(4).fit(train).sample(5, random_state=0)
    distances, indices = nearest_training_images(samples, train)
    np.testing.assert_allclose(display.distances, distances[:, 0])
    assert len(display.ax_.images) == 10
    for i, (sample, index) in enumerate(zip(samples, indices[:, 0], strict=True)):
        shown, below = display.ax_.images[2 * i : 2 * i + 2]
        np.testing.assert_allclose(shown.get_array(), (sample[0] + 1) / 2, atol=1e-6)
        np.testing.assert_allclose(below.get_array(), train[index, 0] / 255, atol=1e-6)
        assert f"{distances[i, 0]:.3f}" in texts(display.ax_)
        left, right, bottom, top = shown.get_extent()
        assert below.get_extent()[:2] == [left, right]
        assert below.get_extent()[3] > bottom > top
    title = " ".join(display.ax_.get_title().split())
    assert title == "5 samples above their nearest of 200 training images; 0 copies (framed)"
    assert texts(display.ax_).count("sample") == 2


@pytest.mark.parametrize("flat", [True, False])
def test_sample_grid_knows_the_training_images_of_the_denoiser(digits, flat):
    train = digits[:100].reshape(100, 64) if flat else digits[:100]
    model = EmpiricalDenoiser(image_shape=(1, 8, 8)).fit(train)
    display = SampleGridDisplay.from_estimator(model, n=2)
    given = SampleGridDisplay.from_estimator(model, train, n=2)
    assert display.memorised.all()
    assert display.n_train == 100
    for name in ("samples", "nearest", "distances"):
        np.testing.assert_array_equal(getattr(display, name), getattr(given, name))


def test_sample_grid_asks_for_images_that_are_not_kept(digits):
    with pytest.raises(ValueError, match=r"GaussianDenoiser keeps no .*; pass X_train"):
        SampleGridDisplay.from_estimator(GaussianDenoiser().fit(digits), n=2)


def test_copies_are_framed(digits):
    train = digits[:100]
    display = SampleGridDisplay.from_estimator(EmpiricalDenoiser().fit(train), train, n=3)
    assert display.memorised.all()
    assert "3 copies" in display.ax_.get_title()
    assert all(frame.get_linewidth() > 1 for frame in display.ax_.patches)
    assert texts(display.ax_).count("0.000") == 3


def test_sample_grid_of_colours(photos):
    train = photos[:50]
    display = SampleGridDisplay.from_predictions(torch.from_numpy(photos[50:52]), train)
    assert display.ax_.images[0].get_array().shape == (16, 16, 3)
    np.testing.assert_allclose(
        display.ax_.images[0].get_array(), photos[50].transpose(1, 2, 0) / 255, atol=1e-6
    )


@pytest.mark.parametrize("flat", [True, False])
def test_sample_grid_of_signals(rng, flat):
    train = np.cumsum(rng.standard_normal((40, 30)), 1)
    samples = train[:3] + 0.1
    shaped = (lambda X: X) if flat else (lambda X: X.reshape(len(X), 1, 1, 30))
    display = SampleGridDisplay.from_predictions(shaped(samples), shaped(train))
    assert not display.ax_.images
    assert len(display.ax_.lines) == 6
    drawn = display.ax_.lines[0].get_ydata()  # y points down
    np.testing.assert_allclose(np.corrcoef(drawn, samples[0])[0, 1], -1)
    assert (display.distances < 0.11).all()


def test_samples_of_a_flat_estimator_are_pictures(digits):
    flat = digits[:100].reshape(100, 64)
    model = GaussianDenoiser(image_shape=(1, 8, 8)).fit(flat)
    display = SampleGridDisplay.from_estimator(model, flat, n=2)
    assert display.ax_.images[0].get_array().shape == (8, 8)


def test_sample_grid_in_given_axes(digits, plt):
    _, axes = plt.subplots(1, 2)
    display = SampleGridDisplay.from_predictions(digits[:2], digits[5:50], ax=axes[1])
    assert display.ax_ is axes[1]
    assert not axes[0].images
    display.plot(axes[0], data_range=(-2, 2))
    np.testing.assert_allclose(
        axes[0].images[0].get_array(), (digits[0, 0] / 127.5 - 1 + 2) / 4, atol=1e-6
    )


@pytest.mark.parametrize("n_columns", [None, 4, 8])
def test_words_of_samples_do_not_overlap_in_given_axes(n_columns, digits, plt):
    figure, axes = plt.subplots(1, 2, figsize=(12, 4))
    display = SampleGridDisplay.from_predictions(
        digits[:8], digits[8:300], ax=axes[0], n_columns=n_columns
    )
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in display.ax_.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    title = display.ax_.title.get_window_extent()
    assert title.x0 > 0 and title.x1 < axes[1].get_window_extent().x0


def test_columns_are_chosen_for_large_boxes(digits, plt):
    def width(axes, n_columns=None):
        display = SampleGridDisplay.from_predictions(
            digits[:8], digits[8:99], ax=axes, n_columns=n_columns
        )
        left, right, *_ = display.ax_.images[0].get_extent()
        return right - left

    _, (ax, _) = plt.subplots(1, 2)
    found = width(ax)
    assert found > 2 * width(ax, 8)  # all in one row
    assert len(ax.images) == 16  # what was there before is gone
    assert found == pytest.approx(max(width(ax, n) for n in range(1, 9)))
    assert width(None) == pytest.approx((8 - 0.85) / (8 * 1.12))  # a figure 8 inches wide


def test_bad_samples(digits):
    with pytest.raises(ValueError, match="n_columns must be an int of at least 1, got 0"):
        SampleGridDisplay.from_predictions(digits[:2], digits, n_columns=0)
    with pytest.raises(ValueError, match="reshape one of them"):
        SampleGridDisplay.from_predictions(digits[:2, :, :4], digits)
    with pytest.raises(ValueError, match="samples holds no images"):
        SampleGridDisplay.from_predictions(digits[:0], digits)


# Trajectories


def test_trajectory_shows_estimates_along_the_walk(digits):
    model = PSPCDenoiser(4).fit(digits[:100])
    display = TrajectoryDisplay.from_estimator(model, n=2, n_steps=6, n_columns=4)
    sigmas = [*edm_sigmas(6), 0.0]
    samples, states = model.sample(2, n_steps=6, random_state=0, return_trajectory=True)
    np.testing.assert_allclose(display.sigmas, [sigmas[j] for j in (0, 2, 4, 6)])
    for shown, j in enumerate((0, 2, 4)):
        np.testing.assert_allclose(
            display.estimates[shown], model.denoise(states[j], sigmas[j]), atol=1e-6
        )
    np.testing.assert_allclose(display.estimates[3], samples, atol=1e-6)
    assert len(display.ax_.images) == 8
    np.testing.assert_allclose(
        display.ax_.images[1].get_array(), (display.estimates[0, 1, 0] + 1) / 2
    )
    assert texts(display.ax_)[1:] == ["80", f"{sigmas[2]:.3g}", f"{sigmas[4]:.3g}", "sample"]


def test_trajectory_at_given_noise_levels(digits):
    model = GaussianDenoiser().fit(digits[:100])
    display = TrajectoryDisplay.from_estimator(model, n=1, sigmas=[9.0, 2.0, 0.5, 0.0])
    np.testing.assert_allclose(display.sigmas, [9.0, 2.0, 0.5, 0.0])
    grid = {"n_steps": 3, "sigma_min": 0.5, "sigma_max": 9.0, "rho": 3.0}
    display = TrajectoryDisplay.from_estimator(model, n=1, **grid)
    np.testing.assert_allclose(display.sigmas, [*edm_sigmas(*grid.values()), 0.0])
    with pytest.raises(ValueError, match="omit sigma_min, sigma_max and rho"):
        TrajectoryDisplay.from_estimator(model, n=1, sigmas=[9.0, 2.0], sigma_max=9.0)


def test_trajectory_of_a_class(digits):
    y = np.arange(100) % 2
    model = EmpiricalDenoiser().fit(digits[:100], y)
    display = TrajectoryDisplay.from_estimator(model, n=2, y=1, n_steps=6, n_columns=3)
    distances, indices = nearest_training_images(display.estimates[-1], digits[:100])
    np.testing.assert_allclose(distances, 0, atol=1e-6)
    assert (indices % 2 == 1).all()


def test_trajectory_of_signals_and_colours(rng, photos):
    signals = rng.standard_normal((40, 2, 1, 12))
    display = TrajectoryDisplay.from_estimator(
        GaussianDenoiser().fit(signals), n=2, n_steps=4, n_columns=3
    )
    assert len(display.ax_.lines) == 3 * 2 * 2
    display = TrajectoryDisplay.from_predictions(photos[:6].reshape(3, 2, 3, 16, 16), [9.0, 1.0, 0])
    assert display.ax_.images[0].get_array().shape == (16, 16, 3)
    assert texts(display.ax_)[1:] == ["9", "1", "sample"]


def test_trajectory_in_given_axes_and_its_range(plt):
    _, ax = plt.subplots()
    estimates = np.linspace(0, 4, 16).reshape(2, 2, 1, 2, 2)
    display = TrajectoryDisplay.from_predictions(estimates, [1.0, 0.0], ax=ax)
    assert display.ax_ is ax
    np.testing.assert_allclose(ax.images[0].get_array().ravel(), estimates[0, 0].ravel() / 4)


def test_words_of_trajectories_do_not_overlap_in_given_axes(digits, plt):
    figure, axes = plt.subplots(1, 2, figsize=(12, 4))
    states = digits[:32].reshape(8, 4, 1, 8, 8)
    sigmas = [80, 28.4, 12.9, 3.26, 1.09, 0.14, 0.0229, 0]
    display = TrajectoryDisplay.from_predictions(states, sigmas, ax=axes[0])
    assert display.plot(axes[0]) is display and len(axes[0].images) == 32
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in display.ax_.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])
    title = display.ax_.title.get_window_extent()
    assert title.x0 > 0 and title.x1 < axes[1].get_window_extent().x0


def test_bad_trajectory(digits):
    with pytest.raises(ValueError, match="at least one step"):
        TrajectoryDisplay.from_predictions([], [])
    model = GaussianDenoiser().fit(digits[:50])
    with pytest.raises(ValueError, match="n_columns must be an int of at least 1, got 0"):
        TrajectoryDisplay.from_estimator(model, n=2, n_columns=0)
    with pytest.raises(ValueError, match="one noise level for each of the 2 steps"):
        TrajectoryDisplay.from_predictions(digits[:4].reshape(2, 2, 1, 8, 8), [1.0])


# Sensitivity


@pytest.mark.parametrize("tall", [False, True])
def test_sensitivity_of_signals_is_a_line_with_a_band(tall, rng):
    heat, places = rng.random((2, 2, 1, 12)), np.array([(0, 7), (0, 2)])
    heat[1, 1] = 0
    if tall:
        heat, places = heat.swapaxes(2, 3), places[:, ::-1]
    display = SensitivityDisplay.from_predictions(heat, [0.5, 2.0], pixels=places, fraction=0.8)
    for (k, level), panel in np.ndenumerate(display.axes_):
        curve = heat[level, k].ravel()
        assert not panel.images
        np.testing.assert_allclose(panel.lines[0].get_ydata(), curve / (curve.max() or 1))
        at, side = places[k].max(), display.radii[level, k]
        assert panel.lines[1].get_xdata()[0] == at
        if not side:
            assert (k, level) == (1, 1)
            assert panel.get_xlabel() == "no heat" and not panel.patches
            continue
        assert panel.get_xlabel() == f"80 % in {side} values"
        (band,) = panel.patches
        edges = band.get_patch_transform().transform_path(band.get_path()).vertices[:, 0]
        np.testing.assert_allclose([edges.min(), edges.max()], [at - side / 2, at + side / 2])
    assert len(display.figure_.axes) == 4  # no colour bar
    display.figure_.canvas.draw()


def test_sensitivity_takes_what_images_there_are(digits):
    model = PSPCDenoiser(3).fit(digits[:50])
    for X, n in ((digits[:5], 5), (digits[:40], 16)):
        display = SensitivityDisplay.from_estimator(model, X, [0.5])
        expected = heat_maps(model, X, [0.5], pixels=display.pixels, n_images=n)
        np.testing.assert_allclose(display.heatmaps, expected)


def test_sensitivity_of_what_is_no_fitted_denoiser(digits):
    with pytest.raises(NotFittedError):
        SensitivityDisplay.from_estimator(PSPCDenoiser(), digits, [0.5])
    with pytest.raises(ValueError, match=r"wrap a network in NetworkDenoiser\("):
        SensitivityDisplay.from_estimator(torch.nn.Conv2d(1, 1, 3), digits, [0.5])
    network = NetworkDenoiser(lambda z, sigma: z / 2, image_shape=(1, 8, 8)).fit(digits[:3])
    display = SensitivityDisplay.from_estimator(network, digits[:3], [0.5])
    assert (display.radii == 1).all()
