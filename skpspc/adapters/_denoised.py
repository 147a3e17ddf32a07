"""Denoised images in the units of another library."""

import torch
from sklearn.utils.validation import check_is_fitted

from .._units import warn_if_unusual
from ..denoisers.base import Denoiser
from ..support.training_set import DEFAULT_RANGE


class Denoised:
    """``denoise`` of a fitted denoiser, on images and noise levels of another range.

    Parameters
    ----------
    model : Denoiser
        Fitted denoiser. Without a ``data_range``, its images count as images on [-1, 1]. A later
        fit of the denoiser does not change the adapter.
    library_range : tuple of (low, high)
        Range of the library's images.
    """

    def __init__(self, model, library_range=(-1.0, 1.0)):
        if not isinstance(model, Denoiser):
            raise TypeError(
                f"model must be a denoiser of skpspc, got {type(model).__name__}; fit one, and "
                "pass it."
            )
        check_is_fitted(model)
        self.model = model._now()
        low, high = model.data_range_ or DEFAULT_RANGE
        self.factor = (high - low) / (library_range[1] - library_range[0])
        self.offset = low - self.factor * library_range[0]
        self.is_identity = (self.factor, self.offset) == (1.0, 0.0)
        if not self.is_identity:
            warn_if_unusual(model, "the units of the adapter")

    @property
    def image_shape(self):
        """Shape (C, H, W) of one denoised image."""
        return tuple(self.model._answer_shape)

    @property
    def dtype(self):
        """Float dtype of samples."""
        return self.model._layout.dtype

    @property
    def n_classes(self):
        """Number of fitted classes, 0 without labels."""
        return len(getattr(self.model, "classes_", ()))

    def __call__(self, x, sigma, y=None, guidance=1.0):
        """Return denoised images of the shape and dtype of x.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
            Noisy images of the library.
        sigma : float or Tensor of one or n values
            Noise level, in the library's units.
        y : label or array of n labels, default None
            Classes. None: any class.
        guidance : float, default 1.0
            Weight of the class, see `Denoiser.denoise`.
        """
        sigma = levels(sigma, len(x))
        if self.is_identity:
            return self.model.denoise(x, sigma, y, guidance).to(x.dtype)
        z = self.offset + self.factor * x
        x0 = self.model.denoise(z, self.factor * sigma, y, guidance)
        return ((x0 - self.offset) / self.factor).to(x.dtype)

    def of_classes(self, x, sigma, codes, guidance=1.0):
        """Return denoised images of classes that are indices of ``classes_``.

        ``codes`` is None, or one int or n ints; the index ``n_classes`` stands for any class.
        """
        if codes is None:
            return self(x, sigma)
        codes = self._checked(codes, len(x))
        sigma = levels(sigma, len(x))
        is_any = codes == self.n_classes
        answers, rows = [], []
        for group in (is_any, ~is_any):
            if group.any():
                row = group.nonzero().squeeze(1)
                y = None if group is is_any else self.model.classes_[codes[row].numpy()]
                answers.append(self(x[row], sigma[row], y, 1.0 if y is None else guidance))
                rows.append(row)
        return torch.cat(answers)[torch.cat(rows).argsort()]

    def _checked(self, codes, n):
        """Return class indices as a tensor (n,) of int; raise unless they index classes."""
        codes = torch.as_tensor(codes).detach().cpu().reshape(-1)
        if codes.dtype.is_floating_point or codes.dtype == torch.bool:
            raise ValueError(f"class indices must be ints, got {codes.dtype}.")
        if not self.n_classes:
            raise ValueError(
                f"this {type(self.model).__name__} has no classes; fit it with labels, or pass no "
                "class."
            )
        if len(codes) not in (1, n):
            raise ValueError(f"pass one class index, or {n}, one for each image; got {len(codes)}.")
        outside = codes[(codes < 0) | (codes > self.n_classes)].tolist()
        if outside:
            raise ValueError(
                f"class indices must lie between 0 and {self.n_classes - 1}, positions in "
                f"classes_, or be {self.n_classes} for any class; got {outside[0]}."
            )
        return codes.expand(n)


def levels(sigma, n):
    """Return noise levels, one or n numbers in any shape, as a tensor (n,)."""
    if not isinstance(sigma, torch.Tensor):
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
    if sigma.numel() not in (1, n):
        raise ValueError(f"pass one noise level, or {n}, one for each image; got {sigma.numel()}.")
    return sigma.reshape(-1).expand(n)


def along(values, images):
    """Return one number for each image in a shape that multiplies images (n, ...)."""
    return values.reshape(-1, *(1,) * (images.ndim - 1))
