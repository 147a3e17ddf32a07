"""Objects of the library as JSON values and named arrays, and back.

A JSON number, text, list, true, false or null stands for itself. Every other value is a JSON object
whose first key names its kind, such as ``{"tuple": [1, 2]}``. An object of the library is
``{"new": "Gaussian", "state": {...}}`` where it first occurs, and ``{"object": 3}`` afterwards: its
number in the order of first occurrence.
"""

import inspect
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

from .._input import check_size
from .._repr import described
from .._state import PackedTensor, TorchName, copied, packed
from .checks import CHECKS
from .classes import CLASSES
from .file import can_store

_BIT_GENERATORS = {
    name: getattr(np.random, name) for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
}
_REMEDIES = {  # what to pass for a parameter that cannot be saved
    "patch_size": "pass an int or a PatchSchedule",
    "n_neighbors": "pass an int or a PatchSchedule",
    "bandwidth": "pass a float or a BandwidthSchedule",
    "operator": "pass a mask of observed pixels",
    "query": "pass an array of windows",
    "response": "pass an array of windows",
    "classes": "fit with labels that are all numbers or all strings",
    "training_set_": "images in shards have no file: fit on one device (X.compute())",
    "network": "save its weights by safetensors.torch.save_file, read them by load_network",
}


class Encoder:
    """Encode objects as JSON values; large arrays become entries of ``arrays``, by name.

    ``include_data=False`` leaves out the images of training sets, which ``left_out`` lists then.
    ``devices`` collects the names of the devices of all tensors.
    """

    def __init__(self, include_data=True):
        self.arrays = {}
        self.left_out = {}  # images of training sets, PackedTensors, by address and shape
        self.devices = set()
        self._include_data = include_data
        self._numbers = {}  # of objects, by id
        self._kept = []  # objects and arrays, so that no id or address is used twice
        self._names = {}  # of arrays, by address and layout
        self._path = []

    def encode(self, value):
        """Return a JSON value for an object; raise ValueError if a part of it cannot be saved."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) is list:
            return self._items(value)
        if type(value) in (tuple, set):
            items = value if type(value) is tuple else sorted(value, key=repr)
            return {type(value).__name__: self._items(items)}
        if type(value) is dict:
            return {"dict": [[self.encode(k), self._at(k, v)] for k, v in value.items()]}
        if type(value) is range:
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, np.generic):
            return {"scalar": self._array(np.asarray(value))}
        if type(value) in (np.ndarray, np.memmap):
            return self._array(value)
        if isinstance(value, os.PathLike):
            return {"path": os.fspath(value)}
        value = packed(value)
        if isinstance(value, PackedTensor):
            array = self._array(value.array)
            self.devices.add(value.device)
            names = {"dtype": value.dtype, "device": value.device}
            layout = {"axes": value.axes, "shape": value.shape, "offset": value.offset}
            return {"tensor": array, **names, **layout}
        if isinstance(value, TorchName):
            self.devices.update({value.name} if value.kind == "device" else ())
            return {value.kind: value.name}
        return self._object(value)

    def _items(self, values):
        return [self._at(number, value) for number, value in enumerate(values)]

    def _at(self, key, value):
        """Encode an entry of a container, or an attribute, under its name in the file."""
        self._path.append(str(key))
        encoded = self.encode(value)
        self._path.pop()
        return encoded

    def _array(self, array):
        """Return the name of an array among ``arrays``, or its entries if they are texts."""
        dtype = array.dtype
        if dtype.kind in "USO":
            values = array.ravel().tolist()
            if dtype.kind == "S":
                values = [value.decode("latin1") for value in values]
            values = self._items(values)
            return {"texts": values, "dtype": dtype.str, "shape": list(array.shape)}
        stored = stored_dtype(dtype)
        if stored is None:
            raise self._refusal(array)
        array = array.astype(dtype.newbyteorder("="), copy=False)
        key = _address(array), array.strides, dtype.str
        if key not in self._names:
            self._kept.append(array)
            self._names[key] = name = self._free_name()
            self.arrays[name] = np.ascontiguousarray(array).view(stored)
        return {"array": self._names[key], "dtype": dtype.str, "shape": list(array.shape)}

    def _free_name(self):
        """Return a name for an array: the path to it."""
        name = ".".join(self._path)
        while name in self.arrays:  # the keys 1 and "1" of a dict have one path
            name += "+"
        return name

    def _object(self, value):
        """Return the number of an object of the library, after its class and state at first."""
        if id(value) in self._numbers:
            return {"object": self._numbers[id(value)]}
        name = type(value).__name__
        if isinstance(value, (np.random.RandomState, np.random.Generator)):
            self._remember(value)
            return {"random": name, "state": self.encode(_random_state(value))}
        if CLASSES.get(name) is not type(value):
            raise self._refusal(value)
        self._remember(value)
        state = _state(value)
        if name == "TrainingSet" and not self._include_data:
            state["images"] = self._leave_out(state["images"])
        elif name == "MeasuredHeat" and not self._include_data:
            raise ValueError(
                "include_data=False leaves out training images, but the heat maps of a denoiser "
                "are measured on training images, which are needed again; write the heat maps to a "
                "file by skpspc.inspection.save_heat_maps, or pass include_data=True."
            )
        attributes = {key: self._at(key, entry) for key, entry in state.items()}
        return {"new": name, "state": attributes}

    def _remember(self, value):
        self._numbers[id(value)] = len(self._numbers)
        self._kept.append(value)

    def _leave_out(self, images):
        """Add images to those left out; return their device."""
        self._kept.append(images)
        self.left_out[_address(images.array)] = images
        return TorchName("device", images.device)

    def _refusal(self, value):
        """Return the error for a value that cannot be saved, with the name of its attribute."""
        steps = [int(s) if s.isdecimal() else s for s in self._path]
        where = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")
        parameter = next((s for s in reversed(self._path) if not s.isdecimal()), "")
        remedy = _REMEDIES.get(parameter, "pass a number, a text, an array or a list of them")
        dtype = f" and dtype {value.dtype}" if isinstance(value, np.ndarray) else ""
        return ValueError(
            f"{where or 'the denoiser'} is of type {type(value).__name__}{dtype}, and a file "
            "without pickle holds only numbers, text, arrays and objects of skpspc; "
            f"{remedy}, or save the denoiser by joblib.dump."
        )


class Decoder:
    """Decode what an `Encoder` encoded; raise ValueError for everything else.

    Only classes in ``CLASSES`` are instantiated, and nothing is imported.

    Parameters
    ----------
    tensors : dict of Tensor
        Arrays by name.
    images : Tensor or None
        Images of the training sets, if the file has none.
    device : str or None
        Device of all tensors. None: the device that each tensor had.
    max_bytes : int
        Largest size of an array of texts.
    mmap : bool, default False
        Let training sets share the memory of ``tensors``; other arrays are copied, to addresses at
        which results have equal bits.
    """

    def __init__(self, tensors, images, device, max_bytes, mmap=False):
        self._tensors = tensors
        self._images = images
        self._device = device
        self._max_bytes = max_bytes
        self._mmap, self._sharing = mmap, False
        self._objects: list[Any] = []
        self._kinds = {
            "float": lambda node: float(_text(node["float"])),
            "tuple": lambda node: tuple(self._items(node["tuple"])),
            "set": lambda node: set(self._items(node["set"])),
            "dict": lambda node: dict(map(self._items, node["dict"])),
            "range": lambda node: range(*node["range"]),
            "scalar": lambda node: self.decode(node["scalar"])[()],
            "path": lambda node: Path(_text(node["path"])),
            "array": self._array,
            "texts": self._texts,
            "tensor": self._tensor,
            "dtype": lambda node: TorchName("dtype", _text(node["dtype"])).value(),
            "device": lambda node: torch.device(self._device or _text(node["device"])),
            "random": self._random,
            "object": lambda node: self._objects[node["object"]],
            "new": self._new,
        }

    def decode(self, node):
        """Return the object of a JSON value."""
        if node is None or type(node) in (bool, int, float, str):
            return node
        if isinstance(node, list):
            return self._items(node)
        return self._kinds[next(iter(node))](node)

    def _items(self, nodes):
        return [self.decode(node) for node in nodes]

    def _array(self, node, offset=0):
        values = self._tensors[node["array"]].numpy()
        dtype = np.dtype(_text(node["dtype"]))
        if stored_dtype(dtype) != values.dtype:
            raise ValueError(f"array {node['array']!r} is {values.dtype}, not {dtype}")
        native = dtype.newbyteorder("=")
        array = values.view(native).reshape(node["shape"]).astype(dtype, copy=False)
        return array.view(np.memmap) if self._sharing else copied(array, offset)

    def _texts(self, node):
        dtype, shape = np.dtype(_text(node["dtype"])), node["shape"]
        if dtype.kind not in "USO":
            raise ValueError(f"texts have dtype {dtype}")
        values = self._items(node["texts"])
        if dtype.kind == "S":
            values = [value.encode("latin1") for value in values]
        check_size(
            len(values) * dtype.itemsize, self._max_bytes, "a list of texts", self._max_bytes
        )
        array = np.empty(len(values), dtype)
        array[:] = values
        return array.reshape(shape)

    def _tensor(self, node):
        device, offset = self._device or _text(node["device"]), node["offset"]
        array = self._array(node["tensor"], offset)
        axes, shape = map(tuple, (node["axes"], node["shape"]))
        check_size(math.prod(shape), self._max_bytes, "a broadcast tensor", self._max_bytes)
        return PackedTensor(array, axes, shape, _text(node["dtype"]), device, offset).tensor()

    def _random(self, node):
        self._objects.append(None)
        number, state = len(self._objects) - 1, self.decode(node["state"])
        bits = _BIT_GENERATORS[state["bit_generator"]]()
        self._objects[number] = _generator(node["random"], bits, state)
        return self._objects[number]

    def _new(self, node):
        name = _text(node["new"])
        if name not in CLASSES:
            raise ValueError(f"skpspc has no class {name!r}, a newer version may have it")
        cls = CLASSES[name]
        new: Any = object.__new__(cls)
        self._objects.append(new)
        self._sharing = self._mmap and name == "TrainingSet"
        state = {_attribute(key): self.decode(entry) for key, entry in node["state"].items()}
        self._sharing = False
        if name == "TrainingSet" and isinstance(state["images"], torch.device):
            state["images"] = self._images.to(state["images"])
        if issubclass(cls, BaseEstimator):
            state = {**_defaults(cls), **state}
            if self._device and state.get("device") is not None:
                state["device"] = self._device
        if hasattr(cls, "__setstate__") and cls is not FrozenEstimator:
            new.__setstate__(state)
        else:
            vars(new).update(state)
        CHECKS.get(name, lambda new: None)(new)
        return new


def stored_dtype(dtype):
    """Return the dtype in which a file stores arrays of a dtype; None if it cannot store them."""
    if dtype.kind in "uMm" and dtype.itemsize > 1:
        return np.dtype(f"i{dtype.itemsize}")
    native = dtype.newbyteorder("=")
    return native if can_store(native) else None


def _address(array):
    """Return the address and the shape of an array's memory."""
    return array.__array_interface__["data"][0], array.shape


def _state(value):
    """Return the attributes to save, a dict: the parameters of an estimator come first."""
    cls = type(value)
    if cls is FrozenEstimator:
        return {"estimator": value.estimator}
    if hasattr(cls, "_file_state"):
        state = value._file_state()
    else:
        state = value.__getstate__() if hasattr(cls, "__getstate__") else vars(value).copy()
    if not isinstance(value, BaseEstimator):
        return dict(state or {})
    parameters = value.get_params(deep=False)
    # errors and names of arrays then mention public attributes, if they can
    return {k: state[k] for k in sorted(state, key=lambda k: (k not in parameters, k[0] == "_"))}


def _defaults(estimator_class):
    """Return the defaults of an estimator's parameters, for files of versions without them."""
    parameters = inspect.signature(estimator_class.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _random_state(generator):
    """Return the state of a RandomState or Generator as a dict."""
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.bit_generator.state


def _generator(kind, bits, state):
    """Return a RandomState or Generator of fresh ``bits`` with a state of `_random_state`."""
    if kind == "RandomState":
        generator = np.random.RandomState(bits)
        generator.set_state(state)
        return generator
    bits.state = state
    return np.random.Generator(bits)


def _text(value):
    if not isinstance(value, str):
        raise ValueError(f"{described(value)} stands where a text is expected")
    return value


def _attribute(name):
    """Return the name of an attribute; raise if an object cannot have it."""
    if not name.isidentifier() or name.startswith("__"):
        raise ValueError(f"{name!r} is no attribute")
    return name
