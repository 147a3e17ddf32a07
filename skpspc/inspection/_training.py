"""Which images denoisers were fitted on."""

import math

import torch
from sklearn.frozen import FrozenEstimator


def training_set_of(denoiser):
    """The training set that a denoiser answers from.

    Parameters
    ----------
    denoiser : denoiser
        Fitted.

    Returns
    -------
    TrainingSet or None
        None where the denoiser keeps none, or mixes denoisers of several training sets.
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
    """The training set that all of some denoisers answer from, or None.

    Parameters
    ----------
    denoisers : iterable of denoiser
        Fitted.

    Returns
    -------
    TrainingSet or None
        None, too, where one answers for a part of the image: whole images are no use there.
    """
    return _common([training_set_of(d) if _of_images(d) else None for d in denoisers])


def _of_images(denoiser):
    """Whether a denoiser answers for whole images; False where it does not say."""
    shape = getattr(denoiser, "image_shape_", None)
    return shape is not None and len(denoiser.get_feature_names_out()) == math.prod(shape)


def _common(sets):
    """The first of some training sets where all hold the same images and weights, or None."""
    first, *others = sets
    if any(known is None for known in sets) or not all(_alike(first, other) for other in others):
        return None
    return first


def _alike(a, b):
    """Whether two training sets hold the same images, in one order, with the same weights."""
    return a is b or (_equal(a.images, b.images) and _equal(a.sample_weight, b.sample_weight))


def _equal(a, b):
    """Whether two tensors, or two None, are equal; without a look at values in shared memory."""
    if a is None or b is None:
        return a is b
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)
