"""Patch sizes and thresholds with the smallest error at each noise level."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from .. import _optional
from .._progress import progress, showing
from .._repr import three_digits
from .._typing import ArrayLike, RandomState
from .._units import checked_range, half_width
from ..denoisers import FlexibleWindows, GaussianDenoiser
from ..sampling import PatchSchedule, noise_seed
from ..sampling.choice import least_total
from ..sampling.schedules import check_grid
from ..support.held_out import held_out_errors
from ..support.holdout import hold_out
from ._errors import answer_of, standard_error
from ._images import check_count, check_sizes
from ._training import checked_training_set
from .tables import Table

if TYPE_CHECKING:
    from ._plot.calibration import CalibrationCurveDisplay

# On images in [-1, 1]: from hardly any noise to hardly any signal.
_SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
# Beside the seed, so that "calibrated" and BlendedDenoiser hold out other images.
_CALIBRATION = 3


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationTable(Table):
    """Errors of all candidates at all noise levels, and the chosen candidates.

    Attributes
    ----------
    sigmas : ndarray of shape (L,)
        Noise levels, increasing.
    values : ndarray of shape (S,)
        The candidates, patch sizes or thresholds, increasing.
    image_errors : ndarray of shape (L, S, n)
        Mean squared error per pixel of each held-out image, in squared units of the images; at
        most 4 on [-1, 1]. All candidates and noise levels share the noise of an image, so that
        candidates can be compared image by image.
    weight : ndarray of shape (n,)
        Weights of the held-out images, which sum to one.
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
    >>> sigmas, sizes = [0.1, 1.0], [1, 4, 8]
    >>> _, table = calibrate_patch_size(PSPCDenoiser(), X, sigmas, sizes=sizes)
    >>> table
    Mean squared error per patch size, 64 held-out images; * is chosen
    sigma         1       4       8
      0.1  0.00516*  0.0237  0.0783
        1     0.187   0.119  0.107*
    >>> display = table.plot()
    """

    sigmas: np.ndarray
    values: np.ndarray
    image_errors: np.ndarray
    weight: np.ndarray
    chosen: np.ndarray
    parameter: str = "patch size"
    against: str = "the clean images"

    @property
    def title(self) -> str:
        """Title of the table, one line."""
        reference = "" if self.against == "the clean images" else f" against {self.against}"
        return (
            f"Mean squared error{reference} per {self.parameter}, {self.n} held-out images; "
            "* is chosen"
        )

    def _cells(self):
        rows = [
            [f"{sigma:.4g}"]
            + [
                three_digits(error) + "*" * bool(value == chosen)
                for value, error in zip(self.values, errors, strict=True)
            ]
            for sigma, errors, chosen in zip(self.sigmas, self.errors, self.chosen, strict=True)
        ]
        return ["sigma", *(f"{value:g}" for value in self.values)], rows

    def to_frame(self) -> Any:
        """Return the errors as a pandas DataFrame (extra ``metrics``), a row per noise level."""
        pandas = _optional.load("pandas")
        index = pandas.Index(self.sigmas, name="sigma")
        columns = pandas.Index(self.values, name=self.parameter)
        return pandas.DataFrame(self.errors, index=index, columns=columns)

    def plot(self, ax: Any = None) -> "CalibrationCurveDisplay":
        """Draw error against candidate, a curve for each noise level; stars mark the chosen ones.

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
    def n(self) -> int:
        """Number of held-out images."""
        return len(self.weight)

    @property
    def errors(self) -> np.ndarray:
        """Mean squared error per pixel, (L, S)."""
        return self.image_errors @ self.weight

    @property
    def standard_errors(self) -> np.ndarray:
        """Standard error of ``errors`` over images and noise, (L, S); NaN for one image."""
        return standard_error(self.image_errors, self.weight)


def calibrate_patch_size(
    denoiser: Any,
    X: ArrayLike,
    sigmas: ArrayLike | None = None,
    *,
    sizes: Sequence[int] | None = None,
    against: Any = "clean",
    n_images: int = 64,
    held_out: ArrayLike | None = None,
    monotone: bool = True,
    sample_weight: ArrayLike | None = None,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> tuple[PatchSchedule, CalibrationTable]:
    r"""Return the patch size with the smallest error at each noise level.

    .. math::

        s(\sigma) = \operatorname*{argmin}_s \operatorname{E}
        \| D_s(x + \sigma \epsilon; \sigma) - y \|^2

    The mean is over images x on which the denoisers :math:`D_s` were not fitted, and over standard
    normal noise. The target y is the image x, or the answer of another denoiser, such as a trained
    network, to :math:`x + \sigma \epsilon`. With ``monotone``, the sizes never fall as sigma
    grows, and have the smallest sum of errors over the noise levels.

    Parameters
    ----------
    denoiser : PSPCDenoiser or another denoiser with a parameter ``patch_size``
        Denoiser of whole images, of which a clone is fitted for each size.
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Training images.
    sigmas : sequence of float, default None
        Noise levels, finite, non-negative and distinct, in any order, in the units of the
        images. None: 0.05, 0.1, 0.2, ..., 12.8 for images on [-1, 1], scaled to the
        ``data_range`` of the denoiser. Against a network, pass noise levels of its training.
    sizes : sequence of int, default None
        Candidates, at least 1 and at most the longer side of the image. None: up to 15 sizes
        from 1 to the longer side, evenly spaced in their logarithm.
    against : "clean" or denoiser, default "clean"
        Target of the answers: the held-out images, or the answers of a fitted denoiser, which
        denoises each image once at each noise level.
    n_images : int, default 64
        Number of different images of X to hold out, with all their copies. The clones are fitted
        on the other images.
    held_out : array or Tensor of shape (m, C, H, W) or (m, d), default None
        Clean images to use instead; the clones are then fitted on all of X. Images that are also
        in X make the largest size look best at small sigma. The paper uses training images on
        purpose, against a network.
    monotone : bool, default True
        Forbid sizes that fall as sigma grows.
    sample_weight : array of shape (n,), default None
        Weights of the images of X, in the fits and in the mean over held-out images.
    random_state : int, RandomState, Generator or None, default 0
        Seed or generator of the choice of held-out images and of their noise. The noise of image
        i depends on ``random_state`` and i only.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    schedule : PatchSchedule
        Patch sizes at the noise levels, for ``PSPCDenoiser(patch_size=schedule)``.
    table : CalibrationTable
        Errors of all sizes at all noise levels; its method ``plot`` draws them.

    Raises
    ------
    ValueError
        For invalid noise levels or sizes, too few images to hold out ``n_images``, a denoiser of
        patches or without ``patch_size``, or a reference that answers with NaN.

    See Also
    --------
    suggest_patch_size : Size from which patches must answer as the optimal denoiser does.
    skpspc.PSPCDenoiser : ``patch_size="calibrated"`` runs a small calibration in ``fit``.
    CalibrationCurveDisplay : Picture of the errors.

    Notes
    -----
    The monotone choice is exact, by dynamic programming. It maximises ``score`` at these noise
    levels, where levels with large errors count most. Among sizes of equal error the smallest is
    chosen. The chosen sizes fit the held-out images: report errors on images that are in neither
    X nor ``held_out``. More training images allow larger patches: calibrate with as many images as
    the denoiser will have.

    References
    ----------
    Niedoba et al., ICML 2025, arXiv:2411.19339, Sec. 5.1 (sizes closest to a network) and App. B.

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import calibrate_patch_size
    >>> X = load_digits_images().images[:500]
    >>> sigmas, sizes = [0.1, 1.0], [1, 4, 8]
    >>> model = PSPCDenoiser()
    >>> schedule, table = calibrate_patch_size(model, X, sigmas, sizes=sizes)
    >>> schedule
    PatchSchedule(sigmas=[0.1, 1.0], sizes=[1, 8])
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
    with showing(verbose):
        tried = progress(list(sizes), "patch sizes")
        models = (_fitted(denoiser, kept, patch_size=size) for size in tried)
        table = _table(models, sizes, held, grid, against, seed, monotone, "patch size")
    return PatchSchedule(grid.tolist(), table.chosen.tolist()), table


def calibrate_thresholds(
    denoiser: Any,
    X: ArrayLike,
    *,
    thresholds: Sequence[float] = _THRESHOLDS,
    against: Any = "clean",
    n_images: int = 64,
    held_out: ArrayLike | None = None,
    monotone: bool = True,
    sample_weight: ArrayLike | None = None,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> tuple[list[float], CalibrationTable]:
    r"""Return the thresholds of `skpspc.FlexibleWindows` with the smallest errors.

    A threshold :math:`\lambda`, the fraction of the heat that a window holds, is chosen at each
    noise level of the windows, by its error on held-out images. With ``monotone``, thresholds never
    fall as sigma grows. :func:`calibrate_patch_size` chooses patch sizes likewise.

    Parameters
    ----------
    denoiser : PSPCDenoiser
        Denoiser with ``windows=FlexibleWindows(...)``, whose own thresholds are not used.
    X : array or Tensor of shape (n, C, H, W) or (n, d)
        Training images.
    thresholds : sequence of float, default (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
        Candidates, in (0, 1].
    against : "clean" or denoiser, default "clean"
        Target of the answers: the held-out images, or the answers of a fitted denoiser, which
        denoises each image once at each noise level.
    n_images : int, default 64
        Number of different images of X to hold out, with all their copies. The clones are fitted
        on the other images.
    held_out : array or Tensor of shape (m, C, H, W) or (m, d), default None
        Clean images to use instead; the clones are then fitted on all of X.
    monotone : bool, default True
        Forbid thresholds that fall as sigma grows.
    sample_weight : array of shape (n,), default None
        Weights of the images of X, in the fits and in the mean over held-out images.
    random_state : int, RandomState, Generator or None, default 0
        Seed or generator of the choice of held-out images and of their noise.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    thresholds : list of float
        Threshold at each of the ``sigmas`` of the windows, in their order, for
        ``FlexibleWindows(heatmaps, thresholds, sigmas)``.
    table : CalibrationTable
        Errors of all thresholds, by increasing noise level; its method ``plot`` draws them.

    Raises
    ------
    ValueError
        For a denoiser without flexible windows, invalid thresholds or a threshold that leaves a
        pixel outside all windows, too few images to hold out ``n_images``, or a reference that
        answers with NaN.

    Examples
    --------
    >>> from skpspc import FlexibleWindows, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import calibrate_thresholds
    >>> X = load_digits_images().images[:500]
    >>> denoiser = PSPCDenoiser(windows=FlexibleWindows("data", 0.5, [2.0, 0.2]))
    >>> thresholds = [0.5, 0.8, 0.95]
    >>> chosen, table = calibrate_thresholds(denoiser, X, thresholds=thresholds)
    >>> chosen  # at sigma = 2.0 and 0.2
    [0.95, 0.5]
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
    grid = np.sort(given)
    with showing(verbose):
        models = (
            _fitted(clone(denoiser).set_params(windows=windows), kept, windows__thresholds=value)
            for value in progress(candidates.tolist(), "thresholds")
        )
        table = _table(models, candidates, held, grid, against, seed, monotone, "threshold")
    return table.chosen[np.argsort(np.argsort(given))].tolist(), table


def _split(denoiser, X, n_images, held_out, sample_weight, random_state):
    """Return training images and held-out images, two of TrainingSet, and a seed for the noise."""
    shared = {name: getattr(denoiser, name, None) for name in ("data_range", "device")}
    shape = getattr(denoiser, "image_shape", None)
    training_set = checked_training_set(X, sample_weight, image_shape=shape, **shared)
    rng = np.random.default_rng([noise_seed(random_state), _CALIBRATION])
    if held_out is not None:
        shape = training_set.image_shape
        held_out = checked_training_set(held_out, image_shape=shape, **shared).together()
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
    """Return the table of errors and choices; models are fitted and evaluated one by one."""
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
    """Return the answers of the reference denoiser."""
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
