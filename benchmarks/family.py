"""Mean squared difference between every denoiser of the library and trained networks.

    python benchmarks/family.py --networks path/to/networks.py \
        --mnist path/to/mnist.zip path/to/mnist-test.zip \
        --cifar path/to/cifar10.zip path/to/cifar10-test.zip

prints two tables for each network. One has noisy training images, z = x + sigma * noise; the other
has noisy held-out images. Errors are on pixels in [-1, 1] and average 64 images. A setting in
brackets had the least error on 16 other images of the same source. Those 16 images also give the
weights of the blends, by the method of `BlendedDenoiser`; weights below 0.01 are dropped.

The baseline is the Gaussian denoiser or PSPC-Square with the paper's sizes, whichever has the
smaller error at a noise level on the images of the row. The last column is the geometric mean over
noise levels of the error divided by that of the baseline.

``family.csv`` has the errors and ``family-blends.csv`` the weights. Both are written again after
every table.

``networks.py`` has the functions named in NETWORKS, which return ``denoise(z, sigma)``.

ELS compares a patch with all patches of all images, and gets fewer images; ``--full`` gives it all
of them and takes days on a CPU.
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

import _results
import numpy as np
import torch

import skpspc
from skpspc import EmpiricalDenoiser, FlexibleWindows, LocalScoreDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.denoisers.blend import simplex_weights
from skpspc.sampling import draw_noise, paper_schedule

# The noise levels that each network denoises well.
NETWORKS = {
    "mnist": {
        "mnist_ddpm_cnn": (0.1, 0.2, 0.4, 0.8, 1.2, 2.0, 3.0),
        "mnist_flow_vit": (1.2, 2.0, 3.0, 5.0),
    },
    "cifar": {"gray_bf_dncnn": (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)},
}
SIZES = (2, 3, 4, 5, 7, 9, 11, 13, 15, 19, 23)
GAUSSIAN, SQUARE, BEST = "Gaussian", "PSPC-Square, paper's sizes", "PSPC-Square, best size"
BLEND, PLAIN_BLEND = "Blend", "Blend without shifted images"


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

    ``settings(size, sigma)`` lists them, where size is the best one of PSPC-Square. ``shifted``
    adds training images shifted by a pixel. A row with fewer training images, ``n_train``, or fewer
    noisy images, ``n_images``, is not a member of the blend.
    """

    build: Callable
    settings: Callable = lambda size, sigma: [()]
    shifted: bool = False
    n_train: int | None = None
    n_images: int | None = None

    @property
    def mark(self):
        """The name's suffix in a table: + for members of the blend, else the numbers of images."""
        if self.n_images is None:
            return " +"
        n_train = "" if self.n_train is None else f", N = {self.n_train}"
        return f" [{self.n_images} images{n_train}]"


def rows_of(image_shape, sigmas):
    """Return all rows by name."""
    _, height, width = image_shape
    side, paper = max(height, width), paper_schedule(image_shape)
    sizes = [s for s in SIZES if s < side]

    def sizes_around(size):
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
            lambda _, sigma: [(round(factor * sigma, 3),) for factor in (0.5, 1.0, 2.0)],
        ),
        GAUSSIAN: Row(skpspc.GaussianDenoiser),
        SQUARE: Row(PSPCDenoiser),
        BEST: Row(PSPCDenoiser, lambda _, sigma: sizes_around(paper(sigma))),
        "PSPC-Square, mirror images": Row(
            lambda s: PSPCDenoiser(s, flip=True), lambda s, _: [(s,)]
        ),
        "PSPC-Square, shifted images": Row(
            PSPCDenoiser, lambda s, _: [(larger(s) if s < 7 else s,)], shifted=True
        ),
        "PSPC-Square, bandwidth by window": Row(
            lambda s, h: PSPCDenoiser(s, bandwidth=h),
            lambda s, _: [(larger(s), h) for h in (0.4, 0.7)],
        ),
        "PSPC-Square, global bandwidth": Row(
            lambda s, h: PSPCDenoiser(s, bandwidth=h, smoothing="global"),
            lambda s, _: [(larger(s), h) for h in (0.2, 0.5, 0.85)],
        ),
        "PSPC-Flex from data, hard": Row(flexible, fractions),
        "PSPC-Flex from data, soft": Row(lambda f: flexible(f, soft=True), fractions),
        "PSPC-Flex, Gaussian windows": Row(gaussian_windows, lambda s, _: [(min(s / 4, 1.5),)]),
        "Local score (LS)": Row(
            LocalScoreDenoiser, lambda s, _: [(max(3, int(0.85 * s) // 2 * 2 + 1),)]
        ),
        "Local score, equivariant (ELS)": Row(
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


def with_shifted(images):
    """Return the images and their copies shifted by one pixel, in eight directions."""
    height, width = images.shape[2:]
    wide = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    corners = product(range(3), range(3))
    return np.concatenate([wide[..., a : a + height, b : b + width] for a, b in corners])


class Bench:
    """The denoisers of one case, and the images that they denoise."""

    def __init__(self, case, n_train, n_choice, n_reported, *, full=False, device="cpu"):
        self.case, self.images, n = case, case.images[:n_train], n_choice + n_reported
        sigmas = sorted({s for _, levels in case.networks.values() for s in levels})
        self.sigmas, self.rows = sigmas, rows_of(self.images.shape[1:], sigmas)
        if full:
            self.rows = {
                name: replace(row, n_train=None, n_images=None) for name, row in self.rows.items()
            }
        self.sources = {"training images": self.images[:n], "held-out images": case.held_out[:n]}
        self.n_choice, self.n_reported = n_choice, n_reported
        self._training_set = torch.tensor(self.images, device=device)
        self._shifted = torch.tensor(with_shifted(self.images), device=device)
        self._fitted = cache(self._fit)

    def _fit(self, name, setting):
        row = self.rows[name]
        images = self._shifted if row.shifted else self._training_set[: row.n_train]
        return row.build(*setting).fit(images)

    def errors(self, source, sigma):
        """Return, by network and row: the setting, the error, and the error over the baseline's."""
        clean = torch.from_numpy(self.sources[source]) / 127.5 - 1
        z = clean + sigma * draw_noise(clean.shape[1:], len(clean), random_state=0).to(clean)

        @cache  # networks share the answers
        def denoised(name, setting, start, stop):
            return self._fitted(name, setting).denoise(z[start:stop], sigma)

        def against(network):
            with torch.no_grad():
                target = network(z, sigma).double()
            return self._against(lambda *key: denoised(*key) - target[slice(*key[2:])], sigma)

        networks = self.case.networks.items()
        return {name: against(network) for name, (network, levels) in networks if sigma in levels}

    def _against(self, residual, sigma):
        n, size, results, members = self.n_choice, None, {}, []

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
            results[name] = entry(
                chosen, _mean_square(residual(name, chosen, n, stop)), row.n_images
            )
            if row.n_images is None:
                members += [(name, s) for s in (settings if name == BEST else [chosen])]
        plain = [member for member in members if not self.rows[member[0]].shifted]
        for name, kept in ((BLEND, members), (PLAIN_BLEND, plain)):
            results[name] = entry(*self._blend(kept, residual))
        return results

    def _blend(self, members, residual):
        """Return the weights, fitted on the images of choice, and the error of the blend."""
        flat = torch.stack([residual(*m, 0, self.n_choice).flatten() for m in members])
        weights = simplex_weights((flat @ flat.T).numpy())
        weights = weights * (weights >= 0.01) / weights[weights >= 0.01].sum()
        used = {m: float(w) for m, w in zip(members, weights, strict=True) if w > 0}
        rest = self.n_choice, None
        return used, _mean_square(sum(w * residual(*m, *rest) for m, w in used.items()))


def _mean_square(residual):
    return float(residual.square().mean())


def table(bench, title, results):
    """Print ``results``, {sigma: {row: (setting, error, ratio)}}, in rst."""
    paper = paper_schedule(bench.images.shape[1:])
    lines = [["sigma (the paper's size)", *(f"{s:g} ({paper(s)})" for s in results), "ratio"]]
    for name in [*bench.rows, PLAIN_BLEND, BLEND]:
        row, cells = bench.rows.get(name), [rows[name] for rows in results.values()]
        ratio = np.exp(np.mean([np.log(ratio) for *_, ratio in cells]))
        shown = [_label(f"{error:.5f}", s if row else ()) for s, error, _ in cells]
        lines.append([f"{name}{row.mark if row else ''}", *shown, f"{ratio:.2f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    head, *body = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    print("\n".join([f"\n{title}\n", rule, head, rule, *body, rule]), flush=True)


def _label(text, setting):
    """Return a name or number, followed by its setting."""
    return f"{text} ({_written(setting)})" if setting else text


def _written(setting):
    return ", ".join(f"{value:g}" for value in setting)


def records(bench, labels, results):
    """Return the rows of ``family.csv``."""
    paper = paper_schedule(bench.images.shape[1:])
    return [
        {
            **labels,
            "sigma": sigma,
            "paper_size": paper(sigma),
            "denoiser": name,
            "setting": _written(setting) if name in bench.rows else "",
            "error": error,
            "ratio": ratio,
            "n_images": (name in bench.rows and bench.rows[name].n_images) or bench.n_reported,
            "n_train": (name in bench.rows and bench.rows[name].n_train) or len(bench.images),
        }
        for sigma, rows in results.items()
        for name, (setting, error, ratio) in rows.items()
    ]


def weights(labels, results):
    """Return the rows of ``family-blends.csv``."""
    return [
        {**labels, "sigma": s, "blend": b, "denoiser": name, "setting": _written(x), "weight": w}
        for s, rows in results.items()
        for b in (BLEND, PLAIN_BLEND)
        for (name, x), w in sorted(rows[b][0].items(), key=lambda item: -item[1])
    ]


def run(case, quick, **options):
    """Print the tables of one case, and yield the rows of both CSV files after each."""
    start = time.perf_counter()
    bench = Bench(case, *((1000, 8, 8) if quick else (10_000, 16, 64)), **options)
    for source in bench.sources:
        results = {}
        for sigma in bench.sigmas:
            results[sigma] = bench.errors(source, sigma)
            minutes = (time.perf_counter() - start) / 60
            print(f"{minutes:.1f} minutes: {source}, {sigma:g}", file=sys.stderr, flush=True)
        for network in case.networks:
            mine = {s: rows[network] for s, rows in results.items() if network in rows}
            table(bench, f"``{network}``, {case.title}, noisy images from {source}", mine)
            labels = {"network": network, "images": case.title, "source": source}
            yield records(bench, labels, mine), weights(labels, mine)


def load_cases(options):
    """Return the cases that the command line names, from files."""
    spec = importlib.util.spec_from_file_location("networks", options.networks)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    titles = {"mnist": "MNIST", "cifar": "gray CIFAR-10 (mean over the channels, rounded)"}
    for data in options.only:
        train, test = (_gray(load_edm_zip(path).images) for path in getattr(options, data))
        networks = {name: (getattr(module, name)(), s) for name, s in NETWORKS[data].items()}
        yield Case(titles[data], train, test, networks)


def _gray(images):
    """Return images of one channel in a random order: archives are sorted by class."""
    images = images[np.random.default_rng(0).permutation(len(images))]
    return np.rint(images.mean(1, keepdims=True)).astype(np.uint8)


def main(arguments=None, cases=None):
    """Parse the command line and run; cases stand in for those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path("../shared")
    parser.add_argument("--networks", type=Path, default=shared / "networks/networks.py")
    for name, stem in (("mnist", "mnist-28x28"), ("cifar", "cifar10-32x32")):
        files = [shared / f"data/{stem}{part}.zip" for part in ("", "-test")]
        meaning = "training and held-out images"
        parser.add_argument(f"--{name}", type=Path, nargs=2, default=files, help=meaning)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="1,000 training images, 8 reported")
    parser.add_argument("--full", action="store_true", help="all images in every row")
    parser.add_argument("--device", default="cpu")
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    errors, blends = [], []
    for case in load_cases(options) if cases is None else cases:
        for rows, parts in run(case, options.quick, full=options.full, device=options.device):
            errors += rows
            blends += parts
            _results.write(options.out, "family", errors)
            _results.write(options.out, "family-blends", blends)


if __name__ == "__main__":
    main()
