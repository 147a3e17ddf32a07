"""Noisy images in a dask array are denoised block by block, when the answer is computed."""

import gc
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from sklearn import config_context, get_config
from sklearn.base import clone

pytest.importorskip("dask", reason="dask is not installed (extra dask)")
pytest.importorskip("distributed", reason="distributed is not installed (extra dask)")

import cloudpickle
import dask
import dask.array as da
from dask.distributed import Client, LocalCluster

from skpspc import (
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PSPCDenoiser,
    denoise_tiled,
)
from skpspc.distributed.travel import Traveller
from skpspc.posterior.posterior import ARRAYS
from test_sharded import DENOISERS


@pytest.fixture(scope="module")
def client():
    options = dict(threads_per_worker=1, dashboard_address=None, memory_limit=0)
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(autouse=True)
def scheduler(request):
    """Threads of this process compute the tests without a client."""
    if "client" in request.fixturenames:
        yield
        return
    with dask.config.set(scheduler="threads"):
        yield


@pytest.fixture(scope="module")
def noisy(digits):
    noise = np.random.default_rng(0).standard_normal((9, 1, 8, 8))
    return (digits[-9:] / 127.5 - 1 + 0.4 * noise).astype(np.float32)


def in_blocks(Z, size=4):
    return da.from_array(Z, chunks=(size, *Z.shape[1:]))


def unread(Z, size=4):
    """Return Z in blocks that count the reads, and the list of reads."""
    reads = []

    def block(number):
        reads.append(number)
        return Z[number * size : (number + 1) * size]

    parts = [
        da.from_delayed(dask.delayed(block)(i), Z[i * size : (i + 1) * size].shape, Z.dtype)
        for i in range(-(-len(Z) // size))
    ]
    return da.concatenate(parts), reads


def assert_same(lazy, whole, tolerance):
    """Assert that a lazy posterior has the shapes, dtypes and values of a computed one."""
    (computed,) = dask.compute(lazy)
    for name in ARRAYS:
        array, values = getattr(lazy, name), getattr(computed, name)
        truth = getattr(whole, name)
        assert (array.shape, array.dtype) == (values.shape, values.dtype)
        assert (values.shape, values.dtype) == (truth.shape, truth.dtype)
        np.testing.assert_allclose(values, truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("name", DENOISERS)
def test_blocks_are_the_whole(digits, noisy, name, dtype):
    model = clone(DENOISERS[name]).fit(digits[:60])
    Z = digits[-9:] if dtype == np.uint8 else noisy.astype(dtype)
    sigma = np.linspace(0.3, 0.5, 9)
    lazy = model.posterior(in_blocks(Z), sigma)
    assert lazy.mean.chunks[0] == (4, 4, 1) == lazy.log_evidence.chunks[0]
    tolerance = 5e-6 if getattr(model, "equivariant", False) else 1e-6
    assert_same(lazy, model.posterior(Z, sigma), 1e-12 if dtype == np.float64 else tolerance)


def test_a_pickle_asks_the_cluster_nothing(client, digits, monkeypatch):
    """Dask pickles graphs under a lock for which its answers may wait: both would wait for ever."""
    model = PSPCDenoiser(3).fit(da.from_array(digits[:40], chunks=(20, 1, 8, 8)))

    def asked(*_, **__):
        raise AssertionError("a pickle asked the cluster")

    with monkeypatch.context() as patched:
        patched.setattr(Client, "sync", asked)
        pickle.dumps(Traveller(model))


@pytest.mark.parametrize("name", ["empirical", "patch", "squares", "equivariant", "smoothed"])
def test_cluster_of_training_images(client, digits, noisy, name):
    """Training images and noisy images, both in blocks on the workers."""
    y = np.arange(60) % 2
    many = clone(DENOISERS[name]).fit(da.from_array(digits[:60], chunks=(20, 1, 8, 8)), y)
    one = clone(DENOISERS[name]).fit(digits[:60], y)
    tolerance = 2e-5 if name == "equivariant" else 1e-5
    lazy = many.posterior(in_blocks(noisy), 0.4, np.arange(9) % 2)
    assert_same(lazy, one.posterior(noisy, 0.4, np.arange(9) % 2), tolerance)
    with pytest.raises(TypeError, match="cannot be pickled or saved"):
        pickle.dumps(many)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_cluster_of_training_images_and_other_schedulers(client, digits, noisy, scheduler):
    many = PSPCDenoiser(3).fit(da.from_array(digits[:60], chunks=(20, 1, 8, 8)))
    lazy = many.denoise(in_blocks(noisy), 0.4)
    if scheduler == "threads":
        truth = PSPCDenoiser(3).fit(digits[:60]).denoise(noisy, 0.4)
        answer = lazy.compute(scheduler=scheduler)
        np.testing.assert_allclose(answer, truth, rtol=0, atol=1e-6)
        return
    with pytest.raises(RuntimeError, match="runs in another process; compute the result with the"):
        lazy.compute(scheduler=scheduler)


def test_one_machine_on_a_cluster(client, digits, noisy):
    """Workers denoise blocks with a denoiser that was fitted in one process."""
    model = PSPCDenoiser(lambda sigma: 3).fit(digits[:60])
    answer = model.denoise(in_blocks(noisy), 0.4).compute()
    np.testing.assert_allclose(answer, model.denoise(noisy, 0.4), rtol=0, atol=1e-6)


def test_other_methods(digits, noisy):
    y = np.array(list("ab"))[np.arange(60) % 2]
    model = EmpiricalDenoiser(sigma=0.6).fit(digits[:60], y)
    Z, labels = in_blocks(noisy), np.array(list("ab"))[np.arange(9) % 2]
    for lazy, whole in (
        (model.transform(Z), model.transform(noisy)),
        (model.score_samples(Z), model.score_samples(noisy)),
        (model.score_samples(Z, 0.5, "a"), model.score_samples(noisy, 0.5, "a")),
        (model.denoise(Z, 0.5, labels, 2.0), model.denoise(noisy, 0.5, labels, 2.0)),
        (model.denoise(Z, 0.5, labels[:, None]), model.denoise(noisy, 0.5, labels)),
    ):
        assert isinstance(lazy, da.Array)
        np.testing.assert_allclose(lazy.compute(), whole, rtol=1e-5, atol=1e-5)


def test_sigma_and_labels_in_blocks(digits, noisy):
    """One noise level and one label for each image, in arrays whose blocks differ from Z's."""
    model = PSPCDenoiser(3).fit(digits[:60], np.arange(60) % 3)
    sigma, y = np.linspace(0.3, 0.5, 9), np.arange(9) % 3
    truth = model.denoise(noisy, sigma, y)
    lazy_sigma, lazy_y = da.from_array(sigma, chunks=5), da.from_array(y, chunks=2)
    for levels in (sigma, sigma[:, None], sigma.tolist(), lazy_sigma, lazy_sigma[:, None]):
        for labels in (y, y.tolist(), lazy_y):
            answer = model.denoise(in_blocks(noisy), levels, labels).compute()
            np.testing.assert_allclose(answer, truth, rtol=0, atol=1e-6)
    one = model.denoise(in_blocks(noisy), da.from_array(np.array(0.4), chunks=())).compute()
    np.testing.assert_allclose(one, model.denoise(noisy, 0.4), rtol=0, atol=1e-6)


def test_networks_and_flat_images(digits, noisy):
    flat = noisy.reshape(9, 64)
    wiener = GaussianDenoiser(image_shape=(1, 8, 8)).fit(digits[:60].reshape(60, 64))
    lazy = wiener.denoise(in_blocks(flat), 0.4)
    assert lazy.shape == (9, 64)
    np.testing.assert_allclose(lazy.compute(), wiener.denoise(flat, 0.4), rtol=0, atol=1e-6)
    network = NetworkDenoiser(lambda z, c: z / 2, image_shape=(1, 8, 8))
    answer = network.denoise(in_blocks(noisy), 0.4).compute()
    np.testing.assert_allclose(answer, network.denoise(noisy, 0.4), rtol=0, atol=1e-6)


def test_nothing_is_read_before_compute(digits, noisy):
    model = PSPCDenoiser(3).fit(digits[:60])
    Z, reads = unread(noisy)
    posterior = model.posterior(Z, 0.4)
    answer = model.denoise(Z, 0.4)
    assert repr(posterior) == "Posterior(n=9, image_shape=(1, 8, 8), not computed)"
    assert not reads
    answer[5:7].compute()
    assert reads == [1]
    np.testing.assert_allclose(answer.compute(), model.denoise(noisy, 0.4), rtol=0, atol=1e-6)


def test_arrays_of_a_posterior_share_each_block(digits, noisy, monkeypatch):
    model, calls = EmpiricalDenoiser().fit(digits[:60]), []
    arrays = EmpiricalDenoiser._arrays
    monkeypatch.setattr(
        EmpiricalDenoiser, "_arrays", lambda *args: calls.append(1) or arrays(*args)
    )
    dask.compute(model.posterior(in_blocks(noisy), 0.4))
    assert len(calls) == 3


def test_the_graph_holds_the_denoiser_once(digits, noisy):
    model = PSPCDenoiser(3).fit(digits[:1000])
    Z = da.from_delayed(dask.delayed(lambda: noisy)(), noisy.shape, noisy.dtype)
    lazy = model.denoise(da.concatenate([Z] * 50), 0.4)
    (optimised,) = dask.optimize(lazy)
    graph = dict(optimised.__dask_graph__())
    assert len(graph) > 50
    own = len(cloudpickle.dumps(model))
    assert own > digits[:1000].nbytes
    assert own < len(cloudpickle.dumps(graph)) < 1.5 * own


def test_training_images_do_not_travel(client, digits, noisy):
    """The graph holds keys of images that are on the cluster, and the denoiser must be kept."""
    many = PSPCDenoiser(3).fit(da.from_array(digits[:1000], chunks=(500, 1, 8, 8)))
    lazy = many.denoise(in_blocks(noisy), 0.4)
    graph = cloudpickle.dumps(dict(lazy.__dask_graph__()))
    assert len(graph) < digits[:1000].nbytes
    many.denoise(noisy, 0.4)
    kept = {key for key, workers in client.who_has().items() if workers}
    lazy.compute()
    deadline = time.monotonic() + 10
    while (left := {k for k, w in client.who_has().items() if w} - kept) and (
        time.monotonic() < deadline
    ):
        client.run(gc.collect)  # copies of the denoiser on the workers hold what they submitted
        time.sleep(0.05)
    assert not left


def test_released_training_images(client, digits, noisy):
    many = PSPCDenoiser(3).fit(da.from_array(digits[:60], chunks=(20, 1, 8, 8)))
    lazy = many.denoise(in_blocks(noisy), 0.4)
    shards = many.training_set_.executor.shards
    client.cancel(shards, force=True)
    with pytest.raises(RuntimeError, match="keep the denoiser until the result is computed"):
        lazy.compute()


def test_another_cluster(client, digits, noisy):
    many = PSPCDenoiser(3).fit(da.from_array(digits[:60], chunks=(20, 1, 8, 8)))
    lazy = many.denoise(in_blocks(noisy), 0.4)
    options = dict(processes=False, dashboard_address=None, memory_limit=0)
    with (
        LocalCluster(1, **options) as cluster,
        Client(cluster),
        pytest.raises(RuntimeError, match="on another cluster than the noisy images"),
    ):
        lazy.compute()


def test_a_later_fit_changes_nothing(digits, noisy):
    model = PSPCDenoiser(3).fit(digits[:60])
    truth = model.denoise(noisy, 0.4)
    lazy = model.denoise(in_blocks(noisy), 0.4)
    model.set_params(patch_size=5).fit(digits[60:90])
    np.testing.assert_allclose(lazy.compute(), truth, rtol=0, atol=1e-6)


def test_working_memory_of_the_caller(noisy):
    """Blocks, which other threads compute, use the working memory that was set for the call."""
    seen = []

    def network(z, sigma):
        seen.append(get_config()["working_memory"])
        return z / 2

    with config_context(working_memory=77):
        lazy = NetworkDenoiser(network, image_shape=(1, 8, 8)).denoise(in_blocks(noisy), 0.4)
    lazy.compute()
    assert set(seen) == {77}


@pytest.mark.parametrize("at", [0, 4, 8])
def test_values_are_checked_in_their_block(digits, noisy, at):
    Z = noisy.copy()
    Z[at, 0, 0, 0] = np.nan
    lazy = EmpiricalDenoiser().fit(digits[:60]).denoise(in_blocks(Z), 0.4)
    with pytest.raises(ValueError, match=rf"images {at // 4 * 4} to .* of Z: Z contains NaN"):
        lazy.compute()


def test_empty_blocks(digits, noisy):
    Z = da.from_array(noisy, chunks=((4, 0, 5), 1, 8, 8))
    model = PSPCDenoiser(3).fit(digits[:60])
    assert_same(model.posterior(Z, 0.4), model.posterior(noisy, 0.4), 1e-6)


def test_blocks_that_cut_images(digits, noisy):
    model = PSPCDenoiser(3).fit(digits[:60])
    with pytest.warns(UserWarning, match=r"Z has blocks .* that cut images.*MiB travel"):
        lazy = model.denoise(da.from_array(noisy, chunks=(4, 1, 8, 4)), 0.4)
    assert lazy.chunks == ((4, 4, 1), (1,), (8,), (8,))
    np.testing.assert_allclose(lazy.compute(), model.denoise(noisy, 0.4), rtol=0, atol=1e-6)


MASK = np.zeros(9, dtype=bool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda Z: (Z[da.from_array(MASK, chunks=4)], 0.4), r"Z has .* unknown length; pass Z"),
        (lambda Z: (Z[:0], 0.4), "Z holds no images"),
        (lambda Z: (Z[:, 0], 0.4), "gray images need their channel axis"),
        (lambda Z: (Z.reshape(9, 64)[:, :63], 0.4), "X has 63 features, but"),
        (lambda Z: (Z.astype(np.int64), 0.4), "Z has dtype int64; convert"),
        (lambda Z: (Z.astype(complex), 0.4), "Complex data not supported"),
        (lambda Z: (Z, -1.0), "sigma must be non-negative"),
        (lambda Z: (Z, np.ones(8)), "sigma must be one float or one per image"),
        (lambda Z: (Z, da.ones(8)), "sigma must have one value for each image"),
        (lambda Z: (Z, da.ones(9)[da.ones(9) > 0]), "sigma has blocks of unknown length"),
        (lambda Z: (Z, 0.4, "c"), "c"),
        (lambda Z: (Z, 0.4, ["a"] * 8), "y must be one label or one for each image"),
        (lambda Z: (Z, 0.4, da.from_array(np.array(["a"] * 8))), "y must have one value for each"),
        (lambda Z: (Z, 0.4, None, 2.0), "pass y, or omit guidance"),
    ],
)
def test_errors_before_anything_is_read(digits, noisy, arguments, message):
    model = EmpiricalDenoiser().fit(digits[:60], np.array(list("ab"))[np.arange(60) % 2])
    Z, reads = unread(noisy)
    with pytest.raises(ValueError, match=message):
        model.denoise(*arguments(Z))
    assert not reads


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (lambda Z: Z.map_blocks(np.float64, dtype=np.float32), "has dtype float64"),
        (lambda Z: Z.map_blocks(lambda z: z[:, :, :7], dtype=Z.dtype), r"shape \(., 1, 7, 8\)"),
        (
            lambda Z: Z.map_blocks(lambda z: z[:3], dtype=Z.dtype),
            r"declares float32 and \(4, 1, 8, 8\)",
        ),
        (lambda Z: da.ma.masked_greater(Z, 0.5), "masked values"),
        (lambda Z: Z.map_blocks(lambda z: z * 1e20, dtype=Z.dtype), "magnitude"),
    ],
)
def test_blocks_that_differ_from_their_declaration(digits, noisy, array, message):
    model = EmpiricalDenoiser().fit(digits[:60])
    lazy = model.denoise(array(in_blocks(noisy)), 0.4)
    with pytest.raises(ValueError, match=message):
        lazy.compute()


def test_bad_noise_levels_in_a_block(digits, noisy):
    lazy = EmpiricalDenoiser().fit(digits[:60]).denoise(in_blocks(noisy), -da.ones(9, chunks=4))
    with pytest.raises(ValueError, match=r"images . to . of Z: sigma must be non-negative"):
        lazy.compute()


@pytest.mark.parametrize(
    "call",
    [
        lambda model, Z: model.jacobian(Z, 0.4),
        lambda model, Z: model.vjp(Z, 0.4, Z),
        lambda model, Z: model.divergence(Z, 0.4),
        lambda model, Z: model.attribute(Z, 0.4),
        lambda model, Z: model.denoise_without(Z, 0.4, [0]),
        lambda model, Z: model.log_likelihood(Z),
        lambda model, Z: model.sample(initial=Z),
        lambda model, Z: model.score(Z),
        lambda model, Z: denoise_tiled(model, Z, 0.4),
    ],
)
def test_calls_that_need_all_noisy_images(digits, noisy, call):
    Z, reads = unread(noisy)
    with pytest.raises(ValueError, match=r"is a dask array, and this call needs all of it .*\(\)"):
        call(PSPCDenoiser(3).fit(digits[:60]), Z)
    assert not reads


def test_unfitted(noisy):
    with pytest.raises(AttributeError, match="not fitted"):
        PSPCDenoiser(3).denoise(in_blocks(noisy), 0.4)


def test_inpainting(digits, noisy):
    mask = np.ones((1, 8, 8), bool)
    mask[:, 3] = False
    model = LocalScoreDenoiser(3, operator=mask).fit(digits[:60])
    answer = model.denoise(in_blocks(noisy), 0.4).compute()
    np.testing.assert_allclose(answer, model.denoise(noisy, 0.4), rtol=0, atol=1e-6)


def test_killed_workers(client, digits, noisy):
    """A worker that dies while blocks are compared changes nothing."""
    many = PSPCDenoiser(3).fit(da.from_array(digits[:400], chunks=(100, 1, 8, 8)))
    Z = np.concatenate([noisy] * 20)
    truth = PSPCDenoiser(3).fit(digits[:400]).denoise(Z, 0.4)
    lazy = many.denoise(in_blocks(Z, 10), 0.4)
    pid = next(iter(client.run(os.getpid).values()))
    killer = threading.Timer(0.5, os.kill, (pid, signal.SIGKILL))
    killer.start()
    np.testing.assert_allclose(lazy.compute(), truth, rtol=0, atol=1e-5)
    killer.join()
    client.wait_for_workers(2, timeout=30)
    np.testing.assert_allclose(lazy.compute(), truth, rtol=0, atol=1e-5)


def test_a_cancelled_result_ends_its_steps(client, digits, noisy):
    """Tasks that nobody waits for stop, with the calls of training images that they submitted."""
    many = PSPCDenoiser(3).fit(da.from_array(digits[:1700], chunks=(100, 1, 8, 8)))
    Z = np.concatenate([noisy] * 20)
    future = client.compute(many.denoise(in_blocks(Z, 60), 0.4))

    def working(dask_scheduler):
        return [k for k, t in dask_scheduler.tasks.items() if t.state in ("processing", "waiting")]

    while not any("_logged" in str(key) for key in client.run_on_scheduler(working)):
        assert not future.done()
        time.sleep(0.02)
    future.cancel()
    deadline = time.monotonic() + 3
    while (left := client.run_on_scheduler(working)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
