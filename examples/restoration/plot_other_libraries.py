"""
Draw and complete digits with other libraries
=============================================

The first figure shows digits that three libraries draw from the same noise:
skpspc, azula and diffusers. The second shows held-out digits, their upper
halves, and completions by RePaint of diffusers. ``skpspc.adapters`` wraps the
denoiser for both libraries.
"""

# %%
# Samplers of three libraries
# ---------------------------
# The denoiser is fitted to digits, without training. Above noise level 1 its
# patch is the whole digit, below 5 x 5 pixels.

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import torch
from azula.sample import HeunSampler
from diffusers import DPMSolverMultistepScheduler, RePaintScheduler
from sklearn.model_selection import train_test_split

from skpspc import PSPCDenoiser
from skpspc.adapters import as_azula, as_diffusers_unet
from skpspc.datasets import load_digits_images

X, held_out = train_test_split(
    load_digits_images().images, test_size=100, random_state=0
)
model = PSPCDenoiser(patch_size=lambda sigma: 8 if sigma > 1 else 5).fit(X)
noise = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


# %%
# diffusers leaves the loop over the steps to its pipelines, or to you. Its
# noisy images have variance 1, so the noise is not scaled.
def draw(scheduler, z, n_steps):
    """Draw images with a scheduler of diffusers."""
    unet = as_diffusers_unet(model, scheduler)
    scheduler.set_timesteps(n_steps)
    for step in scheduler.timesteps:
        z = scheduler.step(unet(z, step).sample, step, z).prev_sample
    return z


solver = DPMSolverMultistepScheduler(timestep_spacing="trailing")
samples = {
    "skpspc\nHeun": torch.as_tensor(
        model.sample(initial=80 * noise, sampler="heun", n_steps=40)
    ),
    "azula\nHeun": HeunSampler(as_azula(model), steps=60, silent=True)(
        80 * noise
    ),
    "diffusers\nDPM-Solver++": draw(solver, noise, 100),
}


def show(axes, pictures):
    """Show images in a row or column of axes."""
    for ax, image in zip(axes, pictures, strict=True):
        ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        ax.set(xticks=[], yticks=[])


fig, axes = plt.subplots(3, 8, figsize=(7.5, 2.5), layout="constrained")
for row, (title, images) in zip(axes, samples.items(), strict=True):
    show(row, images)
    row[0].set_ylabel(title, rotation=0, ha="right", va="center")
plt.show()

# %%
# All three solve one differential equation, so almost all digits agree. Where
# two digits are equally close to the noisy image, the steps decide. These are
# the root mean square differences from the first row, for pixels from -1 to 1.
first, *others = samples.values()
for library, images in zip(["azula", "diffusers"], others, strict=True):
    differences = (images - first).square().mean((1, 2, 3)).sqrt()
    print(library, *(f"{difference:.2f}" for difference in differences))

# %%
# Complete the missing half of a digit
# ------------------------------------
# RePaint replaces the known pixels at every step, and goes back to larger
# noise several times (Lugmayr et al., "RePaint: Inpainting using Denoising
# Diffusion Probabilistic Models", CVPR 2022).


def repaint(image, known, seed):
    """Complete images where ``known`` is 0."""
    rng = torch.Generator().manual_seed(seed)
    scheduler = RePaintScheduler(eta=1.0)
    unet = as_diffusers_unet(model, scheduler)
    scheduler.set_timesteps(40, jump_length=4, jump_n_sample=3)
    z = torch.randn(image.shape, generator=rng)
    last = scheduler.timesteps[0] + 1
    for step in scheduler.timesteps:
        if step < last:
            eps = unet(z, step).sample
            z = scheduler.step(eps, step, z, image, known, rng).prev_sample
        else:
            z = scheduler.undo_step(z, last, rng)
        last = step
    return z


images = torch.from_numpy(held_out[:6] / 127.5 - 1).float()
known = (torch.arange(8)[:, None] < 4).float().expand(6, 1, 8, 8)
given = torch.where(known > 0, images, torch.nan)
completed = [repaint(images, known, seed) for seed in range(4)]

fig, axes = plt.subplots(6, 6, figsize=(5.5, 5.8), layout="constrained")
titles = ["held out", "given", *["completed"] * 4]
for column, title, pictures in zip(
    axes.T, titles, [images, given, *completed], strict=True
):
    show(column, pictures)
    column[0].set_title(title, fontsize="medium")
plt.show()

# %%
# The completions continue the strokes of the upper half. They differ most
# where the upper half fits several digits. :doc:`/user_guide/interop` lists
# all libraries. A sampler of your own is a generator of a few lines
# (:doc:`/user_guide/sampling`).
