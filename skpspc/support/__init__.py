"""Training sets, and the windows, cells and indexes over them."""

from .labels import Labels
from .search import Neighbours, Recall, check_index
from .training_set import MirroredTrainingSet, TrainingSet
from .windows import (
    Windows,
    centred_counts,
    centred_windows,
    clip_size,
    overlap_counts,
    square_corners,
    tapered_windows,
    with_own_heat,
)

__all__ = [
    "Labels",
    "MirroredTrainingSet",
    "Neighbours",
    "Recall",
    "TrainingSet",
    "Windows",
    "centred_counts",
    "centred_windows",
    "check_index",
    "clip_size",
    "overlap_counts",
    "square_corners",
    "tapered_windows",
    "with_own_heat",
]
