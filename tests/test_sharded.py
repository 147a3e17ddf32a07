"""Training images in shards on several devices give the answers of one device."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SmoothedDenoiser,
    tapered_windows,
)
from skpspc.support import TrainingSet
from skpspc.support.devices import Devices
from skpspc.support.sharded import ShardedTrainingSet

HEAT = np.exp(-np.square(np.arange(64)[:, None] - np.arange(64)) / 50).reshape(1, 8, 8, 8, 8)
DENOISERS = {
    "empirical": EmpiricalDenoiser(),
    "patch": PatchDenoiser(3, location=(1, 4)),
    "patches": PatchDenoiser(7, location="all"),
    "squares": PSPCDenoiser(3),
    "squares and mirror images": PSPCDenoiser(4, flip=True),
    "squares, torch": PSPCDenoiser(3, engine="torch"),
    "local scores": LocalScoreDenoiser(3),
    "equivariant": LocalScoreDenoiser(3, equivariant=True, boundary="circular"),
    "broken": LocalScoreDenoiser(3, equivariant=True, boundary="broken"),
    "flexible": PSPCDenoiser(windows=FlexibleWindows(HEAT, 0.4, [0.5])),
    "collection": PosteriorMeanCollection(tapered_windows((1, 8, 8), 3)),
    "collection of mirror images": PosteriorMeanCollection(
        tapered_windows((1, 8, 8), 3), source="flips"
    ),
    "smoothed": SmoothedDenoiser(PSPCDenoiser(3)),
}
ATTRIBUTABLE = [name for name in DENOISERS if name not in ("patches", "squares, torch", "smoothed")]


def assert_equal(many, one, Z, sigma):
    """Assert that two posteriors agree, to 1e-6 in float32 and to 1e-12 in float64.

    float32 logits of patches at all positions, which are products of matrices, are less exact.
    """
    a, b = many.posterior(Z, sigma), one.posterior(Z, sigma)
    tolerance = 1e-6 if a.mean.dtype == np.float32 else 1e-12
    if a.mean.dtype == np.float32 and getattr(one, "equivariant", False):
        tolerance = 5e-6
    np.testing.assert_allclose(a.mean, b.mean, rtol=0, atol=tolerance)
    np.testing.assert_allclose(a.log_evidence, b.log_evidence, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        a.effective_sample_size, b.effective_sample_size, rtol=10 * tolerance
    )


@pytest.fixture(scope="module")
def noisy(digits):
    return digits[-3:] / 127.5 - 1 + 0.4 * np.random.default_rng(0).standard_normal((3, 1, 8, 8))


@pytest.fixture
def devices(device):
    return [device] * 3


def on(denoiser, device):
    """Return a copy of a denoiser with a device."""
    denoiser = clone(denoiser)
    inner = denoiser.denoiser if isinstance(denoiser, SmoothedDenoiser) else denoiser
    inner.set_params(device=device)
    return denoiser


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", DENOISERS)
def test_shards_are_one_training_set(digits, noisy, device, devices, name, dtype, weighted):
    X = digits[:100] if dtype == np.float32 else digits[:100] / 127.5 - 1
    weight = np.arange(100) % 4 if weighted else None
    one = on(DENOISERS[name], device).fit(X, sample_weight=weight)
    many = on(DENOISERS[name], devices).fit(X, sample_weight=weight)
    for sigma in (0.0, 0.05, 0.5, 5.0, np.inf):
        assert_equal(many, one, noisy.astype(dtype), sigma)


def test_ties_are_shared_between_shards(device):
    """At sigma = 0, equally near images of several shards share the weight."""
    X = np.array([[-1.0], [1.0], [-1.0], [1.0], [1.0]])
    model = EmpiricalDenoiser(device=[device] * 3).fit(X)
    assert model.denoise([[0.0]], 0.0).item() == pytest.approx(0.2)
    assert model.posterior([[0.0]], 0.0).effective_sample_size.item() == pytest.approx(5.0)


@pytest.mark.parametrize("name", ["empirical", "squares", "local scores"])
def test_classes_samples_and_scores(digits, noisy, device, devices, name):
    y = np.arange(90) // 45  # each class in two of the three shards
    one = on(DENOISERS[name], device).fit(digits[:90], y)
    many = on(DENOISERS[name], devices).fit(digits[:90], y)
    for label in (0, 1, [0, 1, 1]):
        np.testing.assert_allclose(
            many.denoise(noisy, 0.5, y=label), one.denoise(noisy, 0.5, y=label), rtol=0, atol=1e-6
        )
    samples = [model.sample(2, n_steps=4, random_state=0) for model in (many, one)]
    np.testing.assert_allclose(*samples, rtol=0, atol=1e-4)
    assert many.score(digits[100:110]) == pytest.approx(one.score(digits[100:110]), rel=1e-6)
    np.testing.assert_allclose(
        many.score_samples(noisy, 0.5), one.score_samples(noisy, 0.5), rtol=1e-6
    )


@pytest.mark.parametrize("by", ["pixel", "window"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ATTRIBUTABLE)
def test_attributions(digits, noisy, device, devices, name, weighted, by):
    X, weight = digits[:60] / 127.5 - 1, np.r_[0, np.arange(59) % 4] if weighted else None
    one = on(DENOISERS[name], device).fit(X, sample_weight=weight)
    many = on(DENOISERS[name], devices).fit(X, sample_weight=weight)
    for sigma in (0.0, 0.3, np.inf):
        a, b = (model.attribute(noisy, sigma, top=5, by=by) for model in (many, one))
        for field in ("share", "rest", "effective_sample_size", "image_share"):
            ours, theirs = getattr(a, field), getattr(b, field)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12, err_msg=field)
        # images of equal shares are listed in any order
        apart = (np.diff(b.share, axis=-1, prepend=2) < -1e-9) & (b.share > b.rest[..., None])
        apart[..., :-1] &= apart[..., 1:]
        for field in ("index", "row", "column", "mirrored"):
            np.testing.assert_array_equal(getattr(a, field)[apart], getattr(b, field)[apart])


@pytest.mark.parametrize("name", ATTRIBUTABLE)
def test_means_without_some_images(digits, noisy, device, devices, name):
    X, y = digits[:60] / 127.5 - 1, np.arange(60) // 30
    one, many = (on(DENOISERS[name], d).fit(X, y) for d in (device, devices))
    nearest = int(one.attribute(noisy[:1], 0.3, top=1, by="window").index[0, 0, 0])
    groups = [nearest, [0, 1, 2], list(range(20))]  # the last fills the first of three shards
    for sigma in (0.0, 0.3, 2.0):
        a, b = (model.denoise_without(noisy, sigma, groups) for model in (many, one))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    a, b = (model.denoise_without(noisy, 0.3, [0, 40], y=[0, 1, 1]) for model in (many, one))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [name for name in DENOISERS if name != "patches"])
def test_derivatives(digits, noisy, device, devices, name, weighted, dtype):
    X, weight = digits[:60] / 127.5 - 1, np.r_[0, np.arange(59) % 4] if weighted else None
    Z, vectors = noisy[:2].astype(dtype), noisy[1:].astype(dtype)
    one = on(DENOISERS[name], device).fit(X, sample_weight=weight)
    many = on(DENOISERS[name], devices).fit(X, sample_weight=weight)
    tolerance = 2e-5 if dtype == np.float32 else 1e-10
    cotangents = one.denoise(vectors, 0.4)  # any vectors of the shape of the denoised images
    for sigma in (0.1, 0.4):
        calls = [("jvp", vectors), ("vjp", cotangents), ("divergence", None, 1.0)]
        for method, *arguments in calls[: 3 if cotangents.shape == Z.shape else 2]:
            a, b = (getattr(model, method)(Z, sigma, *arguments) for model in (many, one))
            a, b = (getattr(result, "value", result) for result in (a, b))
            np.testing.assert_allclose(
                a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()), err_msg=method
            )
    pixels = [(0, 0), (0, 2)]
    a, b = (model.jacobian(Z, 0.4, pixels) for model in (many, one))
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_gradients_of_means_and_evidence(digits, noisy, device, devices):
    X = digits[:60] / 127.5 - 1
    gradients = []
    for model in (on(DENOISERS["squares"], d).fit(X) for d in (device, devices)):
        z = torch.tensor(noisy, requires_grad=True)
        sigma = torch.tensor([0.2, 0.4, 0.8], dtype=torch.float64, requires_grad=True)
        posterior = model.posterior(z, sigma)
        (posterior.mean.square().sum() + posterior.log_evidence.sum()).backward()
        gradients.append((z.grad, sigma.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_fewer_images_than_devices(noisy, digits, devices):
    model = PSPCDenoiser(3, device=devices).fit(digits[:2])
    assert len(model.training_set_.executor) == 2
    assert_equal(model, PSPCDenoiser(3).fit(digits[:2]), noisy, 0.5)


def test_facts_describe_all_shards(digits):
    X = torch.from_numpy(digits[:60] / 50.0)
    one = TrainingSet(X)
    parts = [TrainingSet(part) for part in X.split([1, 29, 30])]
    for pair in (
        (one, many := ShardedTrainingSet.of(Devices(parts), None, (-1.0, 1.0))),
        (one.crop(1, 2, 4, 3), many.crop(1, 2, 4, 3)),
        (one.mirrored(), many.mirrored()),
        (one.mirrored().crop(1, 2, 4, 3), many.mirrored().crop(1, 2, 4, 3)),
        (one.subset(torch.arange(0, 60, 7)), many.subset(torch.arange(0, 60, 7))),
    ):
        expected, actual = pair
        assert len(actual) == len(expected) and actual.image_shape == expected.image_shape
        for name in ("abs_max", "span", "log_uniform"):
            assert getattr(actual, name) == pytest.approx(getattr(expected, name), rel=1e-12)
        for a, b in zip(actual.extremes, expected.extremes, strict=True):
            assert torch.equal(a, b)
    assert torch.equal(many.examples(1000).images, X)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, Z: model.partial_fit(Z),
        lambda model, Z: np.asarray(model.training_set_.images),
    ],
)
def test_calls_that_need_all_images_in_one_place(digits, noisy, call):
    model = PSPCDenoiser(3, device=["cpu", "cpu"]).fit(digits[:20] / 127.5 - 1)
    with pytest.raises(ValueError, match=r"all training images in one place.*fit on one device"):
        call(model, noisy)


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (EmpiricalDenoiser(tol=0.1), "an index"),
        (PSPCDenoiser(3, tol=0.1), "an index"),
        (EmpiricalDenoiser(bandwidth=0.3), "in one place"),
        (PSPCDenoiser("calibrated"), "in one place"),
        (PosteriorMeanCollection(tapered_windows((1, 8, 8), 3), source="translates"), "one place"),
        (GaussianDenoiser(), "The 'device' parameter of GaussianDenoiser must be"),
    ],
)
def test_denoisers_that_need_all_images_in_one_place(digits, denoiser, message):
    with pytest.raises(ValueError, match=message):
        clone(denoiser).set_params(device=["cpu", "cpu"]).fit(digits[:20]).denoise(
            digits[:1] / 127.5, 0.5
        )


def test_no_pickle_and_no_empty_list(digits, tmp_path):
    model = PSPCDenoiser(3, device=["cpu", "cpu"]).fit(digits[:20])
    for save in (pickle.dumps, copy.deepcopy, lambda m: m.save(tmp_path / "m.safetensors")):
        with pytest.raises((TypeError, ValueError), match="in shards"):
            save(model)
    assert "ShardedTrainingSet(n=20" in repr(model.training_set_)
    with pytest.raises(ValueError, match="device is an empty list"):
        PSPCDenoiser(3, device=[]).fit(digits[:20])
    with pytest.raises(ValueError, match="not available"):
        PSPCDenoiser(3, device=["cpu", "nowhere"]).fit(digits[:20])
