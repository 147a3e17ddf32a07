"""What holds for every denoiser: scikit-learn's checks, and ours of denoise and sample."""

import pickle
from dataclasses import dataclass

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import generators
from skpspc import (
    AutoDenoiser,
    BandwidthSchedule,
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PatchSchedule,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SamplingInterrupted,
    SingleImageDenoiser,
    SmoothedDenoiser,
    tapered_windows,
)


@dataclass(frozen=True)
class SizeAt:
    """A callable that can be pickled and compared, and prints alike in every process."""

    small: int
    large: int

    def __call__(self, sigma):
        return self.small if sigma < 1 else self.large


@dataclass(frozen=True)
class SoftSquares:
    """Windows for images of any shape, that can be pickled, and print alike in every process."""

    width: float

    def __call__(self, sigma, image_shape):
        return tapered_windows(image_shape, 2 if sigma < 1 else 3, self.width)


BANDWIDTHS = BandwidthSchedule([0.1, 1.0, 10.0], [0.0, 0.4, 0.9])
SCHEDULE = PatchSchedule([0.1, 1.0, 10.0], [1, 3, 5])


@dataclass(frozen=True)
class LinearNetwork:
    """A network that can be pickled, and prints alike in every process."""

    def __call__(self, x, c, gain=1.0):
        return gain * x / (1 + torch.as_tensor(c).reshape(-1, 1, 1, 1) ** 2)


# scikit-learn's data sets are flat: rows of 1 to a few numbers, seen as signals.
@pytest.mark.filterwarnings("ignore:patch_size=8 is larger than the image")
@parametrize_with_checks(
    [
        EmpiricalDenoiser(),
        EmpiricalDenoiser(sigma=0.0),
        EmpiricalDenoiser(bandwidth=0.5),
        GaussianDenoiser(),
        GaussianDenoiser(1, shrinkage=0.5),
        GaussianDenoiser(shrinkage="ledoit_wolf"),
        PCALocalityDenoiser(),
        PCALocalityDenoiser(0.5, softmax="batchwise", batch_size=100),
        SmoothedDenoiser(EmpiricalDenoiser()),
        SmoothedDenoiser(GaussianDenoiser(1), tau=0.5, n_draws=2),
        NetworkDenoiser(LinearNetwork()),
        NetworkDenoiser(LinearNetwork(), "eps", condition="float", network_range=(0, 1)),
        PatchDenoiser(),
        PatchDenoiser(1, sigma=2.0),
        PatchDenoiser(1, location="all"),
        PatchDenoiser(2, bandwidth=BandwidthSchedule([0.1, 1.0], [0.0, 0.9])),
        PSPCDenoiser(),
        PSPCDenoiser(1),
        PSPCDenoiser(SCHEDULE),
        PSPCDenoiser(SizeAt(2, 4)),
        PSPCDenoiser(1, flip=True),
        PSPCDenoiser(SizeAt(2, 4), response_taper=1.0, flip=True, max_shift=1),
        PSPCDenoiser(windows=FlexibleWindows("data", [0.6, 0.9], [0.1, 1.0])),
        PSPCDenoiser(windows=FlexibleWindows("data", 0.9, [0.5], soft=True), flip=True),
        PSPCDenoiser(2, bandwidth=1.0),
        PSPCDenoiser("calibrated"),
        PSPCDenoiser(2, bandwidth="calibrated", flip=True),
        LocalScoreDenoiser(),
        LocalScoreDenoiser(SizeAt(1, 5), sigma=0.0),
        LocalScoreDenoiser(1, equivariant=True, boundary="circular"),
        LocalScoreDenoiser(1, equivariant=True),
        LocalScoreDenoiser(3, equivariant=True, boundary="broken"),
        SingleImageDenoiser(1),
        SingleImageDenoiser(SizeAt(2, 4), sigma=0.0),
        BlendedDenoiser(
            [("a", GaussianDenoiser()), ("b", EmpiricalDenoiser())], sigmas=[0.3, 2.0], n_images=2
        ),
        BlendedDenoiser(
            [("pspc", PSPCDenoiser(1))], LocalScoreDenoiser(1), sigmas=[0.3, 2.0], n_images=2
        ),
        AutoDenoiser(n_images=4, n_fitted=40),
        PosteriorMeanCollection(),
        PosteriorMeanCollection(SoftSquares(1.0), source="flips"),
        PosteriorMeanCollection(SoftSquares(0.5), SoftSquares(np.inf), source="translates"),
    ]
)
def test_scikit_learn(estimator, check):
    check(estimator)


DENOISERS = {
    "empirical": EmpiricalDenoiser(),
    "gaussian": GaussianDenoiser(),
    "gaussian-rank": GaussianDenoiser(7),
    "gaussian-shrunk": GaussianDenoiser(shrinkage=0.1),
    "pca": PCALocalityDenoiser(),
    "pca-batchwise": PCALocalityDenoiser(softmax="batchwise"),
    "smoothed": SmoothedDenoiser(EmpiricalDenoiser(), n_draws=3),
    "smoothed-patch": SmoothedDenoiser(PatchDenoiser(3), 0.05, n_draws=2),
    "network": NetworkDenoiser(LinearNetwork(), dtype="float64"),
    "patch": PatchDenoiser(3),
    "patch-corner": PatchDenoiser(2, location=(1, 0)),
    "patch-all": PatchDenoiser(3, location="all"),
    "pspc-2": PSPCDenoiser(2),
    "pspc-paper": PSPCDenoiser(),
    "pspc-schedule": PSPCDenoiser(SCHEDULE),
    "pspc-callable": PSPCDenoiser(SizeAt(2, 4)),
    "pspc-flip": PSPCDenoiser(SCHEDULE, flip=True),
    "pspc-tapered": PSPCDenoiser(SizeAt(3, 4), query_taper=1.0, response_taper=0.5),
    "pspc-moved": PSPCDenoiser(2, flip=True, max_shift=1),
    "pspc-flexible": PSPCDenoiser(windows=FlexibleWindows("data", [0.6, 0.9], [0.1, 1.0])),
    "pspc-soft": PSPCDenoiser(windows=FlexibleWindows("data", 0.95, [0.5], soft=True), flip=True),
    "empirical-bandwidth": EmpiricalDenoiser(bandwidth=0.5),
    "patch-bandwidth": PatchDenoiser(3, bandwidth=BANDWIDTHS, location="all"),
    "pspc-bandwidth": PSPCDenoiser(SCHEDULE, bandwidth=BANDWIDTHS),
    "pspc-global": PSPCDenoiser(SCHEDULE, bandwidth=0.6, smoothing="global"),
    "pspc-stationary": PSPCDenoiser(SCHEDULE, bandwidth=0.6, smoothing="stationary"),
    "pspc-bandwidth-flip": PSPCDenoiser(2, bandwidth=0.4, flip=True),
    "pspc-bandwidth-flexible": PSPCDenoiser(
        windows=FlexibleWindows("data", 0.9, [0.5]), bandwidth=BANDWIDTHS, smoothing="global"
    ),
    "pspc-calibrated": PSPCDenoiser(2, bandwidth="calibrated"),
    "pspc-calibrated-size": PSPCDenoiser("calibrated"),
    "local": LocalScoreDenoiser(),
    "local-schedule": LocalScoreDenoiser(SCHEDULE),
    "local-circular": LocalScoreDenoiser(SizeAt(1, 3), equivariant=True, boundary="circular"),
    "local-zero": LocalScoreDenoiser(SizeAt(1, 3), equivariant=True),
    "local-broken": LocalScoreDenoiser(SCHEDULE, equivariant=True, boundary="broken"),
    "single-image": SingleImageDenoiser(2),
    "single-image-schedule": SingleImageDenoiser(SizeAt(2, 3), stride=2),
    "blended": BlendedDenoiser(
        [("a", PSPCDenoiser(2)), ("b", EmpiricalDenoiser())], sigmas=[0.2, 1.0], n_images=4
    ),
    "blended-against": BlendedDenoiser(
        [("a", GaussianDenoiser()), ("b", PSPCDenoiser(3))],
        PSPCDenoiser(1),
        sigmas=[0.2, 1.0],
        n_images=3,
    ),
    "auto": AutoDenoiser(1, n_images=4, n_fitted=40),
    "collection": PosteriorMeanCollection(),
    "collection-soft": PosteriorMeanCollection(SoftSquares(1.0), SoftSquares(np.inf)),
    "collection-flips": PosteriorMeanCollection(SoftSquares(0.5), source="flips"),
    "collection-moves": PosteriorMeanCollection(SoftSquares(1.0), source="translates"),
}
SHAPE = (2, 5, 4)


@pytest.fixture(params=DENOISERS)
def model(request, device):
    """Every denoiser, not fitted."""
    return configure(clone(DENOISERS[request.param]), device=device)


def configure(model, **parameters):
    """Set parameters; those about the images are the inner denoiser's where there is one."""
    return getattr(model, "denoiser", model).set_params(**parameters) and model


def images_of(model):
    """The training images that a fitted model holds."""
    inner = getattr(model, "denoisers_", [getattr(model, "denoiser_", model)])
    return inner[-1].training_set_.images


def learns(model):
    """Whether answers come from the training images: those of a network do not."""
    return not isinstance(model, NetworkDenoiser)


@pytest.fixture(scope="module")
def X():
    """Training images, (12, 2, 5, 4) uint8."""
    return np.random.default_rng(1).integers(0, 256, (12, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def Z(X):
    """Noisy images, (5, 2, 5, 4) float64."""
    noise = np.random.default_rng(2).standard_normal((5, *SHAPE))
    return X[:5] / 127.5 - 1 + 0.4 * noise


def rounding(model):
    """Error to expect where X comes in another dtype or with weights instead of copies."""
    # the weights of a blend are found in the dtype of X: float32, for uint8
    return 1e-6 if isinstance(model, (AutoDenoiser, BlendedDenoiser)) else 1e-12


def flat(images):
    return images.reshape(len(images), -1)


# ------------------------------------------------------------------------------ denoise


def test_containers_and_layouts_in_are_those_out(model, X, Z):
    expected = model.fit(X).denoise(Z, 0.4)
    assert isinstance(expected, np.ndarray)
    assert expected.ndim == 4 + (getattr(model, "location", None) == "all")
    tensor = model.denoise(torch.from_numpy(Z), 0.4)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.device.type == "cpu"
    np.testing.assert_array_equal(tensor, expected)
    np.testing.assert_array_equal(model.denoise(flat(Z), 0.4), flat(expected))
    np.testing.assert_array_equal(model.denoise(flat(Z).tolist(), 0.4), flat(expected))
    flat_tensor = model.denoise(torch.from_numpy(flat(Z)), 0.4)
    assert flat_tensor.ndim == 2
    tracked = torch.from_numpy(Z).requires_grad_()
    assert model.denoise(tracked, 0.4).requires_grad
    assert not model.denoise(tracked.detach(), 0.4).requires_grad


@pytest.mark.parametrize("container", ["numpy", "torch", "list"])
def test_training_images_in_any_container(model, X, Z, container):
    expected = model.fit(X).denoise(Z, 0.4)
    rows = flat(X / 127.5 - 1)
    given = {"numpy": rows, "torch": torch.from_numpy(rows), "list": rows.tolist()}[container]
    configure(model, image_shape=SHAPE).fit(given)
    assert model.image_shape_ == SHAPE
    assert model.n_features_in_ == 40
    np.testing.assert_allclose(model.denoise(Z, 0.4), expected, atol=rounding(model))
    as_tensor = configure(model, image_shape=None).fit(torch.from_numpy(X))
    np.testing.assert_array_equal(as_tensor.denoise(Z, 0.4), expected)


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (np.uint8, np.float32),
    ],
)
def test_float_dtypes(model, X, Z, given, got):
    model.fit(X)
    if given == np.uint8:
        Z, values = X[:5], X[:5] / 127.5 - 1
    else:
        Z = Z.astype(given)
        values = Z.astype(np.float64)
    exact = model.denoise(values.astype(np.float64), 0.4)
    posterior = model.posterior(Z, 0.4)
    for array in (posterior.mean, posterior.log_evidence, posterior.effective_sample_size):
        assert array.dtype == got
    np.testing.assert_allclose(posterior.mean, exact, atol=1e-5)
    tensor = model.denoise(torch.from_numpy(Z), 0.4)
    assert tensor.dtype == torch.from_numpy(posterior.mean).dtype
    np.testing.assert_array_equal(tensor, posterior.mean)


def test_bfloat16_and_float_training_sets(model, X, Z):
    z = torch.from_numpy(Z).bfloat16()
    out = model.fit(X).denoise(z, 0.4)
    assert out.dtype == torch.float32
    np.testing.assert_array_equal(out, model.denoise(z.float(), 0.4))
    x = (X / 127.5 - 1).astype(np.float32)
    np.testing.assert_allclose(
        model.fit(x).denoise(Z, 0.4), model.fit(X).denoise(Z, 0.4), atol=1e-6
    )


def test_posterior_has_one_value_an_image(model, X, Z):
    posterior = model.fit(X).posterior(Z, 0.4)
    for values in (posterior.log_evidence, posterior.effective_sample_size, posterior.error_bound):
        assert values.shape == (5,)
    if learns(model):
        assert (posterior.error_bound == 0).all()
    else:
        assert np.isnan(posterior.error_bound).all()
    np.testing.assert_array_equal(model.denoise(Z, 0.4), posterior.mean)
    model.set_params(sigma=0.4)
    np.testing.assert_array_equal(model.transform(Z), posterior.mean)
    if learns(model):
        np.testing.assert_array_equal(model.score_samples(Z, 0.4), posterior.log_evidence)
        assert isinstance(model.score_samples(torch.from_numpy(Z), 0.4), torch.Tensor)
        np.testing.assert_array_equal(model.score_samples(Z), posterior.log_evidence)


def test_an_image_does_not_depend_on_its_neighbours(model, X, Z):
    together = model.fit(X).posterior(Z, 0.4)
    for i in range(len(Z)):
        alone = model.posterior(Z[[i]], 0.4)
        np.testing.assert_allclose(alone.mean[0], together.mean[i], rtol=0, atol=1e-13)
        np.testing.assert_allclose(alone.log_evidence[0], together.log_evidence[i], rtol=1e-12)
    np.testing.assert_allclose(
        model.denoise(Z[::-1].copy(), 0.4)[::-1], together.mean, rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("container", [list, np.array, torch.DoubleTensor])
def test_one_sigma_an_image(model, X, Z, container):
    levels = [0.0, 0.05, 0.4, 30.0, np.inf if learns(model) else 80.0]
    together = model.fit(X).posterior(Z, container(levels))
    for i, sigma in enumerate(levels):
        alone = model.posterior(Z[[i]], sigma)
        np.testing.assert_allclose(alone.mean[0], together.mean[i], rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            alone.effective_sample_size[0], together.effective_sample_size[i], rtol=1e-9
        )
    np.testing.assert_array_equal(model.denoise(Z, np.full(5, 0.4)), model.denoise(Z, 0.4))
    np.testing.assert_array_equal(model.denoise(Z, [0.4]), model.denoise(Z, 0.4))


def test_not_fitted(model, Z):
    calls = [
        lambda: model.denoise(Z, 0.4),
        lambda: model.posterior(Z, 0.4),
        lambda: model.transform(Z),
        lambda: model.score(Z),
        lambda: model.sample(),
    ]
    if learns(model):
        calls.append(lambda: model.score_samples(Z))
    for call in calls:
        with pytest.raises(NotFittedError):
            call()


def test_fitting_again_forgets(model, X, Z):
    expected = model.fit(X).denoise(Z, 0.4)
    np.testing.assert_array_equal(model.fit(X).denoise(Z, 0.4), expected)
    model.fit(np.eye(49)[:6].reshape(6, 1, 7, 7)).denoise(np.zeros((1, 1, 7, 7)), 1.0)
    np.testing.assert_array_equal(model.fit(X).denoise(Z, 0.4), expected)


def test_nothing_given_is_written_to(model, X, Z, tmp_path):
    expected = model.fit(X).denoise(Z, 0.4)
    for name, array in (("x.npy", X), ("z.npy", Z)):
        np.save(tmp_path / name, array)
    x, z = (np.load(tmp_path / name, mmap_mode="r") for name in ("x.npy", "z.npy"))
    np.testing.assert_array_equal(model.fit(x).denoise(z, 0.4), expected)
    if learns(model) and images_of(model).device.type == "cpu":
        assert np.shares_memory(images_of(model).numpy(), x)
    before = X.copy(), Z.copy()
    model.fit(X).denoise(Z, 0.0)
    model.sample(1, initial=Z[:1] if model.denoise(Z, 1.0).shape == Z.shape else None)
    np.testing.assert_array_equal(before[0], X)
    np.testing.assert_array_equal(before[1], Z)


def test_strided_input(model, X, Z):
    expected = model.fit(X).denoise(Z, 0.4)
    channels_last = np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    z = torch.from_numpy(Z).to(memory_format=torch.channels_last)
    np.testing.assert_array_equal(model.fit(channels_last).denoise(z, 0.4), expected)
    np.testing.assert_array_equal(model.denoise(np.asfortranarray(Z), 0.4), expected)


# -------------------------------------------------------------- copies, and other processes


def test_pickle_and_clone(model, X, Z):
    expected = model.fit(X).denoise(Z, 0.4)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.denoise(Z, 0.4), expected)
    np.testing.assert_array_equal(
        again.sample(2, random_state=0, n_steps=3), model.sample(2, random_state=0, n_steps=3)
    )
    fresh = clone(model)
    assert not hasattr(fresh, "image_shape_")
    assert repr(fresh) == repr(model)
    assert fresh.get_params().keys() == model.get_params().keys()
    np.testing.assert_array_equal(fresh.fit(X).denoise(Z, 0.4), expected)


def test_another_process(X, Z):
    model = PSPCDenoiser(SCHEDULE).fit(X)
    parallel = joblib.Parallel(n_jobs=2, backend="loky")
    halves = parallel(joblib.delayed(model.denoise)(part, 0.4) for part in (Z[:3], Z[3:]))
    np.testing.assert_allclose(np.concatenate(halves), model.denoise(Z, 0.4), rtol=0, atol=1e-13)


# -------------------------------------------------------------------- weights, partial_fit


def test_sample_weight(model, X, Z):
    weight = np.array([2, 0, 1, 3, 1, 0, 1, 1, 2, 1, 1, 1])
    weighted = model.fit(X, sample_weight=weight).posterior(Z, 0.7)
    scaled = model.fit(X, sample_weight=7.5 * weight).posterior(Z, 0.7)
    as_list = model.fit(X, sample_weight=weight.tolist()).posterior(Z, 0.7)
    repeated = model.fit(np.repeat(X, weight, axis=0)).posterior(Z, 0.7)
    tol = rounding(model)
    for other in (scaled, repeated, as_list):
        np.testing.assert_allclose(other.mean, weighted.mean, rtol=0, atol=tol)
        np.testing.assert_allclose(other.log_evidence, weighted.log_evidence, rtol=100 * tol)
    removed = model.fit(X[weight > 0], sample_weight=weight[weight > 0]).denoise(Z, 0.7)
    np.testing.assert_allclose(removed, weighted.mean, rtol=0, atol=tol)
    unweighted = model.fit(X).posterior(Z, 0.7)
    if learns(model):
        assert np.abs(unweighted.mean - weighted.mean).max() > 1e-3
    ones = model.fit(X, sample_weight=np.ones(12)).posterior(Z, 0.7)
    np.testing.assert_array_equal(ones.mean, unweighted.mean)


def test_partial_fit_is_fit_of_the_whole(model, X, Z):
    weight = np.arange(12) % 3 + 0.5
    whole = model.fit(X, sample_weight=weight).posterior(Z, 0.7)
    parts = clone(model)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        assert parts.partial_fit(X[part], sample_weight=weight[part]) is parts
    other = parts.posterior(Z, 0.7)
    np.testing.assert_allclose(other.mean, whole.mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(other.log_evidence, whole.log_evidence, rtol=1e-12)
    # no weights are weights of one
    mixed = clone(model).partial_fit(X[:5]).partial_fit(X[5:], sample_weight=weight[5:])
    weight[:5] = 1
    expected = model.fit(X, sample_weight=weight).denoise(Z, 0.7)
    np.testing.assert_allclose(mixed.denoise(Z, 0.7), expected, rtol=0, atol=1e-13)
    plain = clone(model).partial_fit(X[:5]).partial_fit(X[5:])
    np.testing.assert_array_equal(plain.denoise(Z, 0.7), model.fit(X).denoise(Z, 0.7))


# -------------------------------------------------------------------------------- score


def test_score_is_minus_the_mean_squared_error(model, X):
    model.fit(X[:8]).set_params(random_state=3)
    score = model.score(X[8:], sigmas=[0.5])
    assert isinstance(score, float)
    assert score < 0
    assert score == model.score(X[8:], sigmas=0.5) == model.score(flat(X[8:]), sigmas=[0.5])
    assert model.score(X[8:]) != score
    assert model.set_params(random_state=4).score(X[8:], sigmas=[0.5]) != score
    assert model.score(X[:8], sigmas=[1e-6]) == pytest.approx(0, abs=1e-9)


def test_score_is_the_error_that_anyone_would_compute(X):
    from skpspc.sampling import draw_noise

    clean = X[8:] / 127.5 - 1
    model = PSPCDenoiser(3, random_state=5).fit(X[:8])
    noise = draw_noise((2, *SHAPE), 4, 5).numpy()
    errors = [
        ((model.denoise(clean + sigma * noise[:, j], sigma) - clean) ** 2).mean()
        for j, sigma in enumerate((0.3, 2.0))
    ]
    assert model.score(X[8:], sigmas=[0.3, 2.0]) == pytest.approx(-np.mean(errors), rel=1e-5)
    assert model.score(clean, sigmas=[0.3, 2.0]) == pytest.approx(-np.mean(errors), rel=1e-12)


# ------------------------------------------------------------------------------- sample


def test_samples_come_as_the_training_images_did(model, X):
    x = X / 127.5 - 1
    shape = model.fit(X).denoise(X[:3], 1.0).shape
    for given, container, dtype in (
        (X, np.ndarray, np.float32),
        (x, np.ndarray, np.float64),
        (x.astype(np.float32), np.ndarray, np.float32),
        (torch.from_numpy(X), torch.Tensor, torch.float32),
        (torch.from_numpy(x), torch.Tensor, torch.float64),
    ):
        samples = model.fit(given).sample(3, random_state=0, n_steps=2)
        assert isinstance(samples, container)
        assert samples.dtype == dtype
        assert samples.shape == shape
    configure(model, image_shape=SHAPE).fit(flat(x))
    assert model.sample(3, random_state=0, n_steps=2).shape == (3, int(np.prod(shape[1:])))
    assert model.sample(random_state=0, n_steps=1).shape[0] == 1


def test_a_sample_depends_on_the_seed_and_its_number(model, X):
    model.fit(X / 127.5 - 1)
    four = model.sample(4, random_state=0, n_steps=4)
    np.testing.assert_allclose(
        model.sample(2, random_state=0, n_steps=4), four[:2], rtol=0, atol=1e-9
    )
    np.testing.assert_array_equal(model.sample(4, random_state=0, n_steps=4), four)
    assert np.abs(model.sample(4, random_state=1, n_steps=4) - four).max() > 1e-3
    # nor does anything touch the global generators
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    model.sample(2, n_steps=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler", "heun"])
def test_trajectory_callback_and_initial(model, X, sampler):
    model.fit(X / 127.5 - 1)
    calls = []
    options = {"sampler": sampler, "n_steps": 5, "sigma_max": 10.0, "sigma_min": 0.01}
    samples, trajectory = model.sample(
        3,
        random_state=0,
        return_trajectory=True,
        callback=lambda step, sigma, z: calls.append((step, sigma, z.clone())),
        **options,
    )
    assert trajectory.shape == (6, *samples.shape)
    np.testing.assert_array_equal(trajectory[-1], samples)
    assert [step for step, *_ in calls] == [1, 2, 3, 4, 5]
    levels = [sigma for _, sigma, _ in calls]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0
    assert levels[-2] == pytest.approx(0.01)
    for (_, _, z), state in zip(calls, trajectory[1:], strict=True):
        np.testing.assert_array_equal(z.cpu(), state)
    for initial in (trajectory[0], torch.from_numpy(trajectory[0])):
        again = model.sample(initial=initial, **options)
        assert isinstance(again, np.ndarray)
        np.testing.assert_array_equal(again, samples)
    np.testing.assert_array_equal(model.sample(3, initial=trajectory[0], **options), samples)
    # the last step is the denoised image
    np.testing.assert_allclose(
        samples, model.denoise(trajectory[-2], levels[-2]), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("stop_after", range(1, 7))
def test_going_on_after_an_interrupt(model, X, stop_after):
    model.fit(X / 127.5 - 1)
    options = {"sigma_min": 0.03, "sampler": "heun"}
    whole = model.sample(3, random_state=0, n_steps=6, sigma_max=20.0, **options)

    def interrupt(step, sigma, z):
        if step == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(SamplingInterrupted, match="sampling was interrupted") as caught:
        model.sample(3, random_state=0, n_steps=6, sigma_max=20.0, callback=interrupt, **options)
    stop = caught.value
    assert isinstance(stop, KeyboardInterrupt)  # so that nothing swallows it
    assert stop.n_steps == 6 - stop_after
    assert isinstance(stop.z, np.ndarray)
    if stop.n_steps == 0:
        np.testing.assert_array_equal(stop.z, whole)
        return
    rest = model.sample(initial=stop.z, sigma_max=stop.sigma, n_steps=stop.n_steps, **options)
    np.testing.assert_allclose(rest, whole, rtol=0, atol=1e-9)


def test_going_on_with_the_default_grid(X):
    """The last sigma of the grid, to the last digit, is still not below sigma_min."""
    model = EmpiricalDenoiser().fit(X / 127.5 - 1)
    whole = model.sample(2, random_state=0, sampler="heun")
    for stop_after in range(1, 18):

        def interrupt(step, sigma, z, stop_after=stop_after):
            if step == stop_after:
                raise KeyboardInterrupt

        with pytest.raises(SamplingInterrupted) as caught:
            model.sample(2, random_state=0, sampler="heun", callback=interrupt)
        stop = caught.value
        rest = model.sample(
            initial=stop.z, sigma_max=stop.sigma, n_steps=stop.n_steps, sampler="heun"
        )
        np.testing.assert_allclose(rest, whole, rtol=0, atol=1e-9)


def test_interrupt_within_a_step(X):
    """Ctrl-C comes while a denoiser works: the state is that of the last whole step."""
    calls = []

    def size(sigma):
        calls.append(sigma)
        if len(calls) == 4:  # the second call of Heun's second step; one noise level a call
            raise KeyboardInterrupt
        return 2

    model = PSPCDenoiser(size).fit(X / 127.5 - 1)
    with pytest.raises(SamplingInterrupted) as caught:
        model.sample(2, random_state=0, n_steps=6, sampler="heun")
    stop = caught.value
    assert stop.n_steps == 5
    model = PSPCDenoiser(2).fit(X / 127.5 - 1)
    rest = model.sample(initial=stop.z, sigma_max=stop.sigma, n_steps=stop.n_steps, sampler="heun")
    whole = model.sample(2, random_state=0, n_steps=6, sampler="heun")
    np.testing.assert_allclose(rest, whole, rtol=0, atol=1e-9)


def test_progress_bar(X, capfd):
    model = EmpiricalDenoiser().fit(X)
    model.sample(n_steps=3)
    assert capfd.readouterr().err == ""
    model.sample(n_steps=3, verbose=1)
    assert "3/3" in capfd.readouterr().err


def test_representations_do_not_show_the_data(model, X):
    assert type(model).__name__ in repr(model)
    assert "estimator" in model.fit(X)._repr_html_()
    assert len(repr(model)) < 400


def test_shapes_of_the_generators_are_all_served():
    """The strategies of the other tests reach every kind of image."""
    for shape in generators.SHAPES:
        X = np.random.default_rng(0).standard_normal((4, *shape))
        for patch in (1, max(shape[1:])):
            out = PSPCDenoiser(lambda sigma, patch=patch: patch).fit(X).denoise(X, 0.5)
            assert out.shape == X.shape
