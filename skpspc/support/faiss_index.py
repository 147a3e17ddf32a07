"""Search by FAISS: flat, cells, compressed codes, graphs; on a GPU where there is one."""

import warnings
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from .._optional import available, load
from .._threads import n_threads
from .faiss_parts import from_bytes, is_rigorous, made, to_bytes
from .index import LEADERS, Found, Within, rounding

_FIRST, _MORE = 512, 4  # neighbours asked for at first, and times more
_MAX_K_GPU = 2048
_PART_GPU = 2**17  # points of one part: k is limited in each of them


@contextmanager
def faiss_threads():
    """Let faiss compute on `n_threads` threads, and then on as many as before."""
    faiss = load("faiss")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class FaissIndex:
    """An index by its factory string.

    Parameters
    ----------
    factory : str
        Such as "Flat", "IVF256,Flat", "HNSW32", "PCA32,IVF256,SQ8".
    n_dims : int
    device : {"cpu", "cuda", "auto"}, default "cpu"
        "auto" is "cuda" where the FAISS build and a device are there.

    Attributes
    ----------
    rigorous : bool
        Whether floors are lower bounds, or estimates.
    cheap : bool
        Whether it is sooner built than read from a file.

    Raises
    ------
    ImportError
        If faiss is missing.
    ValueError
        For a factory string that faiss does not know or that compares points by anything else than
        their Euclidean distances, or "cuda" without a device.
    """

    def __init__(self, factory, n_dims, device="cpu"):
        faiss = load("faiss")
        self.factory = factory
        self.cheap = factory == "Flat"
        self.rigorous = False  # until trained
        self._on_gpu = _wants_gpu(faiss, device)
        self._max_k = _MAX_K_GPU if self._on_gpu else None
        self._part_size = _PART_GPU if self._on_gpu else None
        self._chain, self._inner = made(factory, n_dims)
        self._cells = getattr(self._inner, "nlist", None)
        self._centroids = np.empty((0, n_dims), np.float32)
        self._radii = np.empty(0)  # of cells; -inf for empty ones
        self._code_error = 0.0
        self._largest_norm = 0.0
        self._parts = []  # (faiss index, number of its first point)
        self._n_points = 0

    def __len__(self):
        return self._n_points

    @property
    def _keeps_points(self):
        """Whether distances are those of points, and not of codes."""
        return "Flat" in type(self._inner).__name__

    def _quantizer(self):
        return load("faiss").downcast_index(self._inner.quantizer)

    def check_size(self, n):
        """Raise ValueError if n points are too few for the cells."""
        if self._cells is not None and n < self._cells:
            raise ValueError(
                f"index={self.factory!r} divides space into {self._cells} cells, but there are "
                f"{n} training images; use fewer cells, or index='Flat'."
            )

    @faiss_threads()
    def train(self, points):
        """Learn cells, codes and projections from points (m, n_dims)."""
        points = np.ascontiguousarray(points.cpu().numpy(), dtype=np.float32)
        self.check_size(len(points))
        n_points, n_dims = points.shape
        try:
            for step in self._chain:
                if not step.is_trained:
                    step.train(points)
                points = step.apply(points)
            self._inner.train(points)
        except RuntimeError as error:
            raise ValueError(
                f"index={self.factory!r} cannot be trained on {n_points} training images of "
                f"{n_dims} coordinates; use one with fewer cells, fewer coordinates or smaller "
                "codes, or index='Flat'."
            ) from error
        self.rigorous = is_rigorous(self._chain, self._inner)
        if self._cells is not None:
            self._centroids = self._quantizer().reconstruct_n(0, self._cells)
            self._radii = np.full(self._cells, -np.inf)

    @faiss_threads()
    def add(self, points):
        """Add points (m, n_dims), float32; they are numbered in order."""
        points = self._mapped(points)
        self._largest_norm = max(self._largest_norm, float(np.linalg.norm(points, axis=1).max()))
        self._measure(points)
        while len(points):
            try:
                n_added = self._add_some(points)
            except RuntimeError as error:
                if not self._on_gpu:
                    raise
                self._leave_gpu(error)
            else:
                self._n_points += n_added
                points = points[n_added:]

    def _add_some(self, points):
        """Add as many as the last part has room for, to that or to a new one; how many they are."""
        size = self._part_size or len(points) + self._n_points
        if not self._parts or self._parts[-1][0].ntotal >= size:
            self._parts.append((self._empty(), self._n_points))
        part = self._parts[-1][0]
        some = points[: size - part.ntotal]
        part.add(some)
        return len(some)

    def _leave_gpu(self, error):
        """Go on with the CPU."""
        warnings.warn(
            f"index={self.factory!r} does not fit the GPU ({error}); searching on the CPU.",
            UserWarning,
            stacklevel=2,
        )
        to_cpu = load("faiss").index_gpu_to_cpu
        self._parts = [(to_cpu(part), first) for part, first in self._parts]
        self._on_gpu, self._max_k, self._part_size = False, None, None

    def _mapped(self, points):
        points = np.ascontiguousarray(points.cpu().numpy(), dtype=np.float32)
        for step in self._chain:
            points = step.apply(points)
        return points

    def _empty(self):
        """A trained index without points, where it is to work."""
        faiss = load("faiss")
        part = faiss.clone_index(self._inner)
        return faiss.index_cpu_to_gpu(_resources(), 0, part) if self._on_gpu else part

    def _measure(self, points):
        """Radii of cells and errors of codes, of which floors are made."""
        if not self.rigorous:
            return
        if self._cells is not None:
            squares, cells = self._quantizer().search(points, 1)
            slack = _squared_sum(points, self._centroids)
            reach = np.sqrt(np.maximum(squares[:, 0], 0) + slack)
            np.maximum.at(self._radii, cells[:, 0], reach)
        if not self._keeps_points:
            decoded = self._inner.sa_decode(self._inner.sa_encode(points))
            errors = np.linalg.norm((points - decoded).astype(np.float64), axis=1)
            self._code_error = max(self._code_error, float(errors.max()))

    @faiss_threads()
    def search(self, queries, k, within=None):
        """The k points nearest to each query (b, n_dims); see `Found`.

        Parameters
        ----------
        queries : Tensor of shape (b, n_dims), float32, finite
        k : int
        within : Tensor of shape (b,), default None
            How far the caller wants the floor to reach: all cells that may hold a point nearer
            than that are visited. None: those around the query, enough for k points.
        """
        k = min(k, len(self))
        device = queries.device
        points = self._mapped(queries)
        cells, outside = self._visits(points, k, within)
        found = [self._search_part(part, i, points, k, cells) for part, i in self._parts]
        squares = np.concatenate([part[0] for part in found], axis=1)
        ids = np.concatenate([part[1] for part in found], axis=1)
        order = np.argsort(squares, axis=1, kind="stable")[:, :k]
        squares, ids = (np.take_along_axis(array, order, 1) for array in (squares, ids))
        slack = rounding(torch.from_numpy(points), self._largest_norm)
        distances = (torch.from_numpy(squares).double() - slack[:, None]).clamp_min_(0).sqrt_()
        distances = (distances - self._code_error).clamp_min_(0)
        left_out = self._nearest_left_out(found, distances.numpy(), slack.numpy())
        floor = np.minimum(outside, left_out)
        if not self.rigorous:  # what gives fewer than there are has missed some, it knows not which
            floor[ids[:, -1] < 0] = 0
        floor = torch.from_numpy(floor)
        return Found(torch.from_numpy(ids).to(device), distances.to(device), floor.to(device))

    def within(self, queries, radius_of, most):
        """All points within a radius; see `BruteIndex.within`.

        The k nearest are searched for, with k growing until they reach the radius.
        """
        rows = slice(0, len(queries))
        radius = radius_of(rows, self.search(queries, LEADERS).ids)
        todo, pairs, k = torch.arange(len(queries), device=queries.device), [], 0
        while len(todo) and k < most:
            k = min(max(k * _MORE, _FIRST), most)
            found = self.search(queries[todo], k, within=radius[todo])
            done = found.floor >= radius[todo]
            inside = found.ids >= 0
            if self.rigorous or self._keeps_points:  # codes of unknown error tell nothing
                inside &= found.distances < radius[todo, None]
            row, column = (inside & done[:, None]).nonzero().unbind(1)
            pairs.append((todo[row], found.ids[row, column]))
            todo = todo[~done]
        radius[todo] = 0
        query, ids = (
            torch.cat([todo[:0], *(q for q, _ in pairs)]),
            torch.cat([todo[:0], *(i for _, i in pairs)]),
        )
        order = torch.from_numpy(np.lexsort((ids.cpu().numpy(), query.cpu().numpy())))
        order = order.to(query.device)
        return Within(query[order], ids[order], radius)

    def _nearest_left_out(self, found, distances, slack):
        """Distance beyond which points of the visited cells were left out, (b,)."""
        floor = np.full(len(distances), np.inf)
        kept = distances.shape[1]
        if sum(part[0].shape[1] for part in found) > kept:
            floor = distances[:, -1].copy()
        for squares, ids, complete in found:
            if not complete and squares.shape[1]:
                last = np.sqrt(np.maximum(squares[:, -1].astype(np.float64) - slack, 0))
                last = np.where(ids[:, -1] < 0, np.inf, np.maximum(last - self._code_error, 0))
                floor = np.minimum(floor, last)
        return floor

    def _search_part(self, part, first, points, k, cells):
        """Squared distances (b, k'), numbers (b, k'), and whether nothing was left out."""
        limit = min(k, part.ntotal, self._max_k or k)
        if cells is None:
            squares, ids = part.search(points, limit)
        else:
            squares, ids = part.search_preassigned(points, limit, *cells)
        squares = np.where(ids < 0, np.inf, squares)
        return squares, np.where(ids < 0, -1, ids + first), limit == part.ntotal

    def _visits(self, points, k, within):
        """Cells to visit with their squared distances, (b, n), and a floor for all others."""
        outside = np.full(len(points), np.inf)
        if self._cells is None:
            return None, outside
        squares, order = self._quantizer().search(points, self._cells)  # nearest first
        enough = int(np.ceil(4 * k * self._cells / max(1, len(self))))
        n_probes = np.full(len(points), min(self._cells, max(8, enough)))
        bounds = self._cell_bounds(points, squares, order)
        if within is not None:
            needed = bounds < within.cpu().numpy()[:, None]
            n_probes[:] = 1
        skipped = np.arange(self._cells) >= n_probes[:, None]
        if within is not None:
            skipped &= ~needed
        outside = np.where(skipped, bounds, np.inf).min(1)
        return (np.where(skipped, -1, order), squares), outside

    def _cell_bounds(self, points, squares, order):
        """Lower bounds of the distance to the points of each cell, in the given order.

        By the cell's radius; and by the plane between its centre and the nearest one, as a point
        lies in the cell of its nearest centre.
        """
        if not self.rigorous:  # nothing is known of its cells
            return np.zeros(squares.shape)
        slack = _squared_sum(points, self._centroids)[:, None]
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
        faiss = load("faiss")
        state = self.__dict__.copy()
        on_cpu = [
            (faiss.index_gpu_to_cpu(part) if self._on_gpu else part, first)
            for part, first in self._parts
        ]
        state["_parts"] = [(faiss.serialize_index(part), first) for part, first in on_cpu]
        state["_inner"] = faiss.serialize_index(self._inner)
        state["_chain"] = [to_bytes(step) for step in self._chain]
        return state

    def __setstate__(self, state):
        faiss = load("faiss")
        self.__dict__.update(state)
        self._on_gpu, self._max_k, self._part_size = False, None, None
        self._parts = [(faiss.deserialize_index(part), first) for part, first in self._parts]
        self._inner = faiss.deserialize_index(self._inner)
        self._chain = [from_bytes(step) for step in self._chain]


def _squared_sum(points, others):
    """Rounding of squared float32 distances between two sets of points, (len(points),)."""
    largest = float(np.linalg.norm(others, axis=1).max())
    return rounding(torch.from_numpy(points), largest).numpy()


def gpu_search(device):
    """Whether faiss can search on a torch device, and that is a GPU."""
    if torch.device(device).type != "cuda" or not available("faiss"):
        return False
    return _wants_gpu(load("faiss"), "auto")


def _wants_gpu(faiss, device):
    """Whether to search on the GPU."""
    there = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    if device == "cuda" and not there:
        raise ValueError(
            "device='cuda' needs a CUDA device and a GPU build of faiss, and one of them is "
            "missing; use device='cpu' or 'auto'."
        )
    if device == "auto" and not there and torch.cuda.is_available():
        _warn_no_gpu_build()
    return there and device != "cpu"


@cache
def _warn_no_gpu_build():
    warnings.warn(
        "there is a CUDA device, but this faiss is built for the CPU; searching on the CPU. A GPU "
        "build (faiss-gpu) replaces it.",
        UserWarning,
        stacklevel=4,
    )


@cache
def _resources():
    return load("faiss").StandardGpuResources()
