"""
Soften patches, and add mirrored and moved images
=================================================

The first figure shows how a patch counts at its pixels without and with
``response_taper``. The second figure shows the error on held-out images with
four parameters of ``PSPCDenoiser``: ``response_taper``, ``query_taper``,
``flip`` and ``max_shift``.
"""

# %%
# Soft responses
# --------------
# The answer at a pixel is a mean over all patches that contain the pixel.
# Without a taper they count equally, and a block ends where a patch ends. With
# ``response_taper`` a patch counts less towards its edges (white 1, black 0).

# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import ParameterGrid

from skpspc import PSPCDenoiser
from skpspc.datasets import load_photo_patches

size, pixel = 9, np.arange(9)
fig, axes = plt.subplots(1, 3, figsize=(5.5, 2.1), layout="constrained")
for ax, taper in zip(axes, [0, 0.5, 1], strict=True):
    rise = 1 + int(taper * (size - 1) / 2 + 0.5)  # pixels from edge to 1
    side = np.minimum(1, np.minimum(pixel + 1, size - pixel) / rise)
    ax.imshow(np.outer(side, side), cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"response_taper={taper}", fontsize="medium")
    ax.set(xticks=[], yticks=[])
plt.show()

# %%
# The error with each taper against the patch size, on 24 held-out images:
X = load_photo_patches(size=24, n_images=300).images
held_out = load_photo_patches(size=24, n_images=96, random_state=1).images
held_out = held_out.astype(np.float32) / 127.5 - 1
noise = np.random.default_rng(0).standard_normal(held_out.shape, np.float32)
chosen, others = np.split(np.arange(96), [24])


def error(rows, sigma, **parameters):
    """Return the mean squared error of PSPC on rows of the held-out images."""
    model = PSPCDenoiser(**parameters).fit(X)
    clean = held_out[rows]
    denoised = model.denoise(clean + sigma * noise[rows], sigma)
    return np.square(denoised - clean).mean()


sizes = [2, 3, 5, 8, 12]
for size in sizes:
    print(f"patches of {size:2d} x {size:2d}: ", end="")
    values = [
        error(chosen, 0.3, patch_size=size, response_taper=taper)
        for taper in (0, 0.5, 1)
    ]
    print(*(f"{value:.4f}" for value in values))

# %%
# Which parameter lowers the error?
# ---------------------------------
# Each setting has its own patch size and taper. They are chosen on 24 held-out
# images, and the errors are the errors of 72 others.
settings = {
    "response_taper": {"response_taper": [0.5, 1]},
    "query_taper": {"query_taper": [0.5, 1]},
    "flip": {"flip": [True]},
    "max_shift": {"max_shift": [1]},
    "flip and\nmax_shift": {"flip": [True], "max_shift": [1]},
}


def best(sigma, grid):
    """Return the chosen parameters, and their error on other images."""
    tried = ParameterGrid({"patch_size": sizes, **grid})
    least = min(tried, key=lambda values: error(chosen, sigma, **values))
    return least, error(others, sigma, **least)


sigmas = [0.1, 0.3, 1.0]
changes = {name: [] for name in settings}
for sigma in sigmas:
    least, plain = best(sigma, {})
    print(f"sigma {sigma}: error {plain:.4f}, {least}")
    for name, grid in settings.items():
        least, value = best(sigma, grid)
        changes[name].append(100 * (value / plain - 1))
        print(f"  {changes[name][-1]:+5.1f} %: {least}")

# %%
fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
places = np.arange(len(settings))[::-1]
for k, sigma in enumerate(sigmas):
    widths = [change[k] for change in changes.values()]
    label = rf"$\sigma$ = {sigma}"
    ax.barh(places + 0.27 * (1 - k), widths, height=0.25, label=label)
ax.axvline(0, color="black", lw=1)
ax.set_yticks(places, settings)
ax.set_xlabel("change of the error on held-out images, per cent")
ax.legend(frameon=False)
plt.show()

# %%
# Mirrored and moved images lower the error at all three noise levels, most at
# the lowest, and together they lower it more than either alone: by 36 % at
# sigma = 0.1 and by 15 % at the others. Mirror images double the work, and
# images moved by one pixel multiply it by up to nine.
#
# Soft responses lower the errors of patches of 8 x 8 and 12 x 12 pixels in the
# table, and raise the errors of smaller ones. At the chosen sizes they change
# the error by -1 to 2 %. Patches of 2 x 2 pixels have no taper. Soft queries
# raise the error from sigma = 0.3 on: a tapered patch compares less.
