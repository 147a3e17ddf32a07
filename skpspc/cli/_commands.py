"""The commands and their options; the heavy imports wait until a command runs."""

import sys

import click

from .. import __version__
from .._calibrate import calibrate
from .._interrupt import InterruptsHeld, say_on_interrupt
from .._options import check_finite, in_sentences, shared_options
from .._output import write_output


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
    help="Go on from the state of an unfinished run of the same command, which lies beside the "
    "output as PATH.partial; start anew where there is none.",
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
    max_images,
    image_size,
    channels,
    max_bytes,
    denoiser,
    patch_size,
    seed,
    device,
    quiet,
    out,
):
    """Draw new images.

    Prints how far, on average, a sample is from the training image nearest to it. The state of the
    run is kept in PATH.partial after every step, and is removed once the output is written.
    """
    from .._picture import image_grid
    from .._state import check_state, fingerprint, keeping_state, read_state
    from ..inspection import nearest_training_images
    from ..sampling import SAMPLERS
    from ._work import central, class_number, load, make_denoiser, patch_size_text

    state = out.with_name(out.name + ".partial")
    unfinished = check_state(state, resume)
    estimator = make_denoiser(denoiser, patch_size, seed, device)
    loaded = load(data, max_images, image_size, channels, max_bytes, out)
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
        known = central(images, samples.shape[2:])
        distances, _ = nearest_training_images(samples, known)
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
    callback=check_finite,
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
    help="Without --z: take N images out of --data, add noise to them, and use the "
    "others as training images.  [default: 8]",
)
@in_sentences
def denoise(
    sigma,
    z_path,
    n,
    data,
    max_images,
    image_size,
    channels,
    max_bytes,
    denoiser,
    patch_size,
    seed,
    device,
    quiet,
    out,
):
    """Remove noise, from your images or from held-out images of the data.

    A picture shows in its rows the clean images (if they are known), the noisy, the denoised.
    """
    if z_path is not None and n is not None:
        raise click.UsageError("give --z or -n, not both.")
    import numpy as np

    from .._picture import image_grid
    from ._work import (
        central,
        hold_out,
        load,
        make_denoiser,
        patch_size_text,
        read_noisy,
        summary,
    )

    estimator = make_denoiser(denoiser, patch_size, seed, device)
    images = load(data, max_images, image_size, channels, max_bytes, out).images
    if z_path is None:
        held_out, images, clean, z = hold_out(images, n or 8, sigma, seed)
        known = {"clean": clean, "held_out": held_out}
    else:
        z, known = read_noisy(z_path), {}
    denoised = estimator.fit(images).denoise(z, sigma)

    rows = [known["clean"], z, denoised] if known else [z, denoised]
    if denoiser == "patch":
        rows = [central(row, denoised.shape[2:]) for row in rows]
    arrays = {
        "denoised": denoised,
        "noisy": z,
        **known,
        "sigma": sigma,
        "denoiser": type(estimator).__name__,
        "patch_size": patch_size_text(estimator),
        "seed": seed,
    }
    write_output(out, lambda: image_grid(np.concatenate(rows), n_columns=len(z)), arrays)
    say_on_interrupt(f"interrupted when '{out}' was written.")
    if not quiet:
        click.echo(f"{out}: {summary(rows, len(images), sigma)}")
