"""skops stores every denoiser, and its files name no types but those of skpspc and NumPy."""

import copy

import numpy as np
import pytest

from skpspc import EmpiricalDenoiser
from test_saving import DENOISERS, SHAPE, assert_equal

io = pytest.importorskip("skops.io", reason="skops is not installed (extra interop)")


def stored(model):
    """A denoiser after `skops.io.dumps` and `loads`, with only types of skpspc trusted."""
    content = io.dumps(model)
    types = io.get_untrusted_types(data=content)
    assert all(name.startswith("skpspc.") for name in types)
    return io.loads(content, trusted=types)


@pytest.fixture(scope="module")
def X():
    """Training images, (14, 2, 5, 4) uint8."""
    return np.random.default_rng(1).integers(0, 256, (14, *SHAPE), dtype=np.uint8)


@pytest.mark.parametrize("name", DENOISERS)
def test_skops_gives_equal_bits(name, X):
    model = copy.deepcopy(DENOISERS[name])
    y = np.array(["cat", "dog"])[np.arange(14) % 2]
    labelled = not name.startswith("blended")  # too few images of each class
    model.fit(X, y if labelled else None, sample_weight=np.arange(14) % 3)
    again = stored(model)
    assert_equal(model, again, X[:5] / 255.0, y="dog" if labelled else None)
    for one in (model, again):
        one.partial_fit(X[:3], y[:3] if labelled else None)
    assert_equal(model, again, X[:5] / 255.0)


def test_an_index_of_faiss(digits):
    pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    model = EmpiricalDenoiser(tol=0.05, index="IVF4,Flat").fit(digits[:300])
    Z = digits[1500:1520] / 255.0
    expected = model.denoise(Z, 0.2)
    again = stored(model)
    assert again._prior.search.neighbours._index is not None
    np.testing.assert_array_equal(again.denoise(Z, 0.2), expected)
