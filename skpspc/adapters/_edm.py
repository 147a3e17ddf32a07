"""Denoisers as networks of EDM."""

from typing import Any

import torch

from ..denoisers.base import Denoiser
from ._denoised import Denoised


def as_edm(model: Denoiser) -> "_EDM":
    """Return a denoiser as a network of EDM, ``net(x, sigma, class_labels)``.

    The module takes the place of ``EDMPrecond`` in the samplers of Karras et al.

    Parameters
    ----------
    model : Denoiser
        Fitted denoiser.

    Returns
    -------
    torch.nn.Module
        ``net(x, sigma, class_labels=None, guidance=1.0)`` returns clean images of the dtype of x,
        for x on [-1, 1]. ``class_labels`` are one-hot rows (n, ``label_dim``) in the order of
        ``model.classes_``; a row of zeros is any class. The attributes are ``img_channels``,
        ``img_resolution``, ``label_dim``, ``sigma_min`` (0), ``sigma_max`` (infinity) and
        ``round_sigma``.

    Raises
    ------
    TypeError
        If model is no denoiser.
    ValueError
        If the images are not square.

    References
    ----------
    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    NeurIPS 2022.

    Examples
    --------
    >>> import torch
    >>> from skpspc import EmpiricalDenoiser
    >>> from skpspc.adapters import as_edm
    >>> X, y = torch.tensor([[[[-1.0]]], [[[1.0]]]]), ["a", "b"]
    >>> net = as_edm(EmpiricalDenoiser().fit(X, y))
    >>> net(torch.zeros(1, 1, 1, 1), torch.tensor(1.0)).item()
    0.0
    >>> net(torch.zeros(1, 1, 1, 1), torch.tensor(1.0), torch.eye(2)[:1]).item()
    -1.0
    """
    return _EDM(model)


class _EDM(torch.nn.Module):
    """A denoiser as a network of EDM."""

    sigma_min = 0.0
    sigma_max = float("inf")
    use_fp16 = False

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.denoised = Denoised(model)
        channels, height, width = self.denoised.image_shape
        if height != width:
            raise ValueError(
                f"EDM's samplers draw square images, and these have {height} x {width} pixels; "
                "use as_kdiffusion, which takes any shape."
            )
        self.img_channels: int = channels
        self.img_resolution: int = height
        self.label_dim: int = self.denoised.n_classes

    def forward(
        self,
        x: torch.Tensor,
        sigma: Any,
        class_labels: torch.Tensor | None = None,
        force_fp32: bool = False,
        guidance: float = 1.0,
    ) -> torch.Tensor:
        """Return clean images; ``force_fp32`` of EDM's networks has no effect."""
        return self.denoised.of_classes(x, sigma, self._codes(class_labels), guidance)

    def round_sigma(self, sigma: Any) -> torch.Tensor:
        """Return noise levels as a tensor, unchanged: every noise level is allowed."""
        return torch.as_tensor(sigma)

    def _codes(self, labels):
        """Return the indices of one-hot rows; a row of zeros has the index ``label_dim``."""
        if labels is None:
            return None
        if not self.label_dim:
            if labels.shape[-1]:
                raise ValueError("the denoiser has no classes; fit it with labels, or pass None.")
            return None
        labels = labels.reshape(-1, labels.shape[-1])
        is_one = labels == 1
        if labels.shape[1] != self.label_dim or not (
            ((labels == 0) | is_one).all() and (is_one.sum(1) <= 1).all()
        ):
            raise ValueError(
                f"class_labels must be one-hot rows of {self.label_dim} numbers, or rows of zeros "
                f"for any class; got shape {tuple(labels.shape)}."
            )
        return torch.where(is_one.any(1), labels.argmax(1), self.label_dim)
