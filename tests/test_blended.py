"""Blends against weights found by trying them all, and the manners of a composition."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

import generators
from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from skpspc.denoisers.blend import simplex_weights
from skpspc.sampling import draw_noise, noise_seed
from skpspc.support import TrainingSet
from skpspc.support.holdout import hold_out

SHAPE = (1, 6, 6)
MEMBERS = [("gaussian", GaussianDenoiser()), ("pspc", PSPCDenoiser(3)), ("nn", EmpiricalDenoiser())]


@pytest.fixture
def X(photos):
    return photos[:80, :1, :6, :6] / 127.5 - 1


def network(x, c):
    return x / (1 + torch.as_tensor(c).reshape(-1, 1, 1, 1) ** 2)


def split(model, X, sample_weight=None):
    """Kept and held-out images as a fit of the model takes them, and the held-out noise."""
    weight = None if sample_weight is None else torch.from_numpy(np.asarray(sample_weight, float))
    rng = np.random.default_rng([model.random_state, 2])
    kept, held = hold_out(TrainingSet(torch.from_numpy(X), weight), model.n_images, rng)
    shape = (len(model.sigmas_), *X.shape[1:])
    return kept, held, draw_noise(shape, len(held), noise_seed(rng)).numpy()


def simplex(n, steps):
    """All weights with ``steps`` equal parts."""
    for cuts in itertools.product(range(steps + 1), repeat=n - 1):
        if sum(cuts) <= steps:
            yield np.array([*cuts, steps - sum(cuts)]) / steps


# ------------------------------------------------------------------------------ the weights


@pytest.mark.parametrize("against", ["clean", "network", "denoiser"])
def test_weights_and_errors_against_trying_all(X, against, device):
    """On one half no other weights are better; on the other the errors are those of anyone."""
    references = {
        "clean": "clean",
        "network": NetworkDenoiser(network),
        "denoiser": PSPCDenoiser(2).fit(X[::2]),
    }
    reference = references[against]
    model = BlendedDenoiser(
        MEMBERS, reference, sigmas=[1.5, 0.2, 0.6], n_images=21, random_state=3, device=device
    ).fit(X)
    np.testing.assert_array_equal(model.sigmas_, [0.2, 0.6, 1.5])
    kept, held, noise = split(model, X)
    members = [clone(member).fit(kept.images.numpy()) for _, member in MEMBERS]
    clean = held.images.numpy()
    if against == "network":
        reference = NetworkDenoiser(network, image_shape=SHAPE)
    for j, sigma in enumerate(model.sigmas_):
        z = clean + sigma * noise[:, j]
        target = clean if against == "clean" else reference.denoise(z, sigma)
        answers = np.stack([member.denoise(z, sigma) for member in members])

        def error(weights, half, answers=answers, target=target):
            blend = np.einsum("m,micyx->icyx", weights, answers)
            return ((blend - target)[half] ** 2).mean()

        fitting, reporting = slice(None, 11), slice(11, None)
        best = error(model.weights_[j], fitting)
        assert best <= min(error(w, fitting) for w in simplex(3, 40)) + 1e-12
        errors = [error(w, reporting) for w in [*np.eye(3), model.weights_[j]]]
        np.testing.assert_allclose(model.errors_[j], errors, rtol=1e-9)
    np.testing.assert_allclose(model.weights_.sum(1), 1)
    assert (model.weights_ >= 0).all()


@given(generators.seeds, st.integers(1, 8), st.integers(1, 12), st.sampled_from([1e-9, 1, 1e6]))
def test_quadratic_programme(seed, n, n_values, scale):
    """Against the best of all supports, each solved by its own linear equations."""
    rng = np.random.default_rng(seed)
    errors = rng.standard_normal((n, n_values)) + rng.standard_normal(n_values)
    product = errors @ errors.T / n_values
    product *= scale
    weights = simplex_weights(product)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    best = product.diagonal().min()
    for size in range(2, n + 1):
        for support in itertools.combinations(range(n), size):
            some = product[np.ix_(support, support)]
            system = np.block([[some / scale, np.ones((size, 1))], [np.ones(size), np.zeros(1)]])
            w = np.linalg.lstsq(system, np.eye(size + 1)[-1], rcond=None)[0][:size]
            if (w >= 0).all() and abs(w.sum() - 1) < 1e-9:
                best = min(best, w @ some @ w)
    assert weights @ product @ weights <= best + 1e-12 * scale


def test_known_weights():
    np.testing.assert_allclose(simplex_weights(np.diag([1.0, 3.0])), [0.75, 0.25])
    np.testing.assert_allclose(simplex_weights(np.diag([0.0, 3.0])), [1, 0], atol=1e-12)
    # the second errs as the first does, only more
    np.testing.assert_allclose(simplex_weights(np.array([[1.0, 2.0], [2.0, 4.0]])), [1, 0])
    # opposite errors cancel
    np.testing.assert_allclose(
        simplex_weights(np.array([[1.0, -2.0], [-2.0, 4.0]])), [2 / 3, 1 / 3]
    )
    for product in (np.zeros((2, 2)), np.ones((3, 3)), np.ones((1, 1))):
        weights = simplex_weights(product)
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()


def test_a_member_that_is_the_reference_gets_all(X):
    reference = GaussianDenoiser().fit(X)
    members = [("pspc", PSPCDenoiser(3)), ("same", FrozenEstimator(reference))]
    model = BlendedDenoiser(members, reference, n_images=10).fit(X)
    np.testing.assert_allclose(model.weights_, [[0, 1]] * 8, atol=1e-6)
    np.testing.assert_allclose(model.errors_[:, 1:], 0, atol=1e-12)


def test_one_member_is_itself(X):
    model = BlendedDenoiser([("one", PSPCDenoiser(3))], n_images=10).fit(X)
    expected = PSPCDenoiser(3).fit(X).posterior(X[:3] + 0.1, 0.4)
    got = model.posterior(X[:3] + 0.1, 0.4)
    np.testing.assert_array_equal(got.mean, expected.mean)
    np.testing.assert_array_equal(got.log_evidence, expected.log_evidence)
    np.testing.assert_array_equal(model.weights_, 1)


# ------------------------------------------------------------------------------- the blend


def test_between_noise_levels(X, rng):
    """Weights are linear in log sigma, and constant beyond the ends."""
    model = BlendedDenoiser(MEMBERS, sigmas=[0.1, 0.4, 3.2], n_images=20).fit(X)
    w = model.weights_
    assert np.ptp(w, axis=0).max() > 0.05
    sigmas = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 3.2, 50.0, np.inf])
    expected = [w[0], w[0], w[0], (w[0] + w[1]) / 2, w[1], (2 * w[1] + w[2]) / 3, w[2], w[2], w[2]]
    Z = X[:9] + rng.standard_normal((9, *SHAPE))
    answers = [clone(member).fit(X).denoise(Z, sigmas) for _, member in MEMBERS]
    mean = sum(np.array(expected).T[m].reshape(9, 1, 1, 1) * answers[m] for m in range(3))
    np.testing.assert_allclose(model.denoise(Z, sigmas), mean, atol=1e-12)


def test_posterior_is_the_weighted_mean_of_the_members(X, rng):
    inexact = EmpiricalDenoiser(n_neighbors=5, n_remainder=10)
    members = [("a", inexact), ("b", PSPCDenoiser(2)), ("c", EmpiricalDenoiser(n_neighbors=9))]
    model = BlendedDenoiser(members, n_images=20).fit(X)
    model.weights_[:] = [0.5, 0.3, 0.2]
    Z = X[:4] + 0.5 * rng.standard_normal((4, *SHAPE))
    posterior = model.posterior(Z, 0.5)
    parts = [member.posterior(Z, 0.5) for member in model.denoisers_]
    assert (posterior.error_bound > 0).all()
    for name in vars(posterior).keys() - {"data_range"}:
        expected = sum(
            w * getattr(part, name) for w, part in zip([0.5, 0.3, 0.2], parts, strict=True)
        )
        np.testing.assert_allclose(getattr(posterior, name), expected, rtol=1e-12)
    # the bound holds for the blend of exact members
    exact = [EmpiricalDenoiser().fit(X), PSPCDenoiser(2).fit(X), EmpiricalDenoiser().fit(X)]
    mean = sum(w * one.denoise(Z, 0.5) for w, one in zip([0.5, 0.3, 0.2], exact, strict=True))
    assert (np.abs(model.denoise(Z, 0.5) - mean).max((1, 2, 3)) <= posterior.error_bound).all()


def test_members_are_fitted_again_on_all_images(X):
    model = BlendedDenoiser(MEMBERS, n_images=30).fit(X)
    assert [len(member.training_set_) for member in model.denoisers_[1:]] == [80, 80]
    assert not hasattr(MEMBERS[0][1], "image_shape_")


def test_unknown_evidence_of_a_network_without_weight_does_not_spread(X):
    members = [("net", NetworkDenoiser(network)), ("nn", EmpiricalDenoiser())]
    model = BlendedDenoiser(members, n_images=10).fit(X)
    model.weights_[:] = [0, 1]
    assert np.isfinite(model.score_samples(X[:2], 0.5)).all()
    model.weights_[:] = 0.5
    assert np.isnan(model.score_samples(X[:2], 0.5)).all()


# ------------------------------------------------------------------------------ held out


@given(generators.seeds, st.integers(2, 12), st.booleans())
def test_hold_out(seed, n_images, weighted):
    rng = np.random.default_rng(seed)
    distinct = rng.integers(0, 256, (15, 1, 3, 4), dtype=np.uint8)
    which = np.concatenate([np.arange(15), rng.integers(0, 15, 10)])
    X = distinct[which]
    weight = rng.random(25) + 0.1 if weighted else None
    given_weight = None if weight is None else torch.from_numpy(weight)

    def split(images, weight=None, seed=0):
        training_set = TrainingSet(torch.from_numpy(images), weight)
        return hold_out(training_set, n_images, np.random.default_rng(seed))

    def number(images):
        return [int(np.flatnonzero((distinct == image).all((1, 2, 3)))[0]) for image in images]

    kept, held = split(X, given_weight)
    aside, rest = number(held.images.numpy()), number(kept.images.numpy())
    assert len(set(aside)) == n_images == len(aside)
    assert rest == [i for i in which if i not in aside]
    count = np.bincount(which, weights=weight, minlength=15)
    np.testing.assert_allclose(held.sample_weight, count[aside])
    # neither the order nor the dtype nor how often it is said decides
    _, again = split(X[rng.permutation(25)] / 127.5 - 1)
    np.testing.assert_allclose(again.images, distinct[aside] / 127.5 - 1)
    _, once = split(distinct)
    assert number(once.images.numpy()) == aside
    others = [number(split(distinct, seed=i)[1].images.numpy()) for i in range(1, 9)]
    assert any(other != aside for other in others)


def test_copies_are_weights(X):
    """An image twice is the image with weight two: members, weights and errors alike."""
    count = np.random.default_rng(0).integers(0, 4, len(X))
    model = BlendedDenoiser(MEMBERS, n_images=20)
    weighted = clone(model).fit(X, sample_weight=count)
    repeated = clone(model).fit(np.repeat(X, count, axis=0)[::-1].copy())
    np.testing.assert_allclose(repeated.weights_, weighted.weights_, atol=1e-9)
    np.testing.assert_allclose(repeated.errors_, weighted.errors_, rtol=1e-9)
    kept, held, noise = split(weighted, X, count)
    member = PSPCDenoiser(3).fit(kept.images.numpy(), sample_weight=kept.sample_weight.numpy())
    z = held.images.numpy() + 0.4 * noise[:, 3]
    errors = ((member.denoise(z, 0.4) - held.images.numpy()) ** 2).mean((1, 2, 3))[10:]
    expected = np.average(errors, weights=held.sample_weight.numpy()[10:])
    assert weighted.sigmas_[3] == 0.4
    assert weighted.errors_[3, 1] == pytest.approx(expected)


def test_random_state(X):
    fits = [BlendedDenoiser(MEMBERS, n_images=10, random_state=s).fit(X) for s in (1, 1, 2, None)]
    np.testing.assert_array_equal(fits[0].weights_, fits[1].weights_)
    for other in fits[2:]:
        assert np.abs(other.weights_ - fits[0].weights_).max() > 1e-6


# --------------------------------------------------------------------------------- manners


def test_manners_of_a_composition(X, digits):
    model = BlendedDenoiser([("pspc", PSPCDenoiser(3)), ("wiener", GaussianDenoiser())])
    assert model.get_params()["pspc__patch_size"] == 3
    assert model.set_params(pspc__patch_size=2).denoisers[0][1].patch_size == 2
    model.set_params(wiener=EmpiricalDenoiser(), n_images=10)
    assert isinstance(model.denoisers[1][1], EmpiricalDenoiser)
    nested = BlendedDenoiser([("blend", model), ("smooth", SmoothedDenoiser(model))], n_images=10)
    assert nested.fit(X).denoise(X[:2], 0.5).shape == (2, *SHAPE)
    smooth = SmoothedDenoiser(model, n_draws=2)
    smooth.set_params(denoiser__pspc__patch_size=4).fit(X)
    assert smooth.denoiser_.denoisers_[0].patch_size == 4
    search = GridSearchCV(
        BlendedDenoiser([("a", GaussianDenoiser()), ("b", PSPCDenoiser(8))], n_images=20),
        {"a__rank": [1, 30], "b__patch_size": [3, 8]},
        cv=2,
    ).fit(digits[:120])
    assert search.best_params_ == {"a__rank": 30, "b__patch_size": 3}


def test_partial_fit_calibrates_again(X):
    whole = BlendedDenoiser(MEMBERS, n_images=20).fit(X)
    parts = BlendedDenoiser(MEMBERS, n_images=20).partial_fit(X[:40]).partial_fit(X[40:])
    np.testing.assert_array_equal(parts.weights_, whole.weights_)
    np.testing.assert_array_equal(parts.errors_, whole.errors_)


def test_references_fitted_and_not(X):
    """A fitted one is used, an unfitted one is fitted on what the members see."""
    options = {"n_images": 20, "sigmas": [0.5]}
    model = BlendedDenoiser(MEMBERS, PSPCDenoiser(2).fit(X[:20]), **options).fit(X)
    kept, _, _ = split(model, X)
    unfitted = BlendedDenoiser(MEMBERS, PSPCDenoiser(2), **options).fit(X)
    same = BlendedDenoiser(MEMBERS, PSPCDenoiser(2).fit(kept.images.numpy()), **options).fit(X)
    np.testing.assert_array_equal(unfitted.errors_, same.errors_)
    assert np.abs(model.errors_ - same.errors_).max() > 1e-6
    frozen = FrozenEstimator(PSPCDenoiser(2).fit(X[:20]))
    kept_fitted = clone(BlendedDenoiser(MEMBERS, frozen, **options)).fit(X)
    np.testing.assert_array_equal(kept_fitted.errors_, model.errors_)


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"denoisers": []}, "at least one .name, denoiser. pair"),
        ({"denoisers": PSPCDenoiser()}, "'denoisers' parameter"),
        (
            {"denoisers": [PSPCDenoiser()]},
            "a list of .name, denoiser. pairs, but contains PSPCDenoiser",
        ),
        ({"denoisers": [("a", PSPCDenoiser())] * 2}, "Names provided are not unique"),
        ({"denoisers": [("a__b", PSPCDenoiser())]}, "must not contain __"),
        ({"denoisers": [("sigma", PSPCDenoiser())]}, "conflict with constructor arguments"),
        ({"denoisers": [("a", network)]}, "'a' must be a denoiser.*NetworkDenoiser"),
        ({"denoisers": [("a", PSPCDenoiser)]}, "'a' must be a denoiser, not a class"),
        ({"denoisers": [("a", PatchDenoiser(2))]}, r"'a' returns shape \(1, 2, 2\) for an image"),
        (
            {"denoisers": [("a", PatchDenoiser(2, location="all"))]},
            r"shape \(25, 1, 2, 2\)",
        ),
        ({"denoisers": [("a", PSPCDenoiser(0))]}, "'patch_size' parameter of PSPCDenoiser"),
        ({"against": "noise"}, "'against' parameter"),
        ({"against": network}, "'against' parameter"),
        (
            {"against": PatchDenoiser(2)},
            r"shape \(\d+, 1, 6, 6\) .* got \(\d+, 1, 2, 2\)",
        ),
        (
            {"against": NetworkDenoiser(lambda x, c: x / 0)},
            "returned NaN or infinity at sigma",
        ),
        ({"sigmas": [0.0, 1.0]}, r"sigmas must be one or more positive, finite numbers, got \[0.0"),
        ({"sigmas": [np.inf]}, "sigmas must be one or more positive, finite"),
        ({"sigmas": []}, "sigmas must be one or more positive, finite numbers"),
        ({"sigmas": ["low"]}, "sigmas must be one or more positive, finite"),
        ({"n_images": 1}, "'n_images' parameter"),
        ({"n_images": 80}, "n_samples=80 distinct training images are too few .* n_images=80"),
        ({"n_images": 500}, "fit with more images, or lower n_images"),
    ],
)
def test_bad_parameters(X, parameters, sentence):
    model = BlendedDenoiser(MEMBERS, n_images=20)
    if "denoisers" in parameters:
        model.denoisers = parameters.pop("denoisers")
    model.__dict__.update(parameters)
    with pytest.raises(ValueError, match=sentence):
        model.fit(X)


def test_a_reference_that_answers_with_nan(X):
    class Broken:
        def denoise(self, Z, sigma):
            return Z * torch.nan

    model = BlendedDenoiser(MEMBERS, Broken(), n_images=10)
    with pytest.raises(ValueError, match=r"against returned NaN or infinity at sigma = 0\.05"):
        model.fit(X)
    other = GaussianDenoiser().fit(X[:, :, :3, :3])
    with pytest.raises(ValueError, match=r"fitted on images of shape \(1, 3, 3\)"):
        BlendedDenoiser(MEMBERS, other, n_images=10).fit(X)


def test_a_class_that_is_too_small(X):
    """The error names it, its size and what to do; other classes are served."""
    y = np.repeat(["many", "few"], [70, 10])
    model = BlendedDenoiser(MEMBERS, n_images=20).fit(X, y)
    assert np.isfinite(model.denoise(X[:2], 0.5, "many")).all()
    sentence = (
        "class 'few', of 10 images: n_samples=10 distinct training images are too few to hold out "
        "n_images=20 and to fit on the rest; fit with more images, or lower n_images."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        model.denoise(X[:2], 0.5, "few")


@pytest.mark.parametrize("nested", ["twice", "frozen"])
def test_smoothed_members(nested, X):
    inner = SmoothedDenoiser(EmpiricalDenoiser(), tau=0.0, n_draws=1)
    if nested == "frozen":
        inner = FrozenEstimator(EmpiricalDenoiser().fit(X))
    members = [("a", SmoothedDenoiser(inner, tau=0.0, n_draws=1))]
    model = BlendedDenoiser(members, sigmas=[0.5], n_images=8).fit(X)
    np.testing.assert_allclose(
        model.denoise(X[:2], 0.5), EmpiricalDenoiser().fit(X).denoise(X[:2], 0.5), atol=1e-6
    )
