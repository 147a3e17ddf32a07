"""The command ``skpspc calibrate``."""

import math

import click

from .._output import StandardOutput, check_output, writing
from ._interrupt import InterruptsHeld
from ._options import (
    checked_by,
    data_option,
    in_sentences,
    machine_options,
    seed_option,
    selection_options,
)
from ._schedule_file import schedule_text


def _numbers(kind, form):
    """Return an option's callback that reads numbers separated by commas; ``form`` names them."""

    def convert(text):
        try:
            return [kind(number) for number in text.split(",")]
        except ValueError as error:
            raise ValueError(f"must be {form}, got {text!r}") from error

    return checked_by(convert)


def _target(path):
    """Return a path as `check_output` does; "-" is standard output."""
    return StandardOutput(".json") if path == "-" else check_output(path, suffixes=(".json",))


@click.command()
@click.option(
    "--out",
    type=click.Path(allow_dash=True),
    default="-",
    callback=checked_by(_target),
    metavar="PATH",
    help="File to write the schedule to (.json). '-' writes to standard output.  [default: -]",
)
@data_option
@click.option(
    "--sigmas",
    callback=_numbers(float, "numbers separated by commas, such as 0.1,0.5,2"),
    metavar="A,B,...",
    help="Noise levels of the schedule.  [default: 0.05,0.1,0.2,...,12.8]",
)
@click.option(
    "--sizes",
    callback=_numbers(int, "integers separated by commas, such as 3,5,9"),
    metavar="A,B,...",
    help="Patch sizes to try.  [default: up to 15 sizes, from 1 to the whole image]",
)
@click.option(
    "-n",
    "--n-images",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="N",
    help="Number of held-out images, on which the patch sizes are compared.",
)
@selection_options
@seed_option
@machine_options
@in_sentences
def calibrate(data, sigmas, sizes, n_images, seed, device, quiet, out, **selection):
    """Choose the patch size of pspc for each noise level.

    \b
    Examples:
      skpspc calibrate --data digits --out schedule.json
      skpspc sample --data digits --patch-size schedule.json --out samples.png

    Denoises held-out images of the data with patches of every size, and prints the mean squared
    error of the chosen size at every noise level. The chosen sizes have the smallest total error
    among all sizes that never decrease as sigma grows.
    """  # noqa: D301, click reads the backspace
    from .. import PSPCDenoiser
    from ..datasets._files import load_images
    from ..inspection import calibrate_patch_size
    from ._work import check_held_out

    images = load_images(data, **selection).images
    check_held_out(n_images, images)
    denoiser = PSPCDenoiser(device=device)
    schedule, table = calibrate_patch_size(
        denoiser, images, sigmas, sizes=sizes, n_images=n_images, random_state=seed
    )
    spreads = table.standard_errors.tolist()
    text = schedule_text(
        schedule,
        candidates=table.values.tolist(),
        errors=table.errors.tolist(),
        standard_errors=[[None if math.isnan(x) else x for x in row] for row in spreads],
        n_images=table.n,
        image_shape=list(images.shape[1:]),
        data=data,
        seed=seed,
    )
    with InterruptsHeld(), writing(out) as file:
        file.write(text.encode())
    if not quiet:
        to_stderr = isinstance(out, StandardOutput)
        click.echo(_summary(schedule, table, len(images)), err=to_stderr)


def _summary(schedule, table, n_images):
    """Return the chosen sizes and their errors as a table."""
    from .._repr import three_digits

    lines = ["   sigma  size  mean squared error"]
    for row, (sigma, size) in enumerate(zip(schedule.sigmas, schedule.sizes, strict=True)):
        column = table.values.tolist().index(size)
        error, spread = table.errors[row, column], table.standard_errors[row, column]
        lines.append(f"{sigma:8.4g}  {size:4d}  {three_digits(error)} ± {three_digits(spread)}")
    lines.append(f"on {table.n} held-out images, with {n_images - table.n} training images")
    return "\n".join(lines)
