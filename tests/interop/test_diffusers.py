"""Schedulers and pipelines of diffusers with a denoiser as their network."""

import copy
import pickle

import pytest
import torch

from helpers import real
from skpspc.adapters import as_diffusers_unet
from skpspc.sampling import convert, euler

diffusers = real("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SCHEDULERS = {
    "DDIMScheduler": {"timestep_spacing": "trailing", "clip_sample": False},
    "DDPMScheduler": {"timestep_spacing": "trailing"},
    "DPMSolverMultistepScheduler": {"timestep_spacing": "trailing"},
    "DPMSolverSinglestepScheduler": {},
    "UniPCMultistepScheduler": {"timestep_spacing": "trailing"},
    "DEISMultistepScheduler": {"timestep_spacing": "trailing"},
    "EulerDiscreteScheduler": {"use_karras_sigmas": True},
    "HeunDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
}


def by_formula(oracle, scheduler, labels=None):
    """The prediction of the scheduler's type, from the formula and abar of integer steps."""
    alpha_bar = scheduler.alphas_cumprod.double()

    def network(sample, step):
        level = torch.as_tensor(step).double()
        low, high = level.floor().long(), level.ceil().long()
        logs = ((1 - alpha_bar) / alpha_bar).log()
        sigma = ((logs[low] + (level - low) * (logs[high] - logs[low])) / 2).exp()
        abar = 1 / (1 + sigma**2)
        x0 = oracle(sample / abar.sqrt(), sigma, labels)
        eps = (sample - abar.sqrt() * x0) / (1 - abar).sqrt()
        v = abar.sqrt() * eps - (1 - abar).sqrt() * x0
        return {"epsilon": eps, "sample": x0, "v_prediction": v}[scheduler.config.prediction_type]

    return network


def drawn(network, scheduler, noise, n_steps=20):
    """The loop of diffusers' pipelines."""
    scheduler.set_timesteps(n_steps)
    source = torch.Generator().manual_seed(0)
    x = noise * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        answer = network(scheduler.scale_model_input(x, step), step)
        takes_generator = "generator" in scheduler.step.__code__.co_varnames
        options = {"generator": source} if takes_generator else {}
        x = scheduler.step(answer, step, x, **options).prev_sample
    return x


# diffusers has no ancestral Euler steps for networks that predict the clean images
PAIRS = [
    (name, prediction)
    for name in SCHEDULERS
    for prediction in PREDICTIONS
    if (name, prediction) != ("EulerAncestralDiscreteScheduler", "sample")
]


@pytest.mark.parametrize(("name", "prediction"), PAIRS)
def test_every_scheduler(model, oracle, noise, name, prediction):
    kind = getattr(diffusers, name)
    options = {**SCHEDULERS[name], "prediction_type": prediction}
    scheduler, other = kind(**options), kind(**options)
    unet = as_diffusers_unet(model, scheduler)
    got = drawn(lambda x, t: unet(x, t).sample, scheduler, noise)
    expected = drawn(by_formula(oracle, other), other, noise)
    assert got.isfinite().all()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_ddim_is_our_euler(model, noise):
    """A step of DDIM is an Euler step between the noise levels of its steps."""
    scheduler = diffusers.DDIMScheduler(**SCHEDULERS["DDIMScheduler"], set_alpha_to_one=True)
    unet = as_diffusers_unet(model, scheduler)
    got = drawn(lambda x, t: unet(x, t, return_dict=False)[0], scheduler, noise)
    abar = scheduler.alphas_cumprod[scheduler.timesteps].double()
    sigmas = convert.sigma_from_alpha_bar(abar)
    start = convert.ve_from_vp(noise, float(sigmas[0]))
    *_, ours = euler(model.denoise, start, sigmas.tolist())
    torch.testing.assert_close(got, ours, rtol=0, atol=1e-5)  # the scheduler's abar are float32


def test_pipelines(model, images):
    """Both unconditional pipelines draw digits; almost all are training images."""
    for name in ("DDPM", "DDIM"):
        scheduler = getattr(diffusers, f"{name}Scheduler")(timestep_spacing="trailing")
        pipeline = getattr(diffusers, f"{name}Pipeline")(
            unet=as_diffusers_unet(model, scheduler), scheduler=scheduler
        )
        pipeline.set_progress_bar_config(disable=True)
        drawn = pipeline(
            batch_size=4,
            generator=torch.Generator().manual_seed(0),
            num_inference_steps=50,
            output_type="np",
        ).images
        assert drawn.shape == (4, 8, 8, 1)
        drawn = torch.from_numpy(drawn).permute(0, 3, 1, 2)
        distance = (2 * drawn[:, None] - 1 - images).square().mean((2, 3, 4)).amin(1).sqrt()
        assert distance.max() < 0.05


def test_classes_shapes_and_config(model, oracle, noise):
    scheduler = diffusers.DDIMScheduler()
    unet = as_diffusers_unet(model, scheduler)
    assert (unet.config.in_channels, unet.config.out_channels) == (1, 1)
    assert list(unet.config.sample_size) == [8, 8]
    assert unet.config.num_class_embeds == 10
    assert (unet.dtype, unet.device) == (torch.float64, torch.device("cpu"))
    steps, classes = torch.tensor([200, 300, 500, 999]), torch.tensor([3, 10, 0, 10])
    together = unet(noise, steps, class_labels=classes).sample
    for i, (step, code) in enumerate(zip(steps, [[3], None, [0], None], strict=True)):
        alone = by_formula(oracle, scheduler, code)(noise[i : i + 1], step)
        torch.testing.assert_close(together[i : i + 1], alone)
    assert unet(noise.float(), 300).sample.dtype == torch.float32
    for again in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))):
        torch.testing.assert_close(again(noise, steps, class_labels=classes).sample, together)


def test_a_schedule_that_ends_without_signal(model, images, noise):
    """abar = 0 at the last step: the denoised image is the mean of the training images."""
    options = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    scheduler = diffusers.DDIMScheduler(**options)
    assert scheduler.alphas_cumprod[-1] == 0
    v = as_diffusers_unet(model, scheduler)(noise, 999).sample
    torch.testing.assert_close(v, -images.mean(0).expand(4, 1, 8, 8))


def test_schedulers_that_do_not_fit(model):
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        as_diffusers_unet(model, diffusers.FlowMatchEulerDiscreteScheduler())
    scheduler = diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="prediction_type='flow_prediction'; use one of 'epsilon'"):
        as_diffusers_unet(model, scheduler)
