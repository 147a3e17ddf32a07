"""Search coordinates of images: few numbers whose distances never exceed those of the images.

The orthonormal discrete cosine transform of an image (over channels, rows and columns) preserves
distances. The first coordinates are the coefficients that vary most over the training set. All
other coefficients are grouped in bands, and each band gives one coordinate, its Euclidean norm. As
``|norm(a) - norm(b)| <= norm(a - b)``,

    unit |phi(z) - phi(x)| <= |z - x|.

The unit, about the largest value of the training images, keeps squared distances in the range of
float32.

The bands make this bound tight for a noisy image: most of the noise is in coefficients in which
training images hardly differ, and the norms measure that noise.
"""

import math
from itertools import pairwise

import numpy as np
import scipy.fft
import torch

from ..._state import NumpyState
from ..memory import rows_that_fit

_LEADING = 256  # coefficients that are coordinates
_GROWTH = 2.0  # ratio of the end of a band to its start
_SAMPLE = 4096  # training images from which variances are estimated
_FARTHEST = 1e15  # largest coordinate of a noisy image, whose square is finite in float32


class Coordinates(NumpyState):
    """Map from images to search coordinates, chosen for a training set.

    Parameters
    ----------
    training_set : TrainingSet
    n_leading : int, default 256
        Number of coefficients that are coordinates.

    Attributes
    ----------
    n_dims : int
        Number of coordinates of one image.
    unit : float
        A power of two: distances of coordinates are in this unit.
    """

    def __init__(self, training_set, n_leading=_LEADING):
        self.unit = 2.0 ** (math.frexp(training_set.abs_max)[1] - 1)
        self._bases = [
            torch.from_numpy(scipy.fft.dct(np.eye(side), axis=0, norm="ortho"))
            for side in training_set.image_shape
        ]
        total = torch.zeros(training_set.n_values, dtype=torch.float64, device=training_set.device)
        squares = torch.zeros_like(total)
        for rows in row_blocks(training_set, spaced_rows(training_set, _SAMPLE)):
            spectra = self._transform(training_set.take(rows, training_set.float_dtype))
            spectra = spectra.double() / self.unit
            total += spectra.sum(0)
            squares += spectra.square().sum(0)
        n = min(len(training_set), _SAMPLE)
        self._mean = total / n
        self._order = (squares / n - self._mean.square()).argsort(descending=True)
        self._ends = band_ends(n_leading, training_set.n_values)
        self.n_dims = n_coordinates(training_set.n_values, n_leading)

    def __call__(self, images):
        """Return the coordinates (n, n_dims), float32, of images (n, C, H, W)."""
        if not images.is_floating_point() or images.dtype == torch.float16:
            images = images.float()
        spectra = self._transform(images) / self.unit
        spectra = (spectra - self._mean.to(spectra))[:, self._order.to(spectra.device)]
        # clamping lowers distances to points within the limits, as all training images are
        return band_norms(spectra, self._ends).clamp(max=_FARTHEST, min=-_FARTHEST).float()

    def serve(self, training_set):
        """Return True if the coordinates of a training set are within the limits."""
        return training_set.abs_max * training_set.n_values < _FARTHEST * self.unit

    def of(self, training_set, rows=None):
        """Yield coordinates of the training images ``rows`` (int64; None: all), in blocks."""
        for block in row_blocks(training_set, rows):
            yield self(training_set.take(block, training_set.float_dtype))

    def _transform(self, images):
        """Return the cosine transforms (n, D) of images (n, C, H, W)."""
        channels, height, width = (basis.to(images) for basis in self._bases)
        spectra = height @ (images @ width.T)  # (n, C, H, W)
        spectra = channels @ spectra.flatten(2)  # (n, C, H W)
        return spectra.flatten(1)


def row_blocks(training_set, rows=None):
    """Split indices of training images (int64; None: all) into blocks that fit in memory."""
    if rows is None:
        rows = torch.arange(len(training_set), device=training_set.device)
    # images, intermediate copies, float64 spectra
    row_bytes = (8 + 4 * training_set.float_dtype.itemsize) * training_set.n_values
    return rows.split(
        rows_that_fit(row_bytes, len(training_set), what="Transforming one training image")
    )


def spaced_rows(training_set, n):
    """Return the indices of at most n evenly spaced training images."""
    n = min(len(training_set), n)
    return torch.linspace(0, len(training_set) - 1, n).long().to(training_set.device)


def n_coordinates(n_values, n_leading=_LEADING):
    """Return the number of coordinates of an image of ``n_values`` values."""
    ends = band_ends(n_leading, n_values)
    return ends[0] + len(ends) - 1


def band_ends(n_leading, n_values):
    """Return the end of the leading coefficients, and then of each band, as a list of int."""
    ends = [min(n_leading, n_values)]
    while ends[-1] < n_values:
        ends.append(min(n_values, int(np.ceil(ends[-1] * _GROWTH))))
    return ends


def band_norms(points, ends):
    """Return the norms of the bands of points (n, d), followed by the leading coordinates."""
    norms = [points[:, start:stop].norm(dim=1, keepdim=True) for start, stop in pairwise(ends)]
    return torch.cat([*norms, points[:, : ends[0]]], dim=1)
