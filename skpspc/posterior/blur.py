r"""The posterior over training images that are blurred along the covariance of the data.

Every training image is moved towards the mean and blurred, so that mean mu and covariance Sigma of
the distribution do not depend on the bandwidth h in [0, 1] (a smoothed bootstrap):

.. math::

    y_i = \mu + \sqrt{1 - h^2} (x_i - \mu), \qquad
    p(x) = \sum_i v_i \, \mathcal{N}(x; y_i, h^2 \Sigma)

With the linear part A and the filter F,

.. math::

    A = h^2 \Sigma (h^2 \Sigma + \sigma^2)^{-1}, \qquad F = (I - A)^{1/2},

.. math::

    w_i = \operatorname{softmax}_i\bigl(-|F (z - y_i)|^2 / 2 \sigma^2 + \log v_i\bigr), \qquad
    D(z; \sigma) = \mu + A (z - \mu) + F \sum_i w_i F (y_i - \mu):

filtered images are compared at noise level sigma, and the result is filtered again. At h = 0, F = I
gives the empirical denoiser. At h = 1, all y_i equal mu, which gives the Gaussian denoiser. With
windows smaller than the image there are two variants:

- *by window*: each window has the filter of its own covariance, and the means are averaged;
- *globally*: one filter serves the whole image, and the sum over i becomes the composite of windows
  in the filtered images, ``D = mu + A (z - mu) + F composite(F (y - mu); F (z - mu))``. The
  composite of unfiltered images, ``(I - A) composite(y - mu)``, also lies between empirical and
  Gaussian denoiser; on natural images it differs more from networks. Sigma may be the covariance of
  the data or a stationary covariance, see `StationaryGaussian`.
"""

import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from operator import itemgetter

import torch
from sklearn import get_config

from .._repr import short_repr
from .._warnings import warn
from ..support import MirroredTrainingSet, overlap_counts, square_corners
from ..support.devices import RemadeShards
from ..support.memory import fits, rows_that_fit
from ..support.sharded import N_EXAMPLES, ShardedTrainingSet
from ..support.training_set import evenly_spaced
from .dense import dense
from .gaussian import Gaussian
from .posterior import PerWindow
from .softmax import floored_sigma

# Largest admissible bound of the rounding of a logit from matrix products. Means are off by at most
# a fiftieth of it (CIFAR-10, sigma 0.1 to 10), as the errors of logits are smaller and average out.
_TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}
_NEGLIGIBLE = 0.01  # fraction of it for the directions in which a filter is left out
_CHUNK_ROWS = 128  # images filtered at a time: they stay in the cache
_EPS64 = torch.finfo(torch.float64).eps
# At noise levels beyond this multiple of the data, posterior weights equal sample weights.
_FLAT = 1e12
_kept: ContextVar[dict | None] = ContextVar("kept", default=None)


@contextmanager
def filtered_images_kept():
    """Keep the filtered training images of the last call for the next one, within the context.

    Windows of several sizes are then compared with one filtered copy.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def shared_levels(z, sigma, gaussian):
    """Return noise levels (n,), float64, with 0 replaced by small positive levels.

    The replacement is `floored_sigma`, which depends on the noisy image alone, so that results do
    not depend on the batch. It is rounded up to a power of two, so that images share levels and a
    few filtered copies of the training set serve all images.
    """
    _, exponent = torch.frexp(floored_sigma(torch.zeros_like(sigma), z, gaussian))
    return torch.maximum(sigma, torch.ldexp(torch.ones_like(sigma), exponent))


@dataclass(frozen=True, eq=False)
class Blur:
    """Blur of the training images by a multiple of their covariance.

    Attributes
    ----------
    gaussian : Gaussian or StationaryGaussian
        Mean and covariance of the training set, mirror images included; the latter class only if
        ``by_window`` is False.
    bandwidth : float
        h, in (0, 1].
    by_window : bool, default False
        True: each square window has the filter of its own covariance. False: one filter serves the
        whole image.
    """

    gaussian: Gaussian
    bandwidth: float
    by_window: bool = False

    __repr__ = short_repr

    def filter(self, sigma):
        """Return the `Filter` at a noise level, a positive float; inf is allowed."""
        return Filter(self.gaussian, self.bandwidth, sigma)


@dataclass(frozen=True, eq=False)
class Filter:
    """The linear maps A and F for a bandwidth and a positive noise level; see `Blur`."""

    gaussian: Gaussian
    bandwidth: float
    sigma: float

    __repr__ = short_repr

    @cached_property
    def _ratio(self):
        """Ratio of the standard deviations of blur and noise along each component, (r,)."""
        return self.bandwidth * self.gaussian.eigenvalues.sqrt() / self.sigma

    @cached_property
    def _remainder(self):
        """Eigenvalues of F along the components; all other eigenvalues of F are one."""
        return 1 / torch.hypot(self._ratio, torch.ones_like(self._ratio))

    @property
    def log_det(self):
        """Log of the determinant of F."""
        return float(self._remainder.log().sum())

    def apply(self, rows):
        """Return F applied to rows (m, D)."""
        along = self.gaussian.along(rows)
        return rows + self.gaussian.combined(along * (self._remainder - 1).to(rows))

    def linear(self, rows):
        """Return A applied to rows (m, D)."""
        gain = (self._ratio * self._remainder).square()
        return self.gaussian.combined(self.gaussian.along(rows) * gain.to(rows))

    def query(self, z):
        """Return the filtered deviations ``F (z - mu)`` of noisy images (n, C, H, W)."""
        return self.apply(self._deviation(z)).view(z.shape)

    def training_set(self, source, dtype):
        """Return the filtered deviations ``F (y_i - mu)`` of all images, a `TrainingSet` of floats.

        If the filtered numbers exceed the working memory, the result is a `ShardedTrainingSet`
        whose shards are filtered anew in every pass over the training set, with a warning.

        Raises
        ------
        MemoryError
            If ``source`` is in shards, and the filtered numbers of a shard exceed the working
            memory.
        """
        kept = _kept.get()
        if kept is None:
            return self._training_set(source, dtype)
        key = id(source), id(self.gaussian), self.bandwidth, self.sigma, dtype
        if key not in kept:
            kept.clear()  # before the next copy is made
            kept[key] = source, self, self._training_set(source, dtype)  # ids of living objects
        return kept[key][-1]

    def _training_set(self, source, dtype):
        """Return `training_set`, filtered anew."""
        common = self.gaussian, self.bandwidth, self.sigma, dtype
        if isinstance(source, ShardedTrainingSet) or fits(filtered_bytes(source, dtype)):
            return source.mapped(_filtered, *common)
        needed = filtered_bytes(source, dtype) / 2**20
        warn(
            f"the filtered training images (bandwidth) need {needed:.3g} MiB, and "
            f"{get_config()['working_memory']} MiB are allowed: parts of them are filtered anew in "
            f"every pass. sklearn.set_config(working_memory={int(needed) + 1}) makes calls faster."
        )
        return _in_parts(source, *common)

    def answer(self, z, result):
        """Convert the `PerWindow` of filtered deviations to the result for noisy images z."""
        change = self.linear(self._deviation(z)) + self.apply(result.mean.flatten(1))
        mean = (self.gaussian.mean + change).to(z.dtype)
        return result._replace(mean=mean.view(z.shape))

    def _deviation(self, z):
        """Return the deviations of images from the mean, (n, D)."""
        return (z.flatten(1).double() - self.gaussian.mean).to(z.dtype)


def filtered_bytes(training_set, dtype):
    """Return the bytes of the filtered images of the largest shard, without mirror images."""
    return max(training_set.sizes) * training_set.n_values * dtype.itemsize


def _in_parts(source, gaussian, bandwidth, sigma, dtype):
    """Return filtered images in shards that are filtered anew in every pass; see `_filtered`."""
    common = gaussian, bandwidth, sigma, dtype
    if isinstance(source, MirroredTrainingSet):
        return _in_parts(source.plain, *common).mirrored()
    image_bytes = source.n_values * dtype.itemsize
    n_rows = rows_that_fit(image_bytes, len(source), what="One filtered training image")
    parts = [partial(source.subset, rows) for rows in source.slices(n_rows)]
    executor = RemadeShards(parts, source.device).derived(_filtered, *common)
    few = source.subset(torch.from_numpy(evenly_spaced(len(source), N_EXAMPLES)))
    examples = _filtered(few, *common).images.cpu()
    return ShardedTrainingSet.of(executor, source.sample_weight, source.data_range, examples)


def _filtered(source, gaussian, bandwidth, sigma, dtype, what="The filtered training set"):
    """Return the filtered deviations of a training set that is not in shards; see `Filter`.

    ``what`` is the subject of the MemoryError if they exceed the working memory.
    """
    if isinstance(source, MirroredTrainingSet):
        # mean and covariance include the mirror images: a filtered mirror image is the mirror image
        # of a filtered image
        return _filtered(source.plain, gaussian, bandwidth, sigma, dtype).mirrored()
    filtering = Filter(gaussian.to(source.device), bandwidth, sigma)
    n, n_values = len(source), source.n_values
    rows_that_fit(filtered_bytes(source, dtype), 1, what=what)
    out = torch.empty(n, n_values, dtype=dtype, device=source.device)
    shrink = math.sqrt((1 - bandwidth) * (1 + bandwidth))
    most = min(n, _CHUNK_ROWS)
    n_rows = rows_that_fit((16 + 2 * dtype.itemsize) * n_values, most, what="One training image")
    for rows in source.slices(n_rows):
        x = source.take(rows, torch.float64).flatten(1)
        out[rows] = filtering.apply(((x - filtering.gaussian.mean) * shrink).to(dtype))
    return source.with_images(out.view(n, *source.image_shape))


def blurred_squares(z, sigma, source, windows, gaussian, bandwidths):
    """Return a `PerWindow` for each bandwidth: square windows, each with a filter of its own.

    Each window is filtered by its own covariance. All bandwidths share most of the work: the
    eigenbases of the windows, and the training images in these bases. See `select.compare` and
    `Blur` for the parameters; all noise levels are equal, see `shared_levels`.
    """
    level, shape = float(sigma[0]), (windows.h, windows.w)
    corners = square_corners(shape, z.shape[1:])
    n_values = windows.n_values(z.shape[1:])
    n, rank = len(source), len(gaussian.eigenvalues)
    together = compared_together(source, gaussian, n_values)
    # windows side by side share most of their pixels
    window_bytes = 8 * n_values * (n + rank)
    block = rows_that_fit(window_bytes, len(corners), what="A window") if together else 1
    totals = [torch.zeros_like(z) for _ in bandwidths]
    log_norms: list[list[torch.Tensor]] = [[] for _ in bandwidths]
    sizes: list[list[torch.Tensor]] = [[] for _ in bandwidths]
    for start in range(0, len(corners), block):
        crops = Crops(corners[start : start + block], shape, source, gaussian, z.shape[1:])
        for i, bandwidth in enumerate(bandwidths):
            compare = crops.compare if together else crops.compare_one_by_one
            mean, log_norm, ess = compare(z, level, bandwidth)
            add_windows(totals[i], mean, crops.corners, shape)
            log_norms[i].append(log_norm)
            sizes[i].append(ess)
    count = torch.as_tensor(overlap_counts(shape, z.shape[1:])).to(z)
    return [
        PerWindow(total / count, torch.cat(log_norm, 1), torch.cat(ess, 1))
        for total, log_norm, ess in zip(totals, log_norms, sizes, strict=True)
    ]


def compared_together(training_set, gaussian, n_values):
    """Return True if the crops to one window of ``n_values`` fit in memory as deviations."""
    return fits(8 * n_values * (3 * len(training_set) + len(gaussian.eigenvalues)))


def add_windows(total, mean, corners, shape):
    """Add means (n, k, d) of `Crops` to the pixels of their windows in images (n, C, H, W)."""
    h, w = shape
    for k, (top, left) in enumerate(corners):
        area = total[..., top : top + h, left : left + w]
        columns = mean[:, k].view(len(area), w, -1, h)
        area += columns.permute(0, 2, 3, 1)


def blurred_squares_product(z, sigma, source, windows, blur, vector, shift):
    """Return products of the derivative for square windows, each with a filter of its own.

    The Jacobian J of the mean of one window is symmetric. See `blurred_squares` for the first
    parameters.

    Parameters
    ----------
    vector : Tensor of shape (n, C, H, W)
    shift : Tensor of shape (n, K), float64
        h, factors of the gradients of the log normalisers.

    Returns
    -------
    values : Tensor of shape (n, C, H, W)
        Sum over windows of J times the vector, plus h times the gradient.
    along : Tensor of shape (n, K), float64
        Derivatives of the log normalisers along the vector.
    """
    shape, values, slopes = (windows.h, windows.w), torch.zeros_like(z), []
    window_bytes = (
        8 * windows.n_values(z.shape[1:]) * (2 * len(source) + len(blur.gaussian.eigenvalues))
    )
    corners = square_corners(shape, z.shape[1:])
    block = rows_that_fit(window_bytes, len(corners), what="A window")
    for start in range(0, len(corners), block):
        at = slice(start, start + block)
        crops = Crops(corners[at], shape, source, blur.gaussian, z.shape[1:])
        moved, along = crops.product(z, float(sigma[0]), blur.bandwidth, vector, shift[:, at])
        add_windows(values, moved, crops.corners, shape)
        slopes.append(along)
    return values, torch.cat(slopes, 1)


class Crops:
    """The crops of k square windows of one shape, of d values each, compared together.

    Logits are products ``q.p - |p|^2 / 2`` of deviations from the mean, which cancel less than
    products of images. The filter is diagonal in the eigenbasis of each window. Training crops are
    projected to it for their norms only: products with few noisy images are cheaper in pixels.
    Values are ordered by column of pixels, channel and row, so that a crop is a slice of a strip.
    """

    def __init__(self, corners, shape, training_set, gaussian, image_shape):
        self.corners = corners
        self._shape = shape
        self._training_set = training_set
        self._gaussian = gaussian
        number = torch.arange(gaussian.mean.numel(), device=gaussian.mean.device)
        self._index = self._crops(number.view(1, *image_shape)).flatten(1)  # (k, d)
        self.n_values = self._index.shape[1]  # of a window
        self._mean = gaussian.mean[self._index][:, None]  # (k, 1, d)
        key = shape, image_shape, tuple(corners[0]), len(corners)
        variances, self._vectors = gaussian.eigenbases(self._index, key)  # (k, d), (k, d, d)
        # smaller variances are rounding errors of the largest variance or of the mean
        least = variances.amax(1, keepdim=True) * (variances.shape[1] * _EPS64)
        least = torch.maximum(least, (1e-14 * self._mean.abs().amax(2)).square())
        self._variances = variances.where(variances > least, torch.zeros_like(variances))
        # an image of little weight may deviate where the variance is tiny: coordinates without
        # variance are compared as well, but not blurred
        self._varies = (variances > least) | (training_set.log_weight is not None)

    def compare(self, z, sigma, bandwidth):
        """Return means (n, k, d), log normalisers (n, k) and effective sample sizes (n, k)."""
        training_set = self._training_set
        shrink = math.sqrt((1 - bandwidth) * (1 + bandwidth))
        ratio = bandwidth * self._variances.sqrt() / sigma
        remainder = 1 / torch.hypot(ratio, torch.ones_like(ratio))[:, None]  # (k, 1, d)
        offset = (self._crops(z).double() - self._mean) @ self._vectors  # (k, n, d)
        query = offset * (remainder / sigma)
        # if posterior weights equal sample weights, the mean of the points is zero
        unit = sigma if sigma < _FLAT * self._gaussian.abs_max else math.inf
        largest = shrink / unit  # factor from deviations to points in directions without filter
        scale = largest * remainder * self._varies[:, None]  # in all directions
        dtype = self._exact_dtype(query, scale, largest, z.dtype)
        if dtype is None:
            return self.compare_one_by_one(z, sigma, bandwidth)
        basis = (self._vectors * scale).to(dtype)
        lost = self._lost(ratio, remainder[:, 0], largest, z.dtype)
        results = []
        for k, (x, square) in enumerate(self._deviations_and_squares(dtype)):
            half_square = (largest**2 * square - _square_norms(lost[k].to(dtype), x)) / 2
            if training_set.log_weight is not None:
                half_square -= training_set.log_weight
            results.append(_product_posterior(query[k].to(dtype), basis[k], x, half_square))
        mean, log_norm, ess = map(torch.stack, zip(*results, strict=True))
        mean = mean.double() * (unit if math.isfinite(unit) else 0.0)
        gain = (ratio[:, None] * remainder).square()
        answer = self._mean + (gain * offset + remainder * mean) @ self._vectors.mT
        log_norm = log_norm - query.square().sum(2) / 2 + remainder.log().sum(2)
        log_norm += training_set.log_uniform
        return answer.transpose(0, 1).to(z.dtype), log_norm.T, ess.T.to(z.dtype)

    def product(self, z, sigma, bandwidth, vector, shift):
        """Return J times a vector plus h times gradients, (n, k, d), and slopes (n, k).

        See `blurred_squares_product`. Points are in float64, in which rounding does not show.
        """
        shrink = math.sqrt((1 - bandwidth) * (1 + bandwidth))
        ratio = bandwidth * self._variances.sqrt() / sigma
        remainder = 1 / torch.hypot(ratio, torch.ones_like(ratio))[:, None]  # (k, 1, d)
        gain = (ratio[:, None] * remainder).square()
        query = (self._crops(z).double() - self._mean) @ self._vectors * (remainder / sigma)
        points = self._points(torch.float64) * (shrink * remainder / sigma)
        vector = self._crops(vector).double() @ self._vectors  # (k, n, d)
        arrays = query, remainder * vector, shift.T / sigma
        row_bytes = 4 * points[..., 0].nbytes
        n_rows = rows_that_fit(row_bytes, len(z), what="One row of posterior weights")
        blocks = zip(*(array.split(n_rows, 1) for array in arrays), strict=True)
        results = [_crops_product(q, v, h, points, self._training_set) for q, v, h in blocks]
        sums, slopes = (torch.cat(column, 1) for column in zip(*results, strict=True))
        moved = (gain * vector + remainder * sums) @ self._vectors.mT
        return moved.transpose(0, 1).to(z.dtype), slopes.T / sigma

    @cached_property
    def reach(self):
        """Length of the largest deviation in each window, (k,) float64.

        An estimate for images of equal weights. Shards of a training set need the largest over all
        shards, so that all of them compute in one dtype.
        """
        if self._training_set.log_weight is None:
            return 2 * self._variances.sum(1).sqrt()
        squares = self._deviations_and_squares(torch.float64)
        return torch.stack([square.amax() for _, square in squares]).sqrt()

    def _exact_dtype(self, query, scale, largest, dtype):
        """Return ``dtype``, or float64 if its rounding would show in logits, or None if both would.

        ``query`` (k, n, d) and ``scale`` (k, 1, d) are in the eigenbases. No factor of ``scale``
        exceeds ``largest``.
        """
        length = (query * scale).norm(dim=2).amax(1)  # (k,)
        error = float((2 * length * self.reach + (largest * self.reach).square()).max())
        for candidate in (dtype, torch.float64):
            if error <= _TOLERANCE[dtype] / torch.finfo(candidate).eps:
                return candidate
        return None

    def _lost(self, ratio, remainder, largest, dtype):
        """Return a list of matrices (d, r) from deviations to what the filter takes from points.

        Directions in which it takes nothing that shows in logits are omitted.
        """
        factor = largest * ratio * remainder  # (k, d), of increasing variances
        loss = (factor.square() * self._variances).cumsum(1) / 2
        shows = loss > _NEGLIGIBLE * _TOLERANCE[dtype]
        if self._training_set.log_weight is not None:  # an image of little weight may deviate more
            shows = torch.ones_like(shows)
        first = (~shows).sum(1).tolist()
        return [v[:, n:] * f[n:] for v, f, n in zip(self._vectors, factor, first, strict=True)]

    def _points(self, dtype):
        """Return deviations of the training images from their mean in the eigenbases, (k, N, d)."""
        basis = (self._vectors * self._varies[:, None]).to(dtype)
        pairs = zip(basis, self._deviations(dtype), strict=True)
        return torch.stack([x.T @ vectors for vectors, x in pairs])

    def _deviations(self, dtype):
        """Yield the deviations of all training images from their mean, (d, N), for each window."""
        return (x for x, _ in self._deviations_and_squares(dtype))

    def _deviations_and_squares(self, dtype):
        """Yield the deviations (d, N) and their squared norms (N,), float64, for each window."""
        h, w = self._shape
        number = 0
        for top, group in groupby(self.corners, itemgetter(0)):
            lefts = [left for _, left in group]
            width = lefts[-1] + w - lefts[0]
            crop = self._training_set.crop(top, lefts[0], h, width)
            raw = crop.images.permute(3, 1, 2, 0).contiguous()  # (width, C, h, N)
            means = self._mean[number : number + len(lefts), 0].view(len(lefts), w, -1, h)
            mean = torch.cat([means[:-1, 0], means[-1]])  # (width, C, h)
            strip = crop.to_compute(raw, dtype) - mean[..., None].to(dtype)
            squares = strip.square().sum((1, 2)).double()  # (width, N)
            for left in lefts:
                columns = slice(left - lefts[0], left - lefts[0] + w)
                yield strip[columns].flatten(0, 2), squares[columns].sum(0)
            number += len(lefts)

    def _crops(self, images):
        """Return the crops (k, m, d) of images (m, C, H, W)."""
        h, w = self._shape
        return torch.stack(
            [
                images[..., top : top + h, left : left + w].permute(0, 3, 1, 2).flatten(1)
                for top, left in self.corners
            ]
        )

    def compare_one_by_one(self, z, sigma, bandwidth):
        """Return the results of `compare`, from a kernel that computes near ties by subtraction."""
        results, (h, w) = [], self._shape
        for (top, left), index in zip(self.corners, self._index, strict=True):
            crop = self._training_set.crop(top, left, h, w)
            in_rows = index.view(w, -1, h).permute(1, 2, 0).flatten()
            filtering = Filter(self._gaussian.marginal(in_rows), bandwidth, sigma)
            noisy = z[..., top : top + h, left : left + w]
            query = filtering.query(noisy)
            common = filtering.gaussian, bandwidth, sigma, z.dtype
            source = _filtered(crop, *common, what="A filtered crop of every training image")
            level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
            result = dense(query, floored_sigma(level, query, source), source)
            mean = filtering.answer(noisy, result).mean.permute(0, 3, 1, 2).flatten(1)
            log_norm = result.log_norm + filtering.log_det
            results.append((mean, log_norm, result.effective_sample_size))
        mean, log_norm, ess = zip(*results, strict=True)
        return torch.stack(mean, 1), torch.cat(log_norm, 1), torch.cat(ess, 1)


def _square_norms(matrix, x):
    """Return the squared norms (N,) of the columns of ``matrix.T @ x``, float64."""
    return (matrix.T @ x).square_().sum(0).double()


def _product_posterior(query, basis, x, half_square):
    """Return mean (n, d), log normaliser (n,) float64 and effective sample size (n,) of a window.

    The points are ``basis.T @ x``, for deviations x (d, N) of the training images; the mean is of
    points. ``half_square`` (N,) is half of their squared norms, minus log sample weights. The noise
    has standard deviation one. The term -|q|^2 / 2 of the logits of a query q (n, d) is omitted.
    """
    half_square = half_square.to(x)
    n_rows = rows_that_fit(3 * x[0].nbytes, len(query), what="One row of posterior weights")
    in_pixels = query @ basis.T
    blocks = [_crops_block(block, x, half_square) for block in in_pixels.split(n_rows)]
    mean, log_norm, ess = map(torch.cat, zip(*blocks, strict=True))
    return mean @ basis, log_norm, ess


def _crops_block(query, x, half_square):
    """Return mean (n, d) of x, log normaliser and effective sample size for some noisy images."""
    logit = (query @ x).sub_(half_square)  # (n, N)
    peak = logit.amax(1, keepdim=True)
    weight = logit.sub_(peak).clamp_min_(-80.0).exp_()  # results near 0 are slow
    total = weight.sum(1, keepdim=True)
    ess = (total / torch.linalg.vector_norm(weight, dim=1, keepdim=True)).square()
    log_norm = peak.double() + total.double().log()
    return weight @ x.T / total, log_norm[:, 0], ess[:, 0]


def _crops_product(query, vector, shift, points, training_set):
    """Return sums (k, n, d) and slopes (k, n) for a block of noisy images, see `Crops.product`.

    With tilts t of the points p, the sums are ``sum_i w_i (t_i - mean t + h) p_i - h q``.
    """
    logit = query @ points.mT  # (k, n, N)
    logit -= torch.linalg.vector_norm(points, dim=2).square()[:, None] / 2
    if training_set.log_weight is not None:
        logit += training_set.log_weight
    weight = logit.softmax(2)
    tilt = vector @ points.mT
    mean = (weight * tilt).sum(2, keepdim=True)
    weight *= tilt - mean + shift[..., None]
    return weight @ points - shift[..., None] * query, mean[..., 0] - (vector * query).sum(2)
