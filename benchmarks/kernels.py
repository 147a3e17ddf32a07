"""Speed and accuracy of the exact kernels, as ratios measured in one run.

    python benchmarks/kernels.py --data path/to/cifar10-32x32.zip

Columns: the time of one pair (noisy image, training image); how many times faster than the
published algorithm, written plainly below and timed in the same run; how many times slower than
the limit, which is the number of floating-point operations of the method over the multiply-add
rate of this machine, measured in the same run; and the largest absolute difference to a float64
brute force. Times are medians after a warm-up.

    python benchmarks/kernels.py --data ... --sample

draws 16 images with the paper's schedule and reports the share of each step and the peak memory.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip
from skpspc.posterior.masks import masked
from skpspc.support import Masks, TrainingSet, square_corners

N_NOISY = 8
CHUNK = 100  # training images at a time in the published code
ROW = "{:<34}{:>8}{:>7}{:>7}{:>12}{:>12}{:>10}{:>12}"


def seconds(function, repeats):
    """Median time of a call, after one that warms up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def multiply_add_rate():
    """Floating-point operations a second of a large float32 matrix product."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    return 2 * 2048**3 / seconds(lambda: a @ b, 5)


def published(z, x, sigma, masks):
    """Plain PSPC: one window at a time, broadcast differences, chunks of training images."""
    n, channels, height, width = z.shape
    total, count = torch.zeros_like(z).flatten(2), torch.zeros(height * width, dtype=z.dtype)
    for mask in masks:
        at = mask.flatten().nonzero().squeeze(1)
        query = z.flatten(2)[:, :, at].flatten(1)
        top = torch.full((n,), -torch.inf, dtype=z.dtype)
        norm, mean = torch.zeros_like(top), torch.zeros_like(query)
        for chunk in x.split(CHUNK):
            source = (chunk.to(z.dtype) / 127.5 - 1).flatten(2)[:, :, at].flatten(1)
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
    """All squares of one size as masks, (K, side, side)."""
    masks = torch.zeros((side - size + 1) ** 2, side, side, dtype=torch.bool)
    for mask, (top, left) in zip(masks, square_corners((size, size), (1, side, side)), strict=True):
        mask[top : top + size, left : left + size] = True
    return masks


def flexible_masks(fraction, width=3.0, side=32):
    """One mask a pixel: the largest values of a tilted Gaussian that hold a fraction of it."""
    y, x = np.divmod(np.arange(side * side), side)
    dy, dx = y[:, None] - y, x[:, None] - x
    heat = np.exp(-(dy**2 + 1.7 * dx**2 + 0.3 * dy * dx) / (2 * width**2))
    order = heat.argsort(1)
    held = np.take_along_axis(heat, order, 1).cumsum(1) / heat.sum(1, keepdims=True)
    masks = np.zeros_like(heat, dtype=bool)
    np.put_along_axis(masks, order, held >= 1 - fraction, 1)
    return torch.from_numpy(masks).view(-1, side, side)


def box_operations(size, channels=3, side=32):
    """Of one pair: differences squared and summed, box sums, one comparison a window.

    One pass of the two, and no exponentials: no method that looks at every pair does with less.
    """
    n_pixels, n_windows = side**2, (side - size + 1) ** 2
    additions = 2 * np.ceil(np.log2(size))
    return 3 * channels * n_pixels + additions * n_pixels + n_windows


class Bench:
    """The data, the machine's rate, and the table."""

    def __init__(self, images, n_noisy=N_NOISY):
        self.clean, self.train = images[: 10 * n_noisy], images[10 * n_noisy :]
        self.rate = multiply_add_rate()
        self.baselines = {}
        print(f"{torch.get_num_threads()} threads, {self.rate / 1e9:.0f} GFLOP/s in float32\n")
        print(
            ROW.format(
                "engine", "N", "size", "sigma", "us a pair", "x baseline", "x limit", "max error"
            )
        )

    def noisy(self, n, sigma):
        """Noisy images of which the clean ones are not in the training set."""
        clean = torch.from_numpy(self.clean[:n]) / 127.5 - 1
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        return clean + sigma * noise

    def baseline(self, key, z, sigma, masks):
        """Time of one pair by the published algorithm; it does not depend on N."""
        if key not in self.baselines:
            x = torch.from_numpy(self.train[: 10 * CHUNK])
            time_taken = seconds(lambda: published(z, x, sigma, masks), 3)
            self.baselines[key] = time_taken / (len(z) * len(x))
        return self.baselines[key]

    def row(self, name, n_train, size, sigma, z, denoise, masks, operations, repeats=5):
        """Measure one line of the table and print it; the time of one pair."""
        pair = seconds(lambda: denoise(z), repeats) / (len(z) * n_train)
        x = torch.from_numpy(self.train[:n_train])
        some = z[:2]
        truth = published(some.double(), x, sigma, masks)
        error = (denoise(some).double() - truth).abs().max()
        baseline = self.baseline((size, len(masks)), z[:N_NOISY], sigma, masks)
        print(
            ROW.format(
                name,
                n_train,
                size,
                f"{sigma:g}",
                f"{pair * 1e6:.3f}",
                f"{baseline / pair:.0f}",
                f"{pair * self.rate / operations:.1f}",
                f"{error:.1e}",
            ),
            flush=True,
        )
        return pair

    def squares(self, engine, n_train, size, sigma):
        """PSPC-Square at one size."""
        model = PSPCDenoiser(size, engine=engine).fit(self.train[:n_train])
        z = self.noisy(N_NOISY, sigma)
        return self.row(
            f"square, {engine}",
            n_train,
            size,
            sigma,
            z,
            lambda z: model.denoise(z, sigma),
            square_masks(size),
            box_operations(size),
            repeats=5 if engine == "numba" else 1,
        )

    def masks(self, engine, n_train, fraction, sigma):
        """PSPC-Flex, one mask a pixel."""
        masks = flexible_masks(fraction)
        windows = Masks(fraction, masks[:, None], masks[:, None])
        z = self.noisy(N_NOISY, sigma)
        training_set = TrainingSet(torch.from_numpy(self.train[:n_train]))

        def denoise(z):
            level = torch.full((len(z),), sigma, dtype=torch.float64)
            return masked(z, level, training_set, windows, engine).mean

        n_entries = int(masks.sum())
        return self.row(
            f"masks of {fraction}, {engine}",
            n_train,
            "",
            sigma,
            z,
            denoise,
            masks,
            3 * 3 * 1024 + n_entries + 1024,
            repeats=3,
        )

    def empirical(self, n_noisy, n_train, sigma):
        """Whole images by matrix products: two of them."""
        model = EmpiricalDenoiser().fit(self.train[:n_train])
        return self.row(
            f"empirical, {n_noisy} images",
            n_train,
            "",
            sigma,
            self.noisy(n_noisy, sigma),
            lambda z: model.denoise(z, sigma),
            torch.ones(1, 32, 32, dtype=torch.bool),
            4 * 3072,
        )


def table(images):
    """Print the table and the ratios between its lines."""
    bench = Bench(images)
    small = bench.squares("numba", 10_000, 3, 0.14)
    bench.squares("numba", 10_000, 8, 0.7)
    large = bench.squares("numba", 10_000, 15, 3.26)
    bench.squares("numba", 10_000, 8, 5.0)
    small_alike = bench.squares("numba", 10_000, 3, 3.26)
    for size, sigma in ((3, 0.14), (8, 0.7), (15, 3.26)):
        bench.squares("torch", 2_000, size, sigma)
    bench.masks("numba", 10_000, 0.4, 1.09)
    bench.masks("torch", 2_000, 0.4, 1.09)
    whole = len(bench.train) // 1000 * 1000
    for sigma in (0.3, 3.0, 20.0):
        bench.empirical(64, whole, sigma)
    fewer, more = (bench.squares("numba", n, 8, 0.7) for n in (10_000, whole))
    print(
        f"\ncost of a pair, size 15 over size 3: {large / small:.2f}, "
        f"both at sigma = 3.26: {large / small_alike:.2f}"
    )
    print(f"time, N = {whole} over N = 10000: {whole * more / (10_000 * fewer):.2f}")


def sample(images):
    """Draw 16 images with the paper's schedule; the share of each step, and the memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    model = PSPCDenoiser().fit(images)
    # compiled code is loaded on first use
    PSPCDenoiser(3).fit(images[:100]).denoise(images[:1], 1.0)
    steps = [time.perf_counter()]
    model.sample(
        16, random_state=0, sampler="euler", callback=lambda *_: steps.append(time.perf_counter())
    )
    total = steps[-1] - steps[0]
    print(f"16 samples, N = {len(images)}, 18 Euler steps: {total:.1f} s")
    shares = np.diff(steps) / total
    print("share of each step: " + " ".join(f"{share:.1%}" for share in shares))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # it counts KiB
    print(
        f"peak resident set {peak:.0f} MB, of which {before:.0f} MB were there before fit "
        f"(libraries and data, {images.nbytes / 1e6:.0f} MB)"
    )


def main():
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default="../shared/data/cifar10-32x32.zip")
    parser.add_argument("--sample", action="store_true", help="time the drawing of 16 images")
    options = parser.parse_args()
    images = load_edm_zip(options.data).images
    if options.sample:
        sample(images)
    else:
        # the archive is sorted by class
        table(images[np.random.default_rng(0).permutation(len(images))])


if __name__ == "__main__":
    main()
