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

from skpspc.inspection import AttributionDisplay, attribute  # noqa: E402


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


def picture(ax):
    return np.asarray(ax.images[0].get_array())


def test_from_estimator_shows_what_was_found(X, Z):
    model = PSPCDenoiser(3).fit(X)
    display = AttributionDisplay.from_estimator(model, Z, [0.1, 1.0], n_images=3)
    assert display.axes_.shape == (2, 8) and display.figure_ is display.ax_.figure
    found = attribute(model, Z, [0.1, 1.0], top=1)
    for row in range(2):
        noisy, answer, mosaic, whose, number, *largest = display.axes_[row]
        as_shown = (Z[row].transpose(1, 2, 0) + 1) / 2
        np.testing.assert_allclose(picture(noisy), as_shown, atol=1e-6)
        expected = model.denoise(Z, [0.1, 1.0])[row]
        np.testing.assert_allclose(picture(answer), (expected.transpose(1, 2, 0) + 1) / 2)
        np.testing.assert_allclose(picture(number), found.effective_sample_size[row, 0])
        order = np.argsort(-found.image_share[row], kind="stable")
        for y, x in np.ndindex(8, 8):
            leader = found.index[row, 0, y, x, 0]
            np.testing.assert_allclose(picture(mosaic)[y, x], X[leader, :, y, x] / 255, atol=1e-12)
            shown = [ax for ax, i in zip(largest, order, strict=False) if i == leader]
            red, green, blue = picture(whose)[y, x]
            if shown:
                frame = colors.to_rgb(shown[0].spines["top"].get_edgecolor())
                np.testing.assert_allclose([red, green, blue], frame)
            else:
                assert red == green == blue
        for ax, i in zip(largest, order, strict=False):
            np.testing.assert_allclose(picture(ax), X[i].transpose(1, 2, 0) / 255, atol=1e-12)
            assert f"no. {i}:" in ax.get_title()
    assert display.axes_[1, 0].get_ylabel() == "σ = 1"
    display.figure_.canvas.draw()


def test_mirror_images_are_shown_mirrored(X):
    z = X[3:4, :, :, ::-1] / 127.5 - 1
    display = AttributionDisplay.from_estimator(PSPCDenoiser(3, flip=True).fit(X), z, 0.02)
    np.testing.assert_allclose(picture(display.axes_[0, 2]), picture(display.axes_[0, 0]))


def test_from_predictions_is_the_same_picture(X, Z):
    model = EmpiricalDenoiser().fit(X)
    found = attribute(model, torch.from_numpy(Z), 0.5)
    args = torch.from_numpy(Z), model.denoise(torch.from_numpy(Z), 0.5), found, torch.from_numpy(X)
    display = AttributionDisplay.from_predictions(*args, sigma=0.5)
    other = AttributionDisplay.from_estimator(model, Z, 0.5)
    for one, two in zip(display.axes_.flat, other.axes_.flat, strict=True):
        np.testing.assert_allclose(picture(one), picture(two))


def test_in_axes_that_are_given(X, Z):
    figure, (left, right) = pyplot.subplots(1, 2)
    display = AttributionDisplay.from_estimator(EmpiricalDenoiser().fit(X), Z, 0.5, ax=right)
    assert display.ax_ is right and display.figure_ is figure
    assert display.plot(left, n_images=0).axes_.shape == (2, 5)


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
    assert picture(display.axes_[0, 2]).shape == picture(display.axes_[0, 1]).shape
    display.figure_.canvas.draw()


def test_pictures_that_cannot_be_drawn(X, Z):
    model = EmpiricalDenoiser().fit(X[:, :2])
    with pytest.raises(ValueError, match="1 or 3 channels"):
        AttributionDisplay.from_estimator(model, Z[:, :2], 0.5)
    with pytest.raises(ValueError, match="n_images"):
        AttributionDisplay.from_estimator(EmpiricalDenoiser().fit(X), Z, 0.5, n_images=9)


def test_more_patches_than_images_are_on_the_scale(X, Z):
    model = LocalScoreDenoiser(1, equivariant=True).fit(X)
    display = AttributionDisplay.from_estimator(model, Z, np.inf, n_images=0)
    shown = display.axes_[0, 4].images[0]
    np.testing.assert_allclose(picture(display.axes_[0, 4]), 40 * 64, rtol=1e-9)
    assert shown.norm.vmax >= 40 * 64 * (1 - 1e-9)
