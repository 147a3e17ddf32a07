"""Options that several commands take, and errors as sentences."""

import errno
import functools
import math
import sys
import warnings

import click

from .._output import StandardOutput, check_output
from ._interrupt import say_on_interrupt

# Errors of the file system that another path would avoid; others come from the machine.
_BAD_PATHS = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


class BadValueError(click.ClickException):
    """A value of an option that turned out to be bad after parsing: exit status 2, as in click."""

    exit_code = 2


def in_sentences(command):
    """Print errors and warnings of a command as sentences on stderr.

    A bad value of an option, or of the data that it names, ends the process with status 2. A
    failure of the machine (a full disk, too little memory, a missing library) has status 1.
    """

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
            except (OSError, ValueError, MemoryError, ImportError) as error:
                bad = isinstance(error, ValueError) or _is_bad_path(error)
                kind = BadValueError if bad else click.ClickException
                raise kind(sentence(error)) from error

    return run


def environment_variable(ctx, option):
    """Return the name of the environment variable that sets an option of a command."""
    return f"{ctx.auto_envvar_prefix}_{option.name.upper()}"


def checked_by(check):
    """Return an option's callback that applies ``check`` to a value other than None."""

    def callback(_context, _parameter, value):
        try:
            return None if value is None else check(value)
        except (OSError, ValueError) as error:
            raise click.BadParameter(sentence(error)) from error

    return callback


def _is_bad_path(error):
    """Return True for an error of the file system that another path would avoid."""
    if isinstance(error, OSError) and error.errno is None:  # raised by this package
        return isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
    return isinstance(error, OSError) and error.errno in _BAD_PATHS


def sentence(error):
    """Return the message of an error, without the number of an `OSError`."""
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    return str(error) or "not enough memory; use fewer images (--max-images)"


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


def _max_bytes(ctx, _parameter, value):
    """Return the value of ``--max-bytes``, or its default; completion needs neither."""
    if value is not None or ctx.resilient_parsing:
        return value
    from .._input import MAX_BYTES

    return MAX_BYTES


def _together(*options):
    """Return one decorator that adds several options to a command, in their order."""

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def output_options(suffixes, contents):
    """Return the decorator that adds ``--out`` and ``--format``.

    Files that ``--out`` names must have one of the ``suffixes``; ``contents`` describes the files.
    """
    formats = [suffix[1:] for suffix in suffixes]

    def target(ctx, _parameter, value):
        kind = ctx.params.pop("format", None)
        if value == "-":
            return _standard_output(f".{kind or formats[0]}")
        path = checked_by(functools.partial(check_output, suffixes=suffixes))(ctx, None, value)
        if kind is not None and path.suffix.lower() != f".{kind}":
            raise click.BadParameter(
                f"'{value}' has another suffix than --format {kind}; leave --format out."
            )
        return path

    return _together(
        click.option(
            "--out",
            required=True,
            type=click.Path(allow_dash=True),
            callback=target,
            metavar="PATH",
            help=f"File to write: {contents}. '-' writes to standard output.",
        ),
        click.option(
            "--format",
            is_eager=True,  # --out reads it
            type=click.Choice(formats),
            metavar="NAME",
            help=f"Format for --out -: {', '.join(formats)}.  [default: {formats[0]}]",
        ),
    )


def _standard_output(suffix):
    """Return standard output as a target; raise if it is a terminal."""
    if suffix != ".csv" and sys.stdout.isatty():
        raise click.BadParameter(
            "standard output is a terminal; redirect it to a file or a pipe, or name a file."
        )
    return StandardOutput(suffix)


image_output = output_options(
    (".png", ".npy", ".npz"),
    "a picture (.png), the images as an array (.npy), or all arrays with their settings (.npz)",
)


data_option = click.option(
    "--data",
    type=click.Path(),
    default="digits",
    show_default=True,
    metavar="SPEC",
    help="Training images: a folder, a .zip in EDM layout, an .npz with the uint8 array 'images', "
    "or the built-in 'digits' (8 x 8, gray) or 'photos' (32 x 32 crops of photographs, colour).",
)

_selection_options = _together(
    click.option(
        "--image-size",
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
        help="Convert all image files to gray (1) or to colour (3).",
    ),
    click.option(
        "--max-images",
        type=click.IntRange(min=1),
        metavar="N",
        help="Use N training images, evenly spaced over the data.",
    ),
)


def selection_options(command):
    """Add the options that select training images; the command receives --image-size as size."""

    @functools.wraps(command)
    def run(image_size, **options):
        return command(size=image_size, **options)

    return _selection_options(run)


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
        callback=_max_bytes,
        metavar="N",
        help="Largest memory for the training images, in bytes; one image may take 1/32 of it.  "
        "[default: 8 GiB]",
    ),
    click.option("--quiet", is_flag=True, help="Print errors and warnings only."),
)


z_option = click.option(
    "--z",
    type=click.Path(exists=True, allow_dash=True),
    metavar="PATH",
    help="Noisy images: an image file, a folder of images, a .npy file of shape (n, channels, "
    "height, width), or '-' for one image or .npy file on standard input. They are as large as "
    "the training images, unless the denoiser takes images of any size (single-image, local-score "
    "--equivariant).",
)

sigma_option = click.option(
    "--sigma",
    type=click.FloatRange(min=0),
    callback=checked_by(finite),
    required=True,
    metavar="SIGMA",
    help="Standard deviation of the noise, for pixels in [-1, 1].",
)


def n_noisy_option(default):
    """Return the option ``-n``, the number of images to which noise is added."""
    return click.option(
        "-n",
        "--n",
        "n",
        type=click.IntRange(min=1),
        metavar="N",
        help="Without --z: add noise to N images of --data, and use only the other images as "
        f"training images.  [default: {default}]",
    )


def check_source(z, n):
    """Raise if both ``--z`` and ``-n`` are given."""
    if z is not None and n is not None:
        raise click.UsageError("give --z or -n, not both: -n counts held-out images of --data.")


label_option = click.option(
    "--label",
    metavar="CLASS",
    help="Use one class of labelled data: its name, or its number if classes have no names.",
)

guidance_option = click.option(
    "--guidance",
    type=float,
    default=1.0,
    show_default=True,
    callback=checked_by(finite),
    metavar="W",
    help="With --label: weight of the class. 1: the class alone. 0: all images. Above 1 the class "
    "is exaggerated.",
)


def check_guidance(guidance, label):
    """Raise if there is a guidance without a class."""
    if guidance != 1 and label is None:
        raise click.UsageError("--guidance is the weight of a class; add --label CLASS.")


def say_when_written(out):
    """Set the sentence of Ctrl-C for the time after the output is written."""
    name = str(out) if isinstance(out, StandardOutput) else f"'{out}'"
    say_on_interrupt(f"interrupted when {name} was written.")
