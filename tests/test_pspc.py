"""PSPC against the slow formula, and the box filters against slices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import generators
import oracle
from helpers import fit_quietly
from skpspc import EmpiricalDenoiser, PatchDenoiser, PatchSchedule, PSPCDenoiser, edm_sigmas
from skpspc.posterior.box import box, box_spread, box_sum
from skpspc.posterior.posterior import composite
from skpspc.posterior.softmax import floored_sigma
from skpspc.support import Squares, TrainingSet, clip_size, overlap_counts, square_corners


@given(generators.cases())
def test_float64_oracle(device, case):
    masks = oracle.square_masks(case.size, case.shape)
    expected = oracle.collection(case.Z, case.X, case.sigma, masks)
    posterior = fit_quietly(PSPCDenoiser(case.size, device=device), case.X).posterior(
        case.Z, case.sigma
    )
    np.testing.assert_allclose(
        posterior.mean.reshape(len(case.Z), -1), expected.mean, rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        posterior.log_evidence, oracle.composite_evidence(expected, masks), rtol=1e-10, atol=1e-9
    )
    np.testing.assert_allclose(
        posterior.effective_sample_size, expected.effective_sample_size.mean(1), rtol=1e-8
    )
    assert (posterior.error_bound == 0).all()


@given(generators.cases(low=0.02))
def test_weights_enter_every_window(case):
    weight = np.arange(len(case.X)) % 4 + 0.5
    weight[1:2] = 0
    masks = oracle.square_masks(case.size, case.shape)
    expected = oracle.collection(case.Z, case.X, case.sigma, masks, sample_weight=weight)
    model = PSPCDenoiser(lambda sigma: case.size).fit(case.X, sample_weight=weight)
    posterior = model.posterior(case.Z, case.sigma)
    np.testing.assert_allclose(
        posterior.mean.reshape(len(case.Z), -1), expected.mean, rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        posterior.log_evidence, oracle.composite_evidence(expected, masks), rtol=1e-10, atol=1e-9
    )


@pytest.mark.parametrize("size", [3, 7, 15])
@pytest.mark.parametrize("sigma", [1e-3, 5e-3, 0.02, 0.1, 0.5, 2.0, 10.0])
def test_float32_oracle_on_noisy_training_images(device, engine, photos, rng, size, sigma):
    error = float32_error(photos[:300], photos[:4], sigma, rng, size, engine, device)
    assert error.max() < 1e-5


@pytest.mark.parametrize("size", [3, 7, 15])
@pytest.mark.parametrize("sigma", [5e-3, 0.02, 0.1, 0.5, 2.0, 10.0])
def test_float32_oracle_on_noisy_held_out_images(device, engine, photos, rng, size, sigma):
    # No training patch is near: logits in the thousands, so that near ties of two patches are
    # settled by the last digits of a float32. Below sigma = .1 single pixels are off by more.
    error = float32_error(photos[:300], photos[300:312], sigma, rng, size, engine, device)
    assert np.median(error) < 1e-5
    assert error.max() < max(1e-5, 1e-6 / sigma)


def float32_error(X, clean, sigma, rng, size, engine, device):
    """Largest error of each image."""
    shape = clean.shape
    clean = oracle.as_float(clean).reshape(shape)
    Z = (clean + sigma * rng.standard_normal(shape)).astype(np.float32)
    expected = oracle.collection(Z, X, sigma, oracle.square_masks(size, shape[1:]))
    mean = PSPCDenoiser(size, engine=engine, device=device).fit(X).denoise(Z, sigma)
    assert mean.dtype == np.float32
    return np.abs(mean.reshape(len(Z), -1) - expected.mean).max(1)


def test_float32_windows_are_normalised(engine, rng):
    # exp(logit - log normaliser) of large logits: the weights of a window would miss their sum
    X = np.ones((3, 1, 16, 16), dtype=np.float32)
    Z = (1 + 0.3 * rng.standard_normal((4, 1, 16, 16))).astype(np.float32)
    mean = PSPCDenoiser(7, engine=engine).fit(X).denoise(Z, 1e-3)
    np.testing.assert_allclose(mean, 1, rtol=0, atol=1e-6)


def test_composite_is_the_average_of_the_patches(rng):
    X, Z = rng.standard_normal((15, 2, 5, 6)), rng.standard_normal((3, 2, 5, 6))
    patches = PatchDenoiser(3, location="all").fit(X).posterior(Z, 0.5)
    total, count = np.zeros(Z.shape), np.zeros(Z.shape)
    for k, (top, left) in enumerate(square_corners((3, 3), (2, 5, 6))):
        total[..., top : top + 3, left : left + 3] += patches.mean[:, k]
        count[..., top : top + 3, left : left + 3] += 1
    composite = PSPCDenoiser(3).fit(X).posterior(Z, 0.5)
    np.testing.assert_allclose(composite.mean, total / count, atol=1e-12)
    np.testing.assert_allclose(composite.log_evidence, patches.log_evidence)
    np.testing.assert_allclose(composite.effective_sample_size, patches.effective_sample_size)


def test_log_evidence_is_that_of_the_image_for_a_window_as_large(rng):
    X, Z = rng.standard_normal((15, 2, 4, 4)), rng.standard_normal((3, 2, 4, 4))
    whole = EmpiricalDenoiser().fit(X).score_samples(Z, 0.7)
    np.testing.assert_allclose(PSPCDenoiser(4).fit(X).score_samples(Z, 0.7), whole, rtol=1e-12)
    assert not np.allclose(PSPCDenoiser(3).fit(X).score_samples(Z, 0.7), whole, rtol=1e-3)


@given(generators.cases())
def test_box_kernel_with_one_window_is_the_dense_kernel(case):
    x, z = torch.tensor(case.x), torch.tensor(case.Z)
    window = case.shape[1:]
    training_set = TrainingSet(x)
    sigma = floored_sigma(torch.tensor(case.sigma), z, training_set)
    box_of_one = composite(box(z, sigma, training_set, Squares(*window)), sigma, x[0].numel())
    whole = EmpiricalDenoiser().fit(case.x).posterior(case.Z, case.sigma)
    np.testing.assert_allclose(box_of_one.mean, whole.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(box_of_one.log_evidence, whole.log_evidence, rtol=1e-10, atol=1e-9)


@given(st.integers(1, 12), st.integers(1, 9), st.data())
def test_box_sum_and_its_transpose(height, width, data):
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    rng = np.random.default_rng(data.draw(generators.seeds))
    maps = rng.standard_normal((2, 3, height, width))
    slow = np.empty((2, 3, height - h + 1, width - w + 1))
    weight = rng.standard_normal(slow.shape)
    spread = np.zeros(maps.shape)
    for top in range(height - h + 1):
        for left in range(width - w + 1):
            area = (..., slice(top, top + h), slice(left, left + w))
            slow[..., top, left] = maps[area].sum((-2, -1))
            spread[area] += weight[..., top, left, None, None]
    np.testing.assert_allclose(box_sum(torch.tensor(maps), (h, w)), slow, atol=1e-12)
    np.testing.assert_allclose(box_spread(torch.tensor(weight), (h, w)), spread, atol=1e-12)


def test_box_sum_does_not_cancel():
    # a difference of cumulative sums would lose the ones beside the large number
    maps = torch.tensor([1e12, 1.0, 1.0, 1.0, 1.0])[None]
    np.testing.assert_array_equal(box_sum(maps, (1, 3))[0, 1:], [3, 3])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12))
def test_overlap_counts(height, width, size):
    shape = (1, height, width)
    slow = np.sum(oracle.square_masks(size, shape), axis=0).reshape(height, width)
    np.testing.assert_array_equal(overlap_counts(clip_size(size, shape), shape), slow)
    assert len(square_corners(clip_size(size, shape), shape)) == len(
        oracle.square_masks(size, shape)
    )


def test_schedule_callable_and_int_agree(rng):
    X, Z = rng.standard_normal((9, 1, 6, 6)), rng.standard_normal((4, 1, 6, 6))
    sigma = np.array([0.05, 8.0, 0.4, 0.06])
    sizes = [2, 6, 3, 2]
    expected = [PSPCDenoiser(k).fit(X).denoise(Z[[i]], sigma[i])[0] for i, k in enumerate(sizes)]
    schedule = PatchSchedule([10, 0.1, 0.5], [6, 2, 3])
    for size in (schedule, lambda s: 2 if s < 0.1 else 3 if s < 1 else 6):
        posterior = PSPCDenoiser(size).fit(X).posterior(Z, sigma)
        np.testing.assert_allclose(posterior.mean, expected, atol=1e-14)
        for i, k in enumerate(sizes):
            one = PSPCDenoiser(k).fit(X).posterior(Z[[i]], sigma[i])
            np.testing.assert_allclose(posterior.log_evidence[i], one.log_evidence[0])
            np.testing.assert_allclose(
                posterior.effective_sample_size[i], one.effective_sample_size[0]
            )


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (32, [32, 32, 32, 32, 32, 32, 32, 23, 15, 11, 7, 5, 3, 3, 3, 3, 3, 3]),
        (64, [64, 64, 64, 64, 64, 64, 64, 46, 30, 22, 14, 10, 6, 6, 6, 6, 6, 6]),
        (8, [8, 8, 8, 8, 8, 8, 8, 6, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_paper_schedule(side, expected):
    """The table of the paper for 32 x 32, scaled for other sides."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (3, 1, side, side), dtype=np.uint8)
    Z = rng.standard_normal((1, 1, side, side)).astype(np.float32)
    paper = PSPCDenoiser().fit(X)
    for sigma, size in zip(edm_sigmas(18), expected, strict=True):
        # the log evidence tells sizes apart that give the same mean
        fixed = PSPCDenoiser(size).fit(X).posterior(Z, sigma)
        posterior = paper.posterior(Z, sigma)
        np.testing.assert_array_equal(posterior.mean, fixed.mean)
        np.testing.assert_array_equal(posterior.log_evidence, fixed.log_evidence)


def test_float32_speaks_float64(photos):
    """A training set in float64 does not change what float32 noisy images get back."""
    x = oracle.as_float(photos[:50]).reshape(50, 3, 16, 16)
    Z = (x[:2] + 0.3).astype(np.float32)
    mean = PSPCDenoiser(5).fit(x).denoise(Z, 0.4)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, PSPCDenoiser(5).fit(photos[:50]).denoise(Z, 0.4), atol=1e-5)


def test_both_passes_round_weighted_logits_equally(digits):
    """Logits below -512 beside a logit that leads do not change how that logit is rounded."""
    Z = digits[-3:] / 127.5 - 1 + 0.4 * np.random.default_rng(0).standard_normal((3, 1, 8, 8))
    Z = Z.astype(np.float32)
    model = PSPCDenoiser(3).fit(digits[:100], sample_weight=np.arange(100) % 4)
    truth = model.denoise(Z.astype(np.float64), 0.05)
    np.testing.assert_allclose(model.denoise(Z, 0.05), truth, rtol=0, atol=1e-6)
