"""The fastest scripts in examples/ run; the documentation's build runs all of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import docs_script

FOLDER = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize("script", ["data/plot_signals.py", "restoration/plot_other_libraries.py"])
def test_a_script(script, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    if script == "restoration/plot_other_libraries.py":
        for library in ("azula", "diffusers"):
            pytest.importorskip(library, reason=f"{library} is not installed (extra interop)")
    done = subprocess.run(
        [sys.executable, FOLDER / script],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def themes():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    return docs_script("_ext/themes.py")


def test_text_fits_the_theme_and_images_stay(themes, tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), dpi=100)
    figure.text(0.5, 0.5, "black", color="black", size=20)
    line = figure.add_axes((0, 0.9, 0.1, 0.1)).plot([0, 1], "o-", color=(0.5, 0.5, 0.5))[0]
    line.axes.axis("off")
    ax = figure.add_axes((0, 0, 0.1, 0.2))
    ax.imshow([[0, 0]], cmap="gray", aspect="auto")
    ax.axis("off")
    light, dark = (
        np.asarray(Image.open(path)) for path in themes.save_for_themes(figure, tmp_path / "it")
    )
    assert figure.texts[0].get_color() == "black"
    assert line.get_markerfacecolor() == line.get_color() == (0.5, 0.5, 0.5)
    for picture, ink in ((light, 0x22), (dark, 0xCE)):
        opaque = picture[..., 3] == 255
        assert picture[-1, 0].tolist() == [0, 0, 0, 255]  # the image
        assert {0, ink} <= set(picture[opaque, 0])
        assert picture[0, -1, 3] == 0  # the background


def test_outlined_artists_keep_their_colour(themes, tmp_path):
    """A white marker with a dark outline lies on an image, and is white in both themes."""
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    figure = Figure(figsize=(1, 1), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.imshow([[0]], cmap="gray")
    ax.axis("off")
    marker = ax.plot(0, 0, "s", color="white", ms=20)[0]
    marker.set_path_effects([withStroke(linewidth=3, foreground="black")])
    paths = themes.save_for_themes(figure, tmp_path / "it")
    for picture in (np.asarray(Image.open(path)) for path in paths):
        middle = picture.shape[0] // 2
        assert picture[middle, middle].tolist() == [255, 255, 255, 255]


def test_a_background_has_the_colour_of_the_theme(themes, tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1), dpi=100, facecolor="white")
    paths = themes.save_for_themes(figure, tmp_path / "it", transparent=False)
    light, dark = (np.asarray(Image.open(path))[0, 0].tolist() for path in paths)
    assert (light, dark) == ([255, 255, 255, 255], [0x14, 0x18, 0x1E, 255])
