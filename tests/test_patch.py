"""The patch denoiser against the slow formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KernelDensity

import generators
import oracle
from helpers import finite_difference_gradient, fit_quietly
from skpspc import EmpiricalDenoiser, PatchDenoiser
from skpspc.support import clip_size, square_corners


@given(generators.cases())
def test_all_locations_float64_oracle(device, case):
    masks = oracle.square_masks(case.size, case.shape)
    expected = oracle.collection(case.Z, case.X, case.sigma, masks)
    model = fit_quietly(PatchDenoiser(case.size, location="all", device=device), case.X)
    posterior = model.posterior(case.Z, case.sigma)
    h, w = model.window_
    n, channels = len(case.Z), case.shape[0]
    assert posterior.mean.shape == (n, len(masks), channels, h, w)
    x = oracle.as_float(case.X)
    for k, mask in enumerate(masks):
        np.testing.assert_allclose(
            posterior.mean[:, k].reshape(n, -1),
            expected.weights[:, k] @ x[:, mask],
            rtol=0,
            atol=1e-10,
        )
    np.testing.assert_allclose(
        posterior.log_evidence, oracle.composite_evidence(expected, masks), rtol=1e-10, atol=1e-9
    )
    np.testing.assert_allclose(
        posterior.effective_sample_size, expected.effective_sample_size.mean(1), rtol=1e-8
    )


@given(generators.cases(), st.data())
def test_one_location_float64_oracle(case, data):
    window = clip_size(case.size, case.shape)
    corner = data.draw(st.sampled_from(square_corners(window, case.shape)))
    mask = oracle.patch_mask(*corner, *window, case.shape)
    expected = oracle.collection(case.Z, case.X, case.sigma, [mask])
    model = fit_quietly(PatchDenoiser(case.size, location=corner), case.X)
    posterior = model.posterior(case.Z, case.sigma)
    assert posterior.mean.shape == (len(case.Z), case.shape[0], *window)
    np.testing.assert_allclose(
        posterior.mean.reshape(len(case.Z), -1), expected.mean[:, mask], rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        posterior.log_evidence, expected.log_evidence[:, 0], rtol=1e-10, atol=1e-9
    )
    top, left = corner
    crops = case.Z[:, :, top : top + window[0], left : left + window[1]]
    if crops.shape[1:] != case.shape:
        np.testing.assert_array_equal(model.denoise(crops, case.sigma), posterior.mean)


@pytest.mark.parametrize("sigma", [1e-3, 0.02, 0.1, 0.5, 2.0, 10.0])
def test_float32_oracle(device, photos, rng, sigma):
    X = photos[:300]
    clean = oracle.as_float(X[:3])
    Z = (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)
    mask = oracle.patch_mask(4, 4, 8, 8, X.shape[1:])
    expected = oracle.collection(Z, X, sigma, [mask])
    model = PatchDenoiser(8, device=device).fit(X)
    mean = model.denoise(Z.reshape(3, *X.shape[1:]), sigma)
    assert mean.dtype == np.float32
    assert np.abs(mean.reshape(3, -1) - expected.mean[:, mask]).max() < 1e-5


@pytest.mark.parametrize(
    ("size", "shape", "corner"),
    [
        (3, (1, 5, 5), (1, 1)),
        (2, (1, 5, 5), (1, 1)),
        (4, (2, 5, 7), (0, 1)),
        (3, (1, 1, 8), (0, 2)),
    ],
)
def test_center(rng, size, shape, corner):
    X = rng.standard_normal((6, *shape))
    model = PatchDenoiser(size).fit(X)
    same = PatchDenoiser(size, location=corner).fit(X)
    assert model.corners_ == [corner]
    np.testing.assert_array_equal(model.denoise(X, 0.3), same.denoise(X, 0.3))


def test_it_is_the_empirical_denoiser_of_the_crops(rng):
    X, Z = rng.standard_normal((20, 2, 5, 6)), rng.standard_normal((4, 2, 5, 6))
    patch = PatchDenoiser(3, location=(1, 2)).fit(X).posterior(Z, 0.7)
    crop = (..., slice(1, 4), slice(2, 5))
    whole = EmpiricalDenoiser().fit(X[crop]).posterior(Z[crop], 0.7)
    np.testing.assert_allclose(patch.mean, whole.mean, atol=1e-13)
    np.testing.assert_allclose(patch.log_evidence, whole.log_evidence)


def test_log_evidence_is_kernel_density_of_the_crops(rng):
    X, Z = rng.standard_normal((20, 1, 4, 4)), rng.standard_normal((5, 1, 4, 4))
    ours = PatchDenoiser(2, location=(0, 1), sigma=0.6).fit(X).score_samples(Z)
    density = KernelDensity(bandwidth=0.6, rtol=0, atol=0)
    density.fit(X[:, 0, :2, 1:3].reshape(20, 4))
    theirs = density.score_samples(Z[:, 0, :2, 1:3].reshape(5, 4))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@given(generators.cases(low=0.1, high=10))
def test_tweedie(case):
    model = fit_quietly(PatchDenoiser(case.size, location=(0, 0)), case.X)
    sigma = case.sigma[0]
    h, w = model.window_
    shape = (-1, case.shape[0], h, w)
    z = case.Z[0, :, :h, :w].ravel()
    gradient = finite_difference_gradient(
        lambda rows: model.score_samples(rows.reshape(shape), sigma), z, step=1e-4 * sigma
    )
    np.testing.assert_allclose(
        model.denoise(z.reshape(shape), sigma).ravel(),
        z + sigma**2 * gradient,
        atol=1e-5 * max(1, sigma),
    )


def test_samples_are_crops_of_training_images(digits):
    samples = PatchDenoiser(4, location=(2, 3)).fit(digits[:200]).sample(8, random_state=0)
    crops = oracle.as_float(digits[:200, :, 2:6, 3:7])
    nearest = np.abs(samples.reshape(8, 1, -1) - crops).max(-1).min(1)
    assert samples.shape == (8, 1, 4, 4)
    assert nearest.max() < 1e-4
    every = PatchDenoiser(4, location="all").fit(digits[:50]).sample(2, random_state=0, n_steps=5)
    assert every.shape == (2, 25, 1, 4, 4)


def test_flat_in_flat_out(rng):
    X = rng.standard_normal((10, 24))
    model = PatchDenoiser(3, image_shape=(1, 4, 6)).fit(X)
    np.testing.assert_array_equal(
        model.denoise(X, 0.5), model.denoise(X.reshape(10, 1, 4, 6), 0.5).reshape(10, 9)
    )
    assert len(model.get_feature_names_out()) == 9
