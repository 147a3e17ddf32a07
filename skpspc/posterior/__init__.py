"""The kernels: arrays in, a posterior out. They know nothing of estimators."""

from .dense import dense_posterior
from .posterior import Posterior
from .select import ENGINES, square_posterior
from .truncated import nearest_posterior, tolerant_posterior

__all__ = [
    "ENGINES",
    "Posterior",
    "dense_posterior",
    "nearest_posterior",
    "square_posterior",
    "tolerant_posterior",
]
