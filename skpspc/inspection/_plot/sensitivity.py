"""Heat maps of pixels at several noise levels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._optional import load
from ..._repr import short_repr
from ..._typing import ArrayLike, RandomState
from ..curves import named_denoisers
from ..locality import locality_radius
from ..sensitivity import heat_maps
from ._cells import broken, is_signal

_N_IMAGES = 16
_BLUE = "#56b4e9"


class SensitivityDisplay:
    """Heat maps of pixels at several noise levels, with their locality radius.

    Each pixel of the answer has a row of panels, each noise level a column. A panel shows the heat
    map divided by its largest value, a cross at the pixel, and the smallest square around the
    pixel that holds a fraction of the heat. Maps of signals, one pixel high or wide, are drawn as
    lines, with a band in place of the square.

    Create one with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    heatmaps : ndarray of shape (L, m, H, W)
        Heat maps, non-negative, returned by `heat_maps`.
    sigmas : sequence of L floats
        Noise levels of the maps.
    pixels : array of int, shape (m, 2)
        (row, column) of each pixel.
    fraction : float, default 0.5
        Fraction of the heat that the square holds.
    name : str, default None
        Name of the denoiser, for the title.
    n_images : int, default None
        Number of noisy images in the mean, for the title.

    Attributes
    ----------
    radii : ndarray of shape (L, m), int
        Sides of the squares in pixels, by `locality_radius`.
    axes_ : ndarray of matplotlib Axes, shape (m, L)
        Axes of the panels.
    figure_ : matplotlib Figure
        Figure of the axes.

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import SensitivityDisplay, heat_maps
    >>> X = load_digits_images().images
    >>> sigmas, pixels = [0.2, 1.0], [(4, 4), (2, 2)]
    >>> model = PSPCDenoiser(3).fit(X)
    >>> heat = heat_maps(model, X, sigmas, pixels=pixels, n_images=4)
    >>> display = SensitivityDisplay.from_predictions(heat, sigmas, pixels=pixels)
    >>> display.radii  # sides of the squares that hold half of the heat, in pixels
    array([[3, 1],
           [3, 3]])
    """

    __repr__ = short_repr

    def __init__(
        self,
        heatmaps: ArrayLike,
        *,
        sigmas: ArrayLike,
        pixels: ArrayLike,
        fraction: float = 0.5,
        name: str | None = None,
        n_images: int | None = None,
    ) -> None:
        self.heatmaps = np.asarray(heatmaps)
        self.sigmas = [float(sigma) for sigma in np.atleast_1d(sigmas)]
        self.pixels = np.asarray(pixels)
        self.fraction = fraction
        self.name = name
        self.n_images = n_images
        if len(self.sigmas) != len(self.heatmaps) or len(self.sigmas) == 0:
            raise ValueError(
                f"sigmas must be one for each of the {len(self.heatmaps)} levels of heatmaps, got "
                f"{len(self.sigmas)}."
            )
        self.radii = locality_radius(self.heatmaps, fraction, pixels=self.pixels)

    @classmethod
    def from_estimator(
        cls,
        denoiser: Any,
        X: Any,
        sigmas: ArrayLike,
        *,
        pixels: ArrayLike | None = None,
        n_images: int | None = None,
        random_state: RandomState | None = 0,
        fraction: float = 0.5,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> SensitivityDisplay:
        """Return a drawn display of the heat maps of a denoiser.

        Parameters
        ----------
        denoiser : denoiser
            Fitted denoiser; wrap a network in `skpspc.NetworkDenoiser`.
        X : array or Tensor of shape (N, C, H, W) or (N, d)
            Clean images, to which noise is added.
        sigmas : sequence of L floats
            Noise levels, in the units of the images.
        pixels : array of int, shape (m, 2), default None
            (row, column) of each pixel; None: the middle of the image, and the pixel at a quarter
            of its height and width.
        n_images : int, default None
            Images of X in the mean; None: 16, or as many as X holds.
        random_state : int, RandomState, Generator or None, default 0
            Seed or generator of the drawn images and of their noise.
        fraction : float, default 0.5
            Fraction of the heat that the square holds.
        name : str, default None
            Name of the denoiser, for the title; None: its class.
        ax : array of m * L matplotlib Axes, or one of them, default None
            Axes of the panels, row by row. None: a new figure.
        **kwargs
            Further parameters of :meth:`plot`.

        Returns
        -------
        SensitivityDisplay
        """
        named_denoisers([denoiser])  # raises
        n_images = min(_N_IMAGES, len(X)) if n_images is None else n_images
        pixels = _default_pixels(denoiser.image_shape_[1:]) if pixels is None else pixels
        heat = heat_maps(
            denoiser, X, sigmas, pixels=pixels, n_images=n_images, random_state=random_state
        )
        name = type(denoiser).__name__ if name is None else name
        display = cls(
            heat, sigmas=sigmas, pixels=pixels, fraction=fraction, name=name, n_images=n_images
        )
        return display.plot(ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        heatmaps: Any,
        sigmas: ArrayLike,
        *,
        pixels: ArrayLike | None = None,
        fraction: float = 0.5,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> SensitivityDisplay:
        """Return a drawn display of given heat maps.

        Parameters
        ----------
        heatmaps : array of shape (L, H, W, H, W) or (L, m, H, W)
            Heat maps of all pixels, or of ``pixels``, returned by `heat_maps` or
            `save_heat_maps`.
        sigmas : sequence of L floats
            Noise levels of the maps.
        pixels : array of int, shape (m, 2), default None
            (row, column) of each pixel to draw. None, for maps of all pixels: the middle of the
            image, and the pixel at a quarter of its height and width.
        fraction : float, default 0.5
            Fraction of the heat that the square holds.
        name : str, default None
            Name of the denoiser, for the title.
        ax : array of m * L matplotlib Axes, or one of them, default None
            Axes of the panels, row by row. None: a new figure.
        **kwargs
            Further parameters of :meth:`plot`.

        Returns
        -------
        SensitivityDisplay

        Raises
        ------
        ValueError
            For heat maps, noise levels and pixels whose shapes do not fit.
        """
        heatmaps = heatmaps if hasattr(heatmaps, "ndim") else np.asarray(heatmaps)
        if heatmaps.ndim not in (4, 5) or (heatmaps.ndim == 4 and pixels is None):
            raise ValueError(
                "heatmaps must have shape (L, H, W, H, W), or (L, m, H, W) with pixels=, got "
                f"{tuple(heatmaps.shape)}."
            )
        pixels = _default_pixels(heatmaps.shape[-2:]) if pixels is None else np.asarray(pixels)
        if heatmaps.ndim == 5:
            heatmaps = np.stack([heatmaps[:, row, column] for row, column in pixels], axis=1)
        display = cls(heatmaps, sigmas=sigmas, pixels=pixels, fraction=fraction, name=name)
        return display.plot(ax, **kwargs)

    def plot(
        self, ax: Any = None, *, cmap: Any = "magma", colorbar: bool = True
    ) -> SensitivityDisplay:
        """Draw the heat maps, and return self.

        Parameters
        ----------
        ax : array of m * L matplotlib Axes, or one of them, default None
            Axes of the panels, row by row; another number raises ValueError. None: a new figure.
        cmap : str or Colormap, default "magma"
            Colours of the heat; not used for signals.
        colorbar : bool, default True
            Draw the scale of the colours; not used for signals.

        Returns
        -------
        SensitivityDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        colors = load("matplotlib.colors")
        n_levels, n_pixels = self.heatmaps.shape[:2]
        self.axes_ = self._axes(ax, n_pixels, n_levels)
        self.figure_ = self.axes_[0, 0].figure
        # most of a map is far below its peak: a root shows its outline
        norm = colors.PowerNorm(0.5, 0, 1)
        lines = is_signal(self.heatmaps.shape[1:])
        for (k, level), panel in np.ndenumerate(self.axes_):
            if lines:
                self._draw_signal(panel, level, k)
            else:
                image = self._draw(panel, level, k, cmap=cmap, norm=norm)
            if k == 0:
                panel.set_title(f"σ = {self.sigmas[level]:g}", fontsize=11)
            if level == 0:
                row, column = self.pixels[k]
                what = "\nheat / largest" if lines else ""
                panel.set_ylabel(f"pixel ({row}, {column}){what}", fontsize=11)
        if ax is None:
            title = broken(self._title, 12 * self.figure_.get_figwidth())
            self.figure_.suptitle(title, fontsize="medium")
        if colorbar and not lines:
            bar = self.figure_.colorbar(image, ax=self.axes_.ravel().tolist(), shrink=0.8)
            bar.set_label("heat / largest")
            bar.set_ticks([0, 0.05, 0.25, 0.5, 1], labels=["0", "0.05", "0.25", "0.5", "1"])
        return self

    @property
    def _title(self):
        """Title of a new figure."""
        about = [] if self.name is None else [self.name]
        if self.n_images is not None:
            about.append(f"mean of {self.n_images} noisy image{'s' * (self.n_images > 1)}")
        end = f"; {', '.join(about)}" if about else ""
        n = len(self.pixels)
        return f"Heat maps of {n} output pixel{'s' * (n > 1)} against σ{end}"

    def _axes(self, ax, n_rows, n_columns):
        """Return axes (m, L), given or of a new figure."""
        if ax is None:
            size = 1.75 * n_columns + 1.2, 1.95 * n_rows + 0.6
            figure = load("matplotlib.pyplot").figure(figsize=size, layout="constrained")
            return figure.subplots(n_rows, n_columns, squeeze=False)
        axes = np.array(ax, dtype=object).ravel()
        if len(axes) != n_rows * n_columns:
            raise ValueError(
                f"ax must hold {n_rows} x {n_columns} axes, one for each pixel and noise level, "
                f"got {len(axes)}."
            )
        return axes.reshape(n_rows, n_columns)

    def _draw(self, panel, level, k, **kwargs):
        """Draw a heat map, its pixel and its square."""
        heat, side = self.heatmaps[level, k], int(self.radii[level, k])
        height, width = heat.shape
        row, column = self.pixels[k]
        image = panel.imshow(heat / (heat.max() or 1.0), interpolation="nearest", **kwargs)
        effects = load("matplotlib.patheffects")
        halo = [effects.withStroke(linewidth=3.5, foreground="black")]
        cross = panel.plot(column, row, "+", color="white", ms=6, mew=1)[0]
        cross.set_path_effects(halo)
        if side:
            rectangle = load("matplotlib.patches").Rectangle(
                (column - side / 2, row - side / 2),
                side,
                side,
                fill=False,
                edgecolor=_BLUE,
                linewidth=1.8,
                path_effects=halo,
            )
            panel.add_patch(rectangle)
        panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
        held = f"{100 * self.fraction:g} % in {side} × {side}"
        panel.set_xlabel(held if side else "no heat", fontsize=9)
        return image

    def _draw_signal(self, panel, level, k):
        """Draw a heat map of a signal, its pixel and its band."""
        heat, side = self.heatmaps[level, k].ravel(), int(self.radii[level, k])
        at = self.pixels[k].max()  # the other is zero
        panel.plot(heat / (heat.max() or 1.0), color="black", linewidth=1.2)
        panel.axvline(at, color="0.3", linestyle=":", linewidth=1)
        if side:
            panel.axvspan(at - side / 2, at + side / 2, color=_BLUE, alpha=0.4, linewidth=0)
        panel.set(xlim=(-0.5, len(heat) - 0.5), ylim=(0, 1.05), xticks=[at], yticks=[0, 1])
        panel.tick_params(labelsize=9)
        held = f"{100 * self.fraction:g} % in {side} values"
        panel.set_xlabel(held if side else "no heat", fontsize=9)


def _default_pixels(sides):
    """Return the middle of an image, and the pixel at a quarter of its sides."""
    height, width = sides
    return np.array([(height // 2, width // 2), (height // 4, width // 4)])
