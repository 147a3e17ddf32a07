"""Memory and time of denoisers whose training images lie in a file larger than their memory.

    python benchmarks/scale.py --folder path/to/a/folder --data path/to/cifar10-32x32.zip

makes ``million.npy`` (3.07 GB) in the folder if it is missing: the CIFAR-10 training images, and
copies of them with uniform noise of up to 8 grey levels. Each denoiser then denoises 8 images in a
process of its own. ``scale.csv`` has the times of ``fit`` and of two calls, and the largest
resident set without the pages of mapped files (``RssAnon`` of Linux), which are the page cache. The
first call also reads the file, if it is not in the page cache yet, and the compiled code.
"""

import argparse
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import _results
import numpy as np
import torch

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_edm_zip

N_TRAIN = 1_000_000
N_NOISY = 8
SIGMA = 0.3
CHUNK = 10_000
DENOISERS = {
    "EmpiricalDenoiser()": EmpiricalDenoiser,
    "PSPCDenoiser(3)": lambda: PSPCDenoiser(3),
    "PSPCDenoiser(8)": lambda: PSPCDenoiser(8),
}


def write_images(path, images, n_train):
    """Write the images, then noisy copies of them, to a .npy file of n_train images."""
    rng = np.random.default_rng(0)
    unfinished = path.with_suffix(".unfinished.npy")
    shape = (n_train, *images.shape[1:])
    out = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
    for start in range(0, n_train, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n_train))
        chunk = images[rows % len(images)].astype(np.int16)
        noise = rng.integers(-8, 9, chunk.shape, dtype=np.int16)
        noise[rows < len(images)] = 0
        out[start : start + len(rows)] = (chunk + noise).clip(0, 255)
    out.flush()
    unfinished.rename(path)


def measured(name, path, n_threads):
    """Return the times of fit and of two calls in s, and the peak of anonymous memory in MB."""
    torch.set_num_threads(n_threads)
    images = np.load(path, mmap_mode="r")
    noise = np.random.default_rng(1).standard_normal((N_NOISY, *images.shape[1:]))
    noisy = (images[:N_NOISY] / 127.5 - 1 + SIGMA * noise).astype(np.float32)
    model = DENOISERS[name]()
    before, times = anonymous_megabytes(), []
    with PeakMemory() as peak:
        for call in (
            lambda: model.fit(path),
            lambda: model.denoise(noisy, SIGMA),
            lambda: model.denoise(noisy, SIGMA),
        ):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return {
        "denoiser": name,
        "n_train": len(images),
        "file_MB": path.stat().st_size / 1e6,
        **dict(zip(("fit_s", "first_call_s", "second_call_s"), times, strict=True)),
        "before_MB": before,
        "peak_MB": peak.megabytes,
    }


class PeakMemory:
    """The largest anonymous memory of this process during a block, seen every 5 ms."""

    def __enter__(self):
        self.megabytes, self._done = anonymous_megabytes(), threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self._watcher.join()

    def _watch(self):
        while not self._done.wait(0.005):
            self.megabytes = max(self.megabytes, anonymous_megabytes())


def anonymous_megabytes():
    """Return the resident memory of this process that is no page of a file, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e6


def scale(path, n_threads):
    """Yield the measurements of all denoisers, each in a new process."""
    for name in DENOISERS:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            yield pool.submit(measured, name, path, n_threads).result()


def main():
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder for the training images")
    parser.add_argument("--data", type=Path, default="../shared/data/cifar10-32x32.zip")
    parser.add_argument("--n-train", type=int, default=N_TRAIN)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    _results.add_argument(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = "million" if options.n_train == N_TRAIN else f"images-{options.n_train}"
    path = options.folder / f"{name}.npy"
    if not path.exists():
        write_images(path, load_edm_zip(options.data).images, options.n_train)
    rows = _results.printed("scale", scale(path, options.threads))
    _results.write(options.out, "scale", rows)


if __name__ == "__main__":
    main()
