"""Square windows, each blurred along its own covariance, over training images in shards.

Each shard computes the posterior of its own images in every window. The posterior of the whole
training set is the mean of the shards' posteriors, weighted by their normalisers.
"""

import torch

from ..support import overlap_counts, square_corners
from ..support.devices import added
from ..support.memory import fits, rows_that_fit
from .blur import Crops, add_windows, compared_together
from .posterior import PerWindow
from .softmax import Softmax

_NOISY_IMAGES = 64  # compared together


def blurred_squares(z, sigma, source, windows, gaussian, bandwidths):
    """Compare noisy images with a `ShardedTrainingSet`; see `blur.blurred_squares`."""
    level, shape = float(sigma[0]), (windows.h, windows.w)
    corners = square_corners(shape, z.shape[1:])
    n_windows = _n_windows(z, source, windows, gaussian, len(bandwidths), len(corners))
    totals = [torch.zeros_like(z) for _ in bandwidths]
    log_norms: list[list[torch.Tensor]] = [[] for _ in bandwidths]
    sizes: list[list[torch.Tensor]] = [[] for _ in bandwidths]
    # windows in the outer loop: a worker computes their eigenbases once for all noisy images
    for start in range(0, len(corners), n_windows):
        rest = level, source, corners[start : start + n_windows], shape, gaussian, bandwidths
        # not views, which pickle as wholes
        parts = [_compare_block(block.clone(), *rest) for block in z.split(_NOISY_IMAGES)]
        for i, of_bandwidth in enumerate(zip(*parts, strict=True)):
            total, log_norm, ess = map(torch.cat, zip(*of_bandwidth, strict=True))
            totals[i] += total
            log_norms[i].append(log_norm)
            sizes[i].append(ess)
    count = torch.as_tensor(overlap_counts(shape, z.shape[1:])).to(z)
    return [
        PerWindow(total / count, torch.cat(log_norm, 1), torch.cat(ess, 1).to(z))
        for total, log_norm, ess in zip(totals, log_norms, sizes, strict=True)
    ]


def _n_windows(z, source, windows, gaussian, n_bandwidths, n_most):
    """Return the number of windows to compare at once, at most ``n_most``."""
    executor = source.executor
    n_images = max(source.sizes) * (len(source) // sum(source.sizes))  # with mirror images
    # means that stay in the shards of a worker until normalisers are merged
    n_means = -(-len(executor) // executor.n_workers) * n_bandwidths * min(len(z), _NOISY_IMAGES)
    n_numbers = n_images + len(gaussian.eigenvalues) + n_means
    window_bytes = 8 * windows.n_values(z.shape[1:]) * n_numbers
    return rows_that_fit(window_bytes, n_most, what="A window") if fits(window_bytes) else 1


def _compare_block(z, level, source, corners, shape, gaussian, bandwidths):
    """Return sums over windows (n, C, H, W), log normalisers and effective sizes by bandwidth."""
    kept = source.executor.kept(gaussian)
    with source.executor.step() as step:
        noisy = step.give((z, level, corners, shape, bandwidths))
        reach = None
        if source.log_weight is not None:
            reach = step.merged(_largest_reach, step.map(_reach, noisy, kept))
        own = step.map(_accumulate, noisy, kept, reach)
        softmax = step.merged(_merged, own)
        means = step.merged(added, step.map(_compose, noisy, softmax, own))
        merged, means = step.values([softmax, means])
    return [
        (mean.to(z.device), of_all.log_norm.to(z.device), of_all.effective_sample_size.to(z.device))
        for of_all, mean in zip(merged, means, strict=True)
    ]


def _crops(shard, noisy, gaussian):
    z, _, corners, shape, _ = noisy
    return Crops(corners, shape, shard, gaussian.to(shard.device), z.shape[1:])


def _reach(shard, noisy, gaussian):
    """Return the largest deviations of a shard; see `Crops.reach`."""
    return _crops(shard, noisy, gaussian).reach


def _largest_reach(reaches):
    return torch.stack([reach.to(reaches[0].device) for reach in reaches]).amax(0)


def _accumulate(shard, noisy, gaussian, reach):
    """Return a `Softmax` and means (n, k, d) of the images of a shard, for each bandwidth."""
    z, level, _, _, bandwidths = noisy
    crops = _crops(shard, noisy, gaussian)
    if reach is not None:
        crops.reach = reach.to(shard.device)
    together = compared_together(shard, gaussian, crops.n_values)
    compare = crops.compare if together else crops.compare_one_by_one
    results = []
    for bandwidth in bandwidths:
        mean, log_norm, ess = compare(z.to(shard.device), level, bandwidth)
        ones = torch.ones_like(log_norm)
        results.append((Softmax.of(log_norm, torch.zeros_like(ones), ones, 1 / ess), mean))
    return results


def _merged(parts):
    """Merge lists of `Softmax`, or results of `_accumulate`, by bandwidth."""
    return [Softmax.merged(of_shards) for of_shards in zip(*map(_softmaxes, parts), strict=True)]


def _softmaxes(part):
    return [of if isinstance(of, Softmax) else of[0] for of in part]


def _compose(shard, noisy, merged, own):
    """Return a shard's summand (n, C, H, W), float64, in the sums over windows, by bandwidth."""
    z, _, corners, shape, _ = noisy
    totals = []
    for whole, (softmax, mean) in zip(merged, own, strict=True):
        whole = whole.to(shard.device)
        total = torch.zeros(z.shape, dtype=torch.float64, device=shard.device)
        add_windows(total, softmax.share(whole)[..., None] * mean, corners, shape)
        totals.append(total)
    return totals
