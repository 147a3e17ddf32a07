"""Training images behind an answer, and the answer without some of them, by slow formulas."""

import re

import numpy as np
import pytest
import sklearn
import torch

import oracle
from helpers import fit_quietly
from skpspc import (
    BlendedDenoiser,
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    NetworkDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SmoothedDenoiser,
)
from skpspc.inspection import attribute, leave_out
from skpspc.posterior import window_weights
from skpspc.support import MirroredTrainingSet, TrainingSet

SHAPE = (2, 5, 6)
N = 24


def whole():
    return np.ones((1, *SHAPE))


def squares(size):
    masks = oracle.square_masks(size, SHAPE)
    return np.array(masks, dtype=float).reshape(-1, *SHAPE)


def around(size):
    """The square around every pixel, one loop a line."""
    _, height, width = SHAPE
    masks = np.zeros((height, width, *SHAPE))
    for y in range(height):
        for x in range(width):
            for i in range(height):
                for j in range(width):
                    masks[y, x, :, i, j] = max(abs(y - i), abs(x - j)) <= size // 2
    return masks.reshape(-1, *SHAPE)


def own():
    """Every pixel alone."""
    _, height, width = SHAPE
    eye = np.eye(height * width).reshape(-1, 1, height, width)
    return np.repeat(eye, SHAPE[0], axis=1)


def random_windows(seed, k=7):
    rng = np.random.default_rng(seed)
    windows = rng.random((k, *SHAPE)) * (rng.random((k, *SHAPE)) < 0.6)
    windows[0] += 0.1
    return windows


def heat_maps(soft):
    _, height, width = SHAPE
    n = height * width
    rng = np.random.default_rng(3)
    heat = rng.random((n, n)) if soft else (rng.random((n, n)) < 0.4).astype(float)
    np.fill_diagonal(heat, 1.0)
    return heat.reshape(1, height, width, height, width)


def as_windows(heat):
    """Maps with a largest entry of one, for all channels."""
    maps = heat.reshape(-1, 1, *SHAPE[1:])
    return np.repeat(maps, SHAPE[0], axis=1)


HARD = FlexibleWindows(heat_maps(False), 0.999, [1.0])
SOFT = FlexibleWindows(heat_maps(True), 1.0, [1.0], soft=True)
QUERY, RESPONSE = random_windows(1), random_windows(2)

# name: a denoiser, its queries and responses (K, C, H, W), and whether mirror images count
CASES = {
    "empirical": (EmpiricalDenoiser(), whole(), whole(), False),
    "pspc": (PSPCDenoiser(3), squares(3), squares(3), False),
    "pspc, whole image": (PSPCDenoiser(6), whole(), whole(), False),
    "pspc, flip": (PSPCDenoiser(2, flip=True), squares(2), squares(2), True),
    "flexible": (PSPCDenoiser(windows=HARD), *[as_windows(heat_maps(False))] * 2, False),
    "soft": (PSPCDenoiser(windows=SOFT), *[as_windows(heat_maps(True))] * 2, False),
    "local score": (LocalScoreDenoiser(3), around(3), own(), False),
    "collection": (PosteriorMeanCollection(QUERY, RESPONSE), QUERY, RESPONSE, False),
    "collection, flips": (
        PosteriorMeanCollection(QUERY, RESPONSE, source="flips"),
        QUERY,
        RESPONSE,
        True,
    ),
}
SIGMAS = [0.0, 0.05, 0.4, 1.5, np.inf]


@pytest.fixture
def X(rng):
    X = rng.integers(0, 256, (N, *SHAPE), dtype=np.uint8)
    X[5] = X[2]  # copies share
    return X


@pytest.fixture
def Z(X, rng):
    return X[[2, 7]] / 127.5 - 1 + 0.5 * rng.standard_normal((2, *SHAPE))


@pytest.fixture
def weight(rng):
    return rng.random(N) + 0.1


def slow_shares(z, X, sigma, query, response, flips, weight=None):
    """Parts (N or 2 N, C, H, W) of training images, then mirror images, in one answer."""
    if flips:
        X = np.concatenate([X, X[..., ::-1]])
        weight = None if weight is None else np.concatenate([weight, weight])
    prior = np.ones(len(X)) if weight is None else weight
    prior = prior / prior.sum()
    x, q = oracle.as_float(X), query.reshape(len(query), -1)
    total = np.zeros((len(X), *SHAPE))
    for precision, answer in zip(q, response, strict=True):
        distance = (precision * (z.ravel() - x) ** 2).sum(1)
        if sigma == 0:
            w = np.where(distance == distance.min(), prior, 0.0)
        elif np.isinf(sigma):
            w = prior
        else:
            w = prior * np.exp((distance.min() - distance) / (2 * sigma**2))
        total += (w / w.sum())[:, None, None, None] * answer
    return total / response.sum(0)


def dense(found, image, flips):
    """Parts (N or 2 N, c, H, W) from an attribution with all images in its lists."""
    index = found.index[image] + N * found.mirrored[image] * flips
    parts = np.zeros((N * (1 + flips), *index.shape[:-1]))
    for at in np.ndindex(*index.shape[:-1]):
        kept = found.index[image][at] >= 0
        parts[(index[at][kept], *at)] = found.share[image][at][kept]
    return parts


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("name", CASES)
def test_shares_are_those_of_the_formula(name, sigma, X, Z, weight):
    model, query, response, flips = CASES[name]
    fit_quietly(model, X, weight)
    found = model.attribute(Z, sigma, top=60)
    for i, z in enumerate(Z):
        expected = slow_shares(z, X, sigma, query, response, flips, weight)
        parts = np.broadcast_to(dense(found, i, flips), expected.shape)
        np.testing.assert_allclose(parts, expected, atol=1e-9)
        places = expected[:, : found.index.shape[1]]
        np.testing.assert_allclose(
            found.effective_sample_size[i], 1 / (places**2).sum(0), rtol=1e-7
        )
        by_image = places.mean((1, 2, 3)).reshape(-1, N).sum(0)
        np.testing.assert_allclose(found.image_share[i], by_image, atol=1e-9)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("name", CASES)
def test_shares_sum_to_one_and_make_the_answer(name, sigma, X, Z, weight):
    model, *_ = CASES[name]
    answer = fit_quietly(model, X, weight).denoise(Z, sigma)
    found = attribute(model, Z, sigma, top=60)
    np.testing.assert_allclose(found.share.sum(-1), 1.0, atol=1e-9)
    np.testing.assert_allclose(found.rest, 0.0, atol=1e-9)
    np.testing.assert_allclose(found.image_share.sum(1), 1.0, atol=1e-9)
    x = X / 127.5 - 1
    channel = np.arange(SHAPE[0]).reshape(1, -1, 1, 1, 1)
    made = (found.share * x[found.index, channel, found.row, found.column]).sum(-1)
    np.testing.assert_allclose(made, answer, atol=1e-8)


def test_the_largest_shares_come_first_and_the_rest_is_said(X, Z):
    model = PSPCDenoiser(3).fit(X)
    every, some = model.attribute(Z, 1.0, top=N), model.attribute(Z, 1.0, top=3)
    assert some.index.shape == (2, 1, *SHAPE[1:], 3)
    assert (np.diff(every.share) <= 0).all()
    np.testing.assert_allclose(some.share, every.share[..., :3], atol=1e-12)
    np.testing.assert_allclose(some.rest, every.share[..., 3:].sum(-1), atol=1e-9)
    assert (some.rest > 0.01).all()
    np.testing.assert_array_equal(some.image_share, every.image_share)


def test_lists_longer_than_the_training_set(X, Z):
    found = EmpiricalDenoiser().fit(X[:3]).attribute(Z, 1.0, top=5)
    assert (found.index[..., 3:] == -1).all() and (found.share[..., 3:] == 0).all()


@pytest.mark.parametrize("name", ["empirical", "pspc", "local score", "soft"])
def test_by_window_are_the_posterior_weights(name, X, Z, weight):
    model, query, _, _ = CASES[name]
    found = fit_quietly(model, X, weight).attribute(Z, 0.7, top=N, by="window")
    assert found.index.shape == (2, len(query), N)
    one = np.ones((1, *SHAPE))
    for k, precision in enumerate(query):
        expected = slow_shares(Z[1], X, 0.7, precision[None], one, False, weight)[:, 0, 0, 0]
        given = np.zeros(N)
        given[found.index[1, k]] = found.share[1, k]
        np.testing.assert_allclose(given, expected, atol=1e-9)
        _, rows, columns = np.nonzero(precision)
        assert (found.row[1, k] == rows.min()).all()
        assert (found.column[1, k] == columns.min()).all()


def test_windows_in_mirror_images_are_found_where_they_are(X):
    z = X[9:10, :, :, ::-1] / 127.5 - 1
    found = PSPCDenoiser(2, flip=True).fit(X).attribute(z, 0.01, top=1, by="window")
    corners = [(top, left) for top in range(4) for left in range(5)]
    for k, (top, left) in enumerate(corners):
        assert (found.index[0, k, 0], found.mirrored[0, k, 0]) == (9, True)
        row, column = found.row[0, k, 0], found.column[0, k, 0]
        there = X[9, :, row : row + 2, column : column + 2][..., ::-1] / 127.5 - 1
        np.testing.assert_array_equal(there, z[0, :, top : top + 2, left : left + 2])


@pytest.mark.parametrize("location", ["center", (0, 0), (1, 4)])
def test_patches_say_where_in_the_image_they_lie(location, X, Z):
    model = PatchDenoiser(2, location=location).fit(X)
    found = model.attribute(Z, 0.8, top=N)
    assert found.index.shape == (2, 1, 2, 2, N)
    x = X / 127.5 - 1
    channel = np.arange(SHAPE[0]).reshape(1, -1, 1, 1, 1)
    made = (found.share * x[found.index, channel, found.row, found.column]).sum(-1)
    np.testing.assert_allclose(made, model.denoise(Z, 0.8), atol=1e-9)
    (top, left) = model.corners_[0]
    patches = Z[..., top : top + 2, left : left + 2]
    np.testing.assert_array_equal(model.attribute(patches, 0.8, top=N).share, found.share)


def test_coordinates_of_pca_locality_have_images_of_their_own(X, Z):
    model = PCALocalityDenoiser(0.3).fit(X)
    found = model.attribute(Z, 0.6, top=N)
    assert found.index.shape == (2, *SHAPE, N)
    query = model.neighbours(0.6).T.reshape(-1, *SHAPE).astype(float)
    response = np.eye(len(query)).reshape(-1, *SHAPE)
    expected = slow_shares(Z[0], X, 0.6, query, response, False)
    np.testing.assert_allclose(dense(found, 0, False), expected, atol=1e-9)


def slow_sliding(z, X, sigma, size, boundary, prior):
    """Weights (N, H, W) of the patch around each place, for every pixel: a dict."""
    _, height, width = SHAPE
    reach = size // 2
    mode = "wrap" if boundary == "circular" else "constant"
    x = X / 127.5 - 1
    padded = np.pad(z, ((0, 0), (reach, reach), (reach, reach)), mode=mode)
    beyond = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))

    def overhang(row, column):
        sides = reach - row, row + reach - height + 1, reach - column, column + reach - width + 1
        return tuple(max(0, side) for side in sides)

    found = {}
    for pixel in np.ndindex(height, width):
        meets = overhang(*pixel) if boundary == "broken" else (0, 0, 0, 0)
        distance = np.full((len(X), height, width), np.inf)
        for row, column in np.ndindex(height, width):
            if overhang(row, column) == meets:
                ours = padded[:, pixel[0] : pixel[0] + size, pixel[1] : pixel[1] + size]
                theirs = beyond[:, :, row : row + size, column : column + size]
                distance[:, row, column] = ((ours - theirs) ** 2).sum((1, 2, 3))
        logit = (
            -distance / (2 * sigma**2) if sigma else np.where(distance > distance.min(), -np.inf, 0)
        )
        weight = prior[:, None, None] * np.exp(logit - logit.max())
        found[pixel] = weight / weight.sum()
    return found


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("boundary", ["zero", "circular", "broken"])
def test_patches_at_other_places_are_found_where_they_are(boundary, size, sigma, X, Z, weight):
    model = LocalScoreDenoiser(size, equivariant=True, boundary=boundary).fit(X, None, weight)
    found = model.attribute(Z, sigma, top=N * 30)
    x = X / 127.5 - 1
    channel = np.arange(SHAPE[0]).reshape(1, -1, 1, 1, 1)
    made = (found.share * x[found.index, channel, found.row, found.column]).sum(-1)
    np.testing.assert_allclose(made, model.denoise(Z, sigma), atol=1e-8)
    expected = slow_sliding(Z[0], X, sigma, size, boundary, weight)
    by_image = np.zeros(N)
    for pixel, weights in expected.items():
        at = (0, 0, *pixel)
        kept = found.index[at] >= 0
        index, row, column = (getattr(found, name)[at][kept] for name in ("index", "row", "column"))
        given = np.zeros_like(weights)
        given[index, row, column] = found.share[at][kept]
        np.testing.assert_allclose(given, weights, atol=1e-9)
        ess = found.effective_sample_size[at]
        np.testing.assert_allclose(ess, 1 / (weights**2).sum(), rtol=1e-7)
        by_image += weights.sum((1, 2)) / len(expected)
    np.testing.assert_allclose(found.image_share[0], by_image, atol=1e-9)
    windows = model.attribute(Z, sigma, top=1, by="window")
    first = found.index[:, 0, ..., 0].reshape(2, -1)
    np.testing.assert_array_equal(windows.index[..., 0], first)
    inner = np.s_[0, 7]  # pixel (1, 1): its window of 3 does not overhang, nor does its patch
    if size == 3:
        assert windows.row[inner] == found.row[0, 0, 1, 1, 0] - 1
        assert windows.column[inner] == found.column[0, 0, 1, 1, 0] - 1


# Refitting these keeps the windows; those that the data chose would change too.
OTHERS = {
    "patch": PatchDenoiser(3, location=(1, 1)),
    "a schedule": PSPCDenoiser(lambda sigma: 2 if sigma < 0.5 else 4),
    "zero": LocalScoreDenoiser(3, equivariant=True),
    "circular": LocalScoreDenoiser(3, equivariant=True, boundary="circular"),
    "broken": LocalScoreDenoiser(3, equivariant=True, boundary="broken"),
}
REFITTED = [*CASES, *OTHERS]


def model_of(name):
    return OTHERS[name] if name in OTHERS else CASES[name][0]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.6, np.inf])
@pytest.mark.parametrize("name", REFITTED)
def test_leaving_out_is_refitting(name, sigma, weighted, X, Z, weight):
    model = model_of(name)
    weight = weight if weighted else None
    groups = [2, [2, 5, 7], list(range(1, N))]
    found = fit_quietly(model, X, weight).denoise_without(Z, sigma, groups)
    assert found.shape == (len(groups), *model.denoise(Z, sigma).shape)
    for group, answer in zip(groups, found, strict=True):
        kept = np.delete(np.arange(N), group)
        refitted = fit_quietly(model, X[kept], None if weight is None else weight[kept])
        np.testing.assert_allclose(answer, refitted.denoise(Z, sigma), atol=1e-9)


@pytest.mark.parametrize("name", REFITTED)
def test_leaving_out_is_refitting_in_float32(name, X, Z):
    model, Z = model_of(name), Z.astype(np.float32)
    for sigma in (0.05, 0.6):
        found = fit_quietly(model, X).denoise_without(Z, sigma, [2, [5, 7]])
        assert found.dtype == np.float32
        for group, answer in zip([2, [5, 7]], found, strict=True):
            refitted = fit_quietly(model, np.delete(X, group, axis=0))
            np.testing.assert_allclose(answer, refitted.denoise(Z, sigma), atol=1e-5)


def test_without_the_image_that_held_all_the_weight(X):
    """1 - w rounds to zero, and the closed form alone would be 0 / 0."""
    z, sigma = X[7:8] / 127.5 - 1, 0.1
    model = EmpiricalDenoiser().fit(X)
    assert model.attribute(z, sigma).share[0, 0, 0, 0, 0] == 1.0
    refitted = EmpiricalDenoiser().fit(np.delete(X, 7, axis=0)).denoise(z, sigma)
    np.testing.assert_allclose(model.denoise_without(z, sigma, [7])[0], refitted, atol=1e-12)
    assert abs(refitted - model.denoise(z, sigma)).max() > 0.1


def test_classes_have_the_numbers_of_all_images(X, Z, weight):
    y = np.array(["a", "b", "c"])[np.arange(N) % 3]
    model = PSPCDenoiser(3).fit(X, y, weight)
    found = model.attribute(Z, 0.5, y=["c", "a"], top=N)
    for i, (label, z) in enumerate(zip("ca", Z, strict=True)):
        rows = np.flatnonzero(y == label)
        alone = PSPCDenoiser(3).fit(X[rows], sample_weight=weight[rows])
        some = alone.attribute(z[None], 0.5, top=len(rows))
        listed = found.share[i, ..., : len(rows)]
        np.testing.assert_allclose(listed, some.share[0], atol=1e-12)
        np.testing.assert_array_equal(found.index[i, ..., : len(rows)], rows[some.index[0]])
        assert (found.index[i, ..., len(rows) :] == -1).all()
        np.testing.assert_allclose(found.image_share[i, rows], some.image_share[0], atol=1e-12)
    without = model.denoise_without(Z, 0.5, [2, 3], y=["c", "a"])
    for i, (label, z) in enumerate(zip("ca", Z, strict=True)):
        for removed, answer in zip([2, 3], without, strict=True):
            rows = np.setdiff1d(np.flatnonzero(y == label), removed)
            alone = PSPCDenoiser(3).fit(X[rows], sample_weight=weight[rows])
            np.testing.assert_allclose(answer[i], alone.denoise(z[None], 0.5)[0], atol=1e-9)


def test_numbers_are_rows_of_X_though_some_weigh_nothing(X, Z, weight):
    weight = np.where(np.arange(N) < 3, 0.0, weight)
    model = PSPCDenoiser(3).fit(X, sample_weight=weight)
    rows = np.flatnonzero(weight)
    found = model.attribute(Z, 0.5, top=1)
    alone = PSPCDenoiser(3).fit(X[rows], sample_weight=weight[rows])
    np.testing.assert_array_equal(found.index, rows[alone.attribute(Z, 0.5, top=1).index])
    refitted = PSPCDenoiser(3).fit(X[rows[1:]], sample_weight=weight[rows[1:]])
    weightless, heavy = leave_out(model, Z, 0.5, [0, rows[0]]).without
    np.testing.assert_allclose(heavy, refitted.denoise(Z, 0.5), atol=1e-9)
    np.testing.assert_allclose(weightless, model.denoise(Z, 0.5), atol=1e-9)


def test_one_sigma_an_image(X, Z):
    model = PSPCDenoiser(lambda sigma: 2 if sigma < 0.5 else 4).fit(X)
    both = model.attribute(Z, [0.7, 0.2])
    without = model.denoise_without(Z, [0.7, 0.2], [2])
    for i, sigma in enumerate([0.7, 0.2]):
        alone = model.attribute(Z[i : i + 1], sigma)
        np.testing.assert_array_equal(both.index[i], alone.index[0])
        np.testing.assert_array_equal(both.image_share[i], alone.image_share[0])
        expected = model.denoise_without(Z[i : i + 1], sigma, [2])
        np.testing.assert_array_equal(without[:, i], expected[:, 0])
    with pytest.raises(ValueError, match="pass one sigma at a time"):
        model.attribute(Z, [0.7, 0.2], by="window")


def test_little_working_memory_changes_nothing(X, Z):
    model = PSPCDenoiser(3, flip=True).fit(np.delete(X, 5, axis=0))  # no copy: no ties
    usual = model.attribute(Z, 0.5), model.denoise_without(Z, 0.5, [2, 3])
    with sklearn.config_context(working_memory=4e-3):
        found = model.attribute(Z, 0.5), model.denoise_without(Z, 0.5, [2, 3])
    np.testing.assert_array_equal(found[0].index, usual[0].index)
    np.testing.assert_allclose(found[0].share, usual[0].share, atol=1e-12)
    np.testing.assert_allclose(found[1], usual[1], atol=1e-12)


def test_containers_come_back(X, Z):
    model = PSPCDenoiser(3).fit(X)
    usual = model.attribute(Z, 0.5)
    found = model.attribute(torch.from_numpy(Z).float(), 0.5)
    assert isinstance(found.index, torch.Tensor) and found.share.dtype == torch.float32
    np.testing.assert_allclose(found.share, usual.share, atol=1e-5)
    flat = model.attribute(Z.reshape(2, -1), 0.5)
    np.testing.assert_array_equal(flat.index, usual.index)
    without = model.denoise_without(Z.reshape(2, -1), 0.5, [1])
    assert without.shape == (1, 2, Z[0].size)
    assert isinstance(model.denoise_without(torch.from_numpy(Z), 0.5, [1]), torch.Tensor)


def test_an_approximate_denoiser_is_attributed_exactly(X, Z):
    few = EmpiricalDenoiser(n_neighbors=2).fit(X).attribute(Z, 2.0, top=N)
    every = EmpiricalDenoiser().fit(X).attribute(Z, 2.0, top=N)
    np.testing.assert_array_equal(few.share, every.share)


@pytest.mark.parametrize(
    "model, reason",
    [
        (GaussianDenoiser(), "possibly negatively"),
        (NetworkDenoiser(lambda x, c: x, image_shape=SHAPE), "does not use training images"),
        (SmoothedDenoiser(EmpiricalDenoiser()), "call the method of its denoiser_"),
        (
            BlendedDenoiser([("a", EmpiricalDenoiser())], n_images=4),
            "call the method of one of its denoisers_",
        ),
        (EmpiricalDenoiser(bandwidth=0.5), "use bandwidth=0"),
        (PSPCDenoiser(2, bandwidth=0.5), "use bandwidth=0"),
        (PatchDenoiser(2, location="all"), "pass the location of one"),
        (PCALocalityDenoiser(softmax="batchwise"), "use softmax='exact'"),
        (PosteriorMeanCollection(source="translates"), "use max_shift=0, or source='images'"),
    ],
)
def test_denoisers_without_attribution_say_why(model, reason, X, Z):
    model.fit(X)
    with pytest.raises(ValueError, match=re.escape(reason)):
        model.attribute(Z, 0.5)
    with pytest.raises(ValueError, match=re.escape(reason)):
        model.denoise_without(Z, 0.5, [0])


@pytest.mark.parametrize("images", [3, [], [[0.5]], [None], ["a"], [[[1]]], [N], [-1], [range(N)]])
def test_images_to_leave_out_that_make_no_sense(images, X, Z):
    with pytest.raises(ValueError, match="images"):
        EmpiricalDenoiser().fit(X).denoise_without(Z, 0.5, images)


@pytest.mark.parametrize("parameters", [{"top": 0}, {"top": 1.5}, {"by": "image"}])
def test_parameters_that_make_no_sense(parameters, X, Z):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        EmpiricalDenoiser().fit(X).attribute(Z, 0.5, **parameters)


def test_leave_out_says_how_much_changes(X, Z):
    model = PSPCDenoiser(3).fit(X)
    found = leave_out(model, Z, 0.3, [2, [2, 5], 10])
    np.testing.assert_array_equal(found.answer, model.denoise(Z, 0.3))
    np.testing.assert_array_equal(found.without, model.denoise_without(Z, 0.3, [2, [2, 5], 10]))
    for m in range(3):
        expected = np.sqrt(((found.without[m] - found.answer) ** 2).mean((1, 2, 3)))
        np.testing.assert_allclose(found.change[m], expected, rtol=1e-12)
    # image 5 is a copy of image 2: without one of them little changes
    assert found.change[1, 0] > 2 * found.change[0, 0]


def test_what_is_no_denoiser_is_refused(X):
    with pytest.raises(TypeError, match="denoiser"):
        attribute(sklearn.base.BaseEstimator(), X, 0.5)
    with pytest.raises(TypeError, match="denoiser"):
        leave_out(object(), X, 0.5, [0])


class TestWindowWeights:
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("weighted", [False, True])
    def test_are_those_of_the_formula(self, sigma, weighted, X, Z, weight):
        mask = oracle.patch_mask(1, 2, 3, 3, SHAPE)
        prior = weight / weight.sum() if weighted else np.full(N, 1 / N)
        known = TrainingSet(torch.from_numpy(X), torch.from_numpy(weight) if weighted else None)
        level = torch.full((2,), sigma, dtype=torch.float64)
        columns = torch.from_numpy(np.flatnonzero(mask))
        found = window_weights(torch.from_numpy(Z), level, known, columns)
        x = oracle.as_float(X)
        for z, given in zip(Z, found.numpy(), strict=True):
            expected, _ = oracle.window_weights(z.ravel(), x, sigma, mask, prior)
            np.testing.assert_allclose(given, expected, rtol=1e-9, atol=1e-300)

    def test_precisions_and_mirror_images(self, X, Z, rng):
        columns = np.array([0, 3, 17, 40])
        precision = rng.random(4)
        query = np.zeros(np.prod(SHAPE))
        query[columns] = precision
        known = MirroredTrainingSet(TrainingSet(torch.from_numpy(X)))
        args = torch.from_numpy(columns), torch.from_numpy(precision)
        level = torch.tensor([0.3, 2.0], dtype=torch.float64)
        found = window_weights(torch.from_numpy(Z), level, known, *args)
        one = np.ones((1, *SHAPE))
        for z, sigma, given in zip(Z, [0.3, 2.0], found.numpy(), strict=True):
            expected = slow_shares(z, X, sigma, query.reshape(1, *SHAPE), one, True)[:, 0, 0, 0]
            np.testing.assert_allclose(given, expected, atol=1e-12)

    def test_small_noise_in_float32(self, X):
        """|z|^2 + |x|^2 - 2 z.x would be off by far more."""
        z = (X[:1] / 127.5 - 1).astype(np.float32) + np.float32(0.01)
        known, sigma = (
            TrainingSet(torch.from_numpy(X[:1].repeat(2, 0))),
            torch.tensor([0.02]).double(),
        )
        known = TrainingSet(
            (known.images / 127.5 - 1) + torch.tensor([0.0, 0.001]).view(2, 1, 1, 1)
        )
        found = window_weights(torch.from_numpy(z), sigma, known, torch.arange(60)).numpy()[0]
        x = known.images.numpy().astype(np.float64).reshape(2, -1)
        logit = -((z.ravel().astype(np.float64) - x) ** 2).sum(1) / (2 * 0.02**2)
        expected = np.exp(logit - logit.max())
        np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-5)

    def test_windows_of_a_pixel_make_its_answer(self, X, Z, weight):
        """Weights in single windows and shares of windows, as the Jacobian uses them."""
        for name, (model, *_) in CASES.items():
            fit_quietly(model, X, weight)
            prior = model._prior_of()
            masks = prior.windows_at(0.5).masks(SHAPE)
            level, z = torch.full((2,), 0.5, dtype=torch.float64), torch.from_numpy(Z)
            answer = model.denoise(Z, 0.5)
            source = prior.source.take(slice(0, len(prior.source)), torch.float64)
            shares = masks.shares()
            if shares is None:  # every window answers for its own pixel or coordinate
                shares = torch.eye(len(masks.query)).view(-1, *masks.answer_shape)
            shares = shares.expand(-1, SHAPE[0], -1, -1)
            for row, column in [(0, 0), (2, 3), (4, 5)]:
                made = 0.0
                for query, share in zip(masks.query, shares[..., row, column], strict=True):
                    precision = query.expand(SHAPE).flatten().double()
                    columns = precision.nonzero().squeeze(1)
                    w = window_weights(z, level, prior.source, columns, precision[columns])
                    made = made + (w @ source[:, :, row, column]) * share
                expected = answer[:, :, row, column]
                np.testing.assert_allclose(made, expected, atol=1e-9, err_msg=name)
            np.testing.assert_allclose(shares.sum(0), np.ones(SHAPE), atol=1e-12)
