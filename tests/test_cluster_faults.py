"""Full disks, stopped workers and Ctrl-C, on clusters of their own."""

import errno
import operator
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("distributed", reason="distributed is not installed (extra dask)")

import dask
import dask.array as da
from dask.distributed import Client, LocalCluster

from skpspc import PSPCDenoiser
from skpspc.distributed import cluster as steps


@pytest.fixture(scope="module")
def noisy(digits):
    return digits[-3:] / 127.5 - 1 + 0.4 * np.random.default_rng(0).standard_normal((3, 1, 8, 8))


@pytest.fixture(scope="module")
def truth(digits, noisy):
    return PSPCDenoiser(3).fit(digits[:100]).denoise(noisy, 0.5)


def blocks(X):
    return da.from_array(X, chunks=(25, *X.shape[1:]))


def limit_files(n_bytes):
    """Limit the size of files that a worker writes, as a full disk does; -1: no limit."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if n_bytes < 0 else n_bytes, hard))


def n_spilled(dask_worker):
    return len(dask_worker.data.slow)


def test_full_disk(digits, noisy, truth, tmp_path):
    """A worker that cannot write a block to its disk is an error; later calls work."""
    # Dask writes values larger than this share of the memory, 400 bytes, to disk at once
    memory = {"distributed.worker.memory.target": 1e-7, "distributed.worker.memory.spill": False}
    options = dict(threads_per_worker=1, dashboard_address=None, memory_limit="4GiB")
    with (
        dask.config.set(memory),
        LocalCluster(2, local_directory=str(tmp_path), **options) as cluster,
        Client(cluster) as client,
    ):
        model = PSPCDenoiser(3).fit(blocks(digits[:100]))
        lazy = model.denoise(da.from_array(noisy, chunks=(1, 1, 8, 8)), 0.5)
        assert all(client.run(n_spilled).values())
        client.run(limit_files, 100)
        with pytest.raises(RuntimeError, match=r"could not write to its disk \(.*; free space"):
            model.denoise(noisy, 0.5)
        with pytest.raises((RuntimeError, OSError), match="File too large"):
            lazy.to_zarr(tmp_path / "answer.zarr")
        client.run(limit_files, -1)
        np.testing.assert_allclose(model.denoise(noisy, 0.5), truth, rtol=0, atol=1e-12)
        lazy.to_zarr(tmp_path / "answer.zarr", overwrite=True)
        written = da.from_zarr(tmp_path / "answer.zarr").compute()
        np.testing.assert_allclose(written, truth, rtol=0, atol=1e-12)


def fail_once(shard, path):
    if not path.exists():
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    return shard


def test_failed_shards(digits, tmp_path):
    """A step computes shards again that failed, once the reason has passed."""
    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with LocalCluster(processes=False, **options) as cluster, Client(cluster) as client:
        numbers = steps.Cluster(client, client.map(int, [1, 2, 3]))
        shards = numbers.derived(fail_once, tmp_path / "failed")
        with (
            pytest.raises(RuntimeError, match="could not write to its disk"),
            shards.step() as step,
        ):
            step.values(step.map(operator.neg))
        with shards.step() as step:
            assert step.values(step.map(operator.neg)) == [-1, -2, -3]


def drop_after_five_seconds(dask_scheduler):
    """Set worker-ttl, of a cluster whose workers have imported the package."""
    dask_scheduler.worker_ttl = 5.0
    check = dask_scheduler.periodic_callbacks["worker-ttl"]
    check.stop()
    check.callback_time = 500
    check.start()


def test_stopped_worker(digits, noisy, truth, monkeypatch):
    """A worker that hangs is named and dropped, and its blocks are computed elsewhere."""
    monkeypatch.setattr(steps, "_PATIENCE", 1.5)
    options = dict(threads_per_worker=1, dashboard_address=None, memory_limit=0)
    with (
        # a new worker that imports the package on a busy machine may be dropped as well
        dask.config.set({"distributed.scheduler.allowed-failures": 20}),
        LocalCluster(2, **options) as cluster,
        Client(cluster) as client,
    ):
        model = PSPCDenoiser(3).fit(blocks(digits[:100]))
        np.testing.assert_allclose(model.denoise(noisy, 0.5), truth, rtol=0, atol=1e-12)
        client.run_on_scheduler(drop_after_five_seconds)
        address, pid = next(iter(client.run(os.getpid).items()))
        os.kill(pid, signal.SIGSTOP)
        with pytest.warns(UserWarning, match=rf"waits for {address}, silent .* Dask drops"):
            answer = model.denoise(noisy, 0.5)
    np.testing.assert_allclose(answer, truth, rtol=0, atol=1e-12)


def test_no_workers(digits, noisy, truth, monkeypatch):
    """A step that waits for workers says so, and ends when there are some."""
    monkeypatch.setattr(steps, "_PATIENCE", 1.0)
    options = dict(n_workers=1, threads_per_worker=1, dashboard_address=None, memory_limit=0)
    with LocalCluster(processes=False, **options) as cluster, Client(cluster) as client:
        model = PSPCDenoiser(3).fit(blocks(digits[:100]))
        cluster.scale(0)
        deadline = time.monotonic() + 20
        while client.scheduler_info()["workers"] and time.monotonic() < deadline:
            time.sleep(0.05)
        timer = threading.Timer(2.5, cluster.scale, (1,))
        timer.start()
        with pytest.warns(UserWarning, match="the cluster has none; start some"):
            answer = model.denoise(noisy, 0.5)
        timer.join()
    np.testing.assert_allclose(answer, truth, rtol=0, atol=1e-12)


def test_bad_blocks_and_labels(digits, noisy, truth):
    """Empty blocks are left out; ragged blocks and labels of another length are refused."""
    X = digits[:100]
    ragged = blocks(X).map_blocks(lambda b: b[: 20 + b[0, 0, 0, 2] % 2], dtype=np.uint8)
    options = dict(processes=False, dashboard_address=None, memory_limit=0)
    with LocalCluster(1, **options) as cluster, Client(cluster):
        empty = da.from_array(X, chunks=((50, 0, 49, 1), 1, 8, 8))
        answer = PSPCDenoiser(3).fit(empty).denoise(noisy, 0.5)
        np.testing.assert_allclose(answer, truth, rtol=0, atol=1e-12)
        with pytest.raises(ValueError, match=r"block \d of X has dtype uint8 and shape \(2"):
            PSPCDenoiser(3).fit(ragged)
        for y in (np.arange(99), da.arange(99)):
            with pytest.raises(ValueError, match="y has 99 labels for 100 images"):
                PSPCDenoiser(3).fit(blocks(X), y)
        with pytest.raises(ValueError, match="sample_weight"):
            PSPCDenoiser(3).fit(blocks(X), sample_weight=da.ones(99))


SCRIPT = """
import os, sys, time
import dask.array as da, numpy as np
from dask.distributed import Client, LocalCluster
from skpspc import PSPCDenoiser

def unfinished(dask_scheduler):
    return [key for key, task in dask_scheduler.tasks.items() if task.state == "processing"]

if __name__ == "__main__":
    options = dict(threads_per_worker=1, dashboard_address=None, memory_limit=0)
    with LocalCluster(2, **options) as cluster, Client(cluster) as client:
        X = da.random.default_rng(0).integers(
            0, 256, (2000, 3, 32, 32), dtype=np.uint8, chunks=(250, 3, 32, 32)
        )
        model = PSPCDenoiser(7).fit(X)
        Z = np.random.default_rng(1).standard_normal((1500, 3, 32, 32), dtype=np.float32)
        model.denoise(Z[:1], 0.4)  # loads the kernels
        lazy = da.from_array(Z, chunks=(50, 3, 32, 32))
        print(*client.run(os.getpid).values(), flush=True)
        try:
            model.denoise(lazy, 0.4).compute() if sys.argv[1] == "lazy" else model.denoise(Z, 0.4)
        except KeyboardInterrupt:
            start = time.monotonic()
            print("interrupted", flush=True)
            while client.run_on_scheduler(unfinished):
                time.sleep(0.02)
            print(time.monotonic() - start, flush=True)
            raise
        print("finished", flush=True)
"""


@pytest.mark.parametrize("kind", ["lazy", "at once"])
def test_ctrl_c(kind, tmp_path):
    """Ctrl-C ends a step within two seconds, and its tasks and workers with it."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, script, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        start_new_session=True,  # a group of processes, which Ctrl-C reaches as a whole
    )
    try:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(1.5)  # in the step
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - start < 2
        assert float(process.stdout.readline()) < 2
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode not in (0, None)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
