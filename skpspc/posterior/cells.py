"""Compare query patches with similar training patches only, cell by cell.

A query patch visits cells (`PatchCells`) in order of their mass, which is estimated from their
moments. Visits are grouped in rounds that double the number of patches. The patches of a visited
cell are compared exactly. The error of the mean is estimated from the mass of all other cells, as
the larger of two estimates: one from the mass that the last round added, one from the moments,
whose error is assumed to equal their error for visited cells. The result is an estimate and no
bound: similar patches at the edge of a cell may be missed.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from .._threads import ThreadPool, n_threads
from ..support.cells import CellsByWindow
from ..support.memory import rows_that_fit
from .engines import compiled_serves
from .patches import patch_posterior
from .posterior import PerWindow
from .softmax import precision_root

_FRACTIONS = 2.0 ** np.arange(-9, 0)  # fraction of all patches compared after each round
_LARGEST_FRACTION = 0.75  # largest fraction of all patches that a query compares cell by cell
_FIRST_ROUNDS = 5  # enough for most queries; cells of later rounds are chosen for the rest only
_HOPELESS = 1.0  # give up a query if this multiple of the visited mass lies outside all rounds
_WORTH_IT = 2**18  # number of patches; cells of fewer patches are too coarse
_WHOLE = 8  # with whole patches for answers, fewer patches by this factor are worth it
_QUERIES = 8192  # queries that share the patches of a visited cell
_SCORED = 256  # queries whose estimates are computed together
_TASKS = 16  # tasks of a round, independent of the number of threads
_CUT = -20.0  # log of negligible weights, relative to the largest weight


@dataclass(frozen=True, eq=False)
class CellSearch:
    """Search for the training patches that matter for a window, cell by cell.

    Attributes
    ----------
    cells : CellsByWindow
        Cells for each shape of window, made at the first search.
    tol : float
        Largest admissible estimate of the error of a pixel value.
    verbose : int, default 0
        Above 0, show a progress bar while cells are made.
    """

    cells: CellsByWindow
    tol: float
    verbose: int = 0

    def extended(self):
        """Return the search of a training set that begins with the present images."""
        return replace(self, cells=self.cells.extended())


def visiting_posterior(queries, sigma, dictionary, search):
    """Compare query patches with as few cells of a dictionary as the tolerance allows.

    See `patch_posterior` for parameters and results; ``search`` is a `CellSearch`. The result has
    an estimated error (Q,) in place of an error bound. Queries that need many cells, or that
    compiled code cannot serve, are compared with all patches; their ``bound_is_proved`` is True.
    """
    tol = search.tol
    dtype = _dtype_that_serves(sigma, dictionary, tol) if compiled_serves(queries) else None
    least = _WORTH_IT if dictionary.centre is not None else _WORTH_IT // _WHOLE
    if dtype is None or len(dictionary) < least:
        return patch_posterior(queries, sigma, dictionary)
    cells = search.cells.of(dictionary, search.verbose)
    n_bytes = int(8 * _FRACTIONS[_FIRST_ROUNDS - 1] * len(cells))
    n_bytes += 2 * 8 * _TASKS * (3 + dictionary.n_answers)
    block = rows_that_fit(n_bytes, _QUERIES, what="The cells of one query patch")
    groups = []
    for rows in torch.arange(len(queries)).split(block):
        visits = _Visits(queries[rows], sigma[rows], dictionary, cells, dtype)
        result = visits.posterior(tol)
        done = torch.from_numpy(~visits.given_up)
        if done.any():
            groups.append((rows[done], PerWindow(*(values[done] for values in result))))
        left = rows[~done]
        if len(left):
            groups.append((left, patch_posterior(queries[left], sigma[left], dictionary)))
    return PerWindow.gathered(groups, len(queries))


def _dtype_that_serves(sigma, dictionary, tol):
    """Return the dtype in which matrix products give sufficiently exact distances, or None."""
    training_set = dictionary.training_set
    if not sigma.isfinite().all():
        return None
    root = float(precision_root(sigma).max())
    reach = root * training_set.abs_max * math.sqrt(dictionary.n_values)
    for dtype in (np.float32, np.float64):
        if 4 * float(np.finfo(dtype).eps) * reach**2 < 0.5 * tol / training_set.span:
            return dtype
    return None


class _Visits:
    """The running posterior of Q query patches over the cells that they visit."""

    def __init__(self, queries, sigma, dictionary, cells, dtype):
        training_set = self._training_set = dictionary.training_set
        self._queries, self._sigma = queries, sigma
        self._dictionary, self._cells, self._dtype = dictionary, cells, dtype
        raw = (queries.double() - training_set.centre).numpy() * training_set.unit
        weight = training_set.log_weight
        self._data = (
            raw.astype(dtype),
            np.square(raw).sum(1).astype(dtype),
            (0.5 / (sigma.numpy() * training_set.unit) ** 2).astype(dtype),
            np.empty(0, dtype) if weight is None else weight.numpy().astype(dtype),
        )
        self._state = np.zeros((len(queries), 3 + dictionary.n_answers))
        self._state[:, 0] = -1e37
        self.given_up = np.ones(len(queries), bool)  # True: compare the query with all patches

    def posterior(self, tol):
        """Return the posterior as a `PerWindow`; rows of `given_up` queries are undefined."""
        rows = np.arange(len(self._queries))
        bound = np.zeros(len(rows))
        with (
            threadpool_limits(1, "blas"),
            ThreadPool(n_threads()) as pool,
            np.errstate(divide="ignore"),
        ):
            for rounds in (range(_FIRST_ROUNDS), range(_FIRST_ROUNDS, len(_FRACTIONS))):
                rows = self._visit_in_rounds(pool, rounds, rows, tol, bound)
        log_norm = self._log_sums() + self._dictionary.log_uniform
        squares = np.maximum(self._state[:, 2], np.finfo(np.float64).tiny)
        ess = np.square(self._state[:, 1]) / squares
        mean, size, estimate = (torch.from_numpy(a).float() for a in (self._mean(), ess, bound))
        proved = torch.zeros(len(estimate), dtype=torch.bool)
        error = torch.zeros_like(estimate)
        return PerWindow(mean, torch.from_numpy(log_norm), size, estimate, error, proved)

    def _visit_in_rounds(self, pool, rounds, rows, tol, bound):
        """Let queries visit cells until their estimated error is at most ``tol``.

        Writes the estimates to ``bound`` (Q,). Returns the queries that may still reach the
        tolerance in later rounds.
        """
        if len(rows) == 0:
            return rows
        chosen, ends, in_round = self._chosen(pool, rows, rounds.stop)
        left = np.arange(len(rows))
        for i in rounds:
            active = left[ends[left, i] < ends[left, i + 1]]
            if len(active) == 0:
                continue
            visiting = rows[active]
            before = self._log_sums()[visiting]
            self._visit(pool, visiting, chosen, ends[active, i], ends[active, i + 1])
            log_added = np.log(-np.expm1(before - self._log_sums()[visiting]))
            missed = self._log_missed(visiting, log_added, in_round[active], i)
            bound[visiting] = self._reach()[visiting] * np.exp(np.minimum(missed, 0))
            enough = bound[visiting] <= tol
            self.given_up[visiting[enough]] = False
            beyond = log_added + in_round[active, -1] - in_round[active, i]
            left = np.setdiff1d(left, active[enough | (beyond > math.log(_HOPELESS))])
        return rows[left]

    def _log_missed(self, rows, log_added, in_round, last):
        """Return the estimated log fraction of mass outside visited cells after a round, (q,)."""
        in_last, visited, left = (
            np.logaddexp.reduce(in_round[:, rounds], axis=1)
            for rounds in (slice(last, last + 1), slice(last + 1), slice(last + 1, None))
        )
        exact = self._log_sums()[rows]
        by_round = log_added + np.maximum(left - in_last, 0)
        by_moments = left - exact + np.maximum(visited - exact, 0)
        return np.maximum(by_round, by_moments)

    def _log_sums(self):
        """Return the log of the sum of weights in visited cells, (Q,)."""
        return self._state[:, 0] + np.log(np.maximum(self._state[:, 1], np.finfo(np.float64).tiny))

    def _mean(self):
        """Return the posterior means over visited cells, (Q, a)."""
        total = np.maximum(self._state[:, 1:2], np.finfo(np.float64).tiny)
        return self._state[:, 3:] / total / self._training_set.unit + self._training_set.centre

    def _reach(self):
        """Return the largest difference of any pixel value from the means, (Q,)."""
        # not `span`, as missed values may come from any pixel
        low, high = (t.flatten(1).numpy() for t in self._training_set.extremes)
        mean = self._mean()
        mean = mean.reshape(len(mean), len(low), -1)  # (Q, C, values of a channel)
        above, below = high.max(1)[:, None] - mean, mean - low.min(1)[:, None]
        return np.maximum(above, below).max((1, 2)).clip(0)

    def _chosen(self, pool, rows, n_rounds):
        """Return the cells of the first rounds of queries, and `_cells_numba.choose`'s results."""
        from . import _cells_numba

        sizes = np.diff(self._cells.ends)
        goals = np.ceil(_FRACTIONS[:n_rounds] * len(self._dictionary)).astype(np.int64)
        limit = int(_LARGEST_FRACTION * len(self._dictionary))
        ends = np.empty((len(rows), n_rounds + 1), np.int64)
        in_round = np.empty(ends.shape)

        def choose(mass):
            buffer = np.empty(mass.size, np.int32)
            ends = np.empty((len(mass), n_rounds + 1), np.int64)
            in_round = np.empty(ends.shape)
            _cells_numba.choose(mass, sizes, goals, limit, buffer, ends, in_round)
            return buffer[: ends[-1, -1]].copy(), ends, in_round

        chosen, n_chosen = [], 0
        levels, number = np.unique(self._sigma[rows].numpy(), return_inverse=True)
        for i, level in enumerate(levels):
            masses, of_level = self._cells.masses(level), np.flatnonzero(number == i)
            for scored in np.array_split(of_level, math.ceil(len(of_level) / _SCORED)):
                blocks = np.array_split(scored, min(n_threads(), len(scored)))
                mass = np.array_split(masses(self._queries[rows[scored]]).numpy(), len(blocks))
                for block, results in zip(blocks, pool.map(choose, mass), strict=True):
                    cells, ends[block], in_round[block] = results
                    ends[block] += n_chosen
                    n_chosen += len(cells)
                    chosen.append(cells)
        return np.concatenate(chosen), ends, in_round

    def _visit(self, pool, rows, chosen, begins, ends):
        """Compare the queries ``rows`` with the patches of cells ``chosen[begins : ends]``."""
        from . import _cells_numba

        n_cells = len(self._cells)
        first = np.empty(n_cells + 1, np.int64)
        visitors = np.empty((ends - begins).sum(), np.int32)
        _cells_numba.by_cell(chosen, begins, ends, first, visitors)
        visitors = rows.astype(np.int32)[visitors]
        work = np.append(0, (np.diff(first) * np.diff(self._cells.ends)).cumsum())
        borders = np.searchsorted(work, np.linspace(0, work[-1], _TASKS + 1))
        borders[-1] = n_cells
        window, training_set = self._dictionary.window, self._training_set
        at = self._dictionary.centre
        middle = -1 if at is None else at[0] * window[1] + at[1]
        centre = self._dtype(training_set.stored_centre)
        noisy, squares, scale, log_weight = self._data
        patches = _cells_numba.Patches(
            training_set.images.numpy(), window, self._dictionary.grid, centre, middle,
            self._cells.order, self._cells.ends, log_weight,
        )  # fmt: skip
        queries = _cells_numba.Queries(noisy, squares, scale)
        visits = _cells_numba.Visits(visitors, first)
        states = np.zeros((_TASKS, *self._state.shape))
        states[:, :, 0] = -1e37

        def visit(task):
            cells = borders[task], borders[task + 1]
            _cells_numba.visit(patches, queries, visits, cells, _CUT, states[task])

        list(pool.map(visit, range(_TASKS)))
        self._merge(states)

    def _merge(self, states):
        """Add the sums of all tasks to the state."""
        states = np.concatenate([self._state[None], states])
        top = states[:, :, 0].max(0)
        shrink = np.exp(states[:, :, 0] - top)[:, :, None]
        self._state[:, 0] = top
        self._state[:, 1:2] = (states[:, :, 1:2] * shrink).sum(0)
        self._state[:, 2:3] = (states[:, :, 2:3] * shrink**2).sum(0)
        self._state[:, 3:] = (states[:, :, 3:] * shrink).sum(0)
