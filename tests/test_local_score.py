"""The local score machines: against plain loops, the published code, and one another."""

import itertools
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import generators
import oracle
from skpspc import EmpiricalDenoiser, LocalScoreDenoiser, PatchSchedule
from skpspc.posterior import patches
from skpspc.sampling import local_score_schedule
from skpspc.support import Centred, TrainingSet
from test_reference import images

KINDS = {
    "local": {},
    "circular": {"equivariant": True, "boundary": "circular"},
    "zero": {"equivariant": True, "boundary": "zero"},
    "broken": {"equivariant": True, "boundary": "broken"},
}


# ------------------------------------------------------------------------ the slow formula


def sources(kind, at, side, reach):
    """Positions along one axis that the window around ``at`` is compared with."""
    inside = list(range(reach, side - reach))
    if kind == "local" or (kind == "broken" and at not in inside):
        return [at]
    return inside


def window(image, row, column, reach, kind):
    """Values (..., C, h, w) of the square around a pixel, NaN for those that do not count."""
    out = np.full((*image.shape[:-2], 2 * reach[0] + 1, 2 * reach[1] + 1), np.nan)
    height, width = image.shape[-2:]
    for i, j in itertools.product(*(range(2 * r + 1) for r in reach)):
        y, x = row + i - reach[0], column + j - reach[1]
        if kind == "circular":
            out[..., i, j] = image[..., y % height, x % width]
        elif 0 <= y < height and 0 <= x < width:
            out[..., i, j] = image[..., y, x]
        elif kind == "zero":
            out[..., i, j] = 0
    return out


def slow(kind, size, Z, X, sigma, sample_weight=None):
    """Mean (n, C, H, W), log evidence (n,) and effective sample size (n,), pixel by pixel."""
    x = oracle.as_float(X).reshape(X.shape)
    z = oracle.as_float(Z).reshape(Z.shape)
    n_values, (height, width) = x[0].size, x.shape[2:]
    prior = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, float)
    reach = [size // 2 if side > 1 or kind in ("local", "broken") else 0 for side in x.shape[2:]]
    mean, evidence, ess = np.empty(z.shape), np.zeros(len(z)), np.zeros(len(z))
    for row, column in itertools.product(range(height), range(width)):
        places = list(
            itertools.product(
                sources(kind, row, height, reach[0]), sources(kind, column, width, reach[1])
            )
        )
        plain = kind if kind == "local" or kind == "broken" else "inside"
        dictionary = np.concatenate([window(x, *place, reach, plain) for place in places])
        dictionary = dictionary.reshape(len(dictionary), -1)
        values = np.concatenate([x[:, :, i, j] for i, j in places])
        priors = np.tile(prior, len(places)) / (prior.sum() * len(places))
        for k, level in enumerate(np.broadcast_to(sigma, len(z))):
            query = window(z[k], row, column, reach, kind).ravel()
            mask = ~np.isnan(query)
            weight, log_p = oracle.window_weights(query, dictionary, level, mask, priors)
            mean[k, :, row, column] = weight @ values
            evidence[k] += n_values * log_p / mask.sum() / (height * width)
            ess[k] += 1 / (weight**2).sum() / (height * width)
    return mean, evidence, ess


def fitted(kind, size, X, **options):
    sample_weight = options.pop("sample_weight", None)
    return LocalScoreDenoiser(size, **KINDS[kind], **options).fit(X, sample_weight=sample_weight)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 6, 5), 1), ((2, 6, 5), 3), ((1, 7, 6), 5), ((3, 5, 5), 5), ((1, 1, 9), 3)],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_slow_formula(kind, shape, size, weighted, device, rng):
    X = rng.integers(0, 256, (6, *shape), dtype=np.uint8)
    sigma = np.array([0.05, 0.3, 1.0, 20.0])
    Z = X[:4] / 127.5 - 1 + sigma[:, None, None, None] * rng.standard_normal((4, *shape))
    weight = [1, 3, 0.01, 0, 2, 1] if weighted else None
    model = fitted(kind, size, X, sample_weight=weight, device=device)
    mean, evidence, ess = slow(kind, size, Z, X, sigma, weight)
    got = model.posterior(Z, sigma)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-9)
    np.testing.assert_allclose(got.effective_sample_size, ess, rtol=1e-8)
    assert (got.error_bound == 0).all()
    single = Z.astype(np.float32)
    mean, evidence, ess = slow(kind, size, single, X, sigma, weight)
    got = model.posterior(single, sigma)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-4)
    np.testing.assert_allclose(got.effective_sample_size, ess, rtol=1e-3)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5, 2.0])
def test_float32_on_photographs(kind, sigma, photos, device, rng):
    size = {0.02: 3, 0.1: 3, 0.5: 5, 2.0: 9}[sigma]
    X, clean = photos[:24], photos[100:101] / 127.5 - 1
    Z = (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)
    mean, evidence, _ = slow(kind, size, Z, X, sigma)
    floats = (X / 127.5 - 1).astype(np.float32)
    for given_images in (X, floats):
        got = fitted(kind, size, given_images, device=device).posterior(Z, sigma)
        np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-5)
        np.testing.assert_allclose(got.log_evidence, evidence, rtol=1e-4)


@given(generators.cases(low=0.02), st.sampled_from(list(KINDS)))
def test_any_images(case, kind):
    size = case.size - 1 + case.size % 2
    if kind in ("circular", "zero"):
        shortest = min([side for side in case.shape[1:] if side > 1], default=1)
        size = min(size, shortest - 1 + shortest % 2)
    got = fitted(kind, size, case.X).posterior(case.Z, case.sigma)
    mean, _, ess = slow(kind, size, case.Z, case.X, case.sigma)
    np.testing.assert_allclose(got.mean, mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(got.effective_sample_size, ess, rtol=1e-6)
    low, high = case.x.min(), case.x.max()
    assert (got.mean >= low - 1e-9).all() and (got.mean <= high + 1e-9).all()


# ------------------------------------------------------------------------------ the limits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigma_zero_is_the_nearest_patch_ties_averaged(kind, dtype, device, rng):
    X = rng.integers(-2, 3, (9, 1, 5, 5)) / 2.0
    X[5:] = X[:4]
    Z = (X[:3] + rng.integers(-1, 2, (3, 1, 5, 5)) / 4.0).astype(dtype)
    model = fitted(kind, 3, X, device=device)
    expected = slow(kind, 3, Z, X, 0.0)[0]
    np.testing.assert_allclose(model.denoise(Z, 0.0), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.denoise(Z, 1e-9), expected, rtol=0, atol=1e-6)
    weight = [1e-30, 1, 2, 1, 1, 1e-20, 1, 1, 3]
    model.fit(X, sample_weight=weight)
    expected = slow(kind, 3, Z, X, 0.0, weight)[0]
    np.testing.assert_allclose(model.denoise(Z, 0.0), expected, rtol=0, atol=1e-6)


def test_far_limits(kind, device, rng):
    X = rng.integers(0, 256, (7, 2, 5, 6), dtype=np.uint8)
    Z = rng.standard_normal((2, 2, 5, 6)).astype(np.float32)
    model = fitted(kind, 3, X, device=device)
    expected = slow(kind, 3, Z, X, np.inf)[0]
    np.testing.assert_allclose(model.denoise(Z, np.inf), expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(model.denoise(1e12 * Z, 1e15), expected, rtol=0, atol=1e-2)
    for scale, sigma in ((1.0, 1e-30), (1e6, 1e-3), (1e15, 1e15), (1e-20, 1e-20)):
        posterior = model.posterior(scale * Z, sigma)
        assert np.isfinite(posterior.mean).all()
        assert np.isfinite(posterior.effective_sample_size).all()


def test_one_image_comes_back(rng):
    X = rng.standard_normal((1, 2, 6, 5))
    Z = rng.standard_normal((3, 2, 6, 5))
    for size in (1, 3, 9):
        model = LocalScoreDenoiser(size).fit(X)
        for sigma in (0.0, 0.3, 50.0, np.inf):
            np.testing.assert_allclose(model.denoise(Z, sigma) - X, 0, atol=1e-13)


# ----------------------------------------------------------- what is the same as what


@pytest.mark.parametrize("size", [11, 15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_windows_beyond_the_image_are_the_empirical_denoiser(size, dtype, device, rng):
    X = rng.integers(0, 256, (20, 3, 6, 5), dtype=np.uint8)
    Z = (X[:4] / 127.5 - 1 + rng.standard_normal((4, 3, 6, 5))).astype(dtype)
    sigma = [0.05, 0.5, 1.0, 4.0]
    expected = EmpiricalDenoiser(device=device).fit(X).posterior(Z, sigma)
    options = {} if size == 11 else KINDS["broken"]
    got = LocalScoreDenoiser(size, device=device, **options).fit(X).posterior(Z, sigma)
    atol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(got.mean, expected.mean, rtol=0, atol=atol)
    np.testing.assert_allclose(got.log_evidence, expected.log_evidence, rtol=1e-5)
    np.testing.assert_allclose(got.effective_sample_size, expected.effective_sample_size, rtol=1e-4)


@pytest.mark.parametrize("size", [5, 7])
def test_broken_by_windows_as_large_as_the_image_is_local(size, rng):
    X, Z = rng.standard_normal((8, 2, 5, 5)), rng.standard_normal((3, 2, 5, 5))
    expected = fitted("local", size, X).posterior(Z, 0.7)
    got = fitted("broken", size, X).posterior(Z, 0.7)
    np.testing.assert_array_equal(got.mean, expected.mean)
    np.testing.assert_array_equal(got.log_evidence, expected.log_evidence)


def test_circular_commutes_with_shifts(rng):
    X, Z = rng.standard_normal((8, 2, 7, 6)), rng.standard_normal((3, 2, 7, 6))
    model = fitted("circular", 3, X)
    shifted = model.denoise(np.roll(Z, (2, -1), (2, 3)), 0.5)
    np.testing.assert_allclose(
        shifted, np.roll(model.denoise(Z, 0.5), (2, -1), (2, 3)), rtol=0, atol=1e-12
    )


def test_boundaries_agree_inside(rng):
    X, Z = rng.standard_normal((8, 2, 7, 6)), rng.standard_normal((3, 2, 7, 6))
    inside = ..., slice(2, -2), slice(2, -2)
    results = [
        fitted(kind, 5, X).denoise(Z, 0.5)[inside] for kind in ("circular", "zero", "broken")
    ]
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(results[2], results[0], rtol=0, atol=1e-12)


def test_a_flipped_world(kind, rng):
    X, Z = rng.standard_normal((8, 2, 5, 6)), rng.standard_normal((3, 2, 5, 6))
    expected = fitted(kind, 3, X).denoise(Z, 0.5)
    flipped = fitted(kind, 3, X[..., ::-1].copy()).denoise(Z[..., ::-1].copy(), 0.5)
    np.testing.assert_allclose(flipped[..., ::-1], expected, rtol=0, atol=1e-12)


def test_sizes_by_sigma_in_one_call(kind, rng):
    X, Z = rng.standard_normal((8, 1, 6, 6)), rng.standard_normal((4, 1, 6, 6))
    sigma = np.array([3.0, 0.1, 0.9, 0.2])
    schedule = PatchSchedule([0.1, 1.0, 3.0], [1, 3, 5])
    together = fitted(kind, schedule, X).denoise(Z, sigma)
    for i, size in enumerate([5, 1, 3, 1]):
        alone = fitted(kind, size, X).denoise(Z[[i]], sigma[i])
        np.testing.assert_allclose(together[[i]], alone, rtol=0, atol=1e-12)


def test_chunks_do_not_show(kind, photos, monkeypatch, rng):
    X = photos[:12, :, :9, :11]
    sigma = np.array([1e-9, 0.05, 0.4, 3.0])
    Z = photos[50:54, :, :9, :11] / 127.5 - 1
    Z = Z + sigma[:, None, None, None] * rng.standard_normal(Z.shape)
    weight = rng.uniform(0.1, 1, 12)
    expected = fitted(kind, 5, X, sample_weight=weight).posterior(Z, sigma)
    monkeypatch.setattr(patches, "_CHUNK_ROWS", {"cpu": 10})
    monkeypatch.setattr(patches, "_QUERY_ROWS", 30)
    got = fitted(kind, 5, X, sample_weight=weight).posterior(Z, sigma)
    np.testing.assert_allclose(got.mean, expected.mean, rtol=0, atol=1e-11)
    np.testing.assert_allclose(got.log_evidence, expected.log_evidence, rtol=1e-10)
    np.testing.assert_allclose(got.effective_sample_size, expected.effective_sample_size, rtol=1e-9)


# -------------------------------------------------------------------------- the dictionary


@pytest.mark.parametrize("n_rows", [1, 5, 12, 13, 40, 1000])
def test_dictionary(n_rows, rng):
    X = torch.from_numpy(rng.integers(0, 256, (5, 2, 5, 6), dtype=np.uint8))
    weight = torch.from_numpy(rng.uniform(1, 2, 5))
    dictionary = patches.PatchDictionary(TrainingSet(X, weight), (3, 3), (1, 1))
    assert len(dictionary) == 5 * 3 * 4
    assert dictionary.n_values == 18
    chunks = list(dictionary.chunks(n_rows))
    assert all(len(chunk.patches) <= max(n_rows, 4) for chunk in chunks)
    everything = [torch.cat(part) for part in zip(*chunks, strict=True)]
    for part, taken in zip(everything, dictionary.take(torch.arange(60)), strict=True):
        assert torch.equal(part, taken)
    number = 2 * 12 + 1 * 4 + 3
    assert torch.equal(everything[0][number], X[2, :, 1:4, 3:6].flatten())
    assert torch.equal(everything[1][number], X[2, :, 2, 4])
    assert everything[2].exp().sum() == pytest.approx(3 * 4)


# --------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("size", [2, 4])
def test_even_sizes_are_refused(kind, size, rng):
    X = rng.standard_normal((3, 1, 6, 6))
    neighbours = f"pass {size - 1} or {size + 1}"
    for given_size in (size, PatchSchedule([0.1, 1.0], [3, size])):
        with pytest.raises(ValueError, match=neighbours):
            fitted(kind, given_size, X)
    with pytest.raises(ValueError, match=f"at sigma = 0.5; {neighbours}"):
        fitted(kind, lambda sigma: size, X).denoise(X, 0.5)


@pytest.mark.parametrize("later", [{"patch_size": 4}, {"patch_size": 99}, {"boundary": "broken"}])
def test_parameters_set_later_count_from_the_next_fit(kind, later, rng):
    X = rng.standard_normal((3, 1, 6, 6))
    model = fitted(kind, 3, X)
    expected = model.denoise(X, 0.5)
    np.testing.assert_array_equal(model.set_params(**later).denoise(X, 0.5), expected)


@pytest.mark.parametrize("size", [0, -3])
def test_sizes_below_one_are_refused(size, rng):
    X = rng.standard_normal((3, 1, 6, 6))
    with pytest.raises(ValueError, match="patch_size"):
        fitted("local", size, X)
    with pytest.raises(ValueError, match="odd int of at least 1"):
        fitted("local", lambda sigma: size, X).denoise(X, 0.5)


@pytest.mark.parametrize("boundary", ["circular", "broken"])
def test_boundaries_of_windows_that_stay_are_refused(boundary, rng):
    with pytest.raises(ValueError, match="pass equivariant=True too, or boundary='zero'"):
        LocalScoreDenoiser(boundary=boundary).fit(rng.standard_normal((3, 1, 6, 6)))


@pytest.mark.parametrize("kind", ["circular", "zero"])
def test_without_inner_patches(kind, rng):
    X = rng.standard_normal((3, 1, 6, 9))
    for size in (7, PatchSchedule([0.1, 1.0], [3, 7])):
        with pytest.raises(ValueError, match=re.escape("pass at most 5, or boundary='broken'")):
            fitted(kind, size, X)
    with pytest.raises(ValueError, match="larger than the image"):
        fitted(kind, lambda sigma: 7, X).denoise(X, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted("broken", 7, X).denoise(X, 0.5)
        fitted("local", 13, X).denoise(X, 0.5)


# --------------------------------------------------------------------- published schedules


@pytest.mark.parametrize(
    ("network", "first", "last"),
    [
        ("cifar10-unet", 3, 25),
        ("cifar10-resnet", 3, 17),
        ("mnist-unet", 3, 27),
        ("fashion-mnist-unet", 3, 25),
    ],
)
def test_published_schedules(network, first, last):
    schedule = local_score_schedule(network)
    assert len(schedule.sigmas) == len(schedule.sizes) == 20
    assert schedule.sizes == sorted(schedule.sizes)
    assert all(size % 2 for size in schedule.sizes)
    assert (schedule(0.0), schedule(np.inf)) == (first, last)
    beta = 1 - np.cos(np.arange(20) / 20 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.sigmas, np.sqrt(beta / (1 - beta)), atol=1e-12)
    with pytest.raises(ValueError, match="network must be one of 'cifar10-unet'"):
        local_score_schedule("vit")


# ---------------------------------------------------------------------- the published code

PUBLISHED = {"local": "local", "equivariant_circular": "circular", "boundary": "broken"}
CASES = [
    (name, sigma, size) for name in PUBLISHED for sigma, size in ((0.3, 3), (1.0, 7), (2.0, 11))
]


@pytest.fixture(scope="module")
def published(shared):
    """Stored arrays, training images, and clean test images in [-1, 1]."""
    arrays = dict(np.load(shared / "reference" / "local-score.npz"))
    stem = shared / "data" / "cifar10-32x32"
    train = images(f"{stem}.zip", tuple(arrays["train_index"].tolist()))
    test = images(f"{stem}-test.zip", tuple(arrays["test_index"].tolist()))
    return arrays, train, test.astype(np.float32) / 127.5 - 1


@pytest.mark.parametrize(("name", "sigma", "size"), CASES)
def test_published_code(published, device, name, sigma, size):
    arrays, train, clean = published
    level = float(arrays[f"sigma_{sigma}"])
    noisy = clean + np.float32(level) * arrays["noise"][: len(clean)]
    mean = fitted(PUBLISHED[name], size, train, device=device).denoise(noisy, level)
    expected = arrays[f"{name}_sigma{sigma}_patch{size}"]
    np.testing.assert_allclose(mean, expected, rtol=0, atol=2e-4)


def test_no_published_case_is_left_out(published):
    arrays, *_ = published
    assert {f"{name}_sigma{sigma}_patch{size}" for name, sigma, size in CASES} == {
        name for name in arrays if "_patch" in name
    }


def test_padded_windows_compare_all_of_their_pixels():
    """Also where the image is smaller; along an axis of one pixel there is no padding."""
    assert Centred(3, "zero").n_values((5, 2, 4)) == 45
    assert Centred(3, "circular").n_values((5, 1, 2)) == 15
    assert Centred(3, "zero").n_values((5, 1, 1)) == 5
