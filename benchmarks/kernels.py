"""Speed and accuracy of the exact kernels, as ratios measured in one run.

    python benchmarks/kernels.py --data path/to/cifar10-32x32.zip

writes ``kernels.csv``. Its columns are the time per pair of a noisy and a training image; the time
of the published algorithm divided by it; its ratio to the limit; and the largest absolute
difference to a float64 brute force. The published algorithm is written plainly below and timed in
the same run. The limit is the number of floating-point operations of the method, divided by the
multiply-add rate that this machine reaches in the same run. Times are medians after a warm-up.

    python benchmarks/kernels.py --data ... --sample

draws 16 images with the paper's schedule and writes the time of each step to
``kernels-sample.csv``, with the total time and the peak memory.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import _results
import numpy as np
import torch

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.posterior.masks import masked
from skpspc.support import Masks, TrainingSet, square_corners

N_NOISY = 8
CHUNK = 100  # training images at a time in the published code
SQUARES, MASKS, WHOLE = "squares", "masks", "whole images"
COLUMNS = ("us_per_pair", "speedup", "over_limit", "max_error")
ROW = "{:<14}{:>6}{:>10}{:>8}{:>8}{:>7}" + len(COLUMNS) * "{:>13}"


def seconds(function, repeats):
    """Return the median time of a call, after one that warms up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def multiply_add_rate():
    """Return the floating-point operations per second of a large float32 matrix product."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    return 2 * 2048**3 / seconds(lambda: a @ b, 5)


def published(z, x, sigma, masks, chunk_size=CHUNK):
    """Return the answers of plain PSPC: window by window, broadcast differences, in chunks."""
    n, channels, height, width = z.shape
    total, count = torch.zeros_like(z).flatten(2), torch.zeros(height * width, dtype=z.dtype)
    for mask in masks:
        at = mask.flatten().nonzero().squeeze(1)
        query = z.flatten(2)[:, :, at].flatten(1)
        top = torch.full((n,), -torch.inf, dtype=z.dtype)
        norm, mean = torch.zeros_like(top), torch.zeros_like(query)
        for chunk in x.split(chunk_size):
            source = chunk.flatten(2)[:, :, at].flatten(1).to(z.dtype) / 127.5 - 1
            logit = -(query[:, None] - source).square().sum(2) / (2 * sigma**2)
            higher = torch.maximum(top, logit.amax(1))
            weight = (logit - higher[:, None]).exp()
            shrink = (top - higher).exp()
            norm = norm * shrink + weight.sum(1)
            mean = mean * shrink[:, None] + weight @ source
            top = higher
        total[:, :, at] += (mean / norm[:, None]).view(n, channels, -1)
        count[at] += 1
    return (total / count).view(z.shape)


def square_masks(size, side=32):
    """Return all squares of one size as masks, (K, side, side)."""
    masks = torch.zeros((side - size + 1) ** 2, side, side, dtype=torch.bool)
    for mask, (top, left) in zip(masks, square_corners((size, size), (1, side, side)), strict=True):
        mask[top : top + size, left : left + size] = True
    return masks


def flexible_masks(fraction, width=3.0, side=32):
    """Return a mask for each pixel: the largest values, of a fraction, of a tilted Gaussian."""
    y, x = np.divmod(np.arange(side * side), side)
    dy, dx = y[:, None] - y, x[:, None] - x
    heat = np.exp(-(dy**2 + 1.7 * dx**2 + 0.3 * dy * dx) / (2 * width**2))
    order = heat.argsort(1)
    held = np.take_along_axis(heat, order, 1).cumsum(1) / heat.sum(1, keepdims=True)
    masks = np.zeros_like(heat, dtype=bool)
    np.put_along_axis(masks, order, held >= 1 - fraction, 1)
    return torch.from_numpy(masks).view(-1, side, side)


def box_operations(size, channels=3, side=32):
    """Return the operations of a pair: squared differences, box sums, a comparison per window.

    This is a lower limit of every method that reads all pairs: one pass, no exponentials.
    """
    n_pixels, n_windows = side**2, (side - size + 1) ** 2
    additions = 2 * np.ceil(np.log2(size))
    return 3 * channels * n_pixels + additions * n_pixels + n_windows


class Bench:
    """The data, the machine's rate, and the rows of the table."""

    def __init__(self, images, n_noisy=N_NOISY):
        self.clean, self.train = images[: 10 * n_noisy], images[10 * n_noisy :]
        self.rate = multiply_add_rate()
        self.baselines = {}
        self.rows = []
        print(f"{torch.get_num_threads()} threads, {self.rate / 1e9:.0f} GFLOP/s in float32\n")
        print(ROW.format("windows", "size", "engine", "noisy", "N", "sigma", *COLUMNS))

    def noisy(self, n, sigma):
        """Return noisy images whose clean ones are not in the training set."""
        clean = torch.from_numpy(self.clean[:n]) / 127.5 - 1
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        return clean + sigma * noise

    def baseline(self, key, z, sigma, masks):
        """Return the time per pair of the published algorithm; it does not depend on N."""
        if key not in self.baselines:
            x = torch.from_numpy(self.train[: 10 * CHUNK])
            time_taken = seconds(lambda: published(z, x, sigma, masks), 3)
            self.baselines[key] = time_taken / (len(z) * len(x))
        return self.baselines[key]

    def measure(self, labels, z, denoise, masks, operations, repeats=5):
        """Measure and print one row of the table."""
        n_train, sigma = labels["n_train"], labels["sigma"]
        pair = seconds(lambda: denoise(z), repeats) / (len(z) * n_train)
        x = torch.from_numpy(self.train[:n_train])
        truth = published(z[:2].double(), x, sigma, masks, chunk_size=2000)
        error = (denoise(z[:2]).double() - truth).abs().max()
        baseline = self.baseline((labels["size"], len(masks)), z[:N_NOISY], sigma, masks)
        values = (pair * 1e6, baseline / pair, pair * self.rate / operations, float(error))
        measured = dict(zip(COLUMNS, values, strict=True))
        print(ROW.format(*labels.values(), *(f"{v:.3g}" for v in measured.values())), flush=True)
        self.rows.append({**labels, **measured})

    def squares(self, engine, n_train, size, sigma):
        """Measure PSPC-Square at one size."""
        model = PSPCDenoiser(size, engine=engine).fit(self.train[:n_train])
        z = self.noisy(N_NOISY, sigma)
        self.measure(
            _labels(SQUARES, size, engine, z, n_train, sigma),
            z,
            lambda z: model.denoise(z, sigma),
            square_masks(size),
            box_operations(size),
            repeats=5 if engine == "numba" else 1,
        )

    def masks(self, engine, n_train, fraction, sigma):
        """Measure PSPC-Flex, with a mask for each pixel that holds a fraction of the heat."""
        masks = flexible_masks(fraction)
        windows = Masks(fraction, masks[:, None], masks[:, None])
        z = self.noisy(N_NOISY, sigma)
        training_set = TrainingSet(torch.from_numpy(self.train[:n_train]))

        def denoise(z):
            level = torch.full((len(z),), sigma, dtype=torch.float64)
            return masked(z, level, training_set, windows, engine).mean

        n_entries = int(masks.sum())
        self.measure(
            _labels(MASKS, fraction, engine, z, n_train, sigma),
            z,
            denoise,
            masks,
            3 * 3 * 1024 + n_entries + 1024,
            repeats=3,
        )

    def empirical(self, n_noisy, n_train, sigma):
        """Measure the posterior of whole images, two matrix products."""
        model = EmpiricalDenoiser().fit(self.train[:n_train])
        z = self.noisy(n_noisy, sigma)
        self.measure(
            _labels(WHOLE, "", "torch", z, n_train, sigma),
            z,
            lambda z: model.denoise(z, sigma),
            torch.ones(1, 32, 32, dtype=torch.bool),
            4 * 3072,
        )


def _labels(windows, size, engine, z, n_train, sigma):
    return {
        "windows": windows,
        "size": size,
        "engine": engine,
        "n_noisy": len(z),
        "n_train": n_train,
        "sigma": sigma,
    }


def table(images, out):
    """Print the table and write it."""
    bench = Bench(images)
    whole = len(bench.train) // 1000 * 1000
    squares = ((3, 0.14), (3, 3.26), (8, 0.7), (8, 5.0), (15, 3.26))
    for size, sigma in squares:
        bench.squares("numba", 10_000, size, sigma)
    bench.squares("numba", whole, 8, 0.7)
    for size, sigma in ((3, 0.14), (8, 0.7), (15, 3.26)):
        bench.squares("torch", 2_000, size, sigma)
    bench.masks("numba", 10_000, 0.4, 1.09)
    bench.masks("torch", 2_000, 0.4, 1.09)
    for sigma in (0.3, 3.0, 20.0):
        bench.empirical(64, whole, sigma)
    _results.write(out, "kernels", bench.rows, gflops=round(bench.rate / 1e9))


def peak_memory():
    """Return the peak resident set in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # it counts KiB


def sample(images, out):
    """Draw 16 images with the paper's schedule; write the time of each step, and the memory."""
    before = peak_memory()
    model = PSPCDenoiser().fit(images)
    # compiled code is loaded on first use
    PSPCDenoiser(3).fit(images[:100]).denoise(images[:1], 1.0)
    rows, times = [], [time.perf_counter()]

    def record(step, sigma, _):
        times.append(time.perf_counter())
        rows.append({"step": step, "sigma_reached": float(sigma), "seconds": times[-1] - times[-2]})

    model.sample(16, random_state=0, sampler="euler", callback=record)
    measured = {
        "n_samples": 16,
        "n_train": len(images),
        "total_seconds": f"{times[-1] - times[0]:.1f}",
        "peak_mb": f"{peak_memory():.0f}",
        "mb_before_fit": f"{before:.0f}",
    }
    for name, value in measured.items():
        print(f"{name}: {value}")
    _results.write(out, "kernels-sample", rows, **measured)


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/cifar10-32x32.zip")
    parser.add_argument("--sample", action="store_true", help="time the drawing of 16 images")
    _results.add_argument(parser)
    options = parser.parse_args()
    images = load_edm_zip(options.data).images
    if options.sample:
        sample(images, options.out)
    else:
        # the archive is sorted by class
        table(images[np.random.default_rng(0).permutation(len(images))], options.out)


if __name__ == "__main__":
    main()
