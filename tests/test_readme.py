"""What README.rst shows works."""

import csv
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


def rows_of(name):
    """Return the rows of a CSV file of the benchmarks, below its lines of facts."""
    path = README.parent / "benchmarks" / "results" / f"{name}.csv"
    return list(csv.DictReader(line for line in path.open() if not line.startswith("#")))


def test_the_numbers():
    text = " ".join(README.read_text().split())
    speedups = [
        float(row["speedup"])
        for row in rows_of("kernels")
        if (row["windows"], row["engine"], row["n_train"]) == ("squares", "numba", "10000")
    ]
    assert f"{min(speedups):.0f} to {max(speedups):.0f} times as fast" in text
    (drawn,) = rows_of("front-page")
    assert f"in {float(drawn['seconds']):.1f} s" in text
