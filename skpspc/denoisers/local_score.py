"""The ideal score machines of convolutional networks."""

import math
import numbers
from functools import partial

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from tqdm.auto import tqdm

from ..posterior import (
    equivariant_posterior,
    local_posterior,
    patch_posterior,
    visiting_posterior,
)
from ..posterior.sliding import sliding_attribution, sliding_means_without
from ..support import Windows, centred_counts, centred_windows
from ..support.cells import CellsByWindow
from .base import BaseDenoiser


class LocalScoreDenoiser(BaseDenoiser):
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
    sigma : float, default 0.5
        Noise level of :meth:`transform` and :meth:`score_samples`.
    image_shape : tuple of (C, H, W), default None
        Shape of one image where X is flat; None: a flat row is a 1 x d image.
    data_range : tuple of (low, high), default None
        Range of the images, in whose units noise levels are: uint8 pixels 0 to 255 stand for
        low to high, and floats must lie between them. None: uint8 images are read on [-1, 1],
        float images are used unscaled.
    device : str or torch.device, default None
        Where to work; None: where X is.
    random_state : int, RandomState, Generator or None, default 0
        Fixes the noise of :meth:`score`.

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
        **BaseDenoiser._parameter_constraints,
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
        super().__init__(
            sigma=sigma,
            image_shape=image_shape,
            data_range=data_range,
            device=device,
            random_state=random_state,
        )
        self.patch_size = patch_size
        self.equivariant = equivariant
        self.boundary = boundary
        self.tol = tol
        self.verbose = verbose

    @property
    def _proved_by(self):
        return (
            f"tol={self.tol!r} takes the patches of a cell to be spread as a Gaussian; pass a "
            "smaller tol for smaller errors, or tol=None to use all patches"
        )

    def _resolve(self):
        self._cells = CellsByWindow()
        self._extend()

    def _extend(self):
        if not self.equivariant and self.boundary != "zero":
            raise ValueError(
                f"boundary={self.boundary!r} is about windows that look at other places; pass "
                "equivariant=True with it, or boundary='zero'."
            )
        if not self.equivariant and self.tol is not None:
            raise ValueError(
                f"tol={self.tol} is about windows that look at all places; pass equivariant=True "
                "with it, or tol=None."
            )
        self._boundary = self.boundary if self.equivariant else None
        self._schedule = self.patch_size
        if not callable(self._schedule):
            self._check_size(self._schedule)
        for size in getattr(self._schedule, "sizes", ()):
            self._check_size(size)

    def _check_size(self, size, where=""):
        """Refuse sizes without a centre, and those that no inner patch has."""
        if not isinstance(size, numbers.Integral) or size < 1:
            raise ValueError(
                f"patch_size must give an odd int of at least 1 at every sigma, got {size!r}"
                f"{where}."
            )
        if size % 2 == 0:
            raise ValueError(
                "patch_size must be odd, so that a window has a pixel in its centre, got "
                f"{size}{where}; pass {size - 1} or {size + 1}."
            )
        shortest = min([side for side in self.image_shape_[1:] if side > 1], default=int(size))
        if self._has_inner_patches_only() and int(size) > shortest:
            raise ValueError(
                f"patch_size={size}{where} is larger than the image {self.image_shape_}, and "
                f"boundary={self._boundary!r} compares with patches inside the training images, of "
                f"which there are none; pass at most {shortest - 1 + shortest % 2}, or "
                "boundary='broken'."
            )

    def _has_inner_patches_only(self):
        """Whether windows, padded or not, are compared with whole patches."""
        return self._boundary in ("zero", "circular")

    def _window(self, sigma):
        """Side of the windows at a sigma."""
        if not callable(self._schedule):
            return int(self._schedule)
        size = self._schedule(sigma)
        self._check_size(size, f" at sigma = {sigma}")
        return int(size)

    def _windows(self, sigma):
        if self._boundary is not None:
            raise self._without_windows(
                "{name}(equivariant=True) compares windows with other places of the training "
                "images too, which this does not know; use equivariant=False."
            )
        around = torch.from_numpy(centred_windows(self.image_shape_, self._window(sigma)))
        return Windows(around[:, None].to(self._device), None, self.training_set_)

    def _attributed(self, z, sigma, top, by_window):
        if self._boundary is None:
            return super()._attributed(z, sigma, top, by_window)
        return sliding_attribution(z, sigma, **self._compared(sigma), top=top, by_window=by_window)

    def _mean_without(self, z, sigma, groups):
        if self._boundary is None:
            return super()._mean_without(z, sigma, groups)
        return sliding_means_without(z, sigma, **self._compared(sigma), groups=groups)

    def _compared(self, sigma):
        """What windows of noisy images of one noise level are compared with."""
        size = self._window(float(sigma[0]))
        return dict(training_set=self.training_set_, size=size, boundary=self._boundary)

    def _posterior(self, z, sigma):
        return self._posterior_by_window(z, sigma)

    def _windowed_posterior(self, z, sigma, size):
        """The posterior of images that share a window size."""
        channels, *sides = self.image_shape_
        if self._boundary is not None:
            posterior = equivariant_posterior(
                z, sigma, self.training_set_, size, self._boundary, self._answer
            )
        else:
            posterior = local_posterior(z, sigma, self.training_set_, size)
        if self._has_inner_patches_only():
            n_values = channels * math.prod(size for side in sides if side > 1)
        else:
            counts = torch.as_tensor(centred_counts(size, self.image_shape_))
            n_values = channels * counts.flatten().to(z)
        return posterior.pooled(self.n_features_in_, n_values)

    def _answer(self, queries, sigma, dictionary):
        """The posterior of windows that do not overhang the image."""
        if self.tol is None:
            return patch_posterior(queries, sigma, dictionary)
        cells = partial(self._cells_of, dictionary)
        return visiting_posterior(queries, sigma, dictionary, cells, self.tol)

    def _cells_of(self, dictionary):
        """The index of the patches of a dictionary; made at the first call."""

        def track(parts):
            return tqdm(parts, "indexing patches", disable=self.verbose <= 0)

        return self._cells.of(dictionary, track)
