"""Methods that `torch.compile` leaves alone."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

Method = TypeVar("Method", bound=Callable)


def eager(method: Method) -> Method:
    """Return a method that runs outside the graphs of `torch.compile`.

    Posteriors choose their computations by the data and call compiled code of numba, which cannot
    be traced. The decorator `torch.compiler.disable` would import torch's compiler with skpspc.
    """

    @wraps(method)
    def outside(*args, **kwargs):
        compiler = sys.modules.get("torch._dynamo")
        run = method if compiler is None else compiler.disable(method)
        return run(*args, **kwargs)

    return outside  # type: ignore[return-value]
