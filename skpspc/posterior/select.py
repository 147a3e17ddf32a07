"""Which kernel serves."""

import warnings
from functools import cache

import torch

from .._optional import available, load
from .box import box_posterior
from .dense import dense_posterior
from .masks import masked_posterior

ENGINES = ("auto", "numba", "torch")


def square_posterior(z, sigma, training_set, window, engine="auto"):
    """Posterior through all square windows of one shape, by the kernel that fits.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W)
    sigma : Tensor of shape (n,), float64
    training_set : TrainingSet
    window : tuple of (h, w)
    engine : {"auto", "numba", "torch"}, default "auto"
        "numba" is compiled, for float32 on the CPU; "torch" serves every dtype and device.

    Returns
    -------
    Posterior

    Raises
    ------
    ImportError
        If ``engine="numba"`` and numba is missing.
    ValueError
        If ``engine="numba"`` and the images are not float32 on the CPU.
    """
    if window == training_set.image_shape[1:]:
        return dense_posterior(z, sigma, training_set)
    return box_posterior(z, sigma, training_set, window, _engine(engine, z))


def flexible_posterior(z, sigma, training_set, precision, engine="auto"):
    """Posterior through one window a pixel that answers where it looks, by the kernel that fits.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W)
    sigma : Tensor of shape (n,), float64
    training_set : TrainingSet
    precision : Tensor of shape (H * W, H, W)
        Masks, or how much each pixel counts in each window and in its answer.
    engine : {"auto", "numba", "torch"}, default "auto"
        As in `square_posterior`.

    Returns
    -------
    Posterior
        Of every window, or of the one that all of them are.

    Raises
    ------
    ImportError, ValueError
        As `square_posterior`.
    """
    if bool((precision == 1).all()):
        return dense_posterior(z, sigma, training_set)
    # compiled code passes over the pixels that do not count; where most do, products are as fast
    is_dense = 2 * int(precision.count_nonzero()) > precision.numel()
    engine = "torch" if engine == "auto" and is_dense else _engine(engine, z)
    return masked_posterior(z, sigma, training_set, precision, precision, engine=engine)


def compiled_serves(z):
    """Whether there is compiled code for images like z; warns once if only numba is missing."""
    return _is_plain(z) and _has_numba()


def _is_plain(z):
    """Whether images are what compiled code takes."""
    return z.dtype == torch.float32 and z.device.type == "cpu"


def _engine(engine, z):
    """The engine that computes windows of the images z: "numba" or "torch"."""
    if engine == "auto":
        return "numba" if compiled_serves(z) else "torch"
    if engine == "numba":
        if not _is_plain(z):
            raise ValueError(
                f"engine='numba' computes in float32 on the CPU, got {z.dtype} on {z.device}; "
                "pass float32 images, or use engine='auto'."
            )
        load("numba")
    return engine


@cache
def _has_numba():
    """Whether numba is there; warns once if it is not."""
    found = available("numba")
    if not found:
        warnings.warn(
            "numba is not installed, so torch computes what compiled code would: the same numbers, "
            'slower. pip install "skpspc[cpu]", or pass engine="torch" where there is an engine.',
            UserWarning,
            stacklevel=8,
        )
    return found
