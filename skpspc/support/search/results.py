"""Results of a search, and the rounding error of the distances in them.

A result has a *floor*: every point that it leaves out is at least that far away. Exact search
takes the distance of the last neighbour. Cells that are not visited are bounded by their radii and
by the planes between them, compressed codes by their largest error. The error bound of a truncated
posterior holds only with such a floor. An index that has none (a graph) is not ``rigorous``: its
floors are estimates that assume complete results.
"""

from typing import NamedTuple

import numpy as np
import torch

LEADERS = 8  # nearest points of a query whose exact distances determine its radius
# Error of squared distances from matrix products, per square of the largest norms.
_ROUNDING = 16 * np.finfo(np.float32).eps


class Found(NamedTuple):
    """The points nearest to each of b queries.

    Attributes
    ----------
    ids : Tensor of shape (b, k), int64
        Nearest first; -1 fills the row of a query with fewer than k points.
    distances : Tensor of shape (b, k), float64
        Lower bounds of the distances; inf beside an id of -1.
    floor : Tensor of shape (b,), float64
        Lower bound of the distances of all other points; inf if there are none.
    """

    ids: torch.Tensor
    distances: torch.Tensor
    floor: torch.Tensor


class Within(NamedTuple):
    """The points within a radius of each of b queries.

    Attributes
    ----------
    query, ids : Tensor of shape (p,), int64
        Pairs of a query and a point, sorted by query and then by point.
    radius : Tensor of shape (b,), float64
        Lower bound of the distances of all other points; 0 marks a query with more than ``most``
        points, which has no pairs.
    """

    query: torch.Tensor
    ids: torch.Tensor
    radius: torch.Tensor


def rounding(queries, largest_norm):
    """Error bounds of squared float32 distances to points of at most that norm, (b,)."""
    return _ROUNDING * (queries.double().norm(dim=1) + largest_norm).square()
