r"""All patches of a training set, sorted into cells of like patches.

Of the patches only their numbers are kept, cell by cell; the patches stay where they are, in the
images. A cell is known by its mean and its variances along the principal directions of all
patches, which tell a query patch q where its posterior lies: with the cell's n patches spread as
a Gaussian,

.. math::

    \sum_{j \in \text{cell}} e^{-\|q - y_j\|^2 / 2 \sigma^2} \approx
    n \prod_d \Bigl(\frac{\sigma^2}{\sigma^2 + v_d}\Bigr)^{1/2}
    e^{-(q_d - m_d)^2 / 2 (\sigma^2 + v_d)} .
"""

import copy
import math

import numpy as np
import torch

from .._threads import ForkSafeLock

_PATCHES_A_CELL = 120
_MOST_BRANCHES = 256
_TRAINED_ON = 12  # patches a cell
_CHUNK = 2**16
_KEPT_VARIANCE = 0.995  # of all patches, along the leading directions


class PatchCells:
    """The patches of a dictionary, cell by cell.

    Cells are found by k-means twice over: of all patches, and of those of each part.

    Parameters
    ----------
    dictionary : PatchDictionary
    track : callable, default None
        ``track(iterable)`` passes on the parts that are still to be divided; for a progress bar.

    Attributes
    ----------
    order : ndarray of shape (M,), int32 or int64
        Numbers of all patches, cell by cell.
    ends : ndarray of shape (K + 1,), int64
        Where each cell begins, and where the last one ends. A cell may be empty.
    """

    def __init__(self, dictionary, track=None):
        rng = np.random.default_rng(0)
        n = self._n_divided = len(dictionary)
        branches = min(_MOST_BRANCHES, max(1, round(math.sqrt(n / _PATCHES_A_CELL))))
        some = np.sort(rng.choice(n, min(n, 400 * branches), replace=False))
        sample = _patches(dictionary, some)
        self._centre = sample.mean(0)
        values, vectors = np.linalg.eigh(np.cov(sample.T, ddof=0).reshape(sample.shape[1], -1))
        held = np.cumsum(values[::-1]) / max(values.sum(), np.finfo(values.dtype).tiny)
        n_leading = min(len(held), 1 + int(np.searchsorted(held, _KEPT_VARIANCE)))
        self._basis = np.ascontiguousarray(vectors[:, ::-1][:, :n_leading], np.float32)
        self._trunk, self._twigs = _k_means(sample, branches, rng), []
        members = self._members(dictionary, 0)
        ids, cells, sums, reached = [], [], [], 0
        for part in members if track is None else track(members):
            patches = _patches(dictionary, part)
            trained_on = rng.permutation(len(part))[: _TRAINED_ON * branches]
            self._twigs.append(_k_means(patches[trained_on], branches, rng) if len(part) else None)
            cell, found = self._sorted(patches, self._twigs[-1])
            ids.append(part)
            cells.append(reached + cell)
            sums.append(found)
            reached += len(found)
        self._keep(dictionary, ids, cells, np.concatenate(sums))

    def extended(self, dictionary):
        """The cells of a dictionary that begins with the present patches, found as they were.

        They are made anew where it has become more than twice what they were made of.
        """
        if len(dictionary) > 2 * self._n_divided:
            return PatchCells(dictionary)
        ids, cells = [self.order], [np.repeat(np.arange(len(self)), np.diff(self.ends))]
        sums, reached = [], 0
        members = self._members(dictionary, len(self.order))
        for part, twig in zip(members, self._twigs, strict=True):
            cell, found = self._sorted(_patches(dictionary, part), twig)
            ids.append(part)
            cells.append(reached + cell)
            sums.append(found)
            reached += len(found)
        both = copy.copy(self)
        both._keep(dictionary, ids, cells, self._sums + np.concatenate(sums))
        return both

    def _members(self, dictionary, start):
        """Numbers of the patches from the start-th on, for each part."""
        starts = range(start, len(dictionary), _CHUNK)
        chunks = [np.arange(i, min(i + _CHUNK, len(dictionary))) for i in starts]
        part = np.concatenate([self._trunk.predict(_patches(dictionary, ids)) for ids in chunks])
        ends = np.bincount(part, minlength=self._trunk.n_clusters).cumsum()
        return np.split(start + np.argsort(part, kind="stable"), ends[:-1])

    def _sorted(self, patches, twig):
        """The cell of each patch of one part, and the sums of each cell: see `_keep`."""
        n_cells = 1 if twig is None else twig.n_clusters  # a part that was empty has one
        cell = np.zeros(len(patches), np.int64)
        if twig is not None and len(patches):
            cell = twig.predict(patches).astype(np.int64)
        turned = torch.from_numpy((patches - self._centre) @ self._basis).double()
        sums = turned.new_zeros(n_cells, 2 * turned.shape[1])
        sums.index_add_(0, torch.from_numpy(cell), torch.cat([turned, turned.square()], 1))
        return cell, sums.numpy()

    def _keep(self, dictionary, ids, cells, sums):
        """Put patches in order; ``sums`` (K, 2 r) are of coordinates and of their squares."""
        ids, cells = np.concatenate(ids), np.concatenate(cells)
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
        """How much of a posterior each cell holds, by the formula above.

        Parameters
        ----------
        sigma : float

        Returns
        -------
        callable
            From queries (Q, d), float32, to logs of the sums of exp(-|q - y|^2 / 2 sigma^2) over
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
        """Leading coordinates of queries, (Q, r), and the squared norm of the others, (Q, 1)."""
        queries = queries - torch.from_numpy(self._centre)
        turned = queries @ torch.from_numpy(self._basis)
        rest = queries.square().sum(1, keepdim=True) - turned.square().sum(1, keepdim=True)
        return turned, rest


class CellsByWindow:
    """`PatchCells` of a training set's patches, made once for each shape of window.

    Threads that ask at the same time wait for the one that makes them. Where the training set has
    become larger, new patches are added.
    """

    def __init__(self):
        self._known = {}
        self._lock = ForkSafeLock()

    def of(self, dictionary, track=None):
        """Those of a dictionary; parameters as for `PatchCells`."""
        with self._lock:
            cells = self._known.get(dictionary.window)
            if cells is None:
                cells = PatchCells(dictionary, track)
            elif len(cells.order) < len(dictionary):
                cells = cells.extended(dictionary)
            self._known[dictionary.window] = cells
            return cells

    def __getstate__(self):
        return {"_known": dict(self._known)}  # a thread may be adding to it

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=ForkSafeLock())


def _patches(dictionary, ids):
    """Patches of some numbers, (m, d) float32."""
    ids = torch.from_numpy(ids).to(dictionary.training_set.device)
    patches = dictionary.take(ids).patches
    return dictionary.training_set.to_compute(patches, torch.float32).cpu().numpy()


def _k_means(points, k, rng):
    from sklearn.cluster import KMeans  # half of what `import skpspc.denoisers` would take

    seed = int(rng.integers(2**31))
    k = min(k, len(np.unique(points[: 4 * k], axis=0)))  # fewer if points are alike
    return KMeans(k, init="random", n_init=1, max_iter=8, random_state=seed).fit(points)
