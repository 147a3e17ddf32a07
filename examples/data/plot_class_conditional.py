"""
Sample images of a class, with guidance
=======================================

The first figure shows samples of six classes, here photographs: one class per
column. The second figure shows samples from equal noise with rising
``guidance``, from no class to more weight on the class.
"""

# %%
# Samples of a class
# ------------------
# Pass the labels to ``fit`` and a class for each sample as ``y``. One fit
# serves all classes.

# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt
import numpy as np

from skpspc import PSPCDenoiser
from skpspc.datasets import load_photo_patches
from skpspc.inspection import nearest_training_images

photos = load_photo_patches(size=24, n_images=600)
model = PSPCDenoiser(patch_size=lambda sigma: 24 if sigma > 6 else 9)
model.fit(photos.images, photos.target)
wanted = np.tile(np.arange(6), 4)
samples = model.sample(y=wanted, n_steps=12, random_state=0)


def show(ax, images):
    """Draw images in rows of six, with the classes below."""
    gap = ((0, 0), (0, 0), (1, 1), (1, 1))
    framed = np.pad(images / 2 + 0.5, gap, constant_values=np.nan)
    rows = framed.reshape(-1, 6, 3, 26, 26).transpose(0, 3, 1, 4, 2)
    rows = rows.reshape(-1, 6 * 26, 3).clip(0, 1)
    opaque = np.isfinite(rows[..., :1])
    ax.imshow(np.concatenate([np.nan_to_num(rows), opaque], axis=2))
    ax.set_xticks(26 * np.arange(6) + 12.5, photos.classes)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
show(ax, samples)
ax.set(yticks=[], title="Four samples of each class")
plt.show()

# %%
# Guidance
# --------
# Guidance is the weight of the class against all training images. At 0 the
# class has no effect, at 1 only images of the class count, and above 1 the
# sampler moves further away from images of other classes.
guidances = [0, 0.5, 1, 2]
guided = {
    guidance: model.sample(
        y=wanted[:6], guidance=guidance, n_steps=12, random_state=0
    )
    for guidance in guidances
}
fig, ax = plt.subplots(figsize=(5.5, 4), layout="constrained")
show(ax, np.concatenate(list(guided.values())))
ax.set_yticks(26 * np.arange(4) + 12.5, guidances)
ax.set(ylabel="guidance", title="Equal noise, rising guidance")
plt.show()

# %%
# How often does a sample show its class?
# ---------------------------------------
# The class of a sample is read from its nearest training image.
for guidance, images in guided.items():
    _, nearest = nearest_training_images(images, photos.images)
    right = photos.target[nearest[:, 0]] == wanted[:6]
    print(f"guidance {guidance}: {right.sum()} of 6 samples show their class")

# %%
# The images of a class are a training set of their own, so samples of a class
# consist of patches of that photograph. Networks trained with labels are
# guided in the same way and often need a guidance above 1. Here 1 is enough.
