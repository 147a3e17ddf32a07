"""What is compared with what: the training set and the windows it is seen through."""

from .training_set import TrainingSet
from .windows import centred_counts, clip_size, overlap_counts, square_corners

__all__ = ["TrainingSet", "centred_counts", "clip_size", "overlap_counts", "square_corners"]
