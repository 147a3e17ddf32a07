"""Every kernel and engine against the slow formula: all sizes, dtypes, units and noise levels.

The quick profile of hypothesis runs with all tests. For about an hour::

    pytest -n0 tests/test_at_scale.py --hypothesis-profile long
"""

import contextlib
import itertools
import warnings
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st

import generators
import oracle
from rounding import Blurred, Bounded
from skpspc import (
    EmpiricalDenoiser,
    FlexibleWindows,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PatchDenoiser,
    PCALocalityDenoiser,
    PosteriorMeanCollection,
    PSPCDenoiser,
    SingleImageDenoiser,
)
from skpspc.posterior import engines
from test_collection import copies as copies_of_one
from test_flexible import slow_precisions
from test_single_image import patches_of, reduced

LONG = settings.default.max_examples > 100
# Multiplications of the slow formula for one example.
BUDGET = 10**8 if LONG else 10**6
EXAMPLES = max(4, settings.default.max_examples // 4)

# dtypes of training images; all are read as they are, uint8 as u / 127.5 - 1
NUMPY = ["uint8", "float16", "float32", "float64", ">f4", "int16"]
TORCH = ["torch.uint8", "torch.float16", "torch.bfloat16", "torch.float32", "torch.float64"]
SINGLE = ["float32", ">f4", "torch.bfloat16", "torch.float32"]  # computed in float32
CONTENTS = ["normal", "bytes", "grid", "few", "constant", "dark", "offset", "smooth"]
STATED = ("1e-16", "1e-60", "1e+16", "1e+60")  # ends of the ranges, in every refusal


@dataclass(repr=False)  # hypothesis prints what `problems` notes
class Problem:
    """Training images, weights, noisy images and noise levels, and numbers for parameters."""

    given: object  # training images as fitted, an array or a tensor
    X: np.ndarray  # (N, C, H, W), their values in float64
    Z: np.ndarray  # (n, C, H, W), float32 or float64
    sigma: np.ndarray  # (n,)
    weight: np.ndarray | None  # (N,)
    size: int
    number: int  # for other parameters
    options: dict = field(default_factory=dict)  # of the estimator
    model: object = None

    @property
    def shape(self):
        return self.X.shape[1:]

    @property
    def z(self):
        return self.Z.reshape(len(self.Z), -1).astype(np.float64)

    @property
    def x(self):
        return self.X.reshape(len(self.X), -1)

    @property
    def middle(self):
        """Middle of the data range, see `fitted`."""
        return (self.X.min() + self.X.max()) / 2 if str(self.given.dtype) == "int16" else 0.0

    @property
    def prior(self):
        return np.ones(len(self.X)) if self.weight is None else self.weight

    @property
    def magnitude(self):
        least = 1.0 if "uint8" in str(self.given.dtype) else 1e-300  # u / 127.5 - 1 cancels
        return max(np.abs(self.X).max(), np.abs(self.Z).max(), least)

    def bounded(self, kind=Bounded):
        return kind(self.z, self.sigma, self.Z.dtype.type, self.magnitude)


# ------------------------------------------------------------------------ the slow formulas


def framed(problem, precisions, responses=None, copies=None, prior=None):
    """Windows (K, D) at fixed coordinates, compared with the copies (M, N, D) that cover them."""
    bounded = problem.bounded()
    copies = problem.x[None] if copies is None else copies
    prior = problem.prior if prior is None else prior
    responses = precisions if responses is None else responses
    for precision, response in zip(precisions, responses, strict=True):
        at = (precision > 0) | (response > 0)
        x = copies[:, :, at]
        covers = ~np.isnan(x[:, 0]).any(1)
        v = np.tile(prior, covers.sum())
        x = x[covers].reshape(len(v), at.sum())
        bounded.add(bounded.z[:, at], x, precision[at] * 1.0, v, None, at, response[at] * 1.0)
    return bounded


def everywhere(problem, padded, dictionary_of, answers_at):
    """Windows around every pixel, compared with a dictionary; NaN does not count."""
    bounded = problem.bounded()
    _, height, width = problem.shape
    pixels = np.arange(problem.X[0].size).reshape(problem.shape)
    for row, column in itertools.product(range(height), range(width)):
        query, patches, values, prior = dictionary_of(row, column, padded)
        counts = ~np.isnan(query[0])
        x = patches[:, counts]
        bounded.add(
            query[:, counts], x, np.ones(counts.sum()), prior, values, pixels[:, row, column]
        )
    return bounded


def local(problem, boundary):
    """Local scores, with boundary "local" (LS), "circular", "zero" or "broken"."""
    x, z = problem.X, problem.Z.astype(np.float64)
    inner = boundary in ("circular", "zero")
    reach = [problem.size // 2 if side > 1 or not inner else 0 for side in x.shape[2:]]
    around = [(0, 0), (0, 0), *((r, r) for r in reach)]
    if boundary == "circular":
        padded = np.pad(z, around, mode="wrap")
    else:
        padded = np.pad(z, around, constant_values=problem.middle if inner else np.nan)
    framed_x = x if inner else np.pad(x, around, constant_values=np.nan)
    shift = reach if inner else [0, 0]  # of framed_x against positions of centres
    sides = [2 * r + 1 for r in reach]

    def positions(at, axis):
        side, r = x.shape[2 + axis], reach[axis]
        inside = range(r, side - r)
        alone = boundary == "local" or (boundary == "broken" and at not in inside)
        return [at] if alone else list(inside)

    def dictionary_of(row, column, padded):
        query = padded[..., row : row + sides[0], column : column + sides[1]]
        places = list(itertools.product(positions(row, 0), positions(column, 1)))
        patches = [
            framed_x[..., i - shift[0] :, j - shift[1] :][..., : sides[0], : sides[1]]
            for i, j in places
        ]
        values = np.concatenate([x[:, :, i, j] for i, j in places])
        patches = np.concatenate(patches).reshape(len(values), -1)
        return query.reshape(len(z), -1), patches, values, np.tile(problem.prior, len(places))

    return everywhere(problem, padded, dictionary_of, None)


def single_image(problem, stride, scales):
    """Squares compared with patches at all positions and scales."""
    bounded = problem.bounded()
    levels = [
        [one if s == 1 else rounded(problem, reduced(one, s)) for one in problem.X] for s in scales
    ]
    h, w = (min(problem.size, *(level[0].shape[axis] for level in levels)) for axis in (1, 2))
    patches = [patches_of(one, h, w) for level in levels for one in level]
    prior = np.repeat(np.tile(problem.prior, len(levels)), [len(own) for own in patches])
    patches = np.concatenate(patches)
    _, height, width = problem.shape
    down, across = min(stride, h), min(stride, w)
    for i, j in itertools.product(range(height - h + 1), range(width - w + 1)):
        if (i % down == 0 or i == height - h) and (j % across == 0 or j == width - w):
            at = oracle.patch_mask(i, j, h, w, problem.shape)
            bounded.add(bounded.z[:, at], patches, np.ones(at.sum()), prior, None, at)
    return bounded


def rounded(problem, x):
    """Return an image in the values that the dtype of the training images holds."""
    if "uint8" not in str(problem.given.dtype):
        return x
    return np.round((x + 1) * 127.5, 6).round() / 127.5 - 1  # ties first: x has rounding errors


def blurred(problem, bandwidth, masks):
    """Windows blurred each along its own covariance."""
    bounded = problem.bounded(Blurred)
    for mask in masks:
        bounded.add_blurred(bounded.z[:, mask], problem.x[:, mask], problem.prior, bandwidth, mask)
    return bounded


def filtered(problem, bandwidth, masks, smoothing):
    """Windows that compare images filtered by one matrix, which filters the composite again."""
    prior = problem.prior / problem.prior.sum()
    mean = prior @ problem.x
    deviation = problem.x - mean
    cov = deviation.T @ (prior[:, None] * deviation)
    if smoothing == "stationary":
        cov = oracle.stationary(cov, problem.shape)
    values, vectors = np.linalg.eigh(cov)
    values = bandwidth**2 * values.clip(0)
    z, answers = problem.z, problem.bounded()
    for k, sigma in enumerate(problem.sigma):
        gain = values / (values + sigma**2)
        A, F = ((vectors * g) @ vectors.T for g in (gain, np.sqrt(1 - gain)))
        y = np.sqrt(1 - bandwidth**2) * deviation @ F
        query = (z[[k]] - mean) @ F
        # roundings of the covariance move a filtered image by up to kappa times its norm
        kappa = 1 + values[-1] / sigma**2
        size = problem.magnitude
        size += kappa * max(np.linalg.norm(z[k] - mean), np.linalg.norm(deviation, axis=1).max())
        inner = Bounded(query, problem.sigma[[k]], problem.Z.dtype.type, size)
        for mask in masks:
            inner.add(query[:, mask], y[:, mask], np.ones(mask.sum()), prior, None, mask)
        answers.total[k] = mean + A @ (z[k] - mean) + F @ inner.mean[0]
        answers.error[k] = np.linalg.norm(inner.mean_error[0]) + 12 * inner.eps * size
        log_p, error = inner.evidence(z.shape[1])
        log_det = 0.5 * np.log1p(-gain).sum()
        answers.log_p[k] = (log_p[0] + log_det) / z.shape[1]
        answers.log_p_error[k] = error[0] / z.shape[1] + 12 * inner.eps * kappa
        (answers.fewest[k],), (answers.most[k],) = inner.sample_sizes
    answers.count[:], answers.windows = 1, 1
    return answers


# ------------------------------------------------------------------------------- the kernels


@dataclass
class Kernel:
    """An estimator of a `Problem`, its slow formula, and the work of the formula for one image.

    ``compiled``: it has compiled code. ``is_odd``: windows have odd sides. ``limit``: largest
    number of values of an image.
    """

    estimator: object  # (problem) -> estimator
    slow: object  # (problem) -> Bounded
    work: object = lambda shape, size: np.prod(shape)
    compiled: bool = False
    is_odd: bool = False
    is_inside: bool = False  # windows fit the image
    truncates: bool = False
    has_sizes: bool = True  # False: the effective sample size is defined otherwise
    limit: int = 3 * 64 * 64


def n_squares(shape, size):
    """Return the number of squares, and the values of one."""
    h, w = (min(size, side) for side in shape[1:])
    return (shape[1] - h + 1) * (shape[2] - w + 1), shape[0] * h * w


def of_squares(shape, size):
    return np.prod(n_squares(shape, size))


def of_pixels(shape, size):
    return shape[1] * shape[2] * shape[0] * size**2


def of_pixels_everywhere(shape, size):
    return of_pixels(shape, size) * shape[1] * shape[2]


def of_coordinates(shape, size):
    return np.prod(shape) ** 2


def squares(problem):
    return oracle.square_masks(problem.size, problem.shape)


def mirrored(problem):
    """Return the training images and their mirror images, (2 N, C, H, W), and weights."""
    X = np.concatenate([problem.X, problem.X[..., ::-1]])
    return X, np.tile(problem.prior, 2)


def slow_squares(problem, tapers=(0, 0), shift=0, flip=False):
    X, prior = mirrored(problem) if flip else (problem.X, problem.prior)
    copies = oracle.moved_copies(X, shift)
    windows = [oracle.tapered_squares(problem.size, problem.shape, t) for t in tapers]
    return framed(problem, *windows, copies, prior)


def location(problem):
    """Return (top, left) of a patch."""
    h, w = (min(problem.size, side) for side in problem.shape[1:])
    spare = [side - length + 1 for side, length in zip(problem.shape[1:], (h, w), strict=True)]
    return problem.number % spare[0], problem.number // 7 % spare[1]


def slow_patch(problem):
    h, w = (min(problem.size, side) for side in problem.shape[1:])
    return framed(problem, [oracle.patch_mask(*location(problem), h, w, problem.shape)])


def heat(problem):
    """Return heat maps of all pixels, (1, H, W, H, W), often tied."""
    sides = problem.shape[1:]
    maps = np.random.default_rng(problem.number).integers(0, 6, (1, *sides, *sides)) / 4.0
    n = np.prod(sides)
    maps.reshape(n, n)[...] += 2 * np.eye(n)
    return maps


def flexible(problem, soft):
    threshold = (0.2, 0.5, 0.9, 1.0)[problem.number % 4]
    windows = FlexibleWindows(heat(problem), threshold, [1.0], soft=soft)
    return PSPCDenoiser(windows=windows, flip=problem.number % 3 == 0)


def slow_flexible(problem, soft):
    n = problem.shape[1] * problem.shape[2]
    threshold = (0.2, 0.5, 0.9, 1.0)[problem.number % 4]
    precisions = slow_precisions(heat(problem).reshape(n, n), threshold, soft)
    precisions = np.tile(precisions, (1, problem.shape[0]))
    if problem.number % 3:
        return framed(problem, precisions)
    X, prior = mirrored(problem)
    return framed(problem, precisions, None, X.reshape(1, len(X), -1), prior)


def arrays(problem):
    """Return query and response of a collection, (3, C, H, W), soft and with zeros."""
    rng = np.random.default_rng(problem.number)
    query, response = rng.random((2, 3, *problem.shape))
    query[query < 0.6] = 0
    response[response < 0.4] = 0
    response[0] += 0.1
    return query, response


def collection(problem, source):
    return PosteriorMeanCollection(*arrays(problem), source=source, max_shift=1)


def slow_collection(problem, source):
    copies = np.stack([copies_of_one(one, source, 1) for one in problem.X], 1)
    copies = copies.reshape(*copies.shape[:2], -1)
    return framed(problem, *(a.reshape(3, -1) for a in arrays(problem)), copies)


def slow_pca(problem):
    """Compare through the neighbourhoods of the model: they depend on a threshold."""
    bounded = problem.bounded()
    (level,) = np.unique(problem.sigma)
    B = np.asarray(problem.model.neighbours(level))
    for m in range(len(B)):
        at = B[:, m] > 0
        x = problem.x
        bounded.add(bounded.z[:, at], x[:, at], np.ones(at.sum()), problem.prior, x[:, [m]], [m])
    return bounded


def stride_and_scales(problem):
    scales = (1, 2) if problem.number % 2 and min(problem.shape[1:]) >= 4 else (1,)
    return dict(stride=1 + problem.number % min(problem.size, 3), scales=scales)


def bandwidth(problem):
    return (0.02, 0.3, 0.7, 1.0)[problem.number % 4]


def neighbours(problem):
    """Return the options of a search for few training images."""
    n = np.count_nonzero(problem.prior)
    options = {"n_neighbors": 1 + problem.number % n}
    indexes = ["Flat", "SQ8", "IVF4,Flat", "PCA2,IVF4,SQ8"]
    if n >= 64 and problem.X[0].size >= 2:
        options["index"] = indexes[problem.number // 3 % 4]
    return options


def tolerance(problem):
    span = max(np.ptp(problem.X, axis=0).max(), 1e-300)
    return float(span * (1e-4, 1e-2, 0.3)[problem.number % 3])


def whole(problem):
    return framed(problem, oracle.whole_mask(problem.shape))


TAPERS = {"query_taper": 0.5, "response_taper": 1.0}
ELS = {"equivariant": True}
KERNELS = {
    "empirical": Kernel(lambda p: EmpiricalDenoiser(), whole),
    "neighbours": Kernel(lambda p: EmpiricalDenoiser(**neighbours(p)), whole, truncates=True),
    "tolerance": Kernel(lambda p: EmpiricalDenoiser(tol=tolerance(p)), whole, truncates=True),
    "patch": Kernel(lambda p: PatchDenoiser(p.size, location=location(p)), slow_patch),
    "squares": Kernel(
        lambda p: PSPCDenoiser(p.size, engine=p.options["engine"]), slow_squares, of_squares, True
    ),
    "tapers": Kernel(
        lambda p: PSPCDenoiser(p.size, **TAPERS),
        lambda p: slow_squares(p, (0.5, 1)),
        of_squares,
        True,
    ),
    "mirrors": Kernel(
        lambda p: PSPCDenoiser(p.size, flip=True),
        lambda p: slow_squares(p, flip=True),
        lambda *a: 2 * of_squares(*a),
        True,
    ),
    "moves": Kernel(
        lambda p: PSPCDenoiser(p.size, max_shift=1, flip=p.number % 2 == 0),
        lambda p: slow_squares(p, shift=1, flip=p.number % 2 == 0),
        lambda *a: 18 * of_squares(*a),
        True,
    ),
    "trees": Kernel(
        lambda p: PSPCDenoiser(p.size, algorithm="kd_tree", tol=tolerance(p)),
        slow_squares,
        of_squares,
        True,
        truncates=True,
    ),
    "masks": Kernel(
        lambda p: flexible(p, False),
        lambda p: slow_flexible(p, False),
        of_coordinates,
        True,
        limit=400,
    ),
    "soft masks": Kernel(
        lambda p: flexible(p, True),
        lambda p: slow_flexible(p, True),
        of_coordinates,
        True,
        limit=400,
    ),
    **{
        f"collection of {source}": Kernel(
            lambda p, source=source: collection(p, source),
            lambda p, source=source: slow_collection(p, source),
            lambda shape, size: 27 * np.prod(shape),
            limit=3000,
        )
        for source in ("images", "flips", "translates")
    },
    "pca": Kernel(lambda p: PCALocalityDenoiser(0.3), slow_pca, of_coordinates, True, limit=200),
    "local": Kernel(
        lambda p: LocalScoreDenoiser(p.size), lambda p: local(p, "local"), of_pixels, True, True
    ),
    **{
        boundary: Kernel(
            lambda p, boundary=boundary: LocalScoreDenoiser(p.size, boundary=boundary, **ELS),
            lambda p, boundary=boundary: local(p, boundary),
            of_pixels_everywhere,
            boundary == "broken",
            True,
            boundary != "broken",
        )
        for boundary in ("zero", "circular", "broken")
    },
    "single image": Kernel(
        lambda p: SingleImageDenoiser(p.size, **stride_and_scales(p)),
        lambda p: single_image(p, **stride_and_scales(p)),
        of_pixels_everywhere,
        is_inside=True,
    ),
    "gaussian": Kernel(
        lambda p: GaussianDenoiser(),
        lambda p: blurred(p, 1.0, oracle.whole_mask(p.shape)),
        lambda shape, size: np.prod(shape) ** 2,
        has_sizes=False,
        limit=150,
    ),
    "blurred": Kernel(
        lambda p: EmpiricalDenoiser(bandwidth=bandwidth(p)),
        lambda p: blurred(p, bandwidth(p), oracle.whole_mask(p.shape)),
        lambda shape, size: np.prod(shape) ** 2,
        limit=150,
    ),
    "blurred squares": Kernel(
        lambda p: PSPCDenoiser(p.size, bandwidth=bandwidth(p)),
        lambda p: blurred(p, bandwidth(p), squares(p)),
        lambda *a: of_squares(*a) * n_squares(*a)[1],
        limit=150,
    ),
    **{
        f"{smoothing} blur": Kernel(
            lambda p, smoothing=smoothing: PSPCDenoiser(
                p.size, bandwidth=bandwidth(p), smoothing=smoothing, engine=p.options["engine"]
            ),
            lambda p, smoothing=smoothing: filtered(p, bandwidth(p), squares(p), smoothing),
            lambda *a: of_squares(*a) + np.prod(a[0]) ** 2,
            True,
            limit=150,
        )
        for smoothing in ("global", "stationary")
    },
}


# ------------------------------------------------------------------------------ the problems


def log_uniform(low, high):
    """Return a strategy of ints from low to high, uniform in their logarithm."""
    exponents = st.floats(np.log(low), np.log(high + 0.999))
    return exponents.map(lambda value: int(np.clip(np.exp(value), low, high)))


def contents(kind, rng, n, shape):
    """Return n images of a kind, values about 1."""
    if kind == "normal":
        return rng.standard_normal((n, *shape))
    if kind == "bytes":
        return rng.integers(0, 256, (n, *shape)) / 127.5 - 1
    if kind == "grid":  # exact in every dtype, and often tied
        return rng.integers(-4, 5, (n, *shape)) / 4.0
    if kind == "few":  # duplicates
        return rng.uniform(-1, 1, (min(n, 3), *shape))[rng.integers(min(n, 3), size=n)]
    if kind == "constant":
        return np.broadcast_to(rng.uniform(-1, 1, (n, 1, 1, 1)), (n, *shape)).copy()
    if kind == "dark":  # zero almost everywhere
        return rng.uniform(-1, 1, (n, *shape)) * (rng.random((n, *shape)) < 0.1)
    if kind == "offset":
        return 100 + rng.uniform(-1, 1, (n, *shape))
    walk = rng.standard_normal((n, *shape)).cumsum(2).cumsum(3)
    return walk / max(np.abs(walk).max(), 1e-9)


def stored(values, dtype, scale):
    """Return images as fitted, and the values that they stand for in float64."""
    if dtype.endswith("uint8"):
        raw = np.clip(np.round((values + 1) * 127.5), 0, 255).astype(np.uint8)
        return (torch.from_numpy(raw) if "torch" in dtype else raw), raw / 127.5 - 1
    if dtype == "int16":
        raw = np.round(100 * values).clip(-20_000, 20_000).astype(np.int16)
        return raw, raw.astype(np.float64)
    if dtype.endswith("float16"):
        scale = 1.0  # its range is narrow
    values = values * scale
    if dtype.startswith("torch"):
        tensor = torch.from_numpy(values).to(getattr(torch, dtype.removeprefix("torch.")))
        return tensor, tensor.double().numpy()
    raw = values.astype(dtype)
    return raw, raw.astype(np.float64)


@st.composite
def problems(draw, kernel, dtype):
    """Draw a `Problem` whose slow formula takes at most ``BUDGET`` multiplications."""
    channels, height, width = (
        draw(st.integers(1, 5)),
        draw(log_uniform(1, 64)),
        draw(log_uniform(1, 64)),
    )
    channels = max(1, min(channels, kernel.limit))
    while channels * height * width > kernel.limit:
        height, width = (height + 1) // 2, (width + 1) // 2
    size = draw(log_uniform(1, max(height, width)))
    while True:
        shape = (channels, height, width)
        side = size
        if kernel.is_inside:
            side = min([size, *(s for s in shape[1:] if s > 1)])
        if kernel.is_odd:
            side = max(1, side - 1 + side % 2) if kernel.is_inside else side | 1
        work = int(kernel.work(shape, side))
        if work <= BUDGET:
            break
        channels, height, width = (max(1, s * 2 // 3) for s in (channels, height, width))
        size = max(1, min(size, height, width))
    n_noisy = draw(st.integers(1, 3))
    most = max(1, min(5000, BUDGET // (work * n_noisy)))
    n = draw(log_uniform(1, most))
    rng = np.random.default_rng(draw(generators.seeds))
    kinds = draw(st.sampled_from(NUMPY + TORCH))
    content = draw(st.sampled_from(CONTENTS))
    exponent = draw(st.sampled_from([0, 0, 0, -30, -12, -3, 3, 12, 30]))
    values = contents(content, rng, n, shape)
    given_images, X = stored(values, kinds, 10.0**exponent)
    spread = max(np.ptp(X) / 2, np.abs(X).max() * 1e-2) or 1e-16  # the scale of zeros in float32
    n_levels = 1 if kernel is KERNELS["pca"] else n_noisy
    level = [spread * draw(generators.sigmas(1e-4, 1e4)) for _ in range(n_levels)]
    sigma = np.resize(level, n_noisy)
    clean = X[rng.integers(n, size=n_noisy)]
    other = X[rng.integers(n, size=n_noisy)]
    noise = sigma[:, None, None, None] * rng.standard_normal(clean.shape)
    where = draw(st.sampled_from(["near", "near", "exact", "between", "unrelated"]))
    Z = {
        "near": lambda: clean + noise,
        "exact": lambda: clean,
        "between": lambda: (clean + other) / 2 + noise * draw(st.sampled_from([0, 1])),
        "unrelated": lambda: X.mean() + spread * rng.uniform(-1, 1, clean.shape),
    }[where]()
    with np.errstate(over="ignore", under="ignore"):
        Z = Z.astype(dtype)
    weight = None
    if draw(st.booleans()):
        weight = 10.0 ** rng.uniform(-15, 0, n)
        if n > 2 and draw(st.booleans()):
            weight[rng.integers(n)] = 0
    note(
        f"X {kinds} {X.shape} {content} 1e{exponent}, Z {dtype.__name__} {where}, sigma / spread "
        f"{sigma / spread}, size {side}, weights {weight is not None}"
    )
    return Problem(given_images, X, Z, sigma, weight, side, draw(st.integers(0, 10**6)))


# -------------------------------------------------------------------------------- the tests


def fitted(problem, kernel):
    """Return the fitted estimator; raise where values are out of range."""
    model = kernel.estimator(problem)
    if str(problem.given.dtype) == "int16":
        model.set_params(data_range=(problem.X.min() - 1, problem.X.max() + 1))
    if problem.shape[2] in (1, 3, 4):  # which may look like channels last
        model.set_params(image_shape=problem.shape)
    return model.fit(problem.given, sample_weight=problem.weight)


def is_out_of_range(problem):
    """Return True if images are larger or smaller than the computation in their dtype allows."""
    single = problem.Z.dtype == np.float32 or str(problem.given.dtype) in SINGLE
    low, high = (1e-16, 1e16) if single else (1e-60, 1e60)
    return not low < np.abs(problem.X).max() < high or np.abs(problem.Z).max() > high


def compared(posterior, problem, kernel):
    """Compare a posterior with the slow formula."""
    slow = kernel.slow(problem)
    mean = np.asarray(posterior.mean, np.float64).reshape(len(problem.Z), -1)
    expected = slow.mean
    if mean.shape != expected.shape:  # of one patch
        at = slow.count > 0
        error, expected = slow.mean_error[:, at], expected[:, at]
    else:
        error = slow.mean_error
    bound = np.asarray(posterior.error_bound, np.float64)[:, None]
    excess = np.abs(mean - expected) - bound * (1 + 1e-5) - error
    worst = np.unravel_index(excess.argmax(), excess.shape)
    assert excess[worst] <= 0, (
        f"mean {mean[worst]}, expected {expected[worst]} +- {error[worst]}, bound {bound[worst[0]]}"
    )
    size = np.asarray(posterior.effective_sample_size, np.float64)
    n_seen = problem.X[0].size if expected.shape[1] == problem.X[0].size else expected.shape[1]
    log_p, log_p_error = slow.evidence(n_seen)
    fewest, most = slow.sample_sizes
    left_out = kernel.truncates and np.ptp(problem.X, axis=0).max() == 0  # equal images: mean exact
    for k in [] if left_out else np.flatnonzero(bound[:, 0] == 0):
        assert fewest[k] <= size[k] <= most[k] or not kernel.has_sizes
        assert abs(float(posterior.log_evidence[k]) - log_p[k]) <= log_p_error[k]
    if not kernel.truncates:
        assert (bound == 0).all()


ENGINES = ["compiled", "torch float32", "torch float64"]
CASES = [
    (name, engine)
    for name, kernel in KERNELS.items()
    for engine in ENGINES
    if kernel.compiled or engine != "compiled"
]


@contextlib.contextmanager
def computing_by(engine):
    """Compute by an engine: by compiled code, or without numba."""
    if engine == "compiled":
        pytest.importorskip("numba", reason="numba is not installed (extra cpu)")
        yield
    else:
        with mock.patch.object(engines, "_has_numba", lambda: False):
            yield


@pytest.mark.parametrize(("name", "engine"), CASES)
@settings(max_examples=EXAMPLES, derandomize=not LONG)  # the long profile searches for new ones
@given(st.data())
def test_slow_formula(name, engine, data):
    kernel = KERNELS[name]
    dtype = np.float64 if engine == "torch float64" else np.float32
    problem = data.draw(problems(kernel, dtype))
    problem.options["engine"] = "numba" if engine == "compiled" else "torch"
    with computing_by(engine), warnings.catch_warnings(), np.errstate(under="ignore"):
        warnings.simplefilter("ignore")
        try:
            problem.model = fitted(problem, kernel)
            posterior = problem.model.posterior(problem.Z, problem.sigma)
        except ValueError as error:
            assert any(end in str(error) for end in STATED), error
            assert is_out_of_range(problem)
            return
        compared(posterior, problem, kernel)
