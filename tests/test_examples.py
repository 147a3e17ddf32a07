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


@pytest.mark.parametrize("script", ["data/plot_signals.py", "basics/plot_other_libraries.py"])
def test_a_script(script, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    if script == "basics/plot_other_libraries.py":
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
