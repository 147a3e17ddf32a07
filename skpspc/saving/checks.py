"""Checks of loaded objects: sizes that kernels rely on must agree, whatever a file holds."""

import math
import numbers

import torch

from .._units import checked_range
from ..denoisers.base import Denoiser
from ..denoisers.blend import Blend
from ..denoisers.flexible import ResolvedWindows
from ..denoisers.local_score import CentredBySigma, check_size
from ..denoisers.patch import CropPriors
from ..denoisers.pspc import SquaresBySigma
from ..denoisers.single_image import SquaresAnywhereBySigma
from ..denoisers.smoothed import SmoothedPrior
from ..posterior import Prior
from ..support import Centred, Masks, Pyramid, Squares, SquaresAnywhere
from .classes import CLASSES

_IMAGE_DTYPES = (torch.uint8, torch.float32, torch.float64)


def check(condition, fault):
    """Raise ValueError, with the words of a fault, if a condition does not hold."""
    if not condition:
        raise ValueError(fault)


def _check_training_set(training_set):
    images, weight = training_set.images, training_set.sample_weight
    check(images.ndim == 4 and images.numel(), f"training images have shape {tuple(images.shape)}")
    check(images.dtype in _IMAGE_DTYPES, f"training images have dtype {images.dtype}")
    low, high = images.aminmax()
    check(math.isfinite(low) and math.isfinite(high), "training images are not finite")
    checked_range(training_set.data_range, "data_range")
    if weight is not None:
        check(weight.shape == images.shape[:1], "there is not one weight for each image")
        check(weight.dtype == torch.float64, f"the weights have dtype {weight.dtype}")
        check(weight.isfinite().all() and (weight > 0).all(), "a weight is not positive")


def _check_labels(labels):
    classes, codes = labels.classes, labels.codes
    check(classes.ndim == codes.ndim == 1 and codes.dtype.kind == "i", "labels have no codes")
    check(len(codes) and 0 <= codes.min() <= codes.max() < len(classes), "a label has no class")


def _check_gaussian(gaussian):
    n_kept = len(gaussian.eigenvalues)
    check(gaussian.components.shape == (n_kept, len(gaussian.mean)), "components do not fit")
    check(gaussian.sampled.shape == gaussian.eigenvalues.shape, "variances do not fit")
    for tensor in (gaussian.mean, gaussian.components, gaussian.eigenvalues, gaussian.sampled):
        check(tensor.dtype == torch.float64, f"a Gaussian has dtype {tensor.dtype}")


def _check_stationary(gaussian):
    mean, mixing = gaussian.mean, gaussian.mixing
    check(mixing.ndim == 4 and mixing.shape[0] == mixing.shape[1], "channels are not mixed")
    n_values = mixing.shape[1:].numel()
    check(mean.shape == gaussian.eigenvalues.shape == (n_values,), "variances do not fit")
    for tensor in (mean, mixing, gaussian.eigenvalues):
        check(tensor.dtype == torch.float64, f"a StationaryGaussian has dtype {tensor.dtype}")


def _check_prior(prior):
    if prior.source is None:  # crops, which `CropPriors` adds
        return
    shape = prior.source.image_shape
    _check_windows(prior.windows, shape)
    if isinstance(prior.source, Pyramid):
        for level in prior.source.levels:
            _check_windows(prior.windows, level.image_shape)
    if prior.gaussian is not None:
        check(len(prior.gaussian.mean) == math.prod(shape), "mean and images differ in size")


def _check_windows(windows, shape):
    """Raise if windows do not fit images of a shape (C, H, W)."""
    _channels, height, width = shape
    observed = getattr(windows, "observed", None)
    if observed is not None:
        fits = observed.shape == shape and observed.dtype == torch.bool
        check(fits, "the mask of observed pixels does not fit images")
    if isinstance(windows, (Squares, SquaresAnywhere)):
        sides = windows.h, windows.w
        check(all(isinstance(side, numbers.Integral) for side in sides), "squares have no sides")
        check(1 <= windows.h <= height and 1 <= windows.w <= width, "squares do not fit images")
        for name in ("query_ramp", "response_ramp"):
            ramp = getattr(windows, name, (1, 1))
            check(all(isinstance(rise, int) for rise in ramp), "squares have no ramps")
            fits = (1 <= rise <= (own + 1) // 2 for rise, own in zip(ramp, sides, strict=True))
            check(all(fits), "ramps do not fit squares")
        stride = getattr(windows, "stride", 1)
        check(isinstance(stride, int) and stride >= 1, "squares have no distance")
    elif isinstance(windows, SquaresAnywhereBySigma):
        smallest = windows.smallest
        fits = all(1 <= own <= side for own, side in zip(smallest, shape, strict=True))
        check(fits and windows.stride >= 1, "windows are for images of another shape")
    elif isinstance(windows, Centred):
        check_size(windows.size, windows.boundary, shape)
    elif isinstance(windows, Masks):
        _check_masks(windows, shape)
    elif isinstance(windows, ResolvedWindows):
        check(windows._shape == (height, width), "windows do not fit images")
        for precision in windows._kept.values():
            check(precision.shape == (height * width, height, width), "windows do not fit images")
    elif isinstance(windows, (SquaresBySigma, CentredBySigma)) or hasattr(windows, "image_shape"):
        check(windows.image_shape == shape, "windows are for images of another shape")


def _check_masks(masks, shape):
    channels, height, width = shape
    shapes = [tuple(part.shape[1:]) for part in (masks.query, masks.response) if part is not None]
    check(all(s in (shape, (1, height, width)) for s in shapes), "masks do not fit images")
    if masks.response is None:
        sizes = height * width, channels * height * width
        check(len(masks.query) in sizes, "there is not one mask for each pixel")
    else:
        check(len(masks.query) == len(masks.response), "masks differ in number")


def _check_schedule(schedule):
    type(schedule)(**vars(schedule))


def _check_estimator(estimator):
    training_set = getattr(estimator, "training_set_", None)
    shapes = [] if training_set is None else [training_set.image_shape]
    shapes.extend(_source_shapes(getattr(estimator, "_prior", None)))
    check(all(s == estimator.image_shape_ for s in shapes), "images differ in shape")


def _source_shapes(prior):
    """Yield the shape of the images of each training set that a prior compares."""
    if isinstance(prior, Blend):
        for member in prior.members:
            yield from _source_shapes(member)
    elif isinstance(prior, SmoothedPrior):
        yield from _source_shapes(prior.prior)
    elif isinstance(prior, CropPriors):
        yield prior.training_set.image_shape
    elif isinstance(prior, Prior):
        yield prior.source.image_shape


CHECKS = {
    "BandwidthSchedule": _check_schedule,
    "Gaussian": _check_gaussian,
    "Labels": _check_labels,
    "NearestStep": _check_schedule,
    "PatchSchedule": _check_schedule,
    "Prior": _check_prior,
    "StationaryGaussian": _check_stationary,
    "TrainingSet": _check_training_set,
    **{name: _check_estimator for name, each in CLASSES.items() if issubclass(each, Denoiser)},
}
