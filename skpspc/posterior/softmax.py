"""Softmax weights over training images: running sums, and scales that keep logits exact."""

import math

import torch

_VISIBLE_ROUNDING = 1e-3  # error of a logit, and so the relative error of a weight


class RunningSoftmax:
    """Sums of softmax weights over training images that come in chunks.

    A weight is ``exp(logit - nearest + log v - top)`` with v the sample weight, ``nearest`` the
    largest logit and ``top`` the largest of the first three terms (zero without sample weights):
    added first, log v would be lost beside the large logits of a small sigma.

    Parameters
    ----------
    like : Tensor of shape (...)
        Gives shape, dtype and device of the sums.
    dim : int, default 0
        Axis of the logits along which the images of a chunk lie.
    dtype : torch.dtype, default None
        dtype of the weights; None: dtype of the sums.
    rounding : float, default 0.0
        Relative rounding error of logits; logits nearer to the largest count as equal to it.

    Attributes
    ----------
    nearest, top, total, squares : Tensor of shape (...)
        The two references, the sum of the weights, and the sum of their squares.
    """

    def __init__(self, like, dim=0, dtype=None, rounding=0.0):
        self._dim, self._dtype, self._rounding = dim, dtype or like.dtype, rounding
        self.nearest = torch.full_like(like, -torch.inf)
        self.top, self.total, self.squares = (torch.zeros_like(like) for _ in range(3))

    def relative(self, logit, prior):
        """Return logs of the weights of m images, from their logits (..., m, ...) (overwritten).

        ``prior`` (m,) is log v; None: all weights are equal.
        """
        relative = logit.sub_(self.nearest.unsqueeze(self._dim)).to(self._dtype)
        if self._rounding:
            slack = self._rounding * self.nearest.abs().unsqueeze(self._dim)
            relative.masked_fill_(relative >= -slack, 0.0)
        if prior is None:
            return relative
        relative += prior.to(relative).view(-1, *[1] * (logit.dim() - self._dim - 1))
        return relative.sub_(self.top.unsqueeze(self._dim))

    def add(self, logit, prior):
        """Add the weights of m images; parameters are those of `relative`.

        Return the logs of the weights, the weights, both (..., m, ...), and the factor (...) by
        which to multiply sums over the weights of earlier images.
        """
        dim = self._dim
        nearer = torch.maximum(self.nearest, logit.amax(dim))
        if self._rounding:  # the reference moves only to a logit that is clearly larger
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


def floored_sigma(sigma, z, data):
    """Return noise levels with zero replaced by 1e-15 of the largest value of z and of the data.

    At that level every weight but the nearest image's (and its exact ties') underflows to zero,
    which is the limit, and the squares of scaled differences do not overflow yet. The data are a
    TrainingSet or a Gaussian.
    """
    scale = z.abs().flatten(1).amax(1).to(torch.float64).clamp_min(data.abs_max)
    least = 1e-15 * scale.clamp_min(1e-16 if z.dtype == torch.float32 else 1e-60)
    return torch.maximum(sigma, least)


def float32_serves(sigma, training_set):
    """Return a mask (n,) of the noise levels (n,) at which float32 logits of compiled code serve.

    A logit of 1e8 (at a sigma of 1e-4 of the data) leaves no room for a log weight beside it, and
    data far from one overflow sooner.
    """
    size = training_set.abs_max
    return (sigma > 1e-4 * size) & sigma.isfinite() & (1e-6 < size < 1e6)


def precision_root(sigma):
    """Return ``a = 1 / (sigma sqrt(2))``, with which logits are ``-|a z - a x|^2``.

    Scaling before squaring keeps huge noise from overflowing; at sigma = inf, a = 0.
    """
    return math.sqrt(0.5) / sigma


def exact_scale(a):
    """Return a power of two s and a factor f with ``a^2 = s^2 f``.

    Scaling differences by s is exact, so that equal distances stay equal; the sum of their squares
    is then multiplied by f. Both are zero for a = 0, so that no difference is too large.
    """
    fraction, exponent = torch.frexp(a)
    return torch.ldexp((a > 0).to(a), exponent), fraction.square()


def difference_dtype(z, a, training_set, n_values):
    """Return the dtype in which to subtract training images from noisy images (n, ...).

    float64 where rounding could show, else the dtype of z. Rounding shows where a logit of
    ``n_values`` terms, the numbers in a window, is so large that even ``u / 127.5 - 1`` in float32,
    which devices round differently, moves weights. Rounding errors of the terms add up like a
    random walk. The image with the largest logits decides for all images; ``a`` (n,) is float64,
    see `precision_root`.
    """
    farthest = z.flatten(1).abs().amax(1).double() + training_set.abs_max
    term = float((a * farthest).max()) ** 2
    visible = torch.finfo(z.dtype).eps * math.sqrt(n_values) * term > _VISIBLE_ROUNDING
    return torch.float64 if visible else z.dtype
