"""Tiles: against a loop over pixels, and denoisers whose tiles do not show."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from skpspc import (
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PSPCDenoiser,
    denoise_tiled,
)


def slow(model, z, sigma, overlap):
    """Blend tiles of one image pixel by pixel, without any of the library's code."""
    _, height, width = model.image_shape_

    def along(side, length):
        n = 1
        while True:  # as few evenly spaced tiles as share the overlap
            starts = [round(k * (side - length) / max(n - 1, 1)) for k in range(n)]
            covers = n > 1 or side == length
            if covers and (side - length) <= (n - 1) * (length - overlap):
                return starts
            n += 1

    total, weight = np.zeros(z.shape), np.zeros(z.shape)
    for top in along(z.shape[1], height):
        for left in along(z.shape[2], width):
            answer = model.denoise(z[None, :, top : top + height, left : left + width], sigma)[0]
            for i in range(height):
                for j in range(width):
                    share = 1.0
                    for at, length in ((i, height), (j, width)):
                        share *= min(at + 1, length - at, overlap + 1) / (overlap + 1)
                    total[:, top + i, left + j] += share * answer[:, i, j]
                    weight[:, top + i, left + j] += share
    return total / weight


@pytest.mark.parametrize("overlap", [0, 1, 3, 4])
@pytest.mark.parametrize("sides", [(6, 5), (11, 12), (6, 17), (7, 5)])
def test_slow_formula(overlap, sides, rng):
    X, Z = rng.standard_normal((8, 2, 6, 5)), rng.standard_normal((2, 2, *sides))
    model = PSPCDenoiser(3).fit(X)
    got = denoise_tiled(model, Z, 0.7, overlap=overlap, batch_size=5)
    for answer, z in zip(got, Z, strict=True):
        np.testing.assert_allclose(answer, slow(model, z, 0.7, overlap), rtol=0, atol=1e-12)


def test_tiles_of_one_pixel(rng):
    """They have nothing to share, in any number of channels."""
    X, Z = rng.standard_normal((20, 3, 1, 1)), rng.standard_normal((2, 3, 4, 5))
    model = EmpiricalDenoiser().fit(X)
    pixels = Z.transpose(0, 2, 3, 1).reshape(-1, 3, 1, 1)
    expected = model.denoise(pixels, 0.5).reshape(2, 4, 5, 3).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(denoise_tiled(model, Z, 0.5), expected, rtol=0, atol=1e-12)


def test_a_single_tile_is_the_denoiser(rng):
    X, Z = rng.standard_normal((8, 2, 6, 5)), rng.standard_normal((3, 2, 6, 5))
    for model in (PSPCDenoiser(3), EmpiricalDenoiser(), GaussianDenoiser()):
        model.fit(X)
        sigma = [0.1, 0.5, 2.0]
        np.testing.assert_array_equal(denoise_tiled(model, Z, sigma), model.denoise(Z, sigma))


def test_tiles_of_a_pointwise_denoiser_do_not_show(rng):
    Z = rng.standard_normal((2, 1, 23, 17))
    shrink = NetworkDenoiser(lambda z, sigma: z / (1 + sigma.view(-1, 1, 1, 1) ** 2))
    shrink.fit(rng.standard_normal((4, 1, 8, 8)))
    for overlap in (None, 0, 7):
        got = denoise_tiled(shrink, Z, 0.5, overlap=overlap)
        np.testing.assert_allclose(got, Z / 1.25, rtol=0, atol=1e-6)  # networks are float32


def test_pixels_of_one_tile_equal_local_scores_of_the_whole_image(rng):
    X, Z = rng.standard_normal((8, 1, 9, 9)), rng.standard_normal((1, 1, 20, 15))
    model = LocalScoreDenoiser(3, equivariant=True).fit(X)
    tiled, whole = denoise_tiled(model, Z, 0.5, overlap=4), model.denoise(Z, 0.5)
    first = ..., slice(1, 4), slice(1, 3)  # pixels of the first tile alone, off the padding
    np.testing.assert_allclose(tiled[first], whole[first], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_containers(dtype, rng):
    X = rng.integers(0, 256, (8, 1, 6, 6), dtype=np.uint8)
    Z = rng.uniform(0, 255, (2, 1, 9, 9)) if dtype == np.uint8 else rng.uniform(-1, 1, (2, 1, 9, 9))
    Z = Z.astype(dtype)
    model = PSPCDenoiser(3).fit(X)
    array = denoise_tiled(model, Z, 0.5)
    tensor = denoise_tiled(model, torch.from_numpy(Z), 0.5)
    assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
    assert array.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_array_equal(array, tensor.numpy())


def test_noise_levels_and_classes_of_each_image(rng):
    X, Z = rng.standard_normal((8, 1, 6, 6)), rng.standard_normal((3, 1, 9, 8))
    y = np.arange(8) % 2
    model = EmpiricalDenoiser().fit(X, y)
    got = denoise_tiled(model, Z, [0.1, 1.0, 3.0], y=[0, 1, 0], guidance=2.0, batch_size=3)
    for i, (sigma, label) in enumerate([(0.1, 0), (1.0, 1), (3.0, 0)]):
        alone = denoise_tiled(model, Z[[i]], sigma, y=label, guidance=2.0)
        np.testing.assert_allclose(got[[i]], alone, rtol=0, atol=1e-12)


def test_signals(rng):
    X, Z = rng.standard_normal((8, 1, 1, 7)), rng.standard_normal((2, 1, 1, 30))
    model = PSPCDenoiser(3).fit(X)
    got = denoise_tiled(model, Z, 0.5)
    np.testing.assert_allclose(got[0], slow(model, Z[0], 0.5, 3), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "shape", "match"),
    [
        ({"overlap": 6}, (2, 1, 9, 9), "overlap must be an int from 0 to 5"),
        ({"overlap": 1.5}, (2, 1, 9, 9), "overlap must be an int"),
        ({"overlap": -1}, (2, 1, 9, 9), "overlap must be an int"),
        ({"batch_size": 0}, (2, 1, 9, 9), "batch_size must be an int of at least 1"),
        ({}, (2, 1, 5, 9), "at least 6 x 6 pixels"),
        ({}, (2, 3, 9, 9), "images of 1 channels"),
        ({}, (2, 81), "must have shape"),
        ({}, (0, 1, 9, 9), "must have shape"),
    ],
)
def test_errors(options, shape, match, rng):
    model = PSPCDenoiser(3).fit(rng.standard_normal((4, 1, 6, 6)))
    with pytest.raises(ValueError, match=match):
        denoise_tiled(model, rng.standard_normal(shape), 0.5, **options)


def test_denoisers_that_cannot_be_tiled(rng):
    X, Z = rng.standard_normal((4, 1, 6, 6)), rng.standard_normal((2, 1, 9, 9))
    with pytest.raises(ValueError, match="pass a denoiser of whole images"):
        denoise_tiled(PatchDenoiser(3).fit(X), Z, 0.5)
    with pytest.raises(NotFittedError):
        denoise_tiled(PSPCDenoiser(3), Z, 0.5)


def test_gradients_reach_images_and_noise_levels(rng):
    model = GaussianDenoiser().fit(rng.standard_normal((20, 1, 4, 4)))
    z = torch.from_numpy(rng.standard_normal((2, 1, 6, 7))).requires_grad_()
    sigma = torch.tensor([0.5, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, s: denoise_tiled(model, z, s), (z, sigma))
