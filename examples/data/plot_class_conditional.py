"""
Ask for a digit
===============

The first picture shows samples of each class, one class a column. The second shows what
``guidance`` does to one and the same noise: from none, where all training images count whatever the
class, to much, where what tells the class from the others is overstated.
"""

# %%
# Samples of a class
# ------------------
# With labels at fit, ``y=`` asks for a class. Its images are found where they lie; one fit serves
# all classes.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from skpspc import PSPCDenoiser
from skpspc.datasets import load_digits_images

digits = load_digits_images()
model = PSPCDenoiser(patch_size=5).fit(digits.images, digits.target)
classes = np.arange(10)
wanted = np.tile(classes, 5)
samples = {1: model.sample(y=wanted, random_state=0)}


def show(ax, images, n_rows):
    """Images in rows of ten, with the classes below."""
    framed = np.pad(images[:, 0], ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    rows = np.hstack(np.hstack(framed.reshape(n_rows, 10, 10, 10)))
    ax.imshow(rows, cmap="gray", vmin=-1, vmax=1)
    ax.set(xticks=10 * classes + 4.5, xticklabels=classes, xlabel="class", yticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


fig, ax = plt.subplots(figsize=(8, 4.6), layout="constrained")
show(ax, samples[1], 5)
ax.set_title("Samples of PSPC, one class a column")
plt.show()

# %%
# Guidance
# --------
# Every column starts from the same noise in all rows. Guidance 0 counts all training images alike,
# 1 those of the class alone.
for guidance in (0, 0.5, 3):
    samples[guidance] = model.sample(y=wanted, guidance=guidance, random_state=0)
weights = [0, 0.5, 1, 3]
fig, ax = plt.subplots(figsize=(8, 3.9), layout="constrained")
show(ax, np.concatenate([samples[guidance][10:20] for guidance in weights]), len(weights))
ax.set(yticks=10 * np.arange(4) + 4.5, yticklabels=weights, ylabel="guidance")
ax.set_title("The same noise, more and more of the class")
plt.show()

# %%
# How often does a classifier that was fitted to the training digits read the class asked for, and
# how much do samples of a class differ?
reader = KNeighborsClassifier(3).fit(digits.images.reshape(-1, 64) / 127.5 - 1, digits.target)
for guidance in weights:
    read = reader.predict(samples[guidance].reshape(-1, 64))
    variety = samples[guidance].reshape(-1, 10, 64).std(axis=0).mean()
    print(
        f"guidance {guidance}: {(read == wanted).mean():.0%} read as asked, variety {variety:.3f}"
    )

# %%
# What it means
# -------------
# The images of a class are a training set of their own, with patches of their own. Guidance is the
# weight of the class against all images: at 0 it is not heard, at 1 samples are those of the class
# alone, and beyond 1 they move away from what other classes have in common with it, and differ less
# from one another. Networks that were trained with classes are guided in just this way; they often
# need a weight above 1, here 1 is enough.
