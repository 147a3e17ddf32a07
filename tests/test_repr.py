"""Reprs of public objects: shapes and summaries, no arrays and no addresses."""

import pickle
import re

import numpy as np
import pytest
import torch

from skpspc import (
    BandwidthSchedule,
    EmpiricalDenoiser,
    FlexibleWindows,
    PatchSchedule,
    PSPCDenoiser,
)
from skpspc._repr import described, extent, number, numbers, three_digits
from skpspc.datasets import load_digits_images, load_photo_patches
from skpspc.inspection import (
    AttributionDisplay,
    EntropyMapDisplay,
    InformationCurveDisplay,
    LocalEquivalenceDisplay,
    MemorisationRiskDisplay,
    SensitivityDisplay,
    TrajectoryDisplay,
    attribute,
    calibrate_patch_size,
    compare,
    error_curve,
    information_curve,
    leave_out,
    local_equivalence,
    memorisation_risk,
    mse,
    posterior_entropy,
)
from skpspc.inspection._plot.error_curve import ErrorCurveDisplay
from skpspc.inspection._plot.sample_grid import SampleGridDisplay
from skpspc.sampling.convert import NearestStep
from skpspc.support import Centred, Neighbours, Recall, Squares, TrainingSet, Whole
from skpspc.support.labels import Labels


@pytest.fixture(scope="module")
def public_objects():
    """One object of every kind that a user can get hold of, by name."""
    bunch = load_digits_images()
    X, y, held = bunch.images[:100], bunch.target[:100], bunch.images[100:104]
    Z = held / 127.5 - 1 + 0.5
    model = EmpiricalDenoiser().fit(X, y)
    windows = FlexibleWindows("data", thresholds=0.5, sigmas=[0.1, 1.0])
    local = PSPCDenoiser(3).fit(X)
    sources = attribute(local, Z, 0.5)
    table = error_curve({"empirical": model}, held, sigmas=[0.5, 1.0])
    equivalence = local_equivalence(X, sigmas=[0.5, 1.0], patch_sizes=[2, 4], n_images=4)
    curve = information_curve(X, sigmas=[0.5, 1.0], patch_sizes=[2, 4], n_images=4)
    entropies, risks = posterior_entropy(local, Z, 0.5), memorisation_risk(local, [0.5, 1.0])
    heat = np.abs(np.random.default_rng(0).standard_normal((1, 2, 8, 8)))
    return {
        "Posterior": model.posterior(Z, 0.5),
        "Posterior of tensors": model.posterior(torch.from_numpy(Z), 0.5),
        "Attribution": sources,
        "leave_out": leave_out(local, Z, 0.5, [[0, 1]]),
        "TrainingSet": model.training_set_,
        "Labels": model._labels,
        "Neighbours": Neighbours(model.training_set_, "IVF8,Flat"),
        "Recall": Recall(),
        "Whole": Whole(),
        "Squares": Squares(3, 3),
        "Masks": Squares(3, 3).masks((1, 8, 8)),
        "Centred": Centred(3),
        "Prior": local._prior_of(),
        "ResolvedWindows": windows.resolve(model.training_set_),
        "PatchSchedule": PatchSchedule(np.geomspace(0.1, 10, 50), np.arange(1, 51)),
        "BandwidthSchedule": BandwidthSchedule(np.geomspace(0.1, 10, 50), np.linspace(0, 1, 50)),
        "NearestStep": NearestStep(np.linspace(0.99, 0.01, 1000)),
        "ErrorTable": table,
        "ComparisonTable": compare({"a": model, "b": local}, held, sigmas=[0.5]),
        "CalibrationTable": calibrate_patch_size(
            PSPCDenoiser(), X, sigmas=[0.5], sizes=[2, 4], n_images=4
        )[1],
        "LocalEquivalence": equivalence,
        "EntropyMap": entropies,
        "InformationCurve": curve,
        "MemorisationRisk": risks,
        "EntropyMapDisplay": EntropyMapDisplay(entropies),
        "InformationCurveDisplay": InformationCurveDisplay(curve),
        "MemorisationRiskDisplay": MemorisationRiskDisplay(risks),
        "Measurement": mse(held, held),
        "load_digits_images": bunch,
        "load_photo_patches": load_photo_patches(n_images=4),
        "AttributionDisplay": AttributionDisplay(
            noisy=Z[0], answer=Z[0], attribution=sources, images=X, sigma=0.5
        ),
        "LocalEquivalenceDisplay": LocalEquivalenceDisplay(equivalence),
        "ErrorCurveDisplay": ErrorCurveDisplay(table),
        "SampleGridDisplay": SampleGridDisplay(Z, Z, np.ones(4), np.ones(4, bool), 100),
        "SensitivityDisplay": SensitivityDisplay(heat, sigmas=[0.5], pixels=[(0, 0), (1, 1)]),
        "TrajectoryDisplay": TrajectoryDisplay(np.zeros((3, 2, 1, 8, 8)), [0.1, 0.2, 0.3]),
    }


def test_no_arrays_and_no_addresses(public_objects):
    for name, thing in public_objects.items():
        text = repr(thing)
        assert not re.search(r"array\(|tensor\(|0x[0-9a-f]{6,}", text), f"{name}: {text}"
        assert len(text) < 1000, f"{name}: {text}"


def test_summaries(public_objects):
    expected = {
        "Posterior": r"Posterior\(n=4, image_shape=\(1, 8, 8\), effective_sample_size=1.* to .*, "
        r"error_bound=0, proved\)",
        "TrainingSet": r"TrainingSet\(n=100, image_shape=\(1, 8, 8\), dtype=uint8\)",
        "Labels": r"Labels\(n=100, classes=\[0, 1, 2, 3, 4, 5, 6, 7, \.\.\. 10 in all\]\)",
        "Neighbours": r"Neighbours\(n=100, factory='IVF8,Flat'\)",
        "Recall": r"Recall\(n=0\)",
        "Attribution": r"Attribution\(index=<int64 array of shape \(4, 1, 8, 8, \d+\)>, share=.*",
        "ResolvedWindows": r"ResolvedWindows\(image_shape=\(8, 8\), sigmas=\[0.1, 1\], .*",
        "load_digits_images": r"Bunch\(images=<uint8 array of shape \(1797, 1, 8, 8\)>, .*",
        "PatchSchedule": r"PatchSchedule\(sigmas=\[0.1, .*, \.\.\., 10.0\] \(50 in all\), .*",
        "SampleGridDisplay": r"SampleGridDisplay\(samples=<float64 array of shape .*n_train=100\)",
    }
    for name, pattern in expected.items():
        assert re.fullmatch(pattern, repr(public_objects[name])), repr(public_objects[name])


def test_weights_and_labels():
    weighted = TrainingSet(torch.zeros(3, 1, 2, 2), torch.ones(3, dtype=torch.float64))
    assert repr(weighted) == "TrainingSet(n=3, image_shape=(1, 2, 2), dtype=float32, weighted)"
    assert repr(Labels(np.array(["b", "a"]))) == "Labels(n=2, classes=['a', 'b'])"


def test_neighbours_without_a_training_set_and_recall_of_some(public_objects):
    """A pickle of neighbours leaves the training set to its owner."""
    neighbours = public_objects["Neighbours"]
    assert repr(pickle.loads(pickle.dumps(neighbours))) == "Neighbours(factory='IVF8,Flat')"
    recall = Recall()
    recall.remember(torch.zeros(3, 2), None)
    assert repr(recall) == "Recall(n=3)"


def test_short_schedules_can_be_read_back():
    schedule = PatchSchedule([0.1, 1.0], [3, 8])
    assert repr(schedule) == "PatchSchedule(sigmas=[0.1, 1.0], sizes=[3, 8])"
    assert eval(repr(schedule)) == schedule


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((2, 3), np.float32), "<float32 array of shape (2, 3)>"),
        (torch.zeros(2), "<float32 array of shape (2,)>"),
        ((1,), "(1,)"),
        ([np.zeros(2)], "[<float64 array of shape (2,)>]"),
        (list(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, ... 20 in all]"),
        ("x" * 61, f"'{'x' * 60}'... (61 characters)"),
        pytest.param(object(), "<object>", id="object"),
        (None, "None"),
    ],
    ids=str,
)
def test_described(value, text):
    assert described(value) == text


@pytest.mark.parametrize(
    ("value", "cell", "text"),
    [
        (0.0, "0", "0"),
        (0.087, "0.0870", "0.087"),
        (17.0, "17.0", "17"),
        (123.4, "123", "123"),
        (12345.6, "1.23e+04", "12,346"),
        (9.238e-5, "9.24e-05", "9.24e-05"),
        (float("nan"), "nan", "nan"),
    ],
)
def test_numbers_have_three_digits(value, cell, text):
    assert three_digits(value) == cell
    assert number(value) == text


def test_extent():
    assert extent(np.array([1.0, 3.21])) == "1 to 3.21"
    assert extent(torch.zeros(3)) == "0"
    assert extent(np.array([])) == "none"
    assert numbers(np.arange(3)) == "[0, 1, 2]"
