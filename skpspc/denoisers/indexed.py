"""Search parameters of denoisers that may use few training images."""

import math
import numbers
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .._threads import torch_threads
from ..posterior import NeighbourSearch
from ..sampling import draw_noise, noise_seed
from ..support import Neighbours, check_index

_TOL = 1e-3  # default of algorithm="faiss"

CONSTRAINTS = {
    "algorithm": [StrOptions({"auto", "exact", "faiss"})],
    "n_neighbors": [Interval(numbers.Integral, 1, None, closed="left"), callable, None],
    "tol": [Interval(numbers.Real, 0, None, closed="neither"), None],
    "index": [str],
    "n_remainder": [Interval(numbers.Integral, 0, None, closed="left")],
    "verbose": ["verbose"],
}


def is_exact(denoiser):
    """Return whether a denoiser always uses all training images."""
    limited = denoiser.n_neighbors is not None or denoiser.tol is not None
    return not (limited or denoiser.algorithm == "faiss")


def check_search(denoiser, training_set):
    """Raise if the search parameters of a denoiser contradict each other or a training set."""
    n_neighbors, tol = denoiser.n_neighbors, denoiser.tol
    limited = n_neighbors is not None or tol is not None
    if denoiser.algorithm == "exact" and (limited or denoiser.n_remainder):
        raise ValueError(
            "algorithm='exact' uses all training images; leave n_neighbors and tol at None "
            "and n_remainder at 0, or use algorithm='auto'."
        )
    if denoiser.n_remainder and n_neighbors is None:
        raise ValueError(
            f"n_remainder={denoiser.n_remainder} represents the images beyond the nearest; pass "
            "n_neighbors too."
        )
    if isinstance(n_neighbors, numbers.Integral) and int(n_neighbors) > len(training_set):
        raise ValueError(
            f"n_neighbors must be between 1 and {len(training_set)}, the number of training "
            "images, or a callable that returns such an int for every sigma; got "
            f"{n_neighbors!r}."
        )
    if not is_exact(denoiser):
        if denoiser.bandwidth != 0:
            raise ValueError(
                f"bandwidth={denoiser.bandwidth!r} blurs all training images; "
                "leave n_neighbors and tol at None and algorithm at 'auto', or bandwidth at 0."
            )
        check_index(denoiser.index, training_set)


def search_of(denoiser, training_set):
    """Return the `NeighbourSearch` of a denoiser, or None if it uses all training images.

    Where a subset of the fitted images is too small for the index, the index is "Flat".
    """
    if is_exact(denoiser):
        return None
    fallback = "Flat" if denoiser._learns_subsets else None
    tol = denoiser.tol
    if tol is None and denoiser.n_neighbors is None:
        tol = _TOL
    neighbours = Neighbours(training_set, denoiser.index, fallback=fallback)
    return NeighbourSearch(neighbours, denoiser.n_neighbors, tol, denoiser.n_remainder)


def proved_by(denoiser):
    """Return the remedy for error bounds that are estimates."""
    return (
        f"index={denoiser.index!r} can miss training images: measure the misses with index_recall, "
        "or use an index made of Flat, IVF, SQ, PQ, PCA, OPQ and RR alone for a proved bound"
    )


@torch_threads()
def index_recall(
    self: Any, k: int = 10, *, sigma: float | None = None, n_images: int = 64
) -> float:
    """Return the fraction of the k nearest training images that the index finds.

    The ``error_bound`` of a graph, such as ``index="HNSW32"``, assumes that the graph misses
    nothing (``bound_is_proved`` is False). Rely on this bound where the recall is 1 at the k that
    the posterior needs. Where the recall is clearly smaller, use a graph with more edges ("HNSW64")
    or another index. The bound of "Flat" or "IVF256,Flat" holds at any recall; see ``index``.

    Parameters
    ----------
    k : int, default 10
        Number of neighbours, between 1 and the number of training images.
    sigma : float, default None
        Noise level of the queries, finite. None: the parameter ``sigma``.
    n_images : int, default 64
        Number of queries: training images, evenly spaced over X, with noise of seed
        ``random_state``. Each query is compared with all training images.

    Returns
    -------
    float
        Between 0 and 1. An image that ties with the k-th counts as a hit. For `PatchDenoiser`, the
        mean over its locations.

    Raises
    ------
    ValueError
        If there is no index, because all training images are used; if a parameter is out of range.
    """
    self = self._now()
    check_is_fitted(self)
    searches = self._searches()
    if not searches:
        raise ValueError(
            "all training images are used, so there is no index; pass tol, n_neighbors or "
            "algorithm='faiss' to build one."
        )
    n = len(self.training_set_)
    for name, value, most in (("k", k, n), ("n_images", n_images, math.inf)):
        if not isinstance(value, numbers.Integral) or not 1 <= int(value) <= most:
            limits = "of at least 1" if most == math.inf else f"between 1 and {most}"
            raise ValueError(f"{name} must be an int {limits}, got {value!r}.")
    level = self.sigma if sigma is None else sigma
    if not (isinstance(level, numbers.Real) and 0 <= float(level) < math.inf):
        raise ValueError(f"sigma must be finite and non-negative, got {level!r}.")
    rows = torch.linspace(0, n - 1, min(n_images, n)).long().to(self._device)
    recalls = []
    for search in searches:
        training_set = search.neighbours.training_set
        x = training_set.take(rows, training_set.float_dtype)
        noise = draw_noise(x.shape[1:], len(x), noise_seed(self.random_state)).to(x)
        recalls.append(float(search.neighbours.recall(x + level * noise, k).mean()))
    return float(np.mean(recalls))


def with_live_parameters(prior, denoiser):
    """Return a prior whose search has the current ``verbose`` and ``random_state``."""
    if prior.search is None:
        return prior
    seed = noise_seed(denoiser.random_state) if prior.search.n_remainder else 0
    return replace(prior, search=replace(prior.search, seed=seed, verbose=denoiser.verbose))
