"""What is known to be true of the three denoisers, whatever the data."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

import generators
import oracle
from helpers import fit_quietly
from skpspc import EmpiricalDenoiser, PatchDenoiser, PSPCDenoiser

LEVELS = st.one_of(st.just(0.0), st.just(np.inf), generators.sigmas())


def three(size, engine="auto"):
    """Every denoiser, for a patch size."""
    return [
        EmpiricalDenoiser(),
        PatchDenoiser(size, location=(0, 0)),
        PatchDenoiser(size, location="all"),
        PSPCDenoiser(size, engine=engine),
    ]


def answers(case, X=None, Z=None, sample_weight=None, sigma=None, engine="auto"):
    """Posteriors of every denoiser."""
    X, Z = case.X if X is None else X, case.Z if Z is None else Z
    sigma = case.sigma if sigma is None else sigma
    for model in three(case.size, engine):
        yield fit_quietly(model, X, sample_weight).posterior(Z, sigma)


def assert_same(first, second, **tolerance):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a.mean, b.mean, rtol=0, **tolerance)


# ------------------------------------------------------------------- exact equivalences


@given(generators.cases())
def test_patch_as_large_as_the_image(case):
    size = max(case.shape[1:])
    whole, patch, every, composite = answers(generators.Case(case.X, case.Z, case.sigma, size))
    for other, mean in (
        (patch, patch.mean),
        (every, every.mean[:, 0]),
        (composite, composite.mean),
    ):
        np.testing.assert_allclose(mean, whole.mean, rtol=0, atol=1e-12)
        np.testing.assert_allclose(other.log_evidence, whole.log_evidence, rtol=1e-12)
        np.testing.assert_allclose(other.effective_sample_size, whole.effective_sample_size)


@given(generators.cases(max_images=1), LEVELS)
def test_a_single_training_image_is_the_answer(case, sigma):
    for model, posterior in zip(three(case.size), answers(case, sigma=sigma), strict=True):
        target = fit_quietly(model, case.X)._prior_of().answered(torch.tensor(case.x)).numpy()
        np.testing.assert_allclose(
            posterior.mean, np.broadcast_to(target, posterior.mean.shape), rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(posterior.effective_sample_size, 1)


@given(generators.cases(), st.integers(2, 4))
def test_duplicating_the_training_set(case, times):
    once = list(answers(case))
    many = list(answers(case, X=np.concatenate([case.X] * times)))
    assert_same(once, many, atol=1e-9)
    for a, b in zip(once, many, strict=True):
        np.testing.assert_allclose(b.log_evidence, a.log_evidence, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(b.effective_sample_size, times * a.effective_sample_size)


@given(generators.cases(low=0.02, kinds=("grid", "normal")), st.floats(-3, 3))
def test_adding_a_constant(case, constant):
    shifted = answers(case, X=case.X + constant, Z=case.Z + constant)
    for a, b in zip(answers(case), shifted, strict=True):
        np.testing.assert_allclose(a.mean + constant, b.mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(a.log_evidence, b.log_evidence, rtol=1e-8, atol=1e-8)


@given(generators.cases(low=0.02, kinds=("grid", "normal")), st.floats(0.01, 100))
def test_changing_the_units(case, factor):
    scaled = answers(case, X=case.X * factor, Z=case.Z * factor, sigma=case.sigma * factor)
    for a, b in zip(answers(case), scaled, strict=True):
        np.testing.assert_allclose(a.mean, b.mean / factor, rtol=0, atol=1e-9)


@given(generators.cases(low=0.05, kinds=("grid", "normal")), generators.seeds)
def test_orthogonal_maps_commute_with_the_empirical_denoiser(case, seed):
    x, z = case.x.reshape(len(case.X), -1), case.Z.reshape(len(case.Z), -1)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((x.shape[1],) * 2))
    plain = EmpiricalDenoiser().fit(x).posterior(z, case.sigma)
    rotated = EmpiricalDenoiser().fit(x @ rotation).posterior(z @ rotation, case.sigma)
    np.testing.assert_allclose(plain.mean @ rotation, rotated.mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(plain.log_evidence, rotated.log_evidence, rtol=1e-9, atol=1e-9)


@given(generators.cases(), st.sampled_from(["mirror", "upside down", "transpose", "channels"]))
def test_symmetries_of_the_square_commute_with_pspc(case, kind):
    turn = {
        "mirror": lambda a: a[..., ::-1],
        "upside down": lambda a: a[..., ::-1, :],
        "transpose": lambda a: a.swapaxes(-1, -2),
        "channels": lambda a: a[:, ::-1],
    }[kind]
    model = PSPCDenoiser(lambda sigma: case.size)
    plain = model.fit(case.X).denoise(case.Z, case.sigma)
    turned = model.fit(turn(case.X).copy()).denoise(turn(case.Z).copy(), case.sigma)
    np.testing.assert_allclose(turn(plain), turned, rtol=0, atol=1e-9)


@given(generators.cases(), st.randoms(use_true_random=False))
def test_permuting_the_training_images(case, random):
    order = random.sample(range(len(case.X)), len(case.X))
    assert_same(answers(case), answers(case, X=case.X[order]), atol=1e-9)


@given(generators.cases(), st.data())
def test_integer_weights_are_repeated_images(case, data):
    weight = data.draw(st.lists(st.integers(0, 3), min_size=len(case.X), max_size=len(case.X)))
    assume(any(weight))
    repeated = answers(case, X=np.repeat(case.X, weight, axis=0))
    assert_same(answers(case, sample_weight=weight), repeated, atol=1e-9)
    scaled = answers(case, sample_weight=1e-3 * np.array(weight))
    assert_same(answers(case, sample_weight=weight), scaled, atol=1e-9)


# ------------------------------------------------------------------------------- limits


@given(generators.cases(kinds=("grid",)))
def test_zero_sigma_is_the_nearest_with_ties_averaged(case):
    Z = np.round(4 * case.Z) / 4  # distances are exact, and often equal
    Z = np.clip(Z, -4, 4)
    masks = oracle.square_masks(case.size, case.shape)
    whole = oracle.collection(Z, case.X, 0, oracle.whole_mask(case.shape))
    windows = oracle.collection(Z, case.X, 0, masks)
    empirical, _, _, composite = answers(case, Z=Z, sigma=0.0)
    n = len(Z)
    np.testing.assert_allclose(empirical.mean.reshape(n, -1), whole.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(composite.mean.reshape(n, -1), windows.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        empirical.effective_sample_size, whole.effective_sample_size[:, 0], rtol=1e-12
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma", [0.0, 1e-300, 1e-12])
def test_ties_at_zero_sigma(dtype, sigma, engine):
    X = np.array([[[[1.0, 1.0]]], [[[-1.0, 1.0]]], [[[1.0, 3.0]]]], dtype=dtype)
    Z = np.zeros((1, 1, 1, 2), dtype=dtype)
    np.testing.assert_array_equal(EmpiricalDenoiser().fit(X).denoise(Z, sigma), [[[[0, 1]]]])
    # pixel 0: +1, -1 and +1 are equally near; pixel 1: +1 twice
    pspc = PSPCDenoiser(1, engine=engine if dtype == np.float32 else "torch")
    np.testing.assert_allclose(pspc.fit(X).denoise(Z, sigma), [[[[1 / 3, 1]]]], rtol=1e-6)
    weighted = pspc.fit(X, sample_weight=[1, 2, 1]).denoise(Z, sigma)
    np.testing.assert_allclose(weighted, [[[[0, 1]]]], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_survive_the_division_by_sigma(dtype, engine):
    """Equal distances, whose terms come in another order or from another side."""
    rng = np.random.default_rng(0)
    Z = rng.integers(-4, 5, (12, 1, 3, 3)) / 4
    step = rng.integers(1, 4, Z.shape) / 4
    pspc = PSPCDenoiser(2, engine=engine if dtype == np.float32 else "torch")
    for z, d in zip(Z, step, strict=True):
        X = np.stack([z + d, z - d]).astype(dtype)
        for model in (EmpiricalDenoiser(), PatchDenoiser(2), pspc):
            posterior = model.fit(X).posterior(z[None].astype(dtype), 0.0)
            assert posterior.effective_sample_size == 2
        # the same differences, with two pixels exchanged
        X[1] = z + d.reshape(-1)[rng.permutation(9)].reshape(d.shape)
        posterior = EmpiricalDenoiser().fit(X).posterior(z[None].astype(dtype), 0.0)
        assert posterior.effective_sample_size == 2


@given(generators.cases(low=1e-3, high=1.0, kinds=("uint8", "normal")))
def test_small_sigma_tends_to_the_nearest(case):
    masks = oracle.square_masks(case.size, case.shape)
    x = oracle.as_float(case.X)
    for queries, index in ((oracle.whole_mask(case.shape), 0), (masks, 3)):
        nearest = oracle.collection(case.Z, case.X, 0, queries)
        # weights of all others below e^-40 at half the gap between the two nearest distances
        gaps = []
        for mask in queries:
            for z in case.Z.reshape(len(case.Z), -1):
                distance = np.unique(((z[mask] - x[:, mask]) ** 2).sum(1).round(12))
                gaps += [distance[1] - distance[0]] if len(distance) > 1 else []
        assume(not gaps or min(gaps) > 1e-9)
        sigma = np.sqrt(min(gaps, default=1.0) / 80)
        for level in (sigma, 0.1 * sigma, 0.0):
            posterior = list(answers(case, sigma=level))[index]
            np.testing.assert_allclose(
                posterior.mean.reshape(len(case.Z), -1), nearest.mean, rtol=0, atol=1e-9
            )


@given(generators.cases(low=0.1, high=10))
def test_large_sigma_tends_to_the_weighted_mean(case):
    weight = np.arange(len(case.X)) + 1.0
    mean = torch.tensor(np.average(case.x, axis=0, weights=weight))[None]
    diameter = np.ptp(case.x, axis=0).max() + np.abs(case.Z).max()
    for model in three(case.size):
        fitted = fit_quietly(model, case.X, weight)
        target = fitted._prior_of().answered(mean).numpy()
        # the gap falls with sigma^-2
        for sigma in (1e3, 1e5, 1e12, np.inf):
            gap = np.abs(fitted.denoise(case.Z, sigma) - target).max()
            bound = 2 * mean.numel() * diameter**3 / sigma**2
            assert gap <= bound + 1e-12


@given(generators.cases(low=0.1, high=1.0))
def test_patch_and_global_means_agree_at_both_ends(case):
    """Local equivalence: at sigma -> 0 on a noisy training image, and at sigma -> infinity."""
    h, w = (min(case.size, side) for side in case.shape[1:])
    empirical, patch, *_ = (fit_quietly(model, case.X) for model in three(case.size))
    direction = (case.Z - case.x[:1]) / np.abs(case.Z - case.x[:1]).max()
    for sigma in (1e-9, 1e7):
        Z = case.x[:1] + sigma * direction
        whole = empirical.denoise(Z, sigma)[..., :h, :w]
        np.testing.assert_allclose(patch.denoise(Z, sigma), whole, rtol=0, atol=1e-5)


@given(generators.cases(), generators.seeds)
def test_small_noise_on_a_training_image_leaves_that_image(case, seed):
    """Local equivalence at sigma -> 0: whole image, patches and their composite all agree.

    An image at distance r in a window has the log-odds -r (r - 2 |e| sigma) / 2 sigma^2 at most,
    which is below -200 where r > (2 |e| + 20) sigma.
    """
    noise = np.random.default_rng(seed).standard_normal((1, *case.shape))
    x = oracle.as_float(case.X)
    masks = [*oracle.square_masks(case.size, case.shape), *oracle.whole_mask(case.shape)]
    apart = [np.linalg.norm(x[:, mask] - x[0, mask], axis=1) for mask in masks]
    others = np.concatenate([distance[distance > 0] for distance in apart])
    assume(not len(others) or others.min() > 1e-6)
    sigma = min(others, default=1.0) / (2 * np.linalg.norm(noise) + 20)
    for level in (sigma, 1e-3 * sigma):
        Z = case.x[:1] + level * noise
        for model in three(case.size):
            fitted = fit_quietly(model, case.X)
            target = fitted._prior_of().answered(torch.tensor(case.x[:1])).numpy()
            np.testing.assert_allclose(fitted.denoise(Z, level), target, rtol=0, atol=1e-12)


@given(generators.cases(low=0.1, high=10), st.floats(1, 1e6), st.booleans())
def test_large_noise_forgets_the_window(case, sigma, weighted):
    """Local equivalence at sigma -> infinity, with its rate: total variations fall as sigma^-2.

    Weights are the prior's times exp(logit). So a posterior is, in total variation, no farther from
    the prior than the spread of its logits, and two from one another than both spreads together.
    """
    prior = np.arange(len(case.X)) + 1.0 if weighted else None
    masks = [*oracle.square_masks(case.size, case.shape), *oracle.whole_mask(case.shape)]
    weights = oracle.collection(case.Z, case.X, sigma, masks, sample_weight=prior).weights
    z, x = case.Z.reshape(len(case.Z), -1), oracle.as_float(case.X)
    squares = np.stack([((z[:, None, m] - x[:, m]) ** 2).sum(2) for m in masks], 1)
    spread = np.ptp(squares, axis=2) / (2 * sigma**2)  # (n, windows)
    variation = np.abs(weights - weights[:, -1:]).sum(2) / 2
    bound = spread + spread[:, -1:]
    assert (variation <= bound + 1e-12).all()
    # and so do the means that the denoisers give, pixel by pixel
    largest = bound.max(1) * np.ptp(case.x, axis=0).max()
    whole, _, _, composite = answers(case, sigma=sigma, sample_weight=prior)
    gap = np.abs(composite.mean - whole.mean).reshape(len(case.Z), -1).max(1)
    assert (gap <= largest + 1e-9).all()


def test_the_gap_of_local_equivalence_peaks_in_between(digits, rng):
    """On real images: the two posterior means differ at intermediate noise, and only there."""
    levels = np.geomspace(0.01, 1000, 16)
    noise = rng.standard_normal((20, 1, 8, 8))
    clean = oracle.as_float(digits[:20]).reshape(noise.shape)
    patch, whole = PatchDenoiser(4).fit(digits), EmpiricalDenoiser().fit(digits)
    gap = []
    for sigma in levels:
        Z = clean + sigma * noise
        difference = patch.denoise(Z, sigma) - whole.denoise(Z, sigma)[..., 2:6, 2:6]
        gap.append(float(np.sqrt((difference**2).mean())))
    peak = int(np.argmax(gap))
    assert 0.2 < levels[peak] < 5
    assert gap[peak] > 0.2
    assert gap[0] < 1e-6
    assert gap[-1] < 1e-3
    assert (np.diff(gap[: peak + 1]) >= -1e-9).all()
    assert (np.diff(gap[peak:]) <= 1e-9).all()


# ------------------------------------------------------------------------------- bounds


@given(generators.cases(), LEVELS)
def test_outputs_lie_in_the_convex_hull(case, sigma):
    case.Z = case.Z * 3
    for model, posterior in zip(three(case.size), answers(case, sigma=sigma), strict=True):
        x = fit_quietly(model, case.X)._prior_of().answered(torch.tensor(case.x)).numpy()
        assert (posterior.mean >= x.min(0) - 1e-12).all()
        assert (posterior.mean <= x.max(0) + 1e-12).all()
        size = posterior.effective_sample_size
        assert ((size >= 1 - 1e-9) & (size <= len(case.X) * (1 + 1e-9))).all()


@given(generators.cases(low=0.05, high=20))
def test_total_variation_bounds_the_gap_between_patch_and_global(case):
    h, w = (min(case.size, side) for side in case.shape[1:])
    mask = oracle.patch_mask(0, 0, h, w, case.shape)
    patches = oracle.as_float(case.X)[:, mask]
    diameter = np.linalg.norm(patches[:, None] - patches, axis=-1).max()
    narrow = oracle.collection(case.Z, case.X, case.sigma, [mask]).weights[:, 0]
    wide = oracle.collection(case.Z, case.X, case.sigma, oracle.whole_mask(case.shape))
    variation = np.abs(narrow - wide.weights[:, 0]).sum(1) / 2
    whole, patch, *_ = answers(case)
    gap = (patch.mean - whole.mean[..., :h, :w]).reshape(len(case.Z), -1)
    assert (np.linalg.norm(gap, axis=1) <= variation * diameter + 1e-9).all()


@given(
    generators.cases(),
    st.sampled_from([0.0, 1e-300, 1e-150, 1e-38, 1e-8, 1e-3, 1.0, 1e12, 1e40, 1e300, np.inf]),
    st.sampled_from([0.0, 1000.0, -1e6]),
    st.sampled_from([(np.float32, "auto"), (np.float32, "torch"), (np.float64, "auto")]),
)
def test_no_nan_leaves(case, sigma, offset, kind):
    dtype, engine = kind
    X = (case.x + offset).astype(dtype)
    Z = (case.Z + offset).astype(dtype)
    for posterior in answers(case, X=X, Z=Z, sigma=sigma, engine=engine):
        assert np.isfinite(posterior.mean).all()
        assert not np.isnan(posterior.log_evidence).any()
        assert np.isfinite(posterior.effective_sample_size).all()
        assert posterior.mean.dtype == dtype
        assert posterior.mean.min() >= X.min() - 1e-5 * abs(X).max()
        assert posterior.mean.max() <= X.max() + 1e-5 * abs(X).max()


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e15])
@pytest.mark.parametrize(
    ("dtype", "engine"), [(np.float32, "auto"), (np.float32, "torch"), (np.float64, "auto")]
)
def test_no_unit_is_too_small_or_too_large(rng, scale, dtype, engine):
    X, Z = rng.standard_normal((6, 1, 4, 4)), rng.standard_normal((2, 1, 4, 4))
    for model in three(2, engine):
        plain = model.fit(X.astype(dtype)).denoise(Z.astype(dtype), 0.5)
        scaled = model.fit((scale * X).astype(dtype)).denoise(
            (scale * Z).astype(dtype), 0.5 * scale
        )
        np.testing.assert_allclose(scaled / scale, plain, rtol=0, atol=1e-5)


@given(generators.cases(low=0.05, high=5.0))
@example(generators.Case(np.zeros((2, 1, 2, 2), np.uint8), np.ones((1, 1, 2, 2)), np.ones(1), 2))
def test_a_large_offset_in_float32(case):
    """Data around 1000: what the float32 differences can know is kept."""
    X, Z = (case.x + 1000).astype(np.float32), (case.Z + 1000).astype(np.float32)
    exact = answers(case, X=X.astype(np.float64), Z=Z.astype(np.float64))
    for a, b in zip(answers(case, X=X, Z=Z), exact, strict=True):
        # one unit in the last place of 1000 is 6e-5
        np.testing.assert_allclose(a.mean, b.mean, rtol=0, atol=1e-2)


# ---------------------------------------------------------------------------- many images


def test_gaussian_data_tend_to_the_wiener_filter():
    """D -> mu + Sigma (Sigma + sigma^2)^-1 (z - mu), with an error that falls as N^-1/2."""
    rng = np.random.default_rng(3)
    root = 0.6 * rng.standard_normal((3, 3))
    covariance, mean = root @ root.T, np.array([0.3, -0.2, 0.1])
    sigma = 0.8
    z = (
        mean
        + rng.standard_normal((60, 3)) @ np.linalg.cholesky(covariance + sigma**2 * np.eye(3)).T
    )
    gain = np.linalg.solve(covariance + sigma**2 * np.eye(3), covariance).T
    wiener = mean + (z - mean) @ gain.T
    error = []
    for n in (300, 3_000, 30_000):
        X = mean + rng.standard_normal((n, 3)) @ root.T
        error.append(np.sqrt(((EmpiricalDenoiser().fit(X).denoise(z, sigma) - wiener) ** 2).mean()))
    assert error[-1] < 0.015
    slope = np.polyfit(np.log([300, 3_000, 30_000]), np.log(error), 1)[0]
    assert -0.7 < slope < -0.3


def test_patch_and_global_agree_where_pixels_are_independent():
    """Binary images: with independent pixels the gap goes with N, with coupled ones it stays."""
    rng = np.random.default_rng(5)
    sigma, n = 1.0, 20_000
    coin = rng.choice([-1.0, 1.0], size=(n, 1, 1, 4))
    coupled = np.repeat(coin[..., :2], 2, axis=-1)[..., [0, 2, 1, 3]]  # pixel k + 2 copies pixel k
    gaps = {}
    for name, X in (("independent", coin), ("few", coin[:200]), ("coupled", coupled)):
        Z = X[:50] + sigma * rng.standard_normal((50, 1, 1, 4))
        patch = PatchDenoiser(2, location=(0, 0)).fit(X).denoise(Z, sigma)
        whole = EmpiricalDenoiser().fit(X).denoise(Z, sigma)[..., :2]
        gaps[name] = np.sqrt(((patch - whole) ** 2).mean())
        if name == "independent":
            # each pixel on its own: tanh(z / sigma^2)
            np.testing.assert_allclose(patch, np.tanh(Z[..., :2]), atol=0.05)
            composite = PSPCDenoiser(2).fit(X).denoise(Z, sigma)
            np.testing.assert_allclose(composite, np.tanh(Z), atol=0.05)
    assert gaps["independent"] < 0.02
    assert gaps["few"] > 4 * gaps["independent"]
    assert gaps["coupled"] > 0.2
