"""The faces: one estimator a file."""

from .empirical import EmpiricalDenoiser
from .gaussian import GaussianDenoiser
from .patch import PatchDenoiser
from .pca_locality import PCALocalityDenoiser
from .pspc import PSPCDenoiser
from .smoothed import SmoothedDenoiser

__all__ = [
    "EmpiricalDenoiser",
    "GaussianDenoiser",
    "PCALocalityDenoiser",
    "PSPCDenoiser",
    "PatchDenoiser",
    "SmoothedDenoiser",
]
