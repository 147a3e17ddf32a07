"""
Denoise and sample one-dimensional signals
==========================================

The first figure shows a noisy signal that is not in the training set, and the
answers of two denoisers. The optimal denoiser of the training set mixes whole
training signals; PSPC combines pieces of them. The second figure shows
samples.
"""

# %%
# Denoise pulses
# --------------
# Signals are the rows of an array, and ``image_shape=(1, 1, 96)`` declares
# them as images of one row. Each signal has four pulses of random position,
# width and height. There are 400 training signals, too few for all
# combinations.

# sphinx_gallery_thumbnail_axes = [1]

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser, PSPCDenoiser

rng = np.random.default_rng(0)
length = 96


def pulses(n):
    """Signals (n, length) with four pulses each."""
    centre = np.array([12, 36, 60, 84]) + rng.uniform(-7, 7, (n, 4))
    width, height = rng.uniform(1.5, 4, (n, 4)), rng.uniform(0.5, 2, (n, 4))
    offset = np.arange(length)[:, None] - centre[:, None]  # (n, length, 4)
    bumps = np.exp(-((offset / width[:, None]) ** 2) / 2)
    return (height[:, None] * bumps).sum(2) - 1


X, clean = pulses(400), pulses(100)
sigma = 0.3
noisy = clean + sigma * rng.standard_normal(clean.shape)
shape = (1, 1, length)
models = {
    "Optimal denoiser": EmpiricalDenoiser(image_shape=shape).fit(X),
    "PSPC": PSPCDenoiser(patch_size=16, image_shape=shape).fit(X),
}
answers = {name: model.denoise(noisy, sigma) for name, model in models.items()}

fig, axes = plt.subplots(
    2, 1, figsize=(5.5, 5), sharex=True, sharey=True, layout="constrained"
)
for ax, (name, answer), colour in zip(
    axes, answers.items(), ["C1", "C0"], strict=True
):
    ax.plot(noisy[0], ".", color="0.6", markersize=4, label="noisy")
    ax.plot(answer[0], color=colour, linewidth=2.5, label="denoised")
    ax.plot(clean[0], "--", color="black", linewidth=1, label="clean")
    ax.set_title(name, fontsize="medium")
    ax.set_ylabel("value")
axes[0].legend(frameon=False, ncols=3, loc="upper right")
axes[-1].set(xlabel="time (samples)", ylim=(-2, 2))
plt.show()

# %%
# The mean squared error over 100 signals:
error = {
    name: np.square(answer - clean).mean() for name, answer in answers.items()
}
for name, value in error.items():
    print(f"{name}: {value:.4f}")
print(f"ratio: {error['Optimal denoiser'] / error['PSPC']:.1f}")

# %%
# Sample signals
# --------------
# Both denoisers start from equal noise. The thick gray line is the training
# signal nearest to the sample.
fig, axes = plt.subplots(
    3, 2, figsize=(5.5, 5), sharex=True, sharey=True, layout="constrained"
)
for column, (name, model), colour in zip(
    axes.T, models.items(), ["C1", "C0"], strict=True
):
    samples = model.sample(n=3, random_state=0)
    distances = []
    for ax, sample in zip(column, samples, strict=True):
        squares = np.square(X - sample).mean(1)
        distances.append(np.sqrt(squares.min()))
        ax.plot(X[squares.argmin()], color="0.7", linewidth=4)
        ax.plot(sample, color=colour)
    column[0].set_title(name, fontsize="medium")
    column[-1].set_xlabel("time (samples)")
    print(f"{name}: distance {np.mean(distances):.2f} from the training set")
for ax in axes[:, 0]:
    ax.set_ylabel("value")
plt.show()

# %%
# The optimal denoiser needs one training signal with all four pulses right,
# and 400 signals contain none: pulses are shifted or too high. Its samples are
# training signals. A window of 16 values contains one pulse or two, and 400
# signals are plenty for that. The samples of PSPC therefore combine pulses as
# no training signal does. Windows ignore how far-away pulses depend on each
# other; signals with long memory need larger windows.
