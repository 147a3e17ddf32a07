"""The kernels: arrays in, a posterior out. They know nothing of estimators."""

from .box import box_posterior
from .dense import dense_posterior
from .posterior import Posterior

__all__ = ["Posterior", "box_posterior", "dense_posterior"]
