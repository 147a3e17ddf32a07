"""State of an unfinished run of ``skpspc sample``: saved after every step, read by ``--resume``."""

import hashlib
import json
import math
import os

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save

from .._input import reading
from .._output import remove_unfinished, replacing
from ..sampling.run import Recorder, supplied, takes
from ._interrupt import InterruptsHeld, say_on_interrupt


def fingerprint(*arrays):
    """Return a SHA-256 of arrays or None, with their shapes and dtypes, in hexadecimal."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is None:
            digest.update(b"none")
        else:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write_state(path, z, done, settings, previous=None):
    """Replace the state of a run in one step.

    ``z`` (n, C, H, W) holds the noisy images after ``done`` steps. ``settings`` is a dict of JSON
    values: every setting that influences the samples. ``previous`` is the last call of the
    denoiser, noise level and clean images (n, C, H, W), if the sampler continues from it.
    """
    arrays = {"z": np.ascontiguousarray(z)}
    state = {"done": done, **settings}
    if previous is not None:
        state["previous_sigma"] = previous[0]
        arrays["previous_x0"] = np.ascontiguousarray(previous[1])
    text = json.dumps(state)
    metadata = {"state": text, "sha256": _checksum(text, arrays)}
    with replacing(path) as file:
        file.write(save(arrays, metadata))


def read_state(path, settings):
    """Return noisy images (n, C, H, W), the number of steps done, and ``previous`` or None.

    Raises OSError if the file cannot be read, and ValueError if the file is not a state, is
    damaged, or belongs to a run with other ``settings``.
    """
    failure = "is not the state of a `skpspc sample` or is damaged"
    with reading(path, failure, "delete it to start anew"):
        with open(path, "rb"):  # `safe_open` raises errors without the name of the file
            pass
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _checksum(metadata["state"], arrays):
            raise ValueError("its checksum is wrong")
        state = json.loads(metadata["state"])
        z, done, previous = arrays["z"], state["done"], None
        if "previous_x0" in arrays:
            previous = state["previous_sigma"], arrays["previous_x0"]
        _check_values(z, done, previous)
        other = [name for name in settings if state[name] != settings[name]]
    if "images" in other:
        raise ValueError(
            f"'{path}' is the state of a run on other training images; give the --data of that "
            "run, or delete the file to start anew."
        )
    if other:
        differences = ", ".join(f"{name} {state[name]!r}" for name in other)
        raise ValueError(
            f"'{path}' is the state of a run with {differences}; give the options of that run, or "
            "delete the file to start anew."
        )
    return z, done, previous


def _check_values(z, done, previous):
    """Raise if values of a file have another type than `write_state` gives them."""
    sigma, x0 = (1.0, z) if previous is None else previous
    if type(done) is not int or done < 0:
        raise ValueError(f"{done!r} steps are done")
    if type(sigma) is not float or not 0 < sigma < math.inf:
        raise ValueError(f"the last noise level is {sigma!r}")
    for images in (z, x0):
        if images.dtype.kind != "f" or not np.isfinite(images).all():
            raise ValueError("its images are not finite numbers")


def _check_fits(path, start, z, n_steps):
    """Raise if a state has more steps or images of another shape than the run (z)."""
    kept, done, previous = start
    shapes = {kept.shape, kept.shape if previous is None else previous[1].shape}
    if done > n_steps or shapes != {tuple(z.shape)}:
        raise ValueError(
            f"'{path}' is the state of a run with {done} steps done on images of shape "
            f"{kept.shape}, and this run has {n_steps} steps and shape {tuple(z.shape)}; delete "
            "the file to start anew."
        )


def _checksum(text, arrays):
    named = "".join(f"{name}{fingerprint(arrays[name])}" for name in sorted(arrays))
    return hashlib.sha256(f"{text}{named}".encode()).hexdigest()


def keeping_state(sampler, path, settings, start=None):
    """Return a sampler that takes the steps of ``sampler`` and saves the state after each step.

    A step depends on z, sigmas, the seed, the number of remaining steps and, for a multistep
    sampler, the last call of the denoiser. The state holds all of them, so the results are equal to
    the last bit. ``start`` is a state from `read_state`, to continue from.
    """

    def walk(denoise, z, sigmas, *, noise):
        done, previous = 0, None
        if start is not None:
            _check_fits(path, start, z, len(sigmas))
            kept, done, previous = start
            z = torch.from_numpy(kept).to(z)
            if previous is not None:
                previous = previous[0], torch.from_numpy(previous[1]).to(z)
            say_on_interrupt(_interrupted(done, len(sigmas), path))
        for _ in range(done):
            yield z
        denoise = Recorder(denoise, previous)
        steps = supplied(sampler, noise=noise, previous=previous, n_steps=len(sigmas))
        for reached in steps(denoise, z, sigmas[done:]):
            done += 1
            with InterruptsHeld():
                previous = _on_cpu(denoise.last) if takes(sampler, "previous") else None
                write_state(path, reached.cpu().numpy(), done, settings, previous)
                say_on_interrupt(_interrupted(done, len(sigmas), path))
            yield reached

    return walk


def _on_cpu(call):
    sigma, x0 = call
    return sigma, x0.cpu().numpy()


def _interrupted(done, n_steps, path):
    return (
        f"interrupted after {done} of {n_steps} steps; the state is saved in '{path}'. Run the "
        "same command with --resume to continue."
    )


def check_state(path, resume):
    """Return True if there is a saved state to continue from.

    Raises ValueError if there is a state and ``resume`` is False, OSError if no file can have that
    name.
    """
    remove_unfinished(path)
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    if not resume:
        raise ValueError(
            f"'{path}' holds the state of an unfinished run with this --out; add --resume to "
            "continue that run, or delete the file to start anew."
        )
    return True
