"""
Compare the errors of denoisers over noise levels
=================================================

The first figure shows how far four denoisers are from the optimal denoiser of
the training set, on noisy training images. The second figure shows how far all
five are from the clean image, on held-out images.
"""

# %%
# Distance from the optimal denoiser
# ----------------------------------
# ``error_curve`` gives all denoisers the same noisy images and returns a
# table. ``ErrorCurveDisplay`` draws the table.

# sphinx_gallery_thumbnail_number = 2
# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from skpspc import (
    EmpiricalDenoiser,
    GaussianDenoiser,
    LocalScoreDenoiser,
    PSPCDenoiser,
)
from skpspc.datasets import load_digits_images
from skpspc.inspection import ErrorCurveDisplay, error_curve

X, held_out = train_test_split(
    load_digits_images().images, test_size=300, random_state=0
)
denoisers = {
    "Gaussian": GaussianDenoiser().fit(X),
    "local score, 5": LocalScoreDenoiser(patch_size=5).fit(X),
    "PSPC, 3": PSPCDenoiser(patch_size=3).fit(X),
    "PSPC, 5": PSPCDenoiser(patch_size=5).fit(X),
}
sigmas = np.geomspace(0.1, 20, 10)
fig, ax = plt.subplots(figsize=(4.7, 3.8), layout="constrained")
display = ErrorCurveDisplay.from_estimator(
    denoisers, X, sigmas, X_train=X, ax=ax
)
ax.set_title("From the optimal denoiser, training digits", fontsize="medium")
plt.show()

# %%
# Distance from the clean image
# -----------------------------
# The noise levels stop where no digit is recognisable.
denoisers["optimal"] = EmpiricalDenoiser().fit(X)
table = error_curve(denoisers, held_out, sigmas[:6], against="clean")
fig, ax = plt.subplots(figsize=(4.7, 3.8), layout="constrained")
ErrorCurveDisplay.from_predictions(table, ax=ax)
ax.set_title("From the clean image, held-out digits", fontsize="medium")
plt.show()

# %%
print(table)

# %%
# At the lowest noise level every patch identifies the training image it came
# from; at the highest level none contains any information. At both ends all
# denoisers agree with the optimal one. They differ in between, as trained
# networks do (Niedoba et al., 2025). A large distance from the optimal
# denoiser is not a disadvantage: on held-out digits the optimal denoiser has
# the largest error at low noise levels, because it returns the nearest
# training image. Small windows find similar patches more easily and err less.
# At high noise levels large windows err less.
