"""How the answer of a denoiser moves with the noisy image."""

import torch
from sklearn.utils.validation import check_is_fitted

from .._threads import torch_threads
from .._validation import (
    check_finite,
    check_noisy_images,
    check_pixels,
    check_sigma,
    check_weights,
)
from ..posterior.jacobian import windows_jacobian
from ..support.memory import rows_that_fit
from ._names import named_denoiser
from .attribution import Attributable


@named_denoiser
class Differentiable(Attributable):
    """What `BaseDenoiser` knows of its derivatives.

    Denoisers that list their windows have them in closed form; others give
    ``_jacobian(z, sigma, pixels)``.
    """

    def jacobian(self, Z, sigma, pixels=None):
        r"""Rows of the Jacobian: how much each input pixel moves some pixels of the answer.

        .. math::

            J_{pq} = \frac{\partial D(z; \sigma)_p}{\partial z_q}
            = \frac{\sum_k r_{kp}\, \pi_{kq} \operatorname{Cov}_{w^k}(x_p, x_q)}
            {\sigma^2 \sum_k r_{kp}}

        for posterior means through windows k, with query precisions :math:`\pi_k`, response
        weights :math:`r_k` and posterior weights :math:`w^k`. It is in closed form: that of the
        `GaussianDenoiser` is its Wiener filter, those of means of denoisers are means. A
        `NetworkDenoiser` differentiates its network.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images. float64 is computed in float64, everything else in float32 (how
            exactly: :ref:`accuracy`).
        sigma : float or array of shape (n,)
            Noise level, in the units of the images.
        pixels : array of int, shape (m, 2), default None
            (row, column) of pixels of the answer; None: all of them, in row-major order, which
            is (C * H * W)^2 numbers for each image.

        Returns
        -------
        array or Tensor of shape (n, m, C, C, H, W)
            ``J[b, a, c, d, i, j]`` is the derivative of channel c of the a-th pixel by channel
            d of pixel (i, j) of the b-th noisy image. In the container and float dtype of Z.

        Raises
        ------
        ValueError
            For pixels that are not in the answer; at sigma = 0, where a posterior mean jumps
            from image to image; where a denoiser has no Jacobian in closed form; and for a
            network through which torch cannot differentiate.

        Notes
        -----
        Where an index answers approximately (``n_neighbors``, ``tol``), this is the Jacobian of
        the exact denoiser.

        Examples
        --------
        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser().fit([[-1.0, -1.0], [1.0, 1.0]])
        >>> model.jacobian([[0.0, 0.0]], sigma=2.0).reshape(2, 2)
        array([[0.25, 0.25],
               [0.25, 0.25]])
        """
        z, sigma, pixels, layout = self._checked_question(Z, sigma, pixels)
        with torch.no_grad(), torch_threads():
            jacobian = check_finite(self._jacobian(z, sigma, pixels), z.dtype, "the Jacobian")
            return layout.restore(jacobian, images=False)

    def sensitivity(self, Z, sigma, pixels=None, sample_weight=None):
        r"""Heat maps: how much each input pixel moves pixels of the answer, over noisy images.

        .. math::

            G_{p}(i, j) = \sum_b v_b \sum_{c, d}
            \Bigl|\frac{\partial D(z_b; \sigma)_{c,p}}{\partial z_{b,d,i,j}}\Bigr|

        over the channels c and d of the answer and of the noisy image, and with :math:`v_b` the
        sample weights, which sum to one: the mean over the noisy images. It is the heat map of
        `FlexibleWindows`.

        Parameters
        ----------
        Z, sigma, pixels
            As in :meth:`jacobian`. Rows of the Jacobian are held for as many pixels at a time
            as fit ``working_memory``.
        sample_weight : array of shape (n,), default None
            Of the noisy images, non-negative; None: all alike.

        Returns
        -------
        array or Tensor of shape (m, H, W), float64

        Raises
        ------
        ValueError
            As :meth:`jacobian`.

        References
        ----------
        Niedoba et al., "Towards a Mechanistic Explanation of Diffusion Model Generalization",
        ICML 2025, arXiv:2411.19339.

        Examples
        --------
        >>> from skpspc import PSPCDenoiser
        >>> from skpspc.datasets import load_digits_images
        >>> X = load_digits_images().images
        >>> heat = PSPCDenoiser(patch_size=3).fit(X).sensitivity(X[:2], 0.5, pixels=[(4, 4)])
        >>> (heat[0] > 0).astype(int)[2:7, 2:7].tolist()
        [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
        >>> int((heat[0] > 0).sum())
        25
        """
        z, sigma, pixels, layout = self._checked_question(Z, sigma, pixels)
        weight = check_weights(sample_weight, z, z.device)
        weight = torch.ones(len(z), dtype=torch.float64).to(z.device) if weight is None else weight
        weight = weight / weight.sum()
        heat = torch.zeros(len(pixels), z[0, 0].numel(), dtype=torch.float64, device=z.device)
        n_rows, n_pixels = self._jacobian_block(z, len(pixels))
        with torch.no_grad(), torch_threads():
            for chunk in range(0, len(pixels), n_pixels):
                some = slice(chunk, chunk + n_pixels)
                for rows in torch.arange(len(z), device=z.device).split(n_rows):
                    part = self._jacobian(z[rows], sigma[rows], pixels[some])
                    moved = part.abs().sum((2, 3)).flatten(2).double()
                    heat[some] += torch.einsum("b,bmp->mp", weight[rows], moved)
        check_finite(heat, z.dtype, "the sensitivity")
        heat = heat.view(len(pixels), *z.shape[2:]).to(layout.device)
        return heat if layout.is_torch else heat.numpy()

    def _checked_question(self, Z, sigma, pixels):
        """Noisy images and levels as tensors, numbers of pixels, and the layout of Z."""
        check_is_fitted(self)
        z, layout = check_noisy_images(self, Z, self._shapes(), self._device)
        sigma = check_sigma(sigma, len(z)).to(z.device)
        return z, sigma, check_pixels(pixels, self._shapes()[-1][-2:]).to(z.device), layout

    def _jacobian_block(self, z, n_pixels):
        """How many noisy images, and how many pixels of their answers, are worked on together."""
        row_bytes = 3 * z.element_size() * z.shape[1] * z[0].numel()
        # a window's covariance serves all of its pixels, so these come first
        together = rows_that_fit(row_bytes, n_pixels, what="A row of the Jacobian")
        return rows_that_fit(row_bytes * together, len(z), what="The Jacobian"), together

    def _jacobian(self, z, sigma, pixels):
        """Rows (n, m, C, C, H, W) of the Jacobian at images (n, C, H, W)."""
        if (sigma == 0).any():
            raise ValueError(
                f"sigma must be positive, got 0: there {type(self).__name__} jumps from image to "
                "image, and has no Jacobian."
            )
        out = z.new_zeros(len(z), len(pixels), z.shape[1], *z.shape[1:])
        for level in sigma.unique().tolist():
            rows = (sigma == level).nonzero().squeeze(1)
            try:
                windows, differentiate = self._differentiated(level)
            except ValueError as error:
                raise ValueError(f"no Jacobian in closed form: {error}") from error
            seen = self._respond(z[rows])
            # patches may be given themselves, of which nothing lies outside
            top, left = (0, 0) if seen.shape == z[rows].shape else windows.corner
            bottom, right = top + seen.shape[2], left + seen.shape[3]
            part = differentiate(seen, sigma[rows], windows, pixels)
            out[rows, ..., top:bottom, left:right] = part
        return out

    def _differentiated(self, sigma):
        """The windows at a noise level, and the kernel that differentiates what they answer."""
        return self._windows(sigma), windows_jacobian
