"""Search for the nearest training images of noisy images."""

from .factory import check_index
from .neighbours import Neighbours, Recall

__all__ = ["Neighbours", "Recall", "check_index"]
