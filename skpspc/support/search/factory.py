"""Choice of an index from a factory string of FAISS."""

from functools import cache

import torch

from ..._optional import available
from ..._warnings import warn
from .brute import BruteIndex
from .coordinates import n_coordinates
from .faiss import FaissIndex, gpu_search


def make_index(factory, n_dims, device="cpu"):
    """Return the empty index for a factory string.

    Parameters
    ----------
    factory : str
        A string for `faiss.index_factory`. "Flat" on the CPU becomes an exact search by torch,
        whose matrix products are faster than those of faiss. If faiss is missing, every string
        becomes that search, with a warning.
    n_dims : int
    device : torch.device
        Device of the training set.
    """
    if factory == "Flat" and not gpu_search(device):
        return BruteIndex(n_dims, device)
    if not available("faiss"):
        _warn_missing(factory)
        return BruteIndex(n_dims, device)
    return FaissIndex(factory, n_dims, "auto" if torch.device(device).type == "cuda" else "cpu")


def check_index(factory, training_set):
    """Raise ValueError if an index cannot serve a training set; the index is not built."""
    index = make_index(factory, n_coordinates(training_set.n_values), training_set.device)
    index.check_size(len(training_set))


@cache
def _warn_missing(factory):
    warn(
        f"faiss is not installed, so index={factory!r} is replaced by an exact search in torch, "
        'which is slower. Install faiss with pip install "skpspc[cpu]", or pass index="Flat".'
    )
