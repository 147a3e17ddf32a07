"""What several test modules do."""

import contextlib
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from skpspc.datasets import load_digits_images

ROOT = Path(__file__).resolve().parents[1]
FEW = ["--max-images", "60"]


def fit_quietly(model, X, sample_weight=None):
    """Fit; that a patch is clipped to the image warns, and is not the matter here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="patch_size=.* is larger than the image")
        return model.fit(X, sample_weight=sample_weight)


def finite_difference_gradient(function, z, step):
    """Gradient of a function of rows at one row, by central differences."""
    shifts = step * np.eye(len(z))
    return (function(z + shifts) - function(z - shifts)) / (2 * step)


def few_digits():
    """The images that ``--max-images 60`` takes."""
    return load_digits_images().images[[i * 1797 // 60 for i in range(60)]]


def docs_script(path):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "docs" / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_OPERATORS: list = []  # a library's operators vanish with the object


def real(name):
    """Return a module of another library; skip the tests of a file if it is not installed."""
    _allow_torchvision()
    with _allowed_pkg_resources():
        return pytest.importorskip(name, reason=f"{name} is not installed")


@contextlib.contextmanager
def _allowed_pkg_resources():
    """Let clip-anytorch be imported, which reads ``pkg_resources.packaging``.

    setuptools 82 removed the module. k-diffusion imports clip-anytorch for its evaluation.
    """
    if importlib.util.find_spec("pkg_resources") is None:
        import packaging.version

        stand_in: Any = ModuleType("pkg_resources")
        stand_in.packaging = packaging
        sys.modules["pkg_resources"] = stand_in
        try:
            yield
        finally:
            del sys.modules["pkg_resources"]
    else:
        yield


def _allow_torchvision():
    """Let torchvision be imported where its compiled operators do not load.

    A torchvision for CUDA cannot load them beside a torch for the CPU. The libraries of the tests
    import torchvision, and call none of these operators.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATORS.append(operators)
