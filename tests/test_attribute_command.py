"""``skpspc attribute``: pictures and tables of the training images behind a result."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import FEW, few_digits
from skpspc import EmpiricalDenoiser, PatchDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images

ATTRIBUTE = ["attribute", "--sigma", 0.4, "--patch-size", 4, *FEW]


@pytest.fixture
def z(rng):
    """Two noisy digits in the file z.npy of the test's folder."""
    clean = load_digits_images().images[[5, 6]] / np.float32(127.5) - 1
    return clean + np.float32(0.4) * rng.standard_normal(clean.shape, dtype=np.float32)


def table(path):
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def test_shares_of_whole_images(run, z):
    np.save("z.npy", z)
    result = run(*ATTRIBUTE, "--z", "z.npy", "--top", 3, "--out", "x.csv")
    shares = PSPCDenoiser(4).fit(few_digits()).attribute(z, 0.4).image_share
    rows = table("x.csv")
    assert [(row["noisy_image"], row["rank"]) for row in rows] == [
        ("0", "1"), ("0", "2"), ("0", "3"), ("1", "1"), ("1", "2"), ("1", "3")
    ]  # fmt: skip
    for k, image_shares in enumerate(shares):
        largest = sorted(range(60), key=lambda i: -image_shares[i])[:3]
        listed = rows[3 * k : 3 * k + 3]
        assert [int(row["training_image"]) for row in listed] == largest
        np.testing.assert_array_equal([float(r["share"]) for r in listed], image_shares[largest])
    assert result.stdout == (
        "x.csv: 2 noisy images, 60 training images; largest share of a training image in a "
        f"denoised image: {shares.max(1).mean():.3f} on average\n"
    )


def test_shares_of_a_pixel(run, z):
    np.save("z.npy", z[:1])
    run(*ATTRIBUTE, "--z", "z.npy", "--pixel", "4,5", "--top", 4, "--out", "x.csv")
    shares = PSPCDenoiser(4).fit(few_digits()).attribute(z[:1], 0.4, top=4)
    for k, row in enumerate(table("x.csv")):
        at = 0, 0, 4, 5, k
        assert int(row["training_image"]) == shares.index[at]
        assert float(row["share"]) == shares.share[at]
        assert (row["row"], row["column"], row["mirrored"]) == ("4", "5", "False")
    assert k == 3


def test_each_pixel_of_the_mean_is_the_sum_of_shares(run, z):
    """An oracle that knows nothing of attributions: the weighted mean is the denoised image."""
    np.save("z.npy", z[:1])
    run(*ATTRIBUTE, "--z", "z.npy", "--pixel", "2,3", "--top", 60, "--out", "x.csv")
    images = few_digits() / 127.5 - 1
    mean = sum(
        float(r["share"]) * images[int(r["training_image"]), 0, int(r["row"]), int(r["column"])]
        for r in table("x.csv")
    )
    denoised = PSPCDenoiser(4).fit(few_digits()).denoise(z[:1], 0.4)
    np.testing.assert_allclose(mean, denoised[0, 0, 2, 3], atol=1e-5)


@pytest.mark.parametrize("more", [[], ["--pixel", "4,5"]])
def test_the_picture_and_the_table(run, more):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    result = run(*ATTRIBUTE, *more, "--seed", 3, "--out", "x.png", "--table", "x.csv")
    picture = np.asarray(Image.open("x.png").convert("L"))
    assert min(picture.shape) > 300
    assert picture.std() > 20
    assert len(table("x.csv")) == 6
    assert "1 noisy image, 59 training images" in result.stdout
    assert result.stderr == ""


def test_the_picture_is_that_of_the_display(run, z):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    from skpspc.inspection import AttributionDisplay

    np.save("z.npy", z[:1])
    run(*ATTRIBUTE, "--z", "z.npy", "--top", 20, "--out", "x.png")
    model = PSPCDenoiser(4).fit(few_digits())
    display = AttributionDisplay.from_estimator(model, z[:1], 0.4, n_images=8)
    expected = io.BytesIO()
    display.figure_.savefig(expected, format="png", dpi=150)
    with Image.open("x.png") as one, Image.open(expected) as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_all_arrays(run):
    run(*ATTRIBUTE, "-n", 3, "--seed", 2, "--top", 5, "--out", "x.npz")
    with np.load("x.npz", allow_pickle=False) as saved:
        others = np.delete(few_digits(), saved["held_out"], axis=0)
        shares = PSPCDenoiser(4).fit(others).attribute(saved["noisy"], 0.4, top=5)
        for name, values in vars(shares).items():
            np.testing.assert_array_equal(saved[name], values)


def test_shares_of_a_class(run, z):
    np.save("z.npy", z)
    run(*ATTRIBUTE, "--z", "z.npy", "--label", 6, "--top", 60, "--out", "x.csv")
    target = load_digits_images().target[[i * 1797 // 60 for i in range(60)]]
    assert {target[int(row["training_image"])] for row in table("x.csv")} == {6}


def test_shares_of_other_denoisers(run, z):
    np.save("z.npy", z[:1])
    options = ["attribute", "--sigma", 0.4, *FEW, "--z", "z.npy", "--top", 2, "--out", "x.csv"]
    run(*options, "--denoiser", "empirical")
    shares = EmpiricalDenoiser().fit(few_digits()).attribute(z[:1], 0.4).image_share[0]
    assert float(table("x.csv")[0]["share"]) == shares.max()
    run(*options, "--denoiser", "patch", "--patch-size", 3, "--location", "0,0", "--pixel", "1,1")
    model = PatchDenoiser(3, location=(0, 0)).fit(few_digits())
    shares = model.attribute(z[:1], 0.4, top=1)
    assert float(table("x.csv")[0]["share"]) == shares.share[0, 0, 1, 1, 0]


def test_the_table_to_standard_output(run):
    run(*ATTRIBUTE, "--out", "x.csv")
    result = run(*ATTRIBUTE, "--format", "csv", "--out", "-")
    assert result.stdout == Path("x.csv").read_text()
    assert result.stderr.startswith("standard output: 1 noisy image, 59 training images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pixel", "8,0"], "--pixel 8,0 lies outside the noisy images, 8 x 8 (height x width)"),
        (["--pixel", "4"], "must be ROW,COLUMN such as 4,5, got '4'"),
        (["--top", "0"], "0 is not in the range x>=1"),
        (["--table", "x.txt"], "must be one of .csv (a table)"),
        (["--bandwidth", "0.2"], "bandwidth"),
        (["--z", "z.npy", "-n", "2"], "give --z or -n, not both"),
        (["--out", "x.npy"], "must be one of .png, .csv, .npz"),
    ],
)
def test_bad_values_get_a_sentence(run, z, arguments, message):
    np.save("z.npy", z)
    result = run(*ATTRIBUTE, "--out", "x.csv", *arguments, status=2)
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert not Path("x.csv").exists()


def test_denoisers_without_shares_are_refused(run):
    options = ["attribute", "--sigma", 0.4, *FEW, "--denoiser", "gaussian", "--out", "x.csv"]
    assert "so it has no attribution" in " ".join(run(*options, status=2).stderr.split())


def test_a_pixel_outside_the_patch_is_refused(run):
    options = ["attribute", "--sigma", 0.4, *FEW, "--denoiser", "patch", "--patch-size", 3]
    result = run(*options, "--pixel", "5,5", "--out", "x.csv", status=2)
    assert "lies outside the denoised images, 3 x 3" in result.stderr


def test_a_missing_library_is_a_failure_of_the_machine(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(*ATTRIBUTE, "--out", "x.png", status=1)
    assert 'pip install "skpspc[plot]"' in result.stderr
