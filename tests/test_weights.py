"""Sample weights that span many decades, in every kernel, against slow formulas in long numbers."""

import mpmath as mp
import numpy as np
import pytest

import oracle
from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
)

SHAPE = (1, 4, 3)
WEIGHTS = {
    "light": [1, 1, 1, 1e-16, 1],
    "decades": [1, 1e-4, 1e-8, 1e-12, 1e-16],
    "dust": [1, 1e-40, 1e-300, 1e-120, 1],
    "heavy": [1e300, 1, 1e-5, 1e20, 1],
}
SIGMAS = (1e-3, 0.02, 0.1, 0.5, 5.0)
mp.mp.dps = 60


@pytest.fixture(params=WEIGHTS)
def weight(request):
    return WEIGHTS[request.param]


@pytest.fixture
def X():
    return np.random.default_rng(3).uniform(-1, 1, (5, *SHAPE))


def noisy(X, sigma):
    """An image of little weight with noise, and something between two images."""
    noise = np.random.default_rng(4).standard_normal((3, *SHAPE))
    return np.stack([X[3], X[2], (X[0] + X[3]) / 2]) + sigma * noise


def log_weights(Z, X, sigma, masks, weight):
    """Log posterior weights (n, K, N) through windows, float128."""
    z, x = (oracle.as_float(images).astype(np.longdouble) for images in (Z, X))
    prior = np.log(np.asarray(weight, np.longdouble))
    squares = np.square(z[:, None] - x) @ np.asarray(masks, np.longdouble).T  # (n, N, K)
    logit = (prior[:, None] - squares / (2 * np.longdouble(sigma) ** 2)).transpose(0, 2, 1)
    peak = logit.max(2, keepdims=True)
    return logit - peak - np.log(np.exp(logit - peak).sum(2, keepdims=True))


def composite(Z, X, sigma, masks, weight, responses=None):
    """Posterior mean (n, D)."""
    w = np.exp(log_weights(Z, X, sigma, masks, weight))
    responses = np.asarray(masks if responses is None else responses, np.longdouble)
    means = w @ oracle.as_float(X).astype(np.longdouble)  # (n, K, D)
    return ((means * responses).sum(1) / responses.sum(0)).astype(np.float64)


def centred_masks(size):
    """The window around every pixel, cut at the edges, as masks."""
    reach = size // 2
    rows, columns = np.indices(SHAPE[1:]).reshape(2, -1)
    near = [np.abs(at[:, None] - at) <= reach for at in (rows, columns)]
    return near[0] & near[1]


def blurred(Z, X, sigma, bandwidth, weight):
    """Posterior mean of whole images blurred along their covariance, by mpmath."""
    prior = mp.matrix([mp.mpf(float(w)) for w in weight])
    prior /= sum(prior)
    x = [mp.matrix(row.tolist()) for row in oracle.as_float(X)]
    mean = sum((p * row for p, row in zip(prior, x, strict=True)), mp.zeros(len(x[0]), 1))
    deviation = [row - mean for row in x]
    cov = mp.zeros(len(mean))
    for p, d in zip(prior, deviation, strict=True):
        cov += p * (d * d.T)
    h, sigma = mp.mpf(bandwidth), mp.mpf(sigma)
    precision = (h**2 * cov + sigma**2 * mp.eye(len(mean))) ** -1
    y = [mp.sqrt(1 - h**2) * d for d in deviation]
    answers = []
    for row in oracle.as_float(Z):
        z = mp.matrix(row.tolist()) - mean
        logit = [
            mp.log(p) - ((z - one).T * precision * (z - one))[0] / 2
            for p, one in zip(prior, y, strict=True)
        ]
        peak = max(logit)
        w = [mp.exp(v - peak) for v in logit]
        centre = sum((v / sum(w) * one for v, one in zip(w, y, strict=True)), mp.zeros(len(z), 1))
        answer = mean + centre + h**2 * cov * precision * (z - centre)
        answers.append([float(v) for v in answer])
    return np.array(answers)


def blurred_in_squares(Z, X, sigma, bandwidth, weight, size):
    z, x = oracle.as_float(Z), oracle.as_float(X)
    total, count = np.zeros(z.shape), np.zeros(z.shape[1])
    for mask in oracle.square_masks(size, SHAPE):
        total[:, mask] += blurred(z[:, mask], x[:, mask], sigma, bandwidth, weight)
        count[mask] += 1
    return total / count


HEAT = np.random.default_rng(5).uniform(0, 1, (12, 12)) ** 4 + np.eye(12)
HEAT = HEAT.reshape(1, 4, 3, 4, 3)


@pytest.mark.parametrize(
    "model",
    [
        EmpiricalDenoiser(),
        PatchDenoiser(2, location="all"),
        PSPCDenoiser(2),
        PSPCDenoiser(2, flip=True, max_shift=1),
        PSPCDenoiser(windows=FlexibleWindows(HEAT, 0.5, [1.0])),
        PosteriorMeanCollection(),
        LocalScoreDenoiser(3),
        LocalScoreDenoiser(3, equivariant=True, boundary="broken"),
    ],
    ids=["empirical", "patch", "squares", "moves", "masks", "collection", "local", "everywhere"],
)
def test_the_weights_sum_to_one(model):
    """Equal images are the answer, although images of tiny weight are left out."""
    weight = [1.0] + [4e-14] * 19
    model.fit(np.full((20, 2, *SHAPE[1:]), 0.7), sample_weight=weight)
    answer = model.denoise(np.random.default_rng(1).standard_normal((3, 2, *SHAPE[1:])), 0.5)
    np.testing.assert_allclose(answer, 0.7, rtol=0, atol=1e-14)


WHOLE = oracle.whole_mask(SHAPE)
KERNELS = {
    "dense": (EmpiricalDenoiser(), WHOLE, None),
    "tolerant": (EmpiricalDenoiser(tol=1e-9), WHOLE, None),
    "neighbours": (EmpiricalDenoiser(n_neighbors=5), WHOLE, None),
    "box": (PSPCDenoiser(2), oracle.square_masks(2, SHAPE), None),
    "box-torch": (PSPCDenoiser(2, engine="torch"), oracle.square_masks(2, SHAPE), None),
    "collection": (
        PosteriorMeanCollection(np.reshape(oracle.square_masks(2, SHAPE), (6, *SHAPE)) * 1.0),
        oracle.square_masks(2, SHAPE),
        None,
    ),
    "local": (LocalScoreDenoiser(3), centred_masks(3), np.eye(12)),
    "broken": (
        LocalScoreDenoiser(7, equivariant=True, boundary="broken"),
        centred_masks(7),
        np.eye(12),
    ),
    "masks": (PSPCDenoiser(windows=FlexibleWindows(HEAT, 0.6, [1.0])), None, None),
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("sigma", "dtype"),
    [*((sigma, np.float64) for sigma in SIGMAS), *((sigma, np.float32) for sigma in SIGMAS[1:])],
)
def test_posterior_means(name, sigma, dtype, X, weight, device):
    model, masks, responses = KERNELS[name]
    X = X.astype(dtype)
    Z = noisy(X, sigma).astype(dtype)
    model.set_params(device=device).fit(X, sample_weight=weight)
    if masks is None:
        masks = model._prior_of().windows_at(sigma).masks(SHAPE).query.flatten(1).numpy()
    expected = composite(Z, X, sigma, masks, weight, responses)
    answer = model.denoise(Z, sigma).reshape(len(Z), -1)
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-9 if dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_pca_locality(sigma, X, weight):
    model = PCALocalityDenoiser().fit(X, sample_weight=weight)
    Z = noisy(X, sigma)
    expected = composite(Z, X, sigma, model.neighbours(sigma).T, weight, np.eye(12))
    np.testing.assert_allclose(model.denoise(Z, sigma).reshape(3, -1), expected, atol=1e-9)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_patches_that_look_everywhere(sigma, X, weight, device):
    model = LocalScoreDenoiser(3, equivariant=True, boundary="circular", device=device)
    Z = noisy(X, sigma)
    padded = np.pad(Z, [(0, 0), (0, 0), (1, 1), (1, 1)], mode="wrap")[:, 0]
    windows = [
        np.lib.stride_tricks.sliding_window_view(a, (3, 3), (1, 2)) for a in (padded, X[:, 0])
    ]
    queries, patches = (w.reshape(len(w), -1, 9) for w in windows)
    every = patches.reshape(-1, 9)
    prior = np.repeat(np.array(weight, float), patches.shape[1])
    logs = log_weights(queries.reshape(-1, 9), every, sigma, np.ones((1, 9)), prior)
    expected = np.exp(logs[:, 0]) @ every[:, 4]
    answer = model.fit(X, sample_weight=weight).denoise(Z, sigma)
    np.testing.assert_allclose(answer.ravel(), expected.astype(float), atol=1e-9)


@pytest.mark.parametrize("bandwidth", [1e-3, 0.3, 0.9])
@pytest.mark.parametrize("sigma", [1e-4, *SIGMAS])
def test_blurred_images(sigma, bandwidth, X, weight, device):
    Z = noisy(X, sigma)
    options = dict(bandwidth=bandwidth, device=device)
    whole = EmpiricalDenoiser(**options).fit(X, sample_weight=weight).denoise(Z, sigma)
    expected = blurred(Z, X, sigma, bandwidth, weight)
    np.testing.assert_allclose(whole.reshape(3, -1), expected, rtol=0, atol=1e-6)
    inside = PSPCDenoiser(2, **options).fit(X, sample_weight=weight).denoise(Z, sigma)
    expected = blurred_in_squares(Z, X, sigma, bandwidth, weight, 2)
    np.testing.assert_allclose(inside.reshape(3, -1), expected, rtol=0, atol=1e-6)
    if sigma >= 0.02:
        model = PSPCDenoiser(2, **options).fit(X.astype(np.float32), sample_weight=weight)
        inside = model.denoise(Z.astype(np.float32), sigma)
        np.testing.assert_allclose(inside.reshape(3, -1), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.3])
def test_a_window_keeps_what_a_light_image_alone_varies(sigma):
    """Once off by 1.1: directions of little variance were left out of the comparison."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (3, 1, 8, 8))
    Z = X[2:] + sigma * rng.standard_normal((1, 1, 8, 8))
    weight = [1, 1, 1e-16]
    model = PSPCDenoiser(5, bandwidth=1e-3).fit(X, sample_weight=weight)
    expected = PSPCDenoiser(5).fit(X, sample_weight=weight).denoise(Z, sigma)
    np.testing.assert_allclose(model.denoise(Z, sigma), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sigma", [1e-4, *SIGMAS])
def test_gaussian(sigma, X, weight, device):
    Z = noisy(X, sigma)
    for n, shape in ((5, SHAPE), (5, (1, 1, 3))):  # fewer and more images than values
        x, z = (images.reshape(len(images), -1)[:n, : np.prod(shape)] for images in (X, Z))
        model = GaussianDenoiser(device=device).fit(x, sample_weight=weight)
        expected = blurred(z, x, sigma, 1, weight)
        np.testing.assert_allclose(model.denoise(z, sigma), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_jacobians(sigma, dtype, X, weight, device):
    X = X.astype(dtype)
    Z = noisy(X, sigma).astype(dtype)
    w = np.exp(log_weights(Z, X, sigma, WHOLE, weight))[:, 0]
    x = oracle.as_float(X).astype(np.longdouble)
    deviation = x - (w @ x)[:, None]  # (n, N, D)
    expected = np.einsum("bn,bnp,bnq->bpq", w, deviation, deviation) / np.longdouble(sigma) ** 2
    model = EmpiricalDenoiser(device=device).fit(X, sample_weight=weight)
    jacobian = model.jacobian(Z, sigma).reshape(3, 12, 12)
    # relative to the largest entry, however small all of them are
    scale = np.maximum(np.abs(expected).max((1, 2), keepdims=True), 1e-20).astype(np.float64)
    atol = 1e-6 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(jacobian / scale, expected / scale, rtol=0, atol=atol)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_attribution_and_leaving_out(sigma, X, weight, device):
    Z = noisy(X, sigma)
    masks = oracle.square_masks(2, SHAPE)
    model = PSPCDenoiser(2, device=device).fit(X, sample_weight=weight)
    w = np.exp(log_weights(Z, X, sigma, masks, weight))  # (n, K, N)
    share = np.einsum("bkn,kp->bpn", w, np.asarray(masks, float) / np.sum(masks, 0)).mean(1)
    found = model.attribute(Z, sigma, top=5).image_share
    np.testing.assert_allclose(found, share.astype(float), rtol=0, atol=1e-9)
    for out in (0, 3, [0, 4], [0, 1, 4]):
        rest = np.setdiff1d(np.arange(5), out)
        expected = composite(Z, X[rest], sigma, masks, np.array(weight)[rest])
        left = model.denoise_without(Z, sigma, [out])[0].reshape(3, -1)
        np.testing.assert_allclose(left, expected, rtol=0, atol=1e-9)


def test_weights_that_add_up_to_infinity_are_refused(X):
    for weight in ([1.7e308, 1.6e308, 1, 1, 1], np.full(5, 1e308)):
        with pytest.raises(ValueError, match=r"adds up to more than 1.8e\+308; divide"):
            EmpiricalDenoiser().fit(X, sample_weight=weight)


def test_one_patch_of_light_images(X, weight):
    Z = noisy(X, 0.1)
    model = PatchDenoiser(2, location="all").fit(X, sample_weight=weight)
    answer = model.denoise(Z, 0.1)
    for k, mask in enumerate(oracle.square_masks(2, SHAPE)):
        expected = composite(Z, X, 0.1, [mask], weight, np.ones((1, 12)))[:, mask]
        np.testing.assert_allclose(answer[:, k].reshape(3, -1), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 13, 21, 26, 29, 33, 36])
def test_squares_in_float32_where_one_image_outweighs_all(seed):
    """Weights were off by up to 1e-4 where light images make up for their weight by being near."""
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    rng = np.random.default_rng(seed)
    n, channels, size = int(rng.integers(2, 60)), int(rng.choice([1, 3])), int(rng.integers(1, 7))
    shape = channels, *rng.integers(size, 14, 2)
    X = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    if seed % 2:
        X = (X / 127.5 - 1).astype(np.float32)
    sigma = float(np.exp(rng.uniform(np.log(0.02), np.log(0.2))))
    weight = np.full(n, 10.0 ** -rng.uniform(3, 30))
    weight[0] = 1
    clean = oracle.as_float(X).reshape(X.shape)[rng.integers(n, size=(2, 2))]
    Z = clean.mean(1) + sigma * rng.standard_normal((2, *shape))
    Z = Z.astype(np.float32)
    masks = oracle.square_masks(size, shape)
    expected = composite(Z, X, sigma, masks, weight)
    answer = PSPCDenoiser(size, engine="numba").fit(X, sample_weight=weight).denoise(Z, sigma)
    np.testing.assert_allclose(answer.reshape(2, -1), expected, rtol=0, atol=5e-6)
