"""
Choose a bandwidth between PSPC and the Gaussian denoiser
=========================================================

The first figure shows noisy digits, denoised with three values of
``bandwidth``: 0 is PSPC, 1 is a linear filter. The second figure shows the
error on held-out digits for eight values and four noise levels.
"""

# %%
# Three bandwidths
# ----------------
# A bandwidth h replaces the training images by Gaussians around them. Their
# covariance is h squared times that of the training set. The training images
# are drawn towards their mean, so that mean and covariance of the whole set
# stay equal. The training set is small, 500 digits.

# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from skpspc import PSPCDenoiser
from skpspc.datasets import load_digits_images

X, held_out = train_test_split(
    load_digits_images().images, train_size=500, test_size=100, random_state=0
)
clean = held_out / 127.5 - 1
noise = np.random.default_rng(0).standard_normal(clean.shape)
bandwidths = [0, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1]
sigmas = [0.2, 0.4, 0.8, 1.6]

answers = {}
for h in bandwidths:
    model = PSPCDenoiser(patch_size=5, bandwidth=h).fit(X)
    for sigma in sigmas:
        answers[sigma, h] = model.denoise(clean + sigma * noise, sigma)

sigma = 0.4
rows = {
    "clean": clean,
    "noisy": clean + sigma * noise,
    "h = 0": answers[sigma, 0],
    "h = 0.35": answers[sigma, 0.35],
    "h = 1": answers[sigma, 1],
}
fig, axes = plt.subplots(5, 6, figsize=(5.5, 4.6), layout="constrained")
for row, (name, images) in zip(axes, rows.items(), strict=True):
    for ax, image in zip(row, images, strict=False):
        ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %%
# The bandwidth of least error
# ----------------------------
# A circle marks the minimum of each curve.
fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
errors = {}
for sigma, marker in zip(sigmas, "osD^", strict=True):
    error = np.array(
        [np.square(answers[sigma, h] - clean).mean() for h in bandwidths]
    )
    errors[sigma] = error
    best = error.argmin()
    (line,) = ax.semilogy(
        bandwidths, error, marker=marker, label=rf"$\sigma$ = {sigma:g}"
    )
    ring = {"markersize": 14, "fillstyle": "none", "color": line.get_color()}
    ax.plot(bandwidths[best], error[best], "o", **ring)
ax.set(xlabel="bandwidth h", ylabel="mean squared error, held-out digits")
fig.legend(loc="outside upper center", ncols=2, frameon=False, reverse=True)
plt.show()

# %%
# Gain over PSPC, at the bandwidth of least error:
for sigma, error in errors.items():
    h, gain = bandwidths[error.argmin()], 1 - error.min() / error[0]
    print(f"sigma {sigma:g}: bandwidth {h:g}, error {gain:2.0%} lower")

# %%
# Calibrate the bandwidth
# -----------------------
# ``bandwidth="calibrated"`` chooses a bandwidth for each noise level. ``fit``
# holds out some training images for that.
model = PSPCDenoiser(patch_size=5, bandwidth="calibrated").fit(X)
schedule = model.bandwidth_schedule_
for sigma, h in zip(schedule.sigmas, schedule.bandwidths, strict=True):
    print(f"sigma {sigma:6.3f}: bandwidth {h:.2f}")

# %%
# PSPC (h = 0) repeats training patches: the answer is sharp, and sometimes
# wrong. The linear filter (h = 1) leaves some of the noise and blurs the
# strokes. A bandwidth in between helps most at low noise levels. At high noise
# levels every patch is a mean of many training images already, and the
# bandwidth gains little. The calibrated schedule finds this from the training
# images alone.
