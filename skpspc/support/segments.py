"""Reductions over values that belong to numbered segments, such as the candidates of each query."""

import torch


def segment_sum(values, segment, n):
    """Sum of each of n segments, (n,); zero where there are no values."""
    return values.new_zeros(n).index_add_(0, segment, values)


def segment_max(values, segment, n):
    """Largest value of each of n segments, (n,); -inf where there are none."""
    return values.new_full((n,), -torch.inf).scatter_reduce_(0, segment, values, "amax")


def segment_logsumexp(values, segment, n):
    """Log of the sum of exponentials of each of n segments, (n,); -inf where there are none."""
    top = segment_max(values, segment, n)
    shift = torch.where(top.isfinite(), top, 0.0)
    return shift + segment_sum((values - shift[segment]).exp(), segment, n).log()


def segment_rank(values, segment, n):
    """Place of each value in its segment, from 0 for the smallest; ties in the given order."""
    order = values.argsort(stable=True)
    order = order[segment[order].argsort(stable=True)]
    counts = torch.bincount(segment, minlength=n)
    first = (counts.cumsum(0) - counts)[segment[order]]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first
    return rank
