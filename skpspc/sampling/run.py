"""One run of a sampler, and the state from which an interrupted run continues."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from .noise import StepNoise
from .samplers import SamplingInterrupted


class Recorder:
    """A function ``denoise(z, sigma)`` that keeps its last call.

    Parameters
    ----------
    denoise : callable
        ``denoise(z, sigma)`` returns clean images.
    last : tuple of (float, Tensor) or None
        Noise level and clean images of an earlier call.
    """

    def __init__(
        self,
        denoise: Callable[[torch.Tensor, float], torch.Tensor],
        last: tuple[float, torch.Tensor] | None = None,
    ) -> None:
        self.denoise = denoise
        self.last = last

    def __call__(self, z: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the clean images."""
        x0 = self.denoise(z, sigma)
        self.last = sigma, x0
        return x0


class Run:
    """One run of a sampler; its attributes describe the last finished step.

    Parameters
    ----------
    denoise : callable
        ``denoise(z, sigma)`` returns clean images.
    z : Tensor of shape (n, C, H, W)
        Noisy images at the first noise level.
    sigmas : sequence of float
        Decreasing, positive noise levels.
    seed : int
        Seed of the noise of stochastic samplers.
    previous : tuple of (float, Tensor) or None
        Last call of the denoiser before the run.
    done_before : int, default 0
        Number of steps that an interrupted run has finished.

    Attributes
    ----------
    z : Tensor of shape (n, C, H, W)
        Noisy images after the last finished step.
    done : int
        Number of finished steps.
    previous : tuple of (float, Tensor) or None
        Noise level and clean images of the denoiser's last call in a finished step.
    """

    def __init__(
        self,
        denoise: Callable[[torch.Tensor, float], torch.Tensor],
        z: torch.Tensor,
        sigmas: Sequence[float],
        seed: int,
        previous: tuple[float, torch.Tensor] | None = None,
        done_before: int = 0,
    ) -> None:
        self.denoise = Recorder(denoise, previous)
        self.z = z
        self.sigmas = list(sigmas)
        self.seed = seed
        self.previous = previous
        self.done_before = done_before
        self.done = 0

    def steps(self, sampler: Callable) -> Iterator[tuple[int, float, torch.Tensor]]:
        """Yield the number of the step, the reached noise level and the state after each step.

        Raises ValueError if the sampler does not take one step for each noise level.
        """
        n_steps = len(self.sigmas)
        noise = StepNoise(self.seed, n_steps)
        total = self.done_before + n_steps
        sampler = supplied(sampler, noise=noise, previous=self.previous, n_steps=total)
        targets = [*self.sigmas[1:], 0.0]
        for step, z in enumerate(sampler(self.denoise, self.z, list(self.sigmas)), 1):
            if step > n_steps:
                raise ValueError(_wrong_count(sampler, n_steps, "more"))
            self.z, self.previous, self.done = z, self.denoise.last, step
            noise.begin_step(n_steps - step)
            yield step, targets[step - 1], z
        if self.done < n_steps:
            raise ValueError(_wrong_count(sampler, n_steps, self.done))

    def stopped(self, restore: Callable, states: Any = None) -> SamplingInterrupted:
        """Return the state after the last finished step.

        ``restore`` converts tensors to the container of the user.
        """
        previous = self.previous
        if previous is not None:
            previous = previous[0], restore(previous[1])
        sigmas = self.sigmas[self.done :]
        done = self.done_before + self.done
        return SamplingInterrupted(restore(self.z), sigmas, states, self.seed, previous, done)


def supplied(sampler: Callable, **options: Any) -> Callable:
    """Return a sampler with those of the options that it takes and that are not set yet."""
    new = {name: value for name, value in options.items() if takes(sampler, name)}
    return partial(sampler, **new) if new else sampler


def takes(sampler: Callable, keyword: str) -> bool:
    """Return True if a sampler takes a keyword, and no `functools.partial` sets it."""
    try:
        parameters = inspect.signature(sampler).parameters
    except (TypeError, ValueError):  # a callable without a signature
        return False
    return keyword in parameters and keyword not in getattr(sampler, "keywords", {})


def _wrong_count(sampler, n_steps, count):
    return (
        f"sampler {sampler!r} must yield one state for each of the {n_steps} steps, but yielded "
        f"{count}."
    )
