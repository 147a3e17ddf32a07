"""The faces: one estimator a file."""

from .empirical import EmpiricalDenoiser
from .local_score import LocalScoreDenoiser
from .patch import PatchDenoiser
from .pspc import PSPCDenoiser

__all__ = ["EmpiricalDenoiser", "LocalScoreDenoiser", "PSPCDenoiser", "PatchDenoiser"]
