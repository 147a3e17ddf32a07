"""Loaders: what they read, and what they say about what they cannot read."""

import io
import json
import shutil
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from skpspc.datasets import (
    load_digits_images,
    load_edm_zip,
    load_image_folder,
    load_npz,
    load_photo_patches,
)
from skpspc.datasets._files import load_images


@pytest.fixture
def colour():
    return np.random.default_rng(0).integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)


@pytest.fixture
def gray():
    return np.random.default_rng(1).integers(0, 256, (6, 1, 5, 4), dtype=np.uint8)


def encode(image, format="PNG", mode=None):
    """One (C, H, W) image as the bytes of a file."""
    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    stream = io.BytesIO()
    (picture if mode is None else picture.convert(mode)).save(stream, format=format)
    return stream.getvalue()


def name_of(i):
    return f"{i // 2:05d}/img{i:08d}.png"


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def png_members(images):
    return {name_of(i): encode(image) for i, image in enumerate(images)}


def write_files(folder, members):
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# Embedded


def test_digits():
    digits, original = load_digits_images(), load_digits()
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == np.uint8
    assert digits.target.dtype == np.int64
    np.testing.assert_array_equal(digits.target, original.target)
    np.testing.assert_array_equal(np.rint(digits.images[:, 0] * (16 / 255)), original.images)
    assert len(np.unique(digits.images)) == 17
    assert digits.classes == list("0123456789")
    assert "digits" in digits.DESCR


def test_photo_patches_are_crops_of_the_photographs():
    names = ["china", "flower"]
    photos = load_photo_patches(size=20, n_images=6, photos=names, random_state=3)
    assert photos.images.shape == (6, 3, 20, 20)
    assert photos.images.dtype == np.uint8
    assert photos.target.dtype == np.int64
    assert photos.target.tolist() == [0, 1, 0, 1, 0, 1]
    assert photos.classes == ["china", "flower"]
    for image, label in zip(photos.images, photos.target, strict=True):
        photo = load_sample_images().images[label][:426, :639].astype(float)
        small = photo.reshape(142, 3, 213, 3, 3).mean(axis=(1, 3))
        crops = np.lib.stride_tricks.sliding_window_view(small, (20, 20), axis=(0, 1))
        distances = np.abs(crops[..., ::5, ::5] - image[:, ::5, ::5]).max(axis=(2, 3, 4))
        assert distances.min() <= 1  # rounding


def test_photo_patches_of_all_photographs():
    crops = load_photo_patches(size=143, n_images=12)
    assert crops.classes == ["china", "flower", "cat", "coffee", "galaxies", "rocket"]
    assert crops.target.tolist() == [*range(6), *range(6)]
    for image in crops.images[:6].astype(float):
        assert image.std() > 20  # a picture
        assert np.ptp(image, axis=0).mean() > 5  # in colour
    for name in ("Pikolo", "CC0", "NASA", "SpaceX", "CC BY 2.0"):
        assert name in crops.DESCR


def test_photo_patches_of_one_photograph():
    one = load_photo_patches(size=8, n_images=3, photos="cat")
    assert one.classes == ["cat"]
    assert one.target.tolist() == [0, 0, 0]


def test_repeated_photographs_are_rejected():
    with pytest.raises(ValueError, match="different names, got 'cat' more than once"):
        load_photo_patches(photos=["cat", "china", "cat"])


def test_photo_patches_random_state():
    few, many = load_photo_patches(n_images=5), load_photo_patches(n_images=9)
    assert many.images.shape == (9, 3, 32, 32)
    np.testing.assert_array_equal(few.images, many.images[:5])
    other = load_photo_patches(n_images=5, random_state=1)
    assert (other.images != few.images).any()
    largest = load_photo_patches(size=143, n_images=2)
    assert largest.images.shape == (2, 3, 143, 143)


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0},
        {"size": 144},
        {"size": 2.5},
        {"n_images": 0},
        {"photos": ["dog"]},
        {"photos": []},
    ],
)
def test_photo_patches_refuse(bad):
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(bad))} .*must be"):
        load_photo_patches(**bad)


# Zip


def test_zip_is_read_in_the_order_of_sorted_names(tmp_path, colour):
    members = dict(reversed(png_members(colour).items()))
    labels = [[name_of(i), i % 3] for i in (3, 1, 2, 0, 5, 4)]
    members["dataset.json"] = json.dumps({"labels": labels, "classes": ["a", "b", "c"]})
    data = load_edm_zip(write_zip(tmp_path / "x.zip", members))
    np.testing.assert_array_equal(data.images, colour)
    assert data.images.dtype == np.uint8
    assert data.target.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.target.dtype == np.int64
    assert data.classes == ["a", "b", "c"]
    assert "x.zip" in data.DESCR


@pytest.mark.parametrize("deflated", [True, False])
def test_zip_gray_max_images_and_str_path(tmp_path, gray, deflated):
    path = write_zip(tmp_path / "x.zip", png_members(gray))
    if deflated:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in png_members(gray).items():
                archive.writestr(name, content)
    np.testing.assert_array_equal(load_edm_zip(str(path)).images, gray)
    np.testing.assert_array_equal(load_edm_zip(path, max_images=2).images, gray[::3])
    np.testing.assert_array_equal(load_edm_zip(path, max_images=99).images, gray)


@pytest.mark.parametrize("content", [None, {}, {"labels": None}, {"labels": []}])
def test_zip_without_labels(tmp_path, colour, content):
    members = png_members(colour)
    if content is not None:
        members["dataset.json"] = json.dumps(content)
    data = load_edm_zip(write_zip(tmp_path / "x.zip", members))
    assert data.target is None
    assert data.classes is None


def test_zip_labels_as_mapping(tmp_path, colour):
    members = png_members(colour)
    members["dataset.json"] = json.dumps({"labels": {name_of(i): 5 - i for i in range(6)}})
    data = load_edm_zip(write_zip(tmp_path / "x.zip", members), max_images=4)
    assert data.target.tolist() == [5, 4, 2, 1]
    assert data.classes is None


def test_zip_skips_what_operating_systems_add(tmp_path, colour):
    members = png_members(colour)
    members |= {"__MACOSX/00000/._img00000000.png": b"?", ".DS_Store": b"?", "00000/": b""}
    with pytest.warns(UserWarning, match=r"2 of the 8 files .*: '\.DS_Store', '__MACOSX"):
        data = load_edm_zip(write_zip(tmp_path / "x.zip", members))
    np.testing.assert_array_equal(data.images, colour)
    assert data.n_skipped == 2


@pytest.mark.parametrize(
    ("mode", "format", "channels"),
    [("RGBA", "PNG", 3), ("P", "PNG", 3), ("LA", "PNG", 1), ("1", "PNG", 1), ("CMYK", "TIFF", 3)],
)
def test_other_pixel_modes_become_gray_or_rgb(tmp_path, colour, mode, format, channels):
    content = encode(colour[0], format, mode)
    data = load_edm_zip(write_zip(tmp_path / "x.zip", {"a.png": content}))
    assert data.images.shape == (1, channels, 5, 4)
    picture = Image.open(io.BytesIO(content)).convert("RGB" if channels == 3 else "L")
    expected = np.asarray(picture).reshape(5, 4, channels).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.images[0], expected)


def test_members_that_are_no_images_are_named(tmp_path, colour):
    members = png_members(colour)
    members["00001/notes.png"] = b"hello"
    path = write_zip(tmp_path / "x.zip", members)
    with pytest.raises(ValueError, match=r"00001/notes\.png' in '.*x\.zip' .* take it out"):
        load_edm_zip(path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "checksum"])
def test_damaged_members_are_named(tmp_path, colour, damage):
    members = png_members(colour)
    name = name_of(5)
    if damage == "truncated":
        members[name] = members[name][:60]
    elif damage == "empty":
        members[name] = b""
    path = write_zip(tmp_path / "x.zip", members)
    if damage == "checksum":
        content = bytearray(path.read_bytes())
        content[content.index(members[name]) + 50] ^= 1
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' in '.*x\.zip' .* repair it or take it out"):
        load_edm_zip(path)
    np.testing.assert_array_equal(load_edm_zip(path, max_images=3).images, colour[::2])


@pytest.mark.parametrize("seed", range(60))
def test_no_damage_escapes_as_another_error(tmp_path, colour, seed):
    rng = np.random.default_rng(seed)
    format = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"][seed % 6]
    content = bytearray(encode(colour[0], format))
    for place in rng.integers(0, len(content), 6):
        content[place] = rng.integers(0, 256)
    path = write_zip(tmp_path / "x.zip", {"a.png": bytes(content)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load_edm_zip(path)
        except ValueError as error:
            assert "'a.png'" in str(error)


def test_zip_odd_size_and_kind_are_named(tmp_path, colour, gray):
    members = png_members(colour)
    other = members | {name_of(4): encode(colour[4, :, 1:])}
    with pytest.raises(ValueError, match=rf"are not 5 x 4 .*: '{name_of(4)}' 4 x 4; pass size="):
        load_edm_zip(write_zip(tmp_path / "x.zip", other))
    other = members | {name_of(2): encode(gray[2])}
    with pytest.raises(ValueError, match=rf"1 of 6 .* gray .*: '{name_of(2)}'; pass channels=3"):
        load_edm_zip(write_zip(tmp_path / "y.zip", other))


def test_more_than_8_bits_is_refused(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(stream, format="PNG")
    path = write_zip(tmp_path / "x.zip", {"deep.png": stream.getvalue()})
    with pytest.raises(ValueError, match=r"deep\.png'.* more than 8 bits"):
        load_edm_zip(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "'dataset.json' in '.*' cannot be read"),
        (b"[1, 2]", "'dataset.json' in '.*' cannot be read"),
        (b'{"labels": [1, 2]}', "'dataset.json' in '.*' cannot be read"),
        (b'{"labels": [["a.png", 0]]}', "has no label for 'b.png'"),
        (
            b'{"labels": {"a.png": 0, "b.png": 0.5}}',
            "'b.png' in '.*' must be an integer or a one-hot list, got 0.5",
        ),
    ],
)
def test_bad_labels_are_named(tmp_path, colour, content, message):
    members = {"a.png": encode(colour[0]), "b.png": encode(colour[1]), "dataset.json": content}
    with pytest.raises(ValueError, match=message):
        load_edm_zip(write_zip(tmp_path / "x.zip", members))


def test_bad_archives(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.zip"):
        load_edm_zip(tmp_path / "missing.zip")
    (tmp_path / "x.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"x\.zip' is not a zip archive or is damaged"):
        load_edm_zip(tmp_path / "x.zip")
    with pytest.raises(ValueError, match=r"y\.zip' holds no images"):
        load_edm_zip(write_zip(tmp_path / "y.zip", {"dataset.json": "{}"}))


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3"])
def test_max_images_is_checked(tmp_path, colour, bad):
    path = write_zip(tmp_path / "x.zip", png_members(colour))
    with pytest.raises((ValueError, TypeError), match=r"max_images .*must be"):
        load_edm_zip(path, max_images=bad)


def test_zip_memory_is_the_array_once(tmp_path):
    images = np.zeros((40, 3, 256, 256), dtype=np.uint8)
    path = write_zip(tmp_path / "x.zip", png_members(images))
    load_edm_zip(path, max_images=1)  # what Pillow loads once
    tracemalloc.start()
    load_edm_zip(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.2 * images.nbytes


def test_shared_archives(shared):
    cifar = load_edm_zip(shared / "data" / "cifar10-32x32-test.zip")
    assert cifar.images.shape == (2000, 3, 32, 32)
    assert np.unique(cifar.target).tolist() == list(range(10))
    assert cifar.classes[0] == "airplane"
    np.testing.assert_allclose(
        cifar.images.mean(axis=(0, 2, 3)) / 255, [0.4914, 0.4822, 0.4465], atol=0.01
    )
    mnist = load_edm_zip(shared / "data" / "mnist-28x28-test.zip", max_images=10)
    assert mnist.images.shape == (10, 1, 28, 28)


# Folder


def test_folder_with_classes(tmp_path, colour):
    members = {
        "dog/b.png": encode(colour[1]),
        "dog/a.bmp": encode(colour[0], "BMP"),
        "cat/deep/er/z.png": encode(colour[2]),
        "dog/.hidden": b"?",
        "dog/Thumbs.db": b"?",
    }
    write_files(tmp_path, members)
    with pytest.warns(UserWarning, match="2 of the 5 files") as caught:
        data = load_image_folder(tmp_path)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(data.images, colour[[2, 0, 1]])
    assert data.target.tolist() == [0, 1, 1]
    assert data.classes == ["cat", "dog"]
    assert data.n_skipped == 2
    with pytest.warns(UserWarning, match="2 of the 5 files"):
        first = load_image_folder(tmp_path, max_images=1)
    np.testing.assert_array_equal(first.images, colour[[2]])
    assert first.classes == ["cat", "dog"]


def test_folder_without_classes(tmp_path, gray):
    write_files(tmp_path, {"1.png": encode(gray[1]), "0.png": encode(gray[0])})
    data = load_image_folder(str(tmp_path))
    np.testing.assert_array_equal(data.images, gray[:2])
    assert data.target is None
    assert data.classes is None
    write_files(tmp_path, {"sub/2.png": encode(gray[2])})  # not all have a class now
    assert load_image_folder(tmp_path).target is None


def test_unpacked_archive(tmp_path, colour):
    members = png_members(colour)
    labels = [[name_of(i), 7] for i in range(6)]
    members["dataset.json"] = json.dumps({"labels": labels}).encode()
    data = load_image_folder(write_files(tmp_path, members))
    np.testing.assert_array_equal(data.images, colour)
    assert data.target.tolist() == [7] * 6
    assert data.classes is None


@pytest.mark.parametrize("wide", [True, False])
def test_folder_resizes_the_central_square(tmp_path, wide):
    image = np.zeros((3, 40, 80), dtype=np.uint8)
    image[0, :, 20:60] = 200  # the central square is red, the rest black
    image = image if wide else image.transpose(0, 2, 1)
    write_files(tmp_path, {"a.png": encode(image), "b.png": encode(image[:, :30, :30] * 0 + 9)})
    data = load_image_folder(tmp_path, size=8)
    assert data.images.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(data.images[0, 0], np.full((8, 8), 200))
    np.testing.assert_array_equal(data.images[1], np.full((3, 8, 8), 9))


def test_folder_obeys_the_orientation_tag(tmp_path, colour):
    picture = Image.fromarray(colour[0].transpose(1, 2, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    picture.save(tmp_path / "a.png", exif=exif)
    data = load_image_folder(tmp_path)
    np.testing.assert_array_equal(data.images[0], np.rot90(colour[0], -1, axes=(1, 2)))


def test_bad_folders(tmp_path, colour, gray):
    with pytest.raises(FileNotFoundError, match="missing"):
        load_image_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match="holds no images"):
        load_image_folder(tmp_path)
    write_files(tmp_path, {"a.png": encode(colour[0]), "b.png": encode(colour[0, :, :3])})
    with pytest.raises(ValueError, match=r"1 of 2 .*: 'b\.png' 3 x 4; pass size="):
        load_image_folder(tmp_path)
    with pytest.raises(ValueError, match="size == 0, must be >= 1"):
        load_image_folder(tmp_path, size=0)
    write_files(tmp_path, {"b.png": encode(gray[0])})
    with pytest.raises(ValueError, match=r"are gray and all others colour: 'b\.png'"):
        load_image_folder(tmp_path, size=4)
    write_files(tmp_path, {"b.png": b"text"})
    with pytest.raises(ValueError, match=r"'b\.png' in '.*' cannot be read as an image"):
        load_image_folder(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"b\.png"):
        load_image_folder(tmp_path / "b.png")


# npz


@pytest.mark.parametrize("key", ["images", "arr_0", "x", "X", "anything"])
def test_npz_keys(tmp_path, colour, key):
    np.savez(tmp_path / "x.npz", **{key: colour}, labels=np.arange(6, dtype=np.uint8)[:, None])
    data = load_npz(tmp_path / "x.npz")
    np.testing.assert_array_equal(data.images, colour)
    assert data.target.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.target.dtype == np.int64
    assert data.classes is None
    assert load_npz(tmp_path / "x.npz", max_images=2).target.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ((6, 5, 4), (6, 1, 5, 4)),
        ((6, 5, 4, 3), (6, 3, 5, 4)),
        ((6, 5, 4, 1), (6, 1, 5, 4)),
        ((6, 3, 5, 3), (6, 3, 5, 3)),
        ((6, 2, 5, 4), (6, 2, 5, 4)),
    ],
)
def test_npz_layouts(tmp_path, stored, expected):
    images = np.arange(np.prod(stored)).reshape(stored).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=images)
    data = load_npz(tmp_path / "x.npz")
    assert data.images.shape == expected
    assert data.images.flags.c_contiguous
    assert data.target is None
    if stored[-1] == 3 and stored[1] != 3:
        np.testing.assert_array_equal(data.images[:, 1], images[..., 1])


def test_npz_key_and_classes(tmp_path, colour):
    np.savez(tmp_path / "x.npz", train=colour, test=colour[:1], classes=["a", "b"])
    assert load_npz(tmp_path / "x.npz", key="test").images.shape == (1, 3, 5, 4)
    assert load_npz(tmp_path / "x.npz", key="test").classes == ["a", "b"]
    with pytest.raises(ValueError, match=r"x\.npz.*'train', 'test'.*key="):
        load_npz(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="no array 'valid' among"):
        load_npz(tmp_path / "x.npz", key="valid")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((2, 3, 4, 4))}, "must be uint8 .* got float64"),
        ({"images": np.zeros((2, 4), dtype=np.uint8)}, r"must have shape .* got \(2, 4\)"),
        ({"images": np.zeros((0, 3, 4, 4), dtype=np.uint8)}, r"at least one value, got \(0"),
        ({"images": np.array([{}], dtype=object)}, "Python objects, and pickles"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8), "y": np.arange(3)}, "must be 2 integers"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8), "y": np.ones(2) / 2}, "dtype float64"),
    ],
)
def test_bad_npz_contents(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_npz(tmp_path / "x.npz")
    assert "x.npz" in str(caught.value)


def test_bad_npz_files(tmp_path, colour):
    with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
        load_npz(tmp_path / "missing.npz")
    path = tmp_path / "x.npz"
    for content in (b"", b"nonsense", b"PK\x03\x04nonsense"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz' cannot be read"):
            load_npz(path)
    with path.open("wb") as file:
        np.save(file, colour)
    with pytest.raises(ValueError, match="single array"):
        load_npz(path)


# What the command line names


def test_spec_of_each_kind(tmp_path, colour, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / "x.zip", png_members(colour))
    shutil.unpack_archive("x.zip", "folder")
    np.savez("x.npz", images=colour)
    for spec in ("x.zip", "folder", "x.npz"):
        np.testing.assert_array_equal(load_images(spec).images, colour)
    assert load_images("folder", size=3).images.shape == (6, 3, 3, 3)
    assert load_images("digits").images.shape == (1797, 1, 8, 8)
    assert load_images("photos", max_images=7).images.shape == (7, 3, 32, 32)
    with pytest.raises(ValueError, match="serves a folder or a zip only"):
        load_images("digits", size=3)
    with pytest.raises(FileNotFoundError, match=r"missing\.zip"):
        load_images("missing.zip")
    with pytest.raises(ValueError, match=r"'digits', 'photos', a \.zip .*'mnist' is none"):
        load_images("mnist")


def test_spec_takes_images_evenly_spaced(tmp_path, gray):
    members = png_members(gray)
    members["dataset.json"] = json.dumps({"labels": [[name_of(i), i // 2] for i in range(6)]})
    data = load_images(str(write_zip(tmp_path / "x.zip", members)), max_images=3)
    assert data.target.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.images, gray[::2])
    digits = load_images("digits", max_images=1000)
    assert len(np.unique(digits.images.reshape(1000, -1), axis=0)) == 1000
    np.testing.assert_array_equal(digits.images[-1], load_digits_images().images[1795])
