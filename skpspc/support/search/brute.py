"""Exact search by matrix products in torch."""

import copy

import numpy as np
import torch

from ..._state import NumpyState
from ..memory import rows_that_fit
from ..segments import segment_nearest
from .coordinates import band_ends, band_norms
from .results import LEADERS, Found, Within, rounding

_COARSE = 64  # coordinates that the first pass compares one by one
_PAIRS = 4096  # pairs whose distances are computed together: they stay in the cache
_FEW = 1 / 40  # of all pairs: distances of fewer pairs are cheaper than all matrix products


class BruteIndex(NumpyState):
    """Exact search by matrix products, on any device.

    Parameters
    ----------
    n_dims : int
    device : torch.device or str, default "cpu"
    """

    rigorous = True
    cheap = True  # built faster than read from a file

    def __init__(self, n_dims, device="cpu"):
        self._ends = band_ends(_COARSE, n_dims)
        self._points = torch.empty((0, n_dims), device=device)
        self._coarse = self._points.new_empty(0, self._ends[0] + len(self._ends) - 1)
        self._norms = self._points.new_empty(0)

    def __len__(self):
        return len(self._points)

    def check_size(self, n):
        """Accept any number n of points."""

    def train(self, points):
        """Do nothing: exact search needs no training."""

    def add(self, points):
        """Add points (m, n_dims), float32, numbered in order."""
        points = points.to(self._points)
        self._points = torch.cat([self._points, points])
        self._coarse = torch.cat([self._coarse, band_norms(points, self._ends)])
        self._norms = torch.cat([self._norms, points.square().sum(1)])

    def copied(self):
        """Return a copy; points added to the copy do not change this index."""
        return copy.copy(self)  # `add` replaces the tensors

    def search(self, queries, k):
        """Return the k nearest points of queries (b, n_dims), float32 and finite; see `Found`."""
        queries = queries.to(self._points)
        blocks = queries.split(self._n_queries_at_once(queries))
        results = [self._nearest(block, min(k, len(self))) for block in blocks]
        return Found(*map(torch.cat, zip(*results, strict=True)))

    def _nearest(self, queries, k):
        squares, offset = self._squares(queries, self._points)
        nearest = squares.topk(k, dim=1, largest=False)
        distances = (nearest.values.double() + offset[:, None]).clamp_min_(0).sqrt_()
        floor = distances[:, -1].clone() if k < len(self) else torch.full_like(offset, torch.inf)
        return nearest.indices, distances, floor

    def within(self, queries, radius_of, most):
        """Return all points within a radius; see `Within`.

        Parameters
        ----------
        queries : Tensor of shape (b, n_dims), float32, finite
        radius_of : callable
            ``radius_of(rows, ids)`` returns the radii (r,), float64, of the queries ``rows``, a
            slice. ``ids`` (r, k) are a few points close to each query.
        most : int
            A query with more points gets no pairs.
        """
        queries = queries.to(self._points)
        n_rows = self._n_queries_at_once(queries)
        results = []
        for start in range(0, len(queries), n_rows):
            rows = slice(start, min(start + n_rows, len(queries)))
            query, ids, radius = self._block_within(queries[rows], rows, radius_of, most)
            results.append((query + start, ids, radius))
        return Within(*map(torch.cat, zip(*results, strict=True)))

    def _n_queries_at_once(self, queries):
        return rows_that_fit(16 * len(self), len(queries), what="The distances of one image")

    def _block_within(self, queries, rows, radius_of, most):
        """Compare coarse coordinates first, and then all coordinates of the remaining pairs."""
        squares, offset = self._squares(band_norms(queries, self._ends), self._coarse)
        leaders = _range_minima(squares)
        radius = radius_of(rows, leaders)
        inside = _inside(squares, offset, radius)
        if int(inside.count_nonzero()) > _FEW * inside.numel():
            squares, offset = self._squares(queries, self._points)
            leaders = squares.topk(min(LEADERS, len(self)), dim=1, largest=False).indices
            radius = torch.minimum(radius, radius_of(rows, leaders))
            query, ids = _nonzero(_inside(squares, offset, radius))
        else:
            query, ids = _nonzero(inside)
            distances = self._pair_distances(queries, query, ids)
            for n_leaders in (1, LEADERS):  # one leader first: fewer pairs remain to be sorted
                default = leaders[:, :1].expand(-1, n_leaders)
                leaders = segment_nearest(ids, distances, query, default)
                radius = torch.minimum(radius, radius_of(rows, leaders))
                keep = distances <= radius[query]
                query, ids, distances = query[keep], ids[keep], distances[keep]
        few = torch.bincount(query, minlength=len(queries)) <= most
        keep = few[query]
        return query[keep], ids[keep], torch.where(few, radius, 0.0)

    def _pair_distances(self, queries, query, ids):
        """Return lower bounds of the distances of pairs of a query and a point, (p,) float64."""
        squares = torch.empty(len(ids), dtype=torch.float64, device=queries.device)
        for start in range(0, len(ids), _PAIRS):
            pairs = slice(start, start + _PAIRS)
            difference = self._points.index_select(0, ids[pairs])
            difference -= queries.index_select(0, query[pairs])
            squares[pairs] = difference.square_().sum(1)
        return (squares - self._rounding(queries)[query]).clamp_min_(0).sqrt_()

    def _squares(self, queries, points):
        """Return squared distances (b, N) minus an offset per query, and the offsets (b,) float64.

        The rounding error is subtracted from the offsets: a squared distance plus its offset is a
        lower bound.
        """
        # coarse points have the norms of the full points, so one array of norms serves both
        squares = torch.addmm(self._norms, queries, points.T, alpha=-2)
        return squares, queries.double().square().sum(1) - self._rounding(queries)

    def _rounding(self, queries):
        return rounding(queries, float(self._norms.max()) ** 0.5)


def _inside(squares, offset, radius):
    """Return a mask (b, N) of the `BruteIndex._squares` that are at most the squared radius."""
    return squares <= (radius.square() - offset).to(squares)[:, None]


def _range_minima(squares):
    """Return the columns (b, k) of the minima of k equal column ranges, faster than `topk`."""
    n_points = squares.shape[1]
    n_ranges = min(LEADERS, n_points)
    size = n_points // n_ranges
    ranges = squares[:, : n_ranges * size].unflatten(1, (n_ranges, size))
    return ranges.argmin(2) + size * torch.arange(n_ranges, device=squares.device)


def _nonzero(inside):
    """Return rows and columns of the true entries of a matrix, sorted by row, then by column."""
    if inside.device.type != "cpu":
        return inside.nonzero().unbind(1)
    flat = torch.from_numpy(np.flatnonzero(inside.numpy()))  # a third of the time of `nonzero`
    return flat // inside.shape[1], flat % inside.shape[1]
