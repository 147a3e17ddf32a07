"""Training images that an answer is made of, and answers without them."""

import numpy as np
import torch

from .._repr import ShortBunch
from ..posterior.attribution import Attribution

__all__ = ["Attribution", "attribute", "leave_out"]


def attribute(denoiser, Z, sigma, *, y=None, top=10):
    r"""Return the training images, and their pixels, that make each pixel of an answer.

    .. math::

        D(z; \sigma)_p = \sum_i s_{ip} x_{ip}, \qquad
        s_{ip} = \frac{\sum_k r_{kp} w_i^k}{\sum_k r_{kp}}, \qquad \sum_i s_{ip} = 1

    with :math:`w_i^k` the weight of training image i in the posterior of window k, and
    :math:`r_k` the response weights of the window.

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
        Training images to list for each pixel; ``rest`` is the total weight of all others.

    Returns
    -------
    Attribution
        ``index``, ``share``, ``row``, ``column`` and ``mirrored`` of the top training images of
        each pixel, (n, c, H, W, top); ``rest`` and ``effective_sample_size``, (n, c, H, W);
        ``image_share``, the weights of training images in the whole answer, (n, N). Training
        images are numbered by their rows in the X that was fitted.

    Raises
    ------
    TypeError
        For an object that is no denoiser of this library.
    ValueError
        If the answers are no means of training images (Gaussians, networks, blends, smoothed
        denoisers, bandwidths above zero, batchwise softmax), for a `PatchDenoiser` of all
        locations and for a `PosteriorMeanCollection` of translates.

    See Also
    --------
    AttributionDisplay : The picture.
    leave_out : The answers without training images.

    References
    ----------
    Niedoba et al., ICML 2025, arXiv:2411.19339, Eqs. 4 and 8 (the posterior weights).

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import attribute
    >>> X = load_digits_images().images
    >>> model = PSPCDenoiser(patch_size=4).fit(X)
    >>> sources = attribute(model, X[:1] / 127.5 - 1, sigma=0.05, top=3)
    >>> sources.index.shape
    (1, 1, 8, 8, 3)
    >>> int(sources.image_share[0].argmax())
    0
    """
    _check_attributable(denoiser)
    return denoiser.attribute(Z, sigma, y, top=top)


def leave_out(denoiser, Z, sigma, images, *, y=None):
    r"""Return the answers of a denoiser if images were not in its training set.

    Closed form and exact, without another fit: the weights of all other images grow by
    :math:`1 / (1 - \sum_{i \in S} w_i^k)` in window k (see the denoisers' ``denoise_without``).

    Parameters
    ----------
    denoiser, Z, sigma, y
        As in `attribute`, with its errors.
    images : sequence of length m, of int or of sequences of int
        Training images to leave out in turn, each entry one or several at once, numbered as in
        `attribute`.

    Returns
    -------
    Bunch
        ``answer``, like Z: with all images. ``without``, (m, n, ...): without each entry of
        ``images``. ``change``, (m, n): root mean square of the difference between the two, in
        the units of the images.

    Raises
    ------
    ValueError
        For numbers of no training image, or if no image is left.

    Examples
    --------
    >>> from skpspc import EmpiricalDenoiser
    >>> from skpspc.inspection import leave_out
    >>> model = EmpiricalDenoiser().fit([[-1.0], [0.0], [1.0]])
    >>> left_out = leave_out(model, [[0.9]], sigma=0.1, images=[0, 2])
    >>> left_out.without.ravel(), left_out.change.ravel()
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
    """Raise unless a denoiser has attributions."""
    if not (hasattr(denoiser, "attribute") and hasattr(denoiser, "denoise_without")):
        raise TypeError(
            f"denoiser must be a fitted denoiser of this library, got {denoiser!r}; only "
            "such denoisers attribute answers to training images."
        )
