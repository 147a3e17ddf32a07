"""Save a denoiser, and load it."""

import hashlib
import numbers
import os
from typing import Any

import numpy as np

from .._input import MAX_BYTES, check_max_bytes, reading
from .._output import check_output
from .._repr import dtype_name
from .._state import PackedTensor, TorchName
from .._typing import ArrayLike, Device
from .._units import checked_range
from .._validation import check_device, check_training_images
from ..denoisers import EmpiricalDenoiser
from ..denoisers.base import Denoiser
from .checks import check
from .codec import Decoder, Encoder
from .file import SUFFIX, array_bytes, read_file, write_file

_FAILURE = "holds no denoiser that this version can read"
_REMEDY = "get the file again, or save the denoiser again"


def save(denoiser, path, include_data):
    """Write a denoiser to a file; see `Denoiser.save`."""
    path = check_output(path, (SUFFIX,))
    encoder = Encoder(include_data)
    tree = {"denoiser": encoder.encode(denoiser)}
    tree["data"] = _about_data(denoiser, encoder) if encoder.left_out else None
    tree["devices"] = sorted(encoder.devices)
    write_file(path, tree, encoder.arrays)


def _about_data(denoiser, encoder):
    """Return a dict, encoded, by which `load` recognises the images that were left out."""
    if len(encoder.left_out) > 1:
        raise ValueError(
            f"{type(denoiser).__name__} holds {len(encoder.left_out)} different training sets, for "
            "example in a FrozenEstimator, and X gives back only one; pass include_data=True."
        )
    fitted = denoiser
    while "training_rows_" not in vars(fitted):
        fitted = getattr(fitted, "denoiser_", None) or fitted.estimator
    (images,) = encoder.left_out.values()
    return encoder.encode(
        {
            "image_shape": fitted.image_shape_,
            "data_range": fitted.data_range,
            "n_images": fitted._n_given,
            "rows": fitted.training_rows_,
            "dtype": images.dtype,
            "sha256": _fingerprint(images.array),
        }
    )


def _fingerprint(images):
    """Return the SHA-256 of the pixels of images (n, C, H, W), an array, in hexadecimal."""
    return hashlib.sha256(array_bytes(images)).hexdigest()


def load(
    path: str | os.PathLike[str],
    X: ArrayLike | None = None,
    *,
    mmap: bool = False,
    device: Device | None = None,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """Load a denoiser that its method ``save`` wrote.

    The file cannot run code: it holds arrays and JSON, and names only classes of the library. Every
    byte is covered by a checksum.

    Parameters
    ----------
    path : str or Path
        File of ``save``.
    X : array or Tensor of shape (n, C, H, W) or (n, d), default None
        Training images, for a file that was saved with ``include_data=False``: the X of the fit, or
        all X of the fit and of `partial_fit` stacked. Pixels, order and dtype are compared with a
        fingerprint in the file. Labels and sample weights are in the file.
    mmap : bool, default False
        Map arrays to the file: the system reads training images when they are used, and they take
        no memory of the process. Do not write to the file while the denoiser is in use; ``save``
        to the same path is safe.
    device : str or torch.device, default None
        Device of the denoiser. None: the device from which it was saved.
    max_bytes : int, default 2**33
        Largest size of the file (8 GiB).

    Returns
    -------
    Denoiser
        The denoiser, fitted as it was. Its results equal the results before saving, bit by bit, on
        the same machine with the same versions and number of threads. An index of training images
        or patches is built at the first call.

    Raises
    ------
    OSError
        If there is no such file, or the file system fails.
    ValueError
        If the file is no denoiser, is damaged or incomplete, has a wrong checksum, is larger than
        ``max_bytes`` or comes from a newer version; if X is missing, superfluous or different from
        the images of the fit; if the device is not available.

    See Also
    --------
    PSPCDenoiser.save : Save a denoiser; every denoiser has this method.

    Examples
    --------
    The largest difference of a denoised digit before and after saving:

    >>> import os, tempfile
    >>> import skpspc
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> model = skpspc.PSPCDenoiser(patch_size=3).fit(X)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "digits.safetensors")
    ...     model.save(path, include_data=False)
    ...     loaded = skpspc.load(path, X)
    >>> float(abs(loaded.denoise(X[:1], 0.5) - model.denoise(X[:1], 0.5)).max())
    0.0
    """
    check_max_bytes(max_bytes)
    tree, tensors = read_file(path, max_bytes)
    device = None if device is None else str(device)
    with reading(path, _FAILURE, _REMEDY):
        about = Decoder(tensors, None, device, max_bytes).decode(tree["data"])
        _check_about(about)
        devices = [device] if device else [str(name) for name in tree["devices"]]
    _check_devices(devices, None if device else path)
    images = _images_again(path, X, about)
    with reading(path, _FAILURE, _REMEDY):
        denoiser = Decoder(tensors, images, device, max_bytes, mmap).decode(tree["denoiser"])
        if not isinstance(denoiser, Denoiser):
            raise ValueError(f"it holds a {type(denoiser).__name__}")
    return denoiser


def _check_about(about):
    """Raise unless ``about`` is None or what `_about_data` returns."""
    if about is None:
        return
    shape, n, rows = about["image_shape"], about["n_images"], np.asarray(about["rows"])
    check(isinstance(shape, tuple) and len(shape) == 3, f"its images have shape {shape!r}")
    for count in (n, *shape):
        check(isinstance(count, numbers.Integral) and int(count) >= 1, f"it counts {count!r}")
    check(rows.ndim == 1 and rows.dtype.kind == "i" and rows.size, "its images have no rows")
    check(0 <= rows.min() <= rows.max() < n, "its images have no rows")
    if about["data_range"] is not None:
        checked_range(about["data_range"], "data_range")
    for name in ("dtype", "sha256"):
        check(isinstance(about[name], str), f"its {name} is {about[name]!r}")
    TorchName("dtype", about["dtype"]).value()


def _check_devices(devices, path):
    """Raise if a device is not available to torch; ``path`` is the file that names it, or None."""
    for name in devices:
        try:
            check_device(name, None)
        except ValueError as error:
            reason = str(error).partition("; pass")[0]
            holder = "" if path is None else f"'{path}' names a device: "
            raise ValueError(
                f"{holder}{reason}; pass load a device such as device='cpu'."
            ) from error


def _images_again(path, X, about):
    """Return the training images of a file without them, (N, C, H, W), or None."""
    if about is None:
        if X is not None:
            raise ValueError(f"'{path}' needs no training images; omit X.")
        return None
    if X is None:
        raise ValueError(
            f"'{path}' was saved without its {about['n_images']} training images of shape "
            f"{about['image_shape']}, {about['dtype']}; pass them, load(path, X)."
        )
    try:
        return _same_images(X, about)
    except ValueError as error:
        raise ValueError(
            f"'{path}' was saved without its training images, and X does not give them: {error}"
        ) from error


def _same_images(X, about):
    """Return X as images (N, C, H, W); raise unless they are those that `_about_data` describes."""
    stub = EmpiricalDenoiser(image_shape=about["image_shape"], data_range=about["data_range"])
    images, _ = check_training_images(stub, X, reset=True)
    if len(images) != about["n_images"]:
        raise ValueError(
            f"X holds {len(images)} images, but the denoiser was fitted on {about['n_images']}; "
            "pass all images of the fit, in their order."
        )
    if dtype_name(images.dtype) != about["dtype"]:
        raise ValueError(
            f"X has dtype {dtype_name(images.dtype)}, but the denoiser was fitted on "
            f"{about['dtype']}; pass the images in the dtype of the fit."
        )
    rows = about["rows"]
    if len(rows) != len(images):
        images = images[np.asarray(rows)]
    if _fingerprint(PackedTensor.of(images).array) != about["sha256"]:
        raise ValueError(
            "X differs from the images of the fit: the fingerprint in the file is another; pass "
            "the images of the fit, in their order and scale."
        )
    return images
