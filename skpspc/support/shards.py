"""Shards: parts of a training set whose posteriors add up to the posterior of the whole."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .._state import NumpyState
from .training_set import MirroredTrainingSet


@dataclass(frozen=True, eq=False)
class Facts(NumpyState):
    """Numbers of a whole training set that each shard of it must know.

    The same kernels, in the same precision, then serve all shards, and posterior weights are
    relative to the whole training set.

    Attributes
    ----------
    log_total : float or None
        Log of the sum of all sample weights; None: all weights are equal.
    log_uniform, log_weight_range, abs_max, extremes, span, centre, example_moments
        See `TrainingSet`.
    """

    log_total: float | None
    log_uniform: float
    log_weight_range: float
    abs_max: float
    extremes: tuple
    span: float
    centre: float
    example_moments: tuple[Any, float]

    @classmethod
    def of(cls, training_set):
        """Return the facts of a training set, in a few passes over its images."""
        log_total = None
        if training_set.log_weight is not None:
            log_total = float(training_set.sample_weight.sum().log())
        names = [name for name in cls.__dataclass_fields__ if name != "log_total"]
        return cls(log_total, *(getattr(training_set, name) for name in names))

    def of_shard(self, shard):
        """Return the attributes of a shard that follow from the facts, as a dict."""
        attributes = dict(vars(self))
        log_total = attributes.pop("log_total")
        log_weight = None if log_total is None else shard.sample_weight.log() - log_total
        return {**attributes, "log_weight": log_weight}


def shards_of(training_set, rows):
    """Return a list of shards of a training set, views of its images.

    Parameters
    ----------
    training_set : TrainingSet or MirroredTrainingSet
    rows : int or list of slice
        Number of shards of about equal size, or the images of each shard. Mirror images are in the
        shard of their image, and are not counted.

    Returns
    -------
    list of TrainingSet or MirroredTrainingSet
        Shards that know the `Facts` of the training set.
    """
    facts = Facts.of(training_set)
    mirrored = isinstance(training_set, MirroredTrainingSet)
    plain = training_set.plain if mirrored else training_set
    if isinstance(rows, int):
        ends = [len(plain) * i // rows for i in range(rows + 1)]
        rows = [slice(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]
    parts = [plain.subset(of_shard) for of_shard in rows]
    return [(MirroredTrainingSet(part) if mirrored else part).as_shard(facts) for part in parts]
