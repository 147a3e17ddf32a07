"""The kernels: arrays in, a posterior out. They know nothing of estimators."""

from .dense import dense_posterior
from .local import equivariant_posterior, local_posterior
from .posterior import Posterior
from .select import ENGINES, square_posterior

__all__ = [
    "ENGINES",
    "Posterior",
    "dense_posterior",
    "equivariant_posterior",
    "local_posterior",
    "square_posterior",
]
