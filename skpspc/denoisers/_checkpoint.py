"""Networks from files, without running what is in them."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

# Where checkpoints of training scripts keep the network, the one to sample from first.
_WRAPPERS = ("ema", "state_dict", "model_state_dict", "model")


def load_network(path, network=None, *, trust=False):
    """Load a trained network, for `NetworkDenoiser`.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or what ``torch.save`` or ``pickle`` wrote: weights (a state
        dict), a whole module, or a dict with one of them under "ema", "state_dict",
        "model_state_dict" or "model", the first of these found.
    network : torch.nn.Module, default None
        The module that weights belong to; it is filled in place. Not needed for a whole
        module.
    trust : bool, default False
        Unpickle whatever the file holds. A pickle can run any code: only for files whose
        author you trust. Whole modules, such as the ``.pkl`` files of EDM, need it, and
        their code must be importable.

    Returns
    -------
    torch.nn.Module
        On the CPU, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read safely, holds no network or weights of another one, if ``network``
        is no module, or trust anything but True or False.

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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file '{path}'.")
    content = _unwrapped(_read(path, trust))
    if isinstance(content, torch.nn.Module):
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
    try:
        network.load_state_dict(dict(content))
    except RuntimeError as error:
        raise ValueError(
            f"the weights in '{path}' are those of another network than {type(network).__name__} "
            f"({' '.join(str(error).split())})."
        ) from error
    return network.eval()


def _read(path, trust):
    """What is in the file."""
    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"'{path}' is no whole safetensors file ({error}).") from error
    try:
        with warnings.catch_warnings():
            # that it would rather have its own protocol is said below, in other words
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        if not trust:
            raise ValueError(
                f"'{path}' holds more than weights, or no weights (it is a pickle that may run "
                "code, or damaged), and is not loaded; if you trust its author pass trust=True, "
                "otherwise ask for a .safetensors file."
            ) from error
    return _unpickle(path)


def _unpickle(path):
    """Run a pickle: a file of torch, or a plain one."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, IndexError):
        pass  # not torch's own format
    try:
        with open(path, "rb") as file:
            return pickle.load(file)
    except (pickle.UnpicklingError, EOFError, IndexError) as error:
        raise ValueError(f"'{path}' is neither a torch file nor a pickle ({error}).") from error


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
