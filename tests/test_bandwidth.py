"""Training images blurred along the data's covariance, against the slow formula."""

import pickle

import numpy as np
import pytest
import sklearn
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn import config_context

import generators
import oracle
from helpers import finite_difference_gradient
from skpspc import (
    BandwidthSchedule,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    PatchDenoiser,
    PatchSchedule,
    PSPCDenoiser,
)
from skpspc.denoisers import calibration
from skpspc.posterior import blur
from skpspc.sampling import draw_noise
from skpspc.support import TrainingSet, covariance
from skpspc.support.holdout import different

bandwidths = st.floats(0.01, 1.0)


def smoothed_bootstrap(X, bandwidth, weight=None):
    """Mean (D,), covariance (D, D), components' means (N, D) and prior (N,), by the textbook."""
    x = oracle.as_float(X)
    prior = np.ones(len(x)) if weight is None else np.asarray(weight, float)
    prior = prior / prior.sum()
    mean = prior @ x
    cov = (x - mean).T @ (prior[:, None] * (x - mean))
    return mean, cov, mean + np.sqrt(1 - bandwidth**2) * (x - mean), prior


def whole_oracle(Z, X, sigma, bandwidth, weight=None):
    """Posterior mean and log evidence under the mixture of Gaussians."""
    mean, cov, y, prior = smoothed_bootstrap(X, bandwidth, weight)
    eye = np.eye(len(mean))
    means, evidence = [], []
    for z, level in zip(oracle.as_float(Z), np.broadcast_to(sigma, len(Z)), strict=True):
        noisy = bandwidth**2 * cov + level**2 * eye
        log_p = [multivariate_normal(one, noisy).logpdf(z) for one in y] + np.log(prior)
        weights = np.exp(log_p - logsumexp(log_p))
        A = bandwidth**2 * np.linalg.solve(noisy, cov).T
        means.append(mean + A @ (z - mean) + (eye - A) @ (weights @ y - mean))
        evidence.append(logsumexp(log_p))
    return np.array(means), np.array(evidence)


def windows_oracle(Z, X, sigma, bandwidth, masks):
    """The same inside every window, averaged where they overlap."""
    z, x = oracle.as_float(Z), oracle.as_float(X)
    total, count, evidence = np.zeros(z.shape), np.zeros(z.shape[1]), []
    for mask in masks:
        part, log_p = whole_oracle(z[:, mask], x[:, mask], sigma, bandwidth)
        total[:, mask] += part
        count[mask] += 1
        evidence.append(log_p / mask.sum())
    return total / count, z.shape[1] * np.mean(evidence, 0)


def stationary_oracle(Z, X, sigma, bandwidth, masks):
    """As `global_oracle`, with a matrix without covariances of different frequencies."""
    return global_oracle(
        Z, X, sigma, bandwidth, masks, lambda cov: oracle.stationary(cov, X.shape[1:])
    )


def global_oracle(Z, X, sigma, bandwidth, masks, change=lambda cov: cov):
    """Windows compare images that one matrix has filtered, and it filters what they compose."""
    mean, cov, y, prior = smoothed_bootstrap(X, bandwidth)
    cov = change(cov)
    values, vectors = np.linalg.eigh(cov)
    means, evidence = [], []
    for z, level in zip(oracle.as_float(Z), np.broadcast_to(sigma, len(Z)), strict=True):
        gain = bandwidth**2 * values.clip(0) / (bandwidth**2 * values.clip(0) + level**2)
        A = (vectors * gain) @ vectors.T
        F = (vectors * np.sqrt(1 - gain)) @ vectors.T
        total, count, log_p = np.zeros(len(z)), np.zeros(len(z)), []
        for mask in masks:
            seen = F @ (z - mean), (y - mean) @ F
            weights, one = oracle.window_weights(*seen, level, mask, prior)
            total[mask] += weights @ seen[1][:, mask]
            count[mask] += 1
            log_p.append(one / mask.sum())
        means.append(mean + A @ (z - mean) + F @ (total / count))
        evidence.append(len(z) * np.mean(log_p) + np.log(np.linalg.det(F)))
    return np.array(means), np.array(evidence)


def agree(posterior, expected):
    mean, evidence = expected
    np.testing.assert_allclose(posterior.mean.reshape(mean.shape), mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(posterior.log_evidence, evidence, rtol=1e-7, atol=1e-6)


# ---------------------------------------------------------------------------- in between


@given(generators.cases(low=0.05, high=50), bandwidths, st.booleans())
def test_empirical_oracle(device, case, bandwidth, weighted):
    weight = np.arange(len(case.X)) % 3 + 0.5 if weighted else None
    model = EmpiricalDenoiser(bandwidth=bandwidth, device=device)
    posterior = model.fit(case.X, sample_weight=weight).posterior(case.Z, case.sigma)
    agree(posterior, whole_oracle(case.Z, case.X, case.sigma, bandwidth, weight))


@given(generators.cases(low=0.05, high=50), bandwidths)
def test_windows_oracle(device, case, bandwidth):
    model = PSPCDenoiser(lambda sigma: case.size, bandwidth=bandwidth, device=device)
    posterior = model.fit(case.X).posterior(case.Z, case.sigma)
    masks = oracle.square_masks(case.size, case.shape)
    agree(posterior, windows_oracle(case.Z, case.X, case.sigma, bandwidth, masks))


OF_IMAGES = {"global": global_oracle, "stationary": stationary_oracle}


@pytest.mark.parametrize("smoothing", OF_IMAGES)
@given(generators.cases(low=0.05, high=50), bandwidths)
def test_filtered_images_oracle(smoothing, device, case, bandwidth):
    model = PSPCDenoiser(
        lambda sigma: case.size, bandwidth=bandwidth, smoothing=smoothing, device=device
    )
    posterior = model.fit(case.X).posterior(case.Z, case.sigma)
    masks = oracle.square_masks(case.size, case.shape)
    agree(posterior, OF_IMAGES[smoothing](case.Z, case.X, case.sigma, bandwidth, masks))


def test_stationary_covariances_need_no_matrix_of_all_pixels(rng, monkeypatch):
    """White noise is stationary; images may be larger than a covariance matrix allows."""
    monkeypatch.setattr(covariance, "LARGEST_PROBLEM", 50)
    X = rng.standard_normal((400, 2, 16, 20))
    model = PSPCDenoiser(3, bandwidth=1.0, smoothing="stationary").fit(X)
    Z = rng.standard_normal((2, 2, 16, 20))
    white = X.mean(0) + (Z - X.mean(0)) * X.var() / (X.var() + 4)
    assert np.abs(model.denoise(Z, 2.0) - white).max() < 0.15


def assert_single_precision_serves(model, X, digits):
    """At sigmas at which few, some and all training images count, one a noisy image."""
    sigma = np.array([0.05, 0.3, 2.0])
    noise = draw_noise((1, 8, 8), 3, 0).numpy()
    Z = digits[-3:] / 127.5 - 1 + sigma[:, None, None, None] * noise
    mean = model.fit(X).denoise(Z.astype(np.float32), sigma)
    assert mean.dtype == np.float32
    exact = (
        model.set_params(engine="auto").fit(X).denoise(Z.astype(np.float32).astype(float), sigma)
    )
    assert np.abs(mean - exact).max() < 3e-5


@pytest.mark.parametrize("n", [20, 200])  # fewer and more images than values in a window
def test_float32_in_windows(digits, device, n):
    model = PSPCDenoiser(5, bandwidth=0.4, device=device)
    assert_single_precision_serves(model, digits[:n], digits)


@pytest.mark.parametrize("n", [40, 400])  # fewer and more images than values
def test_float32_globally(digits, device, engine, n):
    model = PSPCDenoiser(5, bandwidth=0.4, smoothing="global", engine=engine, device=device)
    assert_single_precision_serves(model, digits[:n], digits)


def test_patches_are_those_of_the_composite(digits):
    digits = digits[:300]
    Z = digits[:3] / 127.5 - 1 + 0.2
    patch = PatchDenoiser(5, location=(1, 2), bandwidth=0.6).fit(digits).posterior(Z, 0.5)
    x, z = digits[:, :, 1:6, 2:7], Z[:, :, 1:6, 2:7]
    whole = EmpiricalDenoiser(bandwidth=0.6).fit(x).posterior(z, 0.5)
    np.testing.assert_allclose(patch.mean, whole.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(patch.log_evidence, whole.log_evidence)
    every = PatchDenoiser(7, location="all", bandwidth=0.6).fit(digits).denoise(Z, 0.5)
    total, count = np.zeros(Z.shape), np.zeros(Z.shape)
    for k, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        total[..., top : top + 7, left : left + 7] += every[:, k]
        count[..., top : top + 7, left : left + 7] += 1
    composite = PSPCDenoiser(7, bandwidth=0.6).fit(digits).denoise(Z, 0.5)
    np.testing.assert_allclose(composite, total / count, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_windows_one_by_one_and_together(digits, dtype):
    """Where memory is short, windows are compared one by one, by subtraction: the same answer."""
    Z = (digits[-5:] / 127.5 - 1 + 0.2).astype(dtype)
    model = PSPCDenoiser(4, bandwidth=0.3).fit(digits[:300], sample_weight=np.arange(300) % 5 + 1)
    together = model.posterior(Z, 0.2)
    with config_context(working_memory=0.06):
        apart = model.posterior(Z, 0.2)
    tolerance = 1e-5 if dtype == np.float32 else 1e-11
    assert (apart.mean != together.mean).any()
    np.testing.assert_allclose(apart.mean, together.mean, rtol=0, atol=tolerance)
    np.testing.assert_allclose(apart.log_evidence, together.log_evidence, rtol=1e-5)
    np.testing.assert_allclose(
        apart.effective_sample_size, together.effective_sample_size, rtol=1e-3
    )
    # and in as many batches as the memory asks for
    with config_context(working_memory=0.2):
        few = model.posterior(Z, 0.2)
    np.testing.assert_allclose(few.mean, together.mean, rtol=0, atol=tolerance)


def test_windows_as_large_as_the_image(digits):
    digits = digits[:300]
    Z = digits[:3] / 127.5 - 1 + 0.2
    whole = EmpiricalDenoiser(bandwidth=0.5).fit(digits).posterior(Z, 0.5)
    for smoothing in ("window", "global"):
        model = PSPCDenoiser(8, bandwidth=0.5, smoothing=smoothing).fit(digits)
        posterior = model.posterior(Z, 0.5)
        np.testing.assert_array_equal(posterior.mean, whole.mean)
        np.testing.assert_allclose(posterior.log_evidence, whole.log_evidence)


@given(
    generators.cases(low=0.05, high=50),
    bandwidths,
    st.booleans(),
    st.sampled_from(["window", "global", "stationary"]),
)
def test_mirror_images_are_training_images(device, case, bandwidth, weighted, smoothing):
    """Mean and covariance too are those of images and mirror images."""
    weight = np.arange(len(case.X)) % 4 + 0.5 if weighted else None
    both = np.concatenate([case.X, case.X[..., ::-1]])
    twice = None if weight is None else np.concatenate([weight, weight])
    known = {"bandwidth": bandwidth, "smoothing": smoothing, "device": device}
    model = PSPCDenoiser(lambda sigma: case.size, flip=True, **known)
    posterior = model.fit(case.X, sample_weight=weight).posterior(case.Z, case.sigma)
    appended = PSPCDenoiser(lambda sigma: case.size, **known).fit(both, sample_weight=twice)
    other = appended.posterior(case.Z, case.sigma)
    np.testing.assert_allclose(posterior.mean, other.mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(posterior.effective_sample_size, other.effective_sample_size)
    if not weighted:
        oracles = {"window": windows_oracle, **OF_IMAGES}
        masks = oracle.square_masks(case.size, case.shape)
        agree(posterior, oracles[smoothing](case.Z, both, case.sigma, bandwidth, masks))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mirror_images_one_by_one_and_together(digits, dtype):
    X, Z = digits[:200], (digits[-3:] / 127.5 - 1 + 0.2).astype(dtype)
    both = np.concatenate([X, X[..., ::-1]])
    expected = PSPCDenoiser(5, bandwidth=0.4).fit(both).denoise(Z.astype(np.float64), 0.3)
    model = PSPCDenoiser(5, bandwidth=0.4, flip=True).fit(X)
    for memory in (1024, 0.1):
        with config_context(working_memory=memory):
            mean = model.denoise(Z, 0.3)
        atol = 3e-5 if dtype == np.float32 else 1e-10
        np.testing.assert_allclose(mean, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("smoothing", OF_IMAGES)
@given(generators.cases(low=0.05, high=50), bandwidths)
def test_windows_of_any_shape_in_filtered_images(smoothing, device, case, bandwidth):
    channels, height, width = case.shape
    heat = np.random.default_rng(0).random((1, height, width, height, width))
    heat += np.eye(height * width).reshape(heat.shape)  # every pixel is in a window
    model = PSPCDenoiser(
        windows=FlexibleWindows(heat, 0.7, [1.0]),
        bandwidth=bandwidth,
        smoothing=smoothing,
        device=device,
    ).fit(case.X)
    masks = [np.tile(mask, channels) for mask in model.windows_.at(0).flatten(1).cpu().numpy()]
    posterior = model.posterior(case.Z, case.sigma)
    agree(posterior, OF_IMAGES[smoothing](case.Z, case.X, case.sigma, bandwidth, masks))


def test_tweedie(digits, rng):
    """D = z + sigma^2 grad log p."""
    z = rng.standard_normal(64)
    model = EmpiricalDenoiser(bandwidth=0.4).fit(digits[:200].reshape(200, -1))
    for sigma in (0.2, 1.0, 5.0):
        slope = finite_difference_gradient(
            lambda rows, s=sigma: model.score_samples(rows, s), z, 1e-4
        )
        expected = z + sigma**2 * slope
        np.testing.assert_allclose(model.denoise(z[None], sigma)[0], expected, atol=1e-4)


# -------------------------------------------------------------------------------- the ends


@pytest.mark.parametrize("model", [EmpiricalDenoiser(), PatchDenoiser(3), PSPCDenoiser(3)])
def test_a_bandwidth_is_calibrated_at_the_next_fit(model, digits):
    Z = digits[:2] / 127.5 - 1 + 0.1
    before = model.fit(digits[:50]).denoise(Z, 0.5)
    model.set_params(bandwidth="calibrated")
    np.testing.assert_array_equal(model.denoise(Z, 0.5), before)
    assert not hasattr(model, "bandwidth_schedule_")
    assert hasattr(model.fit(digits[:50]), "bandwidth_schedule_")


@pytest.mark.parametrize(
    "model",
    [
        EmpiricalDenoiser(),
        PatchDenoiser(3),
        PatchDenoiser(3, location="all"),
        PSPCDenoiser(3),
        PSPCDenoiser(3, smoothing="global"),
    ],
)
def test_no_bandwidth_is_the_plain_denoiser(model, digits):
    digits = digits[:200]
    Z = (digits[:4] / 127.5 - 1 + 0.2).astype(np.float32)
    plain = model.fit(digits).posterior(Z, [0.0, 0.3, 1.0, np.inf])
    model.set_params(bandwidth=lambda sigma: 0 * sigma if np.isfinite(sigma) else 0)
    for bandwidth in (model.bandwidth, 0, 0.0):
        again = model.set_params(bandwidth=bandwidth).fit(digits)
        posterior = again.posterior(Z, [0.0, 0.3, 1.0, np.inf])
        np.testing.assert_array_equal(posterior.mean, plain.mean)
        np.testing.assert_array_equal(posterior.log_evidence, plain.log_evidence)
        assert not hasattr(again, "bandwidth_schedule_")
    # and the limit: nothing jumps at zero
    near = model.set_params(bandwidth=1e-7).fit(digits).denoise(Z.astype(float), 0.3)
    expected = model.set_params(bandwidth=0.0).fit(digits).denoise(Z.astype(float), 0.3)
    np.testing.assert_allclose(near, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [30, 300])  # a covariance of low rank, and one of its own
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bandwidth_of_one_is_the_gaussian_denoiser(digits, n, dtype):
    X = digits[:n]
    Z = (digits[-4:] / 127.5 - 1 + 0.2).astype(dtype)
    sigma = [0.0, 0.3, 2.0, np.inf]
    tolerance = 1e-9 if dtype == np.float64 else 1e-5
    expected = GaussianDenoiser().fit(X).posterior(Z, sigma)
    for model in (
        EmpiricalDenoiser(bandwidth=1),
        PSPCDenoiser(8, bandwidth=1.0),
        PSPCDenoiser(3, bandwidth=1.0, smoothing="global"),
    ):
        posterior = model.fit(X).posterior(Z, sigma)
        np.testing.assert_allclose(posterior.mean, expected.mean, rtol=0, atol=tolerance)
        np.testing.assert_allclose(posterior.effective_sample_size, n, rtol=1e-5)
        if isinstance(model, EmpiricalDenoiser):
            np.testing.assert_allclose(
                posterior.log_evidence[1:3], expected.log_evidence[1:3], rtol=1e-5
            )


def test_windows_at_a_bandwidth_of_one_are_gaussian_denoisers(digits):
    digits = digits[:300]
    Z = digits[-4:] / 127.5 - 1 + 0.2
    total, count = np.zeros(Z.shape), np.zeros(Z.shape)
    for top in range(4):
        for left in range(4):
            area = ..., slice(top, top + 5), slice(left, left + 5)
            total[area] += GaussianDenoiser().fit(digits[area]).denoise(Z[area], 0.3)
            count[area] += 1
    model = PSPCDenoiser(5, bandwidth=1.0).fit(digits)
    np.testing.assert_allclose(model.denoise(Z, 0.3), total / count, rtol=0, atol=1e-10)


@given(
    generators.cases(),
    bandwidths,
    st.sampled_from([0.0, 1e-300, 1e-38, 1e-8, 1.0, 1e12, 1e300, np.inf]),
    st.sampled_from([0.0, 1000.0]),
    st.sampled_from([np.float32, np.float64]),
)
def test_no_nan_leaves(case, bandwidth, sigma, offset, dtype):
    X, Z = (case.x + offset).astype(dtype), (case.Z + offset).astype(dtype)
    for smoothing in ("window", "global", "stationary"):
        model = PSPCDenoiser(lambda s: case.size, bandwidth=bandwidth, smoothing=smoothing)
        posterior = model.fit(X).posterior(Z, sigma)
        assert np.isfinite(posterior.mean).all()
        assert not np.isnan(posterior.log_evidence).any()
        assert np.isfinite(posterior.effective_sample_size).all()
        assert posterior.mean.dtype == dtype


def test_images_that_do_not_vary(rng):
    one, Z = rng.standard_normal((1, 2, 4, 4)), rng.standard_normal((4, 2, 4, 4))
    for X in (one, one.repeat(5, 0)):
        for smoothing in ("window", "global", "stationary"):
            model = PSPCDenoiser(3, bandwidth=0.5, smoothing=smoothing).fit(X)
            mean = model.denoise(Z, [0.0, 0.4, 1e6, np.inf])
            np.testing.assert_allclose(mean, one.repeat(4, 0), rtol=0, atol=1e-12)
    assert EmpiricalDenoiser(bandwidth="calibrated").fit(one).bandwidth_schedule_(1.0) == 0
    # pixels that never vary are answered by their value; stationary covariances vary everywhere
    X = rng.standard_normal((20, 1, 5, 5))
    X[:, 0, :2] = 0.7
    for smoothing in ("window", "global"):
        mean = PSPCDenoiser(2, bandwidth=0.5, smoothing=smoothing).fit(X).denoise(X + 0.3, 0.4)
        np.testing.assert_allclose(mean[:, 0, :1], 0.7, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------- one for each sigma


@pytest.mark.parametrize("smoothing", ["window", "global", "stationary"])
def test_a_schedule_serves_every_sigma(digits, smoothing):
    digits = digits[:300]
    Z = digits[:5] / 127.5 - 1 + 0.2
    sigmas = np.array([0.1, 0.5, 0.1, 3.0, 1.0])
    schedule = BandwidthSchedule([0.1, 0.5, 1.0, 3.0], [0.0, 0.2, 0.4, 1.0])
    sizes = PatchSchedule([0.1, 1.0, 3.0], [3, 5, 8])  # 3 with and without a bandwidth
    model = PSPCDenoiser(sizes, bandwidth=schedule, smoothing=smoothing).fit(digits)
    together = model.posterior(Z, sigmas)
    for i, sigma in enumerate(sigmas):
        single = PSPCDenoiser(sizes(sigma), bandwidth=schedule(sigma), smoothing=smoothing)
        alone = single.fit(digits).posterior(Z[[i]], sigma)
        np.testing.assert_allclose(together.mean[[i]], alone.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(together.log_evidence[[i]], alone.log_evidence, rtol=1e-12)


@pytest.mark.parametrize(
    "model",
    [
        EmpiricalDenoiser(bandwidth=0.5),
        PatchDenoiser(3, location="all", bandwidth=0.5),
        PSPCDenoiser(3, bandwidth=0.5),
        PSPCDenoiser(3, bandwidth=0.5, smoothing="global"),
        PSPCDenoiser(3, bandwidth=0.5, smoothing="stationary"),
    ],
)
def test_without_noise_no_answer_depends_on_the_other_images(model, digits):
    """A neighbour that is 1e14 times as large does not raise the level that stands for zero."""
    Z = digits[-3:] / 127.5 - 1 + 0.2
    Z[1] *= 1e14
    model.fit(digits[:100])
    together = model.posterior(Z, 0.0)
    for i in range(3):
        alone = model.posterior(Z[[i]], 0.0)
        np.testing.assert_allclose(together.mean[[i]], alone.mean, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(together.log_evidence[[i]], alone.log_evidence, rtol=1e-12)


def test_more_images_change_the_covariance(digits):
    Z = digits[:3] / 127.5 - 1 + 0.2
    for model in (
        EmpiricalDenoiser(bandwidth=0.5),
        PatchDenoiser(4, location="all", bandwidth=0.5),
        PSPCDenoiser(4, bandwidth=0.5),
        PSPCDenoiser(4, bandwidth=0.5, smoothing="stationary"),
    ):
        parts = model.fit(digits[:100]).partial_fit(digits[100:300]).denoise(Z, 0.5)
        np.testing.assert_array_equal(parts, model.fit(digits[:300]).denoise(Z, 0.5))


# ---------------------------------------------------------------------------- calibration


@pytest.mark.parametrize(
    ("smoothing", "flip"), [("window", False), ("window", True), ("global", False)]
)
def test_calibrated_bandwidths_are_the_best_on_held_out_images(
    digits, monkeypatch, smoothing, flip
):
    """By hand: of images drawn by what they show, the first are held out, the rest is fitted."""
    digits = digits[:600]
    monkeypatch.setattr(calibration, "_FITTED", 200)
    known = {"smoothing": smoothing, "flip": flip, "random_state": 3}
    model = PSPCDenoiser(4, bandwidth="calibrated", **known)
    weight = np.arange(len(digits)) % 3 + 1.0
    schedule = model.fit(digits, sample_weight=weight).bandwidth_schedule_
    everything = TrainingSet(torch.from_numpy(digits), torch.from_numpy(weight))
    drawn = different(everything, 216, np.random.default_rng(3))
    images, weights = drawn.images.numpy(), drawn.sample_weight.numpy()
    held, rest = images[:16] / 127.5 - 1, images[16:]
    assert len(schedule.sigmas) == 7
    assert len(set(schedule.bandwidths)) > 1
    x = np.concatenate([digits, digits[..., ::-1]] if flip else [digits]) / 127.5 - 1
    prior = np.tile(weight, 1 + flip) / weight.sum() / (1 + flip)
    mean = np.tensordot(prior, x, 1)
    spread = np.tensordot(prior, (x - mean) ** 2, 1).mean() ** 0.5
    np.testing.assert_allclose(schedule.sigmas, spread * edm(7, 0.05, 8), rtol=1e-9)
    noise = draw_noise((1, 8, 8), 16, 3).numpy()
    tried = {
        h: PSPCDenoiser(4, bandwidth=h, **known).fit(rest, sample_weight=weights[16:])
        for h in (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
    }
    for sigma, chosen in zip(schedule.sigmas, schedule.bandwidths, strict=True):
        errors = {}
        for h, one in tried.items():
            error = ((one.denoise(held + sigma * noise, sigma) - held) ** 2).mean((1, 2, 3))
            errors[h] = np.average(error, weights=weights[:16])
        assert errors[chosen] == pytest.approx(min(errors.values()), rel=1e-6)
    # it serves as the parameter too, and every image is used for answers
    Z = held + noise
    fixed = PSPCDenoiser(4, bandwidth=schedule, **known).fit(digits, sample_weight=weight)
    np.testing.assert_array_equal(fixed.denoise(Z, 1.0), model.denoise(Z, 1.0))
    assert not hasattr(fixed, "bandwidth_schedule_")
    assert not hasattr(model.set_params(bandwidth=0.3).fit(digits), "bandwidth_schedule_")


def test_calibration_in_blocks_of_held_out_images(rng):
    """Other chunks of training images change the sums of the variance by rounding alone."""
    X = rng.integers(0, 256, (170, 3, 32, 32)).astype(np.uint8)
    model = PSPCDenoiser(30, bandwidth="calibrated", smoothing="global")
    schedules = []
    for memory in (1024, 4):
        with config_context(working_memory=memory):
            schedules.append(model.fit(X).bandwidth_schedule_)
    expected, in_blocks = schedules
    assert in_blocks.bandwidths == expected.bandwidths
    np.testing.assert_allclose(in_blocks.sigmas, expected.sigmas, rtol=1e-12)


@pytest.mark.parametrize(
    "model", [EmpiricalDenoiser(), PatchDenoiser(7, location="all"), PSPCDenoiser(4)]
)
def test_calibration_takes_copies_for_weights(model, digits):
    """Whatever their order, and however many there are."""
    X, count = digits[:150], np.arange(150) % 4
    model.set_params(bandwidth="calibrated")
    weighted = model.fit(X, sample_weight=count).bandwidth_schedule_
    copies = np.repeat(X, count, axis=0)[::-1].copy()
    repeated = model.fit(copies).bandwidth_schedule_
    assert repeated.bandwidths == weighted.bandwidths
    np.testing.assert_allclose(repeated.sigmas, weighted.sigmas, rtol=1e-12)


def edm(n, low, high):
    return np.linspace(high ** (1 / 7), low ** (1 / 7), n) ** 7


def test_calibration_generalises(digits):
    """On other images than those it saw, no worse than either end at any noise level."""
    train, test = digits[:1500], digits[1500:1700]
    for model in (EmpiricalDenoiser(), PatchDenoiser(5)):
        calibrated = model.set_params(bandwidth="calibrated").fit(train)
        schedule = calibrated.bandwidth_schedule_
        for sigma in (0.1, 0.5, 2.0):
            best = calibrated.score(test, sigmas=[sigma])
            for h in (0.0, 1.0):
                end = type(model)(bandwidth=h).set_params(**patch_size(model)).fit(train)
                assert best >= 1.02 * end.score(test, sigmas=[sigma]), (schedule, sigma, h)


def patch_size(model):
    return {"patch_size": model.patch_size} if isinstance(model, PatchDenoiser) else {}


def test_few_images_can_be_calibrated(rng):
    for n in (1, 2, 3, 11):
        X = rng.standard_normal((n, 1, 3, 4))
        model = PSPCDenoiser(2, bandwidth="calibrated").fit(X, sample_weight=np.arange(n) + 1.0)
        assert np.isfinite(model.denoise(X, 0.5)).all()


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("bandwidth", [-0.1, 1.1, np.nan, "auto", None])
def test_bandwidths_out_of_range(digits, bandwidth):
    for model in (EmpiricalDenoiser(), PatchDenoiser(3), PSPCDenoiser(3)):
        with pytest.raises(ValueError, match="'bandwidth' parameter"):
            model.set_params(bandwidth=bandwidth).fit(digits)


def test_bad_schedules(digits):
    for given_back in (1.5, -1, np.nan, "0.5"):
        model = PSPCDenoiser(3, bandwidth=lambda sigma, h=given_back: h).fit(digits)
        sentence = r"bandwidth must give a number between 0 and 1 .* at sigma = 0\.5"
        with pytest.raises(ValueError, match=sentence):
            model.denoise(digits[:1], 0.5)
    with pytest.raises(ValueError, match="'smoothing' parameter"):
        PSPCDenoiser(3, smoothing="local").fit(digits)
    with pytest.raises(ValueError, match=r"bandwidths must be between 0 and 1, got 1\.5"):
        BandwidthSchedule([1.0], [1.5])
    with pytest.raises(ValueError, match="sigmas and bandwidths must be sequences of the same"):
        BandwidthSchedule([1.0, 2.0], [0.5])
    schedule = BandwidthSchedule([1.0, 2.0], [0.5, 1])
    assert repr(schedule) == "BandwidthSchedule(sigmas=[1.0, 2.0], bandwidths=[0.5, 1])"
    assert schedule == BandwidthSchedule((1.0, 2.0), [0.5, 1.0])
    assert schedule != PatchSchedule([1.0, 2.0], [1, 1])


def test_no_covariance_of_other_windows(digits):
    windows = FlexibleWindows("data", 0.9, [0.5])
    for bandwidth in (0.5, "calibrated"):
        with pytest.raises(
            ValueError, match=r"are given; pass smoothing='global' or 'stationary', or"
        ):
            PSPCDenoiser(windows=windows, bandwidth=bandwidth).fit(digits)


@pytest.mark.parametrize("parameters", [{"tol": 0.1}, {"n_neighbors": 3}, {"algorithm": "faiss"}])
def test_no_index_with_a_bandwidth(digits, parameters):
    for bandwidth in (0.5, "calibrated", lambda sigma: 0.0):
        with pytest.raises(ValueError, match=r"blurs all training images; leave n_neighbors"):
            EmpiricalDenoiser(bandwidth=bandwidth, **parameters).fit(digits)


def test_large_problems(digits, monkeypatch):
    monkeypatch.setattr(covariance, "LARGEST_PROBLEM", 50)
    for smoothing in ("window", "global"):
        model = PSPCDenoiser(3, bandwidth=0.5, smoothing=smoothing)
        with pytest.raises(ValueError, match=r"needs at most 50\s+images or values; pass fewer"):
            model.fit(digits)
        # few large images: nothing D x D is made
        few = model.fit(digits[:40]).denoise(digits[:2], 0.5)
        assert np.isfinite(few).all()


SMOOTHED = [
    EmpiricalDenoiser(bandwidth=0.5),
    PSPCDenoiser(4, bandwidth=0.3, smoothing="stationary", flip=True, response_taper=0.5),
    PSPCDenoiser(3, bandwidth=0.5, smoothing="global", flip=True),
    PSPCDenoiser(windows=FlexibleWindows("data", 0.9, [0.5]), bandwidth=0.5, smoothing="global"),
]


@pytest.mark.filterwarnings("ignore:the filtered training images")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("model", SMOOTHED, ids=repr)
def test_filtered_images_that_do_not_fit(digits, rng, model, weighted, dtype):
    """Filtering in parts gives the same answers as one filtered copy."""
    X = digits[:400] / 127.5 - 1
    weight = rng.random(400) * (np.arange(400) % 5 > 0) if weighted else None
    sigma = np.array([0.0, 0.1, 0.4, 3.0, np.inf])
    noise = rng.standard_normal((5, *X.shape[1:]))
    noisy = (X[:5] + noise * np.minimum(sigma, 9).reshape(5, 1, 1, 1)).astype(dtype)
    model.fit(X.astype(dtype), sample_weight=weight)
    vector = rng.standard_normal(noisy.shape).astype(dtype)

    def answers():
        posterior = model.posterior(noisy, sigma)
        # without noise, rounding decides about ties of filtered windows
        others = posterior.log_evidence[1:], posterior.effective_sample_size[1:]
        summary = posterior.mean, *others
        own = noisy[1:4], sigma[1:4], vector[1:4]
        products = model.vjp(*own), model.jvp(*own)
        return [*summary, *products, model.jacobian(noisy[2:3], 0.4, pixels=[(2, 3)])]

    expected = answers()
    tolerance = 2e-5 if dtype == "float32" else 1e-9
    with config_context(working_memory=0.05):  # 320 images have 0.08 MiB in float32
        for answer, value in zip(answers(), expected, strict=True):
            scale = np.abs(value[np.isfinite(value)]).max(initial=1)
            np.testing.assert_allclose(answer, value, rtol=tolerance, atol=tolerance * scale)


def test_filtered_parts_fit_in_memory(rng, monkeypatch):
    """Three passes serve 100 noisy images; a part is small in each."""
    X = rng.integers(0, 256, (300, 3, 12, 12)).astype(np.uint8)
    noisy = rng.standard_normal((100, 3, 12, 12)).astype(np.float32)
    rows = []

    def spy(source, *args, filtered=blur._filtered, **options):
        rows.append(len(source))
        return filtered(source, *args, **options)

    monkeypatch.setattr(blur, "_filtered", spy)
    model = PSPCDenoiser(3, bandwidth=0.5, smoothing="stationary", flip=True).fit(X)
    model.denoise(noisy, 0.4)
    assert rows == [600, 300]  # mirror images need no filter
    rows.clear()
    with (
        config_context(working_memory=0.3),
        pytest.warns(UserWarning, match=r"need 0.494 MiB, and 0.3 MiB are allowed: parts"),
    ):
        model.denoise(noisy, 0.4)
    assert max(rows) * X[0].size * 4 <= 0.3 * 2**20
    examples, *parts = rows
    assert (examples, sum(parts)) == (64, 3 * 300)


def test_crops_to_a_window_that_do_not_fit(digits):
    model = PSPCDenoiser(4, bandwidth=0.5).fit(digits[:1600])
    noisy = digits[1600:1602].astype(np.float32) / 127.5 - 1
    sentence = "A filtered crop of every training image needs 0.0977 MiB"
    with config_context(working_memory=0.05), pytest.raises(MemoryError, match=sentence):
        model.denoise(noisy, 0.4)


@pytest.mark.parametrize("random_state", [None, 3, np.random.default_rng(0)])
def test_a_class_is_calibrated_whatever_draws(digits, random_state):
    y = np.arange(60) % 2
    model = EmpiricalDenoiser(bandwidth="calibrated", random_state=random_state)
    answer = model.fit(digits[:60], y).denoise(digits[:2], 0.4, y=1)
    assert np.isfinite(answer).all()


def test_windows_one_by_one_where_memory_is_short(digits):
    model = PSPCDenoiser(6, bandwidth=0.5).fit(digits[:1000])
    noisy = digits[1000:1002].astype(np.float32) / 127.5 - 1
    expected = model.denoise(noisy, 0.5)
    with sklearn.config_context(working_memory=0.5):
        np.testing.assert_allclose(model.denoise(noisy, 0.5), expected, rtol=0, atol=1e-5)


def test_eigenbases_are_kept_but_not_pickled(digits):
    Z = digits[-2:] / 127.5 - 1
    model = PSPCDenoiser(4, bandwidth=0.3).fit(digits[:100])
    size = len(pickle.dumps(model))
    first = model.denoise(Z, 0.3)
    gaussian = model._prior.gaussian
    kept = dict(gaussian._eigenbases)
    assert kept
    np.testing.assert_array_equal(model.denoise(Z, 0.3), first)
    assert all(gaussian._eigenbases[key] is value for key, value in kept.items())
    assert len(pickle.dumps(model)) < size + 100
    with config_context(working_memory=0.04):
        model.fit(digits[:100]).denoise(Z, 0.3)
    kept = model._prior.gaussian._eigenbases.values()
    assert 0 < sum(vectors.nbytes for _, vectors in kept) <= 0.04 * 2**20
