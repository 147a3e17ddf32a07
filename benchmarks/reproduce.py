"""The paper's evidence, again, with other networks: curves, tables, heat maps and samples.

    python benchmarks/reproduce.py --data path/to/cifar10.zip --out docs/reproduction

writes pictures and tables (rst) into a folder; ``--only`` names some of the parts. The networks are
the three of `networks.py`, whose weights are in ``benchmarks/weights``.

The tables follow Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model
Generalization", ICML 2025, arXiv:2411.19339: noisy images are made of training images (the
forward process), or are what the network's sampler visits (the reverse process).
"""

import argparse
import time
from functools import cached_property
from itertools import product
from pathlib import Path

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
from skpspc._optional import load
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
# Of the heat, which flexible windows hold. Finest where a step is a third of the pixels or more.
FRACTIONS = (0.3, 0.325, 0.35, 0.375, 0.4, 0.45, 0.5, 0.6)
N_CHOSEN = 16  # training images on which sizes and fractions are chosen
N_SEARCHED = 10_000  # of the training images, for speed: fractions are chosen with these
# Rows and columns of the pixels whose heat stands for that of all: everywhere in tokens of 4.
PLACES = (2, 5, 8, 11, 16, 19, 26, 29)
OPTIMAL, GAUSSIAN, PAPER = "optimal", "Gaussian", "PSPC-Square, paper's sizes"


class Study:
    """Images, networks, and the denoisers that are compared with them, each fitted once."""

    def __init__(self, train, out, *, n=64, weights=networks.WEIGHTS, device="cpu"):
        self.train, self.out, self.n, self.device = train, out, n, device
        # What is told of a network is told on these, and never reported on them.
        self.chosen_on, self.reported = train[-N_CHOSEN:], train[:-N_CHOSEN]
        self.networks = {}
        for name in networks.ARCHITECTURES:
            module, told = networks.load(name, weights)
            network = NetworkDenoiser(
                module.to(device), "edm", sigma_data=told["sigma_data"], batch_size=64
            )
            self.networks[name] = network.fit(train[:1])

    def square(self, patch_size="paper"):
        """PSPC-Square, not fitted."""
        return PSPCDenoiser(patch_size, device=self.device)

    @cached_property
    def whole(self):
        """Denoisers of all training images that know no network."""
        members = {
            OPTIMAL: EmpiricalDenoiser(device=self.device),
            GAUSSIAN: GaussianDenoiser(device=self.device),
            PAPER: self.square(),
        }
        return {name: model.fit(self.train) for name, model in members.items()}

    def told(self, name):
        """Denoisers that are told what a network does."""
        network = self.networks[name]
        schedule, _ = calibrate_patch_size(
            self.square(),
            self.train,
            SIGMAS,
            sizes=[size for size in SIZES if size <= self.train.shape[-1]],
            against=network,
            held_out=self.chosen_on,
        )
        pixels = list(product(PLACES, PLACES))
        heat = heat_maps(network, self.chosen_on, SIGMAS, pixels=pixels)
        heat = spread_heat_maps(heat, pixels)
        sizes = " ".join(str(schedule(sigma)) for sigma in SIGMAS)
        return {
            f"PSPC-Square, calibrated to {name}: {sizes}": self.square(schedule).fit(self.train),
            **self._flexible(f"from data, calibrated to {name}", "data", network),
            **self._flexible(f"from {name}", heat, network),
        }

    def _flexible(self, label, heat, network):
        """PSPC-Flex of some heat, and its name: fractions are chosen as the sizes are."""

        def model(fractions):
            windows = FlexibleWindows(heat, fractions, SIGMAS)
            return PSPCDenoiser(windows=windows, device=self.device)

        fractions, _ = calibrate_thresholds(
            model(FRACTIONS[0]),
            self.train[-N_SEARCHED:],
            thresholds=FRACTIONS,
            against=network,
            held_out=self.chosen_on,
        )
        held = " ".join(f"{fraction:g}".removeprefix("0") for fraction in fractions)
        return {f"PSPC-Flex, {label}: {held}": model(fractions).fit(self.train)}

    def write(self, name, *blocks):
        """A file of rst."""
        (self.out / f"{name}.rst").write_text("\n\n".join(blocks) + "\n")

    def save(self, figure, name):
        """A picture."""
        figure.savefig(self.out / f"{name}.png", dpi=110, bbox_inches="tight")


def curve(study):
    """Networks against the optimum: low at both ends, high between."""
    pyplot = load("matplotlib.pyplot")
    sigmas = [float(s) for s in edm_sigmas(18)]
    table = error_curve(
        study.networks, study.reported, sigmas, against=study.whole[OPTIMAL], n=study.n
    )
    figure, ax = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    peaks = []
    for name, errors, spread, marker in zip(
        table.names, table.errors.T, table.standard_errors.T, "os^", strict=True
    ):
        ax.errorbar(table.sigmas, errors, spread, marker=marker, ms=4, capsize=2, label=name)
        top = int(errors.argmax())
        peaks.append(f"{name} {errors[top]:.3f} at sigma = {table.sigmas[top]:.2f}")
    ax.axvline(3, color="0.6", ls=":", label="the paper's peak")
    ax.set(xscale="log", xlabel="sigma", ylabel="mean squared difference", ylim=(0, None))
    ax.set_title("Networks against the optimal denoiser, noisy training images", fontsize=10)
    ax.legend(frameon=False)
    study.save(figure, "curve")
    study.write("curve", f"Largest difference: {'; '.join(peaks)}.", table.to_rst())


def tables(study):
    """The paper's two tables: how far from each network, and how far from one another."""
    told = {name: study.told(name) for name in study.networks}
    alike = {**study.networks, **study.whole}
    everything = {**alike, **{k: v for members in told.values() for k, v in members.items()}}
    pairs = compare(everything, study.reported, SIGMAS, n=study.n)
    names, blocks = pairs.names, []
    for name in study.networks:
        rows = [k for k in names if k not in study.networks and (k in alike or k in told[name])]
        column = pairs.errors[:, names.index(name)]
        lines = [[k, *(f"{v:#.3g}" for v in column[:, names.index(k)])] for k in rows]
        blocks += [f"To the {name}, forward process, {study.n} images", error_table(lines)]
    for name, network in study.networks.items():
        members = {**study.whole, **told[name]}
        table = error_curve(
            members, study.reported, SIGMAS, against=network, process="reverse", n=study.n // 2
        )
        lines = [
            [k, *(f"{v:#.3g}" for v in column)]
            for k, column in zip(table.names, table.errors.T, strict=True)
        ]
        blocks += [f"To the {name}, reverse process, {table.n} walks", error_table(lines)]
    study.write("differences", *blocks)
    blocks = []
    for j, sigma in enumerate(SIGMAS):
        some = [names.index(k) for k in alike]
        lines = [[names[a], *(f"{pairs.errors[j, a, b]:#.3g}" for b in some)] for a in some]
        blocks += [f"sigma = {sigma:g}", rst_table(["between", *(names[b] for b in some)], lines)]
    study.write("pairs", *blocks)


def error_table(lines):
    """Errors at each of SIGMAS."""
    return rst_table(["sigma", *(f"{sigma:g}" for sigma in SIGMAS)], lines)


def locality(study, levels=(0.1, 0.3, 0.6, 1.1, 1.9, 3.3, 8.4)):
    """Heat maps of pixels, and how large they are at each noise level."""
    pyplot = load("matplotlib.pyplot")
    pixels = [(16, 16), (16, 6), (6, 16), (24, 24)]
    models = {**study.networks, PAPER: study.square().fit(study.train[:2000])}
    models[GAUSSIAN] = study.whole[GAUSSIAN]
    figure, axes = pyplot.subplots(
        len(models), len(levels), figsize=(1.3 * len(levels), 1.3 * len(models) + 0.3),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    lines = []
    for row, (name, model) in zip(axes, models.items(), strict=True):
        heat = heat_maps(model, study.chosen_on, levels, pixels=pixels, n_images=8)
        radius = locality_radius(heat, 0.5, pixels=pixels).mean(1)
        lines.append([name, *(f"{r:.1f}" for r in radius)])
        print(lines[-1], flush=True)
        for ax, sigma, maps in zip(row, levels, heat[:, 0], strict=True):
            ax.imshow(np.sqrt(maps), cmap="magma")
            ax.set(xticks=[], yticks=[])
            if ax in axes[0]:
                ax.set_title(f"sigma {sigma:g}", fontsize=8)
        row[0].set_ylabel(name.replace(", ", "\n"), fontsize=8)
    study.save(figure, "locality")
    head = ["sigma", *(f"{sigma:g}" for sigma in levels)]
    study.write("locality", rst_table(head, lines))


def samples(study, n=32):
    """Images from the same noise: of the networks, and of the denoisers."""
    pyplot = load("matplotlib.pyplot")
    models = {**study.networks, **{k: study.whole[k] for k in (PAPER, GAUSSIAN, OPTIMAL)}}
    images, lines = {}, []
    for name, model in models.items():
        started = time.perf_counter()
        drawn = np.asarray(model.sample(n, random_state=0), np.float32)
        images[name] = drawn.reshape(n, *study.train.shape[1:]).clip(-1, 1)
        print(name, f"{time.perf_counter() - started:.0f} s", flush=True)
    for name, x in images.items():
        away = nearest_training_distance(x, study.train)
        copied = memorised_fraction(x, study.train)
        like = [f"{cosine(images[k], x):.2f}" for k in study.networks]
        like += [f"{pearson_r(images[k], x):.2f}" for k in study.networks]
        lines.append([name, f"{away:.3f}", f"{copied:.2f}", *like])
    figure, axes = pyplot.subplots(
        len(models), 10, figsize=(10, 1.02 * len(models)), layout="constrained"
    )
    for row, (name, some) in zip(axes, images.items(), strict=True):
        for ax, image in zip(row, some, strict=False):
            ax.imshow((image.transpose(1, 2, 0) + 1) / 2)
            ax.set(xticks=[], yticks=[])
        label = name.replace(", paper's sizes", "")
        row[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
    study.save(figure, "samples")
    head = ["samples of", "distance", "memorised"]
    head += [f"{what}, {name}" for what in ("cosine", "r") for name in study.networks]
    study.write("samples", rst_table(head, lines))


def rst_table(head, lines):
    """A simple table."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    bar = "  ".join("=" * width for width in widths)

    def line(cells):
        return "  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()

    return "\n".join([bar, line(head), bar, *map(line, lines), bar])


PARTS = {part.__name__: part for part in (curve, tables, locality, samples)}


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="zip in EDM layout")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables and pictures")
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
