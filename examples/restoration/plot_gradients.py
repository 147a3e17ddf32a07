"""
Estimate errors and restore images by gradients
===============================================

``denoise`` of a torch tensor that requires a gradient is differentiable, for
every denoiser of the library. This example uses derivatives twice: to choose a
patch size without a clean image, and to fill in missing pixels.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch

from skpspc import PSPCDenoiser, edm_sigmas
from skpspc.datasets import load_digits_images
from skpspc.inspection import psnr, show_images

X = torch.from_numpy(load_digits_images().images / 127.5 - 1)
held_out, X_train = X[:100], X[100:]
rng = torch.Generator().manual_seed(0)
noise = torch.randn(held_out.shape, generator=rng, dtype=torch.float64)

# %%
# Choose a patch size for noisy images alone
# ------------------------------------------
# Stein's unbiased risk estimate of the mean squared error of a denoised image
# needs the noisy image and the divergence of the denoiser only:
#
# .. math::
#
#     \frac{1}{d} |D(z) - z|^2 - \sigma^2
#     + \frac{2 \sigma^2}{d} \operatorname{tr} \frac{\partial D}{\partial z}

sigma, sizes = 0.6, [1, 2, 3, 4, 5, 6, 7, 8]
noisy = held_out + sigma * noise
d = held_out[0].numel()
estimated, true = [], []
for size in sizes:
    model = PSPCDenoiser(patch_size=size).fit(X_train)
    denoised = model.denoise(noisy, sigma)
    trace = model.divergence(noisy, sigma).value
    change = (denoised - noisy).square().mean((1, 2, 3))
    estimate = change - sigma**2 + 2 * sigma**2 * trace / d
    estimated.append(float(estimate.mean()))
    true.append(float((denoised - held_out).square().mean()))

fig, ax = plt.subplots(figsize=(4.7, 3.5), layout="constrained")
ax.plot(sizes, true, "o-", label="with the clean images")
ax.plot(sizes, estimated, "s--", label="from the noisy images")
ax.set(xlabel="patch size", ylabel="mean squared error")
ax.set_title(rf"100 held-out digits, $\sigma$ = {sigma}")
ax.legend()
plt.show()

# %%
# The estimates are lower than the errors by nearly the same amount at every
# patch size, as all sizes share the noise of the images. The estimates order
# the sizes as the errors do, up to nearly equal errors.

# %%
# Fill in missing pixels
# ----------------------
# Diffusion posterior sampling (Chung et al. 2023) corrects the denoised image
# at every step of a sampler by the gradient of the distance to the measured
# pixels. Half of the pixels are measured here. The factor of the gradient is
# the one of a normal distribution of clean pixels with variance 0.3.

clean = held_out[:8]
mask = torch.rand(clean.shape, generator=rng) < 0.5
measured = torch.where(mask, clean, 0.0)
model = PSPCDenoiser(patch_size=5, bandwidth=0.3).fit(X_train)
sigmas = [*edm_sigmas(30, 0.01, 10.0), 0.0]
z = sigmas[0] * noise[:8]
for level, target in pairwise(sigmas):
    z = z.detach().requires_grad_()
    x0 = model.denoise(z, level)
    distance = torch.where(mask, x0 - measured, 0.0).square().sum() / 2
    (gradient,) = torch.autograd.grad(distance, z)
    x0 = x0.detach() - (1 + level**2 / 0.3) * gradient
    z = (x0 + target / level * (z - x0)).detach()

rows = {"measured": measured, "restored": z.clamp(-1, 1)}
show_images(torch.cat([clean, *rows.values()]).numpy(), n_columns=8)
plt.show()

# %%
# Rows: clean digits, the measured pixels with missing pixels in gray, and the
# restored digits. The peak signal-to-noise ratio grows:

for name, images in rows.items():
    print(f"{name}: {np.mean(psnr(clean.numpy(), images.numpy())):.1f} dB")
