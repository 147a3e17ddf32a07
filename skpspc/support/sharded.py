"""A training set in shards, on several devices or on the workers of a cluster.

Functions are called on all shards, and their results are merged: an executor does both. `Devices`
is the executor of one machine; `skpspc.distributed.Cluster` has the same methods.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from sklearn import config_context, get_config

from .._threads import n_threads
from .shards import Facts
from .training_set import MirroredTrainingSet, TrainingSet, example_moments


class Each(list):
    """A list of arguments, one for every shard."""


def columns(args, n):
    """Return a list of n arguments for each argument: an `Each`, or the same n times."""
    return [a if isinstance(a, Each) else [a] * n for a in args]


class Devices:
    """Shards on devices of this machine, which compute at the same time.

    Parameters
    ----------
    shards : list of TrainingSet
    """

    n_workers: int

    def __init__(self, shards):
        self.shards = list(shards)
        self.n_workers = len(self.shards)

    def __len__(self):
        return len(self.shards)

    def __repr__(self):
        return f"{len(self)} shards on {', '.join(str(s.device) for s in self.shards)}"

    @property
    def device(self):
        """Device of noisy images and of merged results."""
        return self.shards[0].device

    @contextmanager
    def step(self):
        """Yield an object that calls functions of the shards; it is of use in the block only."""
        yield self

    def give(self, value):
        """Return a handle of a value, to pass to several calls."""
        return value

    kept = give

    def map(self, function, *args):
        """Return handles of ``function(shard, *args)``, one for every shard.

        An `Each` among the arguments holds one argument for every shard.
        """
        # all of these belong to the calling thread
        config, n = get_config(), max(1, n_threads() // len(self))

        def call(*arguments):
            torch.set_num_threads(n)
            with torch.no_grad(), config_context(**config):
                return function(*arguments)

        with ThreadPoolExecutor(len(self)) as pool:
            return Each(pool.map(call, self.shards, *columns(args, len(self))))

    def merged(self, function, results):
        """Return a handle of ``function(list of results)``; the function must be associative."""
        return function(list(results))

    def values(self, handles):
        """Return the values of a list of handles."""
        return list(handles)

    def derived(self, function, *args, keep=None):
        """Return an executor for the shards ``function(shard, *args)``; see `map`.

        ``keep`` are the numbers of the shards that remain; None: all.
        """
        shards = self.map(function, *args)
        return Devices(shards if keep is None else [shards[i] for i in keep])


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


class ShardedImages:
    """The images of all shards: their shape, dtype and device. The pixels stay in the shards."""

    nbytes = 0  # in the memory of the caller

    def __init__(self, shape, dtype, device):
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, device

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        raise ValueError(_TOGETHER)

    def __getattr__(self, name):
        if name.startswith("__") and name != "__array__":  # protocols of Python
            raise AttributeError(name)
        raise ValueError(_TOGETHER)


_TOGETHER = (
    "this call needs all training images in one place, and they are in shards on several devices "
    "or workers; fit on one device (a dask array: pass X.compute())."
)


class ShardedTrainingSet(TrainingSet):
    """A training set whose images are in shards. Code that needs them in one place raises.

    Parameters
    ----------
    executor : Devices or Cluster
        Of shards that are training sets of their own, whose posterior weights do not yet refer to
        all images.
    examples : Tensor of shape (m, C, H, W)
        At most 64 evenly spaced images, on the CPU, as stored.
    sizes : list of int
        Numbers of images in the shards.
    sample_weight : Tensor of shape (N,) or None
        Weights of the images of all shards, one shard after the other.
    data_range : tuple of (low, high)
    known : dict
        Values of cached properties of `TrainingSet`, extremes included.
    """

    def __init__(self, executor, examples, sizes, sample_weight, data_range, known):
        shape = sum(sizes), *examples.shape[1:]
        images = ShardedImages(shape, examples.dtype, executor.device)
        super().__init__(images, sample_weight, data_range)
        self.example_moments = example_moments(examples.numpy())
        vars(self).update(known)
        self._examples, self._sizes, self._own = examples, list(sizes), executor
        self.executor = executor.derived(TrainingSet.as_shard, Facts.of(self))

    @classmethod
    def of(cls, executor, sample_weight, data_range):
        """Return the training set of the shards of an executor; see the class."""
        with executor.step() as step:
            parts = step.values(step.map(_summary))
        known = {"extremes": _joint([part["extremes"] for part in parts])}
        if parts[0]["total"] is not None:
            size = sum(part["n"] for part in parts) * known["extremes"][0].numel()
            known["abs_max"] = max(part["abs_max"] for part in parts)
            known["centre"] = sum(part["total"] for part in parts) / size
        sizes = [part["n"] for part in parts]
        examples = _stored_rows(executor, sizes, _evenly_spaced(sum(sizes), 64))
        return cls(executor, examples, sizes, sample_weight, data_range, known)

    def __reduce__(self):
        raise TypeError(
            "a denoiser whose training images are in shards cannot be pickled or saved; fit on one "
            "device, and save that."
        )

    def stored(self, *_):
        """Raise, as the images are not in one place."""
        raise ValueError(_TOGETHER)

    values = extended = contiguous = centred = stored

    def check_unchanged(self):
        """Do nothing: images of files are read once."""

    def examples(self, n):
        """Return at most 64 evenly spaced images, a `TrainingSet` on the CPU."""
        return TrainingSet(self._examples, None, self.data_range)

    def crop(self, top, left, height, width):
        """Return one crop of every image."""
        area = ..., slice(top, top + height), slice(left, left + width)
        known = {name: getattr(self, name) for name in ("abs_max", "centre")}
        known["extremes"] = tuple(end[area] for end in self.extremes)
        executor = self._own.derived(_crop, top, left, height, width)
        rest = self._sizes, self.sample_weight, self.data_range, known
        return ShardedTrainingSet(executor, self._examples[area], *rest)

    def mirrored(self):
        """Return the images and their left-right mirror images."""
        low, high = self.extremes
        known = {name: getattr(self, name) for name in ("abs_max", "centre", "example_moments")}
        known["extremes"] = torch.minimum(low, low.flip(-1)), torch.maximum(high, high.flip(-1))
        sizes = [2 * size for size in self._sizes]
        weight = self.sample_weight
        if weight is not None:
            weight = torch.cat([part.repeat(2) for part in weight.split(self._sizes)])
        executor = self._own.derived(MirroredTrainingSet)
        return ShardedTrainingSet(executor, self._examples, sizes, weight, self.data_range, known)

    def subset(self, rows):
        """Return the images ``rows``, sorted indices or a mask, with their weights."""
        every = np.arange(len(self))
        rows = every[rows.cpu().numpy() if isinstance(rows, torch.Tensor) else rows]
        parts = _by_shard(rows, self._sizes)
        used = [i for i, part in enumerate(parts) if len(part)]
        executor = self._own.derived(_subset, Each(parts), keep=used)
        weight = self.sample_weight
        weight = None if weight is None else weight[torch.from_numpy(rows).to(weight.device)]
        return ShardedTrainingSet.of(executor, weight, self.data_range)


def _summary(shard):
    """Return facts of the images of a shard, a dict."""
    total = None
    if not shard.is_uint8:
        total = shard.centre * shard.images.numel()
    extremes = tuple(end.cpu() for end in shard.extremes)
    return {"n": len(shard), "extremes": extremes, "abs_max": shard.abs_max, "total": total}


def _joint(extremes):
    """Return the smallest and largest values of the extremes of several sets."""
    low, high = zip(*extremes, strict=True)
    return torch.stack(low).amin(0), torch.stack(high).amax(0)


def _evenly_spaced(n, n_wanted):
    return np.linspace(0, n - 1, min(n_wanted, n)).astype(int)


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
    return shard.stored(torch.from_numpy(rows).to(shard.device)).cpu()


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
