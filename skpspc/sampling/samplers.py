"""Samplers: functions that turn noise into images by repeated calls of ``denoise(z, sigma)``.

The probability-flow ODE of z = x + sigma * eps is (Song et al. 2021; Karras et al. 2022, Eq. 1)

    dz / dsigma = (z - D(z; sigma)) / sigma.

A sampler is a function ``sampler(denoise, z, sigmas)``. It starts with the noisy images ``z`` at
noise level ``sigmas[0]`` and yields the noisy images after each step, the last at sigma = 0.
``denoise`` takes noisy images (n, ...) and one float.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from .._typing import Array, Container


class SamplingInterrupted(KeyboardInterrupt):
    """Ctrl-C during ``sample``; holds the noisy images of the last finished step.

    Attributes
    ----------
    z : array of shape (n, ...)
        Noisy images at noise level ``sigma``.
    sigma : float
        Noise level of ``z``.
    n_steps : int
        Number of remaining steps.
    trajectory : array of shape (finished steps + 1, n, ...) or None
        Noisy images of all finished steps, the initial noise first; None unless ``sample`` was
        called with ``return_trajectory=True``.

    Examples
    --------
    Continue a run that was interrupted::

        try:
            samples = denoiser.sample(1000)
        except SamplingInterrupted as stop:
            samples = denoiser.sample(
                1000, initial=stop.z, sigma_max=stop.sigma, n_steps=stop.n_steps
            )
    """

    def __init__(
        self, z: Array, sigma: float, n_steps: int, trajectory: Array | None = None
    ) -> None:
        super().__init__(
            f"sampling was interrupted at sigma = {sigma:.4g}, {n_steps} steps before the end; "
            "catch this exception as `stop` and continue with sample(initial=stop.z, "
            "sigma_max=stop.sigma, n_steps=stop.n_steps) and your other arguments."
            if n_steps
            else "sampling was interrupted after its last step; the samples are in `stop.z`."
        )
        self.z = z
        self.sigma = sigma
        self.n_steps = n_steps
        self.trajectory = trajectory

    def __reduce__(self):
        return type(self), (self.z, self.sigma, self.n_steps, self.trajectory)


def euler(
    denoise: Callable[[Container, float], Container], z: Container, sigmas: Iterable[float]
) -> Iterator[Container]:
    """Yield the noisy images after each first-order step, with one call of ``denoise`` per step.

    Parameters
    ----------
    denoise : callable
        ``denoise(z, sigma)`` returns clean images (n, ...) from noisy images and a float.
    z : Tensor or array of shape (n, ...)
        Noisy images at noise level ``sigmas[0]``.
    sigmas : sequence of float
        Decreasing positive noise levels, such as those of :func:`~skpspc.edm_sigmas`; the last
        step leads to 0.

    Yields
    ------
    Tensor or array of shape (n, ...)
        Noisy images at the next noise level; the last are the samples.

    Examples
    --------
    Data of variance 1 have the denoiser ``z / (1 + sigma^2)``. The exact ODE leads from 80 to
    80 / sqrt(1 + 80^2) = 0.9999; 18 first-order steps end at 0.86:

    >>> import torch
    >>> from skpspc import edm_sigmas
    >>> from skpspc.sampling import euler
    >>> def denoise(z, sigma):
    ...     return z / (1 + sigma**2)
    >>> *_, last = euler(denoise, torch.tensor([[80.0]]), edm_sigmas(18))
    >>> round(float(last), 2)
    0.86
    """
    for sigma, target in pairwise([*sigmas, 0.0]):
        x0 = denoise(z, sigma)
        z = x0 + (target / sigma) * (z - x0)
        yield z


def heun(
    denoise: Callable[[Container, float], Container], z: Container, sigmas: Iterable[float]
) -> Iterator[Container]:
    """Yield the noisy images after each second-order step (Karras et al. 2022, Alg. 1).

    A step takes two calls of ``denoise``, and the last step one.

    Parameters
    ----------
    denoise : callable
        ``denoise(z, sigma)`` returns clean images (n, ...) from noisy images and a float.
    z : Tensor or array of shape (n, ...)
        Noisy images at noise level ``sigmas[0]``.
    sigmas : sequence of float
        Decreasing positive noise levels, such as those of :func:`~skpspc.edm_sigmas`; the last
        step leads to 0.

    Yields
    ------
    Tensor or array of shape (n, ...)
        Noisy images at the next noise level; the last are the samples.

    Examples
    --------
    Data of variance 1 have the denoiser ``z / (1 + sigma^2)``. The exact ODE leads from 80 to
    80 / sqrt(1 + 80^2) = 0.9999; 18 second-order steps end at 1.04:

    >>> import torch
    >>> from skpspc import edm_sigmas
    >>> from skpspc.sampling import heun
    >>> def denoise(z, sigma):
    ...     return z / (1 + sigma**2)
    >>> *_, last = heun(denoise, torch.tensor([[80.0]]), edm_sigmas(18))
    >>> round(float(last), 2)
    1.04
    """
    for sigma, target in pairwise([*sigmas, 0.0]):
        x0 = denoise(z, sigma)
        slope = (z - x0) / sigma
        proposal = x0 + (target / sigma) * (z - x0)
        if target > 0:
            slope = (slope + (proposal - denoise(proposal, target)) / target) / 2
            proposal = z + (target - sigma) * slope
        z = proposal
        yield z


SAMPLERS = {"euler": euler, "heun": heun}
