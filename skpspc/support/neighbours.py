"""The training images near a noisy image, by an index over their coordinates."""

import torch

from .._repr import listed
from .._threads import ForkSafeLock
from .coordinates import Coordinates, n_coordinates, row_blocks, spaced_rows
from .index import make_index

_TRAINING_POINTS = 2**17  # that cells and codes are learnt from
_TIE = 1e-6  # distances that differ by less, relatively, are equal: their coordinates are float32


def check_index(factory, training_set):
    """Raise ValueError if a factory string cannot serve a training set; builds nothing."""
    index = make_index(factory, n_coordinates(training_set.n_values), training_set.device)
    index.check_size(len(training_set))


class Neighbours:
    """Searches a training set; the index is built at the first search.

    Parameters
    ----------
    training_set : TrainingSet
    factory : str, default "Flat"
        See `make_index`.
    track : callable, default None
        ``track(blocks)`` passes on the blocks of rows that are still to be added.
    fallback : str, default None
        Factory string of the index to use where there are too few images for ``factory``.

    Attributes
    ----------
    rigorous : bool
        Whether the floors that `search` gives are lower bounds, or estimates.
    """

    def __init__(self, training_set, factory="Flat", track=None, *, fallback=None):
        self.training_set = training_set
        self.factory = factory
        self.fallback = fallback
        self._track = track or iter
        self._coordinates = self._index = None
        self._lock = ForkSafeLock()

    def __repr__(self):
        known = getattr(self, "training_set", None)  # a pickle has none
        about = {} if known is None else {"n": len(known)}
        return listed("Neighbours", {**about, "factory": self.factory})

    def search(self, z, k):
        """The k training images near each of (n, C, H, W); see `Found`.

        Distances are lower bounds, so that images come in the order of what is known of them
        rather than in that of their true distances.
        """
        coordinates, index = self._built()
        return index.search(coordinates(z), k)

    def within(self, z, radius_of, most):
        """All training images that may be within a radius of (n, C, H, W); see `Within`."""
        coordinates, index = self._built()
        return index.within(coordinates(z), radius_of, most)

    def recall(self, z, k):
        """Share of the k training images nearest to each of (n, C, H, W) that are found, (n,).

        Nearest by the coordinates, as in `search`; what ties with the k-th counts.
        """
        coordinates, index = self._built()
        points = coordinates(z)
        found = index.search(points, k).ids
        distances = torch.cat(
            [_distances(points, others) for others in coordinates.of(self.training_set)], dim=1
        )
        kth = distances.kthvalue(k, dim=1, keepdim=True).values
        near = distances.gather(1, found.clamp_min(0)) <= kth * (1 + _TIE)
        return (near & (found >= 0)).sum(1) / k

    def coordinates(self, z):
        """Where images (n, C, H, W) are, (n, n_dims); never farther apart than they are."""
        return self._built()[0](z)

    @property
    def rigorous(self):
        """Whether the floors that `search` gives are lower bounds, or estimates."""
        return self._built()[1].rigorous

    def extend(self, training_set):
        """Take a training set that begins with the present images; new ones are added."""
        known, self.training_set = len(self.training_set), training_set
        if self._index is not None:
            coordinates, index = self._built()
            new = torch.arange(known, len(training_set), device=training_set.device)
            for points in coordinates.of(training_set, new):
                index.add(points)

    def _built(self):
        """Coordinates and index; built at the first call."""
        with self._lock:
            if self._index is None:
                coordinates = self._coordinates or Coordinates(self.training_set)
                try:
                    index = self._trained(self.factory, coordinates)
                except ValueError:
                    if self.fallback is None:
                        raise
                    index = self._trained(self.fallback, coordinates)
                for rows in self._track(row_blocks(self.training_set)):
                    index.add(coordinates(self.training_set.take(rows, torch.float32)))
                self._coordinates, self._index = coordinates, index
            return self._coordinates, self._index

    def _trained(self, factory, coordinates):
        """An index that has learnt its cells and codes from the training set, and is empty."""
        index = make_index(factory, coordinates.n_dims, self.training_set.device)
        learnt_from = spaced_rows(self.training_set, 1 if index.cheap else _TRAINING_POINTS)
        index.train(torch.cat(list(coordinates.of(self.training_set, learnt_from))))
        return index

    def __getstate__(self):
        state = self.__dict__.copy()
        del state["_lock"], state["training_set"]  # whoever owns it puts it back
        state["_track"] = iter
        if self._index is not None and self._index.cheap:  # sooner built than read
            state["_index"] = None
        return state

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=ForkSafeLock())


def _distances(points, others):
    """Distances (n, m), float64, of (n, d) and (m, d), by subtraction."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points.double(), others.double(), compute_mode=exact)


class Recall:
    """What was found for noisy images on their way, as long as it serves for where they are now.

    A training image that was farther than r is still farther than r minus the way gone since
    (the bound of Hamerly's k-means). On a sampler's last steps a noisy image moves straight
    towards the one training image that is left, and no search is needed any more.
    """

    def __init__(self):
        self._known = None

    def __repr__(self):
        return f"Recall(n={0 if self._known is None else len(self._known[0])})"

    def remember(self, points, found):
        """Keep what was found for noisy images at these coordinates (n, n_dims)."""
        self._known = points.double(), found

    def within(self, points):
        """What is still known now that they are here: a `Within`, or None if that is nothing.

        Its radius is what is left of the one before, at least zero.
        """
        if self._known is None or len(points) != len(self._known[0]):
            return None
        before, found = self._known
        gone = (points.double() - before).norm(dim=1)
        return found._replace(radius=(found.radius - gone).clamp_min(0))
