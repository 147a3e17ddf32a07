"""
Choose the shape of windows from the training images
====================================================

The first figure shows, for three pixels and rising noise, which input pixels
matter to them, and the window that PSPC-Flex derives from it. The second
figure compares these windows with squares by their error on held-out digits.
"""

# %%
# Heat maps of the best linear denoiser
# -------------------------------------
# The best linear denoiser, the Wiener filter, is a matrix for each noise
# level. The row of a pixel is a heat map: how much each input pixel changes
# it. The window of the pixel contains the largest entries that add up to a
# fraction of all entries, the threshold. Colours show the root of the heat; a
# cross marks the pixel.

# sphinx_gallery_thumbnail_axes = [2, 3, 7, 8]

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from skpspc import FlexibleWindows, GaussianDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images

X, held_out = train_test_split(
    load_digits_images().images, test_size=150, random_state=0
)
gaussian = GaussianDenoiser().fit(X)
sigmas = [0.1, 0.2, 0.4, 0.8, 1.6]
thresholds = [0.6, 0.6, 0.7, 0.7, 0.8]
windows = FlexibleWindows("data", thresholds, sigmas)
flexible = PSPCDenoiser(windows=windows).fit(X)

pixels = [(1, 3), (4, 2), (6, 5)]
edges = np.linspace(-0.475, 7.475, 160)  # 20 points per pixel
fig, axes = plt.subplots(3, 5, figsize=(5.5, 3.7), layout="constrained")
for row, (y, x) in zip(axes, pixels, strict=True):
    for level, (ax, sigma) in enumerate(zip(row, sigmas, strict=True)):
        heat = np.abs(gaussian.wiener(sigma, [8 * y + x])).reshape(8, 8)
        inside = flexible.windows_.at(level)[8 * y + x].numpy()
        ax.imshow(np.sqrt(heat), cmap="magma", vmin=0)
        outline = np.kron(inside, np.ones((20, 20)))
        ax.contour(edges, edges, outline, [0.5], colors="#56b4e9")
        ax.plot(x, y, "+", color="#56b4e9", markersize=8)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"pixel ({y}, {x})")
for ax, sigma in zip(axes[0], sigmas, strict=True):
    ax.set_title(rf"$\sigma$ = {sigma:g}", fontsize="medium")
plt.show()

# %%
# Compare windows with squares
# ----------------------------
# Both kinds of windows contain between 1 and 64 pixels.
clean = np.float32(held_out / 127.5 - 1)  # compiled code needs float32
rng = np.random.default_rng(0)
noise = rng.standard_normal(clean.shape, dtype=np.float32)


def error(model, sigma):
    """Mean squared error on held-out digits."""
    answer = model.denoise(clean + sigma * noise, sigma)
    return np.square(answer - clean).mean()


fig, axes = plt.subplots(
    3, 1, figsize=(5.5, 7), sharex=True, layout="constrained"
)
for ax, sigma in zip(axes, [0.2, 0.8, 2.0], strict=True):
    sizes = range(1, 9)
    squares = [error(PSPCDenoiser(size).fit(X), sigma) for size in sizes]
    areas, errors = [], []
    for threshold in [0.3, 0.45, 0.6, 0.75, 0.9, 1.0]:
        windows = FlexibleWindows("data", threshold, [sigma])
        model = PSPCDenoiser(windows=windows).fit(X)
        areas.append(model.windows_.at(0).float().sum((1, 2)).mean())
        errors.append(error(model, sigma))
    ax.semilogx([size**2 for size in sizes], squares, "C1s--", label="squares")
    ax.plot(areas, errors, "C0o-", label="from the data")
    ax.set_title(rf"$\sigma$ = {sigma:g}", fontsize="medium")
    best = min(errors), min(squares)
    print(f"sigma {sigma:g}: least error {best[0]:.4f}, squares {best[1]:.4f}")
axes[1].set_ylabel("mean squared error, held-out digits")
axes[0].legend(frameon=False)
axes[-1].set_xlabel("pixels in a window")
plt.show()

# %%
# Windows are small at low noise levels, where a pixel is its own best
# predictor. They grow along the strokes of digits and include far-away pixels
# of these strokes. A square would have to contain all pixels between. At the
# lowest noise level the shape makes little difference. At the middle one the
# windows from the data reach a smaller error than any square.
