r"""The normal distribution of images whose covariance is diagonal in the cosine transform.

The orthonormal cosine transform (DCT-II) of rows and columns maps an image to coefficients
:math:`c_{uv} \in \mathbb{R}^C`, one for each channel. The covariance of a training set becomes
stationary, up to the edges, if all correlations between different frequencies are left out:

.. math::

    \Sigma = T^T \operatorname{diag}_{uv}\bigl(\Sigma_{uv}\bigr) T, \qquad
    \Sigma_{uv} = \sum_i v_i (c_{i,uv} - \bar c_{uv}) (c_{i,uv} - \bar c_{uv})^T
    = U_{uv} \operatorname{diag}(S_{uv}) U_{uv}^T.

It is the nearest matrix of this form to the covariance. Products with it take 2 (H + W + C)
multiplications per value instead of C H W.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.fft
import torch

from .._repr import short_repr
from .._state import NumpyState
from ..support.covariance import image_weights, mean_image, rounding_variance
from ..support.devices import added
from ..support.memory import rows_that_fit

_CHUNK_ROWS = 128  # images transformed at a time: they stay in the cache


@dataclass(frozen=True, eq=False)
class StationaryGaussian(NumpyState):
    """A normal distribution of images, with components that are cosines; see the module.

    Attributes
    ----------
    mean : Tensor of shape (D,), float64
    mixing : Tensor of shape (C, C, H, W), float64
        Channel c of component k at a frequency: the orthogonal matrices U.
    eigenvalues : Tensor of shape (D,), float64
        Variances along the components, of shape (C, H, W) when they are not flat.
    """

    mean: torch.Tensor
    mixing: torch.Tensor
    eigenvalues: torch.Tensor

    __repr__ = short_repr
    _not_kept = ("_bases",)

    @classmethod
    def of(cls, training_set):
        """Return the distribution with the mean and these covariances of a training set."""
        mean = mean_image(training_set)
        second = training_set.reduced(_second_moments, added, mean)
        variances, vectors = torch.linalg.eigh(second.permute(2, 3, 0, 1))
        eigenvalues = variances.permute(2, 0, 1).flatten()
        least = max(rounding_variance(mean), float(eigenvalues.max()) * np.finfo(np.float64).eps)
        eigenvalues = eigenvalues.where(eigenvalues > least, torch.zeros_like(eigenvalues))
        return cls(mean, vectors.permute(2, 3, 0, 1).contiguous(), eigenvalues)

    @cached_property
    def abs_max(self):
        """Largest absolute value of the mean and of the standard deviations."""
        return max(float(self.mean.abs().max()), float(self.eigenvalues.max()) ** 0.5)

    @cached_property
    def _bases(self):
        """The cosines of rows and columns and the mixing, by dtype."""
        height, width = self.mixing.shape[2:]
        cosines = _cosines(height, width, self.mean)
        return {
            dtype: tuple(matrix.to(dtype) for matrix in (*cosines, self.mixing))
            for dtype in (torch.float32, torch.float64)
        }

    def to(self, device):
        """Return the distribution on a device."""
        if self.mean.device == device:
            return self
        names = "mean", "mixing", "eigenvalues"
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def along(self, rows):
        """Return the coordinates (..., D) of rows (..., D) along the components."""
        down, across, mixing = self._bases[rows.dtype]
        images = rows.reshape(-1, *mixing.shape[1:])
        return _mixed(down @ images @ across.T, mixing.transpose(0, 1)).view(rows.shape)

    def combined(self, along):
        """Return the rows (..., D) with coordinates ``along`` (..., D)."""
        down, across, mixing = self._bases[along.dtype]
        coordinates = along.reshape(-1, *mixing.shape[1:])
        return (down.T @ _mixed(coordinates, mixing) @ across).view(along.shape)


def _cosines(height, width, like):
    """Return the orthonormal cosines of columns (H, H) and rows (W, W) of pixels, as rows."""
    return [
        torch.from_numpy(scipy.fft.dct(np.eye(side), axis=0, norm="ortho")).to(like)
        for side in (height, width)
    ]


def _mixed(images, mixing):
    """Return images (m, C, H, W) with channels mixed at each frequency by (C, C, H, W)."""
    # term by term, which is several times faster than a product of small matrices
    out = images[:, :1] * mixing[:, 0]
    for channel in range(1, len(mixing)):
        out.addcmul_(images[:, channel : channel + 1], mixing[:, channel])
    return out


def _second_moments(training_set, mean):
    """Return the covariances of channels at each frequency, (C, C, H, W); of a shard, a summand."""
    mean, weights = mean.to(training_set.device), image_weights(training_set)
    channels, height, width = training_set.image_shape
    down, across = _cosines(height, width, mean)
    total = mean.new_zeros(channels, channels, height, width)
    row_bytes = 8 * training_set.n_values * (4 + channels)
    most = min(len(training_set), _CHUNK_ROWS)
    for rows in training_set.slices(rows_that_fit(row_bytes, most, what="One training image")):
        centred = training_set.take(rows, torch.float64).flatten(1) - mean
        c = down @ centred.view(-1, channels, height, width) @ across.T
        weighted = c * weights[rows, None, None, None]
        total += (weighted[:, :, None] * c[:, None]).sum(0)
    return total
