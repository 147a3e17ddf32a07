"""Distance between patch and global posterior mean against the noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..._optional import load
from ..._repr import short_repr
from ..._typing import ArrayLike, RandomState
from ...support.training_set import DEFAULT_RANGE
from .._training import training_set_of
from ..equivalence import LocalEquivalence, local_equivalence
from ._cells import SIGMA, broken, line_axes

# Of the longer side of the image.
_FRACTIONS = (0.1, 0.25, 0.5, 0.75)
_MARKERS = "osD^v<>p"
_RANGE = 1000  # of the axis, from the largest gap down


class LocalEquivalenceDisplay:
    """The gap between patch and global posterior mean against the noise level, with its bound.

    At small noise levels one training image has all the weight; at large noise levels every image
    has its sample weight. At both ends the posterior means given a patch and given the whole image
    agree. At medium noise levels they differ, and a composite of patches differs from the optimal
    denoiser.

    Create one with :meth:`from_estimator`, :meth:`from_predictions` or the ``plot`` method of a
    `LocalEquivalence`.

    Parameters
    ----------
    equivalence : LocalEquivalence
        Distances to draw, returned by `local_equivalence`.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the curves.
    figure_ : matplotlib Figure
        Figure of the axes.
    lines_ : list of matplotlib Line2D
        Gaps, by patch size.
    bound_lines_ : list of matplotlib Line2D
        Bounds, by patch size; empty with ``bound=False``.

    Examples
    --------
    >>> from skpspc import EmpiricalDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import LocalEquivalenceDisplay
    >>> model = EmpiricalDenoiser().fit(load_digits_images().images[:300])
    >>> sigmas = [0.1, 1.0, 10.0]
    >>> display = LocalEquivalenceDisplay.from_estimator(model, sigmas, [2, 4])
    >>> display.equivalence.gap.round(2)  # the points of the two curves
    array([[0.03, 0.  ],
           [0.39, 0.32],
           [0.07, 0.05]])
    """

    __repr__ = short_repr

    def __init__(self, equivalence: LocalEquivalence) -> None:
        self.equivalence = equivalence

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        sigmas: ArrayLike | None = None,
        patch_sizes: Sequence[int] | None = None,
        *,
        n_images: int = 64,
        random_state: RandomState | None = 0,
        **options: Any,
    ) -> LocalEquivalenceDisplay:
        """Return a drawn display of the gap on the training images of a denoiser.

        Parameters
        ----------
        estimator : denoiser
            Fitted denoiser, of which only the training images and their weights are used.
        sigmas : sequence of float, default None
            Noise levels, in the units of the images. None: 17 from 0.01 to 100 for images on
            [-1, 1], scaled to the ``data_range`` of the denoiser.
        patch_sizes : sequence of int, default None
            Sides of the patch. None: a tenth, a quarter, half and three quarters of the longer
            side of the image.
        n_images : int, default 64
            Number of different training images to which noise is added; all if there are fewer.
        random_state : int, RandomState, Generator or None, default 0
            Seed or generator of the drawn images and of their noise.
        **options : dict
            Parameters of :meth:`plot`.

        Returns
        -------
        LocalEquivalenceDisplay

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
                "EmpiricalDenoiser, or pass a result of local_equivalence to from_predictions."
            )
        if patch_sizes is None:
            side = max(training_set.image_shape[1:])
            fractions = np.rint(np.multiply(_FRACTIONS, side)).astype(int)
            patch_sizes = np.unique(fractions.clip(1)).tolist()
        data_range = training_set.data_range
        equivalence = local_equivalence(
            training_set.images,
            sigmas,
            patch_sizes,
            n_images=n_images,
            sample_weight=training_set.sample_weight,
            data_range=None if data_range == DEFAULT_RANGE else data_range,
            random_state=random_state,
        )
        return cls.from_predictions(equivalence, **options)

    @classmethod
    def from_predictions(
        cls, equivalence: LocalEquivalence, **options: Any
    ) -> LocalEquivalenceDisplay:
        """Return a drawn display of a result of `local_equivalence`.

        Parameters
        ----------
        equivalence : LocalEquivalence
            Returned by `local_equivalence`; anything else raises ValueError.
        **options : dict
            Parameters of :meth:`plot`.

        Returns
        -------
        LocalEquivalenceDisplay
        """
        if not isinstance(equivalence, LocalEquivalence):
            raise ValueError(
                f"equivalence must be a LocalEquivalence, got {type(equivalence).__name__}; call "
                "local_equivalence."
            )
        return cls(equivalence).plot(**options)

    def plot(self, ax: Any = None, *, bound: bool = True) -> LocalEquivalenceDisplay:
        """Draw gaps with a band of one standard error, and bounds; return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Axes to draw in, with the legend inside. None: a new figure, with the legend beside.
        bound : bool, default True
            Draw the bounds as dotted lines.

        Returns
        -------
        LocalEquivalenceDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.

        Notes
        -----
        Bounds are several times larger than gaps. The axis of gaps is therefore logarithmic; it
        ends at a thousandth of the largest gap.
        """
        plt, table = load("matplotlib.pyplot"), self.equivalence
        ax, legend = line_axes(ax, (8.0, 4.4))
        # dark to light as sizes grow: an order visible without hues
        colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(table.patch_sizes)))
        at, largest = table.sigmas, table.gap.max() or 1.0
        ax.set(xscale="log", yscale="log")
        ax.set_ylim(largest / _RANGE, 2 * max(largest, table.bound.max() if bound else 0))
        self.lines_, self.bound_lines_ = [], []
        for k, (size, colour) in enumerate(zip(table.patch_sizes, colours, strict=True)):
            gap, error = table.gap[:, k], np.nan_to_num(table.gap_standard_error[:, k])
            marker = _MARKERS[k % len(_MARKERS)]
            label = f"{size} × {size}"
            self.lines_ += ax.plot(at, gap, marker=marker, ms=5, lw=2, color=colour, label=label)
            ax.fill_between(at, gap - error, gap + error, color=colour, alpha=0.2, lw=0)
            if bound:
                self.bound_lines_ += ax.plot(at, table.bound[:, k], ls=":", lw=1.2, color=colour)
        ax.set(
            xlabel=SIGMA,
            ylabel="gap, root mean square on the patch\n(units of the images)",
        )
        title = "Gap between the posterior means given patch and image, against σ; "
        title = f"{title}{table.n} noisy training images"
        ax.set_title(broken(title, 10 * ax.figure.get_figwidth()), fontsize="medium")
        handles = list(self.lines_)
        if bound:
            (dotted,) = ax.plot(
                [], [], ls=":", color="0.3", label="bound: total\nvariation × diameter"
            )
            handles.append(dotted)
        ax.legend(handles=handles, title="patch (pixels)", labelspacing=0.3, **legend)
        self.ax_, self.figure_ = ax, ax.figure
        return self
