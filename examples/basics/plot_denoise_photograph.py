"""
Denoise one half of a photograph with the other half
====================================================

PSPC learns from the left half of a photograph and denoises the right half. The
figure compares it with a Gaussian blur of the best width. Numbers are peak
signal-to-noise ratios (PSNR) in decibels; higher is better.
"""

# %%
# Training crops from the left half
# ---------------------------------
# PSPC compares a patch with the same position of every training image. All
# overlapping crops of the left half, 16 x 16 pixels each, contain every patch
# of the left half at every position.

# sphinx_gallery_thumbnail_axes = [0, 2]

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

from skpspc import PSPCDenoiser, denoise_tiled
from skpspc.datasets import load_photo_patches

photo = load_photo_patches(size=136, n_images=1, photos=["coffee"]).images[0]
left, clean = photo[..., :72], photo[..., 72:] / 127.5 - 1
window = np.lib.stride_tricks.sliding_window_view
crops = window(left, (3, 16, 16)).reshape(-1, 3, 16, 16)
print(f"{len(crops):,} training crops")

sigma = 0.4
noise = np.random.default_rng(0).standard_normal(clean.shape)
noisy = (clean + sigma * noise).astype(np.float32)


def psnr(image):
    """Peak signal-to-noise ratio in decibels; pixels have values -1 to 1."""
    return 10 * np.log10(2**2 / np.square(image - clean).mean())


# %%
# Denoise tile by tile
# --------------------
# The right half is larger than a crop. ``denoise_tiled`` denoises it in tiles
# of 16 x 16 pixels that overlap by half, and blends the tiles.
#
# The blur gets an advantage: its width is the best one for this image, found
# with the clean image. ``bandwidth`` blurs the training crops along their own
# covariance, so that PSPC also expects patches between the training patches.
widths = np.arange(0.5, 3, 0.1)
blurs = [gaussian_filter(noisy, (0, width, width)) for width in widths]
best = np.argmax([psnr(blur) for blur in blurs])
pspc = PSPCDenoiser(patch_size=5).fit(crops)
wider = PSPCDenoiser(patch_size=5, bandwidth=0.35, smoothing="global")
wider.fit(crops)
images = {
    "noisy": noisy,
    "blur": blurs[best],
    "PSPC": denoise_tiled(pspc, noisy[None], sigma)[0],
    "PSPC,\nbandwidth 0.35": denoise_tiled(wider, noisy[None], sigma)[0],
    "clean": clean,
}

fig, axes = plt.subplots(1, 5, figsize=(5.5, 3.1), layout="constrained")
for ax, (name, image) in zip(axes, images.items(), strict=True):
    ax.imshow(np.clip(image.transpose(1, 2, 0) / 2 + 0.5, 0, 1))
    ax.set(xticks=[], yticks=[])
    ax.set_title(name, fontsize="medium")
    if name != "clean":
        ax.set_xlabel(f"{psnr(image):.1f} dB")
plt.show()

# %%
# PSPC against the blur
# ---------------------
ratios = {name: psnr(image) for name, image in list(images.items())[:-1]}
for name, ratio in ratios.items():
    gain = ratio - ratios["blur"]
    print(f"{' '.join(name.split()):20} {ratio:.1f} dB, {gain:+.1f} dB")
print(f"width of the blur: {widths[best]:.1f} pixels (standard deviation)")

# %%
# The last number is the difference from the blur. The blur removes noise and
# edges alike. PSPC keeps the edge of the saucer sharp, because the left half
# contains such edges. It can only repeat patches of the left half, so the wood
# looks coarser than it is. The bandwidth allows for patches in between and
# gains more decibels; traces of the noise remain.
