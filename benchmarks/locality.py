"""How far trained networks, and denoisers with nothing trained, look around a pixel.

    python benchmarks/locality.py --networks path/to/networks.py \
        --mnist path/to/mnist.zip --cifar path/to/cifar10.zip

prints the median locality radius: the side of the smallest odd square around a pixel that holds
half of its heat map, over nine pixels in the middle of the image; in brackets, the percentage of
the heat in the 7 x 7 pixels around them. Both are 0 where nothing moves a pixel. Heat maps are
means over 16 noisy training images, of 2,000 that are drawn from the archive. ``--picture folder``
draws them too.

``networks.py`` has the functions named in NETWORKS, which return ``denoise(z, sigma)``.
"""

import argparse
import importlib.util
from itertools import product
from pathlib import Path

import numpy as np

from skpspc import EmpiricalDenoiser, GaussianDenoiser, NetworkDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.inspection import SensitivityDisplay, heat_maps, locality_radius

# The noise levels at which each network is at home.
NETWORKS = {
    "mnist": {
        "mnist_ddpm_cnn": (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0),
        "mnist_flow_vit": (1.0, 2.0, 3.0, 5.0, 10.0),
    },
    "cifar": {"gray_bf_dncnn": (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)},
}
NEAR = 3  # pixels to each side


def middle(sides):
    """Nine pixels around the middle of an image, two apart."""
    rows, columns = ((side // 2 - 2, side // 2, side // 2 + 2) for side in sides)
    return np.array(list(product(rows, columns)))


def share_nearby(heat, pixels):
    """Share of the maps (L, m, H, W) that is near their pixels, (L,); 0 where they are zero."""
    near = np.zeros(heat.shape[1:], dtype=bool)
    for mask, (row, column) in zip(near, pixels, strict=True):
        top, left = max(0, row - NEAR), max(0, column - NEAR)
        mask[top : row + NEAR + 1, left : column + NEAR + 1] = True
    total = heat.sum((2, 3))
    return ((heat * near).sum((2, 3)) / np.where(total > 0, total, 1)).mean(1)


def print_table(title, X, denoisers, sigmas, picture):
    """One line for each denoiser."""
    pixels = middle(X.shape[2:])
    print(f"\n{title}\n")
    print("sigma".ljust(12), *(f"{sigma:>9g}" for sigma in sigmas))
    for name, denoiser in denoisers.items():
        heat = heat_maps(denoiser, X, sigmas, pixels=pixels, n_images=16)
        radii = np.median(locality_radius(heat, pixels=pixels), axis=1)
        cells = zip(radii, 100 * share_nearby(heat, pixels), strict=True)
        print(name.ljust(12), *(f"{side:>4g} ({share:2.0f})" for side, share in cells), flush=True)
        if picture is not None:
            show = SensitivityDisplay.from_predictions
            display = show(heat[:, [4, 0]], sigmas, pixels=pixels[[4, 0]], name=f"{title}: {name}")
            display.figure_.savefig(picture / f"{title.split(',')[0]}-{name}.png", dpi=120)


def load_cases(options):
    """Title, images and networks of the data asked for, from files."""
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
    options = parser.parse_args(arguments)
    for title, images, networks in load_cases(options) if cases is None else cases:
        denoisers = {
            "PSPC": PSPCDenoiser(),
            "Gaussian": GaussianDenoiser(),
            "empirical": EmpiricalDenoiser(),
        }
        for denoiser in denoisers.values():
            denoiser.fit(images)
        for name, (network, sigmas) in networks.items():
            network = NetworkDenoiser(network, condition="float").fit(images)
            several = {"network": network, **denoisers}
            print_table(f"{name}, {title}", images, several, sigmas, options.picture)


if __name__ == "__main__":
    main()
