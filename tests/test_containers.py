"""Numbers come in any container; what holds no numbers is refused by name."""

import inspect
import re

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from sklearn.base import clone

import skpspc
from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PCALocalityDenoiser,
    PSPCDenoiser,
)
from skpspc.inspection import error_curve

SHAPE = (1, 2, 3)


@pytest.fixture(scope="module")
def X():
    """Training images, (20, 1, 2, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def Z(X):
    """Noisy images, (3, 1, 2, 3) float64."""
    return X[:3] / 127.5 - 1 + 0.3 * np.random.default_rng(1).standard_normal((3, *SHAPE))


class Bare:
    """Numbers behind ``__array__`` alone."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def polars_frame(rows):
    polars = pytest.importorskip("polars", reason="polars is not installed (extra test)")
    return polars.DataFrame(rows, schema=[f"x{i}" for i in range(rows.shape[1])])


FRAMES = {
    "pandas": pandas.DataFrame,
    "polars": polars_frame,
    "nullable pandas": lambda rows: pandas.DataFrame(rows).convert_dtypes(),
    "objects": lambda rows: rows.astype(object),
    "lists": lambda rows: rows.tolist(),
    "array protocol": Bare,
}


@pytest.mark.parametrize("kind", FRAMES)
def test_tables_in_any_container(X, Z, kind):
    rows, noisy = X.reshape(20, -1) / 127.5 - 1, Z.reshape(3, -1)
    expected = EmpiricalDenoiser().fit(rows).denoise(noisy, 0.3)
    model = EmpiricalDenoiser().fit(FRAMES[kind](rows))
    np.testing.assert_array_equal(model.denoise(noisy, 0.3), expected)
    np.testing.assert_array_equal(model.denoise(FRAMES[kind](noisy), 0.3), expected)
    np.testing.assert_array_equal(model.transform(FRAMES[kind](noisy)).shape, expected.shape)
    added = EmpiricalDenoiser().fit(rows[:10]).partial_fit(FRAMES[kind](rows[10:]))
    np.testing.assert_array_equal(added.denoise(noisy, 0.3), expected)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_names_of_columns_are_remembered(X, kind):
    frame = FRAMES[kind](X.reshape(20, -1) / 127.5 - 1)
    model = EmpiricalDenoiser().fit(frame)
    if kind == "polars":
        assert model.feature_names_in_.tolist() == list(frame.columns)
    assert model.n_features_in_ == 6


@pytest.mark.parametrize("kind", ["hdf5", "zarr", "array protocol"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_arrays_of_files_keep_their_dtype(X, Z, tmp_path, kind, dtype):
    images = X if dtype == np.uint8 else (X / 127.5 - 1).astype(dtype)
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra test)")
        stored = h5py.File(tmp_path / "x.h5", "w").create_dataset("x", data=images)
    elif kind == "zarr":
        zarr = pytest.importorskip("zarr", reason="zarr is not installed (extra test)")
        stored = zarr.create_array(tmp_path / "x.zarr", data=images)
    else:
        stored = Bare(images)
    expected = PSPCDenoiser(2).fit(images)
    model = PSPCDenoiser(2).fit(stored)
    assert model.training_set_.images.dtype == torch.from_numpy(images).dtype
    assert model.image_shape_ == SHAPE
    np.testing.assert_array_equal(model.denoise(Z, 0.3), expected.denoise(Z, 0.3))
    np.testing.assert_array_equal(model.denoise(stored, 0.3), expected.denoise(images, 0.3))
    assert model.score(stored) == expected.score(images)


def masked(X):
    return np.ma.masked_array(X, mask=np.indices(X.shape).sum(0) == 0)


NO_NUMBERS = {
    "masked": (masked, "is a masked array in which values are masked"),
    "strings": (lambda X: X.astype(str), "holds strings"),
    "objects": (lambda X: np.full(X.shape, "dark", object), "holds strings"),
    "dates": (lambda X: X.astype("datetime64[s]"), "holds dates"),
    "durations": (lambda X: X.astype("timedelta64[s]"), "holds time differences"),
    "fields": (lambda X: np.zeros(X.shape, [("r", "f4"), ("g", "f4")]), "has fields"),
    "complex": (lambda X: X.astype(complex), "Complex data not supported"),
    "complex tensor": (lambda X: torch.from_numpy(X).to(torch.complex64), "is a complex tensor"),
    "meta": (lambda X: torch.empty(X.shape, device="meta"), "is a tensor without values"),
    "sparse tensor": (lambda X: torch.from_numpy(X / 255).to_sparse(), "is a sparse tensor"),
    "quantised": (
        lambda X: torch.quantize_per_tensor(
            torch.from_numpy(X / 255).float(), 0.1, 0, torch.quint8
        ),
        "is a quantised tensor",
    ),
    "nested": (
        lambda X: torch.nested.nested_tensor(list(torch.from_numpy(X / 255))),
        "is a nested tensor",
    ),
    "tensors of two shapes": (
        lambda X: [torch.zeros(1, 2, 3), torch.zeros(1, 3, 3)],
        "is a list of tensors of several shapes",
    ),
}


@pytest.mark.parametrize("kind", NO_NUMBERS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_containers_without_numbers_are_refused_by_name(X, kind):
    make, message = NO_NUMBERS[kind]
    model = EmpiricalDenoiser().fit(X)
    for name, call in {
        "X": lambda: clone(model).fit(make(X)),
        "Z": lambda: model.denoise(make(X), 0.3),
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert re.search(rf"\b{name}\b", str(caught.value))
    with pytest.raises(ValueError, match=message):
        model.posterior(make(X), 0.3)
    with pytest.raises(ValueError, match=message):
        model.attribute(make(X), 0.3)


def test_a_masked_array_with_nothing_masked_is_an_array(X, Z):
    model = EmpiricalDenoiser().fit(np.ma.masked_array(X))
    np.testing.assert_array_equal(model.denoise(np.ma.masked_array(Z), 0.3), model.denoise(Z, 0.3))


def test_sparse_matrices_are_refused(X):
    rows = scipy.sparse.csr_matrix(X.reshape(20, -1) / 255)
    with pytest.raises(TypeError, match=r"X is sparse.*X\.toarray\(\)"):
        EmpiricalDenoiser().fit(rows)
    with pytest.raises(TypeError, match=r"Z is sparse.*Z\.toarray\(\)"):
        EmpiricalDenoiser().fit(rows.toarray()).denoise(rows, 0.3)


WITH_NAN = {
    "array": lambda x: x,
    "float16": lambda x: x.astype(np.float16),
    "tensor": torch.from_numpy,
    "bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
    "list": lambda x: x.tolist(),
    "frame": pandas.DataFrame,
    "nullable frame": lambda x: pandas.DataFrame(x).convert_dtypes(),
    "objects with None": lambda x: np.where(np.isnan(x), None, x),
}


@pytest.mark.parametrize("kind", WITH_NAN)
def test_nan_is_refused_by_the_name_of_the_argument(X, kind):
    rows = X.reshape(20, -1) / 255.0
    model = EmpiricalDenoiser().fit(rows)
    rows[4, 2] = np.nan
    for name, call in {
        "X": lambda: clone(model).fit(WITH_NAN[kind](rows)),
        "Z": lambda: model.denoise(WITH_NAN[kind](rows), 0.3),
    }.items():
        with pytest.raises(ValueError, match=f"{name} contains NaN") as caught:
            call()
        assert "HistGradient" not in str(caught.value)


# ------------------------------------------------------------------------- noise levels

LEVELS = {
    "column": lambda s: np.array(s)[:, None],
    "images": lambda s: np.array(s)[:, None, None, None],
    "list": list,
    "tensor": torch.tensor,
    "column tensor": lambda s: torch.tensor(s)[:, None],
    "float32": lambda s: np.array(s, np.float32),
    "series": pandas.Series,
    "objects": lambda s: np.array(s, object),
}


@pytest.mark.parametrize("kind", LEVELS)
def test_one_noise_level_for_each_image(X, Z, kind):
    levels = [0.25, 0.5, 2.0]
    for model in (EmpiricalDenoiser(), GaussianDenoiser(), LocalScoreDenoiser(1)):
        expected = model.fit(X).denoise(Z, levels)
        np.testing.assert_array_equal(model.denoise(Z, LEVELS[kind](levels)), expected)
        np.testing.assert_array_equal(
            model.jacobian(Z, LEVELS[kind](levels), [(0, 0)]),
            model.jacobian(Z, levels, [(0, 0)]),
        )


@pytest.mark.parametrize(
    "level", [2, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2), [2.0], [[2]]]
)
def test_one_noise_level_for_all_images(X, Z, level):
    model = EmpiricalDenoiser().fit(X)
    np.testing.assert_array_equal(model.denoise(Z, level), model.denoise(Z, 2.0))


@pytest.mark.parametrize(
    "level",
    ["0.3", True, np.True_, [True, False, True], ["a", "b", "c"], 1j, None, [None] * 3, {}, "x"],
)
def test_levels_that_are_no_numbers(X, Z, level):
    model = EmpiricalDenoiser().fit(X)
    with pytest.raises(ValueError, match="sigma"):
        model.denoise(Z, level)
    with pytest.raises(ValueError, match="sigma"):
        model.attribute(Z, level)


@pytest.mark.parametrize("shape", [(2,), (1, 3), (3, 2), (4, 1), (0,)])
def test_levels_of_another_shape(X, Z, shape):
    with pytest.raises(ValueError, match=r"sigma must be one float or one per image, shape \(3,\)"):
        EmpiricalDenoiser().fit(X).denoise(Z, np.full(shape, 0.3))


# ------------------------------------------------------------------------------- labels

BIG = 2**63
LABELS = {
    "uint64": np.array([BIG + 5, 3], np.uint64),
    "int": np.array([-4, 7]),
    "float": np.array([3.0, 1.5]),
    "bool": np.array([True, False]),
    "str": np.array(["cat", "dog"]),
    "object": np.array(["cat", "dog"], object),
    "python": [BIG + 5, 3],
}


@pytest.mark.parametrize("container", ["array", "list", "categorical", "series"])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_dtype_find_their_images(X, Z, kind, container):
    which = np.arange(20) % 2
    y = np.asarray(LABELS[kind], object if kind == "python" else None)[which]
    y = {
        "array": lambda: y,
        "list": y.tolist,
        "categorical": lambda: pandas.Series(y).astype("category"),
        "series": lambda: pandas.Series(y),
    }[container]()
    model = EmpiricalDenoiser().fit(X, y)
    expected = LABELS[kind] if kind == "python" else LABELS[kind].tolist()
    assert sorted(model.classes_.tolist()) == sorted(expected)
    for code, label in enumerate(LABELS[kind]):
        alone = EmpiricalDenoiser().fit(X[which == code]).denoise(Z, 0.7)
        np.testing.assert_array_equal(model.denoise(Z, 0.7, y=label), alone)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool])
def test_labels_in_tensors(X, Z, dtype):
    which = torch.arange(20) % 2
    model = EmpiricalDenoiser().fit(X, which.to(dtype))
    alone = EmpiricalDenoiser().fit(X[1::2]).denoise(Z, 0.7)
    np.testing.assert_array_equal(model.denoise(Z, 0.7, y=1), alone)
    np.testing.assert_array_equal(model.denoise(Z, 0.7, y=torch.tensor([1, 1, 1])), alone)


def test_nullable_labels(X, Z):
    y = pandas.Series(np.arange(20) % 2, dtype="Int64")
    alone = EmpiricalDenoiser().fit(X[1::2]).denoise(Z, 0.7)
    np.testing.assert_array_equal(EmpiricalDenoiser().fit(X, y).denoise(Z, 0.7, y=1), alone)


@pytest.mark.parametrize(
    "missing", [np.nan, None, pandas.NA, np.datetime64("NaT")], ids=["nan", "None", "NA", "NaT"]
)
def test_missing_labels_are_refused(X, missing):
    y = np.array([1] * 19 + [missing], object)
    with pytest.raises(ValueError, match="y holds labels that are missing"):
        EmpiricalDenoiser().fit(X, y)


@pytest.mark.parametrize(
    "y",
    [
        pandas.array([None] + [1] * 19, dtype="Int64"),
        pandas.array([None] + ["a"] * 19, dtype="string"),
        pandas.Categorical([None] + ["a"] * 19),
        np.array(["NaT"] + ["2020-01-01"] * 19, dtype="datetime64[s]"),
        torch.tensor([torch.nan] + [1.0] * 19),
    ],
    ids=["Int64", "string", "categorical", "dates", "tensor"],
)
def test_missing_labels_are_refused_in_any_container(X, y):
    with pytest.raises(ValueError, match="y holds labels that are missing"):
        EmpiricalDenoiser().fit(X, y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.ma.masked_equal(np.arange(20), 1), "y is a masked array"),
        (["ant", 3, *["bee"] * 18], "strings and other labels"),
        ([[1], [1, 2], *[[1]] * 18], "y must hold one label for each image"),
        (torch.zeros(20, dtype=torch.int64, device="meta"), "y is a tensor without values"),
    ],
    ids=["masked", "mixed", "ragged", "meta"],
)
def test_what_holds_no_labels_is_refused(X, y, message):
    with pytest.raises(ValueError, match=message):
        EmpiricalDenoiser().fit(X, y)


def test_labels_in_parts_stay_as_large_as_they_are(X, Z):
    """NumPy makes floats of uint64 and int64, and so one class of neighbours."""
    which = np.arange(20) % 3
    model = EmpiricalDenoiser().partial_fit(X, which.astype(np.uint64) + np.uint64(BIG))
    model.partial_fit(X[:2], [-1, 5])
    assert model.classes_.tolist() == [-1, 5, BIG, BIG + 1, BIG + 2]
    for code in range(3):
        alone = EmpiricalDenoiser().fit(X[which == code]).denoise(Z, 0.7)
        np.testing.assert_array_equal(model.denoise(Z, 0.7, y=BIG + code), alone)


@pytest.mark.parametrize("dtype", [int, float, bool])
def test_one_hot_labels_are_refused(X, dtype):
    one_hot = np.eye(4)[np.arange(20) % 4].astype(dtype)
    with pytest.raises(ValueError, match=r"y of shape \(20, 4\) is one-hot.*argmax\(1\)"):
        EmpiricalDenoiser().fit(X, one_hot)


def test_a_target_of_several_columns_holds_no_labels(X, Z):
    model = EmpiricalDenoiser().fit(X, np.random.default_rng(0).normal(size=(20, 2)))
    with pytest.raises(ValueError, match=r"a y of several columns, shape \(20, 2\)"):
        model.denoise(Z, 0.3, y=0)
    with pytest.raises(ValueError, match=r"a y of several columns, shape \(20, 2\)"):
        model.sample(y=0)
    with pytest.raises(ValueError, match="was fitted without labels"):
        model.fit(X).denoise(Z, 0.3, y=0)


# ------------------------------------------------- parameters that suit not every class


@pytest.mark.parametrize(
    "model",
    [
        EmpiricalDenoiser(n_neighbors=10),
        EmpiricalDenoiser(n_neighbors=lambda sigma: 12),
        EmpiricalDenoiser(tol=1e-3, index="IVF8,Flat"),
        EmpiricalDenoiser(n_neighbors=4, n_remainder=10),
        GaussianDenoiser(rank=5),
        PCALocalityDenoiser(softmax="batchwise", batch_size=15),
    ],
    ids=["neighbours", "callable", "cells", "remainder", "rank", "batches"],
)
def test_parameters_that_suit_all_images_suit_a_small_class(X, Z, model):
    y = np.where(np.arange(20) < 3, "small", "large")
    answer = clone(model).fit(X, y).denoise(Z, 0.5, y="small")
    assert np.isfinite(answer).all()
    if isinstance(model, EmpiricalDenoiser) and not model.n_remainder:
        np.testing.assert_allclose(
            answer, EmpiricalDenoiser().fit(X[:3]).denoise(Z, 0.5), rtol=0, atol=2e-3
        )


@pytest.mark.parametrize("index", ["IVF40,Flat", "PQ3", "IVF2,PQ3", "PCA5,SQ8"])
def test_a_class_too_small_for_an_index_is_searched_without(index):
    pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    images = np.random.default_rng(5).standard_normal((320, 1, 3, 3))
    y = np.repeat([0, 1, 2], [290, 29, 1])
    model = EmpiricalDenoiser(tol=1e-3, index=index).fit(images, y)
    for label in (0, 1, 2):
        alone = EmpiricalDenoiser().fit(images[y == label]).denoise(images[:4], 0.7)
        np.testing.assert_allclose(
            model.denoise(images[:4], 0.7, y=label), alone, rtol=0, atol=1e-3
        )


def test_members_of_a_blend_use_at_most_all_of_a_class(X, Z):
    y = np.where(np.arange(20) < 6, "small", "large")

    def blend(**neighbours):
        members = [("a", EmpiricalDenoiser(**neighbours)), ("b", GaussianDenoiser())]
        return BlendedDenoiser(members, sigmas=[0.5], n_images=4)

    model = blend(n_neighbors=15).fit(X, y)
    exact = blend().fit(X[:6]).denoise(Z, 0.5)
    np.testing.assert_allclose(model.denoise(Z, 0.5, y="small"), exact, rtol=0, atol=1e-6)


def test_more_neighbours_than_images_are_still_refused(X):
    with pytest.raises(ValueError, match=r"n_neighbors must be between 1 and 20"):
        EmpiricalDenoiser(n_neighbors=100).fit(X, np.arange(20) % 2)


def test_blends_warn_of_classes_that_are_too_small(X, Z):
    members = [("a", GaussianDenoiser()), ("b", EmpiricalDenoiser())]
    model = BlendedDenoiser(members, sigmas=[0.5], n_images=4)
    y = np.where(np.arange(20) < 4, "small", "large")
    message = "classes cannot be denoised or sampled.*n_images=.*'small'"
    with pytest.warns(UserWarning, match=message) as seen:
        model.fit(X, y)
    assert seen[0].filename == __file__  # it points at the line that has to be changed
    assert np.isfinite(model.denoise(Z, 0.5, y="large")).all()
    with pytest.warns(UserWarning, match="classes cannot be denoised or sampled"):
        model.fit(X, np.arange(20) // 4)


# ------------------------------------------------------------------------------- names


@pytest.mark.parametrize("method", ["denoise", "posterior", "sample", "score", "fit", "attribute"])
def test_errors_of_python_name_no_class_of_our_own(X, method):
    with pytest.raises(TypeError) as caught:
        getattr(PSPCDenoiser(2).fit(X), method)(nonsense=1)
    assert re.search(rf"\b(PSPC|TrainingSet)?Denoiser\.{method}\(\)", str(caught.value))


ESTIMATORS = [one for one in map(vars(skpspc).get, skpspc.__all__) if hasattr(one, "denoise")]


@pytest.mark.parametrize("kind", ESTIMATORS, ids=lambda kind: kind.__name__)
def test_missing_arguments_name_a_denoiser(kind):
    """The bases of denoisers are called denoisers too; nothing else of ours is named."""
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        is_ours = inspect.unwrap(method).__module__.startswith("skpspc")
        if is_ours and (name == "__init__" or not name.startswith("_")):
            owners = rf"({kind.__name__}|Denoiser|DifferentiableDenoiser|TrainingSetDenoiser)\."
            with pytest.raises(TypeError, match=rf"^({owners})?{name}\(\) missing"):
                inspect.unwrap(method)()


def test_instruments_take_containers_too(X, tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra test)")
    stored = h5py.File(tmp_path / "x.h5", "w").create_dataset("x", data=X)
    model = GaussianDenoiser().fit(X)
    got = error_curve(model, stored, [0.3], against="clean")
    np.testing.assert_array_equal(got.errors, error_curve(model, X, [0.3], against="clean").errors)
