"""Calls of all compiled kernels on small images; `test_bounds` runs them with bounds checks."""

from itertools import product

import numpy as np
import torch

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PSPCDenoiser,
)
from skpspc.inspection import posterior_entropy

# channels, height, width: single pixels, rows, columns, and sizes around a chunk of 32 windows
SHAPES = [(1, 1, 1), (1, 1, 5), (3, 5, 1), (2, 4, 5), (1, 1, 31), (4, 3, 11), (1, 6, 6), (3, 1, 33)]
SIGMAS = torch.tensor([0.01, 0.5, 30.0])


def calls(X, Z, weight, size):
    """Call kernels of windows of one size; weights may be None."""
    odd = size | 1
    models = [
        PSPCDenoiser(size, flip=size == 2),
        PSPCDenoiser(size, query_taper=1.0, response_taper=0.5, max_shift=1, flip=size == 2),
        PatchDenoiser(size),
        LocalScoreDenoiser(odd),
        LocalScoreDenoiser(odd, equivariant=True, boundary="broken"),
    ]
    for model in models:
        model.fit(X, sample_weight=weight)
        model.denoise(Z, SIGMAS)
        model.posterior(Z, SIGMAS)
    for model in models[:2]:
        model.vjp(Z, SIGMAS, torch.ones_like(Z))
        model.jvp(Z, SIGMAS, torch.ones_like(Z))
    posterior_entropy(models[0], Z, SIGMAS)


def main():
    """Call all kernels."""
    rng = np.random.default_rng(0)
    for shape, dtype in product(SHAPES, (np.uint8, np.float32)):
        X = rng.integers(0, 256, (70, *shape)).astype(np.uint8)
        X = X if dtype == np.uint8 else X / np.float32(127.5) - 1
        Z = torch.from_numpy(rng.standard_normal((3, *shape)).astype(np.float32))
        sizes = {1, 2, 3, max(shape[1:])}
        for size in sizes:
            calls(X, Z, None if size == 2 else rng.random(len(X)) + 0.1, size)
        PCALocalityDenoiser().fit(X).denoise(Z, SIGMAS)
        windows = FlexibleWindows("data", 0.5, [1.0])
        PSPCDenoiser(windows=windows).fit(X).denoise(Z, SIGMAS)
        EmpiricalDenoiser().fit(X).denoise(Z, SIGMAS)
    images = rng.integers(0, 256, (300, 3, 5, 7)).astype(np.uint8)
    noisy = torch.from_numpy(images[:4] / np.float32(127.5) - 1 + np.float32(0.05))
    PSPCDenoiser(2, algorithm="kd_tree", tol=1e-2).fit(images).denoise(noisy, 0.05)
    LocalScoreDenoiser(3, equivariant=True, tol=0.1).fit(images).denoise(noisy, 0.05)
    print("no index is out of bounds")


if __name__ == "__main__":
    main()
