"""
Measure what changes without one training image
===============================================

The first figure shows noisy training digits and the answers of two denoisers,
with the digit in the training set and without it. The second figure shows the
change of the answer at each noise level.
"""

# %%
# Leave one image out
# -------------------
# ``leave_out`` needs no second fit. Without one image, the weights of all
# other images grow by one factor in every window, which has a closed form.

# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images
from skpspc.inspection import leave_out

X = load_digits_images().images
models = {
    "optimal": EmpiricalDenoiser().fit(X),
    "PSPC": PSPCDenoiser(patch_size=4).fit(X),
}
chosen = np.arange(30, 40)
clean = X[chosen] / 127.5 - 1
noise = np.random.default_rng(0).standard_normal(clean.shape)


def answers(model, sigma):
    """Answers with all images, and without the digit itself."""
    result = leave_out(model, clean + sigma * noise, sigma, chosen)
    diagonal = np.arange(len(chosen))
    return result.answer, result.without[diagonal, diagonal]


sigma = 0.6
rows = {"clean": clean, "noisy": clean + sigma * noise}
for name, model in models.items():
    rows[name], rows[f"{name},\nwithout it"] = answers(model, sigma)
fig, axes = plt.subplots(6, 6, figsize=(5.5, 4.8), layout="constrained")
for row, (name, images) in zip(axes, rows.items(), strict=True):
    for ax, image in zip(row, images, strict=False):
        ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %%
# The change at each noise level
# ------------------------------
fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
sigmas = np.geomspace(0.1, 10, 13)
for (name, model), style in zip(
    models.items(), ["C1s--", "C0o-"], strict=True
):
    pairs = [answers(model, sigma) for sigma in sigmas]
    change = [np.sqrt(np.square(a - b).mean()) for a, b in pairs]
    ax.semilogx(sigmas, change, style, label=name)
    print(f"{name}: change {change[0]:.2f} at sigma 0.1, ", end="")
    print(f"largest {max(change):.2f}, {change[-1]:.4f} at sigma 10")
ax.set(xlabel=r"noise level $\sigma$")
ax.set_ylabel("change of a pixel, root mean square")
ax.legend(frameon=False)
plt.show()

# %%
# Check against a second fit
# --------------------------
without = np.delete(X, chosen[0], axis=0)
noisy = clean[:1] + 0.6 * noise[:1]
again = PSPCDenoiser(patch_size=4).fit(without).denoise(noisy, 0.6)
closed_form = rows["PSPC,\nwithout it"][:1]
print(f"largest difference: {np.abs(again - closed_form).max():.1e}")

# %%
# Without the digit, the optimal denoiser returns another digit or a mixture:
# it depends on single images. PSPC returns nearly an unchanged digit, because
# most patches have similar patches in other images. At the lowest noise level
# PSPC misses the digit too, but less. At the highest noise level no single
# image matters to either. Such changes show which training images an answer
# depends on, and whether the deletion of an image has an effect.
