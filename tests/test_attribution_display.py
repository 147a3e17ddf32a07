"""The picture of the training images behind an answer."""

import numpy as np
import pytest
import torch

from skpspc import (
    EmpiricalDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PSPCDenoiser,
)

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
matplotlib.use("Agg")

from matplotlib import colors, pyplot  # noqa: E402

from skpspc.inspection import Attribution, AttributionDisplay, attribute  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


@pytest.fixture
def X(photos):
    return photos[:40, :, :8, :8].copy()


@pytest.fixture
def Z(photos, rng):
    return (photos[:2, :, :8, :8] / 127.5 - 1 + 0.1 * rng.standard_normal((2, 3, 8, 8))).clip(-1, 1)


def pictures(display, n_images):
    """The pictures of each answer, in the order of reading."""
    shown = [np.asarray(image.get_array()) for image in display.ax_.images]
    return [shown[i : i + 5 + n_images] for i in range(0, len(shown), 5 + n_images)]


def labels(display):
    """What is written above the training images."""
    written = [text.get_text() for text in display.ax_.texts]
    return [text for text in written if text.startswith("no. ")]


def test_from_estimator_shows_what_was_found(X, Z):
    model = PSPCDenoiser(3).fit(X)
    display = AttributionDisplay.from_estimator(model, Z, [0.1, 1.0], n_images=3)
    assert display.figure_ is display.ax_.figure
    found = attribute(model, Z, [0.1, 1.0], top=1)
    assert len(pictures(display, 3)) == 2
    for i, (noisy, answer, mosaic, whose, number, *largest) in enumerate(pictures(display, 3)):
        np.testing.assert_allclose(noisy, (Z[i].transpose(1, 2, 0) + 1) / 2, atol=1e-6)
        expected = model.denoise(Z, [0.1, 1.0])[i]
        np.testing.assert_allclose(answer, (expected.transpose(1, 2, 0) + 1) / 2)
        np.testing.assert_allclose(number, found.effective_sample_size[i, 0])
        order = np.argsort(-found.image_share[i], kind="stable")[:3]
        frames = display.ax_.patches[8 * i + 5 : 8 * i + 8]
        for y, x in np.ndindex(8, 8):
            leader = found.index[i, 0, y, x, 0]
            np.testing.assert_allclose(mosaic[y, x], X[leader, :, y, x] / 255, atol=1e-12)
            red, green, blue = whose[y, x]
            if leader in order:
                frame = frames[order.tolist().index(leader)]
                np.testing.assert_allclose([red, green, blue], colors.to_rgb(frame.get_edgecolor()))
            else:
                assert red == green == blue
        for k, image in enumerate(order):
            np.testing.assert_allclose(largest[k], X[image].transpose(1, 2, 0) / 255, atol=1e-12)
            name, share = labels(display)[3 * i + k].split("\n")
            assert name == f"no. {image}"
            percent = 100 * found.image_share[i, image]
            if percent < 0.1:
                assert share == "< 0.1 %"
            else:
                rounding = 0.5 if percent >= 9.95 else 0.05
                assert float(share.removesuffix(" %")) == pytest.approx(percent, abs=rounding)
    written = [text.get_text() for text in display.ax_.texts]
    assert "σ = 0.1" in written and "σ = 1" in written
    display.figure_.canvas.draw()


def test_images_without_weight_are_not_shown(X, Z):
    """The images beside an answer are those that its attribution names, by their rows in X."""
    weight = np.ones(len(X))
    weight[::3] = 0
    model = PSPCDenoiser(3).fit(X, sample_weight=weight)
    alone = PSPCDenoiser(3).fit(X[weight > 0])
    shown, expected = (AttributionDisplay.from_estimator(one, Z, 0.2) for one in (model, alone))
    for images, others in zip(pictures(shown, 6), pictures(expected, 6), strict=True):
        for image, other in zip(images, others, strict=True):
            np.testing.assert_array_equal(image, other)


def test_shares_in_words():
    shares = [[0.999, 0.0955, 0.1, 0.034, 0.00101, 0.00099, 1.9e-8, 0.0]]
    answer, place = np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2, 1), dtype=int)
    one = np.ones((1, 1, 2, 2))
    found = Attribution(place, place + 1.0, place, place, place > 0, 0 * one, one, np.array(shares))
    display = AttributionDisplay.from_predictions(
        answer, answer, found, np.zeros((8, 1, 2, 2)), n_images=8
    )
    words = [label.split("\n")[1] for label in labels(display)]
    # in the order of shares, and what has none is no part
    assert words == ["100 %", "10 %", "9.6 %", "3.4 %", "0.1 %", "< 0.1 %", "< 0.1 %"]


def test_mirror_images_are_shown_mirrored(X):
    z = X[3:4, :, :, ::-1] / 127.5 - 1
    display = AttributionDisplay.from_estimator(
        PSPCDenoiser(3, flip=True).fit(X), z, 0.02, n_images=1
    )
    noisy, _, mosaic, *_ = pictures(display, 1)[0]
    np.testing.assert_allclose(mosaic, noisy)


def test_from_predictions_is_the_same_picture(X, Z):
    model = EmpiricalDenoiser().fit(X)
    found = attribute(model, torch.from_numpy(Z), 5.0)
    args = torch.from_numpy(Z), model.denoise(torch.from_numpy(Z), 5.0), found, torch.from_numpy(X)
    display = AttributionDisplay.from_predictions(*args, sigma=5.0)
    other = AttributionDisplay.from_estimator(model, Z, 5.0)
    assert len(display.ax_.images) == 22
    for one, two in zip(display.ax_.images, other.ax_.images, strict=True):
        np.testing.assert_allclose(one.get_array(), two.get_array())
    assert labels(display) == labels(other)


@pytest.mark.parametrize("make", ["subplots", "add_axes", "inset_axes", "subfigures"])
def test_in_axes_that_are_given(make, X, Z):
    figure = pyplot.figure(figsize=(12, 5))
    if make == "subplots":
        ax, _ = figure.subplots(1, 2)
    elif make == "add_axes":
        ax = figure.add_axes((0.1, 0.1, 0.5, 0.8))
    elif make == "inset_axes":
        ax = figure.subplots().inset_axes((0.1, 0.1, 0.6, 0.8))
    else:
        ax = figure.subfigures(1, 2)[1].subplots()
    display = AttributionDisplay.from_estimator(EmpiricalDenoiser().fit(X), Z[:1], 0.5, ax=ax)
    assert display.ax_ is ax and display.figure_ is ax.figure
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_drawn_twice_is_one_picture(X, Z):
    figure, ax = pyplot.subplots()
    display = AttributionDisplay.from_estimator(EmpiricalDenoiser().fit(X), Z, 0.5, ax=ax)
    n_axes = len(figure.axes), len(ax.child_axes)
    display.plot(ax)
    assert (len(figure.axes), len(ax.child_axes)) == n_axes
    assert len(display.plot(ax, n_images=0).ax_.images) == 10


@pytest.mark.parametrize("tall", [False, True])
def test_signals_are_lines(tall, rng):
    X = np.cumsum(rng.standard_normal((30, 1, 1, 24)), 3)
    Z = X[:2] + 0.3 * rng.standard_normal(X[:2].shape)
    if tall:
        X, Z = X.swapaxes(2, 3), Z.swapaxes(2, 3)
    model = PSPCDenoiser(5).fit(X)
    display = AttributionDisplay.from_estimator(model, Z, 0.3, n_images=2)
    assert len(display.ax_.lines) == 2 * (3 + 2)
    expected = model.denoise(Z, 0.3)[1].ravel()
    drawn = display.ax_.lines[5 + 1].get_ydata()  # y points down
    np.testing.assert_allclose(np.corrcoef(drawn, expected)[0, 1], -1)
    whose, number = (np.asarray(image.get_array()) for image in display.ax_.images[2:])
    assert whose.shape == (1, 24, 3)
    np.testing.assert_allclose(
        number[0], attribute(model, Z, 0.3).effective_sample_size[1, 0].ravel()
    )
    left, right, bottom, top = display.ax_.images[0].get_extent()
    assert bottom - top == pytest.approx(0.6 * (right - left))


@pytest.mark.parametrize(
    "model", [PatchDenoiser(4), PCALocalityDenoiser(), PSPCDenoiser(3, image_shape=(3, 8, 8))]
)
@pytest.mark.parametrize("flat", [False, True])
def test_other_shapes(model, flat, X, Z):
    X = X / 255.0
    if flat:
        model.set_params(image_shape=X.shape[1:])
        X, Z = X.reshape(len(X), -1), Z.reshape(len(Z), -1)
    display = AttributionDisplay.from_estimator(model.fit(X), Z, 0.5, n_images=2)
    for _, answer, mosaic, *_ in pictures(display, 2):
        assert mosaic.shape == answer.shape
    display.figure_.canvas.draw()


def test_pictures_that_cannot_be_drawn(X, Z):
    model = EmpiricalDenoiser().fit(X[:, :2])
    with pytest.raises(ValueError, match="1 or 3 channels"):
        AttributionDisplay.from_estimator(model, Z[:, :2], 0.5)
    with pytest.raises(ValueError, match="n_images"):
        AttributionDisplay.from_estimator(EmpiricalDenoiser().fit(X), Z, 0.5, n_images=9)


def test_attributions_of_other_answers(X, Z):
    model = EmpiricalDenoiser().fit(X)
    answer, found = model.denoise(Z, 0.5), attribute(model, Z, 0.5)
    with pytest.raises(ValueError, match="must be an Attribution, got NoneType"):
        AttributionDisplay.from_predictions(Z, answer, None, X)
    one = attribute(model, Z[:1], 0.5)
    with pytest.raises(ValueError, match="of 1 answers of 8 x 8 pixels, and there are 2 noisy"):
        AttributionDisplay.from_predictions(Z, answer, one, X)
    with pytest.raises(ValueError, match="there are 1 noisy images"):
        AttributionDisplay.from_predictions(Z[:1], answer, found, X)
    with pytest.raises(ValueError, match=r"answers of shape \(2, 3, 4, 4\)"):
        AttributionDisplay.from_predictions(Z, answer[..., :4, :4], found, X)


def test_the_scale_of_effective_numbers_is_of_those_shown(X, Z):
    model = PSPCDenoiser(3).fit(X)
    display = AttributionDisplay.from_estimator(model, Z, [0.3, 2.0], n_images=0)
    largest = attribute(model, Z, [0.3, 2.0]).effective_sample_size.max()
    assert 20 < largest < 30  # of 40 images
    for shown in display.ax_.images[4::5]:
        assert shown.get_clim() == pytest.approx((1, largest))
    display.figure_.canvas.draw()
    (bar, _) = display.ax_.child_axes
    ticks = [text.get_text() for text in bar.get_yticklabels()]
    assert ticks == ["1", "2", "5", "10", "20"]


def test_more_patches_than_images_are_on_the_scale(X, Z):
    model = LocalScoreDenoiser(1, equivariant=True).fit(X)
    display = AttributionDisplay.from_estimator(model, Z, np.inf, n_images=0)
    shown = display.ax_.images[4]
    np.testing.assert_allclose(shown.get_array(), 40 * 64, rtol=1e-9)
    assert shown.norm.vmax >= 40 * 64 * (1 - 1e-9)


# One pixel


def story(display, n_images):
    """The patches and the images of each answer, in the order of reading."""
    shown = [np.asarray(image.get_array()) for image in display.ax_.images]
    n = 2 * (n_images + 2)
    return [(shown[i : i + n : 2], shown[i + 1 : i + n : 2]) for i in range(0, len(shown), n)]


def sentences(display):
    return [text.get_text() for text in display.ax_.texts if "dominates" in text.get_text()]


def test_the_patches_of_a_pixel_are_those_with_the_largest_weights(X, Z):
    model = PSPCDenoiser(2).fit(X)
    row, column = 3, 5
    display = AttributionDisplay.from_estimator(model, Z, 0.3, pixel=(row, column), n_images=4)
    found = attribute(model, Z, 0.3, top=4)
    answers = model.denoise(Z, 0.3)
    around = slice(row - 1, row + 2), slice(column - 1, column + 2)  # windows of 2 x 2
    for i, (patches, images) in enumerate(story(display, 4)):
        np.testing.assert_allclose(images[0], (Z[i].transpose(1, 2, 0) + 1) / 2, atol=1e-6)
        np.testing.assert_allclose(images[-1], (answers[i].transpose(1, 2, 0) + 1) / 2)
        np.testing.assert_array_equal(patches[0], images[0][around])
        for k, index in enumerate(found.index[i, 0, row, column]):
            np.testing.assert_allclose(images[k + 1], X[index].transpose(1, 2, 0) / 255)
            np.testing.assert_array_equal(patches[k + 1], images[k + 1][around])
            share = labels(display)[4 * i + k].split("\n")[1].removeprefix("< ").removesuffix(" %")
            percent = 100 * found.share[i, 0, row, column, k]
            assert float(share) == pytest.approx(percent, abs=0.5)
    assert "(3, 5); 2 noisy images, 40 training images" in display.ax_.get_title()
    assert all("At σ = 0.3, " in sentence for sentence in sentences(display))


def test_the_pixel_of_the_answer_is_the_mean_of_the_framed_pixels(X, Z):
    display = AttributionDisplay.from_estimator(PSPCDenoiser(3).fit(X), Z, 0.3, pixel=(2, 2))
    for i in range(2):
        share = attribute(PSPCDenoiser(3).fit(X), Z, 0.3, top=40)
        weights, index = share.share[i, 0, 2, 2], share.index[i, 0, 2, 2]
        mean = weights[index >= 0] @ (X[index[index >= 0], :, 2, 2] / 127.5 - 1)
        np.testing.assert_allclose(display.answer[i, :, 2, 2], mean, atol=1e-5)


@pytest.mark.parametrize(
    ("sigma", "says"), [(5.0, "no image dominates; "), (0.02, "dominates; its")]
)
def test_a_sentence_says_whether_one_image_dominates(sigma, says, X):
    z = X[7:8] / 127.5 - 1
    for pixel in (None, (4, 4)):
        display = AttributionDisplay.from_estimator(PSPCDenoiser(3).fit(X), z, sigma, pixel=pixel)
        (sentence,) = sentences(display)
        assert says in sentence
        if sigma < 1:
            assert "no. 7 dominates" in sentence


def test_mirrored_patches_are_shown_mirrored(X):
    z = X[3:4, :, :, ::-1] / 127.5 - 1
    model = PSPCDenoiser(3, flip=True).fit(X)
    display = AttributionDisplay.from_estimator(model, z, 0.02, pixel=(2, 1), n_images=1)
    ((patches, images),) = story(display, 1)
    np.testing.assert_allclose(patches[1], patches[0], atol=1e-6)
    np.testing.assert_allclose(images[1], X[3].transpose(1, 2, 0) / 255)


def test_whole_images_are_shown_once(X, Z):
    display = AttributionDisplay.from_estimator(
        EmpiricalDenoiser().fit(X), Z[:1], 5.0, pixel=(0, 0), n_images=3
    )
    assert [image.get_array().shape for image in display.ax_.images] == [(8, 8, 3)] * 5


def test_patches_from_other_positions_are_framed_there(X, Z):
    model = LocalScoreDenoiser(3, equivariant=True, boundary="broken").fit(X)
    display = AttributionDisplay.from_estimator(model, Z[:1], 0.2, pixel=(4, 4), n_images=2)
    found = attribute(model, Z[:1], 0.2, top=2)
    ((patches, images),) = story(display, 2)
    for k in range(2):
        row, column = (getattr(found, name)[0, 0, 4, 4, k] for name in ("row", "column"))
        around = slice(row - 1, row + 2), slice(column - 1, column + 2)
        np.testing.assert_array_equal(patches[k + 1], images[k + 1][around])


@pytest.mark.parametrize("pixel", [(0, 0), (7, 3)])
@pytest.mark.parametrize("size", [1, 3])
def test_pixels_at_the_edge(size, pixel, X, Z):
    model = LocalScoreDenoiser(size, equivariant=True).fit(X)
    for one in (model, PSPCDenoiser(size).fit(X)):
        display = AttributionDisplay.from_estimator(one, Z[:1], 0.2, pixel=pixel, n_images=2)
        assert len(display.ax_.images) == 8
        display.figure_.canvas.draw()


def test_predictions_of_a_pixel(X, Z):
    model = PSPCDenoiser(3).fit(X)
    found = attribute(model, Z, 0.3, top=6)
    display = AttributionDisplay.from_predictions(
        Z, model.denoise(Z, 0.3), found, X, sigma=0.3, pixel=(4, 4), patch_size=3
    )
    other = AttributionDisplay.from_estimator(model, Z, 0.3, pixel=(4, 4))
    for one, two in zip(display.ax_.images, other.ax_.images, strict=True):
        np.testing.assert_allclose(one.get_array(), two.get_array())
    same = found.plot(Z, model.denoise(Z, 0.3), X, pixel=(4, 4), patch_size=3)
    assert isinstance(same, AttributionDisplay)


def test_pixels_that_cannot_be_shown(X, Z):
    with pytest.raises(ValueError, match="must lie in the denoised image of 8 x 8"):
        AttributionDisplay.from_estimator(PSPCDenoiser(3).fit(X), Z, 0.3, pixel=(8, 0))
    with pytest.raises(ValueError, match="pixel needs answers as large as the noisy images"):
        AttributionDisplay.from_estimator(PatchDenoiser(4).fit(X), Z, 0.3, pixel=(0, 0))


@pytest.mark.parametrize("make", [np.float32, np.uint8])
def test_predictions_on_another_range(make, X, Z):
    """Images on [0, 255] look as images on [-1, 1]."""
    model = PSPCDenoiser(3).fit(X)
    usual = AttributionDisplay.from_estimator(model, Z, 0.3)
    found, answer = attribute(model, Z, 0.3), model.denoise(Z, 0.3)
    display = AttributionDisplay.from_predictions(
        (Z + 1) * 127.5, (answer + 1) * 127.5, found, make(X), sigma=0.3, data_range=(0, 255)
    )
    for one, two in zip(display.ax_.images, usual.ax_.images, strict=True):
        np.testing.assert_allclose(one.get_array(), two.get_array(), atol=1e-5)


def test_words_of_a_story_do_not_overlap(X, Z):
    display = AttributionDisplay.from_estimator(PSPCDenoiser(3).fit(X), Z, 0.3, pixel=(4, 4))
    display.figure_.canvas.draw()
    boxes = [text.get_window_extent() for text in display.ax_.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def test_the_patches_of_a_class_are_from_its_images(X, Z):
    y = np.arange(len(X)) % 2
    model = PSPCDenoiser(lambda sigma: 2 if sigma < 1 else 3).fit(X, y)
    display = AttributionDisplay.from_estimator(
        model, Z, [0.3, 2.0], y=[1, 0], pixel=(4, 4), n_images=3
    )
    assert [patch.bottom - patch.top for patch in display.patches] == [3, 5]
    numbers = [int(label.split("\n")[0].removeprefix("no. ")) for label in labels(display)]
    assert [number % 2 for number in numbers] == [1, 1, 1, 0, 0, 0]
