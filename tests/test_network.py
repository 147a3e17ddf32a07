"""Networks as denoisers: each parametrization of a denoiser that is known, and files."""

import functools
import importlib.util
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skpspc import EmpiricalDenoiser, NetworkDenoiser, SmoothedDenoiser, load_network
from skpspc.denoisers.wrapped import modules_of
from skpspc.sampling import convert

SHAPE = (2, 4, 3)
LEVELS = [0.05, 0.4, 0.4, 3.0, 40.0]


@pytest.fixture
def X(rng):
    """Training images in [-1, 1], of the denoiser that plays the network."""
    return rng.uniform(-1, 1, (20, *SHAPE))


@pytest.fixture
def Z(X, rng):
    return X[:5] + np.array(LEVELS)[:, None, None, None] * rng.standard_normal((5, *SHAPE))


def identity(x, c):
    return x


class Known:
    """The empirical denoiser of images in some pixels, dressed as a network of some kind."""

    def __init__(self, X, parametrization, network_range=(-1, 1), sigma_data=0.5):
        low, high = network_range
        self.truth = EmpiricalDenoiser().fit((low + high) / 2 + (high - low) / 2 * X)
        self.kind, self.sigma_data, self.calls = parametrization, sigma_data, []

    def __call__(self, x, c):
        self.calls.append((x, c))
        c = torch.as_tensor(c, dtype=torch.float64).expand(len(x))
        if self.kind == "x0":
            return self.truth.denoise(x, c)
        if self.kind == "flow":
            sigma = convert.sigma_from_flow_time(c)
            z = convert.ve_from_flow(x, sigma)
            return convert.velocity_from_x0(self.truth.denoise(z, sigma), z, sigma)
        if self.kind == "edm":
            sigma = (4 * c).exp()
            s, d = sigma[:, None, None, None], self.sigma_data
            z = x * (s**2 + d**2) ** 0.5
            skip, out = d**2 / (s**2 + d**2), s * d / (s**2 + d**2) ** 0.5
            return (self.truth.denoise(z, sigma) - skip * z) / out
        z = convert.ve_from_vp(x, c)
        back = convert.eps_from_x0 if self.kind == "eps" else convert.v_from_x0
        return back(self.truth.denoise(z, c), z, c)


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "flow", "edm"])
@pytest.mark.parametrize("network_range", [(-1, 1), (0, 1), (-0.5, 0.5), [0.0, 255.0]])
@pytest.mark.parametrize("condition", ["tensor", "float"])
def test_every_parametrization_is_the_same_denoiser(X, Z, kind, network_range, condition):
    network = Known(X, kind, network_range, sigma_data=0.7)
    model = NetworkDenoiser(
        network,
        kind,
        network_range=network_range,
        sigma_data=0.7,
        condition=condition,
        dtype="float64",
        image_shape=SHAPE,
    )
    expected = EmpiricalDenoiser().fit(X).denoise(Z, LEVELS)
    np.testing.assert_allclose(model.denoise(Z, LEVELS), expected, atol=1e-8)
    np.testing.assert_allclose(model.fit(X).denoise(Z, LEVELS), expected, atol=1e-8)
    x, c = network.calls[0]
    assert x.dtype == torch.float64
    assert isinstance(c, float) if condition == "float" else c.shape == (5,)


def test_what_the_network_is_told(Z):
    """x and c of the table, and time=, in the network's own pixels."""
    told = {}

    def network(x, c):
        told.update(x=x, c=c)
        return torch.zeros_like(x)

    z, s = torch.from_numpy(Z / 2 + 0.5), torch.tensor(LEVELS, dtype=torch.float64) / 2
    across = s[:, None, None, None]
    expected = {
        "x0": (z, s),
        "eps": (z / (1 + across**2).sqrt(), s),
        "v": (z / (1 + across**2).sqrt(), s),
        "flow": (z / (1 + across), 1 / (1 + s)),
        "edm": (z / (across**2 + 0.25).sqrt(), s.log() / 4),
    }
    for kind, (x, c) in expected.items():
        model = NetworkDenoiser(
            network, kind, network_range=(0, 1), image_shape=SHAPE, dtype="float64"
        )
        model.denoise(Z, LEVELS)
        np.testing.assert_allclose(told["x"], x, atol=1e-14)
        np.testing.assert_allclose(told["c"], c, atol=1e-14)
    steps = convert.NearestStep(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    model = NetworkDenoiser(network, "eps", time=steps, network_range=(0, 1), image_shape=SHAPE)
    model.denoise(Z, LEVELS)
    assert told["c"].dtype == torch.int64
    assert told["c"].tolist() == steps(s).tolist()
    assert told["x"].dtype == torch.float32
    model.set_params(condition="float").denoise(Z[:1], 0.4)
    assert isinstance(told["c"], int)
    model.set_params(condition="tensor", time=torch.log).denoise(Z, LEVELS)
    np.testing.assert_allclose(told["c"], s.log(), rtol=1e-6)
    assert told["c"].dtype == torch.float32


@pytest.mark.parametrize("condition", ["tensor", "float"])
@pytest.mark.parametrize(
    ("time", "got"),
    [
        (lambda s: s[:1], r"shape \(1,\)"),
        (lambda s: s[:, None], r"shape \(5, 1\)"),
        (lambda s: 0.5, "a float"),
        (lambda s: s.numpy(), "a ndarray"),
    ],
)
def test_a_time_for_every_image(Z, condition, time, got):
    model = NetworkDenoiser(identity, time=time, condition=condition, image_shape=SHAPE)
    with pytest.raises(ValueError, match=rf"time must map .*shape \(5,\).*but returned {got}"):
        model.denoise(Z, [0.1, 0.2, 0.3, 0.4, 0.5])


def test_one_float_for_each_group_of_images(X, Z):
    network = Known(X, "x0")
    model = NetworkDenoiser(network, condition="float", image_shape=SHAPE, dtype="float64")
    together = model.denoise(Z, LEVELS)
    assert [(len(x), c) for x, c in network.calls] == [(1, 0.05), (2, 0.4), (1, 3.0), (1, 40.0)]
    for i, sigma in enumerate(LEVELS):
        np.testing.assert_allclose(model.denoise(Z[[i]], sigma)[0], together[i], atol=1e-13)


def test_batches(X, Z):
    network = Known(X, "x0")
    model = NetworkDenoiser(network, batch_size=2, image_shape=SHAPE, dtype="float64")
    expected = NetworkDenoiser(network, image_shape=SHAPE, dtype="float64").denoise(Z, LEVELS)
    network.calls.clear()
    np.testing.assert_allclose(model.denoise(Z, LEVELS), expected, atol=1e-13)
    assert [len(x) for x, _ in network.calls] == [2, 2, 1]


# ----------------------------------------------------------------------------- the module


def test_a_module_is_used_in_evaluation_mode_and_put_back(Z):
    module = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Conv2d(2, 2, 3, padding=1))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = module
            self.register_buffer("weight", torch.ones(1))

        def forward(self, x, c):
            assert not self.training
            assert not torch.is_grad_enabled()
            return self.body(x)

    network = Network().double()
    network.body[0].eval()
    before = [part.training for part in network.modules()]
    model = NetworkDenoiser(network, image_shape=SHAPE)
    first = model.denoise(Z, 0.5)
    np.testing.assert_array_equal(first, model.denoise(Z, 0.5))
    assert [part.training for part in network.modules()] == before
    assert before == [True, True, False, True]
    assert first.dtype == np.float64
    with torch.no_grad():
        expected = module[1](torch.from_numpy(Z)).numpy()
    np.testing.assert_allclose(first, expected, atol=1e-14)
    # a clone has a network of its own, with the same weights
    other = clone(model)
    assert other.network is not network
    np.testing.assert_array_equal(other.denoise(Z, 0.5), first)


def test_a_module_sees_its_own_dtype(Z):
    module = torch.nn.Conv2d(2, 2, 1).to(torch.bfloat16)
    seen = []
    module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = module

        def forward(self, x, c):
            assert c.dtype == x.dtype
            return self.body(x)

    for z, out in ((Z, np.float64), (Z.astype(np.float32), np.float32)):
        assert NetworkDenoiser(Network(), image_shape=SHAPE).denoise(z, 0.5).dtype == out
    assert seen == [torch.bfloat16] * 2


class Noisy(torch.nn.Module):
    """A module whose answers differ while it trains."""

    def __init__(self):
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x, c):
        return self.dropout(x)


NOISY = Noisy()


class Wrapper:
    """An object with a module, to be called itself or by a method."""

    def __init__(self, module):
        self.parts = {"unet": module}

    def __call__(self, x, c):
        return self.parts["unet"](x, c)

    def predict(self, x, c):
        return self(x, c)


def nested(module):
    def inner(x, c):
        return module(x, c)

    return lambda x, c: max((inner(x, c) for _ in range(1)), key=len)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: lambda x, c: module(x, c),
        lambda module: lambda x, c: NOISY(x, c),
        lambda module: lambda x, c, unet=module: unet(x, c),
        lambda module: functools.partial(lambda net, x, c: net(x, c), module),
        lambda module: functools.partial(lambda x, c, net: net(x, c), net=module),
        lambda module: module.forward,
        lambda module: Wrapper(module),
        lambda module: Wrapper(module).predict,
        lambda module: functools.partial(Wrapper(module)),
        nested,
    ],
)
def test_wrapped_modules_are_in_evaluation_mode(Z, wrap):
    module = Noisy()
    for used in (module, NOISY):
        used.train()
        used.dropout.train()
    model = NetworkDenoiser(wrap(module), image_shape=SHAPE, dtype="float64")
    np.testing.assert_array_equal(model.denoise(Z, 0.5), Z)  # dropout is off
    for used in (module, NOISY):
        assert used.training
        assert used.dropout.training


def test_outputs_of_other_libraries(Z):
    """Attributes ``sample`` and ``mean``, first entries, and distributions."""
    for output in (
        lambda x: SimpleNamespace(sample=x),
        lambda x: SimpleNamespace(mean=x),
        lambda x: (x, None),
        lambda x: [x],
        lambda x: torch.distributions.Normal(x, 1.0),  # its `sample` is a method
    ):
        model = NetworkDenoiser(
            lambda x, c, output=output: output(x / 2), image_shape=SHAPE, dtype="float64"
        )
        np.testing.assert_allclose(model.denoise(Z, 0.5), Z / 2)


def test_keyword_arguments_of_the_network(Z):
    def network(x, c, scale=1.0, *, shift=0.0):
        return scale * x + shift

    model = NetworkDenoiser(
        network, network_kwargs={"shift": 3.0, "scale": 2.0}, image_shape=SHAPE, dtype="float64"
    )
    for condition in ("tensor", "float"):
        model.set_params(condition=condition)
        np.testing.assert_allclose(model.denoise(Z, 0.5), 2 * Z + 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'labels'"):
        model.set_params(network_kwargs={"labels": 3}).denoise(Z, 0.5)


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "flow", "edm"])
@pytest.mark.parametrize("condition", ["tensor", "float"])
def test_gradients_pass_through_a_network(Z, kind, condition):
    """The prior's derivative is that of finite differences."""

    def network(x, c):
        c = torch.as_tensor(c, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return torch.sin(x) / (1 + c**2)

    prior = NetworkDenoiser(
        network, kind, condition=condition, batch_size=2, image_shape=SHAPE, dtype="float64"
    )._prior_of()
    z = torch.from_numpy(Z).requires_grad_()
    sigma = torch.tensor([0.0, *LEVELS[1:]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: prior.posterior(z, sigma).mean, z)
    with torch.no_grad():
        assert not prior.posterior(z, sigma).mean.requires_grad


# ------------------------------------------------------------------------ schedules as time


def seen(model, Z, sigma):
    """Return x and c of the network's one call."""
    calls = []
    model.set_params(network=lambda x, c: calls.append((x, c)) or x, dtype="float64")
    model.denoise(Z, sigma)
    return calls[0]


@pytest.mark.parametrize("kind", ["x0", "eps", "v"])
def test_a_scheduler_as_time(Z, kind):
    """The nearest step, and variance preserving noisy images."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    for end in (alpha_bar[-1], torch.tensor(0.0)):  # the last step may have no signal
        scheduler = SimpleNamespace(alphas_cumprod=torch.cat([alpha_bar[:-1], end[None]]))
        model = NetworkDenoiser(identity, kind, time=scheduler, image_shape=SHAPE)
        x, c = seen(model, Z, LEVELS)
        sigmas = ((1 - alpha_bar.double()) / alpha_bar.double()).sqrt()
        expected = [int((sigmas - level).abs().argmin()) for level in LEVELS]
        assert c.tolist() == expected
        assert c.dtype == torch.int64
        scale = torch.tensor([(1 + s**2) ** -0.5 for s in LEVELS], dtype=torch.float64)
        torch.testing.assert_close(x, scale[:, None, None, None] * torch.from_numpy(Z))


def test_schedules_by_name(Z):
    model = NetworkDenoiser(identity, "v", image_shape=SHAPE)
    level = [0.3] * 5
    _, c = seen(model.set_params(time="VDenoiser"), Z, level)
    np.testing.assert_allclose(np.tan(c.numpy() * np.pi / 2), level)
    _, c = seen(model.set_params(time="linear"), Z, level)
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    assert c[0] == np.abs(np.sqrt(1 / abar - 1) - 0.3).argmin()
    _, c = seen(model.set_params(time="squaredcos_cap_v2"), Z, level)
    abar = np.cos((np.arange(1, 1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    abar /= np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert c[0] == np.abs(np.sqrt(1 / abar - 1) - 0.3).argmin()
    pickle.loads(pickle.dumps(NetworkDenoiser(identity, time="linear").fit(Z))).denoise(Z, 0.3)


@pytest.mark.parametrize("time", ["ddpm", [1, 2], SimpleNamespace(betas=[0.1])])
def test_times_that_are_none(X, time):
    with pytest.raises(ValueError, match=r"'time' parameter of NetworkDenoiser must be a callable"):
        NetworkDenoiser(identity, time=time).fit(X)


# ------------------------------------------------------------------------ as an estimator


def test_with_and_without_fit(X, Z):
    network = Known(X, "x0")
    with pytest.raises(NotFittedError):
        NetworkDenoiser(network).denoise(Z, 0.5)
    bare = NetworkDenoiser(network, image_shape=SHAPE)
    assert (bare.image_shape_, bare.n_features_in_) == (SHAPE, 24)
    samples = bare.sample(2, random_state=0, n_steps=4)
    assert samples.shape == (2, *SHAPE)
    assert samples.dtype == np.float32
    fitted = NetworkDenoiser(network).fit(torch.from_numpy(X))
    samples = fitted.sample(2, random_state=0, n_steps=4)
    assert isinstance(samples, torch.Tensor)
    assert samples.dtype == torch.float64
    expected = EmpiricalDenoiser().fit(X).sample(2, random_state=0, n_steps=4)
    np.testing.assert_allclose(samples, expected, atol=1e-4)
    flat = NetworkDenoiser(network, image_shape=SHAPE).fit(X.reshape(20, -1))
    assert flat.sample(random_state=0, n_steps=2).shape == (1, 24)
    assert fitted.partial_fit(torch.from_numpy(X)) is fitted
    with pytest.raises(ValueError, match="X holds images of shape"):
        fitted.partial_fit(np.zeros((1, 1, 4, 6)))
    for wrong in (np.zeros((1, 3, 4, 2)), np.zeros((1, 23))):
        with pytest.raises(ValueError):
            bare.denoise(wrong, 0.5)
    with pytest.raises(ValueError, match="image_shape must be three positive ints"):
        NetworkDenoiser(network, image_shape=(4, 3)).denoise(Z, 0.5)


def test_score_and_posterior(X, Z):
    model = NetworkDenoiser(Known(X, "x0"), image_shape=SHAPE, dtype="float64", random_state=1)
    truth = EmpiricalDenoiser(random_state=1).fit(X)
    assert model.score(X[:4], sigmas=[0.5]) == pytest.approx(truth.score(X[:4], sigmas=[0.5]))
    posterior = model.posterior(Z, LEVELS)
    assert np.isnan(posterior.log_evidence).all()
    assert np.isnan(posterior.effective_sample_size).all()
    assert np.isnan(posterior.error_bound).all()
    assert not posterior.bound_is_proved.any()
    assert repr(posterior).endswith("effective_sample_size=nan, no error bound)")
    assert not hasattr(model, "score_samples")
    with pytest.raises(AttributeError, match="a network has no log p"):
        model.score_samples(Z, 0.5)
    with pytest.raises(AttributeError, match="a network is called without a class"):
        _ = model.classes_
    smoothed = SmoothedDenoiser(model, tau=0.0).fit(X)
    np.testing.assert_allclose(smoothed.denoise(Z, 0.5), truth.denoise(Z, 0.5), atol=1e-12)
    again = pickle.loads(pickle.dumps(NetworkDenoiser(identity, image_shape=SHAPE)))
    np.testing.assert_allclose(again.denoise(Z, 0.5), Z, atol=1e-6)


def test_ends_of_sigma(X, Z):
    def never(x, c):
        raise AssertionError("the network was asked")

    for kind in ("x0", "eps", "v", "flow", "edm"):
        model = NetworkDenoiser(never, kind, image_shape=SHAPE)
        np.testing.assert_array_equal(model.denoise(Z, 0.0), Z)
        with pytest.raises(ValueError, match="sigma must be finite for a network, got inf"):
            model.denoise(Z, np.inf)
    mixed = NetworkDenoiser(Known(X, "x0"), image_shape=SHAPE, dtype="float64")
    truth = EmpiricalDenoiser().fit(X)
    got = mixed.denoise(Z, [0.0, 1.0, 0.0, 1.0, 1.0])
    np.testing.assert_array_equal(got[[0, 2]], Z[[0, 2]])
    np.testing.assert_allclose(got[[1, 3, 4]], truth.denoise(Z[[1, 3, 4]], 1.0), atol=1e-12)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (lambda x, c: x[:, :1], r"its input, \(5, 2, 4, 3\), but returned \(5, 1, 4, 3\)"),
        (lambda x, c: ("x",), "returned tuple; wrap it"),
        (lambda x, c: (), "returned tuple; wrap it"),
        (lambda x, c: (x[:, :1],), r"but returned \(5, 1, 4, 3\)"),
        (lambda x, c: x.numpy(), "returned ndarray"),
        (lambda x, c: x * float("nan"), r"NaN or infinity at sigma = \[0\.5\]"),
        (lambda x, c: x / 0, "check parametrization and network_range"),
        (lambda x, c: x * 1j, r"must return floats, got torch\.complex64"),
        (lambda x, c: x.int(), r"must return floats, got torch\.int32"),
    ],
)
def test_answers_that_are_none(Z, network, sentence):
    with pytest.raises(ValueError, match=sentence):
        NetworkDenoiser(network, image_shape=SHAPE).denoise(Z, 0.5)


def test_errors_of_the_network_itself_stay_what_they_are(Z):
    def network(x, c):
        raise RuntimeError("unknown prediction type 'foo', see the device settings")

    with pytest.raises(RuntimeError, match=r"^unknown prediction type"):
        NetworkDenoiser(network, image_shape=SHAPE).denoise(Z, 0.5)


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(2, 2, 1, dtype=torch.float64),
        torch.nn.ConvTranspose2d(2, 2, 1, dtype=torch.float64),
        torch.nn.Linear(3, 3, dtype=torch.float64),
        torch.nn.GroupNorm(1, 2, dtype=torch.float64),
        torch.nn.Bilinear(3, 3, 3, dtype=torch.float64),
        torch.nn.Linear(3, 3, device="meta"),
        torch.nn.LayerNorm(3, device="meta"),
    ],
    ids=lambda layer: f"{type(layer).__name__} {layer.weight.device} {layer.weight.dtype}",
)
def test_what_torch_says_of_other_devices_and_dtypes_is_known(Z, layer):
    given = 2 if isinstance(layer, torch.nn.Bilinear) else 1
    model = NetworkDenoiser(lambda x, c: layer(*[x] * given), image_shape=SHAPE)
    with pytest.raises(ValueError, match="pass the device and dtype"):
        model.denoise(Z, 0.5)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"network": "unet"}, "'network' parameter"),
        ({"parametrization": "score"}, "'parametrization' parameter"),
        ({"time": 3}, "'time' parameter"),
        ({"network_range": 1.0}, "'network_range' parameter"),
        *(
            (
                {"network_range": wrong},
                "network_range must be .low, high., finite numbers with low < hi",
            )
            for wrong in ((1, -1), (None, 1), (0, np.inf), (np.nan, 1), ("0", "1"), (0,), (0, 1, 2))
        ),
        ({"sigma_data": 0.0}, "'sigma_data' parameter"),
        ({"condition": "int"}, "'condition' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"dtype": "int8"}, "'dtype' parameter"),
        ({"device": "nowhere"}, "is not available to torch here"),
    ],
)
def test_bad_parameters(X, Z, parameters, sentence):
    model = NetworkDenoiser(identity).set_params(**parameters)
    with pytest.raises(ValueError, match=sentence):
        model.fit(X)
    if "device" not in parameters:
        with pytest.raises(ValueError, match=sentence):
            model.set_params(image_shape=SHAPE).denoise(Z, 0.5)


# --------------------------------------------------------------------- real networks


@pytest.fixture(scope="module")
def networks(shared):
    """The module that loads the shared networks."""
    path = shared / "networks" / "networks.py"
    spec = importlib.util.spec_from_file_location("networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("mnist_ddpm_cnn", {0.3: 0.01, 1.0: 0.05}),
        ("mnist_flow_vit", {1.0: 0.055, 3.0: 0.17}),
    ],
)
def test_shared_networks(networks, shared, name, bounds):
    """A callable that takes one float; the stated errors on held-out digits, about."""
    from skpspc.datasets import load_edm_zip

    clean = load_edm_zip(shared / "data" / "mnist-28x28-test.zip").images[:16]
    clean = (clean / 127.5 - 1).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    network = getattr(networks, name)()
    model = NetworkDenoiser(network, condition="float", image_shape=(1, 28, 28))
    for sigma, bound in bounds.items():
        Z = clean + np.float32(sigma) * noise
        mean = model.denoise(Z, sigma)
        with torch.no_grad():
            expected = network(torch.from_numpy(Z), sigma).numpy()
        np.testing.assert_allclose(mean, expected, rtol=0, atol=1e-6)
        assert ((mean - clean) ** 2).mean() < bound


# --------------------------------------------------------------------------------- files


class Trap:
    """A pickle that writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def conv(bias=True):
    return torch.nn.Conv2d(1, 1, 3, bias=bias)


def test_weights_are_loaded_safely(tmp_path):
    source = conv().state_dict()
    save_file(source, tmp_path / "w.safetensors")
    torch.save(source, tmp_path / "w.pt")
    torch.save({"step": 3, "state_dict": source}, tmp_path / "wrapped.ckpt")
    torch.save({"model": conv().state_dict(), "ema": source}, tmp_path / "ema.pth")
    torch.save({"ema": {}, "model": source}, tmp_path / "empty.pth")
    for name in ("w.safetensors", "w.pt", "wrapped.ckpt", "ema.pth", "empty.pth"):
        module = conv().train()
        assert load_network(tmp_path / name, module) is module
        assert not module.training
        torch.testing.assert_close(module.state_dict(), source)
        with pytest.raises(ValueError, match="holds only weights; pass the module"):
            load_network(str(tmp_path / name))
        with pytest.raises(ValueError, match="do not match Conv2d"):
            load_network(tmp_path / name, conv(bias=False))


def test_pickles_are_refused_unless_trusted(tmp_path):
    module = conv().train()
    torch.save(module, tmp_path / "module.pt")
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"ema": module, "augment_pipe": None}))
    for name in ("module.pt", "edm.pkl"):
        with pytest.raises(ValueError, match=r"more than weights.*pass trust=True"):
            load_network(tmp_path / name)
        loaded = load_network(tmp_path / name, trust=True)
        assert isinstance(loaded, torch.nn.Conv2d)
        assert not loaded.training
    sprung = tmp_path / "sprung"
    torch.save({"ema": Trap(sprung)}, tmp_path / "trap.pt")
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("trap.pt", "trap.pkl"):
        with pytest.raises(ValueError, match="if you trust its author pass trust=True"):
            load_network(tmp_path / name)
        for trust in ("no", 1, None, [False]):
            with pytest.raises(ValueError, match="trust must be True or False, got"):
                load_network(tmp_path / name, trust=trust)
        assert not sprung.exists()


def test_files_that_hold_no_network(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_network(tmp_path / "nothing.pt")
    for name in ("cut.safetensors", "cut.SAFETENSORS"):
        (tmp_path / name).write_bytes(b"\x10\x00")
        with pytest.raises(ValueError, match="is not a complete safetensors file"):
            load_network(tmp_path / name)
    # the last two make the unpickler look where nothing is
    for content in (b"", b"not a pickle", b"\x80\x04garbage", b"\x81\x84", b"r|\xc4\x16\x7f}"):
        (tmp_path / "junk.pkl").write_bytes(content)
        with pytest.raises(ValueError, match="is not loaded"):
            load_network(tmp_path / "junk.pkl")
        with pytest.raises(ValueError, match="is neither a torch file nor a pickle"):
            load_network(tmp_path / "junk.pkl", trust=True)
    torch.save({"step": 3}, tmp_path / "step.pt")
    with pytest.raises(ValueError, match="holds a dict, not a module or a state dict of tensors"):
        load_network(tmp_path / "step.pt")
    for network in (torch.nn.Conv2d, "unet"):
        with pytest.raises(ValueError, match=r"network must be a torch\.nn\.Module, not its"):
            load_network(tmp_path / "step.pt", network)


# ------------------------------------------------------------------- threads, rows, torch.func


def test_threads_share_a_network_in_evaluation_mode():
    """The mode is restored by the last thread that uses the network."""
    net = torch.nn.Sequential(torch.nn.Dropout(0.5))
    inside, both = threading.Event(), threading.Barrier(2, timeout=30)

    def network(x, c):
        if not inside.is_set():
            inside.set()
            both.wait()  # the other thread starts
            both.wait()  # and ends
        return net(x)

    model = NetworkDenoiser(network, image_shape=(1, 2, 2))
    Z = np.ones((1, 1, 2, 2), np.float32)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(model.denoise, Z, 0.5)
        both.wait()
        np.testing.assert_array_equal(model.denoise(Z, 0.5), Z)
        both.wait()
        np.testing.assert_array_equal(first.result(), Z)
    assert net.training and net[0].training


@pytest.mark.parametrize("options", [{"batch_size": 2}, {"condition": "float"}, {}])
def test_keyword_arguments_with_a_row_for_each_image(options):
    def network(x, c, shift, scale):
        return scale * x + shift.view(-1, 1, 1, 1)

    kwargs = {"shift": torch.arange(5.0), "scale": torch.tensor(2.0)}
    options = {"image_shape": (1, 2, 2), "network_kwargs": kwargs, **options}
    Z = np.ones((5, 1, 2, 2), np.float32)
    got = NetworkDenoiser(network, **options).denoise(Z, [0.5, 0.0, 1.0, 0.5, 2.0])
    np.testing.assert_array_equal(got[:, 0, 0, 0], [2, 1, 4, 5, 6])


def test_containers_without_networks_are_not_walked():
    entries = list(range(10**6))
    held = modules_of(lambda x, c: x * len(entries))
    assert held == []
    net = torch.nn.ReLU()
    few = [net]
    assert modules_of(lambda x, c: few[0](x)) == [net]


def test_torch_func():
    net = torch.nn.Conv2d(1, 1, 3, padding=1).double()
    model = NetworkDenoiser(lambda x, c: net(x).tanh(), image_shape=(1, 3, 3), dtype="float64")
    z = torch.randn(2, 1, 3, 3, dtype=torch.float64)

    def loss(z):
        return model.denoise(z, 0.5).square().sum()

    expected = torch.autograd.functional.jacobian(loss, z)
    torch.testing.assert_close(torch.func.grad(loss)(z), expected)
    torch.testing.assert_close(torch.func.jvp(loss, (z,), (z,))[1], (expected * z).sum())
    each = torch.func.vmap(torch.func.grad(loss))(z[:, None])
    torch.testing.assert_close(each[:, 0], expected)
