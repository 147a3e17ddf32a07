"""Search for the nearest training images of noisy images, by an index of search coordinates."""

import torch
from tqdm.auto import tqdm

from ..._repr import listed
from ..._threads import ForkSafeLock
from .coordinates import Coordinates, row_blocks, spaced_rows
from .factory import make_index

_TRAINING_POINTS = 2**17  # training images from which cells and codes are learnt
_TIE = 1e-6  # distances with a smaller relative difference count as equal: coordinates are float32


class Neighbours:
    """Search for nearest neighbours in a training set; the first search builds the index.

    A pickle or a copy has no training set: assign ``training_set`` before the next search. It also
    has no index if building the index is faster than reading it.

    Parameters
    ----------
    training_set : TrainingSet
    factory : str, default "Flat"
        Factory string of the index, see `make_index`.
    fallback : str, default None
        Factory string of the index to use if there are too few images for ``factory``.
    """

    def __init__(self, training_set, factory="Flat", *, fallback=None):
        self.training_set = training_set
        self.factory = factory
        self.fallback = fallback
        self._coordinates = self._index = None
        self._n_trained = None  # images from which the index was learnt; None: all
        self._lock = ForkSafeLock()

    def __repr__(self):
        training_set = getattr(self, "training_set", None)
        size = {} if training_set is None else {"n": len(training_set)}
        return listed("Neighbours", {**size, "factory": self.factory})

    def search(self, z, k):
        """Return the k nearest training images of each image z (n, C, H, W); see `Found`.

        Training images are sorted by lower bounds of their distances.
        """
        coordinates, index = self._built()
        unit, found = coordinates.unit, index.search(coordinates(z), k)
        return found._replace(distances=found.distances * unit, floor=found.floor * unit)

    def within(self, z, radius_of, most):
        """Return all training images that may be within a radius of images z; see `Within`."""
        coordinates, index = self._built()
        unit = coordinates.unit
        found = index.within(coordinates(z), lambda *pairs: radius_of(*pairs) / unit, most)
        return found._replace(radius=found.radius * unit)

    def recall(self, z, k):
        """Return the fraction of the k nearest training images that the index finds, (n,).

        Distances are those of the search coordinates. A tie with the k-th nearest image counts.
        """
        coordinates, index = self._built()
        points = coordinates(z)
        ids = index.search(points, k).ids
        distances = torch.cat(
            [_distances(points, block) for block in coordinates.of(self.training_set)], dim=1
        )
        kth = distances.kthvalue(k, dim=1, keepdim=True).values
        near = distances.gather(1, ids.clamp_min(0)) <= kth * (1 + _TIE)
        return (near & (ids >= 0)).sum(1) / k

    def coordinates(self, z):
        """Return the search coordinates (n, n_dims), float64, of images, in the images' unit."""
        coordinates = self._built()[0]
        return coordinates(z).double() * coordinates.unit

    @property
    def rigorous(self):
        """True if the floors of `search` are lower bounds, False if floors are estimates."""
        return self._built()[1].rigorous

    def extended(self, training_set):
        """Return the search of a training set that begins with the present images.

        A built index is copied and the new images are added to the copy, so that this object
        keeps searching the present images. If the new images are too large for its coordinates,
        the next search builds an index of all images.
        """
        other = Neighbours(training_set, self.factory, fallback=self.fallback)
        if self._coordinates is None or not self._coordinates.serve(training_set):
            return other
        other._coordinates, other._n_trained = self._coordinates, self._n_trained
        if self._index is not None:
            other._coordinates, index = self._built()
            other._index = index.copied()
            rows = torch.arange(len(self.training_set), len(training_set))
            for points in other._coordinates.of(training_set, rows.to(training_set.device)):
                other._index.add(points)
        return other

    def build(self, verbose=0):
        """Build the index if it is missing; above 0, ``verbose`` shows a progress bar.

        The training set becomes contiguous in memory, so that single images are read fast.
        """
        self._built(verbose)

    def _built(self, verbose=0):
        """Return the `Coordinates` and the index; the first call builds both."""
        with self._lock:
            if not self.training_set.images.is_contiguous():
                self.training_set = self.training_set.contiguous()
            if self._index is None:
                learnt_from = self.training_set.subset(slice(self._n_trained))
                coordinates = self._coordinates or Coordinates(learnt_from)
                try:
                    index = _trained(self.factory, coordinates, learnt_from)
                except ValueError:
                    if self.fallback is None:
                        raise
                    index = _trained(self.fallback, coordinates, learnt_from)
                blocks = coordinates.of(self.training_set)
                n_blocks = len(row_blocks(self.training_set))
                for points in tqdm(blocks, "indexing", n_blocks, disable=verbose <= 0):
                    index.add(points)
                self._coordinates, self._index = coordinates, index
                self._n_trained = len(learnt_from)
            return self._coordinates, self._index

    def __getstate__(self):
        state = vars(self).copy()
        del state["_lock"]
        state.pop("training_set", None)
        if self._index is not None and self._index.cheap:
            state["_index"] = None
        return state

    def _file_state(self):
        """Return the state without an index, which faiss cannot read safely from any file.

        The next search builds the index from the images from which it was learnt before.
        """
        return {**self.__getstate__(), "_index": None}

    def __setstate__(self, state):
        vars(self).update(state, _lock=ForkSafeLock())


def _trained(factory, coordinates, training_set):
    """Return an empty index with cells and codes learnt from a training set."""
    index = make_index(factory, coordinates.n_dims, training_set.device)
    rows = spaced_rows(training_set, 1 if index.cheap else _TRAINING_POINTS)
    index.train(torch.cat(list(coordinates.of(training_set, rows))))
    return index


def _distances(points, others):
    """Return distances (n, m), float64, of (n, d) and (m, d), by subtraction."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points.double(), others.double(), compute_mode=exact)


class Recall:
    """Neighbours of the previous sampler step, reused while the triangle inequality allows.

    A training image farther than r from a noisy image is still farther than r minus the distance
    that the noisy image has moved (the bound of Hamerly's k-means). In its last steps a sampler
    moves straight towards one training image, and no further search is needed.
    """

    def __init__(self):
        self._previous = None

    def __repr__(self):
        return f"Recall(n={0 if self._previous is None else len(self._previous[0])})"

    def remember(self, points, within):
        """Keep the `Within` of noisy images at coordinates (n, n_dims)."""
        self._previous = points.double(), within

    def within(self, points):
        """Return the `Within` of the noisy images at new coordinates (n, n_dims), or None.

        Its radii are the previous ones less the distances moved, at least 0. None: nothing was
        kept, or it was kept of another number of images.
        """
        if self._previous is None or len(points) != len(self._previous[0]):
            return None
        before, within = self._previous
        moved = (points.double() - before).norm(dim=1)
        return within._replace(radius=(within.radius - moved).clamp_min(0))
