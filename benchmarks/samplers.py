"""Errors of samplers against the exact solution of the probability-flow ODE, per denoiser call.

    python benchmarks/samplers.py --cifar path/to/cifar10.zip

writes ``samplers.csv``. Every sampler starts from equal noise. The column ``rms`` is the root mean
square difference per pixel of the samples from the samples of 512 Heun steps (1,023 calls of the
denoiser), on images in [-1, 1]. ``median`` is the median of the samples' differences. ``calls`` is
the number of calls of the denoiser. The noise levels are those of `edm_sigmas`. To save time, PSPC
on CIFAR-10 has half as many training images and samples as the other denoisers.
"""

import argparse
from pathlib import Path

import _results
import numpy as np

from skpspc import EmpiricalDenoiser, GaussianDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images, load_edm_zip
from skpspc.sampling import dpmpp_2m, euler, heun

FINE = 512  # Heun steps of the exact solution
CALLS = (9, 17, 18, 35, 71)
SAMPLERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}


def steps_of(sampler, calls):
    """Return the number of steps that take so many denoiser calls; Heun steps take an odd one."""
    return (calls + 1) // 2 if sampler == "heun" else calls


def differences(samples, exact):
    """Return the root mean square difference per pixel of each sample, an array (n,)."""
    return np.sqrt(((samples.astype(float) - exact) ** 2).reshape(len(samples), -1).mean(1))


def measure(model, n):
    """Yield a row for each sampler and number of calls."""
    options = {"n": n, "random_state": 0}
    exact = model.sample(sampler="heun", n_steps=FINE, **options)
    for calls in CALLS:
        for name, sampler in SAMPLERS.items():
            if name == "heun" and calls % 2 == 0:
                continue
            counted = []

            def walk(denoise, z, sigmas, sampler=sampler, counted=counted):
                def counting(z, sigma):
                    counted.append(sigma)
                    return denoise(z, sigma)

                return sampler(counting, z, sigmas)

            n_steps = steps_of(name, calls)
            error = differences(model.sample(sampler=walk, n_steps=n_steps, **options), exact)
            assert len(counted) == calls
            yield {
                "sampler": name,
                "n_steps": n_steps,
                "calls": calls,
                "rms": float(np.sqrt((error**2).mean())),
                "median": float(np.median(error)),
            }


def load_cases(options):
    """Yield the name of the data, training images, a denoiser and the number of samples."""
    digits = load_digits_images().images
    n, n_train = options.n, options.n_train
    yield "digits", digits, PSPCDenoiser(4), n
    yield "digits", digits, EmpiricalDenoiser(), n
    yield "digits", digits, GaussianDenoiser(), n
    images = load_edm_zip(options.cifar).images
    # archives are sorted by class
    cifar = images[np.random.default_rng(0).permutation(len(images))[:n_train]]
    yield "CIFAR-10", cifar, EmpiricalDenoiser(), n
    yield "CIFAR-10", cifar, GaussianDenoiser(), n
    yield "CIFAR-10", cifar[: n_train // 2], PSPCDenoiser(), n // 2


def main(arguments=None, cases=None):
    """Parse the command line and run; cases stand in for those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path("../shared")
    parser.add_argument("--cifar", type=Path, default=shared / "data/cifar10-32x32.zip")
    parser.add_argument("--n-train", type=int, default=2000)
    parser.add_argument("-n", type=int, default=64, help="number of samples")
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    rows = []
    for data, images, model, n in load_cases(options) if cases is None else cases:
        labels = {"images": data, "n_train": len(images), "denoiser": repr(model), "n": n}
        measured = measure(model.fit(images), n)
        rows += [{**labels, **row} for row in _results.printed(f"{model}, {data}", measured)]
        _results.write(options.out, "samplers", rows)


if __name__ == "__main__":
    main()
