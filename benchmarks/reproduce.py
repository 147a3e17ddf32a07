"""The evidence of the paper, measured again with other networks: differences, heat maps, samples.

    python benchmarks/reproduce.py --data path/to/cifar10.zip --out docs/reproduction

writes tables as CSV, and heat maps and samples as npz, into a folder; the page docs/evidence.rst
draws them. ``--only`` names some of the parts. The networks are the three for 32 x 32 images of
`networks.py`, whose weights are in ``benchmarks/weights``. For 64 x 64 images:

    python benchmarks/reproduce.py --network tiny-imagenet --data path/to/tiny-imagenet-64x64.zip \
        --out docs/reproduction/tiny-imagenet

measures all but samples. ``--only schedules`` chooses patch sizes for many noise levels, and
``--only classes`` draws samples of classes.

The tables follow Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model
Generalization", ICML 2025, arXiv:2411.19339. Noisy images are training images with noise (the
forward process), or the states of the network's sampler (the reverse process).
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import _results
import networks
import numpy as np
import torch
from train_networks import divided

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    PatchSchedule,
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
    information_curve,
    locality_radius,
    memorised_fraction,
    nearest_training_distance,
    nearest_training_images,
    pearson_r,
    spread_heat_maps,
)
from skpspc.sampling import edm_sigmas, paper_schedule

SIGMAS = (0.3, 0.6, 1.1, 1.9, 3.3)
SIZES = (2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 19, 23, 27, 32, 39, 47, 64)
LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)  # of schedules
# Of the heat, in flexible windows. Finest where a step is a third of the pixels or more.
FRACTIONS = (0.3, 0.325, 0.35, 0.375, 0.4, 0.45, 0.5, 0.6)
N_CHOOSING = 16  # training images on which sizes and fractions are chosen
N_SEARCHED = 10_000  # training images of PSPC-Flex while fractions are chosen, for speed
N_DRAWN = 10  # samples in the picture
GUIDANCES = (1.0, 2.0)
# Rows and columns of 32 x 32 images, of pixels whose heat represents all pixels: every place in
# tokens of 4 pixels, in both halves.
PLACES = (2, 5, 8, 11, 16, 19, 26, 29)
SEEN = ((16, 16), (16, 6), (6, 16), (24, 24))  # whose heat maps are measured
OPTIMAL, GAUSSIAN, PAPER = "Optimal", "Gaussian", "PSPC-Square, paper's sizes"
EDGE = "PSPC-Square, sizes at the edge of memorisation"


@dataclass
class Study:
    """Images, networks, and the denoisers that are compared with them, each fitted once.

    Attributes
    ----------
    train : ndarray of shape (N, C, H, W), uint8
        The last N_CHOOSING images choose sizes and fractions; errors are reported on others.
    out : Path
        Folder of the results.
    n : int
        Noisy images at each noise level.
    names : sequence of str
        Networks, trained on ``train`` or on an archive that it is a part of.
    labels : ndarray of shape (N,) or None
        Classes of the images.
    unseen : ndarray of shape (m, C, H, W) or None
        Images on which nothing is trained or fitted.
    flexible : bool
        Measure PSPC-Flex, which takes hours with large images.
    pictures : bool
        Write npz files.
    """

    train: np.ndarray
    out: Path
    n: int = 64
    names: Sequence[str] = tuple(networks.ARCHITECTURES)
    labels: np.ndarray | None = None
    unseen: np.ndarray | None = None
    flexible: bool = True
    pictures: bool = True
    weights: Path = networks.WEIGHTS
    device: str = "cpu"

    def __post_init__(self):
        self.choosing, self.reported = self.train[-N_CHOOSING:], self.train[:-N_CHOOSING]
        self.networks = networks.denoisers(self.names, self.train[:1], self.weights, self.device)

    @property
    def factor(self):
        """Side of the images, divided by 32."""
        return self.train.shape[-1] // 32

    def square(self, patch_size="paper"):
        """Return PSPC-Square, not fitted."""
        return PSPCDenoiser(patch_size, device=self.device)

    @property
    def sizes(self):
        """Patch sizes to choose from."""
        return [size for size in SIZES if size <= self.train.shape[-1]]

    def edge_sizes(self, n):
        """Return the largest sizes of windows that do not single out one of n training images."""
        train, held_out = self.train[:n], self.train[-2 * N_CHOOSING :]
        curve = information_curve(train, LEVELS, [1, *self.sizes], held_out=held_out)
        return PatchSchedule(LEVELS, curve.edge_sizes)

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
            sizes=self.sizes,
            against=network,
            held_out=self.choosing,
        )
        square = self.square(schedule).fit(self.train)
        chosen = {f"PSPC-Square, sizes chosen for {name}": (square, [schedule(s) for s in SIGMAS])}
        if not self.flexible:
            return chosen
        # a later place in PLACES is later in its block of pixels, so that all phases are measured
        places = [
            self.factor * place + k * self.factor // len(PLACES) for k, place in enumerate(PLACES)
        ]
        pixels = list(product(places, repeat=2))
        heat = heat_maps(network, self.choosing, SIGMAS, pixels=pixels)
        heat = spread_heat_maps(heat, pixels)
        return {
            **chosen,
            f"PSPC-Flex, heat of the data, chosen for {name}": self._of_heat("data", network),
            f"PSPC-Flex, heat of {name}": self._of_heat(heat, network),
        }

    def _of_heat(self, heat, network):
        """Return PSPC-Flex of heat maps and its fractions, chosen as the sizes are."""

        def model(fractions):
            windows = FlexibleWindows(heat, fractions, SIGMAS)
            return PSPCDenoiser(windows=windows, device=self.device)

        fractions, _ = calibrate_thresholds(
            model(FRACTIONS[0]),
            self.train[-N_SEARCHED:],
            thresholds=FRACTIONS,
            against=network,
            held_out=self.choosing,
        )
        return model(fractions).fit(self.train), [float(fraction) for fraction in fractions]

    def write(self, name, rows, n=None):
        """Write a CSV file. n images per noise level were measured; None: ``self.n``."""
        _results.write(self.out, name, rows, n=n or self.n, n_train=len(self.train))

    def draw(self, name, images, n):
        """Write the first n images of each denoiser, unless no picture may leave."""
        if self.pictures:
            shown = np.stack([x[:n] for x in images.values()])
            pixels = np.rint((shown + 1) * 127.5).astype(np.uint8)
            np.savez_compressed(self.out / f"{name}.npz", images=pixels, denoisers=list(images))


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


def schedules(study):
    """Choose patch sizes by the networks and by unseen clean images, and report others' errors."""
    n = 2 * N_CHOOSING
    cases = {
        name: (network, study.choosing, study.reported[:n])
        for name, network in study.networks.items()
    }
    if study.unseen is not None:
        cases["clean images"] = "clean", study.unseen[:n], study.unseen[n : 2 * n]
    paper, rows = paper_schedule(study.train.shape[1:]), []
    for name, (target, choosing, reported) in cases.items():

        def calibrated(sizes, images, seed, target=target):
            return calibrate_patch_size(
                study.square(),
                study.train,
                LEVELS,
                sizes=sizes,
                against=target,
                held_out=images,
                random_state=seed,
            )

        chosen, _ = calibrated(study.sizes, choosing, 0)
        sizes = sorted({*map(chosen, LEVELS), *map(paper, LEVELS)})
        _, table = calibrated(sizes, reported, 1)
        rows += [
            {
                "chosen_for": name,
                "sigma": sigma,
                "size": chosen(sigma),
                "error": float(errors[sizes.index(chosen(sigma))]),
                "paper_size": paper(sigma),
                "paper_error": float(errors[sizes.index(paper(sigma))]),
            }
            for sigma, errors in zip(LEVELS, table.errors, strict=True)
        ]
    study.write("schedules", rows, n)


def locality(study, levels=(0.1, 0.3, 0.6, 1.1, 1.9, 3.3, 8.4), n=8):
    """Measure heat maps of pixels, and their sizes at each noise level."""
    f = study.factor
    pixels = [(f * i + k // 2 % f, f * j + k % f) for k, (i, j) in enumerate(SEEN)]
    models = {**study.networks, PAPER: study.square().fit(study.train[:2000])}
    models[GAUSSIAN] = study.whole[GAUSSIAN]
    rows, maps = [], []
    for name, model in models.items():
        heat = heat_maps(model, study.choosing, levels, pixels=pixels, n_images=n)
        sides = locality_radius(heat, 0.5, pixels=pixels).mean(1)
        maps.append(heat[:, 0])
        rows += _results.printed(
            name,
            (
                {"denoiser": name, "sigma": sigma, "side": float(side)}
                for sigma, side in zip(levels, sides, strict=True)
            ),
        )
    study.write("heat-maps", rows, n)
    scaled = np.stack(maps) / np.max(maps, axis=(2, 3), keepdims=True)
    if study.pictures:
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
    study.write("samples", rows, n)
    study.draw("samples", images, N_DRAWN)


def classes(study, n_classes=8, n=4):
    """Draw n images of each of the first n_classes classes, and compare them with training images.

    The picture leaves out denoisers that memorise.
    """
    of_class = len(study.train) // len(np.unique(study.labels))
    y = np.tile(np.unique(study.labels)[:n_classes], n)
    models = {
        PAPER: study.square(),
        EDGE: study.square(study.edge_sizes(of_class)),
        GAUSSIAN: GaussianDenoiser(device=study.device),
    }
    rows, images = [], {}
    for name, model in models.items():
        model.fit(study.train, study.labels)
        for guidance in GUIDANCES:
            started = time.perf_counter()
            drawn = model.sample(y=y, guidance=guidance, random_state=0, sampler="heun")
            x = np.asarray(drawn, np.float32).clip(-1, 1)
            print(name, guidance, f"{time.perf_counter() - started:.0f} s", flush=True)
            nearest = nearest_training_images(x, study.train)[1][:, 0]
            memorised = float(memorised_fraction(x, study.train))
            rows.append(
                {
                    "denoiser": name,
                    "guidance": guidance,
                    "distance": float(nearest_training_distance(x, study.train)),
                    "memorised": memorised,
                    "of_class": float(np.mean(study.labels[nearest] == y)),
                    "n_samples": len(y),
                }
            )
            if memorised == 0:
                images[f"{name}, guidance {guidance:g}"] = x
    study.write("classes", rows, len(y))
    if images:
        study.draw("classes", images, 2 * n_classes)


PARTS = {part.__name__: part for part in (curve, tables, locality, samples)}
ON_DEMAND = {part.__name__: part for part in (schedules, classes)}


def mixed(n_images, hold_out):
    """Return the rows of the training images, and of unseen images if some are held out.

    Both are in a random order, since an archive is sorted by class.
    """
    train, unseen = divided(np.arange(n_images)) if hold_out else (np.arange(n_images), None)
    rng = np.random.default_rng(0)
    return rng.permutation(train), unseen if unseen is None else rng.permutation(unseen)


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="zip in EDM layout")
    parser.add_argument("--out", type=Path, required=True, help="folder for CSV and npz files")
    parser.add_argument("--network", choices=sorted(networks.LARGE), help="for 64 x 64 images")
    parser.add_argument("--only", choices=[*PARTS, *ON_DEMAND], action="append")
    parser.add_argument("--no-flexible", action="store_true", help="leave PSPC-Flex out")
    parser.add_argument("--no-pictures", action="store_true", help="no npz files")
    parser.add_argument("--max-images", type=int, help="of the training images")
    parser.add_argument("--n", type=int, default=64, help="noisy images at each noise level")
    parser.add_argument("--weights", type=Path, default=networks.WEIGHTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    data = load_edm_zip(given.data)
    order, unseen = mixed(len(data.images), bool(given.network))
    order = order[: given.max_images]
    study = Study(
        data.images[order],
        given.out,
        n=given.n,
        names=[given.network] if given.network else tuple(networks.ARCHITECTURES),
        labels=None if data.get("target") is None else data.target[order],
        unseen=None if unseen is None else data.images[unseen],
        flexible=not given.no_flexible,
        pictures=not given.no_pictures,
        weights=given.weights,
        device=given.device,
    )
    default = ("curve", "tables", "locality") if given.network else PARTS
    for name in given.only or default:
        {**PARTS, **ON_DEMAND}[name](study)


if __name__ == "__main__":
    main()
