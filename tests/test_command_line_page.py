"""The page of the user guide on the command line: its commands run, its lists are complete."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from helpers import ROOT
from skpspc.cli._commands import commands
from skpspc.cli._options import BadValueError
from skpspc.datasets import load_digits_images

PAGE = (ROOT / "docs" / "user_guide" / "command_line.rst").read_text()
SHORT = {"sample": ["-n", "2", "--n-steps", "2", "--max-images", "100"]}


def blocks():
    """Texts of the code blocks of the page."""
    found = re.findall(r"^.. code-block:: bash\n\n((?:   .*\n|\n)+)", PAGE, re.M)
    return [re.sub(r"^   ", "", text, flags=re.M).replace("\\\n", " ") for text in found]


def commands_of_the_page():
    lines = [line for block in blocks() for line in block.splitlines()]
    return [line for line in lines if line.startswith("skpspc ") or "| skpspc" in line]


@pytest.mark.parametrize("line", commands_of_the_page())
def test_the_commands_run(run, line):
    if " attribute " in line:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    Path("noisy").mkdir()
    for i in range(2):
        Image.fromarray(load_digits_images().images[i, 0]).save(f"noisy/{i}.png")
    Image.fromarray(load_digits_images().images[7, 0]).save("noisy.png")
    source, pipe, target = line.partition(" | ")
    words = shlex.split(target if pipe else line)
    stdin = Path(shlex.split(source)[1]).read_bytes() if pipe else None
    if ">" in words:
        words = words[: words.index(">")]
    arguments = [*words[1:], *SHORT.get(words[1], [])]
    result = CliRunner().invoke(commands, arguments, input=stdin)
    assert result.exit_code == 0, result.output
    for option in ("--out", "--table"):
        if option in words and words[words.index(option) + 1] != "-":
            assert Path(words[words.index(option) + 1]).stat().st_size > 100


def test_the_variables_are_those_of_options():
    exported = re.findall(r"export SKPSPC_([A-Z]+)_([A-Z_]+)=", PAGE)
    assert len(exported) == 3
    for command, option in exported:
        context = commands.commands[command.lower()].make_context(
            command.lower(), [], resilient_parsing=True
        )
        names = {each.name for each in context.command.get_params(context)}
        assert option.lower() in names


def test_every_command_is_listed():
    for name in commands.commands:
        assert f"``skpspc {name}``" in PAGE


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_scripts(shell):
    assert f"_SKPSPC_COMPLETE={shell}_source skpspc" in PAGE
    done = subprocess.run(
        [sys.executable, "-c", "from skpspc.cli import main; main()"],
        env={**os.environ, "_SKPSPC_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"_SKPSPC_COMPLETE={shell}_complete" in done.stdout


def test_the_statuses():
    listed = set(re.findall(r"^   \* - (\d+)$", PAGE, re.M))
    assert listed == {"0", "1", "2", "130"}
    assert BadValueError("").exit_code == 2
