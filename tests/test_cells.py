"""Windows that look everywhere, at the patches that matter, against looking at all of them."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from skpspc import LocalScoreDenoiser
from skpspc.datasets import load_photo_patches
from skpspc.posterior import CellSearch, patches
from skpspc.posterior.cells import _dtype_that_serves, visiting_posterior
from skpspc.posterior.patches import PatchDictionary, sliding_patches
from skpspc.support import TrainingSet
from skpspc.support.cells import PatchCells

pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
SIGMAS = [0.15, 0.25]


@pytest.fixture(scope="module")
def photos():
    """Larger crops, of which there are many patches."""
    return load_photo_patches(size=32, n_images=126, photos=("china", "flower")).images


pytestmark = pytest.mark.usefixtures("cells_of_few_patches")


@pytest.fixture(scope="module")
def model(photos):
    return LocalScoreDenoiser(3, equivariant=True, boundary="circular", tol=1e-3).fit(photos[:120])


def noisy(images, sigma, seed=0):
    noise = np.random.default_rng(seed).standard_normal(images.shape)
    return (images / 127.5 - 1 + sigma * noise).astype(np.float32)


def exact(model):
    """The same denoiser, exact."""
    params = {**model.get_params(), "tol": None}
    return LocalScoreDenoiser(**params).fit(
        model.training_set_.images, sample_weight=model.training_set_.sample_weight
    )


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("held_out", [False, True])
def test_errors_are_as_estimated(model, photos, sigma, held_out):
    Z = noisy(photos[120:121] if held_out else photos[:1], sigma)
    posterior, truth = model.posterior(Z, sigma), exact(model).posterior(Z, sigma)
    error = np.abs(posterior.mean - truth.mean)
    assert (posterior.error_bound > 0).all()  # few patches were enough
    assert (posterior.error_bound <= 1e-3).all()
    assert (posterior.standard_error == 0).all()  # no images were drawn; once the error bound
    # an estimate: it may fail where the nearest patch is in the outskirts of its cell
    assert (error <= posterior.error_bound[:, None, None, None] + 1e-5).mean() > 0.995
    np.testing.assert_allclose(posterior.log_evidence, truth.log_evidence, rtol=1e-2)


def test_a_smaller_tolerance_is_met_by_looking_further(photos, model):
    Z = noisy(photos[120:121], 0.2)
    truth = exact(model).denoise(Z, 0.2)
    errors = []
    for tol in (0.5, 1e-2, 1e-5):
        posterior = LocalScoreDenoiser(**{**model.get_params(), "tol": tol}).fit(photos[:120])
        posterior = posterior.posterior(Z, 0.2)
        assert (posterior.error_bound <= tol).all()
        errors.append(float(np.square(posterior.mean - truth).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]


def test_each_image_has_its_own_sigma(photos, model):
    sigma = np.array([0.15, 0.2])
    Z = np.concatenate([noisy(photos[120 + i : 121 + i], s) for i, s in enumerate(sigma)])
    together = model.denoise(Z, sigma)
    alone = np.concatenate([model.denoise(Z[i : i + 1], s) for i, s in enumerate(sigma)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.0, 50.0, np.inf])
def test_where_few_patches_do_not_do_it_is_exact(photos, model, sigma):
    Z = noisy(photos[120:121], min(sigma, 50.0))
    posterior = model.posterior(Z, sigma)
    np.testing.assert_array_equal(posterior.mean, exact(model).denoise(Z, sigma))
    assert (posterior.error_bound == 0).all()


def test_float64_is_exact(photos, model):
    Z = noisy(photos[120:121], 0.3).astype(np.float64)
    np.testing.assert_array_equal(model.denoise(Z, 0.3), exact(model).denoise(Z, 0.3))


@pytest.mark.parametrize("boundary", ["zero", "broken"])
def test_other_boundaries(photos, boundary):
    model = LocalScoreDenoiser(3, equivariant=True, boundary=boundary, tol=1e-3).fit(photos[:80])
    Z = noisy(photos[120:121], 0.2)
    posterior = model.posterior(Z, 0.2)
    error = np.abs(posterior.mean - exact(model).denoise(Z, 0.2))
    assert (posterior.error_bound > 0).all()
    assert (error <= 1e-3).mean() > 0.995


def test_signals_have_no_edges_but_their_ends(photos):
    X = np.ascontiguousarray(photos[:, :1].reshape(-1, 1, 1, photos.shape[3]))
    model = LocalScoreDenoiser(5, equivariant=True, boundary="broken", tol=1e-3).fit(X[:2000])
    Z = noisy(X[2100:2103], 0.05)
    posterior = model.posterior(Z, 0.05)
    assert (posterior.error_bound > 0).all()
    error = np.abs(posterior.mean - exact(model).denoise(Z, 0.05))
    assert (error <= 1e-3).mean() > 0.98


def test_sample_weights_and_float_images(photos):
    X = (photos[:80] / 127.5 - 1).astype(np.float32)
    weight = np.arange(80) % 5 + 0.1
    weight[3] = 0
    model = LocalScoreDenoiser(3, equivariant=True, boundary="circular", tol=1e-3)
    model.fit(X, sample_weight=weight)
    Z = noisy(photos[:1], 0.2)
    posterior, truth = model.posterior(Z, 0.2), exact(model).posterior(Z, 0.2)
    assert (posterior.error_bound > 0).all()
    assert (np.abs(posterior.mean - truth.mean) <= 1e-3).mean() > 0.995
    unweighted = LocalScoreDenoiser(3, equivariant=True, boundary="circular").fit(X)
    assert (np.abs(unweighted.denoise(Z, 0.2) - truth.mean) <= 1e-3).mean() < 0.9


def test_threads_do_not_change_a_bit(photos, model):
    Z = noisy(photos[120:121], 0.2)
    before = torch.get_num_threads()
    answers = []
    for n in (1, 3):
        torch.set_num_threads(n)
        answers.append(model.denoise(Z, 0.2))
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*answers)


def test_threads_that_ask_together_make_one_index(monkeypatch, photos, model):
    Z = noisy(photos[120:121], 0.2)
    expected, made = model.denoise(Z, 0.2), []

    class Counted(PatchCells):
        def __init__(self, *args):
            made.append(args)
            super().__init__(*args)

    monkeypatch.setattr("skpspc.support.cells.PatchCells", Counted)
    again = LocalScoreDenoiser(**model.get_params()).fit(photos[:120])
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: again.denoise(Z, 0.2), range(3)))
    assert len(made) == 1
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)


def test_the_index_goes_with_the_model(monkeypatch, photos, model):
    Z = noisy(photos[120:121], 0.2)
    expected = model.denoise(Z, 0.2)
    again = pickle.loads(pickle.dumps(model))
    monkeypatch.setattr("skpspc.support.cells.PatchCells", None)  # not made again
    np.testing.assert_array_equal(again.denoise(Z, 0.2), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_new_images_are_found(monkeypatch, photos, weighted):
    weight = np.linspace(0.2, 3, 120) if weighted else None
    some, more = (None, None) if weight is None else (weight[:80], weight[80:])
    model = LocalScoreDenoiser(3, equivariant=True, boundary="circular", tol=1e-3)
    model.fit(photos[:80], sample_weight=some).denoise(noisy(photos[:1], 0.2), 0.2)
    model.partial_fit(photos[80:120], sample_weight=more)
    monkeypatch.setattr("sklearn.cluster.KMeans.fit", None)  # cells are not made anew
    Z = noisy(photos[100:101], 0.2)
    difference = np.abs(model.denoise(Z, 0.2) - exact(model).denoise(Z, 0.2))
    assert (difference <= 1e-3).mean() > 0.995


def test_extended_cells_hold_every_patch_once_and_know_its_moments(photos):
    known, dictionary = (
        PatchDictionary(TrainingSet(torch.from_numpy(photos[:n])), (3, 3), (1, 1)) for n in (40, 70)
    )
    cells = PatchCells(known).extended(dictionary)
    np.testing.assert_array_equal(np.sort(cells.order), np.arange(len(dictionary)))
    assert np.diff(cells.ends).min() >= 0 and cells.ends[-1] == len(dictionary)
    patches = dictionary.take(torch.from_numpy(cells.order.astype(np.int64))).patches
    turned = (patches.numpy() / 127.5 - 1 - cells._centre) @ cells._basis
    for k in range(0, len(cells), 7):
        mine = turned[cells.ends[k] : cells.ends[k + 1]]
        if len(mine):
            np.testing.assert_allclose(cells._mean[k], mine.mean(0), atol=1e-5)
            np.testing.assert_allclose(cells._variance[k], mine.var(0), atol=1e-5)


def test_cells_are_made_anew_once_they_are_outgrown(photos):
    known, dictionary = (
        PatchDictionary(TrainingSet(torch.from_numpy(photos[:n])), (3, 3), (1, 1)) for n in (20, 60)
    )
    cells = PatchCells(known).extended(dictionary)
    assert len(cells) == len(PatchCells(dictionary))
    np.testing.assert_array_equal(np.sort(cells.order), np.arange(len(dictionary)))


@pytest.mark.parametrize("images", ["one", "constant", "copies"])
def test_few_different_patches(images):
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (1, 1, 8, 8)).astype(np.uint8)
    X = {"one": one, "constant": np.full((20, 1, 8, 8), 7, np.uint8), "copies": one.repeat(30, 0)}
    X = X[images]
    model = LocalScoreDenoiser(3, equivariant=True, boundary="circular", tol=1e-3).fit(X)
    Z = noisy(X[:1], 0.2)
    np.testing.assert_allclose(
        model.denoise(Z, 0.2), exact(model).denoise(Z, 0.2), rtol=0, atol=1e-3
    )


def test_cells_hold_every_patch_once_and_know_their_mass(photos):
    dictionary = PatchDictionary(TrainingSet(torch.from_numpy(photos[:60])), (3, 3), (1, 1))
    cells = PatchCells(dictionary)
    np.testing.assert_array_equal(np.sort(cells.order), np.arange(len(dictionary)))
    assert cells.ends[0] == 0 and cells.ends[-1] == len(dictionary)
    assert (np.diff(cells.ends) > 0).all()
    everything = sliding_patches(torch.from_numpy(photos[:60]), (3, 3)).reshape(-1, 27) / 127.5 - 1
    noise = torch.randn((40, 27), generator=torch.Generator().manual_seed(1))
    query = everything[:: len(everything) // 40][:40] + 0.2 * noise
    logit = -torch.cdist(query.double(), everything.double()).square() / (2 * 0.2**2)
    mass = torch.zeros(len(query), len(cells), dtype=torch.float64)
    cell = np.repeat(np.arange(len(cells)), np.diff(cells.ends))
    mass.index_add_(1, torch.from_numpy(cell), logit[:, torch.from_numpy(cells.order).long()].exp())
    room = cells.masses(0.2)(query).double() - mass.log()
    matters = mass > 0.01 * mass.sum(1, keepdim=True)
    assert room[matters].median().abs() < 0.5
    assert (room[matters].abs() < 3.0).double().mean() > 0.9


def test_tol_is_for_windows_that_look_everywhere(photos):
    with pytest.raises(ValueError, match="equivariant=True"):
        LocalScoreDenoiser(3, tol=1e-3).fit(photos[:5])


def test_a_progress_bar_while_the_index_is_made(capfd, photos):
    model = LocalScoreDenoiser(3, equivariant=True, boundary="circular", tol=1e-3, verbose=1)
    model.fit(photos[:20]).denoise(noisy(photos[:1], 0.2), 0.2)
    assert "indexing patches" in capfd.readouterr().err


def test_without_compiled_code_it_is_exact(monkeypatch, photos, model):
    monkeypatch.setattr("skpspc.posterior.cells.compiled_serves", lambda z: False)
    dictionary = PatchDictionary(model.training_set_, (3, 3), (1, 1))
    queries = torch.from_numpy(noisy(photos[120:121], 0.3)).reshape(-1)[:540].reshape(20, 27)
    sigma = torch.full((20,), 0.3, dtype=torch.float64)
    part = visiting_posterior(queries, sigma, dictionary, CellSearch(None, 1e-3))
    expected = patches.patch_posterior(queries, sigma, dictionary)
    assert torch.equal(part.mean, expected.mean)


def test_pixels_that_differ_more_by_place_than_by_image():
    """What is left out may come from any place, so that the range of one pixel says little."""
    ramp = np.linspace(-1, 1, 1024, dtype=np.float32).reshape(1, 1, 32, 32)
    noise = 0.01 * np.random.default_rng(0).standard_normal((40, 1, 32, 32))
    X = (ramp + noise).astype(np.float32)
    model = LocalScoreDenoiser(3, equivariant=True, boundary="circular", tol=1e-3).fit(X)
    posterior = model.posterior(X[:1], 0.05)
    assert ((posterior.error_bound > 0) & (posterior.error_bound <= 1e-3)).all()
    assert np.abs(posterior.mean - exact(model).denoise(X[:1], 0.05)).max() < 1e-2


@pytest.mark.parametrize("sigma", [0.003, 0.03, 0.3])
@pytest.mark.parametrize("unit", [2.0**-20, 2.0**20])
def test_the_dtype_of_distances_does_not_depend_on_the_unit(photos, sigma, unit):
    images = torch.from_numpy(photos[:20] / 127.5 - 1)

    def dtype(unit):
        dictionary = PatchDictionary(TrainingSet(images * unit), (3, 3), (1, 1))
        return _dtype_that_serves(torch.tensor([sigma]) * unit, dictionary, 1e-3 * unit)

    assert dtype(unit) == dtype(1.0)
