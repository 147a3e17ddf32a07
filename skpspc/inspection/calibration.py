"""Patch sizes and thresholds of least error at each noise level."""

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.base import clone

from .._repr import short_repr
from .._units import checked_range, half_width
from ..denoisers import FlexibleWindows, GaussianDenoiser
from ..sampling import PatchSchedule, noise_seed
from ..sampling.choice import least_total
from ..sampling.schedules import check_grid
from ..support.held_out import held_out_errors
from ..support.holdout import hold_out
from ._errors import answer_of, standard_error
from ._images import check_count
from ._training import checked_training_set
from .equivalence import check_sizes

# On images in [-1, 1]: from hardly any noise to hardly anything else.
_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
# Beside the seed, so that "calibrated" and BlendedDenoiser hold out other images.
_CALIBRATION = 3


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """Errors of all candidates at all noise levels, and the candidates chosen.

    Attributes
    ----------
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    values : ndarray of shape (S,)
        The candidates, patch sizes or thresholds, increasing.
    image_errors : ndarray of shape (L, S, n)
        Mean squared error per pixel of each held-out image, in squared units of the images (on
        [-1, 1], as for uint8 images, at most 4). All candidates and noise levels share the noise
        of an image, so candidates can be compared image by image.
    weight : ndarray of shape (n,)
        Weight of each image; sums to one.
    chosen : ndarray of shape (L,)
        The candidate chosen at each noise level.
    parameter : {"patch size", "threshold"}, default "patch size"
        What the candidates are.
    against : str, default "the clean images"
        Reference of the errors, in words: the clean images, or the class of a denoiser.

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import calibrate_patch_size
    >>> X = load_digits_images().images[:500]
    >>> _, table = calibrate_patch_size(PSPCDenoiser(), X, [0.1, 1.0], sizes=[1, 4, 8])
    >>> table.errors.round(3)  # a row for each noise level, a column for each patch size
    >>> display = table.plot()
    """

    sigmas: np.ndarray
    values: np.ndarray
    image_errors: np.ndarray
    weight: np.ndarray
    chosen: np.ndarray
    parameter: str = "patch size"
    against: str = "the clean images"

    __repr__ = short_repr

    def plot(self, ax=None):
        """Draw error against candidate, a curve for each noise level, the chosen ones marked.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in; None: a new figure.

        Returns
        -------
        CalibrationCurveDisplay
            The drawn display, with ``figure_`` and ``ax_``.

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        from ._plot.calibration import CalibrationCurveDisplay

        return CalibrationCurveDisplay.from_predictions(self, ax=ax)

    @property
    def n(self):
        """Number of held-out images."""
        return len(self.weight)

    @property
    def errors(self):
        """Mean squared error per pixel, (L, S)."""
        return self.image_errors @ self.weight

    @property
    def standard_errors(self):
        """Standard error of ``errors`` over images and noise, (L, S); NaN for one image."""
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
    r"""Return the patch size of least error at each noise level.

    .. math::

        s(\sigma) = \operatorname*{argmin}_s \operatorname{E}
        \| D_s(x + \sigma \epsilon; \sigma) - y \|^2

    over images x that the denoisers :math:`D_s` were not fitted on and standard normal noise,
    with y = x, or the answer of another denoiser, such as a trained network, to :math:`x + \sigma
    \epsilon`. With ``monotone``, the sizes never fall as sigma grows, and have the least sum of
    errors over the noise levels.

    Parameters
    ----------
    denoiser : PSPCDenoiser or another with a parameter ``patch_size``
        A clone is fitted for each size; it must answer with whole images.
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
        Target of the answers: the held-out images, or the answers of a fitted denoiser, which is
        asked once for each image and noise level.
    n_images : int, default 64
        Different images of X to hold out, with all their copies; the other images are fitted.
    held_out : array or Tensor of shape (m, C, H, W) or (m, d), default None
        Clean images to use instead; then all of X is fitted. Images that are also in X make the
        largest size look best at small sigma. (The paper, against a network, uses training
        images on purpose.)
    monotone : bool, default True
        Forbid sizes that fall as sigma grows.
    sample_weight : array of shape (n,), default None
        Of X; held-out images count by it.
    random_state : int, RandomState, Generator or None, default 0
        Decides which images are held out, and the noise of image i, which depends on
        ``random_state`` and i only.

    Returns
    -------
    schedule : PatchSchedule
        For ``PSPCDenoiser(patch_size=schedule)``, at the noise levels in increasing order.
    table : CalibrationTable
        The errors of all sizes at all noise levels.

    Raises
    ------
    ValueError
        For invalid noise levels or sizes, too few images to hold out ``n_images``, a denoiser
        without ``patch_size`` or of patches, or a reference that answers with NaN.

    See Also
    --------
    suggest_patch_size : The size from which patches must answer as the optimal denoiser does.
    skpspc.PSPCDenoiser : ``patch_size="calibrated"`` runs a small calibration in ``fit``.

    Notes
    -----
    The monotone choice is exact, by dynamic programming. It has the best ``score`` at these noise
    levels, in which levels of large error count most. Among sizes of equal error the smallest is
    chosen. Errors of the chosen sizes on the images that chose them are optimistic: report errors
    on images that are in neither X nor ``held_out``. More training images afford larger patches:
    calibrate with as many as will be used.

    References
    ----------
    Niedoba et al., ICML 2025, arXiv:2411.19339, Sec. 5.1 (sizes nearest to a network) and App. B.

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
    table = _table(models, sizes, held, grid, against, seed, monotone, "patch size")
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
    r"""Return the thresholds of `FlexibleWindows` of least error at their noise levels.

    As :func:`calibrate_patch_size`, with the threshold :math:`\lambda` in place of the size.

    Parameters
    ----------
    denoiser : PSPCDenoiser
        With ``windows=FlexibleWindows(...)``; their own thresholds are not used.
    thresholds : sequence of float, default (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
        Candidates, in (0, 1].
    X, against, n_images, held_out, monotone, sample_weight, random_state
        As in :func:`calibrate_patch_size`, with its errors.

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
        For a denoiser without flexible windows, or a threshold that leaves a pixel outside all
        windows.

    Examples
    --------
    >>> from skpspc import FlexibleWindows, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import calibrate_thresholds
    >>> X = load_digits_images().images[:500]
    >>> denoiser = PSPCDenoiser(windows=FlexibleWindows("data", 0.5, [2.0, 0.2]))
    >>> chosen, table = calibrate_thresholds(denoiser, X, thresholds=[0.5, 0.8, 0.95])
    >>> chosen[0] >= chosen[1]
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
        # one Gaussian serves all thresholds
        heat = _fitted(GaussianDenoiser(device=denoiser.device), kept)
        windows = FlexibleWindows(heat, windows.thresholds, windows.sigmas, windows.soft)
    models = (
        _fitted(clone(denoiser).set_params(windows=windows), kept, windows__thresholds=value)
        for value in candidates.tolist()
    )
    grid = np.sort(given)
    table = _table(models, candidates, held, grid, against, seed, monotone, "threshold")
    return table.chosen[np.argsort(np.argsort(given))].tolist(), table


def _split(denoiser, X, n_images, held_out, sample_weight, random_state):
    """Return training images and held-out images, two of TrainingSet, and a seed for the noise."""
    shared = {name: getattr(denoiser, name, None) for name in ("data_range", "device")}
    shape = getattr(denoiser, "image_shape", None)
    training_set = checked_training_set(X, sample_weight, image_shape=shape, **shared)
    rng = np.random.default_rng([noise_seed(random_state), _CALIBRATION])
    if held_out is not None:
        held_out = checked_training_set(held_out, image_shape=training_set.image_shape, **shared)
        return training_set, held_out, noise_seed(rng)
    check_count(n_images, "n_images")
    return *hold_out(training_set, n_images, rng), noise_seed(rng)


def _fitted(denoiser, training_set, **parameters):
    """Return a clone of a denoiser with other parameters, fitted to a training set."""
    model = clone(denoiser).set_params(image_shape=training_set.image_shape)
    model.set_params(**parameters)
    with warnings.catch_warnings():  # sizes up to the longer side exceed the shorter one
        warnings.filterwarnings("ignore", message="patch_size=.* is larger than the image")
        return model.fit(training_set.images, None, sample_weight=training_set.sample_weight)


def _table(models, values, held_out, sigmas, against, seed, monotone, parameter):
    """Return the table of errors and choices; the models are made and asked one by one."""
    answers = (partial(answer_of, model, name="denoiser") for model in models)
    target = None if isinstance(against, str) else partial(_answer_of_reference, against)
    errors = held_out_errors(answers, held_out, sigmas, seed, target=target)
    weight = held_out.sample_weight
    weight = np.ones(len(held_out)) if weight is None else weight.cpu().numpy()
    weight = weight / weight.sum()
    mean, values = errors @ weight, np.asarray(values)
    chosen = least_total(mean) if monotone else mean.argmin(1)
    words = "the clean images" if target is None else f"the answers of {type(against).__name__}"
    return CalibrationTable(sigmas, values, errors, weight, values[chosen], parameter, words)


def _answer_of_reference(reference, _clean, z, sigma):
    """Return the answers of the denoiser that the others are compared with."""
    return answer_of(reference, z, sigma, "against")


def _check_against(against):
    """Raise unless the target is "clean" or a denoiser."""
    if not (hasattr(against, "denoise") or (isinstance(against, str) and against == "clean")):
        raise ValueError(
            f"against must be 'clean' or a fitted denoiser, got {against!r}; wrap a network in "
            "NetworkDenoiser."
        )


def _checked_thresholds(thresholds):
    """Return distinct candidate thresholds, increasing."""
    try:
        values = np.unique(np.asarray(thresholds, dtype=np.float64))
    except (TypeError, ValueError):
        values = np.empty(0)
    if len(values) == 0 or not ((values > 0) & (values <= 1)).all():
        raise ValueError(f"thresholds must be in (0, 1] and at least one, got {thresholds!r}.")
    return values
