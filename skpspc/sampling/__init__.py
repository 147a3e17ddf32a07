"""Schedules of noise levels, samplers, and conversions between notations of noisy images."""

from . import convert
from .noise import draw_noise, noise_seed
from .samplers import SAMPLERS, SamplingInterrupted, euler, heun
from .schedules import (
    BandwidthSchedule,
    PatchSchedule,
    edm_sigmas,
    local_score_schedule,
    paper_schedule,
)

__all__ = [
    "SAMPLERS",
    "BandwidthSchedule",
    "PatchSchedule",
    "SamplingInterrupted",
    "convert",
    "draw_noise",
    "edm_sigmas",
    "euler",
    "heun",
    "local_score_schedule",
    "noise_seed",
    "paper_schedule",
]
