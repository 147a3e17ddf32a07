"""Some hundred damaged files of every kind, the same ones each time."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read by the module resource")
def test_damaged_files_raise_documented_errors_and_take_little_memory():
    command = [sys.executable, "-m", "tests.fuzz.files", "--count", "2500", "--seconds", "600"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nall              2500 " in done.stdout
