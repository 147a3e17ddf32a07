"""Checks of images and counts."""

import math
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_array

from .._validation import as_container, as_tensor
from ..sampling.choice import patch_sizes as sizes_of
from ..support.training_set import DEFAULT_RANGE, to_compute


def as_images(X, name):
    """Return images (n, C, H, W) or (n, d) as an array of uint8, float32 or float64.

    Raise for NaN, infinity, no images, or another number of axes; errors call the images ``name``.
    """
    X = as_container(X, name)
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype in (torch.float16, torch.bfloat16) else X).numpy()
    elif getattr(X, "dtype", None) == np.float16:
        X = X.astype(np.float32)
    if getattr(X, "ndim", None) == 0 or (hasattr(X, "__len__") and len(X) == 0):
        raise ValueError(f"{name} holds no images; give at least one.")
    images = check_array(
        X, dtype=[np.float64, np.float32, np.uint8], allow_nd=True, order="C", input_name=name
    )
    if images.ndim not in (2, 4):
        remedy = (
            "add the channel axis of gray images, X[:, None]" if images.ndim == 3 else "reshape"
        )
        raise ValueError(
            f"{name} must have shape (n, channels, height, width) or (n, features), got "
            f"{images.shape}; {remedy}."
        )
    return images


def as_floats(images, data_range=DEFAULT_RANGE):
    """Return images as float64; uint8 pixels are read on ``data_range``."""
    return to_compute(as_tensor(images), torch.float64, data_range).numpy()


def as_clean(images, data_range):
    """Return images as a Tensor of float64 for images of float64, otherwise of float32."""
    dtype = torch.float64 if images.dtype == np.float64 else torch.float32
    return to_compute(as_tensor(images), dtype, data_range)


def check_count(count, name, least=1):
    """Raise unless a count is an int of at least ``least``."""
    if not (isinstance(count, Integral) and int(count) >= least):
        raise ValueError(f"{name} must be an int of at least {least}, got {count!r}.")


def check_sizes(sizes, image_shape, name):
    """Return distinct patch sizes as an int array, increasing; for None, `patch_sizes`."""
    if sizes is None:
        return np.array(sizes_of(image_shape))
    longest = max(image_shape[1:])
    listed = [] if isinstance(sizes, str) else list(np.atleast_1d(np.asarray(sizes, dtype=object)))
    if not listed or not all(isinstance(s, Integral) and 1 <= int(s) <= longest for s in listed):
        raise ValueError(
            f"{name} must be ints between 1 and {longest}, the longer side of images of shape "
            f"{image_shape}, and at least one; got {sizes!r}."
        )
    return np.unique(np.array(listed, dtype=int))


def shared_range(denoisers, images):
    """Return the data range of all denoisers that have one; (-1, 1) where none has.

    Raise if images are uint8 and the data ranges differ.
    """
    given = (getattr(denoiser, "data_range_", None) for denoiser in denoisers)
    ranges = {data_range for data_range in given if data_range is not None}
    if len(ranges) > 1 and images.dtype == np.uint8:
        raise ValueError(
            f"the denoisers were fitted with different data ranges, {sorted(ranges)}, and read "
            "uint8 images differently; fit all with one data_range."
        )
    return min(ranges) if ranges else DEFAULT_RANGE


def check_fits(images, denoiser, name):
    """Raise for images of another shape than a denoiser was fitted on.

    Denoisers that also take patches, and objects without ``image_shape_``, check for themselves.
    """
    shape = getattr(denoiser, "image_shape_", None)
    if shape is None or len(denoiser.get_feature_names_out()) != math.prod(shape):
        return
    if images.shape[1:] not in (shape, (math.prod(shape),)):
        raise ValueError(
            f"{name} holds images of shape {images.shape[1:]}, and {type(denoiser).__name__} "
            f"answers for images of shape {shape}; pass images of that shape."
        )


def check_alike(images, others, name, other_name):
    """Raise unless two sets hold images of one shape."""
    if images.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"{name} holds images of shape {images.shape[1:]}, {other_name} of shape "
            f"{others.shape[1:]}; reshape one of them."
        )
