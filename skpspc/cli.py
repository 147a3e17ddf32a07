"""The command line: ``skpspc sample``, ``skpspc denoise`` and ``skpspc calibrate``."""

import sys

import click
import numpy as np
import torch

from . import __version__
from ._calibrate import calibrate
from ._input import load_arrays, map_array, reading
from ._options import Interrupted, check_finite, check_held_out, in_sentences, shared_options
from ._output import write_output
from ._picture import check_picturable, image_grid
from .sampling import SamplingInterrupted
from .support.training_set import to_compute


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="skpspc")
def main():
    """Denoise and generate images with nothing trained.

    Pixel values are in [-1, 1] (a uint8 value u means u / 127.5 - 1), and so is sigma, the
    standard deviation of the noise.
    """


main.add_command(calibrate)


@main.command()
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
@click.option("--steps", type=click.IntRange(min=1), default=18, show_default=True)
@click.option("--sigma-min", type=float, default=0.002, show_default=True)
@click.option("--sigma-max", type=float, default=80.0, show_default=True)
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False),
    metavar="PATH",
    help="Go on from what an interrupted run of the same command kept (it names the file); "
    "-n, --steps and --sigma-max are then those of that run.",
)
@in_sentences
def sample(
    n,
    label,
    sampler,
    steps,
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

    Prints how far, on average, a sample is from the training image nearest to it.
    """
    estimator = _make_denoiser(denoiser, patch_size, seed, device)
    loaded = _load(data, max_images, image_size, channels, max_bytes, out)
    images = loaded.images
    estimator.fit(images, loaded.target)
    y = None if label is None else _class_number(label, loaded)

    walk = {
        "data": data,
        "denoiser": type(estimator).__name__,
        "patch_size": str(estimator.get_params().get("patch_size", "")),
        "label": label or "",
        "sampler": sampler,
        "sigma_min": sigma_min,
        "seed": seed,
    }
    start = {"n": n, "n_steps": steps, "sigma_max": sigma_max}
    if resume is not None:
        start = _read_state(resume, walk)
    try:
        samples = estimator.sample(
            **start,
            y=y,
            random_state=seed,
            sampler=sampler,
            sigma_min=sigma_min,
            verbose=int(not quiet and sys.stderr.isatty()),
        )
    except SamplingInterrupted as stop:
        raise Interrupted(_keep_state(stop, out, walk)) from stop
    settings = {"n_steps": start["n_steps"], "sigma_max": start["sigma_max"], **walk}
    write_output(out, lambda: image_grid(samples), {"samples": samples, **settings})
    if not quiet:
        from .inspection import nearest_training_images

        known = _central(images, samples.shape[2:])
        distances, _ = nearest_training_images(samples, known)
        click.echo(
            f"{out}: {len(samples)} samples; root mean square distance a pixel to the nearest "
            f"training {'patch' if denoiser == 'patch' else 'image'}: "
            f"{distances.mean():.4f} on average, {distances.min():.4f} at least"
        )


@main.command()
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
    estimator = _make_denoiser(denoiser, patch_size, seed, device)
    images = _load(data, max_images, image_size, channels, max_bytes, out).images
    if z_path is None:
        held_out, images, clean, z = _hold_out(images, n or 8, sigma, seed)
        known = {"clean": clean, "held_out": held_out}
    else:
        z, known = _read_noisy(z_path), {}
    denoised = estimator.fit(images).denoise(z, sigma)

    rows = [known["clean"], z, denoised] if known else [z, denoised]
    if denoiser == "patch":
        rows = [_central(row, denoised.shape[2:]) for row in rows]
    arrays = {
        "denoised": denoised,
        "noisy": z,
        **known,
        "sigma": sigma,
        "denoiser": type(estimator).__name__,
        "patch_size": str(estimator.get_params().get("patch_size", "")),
        "seed": seed,
    }
    write_output(out, lambda: image_grid(np.concatenate(rows), n_columns=len(z)), arrays)
    if not quiet:
        click.echo(f"{out}: {_summary(rows, len(images), sigma)}")


def _make_denoiser(name, patch_size, seed, device):
    from . import EmpiricalDenoiser, PatchDenoiser, PSPCDenoiser

    settings = {"device": device, "random_state": seed}
    if name == "empirical":
        if patch_size is not None:
            raise click.UsageError("--patch-size is for the denoisers patch and pspc.")
        return EmpiricalDenoiser(**settings)
    if name == "pspc":
        return PSPCDenoiser(patch_size or "paper", **settings)
    if not (patch_size is None or isinstance(patch_size, int)):
        kind = patch_size if isinstance(patch_size, str) else "with a schedule"
        raise click.UsageError(f"--patch-size {kind} is for the denoiser pspc; give an integer.")
    return PatchDenoiser(patch_size or 8, **settings)


def _keep_state(stop, out, walk):
    """Save the state of an interrupted run beside its output; say how to go on."""
    path = out.with_suffix(".partial.npz")
    state = {"initial": stop.z, "sigma_max": stop.sigma, "n_steps": stop.n_steps, **walk}
    write_output(path, lambda: None, state)
    return (
        f"interrupted at sigma {stop.sigma:.4g}, {stop.n_steps} steps before the end; the state "
        f"is kept in {path}. The same command with --resume {path} does the rest."
    )


def _read_state(path, walk):
    """The start of the rest of an interrupted run, as arguments of ``sample``."""
    failure, remedy = "is not what an interrupted `skpspc sample` kept", "give that file"
    state = load_arrays(path, failure, remedy)
    with reading(path, failure, remedy):
        kept = {name: state[name].item() for name in walk}
        start = {
            "initial": state["initial"],
            "sigma_max": float(state["sigma_max"]),
            "n_steps": int(state["n_steps"]),
        }
    other = [f"{name} {kept[name]!r}" for name in walk if kept[name] != walk[name]]
    if other:
        raise ValueError(f"'{path}' is of a run with {', '.join(other)}; give the same options.")
    return start


def _load(data, max_images, image_size, channels, max_bytes, out):
    from .datasets._files import load_images

    loaded = load_images(
        data, max_images=max_images, size=image_size, channels=channels, max_bytes=max_bytes
    )
    if out.suffix.lower() == ".png":
        check_picturable(loaded.images.shape)
    return loaded


def _class_number(label, loaded):
    """What stands in the targets for a class that is named."""
    if loaded.target is None:
        raise ValueError("--label is for data with classes, and this data has none.")
    numbers = np.unique(loaded.target).tolist()
    named = dict(enumerate(loaded.classes or []))
    names = [str(named.get(number, number)) for number in numbers]
    if label not in names:
        raise ValueError(f"--label must be one of {', '.join(names)}; got {label!r}.")
    return numbers[names.index(label)]


def _hold_out(images, n, sigma, seed):
    """Take ``n`` random images out of the training set and add noise to them."""
    check_held_out(n, images)
    rng = np.random.default_rng(seed)
    held_out = rng.permutation(len(images))[:n]
    clean = _as_float(images[held_out])
    z = clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32)
    return held_out, np.delete(images, held_out, axis=0), clean, z


def _read_noisy(path):
    z = map_array(path, "cannot be read as a .npy array", "write it with numpy.save")
    if z.ndim != 4:
        raise ValueError(f"'{path}' must be a .npy of shape (n, C, H, W), got shape {z.shape}.")
    return _as_float(np.array(z))


def _as_float(images):
    """uint8 images as floats in [-1, 1]; all others as they are."""
    if images.dtype != np.uint8:
        return images
    return to_compute(torch.from_numpy(images), torch.float32).numpy()


def _central(images, shape):
    """Crop to the central patch, the one that the patch denoiser answers for."""
    top, left = ((whole - part) // 2 for whole, part in zip(images.shape[2:], shape, strict=True))
    return images[:, :, top : top + shape[0], left : left + shape[1]]


def _summary(rows, n_train, sigma):
    if len(rows) == 2:
        return f"{len(rows[0])} images denoised at sigma {sigma:g} with {n_train} training images"
    clean, noisy, denoised = rows
    before, after = (np.square(row - clean).mean() for row in (noisy, denoised))
    return (
        f"{len(clean)} images held out of the training set ({n_train} others), sigma {sigma:g}, "
        f"mean squared error {after:.4f} (noisy {before:.4f})"
    )
