"""
Find the training images that are at risk of being copied
=========================================================

The figures show the memorisation risk of each training image against the noise
level, the images of most and of least risk, and how far a sampler that starts
at a noisy copy of an image ends from this image.
"""

# %%
# Risk against the noise level
# ----------------------------
# The training set holds 400 crops of one photograph of flowers and four
# strays, crops of other photographs. The risk of a training image is the
# posterior weight that it has given a noisy copy of itself: 1 where no other
# training image is near.

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser, PSPCDenoiser, edm_sigmas
from skpspc.datasets import load_photo_patches
from skpspc.inspection import memorisation_risk, show_images

flowers = load_photo_patches(size=16, n_images=400, photos=["flower"]).images
others = ["cat", "coffee", "galaxies", "rocket"]
strays = load_photo_patches(size=16, n_images=4, photos=others).images
X = np.concatenate([flowers, strays])
model = PSPCDenoiser(patch_size=6).fit(X)
sigmas = np.geomspace(0.1, 3.2, 6)
risks = memorisation_risk(model, sigmas, n_images=len(X))

fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
risks.plot(ax)
ax.set_title("")
plt.show()

# %%
level = 2
risk = risks.risk[level]
order = risk.argsort()[::-1]
n_certain = (risk > 0.9).sum()
print(
    f"sigma {sigmas[level]:.1f}: median risk {np.median(risk):.2f}, ", end=""
)
print(f"{n_certain} of {len(X)} images above 0.9")
for name, row in zip(others, range(len(flowers), len(X)), strict=True):
    rank = np.flatnonzero(order == row)[0] + 1
    print(f"stray crop of {name}: risk {risk[row]:.2f}, rank {rank}")

# %%
# Images of most and of least risk
# --------------------------------
# The upper row has most risk and the lower row least. The row between shows
# the strays. Below each image is its risk at sigma = 0.4.
shown = [*order[:4], *range(len(flowers), len(X)), *order[-4:]]
titles = [f"{risk[row]:.2f}" for row in shown]
fig, ax = plt.subplots(figsize=(4.4, 4.1), layout="constrained")
show_images(X[shown], titles=titles, n_columns=4, ax=ax)
plt.show()

# %%
# Check with a sampler
# --------------------
# The sampler starts at sigma = 0.4, at a noisy copy of each training image,
# with other noise than the noise of the risk. A distance of 1 from the image
# means as far as its mean colour, and 1e-7 is rounding: the sampler has
# returned the training image.
sigma = sigmas[level]
clean = X.astype(np.float32) / 127.5 - 1
noise = np.random.default_rng(1).standard_normal(X.shape, np.float32)
ends = model.sample(
    initial=clean + sigma * noise, sigmas=edm_sigmas(8, sigma_max=sigma)
)


def size(differences):
    """Return the root mean square of each image."""
    return np.sqrt(np.square(differences).mean(axis=(1, 2, 3)))


distance = size(ends - clean)
distance /= size(clean - clean.mean(axis=(2, 3), keepdims=True))
fig, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
ax.semilogy(risk[:400], distance[:400], "o", ms=4, alpha=0.5, label="flowers")
ax.plot(risk[400:], distance[400:], "C1s", ms=7, label="strays")
ax.set(xlabel=r"memorisation risk at $\sigma$ = 0.4")
ax.set(ylabel="distance from the image\nin units of its contrast")
ax.legend(frameon=False)
plt.show()

# %%
for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1)):
    inside = (low <= risk) & (risk <= high)
    copied = (distance[inside] < 1e-3).sum()
    print(f"risk {low:.1f} to {high:.1f}: ", end="")
    print(f"{copied} of {inside.sum()} images returned")

# %%
# Copies in the training set
# --------------------------
# An image and its copies have one weight together. Here the image of median
# risk is in the training set once or 20 times. Samples of the optimal denoiser
# are training images, and the last number counts this image among them.
row = order[len(order) // 2]
repeated = np.concatenate([X, np.repeat(X[row : row + 1], 19, axis=0)])
for name, images in (("once", X), ("20 times", repeated)):
    again = PSPCDenoiser(patch_size=6).fit(images)
    own = memorisation_risk(again, sigma, images=[row]).risk.item()
    samples = EmpiricalDenoiser().fit(images).sample(n=400, random_state=0)
    drawn = (size(samples - clean[row]) < 0.01).sum()
    print(f"{name}: risk {own:.2f}, {drawn} of 400 samples")

# %%
# An image is at risk where few training images are near. The crop of coffee is
# such a stray, and three flower crops full of edges are at equal risk without
# being strays. The dark crop of galaxies has a lower risk, and the smooth
# background of the flowers has the least: many crops resemble it. The risk
# predicts the sampler, which returns 65 of 66 images with a risk above 0.9,
# and 6 of 209 images with a risk below 0.1. Copies in the training set raise
# the risk of an image from 0.07 to 0.44, and the number of samples that repeat
# it from 1 to 10.
