"""
Estimate errors without clean images
====================================

The divergence of a denoiser gives an estimate of its mean squared error that
needs the noisy images alone. The estimate chooses a patch size here.
"""

# %%
# Stein's unbiased risk estimate
# ------------------------------
# The estimate of the mean squared error of a denoised image D(z), with z of d
# values at noise level :math:`\sigma`, is
#
# .. math::
#
#     \frac{1}{d} |D(z) - z|^2 - \sigma^2
#     + \frac{2 \sigma^2}{d} \operatorname{tr} \frac{\partial D}{\partial z}
#
# ``divergence`` returns the trace.

import matplotlib.pyplot as plt
import numpy as np

from skpspc import PSPCDenoiser
from skpspc.datasets import load_digits_images

X = (load_digits_images().images / 127.5 - 1).astype("float32")
clean, X_train = X[:200], X[200:]
sigma = 0.6
noise = np.random.default_rng(0).standard_normal(clean.shape)
noisy = clean + sigma * noise.astype("float32")

sizes, estimates, errors = range(1, 9), [], []
for size in sizes:
    model = PSPCDenoiser(patch_size=size).fit(X_train)
    denoised = model.denoise(noisy, sigma)
    trace = model.divergence(noisy, sigma).value
    change = ((denoised - noisy) ** 2).mean(axis=(1, 2, 3))
    estimate = change - sigma**2 + 2 * sigma**2 * trace / clean[0].size
    estimates.append(estimate.mean())
    errors.append(((denoised - clean) ** 2).mean())

fig, ax = plt.subplots(figsize=(4.7, 3.5), layout="constrained")
ax.plot(sizes, errors, "o-", label="from the clean images")
ax.plot(sizes, estimates, "s--", label="from the noisy images")
ax.set(xlabel="patch size", ylabel="mean squared error")
ax.set_title(rf"200 held-out digits, $\sigma$ = {sigma}")
ax.legend()
plt.show()

print(f"least error: patch size {sizes[np.argmin(errors)]}")
print(f"least estimate: patch size {sizes[np.argmin(estimates)]}")
difference = np.subtract(estimates, errors)
print(f"differences: {difference.min():.4f} to {difference.max():.4f}")

# %%
# Both curves are lowest at the same patch size, which the noisy images alone
# have found.
