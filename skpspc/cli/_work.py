"""Functions of the commands that need NumPy and torch, imported when a command runs."""

import json
import numbers
from pathlib import Path

import numpy as np
import torch
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, make_constraint

import skpspc

from .. import PatchSchedule
from ..datasets._files import load_images
from ..denoisers.base import Denoiser
from ..inspection import nearest_training_images
from ..support.training_set import to_compute
from ._denoiser_options import bad_value
from ._noisy import read_noisy
from ._picture import check_picturable
from ._schedule_file import ScheduleFile, schedule_text


def make_denoiser(choice, seed, device):
    """Return the denoiser of a `Choice`; raise if a value is out of range."""
    settings = {"random_state": seed, "device": device}
    made = [
        _estimator(each, values, settings)
        for each, values in zip(choice.inner, choice.values[1:], strict=True)
    ]
    outer, values = choice.denoiser, dict(choice.values[0])
    if outer.many:
        names = [each.name for each in choice.inner]
        values[outer.inner] = list(zip(names, made, strict=True))
    elif outer.inner is not None:
        (values[outer.inner],) = made
    return _estimator(outer, values, settings)


def _estimator(description, values, settings):
    """Return an estimator with the values of its options, and the settings that it has."""
    settings = {name: value for name, value in settings.items() if name in description.arguments}
    values = {
        name: value.schedule if isinstance(value, ScheduleFile) else value
        for name, value in values.items()
    }
    estimator = getattr(skpspc, description.class_name)(**settings, **values)
    for parameter in description.parameters.values():
        if parameter.name in values:
            _check_value(parameter, description, estimator)
    return estimator


def _check_value(parameter, description, estimator):
    """Raise if an estimator does not accept the value of an option."""
    constraints = estimator._parameter_constraints[parameter.name]
    value = getattr(estimator, parameter.name)
    if not any(make_constraint(each).is_satisfied_by(value) for each in constraints):
        ranges = [_range(each) for each in constraints if isinstance(each, Interval)]
        raise bad_value(
            parameter.name,
            f"for the denoiser {description.name} it must be {parameter.alternatives(ranges)}, "
            f"got {value!r}.",
        )


def _range(interval):
    """Return an interval in words."""
    bounds = []
    if interval.left is not None:
        closed = interval.closed in ("left", "both")
        bounds.append(f"{'of at least' if closed else 'above'} {interval.left:g}")
    if interval.right is not None:
        closed = interval.closed in ("right", "both")
        bounds.append(f"{'at most' if closed else 'below'} {interval.right:g}")
    noun = "an integer" if interval.type is numbers.Integral else "a number"
    return f"{noun} {' and '.join(bounds)}"


def patch_size_text(denoiser):
    """Return the patch size as text: a schedule as JSON, "" for a denoiser without patches."""
    patch_size = denoiser.get_params().get("patch_size", "")
    return schedule_text(patch_size) if isinstance(patch_size, PatchSchedule) else str(patch_size)


def parameters_text(choice):
    """Return as JSON the values that options give, other than the patch size of the denoiser."""
    outer, *inner = (
        {name: _plain(value) for name, value in sorted(values.items())} for values in choice.values
    )
    outer.pop("patch_size", None)
    if inner:
        names = [each.class_name for each in choice.inner]
        outer["inner"] = dict(zip(names, inner, strict=True))
    return json.dumps(outer)


def _plain(value):
    """Return a value as JSON has it."""
    is_file = isinstance(value, ScheduleFile)
    return json.loads(schedule_text(value.schedule)) if is_file else value


def load(data, out, choice, z=None, **selection):
    """Load the training images.

    Raises if ``out`` is a picture and cannot show them, or if the file of patch sizes of a `Choice`
    is of images of another size. ``z`` are noisy images of the user or None. With them,
    ``channels`` may be meant for them alone.
    """
    if z is not None and not (Path(data).is_dir() or data.lower().endswith(".zip")):
        selection["channels"] = "auto"
    loaded = load_images(data, **selection)
    if out.suffix.lower() == ".png":
        check_picturable(loaded.images.shape)
    for value in (value for values in choice.values for value in values.values()):
        if isinstance(value, ScheduleFile):
            value.check_fits(loaded.images)
    return loaded


def check_shape(estimator, z, images):
    """Raise if noisy images of the user have another shape than the training images.

    Denoisers that may take other shapes check it themselves, after they are fitted.
    """
    kind = type(estimator)
    of_one_shape = kind._input_shapes is Denoiser._input_shapes
    may_differ = getattr(kind, "_any_size", False) or not of_one_shape
    given, expected = z.shape[1:], images.shape[1:]
    if may_differ or given == expected:
        return
    remedy = "resize the training images (--image-size), or give noisy images of their shape"
    if given[1:] == expected[1:]:
        remedy = f"--channels {expected[0]} converts image files"
    raise ValueError(
        f"--z holds images of shape {given} (channels, height, width), but the training images "
        f"have shape {expected}; {remedy}."
    )


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


def noisy_images(estimator, choice, z, n, sigma, label, data, out, seed, selection):
    """Return the noisy images of a command, and the training images.

    Parameters
    ----------
    z : str or None
        Option ``--z``. None: add noise to n images of the data, and train without them.
    selection : dict
        Options that select training images.

    Returns
    -------
    Bunch
        ``noisy`` (m, C, H, W); ``clean`` (m, C, H, W) or None; ``origin``, a dict of arrays for
        the output; ``images`` and ``target`` for the fit; ``y``, the number of the class ``label``.
        Without a label, ``target`` and ``y`` are None.
    """
    noisy = None
    if z is not None:
        noisy = read_noisy(z, selection["channels"], selection["max_bytes"])
    loaded = load(data, out, choice, noisy, **selection)
    y = None if label is None else class_number(label, loaded)
    clean, origin, images = None, {}, loaded.images
    target = None if label is None else loaded.target
    if noisy is None:
        check_held_out(n, images)
        rng = np.random.default_rng(seed)
        held_out = rng.permutation(len(images))[:n]
        clean = _as_float(images[held_out])
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        noisy = clean + np.float32(sigma) * noise
        origin = {"clean": clean, "held_out": held_out}
        images = np.delete(images, held_out, axis=0)
        target = None if target is None else np.delete(target, held_out)
    check_shape(estimator, noisy, images)
    return Bunch(
        noisy=noisy,
        clean=clean,
        origin=origin,
        images=images,
        target=target,
        y=y,
    )


def _as_float(images):
    """Return uint8 images as floats on [-1, 1]."""
    return to_compute(torch.from_numpy(images), torch.float32).numpy()


def answered(estimator, images):
    """Return the pixels of images that a fitted denoiser estimates: all, or patches."""
    return estimator._prior_of().answered(torch.from_numpy(images)).numpy()


def check_picture(estimator, images, out):
    """Raise if ``out`` is a picture and cannot show the results of a fitted denoiser."""
    if out.suffix.lower() == ".png":
        check_picturable(answered(estimator, images[:1]).shape)


def nearest_distances(estimator, samples, images):
    """Return the distance of each sample to its nearest training image or patch."""
    patches = answered(estimator, images)
    shape = (-1, *patches.shape[-2:])  # several patches count as channels
    flat = (array.reshape(len(array), *shape) for array in (samples, patches))
    return nearest_training_images(*flat)[0]


def summary(rows, n_train, sigma):
    """Return a sentence about the result of ``denoise``."""
    n = len(rows[0])
    if len(rows) == 2:
        images = "1 image" if n == 1 else f"{n} images"
        return f"{images} denoised at sigma {sigma:g} with {n_train} training images"
    clean, noisy, denoised = rows
    before, after = (np.square(row - clean).mean() for row in (noisy, denoised))
    held_out = "1 held-out image" if n == 1 else f"{n} held-out images"
    return (
        f"{held_out} denoised at sigma {sigma:g} with {n_train} training images; "
        f"mean squared error {after:.4f} (noisy images: {before:.4f})"
    )
