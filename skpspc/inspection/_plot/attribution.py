"""Pictures of the training images that answers are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ... import _optional
from ..._repr import ShortBunch, number, short_repr
from ..._typing import ArrayLike, DataRange, NoiseLevel
from ..._validation import check_pixels
from ...support.training_set import DEFAULT_RANGE
from .._images import as_floats, check_count
from ..attribution import Attribution, attribute
from ..metrics import check_range
from ._cells import GREY, as_array, box_size, canvas, draw, is_signal, paint, words
from ._pixel import Patch, dominance, in_percent

# Okabe and Ito, for all kinds of sight; other images get grays.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442", "#000000")
_PANELS = ("noisy", "denoised", "top\npixels", "top\nimages", "ESS")
_PAD = 0.1  # between boxes, in their sides
_BAR = 0.5  # width of the scale of effective sample sizes, in sides
_MARGIN = 0.4  # width of the noise level, in inches
_TITLES = 0.34  # height of two lines above boxes, in inches
_WIDEST = 0.58  # width of these two lines, in inches
_NOTE = 0.24  # height of a sentence, in inches
_NOTE_POINTS = 9.0
_GOLDEN = (math.sqrt(5) - 1) / 2


class AttributionDisplay:
    """Answers of a denoiser, and the training images that each answer is made of.

    Without a pixel, each noisy image takes two rows. The first row shows:

    - the noisy image and the denoised image;
    - top pixels: the training pixel with the largest share in each pixel;
    - top images: the training image that each top pixel comes from, in the colours of the frames
      below, gray for all others;
    - ESS: the effective sample size of each pixel, about how many training images it averages.

    The second row shows the training images with the largest shares of the whole denoised image.

    With a pixel, the first row shows the patches that the windows over this pixel compare: the
    noisy patch, the training patches with the largest weights, and the patch of the answer, whose
    framed pixel is the weighted mean of the framed pixels of all training patches. The label of the
    row gives the height and width of the patches, which hold all windows over the pixel. The second
    row shows the images that the patches come from.

    A sentence below says whether one training image dominates, with more than half of the weight.
    Signals, one pixel high or wide, are drawn as lines. Create one with :meth:`from_estimator`,
    :meth:`from_predictions` or the ``plot`` method of an `Attribution`.

    Parameters
    ----------
    noisy : ndarray of shape (n, C, H, W)
        Noisy images.
    answer : ndarray of shape (n, C, h, w)
        Denoised images or patches.
    attribution : Attribution
        Shares of the training images in the answers, as arrays.
    images : array or Tensor of shape (N, C, H, W)
        Training images.
    sigma : ndarray of shape (n,), default None
        Noise levels, for the labels.
    data_range : tuple of (low, high), default None
        Values that the uint8 pixels 0 and 255 stand for, and that are drawn black and white. None:
        -1 and 1 for uint8 training images, their smallest and largest value for float images.
    pixel : tuple of (row, column), default None
        Pixel of the answers to explain; None: all pixels.
    patches : list of Patch of length n, default None
        Patch around the pixel in each noisy image.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes that hold all images.
    figure_ : matplotlib Figure
        Figure of the axes.

    Examples
    --------
    >>> import numpy as np
    >>> from skpspc import PSPCDenoiser
    >>> from skpspc.datasets import load_digits_images
    >>> from skpspc.inspection import AttributionDisplay
    >>> X = load_digits_images().images
    >>> noise = np.random.default_rng(0).standard_normal((1, 1, 8, 8))
    >>> Z = X[:1] / 127.5 - 1 + 0.4 * noise
    >>> model = PSPCDenoiser(patch_size=4).fit(X[10:])
    >>> display = AttributionDisplay.from_estimator(model, Z, 0.4, pixel=(4, 5))
    >>> display.attribution.share[0, 0, 4, 5].round(2)  # weights of six patches
    array([0.08, 0.06, 0.04, 0.04, 0.04, 0.03])
    """

    __repr__ = short_repr

    def __init__(
        self,
        *,
        noisy: np.ndarray,
        answer: np.ndarray,
        attribution: Attribution,
        images: Any,
        sigma: np.ndarray | None = None,
        data_range: DataRange | None = None,
        pixel: tuple[int, int] | None = None,
        patches: Sequence[Patch] | None = None,
    ) -> None:
        self.noisy = noisy
        self.answer = answer
        self.attribution = attribution
        self.images = images
        self.sigma = sigma
        self.data_range = data_range
        self.pixel: Any = pixel
        self.patches: Any = patches

    @classmethod
    def from_estimator(
        cls,
        denoiser: Any,
        Z: ArrayLike,
        sigma: NoiseLevel,
        *,
        y: ArrayLike | None = None,
        pixel: tuple[int, int] | None = None,
        n_images: int = 6,
        ax: Any = None,
    ) -> AttributionDisplay:
        """Return a drawn display of the attributions of answers of a denoiser.

        Parameters
        ----------
        denoiser : estimator
            Fitted denoiser whose answers are means of training images.
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            Noise level, in the units of the images; 0 and inf are allowed.
        y : label or array of shape (n,), default None
            Class whose training images count; None: all.
        pixel : tuple of (row, column), default None
            Pixel of the answers whose training patches are drawn; None: training images of all
            pixels.
        n_images : int, default 6
            Training images or patches to draw, from 0 to 8.
        ax : matplotlib Axes, default None
            Emptied; legible from four inches. None: a new figure.

        Returns
        -------
        AttributionDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        ValueError
            For other numbers of channels than 1 and 3, a pixel outside the image, a pixel of a
            denoiser of patches, or a denoiser whose answers are not means of training images.
        """
        top = 1 if pixel is None else max(_checked_count(n_images), 1)
        attribution = _as_arrays(attribute(denoiser, Z, sigma, y=y, top=top))
        attribution = _among(attribution, denoiser.training_rows_)
        images = denoiser.training_set_.images
        answer = as_array(denoiser.denoise(Z, sigma, y))
        answer = answer.reshape(len(answer), images.shape[1], *attribution.rest.shape[2:])
        noisy = as_array(Z)
        is_like_answer = math.prod(noisy.shape[1:]) == math.prod(answer.shape[1:])
        noisy = noisy.reshape(answer.shape if is_like_answer else (-1, *denoiser.image_shape_))
        sigma = np.broadcast_to(as_array(sigma), len(answer))
        patches = None
        if pixel is not None:
            pixel = _checked_pixel(pixel, noisy, answer)
            patches = _patches(denoiser, pixel, sigma.tolist(), y)
        display = cls(
            noisy=as_floats(noisy, denoiser.training_set_.data_range),
            answer=answer,
            attribution=attribution,
            images=images,
            sigma=sigma,
            data_range=denoiser.data_range_,
            pixel=pixel,
            patches=patches,
        )
        return display.plot(ax, n_images=n_images)

    @classmethod
    def from_predictions(
        cls,
        noisy: ArrayLike,
        answer: ArrayLike,
        attribution: Attribution,
        images: Any,
        *,
        sigma: NoiseLevel | None = None,
        pixel: tuple[int, int] | None = None,
        patch_size: int | None = None,
        n_images: int = 6,
        data_range: DataRange | None = None,
        ax: Any = None,
    ) -> AttributionDisplay:
        """Return a drawn display of given answers and attributions.

        Parameters
        ----------
        noisy : array or Tensor of shape (n, C, H, W)
            Noisy images.
        answer : array or Tensor of shape (n, C, h, w)
            Denoised images or patches.
        attribution : Attribution
            Returned by `attribute` for ``noisy``; with ``top`` of at least ``n_images`` for a
            pixel.
        images : array or Tensor of shape (N, C, H, W)
            Training images.
        sigma : float or array of shape (n,), default None
            Noise levels, for the labels.
        pixel : tuple of (row, column), default None
            Pixel of the answers whose training patches are drawn; None: training images of all
            pixels.
        patch_size : int, default None
            Side of the windows that the denoiser compares. The patches that are drawn hold all
            windows of this side over the pixel. None: whole images.
        n_images : int, default 6
            Training images or patches to draw, from 0 to 8.
        data_range : tuple of (low, high), default None
            Values that the uint8 pixels 0 and 255 stand for, and that are drawn black and white.
            None: -1 and 1 for uint8 training images, their smallest and largest value for float
            images.
        ax : matplotlib Axes, default None
            Emptied; legible from four inches. None: a new figure.

        Returns
        -------
        AttributionDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing; the extra ``plot`` installs it.
        ValueError
            If ``attribution`` belongs to other answers, for other numbers of channels than 1 and
            3, or for a pixel outside the image.
        """
        images_in, images_out = as_array(noisy), as_array(answer)
        _check_attribution(attribution, images_in, images_out)
        if data_range is not None:
            data_range = check_range(data_range)
        patches = None
        if pixel is not None:
            pixel = _checked_pixel(pixel, images_in, images_out)
            sides = images_in.shape[2:]
            reach = max(sides) if patch_size is None else _checked_side(patch_size) - 1
            patches = [Patch.around(pixel, reach, sides)] * len(images_in)
        n = len(images_out)
        display = cls(
            noisy=as_floats(images_in, data_range or DEFAULT_RANGE),
            answer=images_out,
            attribution=_as_arrays(attribution),
            images=images,
            sigma=None if sigma is None else np.broadcast_to(as_array(sigma), n),
            data_range=data_range,
            pixel=pixel,
            patches=patches,
        )
        return display.plot(ax, n_images=n_images)

    def plot(self, ax: Any = None, *, n_images: int = 6) -> AttributionDisplay:
        """Draw, and return self.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Emptied; legible from four inches. None: a new figure.
        n_images : int, default 6
            Training images or patches to draw, from 0 to 8.

        Returns
        -------
        AttributionDisplay
        """
        self._check_channels()
        n_images = min(_checked_count(n_images), len(self.images))
        draw_one = self._draw_one if self.pixel is None else self._draw_story
        boxes, text = self._size(n_images)
        n = len(self.answer)
        self.ax_, side = canvas(ax, (boxes[0], n * boxes[1]), (_MARGIN, n * text), self._title(n))
        self.figure_ = self.ax_.figure
        for i in range(n):
            draw_one(i, n_images, i * (side * boxes[1] + text), side)
        return self

    def _title(self, n):
        """Return the title of the figure."""
        noisy = "1 noisy image" if n == 1 else f"{n} noisy images"
        source = f"{noisy}, {len(self.images):,} training images"
        if self.pixel is None:
            return f"Training images that make up each denoised image; {source}"
        row, column = self.pixel
        return f"Training patches that make up pixel ({row}, {column}); {source}"

    @property
    def _height(self):
        """Height of the box of an image, in sides of a box."""
        return max(box_size(each.shape[1:])[1] for each in (self.noisy, self.answer))

    def _size(self, n_images):
        """Return the size of the boxes of a noisy image, and the height of their text in inches."""
        row = self._height + _PAD
        if self.pixel is None:
            width = max(len(_PANELS) * (1 + _PAD) + _BAR, n_images * (1 + _PAD))
            return (width, row * (1 + (n_images > 0))), _TITLES * (1 + (n_images > 0)) + _NOTE
        n_rows = 1 if self._sees_all else 2
        return ((n_images + 2) * (1 + _PAD), n_rows * row), _TITLES + 2 * _NOTE

    @property
    def _sees_all(self):
        """True if the patches are whole images."""
        return all(patch.covers(self.noisy.shape[2:]) for patch in self.patches)

    def _check_channels(self):
        if self.answer.shape[1] not in (1, 3):
            raise ValueError(
                f"a picture needs images of 1 or 3 channels, got {self.answer.shape[1]}; take "
                "three of them, X[:, :3]."
            )

    def _draw_story(self, i, n_images, top, side):
        """Draw patches around the pixel, and the images they come from, below ``top``."""
        at, patch = self._of_pixel(i), self.patches[i]
        order = [k for k in range(min(n_images, len(at.index))) if at.share[k] > 0]
        columns = [(self.noisy[i], patch, "noisy", False)]
        for k in order:
            image = self._images([at.index[k]])[0]
            moved = patch.moved(at.row[k], at.column[k], at.mirrored[k])
            label = f"no. {at.index[k]}\n{in_percent(at.share[k])}"
            columns.append((image, moved, label, at.mirrored[k]))
        columns.append((self.answer[i], patch, "denoised", False))
        style, step = words(side, _WIDEST), side * (1 + _PAD)
        below = top + _TITLES + side * (self._height + _PAD)
        for k, (image, shown_patch, label, mirrored) in enumerate(columns):
            left = _MARGIN + k * step
            self.ax_.text(left + side / 2, top + _TITLES / 2, label, ha="center", **style)
            where = left, top + _TITLES, side, self._range
            shown_patch.draw(self.ax_, image, *where, mirrored=mirrored)
            if not self._sees_all:
                draw(self.ax_, image, left, below, side, self._range)
                shown_patch.frame(self.ax_, image.shape, left, below, side)
        name = "image" if self._sees_all else f"patch\n{patch.size}"
        self._beside(name, top + _TITLES, side)
        if not self._sees_all:
            self._beside("image", below, side)
        bottom = top + _TITLES + side * (self._height + _PAD) * (1 if self._sees_all else 2)
        self._write_story(i, at, bottom)

    def _write_story(self, i, at, bottom):
        """Write how the weight of the pixel is spread over the training patches."""
        level = "" if self.sigma is None else f"At σ = {self.sigma[i]:.3g}, "
        lines = [
            f"{level}{dominance(at.share, at.index[0])}.",
            f"Effective sample size (ESS): {number(at.effective_sample_size)} training patches",
        ]
        style = {"fontsize": _NOTE_POINTS, "va": "center"}
        for k, line in enumerate(lines):
            self.ax_.text(_MARGIN, bottom + (k + 0.5) * _NOTE, line, **style)

    def _of_pixel(self, i):
        """Return the attribution of the pixel, in the channel with the largest share."""
        row, column = self.pixel
        shares = self.attribution.share[i, :, row, column]
        channel = int(shares[:, 0].argmax())
        names = ("index", "share", "row", "column", "mirrored", "effective_sample_size")
        return ShortBunch(
            **{name: getattr(self.attribution, name)[i, channel, row, column] for name in names}
        )

    def _draw_one(self, i, n_images, top, side):
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
            self._beside(f"σ = {self.sigma[i]:.3g}", top, side)
        for left, image in zip(lefts, (self.noisy[i], self.answer[i], pixels), strict=False):
            draw(self.ax_, image, left, top, side, self._range)
        self._draw_map(_in_colours(index, largest), lefts[3], top, side)
        self._draw_number(i, lefts[4], top, side)
        top += side * (self._height + _PAD)
        if n_images:
            self._beside("made of", top + _TITLES, side)
        for left, image, colour in zip(lefts, largest, _COLOURS, strict=False):
            label = f"no. {image}\n{in_percent(shares[image])}"
            self.ax_.text(left + side / 2, top + _TITLES / 2, label, ha="center", **style)
            frame = {"edge": colour, "linewidth": 3.0}
            pixels = self._images([image])[0]
            draw(self.ax_, pixels, left, top + _TITLES, side, self._range, **frame)
        if n_images:
            top += _TITLES + side * (self._height + _PAD)
        note = f"Whole image: {dominance(shares, shares.argmax())}"
        self.ax_.text(_MARGIN, top + _NOTE / 2, note, fontsize=_NOTE_POINTS, va="center")

    def _beside(self, name, top, side):
        """Write the name of a row of boxes."""
        style = {"ha": "right", "rotation": 90, "color": GREY, **words(side, _WIDEST)}
        self.ax_.text(_MARGIN - 0.08, top + side * self._height / 2, name, **style)

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
        return as_floats(as_array(images), self.data_range or DEFAULT_RANGE)

    @property
    def _range(self):
        """Values of black and white: the data range, or the extremes of float training images."""
        if self.data_range is not None:
            return self.data_range
        if self.images.dtype in (np.uint8, torch.uint8):
            return DEFAULT_RANGE
        low, high = float(self.images.min()), float(self.images.max())
        return low, max(high, np.nextafter(low, np.inf))

    def _draw_number(self, i, left, top, side):
        """Draw the effective sample size of each pixel, on one scale for all answers."""
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
    for image, colour in zip(largest, _COLOURS, strict=False):
        picture[index == image] = colours.to_rgb(colour)
    return picture


def _patches(denoiser, pixel, sigma, y):
    """Return the patch around a pixel that a denoiser compares in each noisy image."""
    codes = [None] * len(sigma) if y is None else denoiser._codes(y, len(sigma))
    keys = list(zip(codes, sigma, strict=True))
    shape = denoiser.image_shape_
    by_key = {
        (code, level): Patch.of_windows(denoiser._prior_of(code).windows_at(level), pixel, shape)
        for code, level in set(keys)
    }
    return [by_key[key] for key in keys]


def _checked_count(n_images):
    """Return the number of training images to draw, an int."""
    if n_images not in range(len(_COLOURS) + 1):
        raise ValueError(f"n_images must be an int from 0 to {len(_COLOURS)}, got {n_images!r}.")
    return int(n_images)


def _checked_side(patch_size):
    """Return the side of the windows, an int."""
    check_count(patch_size, "patch_size")
    return int(patch_size)


def _checked_pixel(pixel, noisy, answer):
    """Return row and column of a pixel, both non-negative ints."""
    if noisy.shape[2:] != answer.shape[2:]:
        raise ValueError(
            f"pixel needs answers as large as the noisy images, got answers of {answer.shape[2]} x "
            f"{answer.shape[3]} pixels; leave pixel out, or pass a denoiser of whole images."
        )
    number = int(check_pixels([pixel], answer.shape[2:])[0])
    return divmod(number, answer.shape[3])


def _check_attribution(attribution, noisy, answer):
    """Raise unless an attribution is of these noisy images and answers."""
    if not isinstance(attribution, Attribution):
        raise ValueError(
            f"attribution must be an Attribution, got {type(attribution).__name__}; call attribute."
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
