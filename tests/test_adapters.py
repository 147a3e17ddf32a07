"""Adapters without their libraries: errors that name them, and adapters that need none."""

import re

import pytest
import torch

from skpspc import EmpiricalDenoiser, _optional, adapters
from skpspc.adapters import as_azula, as_deepinv, as_diffusers_unet, as_edm, as_smalldiffusion

NEED_A_LIBRARY = {
    "azula": as_azula,
    "deepinv": as_deepinv,
    "diffusers": lambda model: as_diffusers_unet(model, scheduler=None),
    "smalldiffusion": as_smalldiffusion,
}


@pytest.fixture(autouse=True)
def no_classes_of_libraries():
    """Build the classes of the adapters anew."""
    for name in ("_azula", "_deepinv", "_diffusers", "_smalldiffusion"):
        getattr(adapters, name)._wrapper.cache_clear()
    yield
    for name in ("_azula", "_deepinv", "_diffusers", "_smalldiffusion"):
        getattr(adapters, name)._wrapper.cache_clear()


@pytest.fixture
def model():
    X = torch.tensor([[[[-1.0, 1.0], [0.0, 0.5]]], [[[1.0, 0.0], [0.5, -1.0]]]])
    return EmpiricalDenoiser().fit(X)


@pytest.mark.parametrize("name", NEED_A_LIBRARY)
@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'x'"), RuntimeError("x::nms does not exist")]
)
def test_a_missing_or_broken_library_is_named(monkeypatch, model, name, error):
    def missing(module):
        raise error

    monkeypatch.setattr(_optional, "import_module", missing)
    monkeypatch.setattr(_optional.metadata, "version", lambda package: "999.0")
    oldest = _optional._OLDEST[name]
    sentence = (
        rf"{name} {re.escape(oldest)} or later is needed here and cannot be imported "
        rf"\({re.escape(str(error))}\); install it with pip install \"skpspc\[interop\]\""
    )
    with pytest.raises(ImportError, match=sentence):
        NEED_A_LIBRARY[name](model)


@pytest.mark.parametrize("name", NEED_A_LIBRARY)
@pytest.mark.parametrize("version", ["0.0.9", "0.1rc1", "0.1.dev3+gabc1234"])
def test_an_old_library_is_named(monkeypatch, model, name, version):
    monkeypatch.setattr(_optional.metadata, "version", lambda package: version)
    oldest = _optional._OLDEST[name]
    sentence = (
        rf"{name} {re.escape(oldest)} or later is needed here, but {re.escape(version)} is "
        rf"installed; install it with pip install \"{name}>={re.escape(oldest)}\""
    )
    with pytest.raises(ImportError, match=sentence):
        NEED_A_LIBRARY[name](model)


@pytest.mark.parametrize(
    ("version", "other"), [("0.9.0", "0.10.0"), ("0.11", "0.11.1"), ("1.2", "2.0.0rc1")]
)
def test_versions_are_compared_as_numbers(version, other):
    assert _optional._release(version) < _optional._release(other)


def test_edm_and_k_diffusion_need_no_library(monkeypatch, model):
    z = torch.zeros(3, 1, 2, 2)
    model.denoise(z, 0.7)  # whether numba is installed is decided once, at the first call

    def missing(module):
        raise ModuleNotFoundError(module)

    monkeypatch.setattr(_optional, "import_module", missing)
    for wrap in (as_edm, adapters.as_kdiffusion):
        torch.testing.assert_close(wrap(model)(z, torch.tensor(0.7)), model.denoise(z, 0.7))


def test_a_later_fit_does_not_change_an_adapter():
    X, z = torch.tensor([[[[0.0]]], [[[1.0]]]]), torch.zeros(1, 1, 1, 1)
    model = EmpiricalDenoiser(data_range=(0, 1)).fit(X)
    net = as_edm(model)
    before = net(z, torch.tensor(0.5))
    model.set_params(data_range=None).fit(X - 5)
    assert torch.equal(net(z, torch.tensor(0.5)), before)


def test_unknown_keywords_raise():
    model = EmpiricalDenoiser().fit(torch.tensor([[[[0.0]]], [[[1.0]]]]), ["a", "b"])
    z, sigma = torch.zeros(1, 1, 1, 1), torch.tensor(1.0)
    for adapter in (as_edm(model), adapters.as_kdiffusion(model)):
        with pytest.raises(TypeError, match="class_label"):
            adapter(z, sigma, class_label=torch.tensor([0]))
    strong = as_edm(model)(z, sigma, torch.eye(2)[:1], guidance=3.0)
    assert torch.equal(strong, model.denoise(z, 1.0, y="a", guidance=3.0))
    unlabelled = as_edm(EmpiricalDenoiser().fit(torch.zeros(2, 1, 1, 1)))
    with pytest.raises(ValueError, match="fit it with labels"):
        unlabelled(z, sigma, torch.eye(2)[:1])
