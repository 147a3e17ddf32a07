"""Ctrl-C during a command: status 130 and one sentence, at every moment."""

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers import FEW

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs the signals of POSIX")

TIMEOUT = 120  # seconds
DELAYS = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.2, 1.5, 1.9, 2.4, 3.0]
# The work of these takes minutes.
LONG = {
    "sample": ["-n", "50", "--n-steps", "100000", "--out", "x.npy"],
    "denoise": ["--z", "z.npy", "--sigma", "0.5", "--out", "x.npy"],
    "calibrate": ["--data", "photos", "-n", "1000", "--out", "x.json"],
}
# Runs a command; after the handler is installed, a byte goes to the descriptor in argv[1].
TELLING = """
import os, sys
from skpspc import cli
install, descriptor = cli.end_on_interrupt, int(sys.argv.pop(1))
def end_on_interrupt():
    install()
    os.write(descriptor, b".")
cli.end_on_interrupt = end_on_interrupt
cli.main()
"""


def heed_ctrl_c():
    """Shells have what they start in the background ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(program, *arguments, cwd, **options):
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        preexec_fn=heed_ctrl_c,
    )


def interrupted_after(delay, command, folder):
    """Status, output and errors of a command that is interrupted after a delay."""
    folder.mkdir()
    if command == "denoise":
        np.save(folder / "z.npy", np.zeros((50_000, 1, 8, 8), np.float32))
    receiver, sender = os.pipe()
    process = start(TELLING, str(sender), command, *LONG[command], cwd=folder, pass_fds=[sender])
    os.close(sender)
    try:
        assert os.read(receiver, 1) == b"."
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=TIMEOUT), process.returncode
    finally:
        os.close(receiver)
        process.kill()
        process.wait()


def check_ending(printed, shown, status):
    assert status == 130, shown
    assert shown.startswith("Error: interrupted ")
    assert shown.count("\n") == 1
    assert printed == ""


@pytest.mark.parametrize(
    ("command", "delays"),
    [("sample", DELAYS), ("denoise", DELAYS[1::2]), ("calibrate", DELAYS[::2])],
)
def test_ctrl_c_at_many_moments(tmp_path, command, delays):
    folders = [tmp_path / str(delay) for delay in delays]
    with ThreadPoolExecutor(4) as pool:
        endings = list(pool.map(interrupted_after, delays, [command] * len(delays), folders))
    for ((printed, shown), status), folder in zip(endings, folders, strict=True):
        check_ending(printed, shown, status)
        left = {path.name for path in folder.iterdir()} - {"z.npy"}
        assert left == ({"x.npy.partial"} if "--resume" in shown else set())


@pytest.mark.parametrize("module", ["click", "numpy", "PIL.Image", "torch", "sklearn", "llvmlite"])
def test_ctrl_c_while_a_library_is_imported(tmp_path, module):
    if module == "llvmlite":
        pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    interrupting = f"""
import os, signal, sys
from skpspc.cli import main
def hook(event, args):
    if event == "import" and args[0] == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
main()
"""
    arguments = ["sample", "-n", "2", "--n-steps", "2", "--out", "x.npy", *FEW]
    process = start(interrupting, *arguments, cwd=tmp_path)
    printed, shown = process.communicate(timeout=TIMEOUT)
    check_ending(printed, shown, process.returncode)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({"x.npy.partial"} if "--resume" in shown else set())


def test_the_handler_is_there_before_any_library(tmp_path):
    program = """
import sys
from skpspc.cli import main
from skpspc import cli
def end_on_interrupt():
    others = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
    others -= started
    sys.exit(", ".join(sorted(others)))
cli.end_on_interrupt = end_on_interrupt
main()
"""
    program = "import sys; started = {n.partition('.')[0] for n in sys.modules}\n" + program
    process = start(program, "sample", cwd=tmp_path)
    assert process.communicate(timeout=TIMEOUT)[1] == "skpspc\n"


def test_ctrl_c_while_the_output_is_written_waits_for_its_end(tmp_path):
    interrupting = """
import os, signal
from skpspc import _output, cli
replacing = _output.replacing
def interrupted(path):
    if path.name == "x.npy":
        os.kill(os.getpid(), signal.SIGINT)
    return replacing(path)
_output.replacing = interrupted
cli.main()
"""
    arguments = ["sample", "-n", "2", "--n-steps", "2", "--out", "x.npy", *FEW]
    process = start(interrupting, *arguments, cwd=tmp_path)
    printed, shown = process.communicate(timeout=TIMEOUT)
    check_ending(printed, shown, process.returncode)
    assert "interrupted when 'x.npy' was written." in shown
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
    assert np.load(tmp_path / "x.npy").shape == (2, 1, 8, 8)


def test_ctrl_c_at_the_exit_of_the_interpreter(tmp_path):
    interrupting = """
import atexit, os, signal
from skpspc.cli import main
atexit.register(os.kill, os.getpid(), signal.SIGINT)
main()
"""
    process = start(interrupting, "--version", cwd=tmp_path)
    printed, shown = process.communicate(timeout=TIMEOUT)
    assert (printed.startswith("skpspc, version"), shown, process.returncode) == (True, "", 0)


def test_ctrl_c_that_is_ignored_stays_ignored(tmp_path):
    ignoring = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from skpspc import _output, cli
replacing = _output.replacing
def interrupted(path):
    os.kill(os.getpid(), signal.SIGINT)
    return replacing(path)
_output.replacing = interrupted
cli.main()
"""
    arguments = ["denoise", "--sigma", "0.5", "-n", "2", "--out", "x.npy", *FEW]
    process = start(ignoring, *arguments, cwd=tmp_path)
    _, shown = process.communicate(timeout=TIMEOUT)
    assert (shown, process.returncode) == ("", 0)
    assert (tmp_path / "x.npy").exists()


def test_ctrl_c_on_a_terminal(tmp_path):
    """The sentence has a line of its own, below the progress bar."""
    import fcntl
    import pty
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = start(
        "from skpspc.cli import main; main()",
        "sample",
        *LONG["sample"],
        cwd=tmp_path,
        stderr=follower,
    )
    os.close(follower)
    try:
        shown = ""
        while "/100000" not in shown:
            shown += os.read(leader, 10_000).decode()
        while not (tmp_path / "x.npy.partial").exists():
            shown += os.read(leader, 10_000).decode()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the end, on Linux
            while piece := os.read(leader, 10_000):
                shown += piece.decode()
        printed, _ = process.communicate(timeout=TIMEOUT)
    finally:
        os.close(leader)
        process.kill()
        process.wait()
    assert process.returncode == 130, shown
    assert "\nError: interrupted after " in shown
    assert "Run the same command with --resume to continue." in shown
    assert "Traceback" not in shown
    assert printed == ""
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy.partial"]
