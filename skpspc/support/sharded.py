"""A training set in shards: parts whose posteriors add up to the posterior of the whole."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .._state import NumpyState
from .devices import Devices, Each
from .training_set import MirroredTrainingSet, TrainingSet, evenly_spaced, example_moments

N_EXAMPLES = 64  # images of all shards that are kept in one place


class ShardedImages:
    """Images in shards: shape, dtype, device and limits. The pixels stay in the shards.

    `fit` of a denoiser takes them in the place of a tensor of images.

    Parameters
    ----------
    executor : Devices or Cluster
        Of shards that are images (n, C, H, W) or training sets.
    sizes : list of int
        Numbers of images in the shards.
    image_shape : tuple of (C, H, W)
    dtype : torch.dtype
    limits : tuple of float
        Smallest and largest value.
    """

    ndim = 4
    nbytes = 0  # in the memory of the caller

    def __init__(self, executor, sizes, image_shape, dtype, limits):
        self.shape, self.dtype = torch.Size((sum(sizes), *image_shape)), dtype
        self.device = executor.device
        self.executor, self._sizes, self._limits = executor, list(sizes), limits

    def __len__(self):
        return self.shape[0]

    def to(self, device):
        """Return the images; raise for a device of another type, as images stay in their shards."""
        if torch.device(device).type != self.device.type:
            raise ValueError(
                f"device={str(device)!r} is given, but the training images stay in shards on "
                f"{self.device.type!r} devices; leave device at None."
            )
        return self

    def aminmax(self):
        """Return the smallest and the largest value."""
        return self._limits

    def training_set(self, weight, data_range):
        """Return the `ShardedTrainingSet` of images with weights (N,) or None."""
        weights: list[Any] = [None] * len(self._sizes)
        used = None
        if weight is not None:
            weights = [part.clone() for part in weight.split(self._sizes)]  # views pickle as wholes
            used = [i for i, of_shard in enumerate(weights) if (of_shard > 0).any()]
            weight = weight[weight > 0]
        executor = self.executor.derived(_weighted, Each(weights), data_range, keep=used)
        return ShardedTrainingSet.of(executor, weight, data_range)

    def __getitem__(self, rows):
        """Return a few images, from an array or tensor (m,) of int."""
        if getattr(rows, "ndim", 0) != 1 or "int" not in str(rows.dtype):
            raise ValueError(_TOGETHER)
        rows, back = np.unique(np.asarray(rows), return_inverse=True)
        return _stored_rows(self.executor, self._sizes, rows)[back]

    def min(self):
        """Return the smallest value."""
        return self._limits[0]

    def max(self):
        """Return the largest value."""
        return self._limits[1]

    def __getattr__(self, name):
        if name.startswith("__") and name != "__array__":  # protocols of Python
            raise AttributeError(name)
        raise ValueError(_TOGETHER)


_TOGETHER = (
    "this call needs all training images in one place, and they are in shards on several devices "
    "or workers; fit on one device (a dask array: pass X.compute())."
)


@dataclass(frozen=True, eq=False)
class Facts(NumpyState):
    """Numbers of a whole training set that each shard of it must know.

    The same kernels, in the same precision, then serve all shards, and posterior weights are
    relative to the whole training set.

    Attributes
    ----------
    log_total : float or None
        Log of the sum of all sample weights; None: all weights are equal.
    n_images, log_uniform, log_weight_range, abs_max, extremes, span, centre, example_moments
        See `TrainingSet`.
    """

    log_total: float | None
    n_images: int
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


class ShardedTrainingSet(TrainingSet):
    """A training set whose images are in shards. Code that needs them in one place raises.

    Parameters
    ----------
    executor : Devices or Cluster
        Of shards that are training sets of their own, whose posterior weights do not yet refer to
        all images.
    examples : Tensor of shape (m, C, H, W)
        At most N_EXAMPLES evenly spaced images, on the CPU, as stored.
    sizes : list of int
        Numbers of images in the shards, mirror images included.
    sample_weight : Tensor of shape (N,) or None
        Weights of the images of all shards, one shard after the other.
    data_range : tuple of (low, high)
    cached : dict
        Values of cached properties of `TrainingSet`, extremes included.
    copies : int, default 1
        2 if the second half of every shard are mirror images of the first.
    """

    def __init__(self, executor, examples, sizes, sample_weight, data_range, cached, copies=1):
        low, high = cached["extremes"]
        limits = float(low.min()), float(high.max())
        shape = tuple(examples.shape[1:])
        images = ShardedImages(executor, sizes, shape, examples.dtype, limits)
        super().__init__(images, sample_weight, data_range)
        self.example_moments = example_moments(examples)
        vars(self).update(cached)
        self._examples, self._sizes, self._copies = examples, list(sizes), copies
        # no other shards are kept: Dask counts the images again for every object that holds them
        images.executor = executor.derived(TrainingSet.as_shard, Facts.of(self))

    @classmethod
    def of(cls, executor, sample_weight, data_range, examples=None):
        """Return the training set of the shards of an executor; see the class.

        ``examples`` are read from the shards if they are None.
        """
        with executor.step() as step:
            sizes, extremes, means = zip(*step.values(step.map(_summary)), strict=True)
        low, high = (torch.stack(ends) for ends in zip(*extremes, strict=True))
        cached: dict[str, Any] = {"extremes": (low.amin(0), high.amax(0))}
        if means[0] is not None:
            cached["abs_max"] = max(float(low.min().abs()), float(high.max().abs()))
            cached["centre"] = float(np.average(means, weights=sizes))
        if examples is None:
            examples = _stored_rows(executor, sizes, evenly_spaced(sum(sizes), N_EXAMPLES))
        return cls(executor, examples, sizes, sample_weight, data_range, cached)

    @property
    def executor(self):
        """Executor of functions of the shards."""
        return self.images.executor

    @property
    def sizes(self):
        """Numbers of images in the shards, a list; mirror images do not count."""
        return [size // self._copies for size in self._sizes]

    def __reduce__(self):
        raise TypeError(
            "a denoiser whose training images are in shards cannot be pickled or saved; fit on one "
            "device, and save that."
        )

    def stored(self, *_):
        """Raise, as the images are not in one place."""
        raise ValueError(_TOGETHER)

    values = extended = contiguous = centred = stored

    def mapped(self, function, common, *args):
        """Return the training set of the shards ``function(shard, common, *args)``."""
        common = Each([self.executor.kept(common)] * len(self.executor))
        executor = self.executor.derived(function, common, *args)
        return ShardedTrainingSet.of(executor, self.sample_weight, self.data_range)

    def add_to(self, sums):
        """Add all images to running sums; only sums of the shards travel."""
        sums.add_sums(self.reduced(_sums, _merged_sums, sums.alike))

    def fetched(self, rows):
        """Return a few images, as stored, of rows that are a slice or sorted indices."""
        every = np.arange(len(self))
        rows = every[rows.cpu().numpy() if isinstance(rows, torch.Tensor) else rows]
        return _stored_rows(self.executor, self._sizes, rows).to(self.device)

    def together(self):
        """Return a training set of all images in one place, for sets that are small."""
        return TrainingSet(self.fetched(slice(None)), self.sample_weight, self.data_range)

    def check_unchanged(self):
        """Do nothing: images of files are read once."""

    def examples(self, n):
        """Return at most N_EXAMPLES evenly spaced images, a `TrainingSet` on the CPU."""
        return TrainingSet(self._examples, None, self.data_range)

    def crop(self, top, left, height, width):
        """Return one crop of every image."""
        area = ..., slice(top, top + height), slice(left, left + width)
        cached = {name: getattr(self, name) for name in ("abs_max", "centre")}
        cached["extremes"] = tuple(end[area] for end in self.extremes)
        executor = self.executor.derived(_crop, top, left, height, width)
        rest = self._sizes, self.sample_weight, self.data_range, cached, self._copies
        return ShardedTrainingSet(executor, self._examples[area], *rest)

    def mirrored(self):
        """Return the images and their left-right mirror images."""
        low, high = self.extremes
        cached = {name: getattr(self, name) for name in ("abs_max", "centre", "example_moments")}
        cached["extremes"] = torch.minimum(low, low.flip(-1)), torch.maximum(high, high.flip(-1))
        sizes = [2 * size for size in self._sizes]
        weight = self.sample_weight
        if weight is not None:
            weight = torch.cat([part.repeat(2) for part in weight.split(self._sizes)])
        executor = self.executor.derived(MirroredTrainingSet)
        rest = sizes, weight, self.data_range, cached, 2
        return ShardedTrainingSet(executor, self._examples, *rest)

    def subset(self, rows):
        """Return the images ``rows``, sorted indices or a mask, with their weights."""
        every = np.arange(len(self))
        rows = every[rows.cpu().numpy() if isinstance(rows, torch.Tensor) else rows]
        parts = _by_shard(rows, self._sizes)
        used = [i for i, part in enumerate(parts) if len(part)]
        executor = self.executor.derived(_subset, Each(parts), keep=used)
        weight = self.sample_weight
        weight = None if weight is None else weight[torch.from_numpy(rows).to(weight.device)]
        return ShardedTrainingSet.of(executor, weight, self.data_range)


def on_devices(training_set, devices):
    """Return the images of a training set in shards of about equal size, one on each device."""
    n, shards = len(training_set), []
    for i, device in enumerate(devices):
        rows = slice(n * i // len(devices), n * (i + 1) // len(devices))
        if rows.start < rows.stop:
            part = training_set.subset(rows)
            weight = part.sample_weight
            weight = None if weight is None else weight.to(device)
            shards.append(TrainingSet(part.images.to(device), weight, training_set.data_range))
    executor = Devices(shards)
    return ShardedTrainingSet.of(executor, training_set.sample_weight, training_set.data_range)


def _weighted(shard, weight, data_range):
    """Return the training set of a shard, images or a training set, with other weights."""
    images = shard.stored(slice(0, len(shard))) if isinstance(shard, TrainingSet) else shard
    return TrainingSet(images, None if weight is None else weight.to(images.device), data_range)


def _summary(shard):
    """Return number, extremes and mean of the images of a shard; the mean of uint8 is None."""
    extremes = tuple(end.cpu() for end in shard.extremes)
    return len(shard), extremes, None if shard.is_uint8 else shard.centre


def _by_shard(rows, sizes):
    """Return the rows, sorted numbers of images of all shards, within each shard."""
    if (np.diff(rows) < 0).any():
        raise ValueError("rows of training images in shards must be sorted.")
    ends = np.cumsum([0, *sizes])
    bounds = np.searchsorted(rows, ends)
    return [rows[a:b] - start for a, b, start in zip(bounds, bounds[1:], ends, strict=False)]


def _stored_rows(executor, sizes, rows):
    """Return images from their sorted numbers, on the CPU, in the stored dtype."""
    with executor.step() as step:
        return torch.cat(step.values(step.map(_stored, Each(_by_shard(rows, sizes)))))


def _stored(shard, rows):
    rows = torch.from_numpy(rows).to(shard.device)
    images = shard[rows] if isinstance(shard, torch.Tensor) else shard.stored(rows)
    return images.cpu()


def _subset(shard, rows):
    """Return the images ``rows`` of a shard, a view of adjacent ones; None without rows."""
    if not len(rows):
        return None
    is_adjacent = rows[-1] - rows[0] + 1 == len(rows)
    return shard.subset(
        slice(int(rows[0]), int(rows[-1]) + 1) if is_adjacent else torch.from_numpy(rows)
    )


def _crop(shard, *area):
    return shard.crop(*area)


def _sums(shard, alike):
    """Return the running sums over a shard."""
    sums = alike(shard.device)
    sums.add_images(shard)
    return sums


def _merged_sums(parts):
    """Return new sums over the images of several sums."""
    sums = parts[0].alike(parts[0].device)
    for part in parts:
        sums.add_sums(part)
    return sums
