r"""Mean, covariance and principal directions of a training set.

With weights v_i that sum to one,

.. math::

    \mu = \sum_i v_i x_i, \qquad
    \Sigma = \sum_i v_i (x_i - \mu)(x_i - \mu)^T = U \operatorname{diag}(S) U^T.

The smaller of two eigenproblems is solved in float64: D x D from sums over the images, or N x N
from products of the centred images. If both are too large, repeated products with Sigma give the
first directions.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch

from .._progress import progress
from .._repr import short_repr
from .._state import NumpyState
from .devices import added
from .memory import rows_that_fit

# Largest side of an eigenproblem (1.2 GB in float64).
LARGEST_PROBLEM = 12_288
# float32 adds 1024 products of integers between -128 and 127 exactly.
_EXACT_ROWS = 1024
_POWER_ITERATIONS = 6
_EPS = torch.finfo(torch.float64).eps
# Standard deviations below this fraction of the norm of the mean image are rounding errors.
_ROUNDING = 16 * _EPS


@dataclass(frozen=True, eq=False)
class Spectrum(NumpyState):
    """Mean and principal directions.

    Attributes
    ----------
    mean : Tensor of shape (D,), float64
    components : Tensor of shape (r, D), float64
        Orthonormal rows; directions without numerical variance are left out.
    eigenvalues : Tensor of shape (r,), float64
        Variances along the components, decreasing.
    trace : float
        Sum of the variances of all directions.
    squares : float
        Sum of the squares of all entries of Sigma.
    fourth : float
        Mean of ``|x - mu|^4``.
    n_images : float
        Sum of the sample weights; N without weights.
    n_effective : float
        ``(sum w)^2 / sum w^2`` of the sample weights; N without weights.
    """

    mean: torch.Tensor
    components: torch.Tensor
    eigenvalues: torch.Tensor
    trace: float
    squares: float
    fourth: float
    n_images: float
    n_effective: float

    __repr__ = short_repr


def exact_spectrum(training_set):
    """Return the spectrum of a training set, from the smaller of the two eigenproblems.

    Raises
    ------
    ValueError
        If both eigenproblems are too large.
    """
    n, n_values = len(training_set), training_set.n_values
    if min(n, n_values) > LARGEST_PROBLEM:
        raise ValueError(
            f"the covariance of {n} images of {n_values} values needs at most {LARGEST_PROBLEM} "
            "images or values; pass fewer or smaller images."
        )
    if n < n_values:
        return spectrum_of_rows(training_set)
    return Moments(training_set).spectrum()


def spectrum_of_rows(training_set):
    """Return the spectrum from the N x N products of the centred images.

    Images in shards are fetched: there are fewer than values, so the components are as large.
    """
    training_set = training_set.together()
    weights = image_weights(training_set)
    mean = mean_image(training_set)
    gram = mean.new_zeros(len(weights), len(weights))
    for _, block in _columns(training_set, weights, mean):
        gram.addmm_(block, block.T)
    eigenvalues, vectors = leading(gram, training_set.n_values, rounding_variance(mean))
    components = mean.new_empty(training_set.n_values, len(eigenvalues))
    for columns, block in _columns(training_set, weights, mean):
        components[columns] = block.T @ vectors
    if len(eigenvalues):
        # rounding errors of large directions spoil small directions; QR restores orthogonality
        components = torch.linalg.qr(components)[0]
    return Spectrum(
        mean,
        components.T.contiguous(),
        eigenvalues,
        float(gram.trace()),
        float(gram.square().sum()),
        float((gram.diagonal().square() / weights).sum()),
        *_counts(training_set),
    )


def spectrum_by_iteration(training_set, rank):
    """Return the first principal directions by randomised subspace iteration.

    Halko, Martinsson and Tropp, SIAM Review 2011, Alg. 4.4, from a fixed random start, without a
    D x D or N x N matrix. ``squares`` of the result is NaN.

    Parameters
    ----------
    training_set : TrainingSet
    rank : int
        Number of directions.

    Returns
    -------
    Spectrum
    """
    mean = mean_image(training_set)
    n_values = training_set.n_values
    width = min(rank + max(20, rank // 4), n_values, len(training_set))
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(n_values, width, generator=generator, dtype=torch.float64).to(mean)
    for _ in progress(range(_POWER_ITERATIONS), "iterations"):
        basis = torch.linalg.qr(basis)[0]
        image = training_set.reduced(_covariance_times, added, mean, basis)
        projected, basis = basis, image
    eigenvalues, vectors = leading(projected.T @ image, n_values, rounding_variance(mean))
    components = (projected @ vectors).T[:rank].contiguous()
    square, fourth = training_set.reduced(_centred_moments, added, mean)
    return Spectrum(
        mean,
        components,
        eigenvalues[:rank],
        float(square),
        float("nan"),
        float(fourth),
        *_counts(training_set),
    )


class Moments(NumpyState):
    """Running sums over images, from which mean and covariance follow.

    Sums of uint8 images are exact, in units of the stored values: without weights they do not
    depend on the division into chunks. Sums of float images are in float64, about the mean of the
    first training set.

    Parameters
    ----------
    training_set : TrainingSet
        First images to add.
    """

    def __init__(self, training_set):
        self.image_dtype = training_set.images.dtype
        self.unit, self.zero = training_set.unit, training_set.zero
        n_values, device = training_set.n_values, training_set.device
        zeros = torch.zeros(n_values, dtype=torch.float64, device=device)
        self.shift = zeros + 128 if self._is_integer else mean_image(training_set)
        self._set_zero()
        self.add(training_set)

    @classmethod
    def about(cls, shift, image_dtype, unit, zero, device):
        """Return sums over no images, on a device; parameters are attributes of `Moments`."""
        sums = object.__new__(cls)
        sums.image_dtype, sums.unit, sums.zero = image_dtype, unit, zero
        sums.shift = shift.to(device)
        sums._set_zero()
        return sums

    @property
    def alike(self):
        """A callable that maps a device to sums over no images, to be added to these sums."""
        return partial(Moments.about, self.shift, self.image_dtype, self.unit, self.zero)

    def _set_zero(self):
        n_values = len(self.shift)
        self.weight, self.weight_norm = 0.0, 0.0  # sum, and root of the sum of squares
        self.first = torch.zeros_like(self.shift)
        self.second = self.shift.new_zeros(n_values, n_values)
        self.third = torch.zeros_like(self.shift)  # of y |y|^2
        self.fourth = 0.0  # of |y|^4

    @property
    def device(self):
        """Device of the sums."""
        return self.shift.device

    @property
    def _is_integer(self):
        return self.image_dtype == torch.uint8

    def add(self, training_set):
        """Add a training set with images of equal shape and dtype to the sums."""
        training_set.add_to(self)

    def add_sums(self, other):
        """Add the sums over other images, made by `alike`."""
        for name in ("first", "second", "third"):
            getattr(self, name).add_(getattr(other, name).to(self.device))
        self.fourth += other.fourth
        self.weight += other.weight
        self.weight_norm = math.hypot(self.weight_norm, other.weight_norm)

    def add_images(self, training_set):
        """Add the images of a training set in one place, or of a shard, to the sums."""
        weight = training_set.sample_weight
        equal = 1.0
        if weight is not None and training_set.log_weight is None:
            equal, weight = float(weight[0]), None
        n_rows = min(_EXACT_ROWS, _rows(training_set))
        for rows in progress(list(training_set.slices(n_rows)), "covariance"):
            raw = training_set.stored(rows).flatten(1)
            if weight is None:
                self._add_chunk(raw, None, equal)
            else:
                self._add_chunk(raw, weight[rows], 1.0)

    def _add_chunk(self, raw, weight, equal):
        y = raw.to(torch.float64) - self.shift
        lengths = y.square().sum(1)
        if weight is None and self._is_integer:
            small = y.to(torch.float32)
            second = (small.T @ small).to(torch.float64)
        else:
            second = y.T @ (y if weight is None else y * weight[:, None])
        each = torch.ones_like(lengths) if weight is None else weight
        self.first += equal * (each @ y)
        self.second.add_(second, alpha=equal)
        self.third += equal * ((each * lengths) @ y)
        self.fourth += equal * float(each @ lengths.square())
        self.weight += equal * float(each.sum())
        largest = each.max()
        norm = equal * float(largest) * float((each / largest).norm())
        self.weight_norm = math.hypot(self.weight_norm, norm)

    def spectrum(self):
        """Return the spectrum of the D x D covariance."""
        offset = self.first / self.weight
        square = self.second / self.weight
        covariance = square - torch.outer(offset, offset)
        # at a constant pixel the difference of squares is a rounding error of either sign
        constant = covariance.diagonal() <= 8 * _EPS * square.diagonal()
        covariance[constant] = 0.0
        covariance[:, constant] = 0.0
        fourth = self._fourth_about(offset) / self.unit**4
        covariance /= self.unit**2
        trace, squares = float(covariance.trace()), float(covariance.square().sum())
        mean = _in_image_units(offset + self.shift, self)
        eigenvalues, vectors = leading(covariance, len(covariance), rounding_variance(mean))
        return Spectrum(
            mean,
            vectors.T.contiguous(),
            eigenvalues,
            trace,
            squares,
            fourth,
            self.weight,
            (self.weight / self.weight_norm) ** 2,
        )

    def _fourth_about(self, mean):
        """Return the mean of |y - m|^4, expanded from (|y|^2 - 2 y.m + |m|^2)^2."""
        length = mean @ mean
        moment = (
            self.fourth
            - 4 * self.third @ mean
            + 4 * mean @ self.second @ mean
            + 2 * length * self.second.trace()
            - 4 * length * (self.first @ mean)
        ) / self.weight + length**2
        return max(0.0, float(moment))


def _in_image_units(stored, scale):
    """Convert stored pixels to values; ``scale`` has ``unit`` and ``zero``."""
    return stored if scale.unit == 1.0 and scale.zero == 0.0 else stored / scale.unit + scale.zero


def _rows(training_set):
    """Return the number of images to convert to float64 at once."""
    return rows_that_fit(24 * training_set.n_values, len(training_set), what="One training image")


def image_weights(training_set):
    """Return weights that sum to one over all shards, (N,) float64."""
    if training_set.log_weight is not None:
        return training_set.log_weight.exp()
    options = dict(dtype=torch.float64, device=training_set.device)
    return torch.full((len(training_set),), 1 / training_set.n_images, **options)


def _counts(training_set):
    """Return the sum of the sample weights, and the effective sample size."""
    weight = training_set.sample_weight
    n = float(len(training_set))
    if weight is None:
        return n, n
    if training_set.log_weight is None:
        return n * float(weight[0]), n
    return float(weight.sum()), 1 / float(training_set.log_weight.exp().square().sum())


def mean_image(training_set):
    """Return the weighted mean, (D,) float64; exact at pixels where all images are equal."""
    # in stored units, as sums of integers are exact
    first = training_set.fetched(slice(0, 1)).flatten(1).to(torch.float64)
    total = training_set.reduced(_total_offset, added, first)
    total = total / len(training_set) if training_set.log_weight is None else total
    return _in_image_units(first[0] + total, training_set)


def _total_offset(training_set, first):
    """Return the sum of the stored images minus ``first`` (1, D); with weights, the mean."""
    first, uniform = first.to(training_set.device), training_set.log_weight is None
    weights, total = image_weights(training_set), torch.zeros_like(first[0])
    for rows in training_set.slices(_rows(training_set)):
        offset = training_set.stored(rows).flatten(1).to(torch.float64) - first
        total += offset.sum(0) if uniform else weights[rows] @ offset
    return total


def _columns(training_set, weights, mean):
    """Yield column slices, and the centred values of all images times their root weights."""
    n, n_values = len(training_set), training_set.n_values
    root = weights.sqrt()[:, None]
    n_columns = rows_that_fit(24 * n, n_values, what="One pixel of all training images")
    for start in range(0, n_values, n_columns):
        columns = slice(start, start + n_columns)
        raw = training_set.values(columns).to(torch.float64)
        x = _in_image_units(raw, training_set)
        yield columns, (x - mean[columns]) * root


def _covariance_times(training_set, mean, basis):
    """Return Sigma @ basis, (D, k), in one pass over the images; of a shard, its summand."""
    mean, basis = mean.to(training_set.device), basis.to(training_set.device)
    weights, out = image_weights(training_set), torch.zeros_like(basis)
    for rows in training_set.slices(_rows(training_set)):
        centred = training_set.take(rows, torch.float64).flatten(1) - mean
        out.addmm_(centred.T, weights[rows, None] * (centred @ basis))
    return out


def _centred_moments(training_set, mean):
    """Return the means of |x - mu|^2 and of |x - mu|^4; of a shard, their summands."""
    mean, weights = mean.to(training_set.device), image_weights(training_set)
    parts = [
        (training_set.take(rows, torch.float64).flatten(1) - mean).square().sum(1)
        for rows in training_set.slices(_rows(training_set))
    ]
    lengths = torch.cat(parts)
    return weights @ lengths, weights @ lengths.square()


def pixel_variance(training_set):
    """Return the mean variance of a value of the images."""
    square, _ = training_set.reduced(_centred_moments, added, mean_image(training_set))
    return float(square) / training_set.n_values


def rounding_variance(mean):
    """Return the variance that rounding errors of images with this mean (D,) can cause."""
    return float(_ROUNDING**2 * mean.square().sum())


def leading(matrix, size, least=0.0):
    """Return the eigenvalues above rounding errors, decreasing, and their eigenvectors.

    Parameters
    ----------
    matrix : Tensor of shape (m, m), float64
        Symmetric, positive semidefinite up to rounding.
    size : int
        Number of terms that add up to an entry of the matrix; at least m is used.
    least : float, default 0.0
        Largest eigenvalue that rounding errors of the matrix entries may cause.

    Returns
    -------
    eigenvalues : Tensor of shape (r,)
        Positive.
    vectors : Tensor of shape (m, r)
        Eigenvectors as columns.
    """
    eigenvalues, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    eigenvalues, vectors = eigenvalues.flip(0), vectors.flip(1)
    rounding = _EPS * max(size, len(matrix)) * eigenvalues[0].clamp_min(0)
    n_kept = int((eigenvalues > rounding.clamp_min(least)).sum())
    return eigenvalues[:n_kept], vectors[:, :n_kept]
