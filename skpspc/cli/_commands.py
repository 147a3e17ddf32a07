"""The commands and their options; slow imports wait until a command runs."""

import sys

import click

from .. import __version__
from .._output import write_output
from ._calibrate import calibrate
from ._interrupt import InterruptsHeld, say_on_interrupt
from ._options import (
    checked_by,
    data_option,
    denoiser_options,
    finite,
    in_sentences,
    machine_options,
    out_option,
    seed_option,
    selection_options,
)


class _InOrder(click.Group):
    """A group that lists its commands in the order in which a new user needs them."""

    def list_commands(self, _context):
        return ["sample", "denoise", "calibrate"]


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="skpspc")
def commands():
    """Generate and denoise images without training a network.

    The denoisers are computed exactly from your images and their patches. Start with the 8 x 8
    digits of scikit-learn:

    \b
      skpspc sample --data digits --patch-size 4 --out samples.png

    After a few seconds samples.png shows 16 new digits. Every command writes its result to the
    file --out and prints a summary. For your own images:

    \b
      skpspc sample --data FOLDER --out samples.png
      skpspc denoise --data FOLDER --sigma 0.5 --out denoised.png
      skpspc calibrate --data FOLDER --out schedule.json

    Pixels are in [-1, 1]: a uint8 value u becomes u / 127.5 - 1. Noise levels (sigma) are
    standard deviations of the noise on this scale.
    """  # noqa: D301, click reads the backspace


commands.add_command(calibrate)


@commands.command()
@out_option
@data_option
@click.option(
    "-n",
    "n",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="N",
    help="Number of samples.",
)
@click.option("--label", metavar="CLASS", help="Generate images of one class of labelled data.")
@denoiser_options
@selection_options
@seed_option
@click.option(
    "--n-steps",
    type=click.IntRange(min=1),
    default=18,
    show_default=True,
    metavar="N",
    help="Number of steps of the sampler.",
)
@click.option(
    "--sampler",
    type=click.Choice(["ddim", "dpmpp_2m", "edm", "euler", "heun"]),
    default="dpmpp_2m",
    show_default=True,
    metavar="NAME",
    help="'dpmpp_2m' (second order, one denoiser call per step), 'heun' (second order, two calls), "
    "'edm' (heun with added noise), 'euler' or 'ddim' (first order, one call).",
)
@click.option(
    "--sigma-max",
    type=float,
    default=80.0,
    show_default=True,
    help="Noise level at which sampling starts.",
)
@click.option(
    "--sigma-min",
    type=float,
    default=0.002,
    show_default=True,
    help="Last noise level before 0.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue an unfinished run of this command from its state PATH.partial, or start a new "
    "run if there is no such file.",
)
@machine_options
@in_sentences
def sample(
    n,
    label,
    sampler,
    n_steps,
    sigma_min,
    sigma_max,
    resume,
    data,
    denoiser,
    patch_size,
    seed,
    device,
    quiet,
    out,
    **selection,
):
    """Generate new images.

    \b
    Examples:
      skpspc sample --data digits --patch-size 4 -n 16 --out samples.png
      skpspc sample --data FOLDER --image-size 32 --channels 3 --out samples.png

    Prints the distances of the samples to their nearest training images. Every step saves the
    state of the run in PATH.partial; the file is removed once the output is written. After an
    interruption, repeat the command with --resume.
    """  # noqa: D301, click reads the backspace
    from ..inspection import nearest_training_images
    from ..sampling import SAMPLERS
    from ._picture import image_grid
    from ._state import check_state, fingerprint, keeping_state, read_state
    from ._work import central, class_number, load, make_denoiser, patch_size_text

    state = out.with_name(out.name + ".partial")
    unfinished = check_state(state, resume)
    estimator = make_denoiser(denoiser, patch_size, seed, device)
    loaded = load(data, out, patch_size, **selection)
    images = loaded.images
    walk = {
        "n_steps": n_steps,
        "sigma_max": sigma_max,
        "data": data,
        "denoiser": type(estimator).__name__,
        "patch_size": patch_size_text(estimator),
        "label": label or "",
        "sampler": sampler,
        "sigma_min": sigma_min,
        "seed": seed,
    }
    settings = {
        "skpspc": __version__,
        "images": fingerprint(images, loaded.target),
        "n": n,
        "device": device or "",
        **walk,
    }
    start = read_state(state, settings) if unfinished else None
    estimator.fit(images, loaded.target)
    samples = estimator.sample(
        n,
        y=None if label is None else class_number(label, loaded),
        random_state=seed,
        sampler=keeping_state(SAMPLERS[sampler], state, settings, start),
        n_steps=n_steps,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        verbose=int(not quiet and sys.stderr.isatty()),
    )
    with InterruptsHeld():
        write_output(out, lambda: image_grid(samples), {"samples": samples, **walk})
        state.unlink(missing_ok=True)
        say_on_interrupt(f"interrupted when '{out}' was written.")
    if not quiet:
        distances, _ = nearest_training_images(samples, central(images, samples.shape[2:]))
        click.echo(
            f"{out}: {len(samples)} samples; root mean square distance per pixel to the nearest "
            f"training {'patch' if denoiser == 'patch' else 'image'}: "
            f"{distances.mean():.4f} on average, {distances.min():.4f} at least"
        )


@commands.command()
@out_option
@click.option(
    "--sigma",
    type=click.FloatRange(min=0),
    callback=checked_by(finite),
    required=True,
    metavar="SIGMA",
    help="Standard deviation of the noise, for pixels in [-1, 1].",
)
@data_option
@click.option(
    "--z",
    "z_path",
    type=click.Path(exists=True, dir_okay=False),
    metavar="PATH",
    help="Noisy images to denoise: a .npy file of shape (n, channels, height, width).",
)
@click.option(
    "-n",
    "--n",
    "n",
    type=click.IntRange(min=1),
    metavar="N",
    help="Without --z: denoise N images of --data with added noise, and use only the other images "
    "as training images.  [default: 8]",
)
@denoiser_options
@selection_options
@seed_option
@machine_options
@in_sentences
def denoise(sigma, z_path, n, data, denoiser, patch_size, seed, device, quiet, out, **selection):
    """Remove noise from images.

    \b
    Examples:
      skpspc denoise --data digits --patch-size 4 --sigma 0.5 --out denoised.png
      skpspc denoise --data FOLDER --z noisy.npy --sigma 0.5 --out denoised.npy

    Without --z, noise is added to a few images of the data that do not serve as training images,
    and the error is printed. A .png shows rows of clean (without --z), noisy and denoised images.
    """  # noqa: D301, click reads the backspace
    if z_path is not None and n is not None:
        raise click.UsageError("give --z or -n, not both: -n counts held-out images of --data.")
    import numpy as np

    from ._picture import image_grid
    from ._work import central, hold_out, load, make_denoiser, patch_size_text, read_noisy, summary

    estimator = make_denoiser(denoiser, patch_size, seed, device)
    images = load(data, out, patch_size, **selection).images
    if z_path is None:
        held_out, images, clean, z = hold_out(images, n or 8, sigma, seed)
        origin = {"clean": clean, "held_out": held_out}
    else:
        z, origin = read_noisy(z_path), {}
    denoised = estimator.fit(images).denoise(z, sigma)

    rows = [clean, z, denoised] if origin else [z, denoised]
    if denoiser == "patch":
        rows = [central(row, denoised.shape[2:]) for row in rows]
    arrays = {
        "denoised": denoised,
        "noisy": z,
        **origin,
        "sigma": sigma,
        "denoiser": type(estimator).__name__,
        "patch_size": patch_size_text(estimator),
        "seed": seed,
    }
    with InterruptsHeld():
        write_output(out, lambda: image_grid(np.concatenate(rows), n_columns=len(z)), arrays)
        say_on_interrupt(f"interrupted when '{out}' was written.")
    if not quiet:
        click.echo(f"{out}: {summary(rows, len(images), sigma)}")
