"""Kernels in two steps, so that shards of a training set add up to the whole.

`Kernel.accumulate` returns sums of softmax weights, and a state. The sums of all shards are merged
by `Softmax.merged`. `Kernel.compose` turns the state into the shard's summand of the posterior
means. The training set of one machine is its only shard.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from .._progress import progress
from .posterior import PerWindow, gathered_tensors
from .softmax import Softmax, float32_serves


class Block(NamedTuple):
    """Noisy images that a kernel compares together.

    Attributes
    ----------
    rows : slice or Tensor of int64
        Indices of the noisy images.
    engine : str or None
        Engine of the kernel, "numba", "torch" or "exact"; None: the kernel has one engine.
    """

    rows: Any
    engine: str | None


class Kernel(NamedTuple):
    """A kernel for one kind of windows, as three functions.

    Attributes
    ----------
    n_images : callable
        ``n_images(z, training_set, windows, engine)`` is the number of noisy images, at least 1,
        whose state fits in memory. Raises MemoryError if the state of one image does not fit.
    sums : callable
        ``sums(z, sigma, training_set, windows, engine)`` returns the `Softmax` of as many noisy
        images, without ``training_set.log_uniform``, and a state.
    means : callable
        ``means(z, sigma, training_set, windows, engine, softmax, state)`` returns the summand
        (n, C, H, W) of the training set in the posterior means. ``softmax`` is the `Softmax` of the
        images of all shards.
    """

    n_images: Callable
    sums: Callable
    means: Callable

    def accumulate(self, z, sigma, training_set, windows, engine=None):
        """Return the `Softmax` of noisy images, and a list of the states of their blocks."""
        results, states = [], []
        for block, noisy in self._blocks(z, sigma, training_set, windows, engine):
            softmax, state = self.sums(*noisy, training_set, windows, block.engine)
            results.append((block.rows, softmax))
            states.append(state)
        return Softmax(*gathered_tensors(results, len(z))), states

    def compose(self, z, sigma, training_set, windows, engine, softmax, states):
        """Return the summand (n, C, H, W), float64, of the training set in the posterior means.

        ``softmax`` is merged from the results of `accumulate` of all shards, ``states`` are of the
        training set alone; other parameters are equal to those of `accumulate`.
        """
        blocks = self._blocks(z, sigma, training_set, windows, engine)
        results = []
        for (block, noisy), state in zip(blocks, states, strict=True):
            shared = softmax.rows(block.rows)
            mean = self.means(*noisy, training_set, windows, block.engine, shared, state)
            results.append((block.rows, (mean.double(),)))
        return gathered_tensors(results, len(z))[0]

    def compare(self, z, sigma, training_set, windows, engine=None):
        """Return the `PerWindow` of noisy images for a training set without other shards."""
        results = []
        for block, noisy in self._blocks(z, sigma, training_set, windows, engine):
            arguments = *noisy, training_set, windows, block.engine
            softmax, state = self.sums(*arguments)
            mean = self.means(*arguments, softmax, state).to(z.dtype)
            log_norm = softmax.log_norm + training_set.log_uniform
            log_norm = log_norm - training_set.log_covered(windows)
            ess = softmax.effective_sample_size.to(z.dtype)
            results.append((block.rows, (mean, log_norm, ess)))
        return PerWindow(*gathered_tensors(results, len(z)))

    def _blocks(self, z, sigma, training_set, windows, engine):
        """Return an iterable of every `Block`, and its noisy images and noise levels."""
        blocks = []
        for rows, name in _by_engine(sigma, training_set, engine):
            of_engine = z if rows is None else z[rows]
            n_images = self.n_images(of_engine, training_set, windows, name)
            for start in range(0, len(of_engine), n_images):
                part = slice(start, min(start + n_images, len(of_engine)))
                block = Block(part if rows is None else rows[part], name)
                blocks.append((block, (z[block.rows], sigma[block.rows])))
        return progress(blocks, "blocks of noisy images")


def _by_engine(sigma, training_set, engine):
    """Return a list of the indices of noisy images for each engine; None: all.

    Compiled code serves noise levels at which float32 is exact enough, and torch the others. The
    choice is equal for all shards of a training set.
    """
    if engine != "numba":
        return [(None, engine)]
    serves = float32_serves(sigma, training_set)
    if serves.all() or not serves.any():
        return [(None, "numba" if serves.all() else "torch")]
    return [(serves.nonzero()[:, 0], "numba"), ((~serves).nonzero()[:, 0], "torch")]


def scaled(mean, own, softmax):
    """Return the summand of a training set in the means of all shards.

    Parameters
    ----------
    mean : Tensor of shape (n, C, H, W)
        Means over the training set alone, of windows that do not overlap.
    own : Softmax
        Sums of the training set alone.
    softmax : Softmax
        Sums of all shards; ``own`` if there are no others. Each window has one value of ``mean``
        (K = C H W), the values of one pixel (K = H W), or all values (K = 1).
    """
    if softmax is own:
        return mean
    share = own.share(softmax)
    n, _, height, width = mean.shape
    share = share[:, :, None, None] if share.shape[1] == 1 else share.view(n, -1, height, width)
    return (share * mean).masked_fill_(share == 0, 0.0)  # means without images are NaN
