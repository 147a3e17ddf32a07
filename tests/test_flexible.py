"""PSPC through windows of any shape, and with mirror images, against the slow formula."""

import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

import generators
import oracle
from skpspc import EmpiricalDenoiser, FlexibleWindows, GaussianDenoiser, PatchDenoiser, PSPCDenoiser
from skpspc.support import MirroredTrainingSet, TrainingSet

SHAPES = [(1, 4, 4), (2, 3, 5), (3, 1, 6)]


def slow_masks(heat, threshold):
    """Masks (K, p) of maps (K, p), entry by entry."""
    masks = np.zeros(heat.shape, dtype=bool)
    for k, row in enumerate(heat):
        for p, value in enumerate(row):
            masks[k, p] = row[row <= value].sum() >= (1 - threshold) * row.sum() * (1 - 1e-12)
    return masks


def slow_precisions(heat, threshold, soft):
    masks = slow_masks(heat, threshold)
    return masks * heat / heat.max(1, keepdims=True) if soft else masks.astype(float)


def wiener_heat(X, sigma, weight=None):
    """|W|, summed over both channels, (p, p)."""
    x = oracle.as_float(X)
    cov = np.cov(x.T, ddof=0, aweights=weight).reshape(x.shape[1], -1)
    W = np.abs(cov @ np.linalg.inv(cov + sigma**2 * np.eye(len(cov))))
    heat = W.reshape(X.shape[1], -1, X.shape[1], W.shape[0] // X.shape[1]).sum((0, 2))
    np.fill_diagonal(heat, heat.max(1))
    return heat


def slow_collection(Z, X, sigma, precisions, weight=None):
    """Posterior mean collection with precisions (K, p), responses alike; sigma (n,)."""
    z = oracle.as_float(Z).reshape(len(Z), Z.shape[1], -1)
    x = oracle.as_float(X).reshape(len(X), X.shape[1], -1)
    prior = np.ones(len(X)) if weight is None else weight
    prior = prior / prior.sum()
    mean = np.zeros(z.shape)
    evidence = np.zeros((len(z), len(precisions)))
    for i, level in enumerate(np.broadcast_to(sigma, len(z))):
        for k, precision in enumerate(precisions):
            logit = -(precision * (z[i] - x) ** 2).sum((1, 2)) / (2 * level**2)
            posterior = prior * np.exp(logit - logit.max())
            numbers = x.shape[1] * precision.sum()
            evidence[i, k] = logit.max() + np.log(posterior.sum())
            evidence[i, k] -= numbers / 2 * np.log(2 * np.pi * level**2)
            evidence[i, k] *= x[0].size / numbers
            mean[i] += precision * np.tensordot(posterior / posterior.sum(), x, 1)
    return (mean / precisions.sum(0)).reshape(Z.shape), evidence.mean(1)


def maps(rng, shape, n_levels):
    """Random heat maps with values that are often tied."""
    heat = rng.integers(0, 6, (n_levels, *shape[1:], *shape[1:])) / 4.0
    n = shape[1] * shape[2]
    heat.reshape(n_levels, n, n)[...] += 2 * np.eye(n)
    return heat


def case(shape, n_images=20, seed=0):
    rng = np.random.default_rng([*shape, seed])
    X = rng.integers(0, 256, (n_images, *shape), dtype=np.uint8)
    sigma = np.array([0.1, 0.3, 2.5, 0.5])
    noise = sigma[:, None, None, None] * rng.standard_normal((4, *shape))
    return rng, X, X[:4] / 127.5 - 1 + noise, sigma


GRID = [3.0, 0.2]
NEAREST = [1, 1, 0, 1]  # of the levels of `case`


# --------------------------------------------------------------------- the slow formula


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_float64_oracle(shape, soft, weighted, device):
    rng, X, Z, sigma = case(shape)
    heat = maps(rng, shape, 2)
    weight = rng.random(len(X)) + 0.1 if weighted else None
    windows = FlexibleWindows(heat, [0.8, 0.4], GRID, soft=soft)
    model = PSPCDenoiser(windows=windows, device=device).fit(X, sample_weight=weight)
    posterior = model.posterior(Z, sigma)
    flat = heat.reshape(2, len(heat[0]) * heat.shape[2], -1)
    levels = [slow_precisions(flat[n], t, soft) for n, t in enumerate([0.8, 0.4])]
    for i, n in enumerate(NEAREST):
        mean, evidence = slow_collection(Z[[i]], X, sigma[[i]], levels[n], weight)
        np.testing.assert_allclose(posterior.mean[[i]], mean, rtol=0, atol=1e-10)
        np.testing.assert_allclose(posterior.log_evidence[[i]], evidence, rtol=1e-10)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_sigma(soft, dtype, device):
    rng, X, Z, _ = case((2, 3, 5))
    Z = rng.standard_normal(Z.shape).astype(dtype)
    heat = maps(rng, (2, 3, 5), 1)
    weight = rng.random(len(X)) + 0.1
    windows = FlexibleWindows(heat, 0.6, [1.0], soft=soft)
    model = PSPCDenoiser(windows=windows, device=device).fit(X, sample_weight=weight)
    x = X.reshape(len(X), 2, -1) / 127.5 - 1
    precisions = slow_precisions(heat.reshape(15, 15), 0.6, soft)
    distance = np.einsum("kp,bicp->bik", precisions, (Z.reshape(4, 1, 2, -1) - x) ** 2)
    nearest = x[distance.argmin(1)]  # (b, k, c, p)
    mean = np.einsum("kp,bkcp->bcp", precisions / precisions.sum(0), nearest)
    atol = 1e-6 if dtype == np.float32 else 1e-13
    got = model.denoise(Z, 0.0)
    np.testing.assert_allclose(got.reshape(4, 2, -1), mean, rtol=0, atol=atol)
    middle = np.average(x, axis=0, weights=weight).reshape(X[0].shape)
    far = model.denoise(Z, np.inf)
    np.testing.assert_allclose(far, np.broadcast_to(middle, far.shape), rtol=0, atol=atol)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_float32_on_every_engine(soft, flip, engine, device):
    rng, X, Z, sigma = case((2, 3, 5), n_images=70)
    heat = maps(rng, (2, 3, 5), 1)
    windows = FlexibleWindows(heat, 0.6, GRID, soft=soft)
    weight = rng.random(len(X)) + 0.1
    model = PSPCDenoiser(windows=windows, flip=flip, engine=engine, device=device)
    got = model.fit(X, sample_weight=weight).denoise(Z.astype(np.float32), sigma)
    exact = PSPCDenoiser(windows=windows, flip=flip).fit(X, sample_weight=weight).denoise(Z, sigma)
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5)


@given(generators.cases(low=0.02), st.booleans(), st.sampled_from(["paper", 2, "hard", "soft"]))
def test_mirror_images_are_training_images(device, case, weighted, kind):
    weight = np.arange(len(case.X)) % 4 + 0.5 if weighted else None
    options = {"patch_size": kind}
    if kind in ("hard", "soft"):
        heat = maps(np.random.default_rng(0), case.shape, 1)
        options = {"windows": FlexibleWindows(heat, 0.7, [1.0], soft=kind == "soft")}
    elif kind == 2:
        options = {"patch_size": lambda sigma: 2}
    model = PSPCDenoiser(flip=True, device=device, **options).fit(case.X, sample_weight=weight)
    both = np.concatenate([case.X, case.X[..., ::-1]])
    twice = None if weight is None else np.concatenate([weight, weight])
    posterior = model.posterior(case.Z, case.sigma)
    appended = PSPCDenoiser(**options).fit(both, sample_weight=twice)
    other = appended.posterior(case.Z, case.sigma)
    np.testing.assert_allclose(posterior.mean, other.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(posterior.log_evidence, other.log_evidence, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        posterior.effective_sample_size, other.effective_sample_size, rtol=1e-8
    )
    if kind == 2:
        masks = oracle.square_masks(2, case.shape)
        exact = oracle.collection(case.Z, both, case.sigma, masks, sample_weight=twice).mean
    elif kind in ("hard", "soft"):
        flat = heat.reshape(case.shape[1] * case.shape[2], -1)
        precisions = slow_precisions(flat, 0.7, kind == "soft")
        exact, _ = slow_collection(case.Z, both, case.sigma, precisions, twice)
    else:
        return
    np.testing.assert_allclose(
        posterior.mean, exact.reshape(posterior.mean.shape), rtol=0, atol=1e-10
    )


def test_flip_in_float32_on_every_engine(photos, rng, engine, device):
    Z = oracle.as_float(photos[:4]).reshape(4, 3, 16, 16)[..., ::-1]
    for sigma in (0.05, 0.5, 3.0):
        noisy = (Z + sigma * rng.standard_normal(Z.shape)).astype(np.float32)
        both = np.concatenate([photos[:100], photos[:100, ..., ::-1]])
        masks = oracle.square_masks(5, (3, 16, 16))
        exact = oracle.collection(noisy, both, sigma, masks).mean
        model = PSPCDenoiser(5, flip=True, engine=engine, device=device).fit(photos[:100])
        got = model.denoise(noisy, sigma).reshape(4, -1)
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5)


def test_mirrored_reads_are_those_of_a_copy(rng):
    X = torch.from_numpy(rng.integers(0, 256, (5, 2, 3, 4), dtype=np.uint8))
    copy = TrainingSet(torch.cat([X, X.flip(-1)]))
    lazy = MirroredTrainingSet(TrainingSet(X))
    assert lazy.images is X
    assert len(lazy) == len(copy)
    for n_rows in (1, 3, 5, 7, 20):
        for rows in lazy.slices(n_rows):
            assert torch.equal(lazy.stored(rows), copy.stored(rows))
    for area in ((0, 0, 3, 4), (1, 0, 2, 3), (0, 1, 2, 2), (2, 3, 1, 1)):
        assert torch.equal(lazy.crop(*area).images, copy.crop(*area).images)
    for columns in (slice(0, 24), slice(5, 14)):
        assert torch.equal(lazy.values(columns), copy.values(columns))
    rows = torch.tensor([9, 0, 4, 5, 5])
    assert torch.equal(lazy.take(rows, torch.float64), copy.take(rows, torch.float64))
    for name in ("centred_norms", "abs_max", "centre", "span", "log_uniform"):
        np.testing.assert_allclose(getattr(lazy, name), getattr(copy, name), rtol=1e-14)
    assert all(map(torch.equal, lazy.extremes, copy.extremes))


@pytest.mark.parametrize("weighted", [False, True])
def test_parts_of_mirrored_sets_and_more_of_them(rng, weighted):
    """Against sets that hold the mirror images."""
    X = torch.from_numpy(rng.integers(0, 256, (5, 2, 3, 4), dtype=np.uint8))
    weight = torch.from_numpy(rng.uniform(0.5, 2, 5)) if weighted else None
    twice = torch.cat([weight, weight]) if weighted else None
    lazy = MirroredTrainingSet(TrainingSet(X, weight))
    copy = TrainingSet(torch.cat([X, X.flip(-1)]), twice)
    everything = torch.arange(10)
    for rows in (slice(3, 8), slice(None), slice(-2, None), [9, 0, 4, 5, 5], everything % 3 == 0):
        part, expected = lazy.subset(rows), copy.subset(rows)
        assert torch.equal(part.stored(slice(0, len(part))), expected.images)
        assert not weighted or torch.equal(part.sample_weight, expected.sample_weight)
    more = torch.from_numpy(rng.integers(0, 256, (2, 2, 3, 4), dtype=np.uint8))
    longer = lazy.extended(more, 3 * torch.ones(2, dtype=torch.float64))
    both = torch.cat([X, more])
    assert torch.equal(longer.stored(slice(0, 14)), torch.cat([both, both.flip(-1)]))
    weights = [*(weight if weighted else torch.ones(5, dtype=torch.float64)), 3.0, 3.0]
    assert longer.sample_weight.tolist() == [float(w) for w in weights] * 2


# ------------------------------------------------------------------------------ windows


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_windows_from_the_data(photos, rng, channels, weighted):
    X = np.ascontiguousarray(photos[:60, :channels, 4:9, 3:9])
    weight = rng.random(60) + 0.1 if weighted else None
    sigmas, thresholds = [0.1, 1.0], [0.5, 0.9]
    flexible = FlexibleWindows("data", thresholds, sigmas)
    model = PSPCDenoiser(windows=flexible).fit(X, sample_weight=weight)
    fitted = GaussianDenoiser().fit(X, sample_weight=weight)
    other = PSPCDenoiser(windows=FlexibleWindows(fitted, thresholds, sigmas)).fit(X)
    for level in range(2):
        heat = wiener_heat(X, sigmas[level], weight)
        masks = slow_masks(heat, thresholds[level])
        got = model.windows_.at(level).flatten(1)
        np.testing.assert_array_equal(got, masks)
        assert torch.equal(other.windows_.at(level).flatten(1), got)
        assert 1 < masks.sum(1).mean() < masks[0].size
    soft = PSPCDenoiser(windows=FlexibleWindows("data", 1.0, sigmas, soft=True))
    soft.fit(X, sample_weight=weight)
    np.testing.assert_allclose(
        soft.windows_.at(1).flatten(1), heat / heat.max(1, keepdims=True), atol=1e-9
    )


def test_every_data_window_holds_its_pixel(digits):
    """The corner of the digits is black always, and its neighbours nearly so."""
    assert (digits[:, 0, 0, 0] == 0).all()
    for sigma in (0.0, 0.01, 1.0, 1e3):
        for X in (digits, digits[:1], digits[:20]):
            windows = FlexibleWindows("data", 0.3, [sigma])
            masks = PSPCDenoiser(windows=windows).fit(X).windows_.at(0).flatten(1)
            assert masks.diagonal().all()
            assert masks[0].sum() == 1


def test_windows_are_symmetric_where_the_map_is():
    y, x = np.divmod(np.arange(49), 7)
    heat = np.exp(-((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / 4.0).reshape(1, 7, 7, 7, 7)
    sizes = set()
    for threshold in np.linspace(0.05, 1, 20):
        windows = FlexibleWindows(heat, threshold, [1.0]).resolve(ones((1, 7, 7)))
        mask = windows.at(0)[24]
        for same in (mask.flip(0), mask.flip(1), mask.T):
            assert torch.equal(mask, same)
        sizes.add(int(mask.sum()))
    assert len(sizes) > 5


@pytest.mark.parametrize("soft", [False, True])
def test_windows_of_mirrored_data_are_those_of_images_and_mirror_images(rng, soft):
    X, Z = rng.standard_normal((40, 2, 4, 6)), rng.standard_normal((3, 2, 4, 6))
    both = np.concatenate([X, X[..., ::-1]])
    known = GaussianDenoiser().fit(both)
    for heat in ("data", known):
        windows = FlexibleWindows(heat, 0.6, [0.7], soft=soft)
        got = PSPCDenoiser(windows=windows, flip=True).fit(X)
        expected = PSPCDenoiser(windows=windows).fit(both)
        np.testing.assert_allclose(got.windows_.at(0), expected.windows_.at(0), atol=1e-10)
        np.testing.assert_allclose(got.denoise(Z, 0.7), expected.denoise(Z, 0.7), atol=1e-10)


@pytest.mark.parametrize("soft", [False, True])
def test_a_threshold_of_one_is_the_empirical_denoiser(photos, rng, soft, device):
    X, Z = photos[:50], rng.standard_normal((3, 3, 16, 16))
    heat = np.ones((1, 16, 16, 16, 16)) if soft else rng.random((1, 16, 16, 16, 16))
    for flip in (False, True):
        both = np.concatenate([X, X[..., ::-1]]) if flip else X
        windows = FlexibleWindows(heat, 1.0, [1.0], soft=soft)
        got = PSPCDenoiser(windows=windows, flip=flip, device=device).fit(X).posterior(Z, 0.7)
        whole = EmpiricalDenoiser(device=device).fit(both).posterior(Z, 0.7)
        exact = 1e-9 if flip else 0
        np.testing.assert_allclose(got.mean, whole.mean, rtol=exact)
        np.testing.assert_allclose(got.log_evidence, whole.log_evidence, rtol=exact + 1e-14)
        np.testing.assert_allclose(
            got.effective_sample_size, whole.effective_sample_size, rtol=exact + 1e-14
        )


def test_whatever_holds_the_maps(rng, tmp_path):
    _, X, Z, sigma = case((2, 3, 5))
    heat = maps(rng, (2, 3, 5), 2).astype(np.float32)
    np.save(tmp_path / "heat.npy", heat)
    fits = [
        PSPCDenoiser(windows=FlexibleWindows(given, 0.5, GRID, soft=soft)).fit(X)
        for soft in (False, True)
        for given in (
            heat,
            heat.tolist(),
            torch.from_numpy(heat),
            np.load(tmp_path / "heat.npy", mmap_mode="r"),
            str(tmp_path / "heat.npy"),
            tmp_path / "heat.npy",
        )
    ]
    hard, soft = fits[0].denoise(Z, sigma), fits[6].denoise(Z, sigma)
    assert np.abs(hard - soft).max() > 1e-3
    for i, model in enumerate(fits):
        np.testing.assert_array_equal(model.denoise(Z, sigma), soft if i >= 6 else hard)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.denoise(Z, sigma), soft if i >= 6 else hard)


def test_a_file_is_not_read_as_a_whole(tmp_path):
    """64 MiB of maps, of which one level at a time is held."""
    levels = np.lib.format.open_memmap(
        tmp_path / "heat.npy", "w+", np.float32, (16, 32, 32, 32, 32)
    )
    levels[:] = np.eye(1024, dtype=np.float32).reshape(levels.shape[1:])
    levels.flush()
    del levels
    windows = FlexibleWindows(tmp_path / "heat.npy", 0.5, np.arange(16.0), soft=True)
    tracemalloc.start()
    resolved = windows.resolve(ones((1, 32, 32)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20
    assert torch.equal(resolved.at(15).flatten(1), torch.eye(1024, dtype=torch.float64))


def test_clones_share_the_maps_and_searches_work(photos):
    X = np.ascontiguousarray(photos[:24, :, :5, :5])
    heat = np.ones((1, 5, 5, 5, 5))
    model = PSPCDenoiser(windows=FlexibleWindows(heat, 0.5, [1.0]))
    copied = clone(model)
    assert copied.windows is not model.windows
    assert copied.windows.heatmaps is heat
    state = np.random.RandomState(0)
    model.set_params(windows__random_state=state)
    assert clone(model).windows.random_state is not state
    fitted = GaussianDenoiser().fit(X)
    model.set_params(windows__heatmaps=fitted, windows__random_state=0)
    assert clone(model).windows.heatmaps is fitted
    grid = {"windows__thresholds": [0.3, 0.9], "flip": [False, True]}
    search = GridSearchCV(model, grid, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert model.windows.thresholds == 0.5


# ---------------------------------------------------------------------------- bad input


def ones(shape):
    return TrainingSet(torch.ones(1, *shape))


def good_maps():
    heat = np.zeros((1, 2, 3, 2, 3))
    heat.reshape(6, 6)[...] = np.eye(6) + 0.1
    return heat


def broken(at, value):
    heat = good_maps()
    heat[at] = value
    return heat


def uncovered():
    heat = good_maps()
    heat[..., 1, 2] = 0  # nobody looks there, not even its own window
    return heat


class Unfitted:
    def denoise(self, Z, sigma):
        return Z


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"heatmaps": np.ones((1, 3, 2, 3, 2))}, r"shape \(1, 2, 3, 2, 3\) for 1 sigmas"),
        ({"heatmaps": np.ones((2, 2, 3, 2, 3))}, r"got \(2, 2, 3, 2, 3\)"),
        ({"heatmaps": np.ones((2, 3, 2, 3))}, "heatmaps must have shape"),
        ({"heatmaps": None}, r"heatmaps must have shape .* got \(\)"),
        ({"heatmaps": [[1.0], [1.0, 2.0]]}, "heatmaps is not an array: its rows differ in length"),
        ({"heatmaps": good_maps() * 1j}, "heatmaps must be real numbers, got complex128"),
        ({"heatmaps": torch.from_numpy(good_maps() * 1j)}, r"real numbers, got torch\.complex128"),
        ({"heatmaps": good_maps().astype(str)}, "heatmaps must be real numbers, got <U"),
        ({"heatmaps": good_maps().astype(object)}, "heatmaps must be real numbers, got object"),
        ({"heatmaps": broken((0, 1, 0, 0, 2), -1)}, r"\(row 1, column 0\) .* negative or not fin"),
        ({"heatmaps": broken((0, 0, 1, 0, 0), np.nan)}, r"\(row 0, column 1\) .* not finite"),
        ({"heatmaps": broken((0, 0, 1, 0, 0), np.inf)}, r"\(row 0, column 1\) .* not finite"),
        ({"heatmaps": broken((0, 1, 1), 0)}, r"\(row 1, column 1\) .* is zero everywhere"),
        ({"heatmaps": uncovered()}, r"covers the pixel \(row 1, column 2\) at sigma = 1; raise"),
        ({"heatmaps": uncovered(), "soft": True}, r"covers the pixel \(row 1, column 2\)"),
        ({"heatmaps": Unfitted()}, "is a Unfitted, not a denoiser of skpspc"),
        ({"heatmaps": "dat"}, "neither 'data' nor a file"),
        ({"soft": "yes"}, "'soft' parameter"),
        ({"thresholds": 0.0}, r"thresholds must be in \(0, 1\]"),
        ({"thresholds": 1.01}, r"thresholds must be in \(0, 1\]"),
        ({"thresholds": np.nan}, r"thresholds must be in \(0, 1\]"),
        ({"thresholds": "half"}, r"thresholds must be one float or one per .*, got 'half'\."),
        ({"thresholds": ["0.5", "all"]}, r"thresholds must be one float .*, got \['0.5', 'all'\]"),
        ({"thresholds": None}, r"thresholds must be in \(0, 1\], got None"),
        ({"thresholds": [0.5, 0.5]}, r"thresholds must be one float or one per sigma"),
        ({"sigmas": 1.0}, "sigmas must be a sequence of at least one"),
        ({"sigmas": []}, "sigmas must be a sequence of at least one"),
        ({"sigmas": [-1.0]}, "sigmas must be finite and non-negative"),
        ({"sigmas": [np.inf]}, "sigmas must be finite and non-negative"),
        ({"sigmas": [1.0, 1.0]}, "sigmas must be distinct"),
    ],
)
def test_bad_parameters(parameters, sentence):
    windows = FlexibleWindows(good_maps(), 0.5, [1.0]).set_params(**parameters)
    with pytest.raises(ValueError, match=sentence):
        PSPCDenoiser(windows=windows).fit(np.zeros((4, 1, 2, 3)))


def test_files_that_hold_no_array(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", a=good_maps(), b=good_maps())
    whole = tmp_path / "whole.npy"
    np.save(whole, good_maps())
    (tmp_path / "cut.npy").write_bytes(whole.read_bytes()[:-8])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "several.npz").read_bytes()[:-30])
    for path in sorted(set(tmp_path.iterdir()) - {whole}):
        windows = FlexibleWindows(path, 0.5, [1.0])
        with pytest.raises(ValueError, match=rf"{path.name}.* pass .* a file that np.save wrote"):
            PSPCDenoiser(windows=windows).fit(np.zeros((4, 1, 2, 3)))


def test_windows_and_what_does_not_go_with_them():
    windows = FlexibleWindows(good_maps(), 0.5, [1.0])
    X = np.zeros((4, 1, 2, 3))
    with pytest.raises(ValueError, match="leave patch_size at 'paper', or windows at None"):
        PSPCDenoiser(3, windows=windows).fit(X)
    with pytest.raises(ValueError, match="must have equal heights and equal widths"):
        gaussian = GaussianDenoiser().fit(np.zeros((3, 1, 4, 4)))
        PSPCDenoiser(windows=FlexibleWindows(gaussian, 0.5, [1.0])).fit(X)
    sentence = "heatmaps is a GaussianDenoiser that is not fitted; fit it first, or pass 'data'"
    with pytest.raises(NotFittedError, match=sentence):
        PSPCDenoiser(windows=FlexibleWindows(GaussianDenoiser(), 0.5, [1.0])).fit(X)
    with pytest.raises(ValueError, match="'windows' parameter"):
        PSPCDenoiser(windows=PatchDenoiser()).fit(X)
    with pytest.raises(ValueError, match="'flip' parameter"):
        PSPCDenoiser(flip=2).fit(X)
