"""
Compare where a network and PSPC look
=====================================

The figure shows how much each input pixel changes one pixel of the answer. The
upper row shows a small convolutional network, trained below, the lower row
PSPC, which needs no training. A square contains 80 % of each map.
"""

# %%
# Train a network
# ---------------
# The network has four convolutions and gets the noise level as a second
# channel. Training on digits at noise levels from 0.05 to 5 takes seconds.

# sphinx_gallery_thumbnail_axes = [2, 3, 6, 7]

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from skpspc import EmpiricalDenoiser, NetworkDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images
from skpspc.inspection import (
    SensitivityDisplay,
    calibrate_patch_size,
    error_curve,
)


class Network(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        sizes = [2, width, width, width, 1]
        layers = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z, sigma):
        """Predict the clean image (the parametrization "x0")."""
        level = sigma.view(-1, 1, 1, 1)
        scaled = z / (1 + level**2).sqrt()
        return self.layers(
            torch.cat([scaled, level.log().expand_as(z)], dim=1)
        )


torch.manual_seed(0)
X = load_digits_images().images
train, held_out = torch.from_numpy(X[:1500] / 127.5 - 1).float(), X[1500:]
network = Network()
optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
for _ in range(500):
    x = train[torch.randint(len(train), (64,))]
    sigma = torch.exp(torch.empty(64).uniform_(np.log(0.05), np.log(5)))
    z = x + sigma.view(-1, 1, 1, 1) * torch.randn_like(x)
    weight = 1 + 1 / sigma.view(-1, 1, 1, 1) ** 2  # low noise levels count too
    loss = (weight * (network(z, sigma) - x) ** 2).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %%
# Compare heat maps
# -----------------
# ``calibrate_patch_size`` chooses the patch size of PSPC with the least
# difference from the network at each noise level. Maps are Jacobians in
# absolute value, averaged over held-out noisy digits. Automatic
# differentiation gives the one of the network, a closed form the one of PSPC.
sigmas = [0.1, 0.3, 1.0, 3.0]
trained = NetworkDenoiser(network).fit(X[:1500])
schedule, _ = calibrate_patch_size(
    PSPCDenoiser(), X[:1500], sigmas, against=trained
)
print(schedule)
pspc = PSPCDenoiser(patch_size=schedule).fit(X[:1500])

fig, axes = plt.subplots(2, 4, figsize=(5.5, 3.6), layout="constrained")
for row, (name, model) in zip(
    axes, [("network", trained), ("PSPC", pspc)], strict=True
):
    SensitivityDisplay.from_estimator(
        model,
        held_out,
        sigmas,
        pixels=[(3, 4)],
        n_images=32,
        fraction=0.8,
        colorbar=False,
        ax=row,
    )
    row[0].set_ylabel(name)
for ax, sigma in zip(axes[0], sigmas, strict=True):
    ax.set_title(rf"$\sigma$ = {sigma:g}", fontsize="medium")
for ax in axes[1]:
    ax.set_title("")
plt.show()

# %%
# Compare answers
# ---------------
# Mean squared difference from the network on held-out digits, for PSPC and for
# the optimal denoiser of the training set:
others = {"PSPC": pspc, "optimal": EmpiricalDenoiser().fit(X[:1500])}
table = error_curve(others, held_out, sigmas, against=trained)
print(table)

# %%
# The network could use nearly the whole image, but it depends on pixels around
# the one it predicts, and on a larger surrounding under more noise. PSPC, too,
# depends on a surrounding that grows with the noise, a smaller one. At each of
# these noise levels PSPC differs less from the network than the optimal
# denoiser does. This is what one expects of a network that combines its
# knowledge of small patches.
