"""Any denoiser, averaged over small displacements of the noisy image."""

import copy
import numbers

import numpy as np
import torch
from sklearn.base import _fit_context, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from ..posterior import Posterior
from ..sampling import draw_noise, noise_seed
from .base import BaseDenoiser

# Beside the seed: the displacements must not be the noise that `score` and `sample` draw.
_DISPLACEMENTS = 1
_ABOUT_CLASSES = "_labels", "_no_classes"


class SmoothedDenoiser(BaseDenoiser):
    r"""Mean of a denoiser's answers to displaced copies of the noisy image.

    .. math::

        D(z; \sigma) = \frac{1}{M} \sum_{m=1}^M D_0(z + \tau e_m; \sigma), \qquad
        e_m \sim \mathcal N(0, I)

    with :math:`D_0` the denoiser given. Smoothing rounds the edges between the basins of the
    training images: around the empirical denoiser it is the closed-form diffusion model of
    Scarvelis et al., whose samples are barycentres of training images.

    Parameters
    ----------
    denoiser : BaseDenoiser or FrozenEstimator of one
        D_0, fitted or not; a clone of it is fitted. A ``FrozenEstimator`` around it is asked as
        it is: a network is then not copied, and X is not looked at.
    tau : float, default 0.1
        Standard deviation of the displacements, in the units of the images, whatever their
        ``data_range``. 0: D_0 itself.
    n_draws : int, default 8
        M, how many displaced copies. Each costs one answer of D_0.
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`.
    random_state : int, RandomState, Generator or None, default 0
        Fixes the displacements, at fit, and the noise of :meth:`score`. The same
        displacements serve every image and noise level, so that D is a function, as smooth
        as D_0.

    Attributes
    ----------
    denoiser_ : BaseDenoiser or FrozenEstimator
        The fitted clone, or the frozen denoiser itself.
    image_shape_, n_features_in_
        As in `EmpiricalDenoiser`.

    Notes
    -----
    ``image_shape``, ``data_range`` and ``device`` are parameters of the inner denoiser:
    ``set_params(denoiser__device=...)``.
    ``log_evidence`` is the mean over the displacements, the potential whose gradient is the
    mean of the scores; ``effective_sample_size`` and ``error_bound`` are means too, and
    ``bound_is_proved`` where it is for every displacement.

    References
    ----------
    Scarvelis, Borde and Solomon, "Closed-Form Diffusion Models", arXiv:2310.12395.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc import EmpiricalDenoiser, SmoothedDenoiser
    >>> X = np.array([[-1.0], [1.0]])
    >>> model = SmoothedDenoiser(EmpiricalDenoiser(), tau=0.5, n_draws=100).fit(X)
    >>> model.denoiser_.denoise([[0.1]], sigma=0.1)
    array([[1.]])
    >>> bool(abs(model.denoise([[0.1]], sigma=0.1)) < 0.5)
    True
    """

    _parameter_constraints = {
        "denoiser": [BaseDenoiser, FrozenEstimator],
        "tau": [Interval(numbers.Real, 0, None, closed="left")],
        "n_draws": [Interval(numbers.Integral, 1, None, closed="left")],
        "sigma": BaseDenoiser._parameter_constraints["sigma"],
        "random_state": BaseDenoiser._parameter_constraints["random_state"],
    }

    def __init__(self, denoiser, tau=0.1, *, n_draws=8, sigma=0.5, random_state=0):
        self.denoiser = denoiser
        self.tau = tau
        self.n_draws = n_draws
        self.sigma = sigma
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit a clone of the denoiser, and draw the displacements.

        Parameters
        ----------
        X : array or Tensor of shape (n, C, H, W) or (n, d)
            Training images.
        y : array of shape (n,), default None
            Labels, for the denoiser's own ``fit``.
        sample_weight : array of shape (n,), default None

        Returns
        -------
        self

        Raises
        ------
        ValueError
            As the denoiser's own ``fit``, or if what is frozen is no denoiser.
        """
        if not hasattr(self.denoiser, "_posterior"):
            raise ValueError(f"what is frozen must be a denoiser, got {self.denoiser!r}.")
        self.denoiser_ = clone(self.denoiser).fit(X, y, sample_weight=sample_weight)
        seeds = np.random.SeedSequence([noise_seed(self.random_state), _DISPLACEMENTS])
        self._seed = int.from_bytes(seeds.generate_state(4).tobytes(), "little")
        self._adopt("image_shape_", "n_features_in_", "feature_names_in_", "_layout")
        self._adopt("data_range_", "_limits")
        self._warned = set()
        self._adopt(*_ABOUT_CLASSES)
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Add training images; the displacements stay, and so does a frozen denoiser.

        Parameters and errors are those of :meth:`fit`.

        Returns
        -------
        self
        """
        if not hasattr(self, "denoiser_"):
            return self.fit(X, y, sample_weight)
        if not isinstance(self.denoiser_, FrozenEstimator):  # which would hand it on
            self.denoiser_.partial_fit(X, y, sample_weight=sample_weight)
        self._adopt(*_ABOUT_CLASSES)
        return self

    def _adopt(self, *names):
        """Take over what the inner denoiser has learnt about the images' form."""
        for name in names:
            if hasattr(self.denoiser_, name):
                setattr(self, name, getattr(self.denoiser_, name))
            elif hasattr(self, name):
                delattr(self, name)

    def get_feature_names_out(self, input_features=None):
        """Names of the output columns: the inner denoiser's.

        Parameters
        ----------
        input_features : array of str, default None

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self)
        return self.denoiser_.get_feature_names_out(input_features)

    @property
    def data_range(self):
        """Parameter ``data_range`` of the inner denoiser."""
        return self.denoiser_.data_range

    @property
    def _device(self):
        return self.denoiser_._device

    @property
    def _proved_by(self):
        return self.denoiser_._proved_by

    def _of_class(self, code):
        denoiser = copy.copy(self)
        denoiser.denoiser_ = self.denoiser_._of_class(code)
        return denoiser

    def _shapes(self):
        return self.denoiser_._shapes()

    def _respond(self, images):
        return self.denoiser_._respond(images)

    _no_windows = (
        "{name} answers with the mean over displaced noisy images; ask its denoiser_, of each."
    )

    def _displacements(self, z):
        """What is added to every noisy image, (n_draws, *shape)."""
        return self.tau * draw_noise(z.shape[1:], self.n_draws, self._seed).to(z)

    def _jacobian(self, z, sigma, pixels):
        moved = (z + displacement for displacement in self._displacements(z))
        return sum(self.denoiser_._jacobian(at, sigma, pixels) for at in moved) / self.n_draws

    def _posterior(self, z, sigma):
        sums = dict.fromkeys(Posterior.AVERAGED, 0.0)
        proved = torch.ones(len(z), dtype=torch.bool, device=z.device)
        for displacement in self._displacements(z):
            part = self.denoiser_._posterior(z + displacement, sigma)
            sums = {name: total + getattr(part, name) for name, total in sums.items()}
            proved &= part.bound_is_proved
        means = {name: total / self.n_draws for name, total in sums.items()}
        return Posterior(**means, bound_is_proved=proved)
