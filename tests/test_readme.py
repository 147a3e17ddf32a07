"""What README.rst shows works."""

import re
import textwrap
from pathlib import Path

from PIL import Image

README = Path(__file__).resolve().parents[1] / "README.rst"


def test_the_first_example():
    (block,) = re.findall(r"\.\. code-block:: python\n\n((?:    .*\n|\n)+)", README.read_text())
    names = {}
    exec(textwrap.dedent(block), names)
    assert names["samples"].shape == (16, 3, 32, 32)
    assert abs(names["samples"]).max() <= 1


def test_the_pictures():
    names = re.findall(r"^\.\. image:: (\S+)$", README.read_text(), re.MULTILINE)
    assert len(names) == 2
    for path in (README.parent / name for name in names):
        assert path.stat().st_size < 200_000
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"


def test_the_links():
    names = re.findall(r"<((?:docs|examples)/\S+)>`_", README.read_text())
    assert len(names) >= 5
    for name in names:
        assert (README.parent / name).is_file(), name
