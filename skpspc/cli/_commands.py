"""The commands and their options; slow imports wait until a command runs."""

import json
import sys

import click
from click.core import ParameterSource

from .. import __version__
from .._output import StandardOutput, write_output
from ._attribute import attribute
from ._calibrate import calibrate
from ._denoiser_options import DenoiserCommand, denoiser_options
from ._interrupt import InterruptsHeld
from ._options import (
    check_guidance,
    check_source,
    data_option,
    environment_variable,
    guidance_option,
    image_output,
    in_sentences,
    label_option,
    machine_options,
    n_noisy_option,
    say_when_written,
    seed_option,
    selection_options,
    sigma_option,
    z_option,
)
from ._sampler_options import SampleCommand, grid_option, sampler_option


class _Commands(click.Group):
    """A group that lists its commands in the order in which a new user needs them."""

    def list_commands(self, _context):
        return ["sample", "denoise", "attribute", "calibrate"]

    def invoke(self, ctx):
        """Run a command; name the environment variable that holds a bad value."""
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            if error.param is not None and error.ctx is not None:
                source = error.ctx.get_parameter_source(error.param.name)
                if source is ParameterSource.ENVIRONMENT:
                    variable = environment_variable(error.ctx, error.param)
                    text = f"{error.message.rstrip('.')} (set by {variable})."
                    raise click.BadParameter(text, error.ctx, error.param) from error
            raise


@click.group(
    cls=_Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "SKPSPC",
    },
)
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
      skpspc denoise --data FOLDER --z noisy.png --sigma 0.5 --out denoised.png
      skpspc attribute --data FOLDER --z noisy.png --sigma 0.5 --out attribution.png
      skpspc calibrate --data FOLDER --out schedule.json

    Pixels are in [-1, 1]: a uint8 value u becomes u / 127.5 - 1. Noise levels (sigma) are
    standard deviations of the noise on this scale.

    The variable SKPSPC_SAMPLE_DATA sets --data of sample, and so on for every command and option.
    """  # noqa: D301, click reads the backspace


commands.add_command(calibrate)
commands.add_command(attribute)


@commands.command(cls=SampleCommand)
@image_output
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
@label_option
@guidance_option
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
@sampler_option
@grid_option
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
    guidance,
    sampler,
    grid,
    n_steps,
    sigma_min,
    sigma_max,
    resume,
    data,
    denoiser,
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
      skpspc sample --data digits --label 7 --out - > sevens.png

    Prints the distances of the samples to their nearest training images. Every step saves the
    state of the run in PATH.partial; the file is removed once the output is written. After an
    interruption, repeat the command with --resume. With --out - no state is saved.
    """  # noqa: D301, click reads the backspace
    check_guidance(guidance, label)
    to_pipe = isinstance(out, StandardOutput)
    if to_pipe and resume:
        raise click.UsageError("--resume needs the file of an earlier run; --out - has none.")
    from ._picture import image_grid
    from ._state import check_state, fingerprint, keeping_state, read_state
    from ._work import (
        check_picture,
        class_number,
        load,
        make_denoiser,
        nearest_distances,
        parameters_text,
        patch_size_text,
    )

    state = None if to_pipe else out.with_name(out.name + ".partial")
    unfinished = state is not None and check_state(state, resume)
    estimator = make_denoiser(denoiser, seed, device)
    steps = sampler.function()
    levels = grid.levels(n_steps, sigma_min, sigma_max)
    loaded = load(data, out, denoiser, **selection)
    images = loaded.images
    y = None if label is None else class_number(label, loaded)
    walk = {
        "n_steps": n_steps,
        "sigma_max": levels[0],
        "data": data,
        "denoiser": type(estimator).__name__,
        "patch_size": patch_size_text(estimator),
        "parameters": parameters_text(denoiser),
        "label": label or "",
        "guidance": guidance,
        "sampler": sampler.name,
        "sampler_parameters": json.dumps(sampler.values),
        "grid": grid.name,
        "grid_parameters": json.dumps(grid.values),
        "sigma_min": levels[-1],
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
    estimator.fit(images, None if y is None else loaded.target)
    check_picture(estimator, images, out)
    samples = estimator.sample(
        n,
        y=y,
        guidance=guidance,
        random_state=seed,
        sampler=steps if to_pipe else keeping_state(steps, state, settings, start),
        sigmas=levels,
        verbose=int(not quiet and sys.stderr.isatty()),
    )
    with InterruptsHeld():
        write_output(out, lambda: image_grid(samples), {"samples": samples, **walk})
        if state is not None:
            state.unlink(missing_ok=True)
        say_when_written(out)
    if not quiet:
        distances = nearest_distances(estimator, samples, images)
        part = "image" if samples.shape[1:] == images.shape[1:] else "patch"
        click.echo(
            f"{out}: {len(samples)} samples; root mean square distance per pixel to the nearest "
            f"training {part}: {distances.mean():.4f} on average, {distances.min():.4f} at least",
            err=to_pipe,
        )


@commands.command(cls=DenoiserCommand)
@image_output
@sigma_option
@data_option
@z_option
@n_noisy_option(8)
@label_option
@guidance_option
@denoiser_options
@selection_options
@seed_option
@machine_options
@in_sentences
def denoise(sigma, z, n, label, guidance, data, denoiser, seed, device, quiet, out, **selection):
    """Remove noise from images.

    \b
    Examples:
      skpspc denoise --data digits --patch-size 4 --sigma 0.5 --out denoised.png
      skpspc denoise --data FOLDER --z noisy.png --sigma 0.5 --out denoised.png
      cat noisy.png | skpspc denoise --data FOLDER --z - --sigma 0.5 --out - > clean.png

    Without --z, noise is added to a few images of the data that do not serve as training images,
    and the error is printed. A .png shows rows of clean (without --z), noisy and denoised images.
    For a --z of one image it is the denoised image alone.
    """  # noqa: D301, click reads the backspace
    check_guidance(guidance, label)
    check_source(z, n)
    import numpy as np

    from ._picture import image_grid, one_picture
    from ._work import (
        answered,
        check_picture,
        make_denoiser,
        noisy_images,
        parameters_text,
        patch_size_text,
        summary,
    )

    estimator = make_denoiser(denoiser, seed, device)
    task = noisy_images(estimator, denoiser, z, n or 8, sigma, label, data, out, seed, selection)
    estimator.fit(task.images, task.target)
    check_picture(estimator, task.images, out)
    denoised = estimator.denoise(task.noisy, sigma, task.y, guidance)

    given = [task.noisy] if z is not None else [task.clean, task.noisy]
    rows = [*(answered(estimator, images) for images in given), denoised]

    def picture():
        if z is not None and len(denoised) == 1:
            return one_picture(denoised)
        return image_grid(np.concatenate(rows), n_columns=len(denoised))

    arrays = {
        "denoised": denoised,
        "noisy": task.noisy,
        **task.origin,
        "sigma": sigma,
        "denoiser": type(estimator).__name__,
        "patch_size": patch_size_text(estimator),
        "parameters": parameters_text(denoiser),
        "label": label or "",
        "guidance": guidance,
        "seed": seed,
    }
    with InterruptsHeld():
        write_output(out, picture, arrays)
        say_when_written(out)
    if not quiet:
        text = summary(rows, len(task.images), sigma)
        click.echo(f"{out}: {text}", err=isinstance(out, StandardOutput))
