"""Denoisers in the form that other diffusion libraries call.

Each function wraps a fitted denoiser as an object of one library. Images of the library are mapped to
the ``data_range`` of the denoiser and back, and noise levels are scaled with them. Gradients, dtypes
and devices pass through.
"""

from ._azula import as_azula
from ._deepinv import as_deepinv
from ._diffusers import as_diffusers_unet
from ._edm import as_edm
from ._kdiffusion import as_kdiffusion
from ._smalldiffusion import as_smalldiffusion

__all__ = [
    "as_azula",
    "as_deepinv",
    "as_diffusers_unet",
    "as_edm",
    "as_kdiffusion",
    "as_smalldiffusion",
]
