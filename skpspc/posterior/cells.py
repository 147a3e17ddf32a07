"""Windows that look everywhere, at the patches that matter.

A query patch visits the cells (`PatchCells`) in which its posterior lies, as estimated from their
moments, until what the others are estimated to hold is small enough. The patches of a visited
cell are compared exactly. What is told of a cell is no bound, nor is the error that is told of
the answer; single pixels whose nearest patch lies in the outskirts of its cell may exceed it.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from .._threads import n_threads
from ..support.memory import rows_that_fit
from .patches import patch_posterior
from .posterior import Posterior, floored_sigma, log_gauss_constant, precision_root
from .select import compiled_serves

_LARGEST_SHARE = 1 / 12  # of the patches, for one query; beyond, the exact kernel is faster
_WORTH_IT = 2**18  # patches; among fewer, cells are too coarse to tell much
_QUERIES = 8192  # that share the patches of a visited cell
_SCORED = 128  # queries whose estimates are looked at together
_TASKS = 16  # into which visits are divided; independent of the threads
_CUT = -20.0  # log of weights, beside the largest, that do not count


def visiting_posterior(queries, sigma, dictionary, cells, tol):
    """Posterior mean of the centre of every query patch, from as few cells as a tolerance allows.

    Parameters
    ----------
    queries : Tensor of shape (Q, d), float32 on the CPU
        Noisy patches.
    sigma : Tensor of shape (Q,), float64
    dictionary : PatchDictionary
    cells : callable
        Gives the `PatchCells` of the dictionary.
    tol : float
        Largest admissible error of a value, as estimated.

    Returns
    -------
    Posterior
        mean (Q, C); log_evidence, effective_sample_size (in patches) and error_bound, an
        estimate, (Q,). Where few cells do not do, or compiled code does not serve, it is exact.
    """
    training_set = dictionary.training_set
    sigma = floored_sigma(sigma, queries, training_set)
    dtype = _dtype_that_serves(sigma, dictionary, tol) if compiled_serves(queries) else None
    if dtype is None or len(dictionary) < _WORTH_IT:
        return patch_posterior(queries, sigma, dictionary)
    cells = cells()
    block = rows_that_fit(
        int(12 * _LARGEST_SHARE * len(cells)), _QUERIES, what="The cells of one query patch"
    )
    parts = []
    for rows in torch.arange(len(queries)).split(block):
        visits = _Visits(queries[rows], sigma[rows], dictionary, cells, dtype)
        part = visits.posterior(tol)
        left = torch.from_numpy(visits.given_up).nonzero().squeeze(1)
        if len(left):
            some = rows[left]
            part = part.updated(left, patch_posterior(queries[some], sigma[some], dictionary))
        parts.append((rows, part))
    return Posterior.gathered(parts, len(queries))


def _dtype_that_serves(sigma, dictionary, tol):
    """In which distances by matrix products are exact enough, or None."""
    known = dictionary.training_set
    if not sigma.isfinite().all():
        return None
    reach = float(precision_root(sigma).max()) * known.abs_max * math.sqrt(dictionary.n_values)
    for dtype in (np.float32, np.float64):
        if 4 * float(np.finfo(dtype).eps) * reach**2 < 0.5 * tol / known.span:
            return dtype
    return None


class _Visits:
    """Some queries on their way through the cells."""

    def __init__(self, queries, sigma, dictionary, cells, dtype):
        known = self._known = dictionary.training_set
        self._queries, self._sigma = queries, sigma
        self._dictionary, self._cells, self._dtype = dictionary, cells, dtype
        raw = (queries.double() - known.centre).numpy() * known.unit
        weight = known.log_weight
        self._data = (
            raw.astype(dtype),
            np.square(raw).sum(1).astype(dtype),
            (0.5 / (sigma.numpy() * known.unit) ** 2).astype(dtype),
            np.empty(0, dtype) if weight is None else weight.numpy().astype(dtype),
        )
        self._state = np.zeros((len(queries), 3 + dictionary.n_channels))
        self._state[:, 0] = -1e37
        self._n_patches = np.zeros(len(queries), np.int64)
        self.given_up = np.zeros(len(queries), bool)  # those that are better asked exactly

    def posterior(self, tol):
        """The posterior; it says nothing of queries that are `given_up`."""
        low, high = (t.flatten(1) for t in self._known.extremes)
        low, high = low.amin(1), high.amax(1)
        # not `span`: what is left out may come from any place
        share = tol / max(float((high - low).max()), np.finfo(np.float64).tiny)
        rows = np.arange(len(self._queries))
        upper = np.full(len(rows), np.inf, np.float32)
        log_sums = np.full(len(rows), -np.inf)
        log_rest = np.zeros(len(rows))
        bound = torch.zeros(len(rows), dtype=torch.float64)
        mean = torch.zeros(len(rows), self._dictionary.n_channels, dtype=torch.float64)
        while len(rows):
            rows = self._visit_more(rows, log_sums, share, upper, log_rest)
            total = np.maximum(self._state[:, 1:2], np.finfo(np.float64).tiny)
            log_sums = self._state[:, 0] + np.log(total[:, 0])
            mean = torch.from_numpy(self._state[:, 3:] / total / self._known.unit)
            mean += self._known.centre
            missed = torch.from_numpy(log_rest - log_sums).sigmoid()
            bound = missed * torch.maximum(high - mean, mean - low).amax(1).clamp_min(0)
            rows = rows[bound.numpy()[rows] > tol]
        log_evidence = torch.from_numpy(log_sums) + self._dictionary.log_uniform
        log_evidence += log_gauss_constant(self._dictionary.n_values, self._sigma)
        squares = np.maximum(self._state[:, 2], np.finfo(np.float64).tiny)
        concentration = torch.from_numpy(np.square(self._state[:, 1]) / squares)
        return Posterior(*(t.float() for t in (mean, log_evidence, concentration, bound)))

    def _visit_more(self, rows, log_sums, share, upper, log_rest):
        """Let some queries visit the cells that they still need, and return those that did.

        ``upper``, from where on their cells have been visited, and ``log_rest`` are kept up.
        """
        sizes = np.diff(self._cells.ends)
        most = _LARGEST_SHARE * len(self._dictionary)
        buffer = np.empty(_SCORED * len(self._cells), np.int32)
        gone, counts, visited = [rows[:0]], [rows[:0]], [buffer[:0]]
        levels, at = np.unique(self._sigma[rows].numpy(), return_inverse=True)
        for level, some in zip(levels, (rows[at == i] for i in range(len(levels))), strict=True):
            masses = self._cells.masses(level)
            if masses is None:
                self.given_up[some] = True
                continue
            for part in np.array_split(some, math.ceil(len(some) / _SCORED)):
                ends, chosen = self._chosen(masses, part, log_sums, share, upper, log_rest, buffer)
                patches = np.append(0, sizes[chosen].cumsum())[ends]
                self._n_patches[part] += np.diff(patches)
                keep = self._n_patches[part] <= most
                self.given_up[part[~keep]] = True
                gone.append(part[keep])
                counts.append(np.diff(ends)[keep])
                visited.append(chosen[np.repeat(keep, np.diff(ends))])
        rows = np.concatenate(gone)
        ends = np.append(0, np.concatenate(counts).cumsum())
        self._visit(rows, ends, np.concatenate(visited))
        return rows

    def _chosen(self, masses, rows, log_sums, share, upper, log_rest, buffer):
        """Cells that some queries of one sigma are to visit: where each query's end, and which."""
        from . import _cells_numba

        mass = masses(self._queries[rows]).numpy()
        lower, rest = np.empty((2, len(rows)), np.float32)
        ends = np.empty(len(rows) + 1, np.int64)
        log_sum = log_sums[rows].astype(np.float32)
        _cells_numba.choose(mass, log_sum, share, upper[rows], lower, rest, buffer, ends)
        upper[rows], log_rest[rows] = lower, rest
        return ends, buffer[: ends[-1]].copy()

    def _visit(self, rows, ends, visited):
        """Visit the chosen cells."""
        from . import _cells_numba

        n_cells = len(self._cells)
        first, visitors = np.empty(n_cells + 1, np.int64), np.empty(len(visited), np.int32)
        _cells_numba.by_cell(visited, ends, first, visitors)
        visitors = rows.astype(np.int32)[visitors]
        work = np.append(0, (np.diff(first) * np.diff(self._cells.ends)).cumsum())
        borders = np.searchsorted(work, np.linspace(0, work[-1], _TASKS + 1))
        borders[-1] = n_cells
        window, known = self._dictionary.window, self._known
        middle = self._dictionary.centre[0] * window[1] + self._dictionary.centre[1]
        centre = self._dtype(known.stored_centre)
        states = np.zeros((_TASKS, *self._state.shape))
        states[:, :, 0] = -1e37

        def visit(task):
            _cells_numba.visit(
                known.images.numpy(), window, self._dictionary.grid, centre, middle,
                self._cells.order, self._cells.ends, (borders[task], borders[task + 1]),
                visitors, first, *self._data, _CUT, states[task],
            )  # fmt: skip

        with threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads()) as pool:
            list(pool.map(visit, range(_TASKS)))
        self._merge(states)

    def _merge(self, states):
        """Add the sums of all tasks to those known."""
        states = np.concatenate([self._state[None], states])
        top = states[:, :, 0].max(0)
        shrink = np.exp(states[:, :, 0] - top)[:, :, None]
        self._state[:, 0] = top
        self._state[:, 1:2] = (states[:, :, 1:2] * shrink).sum(0)
        self._state[:, 2:3] = (states[:, :, 2:3] * shrink**2).sum(0)
        self._state[:, 3:] = (states[:, :, 3:] * shrink).sum(0)
