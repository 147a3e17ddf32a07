"""Options that the commands share, and errors as sentences."""

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
            except BrokenPipeError:  # nobody reads our output any more; click ends the process
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
    """Return a number other than NaN and infinity."""
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
    """Return a positive int, "paper", "calibrated" or the schedule in a file."""
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
    """Default of ``--max-bytes``, which the help shows without loading a library."""
    from .._input import MAX_BYTES

    return MAX_BYTES


def _together(*options):
    """Return one decorator that gives a command several options, in their order."""

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


data_options = _together(
    click.option(
        "--data",
        default="digits",
        show_default=True,
        metavar="SPEC",
        help="Training images: 'digits', 'photos', a .zip in EDM layout, a folder of images, or "
        "an .npz with the uint8 array 'images'.",
    ),
    click.option(
        "--max-images",
        type=click.IntRange(min=1),
        metavar="N",
        help="Use N of the images, evenly spaced over the data.",
    ),
    click.option(
        "--image-size",
        "size",
        type=click.IntRange(min=1),
        metavar="S",
        help="For a folder or a zip: crop each image to its centre square and resize it to S x S.",
    ),
    click.option(
        "--channels",
        type=click.Choice(["auto", "1", "3"]),
        default="auto",
        show_default=True,
        callback=checked_by(_n_channels),
        help="For a folder or a zip: convert all images to gray (1) or to colour (3).",
    ),
    click.option(
        "--max-bytes",
        type=click.IntRange(min=1),
        default=_max_bytes,
        metavar="N",
        help="Memory for the images, in bytes. One image may take 1/32 of it, encoded and "
        "decoded.  [default: 8 GiB]",
    ),
)

run_options = _together(
    click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, metavar="N"
    ),
    click.option(
        "--device", callback=checked_by(_torch_device), help="Torch device, such as cpu or cuda."
    ),
    click.option("--quiet", is_flag=True, help="Print errors and warnings only."),
)

shared_options = _together(
    data_options,
    click.option(
        "--denoiser",
        type=click.Choice(["empirical", "patch", "pspc"]),
        default="pspc",
        show_default=True,
        help="The optimal denoiser, the optimal denoiser of the central patch, or the composite "
        "of all square patches.",
    ),
    click.option(
        "--patch-size",
        callback=checked_by(_patch_size),
        metavar="SIZE",
        help="Side of the patches; for pspc also a size for each sigma: 'paper', 'calibrated' on "
        "held-out images of the data, or a .json file of `skpspc calibrate`.  [default: paper for "
        "pspc, 8 for patch]",
    ),
    run_options,
    click.option(
        "--out",
        required=True,
        callback=checked_by(check_output),
        metavar="PATH",
        help="A picture (.png), the array (.npy), or the arrays with their settings (.npz).",
    ),
)
