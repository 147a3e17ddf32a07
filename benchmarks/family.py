"""How near every denoiser of the library comes to trained networks.

    python benchmarks/family.py --networks path/to/networks.py \
        --mnist path/to/mnist.zip path/to/mnist-test.zip \
        --cifar path/to/cifar10.zip path/to/cifar10-test.zip

prints, in rst, two tables for each network: noisy images z = x + sigma * noise with x a training
image, and with x an image that no denoiser was fitted on. Numbers are mean squared differences to
the network on [-1, 1], over 64 images. In brackets is the setting that was chosen: that of least
error on 16 other images of the same source. The weights of the blends are found on those too, as
`BlendedDenoiser` finds them, and those below .01 are dropped. The last column is the geometric
mean, over noise levels, of the error over the smaller one of the Gaussian and of PSPC-Square with
the paper's sizes, on the same images: a row of fewer images has them over those alone.

``networks.py`` has the functions named in NETWORKS, which return ``denoise(z, sigma)``.

Windows that look at all places have fewer images; ``--full`` gives them all, for ``--device cuda``
or a long night.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch

import skpspc
from skpspc import EmpiricalDenoiser, FlexibleWindows, LocalScoreDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.denoisers.blended import _simplex_weights
from skpspc.sampling import draw_noise, paper_schedule

# The noise levels at which each network is at home.
NETWORKS = {
    "mnist": {
        "mnist_ddpm_cnn": (0.1, 0.2, 0.4, 0.8, 1.2, 2.0, 3.0),
        "mnist_flow_vit": (1.2, 2.0, 3.0, 5.0),
    },
    "cifar": {"gray_bf_dncnn": (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)},
}
SIZES = (2, 3, 4, 5, 7, 9, 11, 13, 15, 19, 23)
GAUSSIAN, SQUARE, BEST = "Gaussian", "PSPC-Square, paper's sizes", "PSPC-Square, best size"
BLEND, PLAIN_BLEND = "blend of the rows marked +", "the same without moved images"


@dataclass
class Case:
    """Images (n, C, H, W) uint8, and networks: name to (callable, noise levels)."""

    title: str
    images: np.ndarray
    held_out: np.ndarray
    networks: dict


@dataclass
class Row:
    """A denoiser, ``build(*setting)``, and the settings among which the choice is made.

    ``settings(size, sigma)`` lists them, size being the best one of PSPC-Square. ``moved`` adds
    training images moved by a pixel. Where less is computed than elsewhere, ``n_train`` or
    ``n_images`` say so, and the row is no member of the blend.
    """

    build: Callable
    settings: Callable = lambda size, sigma: [()]
    moved: bool = False
    n_train: int | None = None
    n_images: int | None = None

    @property
    def mark(self):
        """What the table says beside the name."""
        if self.n_images is None:
            return " +"
        n_train = "" if self.n_train is None else f", N = {self.n_train}"
        return f" [{self.n_images} images{n_train}]"


def rows_of(image_shape, sigmas):
    """All rows by name."""
    _, height, width = image_shape
    side, paper = max(height, width), paper_schedule(image_shape)
    sizes = [s for s in SIZES if s < side]

    def near(size):
        return [(s,) for s in sizes if size / 2 <= s <= 2 * size]

    def larger(size):
        return min((s for s in sizes if s > size), default=size)

    def flexible(fraction, soft=False):
        return PSPCDenoiser(windows=FlexibleWindows("data", fraction, sigmas, soft=soft))

    def gaussian_windows(spread):
        row, column = np.divmod(np.arange(height * width), width)
        square = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
        heat = np.exp(-square / (2 * spread**2)).reshape(1, height, width, height, width)
        return PSPCDenoiser(windows=FlexibleWindows(heat, 0.95, [1.0], soft=True))

    def fractions(*_):
        return [(0.3,), (0.5,), (0.75,)]

    return {
        "Empirical": Row(EmpiricalDenoiser),
        "Empirical, bandwidth": Row(
            lambda h: EmpiricalDenoiser(bandwidth=h), lambda *_: [(0.7,), (0.85,)]
        ),
        "Empirical, smoothed by tau": Row(
            lambda tau: skpspc.SmoothedDenoiser(EmpiricalDenoiser(), tau=tau, n_draws=8),
            lambda _, sigma: [(round(share * sigma, 3),) for share in (0.5, 1.0, 2.0)],
        ),
        GAUSSIAN: Row(skpspc.GaussianDenoiser),
        SQUARE: Row(PSPCDenoiser),
        BEST: Row(PSPCDenoiser, lambda _, sigma: near(paper(sigma))),
        "PSPC-Square, mirror images": Row(
            lambda s: PSPCDenoiser(s, flip=True), lambda s, _: [(s,)]
        ),
        "PSPC-Square, moved images": Row(
            PSPCDenoiser, lambda s, _: [(larger(s) if s < 7 else s,)], moved=True
        ),
        "PSPC-Square, bandwidth in windows": Row(
            lambda s, h: PSPCDenoiser(s, bandwidth=h),
            lambda s, _: [(larger(s), h) for h in (0.4, 0.7)],
        ),
        "PSPC-Square, bandwidth of the whole": Row(
            lambda s, h: PSPCDenoiser(s, bandwidth=h, smoothing="global"),
            lambda s, _: [(larger(s), h) for h in (0.2, 0.5, 0.85)],
        ),
        "PSPC-Flex from data, hard": Row(flexible, fractions),
        "PSPC-Flex from data, soft": Row(lambda f: flexible(f, soft=True), fractions),
        "PSPC-Flex, Gaussian windows": Row(gaussian_windows, lambda s, _: [(min(s / 4, 1.5),)]),
        "Local score (LS)": Row(
            LocalScoreDenoiser, lambda s, _: [(max(3, int(0.85 * s) // 2 * 2 + 1),)]
        ),
        "Local score, all places (ELS)": Row(
            lambda s: LocalScoreDenoiser(s, equivariant=True, boundary="broken", tol=1e-2),
            lambda s, _: [(3 if s < 4 else 5,)],
            n_train=1000,
            n_images=2,
        ),
        "PCA locality": Row(skpspc.PCALocalityDenoiser, lambda *_: [(0.005,), (0.05,)]),
        "Collection, tapered squares": Row(
            lambda s: skpspc.PosteriorMeanCollection(skpspc.tapered_windows(image_shape, s)),
            lambda size, _: [(min((s for s in sizes if s >= 2 * size), default=side),)],
        ),
    }


def with_moved(images):
    """The images, and each moved by one pixel in the eight directions, its edge repeated."""
    height, width = images.shape[2:]
    wide = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    corners = product(range(3), range(3))
    return np.concatenate([wide[..., a : a + height, b : b + width] for a, b in corners])


class Bench:
    """The denoisers of one case, and which images they are asked for."""

    def __init__(self, case, n_train, n_choice, n_reported, *, full=False, device="cpu"):
        self.case, self.images, n = case, case.images[:n_train], n_choice + n_reported
        sigmas = sorted({s for _, levels in case.networks.values() for s in levels})
        self.sigmas, self.rows = sigmas, rows_of(self.images.shape[1:], sigmas)
        if full:
            self.rows = {
                name: replace(row, n_train=None, n_images=None) for name, row in self.rows.items()
            }
        self.sources = {"training images": self.images[:n], "held-out images": case.held_out[:n]}
        self.n_choice = n_choice
        self._known = torch.tensor(self.images, device=device)
        self._moved = torch.tensor(with_moved(self.images), device=device)
        self._fitted = cache(self._fit)

    def _fit(self, name, setting):
        row = self.rows[name]
        return row.build(*setting).fit(self._moved if row.moved else self._known[: row.n_train])

    def errors(self, source, sigma):
        """By network and row: what was chosen, the error, and it over the smaller baseline's."""
        clean = torch.from_numpy(self.sources[source]) / 127.5 - 1
        z = clean + sigma * draw_noise(clean.shape[1:], len(clean), random_state=0).to(clean)

        @cache  # networks share the answers
        def answer(name, setting, start, stop):
            return self._fitted(name, setting).denoise(z[start:stop], sigma)

        def against(network):
            with torch.no_grad():
                target = network(z, sigma).double()
            return self._against(lambda *key: answer(*key) - target[slice(*key[2:])], sigma)

        networks = self.case.networks.items()
        return {name: against(network) for name, (network, levels) in networks if sigma in levels}

    def _against(self, residual, sigma):
        n, size, found, members = self.n_choice, None, {}, []

        def entry(chosen, error, n_images=None):
            baselines = (residual(name, (), n, None)[:n_images] for name in (GAUSSIAN, SQUARE))
            return chosen, error, error / min(map(_mean_square, baselines))

        for name in [BEST, *(name for name in self.rows if name != BEST)]:
            row = self.rows[name]
            chosen, *others = settings = row.settings(size, sigma)
            if others:
                chosen = min(settings, key=lambda s, of=name: _mean_square(residual(of, s, 0, n)))
            if name == BEST:
                (size,) = chosen
            stop = row.n_images and n + row.n_images
            found[name] = entry(chosen, _mean_square(residual(name, chosen, n, stop)), row.n_images)
            if row.n_images is None:
                members += [(name, s) for s in (settings if name == BEST else [chosen])]
        plain = [member for member in members if not self.rows[member[0]].moved]
        for name, kept in ((BLEND, members), (PLAIN_BLEND, plain)):
            found[name] = entry(*self._blend(kept, residual))
        return found

    def _blend(self, members, residual):
        """Weights of the members with a weight, found on the images of choice, and the error."""
        flat = torch.stack([residual(*m, 0, self.n_choice).flatten() for m in members])
        weights = _simplex_weights((flat @ flat.T).numpy())
        weights = weights * (weights >= 0.01) / weights[weights >= 0.01].sum()
        used = {m: float(w) for m, w in zip(members, weights, strict=True) if w > 0}
        rest = self.n_choice, None
        return used, _mean_square(sum(w * residual(*m, *rest) for m, w in used.items()))


def _mean_square(residual):
    return float(residual.square().mean())


def table(bench, title, found):
    """Print what was found, {sigma: {row: (setting, error, ratio)}}."""
    paper = paper_schedule(bench.images.shape[1:])
    lines = [["sigma (the paper's size)", *(f"{s:g} ({paper(s)})" for s in found), "ratio"]]
    for name in [*bench.rows, PLAIN_BLEND, BLEND]:
        row, cells = bench.rows.get(name), [rows[name] for rows in found.values()]
        ratio = np.exp(np.mean([np.log(ratio) for *_, ratio in cells]))
        shown = [_label(f"{error:.5f}".lstrip("0"), s if row else ()) for s, error, _ in cells]
        lines.append([f"{name}{row.mark if row else ''}", *shown, f"{ratio:.2f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    head, *body = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    print("\n".join([f"\n{title}\n", rule, head, rule, *body, rule, "\nWeights of the blend:\n"]))
    for s, rows in found.items():
        weights = sorted(rows[BLEND][0].items(), key=lambda item: -item[1])
        print(f"* {s:g}: " + "; ".join(f"{_label(*m)} {w:.2f}" for m, w in weights))


def _label(text, setting):
    """A name or number, with the setting that belongs to it."""
    return f"{text} ({', '.join(f'{value:g}' for value in setting)})" if setting else text


def run(case, quick, **options):
    """Print the tables of one case."""
    start = time.perf_counter()
    bench = Bench(case, *((1000, 8, 8) if quick else (10_000, 16, 64)), **options)
    for source in bench.sources:
        found = {}
        for sigma in bench.sigmas:
            found[sigma] = bench.errors(source, sigma)
            minutes = (time.perf_counter() - start) / 60
            print(f"{minutes:.1f} minutes: {source}, {sigma:g}", file=sys.stderr, flush=True)
        for network in case.networks:
            mine = {s: rows[network] for s, rows in found.items() if network in rows}
            table(bench, f"``{network}``, {case.title}, noisy images from {source}", mine)


def load_cases(options):
    """The cases asked for, from files."""
    spec = importlib.util.spec_from_file_location("networks", options.networks)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    titles = {"mnist": "MNIST", "cifar": "gray CIFAR-10 (mean over the channels, rounded)"}
    for data in options.only:
        train, test = (_gray(load_edm_zip(path).images) for path in getattr(options, data))
        networks = {name: (getattr(module, name)(), s) for name, s in NETWORKS[data].items()}
        yield Case(titles[data], train, test, networks)


def _gray(images):
    """One channel, in a random order: archives are sorted by class."""
    images = images[np.random.default_rng(0).permutation(len(images))]
    return np.rint(images.mean(1, keepdims=True)).astype(np.uint8)


def main(arguments=None, cases=None):
    """Parse the command line and run; cases stand in for those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path("../shared")
    parser.add_argument("--networks", type=Path, default=shared / "networks/networks.py")
    for name, stem in (("mnist", "mnist-28x28"), ("cifar", "cifar10-32x32")):
        files = [shared / f"data/{stem}{part}.zip" for part in ("", "-test")]
        told = "training and held-out images"
        parser.add_argument(f"--{name}", type=Path, nargs=2, default=files, help=told)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="1,000 training images, 8 reported")
    parser.add_argument("--full", action="store_true", help="all images in every row")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    for case in load_cases(options) if cases is None else cases:
        run(case, options.quick, full=options.full, device=options.device)


if __name__ == "__main__":
    main()
