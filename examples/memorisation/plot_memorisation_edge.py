"""
Find the patch size at which a denoiser begins to memorise
==========================================================

A noisy window singles out one of N training images if it holds more
information than log N. The posterior means of smaller windows average many
training images. The first figure measures the information, the second one
shows where a denoiser averages and where it copies.
"""

# %%
# Information against window size
# -------------------------------
# The training images are crops of photographs. Where a curve crosses the
# dashed line, windows of new images have just enough similar windows in the
# training set.

import matplotlib.pyplot as plt
import numpy as np

from skpspc import PSPCDenoiser
from skpspc.datasets import load_photo_patches
from skpspc.inspection import (
    EntropyMapDisplay,
    calibrate_patch_size,
    information_curve,
)

X = load_photo_patches(size=24, n_images=1200).images
order = np.random.default_rng(0).permutation(len(X))
train, held_out = X[order[48:]], X[order[:48]]
sigmas, sizes = [0.1, 0.3, 1.0, 3.0], [1, 2, 3, 4, 6, 8, 12, 16, 24]
curve = information_curve(train, sigmas, sizes, held_out=held_out)
curve.plot()
plt.show()

# %%
# The largest sizes below the line are close to the sizes that denoise the
# held-out images best, although they are measured without denoising:
_, table = calibrate_patch_size(
    PSPCDenoiser(), train, sigmas, sizes=sizes, held_out=held_out
)
for sigma, edge, best in zip(
    sigmas, curve.edge_sizes, table.chosen, strict=True
):
    print(f"sigma {sigma}: edge {edge}, least error {best}")

# %%
# Where a denoiser averages, and where it copies
# ----------------------------------------------
# The entropy of the posterior is 0 where a window has identified one training
# image. Flat regions look alike in many training images, and their entropy is
# large. With windows larger than the edge it is small nearly everywhere.

sigma = 0.3
contrast = held_out.std(axis=(1, 2, 3))
clean = held_out[np.argsort(contrast)[[12, 24, 36, 47]]] / 127.5 - 1
noisy = clean + sigma * np.random.default_rng(1).standard_normal(clean.shape)
fig, axes = plt.subplots(3, 4, figsize=(6.2, 5.2), layout="constrained")
for rows, size in ((axes[:2], 4), (axes[2:], 12)):
    model = PSPCDenoiser(patch_size=size).fit(train)
    images = clean if size == 4 else None
    EntropyMapDisplay.from_estimator(
        model, noisy, sigma, images=images, ax=rows
    )
    rows[-1, 0].set_ylabel(f"windows of\n{size} x {size}")
axes[0, 0].set_ylabel("clean images")
plt.show()
