"""Calls of functions of shards of a training set, on several devices of one machine.

Functions are called on all shards, and their results are merged: an executor does both.
`RemadeShards` and `skpspc.distributed.Cluster` are other executors, with the methods of `Devices`.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, reduce

import torch
from sklearn import config_context, get_config

from .._threads import n_threads


class Each(list):
    """A list of arguments, one for every shard."""


def columns(args, n):
    """Return a list of n arguments for each argument: an `Each`, or the same n times."""
    return [a if isinstance(a, Each) else [a] * n for a in args]


def given(step, args):
    """Return handles of arguments that all shards have in common; keep every `Each`."""
    return [arg if isinstance(arg, Each) else step.give(arg) for arg in args]


def added(results):
    """Return the sum of results of shards, Tensors on the device of the first.

    Tuples and lists of results are added entry by entry.
    """
    first = results[0]
    if isinstance(first, (tuple, list)):
        return type(first)(map(added, zip(*results, strict=True)))
    return sum(result.to(first.device) for result in results)


class _Local:
    """An executor of this machine, whose handles are the values themselves.

    A subclass has the methods `map`, `reduced` and `derived`, and the attributes ``device``,
    ``n_workers`` and ``largest_batch``, the number of noisy images to compare together.

    Parameters
    ----------
    shards : list
        One entry for every shard.
    """

    def __init__(self, shards):
        self.shards = list(shards)

    def __len__(self):
        return len(self.shards)

    @contextmanager
    def step(self):
        """Yield an object that calls functions of the shards; it is of use in the block only."""
        yield self

    def give(self, value):
        """Return a handle of a value, to pass to several calls."""
        return value

    kept = give

    def merged(self, function, results):
        """Return a handle of ``function(list of results)``; the function must be associative."""
        return function(list(results))

    def values(self, handles):
        """Return the values of a list of handles."""
        return list(handles)


class Devices(_Local):
    """Shards on devices of this machine, which compute at the same time.

    Parameters
    ----------
    shards : list of TrainingSet
    """

    largest_batch = 64

    def __repr__(self):
        return f"{len(self)} shards on {', '.join(str(s.device) for s in self.shards)}"

    @property
    def n_workers(self):
        """Number of devices, of which each holds one shard."""
        return len(self)

    @property
    def device(self):
        """Device of noisy images and of merged results."""
        return self.shards[0].device

    def map(self, function, *args):
        """Return handles of ``function(shard, *args)``, one for every shard.

        An `Each` among the arguments holds one argument for every shard.
        """
        if len(self) == 1:
            return Each(map(function, self.shards, *columns(args, 1)))
        # all of these belong to the calling thread
        config, n = get_config(), max(1, n_threads() // len(self))

        def call(*arguments):
            torch.set_num_threads(n)
            with torch.no_grad(), config_context(**config):
                return function(*arguments)

        with ThreadPoolExecutor(len(self)) as pool:
            return Each(pool.map(call, self.shards, *columns(args, len(self))))

    def reduced(self, function, merge, *args):
        """Return a handle of the merged results of `map`, which may be large.

        ``merge`` is the function of `merged`.
        """
        results = self.map(function, *args)
        return results[0] if len(results) == 1 else self.merged(merge, results)

    def derived(self, function, *args, keep=None):
        """Return an executor for the shards ``function(shard, *args)``; see `map`.

        ``keep`` are the numbers of the shards that remain; None: all.
        """
        shards = self.map(function, *args)
        return Devices(shards if keep is None else [shards[i] for i in keep])


class RemadeShards(_Local):
    """Shards that every call makes anew, one after the other, as they do not fit in memory.

    Parameters
    ----------
    shards : list of callable
        Each returns a shard.
    device : torch.device
        Device of the shards, of noisy images and of merged results.
    """

    n_workers = 1
    largest_batch = sys.maxsize  # every batch of noisy images makes all shards

    def __init__(self, shards, device):
        super().__init__(shards)
        self.device = device

    def __repr__(self):
        return f"{len(self)} shards on {self.device}, one at a time"

    def _calls(self, function, args):
        """Return partial objects that make a shard and return ``function(shard, *args)``."""
        rows = zip(self.shards, *columns(args, len(self)), strict=True)
        return [partial(_made, function, *row) for row in rows]

    def map(self, function, *args):
        """Return handles of ``function(shard, *args)``, all in memory; see `Devices.map`."""
        return Each(call() for call in self._calls(function, args))

    def reduced(self, function, merge, *args):
        """Return the merged results of `map`, of which two are in memory at a time."""
        calls = self._calls(function, args)
        return reduce(lambda total, call: merge([total, call()]), calls[1:], calls[0]())

    def derived(self, function, *args, keep=None):
        """Return an executor for the shards ``function(shard, *args)``; see `Devices.derived`."""
        shards = self._calls(function, args)
        return RemadeShards(shards if keep is None else [shards[i] for i in keep], self.device)


def _made(function, make, *args):
    return function(make(), *args)
