"""Options, fixtures and hypothesis settings that all tests share."""

import os
import shutil
from pathlib import Path

# xdist runs one process per core; more threads than that only get in each other's way. Libraries
# read this when they are loaded, here and in the processes that tests start; the compiled kernels
# and faiss follow torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import hypothesis
import numpy as np
import pytest
import torch

# Examples are drawn anew in every run at home, and are the same in every run on CI.
hypothesis.settings.register_profile(
    "skpspc",
    deadline=None,
    max_examples=20,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.differing_executors,
    ],
)
# For about an hour by hand: pytest -n0 tests/test_at_scale.py --hypothesis-profile long
hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("skpspc"), max_examples=1200, derandomize=False
)
hypothesis.settings.load_profile("skpspc")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_addoption(parser):
    parser.addoption(
        "--device",
        default="cpu",
        help="torch device on which the denoisers work in the tests that compare numbers",
    )


@pytest.fixture(scope="session")
def device(request):
    """The device asked for, as a string."""
    name = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip(f"--device {name}: torch finds no CUDA device here")
    return name


@pytest.fixture(params=["torch", "numba"])
def engine(request, device):
    """What computes square windows: both kernels where both can run."""
    if request.param == "numba":
        if device != "cpu":
            pytest.skip("the compiled kernel runs on the CPU only")
        pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
    return request.param


@pytest.fixture(scope="session")
def shared():
    """Folder with real images and reference outputs; most machines do not have it."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("SKPSPC_SHARED", default))
    if not (folder / "reference").is_dir():
        pytest.skip(
            f"no shared data in '{folder}' (real images and reference outputs); "
            "SKPSPC_SHARED names another folder"
        )
    return folder


@pytest.fixture(scope="session")
def digits():
    """Scikit-learn's digits, (1797, 1, 8, 8) uint8; read-only."""
    from skpspc.datasets import load_digits_images

    images = load_digits_images().images
    images.setflags(write=False)
    return images


@pytest.fixture(scope="session")
def photos():
    """Crops of photographs, (320, 3, 16, 16) uint8: as CIFAR, but small; read-only."""
    from skpspc.datasets import load_photo_patches

    images = load_photo_patches(size=16, n_images=320, photos=("china", "flower")).images
    images.setflags(write=False)
    return images


@pytest.fixture
def rng():
    """A generator with a fixed seed."""
    return np.random.default_rng(20250611)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder."""
    from click.testing import CliRunner

    from skpspc.cli._commands import commands

    monkeypatch.chdir(tmp_path)

    def run(*arguments, status=0):
        result = CliRunner().invoke(commands, [str(a) for a in arguments])
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        assert not list(tmp_path.glob(".skpspc-*"))
        return result

    return run


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by playwright."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra browser)"
    )
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_api.sync_playwright() as driver:
        # the shared memory of a container may be too small for a browser
        browser = driver.chromium.launch(
            executable_path=path, args=["--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open an address in a new window; in the end no page may have complained."""
    contexts, complaints = [], []

    def heard(message):
        if message.type in ("error", "warning"):
            complaints.append(f"{message.location.get('url')}: {message.text}")

    def visit(address, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def always_from_the_index(monkeypatch):
    """Answer from the index, however many training images that takes."""
    from skpspc.posterior import truncated

    monkeypatch.setattr(truncated, "_LARGEST_FRACTION", 1)


@pytest.fixture
def cells_of_few_patches(monkeypatch):
    """Answer from cells of patches, though there are too few patches to make them worth it."""
    from skpspc.posterior import cells

    monkeypatch.setattr(cells, "_WORTH_IT", 0)
