"""Sizes of the neighbourhoods that networks, and denoisers without training, look at.

    python benchmarks/locality.py --networks path/to/networks.py \
        --mnist path/to/mnist.zip --cifar path/to/cifar10.zip

writes ``locality.csv``. The column ``side`` is the side in pixels of the smallest odd square around
a pixel that holds half of its heat map, the median over nine pixels in the middle of the image.
``percent_nearby`` is the percentage of the heat in the 7 x 7 pixels around them. Both are 0 where
no pixel of the noisy image changes the answer. Heat maps are means over 16 noisy training images,
of 2,000 that are drawn from the archive. ``--picture folder`` draws them too.

``networks.py`` has the functions named in NETWORKS, which return ``denoise(z, sigma)``.
"""

import argparse
import importlib.util
from itertools import product
from pathlib import Path

import _results
import numpy as np

from skpspc import EmpiricalDenoiser, GaussianDenoiser, NetworkDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.inspection import SensitivityDisplay, heat_maps, locality_radius

# The noise levels that each network denoises well.
NETWORKS = {
    "mnist": {
        "mnist_ddpm_cnn": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0),
        "mnist_flow_vit": (1.0, 2.0, 3.0, 5.0, 10.0),
    },
    "cifar": {"gray_bf_dncnn": (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)},
}
NEAR = 3  # pixels to each side


def middle(sides):
    """Return nine pixels around the middle of an image, two apart."""
    rows, columns = ((side // 2 - 2, side // 2, side // 2 + 2) for side in sides)
    return np.array(list(product(rows, columns)))


def fraction_nearby(heat, pixels):
    """Return the fraction of maps (L, m, H, W) that is close to their pixels, (L,); 0 for zeros."""
    near = np.zeros(heat.shape[1:], dtype=bool)
    for mask, (row, column) in zip(near, pixels, strict=True):
        top, left = max(0, row - NEAR), max(0, column - NEAR)
        mask[top : row + NEAR + 1, left : column + NEAR + 1] = True
    total = heat.sum((2, 3))
    return ((heat * near).sum((2, 3)) / np.where(total > 0, total, 1)).mean(1)


def measure(title, X, denoisers, sigmas, picture):
    """Yield a row for each denoiser and noise level."""
    pixels = middle(X.shape[2:])
    for name, denoiser in denoisers.items():
        heat = heat_maps(denoiser, X, sigmas, pixels=pixels, n_images=16)
        radii = np.median(locality_radius(heat, pixels=pixels), axis=1)
        nearby = 100 * fraction_nearby(heat, pixels)
        for sigma, side, percent in zip(sigmas, radii, nearby, strict=True):
            row = {"denoiser": name, "sigma": sigma, "side": float(side)}
            yield {**row, "percent_nearby": round(float(percent))}
        if picture is not None:
            show = SensitivityDisplay.from_predictions
            display = show(heat[:, [4, 0]], sigmas, pixels=pixels[[4, 0]], name=f"{title}: {name}")
            display.figure_.savefig(picture / f"{title.split(',')[0]}-{name}.png", dpi=120)


def load_cases(options):
    """Yield title, images and networks of the data that the command line names."""
    spec = importlib.util.spec_from_file_location("networks", options.networks)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for data in options.only:
        images = load_edm_zip(getattr(options, data)).images
        # archives are sorted by class
        chosen = np.random.default_rng(0).permutation(len(images))[: options.n_train]
        gray = np.rint(images[chosen].mean(1, keepdims=True)).astype(np.uint8)
        networks = {name: (getattr(module, name)(), s) for name, s in NETWORKS[data].items()}
        yield data, gray, networks


def main(arguments=None, cases=None):
    """Parse the command line and run; cases stand in for those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path("../shared")
    parser.add_argument("--networks", type=Path, default=shared / "networks/networks.py")
    parser.add_argument("--mnist", type=Path, default=shared / "data/mnist-28x28.zip")
    parser.add_argument("--cifar", type=Path, default=shared / "data/cifar10-32x32.zip")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--n-train", type=int, default=2000)
    parser.add_argument("--picture", type=Path, help="folder to draw the heat maps into")
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    rows = []
    for images_name, images, networks in load_cases(options) if cases is None else cases:
        denoisers = {
            "PSPC": PSPCDenoiser(),
            "Gaussian": GaussianDenoiser(),
            "empirical": EmpiricalDenoiser(),
        }
        for denoiser in denoisers.values():
            denoiser.fit(images)
        for name, (network, sigmas) in networks.items():
            network = NetworkDenoiser(network, condition="float").fit(images)
            title, several = f"{name}, {images_name}", {"network": network, **denoisers}
            measured = measure(title, images, several, sigmas, options.picture)
            labels = {"network": name, "images": images_name, "n_train": len(images)}
            rows += [{**labels, **row} for row in _results.printed(title, measured)]
            _results.write(options.out, "locality", rows)


if __name__ == "__main__":
    main()
