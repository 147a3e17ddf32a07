"""Vectors that multiply the derivative of the posterior, and the products; see `products`."""

from typing import NamedTuple

import torch


class Direction(NamedTuple):
    """The tilts of a product, for n noisy images.

    Attributes
    ----------
    vector : Tensor of shape (n, C, H, W)
        Factor of the training images in the tilts: cotangents of the composite mean, in the layout
        of ``source.answers``, or tangents of z divided by sigma^2.
    level : Tensor of shape (n,), float64
        Factor of the logits in the tilts: 0, or ``-2 / sigma`` times the tangents of sigma.
    shift : Tensor of shape (n, K), float64
        h: cotangents of the log normalisers, or 0.
    backward : bool
        True: the vector meets the composite mean, and the sums are spread by precisions. False: the
        vector meets the noisy image, and the sums are spread by shares.
    """

    vector: torch.Tensor
    level: torch.Tensor
    shift: torch.Tensor
    backward: bool


class Product(NamedTuple):
    """A product: sums over training images and windows.

    Attributes
    ----------
    values : Tensor of shape (n, C, H, W)
        ``sum_k out_k sum_i W_i^k (x_i - z)`` with out the precisions or the shares. Forward, x_i
        is an image of ``source.answers``.
    tilt : Tensor of shape (n, K), float64
        Mean tilts, with ``x_i - z`` in place of ``x_i``.
    level : Tensor of shape (n,), float64
        ``sum_{k, i} W_i^k l_i^k``.
    """

    values: torch.Tensor
    tilt: torch.Tensor
    level: torch.Tensor
