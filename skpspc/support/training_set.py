"""The training set: images and weights, stored once and without conversion."""

import math
from functools import cached_property, partial
from itertools import product

import numpy as np
import torch

from .._mapped import check_copy, check_unchanged
from .._repr import dtype_name
from .._state import NumpyState
from .devices import Devices, given
from .memory import rows_that_fit
from .windows import Squares

# Values of the uint8 pixels 0 and 255, unless an estimator has a `data_range`.
DEFAULT_RANGE = (-1.0, 1.0)


# Advice where images in a mapped file would be copied to memory.
_WRITE = "write the images that you need to a file of their own and fit on it"
_SUBSET = "sort X by class if it is a class, fit on fewer images if it is for a calibration"
_SEARCH = "fit on fewer images"
_APPEND = "write all images to one .npy file and pass it to fit"


def appended(images, more):
    """Return images (N, C, H, W) followed by more images; raise if mapped images do not fit."""
    for mapped in (images, more):
        check_unchanged(mapped)
        check_copy(mapped, len(images) + len(more), "Adding images to the training set", _APPEND)
    return torch.cat([images, more])


def to_compute(images, dtype, data_range=DEFAULT_RANGE):
    """Convert images to floats of ``dtype``.

    A uint8 value u becomes ``low + u * (high - low) / 255``; floats keep their values. Never write
    to the result: images of the requested dtype are returned without a copy.
    """
    if images.dtype == torch.uint8:
        return images.to(dtype).div_(steps_per_unit(data_range)).add_(data_range[0])
    return images.to(dtype)


def steps_per_unit(data_range):
    """Return the number of uint8 steps per unit of the data range."""
    low, high = data_range
    return 255 / (high - low)


class TrainingSet(NumpyState):
    """Training images and their weights, read in chunks; images of weight zero are removed.

    Parameters
    ----------
    images : Tensor of shape (N, C, H, W)
        uint8 or float images. Copied only if images of weight zero are removed.
    sample_weight : Tensor of shape (N,) or None
        Non-negative float64 weights with a positive sum; None: equal weights.
    data_range : tuple of (low, high), default (-1, 1)
        Values of the uint8 pixels 0 and 255; floats keep their values.
    """

    _not_kept: tuple[str, ...] = (
        "n_images",
        "log_weight",
        "log_uniform",
        "log_weight_range",
        "abs_max",
        "extremes",
        "span",
        "centre",
        "centred_norms",
        "example_moments",
    )

    # `Facts` about the whole training set if this one is a shard of it, else None.
    facts = None

    def __init__(self, images, sample_weight=None, data_range=DEFAULT_RANGE):
        if sample_weight is not None and not (sample_weight > 0).all():
            positive = sample_weight > 0
            check_copy(images, int(positive.sum()), "Leaving out images of weight zero", _WRITE)
            images, sample_weight = images[positive], sample_weight[positive]
        self.images = images
        self.sample_weight = sample_weight
        self.data_range = data_range

    def _of(self, images, sample_weight=None):
        """Return a `TrainingSet` of other images with the present data range."""
        return TrainingSet(images, sample_weight, self.data_range)

    def _derived(self, images):
        """Return a `TrainingSet` of crops or copies of the images, with their weights."""
        other = self._of(images, self.sample_weight)
        # a shard of a training set keeps numbers of the whole; abs_max would be another pass
        for name in ("n_images", "log_weight", "log_uniform", "log_weight_range", "abs_max"):
            setattr(other, name, getattr(self, name))
        return other

    def with_images(self, images):
        """Return a `TrainingSet` of other images (N, C, H, W), floats, with the present weights."""
        other = TrainingSet(images, self.sample_weight)
        for name in ("n_images", "log_weight", "log_uniform", "log_weight_range"):
            setattr(other, name, getattr(self, name))
        return other

    def as_shard(self, facts):
        """Return the images and weights as a shard of a larger training set.

        ``facts`` are the `Facts` of the larger training set. Posterior weights then use the sample
        weights and the value range of the larger set. Images of a shard have positive weights.
        """
        shard = object.__new__(type(self))
        vars(shard).update(vars(self))
        shard._pin(facts)
        return shard

    def _pin(self, facts):
        """Replace cached properties by numbers of the whole training set, of which it is a shard.

        `subset` and `extended` return training sets of their own, without these numbers.
        """
        vars(self).update(facts.of_shard(self), facts=facts)
        vars(self).pop("centred_norms", None)  # depends on the centre

    def __setstate__(self, state):
        super().__setstate__(state)
        if self.facts is not None:
            self._pin(self.facts)

    def __sizeof__(self):
        """Return the bytes of images and weights, by which Dask decides where to compute."""
        weight = self.sample_weight
        return self.images.nbytes + (0 if weight is None else weight.nbytes)

    @property
    def is_uint8(self):
        """True if the images are stored as uint8."""
        return self.images.dtype == torch.uint8

    @property
    def float_dtype(self):
        """torch.float64 for images in float64, otherwise torch.float32, which holds all values."""
        return torch.float64 if self.images.dtype == torch.float64 else torch.float32

    def to_compute(self, raw, dtype):
        """Convert stored pixels to floats of ``dtype``; never write to the result."""
        return to_compute(raw, dtype, self.data_range)

    def __len__(self):
        return len(self.images)

    def __repr__(self):
        weighted = "" if self.sample_weight is None else ", weighted"
        return (
            f"{type(self).__name__}(n={len(self)}, image_shape={self.image_shape}, "
            f"dtype={dtype_name(self.images.dtype)}{weighted})"
        )

    @property
    def image_shape(self):
        """Shape (C, H, W) of one image."""
        return tuple(self.images.shape[1:])

    @property
    def n_values(self):
        """Number of values of one image, C * H * W."""
        return math.prod(self.image_shape)

    @property
    def device(self):
        """Device of the images, and of computations with the images."""
        return self.images.device

    @property
    def executor(self):
        """Executor of functions of the shards; the training set is its only shard."""
        return Devices([self])

    @property
    def sizes(self):
        """Numbers of images in the shards, a list; mirror images and moved images do not count."""
        return [len(self.images)]

    @property
    def first_images(self):
        """Number of the first image of each shard, a list of int."""
        return np.cumsum([0, *self.sizes[:-1]]).tolist()

    @property
    def unmoved(self):
        """The training set without moved copies of its images."""
        return self

    def log_covered(self, windows):
        """Return the log of the fraction of copies of an image that each window compares.

        0.0, or a Tensor (K,), float64, for K windows that do not compare all moved images.
        """
        return 0.0

    @property
    def answers(self):
        """Images of which posteriors are means: the compared images, unless they are measured."""
        return self

    @cached_property
    def n_images(self):
        """Number of images of the training set; of a shard, of all shards."""
        return len(self)

    @cached_property
    def log_weight(self):
        """Log of weights that sum to one, (N,) float64; None for equal weights."""
        weight = self.sample_weight
        if weight is None or (weight == weight[0]).all():
            return None
        return weight.log() - weight.sum().log()

    @cached_property
    def log_uniform(self):
        """Term to add to a log normaliser: ``-log N`` if `log_weight` is None, else 0."""
        return 0.0 if self.log_weight is not None else -math.log(len(self))

    @cached_property
    def log_weight_range(self):
        """Difference of the largest and the smallest log weight; 0 for equal weights."""
        weight = self.log_weight
        return 0.0 if weight is None else float(weight.max() - weight.min())

    def prior(self, rows):
        """Return ``log_weight[rows]``, or None for equal weights."""
        return None if self.log_weight is None else self.log_weight[rows]

    def extended(self, images, sample_weight=None):
        """Return a training set with ``images`` appended.

        New weights are relative to the present weights; None means weight 1 for every image.
        """
        old, new = self.sample_weight, sample_weight
        if old is not None or new is not None:
            ones = partial(torch.ones, dtype=torch.float64, device=self.device)
            old = ones(len(self)) if old is None else old
            new = ones(len(images)) if new is None else new
            sample_weight = torch.cat([old, new])
        return self._of(appended(self.images, images), sample_weight)

    def subset(self, rows):
        """Return the images ``rows`` with their weights: a view for a slice, a copy for indices."""
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows, device=self.device)
            n_rows = int(rows.sum()) if rows.dtype == torch.bool else len(rows)
            check_copy(self.images, n_rows, "A subset of the training set", _SUBSET)
        weight = self.sample_weight
        return self._of(self.images[rows], None if weight is None else weight[rows])

    def examples(self, n):
        """Return about n images, evenly spaced, as a `TrainingSet`."""
        return self.subset(slice(None, None, max(1, len(self) // n)))

    def mirrored(self):
        """Return the images followed by their left-right mirror images, without a copy."""
        return MirroredTrainingSet(self)

    def crop(self, top, left, height, width):
        """Return one crop of every image as a view."""
        area = ..., slice(top, top + height), slice(left, left + width)
        return self._derived(self.images[area])

    def contiguous(self):
        """Return a copy with contiguous images, or itself if they are contiguous."""
        if self.images.is_contiguous():
            return self
        check_copy(self.images, len(self.images), "A search among crops", _SEARCH)
        return self._derived(self.images.contiguous())

    def reduced(self, function, merge, *args):
        """Return the merged results of ``function(shard, *args)``.

        Parameters
        ----------
        function : callable
            A function of a module. Its results are small, or as large as a covariance.
        merge : callable
            Maps a list of results, which may be on several devices, to one result. Associative up
            to rounding. Not called for a single shard.
        *args : any
            Tensors among them are on the device of the training set, not of a shard. An `Each`
            holds one argument for every shard.
        """
        with self.executor.step() as step:
            (result,) = step.values([step.reduced(function, merge, *given(step, args))])
        return result

    def by_image(self, function, *args):
        """Return the results of ``function(shard, *args)``, tensors with one row for each image.

        See `reduced` for the parameters.
        """
        with self.executor.step() as step:
            results = step.values(step.map(function, *given(step, args)))
        return torch.cat([result.to(self.device) for result in results])

    def mapped(self, function, common, *args):
        """Return the training set ``function(training_set, common, *args)``.

        The function keeps the number of images. Shards stay where they are, and keep the argument
        ``common`` for later calls. See `reduced` for the other parameters.
        """
        return function(self, common, *args)

    def add_to(self, sums):
        """Add all images to running sums, `Moments`."""
        sums.add_images(self)

    def fetched(self, rows):
        """Return images in one place, as stored, of rows that are a slice or sorted indices."""
        return self.stored(rows)

    def together(self):
        """Return the training set in one place."""
        return self

    def slices(self, n_rows):
        """Yield slices of at most ``n_rows`` images that together cover the training set."""
        n = len(self)
        return (slice(start, min(start + n_rows, n)) for start in range(0, n, n_rows))

    def stored(self, rows):
        """Return the images ``rows`` (a slice or indices), (m, C, H, W), in the stored dtype."""
        if isinstance(rows, slice):
            return self.images[rows]
        return self.images.index_select(0, rows)  # faster than [rows]

    def values(self, columns):
        """Return the values ``columns``, a slice, of every flat image, (N, m), as stored."""
        return self.images.flatten(1)[:, columns]

    def take(self, rows, dtype):
        """Return the images ``rows`` (a slice or indices), (m, C, H, W), as floats of ``dtype``.

        The result may be a view of the training set: never write to it.
        """
        return self.to_compute(self.stored(rows), dtype)

    @cached_property
    def abs_max(self):
        """Largest absolute value of any pixel; for uint8 images, of the data range."""
        if self.is_uint8:
            return max(map(abs, self.data_range))
        low, high = self.images.aminmax()
        return max(abs(float(low)), abs(float(high)))

    def check_unchanged(self):
        """Raise ValueError if the images are mapped to a file that was cut short or written to."""
        check_unchanged(self.images)

    @cached_property
    def extremes(self):
        """Smallest and largest value of every pixel, two Tensors of shape (C, H, W), float64."""
        low, high = self.images.amin(0), self.images.amax(0)
        return self.to_compute(low, torch.float64), self.to_compute(high, torch.float64)

    @cached_property
    def span(self):
        """Largest difference between two values of one pixel, at least the smallest float."""
        low, high = self.extremes
        return max(float((high - low).max()), torch.finfo(torch.float64).tiny)

    @property
    def unit(self):
        """Number of stored steps per unit of the values; 1 for floats."""
        return steps_per_unit(self.data_range) if self.is_uint8 else 1.0

    @property
    def zero(self):
        """Value of a pixel that is stored as 0: the value of a stored u is ``u / unit + zero``."""
        return self.data_range[0] if self.is_uint8 else 0.0

    @cached_property
    def centre(self):
        """Value that `centred` subtracts: middle of the data range, or mean of float images."""
        if self.is_uint8:
            return sum(self.data_range) / 2
        # in chunks: torch.mean would convert all images at once
        n_rows = rows_that_fit(8 * self.images[0].numel(), len(self.images), what="One image")
        total = sum(float(chunk.sum(dtype=torch.float64)) for chunk in self.images.split(n_rows))
        return total / self.images.numel()

    @cached_property
    def example_moments(self):
        """Mean image (C, H, W), float64, and mean variance of a pixel, of 64 images.

        The images are evenly spaced in the training set. Values are in stored steps. Compiled
        kernels subtract a Wiener estimate from all squared differences. Shards of a training set
        need the same estimate, so that the logits of an image do not depend on its shard.
        """
        return example_moments(self.images)

    @property
    def stored_centre(self):
        """Stored value of a pixel of value `centre`."""
        return 127.5 if self.is_uint8 else self.centre

    def centred(self, rows, out):
        """Write ``(x - centre) * unit`` of the images ``rows``, a slice, to a buffer (m, C, H, W).

        Products of centred values cancel less, and a reused buffer stays in the cache.
        """
        raw = self.stored(rows)
        return self.write_centred(raw, out[: len(raw)])

    def write_centred(self, raw, out):
        """Write ``(x - centre) * unit`` of stored pixels to a buffer."""
        # conversion within the subtraction is slower
        return out.copy_(raw).sub_(self.stored_centre)

    @cached_property
    def centred_norms(self):
        """Euclidean norms of the `centred` images, (N,) float64."""
        norms = torch.empty(len(self), dtype=torch.float64, device=self.device)
        n_rows = rows_that_fit(2 * 8 * self.n_values, 512, what="One training image")
        buffer = torch.empty((n_rows, *self.image_shape), dtype=torch.float64, device=self.device)
        for rows in self.slices(len(buffer)):
            norms[rows] = self.centred(rows, buffer).flatten(1).norm(dim=1)
        return norms


def example_moments(images):
    """Return the mean image and the mean variance of a pixel, of 64 images (N, C, H, W).

    See `TrainingSet.example_moments`.
    """
    examples = [images[i].cpu().numpy() for i in evenly_spaced(len(images), 64)]
    # one image at a time, as float64 images are large
    mean = sum(image.astype(np.float64) for image in examples) / len(examples)
    return mean, sum(np.square(image - mean).mean() for image in examples) / len(examples)


def evenly_spaced(n, n_wanted):
    """Return at most ``n_wanted`` evenly spaced indices of n images."""
    return np.linspace(0, n - 1, min(n_wanted, n)).astype(int)


class MirroredTrainingSet(TrainingSet):
    """A training set that also contains the left-right mirror image of every image.

    Row ``N / 2 + i`` is the mirror image of row i. Mirror images are computed in chunks when they
    are read. ``images`` holds the N / 2 images without mirror images; all other attributes and
    methods count both halves.
    """

    def __init__(self, training_set):
        self._plain = training_set
        weight = training_set.sample_weight
        self.images = training_set.images
        self.sample_weight = None if weight is None else torch.cat([weight, weight])
        self.data_range = training_set.data_range

    def __getstate__(self):
        state = {"training_set": self._plain}  # a pickle holds the images of both once
        return state if self.facts is None else {**state, "facts": self.facts}

    def __setstate__(self, state):
        MirroredTrainingSet.__init__(self, state["training_set"])
        if "facts" in state:
            self._pin(state["facts"])

    @property
    def plain(self):
        """The training set without mirror images."""
        return self._plain

    def __len__(self):
        return 2 * len(self.images)

    def extended(self, images, sample_weight=None):
        """Return a mirrored training set with ``images`` appended; see `TrainingSet.extended`."""
        return MirroredTrainingSet(self._plain.extended(images, sample_weight))

    def subset(self, rows):
        """Return a copy of the images and mirror images ``rows``, with their weights."""
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows, device=self.device)
        rows = torch.arange(len(self), device=self.device)[rows]
        check_copy(self.images, len(rows), "A subset with mirror images", _SUBSET)
        weight = self.sample_weight
        return self._of(self.stored(rows), None if weight is None else weight[rows])

    def stored(self, rows):
        """Return the images ``rows`` (a slice or indices), (m, C, H, W), in the stored dtype."""
        n = len(self.images)
        if isinstance(rows, slice):
            mirrored = self.images[max(rows.start, n) - n : max(rows.stop, n) - n].flip(-1)
            return torch.cat([self.images[rows], mirrored]) if rows.start < n else mirrored
        images = self.images.index_select(0, rows % n)
        return images.where((rows < n).view(-1, 1, 1, 1), images.flip(-1))

    def values(self, columns):
        """Return the values ``columns``, a slice, of every flat image, (N, m), as stored."""
        number = torch.arange(self.n_values, device=self.device).view(self.image_shape)
        flat = self.images.flatten(1)
        return torch.cat([flat[:, columns], flat[:, number.flip(-1).flatten()[columns]]])

    def crop(self, top, left, height, width):
        """Return one crop of every image and mirror image as a copy."""
        check_copy(
            self.images[:, :, :height, :width], len(self), "A crop with mirror images", _SEARCH
        )
        # start of the crop in an image, and in the image whose mirror image is cropped
        starts = left, self.image_shape[2] - left - width
        crops, opposite = (
            self.images[..., top : top + height, start : start + width] for start in starts
        )
        return self._derived(torch.cat([crops, opposite.flip(-1)]))

    @cached_property
    def extremes(self):
        """Smallest and largest value of every pixel, two Tensors of (C, H, W), float64."""
        low, high = self._of(self.images).extremes
        return torch.minimum(low, low.flip(-1)), torch.maximum(high, high.flip(-1))


class TranslatedTrainingSet(TrainingSet):
    """A training set that also contains all images moved by up to ``max_shift`` pixels.

    Images are moved on a canvas ``image_shape`` (C, H, W), by default of their own size. Moves are
    along rows and columns; ``moves`` lists them as (down, right), with (0, 0) first. Row
    ``k * n + i`` is row i of the n rows of the training set, which may have mirror images, moved by
    ``moves[k]``. A moved image has no pixels beyond the edges of the original: a window is compared
    only for moves that cover the window, see `covers`. Moved images are computed in chunks when
    they are read.
    """

    def __init__(self, training_set, max_shift, image_shape=None):
        self._plain, self._max_shift = training_set, max_shift
        self._canvas = training_set.image_shape if image_shape is None else tuple(image_shape)
        sides = zip(training_set.image_shape[1:], self._canvas[1:], strict=True)
        shifts = product(
            *(range(-min(max_shift, side - 1), min(max_shift, own - 1) + 1) for own, side in sides)
        )
        self.moves = sorted(shifts, key=lambda move: move != (0, 0))
        weight = training_set.sample_weight
        self.images = training_set.images
        self.sample_weight = None if weight is None else weight.repeat(len(self.moves))
        self.data_range = training_set.data_range

    def __getstate__(self):
        return {"training_set": self._plain, "max_shift": self._max_shift}

    def __setstate__(self, state):
        TranslatedTrainingSet.__init__(self, **state)

    @property
    def image_shape(self):
        """Shape (C, H, W) of the canvas."""
        return self._canvas

    def resized(self, image_shape):
        """Return the images moved on a canvas of another height and width."""
        return TranslatedTrainingSet(self._plain, self._max_shift, image_shape)

    def __len__(self):
        return len(self.moves) * len(self._plain)

    @property
    def unmoved(self):
        """The training set without moved copies of its images."""
        return self._plain

    def moves_of(self, rows):
        """Return the index of the move of each row (a slice or indices), (m,) int64."""
        return torch.arange(len(self), device=self.device)[rows] // len(self._plain)

    def covers(self, windows):
        """Return a mask that is True if a move covers a window.

        It is (n_moves, K) for `Masks`, and (n_moves, rows, columns) for `Squares`. A move covers a
        window if the moved image has pixels at all coordinates of the window's query and response.
        """
        if isinstance(windows, Squares):
            return self._covers_squares(windows)
        used = (windows.query > 0) | (windows.response > 0)
        used = used.any(1)  # (K, H, W)
        inside = torch.zeros(len(self.moves), *used.shape[1:], dtype=torch.bool, device=used.device)
        for area, move in zip(inside, self.moves, strict=True):
            area[self._areas(*move)[0]] = True
        return ~torch.einsum("khw,mhw->mk", used.double(), (~inside).double()).bool()

    def _covers_squares(self, windows):
        """Return the mask of `covers` for `Squares`."""
        sides = windows.h, windows.w
        grid = [side - own + 1 for side, own in zip(self.image_shape[1:], sides, strict=True)]
        mask = torch.zeros(len(self.moves), *grid, dtype=torch.bool, device=self.device)
        for covered, move in zip(mask, self.moves, strict=True):
            (_, *area), _ = self._areas(*move)
            # an area smaller than a window has no corners
            ends = [max(a.start, a.stop - n + 1) for a, n in zip(area, sides, strict=True)]
            covered[tuple(slice(a.start, end) for a, end in zip(area, ends, strict=True))] = True
        return mask

    def log_covered(self, windows):
        """Return the log of the fraction of moves that cover each window, (K,) float64."""
        return self.covers(windows).flatten(1).double().mean(0).log()

    def stored(self, rows):
        """Return the images ``rows`` (a slice or indices), (m, C, H, W), in the stored dtype."""
        moves = self.moves_of(rows)
        numbers = torch.arange(len(self), device=self.device)[rows] % len(self._plain)
        images = self._plain.stored(numbers)
        moved = images.new_zeros(len(images), *self.image_shape)
        for number in moves.unique().tolist():
            target, origin = self._areas(*self.moves[number])
            at = moves == number
            copies = torch.zeros_like(moved[at])
            copies[target] = images[at][origin]
            moved[at] = copies
        return moved

    def _areas(self, down, right):
        """Return indices of the pixels of a moved image, and of their origins in the image."""

        def along(shift, side, origin_side):
            return slice(max(0, -shift), min(side, origin_side - shift))

        sides = list(zip(self.image_shape[1:], self.images.shape[2:], strict=True))
        shifts = list(zip((down, right), sides, strict=True))
        target = [along(shift, side, own) for shift, (side, own) in shifts]
        origin = [along(-shift, own, side) for shift, (side, own) in shifts]
        return (..., *target), (..., *origin)


class Pyramid(TrainingSet):
    """A training set with reduced copies of its images, for windows that compare patches.

    Attributes
    ----------
    levels : list of TrainingSet
        The images, reduced by each factor of ``scales`` (int; 1: the images themselves). uint8
        images are rounded to uint8.
    """

    def __init__(self, training_set, scales):
        super().__init__(training_set.images, training_set.sample_weight, training_set.data_range)
        self._plain, self._scales = training_set, list(scales)
        self.levels = [
            training_set if scale == 1 else training_set._derived(reduced(self.images, scale))
            for scale in scales
        ]

    def __getstate__(self):
        return {"training_set": self._plain, "scales": self._scales}

    def __setstate__(self, state):
        Pyramid.__init__(self, **state)


def reduced(images, factor):
    """Return images (n, C, H, W) with the means of ``factor`` x ``factor`` pixels, in their dtype.

    Rows and columns beyond a multiple of the factor are cut off. An axis of length 1 is kept.
    """
    window = [1 if side == 1 else factor for side in images.shape[2:]]
    pool = torch.nn.AvgPool2d((window[0], window[1]))
    means = torch.stack([pool(image[None].to(torch.float64))[0] for image in images])
    return (means.round() if images.dtype == torch.uint8 else means).to(images.dtype)
