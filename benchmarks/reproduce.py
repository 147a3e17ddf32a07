"""The evidence of the paper, measured again with other networks: differences, heat maps, samples.

    python benchmarks/reproduce.py --data path/to/cifar10.zip --out docs/reproduction

writes tables as CSV, and heat maps and samples as npz, into a folder; the page docs/evidence.rst
draws them. ``--only`` names some of the parts. The networks are the three of `networks.py`, whose
weights are in ``benchmarks/weights``.

The tables follow Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model
Generalization", ICML 2025, arXiv:2411.19339. Noisy images are training images with noise (the
forward process), or the states of the network's sampler (the reverse process).
"""

import argparse
import time
from functools import cached_property
from itertools import product
from pathlib import Path

import _results
import networks
import numpy as np
import torch

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    NetworkDenoiser,
    PSPCDenoiser,
)
from skpspc.datasets import load_edm_zip
from skpspc.inspection import (
    calibrate_patch_size,
    calibrate_thresholds,
    compare,
    cosine,
    error_curve,
    heat_maps,
    locality_radius,
    memorised_fraction,
    nearest_training_distance,
    pearson_r,
    spread_heat_maps,
)
from skpspc.sampling import edm_sigmas

SIGMAS = (0.3, 0.6, 1.1, 1.9, 3.3)
SIZES = (2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 19, 23, 27, 32)
# Of the heat, in flexible windows. Finest where a step is a third of the pixels or more.
FRACTIONS = (0.3, 0.325, 0.35, 0.375, 0.4, 0.45, 0.5, 0.6)
N_HELD_OUT = 16  # training images on which sizes and fractions are chosen
N_SEARCHED = 10_000  # training images of PSPC-Flex while fractions are chosen, for speed
N_DRAWN = 10  # samples in the picture
# Rows and columns of pixels whose heat represents all pixels: every place in tokens of 4.
PLACES = (2, 5, 8, 11, 16, 19, 26, 29)
OPTIMAL, GAUSSIAN, PAPER = "Optimal", "Gaussian", "PSPC-Square, paper's sizes"


class Study:
    """Images, networks, and the denoisers that are compared with them, each fitted once."""

    def __init__(self, train, out, *, n=64, weights=networks.WEIGHTS, device="cpu"):
        self.train, self.out, self.n, self.device = train, out, n, device
        # Choices are made on the held-out images, errors reported on the others.
        self.held_out, self.reported = train[-N_HELD_OUT:], train[:-N_HELD_OUT]
        self.networks = {}
        for name in networks.ARCHITECTURES:
            module, trained = networks.load(name, weights)
            network = NetworkDenoiser(
                module.to(device), "edm", sigma_data=trained["sigma_data"], batch_size=64
            )
            self.networks[name] = network.fit(train[:1])

    def square(self, patch_size="paper"):
        """Return PSPC-Square, not fitted."""
        return PSPCDenoiser(patch_size, device=self.device)

    @cached_property
    def whole(self):
        """Denoisers of all training images that use no network."""
        members = {
            OPTIMAL: EmpiricalDenoiser(device=self.device),
            GAUSSIAN: GaussianDenoiser(device=self.device),
            PAPER: self.square(),
        }
        return {name: model.fit(self.train) for name, model in members.items()}

    def calibrated(self, name):
        """Return denoisers calibrated to a network: label to (model, settings at SIGMAS)."""
        network = self.networks[name]
        schedule, _ = calibrate_patch_size(
            self.square(),
            self.train,
            SIGMAS,
            sizes=[size for size in SIZES if size <= self.train.shape[-1]],
            against=network,
            held_out=self.held_out,
        )
        pixels = list(product(PLACES, PLACES))
        heat = heat_maps(network, self.held_out, SIGMAS, pixels=pixels)
        heat = spread_heat_maps(heat, pixels)
        square = self.square(schedule).fit(self.train)
        return {
            f"PSPC-Square, sizes chosen for {name}": (square, [schedule(s) for s in SIGMAS]),
            f"PSPC-Flex, heat of the data, chosen for {name}": self._flexible("data", network),
            f"PSPC-Flex, heat of {name}": self._flexible(heat, network),
        }

    def _flexible(self, heat, network):
        """Return PSPC-Flex of heat maps and its fractions, chosen as the sizes are."""

        def model(fractions):
            windows = FlexibleWindows(heat, fractions, SIGMAS)
            return PSPCDenoiser(windows=windows, device=self.device)

        fractions, _ = calibrate_thresholds(
            model(FRACTIONS[0]),
            self.train[-N_SEARCHED:],
            thresholds=FRACTIONS,
            against=network,
            held_out=self.held_out,
        )
        return model(fractions).fit(self.train), [float(fraction) for fraction in fractions]

    def write(self, name, rows):
        """Write a CSV file."""
        _results.write(self.out, name, rows, n=self.n, n_train=len(self.train))


def curve(study):
    """Measure how far networks are from the optimal denoiser at the sampler's noise levels."""
    sigmas = [float(s) for s in edm_sigmas(18)]
    table = error_curve(
        study.networks, study.reported, sigmas, against=study.whole[OPTIMAL], n=study.n
    )
    rows = [
        {
            "denoiser": name,
            "sigma": float(sigma),
            "error": float(table.errors[level, m]),
            "standard_error": float(table.standard_errors[level, m]),
        }
        for m, name in enumerate(table.names)
        for level, sigma in enumerate(table.sigmas)
    ]
    study.write("curve", rows)


def tables(study):
    """Measure the paper's two tables: distances from each network, and between all denoisers."""
    chosen = {name: study.calibrated(name) for name in study.networks}
    plain = {**study.networks, **study.whole}
    models = {k: model for members in chosen.values() for k, (model, _) in members.items()}
    pairs = compare({**plain, **models}, study.reported, SIGMAS, n=study.n)
    names, rows = pairs.names, []
    for name, network in study.networks.items():
        settings = {label: setting for label, (_, setting) in chosen[name].items()}
        members = [*study.whole, *settings]
        column = pairs.errors[:, names.index(name)]
        forward = {k: column[:, names.index(k)] for k in members}
        rows += difference_rows(name, "forward", forward, settings)
        table = error_curve(
            {k: {**study.whole, **models}[k] for k in members},
            study.reported,
            SIGMAS,
            against=network,
            process="reverse",
            n=study.n // 2,
        )
        reverse = dict(zip(table.names, table.errors.T, strict=True))
        rows += difference_rows(name, "reverse", reverse, settings)
    study.write("differences", rows)
    study.write(
        "pairs",
        [
            {"sigma": sigma, "denoiser": a, "other": b, "error": float(pairs.errors[level, i, j])}
            for level, sigma in enumerate(SIGMAS)
            for a, i in ((a, names.index(a)) for a in plain)
            for b, j in ((b, names.index(b)) for b in plain)
        ],
    )


def difference_rows(network, process, errors, settings):
    """Return a row for each denoiser and noise level."""
    return [
        {
            "network": network,
            "process": process,
            "denoiser": name,
            "setting": settings[name][level] if name in settings else "",
            "sigma": sigma,
            "error": float(column[level]),
        }
        for name, column in errors.items()
        for level, sigma in enumerate(SIGMAS)
    ]


def locality(study, levels=(0.1, 0.3, 0.6, 1.1, 1.9, 3.3, 8.4)):
    """Measure heat maps of pixels, and their sizes at each noise level."""
    pixels = [(16, 16), (16, 6), (6, 16), (24, 24)]
    models = {**study.networks, PAPER: study.square().fit(study.train[:2000])}
    models[GAUSSIAN] = study.whole[GAUSSIAN]
    rows, maps = [], []
    for name, model in models.items():
        heat = heat_maps(model, study.held_out, levels, pixels=pixels, n_images=8)
        sides = locality_radius(heat, 0.5, pixels=pixels).mean(1)
        maps.append(heat[:, 0])
        rows += _results.printed(
            name,
            (
                {"denoiser": name, "sigma": sigma, "side": float(side)}
                for sigma, side in zip(levels, sides, strict=True)
            ),
        )
    study.write("heat-maps", rows)
    scaled = np.stack(maps) / np.max(maps, axis=(2, 3), keepdims=True)
    np.savez_compressed(
        study.out / "heat-maps.npz",
        heat=scaled.astype(np.float16),
        denoisers=list(models),
        sigmas=levels,
        pixel=pixels[0],
    )


def samples(study, n=32):
    """Draw images of the networks and of the denoisers from the same noise, and compare them."""
    models = {**study.networks, **{k: study.whole[k] for k in (PAPER, GAUSSIAN, OPTIMAL)}}
    images = {}
    for name, model in models.items():
        started = time.perf_counter()
        drawn = np.asarray(model.sample(n, random_state=0, sampler="heun"), np.float32)
        images[name] = drawn.reshape(n, *study.train.shape[1:]).clip(-1, 1)
        print(name, f"{time.perf_counter() - started:.0f} s", flush=True)
    rows = [
        {
            "denoiser": name,
            "distance": float(nearest_training_distance(x, study.train)),
            "memorised": float(memorised_fraction(x, study.train)),
            **{f"cosine_{k}": float(cosine(images[k], x)) for k in study.networks},
            **{f"r_{k}": float(pearson_r(images[k], x)) for k in study.networks},
            "n_samples": n,
        }
        for name, x in images.items()
    ]
    study.write("samples", rows)
    shown = np.stack([x[:N_DRAWN] for x in images.values()])
    pixels = np.rint((shown + 1) * 127.5).astype(np.uint8)
    np.savez_compressed(study.out / "samples.npz", images=pixels, denoisers=list(images))


PARTS = {part.__name__: part for part in (curve, tables, locality, samples)}


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="zip in EDM layout")
    parser.add_argument("--out", type=Path, required=True, help="folder for CSV and npz files")
    parser.add_argument("--only", choices=sorted(PARTS), action="append")
    parser.add_argument("--max-images", type=int, help="of the training images")
    parser.add_argument("--n", type=int, default=64, help="noisy images at each noise level")
    parser.add_argument("--weights", type=Path, default=networks.WEIGHTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    images = load_edm_zip(given.data).images
    # the archive is sorted by class
    train = images[np.random.default_rng(0).permutation(len(images))[: given.max_images]]
    study = Study(train, given.out, n=given.n, weights=given.weights, device=given.device)
    for name in given.only or PARTS:
        PARTS[name](study)


if __name__ == "__main__":
    main()
