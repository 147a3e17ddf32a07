"""Time to import skpspc and to print its help, against the imports that it needs in any case.

    python benchmarks/startup.py [--rounds 5]

Each round starts each program once, in turn, so that a machine that slows down slows all of them.
``startup.csv`` has medians over rounds, in seconds: wall time, CPU time (user and system), and the
difference of each to the floor.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from operator import sub

import _results

PROGRAMS = {
    "floor: import torch, sklearn.base": ["-c", "import torch, sklearn.base"],
    "import skpspc": ["-c", "import skpspc"],
    "import torch, sklearn.base, skpspc": ["-c", "import torch, sklearn.base, skpspc"],
    "from skpspc import PSPCDenoiser": ["-c", "from skpspc import PSPCDenoiser"],
    "from skpspc import *": ["-c", "from skpspc import *"],
    "skpspc --help": ["-m", "skpspc", "--help"],
    "skpspc sample --help": ["-m", "skpspc", "sample", "--help"],
}


def seconds(program):
    """Return wall and CPU time of one start of the interpreter."""
    before, begin = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *program], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, os.times()
    cpu = after.children_user + after.children_system
    return wall, cpu - before.children_user - before.children_system


def main(arguments=None):
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    _results.add_argument(parser)
    options = parser.parse_args(arguments)
    for program in PROGRAMS.values():
        seconds(program)  # files come into the cache of the system
    times = {name: [] for name in PROGRAMS}
    for _ in range(options.rounds):
        for name, program in PROGRAMS.items():
            times[name].append(seconds(program))
    floor = next(iter(times.values()))
    rows = _results.printed("startup", (_row(name, times[name], floor) for name in times))
    _results.write(options.out, "startup", rows, rounds=options.rounds)


def _row(name, measured, floor):
    """Return medians over rounds of wall and CPU time, alone and over the floor."""
    row = {"program": name}
    for kind, own, least in zip(
        ("wall", "cpu"), zip(*measured, strict=True), zip(*floor, strict=True), strict=True
    ):
        row[f"{kind}_s"] = statistics.median(own)
        row[f"{kind}_over_floor_s"] = statistics.median(map(sub, own, least))
    return row


if __name__ == "__main__":
    main()
