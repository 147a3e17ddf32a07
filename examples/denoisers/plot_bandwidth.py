"""
Between PSPC and the Gaussian
=============================

The picture shows noisy digits, held out from training, denoised with one parameter, ``bandwidth``,
turned from 0 to 1: from PSPC, which copies patches, to linear filters, which blur. The curves below
show where in between the error is least.
"""

# %%
# From copying to blurring
# ------------------------
# With a bandwidth h, training images are blurred by h squared times their own covariance, and drawn
# towards their mean, so that mean and covariance of the whole stay as they are. The training set is
# small here, 500 digits: fewer images want more blur.

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

sigma, n = 0.4, 8
rows = {
    "clean": clean,
    "noisy": clean + sigma * noise,
    "h = 0: PSPC": answers[sigma, 0],
    "h = 0.35": answers[sigma, 0.35],
    "h = 1: Gaussian": answers[sigma, 1],
}
fig, axes = plt.subplots(len(rows), n, figsize=(7.5, 4.5), layout="constrained")
for row, (name, images) in zip(axes, rows.items(), strict=True):
    for ax, image in zip(row, images, strict=False):
        ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %%
# The bandwidth of least error
# ----------------------------
# Circles mark the least of each curve.
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
colours = plt.cm.viridis(np.linspace(0, 0.85, len(sigmas)))
for sigma, colour, marker in zip(sigmas, colours, "osD^", strict=True):
    error = np.array([np.square(answers[sigma, h] - clean).mean() for h in bandwidths])
    best = error.argmin()
    ax.semilogy(bandwidths, error, marker=marker, color=colour, label=f"{sigma:g}")
    ax.plot(bandwidths[best], error[best], "o", markersize=13, fillstyle="none", color=colour)
ax.set(xlabel="bandwidth h", ylabel="mean squared error, held-out digits")
fig.legend(title=r"noise level $\sigma$", frameon=False, loc="outside right center", reverse=True)
plt.show()

# %%
# ``bandwidth="calibrated"`` chooses it for every noise level, on training images held out.
schedule = PSPCDenoiser(patch_size=5, bandwidth="calibrated").fit(X).bandwidth_schedule_
for sigma, h in zip(schedule.sigmas, schedule.bandwidths, strict=True):
    print(f"sigma {sigma:6.3f}: bandwidth {h:.2f}")

# %%
# What it means
# -------------
# Without a bandwidth PSPC repeats patches that it has seen, sharp, and not always the right ones;
# at the other end linear filters leave some of the noise and blur the rest. With little noise and
# few training images, a bandwidth in between is much better than both: at a noise level of 0.2 the
# error is less than half that of PSPC. With much noise many training images count for every patch
# anyway, and there is nothing to gain. The calibrated schedule finds this out from the training
# images alone.
