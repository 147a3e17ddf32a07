"""Whatever is asked: answers do not depend on the dtype of X, and nothing given is written to."""

import numpy as np
import pytest
from sklearn.base import clone

from skpspc import EmpiricalDenoiser, LocalScoreDenoiser, NetworkDenoiser
from test_common import DENOISERS, SHAPE, configure, learns, rounding

MORE = {
    "empirical-tol": EmpiricalDenoiser(tol=1e-3),
    "empirical-neighbours": EmpiricalDenoiser(n_neighbors=5),
}
EVERY = {**DENOISERS, **MORE}

# Each way of asking a fitted denoiser, with noisy images of its own shape.
QUESTIONS = {
    "denoise": lambda m, X, Z: m.denoise(Z, 0.4),
    "denoise nearest": lambda m, X, Z: m.denoise(Z, 0.0),
    "denoise class": lambda m, X, Z: m.denoise(Z, 0.4, y=1, guidance=1.5),
    "posterior": lambda m, X, Z: m.posterior(Z, 0.1).mean,
    "evidence": lambda m, X, Z: m.posterior(Z, 2.0).log_evidence,
    "transform": lambda m, X, Z: m.transform(Z),
    "score_samples": lambda m, X, Z: m.score_samples(Z, 0.4),
    "score": lambda m, X, Z: m.score(X),
    "sample": lambda m, X, Z: m.sample(2, n_steps=3, sigma_max=5.0, random_state=0),
    "sample initial": lambda m, X, Z: m.sample(
        initial=m.denoise(Z, 1.0), n_steps=3, sigma_max=1.0, sampler=overwriting
    ),
    "jacobian": lambda m, X, Z: m.jacobian(Z[:2], 0.4, [(0, 0), (1, 1)]),
    "sensitivity": lambda m, X, Z: m.sensitivity(Z[:2], 0.4, [(0, 0)]),
    "attribute": lambda m, X, Z: m.attribute(Z[:2], 0.4, top=3).image_share,
    "attribute windows": lambda m, X, Z: m.attribute(Z[:2], 0.1, top=3, by="window").share,
    "denoise_without": lambda m, X, Z: m.denoise_without(Z, 0.1, [2, [0, 1, 5]]),
    "denoise_without, far": lambda m, X, Z: m.denoise_without(Z, 20.0, [2]),
    "index_recall": lambda m, X, Z: m.index_recall(k=3, sigma=0.1),
    "wiener": lambda m, X, Z: m.wiener(0.4),
    "neighbours": lambda m, X, Z: m.neighbours(0.4),
}
# What each denoiser may answer instead, by name of the question.
UNSERVED = (ValueError, AttributeError)


def overwriting(denoise, z, sigmas):
    """A sampler that works in place."""
    for sigma in sigmas:
        yield z.copy_(denoise(z, sigma))


def asked(question, model, X, Z):
    """The answer, or the kind of the error."""
    try:
        return np.asarray(QUESTIONS[question](model, X, Z))
    except UNSERVED as error:
        return type(error)


@pytest.fixture(scope="module")
def X():
    """Training images, (12, 2, 5, 4) uint8."""
    return np.random.default_rng(1).integers(0, 256, (12, *SHAPE), dtype=np.uint8)


@pytest.mark.filterwarnings("ignore:faiss is not installed")
@pytest.mark.parametrize("name", EVERY)
def test_answers_do_not_depend_on_the_dtype_and_inputs_stay(name, X, device):
    y = np.arange(len(X)) % 2
    values = X / 127.5 - 1
    frozen = values.copy()
    frozen.setflags(write=False)
    noise = np.random.default_rng(2).standard_normal((3, *SHAPE))
    Z = values[:3] + 0.4 * noise
    reference = configure(clone(EVERY[name]), device=device).fit(values.copy(), y)
    expected = {q: asked(q, reference, values.copy(), Z.copy()) for q in QUESTIONS}
    assert not isinstance(expected["denoise"], type)
    if learns(reference) and name.startswith(("empirical", "local")) and "band" not in name:
        assert not isinstance(expected["denoise_without"], type)
    given = {"float64": values, "float32": values.astype(np.float32), "uint8": X, "frozen": frozen}
    for kind, images in given.items():
        before, noisy = images.copy(), Z.copy()
        noisy.setflags(write=kind != "frozen")
        model = configure(clone(EVERY[name]), device=device).fit(images, y)
        atol = 3e-6 if kind == "float32" else rounding(model)
        for question in QUESTIONS:
            answer = asked(question, model, images, noisy)
            told = f"{question}, {kind}"
            np.testing.assert_array_equal(images, before, err_msg=told)
            np.testing.assert_array_equal(noisy, Z, err_msg=told)
            same = expected[question]
            if isinstance(same, type):
                assert answer is same, told
                continue
            from_x = question == "score" or question.startswith("sample")
            single = kind == "float32" or (kind == "uint8" and from_x)
            rtol = 1e-4 if single else 1e-9
            np.testing.assert_allclose(
                answer, same, rtol=rtol, atol=max(atol, 1e-5 * single), err_msg=told
            )


@pytest.mark.parametrize("boundary", ["zero", "circular", "broken"])
@pytest.mark.parametrize("sigma", [0.01, 0.3, 20.0])
def test_leaving_out_is_fitting_without(boundary, sigma):
    """A chunk of float64 patches was once scaled in place: off by a power of two."""
    X = np.array([-1.0, -0.5, 1]).reshape(3, 1, 1, 1) * np.ones((1, 1, 3, 3))
    Z = np.full((1, 1, 3, 3), 0.2)
    before = X.copy()
    model = LocalScoreDenoiser(3, equivariant=True, boundary=boundary)
    left_out = model.fit(X).denoise_without(Z, sigma, [2])[0]
    np.testing.assert_array_equal(X, before)
    np.testing.assert_allclose(left_out, model.fit(X[:2]).denoise(Z, sigma), rtol=0, atol=1e-12)


def test_a_network_that_works_in_place_leaves_noisy_images_alone():
    def network(x, c):
        return x.mul_(0.5)

    model = NetworkDenoiser(network, dtype="float64", image_shape=(1, 2, 2))
    Z = np.ones((1, 1, 2, 2))
    np.testing.assert_array_equal(model.denoise(Z, 1.0), 0.5 * Z)
    np.testing.assert_array_equal(Z, np.ones((1, 1, 2, 2)))
