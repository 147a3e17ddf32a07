"""A picture of the training images that answers are made of."""

import math

import numpy as np
import torch

from ... import _optional
from ..attribution import attribute

# Okabe and Ito's colours, which all kinds of sight tell apart; the gray ones are for the others.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442", "#000000")
_PANELS = ("noisy image", "answer", "pixels of the largest\nshare, in place", "whose they are")
_PANEL = 1.5  # inches
_GOLDEN = (math.sqrt(5) - 1) / 2


class AttributionDisplay:
    """Answers of a denoiser, and the training images that they are made of, in place.

    One row for each noisy image: the noisy image; the answer; the mosaic of what the training
    image with the largest share has at each pixel; which image that is, in the colours of the
    frames at the right, in grays for others; how many images share each pixel, as an effective
    number; and the images with the largest shares in the whole answer.

    Use `from_estimator` or `from_predictions` to make one.

    Parameters
    ----------
    noisy : ndarray of shape (n, C, H, W)
    answer : ndarray of shape (n, C, h, w)
        Whole images, or patches of them.
    attribution : Attribution
        Of arrays.
    images : array or Tensor of shape (N, C, H, W)
        The training images; uint8 u means u / 127.5 - 1.
    sigma : ndarray of shape (n,), default None
        Noise levels, for the labels.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The (empty) axes whose place the picture takes.
    axes_ : ndarray of shape (n, 5 + n_images) of Axes
    figure_ : matplotlib Figure

    See Also
    --------
    attribute : The numbers.

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
    >>> display.axes_.shape
    (2, 11)
    """

    def __init__(self, *, noisy, answer, attribution, images, sigma=None):
        self.noisy = noisy
        self.answer = answer
        self.attribution = attribution
        self.images = images
        self.sigma = sigma

    @classmethod
    def from_estimator(cls, denoiser, Z, sigma, *, y=None, n_images=6, ax=None):
        """Ask a denoiser, and draw.

        Parameters
        ----------
        denoiser : estimator
            A fitted denoiser whose answers are means of training images.
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images, few of them: each is a row.
        sigma : float or array of shape (n,)
        y : label or array of shape (n,), default None
            The class whose images count; None: all.
        n_images : int, default 6
            How many training images to show at the right, from 0 to 8.
        ax : matplotlib Axes, default None
            Whose place to take; None: that of a new figure.

        Returns
        -------
        AttributionDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            As `attribute`; for images of neither 1 nor 3 channels.
        """
        found = attribute(denoiser, Z, sigma, y=y, top=1)
        found = type(found)(*map(_as_array, vars(found).values()))
        images = denoiser.training_set_.images
        answer = _as_array(denoiser.denoise(Z, sigma, y))
        answer = answer.reshape(len(answer), images.shape[1], *found.rest.shape[2:])
        noisy = _as_array(Z)
        given = math.prod(noisy.shape[1:]) == math.prod(answer.shape[1:])
        noisy = noisy.reshape(answer.shape if given else (-1, *denoiser.image_shape_))
        sigma = np.broadcast_to(_as_array(sigma), len(answer))
        display = cls(
            noisy=_as_floats(noisy), answer=answer, attribution=found, images=images, sigma=sigma
        )
        return display.plot(ax, n_images=n_images)

    @classmethod
    def from_predictions(
        cls, noisy, answer, attribution, images, *, sigma=None, n_images=6, ax=None
    ):
        """Draw what is known already.

        Parameters
        ----------
        noisy, answer : array or Tensor of shape (n, C, H, W)
        attribution : Attribution
            What `attribute` found for ``noisy``.
        images : array or Tensor of shape (N, C, H, W)
            The training images.
        sigma : float or array of shape (n,), default None
            Noise levels, for the labels.
        n_images, ax
            As in `from_estimator`.

        Returns
        -------
        AttributionDisplay
        """
        answer = _as_array(answer)
        sigma = None if sigma is None else np.broadcast_to(_as_array(sigma), len(answer))
        display = cls(
            noisy=_as_floats(_as_array(noisy)),
            answer=answer,
            attribution=type(attribution)(*map(_as_array, vars(attribution).values())),
            images=images,
            sigma=sigma,
        )
        return display.plot(ax, n_images=n_images)

    def plot(self, ax=None, *, n_images=6):
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default None
            Whose place to take; None: that of a new figure.
        n_images : int, default 6
            How many training images to show at the right, from 0 to 8.

        Returns
        -------
        self
        """
        n_images = min(self._checked(n_images), len(self.images))
        pyplot = _optional.load("matplotlib.pyplot")
        n_rows, n_columns = len(self.answer), len(_PANELS) + 1 + n_images
        if ax is None:
            size = _PANEL * n_columns, _PANEL * (n_rows + 0.4)
            _, ax = pyplot.subplots(figsize=size, layout="constrained")
        ax.set_axis_off()
        self.ax_, self.figure_ = ax, ax.figure
        grid = ax.get_subplotspec().subgridspec(n_rows, n_columns)
        self.axes_ = grid.subplots(squeeze=False)
        for each in self.axes_.flat:
            each.set(xticks=[], yticks=[])
        for row in range(n_rows):
            self._draw_row(row, n_images)
        for panel, title in zip(self.axes_[0], (*_PANELS, "effective\nnumber"), strict=False):
            panel.set_title(title, fontsize="small")
        return self

    def _checked(self, n_images):
        if self.answer.shape[1] not in (1, 3):
            raise ValueError(
                f"a picture needs images of 1 or 3 channels, got {self.answer.shape[1]}; take "
                "some of them, X[:, :3]."
            )
        if n_images not in range(len(_COLOURS) + 1):
            raise ValueError(
                f"n_images must be an int from 0 to {len(_COLOURS)}, got {n_images!r}."
            )
        return int(n_images)

    def _draw_row(self, row, n_images):
        """One noisy image and all that belongs to it."""
        noisy, answer, mosaic, whose, number = self.axes_[row, : len(_PANELS) + 1]
        index, pixels = self._leaders(row)
        largest = np.argsort(-self.attribution.image_share[row], kind="stable")[:n_images]
        self._show(noisy, self.noisy[row])
        self._show(answer, self.answer[row])
        self._show(mosaic, pixels)
        whose.imshow(_in_colours(index, largest))
        self._draw_number(number, row)
        if self.sigma is not None:
            noisy.set_ylabel(f"σ = {self.sigma[row]:.3g}")
        for each, image, colour in zip(
            self.axes_[row, len(_PANELS) + 1 :], largest, _COLOURS, strict=False
        ):
            self._show(each, self._images([image])[0])
            share = 100 * self.attribution.image_share[row, image]
            each.set_title(f"no. {image}: {share:.2g} %", fontsize="small")
            for spine in each.spines.values():
                spine.set(color=colour, linewidth=4)

    def _leaders(self, row):
        """The number (h, w) of the image with the largest share of a pixel, and its pixels."""
        found = self.attribution
        channels = np.arange(self.answer.shape[1])[:, None, None]
        at = (
            np.broadcast_to(getattr(found, name)[row, ..., 0], self.answer.shape[1:])
            for name in ("index", "row", "column")
        )
        index, rows, columns = at
        numbers, inverse = np.unique(index, return_inverse=True)
        pixels = self._images(numbers)[inverse.reshape(index.shape), channels, rows, columns]
        best = found.share[row, ..., 0].argmax(0)[None]  # of the channels, where they differ
        return np.take_along_axis(index, best, 0)[0], pixels

    def _images(self, numbers):
        """Some training images as floats."""
        some = self.images[
            torch.as_tensor(numbers) if isinstance(self.images, torch.Tensor) else numbers
        ]
        return _as_floats(_as_array(some))

    def _show(self, ax, image):
        """One image, (C, H, W), as a picture."""
        low, high = self._range
        picture = np.clip((image - low) / (high - low), 0, 1).transpose(1, 2, 0)
        if picture.shape[2] == 1:
            picture = picture.repeat(3, axis=2)
        ax.imshow(picture)

    @property
    def _range(self):
        """The values that are black and white: -1 and 1 for uint8, else those of the data."""
        if self.images.dtype in (np.uint8, torch.uint8):
            return -1.0, 1.0
        low, high = float(self.images.min()), float(self.images.max())
        return low, max(high, np.nextafter(low, np.inf))

    def _draw_number(self, ax, row):
        """The effective number of images, on one scale for all rows."""
        every = self.attribution.effective_sample_size
        # mirror images and patches at other places count too: there may be more than images
        most = max(self.attribution.image_share.shape[1], float(every.max()), 2)
        number = every[row].mean(0)
        shown = ax.imshow(number, cmap="cividis", norm="log", vmin=1, vmax=most)
        self.figure_.colorbar(shown, ax=ax, fraction=0.05, pad=0.02)


def _in_colours(index, largest):
    """Colours (h, w, 3) of image numbers (h, w): those of the largest, and grays."""
    colours = _optional.load("matplotlib.colors")
    shade = 0.6 + 0.35 * np.modf(index * _GOLDEN)[0]  # neighbours in number differ
    picture = np.repeat(shade[..., None], 3, axis=2)
    for number, colour in zip(largest, _COLOURS, strict=False):
        picture[index == number] = colours.to_rgb(colour)
    return picture


def _as_array(values):
    """Tensors on any device, and numbers, as arrays."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _as_floats(images):
    """uint8 u as u / 127.5 - 1."""
    return images / 127.5 - 1 if images.dtype == np.uint8 else images
