"""How many threads to use, and what has to run in one of its own."""

from concurrent.futures import ThreadPoolExecutor

import joblib
import torch
from joblib.parallel import get_active_backend


def n_threads():
    """Threads for compiled kernels.

    The ``n_jobs`` of an active ``joblib.parallel_config``, otherwise ``torch.get_num_threads()``,
    which joblib's worker processes lower so that all of them together fill the machine once.
    """
    _, n_jobs = get_active_backend()
    return joblib.effective_n_jobs(torch.get_num_threads() if n_jobs is None else n_jobs)


def undisturbed(function, *args):
    """Call a function in another thread; Ctrl-C is raised here once the call has ended.

    Importing libraries and loading compiled code must not be interrupted half-way: there an
    interrupt can get lost, or come back at the exit of the process.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result()
