"""Nearest training images, and copies of training images."""

from functools import partial
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import gen_batches

from .._progress import progress, showing
from .._typing import ArrayLike, DataRange
from .._validation import as_tensor
from ..posterior.pairs import pair_squares
from ..support import TrainingSet
from ..support.devices import Each
from ..support.memory import rows_that_fit
from ..support.sharded import ShardedImages
from ._images import as_floats, as_images, check_alike
from ._training import training_images
from .metrics import Measurement, check_range, warn_outside

_SPARE = 8  # candidates beside the nearest: distances by matrix products are rounded
_COPY = 1e-5  # of the data range: between a copy by a float32 sampler and its original


def nearest_training_images(
    X: ArrayLike,
    X_train: ArrayLike,
    n_neighbors: int = 1,
    *,
    data_range: DataRange = (-1, 1),
    verbose: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the training images nearest to each image, and their distances.

    .. math::

        d(x, x_i) = \sqrt{|x - x_i|^2 / D}

    D is the number of values in an image. The distance is a root mean square over pixels, in the
    units of the images: the Euclidean distance divided by :math:`\sqrt D`.

    Parameters
    ----------
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Images to look up, such as samples. uint8 pixels are read on ``data_range``; floats are
        used unscaled.
    X_train : array, Tensor or dask array of shape (N, C, H, W) or (N, d)
        Training images. uint8 images are converted in chunks, never as a whole. The blocks of a
        dask array stay on the workers.
    n_neighbors : int, default 1
        Number of training images to return for each image.
    data_range : tuple of (low, high), default (-1, 1)
        Values that the uint8 pixels 0 and 255 stand for.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    distances : ndarray of shape (n, n_neighbors), float64
        Distances in increasing order, computed by subtraction in float64.
    indices : ndarray of shape (n, n_neighbors), int64
        Rows of X_train.

    Raises
    ------
    ValueError
        For no images, NaN, infinity, images of two shapes, or more neighbours than training
        images.

    Examples
    --------
    >>> from skpspc.inspection import nearest_training_images
    >>> X_train = [[0.0, 0.0], [1.0, 0.0]]
    >>> nearest_training_images([[0.2, 0.0]], X_train, n_neighbors=2)
    (array([[0.1414..., 0.5656...]]), array([[0, 1]]))
    """
    images, train = as_images(X, "X"), training_images(X_train, "X_train")
    if isinstance(train, ShardedImages) and images.ndim == 2:  # flat images in shards are rows
        images = images.reshape(len(images), 1, 1, -1)
    check_alike(images, train, "X", "X_train")
    if not (isinstance(n_neighbors, Integral) and 1 <= int(n_neighbors) <= len(train)):
        raise ValueError(
            "n_neighbors must be an int between 1 and the number of training images, "
            f"{len(train)}, got {n_neighbors!r}."
        )
    data_range = check_range(data_range)
    if isinstance(train, ShardedImages):
        training_set = train.training_set(None, data_range)
    else:
        train = train.reshape(len(train), -1, 1, 1) if train.ndim == 2 else train
        training_set = TrainingSet(as_tensor(train), data_range=data_range)
    n_values = training_set.n_values
    n_rows = rows_that_fit(64 * n_values, len(images), what="An image")
    batches = list(gen_batches(len(images), n_rows))
    with showing(verbose):
        nearest = [
            _nearest(
                as_floats(images[rows], data_range).reshape(-1, n_values), training_set, n_neighbors
            )
            for rows in progress(batches, "batches of images")
        ]
    distances, indices = (np.concatenate(part) for part in zip(*nearest, strict=True))
    return distances, indices


def _nearest(images, training_set, k):
    """Return distances and indices of the nearest training images of a batch (m, D), float64."""
    z = torch.from_numpy(images)
    arguments = z, k, Each(training_set.first_images)
    squares, ids = training_set.reduced(_nearest_in_shard, partial(_first, k), *arguments)
    return (squares / z.shape[1]).sqrt().numpy(), ids.numpy()


def _nearest_in_shard(shard, z, k, first_row):
    """Return squared distances and rows of the k nearest images of a shard, or of all, (m, k)."""
    z = z.to(shard.device)
    n_candidates = min(k + _SPARE, len(shard))
    ids = _candidates(z, shard, n_candidates)
    query = torch.arange(len(z), device=z.device).repeat_interleave(n_candidates)
    squares = pair_squares(z, shard, query, ids.flatten()).view(ids.shape)
    return _first(k, [(squares.cpu(), ids.cpu() + first_row)])


def _first(k, parts):
    """Return the k least squared distances and their rows; of ties, the first row comes first."""
    squares, ids = (torch.cat(column, 1) for column in zip(*parts, strict=True))
    ids, order = ids.sort(1)
    squares, nearest = squares.gather(1, order).sort(dim=1, stable=True)
    return squares[:, :k], ids.gather(1, nearest[:, :k])


def _candidates(z, training_set, k):
    """Return rows of the nearest training images, up to the rounding of matrix products."""
    centre = z.mean()  # small numbers cancel less
    n_rows = rows_that_fit(
        16 * (training_set.n_values + len(z)), len(training_set), what="A training image"
    )
    best = z.new_full((len(z), 0), torch.inf)
    ids = torch.empty((len(z), 0), dtype=torch.int64, device=z.device)
    for rows in progress(list(training_set.slices(n_rows)), "blocks of training images"):
        block = training_set.take(rows, z.dtype).flatten(1)
        distances = torch.cdist(z - centre, block - centre)
        number = torch.arange(rows.start, rows.stop, device=z.device).expand(len(z), -1)
        best, ids = torch.cat([best, distances], 1), torch.cat([ids, number], 1)
        best, order = best.topk(min(k, best.shape[1]), dim=1, largest=False)
        ids = ids.gather(1, order)
    return ids


def _measured(name, X, X_train, data_range, n_neighbors, measure):
    """Return a measurement of the distances (n, n_neighbors) to training images."""
    data_range = check_range(data_range)
    images, train = as_images(X, "X"), training_images(X_train, "X_train")
    if len(train) < n_neighbors:
        raise ValueError(
            f"{name} needs at least {n_neighbors} training images, got {len(train)}; pass the "
            "whole training set."
        )
    if train.dtype not in (np.uint8, torch.uint8):
        warn_outside(train.min(), train.max(), data_range, "X_train")
    distances, _ = nearest_training_images(images, train, n_neighbors, data_range=data_range)
    values = measure(distances, data_range[1] - data_range[0])
    return Measurement.of(name, values, data_range, n_reference=len(train))


def nearest_training_distance(
    X: ArrayLike, X_train: ArrayLike, *, data_range: DataRange = (-1, 1), verbose: int = 0
) -> Measurement:
    r"""Return the distance to the nearest training image, :math:`\min_i \sqrt{|x - x_i|^2 / D}`.

    Parameters
    ----------
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Images to look up, such as samples. uint8 pixels are read on ``data_range``; floats are
        used unscaled.
    X_train : array, Tensor or dask array of shape (N, C, H, W) or (N, d)
        Training images. uint8 images are converted in chunks, never as a whole. The blocks of a
        dask array stay on the workers.
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_train, recorded in the result.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    Measurement
        Mean over images of the root mean square over pixels, in the units of the images;
        ``values`` holds one distance per image.

    Raises
    ------
    ValueError
        For no images, NaN, infinity, or images of two shapes.

    Examples
    --------
    >>> from skpspc.inspection import nearest_training_distance
    >>> nearest_training_distance([[0.3, 0.0]], [[0.0, 0.4], [1.0, 1.0]])
    nearest_training_distance 0.3536 (n=1, n_reference=2, data_range=(-1, 1))
    """
    with showing(verbose):
        return _measured(
            "nearest_training_distance",
            X,
            X_train,
            data_range,
            1,
            lambda distances, _: distances[:, 0],
        )


def memorised_fraction(
    X: ArrayLike,
    X_train: ArrayLike,
    *,
    ratio: float = 1 / 3,
    data_range: DataRange = (-1, 1),
    verbose: int = 0,
) -> Measurement:
    r"""Return the fraction of images that are copies of a training image.

    An image is a copy if its nearest training image is at less than a third of the distance of
    the second nearest,

    .. math::

        \min_i d(x, x_i) < \tfrac13\, d(x, x_j), \qquad x_j \text{ the second nearest},

    or if its nearest training image is within 1e-5 of the data range. The second rule finds copies
    of training images that occur twice.

    Parameters
    ----------
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Images to look up, such as samples. uint8 pixels are read on ``data_range``; floats are
        used unscaled.
    X_train : array, Tensor or dask array of shape (N, C, H, W) or (N, d)
        Training images, at least two. uint8 images are converted in chunks, never as a whole. The
        blocks of a dask array stay on the workers.
    ratio : float, default 1/3
        Largest ratio of the two distances for a copy, in (0, 1].
    data_range : tuple of (low, high), default (-1, 1)
        Range of the values of X_train.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    Measurement
        Fraction of copies; ``values`` holds 1 for a copy and 0 for another image.

    Raises
    ------
    ValueError
        For no images, NaN, infinity, images of two shapes, fewer than two training images, or a
        ratio out of range.

    References
    ----------
    Yoon et al., "Diffusion Probabilistic Models Generalize when They Fail to Memorize", ICML
    2023 workshop on Structured Probabilistic Inference and Generative Modeling.

    Examples
    --------
    All samples of the optimal denoiser are copies of training images, and no sample of PSPC is:

    >>> from skpspc import EmpiricalDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import memorised_fraction
    >>> X = load_digits_images().images
    >>> for model in EmpiricalDenoiser(), PSPCDenoiser(patch_size=4):
    ...     memorised_fraction(model.fit(X).sample(n=20, random_state=0), X)
    memorised_fraction 1 (n=20, n_reference=1797, data_range=(-1, 1))
    memorised_fraction 0 (n=20, n_reference=1797, data_range=(-1, 1))
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1, got {ratio!r}.")

    def measure(distances, span):
        nearest, second = distances.T
        return (nearest < ratio * second) | (nearest <= _COPY * span)

    with showing(verbose):
        return _measured("memorised_fraction", X, X_train, data_range, 2, measure)
