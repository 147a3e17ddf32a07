"""Saved denoisers: equal bits after loading, refusals that name the parameter, hostile files."""

import contextlib
import copy
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from sklearn.frozen import FrozenEstimator

import skpspc
from skpspc import (
    AutoDenoiser,
    BandwidthSchedule,
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PatchSchedule,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SingleImageDenoiser,
    SmoothedDenoiser,
    load,
    tapered_windows,
)
from skpspc.saving import checks, classes, codec, file

SHAPE = (2, 5, 4)
SCHEDULE = PatchSchedule([0.1, 1.0, 10.0], [1, 3, 5])
BANDWIDTHS = BandwidthSchedule(np.array([0.1, 1.0]), np.array([0.0, 0.4], np.float32))
HEAT = np.random.default_rng(3).random((2, 5, 4, 5, 4)).astype(np.float32) + 0.01
WINDOWS = tapered_windows(SHAPE, 3)

DENOISERS = {
    "empirical": EmpiricalDenoiser(),
    "empirical-bandwidth": EmpiricalDenoiser(bandwidth=BANDWIDTHS),
    "empirical-calibrated": EmpiricalDenoiser(bandwidth="calibrated"),
    "empirical-index": EmpiricalDenoiser(n_neighbors=SCHEDULE, n_remainder=2),
    "empirical-tol": EmpiricalDenoiser(tol=0.01),
    "gaussian": GaussianDenoiser(),
    "gaussian-rank": GaussianDenoiser(7, shrinkage="oas", random_state=None),
    "pca": PCALocalityDenoiser(),
    "pca-batchwise": PCALocalityDenoiser(softmax="batchwise", batch_size=5),
    "smoothed": SmoothedDenoiser(PatchDenoiser(3), n_draws=2),
    "patch": PatchDenoiser(3, location=(1, 0), bandwidth=0.3),
    "patch-all": PatchDenoiser(3, location="all"),
    "patch-index": PatchDenoiser(3, location="all", n_neighbors=4),
    "pspc": PSPCDenoiser(2),
    "pspc-paper": PSPCDenoiser(),
    "pspc-schedule": PSPCDenoiser(SCHEDULE, flip=True),
    "pspc-tapered": PSPCDenoiser(3, query_taper=1.0),
    "pspc-moved": PSPCDenoiser(SCHEDULE, response_taper=0.5, flip=True, max_shift=1),
    "pspc-calibrated": PSPCDenoiser("calibrated", bandwidth="calibrated"),
    "pspc-global": PSPCDenoiser(SCHEDULE, bandwidth=0.6, smoothing="global", flip=True),
    "pspc-stationary": PSPCDenoiser(SCHEDULE, bandwidth=0.6, smoothing="stationary"),
    "pspc-flexible": PSPCDenoiser(windows=FlexibleWindows("data", [0.6, 0.9], [0.1, 1.0])),
    "pspc-soft": PSPCDenoiser(windows=FlexibleWindows(HEAT, 0.9, (0.1, 1.0), soft=True)),
    "local": LocalScoreDenoiser(SCHEDULE),
    "single-image": SingleImageDenoiser(3, scales=(1, 2)),
    "local-circular": LocalScoreDenoiser(3, equivariant=True, boundary="circular"),
    "local-broken": LocalScoreDenoiser(SCHEDULE, equivariant=True, boundary="broken"),
    "blended": BlendedDenoiser(
        [("pspc", PSPCDenoiser(SCHEDULE)), ("smoothed", SmoothedDenoiser(GaussianDenoiser(3)))],
        PSPCDenoiser(1),
        sigmas=[0.2, 1.0],
        n_images=3,
        random_state=np.random.RandomState(5),
    ),
    "auto": AutoDenoiser(1, n_images=4, n_fitted=40),
    "collection": PosteriorMeanCollection(WINDOWS, source="translates"),
    "collection-tensor": PosteriorMeanCollection(torch.tensor(WINDOWS, dtype=torch.bfloat16)),
    "collection-flips": PosteriorMeanCollection(WINDOWS.tolist(), WINDOWS, source="flips"),
}
LABELLED = [name for name in DENOISERS if not name.startswith("blended")]


@pytest.fixture(params=DENOISERS)
def model(request, device):
    """Every denoiser, not fitted."""
    model = copy.deepcopy(DENOISERS[request.param])
    getattr(model, "denoiser", model).set_params(device=device)
    return model


@pytest.fixture(scope="module")
def X():
    """Training images, (14, 2, 5, 4) uint8."""
    return np.random.default_rng(1).integers(0, 256, (14, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def Z(X):
    """Noisy images, (5, 2, 5, 4) float64."""
    noise = np.random.default_rng(2).standard_normal((5, *SHAPE))
    return X[:5] / 127.5 - 1 + 0.4 * noise


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def saved(model, path, **options):
    """A denoiser after saving and loading."""
    model.save(path, include_data="X" not in options)
    return load(path, **options)


def names(opened):
    """Names of the tensors of an open safetensors file."""
    return list(opened.keys())


def assert_equal(one, other, Z, y=None):
    """Equal bits of posterior and samples, and equal parameters."""
    levels = [0.05, 0.4, 0.4, 2.0, 30.0]
    first, second = one.posterior(Z, levels), other.posterior(Z, levels)
    for name in ("mean", "log_evidence", "effective_sample_size", "error_bound"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)
    samples = [m.sample(2, y=y, random_state=0, n_steps=3) for m in (one, other)]
    np.testing.assert_array_equal(*samples)
    if y is not None:
        np.testing.assert_array_equal(one.classes_, other.classes_)
        assert one.classes_.dtype == other.classes_.dtype
        denoised = [m.denoise(Z, 0.4, y=y, guidance=1.5) for m in (one, other)]
        np.testing.assert_array_equal(*denoised)
    assert_same_parameters(one.get_params(), other.get_params())


def assert_same_parameters(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert_same(value, other[name])


def assert_same(value, again):
    """Equal values of equal types; estimators have equal parameters."""
    assert type(value) is type(again)
    if hasattr(value, "get_params"):
        assert_same_parameters(value.get_params(), again.get_params())
    elif isinstance(value, torch.Tensor):
        assert value.dtype == again.dtype
        assert torch.equal(value, again)
    elif isinstance(value, np.ndarray):
        assert value.dtype == again.dtype
        np.testing.assert_array_equal(value, again)
    elif isinstance(value, (list, tuple)):
        assert len(value) == len(again)
        list(map(assert_same, value, again))
    elif isinstance(value, (np.random.RandomState, np.random.Generator)):
        first, second = map(copy.deepcopy, (value, again))
        assert first.standard_normal() == second.standard_normal()
    elif isinstance(value, (PatchSchedule, BandwidthSchedule)):
        assert_same(list(vars(value).values()), list(vars(again).values()))
    else:
        assert value == again


# ----------------------------------------------------------------------- equal bits


def test_a_saved_denoiser_gives_equal_bits(model, X, Z, path):
    model.fit(X)
    assert_equal(model, saved(model, path), Z)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("labels", ["text", "int"])
def test_labels_and_weights(name, labels, X, Z, path):
    y = np.array(["cat", "dog", "bird"])[np.arange(14) % 3] if labels == "text" else X[:, 0, 0, 0]
    y = y if labels == "text" else (y > 90).astype(np.uint32)
    model = copy.deepcopy(DENOISERS[name])
    model.fit(X, y, sample_weight=np.arange(14) % 4 + 0.25)
    again = saved(model, path)
    assert_equal(model, again, Z, y=y[1])


def test_partial_fit_goes_on_after_loading(model, X, Z, path):
    model.fit(X[:9], sample_weight=np.arange(9) % 3)
    model.denoise(Z, 0.4)  # builds indexes, of the first images
    again = saved(model, path)
    for one in (model, again):
        one.partial_fit(X[9:])
    assert_equal(model, again, Z)
    assert_equal(model, saved(model, path), Z)


def test_fitting_again_after_loading(model, X, Z, path):
    again = saved(model.fit(X[:8]), path)
    if isinstance(model.random_state, np.random.RandomState):
        again.set_params(random_state=copy.deepcopy(model.random_state))
    assert_equal(model.fit(X), again.fit(X), Z)


def test_a_denoiser_without_a_fit(model, path):
    again = saved(model, path)
    assert_same_parameters(model.get_params(), again.get_params())
    assert not hasattr(again, "image_shape_")


def test_parameters_set_after_the_fit(X, Z, path):
    model = PSPCDenoiser(2).fit(X).set_params(patch_size=4, sigma=np.float32(0.25))
    again = saved(model, path)
    assert_equal(model, again, Z)
    assert_equal(model.fit(X), again.fit(X), Z)


@pytest.mark.parametrize(
    "random_state",
    [
        np.random.RandomState(3),
        np.random.default_rng(4),
        *(
            np.random.Generator(getattr(np.random, name)(6))
            for name in ("MT19937", "PCG64DXSM", "Philox", "SFC64")
        ),
    ],
    ids=str,
)
def test_generators_go_on_where_they_were(random_state, path):
    random_state.standard_normal(3)
    again = saved(EmpiricalDenoiser(random_state=random_state), path)
    assert again.random_state.standard_normal() == random_state.standard_normal()


def test_frozen_members_and_measured_heat(X, Z, path):
    frozen = FrozenEstimator(PSPCDenoiser(2).fit(X[::-1] // 2))
    blend = BlendedDenoiser([("a", frozen), ("b", EmpiricalDenoiser())], sigmas=[0.5], n_images=3)
    assert_equal(blend.fit(X), saved(blend, path), Z)
    smoothed = SmoothedDenoiser(frozen).fit(X)
    assert_equal(smoothed, saved(smoothed, path), Z)
    for soft in (False, True):
        windows = FlexibleWindows(EmpiricalDenoiser().fit(X), 0.8, [0.3, 3.0], soft, n_images=3)
        model = PSPCDenoiser(windows=windows).fit(X)
        assert_equal(model, saved(model, path), Z)


def test_heat_maps_of_a_file_stay_a_path(X, Z, tmp_path, path):
    np.save(tmp_path / "heat.npy", HEAT)
    model = PSPCDenoiser(windows=FlexibleWindows(tmp_path / "heat.npy", 0.8, [0.1, 1.0])).fit(X)
    assert_equal(model, saved(model, path), Z)
    with safe_open(path, "numpy") as opened:
        assert not any("heatmaps" in name for name in names(opened))


@pytest.mark.parametrize("index", ["IVF4,Flat", "PCA16,IVF2,SQ8", "Flat", "HNSW8"])
def test_an_index_is_built_again(index, digits, path):
    pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    model = EmpiricalDenoiser(tol=0.05, index=index).fit(digits[:300])
    Z = digits[1500:1520] / 127.5 - 1.0 + 0.2 * np.random.default_rng(0).normal(size=(20, 1, 8, 8))
    model.denoise(Z, 0.2)
    model.partial_fit(digits[300:500])
    again = saved(model, path)
    np.testing.assert_array_equal(again.denoise(Z, 0.2), model.denoise(Z, 0.2))
    with safe_open(path, "numpy") as opened:
        assert not any("_index" in name for name in names(opened))
    for one in (model, again):
        one.partial_fit(digits[500:600])
    np.testing.assert_array_equal(again.denoise(Z, 0.2), model.denoise(Z, 0.2))


def test_cells_of_patches_are_made_again(photos, path, monkeypatch):
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    monkeypatch.setattr("skpspc.posterior.cells._WORTH_IT", 1)
    model = LocalScoreDenoiser(3, equivariant=True, tol=0.01).fit(photos[:40])
    noise = np.random.default_rng(0).normal(size=(2, 3, 16, 16))
    Z = (photos[300:302] / 127.5 - 1 + 0.1 * noise).astype(np.float32)
    model.denoise(Z, 0.1)
    model.partial_fit(photos[40:60])
    np.testing.assert_array_equal(saved(model, path).denoise(Z, 0.1), model.denoise(Z, 0.1))
    cells = [m._prior.search.cells._cells for m in (model, load(path))]
    assert cells[0]
    assert not cells[1]


def test_names_of_columns(path):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 3)), columns=["a", "ü", "c"])
    model = GaussianDenoiser(sigma=1.0).fit(frame).set_output(transform="pandas")
    again = saved(model, path)
    pd.testing.assert_frame_equal(again.transform(frame), model.transform(frame))
    np.testing.assert_array_equal(again.feature_names_in_, ["a", "ü", "c"])
    with pytest.raises(ValueError, match="feature names should match"):
        again.transform(frame[["ü", "a", "c"]])


@pytest.mark.parametrize(
    "labels",
    [
        [b"x", b"yy", b"x"],
        np.array(["2020-01-01", "2021-02-03", "2020-01-01"], "M8[D]"),
        [2**70, 5, 2**70],
        [True, False, True],
        np.array([1.5, -0.0, 1.5], np.float32),
        np.array(["a", "b", "a"], dtype="U30"),
        np.array([3, 1, 3], dtype=">u2"),
    ],
    ids=str,
)
def test_labels_of_any_type(labels, path):
    model = EmpiricalDenoiser().fit([[0.0], [1.0], [2.0]], labels)
    again = saved(model, path)
    assert_same(model.classes_, again.classes_)
    label = model.classes_[1]
    np.testing.assert_array_equal(
        again.denoise([[0.7]], 1.0, label), model.denoise([[0.7]], 1.0, label)
    )


def test_torch_images_float64_and_ranges(X, Z, path):
    images = torch.from_numpy(X / 255.0)
    model = PSPCDenoiser(2, data_range=(0, 1)).fit(images)
    again = saved(model, path)
    assert_equal(model, again, Z / 2 + 0.5)
    assert isinstance(again.sample(random_state=0, n_steps=2), torch.Tensor)
    assert again.data_range_ == (0, 1)


def test_warnings_are_not_repeated(path):
    images = 200 * np.random.default_rng(0).random((9, 1, 4, 4))
    model = PSPCDenoiser(2).fit(images)
    with pytest.warns(UserWarning, match="sigma_max"):
        model.sample(n_steps=2)
    saved(model, path).sample(n_steps=2)  # warnings of skpspc would fail


def test_another_process_loads_equal_bits(X, Z, path, tmp_path):
    model = PSPCDenoiser(SCHEDULE, flip=True).fit(X)
    model.save(path)
    np.save(tmp_path / "z.npy", Z)
    code = (
        "import sys, numpy as np, skpspc;"
        "m = skpspc.load(sys.argv[1]); np.save(sys.argv[3], m.denoise(np.load(sys.argv[2]), 0.4))"
    )
    command = [sys.executable, "-c", code, path, tmp_path / "z.npy", tmp_path / "out.npy"]
    subprocess.run(command, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), model.denoise(Z, 0.4))


def test_a_memory_map_reads_the_file(X, Z, path):
    model = PSPCDenoiser(2).fit(X)
    again = saved(model, path, mmap=True)
    assert_equal(model, again, Z)
    again.save(path)  # replaces the file that is mapped
    assert_equal(model, load(path), Z)
    assert_equal(model, again, Z)


# In a process of its own: another test may have left free memory, which a copy takes first.
PRIVATE_MEMORY = """
import re, sys
from pathlib import Path
from skpspc import load

def private():
    smaps = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(n) for n in re.findall(r"Anonymous: +(\\d+)", smaps)) / 1024

for mmap in (True, False):
    before = private()
    model = load(sys.argv[1], mmap=mmap)
    print(private() - before)
"""


def test_a_memory_map_takes_no_memory(tmp_path):
    """Loading 64 MiB of images grows the private memory by 64 MiB, or by next to nothing."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this system does not report private memory")
    path = tmp_path / "big.safetensors"
    EmpiricalDenoiser().fit(np.zeros((64, 1, 1024, 1024), np.uint8)).save(path)
    command = [sys.executable, "-c", PRIVATE_MEMORY, path]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    mapped, copied = map(float, result.stdout.split())
    assert mapped < 16
    assert copied > 48


# ------------------------------------------------------------------- the file


def test_the_file_is_plain_safetensors(X, path):
    PSPCDenoiser(2, flip=True).fit(X).save(path)
    arrays = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(arrays["training_set_.images"], X)
    assert sum(array.nbytes for array in arrays.values()) == X.nbytes + 8 * len(X)
    with safe_open(path, "numpy") as opened:
        metadata = opened.metadata()
    assert metadata["skpspc_version"] == skpspc.__version__
    json.loads(metadata["state"])


@pytest.mark.parametrize("name", ["patch-all", "blended", "pspc-global", "collection"])
def test_images_are_written_once(name, X, path):
    copy.deepcopy(DENOISERS[name]).fit(X).save(path)
    arrays = safetensors.numpy.load_file(path)
    assert sum(array.shape == X.shape for array in arrays.values()) == 1


def test_nothing_is_left_behind(X, path):
    model = PSPCDenoiser(2).fit(X)
    model.save(path)
    before = path.read_bytes()
    model.set_params(patch_size=lambda sigma: 2)
    with pytest.raises(ValueError, match="patch_size is"):
        model.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_failure_while_writing_leaves_the_old_file(X, path, monkeypatch):
    PSPCDenoiser(2).fit(X).save(path)
    before = path.read_bytes()
    monkeypatch.setattr(file, "array_bytes", lambda array: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        PSPCDenoiser(3).fit(X).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ["m.pkl", "m", "no/m.safetensors"])
def test_paths_that_cannot_be_written(name, X, tmp_path):
    with pytest.raises((ValueError, OSError), match=r"must be one of .safetensors|no folder"):
        EmpiricalDenoiser().fit(X).save(tmp_path / name)


# ------------------------------------------------------------------- what cannot be saved


class Sizes(PSPCDenoiser):
    """A denoiser of another library."""


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (PSPCDenoiser(lambda sigma: 2), "^patch_size is of type function.* a PatchSchedule"),
        (EmpiricalDenoiser(bandwidth=abs), "^bandwidth is of type builtin.* a BandwidthSchedule"),
        (PosteriorMeanCollection(lambda sigma, shape: WINDOWS), "^query is .* array of windows"),
        (NetworkDenoiser(torch.nn.Identity()), "^network is of type Identity.* load_network"),
        (
            BlendedDenoiser([("a", NetworkDenoiser(abs, image_shape=SHAPE))]),
            r"^denoisers\[0\]\[1\]\.network is of type builtin",
        ),
        (SmoothedDenoiser(EmpiricalDenoiser(n_neighbors=max)), r"^denoiser\.n_neighbors is"),
        (Sizes(2), "^the denoiser is of type Sizes"),
        (PCALocalityDenoiser(1j), "^threshold is of type complex"),
        (BlendedDenoiser([], sigmas=pd.Series([0.1])), "^sigmas is of type Series"),
        (BlendedDenoiser([], sigmas=np.ma.array([0.1], mask=[True])), "^sigmas is .* MaskedArray"),
        (BlendedDenoiser([], sigmas=np.array([0.1j])), "^sigmas is .* dtype complex128"),
        (PosteriorMeanCollection(torch.eye(3).to_sparse()), "^query is of type Tensor"),
    ],
)
def test_what_only_pickle_can_save(model, match, path):
    with pytest.raises(ValueError, match=match) as caught:
        model.save(path)
    assert "joblib.dump" in str(caught.value)
    assert not list(path.parent.iterdir())


def test_labels_that_cannot_be_saved(path):
    days = pd.to_datetime(["2020-01-01", "2020-01-02"]).tz_localize("UTC").astype(object)
    model = EmpiricalDenoiser().fit([[0.0], [1.0]], np.array(days))
    with pytest.raises(ValueError, match=r"Timestamp.* all numbers or all strings"):
        model.save(path)


# ------------------------------------------------------------------- files without images


@pytest.mark.parametrize("weighted", [False, True])
def test_without_the_training_images(model, X, Z, path, weighted):
    weight = np.arange(14) % 3 if weighted else None
    model.fit(X[:10], sample_weight=None if weight is None else weight[:10])
    model.partial_fit(X[10:], sample_weight=None if weight is None else weight[10:])
    model.save(path, include_data=False)
    arrays = safetensors.numpy.load_file(path).values()
    assert not any(array.dtype == np.uint8 and array.ndim == 4 for array in arrays)
    if "training_set_" not in vars(getattr(model, "denoiser_", model)):
        return  # a Gaussian that keeps sums
    with pytest.raises(ValueError, match=r"without its 14 training images of shape \(2, 5, 4\)"):
        load(path)
    for images in (X, torch.from_numpy(X), X.reshape(14, -1)):
        assert_equal(model, load(path, images), Z)
    again = load(path, X, mmap=True)
    assert_equal(model, again, Z)
    again.save(path)
    assert_equal(model, load(path), Z)


def test_sums_need_no_images(digits, path):
    model = GaussianDenoiser().fit(digits)
    again = saved(model, path)
    Z = digits[:3] / 255.0
    np.testing.assert_array_equal(again.denoise(Z, 0.3), model.denoise(Z, 0.3))
    model.save(path, include_data=False)
    np.testing.assert_array_equal(load(path).denoise(Z, 0.3), model.denoise(Z, 0.3))
    with pytest.raises(ValueError, match="needs no training images; omit X"):
        load(path, digits)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda X: X[:-1], "X holds 13 images, but the denoiser was fitted on 14"),
        (lambda X: X[::-1], "X differs from the images of the fit"),
        (lambda X: X ^ (np.arange(X.size) == 77).reshape(X.shape), "X differs from the images"),
        (lambda X: (X / 127.5 - 1).astype(np.float32), "X has dtype float32, .* on uint8"),
        (lambda X: X[:, :1], r"X holds images of shape \(1, 5, 4\).*expected \(2, 5, 4\)"),
        (lambda X: X.reshape(14, 40)[:, :39], "X has 39 features"),
        (lambda X: None, "its 14 training images"),
    ],
)
def test_other_images_are_refused(change, match, X, path):
    PSPCDenoiser(2).fit(X).save(path, include_data=False)
    with pytest.raises(ValueError, match=f"model.safetensors' was saved without .*{match}"):
        load(path, change(X))


def test_integers_on_a_range(path):
    X = np.arange(60).reshape(3, 1, 4, 5)
    model = PSPCDenoiser(2, data_range=(0, 100)).fit(X)
    again = saved(model, path, X=X)
    np.testing.assert_array_equal(again.denoise(X, 9.0), model.denoise(X, 9.0))


def test_images_that_cannot_be_left_out(X, path):
    frozen = FrozenEstimator(PSPCDenoiser(2).fit(X[::-1]))
    blend = BlendedDenoiser([("a", frozen), ("b", EmpiricalDenoiser())], sigmas=[0.5], n_images=3)
    with pytest.raises(ValueError, match=r"2 different training sets.*include_data=True"):
        blend.fit(X).save(path, include_data=False)
    windows = FlexibleWindows(EmpiricalDenoiser().fit(X), 0.8, [0.3], n_images=3)
    with pytest.raises(ValueError, match=r"measured on training images.*save_heat_maps"):
        PSPCDenoiser(windows=windows).fit(X).save(path, include_data=False)
    assert not list(path.parent.iterdir())
    smoothed = SmoothedDenoiser(frozen).fit(X)
    assert_equal(smoothed, saved(smoothed, path, X=X[::-1]), X[:5] / 255.0)


# ------------------------------------------------------------------- hostile files


def rewritten(path, change, *, checksum=True):
    """Write a file again with another JSON tree, other arrays or other metadata."""
    with safe_open(path, "numpy") as opened:
        metadata = dict(opened.metadata())
        arrays = {name: opened.get_tensor(name) for name in names(opened)}
    tree = json.loads(metadata["state"])
    change(tree, arrays, metadata)
    if not isinstance(tree, str):
        metadata.setdefault("state", "")
        metadata["state"] = json.dumps(tree)
    if checksum:
        metadata["sha256"] = file._checksum(
            metadata["skpspc_version"], metadata["state"], arrays.items()
        )
    path.write_bytes(safetensors.numpy.save(arrays, metadata))


def state_of(tree):
    return tree["denoiser"]["state"]


@pytest.fixture
def good(X, path):
    """A file that loads."""
    PSPCDenoiser(2).fit(X, np.arange(14) % 2).save(path)
    rewritten(path, lambda tree, arrays, metadata: None)
    load(path)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"{}",
        (2**62).to_bytes(8, "little") + b"{}",
        (10**8).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"nope",
        (3 * 10**5).to_bytes(8, "little") + b"[" * 3 * 10**5,
        pickle.dumps([1, 2]),
        safetensors.numpy.save({"a": np.zeros(3)}),
        safetensors.numpy.save({"a": np.zeros(3)}, {"format": "pt"}),
    ],
)
def test_other_files(content, path):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a denoiser that save wrote, or is damaged"):
        load(path)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors")
    with pytest.raises(IsADirectoryError):
        load(tmp_path)


def test_every_truncation_and_every_flipped_byte_is_found(good, rng):
    content = good.read_bytes()
    for end in rng.choice(len(content), 60, replace=False):
        good.write_bytes(content[:end])
        with pytest.raises(ValueError, match="is damaged"):
            load(good)
    version = content.index(b'"skpspc_version"')
    places = [*range(40), *range(version, version + 30)]
    for at in [*places, *rng.choice(len(content), 200, replace=False)]:
        changed = bytearray(content)
        changed[at] ^= 1 << rng.integers(8)
        good.write_bytes(changed)
        with pytest.raises(ValueError, match=r"is damaged|update skpspc"):
            load(good)


def test_newer_versions(good):
    def newer(key, value):
        def change(tree, arrays, metadata):
            metadata[key] = value

        return change

    rewritten(good, newer("skpspc_version", "99.1.0"))
    with pytest.raises(ValueError, match=r"saved by skpspc 99.1.0 .* update skpspc"):
        load(good)
    rewritten(good, newer("skpspc_version", skpspc.__version__))
    rewritten(good, newer("format_version", "2"))
    with pytest.raises(ValueError, match=r"in format 2.* update skpspc"):
        load(good)
    for version in ("0", "-1", "one", "1.0"):
        rewritten(good, newer("format_version", version))
        with pytest.raises(ValueError, match="is damaged"):
            load(good)


def test_sizes_are_limited(good):
    with pytest.raises(ValueError, match="pass a larger max_bytes"):
        load(good, max_bytes=1000)
    with pytest.raises(ValueError, match="max_bytes == 0"):
        load(good, max_bytes=0)


def new(name, **state):
    return {"new": name, "state": state}


HOSTILE = {
    "no class": lambda state: state.update(sigma=new("os.system")),
    "class of Python": lambda state: state.update(sigma=new("object")),
    "class of numpy": lambda state: state.update(sigma=new("numpy.memmap")),
    "class of the library that is not saved": lambda s: s.update(sigma=new("FaissIndex")),
    "dunder": lambda state: state.update(__class__=1),
    "no identifier": lambda state: state.update({"a b": 1}),
    "unknown kind": lambda state: state.update(sigma={"reduce": ["os.system", ["true"]]}),
    "empty node": lambda state: state.update(sigma={}),
    "forward reference": lambda state: state.update(sigma={"object": 10**6}),
    "no array": lambda state: state.update(sigma={"array": "none", "dtype": "<f8", "shape": []}),
    "object dtype": lambda s: s.update(sigma={"texts": [1], "dtype": "|V8", "shape": [1]}),
    "long texts": lambda s: s.update(sigma={"texts": ["a"], "dtype": "<U2147483000", "shape": [1]}),
    "wrong dtype": lambda state: state["training_rows_"].update(dtype="<f8"),
    "wrong shape": lambda state: state["training_rows_"].update(shape=[3]),
    "no shape": lambda state: state["training_rows_"].update(shape="ab"),
    "unhashable": lambda state: state.update(sigma={"dict": [[[1], 2]]}),
    "bit generator": lambda s: s.update(
        random_state={"random": "Generator", "state": {"dict": [["bit_generator", "exec"]]}}
    ),
    "dtype": lambda state: state.update(_image_dtype={"dtype": "load"}),
    "device": lambda state: state.update(device={"device": "nowhere"}),
    "another image shape": lambda s: s.update(image_shape_={"tuple": [2, 50, 40]}),
    "squares": lambda state: state["_prior"]["state"]["windows"]["state"].update(h=50),
    "sides": lambda state: state["_prior"]["state"]["windows"]["state"].update(h=1.5),
    "squares anywhere": lambda state: state["_prior"]["state"].update(
        windows=new("SquaresAnywhere", h=3, w=50, stride=1)
    ),
    "stride": lambda state: state["_prior"]["state"].update(
        windows=new("SquaresAnywhere", h=3, w=3, stride=0)
    ),
    "codes": lambda state: state["_labels"]["state"].update(
        codes={"array": "training_rows_", "dtype": "<i8", "shape": [14]}
    ),
    "weights": lambda state: state["training_set_"]["state"].update(
        sample_weight={"tensor": state["training_rows_"], "dtype": "int64", "device": "cpu"}
    ),
    "range": lambda s: s["training_set_"]["state"].update(
        data_range={"tuple": [1, {"float": "nan"}]}
    ),
    "schedule": lambda s: s.update(patch_size=new("PatchSchedule", sigmas=[0.1], sizes=[0])),
    "no images": lambda state: state["training_set_"]["state"].pop("images"),
    "images that were not left out": lambda s: s["training_set_"]["state"].update(
        images={"device": "cpu"}
    ),
    "deep": lambda state: state.update(sigma=_nested(5000)),
}


def _nested(depth):
    node = 0
    for _ in range(depth):
        node = {"tuple": [node]}
    return node


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_states_are_refused(name, good):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**5)  # of `json.dumps` in the test
    try:
        rewritten(good, lambda tree, arrays, metadata: HOSTILE[name](state_of(tree)))
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(
        ValueError, match=r"model.safetensors' (holds no denoiser|is not a denoiser)"
    ):
        load(good)


JUNK = [
    None,
    True,
    -1,
    2**70,
    0.5,
    "cpu",
    "float64",
    [],
    [1, [2]],
    {},
    {"object": 0},
    {"object": 3},
    {"tuple": [1, 1, 1]},
    {"array": "training_rows_", "dtype": "<i8", "shape": [14]},
    {"device": "cpu"},
    new("Whole"),
    new("Squares", h=2, w=3),
    new("TrainingSet"),
    new("Prior", source=None),
]


def places(node, path=()):
    """Every path into a JSON tree."""
    yield path
    if isinstance(node, (dict, list)):
        for key, entry in node.items() if isinstance(node, dict) else enumerate(node):
            yield from places(entry, (*path, key))


@pytest.mark.parametrize(
    "name", ["pspc-schedule", "patch-index", "gaussian", "blended", "collection"]
)
def test_any_change_of_the_state_is_refused_or_loads(name, X, path, rng):
    """No value anywhere in a file with a right checksum ends the process or another error."""
    copy.deepcopy(DENOISERS[name]).fit(X).save(path)
    with safe_open(path, "numpy") as opened:
        original = json.loads(opened.metadata()["state"])
    everywhere = [place for place in places(original) if place]
    for at in rng.choice(len(everywhere), 120):
        *parents, key = everywhere[at]

        def change(tree, arrays, metadata, parents=parents, key=key):
            tree.clear()
            tree.update(copy.deepcopy(original))
            node = tree
            for parent in parents:
                node = node[parent]
            node[key] = JUNK[rng.integers(len(JUNK))]

        rewritten(path, change)
        try:
            loaded = load(path)
        except ValueError:
            continue
        with contextlib.suppress(Exception):
            loaded.denoise(X[:2], 0.4)


@pytest.mark.parametrize(
    "tree",
    [
        [],
        None,
        {"denoiser": 5},
        {"denoiser": 5, "data": None, "devices": []},
        {"denoiser": new("Whole"), "data": None, "devices": []},
        {"denoiser": [new("PSPCDenoiser")], "data": None, "devices": []},
    ],
)
def test_other_trees(tree, good):
    def change(old, arrays, metadata):
        metadata["state"] = json.dumps(tree)
        metadata["sha256"] = file._checksum(
            metadata["skpspc_version"], metadata["state"], arrays.items()
        )

    with safe_open(good, "numpy") as opened:
        metadata = dict(opened.metadata())
        arrays = {name: opened.get_tensor(name) for name in names(opened)}
    change(None, arrays, metadata)
    good.write_bytes(safetensors.numpy.save(arrays, metadata))
    with pytest.raises(ValueError, match="holds no denoiser"):
        load(good)


def with_fingerprint(name, value):
    """Return a change of a file saved without its images: one value that describes them."""

    def change(tree, arrays, metadata):
        pairs = dict(tree["data"]["dict"])
        tree["data"]["dict"] = [*{**pairs, name: value}.items()]

    return change


@pytest.mark.parametrize(
    "name", ["image_shape", "data_range", "n_images", "rows", "dtype", "sha256"]
)
@pytest.mark.parametrize("value", [None, 0.5, "ä", [], {"tuple": [1, "a", []]}, {"float": "nan"}])
def test_hostile_fingerprints_are_refused(name, value, X, path):
    PSPCDenoiser(2).fit(X, sample_weight=np.arange(14)).save(path, include_data=False)
    load(path, X)
    valid = {"data_range": [None], "sha256": ["ä"]}

    rewritten(path, with_fingerprint(name, value))
    if value in valid.get(name, []):
        return
    with pytest.raises(ValueError, match=r"model.safetensors' holds no denoiser"):
        load(path, X)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("image_shape", {"tuple": [1, 5, 4]}, "X holds images of shape"),
        ("n_images", 10**30, "X holds 14 images, but .* on 1000"),
        ("dtype", "float64", "X has dtype uint8, but .* on float64"),
        ("sha256", "ä", "X differs from the images of the fit"),
    ],
)
def test_images_of_another_fit_are_refused_with_the_name_of_the_file(name, value, match, X, path):
    PSPCDenoiser(2).fit(X).save(path, include_data=False)
    rewritten(path, with_fingerprint(name, value))
    with pytest.raises(ValueError, match=rf"model.safetensors' was saved without .*: {match}"):
        load(path, X)


@pytest.mark.parametrize("data", [5, "a", [1], 0.5, True, {"tuple": [1, 2]}])
def test_other_values_in_place_of_a_fingerprint(data, good, X):
    rewritten(good, lambda tree, arrays, metadata: tree.update(data=data))
    with pytest.raises(ValueError, match=r"model.safetensors' holds no denoiser"):
        load(good, X)


def test_a_prior_of_images_of_another_shape_is_refused(good):
    """Compiled kernels would read beyond the images."""

    def change(tree, arrays, metadata):
        arrays["small"] = arrays["training_set_.images"][..., :3, :].copy()
        source = copy.deepcopy(state_of(tree)["training_set_"])
        images = source["state"]["images"]
        images["tensor"].update(array="small", shape=[14, 2, 3, 4])
        images["shape"] = [14, 2, 3, 4]
        state_of(tree)["_prior"]["state"]["source"] = source

    rewritten(good, change)
    with pytest.raises(ValueError, match=r"holds no denoiser .*images differ in shape"):
        load(good)


def test_every_estimator_is_tested_here():
    public = {getattr(skpspc, name) for name in skpspc.__all__}
    estimators = {cls for cls in public if hasattr(cls, "save")}
    assert estimators - {type(model) for model in DENOISERS.values()} == {NetworkDenoiser}


def test_no_file_names_a_class_to_import():
    for name, cls in classes.CLASSES.items():
        assert cls.__module__.startswith(("skpspc.", "sklearn.frozen")), name
    assert set(checks.CHECKS) <= set(classes.CLASSES)


def test_files_of_earlier_versions(X, path):
    """A parameter that a version added takes its default in files of earlier versions."""
    PSPCDenoiser(2).fit(X).save(path)

    def change(tree, arrays, metadata):
        del state_of(tree)["smoothing"]

    rewritten(path, change)
    assert load(path).get_params()["smoothing"] == "window"


def test_devices(good):
    def change(tree, arrays, metadata):
        text = json.dumps(tree).replace('"cpu"', '"cuda:7"')
        tree.clear()
        tree.update(json.loads(text))

    rewritten(good, change)
    with pytest.raises(ValueError, match=r"safetensors'.*device='cuda:7' is not available.*'cpu'"):
        load(good)
    load(good, device="cpu").denoise(np.zeros((1, *SHAPE)), 0.5)
    with pytest.raises(ValueError, match="device='nowhere' is not available"):
        load(good, device="nowhere")


# ------------------------------------------------------------------- any value


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.builds(np.float32, st.floats(width=32)),
    st.builds(np.int8, st.integers(-128, 127)),
    st.builds(np.bool_, st.booleans()),
    st.builds(np.str_, st.text(st.characters(exclude_characters="\0"))),
)
arrays = st.builds(
    lambda dtype, shape, seed, order: np.asarray(
        (100 * np.random.default_rng(seed).random(shape)).astype(dtype), order=order
    ),
    st.sampled_from(["?", "u1", "u2", "<i4", ">i4", "u8", "f2", "<f4", ">f8", "M8[s]", "U7", "O"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 9),
    st.sampled_from("CF"),
)
tensors = st.builds(
    lambda dtype, shape: (
        torch.arange(100, 100 + int(np.prod(shape))).view(shape).to(dtype).mT
        if len(shape) > 1
        else torch.ones(shape, dtype=dtype)
    ),
    st.sampled_from([torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float64]),
    st.lists(st.integers(0, 3), max_size=3),
)
values = st.recursive(
    st.one_of(scalars, arrays, tensors, st.builds(range, st.integers(-9, 9), st.integers(-9, 9))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False)), inner),
    ),
    max_leaves=12,
)


def same(one, other):
    """Whether two values have equal types and equal bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (np.ndarray, np.generic)):
        return one.dtype == other.dtype and np.array_equal(
            one, other, equal_nan=one.dtype.kind == "f"
        )
    return one == other or (one != one and other != other)


@given(values)
def test_any_value_survives(value):
    encoder = codec.Encoder()
    node = json.loads(json.dumps(encoder.encode(value)))
    tensors = {name: torch.from_numpy(array) for name, array in encoder.arrays.items()}
    assert same(codec.Decoder(tensors, None, None, 2**30).decode(node), value)


# ------------------------------------------------------------------- pickles and copies


def test_pickles_hold_no_tensors(model, X, Z):
    """`joblib` maps the arrays of a pickle, and `skops` stores them."""
    model.fit(X).denoise(Z, 0.4)
    modules = []

    class Recorder(pickle.Unpickler):
        def find_class(self, module, name):
            modules.append(module)
            return super().find_class(module, name)

    Recorder(io.BytesIO(pickle.dumps(model))).load()
    assert "skpspc._state" in modules
    assert not [module for module in modules if module.startswith("torch")]


@pytest.mark.parametrize("name", ["pspc", "patch-all", "pspc-schedule", "gaussian", "pca"])
def test_joblib_maps_training_images(name, X, Z, tmp_path):
    model = copy.deepcopy(DENOISERS[name]).fit(X)
    joblib.dump(model, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(tmp_path / "model.joblib") in maps.read_text()
    assert_equal(model, again, Z)
    again.partial_fit(X[:3])
    assert_equal(copy.deepcopy(model).partial_fit(X[:3]), again, Z)


def test_copies_share_nothing(model, X, Z):
    expected = model.fit(X).denoise(Z, 0.4)
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(twin.denoise(Z, 0.4), expected)
    twin.fit(X[:6])
    np.testing.assert_array_equal(model.denoise(Z, 0.4), expected)
