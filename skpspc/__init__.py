"""Training-free diffusion denoisers with the manners of scikit-learn."""

from .denoisers import EmpiricalDenoiser, LocalScoreDenoiser, PatchDenoiser, PSPCDenoiser
from .posterior import Posterior
from .sampling import PatchSchedule, SamplingInterrupted, edm_sigmas

__version__ = "0.1.0"

__all__ = [
    "EmpiricalDenoiser",
    "LocalScoreDenoiser",
    "PSPCDenoiser",
    "PatchDenoiser",
    "PatchSchedule",
    "Posterior",
    "SamplingInterrupted",
    "__version__",
    "edm_sigmas",
]
