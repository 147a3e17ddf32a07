"""Options that several commands take, and errors as sentences."""

import functools
import math
import warnings

import click

from .._output import check_output
from ._schedule_file import read_schedule


def in_sentences(command):
    """Print errors and warnings of a command as sentences on stderr."""

    def show(message, category, filename, lineno, file=None, line=None):
        click.echo(f"Warning: {message}", err=True)

    @functools.wraps(command)
    def run(**options):
        with warnings.catch_warnings():
            warnings.showwarning = show
            try:
                command(**options)
            except BrokenPipeError:  # the reader of the output is gone; click ends the process
                raise
            except (OSError, ValueError, MemoryError) as error:
                raise click.ClickException(_sentence(error)) from error

    return run


def checked_by(check):
    """Return an option's callback that applies ``check`` to a value other than None."""

    def callback(_context, _parameter, value):
        try:
            return None if value is None else check(value)
        except (OSError, ValueError) as error:
            raise click.BadParameter(_sentence(error)) from error

    return callback


def _sentence(error):
    """Return the message of an error, without the number of an `OSError`."""
    named = isinstance(error, OSError) and error.filename
    return f"'{error.filename}': {error.strerror}" if named else str(error)


def finite(value):
    """Return a number; raise if it is NaN or infinite."""
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {value}")
    return value


def _torch_device(name):
    from .._validation import check_device

    check_device(name, None)
    return name


def _n_channels(value):
    return value if value == "auto" else int(value)


def _patch_size(value):
    """Return a positive int, "paper", "calibrated" or the schedule of a .json file."""
    if value in ("paper", "calibrated"):
        return value
    if value.lower().endswith(".json"):
        return read_schedule(value)
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(
            f"must be a positive integer, 'paper', 'calibrated' or a .json file, got {value!r}"
        )
    return int(value)


def _max_bytes():
    """Return the default of ``--max-bytes``; the help shows it without this import."""
    from .._input import MAX_BYTES

    return MAX_BYTES


def _together(*options):
    """Return one decorator that adds several options to a command, in their order."""

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


out_option = click.option(
    "--out",
    required=True,
    callback=checked_by(check_output),
    metavar="PATH",
    help="File to write: a picture (.png), the images as an array (.npy), or all arrays with "
    "their settings (.npz).",
)

data_option = click.option(
    "--data",
    default="digits",
    show_default=True,
    metavar="SPEC",
    help="Training images: a folder, a .zip in EDM layout, an .npz with the uint8 array 'images', "
    "or the built-in 'digits' (8 x 8, gray) or 'photos' (32 x 32 crops of photographs, colour).",
)

denoiser_options = _together(
    click.option(
        "--denoiser",
        type=click.Choice(["empirical", "patch", "pspc"]),
        metavar="NAME",
        default="pspc",
        show_default=True,
        help="'pspc' combines all square patches and generates new images; 'empirical' compares "
        "whole images and generates copies of training images; 'patch' denoises the central "
        "patch alone.",
    ),
    click.option(
        "--patch-size",
        callback=checked_by(_patch_size),
        metavar="SIZE",
        help="Side of the patches in pixels. For pspc also a size for each noise level: 'paper', "
        "the published sizes scaled to the images; 'calibrated', chosen on held-out images of "
        "--data; or the .json file of `skpspc calibrate`.  [default: paper for pspc, 8 for patch]",
    ),
)

selection_options = _together(
    click.option(
        "--image-size",
        "size",
        type=click.IntRange(min=1),
        metavar="S",
        help="Crop each image of a folder or zip to its centre square and resize it to S x S.",
    ),
    click.option(
        "--channels",
        type=click.Choice(["auto", "1", "3"]),
        default="auto",
        show_default=True,
        callback=checked_by(_n_channels),
        help="Convert all images of a folder or zip to gray (1) or to colour (3).",
    ),
    click.option(
        "--max-images",
        type=click.IntRange(min=1),
        metavar="N",
        help="Use N training images, evenly spaced over the data.",
    ),
)

seed_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of all random numbers; equal seeds give equal results.",
)

machine_options = _together(
    click.option(
        "--device",
        callback=checked_by(_torch_device),
        metavar="NAME",
        help="Torch device, such as cpu or cuda.  [default: cpu]",
    ),
    click.option(
        "--max-bytes",
        type=click.IntRange(min=1),
        default=_max_bytes,
        metavar="N",
        help="Largest memory for the training images, in bytes; one image may take 1/32 of it.  "
        "[default: 8 GiB]",
    ),
    click.option("--quiet", is_flag=True, help="Print errors and warnings only."),
)
