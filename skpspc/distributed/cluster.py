"""Calls of functions of shards of a training set, on the workers of a Dask cluster.

Results are merged on the worker of their shards first, so that the traffic of a worker does not
depend on the number of its images. Dask computes whatever a lost worker held again, from its
source.
"""

import errno
import time
from collections import Counter, defaultdict
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from sklearn import config_context, get_config

from .._optional import load
from .._warnings import warn
from ..support.devices import Devices, Each, columns, given

_PATIENCE = 60.0  # seconds without an answer after which silent workers are named
_MERGED = 8  # results that one call merges, of as many workers
_PAUSE = 0.5  # seconds between calls of a function that may end a step
_DISK_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
_KEPT = 4  # values that stay on the workers
TOPIC = "skpspc"  # of the events that workers log for every call
# Dask advises to scatter values of more than 10 MB.
_ANY_SIZE = {"distributed.admin.large-graph-warning-threshold": "1 PB"}


class Cluster:
    """The shards of a training set on the workers of a cluster.

    Parameters
    ----------
    client : distributed.Client
    shards : list of distributed.Future
        Futures of shards. Their tasks must be able to run again, on any worker.
    homes : list of tuple, default None
        For each shard, the address of the worker that will compute it, or nothing. None: unknown.
    check : callable, default None
        Called while a step waits for its values; it raises to end the step. None: warn of silent
        workers.
    scheduler : str, default None
        Name of the scheduler, unique. None: ask for it.
    """

    largest_batch = Devices.largest_batch

    def __init__(self, client, shards, homes=None, check=None, scheduler=None):
        self.client, self.shards, self._check = client, list(shards), check
        # not when it is needed: Dask pickles a graph under a lock that its answers may wait for
        self.scheduler = client.scheduler_info()["id"] if scheduler is None else scheduler
        self._homes = [()] * len(self.shards) if homes is None else list(homes)
        self.device = torch.device("cpu")
        self._kept: dict[int, Any] = {}

    def __len__(self):
        return len(self.shards)

    def __repr__(self):
        return f"{type(self).__name__}({len(self)} shards on {address_of(self.client)!r})"

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
            shards = step.map(function, *given(step, args))
            keep = range(len(shards)) if keep is None else keep
            homes = [step.homes[i] for i in keep]
            shards = [shards[i] for i in keep]
            return Cluster(self.client, shards, homes, self._check, self.scheduler)

    def kept(self, value):
        """Return a future of a value that stays on the workers for the next steps."""
        kept = self._kept.get(id(value))  # other threads may remove it meanwhile
        if kept is None or kept[1].status == "error":
            with self.step() as step:
                kept = value, step.give(value)
            for oldest in list(self._kept)[: 1 - _KEPT]:
                self._kept.pop(oldest, None)
            self._kept[id(value)] = kept
        return kept[1]

    @contextmanager
    def step(self):
        """Yield a `Step`; if the block raises, release all of its calls."""
        with _reasons(self.client):
            step = Step(self.client, self.shards, self._homes, self._check)
            try:
                yield step
            except BaseException:
                step.release()
                raise


class Step:
    """Calls of functions of shards that are submitted to a cluster and not yet collected.

    Calls return futures, and accept them in the place of values. They run at the home of their
    shard: the worker that holds it, or that will compute it.
    """

    def __init__(self, client, shards, homes, check=None):
        self._client, self._shards, self._check = client, shards, check
        # weak: a worker may then drop a partial result after its merger
        self._futures: WeakSet[Any] = WeakSet()
        # computed again, if they failed for a reason that may have passed, such as a full disk
        failed = [shard for shard in shards if shard.status == "error"]
        if failed:
            client.retry(failed)
        holders = client.who_has(shards)
        self.homes = [
            tuple(holders.get(shard.key, ()))[:1] or home
            for shard, home in zip(shards, homes, strict=True)
        ]

    def give(self, value):
        """Return a future of a value, which workers copy from one another."""
        # not scattered: scattered values are lost with the worker that holds them
        with load("dask").config.set(_ANY_SIZE):
            return self._submit(_same, value)

    def map(self, function, *args):
        """Return futures of ``function(shard, *args)``, one for every shard.

        An `Each` among the arguments holds one argument for every shard.
        """
        memory = get_config()["working_memory"]
        arguments = columns((function, memory, Each(self._shards), *args), len(self._shards))
        futures = [None] * len(self._shards)
        # one message for all calls of a worker: a message takes as long as a call
        for home, numbers in _numbers_of(self.homes).items():
            rows = ([column[i] for i in numbers] for column in arguments)
            calls = self._client.map(_logged, *rows, pure=False, **_at(home))
            self._futures.update(calls)
            for i, call in zip(numbers, calls, strict=True):
                futures[i] = call
        return Each(futures)

    def merged(self, function, results):
        """Return a future of ``function(list of results)``, of one result for every shard.

        Results of a worker are merged there first, then those of a few workers at a time, so that
        none collects the results of all: the function must be associative.
        """
        return self._merged(function, zip(self.homes, results, strict=True))

    def reduced(self, function, merge, *args):
        """Return a future of the merged results of `map`, which may be large.

        ``merge`` is the function of `merged`. A worker adds up the results of its shards one by
        one: it holds a few results for each of its threads, and not one for each shard.
        """
        memory, n_threads = get_config()["working_memory"], self._client.nthreads()
        calls = zip(self._shards, self.homes, *columns(args, len(self._shards)), strict=True)
        sums: dict[Any, Any] = {}
        counts: Counter[Any] = Counter()
        for shard, home, *rest in calls:
            place = home, counts[home] % max([1, *(n_threads.get(worker, 1) for worker in home)])
            counts[home] += 1
            arguments = sums.get(place), function, merge, *rest
            sums[place] = self._submit(_logged, _extended, memory, shard, *arguments, home=home)
        return self._merged(merge, [(home, future) for (home, _), future in sums.items()])

    def _merged(self, function, results):
        """Return a future of merged results, from pairs of a home and a result."""
        groups = defaultdict(list)
        for home, result in results:
            groups[home].append(result)
        parts = [self._submit(function, group, home=home) for home, group in groups.items()]
        while len(parts) > 1:
            groups_of_few = [parts[i : i + _MERGED] for i in range(0, len(parts), _MERGED)]
            parts = [self._submit(function, group) for group in groups_of_few]
        return parts[0]

    def values(self, futures):
        """Wait for the values of a list of futures, the last of the step, and release its calls."""
        distributed = load("distributed")
        futures = list(futures)  # Dask does not search a subclass of list
        warned, patience = False, _PATIENCE if self._check is None else _PAUSE
        with self._client.as_current():  # a newer client would wait for its own futures
            while True:
                try:
                    distributed.wait(futures, timeout=patience)
                except distributed.TimeoutError:
                    if self._check is not None:
                        self._check()
                        continue
                    warned = warned or _warn_of_silent_workers(self._client)
                else:
                    values = self._client.gather(futures)
                    break
        self.release()
        return values

    def release(self):
        """Release all calls: Dask drops those that have not begun, and all results."""
        # not cancelled: the scheduler fails to cancel a call that needs a dropped result.
        # At once: after a timeout, Dask's frames form cycles that keep futures until collected.
        for future in list(self._futures):
            future.release()

    def _submit(self, function, *args, home=()):
        future = self._client.submit(function, *args, pure=False, **_at(home))
        self._futures.add(future)
        return future


def _numbers_of(homes):
    """Return the numbers of the shards of each home, a dict."""
    numbers = defaultdict(list)
    for number, home in enumerate(homes):
        numbers[home].append(number)
    return numbers


def _at(home):
    """Return options of calls at a home, a tuple of one worker; without a home, anywhere."""
    # without a home, Dask might move a shard to the worker that holds a noisy image
    return dict(workers=list(home), allow_other_workers=True) if home else {}


def _same(value):
    return value


def _extended(shard, sums, function, merge, *args):
    """Return ``function(shard, *args)``, merged with earlier results ``sums`` or None."""
    result = function(shard, *args)
    # not in place: Dask repeats the call with the earlier results if the worker is lost
    return result if sums is None else merge([sums, result])


def _logged(function, memory, shard, *args):
    """Return ``function(shard, *args)``, with a working memory, and log the call."""
    worker = load("distributed").get_worker()
    worker.log_event(TOPIC, {"key": worker.get_current_task(), "worker": worker.address})
    with config_context(working_memory=memory):
        return function(shard, *args)


def address_of(client):
    """Return the address of the scheduler of a client."""
    return getattr(client.scheduler, "address", None) or "closed"


def _warn_of_silent_workers(client):
    """Warn of a cluster without workers, or of silent ones; return True if there was a warning."""
    now = time.time()
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        warn(
            "the step waits for workers, and the cluster has none; start some, for example with "
            "cluster.scale(2), or stop the step."
        )
        return True
    silent = [a for a, worker in workers.items() if now - worker["last_seen"] > _PATIENCE / 2]
    if silent:
        warn(
            f"the step waits for {', '.join(sorted(silent)[:3])}, silent for more than "
            f"{_PATIENCE / 2:g} s. Dask drops a worker after distributed.scheduler.worker-ttl "
            "(5 minutes by default) and computes its blocks elsewhere; stop silent workers to go "
            "on at once."
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
            "several workers died in turn while they computed the same block of training images, "
            "most likely for lack of memory; give workers more memory, or fit on smaller blocks, "
            "X.rechunk({0: n})."
        )
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return (
            f"a worker could not write to its disk ({error}); free space there, or start workers "
            "with more memory or another local_directory, and call again."
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
