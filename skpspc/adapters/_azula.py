"""Denoisers as denoisers of azula."""

from functools import cache
from typing import Any

from .._optional import load
from ..denoisers.base import Denoiser
from ._denoised import Denoised, along


def as_azula(model: Denoiser, schedule: Any = None) -> Any:
    r"""Return a denoiser as a denoiser of azula.

    Parameters
    ----------
    model : Denoiser
        Fitted denoiser.
    schedule : azula.noise.Schedule, default None
        Noise schedule :math:`t \mapsto (\alpha_t, \sigma_t)`. None: a variance exploding schedule
        from 0.002 to 80.

    Returns
    -------
    azula.denoise.Denoiser
        ``forward(x_t, t, y=None, guidance=1.0)`` returns a posterior whose ``mean`` is
        :math:`D(x_t / \alpha_t; \sigma_t / \alpha_t)`, for clean images on [-1, 1]. ``y`` and
        ``guidance`` are the arguments of ``denoise``.

    Raises
    ------
    ImportError
        If azula is not installed, or too old.
    TypeError
        If model is no denoiser.

    Notes
    -----
    azula computes times in float32. For samples in float64, pass ``dtype=torch.float64`` to its
    samplers.
    """
    return _wrapper()(model, schedule)


@cache
def _wrapper():
    """Return the class of the adapter, which inherits from a class of azula."""
    denoise = load("azula.denoise")
    base: Any = denoise.Denoiser

    class AzulaDenoiser(base):
        """A denoiser as a denoiser of azula."""

        def __init__(self, model, schedule):
            super().__init__()
            self.denoised = Denoised(model)
            self.schedule = schedule or load("azula.noise").VESchedule(0.002, 80.0)

        def forward(self, x_t, t, y=None, guidance=1.0):
            """Return the posterior of noisy images ``x_t`` at times t."""
            alpha, sigma = self.schedule(t)
            z = x_t / along(alpha, x_t)
            return denoise.DiracPosterior(self.denoised(z, sigma / alpha, y, guidance))

        def __reduce__(self):
            return as_azula, (self.denoised.model, self.schedule)

    return AzulaDenoiser
