"""
One-dimensional signals
=======================

The picture shows a noisy signal that was not in the training set, and what two denoisers make of
it: the optimal one of the training set, which answers with whole training signals, and PSPC, which
puts it together from pieces of several.
"""

# %%
# Pulses
# ------
# A signal of 96 values is an image of shape (1, 1, 96); rows of a plain array do, with
# ``image_shape`` to say so. Each has four pulses, in quarters of their own, of random place, width
# and height: too many combinations for 400 training signals to hold them all.

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser, PSPCDenoiser

rng = np.random.default_rng(0)
length = 96


def pulses(n):
    centre = np.array([12, 36, 60, 84]) + rng.uniform(-7, 7, (n, 4))
    width, height = rng.uniform(1.5, 4, (n, 4)), rng.uniform(0.5, 2, (n, 4))
    place = (np.arange(length)[:, None] - centre[:, None]) / width[:, None]  # (n, length, 4)
    return (height[:, None] * np.exp(-(place**2) / 2)).sum(2) - 1


X, clean = pulses(400), pulses(100)
sigma = 0.3
noisy = clean + sigma * rng.standard_normal(clean.shape)
models = {
    "EmpiricalDenoiser": EmpiricalDenoiser(image_shape=(1, 1, length)),
    "PSPCDenoiser(patch_size=16)": PSPCDenoiser(16, image_shape=(1, 1, length)),
}
answers = {name: model.fit(X).denoise(noisy, sigma) for name, model in models.items()}

fig, axes = plt.subplots(2, 1, figsize=(8, 5), sharex=True, sharey=True, layout="constrained")
for ax, (name, answer), colour in zip(axes, answers.items(), ["C1", "C0"], strict=True):
    error = np.square(answer - clean).mean()
    ax.plot(noisy[0], ".", color="0.6", markersize=4, label="noisy")
    ax.plot(clean[0], "--", color="black", linewidth=1, label="clean")
    ax.plot(answer[0], color=colour, linewidth=2, label="denoised")
    ax.set(title=f"{name}: mean squared error {error:.4f} over 100 signals", ylabel="value")
axes[0].legend(frameon=False, ncols=3, loc="upper right")
axes[-1].set(xlabel="time", ylim=(-2, 2))
plt.show()

# %%
# Samples
# -------
# Drawn from noise, the same for both; in gray, behind each, the training signal nearest to it.
fig, axes = plt.subplots(2, 4, figsize=(10, 4), sharex=True, sharey=True, layout="constrained")
for row, (name, model), colour in zip(axes, models.items(), ["C1", "C0"], strict=True):
    for ax, sample in zip(row, model.sample(n=4, random_state=0), strict=True):
        nearest = X[np.square(X - sample).sum(1).argmin()]
        ax.plot(nearest, color="0.7", linewidth=4)
        ax.plot(sample, color=colour)
    row[0].set_title(f"Samples of {name}", loc="left")
    row[0].set_ylabel("value")
for ax in axes[-1]:
    ax.set_xlabel("time")
plt.show()

# %%
# What it means
# -------------
# The optimal denoiser looks for one training signal in which all four pulses are right, and among
# 400 there is none: pulses are moved, or too high. Its samples are training signals. A window of 16
# values sees one pulse or two; for these 400 signals are plenty. The error is a seventh, and the
# samples combine pulses as no training signal does. Nothing in the windows ties a pulse to those
# farther away: where that matters, in signals with a long memory, larger ones are better.
