"""
How many neighbours are enough?
===============================

The picture shows what it costs to answer from the k nearest training images instead of from
all: the true error, and the bound on it that is known without ever looking at the others.
"""

# %%
# Truth and bound
# ---------------
# The weight of the images left out is at most their number times that of the k-th neighbour:
# ``posterior(Z, sigma).error_bound`` is made of that. It needs no exact answer; here one is made to
# see how cautious it is.

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser
from skpspc.datasets import load_photo_patches

X = load_photo_patches(size=16, n_images=2000).images
clean = load_photo_patches(size=16, n_images=20, random_state=1).images / 127.5 - 1
noise = np.random.default_rng(0).standard_normal(clean.shape)
exact = EmpiricalDenoiser().fit(X)

ks = np.unique(np.geomspace(1, len(X), 16).astype(int))
sigmas = [0.5, 1.0, 2.0, 4.0]
error, bound = np.empty((2, len(sigmas), len(ks)))
for i, sigma in enumerate(sigmas):
    noisy = clean + sigma * noise
    truth = exact.denoise(noisy, sigma)
    for j, k in enumerate(ks):
        found = EmpiricalDenoiser(n_neighbors=int(k)).fit(X).posterior(noisy, sigma)
        error[i, j] = np.abs(found.mean - truth).max(axis=(1, 2, 3)).mean()
        bound[i, j] = found.error_bound.mean()

fig, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
for i, colour in enumerate(plt.cm.viridis(np.linspace(0, 0.85, len(sigmas)))):
    ax.loglog(ks, bound[i], "--", color=colour)
    ax.loglog(ks, error[i], "o-", markersize=4, color=colour, label=rf"$\sigma$ = {sigmas[i]:g}")
ax.plot([], [], "o-", markersize=4, color="0.3", label="true error")
ax.plot([], [], "--", color="0.3", label="bound")
ax.set(
    xlabel=f"neighbours k, of {len(X):,} training images",
    ylabel="largest error of a pixel (pixels: -1 to 1)",
    ylim=(1e-7, 4),
)
ax.legend(frameon=False, loc="lower left")
plt.show()

# %%
# As many as it takes
# -------------------
# ``tol=`` turns it round: say how large the error may be, and each noisy image gets as many
# neighbours as that takes.
for sigma in sigmas:
    found = EmpiricalDenoiser(tol=1e-3).fit(X).posterior(clean + sigma * noise, sigma)
    print(f"sigma {sigma:g}: largest bound {found.error_bound.max():.1e}, ", end="")
    print(f"effective sample size {found.effective_sample_size.mean():.1f}")

# %%
# What it means
# -------------
# The bound is never below the error, and it falls with it: a safe guide, if a cautious one. How
# many neighbours are enough is a matter of the noise level. With little noise a hundred of these
# two thousand images carry the posterior; with much noise it takes half of them, and leaving images
# out no longer pays. This is why ``tol`` is the better question: it finds k for every noisy image.
