"""Modules inside callables, and tensors inside the outputs of networks."""

import contextlib
import threading
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType

import torch

_DEEPEST = 5  # callables within callables
_LONGEST = 1000  # entries of a container that may hold a network
_LOCK = threading.Lock()
# Modules in use, with the number of their users and the submodules to set back to training mode.
_IN_USE: dict[torch.nn.Module, tuple[int, list[torch.nn.Module]]] = {}


def unwrapped(answer):
    """Return the tensor in a network's output; return other outputs unchanged.

    The tensor is the attribute ``sample`` (diffusers) or ``mean`` (azula, torch distributions), or
    the first entry of a tuple or list.
    """
    if isinstance(answer, torch.Tensor):
        return answer
    for name in ("sample", "mean"):
        value = getattr(answer, name, None)
        if isinstance(value, torch.Tensor):
            return value
    if isinstance(answer, (tuple, list)) and answer and isinstance(answer[0], torch.Tensor):
        return answer[0]
    return answer


def modules_of(network):
    """Return the modules that a callable uses, a list without repetitions.

    A function uses what its closure, its defaults and its global names hold. A partial uses its
    function and arguments, a bound method its object, and other callables their attributes.
    """
    modules, seen, level = [], set(), [network]
    for _ in range(_DEEPEST):
        below = []
        for value in level:
            if id(value) in seen or isinstance(value, (type, ModuleType, torch.Tensor)):
                continue
            seen.add(id(value))
            if isinstance(value, torch.nn.Module):
                modules.append(value)
            else:
                below.extend(_held(value))
        level = below
    return modules


def _held(value):
    """Return the objects that a callable or a container holds."""
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        owner = value.__self__
        return [owner, value.__func__, *getattr(owner, "__dict__", {}).values()]
    if isinstance(value, FunctionType):
        return _of_function(value)
    if isinstance(value, (list, tuple, set, dict)):
        entries = value.values() if isinstance(value, dict) else value
        return list(entries) if len(value) <= _LONGEST else []
    if callable(value):
        call = type(value).__call__
        return [call, *getattr(value, "__dict__", {}).values()]
    return []


def _of_function(function):
    """Return the objects in a function's closure, defaults and global names."""
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty cell
            held.append(cell.cell_contents)
    names = _names(function.__code__)
    return held + [function.__globals__[name] for name in names if name in function.__globals__]


def _names(code):
    """Return the names that a code object and the functions within it look up."""
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, CodeType):
            names |= _names(const)
    return names


@contextlib.contextmanager
def evaluating(network):
    """Set the modules of a network to evaluation mode.

    All modes are restored afterwards, after the last of several threads that use the network.
    """
    roots = modules_of(network)
    with _LOCK:
        for root in roots:
            n_users, training = _IN_USE.get(root, (0, []))
            if not n_users:
                training = [module for module in root.modules() if module.training]
                if training:
                    root.eval()
            _IN_USE[root] = n_users + 1, training
    try:
        yield
    finally:
        with _LOCK:
            for root in roots:
                n_users, training = _IN_USE.pop(root)
                if n_users > 1:
                    _IN_USE[root] = n_users - 1, training
                    continue
                for module in training:
                    module.training = True
