"""Random subsets of the distinct images of a training set."""

import numpy as np
import torch

from .memory import rows_that_fit
from .training_set import TrainingSet

# Projections of equal images differ at most by this fraction of the largest possible projection.
_TOLERANCE = 1e-12


def hold_out(training_set, n_images, rng):
    """Hold out ``n_images`` distinct images of a training set, with all their copies.

    The split does not depend on the order of the images. Copies of an image and an integer sample
    weight give equal splits.

    Returns
    -------
    kept : TrainingSet
        All other images, in their order, `without_mirrors`.
    held : TrainingSet
        ``n_images`` distinct images in random order; the number of copies becomes the weight.

    Raises
    ------
    ValueError
        If no image is left for ``kept``.
    """
    rank, n_groups = _random_ranks(training_set, rng)
    if n_groups <= n_images:
        raise ValueError(
            f"n_samples={n_groups} distinct training images are too few to hold out "
            f"n_images={n_images} and to fit on the rest; fit with more images, or lower n_images."
        )
    kept = training_set.subset((rank >= n_images).nonzero().squeeze(1))
    held = _one_each(training_set, rank, n_images)
    return without_mirrors(kept, held), held


def without_mirrors(training_set, held):
    """Return a training set without the left-right mirror images of held-out images.

    A denoiser that adds mirror images would otherwise be fitted on held-out images. If nothing
    would be left, all images stay.
    """
    stays = ~_is_one_of(training_set, TrainingSet(held.images.flip(-1), None, held.data_range))
    if stays.all() or not stays.any():
        return training_set
    return training_set.subset(stays.nonzero().squeeze(1))


def n_shared(training_set, held):
    """Return the number of held-out images that are training images, an int."""
    return int(_is_one_of(held, training_set).sum())


def _is_one_of(training_set, others):
    """Return a mask (N,), True for images that equal one of the images of another training set."""
    direction = _direction(training_set, np.random.default_rng(0))
    own = training_set.by_image(_projections, direction)
    others = others.by_image(_projections, direction).to(own.device).sort().values
    after = torch.searchsorted(others, own)
    distance = torch.minimum(
        (own - others[(after - 1).clamp_min(0)]).abs(),
        (own - others[after.clamp_max(len(others) - 1)]).abs(),
    )
    return distance <= _tolerance(training_set)


def different(training_set, n_images, rng):
    """Draw at most ``n_images`` distinct training images in random order, as a `TrainingSet`.

    The number of copies of an image becomes its weight. The draw does not depend on the order of
    the images, and copies and integer weights give equal draws.
    """
    rank, n_groups = _random_ranks(training_set, rng)
    return _one_each(training_set, rank, min(n_images, n_groups))


def n_distinct(training_set):
    """Return the number of distinct images, an int."""
    return int(_groups(training_set, np.random.default_rng(0)).max()) + 1


def n_different(training_set, codes, n_classes):
    """Return the number of distinct images of each class, (n_classes,), from class codes (N,)."""
    group = _groups(training_set, np.random.default_rng(0)).cpu().numpy()
    pairs = np.unique(np.column_stack([codes, group]), axis=0)
    return np.bincount(pairs[:, 0], minlength=n_classes)


def weights_with_copies(training_set):
    """Return the sample weight of each image and its copies together, (N,) float64.

    The weights of distinct images sum to one.
    """
    group = _groups(training_set, np.random.default_rng(0))
    weight = training_set.sample_weight
    weight = (
        torch.ones_like(group, dtype=torch.float64) if weight is None else weight.to(group.device)
    )
    total = weight.new_zeros(int(group.max()) + 1).index_add_(0, group, weight)
    return total[group] / weight.sum()


def log_n_distinct(training_set):
    """Return the entropy of the sample weights of distinct images, log N if they are equal."""
    own = training_set.sample_weight
    total = weights_with_copies(training_set)
    own = torch.ones_like(total) if own is None else own.to(total)
    return -float((own / own.sum()) @ total.log())


def _one_each(training_set, rank, n_images):
    """Return one image of each group of equal images with a rank below ``n_images``, by rank."""
    rows = (rank < n_images).nonzero().squeeze(1)
    rank, weight = rank[rows], training_set.sample_weight
    count = torch.ones_like(rank, dtype=torch.float64) if weight is None else weight[rows]
    total = count.new_zeros(n_images).index_add_(0, rank, count)
    one_each = rank.new_empty(n_images)
    one_each[rank] = rows
    one_each, order = one_each.sort()
    images = training_set.fetched(one_each)[order.argsort()]
    return TrainingSet(images, total, training_set.data_range)


def _random_ranks(training_set, rng):
    """Return the random rank of each image's group of equal images, (N,), and the group count."""
    group = _groups(training_set, rng)
    n_groups = int(group.max()) + 1
    return torch.from_numpy(rng.permutation(n_groups)).to(group.device)[group], n_groups


def _groups(training_set, rng):
    """Return the index of each image's group of equal images, (N,).

    Images count as equal if their projections on a random direction are equal.
    """
    direction = _direction(training_set, rng)
    projection, order = training_set.by_image(_projections, direction).sort()
    group = torch.zeros_like(order)
    group[order[1:]] = (projection.diff() > _tolerance(training_set)).cumsum(0)
    return group


def _direction(training_set, rng):
    """Return a random direction (D,), float64."""
    direction = torch.from_numpy(rng.standard_normal(training_set.n_values))
    return (direction / direction.norm()).to(training_set.device)


def _tolerance(training_set):
    """Return the largest difference of the projections of equal images."""
    return _TOLERANCE * training_set.abs_max * training_set.n_values**0.5


def _projections(training_set, direction):
    """Return the product of each image with a direction (D,), (N,) float64."""
    direction = direction.to(training_set.device)
    row_bytes = 16 * training_set.n_values
    n_rows = rows_that_fit(row_bytes, len(training_set), what="One training image")
    return torch.cat(
        [
            training_set.take(rows, torch.float64).flatten(1) @ direction
            for rows in training_set.slices(n_rows)
        ]
    )
