"""Time, memory and traffic of a posterior mean over training images on a cluster, by formula.

``cluster.py`` measures the constants, and compares the formula with measurements. The page
``docs/user_guide/clusters_cost.rst`` shows the formula, and computes its tables and charts from it.

Symbols: N training images in M blocks on W workers of one thread, n noisy images, K windows, d
values of an image.
"""

import math
from dataclasses import dataclass

LARGEST_BATCH = 64  # noisy images that are compared together
_STATE_BYTES, _BATCH_BYTES = 4, 128 * 2**20  # of a pair between the passes, and of a batch
_SUMS_BYTES = 4 * 8  # nearest logit, top, total and squares of a window, float64
_MERGED = 8  # results that one call merges


@dataclass(frozen=True)
class Costs:
    """Seconds of a worker and of Dask.

    Attributes
    ----------
    pair : float
        Of a worker, for a pair of a noisy and a training image.
    block_and_image : float
        Of a worker, for a block and a noisy image, however few training images the block has.
    block : float
        Of Dask, for a block of a batch: two tasks.
    batch : float
        Of Dask, for a batch of noisy images.
    """

    pair: float
    block_and_image: float
    block: float
    batch: float


def n_batches(n_noisy, n_train, n_workers):
    """Return the number of batches that n noisy images are compared in."""
    fitting = _BATCH_BYTES // (_STATE_BYTES * math.ceil(n_train / n_workers))
    return math.ceil(n_noisy / min(max(1, fitting), LARGEST_BATCH))


def seconds(costs, n_train, n_noisy, n_workers, n_blocks):
    """Return the seconds of a call for n noisy images.

    The tasks of Dask pass the scheduler one after the other, so that their time does not fall with
    the number of workers.
    """
    pairs = n_noisy * n_train / n_workers * costs.pair
    starts = n_noisy * math.ceil(n_blocks / n_workers) * costs.block_and_image
    dask = n_batches(n_noisy, n_train, n_workers) * (costs.batch + n_blocks * costs.block)
    return pairs + starts + dask


def image_bytes(n_train, n_workers, n_values, value_bytes=1):
    """Return the bytes of training images of a worker."""
    return math.ceil(n_train / n_workers) * n_values * value_bytes


def received_bytes(n_noisy, n_workers, n_windows, n_values, value_bytes=4):
    """Return the bytes of results that a worker receives at most from other workers, in a call.

    These are the noisy images, the sums of the windows from up to seven workers and their merged
    sums, and the means from up to seven workers, at every level of merging.
    """
    if n_workers == 1:
        return 0
    levels = math.ceil(math.log(n_workers, _MERGED))
    others = levels * (min(n_workers, _MERGED) - 1)
    per_image = (
        value_bytes * n_values + (others + 1) * _SUMS_BYTES * n_windows + others * 8 * n_values
    )
    return n_noisy * per_image
