"""Training images in files that do not fit in memory: mapped, never copied, checked before use."""

import io
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import config_context
from sklearn.model_selection import GridSearchCV

from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SmoothedDenoiser,
    load,
)
from skpspc.datasets import load_edm_zip, load_image_folder

DENOISERS = {
    "empirical": EmpiricalDenoiser(),
    "tol": EmpiricalDenoiser(tol=1e-2),
    "bandwidth": EmpiricalDenoiser(bandwidth=0.3),
    "patch": PatchDenoiser(4, location=(2, 2)),
    "pspc": PSPCDenoiser(3),
    "flip": PSPCDenoiser(3, flip=True),
    "paper": PSPCDenoiser("paper"),
    "calibrated": PSPCDenoiser("calibrated"),
    "flexible": PSPCDenoiser(windows=FlexibleWindows("data", 0.5, [1.0, 0.1])),
    "gaussian": GaussianDenoiser(),
    "pca": PCALocalityDenoiser(),
    "local": LocalScoreDenoiser(3),
    "anywhere": LocalScoreDenoiser(3, equivariant=True),
    "collection": PosteriorMeanCollection(np.ones((1, 8, 8))),
    "smoothed": SmoothedDenoiser(EmpiricalDenoiser(), n_draws=2),
    "blended": BlendedDenoiser(
        [("empirical", EmpiricalDenoiser()), ("gaussian", GaussianDenoiser())], n_images=8
    ),
}
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
Z = RNG.uniform(-1, 1, (3, 1, 8, 8)).astype(np.float32)


def mapped(path, array):
    """Return a read-only map of an array that is written to a file."""
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def shares_memory(model, array):
    images = model.training_set_.images.numpy()
    return np.shares_memory(images, array)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", DENOISERS)
def test_a_map_gives_the_bits_of_an_array(name, dtype, tmp_path):
    images = X if dtype == np.uint8 else X.astype(dtype) / dtype(127.5) - 1
    on_disk = mapped(tmp_path / "x.npy", images)
    for sigma in (0.2, 1.0):
        expected = DENOISERS[name].fit(images).denoise(Z, sigma)
        assert np.array_equal(DENOISERS[name].fit(on_disk).denoise(Z, sigma), expected)


@pytest.mark.parametrize("make_path", [str, lambda path: path])
def test_a_path_of_a_npy_file_is_mapped(make_path, tmp_path):
    np.save(tmp_path / "x.npy", X)
    model = EmpiricalDenoiser().fit(make_path(tmp_path / "x.npy"))
    assert np.array_equal(model.denoise(Z, 0.3), EmpiricalDenoiser().fit(X).denoise(Z, 0.3))
    model.partial_fit(make_path(tmp_path / "x.npy"))
    assert len(model.training_set_) == 2 * len(X)


def test_other_paths_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"fit reads \.npy files only; write the images to one"):
        EmpiricalDenoiser().fit(tmp_path / "x.zip")
    with pytest.raises(FileNotFoundError):
        EmpiricalDenoiser().fit(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"x\.npy' cannot be read as an array"):
        EmpiricalDenoiser().fit(tmp_path / "x.npy")


def test_a_file_that_was_cut_before_fit_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    os.truncate(tmp_path / "x.npy", 1000)
    with pytest.raises(ValueError, match=r"x\.npy' cannot be read as an array"):
        EmpiricalDenoiser().fit(tmp_path / "x.npy")


@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("fit_rows", [slice(None), slice(10, None, 3)])
def test_a_map_is_not_copied(writable, fit_rows, tmp_path):
    np.save(tmp_path / "x.npy", X)
    on_disk = np.load(tmp_path / "x.npy", mmap_mode="r+" if writable else "r")
    model = PSPCDenoiser(3).fit(on_disk)
    assert shares_memory(model, on_disk)
    expected = PSPCDenoiser(3).fit(X[fit_rows]).denoise(Z, 0.3)
    assert np.array_equal(PSPCDenoiser(3).fit(on_disk[fit_rows]).denoise(Z, 0.3), expected)


# Steps that need a copy, in small: each gives the result of an array in memory, and is refused for
# images larger than the working memory.
COPIES = {
    "Fortran order": lambda x, model: model.fit(
        np.lib.format.open_memmap(f"{x.filename}.f.npy", "w+", x.dtype, x.shape, True)
    ),
    "channels last": lambda x, model: model.fit(x.transpose(0, 1, 3, 2)),
    "every second pixel": lambda x, model: model.fit(x[..., ::2]),
    "weight zero": lambda x, model: model.fit(x, sample_weight=np.arange(len(x))),
    "more images": lambda x, model: model.fit(x).partial_fit(x),
    "class": lambda x, model: model.fit(x, np.arange(len(x)) % 2).denoise(Z, 0.3, y=1),
}


@pytest.mark.parametrize("name", COPIES)
def test_large_copies_are_refused(name, tmp_path):
    on_disk = mapped(tmp_path / "x.npy", np.zeros((3000, 1, 8, 8), np.float32))
    COPIES[name](on_disk, EmpiricalDenoiser())
    with (
        config_context(working_memory=0.2),
        pytest.raises(MemoryError, match=r"takes a copy of [01]\.\d+ MiB in memory.*set_config"),
    ):
        COPIES[name](on_disk, EmpiricalDenoiser())
    with config_context(working_memory=0.2):  # images in memory are the user's choice
        PSPCDenoiser(3).fit(np.array(on_disk)[..., ::2])


def test_layouts_in_a_file_give_the_results_of_an_array(tmp_path):
    expected = PSPCDenoiser(3).fit(X).denoise(Z, 0.3)
    for array in (np.asfortranarray(X), X.transpose(0, 2, 3, 1).copy(), X.astype(np.int16)):
        on_disk = mapped(tmp_path / "x.npy", array)
        on_disk = on_disk.transpose(0, 3, 1, 2) if on_disk.shape[-1] == 1 else on_disk
        model = PSPCDenoiser(3, data_range=None if array.dtype == np.uint8 else (0, 255))
        z = Z if array.dtype == np.uint8 else (Z + 1) * 127.5
        sigma = 0.3 if array.dtype == np.uint8 else 0.3 * 127.5
        answer = model.fit(on_disk).denoise(z, sigma)
        answer = answer if array.dtype == np.uint8 else answer / 127.5 - 1
        assert np.allclose(answer, expected, atol=1e-5)


USES = {
    "denoise": lambda model: model.denoise(Z, 0.3),
    "sample": lambda model: model.sample(n=1, n_steps=2),
    "attribute": lambda model: model.attribute(Z, 0.3),
    "denoise_without": lambda model: model.denoise_without(Z, 0.3, images=[0]),
    "jacobian": lambda model: model.jacobian(Z, 0.3, pixels=[(0, 0)]),
}


@pytest.mark.parametrize("name", USES)
def test_a_file_that_is_cut_short_is_an_error(name, tmp_path):
    on_disk = mapped(tmp_path / "x.npy", X)
    model = PSPCDenoiser(3).fit(on_disk)
    os.truncate(tmp_path / "x.npy", 2000)
    with pytest.raises(ValueError, match=r"x\.npy' has 2000 bytes, .* cut short.*fit again"):
        USES[name](model)


@pytest.mark.parametrize("name", USES)
def test_a_file_that_was_written_to_is_an_error(name, tmp_path):
    on_disk = mapped(tmp_path / "x.npy", X)
    model = PSPCDenoiser(3).fit(on_disk)
    os.utime(tmp_path / "x.npy", ns=(0, 0))
    with pytest.raises(ValueError, match=r"x\.npy' was written to .*; open it again and fit again"):
        USES[name](model)


def test_a_file_cut_short_is_an_error_of_fit(tmp_path):
    on_disk = mapped(tmp_path / "x.npy", X.astype(np.float32))
    EmpiricalDenoiser().fit(on_disk)
    os.truncate(tmp_path / "x.npy", 2000)
    with pytest.raises(ValueError, match="cut short"):
        EmpiricalDenoiser().fit(on_disk)


def test_a_file_may_be_replaced_or_deleted(tmp_path):
    expected = PSPCDenoiser(3).fit(X).denoise(Z, 0.3)
    model = PSPCDenoiser(3).fit(mapped(tmp_path / "x.npy", X))
    np.save(tmp_path / "y.npy", X[:3])
    os.replace(tmp_path / "y.npy", tmp_path / "x.npy")
    assert np.array_equal(model.denoise(Z, 0.3), expected)
    os.remove(tmp_path / "x.npy")
    assert np.array_equal(model.denoise(Z, 0.3), expected)


@pytest.mark.parametrize("offset", [0, 100, 5000])
def test_a_raw_file_may_begin_anywhere(offset, tmp_path):
    (tmp_path / "x.raw").write_bytes(bytes(offset) + X.tobytes())
    on_disk = np.memmap(tmp_path / "x.raw", np.uint8, "r", offset, X.shape)
    model = PSPCDenoiser(3).fit(on_disk)
    assert np.array_equal(model.denoise(Z, 0.3), PSPCDenoiser(3).fit(X).denoise(Z, 0.3))
    os.truncate(tmp_path / "x.raw", offset + X.nbytes - 1)
    with pytest.raises(ValueError, match="cut short"):
        model.denoise(Z, 0.3)


def test_a_file_may_grow_while_it_is_mapped_for_writing(tmp_path):
    np.save(tmp_path / "x.npy", X)
    model = PSPCDenoiser(3).fit(np.load(tmp_path / "x.npy", mmap_mode="r+"))
    before = model.denoise(Z, 0.3)
    with open(tmp_path / "x.npy", "ab") as file:
        file.write(bytes(100))
    assert np.array_equal(model.denoise(Z, 0.3), before)


def test_a_noisy_image_of_a_file_that_is_cut_short_is_an_error(tmp_path):
    noisy = mapped(tmp_path / "z.npy", np.repeat(Z, 20, axis=0))
    os.truncate(tmp_path / "z.npy", 300)
    with pytest.raises(ValueError, match="cut short"):
        PSPCDenoiser(3).fit(X).denoise(noisy, 0.3)


def test_a_pickle_holds_the_images_and_not_the_file(tmp_path):
    model = PSPCDenoiser(3).fit(mapped(tmp_path / "x.npy", X))
    expected, again = model.denoise(Z, 0.3), pickle.loads(pickle.dumps(model))
    os.remove(tmp_path / "x.npy")
    assert np.array_equal(again.denoise(Z, 0.3), expected)


@pytest.mark.parametrize("include_data", [True, False])
def test_a_denoiser_of_a_file_is_saved(include_data, tmp_path):
    np.save(tmp_path / "x.npy", X)
    model = PSPCDenoiser(3).fit(tmp_path / "x.npy")
    model.save(tmp_path / "model.safetensors", include_data=include_data)
    images = () if include_data else (tmp_path / "x.npy",)
    again = load(tmp_path / "model.safetensors", *images)
    assert np.array_equal(again.denoise(Z, 0.3), model.denoise(Z, 0.3))


def test_a_search_over_processes_takes_a_map(tmp_path):
    on_disk = mapped(tmp_path / "x.npy", X)
    search = GridSearchCV(PSPCDenoiser(), {"patch_size": [1, 3]}, cv=2, n_jobs=2).fit(on_disk)
    expected = GridSearchCV(PSPCDenoiser(), {"patch_size": [1, 3]}, cv=2).fit(X)
    assert search.best_params_ == expected.best_params_


PEAK = """
import sys, threading, time
import numpy as np
from skpspc import *

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

X = np.load(sys.argv[1], mmap_mode="r")
Z = np.zeros((2, *X.shape[1:]), np.float32)
model = eval(sys.argv[2])
model.fit(np.array(X[:50])).denoise(Z, 0.5)  # libraries and compiled code
before, peak, done = anonymous(), 0, False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
model.fit(X).denoise(Z, 0.5)
done = True
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs the memory of Linux")
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("model", ["EmpiricalDenoiser()", "PSPCDenoiser(3)"])
def test_memory_does_not_grow_with_the_training_set(model, dtype, tmp_path):
    n = 60_000 if dtype == np.uint8 else 15_000  # 184 MB
    on_disk = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", dtype, (n, 3, 32, 32))
    for start in range(0, n, 1000):
        on_disk[start : start + 1000] = np.random.default_rng(start).integers(0, 256, (3, 32, 32))
    on_disk.flush()
    # a large chunk would hide a copy of all images
    script = "import sklearn; sklearn.set_config(working_memory=24)\n" + PEAK
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "x.npy", model],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # buffers of matrix products, which differ between runs, are below a copy of the images
    assert float(run.stdout) < 0.75 * on_disk.nbytes / 2**20


def zipped(path, images):
    with zipfile.ZipFile(path, "w") as archive:
        for i, image in enumerate(images):
            file = io.BytesIO()
            Image.fromarray(image[0]).save(file, "png")
            archive.writestr(f"{i:03}.png", file.getvalue())
        archive.writestr("dataset.json", '{"labels": null}')
    return path


def test_an_archive_is_decoded_to_a_file(tmp_path):
    path, out = zipped(tmp_path / "x.zip", X), tmp_path / "x.npy"
    data = load_edm_zip(path, out=out)
    assert isinstance(data.images, np.memmap) and not data.images.flags.writeable
    assert np.array_equal(data.images, X) and np.array_equal(np.load(out), X)
    assert np.array_equal(
        EmpiricalDenoiser().fit(out).denoise(Z, 0.3), EmpiricalDenoiser().fit(X).denoise(Z, 0.3)
    )


def test_a_folder_is_decoded_to_a_file(tmp_path):
    (tmp_path / "images").mkdir()
    with zipfile.ZipFile(zipped(tmp_path / "x.zip", X)) as archive:
        archive.extractall(tmp_path / "images")
    # more than max_bytes allows in memory
    data = load_image_folder(tmp_path / "images", out=tmp_path / "x.npy", max_bytes=2**13)
    assert np.array_equal(data.images, X)


def test_unreadable_images_leave_no_file(tmp_path):
    path, out = zipped(tmp_path / "x.zip", X), tmp_path / "x.npy"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.png", b"no picture")
    with pytest.raises(ValueError, match=r"'a\.png' in .* cannot be read as an image"):
        load_edm_zip(path, out=out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.zip"]


def test_an_earlier_file_outlives_a_failure(tmp_path):
    path, out = zipped(tmp_path / "x.zip", X), tmp_path / "x.npy"
    images = load_edm_zip(path, out=out).images
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.png", b"no picture")
    with pytest.raises(ValueError, match="cannot be read"):
        load_edm_zip(path, out=out)
    assert np.array_equal(images, X) and np.array_equal(np.load(out), X)


def test_out_must_be_a_npy_file(tmp_path):
    path = zipped(tmp_path / "x.zip", X)
    with pytest.raises(ValueError, match=r"suffix of .* must be one of \.npy"):
        load_edm_zip(path, out=tmp_path / "x.npz")


def test_images_that_exceed_the_disk_are_refused(tmp_path, monkeypatch):
    path = zipped(tmp_path / "x.zip", X)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(OSError, match="3840 bytes of images do not fit in the 100 free bytes"):
        load_edm_zip(path, out=tmp_path / "x.npy")
    assert not (tmp_path / "x.npy").exists()


def test_a_tensor_on_a_map_is_recognised(tmp_path):
    on_disk = mapped(tmp_path / "x.npy", X)
    model = EmpiricalDenoiser().fit(on_disk)
    again = PSPCDenoiser(3).fit(model.training_set_.images)
    os.truncate(tmp_path / "x.npy", 2000)
    with pytest.raises(ValueError, match="cut short"):
        again.denoise(torch.from_numpy(Z), 0.3)
