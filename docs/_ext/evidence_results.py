"""Tables and charts of docs/evidence.rst."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from measured import (
    REPRODUCTION,
    SMALL,
    Table,
    by_sigma,
    facts,
    over,
    read,
    span,
    text,
    thousandths,
)

from skpspc.inspection import ErrorCurveDisplay, ErrorTable, SensitivityDisplay, show_images

_NETWORKS = {"unet": "UNet", "transformer": "Transformer", "mixer": "MLP-mixer"}
PAPER = "PSPC-Square, paper's sizes"


def curve_table(sigmas):
    """Return the networks' differences from the optimal denoiser, in thousandths."""
    rows = read("curve")
    rows = nearest(rows.assign(denoiser=rows.denoiser.map(_NETWORKS)), sigmas)
    return by_sigma(rows, "denoiser", "Network", "error", thousandths)


def nearest(rows, sigmas):
    """Return the rows at the noise levels nearest to ``sigmas``."""
    levels = rows.sigma.unique()
    chosen = [min(levels, key=lambda level, to=to: abs(np.log(level / to))) for to in sigmas]
    return rows[rows.sigma.isin(chosen)]


def curve_by_level():
    """Return the differences at every noise level, in thousandths, a row for each level."""
    rows = read("curve").assign(shown=lambda rows: rows.error.map(thousandths))
    wide = rows.pivot(index="sigma", columns="denoiser", values="shown")
    body = {shown: wide[name].tolist() for name, shown in _NETWORKS.items()}
    return pd.DataFrame({"σ": wide.index.map(partial(text, digits=3)), **body})


def curve():
    """Draw the networks' differences from the optimal denoiser."""
    rows = read("curve").assign(denoiser=lambda rows: rows.denoiser.map(_NETWORKS))
    wide = rows.pivot(index="sigma", columns="denoiser")
    names = list(_NETWORKS.values())
    n = int(facts("curve")["n"])
    table = ErrorTable(
        wide.index.to_numpy(),
        names,
        wide.error[names].to_numpy(),
        wide.standard_error[names].to_numpy(),
        n,
        "forward",
        "the optimal denoiser",
        "noisy training images",
    )
    figure, ax = plt.subplots(figsize=(4.5, 2.75), layout="constrained")
    ErrorCurveDisplay.from_predictions(table, ax=ax)
    ax.yaxis.label.set_size(SMALL)
    return figure


def _labels(denoisers):
    """Return the names of denoisers, broken at commas."""
    return [_NETWORKS.get(name, name).replace(", ", ",\n") for name in denoisers]


def heat_maps(sigmas=(0.3, 1.1, 3.3, 8.4)):
    """Draw the heat map of the middle pixel: a row for each denoiser."""
    kept = np.load(REPRODUCTION / "heat-maps.npz")
    levels = [int(np.argmin(abs(kept["sigmas"] - sigma))) for sigma in sigmas]
    names = _labels(kept["denoisers"])
    figure, axes = plt.subplots(
        len(names), len(levels), figsize=(4.5, 3.95), layout="constrained", squeeze=False
    )
    for name, heat, row in zip(names, kept["heat"], axes, strict=True):
        heat = heat[levels, None].astype(float)
        SensitivityDisplay.from_predictions(
            heat, kept["sigmas"][levels], pixels=[kept["pixel"]], ax=list(row), colorbar=False
        )
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=SMALL)
    for ax in axes.flat:
        ax.set_xlabel("")  # the table has the sides
    for ax in axes[1:].flat:
        ax.set_title("")
    return figure


def sample_grid(n=8):
    """Draw samples from the same noise: a row for each denoiser."""
    kept = np.load(REPRODUCTION / "samples.npz")
    names = _labels(kept["denoisers"])
    figure, axes = plt.subplots(len(names), figsize=(4.5, 2.65), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.01, hspace=0)
    for name, images, ax in zip(names, kept["images"], axes, strict=True):
        show_images(images[:n], n_columns=n, ax=ax)
        beside = {"transform": ax.transAxes, "ha": "right", "va": "center"}
        ax.text(-0.02, 0.5, name, fontsize=SMALL, **beside)
    return figure


def of_kind(rows):
    """Return rows whose denoisers are named by kind, not by network."""
    kinds = [
        name.replace(f" {network}", " the network")
        for name, network in zip(rows.denoiser, rows.network, strict=True)
    ]
    return rows.assign(kind=kinds)


def differences(process="forward"):
    """Return the differences from networks, in thousandths: means over the three networks."""
    rows = of_kind(read("differences").query("process == @process"))
    order = list(dict.fromkeys(rows.kind))
    means = rows.groupby(["kind", "sigma"]).error.mean().reset_index()
    return by_sigma(means, "kind", "Denoiser", "error", thousandths, order)


def differences_of(network, process):
    """Return the differences from one network, in thousandths, with the chosen settings."""
    rows = read("differences").query("network == @network and process == @process")
    return by_sigma(with_settings(rows), "denoiser", "Denoiser", "shown", str)


def with_settings(rows):
    """Return rows with a column of errors, in thousandths, and chosen settings."""
    shown = [
        thousandths(error) if np.isnan(setting) else f"{thousandths(error)} ({setting:g})"
        for error, setting in zip(rows.error, rows.setting, strict=True)
    ]
    return rows.assign(shown=shown)


def against_squares():
    """Return error ratios to PSPC-Square with the paper's sizes, ranges over networks."""
    rows = of_kind(read("differences"))
    rows = rows.assign(ratio=over(rows, PAPER, ["network", "process", "sigma"]))
    rows = rows[rows.kind != PAPER]
    rows = rows.assign(name=rows.kind + ", " + rows.process)
    spans = rows.groupby(["name", "sigma"]).ratio.agg(lambda r: f"{min(r):.2f} to {max(r):.2f}")
    order = list(dict.fromkeys(rows.name))
    return by_sigma(spans.reset_index(), "name", "Denoiser and process", "ratio", str, order)


def pairs(sigma):
    """Return the differences of all denoisers from one another at a noise level."""
    rows = read("pairs").query("sigma == @sigma")
    order = list(dict.fromkeys(rows.denoiser))
    wide = rows.pivot(index="denoiser", columns="other", values="error").loc[order]
    names = {name: _NETWORKS.get(name, name) for name in order}
    body = {names[other]: wide[other].map(thousandths).tolist() for other in order}
    return pd.DataFrame({f"σ = {sigma:g}": list(names.values()), **body})


def samples_table():
    """Return distances to training images and mean agreement with the networks."""
    rows = read("samples")

    def agreement(row, measure):
        others = [k for k in _NETWORKS if k != row.denoiser]
        return f"{np.mean([row[f'{measure}_{k}'] for k in others]):.2f}"

    return pd.DataFrame(
        {
            "Samples of": [_NETWORKS.get(name, name) for name in rows.denoiser],
            "Distance": [f"{d:.3f}" for d in rows.distance],
            "Memorised (%)": [f"{100 * m:.0f}" for m in rows.memorised],
            "Cosine": [agreement(r, "cosine") for _, r in rows.iterrows()],
            "Pearson's r": [agreement(r, "r") for _, r in rows.iterrows()],
        }
    )


def samples_full():
    """Return agreement with each network."""
    rows = read("samples")
    body = {
        f"{head}, {shown}": [f"{v:.2f}" for v in rows[f"{measure}_{name}"]]
        for measure, head in (("cosine", "Cosine"), ("r", "r"))
        for name, shown in _NETWORKS.items()
    }
    names = [_NETWORKS.get(name, name) for name in rows.denoiser]
    return pd.DataFrame({"Samples of": names, **body})


def sides():
    """Return the sides of the squares that hold half of the heat."""
    rows = read("heat-maps")
    rows = rows.assign(denoiser=rows.denoiser.map(lambda name: _NETWORKS.get(name, name)))
    return by_sigma(rows, "denoiser", "Denoiser", "side", "{:.1f}".format)


LEVELS = (0.3, 0.6, 1.1, 1.9, 3.3)
TABLES = {
    "curve": Table("curve", partial(curve_table, (0.06, 0.3, 1.1, 3.3, 8.4, 80))),
    "curve-full": Table("curve", curve_by_level),
    "sides": Table("heat-maps", sides),
    "differences-forward": Table("differences", differences),
    "differences-reverse": Table("differences", partial(differences, "reverse")),
    **{
        f"differences-{network}-{process}": Table(
            "differences", partial(differences_of, network, process)
        )
        for network in _NETWORKS
        for process in ("forward", "reverse")
    },
    "against-squares": Table("differences", against_squares),
    **{f"pairs-{sigma}": Table("pairs", partial(pairs, sigma)) for sigma in LEVELS},
    "samples": Table("samples", samples_table),
    "samples-full": Table("samples", samples_full),
}

CHARTS = {"curve": curve, "heat-maps": heat_maps, "samples": sample_grid}


def numbers():
    """Return the numbers within sentences, by name."""
    rows = read("curve")
    peaks = rows.loc[rows.groupby("denoiser").error.idxmax()]
    forward = read("differences").query("process == 'forward'")
    keys = ["network", "sigma"]
    optimal, squares = (
        forward[forward.denoiser == name].set_index(keys).error for name in ("Optimal", PAPER)
    )
    times = (optimal / squares).groupby("sigma")
    samples = read("samples").set_index("denoiser")
    return {
        "peak sigma": span(peaks.sigma, 3),
        "peak": span(peaks.error),
        **{f"optimal over squares {sigma:g}": span(own) for sigma, own in times},
        "copied": text(100 * samples.memorised["Optimal"]),
    }
