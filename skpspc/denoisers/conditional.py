"""Denoisers of one class of the training images, and the blend with the denoiser of all."""

import copy
import math
import numbers
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

from .._validation import as_labels, check_finite
from ..posterior import Posterior
from ._names import named_denoiser


@named_denoiser
class ClassConditional(BaseEstimator):
    """What `BaseDenoiser` knows of classes.

    The denoiser of a class is a shallow copy of the estimator that has learnt from the images
    of that class alone, so that kernels, schedules and indexes work as they are. Copies are
    made when a class is first asked for.
    """

    _labels: Any = None  # Labels, where `fit` was given any
    # Of a class's denoiser: the number of training images of all classes.
    _n_whole: int | None = None
    _no_classes = "{name} was fitted without labels; pass fit one label for each image, or no y."

    def denoise(self, Z, sigma, y=None, guidance=1.0):
        r"""The posterior mean D(z; sigma): an estimate of the clean images.

        With labels y and guidance w, the classes' denoisers are blended with that of all
        images,

        .. math::

            D_w(z; \sigma) = D(z; \sigma) + w\,\bigl(D(z; \sigma, y) - D(z; \sigma)\bigr),

        which is linear in the scores too: that of :math:`p(z)^{1 - w} p(z \mid y)^w`, or, up
        to a factor, :math:`p(z)\, p(y \mid z)^w`, at noise level sigma.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
        sigma : float or array of shape (n,), (n, 1) or (n, 1, 1, 1)
        y : label or array of shape (n,), default None
            As in :meth:`posterior`.
        guidance : float, default 1.0
            w: 1 is the class alone, 0 all images; above 1 the class is overstated, and the
            answer may leave the convex hull of the images. (In the paper's notation w - 1.)

        Returns
        -------
        array or Tensor
            Estimates of x0, in the container, layout and float dtype of Z (float32 for uint8
            and half precision). Gradients are not tracked.

        Raises
        ------
        ValueError
            As :meth:`posterior`; for a guidance that is not finite, or one without y.

        References
        ----------
        Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598, Eq. 6.

        Examples
        --------
        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser().fit([[-1.0], [0.0], [1.0]], ["a", "b", "b"])
        >>> model.denoise([[0.5]], sigma=1.0, y="b")
        array([[0.5]])
        >>> model.denoise([[0.5]], sigma=1.0, y=["b"], guidance=2.0).round(3)
        array([[0.733]])
        """
        guidance = check_guidance(guidance, y)
        mean = self.posterior(Z, sigma, y).mean
        if guidance == 1:
            return mean
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, in words
            answer = _blend(self.posterior(Z, sigma).mean, mean, guidance)
        found = torch.as_tensor(answer)
        name = f"the answer with guidance={guidance:g}"
        check_finite(found, found.dtype, name, "pass a smaller guidance")
        return answer

    @property
    def classes_(self):
        """The labels that `fit` was given, each once, sorted."""
        if self._labels is None:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute 'classes_': fit had no labels"
            )
        return self._labels.classes

    def _know(self, labels, y=None):
        """Take the labels of the training images, and forget the classes' denoisers.

        A ``y`` without labels has several columns.
        """
        self._labels = labels
        self.__dict__.pop("_no_classes", None)
        if labels is None and y is not None:
            self._no_classes = (
                "{name} was fitted with a y of several columns, shape "
                f"{tuple(np.shape(y))}, which holds no labels; pass fit one label for each image."
            )
        self._of_classes = {}
        given = {} if labels is None else self.get_params(deep=False)
        self._fitted_with = {name: _as_it_is(value) for name, value in given.items()}

    def _know_more(self, labels, y=None):
        """Append the labels of new images."""
        if (labels is None) != (self._labels is None):
            before, now = ("no", "some") if self._labels is None else ("some", "no")
            raise ValueError(
                f"the training images so far came with {before} labels, and these with {now}; pass "
                "y, one label for each image, in every call or in none."
            )
        self._know(labels if labels is None else self._labels.joined(labels), y)

    def _codes(self, y, n):
        """The classes of n noisy images, a list of int.

        Raises
        ------
        ValueError
            For labels that are not known, or not one for each image.
        """
        if self._labels is None:
            raise ValueError(self._no_classes.format(name=type(self).__name__))
        y = as_labels(y)
        if y.ndim == 0:
            return self._labels.find(y.reshape(1)) * n
        if y.shape not in ((n,), (n, 1)):
            raise ValueError(
                f"y must be one label or one for each image, shape ({n},); got shape {y.shape}."
            )
        return self._labels.find(y.reshape(n))

    def _of_class(self, code):
        """The denoiser of a class."""
        if code not in self._of_classes:
            self._of_classes[code] = self._fitted_on(code)
        denoiser = self._of_classes[code]
        vars(denoiser).update(self.get_params(deep=False))  # they may have been set since
        return denoiser

    def _fitted_on(self, code):
        """A copy that has learnt from the images of one class."""
        images = self.training_set_.subset(self._labels.rows(code))
        denoiser = copy.copy(self)
        # what a fit makes of parameters holds until the next, whenever a class is asked for
        denoiser.__dict__.update(self._fitted_with)
        denoiser._know(None)
        denoiser._n_whole = self._n_whole or len(self.training_set_)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `fit` has said it
                denoiser._keep(images)
                denoiser._resolve()
        except ValueError as error:
            label = self.classes_.tolist()[code]
            raise ValueError(f"class {label!r}, of {len(images)} images: {error}") from error
        return denoiser

    def _posterior_of(self, z, sigma, y):
        """The posterior of noisy images under the images of their classes, or under all."""
        if y is None:
            return self._posterior(z, sigma)
        return Posterior.by_group(
            self._codes(y, len(z)),
            lambda rows, code: self._of_class(code)._posterior(z[rows], sigma[rows]),
        )

    def _conditional_walker(self, y, guidance, n):
        """What a sampler calls on one walk of n images of given classes."""
        guidance = check_guidance(guidance, y)
        if y is None:
            return self._walker()
        conditional = self._walker_by_class(self._codes(y, n))
        if guidance == 1:
            return conditional
        unconditional = self._walker()
        return lambda z, sigma: _blend(unconditional(z, sigma), conditional(z, sigma), guidance)

    def _walker_by_class(self, codes):
        codes = torch.tensor(codes, device=self._device)
        walks = [
            ((codes == code).nonzero().squeeze(1), self._of_class(int(code))._walker())
            for code in codes.unique()
        ]

        def denoise(z, sigma):
            x0 = torch.empty_like(z)
            for rows, walk in walks:
                x0[rows] = walk(z[rows], sigma)
            return x0

        return denoise

    def __getstate__(self):
        state = super().__getstate__().copy()
        if "_of_classes" in state:  # they share the images; sooner made than read
            state["_of_classes"] = {}
        return state


def check_guidance(guidance, y):
    """The weight w of the classes' denoisers, a float.

    Raises
    ------
    ValueError
        If it is no finite number, or there are no classes to weigh.
    """
    is_number = isinstance(guidance, numbers.Real) and not isinstance(guidance, bool)
    if not is_number or not math.isfinite(guidance):
        raise ValueError(
            f"guidance must be a finite number, got {guidance!r}; 1 is the class alone, 0 all "
            "images."
        )
    if y is None and guidance != 1:
        raise ValueError(
            f"guidance={guidance!r} weighs a class against all images; pass y, or leave it out."
        )
    return float(guidance)


def _as_it_is(value):
    """A parameter as it is now, whatever `set_params` of its own does to it later."""
    if type(value) in (list, tuple):
        return type(value)(map(_as_it_is, value))
    return copy.copy(value) if isinstance(value, BaseEstimator) else value


def _blend(unconditional, conditional, guidance):
    return unconditional + guidance * (conditional - unconditional)
