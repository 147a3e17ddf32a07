r"""Errors of denoisers on held-out images.

.. math::

    E_{\ell s i} = \frac{1}{d} \| D_s(x_i + \sigma_\ell \epsilon_i; \sigma_\ell) - y_{\ell i} \|^2

for held-out images :math:`x_i` of d values and standard normal noise. The target y is the clean
image or the output of a reference denoiser. Scores, calibrations and blends are weighted means of
these errors.
"""

import numpy as np
import torch

from .._progress import progress
from ..sampling import draw_noise
from .memory import rows_that_fit


def held_out_errors(
    answers, held_out, sigmas, seed, *, target=None, noise_per_level=False, measure=None
):
    """Return the mean squared error per pixel of every denoiser on every held-out image.

    Parameters
    ----------
    answers : callable, or iterable of S callables
        Denoisers: ``answer(z, sigma)`` returns posterior means (m, ...) for noisy images z
        (m, C, H, W) and noise levels (m,), float64. A generator may make one denoiser at a time:
        each denoises all held-out images before the next denoiser is made.
    held_out : TrainingSet
        n clean images.
    sigmas : array of float of shape (L,)
        Noise levels, in the units of the images. All levels of a block of images are denoised in
        one call, so that they share the passes over the training set.
    seed : int
        Seed of the noise; the noise of image i depends on the seed and on i only.
    target : callable, default None
        ``target(clean, z, sigma)`` returns the images to compare with: one for each of the m noisy
        images, or one for each clean image. It is called once per block, and its results are kept.
        None: compare with the clean images.
    noise_per_level : bool, default False
        True: draw independent noise at each noise level. False: scale one draw per image to all
        noise levels.
    measure : callable, default None
        Maps clean images (m, C, H, W) to the values (m, c, h, w) that get noise. None: the images.

    Returns
    -------
    ndarray of shape (L, S, n), float64
        S = 1 for a single callable. For weights that sum to one, ``errors @ weight`` is the mean
        over images.

    Raises
    ------
    MemoryError
        If one image at all noise levels exceeds ``working_memory``.
    """
    targets: dict[int, torch.Tensor] = {}
    errors = []
    for answer in [answers] if callable(answers) else answers:
        blocks = []
        noisy = noisy_blocks(held_out, sigmas, seed, noise_per_level, measure)
        for rows, clean, z, sigma in noisy:
            if target is not None and rows.start not in targets:
                targets[rows.start] = target(clean, z, sigma)
            expected = targets.get(rows.start, clean)
            by_level = (-1, len(clean), *expected.shape[1:])
            with torch.no_grad():
                difference = answer(z, sigma).view(by_level) - expected.view(by_level)
            blocks.append(difference.double().square().flatten(2).mean(2))
        errors.append(torch.cat(blocks, 1))
    return torch.stack(errors, 1).cpu().numpy()


def noisy_blocks(held_out, sigmas, seed, noise_per_level=False, measure=None):
    """Yield held-out images with noise at all noise levels, in blocks that fit ``working_memory``.

    See `held_out_errors` for the parameters.

    Yields
    ------
    rows : slice
        Indices of the held-out images in the block.
    clean : Tensor of shape (m, C, H, W)
        float64 for images of float64, otherwise float32. May be a view: never write to it.
    z : Tensor of shape (L * m, C, H, W)
        Noisy images, or noisy measurements (L * m, c, h, w), of all levels, one level after the
        other, in the dtype of ``clean``.
    sigma : Tensor of shape (L * m,), float64
    """
    dtype = held_out.float_dtype
    levels = torch.as_tensor(np.asarray(sigmas, dtype=np.float64), device=held_out.device)
    scale = levels.to(dtype).view(-1, 1, 1, 1, 1)
    row_bytes = 3 * 8 * held_out.n_values * len(levels)
    n_rows = rows_that_fit(row_bytes, len(held_out), what="One held-out image at all noise levels")
    for rows in progress(list(held_out.slices(n_rows)), "held-out images"):
        clean = held_out.take(rows, dtype)
        measured = clean if measure is None else measure(clean)
        shape = (len(levels) if noise_per_level else 1, *measured.shape[1:])
        noise = draw_noise(shape, len(clean), seed, start=rows.start).to(clean).transpose(0, 1)
        z = (measured + scale * noise).flatten(0, 1)
        yield rows, clean, z, levels.repeat_interleave(len(clean))
