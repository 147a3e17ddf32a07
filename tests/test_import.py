"""``import skpspc``: what it loads, and the names that it gives."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skpspc

# Each takes longer to import than the help may take to appear.
HEAVY = {"torch", "numpy", "scipy", "sklearn", "joblib", "PIL", "numba", "faiss", "matplotlib"}


def loaded_by(*arguments):
    """Top-level modules that a Python program has loaded when it ends."""
    report = "import atexit, sys; atexit.register(lambda: print('|', *sys.modules))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + arguments[0], *arguments[1:]],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    return {name.partition(".")[0] for name in done.stdout.rpartition("|")[2].split()}


COMMAND = "from skpspc.cli import main; main()"


@pytest.mark.parametrize(
    "program",
    [
        ["import skpspc"],
        [COMMAND, "--help"],
        [COMMAND, "--version"],
        [COMMAND, "sample", "--help"],
        [COMMAND, "denoise", "--help"],
        [COMMAND, "attribute", "--denoiser", "empirical", "--help"],
        [COMMAND, "calibrate", "--help"],
    ],
    ids=" ".join,
)
def test_heavy_libraries_wait_until_they_are_used(program):
    assert not loaded_by(*program) & HEAVY


def test_denoisers_do_not_load_displays_and_extras():
    loaded = loaded_by("from skpspc import *")
    assert "torch" in loaded
    assert not loaded & {"matplotlib", "numba", "faiss", "torchmetrics"}


def test_every_public_name_is_there():
    names: dict = {}
    exec("from skpspc import *", names)
    assert sorted(set(names) - {"__builtins__"}) == sorted(skpspc.__all__)
    assert set(skpspc.__all__) <= set(dir(skpspc))
    for name in set(skpspc.__all__) - {"__version__"}:
        assert getattr(skpspc, name) is names[name]
        assert names[name].__module__.startswith("skpspc.")


def test_type_checkers_see_the_public_names():
    tree = ast.parse(Path(skpspc.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen == {*skpspc.__all__, *skpspc._SUBPACKAGES} - {"__version__"}


def test_subpackages_are_attributes():
    program = "import skpspc; print(skpspc.datasets.load_npz, skpspc.inspection.fid)"
    assert "skpspc" in loaded_by(program)
    assert set(skpspc._SUBPACKAGES) <= set(dir(skpspc))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'skpspc' has no attribute 'Denoiser'"):
        skpspc.Denoiser  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Denoiser' from 'skpspc'"):
        from skpspc import Denoiser  # noqa: F401
