"""Training images on the workers of a Dask cluster: errors, speed, traffic, lost workers, memory.

    python benchmarks/cluster.py --data path/to/cifar10-32x32.zip --folder path/to/a/folder

Every worker is a process of this machine with one thread. Each part writes a file:

- ``cluster-agreement.csv``: differences from one machine, for 2 and 4 workers.
- ``cluster-speed.csv``: one worker against two, which take turns. ``limit`` is the ratio for two
  processes that call the denoiser without Dask, each with half of the images.
- ``cluster-traffic.csv``: bytes that a worker sends and receives in a call, from the counters of
  Dask, the mean over the workers and the largest. Results travel between workers. Messages are
  those of the worker and the scheduler, such as tasks and their states.
- ``cluster-kills.csv``: calls during which a worker is killed by SIGKILL at a random moment.
- ``cluster-million.csv``: a million images in a file, over four workers with at most 1 GB of
  memory each. Dask moves blocks to the disk. The peaks are resident sets, seen every 20 ms; the
  scheduler is in the process of the client.
- ``cluster-constants.csv`` and ``cluster-model.csv``: constants of ``cluster_model.py``, and its
  predictions beside measured times.

The parts write a copy of the training images to the folder, and ``million`` a file of 3 GB.
"""

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import _results
import cluster_model
import dask
import dask.array as da
import numpy as np
import psutil
import torch
from dask.distributed import Client, LocalCluster
from denoisers import FRACTION, gaussian_heat_maps, load
from index import noisy
from scale import N_TRAIN as MILLION
from scale import write_images

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    LocalScoreDenoiser,
    PatchDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SmoothedDenoiser,
    tapered_windows,
)
from skpspc.datasets import load_edm_zip
from skpspc.distributed import calls

PARTS = ("agreement", "speed", "traffic", "kills", "million", "model")
SIGMA = 0.3
SIGMAS = (0.03, 0.3, 3.0)
WORKERS = (2, 4)
MILLION_BLOCKS = 64  # of each of four workers, of 12 MB
MEMORY_LIMIT = 950_000_000  # bytes of a worker of the million, at which Dask ends it
FRACTIONS = {"target": 0.2, "spill": 0.6, "pause": 0.9}  # of the limit, for blocks and in all

# By name: a denoiser of an image shape, and how many training images it is compared with.
AGREEMENT = {
    "EmpiricalDenoiser()": (lambda shape: EmpiricalDenoiser(), 4000),
    "PatchDenoiser(31, location='all')": (lambda shape: PatchDenoiser(31, location="all"), 4000),
    "PSPCDenoiser(3)": (lambda shape: PSPCDenoiser(3), 4000),
    "PSPCDenoiser(8)": (lambda shape: PSPCDenoiser(8), 4000),
    "PSPCDenoiser(8, flip=True)": (lambda shape: PSPCDenoiser(8, flip=True), 2000),
    "PSPCDenoiser(8, engine='torch')": (lambda shape: PSPCDenoiser(8, engine="torch"), 200),
    "PSPCDenoiser, flexible windows": (lambda shape: flexible(shape), 2000),
    "LocalScoreDenoiser(7)": (lambda shape: LocalScoreDenoiser(7), 4000),
    "LocalScoreDenoiser(5, equivariant=True)": (
        lambda shape: LocalScoreDenoiser(5, equivariant=True),
        50,
    ),
    "PosteriorMeanCollection, tapered": (
        lambda shape: PosteriorMeanCollection(tapered_windows(shape, 7)),
        200,
    ),
    "SmoothedDenoiser(PSPCDenoiser(8))": (
        lambda shape: SmoothedDenoiser(PSPCDenoiser(8)),
        500,
    ),
}
SPEED = {
    "EmpiricalDenoiser()": lambda shape: EmpiricalDenoiser(),
    "PSPCDenoiser(3)": lambda shape: PSPCDenoiser(3),
    "PSPCDenoiser(8)": lambda shape: PSPCDenoiser(8),
    "LocalScoreDenoiser(7)": lambda shape: LocalScoreDenoiser(7),
}
MODEL = ("EmpiricalDenoiser()", "PSPCDenoiser(3)", "PSPCDenoiser(8)")


def flexible(shape):
    """Return PSPC with flexible windows of Gaussian heat maps."""
    return PSPCDenoiser(windows=FlexibleWindows(gaussian_heat_maps(shape), FRACTION, [SIGMA]))


def n_windows(name, shape):
    """Return the number of windows of a denoiser of `MODEL`."""
    if name == "EmpiricalDenoiser()":
        return 1
    size = int(name.split("(")[1].strip(")"))
    return (shape[1] - size + 1) * (shape[2] - size + 1)


@contextmanager
def cluster(n_workers, **options):
    """Yield a client of so many workers of one thread, each a process."""
    options = {"memory_limit": 0, **options}  # Dask sets OMP_NUM_THREADS=1 for its workers
    local = LocalCluster(
        n_workers=n_workers, threads_per_worker=1, dashboard_address=":0", **options
    )
    with local, Client(local) as client:
        threads = set(client.run(torch.get_num_threads).values())
        if threads != {1}:
            raise RuntimeError(f"workers compute with {threads} threads; set OMP_NUM_THREADS=1.")
        yield client


def read(path, start, stop):
    """Return images of a .npy file, a copy in memory."""
    return np.array(np.load(path, mmap_mode="r")[start:stop])


def ends(n, n_parts):
    """Return the ends of so many parts of about equal length."""
    return [n * i // n_parts for i in range(n_parts + 1)]


def blocks(path, n_train, n_blocks):
    """Return a dask array of the first images of a .npy file, which workers read."""
    images = np.load(path, mmap_mode="r")
    bounds = ends(n_train, n_blocks)
    lazy = dask.delayed(read, pure=True)
    return da.concatenate(
        [
            da.from_delayed(lazy(path, a, b), (b - a, *images.shape[1:]), images.dtype)
            for a, b in pairwise(bounds)
        ]
    )


def fitted(client, model, path, n_train, n_blocks):
    """Return a denoiser that is fitted on the workers of a client."""
    with client.as_current():
        return model.fit(blocks(path, n_train, n_blocks))


def seconds_of(function):
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def difference(found, truth):
    """Return the largest absolute difference."""
    return float(np.abs(np.asarray(found) - np.asarray(truth)).max())


def relative(found, truth):
    """Return the largest difference relative to a value, or to 1 for smaller values."""
    found, truth = np.asarray(found), np.asarray(truth)
    return float((np.abs(found - truth) / np.maximum(1, np.abs(truth))).max())


def agreement(options, path, clean):
    """Yield differences of posteriors from one machine: of means, evidence and sample sizes."""
    float64 = path.with_name("float64.npy")
    np.save(float64, np.load(path)[: options.n_agreement] / 127.5 - 1)
    for n_workers in WORKERS:
        with cluster(n_workers) as client:
            for name, (make, n_most) in AGREEMENT.items():
                n_train = min(n_most, options.n_agreement)
                for dtype, file in (("float32", path), ("float64", float64)):
                    one = make(clean.shape[1:]).fit(read(file, 0, n_train))
                    model = make(clean.shape[1:])
                    many = fitted(client, model, file, n_train, 2 * n_workers + 1)
                    for sigma in SIGMAS:
                        z = noisy(clean[:4], sigma).numpy().astype(dtype)
                        found, truth = many.posterior(z, sigma), one.posterior(z, sigma)
                        yield {
                            "n_workers": n_workers,
                            "dtype": dtype,
                            "denoiser": name,
                            "n_train": n_train,
                            "sigma": sigma,
                            "difference": difference(found.mean, truth.mean),
                            "evidence_difference": relative(found.log_evidence, truth.log_evidence),
                            "sample_size_difference": relative(
                                found.effective_sample_size, truth.effective_sample_size
                            ),
                        }
    float64.unlink()


def alone(model, path, start, stop, z, repeats=1):
    """Return the shortest time of a call of a denoiser of images of a file, after a first call."""
    torch.set_num_threads(1)
    model.fit(read(path, start, stop))
    model.denoise(z, SIGMA)
    return min(seconds_of(partial(model.denoise, z, SIGMA)) for _ in range(repeats))


def together(client, model, path, n_train, z):
    """Return the longest time of processes that compare their parts at once, without Dask."""
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    bounds = ends(n_train, len(workers))
    return max(
        client.gather(
            [
                client.submit(alone, model, path, a, b, z, workers=[worker], pure=False)
                for worker, (a, b) in zip(workers, pairwise(bounds), strict=True)
            ]
        )
    )


def speed(options, path, clean):
    """Yield times of one worker and of two, which take turns, and the limit of the ratio."""
    z, shape = noisy(clean, SIGMA).numpy(), clean.shape[1:]
    n_train, n_blocks = options.n_train, 4
    with cluster(1) as first, cluster(2) as second:
        for name, make in SPEED.items():
            models = [fitted(c, make(shape), path, n_train, n_blocks) for c in (first, second)]
            functions = [partial(model.denoise, z, SIGMA) for model in models] + [
                partial(together, client, make(shape), path, n_train, z)
                for client in (first, second)
            ]
            for function in functions[:2]:
                function()
            turns = []
            for turn in range(options.repeats):
                order = (0, 1) if turn % 2 == 0 else (1, 0)
                times = {i: seconds_of(functions[i]) for i in order}
                times |= {i: functions[i]() for i in (order[0] + 2, order[1] + 2)}
                turns.append([times[i] for i in range(4)])
            one, two, alone_one, alone_two = np.transpose(turns)
            ratios, limits = one / two, alone_one / alone_two
            yield {
                "denoiser": name,
                "n_train": n_train,
                "n_noisy": len(z),
                "one_worker_s": float(np.median(one)),
                "two_workers_s": float(np.median(two)),
                "ratio": float(np.median(ratios)),
                "smallest_ratio": float(ratios.min()),
                "largest_ratio": float(ratios.max()),
                "limit": float(np.median(limits)),
            }


def counters(client):
    """Return the bytes that passed each worker so far, by kind, from counters of Dask."""

    def of_worker(dask_worker):
        received = sum(entry["total"] for entry in dask_worker.transfer_incoming_log)
        return (
            received,
            dask_worker.transfer_outgoing_bytes_total,
            dask_worker.batched_stream.byte_count,
        )

    def of_scheduler(dask_scheduler):
        return {a: stream.byte_count for a, stream in dask_scheduler.stream_comms.items()}

    to_workers = client.run_on_scheduler(of_scheduler)
    kinds = "received", "sent", "messages_sent", "messages_received"
    return {
        address: dict(zip(kinds, (*counts, to_workers[address]), strict=True))
        for address, counts in client.run(of_worker).items()
    }


def traffic(options, path, clean):
    """Yield the bytes per call and worker for several numbers of images."""
    shape, n_calls = clean.shape[1:], 3
    for n_workers in WORKERS:
        with cluster(n_workers) as client:
            for name in MODEL:
                for n_train in (options.n_train // 4, options.n_train // 2, options.n_train):
                    model = fitted(client, SPEED[name](shape), path, n_train, 2 * n_workers)
                    for n_noisy in (1, 8, 64):
                        z = noisy(clean[:n_noisy], SIGMA).numpy()
                        model.denoise(z, SIGMA)
                        settled()
                        before = counters(client)
                        for _ in range(n_calls):
                            model.denoise(z, SIGMA)
                        settled()
                        kilobytes = per_call(before, counters(client), n_calls)
                        n_values = int(np.prod(shape))
                        predicted = cluster_model.received_bytes(
                            n_noisy, n_workers, n_windows(name, shape), n_values
                        )
                        yield {
                            "denoiser": name,
                            "n_workers": n_workers,
                            "n_train": n_train,
                            "n_noisy": len(z),
                            "n_windows": n_windows(name, shape),
                            "predicted_received_kB": predicted / 1e3,
                            **kilobytes,
                        }


def per_call(before, after, n_calls):
    """Return the kB per call of each kind, the mean over the workers and the largest."""
    workers = [
        {kind: (counts[kind] - before[address][kind]) / n_calls for kind in counts}
        for address, counts in after.items()
    ]
    return {
        f"{summary}_{kind}_kB": float(function([worker[kind] for worker in workers]) / 1e3)
        for kind in workers[0]
        for summary, function in (("mean", np.mean), ("largest", np.max))
    }


def settled():
    """Wait until the messages of ended tasks are sent."""
    time.sleep(0.3)


def kills(options, path, clean):
    """Yield calls during which one of two workers is killed."""
    name, z, rng = MODEL[-1], noisy(clean[:8], SIGMA).numpy(), random.Random(0)
    n_train, n_blocks = options.n_train // 2, 8
    truth = SPEED[name](clean.shape[1:]).fit(read(path, 0, n_train)).denoise(z, SIGMA)
    settings = {
        "distributed.admin.low-level-log-length": 10**6,
        # LocalCluster closes a restarted worker 15 s after the loss of its predecessor
        "distributed.deploy.lost-worker-timeout": "1 hour",
    }
    with dask.config.set(settings), cluster(2) as client:
        for run in range(options.runs):
            client.wait_for_workers(2)
            model = fitted(client, SPEED[name](clean.shape[1:]), path, n_train, n_blocks)
            usual = call_seconds(model, z, 3)
            pid = rng.choice(sorted(client.run(os.getpid).values()))
            before = Counter(call["key"] for call in calls(client))
            start = time.perf_counter()
            with killer(pid, rng.uniform(0, usual)) as killed:
                found = model.denoise(z, SIGMA)
                end = time.perf_counter()
            after = Counter(call["key"] for call in calls(client))
            yield {
                "run": run + 1,
                "denoiser": name,
                "n_train": n_train,
                "n_blocks": n_blocks,
                "usual_call_s": usual,
                "killed_after_s": killed[0] - start,
                "call_s": end - start,
                "killed_during_call": killed[0] < end,
                "calls_again": sum(
                    n - before[key] - (key not in before) for key, n in after.items()
                ),
                "difference": difference(found, truth),
            }


@contextmanager
def killer(pid, delay):
    """Kill a process after a delay in seconds; yield a list that gets the time."""
    killed = []

    def kill():
        os.kill(pid, signal.SIGKILL)
        killed.append(time.perf_counter())

    timer = threading.Timer(delay, kill)
    timer.start()
    yield killed
    timer.join()


class Peaks:
    """Largest resident sets of processes during a block, in MB, seen every 20 ms."""

    def __init__(self, processes):
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}

    def __enter__(self):
        self.megabytes = dict.fromkeys(self._processes, 0.0)
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self._watcher.join()

    def _watch(self):
        while not self._done.wait(0.02):
            for name, process in self._processes.items():
                with suppress(psutil.NoSuchProcess):  # `million` raises for lost workers
                    resident = process.memory_info().rss / 1e6
                    self.megabytes[name] = max(self.megabytes[name], resident)

    def largest(self, of_client):
        """Return the peak of the client, or the largest peak of the other processes."""
        peaks = self.megabytes.items()
        return max(peak for name, peak in peaks if (name == "client") == of_client)


def spilled_bytes(dask_worker):
    """Return the bytes of blocks that a worker keeps on the disk."""
    return dask_worker.data.spilled_total.disk


def on_one_machine(name, shape, path, z):
    """Return means of one process that reads the training images from a file, and seconds."""
    torch.set_num_threads(1)
    model = SPEED[name](shape).fit(path)
    start = time.perf_counter()
    return model.denoise(z, SIGMA), time.perf_counter() - start


def million(options, path, clean):
    """Yield time and memory of four workers that hold a million images, and the difference."""
    path = options.folder / ("million.npy" if options.n_million == MILLION else "part.npy")
    if not path.exists():
        write_images(path, load_edm_zip(options.data).images, options.n_million)
    z, n_blocks = noisy(clean[:8], SIGMA).numpy(), 4 * MILLION_BLOCKS
    settings = {f"distributed.worker.memory.{key}": value for key, value in FRACTIONS.items()}
    settings["temporary-directory"] = str(options.folder)
    settings["distributed.scheduler.work-stealing"] = False  # blocks stay on their workers
    for name in (MODEL[0], MODEL[-1]):
        with (
            dask.config.set(settings),
            cluster(4, memory_limit=MEMORY_LIMIT) as client,
        ):
            pids = client.run(os.getpid)
            processes = {"client": os.getpid(), **pids}
            client.run(alone, SPEED[name](clean.shape[1:]), path, 0, 8, z)  # loads libraries
            with Peaks(processes) as idle:
                time.sleep(0.2)
            start = time.perf_counter()
            with Peaks(processes) as fit:
                model = fitted(
                    client, SPEED[name](clean.shape[1:]), path, options.n_million, n_blocks
                )
            times = [time.perf_counter() - start]
            with Peaks(processes) as call:
                for _ in range(2):
                    start = time.perf_counter()
                    found = model.denoise(z, SIGMA)
                    times.append(time.perf_counter() - start)
            if client.run(os.getpid) != pids:
                raise RuntimeError("a worker was restarted, and its peak is unknown.")
            disk = client.run(spilled_bytes)
        # in a process of its own: pages of the file would count as memory of the client
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            truth, one_s = pool.submit(on_one_machine, name, clean.shape[1:], path, z).result()
        yield {
            "denoiser": name,
            "n_train": options.n_million,
            "n_workers": len(pids),
            "n_blocks": n_blocks,
            "n_noisy": len(z),
            **dict(zip(("fit_s", "first_call_s", "second_call_s"), times, strict=True)),
            "one_machine_s": one_s,
            **{
                f"{role}_{phase}_MB": peaks.largest(role == "client")
                for role in ("client", "worker")
                for phase, peaks in (("before", idle), ("fit", fit), ("call", call))
            },
            "on_disk_MB": sum(disk.values()) / 1e6,
            "difference": difference(found, truth),
        }


def call_seconds(model, z, repeats):
    """Return the shortest time of a call after a first one."""
    model.denoise(z, SIGMA)
    return min(seconds_of(partial(model.denoise, z, SIGMA)) for _ in range(repeats))


def constants(options, path, clean):
    """Yield the constants of the model, for one process and for several at once."""
    z, shape = noisy(clean, SIGMA).numpy(), clean.shape[1:]
    n = options.n_train // 2
    for n_workers in (1, 2, 4):
        with cluster(n_workers) as client:
            blocks_s, batch_s = dask_seconds(client, path, clean, options.repeats)
            for name in MODEL:
                together_s = partial(together, client, SPEED[name](shape), path)
                many = min(together_s(n, z) for _ in range(options.repeats))
                few = min(together_s(n_workers, z) for _ in range(options.repeats))
                yield {
                    "denoiser": name,
                    "side": shape[1],
                    "n_windows": n_windows(name, shape),
                    "n_workers": n_workers,
                    "us_per_pair": 1e6 * (many - few) / (len(z) * (n / n_workers - 1)),
                    "ms_per_block_and_image": 1e3 * few / len(z),
                    "ms_per_block": 1e3 * blocks_s,
                    "ms_per_batch": 1e3 * batch_s,
                }
    images = load_edm_zip(options.large).images[: options.n_train // 8]
    large = path.with_name("large.npy")
    np.save(large, images[:-64])
    z = noisy(images[-64:], SIGMA).numpy()
    for name in MODEL:
        model = SPEED[name](images.shape[1:])
        few, many = (alone(model, large, 0, n, z, options.repeats) for n in (1, len(images) - 64))
        yield {
            "denoiser": name,
            "side": images.shape[2],
            "n_windows": n_windows(name, images.shape[1:]),
            "n_workers": 1,
            "us_per_pair": 1e6 * (many - few) / (len(z) * (len(images) - 65)),
            "ms_per_block_and_image": 1e3 * few / len(z),
            "ms_per_block": float("nan"),
            "ms_per_batch": float("nan"),
        }
    large.unlink()


def dask_seconds(client, path, clean, repeats):
    """Return the seconds of Dask for a block and for a batch, from blocks of one image."""
    z, name = noisy(clean[:1], SIGMA).numpy(), "EmpiricalDenoiser()"
    own = alone(SPEED[name](clean.shape[1:]), path, 0, 1, z, repeats)
    n_few = len(client.nthreads())
    n_many = 8 * n_few  # more of them would be joined
    times = []
    for n_blocks in (n_few, n_many):
        model = fitted(client, SPEED[name](clean.shape[1:]), path, n_blocks, n_blocks)
        times.append(call_seconds(model, z, 2 * repeats))
    per_block = (times[1] - times[0]) / (n_many - n_few)
    return per_block - own / n_few, times[0] - n_few * per_block - own


def model(options, path, clean, rows):
    """Yield measured and predicted times, from the rows of `constants`."""
    shape = clean.shape[1:]
    side = shape[1]
    for n_workers in (1, 2, 4):
        with cluster(n_workers) as client:
            for name in MODEL:
                (row,) = (
                    row
                    for row in rows
                    if (row["denoiser"], row["n_workers"], row["side"]) == (name, n_workers, side)
                )
                costs = costs_of(row)
                for n_train, n_blocks, n_noisy in (
                    (options.n_train // 4, 8, 8),
                    (options.n_train, n_workers, 8),
                    (options.n_train, 8, 64),
                    (options.n_train, 8 * n_workers, 8),
                    (options.n_train * 2, 8 * n_workers, 64),
                ):
                    fit = fitted(client, SPEED[name](shape), path, n_train, n_blocks)
                    measured = call_seconds(
                        fit, noisy(clean[:n_noisy], SIGMA).numpy(), options.repeats
                    )
                    predicted = cluster_model.seconds(costs, n_train, n_noisy, n_workers, n_blocks)
                    yield {
                        "denoiser": name,
                        "n_workers": n_workers,
                        "n_train": n_train,
                        "n_blocks": n_blocks,
                        "n_noisy": n_noisy,
                        "measured_s": measured,
                        "predicted_s": predicted,
                        "error_percent": 100 * (predicted / measured - 1),
                    }


def costs_of(row):
    """Return the `Costs` of a row of `constants`."""
    return cluster_model.Costs(
        1e-6 * row["us_per_pair"],
        1e-3 * row["ms_per_block_and_image"],
        1e-3 * row["ms_per_block"],
        1e-3 * row["ms_per_batch"],
    )


def measure(part, options, path, clean):
    """Measure a part, print it and write its files."""
    functions = dict(zip(PARTS, (agreement, speed, traffic, kills, million, model), strict=True))
    arguments = [options, path, clean]
    if part == "model":
        rows = _results.printed("cluster-constants", constants(*arguments))
        _results.write(options.out, "cluster-constants", rows, repeats=options.repeats)
        arguments.append(rows)
    facts = {"million": {"memory_limit_MB": MEMORY_LIMIT // 10**6, **FRACTIONS}}.get(part, {})
    rows = _results.printed(f"cluster-{part}", functions[part](*arguments))
    _results.write(options.out, f"cluster-{part}", rows, repeats=options.repeats, **facts)


def main(arguments=None, images=None):
    """Parse the command line, measure, print and write; images stand in for those of archives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/cifar10-32x32.zip")
    parser.add_argument("--test", type=Path, default="../shared/data/cifar10-32x32-test.zip")
    parser.add_argument("--large", type=Path, default="../shared/data/tiny-imagenet-64x64.zip")
    parser.add_argument("--folder", type=Path, help="folder for copies of the training images")
    parser.add_argument("--n-train", type=int, default=20_000)
    parser.add_argument("--n-agreement", type=int, default=4000)
    parser.add_argument("--n-million", type=int, default=MILLION)
    parser.add_argument("--runs", type=int, default=20, help="calls with a killed worker")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each denoiser")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        options.folder = options.folder or Path(folder)
        needed = argparse.Namespace(**{**vars(options), "n_train": 2 * options.n_train})
        train, clean = load(needed, 64) if images is None else images
        path = Path(folder) / "training.npy"
        np.save(path, train)
        for part in options.only:
            measure(part, options, path, clean)


if __name__ == "__main__":
    main()
