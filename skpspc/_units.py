"""Units of images and noise levels: the data range, and warnings if units seem to differ."""

import math
from numbers import Integral, Real

import numpy as np
import torch

from ._repr import dtype_name
from ._warnings import warn
from .support.training_set import DEFAULT_RANGE

_MANY = 1000  # approximate number of training images that a check reads
_FAR = 6.0  # standard deviations of the noise; almost no value lies farther from the data
_UNLIKELY = 0.01  # noisy images of a lower probability seem to have other units
_LARGE = 10.0  # noise of so many standard deviations of a pixel drowns the data
_USUAL_WIDTHS = (1.2, 2.6)  # usual differences of largest and smallest value on [-1, 1]


def check_data_range(data_range, dtype):
    """Return the data range (low, high) as floats, or None if it is unknown.

    ``data_range`` is an estimator's parameter, ``dtype`` the torch dtype of the training images.
    For ``data_range=None``, uint8 images have the range (-1, 1) and float images None.
    """
    if data_range is None:
        return DEFAULT_RANGE if dtype == torch.uint8 else None
    return checked_range(data_range, "data_range")


def checked_range(values, name):
    """Return (low, high) as floats; raise ValueError if they are not finite and increasing."""
    ends = np.asarray(values, dtype=object).ravel().tolist()
    low, high = ends if len(ends) == 2 and all(isinstance(e, Real) for e in ends) else (0.0, 0.0)
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"{name} must be (low, high), finite numbers with low < high, got {values!r}."
        )
    return float(low), float(high)


def half_width(data_range):
    """Return half the width of a data range, which scales noise levels for [-1, 1]; None: 1."""
    return 1.0 if data_range is None else (data_range[1] - data_range[0]) / 2


def middle(data_range):
    """Return the middle of a data range, the mean of initial noise; None: 0."""
    return 0.0 if data_range is None else (data_range[0] + data_range[1]) / 2


def sampler_ends(data_range, sigma_min=None, sigma_max=None):
    """Return sigma_min and sigma_max of a sampler; defaults are 0.002 and 80 times `half_width`."""
    half = half_width(data_range)
    ends = {
        "sigma_min": 0.002 * half if sigma_min is None else sigma_min,
        "sigma_max": 80.0 * half if sigma_max is None else sigma_max,
    }
    for name, value in ends.items():
        if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} must be a positive float or None, got {value!r}.")
    return tuple(map(float, ends.values()))


def check_inside(images, data_range):
    """Raise ValueError if float images exceed a data range by more than rounding errors."""
    if data_range is None or images.dtype == torch.uint8:
        return
    low, high = map(float, images.aminmax())
    slack = 1e-6 * (data_range[1] - data_range[0])
    if low < data_range[0] - slack or high > data_range[1] + slack:
        raise ValueError(
            f"X has values from {low:.6g} to {high:.6g}, outside "
            f"data_range=({data_range[0]:g}, {data_range[1]:g}); pass the range of the values, or "
            "clip them."
        )


def check_integers(X, name, is_declared):
    """Raise ValueError for bools and integers other than uint8, unless ``is_declared``.

    X is an array or tensor of images, called ``name`` in the error; ``is_declared`` is True if the
    user gave a data range.
    """
    dtype = getattr(X, "dtype", None)
    if isinstance(dtype, torch.dtype):
        is_integer = not (dtype.is_floating_point or dtype.is_complex) and dtype != torch.uint8
    else:
        is_integer = getattr(dtype, "kind", "f") in "iub" and dtype != np.uint8
        if getattr(dtype, "kind", "f") == "O" and X.ndim == 4:
            is_integer = all(isinstance(value, Integral) for value in X.flat)
    if is_integer and not is_declared and math.prod(X.shape):
        raise ValueError(f"{name} has dtype {dtype_name(dtype)}; {_remedy(X, name)}.")


def _remedy(X, name):
    """Return the advice for integer images with the values of X, for an error."""
    values = X.cpu().numpy() if isinstance(X, torch.Tensor) else X
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= 1:
        return "fit with data_range=(0, 1) to keep their values, with sigma in those units"
    if not 0 <= low <= high <= 255:
        ends = min(low, 0), high
        return f"fit with data_range={ends}, or the full range of the pixels; sigma has their units"
    cast = "byte()" if isinstance(X, torch.Tensor) else "astype(np.uint8)"
    return (
        f"convert images of 8 bits with {name}.{cast}, or fit with data_range=(0, 255) to keep "
        "their values, with sigma in those units"
    )


def warn_once(estimator, topic, message):
    """Warn about a topic once after each fit of an estimator."""
    if topic not in estimator._warned:
        estimator._warned.add(topic)
        warn(message)


def warn_if_far(estimator, z, sigma):
    """Warn if noisy images (n, ...) seem to have other units than the training images.

    ``sigma`` has shape (n,); the estimator is fitted.
    """
    limits = estimator._noisy_limits()
    if limits is None or not len(z):
        return
    low, high = limits
    flat = z.flatten(1)
    noise = _FAR * sigma + (high - low) / 2
    above = flat.amax(1).double() - high > noise
    below = low - flat.amin(1).double() > noise
    is_far = above | below
    if is_far.any():
        row = int(is_far.nonzero()[0])
        warn_once(
            estimator,
            "far",
            f"Z has values from {float(flat[row].min()):.4g} to {float(flat[row].max()):.4g} at "
            f"sigma = {float(sigma[row]):.4g}, more than noise explains: values of the training "
            f"images lie between {low:.4g} and {high:.4g}. Give Z and sigma in the units of the "
            "training images, or fit with data_range=.",
        )
    elif _seem_halved(estimator, flat, sigma):
        warn_once(
            estimator,
            "halved",
            "Z lies in [0, 1], and the training images, uint8 on [-1, 1], do not. Pass Z as uint8 "
            "or as 2 * Z - 1, or fit with data_range=(0, 1); sigma is in the same units.",
        )


def _seem_halved(estimator, flat, sigma):
    """Return True if noisy images seem to be on [0, 1] and the training images are on [-1, 1]."""
    training_set = getattr(estimator, "training_set_", None)
    if training_set is None or not training_set.is_uint8 or estimator.data_range is not None:
        return False
    if estimator._noisy_limits()[0] >= 0:  # of measurements without negative values
        return False
    # large noise hides the range of the images; images without noise show it at any sigma
    noise = torch.where(sigma < 0.1, 5 * sigma, 0.0)
    low, high = flat.amin(1), flat.amax(1)
    if not ((low >= -noise) & (high <= 1 + noise)).all() or high.max() < 0.5:
        return False
    examples = training_set.examples(_MANY)
    n_bright = int((examples.images.flatten(1).amin(1) > 127).sum())
    return ((n_bright + 0.5) / (len(examples) + 1)) ** len(flat) < _UNLIKELY


def warn_if_small(estimator, sigma_max):
    """Warn if the first noise level of a sampler is too small to drown the training images."""
    training_set = getattr(estimator, "training_set_", None)
    if training_set is None:
        return
    examples = training_set.examples(_MANY)
    spread = float(examples.take(slice(0, len(examples)), torch.float64).std(correction=0))
    if sigma_max < _LARGE * spread:
        warn_once(
            estimator,
            "small",
            f"sigma_max={sigma_max:g} is not large compared with the standard deviation "
            f"{spread:.4g} of the pixels, so sampling begins with too little noise; set data_range "
            f"to the range of the images, or pass sigma_max of at least {_LARGE * spread:.3g}.",
        )


def warn_if_unusual(estimator, what):
    """Warn if noise levels for images on [-1, 1] are used with float images of another range.

    ``what`` is the subject of the warning, such as "the noise levels of the schedule".
    """
    limits = getattr(estimator, "_limits", None)
    _, height, width = estimator.image_shape_
    if limits is None or estimator.data_range_ is not None or min(height, width) == 1:
        return
    low, high = limits
    if not _USUAL_WIDTHS[0] <= high - low <= _USUAL_WIDTHS[1]:
        warn_once(
            estimator,
            what,
            f"{what} suit images on [-1, 1], and X has values from {low:.4g} to {high:.4g}; pass "
            "data_range=(low, high), the range of the images, to scale the noise levels.",
        )


def value_limits(images, data_range):
    """Return the least and largest value of float images, or the data range of uint8 images."""
    if images.dtype == torch.uint8:
        return data_range
    low, high = images.aminmax()
    return float(low), float(high)
