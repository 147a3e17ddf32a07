"""Denoisers of images on any range equal the denoiser of images on [-1, 1], scaled."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from skpspc.inspection import (
    AttributionDisplay,
    LocalEquivalenceDisplay,
    SampleGridDisplay,
    TrajectoryDisplay,
    error_curve,
    local_equivalence,
    mse,
    nearest_training_distance,
    suggest_patch_size,
)

SHAPE = (2, 6, 6)
SIGMA = np.array([0.1, 0.3, 0.8, 2.0])
RANGES = [(0.0, 1.0), (0.0, 255.0), (-3.0, 5.0)]


def half_network(x, c):
    return x / (1 + c[:, None, None, None] ** 2)


MAKERS = {
    "empirical": EmpiricalDenoiser,
    "gaussian": GaussianDenoiser,
    "gaussian-moments": lambda **range_: GaussianDenoiser(rank=5, **range_),
    "patch": lambda **range_: PatchDenoiser(3, **range_),
    "pca": PCALocalityDenoiser,
    "pspc-paper": PSPCDenoiser,
    "pspc-numba": lambda **range_: PSPCDenoiser(3, engine="numba", **range_),
    "pspc-torch": lambda **range_: PSPCDenoiser(3, engine="torch", **range_),
    "pspc-flip": lambda **range_: PSPCDenoiser(3, flip=True, **range_),
    "local": lambda **range_: LocalScoreDenoiser(3, **range_),
    "equivariant": lambda **range_: LocalScoreDenoiser(3, equivariant=True, **range_),
    "smoothed": lambda **range_: SmoothedDenoiser(EmpiricalDenoiser(**range_), tau=0.0),
    "network": lambda **range_: NetworkDenoiser(half_network, dtype="float64", **range_),
    "blended": lambda **range_: BlendedDenoiser(
        [("squares", PSPCDenoiser()), ("smoothed", SmoothedDenoiser(EmpiricalDenoiser(), tau=0.0))],
        n_images=10,
        **range_,
    ),
}
# "patch" answers for its patch alone, and a rank of "pca" may change by rounding on the way.
SAMPLED = [name for name in MAKERS if name not in ("patch", "pca")]
KNOWS_EVIDENCE = [name for name in MAKERS if name not in ("network", "patch")]
# The weights of a blend, and the engine "numba", are computed in float32.
IN_FLOAT32 = {"blended", "pspc-numba"}


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).integers(0, 256, (90, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def Z():
    return np.random.default_rng(1).normal(0, 0.7, (4, *SHAPE))


def scaled(z, data_range):
    low, high = data_range
    return (low + high) / 2 + (high - low) / 2 * z


def half(data_range):
    return (data_range[1] - data_range[0]) / 2


def as_floats(X, data_range):
    low, high = data_range
    return low + X * ((high - low) / 255)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-8), (np.float32, 5e-5)])
@pytest.mark.parametrize("data_range", RANGES)
@pytest.mark.parametrize("name", MAKERS)
def test_the_mean_is_the_scaled_default(X, Z, name, data_range, dtype, tolerance):
    if name in IN_FLOAT32:
        Z, tolerance = Z.astype(np.float32), 5e-5
    default = MAKERS[name]().fit(X)
    model = MAKERS[name](data_range=data_range).fit(X)
    assert model.data_range_ == data_range
    noisy = scaled(Z, data_range).astype(Z.dtype if name in IN_FLOAT32 else dtype)
    found = model.denoise(noisy, half(data_range) * SIGMA)
    right = scaled(default.denoise(Z, SIGMA), data_range)
    np.testing.assert_allclose(found, right, rtol=0, atol=tolerance * half(data_range))


@pytest.mark.parametrize("data_range", RANGES)
@pytest.mark.parametrize("name", MAKERS)
def test_uint8_equals_the_floats_that_it_stands_for(X, Z, name, data_range):
    stored = MAKERS[name](data_range=data_range).fit(X)
    noisy, tolerance = scaled(Z, data_range), 1e-7
    images = as_floats(X, data_range)
    if name in IN_FLOAT32:
        noisy, images, tolerance = noisy.astype(np.float32), images.astype(np.float32), 5e-5
    floats = MAKERS[name](data_range=data_range).fit(images)
    at = noisy, half(data_range) * SIGMA
    np.testing.assert_allclose(
        stored.denoise(*at), floats.denoise(*at), rtol=0, atol=tolerance * half(data_range)
    )


@pytest.mark.parametrize("data_range", RANGES)
@pytest.mark.parametrize("name", SAMPLED)
def test_samples_and_scores_are_scaled_by_default(X, name, data_range):
    default = MAKERS[name]().fit(X)
    model = MAKERS[name](data_range=data_range).fit(X)
    walk = {"n": 2, "n_steps": 3, "random_state": 0}
    found = model.sample(**walk)
    right = scaled(default.sample(**walk), data_range)
    np.testing.assert_allclose(found, right, rtol=0, atol=2e-3 * half(data_range))
    assert model.score(X[:5]) == pytest.approx(default.score(X[:5]) * half(data_range) ** 2, 1e-3)


@pytest.mark.parametrize("name", KNOWS_EVIDENCE)
def test_log_evidence_shifts_by_the_width(X, Z, name):
    Z = Z.astype(np.float32)
    default = MAKERS[name]().fit(X)
    model = MAKERS[name](data_range=(0, 255)).fit(X)
    found = model.score_samples(scaled(Z, (0, 255)), 127.5 * SIGMA)
    shift = np.prod(SHAPE) * np.log(127.5)
    np.testing.assert_allclose(found, default.score_samples(Z, SIGMA) - shift, rtol=1e-5)


@pytest.mark.parametrize("name", ["empirical", "gaussian", "pspc-torch", "pspc-flip", "network"])
def test_the_jacobian_has_no_unit(X, Z, name):
    pixels = [(1, 2), (4, 4)]
    default = MAKERS[name]().fit(X).jacobian(Z[:2], 0.5, pixels=pixels)
    model = MAKERS[name](data_range=(0, 255)).fit(X)
    found = model.jacobian(scaled(Z[:2], (0, 255)), 63.75, pixels=pixels)
    np.testing.assert_allclose(found, default, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["empirical", "pspc-paper", "gaussian-moments", "smoothed"])
def test_state_keeps_the_range(X, Z, name):
    model = MAKERS[name](data_range=(0, 255)).fit(X[:50]).partial_fit(X[50:])
    at = scaled(Z, (0, 255)), 127.5 * SIGMA
    right = MAKERS[name](data_range=(0, 255)).fit(X).denoise(*at)
    np.testing.assert_allclose(model.denoise(*at), right, rtol=1e-9)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).denoise(*at), model.denoise(*at)
    )
    np.testing.assert_allclose(clone(model).fit(X).denoise(*at), right, rtol=1e-9)
    labelled = MAKERS[name](data_range=(0, 255)).fit(X, np.arange(90) % 2)
    alone = MAKERS[name](data_range=(0, 255)).fit(X[::2])
    np.testing.assert_allclose(labelled.denoise(*at, y=0), alone.denoise(*at), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "int8", "bool"])
@pytest.mark.parametrize("container", [np.asarray, torch.from_numpy])
def test_images_of_other_integers_need_a_range(X, Z, dtype, container):
    whole = container((X // 2).astype(dtype))
    for model, images in [
        (EmpiricalDenoiser(), whole),
        (EmpiricalDenoiser(image_shape=SHAPE), whole.reshape(len(X), -1)),
    ]:
        largest = 1 if dtype == "bool" else 255
        with pytest.raises(ValueError, match=rf"X has dtype {dtype}; .*=\(0, {largest}\)"):
            model.fit(images)
        with pytest.raises(ValueError, match=f"Z has dtype {dtype}"):
            model.fit(X.reshape(images.shape)).denoise(images, 0.5)
    model = EmpiricalDenoiser(data_range=(0, 255)).fit(whole)
    right = EmpiricalDenoiser(data_range=(0, 255)).fit((X // 2).astype(dtype).astype(float))
    noisy = scaled(Z, (0, 255))
    np.testing.assert_array_equal(model.denoise(noisy, 40.0), right.denoise(noisy, 40.0))


def test_tables_of_integers_are_fitted():
    table = np.arange(12).reshape(4, 3)
    assert EmpiricalDenoiser().fit(table).denoise(table, 0.1)[2, 1] == pytest.approx(7)


def test_values_outside_the_range_are_refused(X):
    floats = X.astype(float)
    with pytest.raises(
        ValueError, match=r"X has values from 0 to 255, outside data_range=\(-1, 1\)"
    ):
        EmpiricalDenoiser(data_range=(-1, 1)).fit(floats)
    EmpiricalDenoiser(data_range=(0, 255)).fit(floats + 1e-5)


@pytest.mark.parametrize("wrong", [(1, 0), (0, 0), (0, np.inf), (0, 1, 2), ("a", "b")])
def test_a_range_is_two_increasing_numbers(X, wrong):
    with pytest.raises(ValueError, match=r"data_range must be .low, high., finite numbers"):
        EmpiricalDenoiser(data_range=wrong).fit(X)


def test_instruments_read_uint8_by_the_denoiser(X):
    default, model = (GaussianDenoiser(data_range=r).fit(X) for r in (None, (0, 255)))
    right = error_curve(default, X, [0.1, 0.5], against="clean", n=20)
    found = error_curve(model, X, [12.75, 63.75], against="clean", n=20)
    np.testing.assert_allclose(found.errors, right.errors * 127.5**2, rtol=1e-3)
    with pytest.raises(ValueError, match="fitted with different data ranges"):
        error_curve([default, model], X, [0.1], against="clean", n=20)


def test_a_trajectory_is_drawn_at_the_levels_of_the_sampler(X):
    pytest.importorskip("matplotlib")
    model = EmpiricalDenoiser(data_range=(0, 255)).fit(X)
    display = TrajectoryDisplay.from_estimator(model, n=1, n_steps=3)
    assert display.sigmas[0] == pytest.approx(80 * 127.5)


def test_pictures_and_metrics_read_uint8_on_the_range(X):
    pytest.importorskip("matplotlib")
    default, model = (EmpiricalDenoiser(data_range=r).fit(X) for r in (None, (0, 255)))
    walk = {"n": 2, "n_steps": 3}
    grids = [SampleGridDisplay.from_estimator(m, **walk) for m in (default, model)]
    np.testing.assert_allclose(grids[1].nearest, 127.5 * (grids[0].nearest + 1), atol=1e-4)
    np.testing.assert_allclose(grids[1].distances, 127.5 * grids[0].distances, atol=1e-3)
    np.testing.assert_array_equal(grids[1].memorised, grids[0].memorised)
    gray = EmpiricalDenoiser(data_range=(0, 255)).fit(X[:, :1])
    shown = AttributionDisplay.from_estimator(gray, X[:1, :1], 20.0)
    np.testing.assert_array_equal(shown.noisy, X[:1, :1].astype(float))
    assert shown.data_range == (0, 255)
    half = mse(X[:4], X[4:8]) * 127.5**2
    assert float(mse(X[:4], X[4:8], data_range=(0, 255))) == pytest.approx(float(half))
    distance = nearest_training_distance(X[:4], X[4:])
    wide = nearest_training_distance(X[:4], X[4:], data_range=(0, 255))
    assert float(wide) == pytest.approx(127.5 * float(distance))


def test_local_equivalence_is_measured_on_the_range(X):
    right = local_equivalence(X, [0.2, 1.0], [3], n_images=8)
    found = local_equivalence(X, [25.5, 127.5], [3], n_images=8, data_range=(0, 255))
    np.testing.assert_allclose(found.gap, 127.5 * right.gap, rtol=1e-3)
    np.testing.assert_allclose(found.bound, 127.5 * right.bound, rtol=1e-3)
    levels = [local_equivalence(X[:9], None, [3], n_images=2, data_range=r) for r in (None, (0, 1))]
    np.testing.assert_allclose(levels[1].sigmas, levels[0].sigmas / 2)
    size, _ = suggest_patch_size(X, 0.5, tol=0.1, n_images=8)
    in_units, _ = suggest_patch_size(X, 63.75, tol=12.75, n_images=8, data_range=(0, 255))
    assert in_units == size


@pytest.mark.parametrize("as_floats", [False, True])
def test_the_display_of_local_equivalence_knows_the_range_of_the_denoiser(X, as_floats):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    images = X / 255.0 if as_floats else X
    options = {"patch_sizes": [3], "n_images": 8}
    right = local_equivalence(X / 255.0, [0.3, 0.8], **options)
    assert (right.gap > 0.01).all()
    model = EmpiricalDenoiser(data_range=(0, 1)).fit(images)
    display = LocalEquivalenceDisplay.from_estimator(model, [0.3, 0.8], **options)
    np.testing.assert_allclose(display.equivalence.gap, right.gap, rtol=1e-3)
    usual = LocalEquivalenceDisplay.from_estimator(model, **options).equivalence.sigmas
    np.testing.assert_allclose(usual, np.geomspace(0.005, 50, 17))


def test_walks_of_instruments_begin_in_the_noise_of_the_range(X):
    default, model = (GaussianDenoiser(data_range=r).fit(X) for r in (None, (0, 255)))
    right, found = (
        error_curve(m, None, levels, process="reverse", X_train=X, n=3, n_steps=4)
        for m, levels in ((default, [0.5, 2.0]), (model, [63.75, 255.0]))
    )
    np.testing.assert_allclose(found.errors, right.errors * 127.5**2, rtol=1e-3)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([0, 1], "data_range=(0, 1)"),
        ([0, 255], "astype(np.uint8)"),
        ([0, 4095], "data_range=(0, 4095)"),
        ([-100, 300], "data_range=(-100, 300)"),
    ],
)
def test_the_remedy_for_integers_keeps_their_values(values, remedy):
    images = np.array(values, np.int32).reshape(2, 1, 1, 1).repeat(9, 2)
    with pytest.raises(ValueError) as caught:
        EmpiricalDenoiser().fit(images)
    assert remedy in str(caught.value)
    model = EmpiricalDenoiser(data_range=(min(values), max(values))).fit(images)
    np.testing.assert_allclose(model.denoise(images, 1e-3), images)
