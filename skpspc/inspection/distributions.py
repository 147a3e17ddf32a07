"""Distances between two sets of images, from the features of a network."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.utils import check_array, check_random_state, gen_batches

from .._typing import ArrayLike, DataRange
from ..support.training_set import to_compute
from ._images import as_images, check_alike, check_count
from .metrics import Measurement, check_range


def fid(
    X_true: ArrayLike,
    X: ArrayLike,
    feature: Callable[[torch.Tensor], Any],
    *,
    batch_size: int = 256,
    data_range: DataRange = (-1, 1),
) -> Measurement:
    r"""Return the Fréchet distance between the features of two sets of images.

    .. math::

        |\mu - \nu|^2 + \operatorname{tr}\bigl(S + T - 2 (S T)^{1/2}\bigr)

    :math:`\mu, \nu` are the means and :math:`S, T` the unbiased covariances of the features.

    Parameters
    ----------
    X_true : array or Tensor of shape (N, C, H, W) or (N, d)
        Real images. uint8 pixels are read on ``data_range``; floats are used unscaled.
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Generated images, shaped like the real images.
    feature : callable
        ``feature(images)`` maps a float32 Tensor (m, C, H, W), or (m, d), to an array or Tensor
        (m, n_features). The usual FID takes the last pooling layer of an Inception network.
        Compare values of one feature and of equal n only: fewer images give larger values.
    batch_size : int, default 256
        Images per call of ``feature``.
    data_range : tuple of (low, high), default (-1, 1)
        Values that the uint8 pixels 0 and 255 stand for; recorded in the result.

    Returns
    -------
    Measurement
        The distance; ``n`` counts X and ``n_reference`` counts X_true.

    Raises
    ------
    ValueError
        For fewer than two images, NaN, infinity, images of two shapes, or a ``feature`` that is
        no function or does not return one row per image.

    References
    ----------
    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium", NeurIPS 2017, Eq. 6.

    Examples
    --------
    A shift of all four features by 2 is a squared distance of 4 x 2^2:

    >>> import numpy as np
    >>> from skpspc.inspection import fid
    >>> X = np.random.default_rng(0).normal(size=(100, 4))
    >>> result = fid(X, X + 2.0, feature=lambda x: x, data_range=(-3, 3))
    >>> round(result, 4)
    16.0

    The usual FID of images (n, 3, H, W), from the Inception network of torchmetrics, which takes
    uint8 images, needs torch-fidelity and downloads weights:

    >>> from torchmetrics.image import fid as metric  # doctest: +SKIP
    >>> inception = metric.FrechetInceptionDistance().inception  # doctest: +SKIP
    >>> def feature(images):
    ...     return inception(((images.clamp(-1, 1) + 1) * 127.5).round().byte())
    >>> fid(X_true, X, feature)  # doctest: +SKIP
    """
    true, other = _features_of_both(X_true, X, feature, batch_size, data_range)
    root, other_root = (_covariance_root(features) for features in (true, other))
    # With S = R^T R and T = Q^T Q the eigenvalues of S T are the squared singular values of R Q^T.
    # For fewer images than features S T has no matrix root.
    cross = np.linalg.norm(root @ other_root.T, "nuc")
    shift = np.square(true.mean(0) - other.mean(0)).sum()
    value = shift + np.square(root).sum() + np.square(other_root).sum() - 2 * cross
    about = {"n": len(other), "n_reference": len(true)}
    return Measurement.of("fid", [max(value, 0.0)], check_range(data_range), **about)


def kid(
    X_true: ArrayLike,
    X: ArrayLike,
    feature: Callable[[torch.Tensor], Any],
    *,
    subset_size: int = 1000,
    n_subsets: int = 100,
    batch_size: int = 256,
    random_state: int | np.random.RandomState | None = 0,
    data_range: DataRange = (-1, 1),
) -> Measurement:
    r"""Return the kernel distance between the features of two sets of images.

    .. math::

        \operatorname{mean}_{i \ne j} k(a_i, a_j) + \operatorname{mean}_{i \ne j} k(b_i, b_j)
        - 2 \operatorname{mean}_{i, j} k(a_i, b_j),
        \qquad k(a, b) = (a \cdot b / d + 1)^3

    :math:`a_i, b_j` are the features of the two sets, d numbers each. The distance is the squared
    maximum mean discrepancy. It is unbiased for any number of images, and may be negative.

    Parameters
    ----------
    X_true : array or Tensor of shape (N, C, H, W) or (N, d)
        Real images. uint8 pixels are read on ``data_range``; floats are used unscaled.
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Generated images, shaped like the real images.
    feature : callable
        ``feature(images)`` maps a float32 Tensor (m, C, H, W), or (m, d), to an array or Tensor
        (m, n_features).
    subset_size : int, default 1000
        Images of each set in a subset; a smaller set is used whole.
    n_subsets : int, default 100
        Random subsets to average; one subset if both sets are used whole.
    batch_size : int, default 256
        Images per call of ``feature``.
    random_state : int, RandomState or None, default 0
        Seed or generator of the subsets.
    data_range : tuple of (low, high), default (-1, 1)
        Values that the uint8 pixels 0 and 255 stand for; recorded in the result.

    Returns
    -------
    Measurement
        Mean distance; ``values`` holds one distance per subset.

    Raises
    ------
    ValueError
        For fewer than two images, NaN, infinity, images of two shapes, or a ``feature`` that is
        no function or does not return one row per image.

    References
    ----------
    Binkowski et al., "Demystifying MMD GANs", ICLR 2018, Eq. 4.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc.inspection import kid
    >>> X = np.random.default_rng(0).normal(size=(400, 4))
    >>> options = {"feature": lambda images: images, "data_range": (-3, 3)}
    >>> near = kid(X[:200], X[200:], **options)
    >>> far = kid(X[:200], X[200:] + 1, **options)
    >>> print(f"one distribution {near:.2f}, shifted by 1 {far:.2f}")
    one distribution 0.00, shifted by 1 9.91

    For the usual KID pass the Inception feature of the example of `fid`.
    """
    for name, count, least in (("subset_size", subset_size, 2), ("n_subsets", n_subsets, 1)):
        check_count(count, name, least)
    true, other = _features_of_both(X_true, X, feature, batch_size, data_range)
    sizes = [min(subset_size, len(features)) for features in (true, other)]
    if sizes == [len(true), len(other)]:
        n_subsets = 1
    rng = check_random_state(random_state)
    values = []
    for _ in range(n_subsets):
        drawn = [
            features[rng.choice(len(features), size, replace=False)]
            for features, size in zip((true, other), sizes, strict=True)
        ]
        values.append(_discrepancy(*drawn))
    about = {"n": len(other), "n_reference": len(true)}
    return Measurement.of("kid", values, check_range(data_range), **about)


def _features_of_both(X_true, X, feature, batch_size, data_range):
    """Return the features of both sets, (N, d) and (n, d), float64."""
    if not callable(feature):
        raise ValueError(
            f"feature must be a function of images, such as a network, got {feature!r}; to compare "
            "pixels pass lambda images: images.flatten(1)."
        )
    true, other = as_images(X_true, "X_true"), as_images(X, "X")
    check_alike(true, other, "X_true", "X")
    if min(len(true), len(other)) < 2:
        raise ValueError(
            f"X_true and X must hold at least two images each, got {len(true)} and {len(other)}."
        )
    data_range = check_range(data_range)
    return tuple(_features(images, feature, batch_size, data_range) for images in (true, other))


def _features(images, feature, batch_size, data_range):
    """Return the features of images, (n, d) float64."""
    parts = []
    for rows in gen_batches(len(images), batch_size):
        batch = to_compute(torch.from_numpy(images[rows].copy()), torch.float32, data_range)
        with torch.no_grad():
            answer = feature(batch)
        if isinstance(answer, torch.Tensor):
            answer = answer.detach().cpu().numpy()
        if np.ndim(answer) != 2 or len(answer) != len(batch):
            raise ValueError(
                f"feature must map {len(batch)} images to an array of shape ({len(batch)}, "
                f"n_features), got shape {np.shape(answer)}; flatten its answer."
            )
        parts.append(check_array(answer, dtype=np.float64, input_name="feature(images)"))
    return np.concatenate(parts)


def _covariance_root(features):
    """Return R, at most d rows (r, d), with R^T R the covariance of features (n, d)."""
    centred = (features - features.mean(0)) / math.sqrt(len(features) - 1)
    return np.linalg.qr(centred, mode="r")


def _discrepancy(a, b):
    """Return the unbiased squared maximum mean discrepancy of two sets of features."""

    def within(x):
        kernel = polynomial_kernel(x, degree=3)  # (x.y / d + 1)^3
        return (kernel.sum() - kernel.trace()) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * polynomial_kernel(a, b, degree=3).mean()
