"""
Check whether samples are copies of training images
===================================================

The figure shows samples of the optimal denoiser of the training set, and below
them samples of PSPC from the same noise. Each sample is above its nearest
training image. A frame marks a copy of a training image.
"""

# %%
# Two denoisers, one training set
# -------------------------------
# The optimal denoiser, `EmpiricalDenoiser`, compares whole images. PSPC
# compares patches of 12 x 12 pixels. Training set, noise and sampler are
# equal.

# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_photo_patches
from skpspc.inspection import (
    SampleGridDisplay,
    memorised_fraction,
    nearest_training_distance,
)

photos = load_photo_patches(n_images=500, photos=["china", "flower"])
X = photos.images
models = {
    "Optimal denoiser": EmpiricalDenoiser().fit(X),
    "PSPC": PSPCDenoiser(patch_size=12).fit(X),
}
samples = {
    name: model.sample(n=12, random_state=0) for name, model in models.items()
}

fig, axes = plt.subplots(2, 1, figsize=(5.5, 4.4), layout="constrained")
for ax, (name, images) in zip(axes, samples.items(), strict=True):
    SampleGridDisplay.from_predictions(images[:5], X, ax=ax, n_columns=5)
    ax.set_title(f"{name}, 5 of {len(images)} samples", fontsize="medium")
plt.show()

# %%
# Count the copies
# ----------------
# ``memorised_fraction`` uses the usual rule: an image is a copy if its nearest
# training image is at least three times closer than the second nearest.
for name, images in samples.items():
    copied = memorised_fraction(images, X)
    distance = nearest_training_distance(images, X)
    print(f"{name}: {copied:2.0%} of {copied.n} samples are copies, ", end="")
    print(f"distance {distance:.2f}")

# %%
# From the same noise, the optimal denoiser returns a training image every
# time. The samples of PSPC differ from their nearest training image: the
# distance is the root mean square over pixels with values from -1 to 1. Both
# denoisers return means of training images. PSPC takes a mean for each patch,
# and combines patches of several images into a new one.
