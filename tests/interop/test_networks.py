"""Networks of other libraries in `NetworkDenoiser`, without a lambda."""

import pytest
import torch

from helpers import real
from skpspc import NetworkDenoiser
from skpspc.adapters import as_azula, as_diffusers_unet, as_edm, as_kdiffusion

SHAPE = (1, 8, 8)
LEVELS = torch.tensor([0.05, 0.4, 3.0, 20.0], dtype=torch.float64)


@pytest.fixture
def Z(images, noise):
    """Noisy digits, one at each noise level."""
    return images[:4] + LEVELS[:, None, None, None] * noise


class Backbone(torch.nn.Module):
    """A small network of one image and one number, with dropout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x, c, **options):
        return self.dropout(self.body(x) + c.to(x).reshape(-1, 1, 1, 1))


# ------------------------------------------------------------------------------- diffusers


PREDICTIONS = {"sample": "x0", "epsilon": "eps", "v_prediction": "v"}


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_unet_of_diffusers(Z, prediction):
    """A UNet2DModel and its scheduler, against diffusers' own estimate of x0."""
    diffusers = real("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=10,
        dropout=0.5,
    ).double()
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction, clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(1000)
    model = NetworkDenoiser(
        unet.train(),
        PREDICTIONS[prediction],
        time=scheduler,
        network_kwargs={"class_labels": torch.tensor([3])},
        image_shape=SHAPE,
    )
    for step in (0, 300, 900):
        abar = scheduler.alphas_cumprod[step].double()
        sigma = ((1 - abar) / abar).sqrt()
        got = model.denoise(Z, sigma)
        assert unet.training
        x = Z * abar.sqrt()
        with torch.no_grad():
            answer = unet.eval()(x, step, class_labels=torch.tensor([3])).sample
        expected = scheduler.step(answer, step, x).pred_original_sample
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)  # float32 abar
        unet.train()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("return_dict", [True, False])
def test_there_and_back_by_diffusers(model, images, noise, prediction, return_dict):
    diffusers = real("diffusers")
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction)
    again = NetworkDenoiser(
        as_diffusers_unet(model, scheduler),
        PREDICTIONS[prediction],
        time=scheduler,
        network_kwargs={"return_dict": return_dict},
        image_shape=SHAPE,
        dtype="float64",
    )
    abar = scheduler.alphas_cumprod[[3, 200, 500, 900]].double()
    sigma = ((1 - abar) / abar).sqrt()
    Z = images[:4] + sigma[:, None, None, None] * noise
    torch.testing.assert_close(again.denoise(Z, sigma), model.denoise(Z, sigma))


@pytest.mark.parametrize("name", ["linear", "squaredcos_cap_v2"])
def test_names_are_those_of_diffusers(name):
    diffusers = real("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_schedule=name)
    sigma = torch.logspace(-1.9, 2, 200, dtype=torch.float64)
    by_name, by_object = (
        NetworkDenoiser(torch.nn.Identity(), "eps", time=time, image_shape=SHAPE)._prior_of().time
        for time in (name, scheduler)
    )
    assert by_name(sigma).tolist() == by_object(sigma).tolist()


# ----------------------------------------------------------------------------------- azula


AZULA = ["VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule", "DecaySchedule"]


@pytest.mark.parametrize("name", AZULA)
@pytest.mark.parametrize("by_name", [False, True])
def test_there_and_back_by_azula(model, Z, name, by_name):
    schedule = getattr(real("azula.noise"), name)()
    again = NetworkDenoiser(
        as_azula(model, schedule),
        time=name if by_name else schedule,
        image_shape=SHAPE,
        dtype="float64",
    )
    got, expected = again.denoise(Z, LEVELS), model.denoise(Z, LEVELS)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["KarrasDenoiser", "SimpleDenoiser"])
def test_a_denoiser_of_azula(Z, kind):
    schedule = real("azula.noise").CosineSchedule()
    denoiser = getattr(real("azula.denoise"), kind)(Backbone().double(), schedule)
    got = NetworkDenoiser(denoiser, time=schedule, image_shape=SHAPE).denoise(Z, LEVELS)
    assert denoiser.training
    denoiser.eval()
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    signal, scale = schedule(t)
    times = t[(scale / signal - LEVELS[:, None]).abs().argmin(1)]
    expected = denoiser(schedule(times)[0][:, None, None, None] * Z, times).mean
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)


# ----------------------------------------------------------------------------- k-diffusion


def test_models_of_k_diffusion(Z):
    """Its wrappers are denoisers themselves; their inner model and ``sigma_to_t`` give equals."""
    external = real("k_diffusion.external")
    inner = Backbone().double().eval()
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    wrappers = [
        ("v", external.VDenoiser(inner)),
        ("eps", external.DiscreteEpsDDPMDenoiser(inner, abar, quantize=False)),
        ("eps", external.DiscreteEpsDDPMDenoiser(inner, abar, quantize=True)),
        ("v", external.DiscreteVDDPMDenoiser(inner, abar, quantize=False)),
    ]
    for kind, wrapper in wrappers:
        with torch.no_grad():
            expected = wrapper(Z, LEVELS)
        for model in (
            NetworkDenoiser(wrapper, image_shape=SHAPE, dtype="float64"),
            NetworkDenoiser(inner, kind, time=wrapper, image_shape=SHAPE),
        ):
            torch.testing.assert_close(model.denoise(Z, LEVELS), expected)
    named = NetworkDenoiser(inner, "v", time="VDenoiser", image_shape=SHAPE)
    with torch.no_grad():
        expected = external.VDenoiser(inner)(Z, LEVELS)
    torch.testing.assert_close(named.denoise(Z, LEVELS), expected)


@pytest.mark.parametrize("adapter", [as_edm, as_kdiffusion])
def test_there_and_back_by_networks_of_sigma(model, Z, adapter):
    again = NetworkDenoiser(adapter(model), image_shape=SHAPE, dtype="float64")
    torch.testing.assert_close(again.denoise(Z, LEVELS), model.denoise(Z, LEVELS))


def test_a_preconditioned_network_of_k_diffusion(Z):
    """k-diffusion's EDM preconditioning is the parametrization "edm"."""
    layers = real("k_diffusion.layers")
    inner = Backbone().double().eval()
    wrapper = layers.Denoiser(inner, sigma_data=0.5)
    with torch.no_grad():
        expected = wrapper(Z, LEVELS)
    whole = NetworkDenoiser(wrapper, image_shape=SHAPE)
    torch.testing.assert_close(whole.denoise(Z, LEVELS), expected)
