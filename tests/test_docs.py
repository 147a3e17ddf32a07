"""The documentation names everything public, and its link check finds broken links."""

import inspect
import pkgutil
import re

import numpy as np
import pandas as pd
import pytest
import torch

import skpspc
from helpers import ROOT, docs_script
from skpspc import sampling

DOCS = ROOT / "docs"
# Made while the site is built, or told in the text of a page.
NO_PAGE = {"__version__", "SAMPLERS", "convert"}


@pytest.fixture(scope="module")
def check_links():
    return docs_script("check_links.py")


@pytest.mark.parametrize(("module", "prefix"), [(skpspc, ""), (sampling, "sampling.")])
def test_every_public_name_has_a_page(module, prefix):
    listed = re.findall(r"^   ([\w.]+)$", (DOCS / "api" / "index.rst").read_text(), re.MULTILINE)
    assert len(listed) == len(set(listed))
    for name in set(module.__all__) - NO_PAGE:
        assert {name, prefix + name} & set(listed), f"api/index.rst does not list {prefix}{name}"


def test_every_listed_name_is_public():
    text = (DOCS / "api" / "index.rst").read_text()
    for name in re.findall(r"^   ([\w.]+)$", text, re.MULTILINE):
        found = pkgutil.resolve_name(f"skpspc.{name}")
        assert inspect.ismodule(found) or inspect.getdoc(found), name


def documented_functions():
    """Functions and classes on the pages of the API, and methods of these classes, by name."""
    text = (DOCS / "api" / "index.rst").read_text()
    for name in re.findall(r"^   ([\w.]+)$", text, re.MULTILINE):
        listed = pkgutil.resolve_name(f"skpspc.{name}")
        if callable(listed):
            yield name, listed
        if inspect.isclass(listed):
            for method, function in inspect.getmembers(listed, inspect.isfunction):
                if not method.startswith("_"):
                    yield f"{name}.{method}", function


def test_documented_defaults_are_those_of_the_signature():
    known, checked = {"inf": np.inf, "torch": torch}, 0
    for where, function in documented_functions():
        section = (inspect.getdoc(function) or "").partition("Parameters\n-------")[2]
        section = re.split(r"\n\w+\n---", section)[0]
        parameters = inspect.signature(function).parameters
        for names, default in re.findall(r"^([\w, ]+) : .*\bdefault (.+)$", section, re.MULTILINE):
            names, values = names.split(", "), default.split(" and ")
            values *= len(names) // len(values)
            for name, value in zip(names, values, strict=True):
                assert parameters[name].default == eval(value, known), f"{where}: {name}"
                checked += 1
    assert checked > 300


def test_no_number_is_in_bold_text():
    """reStructuredText has no markup within markup: it would print the name of the number."""
    numbers = re.compile(r"\|[^|\n]+\|")
    for path in DOCS.rglob("*.rst"):
        for paragraph in path.read_text().split("\n\n"):
            for bold in re.findall(r"\*\*(.+?)\*\*", paragraph, re.DOTALL):
                assert not numbers.search(bold), f"{path}: {bold}"


def test_every_page_is_in_a_table_of_contents():
    contents = " ".join(path.read_text() for path in DOCS.rglob("*.rst"))
    made = {"generated", "gallery", "reproduction", "_build", "_templates"}
    for path in DOCS.rglob("*.rst"):
        if path.name != "index.rst" and not set(path.parts) & made:
            entry = rf"^   (user_guide/|\w+ <)?{path.stem}>?$"
            assert re.search(entry, contents, re.MULTILINE), path


def test_every_example_of_a_minigallery_exists():
    named = [
        (path, name)
        for path in DOCS.rglob("*.rst")
        if "generated" not in path.parts
        for block in re.findall(r"\.\. minigallery:: .*(?:\n +\S.*)*", path.read_text())
        for name in re.findall(r"\S+\.py", block)
    ]
    assert named
    for path, name in named:
        assert (DOCS / name).is_file(), f"{path} names {name}"


def test_broken_links_are_found(check_links, tmp_path, capsys):
    (tmp_path / "a.html").write_text('<a href="b.html#here">b</a> <a href="#top">top</a>')
    (tmp_path / "b.html").write_text('<p id="here"><a href="https://arxiv.org">c</a></p>')
    assert check_links.main(tmp_path) == 0
    assert "2 pages, 2 links within, 1 links elsewhere 0 broken" in capsys.readouterr().out
    (tmp_path / "b.html").write_text('<p id="there"><img src="d%20e.png"></p>')
    assert check_links.main(tmp_path) == 1
    out = capsys.readouterr().out
    assert "a.html: b.html#here" in out
    assert "b.html: d%20e.png" in out
    (tmp_path / "d e.png").touch()
    (tmp_path / "b.html").write_text('<p id="here"><img src="d%20e.png"></p>')
    assert check_links.main(tmp_path) == 0
    assert check_links.main(tmp_path / "nowhere") == 1


FITTED = [
    skpspc.AutoDenoiser(n_images=4, n_fitted=40),
    skpspc.BlendedDenoiser([("gaussian", skpspc.GaussianDenoiser())], sigmas=[1.0], n_images=4),
    skpspc.EmpiricalDenoiser(bandwidth="calibrated"),
    skpspc.GaussianDenoiser(),
    skpspc.LocalScoreDenoiser(),
    skpspc.NetworkDenoiser(lambda x, c: x),
    skpspc.PCALocalityDenoiser(),
    skpspc.PSPCDenoiser("calibrated", bandwidth="calibrated"),
    skpspc.PatchDenoiser(2, bandwidth="calibrated"),
    skpspc.PosteriorMeanCollection(),
    skpspc.SingleImageDenoiser(2),
    skpspc.SmoothedDenoiser(skpspc.EmpiricalDenoiser()),
]


def entries(cls, section):
    """Return the names that a section of a docstring lists with a type and a text of their own."""
    doc = inspect.getdoc(cls)
    (text,) = re.findall(rf"^{section}\n-+\n(.*?)(?=\n\n\w+( \w+)?\n-+\n|\Z)", doc, re.M | re.S)
    return set(re.findall(r"^(\w+) : \S.*\n    \S", text[0], re.MULTILINE))


@pytest.mark.parametrize("cls", [*map(type, FITTED), skpspc.FlexibleWindows])
def test_a_class_describes_every_parameter(cls):
    assert entries(cls, "Parameters") == set(inspect.signature(cls).parameters)


@pytest.mark.parametrize("estimator", FITTED, ids=lambda estimator: type(estimator).__name__)
def test_a_class_describes_every_fitted_attribute(estimator):
    cls, X = type(estimator), np.random.default_rng(0).uniform(-1, 1, (24, 1, 3, 3))
    estimator.fit(pd.DataFrame(X.reshape(24, 9)).add_prefix("pixel"), np.arange(24) % 2)
    names = {*vars(estimator), *(name for name in dir(cls) if hasattr(estimator, name))}
    fitted = {name for name in names if re.fullmatch(r"[a-z]\w*[a-z]_", name)}
    assert entries(cls, "Attributes") == fitted


@pytest.mark.parametrize("cls", [*map(type, FITTED), skpspc.FlexibleWindows])
def test_a_class_refers_to_no_other_for_a_description(cls):
    for name, member in [("", cls), *inspect.getmembers(cls, inspect.isfunction)]:
        if not name.startswith("_") and member.__module__.startswith("skpspc"):
            assert not re.search(r"\bAs in\b|\bthose of\b", inspect.getdoc(member)), name
