"""Schedules of noise levels, samplers, and conversions between notations of noisy images."""

from . import convert
from .noise import draw_noise, noise_seed
from .samplers import SAMPLERS, SamplingInterrupted, ddim, dpmpp_2m, edm, euler, heun
from .schedules import (
    BandwidthSchedule,
    PatchSchedule,
    edm_sigmas,
    exponential_sigmas,
    flow_sigmas,
    local_score_schedule,
    paper_schedule,
    vp_sigmas,
)

__all__ = [
    "SAMPLERS",
    "BandwidthSchedule",
    "PatchSchedule",
    "SamplingInterrupted",
    "convert",
    "ddim",
    "dpmpp_2m",
    "draw_noise",
    "edm",
    "edm_sigmas",
    "euler",
    "exponential_sigmas",
    "flow_sigmas",
    "heun",
    "local_score_schedule",
    "noise_seed",
    "paper_schedule",
    "vp_sigmas",
]
