"""Networks from files, without running what is in them."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn.parameter import is_lazy

from .._input import (
    MAX_BYTES,
    UnreadableFileError,
    check_max_bytes,
    check_size,
    reading,
    reason,
    where,
)

# Where checkpoints of training scripts keep the network, the one to sample from first.
_WRAPPERS = ("ema", "state_dict", "model_state_dict", "model")


def load_network(path, network=None, *, trust=False, max_bytes=MAX_BYTES):
    """Load a trained network, for `NetworkDenoiser`.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or what ``torch.save`` or ``pickle`` wrote: weights (a state
        dict), a whole module, or a dict with one of them under "ema", "state_dict",
        "model_state_dict" or "model", the first of these found.
    network : torch.nn.Module, default None
        The module that weights belong to; it is filled in place, and unchanged where an error
        is raised. Not needed for a whole module.
    trust : bool, default False
        Unpickle whatever the file holds. A pickle can run any code: only for files whose
        author you trust. Whole modules, such as the ``.pkl`` files of EDM, need it, and
        their code must be importable.
    max_bytes : int, default 2**33
        Largest size of the file, 8 GiB, and of the members of a file that ``torch.save`` wrote.

    Returns
    -------
    torch.nn.Module
        On the CPU, in evaluation mode.

    Raises
    ------
    OSError
        If there is no such file, or the file system fails.
    ValueError
        If the file cannot be read safely or is larger than ``max_bytes``, holds no network,
        weights of another one, or weights that are NaN, infinite or complex, if ``network`` is no
        module or has no memory for weights yet, or trust anything but True or False.

    Examples
    --------
    >>> import os, tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.pt")
    ...     torch.save(torch.nn.Conv2d(1, 1, 3).state_dict(), path)
    ...     load_network(path, torch.nn.Conv2d(1, 1, 3))
    Conv2d(1, 1, kernel_size=(3, 3), stride=(1, 1))
    """
    if not isinstance(trust, bool):  # "no" would be taken for yes
        raise ValueError(f"trust must be True or False, got {trust!r}.")
    if not (network is None or isinstance(network, torch.nn.Module)):
        raise ValueError(f"network must be a torch.nn.Module, not its class, got {network!r}.")
    check_max_bytes(max_bytes)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file '{path}'.")
    _check_file_size(path, max_bytes)
    content = _unwrapped(_read(path, trust))
    if isinstance(content, torch.nn.Module):
        _check_finite(path, _tensors(content.state_dict()), content)
        return content.eval()
    if not isinstance(content, Mapping) or not _are_weights(content):
        raise ValueError(
            f"'{path}' holds no module and no state dict of tensors alone, but "
            f"{type(content).__name__}; take the network out of it yourself."
        )
    if network is None:
        raise ValueError(
            f"'{path}' holds weights alone; pass the module that they belong to, "
            "load_network(path, network=...)."
        )
    _fill(network, content, path)
    return network.eval()


def _check_file_size(path, max_bytes):
    """Refuse a file, or members of torch's zip files, larger than ``max_bytes``."""
    with reading(path, "is damaged", "get it again"):
        size = path.stat().st_size
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # as torch tells them apart
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(member.file_size for member in archive.infolist()))
        check_size(size, max_bytes, where(path), max_bytes)


def _fill(network, weights, path):
    """Load weights into a network, or leave it unchanged and raise."""
    state = _tensors(network.state_dict())
    empty = [name for name, value in state.items() if is_lazy(value) or value.is_meta]
    if empty:
        raise ValueError(
            f"network has parameters without memory ({', '.join(empty[:3])}); call it once, or "
            "network.to_empty(device=...), before its weights are loaded."
        )
    names = [name for name in weights if not isinstance(name, str)]
    if names:
        raise ValueError(
            f"the weights in '{path}' have names that are no strings ({names[0]!r}); rename them "
            f"as those of {type(network).__name__}.state_dict()."
        )
    for name, value in weights.items():
        _check_castable(name, value, state.get(name), path)
    _check_finite(path, weights, network)
    before = {name: value.detach().clone() for name, value in state.items()}
    try:
        network.load_state_dict(dict(weights))
    except BaseException as error:
        with torch.no_grad():
            for name, value in state.items():
                value.copy_(before[name])
        if not isinstance(error, Exception):
            raise
        raise ValueError(
            f"the weights in '{path}' are those of another network than {type(network).__name__} "
            f"({reason(error)}); pass the network that they were trained for."
        ) from error


def _tensors(state):
    """Tensors of a state dict, without what modules add to it by `get_extra_state`."""
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _check_castable(name, value, target, path):
    """Refuse a tensor that holds no plain numbers, or numbers that its place would change."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise ValueError(
            f"the weights {name!r} in '{path}' are sparse, quantised or without memory; save them "
            "as dense tensors."
        )
    dtype = torch.float64 if target is None else target.dtype
    if not torch.can_cast(value.dtype, dtype):
        raise ValueError(
            f"the weights {name!r} in '{path}' are {value.dtype} and their place is {dtype}; "
            "convert them."
        )


def _check_finite(path, weights, network):
    """Refuse NaN, and parameters that are infinite in the dtype of the network.

    Buffers may be infinite: masks of attention are.
    """
    state = _tensors(network.state_dict())
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for name, value in weights.items():
        if name in state:
            value = value.to(state[name].dtype)
        if value.is_meta or value.is_quantized or is_lazy(value):
            continue
        if value.dtype.itemsize == 1:  # torch does not look for NaN in floats of 8 bits
            value = value.float()
        wrong = ~value.isfinite() if name in parameters else value.isnan()
        if wrong.any():
            raise ValueError(
                f"the weights {name!r} in '{path}' are NaN or infinite as {value.dtype}; get "
                "another checkpoint."
            )


def _read(path, trust):
    """Content of the file."""
    if path.suffix.lower() == ".safetensors":
        with reading(path, "is no whole safetensors file", "get it again"):
            return load_file(path)
    untrusted = "if you trust its author pass trust=True, otherwise ask for a .safetensors file"
    failure = (
        "holds more than weights, or no weights (it is a pickle that may run code, or damaged), "
        "and is not loaded"
    )
    try:
        with reading(path, failure, untrusted), warnings.catch_warnings():
            # that it would rather have its own protocol is said above, in other words
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ValueError:
        if not trust:
            raise
    return _unpickle(path)


def _unpickle(path):
    """Run a pickle: a file of torch, or a plain one."""
    with reading(path, "is neither a torch file nor a pickle", "get it again"):
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:
            if isinstance(error, ImportError) or "get attribute" in str(error):
                raise UnreadableFileError(
                    f"'{path}' needs code that cannot be imported ({reason(error)}); install it, "
                    "or put its folder on sys.path."
                ) from error
            # not torch's own format
        with open(path, "rb") as file:
            return pickle.load(file)


def _unwrapped(content):
    """The network or weights of a training script's checkpoint."""
    if isinstance(content, Mapping) and not _are_weights(content):
        for name in _WRAPPERS:
            found = content.get(name)
            if isinstance(found, torch.nn.Module) or (isinstance(found, Mapping) and found):
                return found
    return content


def _are_weights(content):
    """Whether every value is a tensor."""
    return len(content) > 0 and all(isinstance(value, torch.Tensor) for value in content.values())
