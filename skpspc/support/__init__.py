"""The training set, the windows through which images are compared, and nearest neighbours."""

from .labels import Labels
from .operators import Inpainting, MeasuredTrainingSet, Operator, checked_operator
from .search import Neighbours, Recall, check_index
from .training_set import MirroredTrainingSet, Pyramid, TrainingSet, TranslatedTrainingSet
from .windows import (
    Centred,
    Masks,
    Squares,
    SquaresAnywhere,
    Whole,
    Windows,
    clip_size,
    overlap_counts,
    square_corners,
    squares_of_side,
    tapered_windows,
    with_own_heat,
)

__all__ = [
    "Centred",
    "Inpainting",
    "Labels",
    "Masks",
    "MeasuredTrainingSet",
    "MirroredTrainingSet",
    "Neighbours",
    "Operator",
    "Pyramid",
    "Recall",
    "Squares",
    "SquaresAnywhere",
    "TrainingSet",
    "TranslatedTrainingSet",
    "Whole",
    "Windows",
    "check_index",
    "checked_operator",
    "clip_size",
    "overlap_counts",
    "square_corners",
    "squares_of_side",
    "tapered_windows",
    "with_own_heat",
]
