"""The base of denoisers that learn from training images."""

import copy
import numbers
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator

from .._progress import showing
from .._repr import described
from .._threads import torch_threads
from .._typing import ArrayLike, NoiseLevel
from .._units import check_data_range, check_inside, value_limits
from .._validation import (
    as_labels,
    check_device,
    check_labels,
    check_training_images,
    check_weights,
)
from ..distributed.blocks import Blocks
from ..posterior import Attribution
from ..support import TrainingSet
from ..support.sharded import ShardedImages, on_devices
from ..support.training_set import DEFAULT_RANGE
from .base import Denoiser, fit_context

# Private attributes that a fit sets.
_FITTED = {
    "_class_priors",
    "_image_dtype",
    "_labels",
    "_layout",
    "_learner",
    "_limits",
    "_n_given",
    "_no_labels",
    "_prior",
    "_warned",
}
_HOLDING_IMAGES = (
    "_class_priors",
    "_learner",
    "_prior",
    "denoisers_",
    "training_set_",
    "windows_",
)
# Constraint of ``device`` for denoisers whose training images can be in shards.
DEVICES = [str, torch.device, list, tuple, None]
_LIVE = {"random_state", "sigma", "verbose"}  # parameters read at every call, not at fit

Self = TypeVar("Self", bound="TrainingSetDenoiser")


class TrainingSetDenoiser(Denoiser):
    """Base of denoisers that learn a prior from training images.

    A subclass defines `_learn`; `_check`, if parameters can contradict the training set; and
    `_grown`, if extending a prior is cheaper than learning it again.

    A fit works on a copy of the estimator. One assignment then replaces the estimator's state, so
    that a failed fit changes nothing. `_learner`, a copy with the parameters of the fit, learns
    the priors of the classes. `_learn` may set attributes of the learner; `_attributes` returns
    the public ones.
    """

    # True of a learner after the fit: an index too large for a class then becomes "Flat".
    _learns_subsets = False

    image_shape_: tuple[int, int, int]
    n_features_in_: int
    data_range_: tuple[float, float] | None
    training_set_: TrainingSet
    training_rows_: np.ndarray

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self: Self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn from training images.

        Parameters
        ----------
        X : array, Tensor or dask array of shape (n, C, H, W) or (n, d), or path of a .npy file
            Training images. uint8 images are read on ``data_range``, [-1, 1] by default. Float
            images, float64 included, are used unscaled. Images of other integer types need a
            ``data_range``. X is not copied: do not write to X afterwards. A file, or an array
            mapped to one (``numpy.load(path, mmap_mode="r")``), is read in chunks at every call
            and may be larger than memory. The blocks of a dask array stay on the workers of its
            cluster.
        y : array of shape (n,), default None
            Labels of any sortable type, for :meth:`denoise` and :meth:`sample` of a class. A y
            with several columns, as regressors take, holds no labels. A one-hot y raises.
        sample_weight : array of shape (n,), default None
            Prior probability of each image, up to a factor; non-negative. None: equal.

        Returns
        -------
        self
            The fitted denoiser.

        Raises
        ------
        ValueError
            If X holds NaN, infinity, masked values or no images; if the largest magnitude of
            floats is out of range (float32: 1e-16 to 1e16, float64: 1e-60 to 1e60); if shapes,
            labels or weights do not match X; if labels are missing (NaN, None) or one-hot; if the
            file of X is damaged. Later calls raise it if that file was cut short or written to.
            For a dask array: if no client is connected, or if the denoiser needs all images in one
            place.
        RuntimeError
            For a dask array: if the cluster has no workers, or workers with another version of this
            package or of Python.
        MemoryError
            If X is mapped to a file, and a copy larger than ``working_memory`` is needed: for an
            array that is not C-contiguous or of another dtype than uint8, float32 and float64, or
            for images of weight zero.

        Notes
        -----
        The images of a class are copied when the class is first used, unless they are adjacent in
        X. Sort X by class to save this memory.
        """
        new = self._unfitted()
        images, new._layout = check_training_images(new, X, reset=True)
        new._take_units(images)
        device = check_device(new.device, images)
        if new._in_shards():  # each device gets its own part
            device = images.device
        weight = check_weights(sample_weight, images, device)
        new._take_labels(check_labels(y, len(images), weight), y)
        new._take_weights(weight, len(images))
        training_set = new._training_set(images.to(device), weight)
        learner = new._with_copied_parameters()
        with torch_threads(), showing(self.verbose):
            learner._check(training_set)
            new._hold(learner, learner._learn(training_set), training_set)
        self.__dict__ = new.__dict__
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self: Self, X: ArrayLike, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Add training images.

        The current parameters of the estimator apply to all images. ``image_shape``,
        ``data_range`` and ``device`` keep their values of the first call.

        Parameters
        ----------
        X : array, Tensor or dask array of shape (n, C, H, W) or (n, d), or path of a .npy file
            New training images, of the image shape and dtype of the first call. Denoisers that keep
            images copy the earlier and the new images to one array, and raise for a dask array.
            `GaussianDenoiser` accepts a dask array if it keeps sums.
        y : array of shape (n,), default None
            Labels of the new images. Pass labels in every call or in none. Classes may be new.
        sample_weight : array of shape (n,), default None
            Weights of the new images, on the scale of the earlier weights. None: 1 for each.

        Returns
        -------
        self
            The fitted denoiser.

        Raises
        ------
        ValueError
            For the reasons that :meth:`fit` lists; if X has another image shape or dtype than the
            first call; if only some calls pass labels.
        MemoryError
            If images are mapped to a file, and a copy of all is larger than ``working_memory``.
        """
        if not hasattr(self, "image_shape_"):
            return self.fit(X, y, sample_weight)
        new = copy.copy(self)
        images, _ = check_training_images(new, X, reset=False)
        if images.dtype != self._image_dtype:
            raise ValueError(
                f"X has dtype {images.dtype}, but the training set has {self._image_dtype}; "
                "convert X first."
            )
        check_inside(images, self.data_range_)
        weight = check_weights(sample_weight, images, self._device)
        new._take_more_labels(check_labels(y, len(images), weight), y)
        new._take_more_weights(weight, len(images))
        added = self._training_set(images.to(self._device), weight)
        low, high = value_limits(images, self.data_range_)
        new._limits = min(low, self._limits[0]), max(high, self._limits[1])
        learner = new._with_copied_parameters()
        training_set = self._kept_images()
        with torch_threads(), showing(self.verbose):
            if training_set is None or _parameters_agree(learner, self._learner):
                prior, training_set = learner._grown(self._prior, training_set, added)
            else:
                prior, training_set = TrainingSetDenoiser._grown(learner, None, training_set, added)
            new._hold(learner, prior, training_set)
        self.__dict__ = new.__dict__
        return self

    def _unfitted(self):
        """Return a copy without fitted attributes."""
        new = copy.copy(self)
        for name in list(vars(new)):
            if name in _FITTED or (name.endswith("_") and not name.startswith("_")):
                delattr(new, name)
        return new

    def _with_copied_parameters(self):
        """Return a copy with copied parameters, and without what holds training images."""
        learner = copy.copy(self)
        for name in _HOLDING_IMAGES:
            learner.__dict__.pop(name, None)
        learner.__dict__.update({k: _copied(v) for k, v in self.get_params(deep=False).items()})
        return learner

    def _take_units(self, images):
        """Set shape, dtype, data range and value limits of the training images."""
        self.image_shape_ = tuple(images.shape[1:])
        self._image_dtype = images.dtype
        self.data_range_ = check_data_range(self.data_range, images.dtype)
        check_inside(images, self.data_range_)
        self._limits = value_limits(images, self.data_range_)
        self._warned: set[str] = set()

    def _training_set(self, images, weight):
        """Return a `TrainingSet` of images and weights on the data range."""
        data_range = self.data_range_ or DEFAULT_RANGE
        if isinstance(images, Blocks) and self._in_shards():
            raise ValueError(
                f"device={self.device!r} is a list, but the images of a dask array stay on the "
                "workers; leave device at None, or pass X.compute()."
            )
        if isinstance(images, ShardedImages):
            return images.training_set(weight, data_range)
        training_set = TrainingSet(images, weight, data_range)
        return on_devices(training_set, self.device) if self._in_shards() else training_set

    def _in_shards(self):
        """Return True if ``device`` is a list of several devices."""
        return isinstance(self.device, (list, tuple)) and len(self.device) > 1

    def _check(self, training_set):
        """Raise if parameters contradict each other or the training set."""

    def _learn(self, training_set):
        """Return the prior of a training set: all images, or one class.

        Parameters that are too large for the training set are clipped.
        """
        raise NotImplementedError

    def _grown(self, prior, training_set, added):
        """Return the prior and the training set extended by the images ``added``.

        ``training_set`` is None, before and after, if only sums over the images are kept.
        """
        whole = training_set.extended(added.images, added.sample_weight)
        self._check(whole)
        return self._learn(whole), whole

    def _hold(self, learner, prior, training_set):
        """Set the learner, the prior, the training set and the public fitted attributes."""
        learner._learns_subsets = True
        self._learner, self._prior, self._class_priors = learner, prior, {}
        self.training_set_ = training_set
        self.__dict__.update(learner._attributes(prior))

    def _attributes(self, prior):
        """Return public fitted attributes of a prior, a dict."""
        return {}

    def _kept_images(self):
        """Return the training set, or None if only sums over it are kept."""
        return getattr(self, "training_set_", None)

    # ------------------------------------------------------------------------------- classes

    @property
    def classes_(self) -> np.ndarray:
        """Distinct labels of the training images, sorted."""
        if getattr(self, "_labels", None) is None:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute 'classes_': pass labels to fit"
            )
        return self._labels.classes

    def _take_weights(self, weight, n):
        """Set the number of images in X, and the rows of X with positive weight."""
        used = np.arange(n) if weight is None else np.flatnonzero(weight.cpu().numpy())
        self.training_rows_, self._n_given = used, n

    def _take_more_weights(self, weight, n):
        """Append the rows of new images with positive weight."""
        used, n_given = self.training_rows_, self._n_given
        self._take_weights(weight, n)
        self.training_rows_ = np.append(used, n_given + self.training_rows_)
        self._n_given += n_given

    def _take_labels(self, labels, y):
        """Set the labels, and the error without them; a ``y`` of several columns has no labels."""
        self._labels = labels
        how, remedy = "without labels", "one label for each image, or no y."
        if labels is None and y is not None:
            how = f"with a y of several columns, shape {tuple(np.shape(y))}, which holds no labels"
            remedy = "one label for each image."
        self._no_labels = f"{type(self).__name__} was fitted {how}; pass fit {remedy}"

    def _take_more_labels(self, labels, y):
        """Append the labels of new images."""
        if (labels is None) != (self._labels is None):
            before, now = ("no labels", "labels") if self._labels is None else ("labels", "none")
            raise ValueError(
                f"earlier training images have {before}, but the new images have {now}; pass y, "
                "one label for each image, in every call or in none."
            )
        self._take_labels(labels if labels is None else self._labels.joined(labels), y)

    def _codes(self, y, n):
        """Return the classes of n noisy images, a list of int, from one label or n labels."""
        if self._labels is None:
            raise ValueError(self._no_labels)
        y = as_labels(y)
        if y.ndim == 0:
            return self._labels.find(y.reshape(1)) * n
        if y.shape not in ((n,), (n, 1)):
            raise ValueError(
                f"y must be one label or one for each image, shape ({n},); got shape {y.shape}."
            )
        return self._labels.find(y.reshape(n))

    def _prior_of(self, code=None):
        """Return the prior of a class, learnt at its first use, or of all training images."""
        if code is None:
            return self._prior
        if code not in self._class_priors:
            self.training_set_.check_unchanged()
            images = self.training_set_.subset(self._labels.rows(code))
            try:
                prior = self._learner._learn(images)
            except ValueError as error:
                label = self.classes_.tolist()[code]
                raise ValueError(f"class {label!r}, of {len(images)} images: {error}") from error
            self._class_priors.setdefault(code, prior)  # another thread may have learnt it too
        return self._class_priors[code]

    def _prior_on(self, training_set):
        """Return the prior of another training set, with the parameters of the fit."""
        return self._learner._learn(training_set)

    def __getstate__(self):
        state = super().__getstate__().copy()
        if "_class_priors" in state:  # cheaper to learn again than to read
            state["_class_priors"] = {}
        return state

    # ---------------------------------------------------------------------------- attribution

    def attribute(
        self,
        Z: ArrayLike,
        sigma: NoiseLevel,
        y: ArrayLike | None = None,
        *,
        top: int = 10,
        by: Literal["pixel", "window"] = "pixel",
    ) -> Attribution:
        r"""Return the weights of the training images in every pixel of the posterior mean.

        .. math::

            D(z; \sigma)_p = \sum_i s_{ip} x_{ip}, \qquad
            s_{ip} = \frac{\sum_k r_{kp} w_i^k}{\sum_k r_{kp}}, \qquad \sum_i s_{ip} = 1

        with :math:`w^k` the posterior weights in window k and :math:`r_k` the response weights of
        the window (see `PosteriorMeanCollection`). :math:`s_{ip}` is the share of image i in
        pixel p.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            Noise level. 0 and inf are allowed.
        y : label or array of shape (n,), default None
            Class of all noisy images, or one class for each. None: any class.
        top : int, default 10
            Number of training images listed for each pixel. ``rest`` is the sum of the other
            shares. Memory grows with ``top``, not with N times the number of pixels.
        by : {"pixel", "window"}, default "pixel"
            "pixel": shares in every pixel. "window": posterior weights in every window.

        Returns
        -------
        Attribution
            Fields are tensors if Z is a tensor, otherwise arrays. Images have axes (C, H, W), also
            for a flat Z. Training images are numbered by their rows in X (after `partial_fit`, in
            all X so far, stacked).

        Raises
        ------
        ValueError
            For the reasons that :meth:`posterior` lists; if the denoised image is not a mean of
            training images; with ``by="window"``, if noise levels have different numbers of
            windows.

        Notes
        -----
        The training set is read up to twice for every noisy image. On a cluster, ``image_share``
        travels to the client, so that traffic grows with N. The posterior is exact, also
        where the denoiser uses few images (``tol``, ``n_neighbors``). In every window, images with
        a total weight of up to 1e-12 may be left out.

        Examples
        --------
        The image 1.0 has 77% of the weight, and the image 0.0 has 23%:

        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser().fit([[-1.0], [0.0], [1.0]])
        >>> attribution = model.attribute([[0.8]], sigma=0.5, top=2)
        >>> attribution.index.ravel(), attribution.share.ravel().round(3)
        (array([2, 1]), array([0.768, 0.231]))
        """
        if not isinstance(top, numbers.Integral) or int(top) < 1:
            raise ValueError(f"top must be an int of at least 1, got {top!r}.")
        if by not in ("pixel", "window"):
            raise ValueError(f"by must be 'pixel' or 'window', got {by!r}.")
        self = self._now()
        z, sigma, layout = self._checked(Z, sigma)
        attributions, order = [], []
        with torch.no_grad(), torch_threads(), showing(self.verbose):
            for rows, prior, images in self._by_class_and_level(sigma, y):
                attribution = prior.attribution(z[rows], sigma[rows], int(top), by == "window")
                attributions.append(_renumbered(attribution, images, self._n_given))
                order += rows
        if len({attribution.index.shape[1:] for attribution in attributions}) > 1:
            raise ValueError(
                "by='window' returns one array for all noisy images, but these noise levels have "
                "different numbers of windows; pass one sigma at a time."
            )
        back = np.argsort(order)

        def gathered(name):
            values = torch.cat([getattr(group, name) for group in attributions])[back]
            values = values.to(layout.device)
            return values if layout.is_torch else values.numpy()

        return Attribution(*(gathered(field.name) for field in fields(Attribution)))

    @overload
    def denoise_without(
        self,
        Z: torch.Tensor,
        sigma: NoiseLevel,
        images: Iterable[npt.ArrayLike],
        y: ArrayLike | None = None,
    ) -> torch.Tensor: ...
    @overload
    def denoise_without(
        self,
        Z: npt.ArrayLike,
        sigma: NoiseLevel,
        images: Iterable[npt.ArrayLike],
        y: ArrayLike | None = None,
    ) -> np.ndarray: ...
    def denoise_without(self, Z, sigma, images, y=None):
        r"""Return posterior means of the training set without chosen images.

        .. math::

            D_{-S}(z; \sigma)_p = \frac{\sum_k r_{kp} \bigl(\sum_i w_i^k x_{ip} -
            \sum_{i \in S} w_i^k x_{ip}\bigr) / \bigl(1 - \sum_{i \in S} w_i^k\bigr)}
            {\sum_k r_{kp}}

        The result equals that of a denoiser fitted without the images S, with unchanged windows.
        Where all images but S have a weight under 1e-3 in a window, the sums run over those images
        only, which avoids cancellation.

        Parameters
        ----------
        Z : array or Tensor of shape (n, C, H, W) or (n, d)
            Noisy images.
        sigma : float or array of shape (n,)
            Noise level. 0 and inf are allowed.
        images : sequence of length m, of int or of sequences of int
            Training images to leave out. Each entry, one image or several, is left out in turn.
            Images are numbered by their rows in X.
        y : label or array of shape (n,), default None
            Class of all noisy images, or one class for each. None: any class.

        Returns
        -------
        array or Tensor of shape (m, n, ...)
            Result of :meth:`denoise` for each entry of ``images``. Windows that depend on the
            training images (heat maps from "data", neighbourhoods of a Wiener filter) stay
            unchanged.

        Raises
        ------
        ValueError
            For the reasons that :meth:`attribute` lists; if an image is unknown; if no image would
            be left.

        Examples
        --------
        Without the nearest training image, 1.0, the denoised image is the next one, 0.0:

        >>> from skpspc import EmpiricalDenoiser
        >>> model = EmpiricalDenoiser().fit([[-1.0], [0.0], [1.0]])
        >>> model.denoise([[0.8]], sigma=0.1)
        array([[1.]])
        >>> model.denoise_without([[0.8]], sigma=0.1, images=[2])
        array([[[0.]]])
        """
        self = self._now()
        z, sigma, layout = self._checked(Z, sigma)
        means, order = [], []
        with torch.no_grad(), torch_threads():
            for rows, prior, numbers_in_X in self._by_class_and_level(sigma, y):
                groups = self._left_out(images)[:, numbers_in_X]
                if groups.all(1).any():
                    raise ValueError(
                        "images names all training images (of a class), so none would be left; "
                        "leave out fewer."
                    )
                means.append(prior.means_without(z[rows], sigma[rows], groups))
                order += rows
        answers = [layout.restore(answer) for answer in torch.cat(means, 1)[:, np.argsort(order)]]
        return torch.stack(answers) if layout.is_torch else np.stack(answers)

    def _by_class_and_level(self, sigma, y):
        """Yield each group of noisy images with one class and one noise level.

        Yields
        ------
        rows : list of int
            Noisy images of the group.
        prior : BasePrior
        images : Tensor of int64
            Rows of X from which the prior was learnt.
        """
        codes = [None] * len(sigma) if y is None else self._codes(y, len(sigma))
        keys = list(zip(codes, sigma.tolist(), strict=True))
        for key in sorted(set(keys)):
            code, _ = key
            images = torch.from_numpy(self.training_rows_).to(sigma.device)
            if code is not None:
                images = images[self._labels.rows(code)]
            rows = [row for row, other in enumerate(keys) if other == key]
            yield rows, self._prior_of(code), images

    def _left_out(self, images):
        """Return a mask (m, n) of the rows of X in each entry of ``images``."""
        n_images = self._n_given
        try:
            entries = [np.atleast_1d(entry) for entry in images]
        except (TypeError, ValueError):
            entries = []
        kinds = [entry.ndim == 1 and entry.dtype.kind in "iu" for entry in entries]
        if not (entries and all(kinds)):
            raise ValueError(
                f"images must be a non-empty list of int, or of lists of int, got "
                f"{described(images)}."
            )
        rows = np.concatenate(entries)
        wrong = rows[(rows < 0) | (rows >= n_images)]
        if len(wrong):
            raise ValueError(
                f"images holds {wrong[0]}, but training images are numbered from 0 to "
                f"{n_images - 1}."
            )
        groups = torch.zeros(len(entries), n_images, dtype=torch.bool, device=self._device)
        for group, entry in zip(groups, entries, strict=True):
            group[torch.from_numpy(entry.astype(np.int64)).to(group.device)] = True
        return groups


def _copied(value):
    """Return a copy of a parameter, unaffected by later `set_params`."""
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return copy.copy(value) if isinstance(value, BaseEstimator) else value


def _parameters_agree(one, other):
    """Return whether two estimators have equal parameters; copies of an estimator are unequal."""
    theirs = other.get_params(deep=False)
    return all(
        name in _LIVE or value is theirs[name] or np.array_equal(value, theirs[name])
        for name, value in one.get_params(deep=False).items()
    )


def _renumbered(attribution, images, n_given):
    """Return an attribution to rows of X; ``images`` holds the row of each training image."""
    index = torch.where(attribution.index < 0, -1, images[attribution.index.clamp(min=0)])
    image_share = attribution.share.new_zeros(len(index), n_given)
    image_share[:, images] = attribution.image_share.to(image_share)
    return replace(attribution, index=index, image_share=image_share)
