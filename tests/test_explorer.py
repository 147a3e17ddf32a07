"""The explorer of the documentation in a real browser: its numbers, manners and colours.

It is built here. Without playwright or Chromium, the tests that need them are skipped.
"""

import math
import re
import textwrap

import numpy as np
import pytest

from helpers import ROOT, docs_script
from oracle import as_float, square_masks, window_weights
from skpspc import EmpiricalDenoiser, PSPCDenoiser

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def builder():
    """What makes the explorer."""
    return docs_script("explorer/build.py")


@pytest.fixture(scope="module")
def address(builder, tmp_path_factory):
    """Of the explorer, as a file: there is no server."""
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    builder.build(path)
    return path.as_uri()


def state(page):
    """The explorer's numbers, arrays where it has arrays."""
    found = page.evaluate("explorer.state()")
    return {
        key: np.array(value) if isinstance(value, list) else value for key, value in found.items()
    }


def slide(page, slider, value):
    """Move a slider to a value, as its own keys and drags do."""
    page.locator(slider).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )


def picture(page, name):
    """What a canvas shows, as the text of a PNG."""
    return page.locator(f"#{name} canvas").evaluate("canvas => canvas.toDataURL()")


def noise(seed, n=64):
    """The page's normal numbers: 32-bit integers scrambled as MurmurHash3 ends, Box-Muller."""

    def scramble(bits):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            bits = ((bits ^ bits >> shift) * factor) & 0xFFFFFFFF
        return bits ^ bits >> 16

    def uniform(k):
        return (scramble((scramble(seed) + k * 0x9E3779B9) & 0xFFFFFFFF) + 0.5) / 2**32

    return np.array(
        [
            math.sqrt(-2 * math.log(uniform(2 * k))) * math.cos(2 * math.pi * uniform(2 * k + 1))
            for k in range(n)
        ]
    )


def weights(z, train, sigma, size):
    """Posterior weights in all windows, (windows, N), by the slow formula."""
    x, prior = as_float(train[:, None]), np.full(len(train), 1 / len(train))
    masks = square_masks(size, SHAPE)
    return np.array([window_weights(z, x, sigma, mask, prior)[0] for mask in masks])


def test_noise_is_normal():
    drawn = np.concatenate([noise(seed) for seed in range(1, 201)])
    assert abs(drawn.mean()) < 4 / math.sqrt(len(drawn))
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / len(drawn))
    assert 3 < abs(drawn).max() < 6


def test_explorer_holds_its_digits_out(builder):
    train, train_labels, test, test_labels = builder.split()
    assert train.shape == (500, 8, 8)
    assert test_labels.tolist() == list(range(10))
    assert set(train_labels) == set(range(10))
    assert not (train[:, None] == test).all((2, 3)).any()


# level: how far the slider of sigma is moved, of 60
@pytest.mark.parametrize(
    ("level", "size", "image", "renewals"),
    [(0, 3, 0, 0), (14, 1, 3, 2), (28, 2, 8, 1), (33, 8, 5, 0), (41, 5, 9, 3), (60, 4, 2, 1)],
)
def test_explorer_agrees_with_python(visit, address, builder, level, size, image, renewals):
    page = visit(address)
    page.locator(f"#choice input[value='{image}']").check()
    for _ in range(renewals):
        page.locator("#renew").click()
    slide(page, "#sigma", level)
    slide(page, "#size", size)
    shown = state(page)
    sigma = shown["sigma"]
    assert (shown["size"], shown["image"], shown["seed"]) == (size, image, 1 + renewals)

    train, _, test, _ = builder.split()
    clean = as_float(test[:, None])[image]
    z = clean + sigma * noise(1 + renewals)
    np.testing.assert_allclose(shown["clean"], clean, rtol=0, atol=1e-15)
    np.testing.assert_allclose(shown["noisy"], z, rtol=0, atol=1e-12)

    Z = z.reshape(1, *SHAPE)
    images = train[:, None]
    denoised = PSPCDenoiser(patch_size=size).fit(images).denoise(Z, sigma)
    optimal = EmpiricalDenoiser().fit(images).denoise(Z, sigma)
    assert denoised.dtype == optimal.dtype == np.float64
    np.testing.assert_allclose(shown["denoised"], denoised.ravel(), rtol=0, atol=1e-8)
    np.testing.assert_allclose(shown["optimal"], optimal.ravel(), rtol=0, atol=1e-8)

    expected = weights(z, train, sigma, size)
    np.testing.assert_allclose(shown["weights"], expected.ravel(), rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        shown["optimalWeights"], weights(z, train, sigma, 8)[0], rtol=0, atol=1e-8
    )
    collapsed = (expected.max(1) >= 0.99).sum()
    told = f"{collapsed or 'None'} of {len(expected)} patches"
    text = page.locator("#from-patches [data-collapse]").inner_text()
    assert text.startswith(told if size < 8 else "Yes" if collapsed else "No")


def test_explorer_explains_the_pixel_under_the_mouse(visit, address, builder):
    page = visit(address)
    box = page.locator("#optimal canvas").bounding_box()
    row, column = 2, 5
    page.mouse.move(box["x"] + (column + 0.5) / 8 * box["width"], box["y"] + 0.31 * box["height"])
    shown = state(page)
    pixel = 8 * row + column
    assert shown["pixel"] == pixel

    train = builder.split()[0]
    covering = [mask[pixel] for mask in square_masks(shown["size"], SHAPE)]
    share = weights(shown["noisy"], train, shown["sigma"], shown["size"])[covering].mean(0)
    np.testing.assert_allclose(shown["share"], share, rtol=0, atol=1e-8)
    # a pixel of the answer is the mean of the training pixels by their shares
    values = as_float(train[:, None])[:, pixel]
    np.testing.assert_allclose(shown["denoised"][pixel], share @ values, rtol=0, atol=1e-8)

    rows = page.locator("#from-patches .rows li").all_inner_texts()
    for text, i in zip(rows, np.argsort(-share)[:5], strict=False):
        assert f"(no. {i})" in text
        assert f"{100 * share[i]:.1f}%" in text
    assert "row 3, column 6" in page.locator("#from-patches h2").inner_text()


def test_explorer_follows_a_drag(visit, address):
    page = visit(address)
    box = page.locator("#sigma").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], middle)
    page.mouse.down()
    seen = [(state(page), picture(page, "denoised"), picture(page, "noisy"))]
    for place in (0.5, 0.7, 0.9):
        page.mouse.move(box["x"] + place * box["width"], middle)
        seen.append((state(page), picture(page, "denoised"), picture(page, "noisy")))
    page.mouse.up()
    sigmas = [found["sigma"] for found, *_ in seen]
    assert sigmas == sorted(set(sigmas))
    assert len({painted for _, painted, _ in seen}) == len({painted for *_, painted in seen}) == 4
    assert page.locator("#sigma-text").inner_text() == f"{sigmas[-1]:g}"

    box = page.locator("#size").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    shown = state(page)
    assert shown["size"] == 8
    np.testing.assert_allclose(shown["denoised"], shown["optimal"], rtol=0, atol=1e-12)


def test_explorer_works_by_keys(visit, address):
    page = visit(address)
    visited = []
    for _ in range(12):
        page.keyboard.press("Tab")
        visited.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        ring = "getComputedStyle(document.activeElement, null).outlineStyle"
        painted = page.evaluate(
            "document.activeElement.type === 'radio'"
            f" ? getComputedStyle(document.activeElement.nextSibling).outlineStyle : {ring}"
        )
        assert painted == "solid", visited[-1]
        if visited[-1] == "SUMMARY":
            break
    order = [name for name in visited if name not in ("INPUT", "BUTTON")]
    assert order == ["renew", "sigma", "size", "denoised", "SUMMARY"]

    before = state(page)
    page.locator("#sigma").press("ArrowRight")
    page.locator("#size").press("ArrowRight")
    after = state(page)
    assert after["sigma"] > before["sigma"]
    assert after["size"] == before["size"] + 1

    page.locator("#denoised").press("ArrowLeft")
    page.locator("#denoised").press("ArrowUp")
    assert state(page)["pixel"] == before["pixel"] - 9
    for _ in range(9):
        page.locator("#denoised").press("ArrowRight")
    assert state(page)["pixel"] % 8 == 7
    said = page.locator("#pixel").inner_text()
    assert f"row {state(page)['pixel'] // 8 + 1}, column 8" in said


def test_explorer_views(visit, address):
    page = visit(address)
    for button in page.locator("#views button").all():
        button.click()
        shown = state(page)
        assert f"{shown['sigma']:g}" == button.get_attribute("data-sigma")
        assert f"{shown['size']}" == button.get_attribute("data-size")


def test_explorer_asks_nothing_of_the_network(visit, address):
    page = visit("about:blank")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    slide(page, "#sigma", 50)
    assert [url for url in asked if not url.startswith("data:")] == [address]


def test_explorer_fits_a_phone(visit, address):
    width = 360
    page = visit(address, viewport={"width": width, "height": 740}, is_mobile=True, has_touch=True)
    page.locator("summary").tap()
    for size, level in ((1, 0), (3, 30), (8, 60)):  # from the most collapsed patches to none
        slide(page, "#size", size)
        slide(page, "#sigma", level)
        outside = page.evaluate(
            "width => [...document.querySelectorAll('body *')].filter(element => {"
            "  const box = element.getBoundingClientRect();"
            "  return box.left < -0.5 || box.right > width + 0.5; }).map(e => e.outerHTML)",
            width,
        )
        assert not outside
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('button, .choice label, input[type=range]')]"
        ".map(e => Math.min(e.offsetWidth, e.offsetHeight)))"
    )
    assert smallest >= 24  # a finger's least target (WCAG 2.2)
    box = page.locator("#noisy").bounding_box()
    page.locator("#noisy").tap(position={"x": 0.95 * box["width"], "y": 0.95 * box["height"]})
    assert state(page)["pixel"] == 63


# Contrast of every text with the colour behind it (WCAG 2.2), smallest first.
CONTRAST = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) =>
      v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const [r, g, b, alpha = 1] = parse(getComputedStyle(element).backgroundColor);
      if (alpha === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const pair = [parse(getComputedStyle(element).color).slice(0, 3), behind(element)];
    const [dark, light] = pair.map(luminance).sort((a, b) => a - b);
    found.push([(light + 0.05) / (dark + 0.05), walker.currentNode.data.trim()]);
  }
  return { text: found.sort((a, b) => a[0] - b[0]), page: luminance(behind(document.body)) };
}"""


@pytest.mark.parametrize("preferred", ["light", "dark"])
@pytest.mark.parametrize("theme", [None, "light", "dark"])
def test_explorer_is_readable_in_both_schemes(visit, address, preferred, theme):
    page = visit(address, color_scheme=preferred)
    if theme is not None:
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    page.locator("summary").click()
    found = page.evaluate(CONTRAST)
    assert len(found["text"]) > 30
    assert found["text"][0][0] >= 4.5, found["text"][0]
    assert (found["page"] > 0.5) == ((theme or preferred) == "light")


def test_explorer_in_a_page(visit, builder, tmp_path):
    builder.build(tmp_path / "_static" / "explorer.html")
    source = (ROOT / "docs" / "explorer.rst").read_text(encoding="utf-8")
    (block,) = re.findall(r"\.\. raw:: html\n\n((?:   .*\n|\n)+)", source)
    host = tmp_path / "host.html"
    host.write_text(f"<!doctype html><section id='explorer'>{textwrap.dedent(block)}</section>")
    page = visit(host.as_uri(), color_scheme="light")
    frame = page.frame_locator("#explorer-frame")
    frame.locator("html.framed").wait_for(state="attached")
    page.wait_for_function("document.getElementById('explorer-frame').style.height !== '1500px'")
    content = frame.locator("body").evaluate("body => body.getBoundingClientRect().height")
    assert abs(page.locator("#explorer-frame").bounding_box()["height"] - content) <= 1

    light = frame.locator("#denoised canvas").evaluate("canvas => canvas.toDataURL()")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    frame.locator("html[data-theme=dark]").wait_for(state="attached")
    assert frame.locator("#denoised canvas").evaluate("canvas => canvas.toDataURL()") != light
