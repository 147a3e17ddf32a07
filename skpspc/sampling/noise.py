"""Standard normal noise with a stream for each sample."""

import numbers

import numpy as np
import torch


def draw_noise(shape, n, random_state, start=0):
    """Return standard normal noise, one stream per sample.

    Parameters
    ----------
    shape : tuple of int
        Shape of one sample.
    n : int
    random_state : int, RandomState, Generator or None
        Row i depends on ``random_state`` and i only, never on n. A RandomState or Generator
        advances by one draw; None takes fresh entropy.
    start : int, default 0
        Number of the first row: rows ``start`` to ``start + n`` of a longer draw.

    Returns
    -------
    Tensor of shape ``(n, *shape)``, float64
    """
    entropy = noise_seed(random_state)
    noise = torch.empty((n, *shape), dtype=torch.float64)
    for i in range(n):
        seeds = np.random.SeedSequence(entropy, spawn_key=(start + i,))
        noise[i] = torch.from_numpy(np.random.default_rng(seeds).standard_normal(shape))
    return noise


def noise_seed(random_state):
    """Return an int that replaces ``random_state`` in several calls of `draw_noise`."""
    if random_state is None:
        return np.random.SeedSequence().entropy
    if isinstance(random_state, numbers.Integral) and int(random_state) >= 0:
        return int(random_state)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    raise ValueError(
        "random_state must be None, a non-negative int, a RandomState or a Generator, got "
        f"{random_state!r}."
    )
