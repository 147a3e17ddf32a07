"""``--z`` and ``--out -``: images of the user, from files and pipes into files and pipes."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from helpers import FEW, few_digits
from skpspc import PSPCDenoiser
from skpspc.cli._commands import commands
from skpspc.datasets import load_digits_images

DENOISE = ["denoise", "--sigma", 0.4, *FEW]


@pytest.fixture
def noisy(rng):
    """Three noisy digits, uint8."""
    clean = load_digits_images().images[[5, 6, 7]]
    return np.clip(clean + 51 * rng.standard_normal(clean.shape), 0, 255).astype(np.uint8)


def denoised(noisy):
    return PSPCDenoiser().fit(few_digits()).denoise(noisy / np.float32(127.5) - 1, 0.4)


def pixels(images):
    return np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def piped(arguments, content):
    """Run a command with bytes on standard input; return its result."""
    return CliRunner().invoke(commands, [str(a) for a in arguments], input=content)


def encoded(image, format="PNG"):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format)
    return stream.getvalue()


def as_npy(images):
    stream = io.BytesIO()
    np.save(stream, images)
    return stream.getvalue()


# Files


@pytest.mark.parametrize("name", ["z.png", "z.PNG", "z.bmp", "z"])
def test_an_image_file_becomes_an_image_file(run, noisy, name):
    Path(name).write_bytes(encoded(noisy[0, 0], "BMP" if name == "z.bmp" else "PNG"))
    result = run(*DENOISE, "--z", name, "--out", "x.png")
    assert result.stdout == "x.png: 1 image denoised at sigma 0.4 with 60 training images\n"
    picture = Image.open("x.png")
    assert (picture.mode, picture.size) == ("L", (8, 8))
    np.testing.assert_array_equal(np.asarray(picture), pixels(denoised(noisy[:1]))[0, 0])
    run(*DENOISE, "--z", name, "--out", "x.npy")
    np.testing.assert_array_equal(np.load("x.npy"), denoised(noisy[:1]))


def test_a_colour_image(run, photos):
    np.savez("data.npz", images=photos[8:])
    Path("z.png").write_bytes(encoded(photos[0].transpose(1, 2, 0)))
    run("denoise", "--data", "data.npz", "--z", "z.png", "--sigma", 0, "--out", "x.png")
    picture = np.asarray(Image.open("x.png"))
    assert picture.shape == (16, 16, 3)
    clean = photos[0].transpose(1, 2, 0)
    Path("z.png").write_bytes(encoded(clean))
    z = photos[:1] / np.float32(127.5) - 1
    expected = PSPCDenoiser().fit(photos[8:]).denoise(z, 0)
    np.testing.assert_array_equal(picture, pixels(expected)[0].transpose(1, 2, 0))


def test_a_folder_in_the_order_of_its_names(run, noisy):
    Path("folder/b").mkdir(parents=True)
    for name, image in zip(["a.png", "b/1.png", "c.png"], noisy, strict=True):
        Path("folder", name).write_bytes(encoded(image[0]))
    result = run(*DENOISE, "--z", "folder", "--out", "x.npz")
    assert "3 images denoised" in result.stdout
    with np.load("x.npz") as saved:
        np.testing.assert_array_equal(saved["noisy"], noisy / np.float32(127.5) - 1)
        np.testing.assert_array_equal(saved["denoised"], denoised(noisy))
    run(*DENOISE, "--z", "folder", "--out", "x.png")
    assert np.asarray(Image.open("x.png")).shape == (2 * 66 + 2, 3 * 66 + 2, 3)


def test_channels_convert_noisy_images_alone(run, noisy):
    Path("z.png").write_bytes(encoded(np.repeat(noisy[0].transpose(1, 2, 0), 3, 2)))
    result = run(*DENOISE, "--z", "z.png", "--out", "x.npy", status=2)
    assert "(3, 8, 8) (channels, height, width), but the training images have" in result.stderr
    assert "--channels 1 converts image files" in result.stderr
    run(*DENOISE, "--z", "z.png", "--channels", 1, "--out", "x.npy")
    np.testing.assert_array_equal(np.load("x.npy"), denoised(noisy[:1]))


def test_a_class_with_guidance(run, noisy):
    np.save("z.npy", noisy)
    run(*DENOISE, "--z", "z.npy", "--label", 7, "--guidance", 1.5, "--out", "x.npz")
    rows = [i * 1797 // 60 for i in range(60)]
    model = PSPCDenoiser().fit(few_digits(), load_digits_images().target[rows])
    z = noisy / np.float32(127.5) - 1
    with np.load("x.npz") as saved:
        expected = model.denoise(z, 0.4, y=7, guidance=1.5)
        np.testing.assert_array_equal(saved["denoised"], expected)
        assert (saved["label"], saved["guidance"]) == ("7", 1.5)
    sample = ["sample", "-n", 2, "--n-steps", 3, "--label", 7, "--guidance", 0.5, *FEW]
    run(*sample, "--out", "s.npy")
    expected = model.sample(2, y=7, guidance=0.5, random_state=0, n_steps=3)
    np.testing.assert_array_equal(np.load("s.npy"), expected)


# Pipes


@pytest.mark.parametrize("kind", ["png", "npy"])
def test_standard_input(run, noisy, kind):
    content = encoded(noisy[0, 0]) if kind == "png" else as_npy(noisy)
    count = 1 if kind == "png" else 3
    result = piped([*DENOISE, "--z", "-", "--out", "x.npy"], content)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load("x.npy"), denoised(noisy[:count]))


def test_a_real_pipe_from_an_image_to_an_image(tmp_path, noisy):
    command = [sys.executable, "-m", "skpspc", *map(str, DENOISE), "--z", "-", "--out", "-"]
    done = subprocess.run(
        command, input=encoded(noisy[0, 0]), capture_output=True, check=True, cwd=tmp_path
    )
    picture = np.asarray(Image.open(io.BytesIO(done.stdout)))
    np.testing.assert_array_equal(picture, pixels(denoised(noisy[:1]))[0, 0])
    assert (
        done.stderr == b"standard output: 1 image denoised at sigma 0.4 with 60 training images\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["png", "npy", "npz"])
def test_standard_output_has_the_bytes_of_the_file(run, kind):
    sample = ["sample", "-n", 2, "--n-steps", 2, *FEW]
    run(*sample, "--out", f"x.{kind}")
    result = run(*sample, "--format", kind, "--out", "-")
    assert result.stdout_bytes == Path(f"x.{kind}").read_bytes()
    assert result.stderr.startswith("standard output: 2 samples; root mean square")
    assert [path.name for path in Path().iterdir()] == [f"x.{kind}"]  # no state
    assert run(*sample, "--out", "-").stdout_bytes.startswith(b"\x89PNG")
    assert run(*sample, "--quiet", "--out", "-").stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
def test_a_full_disk_is_not_a_bad_value(tmp_path):
    command = [sys.executable, "-m", "skpspc", "sample", "-n", "1", "--n-steps", "1", "--out", "-"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*command, *FEW], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"Error: 'standard output': No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_pictures_do_not_go_to_a_terminal(tmp_path):
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "skpspc", *map(str, DENOISE)]
    terminal = {"stdin": follower, "stdout": follower, "stderr": subprocess.PIPE}
    try:
        done = subprocess.run([*command, "--out", "-"], **terminal, cwd=tmp_path)
        assert done.returncode == 2
        assert b"standard output is a terminal; redirect it" in done.stderr
        done = subprocess.run([*command, "--z", "-", "--out", "x.png"], **terminal, cwd=tmp_path)
        assert done.returncode == 2
        assert b"--z - reads standard input, which is a terminal" in done.stderr
    finally:
        os.close(leader)
        os.close(follower)


# Refusals


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "'standard input' is empty; give an image"),
        (b"nonsense", "'standard input' cannot be read as an image (its format is unknown"),
        (as_npy(np.zeros((3, 64))), "standard input must hold at least one image, a .npy of shape"),
        (as_npy(np.zeros((0, 1, 8, 8))), "got shape (0, 1, 8, 8)"),
        (as_npy(np.full((1, 1, 8, 8), np.nan)), "standard input holds NaN or infinite values"),
        (as_npy(np.zeros((1, 1, 8, 8), int)), "must be uint8 (0 to 255) or floats on [-1, 1]"),
        (as_npy(np.array([None])), "it holds Python objects, and pickles are not read"),
        (as_npy(np.zeros((1, 1, 8, 8)))[:-1], "its header declares other bytes than"),
        (as_npy(np.zeros((1, 1, 8, 8)))[:20], "cannot be read as a .npy array"),
        (encoded(np.zeros((9, 8), np.uint8)), "(1, 9, 8) (channels, height, width), but the"),
    ],
)
def test_bad_standard_input_gets_a_sentence(run, content, message):
    result = piped([*DENOISE, "--z", "-", "--out", "x.png"], content)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not Path("x.png").exists()


@pytest.mark.parametrize(
    "content", [as_npy(np.zeros((1, 1, 8, 8))), encoded(np.zeros((8, 8), "u1"))]
)
def test_inputs_are_limited(run, content):
    arguments = [*DENOISE, "--max-bytes", 90, "--out", "x.png", "--z"]
    result = piped([*arguments, "-"], content)
    assert result.exit_code == 2
    assert "bytes that max_bytes=90 allows" in " ".join(result.stderr.split())
    Path("z.npy" if content.startswith(b"\x93") else "z.png").write_bytes(content)
    (path,) = Path().iterdir()
    assert "that max_bytes=90 allows" in " ".join(run(*arguments, path, status=2).stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--z", "folder"], "'folder' holds no images"),
        (["--z", "text.txt"], "'text.txt' cannot be read as an image (its format is unknown"),
        (["--z", "odd.png"], "resize the training images (--image-size), or give noisy images of"),
        (["--out", "-", "--format", "csv"], "'csv' is not one of 'png', 'npy', 'npz'"),
        (["--format", "npy"], "'x.png' has another suffix than --format npy; leave --format out"),
        (["--guidance", "2"], "--guidance is the weight of a class; add --label CLASS"),
        (["--label", "x"], "--label must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; got 'x'"),
    ],
)
def test_bad_values_get_a_sentence(run, arguments, message):
    Path("folder").mkdir()
    Path("text.txt").write_text("hello")
    Path("odd.png").write_bytes(encoded(np.zeros((20, 30), np.uint8)))
    result = run(*DENOISE, "--out", "x.png", *arguments, status=2)
    assert message in " ".join(result.stderr.split())
    assert not Path("x.png").exists()


def test_a_pipe_has_no_state_to_resume(run):
    result = run("sample", "--resume", "--out", "-", status=2)
    assert "--resume needs the file of an earlier run; --out - has none" in result.stderr


def test_sizes_are_compared_before_the_fit(run, monkeypatch):
    monkeypatch.setattr(PSPCDenoiser, "fit", lambda *_: pytest.fail("work was done"))
    np.save("z.npy", np.zeros((1, 1, 9, 9)))
    run(*DENOISE, "--z", "z.npy", "--out", "x.npy", status=2)
    run(*DENOISE, "--label", "x", "--out", "x.npy", status=2)
