"""Denoisers of one class, against denoisers that were fitted on that class alone."""

import copy
import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import oracle
from helpers import finite_difference_gradient
from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PSPCDenoiser,
    SamplingInterrupted,
    SmoothedDenoiser,
)
from skpspc.support import Labels
from test_common import DENOISERS, SHAPE, configure, images_of, learns

WALK = {"n_steps": 4, "sigma_min": 0.05, "sigma_max": 20.0}
SORTED = np.repeat([0, 3, 7], [9, 6, 9])
SHUFFLED = np.array(["cat", "dog", "owl"])[np.random.default_rng(3).permutation(24) % 3]


@pytest.fixture(params=[name for name, model in DENOISERS.items() if learns(model)])
def model(request, device):
    """Every denoiser with images of its own, not fitted."""
    return configure(clone(DENOISERS[request.param]), device=device)


@pytest.fixture(params=["sorted", "shuffled"])
def y(request):
    """Labels of the training images, ints or strings."""
    return {"sorted": SORTED, "shuffled": SHUFFLED}[request.param]


@pytest.fixture(scope="module")
def X():
    """Training images, (24, 2, 5, 4) uint8."""
    return np.random.default_rng(1).integers(0, 256, (24, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def Z(X):
    """Noisy images, (6, 2, 5, 4) float64."""
    return X[:6] / 127.5 - 1 + 0.6 * np.random.default_rng(2).standard_normal((6, *SHAPE))


@pytest.fixture
def empirical(X, y):
    return EmpiricalDenoiser().fit(X, y)


def assert_same(posterior, other, **tolerance):
    for field in fields(posterior):
        ours, theirs = getattr(posterior, field.name), getattr(other, field.name)
        np.testing.assert_allclose(ours, theirs, **tolerance)


# ----------------------------------------------------------------------- one class, and all


def test_the_posterior_of_a_class_is_that_of_its_images_alone(model, X, Z):
    y = SHUFFLED
    model.fit(X, y)
    for label in np.unique(y):
        alone = clone(model).fit(X[y == label])
        assert_same(model.posterior(Z, 0.7, y=label), alone.posterior(Z, 0.7), rtol=0, atol=0)
        np.testing.assert_array_equal(
            model.denoise(Z, 0.7, np.full(6, label)), alone.denoise(Z, 0.7)
        )
        np.testing.assert_array_equal(
            model.score_samples(Z, 0.7, y=label), alone.score_samples(Z, 0.7)
        )


def test_each_image_has_its_own_class(model, X, Z):
    y = SHUFFLED
    model.fit(X, y)
    asked = y[[0, 20, 3, 11, 11, 0]]
    sigma = np.array([0.0, 0.1, 0.7, 0.7, 3.0, np.inf])
    together = model.posterior(Z, sigma, y=asked)
    for i, label in enumerate(asked):
        alone = clone(model).fit(X[y == label]).posterior(Z[[i]], sigma[[i]])
        np.testing.assert_allclose(together.mean[[i]], alone.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(together.log_evidence[[i]], alone.log_evidence, rtol=1e-10)
    for given in (asked.tolist(), asked[:, None]):
        np.testing.assert_array_equal(model.denoise(Z, sigma, y=given), together.mean)


def test_without_a_class_all_images_count_as_ever(model, X, Z):
    y = SHUFFLED
    weight = np.arange(24) % 4 + 0.0
    plain = clone(model).fit(X, sample_weight=weight)
    model.fit(X, y, sample_weight=weight)
    model.denoise(Z, 0.7, y=y[0])
    assert_same(model.posterior(Z, 0.7), plain.posterior(Z, 0.7), rtol=0, atol=0)
    np.testing.assert_array_equal(
        model.sample(2, random_state=0, **WALK), plain.sample(2, random_state=0, **WALK)
    )
    assert model.score(X[:4], y[:4], sigmas=[0.5]) == plain.score(X[:4], sigmas=[0.5])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_empirical_posterior_by_the_formula(X, Z, y, device, dtype):
    weight = np.random.default_rng(4).uniform(0, 2, 24).round(1)
    weight[5] = 0
    model = EmpiricalDenoiser(device=device).fit(X, y, sample_weight=weight)
    asked, sigma = y[[4, 22, 4, 13, 22, 13]], np.array([0.2, 0.3, 0.7, 1.0, 2.0, 9.0])
    posterior = model.posterior(Z.astype(dtype), sigma, y=asked)
    assert posterior.mean.dtype == dtype
    tolerance = 1e-11 if dtype == np.float64 else 1e-5
    for i, label in enumerate(asked):
        mine = y == label
        answer = oracle.collection(
            Z[[i]], X[mine], sigma[[i]], oracle.whole_mask(SHAPE), sample_weight=weight[mine]
        )
        np.testing.assert_allclose(posterior.mean[[i]].reshape(1, -1), answer.mean, atol=tolerance)
        np.testing.assert_allclose(
            posterior.log_evidence[[i]], answer.log_evidence[:, 0], rtol=10 * tolerance
        )
        np.testing.assert_allclose(
            posterior.effective_sample_size[[i]],
            answer.effective_sample_size[:, 0],
            rtol=10 * tolerance,
        )


def test_evidence_of_all_is_the_mixture_of_the_classes(X, Z, y, empirical):
    of_each = [
        np.log(np.mean(y == label)) + empirical.score_samples(Z, 0.7, label)
        for label in np.unique(y)
    ]
    np.testing.assert_allclose(
        np.logaddexp.reduce(of_each), empirical.score_samples(Z, 0.7), rtol=1e-12
    )


def test_containers_and_layouts(X, Z, y):
    model = PSPCDenoiser(2).fit(X, y)
    expected = model.denoise(Z, 0.7, y[0], guidance=2)
    tensor = model.denoise(torch.from_numpy(Z), 0.7, y[0], guidance=2)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor, expected)
    flat = model.denoise(Z.reshape(6, -1), 0.7, y[0], guidance=2)
    np.testing.assert_array_equal(flat, expected.reshape(6, -1))
    np.testing.assert_array_equal(model.denoise(Z[:1], 0.7, y[[0]], 2), expected[:1])
    assert model.denoise(Z.astype(np.float32), 0.7, y[0], guidance=2).dtype == np.float32


def test_labels_in_any_container(X, Z):
    expected = EmpiricalDenoiser().fit(X, SORTED).denoise(Z, 0.7, SORTED[:6])
    tensor = torch.from_numpy(SORTED)
    for given in (SORTED.tolist(), tensor, SORTED[:, None], SORTED.astype(float)):
        model = EmpiricalDenoiser().fit(X, given)
        np.testing.assert_array_equal(model.denoise(Z, 0.7, y=tensor[:6]), expected)
        for label in (0, 0.0, np.int32(0), np.array(0), tensor[0]):
            np.testing.assert_array_equal(model.denoise(Z, 0.7, y=label), expected)
    assert EmpiricalDenoiser().fit(X, SORTED).classes_.tolist() == [0, 3, 7]
    words = EmpiricalDenoiser().fit(X, SHUFFLED.astype(object))
    np.testing.assert_array_equal(
        words.denoise(Z, 0.7, "dog"), EmpiricalDenoiser().fit(X, SHUFFLED).denoise(Z, 0.7, "dog")
    )
    assert words.classes_.tolist() == ["cat", "dog", "owl"]


# --------------------------------------------------------------------------------- guidance


def test_guidance_is_the_blend(model, X, Z):
    y = SHUFFLED
    model.fit(X, y)
    asked = y[[0, 20, 3, 11, 11, 0]]
    every = clone(model).fit(X).denoise(Z, 0.7)
    own = np.concatenate(
        [clone(model).fit(X[y == c]).denoise(Z[[i]], 0.7) for i, c in enumerate(asked)]
    )
    for w in (-0.5, 0.3, 2.5):
        blend = (1 - w) * every + w * own
        guided = model.denoise(Z, 0.7, asked, guidance=w)
        np.testing.assert_allclose(guided, blend, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(model.denoise(Z, 0.7, asked, guidance=0), every)
    np.testing.assert_array_equal(
        model.denoise(Z, 0.7, asked, guidance=1), model.denoise(Z, 0.7, asked)
    )


def test_guidance_weighs_scores(Z, y, X, empirical):
    """(D_w - z) / sigma^2 is the gradient of (1 - w) log p(z) + w log p(z | y)."""
    w, sigma, z, label = 1.7, 0.9, Z[0].ravel(), y[0]

    def log_density(rows):
        every, own = (empirical.score_samples(rows, sigma, c) for c in (None, label))
        return (1 - w) * every + w * own

    gradient = finite_difference_gradient(log_density, z, 1e-5)
    answer = empirical.denoise(z[None], sigma, label, guidance=w)[0]
    np.testing.assert_allclose((answer - z) / sigma**2, gradient, atol=1e-6)


# ----------------------------------------------------------------------------------- sample


def test_samples_of_a_class(model, X):
    y = SHUFFLED
    model.fit(X / 127.5 - 1, y)
    walk = {"random_state": 0, **WALK}
    for label in np.unique(y)[:2]:
        alone = clone(model).fit(X[y == label] / 127.5 - 1)
        np.testing.assert_allclose(
            model.sample(3, y=label, **walk), alone.sample(3, **walk), rtol=0, atol=1e-9
        )
    mixed = model.sample(y=y[[0, 20, 0]], **walk)
    assert len(mixed) == 3
    np.testing.assert_allclose(mixed[1:2], model.sample(2, y=y[20], **walk)[1:], rtol=0, atol=1e-9)
    np.testing.assert_allclose(mixed[:1], model.sample(y=y[0], **walk), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(
        model.sample(3, y=y[0], guidance=0, **walk), model.sample(3, **walk)
    )


def test_trajectories_of_guided_samples(model, X):
    y = SHUFFLED
    model.fit(X / 127.5 - 1, y)
    asked, levels = y[[0, 20, 3]], []
    options = {"y": asked, "guidance": 1.5, "sampler": "heun"}
    samples, trajectory = model.sample(
        random_state=0,
        return_trajectory=True,
        callback=lambda step, sigma, z: levels.append(sigma),
        **options,
        **WALK,
    )
    assert trajectory.shape == (5, *samples.shape)
    last = model.denoise(trajectory[-2], levels[-2], asked, guidance=1.5)
    np.testing.assert_allclose(samples, last, rtol=0, atol=1e-9)
    again = model.sample(initial=trajectory[0], **options, **WALK)
    np.testing.assert_array_equal(again, samples)

    def interrupt(step, sigma, z):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(SamplingInterrupted) as caught:
        model.sample(3, random_state=0, callback=interrupt, **options, **WALK)
    stop = caught.value
    rest = model.sample(
        initial=stop.z, sigma_max=stop.sigma, n_steps=stop.n_steps, sigma_min=0.05, **options
    )
    np.testing.assert_allclose(rest, samples, rtol=0, atol=1e-9)


def test_what_a_walk_remembers_is_that_of_its_class(digits):
    """With a tolerance, neighbours of the step before are looked at first."""
    X, y = digits[:300] / 127.5 - 1, np.arange(300) % 3
    exact = EmpiricalDenoiser().fit(X, y).sample(y=[0, 1, 2, 0], random_state=0)
    model = EmpiricalDenoiser(tol=1e-6).fit(X, y)
    np.testing.assert_allclose(
        model.sample(y=[0, 1, 2, 0], random_state=0), exact, rtol=0, atol=1e-4
    )


# ------------------------------------------------------------------------- memory, pickling


def images_of_class(model, label):
    """Return the training images of the prior of a class."""
    return model._prior_of(model.classes_.tolist().index(label)).source.images.numpy()


def test_nothing_is_copied_where_a_class_lies_together(X):
    model = EmpiricalDenoiser().fit(X, SORTED)
    assert np.shares_memory(images_of(model).numpy(), X)
    for label in (0, 3, 7):
        images = images_of_class(model, label)
        assert np.shares_memory(images, X)
        np.testing.assert_array_equal(images, X[label == SORTED])
    tensor = torch.from_numpy(X)
    model.fit(tensor, SORTED[::-1].copy())  # together, if not in order
    assert images_of_class(model, 3).__array_interface__["data"][0] == tensor[9].data_ptr()
    smoothed = SmoothedDenoiser(PSPCDenoiser(2)).fit(X, SORTED)
    inner = smoothed._prior_of(1).prior
    assert np.shares_memory(inner.source.images.numpy(), X)


def test_a_class_that_lies_apart_is_copied_once_when_asked_for(X, Z):
    model = EmpiricalDenoiser().fit(X, SHUFFLED)
    assert np.shares_memory(images_of(model).numpy(), X)
    assert not model._class_priors
    dogs = images_of_class(model, "dog")
    np.testing.assert_array_equal(dogs, X[SHUFFLED == "dog"])
    assert np.shares_memory(images_of_class(model, "dog"), dogs)
    assert len(model._class_priors) == 1


def test_pickles_leave_the_denoisers_of_classes_out(model, X, Z):
    y = SHUFFLED
    model.fit(X, y)
    size = len(pickle.dumps(model))
    expected = model.denoise(Z, 0.7, y[:6])
    assert len(pickle.dumps(model)) <= size + 1000  # an index may have been built; no images
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(again.denoise(Z, 0.7, y[:6]), expected)
        np.testing.assert_array_equal(again.classes_, np.unique(y))
    assert not hasattr(clone(model), "classes_")


# ---------------------------------------------------------------- fitting: in parts, and again


def test_partial_fit_brings_new_classes(model, X, Z):
    y = SHUFFLED
    weight = np.arange(24) % 4 + 0.5
    whole = clone(model).fit(X, y, sample_weight=weight)
    for part in (slice(0, 15), slice(15, 16), slice(16, 24)):
        assert model.partial_fit(X[part], y[part], sample_weight=weight[part]) is model
        labels, counts = np.unique(y[: part.stop], return_counts=True)
        np.testing.assert_array_equal(model.classes_, labels)
        model.denoise(Z, 0.7, y=labels[counts.argmax()])
    for label in np.unique(y):
        ours, theirs = model.posterior(Z, 0.7, label), whole.posterior(Z, 0.7, label)
        assert_same(ours, theirs, rtol=1e-12, atol=1e-13)
    assert_same(model.posterior(Z, 0.7), whole.posterior(Z, 0.7), rtol=1e-12, atol=1e-13)


def test_partial_fit_wants_labels_always_or_never(model, X):
    model.partial_fit(X[:9], SHUFFLED[:9])
    with pytest.raises(ValueError, match="have labels, but the new images have none"):
        model.partial_fit(X[9:])
    fresh = clone(model).partial_fit(X[:9])
    with pytest.raises(ValueError, match="have no labels, but the new images have labels"):
        fresh.partial_fit(X[9:], SHUFFLED[9:])
    with pytest.raises(
        ValueError,
        match="labels have dtype int64, but the present labels have dtype <U3; make them all",
    ):
        model.partial_fit(X[9:], SORTED[9:])


def test_fitting_again_forgets_classes(model, X, Z):
    y = SHUFFLED
    model.fit(X, y).denoise(Z, 0.7, y[0])
    model.fit(X[::-1].copy(), y)
    expected = clone(model).fit(X[::-1][y == y[0]].copy()).denoise(Z, 0.7)
    np.testing.assert_array_equal(model.denoise(Z, 0.7, y[0]), expected)
    assert not hasattr(model.fit(X), "classes_")
    with pytest.raises(ValueError, match="was fitted without labels; pass fit one label for each"):
        model.denoise(Z, 0.7, y[0])


def test_parameters_set_after_the_first_question_count_from_the_next_fit(X, Z, y):
    model = EmpiricalDenoiser().fit(X, y)
    exact = model.denoise(Z, 0.7, y[0])
    model.set_params(n_neighbors=2)
    np.testing.assert_array_equal(model.denoise(Z, 0.7, y[0]), exact)
    expected = EmpiricalDenoiser(n_neighbors=2).fit(X[y == y[0]]).denoise(Z, 0.7)
    np.testing.assert_array_equal(model.fit(X, y).denoise(Z, 0.7, y[0]), expected)
    assert np.abs(expected - exact).max() > 1e-6


@pytest.mark.parametrize(
    ("model", "later"),
    [
        (PSPCDenoiser(2), {"patch_size": 4}),
        (PSPCDenoiser(2), {"flip": True}),
        (PSPCDenoiser(windows=FlexibleWindows("data", 0.6, [0.5])), {"windows__thresholds": 1.0}),
        (PatchDenoiser(2), {"patch_size": 3}),
        (LocalScoreDenoiser(3), {"patch_size": 5}),
        (LocalScoreDenoiser(3), {"equivariant": True}),
        (LocalScoreDenoiser(3, equivariant=True), {"boundary": "broken"}),
        (GaussianDenoiser(3), {"rank": 1}),
        (BlendedDenoiser([("a", PSPCDenoiser(1))], n_images=2), {"a__patch_size": 4}),
        (SmoothedDenoiser(PSPCDenoiser(1)), {"denoiser__patch_size": 4}),
    ],
)
def test_what_was_resolved_at_fit_holds_for_all_classes(X, Z, model, later):
    """Whether they were asked for before parameters were set, or after."""
    model = clone(model).fit(X, SHUFFLED)
    asked = np.array(["cat", "dog", "owl"] * 2)
    expected = clone(model).fit(X, SHUFFLED).denoise(Z, 0.7, asked)
    model.denoise(Z, 0.7, "cat")
    model.set_params(**later)
    np.testing.assert_array_equal(model.denoise(Z, 0.7, asked), expected)
    again = model.fit(X, SHUFFLED).denoise(Z, 0.7, asked)
    assert again.shape != expected.shape or np.abs(again - expected).max() > 1e-6


@pytest.mark.parametrize("model", [PSPCDenoiser(2), PatchDenoiser(2, location="all")])
def test_partial_fit_resolves_parameters_anew(X, Z, model):
    model = clone(model).fit(X[:20], SHUFFLED[:20])
    model.set_params(patch_size=3).partial_fit(X[20:], SHUFFLED[20:])
    other = clone(model).fit(X, SHUFFLED)
    for label in (None, "cat"):
        np.testing.assert_array_equal(model.denoise(Z, 0.7, label), other.denoise(Z, 0.7, label))


@pytest.mark.parametrize("options", [{"n_neighbors": 3}, {"tol": 1e-3}, {"algorithm": "faiss"}])
def test_an_index_of_a_class(X, Z, y, options):
    for model in (EmpiricalDenoiser(**options), PatchDenoiser(3, location="all", **options)):
        model.fit(X, y)
        model.posterior(Z, 0.3)
        for label in np.unique(y):
            alone = clone(model).fit(X[y == label])
            assert_same(model.posterior(Z, 0.3, label), alone.posterior(Z, 0.3), rtol=0, atol=0)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.denoise(Z, 0.3, y[:6]), model.denoise(Z, 0.3, y[:6]))


def test_weights_follow_their_images(model, X, Z):
    y = SHUFFLED
    weight = np.random.default_rng(5).integers(0, 3, 24).astype(float)
    weight[[0, 23]] = 2
    model.fit(X, y, sample_weight=weight)
    for label in (y[0], y[23]):
        mine = y == label
        alone = clone(model).fit(X[mine], sample_weight=weight[mine])
        assert_same(model.posterior(Z, 0.7, label), alone.posterior(Z, 0.7), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rank", [None, 3])
def test_the_gaussian_keeps_images_to_tell_classes_apart(digits, rank):
    """Beside its sums over all images, which are smaller."""
    X, y = digits[:400], np.arange(400) % 3
    model, Z = GaussianDenoiser(rank), digits[500:503] / 127.5 - 1
    assert not hasattr(model.fit(X), "training_set_")
    model.partial_fit(X[:0:-1][:5])
    model.fit(X[:200], y[:200]).partial_fit(X[200:], y[200:])
    expected = GaussianDenoiser(rank).fit(X[y == 2]).denoise(Z, 0.4)
    np.testing.assert_allclose(model.denoise(Z, 0.4, 2), expected, rtol=0, atol=1e-12)
    plain = GaussianDenoiser(rank).fit(X).denoise(Z, 0.4)
    np.testing.assert_allclose(model.denoise(Z, 0.4), plain, rtol=0, atol=1e-12)


# -------------------------------------------------------------------- scikit-learn's labels


@pytest.mark.parametrize(
    "y",
    [
        np.linspace(-1, 1, 24),
        np.linspace(-1, 1, 24)[:, None],
        np.random.default_rng(0).normal(size=(24, 3)),
        (np.arange(24) % 2).astype(bool),
        [{}] * 23 + [0],
    ],
    ids=["floats", "column", "several targets", "bool", "unsortable"],
)
def test_fit_takes_what_searches_pass(X, Z, y):
    if isinstance(y, list):
        with pytest.raises(ValueError, match="the labels in y cannot be sorted"):
            EmpiricalDenoiser().fit(X, y)
        return
    model = EmpiricalDenoiser().fit(X, y)
    np.testing.assert_array_equal(model.denoise(Z, 0.5), EmpiricalDenoiser().fit(X).denoise(Z, 0.5))
    if y.ndim == 2 and y.shape[1] > 1:
        assert not hasattr(model, "classes_")


def test_nan_is_no_label(X):
    y = np.arange(24) % 3 + 0.0
    y[5] = np.nan
    with pytest.raises(ValueError, match="y holds labels that are missing"):
        EmpiricalDenoiser().fit(X, y)


def test_searches_and_pipelines_pass_labels(digits):
    X = digits[:60].reshape(60, -1)
    search = GridSearchCV(PSPCDenoiser(image_shape=(1, 8, 8)), {"patch_size": [2, 8]}, cv=2)
    expected = search.fit(X).cv_results_["mean_test_score"]
    best = search.fit(X, np.arange(60) % 3).best_estimator_
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], expected)
    assert best.sample(y=2, n_steps=2).shape == (1, 64)
    pipeline = make_pipeline(EmpiricalDenoiser()).fit(X, np.arange(60) % 3)
    assert pipeline[-1].classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(pipeline.transform(X), EmpiricalDenoiser().fit(X).transform(X))


# ------------------------------------------------------------------------------------ errors


def test_unknown_classes(model, X, Z):
    y = SHUFFLED
    model.fit(X, y)
    known = ", ".join(map(repr, np.unique(y).tolist()))
    message = rf"y holds 'eel', which is the label of no training image; the classes are {known}\."
    calls = (
        lambda: model.denoise(Z, 0.7, y="eel"),
        lambda: model.posterior(Z[:1], 0.7, y=["eel"]),
        lambda: model.score_samples(Z, 0.7, y="eel"),
        lambda: model.sample(y=["eel"]),
        lambda: model.denoise(Z, 0.7, y="eel", guidance=0),
    )
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_many_classes_are_not_all_listed(X, Z):
    model = EmpiricalDenoiser().fit(X, np.arange(24))
    with pytest.raises(ValueError, match=r"y holds 99, .* 8, 9, \.\.\. \(24 in all\)\.$"):
        model.denoise(Z, 0.7, y=99)


def test_labels_of_the_wrong_shape(X, Z, empirical, y):
    with pytest.raises(ValueError, match=r"y has 23 labels for 24 images; give one for each\."):
        EmpiricalDenoiser().fit(X, y[:23])
    with pytest.raises(ValueError, match="y has 1 labels for 2 images"):
        empirical.partial_fit(X[:2], y[:1])
    for wrong in (y[:5], y[:0], np.stack([y[:6]] * 2)):
        with pytest.raises(ValueError, match=r"one label or one for each image, shape \(6,\); got"):
            empirical.denoise(Z, 0.7, y=wrong)
    with pytest.raises(ValueError, match=r"shape \(3,\); got shape \(2,\)"):
        empirical.sample(3, y=y[:2])
    with pytest.raises(ValueError, match=r"shape \(6,\); got shape \(2,\)"):
        empirical.sample(initial=Z, y=y[:2])


def test_a_class_whose_weights_are_zero(model, X, Z):
    y = SHUFFLED
    model.fit(X, y, sample_weight=(y != y[0]).astype(float))
    assert y[0] in model.classes_
    label = repr(y[0].item())
    with pytest.raises(
        ValueError, match=f"the class {label} has no images of positive sample_weight"
    ):
        model.denoise(Z, 0.7, y=y[0])
    assert np.isfinite(model.denoise(Z, 0.7, y=y[~np.isin(y, y[0])][0])).all()


@pytest.mark.parametrize("guidance", [np.nan, np.inf, "1", None])
def test_guidance_must_be_finite(Z, y, empirical, guidance):
    for call in (
        lambda: empirical.denoise(Z, 0.7, y[0], guidance=guidance),
        lambda: empirical.sample(y=y[0], guidance=guidance),
    ):
        with pytest.raises(ValueError, match="guidance must be a finite number, got"):
            call()


def test_guidance_needs_a_class(Z, empirical):
    for call in (
        lambda: empirical.denoise(Z, 0.7, guidance=2.0),
        lambda: empirical.sample(guidance=2.0),
    ):
        with pytest.raises(ValueError, match=r"guidance=2\.0 weighs a class .*; pass y"):
            call()


def test_errors_of_a_class_name_it(X, Z):
    members = [("only", EmpiricalDenoiser())]
    with pytest.warns(UserWarning, match="classes cannot be denoised or sampled"):
        model = BlendedDenoiser(members, sigmas=[0.5], n_images=6).fit(X, SORTED)
    assert np.isfinite(model.denoise(Z, 0.7, y=0)).all()
    with pytest.raises(ValueError, match="class 3, of 6 images: n_samples=6 distinct training"):
        model.denoise(Z, 0.7, y=3)


def test_networks_have_no_classes(X, Z):
    network = NetworkDenoiser(lambda x, c: x).fit(X, SORTED)
    for model in (network, SmoothedDenoiser(network).fit(X, SORTED)):
        assert not hasattr(model, "classes_")
        for call in (lambda m=model: m.denoise(Z, 0.7, y=0), lambda m=model: m.sample(y=0)):
            with pytest.raises(
                ValueError, match=r"NetworkDenoiser has no classes: .*network_kwargs"
            ):
                call()
    unfitted = NetworkDenoiser(lambda x, c: x, image_shape=SHAPE)
    with pytest.raises(ValueError, match="NetworkDenoiser has no classes"):
        unfitted.denoise(Z, 0.7, y=0)


def test_clipped_windows_warn_at_fit_only(X, Z, y, recwarn):
    PSPCDenoiser(9).fit(X, y).denoise(Z, 0.7, y[0])
    PatchDenoiser(9).fit(X, y).denoise(Z, 0.7, y[0])
    assert len([w for w in recwarn if "is clipped to" in str(w.message)]) == 2


def test_a_class_of_one_image(X, Z):
    labels = np.arange(24)
    for model in (EmpiricalDenoiser(), PSPCDenoiser(2), PCALocalityDenoiser(), GaussianDenoiser()):
        x0 = model.fit(X, labels).denoise(Z, 0.7, y=labels[:6])
        np.testing.assert_allclose(x0, X[:6] / 127.5 - 1, rtol=0, atol=1e-12)


def test_joined_labels(rng):
    """Against the labels of all at once."""
    for words in (np.arange(9), np.array(["b", "aa", "c"])):
        values = rng.choice(words, 30)
        used = rng.random(30) < 0.7
        whole = Labels(values, used)
        joined = Labels(values[:11], used[:11]).joined(Labels(values[11:], used[11:]))
        np.testing.assert_array_equal(joined.classes, whole.classes)
        np.testing.assert_array_equal(joined.codes, whole.codes)
        np.testing.assert_array_equal(joined.classes[joined.codes], values[used])
