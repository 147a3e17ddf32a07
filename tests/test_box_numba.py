"""The compiled box filter posterior against every window written out in float64."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("numba")

from skpspc.posterior import _box_numba
from skpspc.support.training_set import example_moments


def box_posterior(z, x, sigma, size, log_weight=None, memory=100 * 2**20, centred=False, **options):
    """Means, log normalisers and sample sizes by both passes, in batches that fit the memory."""
    options = {"data_range": (-1, 1), "flip": False, "memory": memory, **options}
    options |= {"log_weight": log_weight, "moments": example_moments(torch.from_numpy(np.array(x)))}
    options["log_weight_range"] = 0.0 if log_weight is None else np.ptp(log_weight)
    sigma = np.broadcast_to(np.asarray(sigma, dtype=np.float64), (len(z),))
    n_sources = len(x) * (2 if options["flip"] else 1)
    n = _box_numba.queries_at_once(len(z), n_sources, x.shape[1:], size, memory, centred)
    answers = []
    for rows in (slice(start, start + n) for start in range(0, len(z), n)):
        arguments = z[rows], x, sigma[rows], size
        *sums, mean = _box_numba.compiled_box_sums(*arguments, centred=centred, **options)
        nearest, top, total, squares = sums
        if not centred:
            given = {"softmax": sums[:3], "state": mean}
            mean = _box_numba.compiled_box_means(*arguments, **given, **options)
        answers.append((mean, nearest + (top + np.log(total)), total**2 / squares))
    return tuple(map(np.concatenate, zip(*answers, strict=True)))


def every_window(z, x, sigma, size, log_weight=None, flip=False):
    """Mean, log normaliser and effective sample size, one window at a time, in float64."""
    x = x / 127.5 - 1 if x.dtype == np.uint8 else x.astype(np.float64)
    weight = np.zeros(len(x)) if log_weight is None else log_weight.astype(np.float64)
    if flip:
        x, weight = np.concatenate([x, x[..., ::-1]]), np.concatenate([weight, weight])
    h, w = size
    n, _, height, width = z.shape
    log_norm = np.zeros((n, height - h + 1, width - w + 1))
    ess = np.zeros_like(log_norm)
    mean, count = np.zeros(z.shape), np.zeros((height, width))
    for b, i, j in np.ndindex(log_norm.shape):
        here = np.s_[..., i : i + h, j : j + w]
        patches = x[here]
        d2 = np.square((z[b].astype(np.float64)[here] - patches) / sigma[b]).sum((1, 2, 3))
        logit = weight - d2 / 2
        p = np.exp(logit - logit.max())
        log_norm[b, i, j] = logit.max() + np.log(p.sum())
        ess[b, i, j] = p.sum() ** 2 / np.square(p).sum()
        mean[b][here] += np.tensordot(p / p.sum(), patches, 1)
        count[here] += b == 0
    return mean / count, log_norm, ess


def images(rng, shape, dtype):
    if dtype == np.uint8:
        return rng.integers(0, 256, shape).astype(np.uint8)
    return rng.uniform(-1, 1, shape).astype(np.float32)


def assert_close(answer, expected, atol=1e-5):
    mean, log_norm, ess = answer
    np.testing.assert_allclose(mean, expected[0], rtol=0, atol=atol)
    np.testing.assert_allclose(log_norm, expected[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ess, expected[2], rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 9, 6), (4, 2)),
        ((2, 1, 17), (1, 5)),
        ((3, 8, 8), (3, 3)),
        ((3, 40, 3), (33, 3)),
        ((5, 7, 12), (7, 12)),
        ((4, 13, 11), (1, 1)),
        ((3, 5, 37), (2, 29)),
        ((1, 70, 2), (3, 1)),
    ],
)
def test_agrees_with_every_window_written_out(shape, size, dtype):
    rng = np.random.default_rng([*shape, *size])
    x = images(rng, (90, *shape), dtype)
    z = rng.normal(size=(3, *shape)).astype(np.float32)
    sigma = np.array([0.3, 1.0, 4.0])
    assert_close(box_posterior(z, x, sigma, size), every_window(z, x, sigma, size))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 9, 6), (3, 3)),
        ((2, 1, 17), (1, 5)),
        ((3, 17, 1), (33, 1)),
        ((3, 40, 3), (5, 5)),
        ((2, 7, 12), (13, 23)),
        ((4, 5, 37), (7, 7)),
    ],
)
def test_windows_around_every_pixel(shape, size, flip, dtype):
    """Windows of images in a frame that noisy and training images share."""
    rng = np.random.default_rng([*shape, *size])
    x = images(rng, (60, *shape), dtype)
    floats = x / 127.5 - 1 if dtype == np.uint8 else x
    sigma = np.array([0.3, 1.0, 4.0])
    noise = sigma[:, None, None, None] * rng.normal(size=(3, *shape))
    z = (floats[:3] + noise).astype(np.float32)
    log_weight = rng.normal(size=60).astype(np.float32)
    got = box_posterior(z, x, sigma, size, log_weight=log_weight, flip=flip, centred=True)
    if flip:
        floats = np.concatenate([floats, floats[..., ::-1]])
        log_weight = np.concatenate([log_weight, log_weight])
    above, beside = (side // 2 for side in size)
    frame = (0, 0), (0, 0), (above, above), (beside, beside)
    differences = np.pad(z[:, None] - floats, [(0, 0), *frame]) ** 2
    windows = np.lib.stride_tricks.sliding_window_view(differences, size, axis=(3, 4))
    logit = -windows.sum((2, 5, 6)) / (2 * sigma[:, None, None, None] ** 2)
    logit += log_weight[:, None, None]
    weight = np.exp(logit - logit.max(1, keepdims=True))
    total = weight.sum(1)
    mean = np.einsum("bmhw,mchw->bchw", weight, floats) / total[:, None]
    log_norm = np.log(total) + logit.max(1)
    assert_close(got, (mean, log_norm, total**2 / (weight**2).sum(1)))


@pytest.mark.parametrize("side", range(1, 13))
def test_every_side(side):
    rng = np.random.default_rng(side)
    x = images(rng, (30, 1, 12, 12), np.float32)
    z = rng.normal(size=(1, 1, 12, 12)).astype(np.float32)
    for size in [(side, 13 - side), (side, side)]:
        assert_close(box_posterior(z, x, [0.7], size), every_window(z, x, [0.7], size))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_weights_and_mirror_images(flip, dtype):
    rng = np.random.default_rng(0)
    x = images(rng, (60, 3, 8, 9), dtype)
    z = rng.normal(size=(2, 3, 8, 9)).astype(np.float32)
    sigma = np.array([0.6, 2.0])
    log_weight = rng.normal(size=60).astype(np.float32)
    answer = box_posterior(z, x, sigma, (3, 4), log_weight, flip=flip)
    assert_close(answer, every_window(z, x, sigma, (3, 4), log_weight, flip=flip))


@pytest.mark.parametrize("memory", [100 * 2**20, 2**13])
def test_threads_and_memory_do_not_change_a_bit(memory):
    rng = np.random.default_rng(1)
    x = images(rng, (700, 2, 6, 7), np.uint8)
    z = rng.normal(size=(11, 2, 6, 7)).astype(np.float32)
    sigma = rng.uniform(0.1, 3, 11)
    one = box_posterior(z, x, sigma, (3, 2), memory=memory)
    three = box_posterior(z, x, sigma, (3, 2), n_threads=3, memory=memory)
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))
    assert_close(one, every_window(z, x, sigma, (3, 2)))


def test_sigma_of_each_image_is_its_own():
    rng = np.random.default_rng(2)
    x = images(rng, (50, 3, 6, 6), np.uint8)
    z = rng.normal(size=(1, 3, 6, 6)).astype(np.float32)
    sigma = np.array([0.1, 1.0, 30.0, np.inf])
    together = box_posterior(np.repeat(z, 4, axis=0), x, sigma, (2, 3))
    for k, s in enumerate(sigma):
        alone = box_posterior(z, x, [s], (2, 3))
        assert all(np.array_equal(a[k], b[0]) for a, b in zip(together, alone, strict=True))


def test_infinite_sigma_gives_the_weighted_mean():
    rng = np.random.default_rng(3)
    x = images(rng, (40, 1, 5, 6), np.uint8)
    z = (1e4 * rng.normal(size=(1, 1, 5, 6))).astype(np.float32)
    log_weight = rng.normal(size=40).astype(np.float32)
    mean, log_norm, _ = box_posterior(z, x, [np.inf], (2, 2), log_weight=log_weight)
    p = np.exp(log_weight.astype(np.float64))
    np.testing.assert_allclose(mean[0], np.tensordot(p / p.sum(), x / 127.5 - 1, 1), atol=1e-6)
    np.testing.assert_allclose(log_norm, np.log(p.sum()), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_vanishing_sigma_gives_the_nearest_and_averages_ties(dtype):
    rng = np.random.default_rng(4)
    x = images(rng, (20, 1, 6, 6), dtype)
    # Images 0 and 1 agree in their left half, which is what the query shows there.
    x[1, ..., :3] = x[0, ..., :3]
    x[5:8] = x[9]
    as_float = (x / 127.5 - 1 if dtype == np.uint8 else x).astype(np.float32)
    mean, _, ess = box_posterior(as_float[[0, 9]], x, [1e-15, 1e-15], (6, 3))
    assert np.isfinite(mean).all()
    np.testing.assert_allclose(mean[1], as_float[9], atol=1e-6)
    np.testing.assert_allclose(ess[1], 4, rtol=1e-6)
    np.testing.assert_allclose(ess[0, 0], [2, 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(mean[0, ..., :1], as_float[0, ..., :1], atol=1e-6)


def test_extreme_values_stay_finite():
    rng = np.random.default_rng(5)
    x = images(rng, (20, 3, 4, 4), np.float32)
    z = (
        rng.normal(size=(3, 3, 4, 4)).astype(np.float32)
        * np.float32([1, 1e4, 1e20])[:, None, None, None]
    )
    for sigma in ([1e-15, 1e-15, 1e-15], [1e30, 1e30, 1e30], [1.0, 1e4, 1e20]):
        assert all(np.isfinite(a).all() for a in box_posterior(z, x, sigma, (2, 2)))


def test_logits_too_large_for_float32_are_refined():
    """Near ties between images that are both far, where float32 sums differ by their rounding."""
    rng = np.random.default_rng(6)
    base = rng.uniform(-1, 1, (1, 3, 16, 16))
    x = (base + 1e-4 * rng.normal(size=(60, 3, 16, 16))).astype(np.float32)
    z = (base + 0.3 * rng.normal(size=base.shape)).astype(np.float32)
    x[:30, ..., 8:] += np.float32(0.3)
    for size in [(8, 8), (15, 14)]:
        answer = box_posterior(z, x, [0.02], size)
        expected = every_window(z, x, [0.02], size)
        assert expected[1].min() < -5000
        assert np.median(expected[2]) > 2
        assert_close(answer, expected)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5, 2.0, 10.0, 80.0])
def test_float32_is_exact_enough_at_every_sigma(sigma):
    rng = np.random.default_rng(7)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(300, 3, 16, 16)), 2), 3)
    x = np.clip(127.5 + 4 * smooth, 0, 255).astype(np.uint8)
    clean = np.concatenate([x[:2] / 127.5 - 1, rng.uniform(-1, 1, (1, 3, 16, 16))])
    z = (clean + sigma * rng.normal(size=clean.shape)).astype(np.float32)
    for size in [(3, 3), (16, 16), (11, 12)]:
        sigmas = np.full(len(z), sigma)
        assert_close(box_posterior(z, x, sigmas, size), every_window(z, x, sigmas, size))


def test_training_images_may_be_read_only_and_on_disk(tmp_path):
    rng = np.random.default_rng(8)
    x = images(rng, (30, 1, 6, 6), np.uint8)
    np.save(tmp_path / "x.npy", x)
    z = rng.normal(size=(1, 1, 6, 6)).astype(np.float32)
    z.flags.writeable = False
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    answers = (box_posterior(z, known, [0.5], (3, 3)) for known in (x, mapped))
    for a, b in zip(*answers, strict=True):
        np.testing.assert_array_equal(a, b)


def test_works_where_no_cache_can_be_written(tmp_path):
    """numba finds no folder: the kernels are compiled for this process only."""
    code = (
        "import numba.core.caching as c; c.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from skpspc.posterior._pairs_numba import compiled_pair_squares\n"
        "x, rows = np.ones((3, 16), np.float32), np.zeros(2, np.int64)\n"
        "print(float(compiled_pair_squares(0 * x, x, rows, rows).sum()))\n"
    )
    root = Path(_box_numba.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root), "NUMBA_CACHE_DIR": os.devnull + "/none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == 32
