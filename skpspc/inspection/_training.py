"""Training sets from images, and training sets that fitted denoisers keep."""

import math
from hashlib import blake2b

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

from ..denoisers import EmpiricalDenoiser
from ..distributed.blocks import in_shards
from ..support.sharded import ShardedImages, ShardedTrainingSet
from ._images import as_images


def checked_training_set(X, sample_weight=None, **parameters):
    """Return images (n, C, H, W) or (n, d) as a TrainingSet, checked as in any ``fit``.

    ``parameters`` are ``image_shape``, ``data_range`` and ``device`` of `skpspc.EmpiricalDenoiser`.
    """
    return EmpiricalDenoiser(**parameters).fit(X, sample_weight=sample_weight).training_set_


def training_images(X, name):
    """Return images as an array; images of a dask array or in shards as `ShardedImages`."""
    if isinstance(X, ShardedImages):
        return X
    return checked_training_set(X).images if in_shards(X) else as_images(X, name)


def training_set_of(denoiser):
    """Return the training set of a fitted denoiser.

    None if the denoiser keeps no training set, or mixes denoisers of several training sets.
    """
    if hasattr(denoiser, "denoiser_"):
        return training_set_of(denoiser.denoiser_)
    own = getattr(denoiser, "training_set_", None)
    if hasattr(denoiser, "denoisers_"):  # all but the frozen ones learnt from the blend's images
        sets = [
            training_set_of(member) if isinstance(member, FrozenEstimator) else own
            for member in denoiser.denoisers_
        ]
        return _common(sets)
    return own


def shared_training_set(denoisers):
    """Return the training set that all fitted denoisers have in common.

    None if the training sets differ, or if a denoiser keeps none or answers for patches.
    """
    return _common([training_set_of(d) if _of_images(d) else None for d in denoisers])


def _of_images(denoiser):
    """Return whether a denoiser declares that it answers for whole images."""
    shape = getattr(denoiser, "image_shape_", None)
    return shape is not None and len(denoiser.get_feature_names_out()) == math.prod(shape)


def _common(sets):
    """Return the first training set if all hold the same images and weights, otherwise None."""
    first, *others = sets
    if any(each is None for each in sets) or not all(_alike(first, other) for other in others):
        return None
    return first


def _alike(a, b):
    """Return whether two training sets hold equal images in one order, with equal weights."""
    if a is b or not _equal(a.sample_weight, b.sample_weight):
        return a is b
    if isinstance(a, ShardedTrainingSet) or isinstance(b, ShardedTrainingSet):
        kinds = (a.images.shape, a.images.dtype) == (b.images.shape, b.images.dtype)
        return kinds and torch.equal(*(each.by_image(_digests).cpu() for each in (a, b)))
    return _equal(a.images, b.images)


def _digests(training_set):
    """Return 16 bytes for each image, (N, 16) uint8, which differ for images that differ."""
    images = (training_set.stored(slice(i, i + 1)) for i in range(len(training_set)))
    digests = [blake2b(image.cpu().numpy().tobytes(), digest_size=16).digest() for image in images]
    return torch.from_numpy(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16).copy())


def _equal(a, b):
    """Return whether two tensors, or two None, are equal; tensors in one memory are not read."""
    if a is None or b is None:
        return a is b
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)
