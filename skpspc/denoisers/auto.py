"""A denoiser whose sizes, bandwidths, mirror images and weights the training images choose."""

import numbers
from dataclasses import dataclass

import numpy as np
from sklearn.utils._param_validation import Interval

from .._typing import DataRange, Devices, ImageShape, RandomState
from ..posterior import filtered_images_kept
from ..sampling import noise_seed
from ..support import covariance
from .auto_choice import TAPER, PatchPriors, choose
from .base import Denoiser
from .blend import Blend
from .gaussian import GaussianPrior
from .training_set_denoiser import DEVICES, TrainingSetDenoiser

_DRAW = 3  # added to the seed, so that the draws differ from the noise of `score` and `sample`
_RANK = 512  # of the Gaussian, where all directions are too many


@dataclass(frozen=True, eq=False)
class AutoBlend(Blend):
    """The Gaussian denoiser and PSPC of several patch sizes and bandwidths, blended.

    Attributes
    ----------
    sizes : ndarray of shape (S,), int
        Patch sizes of the members after the first.
    bandwidths : ndarray of shape (S,)
        Bandwidth of each of these members.
    flip : bool
        True if mirror images are training images, too.
    """

    sizes: np.ndarray
    bandwidths: np.ndarray
    flip: bool

    no_attribution = (
        "AutoDenoiser blends a Gaussian denoiser, which weighs images negatively, so it has no "
        f"attribution; call the method of PSPCDenoiser(size, response_taper={TAPER}) with a size "
        "of its patch_sizes_."
    )

    # one filtered copy of the training images serves the blurred members of all sizes
    posterior = filtered_images_kept()(Blend.posterior)
    jacobian = filtered_images_kept()(Blend.jacobian)
    vjp = filtered_images_kept()(Blend.vjp)
    jvp = filtered_images_kept()(Blend.jvp)


class AutoDenoiser(TrainingSetDenoiser):
    r"""Blend of a Gaussian denoiser and PSPC of a few patch sizes, chosen from the training images.

    .. math::

        D(z; \sigma) = w_0(\sigma)\, D^{\text{Gauss}}(z; \sigma)
        + \sum_{s, h} w_{s, h}(\sigma)\, D^{\text{PSPC}(s, h)}(z; \sigma),
        \qquad w \ge 0, \quad w_0(\sigma) + \sum_{s, h} w_{s, h}(\sigma) = 1

    Patch sizes s, bandwidths h (0 or 0.5) and weights w have the least error on held-out training
    images at nine noise levels. No network and no choice of the user is needed. Responses of
    patches are tapered, and members of bandwidth 0.5 compare training images that are blurred along
    their stationary covariance (``response_taper=0.5`` and ``smoothing="stationary"`` of
    `PSPCDenoiser`).

    Parameters
    ----------
    n_sizes : int, default 2
        Largest number of pairs of a patch size and a bandwidth that have weight at each of the nine
        noise levels. A noise level between two of them uses the pairs of both. Each pair costs a
        call of `PSPCDenoiser`, with mirror images if ``flip_``. A bandwidth of 0.5 adds a filter of
        the training set for each noise level of a call.
    n_images : int, default 64
        Largest number of different training images to hold out, at most a tenth of them, rounded
        up.
    n_fitted : int, default 4096
        Largest number of other images that are compared with the held-out images. Fewer images
        make :meth:`fit` faster and the choice worse.
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
        Noise levels at which sizes, bandwidths and weights were chosen, increasing: 0.05, 0.1, 0.2,
        ..., 12.8 standard deviations of a pixel.
    patch_sizes_ : ndarray of shape (S,), int
        Patch sizes with weight at a noise level, in increasing order. A size that has weight with
        both bandwidths occurs twice.
    bandwidths_ : ndarray of shape (S,)
        Bandwidth of each patch size in ``patch_sizes_``: 0 or 0.5.
    weights_ : ndarray of shape (L, S + 1)
        Weights of the Gaussian denoiser and of the pairs of a size and a bandwidth, non-negative;
        each row sums to one. Between two levels, weights are linear in log sigma; beyond the ends
        they are constant.
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
    *The choice.* A quarter of ``n_fitted`` training images denoises the held-out images through
    patches of all sizes (1, 2, 3, 4, 6, 7, 9, 12, ... pixels). Then all ``n_fitted`` images denoise
    them through the best size, with and without mirror images, and with new noise at each noise
    level. Mirror images are used if they lower the geometric mean of the error over noise levels;
    mirror images of held-out images are never fitted. Candidates for the blend at a noise level are
    six sizes around the best (``n_sizes``, if that is more) with bandwidth 0, and the best and the
    next two larger sizes with bandwidth 0.5. Where the training images are in shards, on several
    devices or workers, and the filtered images of a shard exceed scikit-learn's working memory,
    bandwidth 0.5 is left out with a warning.

    More training images favour larger patches, and more weight of PSPC. Let :math:`A_{mn}(n)` be
    the mean product of the errors of two members fitted on n images. It is measured for n and for
    n / 4, and continued to the N images of the fit:

    .. math::

        A_{mn}(N) = A_{mn}(n) \sqrt{\rho_m \rho_n}^{\,\log_4 (N / n)}, \qquad
        \rho_m = \min\Bigl(1, \frac{A_{mm}(n)}{A_{mm}(n / 4)}\Bigr)

    Sizes and weights minimise :math:`w^T A(N)\, w`. The Gaussian denoiser is fitted on all images
    but the held-out ones.

    For images of 32 x 32 pixels and at least 4,160 images, :meth:`fit` compares up to 41 million
    pairs of images, or 67 million with mirror images; `PSPCDenoiser` compares N pairs for every
    noisy image. A smaller ``n_fitted`` makes it faster. :meth:`partial_fit` chooses again, and so
    does every class on its own images, at its first use. With fewer than about 100 images the
    choice rests on a few held-out images. Without two different images the result is the Gaussian
    denoiser.

    ``log_evidence`` and ``effective_sample_size`` are weighted means of the members' values. Where
    both the number of images and of values exceed 12,288, the Gaussian denoiser has rank 512.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Sec. 5; Breiman, "Stacked Regressions", Machine Learning 24, 1996.

    Examples
    --------
    Patch sizes for digits with their bandwidths, and weights at a noise level of 0.8 standard
    deviations of a pixel. The first weight is the weight of the Gaussian denoiser.

    >>> from skpspc import AutoDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> model = AutoDenoiser().fit(X[100:])
    >>> model.patch_sizes_.tolist()
    [1, 2, 3, 4, 5, 6, 8, 8]
    >>> model.bandwidths_.tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]
    >>> model.weights_[4].round(1).tolist()
    [0.1, 0.0, 0.0, 0.0, 0.6, 0.0, 0.3, 0.0, 0.0]
    """

    weights_: np.ndarray
    sigmas_: np.ndarray
    patch_sizes_: np.ndarray
    bandwidths_: np.ndarray
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
        n_sizes: int = 2,
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
        choice = choose(training_set, _gaussian, self.n_sizes, self.n_images, self.n_fitted, rng)
        source = training_set.mirrored() if choice.flip else training_set
        return AutoBlend(
            [_gaussian(training_set), *PatchPriors(source).priors(choice.settings)],
            choice.sigmas,
            choice.weights,
            None,
            training_set.device,
            np.array([size for size, _ in choice.settings], int),
            np.array([bandwidth for _, bandwidth in choice.settings], float),
            choice.flip,
        )

    def _attributes(self, prior):
        return {
            "sigmas_": prior.sigmas,
            "patch_sizes_": prior.sizes,
            "bandwidths_": prior.bandwidths,
            "weights_": prior.weights,
            "flip_": prior.flip,
        }


def _gaussian(training_set):
    """Return the prior of the Gaussian denoiser, of all directions unless they are too many."""
    is_large = min(len(training_set), training_set.n_values) > covariance.LARGEST_PROBLEM
    return GaussianPrior.of(training_set, _RANK if is_large else None, 0.0)
