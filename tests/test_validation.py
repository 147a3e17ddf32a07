"""Bad input gets a sentence with the remedy, and nothing is lost."""

import pickle
import re
import warnings

import numpy as np
import pytest
import sklearn
import torch

from skpspc import EmpiricalDenoiser, PatchDenoiser, PatchSchedule, PSPCDenoiser

SHAPE = (3, 6, 5)
MODELS = [EmpiricalDenoiser(), PatchDenoiser(2), PatchDenoiser(2, location="all"), PSPCDenoiser(3)]


@pytest.fixture(params=MODELS, ids=["empirical", "patch", "patch-all", "pspc"])
def model(request, X):
    return sklearn.base.clone(request.param).fit(X)


@pytest.fixture(scope="module")
def X():
    """Training images, (7, 3, 6, 5) float64."""
    return np.random.default_rng(0).uniform(-1, 1, (7, *SHAPE))


def with_value(images, value):
    images = images.copy()
    images[2, 1, 3, 2] = value
    return images


def says(*parts):
    """A pattern for a message that holds all of some texts, in their order."""
    return "(?s)" + ".*".join(map(re.escape, parts))


# --------------------------------------------------------------------- X, Z and initial


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("container", [np.asarray, torch.from_numpy])
def test_nan_and_infinity(model, X, value, dtype, container):
    bad = container(with_value(X, value).astype(dtype))
    with pytest.raises(ValueError, match=says("NaN or infinity in 1 of", "remove")):
        sklearn.base.clone(model).fit(bad)
    with pytest.raises(ValueError, match=says("NaN or infinity in 1 of", "remove")):
        model.partial_fit(bad)
    z = container(X.astype(dtype))
    for call in (model.denoise, model.posterior, model.score_samples):
        with pytest.raises(ValueError, match=says("contains NaN or infinity")):
            call(bad, 0.5)
        call(z, 0.5)
    with pytest.raises(ValueError, match=says("contains NaN or infinity")):
        model.transform(bad)
    with pytest.raises(ValueError, match=says("contains NaN or infinity")):
        model.score(bad)
    initial = model.denoise(X, 0.5)
    initial[0].flat[0] = value
    with pytest.raises(ValueError, match=says("contains NaN or infinity")):
        model.sample(initial=container(initial.astype(dtype)))


def test_a_failed_fit_does_not_spoil_a_fitted_model(model, X):
    expected = model.denoise(X, 0.5)
    for bad in (with_value(X, np.nan), X[:0], X[:, :1]):
        with pytest.raises(ValueError):
            model.partial_fit(bad)
        np.testing.assert_array_equal(model.denoise(X, 0.5), expected)


def test_no_images(model, X):
    for empty in (X[:0], X[:0].reshape(0, 90), torch.empty(0, *SHAPE)):
        with pytest.raises(ValueError, match=says("X holds no images")):
            sklearn.base.clone(model).fit(empty)
    with pytest.raises(ValueError, match=says("Z holds no images")):
        model.denoise(X[:0], 0.5)


@pytest.mark.parametrize("n_axes", [0, 1, 3, 5])
def test_number_of_axes(model, X, n_axes):
    bad = {0: np.float64(1), 1: X[0].ravel(), 3: X[:, 0], 5: X[None]}[n_axes]
    for container in (np.asarray, torch.as_tensor):
        with pytest.raises(ValueError, match=r"X must have shape|Expected 2D"):
            sklearn.base.clone(model).fit(container(bad))
        with pytest.raises(ValueError, match=r"channel axis|Expected 2D|shape"):
            model.denoise(container(bad), 0.5)
    if n_axes == 3:
        with pytest.raises(ValueError, match=says("X must have shape", "X[:, None]")):
            sklearn.base.clone(model).fit(bad)
        with pytest.raises(ValueError, match=says("(6, 5)", str(SHAPE), "Z[:, None]")):
            model.denoise(bad, 0.5)


@pytest.mark.parametrize("shape", [(1, 6, 5), (4, 6, 5), (3, 5, 6), (6, 5, 3), (3, 7, 7)])
def test_wrong_image_shape(model, shape):
    bad = np.zeros((2, *shape))
    with pytest.raises(ValueError, match=says("images of shape", str(shape), str(SHAPE))):
        model.denoise(bad, 0.5)
    with pytest.raises(ValueError, match=says("images of shape", str(shape), str(SHAPE))):
        model.score(bad)
    with pytest.raises(ValueError, match=says("X holds images of shape", str(shape), "expected")):
        model.partial_fit(bad)
    with pytest.raises(ValueError, match=says(str(shape))):
        model.sample(initial=bad)


def test_wrong_number_of_features(model):
    with pytest.raises(ValueError, match=r"89|shape"):
        model.denoise(np.zeros((2, 89)), 0.5)


@pytest.mark.parametrize(
    ("image_shape", "message"),
    [
        ((3, 6), "three positive ints (channels, height, width), got (3, 6)"),
        ((3, 6, 0), "three positive ints"),
        ((3, -6, 5), "three positive ints"),
        ((3, 5, 5), "has 75 values, but X has 90 features"),
    ],
)
def test_wrong_image_shape_parameter(X, image_shape, message):
    flat = X.reshape(7, -1)
    with pytest.raises(ValueError, match=says("image_shape", message)):
        EmpiricalDenoiser(image_shape=image_shape).fit(flat)


def test_image_shape_that_contradicts_the_images(X):
    with pytest.raises(
        ValueError, match=says(str(SHAPE), "expected (3, 5, 6)", "image_shape=None")
    ):
        EmpiricalDenoiser(image_shape=(3, 5, 6)).fit(X)
    assert EmpiricalDenoiser(image_shape=list(SHAPE)).fit(X).image_shape_ == SHAPE


def test_what_is_no_number(X):
    with pytest.raises((ValueError, TypeError)):
        EmpiricalDenoiser().fit([["a", "b"]])
    with pytest.raises(ValueError, match=r"[Cc]omplex"):
        EmpiricalDenoiser().fit(X.reshape(7, -1) * 1j)


# -------------------------------------------------------------------------------- sigma


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (-1.0, "sigma must be non-negative, got -1.0; pass a float or an array of shape (7,)"),
        ([0.1] * 6 + [-0.5], "got -0.5"),
        (np.nan, "got nan"),
        ([0.1] * 6 + [np.nan], "got nan"),
        ([0.1, 0.2], "one per image, shape (7,); got shape (2,)"),
        (np.ones((1, 7)), "got shape (1, 7)"),
        ([], "got shape (0,)"),
        ("large", "sigma must be a number or an array of them, got 'large'"),
        (None, "sigma must be"),
        (torch.tensor(-1.0), "got -1.0"),
    ],
)
def test_bad_sigma(model, X, sigma, message):
    with pytest.raises(ValueError, match=says(message)):
        model.denoise(X, sigma)


@pytest.mark.parametrize("sigma", [-0.1, np.nan, "large", None])
def test_bad_sigma_parameter(X, sigma):
    with pytest.raises(ValueError, match="'sigma' parameter"):
        EmpiricalDenoiser(sigma=sigma).fit(X)


def test_bad_score_sigmas(model, X):
    for sigmas in ([], [0.1, np.inf], [np.nan], "a", [None]):
        with pytest.raises(ValueError, match="sigmas must be one or more finite numbers"):
            model.score(X, sigmas=sigmas)
    with pytest.raises(ValueError, match="non-negative, got -1"):
        model.score(X, sigmas=[0.1, -1])


# ------------------------------------------------------------------------------ patches


@pytest.mark.parametrize("kind", [PatchDenoiser, PSPCDenoiser])
def test_a_patch_larger_than_the_image_is_clipped_with_a_warning(X, kind):
    with pytest.warns(
        UserWarning, match=says("patch_size=9", str(SHAPE), "Pass at most 5")
    ) as seen:
        large = kind(9).fit(X)
    assert seen[0].filename == __file__  # it points at the line that has to be changed
    whole = EmpiricalDenoiser().fit(X).denoise(X, 0.7)
    np.testing.assert_allclose(large.denoise(X, 0.7), whole, atol=1e-12)
    with pytest.warns(UserWarning, match="Pass at most 5"):
        kind(6).fit(X)  # clipped along one axis
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(5).fit(X)


def test_signals_and_schedules_are_clipped_without_a_warning(X):
    signals = X.reshape(7, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PSPCDenoiser(8).fit(signals)  # 1 x 90: an axis of length 1 is no axis
        PSPCDenoiser(PatchSchedule([0.1, 10], [3, 32])).fit(X).denoise(X, 5.0)
        PSPCDenoiser().fit(X).denoise(X, 5.0)
    with pytest.warns(UserWarning, match="Pass at most 90"):
        PSPCDenoiser(91).fit(signals)


@pytest.mark.parametrize("size", [0, -3, 2.5, "big", None])
@pytest.mark.parametrize("kind", [PatchDenoiser, PSPCDenoiser])
def test_bad_patch_size(X, kind, size):
    with pytest.raises(ValueError, match="'patch_size' parameter"):
        kind(size).fit(X)


@pytest.mark.parametrize("size", [0, 2.5, None, "big"])
def test_bad_answer_of_a_callable(X, size):
    model = PSPCDenoiser(lambda sigma: size).fit(X)
    with pytest.raises(ValueError, match=says("int of at least 1", repr(size), "sigma = 0.5")):
        model.denoise(X, 0.5)


@pytest.mark.parametrize("location", [(5, 0), (0, 4), (-1, 0), (1,), (0, 0, 0), (0.5, 1)])
def test_bad_location(X, location):
    with pytest.raises(ValueError, match=says("location must be", "(0, 0) and (4, 3)")):
        PatchDenoiser(2, location=location).fit(X)


def test_unknown_location(X):
    with pytest.raises(ValueError, match="'location' parameter"):
        PatchDenoiser(2, location="middle").fit(X)


# ----------------------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sampler": "rk4"},
            "one of 'ddim', 'dpmpp_2m', 'edm', 'euler', 'heun' or a callable, got 'rk4'",
        ),
        ({"sampler": None}, "got None"),
        ({"n": 0}, "n must be an int of at least 1, got 0"),
        ({"n": -2}, "n must be an int of at least 1, got -2"),
        ({"n": 2.5}, "n must be an int"),
        ({"n": None}, "n must be an int"),
        ({"n_steps": 0}, "n_steps must be an int of at least 1, got 0"),
        ({"n_steps": 3.0}, "n_steps must be an int"),
        ({"sigma_min": 90.0}, "sigma_min <= sigma_max"),
        ({"sigma_min": 0.0}, "0 < sigma_min"),
        ({"sigma_min": -1.0}, "0 < sigma_min"),
        ({"sigma_max": np.inf}, "< inf"),
        ({"sigma_max": np.nan}, "sigma_max=nan"),
        ({"random_state": -1}, "non-negative int"),
        ({"random_state": "lucky"}, "got 'lucky'"),
        ({"random_state": 1.5}, "got 1.5"),
    ],
)
def test_bad_sampling_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=says(message)):
        model.sample(**arguments)


def test_n_that_contradicts_initial(X):
    model = EmpiricalDenoiser().fit(X)
    with pytest.raises(ValueError, match="n is 4, but initial holds 7 images; omit n"):
        model.sample(4, initial=X)


def test_bad_random_state_parameter(X):
    with pytest.raises(ValueError, match="'random_state' parameter"):
        EmpiricalDenoiser(random_state=-3).fit(X)


# ------------------------------------------------------------------- weights, partial fit


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1, 1, 1, -1, 1, 1, 1], "[Nn]egative"),
        ([1, 1, 1, np.nan, 1, 1, 1], "NaN"),
        ([1, 1, 1, np.inf, 1, 1, 1], "infinity"),
        (np.zeros(7), "zero"),
        (np.ones(6), r"sample_weight.shape == \(6,\), expected \(7,\)"),
        (np.ones((7, 1)), "1D"),
    ],
)
def test_bad_weights(model, X, weight, message):
    with pytest.raises(ValueError, match=message):
        sklearn.base.clone(model).fit(X, sample_weight=weight)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, sample_weight=weight)


def test_partial_fit_with_another_dtype(model, X):
    for other in (X.astype(np.float32), (127 * X + 128).astype(np.uint8)):
        with pytest.raises(ValueError, match=says("X has dtype", "float64", "convert X first")):
            model.partial_fit(other)


# ------------------------------------------------------------------------------- memory


def test_little_working_memory_gives_the_same_numbers(photos):
    x = photos[:200]
    for model in (EmpiricalDenoiser(), PatchDenoiser(5, location="all"), PSPCDenoiser(5)):
        Z = photos[200:209] / 127.5 - 1
        expected = model.fit(x).posterior(Z, 0.5)
        with sklearn.config_context(working_memory=0.05):
            small = model.fit(x).posterior(Z, 0.5)
        np.testing.assert_allclose(small.mean, expected.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(small.log_evidence, expected.log_evidence, rtol=1e-12)
        np.testing.assert_allclose(
            small.effective_sample_size, expected.effective_sample_size, rtol=1e-10
        )


@pytest.mark.parametrize(
    "model", [EmpiricalDenoiser(), PSPCDenoiser(5, engine="torch")], ids=["dense", "box"]
)
def test_too_little_working_memory_says_how_much_is_needed(photos, model):
    model.fit(photos[:200])
    Z = photos[200:201]
    with (
        sklearn.config_context(working_memory=0.001),
        pytest.raises(
            MemoryError, match=r"MiB of working memory and 0.001 MiB are allowed"
        ) as caught,
    ):
        model.denoise(Z, 0.5)
    enough = re.search(r"working_memory=(\d+)\)", str(caught.value))
    with sklearn.config_context(working_memory=int(enough[1])):
        model.denoise(Z, 0.5)


def test_images_with_the_channels_last():
    X = np.zeros((5, 8, 8, 3))
    with pytest.raises(ValueError, match=says("looks like (n, height, width, channels)")):
        PSPCDenoiser(2).fit(X)
    assert PSPCDenoiser(2, image_shape=(8, 8, 3)).fit(X).image_shape_ == (8, 8, 3)


def test_lists_of_images(X):
    expected = EmpiricalDenoiser().fit(X).denoise(X[:2], 0.5)
    for images in (X.tolist(), list(X)):
        got = EmpiricalDenoiser().fit(images).denoise(X[:2], 0.5)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    tensors = [torch.from_numpy(image) for image in X]
    assert isinstance(EmpiricalDenoiser().fit(tensors).sample(n_steps=2), torch.Tensor)


@pytest.mark.parametrize("device", ["toaster", "meta"])
def test_no_such_device(X, device):
    with pytest.raises(ValueError, match=says("is not available to torch here", "device=None")):
        EmpiricalDenoiser(device=device).fit(X)


def test_samplers_that_do_not_fit(X):
    model = EmpiricalDenoiser().fit(X)

    def short(denoise, z, sigmas):
        yield z

    def endless(denoise, z, sigmas):
        while True:
            yield z

    with pytest.raises(ValueError, match=says("each of the 3 steps, but yielded 1")):
        model.sample(n_steps=3, sampler=short)
    with pytest.raises(ValueError, match=says("each of the 3 steps, but yielded more")):
        model.sample(n_steps=3, sampler=endless, callback=print)
    with pytest.raises(ValueError, match=says("sampler must be one of")):
        model.sample(n_steps=3, sampler=["euler"])
    with pytest.raises(ValueError, match=says("callback must be a callable")):
        model.sample(n_steps=3, callback=3)


def test_sigma_none(X):
    with pytest.raises(ValueError, match=says("sigma must be", "got None")):
        EmpiricalDenoiser().fit(X).denoise(X, None)


def test_a_pickled_patch_denoiser_holds_the_training_set_once(digits):
    small, large = (
        len(pickle.dumps(PatchDenoiser(4, location=where).fit(digits)))
        for where in ("center", "all")
    )
    assert large < small + 2000


def test_score_in_blocks_of_images(X):
    model = EmpiricalDenoiser().fit(X)
    whole = model.score(X)
    with sklearn.config_context(working_memory=0.02):
        assert model.score(X) == pytest.approx(whole, rel=1e-12)
