"""Some of the training images, by what they show."""

import numpy as np
import torch

from .memory import rows_that_fit
from .training_set import TrainingSet

# Images whose projections differ by less than this, relative to the largest possible, are one.
_SAME = 1e-12


def hold_out(training_set, n_images, rng):
    """Set some of the different images aside, with all their copies.

    An image that occurs twice is never on both sides, and the split depends neither on the
    order of the images nor on whether copies or sample weights tell how often one occurs.

    Parameters
    ----------
    training_set : TrainingSet
    n_images : int
        How many different images.
    rng : numpy.random.Generator
        Decides which.

    Returns
    -------
    kept : TrainingSet
        The other images, in their order.
    held : TrainingSet
        ``n_images`` different images in random order; copies are counted as weight.

    Raises
    ------
    ValueError
        If nothing would be kept.
    """
    place, n_groups = _places(training_set, rng)
    if n_groups <= n_images:
        raise ValueError(
            f"n_samples={n_groups} different training images are too few to hold out "
            f"n_images={n_images} and to fit on others; fit with more images, or a smaller "
            "n_images."
        )
    kept = training_set.subset((place >= n_images).nonzero().squeeze(1))
    return kept, _one_each(training_set, place, n_images)


def different(training_set, n_images, rng):
    """Different training images in random order; copies are counted as weight.

    Which ones depends on no more than in `hold_out`.

    Parameters
    ----------
    training_set : TrainingSet
    n_images : int
        How many, at most: all of them, if there are fewer.
    rng : numpy.random.Generator
        Decides which.

    Returns
    -------
    TrainingSet
    """
    place, n_groups = _places(training_set, rng)
    return _one_each(training_set, place, min(n_images, n_groups))


def n_different(training_set, codes, n_classes):
    """How many different images each class has.

    Parameters
    ----------
    training_set : TrainingSet
    codes : array of shape (N,), int
        The class of each image.
    n_classes : int

    Returns
    -------
    ndarray of shape (n_classes,), int64
    """
    group = _groups(training_set, np.random.default_rng(0)).cpu().numpy()
    pairs = np.unique(np.column_stack([codes, group]), axis=0)
    return np.bincount(pairs[:, 0], minlength=n_classes)


def _one_each(training_set, place, n_images):
    """One of each group of equal images at the places below ``n_images``, in their order."""
    aside = place < n_images
    rows, places = aside.nonzero().squeeze(1), place[aside]
    weight = training_set.sample_weight
    ones = torch.ones(len(training_set), dtype=torch.float64, device=place.device)
    count = (ones if weight is None else weight)[aside]
    total = count.new_zeros(n_images).index_add_(0, places, count)
    one_each = places.new_empty(n_images)
    one_each[places] = rows
    return TrainingSet(training_set.images[one_each], total, training_set.data_range)


def _places(training_set, rng):
    """Random place of the group of equal images that each is in, (N,), and how many there are."""
    group = _groups(training_set, rng)
    n_groups = int(group.max()) + 1
    return torch.from_numpy(rng.permutation(n_groups)).to(group.device)[group], n_groups


def _groups(training_set, rng):
    """Number of the group of equal images that each is in, (N,), by a random projection."""
    direction = torch.from_numpy(rng.standard_normal(training_set.n_values))
    direction /= direction.norm()
    direction = direction.to(training_set.device)
    row_bytes = 16 * training_set.n_values
    n_rows = rows_that_fit(row_bytes, len(training_set), what="One training image")
    key = torch.cat(
        [
            training_set.take(rows, torch.float64).flatten(1) @ direction
            for rows in training_set.slices(n_rows)
        ]
    )
    key, order = key.sort()
    tolerance = _SAME * training_set.abs_max * training_set.n_values**0.5
    group = torch.zeros_like(order)
    group[order[1:]] = (key.diff() > tolerance).cumsum(0)
    return group
