"""Which training images an answer is made of, and what it would be without some of them."""

import numbers
from dataclasses import fields, replace

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .._threads import torch_threads
from .._validation import check_noisy_images, check_sigma
from ..posterior.attribution import Attribution, attribution, means_without
from ._names import named_denoiser
from .conditional import ClassConditional


@named_denoiser
class Attributable(ClassConditional):
    """What `BaseDenoiser` knows of the training images behind its answers.

    A subclass whose answer is a mean of training images gives ``_windows(sigma)``, the `Windows`
    at a noise level, a float; ``denoiser._windows(sigma).at(row, column)`` lists those that answer
    for a pixel. One whose windows look at other places too answers itself, by ``_attributed`` and
    ``_mean_without``. Others say in ``_no_windows`` why they do neither.
    """

    _no_windows: str | None = None

    def attribute(self, Z, sigma, y=None, *, top=10, by="pixel"):
        r"""The training images that every pixel of the answer is made of.

        .. math::

            D(z; \sigma)_p = \sum_i s_{ip} x_{ip}, \qquad
            s_{ip} = \frac{\sum_k r_{kp} w_i^k}{\sum_k r_{kp}}, \qquad \sum_i s_{ip} = 1

        with :math:`w^k` the posterior weights in window k and :math:`r_k` its responses (see
        `PosteriorMeanCollection`).

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            0 and inf are allowed.
        y : label or array of shape (n,), default None
            As in :meth:`posterior`.
        top : int, default 10
            How many training images to list for each pixel. What the others have is summed up
            in ``rest``: memory grows with ``top``, not with N times the pixels.
        by : {"pixel", "window"}, default "pixel"
            "window": the posterior weights in every window, one by one.

        Returns
        -------
        Attribution
            Of tensors if Z is one, else of arrays. A flat Z makes no difference to it: images
            have their axes (C, H, W). Numbers of training images count no
            image of weight zero: with weights, ``np.flatnonzero(sample_weight)`` are their rows
            in X.

        Raises
        ------
        ValueError
            As :meth:`posterior`. For denoisers whose answer is no mean of training images;
            the error names the remedy. By window, for noise levels with different windows.

        Notes
        -----
        The training set is read up to twice for every noisy image. The attribution is that of
        the exact posterior, also where the denoiser uses few images (``tol``,
        ``n_neighbors``). In every window images may be left out that weigh 1e-12 together.

        Examples
        --------
        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser(image_shape=(1, 1, 1)).fit([[-1.0], [0.0], [1.0]])
        >>> found = model.attribute([[0.8]], sigma=0.5, top=2)
        >>> found.index.ravel(), found.share.ravel().round(3)
        (array([2, 1]), array([0.768, 0.231]))
        """
        if not isinstance(top, numbers.Integral) or int(top) < 1:
            raise ValueError(f"top must be an int of at least 1, got {top!r}.")
        if by not in ("pixel", "window"):
            raise ValueError(f"by must be 'pixel' or 'window', got {by!r}.")
        z, level, layout = self._asked(Z, sigma)
        parts, order = [], []
        with torch.no_grad(), torch_threads():
            for rows, denoiser, images in self._by_level(level, y):
                some = denoiser._respond(z[rows]), level[rows]
                part = denoiser._attributed(*some, int(top), by == "window")
                parts.append(_renumbered(part, images, len(self.training_set_)))
                order += rows
        if len({part.index.shape[1:] for part in parts}) > 1:
            raise ValueError(
                "by='window' makes one array of the windows of all noisy images, but at these "
                "noise levels there are not equally many; ask for one sigma at a time."
            )
        back = np.argsort(order)

        def gathered(name):
            values = torch.cat([getattr(part, name) for part in parts])[back].to(layout.device)
            return values if layout.is_torch else values.numpy()

        return Attribution(*(gathered(field.name) for field in fields(Attribution)))

    def denoise_without(self, Z, sigma, images, y=None):
        r"""What the answer would be if some images were not in the training set.

        .. math::

            D_{-S}(z; \sigma)_p = \frac{\sum_k r_{kp} \bigl(\sum_i w_i^k x_{ip} -
            \sum_{i \in S} w_i^k x_{ip}\bigr) / \bigl(1 - \sum_{i \in S} w_i^k\bigr)}
            {\sum_k r_{kp}}

        It is exact, as if the denoiser had been fitted without the images S, with the same
        windows. Where next to no weight would be left (under 1e-3, in a window) the sums are
        taken anew over the other images, so that nothing cancels.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
        images : sequence of length m, of int or of sequences of int
            What is left out, in turn: a training image, or several at once. Numbers are those
            of :meth:`attribute`; they count no images of weight zero.
        y : label or array of shape (n,), default None
            As in :meth:`posterior`.

        Returns
        -------
        array or Tensor of shape (m, n, ...)
            One answer like that of :meth:`denoise` for each entry of ``images``. Windows that
            were chosen by the training images (heat maps from "data", neighbourhoods of a
            Wiener filter) stay as they are.

        Raises
        ------
        ValueError
            As :meth:`attribute`; for numbers of no training image, or if none would be left.

        Examples
        --------
        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser().fit([[-1.0], [0.0], [1.0]])
        >>> model.denoise([[0.8]], sigma=0.1), model.denoise_without([[0.8]], 0.1, [2])
        (array([[1.]]), array([[[0.]]]))
        """
        z, level, layout = self._asked(Z, sigma)
        parts, order = [], []
        with torch.no_grad(), torch_threads():
            for rows, denoiser, known in self._by_level(level, y):
                groups = self._groups(images)[:, known]
                if groups.all(1).any():
                    raise ValueError(
                        "images names all training images that there are (of a class), so that "
                        "none would be left; leave fewer out."
                    )
                some = denoiser._respond(z[rows])
                parts.append(denoiser._mean_without(some, level[rows], groups))
                order += rows
        answers = [layout.restore(answer) for answer in torch.cat(parts, 1)[:, np.argsort(order)]]
        return torch.stack(answers) if layout.is_torch else np.stack(answers)

    def _windows(self, sigma):
        """The windows at a noise level, a float.

        Raises
        ------
        ValueError
            If the answer there is no mean of training images at the same place.
        """
        raise self._without_windows(self._no_windows or "{name} does not tell its windows.")

    def _without_windows(self, reason):
        """The error of a denoiser that has none."""
        return ValueError(reason.format(name=type(self).__name__))

    def _attributed(self, z, sigma, top, by_window):
        """The attribution of noisy images of one noise level."""
        return attribution(z, sigma, self._windows(float(sigma[0])), top, by_window)

    def _mean_without(self, z, sigma, groups):
        """Answers (G, n, C, H, W) at one noise level without groups (G, N) of images."""
        return means_without(z, sigma, self._windows(float(sigma[0])), groups)

    def _asked(self, Z, sigma):
        """Noisy images and their noise levels as tensors, and how to give results back."""
        check_is_fitted(self)
        if self._no_windows is not None:
            raise self._without_windows(self._no_windows)
        z, layout = check_noisy_images(self, Z, self._shapes(), self._device)
        return z, check_sigma(sigma, len(z)).to(z.device), layout

    def _by_level(self, sigma, y):
        """Groups of noisy images with one class and one noise level.

        Yields
        ------
        rows : list of int
        denoiser : BaseDenoiser
            That of the class.
        images : Tensor of int64
            Numbers of the training images of the class.
        """
        codes = [None] * len(sigma) if y is None else self._codes(y, len(sigma))
        keys = list(zip(codes, sigma.tolist(), strict=True))
        for key in sorted(set(keys)):
            code, _ = key
            denoiser = self if code is None else self._of_class(code)
            images = torch.arange(len(self.training_set_), device=sigma.device)
            if code is not None:
                images = images[self._labels.rows(code)]
            yield [row for row, other in enumerate(keys) if other == key], denoiser, images

    def _groups(self, images):
        """Which training images each entry names, (m, N) bool."""
        n_images = len(self.training_set_)
        try:
            entries = [np.atleast_1d(entry) for entry in images]
        except (TypeError, ValueError):
            entries = []
        kinds = [entry.ndim == 1 and entry.dtype.kind in "iu" for entry in entries]
        if not (entries and all(kinds)):
            raise ValueError(
                f"images must be a list of int, or of lists of int, and not empty; got {images!r}."
            )
        named = np.concatenate(entries)
        wrong = named[(named < 0) | (named >= n_images)]
        if len(wrong):
            raise ValueError(
                f"images holds {wrong[0]}, and the training images have the numbers 0 to "
                f"{n_images - 1}."
            )
        groups = torch.zeros(len(entries), n_images, dtype=torch.bool, device=self._device)
        for group, entry in zip(groups, entries, strict=True):
            group[torch.from_numpy(entry.astype(np.int64)).to(group.device)] = True
        return groups


def _renumbered(part, images, n_images):
    """An attribution to some of the training images, as one to all of them."""
    index = torch.where(part.index < 0, -1, images[part.index.clamp(min=0)])
    image_share = part.share.new_zeros(len(index), n_images)
    image_share[:, images] = part.image_share.to(image_share)
    return replace(part, index=index, image_share=image_share)
