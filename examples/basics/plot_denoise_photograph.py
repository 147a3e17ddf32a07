"""
One half of a photograph cleans the other
=========================================

The picture shows the right half of a photograph, clean, under noise, and denoised: by a
plain blur, and by PSPC, which has seen nothing but the left half. The number is the peak
signal-to-noise ratio in decibels; higher is better.
"""

# %%
# One image as a training set
# ---------------------------
# PSPC compares patches with the same place of every training image. All crops of the left half
# together, 5,537 of 16 x 16 pixels, have every patch in every place; the right half is denoised in
# tiles of that size, which overlap.

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

from skpspc import PSPCDenoiser
from skpspc.datasets import load_photo_patches

photograph = load_photo_patches(size=128, n_images=1).images[0]
left, right = photograph[..., :64], photograph[..., 64:] / 127.5 - 1
crops = np.lib.stride_tricks.sliding_window_view(left, (16, 16), axis=(1, 2))
crops = crops.transpose(1, 2, 0, 3, 4).reshape(-1, 3, 16, 16)


def denoised(model, noisy, sigma):
    """A noisy image (3, H, W), in tiles of 16 x 16 that overlap by half, averaged."""
    corners = [(y, x) for y in range(0, 113, 8) for x in range(0, 49, 8)]
    places = [(..., slice(y, y + 16), slice(x, x + 16)) for y, x in corners]
    tiles = model.denoise(np.stack([noisy[place] for place in places]), sigma)
    total, count = np.zeros((2, *noisy.shape))
    for place, tile in zip(places, tiles, strict=True):
        total[place] += tile
        count[place] += 1
    return total / count


sigma = 0.3
noise = np.random.default_rng(0).standard_normal(right.shape)
noisy = (right + sigma * noise).astype(np.float32)
# The blur gets the width that serves it best, which takes the clean image to know.
blurs = [gaussian_filter(noisy, (0, width, width)) for width in np.arange(0.5, 2, 0.1)]
pspc = PSPCDenoiser(patch_size=5).fit(crops)
smoother = PSPCDenoiser(patch_size=5, bandwidth=0.3, smoothing="global").fit(crops)
answers = {
    "noisy": noisy,
    "best blur": min(blurs, key=lambda image: np.square(image - right).mean()),
    "PSPC": denoised(pspc, noisy, sigma),
    "PSPC, h = 0.3": denoised(smoother, noisy, sigma),
}

fig, axes = plt.subplots(1, 6, figsize=(9, 3.6), layout="constrained")
for ax, image in zip(axes, [left / 127.5 - 1, right, *answers.values()], strict=True):
    ax.imshow(np.clip((image.transpose(1, 2, 0) + 1) / 2, 0, 1))
    ax.set(xticks=[], yticks=[])
axes[0].set(title="training", xlabel="left half")
axes[1].set(title="clean", xlabel="right half")
for ax, (name, image) in zip(axes[2:], answers.items(), strict=True):
    ratio = 10 * np.log10(4 / np.square(image - right).mean())
    ax.set(title=name, xlabel=f"{ratio:.1f} dB")
plt.show()

# %%
# What it means
# -------------
# A blur takes away noise and edges alike. PSPC knows from the left half what edges look like, and
# keeps them sharp. By itself it can only repeat what it has seen; where the right half shows what
# the left does not, as these leaves, it errs, in all about as much as the blur. A ``bandwidth`` h
# blurs the training crops a little along their own covariance: the answer may then be what has
# nearly been seen. That is better than both, at the price of some traces of the noise in the sky.
