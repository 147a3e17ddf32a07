"""Jacobians and heat maps, against automatic differentiation of the slow formula."""

import importlib.util
import pickle
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import oracle
from helpers import fit_quietly
from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from skpspc.inspection import (
    SensitivityDisplay,
    heat_maps,
    locality_radius,
    save_heat_maps,
    spread_heat_maps,
)

SHAPE = (2, 3, 4)
SIGMA = [0.4, 1.5]

# ------------------------------------------------------------------ the slow formula


def slow_denoise(z, x, sigma, query, response, prior):
    """D(z), (D,), differentiable: z (D,), x (N, D), query and response (K, D), prior (N,)."""
    distance = torch.einsum("kp,ip->ki", query, (z - x).square())
    weight = torch.softmax(prior.log() - distance / (2 * sigma**2), 1)
    return torch.einsum("kp,ki,ip->p", response, weight, x) / response.sum(0)


def slow_jacobian(Z, X, sigma, query, response=None, prior=None):
    """(n, D, D) by torch.autograd, in float64."""
    x = torch.from_numpy(oracle.as_float(X))
    z = torch.from_numpy(oracle.as_float(Z))
    prior = torch.ones(len(x)) if prior is None else torch.from_numpy(prior)
    prior = prior.double() / prior.sum()
    query = torch.from_numpy(np.asarray(query, dtype=np.float64))
    response = query if response is None else torch.from_numpy(np.asarray(response, np.float64))

    def jacobian(row, level):
        def denoise(at):
            return slow_denoise(at, x, level, query, response, prior)

        return torch.autograd.functional.jacobian(denoise, row)

    levels = np.broadcast_to(sigma, len(z))
    return np.stack([jacobian(*one).numpy() for one in zip(z, levels, strict=True)])


def flat(jacobian):
    """(n, D, D) of (n, H W, C, C, H, W), all pixels."""
    n, n_pixels, channels = jacobian.shape[:3]
    return np.moveaxis(jacobian, 2, 1).reshape(n, channels * n_pixels, -1)


def case(shape=SHAPE, n=14, seed=3):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    sigma = np.array(SIGMA)
    Z = X[:2] / 127.5 - 1 + sigma[:, None, None, None] * rng.standard_normal((2, *shape))
    return X, Z, sigma, rng


def local_masks(size, shape):
    """Odd squares around every pixel, one for each coordinate, and the coordinate itself."""
    channels, height, width = shape
    masks = np.zeros((channels, height, width, *shape), dtype=bool)
    for y in range(height):
        for x in range(width):
            rows = slice(max(0, y - size // 2), y + size // 2 + 1)
            columns = slice(max(0, x - size // 2), x + size // 2 + 1)
            masks[:, y, x, :, rows, columns] = True
    n = int(np.prod(shape))
    return masks.reshape(n, n), np.eye(n)


def pca_masks(X, sigma, threshold):
    """Whose column n holds the neighbours of coordinate n; by rows here."""
    cov = np.cov(oracle.as_float(X).T, ddof=0)
    W = cov @ np.linalg.inv(cov + sigma**2 * np.eye(len(cov)))
    M = np.abs(W / np.diag(W)[:, None])
    return (threshold * M.max() <= M).T, np.eye(len(cov))


def heat_array(rng, shape=SHAPE):
    n = shape[1] * shape[2]
    heat = rng.random((1, n, n)) + 2 * np.eye(n)
    return heat.reshape(1, *shape[1:], *shape[1:])


def soft_precisions(heat, threshold, shape=SHAPE):
    """Precisions (K, D) of soft windows from one level of heat."""
    rows = heat.reshape(shape[1] * shape[2], -1)
    out = []
    for row in rows:
        kept = [row[row <= value].sum() >= (1 - threshold) * row.sum() for value in row]
        out.append(np.tile(row / row.max() * kept, shape[0]))
    return np.array(out)


def check(model, X, Z, sigma, query, response=None, weight=None, source=None):
    """Compare with the slow formula, all pixels and both noise levels at once."""
    fit_quietly(model, X, sample_weight=weight)
    source = X if source is None else source
    prior = None if weight is None else np.resize(weight, len(source))
    exact = slow_jacobian(Z, source, sigma, query, response, prior)
    got = model.jacobian(Z, sigma)
    assert got.dtype == np.float64
    np.testing.assert_allclose(flat(got), exact, rtol=0, atol=1e-11)
    single = flat(model.jacobian(Z.astype(np.float32), sigma))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, rtol=0, atol=2e-5 * max(1, np.abs(exact).max()))
    return exact


@pytest.mark.parametrize("weighted", [False, True])
def test_empirical(weighted, device):
    X, Z, sigma, rng = case()
    weight = rng.random(len(X)) + 0.2 if weighted else None
    query = oracle.whole_mask(SHAPE)
    exact = check(EmpiricalDenoiser(device=device), X, Z, sigma, query, weight=weight)
    # a covariance: symmetric, positive semidefinite
    np.testing.assert_allclose(exact, exact.transpose(0, 2, 1), atol=1e-12)
    assert np.linalg.eigvalsh(exact).min() > -1e-12


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_pspc_square(size, flip, device):
    X, Z, sigma, rng = case()
    weight = rng.random(len(X)) + 0.2
    masks = oracle.square_masks(size, SHAPE)
    source = np.concatenate([X, X[..., ::-1]]) if flip else X
    check(PSPCDenoiser(size, flip=flip, device=device), X, Z, sigma, masks, None, weight, source)


def test_pspc_schedule_per_image():
    X, Z, sigma, _ = case()
    model = PSPCDenoiser(lambda s: 1 if s < 1 else 3).fit(X)
    got = flat(model.jacobian(Z, sigma))
    for i, size in enumerate((1, 3)):
        exact = slow_jacobian(Z[[i]], X, sigma[[i]], oracle.square_masks(size, SHAPE))
        np.testing.assert_allclose(got[[i]], exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("threshold", [0.6, 1.0])
def test_pspc_flexible(threshold, device):
    X, Z, sigma, rng = case()
    heat = heat_array(rng)
    precisions = soft_precisions(heat, threshold)
    for soft, query in ((True, precisions), (False, precisions > 0)):
        windows = FlexibleWindows(heat, threshold, [1.0], soft=soft)
        check(PSPCDenoiser(windows=windows, device=device), X, Z, sigma, query)


@pytest.mark.parametrize("size", [1, 3, 9])
def test_local_score(size, device):
    X, Z, sigma, _ = case()
    check(LocalScoreDenoiser(size, device=device), X, Z, sigma, *local_masks(size, SHAPE))


def test_pca_locality(device):
    X, Z, sigma, _ = case(n=60)
    for level in sigma:
        masks = pca_masks(X, level, 0.1)
        assert 1 < masks[0].sum(1).mean() < 20
        check(PCALocalityDenoiser(0.1, device=device), X, Z, level, *masks)


@pytest.mark.parametrize("source", ["images", "flips"])
def test_collection(source, device):
    X, Z, sigma, rng = case()
    query = rng.random((5, *SHAPE)) * (rng.random((5, *SHAPE)) < 0.7)
    response = rng.random((5, *SHAPE)) * (rng.random((5, *SHAPE)) < 0.7)
    response[0] += 0.1
    both = np.concatenate([X, X[..., ::-1]]) if source == "flips" else X
    model = PosteriorMeanCollection(query, response, source=source, device=device)
    parts = query.reshape(5, -1), response.reshape(5, -1)
    check(model, X, Z, sigma, *parts, source=both)


def test_gaussian(device):
    X, Z, sigma, rng = case(n=60)
    weight = rng.random(60) + 0.1
    model = GaussianDenoiser(device=device).fit(X, sample_weight=weight)
    got = flat(model.jacobian(Z, sigma))
    cov = np.cov(oracle.as_float(X).T, ddof=0, aweights=weight)
    for i, level in enumerate(sigma):
        exact = cov @ np.linalg.inv(cov + level**2 * np.eye(len(cov)))
        np.testing.assert_allclose(got[i], exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("location", ["center", (0, 1)])
def test_patch(location, device):
    """It answers for the patch, and is moved by it alone."""
    shape = (2, 5, 4)
    X, Z, sigma, _ = case(shape)
    top, left = (1, 0) if location == "center" else location
    model = PatchDenoiser(3, location=location, device=device).fit(X)
    area = ..., slice(top, top + 3), slice(left, left + 3)
    crop = np.ascontiguousarray(X[area])
    inside = Z[area].reshape(2, -1)
    exact = slow_jacobian(inside, crop, sigma, oracle.whole_mask(inside.shape[1:]))
    whole = model.jacobian(Z, sigma)
    assert whole.shape == (2, 9, 2, 2, 5, 4)
    np.testing.assert_allclose(flat(whole[area]), exact, atol=1e-11)
    np.testing.assert_allclose(np.abs(whole).sum(), np.abs(exact).sum(), rtol=1e-12)
    of_patches = model.jacobian(Z[area], sigma)
    np.testing.assert_allclose(flat(of_patches), exact, atol=1e-11)


# ------------------------------------------------------- what all of them have in common


def linear(x, c):
    """Mixes neighbours, and is told the noise level."""
    moved = 0.5 * x + 0.25 * x.roll(1, 3) + 0.1 * x.flip(1)
    return torch.tanh(moved) / (1 + c.view(-1, 1, 1, 1))


def families(rng, X):
    heat = heat_array(rng)
    members = [("gaussian", GaussianDenoiser()), ("pspc", PSPCDenoiser(2))]
    return {
        "empirical": EmpiricalDenoiser(),
        "blurred": EmpiricalDenoiser(bandwidth=0.4),
        "linear": EmpiricalDenoiser(bandwidth=1.0),
        "pspc": PSPCDenoiser(2),
        "global": PSPCDenoiser(2, bandwidth=lambda s: 0.6 if s < 1 else 0.0, smoothing="global"),
        "flip": PSPCDenoiser(2, flip=True, bandwidth=0.3, smoothing="global"),
        "stationary": PSPCDenoiser(2, bandwidth=0.3, smoothing="stationary"),
        "whole": PSPCDenoiser(9, bandwidth=0.5),
        "flexible": PSPCDenoiser(windows=FlexibleWindows(heat, 0.7, [1.0])),
        "local": LocalScoreDenoiser(3),
        "zero": LocalScoreDenoiser(3, equivariant=True),
        "broken": LocalScoreDenoiser(3, equivariant=True, boundary="broken"),
        "pca": PCALocalityDenoiser(0.1),
        "batches": PCALocalityDenoiser(0.1, softmax="batchwise", batch_size=16),
        "translates": PosteriorMeanCollection(rng.random((3, *SHAPE)), source="translates"),
        "own filters": PSPCDenoiser(2, bandwidth=0.5),
        "gaussian": GaussianDenoiser(),
        "rank": GaussianDenoiser(3),
        "shrunk": GaussianDenoiser(shrinkage=0.3),
        "collection": PosteriorMeanCollection(rng.random((3, *SHAPE))),
        "smoothed": SmoothedDenoiser(PSPCDenoiser(2), tau=0.3, n_draws=3),
        "blended": BlendedDenoiser(members, sigmas=[0.3, 2.0], n_images=8),
        "x0": NetworkDenoiser(linear, dtype="float64"),
        "eps": NetworkDenoiser(linear, "eps", dtype="float64", network_range=(0, 1)),
        "edm": NetworkDenoiser(linear, "edm", dtype="float64"),
        "flow": NetworkDenoiser(linear, "flow", dtype="float64", batch_size=1),
    }


NAMES = list(families(np.random.default_rng(0), None))


@pytest.mark.parametrize("name", NAMES)
def test_finite_differences_of_the_answer(name):
    X, Z, sigma, rng = case(n=40)
    model = fit_quietly(families(rng, X)[name], X)
    got = flat(model.jacobian(Z, sigma))
    D, step = Z[0].size, 1e-5
    for i in range(len(Z)):
        shifts = step * np.eye(D).reshape(D, *SHAPE)
        up, down = (model.denoise(Z[i] + sign * shifts, sigma[i]) for sign in (1, -1))
        slope = (up - down).reshape(D, D).T / (2 * step)
        np.testing.assert_allclose(got[i], slope, rtol=0, atol=1e-6)
    assert np.abs(got).max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_pixels_and_the_mean_over_images(name):
    X, Z, sigma, rng = case(n=40)
    model = fit_quietly(families(rng, X)[name], X)
    every = model.jacobian(Z, sigma)
    pixels = [(2, 3), (0, 1), (2, 3)]
    some = model.jacobian(Z, sigma, pixels)
    np.testing.assert_allclose(some, every[:, [11, 1, 11]], rtol=0, atol=1e-13)
    heat = np.abs(every).sum((2, 3))
    np.testing.assert_allclose(model.sensitivity(Z, sigma), heat.mean(0), rtol=1e-10, atol=1e-15)
    weighted = model.sensitivity(Z, sigma, pixels, sample_weight=[1.0, 3.0])
    mean = np.average(heat, axis=0, weights=[1, 3])
    np.testing.assert_allclose(weighted, mean[[11, 1, 11]], rtol=1e-10, atol=1e-15)
    as_torch = model.jacobian(torch.from_numpy(Z.reshape(2, -1)), sigma, torch.tensor(pixels))
    np.testing.assert_array_equal(as_torch.numpy(), some)


def test_little_memory_changes_nothing(digits):
    from sklearn import config_context

    model = PSPCDenoiser(3).fit(digits[:600])
    Z = digits[:3] / 127.5 - 1
    usual = model.sensitivity(Z, 0.5)
    with config_context(working_memory=0.02):
        scarce = model.sensitivity(Z, 0.5)
    np.testing.assert_allclose(scarce, usual, rtol=1e-9, atol=1e-12)


def test_far_noise_levels(digits, rng):
    """Nothing cancels where one image is all of a posterior, or none is nearer."""
    X = digits[:100]
    Z = (X[:2] / 127.5 - 1 + 0.3 * rng.standard_normal((2, 1, 8, 8))).astype(np.float32)
    for model in (EmpiricalDenoiser(), PSPCDenoiser(8 - 1), LocalScoreDenoiser(13)):
        model.fit(X)
        assert not model.jacobian(Z, 1e-4).any()
        assert not model.jacobian(Z, np.inf).any()
        far = model.jacobian(Z, 1e4)
        np.testing.assert_allclose(far, model.jacobian(Z.astype(float), 1e4), atol=1e-11)
        assert far.any()


# ------------------------------------------------------------------------------ networks


def test_convolution_with_a_known_jacobian():
    """Correlation with a kernel: output (y, x) is moved by input (y + i, x + j) by k[i, j]."""
    kernel = torch.arange(1.0, 19.0, dtype=torch.float64).view(1, 2, 3, 3) / 20
    network = torch.nn.Conv2d(2, 2, 3, padding=1, dtype=torch.float64)
    network.weight.data[:] = torch.cat([kernel, -2 * kernel])
    model = NetworkDenoiser(lambda x, c: network(x), image_shape=(2, 5, 6), dtype="float64")
    Z = np.random.default_rng(0).standard_normal((2, 2, 5, 6))
    got = model.jacobian(Z, 0.7, pixels=[(2, 3), (0, 0)])
    exact = np.zeros((2, 2, 2, 5, 6))
    for out, factor in enumerate((1, -2)):
        exact[0, out, :, 1:4, 2:5] = factor * kernel[0]
        exact[1, out, :, :2, :2] = factor * kernel[0, :, 1:, 1:]
    for row in got:
        np.testing.assert_allclose(row, exact, atol=1e-14)
    heat = heat_maps(model, Z, [0.7], pixels=[(2, 3)])[0, 0]
    np.testing.assert_allclose(heat, np.abs(exact[0]).sum((0, 1)), atol=1e-13)
    assert locality_radius(heat[None], 1.0, pixels=[(2, 3)]) == 3


class BiasFree(torch.nn.Module):
    """Convolutions without bias and ReLUs: piecewise linear, and homogeneous."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        widths = [(1, 8), (8, 8), (8, 1)]
        self.layers = torch.nn.ModuleList(
            [torch.nn.Conv2d(*width, 3, padding=1, bias=False) for width in widths]
        )
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x, c):
        for layer in self.layers[:-1]:
            x = self.dropout(torch.relu(layer(x)))
        return self.layers[-1](x)


def test_a_bias_free_network_is_its_jacobian():
    """D(z) = J(z) z (Mohan et al., 2020, Eq. 2)."""
    network = BiasFree().double().train()
    model = NetworkDenoiser(network, image_shape=(1, 6, 7))
    Z = np.random.default_rng(1).standard_normal((3, 1, 6, 7))
    J = flat(model.jacobian(Z, 0.3))
    answer = model.denoise(Z, 0.3).reshape(3, -1)
    np.testing.assert_allclose(np.einsum("bpq,bq->bp", J, Z.reshape(3, -1)), answer, atol=1e-12)
    assert np.abs(J[0] - J[1]).max() > 1e-3  # it is not linear
    assert network.training and network.dropout.training
    assert all(weight.grad is None for weight in network.parameters())


def load_networks(shared):
    path = shared / "networks" / "networks.py"
    if not path.is_file():
        pytest.skip(f"no networks in '{path.parent}'")
    spec = importlib.util.spec_from_file_location("shared_networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_jacobian_of_a_bias_free_dncnn(shared):
    """In its own pixels, u = z / 2 + 1/2, the network is J(u) u: each row predicts its pixel."""
    network = load_networks(shared).gray_bf_dncnn()
    model = NetworkDenoiser(network, condition="float", image_shape=(1, 24, 24))
    y, x = np.mgrid[:24, :24] / 24
    clean = (np.sin(7 * x) * np.cos(5 * y) / 2).astype(np.float32)
    rng = np.random.default_rng(0)
    Z = (clean + 0.2 * rng.standard_normal((2, 1, 24, 24))).astype(np.float32)
    pixels = [(12, 12), (0, 3), (20, 9)]
    J = model.jacobian(Z, 0.2, pixels)[:, :, 0, 0]  # (2, 3, 24, 24)
    predicted = np.einsum("bmij,bij->bm", J, Z[:, 0] / 2 + 0.5) * 2 - 1
    answer = model.denoise(Z, 0.2)[:, 0]
    exact = np.stack([answer[:, row, column] for row, column in pixels], 1)
    np.testing.assert_allclose(predicted, exact, atol=1e-4)
    # filters of an average: they add up to about one, and are local
    assert 0.5 < J.sum((2, 3)).min() <= J.sum((2, 3)).max() < 1.5
    heat = np.abs(J).mean(0)
    assert (locality_radius(heat, 0.5, pixels=pixels) < 24).all()


def test_networks_without_a_jacobian():
    Z = np.zeros((1, 1, 2, 2), dtype=np.float32)

    def model(network, **options):
        return NetworkDenoiser(network, image_shape=(1, 2, 2), **options)

    def outside(x, c):
        return torch.from_numpy(x.detach().numpy() / 2)

    for condition in ("tensor", "float"):
        with pytest.raises(ValueError, match="the network's output has no gradient"):
            model(outside, condition=condition).jacobian(Z, 0.5)
        assert model(outside, condition=condition).denoise(Z, 0.5).shape == Z.shape
    with pytest.raises(ValueError, match="no gradient"):
        model(lambda x, c: torch.ones_like(x), parametrization="eps").jacobian(Z, 0.5)
    with pytest.raises(ValueError, match="must be finite for a network"):
        model(lambda x, c: x / 2).jacobian(Z, np.inf)
    # at sigma = 0 the image is the answer
    np.testing.assert_array_equal(flat(model(lambda x, c: x / 2).jacobian(Z, 0.0))[0], np.eye(4))


@pytest.mark.parametrize("place", ["float64", "meta"])
def test_a_network_on_another_device_or_dtype(place):
    layer = torch.nn.Linear(4, 4, dtype=torch.float64)

    def network(x, c):
        return x.to("meta") if place == "meta" else layer(x)

    model = NetworkDenoiser(network, image_shape=(1, 4, 4))
    Z = np.zeros((1, 1, 4, 4), dtype=np.float32)
    for ask in (model.denoise, model.jacobian, model.sensitivity):
        with pytest.raises(ValueError, match=r"float32 on cpu .*pass the device"):
            ask(Z, 0.5)
    with pytest.raises(ValueError, match="pass the device and dtype"):
        heat_maps(model, Z, [0.5])
    if place == "float64":
        model.set_params(dtype="float64")
        assert model.jacobian(Z, 0.5).dtype == np.float32
        module = NetworkDenoiser(torch.nn.Sequential(), image_shape=(1, 4, 4))
        module.network.add_module("0", layer)
        module.network.forward = lambda x, c: layer(x)  # whose dtype is known
        np.testing.assert_array_equal(module.jacobian(Z, 0.5), model.jacobian(Z, 0.5))


def test_other_errors_of_a_network_are_its_own():
    def broken(x, c):
        raise RuntimeError("no luck today")

    with pytest.raises(RuntimeError, match="no luck"):
        NetworkDenoiser(broken, image_shape=(1, 2, 2)).denoise(np.zeros((1, 1, 2, 2)), 0.5)


# ----------------------------------------------------------------------------- heat maps


def test_heat_maps_by_definition():
    X, _, _, _ = case()
    model = PSPCDenoiser(2).fit(X)
    heat = heat_maps(model, X, [1.0, 0.2], n_images=5, random_state=4)
    assert heat.shape == (2, 3, 4, 3, 4)
    some = heat_maps(model, X, [0.2], n_images=5, random_state=4, pixels=[(1, 2)])
    np.testing.assert_allclose(some[0, 0], heat[1, 1, 2], rtol=1e-5, atol=1e-9)
    # one image, one level: the noise of row 0 is that of `draw_noise`
    from skpspc.sampling import draw_noise

    one = heat_maps(model, X[3:4].astype(np.float64), [0.7], random_state=1)
    Z = X[3:4] + 0.7 * draw_noise(SHAPE, 1, 1).numpy()
    exact = slow_jacobian(Z, X, 0.7, oracle.square_masks(2, SHAPE))[0]
    exact = np.abs(exact.reshape(2, 12, 2, 12)).sum((0, 2)).reshape(3, 4, 3, 4)
    np.testing.assert_allclose(one[0], exact, rtol=0, atol=1e-10)


def test_heat_maps_of_flat_and_torch_images_are_alike(digits):
    model = PSPCDenoiser(3).fit(digits[:200])
    args = dict(sigmas=[0.5], pixels=[(4, 4)], n_images=6)
    heat = heat_maps(model, digits, **args)
    for X in (digits.reshape(len(digits), -1), torch.from_numpy(digits.copy())):
        np.testing.assert_array_equal(heat_maps(model, X, **args), heat)
    assert np.abs(heat_maps(model, digits, random_state=1, **args) - heat).max() > 1e-4
    assert type(heat) is np.ndarray and heat.dtype == np.float64


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sigmas": []}, "sigmas must be a sequence of at least one noise level"),
        ({"sigmas": 0.5}, "sigmas must be a sequence of at least one noise level"),
        ({"sigmas": [0.5, 0.5]}, "sigmas must be distinct"),
        ({"sigmas": [0.5, -1.0]}, "sigmas must be finite and non-negative"),
        ({"sigmas": [np.nan]}, "sigmas must be finite"),
        ({"sigmas": [0.0]}, "sigma must be positive, got 0: there the denoised image is a step"),
        ({"n_images": 15}, "n_images=15 is more than the 14 images of X; pass at most 14"),
        ({"n_images": 0}, "n_images must be an int of at least 1"),
        ({"n_images": 2.5}, "n_images must be an int of at least 1"),
        ({"pixels": [(3, 0)]}, r"image of 3 x 4 pixels, got \(row 3, column 0\)"),
        ({"pixels": [(0, -1)]}, r"got \(row 0, column -1\)"),
        ({"pixels": []}, r"pixels must be \(row, column\) pairs"),
        ({"pixels": (1, 2)}, r"pixels must be \(row, column\) pairs"),
        ({"pixels": [(1.5, 2.0)]}, r"pixels must be \(row, column\) pairs of ints"),
        ({"X": np.zeros((3, 2, 4, 4))}, "X holds images of shape"),
        ({"X": np.zeros((0, 2, 3, 4))}, "X holds no images"),
        ({"X": []}, "X holds no images"),
        ({"X": np.zeros((2, 3, 4))}, "X must have shape .*; add the channel axis"),
        ({"X": np.full((3, 2, 3, 4), np.nan)}, "NaN"),
        ({"denoiser": BiasFree()}, "BiasFree has no sensitivity; wrap a network in NetworkDen"),
    ],
)
def test_bad_questions(options, sentence, tmp_path):
    X, *_ = case()
    asked = {"denoiser": PSPCDenoiser(2).fit(X), "X": X, "sigmas": [0.5], **options}
    with pytest.raises(ValueError, match=sentence):
        heat_maps(**asked)
    if "pixels" not in options:
        with pytest.raises(ValueError, match=sentence):
            save_heat_maps(tmp_path / "heat.npy", **asked)


def test_calls_without_a_jacobian():
    X, Z, _, _ = case()
    with pytest.raises(ValueError, match=r"no Jacobian: .* pass the location of one"):
        PatchDenoiser(2, location="all").fit(X).jacobian(Z, 0.5)
    with pytest.raises(NotFittedError):
        PSPCDenoiser(2).jacobian(Z, 0.5)
    with pytest.raises(ValueError, match="sigma must be one float or one per image"):
        PSPCDenoiser(2).fit(X).jacobian(Z, [0.5, 0.5, 0.5])


# -------------------------------------------------------------------------------- files


@pytest.fixture
def colours():
    X, *_ = case((2, 3, 4), n=30)
    return X


def test_a_file_of_heat_maps(colours, tmp_path):
    model = PSPCDenoiser(2).fit(colours)
    path = tmp_path / "heat.npy"
    heat = save_heat_maps(path, model, colours, [1.0, 0.2], n_images=4)
    assert isinstance(heat, np.memmap) and heat.dtype == np.float32 and not heat.flags.writeable
    exact = heat_maps(model, colours, [1.0, 0.2], n_images=4)
    for maps in exact.reshape(2, 12, 12):
        np.fill_diagonal(maps, maps.max(1))
    np.testing.assert_allclose(heat, exact, rtol=1e-5, atol=1e-7)
    before = path.stat().st_mtime_ns
    again = save_heat_maps(str(path), model, colours, [1.0, 0.2], n_images=4)
    np.testing.assert_array_equal(again, heat)
    assert path.stat().st_mtime_ns == before  # it is only opened


class Stops:
    """A denoiser that is interrupted after some calls."""

    def __init__(self, denoiser, n_calls):
        self.denoiser, self.n_left = denoiser, n_calls

    def __getattr__(self, name):
        return getattr(self.denoiser, name)

    def sensitivity(self, *args, **kwargs):
        if self.n_left == 0:
            raise KeyboardInterrupt
        self.n_left -= 1
        return self.denoiser.sensitivity(*args, **kwargs)


@pytest.mark.parametrize("kind", ["pspc", "network"])
def test_an_interrupted_run_goes_on(colours, tmp_path, kind):
    model = PSPCDenoiser(2) if kind == "pspc" else NetworkDenoiser(linear)
    model.fit(colours)
    args = colours, [1.0, 0.2]
    whole = save_heat_maps(tmp_path / "whole.npy", model, *args, n_images=4, random_state=2)
    path = tmp_path / "parts.npy"
    for n_calls in (0, 1, 3):
        with pytest.raises(KeyboardInterrupt):
            stops = Stops(model, n_calls)
            save_heat_maps(path, stops, *args, n_images=4, random_state=2)
        assert stops.n_left == 0
    left = Stops(model, 100)
    save_heat_maps(path, left, *args, n_images=4, random_state=2)
    assert left.n_left == 100 - (6 - 4)  # three rows at two levels, four of them done
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert np.abs(whole).min(initial=1, where=whole > 0) > 0


def test_a_file_of_another_run_is_refused(colours, tmp_path):
    model = PSPCDenoiser(2).fit(colours)
    path = tmp_path / "heat.npy"
    known = dict(denoiser=model, X=colours, sigmas=[1.0, 0.2], n_images=4, random_state=0)
    save_heat_maps(path, **known)
    content = path.read_bytes()
    others = {
        "sigmas": {"sigmas": [1.0, 0.3]},
        "images": {"n_images": 5},
        "random_state": {"random_state": 1},
        "answers": {"denoiser": PSPCDenoiser(3).fit(colours)},
    }
    for what, other in others.items():
        with pytest.raises(ValueError, match=rf"is of another run, with other .*{what}.*; choose"):
            save_heat_maps(path, **{**known, **other})
    with pytest.raises(ValueError, match="of another run"):
        save_heat_maps(path, **{**known, "sigmas": [1.0]})
    assert path.read_bytes() == content
    # the same model fitted anew gives the same answers: that is the same run
    save_heat_maps(path, **{**known, "denoiser": clone(model).fit(colours)})
    path.write_bytes(content[:-4])
    with pytest.raises(ValueError, match="is damaged; choose another name, or delete it"):
        save_heat_maps(path, **known)
    np.save(tmp_path / "mine.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"exists, and there is no 'mine.run.npz' beside it"):
        save_heat_maps(tmp_path / "mine.npy", **known)


def test_files_that_cannot_be_written(colours, tmp_path):
    model = PSPCDenoiser(2).fit(colours)
    with pytest.raises(ValueError, match=r"to a \.npy file"):
        save_heat_maps(tmp_path / "heat.npz", model, colours, [1.0])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save_heat_maps(tmp_path / "none" / "heat.npy", model, colours, [1.0])
    for state in (None, np.random.RandomState(0)):
        with pytest.raises(ValueError, match="random_state must be an int"):
            save_heat_maps(tmp_path / "heat.npy", model, colours, [1.0], random_state=state)
    with pytest.raises(ValueError, match="answers for patches, and FlexibleWindows"):
        patch = PatchDenoiser(2).fit(colours)
        save_heat_maps(tmp_path / "heat.npy", patch, colours, [1.0])
    with pytest.raises(ValueError, match="pass pixels"):
        heat_maps(patch, colours, [1.0])
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------- windows from a denoiser


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", ["pspc", "network", "local"])
def test_windows_from_any_denoiser(colours, tmp_path, soft, kind, device):
    """As the formula has them, of heat in which a pixel is the hottest of its own map."""
    models = {
        "pspc": PSPCDenoiser(2, device=device),
        "network": NetworkDenoiser(linear),
        "local": LocalScoreDenoiser(3, device=device),
    }
    model = models[kind].fit(colours)
    sigmas, thresholds = [1.0, 0.2], [0.9, 0.6]
    weight = np.arange(len(colours)) % 3 + 1.0
    direct = FlexibleWindows(model, thresholds, sigmas, soft=soft, n_images=100)
    direct = PSPCDenoiser(windows=direct, device=device).fit(colours, sample_weight=weight)
    clean = direct.windows_.heat._clean
    assert len(clean) == len(colours)
    for level, sigma in enumerate(sigmas):
        z = clean + sigma * direct.windows_.heat._noise
        heat = model.sensitivity(z, sigma, None, direct.windows_.heat._weight).cpu().numpy()
        flat_heat = heat.reshape(12, 12)
        largest = flat_heat.max(1)
        np.fill_diagonal(flat_heat, np.where(largest > 0, largest, 1))
        precision = soft_precisions(flat_heat, thresholds[level], (1, 3, 4))
        got = direct.windows_.at(level).flatten(1).cpu().numpy()
        expected = precision if soft else precision > 0
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    again = pickle.loads(pickle.dumps(direct)) if kind != "network" else direct
    Z = colours[:3] / 127.5 - 1.0
    np.testing.assert_array_equal(again.denoise(Z, 0.5), direct.denoise(Z, 0.5))


def test_a_file_and_a_denoiser_give_the_same_windows(digits, tmp_path):
    """Corner pixels of the digits are black always: they are windows of their own."""
    X = digits[:80]
    model = LocalScoreDenoiser(3).fit(X)
    save_heat_maps(tmp_path / "heat.npy", model, X, [0.3])
    from_file = FlexibleWindows(tmp_path / "heat.npy", 0.7, [0.3])
    file = PSPCDenoiser(windows=from_file).fit(X).windows_.at(0)
    direct = FlexibleWindows(model, 0.7, [0.3], n_images=80)
    masks = PSPCDenoiser(windows=direct).fit(X).windows_.at(0)
    assert masks[0].sum() == 1 and masks[0, 0, 0] == 1
    assert file[0].sum() == 1
    # the same images in another order, with other noise: nearly the same masks
    assert (file != masks).double().mean() < 0.05
    assert masks.flatten(1).sum(1).max() <= 9


def test_the_sensitivity_of_a_gaussian_denoiser_is_its_wiener_filter(colours):
    fitted = GaussianDenoiser().fit(colours)
    heat = fitted.sensitivity(colours[:2] / 127.5 - 1, 0.5)
    wiener = np.abs(fitted.wiener(0.5)).reshape(2, 12, 2, 12).sum((0, 2))
    np.testing.assert_allclose(heat.reshape(12, 12), wiener, rtol=1e-12)


def test_bad_denoisers_for_windows(colours):
    def fit(heatmaps, **options):
        return PSPCDenoiser(windows=FlexibleWindows(heatmaps, 0.5, [1.0], **options)).fit(colours)

    with pytest.raises(NotFittedError):
        fit(PSPCDenoiser(2))
    with pytest.raises(ValueError, match="both shapes must agree"):
        fit(PSPCDenoiser(2).fit(colours[:, :1]))
    with pytest.raises(ValueError, match="both shapes must agree"):
        fit(PatchDenoiser(2).fit(colours))
    with pytest.raises(ValueError, match="wrap a network in NetworkDenoiser"):
        fit(BiasFree())
    with pytest.raises(ValueError, match="'n_images' parameter"):
        fit(PSPCDenoiser(2).fit(colours), n_images=0)
    with pytest.raises(ValueError, match="the network returned NaN"):
        fit(NetworkDenoiser(lambda x, c: x * np.nan).fit(colours))
    windows = FlexibleWindows(PSPCDenoiser(2).fit(colours), 0.5, [0.5, 0.0])
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        PSPCDenoiser(windows=windows).fit(colours)


# ------------------------------------------------------------------------------- radius


def slow_radius(heat, row, column, fraction):
    """Side of the smallest odd square, by trying them."""
    if heat.sum() == 0:
        return 0
    for r in range(100):
        area = heat[max(0, row - r) : row + r + 1, max(0, column - r) : column + r + 1]
        if area.sum() >= fraction * heat.sum() * (1 - 1e-12):
            return 2 * r + 1


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9, 1.0])
def test_locality_radius_by_trying_squares(rng, fraction):
    heat = rng.random((2, 4, 5, 4, 5)) ** 6 * (rng.random((2, 4, 5, 4, 5)) < 0.5)
    heat[0, 1, 2] = 0
    got = locality_radius(heat, fraction)
    assert got.shape == (2, 4, 5)
    for at in np.ndindex(got.shape):
        assert got[at] == slow_radius(heat[at], *at[1:], fraction)
    assert got[0, 1, 2] == 0
    pixels = [(3, 1), (0, 4)]
    some = np.stack([heat[:, 3, 1], heat[:, 0, 4]], 1)
    np.testing.assert_array_equal(
        locality_radius(some, fraction, pixels=pixels), got[:, [3, 0], [1, 4]]
    )
    assert locality_radius(heat[0].tolist(), fraction).tolist() == got[0].tolist()


def test_spread_heat_depends_on_the_displacement_alone(rng):
    height, width = 4, 5
    kernel = rng.random((2, 2 * height - 1, 2 * width - 1))
    kernel[:, height - 1, width - 1] = 4.0  # a pixel's own heat
    heat = np.array(
        [
            [[[[k[i - y + 3, j - x + 4] for j in range(5)] for i in range(4)] for x in range(5)]
             for y in range(4)]
            for k in kernel
        ]
    )  # fmt: skip
    every = np.argwhere(np.ones((4, 5)))
    spread = spread_heat_maps(heat.reshape(2, 20, 4, 5), every)
    np.testing.assert_allclose(spread, heat, rtol=1e-12)
    corners = [(0, 0), (0, 4), (3, 0), (3, 4)]  # which have all displacements
    some = np.stack([heat[:, y, x] for y, x in corners], 1)
    np.testing.assert_allclose(spread_heat_maps(some, corners), heat, rtol=1e-12)
    one = spread_heat_maps(heat[:, 1, 2][:, None], [(1, 2)])
    np.testing.assert_array_equal(one[:, 1, 2], heat[:, 1, 2])
    assert (one[:, 3, 4, 0, 0] == 0).all()  # farther up than row 1 has neighbours
    mean = spread_heat_maps(np.stack([heat[0, 1, 2], 3 * heat[0, 2, 2]]), [(1, 2), (2, 2)])
    np.testing.assert_allclose(mean[1, 1, 1, 2], 2 * heat[0, 1, 1, 1, 2])


def test_spread_windows_hold_their_own_pixel():
    heat = np.zeros((2, 1, 3, 3))
    heat[0, 0, 1, 2] = 0.5  # something else moves the pixel, at the second level nothing
    spread = spread_heat_maps(heat, [(1, 1)])
    for y, x in np.ndindex(3, 3):
        np.testing.assert_array_equal(spread[:, y, x, y, x], [0.5, 1.0])
    windows = FlexibleWindows(spread, 0.3, [0.5, 1.0])
    PSPCDenoiser(windows=windows).fit(np.eye(9).reshape(9, 1, 3, 3))


def test_bad_heat_to_spread():
    heat, pixels = np.ones((1, 2, 3, 4)), [(0, 0), (1, 0)]
    with pytest.raises(ValueError, match="one for each of the maps"):
        spread_heat_maps(heat, [(0, 0)])
    with pytest.raises(ValueError, match="must lie in the denoised image of 3 x 4"):
        spread_heat_maps(heat, [(0, 0), (3, 0)])
    with pytest.raises(ValueError, match="pairs of ints"):
        spread_heat_maps(heat[:, :0], np.empty((0, 2), int))
    with pytest.raises(ValueError, match="pairs of ints"):
        spread_heat_maps(heat, [(0.0, 0.0), (1.0, 0.0)])
    with pytest.raises(ValueError, match="pairs of ints"):
        spread_heat_maps(heat, 5)
    with pytest.raises(ValueError, match=r"must have shape \(..., m, H, W\)"):
        spread_heat_maps(heat[0, 0], pixels)
    with pytest.raises(ValueError, match="got None"):
        spread_heat_maps(heat, None)
    for bad in (-1.0, np.nan):
        with pytest.raises(ValueError, match=r"\(row 1, column 0\) is negative or not finite"):
            spread_heat_maps(np.where(np.arange(2)[:, None, None] == 1, bad, heat), pixels)
    with pytest.raises(ValueError, match="real numbers"):
        spread_heat_maps(heat * 1j, pixels)


def test_bad_radii():
    heat = np.ones((1, 2, 3, 2, 3))
    for fraction in (0, 1.1, "all", np.nan):
        with pytest.raises(ValueError, match="fraction must be in"):
            locality_radius(heat, fraction)
    with pytest.raises(ValueError, match=r"\(row 0, column 0\) is negative or not finite"):
        locality_radius(-heat)
    with pytest.raises(ValueError, match=r"must have shape \(..., H, W, H, W\)"):
        locality_radius(heat[0, 0])
    with pytest.raises(ValueError, match="one for each of the maps"):
        locality_radius(heat[0, 0], pixels=[(0, 0)])
    with pytest.raises(ValueError, match="must lie in the denoised image of 2 x 3"):
        locality_radius(heat[0, 0, :1], pixels=[(0, 3)])


# ----------------------------------------------------------------------------- locality


def test_locality_grows_with_the_noise(digits):
    """The paper's schedule looks farther at large sigma; so does the linear denoiser."""
    sigmas = [0.1, 0.5, 2.0]
    middle = [(row, column) for row in (3, 4) for column in (3, 4)]
    for model in (PSPCDenoiser(), GaussianDenoiser()):
        model.fit(digits)
        heat = heat_maps(model, digits, sigmas, pixels=middle, n_images=8)
        radius = locality_radius(heat, 0.8, pixels=middle).mean(1)
        assert (np.diff(radius) >= 0).all() and radius[0] < radius[-1]


# ------------------------------------------------------------------------------ display


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (plot)")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def test_display_from_estimator(plt, digits):
    model = PSPCDenoiser(3).fit(digits[:200])
    display = SensitivityDisplay.from_estimator(model, digits, [0.2, 0.5, 2.0], n_images=3)
    assert display.axes_.shape == (2, 3)
    assert display.figure_ is display.axes_[1, 2].figure
    np.testing.assert_array_equal(display.pixels, [(4, 4), (2, 2)])
    heat = heat_maps(model, digits, [0.2, 0.5, 2.0], pixels=display.pixels, n_images=3)
    np.testing.assert_array_equal(display.heatmaps, heat)
    for (k, level), panel in np.ndenumerate(display.axes_):
        shown = panel.images[0].get_array()
        np.testing.assert_allclose(shown, heat[level, k] / heat[level, k].max())
        (square,) = panel.patches
        side = locality_radius(heat[level, [k]], pixels=display.pixels[[k]])[0]
        assert square.get_width() == square.get_height() == side == display.radii[level, k]
        x, y = np.add(square.get_xy(), side / 2)
        assert (y, x) == tuple(display.pixels[k])
    assert display.axes_[0, 1].get_title() == "σ = 0.5"
    title = " ".join(display.figure_.get_suptitle().split())
    assert title == "Heat maps of 2 output pixels against σ; PSPCDenoiser, mean of 3 noisy images"
    display.figure_.canvas.draw()


def test_display_from_predictions(plt, rng):
    heat = rng.random((2, 4, 6, 4, 6))
    heat[0, 2, 3] = 0
    figure, axes = plt.subplots(2, 2)
    display = SensitivityDisplay.from_predictions(heat, [0.2, 0.5], ax=axes, fraction=0.5)
    assert display.figure_ is figure and display.axes_[1, 1] is axes[1, 1]
    np.testing.assert_array_equal(display.heatmaps[:, 1], heat[:, 1, 1])
    assert not display.axes_[0, 0].patches and display.axes_[0, 0].get_xlabel() == "no heat"
    one = SensitivityDisplay.from_predictions(
        heat[:1, 0, :1], [0.2], pixels=[(0, 0)], ax=plt.figure().subplots(), colorbar=False
    )
    assert one.axes_.shape == (1, 1)
    assert one.plot() is one
    assert one.figure_ is not figure
    one.figure_.canvas.draw()


def test_bad_displays(plt, rng):
    heat = rng.random((2, 4, 6, 4, 6))
    show = SensitivityDisplay.from_predictions
    with pytest.raises(ValueError, match="sigmas must be one for each of the 2 levels"):
        show(heat, [0.5])
    with pytest.raises(ValueError, match=r"or .* with pixels="):
        show(heat[0], [0.5])
    with pytest.raises(ValueError, match="one for each of the maps"):
        show(heat[:, 0], [0.5, 1.0], pixels=[(0, 0)])
    with pytest.raises(ValueError, match="ax must hold 2 x 2 axes"):
        show(heat, [0.5, 1.0], ax=plt.figure().subplots(1, 3))


@pytest.mark.parametrize(
    "model", [EmpiricalDenoiser(), PSPCDenoiser(3), LocalScoreDenoiser(3)], ids=repr
)
def test_rows_of_images_with_weight_in_different_chunks(model, rng, monkeypatch):
    """All weight of the first noisy image is on a distant training image: its rows are zero."""
    monkeypatch.setattr(sys.modules["skpspc.posterior.jacobian"], "_CHUNK_ROWS", 2)
    X, pixels = rng.standard_normal((9, 1, 5, 4)), [(0, 0), (2, 3)]
    X[0] += 1e4
    rows = model.fit(X).jacobian(X[:2], 3.0, pixels)
    np.testing.assert_allclose(rows[0], 0, rtol=0, atol=1e-12)
    assert np.abs(rows[1]).max() > 1e-3
    monkeypatch.undo()
    np.testing.assert_allclose(rows[1:], model.jacobian(X[1:2], 3.0, pixels), rtol=0, atol=1e-12)
