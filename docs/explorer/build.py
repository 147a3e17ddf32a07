"""Write the explorer, one HTML page that contains its images and needs no server.

    python docs/explorer/build.py explorer.html

As a Sphinx extension, write the page to ``_static/explorer.html`` of the built site.
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np

from skpspc.datasets import load_digits_images

TEMPLATE = Path(__file__).with_name("explorer.html")
N_TRAIN = 500


def split():
    """Return the training images, and one held-out digit of each class in the order of classes.

    Returns
    -------
    train, train_labels, test, test_labels : arrays
        Images (n, 8, 8) uint8 and their labels.
    """
    digits = load_digits_images()
    images, labels = digits.images[:, 0], digits.target
    order = np.random.default_rng(0).permutation(len(labels))
    held_out = np.array([order[labels[order] == label][0] for label in range(10)])
    train = order[~np.isin(order, held_out)][:N_TRAIN]
    return images[train], labels[train], images[held_out], labels[held_out]


def build(out_path):
    """Write the page.

    Parameters
    ----------
    out_path : path-like
        The HTML file; its folder is created if missing.
    """
    train, train_labels, test, test_labels = split()
    data = {
        "side": train.shape[-1],
        "train": base64.b64encode(train.tobytes()).decode(),
        "trainLabels": "".join(map(str, train_labels)),
        "test": base64.b64encode(test.tobytes()).decode(),
        "testLabels": "".join(map(str, test_labels)),
    }
    page = TEMPLATE.read_text(encoding="utf-8").replace("{{data}}", json.dumps(data))
    out_path = Path(out_path)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    out_path.write_text(page, encoding="utf-8")


def setup(app):
    """Register the function that writes the page after the site is built."""

    def build_finished(app, exception):
        if exception is None and app.builder.format == "html":
            build(Path(app.outdir) / "_static" / "explorer.html")

    app.connect("build-finished", build_finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    build(sys.argv[1])
