"""Types in public signatures.

Modules that must load without torch import these names under ``TYPE_CHECKING`` alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch

# Arguments.

# Images, labels or weights in any container: lists, arrays, tensors, data frames.
ArrayLike: TypeAlias = npt.ArrayLike | torch.Tensor

# One noise level, or one for each image: shapes (), (n,), (n, 1) and (n, 1, 1, 1).
NoiseLevel: TypeAlias = (
    float | np.number | Sequence[float] | Sequence[Sequence[float]] | np.ndarray | torch.Tensor
)

# Several noise levels, or other numbers along one axis.
Numbers: TypeAlias = Sequence[float] | np.ndarray | torch.Tensor


class SupportsDenoise(Protocol):
    """An object with the method ``denoise(Z, sigma)``."""

    def denoise(self, Z: Any, sigma: Any, /) -> Any: ...


# One denoiser or several, with or without names.
Denoisers: TypeAlias = Mapping[Any, SupportsDenoise] | Sequence[SupportsDenoise] | SupportsDenoise

ImageShape: TypeAlias = Sequence[int]  # (C, H, W)
DataRange: TypeAlias = Sequence[float]  # (low, high)
Device: TypeAlias = str | torch.device
Devices: TypeAlias = Device | Sequence[Device]
RandomState: TypeAlias = int | np.random.RandomState | np.random.Generator
Path: TypeAlias = str | PathLike[str]

# A size, a bandwidth or a number of images that depends on the noise level.
BySigma: TypeAlias = Callable[[float], Any]

# A sampler of ``skpspc.sampling``, by name, or a generator function.
Sampler: TypeAlias = (
    Literal["ddim", "dpmpp_2m", "edm", "euler", "heun"] | Callable[..., Iterable[torch.Tensor]]
)

# Results.

# In the container of the training images, an ndarray or a Tensor, which no type checker knows.
Array: TypeAlias = Any

# In the container of an argument: annotate both with this variable.
Container = TypeVar("Container", np.ndarray, torch.Tensor)
