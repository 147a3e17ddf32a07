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
    assert names["samples"].shape == (16, 1, 8, 8)
    assert abs(names["samples"]).max() <= 1


def test_the_picture():
    (name,) = re.findall(r"^\.\. image:: (\S+)$", README.read_text(), re.MULTILINE)
    path = README.parent / name
    assert path.stat().st_size < 200_000
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
