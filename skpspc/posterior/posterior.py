r"""The posterior over training images, seen through windows.

For a noisy image z = x + sigma * eps, windows k with coordinates P_k, and training images
x_i with weights v_i (summing to one),

.. math::

    w_i^k = \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2}
            \sum_{j \in P_k} (z_j - x_{ij})^2 + \log v_i\Bigr),
    \qquad
    D(z)_p = \frac{1}{|\{k : p \in P_k\}|} \sum_{k : p \in P_k} \sum_i w_i^k x_{ip}.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch

from .._repr import extent

_VISIBLE_ROUNDING = 1e-3  # of a logit: a weight is off by as much


@dataclass(frozen=True)
class Posterior:
    """What the training set says about each of n noisy images.

    Attributes
    ----------
    mean : array of shape (n, ...)
        The posterior mean, or the composite of the windows' means: the denoised image.
    log_evidence : array of shape (n,)
        log p(z; sigma) of the noisy image under the training set blurred by sigma. With
        several windows: the composite log-likelihood, ``D * mean_k(log p_k / d_k)`` with
        D numbers in the image and d_k in window k, so that it is comparable between
        window sizes and equals log p for a window as large as the image. Kernels give one
        value per window, (n, K).
    effective_sample_size : array of shape (n,)
        ``1 / sum_i w_i^2`` (for weights that sum to one), between 1 and N: how many
        training images share the answer. With several windows their mean. Kernels give
        one value per window, (n, K).
    error_bound : array of shape (n,)
        Largest possible absolute error of any pixel of ``mean`` that comes from leaving
        training images out; 0 where all were used. Where ``bound_is_proved`` is False it is an
        estimate, which single pixels may exceed.
    standard_error : array of shape (n,)
        Root mean square, over the pixels of ``mean``, of the standard error that comes from
        drawing some of the training images at random; 0 where none were.
    bound_is_proved : array of shape (n,), bool
        Whether no pixel can exceed ``error_bound``, but for rounding. False for an estimate: with
        ``tol`` of `LocalScoreDenoiser`, and with an index that can miss training images
        unnoticed, such as a graph; the parameter ``index`` of `EmpiricalDenoiser` lists those
        that cannot, and ``index_recall`` measures how many the others miss. Default: True.
    """

    mean: Any
    log_evidence: Any
    effective_sample_size: Any
    error_bound: Any
    standard_error: Any = None
    bound_is_proved: Any = None

    def __post_init__(self):
        if self.standard_error is None:
            object.__setattr__(self, "standard_error", 0 * self.error_bound)
        if self.bound_is_proved is None:
            object.__setattr__(self, "bound_is_proved", self.error_bound >= 0)  # NaN bounds nothing

    # what a weighted mean of posteriors is the weighted mean of
    AVERAGED: ClassVar = (
        "mean",
        "log_evidence",
        "effective_sample_size",
        "error_bound",
        "standard_error",
    )

    def __repr__(self):
        proved = int(self.bound_is_proved.sum())
        n = len(self.mean)
        state = "proved" if proved == n else f"proved for {proved} of {n}"
        return (
            f"Posterior(n={n}, image_shape={tuple(self.mean.shape[1:])}, "
            f"effective_sample_size={extent(self.effective_sample_size)}, "
            f"error_bound={extent(self.error_bound)}, {state})"
        )

    def pooled(self, n_values, window_values):
        """One value per image from one value per window.

        Parameters
        ----------
        n_values : int
            Numbers in the image, D.
        window_values : int or Tensor of shape (K,)
            Numbers in every window, or in each, d.
        """
        per_value = (self.log_evidence.flatten(1) / window_values).mean(1)
        return Posterior(
            self.mean,
            per_value * n_values,
            self.effective_sample_size.flatten(1).mean(1),
            self.error_bound,
            self.standard_error,
            self.bound_is_proved,
        )

    def map(self, function):
        """The posterior with ``function`` applied to each of its arrays."""
        return Posterior(*(function(getattr(self, field.name)) for field in fields(self)))

    def updated(self, rows, other):
        """A copy in which some rows, Tensor of int64, are those of another posterior."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Posterior(*(ours.index_copy(0, rows, theirs) for ours, theirs in pairs))

    @staticmethod
    def by_group(keys, function):
        """The posterior of images, from those of groups of images that share a key.

        Parameters
        ----------
        keys : sequence of length n
            Sortable.
        function : callable
            ``function(rows, key)`` gives the posterior of some rows, a list of int.
        """
        parts = []
        for key in sorted(set(keys)):
            rows = [row for row, other in enumerate(keys) if other == key]
            part = function(rows, key)
            parts.append((torch.tensor(rows, device=part.error_bound.device), part))
        return Posterior.gathered(parts, len(keys))

    @staticmethod
    def gathered(parts, n):
        """Put the posteriors of groups of images back in order.

        Parameters
        ----------
        parts : list of (Tensor of int64, Posterior)
            Which of the n images, and their posterior.
        n : int
        """
        if len(parts) == 1:
            return parts[0][1]

        def gather(name):
            first = getattr(parts[0][1], name)
            out = first.new_empty((n, *first.shape[1:]))
            for rows, part in parts:
                out[rows] = getattr(part, name)
            return out

        return Posterior(*(gather(field.name) for field in fields(Posterior)))


class RunningSoftmax:
    """Sums of weights over training images that come in chunks, for many softmaxes at once.

    A weight is ``exp(logit - nearest + log v - top)`` with v the sample weight, ``nearest`` the
    largest logit and ``top`` the largest of the first three terms (zero without sample weights):
    added first, log v would be lost beside the large logits of a small sigma.

    Parameters
    ----------
    like : Tensor of shape (...)
        Gives shape, dtype and device of the sums.
    dim : int, default 0
        Which axis of logits counts the images of a chunk.
    dtype : torch.dtype, default None
        That of the weights; None: that of the sums.
    rounding : float, default 0.0
        Logits that differ from the largest by no more than this share of it are equal to it.

    Attributes
    ----------
    nearest, top, total, squares : Tensor of shape (...)
        The two references, the sum of the weights and that of their squares.
    """

    def __init__(self, like, dim=0, dtype=None, rounding=0.0):
        self._dim, self._dtype, self._rounding = dim, dtype or like.dtype, rounding
        self.nearest = torch.full_like(like, -torch.inf)
        self.top, self.total, self.squares = (torch.zeros_like(like) for _ in range(3))

    def relative(self, logit, prior):
        """Logits (overwritten) less the references, with ``prior``: log v (m,), or None."""
        relative = logit.sub_(self.nearest.unsqueeze(self._dim)).to(self._dtype)
        if self._rounding:
            slack = self._rounding * self.nearest.abs().unsqueeze(self._dim)
            relative.masked_fill_(relative >= -slack, 0.0)
        if prior is None:
            return relative
        relative += prior.to(relative).view(-1, *[1] * (logit.dim() - self._dim - 1))
        return relative.sub_(self.top.unsqueeze(self._dim))

    def add(self, logit, prior):
        """Take in logits (..., m, ...) of m images, which are overwritten.

        Returns
        -------
        relative : Tensor of the shape of ``logit``
            Logs of the weights.
        weight : Tensor of the shape of ``logit``
        shrink : Tensor of shape (...)
            What sums over weights given before are to be multiplied by.
        """
        dim = self._dim
        nearer = torch.maximum(self.nearest, logit.amax(dim))
        if self._rounding:  # what is nearest stays it until something is clearly nearer
            slack = self._rounding * nearer.abs()
            nearer = nearer.where(nearer > self.nearest + slack, self.nearest)
        moved = self.top + (self.nearest - nearer)
        self.nearest, self.top = nearer, torch.zeros_like(moved)
        relative = self.relative(logit, prior)
        if prior is not None:
            self.top = torch.maximum(moved, relative.amax(dim).to(moved))
            relative -= self.top.unsqueeze(dim).to(relative)
        shrink = (moved - self.top).exp_()
        weight = relative.exp()
        self.total = self.total * shrink + weight.sum(dim)
        self.squares = self.squares * shrink.square() + weight.square().sum(dim)
        return relative, weight, shrink

    @property
    def log_norm(self):
        """Log of the sum of ``v exp(logit)``."""
        return self.nearest + (self.top + self.total.log())

    @property
    def effective_sample_size(self):
        """``(sum w)^2 / sum w^2``."""
        return self.total.square() / self.squares


def floored_sigma(sigma, z, training_set):
    """Sigma with zero replaced by 1e-15 of the largest value at hand.

    There every weight but the nearest image's (and its exact ties') underflows to zero,
    which is the limit, and the squares of scaled differences do not overflow yet.

    Parameters
    ----------
    sigma : Tensor of shape (n,), float64
    z : Tensor of shape (n, ...)
    training_set : TrainingSet

    Returns
    -------
    Tensor of shape (n,), float64
    """
    scale = z.abs().flatten(1).amax(1).to(torch.float64).clamp_min(training_set.abs_max)
    least = 1e-15 * scale.clamp_min(1e-16 if z.dtype == torch.float32 else 1e-60)
    return torch.maximum(sigma, least)


def in_range(compiled, plain, z, sigma, training_set, *args):
    """Call the compiled kernel where its float32 logits serve, and the plain one elsewhere.

    A logit of 1e8 (at a sigma of 1e-4 of the data) leaves no room for a log weight beside it,
    and data far from one overflow sooner.

    Parameters
    ----------
    compiled, plain : callable
        ``kernel(z, sigma, training_set, *args)`` to a tuple of tensors with n rows each.
    z : Tensor of shape (n, ...)
    sigma : Tensor of shape (n,)
    training_set : TrainingSet

    Returns
    -------
    tuple of Tensor
    """
    size = training_set.abs_max
    usual = (sigma > 1e-4 * size) & sigma.isfinite() & (1e-6 < size < 1e6)
    rows = [mask.nonzero().squeeze(1) for mask in (usual, ~usual)]
    parts = [
        kernel(z[some], sigma[some], training_set, *args)
        for kernel, some in zip((compiled, plain), rows, strict=True)
        if len(some)
    ]
    order = torch.cat(rows).argsort()
    return tuple(torch.cat(part)[order] for part in zip(*parts, strict=True))


def precision_root(sigma):
    """``a = 1 / (sigma sqrt(2))``, so that logits are ``-|a z - a x|^2``.

    Scaling before squaring keeps huge noise from overflowing; at sigma = inf, a = 0.
    """
    return math.sqrt(0.5) / sigma


def exact_scale(a):
    """A power of two s and a factor f with ``a^2 = s^2 f``.

    Scaling differences by s is exact, so that equal distances stay equal; their squares' sum
    is then multiplied by f. Both are zero for a = 0, so that no difference is too large.
    """
    fraction, exponent = torch.frexp(a)
    return torch.ldexp((a > 0).to(a), exponent), fraction.square()


def difference_dtype(z, a, training_set, n_values):
    """In which dtype a difference of noisy and training images is to be taken.

    That of z, but float64 where rounding could show: where a logit of ``n_values`` terms is so
    large that even ``u / 127.5 - 1`` in float32, which devices round differently, moves weights.
    Rounding errors of the terms add up like a random walk.

    Parameters
    ----------
    z : Tensor of shape (n, ...)
    a : Tensor of shape (n,), float64
        See `precision_root`. The image with the largest logits decides for all of them.
    training_set : TrainingSet
    n_values : int
        Numbers in a window.

    Returns
    -------
    torch.dtype
    """
    farthest = z.flatten(1).abs().amax(1).double() + training_set.abs_max
    term = float((a * farthest).max()) ** 2
    visible = torch.finfo(z.dtype).eps * math.sqrt(n_values) * term > _VISIBLE_ROUNDING
    return torch.float64 if visible else z.dtype


def log_gauss_constant(n_values, sigma):
    """``-n_values / 2 * log(2 pi sigma^2)``, (n,)."""
    return -0.5 * n_values * (math.log(2 * math.pi) + 2 * sigma.log())
