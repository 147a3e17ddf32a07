"""A fit is all or nothing, and what was fitted answers as it was fitted until the next fit."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.base import clone

from load import CALLED, EVERY, answer, difference, task
from skpspc import (
    BandwidthSchedule,
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from test_common import DENOISERS, SHAPE, LinearNetwork, SoftSquares, configure

LIVE = {"sigma", "verbose", "random_state"}  # parameters that are read when the model is asked
SIGMA = 0.4
WALK = {"n_steps": 2, "random_state": 0}


class DoubledNetwork(LinearNetwork):
    """Another network."""

    def __call__(self, x, c, gain=1.0):
        return 2 * super().__call__(x, c, gain)


# Other values of every parameter; the first that differs from the present one is set.
OTHER_VALUES = {
    "against": [GaussianDenoiser()],
    "algorithm": ["faiss"],
    "bandwidth": [0.7, BandwidthSchedule([0.1, 1.0], [0.0, 0.8])],
    "batch_size": [2],
    "boundary": ["broken", "zero"],
    "condition": ["float"],
    "data_range": [(-100.0, 100.0)],
    "denoiser": [GaussianDenoiser(3)],
    "denoisers": [[("only", GaussianDenoiser(2))]],
    "device": ["meta"],
    "dtype": ["float32"],
    "n_fitted": [30],
    "n_sizes": [2],
    "engine": ["torch"],
    "equivariant": [True, False],
    "flip": [True, False],
    "image_shape": [(1, 1, 40)],
    "index": ["HNSW8"],
    "location": ["all", "center"],
    "max_shift": [0, 1],
    "n_draws": [5],
    "n_images": [2],
    "n_neighbors": [1],
    "n_remainder": [2],
    "network": [DoubledNetwork()],
    "network_kwargs": [{"gain": 3.0}],
    "network_range": [(0.0, 1.0)],
    "query_taper": [1.0, 0.0],
    "response_taper": [1.0, 0.0],
    "operator": [np.arange(20).reshape(1, 5, 4) % 3 > 0],
    "parametrization": ["eps"],
    "patch_size": [1, 3],
    "query": [SoftSquares(2.0)],
    "rank": [2, 3],
    "response": [SoftSquares(2.0)],
    "scales": [(1, 2)],
    "shrinkage": [0.5, 0.0],
    "sigma_data": [1.5],
    "sigmas": [[0.5, 3.0]],
    "smoothing": ["global", "window"],
    "softmax": ["batchwise", "exact"],
    "source": ["flips", "images"],
    "stride": [2, 3],
    "tau": [0.9],
    "threshold": [0.6],
    "time": [lambda s: 2 * s],
    "tol": [10.0],
    "windows": [FlexibleWindows("data", 0.5, [0.5])],
}


@pytest.fixture(scope="module")
def X():
    """Training images, (12, 2, 5, 4) float32."""
    X = np.random.default_rng(1).uniform(-1, 1, (12, *SHAPE))
    return X.astype(np.float32)


@pytest.fixture(scope="module")
def y():
    """Labels, two classes."""
    return np.arange(12) % 2


@pytest.fixture(scope="module")
def Z(X):
    """Noisy images, (3, 2, 5, 4) float32."""
    return X[:3] + np.float32(SIGMA) * np.random.default_rng(2).standard_normal((3, *SHAPE)).astype(
        np.float32
    )


def fresh(name, device):
    return configure(clone(DENOISERS[name]), device=device)


def answers(model, Z):
    """Everything that a fitted model says about a few noisy images."""
    posterior = model.posterior(Z, SIGMA)
    said = [posterior.mean, posterior.log_evidence, posterior.effective_sample_size]
    said += [model.denoise(Z, [0.1, 1.0, 9.0]), model.score(Z, sigmas=[0.3, 3.0])]
    said += [model.sample(2, **WALK)]
    return said


def answers_by_class(model):
    """Whether the model can be asked for a class of a few images: blends need more of them."""
    return not isinstance(model, (NetworkDenoiser, BlendedDenoiser))


def assert_same(got, expected):
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ------------------------------------------------------------------ a fit that is refused

REFUSED_FITS = {
    "labels of another length": lambda X: (X.reshape(12, 1, 8, 5), {"y": [1, 2]}),
    "weights of another length": lambda X: (X.reshape(12, 1, 8, 5), {"sample_weight": [1.0, 2.0]}),
    "no weight": lambda X: (X.reshape(12, 1, 8, 5), {"sample_weight": np.zeros(12)}),
    "not a number": lambda X: (np.full((12, 1, 8, 5), np.nan), {}),
    "three axes": lambda X: (X[:, 0], {}),
}
REFUSED_PARTS = {
    "another shape": lambda X: (X.reshape(12, 1, 8, 5), {"y": np.arange(12) % 2}),
    "another dtype": lambda X: (np.zeros(X.shape, np.uint8), {"y": np.arange(12) % 2}),
    "weights of another length": lambda X: (
        X,
        {"y": np.arange(12) % 2, "sample_weight": [1.0, 2.0]},
    ),
    "no labels": lambda X: (X, {}),
}


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        (name, refused)
        for name in DENOISERS
        for refused in REFUSED_FITS
        # a network looks at no labels
        if name != "network" or refused != "labels of another length"
    ],
)
def test_a_refused_fit_changes_nothing(name, refused, X, y, Z, device):
    model = fresh(name, device).fit(X, y)
    expected = answers(model, Z)
    X_bad, arguments = REFUSED_FITS[refused](X)
    with pytest.raises(ValueError):
        model.fit(X_bad, **arguments)
    assert model.image_shape_ == SHAPE
    assert model.n_features_in_ == X[0].size
    assert_same(answers(model, Z), expected)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        (name, refused)
        for name, model in DENOISERS.items()
        if hasattr(model, "partial_fit")
        for refused in REFUSED_PARTS
        # a network learns the shape of its images alone
        if not isinstance(model, NetworkDenoiser)
        or refused in ("another shape", "weights of another length")
    ],
)
def test_a_refused_partial_fit_changes_nothing(name, refused, X, y, Z, device):
    model = fresh(name, device).fit(X, y)
    expected = answers(model, Z)
    X_bad, arguments = REFUSED_PARTS[refused](X)
    with pytest.raises(ValueError):
        model.partial_fit(X_bad, **arguments)
    assert_same(answers(model, Z), expected)


CONTRADICTIONS = {
    "empirical": {"algorithm": "exact", "tol": 0.1},
    "patch": {"n_remainder": 3},
    "patch-all": {"location": (4, 4)},
    "pspc-2": {"windows": FlexibleWindows(np.ones((3, 3, 3)), 0.5, [0.5])},
    "pspc-bandwidth-flexible": {"smoothing": "window"},
    "local": {"boundary": "broken"},
    "local-circular": {"patch_size": 4},
    "blended": {"n_images": 12},
    "collection": {"query": np.ones((1, 3, 3, 3))},
    "smoothed": {"denoiser": LocalScoreDenoiser(2)},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_fit_refused_for_its_parameters_changes_nothing(name, X, y, Z, device):
    model = fresh(name, device).fit(X, y)
    expected = answers(model, Z)
    model.set_params(**CONTRADICTIONS[name])
    with pytest.raises(ValueError):
        model.fit(X.reshape(12, 1, 8, 5), y)
    assert_same(answers(model, Z), expected)


# ------------------------------------------------------------------- a fit that is going on


def watched(model, ask):
    """The model, of a class that calls ``ask`` whenever one of its attributes has been set."""

    class Watched(type(model)):
        watching = False

        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if self is model and self.watching:  # a copy may be half a model
                type(self).watching = False
                ask(self)
                type(self).watching = True

    Watched.__name__ = type(model).__name__
    model.__class__ = Watched
    return model


@pytest.mark.parametrize("name", DENOISERS)
def test_a_fit_never_shows_half_of_a_model(name, X, y, Z, device):
    """Other threads find the old model or the new one, at every moment of a fit."""
    other, other_y = X[::-1][:9] * np.float32(0.5), 1 - y[:9]
    old = fresh(name, device).fit(X, y)
    new = fresh(name, device).fit(other, other_y)
    labels = (None, 0) if answers_by_class(old) else (None,)

    def said(model):
        return np.stack([model.denoise(Z, SIGMA, y=label) for label in labels])

    before, after = said(old), said(new)
    seen = []

    def ask(model):
        seen.append(said(model))
        assert np.array_equal(seen[-1], before) or np.array_equal(seen[-1], after)

    model = watched(old, ask)
    type(model).watching = True
    model.fit(other, other_y)
    type(model).watching = False
    assert seen
    np.testing.assert_array_equal(said(model), after)


READ_ONCE = ["empirical", "gaussian", "pca", "smoothed", "network", "patch-all", "pspc-2"]
READ_ONCE += ["local-zero", "single-image", "blended", "collection", "digits tol"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READ_ONCE)
def test_a_method_reads_the_state_once(name):
    """Between two reads another thread may fit images of another shape, range and container."""
    given = task(name)
    others = torch.from_numpy(given.X[:9].reshape(9, 1, 8, -1) / 255.0)
    model = given.fitted()
    after = {
        call: answer(call, clone(EVERY[name]).fit(others, given.y[:9]), given) for call in CALLED
    }
    before = {call: answer(call, model, given) for call in CALLED}

    class Refitted(type(model)):
        def _now(self):
            now = super()._now()
            if self is model and not reads:
                model.fit(others, given.y[:9])
            if self is model:
                reads.append(now)
            return now

    Refitted.__name__ = type(model).__name__
    for call in CALLED:
        model, reads = given.fitted(), []
        model.__class__ = Refitted
        got = answer(call, model, given)
        assert min(difference(got, right[call]) for right in (before, after)) < 2, call
        assert reads or isinstance(got, str) or call in ("classes_", "repr"), call


# ------------------------------------------------------------------- parameters act at fit


@pytest.fixture(scope="module")
def as_fitted(X, y, Z, device):
    """Return a fitted denoiser without a call for a class, its answers, and answers by class."""

    @cache
    def as_fitted(name):
        model, asked = fresh(name, device).fit(X, y), fresh(name, device).fit(X, y)
        labels = (0, 1) if answers_by_class(model) else ()
        by_class = [asked.denoise(Z, SIGMA, y=label) for label in labels]
        return model, answers(asked, Z), by_class

    return as_fitted


def other_value(model, parameter):
    present = getattr(model, parameter)
    return next(value for value in OTHER_VALUES[parameter] if repr(value) != repr(present))


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        (name, parameter)
        for name, model in DENOISERS.items()
        for parameter in model.get_params(deep=False)
        if parameter not in LIVE
    ],
)
def test_parameters_act_at_fit(name, parameter, as_fitted, Z):
    fitted, expected, by_class = as_fitted(name)
    model = copy.deepcopy(fitted)
    if by_class:  # the other class is asked for the first time after the change
        model.denoise(Z, SIGMA, y=0)
    model.set_params(**{parameter: other_value(model, parameter)})
    assert_same(answers(model, Z), expected)
    if by_class:
        assert_same([model.denoise(Z, SIGMA, y=label) for label in (0, 1)], by_class)


@pytest.mark.parametrize("name", DENOISERS)
def test_live_parameters_act_when_asked(name, X, Z, device):
    model = fresh(name, device).fit(X).set_params(sigma=1.7)
    np.testing.assert_array_equal(model.transform(Z), model.denoise(Z, 1.7))
    first = model.score(Z, sigmas=[3.0])
    assert model.set_params(random_state=11).score(Z, sigmas=[3.0]) != first


# ----------------------------------------------------------------------- threads and copies


def test_a_question_is_answered_by_one_model(X, y, Z, device):
    """While another thread fits: by the old model or by the new one, never by both."""
    model = fresh("empirical", device)
    expected = []
    for images in (X, -X):
        expected.append(fresh("empirical", device).fit(images, y).denoise(Z, SIGMA, 1, 2.0))
    model.fit(X, y)
    done = threading.Event()

    def fit():
        while not done.is_set():
            model.fit(-X, y).fit(X, y)

    with ThreadPoolExecutor(3) as pool:
        fitting = pool.submit(fit)
        asked = [pool.submit(model.denoise, Z, SIGMA, 1, 2.0) for _ in range(100)]
        answers = [question.result() for question in asked]
        done.set()
        fitting.result()
    for got in answers:
        assert any(np.array_equal(got, one) for one in expected)


@pytest.mark.parametrize("name", [name for name in DENOISERS if name != "network"])
def test_a_copy_does_not_change_with_the_original(name, X, y, Z, device):
    model = fresh(name, device).fit(X[:9], y[:9])
    before = copy.copy(model)
    expected = answers(before, Z)
    model.partial_fit(X[9:], y[9:])
    assert_same(answers(before, Z), expected)


def test_partial_fit_of_a_smoothed_denoiser_obeys_its_parameters(X, Z, device):
    inner = PSPCDenoiser(2, device=device)
    model = SmoothedDenoiser(inner, tau=0.5).fit(X[:6])
    model.set_params(tau=0.0, denoiser__patch_size=3).partial_fit(X[6:])
    expected = PSPCDenoiser(3, device=device).fit(X).denoise(Z, SIGMA)
    np.testing.assert_allclose(model.denoise(Z, SIGMA), expected, rtol=0, atol=1e-6)


def test_parameters_that_are_read_when_asked_leave_an_index_to_be_extended(X, device):
    model = EmpiricalDenoiser(tol=1e-3, device=device).fit(X[:9])
    model.index_recall(3)
    coordinates = model._searches()[0].neighbours._coordinates
    model.set_params(sigma=0.7, random_state=1, verbose=0).partial_fit(X[9:])
    assert model._searches()[0].neighbours._coordinates is coordinates
    model.set_params(tol=1e-2).partial_fit(X)
    assert model._searches()[0].neighbours._coordinates is not coordinates
