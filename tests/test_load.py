"""Many threads and processes call one denoiser: a short run of `tests.load`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("kinds", "rounds"), [(["alone", "refit"], 5), (["loky", "spawn", "forkserver"], 1)]
)
def test_answers_under_load_are_those_of_one_caller(kinds, rounds):
    command = [sys.executable, "-m", "tests.load", "--seconds", "3600", "--rounds", str(rounds)]
    command += ["--processes", "2"]
    # one thread for each caller: more would wait for one another
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--kinds", *kinds], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 mismatches" in done.stdout
    for kind in kinds:
        assert f"{kind}: {rounds} rounds" in done.stdout
