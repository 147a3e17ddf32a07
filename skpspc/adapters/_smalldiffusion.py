"""Denoisers as models of smalldiffusion."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from .._optional import load
from ..denoisers.base import Denoiser
from ._denoised import Denoised, along, levels


def as_smalldiffusion(model: Denoiser) -> Any:
    """Return a denoiser as a model of smalldiffusion, which predicts the noise.

    Parameters
    ----------
    model : Denoiser
        Fitted denoiser.

    Returns
    -------
    torch.nn.Module
        ``model(x, sigma, cond=None)`` returns the noise ``(x - D(x; sigma)) / sigma``, for clean
        images on [-1, 1]. ``cond`` holds indices of ``model.classes_``; the number of classes
        stands for any class. ``rand_input``, ``predict_eps`` and ``predict_eps_cfg`` are methods
        of smalldiffusion's ``ModelMixin``.

    Raises
    ------
    ImportError
        If smalldiffusion is not installed, or too old.
    TypeError
        If model is no denoiser.
    """
    return _wrapper()(model)


@cache
def _wrapper():
    """Return the class of the adapter, which inherits from a class of smalldiffusion."""
    model_mixin: Any = load("smalldiffusion").ModelMixin

    class SmalldiffusionModel(torch.nn.Module, model_mixin):
        """A denoiser as a model of smalldiffusion."""

        def __init__(self, model):
            super().__init__()
            self.denoised = Denoised(model)
            shape = self.denoised.image_shape
            self.input_dims = (model.n_features_in_,) if model._layout.is_flat else shape
            self.cond_embed = SimpleNamespace(null_cond=self.denoised.n_classes)

        def forward(self, x, sigma, cond=None):
            """Return the noise of noisy images."""
            x0 = self.denoised.of_classes(x, sigma, cond)
            return (x - x0) / along(levels(sigma, len(x)).to(x), x)

        def __reduce__(self):
            return as_smalldiffusion, (self.denoised.model,)

    return SmalldiffusionModel
