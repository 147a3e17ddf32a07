"""Search by FAISS: flat indexes, cells, compressed codes and graphs, on a CPU or a GPU."""

from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from ..._optional import available, load
from ..._threads import n_threads
from ..._warnings import warn
from .results import LEADERS, Found, Within, rounding

_EXAMPLES = '"Flat", "IVF256,Flat", "PCA32,IVF256,SQ8", "SQ8", "HNSW32"'
# Indexes that compare every decoded code of the visited cells.
_EXHAUSTIVE = {
    "IndexFlat",
    "IndexFlatL2",
    "IndexScalarQuantizer",
    "IndexPQ",
    "IndexIVFFlat",
    "IndexIVFScalarQuantizer",
    "IndexIVFPQ",
}
# Transforms and indexes with other distances than Euclidean.
_NOT_EUCLIDEAN = {
    "NormalizationTransform",
    "ITQTransform",
    "IndexLSH",
    "IndexLattice",
}
_WITH_OWN_IDS = {"IndexIDMap", "IndexIDMap2"}
_FIRST_K, _K_GROWTH = 512, 4  # k of the first search within a radius, and its growth factor
_GPU_MAX_K, _GPU_SHARD_SIZE = 2048, 2**17


@contextmanager
def faiss_threads():
    """Let faiss compute on `n_threads` threads within the context."""
    faiss = load("faiss")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class FaissIndex:
    """An index of FAISS, made from its factory string.

    Points are stored in shards, as a GPU limits the k of a search in one shard.

    Parameters
    ----------
    factory : str
        Factory string, such as "Flat", "IVF256,Flat", "HNSW32" or "PCA32,IVF256,SQ8".
    n_dims : int
        Number of coordinates of a point.
    device : {"cpu", "cuda", "auto"}, default "cpu"
        "auto" is "cuda" if there are a GPU build of FAISS and a CUDA device, else "cpu".
    max_k : int, default None
        Largest k of a search in one shard. None: unlimited on the CPU, 2048 on a GPU.
    shard_size : int, default None
        Largest number of points in a shard. None: unlimited on the CPU, 131,072 on a GPU.

    Attributes
    ----------
    rigorous : bool
        True if floors are lower bounds, False if floors are estimates; False before training.
    cheap : bool
        True if the index is built faster than read from a file.

    Raises
    ------
    ImportError
        If faiss is missing.
    ValueError
        If faiss does not accept the factory string, if the index does not compare points by
        Euclidean distances or does not number them by itself, or if "cuda" is not available.
    """

    def __init__(self, factory, n_dims, device="cpu", *, max_k=None, shard_size=None):
        faiss = load("faiss")
        self.factory = factory
        self.cheap = factory == "Flat"
        self.rigorous = False
        self._on_gpu = _use_gpu(faiss, device)
        if self._on_gpu:
            max_k, shard_size = max_k or _GPU_MAX_K, shard_size or _GPU_SHARD_SIZE
        self._max_k, self._shard_size = max_k, shard_size
        self._keep_empty(_from_factory(factory, n_dims))
        self._n_cells = getattr(self._empty_index, "nlist", None)
        self._centroids = np.empty((0, n_dims), np.float32)
        self._radii = np.empty(0)  # of cells; -inf for empty cells
        self._code_error = 0.0
        self._largest_norm = 0.0
        self._shards = []  # (faiss index, id of its first point)
        self._n_points = 0

    def __len__(self):
        return self._n_points

    def _keep_empty(self, whole):
        """Store an index without points, from which shards are cloned, and its transforms."""
        self._whole = whole  # owns the other two
        self._transforms, self._empty_index = _unwrapped(load("faiss"), whole)

    @property
    def _keeps_points(self):
        """True if distances are those of the points, False if those of compressed codes."""
        return "Flat" in type(self._empty_index).__name__

    def _quantizer(self):
        return load("faiss").downcast_index(self._empty_index.quantizer)

    def check_size(self, n):
        """Raise ValueError if n points are too few for the number of cells."""
        if self._n_cells is not None and n < self._n_cells:
            raise ValueError(
                f"index={self.factory!r} divides space into {self._n_cells} cells, but there are "
                f"{n} training images; use fewer cells, or index='Flat'."
            )

    @faiss_threads()
    def train(self, points):
        """Learn cells, codes and projections from points (m, n_dims)."""
        points = _as_float32(points)
        self.check_size(len(points))
        n_points, n_dims = points.shape
        _silence_training(self._transforms, self._empty_index)
        try:
            for transform in self._transforms:
                if not transform.is_trained:
                    transform.train(points)
                points = transform.apply(points)
            self._empty_index.train(points)
        except RuntimeError as error:
            raise ValueError(
                f"index={self.factory!r} cannot be trained on {n_points} training images of "
                f"{n_dims} coordinates; use an index with fewer cells, fewer coordinates or "
                "smaller codes, or index='Flat'."
            ) from error
        self.rigorous = _is_rigorous(self._transforms, self._empty_index)
        if self._n_cells is not None:
            self._centroids = self._quantizer().reconstruct_n(0, self._n_cells)
            self._radii = np.full(self._n_cells, -np.inf)

    @faiss_threads()
    def add(self, points):
        """Add points (m, n_dims), float32, numbered in order."""
        points = self._transformed(points)
        norms = np.linalg.norm(points, axis=1)
        self._largest_norm = float(norms.max(initial=self._largest_norm))
        self._measure(points)
        while len(points):
            try:
                n_added = self._fill_shard(points)
            except RuntimeError as error:
                self._leave_gpu(error)
            else:
                self._n_points += n_added
                points = points[n_added:]

    def copied(self):
        """Return a copy; points added to the copy do not change this index.

        Only the last shard is cloned, as `add` changes no other shard.
        """
        other = object.__new__(FaissIndex)  # `copy.copy` would serialise the shards
        vars(other).update(vars(self), _radii=self._radii.copy())
        try:
            last = [(self._to_device(self._to_cpu(i)), first) for i, first in self._shards[-1:]]
        except RuntimeError as error:
            other._leave_gpu(error)
        else:
            other._shards = self._shards[:-1] + last
        return other

    def _fill_shard(self, points):
        """Add points to the last shard, or to a new shard if it is full; return their number."""
        size = self._shard_size or len(points) + self._n_points
        if not self._shards or self._shards[-1][0].ntotal >= size:
            self._shards.append((self._to_device(self._empty_index), self._n_points))
        shard = self._shards[-1][0]
        added = points[: size - shard.ntotal]
        shard.add(added)
        return len(added)

    def _to_device(self, shard):
        """Return a copy of a shard on the CPU, on the device of this index."""
        faiss = load("faiss")
        if not self._on_gpu:
            return faiss.clone_index(shard)
        return faiss.index_cpu_to_gpu(_resources(faiss.StandardGpuResources), 0, shard)

    def _to_cpu(self, shard):
        """Return a copy of a GPU shard on the CPU; return a shard on the CPU unchanged."""
        return load("faiss").index_gpu_to_cpu(shard) if self._on_gpu else shard

    def _leave_gpu(self, error):
        """Move all shards to the CPU after an error on the GPU; raise errors of the CPU."""
        if not self._on_gpu:
            raise error
        warn(f"index={self.factory!r} does not fit the GPU ({error}); searching on the CPU.")
        self._shards = [(self._to_cpu(shard), first) for shard, first in self._shards]
        self._on_gpu, self._max_k, self._shard_size = False, None, None

    def _transformed(self, points):
        points = _as_float32(points)
        for transform in self._transforms:
            points = transform.apply(points)
        return points

    def _measure(self, points):
        """Update the radii of the cells and the largest error of codes, used for floors."""
        if not self.rigorous:
            return
        if self._n_cells is not None:
            squares, cells = self._quantizer().search(points, 1)
            slack = _pair_rounding(points, self._centroids)
            radii = np.sqrt(np.maximum(squares[:, 0], 0) + slack)
            np.maximum.at(self._radii, cells[:, 0], radii)
        if not self._keeps_points:
            decoded = self._empty_index.sa_decode(self._empty_index.sa_encode(points))
            errors = np.linalg.norm((points - decoded).astype(np.float64), axis=1)
            self._code_error = float(errors.max(initial=self._code_error))

    @faiss_threads()
    def search(self, queries, k, reach=None):
        """Return the k nearest points of each query (b, n_dims); see `Found`.

        Parameters
        ----------
        queries : Tensor of shape (b, n_dims), float32, finite
        k : int
            Number of points.
        reach : Tensor of shape (b,), default None
            Visit every cell that may hold a point within these distances, so that the floors reach
            them. None: visit the cells around the query, enough for k points.
        """
        k = min(k, len(self))
        points = self._transformed(queries)
        cells, outside = self._visits(points, k, reach)
        results = [self._search_shard(shard, i, points, k, cells) for shard, i in self._shards]
        squares = np.concatenate([squares for squares, _, _ in results], axis=1)
        ids = np.concatenate([ids for _, ids, _ in results], axis=1)
        order = np.argsort(squares, axis=1, kind="stable")[:, :k]
        squares, ids = (np.take_along_axis(array, order, 1) for array in (squares, ids))
        slack = rounding(torch.from_numpy(points), self._largest_norm)
        distances = (torch.from_numpy(squares).double() - slack[:, None]).clamp_min_(0).sqrt_()
        distances = (distances - self._code_error).clamp_min_(0)
        left_out = self._nearest_left_out(results, distances.numpy(), slack.numpy())
        floor = np.minimum(outside, left_out)
        if not self.rigorous:  # an incomplete row missed points at unknown distances
            floor[ids[:, -1] < 0] = 0
        tensors = torch.from_numpy(ids), distances, torch.from_numpy(floor)
        return Found(*(tensor.to(queries.device) for tensor in tensors))

    def within(self, queries, radius_of, most):
        """Return all points within a radius; see `BruteIndex.within`.

        Searches for k nearest points are repeated with larger k until they reach the radius.
        """
        radius = radius_of(slice(0, len(queries)), self.search(queries, LEADERS).ids)
        pending, k = torch.arange(len(queries), device=queries.device), 0
        pairs = [(pending[:0], pending[:0])]
        while len(pending) and k < most:
            k = min(max(k * _K_GROWTH, _FIRST_K), most)
            found = self.search(queries[pending], k, reach=radius[pending])
            done = found.floor >= radius[pending]
            inside = found.ids >= 0
            if self.rigorous or self._keeps_points:  # distances of other codes are not bounds
                inside &= found.distances < radius[pending, None]
            row, column = (inside & done[:, None]).nonzero().unbind(1)
            pairs.append((pending[row], found.ids[row, column]))
            pending = pending[~done]
        radius[pending] = 0
        query, ids = map(torch.cat, zip(*pairs, strict=True))
        order = torch.from_numpy(np.lexsort((ids.cpu().numpy(), query.cpu().numpy())))
        order = order.to(query.device)
        return Within(query[order], ids[order], radius)

    def _nearest_left_out(self, results, distances, slack):
        """Return lower bounds of the distances of unreturned points in visited cells, (b,)."""
        floor = np.full(len(distances), np.inf)
        k = distances.shape[1]
        if sum(squares.shape[1] for squares, _, _ in results) > k:
            floor = distances[:, -1].copy()
        for squares, ids, complete in results:
            if not complete and squares.shape[1]:
                last = np.sqrt(np.maximum(squares[:, -1].astype(np.float64) - slack, 0))
                last = np.where(ids[:, -1] < 0, np.inf, np.maximum(last - self._code_error, 0))
                floor = np.minimum(floor, last)
        return floor

    def _search_shard(self, shard, first, points, k, cells):
        """Return squared distances and ids, (b, k'), and True if these are the whole shard."""
        limit = min(k, shard.ntotal, self._max_k or k)
        if cells is None:
            squares, ids = shard.search(points, limit)
        else:
            squares, ids = shard.search_preassigned(points, limit, *cells)
        squares = np.where(ids < 0, np.inf, squares)
        return squares, np.where(ids < 0, -1, ids + first), limit == shard.ntotal

    def _visits(self, points, k, reach):
        """Return cells to visit, their squared distances (b, n), and the floor of other cells."""
        if self._n_cells is None:
            return None, np.full(len(points), np.inf)
        squares, order = self._quantizer().search(points, self._n_cells)  # nearest first
        bounds = self._cell_bounds(points, squares, order)
        if reach is None:
            enough = int(np.ceil(4 * k * self._n_cells / max(1, len(self))))
            visited = np.arange(self._n_cells) < max(8, enough)
        else:
            visited = bounds < reach.cpu().numpy()[:, None]
            visited[:, 0] = True
        outside = np.where(visited, np.inf, bounds).min(1)
        return (np.where(visited, order, -1), squares), outside

    def _cell_bounds(self, points, squares, order):
        """Return lower bounds of the distances to the points of each cell, in the given order.

        The first bound is the distance of the centroid minus the radius of the cell. The second is
        the distance of the plane halfway between the centroid and the query's nearest centroid: a
        point is in the cell of its nearest centroid.
        """
        if not self.rigorous:  # points may be in other cells than that of the nearest centroid
            return np.zeros(squares.shape)
        slack = _pair_rounding(points, self._centroids)[:, None]
        least = np.sqrt(np.maximum(squares.astype(np.float64) - slack, 0))
        by_radius = least - self._radii[order]
        nearest = self._centroids[order[:, 0]]
        between = np.linalg.norm(self._centroids[None] - nearest[:, None], axis=2)
        between = np.take_along_axis(between, order, 1).astype(np.float64)
        ahead = squares.astype(np.float64) - squares[:, :1] - 4 * slack
        with np.errstate(divide="ignore", invalid="ignore"):
            by_plane = np.where(between > 0, ahead / (2 * between), 0.0)
        bound = np.maximum(np.maximum(by_radius, by_plane), 0.0)
        return np.where(np.isneginf(self._radii[order]), np.inf, bound)

    def __getstate__(self):
        serialize = load("faiss").serialize_index
        shards = [(serialize(self._to_cpu(shard)), first) for shard, first in self._shards]
        state = {**vars(self), "_whole": serialize(self._whole), "_shards": shards}
        del state["_transforms"], state["_empty_index"]
        return state

    def __setstate__(self, state):
        deserialize = load("faiss").deserialize_index
        vars(self).update(state, _on_gpu=False, _max_k=None, _shard_size=None)
        self._shards = [(deserialize(shard), first) for shard, first in self._shards]
        self._keep_empty(deserialize(self._whole))


def gpu_search(device):
    """Return True if ``device`` is a GPU and faiss can search on it."""
    if torch.device(device).type != "cuda" or not available("faiss"):
        return False
    return _use_gpu(load("faiss"), "auto")


def _as_float32(points):
    return np.ascontiguousarray(points.cpu().numpy(), dtype=np.float32)


def _pair_rounding(points, others):
    """Return error bounds of squared float32 distances of points to others, (len(points),)."""
    largest_norm = float(np.linalg.norm(others, axis=1).max())
    return rounding(torch.from_numpy(points), largest_norm).numpy()


def _use_gpu(faiss, device):
    """Return True to search on a GPU; raise ValueError for device="cuda" without a GPU."""
    has_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    if device == "cuda" and not has_gpu:
        raise ValueError(
            "device='cuda' needs a CUDA device and a GPU build of faiss, and one of them is "
            "missing; use device='cpu' or 'auto'."
        )
    if device == "auto" and not has_gpu and torch.cuda.is_available():
        _warn_no_gpu_build()
    return has_gpu and device != "cpu"


@cache
def _warn_no_gpu_build():
    warn(
        "there is a CUDA device, but faiss is built for the CPU, so the search runs on the CPU; "
        "install a GPU build of faiss (faiss-gpu) to use the device."
    )


@cache
def _resources(standard_gpu_resources):
    """Return the resources of the GPU, made only once, as they reserve memory."""
    return standard_gpu_resources()


def _from_factory(factory, n_dims):
    """Return the untrained index of a factory string; raise ValueError if it is unsuitable."""
    faiss = load("faiss")
    try:
        whole = faiss.index_factory(n_dims, factory)
    except RuntimeError as error:
        reason = str(error).rpartition(": ")[2]
        raise ValueError(
            f"index must be a factory string of faiss, such as {_EXAMPLES} or, where codes do not "
            f'divide the {n_dims} coordinates, "PCA64,PQ16"; got {factory!r} ({reason}).'
        ) from error
    transforms, index = _unwrapped(faiss, whole)
    _check_distances_and_ids(factory, [*transforms, index])
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:  # `search_preassigned` lists the cells, with -1 for skipped cells
        ivf.nprobe = ivf.nlist
    return whole


def _unwrapped(faiss, index):
    """Return the transforms in front of an index, and the index itself."""
    if not isinstance(index, faiss.IndexPreTransform):
        return [], index
    chain = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
    return chain, faiss.downcast_index(index.index)


def _nested(faiss, index):
    """Return the inner indexes of an index, for its coarse search or its cells."""
    names = ("base_index", "quantizer")
    return [faiss.downcast_index(getattr(index, name)) for name in names if hasattr(index, name)]


def _check_distances_and_ids(factory, steps):
    """Raise ValueError if a step does not preserve Euclidean distances, or needs its own ids."""
    names = {type(step).__name__ for step in steps}
    whitens = any(getattr(step, "eigen_power", 0) for step in steps)
    if whitens or names & _NOT_EUCLIDEAN:
        raise ValueError(
            f"index={factory!r} does not compare points by Euclidean distances; use another "
            f"index, such as {_EXAMPLES}."
        )
    if names & _WITH_OWN_IDS:
        raise ValueError(
            f"index={factory!r} does not number points by itself; use an index without IDMap, "
            f"such as {_EXAMPLES}."
        )


def _silence_training(transforms, index):
    """Suppress the message of k-means that there are few points per centre."""
    faiss = load("faiss")
    for step in (*transforms, index, *_nested(faiss, index)):
        if isinstance(step, faiss.OPQMatrix):
            step.codes = faiss.ProductQuantizer(step.d_out, step.M, 8)  # must live until trained
            step.pq = step.codes
        for trained in (step, getattr(step, "pq", step)):
            if hasattr(trained, "cp"):
                trained.cp.min_points_per_centroid = 1


def _is_rigorous(transforms, index):
    """Return True if trained steps give lower bounds of distances, up to errors of codes.

    The index must also compare all points of the visited cells.
    """
    faiss = load("faiss")
    if type(index).__name__ not in _EXHAUSTIVE or not all(_shortens(faiss, t) for t in transforms):
        return False
    return all(type(inner).__name__.startswith("IndexFlat") for inner in _nested(faiss, index))


def _shortens(faiss, transform):
    """Return True if a transform never lengthens a distance."""
    if not isinstance(transform, faiss.LinearTransform):
        return False
    transform.set_is_orthonormal()
    return bool(transform.is_orthonormal)
