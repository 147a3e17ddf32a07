"""Metrics of pairs and of sets against formulas written here."""

import math
import pickle
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn import config_context

import oracle
from skpspc import EmpiricalDenoiser
from skpspc.inspection import (
    cosine,
    fid,
    kid,
    memorised_fraction,
    mse,
    nearest_training_distance,
    nearest_training_images,
    pearson_r,
    psnr,
    r2_score,
    ssim,
)

PAIRED = [mse, psnr, pearson_r, r2_score, cosine]


def formula(metric, x, y, span):
    """One pair of flat images, number by number."""
    d = len(x)
    error = math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / d
    if metric is mse:
        return error
    if metric is psnr:
        return 10 * math.log10(span**2 / error)
    if metric is r2_score:
        mean = math.fsum(x) / d
        return 1 - error / (math.fsum((a - mean) ** 2 for a in x) / d)
    x_mean, y_mean = (math.fsum(v) / d if metric is pearson_r else 0.0 for v in (x, y))
    product = math.fsum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    squares = [math.fsum((a - mean) ** 2 for a in v) for v, mean in ((x, x_mean), (y, y_mean))]
    return product / math.sqrt(squares[0] * squares[1])


@pytest.fixture
def pair(rng):
    """Images in [-1, 1], and what is near to them."""
    x = rng.uniform(-1, 1, (7, 3, 5, 4))
    return x, x + 0.1 * rng.standard_normal(x.shape)


@pytest.mark.parametrize("metric", PAIRED)
def test_pairs_against_the_formula(metric, pair):
    x, y = pair
    result = metric(x, y, data_range=(-1, 2))
    expected = [
        formula(metric, *(v.ravel().tolist() for v in one), 3) for one in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(result.values, expected, rtol=1e-12)
    np.testing.assert_allclose(float(result), np.mean(expected), rtol=1e-12)
    assert (result.name, result.n, result.data_range) == (metric.__name__, 7, (-1, 2))
    error = np.std(expected, ddof=1) / math.sqrt(7)
    np.testing.assert_allclose(result.standard_error, error, rtol=1e-10)


@pytest.mark.parametrize("metric", PAIRED)
def test_containers_and_uint8_agree(metric, rng):
    x, y = rng.integers(0, 256, (2, 5, 1, 4, 4), dtype=np.uint8)
    as_float = [oracle.as_float(v).reshape(v.shape) for v in (x, y)]
    expected = metric(*as_float).values
    for one, other in [
        (x, y),
        (torch.from_numpy(x), y),
        (x.reshape(5, 16), torch.from_numpy(y).view(5, 16)),
        (list(x), as_float[1]),
    ]:
        np.testing.assert_allclose(metric(one, other).values, expected, rtol=1e-12)
    halves = [torch.from_numpy(v).to(torch.bfloat16) for v in as_float]
    np.testing.assert_allclose(
        metric(*halves).values, metric(*(v.double() for v in halves)).values, rtol=1e-12
    )


@pytest.mark.parametrize("metric", PAIRED)
def test_pairs_are_read_in_chunks(metric, rng):
    x, y = rng.uniform(-1, 1, (2, 40, 5000))
    expected = metric(x, y).values
    with config_context(working_memory=1):  # MiB: four pairs at once
        np.testing.assert_array_equal(metric(x, y).values, expected)


def test_what_is_called_r2_differs(pair):
    """A prediction that is off by a factor and a constant: r is 1, R^2 is not."""
    x, _ = pair
    y = 0.5 * x + 0.2
    np.testing.assert_allclose(pearson_r(x, y).values, 1)
    assert (r2_score(x, y).values < 0.9).all()
    assert (cosine(x, y).values < 0.99).all()
    np.testing.assert_allclose(pearson_r(x, -y).values, -1)
    np.testing.assert_allclose(r2_score(x, x).values, 1)
    assert psnr(x, x) == math.inf


def test_r2_is_not_symmetric(pair):
    x, y = pair
    assert abs(r2_score(x, y) - r2_score(y, x, data_range=(-2, 2))) > 1e-4


@pytest.mark.parametrize("value", [0.0, 0.1, -1.0])
def test_constant_images_have_no_r(value):
    varied = np.linspace(-1, 1, 12).reshape(1, 1, 3, 4)
    constant = np.full_like(varied, value)
    x, y = np.concatenate([varied, constant]), np.concatenate([varied, varied])
    for metric in (pearson_r, r2_score):
        with pytest.warns(UserWarning, match=r"\(NaN\) for 1 of 2 pairs, .* does not vary"):
            result = metric(x, y)
        np.testing.assert_array_equal(np.isnan(result.values), [False, True])
        assert result.n == 1
        np.testing.assert_allclose(float(result), 1)
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(pearson_r(constant, varied))
    assert math.isfinite(r2_score(varied, constant))


def test_cosine_of_zeros_is_undefined():
    with pytest.warns(UserWarning, match=r"cosine is undefined .* an image is zero"):
        assert math.isnan(cosine(np.zeros((1, 4)), np.ones((1, 4))))


def test_measurements_are_floats(pair):
    result = mse(*pair)
    assert isinstance(result, float)
    assert result < 0.02 < 10 * result
    assert f"{result:.3f}" == f"{float(result):.3f}"
    copied = pickle.loads(pickle.dumps(result))
    assert copied == result
    np.testing.assert_array_equal(copied.values, result.values)
    assert repr(copied) == repr(result)
    assert "n=7" in repr(result)
    assert "data_range=(-1, 1)" in repr(result)
    assert math.isnan(mse(pair[0][:1], pair[1][:1]).standard_error)


@pytest.mark.filterwarnings("error")
def test_exact_estimates_have_no_standard_error(pair):
    exact = psnr(pair[0], pair[0])
    assert exact == math.inf
    assert math.isnan(exact.standard_error)


@pytest.mark.parametrize("metric", [*PAIRED, ssim])
def test_bad_pairs(metric, pair):
    if metric is ssim:
        pytest.importorskip("skimage", reason="scikit-image is not installed (extra metrics)")
    x, y = pair
    with pytest.raises(ValueError, match=r"shape \(3, 5, 4\).*\(3, 4, 5\)"):
        metric(x, y.transpose(0, 1, 3, 2))
    with pytest.raises(ValueError, match="7 images and X_pred 6"):
        metric(x, y[:6])
    with pytest.raises(ValueError, match="X_true holds no images"):
        metric(x[:0], y[:0])
    with pytest.raises(ValueError, match="add the channel axis"):
        metric(x[:, 0], y[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        metric(x, np.where(y > 0.5, np.nan, y))
    with pytest.raises(ValueError, match="low < high"):
        metric(x, y, data_range=(1, -1))
    with pytest.raises(ValueError, match="low < high"):
        metric(x, y, data_range=2.0)
    with pytest.warns(UserWarning, match="beyond data_range"):
        metric(x * 100, y * 100)


def slow_ssim(x, y, span):
    """Wang et al., Eq. 13, of two channels (H, W): windows of 11, sigma 1.5, that fit."""
    offset = np.arange(-5, 6)
    weight = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    total = []
    for i in range(5, x.shape[0] - 5):
        for j in range(5, x.shape[1] - 5):
            a, b = (v[i - 5 : i + 6, j - 5 : j + 6] for v in (x, y))
            ma, mb = (weight * a).sum(), (weight * b).sum()
            va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
            cov = (weight * (a - ma) * (b - mb)).sum()
            total.append(
                (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
            )
    return np.mean(total)


class TestSSIM:
    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("skimage", reason="scikit-image is not installed (extra metrics)")

    def test_against_the_formula(self, rng):
        x = rng.uniform(-1, 1, (2, 3, 14, 13))
        y = x + 0.3 * rng.standard_normal(x.shape)
        expected = [
            np.mean([slow_ssim(a, b, 2) for a, b in zip(one, other, strict=True)])
            for one, other in zip(x, y, strict=True)
        ]
        result = ssim(x, y)
        np.testing.assert_allclose(result.values, expected, rtol=1e-10)
        assert abs(ssim(x, y, data_range=(-1.5, 1.5)) - result) > 1e-4

    @pytest.mark.parametrize(
        "shape", [(4, 1, 8, 8), (4, 3, 2, 5), (4, 2, 1, 30), (4, 30), (4, 1, 1, 1), (4, 1, 6, 1)]
    )
    def test_small_images_and_signals(self, rng, shape):
        x = rng.uniform(-1, 1, shape)
        y = np.clip(x + 0.5 * rng.standard_normal(shape), -1, 1)
        np.testing.assert_allclose(ssim(x, x).values, 1)
        assert (ssim(x, y).values < 1).all()
        assert ssim(x, y).n == 4

    def test_flat_images_are_signals(self, rng):
        x, y = rng.uniform(-1, 1, (2, 3, 30))
        upright = ssim(x.reshape(3, 1, 30, 1), y.reshape(3, 1, 30, 1))
        np.testing.assert_array_equal(ssim(x, y).values, upright.values)


def test_ssim_names_the_extra_where_it_is_missing(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ImportError, match=r"skpspc\[metrics\]"):
        ssim(*pair)


# Sets


def two_features(images):
    """Means and spreads: a feature that is not linear."""
    flat = images.flatten(1)
    return torch.stack([flat.mean(1), flat.std(1), flat.square().mean(1)], 1)


def numbers(images):
    return images.flatten(1)


def test_fid_against_the_formula(rng):
    x, y = rng.uniform(-1, 1, (30, 1, 3, 3)), rng.uniform(-1, 0.5, (40, 1, 3, 3))
    a, b = (two_features(torch.from_numpy(v).float()).double().numpy() for v in (x, y))
    s, t = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(s @ t)
    assert np.abs(np.imag(root)).max() < 1e-8
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * np.real(root))
    result = fid(x, y, two_features)
    np.testing.assert_allclose(float(result), expected, rtol=1e-6)
    assert (result.n, result.n_reference) == (40, 30)
    np.testing.assert_allclose(fid(y, x, two_features), result, rtol=1e-10)
    np.testing.assert_allclose(fid(x, y, two_features, batch_size=7), result, rtol=1e-6)


def test_fid_of_fewer_images_than_features(rng):
    """Covariances without full rank: two sets that span different planes."""
    x = np.zeros((4, 6))
    x[:, 0] = [-1, 1, -1, 1]
    y = np.zeros((4, 6))
    y[:, 1] = [-0.5, 0.5, -0.5, 0.5]
    # tr S + tr T, and nothing in common
    np.testing.assert_allclose(fid(x, y, numbers), 4 / 3 + 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(fid(x, x, numbers), 0, atol=1e-12)
    np.testing.assert_allclose(fid(x, x / 2, numbers), 4 / 3 * (1 - 0.5) ** 2, rtol=1e-6)


def slow_kid(a, b):
    def kernel(u, v):
        return (float(u @ v) / len(u) + 1) ** 3

    def within(rows):
        pairs = [kernel(u, v) for i, u in enumerate(rows) for j, v in enumerate(rows) if i != j]
        return np.mean(pairs)

    return within(a) + within(b) - 2 * np.mean([kernel(u, v) for u in a for v in b])


def test_kid_against_the_formula(rng):
    x, y = rng.uniform(-1, 1, (12, 1, 3, 3)), rng.uniform(-1, 0.5, (9, 1, 3, 3))
    a, b = (two_features(torch.from_numpy(v).float()).double().numpy() for v in (x, y))
    result = kid(x, y, two_features)
    np.testing.assert_allclose(float(result), slow_kid(a, b), rtol=1e-8)
    assert (result.n, result.n_reference, len(result.values)) == (9, 12, 1)


def test_kid_of_subsets_is_unbiased(rng):
    x, y = rng.standard_normal((60, 4)), rng.standard_normal((60, 4)) + 0.5
    whole = kid(x, y, numbers, data_range=(-5, 5))
    subsets = kid(x, y, numbers, subset_size=20, n_subsets=400, data_range=(-5, 5))
    assert len(subsets.values) == 400
    assert abs(subsets - whole) < 4 * subsets.standard_error
    again = kid(x, y, numbers, subset_size=20, n_subsets=400, data_range=(-5, 5))
    np.testing.assert_array_equal(subsets.values, again.values)


class SmallFeature(torch.nn.Module):
    """Six numbers of an RGB image of any size."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 6, 3)

    def forward(self, images):
        return self.convolution(images.float()).tanh().mean((2, 3))


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance. will save")
def test_sets_against_torchmetrics(rng):
    missing = "torchmetrics is not installed (extra metrics)"
    fid_of = pytest.importorskip("torchmetrics.image.fid", reason=missing).FrechetInceptionDistance
    kid_of = pytest.importorskip("torchmetrics.image.kid", reason=missing).KernelInceptionDistance
    torch.manual_seed(0)
    feature = SmallFeature()
    x, y = rng.uniform(-1, 1, (40, 3, 6, 5)), rng.uniform(-1, 0.5, (40, 3, 6, 5))
    for ours, metric in (
        (fid, fid_of(feature)),
        (kid, kid_of(feature, subsets=1, subset_size=40)),
    ):
        metric.update(torch.from_numpy(x).float(), real=True)
        metric.update(torch.from_numpy(y).float(), real=False)
        expected = metric.compute()
        expected = expected[0] if ours is kid else expected
        np.testing.assert_allclose(ours(x, y, feature), expected, rtol=1e-4)


def test_features_see_floats(rng):
    seen = []

    def feature(images):
        seen.append(images)
        return np.asarray(images.flatten(1))

    x = rng.integers(0, 256, (5, 1, 2, 2), dtype=np.uint8)
    fid(x, oracle.as_float(x).reshape(x.shape), feature, batch_size=3)
    assert [batch.shape for batch in seen] == 2 * [(3, 1, 2, 2), (2, 1, 2, 2)]
    assert all(batch.dtype == torch.float32 for batch in seen)
    np.testing.assert_allclose(seen[0], seen[2], atol=1e-7)
    assert float(seen[0].min()) >= -1


@pytest.mark.parametrize("metric", [fid, kid])
def test_bad_sets(metric, rng):
    x = rng.uniform(-1, 1, (5, 1, 2, 2))
    with pytest.raises(ValueError, match=r"shape \(5, n_features\), got shape \(5, 1, 2, 2\)"):
        metric(x, x, lambda images: images)
    with pytest.raises(ValueError, match="at least two images"):
        metric(x, x[:1], numbers)
    with pytest.raises(ValueError, match="reshape one of them"):
        metric(x, x.reshape(5, 4), numbers)
    with pytest.raises(ValueError, match="NaN"):
        metric(x, x, lambda images: numbers(images) * torch.nan)
    with pytest.raises(ValueError, match=r"feature must be a function of images.*got None"):
        metric(x, x, None)


@pytest.mark.parametrize("wrong", [{"subset_size": 1}, {"subset_size": 10.5}, {"n_subsets": 1.5}])
def test_bad_subsets(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be an int of at least"):
        kid(np.eye(3), np.eye(3), numbers, **wrong)


# Training images


def slow_distances(x, train):
    """(n, N)."""
    x, train = oracle.as_float(x), oracle.as_float(train)
    return np.sqrt(((x[:, None] - train[None]) ** 2).mean(-1))


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_nearest_against_the_formula(kind, rng):
    train = rng.integers(0, 256, (50, 2, 3, 4), dtype=np.uint8)
    x = train[rng.permutation(50)[:9]].astype(np.float64) / 127.5 - 1
    x += 0.4 * rng.standard_normal(x.shape)
    train = train if kind == "uint8" else (train / 127.5 - 1).astype(kind)
    expected = slow_distances(x, train)
    order = expected.argsort(1)[:, :5]
    distances, indices = nearest_training_images(x, train, n_neighbors=5)
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(distances, np.take_along_axis(expected, order, 1), rtol=1e-6)
    result = nearest_training_distance(torch.from_numpy(x), train, data_range=(-1, 1))
    np.testing.assert_allclose(result.values, expected.min(1), rtol=1e-6)
    assert (result.n, result.n_reference) == (9, 50)
    everything, _ = nearest_training_images(x, train, n_neighbors=50)
    np.testing.assert_allclose(everything, np.sort(expected, 1), rtol=1e-6)


def test_nearest_is_the_same_in_chunks(rng):
    train = rng.uniform(-1, 1, (64, 4000))
    x = train[:20] + 0.1 * rng.standard_normal((20, 4000))
    expected = nearest_training_images(x, train, 3)
    with config_context(working_memory=1):
        for got, wanted in zip(nearest_training_images(x, train, 3), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_nearest_of_tiny_distances_is_exact():
    """Far from zero, where distances by products of matrices would be noise."""
    train = 1000.0 + np.array([[0.0, 0.0], [1e-6, 0.0], [1.0, 0.0]])
    distances, indices = nearest_training_images(train[:1] + np.array([[9e-7, 0.0]]), train, 2)
    np.testing.assert_array_equal(indices, [[1, 0]])
    np.testing.assert_allclose(distances * np.sqrt(2), [[1e-7, 9e-7]], rtol=1e-4)


def test_ties_go_to_the_first(digits):
    train = np.concatenate([digits[:5], digits[:5]])
    distances, indices = nearest_training_images(digits[:5], train, 2)
    np.testing.assert_array_equal(distances, 0)
    np.testing.assert_array_equal(indices, np.c_[np.arange(5), np.arange(5, 10)])


def test_memorised_against_the_rule(rng):
    train = rng.uniform(-1, 1, (20, 6))
    x = np.concatenate([train[:5] + 0.05, train[5:10] + rng.uniform(-0.8, 0.8, (5, 6))])
    nearest, second = np.sort(slow_distances(x, train), 1)[:, :2].T
    for ratio in (1 / 3, 0.8):
        result = memorised_fraction(x, train, ratio=ratio)
        np.testing.assert_array_equal(result.values, nearest < ratio * second)
        assert result == np.mean(nearest < ratio * second)
    assert 0 < memorised_fraction(x, train) < 1


def test_copies_of_duplicates_are_memorised(digits):
    """The nearest and the second nearest are both no distance away."""
    train = np.concatenate([digits[:5], digits[:5]])
    assert memorised_fraction(digits[:5], train) == 1
    close = oracle.as_float(digits[:5]).reshape(5, 1, 8, 8) + 1e-7
    assert memorised_fraction(close, train, data_range=(-1, 1)) == 1


def test_the_empirical_denoiser_memorises(digits):
    train = digits[:100]
    samples = EmpiricalDenoiser().fit(train).sample(6, random_state=0)
    assert memorised_fraction(samples, train) == 1
    np.testing.assert_allclose(nearest_training_distance(samples, train), 0, atol=1e-6)


def test_bad_training_images(rng):
    x = rng.uniform(-1, 1, (4, 6))
    with pytest.raises(ValueError, match="between 1 and the number of training images, 4, got 5"):
        nearest_training_images(x, x, 5)
    with pytest.raises(ValueError, match=r"n_neighbors must be an int .* got 1\.5"):
        nearest_training_images(x, x, 1.5)
    with pytest.raises(ValueError, match="needs at least 2 training images, got 1"):
        memorised_fraction(x, x[:1])
    with pytest.raises(ValueError, match="ratio"):
        memorised_fraction(x, x, ratio=0)
    with pytest.raises(ValueError, match="reshape one of them"):
        nearest_training_distance(x, x[:, :5])
    with pytest.raises(ValueError, match="X_train holds no images"):
        nearest_training_distance(x, x[:0])
    with pytest.warns(UserWarning, match="beyond data_range"):
        nearest_training_distance(x, 10 * x)
