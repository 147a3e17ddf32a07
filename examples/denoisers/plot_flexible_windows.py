"""
Windows that the data choose
============================

The picture shows, for three pixels of the digits and for rising noise, which other pixels
matter to them, as the training images alone tell, and the window that PSPC-Flex then looks through.
"""

# %%
# Heat maps of the Wiener filter
# ------------------------------
# The best linear denoiser has a matrix for every noise level. The row of a pixel says how much each
# input pixel moves it: a heat map. The window of the pixel holds the largest entries that together
# make a fraction of the whole, the threshold. (Colours are the root of the heat, so that small
# values show.)

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from skpspc import FlexibleWindows, GaussianDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images

X, held_out = train_test_split(load_digits_images().images, test_size=150, random_state=0)
gaussian = GaussianDenoiser().fit(X)
sigmas = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
thresholds = [0.6, 0.6, 0.7, 0.7, 0.8, 0.8]
windows = FlexibleWindows("data", thresholds, sigmas)
flexible = PSPCDenoiser(windows=windows).fit(X)

pixels = [(1, 3), (4, 2), (6, 5)]
edges = np.linspace(-0.475, 7.475, 160)  # twenty points a pixel: outlines run along the pixels
fig, axes = plt.subplots(len(pixels), len(sigmas), figsize=(8, 4.4), layout="constrained")
for row, (y, x) in zip(axes, pixels, strict=True):
    for level, (ax, sigma) in enumerate(zip(row, sigmas, strict=True)):
        heat = np.abs(gaussian.wiener(sigma, [8 * y + x])).reshape(8, 8)
        inside = flexible.windows_.at(level)[8 * y + x].numpy()
        ax.imshow(np.sqrt(heat), cmap="magma", vmin=0)
        outline = np.kron(inside, np.ones((20, 20)))
        ax.contour(edges, edges, outline, [0.5], colors="#56b4e9", linewidths=1.8)
        ax.plot(x, y, "k+", markersize=7)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"pixel ({y}, {x})")
for ax, sigma in zip(axes[0], sigmas, strict=True):
    ax.set_title(rf"$\sigma$ = {sigma:g}")
plt.show()

# %%
# Does it denoise better?
# -----------------------
# The error on held-out digits, beside that of square windows of every size: what a window of so
# many pixels achieves, if they are the ones that matter.
clean = np.float32(held_out / 127.5 - 1)  # in float32 the compiled code answers
noise = np.random.default_rng(0).standard_normal(clean.shape, dtype=np.float32)


def error(model, sigma):
    """Mean squared error on held-out digits."""
    return np.square(model.denoise(clean + sigma * noise, sigma) - clean).mean()


fig, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for ax, sigma in zip(axes, [0.2, 0.8, 2.0], strict=True):
    sizes = range(1, 9)
    squares = [error(PSPCDenoiser(size).fit(X), sigma) for size in sizes]
    ax.plot([size**2 for size in sizes], squares, "s--", color="C1", label="squares")
    areas, errors = [], []
    for threshold in [0.3, 0.45, 0.6, 0.75, 0.9, 1.0]:
        model = PSPCDenoiser(windows=FlexibleWindows("data", threshold, [sigma])).fit(X)
        areas.append(model.windows_.at(0).float().sum((1, 2)).mean())
        errors.append(error(model, sigma))
    ax.plot(areas, errors, "o-", color="C0", label="from the data")
    ax.set(title=rf"$\sigma$ = {sigma:g}", xlabel="pixels in a window", xscale="log")
axes[0].set(ylabel="mean squared error, held-out digits")
axes[0].legend(frameon=False)
plt.show()

# %%
# What it means
# -------------
# With little noise a pixel is told best by itself, and windows are small; with more noise they grow
# along the strokes that digits are made of, and take in pixels far away that the same strokes go
# through, which no square could have without all that lies between. Where windows are small anyway,
# their shape matters little: at the smallest noise level here squares do as well. With more noise
# windows from the data need fewer pixels for the same error, and at the middle one they reach a
# smaller error than any square. Nothing was trained to find them.
