"""Measurements of images: masks of observed pixels, operators, and measured training images."""

import math

import numpy as np
import torch

from .._repr import described
from .memory import rows_that_fit
from .training_set import TrainingSet, appended

_CHUNK_ROWS = 256  # training images that are measured together


class Inpainting:
    """Measurement of some coordinates of an image; noisy images have any values elsewhere.

    Attributes
    ----------
    observed : Tensor of shape (C, H, W), bool
        True at the coordinates that are measured.
    image_shape, measured_shape : tuple of (C, H, W)
        Shape of one image.
    block : tuple of two int
        (1, 1): every pixel answers for itself.
    """

    block = (1, 1)

    def __init__(self, observed):
        self.observed = observed
        self.image_shape = self.measured_shape = tuple(observed.shape)

    def measured(self, images):
        """Return the values (n, C, H, W) of which noisy images show a noisy copy."""
        return images

    def in_blocks(self, images):
        """Return images in the layout of the training set."""
        return images

    def placed(self, answers):
        """Return the denoised images, from posterior means in the layout of the training set."""
        return answers


class Operator:
    """Measurement of images by a function, linear or not.

    A measurement has h x w pixels, and an image H x W pixels with H a multiple of h and W of w.
    Pixel (i, j) of a measurement answers for block (i, j) of the image, of H / h x W / w pixels.

    Parameters
    ----------
    function : callable
        Maps images (m, C, H, W), floats, to measurements (m, c, h, w).
    image_shape : tuple of (C, H, W)

    Attributes
    ----------
    observed : None
        Every value of a measurement counts.
    measured_shape : tuple of (c, h, w)
        Shape of the measurement of one image.
    block : tuple of two int
        Height and width of the blocks.
    """

    observed = None

    def __init__(self, function, image_shape, measured_shape):
        self._function, self.image_shape = function, image_shape
        self.measured_shape = measured_shape
        sides = zip(image_shape[1:], measured_shape[1:], strict=True)
        self.block = tuple(side // own for side, own in sides)

    def measured(self, images):
        """Return the measurements (n, c, h, w) of float images (n, C, H, W)."""
        return _measurements(self._function, images)

    def in_blocks(self, images):
        """Return images (n, C, H, W) with the pixels of a block as channels, (n, C * b, h, w)."""
        if self.block == (1, 1):
            return images
        _, height, width = self.measured_shape
        blocks = images.unflatten(3, (width, -1)).unflatten(2, (height, -1))
        return blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    def placed(self, answers):
        """Return images (..., C, H, W) from means (..., C * b, h, w) of images in blocks."""
        if self.block == (1, 1):
            return answers
        *first, _, height, width = answers.shape
        blocks = answers.reshape(math.prod(first), -1, *self.block, height, width)
        return blocks.permute(0, 1, 4, 2, 5, 3).reshape(*first, *self.image_shape)


class PairedTrainingSet(TrainingSet):
    """Training images that are compared with noisy images, and images to average instead.

    Parameters
    ----------
    images : Tensor of shape (N, c, h, w)
        Compared images.
    answers : TrainingSet
        Images (N, C, h, w) of which posteriors are means, with their weights.
    """

    def __init__(self, images, answers):
        super().__init__(images, answers.sample_weight, answers.data_range)
        self._answers = answers

    @property
    def answers(self):
        """Images of which posteriors are means."""
        return self._answers

    def crop(self, top, left, height, width):
        """Return one crop of every pair of images as a view."""
        area = top, left, height, width
        cropped = PairedTrainingSet(super().crop(*area).images, self.answers.crop(*area))
        cropped.abs_max = self.abs_max
        return cropped


class MeasuredTrainingSet(PairedTrainingSet):
    """Measurements of training images, with the training images in blocks as answers.

    Measurements are float64 for images of float64, otherwise float32. A pickle has none: they are
    computed again when it is read.

    Parameters
    ----------
    operator : Operator
    training_set : TrainingSet
    present : MeasuredTrainingSet, default None
        Measurements of the first images of the training set by the same operator.
    """

    def __init__(self, operator, training_set, present=None):
        self._made_from = operator, training_set
        images = _all_measurements(operator, training_set, 0 if present is None else len(present))
        if present is not None:
            images = appended(present.images, images)
        answers = training_set
        if operator.block != (1, 1):
            answers = training_set._derived(operator.in_blocks(training_set.images))
        super().__init__(images, answers)

    def __reduce__(self):
        return MeasuredTrainingSet, self._made_from


def checked_operator(operator, training_set):
    """Return an estimator's parameter ``operator`` as `Inpainting`, `Operator` or None.

    Raises ValueError if an array is no mask of the images, or if a callable does not return
    measurements of the first training image. A mask without missing pixels is None.
    """
    if operator is None:
        return None
    if callable(operator):
        first = training_set.take(slice(0, 1), training_set.float_dtype)
        measured, again = _measurements(operator, first), _measurements(operator, first)
        if not torch.equal(measured, again):
            raise ValueError(
                "operator measures the first training image differently in two calls; pass a "
                "callable without noise, such as the method A of a deepinv physics."
            )
        return Operator(operator, training_set.image_shape, tuple(measured.shape[1:]))
    observed = _checked_mask(operator, training_set.image_shape).to(training_set.device)
    return None if observed.all() else Inpainting(observed)


def _checked_mask(mask, image_shape):
    """Return a mask of observed pixels as a bool Tensor (C, H, W)."""
    array = np.asarray(mask.cpu() if isinstance(mask, torch.Tensor) else mask)
    channels, *sides = image_shape
    shapes = [tuple(sides), (1, *sides), image_shape]
    if array.shape not in shapes:
        raise ValueError(
            f"operator has shape {array.shape}, but a mask of images of shape {image_shape} "
            f"(channels, height, width) has shape {shapes[0]} or {image_shape}; pass a callable "
            "for other measurements."
        )
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ValueError(
            "operator must be a callable, or a mask of True (1) at observed and False (0) at "
            f"missing pixels, got {described(mask)}; pass a callable for other measurements."
        )
    return torch.as_tensor(array != 0).expand(channels, *sides).contiguous()


def _all_measurements(operator, training_set, start):
    """Return the measurements of all training images from the index ``start`` on."""
    n, dtype = len(training_set), training_set.float_dtype
    shape, device = operator.measured_shape, training_set.device
    row_bytes = 3 * 8 * (training_set.n_values + math.prod(shape))
    n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
    images = torch.empty(n - start, *shape, dtype=dtype, device=device)
    for first in range(start, n, n_rows):
        rows = slice(first, min(first + n_rows, n))
        measured = operator.measured(training_set.take(rows, dtype))
        if measured.shape[1:] != shape:
            raise ValueError(
                f"operator measures images of equal shape by {shape} and by "
                f"{tuple(measured.shape[1:])} values; pass a callable that treats all images alike."
            )
        images[first - start : rows.stop - start] = measured
    return images


@torch.no_grad()
def _measurements(function, images):
    """Return the measurements (m, c, h, w) of images (m, C, H, W); raise if they have no blocks."""
    measured = function(images.clone())  # a function that writes to its argument changes no image
    got = described(measured)
    if isinstance(measured, torch.Tensor) and measured.is_floating_point():
        sides = zip(images.shape[2:], measured.shape[2:], strict=False)
        is_image = measured.ndim == 4 and len(measured) == len(images) and measured.numel() > 0
        if is_image and all(side % own == 0 for side, own in sides):
            if measured.isfinite().all():
                return measured
            got = "NaN or infinity"
    raise ValueError(
        f"operator must map float images {tuple(images.shape)} to a float tensor "
        f"({len(images)}, channels, h, w) of finite values, with h a divisor of "
        f"{images.shape[2]} and w of {images.shape[3]}, got {got}; pad or crop the measurement."
    )
