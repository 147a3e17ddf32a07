"""Three small networks for 32 x 32 colour images: a UNet, a transformer and an MLP-mixer.

Two more are UNets for 64 x 64 images, which take each block of 2 x 2 pixels as one position.

Each is the F of Karras et al., Eq. 7: it takes ``z / sqrt(sigma^2 + sigma_data^2)`` of shape
(n, C, H, W) and ``log(sigma) / 4`` of shape (n,), which is what
``NetworkDenoiser(network, "edm")`` gives it. `train_networks.py` trains them and writes the
weights that `load` reads.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from skpspc import NetworkDenoiser

WEIGHTS = Path(__file__).parent / "weights"


class LevelEmbedding(nn.Module):
    """Map noise levels, (n,), to vectors, (n, width): random Fourier features and two layers."""

    def __init__(self, width):
        super().__init__()
        # In half precision, as the file of weights keeps them.
        self.register_buffer("frequencies", (4 * torch.randn(width // 2)).half().float())
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, c):
        phase = 2 * math.pi * c[:, None] * self.frequencies
        return self.layers(torch.cat([phase.cos(), phase.sin()], 1))


def zero(layer):
    """Return the layer with zero parameters."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions beside a skip, scaled and shifted by the noise level."""

    def __init__(self, n_in, n_out, n_level):
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(8, n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1)
        )
        self.norm = nn.GroupNorm(8, n_out)
        self.level = nn.Linear(n_level, 2 * n_out)
        self.second = nn.Sequential(nn.SiLU(), zero(nn.Conv2d(n_out, n_out, 3, padding=1)))
        self.skip = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x, level):
        scale, shift = self.level(level)[:, :, None, None].chunk(2, 1)
        return self.skip(x) + self.second(self.norm(self.first(x)) * (1 + scale) + shift)


class UNet(nn.Module):
    """Three scales, each joined to its mirror image by a skip."""

    def __init__(self, n_channels=3, widths=(24, 48, 96), n_level=96):
        super().__init__()
        self.level = LevelEmbedding(n_level)
        self.stem = nn.Conv2d(n_channels, widths[0], 3, padding=1)
        ins = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(
            ConvBlock(i, o, n_level) for i, o in zip(ins, widths, strict=True)
        )
        self.middle = ConvBlock(widths[-1], widths[-1], n_level)
        self.up = nn.ModuleList(
            ConvBlock(2 * o, i, n_level) for i, o in zip(ins, widths, strict=True)
        )
        self.head = nn.Sequential(
            nn.GroupNorm(8, widths[0]),
            nn.SiLU(),
            zero(nn.Conv2d(widths[0], n_channels, 3, padding=1)),
        )

    def forward(self, x, c):
        level = self.level(c)
        x = self.stem(x)
        skips = []
        for depth, block in enumerate(self.down):
            x = block(nn.functional.avg_pool2d(x, 2) if depth else x, level)
            skips.append(x)
        x = self.middle(x, level)
        for depth in reversed(range(len(self.up))):
            x = self.up[depth](torch.cat([x, skips[depth]], 1), level)
            x = nn.functional.interpolate(x, scale_factor=2) if depth else x
        return self.head(x)


class FoldedUNet(nn.Module):
    """A UNet on blocks of 2 x 2 pixels, whose values become channels."""

    def __init__(self, n_channels):
        super().__init__()
        self.unet = UNet(4 * n_channels)

    def forward(self, x, c):
        return nn.functional.pixel_shuffle(self.unet(nn.functional.pixel_unshuffle(x, 2), c), 2)


class Attention(nn.Module):
    """Mixing over tokens by attention, which distance dampens: the blocks of the transformer.

    The damping is learnt for every head and displacement. A logit starts from its slope times the
    distance in tokens, with slopes from 2 to 0 (as in ALiBi, Press et al., 2022). Tokens fill a
    square.
    """

    def __init__(self, width, n_tokens, n_heads=4):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = zero(nn.Linear(width, width))
        side = math.isqrt(n_tokens)
        row, column = torch.arange(n_tokens) // side, torch.arange(n_tokens) % side
        down, across = (at[:, None] - at + side - 1 for at in (row, column))
        self.register_buffer("between", (2 * side - 1) * down + across, persistent=False)
        away = torch.arange(1 - side, side)
        distance = torch.hypot(away[:, None].float(), away.float()).flatten()
        slopes = torch.linspace(2, 0, n_heads)
        self.bias = nn.Parameter(-slopes[:, None] * distance)

    def forward(self, x):
        heads = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(
            *heads, attn_mask=self.bias[:, self.between]
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class TokenMLP(nn.Module):
    """Mixing over tokens by two layers, shared by all channels: the blocks of the mixer."""

    def __init__(self, width, n_tokens, n_hidden=128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_tokens, n_hidden), nn.GELU(), zero(nn.Linear(n_hidden, n_tokens))
        )

    def forward(self, x):
        return self.layers(x.mT).mT


class Block(nn.Module):
    """Mixing over tokens, then two layers over channels, both steered by the noise level."""

    def __init__(self, mixing, width, n_tokens):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in "12")
        self.level = zero(nn.Linear(width, 4 * width))
        self.tokens = mixing(width, n_tokens)
        self.channels = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), zero(nn.Linear(3 * width, width))
        )

    def forward(self, x, level):
        scale, shift, scale2, shift2 = self.level(level)[:, None].chunk(4, -1)
        x = x + self.tokens(self.norms[0](x) * (1 + scale) + shift)
        return x + self.channels(self.norms[1](x) * (1 + scale2) + shift2)


class TokenNetwork(nn.Module):
    """Square patches as tokens, blocks of one kind of mixing, and back to patches."""

    def __init__(self, mixing, n_channels=3, side=32, patch=4, width=128, depth=6):
        super().__init__()
        n_tokens = (side // patch) ** 2
        self.level = LevelEmbedding(width)
        self.stem = nn.Conv2d(n_channels, width, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn(n_tokens, width))
        self.blocks = nn.ModuleList(Block(mixing, width, n_tokens) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = zero(nn.ConvTranspose2d(width, n_channels, patch, stride=patch))

    def forward(self, x, c):
        level = self.level(c)
        grid = self.stem(x)
        x = grid.flatten(2).mT + self.places
        for block in self.blocks:
            x = block(x, level)
        return self.head(self.norm(x).mT.unflatten(2, grid.shape[2:]))


ARCHITECTURES = {
    "unet": UNet,
    "transformer": lambda: TokenNetwork(Attention),
    "mixer": lambda: TokenNetwork(TokenMLP, depth=8),
}
# For gray images of faces, and for Tiny ImageNet.
LARGE = {"faces": lambda: FoldedUNet(1), "tiny-imagenet": lambda: FoldedUNet(3)}


def load(name, folder=WEIGHTS):
    """Return a trained network by its name, and the record of its training."""
    network = {**ARCHITECTURES, **LARGE}[name]()
    with safe_open(Path(folder) / f"{name}.safetensors", "pt") as file:
        trained = json.loads(file.metadata()["training"])
    weights = load_file(Path(folder) / f"{name}.safetensors")
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    return network.eval().requires_grad_(False), trained


def denoisers(names=tuple(ARCHITECTURES), images=None, folder=WEIGHTS, device="cpu"):
    """Return a fitted `NetworkDenoiser` of each network, by name.

    ``images`` have the shape of the training images; None: 3 x 32 x 32.
    """
    named = {}
    for name in names:
        module, trained = load(name, folder)
        network = NetworkDenoiser(
            module.to(device), "edm", sigma_data=trained["sigma_data"], batch_size=64
        )
        named[name] = network.fit(np.zeros((1, 3, 32, 32), np.uint8) if images is None else images)
    return named
