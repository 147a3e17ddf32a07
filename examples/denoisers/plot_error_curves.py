"""
Error curves: far from the optimum, nearer to the truth
=======================================================

The first picture shows how far analytic denoisers are from the optimal denoiser of the
training set, noise level by noise level, on noisy training images: hardly at both ends, and
much in between. The second shows how far they, and the optimum, are from clean images
that were held out.
"""

# %%
# Against the optimum
# -------------------
# ``error_curve`` gives all denoisers the same noisy images, and a table; ``ErrorCurveDisplay``
# draws it.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import train_test_split

from skpspc import EmpiricalDenoiser, GaussianDenoiser, LocalScoreDenoiser, PSPCDenoiser
from skpspc.datasets import load_digits_images
from skpspc.inspection import ErrorCurveDisplay, error_curve

X, held_out = train_test_split(load_digits_images().images, test_size=300, random_state=0)
denoisers = {
    "Gaussian": GaussianDenoiser().fit(X),
    "local score, 5": LocalScoreDenoiser(patch_size=5).fit(X),
    "PSPC, 3": PSPCDenoiser(patch_size=3).fit(X),
    "PSPC, 5": PSPCDenoiser(patch_size=5).fit(X),
}
sigmas = np.geomspace(0.1, 20, 10)
display = ErrorCurveDisplay.from_estimator(denoisers, X, sigmas, X_train=X)
display.ax_.set_title("From the optimal denoiser, on training images")
plt.show()

# %%
# Against clean images
# --------------------
# With noise levels at which something is left to see.
denoisers["optimal"] = EmpiricalDenoiser().fit(X)
table = error_curve(denoisers, held_out, sigmas[:6], against="clean")
display = ErrorCurveDisplay.from_predictions(table)
display.ax_.set_title("From the clean image, on held-out images")
plt.show()

# %%
# The same as numbers:
print(table)

# %%
# What it means
# -------------
# With little noise every patch finds the one training image that it was cut from, and with much
# noise none can tell anything: at both ends these denoisers agree with the optimum, and what makes
# them different lies in between. Trained networks deviate from the optimum in the same way (Niedoba
# et al., 2025). To deviate is no fault: on images that were held out, it is the optimum that errs
# most where there is little noise, since it answers with the nearest training image, and small
# windows, which find their like more easily, err much less. Only where there is much noise is the
# whole image worth more than its patches.
