"""Where patches know what the whole image knows, and where they do not."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..._optional import load
from ..._repr import short_repr
from ...support.training_set import DEFAULT_RANGE
from .._training import training_set_of
from ..equivalence import LocalEquivalence, local_equivalence

# Shares of the longer side of the image: few enough to be told apart.
_SHARES = (0.1, 0.25, 0.5, 0.75)
_MARKERS = "osD^v<>p"
_RANGE = 1000  # of the axis, from the largest gap down


class LocalEquivalenceDisplay:
    """The gap between patch and global posterior mean against the noise level, with its bound.

    Small noise leaves one training image in question, whatever part of it is seen; large noise
    leaves all of them: at both ends a patch answers as the whole image does. In between it does
    not, and there a composite of patches is another denoiser than the optimal one.

    Use :meth:`from_estimator` or :meth:`from_predictions` to create one.

    Parameters
    ----------
    equivalence : LocalEquivalence

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        The gap of each patch size.
    bound_lines_ : list of matplotlib Line2D
        Its bound, of each; empty without bounds.

    See Also
    --------
    local_equivalence : The numbers, and the theory.

    Examples
    --------
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import LocalEquivalenceDisplay, local_equivalence
    >>> X = load_digits_images().images[:300]
    >>> display = LocalEquivalenceDisplay(local_equivalence(X, [0.1, 1.0, 10.0], [2, 4]))
    >>> display.equivalence.gap.shape
    (3, 2)

    With matplotlib (the extra ``plot``), ``display.plot()`` draws it, and
    ``LocalEquivalenceDisplay.from_estimator(model)`` does both in one.
    """

    __repr__ = short_repr

    def __init__(self, equivalence):
        self.equivalence = equivalence

    @classmethod
    def from_estimator(
        cls, estimator, sigmas=None, patch_sizes=None, *, n_images=64, random_state=0, **options
    ):
        """Measure it on the training images of a denoiser, and plot it.

        Parameters
        ----------
        estimator : BaseDenoiser
            Fitted; only the training images that it holds, and their weights, matter.
        sigmas : sequence of float, default None
            As in `local_equivalence`.
        patch_sizes : sequence of int, default None
            None: a tenth, a quarter, half and three quarters of the longer side.
        n_images, random_state
            As in `local_equivalence`.
        **options : dict
            Of :meth:`plot`.

        Returns
        -------
        LocalEquivalenceDisplay

        Raises
        ------
        ValueError
            If the denoiser holds no training images, or as `local_equivalence`.
        """
        check_is_fitted(estimator)
        known = training_set_of(estimator)
        if known is None:
            raise ValueError(
                f"{type(estimator).__name__} holds no training images; pass a fitted "
                "EmpiricalDenoiser, or what local_equivalence found to from_predictions."
            )
        if patch_sizes is None:
            side = max(known.image_shape[1:])
            patch_sizes = np.unique(np.rint(np.multiply(_SHARES, side)).astype(int).clip(1))
        found = local_equivalence(
            known.images,
            sigmas,
            patch_sizes,
            n_images=n_images,
            sample_weight=known.sample_weight,
            data_range=None if known.data_range == DEFAULT_RANGE else known.data_range,
            random_state=random_state,
        )
        return cls.from_predictions(found, **options)

    @classmethod
    def from_predictions(cls, equivalence, **options):
        """Plot what `local_equivalence` found.

        Parameters
        ----------
        equivalence : LocalEquivalence
        **options : dict
            Of :meth:`plot`.

        Returns
        -------
        LocalEquivalenceDisplay
        """
        if not isinstance(equivalence, LocalEquivalence):
            raise ValueError(
                "equivalence must be what local_equivalence returns, got "
                f"{type(equivalence).__name__}."
            )
        return cls(equivalence).plot(**options)

    def plot(self, ax=None, *, bound=True):
        """Plot the gap of each patch size with a band of one standard error, and its bound.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Where to draw, with the legend inside; None: a new figure, with the legend beside.
        bound : bool, default True
            Whether to show the bounds.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            If matplotlib is missing.

        Notes
        -----
        The axis of gaps is logarithmic, as bounds are several times larger than gaps, and ends
        where a gap is a thousandth of the largest; lines leave the picture there.
        """
        plt, found = load("matplotlib.pyplot"), self.equivalence
        beside = ax is None
        if beside:
            _, ax = plt.subplots(figsize=(8.0, 4.0), layout="constrained")
        # dark to light, as the sizes grow: an order that is seen without telling hues apart
        colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(found.patch_sizes)))
        at, largest = found.sigmas, found.gap.max() or 1.0
        ax.set(xscale="log", yscale="log")
        ax.set_ylim(largest / _RANGE, 2 * max(largest, found.bound.max() if bound else 0))
        self.lines_, self.bound_lines_ = [], []
        for k, (size, colour) in enumerate(zip(found.patch_sizes, colours, strict=True)):
            gap, error = found.gap[:, k], np.nan_to_num(found.gap_standard_error[:, k])
            marker = _MARKERS[k % len(_MARKERS)]
            label = f"{size} × {size}"
            self.lines_ += ax.plot(at, gap, marker=marker, ms=5, lw=2, color=colour, label=label)
            ax.fill_between(at, gap - error, gap + error, color=colour, alpha=0.2, lw=0)
            if bound:
                self.bound_lines_ += ax.plot(at, found.bound[:, k], ls=":", lw=1.2, color=colour)
        ax.set(
            xlabel=r"noise level $\sigma$",
            ylabel="patch against global posterior mean,\nroot mean square on the patch",
        )
        handles = list(self.lines_)
        if bound:
            (dotted,) = ax.plot(
                [], [], ls=":", color="0.3", label="its bound: total\nvariation × diameter"
            )
            handles.append(dotted)
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if beside else {"loc": "best"}
        style = {"frameon": not beside, "framealpha": 0.6, "fontsize": "small", "labelspacing": 0.3}
        ax.legend(handles=handles, title="patch", **style, **place)
        self.ax_, self.figure_ = ax, ax.figure
        return self
