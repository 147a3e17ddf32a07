"""The optimal denoiser of the training set."""

from ..posterior import dense_posterior
from .base import BaseDenoiser


class EmpiricalDenoiser(BaseDenoiser):
    r"""Posterior mean over whole training images: the optimal denoiser of the training set.

    .. math::

        D(z; \sigma) = \sum_i w_i x_i, \qquad
        w = \operatorname{softmax}_i\bigl(-\|z - x_i\|^2 / 2 \sigma^2 + \log v_i\bigr)

    with :math:`v_i` the sample weights. Its samples are training images: it memorises. At
    :math:`\sigma = 0` it returns the nearest training image (ties averaged), at
    :math:`\sigma = \infty` the mean.

    Parameters
    ----------
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`, in the units of the
        images (uint8 images live on [-1, 1]).
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat, (n, d). None: a flat row is a 1 x d image.
    device : str or torch.device, default None
        Where to keep the training set and do the work; None: where X is.
    random_state : int, RandomState, Generator or None, default 0
        Fixes the noise of :meth:`score`, so that scores of different settings compare.
        None draws it anew at each call.

    Attributes
    ----------
    image_shape_ : tuple of (C, H, W)
    n_features_in_ : int
        C * H * W.
    training_set_ : TrainingSet
        The images, in their own dtype; X itself is not copied.

    See Also
    --------
    PSPCDenoiser : The same posterior through many small windows; it generalises.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Eq. 4.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc import EmpiricalDenoiser
    >>> X = np.array([[-1.0, -1.0], [1.0, 1.0]])
    >>> EmpiricalDenoiser().fit(X).denoise([[0.2, 0.2]], sigma=1.0).round(4)
    array([[0.3799, 0.3799]])
    """

    def _posterior(self, z, sigma):
        posterior = dense_posterior(z, sigma, self.training_set_)
        return posterior.pooled(self.n_features_in_, self.n_features_in_)
