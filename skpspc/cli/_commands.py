"""The commands and their options; the heavy imports wait until a command runs."""

import sys

import click

from .. import __version__
from .._output import write_output
from ._calibrate import calibrate
from ._interrupt import InterruptsHeld, say_on_interrupt
from ._options import checked_by, finite, in_sentences, shared_options


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="skpspc")
def commands():
    """Denoise and generate images with nothing trained.

    Pixel values are in [-1, 1] (a uint8 value u means u / 127.5 - 1), and so is sigma, the
    standard deviation of the noise.
    """


commands.add_command(calibrate)


@commands.command()
@shared_options
@click.option(
    "-n",
    "n",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    metavar="N",
    help="Number of samples.",
)
@click.option("--label", metavar="CLASS", help="Draw images of one class of the data.")
@click.option("--sampler", type=click.Choice(["euler", "heun"]), default="heun", show_default=True)
@click.option("--n-steps", type=click.IntRange(min=1), default=18, show_default=True)
@click.option("--sigma-min", type=float, default=0.002, show_default=True)
@click.option("--sigma-max", type=float, default=80.0, show_default=True)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue an unfinished run of the same command from its state, PATH.partial; start from "
    "the beginning where there is no state.",
)
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
    """Draw new images.

    Prints the distances of the samples to their nearest training images. Every step saves the
    state of the run in PATH.partial, which is removed once the output is written.
    """
    from ..inspection import nearest_training_images
    from ..sampling import SAMPLERS
    from ._picture import image_grid
    from ._state import check_state, fingerprint, keeping_state, read_state
    from ._work import central, class_number, load, make_denoiser, patch_size_text

    state = out.with_name(out.name + ".partial")
    unfinished = check_state(state, resume)
    estimator = make_denoiser(denoiser, patch_size, seed, device)
    loaded = load(data, out, **selection)
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
            f"{out}: {len(samples)} samples; root mean square distance a pixel to the nearest "
            f"training {'patch' if denoiser == 'patch' else 'image'}: "
            f"{distances.mean():.4f} on average, {distances.min():.4f} at least"
        )


@commands.command()
@shared_options
@click.option(
    "--sigma",
    type=click.FloatRange(min=0),
    callback=checked_by(finite),
    required=True,
    help="Standard deviation of the noise.",
)
@click.option(
    "--z",
    "z_path",
    type=click.Path(exists=True, dir_okay=False),
    metavar="PATH",
    help="Noisy images: a .npy of shape (n, C, H, W).",
)
@click.option(
    "-n",
    "--n",
    "n",
    type=click.IntRange(min=1),
    metavar="N",
    help="Without --z: hold N images out of --data, add noise to them, and train on the others.  "
    "[default: 8]",
)
@in_sentences
def denoise(sigma, z_path, n, data, denoiser, patch_size, seed, device, quiet, out, **selection):
    """Remove noise, from your images or from held-out images of the data.

    The rows of a picture are the clean images (without --z), the noisy and the denoised images.
    """
    if z_path is not None and n is not None:
        raise click.UsageError("give --z or -n, not both.")
    import numpy as np

    from ._picture import image_grid
    from ._work import central, hold_out, load, make_denoiser, patch_size_text, read_noisy, summary

    estimator = make_denoiser(denoiser, patch_size, seed, device)
    images = load(data, out, **selection).images
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
