"""Load networks from files without running their code."""

import os
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

# Keys of the network in checkpoints of training scripts, the averaged network first.
_WRAPPERS = ("ema", "state_dict", "model_state_dict", "model")


def load_network(
    path: str | os.PathLike[str],
    network: torch.nn.Module | None = None,
    *,
    trust: bool = False,
    max_bytes: int = MAX_BYTES,
) -> torch.nn.Module:
    """Load a trained network, for `NetworkDenoiser`.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or a file of ``torch.save`` or ``pickle``. It holds weights (a
        state dict), a whole module, or a dict with either under "ema", "state_dict",
        "model_state_dict" or "model" (the first key present).
    network : torch.nn.Module, default None
        Module of the weights. It is filled in place, and unchanged after an error. Not needed for a
        file of a whole module.
    trust : bool, default False
        Unpickle any content. A pickle can run any code: pass True only for files whose author you
        trust. Whole modules, such as the ``.pkl`` files of EDM, need True, and importable code.
    max_bytes : int, default 2**33
        Largest size of the file (8 GiB), and of the unpacked members of a ``torch.save`` file.

    Returns
    -------
    torch.nn.Module
        The network, on the CPU and in evaluation mode.

    Raises
    ------
    OSError
        If there is no such file, or the file system fails.
    ValueError
        If the file cannot be read safely, or is larger than ``max_bytes``; if it holds no network,
        weights of another network, or NaN, infinite or complex weights; if ``network`` is not a
        module, or has no memory for weights yet; if trust is not a bool.

    Examples
    --------
    Save the weights of a network, and load them into another instance:

    >>> import os, tempfile, torch
    >>> from skpspc import load_network
    >>> trained = torch.nn.Linear(3, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.pt")
    ...     torch.save(trained.state_dict(), path)
    ...     loaded = load_network(path, torch.nn.Linear(3, 1))
    >>> (loaded.weight - trained.weight).abs().max().item()
    0.0
    """
    if not isinstance(trust, bool):  # the string "no" is truthy
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
            f"'{path}' holds a {type(content).__name__}, not a module or a state dict of tensors; "
            "extract the network from it first."
        )
    if network is None:
        raise ValueError(
            f"'{path}' holds only weights; pass the module of these weights, "
            "load_network(path, network=...)."
        )
    _fill(network, content, path)
    return network.eval()


def _check_file_size(path, max_bytes):
    """Raise if a file, or the members of a torch zip file, are larger than ``max_bytes``."""
    with reading(path, "is damaged", "get it again"):
        size = path.stat().st_size
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # torch's own test
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
            f"network has parameters without memory ({', '.join(empty[:3])}); call the network or "
            "network.to_empty(device=...) once before load_network."
        )
    names = [name for name in weights if not isinstance(name, str)]
    if names:
        raise ValueError(
            f"the weights in '{path}' have names that are not strings ({names[0]!r}); use the "
            f"names in {type(network).__name__}.state_dict()."
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
            f"the weights in '{path}' do not match {type(network).__name__} ({reason(error)}); "
            "pass the network of these weights."
        ) from error


def _tensors(state):
    """Return the tensors of a state dict, without the extra state of modules."""
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _check_castable(name, value, target, path):
    """Raise if weights are not dense numbers, or cannot be cast to the dtype of ``target``."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise ValueError(
            f"the weights {name!r} in '{path}' are sparse, quantised or without memory; save them "
            "as dense tensors."
        )
    dtype = torch.float64 if target is None else target.dtype
    if not torch.can_cast(value.dtype, dtype):
        raise ValueError(
            f"the weights {name!r} in '{path}' are {value.dtype}, but the network has {dtype}; "
            "convert the weights."
        )


def _check_finite(path, weights, network):
    """Raise for NaN, and for parameters, but not buffers, infinite in the network's dtype."""
    state = _tensors(network.state_dict())
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    for name, value in weights.items():
        if name in state:
            value = value.to(state[name].dtype)
        if value.is_meta or value.is_quantized or is_lazy(value):
            continue
        if value.dtype.itemsize == 1:  # torch has no `isnan` for 8-bit floats
            value = value.float()
        wrong = ~value.isfinite() if name in parameters else value.isnan()
        if wrong.any():
            raise ValueError(
                f"the weights {name!r} in '{path}' are NaN or infinite as {value.dtype}; get "
                "another checkpoint."
            )


def _read(path, trust):
    """Return the content of the file."""
    if path.suffix.lower() == ".safetensors":
        with reading(path, "is not a complete safetensors file", "get it again"):
            return load_file(path)
    untrusted = "if you trust its author pass trust=True, otherwise ask for a .safetensors file"
    failure = (
        "holds more than weights, or no weights (it is a pickle that may run code, or damaged), "
        "and is not loaded"
    )
    try:
        with reading(path, failure, untrusted), warnings.catch_warnings():
            # `failure` says what torch's warning says
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ValueError:
        if not trust:
            raise
    return _unpickle(path)


def _unpickle(path):
    """Return the content of a torch file or a plain pickle, which may run code."""
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
    """Return the network or weights of a training script's checkpoint."""
    if isinstance(content, Mapping) and not _are_weights(content):
        for name in _WRAPPERS:
            network = content.get(name)
            if isinstance(network, torch.nn.Module) or (isinstance(network, Mapping) and network):
                return network
    return content


def _are_weights(content):
    """Return whether a dict is not empty and every value is a tensor."""
    return len(content) > 0 and all(isinstance(value, torch.Tensor) for value in content.values())
