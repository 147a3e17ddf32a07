"""Nearest training images, and copies of training images."""

from numbers import Integral

import numpy as np
import torch
from sklearn.utils import gen_batches

from .._validation import as_tensor
from ..posterior.pairs import pair_squares
from ..support import TrainingSet
from ..support.memory import rows_that_fit
from ._images import as_floats, as_images, check_alike
from .metrics import Measurement, check_range, warn_outside

_SPARE = 8  # candidates beside the nearest: distances by matrix products are rounded
_COPY = 1e-5  # of the data range: between a copy by a float32 sampler and its original


def nearest_training_images(X, X_train, n_neighbors=1, *, data_range=(-1, 1)):
    r"""Return the training images nearest to each image, and their distances.

    .. math::

        d(x, x_i) = \sqrt{|x - x_i|^2 / D}

    over the D numbers of an image: a root mean square in the units of the images, the Euclidean
    distance over :math:`\sqrt D`.

    Parameters
    ----------
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        uint8 pixels are read on ``data_range``; floats are used unscaled.
    X_train : array or Tensor of shape (N, C, H, W) or (N, d)
        Read in chunks: uint8 images are never converted as a whole.
    n_neighbors : int, default 1
    data_range : tuple of (low, high), default (-1, 1)
        Values that the uint8 pixels 0 and 255 stand for.

    Returns
    -------
    distances : ndarray of shape (n, n_neighbors), float64
        Increasing. Exact, by subtraction in float64.
    indices : ndarray of shape (n, n_neighbors), int64
        Rows of X_train.

    Raises
    ------
    ValueError
        For no images, NaN, infinity, two shapes, or more neighbours than training images.

    Examples
    --------
    >>> from skpspc.inspection import nearest_training_images
    >>> nearest_training_images([[0.2, 0.0]], [[0.0, 0.0], [1.0, 0.0]], n_neighbors=2)
    (array([[0.1414..., 0.5656...]]), array([[0, 1]]))
    """
    images, train = as_images(X, "X"), as_images(X_train, "X_train")
    check_alike(images, train, "X", "X_train")
    if not (isinstance(n_neighbors, Integral) and 1 <= int(n_neighbors) <= len(train)):
        raise ValueError(
            "n_neighbors must be an int between 1 and the number of training images, "
            f"{len(train)}, got {n_neighbors!r}."
        )
    train = train.reshape(len(train), -1, 1, 1) if train.ndim == 2 else train
    data_range = check_range(data_range)
    training_set = TrainingSet(as_tensor(train), data_range=data_range)
    n_values = training_set.n_values
    n_rows = rows_that_fit(64 * n_values, len(images), what="An image")
    nearest = [
        _nearest(
            as_floats(images[rows], data_range).reshape(-1, n_values), training_set, n_neighbors
        )
        for rows in gen_batches(len(images), n_rows)
    ]
    distances, indices = (np.concatenate(part) for part in zip(*nearest, strict=True))
    return distances, indices


def _nearest(images, training_set, k):
    """Return distances and indices of the nearest training images of a batch (m, D), float64."""
    z = torch.from_numpy(images)
    n_candidates = min(k + _SPARE, len(training_set))
    ids = _candidates(z, training_set, n_candidates).sort(1).values  # ties: the first comes first
    query = torch.arange(len(z)).repeat_interleave(n_candidates)
    squares = pair_squares(z, training_set, query, ids.flatten()).view(ids.shape)
    squares, order = squares.sort(dim=1, stable=True)
    distances = (squares[:, :k] / z.shape[1]).sqrt()
    return distances.numpy(), ids.gather(1, order[:, :k]).numpy()


def _candidates(z, training_set, k):
    """Return rows of the nearest training images, up to the rounding of matrix products."""
    centre = z.mean()  # small numbers cancel less
    n_rows = rows_that_fit(
        16 * (training_set.n_values + len(z)), len(training_set), what="A training image"
    )
    best = z.new_full((len(z), 0), torch.inf)
    ids = torch.empty((len(z), 0), dtype=torch.int64)
    for rows in training_set.slices(n_rows):
        block = training_set.take(rows, z.dtype).flatten(1)
        distances = torch.cdist(z - centre, block - centre)
        number = torch.arange(rows.start, rows.stop).expand(len(z), -1)
        best, ids = torch.cat([best, distances], 1), torch.cat([ids, number], 1)
        best, order = best.topk(min(k, best.shape[1]), dim=1, largest=False)
        ids = ids.gather(1, order)
    return ids


def _measured(name, X, X_train, data_range, n_neighbors, measure):
    """Return a measurement of the distances (n, n_neighbors) to training images."""
    data_range = check_range(data_range)
    images, train = as_images(X, "X"), as_images(X_train, "X_train")
    if len(train) < n_neighbors:
        raise ValueError(
            f"{name} needs {n_neighbors} training images or more, got {len(train)}; pass them all."
        )
    if train.dtype != np.uint8:
        warn_outside(train.min(), train.max(), data_range, "X_train")
    distances, _ = nearest_training_images(images, train, n_neighbors, data_range=data_range)
    values = measure(distances, data_range[1] - data_range[0])
    return Measurement.of(name, values, data_range, n_reference=len(train))


def nearest_training_distance(X, X_train, *, data_range=(-1, 1)):
    r"""Return the distance to the nearest training image, :math:`\min_i \sqrt{|x - x_i|^2 / D}`.

    Parameters
    ----------
    X, X_train
        As in `nearest_training_images`, with its errors.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_train; only recorded.

    Returns
    -------
    Measurement
        Root mean square over pixels, for each image and on average.

    Examples
    --------
    >>> from skpspc.inspection import nearest_training_distance
    >>> nearest_training_distance([[0.3, 0.0]], [[0.0, 0.4], [1.0, 1.0]])
    nearest_training_distance 0.3536 (n=1, n_reference=2, data_range=(-1, 1))
    """
    return _measured(
        "nearest_training_distance", X, X_train, data_range, 1, lambda distances, _: distances[:, 0]
    )


def memorised_fraction(X, X_train, *, ratio=1 / 3, data_range=(-1, 1)):
    r"""Return the fraction of images that are copies of a training image.

    An image is a copy where

    .. math::

        \min_i d(x, x_i) < \tfrac13\, d(x, x_j), \qquad x_j \text{ the second nearest},

    or where the nearest is within 1e-5 of the data range, which finds copies of duplicate
    training images too.

    Parameters
    ----------
    X, X_train
        As in `nearest_training_images`, with its errors; at least two training images.
    ratio : float, default 1/3
        In (0, 1].
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_train.

    Returns
    -------
    Measurement
        Its ``values`` are 0 or 1.

    References
    ----------
    Yoon et al., "Diffusion Probabilistic Models Generalize when They Fail to Memorize", ICML
    2023 workshop on Structured Probabilistic Inference and Generative Modeling.

    Examples
    --------
    >>> from skpspc.inspection import memorised_fraction
    >>> memorised_fraction([[0.1, 0.0], [0.5, 0.5]], [[0.0, 0.0], [1.0, 1.0]])
    memorised_fraction 0.5 (n=2, n_reference=2, data_range=(-1, 1))
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1, got {ratio!r}.")

    def measure(distances, span):
        nearest, second = distances.T
        return (nearest < ratio * second) | (nearest <= _COPY * span)

    return _measured("memorised_fraction", X, X_train, data_range, 2, measure)
