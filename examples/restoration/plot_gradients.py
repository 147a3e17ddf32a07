"""
Fill in missing pixels by gradients
===================================

``denoise`` of a torch tensor that requires a gradient is differentiable, for
every denoiser of the library. The gradient of a distance to measured pixels
leads a sampler to images that agree with the measurement.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch

from skpspc import PSPCDenoiser, edm_sigmas
from skpspc.datasets import load_digits_images
from skpspc.inspection import psnr, show_images

X = torch.from_numpy(load_digits_images().images / 127.5 - 1)
clean, X_train = X[:8], X[8:]
rng = torch.Generator().manual_seed(0)
noise = torch.randn(clean.shape, generator=rng, dtype=torch.float64)

# %%
# Diffusion posterior sampling
# ----------------------------
# Diffusion posterior sampling (Chung et al. 2023) corrects the denoised image
# at every step of a sampler by the gradient of the distance to the measured
# pixels. Half of the pixels are measured here. The factor of the gradient is
# the one of a normal distribution of clean pixels with variance 0.3.

mask = torch.rand(clean.shape, generator=rng) < 0.5
measured = torch.where(mask, clean, 0.0)
model = PSPCDenoiser(patch_size=5, bandwidth=0.3).fit(X_train)
sigmas = [*edm_sigmas(30, 0.01, 10.0), 0.0]
z = sigmas[0] * noise
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
