"""Derivatives of denoisers, against numerical derivatives and automatic differentiation."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone

from skpspc import (
    AutoDenoiser,
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
    SingleImageDenoiser,
    SmoothedDenoiser,
    tapered_windows,
)
from skpspc.datasets import load_digits_images
from skpspc.posterior import products, select
from skpspc.support import (
    Centred,
    Masks,
    MirroredTrainingSet,
    Squares,
    TrainingSet,
    TranslatedTrainingSet,
    Whole,
)

SHAPE = (2, 4, 3)
LABELS = ["a", "b"] * 6
MASK = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]])


def images(n, *shape, seed=0):
    """Random float64 images on [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *shape, dtype=torch.float64, generator=generator) * 2 - 1


def differences(images):
    """One channel instead of two, and a nonlinear operator."""
    return (images[:, :1] - images[:, 1:]).square()


def denoisers():
    """Denoisers of images of SHAPE, by name; of "no sigma" sigma has no derivative."""
    soft = tapered_windows(SHAPE, 3)
    heat = np.random.default_rng(0).random((1, *SHAPE[1:], *SHAPE[1:]))
    return {
        "empirical": EmpiricalDenoiser(),
        "squares": PSPCDenoiser(patch_size=2),
        "one size per sigma": PSPCDenoiser(patch_size=lambda sigma: 2 if sigma < 0.8 else 3),
        "tapered squares": PSPCDenoiser(patch_size=3, query_taper=1.0),
        "squares and moved images": PSPCDenoiser(
            patch_size=3, response_taper=1.0, flip=True, max_shift=1
        ),
        "patch": PatchDenoiser(patch_size=2, location=(1, 1)),
        "all patches": PatchDenoiser(patch_size=2, location="all"),
        "local scores": LocalScoreDenoiser(patch_size=3),
        "zero": LocalScoreDenoiser(patch_size=3, equivariant=True, boundary="zero"),
        "circular": LocalScoreDenoiser(patch_size=3, equivariant=True, boundary="circular"),
        "broken": LocalScoreDenoiser(patch_size=3, equivariant=True, boundary="broken"),
        "missing pixels": LocalScoreDenoiser(patch_size=3, operator=MASK),
        "missing pixels, zero": LocalScoreDenoiser(
            patch_size=3, operator=MASK, equivariant=True, boundary="zero"
        ),
        "missing pixels, circular": LocalScoreDenoiser(
            patch_size=3, operator=MASK, equivariant=True, boundary="circular"
        ),
        "missing pixels, broken": LocalScoreDenoiser(
            patch_size=3, operator=MASK, equivariant=True, boundary="broken"
        ),
        "differences": LocalScoreDenoiser(patch_size=3, operator=differences),
        "differences of every other row": LocalScoreDenoiser(
            patch_size=3,
            operator=lambda images: differences(images[:, :, ::2]),
            equivariant=True,
            boundary="broken",
        ),
        "patches anywhere": SingleImageDenoiser(patch_size=3, stride=2),
        "two scales": SingleImageDenoiser(patch_size=2, scales=(1, 2)),
        "gaussian": GaussianDenoiser(),
        "low rank": GaussianDenoiser(rank=3, shrinkage=0.2),
        "flexible": PSPCDenoiser(windows=FlexibleWindows(heat, 0.7, [1.0])),
        "soft windows": PosteriorMeanCollection(query=soft, response=soft),
        "translates": PosteriorMeanCollection(query=soft, response=soft, source="translates"),
        "batchwise": PCALocalityDenoiser(softmax="batchwise", batch_size=5),
        "pca": PCALocalityDenoiser(),
        "smoothed": SmoothedDenoiser(PSPCDenoiser(patch_size=2), n_draws=3),
        "no sigma: bandwidth": EmpiricalDenoiser(bandwidth=0.5),
        "no sigma: own filters": PSPCDenoiser(patch_size=2, bandwidth=0.5),
        "no sigma: auto": AutoDenoiser(2, n_images=4, n_fitted=40),
        "no sigma: blend": BlendedDenoiser(
            [("a", EmpiricalDenoiser()), ("b", PSPCDenoiser(patch_size=2))], n_images=4
        ),
    }


def fitted(name, n=12):
    """The denoiser of this name; blends have no classes here, as these are too small."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = None if "blend" in name else LABELS
        return denoisers()[name].fit(images(n, *SHAPE), y)


def assert_gradients(function, *inputs):
    """Compare both modes of differentiation with differences along random directions."""
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True, check_forward_ad=True)


def noisy(n=2, seed=1):
    return images(n, *SHAPE, seed=seed) + 0.6 * images(n, *SHAPE, seed=seed + 1)


# ------------------------------------------------------------------ numerical derivatives


@pytest.mark.parametrize("name", denoisers())
def test_gradients_of_every_denoiser(name):
    model, z = fitted(name), noisy()
    if "differences" in name:
        z = differences(z)[:, :, :: 2 if "other row" in name else 1]
    z = z.requires_grad_()
    sigma = torch.tensor([0.6, 0.9], dtype=torch.float64, requires_grad=True)

    def both(z, sigma):
        posterior = model.posterior(z, sigma)
        return posterior.mean, posterior.log_evidence

    if name.startswith("no sigma"):
        fixed = sigma.detach()
        assert_gradients(lambda z: both(z, fixed), z)
        with pytest.raises(ValueError, match="no derivative by sigma"):
            model.denoise(z, sigma).sum().backward()
    else:
        assert_gradients(both, z, sigma)


@pytest.mark.parametrize(
    "name",
    ["empirical", "squares", "zero", "gaussian", "all patches", "missing pixels", "two scales"],
)
def test_gradients_with_classes_and_guidance(name):
    model, z = fitted(name), noisy().requires_grad_()
    for y, guidance in (("a", 1.0), (["b", "a"], 1.7), (["a", "a"], -0.5)):

        def denoise(z, y=y, guidance=guidance):
            return model.denoise(z, 0.7, y=y, guidance=guidance)

        assert_gradients(denoise, z)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("stored", ["float", "uint8"])
def test_products_for_all_windows(stored, mirrored):
    """Tangents equal central differences; cotangents are their transpose, for weighted images."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    X = images(7, *SHAPE)
    if stored == "uint8":
        X = ((X + 1) * 127.5).to(torch.uint8)
    source = TrainingSet(X, torch.rand(7, dtype=torch.float64, generator=generator))
    n_pixels, positive = SHAPE[1] * SHAPE[2], normal(6, 1, *SHAPE[1:]).abs()
    windows = [
        Whole(),
        Squares(2, 3),
        Squares(4, 1),
        Masks("hard", positive > 0.5, positive),
        Masks("by coordinate", normal(6, *SHAPE).abs(), normal(6, *SHAPE).abs()),
        Masks("one pixel", normal(n_pixels, 1, *SHAPE[1:]).abs(), None),
        Masks("one coordinate", normal(2 * n_pixels, *SHAPE).abs(), None),
        Masks("batches", normal(n_pixels, 1, *SHAPE[1:]).abs(), None, 3),
        Centred(3),
    ]
    if mirrored:
        source = MirroredTrainingSet(source)
    else:
        windows += [Centred(3, "zero"), Centred(3, "circular"), Centred(3, "broken")]
    z, dz, g = normal(3, *SHAPE), normal(3, *SHAPE), normal(3, *SHAPE)
    sigma, dsigma = torch.tensor([0.7, 0.5, 1.1], dtype=torch.float64), normal(3)
    step = 1e-5
    for window in windows:
        after, before = (
            select.compare(z + at * dz, sigma + at * dsigma, source, window, "torch", None)
            for at in (step, -step)
        )
        mean, log_norm = products.jvp(z, sigma, source, window, dz, dsigma)
        change = (after.mean - before.mean) / (2 * step)
        torch.testing.assert_close(mean, change, rtol=1e-5, atol=1e-6, msg=str(window))
        change = (after.log_norm - before.log_norm) / (2 * step)
        torch.testing.assert_close(log_norm, change, rtol=1e-5, atol=1e-5, msg=str(window))
        h = normal(*log_norm.shape)
        of_z, of_sigma = products.vjp(z, sigma, source, window, g, h)
        forward = (g * mean).flatten(1).sum(1) + (h * log_norm).sum(1)
        backward = (of_z * dz).flatten(1).sum(1) + of_sigma * dsigma
        torch.testing.assert_close(forward, backward, rtol=1e-9, atol=1e-9, msg=str(window))


def test_products_of_moved_images():
    source = TranslatedTrainingSet(TrainingSet(images(7, *SHAPE)), 1)
    soft = torch.from_numpy(tapered_windows(SHAPE, 2))[:, None]
    z = noisy(3).requires_grad_()
    sigma = torch.tensor([0.7, 0.5, 1.1], dtype=torch.float64)
    window = Masks("soft", soft, soft)
    g = images(3, *SHAPE, seed=8)
    of_z, _ = products.vjp(
        z.detach(), sigma, source, window, g, torch.zeros(3, len(soft), dtype=torch.float64)
    )
    step, slopes = 1e-5, torch.zeros_like(of_z)
    for at in range(z[0].numel()):
        unit = torch.zeros(z[0].numel(), dtype=torch.float64)
        unit[at] = step
        unit = unit.view(SHAPE)
        after, before = (
            select.compare(z.detach() + move, sigma, source, window, "torch", None).mean
            for move in (unit, -unit)
        )
        slopes.flatten(1)[:, at] = (g * (after - before)).flatten(1).sum(1) / (2 * step)
    torch.testing.assert_close(of_z, slopes, rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------ float32


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5, 3.0, 80.0])
@pytest.mark.parametrize("name", ["empirical", "squares", "local scores", "zero", "gaussian"])
def test_single_precision(name, sigma):
    """Gradients in float32 are those of float64, relative to the largest; digits have near ties."""
    X = torch.from_numpy(load_digits_images().images[:300])
    model = clone(denoisers()[name]).fit(X)
    clean = X[:4].double() / 127.5 - 1
    z = clean + sigma * images(4, 1, 8, 8, seed=5)
    vectors = images(4, 1, 8, 8, seed=6)
    exact = model.vjp(z, sigma, vectors)
    single = model.vjp(z.float(), sigma, vectors.float())
    assert single.dtype == torch.float32
    scale = float(exact.abs().max()) + 1e-3 * float(vectors.abs().max())
    assert float((single.double() - exact).abs().max()) < 2e-3 * scale


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("stored", ["float", "uint8"])
def test_compiled_squares(stored, mirrored, weighted):
    """The compiled product of squares equals the float64 one of torch, in all parts."""
    pytest.importorskip("numba", reason="the compiled product needs numba")
    X = images(80, 3, 9, 11).float()
    if stored == "uint8":
        X = ((X + 1) * 127.5).to(torch.uint8)
    weight = images(80, seed=9).abs() if weighted else None
    source = TrainingSet(X, weight)
    source = MirroredTrainingSet(source) if mirrored else source
    z = source.take(slice(0, 5), torch.float32) + 0.3 * images(5, 3, 9, 11, seed=4).float()
    vector = images(5, 3, 9, 11, seed=7)
    for level in (0.05, 0.3, 2.0, 50.0):
        sigma = torch.full((5,), level, dtype=torch.float64)
        for window in (Squares(4, 3), Squares(7, 7), Squares(1, 1)):
            n_windows = products.n_windows(window, z.shape[1:])
            h = images(5, n_windows, seed=11)
            for shift in (0 * h, h):
                exact = products.vjp(z.double(), sigma, source, window, vector, shift)
                ours = products.vjp(z, sigma, source, window, vector.float(), shift)
                for one, other in zip(ours, exact, strict=True):
                    assert _relative_error(one, other) < 1e-4
            exact = products.jvp(z.double(), sigma, source, window, vector, 0 * sigma)
            ours = products.jvp(z, sigma, source, window, vector.float(), 0 * sigma)
            for one, other in zip(ours, exact, strict=True):
                assert _relative_error(one, other) < 1e-4


def _relative_error(one, other):
    return float((one.double() - other).abs().max() / other.abs().max().clamp_min(1e-4))


# ------------------------------------------------------------------ products and containers


@pytest.mark.parametrize("name", ["empirical", "squares", "local scores", "gaussian", "smoothed"])
def test_products_equal_the_jacobian(name):
    model, z = fitted(name), noisy()
    n_values = z[0].numel()
    J = model.jacobian(z, 0.7)  # (n, H W, C, C, H, W)
    J = J.transpose(1, 2).reshape(len(z), n_values, n_values)
    v = images(2, *SHAPE, seed=3)
    expected = torch.einsum("npq,np->nq", J, v.flatten(1)).view_as(z)
    torch.testing.assert_close(model.vjp(z, 0.7, v), expected)
    expected = torch.einsum("npq,nq->np", J, v.flatten(1)).view_as(z)
    torch.testing.assert_close(model.jvp(z, 0.7, v), expected)
    exact = J.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(model.divergence(z, 0.7, n_probes=None).value, exact)


def test_gradients_keep_shape_dtype_and_container():
    model = PSPCDenoiser(patch_size=2).fit(images(12, *SHAPE))
    z = noisy()
    expected = torch.autograd.grad(model.denoise(z.requires_grad_(), 0.7).square().sum(), z)[0]
    flat = z.detach().flatten(1).requires_grad_()
    (got,) = torch.autograd.grad(model.denoise(flat, 0.7).square().sum(), flat)
    torch.testing.assert_close(got, expected.flatten(1))
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.2), (torch.float16, 0.02)):
        rough = z.detach().to(dtype).requires_grad_()
        (got,) = torch.autograd.grad(model.denoise(rough, 0.7).square().sum(), rough)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    listed = [image.detach().requires_grad_() for image in z]
    got = torch.autograd.grad(model.denoise(listed, 0.7).square().sum(), listed)
    torch.testing.assert_close(torch.stack(got), expected)
    array = z.detach().numpy()
    assert isinstance(model.vjp(array, 0.7, array), np.ndarray)
    assert isinstance(model.jvp(array.reshape(2, -1), 0.7, array), np.ndarray)
    assert not model.denoise(z.detach(), 0.7).requires_grad
    with torch.no_grad():
        assert not model.denoise(z, 0.7).requires_grad


@pytest.mark.parametrize("shape", [(), (1,), (2,), (2, 1), (2, 1, 1, 1)])
def test_gradients_of_every_shape_of_sigma(shape):
    model, z = EmpiricalDenoiser().fit(images(12, *SHAPE)), noisy()
    sigma = torch.full(shape, 0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda sigma: model.denoise(z, sigma), (sigma,))


def test_only_mean_and_evidence_have_gradients():
    posterior = fitted("squares").posterior(noisy().requires_grad_(), 0.7)
    assert posterior.mean.requires_grad
    assert posterior.log_evidence.requires_grad
    for name in ("effective_sample_size", "error_bound", "standard_error", "bound_is_proved"):
        assert not getattr(posterior, name).requires_grad


def test_the_gradient_of_an_index_is_of_the_exact_denoiser():
    X, z = images(40, *SHAPE), noisy().requires_grad_()
    exact = EmpiricalDenoiser().fit(X)
    fast = EmpiricalDenoiser(n_neighbors=5).fit(X)
    (expected,) = torch.autograd.grad(exact.denoise(z, 0.5).square().sum(), z)
    cotangent = 2 * fast.denoise(z.detach(), 0.5)
    (got,) = torch.autograd.grad(fast.denoise(z, 0.5).square().sum(), z)
    torch.testing.assert_close(got, exact.vjp(z, 0.5, cotangent))
    assert float((got - expected).abs().max()) < 0.2 * float(expected.abs().max())


def test_the_backward_pass_uses_the_model_of_the_forward_pass():
    model, z = EmpiricalDenoiser().fit(images(12, *SHAPE)), noisy().requires_grad_()
    loss = model.denoise(z, 0.7).square().sum()
    (expected,) = torch.autograd.grad(model.denoise(z, 0.7).square().sum(), z)
    model.fit(images(5, *SHAPE, seed=20))
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected)


# ------------------------------------------------------------------ torch.func, torch.compile


@pytest.mark.parametrize("name", ["empirical", "squares", "circular", "gaussian"])
def test_transforms(name):
    model, z = fitted(name), noisy(3)
    J = model.jacobian(z[:1], 0.7).transpose(1, 2).reshape(24, 24)

    def one(z):
        return model.denoise(z[None], 0.7)[0]

    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(one)(z[0]).reshape(24, 24), J)
    torch.testing.assert_close(torch.func.vmap(one)(z), model.denoise(z, 0.7))

    def loss(z, sigma):
        return model.denoise(z[None], sigma[None], y="a").square().sum()

    sigma = torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)
    got = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(z, sigma)
    z.requires_grad_()
    sigma.requires_grad_()
    expected = torch.autograd.grad(model.denoise(z, sigma, y="a").square().sum(), (z, sigma))
    for one_gradient, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one_gradient, other)


def test_labels_of_mapped_images():
    model, z = fitted("squares"), torch.stack([noisy(2), noisy(2, seed=5)])

    def denoise(z):
        return model.denoise(z, 0.7, y=["a", "b"], guidance=1.5)

    expected = torch.stack([denoise(one) for one in z])
    torch.testing.assert_close(torch.func.vmap(denoise)(z), expected)


def test_compiled_functions_call_denoisers():
    model, z = PSPCDenoiser(patch_size=2).fit(images(12, *SHAPE)), noisy().requires_grad_()

    def function(z):
        return 2 * model.denoise(2 * z, 0.7)

    (expected,) = torch.autograd.grad(function(z).square().sum(), z)
    compiled = torch.compile(function, backend="eager")
    (got,) = torch.autograd.grad(compiled(z).square().sum(), z)
    torch.testing.assert_close(got, expected)


# ------------------------------------------------------------------ divergence, likelihood


def test_divergence_of_whole_images():
    X = images(30, *SHAPE)
    z = noisy(4)
    for model in (EmpiricalDenoiser().fit(X), GaussianDenoiser().fit(X)):
        for sigma in (0.05, 0.5, 20.0):
            J = model.jacobian(z, sigma).transpose(1, 2).reshape(4, 24, 24)
            divergence = model.divergence(z, sigma)
            torch.testing.assert_close(divergence.value, J.diagonal(dim1=1, dim2=2).sum(1))
            assert not divergence.standard_error.any()
            rough = model.divergence(z.float(), sigma).value
            torch.testing.assert_close(rough.double(), divergence.value, rtol=1e-3, atol=1e-4)


def test_divergence_by_random_vectors():
    model, z = fitted("squares"), noisy(6)
    exact = model.divergence(z, 0.7, n_probes=None)
    assert not exact.standard_error.any()
    found = model.divergence(z, 0.7, n_probes=400)
    assert (found.standard_error > 0).all()
    assert ((found.value - exact.value).abs() < 4.5 * found.standard_error).all()
    few = model.divergence(z[:2], 0.7, n_probes=400)
    torch.testing.assert_close(few.value, found.value[:2])  # whatever the batch
    blended = model.divergence(z, 0.7, y="a", guidance=2.0, n_probes=None).value
    of_class = model.divergence(z, 0.7, y="a", n_probes=None).value
    torch.testing.assert_close(blended, 2 * of_class - exact.value)


def test_likelihood_of_digits():
    """The flow of the empirical denoiser leads to its mixture of normal densities."""
    X = torch.from_numpy(load_digits_images().images[:500, :, ::2, ::2] / 127.5 - 1)
    model = EmpiricalDenoiser().fit(X[4:])
    z = X[:4] + 0.1 * images(4, 1, 4, 4)
    exact = model.score_samples(z, 0.1)
    found = model.log_likelihood(z, sigma_min=0.1)
    assert not found.standard_error.any()
    # the flow starts from noise alone, and noisy images at sigma = 80 still hold the mean digit
    mean_digit = float(X.mean(0).norm()) / 80
    assert ((found.value - exact).abs() < 3 * mean_digit + 3 * found.step_error).all()
    finer = model.log_likelihood(z[2:4], sigma_min=0.1, rtol=1e-6)
    assert (finer.step_error < found.step_error[2:4]).all()
    assert (finer.step_error < 0.05).all()
    assert ((finer.value - exact[2:4]).abs() < 3 * mean_digit).all()
    alone = model.log_likelihood(z[2:3], sigma_min=0.1)
    torch.testing.assert_close(alone.value, found.value[2:3])


def test_likelihood_of_classes():
    X, y = load_digits_images().images[:300], load_digits_images().target[:300]
    model = EmpiricalDenoiser().fit(X[4:], y[4:])
    z = X[:4] / 127.5 - 1
    options = {"sigma_min": 0.3, "sigma_max": 20.0, "rtol": 1e-3}
    found = model.log_likelihood(z, y=y[:4], **options).value
    for i in range(4):
        own = EmpiricalDenoiser().fit(X[4:][y[4:] == y[i]])
        expected = own.log_likelihood(z[i : i + 1], **options).value
        np.testing.assert_allclose(found[i], expected[0], rtol=1e-9)


def test_likelihood_of_a_normal_distribution():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 4)) @ rng.standard_normal((4, 4))
    model = GaussianDenoiser().fit(X)
    covariance = np.cov(X.T, ddof=0) + 0.1**2 * np.eye(4)
    exact = multivariate_normal(X.mean(0), covariance).logpdf(X[:5])
    found = model.log_likelihood(X[:5], sigma_min=0.1)
    np.testing.assert_allclose(found.value, exact, atol=2 * np.linalg.norm(X.mean(0)) / 80)


def test_likelihood_with_random_vectors():
    model, z = fitted("squares"), noisy(2)
    options = {"sigma_min": 0.5, "sigma_max": 2.0, "rtol": 0.01}
    exact = model.log_likelihood(z, n_probes=None, **options)
    found = model.log_likelihood(z, n_probes=8, **options)
    assert ((found.value - exact.value).abs() < 5 * found.standard_error).all()


# ------------------------------------------------------------------ networks


def test_networks_pass_gradients_to_images_noise_levels_and_weights():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    model = NetworkDenoiser(lambda x, c: network(x) / c[:, None, None, None], image_shape=SHAPE)
    model.set_params(dtype="float64")
    z = noisy().requires_grad_()
    sigma = torch.tensor([0.6, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model.denoise, (z, sigma))
    loss = model.denoise(z, sigma).square().sum()
    gradients = torch.autograd.grad(loss, (z, sigma, network.weight))
    own = (network(z) / sigma[:, None, None, None]).square().sum()
    for got, expected in zip(
        gradients, torch.autograd.grad(own, (z, sigma, network.weight)), strict=True
    ):
        torch.testing.assert_close(got, expected)
    assert not model.denoise(z.detach(), 0.7).requires_grad
    v = images(2, *SHAPE, seed=3)
    expected = torch.autograd.grad(model.denoise(z, 0.7), z, v)[0]
    torch.testing.assert_close(model.vjp(z.detach(), 0.7, v), expected)
    forward = torch.func.jvp(lambda z: network(z) / 0.7, (z.detach(),), (v,))[1]
    torch.testing.assert_close(model.jvp(z.detach(), 0.7, v), forward)


# ------------------------------------------------------------------ bad input


def test_bad_input():
    model, z = fitted("squares"), noisy().requires_grad_()
    with pytest.raises(ValueError, match="sigma must be positive for a derivative"):
        model.denoise(z, 0.0).sum().backward()
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.functional.hessian(lambda z: model.denoise(z, 0.7).sum(), z.detach())
    with pytest.raises(ValueError, match="vectors must have one vector of shape"):
        model.vjp(z, 0.7, z[:1])
    with pytest.raises(ValueError, match="vectors must be finite"):
        model.jvp(z, 0.7, torch.full_like(z, torch.nan))
    for n_probes in (1, 2.5, "many"):
        with pytest.raises(ValueError, match="n_probes must be"):
            model.divergence(z, 0.7, n_probes=n_probes)
    for rtol in (0, 1, "small"):
        with pytest.raises(ValueError, match="rtol must be a float"):
            model.log_likelihood(z, rtol=rtol)
    with pytest.raises(ValueError, match="0 < sigma_min <= sigma_max"):
        model.log_likelihood(z, sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(ValueError, match="another shape than Z"):
        fitted("patch").divergence(z, 0.7)
    with pytest.raises(ValueError, match="pass y, or omit guidance"):
        model.vjp(z, 0.7, z, guidance=2.0)


def test_a_flow_that_needs_too_many_calls_is_refused(monkeypatch):
    monkeypatch.setattr("skpspc.denoisers.derivatives._MOST_CALLS", 40)
    model = EmpiricalDenoiser().fit(images(12, *SHAPE))
    with pytest.raises(ValueError, match=r"after 40 calls .* Pass a sigma_min above 0\.002"):
        model.log_likelihood(noisy())


def test_the_evidence_of_a_gaussian_at_infinite_noise():
    model, z = fitted("gaussian"), noisy().requires_grad_()
    sigma = torch.full((2,), torch.inf, dtype=torch.float64, requires_grad=True)
    model.posterior(z, sigma).mean.sum().backward()
    assert (z.grad == 0).all() and (sigma.grad == 0).all()
    tangents = torch.func.jvp(
        lambda z: model.posterior(z, float("inf")).log_evidence, (noisy(),), (noisy(),)
    )[1]
    assert (tangents == 0).all()


@pytest.mark.parametrize("outer", [torch.func.jacrev, torch.func.jacfwd])
@pytest.mark.parametrize("inner", [torch.func.jacrev, torch.func.jacfwd])
def test_second_derivatives_of_torch_func_are_refused(outer, inner):
    model = fitted("empirical")
    second = outer(inner(lambda z: model.denoise(z, 0.5).sum()))
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        second(noisy(1))
