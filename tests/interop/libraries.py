"""Import of other libraries for tests, which are skipped without them."""

import pytest
import torch

_OPERATORS: list = []  # a library's operators vanish with the object


def real(name):
    """Return a module of another library; skip the tests of a file if it is not installed."""
    _allow_torchvision()
    return pytest.importorskip(name, reason=f"{name} is not installed (extra interop)")


def _allow_torchvision():
    """Let torchvision be imported where its compiled operators do not load.

    A torchvision for CUDA cannot load them beside a torch for the CPU. The libraries of the tests
    import torchvision, and call none of these operators.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATORS.append(operators)
