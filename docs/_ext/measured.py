"""CSV files of measurements as tables of text: how pages show numbers, wherever they come from."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

_DOCS = Path(__file__).parents[1]
REPRODUCTION = _DOCS / "reproduction"
FOLDERS = (_DOCS.parent / "benchmarks" / "results", REPRODUCTION)

# Okabe and Ito: distinct to all kinds of sight, on light and on dark ground.
BLUE, ORANGE, GREEN, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00"
SMALL = 9  # points of labels


@cache
def read(file):
    """Return the rows of a CSV file, a DataFrame."""
    return pd.read_csv(_path(file), comment="#")


@cache
def facts(file):
    """Return the facts above the rows of a CSV file, a dict of str."""
    lines = _path(file).read_text(encoding="utf-8").splitlines()
    return dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))


def _path(file):
    return next(path for folder in FOLDERS if (path := folder / f"{file}.csv").is_file())


def source(file):
    """Return the command of a file, with the threads and the date, as a paragraph.

    Of several files, a tuple, the paragraphs.
    """
    if isinstance(file, tuple):
        return "\n\n".join(map(source, file))
    about = facts(file)
    threads = f"{about['threads']} thread{'' if about['threads'] == '1' else 's'}"
    when = about["date"]
    if "torch" not in about:  # scripts that write CSV themselves name their version of torch
        month = f"{datetime.strptime(when, '%Y-%m'):%B %Y}"
        when = f"transcribed from the script's printed tables of {month}"
    return f"``{about['command']}``, {threads}, {when}."


def text(value, digits=3):
    """Return a number with so many significant digits; text stays."""
    if isinstance(value, str):
        return value
    if np.isnan(value):
        return ""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if abs(value) >= 10**digits:
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def plain(value):
    """Return a setting, such as a noise level, without further digits; text stays."""
    return value if isinstance(value, str) else "" if np.isnan(value) else f"{value:,g}"


def thousandths(value):
    """Return a number in thousandths."""
    return text(1000 * value)


def span(values, digits=2):
    """Return "smallest to largest"."""
    low, high = (text(each, digits) for each in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Table:
    """A table of text, a DataFrame, and the file or files that it is made from."""

    file: str | tuple[str, ...]
    make: Callable


def columns(file, heads):
    """Return the Table of columns of a file: heads maps a head to a name, and how it is shown."""

    def make():
        return pd.DataFrame(
            {head: read(file)[name].map(shown) for head, (name, shown) in heads.items()}
        )

    return Table(file, make)


two_digits = partial(text, digits=2)


def by_sigma(rows, index, head, values, shown=text, order=None):
    """Return a table with a row for each index, in order, and a column for each noise level."""
    wide = rows.pivot(index=index, columns="sigma", values=values)
    wide = wide.loc[list(dict.fromkeys(rows[index])) if order is None else order]
    body = {f"{sigma:.2g}": wide[sigma].map(shown).tolist() for sigma in sorted(wide)}
    return pd.DataFrame({f"{head} at σ =": list(wide.index), **body})


def over(rows, baseline, keys):
    """Return error ratios of rows to those of a denoiser with equal keys, an array."""
    base = rows[rows.denoiser == baseline].set_index(keys).error
    return rows.error.to_numpy() / base.loc[pd.MultiIndex.from_frame(rows[keys])].to_numpy()
