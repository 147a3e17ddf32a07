"""The ideal score machines of convolutional networks."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace

from sklearn.utils._param_validation import Interval, StrOptions

from ..posterior import CellSearch, Prior
from ..support import Centred
from ..support.cells import CellsByWindow
from .base import Denoiser
from .training_set_denoiser import TrainingSetDenoiser


@dataclass(frozen=True)
class CentredBySigma:
    """Centred windows whose side depends on the noise level.

    Attributes
    ----------
    schedule : callable
        Maps a noise level, a float, to the side, an odd int.
    boundary : str or None
        As in `Centred`.
    image_shape : tuple of (C, H, W)
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
    """Refuse window sizes without a centre, and those that no inner patch has."""
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

    with :math:`P(p)` the square around pixel p and :math:`v_i` the sample weights. All
    channels share the window. The sum runs over the training images i and over pixels q:

    - the local score machine (LS, ``equivariant=False``): q = p, the same place. The window
      is padded with zeros, in both images alike, so that what overhangs does not count.
    - the equivariant local score machine (ELS, ``equivariant=True``): every q whose window
      lies inside the image.
    - the boundary-broken ELS (``boundary="broken"``): where the window of p overhangs an
      edge, the q at the same distance from that edge, padded with zeros as in LS; elsewhere
      every q whose window lies inside the image. In a corner that is q = p alone.

    Each pixel is put together from its own mixture of training images: the result is a
    mosaic of patches, as convolutional networks make them. At :math:`\sigma = 0` every pixel
    is the centre of the nearest patch (ties averaged), at :math:`\sigma = \infty` the mean
    of all.

    Parameters
    ----------
    patch_size : int, PatchSchedule or callable, default 3
        Side of the windows, odd. A `PatchSchedule` or another callable maps a float sigma to
        it; `skpspc.sampling.local_score_schedule` has the published ones. An axis of length 1
        is no axis: windows do not extend along it.
    equivariant : bool, default False
        Whether a window looks at all places of the training images, or at its own alone.
    boundary : {"zero", "circular", "broken"}, default "zero"
        What a window sees beyond the edge of the noisy image; with ``equivariant=False`` only
        "zero" makes sense. For ELS, "zero" and "circular" pad the noisy image and compare it
        with the inner patches of the training images, in all coordinates: zeros in the noisy
        image face pixels in the training image. "circular" is what the published ELS code
        does; "broken" pads both alike. Where the window is at least as large as the image,
        "broken" is LS.
    tol : float, default None
        With ``equivariant=True``: largest admissible ``error_bound``, as estimated, of the
        posterior. A window is then compared with the patches that are like it, which an index
        finds; it is made at the first call for each window size. None: with all patches. Where
        few patches do not do (at large sigma), and where there is no compiled code, the answer is
        exact.
    verbose : int, default 0
        Above zero, show a progress bar while an index is made.
    sigma, image_shape, data_range, device, random_state
        As in `EmpiricalDenoiser`.

    Attributes
    ----------
    image_shape_, n_features_in_, training_set_
        As in `EmpiricalDenoiser`.

    See Also
    --------
    PSPCDenoiser : Windows that answer for every pixel they cover.

    Notes
    -----
    ``effective_sample_size`` counts patches where a window looks at many places, so it may
    exceed the number of images. In ``log_evidence`` a window counts the coordinates that lie
    in the image (LS, "broken"), or all of them, padding included (ELS, "zero" and "circular").

    ELS compares each of H * W windows with up to N * H * W patches: one image of 32 x 32 takes
    thousands of times the work of LS, whose distances are box sums as in `PSPCDenoiser`. ``tol``
    makes that many times less where a posterior rests on few of millions of patches. Its
    ``error_bound`` takes the patches of a cell to be spread as a Gaussian: it is an estimate
    (``bound_is_proved`` is False), far above most errors and below some of single pixels. The
    index keeps 4 bytes a patch.

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
        patch_size=3,
        *,
        equivariant=False,
        boundary="zero",
        tol=None,
        verbose=0,
        sigma=0.5,
        image_shape=None,
        data_range=None,
        device=None,
        random_state=0,
    ):
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
                f"boundary={self.boundary!r} is for windows that are compared with other places; "
                "pass equivariant=True with it, or boundary='zero'."
            )
        if not self.equivariant and self.tol is not None:
            raise ValueError(
                f"tol={self.tol} is for windows that are compared with all places; pass "
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
