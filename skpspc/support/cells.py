r"""All patches of a training set, grouped into cells of similar patches.

A cell stores the indices of its patches, their mean, and their variances along the principal
directions of all patches. If the n patches of a cell had a Gaussian distribution, the mass of the
cell in the posterior of a query patch q would be

.. math::

    \sum_{j \in \text{cell}} e^{-\|q - y_j\|^2 / 2 \sigma^2} \approx
    n \prod_d \Bigl(\frac{\sigma^2}{\sigma^2 + v_d}\Bigr)^{1/2}
    e^{-(q_d - m_d)^2 / 2 (\sigma^2 + v_d)} .
"""

import copy
import math

import numpy as np
import torch
from tqdm.auto import tqdm

from .._state import NumpyState
from .._threads import ForkSafeLock

_PATCHES_PER_CELL = 120
_MOST_BRANCHES = 256
_TRAINED_ON = 12  # patches per cell for k-means
_CHUNK = 2**16  # patches that are assigned to branches together
_KEPT_VARIANCE = 0.995  # fraction of the variance of all patches along the leading directions


class PatchCells(NumpyState):
    """The patches of a dictionary, grouped into cells by k-means.

    k-means divides all patches into branches, and then the patches of each branch into cells.

    Parameters
    ----------
    dictionary : PatchDictionary
    verbose : int, default 0
        Above 0, show a progress bar.

    Attributes
    ----------
    order : ndarray of shape (M,), int32 or int64
        Indices of all patches, cell by cell.
    ends : ndarray of shape (K + 1,), int64
        Start of each cell in ``order``, and the end of the last cell. A cell may be empty.
    """

    def __init__(self, dictionary, verbose=0):
        rng = np.random.default_rng(0)
        n = self._n_divided = len(dictionary)
        n_branches = min(_MOST_BRANCHES, max(1, round(math.sqrt(n / _PATCHES_PER_CELL))))
        drawn = np.sort(rng.choice(n, min(n, 400 * n_branches), replace=False))
        sample = _patches(dictionary, drawn)
        self._centre = sample.mean(0)
        values, vectors = np.linalg.eigh(np.cov(sample.T, ddof=0).reshape(sample.shape[1], -1))
        kept = np.cumsum(values[::-1]) / max(values.sum(), np.finfo(values.dtype).tiny)
        n_leading = min(len(kept), 1 + int(np.searchsorted(kept, _KEPT_VARIANCE)))
        self._basis = np.ascontiguousarray(vectors[:, ::-1][:, :n_leading], np.float32)
        self._trunk, self._branches = _k_means(sample, n_branches, rng), []
        divided, members = [], self._members(dictionary, 0)
        for ids in tqdm(members, "indexing patches", disable=verbose <= 0):
            patches = _patches(dictionary, ids)
            trained_on = rng.permutation(len(ids))[: _TRAINED_ON * n_branches]
            branch = _k_means(patches[trained_on], n_branches, rng) if len(ids) else None
            self._branches.append(branch)
            divided.append((ids, *self._divided(patches, branch)))
        self._keep(dictionary, *_joined(divided))

    def extended(self, dictionary):
        """Return the cells of a larger dictionary that begins with the present patches.

        New patches are assigned to the present cells. Once the dictionary has more than doubled
        since the last division into cells, it is divided anew.
        """
        if len(dictionary) > 2 * self._n_divided:
            return PatchCells(dictionary)
        members = self._members(dictionary, len(self.order))
        added = [
            (ids, *self._divided(_patches(dictionary, ids), branch))
            for ids, branch in zip(members, self._branches, strict=True)
        ]
        ids, cells, sums = _joined(added)
        ids = np.concatenate([self.order, ids])
        cells = np.concatenate([np.repeat(np.arange(len(self)), np.diff(self.ends)), cells])
        extended = copy.copy(self)
        extended._keep(dictionary, ids, cells, self._sums + sums)
        return extended

    def _members(self, dictionary, start):
        """Return the indices of the patches of each branch, without patches before ``start``."""
        starts = range(start, len(dictionary), _CHUNK)
        chunks = [np.arange(i, min(i + _CHUNK, len(dictionary))) for i in starts]
        branch = np.concatenate([self._trunk.predict(_patches(dictionary, ids)) for ids in chunks])
        ends = np.bincount(branch, minlength=self._trunk.n_clusters).cumsum()
        return np.split(start + np.argsort(branch, kind="stable"), ends[:-1])

    def _divided(self, patches, branch):
        """Return the cell of each patch of a branch, and the sums over each cell; see `_keep`."""
        n_cells = 1 if branch is None else branch.n_clusters  # an empty branch has one cell
        cells = np.zeros(len(patches), np.int64)
        if branch is not None and len(patches):
            cells = branch.predict(patches).astype(np.int64)
        turned = torch.from_numpy((patches - self._centre) @ self._basis).double()
        sums = turned.new_zeros(n_cells, 2 * turned.shape[1])
        sums.index_add_(0, torch.from_numpy(cells), torch.cat([turned, turned.square()], 1))
        return cells, sums.numpy()

    def _keep(self, dictionary, ids, cells, sums):
        """Sort patches by cell; ``sums`` (K, 2 r) add up coordinates and their squares."""
        small = np.int32 if len(ids) <= np.iinfo(np.int32).max else np.int64
        by_cell = np.argsort(cells, kind="stable")
        self.order = ids[by_cell].astype(small)
        count = np.bincount(cells, minlength=len(sums))
        self.ends = np.append(0, count.cumsum())
        weight = np.bincount(cells, dictionary.weights(ids), minlength=len(sums))
        with np.errstate(divide="ignore"):  # empty cells have no mass
            self._log_weight = torch.from_numpy(np.log(weight)).float()
        self._sums = sums
        mean, square = np.split(sums / np.maximum(count, 1)[:, None], 2, axis=1)
        self._mean = torch.from_numpy(mean).float()
        self._variance = torch.from_numpy(np.maximum(square - np.square(mean), 0)).float()

    def __len__(self):
        return len(self.ends) - 1

    def masses(self, sigma):
        """Return a function that estimates the mass of each cell by the formula above.

        Parameters
        ----------
        sigma : float

        Returns
        -------
        callable
            Maps queries (Q, d), float32, to the log of the sum of exp(-|q - y|^2 / 2 sigma^2) over
            each cell, (Q, K).
        """
        spread = self._variance + sigma**2
        constant = self._log_weight - 0.5 * (spread / sigma**2).log().sum(1)
        constant -= 0.5 * (self._mean.square() / spread).sum(1)
        right = torch.cat([(self._mean / spread).T, (-0.5 / spread).T, constant[None]])

        def of(queries):
            turned, rest = self._turned(queries)
            left = torch.cat([turned, turned.square(), torch.ones_like(rest)], 1)
            return (left @ right).sub_(rest / (2 * sigma**2))

        return of

    def _turned(self, queries):
        """Return leading coordinates of queries, (Q, r), and their squared residuals, (Q, 1)."""
        queries = queries - torch.from_numpy(self._centre)
        turned = queries @ torch.from_numpy(self._basis)
        rest = queries.square().sum(1, keepdim=True) - turned.square().sum(1, keepdim=True)
        return turned, rest


class CellsByWindow:
    """`PatchCells` of a training set for every shape of window, each made at its first use.

    One thread makes cells while other threads wait. Patches of new training images are added to the
    present cells.
    """

    def __init__(self):
        self._cells = {}
        self._n_divided = {}  # by window: number of patches that k-means divided
        self._lock = ForkSafeLock()

    def extended(self):
        """Return the cells of a training set that begins with the present images.

        New patches are added at the first use of the cells.
        """
        copied = CellsByWindow()
        with self._lock:
            copied._cells = dict(self._cells)
            copied._n_divided = dict(self._n_divided)
        return copied

    def of(self, dictionary, verbose=0):
        """Return the `PatchCells` of a dictionary; above 0, ``verbose`` shows a progress bar."""
        with self._lock:
            key = dictionary.window, dictionary.level
            cells = self._cells.get(key)
            if cells is None:
                n_divided = self._n_divided.get(key)
                cells = PatchCells(dictionary.first(n_divided), verbose)
            if len(cells.order) < len(dictionary):
                cells = cells.extended(dictionary)
            self._cells[key] = cells
            self._n_divided[key] = cells._n_divided
            return cells

    def __getstate__(self):
        # another thread may be adding to the dicts
        return {"_cells": dict(self._cells), "_n_divided": dict(self._n_divided)}

    def _file_state(self):
        """Return the state without cells; the next search divides equal patches into cells."""
        return {"_cells": {}, "_n_divided": dict(self._n_divided)}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=ForkSafeLock())


def _joined(branches):
    """Concatenate ids, cells and sums of all branches; number the cells over all branches."""
    ids, cells, sums = zip(*branches, strict=True)
    starts = np.cumsum([0, *map(len, sums[:-1])])
    numbered = [start + cell for start, cell in zip(starts, cells, strict=True)]
    return np.concatenate(ids), np.concatenate(numbered), np.concatenate(sums)


def _patches(dictionary, ids):
    """Return the patches with indices ``ids``, (m, d) float32."""
    ids = torch.from_numpy(ids).to(dictionary.training_set.device)
    patches = dictionary.take(ids).patches
    return dictionary.training_set.to_compute(patches, torch.float32).cpu().numpy()


def _k_means(points, k, rng):
    from sklearn.cluster import KMeans  # doubles the time of `import skpspc.denoisers` if above

    seed = int(rng.integers(2**31))
    k = min(k, len(np.unique(points[: 4 * k], axis=0)))  # at most one cluster per distinct point
    return KMeans(k, init="random", n_init=1, max_iter=8, random_state=seed).fit(points)
