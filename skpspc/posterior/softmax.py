"""Softmax weights over training images: their sums, and scales that keep logits exact."""

import math
from typing import NamedTuple

import torch

_VISIBLE_ROUNDING = 1e-3  # error of a logit, which is the relative error of a weight


class Softmax(NamedTuple):
    """Sums of the softmax weights of n noisy images in K windows over a set of training images.

    A weight is ``exp(logit - nearest + log v - top)``, see `RunningSoftmax`. The largest logit
    and the rest stay apart, as the large logits of a small sigma would absorb the log of the sum.

    Attributes
    ----------
    nearest, top, total, squares : Tensor of shape (n, K), float64
        Largest logit, largest exponent, sum of the weights, and sum of the squared weights.
        ``nearest`` is -inf and ``total`` 0 in windows that no training image covers.
    rounding : Tensor of shape (n, 1), float64
        Relative rounding error of logits. Logits that differ less count as equal.
    """

    nearest: torch.Tensor
    top: torch.Tensor
    total: torch.Tensor
    squares: torch.Tensor
    rounding: torch.Tensor

    @staticmethod
    def of(nearest, top, total, squares, rounding=0.0):
        """Return the sums of tensors (n, ...) in any dtype; ``rounding`` is a float."""
        nearest, top, total, squares = (
            tensor.reshape(len(tensor), -1).double() for tensor in (nearest, top, total, squares)
        )
        return Softmax(nearest, top, total, squares, nearest.new_full((len(nearest), 1), rounding))

    @staticmethod
    def merged(shards):
        """Return the sums over the training images of all shards, from a list of `Softmax`.

        Merging is associative up to rounding errors. The result is on the device of the first.
        """
        shards = [shard.to(shards[0].total.device) for shard in shards]
        nearest, top, total, squares, rounding = map(torch.stack, zip(*shards, strict=True))
        rounding = rounding.amax(0)
        largest = nearest.amax(0)
        moved = top + _behind(nearest, largest, rounding)
        top = _or_zero(moved.masked_fill(total == 0, -torch.inf).amax(0))
        shrink = (moved - top).exp_()
        total, squares = total * shrink, squares * shrink.square()
        return Softmax(largest, top, total.sum(0), squares.sum(0), rounding)

    def share(self, whole):
        """Return the fraction of the weight of ``whole``, a merged `Softmax`, (n, K) float64."""
        moved = _behind(self.nearest, whole.nearest, whole.rounding)
        share = moved.add_(self.top - whole.top).exp_().mul_(self.total / whole.total)
        return share.masked_fill_(self.total == 0, 0.0)

    def to(self, device):
        """Return the sums on a device."""
        return Softmax(*(tensor.to(device) for tensor in self))

    def rows(self, rows):
        """Return the sums of the noisy images ``rows``."""
        return Softmax(*(tensor[rows] for tensor in self))

    @property
    def log_norm(self):
        """Log of the sum of ``v exp(logit)``, (n, K)."""
        return self.nearest + (self.top + self.total.log())

    @property
    def effective_sample_size(self):
        """``(sum w)^2 / sum w^2``, (n, K)."""
        return self.total.square() / self.squares


def _behind(nearest, largest, rounding):
    """Return the differences of logits from the largest; 0 if rounding explains a difference."""
    behind = nearest - _or_zero(largest)
    return behind.masked_fill_(behind >= -rounding * largest.abs(), 0.0)


class RunningSoftmax:
    """Sums of softmax weights over training images, updated chunk by chunk.

    A weight is ``exp(logit - nearest + log v - top)``, where v is the sample weight, ``nearest``
    the largest logit, and ``top`` the largest sum of the first three terms (0 without weights).
    log v is added after the subtraction, as the large logits of a small sigma would absorb it.

    Parameters
    ----------
    like : Tensor of shape (n, ...)
        Tensor with the shape, dtype and device of the sums, for n noisy images.
    dtype : torch.dtype, default None
        dtype of the weights; None: dtype of the sums.
    rounding : float, default 0.0
        Relative rounding error of logits. Logits that differ less from the largest count as equal
        to it.

    Attributes
    ----------
    nearest, top, total, squares : Tensor of shape (n, ...)
        Largest logit, largest exponent, sum of the weights, and sum of the squared weights.
    """

    def __init__(self, like, dtype=None, rounding=0.0):
        self._dtype, self._rounding = dtype or like.dtype, rounding
        self.nearest = torch.full_like(like, -torch.inf)
        self.top, self.total, self.squares = (torch.zeros_like(like) for _ in range(3))

    @classmethod
    def resumed(cls, softmax, like, dtype=None):
        """Return the sums of a `Softmax` of few noisy images, in the shape and dtype of ``like``.

        See the class for the parameters.
        """
        running = cls(like, dtype, float(softmax.rounding.max()))
        sums = (tensor.to(like).view(like.shape) for tensor in softmax[:4])
        running.nearest, running.top, running.total, running.squares = sums
        return running

    @property
    def sums(self):
        """The sums so far, a `Softmax`."""
        sums = self.nearest, self.top, self.total, self.squares
        return Softmax.of(*sums, self._rounding)

    def relative(self, logit, prior):
        """Return the log weights of m images from their logits (n, m, ...), which it overwrites.

        ``prior`` (m,) is log v; None: all sample weights are equal.
        """
        nearest = _or_zero(self.nearest)[:, None]
        relative = logit.sub_(nearest).to(self._dtype)
        if self._rounding:
            slack = self._rounding * nearest.abs()
            relative.masked_fill_(relative >= -slack, 0.0)
        if prior is None:
            return relative
        relative += prior.to(relative).view(-1, *[1] * (logit.dim() - 2))
        return relative.sub_(self.top[:, None])

    def add(self, logit, prior):
        """Add the weights of m images to the sums; see `relative` for the parameters.

        Returns the log weights and the weights, both (n, m, ...), and the factor (n, ...) by which
        to multiply sums over earlier images.
        """
        nearer = torch.maximum(self.nearest, logit.amax(1))
        if self._rounding:  # the reference moves only to a logit that is clearly larger
            slack = self._rounding * nearer.abs()
            nearer = nearer.where(nearer > self.nearest + slack, self.nearest)
        moved = self.top + (self.nearest - _or_zero(nearer))
        self.nearest, self.top = nearer, torch.zeros_like(moved)
        relative = self.relative(logit, prior)
        if prior is not None:
            self.top = _or_zero(torch.maximum(moved, relative.amax(1).to(moved)))
            relative -= self.top[:, None].to(relative)
        shrink = (moved - self.top).exp_()
        weight = relative.exp()
        self.total = self.total * shrink + weight.sum(1)
        self.squares = self.squares * shrink.square() + weight.square().sum(1)
        return relative, weight, shrink

    log_norm, effective_sample_size = Softmax.log_norm, Softmax.effective_sample_size


def _or_zero(logit):
    """Return logits with 0 for -inf, the largest of windows that no image has covered yet."""
    return logit.masked_fill(logit == -torch.inf, 0.0)


def floored_sigma(sigma, z, data):
    """Return noise levels with zero replaced by 1e-15 of the largest value of z and the data.

    At this level all weights except those of the nearest image and its exact ties underflow to
    zero, as in the limit sigma = 0, and squares of scaled differences do not overflow. ``data`` is
    a TrainingSet or a Gaussian.
    """
    scale = z.abs().flatten(1).amax(1).to(torch.float64).clamp_min(data.abs_max)
    least = 1e-15 * scale.clamp_min(1e-16 if z.dtype == torch.float32 else 1e-60)
    return torch.maximum(sigma, least)


def float32_serves(sigma, training_set):
    """Return a mask (n,) that is True for noise levels at which float32 logits are exact enough.

    Logits of 1e8, at a sigma of 1e-4 of the data, absorb a log weight; squares of very small or
    large data underflow or overflow.
    """
    size = training_set.abs_max
    return (sigma > 1e-4 * size) & sigma.isfinite() & (1e-6 < size < 1e6)


def precision_root(sigma):
    """Return ``a = 1 / (sigma sqrt(2))``; logits are ``-|a z - a x|^2``.

    Scaling before squaring avoids overflow at huge noise levels; at sigma = inf, a = 0.
    """
    return math.sqrt(0.5) / sigma


def exact_scale(a):
    """Return a power of two s and a factor f with ``a^2 = s^2 f``.

    Scaling differences by s is exact, so that equal distances stay equal; the sum of their squares
    is then multiplied by f. For a = 0 both are zero, so that squares cannot overflow.
    """
    fraction, exponent = torch.frexp(a)
    return torch.ldexp((a > 0).to(a), exponent), fraction.square()


def difference_dtype(z, a, training_set, n_values):
    """Return the dtype for differences of noisy images z (n, ...) and training images.

    The dtype is float64 if rounding errors could show in weights, else the dtype of z. They show if
    logits, sums of ``n_values`` squares, are so large that the rounding of ``u / 127.5 - 1`` in
    float32, which differs between devices, changes weights. Rounding errors of the terms add up
    like a random walk. The image with the largest logits decides for all images; ``a`` (n,) is
    float64, see `precision_root`.
    """
    farthest = z.flatten(1).abs().amax(1).double() + training_set.abs_max
    term = float((a * farthest).max()) ** 2
    visible = torch.finfo(z.dtype).eps * math.sqrt(n_values) * term > _VISIBLE_ROUNDING
    return torch.float64 if visible else z.dtype
