"""The ideal score machines of convolutional networks."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from sklearn.utils._param_validation import Interval, StrOptions

from .._typing import BySigma, DataRange, Device, ImageShape, RandomState
from ..posterior import CellSearch, Prior
from ..support import Centred
from ..support.cells import CellsByWindow
from .base import Denoiser
from .training_set_denoiser import TrainingSetDenoiser


@dataclass(frozen=True)
class CentredBySigma:
    """Centred windows whose side depends on the noise level.

    ``schedule`` maps a float sigma to the side, an odd int; ``boundary`` is as in `Centred`.
    """

    schedule: Callable
    boundary: str | None
    image_shape: tuple[int, int, int]

    def __call__(self, sigma):
        """Return the windows at a noise level, `Centred`."""
        size = self.schedule(sigma)
        check_size(size, self.boundary, self.image_shape, f" at sigma = {sigma}")
        return Centred(int(size), self.boundary)


def check_size(size, boundary, image_shape, where=""):
    """Raise for window sizes without a centre, or larger than every inner patch."""
    if not isinstance(size, numbers.Integral) or size < 1:
        raise ValueError(
            f"patch_size must give an odd int of at least 1 at every sigma, got {size!r}{where}."
        )
    if size % 2 == 0:
        raise ValueError(
            "patch_size must be odd, so that a window has a pixel in its centre, got "
            f"{size}{where}; pass {size - 1} or {size + 1}."
        )
    shortest = min([side for side in image_shape[1:] if side > 1], default=int(size))
    if boundary in ("zero", "circular") and int(size) > shortest:
        raise ValueError(
            f"patch_size={size}{where} is larger than the image {image_shape}, and "
            f"boundary={boundary!r} compares with patches inside the training images, of "
            f"which there are none; pass at most {shortest - 1 + shortest % 2}, or "
            "boundary='broken'."
        )


class LocalScoreDenoiser(TrainingSetDenoiser):
    r"""Posterior mean of every pixel, from the square window around it.

    .. math::

        D(z; \sigma)_p = \sum_{(i, q)} w_{iq}^p\, x_{iq}, \qquad
        w^p = \operatorname{softmax}_{(i, q)}\bigl(-\|z_{P(p)} - x_{i P(q)}\|^2 / 2 \sigma^2
        + \log v_i\bigr)

    with :math:`P(p)` the square around pixel p, in all channels, and :math:`v_i` the sample
    weights. The sum runs over the training images i and over pixels q:

    - the local score machine (LS, ``equivariant=False``): q = p. Both images are padded with
      zeros, so that pixels outside the image do not count.
    - the equivariant local score machine (ELS, ``equivariant=True``): every q whose window lies
      inside the image.
    - the boundary-broken ELS (``boundary="broken"``): where the window of p overhangs an edge,
      every q at equal distance from that edge, padded as in LS; elsewhere every q whose window lies
      inside the image. In a corner only q = p.

    Each pixel has its own mixture of training images: the result is a mosaic of patches, as
    convolutional networks make. At :math:`\sigma = 0` every pixel is the centre of the nearest
    patch (ties averaged), at :math:`\sigma = \infty` the mean of all.

    Parameters
    ----------
    patch_size : int, PatchSchedule or callable, default 3
        Odd side of the windows. A `PatchSchedule` or another callable maps a float sigma to it;
        `skpspc.sampling.local_score_schedule` has the published sides. Windows do not extend along
        an axis of length 1.
    equivariant : bool, default False
        True: compare a window with all locations in the training images. False: with its own.
    boundary : {"zero", "circular", "broken"}, default "zero"
        Padding of the noisy image; "zero" is required for ``equivariant=False``. In ELS, "zero" and
        "circular" pad the noisy image alone, and compare all coordinates of a window, padding
        included, with inner patches of the training images. The published ELS code is "circular".
        "broken" pads both images; with windows at least as large as the image it is LS.
    tol : float, default None
        With ``equivariant=True``: largest estimated ``error_bound`` of the posterior. A window is
        then compared with similar patches, from an index built at the first call for each window
        size. None: all patches are compared. The answer is exact where few patches do not suffice
        (at large sigma), and without compiled code.
    verbose : int, default 0
        Above zero, show a progress bar while an index is built.
    sigma, image_shape, data_range, device, random_state
        As in `EmpiricalDenoiser`.

    Attributes
    ----------
    image_shape_, n_features_in_, training_set_
        As in `EmpiricalDenoiser`.

    See Also
    --------
    PSPCDenoiser : Windows that answer for all of their pixels.

    Notes
    -----
    ``effective_sample_size`` counts patches in ELS and may exceed the number of images. In
    ``log_evidence`` a window counts its coordinates inside the image (LS, "broken"), or all
    coordinates, padding included (ELS, "zero" and "circular").

    ELS compares each of H * W windows with up to N * H * W patches: one image of 32 x 32 takes
    thousands of times the work of LS, whose distances are box sums as in `PSPCDenoiser`. ``tol``
    makes that many times less where few of millions of patches have weight. Its ``error_bound``
    assumes that the patches of a cell have a Gaussian distribution: it is an estimate
    (``bound_is_proved`` is False), far above most errors and below a few errors of single pixels.
    The index keeps 4 bytes for each patch.

    References
    ----------
    Kamb & Ganguli, "An analytic theory of creativity in convolutional diffusion models",
    ICML 2025, arXiv:2412.20292.

    Examples
    --------
    >>> from skpspc import LocalScoreDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> model = LocalScoreDenoiser(patch_size=3, equivariant=True, boundary="broken")
    >>> model.fit(X[:100]).denoise(X[100:102], sigma=0.5).shape
    (2, 1, 8, 8)
    """

    _parameter_constraints = {
        **Denoiser._parameter_constraints,
        "patch_size": [Interval(numbers.Integral, 1, None, closed="left"), callable],
        "equivariant": ["boolean"],
        "boundary": [StrOptions({"zero", "circular", "broken"})],
        "tol": [Interval(numbers.Real, 0, None, closed="neither"), None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        patch_size: int | BySigma = 3,
        *,
        equivariant: bool = False,
        boundary: Literal["zero", "circular", "broken"] = "zero",
        tol: float | None = None,
        verbose: int = 0,
        sigma: float = 0.5,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
        device: Device | None = None,
        random_state: RandomState | None = 0,
    ) -> None:
        self.patch_size = patch_size
        self.equivariant = equivariant
        self.boundary = boundary
        self.tol = tol
        self.verbose = verbose
        self.sigma = sigma
        self.image_shape = image_shape
        self.data_range = data_range
        self.device = device
        self.random_state = random_state

    def _check(self, training_set):
        if not self.equivariant and self.boundary != "zero":
            raise ValueError(
                f"boundary={self.boundary!r} is for windows that are compared with all locations; "
                "pass equivariant=True with it, or boundary='zero'."
            )
        if not self.equivariant and self.tol is not None:
            raise ValueError(
                f"tol={self.tol} is for windows that are compared with all locations; pass "
                "equivariant=True with it, or tol=None."
            )
        is_schedule = callable(self.patch_size)
        sizes = getattr(self.patch_size, "sizes", []) if is_schedule else [self.patch_size]
        for size in sizes:
            check_size(size, self._padding, training_set.image_shape)

    @property
    def _padding(self):
        """Boundary of `Centred` windows."""
        return self.boundary if self.equivariant else None

    def _learn(self, training_set):
        windows: CentredBySigma | Centred
        if callable(self.patch_size):
            shape = training_set.image_shape
            windows = CentredBySigma(self.patch_size, self._padding, shape)
        else:
            windows = Centred(int(self.patch_size), self._padding)
        search = None if self.tol is None else CellSearch(CellsByWindow(), self.tol)
        return Prior(training_set, windows, search=search)

    def _grown(self, prior, training_set, added):
        whole = training_set.extended(added.images, added.sample_weight)
        search = None if prior.search is None else prior.search.extended()
        return replace(prior, source=whole, search=search), whole

    def _prior_of(self, code=None):
        prior = super()._prior_of(code)
        if prior.search is None:
            return prior
        return replace(prior, search=replace(prior.search, verbose=self.verbose))

    @property
    def _proved_by(self):
        return (
            f"tol={self._learner.tol!r} takes the patches of a cell to be spread as a Gaussian; "
            "pass a smaller tol for smaller errors, or tol=None to use all patches"
        )
