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
from skpspc.inspection import nearest_training_images, show_images

photos = load_photo_patches(size=24, n_images=600)
model = PSPCDenoiser(patch_size=lambda sigma: 24 if sigma > 6 else 9)
model.fit(photos.images, photos.target)
wanted = np.tile(np.arange(6), 4)
samples = model.sample(y=wanted, n_steps=12, random_state=0)

names = [photos.classes[label] for label in wanted]
fig, ax = plt.subplots(figsize=(4.7, 4.2), layout="constrained")
show_images(samples, titles=names, n_columns=6, ax=ax)
plt.show()

# %%
# Guidance
# --------
# Guidance is the weight of the class against all training images. At 0 the
# class has no effect, at 1 only images of the class count, and above 1 the
# sampler moves further away from images of other classes. All rows start from
# equal noise.
guidances = [0, 0.5, 1, 2]
guided = {
    guidance: model.sample(
        y=wanted[:6], guidance=guidance, n_steps=12, random_state=0
    )
    for guidance in guidances
}
shown = np.concatenate(list(guided.values()))
labels = [f"{guidance:g}" for guidance in guidances for _ in range(6)]
fig, ax = plt.subplots(figsize=(4.7, 4.2), layout="constrained")
show_images(shown, titles=labels, n_columns=6, ax=ax)
ax.set_title("Guidance 0, 0.5, 1 and 2; classes as above", fontsize="medium")
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
