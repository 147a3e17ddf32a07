"""Time to import skpspc and to print its help, against the imports that it cannot do without.

    python benchmarks/startup.py [--rounds 5]

Each round starts each program once, in turn, so that a machine that slows down slows all of them.
Printed: the median over rounds of wall time and of CPU time (user and system), in seconds, and the
difference to the floor, round by round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

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
    """Wall and CPU time of one start of the interpreter."""
    before, begin = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *program], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, os.times()
    cpu = after.children_user + after.children_system
    return wall, cpu - before.children_user - before.children_system


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(arguments).rounds
    for program in PROGRAMS.values():
        seconds(program)  # files come into the cache of the system
    times = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            times[name].append(seconds(program))
    floor = next(iter(times.values()))
    print(f"{'':36}  wall   over floor    CPU   over floor")
    for name, measured in times.items():
        columns = []
        for kind in (0, 1):
            own = [round_[kind] for round_ in measured]
            over = [a - b[kind] for a, b in zip(own, floor, strict=True)]
            columns.append(f"{statistics.median(own):5.2f}  {statistics.median(over):+10.2f}")
        print(f"{name:36} {'  '.join(columns)}")


if __name__ == "__main__":
    main()
