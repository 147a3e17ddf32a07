"""
Check whether samples are new images or copies
==============================================

The first figure shows samples of the optimal denoiser of the training set, and
below them samples of PSPC from equal noise. Each sample is above its nearest
training image, and a frame marks a copy. The second figure follows samples of
PSPC from noise to image.
"""

# %%
# Two denoisers, one training set
# -------------------------------
# The training images are 800 crops of one photograph, 32 x 32 pixels each. The
# optimal denoiser, ``EmpiricalDenoiser``, compares whole images at all noise
# levels. PSPC does so only at noise levels above 8, where the layout is
# decided, and compares patches of 12 x 12 pixels below.

# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_thumbnail_axes = [4, 5, 10, 11]

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser, PSPCDenoiser, edm_sigmas
from skpspc.datasets import load_photo_patches
from skpspc.inspection import (
    SampleGridDisplay,
    memorised_fraction,
    nearest_training_distance,
)

X = load_photo_patches(n_images=800, photos=["flower"]).images
pspc = PSPCDenoiser(patch_size=lambda sigma: 32 if sigma > 8 else 12).fit(X)
optimal = EmpiricalDenoiser().fit(X)
new, trajectory = pspc.sample(n=8, random_state=0, return_trajectory=True)
samples = {
    "Optimal denoiser": optimal.sample(n=8, random_state=0),
    "PSPC": new,
}

fig, axes = plt.subplots(2, 1, figsize=(4.7, 4.8), layout="constrained")
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
# The distance is the root mean square over pixels with values from -1 to 1.

# %%
# From noise to image
# -------------------
# Sampling takes 18 steps. The noisy image of a sample is above the denoised
# image, at six noise levels.
sigmas = edm_sigmas(18)
steps = [0, 5, 7, 9, 11, 13]
fig, axes = plt.subplots(4, 6, figsize=(5.5, 4), layout="constrained")
for column, step in zip(axes.T, steps, strict=True):
    noisy, sigma = trajectory[step, :2], sigmas[step]
    denoised = pspc.denoise(noisy, sigma)
    noisy = noisy / max(1, sigma)  # less contrast, to fit the colours
    images = np.stack([noisy, denoised], axis=1).reshape(4, 3, 32, 32)
    for ax, image in zip(column, images, strict=True):
        ax.imshow(np.clip(image.transpose(1, 2, 0) / 2 + 0.5, 0, 1))
        ax.set(xticks=[], yticks=[])
    column[0].set_title(rf"$\sigma$ = {sigma:.2g}", fontsize="medium")
for ax, label in zip(axes[:, 0], ["noisy", "denoised"] * 2, strict=True):
    ax.set_ylabel(label)
plt.show()

# %%
# From equal noise, the optimal denoiser returns a training image every time,
# and PSPC a new image every time. Both return means of training images. PSPC
# takes a mean for each patch, and combines patches of several images: petals
# continue where another crop ends. At the highest noise level the denoised
# image is the mean of all crops.
