"""Tables and charts of docs/evidence_64.rst."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from evidence_results import PAPER, nearest, of_kind, with_settings
from measured import (
    REPRODUCTION,
    SMALL,
    Table,
    by_sigma,
    facts,
    plain,
    read,
    span,
    text,
    thousandths,
)

from skpspc.inspection import show_images

_IMAGES = {"faces": "Faces", "tiny-imagenet": "Tiny ImageNet"}  # folders of reproduction
_DOUBLED = "PSPC-Square, paper's sizes, doubled"
_CHOSEN = "PSPC-Square, sizes chosen for the network"


def _read_all(file):
    """Return the rows of a file of both kinds of images, with a column of their names."""
    rows = pd.concat(
        [read(f"{folder}/{file}").assign(images=name) for folder, name in _IMAGES.items()],
        ignore_index=True,
    )
    names = dict.fromkeys(_IMAGES, "the network") | {PAPER: _DOUBLED}
    return rows.replace({"denoiser": names, "chosen_for": names})


def _with_images(rows, column, head, values, shown):
    """Return a table with a row for each kind of images and value of a column."""
    rows = rows.assign(name=rows.images + ": " + rows[column])
    return by_sigma(rows, "name", head, values, shown)


def curve(sigmas):
    """Return differences of the networks from the optimal denoiser."""
    rows = nearest(_read_all("curve"), sigmas)
    return by_sigma(rows, "images", "Network of", "error", thousandths)


def differences(process="forward"):
    """Return differences from the networks, with the chosen settings."""
    rows = of_kind(with_settings(_read_all("differences").query("process == @process")))
    return _with_images(rows, "kind", "Images and denoiser", "shown", str)


def sides():
    """Return the sides of the squares that hold half of the heat."""
    rows = _read_all("heat-maps")
    return _with_images(rows, "denoiser", "Images and denoiser", "side", "{:.1f}".format)


def schedules():
    """Return patch sizes chosen, beside the sizes for CIFAR-10, doubled."""
    rows = _read_all("schedules")
    first = rows.drop_duplicates("sigma")
    doubled = first.assign(images="CIFAR-10", chosen_for="paper's sizes, doubled")
    rows = pd.concat([rows, doubled.assign(size=first.paper_size)])
    return _with_images(rows, "chosen_for", "Sizes for", "size", plain)


def schedule_ratios():
    """Return the errors at chosen sizes divided by errors at the sizes for CIFAR-10, doubled."""
    rows = _read_all("schedules")
    rows = rows.assign(ratio=rows.error / rows.paper_error)
    return _with_images(rows, "chosen_for", "Errors from", "ratio", "{:.2f}".format)


def classes():
    """Return how samples of classes agree with training images."""
    rows = _read_all("classes")
    return pd.DataFrame(
        {
            "Samples of": rows.images + ": " + rows.denoiser,
            "Guidance": rows.guidance.map(plain),
            "Distance": [f"{d:.3f}" for d in rows.distance],
            "Memorised (%)": [f"{100 * m:.0f}" for m in rows.memorised],
            "Nearest image is of the class (%)": [f"{100 * m:.0f}" for m in rows.of_class],
        }
    )


def samples(n=8):
    """Draw samples of classes of Tiny ImageNet: two rows for each denoiser and guidance."""
    kept = np.load(REPRODUCTION / "tiny-imagenet" / "classes.npz")
    names = kept["denoisers"]
    size = 4.5, 1.4 * len(names)
    figure, axes = plt.subplots(len(names), figsize=size, layout="constrained")
    for name, images, ax in zip(names, kept["images"], axes, strict=True):
        show_images(images[: 2 * n], n_columns=n, ax=ax)
        ax.set_title(name, fontsize=SMALL)
    return figure


def _table(file, make):
    """Return the Table of a file of both kinds of images."""
    return Table(tuple(f"{folder}/{file}" for folder in _IMAGES), make)


TABLES = {
    "64-curve": _table("curve", partial(curve, (0.06, 0.3, 1.1, 3.3, 8.4, 80))),
    "64-sides": _table("heat-maps", sides),
    "64-differences": _table("differences", differences),
    "64-differences-reverse": _table("differences", partial(differences, "reverse")),
    "64-schedules": _table("schedules", schedules),
    "64-schedule-ratios": _table("schedules", schedule_ratios),
    "64-classes": _table("classes", classes),
}

CHARTS = {"64-samples": samples}


def numbers():
    """Return the numbers within sentences, by name."""
    sizes = {name: facts(f"{folder}/curve")["n_train"] for folder, name in _IMAGES.items()}
    curves = _read_all("curve")
    peaks = curves.loc[curves.groupby("images").error.idxmax()].set_index("images").sigma
    rows = of_kind(_read_all("differences").query("process == 'forward'"))
    wide = rows.pivot(index=["images", "sigma"], columns="kind", values="error")
    closer = {"Faces": wide[_DOUBLED], "Tiny ImageNet": wide[_CHOSEN]}
    return {
        **{f"N of {name}": f"{int(n):,}" for name, n in sizes.items()},
        **{f"peak of {name}": text(sigma, 2) for name, sigma in peaks.items()},
        **{
            f"{name}, closer": span((wide.Optimal / errors).loc[name])
            for name, errors in closer.items()
        },
    }
