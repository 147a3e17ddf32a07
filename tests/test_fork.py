"""Forked children: they answer, with the numbers of their parent, whatever it did before."""

import multiprocessing
import os
import threading
import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from helpers import few_digits
from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from skpspc._threads import ForkSafeLock, n_threads
from skpspc.support.search.brute import BruteIndex

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

TIMEOUT = 4  # seconds; a child takes less than one
X = few_digits() / np.float32(127.5) - 1
Z = X[:6] + np.float32(0.5) * np.random.default_rng(0).standard_normal(X[:6].shape, np.float32)

DENOISERS = {
    "empirical": EmpiricalDenoiser(),
    "empirical, tol": EmpiricalDenoiser(tol=1e-3),
    "empirical, n_neighbors": EmpiricalDenoiser(n_neighbors=20),
    "empirical, bandwidth": EmpiricalDenoiser(bandwidth=0.3),
    "patch": PatchDenoiser(4),
    "squares, numba": PSPCDenoiser(4, engine="numba"),
    "squares, torch": PSPCDenoiser(4, engine="torch"),
    "squares, bandwidth": PSPCDenoiser(4, bandwidth=0.3),
    "squares, calibrated": PSPCDenoiser("calibrated"),
    "masks": PosteriorMeanCollection(),
    "local score": LocalScoreDenoiser(3),
    "equivariant": LocalScoreDenoiser(3, equivariant=True),
    "equivariant, circular": LocalScoreDenoiser(3, equivariant=True, boundary="circular"),
    "Gaussian": GaussianDenoiser(),
    "PCA": PCALocalityDenoiser(),
    "smoothed": SmoothedDenoiser(EmpiricalDenoiser()),
    "blended": BlendedDenoiser([("a", EmpiricalDenoiser()), ("b", PatchDenoiser(8))], n_images=10),
}


@pytest.fixture(autouse=True)
def two_threads():
    """Two threads in every pool, whatever the environment says."""
    before = torch.get_num_threads()
    with threadpool_limits(2):
        torch.set_num_threads(2)
        yield
    torch.set_num_threads(before)


def in_forked_child(function):
    """What a function returns in a forked child; a child that hangs fails the test."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with warnings.catch_warnings():  # newer Pythons warn where a process with threads is forked
        warnings.simplefilter("ignore", DeprecationWarning)
        child = context.Process(target=lambda: sender.send(function()))
        child.start()
    sender.close()
    try:
        if not receiver.poll(TIMEOUT):
            pytest.fail("the forked child hangs")
        return receiver.recv()
    finally:
        child.kill()
        child.join()


def use_every_pool():
    """Wake the thread pools of torch, scikit-learn, faiss and the compiled kernels."""
    large = torch.ones(600, 600)
    large @ large
    KMeans(4, n_init=1, random_state=0).fit(np.random.default_rng(0).normal(size=(5000, 8)))
    for model in (EmpiricalDenoiser(n_neighbors=20), PSPCDenoiser(4)):
        model.fit(X).denoise(Z, 0.5)


@pytest.mark.parametrize("name", DENOISERS)
def test_a_forked_child_answers_like_its_parent(name):
    if "numba" in name:
        pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    use_every_pool()
    model = DENOISERS[name].fit(X)
    answer = model.denoise(Z, 0.5)
    asked = in_forked_child(lambda: model.denoise(Z, 0.5))
    np.testing.assert_allclose(asked, answer, rtol=0, atol=1e-6)
    refitted = in_forked_child(lambda: model.fit(X).denoise(Z, 0.5))
    np.testing.assert_array_equal(refitted, asked)
    torch.set_num_threads(1)
    np.testing.assert_array_equal(asked, model.denoise(Z, 0.5))


def test_the_libraries_themselves_work_in_a_forked_child():
    """The pools of OpenMP are not ours alone; a user's own calls must not hang either."""
    points = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
    faiss = pytest.importorskip("faiss", reason="faiss is not installed (extra cpu)")

    def nearest():
        index = faiss.IndexFlatL2(8)
        index.add(points)
        return index.search(points[:500], 3)[1]

    def clusters():
        return KMeans(4, n_init=1, random_state=0).fit(points).inertia_

    use_every_pool()
    np.testing.assert_array_equal(in_forked_child(nearest), nearest())
    assert in_forked_child(clusters) == pytest.approx(clusters(), rel=1e-3)


def test_a_forked_child_has_one_thread():
    use_every_pool()
    assert n_threads() == 2
    assert in_forked_child(lambda: (n_threads(), torch.get_num_threads())) == (1, 1)


def test_a_pool_of_forked_workers():
    model = PSPCDenoiser(4).fit(X)
    want = [model.denoise(Z, sigma) for sigma in (0.1, 0.5, 2.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pool = multiprocessing.get_context("fork").Pool(2)
    with pool:
        answers = pool.starmap_async(model.denoise, [(Z, 0.1), (Z, 0.5), (Z, 2.0)])
        np.testing.assert_allclose(answers.get(TIMEOUT), want, rtol=0, atol=1e-6)


def test_locks_held_by_other_threads_are_free_in_a_child():
    lock, held, done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait()

    def take():
        with lock:
            return "taken"

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        held.wait()
        assert in_forked_child(take) == "taken"
    finally:
        done.set()
        holder.join()


def test_a_child_forked_while_another_thread_builds_an_index(monkeypatch):
    """The lock of the index is held at the fork; the child builds an index of its own."""
    building, go_on = threading.Event(), threading.Event()

    def stopping(index, points):
        if threading.current_thread() is not threading.main_thread():
            building.set()
            go_on.wait()

    monkeypatch.setattr(BruteIndex, "train", stopping)
    model = EmpiricalDenoiser(n_neighbors=20).fit(X)
    asker = threading.Thread(target=model.denoise, args=(Z, 0.5))
    asker.start()
    try:
        assert building.wait(TIMEOUT)
        answer = in_forked_child(lambda: model.denoise(Z, 0.5))
    finally:
        go_on.set()
        asker.join()
    np.testing.assert_allclose(answer, model.denoise(Z, 0.5), rtol=0, atol=1e-6)


def test_a_fork_waits_for_compilation():
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    from numba import njit
    from numba.core.compiler_lock import global_compiler_lock

    from skpspc.posterior import _jit  # noqa: F401

    compiling, forking = threading.Event(), threading.Event()

    def compile_slowly():
        with global_compiler_lock:
            compiling.set()
            forking.wait(0.5)

    compiler = threading.Thread(target=compile_slowly)
    compiler.start()
    compiling.wait()
    assert in_forked_child(lambda: njit(lambda x: x + 1)(1)) == 2
    compiler.join()
