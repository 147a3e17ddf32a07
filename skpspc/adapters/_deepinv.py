"""Denoisers as denoisers of deepinv."""

from functools import cache
from typing import Any

from .._optional import load
from ..denoisers.base import Denoiser
from ._denoised import Denoised


def as_deepinv(model: Denoiser) -> Any:
    """Return a denoiser as a denoiser of deepinv, for its inverse problems.

    deepinv's images lie on [0, 1]. A noise level of 0.1 in deepinv is 0.2 for a denoiser of images
    on [-1, 1].

    Parameters
    ----------
    model : Denoiser
        Fitted denoiser. Its ``data_range`` must be given if its training images are floats on
        another range than [-1, 1].

    Returns
    -------
    deepinv.models.Denoiser
        ``forward(x, sigma, y=None, guidance=1.0)`` returns clean images. ``sigma`` is one number
        or one for each image. ``y`` and ``guidance`` are the arguments of ``denoise``.

    Raises
    ------
    ImportError
        If deepinv is not installed, or too old.
    TypeError
        If model is no denoiser.
    """
    return _wrapper()(model)


@cache
def _wrapper():
    """Return the class of the adapter, which inherits from a class of deepinv."""
    base: Any = load("deepinv.models").Denoiser

    class DeepinvDenoiser(base):
        """A denoiser as a denoiser of deepinv."""

        def __init__(self, model):
            super().__init__()
            self.denoised = Denoised(model, library_range=(0.0, 1.0))

        def forward(self, x, sigma, y=None, guidance=1.0):
            """Return clean images on [0, 1]."""
            return self.denoised(x, sigma, y, guidance)

        def __reduce__(self):
            return as_deepinv, (self.denoised.model,)

    return DeepinvDenoiser
