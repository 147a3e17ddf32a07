"""Standard normal noise, with one random stream per sample."""

import numbers
from collections.abc import Sequence

import numpy as np
import torch

from .._typing import RandomState


def draw_noise(
    shape: Sequence[int],
    n: int,
    random_state: RandomState | None,
    start: int = 0,
    stream: tuple[int, ...] = (),
) -> torch.Tensor:
    """Return standard normal noise for n samples, with one random stream per sample.

    Parameters
    ----------
    shape : tuple of int
        Shape of one sample.
    n : int
        Number of samples.
    random_state : int, RandomState, Generator or None
        Seed. Sample i depends on the seed and i only, never on n. A RandomState or Generator
        advances by one draw; None seeds from the operating system.
    start : int, default 0
        Index of the first sample: the result equals ``[start : start + n]`` of a longer draw.
    stream : tuple of int, default ()
        Non-negative ints. Draws with different tuples are independent, also with equal seeds.

    Returns
    -------
    Tensor of shape ``(n, *shape)``, float64

    Raises
    ------
    ValueError
        If ``random_state`` is a negative int or of another type.

    Examples
    --------
    The first sample of a larger draw is the sample of a smaller draw:

    >>> from skpspc.sampling import draw_noise
    >>> draw_noise((3,), 1, random_state=0).numpy().round(2)
    array([[ 1.44, -0.9 ,  0.74]])
    >>> draw_noise((3,), 2, random_state=0).numpy().round(2)
    array([[ 1.44, -0.9 ,  0.74],
           [ 0.81, -1.91, -3.5 ]])
    """
    entropy = noise_seed(random_state)
    noise = torch.empty((n, *shape), dtype=torch.float64)
    for i in range(n):
        seeds = np.random.SeedSequence(entropy, spawn_key=(start + i, *stream))
        noise[i] = torch.from_numpy(np.random.default_rng(seeds).standard_normal(shape))
    return noise


def noise_seed(random_state: RandomState | None) -> int:
    """Return an int seed, to draw equal noise in several calls of `draw_noise`.

    Parameters
    ----------
    random_state : int, RandomState, Generator or None
        An int is returned unchanged. A RandomState or Generator advances by one draw; None seeds
        from the operating system.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If ``random_state`` is a negative int or of another type.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc.sampling import noise_seed
    >>> noise_seed(7)
    7
    >>> noise_seed(np.random.RandomState(0))
    209652396
    """
    if random_state is None:
        return np.random.SeedSequence().entropy  # type: ignore[return-value]
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


class StepNoise:
    """Noise for the steps of a stochastic sampler: call it with noisy images.

    The noise of sample i depends on the seed, i, the number of remaining steps, and the number of
    earlier draws in the step. So a run that continues after some steps gets the noise of an
    uninterrupted run.

    Parameters
    ----------
    seed : int
        Seed, see `noise_seed`.
    remaining : int
        Number of remaining steps, including the current one.
    start : int, default 0
        Index of the first sample.
    """

    def __init__(self, seed: int, remaining: int, start: int = 0) -> None:
        self.seed = seed
        self.start = start
        self.begin_step(remaining)

    def begin_step(self, remaining: int) -> None:
        """Begin the step with so many remaining steps, itself included."""
        self.remaining = remaining
        self.n_draws = 0

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Return standard normal noise with the shape, device and dtype of z (n, ...)."""
        stream = self.remaining, self.n_draws
        self.n_draws += 1
        return draw_noise(z.shape[1:], len(z), self.seed, self.start, stream).to(z)
