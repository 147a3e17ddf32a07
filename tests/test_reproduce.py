"""The networks of benchmarks/, how they are trained, and what is shown with them."""

import json

import numpy as np
import pytest
import torch

from skpspc import EmpiricalDenoiser, NetworkDenoiser
from skpspc.datasets import load_photo_patches
from test_benchmarks import FOLDER, script

NAMES = ["unet", "transformer", "mixer"]


@pytest.fixture(scope="module")
def photos():
    """Colour photographs, in crops of 32 x 32."""
    return load_photo_patches(size=32, n_images=96, photos=("china", "flower")).images


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return script


@pytest.mark.parametrize("name", NAMES)
def test_kept_weights_denoise_photographs_of_others(scripts, photos, name):
    module, told = scripts("networks").load(name)
    network = NetworkDenoiser(module, "edm", sigma_data=told["sigma_data"]).fit(photos)
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
    module, told = scripts("networks").load(name, tmp_path)
    assert told["images_seen"] == 160 and json.dumps(told)
    assert module(torch.zeros(1, 3, 32, 32), torch.zeros(1)).abs().max() > 0


def test_curve_and_samples(scripts, photos, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    reproduce = scripts("reproduce")
    study = reproduce.Study(photos, tmp_path, n=4)
    reproduce.curve(study)
    table = (tmp_path / "curve.rst").read_text()
    assert all(name in table for name in NAMES)
    reproduce.samples(study, n=10)
    lines = (tmp_path / "samples.rst").read_text().splitlines()
    (optimal,) = (line.split() for line in lines if line.startswith("optimal"))
    assert optimal[1:3] == ["0.000", "1.00"]  # its samples are training images
    assert {path.name for path in tmp_path.glob("*.png")} == {"curve.png", "samples.png"}


def test_tables(scripts, photos, tmp_path, monkeypatch):
    reproduce = scripts("reproduce")
    monkeypatch.setattr(reproduce, "SIGMAS", (0.6, 1.9))
    monkeypatch.setattr(reproduce, "FRACTIONS", (0.4, 0.5))
    monkeypatch.setattr(reproduce, "SIZES", (4, 32))
    study = reproduce.Study(photos, tmp_path, n=2)
    study.networks = {"unet": study.networks["unet"]}
    monkeypatch.setattr(reproduce, "PLACES", (8, 24))
    reproduce.tables(study)
    pairs = (tmp_path / "pairs.rst").read_text()
    assert "sigma = 0.6" in pairs and "sigma = 1.9" in pairs
    differences = (tmp_path / "differences.rst").read_text()
    for name in ("Square, calibrated to unet", "Flex, from data, calibrated", "Flex, from unet"):
        assert differences.count(f"PSPC-{name}") == 2  # forward and reverse


def test_attention_is_dampened_by_displacement_alone(scripts):
    attention = scripts("networks").Attention(8, 9, n_heads=2)
    bias = attention.bias[:, attention.between].detach().view(2, 3, 3, 3, 3)
    torch.testing.assert_close(bias[:, 0, 0, :2, :2], bias[:, 1, 1, 1:, 1:], rtol=0, atol=0)
    assert bias[0, 1, 1, 1, 1] == 0 and bias[0, 1, 1, 1, 2] == -2 and (bias[1] == 0).all()
