"""Covariances at the edge of rounding: no variance, and weights of any size."""

import warnings
from unittest import mock

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PSPCDenoiser,
)
from skpspc.support import TrainingSet, covariance

SHRINKAGE = [0.0, 0.5, 1.0, 1e-3, "ledoit_wolf", "oas"]
weights = st.floats(-8, 3).map(lambda exponent: 10.0**exponent)


@st.composite
def constant_images(draw):
    """Equal images, (n, 1, H, W) of any dtype, and their weights."""
    n = draw(st.integers(1, 40))
    shape = draw(st.sampled_from([(1, 1, 1), (1, 2, 3), (1, 4, 4)]))
    kind = draw(st.sampled_from([np.uint8, np.float32, np.float64]))
    if kind == np.uint8:
        elements = st.integers(0, 255)
    else:  # smaller magnitudes are refused
        elements = st.floats(-3, 3, width=8 * np.dtype(kind).itemsize)
        elements = elements.map(lambda value: value if abs(value) > 1e-12 else 0.0)
    image = draw(hnp.arrays(kind, shape, elements=elements, fill=st.nothing()))
    weight = draw(st.none() | st.lists(weights, min_size=n, max_size=n))
    return np.repeat(image[None], n, axis=0), weight


def check_constant(model, X, Z):
    image = X[:1] / 127.5 - 1 if X.dtype == np.uint8 else X[:1].astype(np.float64)
    for sigma in (0.0, 1e-3, 0.5, 30.0, np.inf):
        answer = model.denoise(Z, sigma)
        np.testing.assert_allclose(answer, np.repeat(image, len(Z), 0), rtol=0, atol=1e-13)


@given(constant_images(), st.sampled_from(SHRINKAGE), st.sampled_from([None, 1]))
def test_equal_images_are_the_answer_with_any_weights_and_shrinkage(given_images, shrinkage, rank):
    X, weight = given_images
    Z = np.random.default_rng(0).standard_normal((2, *X.shape[1:]))
    model = GaussianDenoiser(rank, shrinkage=shrinkage).fit(X, sample_weight=weight)
    assert 0 <= model.shrinkage_ <= 1
    assert model.residual_variance_ == 0
    assert model.eigenvalues_.size == 0
    check_constant(model, X, Z)
    model.partial_fit(X, sample_weight=weight)
    check_constant(model, X, Z)


@given(constant_images())
def test_equal_images_are_the_answer_of_all_that_have_a_covariance(given_images):
    X, weight = given_images
    Z = np.random.default_rng(0).standard_normal((2, *X.shape[1:]))
    for model in (
        EmpiricalDenoiser(bandwidth=0.5),
        EmpiricalDenoiser(bandwidth=1.0),
        PatchDenoiser(2, location="all", bandwidth=0.3),
        PSPCDenoiser(2, bandwidth=0.7, smoothing="global"),
        PSPCDenoiser(windows=FlexibleWindows("data", 0.9, [0.5])),
        PCALocalityDenoiser(),
    ):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="patch_size=.* is larger than the image")
            model.fit(X, sample_weight=weight)
        if getattr(model, "location", None) == "all":
            assert np.isfinite(model.denoise(Z, 0.3)).all()
        else:
            check_constant(model, X, Z)


@given(constant_images())
def test_equal_images_have_no_variance_by_any_route(given_images):
    X, weight = given_images
    weight = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    known = TrainingSet(torch.from_numpy(X), weight)
    for spectrum in (
        covariance.spectrum_of_rows(known),
        covariance.spectrum_by_iteration(known, 3),
        covariance.Moments(known).spectrum(),
    ):
        assert spectrum.trace >= 0
        assert len(spectrum.eigenvalues) == 0
        assert np.isfinite(spectrum.fourth)


@pytest.mark.parametrize("weight", [[2, 0.7, 1.6, 1.8, 0.8], [1, 1e-16, 3, 1e-9, 0.1]])
@pytest.mark.parametrize("shrinkage", SHRINKAGE)
@pytest.mark.parametrize("value", [-0.3, 0.1, 1 / 3, 17])
def test_one_pixel_that_does_not_vary(weight, shrinkage, value):
    """The variance was once minus a rounding error, and the answer NaN."""
    model = GaussianDenoiser(shrinkage=shrinkage)
    model.fit(np.full((5, 1), value, np.float64), sample_weight=weight)
    np.testing.assert_allclose(model.denoise([[-0.2]], 0.5), [[value]], rtol=1e-15)
    assert np.isfinite(model.score_samples([[-0.2]], 0.5)).all()


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.floats(-30, 3), min_size=12, max_size=12),
    st.sampled_from(SHRINKAGE),
    st.sampled_from([(12, 1), (6, 2), (3, 30)]),
    st.booleans(),
)
def test_no_variance_is_negative(seed, exponents, shrinkage, sides, is_uint8):
    """Fewer and more images than values, with equal ones and constant pixels among them."""
    rng = np.random.default_rng(seed)
    n, n_values = sides
    X = rng.integers(0, 2, (n, n_values)) * rng.choice([1e-9, 1e-3, 1.0], n_values)
    X = X + rng.choice([-1.0, 0.3, 17.0], n_values)
    X = rng.integers(254, 256, (n, n_values), np.uint8) if is_uint8 else X
    weight = 10.0 ** np.array(exponents[:n])
    Z = rng.standard_normal((2, n_values))
    for limit in (covariance.LARGEST_PROBLEM, 1):
        if limit == 1 and isinstance(shrinkage, str):
            continue
        with mock.patch.object(covariance, "LARGEST_PROBLEM", limit):
            model = GaussianDenoiser(n_values, shrinkage=shrinkage).fit(X, sample_weight=weight)
            for _ in range(2):
                assert (model.eigenvalues_ >= 0).all()
                assert model.residual_variance_ >= 0
                for sigma in (0.0, 0.1, np.inf):
                    assert np.isfinite(model.denoise(Z, sigma)).all()
                    assert not np.isnan(model.score_samples(Z, sigma)).any()
                model.partial_fit(X, sample_weight=weight)
