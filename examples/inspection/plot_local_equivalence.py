"""
Local equivalence: when a patch is enough
=========================================

The picture shows what a square patch in the middle of a noisy photograph says about its own
pixels, beside what the whole image says about them: with little noise and with much the same, in
between not. The curves below measure the gap for several sizes.
"""

# %%
# The middle of an image, seen alone and as a part
# ------------------------------------------------

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser, PatchDenoiser
from skpspc.datasets import load_photo_patches
from skpspc.inspection import LocalEquivalenceDisplay

X = load_photo_patches(size=32, n_images=1000).images
size, middle = 12, slice(10, 22)
whole = EmpiricalDenoiser().fit(X)
patch = PatchDenoiser(patch_size=size).fit(X)  # in the middle

lively = X[..., middle, middle].std(axis=(1, 2, 3)).argmax()
clean = X[lively, None] / 127.5 - 1  # a training image with something in its middle
noise = np.random.default_rng(0).standard_normal(clean.shape)
sigmas = [0.1, 1, 3, 8, 20, 80, 300]
fig, axes = plt.subplots(3, len(sigmas), figsize=(8.5, 4), layout="constrained")
for column, sigma in zip(axes.T, sigmas, strict=True):
    noisy = clean + sigma * noise
    shown = [
        noisy[0] / max(1, sigma),
        whole.denoise(noisy, sigma)[0][:, middle, middle],
        patch.denoise(noisy, sigma)[0],
    ]
    for ax, image in zip(column, shown, strict=True):
        ax.imshow(np.clip((image.transpose(1, 2, 0) + 1) / 2, 0, 1))
        ax.set(xticks=[], yticks=[])
    column[0].add_patch(plt.Rectangle((9.5, 9.5), size, size, fill=False, color="white"))
    column[0].set_title(rf"$\sigma$ = {sigma:g}")
for ax, label in zip(
    axes[:, 0], ["noisy", "the whole\nimage says", "the patch\nsays"], strict=True
):
    ax.set_ylabel(label)
plt.show()

# %%
# The gap, and its bound
# ----------------------
display = LocalEquivalenceDisplay.from_estimator(
    whole, np.geomspace(0.05, 300, 18), [3, 6, 12, 24], n_images=32
)
display.ax_.set_title("Distance of patch and global posterior means")
plt.show()

# %%
# What it means
# -------------
# With little noise both know which training image this is, and its pixels in the middle; with very
# much noise neither knows anything, and both answer with the mean of all. In between, at a noise
# level of 8 here, the whole image still knows, and the patch alone does not: it answers with a
# mixture. The smaller the patch, the wider the gap. This is where a composite of patches does
# something else than the optimal denoiser, and so where it can generalise. The dotted bounds are
# far from tight, but they vanish at the same ends.
