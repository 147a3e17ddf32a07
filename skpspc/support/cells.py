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

import math
from threading import Lock

import numpy as np
import torch
from sklearn.cluster import KMeans

from .training_set import to_compute

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
        Where each cell begins, and where the last one ends.
    """

    def __init__(self, dictionary, track=None):
        rng = np.random.default_rng(0)
        n = len(dictionary)
        branches = min(_MOST_BRANCHES, max(1, round(math.sqrt(n / _PATCHES_A_CELL))))
        some = np.sort(rng.choice(n, min(n, 400 * branches), replace=False))
        sample = _patches(dictionary, some)
        self._centre = sample.mean(0)
        values, vectors = np.linalg.eigh(np.cov(sample.T, ddof=0).reshape(sample.shape[1], -1))
        held = np.cumsum(values[::-1]) / max(values.sum(), np.finfo(values.dtype).tiny)
        n_leading = min(len(held), 1 + int(np.searchsorted(held, _KEPT_VARIANCE)))
        self._basis = np.ascontiguousarray(vectors[:, ::-1][:, :n_leading], np.float32)
        trunk = _k_means(sample, branches, rng)
        chunks = [np.arange(i, min(i + _CHUNK, n)) for i in range(0, n, _CHUNK)]
        part = np.concatenate([trunk.predict(_patches(dictionary, ids)) for ids in chunks])
        members = np.split(
            np.argsort(part, kind="stable"), np.bincount(part, minlength=branches).cumsum()[:-1]
        )
        small = np.int32 if n <= np.iinfo(np.int32).max else np.int64
        orders, counts, weights, moments = [], [], [], []
        for ids in members if track is None else track(members):
            if len(ids):
                order, starts, moment = self._divided(dictionary, ids, branches, rng)
                orders.append(order.astype(small))
                counts.append(np.diff(starts, append=len(order)))
                weights.append(np.add.reduceat(dictionary.weights(order), starts))
                moments.append(moment)
        self.order = np.concatenate(orders)
        self.ends = np.append(0, np.concatenate(counts).cumsum())
        self._log_weight = torch.from_numpy(np.log(np.concatenate(weights))).float()
        self._mean, self._variance = (
            torch.from_numpy(np.concatenate(part)).float() for part in zip(*moments, strict=True)
        )

    def __len__(self):
        return len(self.ends) - 1

    def _divided(self, dictionary, ids, branches, rng):
        """Patches of one part by cell, where the cells start, and their means and variances."""
        patches = _patches(dictionary, ids)
        some = rng.permutation(len(ids))[: _TRAINED_ON * branches]
        cell = _k_means(patches[some], branches, rng).predict(patches)
        order = np.argsort(cell, kind="stable")
        _, starts, count = np.unique(cell[order], return_index=True, return_counts=True)
        turned = ((patches - self._centre) @ self._basis)[order].astype(np.float64)
        mean = np.add.reduceat(turned, starts) / count[:, None]
        square = np.add.reduceat(np.square(turned), starts) / count[:, None]
        return ids[order], starts, (mean, np.maximum(square - np.square(mean), 0))

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

    Threads that ask at the same time wait for the one that makes them.
    """

    def __init__(self):
        self._known = {}
        self._lock = Lock()

    def of(self, dictionary, track=None):
        """Those of a dictionary; parameters as for `PatchCells`."""
        with self._lock:
            if dictionary.window not in self._known:
                self._known[dictionary.window] = PatchCells(dictionary, track)
            return self._known[dictionary.window]

    def __getstate__(self):
        return {"_known": self._known}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=Lock())


def _patches(dictionary, ids):
    """Patches of some numbers, (m, d) float32."""
    ids = torch.from_numpy(ids).to(dictionary.training_set.device)
    return to_compute(dictionary.take(ids).patches, torch.float32).cpu().numpy()


def _k_means(points, k, rng):
    seed = int(rng.integers(2**31))
    k = min(k, len(np.unique(points[: 4 * k], axis=0)))  # fewer if points are alike
    return KMeans(k, init="random", n_init=1, max_iter=8, random_state=seed).fit(points)
