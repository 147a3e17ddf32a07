"""What the commands share: their options, and errors as sentences."""

import functools
import math
import warnings

import click

from ._limits import MAX_BYTES
from ._output import check_output
from ._schedule_file import read_schedule


def in_sentences(command):
    """Run a command with its errors and warnings as sentences on stderr."""

    def show(message, category, filename, lineno, file=None, line=None):
        click.echo(f"Warning: {message}", err=True)

    @functools.wraps(command)
    def run(**options):
        with warnings.catch_warnings():
            warnings.showwarning = show
            try:
                command(**options)
            except BrokenPipeError:  # the reader of our output has gone; click knows what to do
                raise
            except OSError as error:
                told = f"'{error.filename}': {error.strerror}" if error.filename else str(error)
                raise click.ClickException(told) from error
            except (ValueError, MemoryError) as error:
                raise click.ClickException(str(error)) from error

    return run


def _check_out(_context, _parameter, value):
    try:
        return check_output(value)
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error)) from error


def _check_device(_context, _parameter, value):
    if value is None:
        return None
    from ._validation import check_device

    try:
        check_device(value, None)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def _check_channels(_context, _parameter, value):
    return value if value == "auto" else int(value)


def check_finite(_context, _parameter, value):
    """Refuse NaN and infinity, as an option's callback."""
    if not math.isfinite(value):
        raise click.BadParameter(f"must be a finite number, got {value}")
    return value


def check_held_out(n, images):
    """Refuse to hold all images out."""
    if n >= len(images):
        raise ValueError(
            f"taking {n} of {len(images)} images out leaves none to train on; lower -n."
        )


class _PatchSize(click.ParamType):
    name = "size"

    def convert(self, value, param, ctx):
        if not isinstance(value, str) or value in ("paper", "calibrated"):
            return value
        if value.lower().endswith(".json"):
            try:
                return read_schedule(value)
            except OSError as error:
                self.fail(f"'{value}': {error.strerror}", param, ctx)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        try:
            size = int(value)
        except ValueError:
            size = 0
        if size < 1:
            self.fail(
                f"must be a positive integer, 'paper', 'calibrated' or a .json file, got {value!r}",
                param,
                ctx,
            )
        return size


def _together(*options):
    """One decorator that gives a command several options, in their order."""

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
        type=click.IntRange(min=1),
        metavar="S",
        help="For a folder or a zip: crop each image to its centre square and resize it to S x S.",
    ),
    click.option(
        "--channels",
        type=click.Choice(["auto", "1", "3"]),
        default="auto",
        show_default=True,
        callback=_check_channels,
        help="For a folder or a zip: convert all images to gray (1) or to colour (3).",
    ),
    click.option(
        "--max-bytes",
        type=click.IntRange(min=1),
        default=MAX_BYTES,
        show_default=True,
        metavar="N",
        help="Memory that the images may take. One image may take 1/32 of it, encoded and decoded.",
    ),
)

run_options = _together(
    click.option(
        "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, metavar="N"
    ),
    click.option("--device", callback=_check_device, help="Torch device, such as cpu or cuda."),
    click.option("--quiet", is_flag=True, help="Print errors and warnings only."),
)

shared_options = _together(
    data_options,
    click.option(
        "--denoiser",
        type=click.Choice(["empirical", "patch", "pspc"]),
        default="pspc",
        show_default=True,
        help="The optimal denoiser, the one of the central patch alone, or the composite of all "
        "square patches.",
    ),
    click.option(
        "--patch-size",
        type=_PatchSize(),
        help="Side of the patches; or, for pspc, sizes that follow sigma: 'paper', 'calibrated' on "
        "held-out images of the data, or a .json file of `skpspc calibrate`.  [default: paper for "
        "pspc, 8 for patch]",
    ),
    run_options,
    click.option(
        "--out",
        required=True,
        callback=_check_out,
        metavar="PATH",
        help="A picture (.png), the array (.npy), or the arrays with their settings (.npz).",
    ),
)
