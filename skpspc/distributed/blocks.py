"""Training images in the blocks of a dask array."""

import math

import numpy as np
import torch

from .._state import as_tensor
from .._warnings import warn
from ..support.devices import Each
from ..support.memory import rows_that_fit
from ..support.sharded import ShardedImages
from .cluster import Cluster
from .workers import current_client

_MANY_BLOCKS = 8  # for each thread
_SMALL, _USUAL, _LARGE = 2**22, 2**24, 2**28  # bytes of a block


def is_dask(X):
    """Return True for a dask array; Dask is not imported."""
    return type(X).__module__.partition(".")[0] == "dask" and hasattr(X, "chunks")


def in_shards(X):
    """Return True for a dask array or `ShardedImages`."""
    return is_dask(X) or isinstance(X, ShardedImages)


class Blocks(ShardedImages):
    """Training images in the blocks of a dask array, on the workers of the current client.

    Parameters
    ----------
    X : dask array of shape (N, C, H, W) or (N, d)
        uint8, float32 or float64.
    image_shape : tuple of (C, H, W)

    Raises
    ------
    ValueError
        If no client is connected; if blocks hold NaN, infinity or no images, or have another shape
        or dtype than X declares.
    """

    def __init__(self, X, image_shape):
        client = current_client()
        if any(math.isnan(size) for size in X.chunks[0]):
            raise ValueError("X has blocks of unknown length; pass X.compute_chunk_sizes().")
        if len(X) == 0:
            raise ValueError(f"X holds no images, shape {X.shape}; give at least one.")
        X = _in_large_blocks(in_whole_images(X, "X"), client)
        pairs = zip(X.to_delayed().ravel(), X.chunks[0], strict=True)
        blocks, lengths = zip(*((block, size) for block, size in pairs if size), strict=True)
        shapes = Each((length, *X.shape[1:]) for length in lengths)
        cluster = Cluster(client, client.compute(list(blocks))).derived(
            _tensor, Each(range(len(blocks))), shapes, X.dtype, image_shape
        )
        with cluster.step() as step:
            facts = step.values(step.map(_facts))
        n_bad = sum(each["n_bad"] for each in facts)
        if n_bad:
            raise ValueError(
                f"X contains NaN or infinity in {n_bad} of {len(X)} images; remove or replace them."
            )
        limits = min(each["low"] for each in facts), max(each["high"] for each in facts)
        sizes = [each["n"] for each in facts]
        super().__init__(cluster, sizes, image_shape, facts[0]["dtype"], limits)

    def to(self, device):
        """Return the images; raise unless the device is the CPU, as workers compute on it."""
        if torch.device(device).type != "cpu":
            raise ValueError(
                f"device={str(device)!r} is given, but the images of a dask array stay on the "
                "workers, which compute on the CPU; leave device at None, or pass X.compute()."
            )
        return self

    def training_set(self, weight, data_range):
        """Return the `ShardedTrainingSet`, and release the blocks; call once.

        ``weight`` are weights (N,) or None.
        """
        training_set = super().training_set(weight, data_range)
        del self.executor  # Dask counts the images again for every object that holds them
        return training_set


def in_whole_images(X, name):
    """Return an array whose blocks hold whole images; warn of the cost if blocks are joined."""
    if all(len(sizes) == 1 for sizes in X.chunks[1:]):
        return X
    warn(
        f"{name} has blocks {X.chunksize} that cut images, and they are joined: up to "
        f"{X.nbytes / 2**20:.3g} MiB travel between workers. Store whole images in each block."
    )
    return X.rechunk(dict.fromkeys(range(1, X.ndim), -1))


def _in_large_blocks(X, client):
    """Return an array without many small blocks; warn of small and of very large ones."""
    n_blocks, n_threads = len(X.chunks[0]), sum(client.nthreads().values())
    image_bytes = X.nbytes / max(1, len(X))
    largest = max(X.chunks[0]) * image_bytes
    if n_blocks > _MANY_BLOCKS * n_threads and X.nbytes / n_blocks < _SMALL:
        n_images = max(1, min(int(_USUAL // image_bytes), -(-len(X) // n_threads)))
        warn(
            f"X has {n_blocks} blocks of {X.nbytes / n_blocks / 2**10:.3g} KiB on average, each of "
            f"which is a task in every call. They are joined to blocks of {n_images} images. Pass "
            f"X.rechunk({{0: {n_images}}}) to avoid this warning."
        )
        return X.rechunk({0: n_images})
    if largest > _LARGE:
        warn(
            f"X has blocks of up to {largest / 2**20:.3g} MiB; a lost block is computed again as a "
            "whole, and Ctrl-C waits for the block that is compared. Pass smaller blocks, "
            f"X.rechunk({{0: {max(1, int(_USUAL // image_bytes))}}})."
        )
    return X


def check_block(block, name, shape, dtype):
    """Return a block as an array; raise if it is not what the dask array declares."""
    array = np.asarray(block)
    if array.dtype != dtype or array.shape != tuple(shape):
        raise ValueError(
            f"{name} has dtype {array.dtype} and shape {array.shape}, but the array declares "
            f"{dtype} and {tuple(shape)}; give all blocks one dtype and their declared shape."
        )
    if np.ma.is_masked(block):
        raise ValueError(f"{name} has masked values; fill them first.")
    return array


def _tensor(block, number, shape, dtype, image_shape):
    """Return a block of a dask array as images (n, C, H, W)."""
    array = check_block(block, f"block {number} of X", shape, dtype)
    return as_tensor(np.ascontiguousarray(array)).reshape(-1, *image_shape)


def _facts(images):
    """Return number, dtype and limits of images, and the number of those that are not finite."""
    n_bad = 0
    if images.is_floating_point():
        n_rows = rows_that_fit(2 * images[0].nbytes, len(images), what="One image")
        chunks = images.flatten(1).split(n_rows)
        n_bad = sum(int((~chunk.isfinite()).any(1).sum()) for chunk in chunks)
    low, high = images.aminmax()
    return {"n": len(images), "dtype": images.dtype, "low": low, "high": high, "n_bad": n_bad}
