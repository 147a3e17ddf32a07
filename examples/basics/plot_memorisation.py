"""
Memorise or generalise?
=======================

The picture shows samples of the optimal denoiser of the training set, and under them samples of
PSPC from the same noise. Below each sample is the training image nearest to it, and its distance;
copies of training images are framed. All samples of the optimal denoiser are.
"""

# %%
# Same data, same noise, same sampler
# -----------------------------------
# The optimal denoiser compares whole images, PSPC every patch of 4 x 4 pixels.

import matplotlib.pyplot as plt

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images
from skpspc.inspection import SampleGridDisplay, memorised_fraction, nearest_training_distance

X = load_digits_images().images
models = {"Optimal": EmpiricalDenoiser().fit(X), "PSPC": PSPCDenoiser(patch_size=4).fit(X)}
samples = {name: model.sample(n=80, random_state=0) for name, model in models.items()}

fig, axes = plt.subplots(2, 1, figsize=(9, 4.8), layout="constrained")
for ax, (name, images) in zip(axes, samples.items(), strict=True):
    SampleGridDisplay.from_predictions(images[:10], X, ax=ax, n_columns=10)
    ax.set_title(f"{name}: {ax.get_title()}")
plt.show()

# %%
# Of more samples than are shown, the memorised fraction, by the usual rule: a copy is an image
# three times nearer to one training image than to any other.
for name, images in samples.items():
    copied, distance = memorised_fraction(images, X), nearest_training_distance(images, X)
    print(f"{name}: {copied:.0%} of {copied.n} copied, mean distance {distance:.3f}")

# %%
# What it means
# -------------
# Started from the same noise, the optimal denoiser ends at a training image every time: samples
# that one has already are worth nothing. PSPC's look like digits too, and a pixel is about a third
# of a unit, of two from black to white, off the nearest training image. Both do nothing but average
# training images. The difference is that each patch of PSPC has an average of its own: patches that
# come from different images are put together where they agree, and make a new one.
