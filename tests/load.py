"""Call one fitted denoiser from many threads and processes: answers stay those of one caller.

From the root of the repository::

    python -m tests.load --seconds 600 --seed 0

In every round, eight threads call random methods of a denoiser that was just fitted, so that they
also build its index, trees and classes together. Meanwhile a ninth thread fits another denoiser,
or fits the same denoiser again. In other rounds, four processes of joblib (loky) or of
`multiprocessing` (spawn, forkserver) call one pickled denoiser. The run exits with status 1 if

- an answer differs from the answers of one caller alone by more than rounding,
- a resident set grows by more than ``GROWTH`` bytes in the second half of the rounds of a kind,
- or a round takes longer than ``SECONDS``: all threads then print where they are.
"""

import argparse
import collections
import contextlib
import faulthandler
import gc
import itertools
import multiprocessing
import os
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.base import clone

sys.path.insert(0, str(Path(__file__).resolve().parent))

from skpspc import EmpiricalDenoiser, LocalScoreDenoiser, PatchDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images
from skpspc.inspection import attribute, leave_out
from skpspc.posterior import cells, truncated
from test_common import DENOISERS, SHAPE

THREADS, PROCESSES, CALLS = 8, 4, 12
KINDS = ("alone", "refit", "loky", "spawn", "forkserver")
GROWTH = 2**27
"""Most bytes by which a resident set may grow in the second half of the rounds."""
SECONDS = 300

LARGE = {
    "digits tol": EmpiricalDenoiser(tol=1e-3),
    "digits neighbours": EmpiricalDenoiser(n_neighbors=20, n_remainder=10),
    "digits patch tol": PatchDenoiser(3, location="all", tol=1e-3),
    "digits numba": PSPCDenoiser(3, engine="numba"),
    "digits torch": PSPCDenoiser(3, engine="torch"),
    "digits trees": PSPCDenoiser(3, algorithm="kd_tree"),
    "digits cells": LocalScoreDenoiser(3, equivariant=True, tol=1e-3),
}
EVERY = {**DENOISERS, **LARGE}


# Data, and one caller alone


@dataclass
class Task:
    """A denoiser with data for it: training images and labels, noisy images, another fit."""

    name: str
    X: np.ndarray
    y: np.ndarray
    Z: np.ndarray
    first: int  # images of the first of two fits

    @property
    def estimator(self):
        """The denoiser, not fitted."""
        return clone(EVERY[self.name])

    def fitted(self):
        """The denoiser, fitted on all images."""
        return self.estimator.fit(self.X, self.y)

    def refitted(self, model):
        """Fit a model on the first images, then on all images."""
        model.fit(self.X[: self.first], self.y[: self.first])
        model.fit(self.X, self.y)


def task(name):
    """Return the `Task` of a denoiser."""
    rng = np.random.default_rng(1)
    if name in LARGE:
        X = load_digits_images().images[:300]
        dtype = np.float32
    else:
        X = rng.integers(0, 256, (16, *SHAPE), dtype=np.uint8)
        dtype = np.float64 if len(name) % 2 else np.float32
    Z = X[:3] / 127.5 - 1 + 0.4 * rng.standard_normal((3, *X.shape[1:]))
    return Task(name, X, np.arange(len(X)) % 2, Z.astype(dtype), len(X) * 3 // 4)


WALK = {"n_steps": 3, "sigma_max": 5.0, "random_state": 0}
CALLED = {
    "denoise": lambda m, t: m.denoise(t.Z, 0.4),
    "denoise nearest": lambda m, t: m.denoise(t.Z, 0.0),
    "denoise levels": lambda m, t: m.denoise(t.Z, [0.1, 1.0, 9.0]),
    "denoise class": lambda m, t: m.denoise(t.Z, 0.4, y=1, guidance=1.5),
    "denoise classes": lambda m, t: m.denoise(t.Z, 0.4, y=[0, 1, 0]),
    "denoise gradient": lambda m, t: _gradient(m, t.Z),
    "posterior": lambda m, t: m.posterior(t.Z, 0.2),
    "transform": lambda m, t: m.transform(t.Z),
    "score_samples": lambda m, t: m.score_samples(t.Z, 0.4),
    "score": lambda m, t: m.score(t.X[:2], sigmas=[0.5]),
    "sample": lambda m, t: m.sample(2, **WALK),
    "sample class": lambda m, t: m.sample(2, y=1, sampler="heun", **WALK),
    "jacobian": lambda m, t: m.jacobian(t.Z[:1], 0.4, [(0, 0), (1, 1)]),
    "sensitivity": lambda m, t: m.sensitivity(t.Z[:2], 0.4, [(0, 0)]),
    "vjp": lambda m, t: m.vjp(t.Z, 0.4, np.ones((3, *m._answer_shape))),
    "jvp": lambda m, t: m.jvp(t.Z, 0.4, np.cos(t.Z)),
    "divergence": lambda m, t: m.divergence(t.Z[:1], 0.4, n_probes=2, random_state=0),
    "log_likelihood": lambda m, t: m.log_likelihood(
        t.Z[:1], n_probes=2, random_state=0, sigma_min=2.0, sigma_max=2.1, rtol=0.1
    ),
    "attribute": lambda m, t: m.attribute(t.Z[:2], 0.4, top=3),
    "attribute windows": lambda m, t: m.attribute(t.Z[:2], 0.1, top=3, by="window"),
    "denoise_without": lambda m, t: m.denoise_without(t.Z, 0.1, [2, [0, 1, 5]]),
    "inspection.attribute": lambda m, t: attribute(m, t.Z[:2], 0.4, top=3),
    "inspection.leave_out": lambda m, t: leave_out(m, t.Z[:2], 0.4, [2]),
    "index_recall": lambda m, t: m.index_recall(k=3, sigma=0.1),
    "wiener": lambda m, t: m.wiener(0.4),
    "neighbours": lambda m, t: m.neighbours(0.4),
    "mean_": lambda m, t: m.mean_,
    "classes_": lambda m, t: m.classes_,
    "repr": lambda m, t: repr(m),
}


def _gradient(model, Z):
    """Gradient of the sum of denoised images by noisy images."""
    z = torch.from_numpy(Z).requires_grad_()
    model.denoise(z, 0.4).sum().backward()
    return z.grad


def answer(call, model, given):
    """Return the answer to a call as a list of arrays, or the sentence of its error."""
    try:
        said = CALLED[call](model, given)
    except (ValueError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return list(_arrays(said))


def _arrays(said):
    """Yield the arrays in an answer."""
    if is_dataclass(said):
        said = [getattr(said, each.name) for each in fields(said)]
    if isinstance(said, dict):
        said = list(said.values())
    if isinstance(said, (tuple, list)):
        for part in said:
            yield from _arrays(part)
    elif said is not None:
        yield np.asarray(said.detach() if isinstance(said, torch.Tensor) else said)


def use_indexes():
    """Let small training sets take the ways of large ones, in this process."""
    truncated._LARGEST_FRACTION = 1
    cells._WORTH_IT = 0


def alone(given):
    """Return the answer to every call, by one caller of a fitted denoiser."""
    model = given.fitted()
    return {call: answer(call, model, given) for call in CALLED}


def difference(got, expected):
    """Return 0 for equal bits, 1 for rounding, 2 for another answer."""
    if isinstance(got, str) or isinstance(expected, str):
        return 0 if isinstance(got, str) and got == expected else 2
    if [part.shape for part in got] != [part.shape for part in expected]:
        return 2
    worst = 0
    for one, other in zip(got, expected, strict=True):
        if one.dtype != other.dtype:
            return 2
        if one.dtype.kind != "f":
            worst = max(worst, 0 if np.array_equal(one, other) else 2)
        elif not np.array_equal(one, other, equal_nan=True):
            tolerance = 1e-5 if one.dtype == np.float32 else 1e-9
            close = np.allclose(one, other, tolerance, tolerance, equal_nan=True)
            worst = max(worst, 1 if close else 2)
    return worst


# One round


@dataclass
class Report:
    """Counts of a run.

    Attributes
    ----------
    calls, roundings : Counter
        Calls, and answers with other bits that agree to rounding, by the name of the call.
    mismatches : list of str
        Answers of nobody who calls alone.
    rounds : Counter
        Rounds of each kind.
    sizes : dict
        Resident sets in bytes after the rounds of (kind, process).
    """

    calls: collections.Counter = field(default_factory=collections.Counter)
    roundings: collections.Counter = field(default_factory=collections.Counter)
    mismatches: list = field(default_factory=list)
    rounds: collections.Counter = field(default_factory=collections.Counter)
    sizes: dict = field(default_factory=lambda: collections.defaultdict(list))

    def count(self, where, call, got, *expected):
        """Compare an answer with every answer that would be right."""
        self.calls[call] += 1
        worst = min(difference(got, one) for one in expected)
        self.roundings[call] += worst == 1
        if worst == 2:
            self.mismatches.append(f"{where}: {call}: {_shown(got)}, not {_shown(expected[0])}")

    def __str__(self):
        lines = [f"{'call':22s} {'answers':>8s} {'other bits':>11s}"]
        for call in CALLED:
            lines.append(f"{call:22s} {self.calls[call]:8d} {self.roundings[call]:11d}")
        lines.append(f"{'all':22s} {self.calls.total():8d} {self.roundings.total():11d}")
        for kind, count in self.rounds.items():
            half, last = (size / 2**20 for size in self.half_and_end(kind))
            lines.append(
                f"{kind}: {count} rounds, resident set {half:.0f} MiB after half of them, "
                f"{last:.0f} MiB at the end"
            )
        lines.append(f"{len(self.mismatches)} mismatches")
        return "\n".join([*lines, *self.mismatches[:50]])

    def half_and_end(self, kind):
        """Return two resident sets of the process that grew most in the second half of a kind."""
        ends = [
            (sizes[len(sizes) // 2], sizes[-1])
            for (of_kind, _), sizes in self.sizes.items()
            if of_kind == kind
        ]
        return max(ends, key=lambda pair: pair[1] - pair[0])

    @property
    def grown(self):
        """Bytes by which a resident set grew in the second half of a kind, at most."""
        pairs = (self.half_and_end(kind) for kind in self.rounds)
        return max((last - half for half, last in pairs), default=0)


def _shown(answer):
    return answer[:200] if isinstance(answer, str) else " ".join(repr(answer)[:200].split())


def resident():
    """Resident set of this process, bytes."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def random_calls(rng):
    """Return the calls of one thread or process, in order."""
    return rng.choice(list(CALLED), CALLS).tolist()


def threads_round(pool, kind, given, expected, report, rng):
    """Call a fresh model from all threads, while another thread fits."""
    model, done = given.fitted(), threading.Event()
    barrier = threading.Barrier(THREADS + 1)
    right = [expected]
    if kind == "refit":
        first = given.fitted().fit(given.X[: given.first], given.y[: given.first])
        right.append({call: answer(call, first, given) for call in CALLED})

    def ask(calls):
        barrier.wait(SECONDS)
        return [(call, answer(call, model, given)) for call in calls]

    def fit():
        barrier.wait(SECONDS)
        while not done.is_set():
            if kind == "refit":
                given.refitted(model)
            else:
                given.estimator.fit(given.X, given.y).denoise(given.Z, 0.4)

    fitting = pool.submit(fit)
    asked = [pool.submit(ask, random_calls(rng)) for _ in range(THREADS)]
    try:
        for question in asked:
            for call, got in question.result():
                report.count(f"{given.name}, {kind}", call, got, *(one[call] for one in right))
    finally:
        done.set()
    fitting.result()
    report.sizes[kind, os.getpid()].append(resident())


def in_process(model, given, calls):
    """Answer calls in a worker process; return also its resident set."""
    warnings.simplefilter("ignore")
    use_indexes()
    return [(call, answer(call, model, given)) for call in calls], os.getpid(), resident()


def processes_round(starmap, processes, kind, given, expected, report, rng):
    """Call a pickled model from all processes."""
    model = given.fitted()
    tasks = [(model, given, random_calls(rng)) for _ in range(processes)]
    for answers, process, size in starmap(in_process, tasks):
        report.sizes[kind, process].append(size)
        for call, got in answers:
            report.count(f"{given.name}, {kind}", call, got, expected[call])


@contextlib.contextmanager
def rounds_of(kind, processes):
    """Yield the function for one round of a kind, while its threads or processes run."""
    if kind in ("alone", "refit"):
        with ThreadPoolExecutor(THREADS + 1) as pool:
            yield partial(threads_round, pool, kind)
    elif kind == "loky":
        yield partial(processes_round, _loky, processes, kind)
        joblib.externals.loky.get_reusable_executor().shutdown()
    else:
        if kind == "forkserver":  # one import for all processes
            multiprocessing.set_forkserver_preload(["tests.load"])
        with multiprocessing.get_context(kind).Pool(processes) as pool:
            yield partial(processes_round, pool.starmap, processes, kind)
        pool.join()


# The run


def _loky(function, tasks):
    return joblib.Parallel(len(tasks), backend="loky")(
        joblib.delayed(function)(*each) for each in tasks
    )


class Watchdog:
    """Context that ends the process, with the place of every thread, after ``SECONDS``."""

    def __enter__(self):
        if faulthandler.is_enabled():
            faulthandler.dump_traceback_later(SECONDS, exit=True)

    def __exit__(self, *_):
        faulthandler.cancel_dump_traceback_later()


def visits(rng):
    """Yield the names of denoisers in random order, all before any again, for ever."""
    while True:
        yield from rng.permutation(list(EVERY)).tolist()


def run(seconds, seed, *, rounds=None, processes=PROCESSES, kinds=KINDS):
    """Run rounds of all kinds for so many seconds, or at most ``rounds`` of each kind.

    The answers of one caller alone take further seconds.

    Returns
    -------
    Report
    """
    report, expected = Report(), {}
    use_indexes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in kinds:
            rng, left = np.random.default_rng([seed, len(kind)]), seconds / len(kinds)
            with rounds_of(kind, processes) as one_round:
                for name in itertools.islice(visits(rng), rounds):
                    given = task(name)
                    with Watchdog():
                        if name not in expected:
                            expected[name] = alone(given)
                        begin = time.monotonic()
                        one_round(given, expected[name], report, rng)
                    report.rounds[kind] += 1
                    left -= time.monotonic() - begin
                    if left < 0:
                        break
    return report


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of rounds of all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=PROCESSES, help="number of processes")
    parser.add_argument("--rounds", type=int, help="at most so many rounds of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    given = parser.parse_args()
    faulthandler.enable()
    report = run(
        given.seconds, given.seed, rounds=given.rounds, processes=given.processes, kinds=given.kinds
    )
    print(report)
    if report.grown > GROWTH:
        print(f"the resident set grew by {report.grown / 2**20:.0f} MiB")
    sys.exit(bool(report.mismatches) or report.grown > GROWTH)


if __name__ == "__main__":
    from tests import load  # so that workers import the functions by this name

    load.main()
