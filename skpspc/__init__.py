"""Training-free diffusion denoisers with the interface of scikit-learn."""

from .denoisers import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SmoothedDenoiser,
    load_network,
)
from .posterior import Posterior
from .sampling import BandwidthSchedule, PatchSchedule, SamplingInterrupted, edm_sigmas
from .support import tapered_windows

__version__ = "0.1.0"

__all__ = [
    "BandwidthSchedule",
    "BlendedDenoiser",
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
    "PosteriorMeanCollection",
    "SamplingInterrupted",
    "SmoothedDenoiser",
    "__version__",
    "edm_sigmas",
    "load_network",
    "tapered_windows",
]
