"""Tables, charts and numbers of docs/user_guide/clusters.rst and clusters_cost.rst."""

import math
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from measured import (
    AMBER,
    BLUE,
    FOLDERS,
    GREEN,
    ORANGE,
    SKY,
    SMALL,
    Table,
    columns,
    plain,
    read,
    span,
    text,
    two_digits,
)

sys.path.append(str(FOLDERS[0].parent))

import cluster_model

_BLOCK_BYTES = 100 * 10**6  # of a block of the extrapolations
_VALUES = {32: 3 * 32 * 32, 64: 3 * 64 * 64}  # of an image, by its side
_WORKERS = {1: BLUE, 8: ORANGE, 64: GREEN}
_NUMBERS = (10**5, 10**6, 10**7, 10**8, 10**9)
_IMAGENET, _SAMPLES, _STEPS = 1_281_167, 16, 18
_TREE_BYTES, _INDEX_BYTES = 9, 4  # for a pixel of uint8: trees of 3 x 3 patches; float32 values
_NAMES = ("EmpiricalDenoiser()", "PSPCDenoiser(3)", "PSPCDenoiser(8)")


def costs(name, side=32, n_workers=1):
    """Return the measured `cluster_model.Costs` of a denoiser and side of images."""
    rows = read("cluster-constants").set_index(["denoiser", "side", "n_workers"])
    row = rows.loc[name, side, n_workers]
    dask = rows.loc[name, 32, n_workers]  # its tasks do not depend on the images
    return cluster_model.Costs(
        1e-6 * row.us_per_pair,
        1e-3 * row.ms_per_block_and_image,
        1e-3 * dask.ms_per_block,
        1e-3 * dask.ms_per_batch,
    )


def n_blocks(n_train, n_workers, side):
    """Return the number of blocks of at most 100 MB, at least one for each worker."""
    return max(n_workers, math.ceil(n_train * _VALUES[side] / _BLOCK_BYTES))


def seconds(name, n_train, n_noisy, n_workers, side=32):
    """Return the predicted seconds of a call."""
    blocks = n_blocks(n_train, n_workers, side)
    return cluster_model.seconds(costs(name, side), n_train, n_noisy, n_workers, blocks)


def worker_bytes(n_train, n_workers, side=32):
    """Return the bytes of a worker: images, and the measured memory without images."""
    base = 1e6 * read("cluster-million").worker_before_MB.max()
    return cluster_model.image_bytes(n_train, n_workers, _VALUES[side]) + base


def tree_seconds(n_train, sigma=0.14):
    """Return the seconds of PSPC by k-d trees per image, extrapolated by a power of N."""
    rows = read("trees-growth").query("sigma == @sigma and n_noisy == 8")
    times = rows.set_index("n_train").tree_ms
    largest = times.index.max()
    exponent = math.log(times[largest] / times[50_000]) / math.log(largest / 50_000)
    return 1e-3 * times[largest] * (n_train / largest) ** exponent


def tree_bytes(n_train, side=32):
    """Return the bytes of training images and of trees of 3 x 3 patches."""
    return n_train * _VALUES[side] * (1 + _TREE_BYTES)


def tol_seconds(n_train):
    """Return the seconds of ``EmpiricalDenoiser(tol=1e-3)`` per image, in proportion to N."""
    rows = read("index-growth").set_index("n_train").tol_ms_per_image
    return 1e-3 * rows[rows.index.max()] * n_train / rows.index.max()


def duration(value):
    """Return seconds as text, in a unit that leaves few digits."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if value >= 2 * size or unit == "s":
            return f"{text(value / size, 2)} {unit}"
    raise AssertionError


def memory(value):
    """Return bytes as text."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size or unit == "MB":
            return f"{text(value / size, 2)} {unit}"
    raise AssertionError


def fewest_workers(name, n_train, n_noisy, limit):
    """Return the fewest workers, a power of two up to 1,024, that keep a limit in seconds."""
    for n_workers in (2**k for k in range(11)):
        if seconds(name, n_train, n_noisy, n_workers) <= limit:
            return plain(n_workers)
    return "more than 1,024"


def which_machine():
    """Return time and memory of 64 noisy images: a row for each N."""
    name = "PSPCDenoiser(3)"
    return pd.DataFrame(
        [
            {
                "N": plain(n),
                "Pixels": memory(n * _VALUES[32]),
                **{
                    f"{w} worker{'s' * (w > 1)}": (
                        f"{duration(seconds(name, n, 64, w))}, {memory(worker_bytes(n, w))}"
                    )
                    for w in _WORKERS
                },
                "Workers for one minute": fewest_workers(name, n, 64, 60),
                "k-d trees, one machine": (
                    f"{duration(64 * tree_seconds(n))}, {memory(tree_bytes(n))}"
                ),
            }
            for n in _NUMBERS
        ]
    )


def imagenet():
    """Return the time of samples of ImageNet at 64 pixels: a row for each denoiser."""
    calls = _STEPS
    body = {
        f"{w} worker{'s' * (w > 1)}": [
            duration(calls * seconds(name, _IMAGENET, _SAMPLES, w, 64)) for name in _NAMES
        ]
        for w in _WORKERS
    }
    body["Time per pair (µs)"] = [text(1e6 * costs(name, 64).pair, 2) for name in _NAMES]
    return pd.DataFrame({"Denoiser": [f"``{name}``" for name in _NAMES], **body})


def chart():
    """Draw the predicted time of 64 noisy images against N, and the measured times."""
    name = "PSPCDenoiser(3)"
    figure, ax = plt.subplots(figsize=(4.5, 3.4), layout="constrained")
    numbers = np.geomspace(1e4, 1e9, 60)
    for n_workers, colour in _WORKERS.items():
        times = [seconds(name, int(n), 64, n_workers) for n in numbers]
        ax.plot(numbers, times, color=colour, label=f"{n_workers} worker{'s' * (n_workers > 1)}")
    largest = read("trees-growth").n_train.max()
    for part, line in ((numbers <= largest, "-"), (numbers >= largest, ":")):
        own = numbers[part]
        label = "k-d trees, one machine" if line == "-" else None
        ax.plot(own, [64 * tree_seconds(n) for n in own], line, color=AMBER, label=label)
    rows = read("cluster-model").query("denoiser == @name and n_noisy == 64 and n_workers == 1")
    ax.plot(
        rows.n_train, rows.measured_s, "o", color=SKY, mec=BLUE, ms=6, label="1 worker, measured"
    )
    ax.set(xscale="log", yscale="log", xlabel="training images N of 3 x 32 x 32 pixels")
    ax.set_ylabel("seconds for 64 noisy images")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="0.85", lw=0.7)
    ax.set_axisbelow(True)
    return figure


def agreement():
    """Return the largest difference from one machine: a row for each denoiser."""
    rows = read("cluster-agreement")
    wide = rows.pivot_table("difference", "denoiser", ["dtype", "n_workers"], aggfunc="max")
    wide = wide.loc[list(dict.fromkeys(rows.denoiser))]
    body = {
        f"{dtype}, {n} workers": wide[dtype, n].map(lambda value: f"{value:.1g}").tolist()
        for dtype in ("float32", "float64")
        for n in rows.n_workers.unique()
    }
    return pd.DataFrame({"Denoiser": [f"``{name}``" for name in wide.index], **body})


def traffic():
    """Return kB per call, the largest of a worker: a row for each number of noisy images."""
    rows = read("cluster-traffic")
    keys = ["denoiser", "n_workers", "n_noisy"]
    wide = rows.pivot(index=keys, columns="n_train")
    wide = wide.loc[list(dict.fromkeys(map(tuple, rows[keys].to_numpy())))]
    numbers = sorted(rows.n_train.unique())
    return pd.DataFrame(
        {
            "Denoiser": [f"``{name}``" for name, *_ in wide.index],
            "Workers": [plain(n) for _, n, _ in wide.index],
            "Noisy images": [plain(n) for *_, n in wide.index],
            "Formula (kB)": wide["predicted_received_kB", numbers[0]].map(text).tolist(),
            **{
                f"N = {plain(n)} (kB)": (
                    wide["largest_received_kB", n] + wide["largest_messages_received_kB", n]
                )
                .map(text)
                .tolist()
                for n in numbers
            },
        }
    )


TABLES = {
    "cluster-agreement": Table("cluster-agreement", agreement),
    "cluster-speed": columns(
        "cluster-speed",
        {
            "Denoiser": ("denoiser", lambda name: f"``{name}``"),
            "One worker (s)": ("one_worker_s", text),
            "Two workers (s)": ("two_workers_s", text),
            "Ratio, median": ("ratio", text),
            "Smallest": ("smallest_ratio", text),
            "Largest": ("largest_ratio", text),
            "Ratio without Dask": ("limit", text),
        },
    ),
    "cluster-traffic": Table("cluster-traffic", traffic),
    "cluster-million": columns(
        "cluster-million",
        {
            "Denoiser": ("denoiser", lambda name: f"``{name}``"),
            "Fit (s)": ("fit_s", two_digits),
            "First call (s)": ("first_call_s", two_digits),
            "Second call (s)": ("second_call_s", two_digits),
            "One machine (s)": ("one_machine_s", two_digits),
            "Worker before fit (MB)": ("worker_before_MB", text),
            "during fit (MB)": ("worker_fit_MB", text),
            "during calls (MB)": ("worker_call_MB", text),
            "Client and scheduler during fit (MB)": ("client_fit_MB", text),
            "Client during calls (MB)": ("client_call_MB", text),
            "On disk (MB)": ("on_disk_MB", text),
            "Largest difference": ("difference", lambda value: f"{value:.1g}"),
        },
    ),
    "cluster-constants": columns(
        "cluster-constants",
        {
            "Denoiser": ("denoiser", lambda name: f"``{name}``"),
            "Side of images": ("side", plain),
            "Workers at once": ("n_workers", plain),
            "a, pair (µs)": ("us_per_pair", text),
            "b, block and noisy image (ms)": ("ms_per_block_and_image", text),
            "c, block (ms)": ("ms_per_block", text),
            "e, batch (ms)": ("ms_per_batch", text),
        },
    ),
    "cluster-model": columns(
        "cluster-model",
        {
            "Denoiser": ("denoiser", lambda name: f"``{name}``"),
            "Workers": ("n_workers", plain),
            "N": ("n_train", plain),
            "Blocks": ("n_blocks", plain),
            "Noisy images": ("n_noisy", plain),
            "Measured (s)": ("measured_s", text),
            "Formula (s)": ("predicted_s", text),
            "Error (%)": ("error_percent", "{:+.0f}".format),
        },
    ),
    "cluster-machines": Table("cluster-constants", which_machine),
    "cluster-imagenet": Table("cluster-constants", imagenet),
}
CHARTS = {"cluster-cost": chart}


def numbers():
    """Return the numbers within sentences, by name."""
    kills, speed = read("cluster-kills"), read("cluster-speed")
    million, model = read("cluster-million"), read("cluster-model")
    sent = read("cluster-traffic")
    received = sent.largest_received_kB + sent.largest_messages_received_kB
    of_n = received.groupby([sent.denoiser, sent.n_workers, sent.n_noisy])
    errors = model.error_percent.abs()
    processes = million.filter(regex="_(fit|call)_MB$").to_numpy()
    return {
        "cluster ratio": span(speed.ratio),
        "cluster ratio without Dask": span(speed.limit),
        "cluster kills": plain(len(kills)),
        "cluster kills during calls": plain(int(kills.killed_during_call.sum())),
        "cluster calls again": span(kills.calls_again, 3),
        "cluster kill difference": f"{kills.difference.max():.1g}",
        "cluster largest process": f"{processes.max():.0f}",
        "cluster million difference": f"{million.difference.max():.1g}",
        "cluster traffic of N": text(float((of_n.max() / of_n.min()).max()), 3),
        "cluster median error": f"{errors.median():.0f}",
        "cluster largest error": f"{errors.max():.0f}",
        "cluster base": f"{million.worker_before_MB.max():.0f}",
        "tol at 200000": text(1e3 * tol_seconds(200_000), 2),
        "imagenet pixels": memory(_IMAGENET * _VALUES[64]),
        "imagenet memory at 64": memory(worker_bytes(_IMAGENET, 64, 64)),
        "imagenet memory at 8": memory(worker_bytes(_IMAGENET, 8, 64)),
        "imagenet tree memory": memory(tree_bytes(_IMAGENET, 64)),
        "imagenet traffic": memory(cluster_model.received_bytes(_SAMPLES, 64, 62**2, _VALUES[64])),
    }
