"""Which patch size, or which threshold, serves at each noise level."""

import warnings
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import numpy as np
from sklearn.base import clone

from .._repr import short_repr
from .._units import checked_range, half_width
from ..denoisers import EmpiricalDenoiser, FlexibleWindows, GaussianDenoiser
from ..sampling import PatchSchedule, noise_seed
from ..sampling.choice import least_total
from ..sampling.schedules import check_grid
from ..support.held_out import held_out_errors
from ..support.holdout import hold_out
from ._errors import answer_of, standard_error
from .equivalence import check_sizes

# On images in [-1, 1]: from where they are hardly noisy to where they are hardly seen.
_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
# Beside the seed: not the images that "calibrated" or BlendedDenoiser hold out.
_CALIBRATION = 3


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """What every candidate errs at every noise level, and which was chosen.

    Attributes
    ----------
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    values : ndarray of shape (S,)
        The candidates, patch sizes or thresholds, increasing.
    image_errors : ndarray of shape (L, S, n)
        Mean squared error per pixel, in the units of the images squared (uint8 images are
        on [-1, 1], and so at most 4), of each held-out image. All candidates and noise levels
        saw the same noise, so that differences between two columns may be taken image by
        image.
    weight : ndarray of shape (n,)
        How much each image counts, with a sum of one.
    chosen : ndarray of shape (L,)
        The candidate chosen at each noise level.
    """

    sigmas: np.ndarray
    values: np.ndarray
    image_errors: np.ndarray
    weight: np.ndarray
    chosen: np.ndarray

    __repr__ = short_repr

    @property
    def n(self):
        """How many images the errors are means over."""
        return len(self.weight)

    @property
    def errors(self):
        """Mean squared error per pixel, (L, S)."""
        return self.image_errors @ self.weight

    @property
    def standard_errors(self):
        """Of ``errors``, over the draw of the images and their noise, (L, S); NaN for one image."""
        return standard_error(self.image_errors, self.weight)


def calibrate_patch_size(
    denoiser,
    X,
    sigmas=None,
    *,
    sizes=None,
    against="clean",
    n_images=64,
    held_out=None,
    monotone=True,
    sample_weight=None,
    random_state=0,
):
    r"""The patch size of least error at each noise level.

    .. math::

        s(\sigma) = \operatorname*{argmin}_s \operatorname{E}
        \| D_s(x + \sigma \epsilon; \sigma) - y \|^2

    over images x that the denoisers :math:`D_s` were not fitted on and standard normal noise,
    with y = x, or what another denoiser, such as a trained network, makes of :math:`x + \sigma
    \epsilon`; with ``monotone``, the least sum over the noise levels of any s that never falls
    as sigma grows.

    Parameters
    ----------
    denoiser : PSPCDenoiser or another with a parameter ``patch_size``
        A clone of it is fitted for each size; it must answer with whole images.
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Training images.
    sigmas : sequence of float, default None
        Noise levels, finite, non-negative and distinct, in any order, in the units of the
        images. None: 0.05, 0.1, 0.2, ..., 12.8 for images on [-1, 1], scaled to the
        ``data_range`` of the denoiser. Against a network, stay within what it was trained on.
    sizes : sequence of int, default None
        Candidates, at least 1 and at most the longer side of the image. None: up to 15 sizes
        from 1 to the longer side, evenly spaced in their logarithm.
    against : "clean" or denoiser, default "clean"
        What the answers are to be near to: the held-out images, or the answers of this
        denoiser, which must be fitted; it is asked once for each image and noise level.
    n_images : int, default 64
        How many different images of X are held out, with all their copies; the others are
        fitted.
    held_out : array or Tensor of shape (m, C, H, W) or (m, d), default None
        Clean images to use instead; then all of X is fitted. They must not be in X, or else
        the largest size looks best at small sigma: it knows them. (To take training images on
        purpose is the paper's protocol against a network.)
    monotone : bool, default True
        Whether the sizes may not fall as sigma grows.
    sample_weight : array of shape (n,), default None
        Of X; held-out images count by it.
    random_state : int, RandomState, Generator or None, default 0
        Decides which images are held out, and the noise: that of image i depends on it and on
        i only.

    Returns
    -------
    schedule : PatchSchedule
        For ``PSPCDenoiser(patch_size=schedule)``, at the noise levels in increasing order.
    table : CalibrationTable
        The errors of all sizes at all noise levels.

    Raises
    ------
    ValueError
        For noise levels or sizes that are none or out of range, too few images to hold some
        out, a denoiser without ``patch_size`` or with patches for an answer, or a reference
        that answers with NaN.

    See Also
    --------
    suggest_patch_size : The size from which on patches can do nothing that the optimum does not.
    skpspc.PSPCDenoiser : ``patch_size="calibrated"`` does a small calibration while fitting.

    Notes
    -----
    A monotone choice is found by dynamic programming, which is exact among all that never fall
    (isotonic regression of the best sizes is not: it answers with means of sizes, and does not
    know what a change of size costs). As a total of squared errors it is the choice with the
    best ``score`` at these noise levels, and cares most for those at which the errors are
    large.

    Of equal sizes the smallest is taken. The chosen size errs less on the images it was chosen
    on than on others; report errors on images that are in neither X nor ``held_out``. More
    training images afford larger patches: calibrate with as many as will be used.

    The work on one pair of images is the same for all sizes; the denoisers share the training
    images, the noise, and the answers of ``against``.

    References
    ----------
    Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
    ICML 2025, arXiv:2411.19339, Sec. 5.1 (sizes nearest to a network) and App. B.

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import calibrate_patch_size
    >>> X = load_digits_images().images[:500]
    >>> schedule, table = calibrate_patch_size(PSPCDenoiser(), X, [0.1, 1.0], sizes=[1, 4, 8])
    >>> schedule(0.1) < schedule(1.0)
    True
    >>> table.errors.shape, table.n
    ((2, 3), 64)
    """
    if "patch_size" not in getattr(denoiser, "get_params", dict)():
        raise ValueError(
            f"denoiser must have a parameter patch_size, as PSPCDenoiser has; got {denoiser!r}."
        )
    _check_against(against)
    if sigmas is None:
        sigmas = np.array(_SIGMAS)
        if getattr(denoiser, "data_range", None) is not None:
            sigmas *= half_width(checked_range(denoiser.data_range, "data_range"))
    grid = np.sort(check_grid(sigmas))
    kept, held, seed = _split(denoiser, X, n_images, held_out, sample_weight, random_state)
    sizes = check_sizes(sizes, kept.image_shape, "sizes")
    models = (_fitted(denoiser, kept, patch_size=size) for size in sizes)
    table = _table(models, sizes, held, grid, against, seed, monotone)
    return PatchSchedule(grid.tolist(), table.chosen.tolist()), table


def calibrate_thresholds(
    denoiser,
    X,
    *,
    thresholds=_THRESHOLDS,
    against="clean",
    n_images=64,
    held_out=None,
    monotone=True,
    sample_weight=None,
    random_state=0,
):
    r"""The thresholds of `FlexibleWindows` of least error at each of their noise levels.

    As :func:`calibrate_patch_size`, with :math:`\lambda` in place of the size; the noise levels
    are those of the windows.

    Parameters
    ----------
    denoiser : PSPCDenoiser
        With ``windows=FlexibleWindows(...)``, whose own thresholds do not matter.
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Training images.
    thresholds : sequence of float, default (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
        Candidates, in (0, 1].
    against, n_images, held_out, monotone, sample_weight, random_state
        As in :func:`calibrate_patch_size`.

    Returns
    -------
    thresholds : list of float
        One for each of the ``sigmas`` of the windows, in their order:
        ``FlexibleWindows(heatmaps, thresholds, sigmas)``.
    table : CalibrationTable
        With the noise levels in increasing order.

    Raises
    ------
    ValueError
        As :func:`calibrate_patch_size`; for a denoiser without flexible windows; or if a
        threshold leaves a pixel in no window.

    Examples
    --------
    >>> from skpspc import FlexibleWindows, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import calibrate_thresholds
    >>> X = load_digits_images().images[:500]
    >>> denoiser = PSPCDenoiser(windows=FlexibleWindows("data", 0.5, [2.0, 0.2]))
    >>> found, table = calibrate_thresholds(denoiser, X, thresholds=[0.5, 0.8, 0.95])
    >>> found[0] >= found[1]
    True
    >>> table.sigmas
    array([0.2, 2. ])
    """
    windows = getattr(denoiser, "windows", None)
    if not isinstance(windows, FlexibleWindows):
        raise ValueError(
            "denoiser must have flexible windows, PSPCDenoiser(windows=FlexibleWindows(...)); got "
            f"{denoiser!r}."
        )
    _check_against(against)
    given = check_grid(windows.sigmas)
    candidates = _checked_thresholds(thresholds)
    kept, held, seed = _split(denoiser, X, n_images, held_out, sample_weight, random_state)
    if isinstance(windows.heatmaps, str) and windows.heatmaps == "data":
        # the same heat, found once for all thresholds
        heat = _fitted(GaussianDenoiser(device=denoiser.device), kept)
        windows = FlexibleWindows(heat, windows.thresholds, windows.sigmas, windows.soft)
    models = (
        _fitted(clone(denoiser).set_params(windows=windows), kept, windows__thresholds=value)
        for value in candidates.tolist()
    )
    table = _table(models, candidates, held, np.sort(given), against, seed, monotone)
    return table.chosen[np.argsort(np.argsort(given))].tolist(), table


def _split(denoiser, X, n_images, held_out, sample_weight, random_state):
    """Training images and held-out images, two of TrainingSet, and a seed for their noise."""
    shape = getattr(denoiser, "image_shape", None)
    known = _known(X, shape, denoiser, sample_weight)
    rng = np.random.default_rng([noise_seed(random_state), _CALIBRATION])
    if held_out is not None:
        held = _known(held_out, known.image_shape, denoiser)
        return known, held, noise_seed(rng)
    if not isinstance(n_images, Integral) or n_images < 1:
        raise ValueError(f"n_images must be an int of at least 1, got {n_images!r}.")
    return *hold_out(known, n_images, rng), noise_seed(rng)


def _known(images, image_shape, denoiser, sample_weight=None):
    """Images as a checked TrainingSet."""
    shared = {name: getattr(denoiser, name, None) for name in ("data_range", "device")}
    keeper = EmpiricalDenoiser(image_shape=image_shape, **shared)
    return keeper.fit(images, sample_weight=sample_weight).training_set_


def _fitted(denoiser, training_set, **parameters):
    """A clone of a denoiser with other parameters, fitted."""
    model = clone(denoiser).set_params(image_shape=training_set.image_shape)
    model.set_params(**parameters)
    with warnings.catch_warnings():  # of an image that is not square all sides are sizes
        warnings.filterwarnings("ignore", message="patch_size=.* is larger than the image")
        return model.fit(training_set.images, None, sample_weight=training_set.sample_weight)


def _table(models, values, held_out, sigmas, against, seed, monotone):
    """Return the table of errors and choices; the models are made and asked one by one."""
    answers = (partial(answer_of, model, name="denoiser") for model in models)
    target = None if isinstance(against, str) else partial(_answer_of_reference, against)
    errors = held_out_errors(answers, held_out, sigmas, seed, target=target)
    weight = held_out.sample_weight
    weight = np.ones(len(held_out)) if weight is None else weight.cpu().numpy()
    weight = weight / weight.sum()
    mean, values = errors @ weight, np.asarray(values)
    chosen = least_total(mean) if monotone else mean.argmin(1)
    return CalibrationTable(sigmas, values, errors, weight, values[chosen])


def _answer_of_reference(reference, _clean, z, sigma):
    """Return the answers of the denoiser that the others are compared with."""
    return answer_of(reference, z, sigma, "against")


def _check_against(against):
    """Refuse what is neither "clean" nor a denoiser."""
    if not (hasattr(against, "denoise") or (isinstance(against, str) and against == "clean")):
        raise ValueError(
            f"against must be 'clean' or a fitted denoiser, got {against!r}; wrap a network in "
            "NetworkDenoiser."
        )


def _checked_thresholds(thresholds):
    """Candidate thresholds, increasing, each once."""
    try:
        values = np.unique(np.asarray(thresholds, dtype=np.float64))
    except (TypeError, ValueError):
        values = np.empty(0)
    if len(values) == 0 or not ((values > 0) & (values <= 1)).all():
        raise ValueError(f"thresholds must be in (0, 1] and at least one, got {thresholds!r}.")
    return values
