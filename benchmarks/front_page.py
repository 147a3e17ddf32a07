"""Draw the samples of the front page: horses and ships of CIFAR-10, from noise.

    python benchmarks/front_page.py --data path/to/cifar10-32x32.zip

writes docs/_static/samples-light.png and samples-dark.png, and the seconds that fitting and
sampling took, without reading the archive. Every sample stands above the training image that is
nearest to it.
"""

import argparse
import sys
import time
from pathlib import Path

import _results
import matplotlib.pyplot as plt

from skpspc import PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.inspection import ImageGridDisplay, nearest_training_images

sys.path.append(str(Path(__file__).resolve().parents[1] / "docs" / "_ext"))
from themes import save_for_themes

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "_static" / "samples"

CLASSES = ("horse",) * 5 + ("ship",) * 5


def draw(rows):
    """Draw a row of images below each heading."""
    figure, axes = plt.subplots(len(rows), figsize=(6.5, 2.05), layout="constrained")
    with plt.rc_context({"font.size": 12}):  # legible on a phone, 350 pixels wide
        for ax, (heading, images) in zip(axes, rows.items(), strict=True):
            options = {"heading": heading, "n_columns": len(images), "ax": ax}
            ImageGridDisplay.from_predictions(images, **options)
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
        "Nearest training image of each sample": cifar.images[indices[:, 0]],
    }
    save_for_themes(draw(rows), PICTURE, transparent=False)


if __name__ == "__main__":
    main()
