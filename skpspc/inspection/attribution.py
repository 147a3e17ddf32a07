"""Training images that an answer is made of, and answers without training images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils import Bunch

from .._repr import ShortBunch
from .._typing import ArrayLike, NoiseLevel
from ..posterior.attribution import Attribution

__all__ = ["Attribution", "attribute", "leave_out"]


def attribute(
    denoiser: Any,
    Z: ArrayLike,
    sigma: NoiseLevel,
    *,
    y: ArrayLike | None = None,
    top: int = 10,
) -> Attribution:
    r"""Return the training images, and their pixels, that make up each pixel of an answer.

    .. math::

        D(z; \sigma)_p = \sum_i s_{ip} x_{ip}, \qquad
        s_{ip} = \frac{\sum_k r_{kp} w_i^k}{\sum_k r_{kp}}, \qquad \sum_i s_{ip} = 1

    :math:`w_i^k` is the weight of training image i in the posterior of window k, :math:`r_{kp}`
    the response weight of the window at pixel p, and :math:`s_{ip}` the share of the image in p.

    Parameters
    ----------
    denoiser : estimator
        Fitted denoiser whose answers are means of training images.
    Z : array or Tensor of shape (n, C, H, W) or (n, d)
        Noisy images.
    sigma : float or array of shape (n,)
        Noise level, in the units of the images; 0 and inf are allowed.
    y : label or array of shape (n,), default None
        Class whose training images count; None: all training images.
    top : int, default 10
        Number of training images to list for each pixel.

    Returns
    -------
    Attribution
        ``index``, ``share``, ``row``, ``column`` and ``mirrored`` have shape (n, c, H, W, top)
        and list the training images with the largest shares. ``rest``, the total share of all
        other images, and ``effective_sample_size`` have shape (n, c, H, W). ``image_share``, of
        shape (n, N), is the share of each training image in the whole answer. Training images are
        numbered by their rows in the X of ``fit``.

    Raises
    ------
    TypeError
        For an object that is not a skpspc denoiser.
    ValueError
        If the answers are not means of training images: for Gaussians, networks, blends, smoothed
        denoisers, bandwidths above zero and batchwise softmax. Also for a `skpspc.PatchDenoiser`
        of all locations and a `skpspc.PosteriorMeanCollection` of translates.

    See Also
    --------
    AttributionDisplay : Picture of an attribution.
    leave_out : Answers without training images.

    References
    ----------
    Niedoba et al., ICML 2025, arXiv:2411.19339, Eqs. 4 and 8 (the posterior weights).

    Examples
    --------
    The three training images with the largest shares in one pixel of a noisy digit:

    >>> import numpy as np
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import attribute
    >>> X = load_digits_images().images
    >>> noise = np.random.default_rng(0).standard_normal((1, 1, 8, 8))
    >>> Z = X[:1] / 127.5 - 1 + 0.4 * noise
    >>> model = PSPCDenoiser(patch_size=4).fit(X[10:])
    >>> found = attribute(model, Z, sigma=0.4, top=3)
    >>> found.index[0, 0, 4, 5], found.share[0, 0, 4, 5].round(2)
    (array([1019,  120,  454]), array([0.08, 0.06, 0.04]))
    """
    _check_attributable(denoiser)
    return denoiser.attribute(Z, sigma, y, top=top)


def leave_out(
    denoiser: Any,
    Z: ArrayLike,
    sigma: NoiseLevel,
    images: Sequence[Any],
    *,
    y: ArrayLike | None = None,
) -> Bunch:
    r"""Return the answers of a denoiser with training images left out.

    The answers are exact, in closed form, and need no further fit: without the images S, the
    weights of all other images grow by :math:`1 / (1 - \sum_{i \in S} w_i^k)` in window k.

    Parameters
    ----------
    denoiser : estimator
        Fitted denoiser whose answers are means of training images.
    Z : array or Tensor of shape (n, C, H, W) or (n, d)
        Noisy images.
    sigma : float or array of shape (n,)
        Noise level, in the units of the images; 0 and inf are allowed.
    images : sequence of length m, of int or of sequences of int
        Training images to leave out in turn, numbered by their rows in the X of ``fit``. An entry
        with several numbers leaves several images out together.
    y : label or array of shape (n,), default None
        Class whose training images count; None: all training images.

    Returns
    -------
    Bunch
        ``answer``, shaped like Z, is the answer of all training images. ``without``, of shape
        (m, n, ...), holds the answers without each entry of ``images``. ``change``, of shape
        (m, n), is the root mean square difference of both, in the units of the images.

    Raises
    ------
    TypeError
        For an object that is not a skpspc denoiser.
    ValueError
        If the answers are not means of training images, for a number that no training image has,
        or if no training image is left.

    See Also
    --------
    attribute : Training images that make up each pixel of an answer.

    Examples
    --------
    Without the nearest of three training values, 1.0, the answer is the next one, 0.0:

    >>> from skpspc import EmpiricalDenoiser
    >>> from skpspc.inspection import leave_out
    >>> model = EmpiricalDenoiser().fit([[-1.0], [0.0], [1.0]])
    >>> left_out = leave_out(model, [[0.9]], sigma=0.1, images=[0, 2])
    >>> left_out.without.ravel(), left_out.change.ravel()
    (array([1., 0.]), array([0., 1.]))
    """
    _check_attributable(denoiser)
    now = denoiser._now()
    without = now.denoise_without(Z, sigma, images, y)
    answer = now.denoise(Z, sigma, y)
    difference = (without - answer).reshape(*without.shape[:2], -1)
    square = difference * difference
    change = square.mean(2).sqrt() if isinstance(square, torch.Tensor) else np.sqrt(square.mean(2))
    return ShortBunch(answer=answer, without=without, change=change)


def _check_attributable(denoiser):
    """Raise unless a denoiser has attributions."""
    if not (hasattr(denoiser, "attribute") and hasattr(denoiser, "denoise_without")):
        raise TypeError(
            f"denoiser must be a fitted denoiser of this library, got {denoiser!r}; pass one whose "
            "answers are means of training images, such as PSPCDenoiser."
        )
