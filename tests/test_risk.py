"""Memorisation risk of training images, against the slow formula and known answers."""

import numpy as np
import pytest

import oracle
from skpspc import (
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PSPCDenoiser,
)
from skpspc.inspection import MemorisationRiskDisplay, memorisation_risk
from skpspc.sampling import draw_noise, noise_seed


def draws(shape, n, n_noise, random_state=0):
    """The noise of n images, (n, n_noise, *shape)."""
    rng = np.random.default_rng([random_state, 7])
    return draw_noise((n_noise, *shape), n, noise_seed(rng)).numpy()


@pytest.mark.parametrize("name", ["squares", "whole", "local", "patch"])
@pytest.mark.parametrize("weighted", [False, True])
def test_risk_is_the_own_weight_of_the_slow_formula(digits, name, weighted):
    X, sigmas, images = digits[:100], [2.0, 0.3], [7, 3, 90]
    weight = np.arange(100) % 3 + 1.0 if weighted else None
    model, masks = {
        "squares": (PSPCDenoiser(3), oracle.square_masks(3, (1, 8, 8))),
        "whole": (EmpiricalDenoiser(), oracle.whole_mask((1, 8, 8))),
        "local": (LocalScoreDenoiser(1), np.eye(64, dtype=bool)),
        "patch": (PatchDenoiser(3, location=(1, 2)), [oracle.patch_mask(1, 2, 3, 3, (1, 8, 8))]),
    }[name]
    found = memorisation_risk(model.fit(X, sample_weight=weight), sigmas, images, n_noise=2)
    np.testing.assert_array_equal(found.sigmas, [0.3, 2.0])
    np.testing.assert_array_equal(found.images, [3, 7, 90])
    clean = oracle.as_float(X[found.images]).reshape(3, 1, 8, 8)
    noise = draws((1, 8, 8), 3, 2)
    for j, sigma in enumerate(found.sigmas):
        expected = 0.0
        for draw in range(2):
            Z = clean + sigma * noise[:, draw]
            answer = oracle.collection(Z, X, sigma, list(masks), sample_weight=weight)
            own = np.stack([answer.weights[k, :, i] for k, i in enumerate(found.images)])
            covers = np.array(masks, dtype=float)
            with np.errstate(invalid="ignore"):
                expected = expected + (own @ covers / covers.sum(0)) / 2
        if name == "patch":
            expected = expected[:, masks[0]]
        maps = found.maps[j].reshape(3, -1)
        np.testing.assert_allclose(maps, expected, atol=1e-5)
        np.testing.assert_allclose(found.risk[j], expected.mean(1), atol=1e-5)
    np.testing.assert_allclose(found.coverage, 1 - found.risk)


def test_distant_images_are_at_risk_and_crowded_ones_are_not(rng):
    crowd = 0.1 * rng.standard_normal((50, 1, 4, 4))
    X = np.concatenate([crowd, crowd[:1] + 100])
    for model in EmpiricalDenoiser(), PSPCDenoiser(2):
        found = memorisation_risk(model.fit(X), [1.0], n_images=100)
        assert found.images.tolist() == list(range(51))
        np.testing.assert_allclose(found.risk[0, -1], 1)
        np.testing.assert_allclose(found.risk[0, :-1], 1 / 50, atol=0.05)


def test_copies_of_an_image_share_its_risk(digits):
    X = digits[:40]
    copied = np.concatenate([X, X[:1], X[:1]])
    count = np.where(np.arange(40) == 0, 3, 1)
    model = PSPCDenoiser(3)
    alone = memorisation_risk(model.fit(X, sample_weight=count), [0.5], [0, 1])
    together = memorisation_risk(model.fit(copied), [0.5], [0, 1])
    np.testing.assert_allclose(alone.maps, together.maps, atol=1e-6)
    one = memorisation_risk(model.fit(np.repeat(X[:1], 5, axis=0)), [0.5, 50.0], [2])
    np.testing.assert_allclose(one.maps, 1, atol=1e-6)


def test_mirror_images_count_as_other_images(digits):
    X = digits[:40]
    mirrored = np.concatenate([X, X[..., ::-1]])
    found = memorisation_risk(PSPCDenoiser(3, flip=True).fit(X), [0.5], [3, 5])
    expected = memorisation_risk(PSPCDenoiser(3).fit(mirrored), [0.5], [3, 5])
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-5)


def test_rows_are_rows_of_x(digits):
    X, weight = digits[:30], np.ones(30)
    weight[[0, 4]] = 0
    model = EmpiricalDenoiser().fit(X, sample_weight=weight)
    found = memorisation_risk(model, [0.5], [5, 9])
    rest = np.delete(X, [0, 4], axis=0)
    expected = memorisation_risk(EmpiricalDenoiser().fit(rest), [0.5], [3, 7])
    np.testing.assert_allclose(found.maps, expected.maps)
    assert found.images.tolist() == [5, 9]


def test_bad_input_gets_a_remedy(digits):
    X = digits[:30]
    model = EmpiricalDenoiser().fit(X, sample_weight=np.arange(30))
    els = LocalScoreDenoiser(3, equivariant=True).fit(X)
    network = NetworkDenoiser(lambda z, sigma: z, image_shape=(1, 8, 8)).fit(X)
    for call, message in [
        (lambda: memorisation_risk(model, [0.0]), "sigmas must be positive"),
        (lambda: memorisation_risk(model, [1.0], [30]), "holds 30"),
        (lambda: memorisation_risk(model, [1.0], [0]), "holds 0"),
        (lambda: memorisation_risk(model, [1.0], [0.5]), "list of int"),
        (lambda: memorisation_risk(model, [1.0], n_noise=0), "n_noise"),
        (lambda: memorisation_risk(els, [1.0]), "patches at all positions"),
        (lambda: memorisation_risk(GaussianDenoiser().fit(X), [1.0]), "no attribution"),
        (lambda: memorisation_risk(network, [1.0]), "no attribution"),
        (lambda: MemorisationRiskDisplay.from_predictions(X), "call memorisation_risk"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="must be a fitted denoiser"):
        memorisation_risk(np.mean, [1.0])
