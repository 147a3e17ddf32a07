"""The command ``skpspc attribute``."""

import csv
import functools
import io

import click

from .._output import StandardOutput, check_output, write_output, writing
from ._denoiser_options import DenoiserCommand, denoiser_options
from ._interrupt import InterruptsHeld
from ._options import (
    check_source,
    checked_by,
    data_option,
    in_sentences,
    label_option,
    machine_options,
    n_noisy_option,
    output_options,
    say_when_written,
    seed_option,
    selection_options,
    sigma_option,
    z_option,
)

_MOST_PICTURES = 8  # training images that `AttributionDisplay` draws


def _pixel(text):
    """Return (row, column)."""
    try:
        row, column = map(int, text.split(","))
    except ValueError as error:
        raise ValueError(f"must be ROW,COLUMN such as 4,5, got {text!r}") from error
    return row, column


@click.command(cls=DenoiserCommand)
@output_options(
    (".png", ".csv", ".npz"),
    "a picture (.png), a table of the largest shares (.csv), or all arrays (.npz)",
)
@click.option(
    "--table",
    type=click.Path(),
    callback=checked_by(functools.partial(check_output, suffixes=(".csv",))),
    metavar="PATH",
    help="Second file to write: a table of the largest shares (.csv).",
)
@sigma_option
@data_option
@z_option
@n_noisy_option(1)
@click.option(
    "--pixel",
    callback=checked_by(_pixel),
    metavar="ROW,COLUMN",
    help="Explain one pixel of the denoised image, by the patches that its windows compare.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    metavar="N",
    help="Number of training images to list; a picture shows up to 8.",
)
@label_option
@denoiser_options
@selection_options
@seed_option
@machine_options
@in_sentences
def attribute(
    table,
    sigma,
    z,
    n,
    pixel,
    top,
    label,
    data,
    denoiser,
    seed,
    device,
    quiet,
    out,
    **selection,
):
    """Show the training images that a denoised image is made of.

    \b
    Examples:
      skpspc attribute --data digits --patch-size 4 --sigma 0.5 --out shares.png
      skpspc attribute --data FOLDER --z noisy.png --sigma 0.5 --pixel 4,5 --out pixel.png
      skpspc attribute --data FOLDER --z noisy.png --sigma 0.5 --out shares.csv

    A denoised image is a weighted mean of training images, with weights that differ from pixel to
    pixel; the share of a training image is the mean of its weights. Training images are numbered
    from 0 in the order of the data, without the images that -n holds out. The denoisers gaussian,
    blended and smoothed, and denoisers with a bandwidth, have no such weights.
    """  # noqa: D301, click reads the backspace
    check_source(z, n)
    from .._optional import load
    from ._work import answered, make_denoiser, noisy_images

    if out.suffix.lower() == ".png":
        load("matplotlib").use("Agg")  # before the work, as it may be missing

    estimator = make_denoiser(denoiser, seed, device)
    task = noisy_images(estimator, denoiser, z, n or 1, sigma, label, data, out, seed, selection)
    _check_pixel(pixel, task.noisy.shape, "noisy")
    estimator.fit(task.images, task.target)
    _check_pixel(pixel, answered(estimator, task.noisy[:1]).shape, "denoised")
    shares = estimator.attribute(task.noisy, sigma, task.y, top=top)
    rows = table_rows(shares, top, pixel)
    with InterruptsHeld():
        if table is not None:
            _write_table(table, rows)
        match out.suffix.lower():
            case ".csv":
                _write_table(out, rows)
            case ".npz":
                write_output(out, None, {**vars(shares), "noisy": task.noisy, **task.origin})
            case _:
                _write_picture(out, estimator, task, sigma, pixel, top)
        say_when_written(out)
    if not quiet:
        largest = shares.image_share.max(1)
        images = "1 noisy image" if len(largest) == 1 else f"{len(largest)} noisy images"
        click.echo(
            f"{out}: {images}, {len(task.images)} training images; largest share of a training "
            f"image in a denoised image: {largest.mean():.3f}"
            f"{'' if len(largest) == 1 else ' on average'}",
            err=isinstance(out, StandardOutput),
        )


def _check_pixel(pixel, shape, kind):
    """Raise unless a pixel lies in images of a shape (..., H, W); ``kind`` describes them."""
    height, width = shape[-2:]
    if pixel is not None and not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise ValueError(
            f"--pixel {pixel[0]},{pixel[1]} lies outside the {kind} images, {height} x {width} "
            f"(height x width); give a row from 0 to {height - 1} and a column from 0 to "
            f"{width - 1}."
        )


def table_rows(shares, top, pixel=None):
    """Return the largest shares of each noisy image as rows of a table, dicts of equal keys.

    Parameters
    ----------
    shares : Attribution of arrays
    top : int
        Largest number of rows for each noisy image.
    pixel : tuple of (row, column) or None
        Pixel of the denoised image; None: the whole image.
    """
    rows = []
    for noisy_image in range(len(shares.index)):
        if pixel is None:
            listed = _of_image(shares, noisy_image, top)
        else:
            listed = _of_pixel(shares, noisy_image, pixel)
        for rank, entries in enumerate(listed):
            rows.append({"noisy_image": noisy_image, "rank": rank + 1, **entries})
    return rows


def _of_image(shares, noisy_image, top):
    """Yield the training images with the largest shares in a whole image."""
    of_images = shares.image_share[noisy_image]
    for image in (-of_images).argsort(kind="stable")[:top].tolist():
        if of_images[image] > 0:
            yield {"training_image": image, "share": float(of_images[image])}


def _of_pixel(shares, noisy_image, pixel):
    """Yield the patches with the largest shares in a pixel, in its channel of largest share."""
    row, column = pixel
    channel = int(shares.share[noisy_image, :, row, column, 0].argmax())
    at = noisy_image, channel, row, column
    for k, image in enumerate(shares.index[at].tolist()):
        if image >= 0 and shares.share[at][k] > 0:
            yield {
                "training_image": image,
                "share": float(shares.share[at][k]),
                "row": int(shares.row[at][k]),
                "column": int(shares.column[at][k]),
                "mirrored": bool(shares.mirrored[at][k]),
            }


def _write_table(path, rows):
    """Write rows of a table as CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with writing(path) as file:
        file.write(text.getvalue().encode())


def _write_picture(path, estimator, task, sigma, pixel, top):
    """Write the picture of an `AttributionDisplay`."""
    from ..inspection import AttributionDisplay

    n_images = min(top, _MOST_PICTURES)
    display = AttributionDisplay.from_estimator(
        estimator, task.noisy, sigma, y=task.y, pixel=pixel, n_images=n_images
    )
    with writing(path) as file:
        display.figure_.savefig(file, format="png", dpi=150)
