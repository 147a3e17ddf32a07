"""Training images in shards on several devices give the answers of one device."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SingleImageDenoiser,
    SmoothedDenoiser,
    tapered_windows,
)
from skpspc.inspection import (
    SampleGridDisplay,
    calibrate_patch_size,
    calibrate_thresholds,
    error_curve,
    information_curve,
    local_equivalence,
    memorisation_risk,
    memorised_fraction,
    nearest_training_images,
    posterior_entropy,
)
from skpspc.support import TrainingSet, covariance
from skpspc.support.devices import Devices
from skpspc.support.holdout import different, hold_out
from skpspc.support.sharded import ShardedTrainingSet

HEAT = np.exp(-np.square(np.arange(64)[:, None] - np.arange(64)) / 50).reshape(1, 8, 8, 8, 8)
DENOISERS = {
    "empirical": EmpiricalDenoiser(),
    "patch": PatchDenoiser(3, location=(1, 4)),
    "patches": PatchDenoiser(7, location="all"),
    "squares": PSPCDenoiser(3),
    "squares and mirror images": PSPCDenoiser(4, flip=True),
    "tapered squares": PSPCDenoiser(4, query_taper=0.5, response_taper=1.0),
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
# Denoisers that learn more from the training images than which images there are.
LEARNT = {
    "gaussian": GaussianDenoiser(),
    "gaussian of a rank": GaussianDenoiser(9, shrinkage="ledoit_wolf"),
    "gaussian, oas": GaussianDenoiser(shrinkage="oas"),
    "neighbourhoods": PCALocalityDenoiser(),
    "windows of the data": PSPCDenoiser(windows=FlexibleWindows("data", 0.4, [0.5])),
    "windows of a denoiser": PSPCDenoiser(
        windows=FlexibleWindows(
            EmpiricalDenoiser().fit(np.eye(64).reshape(64, 1, 8, 8)), 0.4, [0.5], n_images=3
        )
    ),
    "calibrated sizes": PSPCDenoiser("calibrated"),
    "blurred images": EmpiricalDenoiser(bandwidth=0.3),
    "calibrated bandwidth": EmpiricalDenoiser(bandwidth="calibrated"),
    "blurred patch": PatchDenoiser(3, bandwidth=0.4, location=(2, 2)),
    "blurred patches": PatchDenoiser(7, bandwidth=0.4, location="all"),
    "blurred globally": PSPCDenoiser(3, bandwidth=0.4, smoothing="global"),
    "stationary": PSPCDenoiser(3, bandwidth=0.4, smoothing="stationary"),
    "blurred windows": PSPCDenoiser(3, bandwidth=0.4),
    "blurred windows and mirror images": PSPCDenoiser(3, bandwidth=0.4, flip=True),
    "blend": BlendedDenoiser(
        [
            ("gaussian", GaussianDenoiser()),
            ("squares", PSPCDenoiser(3)),
            ("smoothed", SmoothedDenoiser(EmpiricalDenoiser())),
        ],
        against=EmpiricalDenoiser(),
        sigmas=[0.3, 1.0],
        n_images=20,
    ),
}


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


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LEARNT)
def test_learning_from_shards(digits, noisy, device, devices, name, dtype, weighted):
    """At smaller sigma, float64 covariances of images in another order differ by more than 1e-12.

    Their smallest eigenvalues are sums of squares that nearly cancel.
    """
    X = digits[:120] if dtype == np.float32 else digits[:120] / 127.5 - 1
    weight = np.arange(120) % 4 if weighted else None
    one = on(LEARNT[name], device).fit(X, sample_weight=weight)
    many = on(LEARNT[name], devices).fit(X, sample_weight=weight)
    for sigma in (0.05, 0.5, 5.0, np.inf):
        assert_equal(many, one, noisy.astype(dtype), sigma)


@pytest.mark.parametrize("name", ["gaussian", "neighbourhoods", "blurred images"])
def test_fewer_images_than_values(digits, noisy, devices, name):
    one = clone(LEARNT[name]).fit(digits[:40])
    many = on(LEARNT[name], devices).fit(digits[:40])
    for sigma in (0.0, 0.05, 0.5, np.inf):
        np.testing.assert_allclose(
            many.denoise(noisy, sigma), one.denoise(noisy, sigma), rtol=0, atol=1e-12
        )


def test_more_images_and_values_than_an_eigenproblem(digits, noisy, devices, monkeypatch):
    """Products with the covariance, of which each shard has a summand."""
    monkeypatch.setattr(covariance, "LARGEST_PROBLEM", 30)
    X = digits[:100] / 127.5 - 1
    for weight in (None, np.arange(100) % 4):
        one = GaussianDenoiser(12).fit(X, sample_weight=weight)
        many = GaussianDenoiser(12, device=devices).fit(X, sample_weight=weight)
        np.testing.assert_allclose(many.eigenvalues_, one.eigenvalues_, rtol=1e-12)
        np.testing.assert_allclose(
            many.denoise(noisy, 0.5), one.denoise(noisy, 0.5), rtol=0, atol=1e-12
        )


def test_sums_of_uint8_images_do_not_depend_on_shards(digits, devices):
    one, many = GaussianDenoiser().fit(digits), GaussianDenoiser(device=devices).fit(digits)
    assert not hasattr(many, "training_set_")
    for name in ("mean_", "components_", "eigenvalues_"):
        np.testing.assert_array_equal(getattr(many, name), getattr(one, name))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_partial_fit_adds_sums_of_shards(digits, noisy, devices, dtype, weighted):
    X = digits[:200] if dtype == np.uint8 else digits[:200] / 127.5 - 1
    weight = np.arange(200) % 4 + 0.5 if weighted else np.ones(200)
    one = GaussianDenoiser().fit(X, sample_weight=weight)
    many = GaussianDenoiser(device=devices)
    for rows in (slice(0, 90), slice(90, 92), slice(92, 200)):
        many.partial_fit(X[rows], sample_weight=weight[rows])
    np.testing.assert_array_equal(many.training_rows_, one.training_rows_)
    np.testing.assert_allclose(
        many.denoise(noisy, 0.5), one.denoise(noisy, 0.5), rtol=0, atol=1e-12
    )
    again = pickle.loads(pickle.dumps(many))  # sums alone have no shards
    np.testing.assert_array_equal(again.denoise(noisy, 0.5), many.denoise(noisy, 0.5))


@pytest.mark.parametrize("weighted", [False, True])
def test_held_out_images_do_not_depend_on_shards(digits, weighted):
    X = torch.from_numpy(np.concatenate([digits[:30], digits[10:40], digits[:5]]))
    weight = torch.arange(1.0, 66.0, dtype=torch.float64) if weighted else None
    one = TrainingSet(X, weight)
    many = in_parts(X, [1, 29, 35], weight)
    for draw in (different, lambda *of: hold_out(*of)[1]):
        a, b = (draw(each, 20, np.random.default_rng(1)) for each in (one, many))
        assert torch.equal(a.images, b.images) and torch.equal(a.sample_weight, b.sample_weight)
    a, b = (hold_out(each, 20, np.random.default_rng(1))[0] for each in (one, many))
    assert torch.equal(a.images, b.together().images)


def test_different_images_among_mirror_images(digits):
    """A draw among mirror images has images of both halves."""
    images = torch.from_numpy(digits[:20].copy())
    drawn = different(TrainingSet(images).mirrored(), 40, np.random.default_rng(0))
    every = torch.cat([images, images.flip(-1)]).flatten(1)
    assert sorted(drawn.images.flatten(1).tolist()) == sorted(every.tolist())


def in_parts(images, sizes, weight=None):
    """Return images as a training set in shards of such sizes."""
    weights = [None] * len(sizes) if weight is None else weight.split(sizes)
    parts = [TrainingSet(*part) for part in zip(images.split(sizes), weights, strict=True)]
    return ShardedTrainingSet.of(Devices(parts), weight, (-1.0, 1.0))


@pytest.mark.parametrize("weighted", [False, True])
def test_fit_of_images_in_shards(digits, noisy, devices, weighted):
    """The images of a denoiser can be fitted again, with other weights."""
    weight = np.r_[np.zeros(30), np.arange(60) % 4] if weighted else None  # none in a shard
    images = EmpiricalDenoiser(device=devices).fit(digits[:90]).training_set_.images
    many = PSPCDenoiser(3).fit(images, sample_weight=weight)
    assert_equal(many, PSPCDenoiser(3).fit(digits[:90], sample_weight=weight), noisy, 0.5)
    with pytest.raises(ValueError, match=r"stay in shards on 'cpu' devices; leave device at None"):
        images.to("meta")


def test_nearest_training_images_of_shards(digits):
    X = np.concatenate([digits[:50], digits[40:90]])  # copies: of ties, the first row comes first
    images = EmpiricalDenoiser(device=["cpu"] * 3).fit(X).training_set_.images
    queries = digits[40:60] / 127.5 - 1
    queries[10:] += 0.1
    for k in (1, 3, 20):
        expected, actual = (nearest_training_images(queries, of, k) for of in (X, images))
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    fractions = [memorised_fraction(queries, of) for of in (images, X)]
    np.testing.assert_array_equal(fractions[0].values, fractions[1].values)
    np.testing.assert_array_equal(images[np.array([99, 3, 3])].numpy(), X[[99, 3, 3]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inspection_of_shards(digits, devices, dtype):
    X = digits[:120] if dtype == np.float32 else digits[:120] / 127.5 - 1
    test = (digits[120:124] / 127.5 - 1).astype(dtype)
    tolerance = 1e-6 if dtype == np.float32 else 1e-12
    weight = np.arange(120) % 4
    one, many = (
        PSPCDenoiser(3, device=device).fit(X, sample_weight=weight) for device in (None, devices)
    )
    a, b = (
        local_equivalence(
            model.training_set_.images,
            [0.1, 1.0],
            n_images=8,
            sample_weight=model.training_set_.sample_weight,
        )
        for model in (one, many)
    )
    np.testing.assert_allclose(b.image_gaps, a.image_gaps, rtol=0, atol=tolerance)
    np.testing.assert_allclose(b.image_variations, a.image_variations, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(b.diameters, a.diameters)
    a, b = (
        information_curve(
            model.training_set_.images,
            [0.1, 1.0],
            [1, 3, 8],
            n_images=8,
            sample_weight=model.training_set_.sample_weight,
        )
        for model in (one, many)
    )
    assert b.log_n == pytest.approx(a.log_n)
    assert b.pixel_variance == pytest.approx(a.pixel_variance)
    close = dict(rtol=1e-5 if dtype == np.float32 else 1e-9, atol=10 * tolerance)
    np.testing.assert_allclose(b.image_information, a.image_information, **close)
    np.testing.assert_allclose(b.image_entropies, a.image_entropies, **close)
    a, b = (posterior_entropy(model, test, [0.1, 0.1, 1, 1]) for model in (one, many))
    np.testing.assert_allclose(b.information, a.information, **close)
    np.testing.assert_allclose(b.log_n, a.log_n)
    a, b = (memorisation_risk(model, [0.1, 1.0], n_images=8) for model in (one, many))
    np.testing.assert_array_equal(b.images, a.images)
    np.testing.assert_allclose(b.maps, a.maps, **close)
    options = dict(n_images=10, sample_weight=weight)
    tables = [
        calibrate_patch_size(model, X, [0.3, 1.0], sizes=[2, 5], **options)[1]
        for model in (one, many)
    ]
    np.testing.assert_allclose(tables[1].errors, tables[0].errors, rtol=0, atol=tolerance)
    windows = PSPCDenoiser(windows=FlexibleWindows("data", 0.4, [0.5]))
    tables = [
        calibrate_thresholds(on(windows, of), X, thresholds=[0.3, 0.5], **options)[1]
        for of in (None, devices)
    ]
    np.testing.assert_allclose(tables[1].errors, tables[0].errors, rtol=0, atol=tolerance)
    curves = [
        error_curve({"pspc": model, "smoothed": other}, test, [0.3, 1.0])
        for model, other in (
            (each, SmoothedDenoiser(on(PSPCDenoiser(3), of)).fit(X, sample_weight=weight))
            for each, of in ((one, None), (many, devices))
        )
    ]
    np.testing.assert_allclose(curves[1].errors, curves[0].errors, rtol=0, atol=tolerance)


def test_sample_grid_of_shards(digits, devices):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    grids = [
        SampleGridDisplay.from_estimator(PSPCDenoiser(3, device=of).fit(digits[:60]), n=4)
        for of in (None, devices)
    ]
    np.testing.assert_array_equal(grids[1].nearest, grids[0].nearest)
    np.testing.assert_allclose(grids[1].distances, grids[0].distances, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "empirical",
        "squares",
        "local scores",
        "gaussian",
        "neighbourhoods",
        "blurred images",
        "blurred windows",
    ],
)
def test_classes_samples_and_scores(digits, noisy, device, devices, name):
    y = np.arange(90) // 45  # each class in two of the three shards
    denoiser = {**DENOISERS, **LEARNT}[name]
    one = on(denoiser, device).fit(digits[:90], y)
    many = on(denoiser, devices).fit(digits[:90], y)
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


@pytest.mark.parametrize(("by", "weighted"), [("pixel", True), ("window", False)])
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


@pytest.mark.parametrize(("dtype", "weighted"), [(np.float32, False), (np.float64, True)])
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
        lambda model, Z: model.training_set_.images[:2],
        lambda model, Z: PSPCDenoiser(3).fit(Z).partial_fit(model.training_set_.images),
        lambda model, Z: GaussianDenoiser(device=["cpu", "cpu"]).fit(Z).partial_fit(Z),
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
        (PSPCDenoiser(3, max_shift=1), "in one place"),
        (PCALocalityDenoiser(softmax="batchwise"), "in one place"),
        (LocalScoreDenoiser(operator=lambda x: x[..., ::2]), "in one place"),
        (PosteriorMeanCollection(tapered_windows((1, 8, 8), 3), source="translates"), "one place"),
        (SingleImageDenoiser(), "The 'device' parameter of SingleImageDenoiser must be"),
    ],
)
def test_denoisers_that_need_all_images_in_one_place(digits, denoiser, message):
    with pytest.raises(ValueError, match=message):
        clone(denoiser).set_params(device=["cpu", "cpu"]).fit(digits[:20]).denoise(
            digits[:1] / 127.5, 0.5
        )


@pytest.mark.parametrize(
    ("denoiser", "method"),
    [
        (PCALocalityDenoiser(softmax="batchwise", batch_size=10), "denoise"),
        (PCALocalityDenoiser(softmax="batchwise", batch_size=10), "vjp"),
        (PCALocalityDenoiser(softmax="batchwise", batch_size=10), "jacobian"),
        (LEARNT["blurred windows"], "vjp"),
        (LEARNT["blurred windows"], "jacobian"),
    ],
)
def test_methods_that_need_all_images_in_one_place(digits, noisy, denoiser, method):
    model = on(denoiser, ["cpu", "cpu"]).fit(digits[:70] / 127.5 - 1)
    arguments = (noisy,) if method == "vjp" else ()
    with pytest.raises(ValueError, match="all training images in one place"):
        getattr(model, method)(noisy, 0.4, *arguments)


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
