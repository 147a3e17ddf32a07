"""Errors on held-out images: against a loop over images and noise levels."""

import numpy as np
import pytest
import torch
from sklearn import config_context

from skpspc.sampling import draw_noise
from skpspc.support import TrainingSet
from skpspc.support.held_out import held_out_errors

SIGMAS = [0.2, 1.0, 3.0]


def shrunk(factor):
    return lambda z, sigma: factor * z / (1 + sigma.to(z).view(-1, 1, 1, 1))


def by_hand(images, factor, target, noise_per_level):
    """The errors of one denoiser, (L, n)."""
    n_levels = len(SIGMAS)
    errors = np.empty((n_levels, len(images)))
    shape = (n_levels if noise_per_level else 1, *images.shape[1:])
    noise = draw_noise(shape, len(images), 7)
    for i, x in enumerate(images):
        for j, sigma in enumerate(SIGMAS):
            z = x + sigma * noise[i, j if noise_per_level else 0]
            y = x if target is None else target * z
            errors[j, i] = (factor * z / (1 + sigma) - y).square().mean()
    return errors


@pytest.mark.parametrize("noise_per_level", [False, True])
@pytest.mark.parametrize("target", [None, 0.5])
@pytest.mark.parametrize("mib", [1, 1024])
def test_errors_agree_with_a_loop_whatever_the_blocks(noise_per_level, target, mib):
    images = torch.randn(9, 2, 48, 50, dtype=torch.float64)
    calls = []

    def reference(_clean, z, _sigma):
        calls.append(len(z))
        return target * z

    with config_context(working_memory=mib):
        errors = held_out_errors(
            (shrunk(factor) for factor in (0.5, 1.0)),
            TrainingSet(images),
            SIGMAS,
            7,
            target=None if target is None else reference,
            noise_per_level=noise_per_level,
        )
    expected = [by_hand(images, factor, target, noise_per_level) for factor in (0.5, 1.0)]
    np.testing.assert_allclose(errors, np.stack(expected, 1), rtol=1e-12)
    # the reference is asked once for each noisy image, whatever the number of denoisers
    assert sum(calls) == (0 if target is None else len(SIGMAS) * len(images))
    assert target is None or (len(calls) > 1) == (mib == 1)


def test_a_target_for_each_clean_image_serves_all_noise_levels():
    images = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    held_out = TrainingSet(images)
    corner = held_out_errors(
        lambda z, _sigma: z[..., :2, :2],
        held_out,
        SIGMAS,
        7,
        target=lambda clean, _z, _sigma: clean[..., :2, :2],
    )
    noise = draw_noise((1, 4, 4), 5, 7)[..., :2, :2].square().flatten(1).mean(1)
    expected = np.square(SIGMAS)[:, None] * noise.numpy()
    np.testing.assert_allclose(corner[:, 0], expected, rtol=1e-5)
