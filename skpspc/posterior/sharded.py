"""The posterior over training images in shards, from sums that add up.

Each shard accumulates the softmax weights of its images. Their merged sums are the normalisers,
with which each shard then composes its summand of the posterior means.
"""

import torch

from ..support.devices import added
from . import select
from .batches import batches
from .posterior import PerWindow
from .softmax import Softmax

_STATE_BYTES = 4  # between the passes, for a pair of a noisy and a training image


def compare(z, sigma, source, windows, engine):
    """Compare noisy images with a `ShardedTrainingSet`; see `select.compare`."""
    windows = source.executor.kept(windows)
    blocks = batches(source, _STATE_BYTES, z, sigma)
    results = [_compare_block(images, levels, source, windows, engine) for images, levels in blocks]
    return PerWindow(*(torch.cat(column) for column in zip(*results, strict=True)))


def _compare_block(z, sigma, source, windows, engine):
    """Return mean, log normalisers and effective sample sizes of one block of noisy images."""
    with source.executor.step() as step:
        noisy = step.give((z, sigma, engine))
        sums = step.map(_accumulate, noisy, windows)
        softmax = step.merged(_merged, sums)
        summands = step.map(_compose, noisy, windows, softmax, sums)
        softmax, (mean,) = step.values([softmax, step.merged(added, summands)])
    log_norm = (softmax.log_norm + source.log_uniform).to(z.device)
    return mean.to(z), log_norm, softmax.effective_sample_size.to(z)


def _accumulate(shard, noisy, windows):
    """Return the `Softmax` of noisy images in a shard, and a state."""
    z, sigma, engine = noisy
    return select.accumulate(z.to(shard.device), sigma.to(shard.device), shard, windows, engine)


def _merged(parts):
    """Merge `Softmax`, or results of `_accumulate`."""
    return Softmax.merged([part if isinstance(part, Softmax) else part[0] for part in parts])


def _compose(shard, noisy, windows, softmax, accumulated):
    """Return the summand of a shard in the posterior means, in a list."""
    z, sigma, engine = noisy
    z, sigma = z.to(shard.device), sigma.to(shard.device)
    softmax = softmax.to(shard.device)
    return [select.compose(z, sigma, shard, windows, engine, softmax, accumulated[1])]
