"""Which training images an answer is made of, and what it would be without them."""

import numpy as np
import torch

from .._repr import ShortBunch
from ..posterior.attribution import Attribution

__all__ = ["Attribution", "attribute", "leave_out"]


def attribute(denoiser, Z, sigma, *, y=None, top=10):
    r"""The training images, and where in them, that made every pixel of an answer.

    .. math::

        D(z; \sigma)_p = \sum_i s_{ip} x_{ip}, \qquad
        s_{ip} = \frac{\sum_k r_{kp} w_i^k}{\sum_k r_{kp}}, \qquad \sum_i s_{ip} = 1

    with :math:`w_i^k` the weight of training image i in the posterior of window k, and
    :math:`r_k` what the window has to say at each pixel.

    Parameters
    ----------
    denoiser : estimator
        A fitted denoiser whose answers are means of training images.
    Z : array or Tensor of shape (n, C, H, W) or (n, d)
        Noisy images.
    sigma : float or array of shape (n,)
        Noise level, in the units of the images; 0 and inf are allowed.
    y : label or array of shape (n,), default None
        The class whose images count; None: all.
    top : int, default 10
        How many training images to list for each pixel; the part of all others is given as one
        number, ``rest``.

    Returns
    -------
    Attribution
        ``index``, ``share``, ``row``, ``column`` and ``mirrored`` of the top training images of
        each pixel, (n, c, H, W, top); ``rest`` and ``effective_sample_size``, (n, c, H, W);
        ``image_share``, the parts of whole images, (n, N). Numbers of training images
        count no image of weight zero: with weights, ``np.flatnonzero(sample_weight)`` are their
        rows in X.

    Raises
    ------
    TypeError
        If it is no denoiser.
    ValueError
        If the answers are no means of training images (Gaussians, networks, blends, smoothed
        denoisers, bandwidths above zero, batchwise softmax), for a `PatchDenoiser` of all
        locations and for a `PosteriorMeanCollection` of translates.

    See Also
    --------
    AttributionDisplay : A picture of it.
    leave_out : What would change without some training images.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Eqs. 4 and 8 (the posterior weights).

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import attribute
    >>> X = load_digits_images().images
    >>> model = PSPCDenoiser(patch_size=4).fit(X)
    >>> found = attribute(model, X[:1] / 127.5 - 1, sigma=0.05, top=3)
    >>> found.index.shape
    (1, 1, 8, 8, 3)
    >>> int(found.image_share[0].argmax())
    0
    """
    _check_attributable(denoiser)
    return denoiser.attribute(Z, sigma, y, top=top)


def leave_out(denoiser, Z, sigma, images, *, y=None):
    r"""What answers would be if some images were not in the training set.

    Closed form and exact, nothing is fitted again: the weights of the others grow by
    :math:`1 / (1 - \sum_{i \in S} w_i^k)` in window k (see the denoisers' ``denoise_without``).

    Parameters
    ----------
    denoiser : estimator
        As in `attribute`.
    Z : array or Tensor of shape (n, C, H, W) or (n, d)
        Noisy images.
    sigma : float or array of shape (n,)
    images : sequence of length m, of int or of sequences of int
        What is left out, in turn: a training image, or several at once. Numbers are those of
        `attribute`; they count no images of weight zero.
    y : label or array of shape (n,), default None
        The class whose images count; None: all.

    Returns
    -------
    Bunch
        ``answer``, like Z: with all images. ``without``, (m, n, ...): without each entry of
        ``images``. ``change``, (m, n): the root of their mean squared difference, in the units
        of the images.

    Raises
    ------
    TypeError
        If it is no denoiser.
    ValueError
        As `attribute`; for numbers of no training image, or if none would be left.

    Examples
    --------
    >>> from skpspc import EmpiricalDenoiser
    >>> from skpspc.inspection import leave_out
    >>> model = EmpiricalDenoiser().fit([[-1.0], [0.0], [1.0]])
    >>> found = leave_out(model, [[0.9]], sigma=0.1, images=[0, 2])
    >>> found.without.ravel(), found.change.ravel()
    (array([1., 0.]), array([0., 1.]))
    """
    _check_attributable(denoiser)
    without = denoiser.denoise_without(Z, sigma, images, y)
    answer = denoiser.denoise(Z, sigma, y)
    difference = (without - answer).reshape(*without.shape[:2], -1)
    square = difference * difference
    change = square.mean(2).sqrt() if isinstance(square, torch.Tensor) else np.sqrt(square.mean(2))
    return ShortBunch(answer=answer, without=without, change=change)


def _check_attributable(denoiser):
    if not (hasattr(denoiser, "attribute") and hasattr(denoiser, "denoise_without")):
        raise TypeError(
            f"denoiser must be a fitted denoiser of this library, got {denoiser!r}; only they "
            "know which training images an answer is made of."
        )
