"""Pickles with NumPy arrays in place of tensors, for joblib, skops and `skpspc.saving`."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from ._mapped import note_mapping
from ._repr import dtype_name


def as_tensor(array):
    """Return a tensor that shares the memory of an array; never write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        array = np.ascontiguousarray(array)
        note_mapping(array)
        return torch.from_numpy(array)


_ALIGNMENT = 64  # bytes of the widest vector registers, and alignment of torch's memory
_DTYPES = {  # of tensors that are packed
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
}


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A tensor as an array.

    Attributes
    ----------
    array : ndarray
        The values, with axes in the order of the tensor's memory, so that the array is contiguous,
        and with length 1 along broadcast axes. int16 for bfloat16, which NumPy lacks.
    axes : tuple of int
        Axis of the tensor that each axis of the array holds.
    shape : tuple of int
        Shape of the tensor.
    dtype, device : str
        Dtype of the tensor, such as "float32", and its device, such as "cpu" or "cuda:0".
    offset : int
        Address of the tensor's memory modulo 64. The rounding errors of matrix products depend on
        it, so that a copy at this offset gives equal bits.
    """

    array: np.ndarray
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    device: str
    offset: int

    @classmethod
    def of(cls, tensor):
        """Return a tensor as an array, which shares the memory of a tensor on the CPU."""
        strides = tensor.stride()
        axes = tuple(sorted(range(tensor.ndim), key=strides.__getitem__, reverse=True))
        values = tensor.detach()[tuple(slice(None if s else 1) for s in strides)].permute(axes)
        values = values.cpu().resolve_neg()
        if values.dtype == torch.bfloat16:
            values = values.view(torch.int16)
        offset = values.data_ptr() % _ALIGNMENT
        names = dtype_name(tensor.dtype), str(tensor.device)
        return cls(values.numpy(), axes, tuple(tensor.shape), *names, offset)

    def tensor(self):
        """Return the tensor; on the CPU it shares the memory of an array at the right offset.

        It also shares the memory of an array that is mapped to a file.
        """
        array = self.array
        if not isinstance(array, np.memmap) and _address(array) % _ALIGNMENT != self.offset:
            array = copied(array, self.offset)
        values = as_tensor(array).view(array.shape)
        if self.dtype == "bfloat16":
            values = values.view(torch.bfloat16)
        values = values.permute(np.argsort(self.axes).tolist()).expand(self.shape)
        return values.to(self.device)


def copied(array, offset):
    """Return a copy of an array at an address that is ``offset`` modulo 64."""
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = (offset - _address(memory)) % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _address(array):
    return array.__array_interface__["data"][0]


@dataclass(frozen=True)
class TorchName:
    """A dtype or a device of torch by its name; ``kind`` is "dtype" or "device"."""

    kind: str
    name: str

    def value(self):
        """Return the dtype or the device."""
        if self.kind == "device":
            return torch.device(self.name)
        dtype = getattr(torch, self.name, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"torch has no dtype {self.name!r}")
        return dtype


class NumpyState:
    """Base of classes whose pickle holds NumPy arrays in place of tensors.

    ``_not_kept`` names attributes that a pickle leaves out: caches that are cheap to compute.
    """

    _not_kept: tuple[str, ...] = ()

    def __getstate__(self):
        return packed({k: v for k, v in vars(self).items() if k not in self._not_kept})

    def __setstate__(self, state):
        vars(self).update(unpacked(state))


def packed(value):
    """Return a value with tensors, dtypes and devices of torch replaced, also within containers.

    Lists, tuples and dicts without any of them are returned unchanged. Tensors that are not plain
    and dense stay tensors.
    """
    if isinstance(value, torch.Tensor):
        return PackedTensor.of(value) if _is_plain(value) else value
    if isinstance(value, torch.dtype):
        return TorchName("dtype", dtype_name(value))
    if isinstance(value, torch.device):
        return TorchName("device", str(value))
    return _mapped(packed, value)


def _is_plain(tensor):
    """Return True if a tensor is dense, with values that NumPy can hold, and of no subclass."""
    is_dense = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_nested)
    return type(tensor) is torch.Tensor and is_dense and tensor.dtype in _DTYPES


def unpacked(value):
    """Return the value for which `packed` returned ``value``."""
    if isinstance(value, PackedTensor):
        return value.tensor()
    if isinstance(value, TorchName):
        return value.value()
    return _mapped(unpacked, value)


def _mapped(function, value):
    """Apply a function to the entries of a list, tuple or dict; keep it if no entry changes."""
    if type(value) is dict:
        entries = {key: function(entry) for key, entry in value.items()}
        changed = any(entries[key] is not entry for key, entry in value.items())
        return entries if changed else value
    if type(value) in (list, tuple):
        items = type(value)(map(function, value))
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return items if changed else value
    return value
