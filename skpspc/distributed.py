"""Training images in shards, on the workers of a Dask cluster.

A shard is a block of the images that stays on the worker that holds it. Noisy images travel to the
shards, and sums over the images come back. Sums are added on the worker of their shards first, so
that the traffic of a worker does not depend on the number of its images. Whatever a lost worker
held is computed again from its source by Dask.
"""

import math
import sys
import time
from collections import defaultdict
from concurrent.futures import CancelledError
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy as np
import torch
from sklearn import config_context, get_config

from ._optional import load
from ._state import as_tensor
from ._warnings import warn
from .support.memory import rows_that_fit
from .support.sharded import Each, ShardedTrainingSet, columns
from .support.training_set import TrainingSet

_PATIENCE = 60.0  # seconds without an answer after which silent workers are named
_KEPT = 4  # values that stay on the workers
_MANY_BLOCKS = 8  # for each thread
_SMALL, _USUAL, _LARGE = 2**20, 2**24, 2**28  # bytes of a block
_TOPIC = "skpspc"  # of the events that workers log for every call
# Packages whose versions must be equal on all workers, and those whose versions should be.
_MUST_AGREE, _SHOULD_AGREE = ("skpspc",), ("numpy", "torch", "numba")


class Cluster:
    """The shards of a training set on the workers of a cluster.

    Parameters
    ----------
    client : distributed.Client
    shards : list of distributed.Future
        Futures of shards. Their tasks must be able to run again, on any worker.
    """

    def __init__(self, client, shards):
        self.client, self.shards = client, list(shards)
        self.device = torch.device("cpu")
        self._kept: dict[int, Any] = {}

    def __len__(self):
        return len(self.shards)

    def __repr__(self):
        return f"{type(self).__name__}({len(self)} shards on {_address(self.client)!r})"

    @property
    def n_workers(self):
        """Number of workers that hold shards, at least 1."""
        with _reasons(self.client):
            holders = self.client.who_has(self.shards).values()
        return max(1, len({worker for workers in holders for worker in workers}))

    def derived(self, function, *args, keep=None):
        """Return a cluster of the shards ``function(shard, *args)``; see `Step.map`.

        ``keep`` are the numbers of the shards that remain; None: all.
        """
        with self.step() as step:
            given = [a if isinstance(a, Each) else step.give(a) for a in args]
            shards = step.map(function, *given)
            return Cluster(self.client, shards if keep is None else [shards[i] for i in keep])

    def kept(self, value):
        """Return a future of a value that stays on the workers for the next steps."""
        if id(value) not in self._kept:
            with self.step() as step:
                future = step.give(value)
            for oldest in list(self._kept)[: 1 - _KEPT]:
                self._kept.pop(oldest, None)
            self._kept[id(value)] = value, future
        return self._kept[id(value)][1]

    @contextmanager
    def step(self):
        """Yield a `Step`; if the block raises, cancel all of its calls."""
        with _reasons(self.client):
            step = Step(self.client, self.shards)
            try:
                yield step
            except BaseException:
                step.cancel()
                raise


class Step:
    """Calls of functions of shards that are submitted to a cluster and not yet collected.

    Calls return futures, and accept them in the place of values.
    """

    def __init__(self, client, shards):
        self._client, self._shards, self._futures = client, shards, []
        holders = client.who_has(shards)
        self._homes = [tuple(holders.get(shard.key, ()))[:1] for shard in shards]

    def give(self, value):
        """Return a future of a value, which workers copy from one another."""
        # not scattered: scattered values are lost with the worker that holds them
        return self._submit(_same, value)

    def map(self, function, *args):
        """Return futures of ``function(shard, *args)``, one for every shard.

        An `Each` among the arguments holds one argument for every shard.
        """
        memory = get_config()["working_memory"]
        calls = zip(self._shards, self._homes, *columns(args, len(self._shards)), strict=True)
        return Each(
            self._submit(_logged, function, memory, shard, *rest, home=home)
            for shard, home, *rest in calls
        )

    def merged(self, function, results):
        """Return a future of ``function(list of results)``, of one result for every shard.

        Results of a worker are merged there first: the function must be associative.
        """
        groups = defaultdict(list)
        for home, result in zip(self._homes, results, strict=True):
            groups[home].append(result)
        parts = [self._submit(function, group, home=home) for home, group in groups.items()]
        return parts[0] if len(parts) == 1 else self._submit(function, parts)

    def values(self, futures):
        """Wait for the values of a list of futures."""
        distributed = load("distributed")
        futures = list(futures)  # Dask does not search a subclass of list
        warned = False
        with self._client.as_current():  # a newer client would wait for its own futures
            while True:
                try:
                    distributed.wait(futures, timeout=_PATIENCE)
                except distributed.TimeoutError:
                    warned = warned or _warn_of_silent_workers(self._client)
                else:
                    return self._client.gather(futures)

    def cancel(self):
        """Cancel all calls that have not begun."""
        futures, self._futures = self._futures, []
        if self._client.status == "running":
            self._client.cancel(futures, force=True)

    def _submit(self, function, *args, home=()):
        # without a home, Dask might move a shard to the worker that holds a noisy image
        options = dict(workers=list(home), allow_other_workers=True) if home else {}
        future = self._client.submit(function, *args, pure=False, **options)
        self._futures.append(future)
        return future


def _same(value):
    return value


def _logged(function, memory, shard, *args):
    """Return ``function(shard, *args)``, with a working memory; log the call for `calls`."""
    worker = load("distributed").get_worker()
    worker.log_event(_TOPIC, {"key": worker.get_current_task(), "worker": worker.address})
    with config_context(working_memory=memory):
        return function(shard, *args)


def calls(client):
    """Return the logged calls of shards, a list of dicts with key and worker.

    A key that occurs twice was computed again, for example because its worker was lost. Dask keeps
    the last 1,000 calls (``distributed.admin.low-level-log-length``).
    """
    return [event for _, event in client.get_events(_TOPIC) or ()]


def current_client():
    """Return the client of the cluster that is connected; raise ValueError without one."""
    distributed = load("distributed")
    try:
        client = distributed.Client.current()
    except ValueError as error:
        raise ValueError(
            "X is a dask array, and no cluster is connected; start one with "
            "client = dask.distributed.Client(), or pass X.compute()."
        ) from error
    check_workers(client)
    return client


def check_workers(client):
    """Raise if workers lack the package, or have another version of it or of Python."""
    packages = [*_MUST_AGREE, *_SHOULD_AGREE]
    workers = client.get_versions(packages=packages)["workers"]
    if not workers:
        raise RuntimeError(
            f"the cluster {_address(client)} has no workers; start some, for example with "
            "cluster.scale(2)."
        )
    for name in packages:
        ours = _version(name)
        others = {
            address: versions["packages"].get(name)
            for address, versions in workers.items()
            if versions["packages"].get(name) != ours
        }
        if not others:
            continue
        where = ", ".join(sorted(others)[:3])
        n = f"{len(others)} of {len(workers)} workers ({where})"
        missing = [version for version in others.values() if version is None]
        if missing and name in _MUST_AGREE:
            raise ImportError(
                f"{name} is not installed on {n}; install {name} {ours} there, for example with "
                "distributed.PipInstall."
            )
        theirs = sorted(map(str, set(others.values())))
        message = f"{name} is {ours} here and {', '.join(theirs)} on {n}"
        if name in _MUST_AGREE:
            raise RuntimeError(f"{message}; install one version everywhere.")
        warn(f"{message}: results may differ in the last digits.")
    here = "{}.{}".format(*sys.version_info)
    for address, versions in workers.items():
        there = ".".join(versions["host"]["python"].split(".")[:2])
        if there != here:
            raise RuntimeError(
                f"Python is {here} here and {there} on {address}; use one version everywhere."
            )


def _version(package):
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _address(client):
    """Return the address of the scheduler of a client."""
    return getattr(client.scheduler, "address", None) or "closed"


def _warn_of_silent_workers(client):
    """Name the workers that have not been heard of for half of the patience; return True if any."""
    now = time.time()
    workers = client.scheduler_info(n_workers=-1)["workers"]
    silent = [a for a, worker in workers.items() if now - worker["last_seen"] > _PATIENCE / 2]
    if silent:
        warn(
            f"the step waits for {', '.join(sorted(silent)[:3])}, silent for more than "
            f"{_PATIENCE / 2:g} s. Dask drops a worker after distributed.scheduler.worker-ttl "
            "(5 minutes by default) and computes its blocks elsewhere; stop it to go on at once."
        )
    return bool(silent)


@contextmanager
def _reasons(client):
    """Turn errors of the cluster into RuntimeError with a sentence."""
    try:
        yield
    except Exception as error:
        reason = _reason(error, client)
        if reason is None:
            raise
        raise RuntimeError(reason) from error


def _reason(error, client):
    """Return a sentence for an error of the cluster, or None for other errors."""
    distributed = load("distributed")
    lost = CancelledError, distributed.comm.CommClosedError
    if isinstance(error, distributed.scheduler.KilledWorker):
        return (
            "several workers died in turn while they compared the same block of training images, "
            "most likely for lack of memory; give workers more memory, or fit on smaller blocks, "
            "X.rechunk({0: n})."
        )
    if isinstance(error, lost) and client.status == "running":
        return (
            "the cluster no longer holds the training images, for example after a restart of the "
            "client; fit again."
        )
    if isinstance(error, lost) or client.status != "running":
        return (
            f"the training images were on the cluster of a client that is {client.status}; connect "
            "a client and fit again."
        )
    return None


def is_dask(X):
    """Return True for a dask array; Dask is not imported."""
    return type(X).__module__.partition(".")[0] == "dask" and hasattr(X, "chunks")


class Blocks:
    """Training images in the blocks of a dask array, on the workers of the current client.

    Has the attributes of a tensor of images that a fit reads before it asks for the training set.

    Parameters
    ----------
    X : dask array of shape (N, C, H, W) or (N, d)
        uint8, float32 or float64.
    image_shape : tuple of (C, H, W)

    Raises
    ------
    ValueError
        If no client is connected; if blocks hold NaN, infinity or no images, or have another shape
        or dtype than X declares.
    """

    def __init__(self, X, image_shape):
        client = current_client()
        if any(math.isnan(size) for size in X.chunks[0]):
            raise ValueError("X has blocks of unknown length; pass X.compute_chunk_sizes().")
        if len(X) == 0:
            raise ValueError(f"X holds no images, shape {X.shape}; give at least one.")
        X = _in_large_blocks(_in_whole_images(X), client)
        pairs = zip(X.to_delayed().ravel(), X.chunks[0], strict=True)
        blocks, sizes = zip(*((block, size) for block, size in pairs if size), strict=True)
        shapes = Each((size, *X.shape[1:]) for size in sizes)
        self._cluster = Cluster(client, client.compute(list(blocks))).derived(
            _tensor, Each(range(len(blocks))), shapes, X.dtype, image_shape
        )
        with self._cluster.step() as step:
            facts = step.values(step.map(_facts))
        n_bad = sum(each["n_bad"] for each in facts)
        if n_bad:
            raise ValueError(
                f"X contains NaN or infinity in {n_bad} of {len(X)} images; remove or replace them."
            )
        self._sizes = [each["n"] for each in facts]
        self._limits = min(each["low"] for each in facts), max(each["high"] for each in facts)
        self.shape, self.dtype = torch.Size((sum(self._sizes), *image_shape)), facts[0]["dtype"]
        self.device = self._cluster.device

    def __len__(self):
        return self.shape[0]

    def to(self, device):
        """Return the images; raise unless the device is the CPU, as workers compute on it."""
        if torch.device(device).type != "cpu":
            raise ValueError(
                f"device={str(device)!r} is given, but the images of a dask array stay on the "
                "workers, which compute on the CPU; leave device at None, or pass X.compute()."
            )
        return self

    def aminmax(self):
        """Return the smallest and the largest value."""
        return self._limits

    def training_set(self, weight, data_range):
        """Return the `ShardedTrainingSet` of images with weights (N,) or None."""
        executor = self._cluster
        weights: list[Any] = [None] * len(self._sizes)
        if weight is not None:
            weights = [part.clone() for part in weight.split(self._sizes)]  # views pickle as wholes
            used = [i for i, of_block in enumerate(weights) if (of_block > 0).any()]
            executor = executor.derived(TrainingSet, Each(weights), data_range, keep=used)
            return ShardedTrainingSet.of(executor, weight[weight > 0], data_range)
        executor = executor.derived(TrainingSet, Each(weights), data_range)
        return ShardedTrainingSet.of(executor, None, data_range)


def _in_whole_images(X):
    """Return an array whose blocks hold whole images; warn of the cost if blocks are joined."""
    if all(len(sizes) == 1 for sizes in X.chunks[1:]):
        return X
    warn(
        f"X has blocks {X.chunksize} that cut images, and they are joined: up to "
        f"{X.nbytes / 2**20:.3g} MiB travel between workers. Store whole images in each block."
    )
    return X.rechunk(dict.fromkeys(range(1, X.ndim), -1))


def _in_large_blocks(X, client):
    """Return an array without many small blocks; warn of small and of very large ones."""
    n_blocks, n_threads = len(X.chunks[0]), sum(client.nthreads().values())
    image_bytes = X.nbytes / max(1, len(X))
    largest = max(X.chunks[0]) * image_bytes
    if n_blocks > _MANY_BLOCKS * n_threads and X.nbytes / n_blocks < _SMALL:
        n_images = max(1, min(int(_USUAL // image_bytes), -(-len(X) // n_threads)))
        warn(
            f"X has {n_blocks} blocks of {X.nbytes / n_blocks / 2**10:.3g} KiB on average, each of "
            f"which is a task in every call. They are joined to blocks of {n_images} images. Pass "
            f"X.rechunk({{0: {n_images}}}) to avoid this warning."
        )
        return X.rechunk({0: n_images})
    if largest > _LARGE:
        warn(
            f"X has blocks of up to {largest / 2**20:.3g} MiB; a lost block is computed again as a "
            "whole, and Ctrl-C waits for the block that is compared. Pass smaller blocks, "
            f"X.rechunk({{0: {max(1, int(_USUAL // image_bytes))}}})."
        )
    return X


def _tensor(block, number, shape, dtype, image_shape):
    """Return a block of a dask array as images (n, C, H, W)."""
    array = np.asarray(block)
    if array.dtype != dtype or array.shape != tuple(shape):
        raise ValueError(
            f"block {number} of X has dtype {array.dtype} and shape {array.shape}, but X declares "
            f"{dtype} and {tuple(shape)}; convert the blocks before fit."
        )
    if np.ma.is_masked(block):
        raise ValueError(f"block {number} of X has masked values; fill them before fit.")
    return as_tensor(np.ascontiguousarray(array)).reshape(-1, *image_shape)


def _facts(images):
    """Return number, dtype and limits of images, and the number of those that are not finite."""
    n_bad = 0
    if images.is_floating_point():
        n_rows = rows_that_fit(2 * images[0].nbytes, len(images), what="One image")
        chunks = images.flatten(1).split(n_rows)
        n_bad = sum(int((~chunk.isfinite()).any(1).sum()) for chunk in chunks)
    low, high = images.aminmax()
    return {"n": len(images), "dtype": images.dtype, "low": low, "high": high, "n_bad": n_bad}
