"""`Posterior.bound_is_proved`: which error bounds hold, and which are estimates."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from skpspc.posterior import Posterior
from skpspc.posterior.posterior import PerWindow, composite, converted, gathered, weighted

CLOSE = 1e-10  # rounding of float64, beyond which bounds hold

# Every kind that the parameter `index` of `EmpiricalDenoiser` lists as keeping the bound true.
PROVED = ["Flat", "IVF16,Flat", "SQ8", "PQ4x4", "PCA8,Flat", "OPQ4_8,Flat", "RR,Flat"]
PROVED += ["IVF16,SQ8", "PCA8,IVF16,PQ4x4"]
ESTIMATED = ["IMI2x3,Flat", "IVF8_HNSW8,Flat", "PQ4x4fs", "IVF16,PQ4x4,RFlat", "RQ4x4"]


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")


def noisy(digits, sigma, n=20):
    noise = np.random.default_rng(0).standard_normal((n, 1, 8, 8))
    return digits[1700 : 1700 + n] / 127.5 - 1 + sigma * noise


def quiet_posterior(model, Z, sigma):
    """The posterior without the warning of estimates, which has a test of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*error_bound is an estimate")
        return model.posterior(Z, sigma)


@pytest.mark.parametrize("index", PROVED)
@pytest.mark.parametrize("parameters", [{"n_neighbors": 5}, {"tol": 1e-2}], ids=str)
@pytest.mark.usefixtures("always_from_the_index", "faiss")
def test_proved_bounds_are_never_exceeded(digits, index, parameters):
    train = digits[:1000]
    model = EmpiricalDenoiser(index=index, **parameters).fit(train)
    largest = 0.0
    for sigma in (0.1, 0.3, 0.6, 1.0):
        Z = noisy(digits, sigma)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            posterior = model.posterior(Z, sigma)
        exact = EmpiricalDenoiser().fit(train).denoise(Z, sigma)
        error = np.abs(posterior.mean - exact).max((1, 2, 3))
        assert posterior.bound_is_proved.all()
        assert (error <= posterior.error_bound + CLOSE).all()
        largest = max(largest, posterior.error_bound.max())
    assert largest > 0  # images were left out


@pytest.mark.parametrize("index", ESTIMATED)
@pytest.mark.parametrize("parameters", [{"n_neighbors": 5}, {"tol": 1e-2}], ids=str)
@pytest.mark.usefixtures("always_from_the_index", "faiss")
def test_bounds_of_other_indexes_are_proved_where_no_image_was_left_out(digits, index, parameters):
    """Such an index that says how much it missed may yet give pairs with all images."""
    model = EmpiricalDenoiser(index=index, **parameters).fit(digits[:600])
    Z = noisy(digits, 0.3)
    posterior = quiet_posterior(model, Z, 0.3)
    assert posterior.bound_is_proved.dtype == bool
    exact = EmpiricalDenoiser().fit(digits[:600]).denoise(Z, 0.3)
    error = np.abs(posterior.mean - exact).max((1, 2, 3))
    proved = posterior.bound_is_proved
    assert (error[proved] <= posterior.error_bound[proved] + CLOSE).all()
    assert not proved[posterior.error_bound > 0].any()
    if "RQ" not in index and "PQ" not in index:
        assert not proved.all()


def test_graphs_give_estimates(faiss):
    """Also at a noise level at which the graph finds more images than it is asked for."""
    X = np.random.default_rng(0).standard_normal((3000, 1, 6, 6))
    model = EmpiricalDenoiser(n_neighbors=5, index="HNSW64").fit(X)
    with pytest.warns(UserWarning, match="estimate for 10 of 10 noisy images"):
        posterior = model.posterior(X[:10] + 0.1, 0.1)
    assert not posterior.bound_is_proved.any()
    assert repr(posterior).endswith("proved for 0 of 10)")


def test_all_training_images_are_a_proof(digits, faiss):
    """Where the exact kernel answers for some noisy images of a batch, those bounds are proved."""
    Z = np.concatenate([noisy(digits, 0.05, 4), noisy(digits, 20.0, 4)])
    sigma = np.repeat([0.05, 20.0], 4)
    # nearest images that are copies of training images at the small level, all at the large one
    Z[:4] = digits[:4] / 127.5 - 1
    model = EmpiricalDenoiser(tol=1e-3, index="IMI2x3,Flat").fit(digits)
    posterior = quiet_posterior(model, Z, sigma)
    np.testing.assert_array_equal(posterior.bound_is_proved, np.repeat([False, True], 4))
    assert "proved for 4 of 8" in repr(posterior)
    np.testing.assert_array_equal(posterior.error_bound[4:], 0)


@pytest.mark.parametrize(
    "model",
    [
        EmpiricalDenoiser(),
        EmpiricalDenoiser(bandwidth=0.3),
        PatchDenoiser(4, location="all"),
        PSPCDenoiser(3),
        PSPCDenoiser(3, bandwidth=0.3),
        GaussianDenoiser(),
        LocalScoreDenoiser(3, equivariant=True, boundary="broken"),
        SmoothedDenoiser(EmpiricalDenoiser(), n_draws=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("container", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_exact_denoisers_prove_their_bound(digits, model, container):
    Z = container(noisy(digits, 0.5, 3))
    posterior = clone(model).fit(digits[:100]).posterior(Z, [0.5, 0.5, 2.0])
    assert posterior.bound_is_proved.dtype == (bool if container is np.asarray else torch.bool)
    assert posterior.bound_is_proved.shape == (3,)
    assert posterior.bound_is_proved.all()


@pytest.mark.usefixtures("cells_of_few_patches")
def test_cells_give_estimates(digits):
    """The counterpart of a graph as index, for patches: `tol` of `LocalScoreDenoiser`."""
    Z = noisy(digits, 0.1, 3).astype(np.float32)
    sigma = [0.1, 0.1, np.inf]
    for boundary in ("zero", "circular", "broken"):
        model = LocalScoreDenoiser(3, equivariant=True, boundary=boundary, tol=1e-2).fit(digits)
        with pytest.warns(UserWarning, match="tol=0.01 .* tol=None"):
            posterior = model.posterior(Z[:2], sigma[:2])
        assert not posterior.bound_is_proved.any()
        assert posterior.bound_is_proved.shape == (2,)
        assert model.posterior(Z[2:], sigma[2:]).bound_is_proved.all()  # of all patches


@pytest.mark.usefixtures("faiss")
class TestCombinations:
    """A combination is proved only where all parts are that count."""

    graph = EmpiricalDenoiser(index="IMI2x3,Flat", n_neighbors=5)

    def test_smoothed(self, digits):
        model = SmoothedDenoiser(self.graph, n_draws=2).fit(digits)
        with pytest.warns(UserWarning, match="index='IMI2x3,Flat'"):
            posterior = model.posterior(noisy(digits, 0.3), 0.3)
        assert not posterior.bound_is_proved.any()

    def test_blended(self, digits):
        """Estimates where the graph has weight, proved where the Gaussian alone has."""
        members = [("graph", self.graph), ("gaussian", GaussianDenoiser())]
        model = BlendedDenoiser(members, sigmas=[0.1, 10.0], n_images=32).fit(digits)
        model.weights_ = np.array([[0.5, 0.5], [0.0, 1.0]])
        posterior = quiet_posterior(model, noisy(digits, 0.3, 2), [0.1, 10.0])
        np.testing.assert_array_equal(posterior.bound_is_proved, [False, True])

    def test_classes(self, digits):
        labels = np.arange(len(digits)) % 2
        model = EmpiricalDenoiser(index="IMI2x3,Flat", tol=1e-3).fit(digits, labels)
        Z = digits[:2] / 127.5 - 1
        with pytest.warns(UserWarning, match="estimate for 2 of 2"):
            posterior = model.posterior(Z, 0.05, labels[:2])
        assert not posterior.bound_is_proved.any()

    def test_places(self, digits):
        model = PatchDenoiser(4, location="all", index="IMI2x3,Flat", n_neighbors=5).fit(digits)
        assert not quiet_posterior(model, noisy(digits, 0.3, 2), 0.3).bound_is_proved.any()

    def test_places_of_which_one_is_not_proved(self, digits, monkeypatch):
        model = PatchDenoiser(4, location="all", n_neighbors=5).fit(digits)
        model.posterior(noisy(digits, 0.3, 2), 0.3)
        last = model._searches()[-1].neighbours
        last._index.rigorous = False
        assert not quiet_posterior(model, noisy(digits, 0.3, 2), 0.3).bound_is_proved.any()


def test_a_remainder_keeps_the_bound_true(digits, faiss):
    """The draw moves the mean by a known amount, which the bound adds."""
    model = EmpiricalDenoiser(n_neighbors=10, n_remainder=50).fit(digits)
    posterior = model.posterior(noisy(digits, 3.0), 3.0)
    exact = EmpiricalDenoiser().fit(digits).denoise(noisy(digits, 3.0), 3.0)
    assert posterior.bound_is_proved.all()
    error = np.abs(posterior.mean - exact).max((1, 2, 3))
    assert (error <= posterior.error_bound + CLOSE).all()
    graph = model.set_params(index="IMI2x3,Flat").fit(digits)
    assert not quiet_posterior(graph, noisy(digits, 0.3), 0.3).bound_is_proved.any()


def test_warns_once_for_each_fit(digits, faiss):
    Z = noisy(digits, 0.3, 3)
    model = EmpiricalDenoiser(index="IMI2x3,Flat", n_neighbors=5).fit(digits)
    remedy = "3 of 3 noisy images.*index='IMI2x3,Flat' .* index_recall, .* Flat, IVF, SQ"
    for _ in range(2):
        with pytest.warns(UserWarning, match=remedy) as caught:
            model.denoise(Z, 0.3)
            model.posterior(Z, 0.3)
            pickle.loads(pickle.dumps(model)).posterior(Z, 0.3)
        assert len(caught) == 1
        model.fit(digits)


def test_combining_posteriors_keeps_what_is_proved():
    def posterior(proved):
        n = len(proved)
        ones = torch.ones(n)
        return Posterior(torch.zeros(n, 1, 2, 2), ones, ones, ones, ones, proved)

    yes, no = torch.tensor([True, True]), torch.tensor([False, False])
    joined = gathered(
        [(torch.tensor([2, 0]), posterior(yes)), (torch.tensor([1, 3]), posterior(no))], 4
    )
    assert joined.bound_is_proved.tolist() == [True, False, True, False]
    assert converted(joined, torch.clone).bound_is_proved.tolist() == [True, False, True, False]
    ones = torch.ones(2, 1)
    result = PerWindow(torch.zeros(2, 1, 2, 2), ones, ones, bound_is_proved=no)
    exact = PerWindow(torch.zeros(1, 1, 2, 2), ones[:1], ones[:1])
    updated = result.updated(torch.tensor([1]), exact)
    assert updated.bound_is_proved.tolist() == [False, True]
    level = torch.ones(2, dtype=torch.float64)
    assert composite(updated, level, 4).bound_is_proved.tolist() == [False, True]
    rows, half = torch.tensor([0, 1]), torch.full((2,), 0.5, dtype=torch.float64)
    mixed = torch.tensor([True, False])
    blend = weighted([(rows, half, posterior(yes)), (rows, half, posterior(mixed))], 2)
    assert blend.bound_is_proved.tolist() == [True, False]


def test_a_bound_that_is_nan_is_not_proved():
    one = np.ones(2)
    posterior = Posterior(np.zeros((2, 1, 2, 2)), one, one, np.array([0.1, np.nan]))
    assert posterior.bound_is_proved.tolist() == [True, False]
    assert repr(posterior).endswith("error_bound=0.1, proved for 1 of 2, none for 1)")
