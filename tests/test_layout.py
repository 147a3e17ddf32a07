"""Images whose channels come last are refused, and all that may be channels-first is fitted."""

import numpy as np
import pytest
import torch

from skpspc import EmpiricalDenoiser
from skpspc._validation import looks_channels_last

CHANNELS_LAST = [
    (24, 32, 3),
    (427, 640, 3),
    (32, 24, 1),
    (28, 28, 1),
    (28, 28, 3),
    (16, 16, 4),
    (5, 8, 1),
    (640, 1, 3),
    (4, 4, 1),
    (4, 4, 3),
    (3, 3, 1),
]
CHANNELS_FIRST = [
    (1, 28, 28),
    (3, 24, 32),
    (4, 32, 32),
    (2, 8, 8),
    (24, 32, 32),
    (1, 8, 1),  # one column
    (3, 8, 1),
    (3, 8, 3),  # narrow
    (4, 8, 3),
    (2, 8, 3),
    (1, 4, 3),
    (3, 3, 3),
    (4, 4, 4),
    (16, 4, 4),  # a small square with many channels
    (27, 3, 3),
    (1, 1, 1),
    (1, 1, 3),  # tables
    (1, 1, 64),
    (3, 1, 1),
    (24, 1, 1),
]


@pytest.mark.parametrize("shape", CHANNELS_LAST)
def test_channels_last_is_refused(shape):
    assert looks_channels_last(shape)
    X = np.zeros((2, *shape), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"looks like \(n, height, width, channels\)") as refused:
        EmpiricalDenoiser().fit(X)
    assert "X.transpose(0, 3, 1, 2)" in str(refused.value)
    assert f"image_shape={shape}" in str(refused.value)


@pytest.mark.parametrize("shape", CHANNELS_LAST)
def test_image_shape_says_otherwise(shape):
    X = np.zeros((2, *shape), dtype=np.uint8)
    assert EmpiricalDenoiser(image_shape=shape).fit(X).image_shape_ == shape


@pytest.mark.parametrize("shape", CHANNELS_LAST)
def test_the_remedy_is_fitted(shape):
    X = np.zeros((2, *shape), dtype=np.uint8).transpose(0, 3, 1, 2)
    assert EmpiricalDenoiser().fit(X).image_shape_ == X.shape[1:]


@pytest.mark.parametrize("shape", CHANNELS_FIRST)
def test_channels_first_is_fitted(shape):
    assert not looks_channels_last(shape)
    X = np.zeros((2, *shape), dtype=np.uint8)
    assert EmpiricalDenoiser().fit(X).image_shape_ == shape


def test_one_image_of_a_photograph_is_refused():
    with pytest.raises(ValueError, match=r"X of shape \(1, 427, 640, 3\) looks like"):
        EmpiricalDenoiser().fit(np.zeros((1, 427, 640, 3)))


def test_a_tensor_is_told_its_own_method():
    with pytest.raises(ValueError, match=r"pass X\.permute\(0, 3, 1, 2\)"):
        EmpiricalDenoiser().fit(torch.zeros(2, 24, 32, 3))


@pytest.mark.parametrize(
    "as_given, method", [(np.asarray, "transpose"), (torch.as_tensor, "permute")]
)
def test_noisy_images_and_declared_shapes_name_the_transposition(as_given, method):
    model = EmpiricalDenoiser(image_shape=(3, 6, 8))
    X = np.zeros((2, 3, 6, 8))
    last = as_given(X.transpose(0, 2, 3, 1))
    with pytest.raises(ValueError, match=rf"pass X\.{method}\(0, 3, 1, 2\)"):
        model.fit(last)
    with pytest.raises(ValueError, match=rf"pass Z\.{method}\(0, 3, 1, 2\)"):
        model.fit(X).denoise(last, 0.5)
