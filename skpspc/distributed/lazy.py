"""Noisy images in the blocks of a dask array, which are denoised when the answer is computed."""

import math
from typing import Any

import numpy as np
from sklearn import config_context, get_config

from .._optional import load
from .._repr import dtype_name
from .._validation import as_labels, check_sigma
from ..posterior.posterior import ARRAYS, Posterior
from .blocks import check_block, in_whole_images, is_dask
from .travel import Traveller


def lazy_posterior(denoiser, Z, sigma, y=None, guidance=1.0):
    """Return the posterior of noisy images, with dask arrays in the blocks of Z.

    Parameters
    ----------
    denoiser : Denoiser
        Its state must not change until the posterior is computed.
    Z : dask array of shape (n, C, H, W) or (n, d)
    sigma : float, or array or dask array of shape (n,), (n, 1) or (n, 1, 1, 1)
    y : label, or array or dask array of shape (n,), default None
    guidance : float, default 1.0

    Returns
    -------
    Posterior
        Arrays that are computed together share the posterior of each block.

    Raises
    ------
    ValueError
        If Z has no images or blocks of unknown length; for all other reasons that can be seen
        before values are read. Values are checked when their block is computed.
    """
    _check_lengths(Z, "Z")
    if len(Z) == 0:
        raise ValueError(f"Z holds no images, shape {Z.shape}; give at least one.")
    shape, dtype = _answer_of(denoiser, Z)
    Z = in_whole_images(Z, "Z")
    arrays, numbers = {}, {}
    levels, labels = _levels(sigma, len(Z)), _labels(denoiser, y, len(Z))
    for name, values in (("sigma", levels), ("y", labels)):
        if np.ndim(values):
            arrays[name] = _in_blocks(values, name, Z)
        else:
            numbers[name] = values
    da, delayed = load("dask.array"), load("dask").delayed
    rows = da.arange(len(Z), chunks=(Z.chunks[0],))
    pairs = [pair for array in (rows, *arrays.values()) for pair in (array, (0,))]
    posteriors = da.blockwise(
        _posterior_of_block,
        (0,),
        Z,
        tuple(range(Z.ndim)),
        *pairs,
        traveller=delayed(Traveller(denoiser), pure=False),  # one task, which all blocks share
        names=tuple(arrays),
        numbers={**numbers, "guidance": guidance},
        declared=(Z.shape[1:], Z.dtype),
        answered=(shape, dtype),
        working_memory=get_config()["working_memory"],
        token="posterior",
        dtype=object,
        meta=np.empty(0, object),
    )

    def array(name):
        tail, kind = _shape_and_dtype(name, shape, dtype)
        return da.blockwise(
            getattr,
            tuple(range(1 + len(tail))),
            posteriors,
            (0,),
            name,
            None,
            new_axes=dict(enumerate(tail, 1)),
            token=name,
            dtype=kind,
            meta=np.empty((0,) * (1 + len(tail)), kind),
        )

    fields: dict[str, Any] = {name: array(name) for name in ARRAYS}
    return Posterior(**fields, data_range=denoiser.data_range_)


def _answer_of(denoiser, Z):
    """Return shape and dtype of the denoised images; raise if Z has a wrong shape or dtype."""
    example = np.zeros((2, *Z.shape[1:]), Z.dtype)
    if Z.dtype.kind in "iu":
        example[1] = np.array(255).astype(Z.dtype)  # pixels, for the error of integers
    z, _, layout = denoiser._checked(example, 1.0)
    shape = denoiser._answer_shape_of(z)
    return (math.prod(shape),) if layout.is_flat else shape, np.dtype(dtype_name(layout.dtype))


def _shape_and_dtype(name, shape, dtype):
    """Return the shape of the entry of one image in an array of a posterior, and the dtype."""
    return shape if name == "mean" else (), np.dtype(bool) if name == "bound_is_proved" else dtype


def _levels(sigma, n):
    """Return one noise level, or an array of n."""
    if is_dask(sigma):
        return sigma
    levels = check_sigma(sigma, n).numpy()
    return levels if (levels != levels[0]).any() else float(levels[0])


def _labels(denoiser, y, n):
    """Return one label, or an array of n."""
    if y is None or is_dask(y):
        return y
    denoiser._codes(y, n)
    labels = as_labels(y)
    return labels.reshape(n) if labels.ndim else labels[()]


def _in_blocks(values, name, Z):
    """Return one value for each image in the blocks of Z, from an array or a dask array."""
    chunks = (Z.chunks[0],)
    if not is_dask(values):
        return load("dask.array").from_array(values, chunks=chunks)
    _check_lengths(values, name)
    if values.size != len(Z) or len(values) != len(Z):
        raise ValueError(
            f"{name} must have one value for each image, shape ({len(Z)},); got shape "
            f"{values.shape}."
        )
    return values.reshape(-1).rechunk(chunks)


def _check_lengths(array, name):
    """Raise if blocks of a dask array have an unknown length."""
    if any(math.isnan(size) for sizes in array.chunks for size in sizes):
        raise ValueError(f"{name} has blocks of unknown length; pass {name}.compute_chunk_sizes().")


def _posterior_of_block(
    z, rows, *arrays, traveller, names, numbers, declared, answered, working_memory
):
    """Return the `Posterior` of the images of one block; ``rows`` are their numbers in Z."""
    while isinstance(z, list):  # one along each axis of an image
        (z,) = z
    shape, dtype = declared
    if not len(rows):
        kinds = {name: _shape_and_dtype(name, *answered) for name in ARRAYS}
        none: dict[str, Any] = {n: np.empty((0, *tail), kind) for n, (tail, kind) in kinds.items()}
        return Posterior(**none)
    where = f"images {rows[0]} to {rows[-1]} of Z"
    z = check_block(z, f"the block of {where}", (len(rows), *shape), dtype)
    arguments = {**numbers, **dict(zip(names, arrays, strict=True))}
    with config_context(working_memory=working_memory), traveller.denoiser() as denoiser:
        try:
            return denoiser._posterior(z, **arguments)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
