"""
Find the noise levels at which a patch is enough
================================================

The first figure shows what a patch in the middle of a noisy photograph
predicts for its own pixels, and what the whole image predicts for them. Both
agree at low and at high noise levels. The second figure measures the
difference.
"""

# %%
# One patch and the whole image
# -----------------------------
# Both denoisers are optimal for what they get: the patch of 12 x 12 pixels, or
# all 32 x 32 pixels. The clean image is a training image.

# sphinx_gallery_thumbnail_axes = [8, 9, 14, 15]

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser, PatchDenoiser
from skpspc.datasets import load_photo_patches
from skpspc.inspection import LocalEquivalenceDisplay

X = load_photo_patches(n_images=1000).images
size, middle = 12, slice(10, 22)
whole = EmpiricalDenoiser().fit(X)
patch = PatchDenoiser(patch_size=size).fit(X)  # in the middle

contrast = X[..., middle, middle].std(axis=(1, 2, 3))
clean = X[contrast.argmax(), None] / 127.5 - 1
noise = np.random.default_rng(0).standard_normal(clean.shape)
sigmas = [0.1, 1, 3, 8, 30, 300]
fig, axes = plt.subplots(3, 6, figsize=(5.5, 3.3), layout="constrained")
for column, sigma in zip(axes.T, sigmas, strict=True):
    noisy = clean + sigma * noise
    images = [
        noisy[0] / max(1, sigma),
        whole.denoise(noisy, sigma)[0][:, middle, middle],
        patch.denoise(noisy, sigma)[0],
    ]
    for ax, image in zip(column, images, strict=True):
        ax.imshow(np.clip(image.transpose(1, 2, 0) / 2 + 0.5, 0, 1))
        ax.set(xticks=[], yticks=[])
    frame = plt.Rectangle((9.5, 9.5), size, size, fill=False, color="#56b4e9")
    column[0].add_patch(frame)
    column[0].set_title(rf"$\sigma$ = {sigma:g}", fontsize="medium")
names = ["noisy", "from the\nimage", "from the\npatch"]
for ax, name in zip(axes[:, 0], names, strict=True):
    ax.set_ylabel(name)
plt.show()

# %%
# The difference and its bound
# ----------------------------
fig, ax = plt.subplots(figsize=(4.7, 4.2), layout="constrained")
display = LocalEquivalenceDisplay.from_estimator(
    whole, np.geomspace(0.05, 300, 14), [3, 6, 12, 24], n_images=24, ax=ax
)
ax.set_title("Patch and global posterior mean", fontsize="medium")
plt.show()

# %%
# At low noise levels both identify the training image. At high noise levels
# neither has any information, and both return the mean of all training images.
# In between, the whole image still identifies the training image and the patch
# returns a mixture. The smaller the patch, the wider this range of noise
# levels. Only in this range a composite of patches differs from the optimal
# denoiser and can generalise. The dotted bounds are far above the difference,
# and vanish at both ends as well.
