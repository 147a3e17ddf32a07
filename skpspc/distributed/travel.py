"""Denoisers that travel to the tasks of a Dask graph, without the training images of a cluster."""

import io
from contextlib import contextmanager, nullcontext
from copyreg import __newobj__  # type: ignore[attr-defined]

from sklearn import config_context, get_config

from .._optional import load
from .._state import packed
from ..support.sharded import ShardedTrainingSet
from .cluster import Cluster

# Number of blocks of noisy images that a worker is assumed to hold at once, which share its working
# memory. Dask sets no limit: a worker begins another block whenever it has no other task.
_BLOCKS_PER_WORKER = 16


class NotWanted(Exception):
    """The result of a task is no longer needed."""


class Traveller:
    """A fitted denoiser that the tasks of a graph share.

    Its pickle holds the keys, not the pixels, of training images that are on a cluster. The
    denoiser is unpickled when a task asks for it: not on the scheduler, and once on each worker.

    Parameters
    ----------
    denoiser : Denoiser
    """

    def __init__(self, denoiser):
        self._denoiser, self._pickled, self._is_sharded = denoiser, None, False

    def __getstate__(self):
        if self._pickled is not None:
            return self._pickled, self._is_sharded
        return _pickled(self._denoiser)

    def __setstate__(self, state):
        self._denoiser = None
        self._pickled, self._is_sharded = state

    @contextmanager
    def denoiser(self):
        """Yield the denoiser; a task that waits for training images frees its thread meanwhile."""
        with _waiting() if self._is_sharded else nullcontext():
            if self._denoiser is None:
                self._denoiser = load("cloudpickle").loads(self._pickled)
            yield self._denoiser


@contextmanager
def _waiting():
    """Let other tasks use the thread of a task that waits for them, and share its memory."""
    distributed = load("distributed")
    if not hasattr(distributed.worker.thread_state, "execution_state"):  # not a task of a worker
        raise RuntimeError(
            "the training images are on a cluster, and this computation runs in another process; "
            "compute the result with the client of the cluster, or with scheduler='threads'."
        )
    memory = get_config()["working_memory"] / _BLOCKS_PER_WORKER
    with distributed.worker_client(), config_context(working_memory=memory):
        yield


def _pickled(denoiser):
    """Return the pickle of a denoiser, and whether it names training images on a cluster."""
    cloudpickle = load("cloudpickle")
    clusters = []

    def keys_of(cluster):
        clusters.append(cluster)
        return _cluster_here, (cluster.scheduler, [shard.key for shard in cluster.shards])

    class Pickler(cloudpickle.Pickler):  # type: ignore[name-defined]
        dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(
            {
                Cluster: keys_of,
                ShardedTrainingSet: _whole_state,
            }
        )

    file = io.BytesIO()
    Pickler(file).dump(denoiser)
    return file.getvalue(), bool(clusters)


def _whole_state(training_set):
    """Return the pickle of a training set in shards, with the facts of all of its images."""
    return __newobj__, (type(training_set),), packed(vars(training_set))


def _cluster_here(scheduler, keys):
    """Return the cluster of shards with some keys, for a task on one of its workers."""
    distributed = load("distributed")
    client = distributed.get_client()
    if client.scheduler_info()["id"] != scheduler:
        raise RuntimeError(
            "the training images are on another cluster than the noisy images; compute the noisy "
            "images on the cluster on which the denoiser was fitted, or fit again on this one."
        )
    states = client.sync(client.scheduler.get_task_status, keys=keys)
    if None in states.values():
        raise RuntimeError(
            "the cluster no longer holds the training images; keep the denoiser until the result "
            "is computed, or fit again."
        )
    shards = [distributed.Future(key, client=client) for key in keys]
    return Cluster(client, shards, check=_check_wanted, scheduler=scheduler)


def _check_wanted():
    """Raise `NotWanted` in a task of a cluster whose result nobody waits for any more."""
    worker = load("distributed").get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    if task is None or task.state == "cancelled":
        raise NotWanted("the result of this task is no longer needed.")
