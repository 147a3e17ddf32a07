"""State of an unfinished run of ``skpspc sample``: saved after every step, read by ``--resume``."""

import hashlib
import json
import os

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save

from .._input import reading
from .._output import remove_unfinished, replacing
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


def write_state(path, z, done, settings):
    """Replace the state of a run in one step.

    ``z`` (n, C, H, W) holds the noisy images after ``done`` steps. ``settings`` is a dict of JSON
    values: every setting that influences the samples.
    """
    text = json.dumps({"done": done, **settings})
    metadata = {"state": text, "sha256": _checksum(text, z)}
    with replacing(path) as file:
        file.write(save({"z": np.ascontiguousarray(z)}, metadata))


def read_state(path, settings):
    """Return the noisy images (n, C, H, W) and the number of steps done.

    Raises OSError if the file cannot be read, and ValueError if the file is not a state, is
    damaged, or belongs to a run with other ``settings``.
    """
    failure = "is not the state of a `skpspc sample` or is damaged"
    with reading(path, failure, "delete it to start anew"):
        with open(path, "rb"):  # `safe_open` raises errors without the name of the file
            pass
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
            z = file.get_tensor("z")
        if metadata["sha256"] != _checksum(metadata["state"], z):
            raise ValueError("its checksum is wrong")
        state = json.loads(metadata["state"])
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
    return z, state["done"]


def _checksum(text, z):
    return hashlib.sha256(f"{text}{fingerprint(z)}".encode()).hexdigest()


def keeping_state(sampler, path, settings, start=None):
    """Return a sampler that takes the steps of ``sampler`` and saves the state after each step.

    A step of ``sampler(denoise, z, sigmas)`` depends on z and sigmas alone, so the results are
    equal to the last bit. ``start`` is a state from `read_state`, to continue from.
    """

    def walk(denoise, z, sigmas):
        done = 0
        if start is not None:
            done = start[1]
            z = torch.from_numpy(start[0]).to(z)
            say_on_interrupt(_interrupted(done, len(sigmas), path))
        for _ in range(done):
            yield z
        for reached in sampler(denoise, z, sigmas[done:]):
            done += 1
            with InterruptsHeld():
                write_state(path, reached.cpu().numpy(), done, settings)
                say_on_interrupt(_interrupted(done, len(sigmas), path))
            yield reached

    return walk


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
