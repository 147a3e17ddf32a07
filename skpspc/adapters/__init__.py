"""Denoisers in the form that other diffusion libraries call.

Each function wraps a fitted denoiser as an object of one library. The object maps the library's
images to the ``data_range`` of the denoiser and back, and scales noise levels by the ratio of the
widths. Results have the dtype and the device of the noisy images.
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
