"""The kernels: arrays in, a posterior out. They know nothing of estimators."""

from .bandwidth import shared_levels, smoothed_posterior, smoothed_windows_posteriors
from .cells import visiting_posterior
from .collection import collection_posterior
from .dense import dense_posterior, dense_weights
from .gaussian import Gaussian, gaussian_posterior
from .local import equivariant_posterior, local_posterior
from .patches import patch_posterior
from .posterior import Posterior
from .precision import precision_posterior
from .select import ENGINES, flexible_posterior, square_posterior
from .truncated import nearest_posterior, tolerant_posterior
from .weights import window_weights

__all__ = [
    "ENGINES",
    "Gaussian",
    "Posterior",
    "collection_posterior",
    "dense_posterior",
    "dense_weights",
    "equivariant_posterior",
    "flexible_posterior",
    "gaussian_posterior",
    "local_posterior",
    "nearest_posterior",
    "patch_posterior",
    "precision_posterior",
    "shared_levels",
    "smoothed_posterior",
    "smoothed_windows_posteriors",
    "square_posterior",
    "tolerant_posterior",
    "visiting_posterior",
    "window_weights",
]
