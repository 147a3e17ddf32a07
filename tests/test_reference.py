"""Outputs of the published implementation, on 300 training images."""

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    PatchSchedule,
    PSPCDenoiser,
    edm_sigmas,
)

DATA = {"cifar10": "cifar10-32x32", "mnist": "mnist-28x28"}
SQUARES = [(5.32, 23), (1.92, 11), (1.09, 8), (0.296, 3), (0.06, 3)]
FLEX = [(1.09, 0.4, 3.0), (3.26, 0.7, 5.0)]
EMPIRICAL = [5.32, 1.09, 0.296]
GAUSSIAN = [(sigma, rank) for sigma in EMPIRICAL for rank in (None, 100)]


@cache
def images(path, indices):
    """Some images of a zip file, by their number in the order of names, (n, C, H, W) uint8."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        found = [np.array(Image.open(io.BytesIO(archive.read(names[i])))) for i in indices]
    stacked = np.stack(found)
    return np.ascontiguousarray(
        stacked.transpose(0, 3, 1, 2) if stacked.ndim == 4 else stacked[:, None]
    )


@pytest.fixture(scope="module", params=DATA)
def reference(request, shared):
    """Name, stored arrays, training images and clean test images in [-1, 1]."""
    arrays = dict(np.load(shared / "reference" / f"{request.param}.npz"))
    stem = shared / "data" / DATA[request.param]
    train = images(f"{stem}.zip", tuple(arrays["train_index"].tolist()))
    test = images(f"{stem}-test.zip", tuple(arrays["test_index"].tolist()))
    return request.param, arrays, train, test.astype(np.float32) / 127.5 - 1


def noisy(reference, sigma):
    _, arrays, _, clean = reference
    return clean + np.float32(sigma) * arrays["noise"][: len(clean)]


@pytest.mark.parametrize(("sigma", "size"), SQUARES)
def test_square(reference, device, engine, sigma, size):
    _, arrays, train, _ = reference
    model = PSPCDenoiser(size, engine=engine, device=device).fit(train)
    mean = model.denoise(noisy(reference, sigma), sigma)
    expected = arrays[f"square_sigma{sigma}_patch{size}"]
    np.testing.assert_allclose(mean, expected, rtol=0, atol=2e-4)


def heat_map(side, width):
    """The synthetic heat map of the reference, (1, side, side, side, side)."""
    y, x = np.divmod(np.arange(side**2), side)
    dy, dx = y[:, None] - y, x[:, None] - x
    heat = np.exp(-(dy**2 + 1.7 * dx**2 + 0.3 * dy * dx) / (2 * width**2))
    return heat.reshape(1, side, side, side, side)


@pytest.mark.parametrize(("sigma", "threshold", "width"), FLEX)
def test_flex(reference, device, engine, sigma, threshold, width):
    """The published masks keep some of the equal entries at their edges; we keep them all.

    The map is symmetric, and 21 to 37 % of the masks have such ties. Which of them were kept
    follows from an unstable sort: ``torch.sort`` of each normalised float32 map, on a processor
    with AVX2. The file holds the others, as (mask, entry); here they are put below those that
    were kept by 1e-9 of their heat. In all else the masks are ours.
    """
    name, arrays, train, _ = reference
    heat = heat_map(train.shape[2], width)
    ties = np.load(Path(__file__).with_name("published_ties.npz"))
    left_out = ties[f"{name}_threshold{threshold}_width{width}"]
    n_pixels = train.shape[2] ** 2
    heat.reshape(n_pixels, n_pixels)[tuple(left_out.T)] *= 1 - 1e-9
    windows = FlexibleWindows(heat, threshold, [sigma])
    model = PSPCDenoiser(windows=windows, engine=engine, device=device).fit(train)
    mean = model.denoise(noisy(reference, sigma), sigma)
    expected = arrays[f"flex_sigma{sigma}_threshold{threshold}_width{width}"]
    np.testing.assert_allclose(mean, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("sigma", EMPIRICAL)
def test_empirical(reference, device, sigma):
    _, arrays, train, _ = reference
    mean = EmpiricalDenoiser(device=device).fit(train).denoise(noisy(reference, sigma), sigma)
    np.testing.assert_allclose(mean, arrays[f"empirical_sigma{sigma}"], rtol=0, atol=2e-4)


@pytest.mark.parametrize(("sigma", "rank"), GAUSSIAN)
def test_gaussian(reference, device, sigma, rank):
    _, arrays, train, _ = reference
    model = GaussianDenoiser(rank, device=device).fit(train)
    mean = model.denoise(noisy(reference, sigma), sigma)
    error = (mean - arrays[f"gaussian_sigma{sigma}_rank{rank}"]).reshape(len(mean), -1)
    if (sigma, rank) == (0.296, None) and len(arrays["noise"][0]) == 3:
        # One known exception: 300 images have no variance in all but 299 directions. float32
        # eigenvalues of the covariance are not zero there but about 1e-7 of the largest, which
        # is not small beside sigma^2; in the directions of the images all is as it should be.
        assert np.abs(error).max() < 6e-4
        error = error @ model.components_.T @ model.components_
    assert np.abs(error).max() < 2e-4


def test_no_case_is_left_out(reference):
    _, arrays, *_ = reference
    cases = {f"square_sigma{sigma}_patch{size}" for sigma, size in SQUARES}
    cases |= {f"flex_sigma{s}_threshold{t}_width{w}" for s, t, w in FLEX}
    cases |= {f"empirical_sigma{sigma}" for sigma in EMPIRICAL}
    cases |= {f"gaussian_sigma{sigma}_rank{rank}" for sigma, rank in GAUSSIAN}
    known = "square", "flex", "empirical_sigma", "gaussian"
    assert cases == {name for name in arrays if name.startswith(known)}


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_sample(reference, device, engine, sampler):
    name, arrays, train, _ = reference
    schedule = PatchSchedule(edm_sigmas(18).tolist(), arrays["patch_schedule"].tolist())
    samples = (
        PSPCDenoiser(schedule, engine=engine, device=device)
        .fit(train)
        .sample(initial=80 * arrays["noise"][:2], sampler=sampler)
    )
    error = np.abs(samples - arrays[f"sample_{sampler}"])
    if (name, sampler) == ("cifar10", "euler"):
        # One known exception, at the 3 x 3 windows of one place. Two training patches are so
        # nearly tied there that float32 rounding decides: the published formula run plainly in
        # float32 gives the stored patch or ours according to whether a step is written
        # x0 + (t / s)(z - x0) or z + (t - s)(z - x0) / s; float64 gives ours (next test).
        tied = error[1, :, 28:31, 7:11]
        assert tied.max() < 0.06
        tied[...] = 0
    assert error.max() < 5e-3


def test_the_tied_place_in_float64(reference):
    """Float64 chooses the patch that our float32 chooses, also from perturbed starts."""
    name, arrays, train, _ = reference
    if name != "cifar10":
        pytest.skip("the tie is in a CIFAR-10 trajectory")
    schedule = PatchSchedule(edm_sigmas(18).tolist(), arrays["patch_schedule"].tolist())
    start = 80 * arrays["noise"][1:2].astype(np.float64)
    ours = PSPCDenoiser(schedule).fit(train).sample(initial=start, sampler="euler")
    exact = PSPCDenoiser(schedule).fit(train / 127.5 - 1)
    for seed in range(2):
        noise = 1e-4 * np.random.default_rng(seed).standard_normal(start.shape)
        samples = exact.sample(initial=start + noise, sampler="euler")
        np.testing.assert_allclose(samples, ours, rtol=0, atol=1e-5)
