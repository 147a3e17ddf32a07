"""How many threads to use."""

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
