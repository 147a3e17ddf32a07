"""The faces: one estimator a file."""

from .empirical import EmpiricalDenoiser
from .patch import PatchDenoiser
from .pspc import PSPCDenoiser

__all__ = ["EmpiricalDenoiser", "PSPCDenoiser", "PatchDenoiser"]
