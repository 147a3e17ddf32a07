"""AutoDenoiser: sizes, mirror images and weights chosen on held-out training images."""

import numpy as np
import pytest
import torch

from skpspc import AutoDenoiser, GaussianDenoiser, PSPCDenoiser
from skpspc.denoisers.auto_choice import _best_members, _continued
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


def error(model, clean, sigma):
    noise = np.random.default_rng(7).standard_normal(clean.shape).astype(np.float32)
    return float(np.mean((model.denoise(clean + sigma * noise, sigma) - clean) ** 2))


def test_no_single_denoiser_is_better(mixed, train, fitted):
    """On images that no choice saw, against the best of what the blend consists of."""
    clean = mixed[1500:] / np.float32(127.5) - 1
    sizes = range(1, 9)
    singles = [GaussianDenoiser(), *(PSPCDenoiser(s, response_taper=0.5) for s in sizes)]
    singles = [model.fit(train) for model in singles]
    ratios = []
    for sigma in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2):
        least = min(error(model, clean, sigma) for model in singles)
        ratios.append(error(fitted, clean, sigma) / least)
    assert max(ratios) < 1.01
    assert np.exp(np.mean(np.log(ratios))) < 0.97


@pytest.mark.parametrize("level", [2, 3.5])
def test_the_answer_is_the_blend(digits, train, fitted, level):
    """At a level with its weights, between two levels with the mean of both."""
    z = digits[1500:1503] / 127.5 - 1 + 0.1
    sigma = float(np.exp(np.interp(level, range(9), np.log(fitted.sigmas_))))
    sizes = fitted.patch_sizes_.tolist()
    sources = [GaussianDenoiser(), *(PSPCDenoiser(size, response_taper=0.5) for size in sizes)]
    if fitted.flip_:
        train = np.concatenate([train, train[..., ::-1]])
    answers = [model.fit(train).denoise(z, sigma) for model in sources]
    weights = fitted.weights_[[int(np.floor(level)), int(np.ceil(level))]].mean(0)
    expected = np.tensordot(weights, answers, 1)
    np.testing.assert_allclose(fitted.denoise(z, sigma), expected, rtol=0, atol=1e-10)


def test_attributes(fitted):
    n_sizes = len(fitted.patch_sizes_)
    assert fitted.sigmas_.shape == (9,) and (np.diff(fitted.sigmas_) > 0).all()
    assert fitted.weights_.shape == (9, n_sizes + 1)
    np.testing.assert_allclose(fitted.weights_.sum(1), 1)
    assert (fitted.weights_ >= 0).all() and fitted.weights_.any(0)[1:].all()
    assert (np.diff(fitted.patch_sizes_) > 0).all()
    assert isinstance(fitted.flip_, bool)


def test_the_choice_has_the_least_error_of_all_blends():
    """Against a search over a grid of weights and all pairs of members."""
    rng = np.random.default_rng(0)
    errors = rng.standard_normal((5, 40)) * np.array([3, 1, 2, 1.5, 1.2])[:, None] + 0.3
    product = errors @ errors.T
    members, weights, error = _best_members(product, 2)
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
    np.testing.assert_allclose(weights @ product[chosen] @ weights, error)
    assert error <= least + 1e-9


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
    assert model.patch_sizes_.shape == (0,)


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


def test_on_two_devices(digits):
    X, z = digits[:200], torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    one = AutoDenoiser(**QUICK).fit(torch.from_numpy(X))
    two = AutoDenoiser(**QUICK, device=["cpu", "cpu"]).fit(torch.from_numpy(X))
    np.testing.assert_array_equal(one.patch_sizes_, two.patch_sizes_)
    torch.testing.assert_close(one.denoise(z, 0.5), two.denoise(z, 0.5))
