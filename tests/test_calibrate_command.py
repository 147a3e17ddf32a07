"""``skpspc calibrate``, and what ``skpspc sample`` does with its file."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers import FEW, few_digits
from skpspc import PatchSchedule, PSPCDenoiser
from skpspc.cli._schedule_file import read_schedule, schedule_text
from skpspc.inspection import calibrate_patch_size

QUICK = ["calibrate", "--sigmas", "2,0.1", "--sizes", "8,1,3", "-n", 6, *FEW]


def test_the_file_is_what_the_function_finds(run):
    result = run(*QUICK, "--seed", 4, "--out", "schedule.json")
    schedule, table = calibrate_patch_size(
        PSPCDenoiser(), few_digits(), [0.1, 2.0], sizes=[1, 3, 8], n_images=6, random_state=4
    )
    assert read_schedule("schedule.json").schedule == schedule
    entries = json.loads(Path("schedule.json").read_text())
    assert entries["candidates"] == [1, 3, 8]
    np.testing.assert_allclose(entries["errors"], table.errors, rtol=1e-6)
    np.testing.assert_allclose(entries["standard_errors"], table.standard_errors, rtol=1e-6)
    assert (entries["n_images"], entries["seed"], entries["data"]) == (6, 4, "digits")
    assert entries["image_shape"] == [1, 8, 8]
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["sigma", "size", "mean", "squared", "error"]
    assert lines[1].split()[:2] == ["0.1", str(schedule.sizes[0])]
    assert lines[-1] == "on 6 held-out images, with 54 training images"
    assert result.stderr == ""


def test_samples_with_a_schedule_file(run):
    run(*QUICK, "--out", "schedule.json", "--quiet")
    sample = ["sample", "-n", 2, "--n-steps", 4, *FEW, "--patch-size", "schedule.json"]
    run(*sample, "--out", "x.npy")
    model = PSPCDenoiser(read_schedule("schedule.json").schedule).fit(few_digits())
    expected = model.sample(2, random_state=0, n_steps=4)
    np.testing.assert_array_equal(np.load("x.npy"), expected)
    run(*sample[:-1], "calibrated", "--out", "y.npy")
    fitted = PSPCDenoiser("calibrated").fit(few_digits())
    expected = fitted.sample(2, random_state=0, n_steps=4)
    np.testing.assert_array_equal(np.load("y.npy"), expected)
    run("denoise", "--sigma", 0.5, *FEW, "--patch-size", "schedule.json", "--out", "z.npy")


def test_sizes_chosen_on_images_of_another_size(run):
    """Only height and width count, and a file by hand without them serves for all images."""
    schedule = PatchSchedule([0.1, 1.0], [3, 8])
    photos = ["--data", "photos", "--max-images", 20, "--patch-size", "s.json"]
    commands = ["sample", "-n", 1, "--n-steps", 1], ["denoise", "--sigma", 0.5, "-n", 1]
    for shape, fits in (([1, 8, 8], False), ([3, 32, 16], False), ([1, 32, 32], True)):
        Path("s.json").write_text(schedule_text(schedule, image_shape=shape))
        for command in commands:
            result = run(*command, *photos, "--out", "x.npy", status=0 if fits else 2)
            if fits:
                continue
            sides = f"{shape[1]} x {shape[2]}"
            message = f"'s.json' has patch sizes chosen on images of {sides} pixels, and the "
            message += "training images have 32 x 32; run `skpspc calibrate` on these images"
            assert message in " ".join(result.stderr.split())
            assert not Path("x.npy").exists()
    Path("s.json").write_text(schedule_text(schedule))
    for command in commands:
        run(*command, *photos, "--out", "x.npy")


def test_the_schedule_to_standard_output(run):
    result = run(*QUICK)
    entries = json.loads(result.stdout)
    assert entries["sigmas"] == [0.1, 2.0]
    assert "mean squared error" in result.stderr
    quiet = run(*QUICK, "--quiet", "--out", "-")
    assert quiet.stdout == result.stdout
    assert quiet.stderr == ""
    run("calibrate", "--sigmas", "1", "--sizes", "2,3", "-n", 1, *FEW, "--out", "one.json")
    assert json.loads(Path("one.json").read_text())["standard_errors"] == [[None, None]]


def test_a_schedule_as_text_and_back(tmp_path):
    schedule = PatchSchedule([0.1, 1 / 3, 80.0], [3, 7, 32])
    path = tmp_path / "s.json"
    path.write_text(schedule_text(schedule, note="by hand"))
    assert read_schedule(path).schedule == schedule
    assert read_schedule(path).image_shape is None
    path.write_text(schedule_text(schedule, image_shape=[3, 8, 6]))
    assert read_schedule(path).image_shape == (3, 8, 6)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--sigmas", "a,b"], 2, "must be numbers separated by commas, such as 0.1,0.5,2"),
        (["--sigmas", ""], 2, "must be numbers separated by commas"),
        (["--sigmas", "0.5,-1"], 2, "sigmas must be finite and non-negative"),
        (["--sigmas", "nan"], 2, "sigmas must be finite and non-negative"),
        (["--sizes", "2.5"], 2, "must be integers separated by commas, such as 3,5,9"),
        (["--sizes", "9"], 2, "sizes must be ints between 1 and 8"),
        (["-n", "60"], 2, "holding 60 of 60 images out leaves no training image; lower -n"),
        (["-n", "0"], 2, "0 is not in the range x>=1"),
        (["--data", "nowhere"], 2, "'digits', 'photos', a .zip of images in"),
        (["--out", "schedule.txt"], 2, "must be one of .json (a schedule)"),
        (["--out", "missing/schedule.json"], 2, "there is no folder"),
    ],
)
def test_bad_input_gets_a_sentence(run, arguments, status, message):
    result = run(*QUICK, *arguments, status=status)
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "'s.json' holds no schedule"),
        ("[1, 2]", "'s.json' holds no schedule"),
        ('{"sigmas": [1.0]}', "there is no 'sizes'"),
        ('{"sigmas": [1.0], "sizes": [0]}', "sizes must be ints of at least 1, got 0"),
        ('{"sigmas": [1.0], "sizes": ["a"]}', "sizes must be ints of at least 1, got 'a'"),
        ('{"sigmas": ["a"], "sizes": [3]}', "sigmas must be a sequence of at least one"),
        ('{"sigmas": [1.0, 2.0], "sizes": [3]}', "sequences of the same length"),
        ("\udcff", "'s.json' holds no schedule"),
        ('{"sigmas": [1.0], "sizes": [3], "image_shape": [8, 8]}', "three positive integers"),
        ('{"sigmas": [1.0], "sizes": [3], "image_shape": [1, 0, 8]}', "three positive integers"),
        ('{"sigmas": [1.0], "sizes": [3], "image_shape": 8}', "three positive integers"),
    ],
)
def test_files_that_hold_no_schedule(run, text, message):
    Path("s.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    result = run("sample", *FEW, "--patch-size", "s.json", "--out", "x.npy", status=2)
    assert message in " ".join(result.stderr.split())


def test_schedules_are_for_pspc(run):
    Path("s.json").write_text(schedule_text(PatchSchedule([1.0], [3])))
    options = ["--out", "x.npy", *FEW, "--patch-size"]
    for size in ("s.json", "calibrated", "paper"):
        result = run("sample", "--denoiser", "patch", *options, size, status=2)
        told = f"for the denoiser patch it must be an integer, got '{size}'"
        assert told in " ".join(result.stderr.split())
    result = run("sample", *options, "missing.json", status=2)
    assert "'missing.json'" in result.stderr
