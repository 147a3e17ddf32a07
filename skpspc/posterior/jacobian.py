r"""How an answer moves with the noisy image: derivatives of posterior means.

Through a window of query precisions pi and weights w, the posterior mean of coordinate p moves
with coordinate q as

.. math::

    \frac{\partial}{\partial z_q} \sum_i w_i x_{ip}
        = \frac{\pi_q}{\sigma^2} \operatorname{Cov}_w(x_p, x_q),

and the answer with the windows' shares in it.
"""

from dataclasses import replace

import torch

from ..support.memory import rows_that_fit
from .bandwidth import Smoothing
from .weights import window_weights

# Training images that are worked on together.
_CHUNK_ROWS = 4096


def windows_jacobian(z, sigma, windows, pixels):
    """Rows of dD/dz, for denoisers that are posterior means through windows.

    Each window's covariance is found once, whichever of the pixels it answers for.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W), float32 or float64
        Noisy images, as large as those that the windows look at.
    sigma : Tensor of shape (n,), float64
        Noise level of each, positive; inf is allowed.
    windows : Windows
    pixels : Tensor of shape (m,), int64
        Numbers y * W + x of the pixels of the answer.

    Returns
    -------
    Tensor of shape (n, m, C, C, H, W)
        Of a pixel, first the channel of the answer.
    """
    n, channels, height, width = z.shape
    n_pixels = height * width
    answers = (torch.arange(channels, device=z.device)[:, None] * n_pixels + pixels).flatten()
    out = z.new_zeros(n, len(answers), channels * n_pixels)
    for number, rows, share in _answering(windows, answers, channels):
        precision = windows.query[number].expand(z.shape[1:]).flatten().double()
        columns = precision.nonzero().squeeze(1)
        weight = window_weights(z, sigma, windows.source, columns, precision[columns])
        covariance = _covariances(weight, windows.source, answers[rows], columns, z.dtype)
        slope = (precision[columns] / sigma.square()[:, None]).to(z)  # (n, q)
        covariance *= share.to(z)[:, None] * slope[:, None]
        out[:, rows[:, None], columns] += covariance
    out = out.view(n, channels, len(pixels), channels, height, width)
    return out.transpose(1, 2)


def smoothed_jacobian(z, sigma, windows, pixels, gaussian, bandwidth):
    r"""The same where one filter F smooths whole images along their covariance.

    .. math::

        \frac{\partial D}{\partial z} = A + F \, J_C(F (z - \mu)) \, F

    with A the linear part, and J_C the Jacobian through the windows in filtered images; see
    `smoothed_posterior`.

    Parameters
    ----------
    z, windows, pixels
        As in `windows_jacobian`.
    sigma : Tensor of shape (n,), float64
        All alike.
    gaussian : Gaussian
        Mean and covariance of the training set.
    bandwidth : float
        h, in [0, 1].

    Returns
    -------
    Tensor of shape (n, m, C, C, H, W)
    """
    n, channels, height, width = z.shape
    smoothing = Smoothing(gaussian, bandwidth, float(sigma[0]))
    source = smoothing.filtered(windows.source, z.dtype)
    offset = (z.flatten(1).double() - gaussian.mean).to(z.dtype)
    query = smoothing.filter(offset).view(z.shape)
    every = torch.arange(height * width, device=z.device)
    inner = windows_jacobian(query, sigma, replace(windows, source=source), every)
    inner = inner.transpose(1, 2).reshape(n, z[0].numel(), -1)  # (n, D, D)
    first = height * width * torch.arange(channels, device=z.device)
    answers = (first[:, None] + pixels).flatten()
    one = torch.zeros(len(answers), z[0].numel(), dtype=z.dtype, device=z.device)
    one[torch.arange(len(answers), device=z.device), answers] = 1
    rows = smoothing.linear(one) + smoothing.filter(smoothing.filter(one) @ inner)
    return rows.view(n, channels, len(pixels), *z.shape[1:]).transpose(1, 2)


def _answering(windows, answers, channels):
    """Windows with a share in some coordinates: number, which of them, and the shares (r,)."""
    share = windows.share
    if share is None:  # one window for each pixel or coordinate, which answers for it alone
        own = answers % len(windows.query)
        for number in own.unique().tolist():
            rows = (own == number).nonzero().squeeze(1)
            yield number, rows, torch.ones_like(rows, dtype=torch.float64)
        return
    for number, part in enumerate(share):
        part = part.expand(channels, *part.shape[1:]).flatten()[answers]
        rows = part.nonzero().squeeze(1)
        if len(rows):
            yield number, rows, part[rows]


def _covariances(weight, training_set, rows, columns, dtype):
    """Covariances (n, r, q) of the training images, under weights (n, N), in two sets of places.

    Deviations are taken from the image of the largest weight: where one image is nearly all of
    a posterior, nothing cancels.
    """
    n, n_used = len(weight), len(rows) + len(columns)
    places = torch.cat([rows, columns])
    first = training_set.stored(weight.argmax(1)).flatten(1)[:, places]
    centre = training_set.to_compute(first, dtype)
    first = centre.new_zeros(n, n_used)
    second = centre.new_zeros(n, len(rows), len(columns))
    row_bytes = training_set.n_values + 3 * centre.element_size() * n_used
    n_rows = rows_that_fit(row_bytes, _CHUNK_ROWS, what="One training image")
    # Weights that are lost beside the others, all of them together. The largest does not hide
    # any: it is that of the centre, which does not deviate.
    rounding = torch.finfo(torch.float64).eps / weight.shape[1]
    others = weight.scatter(1, weight.argmax(1, keepdim=True), 0.0)
    matters = weight > rounding * others.amax(1, keepdim=True)
    for chunk in training_set.slices(n_rows):
        if not matters[:, chunk].any():
            continue
        x = training_set.to_compute(training_set.stored(chunk).flatten(1)[:, places], dtype)
        for i in range(n):
            some = matters[i, chunk].nonzero().squeeze(1)
            if not len(some):
                continue
            deviation = x[some] - centre[i]
            weighted = weight[i, chunk][some].to(dtype)[:, None] * deviation
            first[i] += weighted.sum(0)
            second[i] += weighted[:, : len(rows)].T @ deviation[:, len(rows) :]
    here, there = first[:, : len(rows)], first[:, len(rows) :]
    return second - here[:, :, None] * there[:, None]
