"""Error curves and comparisons against formulas written here."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

import oracle
from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PSPCDenoiser,
    SmoothedDenoiser,
    edm_sigmas,
)
from skpspc.inspection import compare, error_curve

SHAPE = (1, 8, 8)


class Recorder:
    """A denoiser that answers with a multiple of what it is given, and remembers it."""

    def __init__(self, factor):
        self.factor, self.seen = factor, {}

    def denoise(self, z, sigma):
        self.seen.setdefault(sigma, []).append(torch.as_tensor(z).clone())
        return self.factor * z

    def given(self, sigma):
        return torch.cat(self.seen[sigma]).double().numpy()


def shrink(x, c):
    """The denoiser of pixels that are standard normal."""
    return x / (1 + c.view(-1, 1, 1, 1) ** 2)


@pytest.fixture
def shrinkage():
    return NetworkDenoiser(shrink, image_shape=SHAPE, dtype="float64")


def rows_of(clean, X):
    """Which image of X each is, by its pixels."""
    squares = ((clean.reshape(len(clean), 1, -1) - oracle.as_float(X)) ** 2).sum(-1)
    assert (squares.min(1) < 1e-8).all()
    return squares.argmin(1)


def test_forward_process_is_images_and_noise(digits):
    """One draw of noise for each image, the same for all denoisers and noise levels."""
    first, second = Recorder(0.5), Recorder(0.25)
    error_curve({"a": first, "b": second}, digits, [0.0, 0.5, 2.0], against="clean", n=200)
    clean = first.given(0.0)
    assert len(np.unique(rows_of(clean, digits))) == 200
    noise = (first.given(2.0) - clean) / 2
    np.testing.assert_allclose((first.given(0.5) - clean) / 0.5, noise, atol=1e-5)
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * noise.size)
    for sigma in (0.0, 0.5, 2.0):
        np.testing.assert_array_equal(first.given(sigma), second.given(sigma))


@pytest.mark.parametrize("container", ["uint8", "float16", "float32", "float64", "torch", "flat"])
def test_errors_against_clean_images(digits, container):
    X = digits[:50]
    if container == "flat":
        X = oracle.as_float(X)
    elif container == "torch":
        X = torch.from_numpy(X.copy())
    elif container != "uint8":
        X = (X / 127.5 - 1).astype(container)
    models = {"half": Recorder(0.5), "tenth": Recorder(0.1)}
    table = error_curve(models, X, [0.0, 0.7], against="clean", n=12)
    clean = models["half"].given(0.0)
    for j, sigma in enumerate([0.0, 0.7]):
        for m, factor in enumerate([0.5, 0.1]):
            z = models["half"].given(sigma)
            squares = ((factor * z - clean) ** 2).reshape(12, -1).mean(1)
            np.testing.assert_allclose(table.errors[j, m], squares.mean(), rtol=1e-6)
            np.testing.assert_allclose(
                table.standard_errors[j, m], squares.std(ddof=1) / np.sqrt(12), rtol=1e-5
            )
    z = models["half"].seen[0.7][0]
    assert z.dtype == (torch.float64 if container in ("float64", "flat") else torch.float32)
    assert z.shape[1:] == ((64,) if container == "flat" else SHAPE)
    assert (table.n, table.process, table.names) == (12, "forward", ["half", "tenth"])


def test_the_optimum_is_that_of_all_training_images(digits):
    X = digits[:60].astype(np.float64) / 127.5 - 1
    model = Recorder(0.5)
    table = error_curve(model, X, [0.2, 0.8], n=5, X_train=X)
    for j, sigma in enumerate([0.2, 0.8]):
        z = model.given(sigma).reshape(5, -1)
        optimum = oracle.collection(z, X, sigma, oracle.whole_mask((64,))).mean
        np.testing.assert_allclose(table.errors[j, 0], ((0.5 * z - optimum) ** 2).mean(), rtol=1e-8)
    assert table.names == ["Recorder"]


def test_the_optimum_of_other_images(digits):
    X, X_train = (digits[:20] / 127.5 - 1), (digits[20:80] / 127.5 - 1)
    model = Recorder(0.5)
    table = error_curve([model], X, [0.5], n=6, X_train=X_train)
    z = model.given(0.5).reshape(6, -1)
    optimum = oracle.collection(z, X_train, 0.5, oracle.whole_mask((64,))).mean
    np.testing.assert_allclose(table.errors[0, 0], ((0.5 * z - optimum) ** 2).mean(), rtol=1e-8)


def test_the_optimum_is_that_of_the_training_set_and_not_of_held_out_images(digits):
    """The optimum of held-out images is .02 to .1 away from that of the training set."""
    X, held_out = digits[:1000], digits[1000:1100]
    optimal = EmpiricalDenoiser().fit(X)
    table = error_curve(optimal, held_out, [0.05, 0.2, 1.0])
    np.testing.assert_array_equal(table.errors, 0)
    assert table.against == "the optimal denoiser of the training set (1000 images)"
    other = error_curve(optimal, held_out, [0.05, 0.2], X_train=held_out)
    assert (other.errors > 0.02).all()
    assert other.against == "the optimal denoiser of X_train (100 images)"


def test_the_optimum_counts_images_by_their_weight(digits):
    weight = np.arange(100.0)
    model = EmpiricalDenoiser().fit(digits[:100], sample_weight=weight)
    table = error_curve(model, digits[100:110], [0.2, 2.0])
    np.testing.assert_array_equal(table.errors, 0)
    assert "(99 images)" in table.against  # one has weight zero


def sharing(digits):
    """Denoisers of the first hundred digits, in every form in which one may come."""
    X = digits[:100]
    weighted = EmpiricalDenoiser().fit(X, sample_weight=np.ones(100))
    return {
        "optimal": EmpiricalDenoiser().fit(X),
        "copy": PSPCDenoiser(3).fit(X.copy()),
        "flat": PSPCDenoiser(3, image_shape=SHAPE).fit(X.reshape(100, 64)),
        "smoothed": SmoothedDenoiser(EmpiricalDenoiser()).fit(X),
        "frozen": FrozenEstimator(EmpiricalDenoiser().fit(X)),
        "smoothed, frozen": SmoothedDenoiser(FrozenEstimator(weighted)).fit(digits[100:200]),
        "blended": BlendedDenoiser(
            [("optimal", EmpiricalDenoiser()), ("gauss", GaussianDenoiser())],
            sigmas=[0.5],
            n_images=20,
        ).fit(X),
    }


@pytest.mark.parametrize(
    "name", ["copy", "flat", "smoothed", "frozen", "smoothed, frozen", "blended"]
)
def test_the_training_set_that_denoisers_share(digits, name):
    models = sharing(digits)
    chosen = {key: models[key] for key in ("optimal", name)}
    if name == "smoothed, frozen":  # what its own fit was given it has not learnt from
        del chosen["optimal"]
    table = error_curve(chosen, digits[200:210], [0.3])
    expected = error_curve(chosen, digits[200:210], [0.3], X_train=digits[:100])
    np.testing.assert_array_equal(table.errors, expected.errors)


def test_denoisers_that_share_no_training_set(digits, shrinkage):
    X, held_out = digits[:100], digits[100:110]
    optimal = EmpiricalDenoiser().fit(X)
    frozen = ("frozen", FrozenEstimator(optimal))
    for other in (
        EmpiricalDenoiser().fit(digits[:101]),
        EmpiricalDenoiser().fit(digits[1:101]),
        EmpiricalDenoiser().fit(X / 127.5 - 1),
        EmpiricalDenoiser().fit(X, sample_weight=np.arange(1.0, 101.0)),
        GaussianDenoiser().fit(X),  # more images than values: only sums are kept
        shrinkage,
        Recorder(0.5),
        BlendedDenoiser([frozen, ("own", PSPCDenoiser(3))], sigmas=[0.5], n_images=20).fit(
            digits[200:300]
        ),
    ):
        with pytest.raises(ValueError, match="a, b keep none or different ones; pass X_train"):
            error_curve({"a": optimal, "b": other}, held_out, [0.5])
        assert error_curve({"a": optimal, "b": other}, held_out, [0.5], X_train=X).errors[0, 0] == 0


def test_another_denoiser_as_reference(digits):
    a, b = Recorder(0.5), Recorder(0.2)
    table = error_curve(a, digits, [0.5], against=b, n=6)
    z = a.given(0.5)
    np.testing.assert_allclose(table.errors[0, 0], (0.3**2 * z**2).mean(), rtol=1e-5)
    assert "Recorder" in table.title


def test_first_images_do_not_depend_on_n_or_sigmas(digits):
    few, many = Recorder(1.0), Recorder(1.0)
    error_curve(few, digits, [0.5], against="clean", n=4)
    error_curve(many, digits, [3.0, 0.5, 0.1], against="clean", n=30)
    np.testing.assert_array_equal(few.given(0.5), many.given(0.5)[:4])
    other = Recorder(1.0)
    error_curve(other, digits, [0.5], against="clean", n=4, random_state=1)
    assert np.abs(other.given(0.5) - few.given(0.5)).max() > 0.1


def test_unsorted_noise_levels_are_sorted(digits):
    levels = [2.0, 0.1, 0.5]
    model = GaussianDenoiser().fit(digits)
    table = error_curve(model, digits, levels, n=4, X_train=digits)
    np.testing.assert_array_equal(table.sigmas, [0.1, 0.5, 2.0])
    for sigma, row in zip(table.sigmas, table.errors, strict=True):
        alone = error_curve(model, digits, [sigma], n=4, X_train=digits)
        np.testing.assert_allclose(alone.errors[0], row, rtol=1e-6)


def test_default_number_of_images(digits):
    model = Recorder(0.5)
    assert error_curve(model, digits, [0.5], against="clean").n == 64
    assert error_curve(model, digits[:10], [0.5], against="clean").n == 10
    assert np.isnan(error_curve(model, digits[:1], [0.5], against="clean").standard_errors).all()


def test_the_curve_of_training_images_peaks_in_between(digits):
    """The paper's U: near the optimum where there is hardly any noise, and hardly any image."""
    X = digits[:400]
    models = {"Gaussian": GaussianDenoiser().fit(X), "PSPC": PSPCDenoiser(4).fit(X)}
    table = error_curve(models, X, [0.01, 0.1, 0.5, 2.0, 50.0], n=16, X_train=X)
    assert (table.errors.max(0) > 20 * table.errors[[0, -1]].max(0)).all()
    assert (table.errors[1:4].argmax(0) + 1 == table.errors.argmax(0)).all()
    held_out = error_curve(models, digits[1000:], [0.01], n=16, X_train=X)
    assert (held_out.errors > 20 * table.errors[0]).all()


# Reverse


def heun_states(z, sigma_max, levels, n_steps):
    """States at increasing noise levels of the walk with `shrink`, by Karras et al., Alg. 1."""

    def denoise(z, sigma):
        return z / (1 + sigma**2)

    inner = edm_sigmas(n_steps, levels[0], sigma_max)[1:-1]
    grid = sorted({*inner.tolist(), *levels, sigma_max}, reverse=True)
    states = {grid[0]: z}
    for sigma, target in pairwise(grid):
        slope = (z - denoise(z, sigma)) / sigma
        euler = z + (target - sigma) * slope
        slope = (slope + (euler - denoise(euler, target)) / target) / 2
        z = z + (target - sigma) * slope
        states[target] = z
    return [states[sigma] for sigma in levels]


@pytest.mark.parametrize("how", ["against", "along", "name"])
def test_reverse_process_walks_with_a_denoiser(shrinkage, digits, how):
    levels = [0.3, 1.5, 30.0]
    model = Recorder(0.5)
    models = {"model": model, "walker": shrinkage}
    parameters = {
        "against": {"against": shrinkage},
        "along": {"X_train": digits[:30], "along": shrinkage},
        "name": {"X_train": digits[:30], "along": "walker"},
    }[how]
    table = error_curve(
        models,
        None,
        levels,
        process="reverse",
        n=3,
        n_steps=9,
        sigma_max=30.0,
        sampler="heun",
        **parameters,
    )
    start = model.given(30.0)
    assert start.shape == (3, *SHAPE)
    assert abs(start.std() / 30 - 1) < 0.2
    for sigma, expected in zip(levels, heun_states(start, 30.0, levels, 9), strict=True):
        np.testing.assert_allclose(model.given(sigma), expected, rtol=2e-5, atol=1e-5)
    if how == "against":
        z = model.given(1.5)
        expected = ((0.5 * z - z / (1 + 1.5**2)) ** 2).mean()
        np.testing.assert_allclose(table.errors[1, 0], expected, rtol=1e-5)
        np.testing.assert_array_equal(table.errors[:, 1], 0)
    assert "sampler states of NetworkDenoiser (reverse process)" in table.title


def test_reverse_process_needs_no_images(shrinkage):
    """As many walks as one likes, and no X."""
    table = error_curve(Recorder(0.5), None, [0.5], against=shrinkage, process="reverse", n=5)
    assert table.n == 5
    assert compare([shrinkage, Recorder(0.5)], None, [0.5], process="reverse", n=2).n == 2


def test_reverse_of_the_optimum_is_near_the_training_images(digits):
    """The optimum's own walk ends where the forward process starts."""
    model = Recorder(0.5)
    error_curve(model, None, [0.01], process="reverse", n=4, X_train=digits[:40])
    squares = ((model.given(0.01).reshape(4, 1, -1) - oracle.as_float(digits[:40])) ** 2).mean(-1)
    assert squares.min(1).max() < 4 * 0.01**2


def test_reverse_walks_of_flat_images(digits):
    flat = digits.reshape(len(digits), -1)[:50]
    models = {
        "pspc": PSPCDenoiser(4, image_shape=SHAPE).fit(flat),
        "local": LocalScoreDenoiser(3, image_shape=SHAPE).fit(flat),
    }
    table = error_curve(models, flat, [0.5], process="reverse", along="pspc", n=2)
    assert np.isfinite(table.errors).all()


def test_first_walks_do_not_depend_on_n(shrinkage):
    few, many = Recorder(1.0), Recorder(1.0)
    for model, n in ((few, 2), (many, 5)):
        error_curve(model, None, [0.5], against=shrinkage, process="reverse", n=n)
    np.testing.assert_allclose(few.given(0.5), many.given(0.5)[:2], rtol=1e-6)


# Comparison


def test_comparison_is_every_pair(digits, device):
    X = digits[:100]
    models = {
        "optimal": EmpiricalDenoiser(device=device).fit(X),
        "gauss": GaussianDenoiser(device=device).fit(X),
        "pspc": PSPCDenoiser(4, device=device).fit(X),
    }
    levels = [0.3, 1.0]
    table = compare(models, X, levels, n=8)
    assert table.errors.shape == (2, 3, 3)
    np.testing.assert_array_equal(table.errors, table.errors.transpose(0, 2, 1))
    np.testing.assert_array_equal(np.diagonal(table.errors, axis1=1, axis2=2), 0)
    for name, column in zip(models, range(3), strict=True):
        curve = error_curve(models, X, levels, against=models[name], n=8)
        np.testing.assert_allclose(curve.errors, table.errors[:, column], rtol=1e-6)
        np.testing.assert_allclose(
            curve.standard_errors, table.standard_errors[:, column], rtol=1e-5, atol=1e-12
        )


class Blur(torch.nn.Module):
    """A network that does not look at the noise level."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, c):
        return self.layer(x)


def test_networks_of_another_dtype_and_device(digits, device):
    network = Blur()
    there = Blur().double()
    there.load_state_dict(network.state_dict())
    models = [NetworkDenoiser(net, image_shape=SHAPE) for net in (network, there.to(device))]
    for X in (digits, torch.from_numpy(digits[:50] / 127.5 - 1)):
        table = compare(models, X, [0.5], n=4)
        assert 0 < table.errors.max() < 1e-10
        assert table.names == ["NetworkDenoiser", "NetworkDenoiser 2"]


# Tables


@pytest.fixture
def curve(digits):
    models = {"a & b": Recorder(0.5), "c": Recorder(0.1)}
    return error_curve(models, digits, [0.5, 2], n=4, X_train=digits)


def test_tables_as_text(curve):
    lines = repr(curve).splitlines()
    assert lines[0] == (
        "Mean squared error against the optimal denoiser of X_train (1797 images), "
        "4 noisy images (forward process)"
    )
    assert lines[1].split() == ["sigma", "a", "&", "b", "c"]
    assert [float(v) for v in lines[2].split()] == pytest.approx([0.5, *curve.errors[0]], rel=6e-3)
    markup = curve._repr_html_()
    assert "a &amp; b" in markup
    assert markup.count("<tr>") == 3
    (
        rule,
        header,
        _,
        *rows,
        last,
    ) = curve.to_rst().splitlines()
    assert rule == last
    assert set(rule) == {"=", " "}
    assert header.startswith("sigma")
    assert len(rows) == 2


def test_tables_as_frames(curve, digits):
    pytest.importorskip("pandas", reason="pandas is not installed (extra metrics)")
    frame = curve.to_frame()
    assert list(frame.columns) == ["a & b", "c"]
    assert frame.loc[0.5, "c"] == curve.errors[0, 1]
    table = compare({"a": Recorder(0.5), "b": Recorder(0.1)}, digits, [0.5, 2], n=4)
    assert table.to_frame().loc[(2.0, "b"), "a"] == np.sqrt(table.errors[1, 1, 0])
    assert len(repr(table).splitlines()) == 6
    assert "Root mean square differences, 4 noisy images" in table._repr_html_()


# Bad input


@pytest.mark.parametrize("levels", [[], [0.5, 0.5], [-1.0], [np.nan], [np.inf], 0.5])
def test_bad_noise_levels(digits, levels):
    with pytest.raises(ValueError, match=r"sigmas must be .*; (pass|leave|give|remove)"):
        error_curve(Recorder(0.5), digits, levels, against="clean")


def test_more_images_than_there_are(digits):
    with pytest.raises(ValueError, match="n=11 is more than the 10 images of X"):
        error_curve(Recorder(0.5), digits[:10], [0.5], n=11, X_train=digits)
    for n in (0, 2.5):
        with pytest.raises(ValueError, match="n must be an int of at least 1"):
            compare([Recorder(0.5), Recorder(0.1)], digits, [0.5], n=n)


@pytest.mark.parametrize("shape", [(1, 6, 8), (63,), (8, 8)])
def test_images_of_another_shape(digits, shape):
    """It is X that was passed, not Z."""
    X, model = np.zeros((5, *shape)), GaussianDenoiser().fit(digits[:20])
    for against in ("clean", "optimal", model):
        with pytest.raises(ValueError, match=r"^X "):
            error_curve(model, X, [0.5], against=against)
    with pytest.raises(ValueError, match=r"^X "):
        compare([Recorder(0.5), model], X, [0.5])


def test_patches_are_images_of_a_patch_denoiser(digits):
    model, X = PatchDenoiser(4).fit(digits[:20]), digits[:20, :, 2:6, 2:6]
    table = error_curve(model, X, [0.5], X_train=X)
    np.testing.assert_allclose(table.errors, 0, atol=1e-10)


def test_answers_that_require_a_gradient(digits):
    class Trained:
        scale = torch.tensor(0.5, requires_grad=True)

        def denoise(self, z, sigma):
            return self.scale * z

    tables = [error_curve(d, digits, [0.5], against="clean") for d in (Trained(), Recorder(0.5))]
    np.testing.assert_array_equal(tables[0].errors, tables[1].errors)


def test_bad_denoisers(digits, shrinkage):
    X = digits[:20]
    with pytest.raises(ValueError, match=r"must differ as text, got \[1, '1'\]"):
        compare({1: Recorder(0.5), "1": Recorder(0.1)}, X, [0.5])
    with pytest.raises(ValueError, match="at least one denoiser"):
        error_curve({}, X, [0.5])
    for alone in (shrinkage, [shrinkage], {"NetworkDenoiser": shrinkage}):
        with pytest.raises(
            ValueError, match="two or more denoisers, got NetworkDenoiser alone; add"
        ):
            compare(alone, X, [0.5])
    with pytest.raises(ValueError, match="wrap a network in NetworkDenoiser"):
        error_curve({"net": shrink}, X, [0.5])
    with pytest.raises(NotFittedError):
        error_curve(PSPCDenoiser(4), X, [0.5])
    with pytest.raises(NotFittedError):
        error_curve(Recorder(0.5), X, [0.5], against=EmpiricalDenoiser())
    with pytest.raises(ValueError, match=r"patch answers .*pass a denoiser of whole images"):
        error_curve({"patch": PatchDenoiser(4).fit(X)}, X, [0.5], X_train=X)
    with pytest.raises(ValueError, match=r"nothing answers with NaN or infinity at sigma = 0\.5"):
        error_curve({"nothing": Recorder(np.nan)}, X, [0.5], X_train=X)


def test_bad_choices(digits, shrinkage):
    X, model = digits[:20], Recorder(0.5)
    with pytest.raises(ValueError, match="against must be"):
        error_curve(model, X, [0.5], against="best")
    with pytest.raises(ValueError, match="process must be"):
        error_curve(model, X, [0.5], process="backward", X_train=X)
    with pytest.raises(ValueError, match="no clean images"):
        error_curve(model, X, [0.5], against="clean", process="reverse")
    with pytest.raises(ValueError, match="pass process='reverse' too"):
        error_curve(model, X, [0.5], along=shrinkage, X_train=X)
    with pytest.raises(ValueError, match="along must be one of"):
        error_curve({"a": model}, X, [0.5], process="reverse", along="b", X_train=X)
    with pytest.raises(ValueError, match="samples with a denoiser of this library"):
        compare([model, shrinkage], X, [0.5], process="reverse")
    with pytest.raises(ValueError, match="sampler must be one of"):
        error_curve(model, X, [0.5], process="reverse", sampler="ddpm", X_train=X)
    for start in (-1, 0.0, np.nan, np.inf, "high"):
        with pytest.raises(ValueError, match="sigma_max must be a positive float"):
            compare([shrinkage, model], None, [0.5], process="reverse", sigma_max=start)
    with pytest.raises(ValueError, match="must be positive for process='reverse'"):
        error_curve(model, X, [0.0, 0.5], process="reverse", X_train=X)
    with pytest.raises(ValueError, match="Recorder keep none or different ones; pass X_train"):
        error_curve(model, X, [0.5])
    with pytest.raises(ValueError, match="got None; pass images"):
        error_curve(model, None, [0.5], X_train=X)
    with pytest.raises(ValueError, match="pass images"):
        compare([model, shrinkage], None, [0.5])
