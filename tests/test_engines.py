"""What computes, and on how many threads."""

import importlib
import sys
import warnings

import joblib
import numpy as np
import pytest
import torch

from skpspc import LocalScoreDenoiser, PSPCDenoiser
from skpspc._threads import n_threads
from skpspc.posterior import engines
from skpspc.posterior.softmax import difference_dtype, precision_root
from skpspc.support import TrainingSet


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    engines._has_numba.cache_clear()
    yield
    engines._has_numba.cache_clear()


def test_threads_are_those_of_torch(four_threads):
    assert n_threads() == 4


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_threads_are_those_of_an_active_configuration(four_threads, backend):
    with joblib.parallel_config(backend, n_jobs=3):
        assert n_threads() == 3


def test_a_worker_thread_has_one(four_threads):
    counts = joblib.Parallel(2, backend="threading")(joblib.delayed(n_threads)() for _ in range(4))
    assert counts == [1] * 4


def test_worker_processes_share_the_machine():
    counts = joblib.Parallel(2, backend="loky")(joblib.delayed(n_threads)() for _ in range(4))
    assert max(counts) <= max(1, joblib.cpu_count() // 2)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_workers_answer_alike(photos, engine, backend):
    model = PSPCDenoiser(5, engine=engine).fit(photos[:50])
    noisy = photos[50:54].astype(np.float32) / 127.5 - 1
    alone = model.denoise(noisy, 0.5)
    answers = joblib.Parallel(2, backend=backend)(
        joblib.delayed(model.denoise)(noisy, 0.5) for _ in range(3)
    )
    for answer in answers:
        np.testing.assert_allclose(answer, alone, rtol=0, atol=1e-6)


def test_without_numba_torch_computes_and_one_warning_says_so(photos, no_numba):
    model = PSPCDenoiser(5).fit(photos[:50])
    noisy = photos[50:52].astype(np.float32) / 127.5 - 1
    with pytest.warns(UserWarning, match=r'pip install "skpspc\[cpu\]"'):
        answer = model.denoise(noisy, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = model.denoise(noisy, 0.5)
        forced = PSPCDenoiser(5, engine="torch").fit(photos[:50]).denoise(noisy, 0.5)
    np.testing.assert_array_equal(answer, again)
    np.testing.assert_array_equal(answer, forced)


def test_infinite_sigma_and_huge_images(photos, engine):
    """The noisy image does not count, however large of what the dtype computes it is."""
    model = PSPCDenoiser(4, engine=engine).fit(photos[:20])
    dtypes = {np.float32: 9e15, **({np.float64: 9e59} if engine == "torch" else {})}
    for dtype, largest in dtypes.items():
        huge = np.full((1, 3, 16, 16), largest, dtype)
        posterior = model.posterior(huge, np.inf)
        expected = (photos[:20] / 127.5 - 1).mean(0)
        np.testing.assert_allclose(posterior.mean[0], expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(posterior.effective_sample_size, 20, rtol=1e-5)


def test_a_full_disk_costs_the_cache_only(tmp_path, photos):
    """The folder is there, but by the time of the first call nothing can be saved."""
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    from skpspc.posterior._jit import jit

    compiled = jit(lambda a: a + 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    compiled._cache._cache_file.save = full
    assert compiled(1) == 2


def test_compiled_code_follows_the_helpers_in_other_files(tmp_path, monkeypatch):
    """numba's cache looks for changes in the file of the called function only."""
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name, lines):
        start = "from skpspc.posterior._jit import jit\n"
        (tmp_path / f"{name}.py").write_text(start + "\n".join(lines))

    def kernel():
        for name in ("_a_helper", "_a_kernel"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("_a_kernel").kernel

    write("_a_kernel", ["from _a_helper import helper", "@jit", "def kernel(x): return helper(x)"])
    write("_a_helper", ["@jit", "def helper(x): return x + 1"])
    assert kernel()(1) == 2
    again = kernel()
    assert again(1) == 2
    assert sum(again.stats.cache_hits.values()) == 1
    write("_a_helper", ["@jit", "def helper(x): return x + 100"])
    assert kernel()(1) == 101


def test_a_cache_that_names_missing_classes_is_replaced(tmp_path, monkeypatch):
    """As after an upgrade to a version in which a kernel takes other records."""
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(record):
        (tmp_path / "_a_version.py").write_text(
            "from typing import NamedTuple\nfrom skpspc.posterior._jit import jit\n"
            f"class {record}(NamedTuple):\n    x: int\n"
            f"one = {record}(1)\n@jit\ndef kernel(record): return record.x\n"
        )

    def hits():
        monkeypatch.delitem(sys.modules, "_a_version", raising=False)
        importlib.invalidate_caches()
        version = importlib.import_module("_a_version")
        assert version.kernel(version.one) == 1
        return sum(version.kernel.stats.cache_hits.values())

    write("Before")
    assert (hits(), hits()) == (0, 1)
    write("Afterwards")
    assert (hits(), hits()) == (0, 1)


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_torch_follows_an_active_configuration(four_threads, photos, n_jobs):
    """Within a call of a denoiser; before and after it is as it was."""
    counts = []

    def size(sigma):
        counts.append(torch.get_num_threads())
        return 3

    model = PSPCDenoiser(size, engine="torch").fit(photos[:20])
    noisy = photos[20:22].astype(np.float32) / 127.5 - 1
    for call in (
        lambda: model.denoise(noisy, 0.5),
        lambda: model.score(noisy, sigmas=[0.5]),
        lambda: model.sample(2, n_steps=1),
        lambda: model.attribute(noisy, 0.5),
        lambda: model.denoise_without(noisy, 0.5, [1]),
        lambda: model.jacobian(noisy, 0.5, [(0, 0)]),
        lambda: model.sensitivity(noisy, 0.5, [(0, 0)]),
    ):
        counts.clear()
        call()
        assert set(counts) == {4}
        counts.clear()
        with joblib.parallel_config("threading", n_jobs=n_jobs):
            call()
            assert torch.get_num_threads() == 4
        assert set(counts) == {n_jobs}


def test_torch_has_one_thread_in_a_worker_thread(four_threads, photos):
    counts = []

    def size(sigma):
        counts.append(torch.get_num_threads())
        return 3

    model = PSPCDenoiser(size, engine="torch").fit(photos[:20])
    noisy = photos[20:22].astype(np.float32) / 127.5 - 1
    answer = joblib.delayed(model.denoise)
    joblib.Parallel(2, backend="threading")(answer(noisy, 0.5) for _ in range(4))
    assert set(counts) == {1}
    assert torch.get_num_threads() == 4


def test_torch_has_its_threads_again_after_an_error(four_threads, photos):
    def size(sigma):
        raise RuntimeError("on its way")

    model = PSPCDenoiser(size, engine="torch").fit(photos[:20])
    with joblib.parallel_config(n_jobs=2), pytest.raises(RuntimeError, match="on its way"):
        model.denoise(photos[:1], 0.5)
    assert torch.get_num_threads() == 4


# ------------------------------------------------------------------ rounding of differences


@pytest.mark.parametrize(
    "model", [LocalScoreDenoiser(3), PSPCDenoiser(3, engine="torch")], ids=["local", "square"]
)
def test_float32_serves_noisy_images_far_away(model, photos, rng):
    X = photos[:300]
    Z = X[:4] / 127.5 - 1 + 0.1 * rng.standard_normal(X[:4].shape) + 30
    Z = Z.astype(np.float32)
    exact = model.fit(X).denoise(Z.astype(np.float64), 0.1)
    np.testing.assert_allclose(model.denoise(Z, 0.1), exact, rtol=0, atol=3e-6)


def test_differences_are_taken_in_float64_where_rounding_shows():
    known = TrainingSet(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    z = torch.ones(2, 1, 8, 8)

    def dtype(sigma, n_values=9, z=z):
        a = precision_root(torch.tensor([1.0, sigma], dtype=torch.float64))
        return difference_dtype(z, a, known, n_values)

    assert dtype(0.1) == torch.float32
    assert dtype(0.01) == torch.float64  # the least sigma decides
    assert dtype(0.05) == torch.float32 and dtype(0.05, n_values=900) == torch.float64
    assert dtype(0.1, z=30 * z) == torch.float64
    assert dtype(1.0, z=z.double()) == torch.float64
    assert dtype(torch.inf) == torch.float32
