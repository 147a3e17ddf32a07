"""Sizes of tensors in bytes, by which Dask places calls and moves results to the disk."""

from typing import Any

import torch

from .._optional import load

_WorkerPlugin: Any = load("distributed").WorkerPlugin


class TensorSizes(_WorkerPlugin):
    """Let workers count the bytes of tensors; Dask counts the 80 bytes of the Python object."""

    name = "skpspc-tensor-sizes"

    def setup(self, worker):
        """Register the size of tensors in the process of a worker."""
        load("dask.sizeof").sizeof.register(torch.Tensor, _bytes)


def _bytes(tensor):
    return tensor.nbytes
