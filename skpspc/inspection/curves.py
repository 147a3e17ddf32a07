r"""Errors of denoisers, measured from the optimal denoiser, from clean images or from one another.

Noisy images come from one of two processes:

- *forward*: :math:`z = x + \sigma \epsilon`, with x an image and :math:`\epsilon` standard normal
  noise;
- *reverse*: the states that a sampler visits between noise and a sample. Samplers give denoisers
  such states, which have no clean image.
"""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Literal

import numpy as np
import torch
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from .._progress import is_shown, progress, showing
from .._typing import ArrayLike, Denoisers, Numbers, RandomState, Sampler, SupportsDenoise
from .._units import middle, sampler_ends
from ..denoisers import EmpiricalDenoiser
from ..sampling import SAMPLERS, draw_noise, edm_sigmas, noise_seed
from ..sampling.noise import StepNoise
from ..sampling.run import supplied
from ..sampling.schedules import check_grid
from ..support.memory import rows_that_fit
from ._errors import answer_of, standard_error
from ._images import as_clean, as_images, check_count, check_fits, shared_range
from ._training import shared_training_set, training_images
from .tables import ComparisonTable, ErrorTable

_DEFAULT_N = 64
# Beside the seed, so that the noise is not that of `score` and `sample`.
_INSPECTION = 3


def error_curve(
    denoisers: Denoisers,
    X: ArrayLike | None,
    sigmas: Numbers,
    *,
    against: Literal["optimal", "clean"] | SupportsDenoise = "optimal",
    process: Literal["forward", "reverse"] = "forward",
    n: int | None = None,
    X_train: ArrayLike | None = None,
    along: str | SupportsDenoise | None = None,
    sampler: Sampler = "dpmpp_2m",
    n_steps: int = 18,
    sigma_max: float | None = None,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> ErrorTable:
    r"""Return the mean squared errors of denoisers at each noise level.

    .. math::

        E(\sigma) = \frac{1}{n D} \sum_{j=1}^n |D(z_j; \sigma) - R(z_j; \sigma)|^2

    R is the optimal denoiser of the training set, another denoiser, or the clean image. All
    denoisers get equal noisy images.

    Parameters
    ----------
    denoisers : dict of str to denoiser, list of denoisers, or denoiser
        Fitted denoisers, on any device and in any dtype. Wrap networks in
        `skpspc.NetworkDenoiser`.
    X : array or Tensor of shape (N, C, H, W) or (N, d)
        Clean images, to which noise is added. On training images, as in the paper, networks
        differ from the optimal denoiser most at medium noise levels, and little at both ends. On
        held-out images they also differ much at small noise levels, where the optimal denoiser
        returns a training image.
    sigmas : array of float of shape (n_sigmas,)
        Noise levels, non-negative, finite and distinct, in any order; in the units of the images.
    against : "optimal", "clean" or denoiser, default "optimal"
        Reference R: "optimal" is the exact `skpspc.EmpiricalDenoiser` of the training set,
        "clean" the images of X.
    process : {"forward", "reverse"}, default "forward"
        Source of the noisy images. "forward": images of X with noise. "reverse": the states at
        ``sigmas`` of n sampling runs; X may be None.
    n : int, default None
        Number of noisy images at each noise level, drawn from X without replacement, or number of
        sampling runs. None: 64, or as many as X holds.
    X_train : array or Tensor of shape (N, C, H, W) or (N, d), default None
        Training images of "optimal". None: the training set, with weights, that all ``denoisers``
        have in common. Pass X_train for networks, which keep no training set, and for a
        `skpspc.GaussianDenoiser` of more images than values in an image.
    along : str or denoiser, default None
        Denoiser that samples if the process is "reverse": the name of one of ``denoisers``, or
        another denoiser. None: the denoiser ``against``, which is the network in the paper.
    sampler : str or callable, default "dpmpp_2m"
        Sampler of the process "reverse", as for the method ``sample`` of a denoiser.
    n_steps : int, default 18
        Steps of the sampler from ``sigma_max`` to the smallest of ``sigmas`` on the grid of
        `skpspc.edm_sigmas`. The other ``sigmas`` are additional steps.
    sigma_max : float, default None
        First noise level of the sampler; a larger one of ``sigmas`` replaces it. None: 80 for
        images on [-1, 1], scaled to the ``data_range`` of the sampling denoiser.
    random_state : int, RandomState, Generator or None, default 0
        Seed or generator of the drawn images and of their noise. Each image has one draw of
        noise, used at every noise level; neither depends on n or ``sigmas``.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    ErrorTable
        Mean squared errors with their standard errors; its method ``plot`` draws them.

    Raises
    ------
    ValueError
        For no noise levels, n above the number of images of X, an unknown ``against``,
        ``process`` or ``along``, ``against="clean"`` for the process "reverse",
        ``against="optimal"`` without ``X_train`` or a common training set, or answers that have
        another shape or hold NaN or infinity.
    sklearn.exceptions.NotFittedError
        For a denoiser that is not fitted.

    See Also
    --------
    ErrorCurveDisplay : Picture of the errors.
    compare : Differences between any two denoisers.

    References
    ----------
    Niedoba et al., ICML 2025, arXiv:2411.19339.

    Examples
    --------
    >>> from skpspc import GaussianDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import error_curve
    >>> X = load_digits_images().images
    >>> gauss, pspc = GaussianDenoiser().fit(X), PSPCDenoiser(4).fit(X)
    >>> denoisers = {"Gaussian": gauss, "PSPC": pspc}

    On training images, both differ from the optimal denoiser most at a medium noise level:

    >>> error_curve(denoisers, X, [0.01, 0.5, 50.0], n=8, X_train=X)
    Mean squared error against the optimal denoiser of X_train (1797 images),
    8 noisy images (forward process)
    sigma  Gaussian      PSPC
     0.01  9.24e-05         0
      0.5    0.0786    0.0397
       50  1.02e-07  4.55e-05
    """
    members = named_denoisers(denoisers)
    reference, words = _reference(against, members, X_train)
    if process == "reverse" and reference is None:
        raise ValueError(
            "against='clean' needs process='forward', because sampler states have no clean images; "
            "pass a denoiser, or 'optimal'."
        )
    walker = _walker(along, members, reference, process)
    sigmas = np.sort(check_grid(sigmas))
    asked = [reference, *members.values()]
    source = _source(asked, X, n, process, walker, sampler, n_steps, sigma_max, random_state)
    errors = np.empty((len(sigmas), len(members), source.n))
    with showing(verbose):
        for j, rows, clean, z in source.noisy(sigmas):
            sigma = float(sigmas[j])
            target = clean if reference is None else answer_of(reference, z, sigma, "against")
            for m, (name, denoiser) in enumerate(members.items()):
                errors[j, m, rows] = _squares(answer_of(denoiser, z, sigma, name), target)
    summary = errors.mean(-1), standard_error(errors)
    return ErrorTable(sigmas, list(members), *summary, source.n, process, words, source.words)


def compare(
    denoisers: Denoisers,
    X: ArrayLike | None,
    sigmas: Numbers,
    *,
    process: Literal["forward", "reverse"] = "forward",
    n: int | None = None,
    along: str | SupportsDenoise | None = None,
    sampler: Sampler = "dpmpp_2m",
    n_steps: int = 18,
    sigma_max: float | None = None,
    random_state: RandomState | None = 0,
    verbose: int = 0,
) -> ComparisonTable:
    """Return the root mean square difference of any two denoisers at each noise level.

    Parameters
    ----------
    denoisers : dict of str to denoiser, or list of denoisers
        Two or more fitted denoisers, on any device and in any dtype. Wrap networks in
        `skpspc.NetworkDenoiser`.
    X : array or Tensor of shape (N, C, H, W) or (N, d)
        Clean images, to which noise is added; may be None if the process is "reverse".
    sigmas : array of float of shape (n_sigmas,)
        Noise levels, non-negative, finite and distinct, in any order; in the units of the images.
    process : {"forward", "reverse"}, default "forward"
        Source of the noisy images. "forward": images of X with noise. "reverse": the states at
        ``sigmas`` of n sampling runs.
    n : int, default None
        Number of noisy images at each noise level, drawn from X without replacement, or number of
        sampling runs. None: 64, or as many as X holds.
    along : str or denoiser, default None
        Denoiser that samples if the process is "reverse": the name of one of ``denoisers``, or
        another denoiser. None: the first of ``denoisers``.
    sampler : str or callable, default "dpmpp_2m"
        Sampler of the process "reverse", as for the method ``sample`` of a denoiser.
    n_steps : int, default 18
        Steps of the sampler from ``sigma_max`` to the smallest of ``sigmas`` on the grid of
        `skpspc.edm_sigmas`. The other ``sigmas`` are additional steps.
    sigma_max : float, default None
        First noise level of the sampler; a larger one of ``sigmas`` replaces it. None: 80 for
        images on [-1, 1], scaled to the ``data_range`` of the sampling denoiser.
    random_state : int, RandomState, Generator or None, default 0
        Seed or generator of the drawn images and of their noise.
    verbose : int, default 0
        Above 0, show progress bars with the elapsed and the remaining time.

    Returns
    -------
    ComparisonTable
        Root mean square differences ``differences``, and their squares ``errors`` with standard
        errors; its method ``plot`` draws the differences.

    Raises
    ------
    ValueError
        For fewer than two denoisers, no noise levels, n above the number of images of X, an
        unknown ``process`` or ``along``, or answers that have another shape or hold NaN or
        infinity.
    sklearn.exceptions.NotFittedError
        For a denoiser that is not fitted.

    See Also
    --------
    ComparisonDisplay : Picture of the differences.
    error_curve : Errors measured from one reference.

    Examples
    --------
    >>> from skpspc import EmpiricalDenoiser, GaussianDenoiser, PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import compare
    >>> X = load_digits_images().images
    >>> models = {
    ...     "optimal": EmpiricalDenoiser().fit(X[100:]),
    ...     "PSPC": PSPCDenoiser(patch_size=4).fit(X[100:]),
    ...     "Gaussian": GaussianDenoiser().fit(X[100:]),
    ... }
    >>> compare(models, X[:100], [0.5], n=16)
    Root mean square differences, 16 noisy images (forward process)
    sigma  denoiser  optimal   PSPC  Gaussian
      0.5   optimal        0  0.238     0.295
      0.5      PSPC    0.238      0     0.173
      0.5  Gaussian    0.295  0.173         0
    """
    members = named_denoisers(denoisers)
    if len(members) < 2:
        raise ValueError(
            f"compare needs two or more denoisers, got {', '.join(members)} alone; add another, or "
            "call error_curve, which measures one denoiser."
        )
    walker = _walker(along, members, next(iter(members.values())), process)
    sigmas = np.sort(check_grid(sigmas))
    asked = members.values()
    source = _source(asked, X, n, process, walker, sampler, n_steps, sigma_max, random_state)
    errors = np.zeros((len(sigmas), len(members), len(members), source.n))
    with showing(verbose):
        for j, rows, _, z in source.noisy(sigmas):
            answers = [answer_of(d, z, float(sigmas[j]), name) for name, d in members.items()]
            for a, b in zip(*np.triu_indices(len(members), 1), strict=True):
                errors[j, a, b, rows] = errors[j, b, a, rows] = _squares(answers[a], answers[b])
    summary = errors.mean(-1), standard_error(errors)
    return ComparisonTable(sigmas, list(members), *summary, source.n, process, source.words)


def named_denoisers(denoisers):
    """Return checked denoisers by name; unnamed ones are called by their class, and numbered."""
    if not isinstance(denoisers, Mapping):
        given = denoisers if isinstance(denoisers, Sequence) else [denoisers]
        denoisers = {}
        for denoiser in given:
            name = type(denoiser).__name__
            repeats = sum(type(other) is type(denoiser) for other in denoisers.values())
            denoisers[f"{name} {repeats + 1}" if repeats else name] = denoiser
    if not denoisers:
        raise ValueError("denoisers must hold at least one denoiser, got none of them.")
    for name, denoiser in denoisers.items():
        _check_denoiser(denoiser, name)
    named = {str(name): denoiser for name, denoiser in denoisers.items()}
    if len(named) < len(denoisers):
        raise ValueError(
            f"names of denoisers must differ as text, got {list(denoisers)}; rename one of them."
        )
    return named


def _check_denoiser(denoiser, name):
    """Raise unless an object is a fitted denoiser."""
    if not callable(getattr(denoiser, "denoise", None)):
        raise ValueError(
            f"{name} must be a fitted denoiser, got {denoiser!r}; wrap a network in "
            "NetworkDenoiser(network, image_shape=...)."
        )
    if hasattr(denoiser, "fit"):
        check_is_fitted(denoiser)


def _reference(against, members, X_train):
    """Return the denoiser that errors are measured from, or None for clean images, and its name."""
    if not isinstance(against, str):
        _check_denoiser(against, "against")
        return against, type(against).__name__
    if against == "clean":
        return None, "the clean images"
    if against == "optimal":
        optimum = _optimum(members, X_train)
        n = len(optimum.training_set_)
        whose = "the training set" if X_train is None else "X_train"
        return optimum, f"the optimal denoiser of {whose} ({n} images)"
    raise ValueError(f"against must be 'optimal', 'clean' or a denoiser, got {against!r}.")


def _optimum(members, X_train):
    """Return the optimal denoiser of X_train, or of the training set common to the members."""
    if X_train is not None:
        images = training_images(X_train, "X_train")
        is_uint8 = images.dtype in (np.uint8, torch.uint8)
        data_range = shared_range(members.values(), images) if is_uint8 else None
        return EmpiricalDenoiser(data_range=data_range).fit(images)
    training_set = shared_training_set(members.values())
    if training_set is None:
        raise ValueError(
            f"against='optimal' needs one training set, and {', '.join(members)} keep none or "
            "different ones; pass X_train, the training images of the optimal denoiser."
        )
    data_range = training_set.data_range if training_set.is_uint8 else None
    optimum = EmpiricalDenoiser(data_range=data_range)
    return optimum.fit(training_set.images, sample_weight=training_set.sample_weight)


def _walker(along, members, default, process):
    """Return the denoiser of the sampler, or None for the forward process."""
    if process not in ("forward", "reverse"):
        raise ValueError(f"process must be 'forward' or 'reverse', got {process!r}.")
    if process == "forward":
        if along is not None:
            raise ValueError("along is the denoiser of a sampler; pass process='reverse' too.")
        return None
    if along is None:
        return default
    if isinstance(along, str):
        if along not in members:
            raise ValueError(f"along must be one of {list(members)} or a denoiser, got {along!r}.")
        return members[along]
    _check_denoiser(along, "along")
    return along


def _source(denoisers, X, n, process, walker, sampler, n_steps, sigma_max, random_state):
    """Return the source of the noisy images."""
    if n is not None:
        check_count(n, "n")
    rng = np.random.default_rng([noise_seed(random_state), _INSPECTION])
    if process == "forward":
        return _Forward(denoisers, X, n, rng)
    return _Reverse(walker, n, rng, sampler, n_steps, sigma_max)


class _Forward:
    """A source of ``n`` images with noise, described by ``words``."""

    def __init__(self, denoisers, X, n, rng):
        if X is None:
            raise ValueError("process='forward' adds noise to images of X, got None; pass images.")
        X = X if isinstance(X, (np.ndarray, torch.Tensor)) else as_images(X, "X")
        if n is not None and n > len(X):
            raise ValueError(f"n={n} is more than the {len(X)} images of X; pass more images.")
        self.n = min(_DEFAULT_N, len(X)) if n is None else int(n)
        chosen = rng.permutation(len(X))[: self.n]
        self.images = as_images(X[chosen], "X")
        for denoiser in denoisers:
            check_fits(self.images, denoiser, "X")
        self.data_range = shared_range(denoisers, self.images)
        self.seed = noise_seed(rng)
        self.words = "noisy images (forward process)"

    def noisy(self, sigmas):
        """Yield index of the noise level, rows, clean images and noisy images, by batches."""
        shape = self.images.shape[1:]
        for rows in progress(_batches(shape, self.n), "batches of noisy images"):
            clean = as_clean(self.images[rows], self.data_range)
            noise = draw_noise(shape, len(clean), self.seed, start=rows.start).to(clean)
            for j, sigma in enumerate(progress(sigmas, "noise levels")):
                yield j, rows, clean, clean + float(sigma) * noise


class _Reverse:
    """A source of the states of ``n`` runs of a sampler, described by ``words``."""

    def __init__(self, walker, n, rng, sampler, n_steps, sigma_max):
        if not hasattr(walker, "sample"):
            raise ValueError(
                f"process='reverse' samples with a denoiser of this library, got {walker!r}; wrap "
                "a network in NetworkDenoiser."
            )
        if not (callable(sampler) or (isinstance(sampler, str) and sampler in SAMPLERS)):
            raise ValueError(
                f"sampler must be one of {sorted(SAMPLERS)} or a callable, got {sampler!r}."
            )
        _, sigma_max = sampler_ends(getattr(walker, "data_range_", None), sigma_max=sigma_max)
        if not (isinstance(sigma_max, Real) and 0 < float(sigma_max) < np.inf):
            raise ValueError(
                f"sigma_max must be a positive float, got {sigma_max!r}; pass the first noise "
                "level of the sampler, or None."
            )
        self.n = _DEFAULT_N if n is None else int(n)
        self.seed = noise_seed(rng)
        self.walker, self.n_steps, self.sigma_max = walker, n_steps, sigma_max
        self.steps = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
        self.words = f"sampler states of {type(walker).__name__} (reverse process)"

    def noisy(self, sigmas):
        """Yield index of the noise level, rows, None and states, by batches."""
        if sigmas[0] <= 0:
            raise ValueError("sigmas must be positive for process='reverse'; leave 0 out.")
        grid = self.grid(sigmas)
        shape = self.walker.image_shape_
        start = middle(getattr(self.walker, "data_range_", None))
        for rows in progress(_batches((len(grid), *shape), self.n), "batches of samples"):
            noise = draw_noise(shape, rows.stop - rows.start, self.seed, start=rows.start)
            step_noise = StepNoise(self.seed, len(grid), start=rows.start)
            _, states = self.walker.sample(
                initial=start + grid[0] * noise,
                sampler=supplied(self.steps, noise=step_noise),
                sigmas=grid,
                return_trajectory=True,
                verbose=int(is_shown()),
            )
            for j, sigma in enumerate(progress(sigmas, "noise levels")):
                yield j, rows, None, torch.as_tensor(states[grid.index(sigma)]).cpu()

    def grid(self, sigmas):
        """Return decreasing steps of the sampler: `edm_sigmas`, and increasing ``sigmas``."""
        steps = edm_sigmas(self.n_steps, sigmas[0], max(self.sigma_max, sigmas[-1]))
        twice = np.isclose(steps[:, None], sigmas, rtol=1e-6, atol=0).any(1)
        return np.union1d(steps[~twice], sigmas)[::-1].tolist()


def _batches(shape, n):
    """Return a list of slices of n rows that fit ``working_memory``."""
    n_rows = rows_that_fit(64 * int(np.prod(shape)), n, what="The noise of one image")
    return list(gen_batches(n, n_rows))


def _squares(answer, target):
    """Return the mean squared difference of each image, (n,)."""
    difference = answer.double() - target.double()
    return difference.square().flatten(1).mean(1).numpy()
