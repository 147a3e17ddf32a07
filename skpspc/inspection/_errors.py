"""Checked answers of denoisers, and standard errors of means over images."""

import numpy as np
import torch


def answer_of(denoiser, z, sigma, name):
    """Return the answer of a denoiser to noisy images (n, ...), on the device of z.

    Raise for an answer of another shape, NaN or infinity; errors call the denoiser ``name``.
    """
    answer = torch.as_tensor(denoiser.denoise(z, sigma)).detach().to(z.device)
    if answer.shape != z.shape:
        raise ValueError(
            f"{name} answers with shape {tuple(answer.shape)} to noisy images of shape "
            f"{tuple(z.shape)}; pass a denoiser of whole images, such as PSPCDenoiser."
        )
    wrong = ~answer.flatten(1).isfinite().all(1)
    if wrong.any():
        level = torch.as_tensor(sigma).expand(len(z))[wrong.cpu()][0]
        raise ValueError(
            f"{name} answers with NaN or infinity at sigma = {level:.4g}; leave out noise levels "
            f"outside the range of {name}."
        )
    return answer


def standard_error(values, weight=None):
    r"""Return the standard error of a weighted mean, :math:`\sqrt{n / (n - 1) \sum_i w_i^2 e_i^2}`.

    :math:`e_i` are the deviations of values (..., n) from their mean, :math:`w_i` their weights
    (n,), which sum to one; None: equal weights. NaN for one image, and for values not finite.
    """
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan)
    weight = np.full(n, 1 / n) if weight is None else weight
    with np.errstate(invalid="ignore"):
        deviation = values - (values @ weight)[..., None]
    return np.sqrt(n / (n - 1) * (deviation**2 @ weight**2))
