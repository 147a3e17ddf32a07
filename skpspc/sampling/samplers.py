"""Samplers: functions that turn noise into images by repeated calls of ``denoise(z, sigma)``.

The probability-flow ODE of z = x + sigma * eps is (Song et al. 2021; Karras et al. 2022, Eq. 1)

    dz / dsigma = (z - D(z; sigma)) / sigma.

A sampler is a function ``sampler(denoise, z, sigmas)``. It starts with the noisy images ``z`` at
noise level ``sigmas[0]`` and yields the noisy images after each step, the last at sigma = 0.
``denoise`` takes noisy images (n, ...) and one float.

A sampler may take three keywords, which ``sample`` then supplies:

- ``noise``: ``noise(z)`` returns standard normal noise in the shape of z;
- ``previous``: noise level and clean images of the last call of ``denoise`` before the first step,
  ``(sigma, x0)``; None at the start of a run;
- ``n_steps``: number of steps of the whole run, which is larger than ``len(sigmas)`` if the run was
  interrupted.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch

from .._typing import Array, Container


class SamplingInterrupted(KeyboardInterrupt):
    """Ctrl-C during ``sample``; holds the state after the last finished step.

    ``sample(initial=stop)`` continues the run, with the remaining arguments of the first call. Its
    samples equal the samples of an uninterrupted run.

    Attributes
    ----------
    z : array of shape (n, ...)
        Noisy images at noise level ``sigma``.
    sigma : float
        Noise level of ``z``.
    n_steps : int
        Number of remaining steps.
    sigmas : tuple of float
        Noise levels of the remaining steps; the first is ``sigma``.
    done : int
        Number of finished steps.
    trajectory : array of shape (finished steps + 1, n, ...) or None
        Noisy images of all finished steps, the initial noise first; None unless ``sample`` was
        called with ``return_trajectory=True``.
    random_state : int or None
        Seed of the run. Stochastic samplers draw the noise of the remaining steps from the seed.
    previous : tuple of (float, array of shape (n, ...)) or None
        Noise level and clean images of the last call of the denoiser, for multistep samplers.

    Examples
    --------
    Continue a run that was interrupted::

        try:
            samples = denoiser.sample(1000)
        except SamplingInterrupted as stop:
            samples = denoiser.sample(initial=stop)
    """

    def __init__(
        self,
        z: Array,
        sigmas: Sequence[float],
        trajectory: Array | None = None,
        random_state: int | None = None,
        previous: tuple[float, Array] | None = None,
        done: int = 0,
    ) -> None:
        self.sigmas = tuple(sigmas)
        self.sigma = self.sigmas[0] if self.sigmas else 0.0
        self.n_steps = len(self.sigmas)
        super().__init__(
            f"sampling was interrupted at sigma = {self.sigma:.4g}, {self.n_steps} steps before "
            "the end; catch this exception as `stop` and continue with sample(initial=stop) and "
            "the sampler and classes of this call."
            if self.n_steps
            else "sampling was interrupted after its last step; the samples are in `stop.z`."
        )
        self.z = z
        self.trajectory = trajectory
        self.random_state = random_state
        self.previous = previous
        self.done = done

    def __reduce__(self):
        rest = self.trajectory, self.random_state, self.previous, self.done
        return type(self), (self.z, self.sigmas, *rest)


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
        step leads to 0. A last level 0 is accepted.

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
    for sigma, target in _steps(sigmas):
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
        step leads to 0. A last level 0 is accepted.

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
    for sigma, target in _steps(sigmas):
        z = _heun_step(denoise, z, sigma, target)
        yield z


def dpmpp_2m(
    denoise: Callable[[Container, float], Container],
    z: Container,
    sigmas: Iterable[float],
    *,
    previous: tuple[float, Container] | None = None,
) -> Iterator[Container]:
    """Yield the noisy images after each step of DPM-Solver++(2M) (Lu et al. 2022, Alg. 2).

    A second-order multistep method with one call of ``denoise`` per step. It extrapolates the clean
    images linearly in log sigma from the last two calls. The first and the last step are Euler
    steps.

    Parameters
    ----------
    denoise : callable
        ``denoise(z, sigma)`` returns clean images (n, ...) from noisy images and a float.
    z : Tensor or array of shape (n, ...)
        Noisy images at noise level ``sigmas[0]``.
    sigmas : sequence of float
        Decreasing positive noise levels, such as those of :func:`~skpspc.edm_sigmas`; the last
        step leads to 0. A last level 0 is accepted.
    previous : tuple of (float, Tensor or array of shape (n, ...)), default None
        Noise level above ``sigmas[0]`` and its clean images, to continue a run. None: begin with an
        Euler step.

    Yields
    ------
    Tensor or array of shape (n, ...)
        Noisy images at the next noise level; the last are the samples.

    References
    ----------
    Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
    2022, arXiv:2211.01095.

    Examples
    --------
    Data of variance 1 have the denoiser ``z / (1 + sigma^2)``. The exact ODE leads from 80 to
    80 / sqrt(1 + 80^2) = 0.9999; 18 steps, with 18 calls, end at 1.05:

    >>> import torch
    >>> from skpspc import edm_sigmas
    >>> from skpspc.sampling import dpmpp_2m
    >>> def denoise(z, sigma):
    ...     return z / (1 + sigma**2)
    >>> *_, last = dpmpp_2m(denoise, torch.tensor([[80.0]]), edm_sigmas(18))
    >>> round(float(last), 2)
    1.05
    """
    for sigma, target in _steps(sigmas):
        x0 = mean = denoise(z, sigma)
        # equal levels, as of a range of a few rounding errors, give no slope
        if previous is not None and target > 0 and previous[0] > sigma:
            before, x0_before = previous
            ratio = math.log(sigma / target) / math.log(before / sigma)
            mean = x0 + ratio / 2 * (x0 - x0_before)
        z = mean + (target / sigma) * (z - mean)
        previous = sigma, x0
        yield z


def ddim(
    denoise: Callable[[Container, float], Container],
    z: Container,
    sigmas: Iterable[float],
    *,
    eta: float = 0.0,
    noise: Callable[[Any], Any] = torch.randn_like,
) -> Iterator[Container]:
    r"""Yield the noisy images after each DDIM step (Song et al. 2021, Eq. 12 and 16).

    A step from :math:`\sigma` to :math:`\sigma'` removes more noise than it must, and adds noise of
    standard deviation

    .. math::

        \eta\,\frac{\sigma'}{\sigma} \sqrt{\sigma^2 - \sigma'^2} .

    ``eta=0`` is `euler`. ``eta=1`` is ancestral sampling of DDPM. One call of ``denoise`` per step.

    Parameters
    ----------
    denoise : callable
        ``denoise(z, sigma)`` returns clean images (n, ...) from noisy images and a float.
    z : Tensor of shape (n, ...)
        Noisy images at noise level ``sigmas[0]``; an array needs another ``noise``.
    sigmas : sequence of float
        Decreasing positive noise levels, such as those of :func:`~skpspc.edm_sigmas`; the last
        step leads to 0. A last level 0 is accepted.
    eta : float, default 0.0
        Amount of added noise, between 0 and 1.
    noise : callable, default torch.randn_like
        ``noise(z)`` returns standard normal noise in the shape of z. The method ``sample`` of a
        denoiser supplies noise that depends on its ``random_state``.

    Yields
    ------
    Tensor or array of shape (n, ...)
        Noisy images at the next noise level; the last are the samples.

    Raises
    ------
    ValueError
        If eta is not between 0 and 1.

    References
    ----------
    Song et al., "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502.

    Examples
    --------
    ``functools.partial`` sets eta for the method ``sample``:

    >>> from functools import partial
    >>> from skpspc import GaussianDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.sampling import ddim
    >>> model = GaussianDenoiser().fit(load_digits_images().images)
    >>> samples = model.sample(4, sampler=partial(ddim, eta=1.0), random_state=0)
    """
    if not 0 <= eta <= 1:
        raise ValueError(
            f"eta must be between 0 (no added noise) and 1 (ancestral sampling), got {eta!r}."
        )
    for sigma, target in _steps(sigmas):
        x0 = denoise(z, sigma)
        added = eta * (target / sigma) * math.sqrt((sigma - target) * (sigma + target))
        kept = math.sqrt((target - added) * (target + added))
        z = x0 + (kept / sigma) * (z - x0)
        if added > 0:
            z = z + added * noise(z)
        yield z


def edm(
    denoise: Callable[[Container, float], Container],
    z: Container,
    sigmas: Iterable[float],
    *,
    s_churn: float = 40.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    n_steps: int | None = None,
    noise: Callable[[Any], Any] = torch.randn_like,
) -> Iterator[Container]:
    r"""Yield the noisy images after each stochastic second-order step (Karras et al. 2022, Alg. 2).

    A step first adds noise, which raises the noise level from :math:`\sigma` to
    :math:`(1 + \gamma)\,\sigma`. A Heun step follows. In a run of N steps

    .. math::

        \gamma = \min(S_\mathrm{churn} / N, \sqrt 2 - 1) .

    ``s_churn=0`` is `heun`.

    Parameters
    ----------
    denoise : callable
        ``denoise(z, sigma)`` returns clean images (n, ...) from noisy images and a float.
    z : Tensor of shape (n, ...)
        Noisy images at noise level ``sigmas[0]``; an array needs another ``noise``.
    sigmas : sequence of float
        Decreasing positive noise levels, such as those of :func:`~skpspc.edm_sigmas`; the last
        step leads to 0. A last level 0 is accepted.
    s_churn : float, default 40.0
        Amount of noise that the steps add, non-negative. The paper sets 30 to 80.
    s_min, s_max : float, default 0 and inf
        Range of noise levels at which steps add noise.
    s_noise : float, default 1.0
        Standard deviation of the noise. The paper sets 1.003 to 1.007, because networks remove too
        much noise.
    n_steps : int, default None
        Number N of steps of the run. None: one step for each of ``sigmas``. The method ``sample``
        supplies it, so that an interrupted run continues with equal noise.
    noise : callable, default torch.randn_like
        ``noise(z)`` returns standard normal noise in the shape of z. The method ``sample`` of a
        denoiser supplies noise that depends on its ``random_state``.

    Yields
    ------
    Tensor or array of shape (n, ...)
        Noisy images at the next noise level; the last are the samples.

    Raises
    ------
    ValueError
        If s_churn or s_noise is negative, infinite or NaN, or s_min exceeds s_max.

    References
    ----------
    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    NeurIPS 2022, arXiv:2206.00364.

    Examples
    --------
    ``functools.partial`` sets the amount of noise for the method ``sample``:

    >>> from functools import partial
    >>> from skpspc import GaussianDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.sampling import edm
    >>> model = GaussianDenoiser().fit(load_digits_images().images)
    >>> samples = model.sample(4, sampler=partial(edm, s_churn=5), random_state=0)
    """
    if not 0 <= s_churn < math.inf:
        raise ValueError(
            f"s_churn must be non-negative and finite, got {s_churn!r}; 0 adds no noise."
        )
    if not 0 <= s_noise < math.inf:
        raise ValueError(f"s_noise must be non-negative and finite, got {s_noise!r}.")
    if not 0 <= s_min <= s_max:
        raise ValueError(
            f"s_min and s_max must be a range of noise levels, got {s_min!r} and {s_max!r}."
        )
    steps = list(_steps(sigmas))
    gamma = min(s_churn / (n_steps or max(len(steps), 1)), math.sqrt(2) - 1)
    for sigma, target in steps:
        raised = sigma * (1 + gamma) if s_min <= sigma <= s_max else sigma
        if raised > sigma:
            z = z + s_noise * math.sqrt((raised - sigma) * (raised + sigma)) * noise(z)
        z = _heun_step(denoise, z, raised, target)
        yield z


def _steps(sigmas):
    """Return pairs of noise levels (start, end) of the steps; the last ends at 0."""
    levels = [float(sigma) for sigma in sigmas]
    return pairwise(levels if levels and levels[-1] == 0 else [*levels, 0.0])


def _heun_step(denoise, z, sigma, target):
    """Return the noisy images at noise level ``target``; two calls of ``denoise``, one for 0."""
    x0 = denoise(z, sigma)
    slope = (z - x0) / sigma
    proposal = x0 + (target / sigma) * (z - x0)
    if target == 0:
        return proposal
    slope = (slope + (proposal - denoise(proposal, target)) / target) / 2
    return z + (target - sigma) * slope


SAMPLERS: dict[str, Callable[..., Iterator[Any]]] = {
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "edm": edm,
    "euler": euler,
    "heun": heun,
}
