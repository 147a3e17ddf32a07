"""No compiled kernel reads or writes outside of an array."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_no_index_is_out_of_bounds(tmp_path):
    """Checked by numba, which compiles the kernels anew in a process of its own."""
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    options = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    options["NUMBA_OPT"] = "1"  # code that runs briefly, and compiles faster
    environment = {**os.environ, **options}
    script = Path(__file__).parent / "bounds.py"
    command = [sys.executable, "-W", "ignore", script]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "no index is out of bounds\n"
