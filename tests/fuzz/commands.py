"""Random commands of the command line, in a folder of small data."""

import io
import os
import shutil

import click
import numpy as np
from click.testing import CliRunner

from skpspc.cli._commands import commands
from skpspc.cli._denoiser_options import ParameterOption
from skpspc.cli._parameters import denoisers

_WORDS = [
    "",
    "0",
    "1",
    "2",
    "3",
    "5",
    "-1",
    "0.5",
    "1e-3",
    "1e400",
    "nan",
    "inf",
    "-0.0",
    "x",
    "auto",
]
_WORDS += ["1_0", "0x1", "٣", "ä", "\n", "a" * 300, "1,2", "0.1,1", "2,1", "1,,2", "-", "--", "a=b"]
_WORDS += [
    "data.npz",
    "folder",
    "schedule.json",
    "z.npy",
    "z.png",
    "none.png",
    ".",
    "..",
    "/",
    "%s",
]
_LARGE = ["255", "65536", "2147483648", "18446744073709551616", "1" * 400]
# A large number of these is a long computation, and no fault.
_COUNTS = {"n", "n_steps", "n_draws", "n_images", "image_size", "n_sizes"}
# Commands without --data read few small images, not the digits.
_SMALL = {f"SKPSPC_{name.upper()}_DATA": "data.npz" for name in commands.commands}
_GOOD = {
    "data": ["data.npz", "data.npz", "folder", "none.npz"],
    "out": ["out.png", "out.npy", "out.npz", "out.json", "out.csv", "-", "none/out.png", "z.npy"],
    "table": ["table.csv", "out.csv", "table.png"],
    "z": ["z.npy", "z.png", "folder", "-"],
    "sigma": ["0.5", "0", "1e-3", "80"],
    "pixel": ["1,2", "0,0", "9,9"],
    "label": ["0", "1", "7"],
    "device": ["cpu", "cuda:99", "meta", "mps", "cpu:0"],
    "max_bytes": ["1000", "1000000"],
    "inner": ["empirical", "gaussian", "patch"],
}


class Commands:
    """Commands to run, and the small files that they read.

    Parameters
    ----------
    files : Files
        Whole files.
    """

    def __init__(self, files):
        rng = np.random.default_rng(2)
        images = rng.integers(0, 256, (12, 1, 5, 4), dtype=np.uint8)
        pictures = [content for suffix, content in files.images if suffix == "png"]
        self.contents = {
            "data.npz": _stored(np.savez, images=images, labels=np.arange(12) % 2),
            "z.npy": _stored(np.save, rng.standard_normal((2, 1, 5, 4)).astype(np.float32)),
            "schedule.json": b'{"sigmas": [0.1, 1.0], "sizes": [1, 3]}',
            "z.png": pictures[1],
            "folder/0.png": pictures[0],
            "folder/1.png": pictures[0],
        }
        self.options = {}
        for name, command in commands.commands.items():
            with click.Context(command, info_name=name) as context:
                self.options[name] = command.get_params(context)

    def random(self, rng):
        """Return the arguments of a command, a list of str, and bytes for standard input."""
        name = str(rng.choice(list(self.options)))
        denoiser = str(rng.choice(list(denoisers())))
        takes = denoisers()[denoiser].parameters
        options = {
            option.name: option
            for option in self.options[name]
            if not isinstance(option, ParameterOption)
            or option.name in takes
            or rng.random() < 0.02
        }
        chosen = list(rng.choice(list(options), int(rng.integers(0, 5))))
        if name == "calibrate" and "n_images" not in chosen:
            chosen.append("n_images")
        for needed, probability in (("out", 0.97), ("sigma", 0.95), ("n_steps", 0.9)):
            if needed in options and needed not in chosen and rng.random() < probability:
                chosen.append(needed)
        pieces = [
            self._given(rng, name, options[each]) for each in rng.permutation(chosen).tolist()
        ]
        arguments = [name, *(piece for given in pieces for piece in given)]
        if "denoiser" in options and "denoiser" not in chosen:
            arguments += ["--denoiser", denoiser]
            if denoisers()[denoiser].inner and "inner" not in chosen:
                arguments += ["--inner", str(rng.choice(_GOOD["inner"]))]
        if rng.random() < 0.05:
            arguments.insert(int(rng.integers(len(arguments) + 1)), str(rng.choice(_WORDS)))
        if rng.random() < 0.03:
            del arguments[int(rng.integers(len(arguments)))]
        piped = [b"", b"junk", self.contents["z.npy"], self.contents["z.png"]]
        return arguments, piped[int(rng.integers(len(piped)))]

    def _given(self, rng, command, option):
        flag = str(rng.choice([*option.opts, *option.secondary_opts]))
        if option.is_flag:
            return [flag]
        if option.name in ("n_steps", "n_images") and rng.random() < 0.8:
            return [flag, "2"]
        if option.name == "out" and rng.random() < 0.6:
            return [flag, {"calibrate": "out.json", "attribute": "out.csv"}.get(command, "out.npz")]
        words = _WORDS
        if option.name in _GOOD and rng.random() < 0.85:
            words = _GOOD[option.name]
        elif isinstance(option.type, click.Choice) and rng.random() < 0.8:
            words = option.type.choices
        elif isinstance(option, ParameterOption) and rng.random() < 0.6:
            words = [
                "1",
                "2",
                "0.5",
                "auto",
                "data",
                "calibrated",
                "zero",
                "exact",
                "schedule.json",
            ]
        elif option.name == "denoiser" and rng.random() < 0.9:
            words = ["empirical", "gaussian", "patch", "local-score", "pca-locality", "smoothed"]
            words += ["blended", "collection", "single-image", "network", "auto"]
        elif option.name not in _COUNTS and rng.random() < 0.3:
            words = _LARGE
        value = str(words[int(rng.integers(len(words)))])
        return [f"{flag}={value}"] if rng.random() < 0.2 else [flag, value]

    def run(self, path, arguments, piped):
        """Run a command beside ``path``; raise ValueError if it refuses its arguments."""
        folder = path.parent / "command"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "folder").mkdir(parents=True)
        for name, content in self.contents.items():
            (folder / name).write_bytes(content)
        before = os.getcwd()
        os.chdir(folder)
        try:
            result = CliRunner(env=_SMALL).invoke(commands, arguments, input=piped)
        finally:
            os.chdir(before)
        ended = result.exception is None or isinstance(result.exception, SystemExit)
        assert ended, f"{arguments}: {result.exception!r}"
        assert result.exit_code in (0, 1, 2), f"{arguments}: status {result.exit_code}"
        assert "Traceback" not in result.output, f"{arguments}: a traceback"
        outputs = _outputs(arguments) if result.exit_code == 0 else set()
        for name, content in self.contents.items():
            kept = name in outputs or (folder / name).read_bytes() == content
            assert kept, f"{arguments}: changed {name}"
        left = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        stray = left - set(self.contents) - outputs
        assert not stray, f"{arguments}: left {stray}"
        if result.exit_code:
            *_, sentence = result.stderr.partition("Error: ")
            assert sentence.strip(), f"{arguments}: says {result.stderr}"
            raise ValueError(f"{path.name}: {sentence}")


def _outputs(arguments):
    """Names that the arguments may give to output files."""
    return {each.partition("=")[2] if each.startswith("-") else each for each in arguments}


def _stored(write, *arrays, **named):
    stream = io.BytesIO()
    write(stream, *arrays, **named)
    return stream.getvalue()
