"""Example images, and readers of image files.

Every loader returns a :class:`sklearn.utils.Bunch` with these attributes:

- ``images`` (n, C, H, W) uint8; denoisers map the values 0 to 255 to [-1, 1];
- ``target`` (n,) int64, the class of each image, or None;
- ``classes``, a list of class names, or None;
- ``DESCR``, a description;
- ``n_skipped``, the number of skipped files (readers of a zip or a folder only).

A file that cannot be read raises a `ValueError` that names the file, or an `OSError` if the file
system fails. A file that needs more memory than ``max_bytes`` is refused before it is read. With
``out=``, readers of a zip or a folder write the images to a ``.npy`` file in place of memory.
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
