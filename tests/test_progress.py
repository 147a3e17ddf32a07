"""Long calls show their progress with ``verbose``, and are silent without it."""

import numpy as np
import pytest
import torch
from sklearn import config_context

from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PSPCDenoiser,
)
from skpspc._progress import progress, showing
from skpspc.datasets import load_image_folder
from skpspc.inspection import (
    calibrate_patch_size,
    calibrate_thresholds,
    compare,
    error_curve,
    heat_maps,
    information_curve,
    local_equivalence,
    memorisation_risk,
    memorised_fraction,
    nearest_training_distance,
    save_heat_maps,
    suggest_patch_size,
)

X = np.random.default_rng(0).integers(0, 256, (120, 1, 6, 6), dtype=np.uint8)
Z = torch.zeros(40, 1, 6, 6)
MODEL = PSPCDenoiser(3).fit(X)
FLEXIBLE = PSPCDenoiser(windows=FlexibleWindows("data", 0.5, [1.0, 0.1]))
MEMBERS = [("empirical", EmpiricalDenoiser()), ("gaussian", GaussianDenoiser())]


def folder(path):
    from PIL import Image

    for i, image in enumerate(X[:3]):
        Image.fromarray(image[0]).save(path / f"{i}.png")
    return path


# What each call shows; working_memory=1 divides small problems into several blocks.
CALLS = {
    "patch sizes": lambda v, path: calibrate_patch_size(
        PSPCDenoiser(), X, [0.1, 1.0], sizes=[1, 3], n_images=8, verbose=v
    ),
    "thresholds": lambda v, path: calibrate_thresholds(
        FLEXIBLE, X, thresholds=[0.5, 0.9], n_images=8, verbose=v
    ),
    "noise levels": lambda v, path: error_curve(MODEL, X, [0.1, 1.0], n=4, verbose=v),
    "noise levels of two": lambda v, path: compare([MODEL, MODEL], X, [0.1, 1.0], n=4, verbose=v),
    "sampling": lambda v, path: compare(
        [MODEL, MODEL], None, [0.1, 1.0], process="reverse", n=2, n_steps=3, verbose=v
    ),
    "noise levels of heat": lambda v, path: heat_maps(
        MODEL, X, [0.1, 1.0], pixels=[(0, 0)], n_images=2, verbose=v
    ),
    "windows": lambda v, path: heat_maps(MODEL, X, [0.1], pixels=[(3, 3)], n_images=2, verbose=v),
    "heat maps": lambda v, path: save_heat_maps(
        path / f"{v}.npy", MODEL, X, [0.1], n_images=2, verbose=v
    ),
    "noise levels of patches": lambda v, path: local_equivalence(X, [0.1, 1.0], [2], verbose=v),
    "patch sizes of a curve": lambda v, path: information_curve(
        X, [0.1, 1.0], [2, 3], n_images=8, verbose=v
    ),
    "noise levels of a risk": lambda v, path: memorisation_risk(
        EmpiricalDenoiser().fit(X), [0.1, 1.0], n_images=8, verbose=v
    ),
    "noise levels of the bandwidth": lambda v, path: EmpiricalDenoiser(
        bandwidth="calibrated", verbose=v
    ).fit(X),
    "covariance": lambda v, path: GaussianDenoiser(verbose=v).fit(np.repeat(X, 20, axis=0)),
    "noise levels of a blend": lambda v, path: BlendedDenoiser(MEMBERS, n_images=4, verbose=v).fit(
        X
    ),
    "indexing": lambda v, path: EmpiricalDenoiser(tol=1e-2, verbose=v).fit(X).denoise(Z, 0.2),
    "blocks of noisy images": lambda v, path: (
        EmpiricalDenoiser(verbose=v)
        .fit(np.repeat(X, 30, axis=0))
        .denoise(torch.zeros(400, 1, 6, 6), 0.2)
    ),
    "blocks of pixels": lambda v, path: (
        PatchDenoiser(6, verbose=v).fit(X).sensitivity(torch.zeros(90, 1, 6, 6), 0.5)
    ),
    "rows of the Jacobian": lambda v, path: (
        LocalScoreDenoiser(3, equivariant=True, verbose=v).fit(X).jacobian(Z[:4], 0.5)
    ),
    "blocks of training images": lambda v, path: nearest_training_distance(
        X[:2], np.repeat(X, 100, axis=0), verbose=v
    ),
    "blocks of training images of copies": lambda v, path: memorised_fraction(
        X[:2], np.repeat(X, 100, axis=0), verbose=v
    ),
    "training images, first pass": lambda v, path: error_curve(
        PSPCDenoiser(3).fit(np.repeat(X, 100, axis=0)), X, [1.0], n=2, verbose=v
    ),
    "patch sizes of a fit": lambda v, path: PSPCDenoiser("calibrated", verbose=v).fit(X),
    "training images, first pass of a call": lambda v, path: (
        PSPCDenoiser(3, verbose=v).fit(np.repeat(X, 100, axis=0)).denoise(Z[:2], 0.5)
    ),
    "reading images": lambda v, path: load_image_folder(folder(path), verbose=v),
}


@pytest.mark.parametrize("name", CALLS)
def test_verbose_shows_progress(name, tmp_path, capfd):
    with config_context(working_memory=1):
        if name.startswith("training images"):
            pytest.importorskip("numba")
        CALLS[name](0, tmp_path)
        assert capfd.readouterr().err == ""
        CALLS[name](1, tmp_path)
    shown = capfd.readouterr().err
    assert name.partition(" of ")[0].partition(" that")[0] in shown
    assert "100%" in shown and "<00:00" in shown  # elapsed and remaining time


def test_suggest_patch_size_takes_verbose(capfd):
    suggest_patch_size(X, 1.0, patch_sizes=[2], verbose=1)  # one noise level has no bar
    assert capfd.readouterr().err == ""


def test_verbose_does_not_change_results():
    quiet, shown = (EmpiricalDenoiser(bandwidth="calibrated", verbose=v).fit(X) for v in (0, 1))
    assert torch.equal(quiet.denoise(Z, 0.3), shown.denoise(Z, 0.3))


def test_verbose_may_change_after_the_fit(capfd):
    model = EmpiricalDenoiser().fit(np.repeat(X, 30, axis=0))
    with config_context(working_memory=1):
        model.set_params(verbose=1).denoise(torch.zeros(400, 1, 6, 6), 0.2)
    assert "blocks of noisy images" in capfd.readouterr().err


def test_bars_end_with_their_block(capfd):
    with showing(1):
        assert list(progress([1, 2], "within")) == [1, 2]
        with showing(0):  # a call within a call that shows progress
            assert list(progress([1, 2], "deep within")) == [1, 2]
    assert list(progress([1, 2], "without")) == [1, 2]
    shown = capfd.readouterr().err
    assert "within" in shown and "deep within" in shown and "without" not in shown


def test_bars_end_with_an_error(capfd):
    with pytest.raises(ZeroDivisionError), showing(1):
        _ = 1 / 0
    list(progress([1, 2], "without"))
    assert capfd.readouterr().err == ""
