"""
Denoise without choosing a patch size
=====================================

``AutoDenoiser`` blends the Gaussian denoiser and PSPC of a few patch sizes,
with or without blurred training images. Held-out training images choose
sizes, bandwidths and weights. The first figure shows its error beside the
errors of three single denoisers, the second one denoised digits, and the
third one the weights at each noise level.
"""

# %%
# Errors on held-out digits
# -------------------------
# No denoiser has a parameter to choose here. ``PSPCDenoiser()`` has the patch
# sizes of the paper, scaled to the image, and ``PSPCDenoiser("calibrated")``
# chooses a single size for each noise level. The test digits have no part in
# any choice.

# sphinx_gallery_thumbnail_number = 3
# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from skpspc import AutoDenoiser, GaussianDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images
from skpspc.inspection import ErrorCurveDisplay, error_curve

X, held_out = train_test_split(
    load_digits_images().images, train_size=1000, random_state=0
)
auto = AutoDenoiser().fit(X)
denoisers = {
    "Auto": auto,
    "Gaussian": GaussianDenoiser().fit(X),
    "PSPC": PSPCDenoiser().fit(X),
    "PSPC,\ncalibrated": PSPCDenoiser("calibrated").fit(X),
}
sigmas = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]
table = error_curve(denoisers, held_out, sigmas, against="clean", n=200)
fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
ErrorCurveDisplay.from_predictions(table, ax=ax)
ax.set_title("From the clean image, 200 held-out digits", fontsize="medium")
plt.show()

# %%
# The errors of the single denoisers, divided by the error of
# ``AutoDenoiser``:
ratios = table.errors / table.errors[:, :1]
for sigma, (_, *ratio) in zip(sigmas, ratios, strict=True):
    print(f"sigma {sigma}: Gaussian {ratio[0]:.2f}, ", end="")
    print(f"PSPC {ratio[1]:.2f}, calibrated {ratio[2]:.2f}")

# %%
# Denoised digits
# ---------------
sigma = 0.4
clean = held_out[:6].astype(np.float32) / 127.5 - 1
noise = np.random.default_rng(0).standard_normal(clean.shape, np.float32)
rows = {"clean": clean, "noisy": clean + sigma * noise}
for name in ("Gaussian", "PSPC", "Auto"):
    rows[name] = denoisers[name].denoise(rows["noisy"], sigma)
fig, axes = plt.subplots(5, 6, figsize=(5.5, 4.6), layout="constrained")
for row, (name, images) in zip(axes, rows.items(), strict=True):
    for ax, image in zip(row, images, strict=True):
        ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %%
# The choice at each noise level
# ------------------------------
# ``sigmas_``, ``patch_sizes_``, ``bandwidths_`` and ``weights_`` describe the
# blend. ``n_sizes=2``, the default, limits it to two sizes at each of the nine
# noise levels. A member with a bandwidth of 0.5 compares blurred training
# images.
sizes = auto.patch_sizes_
names = [
    f"{size} x {size}" + (", blurred" if bandwidth else "")
    for size, bandwidth in zip(sizes, auto.bandwidths_, strict=True)
]
labels = ["Gaussian", *names]
colors = ["0.6", *plt.get_cmap("viridis_r")(np.linspace(0, 1, len(names)))]
fig, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
ax.stackplot(auto.sigmas_, auto.weights_.T, labels=labels, colors=colors)
ax.set(xscale="log", xlabel=r"noise level $\sigma$", ylabel="weight")
ax.set(xlim=auto.sigmas_[[0, -1]], ylim=(0, 1))
fig.legend(loc="outside right center", frameon=False, reverse=True)
plt.show()

# %%
for sigma, weights in zip(auto.sigmas_, auto.weights_, strict=True):
    parts = [f"{weights[k]:.2f} {labels[k]}" for k in np.flatnonzero(weights)]
    print(f"sigma {sigma:.2f}: {', '.join(parts)}")
print(f"mirror images: {'used' if auto.flip_ else 'not used'}")

# %%
# The errors of the Gaussian denoiser and of ``PSPCDenoiser()`` are larger than
# the error of ``AutoDenoiser`` at all six noise levels: 1.5 and 1.7 times as
# large at sigma = 0.4. PSPC with calibrated sizes errs 8 to 15 % more up to
# sigma = 0.8, and equally above. The blend uses mostly single pixels at little
# noise, and patches of 6 x 6 to 8 x 8 pixels, nearly whole digits, at much
# noise. A blend is slower than a single denoiser: each patch size with weight
# costs a call of PSPC.
