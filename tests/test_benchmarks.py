"""The scripts in benchmarks/ run."""

import csv
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skpspc import EmpiricalDenoiser, GaussianDenoiser, PSPCDenoiser
from skpspc.datasets import load_photo_patches
from skpspc.sampling import draw_noise

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name):
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def shared_modules(monkeypatch):
    """The scripts import modules that are beside them."""
    monkeypatch.syspath_prepend(FOLDER)


def facts_of(folder, name):
    """The facts above the rows of a CSV file of results."""
    lines = (folder / f"{name}.csv").read_text().splitlines()
    return dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))


def results(folder, name):
    """The rows of a CSV file of results, as dicts."""
    assert {"command", "date", "processors", "threads"} <= set(facts_of(folder, name))
    lines = (folder / f"{name}.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("# ")))


def test_family(digits, capsys, tmp_path):
    family = script("family")
    images = digits[np.random.default_rng(0).permutation(len(digits))]

    def network(z, sigma):  # the denoiser of pixels that are normal, with mean 0 and variance 1/2
        return z / (1 + 2 * sigma**2)

    levels = (0.3, 1.0)
    case = family.Case("digits", images[:1000], images[1000:], {"shrinkage": (network, levels)})
    family.main(["--quick", "--out", str(tmp_path)], [case])
    printed = capsys.readouterr().out
    tables = {}
    for source in ("training", "held-out"):
        title = f"``shrinkage``, digits, noisy images from {source} images"
        tables[source] = printed.split(title)[1].split("``shrinkage``")[0]
        for name in [*family.rows_of(images.shape[1:], levels), family.BLEND, family.PLAIN_BLEND]:
            assert re.search(rf"(?m)^{re.escape(name)}( |$)", tables[source]), name
    (row,) = re.findall(r"(?m)^Gaussian \+(.*)$", tables["held-out"])
    clean = torch.from_numpy(images[1000:1016]) / 127.5 - 1
    noise = draw_noise(clean.shape[1:], 16, random_state=0).float()
    gaussian = GaussianDenoiser().fit(images[:1000])
    for sigma, error in zip(levels, row.split(), strict=False):
        z = (clean + sigma * noise)[8:]
        expected = (gaussian.denoise(z, sigma) - network(z, sigma)).square().mean()
        np.testing.assert_allclose(float(error), expected, atol=6e-6)
        (written,) = (
            float(row["error"])
            for row in results(tmp_path, "family")
            if (row["source"], row["denoiser"]) == ("held-out images", "Gaussian")
            and float(row["sigma"]) == sigma
        )
        np.testing.assert_allclose(written, expected, rtol=1e-3)
    blends = [row for row in results(tmp_path, "family-blends") if row["blend"] == family.BLEND]
    total = sum(float(row["weight"]) for row in blends)
    np.testing.assert_allclose(total, 2 * len(levels), atol=1e-2)  # two sources


def test_ratios_of_a_row_are_over_its_own_images(digits):
    family = script("family")
    images = digits[np.random.default_rng(0).permutation(len(digits))]
    levels = (0.3, 1.0)
    case = family.Case("digits", images[:200], images[200:], {"none": (lambda z, s: 0 * z, levels)})
    bench = family.Bench(case, 200, 8, 24)
    name = "few"
    bench.rows = {key: bench.rows[key] for key in (family.GAUSSIAN, family.SQUARE, family.BEST)}
    bench.rows[name] = family.Row(GaussianDenoiser, n_images=3)
    clean = torch.from_numpy(images[200:232]) / 127.5 - 1
    noise = draw_noise(clean.shape[1:], 32, random_state=0).float()
    errors = {}
    for key, model in ((family.GAUSSIAN, GaussianDenoiser()), (family.SQUARE, PSPCDenoiser())):
        errors[key] = model.fit(images[:200]).denoise(clean + 0.3 * noise, 0.3).square()
    found = bench.errors("held-out images", 0.3)["none"]
    for key, stop in ((name, 11), (family.SQUARE, 32), (family.BLEND, 32)):
        baseline = min(float(error[8:stop].mean()) for error in errors.values())
        assert found[key][2] == pytest.approx(found[key][1] / baseline, rel=1e-5)
    own, all_of_them = (float(errors[family.GAUSSIAN][8:stop].mean()) for stop in (11, 32))
    assert abs(own / all_of_them - 1) > 0.01


def test_full_rows_have_all_images(digits):
    family = script("family")
    case = family.Case("digits", digits[:40], digits[40:80], {"none": (lambda z, s: 0 * z, (0.5,))})
    some, full = (family.Bench(case, 40, 4, 8, full=full).rows for full in (False, True))
    assert any(row.mark != " +" for row in some.values())
    assert all(row.mark == " +" for row in full.values())


def test_locality(digits, tmp_path):
    locality = script("locality")

    def network(z, sigma):  # mixes a pixel with its neighbours, the more the noisier
        k = torch.ones(1, 1, 3, 3) * sigma
        return torch.nn.functional.conv2d(z, k / k.sum(), padding=1)

    case = "digits", digits[:200], {"blur": (network, (0.3, 1.0))}
    locality.main(["--out", str(tmp_path)], [case])
    rows = results(tmp_path, "locality")
    assert {(row["network"], row["images"]) for row in rows} == {("blur", "digits")}
    own = [row for row in rows if row["denoiser"] == "network"]
    assert [(row["side"], row["percent_nearby"]) for row in own] == [("3", "100")] * 2
    assert {row["denoiser"] for row in rows} == {"network", "PSPC", "Gaussian", "empirical"}


def test_memorisation(digits, tmp_path):
    memorisation = script("memorisation")
    case = "cifar", digits[:300], digits[300:320]
    memorisation.main(["--sigmas", "0.2", "0.5", "--out", str(tmp_path)], [case])
    rows = results(tmp_path, "memorisation")
    assert [(row["images"], row["n_train"], row["sigma"]) for row in rows] == [
        ("cifar", "300", "0.2"),
        ("cifar", "300", "0.5"),
    ]
    for row in rows:
        assert 1 <= int(row["edge"]) <= float(row["critical"])
        assert float(row["ratio"]) >= 0.99
        assert 0 < float(row["coverage"]) < 1


def test_startup(monkeypatch, tmp_path):
    startup = script("startup")
    programs = {"floor": ["-c", ""], "version": ["-m", "skpspc", "--version"]}
    monkeypatch.setattr(startup, "PROGRAMS", programs)
    startup.main(["--rounds", "1", "--out", str(tmp_path)])
    floor, version = results(tmp_path, "startup")
    assert (floor["program"], version["program"]) == ("floor", "version")
    assert float(floor["wall_over_floor_s"]) == float(floor["cpu_over_floor_s"]) == 0
    over = float(version["wall_s"]) - float(floor["wall_s"])
    assert float(version["wall_over_floor_s"]) == pytest.approx(over, rel=1e-2, abs=1e-3)


def test_accuracy(monkeypatch, tmp_path):
    """Every family answers by the formula that it is measured against."""
    accuracy = script("accuracy")
    monkeypatch.setattr(accuracy, "SIZE", 7)
    monkeypatch.setattr(accuracy, "SIGMAS", (0.1, 1.0))
    sizes = ["--n-train", "30", "--n", "4"]
    accuracy.main([*sizes, "--seeds", "1", "2", "--out", str(tmp_path)])
    rows = results(tmp_path, "accuracy")
    assert len(rows) == 2 * 2 * 9
    first, second = ([row for row in rows if row["seed"] == seed] for seed in "12")
    assert [row["denoiser"] for row in first] == [row["denoiser"] for row in second]
    assert all(
        one["median_error"] != other["median_error"]
        for one, other in zip(first, second, strict=True)
    ), "each seed draws other noisy images"
    for row in rows:
        assert 0 <= float(row["median_error"]) <= float(row["max_error"]) < 1e-4, row
    facts = facts_of(tmp_path, "accuracy")
    assert float(facts["float64_max_error"]) < 1e-12


@pytest.mark.parametrize(
    "name",
    [
        "kernels",
        "growth",
        "denoisers",
        "large-images",
        "trees",
        "trees-growth",
        "trees-bounds",
        "nearest-images",
        "error-time",
        "index-equivariant",
        "accuracy",
        "locality",
        "cluster-agreement",
        "cluster-speed",
        "cluster-traffic",
        "cluster-kills",
        "cluster-million",
        "cluster-constants",
        "cluster-model",
    ],
)
def test_kept_results_name_their_command(name):
    rows = results(FOLDER / "results", name)
    assert rows
    command = facts_of(FOLDER / "results", name)["command"]
    script_name = re.fullmatch(r"python benchmarks/(\w+\.py)( .*)?", command)[1]
    assert (FOLDER / script_name).is_file()


def test_floats_keep_four_digits(tmp_path):
    module = script("_results")
    module.write(tmp_path, "some", [{"name": "a, b", "n": 50_000, "error": 1 / 3}], seeds=2)
    assert results(tmp_path, "some") == [{"name": "a, b", "n": "50000", "error": "0.3333"}]
    assert facts_of(tmp_path, "some")["seeds"] == "2"


@pytest.fixture
def docs_extension(monkeypatch):
    """Modules of docs/_ext."""
    pytest.importorskip("pandas", reason="pandas is not installed (extra test)")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)").use("Agg")
    monkeypatch.syspath_prepend(FOLDER.parent / "docs" / "_ext")
    return importlib.import_module


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, "0.500"), (12.345, "12.3"), (390, "390"), (49_000, "49,000"), (5.8e-6, "5.8e-6")],
)
def test_numbers_of_pages(docs_extension, value, expected):
    assert docs_extension("measured").text(value) == expected
    assert docs_extension("measured").text("squares") == "squares"


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("benchmarks", "benchmark_results"),
        ("evidence", "evidence_results"),
        ("evidence_64", "evidence_64_results"),
        ("user_guide/clusters_cost", "cluster_results"),
        ("user_guide/choosing", "benchmark_results"),
        ("user_guide/latents", "benchmark_results"),
    ],
)
def test_pages_have_their_tables_and_charts(docs_extension, page, name):
    plt, module = docs_extension("matplotlib.pyplot"), docs_extension(name)
    for name, table in module.TABLES.items():
        cells = table.make().to_numpy().ravel()
        assert len(cells) and all(isinstance(cell, str) for cell in cells), name
        assert not any("nan" in cell for cell in cells), name
    for draw in module.CHARTS.values():
        figure = draw()
        assert figure.axes
        plt.close(figure)
    text = (FOLDER.parent / "docs" / f"{page}.rst").read_text()
    shown = set(re.findall(r"results-(?:table|chart):: (\S+)", text))
    assert shown <= {*module.TABLES, *module.CHARTS}
    assert set(re.findall(r"\|([\w][^|\n]*)\|", text)) <= set(module.numbers())


def test_ratios_of_the_family(docs_extension):
    """The geometric mean over noise levels of the error over the smaller baseline's."""
    module = docs_extension("benchmark_results")
    rows = module.read("family").query("network == 'mnist_flow_vit'")
    rows = rows[rows.source == "held-out images"].pivot(
        index="sigma", columns="denoiser", values="error"
    )
    baseline = np.minimum(rows["Gaussian"], rows[module.PAPER])
    expected = np.exp(np.log(rows[module.BLEND] / baseline).mean())
    means = module.family_summary()
    assert means.loc[module.BLEND, ("mnist_flow_vit", "held-out images")] == pytest.approx(
        expected, rel=2e-3
    )
    to_itself = module.family_summary(module.BEST).loc[module.BEST]
    np.testing.assert_allclose(to_itself, 1)


def test_kernels_are_exact_in_their_table(monkeypatch):
    kernels = script("kernels")
    monkeypatch.setattr(kernels, "multiply_add_rate", lambda: 1e9)
    monkeypatch.setattr(kernels, "N_NOISY", 1)
    photos = load_photo_patches(size=32, n_images=30, photos=("china", "flower")).images
    bench = kernels.Bench(photos, n_noisy=1)
    bench.squares("torch", 20, 15, 0.7)
    bench.empirical(2, 20, 0.7)
    for row, operations in zip(bench.rows, (kernels.box_operations(15), 4 * 3072), strict=True):
        assert row["max_error"] < 1e-4
        assert row["us_per_pair"] > 0 and row["speedup"] > 0
        over_limit = row["us_per_pair"] * 1e-6 * 1e9 / operations
        assert row["over_limit"] == pytest.approx(over_limit)


def test_growth(monkeypatch, digits):
    growth = script("growth")
    monkeypatch.setattr(growth, "SIZES", (100, 200))
    monkeypatch.setattr(growth, "N_BATCHES", 2)
    monkeypatch.setattr(growth, "SIGMAS", (0.3,))
    settings = [{"n_neighbors": 1}, {"tol": 1e-3}]
    monkeypatch.setattr(growth, "APPROXIMATIONS", {"two": settings})
    monkeypatch.setitem(growth.FAMILIES, "PSPCDenoiser(8)", (lambda: PSPCDenoiser(3), 2))
    rows = list(growth.growth(digits[:200], digits[200:264]))
    assert [row["n_train"] for row in rows] == 4 * [100] + 4 * [200]
    assert all(row["ms_per_image"] > 0 for row in rows)
    nearest, tolerant = growth.approximations(digits[:200], digits[200:264])
    assert nearest["rms_error"] > 1e-3 and tolerant["max_error"] <= 1e-3
    assert nearest["setting"] == "n_neighbors=1"


def test_denoisers(monkeypatch, digits, tmp_path):
    denoisers = script("denoisers")
    names = tuple(denoisers.DENOISERS)
    monkeypatch.setattr(denoisers, "CASES", ((3, 0.5, names), (5, 1.0, names[:2])))
    arguments = ["--repeats", "2", "--out", str(tmp_path)]
    denoisers.main(arguments, (digits[:100], digits[100:102]))
    rows = results(tmp_path, "denoisers")
    assert [row["denoiser"] for row in rows] == [*names, *names[:2]]
    for row in rows:
        (pspc,) = (
            float(other["us_per_pair"])
            for other in rows
            if (other["denoiser"], other["sigma"]) == (denoisers.PSPC, row["sigma"])
        )
        ratio = float(row["us_per_pair"]) / pspc
        assert float(row["over_pspc"]) == pytest.approx(ratio, rel=2e-3)
        assert (row["n_train"], row["n_noisy"]) == ("100", "2")


def test_shortest_times_are_of_calls_after_the_first(monkeypatch):
    denoisers = script("denoisers")
    clock, order = [0], []

    def function(name, durations):
        durations = iter(durations)

        def call():
            order.append(name)
            clock[0] += next(durations)

        return call

    timer = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr(denoisers, "time", timer)
    functions = function("a", [1, 3, 2]), function("b", [9, 4, 5])
    assert denoisers.shortest_times(functions, 2) == [2, 4]
    assert order == ["a", "b"] * 3


def test_trees(digits, monkeypatch, tmp_path):
    pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    trees = script("trees")
    monkeypatch.setattr(trees, "N_CALLS", 60)
    arguments = ["--repeats", "1", "--out", str(tmp_path)]
    trees.main(arguments, (digits[:160], digits[160:170]))
    rows = results(tmp_path, "trees")
    assert [row["n_noisy"] for row in rows] == 7 * ["8"] + 7 * ["10"]
    sizes = [row["n_train"] for row in results(tmp_path, "trees-growth")]
    assert sizes == [n for n in ("40", "80", "160", "320", "640") for _ in range(3)]
    (bounds,) = results(tmp_path, "trees-bounds")
    assert (bounds["n_calls"], bounds["n_above_bound"]) == ("60", "0")
    for row in rows:
        assert float(row["error_bound"]) <= trees.TOL * 1.001
        assert float(row["largest_error"]) <= float(row["error_bound"]) + 1e-5
    errors = {
        (row["denoiser"], row["sigma"]): float(row["rms_error"])
        for row in results(tmp_path, "nearest-images")
    }
    assert max(e for (name, _), e in errors.items() if name.startswith("PSPC")) < trees.TOL
    for (name, sigma), error in errors.items():
        if name.startswith("plain"):
            compiled = errors[name.replace("plain", "compiled"), sigma]
            assert error == pytest.approx(compiled, rel=1e-2) and error > trees.TOL


def test_large_images(digits, monkeypatch, tmp_path):
    large = script("large_images")
    cases = ((large.TINY_IMAGENET, None, 1, 2), (large.FACES, 50, 2, 1))
    monkeypatch.setattr(large, "CASES", cases)
    archives = dict.fromkeys((large.TINY_IMAGENET, large.FACES), digits[:200])
    arguments = ["--n-train", "80", "--n-steps", "2", "--out", str(tmp_path)]
    large.main(arguments, archives)
    first, second = results(tmp_path, "large-images")
    assert (first["n_train"], first["width"], first["n_samples"]) == ("80", "8", "2")
    assert (second["n_train"], second["width"], second["n_samples"]) == ("50", "16", "1")
    for row in (first, second):
        samples, steps = int(row["n_samples"]), int(row["n_steps"])
        per_sample = float(row["s_per_sample"])
        assert per_sample == pytest.approx(float(row["seconds"]) / samples, rel=2e-3)
        per_step = 1e3 * per_sample / steps
        assert float(row["ms_per_image_and_step"]) == pytest.approx(per_step, rel=2e-3)


def test_enlarged_images_repeat_rows_and_columns():
    enlarged = script("large_images").enlarged(np.array([[[[1, 2], [3, 4]]]]), 2)
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(enlarged, [[expected]])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of Linux")
def test_scale(tmp_path, digits):
    scale = script("scale")
    scale.write_images(tmp_path / "x.npy", digits[:100], 250)
    images = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.array_equal(images[:100], digits[:100])
    changes = np.abs(images[100:200].astype(int) - digits[:100])
    assert 0 < changes.max() <= 8
    row = scale.measured("EmpiricalDenoiser()", tmp_path / "x.npy", torch.get_num_threads())
    assert row["n_train"] == 250 and row["fit_s"] >= 0
    assert 0 < row["before_MB"] <= row["peak_MB"]
    assert list(tmp_path.iterdir()) == [tmp_path / "x.npy"]


def test_index(monkeypatch, digits):
    index = script("index")
    monkeypatch.setattr(index, "SIGMAS", (0.1,))
    (row,) = index.tolerance(digits[:500], digits[500:600])
    assert row["n_above_bound"] == 0 and row["max_error"] < 1e-5
    assert row["max_bound"] <= index.TOL and row["speedup"] > 0


def test_samplers(digits, monkeypatch, tmp_path):
    samplers = script("samplers")
    monkeypatch.setattr(samplers, "FINE", 40)
    case = "digits", digits[:100], GaussianDenoiser(), 3
    samplers.main(["--out", str(tmp_path)], [case])
    rows = results(tmp_path, "samplers")
    assert {(row["sampler"], int(row["calls"])) for row in rows} == {
        (name, calls)
        for name in ("euler", "heun", "dpmpp_2m")
        for calls in (9, 17, 18, 35, 71)
        if name != "heun" or calls % 2
    }
    (row,) = (row for row in rows if (row["sampler"], row["calls"]) == ("heun", "17"))
    assert row["n_steps"] == "9"
    model = GaussianDenoiser().fit(digits[:100])
    samples, exact = (
        model.sample(3, random_state=0, sampler="heun", n_steps=n).astype(float) for n in (9, 40)
    )
    np.testing.assert_allclose(
        float(row["rms"]), np.sqrt(((samples - exact) ** 2).mean()), rtol=1e-3
    )


def test_photograph(tmp_path, capsys):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    script("photograph").main(["--size", "48", "--out", str(tmp_path)])
    name = "photograph-astronaut"
    rows = {row["denoised by"]: float(row["PSNR_dB"]) for row in results(tmp_path, name)}
    np.testing.assert_allclose(rows["not denoised"], -20 * np.log10(25 / 255), atol=1.5)  # clipped
    assert rows["its own patches, at half size"] > rows["not denoised"] + 1
    assert facts_of(tmp_path, name)["stride"] == "3"


def test_cluster(digits, monkeypatch, tmp_path):
    """Answers of a cluster are those of one machine, also while a worker is killed."""
    pytest.importorskip("distributed", reason="distributed is not installed (extra dask)")
    cluster = script("cluster")
    monkeypatch.setattr(cluster, "AGREEMENT", {"squares": (lambda shape: PSPCDenoiser(3), 100)})
    monkeypatch.setattr(cluster, "SPEED", {"PSPCDenoiser(3)": lambda shape: PSPCDenoiser(3)})
    monkeypatch.setattr(cluster, "MODEL", ("PSPCDenoiser(3)",))
    monkeypatch.setattr(cluster, "WORKERS", (2,))
    sizes = ["--n-train", "400", "--n-agreement", "100", "--n-million", "400", "--runs", "1"]
    options = ["--only", "agreement", "traffic", "kills", *sizes, "--repeats", "1"]
    cluster.main([*options, "--out", str(tmp_path)], (digits[:800], digits[-64:]))
    for row in results(tmp_path, "cluster-agreement"):
        limit = 1e-6 if row["dtype"] == "float32" else 1e-12
        assert 0 <= float(row["difference"]) <= limit
    (kill,) = results(tmp_path, "cluster-kills")
    assert float(kill["difference"]) <= 1e-6
    assert int(kill["calls_again"]) >= 0
    rows = results(tmp_path, "cluster-traffic")
    assert {row["n_train"] for row in rows} == {"100", "200", "400"}
    for row in rows:  # messages of tasks have a few kB
        sums = float(row["n_noisy"]) * float(row["n_windows"]) * 32 / 1e3
        noisy = float(row["n_noisy"]) * 64 * 4 / 1e3
        assert float(row["largest_messages_received_kB"]) > noisy
        assert float(row["mean_received_kB"]) <= float(row["predicted_received_kB"]) + 2
        assert float(row["mean_received_kB"]) > sums / 4


def test_formula_of_the_cost_of_a_cluster(monkeypatch):
    model = script("cluster_model")
    costs = model.Costs(1e-6, 1e-3, 2e-3, 0.1)
    assert model.seconds(costs, 8000, 10, 2, 6) == pytest.approx(
        10 * 4000 * 1e-6 + 10 * 3 * 1e-3 + 0.1 + 6 * 2e-3
    )
    assert model.n_batches(65, 8000, 2) == 2
    # 2**23 images on each worker: 4 bytes of state per pair leave room for four noisy images
    assert model.n_batches(65, 2**24, 2) == 17
    assert model.n_batches(2, 2**40, 1) == 2
    assert model.received_bytes(10, 1, 900, 3072) == 0
    windows, pixels = 32 * 900, 3072
    assert model.received_bytes(10, 2, 900, 3072) == 10 * (2 * windows + 4 * pixels + 8 * pixels)
    assert model.received_bytes(1, 64, 900, 3072) == (15 * windows + 4 * pixels + 14 * 8 * pixels)


def test_held_out(photos, capsys, monkeypatch):
    """Every row of both tables, on small images and a network that is linear."""
    bench = script("held_out")
    images = photos[:220, :, :8, :8]
    sigma = 0.452
    monkeypatch.setattr(bench, "SIZES", {sigma: (2, 3)})
    monkeypatch.setattr(bench, "LOCAL_SIZES", {sigma: 3})
    monkeypatch.setattr(bench, "BLURS", {sigma: ((2, 0.5), (3, 0.5))})
    rows = list(bench.held_out(bench.Images(images[:160], images[160:170], images[170:]), [sigma]))
    assert [row["denoiser"] for row in rows] == list(bench.rows())
    assert rows[0]["ratio"] == 1
    for row in rows:
        assert row["error"] > 0 and row["standard_error"] < row["error"]
        assert row["ratio"] < 3, row
    (chosen,) = (row for row in rows if row["denoiser"] == "PSPC, squares")
    assert chosen["setting"] in ("2", "3")
    clean = torch.from_numpy(images[170:]) / 255
    z = clean + sigma * draw_noise(clean.shape[1:], len(clean), random_state=0).float()
    model = PSPCDenoiser(int(chosen["setting"]), data_range=bench.UNIT).fit(images[:160])
    expected = (model.denoise(z, sigma) - clean).square().sum() / len(clean)
    assert chosen["error"] == pytest.approx(float(expected), rel=1e-4)


def test_against_networks(photos, monkeypatch):
    bench = script("held_out")
    monkeypatch.setattr(bench, "NETWORK_SIZES", (2, 3))
    monkeypatch.setattr(bench, "NETWORK_MOVED_SIZES", (2,))
    monkeypatch.setattr(bench, "NETWORK_BLURS", {0.8: ((2, 0.5), (3, 0.5))})
    images = photos[:220, :, :8, :8]
    gaussian = GaussianDenoiser().fit(images[:160])
    named = {"linear": gaussian}
    rows = list(bench.against_networks(images[:160], images[160:], [0.8], named, 8, 16))
    assert len(rows) == 7
    assert rows[0]["denoiser"] == "Gaussian" and rows[0]["error"] < 1e-12
    assert all(row["standard_error"] < row["error"] for row in rows[1:])
    assert all(row["error"] > 1e-6 for row in rows[1:])


def test_axes(tmp_path, rng):
    """Every axis has an error against every network, at its best setting."""
    axes = script("axes")
    images = rng.integers(0, 256, (60, 1, 12, 12)).astype(np.uint8)

    class Shrinkage:
        def denoise(self, z, sigma):
            return z / (1 + 2 * sigma**2)

    named = {"shrinkage": Shrinkage(), "twice": Shrinkage()}
    options = ["--n-choice", "2", "--n-reported", "3", "--sigmas", "0.7", "--out", str(tmp_path)]
    axes.main(options, (images[:50], images[50:55]), named)
    rows = results(tmp_path, "axes")
    names = [axes.PLAIN, axes.QUERIES, axes.RESPONSES, axes.FLIPS, axes.SHIFTS, axes.FARTHER]
    names.append(axes.TOGETHER)
    assert [row["axis"] for row in rows if row["network"] == "twice"] == names
    clean = torch.from_numpy(images[50:55]).float() / 127.5 - 1
    z = clean + 0.7 * draw_noise(clean.shape[1:], 5, random_state=0).float()
    target = named["twice"].denoise(z, 0.7)
    sources = {
        axes.FLIPS: {"flip": True},
        axes.SHIFTS: {"max_shift": 1},
        axes.FARTHER: {"max_shift": 2},
        axes.TOGETHER: {"flip": True, "max_shift": 1},
    }
    for row in rows:
        options = {name: float(row[name]) for name in ("query_taper", "response_taper")}
        model = PSPCDenoiser(int(row["size"]), **options, **sources.get(row["axis"], {}))
        error = (model.fit(images[:50]).denoise(z, 0.7) - target)[2:].square().mean()
        np.testing.assert_allclose(float(row["error"]), error, rtol=1e-3)
    assert all(float(row["ratio"]) == 1 for row in rows if row["axis"] == axes.PLAIN)


def test_latents(photos):
    bench = script("latents")
    images, others = photos[:120], photos[120:140]
    codec = bench.Codec(bench.train(images, n_steps=40), images)
    X = codec.encode(bench.scaled(images))
    assert X.shape == (120, 8, 4, 4)
    np.testing.assert_allclose(X.mean((0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(X.std((0, 2, 3)), 1, atol=1e-3)
    decoded = codec.decode(X)
    clean = bench.scaled(images).numpy()
    assert np.square(decoded - clean).mean() < clean.var()

    models = {"Gaussian": GaussianDenoiser().fit(X), "Empirical": EmpiricalDenoiser().fit(X)}
    # at little noise the Empirical denoiser returns the training image
    rows = list(bench.errors(models, "latents", X[:5], images[:5], codec.decode, [0.01]))
    assert [row["ratio"] == 1 for row in rows] == [True, False]
    assert rows[1]["error"] == pytest.approx(0, abs=1e-6)
    lost = np.square(decoded[:5] - clean[:5]).mean()
    assert rows[1]["image_error"] == pytest.approx(lost, rel=1e-3)

    spaces = {
        "latents": (models, codec.decode, decoded, 1.0),
        "pixels": ({"Empirical": EmpiricalDenoiser().fit(images)}, np.asarray, images, 0.5),
    }
    drawn, rows = bench.samples(spaces, others, 6)
    assert {name: x.shape for name, x in drawn.items()} == dict.fromkeys(drawn, (6, 3, 16, 16))
    memorised = {(row["space"], row["denoiser"]): row["memorised"] for row in rows}
    assert memorised["latents", "Empirical"] == memorised["pixels", "Empirical"] == 1
    assert memorised["latents", "Training images"] == memorised["pixels", "Training images"] == 1
    assert memorised["latents", "Gaussian"] < 1


def test_mirror_images_of_latents(photos):
    bench = script("latents")
    images, held_out, others = photos[:60], photos[60:70], photos[70:80]

    class Folded:  # mirror images of these latents differ from latents of mirror images
        def encode(self, x):
            return torch.nn.functional.pixel_unshuffle(torch.as_tensor(x), 4).numpy()

    codec = Folded()
    parts = [codec.encode(bench.scaled(part)) for part in (images, held_out, others)]
    rows = list(bench.mirrored(codec, images, *parts, [0.3]))
    assert [row["mirrors"] for row in rows] == ["none", "of latents", "of images"]
    flipped = codec.encode(bench.scaled(images[..., ::-1].copy()))
    expected = np.square(parts[0][..., ::-1] - flipped).mean()
    assert [row["difference"] for row in rows] == pytest.approx([expected] * 3)
    none, of_latents, of_images = (row["error"] for row in rows)
    assert max(of_latents, of_images) < none
