"""Warnings where images and noise levels seem to be in different units."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone

from skpspc import BlendedDenoiser, EmpiricalDenoiser, GaussianDenoiser, PSPCDenoiser


@pytest.fixture(scope="module")
def X(photos):
    """Crops of photographs, (320, 3, 16, 16) uint8."""
    return photos


def heard(call):
    """What a call warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


def test_floats_on_255_asked_of_images_on_one(X):
    model = EmpiricalDenoiser().fit(X)
    z = X[:2].astype(float)
    (said,) = heard(lambda: model.denoise(z, 0.5))
    assert "at sigma = 0.5, more than noise explains" in said
    assert "data_range=" in said
    assert heard(lambda: model.denoise(z, 0.5)) == []  # once
    assert heard(lambda: model.denoise(z, 200.0)) == []
    assert len(heard(lambda: model.fit(X).denoise(z, 0.5))) == 1  # and once more after a fit
    assert heard(lambda: clone(model).fit(X).denoise(z / 127.5 - 1, 0.5)) == []


def test_floats_on_0_1_asked_of_uint8(X):
    z = X[:8] / 255
    (said,) = heard(lambda: GaussianDenoiser(rank=5).fit(X, np.zeros(320)).denoise(z, 0.01))
    assert "Z lies in [0, 1]" in said
    assert "data_range=(0, 1)" in said
    assert len(heard(lambda: EmpiricalDenoiser().fit(X).denoise(z, 0.3))) == 1  # no noise at all
    noisy = X[:8] / 127.5 - 1 + 0.3 * np.random.default_rng(0).standard_normal((8, 3, 16, 16))
    right = [
        lambda: EmpiricalDenoiser().fit(X).denoise(2 * z - 1, 0.01),
        lambda: EmpiricalDenoiser(data_range=(0, 1)).fit(X).denoise(z, 0.01),
        lambda: EmpiricalDenoiser().fit(X).denoise(X[:8], 0.01),
        lambda: EmpiricalDenoiser().fit(np.maximum(X, 128)).denoise(z, 0.01),  # all are bright
        lambda: EmpiricalDenoiser().fit(z).denoise(z, 0.01),
        lambda: EmpiricalDenoiser().fit(X).denoise(noisy, 0.3),
        lambda: EmpiricalDenoiser().fit(X).denoise(np.zeros((1, 3, 16, 16)), 1.0),
    ]
    assert [heard(call) for call in right] == [[]] * len(right)


def test_noise_does_not_warn(X):
    rng = np.random.default_rng(0)
    model = EmpiricalDenoiser().fit(X)
    for sigma in (0.0, 0.01, 0.3, 5.0, 80.0, 1e6):
        noisy = X[:20] / 127.5 - 1 + sigma * rng.standard_normal((20, 3, 16, 16))
        assert heard(lambda z=noisy, s=sigma: model.denoise(z, s)) == []
    assert heard(lambda: model.denoise(noisy, np.inf)) == []


def test_sampling_from_too_little_noise(X):
    x = X.astype(np.float32)
    model = EmpiricalDenoiser().fit(x)
    (said,) = heard(lambda: model.sample(n_steps=2))
    assert "sigma_max=80 is not large compared with the standard deviation" in said
    assert heard(lambda: model.sample(n_steps=2)) == []
    assert heard(lambda: EmpiricalDenoiser(data_range=(0, 255)).fit(x).sample(n_steps=2)) == []
    assert heard(lambda: EmpiricalDenoiser().fit(x).sample(n_steps=2, sigma_max=1e4)) == []
    assert heard(lambda: EmpiricalDenoiser().fit(X).sample(n_steps=2)) == []
    start = model.sample(n_steps=2, sigma_max=1e4)
    fresh = EmpiricalDenoiser().fit(x)
    assert heard(lambda: fresh.sample(initial=start, sigma_max=20.0, n_steps=2)) == []


@pytest.mark.parametrize("scale", [255.0, 1.0])
def test_noise_levels_of_other_data(X, scale):
    x = X / 255 * scale
    fitted = [
        ("patch sizes of the paper", lambda **range_: PSPCDenoiser(**range_).fit(x)),
        (
            "noise levels of BlendedDenoiser",
            lambda **range_: BlendedDenoiser(
                [("a", GaussianDenoiser(3))], n_images=20, **range_
            ).fit(x),
        ),
        (
            "noise levels of score",
            lambda **range_: GaussianDenoiser(3, **range_).fit(x).score(x[:4]),
        ),
    ]
    for what, call in fitted:
        (said,) = heard(call)
        assert f"the {what} suit images on [-1, 1]" in said
        assert heard(lambda call=call: call(data_range=(0, scale))) == []
    assert heard(lambda: PSPCDenoiser().fit(x * 2 / scale - 1)) == []
    assert heard(lambda: PSPCDenoiser().fit(X)) == []


def test_tables_are_no_images():
    table = np.random.default_rng(0).normal(0, 100, (20, 6))
    assert heard(lambda: PSPCDenoiser().fit(table).score(table)) == []


def test_a_pickle_remembers_what_was_said(X):
    model = EmpiricalDenoiser().fit(X)
    z = X[:2].astype(float)
    model.denoise(X[:2], 0.5)
    again = pickle.loads(pickle.dumps(model))
    assert len(heard(lambda: again.denoise(z, 0.5))) == 1
    assert heard(lambda: pickle.loads(pickle.dumps(again)).denoise(z, 0.5)) == []


@pytest.mark.parametrize("end", ["sigma_min", "sigma_max"])
@pytest.mark.parametrize("value", ["80", True, [80.0]])
def test_ends_of_the_grid_are_numbers(X, end, value):
    with pytest.raises(ValueError, match=f"{end} must be a positive float or None"):
        EmpiricalDenoiser().fit(X).sample(n_steps=2, **{end: value})


def test_truth_is_no_number(X):
    model = EmpiricalDenoiser().fit(X, np.arange(320) % 2)
    with pytest.raises(ValueError, match="n must be an int"):
        model.sample(True)
    with pytest.raises(ValueError, match="guidance must be a finite number"):
        model.denoise(X[:1], 0.5, y=0, guidance=True)


def test_objects_that_are_integers_have_no_range(X):
    with pytest.raises(ValueError, match="X has dtype object"):
        EmpiricalDenoiser().fit(X[:3].astype(int).astype(object))
    floats = (X[:3] / 127.5 - 1).astype(object)
    assert EmpiricalDenoiser().fit(floats).denoise(X[:1], 0.5).shape == (1, 3, 16, 16)
