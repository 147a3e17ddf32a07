"""Denoisers of a dask array give the answers of one machine, and survive lost workers."""

import os
import random
import signal
import threading
import time
import warnings
from collections import Counter
from weakref import WeakSet

import numpy as np
import pytest
import torch
from sklearn.base import clone

pytest.importorskip("distributed", reason="distributed is not installed (extra dask)")

import dask.array as da
from dask.distributed import Client, LocalCluster

from skpspc import EmpiricalDenoiser, GaussianDenoiser, PatchDenoiser, PSPCDenoiser
from skpspc.distributed import calls, workers
from skpspc.distributed.cluster import Cluster
from skpspc.inspection import calibrate_patch_size, nearest_training_images
from test_sharded import DENOISERS, LEARNT, assert_equal


@pytest.fixture(scope="module")
def client():
    options = dict(threads_per_worker=1, dashboard_address=None, memory_limit=0)
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def noisy(digits):
    return digits[-3:] / 127.5 - 1 + 0.4 * np.random.default_rng(0).standard_normal((3, 1, 8, 8))


def blocks(X, *sizes):
    """Return a dask array of images with blocks of such sizes, and the rest."""
    sizes = (*sizes, len(X) - sum(sizes))
    return da.from_array(X, chunks=(sizes, *X.shape[1:]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", DENOISERS)
def test_blocks_are_one_training_set(client, digits, noisy, name, dtype):
    X = digits[:100] if dtype == np.float32 else digits[:100] / 127.5 - 1
    weight = np.r_[np.zeros(10), np.arange(90) % 4]  # none in the first block
    one = clone(DENOISERS[name]).fit(X, sample_weight=weight)
    many = clone(DENOISERS[name]).fit(blocks(X, 10, 1, 40), sample_weight=weight)
    for sigma in (0.0, 0.5, np.inf):
        assert_equal(many, one, noisy.astype(dtype), sigma)


@pytest.mark.parametrize("name", ["empirical", "squares", "local scores"])
def test_classes_samples_and_scores(client, digits, noisy, name):
    y = np.arange(90) // 45
    one = clone(DENOISERS[name]).fit(digits[:90], y)
    many = clone(DENOISERS[name]).fit(blocks(digits[:90], 20, 40), y)
    np.testing.assert_allclose(
        many.denoise(noisy, 0.5, y=[0, 1, 1]), one.denoise(noisy, 0.5, y=[0, 1, 1]), atol=1e-6
    )
    samples = [model.sample(2, n_steps=4, random_state=0) for model in (many, one)]
    np.testing.assert_allclose(*samples, rtol=0, atol=1e-4)
    assert many.score(digits[100:110]) == pytest.approx(one.score(digits[100:110]), rel=1e-6)
    assert "ShardedTrainingSet(n=90" in repr(many.training_set_)


@pytest.mark.parametrize("name", ["empirical", "squares and mirror images", "broken", "flexible"])
def test_attributions_and_derivatives(client, digits, noisy, name):
    """Posterior weights of single images, and products with the Jacobian, are merged as means."""
    X, y = digits[:90] / 127.5 - 1, np.arange(90) // 45
    one = clone(DENOISERS[name]).fit(X, y)
    many = clone(DENOISERS[name]).fit(blocks(X, 20, 1, 40), y)
    a, b = (model.attribute(noisy, 0.3, [0, 1, 1], top=3) for model in (many, one))
    np.testing.assert_allclose(a.image_share, b.image_share, rtol=0, atol=1e-12)
    np.testing.assert_allclose(a.share, b.share, rtol=0, atol=1e-12)
    if name != "broken":  # there, patches of several images have equal shares
        np.testing.assert_array_equal(a.index[..., 0], b.index[..., 0])
    groups = [0, list(range(21)), [50, 60]]  # the second fills two blocks
    for method, argument in (("denoise_without", groups), ("vjp", noisy), ("jvp", noisy)):
        a, b = (getattr(model, method)(noisy, 0.3, argument) for model in (many, one))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10, err_msg=method)
    a, b = (model.jacobian(noisy[:1], 0.3, [(2, 3)]) for model in (many, one))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "gaussian",
        "neighbourhoods",
        "windows of the data",
        "calibrated sizes",
        "blurred images",
        "blurred globally",
        "blurred windows",
        "blend",
    ],
)
def test_learning_from_blocks(client, digits, noisy, name, weighted):
    X = digits[:120] / 127.5 - 1 if weighted else digits[:120]
    weight = np.r_[np.zeros(10), np.arange(110) % 4] if weighted else None  # none in a block
    one = clone(LEARNT[name]).fit(X, sample_weight=weight)
    many = clone(LEARNT[name]).fit(blocks(X, 10, 1, 40), sample_weight=weight)
    for sigma in (0.05, 0.5, np.inf):
        assert_equal(many, one, noisy.astype(X.dtype if weighted else np.float32), sigma)


def test_partial_fit_of_blocks(client, digits, noisy):
    """Sums of blocks can be added to sums here, and the other way round."""
    one = GaussianDenoiser().fit(digits[:200])
    for parts in (
        (blocks(digits[:100], 50), blocks(digits[100:200], 20)),
        (digits[:100], blocks(digits[100:200], 20)),
        (blocks(digits[:100], 50), digits[100:200]),
    ):
        model = GaussianDenoiser()
        for X in parts:
            model.partial_fit(X)
        np.testing.assert_array_equal(model.components_, one.components_)
        np.testing.assert_array_equal(model.denoise(noisy, 0.5), one.denoise(noisy, 0.5))


class Part:
    """A result of a shard, which knows how many results were on its worker together."""

    every: WeakSet = WeakSet()

    def __init__(self, parts=()):
        Part.every.add(self)
        self.n_images = sum(part.n_images for part in parts)
        self.most = max([len(Part.every), *(part.most for part in parts)])


def part_of(shard, n):
    part = Part()
    part.n_images = n * len(shard)
    return part


def test_a_worker_holds_few_large_results(client, digits):
    """Results are merged one by one, however many shards a worker has."""
    images = EmpiricalDenoiser().fit(da.from_array(digits[:60], chunks=(5, 1, 8, 8)))
    shards = images.training_set_.executor
    assert isinstance(shards, Cluster) and len(shards) == 12
    with shards.step() as step:
        (whole,) = step.values([step.reduced(part_of, Part, step.give(2))])
    assert whole.n_images == 120
    assert whole.most <= 4


def test_large_values_cause_no_warning(client, digits):
    """Dask warns of more than 10 MB in a call."""
    training_set = EmpiricalDenoiser().fit(blocks(digits[:40], 20)).training_set_
    value = np.zeros(2_000_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert training_set.reduced(length_of, sum, value) == 2 * value.size


def length_of(shard, value):
    return value.size


def test_inspection_of_blocks(client, digits):
    X = blocks(digits[:100], 30, 30)
    queries = digits[100:110] / 127.5 - 1
    for a, b in zip(
        nearest_training_images(queries, X, 3),
        nearest_training_images(queries, digits[:100], 3),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    flat = X.reshape(100, 64), queries.reshape(10, 64)
    np.testing.assert_array_equal(
        nearest_training_images(flat[1], flat[0], 3)[1], nearest_training_images(queries, X, 3)[1]
    )
    tables = [
        calibrate_patch_size(PSPCDenoiser(), of, [0.3, 1.0], sizes=[2, 5], n_images=10)[1]
        for of in (X, digits[:100])
    ]
    np.testing.assert_allclose(tables[0].errors, tables[1].errors, rtol=0, atol=1e-6)


def test_flat_images_are_rows(client, digits, noisy):
    X = digits[:60].reshape(60, 64) / 127.5 - 1
    one = PSPCDenoiser(3, image_shape=(1, 8, 8)).fit(X)
    many = PSPCDenoiser(3, image_shape=(1, 8, 8)).fit(da.from_array(X, chunks=(20, 64)))
    assert many.n_features_in_ == 64
    assert_equal(many, one, noisy.reshape(3, 64), 0.5)


def test_integers_and_float16(client, digits, noisy):
    for X in (digits[:40].astype(np.int64), (digits[:40] / 255).astype(np.float16)):
        model = EmpiricalDenoiser(data_range=(0, X.max()))
        one, many = model.fit(X).denoise(noisy, 0.5), model.fit(blocks(X, 20)).denoise(noisy, 0.5)
        np.testing.assert_allclose(many, one, rtol=0, atol=1e-5)


def test_killed_workers(client, digits, noisy):
    """A worker that dies at a random moment of a call changes nothing; the log shows retries."""
    model = PSPCDenoiser(3).fit(blocks(digits[:100], 20, 20, 20, 20))
    truth = PSPCDenoiser(3).fit(digits[:100]).denoise(noisy, 0.5)
    for _ in range(3):
        pids = list(client.run(os.getpid).values())
        delay, pid = random.uniform(0, 0.3), random.choice(pids)
        killer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
        killer.start()
        for _ in range(3):
            np.testing.assert_allclose(model.denoise(noisy, 0.5), truth, rtol=0, atol=1e-6)
        killer.join()
        np.testing.assert_allclose(model.denoise(noisy, 0.5), truth, rtol=0, atol=1e-6)
        client.wait_for_workers(2, timeout=30)
    repeated = Counter(call["key"] for call in calls(client)).most_common(1)
    assert repeated[0][1] > 1


def test_interrupt_cancels_the_step(client, digits, noisy, monkeypatch):
    model = PSPCDenoiser(3).fit(blocks(digits[:100], 20, 20))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("distributed.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.denoise(noisy, 0.5)

    def running(dask_scheduler):
        return [key for key, task in dask_scheduler.tasks.items() if task.state == "processing"]

    deadline = time.monotonic() + 2
    while (left := client.run_on_scheduler(running)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    assert model.denoise(noisy, 0.5).shape == noisy.shape  # the shards are still there


def test_a_closed_client(digits, noisy):
    with LocalCluster(1, processes=False, dashboard_address=None, memory_limit=0) as cluster:
        with Client(cluster) as client:
            model = EmpiricalDenoiser().fit(blocks(digits[:40], 20))
        with pytest.raises(RuntimeError, match="a client that is closed; connect a client and fit"):
            model.denoise(noisy, 0.5)
        assert client.status == "closed"


def test_a_newer_client(client, digits, noisy):
    """A denoiser waits on the cluster that holds its images, whichever client is the newest."""
    model = PSPCDenoiser(3).fit(blocks(digits[:40], 20))
    options = dict(processes=False, dashboard_address=None, memory_limit=0)
    with LocalCluster(1, **options) as cluster, Client(cluster):
        answer = model.denoise(noisy, 0.5)
    truth = PSPCDenoiser(3).fit(digits[:40]).denoise(noisy, 0.5)
    np.testing.assert_allclose(answer, truth, rtol=0, atol=1e-12)


def test_no_client(digits):
    X = blocks(digits[:40], 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distributed.Client.current", lambda: (_ for _ in ()).throw(ValueError()))
        with pytest.raises(ValueError, match=r"no cluster is connected; start one with .*compute"):
            EmpiricalDenoiser().fit(X)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (lambda X: blocks(X, 20)[da.from_array(X[:, 0, 0, 0] < 300, chunks=20)], "unknown length"),
        (lambda X: blocks(np.where(X > 250, np.nan, X), 20), r"NaN or infinity in \d+ of 40"),
        (
            lambda X: blocks(X, 20).map_blocks(lambda b: b / 255, dtype=np.uint8),
            r"block \d of X has",
        ),
        (lambda X: blocks(X[:, 0], 20), "must have shape"),
        (lambda X: blocks(X.astype(np.int32), 20), "has dtype int32"),
        (lambda X: blocks(X.astype(complex), 20), "Complex data not supported"),
        (lambda X: da.ma.masked_greater(blocks(X / 255, 20), 0.5), "masked values"),
        (lambda X: blocks(X[:0]), "no images"),
    ],
)
def test_bad_arrays(client, digits, array, message):
    X = array(digits[:40])
    with pytest.raises(ValueError, match=message):
        PSPCDenoiser(3).fit(X)


def test_warnings_tell_the_cost_of_bad_blocks(client, digits, noisy):
    truth = PSPCDenoiser(3).fit(digits[:40]).denoise(noisy, 0.5)
    cut = da.from_array(digits[:40], chunks=(20, 1, 4, 8))
    small = da.from_array(digits[:40], chunks=(2, 1, 8, 8))
    for X, message in ((cut, "cut images.*MiB travel"), (small, "20 blocks.*joined")):
        with pytest.warns(UserWarning, match=message):
            model = PSPCDenoiser(3).fit(X)
        np.testing.assert_allclose(model.denoise(noisy, 0.5), truth, rtol=0, atol=1e-6)


def test_other_versions(client, digits, monkeypatch):
    monkeypatch.setattr(workers, "_version", lambda package: "0.0.1")
    with pytest.raises(RuntimeError, match=r"skpspc is 0.0.1 here and .* install one version"):
        EmpiricalDenoiser().fit(blocks(digits[:40], 20))


def test_another_device_is_refused(client, digits):
    with pytest.raises(ValueError, match=r"workers, which compute on the CPU|not available"):
        EmpiricalDenoiser(device="meta").fit(blocks(digits[:40], 20))
    with pytest.raises(ValueError, match="is a list, but the images of a dask array stay"):
        EmpiricalDenoiser(device=["cpu", "cpu"]).fit(blocks(digits[:40], 20))


def test_crops_stay_on_the_workers(client, digits):
    """A block of a training set keeps the facts of the whole when it moves to another worker."""
    model = PatchDenoiser(3, location=(1, 1)).fit(blocks(digits[:40], 10, 10))
    Z = np.zeros((1, 1, 3, 3))
    truth = PatchDenoiser(3, location=(1, 1)).fit(digits[:40]).denoise(Z, 0.5)
    np.testing.assert_allclose(model.denoise(Z, 0.5), truth, rtol=0, atol=1e-12)
    client.replicate(model.training_set_.executor.shards)
    np.testing.assert_allclose(model.denoise(Z, 0.5), truth, rtol=0, atol=1e-12)


def test_dask_counts_the_bytes_of_images(client, digits):
    """Every block is held once, and counted with its pixels, so that Dask can spill it."""
    model = PSPCDenoiser(3).fit(blocks(digits[:400], 100, 100, 100))
    tensor = client.submit(torch.zeros, 10_000, pure=False)
    keys = {shard.key for shard in model.training_set_.executor.shards} | {tensor.key}

    def of_scheduler(dask_scheduler):
        held = [task for task in dask_scheduler.tasks.values() if task.state == "memory"]
        return {task.key: task.nbytes for task in held if task.nbytes > 5000}

    deadline = time.monotonic() + 5
    while set(sizes := client.run_on_scheduler(of_scheduler)) != keys:
        assert time.monotonic() < deadline, sizes
        time.sleep(0.05)
    assert sizes.pop(tensor.key) == 40_000
    assert all(0 <= size - 100 * 64 < 100 for size in sizes.values())


def at_most_eight(numbers):
    """Return a sum; raise if one call gets the results of many workers."""
    if len(numbers) > 8:
        raise ValueError(f"{len(numbers)} results in one call")
    return sum(numbers)


def test_no_worker_collects_the_results_of_all(client):
    with Cluster(client, client.map(int, range(20))).step() as step:
        step.homes = [(f"tcp://127.0.0.1:{number}",) for number in range(20)]
        (total,) = step.values([step.merged(at_most_eight, step.map(int))])
    assert total == sum(range(20))
