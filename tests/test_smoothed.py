"""The smoothed denoiser against the mean written out."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

import oracle
from helpers import finite_difference_gradient
from skpspc import (
    EmpiricalDenoiser,
    GaussianDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from skpspc.sampling import draw_noise


@pytest.fixture
def X(rng):
    return rng.integers(0, 256, (30, 2, 4, 3), dtype=np.uint8)


@pytest.fixture
def Z(X, rng):
    return X[:3] / 127.5 - 1 + 0.4 * rng.standard_normal((3, 2, 4, 3))


class Shrinkage(torch.nn.Module):
    def forward(self, x, c):
        return x / (1 + c[:, None, None, None] ** 2)


def displacements(model, shape):
    """The e_m of a fitted model, (M, *shape)."""
    z = torch.zeros(1, *shape, dtype=torch.float64)
    return model._prior_of().displacements(z).numpy() / model.tau


def test_mean_over_displaced_copies(X, Z, device):
    model = SmoothedDenoiser(EmpiricalDenoiser(device=device), tau=0.3, n_draws=5).fit(X)
    posterior = model.posterior(Z, 0.4)
    e = displacements(model, (2, 4, 3))
    answers = [oracle.collection(Z + 0.3 * one, X, 0.4, oracle.whole_mask((2, 4, 3))) for one in e]
    mean = np.mean([answer.mean for answer in answers], axis=0)
    np.testing.assert_allclose(posterior.mean.reshape(3, -1), mean, atol=1e-11)
    evidence = np.mean([answer.log_evidence[:, 0] for answer in answers], axis=0)
    np.testing.assert_allclose(posterior.log_evidence, evidence, rtol=1e-10)


def test_displacements_are_standard_normal_and_no_other_noise(X):
    model = SmoothedDenoiser(EmpiricalDenoiser(), n_draws=2000).fit(X)
    e = displacements(model, (2, 4, 3))
    assert abs(e.mean()) < 0.02
    assert e.std() == pytest.approx(1, abs=0.02)
    # an image that is scored or sampled with the same seed has other noise
    others = draw_noise((2, 4, 3), 2000, model.random_state).numpy()
    assert abs(np.corrcoef(e.ravel(), others.ravel())[0, 1]) < 0.02
    assert np.abs(e[0] - others[0]).max() > 0.1


def test_a_linear_denoiser_is_only_shifted(X, Z):
    inner = GaussianDenoiser().fit(X)
    model = SmoothedDenoiser(inner, tau=0.7, n_draws=4).fit(X)
    shift = 0.7 * displacements(model, (2, 4, 3)).mean(0)
    np.testing.assert_allclose(model.denoise(Z, 0.5), inner.denoise(Z + shift, 0.5), atol=1e-12)


def test_without_displacement_it_is_the_denoiser(X, Z):
    for inner in (EmpiricalDenoiser(), PSPCDenoiser(2), PatchDenoiser(2)):
        model = SmoothedDenoiser(inner, tau=0.0, n_draws=3).fit(X)
        expected = clone(inner).fit(X).denoise(Z, 0.5)
        np.testing.assert_allclose(model.denoise(Z, 0.5), expected, atol=1e-12)


def test_tweedie_for_the_mean_potential(X, Z):
    """z + sigma^2 grad log p is D but for the mean displacement."""
    flat, z = X.reshape(30, -1), Z[0].ravel()
    model = SmoothedDenoiser(EmpiricalDenoiser(), tau=0.2, n_draws=6).fit(flat)
    slope = finite_difference_gradient(lambda rows: model.score_samples(rows, 0.8), z, 1e-5)
    shift = 0.2 * displacements(model, (1, 1, 24)).mean(0).ravel()
    expected = z + shift + 0.64 * slope
    np.testing.assert_allclose(model.denoise(z[None], 0.8)[0], expected, atol=1e-6)


def test_smoothing_mixes_training_images():
    """Near the border of two basins the answer is between them."""
    X = np.array([[-1.0], [1.0]])
    model = SmoothedDenoiser(EmpiricalDenoiser(), tau=0.5, n_draws=400).fit(X)
    z = np.linspace(-2, 2, 9)[:, None]
    mean = model.denoise(z, 0.05).ravel()
    assert (np.diff(mean) > -1e-12).all()
    assert abs(mean[4]) < 0.2
    np.testing.assert_allclose(mean[[0, -1]], [-1, 1])


def test_random_state(X, Z):
    first = SmoothedDenoiser(EmpiricalDenoiser(), 0.5, random_state=1).fit(X)
    again = SmoothedDenoiser(EmpiricalDenoiser(), 0.5, random_state=1).fit(X)
    other = SmoothedDenoiser(EmpiricalDenoiser(), 0.5, random_state=2).fit(X)
    np.testing.assert_array_equal(first.denoise(Z, 0.5), again.denoise(Z, 0.5))
    np.testing.assert_array_equal(first.denoise(Z, 0.5), first.denoise(Z, 0.5))
    assert np.abs(first.denoise(Z, 0.5) - other.denoise(Z, 0.5)).max() > 1e-3
    fresh = [SmoothedDenoiser(EmpiricalDenoiser(), 0.5, random_state=None).fit(X) for _ in "ab"]
    assert np.abs(fresh[0].denoise(Z, 0.5) - fresh[1].denoise(Z, 0.5)).max() > 1e-3
    # a generator gives other displacements at every fit, and one fit keeps them
    generator = SmoothedDenoiser(EmpiricalDenoiser(), random_state=np.random.default_rng(0)).fit(X)
    np.testing.assert_array_equal(generator.denoise(Z, 0.5), generator.denoise(Z, 0.5))


def test_manners_of_a_meta_estimator(X, Z, digits):
    inner = PSPCDenoiser(2)
    model = SmoothedDenoiser(inner, n_draws=2).fit(X)
    assert not hasattr(inner, "image_shape_")
    assert model.denoiser_ is not inner
    assert model.get_params()["denoiser__patch_size"] == 2
    assert model.set_params(denoiser__patch_size=3).denoiser.patch_size == 3
    nested = SmoothedDenoiser(SmoothedDenoiser(EmpiricalDenoiser(), 0.1), 0.1).fit(X)
    assert nested.denoise(Z, 0.5).shape == Z.shape
    search = GridSearchCV(
        SmoothedDenoiser(GaussianDenoiser(), n_draws=1),
        {"tau": [0.0, 3.0], "denoiser__rank": [2, 20]},
        cv=2,
    ).fit(digits[:60])
    assert search.best_params_ == {"tau": 0.0, "denoiser__rank": 20}
    flat = SmoothedDenoiser(PatchDenoiser(2, image_shape=(2, 4, 3)), n_draws=1)
    flat.set_output(transform="pandas").fit(X.reshape(30, -1))
    frame = flat.transform(Z.reshape(3, -1))
    assert list(frame.columns)[:2] == ["patchdenoiser0", "patchdenoiser1"]
    with pytest.raises(NotFittedError):
        SmoothedDenoiser(inner).get_feature_names_out()


def test_a_frozen_denoiser_is_asked_as_it_is(X, Z):
    y = np.arange(30) % 2
    inner = PSPCDenoiser(2).fit(X[:20], y[:20])
    model = SmoothedDenoiser(FrozenEstimator(inner), 0.3, n_draws=3).fit(X, y)
    expected = SmoothedDenoiser(PSPCDenoiser(2), 0.3, n_draws=3).fit(X[:20], y[:20])
    for label in (None, 1):
        np.testing.assert_array_equal(model.denoise(Z, 0.5, label), expected.denoise(Z, 0.5, label))
    np.testing.assert_array_equal(model.jacobian(Z, 0.5), expected.jacobian(Z, 0.5))
    before = inner.denoise(Z, 0.5)
    model.partial_fit(X, y)
    np.testing.assert_array_equal(inner.denoise(Z, 0.5), before)

    network = NetworkDenoiser(Shrinkage(), image_shape=(2, 4, 3))
    linear = SmoothedDenoiser(FrozenEstimator(network), n_draws=2).fit(X)
    assert linear.denoiser_.network is network.network
    assert linear.sample(2, n_steps=2).shape == (2, 2, 4, 3)
    with pytest.raises(NotFittedError):
        SmoothedDenoiser(FrozenEstimator(PSPCDenoiser(2))).fit(X)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"denoiser": "empirical"}, "'denoiser' parameter"),
        (
            {"denoiser": FrozenEstimator(PCA())},
            "FrozenEstimator must hold a denoiser, got Frozen",
        ),
        ({"tau": -0.1}, "'tau' parameter"),
        ({"n_draws": 0}, "'n_draws' parameter"),
        ({"denoiser__sigma": -1}, "'sigma' parameter"),
    ],
)
def test_bad_parameters(X, parameters, sentence):
    with pytest.raises(ValueError, match=sentence):
        SmoothedDenoiser(EmpiricalDenoiser()).set_params(**parameters).fit(X)
