"""Patch sizes that denoise held-out training images best."""

import numpy as np
import torch

from ..sampling import PatchSchedule, draw_noise, edm_sigmas, noise_seed, paper_schedule
from ..sampling.choice import least_total, patch_sizes
from ..support.memory import rows_that_fit
from ..support.training_set import DEFAULT_RANGE
from .bandwidth import NO_SPREAD, held_and_fitted, refitted

# Noise levels that are tried, in standard deviations of a pixel: at the first the smallest
# patches serve, at the last all sizes give nearly the mean image.
_SPREADS = tuple(edm_sigmas(9, 0.05, 32.0)[::-1].tolist())


def calibrated_sizes(denoiser):
    """The patch sizes of least error on held-out training images, never falling with sigma.

    Parameters
    ----------
    denoiser : PSPCDenoiser
        Its training set is known.

    Returns
    -------
    PatchSchedule
        The paper's, if there are too few images to hold any out, or all are alike.
    """
    seed = noise_seed(denoiser.random_state)
    held, rest = held_and_fitted(denoiser, seed)
    spread = _pixel_spread(rest) if len(rest) else 0.0
    if spread <= NO_SPREAD * denoiser.training_set_.abs_max:
        return paper_schedule(denoiser.image_shape_, denoiser.data_range_ or DEFAULT_RANGE)
    bandwidth = denoiser.bandwidth
    if isinstance(bandwidth, str):  # it is calibrated afterwards, with these sizes
        bandwidth = 0.0
    model = refitted(denoiser, rest, patch_size=1, bandwidth=bandwidth)
    noise = draw_noise(held.image_shape, len(held), seed).to(held.device)
    sigmas, sizes = [spread * level for level in _SPREADS], patch_sizes(held.image_shape)
    columns = [_errors(model, size, held, noise, sigmas) for size in sizes]
    chosen = least_total(np.column_stack(columns))
    return PatchSchedule(sigmas, [sizes[k] for k in chosen])


def _errors(model, size, held, noise, sigmas):
    """Mean squared error at each noise level, (L,)."""
    model._schedule = size
    dtype = torch.float64 if held.images.dtype == torch.float64 else torch.float32
    share = held.sample_weight / held.sample_weight.sum()
    total = np.zeros(len(sigmas))
    levels = torch.tensor(sigmas, dtype=torch.float64, device=held.device)
    row_bytes = 3 * noise.element_size() * noise[0].numel() * len(sigmas)
    n_rows = rows_that_fit(row_bytes, len(held), what="One held-out image at all noise levels")
    for rows in held.slices(n_rows):
        clean = held.take(rows, dtype)
        # all levels at once: they share the passes over the training set
        noisy = clean + levels.view(-1, 1, 1, 1, 1).to(dtype) * noise[rows].to(dtype)
        with torch.no_grad():
            mean = model._posterior(noisy.flatten(0, 1), levels.repeat_interleave(len(clean))).mean
        error = (mean.view(noisy.shape) - clean).double().square().flatten(2).mean(2)
        total += (error @ share[rows]).cpu().numpy()
    return total


def _pixel_spread(training_set):
    """Root of the mean variance of a pixel."""
    weight = training_set.sample_weight / training_set.sample_weight.sum()
    row_bytes = 2 * 8 * training_set.n_values
    n_rows = rows_that_fit(row_bytes, len(training_set), what="One training image")
    mean, variance = 0.0, 0.0
    for rows in training_set.slices(n_rows):
        mean = mean + weight[rows] @ training_set.take(rows, torch.float64).flatten(1)
    for rows in training_set.slices(n_rows):
        images = training_set.take(rows, torch.float64).flatten(1)
        variance += float(weight[rows] @ (images - mean).square().mean(1))
    return variance**0.5
