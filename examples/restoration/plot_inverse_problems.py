"""
Inpaint, deblur and enlarge digits
==================================

A local score machine estimates images from measurements: digits with a hole,
blurred digits, and digits of a quarter of the pixels. Noise is added to every
measurement. Numbers are peak signal-to-noise ratios (PSNR) in decibels; higher
is better.
"""

# %%
# Three measurements
# ------------------
# ``operator`` is a function of image tensors, or a mask of observed pixels.
# The denoiser compares a window of the measurement with measurements of the
# training images, and averages the training images.

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.functional import avg_pool2d, conv2d, pad

from skpspc import LocalScoreDenoiser
from skpspc.datasets import load_digits_images

digits = load_digits_images().images
train, clean = digits[100:], digits[:8] / 127.5 - 1

observed = np.ones((8, 8), dtype=bool)
observed[2:5, 2:6] = False

taps = torch.tensor([0.25, 0.5, 0.25])
kernel = torch.outer(taps, taps)[None, None]


def blur(x):
    """Blur by 3 x 3 pixels; images are mirrored at their edges."""
    return conv2d(pad(x, (1, 1, 1, 1), mode="reflect"), kernel.to(x))


def halve(x):
    """Average blocks of 2 x 2 pixels."""
    return avg_pool2d(x, 2)


# %%
# Estimates from noisy measurements
# ---------------------------------
# The window of the halved digits is smaller, as their pixels are larger.
sigma = 0.1
rng = np.random.default_rng(0)


def estimate(operator, measured, patch_size):
    """Return a noisy measurement, and the digits estimated from it."""
    noisy = measured + sigma * rng.standard_normal(measured.shape)
    noisy = noisy.astype(np.float32)
    model = LocalScoreDenoiser(patch_size, operator=operator).fit(train)
    return noisy, model.denoise(noisy, sigma)


tensor = torch.from_numpy(clean)
holed, inpainted = estimate(observed, clean, 5)
blurred, sharp = estimate(blur, blur(tensor).numpy(), 5)
small, enlarged = estimate(halve, halve(tensor).numpy(), 3)

# %%
# Each measurement is drawn at the size of a digit: the hole is orange, and
# pixels of the halved digits are repeated. For the PSNR the hole is black,
# like the background.
blocks = small.repeat(2, axis=2).repeat(2, axis=3)
rows = {
    "hole": np.where(observed, holed, -1),
    "inpainted": inpainted,
    "blurred": blurred,
    "deblurred": sharp,
    "halved": blocks,
    "enlarged": enlarged,
    "clean": clean,
}


def psnr(image):
    """Peak signal-to-noise ratio in decibels; pixels have values -1 to 1."""
    return 10 * np.log10(2**2 / np.square(image - clean).mean())


def strip(images):
    """Return images side by side, with a column of NaN in between."""
    padded = np.pad(images[:, 0], ((0, 0), (0, 0), (0, 1)), mode="edge")
    padded[:, :, -1] = np.nan
    return np.concatenate(list(padded), axis=1)[:, :-1]


fig, axes = plt.subplots(7, 1, figsize=(5.5, 5.6), layout="constrained")
gray = plt.get_cmap("gray").with_extremes(bad="none")
for ax, (name, images) in zip(axes, rows.items(), strict=True):
    ax.imshow(strip(images), cmap=gray, vmin=-1, vmax=1)
    if name == "hole":
        hole = np.where(observed, np.nan, 1) * np.ones_like(images)
        ax.imshow(strip(hole), cmap="autumn", vmin=0, vmax=2)
    ax.set(xticks=[], yticks=[])
    ax.set_frame_on(False)
    label = name if name == "clean" else f"{name}\n{psnr(images):.1f} dB"
    ax.set_ylabel(label, rotation=0, ha="right", va="center")
plt.show()

# %%
# Gains over the measurements
# ---------------------------
for before, after in [
    ("hole", "inpainted"),
    ("blurred", "deblurred"),
    ("halved", "enlarged"),
]:
    gain = psnr(rows[after]) - psnr(rows[before])
    print(f"{after:10} {psnr(rows[after]):.1f} dB, {gain:+.1f} dB")

# %%
# The last number is the difference from the measurement, drawn as above. The
# hole is filled with strokes that continue the strokes around it. The halved
# digits keep too few pixels: the 1, second from the left, becomes another
# digit.
