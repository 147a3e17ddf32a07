"""Damage small files in many ways and load them: nothing but ValueError or OSError may come out.

Commands of the command line with random options are inputs, too: each must end with status 0, 1 or
2, a sentence instead of a traceback, no file but its output, and unchanged data.

From the root of the repository::

    python -m tests.fuzz.files --count 120000 --seconds 3600 --seed 0

loads at most so many mutants for at most so many seconds and exits with status 1 if a loader

- raised anything but `ValueError` or `OSError`, or an error that does not name the file,
- changed a network that it refused to fill,
- ended a command in another way than the one above,
- or let the memory of the process (peak resident set) grow by more than ``GROWTH`` bytes.

Mutant i of a seed is always the same: ``--start i --count 1 --keep FOLDER`` makes it again and
leaves its file in a folder.
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import json
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load as read_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import save

from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    PatchDenoiser,
    PatchSchedule,
    PSPCDenoiser,
    __version__,
    load_network,
)
from skpspc import load as load_denoiser
from skpspc._input import load_arrays, map_array
from skpspc.cli._schedule_file import read_schedule
from skpspc.cli._state import _checksum, keeping_state, read_state, write_state
from skpspc.datasets import load_edm_zip, load_image_folder, load_npz
from skpspc.sampling import SAMPLERS
from skpspc.saving import file as saving
from tests.fuzz.commands import Commands

MAX_BYTES = 2**26
"""Given to the loaders: 64 MiB, so 2 MiB for an image and 512 KiB for JSON."""
GROWTH = 2**28
"""Most bytes by which the peak resident set may grow over all mutants."""
_SECONDS = 120  # a mutant that takes longer ends the run with a traceback

_FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "bmp": "BMP",
    "gif": "GIF",
    "tif": "TIFF",
    "webp": "WEBP",
    "ppm": "PPM",
    "tga": "TGA",
}
_NUMBERS = [0, 1, 2, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]
_VALUES = [
    None,
    True,
    -1,
    0.5,
    3.0,
    1e308,
    10**30,
    "",
    "x\0y",
    "\udc80",
    "a" * 3000,
    [],
    {},
    [1, 0],
    [[]],
    {"labels": []},
    float("nan"),
    float("inf"),
]
_NAMES = ["", ".", "..", "../a.png", "/a.png", "a\\b.png", "a" * 300 + ".png", "ä.png", "a\n.png"]
_NAMES += ["dataset.json", "b/dataset.json", "images.npy", "arr_1.npy", "x", "a.gif", "__MACOSX/a"]


# Files to begin with


def _picture(rng, mode):
    shape = {"RGB": (9, 7, 3), "L": (9, 7), "RGBA": (9, 7, 4)}[mode]
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def _encoded(picture, format, **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def _zipped(members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()


def _array(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))


def _saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


SETTINGS = {"n": 2, "n_steps": 4, "seed": 5, "images": "abc"}


def _written(write):
    """Contents of the files that a function writes to a folder."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return [path.read_bytes() for path in sorted(Path(folder).iterdir())]


class Files:
    """Whole files, from which mutants are made."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.images = [
            (suffix, _encoded(_picture(rng, mode), format))
            for suffix, format in _FORMATS.items()
            for mode in ("RGB", "L")
            if not (format == "WEBP" and mode == "L")
        ]
        exif = Image.Exif()
        exif[0x0112] = 6
        picture, gray = _picture(rng, "RGB"), _picture(rng, "L")
        self.images += [
            ("png", _encoded(picture, "PNG", exif=exif)),
            ("jpg", _encoded(picture, "JPEG", exif=exif, progressive=True)),
            ("png", _encoded(_picture(rng, "RGBA"), "PNG")),
            ("png", _encoded(picture.quantize(9), "PNG", transparency=1)),
            ("gif", _encoded(gray, "GIF", save_all=True, append_images=[gray.rotate(180)])),
            ("tif", _encoded(picture, "TIFF", compression="tiff_lzw")),
            ("tif", _encoded(gray, "TIFF", compression="tiff_deflate")),
            ("tif", _encoded(gray.convert("1"), "TIFF", compression="group4")),
            ("jpg", _encoded(picture, "MPO", save_all=True, append_images=[picture])),
            ("webp", _encoded(picture, "WEBP", lossless=True)),
            ("ppm", b"P3 2 1 255\n1 2 3 4 5 6"),
        ]
        names = [f"0000{i}/img{i}.png" for i in range(3)]
        pictures = [_encoded(_picture(rng, "RGB"), "PNG") for _ in names]
        self.table = {"labels": [[name, i] for i, name in enumerate(names)], "classes": list("abc")}
        members = [*zip(names, pictures, strict=True), ("dataset.json", json.dumps(self.table))]
        self.archives = [[(n, c if isinstance(c, bytes) else c.encode()) for n, c in members]]
        self.archives.append([*self.archives[0], ("README.txt", b"hello")])
        images = rng.integers(0, 256, (3, 1, 5, 4), dtype=np.uint8)
        self.arrays = [
            [("images.npy", _array(images)), ("labels.npy", _array(np.arange(3)))],
            [("arr_0.npy", _array(images)), ("arr_1.npy", _array(np.eye(3)))],
            [("x_train.npy", _array(images)), ("classes.npy", _array(np.array(["a", "b"])))],
        ]
        self.maps = [
            _array(rng.random((1, 2, 3, 2, 3))),
            _array(np.zeros((2, 3), ">f4", order="F")),
        ]
        self.schedule = {"sigmas": [0.1, 1.0], "sizes": [3, 7], "data": "digits"}
        weights = dict(_network().state_dict())
        self.networks = [
            ("safetensors", save(weights)),
            ("pt", _saved(weights)),
            ("pt", _saved({"ema": weights, "step": 3})),
            ("pth", _saved(weights, _use_new_zipfile_serialization=False)),
        ]
        self.noisy = rng.standard_normal((2, 1, 3, 3)).astype(np.float32)
        self.training_images = rng.integers(0, 256, (8, 1, 4, 3), dtype=np.uint8)
        self.states = _written(self._write_states)
        self.denoisers = _written(self._write_denoisers)
        self.commands = Commands(self)

    def _write_states(self, folder):
        write_state(folder / "a", self.noisy, 3, SETTINGS, (1.5, self.noisy))
        write_state(folder / "b", self.noisy, 1, SETTINGS)

    def _write_denoisers(self, folder):
        X = self.training_images
        members = [("a", EmpiricalDenoiser()), ("b", GaussianDenoiser(2))]
        for number, denoiser in enumerate(
            [
                PSPCDenoiser(PatchSchedule([0.1, 1.0], [1, 3]), bandwidth=0.3),
                PatchDenoiser(2, location="all", n_neighbors=3),
                BlendedDenoiser(members, sigmas=[0.2, 1.0], n_images=2),
            ]
        ):
            y = None if number == 2 else np.arange(8) % 2
            denoiser.fit(X, y).save(folder / f"{number}.safetensors")
        denoiser = EmpiricalDenoiser().fit(X, np.arange(8) % 2, sample_weight=np.arange(8))
        denoiser.save(folder / "3.safetensors", include_data=False)


# Damage


def _block(rng, content):
    start, stop = np.sort(rng.integers(0, len(content) + 1, 2))
    return slice(int(start), int(min(stop, start + 64)))


def damaged(rng, content, other=b""):
    """Bytes after one to four random edits, a few of them by bytes of another file."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not content:
            break
        at = int(rng.integers(len(content)))
        match int(rng.integers(8)):
            case 0:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                content[at] = int(rng.integers(256))
            case 2:
                del content[at:]
            case 3:
                del content[_block(rng, content)]
            case 4:
                content[at:at] = content[_block(rng, content)] * int(rng.integers(1, 4))
            case 5:
                content[at:at] = other[_block(rng, other)]
            case 6:  # a length, an offset or a count
                number = int(rng.choice(_NUMBERS[:-1])) + int(rng.integers(-2, 3))
                size, letter = ((2, "H"), (4, "I"), (8, "Q"))[int(rng.integers(3))]
                order = "<>"[int(rng.integers(2))]
                content[at : at + size] = struct.pack(order + letter, number % 256**size)
            case 7:
                content += bytes(int(rng.integers(1, 4000)))
    return bytes(content)


def _with_checksums(content):
    """A PNG with the checksum of every chunk put right, so that more than checksums is read."""
    content, at = bytearray(content), 8
    while at + 12 <= len(content):
        stop = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if stop + 4 > len(content):
            break
        content[stop : stop + 4] = struct.pack(">I", zlib.crc32(content[at + 4 : stop]))
        at = stop + 4
    return bytes(content)


def edited(rng, value):
    """A JSON value with a random part replaced, removed, repeated or nested."""
    if isinstance(value, (list, dict)) and value and rng.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[int(rng.integers(len(keys)))]
        copy = value.copy()
        if rng.random() < 0.1:
            del copy[key]
        elif isinstance(copy, list) and rng.random() < 0.1:
            copy.append(copy[key])
        else:
            copy[key] = edited(rng, value[key])
        return copy
    if rng.random() < 0.05:
        for _ in range(int(rng.choice([3, 200]))):
            value = [value]
        return value
    return _VALUES[int(rng.integers(len(_VALUES)))]


def _text(rng, value):
    text = json.dumps(edited(rng, value)).encode()
    match int(rng.integers(12)):
        case 0:
            return b"[" * int(rng.choice([10, 100_000])) + text
        case 1:
            return text + b" " * int(rng.choice([10, 10**6]))
        case 2:
            return damaged(rng, text, text)
    return text


def _repacked(rng, members, change):
    """An archive with one member changed, renamed, removed or repeated."""
    members = list(members)
    at = int(rng.integers(len(members)))
    name, content = members[at]
    match int(rng.integers(8)):
        case 0:
            members[at] = _NAMES[int(rng.integers(len(_NAMES)))], content
        case 1:
            del members[at]
        case 2:
            members.append(members[at])
        case 3:
            members.append((_NAMES[int(rng.integers(len(_NAMES)))], content))
        case _:
            members[at] = name, change(name, content)
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    method = rng.choice(methods, p=[0.45, 0.45, 0.05, 0.05])
    packed = _zipped(members, int(method))
    return damaged(rng, packed, packed) if rng.random() < 0.2 else packed


def _header(rng, content):
    """An npy file with another header."""
    shapes = [
        "(3, 1, 5, 4)",
        f"({20 << 30}, 3, 32, 32)",
        "(-1,)",
        "(0,)",
        "()",
        "(3",
        "3",
        "(" * 99,
    ]
    descrs = ["'|u1'", "'|O'", "'<f8'", "'|V0'", "'>U1000000'", "[('a', '<i4')]", "'M8[s]'", "1"]
    fields = [
        f"'descr': {rng.choice(descrs)}",
        f"'fortran_order': {rng.choice(['False', 'True', '3', 'None'])}",
        f"'shape': {rng.choice(shapes)}",
    ]
    text = "{" + ", ".join(fields[: int(rng.choice([2, 3, 3, 3]))]) + ", }\n"
    version = bytes([int(rng.choice([1, 2, 3, 9])), 0])
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + length + text.encode() + content[128:]


# Mutants of each kind: the name of a file, its bytes, and what loads it


def _image(files, rng):
    suffix, content = files.images[int(rng.integers(len(files.images)))]
    _, other = files.images[int(rng.integers(len(files.images)))]
    options = {"size": [None, 3][int(rng.integers(2))]}
    options["channels"] = ["auto", 1, 3][int(rng.integers(3))]
    mutant = damaged(rng, content, other)
    if suffix == "png" and rng.random() < 0.7:
        mutant = _with_checksums(mutant)
    return f"folder/a.{suffix}", mutant, (load_image_folder, options)


def _archive(files, rng):
    members = files.archives[int(rng.integers(len(files.archives)))]
    if rng.random() < 0.4:
        method = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        content = _zipped(members, method)
        return "x.zip", damaged(rng, content, content), (load_edm_zip, {})

    def change(name, content):
        if name == "dataset.json":
            return _text(rng, files.table)
        mutant = damaged(rng, content, content)
        return _with_checksums(mutant) if rng.random() < 0.7 else mutant

    return "x.zip", _repacked(rng, members, change), (load_edm_zip, {})


def _table(files, rng):
    members = files.archives[0][:-1]
    name = ["dataset.json", "00000/dataset.json"][int(rng.integers(2))]
    content = _zipped([*members, (name, _text(rng, files.table))])
    return "x.zip", content, (load_edm_zip, {})


def _npz(files, rng):
    members = files.arrays[int(rng.integers(len(files.arrays)))]
    load = [(load_npz, {}), (load_arrays, None)][int(rng.random() < 0.2)]
    if rng.random() < 0.4:
        method = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        content = _zipped(members, method)
        return "x.npz", damaged(rng, content, content), load

    def change(name, content):
        return _header(rng, content) if rng.random() < 0.4 else damaged(rng, content, content)

    return "x.npz", _repacked(rng, members, change), load


def _npy(files, rng):
    content = files.maps[int(rng.integers(len(files.maps)))]
    content = _header(rng, content) if rng.random() < 0.3 else damaged(rng, content, content)
    return "x.npy", content, (map_array, None)


def _schedule(files, rng):
    return "x.json", _text(rng, files.schedule), (read_schedule, None)


def _checkpoint(files, rng):
    suffix, content = files.networks[int(rng.integers(len(files.networks)))]
    _, other = files.networks[int(rng.integers(len(files.networks)))]
    if suffix == "safetensors" and rng.random() < 0.5:
        length = int.from_bytes(content[:8], "little")
        header = _text(rng, json.loads(content[8 : 8 + length]))
        content = len(header).to_bytes(8, "little") + header + content[8 + length :]
    elif suffix == "pt" and rng.random() < 0.6:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
        content = _repacked(rng, members, lambda _, inner: damaged(rng, inner, inner))
    else:
        content = damaged(rng, content, other)
    return f"w.{suffix}", content, (load_network, None)


def _resealed(rng, content, checksum):
    """A file of safetensors with another JSON text or other arrays, and the right checksum."""
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    arrays = read_arrays(content)
    if rng.random() < 0.8:
        metadata["state"] = json.dumps(edited(rng, json.loads(metadata["state"])))
    else:
        name = str(rng.choice(sorted(arrays)))  # safetensors gives them in any order
        arrays[name] = _another(rng, arrays[name])
    metadata["sha256"] = checksum(metadata["state"], arrays)
    return save_arrays(arrays, metadata)


def _another(rng, array):
    """An array of another shape, dtype or value."""
    match int(rng.integers(5)):
        case 0:
            return array[..., :1].copy()
        case 1:
            return array.reshape(-1)
        case 2:
            return array.astype(rng.choice(["u1", "i8", "f4", "f8"]))
        case 3:
            return np.full_like(
                array, rng.choice([np.nan, np.inf, 1e30, -1, 0]).astype(array.dtype)
            )
    return np.concatenate([array, array])


def _state(files, rng):
    content = files.states[int(rng.integers(len(files.states)))]
    if rng.random() < 0.3:
        content = damaged(rng, content, content)
    else:
        content = _resealed(rng, content, _checksum)
    return "x.npz.partial", content, (resume, {"noisy": files.noisy})


def _denoiser_checksum(text, arrays):
    return saving._checksum(__version__, text, arrays.items())


def _denoiser(files, rng):
    number = int(rng.integers(len(files.denoisers)))
    content, X = files.denoisers[number], files.training_images if number == 3 else None
    if rng.random() < 0.2:
        content = damaged(rng, content, content)
    else:
        content = _resealed(rng, content, _denoiser_checksum)
    return "x.safetensors", content, (load_denoiser, {"X": X})


def _command(files, rng):
    arguments, piped = files.commands.random(rng)
    content = json.dumps(arguments).encode(errors="surrogateescape")
    return "arguments.json", content, (files.commands.run, {"arguments": arguments, "piped": piped})


def resume(path, noisy):
    """Continue a run of a sampler from its state, as the command ``sample`` does."""
    start = read_state(path, SETTINGS)
    steps = keeping_state(SAMPLERS["dpmpp_2m"], path, SETTINGS, start)
    levels = [4.0, 2.0, 1.0, 0.5]
    reached = list(steps(lambda z, sigma: z / 2, torch.from_numpy(noisy), levels, noise=None))
    assert len(reached) == 4
    assert all(z.shape == noisy.shape for z in reached)


KINDS = {
    "image": (_image, 0.25),
    "zip": (_archive, 0.15),
    "labels": (_table, 0.08),
    "npz": (_npz, 0.13),
    "npy": (_npy, 0.05),
    "schedule": (_schedule, 0.05),
    "checkpoint": (_checkpoint, 0.15),
    "state": (_state, 0.06),
    "denoiser": (_denoiser, 0.06),
    "command": (_command, 0.02),
}


# The run


@dataclass
class Report:
    """Counts of a run.

    Attributes
    ----------
    loaded, refused : Counter
        By kind.
    errors : Counter
        By the exception that a reader raised.
    faults : list of str
        Broken promises.
    growth : int
        Of the peak resident set, bytes.
    slowest : tuple of (seconds, mutant)
    """

    loaded: collections.Counter = field(default_factory=collections.Counter)
    refused: collections.Counter = field(default_factory=collections.Counter)
    errors: collections.Counter = field(default_factory=collections.Counter)
    faults: list = field(default_factory=list)
    growth: int = 0
    slowest: tuple = (0.0, -1)

    def __str__(self):
        lines = [f"{'kind':12s} {'mutants':>8s} {'loaded':>8s} {'refused':>8s}"]
        for kind in KINDS:
            loaded, refused = self.loaded[kind], self.refused[kind]
            lines.append(f"{kind:12s} {loaded + refused:8d} {loaded:8d} {refused:8d}")
        loaded, refused = self.loaded.total(), self.refused.total()
        lines.append(f"{'all':12s} {loaded + refused:8d} {loaded:8d} {refused:8d}")
        lines.append(f"readers raised: {dict(self.errors.most_common())}")
        lines.append(f"peak resident set grew by {self.growth / 2**20:.0f} MiB")
        lines.append(f"slowest: mutant {self.slowest[1]}, {self.slowest[0]:.2f} s")
        lines.append(f"{len(self.faults)} faults")
        return "\n".join([*lines, *self.faults[:50]])


def _peak():
    """Peak resident set, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _loaded(load, options, path):
    """Load a file; a network that refuses it must not change."""
    if load is load_network:
        network = _network()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        try:
            load(path, network, max_bytes=MAX_BYTES)
        except Exception:
            after = network.state_dict()
            assert all(torch.equal(after[name], value) for name, value in before.items())
            raise
    elif load is resume or isinstance(getattr(load, "__self__", None), Commands):
        load(path, **options)
    elif load is load_denoiser:
        denoiser = load(path, **options, max_bytes=MAX_BYTES)
        with contextlib.suppress(Exception):  # its parameters may contradict each other
            denoiser.denoise(np.zeros((1, 1, 4, 3), np.float32), 0.4)
    elif options is not None:
        load(path, **options, max_bytes=MAX_BYTES)
    elif load is load_arrays:
        load(path, "is bad", "mend it", max_bytes=MAX_BYTES)
    elif load is map_array:
        load(path, "is bad", "mend it")
    else:
        load(path)


def run(count, seconds, seed, *, start=0, folder=None):
    """Load mutants ``start`` to ``start + count`` of a seed, for at most so many seconds.

    Returns
    -------
    Report
    """
    files, report = Files(), Report()
    kinds, shares = list(KINDS), [share for _, share in KINDS.values()]
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(temporary if folder is None else folder)
        (folder / "folder").mkdir(parents=True, exist_ok=True)
        baseline = None
        for i in range(start, start + count):
            if time.monotonic() > end:
                break
            rng = np.random.default_rng([seed, i])
            kind = str(rng.choice(kinds, p=shares))
            name, content, (load, options) = KINDS[kind][0](files, rng)
            path = folder / name
            path.write_bytes(content)
            begin = time.monotonic()
            if faulthandler.is_enabled():
                faulthandler.dump_traceback_later(_SECONDS, exit=True)
            try:
                _loaded(load, options, path.parent if kind == "image" else path)
                report.loaded[kind] += 1
            except (ValueError, OSError) as error:
                report.refused[kind] += 1
                cause = error.__cause__
                report.errors[type(error if cause is None else cause).__name__] += 1
                if path.name not in str(error) and path.parent.name not in str(error):
                    report.faults.append(f"{kind} {i}: names no file: {error}")
            except BaseException as error:
                report.faults.append(f"{kind} {i}: {type(error).__name__}: {error}")
                if isinstance(error, KeyboardInterrupt):
                    break
            faulthandler.cancel_dump_traceback_later()
            report.slowest = max(report.slowest, (time.monotonic() - begin, i))
            if kind == "image":
                path.unlink()  # the loader reads all that is in the folder
            # readers load code when they are first used
            if i - start == min(200, count // 2):
                baseline = _peak()
            if baseline is not None and _peak() - baseline > max(GROWTH, report.growth):
                report.faults.append(f"{kind} {i}: memory grew by {_peak() - baseline} bytes")
            report.growth = 0 if baseline is None else _peak() - baseline
    return report


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="at most so many mutants")
    parser.add_argument("--seconds", type=float, default=60.0, help="for at most so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--keep", help="write the mutants to this folder, each over the last one")
    given = parser.parse_args()
    faulthandler.enable()
    report = run(given.count, given.seconds, given.seed, start=given.start, folder=given.keep)
    print(report)
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
