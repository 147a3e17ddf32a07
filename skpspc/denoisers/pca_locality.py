"""Posterior means through neighbourhoods that the covariance of the data chooses."""

import numbers

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .._validation import check_sigma
from ..posterior import Gaussian, Posterior, precision_posterior
from ..support import Windows
from .base import BaseDenoiser

# Of the largest own weight: at a coordinate that never varies W is nothing but rounding.
_NO_WEIGHT = 1e-8


class PCALocalityDenoiser(BaseDenoiser):
    r"""Posterior mean of every coordinate, seen through its row of the Wiener filter.

    .. math::

        D(z; \sigma)_m = \sum_i w_i^m x_{im}, \qquad
        w^m = \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2}
        \sum_n B_{nm} (z_n - x_{in})^2 + \log v_i\Bigr)

    .. math::

        M_{nm} = W_{nm} / W_{nn}, \qquad
        B_{nm} = \bigl[\,|M_{nm}| \ge \theta \max |M|\,\bigr], \qquad
        W = \Sigma (\Sigma + \sigma^2)^{-1}

    with :math:`\Sigma` the population covariance of the training images. The linear denoiser
    of least error looks at few pixels near the one that it answers for; so does this one, and
    compares training images there. Colour channels are separate coordinates.

    Parameters
    ----------
    threshold : float, default 0.05
        theta, in (0, 1]: what fraction of the largest entry still counts. Published: 0.005
        for MNIST, 0.05 for CIFAR-10, 0.02 for faces.
    softmax : {"exact", "batchwise"}, default "exact"
        "batchwise" normalises the weights within each batch of training images, in their
        order, and averages the batches (each alike, the last one too), as the published code
        does: its answers depend on ``batch_size``.
    batch_size : int, default 512
        Training images in a batch; "exact" ignores it.
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`, in the units of the
        images (uint8 images live on [-1, 1]).
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat; None: a flat row is a 1 x d image.
    data_range : tuple of (low, high), default None
        Range of the images, in whose units noise levels are: uint8 pixels 0 to 255 stand for
        low to high, and floats must lie between them. None: uint8 images are read on [-1, 1],
        float images are used unscaled.
    device : str or torch.device, default None
        Where to work; None: where X is.
    random_state : int, RandomState, Generator or None, default 0
        Fixes the noise of :meth:`score`.

    Attributes
    ----------
    image_shape_, n_features_in_, training_set_
        As in `EmpiricalDenoiser`.

    Raises
    ------
    ValueError
        While fitting more than 12,288 images of more than 12,288 values each.

    See Also
    --------
    GaussianDenoiser : The Wiener filter itself.
    PSPCDenoiser : Square windows, the same at every pixel.

    Notes
    -----
    A noisy image costs N * D^2 operations, D = C * H * W, and the precisions of one noise
    level D^3; they hold D^2 float64 numbers. :meth:`partial_fit` decomposes the covariance
    each time.

    A coordinate at which all training images agree (to 1e-8 of the largest W_nn) has no row
    in M: it tells nothing. One at which they nearly agree has a large one, so that few others
    reach the threshold; a coordinate left with no neighbours is answered by the mean, and
    :meth:`neighbours` shows them.

    ``log_evidence`` is the composite of `Posterior` over the neighbourhoods: D times the mean
    over the coordinates of the log-likelihood per number compared.

    References
    ----------
    Lukoianov et al., "Locality in Image Diffusion Models Emerges from Data Statistics", 2025,
    arXiv:2509.09672.

    Examples
    --------
    >>> from skpspc import PCALocalityDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> PCALocalityDenoiser(threshold=0.02).fit(X).denoise(X[:2], sigma=0.5).shape
    (2, 1, 8, 8)
    """

    _parameter_constraints = {
        **BaseDenoiser._parameter_constraints,
        "threshold": [Interval(numbers.Real, 0, 1, closed="right")],
        "softmax": [StrOptions({"exact", "batchwise"})],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        threshold=0.05,
        *,
        softmax="exact",
        batch_size=512,
        sigma=0.5,
        image_shape=None,
        data_range=None,
        device=None,
        random_state=0,
    ):
        super().__init__(
            sigma=sigma,
            image_shape=image_shape,
            data_range=data_range,
            device=device,
            random_state=random_state,
        )
        self.threshold = threshold
        self.softmax = softmax
        self.batch_size = batch_size

    def _resolve(self):
        self._gaussian = Gaussian.of(self.training_set_)

    def neighbours(self, sigma):
        """The matrix B: which coordinates are compared for which.

        Parameters
        ----------
        sigma : float
            Noise level; 0 and inf are allowed.

        Returns
        -------
        array or Tensor of shape (C * H * W, C * H * W), bool
            Column m: the coordinates that count in the posterior of coordinate m. In the
            container of the X that was fitted.

        Raises
        ------
        ValueError
            For a sigma that is no non-negative number.
        """
        check_is_fitted(self)
        mask = self._neighbours(float(check_sigma(sigma, 1)))
        return mask if self._layout.is_torch else mask.cpu().numpy()

    def _neighbours(self, sigma):
        # beyond this W only shrinks as a whole, and at infinity it would vanish
        sigma = min(sigma, 1e6 * max(self._gaussian.abs_max, 1e-15))
        rows = torch.arange(self.n_features_in_, device=self._device)
        matrix = self._gaussian.wiener(sigma, rows)
        own = matrix.diagonal().clone()
        varies = own > _NO_WEIGHT * own.amax()
        matrix /= own.where(varies, torch.ones_like(own))[:, None]
        matrix[~varies] = 0
        size = matrix.abs_()
        return (size >= self.threshold * size.amax()) & (size > 0)

    def _windows(self, sigma):
        if self.softmax == "batchwise":
            raise self._without_windows(
                "{name}(softmax='batchwise') answers with means of means; use softmax='exact'."
            )
        compared = self._neighbours(sigma).T.reshape(-1, *self.image_shape_)
        return Windows(compared, None, self.training_set_)

    def _posterior(self, z, sigma):
        batch_size = self.batch_size if self.softmax == "batchwise" else None

        def at_one_sigma(rows, level):
            precision = self._neighbours(level).to(z.dtype)
            args = z[rows], sigma[rows], self.training_set_, precision, batch_size
            return precision_posterior(*args).pooled(self.n_features_in_, 1)

        return Posterior.by_group(sigma.tolist(), at_one_sigma)
