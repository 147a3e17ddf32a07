"""EDM's samplers, written from the paper, with a denoiser as their network."""

import copy
import pickle

import numpy as np
import pytest
import torch

from skpspc import EmpiricalDenoiser, NetworkDenoiser
from skpspc.adapters import as_edm


def grid(net, n, sigma_min=0.002, sigma_max=80.0, rho=7):
    """Noise levels of Karras et al., Eq. 5, within the range of the network, and a final 0."""
    low, high = max(sigma_min, net.sigma_min), min(sigma_max, net.sigma_max)
    i = torch.arange(n, dtype=torch.float64)
    steps = high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))
    return torch.cat([net.round_sigma(steps**rho), torch.zeros(1, dtype=torch.float64)])


def edm_sampler(net, latents, labels=None, n=18, churn=(0.0, 0.0, np.inf, 1.0), draw=None):
    """Karras et al., Algorithm 2; without churn it is Algorithm 1 with s(t) = 1, sigma(t) = t."""
    s_churn, s_min, s_max, s_noise = churn
    t = grid(net, n)
    x = latents.to(torch.float64) * t[0]
    for i in range(n):
        gamma = min(s_churn / n, 2**0.5 - 1) if s_min <= t[i] <= s_max else 0.0
        t_hat = net.round_sigma(t[i] * (1 + gamma))
        if gamma:
            x = x + (t_hat**2 - t[i] ** 2) ** 0.5 * s_noise * draw(x)
        slope = (x - net(x, t_hat, labels).to(torch.float64)) / t_hat
        ahead = x + (t[i + 1] - t_hat) * slope
        if t[i + 1] > 0:
            second = (ahead - net(ahead, t[i + 1], labels).to(torch.float64)) / t[i + 1]
            ahead = x + (t[i + 1] - t_hat) * (slope + second) / 2
        x = ahead
    return x


class Oracle:
    """A network of EDM around the formula."""

    sigma_min, sigma_max = 0.002, 80.0
    round_sigma = staticmethod(torch.as_tensor)

    def __init__(self, denoise):
        self.denoise = denoise

    def __call__(self, x, sigma, labels=None):
        return self.denoise(x, sigma, None if labels is None else labels.argmax(1))


def rng():
    return torch.Generator().manual_seed(1)


def draws():
    source = rng()
    return lambda x: torch.randn(x.shape, dtype=x.dtype, generator=source)


@pytest.mark.parametrize("churn", [(0.0, 0.0, np.inf, 1.0), (40.0, 0.05, 50.0, 1.003)])
@pytest.mark.parametrize("with_labels", [False, True])
def test_algorithms_1_and_2(model, oracle, noise, churn, with_labels):
    labels = torch.eye(10, dtype=torch.float64)[[3, 3, 0, 9]] if with_labels else None
    got = edm_sampler(as_edm(model), noise, labels, churn=churn, draw=draws())
    expected = edm_sampler(Oracle(oracle), noise, labels, churn=churn, draw=draws())
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_algorithm_1_is_our_heun(model, noise):
    """``sample`` draws the same images from the same noise."""
    ours = model.sample(initial=80 * noise, sampler="heun", n_steps=18)
    torch.testing.assert_close(edm_sampler(as_edm(model), noise), ours, rtol=0, atol=1e-12)


def test_attributes_and_classes(model, oracle, noise):
    net = as_edm(model)
    assert (net.img_channels, net.img_resolution, net.label_dim) == (1, 8, 10)
    assert (net.sigma_min, net.sigma_max) == (0, np.inf)
    assert net.round_sigma(0.5) == 0.5
    assert net.eval().requires_grad_(False).to("cpu") is net
    sigma = torch.tensor([0.3, 1.0, 2.0, 5.0], dtype=torch.float64)
    labels = torch.zeros(4, 10)
    labels[0, 3] = labels[2, 9] = 1  # rows 1 and 3 are of any class
    got = net(noise, sigma[:, None, None, None], labels)
    torch.testing.assert_close(got[[0, 2]], oracle(noise[[0, 2]], sigma[[0, 2]], [3, 9]))
    torch.testing.assert_close(got[[1, 3]], oracle(noise[[1, 3]], sigma[[1, 3]]))
    torch.testing.assert_close(
        net(noise, torch.tensor(0.5), torch.zeros(1, 10)), oracle(noise, 0.5)
    )
    half = net(noise.half(), torch.tensor(0.5))
    assert half.dtype == torch.float16
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(again(noise, sigma, labels), got)


@pytest.mark.parametrize("data_range", [(0, 1), (0.0, 255.0), (-2, 3)])
def test_images_of_another_range(images, oracle, noise, data_range):
    low, high = data_range
    model = EmpiricalDenoiser(data_range=data_range).fit(low + (high - low) * (images + 1) / 2)
    torch.testing.assert_close(as_edm(model)(noise, 0.7), oracle(noise, 0.7))


@pytest.mark.parametrize(
    "labels",
    [torch.full((4, 10), 0.1), torch.ones(4, 10), torch.zeros(4, 9), torch.eye(10)[:4] * 2],
)
def test_labels_that_are_not_one_hot(model, noise, labels):
    with pytest.raises(ValueError, match="class_labels must be one-hot rows of 10 numbers"):
        as_edm(model)(noise, 0.5, labels)


def test_models_that_do_not_fit(images, noise):
    with pytest.raises(TypeError, match="model must be a denoiser of skpspc, got function"):
        as_edm(lambda z, sigma: z)
    with pytest.raises(ValueError, match="is not fitted yet"):
        as_edm(EmpiricalDenoiser())
    with pytest.raises(ValueError, match="these have 4 x 8 pixels; use as_kdiffusion"):
        as_edm(EmpiricalDenoiser().fit(images[:, :, :4]))
    with pytest.raises(ValueError, match=r"one noise level, or 4, one for each image; got 3"):
        as_edm(EmpiricalDenoiser().fit(images))(noise, torch.ones(3))


def test_a_network_without_fit(noise):
    """A denoiser without fit and classes."""
    model = NetworkDenoiser(lambda x, c: x / 2, image_shape=(1, 8, 8), dtype="float64")
    net = as_edm(model)
    assert net.label_dim == 0
    torch.testing.assert_close(net(noise, 0.5, torch.zeros(4, 0)), noise / 2)
