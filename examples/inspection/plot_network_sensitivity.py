"""
Where a network looks, and where PSPC looks
===========================================

The picture shows how much every input pixel moves one pixel of the answer: above for a small
convolutional network that is trained below, under it for PSPC, which is not trained at all. The
square holds 80 percent of each map.
"""

# %%
# A network
# ---------
# Four convolutions, on digits and noise levels between 0.05 and 5, for a few seconds. The network
# sees the noise level as a second channel.

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from skpspc import EmpiricalDenoiser, NetworkDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images
from skpspc.inspection import SensitivityDisplay, calibrate_patch_size, error_curve


class Network(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        sizes = [2, width, width, width, 1]
        layers = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z, sigma):
        """The clean image (the parametrization "x0")."""
        level = sigma.view(-1, 1, 1, 1)
        scaled = z / (1 + level**2).sqrt()
        return self.layers(torch.cat([scaled, level.log().expand_as(z)], dim=1))


torch.manual_seed(0)
X = load_digits_images().images
train, held_out = torch.from_numpy(X[:1500] / 127.5 - 1).float(), X[1500:]
network = Network()
optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
for _ in range(500):
    x = train[torch.randint(len(train), (64,))]
    sigma = torch.exp(torch.empty(64).uniform_(np.log(0.05), np.log(5)))
    z = x + sigma.view(-1, 1, 1, 1) * torch.randn_like(x)
    weight = 1 + 1 / sigma.view(-1, 1, 1, 1) ** 2  # so that small noise counts too
    loss = (weight * (network(z, sigma) - x) ** 2).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %%
# Heat maps
# ---------
# The patch size of PSPC is the one nearest to the network at each noise level. The Jacobian of the
# network is found by automatic differentiation, that of PSPC in closed form; both are averaged, in
# absolute value, over noisy digits that were held out.
sigmas = [0.1, 0.3, 1.0, 3.0]
trained = NetworkDenoiser(network).fit(X[:1500])
schedule, _ = calibrate_patch_size(PSPCDenoiser(), X[:1500], sigmas, against=trained)
print(schedule)
pspc = PSPCDenoiser(patch_size=schedule).fit(X[:1500])

fig, axes = plt.subplots(2, len(sigmas), figsize=(8, 4.5), layout="constrained")
for row, (name, model) in zip(axes, [("network", trained), ("PSPC", pspc)], strict=True):
    options = {"pixels": [(3, 4)], "n_images": 32, "fraction": 0.8, "colorbar": False}
    SensitivityDisplay.from_estimator(model, held_out, sigmas, ax=row, **options)
    row[0].set_ylabel(name)
for ax in axes[1]:
    ax.set_title("")
plt.show()

# %%
# Do they also give the same answers? The mean squared difference from the network, on held-out
# digits, beside that of the optimal denoiser of the training set:
others = {"PSPC": pspc, "optimal": EmpiricalDenoiser().fit(X[:1500])}
print(error_curve(others, held_out, sigmas, against=trained))

# %%
# What it means
# -------------
# Though its layers could see nearly the whole image, the network looks around the pixel, and the
# farther, the more noise there is. PSPC does the same, in smaller squares, with patches that grow
# with the noise level. Its answers are nearer to the network's than those of the optimal denoiser
# are, at each of these noise levels, and most of all where there is little noise. That is what one
# would see if the network, too, put together what it knows of small parts.
