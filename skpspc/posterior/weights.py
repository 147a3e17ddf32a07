r"""Posterior weights as numbers, where they are wanted themselves and not only their mean.

For a window with flat coordinates P, precisions pi and training images of weights v,

.. math::

    w_i(z) = \operatorname{softmax}_i\Bigl(-\frac{1}{2 \sigma^2}
            \sum_{j \in P} \pi_j (z_j - x_{ij})^2 + \log v_i\Bigr)
"""

import torch

from ..support.memory import rows_that_fit
from .posterior import exact_scale, floored_sigma, precision_root

# Training images that are worked on together: their numbers stay in the cache.
_CHUNK_ROWS = 512


def window_weights(z, sigma, training_set, columns, precision=None):
    """Posterior weights of the training images, as seen through one window.

    Differences are taken directly, so that small noise levels lose nothing; training images
    are converted a few hundred at a time, and only the window's coordinates of them.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W) or (n, D), float32 or float64
        Noisy images.
    sigma : Tensor of shape (n,), float64
        Noise level of each; 0 (the nearest image, ties by sample weight) and inf (the sample
        weights) are allowed.
    training_set : TrainingSet
    columns : Tensor of shape (m,), int64
        Which coordinates (c * H + y) * W + x are compared.
    precision : Tensor of shape (m,), default None
        How much each of them counts, non-negative; None: one.

    Returns
    -------
    Tensor of shape (n, N), float64
        Rows with a sum of one.
    """
    scale, factor = exact_scale(precision_root(floored_sigma(sigma, z, training_set)))
    scale = scale.to(z.dtype)
    scaled = z.flatten(1)[:, columns] * scale[:, None]  # (n, m)
    precision = None if precision is None else precision.to(z.dtype)
    weight = z.new_empty(len(z), len(training_set), dtype=torch.float64)
    # the coordinates of the images, and their scaled differences
    row_bytes = training_set.n_values + 3 * z.element_size() * len(columns)
    n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
    for rows in training_set.slices(n_rows):
        x = training_set.to_compute(training_set.stored(rows).flatten(1)[:, columns], z.dtype)
        for i in range(len(z)):
            squared = (scaled[i] - scale[i] * x).square_()
            if precision is not None:
                squared *= precision
            # row by row alike, where a product would round copies of an image differently
            weight[i, rows] = squared.sum(1, dtype=torch.float64)
    weight.mul_(-factor[:, None])
    weight -= weight.amax(1, keepdim=True)
    if training_set.log_weight is not None:
        # added last: it would be lost beside the large logits of a small sigma
        weight += training_set.log_weight
        weight -= weight.amax(1, keepdim=True)
    weight.exp_()
    return weight.div_(weight.sum(1, keepdim=True))
