"""Training-free diffusion denoisers with the manners of scikit-learn."""

from .denoisers import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PSPCDenoiser,
    SmoothedDenoiser,
    load_network,
)
from .posterior import Posterior
from .sampling import PatchSchedule, SamplingInterrupted, edm_sigmas

__version__ = "0.1.0"

__all__ = [
    "EmpiricalDenoiser",
    "FlexibleWindows",
    "GaussianDenoiser",
    "LocalScoreDenoiser",
    "NetworkDenoiser",
    "PCALocalityDenoiser",
    "PSPCDenoiser",
    "PatchDenoiser",
    "PatchSchedule",
    "Posterior",
    "SamplingInterrupted",
    "SmoothedDenoiser",
    "__version__",
    "edm_sigmas",
    "load_network",
]
