"""CSV files of the benchmarks: rows of numbers, below the command and facts of the machine."""

import argparse
import csv
import os
import shlex
import sys
from datetime import date
from pathlib import Path

import torch

import skpspc

FOLDER = Path(__file__).parent / "results"


def add_argument(parser: argparse.ArgumentParser):
    """Add ``--out``, the folder of the CSV files."""
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the CSV files")


def facts(**measured):
    """Return the command, the date, the machine and the versions, and what the script measured."""
    script, *arguments = sys.argv
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(script).name}", *arguments]),
        "date": date.today().isoformat(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "skpspc": skpspc.__version__,
        "torch": torch.__version__,
        **measured,
    }


def printed(title, rows):
    """Return rows as a list; print each as it comes, below a title."""
    print(f"\n{title}")
    kept = []
    for row in rows:
        kept.append(row)
        print("  ".join(f"{key} {_text(value)}" for key, value in row.items()), flush=True)
    return kept


def write(folder, name, rows, **measured):
    """Write rows, dicts of equal keys, to ``folder/name.csv``.

    Lines of "# fact: value" come first: `facts`, and those given here. Floats keep four significant
    digits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in facts(**measured).items())
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)


def _text(value):
    return f"{value:.4g}" if isinstance(value, float) else value
