r"""Square windows, each compared only with nearby training patches, which k-d trees find.

A noisy window is compared with the cells of a tree whose boxes are nearest to it, until the boxes
of all other cells are so far away that their patches have at most a fraction :math:`\varepsilon`
of the mass of the posterior. Let m be the fraction that they have. The mean then differs by m times
the difference between the means of the compared and of the omitted patches, so by at most
:math:`\varepsilon` times the span of the training pixels. The error bound of a pixel is the mean of
the bounds of the windows that cover it.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from .._progress import progress
from .._threads import ThreadPool, n_threads
from .._warnings import warn
from ..support import MirroredTrainingSet, Squares, TrainingSet
from ..support.memory import rows_that_fit
from ..support.windows import overlap_counts
from .box import box
from .location_trees import TreeCache, check_memory
from .posterior import PerWindow
from .softmax import float32_serves

_MOST_VALUES = 100  # of a patch: comparing all is faster for larger ones, and trees would be large
_FEWEST_IMAGES = 10_000  # from which trees are faster by more than they cost
_LEAST_SIGMA = 0.01  # relative to the data: rounding of float32 shows in logits below it
# Rounding of float32 shows in the bounds of boxes if all patches of a window have logits below the
# first limit, or if log weights differ by more than the second.
_DEEPEST, _MOST_UNEQUAL = -(2.0**14), 2.0**13
_OVERFLOW = 2.0**100  # logits beyond it
_LEAST_MISSED = 1e-6  # fraction of the mass: rounding of float32 hides less
_MOST_MISSED = 0.01  # fraction of the mass, whatever the tolerance, for log evidence
_NOISY_IMAGES = 64  # noisy images that search the trees together
_TASKS = 16  # tasks of each thread


@dataclass(frozen=True, eq=False)
class TreeSearch:
    """Search for the training patches that matter for a window.

    Attributes
    ----------
    trees : TreeCache
    tol : float
        Largest error bound, positive.
    always : bool, default False
        Use trees wherever they serve. Otherwise compare all patches where that is faster.
    """

    trees: TreeCache
    tol: float
    always: bool = False

    def warn_not_served(self, z):
        """Warn that trees do not serve the dtype or device of noisy images."""
        warn(
            "k-d trees (tol, or algorithm='kd_tree') serve float32 on the CPU with numba, and these"
            f" noisy images are {z.dtype} on {z.device}: all patches are compared. Pass float32 "
            "images, and fit on float32 or uint8 images to sample."
        )


def check_size(training_set, windows):
    """Warn if trees do not serve windows of this size; raise MemoryError if they do not fit."""
    is_square, n_channels = isinstance(windows, Squares), training_set.image_shape[0]
    n_values = n_channels * windows.h * windows.w if is_square else training_set.n_values
    if not is_square or n_values > _MOST_VALUES:
        warn(
            f"algorithm='kd_tree' serves patches of at most {_MOST_VALUES} values that are smaller "
            f"than the image, and these have {n_values}: all patches are compared. Pass a smaller "
            "patch_size, or algorithm='exact'."
        )
    else:
        check_memory(training_set, (windows.h, windows.w))


def by_tree(z, sigma, training_set, windows, search):
    """Compare all square windows of one size with nearby training patches.

    See `select.compare` for the parameters. Noisy images are float32 on the CPU.
    """
    window = windows.h, windows.w
    served = _served(z, sigma, training_set, window, search)
    trees = _trees(training_set, window, search) if served.any() else None
    if trees is None:
        return box(z, sigma, training_set, windows, "numba")
    groups, exact = [], ~served
    rows_at_once = rows_that_fit(_result_bytes(trees), _NOISY_IMAGES, what="One noisy image")
    for rows in served.nonzero().squeeze(1).split(rows_at_once):
        visited = _visited(trees, z[rows], sigma[rows], training_set, search.tol)
        near = torch.from_numpy(visited.peak.min(0) >= _DEEPEST)
        exact[rows[~near]] = True
        result = _composed(visited, trees, z[rows], training_set)
        groups.append((rows[near], PerWindow(*(array[near] for array in result[:4]))))
    if exact.any():
        rows = exact.nonzero().squeeze(1)
        groups.append((rows, box(z[rows], sigma[rows], training_set, windows, "numba")))
    return PerWindow.gathered([group for group in groups if len(group[0])], len(z))


def _served(z, sigma, training_set, window, search):
    """Return a mask (n,), True for noisy images to search for; unless ``always``, where faster."""
    n_values = training_set.image_shape[0] * math.prod(window)
    served = float32_serves(sigma, training_set) & (sigma >= _LEAST_SIGMA * training_set.abs_max)
    farthest = z.abs().flatten(1).amax(1).double() + training_set.abs_max
    served &= n_values * farthest.square() < _OVERFLOW * sigma.square()
    weight = training_set.log_weight
    served &= weight is None or float(weight.max() - weight.min()) < _MOST_UNEQUAL
    served &= n_values <= _MOST_VALUES and search.tol >= _LEAST_MISSED * training_set.span
    served &= search.always or len(training_set) >= _FEWEST_IMAGES
    served &= type(training_set) in (TrainingSet, MirroredTrainingSet)  # not measured images
    if served.any() and not search.always:
        rows = served.nonzero().squeeze(1)
        served[rows] = _is_faster(z[rows], sigma[rows], training_set, window, search)
    return served


def _is_faster(z, sigma, training_set, window, search):
    """Return a mask (n,), True where searches at a few locations compare few patches."""
    trees = search.trees.at_trial_locations(training_set, window)
    limit = _largest_fraction(trees.patches.shape[2])
    if limit * trees.patches.shape[1] < 1:  # less than one cell
        return torch.zeros(len(z), dtype=torch.bool)
    compared = _visited(trees, z, sigma, training_set, search.tol).compared.mean(0)
    return torch.from_numpy(compared <= limit)


def _largest_fraction(d):
    """Return the largest fraction of compared patches of d values at which trees are faster.

    Measured on CIFAR-10 with N = 12,500 to 50,000 and patches of 27, 75 and 147 values.
    """
    return 0.45 * min(1.0, (27 / d) ** 1.5)


def _trees(training_set, window, search):
    """Return the trees of all locations, or None with a warning if memory is short."""
    try:
        return search.trees.at_all_locations(training_set, window)
    except MemoryError as error:
        if search.always:
            raise
        warn(f"All patches are compared, as {error}")
        return None


def _result_bytes(trees):
    """Return the bytes of the results of one noisy image."""
    return 2 * 4 * len(trees) * (trees.patches.shape[2] + 6)


def _visited(trees, z, sigma, training_set, tol):
    """Return the `_tree_numba.Visited` of noisy images."""
    from . import _tree_numba

    unit = training_set.unit
    stored = ((z.double() - training_set.zero) * unit).float().numpy()
    queries = _tree_numba.Queries(stored, (0.5 / (sigma * unit).square()).float().numpy())
    size = len(trees), len(z)
    mean = np.empty((*size, trees.patches.shape[2]), np.float32)
    numbers = (np.empty(size, np.float32) for _ in range(4))
    visited = _tree_numba.Visited(mean, np.empty(size), *numbers)
    arrays = _tree_numba.Trees(*(getattr(trees, name) for name in _tree_numba.Trees._fields))
    max_missed = np.float32(min(_MOST_MISSED, tol / training_set.span))

    def visit(locations):
        _tree_numba.visit(arrays, queries, locations, trees.window, max_missed, visited)

    n_workers = n_threads()
    ends = np.linspace(0, len(trees), min(len(trees), _TASKS * n_workers) + 1).astype(int).tolist()
    tasks = list(pairwise(ends))
    with ThreadPool(n_workers) as pool:
        for _ in progress(pool.map(visit, tasks), "searching patches", len(tasks)):
            pass
    return visited


def _composed(visited, trees, z, training_set):
    """Return the `PerWindow` of visits to all locations."""
    (h, w), (n, channels, height, width) = trees.window, z.shape
    grid = height - h + 1, width - w + 1
    patches = visited.mean.reshape(*grid, n, channels, h, w)
    mean, bound = np.zeros(z.shape), np.zeros((n, height, width))
    missed = visited.missed.reshape(*grid, n)
    for i in range(h):
        for j in range(w):
            area = ..., slice(i, i + grid[0]), slice(j, j + grid[1])
            mean[area] += patches[..., i, j].transpose(2, 3, 0, 1)
            bound[area] += missed.transpose(2, 0, 1)
    counts = overlap_counts(trees.window, z.shape[1:])
    mean = mean / (counts * training_set.unit) + training_set.zero
    bound = (bound / counts).reshape(n, -1).max(1) * training_set.span
    log_norm = torch.from_numpy(visited.log_norm.T.copy()) + training_set.log_uniform
    return PerWindow(
        torch.from_numpy(mean).to(z),
        log_norm,
        torch.from_numpy(visited.ess.T.copy()),
        torch.from_numpy(bound).to(z),
    )
