"""AutoDenoiser: sizes, mirror images and weights chosen on held-out training images."""

import numpy as np
import pytest
import torch
from sklearn import config_context

from skpspc import AutoDenoiser, GaussianDenoiser, PSPCDenoiser
from skpspc.datasets import load_photo_patches
from skpspc.denoisers.auto_choice import _best_members, _continued
from skpspc.posterior import blur
from skpspc.support import TrainingSet
from skpspc.support.holdout import hold_out

QUICK = dict(n_images=16, n_fitted=256)


@pytest.fixture(scope="module")
def mixed(digits):
    """Digits in random order: the last digits of the file are of other writers."""
    return digits[np.random.default_rng(0).permutation(len(digits))]


@pytest.fixture(scope="module")
def train(mixed):
    return mixed[:1500]


@pytest.fixture(scope="module")
def fitted(train):
    return AutoDenoiser().fit(train)


@pytest.fixture(scope="module")
def small_photos():
    """Photographs of 8 x 8 pixels, for which blurred and mirrored images are chosen."""
    X = load_photo_patches(size=16, n_images=600).images
    return X.reshape(-1, 3, 8, 2, 8, 2).mean((3, 5)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def blurred(small_photos):
    model = AutoDenoiser(**QUICK).fit(small_photos[:500])
    assert model.bandwidths_.any() and model.flip_
    return model


def patches(size, bandwidth):
    """Return the member of AutoDenoiser with a patch size and a bandwidth."""
    return PSPCDenoiser(
        int(size), bandwidth=float(bandwidth), smoothing="stationary", response_taper=0.5
    )


def error(model, clean, sigma):
    noise = np.random.default_rng(7).standard_normal(clean.shape).astype(np.float32)
    return float(np.mean((model.denoise(clean + sigma * noise, sigma) - clean) ** 2))


def test_no_single_denoiser_is_better(mixed, train, fitted):
    """On images that no choice saw, against the best of what the blend consists of."""
    clean = mixed[1500:1600] / np.float32(127.5) - 1
    singles = [GaussianDenoiser()]
    singles += [patches(size, bandwidth) for size in range(1, 9) for bandwidth in (0.0, 0.5)]
    singles = [model.fit(train) for model in singles]
    ratios = []
    for sigma in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2):
        least = min(error(model, clean, sigma) for model in singles)
        ratios.append(error(fitted, clean, sigma) / least)
    assert max(ratios) < 1.01
    assert np.exp(np.mean(np.log(ratios))) < 0.97


def check_blend(model, X, z, level):
    """At a level the answer has its weights, between two levels the mean of both."""
    sigma = float(np.exp(np.interp(level, range(9), np.log(model.sigmas_))))
    both = np.concatenate([X, X[..., ::-1]]) if model.flip_ else X
    settings = zip(model.patch_sizes_, model.bandwidths_, strict=True)
    answers = [GaussianDenoiser().fit(X).denoise(z, sigma)]
    answers += [patches(*setting).fit(both).denoise(z, sigma) for setting in settings]
    weights = model.weights_[[int(np.floor(level)), int(np.ceil(level))]].mean(0)
    expected = np.tensordot(weights, answers, 1)
    np.testing.assert_allclose(model.denoise(z, sigma), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("level", [2, 3.5])
def test_the_answer_is_the_blend(digits, train, fitted, level):
    check_blend(fitted, train, digits[1500:1503] / 127.5 - 1 + 0.1, level)


@pytest.mark.parametrize("level", [1, 2.5])
def test_the_answer_with_blurred_patches_is_the_blend(small_photos, blurred, level):
    rows = blurred.weights_[[int(np.floor(level)), int(np.ceil(level))], 1:]
    assert rows[:, blurred.bandwidths_ > 0].any()
    check_blend(blurred, small_photos[:500], small_photos[500:503] / 127.5 - 1 + 0.1, level)


def test_one_filtered_copy_serves_patches_of_all_sizes(small_photos, blurred, monkeypatch):
    """Between two noise levels that have different blurred sizes."""
    counts, z = [], torch.zeros(2, 3, 8, 8)
    uses = blurred.weights_[:, 1:][:, blurred.bandwidths_ > 0] > 0
    level = int(np.argmax((uses[:-1] | uses[1:]).sum(1)))
    assert (uses[level] | uses[level + 1]).sum() >= 2
    sigma = float(np.sqrt(blurred.sigmas_[level] * blurred.sigmas_[level + 1]))

    def spy(source, *args, filtered=blur._filtered, **options):
        counts.append(len(source))
        return filtered(source, *args, **options)

    monkeypatch.setattr(blur, "_filtered", spy)
    blurred.denoise(z, sigma)
    assert counts == [1000, 500]  # a set with mirror images, without them
    blurred.denoise(z, sigma)  # nothing is kept after a call
    assert counts == [1000, 500] * 2


def test_blurred_patches_with_little_memory(small_photos, blurred):
    z = small_photos[500:502] / np.float32(127.5) - 1
    expected = blurred.denoise(z, 0.2)
    with (
        config_context(working_memory=0.2),  # 500 images have 0.37 MiB
        pytest.warns(UserWarning, match="the filtered training images .* need 0.366 MiB"),
    ):
        np.testing.assert_allclose(blurred.denoise(z, 0.2), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["fitted", "blurred"])
def test_attributes(request, model):
    fitted = request.getfixturevalue(model)
    n_sizes = len(fitted.patch_sizes_)
    assert fitted.sigmas_.shape == (9,) and (np.diff(fitted.sigmas_) > 0).all()
    assert fitted.weights_.shape == (9, n_sizes + 1)
    np.testing.assert_allclose(fitted.weights_.sum(1), 1)
    assert (fitted.weights_ >= 0).all() and fitted.weights_.any(0)[1:].all()
    settings = [*zip(fitted.patch_sizes_, fitted.bandwidths_, strict=True)]
    assert settings == sorted(set(settings))
    assert set(fitted.bandwidths_) <= {0.0, 0.5}
    assert isinstance(fitted.flip_, bool)


def test_the_choice_has_the_least_error_of_all_blends():
    """Against a search over a grid of weights and all pairs of members."""
    rng = np.random.default_rng(0)
    errors = rng.standard_normal((5, 40)) * np.array([3, 1, 2, 1.5, 1.2])[:, None] + 0.3
    product = errors @ errors.T
    members, weights = _best_members(product, 2)
    least = np.inf
    for i in range(1, 5):
        for j in range(i + 1, 5):
            part = product[np.ix_((0, i, j), (0, i, j))]
            for a in np.linspace(0, 1, 101):
                for b in np.linspace(0, 1 - a, 101):
                    w = np.array([1 - a - b, a, b])
                    if w @ part @ w < least:
                        least, best = w @ part @ w, (i, j)
    assert members == best
    chosen = np.ix_((0, *members), (0, *members))
    assert weights @ product[chosen] @ weights <= least + 1e-9


def test_errors_continue_as_powers_of_the_number_of_images():
    correlation = np.array([[1, 0.5], [0.5, 1]])
    powers = np.array([0.0, 0.3])

    def product(n):
        scale = n ** (-powers / 2)
        return correlation * np.outer(scale, scale)

    found = _continued(product(100), product(400), 3.0)
    np.testing.assert_allclose(found, product(400 * 4**3))


def test_errors_that_grow_are_kept():
    """More images seldom raise the error; where chance does, nothing is concluded from it."""
    more = np.array([[1.0, 0.2], [0.2, 1.1]])
    np.testing.assert_array_equal(_continued(np.eye(2), more, 2.0), more)


def test_mirror_images_are_used_where_they_help():
    rng = np.random.default_rng(0)
    ramps = np.linspace(-1, 1, 6) * np.where(rng.random((400, 1, 6, 1)) < 0.5, -1, 1)
    either = rng.uniform(0.5, 1.5, (400, 1, 6, 1)) * ramps
    slanted = np.abs(either) * np.sign(np.linspace(-1, 1, 6)) + 0.3 * np.arange(6)
    assert not AutoDenoiser(**QUICK).fit(slanted).flip_
    assert AutoDenoiser(**QUICK).fit(either).flip_


@pytest.mark.parametrize("X", [np.full((1, 1, 2, 3), 0.5), np.ones((9, 1, 2, 3))])
def test_equal_images(X):
    """Without two different images, the result is that image."""
    model = AutoDenoiser().fit(X)
    np.testing.assert_allclose(model.denoise(X[:1] + 0.3, 0.5), X[:1])
    assert model.patch_sizes_.shape == model.bandwidths_.shape == (0,)


def test_two_images():
    X = np.array([[0.0, 1.0], [1.0, 0.0]])
    answer = AutoDenoiser().fit(X).denoise(X, 0.1)
    assert np.isfinite(answer).all()


def test_order_and_copies_do_not_matter(digits):
    X = digits[:300]
    z = digits[300:302] / 127.5 - 1
    expected = AutoDenoiser(**QUICK).fit(X)
    for other in (X[::-1].copy(), np.concatenate([X, X])):
        model = AutoDenoiser(**QUICK).fit(other)
        np.testing.assert_array_equal(model.patch_sizes_, expected.patch_sizes_)
        np.testing.assert_allclose(model.weights_, expected.weights_, atol=1e-6)
        np.testing.assert_allclose(model.denoise(z, 0.5), expected.denoise(z, 0.5), atol=1e-6)


def test_seeds(digits):
    first, again, other = (
        AutoDenoiser(**QUICK, random_state=seed).fit(digits[:300]).weights_ for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("n_sizes", [1, 12])
def test_number_of_sizes(digits, n_sizes):
    """More sizes than the image has are all sizes."""
    model = AutoDenoiser(n_sizes, **QUICK).fit(digits[:300])
    assert (model.weights_[:, 1:] > 0).sum(1).max() <= n_sizes
    assert model.patch_sizes_.max() <= 8


def test_mirror_images_of_held_out_images_are_not_fitted(mixed):
    """A training set with its mirror images is judged as without them."""
    X = mixed[:200]
    symmetric = np.concatenate([X, X[..., ::-1]])
    kept, held = hold_out(TrainingSet(torch.from_numpy(symmetric)), 20, np.random.default_rng(0))
    mirrors = {image.tobytes() for image in held.images.flip(-1).numpy()}
    assert len(kept) == 360
    assert not mirrors & {image.tobytes() for image in kept.images.numpy()}
    clean = mixed[1500:] / np.float32(127.5) - 1
    alone, both = (AutoDenoiser().fit(images) for images in (X, symmetric))
    for sigma in (0.1, 0.3):
        assert error(both, clean, sigma) < 1.05 * error(alone, clean, sigma)


def test_on_two_devices(small_photos, blurred):
    X, z = torch.from_numpy(small_photos[:500]), torch.zeros(2, 3, 8, 8)
    two = AutoDenoiser(**QUICK, device=["cpu", "cpu"]).fit(X)
    np.testing.assert_array_equal(blurred.patch_sizes_, two.patch_sizes_)
    np.testing.assert_array_equal(blurred.bandwidths_, two.bandwidths_)
    expected = blurred.denoise(z, 0.2)
    torch.testing.assert_close(two.denoise(z, 0.2), expected, rtol=0, atol=1e-6)


def test_shards_that_cannot_be_filtered(small_photos):
    """A shard is not filtered in parts: blurred members are left out, with a warning."""
    model = AutoDenoiser(**QUICK, device=["cpu", "cpu"])
    with config_context(working_memory=0.1):  # 250 images have 0.18 MiB
        with pytest.warns(UserWarning, match=r"leaves out blurred .* 0.183 MiB, .*working_memory"):
            model.fit(torch.from_numpy(small_photos[:500]))
        assert len(model.patch_sizes_) and not model.bandwidths_.any()
        assert model.denoise(torch.zeros(2, 3, 8, 8), 0.2).isfinite().all()
