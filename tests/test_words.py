"""Prose keeps clear of the phrases in docs/words.txt."""

import re
import subprocess

import pytest

from helpers import ROOT

LIST = ROOT / "docs" / "words.txt"
PROSE = ("*.rst", "*.py", "*.toml", "*.html", "*.cff")


def rules():
    """Return the list as pairs of a compiled pattern and its remedy."""
    lines = [line for line in LIST.read_text().splitlines() if not line.startswith("#")]
    pairs = [line.split("\t\t") for line in lines]
    return [
        (re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE), remedy)
        for pattern, remedy in pairs
    ]


def hits(text, name):
    """Return a line for every phrase of the list in a text."""
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: '{match.group()}'; write: {remedy}"
        for pattern, remedy in rules()
        for match in pattern.finditer(text)
    ]


def prose():
    """Return the files of the repository that hold prose; tests are not for readers."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PROSE]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split() if not name.startswith("tests/")]
    return [path for path in paths if path.is_file()]


def test_no_phrase_of_the_list():
    found = [
        line
        for path in prose()
        for line in hits(path.read_text(encoding="utf-8"), path.relative_to(ROOT))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("The page\ntells it.", "tells"),
        ("It is nearer\n    to the network.", "nearer\n    to"),
        ("One window a pixel.", "window a pixel"),
        ('"""Whether it fits."""', "Whether"),
        ("an error of .25 at", ".25"),
        ("tol=.5", ".5"),
        ("(.4) and more", ".4"),
        ("-.5 to 0", ".5"),
    ],
)
def test_phrases_are_found(text, phrase):
    (hit,) = hits(text, "page.rst")
    assert f"'{phrase}'" in hit


@pytest.mark.parametrize("text", ["arXiv:2411.19339", "version 0.1.0", "[..., :2]", "f'{x:.2f}'"])
def test_other_texts_pass(text):
    assert not hits(text, "page.rst")
