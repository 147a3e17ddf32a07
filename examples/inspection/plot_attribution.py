"""
See which training patches made a pixel
=======================================

The figures show the training patches whose weighted mean is one pixel of a
denoised photograph, with their weights. At a low noise level about a dozen
patches share the pixel, at a high noise level several hundred. No image
dominates.
"""

# %%
# The patches of one pixel
# ------------------------
# An answer of PSPC is a mean of training patches, so the weight of every patch
# is known exactly. The training images are crops of the left 75 columns of a
# photograph. The noisy images come from the next 16 columns and share no pixel
# with the training images.

# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_photo_patches
from skpspc.inspection import AttributionDisplay, attribute

photo = load_photo_patches(size=143, n_images=1, photos=["flower"]).images[0]
window = np.lib.stride_tricks.sliding_window_view
X = window(photo[..., :75], (3, 16, 16))[0, ::2, ::2].reshape(-1, 3, 16, 16)
held_out = photo[:, :128, 75:91].reshape(3, 8, 16, 16).swapaxes(0, 1)
clean = held_out / 127.5 - 1
noise = np.random.default_rng(0).standard_normal(clean.shape)
model = PSPCDenoiser(patch_size=5).fit(X)
print(f"{len(X):,} training images")

Z = clean[4:5] + 0.1 * noise[4:5]
fig, ax = plt.subplots(figsize=(4.4, 3.2), layout="constrained")
options = {"pixel": (8, 8), "n_images": 3}
AttributionDisplay.from_estimator(model, Z, 0.1, ax=ax, **options)
plt.show()

# %%
# Every column is one training patch and its weight. The first column shows the
# noisy patch, the last one the answer: the mean over all training patches. The
# lower row shows the images that the patches come from.

# %%
# The same pixel under more noise
# -------------------------------
Z = clean[4:5] + noise[4:5]
fig, ax = plt.subplots(figsize=(4.4, 3.2), layout="constrained")
AttributionDisplay.from_estimator(model, Z, 1.0, ax=ax, **options)
plt.show()

# %%
# Few images or many?
# -------------------
# The effective sample size per pixel, averaged over all pixels of eight noisy
# images, and the largest weight of one training image in a whole answer:
denoisers = {"PSPC": model, "Optimal denoiser": EmpiricalDenoiser().fit(X)}
for sigma in (0.1, 1.0):
    for name, denoiser in denoisers.items():
        found = attribute(denoiser, clean + sigma * noise, sigma, top=1)
        size = found.effective_sample_size.mean()
        largest = found.image_share.max(axis=1).mean()
        print(
            f"sigma {sigma:g}, {name}: {size:.1f} images per pixel, ", end=""
        )
        print(f"largest weight in an answer {largest:2.0%}")

# %%
# The optimal denoiser needs one training image that fits everywhere: most of
# the weight goes to one image. PSPC chooses anew for every patch, so one
# answer uses many training images, also where a single pixel has few.
