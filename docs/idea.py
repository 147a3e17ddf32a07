"""Draw the picture of the front page: how PSPC denoises a digit by patches.

    python docs/idea.py

writes four pictures to docs/_static, each for the light and the dark theme: idea-light.png and
idea-dark.png run from left to right, for wide screens; idea-tall-light.png and idea-tall-dark.png
run from top to bottom, for phones.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyArrowPatch, Rectangle

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images

FOLDER = Path(__file__).resolve().parent / "_static"
SIZE, SIGMA, DIGIT, SEED = 4, 0.6, 258, 2
CORNERS = ((0, 1), (1, 3), (4, 3))
COLOURS = ("#e08a00", "#d6457a", "#12946f")  # distinct for colour-blind readers too
THEMES = {
    "light": {"paper": "#ffffff", "ink": "#111827", "faint": "#5b6472", "blank": "#eaf0f8"}
    | {"stroke": "#0b2a5b"},
    "dark": {"paper": "#14181e", "ink": "#f3f4f6", "faint": "#a3adba", "blank": "#222b37"}
    | {"stroke": "#cfe3ff"},
}
PATCH = 0.84
CLEAN, NEAREST = "clean digit", "nearest\ntraining image"
NOISY, AVERAGED = f"clean digit + {SIGMA} × noise", "mean of overlapping patches"


class Canvas:
    """A figure on which images, frames and texts are placed in inches.

    Parameters
    ----------
    theme : {"light", "dark"}
    width, height : float
    """

    def __init__(self, theme, width, height):
        self.theme = THEMES[theme]
        self.colours = LinearSegmentedColormap.from_list(
            theme, [self.theme["blank"], self.theme["stroke"]]
        )
        self.figure = plt.figure(figsize=(width, height), facecolor=self.theme["paper"])
        self.ax = self.figure.add_axes((0, 0, 1, 1))
        self.ax.axis("off")

    def finish(self):
        """Set the limits and return the figure."""
        width, height = self.figure.get_size_inches()
        self.ax.set(xlim=(0, width), ylim=(0, height), aspect="auto")
        return self.figure

    def image(self, image, x, y, side, alpha=1.0):
        """Draw an image with its lower left corner at (x, y)."""
        extent = (x, x + side, y, y + side)
        options = {"vmin": -1, "vmax": 1, "extent": extent, "interpolation": "nearest"}
        self.ax.imshow(image, self.colours, alpha=alpha, **options)

    def frame(self, x, y, side, colour, line):
        """Draw the outline of a square with its lower left corner at (x, y)."""
        box = Rectangle((x, y), side, side, fill=False, ec=colour, lw=line, zorder=5)
        box.set_joinstyle("round")
        self.ax.add_patch(box)

    def window(self, corner, x, y, side, colour, line):
        """Draw the outline of a window in an image of 8 x 8 pixels at (x, y)."""
        top, left = corner
        pixel = side / 8
        self.frame(x + left * pixel, y + side - (top + SIZE) * pixel, SIZE * pixel, colour, line)

    def text(self, x, y, text, size=12, colour="faint", **options):
        """Write a text, centred on (x, y) by default."""
        options = {"ha": "center", "va": "center", **options}
        self.ax.text(x, y, text, size=size, color=self.theme[colour], **options)

    def framed(self, image, x, y, side, line):
        """Draw an image with the outlines of all windows."""
        self.image(image, x, y, side)
        for corner, colour in zip(CORNERS, COLOURS, strict=True):
            self.window(corner, x, y, side, colour, line)

    def arrow(self, x, y, right=0, down=0):
        """Draw an arrow from (x, y)."""
        style = {"arrowstyle": "-|>", "mutation_scale": 20, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        ends = (x, y), (x + right, y - down)
        self.ax.add_patch(FancyArrowPatch(*ends, color=self.theme["faint"], **style))


def posterior(z, x, crop):
    """Return the posterior weights of training images through a window, by the formula."""
    logit = -np.square(z[crop] - x[(slice(None), *crop)]).sum((1, 2)) / (2 * SIGMA**2)
    weight = np.exp(logit - logit.max())
    return weight / weight.sum()


def images():
    """Return training images, and the clean, noisy, denoised and nearest training image."""
    digits = load_digits_images().images
    train, clean = np.delete(digits, DIGIT, axis=0), digits[DIGIT, 0] / 127.5 - 1
    z = clean + SIGMA * np.random.default_rng(SEED).standard_normal(clean.shape)
    denoised = PSPCDenoiser(SIZE).fit(train).denoise(z[None, None], SIGMA)
    nearest = EmpiricalDenoiser().fit(train).denoise(denoised, 0.0)
    return train[:, 0] / 127.5 - 1, clean, z, denoised[0, 0], nearest[0, 0]


def draw_wide(theme):
    """Return the picture that runs from left to right."""
    x, clean, z, denoised, nearest = images()
    canvas = Canvas(theme, 13, 5.5)
    side, bottom, left, right, middle = 2.7, 1.55, 0.3, 10.1, 3.62
    for start, image, title, subtitle, line in (
        (left, z, "Noisy image", NOISY, 4),
        (right, denoised, "Denoised image", AVERAGED, 2),
    ):
        canvas.framed(image, start, bottom, side, line)
        canvas.text(start + side / 2, 5.1, title, 22, "ink", weight="bold")
        canvas.text(start + side / 2, 4.72, subtitle)
    canvas.text(6.55, 5.1, "Patches", 22, "ink", weight="bold")
    label_columns(canvas, middle, 4.72, "training images and their weights", shown=3)
    for k, y in enumerate((3.28, 1.78, 0.28)):
        draw_window(canvas, z, x, k, middle, y, shown=3)
    for start in (3.08, 9.68):
        canvas.arrow(start, bottom + side / 2, right=0.36)

    for start, image, title in ((left, clean, CLEAN), (right, nearest, NEAREST)):
        canvas.image(image, start + side - 0.9, 0.28, 0.9)
        canvas.text(start + side - 1.05, 0.73, title, 11, ha="right")
    return canvas.finish()


def draw_tall(theme):
    """Return the picture that runs from top to bottom, with one training image less."""
    x, clean, z, denoised, nearest = images()
    canvas = Canvas(theme, 5.2, 10.6)
    side, left, beside = 1.9, 0.25, 2.4
    for y, image, title, subtitle, line, other, name in (
        (8.55, z, "Noisy image", NOISY, 4, clean, CLEAN),
        (0.15, denoised, "Denoised image", AVERAGED, 2, nearest, NEAREST),
    ):
        canvas.framed(image, left, y, side, line)
        canvas.text(beside, y + side, title, 20, "ink", weight="bold", ha="left", va="top")
        canvas.text(beside, y + side - 0.38, subtitle, 13, ha="left", va="top")
        canvas.image(other, beside, y, 0.8)
        canvas.text(beside + 0.9, y + 0.4, name, 12, ha="left")
    canvas.text(left, 7.9, "Patches", 20, "ink", weight="bold", ha="left")
    label_columns(canvas, left, 7.37, "training images\nand their weights", shown=2)
    for k, y in enumerate((5.8, 4.35, 2.9)):
        draw_window(canvas, z, x, k, left, y, shown=2)
    canvas.arrow(left + side / 2, 8.45, down=0.34)
    canvas.arrow(left + side / 2, 2.5, down=0.34)
    return canvas.finish()


def label_columns(canvas, left, y, label, shown):
    """Write the names of the three columns of patches: noisy, training images, mean."""
    first, last = columns(left, shown)
    canvas.text(left + PATCH / 2, y, "noisy")
    canvas.text((first + last - 0.1) / 2, y, label)
    canvas.text(last + 0.32 + PATCH / 2, y, "mean")


def columns(left, shown):
    """Return where the training images of a row begin and end, in inches."""
    return left + 1.06, left + 1.06 + 1.26 * shown


def draw_window(canvas, z, x, k, left, y, shown):
    """Draw one row: the noisy patch, training images with their weights, the mean."""
    corner, colour, side = CORNERS[k], COLOURS[k], 1.16
    crop = tuple(slice(start, start + SIZE) for start in corner)
    weight = posterior(z, x, crop)
    y_patch = y + (side - PATCH) / 2
    first, last = columns(left, shown)
    for start, patch in ((left, z[crop]), (last + 0.32, np.tensordot(weight, x, 1)[crop])):
        canvas.image(patch, start, y_patch, PATCH)
        canvas.frame(start, y_patch, PATCH, colour, 3)
    for column, i in enumerate(np.argsort(-weight)[:shown]):
        start = first + 1.26 * column
        canvas.image(x[i], start, y, side, alpha=0.3)
        seen = np.full(x[i].shape, np.nan)
        seen[crop] = x[i][crop]
        canvas.image(seen, start, y, side)
        canvas.window(corner, start, y, side, colour, 2.5)
        canvas.text(start + side / 2, y - 0.14, f"{100 * weight[i]:.0f} %", 11, "ink")
    canvas.text(last - 0.01, y + side / 2, "…", 18, ha="left")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in (("idea", draw_wide), ("idea-tall", draw_tall)):
        for theme in THEMES:
            figure = draw(theme)
            path = FOLDER / f"{name}-{theme}.png"
            figure.savefig(path, dpi=130, facecolor=figure.get_facecolor())
