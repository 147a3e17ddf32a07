"""The command line: what it writes, what it prints, how it refuses."""

import contextlib
import errno
import inspect
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import skpspc
from helpers import FEW, few_digits
from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc._input import MAX_BYTES
from skpspc._output import check_output, write_output
from skpspc.cli import _work
from skpspc.cli._parameters import samplers
from skpspc.cli._picture import image_grid
from skpspc.datasets import load_digits_images
from skpspc.sampling import SAMPLERS


@contextlib.contextmanager
def on_terminal(arguments):
    """Run ``skpspc sample`` with stderr on a terminal, 100 columns wide."""
    import fcntl
    import pty
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [sys.executable, "-m", "skpspc", "sample", *arguments]

    def heed_ctrl_c():  # a shell lets what it starts in the background ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        command, stderr=follower, stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    )
    os.close(follower)  # so that reading ends when the process does
    try:
        yield process, leader
    finally:
        process.kill()
        process.wait()


def read_all(terminal):
    """What is still to be read from a terminal that nobody writes to any more."""
    shown = b""
    with contextlib.suppress(OSError):  # the end, on Linux
        while piece := os.read(terminal, 10_000):
            shown += piece
    os.close(terminal)
    return shown.decode()


# Pictures


def test_grid_places_and_enlarges_images():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.full((1, 1, 3, 2), 10, np.uint8)
    grid = image_grid(images, 3, gap=1, min_tile=6)
    assert grid.shape == (2 * 7 + 1, 3 * 5 + 1, 3)
    assert grid.dtype == np.uint8
    for i in range(5):
        top, left = i // 3 * 7 + 1, i % 3 * 5 + 1
        assert (grid[top : top + 6, left : left + 4] == 10 * i).all()
        assert (grid[top - 1] == 255).all()
    assert (grid[8:, 11:] == 255).all()  # the place that stays empty


def test_grid_is_nearly_square_and_tiles_are_large_enough():
    assert image_grid(np.zeros((16, 1, 8, 8), np.uint8)).shape == (266, 266, 3)
    assert image_grid(np.zeros((1, 3, 100, 50), np.uint8)).shape == (104, 54, 3)
    height, width, _ = image_grid(np.zeros((30, 1, 64, 16), np.uint8)).shape
    assert 0.6 < height / width < 1.7


def test_grid_of_floats_is_clipped_and_rounded():
    values = np.array([-3.0, -1.0, 10 / 127.5 - 1, 1.0, 2.0], dtype=np.float32)
    grid = image_grid(values.reshape(5, 1, 1, 1), 5, gap=0, min_tile=1)
    assert grid[0, :, 0].tolist() == [0, 0, 10, 255, 255]
    colour = np.random.default_rng(0).integers(0, 256, (1, 3, 4, 4), dtype=np.uint8)
    grid = image_grid(colour / np.float32(127.5) - 1, gap=0, min_tile=4)
    np.testing.assert_array_equal(grid, colour[0].transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (0, 1, 4, 4), (4, 4)])
def test_grid_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"\(n, 1 or 3, H, W\), got .*\.npz"):
        image_grid(np.zeros(shape))


# Output files


def test_output_is_replaced_whole_or_not_at_all(tmp_path):
    path = check_output(tmp_path / "x.png")
    path.write_bytes(b"before")

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_output(path, fail, {})
    assert path.read_bytes() == b"before"
    write_output(path, lambda: np.zeros((4, 5, 3), np.uint8), {})
    assert Image.open(path).size == (5, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_output_keeps_links_and_the_usual_permissions(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.npy"
    link.symlink_to(tmp_path / "real" / "x.npy")
    write_output(check_output(link), None, {"a": np.arange(3), "b": np.arange(2)})
    assert link.is_symlink()
    np.testing.assert_array_equal(np.load(tmp_path / "real" / "x.npy"), np.arange(3))
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "real" / "x.npy").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.jpg", "must be one of .png, .npy, .npz"),
        ("x", "must be one of .png, .npy, .npz"),
        ("missing/x.png", "there is no folder"),
        ("folder.png", "is not an ordinary file"),
        ("file.png/x.png", "there is no folder"),
        ("a" * 300 + ".png", "File name too long"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "denoise"])
def test_output_is_checked_before_any_work(run, monkeypatch, command, out, message):
    Path("folder.png").mkdir()
    Path("file.png").touch()
    monkeypatch.setattr(_work, "load", lambda *_, **__: pytest.fail("work was done"))
    result = run(
        command, "--sigma" if command == "denoise" else "--sigma-min", 1, "--out", out, status=2
    )
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_write_protection_is_found_before_any_work(run, monkeypatch):
    Path("x.npy").touch()
    with monkeypatch.context() as patched:  # permissions do not bind root
        patched.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        assert "'x.npy' is write-protected" in run("sample", "--out", "x.npy", status=2).stderr

    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    told = " ".join(run("sample", "--out", "y.npy", status=2).stderr.split())
    assert "cannot be written to (Read-only file system); choose another" in told


# sample


def test_main_job(run):
    result = run(
        "sample",
        "--data",
        "digits",
        "--denoiser",
        "pspc",
        "--patch-size",
        4,
        "-n",
        5,
        "--seed",
        0,
        "--out",
        "samples.png",
        "--n-steps",
        4,
        *FEW,
    )
    assert result.stderr == ""
    assert result.stdout.startswith("samples.png: 5 samples; root mean square")
    assert result.stdout.count("\n") == 1
    picture = Image.open("samples.png")
    assert picture.size == (3 * 66 + 2, 2 * 66 + 2)
    assert picture.mode == "RGB"


def test_samples_are_those_of_the_estimator(run):
    arguments = [
        "sample",
        "-n",
        3,
        "--patch-size",
        3,
        "--seed",
        7,
        "--n-steps",
        5,
        "--sampler",
        "euler",
        "--sigma-max",
        20,
        "--sigma-min",
        0.01,
        *FEW,
    ]
    run(*arguments, "--out", "x.npy")
    samples = np.load("x.npy")
    expected = (
        PSPCDenoiser(3)
        .fit(few_digits())
        .sample(3, random_state=7, n_steps=5, sampler="euler", sigma_max=20, sigma_min=0.01)
    )
    np.testing.assert_array_equal(samples, expected)
    assert samples.dtype == np.float32

    result = run(*arguments, "--out", "x.npz")
    with np.load("x.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["samples"], samples)
        assert saved["denoiser"] == "PSPCDenoiser"
        assert saved["patch_size"] == "3"
        assert saved["sampler"] == "euler"
        assert (saved["n_steps"], saved["sigma_max"], saved["seed"]) == (5, 20, 7)
    train = few_digits().reshape(60, -1) / 127.5 - 1
    squares = np.square(samples.reshape(3, 1, -1) - train).mean(axis=2).min(axis=1)
    assert f" {np.sqrt(squares).mean():.4f} on average" in result.stdout


def test_empirical_samples_are_training_images(run):
    result = run("sample", "--denoiser", "empirical", "-n", 4, "--out", "x.npy", *FEW)
    assert "0.0000 on average" in result.stdout
    drawn = np.rint((np.load("x.npy") + 1) * 127.5).astype(np.uint8)
    known = {image.tobytes() for image in few_digits()}
    assert all(image.tobytes() in known for image in drawn)


def test_patch_samples_are_patches(run):
    result = run(
        "sample", "--denoiser", "patch", "--patch-size", 3, "-n", 2, "--out", "x.npy", *FEW
    )
    assert np.load("x.npy").shape == (2, 1, 3, 3)
    assert "0.0000 on average" in result.stdout
    assert "to the nearest training patch" in result.stdout
    run("sample", "--denoiser", "patch", "--patch-size", 3, "-n", 2, "--out", "x.png", *FEW)
    assert Image.open("x.png").size == (2 * 68 + 2, 70)


def test_samplers_offered_are_those_there_are(run):
    assert list(samplers()) == list(SAMPLERS)
    text = " ".join(run("sample", "--help").stdout.split())
    for name, sampler in SAMPLERS.items():
        assert f"'{name}'" in text
        numbers = {
            name
            for name, each in inspect.signature(sampler).parameters.items()
            if each.kind is each.KEYWORD_ONLY and isinstance(each.default, float)
        }
        assert set(samplers()[name]) == numbers


def test_the_default_sampler_is_that_of_the_library(run):
    default = inspect.signature(PSPCDenoiser.sample).parameters["sampler"].default
    run("sample", "-n", 1, "--n-steps", 2, "--out", "x.npz", *FEW)
    assert np.load("x.npz")["sampler"] == default


def test_quiet_prints_nothing(run):
    result = run("sample", "--quiet", "-n", 1, "--n-steps", 1, "--out", "x.npy", *FEW)
    assert result.output == ""


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("quiet", [True, False])
def test_progress_bar_on_a_terminal_only(tmp_path, quiet):
    arguments = ["-n", "1", "--n-steps", "2", "--out", str(tmp_path / "x.npy")]
    with on_terminal([*arguments, *FEW, *["--quiet"] * quiet]) as (process, terminal):
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    shown = read_all(terminal)
    assert ("sampling" in shown and "2/2" in shown) is not quiet
    assert (printed == "") is quiet


# denoise


def test_denoise_held_out_images(run):
    arguments = ["denoise", "--sigma", 0.4, "-n", 6, "--seed", 2, "--denoiser", "empirical", *FEW]
    result = run(*arguments, "--out", "x.npz")
    with np.load("x.npz", allow_pickle=False) as saved:
        saved = dict(saved)
    images = few_digits()
    held_out = saved["held_out"]
    assert len(set(held_out.tolist())) == 6
    np.testing.assert_array_equal(saved["clean"], images[held_out] / np.float32(127.5) - 1)
    noise = (saved["noisy"] - saved["clean"]) / 0.4
    assert 0.9 < noise.std() < 1.1
    others = np.delete(images, held_out, axis=0)
    expected = EmpiricalDenoiser().fit(others).denoise(saved["noisy"], 0.4)
    np.testing.assert_array_equal(saved["denoised"], expected)
    assert saved["sigma"] == 0.4
    error = np.square(saved["denoised"] - saved["clean"]).mean()
    assert "6 held-out images denoised at sigma 0.4 with 54 training images" in result.stdout
    assert f"mean squared error {error:.4f} (noisy images: 0.1" in result.stdout

    run(*arguments, "--out", "x.npy")
    np.testing.assert_array_equal(np.load("x.npy"), saved["denoised"])
    run(*arguments, "--out", "x.png")
    picture = np.asarray(Image.open("x.png"))
    assert picture.shape == (3 * 66 + 2, 6 * 66 + 2, 3)
    np.testing.assert_array_equal(picture[2:66:8, 2:66:8, 0], images[held_out[0], 0])


@pytest.mark.parametrize("as_uint8", [True, False])
def test_denoise_a_file(run, as_uint8):
    z = few_digits()[:3]
    np.save("z.npy", z if as_uint8 else z / np.float32(127.5) - 1)
    result = run("denoise", "--z", "z.npy", "--sigma", 0, "--out", "x.npy", *FEW)
    np.testing.assert_allclose(np.load("x.npy"), z / np.float32(127.5) - 1, atol=1e-6)
    assert "3 images denoised at sigma 0 with 60 training images" in result.stdout
    run("denoise", "--z", "z.npy", "--sigma", 0, "--out", "x.png", *FEW)
    picture = np.asarray(Image.open("x.png"))
    assert picture.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    np.testing.assert_array_equal(picture[:66], picture[66:132])
    run("denoise", "--z", "z.npy", "--sigma", 0, "--out", "x.npz", *FEW)
    with np.load("x.npz") as saved:
        assert "clean" not in saved and saved["noisy"].shape == z.shape


def test_denoise_patches(run):
    result = run(
        "denoise",
        "--sigma",
        0.3,
        "--denoiser",
        "patch",
        "--patch-size",
        4,
        "-n",
        3,
        "--out",
        "x.png",
        *FEW,
    )
    assert Image.open("x.png").size == (3 * 66 + 2, 3 * 66 + 2)
    assert "(noisy images: 0." in result.stdout


# Refusals


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["sample", "--data", "nowhere"], 2, "'digits', 'photos', a .zip of images in"),
        (["sample", "--data", "nowhere.zip"], 2, "'nowhere.zip': No such file"),
        (["sample", "--data", "broken.zip"], 2, "broken.zip' is not a zip archive"),
        (["sample", "--data", "folder"], 2, "'folder' holds no images but 'notes.txt'"),
        (["sample", "--image-size", "4"], 2, "serves a folder or a zip only"),
        (["sample", "--sigma-min", "3", "--sigma-max", "2", *FEW], 2, "sigma_m"),
        (["sample", "--sigma-min", "nan", *FEW], 2, "sigma_m"),
        (
            ["sample", "--sampler", "magic"],
            2,
            "'magic' is not one of ddim, dpmpp_2m, edm, euler, heun",
        ),
        (
            ["sample", "--patch-size", "0"],
            2,
            "must be an integer of at least 1, 'paper', 'calibrated' or a .json file of "
            "`skpspc calibrate`, got 0.",
        ),
        (
            ["sample", "--patch-size", "big"],
            2,
            "must be an integer, 'paper', 'calibrated' or a .json file of `skpspc calibrate`, got "
            "'big'",
        ),
        (
            ["sample", "--denoiser", "empirical", "--patch-size", "3"],
            2,
            "local-score, patch, pspc and single-image; leave",
        ),
        (["sample", "--denoiser", "patch", "--patch-size", "paper"], 2, "must be an integer"),
        (["sample", "--device", "toaster"], 2, "'toaster' is not available to torch here"),
        (["sample", "-n", "0"], 2, "0 is not in the range x>=1"),
        (["denoise"], 2, "Missing option '--sigma'"),
        (["denoise", "--sigma", "-1"], 2, "-1.0 is not in the range x>=0"),
        (["denoise", "--sigma", "nan", *FEW], 2, "must be a finite number"),
        (
            ["denoise", "--sigma", "1", "-n", "60", *FEW],
            2,
            "60 of 60 images out leaves no training image",
        ),
        (["denoise", "--sigma", "1", "--z", "nowhere.npy"], 2, "'nowhere.npy' does not exist"),
        (["denoise", "--sigma", "1", "--z", "broken.zip"], 2, "cannot be read as an image"),
        (["denoise", "--sigma", "1", "--z", "flat.npy"], 2, "(n, C, H, W), got shape (3, 64)"),
        (["denoise", "--sigma", "1", "--z", "z.npz"], 2, "a folder of images, a .npy file, or -"),
        (["denoise", "--sigma", "1", "--z", "nan.npy", *FEW], 2, "NaN"),
        (["denoise", "--sigma", "1", "--z", "odd.npy", *FEW], 2, "shape (3, 5, 5)"),
        (["denoise", "--sigma", "1", "--z", "flat.npy", "-n", "3"], 2, "--z or -n, not both"),
    ],
)
def test_bad_input_gets_a_sentence(run, arguments, status, message):
    Path("broken.zip").write_bytes(b"nonsense")
    Path("folder").mkdir()
    Path("folder/notes.txt").write_text("hello")
    np.save("flat.npy", np.zeros((3, 64)))
    np.save("nan.npy", np.full((3, 1, 8, 8), np.nan))
    np.save("odd.npy", np.zeros((2, 3, 5, 5)))
    np.savez("z.npz", z=np.zeros((3, 1, 8, 8)))
    result = run(*arguments, "--out", "x.png", status=status)
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert not Path("x.png").exists()


def test_images_of_two_kinds_and_sizes(run):
    Path("folder").mkdir()
    for i, mode in enumerate(("L", "RGB", "RGB", "L")):
        Image.new(mode, (4 + i, 5), i).save(f"folder/{i}.png")
    arguments = "sample", "--data", "folder", "--out", "x.npy", "-n", 1, "--n-steps", 1
    arguments += "--image-size", 4
    result = run(*arguments, status=2)
    assert "channels=3 (all colour) or channels=1 (all gray; --channels on" in result.stderr
    for channels in (1, 3):
        run(*arguments, "--channels", channels)
        assert np.load("x.npy").shape == (1, channels, 4, 4)
    result = run(*arguments, "--channels", 3, "--max-bytes", 1000, status=2)
    assert "more than the 31 bytes that max_bytes=1000 allows" in result.stderr


def test_samples_of_a_class(run):
    run("sample", "--label", "7", "-n", 2, "--n-steps", 3, "--out", "x.npz", *FEW)
    kept = np.load("x.npz")
    rows = [i * 1797 // 60 for i in range(60)]
    X, y = few_digits(), load_digits_images().target[rows]
    expected = PSPCDenoiser().fit(X[y == 7]).sample(2, random_state=0, n_steps=3)
    np.testing.assert_allclose(kept["samples"], expected, atol=1e-5)
    assert kept["label"] == "7"


def test_classes_are_named_or_numbered(run):
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    options = "--data", "x.npz", "--denoiser", "empirical", "-n", 1, "--out", "x.npy"

    def drawn(label):
        """The training image that comes out: it memorises."""
        run("sample", *options, "--label", label)
        return np.abs(images / 127.5 - 1 - np.load("x.npy")).max((1, 2, 3)).argmin()

    np.savez("x.npz", images=images, labels=[2, 1, 2, 1, 1, 2], classes=["a", "b", "c"])
    assert drawn("b") in (1, 3, 4)
    result = run("sample", *options, "--label", "a", status=2)
    assert "--label must be one of b, c; got 'a'." in result.stderr
    np.savez("x.npz", images=images, labels=[5, 1, 5, 1, 1, 5])
    assert drawn("5") in (0, 2, 5)
    np.savez("x.npz", images=images)
    result = run("sample", *options, "--label", "b", status=2)
    assert "--label is for data with classes, and this data has none; omit it." in result.stderr


def test_pictures_of_many_channels_are_refused_before_the_work(run, monkeypatch):
    np.savez("x.npz", images=np.zeros((4, 5, 6, 6), dtype=np.uint8))
    with monkeypatch.context() as patched:
        patched.setattr(PSPCDenoiser, "fit", lambda *_: pytest.fail("work was done"))
        result = run("sample", "--data", "x.npz", "--out", "x.png", status=2)
    assert "got (4, 5, 6, 6); write .npy or .npz instead" in result.stderr
    run("sample", "--data", "x.npz", "-n", 1, "--n-steps", 1, "--out", "x.npy")
    assert np.load("x.npy").shape == (1, 5, 6, 6)


def test_warnings_are_sentences(run):
    result = run("sample", "--patch-size", 50, "-n", 1, "--n-steps", 1, "--out", "x.npy", *FEW)
    assert result.stderr.startswith("Warning: ")
    assert "UserWarning" not in result.stderr


# The program


@pytest.mark.parametrize("program", [["-m", "skpspc"], ["-c", "import skpspc.cli as c; c.main()"]])
def test_version(program):
    done = subprocess.run(
        [sys.executable, *program, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"skpspc, version {skpspc.__version__}\n"


@pytest.mark.parametrize("command", [[], ["sample"], ["denoise"], ["calibrate"]])
def test_help(run, command):
    text = run(*command, "--help").stdout
    assert text.startswith("Usage:")
    if command:
        assert "--data" in text and "--out" in text
        assert f"default: {MAX_BYTES / 2**30:g} GiB" in " ".join(text.split())
        assert f"skpspc {command[0]} --data digits" in text
    else:  # the order in which a new user needs them
        assert text.index("  sample ") < text.index("  denoise ") < text.index("  calibrate ")


def test_long_schedules_are_recorded_in_full(run, tmp_path):
    """Two schedules that differ in one entry in the middle are two."""
    texts = []
    for size in (3, 4):
        schedule = {"sigmas": [0.1 * 1.2**i for i in range(30)], "sizes": [3] * 15 + [size] * 15}
        (tmp_path / "schedule.json").write_text(json.dumps(schedule))
        options = ["--data", "digits", *FEW, "-n", 1, "--n-steps", 1, "--out", "x.npz"]
        run("sample", *options, "--patch-size", "schedule.json")
        with np.load(tmp_path / "x.npz") as saved:
            texts.append(str(saved["patch_size"]))
    assert texts[0] != texts[1]
    assert json.loads(texts[1])["sizes"] == [3] * 15 + [4] * 15
