"""Draw the picture of the front page: noise, windows, training images, composite.

    python docs/idea.py

writes docs/_static/idea-light.png and idea-dark.png, side by side for wide screens, and
idea-tall-light.png and idea-tall-dark.png, one below the other for phones.
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
COLOURS = ("#e08a00", "#d6457a", "#12946f")  # told apart by the colour-blind too
THEMES = {
    "light": {"paper": "#ffffff", "ink": "#111827", "faint": "#5b6472", "blank": "#eaf0f8"}
    | {"stroke": "#0b2a5b"},
    "dark": {"paper": "#14181e", "ink": "#f3f4f6", "faint": "#a3adba", "blank": "#222b37"}
    | {"stroke": "#cfe3ff"},
}
PATCH = 0.84
NEAREST = "nearest\ntraining image"


class Canvas:
    """Pictures at places of one figure, in inches.

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
        """The figure."""
        width, height = self.figure.get_size_inches()
        self.ax.set(xlim=(0, width), ylim=(0, height), aspect="auto")
        return self.figure

    def image(self, image, x, y, side, alpha=1.0):
        """A picture whose lower left corner is (x, y)."""
        extent = (x, x + side, y, y + side)
        options = {"vmin": -1, "vmax": 1, "extent": extent, "interpolation": "nearest"}
        self.ax.imshow(image, self.colours, alpha=alpha, **options)

    def frame(self, x, y, side, colour, line):
        """A square."""
        box = Rectangle((x, y), side, side, fill=False, ec=colour, lw=line, zorder=5)
        box.set_joinstyle("round")
        self.ax.add_patch(box)

    def window(self, corner, x, y, side, colour, line):
        """The frame of a window in a picture of 8 x 8 pixels."""
        top, left = corner
        pixel = side / 8
        self.frame(x + left * pixel, y + side - (top + SIZE) * pixel, SIZE * pixel, colour, line)

    def text(self, x, y, text, size=12, colour="faint", **options):
        """A text around (x, y)."""
        options = {"ha": "center", "va": "center", **options}
        self.ax.text(x, y, text, size=size, color=self.theme[colour], **options)

    def framed(self, image, x, y, side, line):
        """A picture with the windows in it."""
        self.image(image, x, y, side)
        for corner, colour in zip(CORNERS, COLOURS, strict=True):
            self.window(corner, x, y, side, colour, line)

    def arrow(self, x, y, right=0, down=0):
        """An arrow from (x, y)."""
        style = {"arrowstyle": "-|>", "mutation_scale": 20, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        ends = (x, y), (x + right, y - down)
        self.ax.add_patch(FancyArrowPatch(*ends, color=self.theme["faint"], **style))


def posterior(z, x, crop):
    """Weights of training images in the posterior of a window, by the formula."""
    logit = -np.square(z[crop] - x[(slice(None), *crop)]).sum((1, 2)) / (2 * SIGMA**2)
    weight = np.exp(logit - logit.max())
    return weight / weight.sum()


def images():
    """Training images, the clean image, the noisy one, what PSPC makes of it, and its nearest."""
    digits = load_digits_images().images
    train, clean = np.delete(digits, DIGIT, axis=0), digits[DIGIT, 0] / 127.5 - 1
    z = clean + SIGMA * np.random.default_rng(SEED).standard_normal(clean.shape)
    composite = PSPCDenoiser(SIZE).fit(train).denoise(z[None, None], SIGMA)
    nearest = EmpiricalDenoiser().fit(train).denoise(composite, 0.0)
    return train[:, 0] / 127.5 - 1, clean, z, composite[0, 0], nearest[0, 0]


def draw_wide(theme):
    """From left to right."""
    x, clean, z, composite, nearest = images()
    canvas = Canvas(theme, 13, 5.5)
    side, bottom, left, right = 2.7, 1.55, 0.3, 10.1
    for place, image, title, told, line in (
        (left, z, "noise", f"an image + {SIGMA} × noise", 4),
        (right, composite, "composite", "the means, averaged in place", 2),
    ):
        canvas.framed(image, place, bottom, side, line)
        canvas.text(place + side / 2, 5.1, title, 22, "ink", weight="bold")
        canvas.text(place + side / 2, 4.72, told)
    canvas.text(6.55, 5.1, "patches", 22, "ink", weight="bold")
    canvas.text(6.55, 4.72, "the same place in the training images: how well does it fit?")
    for k, y in enumerate((3.28, 1.78, 0.28)):
        draw_window(canvas, z, x, k, 3.62, y, shown=3)
    for place in (3.08, 9.68):
        canvas.arrow(place, bottom + side / 2, right=0.36)

    below = ((left, clean, "the image"), (right, nearest, NEAREST))
    for place, image, title in below:
        canvas.image(image, place + side - 0.9, 0.28, 0.9)
        canvas.text(place + side - 1.05, 0.73, title, 11, ha="right")
    return canvas.finish()


def draw_tall(theme):
    """From top to bottom, with one training image less."""
    x, clean, z, composite, nearest = images()
    canvas = Canvas(theme, 5.2, 10.6)
    side, left, beside = 1.9, 0.25, 2.4
    for y, image, title, told, line, other, name in (
        (8.55, z, "noise", f"an image + {SIGMA} × noise", 4, clean, "the image"),
        (0.15, composite, "composite", "the means,\naveraged in place", 2, nearest, NEAREST),
    ):
        canvas.framed(image, left, y, side, line)
        canvas.text(beside, y + side, title, 20, "ink", weight="bold", ha="left", va="top")
        canvas.text(beside, y + side - 0.38, told, 13, ha="left", va="top")
        canvas.image(other, beside, y, 0.8)
        canvas.text(beside + 0.9, y + 0.4, name, 12, ha="left")
    canvas.text(left, 7.9, "patches", 20, "ink", weight="bold", ha="left")
    canvas.text(left, 7.53, "the same place in the training images:", 13, ha="left")
    canvas.text(left, 7.26, "how well does it fit?", 13, ha="left")
    for k, y in enumerate((5.8, 4.35, 2.9)):
        draw_window(canvas, z, x, k, left, y, shown=2)
    canvas.arrow(left + side / 2, 8.45, down=0.34)
    canvas.arrow(left + side / 2, 2.5, down=0.34)
    return canvas.finish()


def draw_window(canvas, z, x, k, left, y, shown):
    """One row: the noisy patch, training images with their weights, the mean."""
    corner, colour, side = CORNERS[k], COLOURS[k], 1.16
    crop = tuple(slice(start, start + SIZE) for start in corner)
    weight = posterior(z, x, crop)
    y_patch = y + (side - PATCH) / 2
    first, last = left + 1.06, left + 1.06 + 1.26 * shown
    for place, patch in ((left, z[crop]), (last + 0.32, np.tensordot(weight, x, 1)[crop])):
        canvas.image(patch, place, y_patch, PATCH)
        canvas.frame(place, y_patch, PATCH, colour, 3)
    for place, i in enumerate(np.argsort(-weight)[:shown]):
        start = first + 1.26 * place
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
