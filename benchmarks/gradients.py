"""Time and memory of the backward pass, relative to the forward pass.

    python benchmarks/gradients.py --data path/to/cifar10-32x32.zip

Forward and backward passes of 16 noisy images take turns, and medians of the ratios count. The
memory is the growth of the peak resident memory of a process during one backward pass, after a
forward pass, for two numbers of training images, with ``working_memory`` of 16 MiB.

Writes ``gradients.csv``.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import _results
import torch
from sklearn import config_context

from skpspc import EmpiricalDenoiser, GaussianDenoiser, LocalScoreDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip

SIGMAS = (0.1, 0.5, 2.0)
N_IMAGES = 16
CASES = {
    "Empirical": (EmpiricalDenoiser(), 50_000),
    "PSPC, 5 x 5": (PSPCDenoiser(patch_size=5), 10_000),
    "PSPC, 11 x 11": (PSPCDenoiser(patch_size=11), 10_000),
    "Local scores, 7 x 7": (LocalScoreDenoiser(patch_size=7), 2_000),
    "Gaussian": (GaussianDenoiser(), 50_000),
}


def noisy(images, sigma):
    """Return noisy float32 images of uint8 ones."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(images) / 127.5 - 1 + sigma * noise


def ratio(model, z, sigma, repeats):
    """Return the time of the forward pass, and the ratio of the backward to the forward pass."""
    z.requires_grad_()
    forward, backward = [], []
    for _ in range(repeats + 1):  # the first compiles
        start = time.perf_counter()
        loss = model.denoise(z, sigma).square().sum()
        forward.append(time.perf_counter() - start)
        start = time.perf_counter()
        torch.autograd.grad(loss, z)
        backward.append(time.perf_counter() - start)
    ratios = [b / f for b, f in zip(backward[1:], forward[1:], strict=True)]
    return statistics.median(forward[1:]), statistics.median(ratios)


def peak():
    """Return the peak resident memory of the process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def backward_memory(data, name, n):
    """Print the MiB by which a backward pass raises the peak memory of this process."""
    images = load_edm_zip(data, max_images=n + N_IMAGES).images
    model = CASES[name][0].fit(images[N_IMAGES:])
    z = noisy(images[:N_IMAGES], 0.5)
    with config_context(working_memory=16):
        model.vjp(z[:1], 0.5, z[:1])  # compiles
        loss = model.denoise(z.requires_grad_(), 0.5).square().sum()
        before = peak()
        torch.autograd.grad(loss, z)
        print(peak() - before)


def memory(data, name, n):
    """Return the result of `backward_memory`, in a process of its own."""
    command = [sys.executable, __file__, "--data", str(data), "--memory", name, str(n)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    """Measure, print and write the table."""
    shared = Path(__file__).resolve().parents[2] / "shared"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=shared / "data/cifar10-32x32.zip")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    _results.add_argument(parser)
    options = parser.parse_args()
    if options.memory:
        backward_memory(options.data, options.memory[0], int(options.memory[1]))
        return
    rows = []
    for name, (model, n) in CASES.items():
        images = load_edm_zip(options.data, max_images=n + N_IMAGES).images
        model.fit(images[N_IMAGES:])
        n = len(images) - N_IMAGES
        small, large = (memory(options.data, name, count) for count in (n // 4, n))
        for sigma in SIGMAS:
            seconds, times = ratio(model, noisy(images[:N_IMAGES], sigma), sigma, options.repeats)
            print(f"{name:20} N = {n} sigma = {sigma:<4g} forward {seconds:.3f} s, x {times:.2f}")
            rows.append(
                {
                    "denoiser": name,
                    "n": n,
                    "sigma": sigma,
                    "forward_s": seconds,
                    "backward_ratio": times,
                    "backward_mib_quarter": small,
                    "backward_mib": large,
                }
            )
    _results.write(options.out, "gradients", rows)


if __name__ == "__main__":
    main()
