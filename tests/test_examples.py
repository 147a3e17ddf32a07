"""The fastest scripts in examples/ run; all of them do when the documentation is built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize("script", ["basics/plot_signals.py", "basics/plot_own_sampler.py"])
def test_a_script(script, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    done = subprocess.run(
        [sys.executable, FOLDER / script],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
