"""The documentation as it is built, in a real browser where one is needed.

It is not built here: SKPSPC_SITE names its folder, or docs/_build/html is looked at. Without a
site, and without playwright or Chromium, the tests that need them are skipped.
"""

import html
import os
import re
import threading
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image, ImageOps

from helpers import ROOT, docs_script


@pytest.fixture(scope="module")
def site():
    folder = Path(os.environ.get("SKPSPC_SITE", ROOT / "docs" / "_build" / "html")).resolve()
    if not (folder / "index.html").is_file():
        pytest.skip(f"no site in '{folder}'; build the documentation, or set SKPSPC_SITE")
    return folder


@pytest.fixture(scope="module")
def base(site):
    """Address at which the site is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def copyfile(self, *files):
            with suppress(ConnectionError):  # the browser has gone on to another page
                super().copyfile(*files)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def local(visit, base):
    """A window in which other servers answer with nothing: the site is judged, not the network."""
    page = visit("about:blank")
    page.route(lambda url: not url.startswith(base), lambda route: route.fulfill(body=""))
    return page


def pages_of(site):
    """Return the paths of all pages, relative to the site; _static holds one page, the explorer."""
    paths = [path.relative_to(site) for path in sorted(site.rglob("*.html"))]
    alone = Path("_static/explorer.html")
    return [path for path in paths if path.parts[0] != "_static" or path == alone]


def test_every_page_loads(local, site, base):
    assert len(pages_of(site)) > 1
    broken = []
    for path in pages_of(site):
        local.goto(base + path.as_posix())
        broken += local.evaluate(
            "() => Promise.all([...document.images].map(image => {"
            "  image.loading = 'eager';"
            "  return image.decode().then(() => null, () => `${location}: ${image.src}`);"
            "})).then(found => found.filter(Boolean))"
        )
    assert not broken


def test_no_link_is_broken(site):
    broken, counts = docs_script("check_links.py").check(site)
    assert counts["links within"] > 0
    assert not broken, "\n".join(broken)


def test_search_finds_patch(local, base):
    local.goto(f"{base}search.html?q=patch")
    results = local.locator("#search-results li")  # they come one after another
    results.nth(3).wait_for(timeout=60_000)
    results.filter(has_text="PSPCDenoiser").first.wait_for(timeout=60_000)


def test_thumbnails_are_pictures(site):
    """Not the picture that sphinx-gallery shows where an example has none, and not a blank."""
    page_class = docs_script("check_links.py").Page
    thumbnails = {
        (page.parent / unquote(link)).resolve()
        for page in (site / path for path in pages_of(site))
        for link in page_class(page).links
        if re.search(r"sphx_glr_.*_thumb\.(png|svg|gif)$", link)
    }
    examples = list((ROOT / "examples").rglob("plot_*.py"))
    named = {path.name for path in thumbnails}
    assert named == {f"sphx_glr_{path.stem}_thumb.png" for path in examples}
    with Image.open(site / "_static" / "no_image.png") as picture:
        placeholder = picture.convert("L")
    for path in thumbnails:
        with Image.open(path) as picture:
            thumbnail = picture.convert("L")
        assert min(thumbnail.size) >= 100, path
        values = np.asarray(thumbnail, dtype=float)
        assert values.std() > 5, path
        absent = ImageOps.pad(placeholder, thumbnail.size, color=255)
        assert abs(values - np.asarray(absent, dtype=float)).mean() > 5, path


def test_rows_of_the_gallery_are_full(site):
    """Four cards are in a row, or two on a phone."""
    page = (site / "gallery" / "index.html").read_text()
    sections = page.split('<div class="sphx-glr-thumbnails">')[1:]
    assert sections
    assert not [section for section in sections if section.count("sphx-glr-thumbcontainer") % 4]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_of_the_gallery_fit_the_theme(local, base, theme):
    local.goto(f"{base}gallery/basics/plot_denoise_photograph.html")
    local.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    shown = local.evaluate(
        "() => [...document.querySelectorAll('img.sphx-glr-single-img')]"
        ".filter(image => image.offsetParent).map(image => {"
        "  const style = getComputedStyle(image);"
        "  return [image.className, style.backgroundColor, style.filter];"
        "})"
    )
    assert shown
    for classes, background, image_filter in shown:
        assert f"only-{theme}" in classes.split()
        assert (background, image_filter) == ("rgba(0, 0, 0, 0)", "none")


def test_no_table_loses_the_names_of_its_columns(site):
    """As a simple table does whose header begins with an empty cell: the names become a row."""
    heads = [
        (path, re.sub("<[^>]*>", "", head))
        for path in pages_of(site)
        for head in re.findall("<thead[^>]*>(.*?)</thead>", (site / path).read_text(), re.DOTALL)
    ]
    assert heads
    assert not [path for path, text in heads if not html.unescape(text).strip()]


@pytest.mark.parametrize("name", ["index", "theory", "which"])
def test_a_page_fits_a_phone(local, base, name):
    width = 390
    local.set_viewport_size({"width": width, "height": 844})
    local.goto(f"{base}{name}.html")
    local.evaluate("() => window.MathJax?.startup?.promise")
    assert local.evaluate("document.documentElement.scrollWidth") <= width
    cut = local.evaluate(
        "width => [...document.querySelectorAll('article img, article span.math')].filter(e =>"
        "  e.getBoundingClientRect().right > width"
        "  || (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'auto')"
        ").map(e => e.outerHTML.slice(0, 200))",
        width,
    )
    assert not cut


def test_no_code_is_cut(local, site, base):
    local.set_viewport_size({"width": 1400, "height": 900})
    cut = []
    for path in pages_of(site):
        local.goto(base + path.as_posix())
        cut += local.evaluate(
            "() => [...document.querySelectorAll('pre')].filter(e => e.offsetParent"
            " && e.scrollWidth > e.clientWidth + 1).map(e => `${location}: ${e.innerText}`)"
        )
    assert not cut


@pytest.mark.parametrize("name", ["benchmarks", "evidence"])
def test_a_page_of_results_opens_short(local, base, name):
    """Tables are folded: the page shows figures and conclusions first."""
    local.set_viewport_size({"width": 1400, "height": 900})
    local.goto(f"{base}{name}.html")
    assert local.evaluate("document.documentElement.scrollHeight") < 4000


@pytest.mark.parametrize("words", ["save", "pickle", "autograd", "larger photo", "0 to 1"])
def test_search_finds_a_section_of_the_quickstart(local, base, words):
    local.goto(f"{base}search.html?q={words}")
    results = local.locator("#search-results li")
    results.filter(has_text="Quickstart").first.wait_for(timeout=60_000)
