"""Draw the samples of the front page: horses and ships of CIFAR-10, from noise.

    python benchmarks/front_page.py --data path/to/cifar10-32x32.zip

writes docs/_static/samples-light.png and samples-dark.png, and the seconds that fitting and
sampling took, without reading the archive. Every sample stands above the training image that is
nearest to it.
"""

import argparse
import time
from pathlib import Path

import _results
import matplotlib.pyplot as plt
import numpy as np

from skpspc import PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.inspection import nearest_training_images

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "_static"
CLASSES = ("horse",) * 5 + ("ship",) * 5
THEMES = {"light": ("#ffffff", "#222832"), "dark": ("#14181e", "#ced6dd")}
GAP = 2  # pixels between images


def strip(images):
    """Return images (n, 3, H, W) beside one another, (H, W', 4), with transparent gaps."""
    rgb = np.clip((images.transpose(0, 2, 3, 1) + 1) / 2, 0, 1)
    rgba = np.concatenate([rgb, np.ones((*rgb.shape[:3], 1))], axis=3)
    return np.hstack(np.pad(rgba, ((0, 0), (0, 0), (0, GAP), (0, 0))))[:, :-GAP]


def draw(rows, theme):
    """Draw titled rows of images in the colours of a theme."""
    paper, ink = THEMES[theme]
    figure, axes = plt.subplots(len(rows), figsize=(9, 2.5), facecolor=paper, layout="constrained")
    for ax, (title, images) in zip(axes, rows.items(), strict=True):
        ax.imshow(strip(images), interpolation="nearest")
        ax.set_title(title, loc="left", color=ink, fontsize=11)
        ax.axis("off")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10 as a zip file in the layout of EDM")
    _results.add_argument(parser)
    options = parser.parse_args()
    cifar = load_edm_zip(options.data)

    start = time.perf_counter()
    model = PSPCDenoiser().fit(cifar.images, cifar.target)
    labels = [cifar.classes.index(name) for name in CLASSES]
    samples = model.sample(len(labels), y=labels, random_state=0, sampler="heun")
    seconds = time.perf_counter() - start
    row = {"n_samples": len(labels), "n_train": len(cifar.images), "seconds": seconds}
    _results.write(options.out, "front-page", _results.printed("samples", [row]))

    _, indices = nearest_training_images(samples, cifar.images)
    rows = {
        "Samples: horses and ships drawn from noise": samples,
        "Nearest training image of each sample": cifar.images[indices[:, 0]] / 127.5 - 1,
    }
    for theme in THEMES:
        figure = draw(rows, theme)
        path = FOLDER / f"samples-{theme}.png"
        figure.savefig(path, dpi=200, facecolor=figure.get_facecolor())


if __name__ == "__main__":
    main()
