"""The networks of benchmarks/, how they are trained, and what is shown with them."""

import json

import numpy as np
import pytest
import torch

from skpspc import EmpiricalDenoiser
from skpspc.datasets import load_photo_patches
from test_benchmarks import FOLDER, results, script

NAMES = ["unet", "transformer", "mixer"]


@pytest.fixture(scope="module")
def photos():
    """Colour photographs, in crops of 32 x 32."""
    return load_photo_patches(size=32, n_images=96, photos=("china", "flower")).images


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return script


@pytest.mark.parametrize("name", [*NAMES, "faces", "tiny-imagenet"])
def test_kept_weights_denoise_photographs_of_others(scripts, photos, name):
    if name not in NAMES:  # for 64 x 64 images, of which the faces are gray
        photos = load_photo_patches(size=64, n_images=96, photos=("china", "flower")).images
        photos = photos if name == "tiny-imagenet" else photos[:, :1]
    network = scripts("networks").denoisers([name], photos)[name]
    x0 = photos[:24] / np.float32(127.5) - 1
    z = x0 + np.float32(0.3) * np.random.RandomState(0).standard_normal(x0.shape).astype("f4")
    error = np.square(network.denoise(z, 0.3) - x0).mean()
    assert error < 0.3**2 / 3
    others = EmpiricalDenoiser().fit(photos[24:])
    assert error < np.square(others.denoise(z, 0.3) - x0).mean()


def test_training_lowers_the_loss_and_keeps_what_it_did(scripts, photos, tmp_path):
    name = "mixer"
    train = scripts("train_networks")
    train.train(name, photos[:64], photos[64:68], tmp_path, n_steps=40, rate=1.5e-3, batch_size=4)
    log = np.genfromtxt(tmp_path / f"{name}.csv", delimiter=",", names=True)
    assert log["images_seen"][-1] == 160
    assert log["loss"][-5:].mean() < log["loss"][:2].mean()
    module, trained = scripts("networks").load(name, tmp_path)
    assert trained["images_seen"] == 160 and json.dumps(trained)
    assert module(torch.zeros(1, 3, 32, 32), torch.zeros(1)).abs().max() > 0


def test_unseen_images_are_not_trained_on(scripts):
    reproduce, n = scripts("reproduce"), 100
    train, unseen = reproduce.mixed(n, True)
    assert sorted([*train, *unseen]) == list(range(n))
    _, held_out = scripts("train_networks").divided(np.arange(n))
    assert sorted(unseen) == held_out.tolist()
    assert list(train) != sorted(train)
    everything, none = reproduce.mixed(n, False)
    assert sorted(everything) == list(range(n)) and none is None


def test_curve_and_samples(scripts, photos, tmp_path):
    reproduce = scripts("reproduce")
    study = reproduce.Study(photos, tmp_path, n=4)
    reproduce.curve(study)
    rows = results(tmp_path, "curve")
    assert {row["denoiser"] for row in rows} == set(NAMES)
    assert all(float(row["standard_error"]) > 0 for row in rows)
    reproduce.samples(study, n=10)
    rows = {row["denoiser"]: row for row in results(tmp_path, "samples")}
    optimal = rows["Optimal"]  # its samples are training images
    assert float(optimal["distance"]) == pytest.approx(0, abs=5e-4)
    assert float(optimal["memorised"]) == 1
    assert all(float(rows[name][f"cosine_{name}"]) == 1 for name in NAMES)
    kept = np.load(tmp_path / "samples.npz")
    assert kept["images"].shape == (6, 10, 3, 32, 32)
    assert list(kept["denoisers"]) == list(rows)


def test_tables(scripts, photos, tmp_path, monkeypatch):
    reproduce = scripts("reproduce")
    monkeypatch.setattr(reproduce, "SIGMAS", (0.6, 1.9))
    monkeypatch.setattr(reproduce, "FRACTIONS", (0.4, 0.5))
    monkeypatch.setattr(reproduce, "SIZES", (4, 32))
    study = reproduce.Study(photos, tmp_path, n=2)
    study.networks = {"unet": study.networks["unet"]}
    monkeypatch.setattr(reproduce, "PLACES", (8, 24))
    reproduce.tables(study)
    pairs = results(tmp_path, "pairs")
    assert {row["sigma"] for row in pairs} == {"0.6", "1.9"}
    assert all((float(row["error"]) == 0) == (row["denoiser"] == row["other"]) for row in pairs)
    rows = results(tmp_path, "differences")
    labels = {(row["process"], row["denoiser"]) for row in rows}
    settings = {row["denoiser"]: float(row["setting"] or 0) for row in rows}
    for name, values in (
        ("PSPC-Square, sizes chosen for unet", (4, 32)),
        ("PSPC-Flex, heat of the data, chosen for unet", (0.4, 0.5)),
        ("PSPC-Flex, heat of unet", (0.4, 0.5)),
    ):
        assert {("forward", name), ("reverse", name)} <= labels
        assert settings[name] in values


def test_locality_keeps_the_maps_that_it_measures(scripts, photos, tmp_path):
    reproduce = scripts("reproduce")
    study = reproduce.Study(photos, tmp_path, n=2)
    study.networks = {"unet": study.networks["unet"]}
    reproduce.locality(study, levels=(0.3, 3.3))
    rows = results(tmp_path, "heat-maps")
    near, far = (float(row["side"]) for row in rows if row["denoiser"] == "unet")
    assert near < far
    kept = np.load(tmp_path / "heat-maps.npz")
    assert kept["heat"].shape == (3, 2, 32, 32)
    assert list(kept["sigmas"]) == [0.3, 3.3]
    row, column = kept["pixel"]
    for heat in kept["heat"][:, 0]:
        assert abs(heat[row - 2 : row + 3, column - 2 : column + 3]).max() == 1


def test_schedules_beside_the_sizes_of_the_paper(scripts, photos, tmp_path, monkeypatch):
    reproduce = scripts("reproduce")
    monkeypatch.setattr(reproduce, "SIZES", (1, 4, 32))
    monkeypatch.setattr(reproduce, "LEVELS", (0.1, 3.2))
    study = reproduce.Study(photos[:64], tmp_path, names=["unet"], unseen=photos[64:])
    monkeypatch.setattr(reproduce, "N_CHOOSING", 8)
    reproduce.schedules(study)
    rows = results(tmp_path, "schedules")
    assert [(row["chosen_for"], float(row["sigma"])) for row in rows] == [
        (name, sigma) for name in ("unet", "clean images") for sigma in (0.1, 3.2)
    ]
    assert all(int(row["size"]) in (1, 4, 32) for row in rows)
    assert [int(row["paper_size"]) for row in rows] == 2 * [3, 15]
    for name in ("unet", "clean images"):  # chosen jointly, so that sizes do not fall
        mine = [row for row in rows if row["chosen_for"] == name]
        assert int(mine[0]["size"]) <= int(mine[1]["size"])
    assert all(
        (row["size"] == row["paper_size"]) == (row["error"] == row["paper_error"]) for row in rows
    )


@pytest.mark.parametrize(("pictures", "memorised"), [(True, 0.0), (False, 0.0), (True, 1.0)])
def test_classes_have_samples_near_their_images(
    scripts, photos, tmp_path, pictures, memorised, monkeypatch
):
    reproduce = scripts("reproduce")
    monkeypatch.setattr(reproduce, "GUIDANCES", (1.0,))
    labels = (photos.mean((1, 2, 3)) > np.median(photos.mean((1, 2, 3)))).astype(int)
    study = reproduce.Study(photos, tmp_path, names=[], labels=labels, pictures=pictures)
    monkeypatch.setattr(reproduce, "memorised_fraction", lambda x, train: memorised)
    reproduce.classes(study, n=2)
    rows = results(tmp_path, "classes")
    names = [reproduce.PAPER, reproduce.EDGE, reproduce.GAUSSIAN]
    assert [row["denoiser"] for row in rows] == names
    assert float(rows[0]["of_class"]) == 1
    assert all(int(row["n_samples"]) == 4 for row in rows)
    # no picture of training images
    assert (tmp_path / "classes.npz").is_file() == (pictures and memorised == 0)
    if pictures and memorised == 0:
        assert np.load(tmp_path / "classes.npz")["images"].shape == (3, 4, 3, 32, 32)


def test_attention_is_dampened_by_displacement_alone(scripts):
    attention = scripts("networks").Attention(8, 9, n_heads=2)
    bias = attention.bias[:, attention.between].detach().view(2, 3, 3, 3, 3)
    torch.testing.assert_close(bias[:, 0, 0, :2, :2], bias[:, 1, 1, 1:, 1:], rtol=0, atol=0)
    assert bias[0, 1, 1, 1, 1] == 0 and bias[0, 1, 1, 1, 2] == -2 and (bias[1] == 0).all()
