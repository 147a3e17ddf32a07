"""
Choose the patch size with GridSearchCV
=======================================

The search finds the patch size with the least error on held-out digits. The
figure shows the error at each noise level for patches of 1, 2, 4 and 8 pixels:
no size is best at all noise levels.
"""

# %%
# Search over three sizes
# -----------------------
# The score of a denoiser is minus its mean squared error on noisy images, so
# higher is better. It averages six noise levels: 0.1, 0.2, 0.4, 0.8, 1.6 and
# 3.2. Every candidate gets the same noise. A patch of 8 x 8 pixels is the
# whole digit: PSPC is then the optimal denoiser of the training set.

# sphinx_gallery_thumbnail_axes = [0]

import matplotlib.pyplot as plt
import numpy as np
from sklearn.model_selection import GridSearchCV, KFold

from skpspc import PSPCDenoiser
from skpspc.datasets import load_digits_images

X = load_digits_images().images[::2]  # half of the digits, for speed
sizes = [2, 4, 8]
search = GridSearchCV(PSPCDenoiser(), {"patch_size": sizes}).fit(X)


def fold_scores(search):
    """Scores of every size in every fold, (size, fold)."""
    folds = range(search.n_splits_)
    names = [f"split{fold}_test_score" for fold in folds]
    return np.stack([search.cv_results_[name] for name in names], axis=1)


def show(search):
    print(f"best: patch_size={search.best_params_['patch_size']}")
    for size, scores in zip(sizes, fold_scores(search), strict=True):
        print(f"  patch_size={size}: {scores.mean():.4f} +- ", end="")
        print(f"{scores.std():.4f} over {len(scores)} folds")


show(search)

# %%
# Repeat with other noise and other folds
# ---------------------------------------
folds = KFold(3, shuffle=True, random_state=1)
repeat = GridSearchCV(
    PSPCDenoiser(random_state=1), {"patch_size": sizes}, cv=folds
).fit(X)
show(repeat)

# %%
# Within a fold all sizes see the same noisy images, so differences within
# folds count:
scores = np.concatenate([fold_scores(search), fold_scores(repeat)], axis=1)
for other, row in ((2, 0), (8, 2)):
    gain = scores[1] - scores[row]
    print(f"size 4 beats size {other} in {(gain > 0).sum()} ", end="")
    print(f"of {len(gain)} folds, by {gain.min():.4f} to {gain.max():.4f}")

# %%
# Error at each noise level
# -------------------------
# One fifth of the digits is held out.
held_out = np.arange(len(X)) % 5 == 0
sigmas = np.geomspace(0.05, 3.2, 7)
all_sizes = [1, *sizes]
models = [PSPCDenoiser(size).fit(X[~held_out]) for size in all_sizes]
error = np.array(
    [[-m.score(X[held_out], sigmas=sigma) for sigma in sigmas] for m in models]
)
print("sigma     " + "".join(f"{sigma:8.2f}" for sigma in sigmas))
for size, row in zip(all_sizes, error, strict=True):
    print(f"size {size}    " + "".join(f"{value:8.4f}" for value in row))
print("best size " + "".join(f"{all_sizes[k]:8d}" for k in error.argmin(0)))

fig, ax = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
for size, row, marker in zip(all_sizes, error, "os^D", strict=True):
    ax.loglog(sigmas, row, marker=marker, label=f"{size} x {size} pixels")
ax.loglog(sigmas, sigmas**2, ":", color="0.5", label="noisy image")
ax.set(
    xlabel=r"noise level $\sigma$",
    ylabel="mean squared error, held-out digits",
    ylim=(error.min() / 1.5, 1.5),
)
ax.legend(title="patch size", frameon=False)
plt.show()

# %%
# Calibrate the patch size
# ------------------------
# ``patch_size="calibrated"`` chooses a size for each noise level during
# ``fit``, on held-out training images. Errors averaged over the noise levels:
calibrated = PSPCDenoiser(patch_size="calibrated").fit(X[~held_out])
for size, row in zip(all_sizes, error, strict=True):
    print(f"size {size}:     {row.mean():.4f}")
mean_error = -calibrated.score(X[held_out], sigmas=sigmas)
print(f"calibrated: {mean_error:.4f}, with the sizes")
schedule = calibrated.patch_schedule_
for sigma, size in zip(schedule.sigmas, schedule.sizes, strict=True):
    print(f"  {size} at sigma {sigma:.2f}")

# %%
# At low noise levels small patches have the least error: similar small patches
# are in the training set, similar whole digits are not. At high noise levels
# only large patches separate signal from noise. Size 4 has the best average
# because it is never far from the best size. The calibrated sizes grow with
# the noise level and have a smaller error than any fixed size.
