"""Vectors that multiply the derivative of the posterior, and the kernels of the products.

See `products` for the mathematics.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from .._progress import progress
from .softmax import Softmax


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

    def rows(self, rows):
        """Return a copy of the direction for the noisy images ``rows``, a slice."""
        vector, level, shift = (tensor[rows].clone() for tensor in self[:3])
        return Direction(vector, level, shift, self.backward)  # views pickle as wholes

    def to(self, device):
        """Return the direction on a device."""
        vector, level, shift = (tensor.to(device) for tensor in self[:3])
        return Direction(vector, level, shift, self.backward)


class Tilts(NamedTuple):
    """Sums of the weights of n noisy images in K windows, and mean tilts.

    Attributes
    ----------
    softmax : Softmax
    mean : Tensor of shape (n, K), float64
        Means of the tilts under the weights, with ``x_i - z`` in place of ``x_i``; NaN or any
        number in windows without weight.
    """

    softmax: Softmax
    mean: torch.Tensor

    @staticmethod
    def merged(shards):
        """Return the tilts over the training images of all shards, from a list of `Tilts`.

        Merging is associative up to rounding errors. The result is on the device of the first.
        """
        softmax = Softmax.merged([shard.softmax for shard in shards])
        mean = torch.zeros_like(softmax.total)
        for shard in shards:
            shard = shard.to(mean.device)
            mean += (shard.softmax.share(softmax) * shard.mean).nan_to_num_(0.0)
        return Tilts(softmax, mean)

    def rows(self, rows):
        """Return the tilts of the noisy images ``rows``, a slice."""
        return Tilts(self.softmax.rows(rows), self.mean[rows])

    def to(self, device):
        """Return the tilts on a device."""
        return Tilts(self.softmax.to(device), self.mean.to(device))


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


class ProductKernel(NamedTuple):
    """A kernel of products for one kind of windows, as three functions; compare `Kernel`.

    Attributes
    ----------
    n_images : callable
        ``n_images(z, training_set, windows)`` is the number of noisy images of a block.
    tilts : callable
        ``tilts(z, sigma, training_set, windows, direction)`` returns the `Tilts` of a block, and a
        state.
    values : callable
        ``values(z, sigma, training_set, windows, direction, tilts, state)`` returns the summands
        of the training set in ``values`` and ``level`` of the `Product`. ``tilts`` are the `Tilts`
        of the images of all shards.
    """

    n_images: Callable
    tilts: Callable
    values: Callable

    def accumulate(self, z, sigma, training_set, windows, direction):
        """Return the `Tilts` of noisy images, and a list of the states of their blocks."""
        blocks = self._blocks(z, sigma, training_set, windows, direction)
        results = [self.tilts(*block) for _, block in blocks]
        softmax, means = zip(*(tilts for tilts, _ in results), strict=True)
        tilts = Tilts(Softmax(*map(torch.cat, zip(*softmax, strict=True))), torch.cat(means))
        return tilts, [state for _, state in results]

    def compose(self, z, sigma, training_set, windows, direction, tilts, states):
        """Return the summands, float64, of the training set in values and level of the `Product`.

        ``tilts`` are merged from the results of `accumulate` of all shards, ``states`` are of the
        training set alone.
        """
        blocks = self._blocks(z, sigma, training_set, windows, direction)
        results = [
            self.values(*block, tilts.rows(rows), state)
            for (rows, block), state in zip(blocks, states, strict=True)
        ]
        return [torch.cat(column).double() for column in zip(*results, strict=True)]

    def product(self, z, sigma, training_set, windows, direction):
        """Return the `Product` for a training set without other shards."""
        results = []
        for _, block in self._blocks(z, sigma, training_set, windows, direction):
            tilts, state = self.tilts(*block)
            values, level = self.values(*block, tilts, state)
            results.append((values.to(z), tilts.mean, level))
        return Product(*map(torch.cat, zip(*results, strict=True)))

    def _blocks(self, z, sigma, training_set, windows, direction):
        """Return an iterable of the rows of a block, and its arguments."""
        n_images = self.n_images(z, training_set, windows)
        slices = [slice(start, start + n_images) for start in range(0, len(z), n_images)]
        blocks = [
            (rows, (z[rows], sigma[rows], training_set, windows, direction.rows(rows)))
            for rows in slices
        ]
        return progress(blocks, "blocks of noisy images")
