"""Samplers: generators over ``denoise(z, sigma)``.

The probability-flow ODE of z = x + sigma * eps is (Song et al. 2021; Karras et al. 2022, Eq. 1)

    dz / dsigma = (z - D(z; sigma)) / sigma.

A sampler is a function ``sampler(denoise, z, sigmas)`` that starts at ``z`` with noise level
``sigmas[0]`` and yields the state after each step, the last at sigma = 0. ``denoise`` takes a
tensor (n, ...) and one float.
"""

from itertools import pairwise


class SamplingInterrupted(KeyboardInterrupt):
    """Sampling stopped by Ctrl-C, with the state reached.

    ``denoiser.sample(initial=stop.z, sigma_max=stop.sigma, n_steps=stop.n_steps)`` samples
    the rest of the trajectory.

    Attributes
    ----------
    z : array of shape (n, ...)
        Noisy images at ``sigma``.
    sigma : float
        Noise level of ``z``.
    n_steps : int
        Steps that remain.
    trajectory : array of shape (steps done + 1, n, ...) or None
        The states so far, for ``return_trajectory=True``.
    """

    def __init__(self, z, sigma, n_steps, trajectory=None):
        super().__init__(
            f"sampling was interrupted at sigma = {sigma:.4g}, {n_steps} steps before the end; "
            "catch this exception as `stop` and go on with sample(initial=stop.z, "
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


def euler(denoise, z, sigmas):
    """Yield the states of first-order steps, each with one call of ``denoise``."""
    for sigma, target in pairwise([*sigmas, 0.0]):
        x0 = denoise(z, sigma)
        z = x0 + (target / sigma) * (z - x0)
        yield z


def heun(denoise, z, sigmas):
    """Yield the states of second-order steps (Karras et al. 2022, Alg. 1).

    A step takes two calls of ``denoise``, the last step one.
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
