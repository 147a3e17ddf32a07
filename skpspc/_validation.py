"""Checks of user input: images, noise levels, weights and labels, in any container."""

import math
import numbers
import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.validation import _check_sample_weight, _num_samples, validate_data

from ._input import map_array
from ._mapped import check_copied_bytes, check_unchanged, is_mapped
from ._repr import dtype_name
from ._state import NumpyState, as_tensor
from ._units import check_integers
from ._warnings import warn
from .distributed.blocks import Blocks, in_shards, is_dask
from .support import Labels, clip_size
from .support.memory import rows_that_fit
from .support.sharded import ShardedImages
from .support.training_set import DEFAULT_RANGE, to_compute

_NUMPY_DTYPES = [np.float64, np.float32, np.uint8]  # every other dtype becomes the first
_TORCH_DTYPES = (torch.float64, torch.float32, torch.uint8)
_STRINGS = "strings; convert them to numbers first"
# Kinds of NumPy dtypes without real numbers, with the remedy for the error.
_NO_NUMBERS = {
    **dict.fromkeys("USTa", _STRINGS),
    "M": "dates; pass numbers",
    "m": "time differences; pass numbers, in a unit of your choice",
}

# Smallest and largest magnitude of images whose squares, and sums of squares, each dtype computes.
# Noise levels far below the images count as zero.
_RANGES = {torch.float32: (1e-16, 1e16), torch.float64: (1e-60, 1e60)}
_SCALE = "divide images and noise levels by a common factor"


@dataclass(frozen=True)
class Layout(NumpyState):
    """Container, axes, float dtype (float32 or float64) and device of the user's images."""

    is_torch: bool
    is_flat: bool
    dtype: torch.dtype
    device: torch.device

    def restore(self, tensor, *, images=True):
        """Return a result tensor in the layout of the input; bool stays bool."""
        if images and self.is_flat:
            tensor = tensor.flatten(1)
        dtype = torch.bool if tensor.dtype == torch.bool else self.dtype
        tensor = tensor.to(device=self.device, dtype=dtype)
        return tensor if self.is_torch else tensor.numpy()


def check_training_images(estimator, X, *, reset):
    """Return training images as a tensor (n, C, H, W), and their `Layout`.

    X is an array or tensor (n, C, H, W) or (n, d), or the path of a .npy file of such an array,
    which is mapped to memory. The estimator's ``image_shape`` shapes flat images. With ``reset`` X
    defines the image shape, and ``n_features_in_`` is set; without it X must have the fitted shape.
    The tensor is uint8, float32 or float64, and shares memory with X where possible. Raises
    ValueError for NaN, infinity, no images, values out of range, or shapes that do not fit, and
    MemoryError if a large array of a file would have to be copied.
    """
    if isinstance(X, (str, os.PathLike)):
        X = _mapped_file(X)
    is_sharded = in_shards(X)
    if not is_sharded:
        given, X = X, as_container(X, "X")
    if isinstance(X, torch.Tensor):  # of another denoiser's training images
        check_unchanged(X)
    n_axes = getattr(X, "ndim", 2)
    is_image = n_axes == 4
    if is_image or estimator.image_shape is not None:
        check_integers(X, "X", estimator.data_range is not None)
    if n_axes > 2 and not is_image:
        remedy = _axis_remedy(X) if n_axes == 3 else "reshape it"
        raise ValueError(
            "X must have shape (n, channels, height, width) or (n, features), got "
            f"{tuple(X.shape)}; {remedy}."
        )
    image_shape = declared_shape(estimator, X) if reset else estimator.image_shape_
    if is_image and tuple(X.shape[1:]) != image_shape:
        remedy = "reshape X, or set image_shape=None to take the shape from X"
        if _channels_first(X.shape[1:]) == image_shape:
            remedy = f"pass {_transposition(X, 'X')}"
        raise ValueError(
            f"X holds images of shape {tuple(X.shape[1:])} (channels, height, width), expected "
            f"{image_shape}; {remedy}."
        )
    if is_sharded:
        return _check_sharded(estimator, X, image_shape, reset=reset)
    flat, layout = _check_flat(estimator, X, reset=reset, name="X", given=given)
    if reset and image_shape is None:
        image_shape = (1, 1, flat.shape[1])
    if math.prod(image_shape) != flat.shape[1]:
        raise ValueError(_shape_message(image_shape, flat.shape[1]))
    _check_magnitude(flat, layout.dtype, "X", smallest=_RANGES[layout.dtype][0])
    return flat.view(-1, *image_shape), layout


def _check_sharded(estimator, X, image_shape, *, reset):
    """Return the images of a dask array as `Blocks`, or images in shards, and their `Layout`."""
    n_values = math.prod(X.shape[1:])
    validate_data(
        estimator, np.broadcast_to(np.float32(0), (1, n_values)), reset=reset, skip_check_array=True
    )
    image_shape = image_shape or (1, 1, n_values)
    if math.prod(image_shape) != n_values:
        raise ValueError(_shape_message(image_shape, n_values))
    is_torch = isinstance(X, ShardedImages)
    images = X if is_torch else _blocks(X, image_shape)
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    _check_magnitude(images, dtype, "X", smallest=_RANGES[dtype][0])
    return images, Layout(is_torch, X.ndim <= 2, dtype, images.device)


def _blocks(X, image_shape):
    """Return the images of a dask array of numbers as `Blocks`."""
    _real(np.empty(0, X.dtype), "X")
    if X.dtype not in _NUMPY_DTYPES:
        X = X.astype(np.float32 if X.dtype == np.float16 else np.float64)
    return Blocks(X, image_shape)


def _shape_message(image_shape, n_values):
    """Return the error for images that do not have the declared shape."""
    return (
        f"image_shape={image_shape} has {math.prod(image_shape)} values, but X has {n_values} "
        "features; image_shape must be (channels, height, width) of one row."
    )


def _mapped_file(path):
    """Return the array of a .npy file, mapped to memory."""
    path = Path(path)
    if path.suffix.lower() != ".npy":
        raise ValueError(
            f"X is the path '{path}', and fit reads .npy files only; write the images to one, "
            "for example with skpspc.datasets.load_edm_zip(path, out='images.npy') or "
            "load_image_folder, and pass its path."
        )
    return map_array(path, "cannot be read as an array", "write it with numpy.save")


def check_noisy_images(estimator, Z, shapes, device):
    """Return noisy images as a float tensor (n, *shape) on a device, and their `Layout`.

    Z is an array or tensor (n, *shape) with one of ``shapes`` (``image_shape_`` comes first), or
    flat (n, n_features_in_). Denoisers of any size also take images of other heights and widths.
    The tensor is float64 if Z is float64 or of an integer type other than
    uint8, else float32. uint8 pixels are mapped to the data range. Raises ValueError for values out
    of the range of this dtype, in Z or in the training images, which may be float64.
    """
    given, Z = Z, as_container(Z, "Z")
    shape = _noisy_shape(estimator, Z, shapes)
    if getattr(Z, "ndim", 2) > 2 or shapes[0][:2] != (1, 1):  # a 1 x d image is a plain row
        check_integers(Z, "Z", estimator.data_range is not None)
    # n_features_in_ counts the values of whole images
    reset = False if shape == estimator.image_shape_ else None
    flat, layout = _check_flat(estimator, Z, reset=reset, name="Z", given=given)
    z = to_compute(flat.to(device), layout.dtype, estimator.data_range_ or DEFAULT_RANGE)
    _check_magnitude(z, layout.dtype, "Z")
    _check_fitted_magnitude(estimator, layout.dtype)
    return z.view(-1, *shape), layout


def _check_fitted_magnitude(estimator, dtype):
    """Raise if training images are too small or too large for the dtype of noisy images."""
    low, high = _RANGES[dtype]
    size = max(map(abs, estimator._noisy_limits() or (0.0,)))
    if size and not low <= size <= high:
        raise ValueError(
            f"the training images reach a magnitude of {size:.3g}, which must be between {low:g} "
            f"and {high:g} for noisy images in {dtype_name(dtype)}; {_SCALE}{_or_wider(dtype)}."
        )


def _axis_remedy(X):
    """Return the advice for training images with three axes."""
    if X.shape[0] == 3:
        return "for one colour image pass X[None], for three gray images X[:, None]"
    if X.shape[2] == 3:
        return "for one colour image (H, W, 3) pass it as (1, 3, H, W)"
    return "add the channel axis of gray images, X[:, None]"


def _noisy_shape(estimator, Z, shapes):
    """Return the shape of the images of Z; raise if it is not one of ``shapes``."""
    shape = tuple(getattr(Z, "shape", ()))[1:]
    if shape in shapes or (estimator._any_size and differs_in_size(shape, estimator.image_shape_)):
        return shape
    is_row = len(shape) <= 1 and shapes[0] == estimator.image_shape_
    if not is_row and shape != (math.prod(shapes[0]),):
        remedy = "gray images need their channel axis, Z[:, None]"
        if tuple(Z.shape) in shapes:
            remedy = "pass one image as Z[None]"
        elif len(shape) == 3 and shape[1:] == shapes[0][1:]:
            remedy = f"convert the images, so that the number of channels is {shapes[0][0]}"
        elif _channels_first(shape) in shapes:
            remedy = f"pass {_transposition(Z, 'Z')}"
        elif differs_in_size(shape, estimator.image_shape_):
            remedy = any_size_remedy(shape, estimator.image_shape_)
        raise ValueError(
            f"Z holds images of shape {shape}, but {type(estimator).__name__} was fitted on images "
            f"of shape {estimator.image_shape_} (channels, height, width) and takes "
            f"{' or '.join(map(str, shapes))} here; {remedy}."
        )
    return shapes[0]


def differs_in_size(shape, image_shape):
    """Return True if images (C, H, W) differ in height or width only, on axes longer than 1."""
    if len(shape) != 3 or shape[0] != image_shape[0] or min(shape) < 1:
        return False
    sides = zip(shape[1:], image_shape[1:], strict=True)
    return all((side == 1) == (own == 1) for side, own in sides)


def any_size_remedy(shape, image_shape):
    """Return the advice for noisy images that differ in size from the training images."""
    advice = "SingleImageDenoiser and LocalScoreDenoiser(equivariant=True) take images of any size"
    if all(map(operator.ge, shape, image_shape)):
        advice += ", and denoise_tiled cuts them into tiles of the fitted shape"
    return advice


def check_sample_shape(estimator, image_shape, shape):
    """Return the shape (C, H, W) of samples: ``image_shape``, or ``shape`` if it is None.

    Raises ValueError for other heights and widths than those of the training images, unless the
    denoiser takes images of any size.
    """
    if image_shape is None:
        return shape
    try:
        given = tuple(operator.index(side) for side in image_shape)
    except TypeError:
        given = ()
    if given == shape or (estimator._any_size and differs_in_size(given, shape)):
        return given
    remedy = f"pass ({shape[0]}, height, width)"
    if not estimator._any_size:
        remedy = f"omit it; {any_size_remedy(given, shape)}"
    raise ValueError(
        f"image_shape must be {shape}, the shape of the denoised images, or differ in height and "
        f"width alone for denoisers of any size, got {image_shape!r}; {remedy}."
    )


def declared_shape(estimator, X):
    """Return the shape of one image: ``image_shape``, or the shape in a 4-D X, or None."""
    shape = estimator.image_shape
    if shape is not None:
        try:
            shape = tuple(int(side) for side in shape)
        except (TypeError, ValueError):
            shape = ()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(
                "image_shape must be three positive ints (channels, height, width), got "
                f"{estimator.image_shape!r}."
            )
        return shape
    if getattr(X, "ndim", None) != 4:
        return None
    shape = tuple(X.shape[1:])
    if looks_channels_last(shape):
        raise ValueError(
            f"X of shape {tuple(X.shape)} looks like (n, height, width, channels); pass "
            f"{_transposition(X, 'X')}, or image_shape={shape} if it is "
            "(n, channels, height, width)."
        )
    return shape


def looks_channels_last(shape):
    """Return True if the shape of an image is more plausibly (height, width, channels).

    The last axis must be a usual number of channels: 1, 3 or 4. The first axis must exceed 4,
    unless it equals the second: (4, 4, 3) is a square of 4 x 4 pixels. Equal last two axes mean
    (channels, height, width): (16, 4, 4) is a square with many channels, (24, 1, 1) a table.
    """
    first, second, last = shape
    return last in (1, 3, 4) and second != last and (first > 4 or first == second > last)


def _channels_first(shape):
    """Return a shape (height, width, channels) as (channels, height, width)."""
    return (*shape[2:], *shape[:2])


def _transposition(images, name):
    """Return the call that moves the channels of (n, height, width, channels) to the front."""
    method = "permute" if isinstance(images, torch.Tensor) else "transpose"
    return f"{name}.{method}(0, 3, 1, 2)"


def _check_flat(estimator, X, *, reset, name, given):
    """Return X as a 2-D tensor of uint8, float32 or float64, and its layout.

    ``reset=None`` skips the check of the number of features. ``given`` is the user's argument: a
    data frame names its features.
    """
    is_torch = isinstance(X, torch.Tensor)
    is_flat = getattr(X, "ndim", 2) <= 2
    device = X.device if is_torch else torch.device("cpu")
    if is_torch:
        X = X.detach()
        if X.dtype not in _TORCH_DTYPES:
            X = X.to(torch.float32 if X.is_floating_point() else torch.float64)
    if is_mapped(X):
        check_unchanged(X)
        _check_layout(X, name)
    if not is_flat:
        X = X.reshape(len(X), math.prod(X.shape[1:]))
    _check_values(X, name)
    if device.type == "cpu":
        X = _check_array(X, name)
    elif X.ndim != 2:  # scikit-learn reads arrays on the CPU only
        raise ValueError(f"{name} must be (n, features) or images, got shape {tuple(X.shape)}.")
    if reset is not None:
        named = given if hasattr(given, "columns") else X
        validate_data(estimator, named, reset=reset, skip_check_array=True)
    flat = X.contiguous() if isinstance(X, torch.Tensor) else as_tensor(X)
    dtype = torch.float64 if flat.dtype == torch.float64 else torch.float32
    return flat, Layout(is_torch, is_flat, dtype, device)


def _check_values(X, name):
    """Raise if X holds no images, NaN or infinity; the error calls X by ``name``."""
    if not isinstance(X, (np.ndarray, torch.Tensor)) or X.ndim != 2:
        return
    if len(X) == 0:
        raise ValueError(f"{name} holds no images, shape {tuple(X.shape)}; give at least one.")
    if isinstance(X, np.ndarray) and X.dtype.kind != "f":
        return
    # in chunks: the masks of all images together take half as much memory as the images
    n_rows = rows_that_fit(X.nbytes // len(X), len(X), what="One image")
    n_bad = 0
    for start in range(0, len(X), n_rows):
        chunk: Any = X[start : start + n_rows]
        finite = chunk.isfinite() if isinstance(X, torch.Tensor) else np.isfinite(chunk)
        n_bad += int((~finite).any(1).sum())
    if n_bad:
        raise ValueError(
            f"{name} contains NaN or infinity in {n_bad} of {len(X)} images; remove or replace "
            "them."
        )


def _check_layout(X, name):
    """Raise MemoryError if a mapped array must be copied to be used, and is too large."""
    if X.dtype in _NUMPY_DTYPES and X.flags.c_contiguous:
        return
    itemsize = X.dtype.itemsize if X.dtype in _NUMPY_DTYPES else 4 if X.dtype == np.float16 else 8
    check_copied_bytes(
        X.size * itemsize,
        f"{name}, of dtype {X.dtype} and with strides {X.strides},",
        "write it as a C-contiguous array (n, C, H, W) of uint8, float32 or float64",
    )


def _check_array(X, name):
    """Return X as a C-contiguous array of ``_NUMPY_DTYPES``, without a copy if possible."""
    X = X.numpy() if isinstance(X, torch.Tensor) else X
    if getattr(X, "dtype", None) == np.float16:
        X = np.asarray(X, dtype=np.float32)
    # our own error for NaN: scikit-learn's recommends a classifier
    flat = check_array(X, dtype=_NUMPY_DTYPES, order="C", ensure_all_finite=False, input_name=name)
    shared = isinstance(X, np.ndarray) and np.may_share_memory(flat, X)
    if not shared:  # values of lists and objects
        _check_values(flat, name)
    return flat


def as_container(X, name="X"):
    """Return X as an array or a dense tensor of numbers; return other objects unchanged.

    Arrays and tensors are not copied. Lists of images or of numbers, data frames, and other objects
    with ``__array__`` (such as arrays of HDF5 or zarr files) become one array of their own dtype.
    Errors call X by ``name``: ValueError for dask arrays, masked values, strings, dates, fields,
    complex numbers, and tensors that are sparse, nested, quantised or without values (on the device
    "meta", for example); TypeError for sparse matrices.
    """
    if isinstance(X, (list, tuple)) and X:
        X = _stacked(X, name)
    if isinstance(X, torch.Tensor):
        return _dense(X, name)
    if issparse(X):
        raise TypeError(f"{name} is sparse, and dense numbers are needed; pass {name}.toarray().")
    if is_dask(X):
        raise ValueError(
            f"{name} is a dask array, and this call needs all of it in the memory of this process; "
            f"pass {name}.compute()."
        )
    if hasattr(X, "__array__"):
        X = _real(_as_array(X), name)
    return X


def _stacked(items, name):
    """Return a list of arrays, tensors or numbers as one array or tensor; keep ragged lists."""
    if all(isinstance(item, torch.Tensor) for item in items):
        items = [_dense(item, name) for item in items]
        shapes = sorted({tuple(item.shape) for item in items})
        if len(shapes) > 1:
            raise ValueError(
                f"{name} is a list of tensors of several shapes, {shapes[0]} and {shapes[1]}; "
                "give all of them one shape."
            )
        return torch.stack(items)
    if any(isinstance(item, np.ma.MaskedArray) for item in items):
        return np.ma.stack(items)
    try:
        return np.asarray(items)
    except ValueError:  # ragged: scikit-learn raises
        return items


def _dense(tensor, name):
    """Return a tensor; raise if it is not dense or its values are not real numbers."""
    if tensor.is_complex():
        fault = f"complex tensor; pass {name}.real, or both parts as channels"
    elif tensor.is_nested:
        fault = "nested tensor; pass images of one shape as one tensor, torch.stack(images)"
    elif tensor.is_quantized:
        fault = f"quantised tensor; pass {name}.dequantize()"
    elif tensor.layout != torch.strided:
        fault = f"sparse tensor; pass {name}.to_dense()"
    elif not _has_values(tensor):
        fault = "tensor without values (meta, fake or in torch.vmap); pass numbers"
    else:
        return tensor.resolve_neg()
    raise ValueError(f"{name} is a {fault}.")


def _has_values(tensor):
    """Return True if the values of a tensor can be read."""
    try:
        tensor.detach()[(slice(1),) * tensor.ndim].tolist()
    except (RuntimeError, NotImplementedError):
        return False
    return not tensor.is_meta


def _as_array(X):
    """Return an object with ``__array__`` as an array of its own dtype."""
    if isinstance(X, np.ndarray):
        return X
    array = np.asarray(X)
    if array.dtype.kind == "O" and hasattr(X, "items") and array.ndim == 2:
        # pandas makes objects of columns that may miss values; a single column has a dtype
        columns = [column.to_numpy(na_value=np.nan) for _, column in X.items()]
        array = np.column_stack(columns) if columns else array
    return array


def _real(array, name):
    """Return an array; raise if values are masked or not real numbers."""
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise ValueError(
                f"{name} is a masked array in which values are masked; fill them, "
                f"{name}.filled(value), or leave these images out."
            )
        array = array.data
    kind = array.dtype.kind
    types = set(map(type, array.flat)) if kind == "O" else set()
    if kind == "c" or any(issubclass(one, complex) for one in types):
        raise ValueError(
            f"Complex data not supported: {name} has dtype {array.dtype}; pass {name}.real, or "
            "both parts as channels."
        )
    if array.dtype.names:
        field = array.dtype.names[0]
        raise ValueError(
            f"{name} has fields, dtype {array.dtype}; pass one field, {name}[{field!r}], or "
            f"numpy.lib.recfunctions.structured_to_unstructured({name})."
        )
    if kind in _NO_NUMBERS:
        raise ValueError(f"{name}, of dtype {array.dtype}, holds {_NO_NUMBERS[kind]}.")
    if any(issubclass(one, (str, bytes)) for one in types):
        raise ValueError(f"{name} holds {_STRINGS}.")
    return array


def _check_magnitude(images, dtype, name, smallest=0.0):
    """Raise if the largest magnitude of float images is too small or too large for a dtype.

    Images that are zero everywhere pass.
    """
    if images.dtype == torch.uint8:
        return
    size = max(abs(float(end)) for end in images.aminmax())
    largest = _RANGES[dtype][1]
    if size and not smallest <= size <= largest:
        least = f"between {smallest:g} and {largest:g}" if smallest else f"at most {largest:g}"
        raise ValueError(
            f"{name} reaches a magnitude of {size:.3g}, which must be {least} in "
            f"{dtype_name(dtype)}; {_SCALE}{_or_wider(dtype)}."
        )


def check_finite(result, dtype, name, remedy=_SCALE):
    """Return a result (a tensor computed in ``dtype``); raise if it holds NaN or infinity.

    The error names the result by ``name`` and ends with ``remedy``.
    """
    if not result.isfinite().all():
        low, high = _RANGES[dtype]
        raise ValueError(
            f"{name} is not finite, as {dtype_name(dtype)} computes magnitudes from {low:g} to "
            f"{high:g}; {remedy}{_or_wider(dtype)}."
        )
    return result


def check_noise_range(dtype, **levels):
    """Raise if a named noise level is too small or too large for the dtype of the noise.

    A level must be zero, or between the smallest magnitude of the dtype and 1/100 of the largest.
    """
    low, high = _RANGES[dtype][0], _RANGES[dtype][1] / 100
    for name, level in levels.items():
        if level and not low <= level <= high:
            raise ValueError(
                f"{name} must be between {low:g} and {high:g} in {dtype_name(dtype)}, got "
                f"{level!r}; {_SCALE}{_or_wider(dtype)}."
            )


def _or_wider(dtype):
    return ", or pass float64" if dtype == torch.float32 else ""


def check_device(device, images):
    """Return the torch device for computations: ``device``, or the device of the images if None.

    Of a list, all devices are checked, and the first is returned. Raises ValueError if a device is
    not available to torch.
    """
    if device is None:
        return images.device
    if isinstance(device, (list, tuple)):
        if not device:
            raise ValueError("device is an empty list; pass at least one device, or None.")
        first, *_ = [check_device(one, images) for one in device]
        return first
    try:
        working = torch.device(device)
        torch.zeros(1, device=working).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={device!r} is not available to torch here ({reason}); pass device=None to "
            "compute on the device of the images."
        ) from error
    return working


def warn_if_clipped(patch_size, image_shape):
    """Warn if a patch is larger than the image along an axis of more than one pixel."""
    short = [side for side in image_shape[1:] if 1 < side < patch_size]
    if short:
        warn(
            f"patch_size={patch_size} is larger than the image {image_shape}; it is clipped to "
            f"{clip_size(patch_size, image_shape)}. Pass at most {min(short)} to avoid this."
        )


def check_sigma(sigma, n):
    """Return the noise levels of n images as a float64 tensor (n,).

    ``sigma`` is a float or an array of shape (n,), (n, 1) or (n, 1, 1, 1); 0 and inf are allowed.
    Raises ValueError if a value is negative, NaN or no number, or the length is wrong.
    """
    if sigma is None:
        raise ValueError("sigma must be a noise level, got None; pass a float or one per image.")
    values = _real_numbers(sigma, "sigma")
    if values.size != 1 and (values.size != n or values.shape[0] != n):
        raise ValueError(
            f"sigma must be one float or one per image, shape ({n},); got shape "
            f"{values.shape}; pass a float, or one value for each image."
        )
    bad = values[~(values >= 0)]
    if bad.size:
        raise ValueError(
            f"sigma must be non-negative, got {bad.flat[0]}; pass a float or an array of shape "
            f"({n},) in the units of the images."
        )
    return torch.from_numpy(np.broadcast_to(values.reshape(-1), (n,)).copy())


def _real_numbers(values, name):
    """Return real numbers in any container as a float64 array; raise for bools."""
    values = _computed(values)
    is_tensor = isinstance(values, torch.Tensor)
    held = values if not is_tensor and np.iscomplexobj(values) else as_container(values, name)
    if isinstance(held, torch.Tensor):
        held = held.detach().cpu()
        held = (held if held.dtype == torch.bool else held.double()).numpy()
    try:
        array = np.asarray(held)
        if array.dtype.kind not in "iufO":
            raise TypeError(array.dtype)
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be a number or an array of them, got {values!r}; pass a float."
        ) from None


def _computed(values):
    """Return the numbers of a dask array, one for each image, as an array; keep all else."""
    return values.compute() if is_dask(values) else values


def check_weights(sample_weight, X, device):
    """Return sample weights as a float64 tensor (n,), or None.

    Raises ValueError if weights are negative, not finite, all zero, of the wrong length, or add up
    to more than the largest float.
    """
    if sample_weight is None:
        return None
    sample_weight = as_container(_computed(sample_weight), "sample_weight")
    if isinstance(sample_weight, torch.Tensor):
        sample_weight = sample_weight.detach().cpu().double().numpy()
    if isinstance(sample_weight, np.ndarray) and sample_weight.ndim == 0:
        sample_weight = sample_weight.item()
    weight = _check_sample_weight(
        sample_weight, np.empty((len(X), 0)), dtype=np.float64, ensure_non_negative=True
    )
    if not weight.any():
        raise ValueError(
            "sample_weight is zero for every image; give at least one a positive weight."
        )
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not np.isfinite(total):
        raise ValueError(
            f"sample_weight adds up to more than {np.finfo(np.float64).max:.1e}; divide all of it "
            "by its largest value."
        )
    return torch.from_numpy(weight.copy()).to(device)


def check_labels(y, n, weight):
    """Return the `Labels` of n training images, or None if y is None or has several columns.

    Images of weight zero are left out. Raises ValueError if y has another length than n, is
    one-hot, or holds labels that are missing or cannot be sorted.
    """
    if y is None:
        return None
    y = as_labels(y)
    if _num_samples(y) != n:
        raise ValueError(f"y has {_num_samples(y)} labels for {n} images; give one for each.")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if is_one_hot(y):
        raise ValueError(
            f"y of shape {y.shape} is one-hot, and one label is needed for each image; pass "
            "numpy.asarray(y).argmax(1)."
        )
    if y.ndim != 1:
        return None
    return Labels(y, None if weight is None else (weight > 0).cpu().numpy())


def is_one_hot(y):
    """Return True if y has several columns, with a single 1 in every row and 0 elsewhere."""
    if y.ndim != 2 or y.shape[1] < 2 or y.dtype.kind not in "biufO":
        return False
    is_one = y == 1
    return bool((is_one | (y == 0)).all() and (is_one.sum(1) == 1).all())


def as_labels(y):
    """Return labels in any container as a NumPy array of their own dtype.

    Raises ValueError for masked or ragged labels and for lists of strings and others, TypeError
    for sparse matrices.
    """
    if issparse(y):
        raise TypeError("y is sparse, and one label is needed for each image; pass y.argmax(1).")
    if isinstance(y, (list, tuple)) and y:
        y = _listed_labels(y)
    if isinstance(y, torch.Tensor):
        y = _dense(y, "y").detach().cpu()
        return (y.float() if y.dtype == torch.bfloat16 else y).numpy()
    if isinstance(y, np.ma.MaskedArray) and np.ma.is_masked(y):
        raise ValueError("y is a masked array in which labels are masked; leave these images out.")
    return np.asarray(y)


def _listed_labels(labels):
    """Return a list of labels as an array or tensor in which different labels stay different."""
    try:
        array = _stacked(labels, "y")
        array = array if isinstance(array, torch.Tensor) else np.asarray(array)
    except ValueError as error:
        raise ValueError(f"y must hold one label for each image ({error}).") from error
    if isinstance(array, np.ndarray) and array.ndim == 1:
        if array.dtype.kind in "US" and not all(isinstance(v, (str, bytes)) for v in labels):
            raise ValueError("y holds strings and other labels; make them all strings.")
        if array.dtype.kind == "f" and all(isinstance(v, numbers.Integral) for v in labels):
            return np.array(labels, dtype=object)  # beyond int64, where floats would merge them
    return array


def check_pixels(pixels, sides):
    """Return flat indices ``row * W + column`` of pixels, a tensor of int64 (m,).

    Parameters
    ----------
    pixels : array of int, shape (m, 2), or None
        (row, column) of each pixel; None: all pixels, in row-major order.
    sides : tuple of (H, W)
        Height and width of the denoised image.

    Raises
    ------
    ValueError
        If there are no pixels, or they are not pairs of ints inside the image.
    """
    height, width = sides
    if pixels is None:
        return torch.arange(height * width)
    if isinstance(pixels, torch.Tensor):
        pixels = pixels.cpu().numpy()
    try:
        at = np.asarray(pixels)
    except ValueError:  # ragged
        at = np.empty(0)
    if at.ndim != 2 or at.shape[1:] != (2,) or len(at) == 0 or at.dtype.kind not in "iu":
        raise ValueError(
            f"pixels must be (row, column) pairs of ints, shape (m, 2), got {pixels!r}; pass "
            "[(row, column)] for one pixel."
        )
    outside = (at < 0) | (at >= [height, width])
    if outside.any():
        row, column = at[outside.any(1)][0].tolist()
        raise ValueError(
            f"pixels must lie in the denoised image of {height} x {width} pixels, got "
            f"(row {row}, column {column})."
        )
    return torch.from_numpy(at.astype(np.int64) @ [width, 1])
