"""
Draw variations of a single photograph
======================================

One photograph contains thousands of patches, and ``SingleImageDenoiser`` takes
them for a training set. The figure shows a photograph, and wider images that
are drawn from its patches, coarse to fine.
"""

# %%
# From coarse to fine
# -------------------
# A patch of 7 x 7 pixels covers half of the photograph at an eighth of its
# size. Samples at this scale therefore have its layout. They are then doubled
# in size, noise removes what doubling has made up, and the sampler replaces it
# by patches of the next scale. ``scales`` reduces the photograph, and
# ``image_shape`` sets the size of the samples: they are wider than the
# photograph.

import matplotlib.pyplot as plt
import numpy as np

from skpspc import SingleImageDenoiser
from skpspc.datasets import load_photo_patches

photo = load_photo_patches(size=128, n_images=1, photos="flower").images[0]
rng = np.random.default_rng(0)


def draw(scale, **options):
    model = SingleImageDenoiser(patch_size=7, stride=3, scales=[scale])
    return model.fit(photo[None]).sample(**options)


samples = draw(8, n=3, image_shape=(3, 16, 26), random_state=0)
steps = {8: samples}
for scale, sigma in [(4, 0.5), (2, 0.3)]:
    doubled = samples.repeat(2, axis=2).repeat(2, axis=3)
    noisy = doubled + sigma * rng.standard_normal(doubled.shape)
    options = {"sigma_max": sigma, "sampler": "euler", "n_steps": 6}
    samples = steps[scale] = draw(scale, initial=noisy, **options)

# %%
# The photograph is on the left, the samples are beside it.
widths = [1, 1.6, 1.6, 1.6]
fig, axes = plt.subplots(
    3, 4, figsize=(5.5, 3.1), width_ratios=widths, layout="constrained"
)
for row, (scale, images) in zip(axes, steps.items(), strict=True):
    side = 128 // scale
    small = photo.reshape(3, side, scale, side, scale).mean((2, 4))
    for ax, image in zip(row, [small / 127.5 - 1, *images], strict=True):
        ax.imshow(np.clip(image.transpose(1, 2, 0) / 2 + 0.5, 0, 1))
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"1/{scale} size")
for ax, title in zip(axes[0], ["photo", "1", "2", "3"], strict=True):
    ax.set_title(title, fontsize="medium")
plt.show()

# %%
# Every patch of 7 x 7 pixels looks like a patch of the photograph at its
# scale. Outlines of the flowers are new: a patch covers half of the photograph
# at an eighth of its size, and no patch covers a whole sample.
