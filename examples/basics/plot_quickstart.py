"""
Quickstart
==========

Fit, denoise, sample, choose a patch size, and ask which training images made
an answer: each step with its picture, on six small photographs that come with
the package.
"""

# %%
# Training images
# ---------------
# Images are arrays of shape ``(n, channels, height, width)``: NumPy or torch,
# ``uint8`` or floats. These are 1,000 crops of 32 x 32 pixels. 100 further
# crops, from other positions, are held out.

# sphinx_gallery_thumbnail_number = 2

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import GridSearchCV

from skpspc import EmpiricalDenoiser, PSPCDenoiser, denoise_tiled, load
from skpspc.datasets import load_photo_patches
from skpspc.inspection import (
    AttributionDisplay,
    SensitivityDisplay,
    nearest_training_distance,
    show_images,
)

X = load_photo_patches(n_images=1000).images
held_out = load_photo_patches(n_images=100, random_state=1).images
show_images(X[:16])
plt.show()

# %%
# Denoise
# -------
# ``fit`` keeps the training images: nothing is trained. A noisy image is
# ``z = x0 + sigma * noise``. The denoiser compares every patch of it with the
# patches at the same position in the training images, and returns the
# posterior mean of the clean image.
#
# ``sigma`` is a float or one number per image, in the units of the images.
# ``uint8`` images are read on [-1, 1], so ``sigma = 0.3`` is 15 % of the
# range. Answers have the dtype of ``noisy``: float32 is the fast one, float64
# the exact.

model = PSPCDenoiser(patch_size=5).fit(X)

clean = held_out[:4].astype(np.float32) / 127.5 - 1
sigma = 0.3
rng = np.random.default_rng(0)
noisy = clean + sigma * rng.standard_normal(clean.shape, dtype=np.float32)
denoised = model.denoise(noisy, sigma)


def rms(difference):
    """Return the root mean square of each image, (n,)."""
    return np.sqrt(np.square(difference).mean(axis=(1, 2, 3)))


titles = [
    *["clean"] * 4,
    *[f"error {error:.2f}" for error in rms(noisy - clean)],
    *[f"error {error:.2f}" for error in rms(denoised - clean)],
]
rows = np.concatenate([clean, noisy, denoised]).clip(-1, 1)
show_images(rows, titles=titles, n_columns=4)
plt.show()

# %%
# The rows are the clean, the noisy and the denoised images, with root mean
# square errors.

# %%
# Sample
# ------
# A sampler starts from pure noise and calls the denoiser at 18 noise levels,
# from the largest to the smallest. ``PSPCDenoiser()`` takes the patch sizes of
# the paper: small patches at small noise, large ones at large noise.

sampler = PSPCDenoiser().fit(X)
samples = sampler.sample(n=8, random_state=0)
nearest = EmpiricalDenoiser().fit(X).denoise(samples, sigma=0)
show_images(np.concatenate([samples, nearest]), n_columns=8)
plt.show()

# %%
# The upper row shows samples, the lower row the nearest training image of
# each. At ``sigma = 0`` an :class:`~skpspc.EmpiricalDenoiser` returns the
# nearest training image.
#
# Sample *i* depends on ``random_state`` and *i* alone: the first 8 of 1,000
# samples are these 8.

# %%
# Measure whether samples are new
# -------------------------------
# The optimal denoiser of the training set, :class:`~skpspc.EmpiricalDenoiser`,
# copies. PSPC composes new images. The root mean square distance of the
# samples to their nearest training images shows the difference; pixels range
# from -1 to 1.

copies = EmpiricalDenoiser().fit(X).sample(n=8, random_state=0)
for name, images in [("PSPC", samples), ("Empirical", copies)]:
    distance = nearest_training_distance(images, X)
    print(f"{name:>9}: {distance:.3f} to the nearest training image")

# %%
# Choose a patch size
# -------------------
# ``score`` is minus the mean squared error on noisy held-out images, so the
# searches of scikit-learn work.

search = GridSearchCV(PSPCDenoiser(), {"patch_size": [3, 5, 8, 16]}, cv=3)
search.fit(X[::4])
for size, score in zip(
    search.cv_results_["param_patch_size"],
    search.cv_results_["mean_test_score"],
    strict=True,
):
    print(f"patch size {size:2}: mean squared error {-score:.4f}")

# %%
# The search averages over noise levels, and the best size depends on the noise
# level. ``patch_size="calibrated"`` chooses a size per noise level on held-out
# training images while it fits.

calibrated = PSPCDenoiser(patch_size="calibrated").fit(X[::4])
for level in (0.1, 0.3, 1.0, 3.0):
    size = calibrated.patch_schedule_(level)
    print(f"sigma = {level}: patch size {size}")

# %%
# Attribution: which training images made a pixel
# -----------------------------------------------
# Each pixel of an answer is a weighted mean of training pixels.
# :class:`~skpspc.inspection.AttributionDisplay` shows the training patches
# with the largest weights.

fig, ax = plt.subplots(figsize=(4.4, 3.2), layout="constrained")
options = {"pixel": (16, 16), "n_images": 3, "ax": ax}
AttributionDisplay.from_estimator(model, noisy[3:4], sigma, **options)
plt.show()

# %%
# Heat map: which noisy pixels moved a pixel
# ------------------------------------------
# :class:`~skpspc.inspection.SensitivityDisplay` draws the mean absolute
# Jacobian of one pixel of the answer. Patches grow with the noise level, and
# the neighbourhood that matters grows too. A frame holds half of the heat.

SensitivityDisplay.from_estimator(
    sampler,
    held_out,
    sigmas=[0.3, 3.0],
    pixels=[[16, 16]],
    n_images=2,
)
plt.show()

# %%
# Posterior: evidence and effective sample size
# ---------------------------------------------
# ``posterior`` returns the mean together with the log evidence of the noisy
# image, the effective sample size (about how many training images the mean
# averages), and a bound on the error of approximations.

posterior = EmpiricalDenoiser().fit(X).posterior(noisy, 1.0)
print(posterior)
posterior.plot()
plt.show()

# %%
# Save and load a fitted denoiser
# -------------------------------
# ``save`` writes a file without pickle. The file holds the training images,
# unless ``include_data=False``. The page :doc:`/user_guide/saving` compares
# ``save`` with pickle, joblib and skops.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.safetensors"
    model.save(path)
    loaded = load(path)
    size = path.stat().st_size / 1e6
difference = np.abs(loaded.denoise(noisy, sigma) - denoised).max()
print(f"{size:.1f} MB for {X.nbytes / 1e6:.1f} MB of images; ", end="")
print(f"largest difference after loading: {difference}")

# %%
# A training set larger than memory stays on disk: fit on a memory-mapped file,
# ``PSPCDenoiser().fit(np.load("images.npy", mmap_mode="r"))``. The file is
# read in chunks, and a saved denoiser holds a copy of it.
# ``load(path, mmap=True)`` leaves the training images of a saved denoiser on
# disk.

# %%
# Denoise a larger photo
# ----------------------
# `denoise_tiled` cuts a larger photo into overlapping tiles of the size of the
# training images, denoises them, and blends them. Here the training images are
# crops of five other photographs.

others = ["china", "flower", "coffee", "galaxies", "rocket"]
crops = load_photo_patches(n_images=3000, photos=others).images
photo = load_photo_patches(size=128, n_images=1, photos="cat").images[0]
photo = photo.astype(np.float32) / 127.5 - 1
noise = rng.standard_normal(photo.shape, dtype=np.float32)
noisy_photo = photo + sigma * noise
of_crops = PSPCDenoiser(patch_size=4).fit(crops)
denoised_photo = denoise_tiled(of_crops, noisy_photo[None], sigma)[0]
pictures = np.stack([photo, noisy_photo, denoised_photo])
titles = ["clean", *[f"error {e:.2f}" for e in rms(pictures[1:] - photo)]]
show_images(pictures.clip(-1, 1), titles=titles)
plt.show()

# %%
# Gradients: the Jacobian, and autograd
# -------------------------------------
# ``denoise`` of a torch tensor that requires a gradient is differentiable: its
# backward pass is a product with the Jacobian in closed form.

z = torch.from_numpy(noisy[3:4]).requires_grad_()
loss = (model.denoise(z, sigma) ** 2).sum()
loss.backward()
print(f"largest derivative by a noisy pixel: {z.grad.abs().max():.3f}")

# %%
# ``jacobian`` returns derivatives of chosen pixels by all noisy pixels.

jacobian = model.jacobian(noisy[3:4], sigma, pixels=[[16, 16]])
green = jacobian[0, 0, 1, 1]  # output green by input green, (H, W)
largest = np.abs(green).max()
show_images(
    green[None, None],
    titles=[f"derivatives from -{largest:.2f} to {largest:.2f}"],
    data_range=(-largest, largest),
)
plt.show()

# %%
# The picture shows the derivative of one green pixel by all green pixels of
# the noisy image: gray is zero, white is positive.

# %%
# Range 0 to 1
# ------------
# Images on the unit range need the parameter ``data_range``.
#
# ``uint8`` images are read on [-1, 1]. Float images are used unscaled, with
# ``sigma`` in their units. ``data_range=(0, 1)`` reads ``uint8`` images on
# [0, 1] and checks floats against that range: ``sigma`` halves.

halved = PSPCDenoiser(patch_size=5, data_range=(0, 1)).fit(X)
answer = halved.denoise((noisy + 1) / 2, sigma / 2)
difference = np.abs(2 * answer - 1 - denoised).max()
print(f"largest difference between the two ranges: {difference:.1e}")

# %%
# Your own images
# ---------------
# :func:`~skpspc.datasets.load_image_folder`,
# :func:`~skpspc.datasets.load_edm_zip` and :func:`~skpspc.datasets.load_npz`
# read images and labels from files:
#
# .. code-block:: python
#
#    from skpspc.datasets import load_edm_zip
#
#    cifar = load_edm_zip("cifar10-32x32.zip", max_images=5000)
#    model = PSPCDenoiser().fit(cifar.images, cifar.target)
#    horses = model.sample(16, y=cifar.classes.index("horse"))
#
# ``max_images=5000`` spaces the images evenly over the archive, which is often
# sorted by class. Files that are not images are skipped with a warning. Images
# of different sizes raise an error that lists them; ``size=32`` crops and
# resizes them, and ``channels=3`` or ``channels=1`` converts them. An array of
# more than 8 GiB is refused before it is read; ``max_bytes`` raises the limit.

# %%
# Command line
# ------------
#
# .. code-block:: bash
#
#    skpspc sample --data digits --denoiser pspc --patch-size 4 -n 16 \
#        --seed 0 --out samples.png
#    skpspc denoise --data digits --patch-size 4 --sigma 0.5 -n 8 \
#        --out denoised.png
#    skpspc calibrate --data digits --out schedule.json
#
# ``--data`` also takes a folder of images, an ``.npz`` file, or a zip file in
# the layout of EDM. ``calibrate`` writes a patch size per noise level, which
# the other two read with ``--patch-size schedule.json``.

# %%
# Where next?
# -----------
# - :doc:`/which` compares the denoisers in one table.
# - :doc:`/gallery/index` has an example per question.
# - :doc:`/user_guide/index` has a page per topic.
