"""The optimal linear denoiser: a Gaussian with the mean and covariance of the training set."""

import numbers

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .._validation import check_sigma
from ..posterior import Gaussian, gaussian_posterior
from ..support import covariance
from .base import BaseDenoiser


class GaussianDenoiser(BaseDenoiser):
    r"""Posterior mean under a Gaussian with the training images' mean and covariance.

    .. math::

        D(z; \sigma) = \mu + U \operatorname{diag}\Bigl(\frac{S_k}{S_k + \sigma^2}\Bigr) U^T
        (z - \mu), \qquad
        \Sigma = \sum_i v_i (x_i - \mu)(x_i - \mu)^T = U \operatorname{diag}(S) U^T

    with :math:`v_i` the sample weights, which sum to one: the population covariance. It is
    the Wiener filter, the linear denoiser of least mean squared error on the training set;
    its rows (:meth:`wiener`) are local, and that is where the locality of trained networks
    comes from.

    Parameters
    ----------
    rank : int, default None
        Keep this many directions of largest variance and drop the rest: the answer does not
        vary along them. At most C * H * W; a larger number keeps all. None: all of them.
    shrinkage : float in [0, 1] or {"ledoit_wolf", "oas"}, default 0.0
        Pull the covariance towards a multiple of the identity,
        :math:`(1 - s) \Sigma + s \operatorname{tr}(\Sigma) / D`, before directions are
        dropped. The strings are scikit-learn's estimates of s
        (`sklearn.covariance.ledoit_wolf`, `sklearn.covariance.oas`); for them sample weights
        count images: a weight of 2 is the image twice.
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
        Fixes the noise of :meth:`score`. Fitting is deterministic.

    Attributes
    ----------
    mean_ : array of shape (C * H * W,)
        float64, as are the next two.
    components_ : array of shape (r, C * H * W)
        Orthonormal directions of decreasing variance, those kept and not numerically empty.
    eigenvalues_ : array of shape (r,)
        Variances along them, after shrinkage.
    residual_variance_ : float
        Variance along all other directions: 0 without shrinkage or with a rank.
    shrinkage_ : float
        The s that was used.
    training_set_ : TrainingSet
        Only while there are fewer images than values in an image, more than 12,288 values in
        an image, or labels to tell classes apart; otherwise sums over the images are kept
        instead.
    image_shape_, n_features_in_
        As in `EmpiricalDenoiser`.

    Raises
    ------
    ValueError
        While fitting more than 12,288 images of more than 12,288 values each: with
        ``rank=None``, and with a shrinkage that is to be estimated.

    See Also
    --------
    EmpiricalDenoiser : The optimal denoiser, which is not linear.

    Notes
    -----
    The smaller of the D x D and the N x N problem is solved exactly, in float64. Where both
    N and D exceed 12,288 neither matrix is ever made: ``rank`` directions are found by six
    randomised subspace iterations, each a pass over the images, accurate where the spectrum
    falls.

    :meth:`partial_fit` adds images to exact sums (of integers, for uint8), and the
    decomposition waits until it is needed: fitting in parts is fitting the whole.

    ``log_evidence`` is that of the normal distribution of mean :math:`\mu` and covariance
    :math:`\Sigma + \sigma^2 I`, :math:`\Sigma` as shrunk and truncated, so that Tweedie's
    formula holds. The answer is a combination of the training images with weights
    :math:`v_i (1 + (x_i - \mu)^T (\Sigma + \sigma^2)^{-1} (z - \mu))`, which sum to one and
    may be negative; ``effective_sample_size`` is one over the sum of their squares (sample
    weights counted by their own effective number), and can fall below one.

    References
    ----------
    Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", 1949;
    Lukoianov et al., "Locality in Image Diffusion Models Emerges from Data Statistics", 2025,
    arXiv:2509.09672; Ledoit and Wolf, "A Well-Conditioned Estimator for Large-Dimensional
    Covariance Matrices", 2004; Chen et al., "Shrinkage Algorithms for MMSE Covariance
    Estimation", 2010, Eq. 23; Halko et al., SIAM Review 2011, Alg. 4.4.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc import GaussianDenoiser
    >>> X = np.array([[-1.0, 0.0], [1.0, 0.0]])
    >>> GaussianDenoiser().fit(X).denoise([[0.8, 0.3]], sigma=1.0)
    array([[0.4, 0. ]])
    """

    _parameter_constraints = {
        **BaseDenoiser._parameter_constraints,
        "rank": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "shrinkage": [
            Interval(numbers.Real, 0, 1, closed="both"),
            StrOptions({"ledoit_wolf", "oas"}),
        ],
    }

    def __init__(
        self,
        rank=None,
        *,
        shrinkage=0.0,
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
        self.rank = rank
        self.shrinkage = shrinkage

    def _keep(self, training_set):
        self._hold(training_set)
        self._decompose()

    def _add(self, images, weight):
        if self._moments is None:
            self._hold(self.training_set_.extended(images, weight))
        else:
            self._moments.add(self._training_set(images, weight))
            if self._labels is not None:
                self.training_set_ = self.training_set_.extended(images, weight)
        self._gaussian = None

    def _hold(self, training_set):
        """Keep the images, or sums over them where those say it all in less space."""
        n_values = training_set.n_values
        self._moments = None
        few = len(training_set) < n_values or n_values > covariance.LARGEST_PROBLEM
        if few or self._labels is not None:
            self.training_set_ = training_set
        elif hasattr(self, "training_set_"):
            del self.training_set_
        if not few:
            self._moments = covariance.Moments(training_set)

    def _decompose(self):
        """Find the Gaussian from what is kept."""
        if self._moments is not None:
            spectrum = self._moments.spectrum()
        elif min(len(self.training_set_), self.n_features_in_) > covariance.LARGEST_PROBLEM:
            spectrum = covariance.spectrum_by_iteration(self.training_set_, self._checked_rank())
        else:
            spectrum = covariance.spectrum_of_rows(self.training_set_)
        n_values = len(spectrum.mean)
        level = spectrum.trace / n_values
        s = self._shrinkage = _shrinkage(self.shrinkage, spectrum)
        everything = self.rank is None or self.rank >= n_values
        kept = slice(None if everything else self.rank)
        sampled = spectrum.eigenvalues[kept]
        self._gaussian = Gaussian(
            spectrum.mean,
            spectrum.components[kept],
            (1 - s) * sampled + s * level,
            s * level if everything else 0.0,
            sampled,
            spectrum.n_effective,
        )
        return self._gaussian

    def _checked_rank(self):
        """The rank, where it has to be given."""
        if self.rank is None:
            limit = covariance.LARGEST_PROBLEM
            raise ValueError(
                f"rank=None keeps every direction, which takes at most {limit} images or at most "
                f"{limit} values in an image, and X has {len(self.training_set_)} images of "
                f"{self.n_features_in_} values; pass a rank, such as 512, for a randomised "
                "decomposition."
            )
        return min(self.rank, self.n_features_in_, len(self.training_set_))

    def _fitted(self):
        """The Gaussian; after `partial_fit` it is found on the first question."""
        check_is_fitted(self)
        return self._decompose() if self._gaussian is None else self._gaussian

    @property
    def _device(self):
        return self.training_set_.device if self._moments is None else self._moments.device

    @property
    def _image_dtype(self):
        kept = self._moments
        return self.training_set_.images.dtype if kept is None else kept.image_dtype

    @property
    def mean_(self):
        """Mean image, flat."""
        return self._given(self._fitted().mean)

    @property
    def components_(self):
        """Principal directions, in rows."""
        return self._given(self._fitted().components)

    @property
    def eigenvalues_(self):
        """Variances along the components."""
        return self._given(self._fitted().eigenvalues)

    @property
    def residual_variance_(self):
        """Variance along every direction but the components."""
        return self._fitted().residual

    @property
    def shrinkage_(self):
        """The coefficient of shrinkage."""
        self._fitted()
        return self._shrinkage

    def _given(self, tensor):
        """A float64 result in the container of the training images."""
        return tensor if self._layout.is_torch else tensor.cpu().numpy()

    def wiener(self, sigma, rows=None):
        r"""Rows of the linear filter :math:`W = U \operatorname{diag}(S / (S + \sigma^2)) U^T`.

        Row p says how much each input pixel moves pixel p of the answer: W is the Jacobian
        of :meth:`denoise`.

        Parameters
        ----------
        sigma : float
            Noise level; 0 and inf are allowed.
        rows : array of int, default None
            Coordinates p of flat images, (c * H + y) * W + x; None: all D of them, a matrix
            of D * D float64 numbers.

        Returns
        -------
        array or Tensor of shape (m, C * H * W), float64
            In the container of the X that was fitted.

        Raises
        ------
        ValueError
            For a sigma that is no non-negative number, or rows that are not in the image.
        """
        gaussian, n_values = self._fitted(), self.n_features_in_
        level = float(check_sigma(sigma, 1))
        at = torch.as_tensor(range(n_values) if rows is None else rows, device=self._device)
        whole = not (at.is_floating_point() or at.dtype == torch.bool)
        if not (whole and ((at >= 0) & (at < n_values)).all()):
            raise ValueError(f"rows must be ints from 0 to {n_values - 1}, got {rows!r}.")
        return self._given(gaussian.wiener(level, at.reshape(-1).long()))

    _no_windows = (
        "{name} combines all training images, with weights that may be negative: it has no "
        "attribution; ask a denoiser that compares images, such as EmpiricalDenoiser."
    )

    def _jacobian(self, z, sigma, pixels):
        _, channels, height, width = z.shape
        first = height * width * torch.arange(channels, device=z.device)
        rows = (first[:, None] + pixels).flatten()
        shape = channels, len(pixels), *z.shape[1:]
        out = z.new_empty(len(z), *shape)
        for level in sigma.unique():
            filter_rows = self._fitted().wiener(float(level), rows)
            out[sigma == level] = filter_rows.to(z.dtype).view(shape)
        return out.transpose(1, 2)

    def _posterior(self, z, sigma):
        posterior = gaussian_posterior(z, sigma, self._fitted())
        return posterior.pooled(self.n_features_in_, self.n_features_in_)


def _shrinkage(shrinkage, spectrum):
    """The coefficient of shrinkage: the number given, or its estimate."""
    if not isinstance(shrinkage, str):
        return float(shrinkage)
    if spectrum.squares != spectrum.squares:  # NaN: unknown
        raise ValueError(
            f"shrinkage={shrinkage!r} needs the whole covariance matrix, and both the images "
            f"and their values are more than {covariance.LARGEST_PROBLEM}; pass a float."
        )
    n, n_values = spectrum.n_images, len(spectrum.mean)
    level = spectrum.trace / n_values
    if shrinkage == "ledoit_wolf":
        noise = (spectrum.fourth - spectrum.squares) / (n_values * n)
        distance = spectrum.squares / n_values - level**2
        noise = min(noise, distance)
        return noise / distance if noise > 0 else 0.0
    mean_square = spectrum.squares / n_values**2
    distance = (n + 1) * (mean_square - level**2 / n_values)
    return min((mean_square + level**2) / distance, 1.0) if distance > 0 else 1.0
