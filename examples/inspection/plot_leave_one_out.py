"""
What if this image had not been in the training set?
====================================================

The picture shows noisy training digits, and what two denoisers make of them: with the digit
in the training set, and without it. The curves below show how much the answer changes, at every
noise level.
"""

# %%
# Leave one out, in closed form
# -----------------------------
# The weights of the other training images grow by one factor in every window, so the answer without
# some image is known without fitting again.

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images
from skpspc.inspection import leave_out

X = load_digits_images().images
models = {"optimal": EmpiricalDenoiser().fit(X), "PSPC": PSPCDenoiser(patch_size=4).fit(X)}
chosen = np.arange(30, 40)
clean = X[chosen] / 127.5 - 1
noise = np.random.default_rng(0).standard_normal(clean.shape)


def answers(model, sigma):
    """With all images, and each without its own; (n, 1, 8, 8) both."""
    found = leave_out(model, clean + sigma * noise, sigma, chosen)
    return found.answer, found.without[np.arange(len(chosen)), np.arange(len(chosen))]


sigma = 0.6
rows = {"clean": clean, "noisy": clean + sigma * noise}
for name, model in models.items():
    rows[name], rows[f"{name},\nwithout it"] = answers(model, sigma)
fig, axes = plt.subplots(len(rows), len(chosen), figsize=(8, 5.2), layout="constrained")
for row, (name, images) in zip(axes, rows.items(), strict=True):
    for ax, image in zip(row, images, strict=True):
        ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %%
# At every noise level
# --------------------
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
sigmas = np.geomspace(0.1, 10, 13)
for (name, model), style in zip(models.items(), ["C1s--", "C0o-"], strict=True):
    pairs = [answers(model, sigma) for sigma in sigmas]
    change = [np.sqrt(np.square(a - b).mean()) for a, b in pairs]
    ax.semilogx(sigmas, change, style, label=name)
ax.set(xlabel=r"noise level $\sigma$", ylabel="change of a pixel, root mean square")
ax.legend(frameon=False)
plt.show()

# %%
# It is exact: fitting again without the image gives the same.
without = np.delete(X, chosen[0], axis=0)
again = PSPCDenoiser(patch_size=4).fit(without).denoise(clean[:1] + sigma * noise[:1], sigma)
closed_form = rows["PSPC,\nwithout it"][:1]
print(f"largest difference: {np.abs(again - closed_form).max():.1e}")

# %%
# What it means
# -------------
# Without the digit the optimal denoiser hands out another one, or a mixture of others, wherever the
# noise leaves it a choice: it depends on every single image. PSPC answers with nearly the same
# digit, as most patches have other training images to go by. Where there is hardly any noise it
# misses the image too, about half as much; where there is much, no single image counts for either.
# Such changes tell which training images an answer owes something to, and whether one that has to
# be deleted would be missed.
