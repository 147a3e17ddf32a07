"""PSPC by k-d trees against all patches: what it compares, and the bound that it states."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from skpspc import PSPCDenoiser, load
from skpspc.datasets import load_digits_images, load_photo_patches
from skpspc.posterior import TreeCache, location_trees, tree
from skpspc.posterior._tree_sizes import LANES
from skpspc.posterior.box import box
from skpspc.posterior.location_trees import LocationTrees
from skpspc.support import MirroredTrainingSet, Squares, TrainingSet
from skpspc.support.windows import square_corners

pytest.importorskip("numba", reason="numba is not installed (extra cpu)")


@pytest.fixture(scope="module")
def photos():
    """Photographs (1200, 3, 12, 12) uint8: more than one group of cells."""
    return load_photo_patches(size=12, n_images=1200).images


def noisy(images, sigma, dtype=np.float32, seed=0):
    noise = np.random.default_rng(seed).standard_normal(images.shape)
    return (images / 127.5 - 1 + sigma * noise).astype(dtype)


def pair(X, Z, sigma, *, tol=None, algorithm="kd_tree", sample_weight=None, **params):
    """The posteriors by trees and by all patches."""
    exact = PSPCDenoiser(**params).fit(X, sample_weight=sample_weight)
    fast = PSPCDenoiser(algorithm=algorithm, tol=tol, **params).fit(X, sample_weight=sample_weight)
    return fast.posterior(Z, sigma), exact.posterior(Z, sigma)


def largest_error(fast, exact):
    return np.abs(fast.mean.astype(np.float64) - exact.mean).reshape(len(fast.mean), -1).max(1)


def check(fast, exact, tol):
    """Check the proved bound, and that few patches are missed."""
    assert fast.bound_is_proved.all()
    assert (fast.error_bound <= tol * (1 + 1e-5)).all()
    assert (largest_error(fast, exact) <= fast.error_bound + 3e-6).all()
    if tol <= 1e-3:
        np.testing.assert_allclose(fast.log_evidence, exact.log_evidence, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("shape", "patch_size"),
    [
        ((3, 8, 8), 3),
        ((1, 8, 8), 1),
        ((3, 9, 5), 4),
        ((2, 6, 7), 5),
        ((4, 7, 7), 2),
        ((1, 1, 16), 6),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_every_shape(shape, patch_size, dtype):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (330, *shape)).astype(dtype)
    X = X if dtype == np.uint8 else (X / 127.5 - 1).astype(dtype)
    Z = rng.uniform(-1, 1, (3, *shape)).astype(np.float32)
    for sigma in (0.2, 1.0):
        check(*pair(X, Z, sigma, patch_size=patch_size, tol=1e-3), 1e-3)


@pytest.mark.parametrize("tol", [1e-6, 1e-3, 0.1, 5.0])
@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.3, 1.0])
def test_bound_holds_at_every_tolerance(photos, sigma, tol):
    Z = noisy(photos[1000:1004], sigma)
    check(*pair(photos[:1000], Z, sigma, patch_size=3, tol=tol), tol)


def test_fewer_patches_are_compared(photos):
    training_set = TrainingSet(torch.from_numpy(photos[:1150]))
    trees = TreeCache().at_all_locations(training_set, (3, 3))
    z = torch.from_numpy(noisy(photos[1150:], 0.05))
    sigma = torch.full((len(z),), 0.05, dtype=torch.float64)
    compared = {
        tol: tree._visited(trees, z, sigma, training_set, tol).compared for tol in (1e-6, 0.1)
    }
    assert compared[0.1].mean() < compared[1e-6].mean() < 0.5
    assert (compared[1e-6] > 0).all()


@settings(max_examples=60)
@given(
    n=st.integers(1, 1100),
    d=st.integers(1, 12),
    scale=st.floats(0.05, 50),
    seed=st.integers(0, 99),
    data=st.sampled_from(["uniform", "few values", "constant", "line"]),
)
def test_any_patches(n, d, scale, seed, data):
    """Cells hold every patch once, in its box, whatever the patches are."""
    rng = np.random.default_rng(seed)
    patches = {
        "uniform": lambda: rng.integers(0, 256, (n, d)),
        "few values": lambda: rng.choice([0, 7, 255], (n, d)),
        "constant": lambda: np.full((n, d), 9),
        "line": lambda: np.linspace(0, 255, n)[:, None] + np.zeros(d),
    }[data]().astype(np.uint8)
    training_set = TrainingSet(torch.from_numpy(patches.reshape(n, 1, 1, d)))
    trees = TreeCache().at_all_locations(training_set, (1, d))
    stored = trees.patches[0].transpose(0, 2, 1).reshape(-1, d)
    assert (stored[n:] == stored[n - 1]).all()
    assert sorted(stored[:n].tolist()) == sorted(patches.tolist())
    check_boxes(trees, stored[:n], n, rng)
    sigma, tol = torch.tensor([scale]).double(), 1e-3
    z = torch.from_numpy(rng.uniform(-1, 1, (1, 1, 1, d)).astype(np.float32))
    visited = tree._visited(trees, z, sigma, training_set, tol)
    exact = box(z.double(), sigma, training_set, Squares(1, d), "torch")
    fast = tree._composed(visited, trees, z, training_set)
    assert float(fast.error_bound) <= tol * (1 + 1e-5)
    assert float((fast.mean - exact.mean).abs().max()) <= float(fast.error_bound) + 3e-6
    missed = 1 - torch.exp(fast.log_norm - exact.log_norm.reshape(1, 1))
    assert missed.item() <= visited.missed.item() + 1e-3


def check_boxes(trees, stored, n, rng):
    """Check that boxes hold their patches, and that bounds are above the mass of their patches."""
    from skpspc.posterior import _tree_numba

    basis, centre = trees.basis[0].astype(np.float64), trees.centre[0]
    offset = stored - centre.astype(np.float64)
    y = offset @ basis
    residual = np.linalg.norm(offset - y @ basis.T, axis=1)
    r = y.shape[1]
    for boxes, size in ((trees.boxes[0], LANES), (trees.tops[0], LANES**2)):
        flat = boxes.transpose(0, 2, 1).reshape(-1, boxes.shape[1])
        number = np.arange(n) // size
        own = flat[number]
        assert (own[:, :r] <= y).all() and (y <= own[:, r : 2 * r]).all()
        assert (own[:, 2 * r] <= residual).all() and (residual <= own[:, 2 * r + 1]).all()
        counts = np.bincount(number, minlength=len(flat))
        np.testing.assert_allclose(np.exp(flat[:, -1]), counts, rtol=1e-5)
        for far in (30, 300, 3000):
            z = (centre + far * rng.standard_normal(len(centre))).astype(np.float32)
            own_y, bound = np.empty(r, np.float32), np.empty(len(flat), np.float32)
            norm, rest = _tree_numba._coordinates(z, trees.centre[0], trees.basis[0], own_y)
            slack = _tree_numba._NORM_SLACK * norm
            scale = np.float32(10 / far**2)
            for group in range(len(boxes)):
                limits = np.float32(rest - slack), np.float32(rest + slack)
                at = np.int64(group * boxes[0].size)
                arrays = boxes.reshape(-1), at, own_y, limits, scale, bound, np.int64(group * LANES)
                _tree_numba._bound(*arrays)
            logit = -np.float64(scale) * np.square(z.astype(np.float64) - stored).sum(1)
            mass = [np.logaddexp.reduce(logit[number == k]) for k in range(number[-1] + 1)]
            assert (bound[: len(mass)] >= np.array(mass) - 1e-4 - 1e-6 * np.abs(mass)).all()


@pytest.mark.parametrize("flip", [False, True])
def test_weights_and_mirror_images(photos, flip):
    weight = np.random.default_rng(1).uniform(0.01, 30, 500)
    weight[::7] = 0
    for sigma in (0.1, 0.5):
        Z = noisy(photos[500:503], sigma)
        params = dict(patch_size=3, flip=flip, sample_weight=weight)
        check(*pair(photos[:500], Z, sigma, tol=1e-4, **params), 1e-4)


def test_auto_compares_all_where_that_is_faster(photos, monkeypatch):
    X, Z = photos[:600], noisy(photos[600:602], 0.1)
    built = []
    real = LocationTrees.__init__

    def counting(self, training_set, window, corners):
        built.append(len(corners))
        real(self, training_set, window, corners)

    monkeypatch.setattr(LocationTrees, "__init__", counting)
    assert (PSPCDenoiser(3, tol=1e-3).fit(X).posterior(Z, 0.1).error_bound == 0).all()
    assert built == []  # few images
    monkeypatch.setattr(tree, "_FEWEST_IMAGES", 600)
    model = PSPCDenoiser(3, tol=1e-3).fit(X)
    assert (model.posterior(noisy(photos[600:602], 3.0), 3.0).error_bound == 0).all()
    assert built == [4]
    monkeypatch.setattr(tree, "_largest_fraction", lambda d: 1.0)
    assert (model.posterior(Z, 0.1).error_bound > 0).any()
    assert built == [4, 100]
    assert (PSPCDenoiser(3, algorithm="exact").fit(X).posterior(Z, 0.1).error_bound == 0).all()


def test_what_trees_do_not_serve(photos):
    X, Z = photos[:300], noisy(photos[300:302], 0.1)
    model = PSPCDenoiser(3, algorithm="kd_tree").fit(X)
    exact = PSPCDenoiser(3).fit(X)
    for z, sigma in ((Z, 0.001), (Z, 0.0), (Z, np.inf)):
        found = model.posterior(z, sigma)
        np.testing.assert_array_equal(found.mean, exact.posterior(z, sigma).mean)
        assert (found.error_bound == 0).all()
    assert (model.posterior(Z, 0.1).error_bound > 0).all()
    for size in (12, 6):
        with pytest.warns(UserWarning, match="at most 100 values"):
            large = PSPCDenoiser(size, algorithm="kd_tree").fit(X)
        expected = PSPCDenoiser(size).fit(X).denoise(Z, 0.1)
        np.testing.assert_array_equal(large.denoise(Z, 0.1), expected)


@pytest.mark.parametrize("tol", [1e-12, 1e-300, 1e30])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 127.5, 1e8, 1e15])
@pytest.mark.filterwarnings("ignore:Z has values")
def test_any_noisy_images_and_tolerances(photos, scale, tol):
    """Noisy images far from the data, and tolerances that mean nothing, take no other path."""
    X = np.concatenate([photos[:40, :, :5, :5]] * 30)  # duplicates
    Z = (scale * np.random.default_rng(0).standard_normal((2, 3, 5, 5))).astype(np.float32)
    for sigma in (0.02, 1.0):
        fast, exact = pair(X, Z, sigma, patch_size=3, tol=tol)
        assert (largest_error(fast, exact) <= fast.error_bound + 1e-5).all()
        assert (fast.error_bound <= min(tol, 0.02)).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("noise", [0.3, 0.6, 5.0])
def test_noisy_images_that_are_far_from_all_patches(photos, noise, weighted):
    """Sums of float64 keep the weights of far patches exact."""
    weight = np.random.default_rng(0).uniform(0.1, 9, 400) if weighted else None
    Z = noisy(photos[400:403], noise)
    fast, exact = pair(photos[:400], Z, 0.03, patch_size=3, tol=1e-3, sample_weight=weight)
    check(fast, exact, 1e-3)
    assert (fast.error_bound > 0).any() == (noise < 5)  # farther, all patches are compared


def test_weights_over_many_decades(photos):
    weight = np.geomspace(1e-300, 1, 300)
    Z = noisy(photos[:2], 0.02)
    check(*pair(photos[:300], Z, 0.02, patch_size=3, tol=1e-3, sample_weight=weight), 1e-3)


def test_many_groups():
    """More than 32 groups of cells, so that groups have groups."""
    X = np.random.default_rng(0).integers(0, 256, (40_000, 1, 1, 4)).astype(np.uint8)
    Z = noisy(X[:5], 0.05, seed=1)
    check(*pair(X, Z, 0.05, patch_size=2, tol=1e-3), 1e-3)
    trees = TreeCache().at_all_locations(TrainingSet(torch.from_numpy(X)), (1, 3))
    assert trees.tops.shape[1] == 2
    check_boxes(
        trees, trees.patches[0].transpose(0, 2, 1).reshape(-1, 3), 40_000, np.random.default_rng(1)
    )


@pytest.mark.parametrize("n", [1, 2, 33, 1025])
def test_few_training_images(photos, n):
    X = np.concatenate([photos, photos])[:n]
    check(*pair(X, noisy(photos[:2], 0.1), 0.1, patch_size=3, tol=1e-3), 1e-3)


@pytest.mark.parametrize(("scale", "offset"), [(1e-5, 0.0), (1.0, 300.0)])
def test_floats_of_any_scale(photos, scale, offset):
    X = ((photos[:200] / 127.5 - 1) * scale + offset).astype(np.float32)
    Z = X[:3] + np.float32(0.1 * scale) * np.random.default_rng(0).standard_normal(X[:3].shape)
    fast, exact = pair(X, Z.astype(np.float32), 0.1 * scale, patch_size=3, tol=1e-3 * scale)
    assert (largest_error(fast, exact) <= fast.error_bound + 3e-5 * scale + 1e-6 * offset).all()


@pytest.mark.parametrize("params", [dict(algorithm="kd_tree"), dict(tol=1e-3)])
def test_float64_noisy_images_warn(photos, params):
    model = PSPCDenoiser(3, **params).fit(photos[:50])
    with pytest.warns(UserWarning, match="Pass float32 images"):
        model.denoise(noisy(photos[:1], 0.1, np.float64), 0.1)


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.float16])
def test_tolerances_of_every_type(photos, kind):
    Z = noisy(photos[300:302], 0.1)
    check(*pair(photos[:300], Z, 0.1, patch_size=3, tol=kind(0.01)), 0.0101)


def test_mapped_files(photos, tmp_path):
    np.save(tmp_path / "images.npy", photos[:300])
    Z = noisy(photos[300:302], 0.1)
    for flip in (False, True):
        model = PSPCDenoiser(3, flip=flip, algorithm="kd_tree")
        expected = model.fit(photos[:300]).denoise(Z, 0.1)
        np.testing.assert_array_equal(model.fit(tmp_path / "images.npy").denoise(Z, 0.1), expected)


def test_calibration_compares_all(photos, monkeypatch):
    monkeypatch.setattr(tree, "by_tree", None)
    fitted = PSPCDenoiser("calibrated", algorithm="kd_tree").fit(photos[:60])
    assert fitted.patch_schedule_ == PSPCDenoiser("calibrated").fit(photos[:60]).patch_schedule_


def test_trial_locations_are_apart():
    for side in (1, 2, 10, 24, 28, 30):
        training_set = TrainingSet(torch.zeros(3, 1, side + 2, side + 2))
        corners = TreeCache().at_trial_locations(training_set, (3, 3)).corners
        assert len({tuple(corner) for corner in corners}) == len(corners) <= 4
        assert corners.min() >= 0 and corners.max() < side
        assert side < 4 or (len(corners) == 4 and (corners > 0).all())


def test_noisy_images_of_several_levels(photos):
    X, Z = photos[:500], noisy(photos[500:505], 0.2)
    sigma = np.array([0.1, 0.0, 0.2, 5.0, 0.0001])
    check(*pair(X, Z, sigma, patch_size=3, tol=1e-4), 1e-4)


def test_samples_classes_and_partial_fit(photos):
    labels = np.arange(400) % 2
    fast, exact = (
        PSPCDenoiser(3, **search).fit(photos[:400], labels)
        for search in ({"algorithm": "kd_tree", "tol": 1e-6}, {})
    )
    draw = dict(random_state=0, n_steps=4)
    np.testing.assert_allclose(fast.sample(2, **draw), exact.sample(2, **draw), rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        fast.sample(2, y=1, **draw), exact.sample(2, y=1, **draw), rtol=0, atol=1e-4
    )
    for model in (fast, exact):
        model.partial_fit(photos[400:800], np.arange(400) % 2)
    Z = noisy(photos[800:802], 0.1)
    np.testing.assert_allclose(fast.denoise(Z, 0.1), exact.denoise(Z, 0.1), rtol=0, atol=1e-5)


def test_results_do_not_depend_on_threads_or_neighbours(photos):
    model = PSPCDenoiser(3, algorithm="kd_tree").fit(photos[:500])
    Z = noisy(photos[500:509], 0.1)
    together = model.denoise(Z, 0.1)
    np.testing.assert_array_equal(together[4:5], model.denoise(Z[4:5], 0.1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 + before % 2)
        np.testing.assert_array_equal(together, model.denoise(Z, 0.1))
    finally:
        torch.set_num_threads(before)


def test_pickles_and_files_have_no_trees(photos, tmp_path):
    model = PSPCDenoiser(3, algorithm="kd_tree", tol=1e-3).fit(photos[:300])
    Z = noisy(photos[300:302], 0.1)
    expected = model.denoise(Z, 0.1)
    assert len(pickle.dumps(model)) < 2 * photos[:300].nbytes
    model.save(tmp_path / "model.safetensors")
    for other in (pickle.loads(pickle.dumps(model)), load(tmp_path / "model.safetensors")):
        np.testing.assert_array_equal(other.denoise(Z, 0.1), expected)
    assert clone(model).get_params()["tol"] == 1e-3


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (dict(algorithm="exact", tol=1e-3), "leave tol at None"),
        (dict(tol=1e-3, bandwidth=0.5), "bandwidth at 0"),
        (dict(algorithm="kd_tree", bandwidth=0.5), "algorithm at 'auto', or bandwidth at 0"),
        (dict(algorithm="kd_tree", engine="torch"), "engine at 'auto'"),
        (dict(tol=0.1, engine="torch"), "engine at 'auto'"),
        (dict(tol=0.0), "tol"),
        (dict(algorithm="faiss"), "algorithm"),
    ],
)
def test_bad_parameters(photos, params, words):
    with pytest.raises(ValueError, match=words):
        PSPCDenoiser(3, **params).fit(photos[:40])


def test_windows_of_other_shapes(photos):
    from skpspc import FlexibleWindows

    model = PSPCDenoiser(windows=FlexibleWindows("data", 0.5, [1.0]), tol=1e-3)
    with pytest.raises(ValueError, match="windows of other shapes"):
        model.fit(photos[:40])


def test_numba_is_missing(photos, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match="cpu"):
        PSPCDenoiser(3, algorithm="kd_tree").fit(photos[:40])


def test_trees_that_do_not_fit_memory(photos, monkeypatch):
    monkeypatch.setattr(location_trees, "available_bytes", lambda: 10**6)
    with pytest.raises(MemoryError, match=r"1,200 images need .* enough for \d+ images"):
        PSPCDenoiser(3, algorithm="kd_tree").fit(photos)
    model = PSPCDenoiser(lambda sigma: 3, algorithm="kd_tree").fit(photos)
    with pytest.raises(MemoryError, match="algorithm='exact'"):
        model.denoise(noisy(photos[:1], 0.1), 0.1)
    monkeypatch.setattr(location_trees, "available_bytes", lambda: 3 * 10**6)
    monkeypatch.setattr(tree, "_largest_fraction", lambda d: 1.0)
    monkeypatch.setattr(tree, "_FEWEST_IMAGES", 1)
    with pytest.warns(UserWarning, match="All patches are compared"):
        found = PSPCDenoiser(3, tol=1e-3).fit(photos).posterior(noisy(photos[:1], 0.1), 0.1)
    assert (found.error_bound == 0).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_stated_bytes_are_those_of_the_trees(photos, weighted):
    weight = torch.linspace(1, 2, 600, dtype=torch.float64) if weighted else None
    training_set = MirroredTrainingSet(TrainingSet(torch.from_numpy(photos[:600]), weight))
    trees = TreeCache().at_all_locations(training_set, (3, 4))
    names = "patches", "boxes", "tops", "basis", "centre", "log_weight"
    stated = len(trees) * location_trees._sizes(training_set, (3, 4)).n_bytes(1, weighted)
    assert stated == sum(getattr(trees, name).nbytes for name in names)
    np.testing.assert_array_equal(trees.corners, square_corners((3, 4), (3, 12, 12)))


def test_trees_are_built_once(photos):
    training_set, trees = TrainingSet(torch.from_numpy(photos[:100])), TreeCache()
    first = trees.at_all_locations(training_set, (3, 3))
    assert trees.at_all_locations(training_set, (3, 3)) is first
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(partial(trees.at_all_locations, training_set), 4 * [(2, 2)]))
    assert all(other is built[0] for other in built) and built[0] is not first


def test_progress(photos, capsys):
    PSPCDenoiser(3, algorithm="kd_tree", verbose=1).fit(photos[:80]).denoise(
        noisy(photos[:2], 0.1), 0.1
    )
    shown = capsys.readouterr().err
    assert "indexing rows of patches" in shown and "searching patches" in shown


def test_digits():
    X = load_digits_images().images
    Z = noisy(X[1700:1710], 0.1)
    check(*pair(X[:1700], Z, 0.1, patch_size=3, tol=2e-3), 2e-3)
