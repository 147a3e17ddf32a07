"""
Digits from noise, with nothing trained
=======================================

The picture shows thirty-two digits that a ``PSPCDenoiser`` has drawn, after scikit-learn's 1,797
handwritten ones of 8 x 8 pixels. The second one shows how they come about: noise is walked down to
an image in eighteen steps, and at each the denoiser says which image it expects.
"""

# %%
# Fit and sample
# --------------
# To fit is to keep the training images. A sample depends on ``random_state`` and on its own number
# alone: the first of 32 samples is the first of 1,000.

import matplotlib.pyplot as plt
import numpy as np

from skpspc import PSPCDenoiser, edm_sigmas
from skpspc.datasets import load_digits_images

X = load_digits_images().images
model = PSPCDenoiser(patch_size=4).fit(X)
samples, trajectory = model.sample(n=32, random_state=0, return_trajectory=True)
print(samples.shape, samples.dtype, f"from {samples.min():.2f} to {samples.max():.2f}")


def tiled(images, n_rows):
    """Gray images (n, 1, H, W) in rows, with a gap between them."""
    framed = np.pad(images[:, 0], ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    return np.hstack(np.hstack(framed.reshape(n_rows, -1, *framed.shape[1:])))


fig, ax = plt.subplots(figsize=(8, 4.3), layout="constrained")
ax.imshow(tiled(samples, n_rows=4), cmap="gray", vmin=-1, vmax=1)
ax.set(title="Samples of PSPC, patches of 4 x 4 pixels")
ax.axis("off")
plt.show()

# %%
# From noise to image
# -------------------
# Two samples on their way, with contrast reduced where there is much noise, and under each state
# what the denoiser makes of it. At the largest noise levels it expects the mean of all digits.
sigmas = edm_sigmas(18)
steps = [0, 7, 9, 11, 12, 13, 14, 16]
fig, axes = plt.subplots(4, len(steps), figsize=(8, 4.6), layout="constrained")
for column, step in zip(axes.T, steps, strict=True):
    noisy, sigma = trajectory[step, :2], sigmas[step]
    expected = model.denoise(noisy, sigma)
    scale = max(1, 2 * sigma)
    shown = [noisy[0] / scale, expected[0], noisy[1] / scale, expected[1]]
    for ax, image in zip(column, shown, strict=True):
        ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
    column[0].set_title(rf"$\sigma$ = {sigma:.2g}")
for ax, label in zip(axes[:, 0], ["noisy", "denoised"] * 2, strict=True):
    ax.set_ylabel(label)
plt.show()

# %%
# What it means
# -------------
# Overlapping patches of 4 x 4 pixels are each compared with the same place of every training image
# and averaged where they overlap. No patch knows the whole digit, and yet most samples read as one:
# neighbouring patches share pixels, and so they agree. Some samples read as no digit: small patches
# do not know that a stroke begun at the top has to end somewhere.
