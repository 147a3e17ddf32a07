"""Denoisers as models of k-diffusion."""

from typing import Any

import torch

from ..denoisers.base import Denoiser
from ..sampling import edm_sigmas
from ._denoised import Denoised


def as_kdiffusion(model: Denoiser) -> "_KDiffusion":
    """Return a denoiser as a model of k-diffusion, ``model(x, sigma, **extra_args)``.

    Parameters
    ----------
    model : Denoiser
        Fitted denoiser.

    Returns
    -------
    torch.nn.Module
        ``forward(x, sigma, class_cond=None, guidance=1.0)`` returns clean images, for x on
        [-1, 1]. ``class_cond`` holds indices of ``model.classes_``; the number of classes stands
        for any class. ``get_sigmas(n)`` returns noise levels for a sampler of k-diffusion,
        `edm_sigmas` and a final 0, a float32 tensor (n + 1,).

    Raises
    ------
    TypeError
        If model is no denoiser.

    Notes
    -----
    k-diffusion passes ``extra_args`` to the model:
    ``sample_heun(model, x, sigmas, extra_args={"class_cond": torch.tensor([3]), "guidance": 2})``.

    Examples
    --------
    >>> import torch
    >>> from skpspc import EmpiricalDenoiser
    >>> from skpspc.adapters import as_kdiffusion
    >>> inner = as_kdiffusion(EmpiricalDenoiser().fit([[-1.0], [1.0]], ["a", "b"]))
    >>> inner(torch.zeros(1, 1), torch.ones(1), class_cond=torch.tensor([1])).item()
    1.0
    >>> inner.get_sigmas(3)
    tensor([8.0000e+01, 2.5152e+00, 2.0000e-03, 0.0000e+00])
    """
    return _KDiffusion(model)


class _KDiffusion(torch.nn.Module):
    """A denoiser as a model of k-diffusion."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.denoised = Denoised(model)

    def forward(
        self,
        input: torch.Tensor,
        sigma: Any,
        class_cond: torch.Tensor | None = None,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        """Return clean images."""
        return self.denoised.of_classes(input, sigma, class_cond, guidance)

    def get_sigmas(self, n: int) -> torch.Tensor:
        """Return n decreasing noise levels and a final 0."""
        return torch.tensor([*edm_sigmas(n), 0.0], dtype=torch.float32)
