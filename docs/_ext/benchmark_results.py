"""Tables, charts and numbers of docs/benchmarks.rst."""

from functools import partial
from itertools import cycle, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from measured import (
    AMBER,
    BLUE,
    GREEN,
    ORANGE,
    SKY,
    SMALL,
    Table,
    by_sigma,
    columns,
    facts,
    over,
    plain,
    read,
    span,
    text,
    thousandths,
    two_digits,
)

_NETWORKS = {
    "mnist_ddpm_cnn": "CNN, MNIST",
    "mnist_flow_vit": "ViT, MNIST",
    "gray_bf_dncnn": "DnCNN, gray CIFAR-10",
}
_ARCHITECTURES = {"unet": "UNet", "transformer": "Transformer", "mixer": "MLP-mixer"}
_SOURCES = {"training images": "training", "held-out images": "held-out"}
PAPER, BEST, BLEND = "PSPC-Square, paper's sizes", "PSPC-Square, best size", "Blend"


def _kernels():
    rows = read("kernels")
    compiled = rows.engine.map({"numba": "compiled", "torch": "torch"})
    names = [
        {"squares": f"squares of {size:g}", "masks": f"masks, λ = {size:g}"}.get(windows, windows)
        for windows, size in zip(rows.windows, rows["size"], strict=True)
    ]
    return rows.assign(name=names, code=compiled)


def kernels():
    """Return the table of exact kernels."""
    rows = _kernels()
    return pd.DataFrame(
        {
            "Windows": rows.name,
            "Code": rows.code,
            "N": rows.n_train.map(plain),
            "σ": rows.sigma.map(plain),
            "Time per pair (µs)": rows.us_per_pair.map(text),
            "Published time / time": rows.speedup.map(text),
            "Time / limit": rows.over_limit.map(text),
            "Largest error": rows.max_error.map(text),
        }
    )


def speed():
    """Draw the time per pair of the limit, of skpspc and of the published algorithm."""
    rows = _kernels().drop_duplicates(["name", "code"])
    first = rows.drop_duplicates("name")
    others = rows.drop(first.index)  # without numba
    limit, published = first.us_per_pair / first.over_limit, first.us_per_pair * first.speedup
    places = dict(zip(first.name, range(len(first)), strict=True))
    n_others = plain(*others.n_train.unique())

    figure, ax = plt.subplots(figsize=(4.5, 3.7), layout="constrained")
    ax.hlines(places.values(), limit, published, color="0.7", lw=1.5, zorder=1)
    points = {
        "limit of the arithmetic": (limit, places.values(), "|", "0.4"),
        "skpspc": (first.us_per_pair, places.values(), "o", BLUE),
        f"without numba, N = {n_others}": (others.us_per_pair, others.name.map(places), "D", AMBER),
        "published algorithm": (published, places.values(), "s", ORANGE),
    }
    for label, (times, heights, marker, colour) in points.items():
        size = 13 if marker == "|" else 8
        ax.plot(times, heights, marker, color=colour, label=label, ms=size, mew=2, ls="")
    for time, speedup, place in zip(published, first.speedup, places.values(), strict=True):
        at = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(f"{speedup:.0f} × skpspc", (time, place), **at, fontsize=SMALL)
    labels = [
        f"{row.name}\nN = {plain(row.n_train)}, σ = {row.sigma:g}"
        for row in first.drop(columns="windows").itertuples(index=False)
    ]
    ax.set_yticks(list(places.values()), labels, fontsize=SMALL)
    ax.set(xscale="log", xlim=(0.03, 150 * max(published)))
    ax.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    ax.minorticks_off()
    ax.set_xlabel("µs per pair of a noisy and a training image", fontsize=SMALL)
    ax.set_ylim(len(places) - 0.5, -0.5)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=SMALL)
    _bare(ax)
    ax.grid(False, axis="y")
    return figure


def _bare(ax):
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="0.85", lw=0.7)
    ax.set_axisbelow(True)


_LINES = {
    "EmpiricalDenoiser()": (BLUE, "o"),
    "EmpiricalDenoiser(tol=1e-3)": (SKY, "s"),
    "PSPCDenoiser(8)": (ORANGE, "^"),
    "GaussianDenoiser()": (GREEN, "D"),
}


GROWN = {
    "exact": "EmpiricalDenoiser()",
    "tol": "EmpiricalDenoiser(tol=1e-3)",
    "PSPC": "PSPCDenoiser(8)",
}


def ms_at(name, n_train):
    """Return the milliseconds per noisy image with N training images."""
    rows = read("growth").query("denoiser == @name and n_train == @n_train")
    return text(rows.ms_per_image.item(), 2)


def growth():
    """Draw the time per noisy image against N."""
    figure, ax = plt.subplots(figsize=(4.5, 3.1), layout="constrained")
    rows = read("growth")
    for name, (colour, marker) in _LINES.items():
        own = rows[rows.denoiser == name]
        ax.plot(own.n_train, own.ms_per_image, marker=marker, color=colour, label=name)
    ends = np.array([rows.n_train.min(), rows.n_train.max()])
    largest = rows.ms_per_image.max()
    ax.plot(ends, largest * ends / ends[1] / 3, ":", color="0.5", label="in proportion to N")
    ax.set(xscale="log", yscale="log", xlabel="training images N", ylabel="ms per noisy image")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=SMALL)
    _bare(ax)
    return figure


def growth_table():
    """Return the time per noisy image: a row for each N."""
    wide = read("growth").pivot(index="n_train", columns="denoiser", values="ms_per_image")
    body = {f"``{name}``": wide[name].map(text).tolist() for name in _LINES}
    return pd.DataFrame({"N": [plain(n) for n in wide.index], **body})


PSPC_SQUARE = "PSPC-Square"
SIZE, SIGMA = 7, 0.5  # where all denoisers take turns


def denoisers_at(size, sigma):
    """Return times per pair at a patch size and noise level: a row for each denoiser."""
    rows = read("denoisers").query("patch_size == @size and sigma == @sigma")
    return rows.set_index("denoiser")


def denoisers():
    """Draw the time per pair of every denoiser at one patch size and noise level."""
    rows = denoisers_at(SIZE, SIGMA).sort_values("us_per_pair")
    figure, ax = plt.subplots(figsize=(4.5, 4.0), layout="constrained")
    colours = [BLUE if name == PSPC_SQUARE else SKY for name in rows.index]
    names = rows.index.str.replace(", ", ",\n")
    bars = ax.barh(names, rows.us_per_pair, height=0.65, color=colours)
    labels = [
        "" if name == PSPC_SQUARE else f"{text(ratio, 2)} × PSPC"
        for name, ratio in rows.over_pspc.items()
    ]
    ax.bar_label(bars, labels, padding=4, fontsize=SMALL)
    low, high = rows.us_per_pair.min(), rows.us_per_pair.max()
    ax.set(xscale="log", xlim=(low / 3, 20 * high))
    ticks = [tick for tick in (0.01, 0.1, 1, 10, 100, 1000) if low / 3 < tick < 2 * high]
    ax.set_xticks(ticks, map(plain, ticks))
    ax.set_xlabel("µs per pair of a noisy and a training image", fontsize=SMALL)
    ax.tick_params("y", length=0, labelsize=SMALL)
    ax.minorticks_off()
    ax.invert_yaxis()
    _bare(ax)
    ax.grid(False, axis="y")
    return figure


def large_images(side):
    """Return the rows of samples of one side."""
    return read("large-images").query("width == @side")


def large_images_table():
    """Return the time of large samples: a row for each training set."""
    rows = read("large-images")
    sides = zip(rows.channels, rows.height, rows.width, strict=True)
    return pd.DataFrame(
        {
            "Images": rows.images,
            "Shape": [" x ".join(map(str, shape)) for shape in sides],
            "N": rows.n_train.map(plain),
            "Samples": rows.n_samples.map(plain),
            "Steps": rows.n_steps.map(plain),
            "Time (s)": rows.seconds.map(text),
            "Time per sample (s)": rows.s_per_sample.map(two_digits),
            "Time per sample and step (ms)": rows.ms_per_image_and_step.map(two_digits),
        }
    )


TREES = {"tree_ms": "with k-d trees", "exact_ms": "with all patches"}


def trees_growth():
    """Return the time per noisy image against N: a row for each N, two columns for each sigma."""
    rows = read("trees-growth").drop_duplicates(["n_train", "sigma"])
    wide = rows.pivot(index="n_train", columns="sigma", values=list(TREES))
    built = rows.groupby("n_train").build_s.first()
    body = {
        f"σ = {sigma:g}, {TREES[column]}": wide[column, sigma].map(text).tolist()
        for sigma in rows.sigma.unique()
        for column in TREES
    }
    return pd.DataFrame(
        {
            "N": [plain(n) for n in wide.index],
            "Trees built in (s)": built.map(text).tolist(),
            **body,
        }
    )


def trees_exponents():
    """Return the exponents of N of the time with trees, from 50,000 images on, by sigma."""
    wide = read("trees-growth").pivot(index="n_train", columns="sigma", values="tree_ms")
    growth = np.log(wide.loc[wide.index.max()] / wide.loc[50_000])
    return growth / np.log(wide.index.max() / 50_000)


def nearest_over_random():
    """Return the errors of nearest images divided by those of random ones, for sizes up to 7."""
    rows = read("nearest-images").query("patch_size <= 7")
    error = rows.pivot(index="sigma", columns="denoiser", values="rms_error")
    return (
        error[["plain, N / 10", "plain, N / 20"]].to_numpy()
        / error[["random, N / 10", "random, N / 20"]].to_numpy()
    )


def nearest_images():
    """Return errors and times of PSPC from few whole images: a row for each way and sigma."""
    rows = read("nearest-images")
    wide = rows.pivot(index="sigma", columns="denoiser", values=["ms_per_image", "rms_error"])
    names = list(dict.fromkeys(rows.denoiser))
    heads = {"PSPCDenoiser(tol=0.002)": "tol = 0.002", "PSPCDenoiser()": "exact"}
    return pd.DataFrame(
        {
            "σ": [plain(sigma) for sigma in wide.index],
            **{
                heads.get(name, name): [
                    f"{text(ms)} ms, {error:.1g}" if error else f"{text(ms)} ms, 0"
                    for ms, error in zip(
                        wide["ms_per_image", name], wide["rms_error", name], strict=True
                    )
                ]
                for name in names
            },
        }
    )


# Lines of the chart: family, noise level, label, colour, marker, line.
_APPROXIMATIONS = (
    ("n_neighbors", 0.3, "n_neighbors, σ = 0.3", BLUE, "o", "-"),
    ("n_neighbors", 1.0, "n_neighbors, σ = 1", BLUE, "o", ":"),
    ("tol", 0.3, "tol, σ = 0.3", ORANGE, "D", "-"),
    ("tol", 1.0, "tol, σ = 1", ORANGE, "D", ":"),
    ("ELS, tol", 0.3, "equivariant (ELS), σ = 0.3", GREEN, "^", "-"),
)


def approximations():
    """Return relative time and error of approximate answers, those of ELS included."""
    els = read("index-equivariant")
    els = els.assign(
        family="ELS, tol", time=1 / els.speedup, setting=[f"tol={tol:g}" for tol in els.tol]
    )
    return pd.concat([read("error-time"), els])


def error_time():
    """Draw the error of approximate answers against their relative time."""
    figure, ax = plt.subplots(figsize=(4.5, 3.35), layout="constrained")
    rows = approximations()
    ax.axhspan(1e-8, 3e-7, color="0.9", lw=0)
    ax.annotate("rounding", (0.985, 0.03), xycoords="axes fraction", ha="right", fontsize=SMALL)
    ax.axvline(1, color="0.5", ls="--", lw=1)
    for family, sigma, label, colour, marker, line in _APPROXIMATIONS:
        own = rows[(rows.family == family) & (rows.sigma == sigma)]
        face = colour if line == "-" else "none"
        style = {"color": colour, "marker": marker, "ls": line, "markerfacecolor": face}
        ax.plot(own.time, own.rms_error, label=label, **style)
        if family != "tol":  # every error is rounding
            _label_points(ax, own[own.rms_error > 3e-7])
    ax.set(xscale="log", yscale="log", ylim=(1e-8, 0.3), xlabel="time / time of the exact answer")
    ax.set_ylabel("root mean square error")
    ax.set_xlim(left=0.75 * rows.time.min())
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5) if tick < 1.2 * ax.get_xlim()[1]]
    ax.set_xticks(ticks, map(str, ticks))
    ax.minorticks_off()
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=SMALL)
    _bare(ax)
    return figure


def _label_points(ax, rows):
    """Write the value of the setting beside each point, in turn on the right and on the left."""
    sides = cycle([((6, 3), "left"), ((-6, -10), "right")])
    for row, (offset, ha) in zip(rows.sort_values("time").itertuples(), sides, strict=False):
        at = {"xy": (row.time, row.rms_error), "xytext": offset, "textcoords": "offset points"}
        ax.annotate(row.setting.split("=")[1], **at, ha=ha, fontsize=SMALL)


def family_summary(baseline=None):
    """Return geometric means of error ratios: a column for each network and source.

    None is the baseline of ``family.csv``; to another one, only rows of all images have a ratio.
    """
    rows = read("family")
    ratio = rows.ratio
    if baseline is not None:
        rows = rows[rows.n_images == rows.n_images.max()]
        ratio = over(rows, baseline, ["network", "source", "sigma"])
    log = rows.assign(log=np.log(ratio)).groupby(["denoiser", "network", "source"]).log
    means = np.exp(log.mean()).unstack(["network", "source"])
    return means.loc[list(dict.fromkeys(rows.denoiser)), list(product(_NETWORKS, _SOURCES))]


def family_ratios(baseline=None):
    """Return `family_summary` as text."""
    means = family_summary(baseline)
    body = {
        f"{_NETWORKS[network]}, {_SOURCES[source]}": [f"{v:.2f}" for v in column]
        for (network, source), column in means.items()
    }
    return pd.DataFrame({"Denoiser": list(means.index), **body})


def family_errors(network, source):
    """Return errors in thousandths, with the settings, at every noise level."""
    rows = read("family").query("network == @network and source == @source")
    shown = [
        f"{thousandths(error)} ({setting})" if isinstance(setting, str) else thousandths(error)
        for error, setting in zip(rows.error, rows.setting, strict=True)
    ]
    return by_sigma(rows.assign(shown=shown), "denoiser", "Denoiser", "shown", str)


def blend_weights():
    """Return the members of each blend, with their weights."""
    rows = read("family-blends").query("blend == @BLEND")
    members = [
        f"{name} {weight:.2f}" for name, weight in zip(rows.denoiser, rows.weight, strict=True)
    ]
    keys = ["network", "source", "sigma"]
    joined = rows.assign(members=members).groupby(keys, sort=False).members.agg("; ".join)
    return pd.DataFrame(
        [
            {
                "Network": _NETWORKS[network],
                "Noisy images": _SOURCES[source],
                "σ": f"{sigma:g}",
                "Weights": each,
            }
            for (network, source, sigma), each in joined.items()
        ]
    )


def look(network):
    """Return side and percentage of heat maps at every noise level."""
    rows = read("locality").query("network == @network")
    shown = [f"{a:g} ({b:g})" for a, b in zip(rows.side, rows.percent_nearby, strict=True)]
    return by_sigma(rows.assign(shown=shown), "denoiser", "Denoiser", "shown", str)


_IMAGES = {"mnist": "MNIST", "cifar": "CIFAR-10", "faces": "faces, 64 x 64"}
_SIZES = {
    "calibrated": ("best size", plain),
    "edge": ("edge", plain),
    "predicted": ("critical side by the variance", two_digits),
    "ratio": ("error at the edge / at the best size", text),
    "information": ("information at the best size / log N", two_digits),
}


def edge_sizes():
    """Return sizes at the edge of memorisation beside the best ones, by images and noise level."""
    rows = read("memorisation")
    shown = [
        rows.assign(name=rows.images.map(_IMAGES) + f", {words}", shown=rows[column].map(show))
        for column, (words, show) in _SIZES.items()
    ]
    order = [f"{images}, {words}" for images in _IMAGES.values() for words, _ in _SIZES.values()]
    return by_sigma(pd.concat(shown), "name", "Images", "shown", str, order)


def accuracy():
    """Return errors of float32 answers over all seeds: medians, and the largest."""
    rows = read("accuracy")
    names = list(dict.fromkeys(rows.denoiser))
    body = {}
    for kind in ("held-out", "unrelated"):
        seeds = rows[rows.noisy == kind].groupby("denoiser")
        worst = rows.loc[seeds.max_error.idxmax()].set_index("denoiser").loc[names]
        body[f"{kind}, median"] = seeds.median_error.median()[names].map(text).tolist()
        body[f"{kind}, largest (at σ)"] = [
            f"{text(e)} ({s:g})" for e, s in zip(worst.max_error, worst.sigma, strict=True)
        ]
    return pd.DataFrame({"Denoiser": names, **body})


# Wang's public benchmark: CIFAR-10, squared errors summed over an image, by noise level.
_PUBLISHED = pd.DataFrame(
    {
        "sigma": (0.05, 0.127, 0.452, 0.853, 2.212),
        "Gaussian": (2.612, 8.408, 29.17, 47.50, 86.64),
        "Local scores": (5.394, 9.820, 32.07, 51.05, 91.99),
        "PCA locality": (3.416, 9.327, 29.73, 48.49, 87.84),
        "A trained network (EDM)": (1.386, 4.625, 19.99, 37.72, 81.01),
    }
)


def held_out():
    """Return errors on held-out images, and in brackets their ratios to the Gaussian denoiser.

    Rows with fewer images than the first have their number behind the name.
    """
    rows = read("held-out")
    names = [
        name if n == rows.n[0] else f"{name}, {n} images"
        for name, n in zip(rows.denoiser, rows.n, strict=True)
    ]
    published = _PUBLISHED.melt("sigma", var_name="denoiser", value_name="error")
    of_gaussian = published.sigma.map(_PUBLISHED.set_index("sigma").Gaussian)
    published = published.assign(
        denoiser="published: " + published.denoiser, ratio=published.error / of_gaussian
    )
    rows = pd.concat([rows.assign(denoiser=names), published])
    shown = [f"{text(e)} ({r:.2f})" for e, r in zip(rows.error, rows.ratio, strict=True)]
    return by_sigma(rows.assign(shown=shown), "denoiser", "Denoiser", "shown", str)


def held_out_settings():
    """Return the settings of the table `held_out`, of rows that have one."""
    rows = read("held-out").dropna(subset="setting")
    return by_sigma(rows, "denoiser", "Denoiser", "setting", str)


def over_gaussian():
    """Return differences from networks over the Gaussian denoiser's, by denoiser and sigma."""
    rows = read("against-networks")
    rows = rows.assign(ratio=over(rows, "Gaussian", ["network", "sigma"]))
    return np.exp(np.log(rows.ratio).groupby([rows.denoiser, rows.sigma], sort=False).mean())


def against_networks():
    """Return the table of `over_gaussian`, with geometric means over all noise levels."""
    means = over_gaussian().reset_index()
    all_levels = np.exp(np.log(means.ratio).groupby(means.denoiser, sort=False).mean())
    table = by_sigma(means, "denoiser", "Denoiser", "ratio", "{:.2f}".format)
    return table.assign(**{"all levels": [f"{ratio:.2f}" for ratio in all_levels]})


def _named_by_space(file):
    """Return the rows of a file of latents, with a column of names of space and denoiser."""
    rows = read(file)
    return rows.assign(name=rows.space.str.capitalize() + ": " + rows.denoiser)


def latents():
    """Return error ratios to the Gaussian denoiser, in latents and in pixels."""
    rows = _named_by_space("latents").query("denoiser != 'Gaussian'")
    return by_sigma(rows, "name", "Denoiser", "ratio", "{:.2f}".format)


def latents_images():
    """Return the errors of images, in thousandths."""
    rows = _named_by_space("latents")
    return by_sigma(rows, "name", "Denoiser", "image_error", thousandths)


def latents_samples():
    """Return distances of samples from images."""
    rows = _named_by_space("latents-samples")
    return pd.DataFrame(
        {
            "Samples": rows.name,
            "Fréchet distance": rows.frechet.map(text),
            "Distance": [f"{d:.3f}" for d in rows.distance],
            "Memorised (%)": [f"{100 * m:.0f}" for m in rows.memorised],
            "Time of all (s)": ["" if s == 0 else text(s, 2) for s in rows.seconds],
        }
    )


def latents_mirrors():
    """Return errors with mirror images, in thousandths."""
    rows = read("latents-mirror")
    return by_sigma(rows, "mirrors", "Mirror images", "error", thousandths)


def axes():
    """Return ratios to square patches: geometric means over the networks, at every noise level."""
    rows = read("axes")
    means = np.exp(np.log(rows.ratio).groupby([rows.axis, rows.sigma], sort=False).mean())
    return by_sigma(means.reset_index(), "axis", "PSPC", "ratio", "{:.2f}".format)


def axes_errors():
    """Return errors in thousandths, with size and taper, for every network."""
    rows = read("axes")
    settings = zip(rows.error, rows["size"], rows.query_taper + rows.response_taper, strict=True)
    shown = [
        f"{thousandths(error)} ({size}{f', {taper:g}' if taper else ''})"
        for error, size, taper in settings
    ]
    names = rows.network.map(_ARCHITECTURES) + ": " + rows.axis.str.lower()
    rows = rows.assign(shown=shown, row=names).sort_values("network", kind="stable")
    return by_sigma(rows, "row", "Network and PSPC", "shown", str)


def accuracy_of_seeds(noisy="unrelated"):
    """Return the largest error of each seed for a kind of noisy images."""
    rows = read("accuracy").query("noisy == @noisy")
    wide = rows.pivot(index="denoiser", columns="seed", values="max_error")
    wide = wide.loc[list(dict.fromkeys(rows.denoiser))]
    body = {f"seed {seed}": wide[seed].map(two_digits).tolist() for seed in wide}
    return pd.DataFrame({"Denoiser": list(wide.index), **body})


def _code(program):
    """Return a program as code; a description before a colon stays text."""
    *about, code = program.split(": ", 1)
    return ": ".join([*about, f"``{code}``"])


# Columns of the table: head, sampler and number of calls.
_SAMPLERS = (
    ("Euler, 18 calls", "euler", 18),
    ("Heun, 17 calls", "heun", 17),
    ("DPM++, 18 calls", "dpmpp_2m", 18),
    ("Heun, 35 calls", "heun", 35),
    ("DPM++, 35 calls", "dpmpp_2m", 35),
)


def sampler_errors():
    """Return the errors of samplers: a row for each denoiser, a column for each sampler."""
    wide = read("samplers").pivot(
        index=["denoiser", "images"], columns=["sampler", "calls"], values="rms"
    )
    body = {head: wide[sampler, calls].map(two_digits) for head, sampler, calls in _SAMPLERS}
    names = [f"``{denoiser}``, {images}" for denoiser, images in wide.index]
    return pd.DataFrame({"Denoiser and images": names, **body})


def sampler_ratios(calls, heun_calls):
    """Return the errors of DPM-Solver++ divided by those of Heun, one for each denoiser."""
    rms = read("samplers").pivot(
        index=["denoiser", "images"], columns=["sampler", "calls"], values="rms"
    )
    return rms["dpmpp_2m", calls] / rms["heun", heun_calls]


TABLES = {
    "samplers": Table("samplers", sampler_errors),
    "kernels": Table("kernels", kernels),
    "growth": Table("growth", growth_table),
    "denoisers": columns(
        "denoisers",
        {
            "Denoiser": ("denoiser", text),
            "Patch size of PSPC-Square": ("patch_size", plain),
            "σ": ("sigma", plain),
            "N": ("n_train", plain),
            "Time per pair (µs)": ("us_per_pair", two_digits),
            "Time / time of PSPC-Square": ("over_pspc", two_digits),
        },
    ),
    "large-images": Table("large-images", large_images_table),
    "trees": columns(
        "trees",
        {
            "σ": ("sigma", plain),
            "Noisy images": ("n_noisy", plain),
            "All patches (ms per image)": ("exact_ms", text),
            "k-d trees (ms per image)": ("tree_ms", text),
            "Exact time / time": ("speed_up", two_digits),
            "Root mean square error": ("rms_error", two_digits),
            "Largest error": ("largest_error", two_digits),
            "Largest bound": ("error_bound", two_digits),
        },
    ),
    "trees-growth": Table("trees-growth", trees_growth),
    "nearest-images": Table("nearest-images", nearest_images),
    "scale": columns(
        "scale",
        {
            "Denoiser": ("denoiser", lambda name: f"``{name}``"),
            "First call (s)": ("first_call_s", two_digits),
            "Second call (s)": ("second_call_s", two_digits),
            "Memory before fit (MB)": ("before_MB", plain),
            "Largest memory (MB)": ("peak_MB", plain),
        },
    ),
    "error-time": columns(
        "error-time",
        {
            "Denoiser": ("denoiser", text),
            "Setting": ("setting", text),
            "σ": ("sigma", plain),
            "N": ("n_train", plain),
            "Time / exact time": ("time", two_digits),
            "Root mean square error": ("rms_error", two_digits),
            "Largest error": ("max_error", two_digits),
        },
    ),
    "tolerance": columns(
        "index-tolerance",
        {
            "σ": ("sigma", plain),
            "Exact time / time": ("speedup", two_digits),
            "Largest error": ("max_error", two_digits),
            "Largest bound": ("max_bound", two_digits),
            "Errors above bound": ("n_above_bound", plain),
        },
    ),
    "neighbours": columns(
        "index-neighbours",
        {
            "n_neighbors": ("n_neighbors", plain),
            "σ": ("sigma", plain),
            "Median of bound / error": ("bound_over_error", two_digits),
        },
    ),
    "index-growth": columns(
        "index-growth",
        {
            "N": ("n_train", plain),
            "Exact (ms per image)": ("exact_ms_per_image", text),
            "tol=1e-3 (ms per image)": ("tol_ms_per_image", text),
        },
    ),
    "equivariant": columns(
        "index-equivariant",
        {
            "tol": ("tol", plain),
            "Exact time / time": ("speedup", two_digits),
            "Root mean square error": ("rms_error", two_digits),
            "Largest error": ("max_error", two_digits),
            "Largest estimate": ("estimated_error", two_digits),
        },
    ),
    "family": Table("family", family_ratios),
    "family-best": Table("family", partial(family_ratios, BEST)),
    "family-blends": Table("family-blends", blend_weights),
    **{
        f"family-{network}-{short}": Table("family", partial(family_errors, network, source))
        for network in _NETWORKS
        for source, short in _SOURCES.items()
    },
    "held-out": Table("held-out", held_out),
    "held-out-settings": Table("held-out", held_out_settings),
    "against-networks": Table("against-networks", against_networks),
    "latents": Table("latents", latents),
    "latents-images": Table("latents", latents_images),
    "latents-samples": Table("latents-samples", latents_samples),
    "latents-mirrors": Table("latents-mirror", latents_mirrors),
    "axes": Table("axes", axes),
    "axes-errors": Table("axes", axes_errors),
    **{f"look-{network}": Table("locality", partial(look, network)) for network in _NETWORKS},
    "memorisation": Table("memorisation", edge_sizes),
    "excluded": columns(
        "excluded", {"σ": ("sigma", plain), "Fraction of pairs excluded": ("excluded", plain)}
    ),
    "accuracy": Table("accuracy", accuracy),
    "gradients": columns(
        "gradients",
        {
            "Denoiser": ("denoiser", text),
            "N": ("n", plain),
            "σ": ("sigma", plain),
            "Forward pass (s)": ("forward_s", two_digits),
            "Backward / forward": ("backward_ratio", two_digits),
            "Memory beyond the forward pass (MiB)": ("backward_mib", two_digits),
            "With a quarter of the images (MiB)": ("backward_mib_quarter", two_digits),
        },
    ),
    **{
        f"photograph-{photo}": columns(
            f"photograph-{photo}",
            {
                "Denoised by": ("denoised by", text),
                "PSNR (dB)": ("PSNR_dB", text),
                "Time (s)": ("seconds", "{:.0f}".format),
                "Processor time (s)": ("processor_s", "{:.0f}".format),
            },
        )
        for photo in ("astronaut", "retina")
    },
    "accuracy-seeds": Table("accuracy", accuracy_of_seeds),
    "startup": columns(
        "startup",
        {
            "Program": ("program", _code),
            "CPU time (s)": ("cpu_s", two_digits),
            "Difference to the floor (s)": ("cpu_over_floor_s", two_digits),
        },
    ),
}

CHARTS = {"speed": speed, "error-time": error_time, "growth": growth, "denoisers": denoisers}


def numbers():
    """Return the numbers within sentences, by name."""
    compiled = read("kernels").query("engine == 'numba' and windows == 'squares'")
    kernels_at = compiled.query("n_train == 10_000")
    whole = read("kernels").query("windows == 'whole images'")
    masks = read("kernels").query("windows == 'masks' and engine == 'numba'")
    torch_only = read("kernels").query("engine == 'torch' and windows != 'whole images'")
    at_one_sigma = kernels_at[kernels_at.sigma == 3.26].set_index("size").us_per_pair
    answers = read("index-tolerance")
    of_latents = facts("latents")
    autos = read("latents").query("denoiser == 'AutoDenoiser'")
    of_samples = read("latents-samples").query("memorised < 1")
    of_samples = of_samples[of_samples.denoiser != "PSPC, paper's sizes"]  # they are for pixels
    of_samples = of_samples.pivot(index="denoiser", columns="space", values=["frechet", "seconds"])
    over_wiener = read("held-out").groupby("denoiser").ratio
    near_networks = over_gaussian().unstack("denoiser")
    others = near_networks.drop(columns="AutoDenoiser").min(axis=1)
    tolerance = answers.set_index("sigma").speedup
    drawn, kernel_facts = facts("kernels-sample"), facts("kernels")
    edges = read("memorisation")
    ratios, to_best = family_summary().loc[BLEND], family_summary(PAPER).loc[BEST]
    accuracies = read("accuracy")
    held_out = accuracies[accuracies.noisy == "held-out"]
    largest = accuracies.groupby("denoiser").max_error.max()
    medians = held_out.groupby("denoiser").median_error.median()
    accuracy_facts = facts("accuracy")
    tol_times = read("error-time").query("family == 'tol'").groupby("sigma").time
    pair_ratios = read("denoisers").groupby("denoiser").over_pspc
    (whole_set, one_class), doubled = large_images(64).itertuples(), large_images(128)
    return {
        "auto over Wiener": span(over_wiener.get_group("AutoDenoiser")),
        "auto below others": span(100 * (1 - near_networks.AutoDenoiser / others)),
        "blend over Wiener": span(over_wiener.get_group("Blend with moved and blurred images")),
        "held-out N": f"{int(facts('held-out')['n_train']):,}",
        "decoding error": thousandths(float(of_latents["decoding_error"])),
        "n samples": of_latents["n"],
        "N of latents": f"{int(of_latents['n_train']):,}",
        **{
            f"Auto over Gaussian in {space}": span(ratios)
            for space, ratios in autos.groupby("space").ratio
        },
        "Fréchet gain": span(100 * (1 - of_samples.frechet.latents / of_samples.frechet.pixels)),
        "time in latents": span(of_samples.seconds.latents / of_samples.seconds.pixels),
        "mirror difference": text(read("latents-mirror").difference[0], 2),
        "squares time": span(kernels_at.us_per_pair),
        "published over squares": text(compiled.speedup.iloc[0]),
        "squares speed-up": span(kernels_at.speedup, 3),
        "squares limit": span(kernels_at.over_limit),
        "masks limit": span(masks.over_limit),
        "masks speed-up": span(masks.speedup),
        "whole limit": span(whole.over_limit),
        "torch speed-up": span(torch_only.speedup, 1),
        "size gain": f"{100 * (1 - at_one_sigma[15] / at_one_sigma[3]):.0f}",
        "tol times differ": f"{100 * max(tol_times.max() / tol_times.min() - 1):.0f}",
        **{
            f"one-thread tol at {n}": text(ms, 2)
            for n, ms in read("index-growth").set_index("n_train").tol_ms_per_image.items()
        },
        "machine rate": kernel_facts["gflops"],
        "kernel error": text(read("kernels").max_error.max()),
        "sample time": drawn["total_seconds"],
        "front page time": f"{read('front-page').seconds[0]:.1f}",
        "peak memory": drawn["peak_mb"],
        "memory before": drawn["mb_before_fit"],
        **{
            f"{short} at {n_train}": ms_at(name, n_train)
            for short, name in GROWN.items()
            for n_train in (5000, 50000)
        },
        "tol speed-up 0.02": text(tolerance[0.02], 2),
        "tol speed-up 0.3": text(tolerance[0.3], 2),
        "errors above bound": plain(answers.n_above_bound.sum())
        if any(answers.n_above_bound)
        else "None",
        "tol answers": plain(answers.n.sum()),
        "pairs N": plain(*read("denoisers").n_train.unique()),
        **{f"{name} over PSPC": span(ratios) for name, ratios in pair_ratios},
        "N of 64": plain(whole_set.n_train),
        "sample of 64": two_digits(whole_set.s_per_sample),
        "N of a class": plain(one_class.n_train),
        "step of a class": two_digits(one_class.ms_per_image_and_step),
        "N of 128": plain(*doubled.n_train.unique()),
        "sample of 128": span(doubled.s_per_sample),
        "trees speed-up": span(read("trees").query("sigma < 0.25").speed_up),
        "trees speed-up at 0.3": span(read("trees").query("sigma == 0.3").speed_up),
        "trees exponent at 0.06": text(trees_exponents()[0.06], 2),
        "trees exponent at 0.14": text(trees_exponents()[0.14], 2),
        "trees exponent at 0.3": text(trees_exponents()[0.3], 2),
        "trees largest error": text(read("trees").largest_error.max(), 1),
        "nearest over random": text(nearest_over_random().min(), 2),
        "trees calls": f"{read('trees-bounds').n_calls[0]:,}",
        "trees errors above bounds": str(read("trees-bounds").n_above_bound[0]),
        "trees built in": text(read("trees-growth").query("n_train == 50_000").build_s.max(), 2),
        "large steps": plain(*read("large-images").n_steps.unique()),
        "ELS speed-up": span(read("index-equivariant").speedup),
        "2M to Heun": span(sampler_ratios(18, 35)),
        "2M to Heun, 17 calls": span(sampler_ratios(17, 17)),
        "2M to Heun, 35 calls": span(sampler_ratios(35, 35)),
        "blend gain": span(100 * (1 - ratios)),
        "best size gain": span(100 * (1 - to_best)),
        "edges": plain(len(edges)),
        "equal edges": plain(int((edges.edge == edges.calibrated).sum())),
        "edge ratio": text(edges.ratio[edges.sigma > 0.3].max()),
        "edge ratio at little noise": text(edges.ratio.max()),
        "PCA ratio": span(family_summary().loc["PCA locality"]),
        "median rounding": text(medians.max()),
        "squares rounding": text(largest[largest.index.str.startswith("squares")].max(), 2),
        "local rounding": text(largest["local score, 5"], 2),
        "float64 rounding": accuracy_facts["float64_max_error"],
        "float64 over eps": accuracy_facts["float64_over_eps_times_logit"],
        "whole rounding at 20": text(whole[whole.sigma == 20].max_error.item(), 2),
        "accuracy seeds": plain(accuracies.seed.nunique()),
        "masks rounding": text(largest["masks (PSPC-Flex)"], 2),
        "PCA rounding": text(largest["PCA locality"], 2),
        "largest rounding": text(accuracies.max_error.max()),
    }
