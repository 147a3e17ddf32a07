"""Errors of all denoisers on held-out images of CIFAR-10, without a network and against networks.

    python benchmarks/held_out.py --train path/to/cifar10.zip --test path/to/cifar10-test.zip

writes two tables. ``--only`` names one of them.

``held-out.csv`` follows Wang's public benchmark of training-free denoisers: pixels in [0, 1],
10,000 training images, held-out images with noise of SIGMAS, squared errors summed over the 3,072
values of an image. Where a row has several settings, the one with the least error is chosen on 64
images of the training archive that are not in the training set. Local scores have the patch sizes
of the published table. `AutoDenoiser` chooses on training images. The other blend has sizes and
bandwidths set by hand, and weights chosen on training images. ``error`` is a mean over ``n`` test
images, fewer for slow denoisers, with its standard error. ``ratio`` is the error divided by that of
the Gaussian denoiser on these images.

``against-networks.csv`` has mean squared differences from the networks of `networks.py`, of pixels
on [-1, 1], with their standard errors. `AutoDenoiser` evaluates no network. The rows "best size"
have settings with the least difference from the network itself on other test images.

The first 200 test images in the order of this script are left out: denoisers were designed on them.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import _results
import networks
import numpy as np
import torch

from skpspc import (
    AutoDenoiser,
    BandwidthSchedule,
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchSchedule,
    PCALocalityDenoiser,
    PSPCDenoiser,
)
from skpspc.datasets import load_edm_zip
from skpspc.sampling import draw_noise

UNIT = (0.0, 1.0)
N_SEEN = 200  # test images on which denoisers were designed
SIGMAS = (0.05, 0.127, 0.452, 0.853, 2.212)  # on [0, 1]
SIZES = {
    0.05: (1, 2, 3),
    0.127: (3, 4, 5),
    0.452: (7, 8, 9),
    0.853: (9, 11, 13),
    2.212: (17, 19, 23),
}
LOCAL_SIZES = dict(zip(SIGMAS, (1, 3, 7, 9, 19), strict=True))  # of the published table
BLURS = {  # patch sizes and bandwidths
    0.05: ((3, 0.3), (5, 0.5)),
    0.127: ((5, 0.4), (7, 0.5)),
    0.452: ((9, 0.4), (11, 0.5)),
    0.853: ((11, 0.6), (15, 0.7)),
    2.212: ((19, 0.85), (23, 0.9)),
}
FLEXIBLE = (0.3, 0.5, 0.7)  # fractions of the heat
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4)  # of PCA locality
NETWORK_SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # on [-1, 1]
NETWORK_SIZES = (2, 3, 4, 5, 7, 9, 11, 13, 15, 19, 23, 27)
NETWORK_BLURS = {  # patch sizes and bandwidths
    0.1: ((2, 0.3), (3, 0.3), (3, 0.5), (5, 0.5), (5, 0.7)),
    0.2: ((3, 0.3), (3, 0.5), (5, 0.5), (5, 0.7), (7, 0.7)),
    0.4: ((3, 0.5), (5, 0.5), (5, 0.7), (7, 0.7), (9, 0.7)),
    0.8: ((5, 0.5), (5, 0.7), (7, 0.7), (9, 0.7), (11, 0.85)),
    1.6: ((7, 0.7), (7, 0.85), (11, 0.85), (15, 0.85), (15, 0.95)),
    3.2: ((11, 0.85), (15, 0.85), (21, 0.85), (21, 0.95), (27, 0.95)),
}
NETWORK_MOVED_SIZES = (2, 3, 5, 7, 11, 15, 23)
N_CHOSEN, N_REPORTED = 32, 48  # images of the second table
MOVED = {"flip": True, "max_shift": 1, "response_taper": 0.5}
GAUSSIAN, AUTO, WIDE = "Gaussian", "AutoDenoiser", "Blend with moved and blurred images"


@dataclass
class Row:
    """A denoiser ``build(*setting)``, and the settings to choose from at a noise level.

    One in ``one_in`` test images is denoised: slow denoisers have fewer.
    """

    build: Callable
    settings: Callable = lambda sigma: [()]
    one_in: int = 1


def sizes_at(sizes):
    """Return a function from noise levels to settings of one number."""
    return lambda sigma: [(size,) for size in sizes[sigma]]


def schedule(sizes):
    """Return the schedule of a patch size for each of SIGMAS."""
    return PatchSchedule(SIGMAS, sizes)


def flexible(fraction):
    """Return PSPC-Flex with the heat of the training images."""
    return PSPCDenoiser(windows=FlexibleWindows("data", fraction, SIGMAS), data_range=UNIT)


def wide_blend():
    """Return a blend of the Gaussian, PSPC with moved images of two sizes, and blurred PSPC."""
    bandwidths = BandwidthSchedule(SIGMAS, [0.4, 0.4, 0.5, 0.7, 0.9])
    members = [
        ("gaussian", GaussianDenoiser()),
        ("small", PSPCDenoiser(schedule([2, 3, 7, 9, 15]), **MOVED)),
        ("large", PSPCDenoiser(schedule([3, 5, 9, 13, 23]), **MOVED)),
        (
            "blurred",
            PSPCDenoiser(schedule([3, 5, 11, 15, 23]), bandwidth=bandwidths, smoothing="global"),
        ),
    ]
    return BlendedDenoiser(members, sigmas=SIGMAS, n_images=48, data_range=UNIT)


def rows():
    """Return the rows of the first table by name."""

    def pspc(**parameters):
        return lambda size: PSPCDenoiser(size, data_range=UNIT, **parameters)

    def blurred(smoothing):
        return lambda size, h: pspc(bandwidth=h, smoothing=smoothing)(size)

    fractions = dict.fromkeys(SIGMAS, FLEXIBLE)
    return {
        GAUSSIAN: Row(lambda: GaussianDenoiser(data_range=UNIT)),
        "Empirical": Row(lambda: EmpiricalDenoiser(data_range=UNIT)),
        "Local scores": Row(
            lambda size: LocalScoreDenoiser(size, data_range=UNIT),
            lambda sigma: [(LOCAL_SIZES[sigma],)],
        ),
        "PCA locality": Row(
            lambda threshold: PCALocalityDenoiser(threshold, data_range=UNIT),
            sizes_at(dict.fromkeys(SIGMAS, THRESHOLDS)),
            one_in=2,
        ),
        "PSPC, squares": Row(pspc(), sizes_at(SIZES)),
        "PSPC, mirror images": Row(pspc(flip=True), sizes_at(SIZES)),
        "PSPC, moved by a pixel": Row(pspc(max_shift=1), sizes_at(SIZES), one_in=4),
        "PSPC, tapered averages": Row(pspc(response_taper=0.5), sizes_at(SIZES)),
        "PSPC, flexible": Row(flexible, sizes_at(fractions), one_in=2),
        "PSPC, blurred globally": Row(blurred("global"), BLURS.get, one_in=2),
        "PSPC, stationary blur": Row(blurred("stationary"), BLURS.get, one_in=2),
        AUTO: Row(lambda: AutoDenoiser(data_range=UNIT), one_in=2),
        WIDE: Row(wide_blend, one_in=10),
    }


class Images:
    """Training images, and noisy images that choose settings or are reported."""

    def __init__(self, train, chosen, reported):
        self.train = train
        self.noisy = {
            "choice": self._noisy(chosen, seed=1),
            "report": self._noisy(reported, seed=0),
        }

    @staticmethod
    def _noisy(images, seed):
        clean = torch.from_numpy(images).float() / 255
        return clean, draw_noise(clean.shape[1:], len(clean), random_state=seed).to(clean)

    def errors(self, model, sigma, purpose, n=None):
        """Return the squared error of each of the first n images, or of all, summed over pixels."""
        clean, noise = (images[:n] for images in self.noisy[purpose])
        return (model.denoise(clean + sigma * noise, sigma) - clean).square().sum((1, 2, 3))


def held_out(images, sigmas):
    """Yield the rows of the first table."""
    gaussian = {}
    for name, row in rows().items():
        models = {}

        def fitted(setting, row=row, models=models):
            if setting not in models:
                models.clear()  # one copy of what a denoiser learns
                models[setting] = row.build(*setting).fit(images.train)
            return models[setting]

        n = len(images.noisy["report"][0]) // row.one_in
        for sigma in sigmas:
            candidates = row.settings(sigma)
            tried = [
                float(images.errors(fitted(setting), sigma, "choice").mean())
                for setting in (candidates if len(candidates) > 1 else [])
            ]
            chosen = candidates[int(np.argmin(tried)) if tried else 0]
            errors = images.errors(fitted(chosen), sigma, "report", n).double()
            gaussian.setdefault(sigma, errors)
            yield {
                "denoiser": name,
                "sigma": sigma,
                "setting": "/".join(map(str, chosen)),
                "n": n,
                "error": float(errors.mean()),
                "standard_error": float(errors.std() / n**0.5),
                "ratio": float(errors.mean() / gaussian[sigma][:n].mean()),
            }


def against_networks(train, test, sigmas, named, n_chosen=N_CHOSEN, n_reported=N_REPORTED):
    """Yield the rows of the second table."""

    def denoised(model):
        return model.fit(train).denoise(z, sigma)

    def blurred(smoothing):
        return {
            (size, h): denoised(PSPCDenoiser(size, bandwidth=h, smoothing=smoothing))
            for size, h in NETWORK_BLURS[sigma]
        }

    auto = AutoDenoiser().fit(train)
    gaussian = GaussianDenoiser().fit(train)
    clean = torch.from_numpy(test[: n_chosen + n_reported]).float() / 127.5 - 1
    noise = draw_noise(clean.shape[1:], len(clean), random_state=0).to(clean)
    choice, rest = slice(n_chosen), slice(n_chosen, None)
    for sigma in sigmas:
        z = clean + sigma * noise
        answers = {
            GAUSSIAN: {"": gaussian.denoise(z, sigma)},
            "PSPC, paper's sizes": {"": denoised(PSPCDenoiser())},
            "PSPC, best size": {size: denoised(PSPCDenoiser(size)) for size in NETWORK_SIZES},
            "PSPC, best size, moved, mirrored and tapered": {
                size: denoised(PSPCDenoiser(size, **MOVED)) for size in NETWORK_MOVED_SIZES
            },
            "PSPC, best size, blurred globally": blurred("global"),
            "PSPC, best size, stationary blur": blurred("stationary"),
            AUTO: {"": auto.denoise(z, sigma)},
        }
        for (network, net), (name, tried) in product(named.items(), answers.items()):
            with torch.no_grad():
                target = net.denoise(z, sigma)
            differences = {
                setting: (answer - target).square().flatten(1).mean(1)
                for setting, answer in tried.items()
            }
            chosen = min(
                differences, key=lambda setting: float(differences[setting][choice].mean())
            )
            reported = differences[chosen][rest]
            yield {
                "network": network,
                "denoiser": name,
                "sigma": sigma,
                "setting": "/".join(map(str, np.atleast_1d(chosen))),
                "error": float(reported.mean()),
                "standard_error": float(reported.std() / n_reported**0.5),
            }


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, help="CIFAR-10 as a zip in the layout of EDM")
    parser.add_argument("--test", required=True, help="test images in the same layout")
    parser.add_argument("--only", choices=("held-out", "networks"), help="one table")
    parser.add_argument("--n-train", type=int, default=10_000)
    parser.add_argument("--n", type=int, default=1000, help="images of held-out.csv")
    parser.add_argument("--threads", type=int, default=1)
    _results.add_argument(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    archive, test = (load_edm_zip(path).images for path in (options.train, options.test))
    order = np.random.default_rng(0).permutation(len(archive))
    train, chosen = archive[order[: options.n_train]], archive[order[options.n_train :][:64]]
    test = test[np.random.default_rng(0).permutation(len(test))[N_SEEN:]]

    def write(name, title, rows, **facts):
        """Print rows, and write all rows so far after each."""
        table = []
        for row in rows:
            table += _results.printed(title, [row])
            _results.write(options.out, name, table, n_train=len(train), **facts)

    if options.only != "networks":
        images = Images(train, chosen, test[: options.n])
        write("held-out", "Held-out image", held_out(images, SIGMAS))
    if options.only != "held-out":
        measured = against_networks(train, test, NETWORK_SIGMAS, networks.denoisers())
        write("against-networks", "Against a network", measured, n_chosen=N_CHOSEN, n=N_REPORTED)


if __name__ == "__main__":
    main()
