"""Pictures of the training images that answers are made of."""

import math
from dataclasses import replace

import numpy as np
import torch

from ... import _optional
from ..._repr import short_repr
from ...support.training_set import DEFAULT_RANGE
from .._images import as_floats
from ..attribution import Attribution, attribute
from ._cells import GREY, as_array, box_size, canvas, draw, is_signal, paint, words

# Okabe and Ito, for all kinds of sight; other images get grays.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442", "#000000")
_PANELS = ("noisy", "answer", "largest\nshare", "whose\nit is", "effective\nnumber")
_PAD = 0.1  # between boxes, in their sides
_BAR = 0.5  # width of the scale of effective numbers, in sides
_MARGIN = 0.4  # width of the noise level, in inches
_TITLES = 0.34  # height of two lines above boxes, in inches
_WIDEST = 0.58  # width of these two lines, in inches
_GOLDEN = (math.sqrt(5) - 1) / 2


class AttributionDisplay:
    """Answers of a denoiser, and the training images that they are made of.

    Two rows for each noisy image. Above: the noisy image; the answer; the mosaic of the training
    images with the largest share of each pixel; the number of that image, in the colours of the
    frames below, gray for other images; the effective number of images at each pixel. Below: the
    images with the largest shares of the whole answer. Signals, one pixel high or wide, are drawn
    as lines.

    Create one with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    noisy : ndarray of shape (n, C, H, W)
    answer : ndarray of shape (n, C, h, w)
        Whole images or patches.
    attribution : Attribution
        Of arrays.
    images : array or Tensor of shape (N, C, H, W)
        The training images.
    sigma : ndarray of shape (n,), default None
        Noise levels, for the labels.
    data_range : tuple of (low, high), default (-1, 1)
        Values that the uint8 pixels 0 and 255 stand for.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import AttributionDisplay
    >>> X = load_digits_images().images
    >>> model = PSPCDenoiser(patch_size=4).fit(X[10:])
    >>> display = AttributionDisplay.from_estimator(model, X[:2] / 127.5 - 1, sigma=[0.1, 0.5])
    >>> display.answer.shape
    (2, 1, 8, 8)
    """

    __repr__ = short_repr

    def __init__(self, *, noisy, answer, attribution, images, sigma=None, data_range=DEFAULT_RANGE):
        self.noisy = noisy
        self.answer = answer
        self.attribution = attribution
        self.images = images
        self.sigma = sigma
        self.data_range = data_range

    @classmethod
    def from_estimator(cls, denoiser, Z, sigma, *, y=None, n_images=6, ax=None):
        """Return a drawn display of the attributions of answers of a denoiser.

        Parameters
        ----------
        denoiser, Z, sigma, y
            As in `attribute`, with its errors; each noisy image takes two rows.
        n_images, ax
            As in :meth:`plot`.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            For other numbers of channels than 1 and 3.
        """
        attribution = _as_arrays(attribute(denoiser, Z, sigma, y=y, top=1))
        attribution = _among(attribution, denoiser.training_rows_)
        images = denoiser.training_set_.images
        answer = as_array(denoiser.denoise(Z, sigma, y))
        answer = answer.reshape(len(answer), images.shape[1], *attribution.rest.shape[2:])
        noisy = as_array(Z)
        is_like_answer = math.prod(noisy.shape[1:]) == math.prod(answer.shape[1:])
        noisy = noisy.reshape(answer.shape if is_like_answer else (-1, *denoiser.image_shape_))
        sigma = np.broadcast_to(as_array(sigma), len(answer))
        display = cls(
            noisy=as_floats(noisy, denoiser.training_set_.data_range),
            answer=answer,
            attribution=attribution,
            images=images,
            sigma=sigma,
            data_range=denoiser.training_set_.data_range,
        )
        return display.plot(ax, n_images=n_images)

    @classmethod
    def from_predictions(
        cls, noisy, answer, attribution, images, *, sigma=None, n_images=6, ax=None
    ):
        """Return a drawn display of given answers and attributions.

        Parameters
        ----------
        noisy, answer : array or Tensor of shape (n, C, H, W)
        attribution : Attribution
            Returned by `attribute` for ``noisy``.
        images : array or Tensor of shape (N, C, H, W)
            The training images.
        sigma : float or array of shape (n,), default None
            Noise levels, for the labels.
        n_images, ax
            As in :meth:`plot`.

        Raises
        ------
        ValueError
            If ``attribution`` is no Attribution of these answers; as `from_estimator`.
        """
        answer = as_array(answer)
        _check_attribution(attribution, noisy, answer)
        sigma = None if sigma is None else np.broadcast_to(as_array(sigma), len(answer))
        display = cls(
            noisy=as_floats(as_array(noisy)),
            answer=answer,
            attribution=_as_arrays(attribution),
            images=images,
            sigma=sigma,
        )
        return display.plot(ax, n_images=n_images)

    def plot(self, ax=None, *, n_images=6):
        """Draw, and return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Emptied; legible from four inches. None: a new figure.
        n_images : int, default 6
            Training images to show, from 0 to 8.
        """
        n_images = min(self._checked(n_images), len(self.images))
        height = max(box_size(each.shape[1:])[1] for each in (self.noisy, self.answer))
        row = (height + _PAD) * (1 + (n_images > 0))
        text = _TITLES * (1 + (n_images > 0))
        width = max(len(_PANELS) * (1 + _PAD) + _BAR, n_images * (1 + _PAD))
        n = len(self.answer)
        self.ax_, side = canvas(ax, (width, n * row), (_MARGIN, n * text))
        self.figure_ = self.ax_.figure
        for i in range(n):
            self._draw_one(i, n_images, i * (side * row + text), side, height)
        return self

    def _checked(self, n_images):
        if self.answer.shape[1] not in (1, 3):
            raise ValueError(
                f"a picture needs images of 1 or 3 channels, got {self.answer.shape[1]}; take "
                "three of them, X[:, :3]."
            )
        if n_images not in range(len(_COLOURS) + 1):
            raise ValueError(
                f"n_images must be an int from 0 to {len(_COLOURS)}, got {n_images!r}."
            )
        return int(n_images)

    def _draw_one(self, i, n_images, top, side, height):
        """Draw the two rows of a noisy image, below ``top``."""
        index, pixels = self._leaders(i)
        shares = self.attribution.image_share[i]
        largest = np.argsort(-shares, kind="stable")[: min(n_images, np.count_nonzero(shares))]
        style, step = words(side, _WIDEST), side * (1 + _PAD)
        lefts = _MARGIN + step * np.arange(max(len(_PANELS), n_images))
        for left, title in zip(lefts, _PANELS, strict=False):
            self.ax_.text(left + side / 2, top + _TITLES / 2, title, ha="center", **style)
        top += _TITLES
        if self.sigma is not None:
            self._beside(f"σ = {self.sigma[i]:.3g}", top, side, height)
        for left, image in zip(lefts, (self.noisy[i], self.answer[i], pixels), strict=False):
            draw(self.ax_, image, left, top, side, self._range)
        self._draw_map(_in_colours(index, largest), lefts[3], top, side)
        self._draw_number(i, lefts[4], top, side)
        if n_images:
            top += side * (height + _PAD)
            self._beside("made of", top + _TITLES, side, height)
        for left, image, colour in zip(lefts, largest, _COLOURS, strict=False):
            label = f"no. {image}\n{_in_percent(shares[image])}"
            self.ax_.text(left + side / 2, top + _TITLES / 2, label, ha="center", **style)
            frame = {"edge": colour, "linewidth": 3.0}
            pixels = self._images([image])[0]
            draw(self.ax_, pixels, left, top + _TITLES, side, self._range, **frame)

    def _beside(self, name, top, side, height):
        """Write the name of a row of boxes."""
        style = {"ha": "right", "rotation": 90, "color": GREY, **words(side, _WIDEST)}
        self.ax_.text(_MARGIN - 0.08, top + side * height / 2, name, **style)

    def _draw_map(self, values, left, top, side, **parameters):
        """Draw values or colours of pixels, (h, w) or (h, w, 3); a signal from left to right."""
        shape = self.answer.shape[1:]
        if is_signal(shape):
            values = values.reshape(1, -1, *values.shape[2:])
        size = side * np.array(box_size(shape))
        return paint(self.ax_, values, left, top, size, **parameters)

    def _leaders(self, row):
        """Return the image number (h, w) with the largest share of each pixel, and its pixels."""
        attribution = self.attribution
        channels = np.arange(self.answer.shape[1])[:, None, None]
        at = (
            np.broadcast_to(getattr(attribution, name)[row, ..., 0], self.answer.shape[1:])
            for name in ("index", "row", "column")
        )
        index, rows, columns = at
        numbers, inverse = np.unique(index, return_inverse=True)
        pixels = self._images(numbers)[inverse.reshape(index.shape), channels, rows, columns]
        best = attribution.share[row, ..., 0].argmax(0)[None]  # of the channels, where they differ
        return np.take_along_axis(index, best, 0)[0], pixels

    def _images(self, numbers):
        """Return numbered training images as floats."""
        images = self.images[
            torch.as_tensor(numbers) if isinstance(self.images, torch.Tensor) else numbers
        ]
        return as_floats(as_array(images), self.data_range)

    @property
    def _range(self):
        """Values of black and white: data range of uint8 images, otherwise extremes of the data."""
        if self.images.dtype in (np.uint8, torch.uint8):
            return self.data_range
        low, high = float(self.images.min()), float(self.images.max())
        return low, max(high, np.nextafter(low, np.inf))

    def _draw_number(self, i, left, top, side):
        """Draw the effective number of images, on one scale for all answers."""
        ticker = _optional.load("matplotlib.ticker")
        every = self.attribution.effective_sample_size
        most = max(float(every.max()), 2.0)
        number = every[i].mean(0)
        scale = {"cmap": "cividis", "norm": "log", "vmin": 1, "vmax": most}
        shown = self._draw_map(number, left, top, side, **scale)
        width, height = side * np.array(box_size(self.answer.shape[1:]))
        across, down = self.ax_.get_xlim()[1], self.ax_.get_ylim()[0]
        corner = (left + 1.06 * width) / across, 1 - (top + height) / down
        beside = self.ax_.inset_axes((*corner, 0.08 * width / across, height / down))
        bar = self.figure_.colorbar(shown, cax=beside)
        ticks = ticker.LogLocator(subs=(1, 2, 5) if most < 100 else (1,)).tick_values(1, most)
        ticks = ticks[(ticks >= 1) & (ticks <= most)]
        size = words(side, _WIDEST)["fontsize"]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], fontsize=size)
        bar.minorticks_off()


def _in_colours(index, largest):
    """Return colours (h, w, 3) of image numbers (h, w): gray except for the ``largest``."""
    colours = _optional.load("matplotlib.colors")
    shade = 0.6 + 0.35 * np.modf(index * _GOLDEN)[0]  # neighbours in number differ
    picture = np.repeat(shade[..., None], 3, axis=2)
    for number, colour in zip(largest, _COLOURS, strict=False):
        picture[index == number] = colours.to_rgb(colour)
    return picture


def _in_percent(share):
    """Return a share in per cent, a str without exponents."""
    percent = 100 * share
    if percent < 0.1:
        return "< 0.1 %"
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %"


def _check_attribution(attribution, noisy, answer):
    """Raise unless an attribution is of these noisy images and answers."""
    if not isinstance(attribution, Attribution):
        raise ValueError(
            f"attribution must be what attribute returns, got {type(attribution).__name__}."
        )
    n, _, height, width = attribution.index.shape[:4]
    if not (len(noisy) == len(answer) == n and answer.shape[2:] == (height, width)):
        raise ValueError(
            f"attribution must be of these answers: it is of {n} answers of {height} x {width} "
            f"pixels, and there are {len(noisy)} noisy images and answers of shape {answer.shape}."
        )


def _among(attribution, rows):
    """Return an attribution to the images of some rows of X (increasing), numbered from 0."""
    index = np.where(attribution.index < 0, -1, np.searchsorted(rows, attribution.index))
    return replace(attribution, index=index, image_share=attribution.image_share[:, rows])


def _as_arrays(attribution):
    """Return an attribution of arrays."""
    return type(attribution)(*map(as_array, vars(attribution).values()))
