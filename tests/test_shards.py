"""Shards of a training set against the whole training set, kernel by kernel."""

import pickle

import numpy as np
import pytest
import torch

from skpspc.posterior import select
from skpspc.posterior.softmax import Softmax, floored_sigma
from skpspc.support import (
    Centred,
    Masks,
    MirroredTrainingSet,
    Squares,
    TrainingSet,
    Whole,
)
from skpspc.support.sharded import Facts

SHAPE = (3, 7, 6)
SIGMA = [0.0, 0.02, 0.3, 3.0, np.inf]
# Unequal shards, among them one of a single image.
ROWS = [slice(0, 37), slice(37, 38), slice(38, 90), slice(90, 160)]
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def masks_of(kind, rng):
    """Masks of pixels or coordinates with a response, of pixels, or of coordinates."""
    n_pixels = SHAPE[1] * SHAPE[2]
    if kind in ("response", "channels"):
        n_channels = 1 if kind == "response" else SHAPE[0]
        query = torch.from_numpy(rng.random((8, n_channels, *SHAPE[1:])) < 0.4)
        query[0] = True
        return Masks(kind, query, query)
    n_windows, n_channels = (n_pixels, 1) if kind == "own" else (n_pixels * SHAPE[0], SHAPE[0])
    query = torch.from_numpy(rng.random((n_windows, n_channels, *SHAPE[1:])) < 0.4)
    return Masks(kind, query, None)


def windows_of(name, rng):
    observed = torch.from_numpy(rng.random(SHAPE) < 0.7)
    if name in ("response", "channels", "own", "coordinates"):
        return masks_of(name, rng)
    return {
        "whole": lambda: Whole(),
        "squares": lambda: Squares(3, 4),
        "local": lambda: Centred(5),
        "zero": lambda: Centred(3, "zero"),
        "circular": lambda: Centred(5, "circular", observed),
        "broken": lambda: Centred(5, "broken"),
        "pixels": lambda: Centred(1),
        "observed": lambda: Centred(5, observed=observed),
    }[name]()


KERNELS = [
    ("whole", "auto"),
    ("squares", "torch"),
    ("squares", "numba"),
    ("local", "torch"),
    ("local", "numba"),
    ("pixels", "numba"),
    ("observed", "torch"),
    ("zero", "auto"),
    ("circular", "auto"),
    ("broken", "auto"),
    ("response", "torch"),
    ("response", "exact"),
    ("response", "numba"),
    ("channels", "torch"),
    ("channels", "exact"),
    ("own", "torch"),
    ("own", "exact"),
    ("coordinates", "torch"),
    ("coordinates", "exact"),
    ("coordinates", "numba"),
]


def images(rng, dtype):
    """160 images, of which the first and the last, in two shards, are copies, and two others."""
    X = rng.integers(0, 256, (160, *SHAPE), dtype=np.uint8)
    X[1:20] = np.clip(X[0].astype(int) + rng.integers(-9, 10, (19, *SHAPE)), 0, 255)
    X[-1], X[37] = X[0], X[50]
    return torch.from_numpy(X) if dtype is None else torch.from_numpy(X).to(dtype) / 127.5 - 1


def weights(rng, kind):
    if kind == "equal":
        return None
    if kind == "moderate":
        return torch.from_numpy(rng.uniform(0.5, 2.0, 160))
    return torch.from_numpy(10.0 ** rng.uniform(-12, 3, 160))


def noisy(rng, x, dtype):
    """Two images near copies, at every noise level; at level 0 exactly between two images."""
    pairs = [
        (x[i].double() + min(s, 5.0) * torch.from_numpy(rng.standard_normal(SHAPE)), s)
        for i in (0, 37)
        for s in SIGMA
    ]
    z, sigma = zip(*pairs, strict=True)
    return torch.stack(z).to(dtype), torch.tensor(sigma, dtype=torch.float64)


def shards_of(training_set, rows):
    """Parts of a training set that know its facts; mirror images are in the part of their image."""
    facts, mirrored = Facts.of(training_set), isinstance(training_set, MirroredTrainingSet)
    plain = training_set._plain if mirrored else training_set
    parts = [plain.subset(of_shard) for of_shard in rows]
    return [(part.mirrored() if mirrored else part).as_shard(facts) for part in parts]


def in_shards(z, sigma, shards, windows, engine):
    """Posterior means, and the merged softmax."""
    results = [select.accumulate(z, sigma, shard, windows, engine) for shard in shards]
    softmax = Softmax.merged([softmax for softmax, _ in results])
    means = [
        select.compose(z, sigma, shard, windows, engine, softmax, state)
        for shard, (_, state) in zip(shards, results, strict=True)
    ]
    return sum(means), softmax


def check(windows, engine, training_set, shards, z, sigma):
    sigma = floored_sigma(sigma, z, training_set)
    expected = select.compare(z, sigma, training_set, windows, engine, None)
    mean, softmax = in_shards(z, sigma, shards, windows, engine)
    log_norm = softmax.log_norm + shards[0].log_uniform
    atol = TOLERANCE[z.dtype]
    worst = (mean - expected.mean.double()).abs().amax((1, 2, 3))
    np.testing.assert_allclose(mean, expected.mean, rtol=0, atol=atol, err_msg=str(worst))
    np.testing.assert_allclose(log_norm, expected.log_norm, rtol=atol, atol=atol)
    if getattr(windows, "boundary", None):
        # logits of patches are products, exact to 3e-5 in float32
        limit = torch.tensor(1e-5 if z.dtype == torch.float32 else atol)
    else:
        # shards may sum the terms of a logit in another order, which changes its last bit; changes
        # of at most e in all logits change log(ess) by at most 4 e; without noise, ties are exact
        limit = 4 * torch.finfo(z.dtype).eps * log_norm.abs()
        limit = torch.where(sigma[:, None] < 1e-9, 0, limit).clamp(min=atol)
    ess, of_all = softmax.effective_sample_size, expected.effective_sample_size
    error = (ess.double().log() - of_all.double().log()).abs()
    assert (error <= limit).all(), (error - limit).max()


@pytest.mark.parametrize("weighted", ["equal", "moderate", "decades"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "engine"), KERNELS)
def test_shards_add_up_to_the_whole(name, engine, dtype, mirrored, weighted, rng):
    if engine == "numba":
        pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
        if dtype == torch.float64:
            pytest.skip("compiled code computes in float32")
    if mirrored and name in ("zero", "circular", "broken"):
        pytest.skip("patches at all positions are of images without mirror images")
    windows = windows_of(name, rng)
    for stored in (None, dtype):
        training_set = TrainingSet(images(rng, stored), weights(rng, weighted))
        z, sigma = noisy(rng, training_set.take(slice(0, 160), torch.float64), dtype)
        if mirrored:
            training_set = MirroredTrainingSet(training_set)
        check(windows, engine, training_set, shards_of(training_set, ROWS), z, sigma)


def test_shards_share_facts_after_pickling(rng):
    """A pickle leaves out caches, but not the numbers of the whole training set."""
    weight = weights(rng, "decades")
    for mirrored in (False, True):
        whole = TrainingSet(images(rng, torch.float32), weight)
        whole = MirroredTrainingSet(whole) if mirrored else whole
        last = shards_of(whole, ROWS)[-1]
        again = pickle.loads(pickle.dumps(last))
        for shard in (last, again, again.crop(1, 1, 3, 3)):
            for name in ("log_uniform", "log_weight_range", "abs_max"):
                assert getattr(shard, name) == getattr(whole, name)
            n = len(last.images)
            torch.testing.assert_close(shard.log_weight[-n:], whole.log_weight[-n:])
        for name in ("span", "centre"):
            assert getattr(again, name) == getattr(whole, name)
        np.testing.assert_array_equal(again.example_moments[0], whole.example_moments[0])


def test_equal_weights_in_a_shard_of_unequal_weights():
    weight = torch.tensor([1.0, 1.0, 3.0, 3.0], dtype=torch.float64)
    shards = shards_of(TrainingSet(torch.zeros(4, 1, 2, 2), weight), [slice(2), slice(2, 4)])
    weights = [shard.log_weight.exp() for shard in shards]
    np.testing.assert_allclose(torch.cat(weights), [0.125, 0.125, 0.375, 0.375], rtol=1e-14)
    assert [shard.log_uniform for shard in shards] == [0.0, 0.0]


def test_facts_keep_the_sum_of_the_weights():
    training_set = TrainingSet(torch.zeros(2, 1, 2, 2), torch.tensor([1.0, 3.0]).double())
    assert Facts.of(training_set).log_total == pytest.approx(np.log(4))


def softmax_of(logit, prior, rounding=0.0):
    """The sums of one shard, written out; logits (N, K), log weights (N,)."""
    nearest = logit.amax(0)
    weight = (logit - nearest + prior[:, None]).exp()
    sums = nearest, torch.zeros_like(nearest), weight.sum(0), weight.square().sum(0)
    return Softmax.of(*(tensor[None] for tensor in sums), rounding)


def test_merging_is_associative_and_keeps_ties(rng):
    """Beside logits of 1e25 a log weight is lost, unless it stays apart."""
    prior = torch.log(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64) / 8)
    logit = torch.full((3, 1), -1e25, dtype=torch.float64)
    a, b, c = (softmax_of(logit[i : i + 1], prior[i : i + 1]) for i in range(3))
    for whole in (
        Softmax.merged([a, b, c]),
        Softmax.merged([Softmax.merged([a, b]), c]),
        Softmax.merged([a, Softmax.merged([b, c])]),
    ):
        shares = [float(shard.share(whole)) for shard in (a, b, c)]
        np.testing.assert_allclose(shares, [0.125, 0.25, 0.625], rtol=1e-14)
        ess = whole.effective_sample_size
        np.testing.assert_allclose(ess, 1 / np.square(shares).sum(), rtol=1e-14)


def test_a_shard_without_images_of_a_window():
    full = softmax_of(torch.zeros(2, 2).double(), torch.zeros(2).double())
    nothing = torch.zeros(1, 2).double()
    empty = Softmax.of(nothing - torch.inf, nothing, nothing, nothing)
    whole = Softmax.merged([empty, full])
    torch.testing.assert_close(whole.log_norm, full.log_norm)
    assert empty.share(whole).tolist() == [[0.0, 0.0]]
    assert full.share(whole).tolist() == [[1.0, 1.0]]
    none = Softmax.merged([empty, empty])
    assert none.log_norm.tolist() == [[-np.inf] * 2]
    assert empty.share(none).tolist() == [[0.0, 0.0]]


def test_logits_that_differ_by_their_rounding_are_equal():
    logit = torch.tensor([-1e25, -1e25 * (1 + 1e-15)], dtype=torch.float64)[:, None]
    prior = torch.zeros(1, dtype=torch.float64)
    shards = [softmax_of(logit[i : i + 1], prior, 1e-14) for i in range(2)]
    whole = Softmax.merged(shards)
    assert [float(shard.share(whole)) for shard in shards] == [0.5, 0.5]
