"""Denoisers as networks of diffusers."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from .._optional import load
from ..denoisers.base import Denoiser
from ._denoised import Denoised, along, levels

_PREDICTIONS = ("epsilon", "sample", "v_prediction")


def as_diffusers_unet(model: Denoiser, scheduler: Any) -> Any:
    r"""Return a denoiser as a ``UNet2DModel`` of diffusers.

    Parameters
    ----------
    model : Denoiser
        Fitted denoiser.
    scheduler : diffusers scheduler
        Scheduler with ``alphas_cumprod``, such as ``DDIMScheduler`` or
        ``DPMSolverMultistepScheduler``. Its ``prediction_type`` determines the output.

    Returns
    -------
    diffusers.ModelMixin
        ``unet(sample, timestep, class_labels=None, guidance=1.0).sample`` is the prediction for
        noisy images
        :math:`\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon`, with clean images
        on [-1, 1]: the noise ("epsilon"), the clean images ("sample") or
        :math:`\sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, x_0` ("v_prediction").
        ``class_labels`` are indices of ``model.classes_``; the number of classes stands for any
        class. ``config`` has ``in_channels``, ``out_channels``, ``sample_size`` and
        ``num_class_embeds``.

    Raises
    ------
    ImportError
        If diffusers is not installed, or too old.
    TypeError
        If model is no denoiser.
    ValueError
        If the scheduler has no ``alphas_cumprod``, or another prediction type.

    Notes
    -----
    At a fraction of a step, :math:`\log \sigma_t` is interpolated linearly, as diffusers'
    schedulers do.
    """
    return _wrapper()(model, scheduler)


def _log_sigmas(scheduler):
    r"""Return :math:`\log \sigma_t` of each step; raise if the scheduler does not define it."""
    alpha_bar = getattr(scheduler, "alphas_cumprod", None)
    if alpha_bar is None:
        raise ValueError(
            f"{type(scheduler).__name__} has no alphas_cumprod; pass a scheduler of a variance "
            "preserving diffusion, such as DDIMScheduler."
        )
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ValueError(
            f"{type(scheduler).__name__} has prediction_type={prediction!r}; use one of "
            f"{', '.join(map(repr, _PREDICTIONS))}."
        )
    signal = torch.as_tensor(np.asarray(alpha_bar), dtype=torch.float64)
    return ((1 - signal) / signal).log() / 2


@cache
def _wrapper():
    """Return the class of the adapter, which inherits from classes of diffusers."""
    diffusers = load("diffusers")
    model_mixin: Any = diffusers.ModelMixin
    config_mixin: Any = diffusers.ConfigMixin
    base_output: Any = load("diffusers.utils").BaseOutput

    @dataclass
    class Output(base_output):
        """Prediction of a network of diffusers."""

        sample: torch.Tensor

    class DiffusersUNet(model_mixin, config_mixin):
        """A denoiser as a network of diffusers."""

        config_name = "config.json"

        def __init__(self, model, scheduler):
            super().__init__()
            self.denoised = Denoised(model)
            self.scheduler = scheduler
            self.log_sigmas = _log_sigmas(scheduler)
            channels, *size = self.denoised.image_shape
            self.register_to_config(
                in_channels=channels,
                out_channels=channels,
                sample_size=size,
                num_class_embeds=self.denoised.n_classes or None,
            )
            # gives the module the dtype and the device that pipelines ask for
            self.register_buffer("place", torch.zeros((), dtype=self.denoised.dtype))

        def forward(self, sample, timestep, class_labels=None, return_dict=True, guidance=1.0):
            """Return the prediction for noisy images at time steps."""
            sigma = self._sigma(levels(timestep, len(sample))).to(sample.device)
            # one formula for each, because sigma is infinite in schedules that end without signal
            signal = along((1 + sigma.square()).rsqrt(), sample).to(sample)
            noise = along((1 + sigma.square().reciprocal()).rsqrt(), sample).to(sample)
            z = sample / torch.where(signal > 0, signal, 1)
            x0 = self.denoised.of_classes(z, sigma, class_labels, guidance)
            answer = self._prediction(sample, x0, signal, noise)
            return Output(sample=answer) if return_dict else (answer,)

        def _prediction(self, sample, x0, signal, noise):
            """Return what the scheduler takes, from clean images."""
            prediction = self.scheduler.config.get("prediction_type", "epsilon")
            if prediction == "sample":
                return x0
            eps = (sample - signal * x0) / noise
            return eps if prediction == "epsilon" else signal * eps - noise * x0

        def _sigma(self, timestep):
            """Return the noise levels of time steps (n,), float64."""
            step, last = timestep.detach().cpu().double(), len(self.log_sigmas) - 1
            if not ((step >= 0) & (step <= last)).all():
                raise ValueError(
                    f"time steps of the scheduler must lie between 0 and {last}, got "
                    f"{step.min():g} to {step.max():g}."
                )
            low, high = step.floor().long(), step.ceil().long()
            between = torch.lerp(self.log_sigmas[low], self.log_sigmas[high], step.frac())
            return torch.where(low == high, self.log_sigmas[low], between).exp()

        def __reduce__(self):
            return as_diffusers_unet, (self.denoised.model, self.scheduler)

    return DiffusersUNet
