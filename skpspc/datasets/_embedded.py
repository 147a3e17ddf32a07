"""Images that come with scikit-learn, without a download."""

from numbers import Integral

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from sklearn.utils import check_random_state, check_scalar

from .._repr import ShortBunch

# A crop of the full photographs is mostly one texture; a third of their size shows petals.
_PHOTO_REDUCTION = 3


def load_digits_images():
    """Return scikit-learn's 1,797 handwritten digits as 8 x 8 gray images.

    Returns
    -------
    Bunch
        ``images`` (1797, 1, 8, 8) uint8: the 17 gray levels v = 0..16 of
        :func:`sklearn.datasets.load_digits` as round(v * 255 / 16);
        ``target`` (1797,) int64, the digit; ``classes`` ["0", ..., "9"]; ``DESCR``.

    Examples
    --------
    >>> from skpspc.datasets import load_digits_images
    >>> digits = load_digits_images()
    >>> digits.images.shape, digits.images.dtype, int(digits.images.max())
    ((1797, 1, 8, 8), dtype('uint8'), 255)
    """
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    return ShortBunch(
        images=images,
        target=digits.target.astype(np.int64),
        classes=[str(name) for name in digits.target_names],
        DESCR=digits.DESCR,
    )


def load_photo_patches(*, size=32, n_images=2000, random_state=0):
    """Return random square crops of scikit-learn's two sample photographs.

    The photographs (a Chinese temple, a dahlia) are first reduced to a third, 143 x 214 pixels,
    by averaging 3 x 3 blocks. Crops overlap, so held-out crops are not independent.

    Parameters
    ----------
    size : int, default=32
        Height and width of a crop, at most 143.
    n_images : int, default=2000
        Number of crops, alternately from the two photographs.
    random_state : int, RandomState instance or None, default=0
        Draws the positions. With an int, crop i does not depend on ``n_images``.

    Returns
    -------
    Bunch
        ``images`` (n_images, 3, size, size) uint8; ``target`` (n_images,) int64, the
        photograph; ``classes`` ["china", "flower"]; ``DESCR``.

    Raises
    ------
    ValueError
        If ``size`` does not fit the reduced photographs or ``n_images`` is not positive.
    TypeError
        If either is not an integer.

    Examples
    --------
    >>> from skpspc.datasets import load_photo_patches
    >>> photos = load_photo_patches(size=16, n_images=10)
    >>> photos.images.shape, photos.target[:4].tolist()
    ((10, 3, 16, 16), [0, 1, 0, 1])
    """
    check_scalar(n_images, "n_images", Integral, min_val=1)
    bundle = load_sample_images()
    photos = [
        np.asarray(Image.fromarray(photo).reduce(_PHOTO_REDUCTION)).transpose(2, 0, 1)
        for photo in bundle.images
    ]
    limit = min(min(photo.shape[1:]) for photo in photos)
    check_scalar(size, "size", Integral, min_val=1, max_val=limit)

    images = np.empty((n_images, 3, size, size), dtype=np.uint8)
    target = np.arange(n_images, dtype=np.int64) % len(photos)
    # a row of numbers per crop: the first crops do not depend on n_images
    positions = check_random_state(random_state).random_sample((n_images, 2))
    for i, (down, right) in enumerate(positions):
        photo = photos[target[i]]
        top = int(down * (photo.shape[1] - size + 1))
        left = int(right * (photo.shape[2] - size + 1))
        images[i] = photo[:, top : top + size, left : left + size]
    return ShortBunch(images=images, target=target, classes=["china", "flower"], DESCR=bundle.DESCR)
