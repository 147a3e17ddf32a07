r"""The posterior over training images, compared through windows.

For a noisy image z = x + sigma * eps, windows k with coordinates P_k, and training images x_i with
weights v_i that sum to one,

.. math::

    w_i^k = \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2}
            \sum_{j \in P_k} (z_j - x_{ij})^2 + \log v_i\Bigr),
    \qquad
    D(z)_p = \frac{1}{|\{k : p \in P_k\}|} \sum_{k : p \in P_k} \sum_i w_i^k x_{ip}.
"""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .._progress import progress
from .._repr import extent
from .._typing import DataRange, ImageShape
from ..distributed.blocks import is_dask

if TYPE_CHECKING:
    from ..inspection._plot.image_grid import ImageGridDisplay


@dataclass(frozen=True)
class Posterior:
    """The posterior over training images, given each of n noisy images.

    Attributes
    ----------
    mean : array of shape (n, ...)
        Denoised images: the posterior means, or composites of the posterior means of the windows.
    log_evidence : array of shape (n,)
        log p(z; sigma), the log density of the noisy image under the training set blurred by
        noise. With several windows, the composite log-likelihood ``D * mean_k(log p_k / d_k)``,
        with D numbers in the image and d_k in window k: it is comparable between window sizes, and
        equals log p for a window as large as the image. A window that compares no numbers counts
        as 0.
    effective_sample_size : array of shape (n,)
        ``1 / sum_i w_i^2``, from 1 to N, for weights that sum to one (ESS): about how many training
        images the mean averages. With several windows, the mean over windows. NaN for a network.
    error_bound : array of shape (n,)
        Largest possible absolute error of any pixel of ``mean`` from leaving training images out;
        0 where all images were used. Where ``bound_is_proved`` is False the bound is an estimate,
        which single pixels may exceed. NaN: there is no bound, as for a network.
    standard_error : array of shape (n,)
        Root mean square, over the pixels of ``mean``, of the standard error from drawing training
        images at random; 0 where no images were drawn. To first order: it is too small where few of
        the drawn images have most of the weight.
    bound_is_proved : array of shape (n,), bool
        True where no pixel can exceed ``error_bound``, up to rounding. False where there is no
        bound, and where the bound is an estimate: with ``tol`` of `LocalScoreDenoiser`, and with an
        index that can miss training images unnoticed, such as a graph. The parameter ``index`` of
        `EmpiricalDenoiser` lists the indexes that cannot miss images; its ``index_recall`` measures
        how many others miss.
    data_range : tuple of (low, high) or None
        ``data_range_`` of the denoiser, on which :meth:`plot` draws ``mean``. None: unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc import EmpiricalDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> X = load_digits_images().images
    >>> model = EmpiricalDenoiser().fit(X[4:])
    >>> noise = np.random.default_rng(0).standard_normal((4, 1, 8, 8))
    >>> Z = X[:4] / 127.5 - 1 + 0.5 * noise
    >>> model.posterior(Z, sigma=0.5).effective_sample_size.round(1)
    array([4.8, 1. , 1. , 2. ])
    """

    mean: Any
    log_evidence: Any
    effective_sample_size: Any
    error_bound: Any
    standard_error: Any = None
    bound_is_proved: Any = None
    data_range: DataRange | None = field(default=None, compare=False)

    def __post_init__(self):
        if self.standard_error is None:
            object.__setattr__(self, "standard_error", 0 * self.error_bound)
        if self.bound_is_proved is None:
            object.__setattr__(self, "bound_is_proved", self.error_bound >= 0)  # NaN bounds nothing

    def __repr__(self):
        if is_dask(self.mean):
            shape = tuple(self.mean.shape[1:])
            return f"Posterior(n={len(self.mean)}, image_shape={shape}, not computed)"
        return (
            f"Posterior(n={len(self.mean)}, image_shape={tuple(self.mean.shape[1:])}, "
            f"effective_sample_size={extent(self.effective_sample_size)}, {self._bound_in_words()})"
        )

    def _bound_in_words(self):
        """Return the range of the error bounds, and for how many images they are proved."""
        bounded = self.error_bound == self.error_bound  # False for NaN
        n, n_bounded, n_proved = len(self.mean), int(bounded.sum()), int(self.bound_is_proved.sum())
        if n_bounded == 0 < n:
            return "no error bound"
        state = "proved" if n_proved == n else f"proved for {n_proved} of {n}"
        missing = "" if n_bounded == n else f", none for {n - n_bounded}"
        return f"error_bound={extent(self.error_bound[bounded])}, {state}{missing}"

    def plot(
        self,
        ax: Any = None,
        *,
        n_columns: int | None = None,
        image_shape: ImageShape | None = None,
        data_range: DataRange | None = None,
    ) -> "ImageGridDisplay":
        """Draw the posterior means of up to 8 noisy images, with their effective sample sizes.

        An error bound is written below an image where it is not zero, with ≤ where it is proved,
        and ~ where it is an estimate.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Emptied, and filled with images; None: a new figure.
        n_columns : int, default None
            Images per row; None: all in one row of a new figure, or the number with the largest
            images in ``ax``.
        image_shape : tuple of (C, H, W), default None
            Shape of one image where ``mean`` is flat; None: flat means are signals.
        data_range : tuple of (low, high), default None
            Values drawn black and white. None: the range of the denoiser or, where the denoiser
            has none, -1 and 1.

        Returns
        -------
        ImageGridDisplay
            The drawn display, with ``figure_`` and ``ax_``.

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.

        Examples
        --------
        >>> import numpy as np
        >>> from skpspc import PSPCDenoiser
        >>> from skpspc.datasets import load_digits_images
        >>> X = load_digits_images().images
        >>> noise = np.random.default_rng(0).standard_normal((8, 1, 8, 8))
        >>> Z = X[:8] / 127.5 - 1 + 0.5 * noise
        >>> model = PSPCDenoiser(patch_size=4).fit(X[8:])
        >>> display = model.posterior(Z, sigma=0.5).plot()
        >>> display.titles[:4]
        ['ESS 26.2', 'ESS 17.5', 'ESS 7.56', 'ESS 17']
        """
        from ..inspection._plot.image_grid import show_posterior

        return show_posterior(
            self,
            n_columns=n_columns,
            image_shape=image_shape,
            data_range=self.data_range if data_range is None else data_range,
            ax=ax,
        )


_SCALARS = ("log_evidence", "effective_sample_size", "error_bound", "standard_error")
ARRAYS = ("mean", *_SCALARS, "bound_is_proved")


def converted(posterior, function):
    """Return a posterior with ``function`` applied to each of its arrays."""
    return replace(posterior, **{name: function(getattr(posterior, name)) for name in ARRAYS})


def gathered(groups, n):
    """Return the posterior of n images from groups (indices of images, Posterior)."""
    return _gathered(Posterior, ARRAYS, groups, n)


def weighted(terms, n):
    """Return the weighted mean of several posteriors of n images.

    Each term has the indices of its images of positive weight, int64 (m,), their weights, float64
    (m,), and their posterior. The weights of an image sum to one. All numbers are weighted means,
    bounds included (by the triangle inequality); a bound is proved where the bounds of all terms
    are.
    """
    sums: dict[str, Any] = {}
    proved = None
    for rows, weight, term in terms:
        for name in ("mean", *_SCALARS):
            value = getattr(term, name)
            if name not in sums:
                sums[name] = value.new_zeros(n, *value.shape[1:])
            scale = weight.to(value).view(-1, *[1] * (value.ndim - 1))
            sums[name][rows] += scale * value
        if proved is None:
            proved = torch.ones(n, dtype=torch.bool, device=term.mean.device)
        proved[rows] &= term.bound_is_proved
    return Posterior(**sums, bound_is_proved=proved)


class PerWindow(NamedTuple):
    """The posterior of n noisy images from a kernel, with numbers for each of K windows.

    Attributes
    ----------
    mean : Tensor of shape (n, C, H, W)
        Composite of the windows' posterior means.
    log_norm : Tensor of shape (n, K)
        Log normaliser: log of the sum over training images of ``v_i exp(logit_i)``, with sample
        weights v that sum to one.
    effective_sample_size : Tensor of shape (n, K)
    error_bound, standard_error, bound_is_proved : Tensor of shape (n,), default None
        See `Posterior`. None: all training images were used.
    """

    mean: torch.Tensor
    log_norm: torch.Tensor
    effective_sample_size: torch.Tensor
    error_bound: torch.Tensor | None = None
    standard_error: torch.Tensor | None = None
    bound_is_proved: torch.Tensor | None = None

    @staticmethod
    def gathered(groups, n):
        """Return the result for n images from groups (indices of images, PerWindow)."""
        groups = [(rows, result.with_bounds()) for rows, result in groups]
        return _gathered(PerWindow, PerWindow._fields, groups, n)

    def updated(self, rows, other):
        """Return a copy in which another result replaces the rows of the images ``rows``, int64."""
        pairs = zip(self.with_bounds(), other.with_bounds(), strict=True)
        return PerWindow(*(ours.index_copy(0, rows, theirs) for ours, theirs in pairs))

    def with_bounds(self):
        """Return the result with bounds; the bounds of an exact kernel are zero, and proved."""
        zero = torch.zeros_like(self.mean.flatten(1)[:, 0])
        bound = zero if self.error_bound is None else self.error_bound
        # of its own: kernels raise bounds in place
        error = torch.zeros_like(zero) if self.standard_error is None else self.standard_error
        proved = bound >= 0 if self.bound_is_proved is None else self.bound_is_proved
        return self._replace(error_bound=bound, standard_error=error, bound_is_proved=proved)


def _gathered(kind, names, groups, n):
    """Return a ``kind`` of n rows from groups (indices of rows, kind)."""
    if len(groups) == 1:
        return groups[0][1]
    tensors = [(rows, [getattr(group, name) for name in names]) for rows, group in groups]
    return kind(*gathered_tensors(tensors, n))


def gathered_tensors(groups, n):
    """Return a tuple of tensors of n rows from groups (indices of rows, tensors).

    The tensors of a single group are all rows, in order.
    """
    if len(groups) == 1:
        return tuple(groups[0][1])
    out = [first.new_empty((n, *first.shape[1:])) for first in groups[0][1]]
    for rows, tensors in groups:
        for whole, part in zip(out, tensors, strict=True):
            whole[rows] = part
    return tuple(out)


def by_blocks(kernel, n_rows, arrays, *args):
    """Return the results of ``kernel(*blocks, *args)``, concatenated over blocks of n_rows rows."""
    blocks = list(zip(*(array.split(n_rows) for array in arrays), strict=True))
    results = [kernel(*block, *args) for block in progress(blocks, "blocks of noisy images")]
    return tuple(torch.cat(column) for column in zip(*results, strict=True))


def composite(result, sigma, n_values, log_det=0.0, n_total=None):
    """Return the `Posterior` of noisy images from a kernel's result, a `PerWindow`.

    Noise levels (n,) are positive. ``n_values``, an int or (K,), is the number of values that each
    window compares. ``log_det`` is the log determinant of the linear map, if any, of whole images
    before their comparison. ``n_total`` is the number of values of a noisy image; None: of a mean.
    """
    mean, log_norm, ess, bound, error, proved = result.with_bounds()
    counts = torch.as_tensor(n_values, dtype=torch.float64, device=mean.device)
    log_density = log_norm.flatten(1).double() + log_gauss_constant(counts, sigma[:, None])
    per_number = torch.where(counts > 0, log_density / counts, 0.0)
    n_total = mean[0].numel() if n_total is None else n_total
    evidence = per_number.mean(1) * n_total + log_det
    return Posterior(
        mean,
        evidence.to(mean.dtype),
        ess.flatten(1).mean(1).to(mean.dtype),
        bound.to(mean.dtype),
        error.to(mean.dtype),
        proved,
    )


def log_gauss_constant(n_values, sigma):
    """Return ``-n_values / 2 * log(2 pi sigma^2)``, the log density of zero noise."""
    return -0.5 * n_values * (math.log(2 * math.pi) + 2 * sigma.log())
