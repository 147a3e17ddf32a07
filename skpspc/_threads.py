"""Number of threads, pools and locks that survive a fork, calls that Ctrl-C cannot interrupt."""

import os
import threading
import weakref
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager

import joblib
import torch
from joblib.parallel import get_active_backend
from threadpoolctl import threadpool_limits

_forked = False
_locks: "weakref.WeakSet[ForkSafeLock]" = weakref.WeakSet()
_of_thread = threading.local()  # n and executor of the last pool of every calling thread


class ForkSafeLock:
    """A lock that is free in a forked child, whichever thread of the parent held it."""

    def __init__(self):
        self.renew()
        _locks.add(self)

    def renew(self):
        """Replace the lock by a free one."""
        self._lock = threading.Lock()

    def __enter__(self):
        self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


def _survive_fork():
    """Limit a forked child to one thread, and free the locks of the parent's other threads.

    The child inherits thread pools without their threads, and would wait for these for ever.
    """
    global _forked, _of_thread
    _forked, _of_thread = True, threading.local()
    for lock in _locks:
        lock.renew()
    threadpool_limits(1, "openmp")  # scikit-learn and faiss have pools of their own
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_survive_fork)


def n_threads():
    """Return the number of threads for compiled kernels.

    It is the ``n_jobs`` of an active ``joblib.parallel_config``, otherwise
    ``torch.get_num_threads()``, which joblib lowers in its worker processes to share the cores. It
    is 1 in a worker thread of joblib and in a forked process.
    """
    if _forked:
        return 1
    backend, n_jobs = get_active_backend()
    in_worker = threading.current_thread() is not threading.main_thread()
    if n_jobs is None and backend.nesting_level and in_worker:
        return 1
    return joblib.effective_n_jobs(torch.get_num_threads() if n_jobs is None else n_jobs)


@contextmanager
def torch_threads():
    """Let torch compute on `n_threads` threads within the context.

    Torch stores the number of threads separately for every calling thread.
    """
    before, wanted = torch.get_num_threads(), n_threads()
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def undisturbed(function, *args):
    """Call a function in another thread; Ctrl-C raises here after the call has ended.

    Ctrl-C must not interrupt the import of libraries or the loading of compiled code: the
    interrupt could get lost, or reappear when the process exits.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()


class ThreadPool(Executor):
    """Context that calls functions in ``n`` threads, and ends after the last call.

    An exception in the context cancels the calls that have not begun. Ctrl-C raises in the calling
    thread alone, so it cannot interrupt the loading of compiled code. Every calling thread keeps
    its threads for its next pool of ``n`` threads, because starting threads takes longer than a
    small call.
    """

    def __init__(self, n):
        if getattr(_of_thread, "n", None) != n:
            _of_thread.n, _of_thread.executor = n, ThreadPoolExecutor(n)
        self._executor, self._futures = _of_thread.executor, []

    def submit(self, fn, /, *args, **kwargs):
        """Return the future of a call."""
        future = self._executor.submit(fn, *args, **kwargs)
        self._futures.append(future)
        return future

    def __exit__(self, exception, *_):
        if exception is not None:
            _of_thread.__dict__.clear()  # Ctrl-C may have stopped the start of a thread
            for future in self._futures:
                future.cancel()
        wait(self._futures)
