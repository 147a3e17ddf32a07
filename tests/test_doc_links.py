"""Estimators' HTML representations link to the documentation, where there is one."""

import re

import pytest
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import skpspc
from skpspc import EmpiricalDenoiser, FlexibleWindows, GaussianDenoiser, SmoothedDenoiser


def links(estimator):
    """Targets of the links in an HTML representation."""
    return set(re.findall(r'href="([^"#]+)', estimator._repr_html_()))


def page(root, name):
    return f"{root}/api/generated/skpspc.{name}.html"


@pytest.mark.parametrize("root", ["https://docs.example/skpspc", "..", "file:///tmp/html/"])
def test_an_estimator_links_to_its_page(monkeypatch, root):
    monkeypatch.setenv("SKPSPC_DOCS_URL", root)
    root = root.rstrip("/")
    assert page(root, "GaussianDenoiser") in links(GaussianDenoiser())
    nested = links(SmoothedDenoiser(EmpiricalDenoiser()))
    assert {page(root, "SmoothedDenoiser"), page(root, "EmpiricalDenoiser")} <= nested
    pipeline = links(make_pipeline(FunctionTransformer(), GaussianDenoiser()))
    assert page(root, "GaussianDenoiser") in pipeline
    assert any("scikit-learn.org" in link for link in pipeline)


def test_no_link_leads_to_the_pages_of_another_library(monkeypatch):
    monkeypatch.delenv("SKPSPC_DOCS_URL", raising=False)
    for root in (None, ""):
        if root is not None:
            monkeypatch.setenv("SKPSPC_DOCS_URL", root)
        for estimator in (GaussianDenoiser(), FlexibleWindows("data", 0.5, [1.0])):
            assert links(estimator) == set()


def test_every_estimator_links_to_the_page_of_its_public_name(monkeypatch):
    monkeypatch.setenv("SKPSPC_DOCS_URL", "root")
    public = {name: getattr(skpspc, name) for name in skpspc.__all__}
    classes = {
        name: value
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, BaseEstimator)
    }
    assert len(classes) >= 11
    for name, estimator in classes.items():
        bare = estimator.__new__(estimator)
        assert bare._get_doc_link() == page("root", name)


def test_a_subclass_elsewhere_has_no_page(monkeypatch):
    monkeypatch.setenv("SKPSPC_DOCS_URL", "root")

    class Mine(GaussianDenoiser):
        pass

    assert Mine()._get_doc_link() == ""
