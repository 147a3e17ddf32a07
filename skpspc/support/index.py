"""Finding the training images whose coordinates are near those of a noisy image.

An index answers with some points and a *floor*: no point that it left out is nearer than that.
Exact search gives the distance of its last neighbour; cells that were not visited are bounded by
their radius and by the planes between them; compressed codes by their largest error. Only such a
floor makes the bound on a truncated posterior true. An index that can give none (a graph) is not
``rigorous``: its floors are estimates, as if it had missed nothing.
"""

import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from .._optional import available
from .coordinates import band_ends, band_norms
from .memory import rows_that_fit
from .segments import segment_max, segment_rank

LEADERS = 8  # nearest points whose true distance sets how far to look
# Squared distances by matrix products, in units of float32 rounding of the largest norms.
_ROUNDING = 16 * np.finfo(np.float32).eps
_COARSE = 64  # coordinates that the first look takes as they are
_PAIRS = 4096  # pairs of points that are compared together: they stay in the cache
_FEW = 1 / 40  # share of points up to which pairs are cheaper than all products


class Found(NamedTuple):
    """The points nearest to each of b queries.

    Attributes
    ----------
    ids : Tensor of shape (b, k), int64
        Nearest first; -1 where there are fewer.
    distances : Tensor of shape (b, k), float64
        Never longer than the true ones; inf where there are fewer.
    floor : Tensor of shape (b,), float64
        No other point is nearer; inf if there is no other.
    """

    ids: torch.Tensor
    distances: torch.Tensor
    floor: torch.Tensor


class Within(NamedTuple):
    """The points within a radius of each of b queries.

    Attributes
    ----------
    query, ids : Tensor of shape (p,), int64
        Pairs of a query's number and a point's, by query and then by point.
    radius : Tensor of shape (b,), float64
        No other point is nearer; zero for a query that has too many, of which there are no pairs.
    """

    query: torch.Tensor
    ids: torch.Tensor
    radius: torch.Tensor


def rounding(queries, largest_norm):
    """How far squared float32 distances to points of at most that norm may be off, (b,)."""
    return _ROUNDING * (queries.double().norm(dim=1) + largest_norm).square()


class BruteIndex:
    """Exact search by matrix products, on any device.

    Parameters
    ----------
    n_dims : int
    device : torch.device or str, default "cpu"
    """

    rigorous = True
    cheap = True  # sooner built than read from a file

    def __init__(self, n_dims, device="cpu"):
        self._ends = band_ends(_COARSE, n_dims)
        self._points = torch.empty((0, n_dims), device=device)
        self._coarse = self._points.new_empty(0, self._ends[0] + len(self._ends) - 1)
        self._norms = self._points.new_empty(0)

    def __len__(self):
        return len(self._points)

    def check_size(self, n):
        """Any number of points will do."""

    def train(self, points):
        """Nothing to learn."""

    def add(self, points):
        """Add points (m, n_dims), float32; they are numbered in order."""
        points = points.to(self._points)
        self._points = torch.cat([self._points, points])
        self._coarse = torch.cat([self._coarse, band_norms(points, self._ends)])
        self._norms = torch.cat([self._norms, points.square().sum(1)])

    def search(self, queries, k):
        """The k points nearest to each query (b, n_dims), float32 and finite; see `Found`."""
        queries = queries.to(self._points)
        n_rows = rows_that_fit(16 * len(self), len(queries), what="The distances of one image")
        found = [self._nearest(block, min(k, len(self))) for block in queries.split(n_rows)]
        return Found(*(torch.cat(part) for part in zip(*found, strict=True)))

    def _nearest(self, queries, k):
        squares, offset = self._squares(queries, self._points)
        near = squares.topk(k, dim=1, largest=False)
        distances = (near.values.double() + offset[:, None]).clamp_min_(0).sqrt_()
        floor = distances[:, -1].clone() if k < len(self) else torch.full_like(offset, torch.inf)
        return near.indices, distances, floor

    def within(self, queries, radius_of, most):
        """All points within a radius; see `Within`.

        Parameters
        ----------
        queries : Tensor of shape (b, n_dims), float32, finite
        radius_of : callable
            ``radius_of(rows, ids)`` gives the radius, (r,) float64, of some queries, a slice,
            from the numbers of a few points near to each, (r, k).
        most : int
            Queries with more points than that get none.
        """
        queries = queries.to(self._points)
        n_rows = rows_that_fit(16 * len(self), len(queries), what="The distances of one image")
        pairs, radii = [], []
        for start in range(0, len(queries), n_rows):
            rows = slice(start, min(start + n_rows, len(queries)))
            query, ids, radius = self._block_within(queries[rows], rows, radius_of, most)
            pairs.append((query + start, ids))
            radii.append(radius)
        query, ids = (torch.cat(part) for part in zip(*pairs, strict=True))
        return Within(query, ids, torch.cat(radii))

    def _block_within(self, queries, rows, radius_of, most):
        """First by a few coordinates, then by all of them where that left few or leaves many."""
        coarse = band_norms(queries, self._ends)
        squares, offset = self._squares(coarse, self._coarse)
        near = _one_of_each_part(squares)
        radius = radius_of(rows, near)
        inside = squares <= (radius.square() - offset).to(squares)[:, None]
        if int(inside.count_nonzero()) > _FEW * inside.numel():
            squares, offset = self._squares(queries, self._points)
            near = squares.topk(min(LEADERS, len(self)), dim=1, largest=False).indices
            radius = torch.minimum(radius, radius_of(rows, near))
            inside = squares <= (radius.square() - offset).to(squares)[:, None]
            query, ids = _places(inside)
        else:
            query, ids = _places(inside)
            distances = self._pair_distances(queries, query, ids)
            for n_leaders in (1, LEADERS):  # few of them first: fewer are to be sorted then
                near = _leaders(query, ids, distances, near[:, :1].expand(-1, n_leaders))
                radius = torch.minimum(radius, radius_of(rows, near))
                keep = distances <= radius[query]
                query, ids, distances = query[keep], ids[keep], distances[keep]
        few = torch.bincount(query, minlength=len(queries)) <= most
        keep = few[query]
        return query[keep], ids[keep], torch.where(few, radius, 0.0)

    def _pair_distances(self, queries, query, ids):
        """Distances of pairs of a query and a point, float64, never longer than the true ones."""
        squares = torch.empty(len(ids), dtype=torch.float64, device=queries.device)
        for start in range(0, len(ids), _PAIRS):
            some = slice(start, start + _PAIRS)
            difference = self._points.index_select(0, ids[some])
            difference -= queries.index_select(0, query[some])
            squares[some] = difference.square_().sum(1)
        slack = rounding(queries, float(self._norms.max()) ** 0.5)
        return (squares - slack[query]).clamp_min_(0).sqrt_()

    def _squares(self, queries, points):
        """Squared distances (b, N) up to a number of each query, and that number (b,) float64.

        Rounding is subtracted from the number, so that sums are lower bounds.
        """
        # norms of bands keep the norm of a whole point, so that both looks have these norms
        squares = torch.addmm(self._norms, queries, points.T, alpha=-2)
        slack = rounding(queries, float(self._norms.max()) ** 0.5)
        return squares, queries.double().square().sum(1) - slack


def _one_of_each_part(squares):
    """Columns (b, k) of the smallest entries of k parts of each row: half the time of `topk`."""
    n_points = squares.shape[1]
    n_parts = min(LEADERS, n_points)
    size = n_points // n_parts
    parts = squares[:, : n_parts * size].unflatten(1, (n_parts, size))
    return parts.argmin(2) + size * torch.arange(n_parts, device=squares.device)


def _places(inside):
    """Rows and columns of what is true in a matrix, by row and then by column."""
    if inside.device.type != "cpu":
        return inside.nonzero().unbind(1)
    flat = torch.from_numpy(np.flatnonzero(inside.numpy()))  # a third of the time of `nonzero`
    return flat // inside.shape[1], flat % inside.shape[1]


def _leaders(query, ids, distances, default):
    """The ids of each query's nearest pairs, (b, k); ``default`` (b, k) where there are fewer."""
    out, k = default.clone(), default.shape[1]
    if k == 1:  # no need to sort
        first = -distances == segment_max(-distances, query, len(out))[query]
        out[query[first], 0] = ids[first]
        return out
    rank = segment_rank(distances, query, len(out))
    first = rank < k
    out[query[first], rank[first]] = ids[first]
    return out


def make_index(factory, n_dims, device="cpu"):
    """The index that a factory string names, empty.

    Parameters
    ----------
    factory : str
        A string for `faiss.index_factory`. "Flat" on the CPU is searched by torch, whose matrix
        products are the faster ones; so is everything where faiss is missing, with a warning.
    n_dims : int
    device : torch.device
        Where the training set is.
    """
    from .faiss_index import FaissIndex, gpu_search

    if factory == "Flat" and not gpu_search(device):
        return BruteIndex(n_dims, device)
    if not available("faiss"):
        _warn_missing(factory)
        return BruteIndex(n_dims, device)
    return FaissIndex(factory, n_dims, "auto" if torch.device(device).type == "cuda" else "cpu")


@cache
def _warn_missing(factory):
    warnings.warn(
        f"faiss is not installed, so index={factory!r} is replaced by an exact search in torch: "
        'nothing is lost but time. pip install "skpspc[cpu]", or pass index="Flat".',
        UserWarning,
        stacklevel=7,
    )
