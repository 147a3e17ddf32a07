"""
Your own sampler: fill in the missing half
==========================================

The picture shows digits that were held out from training, their upper halves, and five ways
each in which a sampler of a dozen lines, written below, completes them.
"""

# %%
# A sampler is a generator
# ------------------------
# ``sample`` takes any function that yields one state a step. ``denoise(z, sigma)`` is the fitted
# denoiser, on torch tensors; ``sigmas`` falls from step to step, and zero comes after the last.
# This one knows some pixels: at every step they replace what the denoiser expects there. Fresh
# noise at each step makes it a stochastic sampler (Song et al., "Denoising Diffusion Implicit
# Models", ICLR 2021).

from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from sklearn.model_selection import train_test_split

from skpspc import PSPCDenoiser
from skpspc.datasets import load_digits_images


def fill_in(image, known, seed):
    """A sampler of images that agree with ``image`` where ``known``."""
    noise = torch.Generator().manual_seed(seed)

    def sampler(denoise, z, sigmas):
        for sigma, target in pairwise([*sigmas, 0.0]):
            x0 = torch.where(known, image, denoise(z, sigma))
            fresh = torch.randn(z.shape, generator=noise)
            kept = (target / sigma) ** 2
            # of the old noise and the fresh, as much as makes a noise level of target
            z = x0 + kept * (z - x0) + target * (1 - kept) ** 0.5 * fresh
            yield z

    return sampler


# %%
# Completions
# -----------
# A schedule of patch sizes: with much noise whole digits, then patches.
X, held_out = train_test_split(load_digits_images().images, test_size=100, random_state=0)
model = PSPCDenoiser(patch_size=lambda sigma: 8 if sigma > 1 else 5).fit(X)

images = torch.from_numpy(held_out[:6] / 127.5 - 1).float()
known = torch.arange(8)[:, None] < 4  # the upper four rows
completed = [
    model.sample(n=len(images), sampler=fill_in(images, known, seed), n_steps=40, random_state=seed)
    for seed in range(5)
]
columns = [images.numpy(), torch.where(known, images, torch.nan).numpy(), *completed]
titles = ["held out", "given", "completed"]
fig, axes = plt.subplots(len(images), 7, figsize=(7, 6.4), layout="constrained")
for j, column in enumerate(columns):
    for ax, image in zip(axes[:, j], column, strict=True):
        ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("0.7")
for ax, title in zip(axes[0], titles, strict=False):
    ax.set_title(title)
plt.show()

# %%
# What it means
# -------------
# The completions go on where the given half ends, and they differ where it leaves a choice: the
# upper half in the first row fits several digits, and several were drawn; those in the fifth row
# are mostly sixes. Nothing was trained for this, and nothing but ``denoise`` was needed. To put
# known pixels back at every step is the simplest way, not an exact one: it draws from the
# distribution of images given these pixels only approximately.
