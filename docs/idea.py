"""Draw the picture of the front page: noise, windows, training images, composite.

    python docs/idea.py

writes docs/_static/idea-light.png and idea-dark.png.
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
SHOWN = 3  # training images a window
COLOURS = ("#e08a00", "#d6457a", "#12946f")  # told apart by the colour-blind too
THEMES = {
    "light": {"paper": "#ffffff", "ink": "#111827", "faint": "#5b6472", "blank": "#eaf0f8"}
    | {"stroke": "#0b2a5b"},
    "dark": {"paper": "#14181e", "ink": "#f3f4f6", "faint": "#a3adba", "blank": "#222b37"}
    | {"stroke": "#cfe3ff"},
}
WIDTH, HEIGHT = 13, 5.5
BIG, SMALL, PATCH = 2.7, 1.16, 0.84
LEFT, RIGHT = 0.3, 10.1  # of the noisy image, of the composite
BOTTOM = 1.55
ROWS = (3.28, 1.78, 0.28)


class Canvas:
    """Pictures at places of one figure, in inches.

    Parameters
    ----------
    theme : {"light", "dark"}
    """

    def __init__(self, theme):
        self.theme = THEMES[theme]
        self.colours = LinearSegmentedColormap.from_list(
            theme, [self.theme["blank"], self.theme["stroke"]]
        )
        self.figure = plt.figure(figsize=(WIDTH, HEIGHT), facecolor=self.theme["paper"])
        self.ax = self.figure.add_axes((0, 0, 1, 1))
        self.ax.axis("off")

    def finish(self):
        """The figure."""
        self.ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="auto")
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

    def arrow(self, x, y, length):
        """An arrow to the right."""
        style = {"arrowstyle": "-|>", "mutation_scale": 20, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        ends = (x, y), (x + length, y)
        self.ax.add_patch(FancyArrowPatch(*ends, color=self.theme["faint"], **style))


def posterior(z, x, crop):
    """Weights of training images in the posterior of a window, by the formula."""
    logit = -np.square(z[crop] - x[(slice(None), *crop)]).sum((1, 2)) / (2 * SIGMA**2)
    weight = np.exp(logit - logit.max())
    return weight / weight.sum()


def draw(theme):
    """The whole picture."""
    digits = load_digits_images().images
    train, clean = np.delete(digits, DIGIT, axis=0), digits[DIGIT, 0] / 127.5 - 1
    x = train[:, 0] / 127.5 - 1
    z = clean + SIGMA * np.random.default_rng(SEED).standard_normal(clean.shape)
    composite = PSPCDenoiser(SIZE).fit(train).denoise(z[None, None], SIGMA)
    nearest = EmpiricalDenoiser().fit(train).denoise(composite, 0.0)

    canvas = Canvas(theme)
    middle = BOTTOM + BIG / 2
    for place, image, title, line in (
        (LEFT, z, "noise", 4),
        (RIGHT, composite[0, 0], "composite", 2),
    ):
        canvas.image(image, place, BOTTOM, BIG)
        canvas.text(place + BIG / 2, 5.1, title, 22, "ink", weight="bold")
        for corner, colour in zip(CORNERS, COLOURS, strict=True):
            canvas.window(corner, place, BOTTOM, BIG, colour, line)
    canvas.text(6.55, 5.1, "patches", 22, "ink", weight="bold")
    canvas.text(LEFT + BIG / 2, 4.72, f"an image + {SIGMA} × noise")
    canvas.text(6.55, 4.72, "the same place in the training images: how well does it fit?")
    canvas.text(RIGHT + BIG / 2, 4.72, "the means, averaged in place")
    for row, corner, colour in zip(ROWS, CORNERS, COLOURS, strict=True):
        draw_window(canvas, z, x, corner, colour, row)
    canvas.arrow(3.08, middle, 0.36)
    canvas.arrow(9.68, middle, 0.36)

    below = ((LEFT, clean, "the image"), (RIGHT, nearest[0, 0], "nearest\ntraining image"))
    for place, image, title in below:
        canvas.image(image, place + BIG - 0.9, 0.28, 0.9)
        canvas.text(place + BIG - 1.05, 0.73, title, 11, ha="right")
    return canvas.finish()


def draw_window(canvas, z, x, corner, colour, y):
    """One row: the noisy patch, training images with their weights, the mean."""
    crop = tuple(slice(start, start + SIZE) for start in corner)
    weight = posterior(z, x, crop)
    y_patch = y + (SMALL - PATCH) / 2
    first = 4.68
    for place, patch in ((3.62, z[crop]), (8.78, np.tensordot(weight, x, 1)[crop])):
        canvas.image(patch, place, y_patch, PATCH)
        canvas.frame(place, y_patch, PATCH, colour, 3)
    for place, i in enumerate(np.argsort(-weight)[:SHOWN]):
        left = first + 1.26 * place
        canvas.image(x[i], left, y, SMALL, alpha=0.3)
        seen = np.full(x[i].shape, np.nan)
        seen[crop] = x[i][crop]
        canvas.image(seen, left, y, SMALL)
        canvas.window(corner, left, y, SMALL, colour, 2.5)
        canvas.text(left + SMALL / 2, y - 0.14, f"{100 * weight[i]:.0f} %", 11, "ink")
    canvas.text(first + 1.26 * SHOWN - 0.01, y + SMALL / 2, "…", 18, ha="left")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for theme in THEMES:
        figure = draw(theme)
        figure.savefig(FOLDER / f"idea-{theme}.png", dpi=130, facecolor=figure.get_facecolor())
