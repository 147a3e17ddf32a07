"""Risk of single training images to be memorised."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._progress import progress, showing
from .._repr import short_repr
from .._threads import torch_threads
from .._typing import Numbers, RandomState
from ..posterior.information import own_logits, pixel_map
from ..sampling import draw_noise, noise_seed
from ..sampling.schedules import check_grid
from ..support.holdout import weights_with_copies
from ._images import check_count
from .information import check_weights

if TYPE_CHECKING:
    from ._plot.risk import MemorisationRiskDisplay

# Beside the seed.
_RISK = 7


@dataclass(frozen=True, eq=False)
class MemorisationRisk:
    """Memorisation risk of training images, by noise level.

    Attributes
    ----------
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    images : ndarray of shape (n,), int
        Training images, as rows of the X of ``fit``.
    maps : ndarray of shape (L, n, H, W)
        Weight that each image has in the posterior of its own noisy copies, from 0 to 1: at each
        pixel, the mean over the windows that answer for it and over draws of noise.

    Examples
    --------
    >>> from skpspc import EmpiricalDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import memorisation_risk
    >>> X = load_digits_images().images
    >>> for model in EmpiricalDenoiser(), PSPCDenoiser(3):
    ...     print(memorisation_risk(model.fit(X), [0.2, 1.0]).risk.mean(1).round(2))
    [1.   0.26]
    [0.31 0.  ]
    """

    sigmas: np.ndarray
    images: np.ndarray
    maps: np.ndarray

    __repr__ = short_repr

    @property
    def risk(self) -> np.ndarray:
        """Mean of ``maps`` over pixels, (L, n)."""
        return self.maps.mean((2, 3))

    @property
    def coverage(self) -> np.ndarray:
        """Posterior weight of all other training images, ``1 - risk``, (L, n)."""
        return 1.0 - self.risk

    def plot(self, ax: Any = None) -> "MemorisationRiskDisplay":
        """Draw the distribution of the risk over images against the noise level.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in; None: a new figure.

        Returns
        -------
        MemorisationRiskDisplay
            The drawn display, with ``figure_`` and ``ax_``.

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        from ._plot.risk import MemorisationRiskDisplay

        return MemorisationRiskDisplay.from_predictions(self, ax=ax)


def memorisation_risk(
    denoiser: Any,
    sigmas: float | Numbers,
    images: Sequence[int] | None = None,
    *,
    n_images: int = 64,
    n_noise: int = 1,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> MemorisationRisk:
    r"""Return how much posterior weight training images have given noisy copies of themselves.

    .. math::

        R_i^k(\sigma) = \operatorname{E}_{\epsilon} w_i^k(x_i + \sigma \epsilon)
        = \operatorname{E}_{\epsilon} \Bigl[ 1 + \sum_{j \ne i} \frac{v_j}{v_i}
        e^{(|\sigma \epsilon|^2 - |x_i + \sigma \epsilon - x_j|^2) / 2 \sigma^2} \Bigr]^{-1}

    for training image i and window k, with squared distances in the window and sample weights v.
    A risk of 1 means that no other training image is near at this noise level, so that a denoiser
    at a noisy copy returns the image itself: a sampler that comes near the image ends there. A
    small risk means that many training images cover the neighbourhood of the image.

    Parameters
    ----------
    denoiser : estimator
        Fitted denoiser whose windows are compared with training images at equal positions, such as
        `skpspc.PSPCDenoiser` and `skpspc.EmpiricalDenoiser`.
    sigmas : float or array of shape (L,)
        Noise levels, positive, finite and distinct, in any order, in the units of the images.
    images : sequence of int, default None
        Training images, as rows of the X of ``fit``. None: ``n_images`` that are drawn at random.
    n_images : int, default 64
        Number of training images to draw if ``images`` is None; all if there are fewer.
    n_noise : int, default 1
        Draws of noise for each image.
    random_state : int, RandomState, Generator or None, default 0
        Seed or generator of the drawn images and of the noise, which all noise levels share.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    MemorisationRisk
        Risk and coverage of each image, and maps of the risk; its method ``plot`` draws the risk.

    Raises
    ------
    TypeError
        For an object that is not a skpspc denoiser.
    ValueError
        For noise levels that are not positive, for rows that are no training images, for windows
        that are compared with patches at all positions, with moved images (``max_shift``) or in
        batches, and if the answers are not means of training images.

    See Also
    --------
    MemorisationRiskDisplay : Picture of the risk.
    information_curve : Coverage of held-out images by the training images.
    memorised_fraction : Copies among samples.

    Notes
    -----
    An image and its copies in the training set have one weight together: copies make an image more
    likely to be repeated. Images that are equal within a window only, such as blank corners, count
    as other images there, and so do mirror images.

    Merger and Goldt predict memorisation where few training images are near, in terms of a kernel
    density estimate and the number of training images. The risk is our reading of this criterion:
    the fraction of the kernel density estimate, at a noisy copy of an image and with bandwidth
    sigma, that is due to the image itself. The sum over j in the formula counts the other images
    near by.

    References
    ----------
    Merger and Goldt, "Local Coverage Governs Memorization in Diffusion Models", 2026,
    arXiv:2606.14390.

    Examples
    --------
    Of three training images, the distant one is at risk:

    >>> from skpspc import EmpiricalDenoiser
    >>> from skpspc.inspection import memorisation_risk
    >>> model = EmpiricalDenoiser().fit([[0.0], [0.1], [5.0]])
    >>> memorisation_risk(model, 0.5, images=[0, 1, 2]).risk.round(2)
    array([[0.56, 0.42, 1.  ]])
    """
    check_weights(denoiser)
    now = denoiser._now()
    grid = np.sort(check_grid(np.atleast_1d(sigmas)))
    if grid[0] == 0:
        raise ValueError("sigmas must be positive, got 0: there every training image is itself.")
    check_count(n_images, "n_images")
    check_count(n_noise, "n_noise")
    prior, training_set = now._prior_of(), now._kept_images()
    if training_set is None:
        raise ValueError(prior.no_attribution)
    rng = np.random.default_rng([noise_seed(random_state), _RISK])
    rows = _rows(images, now.training_rows_, n_images, rng)
    with torch.no_grad(), torch_threads(), showing(verbose):
        weight = weights_with_copies(training_set)[torch.from_numpy(rows)].log()
        # mirror images share the weight of an image
        weight -= math.log(len(getattr(prior, "source", training_set)) / len(training_set))
        clean = training_set.fetched(torch.from_numpy(rows).to(training_set.device))
        maps = _maps(prior, training_set, clean, weight, grid, n_noise, noise_seed(rng))
    return MemorisationRisk(grid, now.training_rows_[rows], maps)


def _rows(images, training_rows, n_images, rng):
    """Return rows of the training set, sorted, for rows of X or for ``n_images`` random ones."""
    if images is None:
        n_rows = len(training_rows)
        return np.sort(rng.permutation(n_rows)[:n_images])
    given = np.asarray(images)
    if given.ndim != 1 or given.dtype.kind not in "iu" or not len(given):
        raise ValueError(f"images must be a non-empty list of int, got {images!r}.")
    wrong = np.setdiff1d(given, training_rows)
    if len(wrong):
        raise ValueError(
            f"images holds {wrong[0]}, which is no row of a training image with positive weight."
        )
    return np.searchsorted(training_rows, np.unique(given))


def _maps(prior, training_set, clean, log_weight, sigmas, n_noise, seed):
    """Return the maps of the risk, (L, n, H, W)."""
    dtype = training_set.float_dtype
    exact = training_set.to_compute(clean, torch.float64)
    noise = draw_noise((n_noise, *clean.shape[1:]), len(clean), seed).to(exact)
    levels = []
    for sigma in progress(sigmas.tolist(), "noise levels"):
        total = 0.0
        for draw in noise.unbind(1):
            z = (exact + sigma * draw).to(dtype)
            level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
            windows, found = prior.information(z, level)
            query, own = prior.answered(z), prior.answered(exact)
            excess = own_logits(query, own, level, windows) + log_weight[:, None] - found.log_norm
            total = total + pixel_map(excess.exp().clamp_(max=1.0), windows, query)
        levels.append((total / n_noise).cpu().numpy())
    return np.stack(levels)
