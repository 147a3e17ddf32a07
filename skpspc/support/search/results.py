"""Results of a search, and the rounding error of their distances.

A result has a *floor*: a lower bound of the distances of all points that are not in the result.
Exact search uses the distance of the last neighbour. Cells that are not visited are bounded by
their radii and by the planes between cells; compressed codes are bounded by their largest error.
The error bound of a truncated posterior holds only with such a floor. An index without floors (a
graph) is not ``rigorous``: its floors are estimates that assume a complete result.
"""

from typing import NamedTuple

import numpy as np
import torch

LEADERS = 8  # nearest points of a query, whose exact distances determine its radius
# Error of squared distances from matrix products, relative to the square of the largest norms.
_ROUNDING = 16 * np.finfo(np.float32).eps


class Found(NamedTuple):
    """The nearest points of each of b queries.

    Attributes
    ----------
    ids : Tensor of shape (b, k), int64
        Indices of the points, nearest first; -1 after the last of fewer than k points.
    distances : Tensor of shape (b, k), float64
        Lower bounds of the distances; inf where the id is -1.
    floor : Tensor of shape (b,), float64
        Lower bound of the distances of all other points; inf if there are no other points.
    """

    ids: torch.Tensor
    distances: torch.Tensor
    floor: torch.Tensor


class Within(NamedTuple):
    """The points within a radius of each of b queries.

    Attributes
    ----------
    query, ids : Tensor of shape (p,), int64
        Pairs of the indices of a query and a point, sorted by query and then by point.
    radius : Tensor of shape (b,), float64
        Lower bound of the distances of all other points; 0 marks a query with more than ``most``
        points, which has no pairs.
    """

    query: torch.Tensor
    ids: torch.Tensor
    radius: torch.Tensor


def rounding(queries, largest_norm):
    """Return error bounds (b,) of squared float32 distances to points of at most this norm."""
    return _ROUNDING * (queries.double().norm(dim=1) + largest_norm).square()
