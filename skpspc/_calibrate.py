"""The command ``skpspc calibrate``."""

import sys

import click

from ._options import check_held_out, data_options, in_sentences, run_options
from ._output import check_output, write_text
from ._schedule_file import schedule_text


def _numbers(kind, what):
    """A callback that reads numbers separated by commas."""

    def convert(_context, _parameter, value):
        if value is None:
            return None
        try:
            return [kind(part) for part in value.split(",")]
        except ValueError as error:
            raise click.BadParameter(f"must be {what}, got {value!r}") from error

    return convert


def _check_out(_context, _parameter, value):
    try:
        return None if value is None else check_output(value, (".json",))
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@data_options
@click.option(
    "--sigmas",
    callback=_numbers(float, "numbers separated by commas, such as 0.1,0.5,2"),
    metavar="A,B,...",
    help="Noise levels.  [default: 0.05,0.1,0.2,...,12.8]",
)
@click.option(
    "--sizes",
    callback=_numbers(int, "integers separated by commas, such as 3,5,9"),
    metavar="A,B,...",
    help="Patch sizes to try.  [default: up to 15, from 1 to the whole image]",
)
@click.option(
    "-n",
    "--n-images",
    "n_images",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="N",
    help="How many images to hold out of the data.",
)
@run_options
@click.option(
    "--out",
    callback=_check_out,
    metavar="PATH",
    help="Write the schedule here (.json).  [default: to standard output]",
)
@in_sentences
def calibrate(
    data,
    max_images,
    image_size,
    channels,
    max_bytes,
    sigmas,
    sizes,
    n_images,
    seed,
    device,
    quiet,
    out,
):
    """Choose the patch size for each noise level.

    Held-out images of the data are denoised with patches of every size; the sizes of the least
    error that never fall as sigma grows are written as JSON, for `skpspc sample --patch-size
    PATH`.
    """
    from . import PSPCDenoiser
    from .datasets._files import load_images
    from .inspection import calibrate_patch_size

    images = load_images(
        data, max_images=max_images, size=image_size, channels=channels, max_bytes=max_bytes
    ).images
    check_held_out(n_images, images)
    denoiser = PSPCDenoiser(device=device)
    schedule, table = calibrate_patch_size(
        denoiser, images, sigmas, sizes=sizes, n_images=n_images, random_state=seed
    )
    text = schedule_text(
        schedule,
        candidates=table.values.tolist(),
        errors=table.errors.tolist(),
        standard_errors=[[_or_none(x) for x in row] for row in table.standard_errors.tolist()],
        n_images=table.n,
        data=data,
        seed=seed,
    )
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)
    if not quiet:  # beside the schedule, if that is what goes to standard output
        click.echo(_summary(schedule, table, len(images)), err=out is None)


def _or_none(number):
    """NaN, which JSON does not know, as null."""
    return number if number == number else None


def _summary(schedule, table, n_images):
    """The sizes and their errors, for people."""
    lines = ["   sigma  size  mean squared error"]
    for row, (sigma, size) in enumerate(zip(schedule.sigmas, schedule.sizes, strict=True)):
        column = table.values.tolist().index(size)
        error, spread = table.errors[row, column], table.standard_errors[row, column]
        lines.append(f"{sigma:8.4g}  {size:4d}  {error:.5f} ± {spread:.5f}")
    held = table.n
    lines.append(f"on {held} images held out of the data; {n_images - held} others were known")
    return "\n".join(lines)
