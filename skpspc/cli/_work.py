"""Functions of the commands that need NumPy and torch, imported when a command runs."""

import click
import numpy as np
import torch

from .. import EmpiricalDenoiser, PatchDenoiser, PatchSchedule, PSPCDenoiser
from .._input import map_array
from ..datasets._files import load_images
from ..support.training_set import to_compute
from ._picture import check_picturable
from ._schedule_file import ScheduleFile, schedule_text


def make_denoiser(name, patch_size, seed, device):
    """Return the denoiser chosen by the options."""
    settings = {"device": device, "random_state": seed}
    if name == "empirical":
        if patch_size is not None:
            raise click.UsageError(
                "--patch-size is for the denoisers patch and pspc; leave it out for empirical."
            )
        return EmpiricalDenoiser(**settings)
    if name == "pspc":
        if isinstance(patch_size, ScheduleFile):
            patch_size = patch_size.schedule
        return PSPCDenoiser(patch_size or "paper", **settings)
    if not (patch_size is None or isinstance(patch_size, int)):
        kind = patch_size if isinstance(patch_size, str) else "with a schedule"
        raise click.UsageError(f"--patch-size {kind} is for the denoiser pspc; give an integer.")
    return PatchDenoiser(patch_size or 8, **settings)


def patch_size_text(denoiser):
    """Return the patch size as text: a schedule as JSON, "" for a denoiser without patches."""
    patch_size = denoiser.get_params().get("patch_size", "")
    return schedule_text(patch_size) if isinstance(patch_size, PatchSchedule) else str(patch_size)


def load(data, out, patch_size, **selection):
    """Load the training images.

    Raises if ``out`` is a picture and cannot show them, or if the patch sizes of a file were chosen
    on images of another height or width.
    """
    loaded = load_images(data, **selection)
    if isinstance(patch_size, ScheduleFile):
        patch_size.check_fits(loaded.images)
    if out.suffix.lower() == ".png":
        check_picturable(loaded.images.shape)
    return loaded


def class_number(label, loaded):
    """Return the number of the class named ``label``."""
    if loaded.target is None:
        raise ValueError("--label is for data with classes, and this data has none; omit it.")
    numbers = np.unique(loaded.target).tolist()
    named = dict(enumerate(loaded.classes or []))
    names = [str(named.get(number, number)) for number in numbers]
    if label not in names:
        raise ValueError(f"--label must be one of {', '.join(names)}; got {label!r}.")
    return numbers[names.index(label)]


def check_held_out(n, images):
    """Raise if holding out ``n`` images leaves no training image."""
    if n >= len(images):
        raise ValueError(
            f"holding {n} of {len(images)} images out leaves no training image; lower -n."
        )


def hold_out(images, n, sigma, seed):
    """Return indices of ``n`` random images, all other images, and the n images clean and noisy."""
    check_held_out(n, images)
    rng = np.random.default_rng(seed)
    held_out = rng.permutation(len(images))[:n]
    clean = _as_float(images[held_out])
    z = clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32)
    return held_out, np.delete(images, held_out, axis=0), clean, z


def read_noisy(path):
    """Read noisy images (n, C, H, W) from a .npy."""
    z = map_array(path, "cannot be read as a .npy array", "write it with numpy.save")
    if z.ndim != 4:
        raise ValueError(f"'{path}' must be a .npy of shape (n, C, H, W), got shape {z.shape}.")
    return _as_float(np.array(z))


def _as_float(images):
    """Return uint8 images as floats on [-1, 1], and other images unchanged."""
    if images.dtype != np.uint8:
        return images
    return to_compute(torch.from_numpy(images), torch.float32).numpy()


def central(images, shape):
    """Crop images to the central patch, the part that `PatchDenoiser` denoises."""
    top, left = ((side - kept) // 2 for side, kept in zip(images.shape[2:], shape, strict=True))
    return images[:, :, top : top + shape[0], left : left + shape[1]]


def summary(rows, n_train, sigma):
    """Return a sentence about the result of ``denoise``."""
    if len(rows) == 2:
        return f"{len(rows[0])} images denoised at sigma {sigma:g} with {n_train} training images"
    clean, noisy, denoised = rows
    before, after = (np.square(row - clean).mean() for row in (noisy, denoised))
    return (
        f"{len(clean)} held-out images denoised at sigma {sigma:g} with {n_train} training images; "
        f"mean squared error {after:.4f} (noisy images: {before:.4f})"
    )
