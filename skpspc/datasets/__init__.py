"""Example images, and readers of image files.

Every loader returns a :class:`sklearn.utils.Bunch` with ``images`` of shape (n, C, H, W)
and dtype uint8, which denoisers read on [-1, 1], ``target`` of shape (n,) and dtype int64
or None, ``classes``, a list of names or None, and ``DESCR``. The readers of a zip or a
folder add ``n_skipped``, the number of other files.

A file that cannot be read raises a `ValueError` that names it, or an `OSError` where the file
system fails. Files that need more memory than ``max_bytes`` are refused before they are read.
"""

from ._embedded import load_digits_images, load_photo_patches
from ._files import load_edm_zip, load_image_folder, load_npz

__all__ = [
    "load_digits_images",
    "load_edm_zip",
    "load_image_folder",
    "load_npz",
    "load_photo_patches",
]
