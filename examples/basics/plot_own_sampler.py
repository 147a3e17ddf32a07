"""
Write a sampler that fills in the missing half of an image
==========================================================

The figure shows digits that are not in the training set, their upper halves,
and four completions of each. A sampler of a dozen lines, written below, makes
the completions.
"""

# %%
# A sampler is a generator
# ------------------------
# ``sample`` accepts any function that yields one noisy image per step. The
# function gets ``denoise(z, sigma)``, the fitted denoiser on torch tensors,
# and ``sigmas``, the decreasing noise levels without the final 0. This sampler
# replaces known pixels of the denoised image at every step. It adds fresh
# noise at each step (Song et al., "Denoising Diffusion Implicit Models", ICLR
# 2021).

# sphinx_gallery_thumbnail_axes = [13, 14, 15, 25, 26, 27]

from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from sklearn.model_selection import train_test_split

from skpspc import PSPCDenoiser
from skpspc.datasets import load_digits_images


def fill_in(image, known, seed):
    """A sampler of images that equal ``image`` where ``known`` is true."""
    rng = torch.Generator().manual_seed(seed)

    def sampler(denoise, z, sigmas):
        for sigma, target in pairwise([*sigmas, 0.0]):
            x0 = torch.where(known, image, denoise(z, sigma))
            fresh = torch.randn(z.shape, generator=rng)
            # Old and fresh noise, mixed to the noise level ``target``.
            kept = (target / sigma) ** 2
            z = x0 + kept * (z - x0) + target * (1 - kept) ** 0.5 * fresh
            yield z

    return sampler


# %%
# Complete held-out digits
# ------------------------
# At noise levels above 1 the patch is the whole digit, below 5 x 5 pixels.
X, held_out = train_test_split(
    load_digits_images().images, test_size=100, random_state=0
)
model = PSPCDenoiser(patch_size=lambda sigma: 8 if sigma > 1 else 5).fit(X)

images = torch.from_numpy(held_out[:6] / 127.5 - 1).float()
known = torch.arange(8)[:, None] < 4  # the upper four rows
completed = [
    model.sample(
        n=len(images),
        sampler=fill_in(images, known, seed),
        n_steps=40,
        random_state=seed,
    )
    for seed in range(4)
]

given = torch.where(known, images, torch.nan)
columns = [images, given, *map(torch.as_tensor, completed)]
titles = ["held out", "given", *["completed"] * 4]
fig, axes = plt.subplots(6, 6, figsize=(5.5, 5.8), layout="constrained")
for column, title, pictures in zip(axes.T, titles, columns, strict=True):
    column[0].set_title(title, fontsize="medium")
    for ax, image in zip(column, pictures, strict=True):
        ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
plt.show()

# %%
# How much do the completions differ?
# -----------------------------------
# The spread of a row is the standard deviation of a pixel of the lower half
# over the four completions. Pixels have values from -1 to 1.
spread = torch.stack(columns[2:]).std(dim=0)[:, 0, 4:].mean((1, 2))
for row, value in enumerate(spread, start=1):
    print(f"row {row}: spread {value:.2f}")

# %%
# The completions continue the strokes of the upper half. They differ most
# where the upper half fits several digits. The sampler needs no training, only
# ``denoise``. Its samples follow the distribution of images with these known
# pixels only approximately: replacing pixels at every step is the simplest
# way, not an exact one.
