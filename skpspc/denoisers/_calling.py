"""How a network is called, and what it must answer with."""

import contextlib
import re

import torch

# How torch says that tensors on several devices, or of several dtypes, met.
_MIXED = re.compile(
    r"same (dtype|device|scalar type)|expected (dtype|device|scalar type)|mixed dtype"
    r"|type \(.*\) should be the same"
)


@contextlib.contextmanager
def evaluating(network):
    """Evaluation mode for a module; every part goes back to the mode that it was in."""
    modules = list(network.modules()) if isinstance(network, torch.nn.Module) else []
    training = [module for module in modules if module.training]
    if training:
        network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def called(network, x, told, sigma):
    """The network's answer, if it is one.

    Parameters
    ----------
    network : callable
    x : Tensor of shape (n, C, H, W)
        If it requires a gradient, so must the answer.
    told : Tensor of shape (n,) or float
        What the network is told of the noise level.
    sigma : Tensor
        The noise levels, for messages.

    Raises
    ------
    ValueError
        If the network is on another device or of another dtype than x, or answers with
        another shape, with no floats, without a gradient, with NaN or with infinity.
    """
    try:
        answer = network(x, told)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        if not _MIXED.search(reason):
            raise
        raise _misplaced(x, reason) from error
    if not isinstance(answer, torch.Tensor) or answer.shape != x.shape:
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise ValueError(
            f"the network must answer with a tensor of shape {tuple(x.shape)}, as it was given, "
            f"but answered with {got}; wrap it in a function that takes out the estimate."
        )
    if not answer.is_floating_point():
        raise ValueError(f"the network must answer with floats, got {answer.dtype}.")
    if answer.device != x.device:
        raise _misplaced(x, f"it answers on {answer.device}")
    if not answer.isfinite().all():
        levels = sorted({round(level, 6) for level in sigma.tolist()})
        raise ValueError(
            f"the network answered with NaN or infinity at sigma = {levels[:5]} (in its own "
            "pixels); check parametrization and network_range, or stay within the noise levels "
            "that it was trained on."
        )
    if torch.is_grad_enabled() and x.requires_grad and not answer.requires_grad:
        raise ValueError(
            "the network's answer has no gradient, so it has no Jacobian: it is computed under "
            "torch.no_grad, outside torch, or without the image; pass the bare network."
        )
    return answer


def _misplaced(x, reason):
    """The error of a network whose weights are elsewhere, or of another dtype."""
    return ValueError(
        f"the network fails on a tensor of {x.dtype} on {x.device} ({reason}); give "
        "NetworkDenoiser the device and dtype of its weights, or a module, whose own they are."
    )
