"""Batches of noisy images that travel to the shards of a training set."""

from ..support import Masks, SquaresAnywhere
from ..support.memory import working_bytes


def batches(source, state_bytes, *tensors):
    """Return lists of the rows of tensors (n, ...) in batches of noisy images.

    The workers keep ``state_bytes`` bytes between two passes over the training images, for each
    pair of a noisy and a training image. They fit in the working memory of a worker.
    """
    n_of_worker = -(-len(source) // source.executor.n_workers)
    n_images = int(working_bytes() // (state_bytes * n_of_worker))
    n_images = min(max(1, n_images), source.executor.largest_batch)
    batches = zip(*(tensor.split(n_images) for tensor in tensors), strict=True)
    return [[rows.clone() for rows in batch] for batch in batches]  # views pickle as wholes


def check_served_in_shards(windows):
    """Raise if training images in shards cannot be compared through windows."""
    if isinstance(windows, SquaresAnywhere) or (
        isinstance(windows, Masks) and windows.batch_size is not None
    ):
        raise ValueError(
            f"training images in shards cannot be compared through {windows!r}: this call needs "
            "all training images in one place; fit on one device (a dask array: pass X.compute())."
        )
