"""Estimators, one in each module."""

from ._checkpoint import load_network
from .auto import AutoDenoiser
from .blended import BlendedDenoiser
from .collection import PosteriorMeanCollection
from .derivatives import Divergence, LogLikelihood
from .empirical import EmpiricalDenoiser
from .flexible import FlexibleWindows
from .gaussian import GaussianDenoiser
from .local_score import LocalScoreDenoiser
from .network import NetworkDenoiser
from .patch import PatchDenoiser
from .pca_locality import PCALocalityDenoiser
from .pspc import PSPCDenoiser
from .single_image import SingleImageDenoiser
from .smoothed import SmoothedDenoiser
from .tiled import denoise_tiled

__all__ = [
    "AutoDenoiser",
    "BlendedDenoiser",
    "Divergence",
    "EmpiricalDenoiser",
    "FlexibleWindows",
    "GaussianDenoiser",
    "LocalScoreDenoiser",
    "LogLikelihood",
    "NetworkDenoiser",
    "PCALocalityDenoiser",
    "PSPCDenoiser",
    "PatchDenoiser",
    "PosteriorMeanCollection",
    "SingleImageDenoiser",
    "SmoothedDenoiser",
    "denoise_tiled",
    "load_network",
]
