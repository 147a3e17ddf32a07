"""Priors: what denoisers learn from training images, and the posteriors that follow from it."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch

from ..support import (
    Centred,
    Inpainting,
    Masks,
    Operator,
    Squares,
    SquaresAnywhere,
    TranslatedTrainingSet,
    Whole,
)
from ..support.memory import rows_that_fit
from ..support.sharded import ShardedTrainingSet
from . import derivative, select
from .attribution import attribution, in_pixels, means_without
from .blur import Blur, shared_levels
from .cells import CellSearch
from .dense import posterior_variance
from .information import information
from .jacobian import jacobian
from .posterior import gathered
from .softmax import floored_sigma
from .tree import TreeSearch
from .truncated import NeighbourSearch


class BasePrior:
    """A distribution of clean images, or a network in its place, with posteriors and derivatives.

    A subclass defines ``device``, ``posterior`` and ``jacobian``.
    """

    device: Any

    # Error message of priors whose posterior means are not means of training images.
    no_attribution = "the denoised image is not a mean of training images: it has no attribution."

    def posterior(self, z, sigma):
        """Return the `Posterior` of noisy images (n, C, H, W) at noise levels (n,), float64."""
        raise NotImplementedError

    def mean(self, z, sigma):
        """Return the posterior means of noisy images (n, C, H, W) at noise levels (n,), float64."""
        return self.posterior(z, sigma).mean

    def jacobian(self, z, sigma, pixels):
        """Return rows (n, m, C, C, H, W) of the Jacobian, for pixels y * W + x, int64 (m,)."""
        raise NotImplementedError

    def vjp(self, z, sigma, mean, evidence):
        """Return the cotangents of z, (n, C, H, W), and of sigma, (n,) float64.

        ``mean`` and ``evidence`` (n,) are cotangents of the posterior mean and the log evidence;
        noise levels are positive. Cotangents of sigma without a closed form are NaN.
        """
        raise NotImplementedError

    def jvp(self, z, sigma, dz, dsigma):
        """Return the tangents of the posterior mean, and of the log evidence, (n,) float64.

        ``dz`` and ``dsigma`` (n,) are tangents of the noisy images and of positive noise levels.
        Tangents without a closed form are NaN.
        """
        raise NotImplementedError

    def jacobian_block(self, z, n_pixels):
        """Return the number of noisy images and of pixels for one call of `jacobian`."""
        row_bytes = 3 * z.element_size() * z.shape[1] * z[0].numel()
        # as many pixels as possible: the covariance of a window serves all of its pixels
        together = rows_that_fit(row_bytes, n_pixels, what="A row of the Jacobian")
        return rows_that_fit(row_bytes * together, len(z), what="The Jacobian"), together

    def trace(self, z, sigma):
        """Return the traces (n,), float64, of Jacobians; None if there is no closed form."""
        return None

    def attribution(self, z, sigma, top, by_window=False):
        """Return the `Attribution` of noisy images of one noise level."""
        raise ValueError(self.no_attribution)

    def information(self, z, sigma):
        """Return windows and `Information` of noisy images of one noise level."""
        raise ValueError(self.no_attribution)

    def means_without(self, z, sigma, groups):
        """Return means (G, n, C, H, W) at one noise level without groups (G, N) of images."""
        raise ValueError(self.no_attribution)

    def for_sampling(self):
        """Return the prior for one run of a sampler."""
        return self

    def measured(self, images):
        """Return the values (n, c, h, w) of which noisy images show a noisy copy."""
        return images

    def answered(self, images):
        """Return the part of images (n, C, H, W) that the prior denoises."""
        return images


@dataclass(frozen=True, eq=False)
class Prior(BasePrior):
    """Training images, the windows through which they are compared, and their blur.

    Attributes
    ----------
    source, search, engine : see `select.compare`
    windows : Whole, Squares, Masks, Centred, SquaresAnywhere, or callable
        Windows, or a callable that maps a noise level, a float, to windows.
    bandwidth : float or callable, default 0.0
        Blur of the training images along their covariance, in [0, 1], or a callable that maps a
        noise level to the blur.
    gaussian : Gaussian or None, default None
        Mean and covariance of the source; needed for a bandwidth other than 0.
    by_window : bool, default False
        Blur every square window along its own covariance.
    operator : Inpainting, Operator or None, default None
        Measurement of which noisy images show a noisy copy; None: of the image itself. An
        `Operator` needs a `MeasuredTrainingSet` as source.
    """

    source: Any
    windows: Whole | Squares | Masks | Centred | SquaresAnywhere | Callable
    bandwidth: float | Callable = 0.0
    gaussian: Any = None
    by_window: bool = False
    search: NeighbourSearch | TreeSearch | CellSearch | None = None
    engine: str = "auto"
    operator: Inpainting | Operator | None = None

    def __post_init__(self):
        if self.search is not None and isinstance(self.source, ShardedTrainingSet):
            raise ValueError(
                "an index (tol, n_neighbors, algorithm='kd_tree') needs all training images in one "
                "place, and they are in shards on several devices or workers; compare all images, "
                "or fit on one device (a dask array: pass X.compute())."
            )

    @property
    def device(self):
        """Device of the training images."""
        return self.source.device

    @property
    def _n_channels(self):
        """Number of channels of a denoised image."""
        return (self.source if self.operator is None else self.operator).image_shape[0]

    def windows_at(self, sigma):
        """Return the windows at a noise level, a float."""
        return self.windows(sigma) if callable(self.windows) else self.windows

    def bandwidth_at(self, sigma):
        """Return the bandwidth at a noise level, both floats; raise if it is outside [0, 1]."""
        bandwidth = self.bandwidth(sigma) if callable(self.bandwidth) else self.bandwidth
        if not (isinstance(bandwidth, numbers.Real) and 0 <= float(bandwidth) <= 1):
            raise ValueError(
                f"bandwidth must give a number between 0 and 1 at every sigma, got {bandwidth!r} "
                f"at sigma = {sigma}."
            )
        return float(bandwidth)

    def blur_at(self, sigma):
        """Return the `Blur` at a noise level, a float, or None if the bandwidth is 0."""
        bandwidth = self.bandwidth_at(sigma)
        return Blur(self.gaussian, bandwidth, self.by_window) if bandwidth else None

    def _seen(self, windows):
        """Return the training images with which windows are compared.

        No moved image covers a window as large as the image.
        """
        return self.source.unmoved if isinstance(windows, Whole) else self.source

    def posterior(self, z, sigma):
        """Return the `Posterior` of noisy images (n, C, H, W) at noise levels (n,), float64."""
        self = self._for_size(tuple(z.shape[1:]))
        groups = []
        for rows, levels, windows, blur in self._groups(z, sigma):
            options = dict(engine=self.engine, search=self.search, blur=blur)
            group = select.posterior(z[rows], levels, self._seen(windows), windows, **options)
            groups.append((rows, group))
        result = gathered(groups, len(z))
        if self.operator is None:
            return result
        return replace(result, mean=self.operator.placed(result.mean))

    def measured(self, images):
        """Return the values (n, c, h, w) of which noisy images show a noisy copy."""
        return images if self.operator is None else self.operator.measured(images)

    def _for_size(self, image_shape):
        """Return the prior whose moved training images and windows suit images of a shape."""
        moved = isinstance(self.source, TranslatedTrainingSet)
        if not moved or image_shape == self.source.image_shape:
            return self
        if not callable(self.windows):
            raise ValueError(
                f"the windows are arrays for images of shape {self.source.image_shape}, but noisy "
                f"images have shape {image_shape}; pass a callable query(sigma, image_shape)."
            )
        windows = self.windows.resized(image_shape)  # type: ignore[attr-defined]
        return replace(self, source=self.source.resized(image_shape), windows=windows)

    def _groups(self, z, sigma):
        """Yield indices, noise levels, windows and blur of noisy images that share a kernel call.

        Levels are sorted, and adjacent levels with equal windows and bandwidths are merged. At most
        two levels of soft masks are in memory at a time.
        """
        self.source.check_unchanged()
        levels = sigma.unique()

        def key(level):
            return self.windows_at(level), self.bandwidth_at(level)

        for (windows, bandwidth), merged in groupby(levels.tolist(), key):
            rows = torch.isin(sigma, sigma.new_tensor(list(merged))).nonzero().squeeze(1)
            if not bandwidth:
                yield rows, sigma[rows], windows, None
                continue
            blur = Blur(self.gaussian, bandwidth, self.by_window)
            shared = shared_levels(z[rows], sigma[rows], self.gaussian)
            for level in shared.unique():
                at = shared == level
                yield rows[at], shared[at], windows, blur

    def jacobian(self, z, sigma, pixels):
        """Return rows (n, m, C, C, H, W) of the Jacobian, for pixels y * W + x, int64 (m,).

        Raises ValueError at sigma = 0.
        """
        if (sigma == 0).any():
            raise ValueError(
                "sigma must be positive, got 0: there the denoised image is a step function of z, "
                "which has no Jacobian; pass a positive sigma."
            )
        self.source.check_unchanged()
        self = self._for_size(tuple(z.shape[1:]))
        out = z.new_zeros(len(z), len(pixels), self._n_channels, *z.shape[1:])
        for level in sigma.unique().tolist():
            rows = sigma == level
            windows, blur = self.windows_at(level), self.blur_at(level)
            noisy = z[rows], sigma[rows]
            source = self._seen(windows)
            out[rows] = jacobian(*noisy, source, windows, pixels, blur, self.operator)
        return out

    def vjp(self, z, sigma, mean, evidence):
        """Return the cotangents of z and sigma; see `BasePrior.vjp`."""
        self = self._for_size(tuple(z.shape[1:]))
        if self.operator is not None:
            mean = self.operator.in_blocks(mean)
        of_z, of_sigma = torch.zeros_like(z), torch.zeros_like(sigma)
        for rows, levels, windows, blur in self._groups(z, sigma):
            cotangents = mean[rows], evidence[rows]
            source = self._seen(windows)
            group = derivative.vjp(z[rows], levels, source, windows, blur, *cotangents)
            of_z[rows], of_sigma[rows] = group
        return of_z, of_sigma

    def jvp(self, z, sigma, dz, dsigma):
        """Return the tangents of mean and log evidence; see `BasePrior.jvp`."""
        self = self._for_size(tuple(z.shape[1:]))
        n_channels = self.source.answers.image_shape[0]
        mean, evidence = z.new_zeros(len(z), n_channels, *z.shape[2:]), torch.zeros_like(sigma)
        for rows, levels, windows, blur in self._groups(z, sigma):
            tangents = dz[rows], dsigma[rows]
            source = self._seen(windows)
            group = derivative.jvp(z[rows], levels, source, windows, blur, *tangents)
            mean[rows], evidence[rows] = group
        return mean if self.operator is None else self.operator.placed(mean), evidence

    def trace(self, z, sigma):
        """Return the posterior variances divided by sigma^2, (n,) float64, for whole images."""
        groups = list(self._groups(z, sigma))
        if not all(isinstance(windows, Whole) and blur is None for *_, windows, blur in groups):
            return None
        out = torch.zeros_like(sigma)
        source = self.source.unmoved  # no moved image covers a window as large as the image
        for rows, levels, _, _ in groups:
            variance = posterior_variance(z[rows], floored_sigma(levels, z[rows], source), source)
            out[rows] = variance / levels.square()
        return out

    def attribution(self, z, sigma, top, by_window=False):
        """Return the `Attribution` of noisy images of one noise level."""
        windows = self._plain_windows(float(sigma[0]))
        result = attribution(z, sigma, self._seen(windows), windows, top, by_window)
        block = (1, 1) if self.operator is None else self.operator.block
        return result if block == (1, 1) else in_pixels(result, block, by_window)

    def information(self, z, sigma):
        """Return windows and `Information` of noisy images of one noise level."""
        windows = self._plain_windows(float(sigma[0]))
        if self.operator is not None:
            raise ValueError(
                "noisy images are measurements of the training images; pass a denoiser without "
                "operator."
            )
        return windows, information(z, sigma, self.source, windows)

    def means_without(self, z, sigma, groups):
        """Return means (G, n, C, H, W) at one noise level without groups (G, N) of images."""
        windows = self._plain_windows(float(sigma[0]))
        means = means_without(z, sigma, self._seen(windows), windows, groups)
        return means if self.operator is None else self.operator.placed(means)

    def _plain_windows(self, sigma):
        """Return the windows at a noise level; raise if training images are blurred or changed."""
        self.source.check_unchanged()
        blur = self.blur_at(sigma)
        if blur is not None:
            raise ValueError(
                f"a bandwidth of {blur.bandwidth:g}, as at sigma = {sigma:g}, blurs training "
                "images, and the denoised image is not a mean of training images; use bandwidth=0."
            )
        return self.windows_at(sigma)

    def for_sampling(self):
        """Return the prior for one run of a sampler, which reuses neighbours of the last step.

        Raises ValueError if noisy images are measurements.
        """
        if self.operator is not None:
            raise ValueError(
                "a denoiser with an operator maps measurements to images, and a sampler needs a "
                "denoiser of images; fit with operator=None."
            )
        if isinstance(self.search, NeighbourSearch):
            return replace(self, search=self.search.recalling())
        return self

    def __setstate__(self, state):
        vars(self).update(state)
        if isinstance(self.search, NeighbourSearch):  # its pickle has no training images
            self.search.neighbours.training_set = self.source

    def with_bandwidth(self, bandwidth):
        """Return the prior with another bandwidth, a number or a callable."""
        return replace(self, bandwidth=bandwidth)

    @property
    def pixel_variance(self):
        """Mean variance of a pixel over the training images; requires ``gaussian``."""
        return float(self.gaussian.eigenvalues.sum()) / len(self.gaussian.mean)

    def means_by_bandwidth(self, z, sigma, bandwidths):
        """Yield posterior means (n, C, H, W) at a positive noise level, for increasing bandwidths.

        Bandwidths above 0 share most of the work if windows have blurs of their own.
        """
        self.source.check_unchanged()
        level = torch.full((len(z),), sigma, dtype=torch.float64, device=z.device)
        windows = self.windows_at(sigma)
        together = self.by_window and isinstance(windows, Squares)
        apart = [h for h in bandwidths if h == 0] if together else bandwidths
        for bandwidth in apart:
            yield self.with_bandwidth(bandwidth).mean(z, level)
        if together:
            blurs = [h for h in bandwidths if h > 0]
            for result in select.blurred(z, level, self.source, windows, self.gaussian, blurs):
                yield result.mean
