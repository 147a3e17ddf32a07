r"""Distances and similarities between images and their estimates.

For a true image :math:`x` and its estimate :math:`y`, D numbers each:

    MSE = |x - y|^2 / D,  PSNR = 10 log10(range^2 / MSE),  cosine = x.y / |x| |y|,
    Pearson r = cosine of x - mean(x) and y - mean(y),  R^2 = 1 - |x - y|^2 / |x - mean(x)|^2.

In the literature "r2" means either of the last two, on images in [0, 1] or in [-1, 1]. Every
result here has its own name, and records the data range and the number of images.
"""

import math
import warnings

import numpy as np
from sklearn.utils import gen_batches

from .. import _optional
from .._typing import ArrayLike, DataRange
from ..support.memory import rows_that_fit
from ._errors import standard_error
from ._images import as_floats, as_images, check_alike


class Measurement(float):
    """A mean over images, a float that records how it was measured.

    Parameters
    ----------
    value : float
        The mean.

    Attributes
    ----------
    name : str
        Name of the measure, such as "psnr".
    values : ndarray of shape (n,)
        One value for each image; for a measure of whole sets, one for each random subset.
    n : int
        Number of images in the mean.
    n_reference : int or None
        Number of images in the set that they are compared with, such as training images.
    data_range : tuple of (low, high)
        Range of the values of images, which is the unit of errors and distances.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import psnr
    >>> X = load_digits_images().images
    >>> noise = np.random.default_rng(0).standard_normal((100, 1, 8, 8))
    >>> Z = X[:100] / 127.5 - 1 + 0.5 * noise
    >>> denoised = PSPCDenoiser(patch_size=4).fit(X[100:]).denoise(Z, sigma=0.5)
    >>> result = psnr(X[:100], denoised)
    >>> print(f"{result:.1f} dB, standard error {result.standard_error:.1f} dB")
    18.9 dB, standard error 0.2 dB
    """

    name: str
    values: np.ndarray
    n: int
    n_reference: int | None
    data_range: tuple[float, float]

    def __new__(cls, value, **about):
        """Return the float ``value`` with ``about`` as attributes."""
        self = super().__new__(cls, value)
        vars(self).update(about)
        return self

    @classmethod
    def of(cls, name, values, data_range, *, n=None, n_reference=None):
        """Return the measurement of ``values``, whose mean skips NaN; ``n`` is their number."""
        values = np.asarray(values, dtype=np.float64)
        defined = values[~np.isnan(values)]
        return cls(
            defined.mean() if len(defined) else np.nan,
            name=name,
            values=values,
            n=len(defined) if n is None else n,
            n_reference=n_reference,
            data_range=data_range,
        )

    @property
    def standard_error(self):
        """Standard error of the mean; NaN for one value, and if a value is infinite."""
        return float(standard_error(self.values[~np.isnan(self.values)]))

    def __repr__(self):
        low, high = self.data_range
        against = "" if self.n_reference is None else f", n_reference={self.n_reference}"
        return (
            f"{self.name} {float(self):.4g} (n={self.n}{against}, data_range=({low:g}, {high:g}))"
        )


def check_range(data_range):
    """Return low and high as floats, low below high."""
    try:
        low, high = map(float, data_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low < high:
        raise ValueError(f"data_range must be (low, high) with low < high, got {data_range!r}.")
    return low, high


def warn_outside(low, high, data_range, name):
    """Warn if values from low to high exceed a data range."""
    slack = 1e-6 * (data_range[1] - data_range[0])
    if low < data_range[0] - slack or high > data_range[1] + slack:
        warnings.warn(
            f"{name} has values from {low:.4g} to {high:.4g}, beyond data_range={data_range}; "
            "pass data_range=(low, high), the range of the images.",
            UserWarning,
            stacklevel=4,
        )


def _of_pairs(name, X_true, X_pred, data_range, measure, undefined="an image does not vary"):
    """Return a measurement of pairs of images; ``measure`` maps two (m, *shape) to (m,)."""
    true, pred = as_images(X_true, "X_true"), as_images(X_pred, "X_pred")
    data_range = check_range(data_range)
    check_alike(true, pred, "X_true", "X_pred")
    if len(true) != len(pred):
        raise ValueError(
            f"X_true holds {len(true)} images and X_pred {len(pred)}; pass one estimate for each."
        )
    row_bytes = 8 * 6 * math.prod(true.shape[1:])
    n_rows = rows_that_fit(row_bytes, len(true), what="A pair of images")
    values, low, high = np.empty(len(true)), math.inf, -math.inf
    for rows in gen_batches(len(true), n_rows):
        x, y = (as_floats(images[rows], data_range) for images in (true, pred))
        low, high = min(low, x.min()), max(high, x.max())
        values[rows] = measure(x, y)
    warn_outside(low, high, data_range, "X_true")
    n_undefined = np.isnan(values).sum()
    if n_undefined:
        warnings.warn(
            f"{name} is undefined (NaN) for {n_undefined} of {len(values)} pairs, in which "
            f"{undefined}; the mean is over the other pairs.",
            UserWarning,
            stacklevel=3,
        )
    return Measurement.of(name, values, data_range)


def _ratio(numerator, denominator):
    """Return the ratio of two (m,), NaN where the denominator is zero."""
    return numerator / np.where(denominator > 0, denominator, np.nan)


def _flat(function):
    """Return a measure of images from a measure of rows."""
    return lambda x, y: function(x.reshape(len(x), -1), y.reshape(len(y), -1))


def _centred(x):
    """Return rows minus their means; constant rows become exactly zero."""
    varies = x.max(1) > x.min(1)
    return np.where(varies[:, None], x - x.mean(1, keepdims=True), 0.0)


def _squares(x, y):
    return np.square(x - y).mean(1)


def _cosines(x, y):
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return _ratio((x * y).sum(1), norms).clip(-1, 1)


def mse(X_true: ArrayLike, X_pred: ArrayLike, *, data_range: DataRange = (-1, 1)) -> Measurement:
    r"""Return the mean squared error, :math:`|x - y|^2 / D`.

    Parameters
    ----------
    X_true : array or Tensor of shape (n, C, H, W) or (n, d)
        Clean images, or the answers of one denoiser.
    X_pred : array or Tensor of shape (n, C, H, W) or (n, d)
        Estimates of the clean images, or the answers of another denoiser.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_true; errors on (-1, 1) are four times errors on (0, 1). uint8
        pixels are read on it, floats are used unscaled, and values of X_true beyond it warn.

    Returns
    -------
    Measurement
        Mean over images; ``values`` holds one error per image, computed in float64.

    Raises
    ------
    ValueError
        For no images, NaN, infinity, or images of two shapes.

    Examples
    --------
    >>> from skpspc.inspection import mse
    >>> mse([[0.0, 1.0]], [[0.0, 0.5]])
    mse 0.125 (n=1, data_range=(-1, 1))
    """
    return _of_pairs("mse", X_true, X_pred, data_range, _flat(_squares))


def psnr(X_true: ArrayLike, X_pred: ArrayLike, *, data_range: DataRange = (-1, 1)) -> Measurement:
    r"""Return the peak signal-to-noise ratio in dB, :math:`10 \log_{10}((high - low)^2 / MSE)`.

    Parameters
    ----------
    X_true : array or Tensor of shape (n, C, H, W) or (n, d)
        Clean images, or the answers of one denoiser.
    X_pred : array or Tensor of shape (n, C, H, W) or (n, d)
        Estimates of the clean images, or the answers of another denoiser.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_true, on which the result depends. uint8 pixels are read on it,
        floats are used unscaled, and values of X_true beyond it warn.

    Returns
    -------
    Measurement
        Mean over images of their ratios in dB; infinite if an estimate is exact.

    Raises
    ------
    ValueError
        For no images, NaN, infinity, or images of two shapes.

    Examples
    --------
    >>> from skpspc.inspection import psnr
    >>> psnr([[0.0, 1.0]], [[0.2, 0.8]])
    psnr 20 (n=1, data_range=(-1, 1))
    """
    low, high = check_range(data_range)

    def measure(x, y):
        with np.errstate(divide="ignore"):
            return 20 * math.log10(high - low) - 10 * np.log10(_squares(x, y))

    return _of_pairs("psnr", X_true, X_pred, data_range, _flat(measure))


def cosine(X_true: ArrayLike, X_pred: ArrayLike, *, data_range: DataRange = (-1, 1)) -> Measurement:
    r"""Return the cosine of the angle between images, :math:`x \cdot y / |x| |y|`.

    Parameters
    ----------
    X_true : array or Tensor of shape (n, C, H, W) or (n, d)
        Clean images, or the answers of one denoiser.
    X_pred : array or Tensor of shape (n, C, H, W) or (n, d)
        Estimates of the clean images, or the answers of another denoiser.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_true. uint8 pixels are read on it, floats are used unscaled, and
        values of X_true beyond it warn.

    Returns
    -------
    Measurement
        Mean over images; ``values`` holds NaN, with a warning, for an image of zeros.

    Raises
    ------
    ValueError
        For no images, NaN, infinity, or images of two shapes.

    Examples
    --------
    >>> from skpspc.inspection import cosine
    >>> cosine([[0.0, 1.0]], [[0.0, 0.5]])
    cosine 1 (n=1, data_range=(-1, 1))
    """
    return _of_pairs(
        "cosine", X_true, X_pred, data_range, _flat(_cosines), undefined="an image is zero"
    )


def pearson_r(
    X_true: ArrayLike, X_pred: ArrayLike, *, data_range: DataRange = (-1, 1)
) -> Measurement:
    r"""Return the Pearson correlation of the D numbers of two images.

    .. math::

        r = \frac{(x - \bar x) \cdot (y - \bar y)}{|x - \bar x| |y - \bar y|}

    :math:`\bar x` is the mean over all pixels and channels. The correlation is not squared; Kamb
    and Ganguli report it as "r2".

    Parameters
    ----------
    X_true : array or Tensor of shape (n, C, H, W) or (n, d)
        Clean images, or the answers of one denoiser.
    X_pred : array or Tensor of shape (n, C, H, W) or (n, d)
        Estimates of the clean images, or the answers of another denoiser.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_true. uint8 pixels are read on it, floats are used unscaled, and
        values of X_true beyond it warn.

    Returns
    -------
    Measurement
        Mean over images; ``values`` holds NaN, with a warning, if one of two images is constant.

    Raises
    ------
    ValueError
        For no images, NaN, infinity, or images of two shapes.

    References
    ----------
    Kamb and Ganguli, ICML 2025, arXiv:2412.20292.

    Examples
    --------
    >>> from skpspc.inspection import pearson_r
    >>> pearson_r([[0.0, 0.5, 1.0]], [[0.1, 0.2, 0.3]])
    pearson_r 1 (n=1, data_range=(-1, 1))
    """
    measure = _flat(lambda x, y: _cosines(_centred(x), _centred(y)))
    return _of_pairs("pearson_r", X_true, X_pred, data_range, measure)


def r2_score(
    X_true: ArrayLike, X_pred: ArrayLike, *, data_range: DataRange = (-1, 1)
) -> Measurement:
    r"""Return the coefficient of determination of images, :math:`1 - |x - y|^2 / |x - \bar x|^2`.

    Parameters
    ----------
    X_true : array or Tensor of shape (n, C, H, W) or (n, d)
        Clean images, or the answers of one denoiser.
    X_pred : array or Tensor of shape (n, C, H, W) or (n, d)
        Estimates of the clean images, or the answers of another denoiser.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_true. uint8 pixels are read on it, floats are used unscaled, and
        values of X_true beyond it warn.

    Returns
    -------
    Measurement
        Mean over images; ``values`` are at most 1, and NaN, with a warning, where X_true is
        constant.

    Raises
    ------
    ValueError
        For no images, NaN, infinity, or images of two shapes.

    Examples
    --------
    >>> from skpspc.inspection import r2_score
    >>> r2_score([[0.0, 0.5, 1.0]], [[0.0, 0.5, 0.5]])
    r2_score 0.5 (n=1, data_range=(-1, 1))
    """

    def measure(x, y):
        return 1 - _ratio(_squares(x, y), np.square(_centred(x)).mean(1))

    return _of_pairs("r2_score", X_true, X_pred, data_range, _flat(measure))


def ssim(X_true: ArrayLike, X_pred: ArrayLike, *, data_range: DataRange = (-1, 1)) -> Measurement:
    """Return the structural similarity, computed by scikit-image.

    Windows are Gaussian with a standard deviation of 1.5 pixels; the constants are those of the
    paper. The mean is over channels and over pixels at least 5 pixels from the border. Images
    smaller than 11 pixels are continued by reflection, and their one or two middle pixels count.

    Parameters
    ----------
    X_true : array or Tensor of shape (n, C, H, W) or (n, d)
        Clean images, or the answers of one denoiser.
    X_pred : array or Tensor of shape (n, C, H, W) or (n, d)
        Estimates of the clean images, or the answers of another denoiser. Flat
        images, and images one pixel high or wide, are compared as signals.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_true, on which the result depends. uint8 pixels are read on it,
        floats are used unscaled, and values of X_true beyond it warn.

    Returns
    -------
    Measurement
        Mean over images; ``values`` are at most 1.

    Raises
    ------
    ImportError
        If scikit-image is missing; the extra ``metrics`` installs it.
    ValueError
        For no images, NaN, infinity, or images of two shapes.

    References
    ----------
    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE
    Transactions on Image Processing 13, 2004, Eq. 13 and sec. III-C.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import ssim
    >>> X = load_digits_images().images
    >>> noise = np.random.default_rng(0).standard_normal((100, 1, 8, 8))
    >>> Z = X[:100] / 127.5 - 1 + 0.5 * noise
    >>> denoised = PSPCDenoiser(patch_size=4).fit(X[100:]).denoise(Z, sigma=0.5)
    >>> ssim(X[:100], denoised)  # doctest: +SKIP
    ssim 0.5971 (n=100, data_range=(-1, 1))
    """
    similarity = _optional.load("skimage.metrics").structural_similarity
    low, high = check_range(data_range)

    def measure(x, y):
        x, y = (_extended(images) for images in (x, y))
        side = min(x.shape[2:])
        return [
            similarity(
                one,
                other,
                data_range=high - low,
                channel_axis=0,
                win_size=min(11, side - 1 + side % 2),
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for one, other in zip(x, y, strict=True)
        ]

    return _of_pairs("ssim", X_true, X_pred, data_range, measure)


def _extended(images):
    """Return images (m, C, ...) without axes of length one; flat images have one channel."""
    n, channels, *sides = (len(images), 1, *images.shape[1:]) if images.ndim == 2 else images.shape
    return images.reshape(n, channels, *([side for side in sides if side > 1] or [1]))
