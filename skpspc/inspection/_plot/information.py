"""Maps of posterior entropies, and the information of windows against their size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..._optional import load
from ..._repr import short_repr
from ..._typing import ArrayLike, NoiseLevel, RandomState
from ...support.training_set import DEFAULT_RANGE
from .._training import training_set_of
from ..information import EntropyMap, InformationCurve, information_curve, posterior_entropy
from ._cells import as_pictures, broken, is_signal, limits, line_axes

_MARKERS = "osD^v<>p"
_LEAST = 1e-2  # of the axis of information, in units of log N


class EntropyMapDisplay:
    """Maps of the posterior entropy of noisy images, a panel for each image.

    Dark pixels are copied from few training images, light pixels are means of many. The scale runs
    from 0 to log N.

    Create one with :meth:`from_estimator`, :meth:`from_predictions` or the ``plot`` method of an
    `EntropyMap`.

    Parameters
    ----------
    entropies : EntropyMap
        Entropies by pixel, returned by `posterior_entropy`.

    Attributes
    ----------
    axes_ : ndarray of shape (m, n) of matplotlib Axes
        Axes of the panels; with images, of the images in the first row, m = 2. Otherwise m = 1.
    figure_ : matplotlib Figure
        Figure of the axes.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import EntropyMapDisplay
    >>> X = load_digits_images().images
    >>> model = PSPCDenoiser(3).fit(X[2:])
    >>> Z = X[:2] / 127.5 - 1 + 0.5 * np.random.default_rng(0).standard_normal((2, 1, 8, 8))
    >>> display = EntropyMapDisplay.from_estimator(model, Z, 0.5, images=model.denoise(Z, 0.5))
    >>> display.entropies.entropy.mean((1, 2)).round(1)  # of the two panels
    array([5. , 4.9])
    """

    __repr__ = short_repr

    def __init__(self, entropies: EntropyMap) -> None:
        self.entropies = entropies

    @classmethod
    def from_estimator(
        cls,
        denoiser: Any,
        Z: ArrayLike,
        sigma: NoiseLevel,
        y: ArrayLike | None = None,
        *,
        ax: Any = None,
        images: ArrayLike | None = None,
        **kwargs: Any,
    ) -> EntropyMapDisplay:
        """Return a drawn display of the entropies of noisy images.

        Parameters
        ----------
        denoiser : estimator
            Fitted denoiser whose windows are compared with training images at equal positions.
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            Noise level, positive, in the units of the images.
        y : label or array of shape (n,), default None
            Class whose training images count; None: all training images.
        ax : array of n matplotlib Axes, or 2 n with ``images``, default None
            Axes of the panels. None: a new figure.
        images : array of shape (n, C, H, W), default None
            Images to draw above the maps, such as the denoised images.
        **kwargs
            Further parameters of :meth:`plot`.

        Returns
        -------
        EntropyMapDisplay
        """
        entropies = posterior_entropy(denoiser, Z, sigma, y)
        return cls.from_predictions(entropies, ax=ax, images=images, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        entropies: EntropyMap,
        *,
        ax: Any = None,
        images: ArrayLike | None = None,
        **kwargs: Any,
    ) -> EntropyMapDisplay:
        """Return a drawn display of a result of `posterior_entropy`.

        Parameters
        ----------
        entropies : EntropyMap
            Entropies by pixel; anything else raises ValueError.
        ax : array of n matplotlib Axes, or 2 n with ``images``, default None
            Axes of the panels. None: a new figure.
        images : array of shape (n, C, H, W), default None
            Images to draw above the maps.
        **kwargs
            Further parameters of :meth:`plot`.

        Returns
        -------
        EntropyMapDisplay
        """
        if not isinstance(entropies, EntropyMap):
            raise ValueError(
                f"entropies must be an EntropyMap, got {type(entropies).__name__}; call "
                "posterior_entropy."
            )
        if entropies.information.ndim != 3:
            raise ValueError("entropies must be by pixel; call posterior_entropy(by='pixel').")
        return cls(entropies).plot(ax, images=images, **kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        images: ArrayLike | None = None,
        cmap: Any = "viridis",
        colorbar: bool = True,
    ) -> EntropyMapDisplay:
        """Draw the maps, and return self.

        Parameters
        ----------
        ax : array of n matplotlib Axes, or 2 n with ``images``, default None
            Axes of the panels, row by row; another number raises ValueError. None: a new figure.
        images : array of shape (n, C, H, W), default None
            Images to draw above the maps, such as the denoised images.
        cmap : str or Colormap, default "viridis"
            Colours of the entropy; not used for signals.
        colorbar : bool, default True
            Draw the scale of the colours; not used for signals.

        Returns
        -------
        EntropyMapDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        maps, highest = self.entropies.entropy, float(self.entropies.log_n.max()) or 1.0
        pictures = None if images is None else as_pictures(images)
        if pictures is not None and len(pictures) != len(maps):
            raise ValueError(
                f"images must hold one image for each of {len(maps)} maps, got {len(pictures)}."
            )
        self.axes_ = self._axes(ax, 1 if pictures is None else 2, len(maps))
        self.figure_ = self.axes_[0, 0].figure
        if pictures is not None:
            low, high = limits(pictures)
            for panel, picture in zip(self.axes_[0], pictures, strict=True):
                _draw_picture(panel, (picture - low) / (high - low))
        lines = is_signal((1, *maps.shape[1:]))
        for panel, entropy in zip(self.axes_[-1], maps, strict=True):
            panel.set_xlabel(f"mean {entropy.mean():.2g}", fontsize=9)
            if lines:
                panel.plot(entropy.ravel(), color="black", linewidth=1.2)
                panel.set(ylim=(0, 1.05 * highest), xticks=[])
                continue
            drawn = panel.imshow(entropy, vmin=0, vmax=highest, cmap=cmap, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
        if ax is None:
            title = f"Entropy of the posterior over training images; log N = {highest:.3g} nats"
            self.figure_.suptitle(
                broken(title, 12 * self.figure_.get_figwidth()), fontsize="medium"
            )
        if colorbar and not lines:
            bar = self.figure_.colorbar(drawn, ax=self.axes_[-1].tolist(), shrink=0.9)
            bar.set_label("entropy (nats)")
        return self

    def _axes(self, ax, n_rows, n_columns):
        """Return axes (n_rows, n_columns), given or of a new figure."""
        if ax is None:
            size = 1.6 * n_columns + 1.2, 1.8 * n_rows + 0.5
            figure = load("matplotlib.pyplot").figure(figsize=size, layout="constrained")
            return figure.subplots(n_rows, n_columns, squeeze=False)
        axes = np.array(ax, dtype=object).ravel()
        if len(axes) != n_rows * n_columns:
            raise ValueError(
                f"ax must hold {n_rows} x {n_columns} axes, one for each panel, got {len(axes)}."
            )
        return axes.reshape(n_rows, n_columns)


class InformationCurveDisplay:
    """Information of windows against their side, a curve for each noise level.

    A dashed line marks log N. Where a curve crosses it, windows begin to single out a training
    image.

    Create one with :meth:`from_estimator`, :meth:`from_predictions` or the ``plot`` method of an
    `InformationCurve`.

    Parameters
    ----------
    curve : InformationCurve
        Information to draw, returned by `information_curve`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the curves.
    figure_ : matplotlib Figure
        Figure of the axes.
    lines_ : list of matplotlib Line2D
        Information, by noise level.
    log_n_line_ : matplotlib Line2D
        The line at log N.

    Examples
    --------
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import InformationCurveDisplay
    >>> model = PSPCDenoiser().fit(load_digits_images().images)
    >>> display = InformationCurveDisplay.from_estimator(model, [0.2, 0.5], [2, 4, 8])
    >>> display.curve.critical_sizes.round(1)  # where the curves cross log N
    array([3. , 5.4])
    """

    __repr__ = short_repr

    def __init__(self, curve: InformationCurve) -> None:
        self.curve = curve

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        sigmas: ArrayLike | None = None,
        patch_sizes: Sequence[int] | None = None,
        *,
        n_images: int = 64,
        held_out: ArrayLike | None = None,
        random_state: RandomState | None = 0,
        ax: Any = None,
    ) -> InformationCurveDisplay:
        """Return a drawn display of the information about the training images of a denoiser.

        Parameters
        ----------
        estimator : denoiser
            Fitted denoiser, of which only the training images and their weights are used.
        sigmas : sequence of float, default None
            Noise levels, positive, in the units of the images. None: 10 from 0.05 to 20 for images
            on [-1, 1], scaled to the ``data_range`` of the denoiser.
        patch_sizes : sequence of int, default None
            Sides of the windows. None: up to 15 sizes from 1 to the longer side of the image.
        n_images : int, default 64
            Number of different training images to hold out.
        held_out : array or Tensor of shape (m, C, H, W) or (m, d), default None
            Clean images to use instead; the posterior is then over all training images.
        random_state : int, RandomState, Generator or None, default 0
            Seed or generator of the held-out images and of their noise.
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.

        Returns
        -------
        InformationCurveDisplay

        Raises
        ------
        ValueError
            If the denoiser keeps no training images, or for invalid noise levels or sizes.
        """
        check_is_fitted(estimator)
        training_set = training_set_of(estimator)
        if training_set is None:
            raise ValueError(
                f"{type(estimator).__name__} holds no training images; pass a fitted "
                "EmpiricalDenoiser, or pass a result of information_curve to from_predictions."
            )
        data_range = training_set.data_range
        curve = information_curve(
            training_set.images,
            sigmas,
            patch_sizes,
            n_images=n_images,
            held_out=held_out,
            sample_weight=training_set.sample_weight,
            data_range=None if data_range == DEFAULT_RANGE else data_range,
            random_state=random_state,
        )
        return cls.from_predictions(curve, ax=ax)

    @classmethod
    def from_predictions(
        cls, curve: InformationCurve, *, ax: Any = None
    ) -> InformationCurveDisplay:
        """Return a drawn display of a result of `information_curve`.

        Parameters
        ----------
        curve : InformationCurve
            Returned by `information_curve`; anything else raises ValueError.
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.

        Returns
        -------
        InformationCurveDisplay
        """
        if not isinstance(curve, InformationCurve):
            raise ValueError(
                f"curve must be an InformationCurve, got {type(curve).__name__}; call "
                "information_curve."
            )
        return cls(curve).plot(ax)

    def plot(self, ax: Any = None) -> InformationCurveDisplay:
        """Draw the information with a band of one standard error, and log N; return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.

        Returns
        -------
        InformationCurveDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        """
        plt, curve = load("matplotlib.pyplot"), self.curve
        ax, legend = line_axes(ax, (8.0, 4.4))
        # dark to light as the noise grows: an order visible without hues
        colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(curve.sigmas)))
        ax.set(xscale="log", yscale="log")
        self.lines_ = []
        for k, (sigma, colour) in enumerate(zip(curve.sigmas, colours, strict=True)):
            values, error = curve.information[k], curve.information_standard_error[k]
            style = {"marker": _MARKERS[k % len(_MARKERS)], "ms": 5, "lw": 2, "color": colour}
            self.lines_ += ax.plot(curve.patch_sizes, values, label=f"{sigma:.3g}", **style)
            low, high = values - np.nan_to_num(error), values + np.nan_to_num(error)
            ax.fill_between(curve.patch_sizes, low, high, color=colour, alpha=0.2, lw=0)
        level = curve.log_n or 1.0
        self.log_n_line_ = ax.axhline(curve.log_n, ls="--", color="0.3", label="log N")
        ax.set_ylim(_LEAST * level, max(2 * level, 1.5 * float(curve.information.max())))
        ax.set_xticks(curve.patch_sizes, labels=[str(size) for size in curve.patch_sizes])
        ax.minorticks_off()
        ax.set(xlabel="side of the window (pixels)", ylabel="information (nats)")
        title = f"Information of a noisy window; {curve.n} held-out images"
        ax.set_title(broken(title, 10 * ax.figure.get_figwidth()), fontsize="medium")
        ax.legend(title="noise level σ", labelspacing=0.3, **legend)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _draw_picture(panel, picture):
    """Draw an image (C, H, W) of values in [0, 1]."""
    picture = np.clip(picture, 0, 1)
    if is_signal(picture.shape):
        panel.plot(picture.reshape(len(picture), -1).T, linewidth=1.0)
    elif len(picture) == 3:
        panel.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
    else:
        panel.imshow(picture.mean(0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    panel.set(xticks=[], yticks=[])
