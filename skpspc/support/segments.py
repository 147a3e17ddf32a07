"""Reductions over numbered segments of values, such as the candidates of every query."""

import torch


def segment_sum(values, segment, n):
    """Return the sum of each of n segments, (n,); 0 for an empty segment."""
    return values.new_zeros(n).index_add_(0, segment, values)


def segment_max(values, segment, n):
    """Return the largest value of each of n segments, (n,); -inf for an empty segment."""
    return values.new_full((n,), -torch.inf).scatter_reduce_(0, segment, values, "amax")


def segment_logsumexp(values, segment, n):
    """Return the log of the sum of exponentials of each of n segments, (n,); -inf if empty."""
    top = segment_max(values, segment, n)
    shift = torch.where(top.isfinite(), top, 0.0)
    return shift + segment_sum((values - shift[segment]).exp(), segment, n).log()


def segment_rank(values, segment, n):
    """Return the rank of each value in its segment, 0 for the smallest; ties keep their order."""
    order = values.argsort(stable=True)
    order = order[segment[order].argsort(stable=True)]
    counts = torch.bincount(segment, minlength=n)
    first = (counts.cumsum(0) - counts)[segment[order]]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first
    return rank


def segment_nearest(ids, distances, segment, default):
    """Return the ids of the k nearest entries of each segment, nearest first, (n, k).

    A segment with fewer than k entries keeps the last ids of its row of ``default`` (n, k).
    """
    nearest, k = default.clone(), default.shape[1]
    if k == 1:  # no need to sort
        first = -distances == segment_max(-distances, segment, len(nearest))[segment]
        nearest[segment[first], 0] = ids[first]
        return nearest
    rank = segment_rank(distances, segment, len(nearest))
    first = rank < k
    nearest[segment[first], rank[first]] = ids[first]
    return nearest
