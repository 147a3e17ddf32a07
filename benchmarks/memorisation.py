"""Patch sizes at the edge of memorisation, beside the sizes that denoise held-out images best.

    python benchmarks/memorisation.py --mnist path/to/mnist.zip --cifar path/to/cifar10.zip \
        --faces path/to/faces.zip

writes ``memorisation.csv``. Training images and 64 held-out images are drawn from each archive.
``edge`` is the largest patch size whose windows hold less information than log N, and ``critical``
the side at which the information equals log N, interpolated. ``predicted`` is the critical side by
the variance of a pixel. ``calibrated`` is the size of least mean squared error on the held-out
images. ``ratio`` is the error at the edge over the error at the calibrated size, ``information``
the information at the calibrated size over log N. ``gap`` is the largest root mean square distance
between the posterior means given a window in the middle and given the whole image, over all sizes,
on noisy training images.
"""

import argparse
from pathlib import Path

import _results
import numpy as np

from skpspc import PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.inspection import calibrate_patch_size, information_curve, local_equivalence

SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0)
SIZES = (1, 2, 3, 4, 5, 7, 9, 13, 19, 28, 32, 45, 64)
N_HELD_OUT = 64
N_TRAIN = {"mnist": 3000, "cifar": 3000, "faces": 1500}


def measure(train, held_out, sigmas, verbose):
    """Yield a row for each noise level."""
    sizes = [size for size in SIZES if size <= train.shape[-1]]
    curve = information_curve(train, sigmas, sizes, held_out=held_out, verbose=verbose)
    _, table = calibrate_patch_size(
        PSPCDenoiser(), train, sigmas, sizes=sizes, held_out=held_out, verbose=verbose
    )
    gaps = local_equivalence(train, sigmas, sizes, n_images=32, verbose=verbose).gap
    errors = table.errors
    for k, sigma in enumerate(curve.sigmas):
        edge, best = (sizes.index(size) for size in (curve.edge_sizes[k], table.chosen[k]))
        yield {
            "sigma": float(sigma),
            "calibrated": sizes[best],
            "edge": sizes[edge],
            "critical": float(curve.critical_sizes[k]),
            "predicted": float(curve.predicted_sizes[k]),
            "ratio": float(errors[k, edge] / errors[k, best]),
            "information": float(curve.information[k, best] / curve.log_n),
            "entropy": float(curve.entropy[k, best] / curve.log_n),
            "coverage": float(curve.coverage[k, best]),
            "gap": float(gaps[k].max()),
        }


def load_cases(options):
    """Yield name, training images and held-out images of each archive."""
    for name in options.only:
        images = load_edm_zip(getattr(options, name)).images
        # archives are sorted by class
        drawn = np.random.default_rng(0).permutation(len(images))
        n_train = options.n_train or N_TRAIN[name]
        held_out = images[np.sort(drawn[n_train : n_train + N_HELD_OUT])]
        yield name, images[np.sort(drawn[:n_train])], held_out


def main(arguments=None, cases=None):
    """Parse the command line and run; cases stand in for those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path("../shared/data")
    parser.add_argument("--mnist", type=Path, default=shared / "mnist-28x28.zip")
    parser.add_argument("--cifar", type=Path, default=shared / "cifar10-32x32.zip")
    parser.add_argument("--faces", type=Path, default=shared / "faces-64x64.zip")
    parser.add_argument("--only", nargs="+", choices=N_TRAIN, default=list(N_TRAIN))
    parser.add_argument("--n-train", type=int, help="training images; default 3000, faces 1500")
    parser.add_argument("--sigmas", nargs="+", type=float, default=SIGMAS)
    parser.add_argument("--verbose", type=int, default=0)
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    rows = []
    for name, train, held_out in load_cases(options) if cases is None else cases:
        measured = measure(train, held_out, options.sigmas, options.verbose)
        labels = {"images": name, "n_train": len(train)}
        rows += [{**labels, **row} for row in _results.printed(name, measured)]
        _results.write(options.out, "memorisation", rows)


if __name__ == "__main__":
    main()
