r"""K-d trees of the training patches at each location, with bounding boxes.

At one location of square windows, the patches of all training images are split at the median of the
principal coordinate of largest variance, again and again, until a cell holds at most `LANES`
patches. `LANES` neighbouring cells are a group. Every cell and group has a bounding box: the limits
of its leading principal coordinates, and of the norm of the other coordinates (the residual norm).
A noisy patch is at least as far from every patch of a cell as from its box.

A tree holds a copy of the patches, sorted by cell. All trees together need nearly h * w times the
memory of the images if windows are much smaller than images.
"""

import math
import weakref
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from .._progress import progress
from .._threads import ForkSafeLock, ThreadPool, n_threads
from ..support.memory import available_bytes
from ..support.windows import square_corners
from ._tree_sizes import LANES, TreeSizes

_SAMPLE = 1024  # patches from which the principal coordinates are learnt


class LocationTrees:
    """Trees of the patches of a training set, for square windows of one size.

    Parameters
    ----------
    training_set : TrainingSet
        On the CPU.
    window : (h, w)
        Height and width of the windows.
    corners : int64 array of shape (P, 2)
        Top and left of the locations, sorted by top.

    Attributes
    ----------
    patches : ndarray of shape (P, cells, d, LANES), uint8 or float32
        Flat patches, with the patches of a cell along the last axis. The last cell is padded with
        copies.
    boxes : float32 ndarray of shape (P, groups, n_box_numbers, LANES)
        Of every cell: lower limits of r principal coordinates, their upper limits, lower and upper
        limit of the residual norm, and log of the sum of the sample weights. The last group is
        padded with boxes of weight 0.
    tops : float32 ndarray of shape (P, tops, n_box_numbers, LANES)
        Bounding boxes of every group.
    basis, centre : float32 ndarray of shape (P, d, r) and (P, d)
        Principal directions, and origin of the coordinates.
    log_weight : float32 ndarray of shape (P, cells, LANES)
        Log sample weights of the patches; empty if weights are equal.

    Raises
    ------
    MemoryError
        If the trees are larger than the available memory (on Linux, where it is known). Nothing has
        been built then.
    """

    def __init__(self, training_set, window, corners):
        self.window, self.corners = tuple(window), corners
        check_memory(training_set, window, len(corners))
        sizes = _sizes(training_set, window)
        self.n, n_locations = sizes.n, len(corners)
        n_cells, r, n_numbers = sizes.n_cells, sizes.n_coordinates, sizes.n_box_numbers
        weight = training_set.log_weight
        weight = np.zeros(0, np.float32) if weight is None else weight.float().numpy()
        dtype = np.uint8 if training_set.is_uint8 else np.float32
        self.patches = np.empty((n_locations, n_cells, sizes.d, LANES), dtype)
        self.boxes = np.empty((n_locations, sizes.n_groups, n_numbers, LANES), np.float32)
        self.tops = np.empty((n_locations, sizes.n_tops, n_numbers, LANES), np.float32)
        self.basis = np.empty((n_locations, sizes.d, r), np.float32)
        self.centre = np.empty((n_locations, sizes.d), np.float32)
        self.log_weight = np.empty((n_locations, n_cells if len(weight) else 0, LANES), np.float32)
        with ThreadPool(n_threads()) as pool, threadpool_limits(1, "blas"):
            for top in progress(np.unique(corners[:, 0]), "indexing rows of patches"):
                strip = training_set.crop(int(top), 0, window[0], training_set.image_shape[2])
                strip = np.ascontiguousarray(strip.stored(slice(0, sizes.n)).numpy())
                locations = np.flatnonzero(corners[:, 0] == top)
                list(pool.map(partial(self._build, strip, weight), locations))

    def _build(self, strip, weight, location):
        """Build the tree of one location from its strip of the images (N, C, h, W)."""
        from . import _tree_numba

        left = int(self.corners[location, 1])
        area = strip[..., left : left + self.window[1]]
        rows = np.linspace(0, self.n - 1, min(self.n, _SAMPLE)).astype(int)
        sample = area[rows].reshape(len(rows), -1).astype(np.float64)
        centre = sample.mean(0)
        vectors = np.linalg.eigh(np.cov(sample.T, ddof=0).reshape(len(centre), -1))[1]
        self.centre[location] = centre
        self.basis[location] = vectors[:, ::-1][:, : self.basis.shape[2]]
        arrays = self.patches, self.boxes, self.tops, self.log_weight
        basis, centre = self.basis[location], self.centre[location]
        _tree_numba.build(area, weight, basis, centre, *(array[location] for array in arrays))

    def __len__(self):
        return len(self.corners)


class TreeCache:
    """Trees of training sets, one `LocationTrees` for each window size, built at first use.

    One thread builds trees while other threads wait. Pickles and files have no trees.
    """

    def __init__(self):
        self._trees: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._lock = ForkSafeLock()

    def at_all_locations(self, training_set, window):
        """Return the trees of all locations, row by row."""
        corners = np.array(square_corners(window, training_set.image_shape), dtype=np.int64)
        return self._once("all", training_set, window, corners)

    def at_trial_locations(self, training_set, window):
        """Return the trees of four locations, at a quarter and three quarters of both sides."""
        height, width = training_set.image_shape[1:]
        grid = height - window[0] + 1, width - window[1] + 1
        tops, lefts = (sorted({n // 4, 3 * n // 4}) for n in grid)
        corners = np.array([(top, left) for top in tops for left in lefts], dtype=np.int64)
        return self._once("trial", training_set, window, corners)

    def _once(self, name, training_set, window, corners):
        with self._lock:
            trees = self._trees.setdefault(training_set, {})
            if (name, window) not in trees:
                trees[name, window] = LocationTrees(training_set, window, corners)
            return trees[name, window]

    def __getstate__(self):
        return {"trees": None}  # not empty, as some pickle protocols then skip __setstate__

    def __setstate__(self, state):
        TreeCache.__init__(self)


def check_memory(training_set, window, n_locations=None):
    """Raise MemoryError if the trees of all locations are larger than the available memory."""
    if n_locations is None:
        n_locations = len(square_corners(window, training_set.image_shape))
    sizes, weighted = _sizes(training_set, window), training_set.log_weight is not None
    itemsize = 1 if training_set.is_uint8 else 4
    strip = sizes.n * math.prod((*training_set.image_shape[::2], window[0]))
    copies = 2 * strip * training_set.images.element_size()
    needed = n_locations * sizes.n_bytes(itemsize, weighted) + copies
    free = available_bytes()
    if free is None or needed <= free:
        return
    fitting = int(len(training_set) * free / needed)
    raise MemoryError(
        f"the trees of the {window[0]} x {window[1]} patches of {len(training_set):,} images need "
        f"{needed / 2**30:.3g} GiB of memory and {free / 2**30:.3g} GiB are available, enough for "
        f"{fitting:,} images; use algorithm='exact' and tol=None, or fewer images."
    )


def _sizes(training_set, window):
    """Return the `TreeSizes` of one location."""
    return TreeSizes(len(training_set), training_set.image_shape[0] * math.prod(window))
