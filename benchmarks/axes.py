"""Mean squared difference from networks of PSPC with soft patches and an augmented source.

    python benchmarks/axes.py --train path/to/cifar10.zip --test path/to/cifar10-test.zip

writes ``axes.csv``: errors of PSPC against each network of `networks.py`, with square patches, soft
queries, soft responses, mirror images, images moved by 1 or 2 pixels, and several of them. Noisy
images are held-out images, and errors are on pixels in [-1, 1]. Patch size and tapers of every row
have the least error against the network on other held-out images.
"""

import argparse
from itertools import product

import _results
import networks
import numpy as np
import torch

from skpspc import PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.sampling import draw_noise, paper_schedule

SIGMAS = (0.3, 0.7, 1.5, 3.3)
SIZES = (2, 3, 4, 5, 7, 9, 11, 13, 15, 19, 23, 27)
TAPERS = (0.5, 1.0)
PLAIN, QUERIES, RESPONSES = "Square patches", "Soft queries", "Soft responses"
FLIPS, SHIFTS, FARTHER = "Mirror images", "Moved by 1 pixel", "Moved by up to 2 pixels"
TOGETHER = "Soft responses, mirror images, moved by 1 pixel"


def larger(sizes, n):
    """Return a set of sizes, and the n next larger ones of each."""
    at = [SIZES.index(size) for size in sizes]
    return sorted({size for k in at for size in SIZES[k : k + n + 1]})


class Bench:
    """Noisy images of one noise level, and the answers of the networks."""

    def __init__(self, train, held_out, named, sigma, n_choice):
        self.train, self.sigma, self.n_choice = train, sigma, n_choice
        clean = torch.from_numpy(held_out).float() / 127.5 - 1
        noise = draw_noise(clean.shape[1:], len(clean), random_state=0).to(clean)
        self.z = clean + sigma * noise
        with torch.no_grad():
            self.targets = {name: net.denoise(self.z, sigma) for name, net in named.items()}

    def row(self, axis, settings, **source):
        """Yield the setting of least error on the images of choice, and its error on the others.

        ``settings`` are triples of `settings_of`.
        """
        models = {}
        for size, query, response in settings:
            model = PSPCDenoiser(size, query_taper=query, response_taper=response, **source)
            models[size, query, response] = model.fit(self.train)
        choice, rest = slice(0, self.n_choice), slice(self.n_choice, None)
        tried = {}
        if len(settings) > 1:
            tried = {s: model.denoise(self.z[choice], self.sigma) for s, model in models.items()}
        answers = {}
        for network, target in self.targets.items():
            chosen = settings[0]
            if tried:
                chosen = min(settings, key=lambda s, to=target: mean_square(tried[s] - to[choice]))
            if chosen not in answers:
                answers[chosen] = models[chosen].denoise(self.z[rest], self.sigma)
            error = mean_square(answers[chosen] - target[rest])
            names = "size", "query_taper", "response_taper"
            setting = dict(zip(names, chosen, strict=True))
            yield dict(network=network, sigma=self.sigma, axis=axis, **setting, error=error)

    def rows(self):
        """Yield the rows of every axis; later axes try the sizes that earlier ones chose."""

        def chosen(rows, name):
            return sorted({row[name] for row in rows})

        paper = paper_schedule(self.train.shape[1:])(self.sigma)
        sizes = [size for size in SIZES if paper / 2 <= size <= 1.6 * paper]
        plain = list(self.row(PLAIN, settings_of(sizes)))
        yield from plain
        best = chosen(plain, "size")
        near = larger(best, 1)
        yield from self.row(QUERIES, settings_of(larger(best, 3), queries=TAPERS))
        soft = list(self.row(RESPONSES, settings_of(near, responses=TAPERS)))
        yield from soft
        yield from self.row(FLIPS, settings_of(near), flip=True)
        moved = list(self.row(SHIFTS, settings_of(near), max_shift=1))
        yield from moved
        yield from self.row(FARTHER, settings_of(chosen(moved, "size")), max_shift=2)
        tapers = [0.0, *chosen(soft, "response_taper")]
        every = settings_of(chosen(moved, "size"), responses=tapers)
        yield from self.row(TOGETHER, every, flip=True, max_shift=1)


def settings_of(sizes, queries=(0.0,), responses=(0.0,)):
    """Return all triples of a size, a query taper and a response taper."""
    return list(product(sizes, queries, responses))


def mean_square(residual):
    return float(residual.square().mean())


def with_ratios(rows):
    """Return rows with the error divided by that of square patches."""
    plain = {row["network"]: row["error"] for row in rows if row["axis"] == PLAIN}
    return [{**row, "ratio": row["error"] / plain[row["network"]]} for row in rows]


def load_images(path, n):
    """Return n images in a random order: archives are sorted by class."""
    images = load_edm_zip(path).images
    return images[np.random.default_rng(0).permutation(len(images))[:n]]


def main(arguments=None, images=None, named=None):
    """Parse the command line and run; images and networks stand in for those of files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", help="CIFAR-10 as a zip file in the layout of EDM")
    parser.add_argument("--test", help="test images in the same layout")
    parser.add_argument("--n-train", type=int, default=10_000)
    parser.add_argument("--n-choice", type=int, default=16, help="images that choose the settings")
    parser.add_argument("--n-reported", type=int, default=32, help="images of the errors")
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS)
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    n_noisy = options.n_choice + options.n_reported
    if images is None:
        images = load_images(options.train, options.n_train), load_images(options.test, n_noisy)
    named, rows = networks.denoisers() if named is None else named, []
    for sigma in options.sigmas:
        bench = Bench(*images, named, sigma, options.n_choice)
        rows += with_ratios(_results.printed(f"sigma {sigma:g}", bench.rows()))
        counts = {"n_train": len(images[0]), "n_choice": options.n_choice}
        _results.write(options.out, "axes", rows, **counts, n_reported=options.n_reported)


if __name__ == "__main__":
    main()
