"""Images that need no download: scikit-learn's, and photographs that come with this package."""

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image
from sklearn.utils import Bunch, check_random_state, check_scalar

from .._repr import ShortBunch

_OF_SCIKIT_LEARN = ("china", "flower")
_PHOTOS = (*_OF_SCIKIT_LEARN, "cat", "coffee", "galaxies", "rocket")
_PHOTOGRAPHS = Path(__file__).parent / "photographs"
_SHORTER_SIDE = 143  # pixels of every reduced photograph
_REDUCTION = 3  # brings scikit-learn's photographs, 427 x 640, to that size


def load_digits_images() -> Bunch:
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


def load_photo_patches(
    *,
    size: int = 32,
    n_images: int = 2000,
    photos: Sequence[str] | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> Bunch:
    """Return random square crops of six colour photographs.

    The photographs are reduced to 143 pixels on their shorter side, so that a crop of 32 x 32
    pixels shows an object and not one texture. Crops overlap: held-out crops are not independent of
    the others.

    Parameters
    ----------
    size : int, default 32
        Height and width of a crop, at most 143 pixels.
    n_images : int, default 2000
        Number of crops, taken from the photographs in turn.
    photos : list of str, default None
        Names of the photographs: "china", "flower", "cat", "coffee", "galaxies", "rocket". None:
        all six.
    random_state : int, RandomState instance or None, default 0
        Draws the positions. With an int, crop i does not depend on ``n_images``.

    Returns
    -------
    Bunch
        ``images`` (n_images, 3, size, size) uint8; ``target`` (n_images,) int64, the index of
        the photograph in ``classes``; ``classes``, the names; ``DESCR``, sources and licences.

    Raises
    ------
    ValueError
        If ``size`` is not between 1 and 143, ``n_images`` is not positive, or a name in ``photos``
        is unknown or repeated.
    TypeError
        If ``size`` or ``n_images`` is not an integer.

    Notes
    -----
    "china" and "flower" are the sample photographs of scikit-learn (CC BY 2.0). "cat", "coffee",
    "galaxies" and "rocket" come with this package, from scikit-image (CC0 or public domain).

    Examples
    --------
    >>> from skpspc.datasets import load_photo_patches
    >>> crops = load_photo_patches(size=16, n_images=12)
    >>> [crops.classes[label] for label in crops.target[:6]]
    ['china', 'flower', 'cat', 'coffee', 'galaxies', 'rocket']
    """
    check_scalar(n_images, "n_images", Integral, min_val=1)
    check_scalar(size, "size", Integral, min_val=1, max_val=_SHORTER_SIDE)
    names = _checked_names(photos)
    photographs = [_read_photograph(name) for name in names]

    images = np.empty((n_images, 3, size, size), dtype=np.uint8)
    target = np.arange(n_images, dtype=np.int64) % len(names)
    # a row of numbers per crop: the first crops do not depend on n_images
    positions = check_random_state(random_state).random_sample((n_images, 2))
    for i, (down, right) in enumerate(positions):
        photograph = photographs[target[i]]
        top = int(down * (photograph.shape[1] - size + 1))
        left = int(right * (photograph.shape[2] - size + 1))
        images[i] = photograph[:, top : top + size, left : left + size]
    licences = (_PHOTOGRAPHS / "LICENCES.rst").read_text(encoding="utf-8")
    return ShortBunch(images=images, target=target, classes=names, DESCR=licences)


def _checked_names(photos):
    """Return the names of the photographs as a list, or raise."""
    if photos is None:
        return list(_PHOTOS)
    names = [photos] if isinstance(photos, str) else list(photos)
    unknown = [name for name in names if name not in _PHOTOS]
    if unknown or not names:
        wrong = f"got {unknown[0]!r}" if unknown else "got none"
        raise ValueError(f"photos must be names among {', '.join(_PHOTOS)}; {wrong}.")
    repeated = [name for name in _PHOTOS if names.count(name) > 1]
    if repeated:
        raise ValueError(f"photos must be different names, got {repeated[0]!r} more than once.")
    return names


def _read_photograph(name):
    """Return a reduced photograph, (3, H, W) uint8."""
    if name in _OF_SCIKIT_LEARN:
        full = Image.fromarray(load_sample_image(f"{name}.jpg"))
        picture = full.reduce(_REDUCTION)
    else:
        with Image.open(_PHOTOGRAPHS / f"{name}.png") as file:
            picture = file.convert("RGB")
    return np.asarray(picture).transpose(2, 0, 1)
