"""A denoiser whose patch sizes, flips and weights the training images choose."""

import numbers

import numpy as np
from sklearn.utils._param_validation import Interval

from .._typing import DataRange, Devices, ImageShape, RandomState
from ..posterior import Prior
from ..sampling import PatchSchedule, noise_seed
from ..support import covariance
from .auto_choice import choose
from .base import Denoiser
from .blend import Blend
from .gaussian import GaussianPrior
from .pspc import SquaresBySigma
from .training_set_denoiser import DEVICES, TrainingSetDenoiser

_DRAW = 3  # added to the seed, so that the draws differ from the noise of `score` and `sample`
_RANK = 512  # of the Gaussian, where all directions are too many


class AutoDenoiser(TrainingSetDenoiser):
    r"""Blend of a Gaussian denoiser and PSPC of a few patch sizes, chosen from the training images.

    .. math::

        D(z; \sigma) = w_0(\sigma)\, D^{\text{Gauss}}(z; \sigma)
        + \sum_{k=1}^{K} w_k(\sigma)\, D^{\text{PSPC}(s_k(\sigma))}(z; \sigma),
        \qquad w \ge 0, \quad \sum_{k=0}^{K} w_k = 1

    Patch sizes :math:`s_k` and weights w have the least error on held-out training images at nine
    noise levels. No network and no choice of the user is needed. A call costs at most K times a
    call of `PSPCDenoiser`.

    Parameters
    ----------
    n_sizes : int, default 3
        Number K of patch sizes at each noise level.
    n_images : int, default 64
        Largest number of different training images to hold out, at most a tenth of them.
    n_fitted : int, default 4096
        Largest number of the other images that are compared with the held-out images.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`, in the units of the images.
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat, (n, d). None: a flat row is a 1 x d image.
    data_range : tuple of (low, high), default None
        Range of the images, and unit of noise levels. uint8 pixels 0 to 255 stand for low to high,
        and floats must lie between low and high. None: uint8 images are read on [-1, 1], and float
        images are used unscaled.
    device : str, torch.device or list of them, default None
        Device of the training set and of the computation. Each device of a list holds a part of the
        training set. None: the device of X.
    random_state : int, RandomState, Generator or None, default 0
        Seed of the held-out images and their noise, at fit, and of the noise of :meth:`score`.
        None: new draws.

    Attributes
    ----------
    sigmas_ : ndarray of shape (L,)
        Noise levels at which sizes and weights were chosen, increasing: 0.05, 0.1, 0.2, ..., 12.8
        standard deviations of a pixel.
    patch_sizes_ : ndarray of shape (L, K), int
        Patch sizes at these noise levels, increasing. Between two levels, the sizes of the nearer.
    weights_ : ndarray of shape (L, K + 1)
        Weights of the Gaussian denoiser and of the patch sizes, non-negative; each row sums to
        one. Between two levels, weights are linear in log sigma.
    flip_ : bool
        True if the left-right mirror images are training images, too.
    image_shape_ : tuple of (C, H, W)
        Shape of one training image.
    n_features_in_ : int
        Number of values in one image, C * H * W.
    feature_names_in_ : ndarray of shape (C * H * W,)
        Column names of X. Only if X is a data frame.
    data_range_ : tuple of (low, high) or None
        Range of the images: ``data_range`` or, for uint8 images without it, (-1, 1). None for float
        images without it.
    training_set_ : TrainingSet
        Training images of positive weight, in the dtype of X. X is not copied.
    training_rows_ : ndarray of shape (N,), int
        Rows of X with positive weight.
    classes_ : ndarray of shape (n_classes,)
        Distinct labels, sorted. Only if fitted with labels.

    See Also
    --------
    PSPCDenoiser : One patch size at each noise level.
    BlendedDenoiser : Blends of any denoisers, also with the least error to a network.

    Notes
    -----
    The choice has two trials, with different held-out noise at each noise level. In the first,
    a quarter of ``n_fitted`` training images is compared with the held-out images, with and without
    mirror images, through patches of all sizes (1, 2, 3, 4, 6, 7, 9, 12, ... pixels). The mirror
    images are used if they lower the geometric mean of the least errors over noise levels. In the
    second, ``n_fitted`` images are compared, through up to six sizes around the best.

    More training images favour larger patches, and more weight of PSPC. Let
    :math:`A_{mn}` be the mean product of the errors of members m and n. A is measured with
    ``n_fitted`` images and with a quarter, and continued linearly in the logarithm of the number of
    images to the N images of the fit. The sizes and weights minimise :math:`w^T A w`. The Gaussian
    denoiser is fitted on all images but the held-out ones.

    The blend keeps the parts of the Gaussian denoiser and of PSPC that generalise: at large sigma
    the Gaussian denoiser has the smaller error on held-out images, because PSPC has few images
    for large patches. ``log_evidence`` and ``effective_sample_size`` are weighted means of the
    members' values. With too few different training images to hold one out, the result is the
    Gaussian denoiser. :meth:`partial_fit` chooses again, and so does every class on its own images.
    Where both the number of images and of values exceed 12,288, the Gaussian denoiser has rank 512.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Sec. 5; Breiman, "Stacked Regressions", Machine Learning 24, 1996.

    Examples
    --------
    Patch sizes and weights for digits, at a noise level of 0.8 standard deviations of a pixel. The
    first weight is the weight of the Gaussian denoiser.

    >>> from skpspc import AutoDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> model = AutoDenoiser().fit(X[100:])
    >>> model.patch_sizes_[4].tolist(), model.weights_[4].round(1).tolist()
    ([4, 6, 7], [0.1, 0.7, 0.1, 0.1])
    """

    weights_: np.ndarray
    sigmas_: np.ndarray
    patch_sizes_: np.ndarray
    flip_: bool

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "device": DEVICES,
        "n_sizes": [Interval(numbers.Integral, 1, None, closed="left")],
        "n_images": [Interval(numbers.Integral, 1, None, closed="left")],
        "n_fitted": [Interval(numbers.Integral, 2, None, closed="left")],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_sizes: int = 3,
        *,
        n_images: int = 64,
        n_fitted: int = 4096,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Devices | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.n_sizes = n_sizes
        self.n_images = n_images
        self.n_fitted = n_fitted
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def _learn(self, training_set):
        rng = np.random.default_rng([noise_seed(self.random_state), _DRAW])
        numbers_of_images = self.n_images, self.n_fitted
        choice = choose(training_set, _gaussian, self.n_sizes, *numbers_of_images, rng)
        source = training_set.mirrored() if choice.flip else training_set
        members = [_gaussian(training_set)] + [
            Prior(source, SquaresBySigma(PatchSchedule(choice.sigmas, sizes), source.image_shape))
            for sizes in choice.sizes.T.tolist()
        ]
        self._flip = choice.flip
        return Blend(members, choice.sigmas, choice.weights, None, training_set.device)

    def _attributes(self, prior):
        sizes = [member.windows.schedule.sizes for member in prior.members[1:]]
        return {
            "sigmas_": prior.sigmas,
            "patch_sizes_": np.array(sizes, int).reshape(-1, len(prior.sigmas)).T,
            "weights_": prior.weights,
            "flip_": self._flip,
        }


def _gaussian(training_set):
    """Return the prior of the Gaussian denoiser, of all directions unless they are too many."""
    is_large = min(len(training_set), training_set.n_values) > covariance.LARGEST_PROBLEM
    return GaussianPrior.of(training_set, _RANK if is_large else None, 0.0)
