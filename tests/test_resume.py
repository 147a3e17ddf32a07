"""Killed runs of ``skpspc sample``: their state, and the same bytes after ``--resume``."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from helpers import FEW
from skpspc._output import remove_unfinished
from skpspc.cli import _state
from skpspc.cli._commands import commands
from skpspc.cli._state import read_state, write_state
from skpspc.sampling import SAMPLERS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

SAMPLE = ["sample", "-n", 3, "--n-steps", 12, "--seed", 5, *FEW]
STATE = Path("x.npz.partial")
# What touches the disk: a run is killed just before one of these calls.
CALLS = [(os, "fsync"), (os, "replace"), (Path, "unlink")]


@pytest.fixture
def whole(run):
    """Bytes of an uninterrupted run, and the number of calls that touch the disk."""
    with pytest.MonkeyPatch.context() as patch:
        calls = count_calls(patch, lambda number: None)
        run(*SAMPLE, "--out", "whole.npz")
    return Path("whole.npz").read_bytes(), len(calls)


def count_calls(patch, before):
    """Call ``before`` with its number before each call that touches the disk."""
    calls = []

    def counted(function):
        def call(*args, **options):
            before(len(calls))
            calls.append(function)
            return function(*args, **options)

        return call

    for home, name in CALLS:
        patch.setattr(home, name, counted(getattr(home, name)))
    return calls


def killed_run(number, *more):
    """Run in a process of its own that SIGKILL ends at the call of this number."""

    def die(call):
        if call == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def work():
        with pytest.MonkeyPatch.context() as patch:
            count_calls(patch, die)
            CliRunner().invoke(commands, [str(a) for a in [*SAMPLE, "--out", "x.npz", *more]])

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("seed", range(8))
def test_a_killed_run_ends_with_the_same_bytes(run, whole, seed):
    content, n_calls = whole
    rng = np.random.default_rng(seed)
    killed_run(rng.integers(n_calls - 5))
    for _ in range(seed % 3):  # killed again, if there is something left to do
        if STATE.exists() and metadata()["done"] < 8:
            killed_run(rng.integers(9), "--resume")
    assert not Path("x.npz").exists()
    run(*SAMPLE, "--out", "x.npz", "--resume")
    assert Path("x.npz").read_bytes() == content
    assert sorted(path.name for path in Path().iterdir()) == ["whole.npz", "x.npz"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_continues_to_the_same_bytes(run, sampler):
    more = ["--sampler", sampler]
    run(*SAMPLE, *more, "--out", "whole.npz")
    killed_run(21, *more)
    assert 3 <= metadata()["done"] <= 9
    run(*SAMPLE, *more, "--out", "x.npz", "--resume")
    assert Path("x.npz").read_bytes() == Path("whole.npz").read_bytes()


def test_a_run_killed_while_it_ends(run, whole):
    content, n_calls = whole
    for number in range(n_calls - 4, n_calls):
        killed_run(number)
        assert not Path("x.npz").exists() or Path("x.npz").read_bytes() == content
        result = run(*SAMPLE, "--out", "x.npz", "--resume")
        assert "3 samples" in result.stdout
        assert Path("x.npz").read_bytes() == content
        assert not STATE.exists()
        Path("x.npz").unlink()


def test_steps_that_are_done_are_not_done_again(run, whole, monkeypatch):
    _, n_calls = whole
    killed_run(n_calls // 2)
    done = metadata()["done"]
    assert 3 <= done <= 9
    written = []
    monkeypatch.setattr(_state, "write_state", lambda path, z, step, *_: written.append(step))
    run(*SAMPLE, "--out", "x.npz", "--resume")
    assert written == list(range(done + 1, 13))


def metadata():
    with _state.safe_open(STATE, "numpy") as file:
        return json.loads(file.metadata()["state"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--seed", 6], "a run with seed 5"),
        (["-n", 4], "a run with n 3"),
        (["--n-steps", 13], "a run with n_steps 12"),
        (["--sampler", "euler"], "a run with sampler 'dpmpp_2m'"),
        (["--patch-size", 3], "a run with patch_size 'paper'"),
        (["--denoiser", "empirical"], "a run with denoiser 'PSPCDenoiser', patch_size 'paper'"),
        (["--max-images", 61], "a run on other training images"),
    ],
)
def test_the_state_of_another_run_is_refused(run, whole, more, told):
    killed_run(whole[1] // 2)
    before = STATE.read_bytes()
    result = run(*SAMPLE, *more, "--out", "x.npz", "--resume", status=2)
    assert result.stderr.startswith("Error: 'x.npz.partial' is the state of ")
    assert told in result.stderr and "to start anew" in result.stderr
    assert STATE.read_bytes() == before


def test_a_state_is_not_lost_by_a_run_without_resume(run, whole):
    killed_run(whole[1] // 2)
    before = STATE.read_bytes()
    result = run(*SAMPLE, "--out", "x.npz", status=2)
    assert "add --resume to continue that run, or delete the file" in result.stderr
    assert STATE.read_bytes() == before
    run(*SAMPLE, "--out", "y.npz")  # other outputs in the folder are other runs
    assert STATE.read_bytes() == before


def test_an_output_is_replaced_at_the_end_only(run, whole):
    Path("x.npz").write_bytes(b"before")
    killed_run(whole[1] // 2)
    assert Path("x.npz").read_bytes() == b"before"
    run(*SAMPLE, "--out", "x.npz", "--resume")
    assert Path("x.npz").read_bytes() == whole[0]


def test_resume_without_a_state_starts_anew(run, whole):
    run(*SAMPLE, "--out", "x.npz", "--resume")
    assert Path("x.npz").read_bytes() == whole[0]


def test_a_link_stays_a_link_and_its_state_lies_beside_it(run, whole):
    Path("folder").mkdir()
    Path("x.npz").symlink_to("folder/y.npz")
    killed_run(whole[1] // 2)
    assert STATE.exists()
    run(*SAMPLE, "--out", "x.npz", "--resume")
    assert Path("x.npz").is_symlink()
    assert Path("folder/y.npz").read_bytes() == whole[0]
    assert [path.name for path in Path("folder").iterdir()] == ["y.npz"]


@pytest.mark.parametrize("content", [b"", b"PK", b"not a state" * 100, b"\xff" * 64])
def test_something_else_is_no_state(run, content):
    STATE.write_bytes(content)
    result = run(*SAMPLE, "--out", "x.npz", "--resume", status=2)
    assert "'x.npz.partial' is not the state of a `skpspc sample` or is damaged" in result.stderr
    assert STATE.read_bytes() == content


def test_a_folder_is_no_state(run):
    STATE.mkdir()
    result = run(*SAMPLE, "--out", "x.npz", "--resume", status=2)
    assert "x.npz.partial" in result.stderr


def test_every_damaged_state_is_refused(tmp_path):
    path, settings = tmp_path / "state", {"seed": 5, "images": "abc"}
    z = np.random.default_rng(0).standard_normal((2, 1, 3, 3)).astype(np.float32)
    write_state(path, z, 7, settings, (1.5, z[:, :, :1, :1]))
    kept, done, (sigma, x0) = read_state(path, settings)
    np.testing.assert_array_equal(kept, z)
    np.testing.assert_array_equal(x0, z[:, :, :1, :1])
    assert (done, sigma) == (7, 1.5)
    content = path.read_bytes()
    mutants = [content[:end] for end in range(len(content))]
    for position in range(len(content)):
        for bit in (1, 16):
            mutant = bytearray(content)
            mutant[position] ^= bit
            mutants.append(bytes(mutant))
    for mutant in mutants:
        path.write_bytes(mutant)
        with pytest.raises(ValueError, match="is damaged"):
            read_state(path, settings)


@pytest.mark.parametrize(
    ("done", "sigma", "shape"),
    [
        (10**30, 1.5, (3, 1, 8, 8)),
        (13, 1.5, (3, 1, 8, 8)),
        (-1, 1.5, (3, 1, 8, 8)),
        (True, 1.5, (3, 1, 8, 8)),
        ("x", 1.5, (3, 1, 8, 8)),
        (2, "x", (3, 1, 8, 8)),
        (2, -1.0, (3, 1, 8, 8)),
        (2, float("nan"), (3, 1, 8, 8)),
        (2, 1.5, (3, 1, 8, 7)),
        (2, 1.5, (192,)),
    ],
)
def test_a_state_of_other_values_with_a_right_checksum_is_refused(run, done, sigma, shape):
    """A huge number of steps would be walked through for ever."""
    killed_run(20)
    remove_unfinished(STATE)
    settings = metadata()
    for name in ("done", "previous_sigma"):
        del settings[name]
    images = np.zeros(shape, np.float32)
    for previous in ((sigma, images), (1.5, images[:1])) if done == 2 else ((sigma, images),):
        write_state(STATE, images, done, settings, previous)
        result = run(*SAMPLE, "--out", "x.npz", "--resume", status=2)
        assert "'x.npz.partial' is " in result.stderr
        assert "delete" in result.stderr


@pytest.mark.parametrize("images", [np.zeros((3, 1, 8, 8), int), np.full((3, 1, 8, 8), np.nan)])
def test_a_state_without_numbers_is_refused(tmp_path, images):
    write_state(tmp_path / "state", images, 2, {})
    with pytest.raises(ValueError, match="is damaged"):
        read_state(tmp_path / "state", {})


def test_a_name_that_leaves_no_room_for_the_state_is_refused_before_any_work(run, monkeypatch):
    monkeypatch.setattr("skpspc.cli._work.load", lambda *_, **__: pytest.fail("work was done"))
    result = run(*SAMPLE, "--out", "a" * 250 + ".npy", status=2)
    assert "File name too long" in result.stderr
