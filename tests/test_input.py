"""Files as people have them: mixed, damaged, too large; and what is said of them."""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from skpspc import load_network
from skpspc._input import map_array, reading
from skpspc.cli._schedule_file import read_schedule
from skpspc.datasets import load_edm_zip, load_image_folder, load_npz

GIGABYTES = 1_500_000_000


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)


def saved(picture, format="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, format=format, **options)
    return stream.getvalue()


def picture_of(image):
    return Image.fromarray(image.transpose(1, 2, 0))


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_files(folder, members):
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# Archives of real life


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_files_that_are_no_images_are_skipped_and_counted(tmp_path, images, kind):
    members = {f"cat/{i}.PNG": saved(picture_of(image)) for i, image in enumerate(images)}
    others = ["README.txt", "labels.csv", "desktop.ini", ".DS_Store", "cat/Thumbs.db", "cat/noend"]
    members |= dict.fromkeys([*others, "__MACOSX/cat/._0.PNG"], b"?")
    if kind == "zip":
        source, load = write_zip(tmp_path / "x.zip", members), load_edm_zip
    else:
        source, load = write_files(tmp_path / "folder", members), load_image_folder
    with pytest.warns(UserWarning, match=r"7 of the 13 files .*'README\.txt'") as caught:
        data = load(source)
    assert caught[0].filename == __file__
    assert data.n_skipped == 7
    np.testing.assert_array_equal(data.images, images)
    if kind == "folder":  # README.txt lies outside the folders of the classes
        assert data.classes == ["cat"]
        assert data.target.tolist() == [0] * 6


def test_nothing_but_other_files(tmp_path):
    write_files(tmp_path, {f"{i:02d}.txt": b"?" for i in range(12)})
    with pytest.raises(ValueError, match=r"no images but '00\.txt', .*'09\.txt' and 2 more; give"):
        load_image_folder(tmp_path)


def test_names_that_start_at_the_folder_itself_are_not_hidden(tmp_path, images):
    content = saved(picture_of(images[0]))
    members = {"./a/0.png": content, "./.b/1.png": content, "c/..2.png": content}
    path = write_zip(tmp_path / "x.zip", members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"")  # for which zipfile's is_dir raises
    with pytest.warns(UserWarning, match=r"3 of the 4 files"):
        data = load_edm_zip(path)
    np.testing.assert_array_equal(data.images, images[:1])


def test_no_image_skipped_is_no_warning(tmp_path, images, recwarn):
    data = load_image_folder(write_files(tmp_path, {"a.png": saved(picture_of(images[0]))}))
    assert data.n_skipped == 0
    assert not recwarn.list


@pytest.mark.parametrize(
    ("channels", "mode"), [("auto", None), (1, "L"), (3, "RGB")], ids=["auto", "gray", "colour"]
)
def test_gray_among_colour(tmp_path, images, channels, mode):
    pictures = [picture_of(image) for image in images]
    pictures[0] = pictures[0].convert("L")
    path = write_zip(tmp_path / "x.zip", {f"{i}.png": saved(p) for i, p in enumerate(pictures)})
    if mode is None:
        message = r"1 of 6 images in .* are gray and all others colour: '0\.png'; pass channels=3"
        with pytest.raises(ValueError, match=message):
            load_edm_zip(path)
        return
    data = load_edm_zip(path, channels=channels)
    for picture, image in zip(pictures, data.images, strict=True):
        expected = np.asarray(picture.convert(mode)).reshape(5, 4, channels).transpose(2, 0, 1)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("channels", [0, 2, True, "rgb", None, 1.5, [3]])
def test_channels_are_checked(tmp_path, images, channels):
    path = write_zip(tmp_path / "x.zip", {"a.png": saved(picture_of(images[0]))})
    with pytest.raises(ValueError, match=r'channels must be "auto", 1 \(gray\) or 3'):
        load_edm_zip(path, channels=channels)


def test_all_offenders_are_listed_at_once(tmp_path, images):
    members = {f"{i:02d}.png": saved(picture_of(images[i % 6])) for i in range(40)}
    for i in range(3, 17):
        members[f"{i:02d}.png"] = saved(picture_of(images[0, :, : i % 3 + 1]))
    members["20.png"] = members["20.png"][:50]
    members["21.png"] = b""
    members["30.png"] = saved(picture_of(images[0]).convert("L"))
    with pytest.raises(ValueError) as caught:
        load_image_folder(write_files(tmp_path, members))
    said = str(caught.value)
    assert "2 of 40 images are unreadable: '20.png' in" in said
    assert "'21.png' in" in said
    assert "1 of 40 images" in said
    assert "are gray and all others colour: '30.png'; pass channels=3" in said
    assert "14 of 40 images" in said
    assert "are not 5 x 4 (height x width), the most common size: '03.png' 1 x 4" in said
    assert "and 4 more; pass size=" in said


def test_size_for_a_zip(tmp_path, images):
    members = {f"{i}.png": saved(picture_of(images[i, :, : 3 + i % 3])) for i in range(6)}
    data = load_edm_zip(write_zip(tmp_path / "x.zip", members), size=3)
    folder = load_image_folder(write_files(tmp_path / "folder", members), size=3)
    assert data.images.shape == (6, 3, 3, 3)
    np.testing.assert_array_equal(data.images, folder.images)


@pytest.mark.parametrize("kind", ["zip", "folder", "npz"])
def test_max_images_takes_all_classes_of_sorted_data(tmp_path, kind):
    images = np.repeat(np.arange(10, dtype=np.uint8), 5)[:, None, None, None] * np.ones(
        (1, 1, 2, 2), np.uint8
    )
    members = {f"{image[0, 0, 0]}/{i:02d}.png": image for i, image in enumerate(images)}
    members = {name: saved(Image.fromarray(image[0])) for name, image in members.items()}
    if kind == "zip":
        data = load_edm_zip(write_zip(tmp_path / "x.zip", members), max_images=10)
    elif kind == "folder":
        data = load_image_folder(write_files(tmp_path, members), max_images=10)
        assert data.target.tolist() == list(range(10))
    else:
        np.savez(tmp_path / "x.npz", images=images)
        data = load_npz(tmp_path / "x.npz", max_images=10)
    assert data.images[:, 0, 0, 0].tolist() == list(range(10))


def deep_png(colour_type, n_channels):
    """A PNG of 16 bits a channel, written by hand, as Pillow writes gray ones only."""
    values = np.arange(4 * 4 * n_channels, dtype=">u2").reshape(4, -1) * 300
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(name, content):
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_tiff():
    """A TIFF of 16-bit RGB, uncompressed, little-endian."""
    pixels = np.arange(4 * 4 * 3, dtype="<u2").tobytes()
    bits_at = 8 + len(pixels)
    entries = [
        (256, 3, 1, 4),
        (257, 3, 1, 4),
        (258, 3, 3, bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (277, 3, 1, 3),
        (278, 3, 1, 4),
        (279, 4, 1, len(pixels)),
    ]
    ifd_at = bits_at + 6
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    header = b"II*\0" + struct.pack("<I", ifd_at)
    return header + pixels + struct.pack("<HHH", 16, 16, 16) + ifd + bytes(4)


DEEP = {
    "gray.png": deep_png(0, 1),
    "rgb.png": deep_png(2, 3),
    "la.png": deep_png(4, 2),
    "rgba.png": deep_png(6, 4),
    "rgb.tif": deep_tiff(),
    "rgb.ppm": b"P6 4 4 65535\n" + bytes(4 * 4 * 6),
    "gray.pgm": b"P5 4 4 1023\n" + bytes(4 * 4 * 2),
    "plain.ppm": b"P3 1 1 1000\n1 2 999",
    "float.tif": saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
}


@pytest.mark.parametrize("name", DEEP)
def test_pixels_of_more_than_8_bits_are_refused(tmp_path, name):
    write_files(tmp_path, {name: DEEP[name]})
    Image.open(tmp_path / name).load()  # Pillow reads it
    with pytest.raises(ValueError, match=rf"'{name}' in .* more than 8 bits per channel, convert"):
        load_image_folder(tmp_path)


def test_bits_that_are_few_enough(tmp_path):
    """16 bits a pixel, 5 a channel, and levels from 0 to 15, spread over 0 to 255."""
    bmp = bytearray(saved(Image.new("RGB", (2, 1)), "BMP"))
    bmp[28:30] = struct.pack("<H", 16)
    bmp[54:] = struct.pack("<HH", 0b1111100000000000 >> 1, 0b11111)
    write_files(
        tmp_path, {"a.bmp": bytes(bmp), "b.ppm": b"P6 2 1 15\n" + bytes([15, 0, 0, 0, 0, 15])}
    )
    data = load_image_folder(tmp_path)
    expected = [[[255, 0]], [[0, 0]], [[0, 255]]]
    np.testing.assert_array_equal(data.images, [expected, expected])


def test_animations_and_pages_are_refused(tmp_path, images):
    frames = [picture_of(image) for image in images[:3]]
    for format, name in (("GIF", "a.gif"), ("PNG", "b.png"), ("WEBP", "c.webp"), ("TIFF", "d.tif")):
        content = saved(frames[0], format, save_all=True, append_images=frames[1:])
        write_files(tmp_path, {name: content})
    with pytest.raises(ValueError, match="4 of 4 images are unreadable") as caught:
        load_image_folder(tmp_path)
    assert str(caught.value).count("it holds 3 frames or pages, save one of them") == 4


def test_a_photograph_with_previews_is_one(tmp_path):
    picture = Image.new("RGB", (16, 16), (200, 10, 10))
    small = Image.new("RGB", (8, 8))
    write_files(tmp_path, {"a.jpg": saved(picture, "MPO", save_all=True, append_images=[small])})
    data = load_image_folder(tmp_path)
    expected = np.asarray(picture, dtype=int).transpose(2, 0, 1)
    np.testing.assert_allclose(data.images, expected[None], atol=3)


def test_transparent_pixels_are_told(tmp_path, images):
    opaque = picture_of(images[0]).convert("RGBA")
    pierced = opaque.copy()
    pierced.putpixel((0, 0), (*images[0, :, 0, 0].tolist(), 7))
    palette = picture_of(images[0]).quantize(8)
    members = {
        "a.png": saved(opaque),
        "b.png": saved(pierced),
        "c.png": saved(palette, transparency=0),
        "d.png": saved(palette),
        "e.png": saved(picture_of(images[0]), transparency=tuple(images[0, :, 0, 0].tolist())),
    }
    with pytest.warns(UserWarning, match=r"3 of 5 images .*: 'b\.png', 'c\.png', 'e\.png'\. Flat"):
        data = load_image_folder(write_files(tmp_path, members))
    for i in (0, 1, 4):
        np.testing.assert_array_equal(data.images[i], images[0])
    np.testing.assert_array_equal(data.images[2], data.images[3])


def test_formats_that_start_other_programs_are_skipped(tmp_path, images):
    members = {"a.png": saved(picture_of(images[0])), "b.eps": saved(picture_of(images[0]), "EPS")}
    with pytest.warns(UserWarning, match=r"1 of the 2 files .*'b\.eps'"):
        assert len(load_image_folder(write_files(tmp_path, members)).images) == 1
    write_files(tmp_path, {"c.png": members["b.eps"]})
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"'c\.png' in .*its format is unknown, use PNG"),
    ):
        load_image_folder(tmp_path)


# Labels


@pytest.mark.parametrize(
    "labels",
    [[2, 0, 1], [2.0, 0.0, 1.0], [[0, 0, 1], [1, 0, 0], [0, 1, 0]], [[0.0, 0.0, 1.0], 0, 1.0]],
)
@pytest.mark.parametrize("folder", ["", "set/"])
@pytest.mark.parametrize("whole_names", [True, False])
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_labels_as_they_are_written(tmp_path, images, labels, folder, whole_names, kind):
    names = [f"{folder}00000/{i}.png" for i in range(3)]
    members = {name: saved(picture_of(image)) for name, image in zip(names, images, strict=False)}
    told = names if whole_names else [name.removeprefix(folder) for name in names]
    table = {"labels": list(zip(told, labels, strict=True)), "classes": ["a", "b", "c"]}
    members[f"{folder}dataset.json"] = json.dumps(table).encode("utf-8-sig")
    if kind == "zip":
        data = load_edm_zip(write_zip(tmp_path / "x.zip", members))
    else:
        data = load_image_folder(write_files(tmp_path, members))
    assert data.target.tolist() == [2, 0, 1]
    assert data.target.dtype == np.int64
    assert data.classes == ["a", "b", "c"]
    assert data.n_skipped == 0


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (True, "must be an integer or a one-hot list, got True"),
        ("3", "got '3'"),
        ([1, 1], r"got \[1, 1\]"),
        ([0, 0], r"got \[0, 0\]"),
        ([1], r"got \[1\]"),
        ([0.5, 0.5], r"got \[0\.5, 0\.5\]"),
        (0.5, "got 0.5"),
        (float("nan"), "got nan"),
        (float("inf"), "got inf"),
        (2.0**63, "got 9.22"),
        (2**63, "got 9223372036854775808"),
        (10**400, r"got 1000.*\.\.\."),
        (None, "got None"),
        ({"class": 1}, "got {'class': 1}"),
        (2, "names 2 classes, and its labels range from 2 to 2; name every class"),
        (-1, "names 2 classes, and its labels range from -1 to -1"),
    ],
)
def test_labels_that_are_none(tmp_path, images, label, message):
    table = json.dumps({"labels": [["a.png", label]], "classes": ["x", "y"]})
    members = {"a.png": saved(picture_of(images[0])), "dataset.json": table}
    with pytest.raises(ValueError, match=message) as caught:
        load_edm_zip(write_zip(tmp_path / "x.zip", members))
    assert "x.zip'" in str(caught.value)


@pytest.mark.parametrize("classes", [{"a": 1}, "ab", 3, [["a"], ["b"]]])
def test_class_names_that_are_no_list(tmp_path, images, classes):
    table = json.dumps({"labels": [["a.png", 0]], "classes": classes})
    members = {"a.png": saved(picture_of(images[0])), "dataset.json": table}
    with pytest.raises(ValueError, match="class names must be a list of names"):
        load_edm_zip(write_zip(tmp_path / "x.zip", members))


def test_several_tables_of_labels(tmp_path, images):
    members = {"a/0.png": saved(picture_of(images[0])), "a/dataset.json": "{}"}
    members["b/dataset.json"] = "{}"
    with pytest.raises(
        ValueError, match=r"several files dataset\.json \('a/dataset\.json', 'b/dataset"
    ):
        load_edm_zip(write_zip(tmp_path / "x.zip", members))


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("arr_0", "arr_1"), None),
        (("x_train", "y_train", "x_test", "y_test"), None),
        (("X_train", "y_train"), None),
        (("train_images", "train_labels", "val_images", "val_labels"), None),
        (("images", "labels"), None),
        (("X", "y"), None),
        (("mine", "target"), None),
        (("x_test", "y_test", "x_train", "y_train"), "x_test"),
        (("test_images", "test_labels", "train_images", "train_labels"), "test_images"),
        (("val_images", "val_labels", "train_images", "train_labels"), "val_images"),
    ],
)
def test_npz_labels_belong_to_the_images(tmp_path, images, names, key):
    arrays = {names[0]: images, names[1]: np.arange(6)}
    if len(names) > 2:
        arrays |= {names[2]: images[:2], names[3]: np.array([8, 9])}
    np.savez(tmp_path / "x.npz", **arrays)
    data = load_npz(tmp_path / "x.npz", key=key)
    np.testing.assert_array_equal(data.images, images)
    assert data.target.tolist() == [0, 1, 2, 3, 4, 5]


def test_npz_of_two_arrays_of_images(tmp_path, images):
    np.savez(tmp_path / "x.npz", images, images[:2])
    assert load_npz(tmp_path / "x.npz").target is None


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.arange(6.0), [0, 1, 2, 3, 4, 5]),
        (np.arange(6, dtype=np.uint64)[:, None], [0, 1, 2, 3, 4, 5]),
        (np.eye(6)[::-1], [5, 4, 3, 2, 1, 0]),
        (np.eye(6, dtype=bool), [0, 1, 2, 3, 4, 5]),
        (np.full(6, 2**63, np.uint64), None),
        (np.full(6, 2.0**63), None),
        (np.full(6, 0.5), None),
        (np.full(6, np.nan), None),
        (np.ones((6, 2)), None),
        (np.full((6, 2), np.nan), None),
        (np.zeros((2, 6)), None),
        (np.array(["a"] * 6), None),
        (np.zeros(6, bool), None),
        (np.zeros(5, int), None),
    ],
)
def test_npz_labels(tmp_path, images, labels, expected):
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    if expected is None:
        with pytest.raises(ValueError, match=r"labels 'labels' in '.*x\.npz' must be 6 int"):
            load_npz(tmp_path / "x.npz")
    else:
        data = load_npz(tmp_path / "x.npz")
        assert data.target.tolist() == expected
        assert data.target.dtype == np.int64


def test_npz_class_names(tmp_path, images):
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(6), classes=["a", "b"])
    with pytest.raises(ValueError, match="names 2 classes, and its labels range from 0 to 5"):
        load_npz(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", images=images, labels=np.ones(6, int), classes=[b"a", b"b"])
    assert load_npz(tmp_path / "x.npz").classes == ["a", "b"]
    np.savez(tmp_path / "x.npz", images=images, classes=[["a"], ["b"]])
    with pytest.raises(ValueError, match="class names must be a list of names"):
        load_npz(tmp_path / "x.npz")


# One kind of error


@pytest.mark.parametrize(
    "raised",
    [
        AttributeError("no such thing"),
        IndexError("list index"),
        KeyError("name"),
        MemoryError(),
        NotImplementedError("method 99"),
        OverflowError("too large"),
        RecursionError("too deep"),
        SystemError("tile cannot extend"),
        TypeError("a\nb"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "start byte"),
        zlib.error("Error -3"),
        struct.error("unpack requires"),
        zipfile.BadZipFile("bad magic"),
        OSError("broken data stream"),
        OSError(22, "Invalid argument"),
        ValueError("\udc80"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_failure_of_a_reader_is_one_sentence(raised):
    with (
        pytest.raises(ValueError, match=r"^'in' in 'x\.zip' is bad \(.+\); mend it\.$") as caught,
        reading("x.zip", "is bad", "mend it", member="in"),
    ):
        raise raised
    assert caught.value.__cause__ is raised
    str(caught.value).encode()


def test_failures_of_the_file_system_are_its_own(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space.*x\.zip") as caught,
        reading("x.zip", "is bad", "mend it"),
    ):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == "x.zip"
    for load in (load_edm_zip, load_npz):
        with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
            load(tmp_path / "missing.npz")
        with pytest.raises(IsADirectoryError, match=tmp_path.name):
            load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"labels": ' + b"[" * 100_000,
        b'{"labels": {"a.png": ' + b"9" * 5000 + b"}}",
        b'{"labels": [["a.png", 0], 3]}',
        b'{"labels": [[[], 0]]}',
        b'{"labels": 3}',
        b'"text"',
        b"\xff\xfe",
        b"{",
    ],
)
@pytest.mark.parametrize("name", ["dataset.json", "set/dataset.json"])
def test_hostile_tables(tmp_path, images, content, name):
    members = {"a.png": saved(picture_of(images[0])), name: content}
    with pytest.raises(ValueError, match=rf"'{name}' in '.*x\.zip' cannot be read \("):
        load_edm_zip(write_zip(tmp_path / "x.zip", members))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"3", b'{"sigmas": 1, "sizes": {}}', b"\xff"])
def test_hostile_schedules(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"s\.json' holds no schedule \("):
        read_schedule(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_of_unbounded_output(tmp_path, images, method):
    members = {"a.png": saved(picture_of(images[0]))}
    path = write_zip(tmp_path / "x.zip", members, method)
    with pytest.raises(
        ValueError, match=r"'a\.png' in .*its compression is not deflate, zip it with"
    ):
        load_edm_zip(path)
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 3, 4, 4), np.uint8))
    path = write_zip(tmp_path / "x.npz", {"images.npy": stream.getvalue()}, method)
    with pytest.raises(ValueError, match=r"'images\.npy' in .*its compression is not deflate"):
        load_npz(path)


# Sizes before bytes


def refused(load, path, message, **options):
    """Refuse a file at the cost of less than 64 MB."""
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as caught:
        load(path, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64e6
    assert str(path.name) in str(caught.value)


def write_zeros(path, name, before=b"", n_bytes=GIGABYTES):
    """A deflated member of very many zeros, written as they are in a PNG of 1.5 MB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w") as stream,
    ):
        stream.write(before)
        block = bytes(1 << 24)
        for _ in range(n_bytes >> 24):
            stream.write(block)
    return path


def test_an_image_with_gigabytes_behind_it(tmp_path, images):
    path = write_zeros(tmp_path / "x.zip", "a.png", saved(picture_of(images[0])))
    refused(load_edm_zip, path, r"'a\.png' in .* takes 1\.391 GiB, more than the 256 MiB that ")


def test_a_table_of_gigabytes(tmp_path, images):
    path = write_zeros(tmp_path / "x.zip", "dataset.json")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.png", saved(picture_of(images[0])))
    refused(load_edm_zip, path, r"'dataset\.json' in .* takes 1\.391 GiB, more than the 64 MiB")


def with_header(path, shape, content=b"", declared=None):
    """An npz whose header declares a shape."""
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return write_zip(path, {"images.npy": stream.getvalue() + content})


def test_an_npz_of_very_many_images(tmp_path):
    path = with_header(tmp_path / "x.npz", (20 << 30, 3, 32, 32))
    refused(load_npz, path, r"'images\.npy' in .* takes 60 TiB, more than the 8 GiB that max_bytes")
    path = with_header(tmp_path / "x.npz", (1 << 20, 3, 32, 32))
    refused(load_npz, path, "header declares 3221225472 bytes and 0 follow")
    path = with_header(tmp_path / "x.npz", (-1, 3, 32, 32))
    refused(load_npz, path, "negative")


@pytest.mark.parametrize(
    ("descr", "shape", "message"),
    [
        ("|V0", (3,), "holds no values"),  # numpy divides by its size
        ("<f8", (20 << 30, 3), "greater than file size"),
        ("<f8", (-1, 3), "negative"),
        ("|O", (3,), "Python objects"),
    ],
)
def test_hostile_headers_of_mapped_arrays(tmp_path, descr, shape, message):
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(100))
    refused(map_array, tmp_path / "x.npy", message, failure="is bad", remedy="mend it")


def test_declared_sizes_that_lie(tmp_path, images):
    """Sizes in the central directory, where zipfile takes them from."""
    content = saved(picture_of(images[0]))
    path = write_zip(tmp_path / "x.zip", {"a.png": content})
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")
    for compressed, plain in ((len(content), 10**8), (10**8, 10**8)):
        sizes = struct.pack("<II", compressed, plain)
        path.write_bytes(whole[: entry + 20] + sizes + whole[entry + 28 :])
        refused(load_edm_zip, path, r"'a\.png' in .*cannot become the 100000000 bytes")
    path = write_zeros(tmp_path / "y.zip", "a.png", content, n_bytes=1 << 30)
    whole = path.read_bytes()
    entry = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: entry + 24] + struct.pack("<I", 4096) + whole[entry + 28 :])
    refused(load_edm_zip, path, r"'a\.png' in .*CRC")


def test_sizes_that_are_asked_for(tmp_path, images):
    folder = write_files(tmp_path / "set", {"a.png": saved(picture_of(images[0]))})
    path = write_zip(tmp_path / "x.zip", {"a.png": saved(picture_of(images[0]))})
    message = r"'a\.png' in .*at size=1000000 takes 2\.728 TiB, more than the 256 MiB"
    refused(load_image_folder, folder, message, size=10**6)
    refused(load_edm_zip, path, message, size=10**6)
    write_files(folder, {f"{i}.png": saved(picture_of(images[i % 6])) for i in range(39)})
    message = r"\(40, 3, 100, 100\) for '.*set' takes 1\.144 MiB, .*fewer images \(max_images=\)"
    refused(load_image_folder, folder, message, size=100, max_bytes=10**6)
    data = load_image_folder(folder, size=100, max_bytes=10**6, max_images=30)
    assert data.images.shape == (30, 3, 100, 100)


def test_an_image_that_decodes_to_gigabytes(tmp_path):
    """A bomb of 20,000 x 20,000 pixels, in a few hundred kilobytes."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    small = saved(Image.new("RGB", (1, 1)))
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    content = small[:16] + header + crc + small[33:]
    refused(load_image_folder, write_files(tmp_path, {"a.png": content}), r"'a\.png' in .*")


def test_the_limit_is_a_parameter(tmp_path, images):
    members = {"a.png": saved(picture_of(images[0])) + bytes(10_000)}
    path = write_zip(tmp_path / "x.zip", members)
    folder = write_files(tmp_path / "set", members)
    np.savez(tmp_path / "x.npz", images=images)
    for load, source in ((load_edm_zip, path), (load_image_folder, folder)):
        refused(load, source, r"more than the 3\.125 KiB that max_bytes=102400", max_bytes=102_400)
        np.testing.assert_array_equal(load(source, max_bytes=10**6).images, images[:1])
    refused(load_npz, tmp_path / "x.npz", "takes 360 bytes, more than the 359", max_bytes=359)
    np.testing.assert_array_equal(load_npz(tmp_path / "x.npz", max_bytes=360).images, images)
    for load, source in ((load_edm_zip, path), (load_npz, tmp_path / "x.npz")):
        with pytest.raises((TypeError, ValueError), match="max_bytes"):
            load(source, max_bytes=0)


# Networks


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def other(**changes):
    weights = {name: value + 1 for name, value in network().state_dict().items()}
    return {**weights, **changes}


REFUSED = {
    "shape": (other(**{"1.bias": torch.ones(4)}), "size mismatch"),
    "missing": ({n: v for n, v in other().items() if n != "1.bias"}, "Missing key"),
    "more": (other(more=torch.ones(1)), "Unexpected key"),
    "int keys": (
        {i: v for i, v in enumerate(other().values())},
        r"not strings \(0\); use",
    ),
    "complex": (other(**{"1.bias": torch.ones(3) * 1j}), "'1.bias' .*complex64.*float32; convert"),
    "float counts": (other(**{"1.num_batches_tracked": torch.tensor(0.5)}), "float32.*int64"),
    "nan": (other(**{"1.bias": torch.tensor([0, torch.nan, 1])}), "'1.bias' .* NaN or infinite"),
    "nan buffer": (other(**{"1.running_var": torch.full((3,), torch.nan)}), "'1.running_var'"),
    "inf": (other(**{"0.weight": torch.full((3, 2), torch.inf)}), "'0.weight' .* NaN or infinite"),
    "overflow": (
        other(**{"0.weight": torch.full((3, 2), 1e39, dtype=torch.float64)}),
        "'0.weight' .* NaN or infinite as torch.float32",
    ),
    "sparse": (other(**{"0.weight": torch.ones(3, 2).to_sparse()}), "sparse, quantised"),
}


@pytest.mark.parametrize(
    ("case", "suffix"),
    [(case, "pt") for case in REFUSED]
    + [(case, "safetensors") for case in REFUSED if case not in ("int keys", "sparse")],
)
def test_a_refused_load_leaves_the_network_as_it_was(tmp_path, case, suffix):
    weights, message = REFUSED[case]
    if suffix == "safetensors":
        save_file(weights, tmp_path / "w.safetensors")
    else:
        torch.save(weights, tmp_path / "w.pt")
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        load_network(tmp_path / f"w.{suffix}", module)
    assert f"w.{suffix}'" in str(caught.value)
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_weights_of_another_precision_are_converted(tmp_path):
    weights = {n: v.double() if v.is_floating_point() else v for n, v in other().items()}
    torch.save(weights, tmp_path / "w.pt")
    loaded = load_network(tmp_path / "w.pt", network())
    torch.testing.assert_close(dict(loaded.state_dict()), other())


def test_networks_without_memory(tmp_path):
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    for module in (torch.nn.LazyLinear(3), torch.nn.Linear(2, 3, device="meta")):
        with pytest.raises(ValueError, match=r"without memory \(weight, bias\); call the network"):
            load_network(tmp_path / "w.pt", module)


def test_infinite_masks_are_no_fault(tmp_path):
    module = torch.nn.Linear(1, 1)
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    torch.save(module.state_dict(), tmp_path / "w.pt")
    assert load_network(tmp_path / "w.pt", module).mask.tolist() == [0.0, -torch.inf]


@pytest.mark.parametrize("content", [b"cno_such_module\nNetwork\n.", b"cskpspc\nNoNetwork\n."])
def test_code_that_is_not_there(tmp_path, content):
    (tmp_path / "edm.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"edm\.pkl' needs code that cannot be imported \(.*o"):
        load_network(tmp_path / "edm.pkl", trust=True)


def test_whole_modules_with_nan(tmp_path):
    module = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(module.weight, torch.nan)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(module))
    with pytest.raises(ValueError, match=r"'weight' in '.*m\.pkl' are NaN"):
        load_network(tmp_path / "m.pkl", trust=True)


def test_damaged_legacy_files(tmp_path):
    torch.save(other(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "w.pt").read_bytes()
    rng = np.random.default_rng(0)
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    n_refused = 0
    for _ in range(200):
        content = bytearray(whole)
        content[rng.integers(len(content))] = rng.integers(256)
        (tmp_path / "w.pt").write_bytes(content)
        try:
            load_network(tmp_path / "w.pt", module)
        except ValueError as error:
            assert "w.pt" in str(error)
            n_refused += 1
            assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
        else:
            module.load_state_dict(before)
            module.train()
    assert n_refused > 20


def test_networks_larger_than_the_limit(tmp_path):
    torch.save(other(), tmp_path / "w.pt")
    save_file(other(), tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        refused(load_network, tmp_path / name, "that max_bytes=100 allows", max_bytes=100)
    path = write_zeros(tmp_path / "bomb.pt", "archive/data/0", n_bytes=1 << 30)
    refused(load_network, path, "takes 1 GiB, more than the 512 MiB", max_bytes=1 << 29)


def test_weights_that_look_like_the_end_of_a_zip(tmp_path):
    """Zipfile looks for its signature in the last 64 KiB of any file."""
    weight = torch.frombuffer(bytearray(b"PK\x05\x06" + bytes(20)), dtype=torch.float32)
    save_file({"weight": weight[None]}, tmp_path / "w.safetensors")
    assert zipfile.is_zipfile(tmp_path / "w.safetensors")
    loaded = load_network(tmp_path / "w.safetensors", torch.nn.Linear(6, 1, bias=False))
    assert torch.equal(loaded.weight[0], weight)


def test_errors_about_objects_without_representation(tmp_path):
    """A damaged file may put a half-read object where a name belongs."""

    class Half:
        def __repr__(self):
            raise AttributeError("windows")

    with (
        pytest.raises(ValueError, match=r"cannot be read \(KeyError\); write it again"),
        reading(tmp_path / "a", "cannot be read", "write it again"),
    ):
        raise KeyError(Half())
