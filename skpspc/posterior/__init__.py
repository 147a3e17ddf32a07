"""Posteriors of noisy images over training images, as functions of arrays.

This package does not depend on the estimators.
"""

from .attribution import Attribution, attribution, means_without
from .blur import Blur, filtered_bytes, filtered_images_kept
from .cells import CellSearch
from .dense import dense_shard_weights, dense_weights
from .derivative import jvp_by_torch, vjp_by_torch
from .engines import ENGINES
from .gaussian import (
    Gaussian,
    gaussian_jacobian,
    gaussian_jvp,
    gaussian_posterior,
    gaussian_trace,
    gaussian_vjp,
)
from .jacobian import jacobian
from .location_trees import TreeCache
from .posterior import Posterior
from .prior import BasePrior, Prior
from .stationary import StationaryGaussian
from .tree import TreeSearch
from .truncated import NeighbourSearch
from .weights import window_weights

__all__ = [
    "ENGINES",
    "Attribution",
    "BasePrior",
    "Blur",
    "CellSearch",
    "Gaussian",
    "NeighbourSearch",
    "Posterior",
    "Prior",
    "StationaryGaussian",
    "TreeCache",
    "TreeSearch",
    "attribution",
    "dense_shard_weights",
    "dense_weights",
    "filtered_bytes",
    "filtered_images_kept",
    "gaussian_jacobian",
    "gaussian_jvp",
    "gaussian_posterior",
    "gaussian_trace",
    "gaussian_vjp",
    "jacobian",
    "jvp_by_torch",
    "means_without",
    "vjp_by_torch",
    "window_weights",
]
