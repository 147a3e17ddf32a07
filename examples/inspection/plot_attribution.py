"""
Which training images made this answer?
=======================================

The picture shows three noisy digits that were held out from training, what PSPC makes of them, and
which training images every pixel of the answer comes from: colours name the framed digits.
"""

# %%
# Attribution
# -----------
# Answers of these denoisers are means of training images, so what each pixel is made of is known
# exactly.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from skpspc import EmpiricalDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images
from skpspc.inspection import AttributionDisplay, attribute

X, held_out = train_test_split(load_digits_images().images, test_size=300, random_state=0)
sigma = 0.4
noise = np.random.default_rng(0).standard_normal(held_out.shape)
noisy = held_out / 127.5 - 1 + sigma * noise

model = PSPCDenoiser(patch_size=4).fit(X)
display = AttributionDisplay.from_estimator(model, noisy[:3], sigma, n_images=4)
plt.show()

# %%
# The same numbers without a picture, beside those of the optimal denoiser, over 100 digits.
for denoiser in (EmpiricalDenoiser().fit(X), model):
    found = attribute(denoiser, noisy[:100], sigma, top=1)
    shared, largest = found.effective_sample_size.mean(), found.image_share.max(axis=1).mean()
    print(f"{type(denoiser).__name__}: {shared:.1f} images share a pixel, ", end="")
    print(f"and the largest part of a whole answer is {largest:.0%}")

# %%
# What it means
# -------------
# Every answer is put together from several training digits, each where it fits: the first one has
# its lower right from one digit, and the bar at its top from others. A pixel is shared by a dozen
# images on average, by fewer where the noise leaves no doubt. The optimal denoiser has to find one
# digit that fits everywhere: nearly all of its answer comes from one or two. That is the difference
# between copying an image and making one.
