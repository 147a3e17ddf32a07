"""What several test modules do."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np

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
