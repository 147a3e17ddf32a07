"""Heat maps of pixels at several noise levels."""

import numpy as np

from ..._optional import load
from ..._repr import short_repr
from ..curves import named_denoisers
from ..locality import locality_radius
from ..sensitivity import heat_maps
from ._cells import broken, is_signal

_N_IMAGES = 16
_BLUE = "#56b4e9"


class SensitivityDisplay:
    """Heat maps of pixels at several noise levels, with their locality radius.

    A row of panels for each pixel, a column for each noise level. Each panel is a heat map over
    its largest value, with a cross at the pixel, and the smallest square around it that holds a
    fraction of the heat. Maps of signals, one pixel high or wide, are drawn as lines, with a band
    for the square.

    Create one with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    heatmaps : ndarray of shape (L, m, H, W)
        Non-negative, returned by `heat_maps`.
    sigmas : sequence of L floats
    pixels : array of int, shape (m, 2)
        (row, column) of each pixel.
    fraction : float, default 0.5
        Of the heat, in the square.
    name : str, default None
        Title of the figure.

    Attributes
    ----------
    radii : ndarray of shape (L, m), int
        Sides of the squares, by `locality_radius`.
    axes_ : ndarray of matplotlib Axes, shape (m, L)
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import SensitivityDisplay, heat_maps
    >>> X = load_digits_images().images
    >>> sigmas, pixels = [0.2, 1.0], [(4, 4), (2, 2)]
    >>> heat = heat_maps(PSPCDenoiser(3).fit(X), X, sigmas, pixels=pixels, n_images=4)
    >>> display = SensitivityDisplay(heat, sigmas=sigmas, pixels=pixels)
    >>> display.radii.shape
    (2, 2)
    """

    __repr__ = short_repr

    def __init__(self, heatmaps, *, sigmas, pixels, fraction=0.5, name=None, n_images=None):
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
        denoiser,
        X,
        sigmas,
        *,
        pixels=None,
        n_images=None,
        random_state=0,
        fraction=0.5,
        name=None,
        ax=None,
        **kwargs,
    ):
        """Return a drawn display of the heat maps of a denoiser.

        Parameters
        ----------
        denoiser, X, sigmas, random_state
            As in `heat_maps`, with its errors.
        pixels : array of int, shape (m, 2), default None
            (row, column) of each pixel; None: the middle of the image, and the pixel at a quarter
            of its height and width.
        n_images : int, default None
            Images of X in the mean; None: 16, or as many as X holds.
        fraction, name
            As in the class; ``name=None`` is the class of the denoiser.
        ax, **kwargs
            As in :meth:`plot`.
        """
        named_denoisers([denoiser])  # raises
        n_images = min(_N_IMAGES, len(X)) if n_images is None else n_images
        pixels = _default_pixels(denoiser.image_shape_[1:]) if pixels is None else pixels
        heat = heat_maps(
            denoiser, X, sigmas, pixels=pixels, n_images=n_images, random_state=random_state
        )
        name = type(denoiser).__name__ if name is None else name
        about = {"fraction": fraction, "name": name, "n_images": n_images}
        display = cls(heat, sigmas=sigmas, pixels=pixels, **about)
        return display.plot(ax, **kwargs)

    @classmethod
    def from_predictions(
        cls, heatmaps, sigmas, *, pixels=None, fraction=0.5, name=None, ax=None, **kwargs
    ):
        """Return a drawn display of given heat maps.

        Parameters
        ----------
        heatmaps : array of shape (L, H, W, H, W) or (L, m, H, W)
            Returned by `heat_maps` or `save_heat_maps`: of all pixels, or of ``pixels``.
        sigmas : sequence of L floats
        pixels : array of int, shape (m, 2), default None
            Pixels to draw, as in :meth:`from_estimator`; other shapes raise ValueError.
        fraction, name, ax, **kwargs
            As in the class, and in :meth:`plot`.
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

    def plot(self, ax=None, *, cmap="magma", colorbar=True):
        """Draw, and return self.

        Parameters
        ----------
        ax : array of m * L matplotlib Axes, or one of them, default None
            Row by row; another number raises ValueError. None: a new figure.
        cmap : str or Colormap, default "magma"
        colorbar : bool, default True
            Unused for signals, as ``cmap``.
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
