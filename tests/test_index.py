"""Search: what indexes find, and that their floors are lower bounds."""

import os
import pickle
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sklearn
import torch
from hypothesis import given
from hypothesis import strategies as st

import generators
from skpspc import EmpiricalDenoiser
from skpspc.support import Neighbours, TrainingSet
from skpspc.support.search.brute import BruteIndex
from skpspc.support.search.coordinates import Coordinates
from skpspc.support.search.factory import make_index
from skpspc.support.search.results import LEADERS
from skpspc.support.segments import segment_nearest

FACTORIES = ["Flat", "IVF16,Flat", "PCA8,IVF8,SQ8", "SQ8", "IVF8,PQ4x4", "RR,Flat", "HNSW16"]
RIGOROUS = FACTORIES[:-1]


def faiss_index(factory, n_dims, device="cpu", **limits):
    """An empty FAISS index, or a skip."""
    pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    from skpspc.support.search.faiss import FaissIndex

    return FaissIndex(factory, n_dims, device, **limits)


@pytest.fixture(scope="module")
def points():
    """Points in clusters, (600, 20), and a scale that falls along the axes."""
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((12, 20))
    drawn = centres[rng.integers(12, size=600)] + rng.standard_normal((600, 20))
    return torch.from_numpy(drawn * np.geomspace(2, 0.2, 20)).float()


@pytest.fixture(scope="module")
def queries(points):
    """Points with noise, (40, 20)."""
    generator = torch.Generator().manual_seed(1)
    return points[:40] + 0.5 * torch.randn(40, 20, generator=generator)


def filled(factory, points):
    index = BruteIndex(points.shape[1]) if factory is None else faiss_index(factory, 20)
    index.train(points)
    for block in points.split(170):
        index.add(block)
    assert len(index) == len(points)
    return index


def true_distances(queries, points):
    return torch.cdist(queries.double(), points.double())


@pytest.mark.parametrize("k", [1, 7, 600, 1000])
@pytest.mark.parametrize("factory", [None, *RIGOROUS])
def test_floor_is_a_lower_bound(factory, k, points, queries):
    index = filled(factory, points)
    assert index.rigorous
    found = index.search(queries, k)
    distances = true_distances(queries, points)
    for row, (ids, bounds, floor) in enumerate(zip(*found, strict=True)):
        known = ids[ids >= 0]
        assert len(known.unique()) == len(known) <= k
        assert (bounds[ids >= 0] <= distances[row, known] + 1e-9).all()
        others = torch.ones(len(points), dtype=torch.bool)
        others[known] = False
        assert (distances[row, others] >= floor - 1e-9).all()


@pytest.mark.parametrize("factory", [None, "Flat", "IVF16,Flat"])
def test_exact_search(factory, points, queries):
    found = filled(factory, points).search(queries, 600)
    expected = true_distances(queries, points).sort(dim=1)
    if factory != "IVF16,Flat":  # visits cells until it has 600 points, that is all of them
        assert (found.ids[:, :50] == expected.indices[:, :50]).all()
    torch.testing.assert_close(found.distances, expected.values, rtol=0, atol=1e-2)
    assert found.floor.isinf().all()


@pytest.mark.parametrize("factory", [None, *RIGOROUS])
def test_within(factory, points, queries):
    """All points within the radius are there, and pairs come in order."""
    distances = true_distances(queries, points)
    radius = distances.quantile(0.05, dim=1)
    asked = []

    def radius_of(rows, ids):
        asked.append(ids)
        return radius[rows]

    found = filled(factory, points).within(queries, radius_of, most=600)
    assert asked[0].shape[1] <= LEADERS
    assert (found.radius > 0).all()
    key = found.query * len(points) + found.ids
    assert (key[1:] > key[:-1]).all()
    near = (distances <= found.radius[:, None] - 1e-6).nonzero()
    assert torch.isin(near[:, 0] * len(points) + near[:, 1], key).all()
    assert len(key) < 0.5 * distances.numel() or factory == "IVF8,PQ4x4"


@pytest.mark.parametrize("factory", [None, "Flat", "IVF16,Flat"])
def test_within_gives_up_on_queries_with_many(factory, points, queries):
    radius = torch.full((40,), 1e3, dtype=torch.float64)
    radius[3] = 1e-3
    found = filled(factory, points).within(queries, lambda rows, ids: radius[rows], most=100)
    assert (found.radius > 0).nonzero().squeeze(1).tolist() == [3]
    assert (found.query == 3).all()


@pytest.mark.parametrize("limit", [5, 40])
def test_shards_with_a_limit_of_k(limit, points, queries):
    """A GPU needs several shards, each of which finds at most so many points."""
    index = faiss_index("Flat", 20, max_k=limit, shard_size=100)
    index.train(points)
    index.add(points)
    distances = true_distances(queries, points)
    found = index.search(queries, 30)
    counts = torch.stack([ids.bincount(minlength=6) for ids in found.ids // 100])
    assert counts.max() <= limit
    if limit == 5:  # six shards give 30 points only if each gives its five
        assert (counts == 5).all()
    for row, (ids, floor) in enumerate(zip(found.ids, found.floor, strict=True)):
        others = torch.ones(len(points), dtype=torch.bool)
        others[ids] = False
        assert (distances[row, others] >= floor - 1e-9).all()
    if limit == 40:
        assert (found.ids == distances.argsort(dim=1)[:, :30]).all()


@pytest.mark.parametrize("factory", [None, *FACTORIES])
def test_pickle(factory, points, queries):
    index = filled(factory, points)
    again = pickle.loads(pickle.dumps(index))
    for a, b in zip(index.search(queries, 9), again.search(queries, 9), strict=True):
        assert torch.equal(a, b)
    again.add(points[:10])
    assert len(again) == 610 and len(index) == 600


def test_graphs_are_not_rigorous(points):
    assert not filled("HNSW16", points).rigorous


def test_a_graph_says_when_it_gives_fewer_than_there_are(points, queries):
    """Its floor is then zero, so that nobody takes the others for farther away."""
    index = filled("HNSW4", points)
    found = index.search(queries, 600)
    missed = found.ids[:, -1] < 0
    assert missed.any()
    assert (found.floor[missed] == 0).all()
    assert found.floor[~missed].isinf().all()
    apart = index.within(queries, lambda rows, ids: torch.full((40,), 99.0).double()[rows], 600)
    assert torch.equal(apart.radius == 0, missed)


@pytest.mark.parametrize("factory", ["nonsense", "IVF,Flat", ""])
def test_unknown_factory(factory):
    with pytest.raises(ValueError, match=r'such as "Flat", "IVF256,Flat"'):
        faiss_index(factory, 20)


def test_what_does_not_suit_the_coordinates(points):
    with pytest.raises(ValueError, match='do not divide the 20 coordinates, "PCA64,PQ16"; got'):
        faiss_index("PQ16", 20)
    with pytest.raises(
        ValueError, match="600 training images of 20 coordinates; use an index with"
    ):
        faiss_index("PCA30,Flat", 20).train(points)


def test_more_cells_than_points(points):
    index = faiss_index("IVF1000,Flat", 20)
    with pytest.raises(ValueError, match="1000 cells, but there are 600 training images"):
        index.train(points)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device():
    with pytest.raises(ValueError, match="needs a CUDA device and a GPU build of faiss"):
        faiss_index("Flat", 20, device="cuda")
    faiss_index("Flat", 20, device="auto")


class Gpu:
    """A stand-in for faiss on a GPU that holds at most ``room`` points."""

    def __init__(self, faiss, room):
        self.faiss, self.room, self.n_points = faiss, room, 0

    def get_num_gpus(self):
        return 1

    class StandardGpuResources:
        pass

    def index_cpu_to_gpu(self, resources, device, index):
        return Shard(self, self.faiss.clone_index(index))

    def index_gpu_to_cpu(self, shard):
        return self.faiss.clone_index(shard.index)


class Shard:
    """An index on a `Gpu`."""

    def __init__(self, gpu, index):
        self.gpu, self.index = gpu, index
        self._reserve(index.ntotal)

    def _reserve(self, n_points):
        if self.gpu.n_points + n_points > self.gpu.room:
            raise RuntimeError("cudaMalloc error out of memory")
        self.gpu.n_points += n_points

    @property
    def ntotal(self):
        return self.index.ntotal

    def add(self, points):
        self._reserve(len(points))
        self.index.add(points)

    def search(self, points, k):
        return self.index.search(points, k)


@pytest.fixture
def gpu(monkeypatch):
    """A `Gpu` that faiss finds, with room for any number of points."""
    faiss = pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    gpu = Gpu(faiss, np.inf)
    for name in ("get_num_gpus", "StandardGpuResources", "index_cpu_to_gpu", "index_gpu_to_cpu"):
        monkeypatch.setattr(faiss, name, getattr(gpu, name), raising=False)
    return gpu


def test_a_gpu_that_is_too_small(gpu, points, queries):
    """The CPU gets the points on the GPU and all others, after one warning."""
    gpu.room = 250
    index = faiss_index("Flat", 20, "cuda", shard_size=300)
    index.train(points)
    index.add(points[:240])
    with pytest.warns(UserWarning, match="does not fit the GPU .* searching on the CPU") as said:
        index.add(points[240:])
    assert len(said) == 1
    assert len(index) == 600
    found = pickle.loads(pickle.dumps(index)).search(queries, 600)
    expected = true_distances(queries, points).sort(dim=1)
    assert (found.ids[:, :50] == expected.indices[:, :50]).all()


@pytest.mark.parametrize(
    "factory", ["PCA8,IVF16,Flat", "PQ4x4", "IVF8,PQ4", "OPQ4,IVF8,PQ4", "IVF8,PQ4,RFlat"]
)
def test_nothing_goes_to_the_terminal(factory, points, capfd):
    filled(factory, points)
    assert capfd.readouterr() == ("", "")


def test_refined_search_visits_all_cells(points, queries):
    assert (filled("IVF8,Flat,RFlat", points).search(queries, 600).ids >= 0).all()


def test_threads_are_given_back(points, queries):
    faiss = pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        filled("IVF8,Flat", points).search(queries, 3)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_without_faiss(monkeypatch):
    """The warning comes once for a factory string, which no other test uses."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.warns(UserWarning, match=r'pip install "skpspc\[cpu\]"'):
        index = make_index("IVF17,Flat", 20)
    assert isinstance(index, BruteIndex)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_index("IVF17,Flat", 20)


# Copies


@pytest.mark.parametrize("factory", [None, *FACTORIES])
def test_a_copy_grows_alone(factory, points, queries):
    index = filled(factory, points)
    expected = index.search(queries, 9)
    copy = index.copied()
    for a, b in zip(copy.search(queries, 9), expected, strict=True):
        assert torch.equal(a, b)
    copy.add(100 + queries)  # far away: they enlarge cells, norms and errors of codes
    assert len(copy) == 640 and len(index) == 600
    for a, b in zip(index.search(queries, 9), expected, strict=True):
        assert torch.equal(a, b)
    assert (copy.search(100 + queries, 1).ids >= 600).all()
    assert (index.search(100 + queries, 1).ids < 600).all()


@pytest.mark.parametrize("room", [np.inf, 650, 500])
def test_a_copy_on_a_gpu_grows_alone(gpu, room, points, queries):
    """The last shard is copied, by way of the CPU; where it does not fit, all move there."""
    gpu.room = room
    index = faiss_index("Flat", 20, "cuda", shard_size=300)
    index.train(points)
    index.add(points[:400])
    expected = index.search(queries, 600)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        copy = index.copied()
        copy.add(points[400:])
    messages = [str(warning.message) for warning in caught]
    assert all("does not fit the GPU" in message for message in messages)
    assert len(messages) == (room < np.inf)
    assert len(copy) == 600 and len(index) == 400
    for a, b in zip(index.search(queries, 600), expected, strict=True):
        assert torch.equal(a, b)
    order = true_distances(queries, points).argsort(dim=1)
    assert (copy.search(queries, 600).ids[:, :50] == order[:, :50]).all()


# Coordinates


@given(generators.cases())
def test_coordinates_never_lengthens(case):
    training_set = TrainingSet(torch.from_numpy(case.X))
    for n_leading in (1, 3, 256):
        coordinates = Coordinates(training_set, n_leading)
        (points,) = coordinates.of(training_set)
        assert points.shape == (len(case.X), coordinates.n_dims)
        assert np.log2(coordinates.unit).is_integer()
        apart = coordinates.unit * true_distances(coordinates(torch.from_numpy(case.Z)), points)
        true = true_distances(
            torch.from_numpy(case.Z).flatten(1), torch.from_numpy(case.x).flatten(1)
        )
        scale = 1 + float(np.abs(case.Z).max()) * np.sqrt(case.Z[0].size)
        assert (apart <= true + 1e-5 * scale).all()
        if n_leading == 256:
            assert (apart >= true - 1e-5 * scale).all()


def test_coordinates_keeps_what_varies(photos):
    """A quarter of the coordinates keep most of what tells photographs apart."""
    training_set = TrainingSet(torch.from_numpy(np.array(photos)))
    coordinates = Coordinates(training_set, n_leading=photos[0].size // 4)
    points = coordinates.unit * torch.cat(list(coordinates.of(training_set)))
    flat = training_set.take(slice(None), torch.float64).flatten(1)
    kept = true_distances(points, points).square() / true_distances(flat, flat).square()
    assert kept[~torch.eye(len(photos), dtype=torch.bool)].quantile(0.1) > 0.9


# Neighbours


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("scale", [2.0**-180, 2.0**-70, 2.0**70, 2.0**180])
def test_any_magnitude(digits, z, factory, scale):
    """Squares of distances in float32 would be infinite or zero."""
    if factory != "Flat":
        pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    images = torch.from_numpy(digits[:1000] / 127.5 - 1)
    expected = Neighbours(TrainingSet(images), factory)
    neighbours = Neighbours(TrainingSet(images * scale), factory)
    radius = torch.full((60,), 2.0, dtype=torch.float64)
    ids, *distances = expected.search(z.double(), 30)
    found_ids, *found = neighbours.search(z.double() * scale, 30)
    assert torch.equal(found_ids, ids)
    for one, other in zip(found, distances, strict=True):
        assert torch.equal(one, other * scale)
    plain = expected.within(z.double(), lambda rows, ids: radius[rows], 900)
    within = neighbours.within(z.double() * scale, lambda rows, ids: radius[rows] * scale, 900)
    assert equal(within, plain._replace(radius=plain.radius * scale))
    assert len(plain.query) or not expected.rigorous
    points = expected.coordinates(z.double())
    assert torch.equal(neighbours.coordinates(z.double() * scale), points * scale)


@pytest.mark.parametrize("scale", [2.0**-180, 2.0**180])
def test_recall_of_any_magnitude(digits, scale):
    pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    images = digits[:300] / 127.5 - 1
    model = EmpiricalDenoiser(n_neighbors=5, index="IVF4,SQ8")
    expected = model.fit(images).index_recall(k=3, sigma=0.3)
    assert model.fit(images * scale).index_recall(k=3, sigma=0.3 * scale) == expected > 0.5


@pytest.mark.parametrize("factory", FACTORIES)
def test_far_noisy_images(digits, factory):
    """Floors are lower bounds, however far a noisy image is."""
    if factory != "Flat":
        pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    images = torch.from_numpy(digits[:1000] / 127.5 - 1)
    neighbours = Neighbours(TrainingSet(images), factory)
    for far in (1e12, 1e17, 1e25, 1e50):
        z = far * torch.from_numpy(np.random.default_rng(0).standard_normal((4, 1, 8, 8)))
        ids, distances, floor = neighbours.search(z, 30)
        true = true_distances(z.flatten(1), images.flatten(1))
        assert (distances <= true.gather(1, ids) * (1 + 1e-6)).all()
        assert ((ids >= 0) & (ids < 1000)).all()
        if neighbours.rigorous:
            assert (floor <= true.scatter(1, ids, torch.inf).amin(1) * (1 + 1e-6)).all()


def test_an_index_is_built_again_for_far_larger_images(digits):
    images = torch.from_numpy(digits[:100] / 127.5 - 1)
    old = Neighbours(TrainingSet(images))
    old.build()
    whole = TrainingSet(torch.cat([images, 1e30 * images]))
    new = old.extended(whole)
    assert torch.equal(new.search(1e30 * images, 1).ids.squeeze(1), torch.arange(100, 200))


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat"])
def test_building_in_small_blocks(monkeypatch, capfd, digits, factory):
    """As small as the working memory asks for, which changes nothing."""
    if factory != "Flat":
        pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    training_set = TrainingSet(torch.from_numpy(np.array(digits)))
    z = training_set.take(slice(0, 20), torch.float32) + 0.1
    expected = Neighbours(training_set, factory).search(z, 5)
    take, taken = TrainingSet.take, []

    def watched(self, rows, dtype):
        images = take(self, rows, dtype)
        taken.append(len(images))
        return images

    monkeypatch.setattr(TrainingSet, "take", watched)
    with sklearn.config_context(working_memory=1):
        neighbours = Neighbours(training_set, factory)
        neighbours.build(verbose=1)
    assert max(taken) * training_set.n_values * 4 < 2**20
    assert re.search(r"indexing: 100%.* [2-9]\d*/", capfd.readouterr().err)  # of several blocks
    found = neighbours.search(z, 5)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.distances, expected.distances, rtol=0, atol=1e-5)


def equal(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def whole(digits):
    """All digits, of which the first 1,000 come first."""
    return TrainingSet(torch.from_numpy(np.array(digits)))


@pytest.fixture(scope="module", params=["Flat", "IVF4,Flat", "SQ8", "HNSW8"])
def old(request, whole):
    """Search of the first 1,000 digits, by an index that is built."""
    if request.param != "Flat":
        pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    neighbours = Neighbours(TrainingSet(whole.images[:1000]), request.param)
    neighbours.search(whole.take(slice(0, 1), torch.float32), 1)
    return neighbours


@pytest.fixture(scope="module")
def z(whole):
    """Digits around the 1,000th, with noise, (60, 1, 8, 8)."""
    x = whole.take(slice(970, 1030), torch.float32)
    return x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def copies(neighbours):
    """A search and its pickle, with the training set put back."""
    again = pickle.loads(pickle.dumps(neighbours))
    again.training_set = neighbours.training_set
    return neighbours, again


def test_extended_leaves_the_old_search_alone(old, whole, z):
    radius = torch.full((60,), 2.0, dtype=torch.float64)

    def answers(neighbours):
        within = neighbours.within(z, lambda rows, ids: radius[rows], 900)
        return *neighbours.search(z, 30), *within, neighbours.recall(z, 5)

    expected = answers(old)
    new = old.extended(whole)
    assert len(new.training_set) == 1797 and len(old.training_set) == 1000
    new.search(z, 30)
    for same in copies(old):
        assert equal(answers(same), expected)
        assert same.search(z, 1797).ids.max() < 1000


def test_extended_finds_all_images(old, whole, z):
    new, exact = old.extended(whole), Neighbours(whole).search(z, 30)
    x = whole.take(slice(1000, 1100), torch.float32)
    for same in copies(new):
        assert equal(same.search(z, 30), new.search(z, 30))
        nearest = same.search(x, 1).ids.squeeze(1)
        assert (nearest == torch.arange(1000, 1100)).double().mean() > 0.95
        if "Flat" in new.factory:
            found = same.search(z, 30)
            assert torch.equal(found.ids, exact.ids)
            torch.testing.assert_close(found.distances, exact.distances, rtol=0, atol=1e-3)
    again = new.extended(TrainingSet(torch.cat([whole.images, whole.images[:5]])))
    assert again.search(whole.take(slice(0, 5), torch.float32), 1797).ids.max() == 1801


def test_extended_by_no_images(old, whole, z):
    assert equal(old.extended(old.training_set).search(z, 30), old.search(z, 30))


def test_an_index_that_is_not_built_is_not_built_for_more_images(whole, z):
    old = Neighbours(TrainingSet(whole.images[:1000]))
    new = old.extended(whole)
    assert old._index is new._index is None
    assert equal(new.search(z, 30), Neighbours(whole).search(z, 30))
    assert old._index is None
    assert old.search(z, 30).ids.max() < 1000


def test_an_extension_that_fails_changes_nothing(monkeypatch, old, whole, z):
    expected, take, calls = old.search(z, 30), TrainingSet.take, []

    def fail_at_second(self, rows, dtype):
        calls.append(rows)
        if len(calls) == 2:
            raise RuntimeError("no memory")
        return take(self, rows, dtype)

    with sklearn.config_context(working_memory=1), monkeypatch.context() as patched:
        patched.setattr(TrainingSet, "take", fail_at_second)
        with pytest.raises(RuntimeError, match="no memory"):
            old.extended(whole)
    assert equal(old.search(z, 30), expected)
    assert old.extended(whole).search(z, 30).ids.max() >= 1000


def test_threads_that_search_during_an_extension(old, whole, z):
    expected = old.search(z, 30)
    with ThreadPoolExecutor(3) as pool:
        extensions = [pool.submit(old.extended, whole) for _ in range(4)]
        searches = [pool.submit(old.search, z, 30) for _ in range(20)]
    assert all(equal(search.result(), expected) for search in searches)
    first, *others = (extension.result().search(z, 30) for extension in extensions)
    assert all(equal(other, first) for other in others)


def test_never_forks(monkeypatch, digits):
    """A forked child has one thread only, so nothing here may fork."""
    pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")
    neighbours = Neighbours(TrainingSet(torch.from_numpy(np.array(digits))), "IVF16,Flat")
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    neighbours.search(neighbours.training_set.take(slice(0, 5), torch.float32), 3)


@given(st.integers(1, 30), st.integers(1, 6), generators.seeds)
def test_segment_nearest(n_pairs, k, seed):
    rng = np.random.default_rng(seed)
    query = torch.from_numpy(np.sort(rng.integers(0, 4, n_pairs)))
    distances = torch.from_numpy(rng.permutation(n_pairs).astype(float))
    ids = torch.from_numpy(rng.integers(0, 100, n_pairs))
    default = torch.full((4, k), -7)
    leaders = segment_nearest(ids, distances, query, default)
    for row in range(4):
        mine = query == row
        expected = ids[mine][distances[mine].argsort()][:k].tolist()
        assert leaders[row].tolist() == expected + [-7] * (k - len(expected))


def test_a_progress_bar_while_an_index_is_built(capfd, photos):
    EmpiricalDenoiser(tol=1e-3, verbose=1).fit(photos).denoise(photos[:1], 0.1)
    assert "indexing: 100%" in capfd.readouterr().err
    EmpiricalDenoiser(tol=1e-3).fit(photos).denoise(photos[:1], 0.1)
    assert capfd.readouterr().err == ""
