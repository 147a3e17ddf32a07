"""
Bound the error of using few training images
============================================

The figure shows the error of a denoiser that uses the k nearest training
images instead of all, and a bound on the error. The bound needs no exact
answer.
"""

# %%
# Error and bound
# ---------------
# No omitted image has more weight than the k-th neighbour. The ``error_bound``
# of ``posterior(Z, sigma)`` follows from that. The exact answer is computed
# here only for comparison.

# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt
import numpy as np

from skpspc import EmpiricalDenoiser
from skpspc.datasets import load_photo_patches

X = load_photo_patches(size=16, n_images=2000).images
held_out = load_photo_patches(size=16, n_images=20, random_state=1).images
clean = held_out / 127.5 - 1
noise = np.random.default_rng(0).standard_normal(clean.shape)
exact = EmpiricalDenoiser().fit(X)

ks = np.unique(np.geomspace(1, len(X), 12).astype(int))
sigmas = [0.5, 1.0, 2.0, 4.0]
error, bound = np.empty((2, len(sigmas), len(ks)))
for i, sigma in enumerate(sigmas):
    noisy = clean + sigma * noise
    truth = exact.denoise(noisy, sigma)
    for j, k in enumerate(ks):
        model = EmpiricalDenoiser(n_neighbors=int(k)).fit(X)
        posterior = model.posterior(noisy, sigma)
        difference = np.abs(posterior.mean - truth)
        error[i, j] = difference.max(axis=(1, 2, 3)).mean()
        bound[i, j] = posterior.error_bound.mean()
above = (error > bound + 1e-6).sum()
print(f"errors above their bound: {above} of {error.size}")

fig, ax = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
for i, sigma in enumerate(sigmas):
    label = rf"$\sigma$ = {sigma:g}"
    ax.loglog(ks, bound[i], "--", color=f"C{i}")
    ax.loglog(ks, error[i], "o-", markersize=4, color=f"C{i}", label=label)
ax.plot([], [], "o-", markersize=4, color="0.4", label="error")
ax.plot([], [], "--", color="0.4", label="bound")
ax.set(
    xlabel=f"neighbours k, of {len(X):,} training images",
    ylabel="largest error of a pixel (pixels: -1 to 1)",
    ylim=(1e-7, 4),
)
ax.legend(frameon=False, loc="lower left")
plt.show()

# %%
# Set the largest error
# ---------------------
# With ``tol`` each noisy image gets as many neighbours as a bound of ``tol``
# on every pixel needs. The effective sample size is the number of training
# images that share the weight.
model = EmpiricalDenoiser(tol=1e-3).fit(X)
for sigma in sigmas:
    posterior = model.posterior(clean + sigma * noise, sigma)
    size = posterior.effective_sample_size.mean()
    largest = posterior.error_bound.max()
    print(f"sigma {sigma:g}: largest bound {largest:.1e}, ", end="")
    print(f"effective sample size {size:.1f}")

# %%
# The bound is never below the error and decreases with it. How many neighbours
# are enough depends on the noise level. At low noise levels few of the 2,000
# images carry the weight. At high noise levels it takes many, and leaving
# images out saves nothing. ``tol`` finds k for every noisy image.
